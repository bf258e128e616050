"""Servers side by side: the same requests, the same moment of the machine, each in its turn."""

import http.client
import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from scripts.benchmarking import requests
from scripts.benchmarking.load import Figures, Load, drive, one_process
from scripts.benchmarking.models import Model, session
from scripts.benchmarking.process import Server, ServerError, machine_cpu, service

WORKS = {"json-1": 1, "json-32": 32, "binary-1": 1, "binary-32": 32, "png-1": 1}
OFFERED = (1.0, 1.4)  # of the closed loop's peak, to find the open loop's
OPEN_CONNECTIONS = 128  # that an open loop may use
DISTINCT = 64  # pictures, so that nothing is answered from a cache of one


@dataclass(frozen=True)
class Contestant:
    """A server, and the path of each kind of request.

    Attributes:
        name: in the tables.
        server: ready.
        paths: by the first part of the work's name.
        protocol: whether binary requests are the protocol's, or nothing but bytes.
    """

    name: str
    server: Server
    paths: dict[str, str]
    protocol: bool


@dataclass(frozen=True)
class Cell:
    """One measurement.

    Attributes:
        round: from 0.
        name: of the contestant.
        work: what was asked.
        connections: of the generator.
        wanted: requests a second in an open loop, 0 in a closed one.
        images: answered a second.
        figures: of the generator.
        cpu_ms: of the server, for each image.
        foreign: share of the machine that neither the server nor the generator took.
    """

    round: int
    name: str
    work: str
    connections: int
    wanted: float
    images: float
    figures: Figures
    cpu_ms: float
    foreign: float


def floor(model: Model, workers: int, name: str = "floor") -> Contestant:
    """Uvicorn and ONNX Runtime, inline (`floor`) or with batching (`floor_batch`), not yet ready."""
    command = [
        sys.executable, "-m", "uvicorn", f"scripts.benchmarking.{name}:app", "--host", "127.0.0.1", "--port", "{port}",
        "--workers", str(workers), "--no-access-log", "--log-level", "warning",
    ]  # fmt: skip
    server = Server(command, "/", {"FLOOR_MODEL": str(model.file)})
    return Contestant(name, server, {"json": "/json", "binary": "/raw", "png": "/png"}, False)


def ours(name: str, model: Model, arguments: Sequence[str]) -> Contestant:
    """The service with these arguments, not yet ready."""
    paths = {"json": model.infer, "binary": model.infer, "png": f"/v2/models/{model.name}/predict"}
    return Contestant(name, service(model.repository, *arguments), paths, True)


def build(model: Model, contestant: Contestant, work: str) -> tuple[bytes, ...]:
    """The requests of a work for a contestant."""
    kind, rows = work.partition("-")[0], WORKS[work]
    images, path = model.images(DISTINCT), contestant.paths[kind]
    parts = [images[i : i + rows] for i in range(0, DISTINCT, rows)]
    if kind == "json":
        return tuple(requests.v2_json(path, model.input, part) for part in parts)
    if kind == "png":
        return tuple(requests.png(path, part[0]) for part in parts)
    if contestant.protocol:
        return tuple(requests.v2_binary(path, model.input, part) for part in parts)
    return tuple(requests.raw(path, part) for part in parts)


def check(model: Model, contestant: Contestant, work: str) -> None:
    """Ask once: a server that answers something else is not measured.

    Raises:
        ServerError: it does.
    """
    request = build(model, contestant, work)[0]
    head, _, body = request.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    connection = http.client.HTTPConnection("127.0.0.1", contestant.server.port, timeout=20)
    connection.request("POST", first.split()[1], body, dict(line.split(": ", 1) for line in lines))
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    if answer.status != 200:
        raise ServerError(f"{contestant.name} answers {work} with {answer.status}: {content[:200]!r}")
    length = answer.getheader("Inference-Header-Content-Length")
    if length is not None:
        found = np.frombuffer(content[int(length) :], np.float32)
    elif content[:1] == b"{":
        document = json.loads(content)
        found = document["outputs"][0]["data"] if "outputs" in document else document["probabilities"]
    else:
        found = np.frombuffer(content, np.float32)
    made = session(model.file)
    (wanted,) = made.run(None, {model.input: model.images(DISTINCT)[: WORKS[work]]})
    if not np.allclose(np.ravel(found), wanted.ravel(), rtol=0, atol=1e-4):
        raise ServerError(f"{contestant.name} answers {work} with something else than ONNX Runtime")


class Contest:
    """Measurements, one at a time, from a generator in a process of its own."""

    def __init__(self, model: Model, contestants: Sequence[Contestant]) -> None:
        self.model = model
        self.contestants = contestants
        self.cells: list[Cell] = []
        self._pool = one_process()
        self._requests: dict[tuple[str, str], tuple[bytes, ...]] = {}

    def prepare(self, works: Sequence[str]) -> None:
        """Wait for the servers, check their answers, build the requests."""
        for contestant in self.contestants:
            contestant.server.wait_ready()
            for work in works:
                check(self.model, contestant, work)
                self._requests[contestant.name, work] = build(self.model, contestant, work)

    def measure(
        self, number: int, contestant: Contestant, work: str, connections: int, *, rate: float, seconds: float
    ) -> Cell:
        """One cell."""
        load = Load(
            contestant.server.port, self._requests[contestant.name, work], connections, rate, seconds, 0.4, number
        )
        server, machine, start = contestant.server.cpu(), machine_cpu(), time.perf_counter()
        figures = self._pool.submit(drive, load).result()
        elapsed = time.perf_counter() - start
        server, machine = contestant.server.cpu() - server, machine_cpu() - machine
        foreign = max(0.0, machine - server - figures.cpu) / elapsed / (os.cpu_count() or 1)
        rows = WORKS[work]
        cell = Cell(
            number, contestant.name, work, connections, rate, figures.rate * rows, figures,
            1000 * server / max(1, figures.sent * rows), foreign,
        )  # fmt: skip
        self.cells.append(cell)
        return cell

    def offer(self, number: int, contestant: Contestant, work: str, *, rate: float, seconds: float) -> Cell:
        """One cell of an open loop."""
        return self.measure(number, contestant, work, OPEN_CONNECTIONS, rate=rate, seconds=seconds)

    def saturate(self, number: int, contestant: Contestant, work: str, *, seconds: float) -> float:
        """Requests a second that a server answers in an open loop that asks for all it can do, or more.

        That is its peak under such a load. What it answers in a closed loop is another figure (docs/decisions/0006).
        """
        closed = self.peak(contestant.name, work, number) / WORKS[work]
        cells = [self.offer(number, contestant, work, rate=share * closed, seconds=seconds) for share in OFFERED]
        return max(cell.figures.rate for cell in cells)

    def in_turn(self, number: int) -> list[Contestant]:
        """The contestants in this round's order."""
        shift = number % len(self.contestants)
        return [*self.contestants[shift:], *self.contestants[:shift]]

    def peak(self, name: str, work: str, number: int | None = None) -> float:
        """Images a second in a closed loop, best over the connections; of one round, or the median of all."""
        rounds: dict[int, float] = {}
        for cell in self.select(name, work, 0):
            rounds[cell.round] = max(rounds.get(cell.round, 0.0), cell.images)
        return rounds[number] if number is not None else statistics.median(rounds.values())

    def select(self, name: str, work: str, wanted: float, connections: int | None = None) -> list[Cell]:
        """Cells of that kind."""
        return [
            cell
            for cell in self.cells
            if (cell.name, cell.work, cell.wanted) == (name, work, wanted)
            and (connections is None or cell.connections == connections)
        ]

    def as_data(self) -> list[dict[str, Any]]:
        """Every cell, for JSON."""
        return [asdict(cell) for cell in self.cells]

    def close(self) -> None:
        """End the generator and the servers."""
        self._pool.shutdown()
        for contestant in self.contestants:
            contestant.server.kill()
