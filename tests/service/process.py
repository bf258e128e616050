"""The real server as a child process, spoken to over a real socket."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx2

ROOT = Path(__file__).parents[2]
LISTENING = re.compile(r'listening on (http://[^\s"]+)')


# A connection for each request, and no certificates to load for each client.
fresh = httpx2.Client(verify=False, limits=httpx2.Limits(max_keepalive_connections=0), timeout=60)


class Process:
    """`python -m service` on a free port of this machine.

    Args:
        models: the model repository.
        settings: further settings, by name.
    """

    def __init__(self, models: Path, **settings: Any) -> None:
        env = {k: v for k, v in os.environ.items() if not k.startswith("FOLDSERVE_")}
        values = {"models": models, "port": 0, "drain_delay": 0.3, "provider": "cpu"} | settings
        env |= {f"FOLDSERVE_{k.upper()}": str(v) for k, v in values.items()}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "service"], cwd=ROOT, env=env, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
        )
        self.lines: list[str] = []
        self.url = ""
        self._ready = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as stream:
            for raw in stream:
                line = raw.decode()
                self.lines.append(line)
                if found := LISTENING.search(line):
                    self.url = found[1]
                    self._ready.set()
        self._ready.set()

    def wait_ready(self, timeout: float = 60) -> "Process":
        assert self._ready.wait(timeout), self.log
        assert self.url, self.log
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            try:
                if fresh.get(self.url + "/v2/health/ready").status_code == 200:
                    return self
            except httpx2.TransportError:
                pass
            time.sleep(0.02)
        raise AssertionError(f"not ready: {self.log}")

    def signal(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def wait(self, timeout: float = 60) -> int:
        """The exit status, after everything that it logged was read."""
        status = self.process.wait(timeout)
        self._reader.join(timeout)
        return status

    @property
    def log(self) -> str:
        return "".join(self.lines)

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join(10)
