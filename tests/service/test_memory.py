"""What is not needed any more is not kept."""

import gc
import platform
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
import pytest
import uvicorn

from service import memory
from service.app import create_app
from service.dataplane import DataPlane
from service.http.wire import WireProtocol
from service.listener import listen
from service.server import Server
from service.settings import Settings

PROGRAM = """
import gc
from service.memory import give_back

def anonymous():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon")) // 1024

gc.disable()
kept, lost = [], []
for _ in range(4_000):  # every other one is kept, so no end of the heap is free
    kept.append(bytes(600))
    lost.append(bytes(50_000))
lost.append(lost)  # a circle
del lost
before = anonymous()
give_back()
print(before, anonymous(), len(kept))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has malloc_trim")
def test_circles_are_collected_and_holes_in_the_heap_returned(root: Path) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=root, check=True, capture_output=True, text=True)

    before, after, _ = map(int, done.stdout.split())

    assert before > 150  # MiB
    assert after < before / 3


def test_a_server_gives_back_after_requests_and_not_at_rest(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "INTERVAL", 0.05)
    plane = DataPlane(Settings(models=repository, runners=1))
    plane.start()
    listener = listen("127.0.0.1", 0)
    app = create_app(plane=plane)
    http: Any = partial(WireProtocol, app.front)
    server = Server(uvicorn.Config(app, http=http, ws="none", log_config=None), plane, listener)
    thread = threading.Thread(target=server.run)

    begun: list[float] = []

    def note(phase: str, info: dict[str, int]) -> None:
        """Note the whole collections of this server's thread: all that run in the process share the collector."""
        if phase == "start" and info["generation"] == 2 and threading.get_ident() == thread.ident:
            begun.append(time.monotonic())

    def settles_at(count: int) -> bool:
        """Whether there come to be so many, however busy the machine is, and no more while nothing is asked."""
        deadline = time.monotonic() + 60
        while len(begun) < count and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.5)  # ten times the interval
        return len(begun) == count

    gc.callbacks.append(note)
    gc.disable()  # so that whoever collects was asked to
    try:
        thread.start()
        with httpx2.Client(verify=False, base_url=f"http://127.0.0.1:{listener.getsockname()[1]}") as client:
            for asked in (1, 2, 3):
                assert client.get("/v2/health/live").status_code == 200
                assert settles_at(asked), begun
    finally:
        gc.callbacks.remove(note)
        gc.enable()
        server.should_exit = True
        thread.join(30)
        listener.close()
