"""Log lines: for people, or one JSON object a line for machines."""

import logging
import sys
from collections.abc import Iterable
from datetime import UTC, datetime

import orjson


class JsonFormatter(logging.Formatter):
    """One object a line: time, level, logger, message, and the traceback if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        } | getattr(record, "fields", {})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return orjson.dumps(line).decode()


class AccessLog:
    """One line for each request."""

    def __init__(self, name: str = "service.access") -> None:
        self._log = logging.getLogger(name)

    def write(
        self,
        method: str,
        headers: Iterable[tuple[bytes, bytes]],
        *,
        route: str,
        target: tuple[str, str | None],
        status: int,
        seconds: float,
    ) -> None:
        """Log a request.

        Args:
            method: of the request.
            headers: of the request, lower-case names.
            route: its template.
            target: the model and version that its path names; empty and None if it names none.
            status: that was answered; 499 if the client left before.
            seconds: from its first byte to its answer.
        """
        known = dict(headers)
        fields = {
            "id": _clean(known.get(b"x-request-id", b"")),
            "trace": _clean(known.get(b"traceparent", b""))[3:35],  # W3C trace context: version-trace-parent-flags
            "method": method,
            "route": route,
            "model": target[0],
            "version": target[1] or "",
            "status": status,
            "ms": round(seconds * 1e3, 3),
        }
        text = " ".join(f"{k}={v}" for k, v in fields.items() if v != "")
        self._log.info("%s", text, extra={"fields": fields})


def _clean(value: bytes) -> str:
    """A client's word, without anything that could pass for another line or field."""
    return "".join(c for c in value[:128].decode("latin-1") if c.isascii() and (c.isalnum() or c in "-_.:"))


def configure(level: str, style: str) -> None:
    """Send every logger of the process to standard error, in one format."""
    handler = logging.StreamHandler(sys.stderr)
    text = logging.Formatter("%(asctime)s %(levelname)-7s %(message)s")
    handler.setFormatter(JsonFormatter() if style == "json" else text)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("uvicorn.error").setLevel("WARNING")  # its start and end are told by ours
