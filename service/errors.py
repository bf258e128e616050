"""What can go wrong, each with the HTTP status that says so."""

EXIT_STARTUP = 3  # the exit status of a start that failed; no use in trying again


class StartupError(Exception):
    """The server cannot start; the message is what its operator reads."""


class LoadError(Exception):
    """One version of a model cannot be served; the message says why."""


class ServiceError(Exception):
    """A request that is answered with `{"error": message}` and `status`."""

    status = 500

    def __init__(self, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.headers = headers or {}


class BadRequestError(ServiceError):
    """The request does not say what the model takes."""

    status = 400


class UnauthorizedError(ServiceError):
    """No key, or a wrong one."""

    status = 401


class ForbiddenError(ServiceError):
    """This server does not offer that."""

    status = 403


class NotFoundError(ServiceError):
    """No such model, version or route."""

    status = 404


class ConflictError(ServiceError):
    """Not in the state that things are in; the message says what to do first."""

    status = 409


class TooLargeError(ServiceError):
    """The body or the picture is over its limit."""

    status = 413


class UnsupportedMediaError(ServiceError):
    """Not a picture of a known format."""

    status = 415


class MissingPartsError(ServiceError):
    """This installation lacks what the request needs; the message says what to install."""

    status = 501


class UnavailableError(ServiceError):
    """Not now: overloaded, timed out, draining or not ready; `Retry-After` says when to come again."""

    status = 503

    def __init__(self, message: str, retry_after: int = 1) -> None:
        super().__init__(message, {"Retry-After": str(retry_after)})
