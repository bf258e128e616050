"""Questions to the server: pictures in, rows out."""

import io
import json
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Sequence
from typing import Any

from PIL import Image

ATTEMPTS = 6
RETRIED = {429, 500, 502, 503, 504}


class ServerError(Exception):
    """The server could not be asked, or refused."""


class Target:
    """A model of a server.

    Args:
        server: its address.
        model: name; the one of `POST /predict` if None.
        version: of the model; the newest if None.
    """

    def __init__(self, server: str, model: str | None = None, version: str | None = None) -> None:
        self._server = server.rstrip("/")
        if urllib.parse.urlsplit(self._server).scheme not in {"http", "https"}:
            raise ServerError(f"{server}: not an address that begins with http:// or https://")
        name = urllib.parse.quote(model, safe="") if model else ""
        about = f"/versions/{urllib.parse.quote(version, safe='')}" if version else ""
        self._path = f"/v2/models/{name}{about}/predict" if name else "/predict"

    def identity(self) -> str:
        """Which files answer; the scores of two versions must not become one table."""
        file = io.BytesIO()
        Image.new("L", (1, 1)).save(file, "PNG")
        answer = self._post(file.getvalue(), "image/png")
        return f"{answer['model_name']} {answer['model_version']} {answer.get('bundle_sha256', '')}"

    def rows(self, pictures: Sequence[bytes]) -> list[dict[str, Any]]:
        """The answer to each picture: class, label, probability, probabilities.

        Raises:
            ServerError: after several attempts.
        """
        boundary = uuid.uuid4().hex
        parts = [
            f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{i}"\r\n\r\n'.encode()
            + data
            + b"\r\n"
            for i, data in enumerate(pictures)
        ]
        body = b"".join(parts) + f"--{boundary}--\r\n".encode()
        answer = self._post(body, f"multipart/form-data; boundary={boundary}")
        rows: list[dict[str, Any]] = answer["predictions"] if len(pictures) > 1 else [answer]
        if len(rows) != len(pictures):
            raise ServerError(f"{len(rows)} answers to {len(pictures)} pictures")
        return rows

    def _post(self, body: bytes, kind: str) -> dict[str, Any]:
        request = urllib.request.Request(self._server + self._path, body, {"Content-Type": kind})
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(0.2 * 2**attempt)
            try:
                with urllib.request.urlopen(request, timeout=120) as response:
                    answer: dict[str, Any] = json.load(response)
                    return answer
            except urllib.error.HTTPError as error:
                problem = f"{self._server}: status {error.code}: {_message(error)}"
                if error.code not in RETRIED:
                    break
            except (OSError, ValueError) as error:  # refused, reset, or an answer that was cut off
                problem = f"{self._server}: {getattr(error, 'reason', error)}"
        raise ServerError(problem)


def _message(error: urllib.error.HTTPError) -> str:
    with error:
        try:
            return str(json.load(error)["error"])
        except (ValueError, KeyError, TypeError):
            return str(error.reason)
