"""The server's end, new versions and dead workers, all under load: what was accepted is answered."""

import asyncio
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scripts.benchmarking.models import Model, other_weights
from scripts.benchmarking.process import ROOT, Server, service
from scripts.benchmarking.requests import post, v2_binary
from scripts.stressing.client import Callers, Ledger, once
from scripts.stressing.sockets import held_by, is_stopped

KEY = "stress-key"
LOADED = "ready after"  # a worker logs it when it has loaded a model


@contextmanager
def running(model: Model, *arguments: str, **environment: str) -> Iterator[Server]:
    """Our server, ready; killed at the end if it still runs."""
    server = service(model.repository, *arguments, environment=environment)
    try:
        yield server.wait_ready()
    finally:
        server.kill()


def sigterm(model: Model, times: int, arguments: tuple[str, ...]) -> bool:
    """SIGTERM under load, again and again: every accepted request is answered, and the exit status is 0."""
    total, statuses = Ledger(), []
    request = v2_binary(model.infer, model.input, model.images(1))

    async def once_more() -> int:
        with running(model, *arguments) as server:
            _, _, right = await at(server, request)
            callers = Callers(server.port, request, lambda head, body: "same" if body == right else None)

            status: list[int] = []

            async def during() -> None:
                await asyncio.sleep(0.5)
                server.process.send_signal(signal.SIGTERM)
                status.append(await asyncio.to_thread(server.wait))

            total.add(await callers.run(4, 4, during))
            return status[0]

    for _ in range(times):
        statuses.append(asyncio.run(once_more()))
    clean = statuses.count(0)
    print(f"sigterm: {times} times; {total}; exit status 0: {clean} of {times}")
    return clean == times and not total.lost and not total.wrong and set(total.answered) == {200}


async def at(server: Server, request: bytes) -> tuple[int, bytes, bytes]:
    """One answer of this server."""
    return await once(server.port, request)


def swap(model: Model, times: int, arguments: tuple[str, ...]) -> bool:
    """Another version comes and goes under load: every answer is wholly one version's, and says which."""
    folder = model.repository / model.name
    first = model.file.parent
    second = folder / str(int(first.name) + 1)
    with tempfile.TemporaryDirectory() as aside:
        parked = Path(aside) / second.name
        other_weights(model.file, parked / "model.onnx")
        request = v2_binary(model.infer, model.input, model.images(4))
        load = post(f"/v2/repository/models/{model.name}/load", b"", "application/json", Authorization=f"Bearer {KEY}")
        done: list[float] = []

        async def scenario() -> Ledger:
            with running(model, *arguments, FOLDSERVE_ADMIN_KEYS=KEY) as server:

                async def turn(present: bool) -> None:
                    if present:
                        shutil.copytree(parked, second.with_name(".coming"))
                        second.with_name(".coming").rename(second)
                    else:
                        second.rename(second.with_name(".going"))
                        shutil.rmtree(second.with_name(".going"))
                    start = time.perf_counter()
                    status, _, body = await once(server.port, load)
                    done.append(time.perf_counter() - start)
                    if status != 200:
                        raise RuntimeError(f"load answers {status} {body[:200]!r}")

                _, _, old = await at(server, request)
                await turn(True)
                _, _, new = await at(server, request)
                await turn(False)
                if old == new:
                    raise RuntimeError("load did not bring the new version")
                known = {old: "old", new: "new"}
                callers = Callers(server.port, request, lambda head, body: known.get(body), pause=0.001)

                async def during() -> None:
                    for number in range(times):
                        await turn(number % 2 == 0)
                        await asyncio.sleep(0.05)
                    if times % 2:
                        await turn(False)

                return await callers.run(6, 2, during)

        ledger = asyncio.run(scenario())
    slowest = max(done) * 1000
    versions = f"{ledger.bodies['old']:,} by the old, {ledger.bodies['new']:,} by the new version"
    print(f"swap: {times} swaps, each at most {slowest:.0f} ms; {ledger}; {versions}")
    return not ledger.lost and not ledger.wrong and set(ledger.answered) == {200} and len(ledger.bodies) == 2


def has_workers() -> bool:
    """Whether the server knows `--workers`."""
    command = [sys.executable, "-m", "service", "--help"]
    return "--workers" in subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout


def kill_worker(model: Model, times: int, arguments: tuple[str, ...]) -> bool:
    """`kill -9` of a worker under load: the others go on, it is replaced, and only what was in its hands is lost.

    The victim is stopped for a moment before it is killed, so that its connections can be listed. Until the kernel has
    closed them, callers may still send on those that were idle: such a request is in its hands as well.
    """
    if not has_workers():
        print("kill-worker: skipped, the server has no --workers")
        return True
    request = v2_binary(model.infer, model.input, model.images(1))
    most, back, under_way, elsewhere = [0], [0.0], 0, 0

    async def scenario() -> Ledger:
        nonlocal under_way, elsewhere
        with running(model, "--workers", "2", *arguments) as server:
            _, _, right = await at(server, request)
            callers = Callers(server.port, request, lambda head, body: "same" if body == right else None)

            async def during() -> None:
                nonlocal under_way, elsewhere
                for number in range(times):
                    await asyncio.sleep(0.3)
                    victim, loaded = random.Random(number).choice(sorted(serving(server))), server.log.count(LOADED)
                    os.kill(victim, signal.SIGSTOP)
                    while not is_stopped(victim):
                        await asyncio.sleep(0.001)
                    lost, pending = len(callers.ledger.lost_on), set(callers.ledger.pending)
                    theirs = held_by(victim, server.port)
                    os.kill(victim, signal.SIGKILL)
                    start = time.monotonic()
                    while server.log.count(LOADED) == loaded:  # or the next signal would find no other worker alive
                        await asyncio.sleep(0.05)
                        if time.monotonic() - start > 60:
                            raise RuntimeError("the worker was not replaced within 60 s")
                    back.append(time.monotonic() - start)
                    await asyncio.sleep(0.7)
                    gone = callers.ledger.lost_on[lost:]
                    most.append(len(gone))
                    under_way += sum(port in pending for port in gone)
                    elsewhere += sum(port not in theirs for port in gone)

            return await callers.run(6, 2, during)

    ledger = asyncio.run(scenario())
    print(
        f"kill-worker: {times} times; {ledger}; at most {max(most)} lost by one death, in all {under_way} that were "
        f"under way and {ledger.lost.total() - under_way} sent to it before its connections were closed; on other "
        f"connections: {elsewhere}; replaced after at most {max(back):.1f} s"
    )
    return not elsewhere and sum(most) == ledger.lost.total() and not ledger.wrong and set(ledger.answered) == {200}


def serving(server: Server) -> set[int]:
    """The workers: descendants that are no helpers of multiprocessing."""
    found = set()
    for pid in server.tree()[1:]:
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if command and b"resource_tracker" not in command:
            found.add(pid)
    return found
