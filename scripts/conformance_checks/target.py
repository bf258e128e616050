"""The server under test: its address, the model that is asked, and requests that fit it."""

import http.client
import json
import urllib.parse
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
DTYPES: dict[str, Any] = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
}
LENGTH = "Inference-Header-Content-Length"
TIMEOUT = 30  # seconds; a server that does not answer within it fails the check


class TargetError(Exception):
    """The server cannot be tested: it does not answer, or the model is not of a kind that the checks know."""


@dataclass(frozen=True)
class Answer:
    """What came back.

    Attributes:
        status: of HTTP.
        headers: lower-case names.
        body: as sent, perhaps compressed.
    """

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def content(self) -> bytes:
        """The body, decompressed."""
        encoding = self.headers.get("content-encoding", "")
        return zlib.decompress(self.body, {"gzip": 31, "deflate": 15}[encoding]) if encoding else self.body

    def json(self) -> Any:
        """The JSON of the answer: all of it, or what comes before the binary tensors."""
        length = self.headers.get(LENGTH.lower())
        return json.loads(self.content if length is None else self.content[: int(length)])

    def outputs(self) -> dict[str, Array]:
        """The numeric output tensors, from JSON and from the bytes after it, checked for their sizes."""
        length = self.headers.get(LENGTH.lower())
        rest = memoryview(self.content)[int(length) :] if length is not None else memoryview(b"")
        found: dict[str, Array] = {}
        for output in self.json()["outputs"]:
            dtype, shape = DTYPES[output["datatype"]], output["shape"]
            if "data" in output:
                array = np.asarray(output["data"], dtype)
            else:
                size = output["parameters"]["binary_data_size"]
                array = np.frombuffer(rest[:size], np.dtype(dtype).newbyteorder("<"))
                rest = rest[size:]
            found[output["name"]] = array.reshape(shape)
        if len(rest):
            raise ValueError(f"{len(rest)} bytes follow the last output")
        return found

    def __str__(self) -> str:
        text = self.body[:160].decode("utf-8", "backslashreplace")
        return f"{self.status} {text}" if text else f"{self.status} with an empty body"


@dataclass
class Target:
    """A model on a server.

    Attributes:
        url: of the server, without a path.
        model: its name.
        version: the newest that the server lists; empty where it lists none.
        metadata: what the server says of the model.
        headers: sent with every request, such as a key.
        seed: of the inputs.
    """

    url: str
    model: str
    version: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    seed: int = 0

    @classmethod
    def find(cls, url: str, model: str | None = None, headers: Mapping[str, str] | None = None) -> "Target":
        """Ask a server what it serves.

        Args:
            url: of the server.
            model: its name; by default the first that the server lists.
            headers: to send with every request.

        Raises:
            TargetError: no answer, no model, or tensors that the checks cannot fill.
        """
        target = cls(url.rstrip("/"), model or "", headers=dict(headers or {}))
        try:
            if model is None:
                listed = target.exchange("GET", "/v2/models")
                names = listed.json().get("models") if listed.status == 200 else None
                if not names:
                    raise TargetError(f"{url} lists no models ({listed}); name one with --model")
                target.model = names[0]
            answer = target.exchange("GET", target.path())
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise TargetError(f"{url} does not answer: {error}") from error
        if answer.status != 200:
            raise TargetError(f"{target.url}{target.path()} answers {answer}")
        target.metadata = answer.json()
        target.version = max(target.metadata.get("versions") or [""], key=lambda v: int(v) if v.isdigit() else 0)
        unknown = [t["datatype"] for t in target.inputs if t["datatype"] not in DTYPES]
        if not target.inputs or unknown:
            raise TargetError(f"the inputs of model '{target.model}' cannot be filled: {target.inputs}")
        return target

    @property
    def inputs(self) -> list[dict[str, Any]]:
        """Name, datatype and shape of every input."""
        return self.metadata.get("inputs") or []

    @property
    def batched(self) -> bool:
        """Whether the first dimension is a batch of any size."""
        return all(t["shape"] and t["shape"][0] == -1 for t in self.inputs)

    def path(self, rest: str = "", version: str = "") -> str:
        """`/v2/models/{model}[/versions/{version}]` and what follows."""
        name = urllib.parse.quote(self.model, safe="")
        return f"/v2/models/{name}{f'/versions/{version}' if version else ''}{rest}"

    def exchange(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        announce: bool = True,
    ) -> Answer:
        """One request on a connection of its own, with no header but the ones given, `Host` and `Content-Length`.

        Args:
            method: of HTTP.
            path: with its query.
            body: None for none.
            headers: of this request.
            announce: send `Content-Length`; without it the body goes out chunked.
        """
        parts = urllib.parse.urlsplit(self.url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(parts.hostname or "127.0.0.1", parts.port, timeout=TIMEOUT)
        try:
            connection.putrequest(method, path, skip_accept_encoding=True)
            for name, value in (self.headers | dict(headers or {})).items():
                connection.putheader(name, value)
            if body is not None and announce:
                connection.putheader("Content-Length", str(len(body)))
            elif body is not None:
                connection.putheader("Transfer-Encoding", "chunked")
            elif method in ("POST", "PUT", "PATCH") and "Content-Length" not in (headers or {}):
                connection.putheader("Content-Length", "0")
            connection.endheaders()
            if body is not None and announce:
                connection.send(body)
            elif body is not None:
                for start in range(0, len(body), 1000):
                    piece = body[start : start + 1000]
                    connection.send(b"%x\r\n%s\r\n" % (len(piece), piece))
                connection.send(b"0\r\n\r\n")
            response = connection.getresponse()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()

    def arrays(self, rows: int = 1, seed: int = 0) -> dict[str, Array]:
        """Random inputs; unknown dimensions beside the batch are 1."""
        rng = np.random.default_rng([self.seed, seed])
        made: dict[str, Array] = {}
        for tensor in self.inputs:
            first, *others = tensor["shape"]
            shape = [rows if first == -1 else first, *(1 if size == -1 else size for size in others)]
            dtype = DTYPES[tensor["datatype"]]
            high = 256 if dtype is np.uint8 else 2
            integers = rng.integers(0, high, shape)
            is_float = np.issubdtype(dtype, np.floating)
            made[tensor["name"]] = rng.random(shape).astype(dtype) if is_float else integers.astype(dtype)
        return made

    def document(self, arrays: Mapping[str, Array], **more: Any) -> dict[str, Any]:
        """The request as JSON, with flat data."""
        types = {t["name"]: t["datatype"] for t in self.inputs}
        inputs = [
            {"name": name, "shape": list(array.shape), "datatype": types[name], "data": array.ravel().tolist()}
            for name, array in arrays.items()
        ]
        return {"inputs": inputs, **more}

    def binary(
        self, arrays: Mapping[str, Array], parameters: Mapping[str, Any] | None = None, **more: Any
    ) -> tuple[bytes, bytes]:
        """The request as binary tensors: the JSON, and the bytes behind it."""
        document = self.document(arrays, **more)
        for item in document["inputs"]:
            del item["data"]
            item["parameters"] = {"binary_data_size": arrays[item["name"]].nbytes}
        if parameters:
            document["parameters"] = dict(parameters)
        return encode(document), b"".join(array.tobytes() for array in arrays.values())

    def infer(self, body: bytes, headers: Mapping[str, str] | None = None, version: str = "") -> Answer:
        """Post to the model's `/infer`."""
        return self.exchange("POST", self.path("/infer", version), body, headers)

    @cached_property
    def baseline(self) -> dict[str, Array]:
        """What the server answers for `arrays(3)`, asked in the plainest way; the other ways must answer the same.

        Raises:
            ValueError: it does not answer even that.
        """
        answer = self.infer(encode(self.document(self.arrays(3))), JSON)
        if answer.status != 200:
            raise ValueError(f"plain JSON inference answers {answer}")
        return answer.outputs()


JSON = {"Content-Type": "application/json"}


def encode(document: Any) -> bytes:
    """JSON as the clients write it."""
    return json.dumps(document, separators=(",", ":")).encode()
