"""Who may do what: keys, compared in constant time, never in a URL or a log line."""

import hmac
from collections.abc import Iterable, Sequence

from pydantic import SecretStr

from service.errors import ForbiddenError, UnauthorizedError

# Probes and scrapes come without keys, from machines that have none; so does a browser that opens the page.
OPEN = ("/v2/health/live", "/v2/health/ready", "/healthz", "/readyz", "/metrics", "/")
OPEN_BELOW = "/page/"  # the page's own files, the same everywhere


def presented_key(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The key of a request: `Authorization: Bearer <key>`, or `X-API-Key: <key>`; empty if there is none."""
    for name, value in headers:
        if name == b"x-api-key":
            return value.strip()
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            return value[7:].strip()
    return b""


def is_one_of(key: bytes, keys: Sequence[SecretStr]) -> bool:
    """Whether the key is among them; takes the same time whichever it is."""
    matches = [hmac.compare_digest(key, known.get_secret_value().encode()) for known in keys]
    return any(matches)


def check_access(path: str, headers: Iterable[tuple[bytes, bytes]], keys: Sequence[SecretStr]) -> None:
    """Let a request through that has a key, or needs none.

    Args:
        path: of the request.
        headers: of the request, lower-case names.
        keys: that may use the server; any request may if there is none.

    Raises:
        UnauthorizedError: no key, or a wrong one.
    """
    if keys and path not in OPEN and not path.startswith(OPEN_BELOW) and not is_one_of(presented_key(headers), keys):
        raise UnauthorizedError("this server needs a key: Authorization: Bearer <key>", {"WWW-Authenticate": "Bearer"})


def check_admin(headers: Iterable[tuple[bytes, bytes]], keys: Sequence[SecretStr]) -> None:
    """Let a request through that may change what is served.

    Raises:
        ForbiddenError: no admin key is configured, so that nobody may.
        UnauthorizedError: no key, or a wrong one.
    """
    if not keys:
        raise ForbiddenError("This API is restricted: the server was started without FOLDSERVE_ADMIN_KEYS")
    if not is_one_of(presented_key(headers), keys):
        message = "This API is restricted, expecting header 'Authorization: Bearer <admin key>'"
        raise UnauthorizedError(message, {"WWW-Authenticate": "Bearer"})
