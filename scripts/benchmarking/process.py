"""A server as a child process: started, waited for, measured, ended."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TICKS = os.sysconf("SC_CLK_TCK")


class ServerError(Exception):
    """A server did not start, or does not do what is measured."""


def free_port() -> int:
    """A port of this machine that nobody listens on at this moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@dataclass(frozen=True)
class Memory:
    """MiB of several processes together.

    Attributes:
        rss: resident now; pages that are shared count for everyone.
        pss: the same, each page divided by those who share it.
        peak: the most that each had resident, ever.
    """

    rss: float
    pss: float
    peak: float

    def __str__(self) -> str:
        return f"RSS {self.rss:.1f}, PSS {self.pss:.1f}, peak {self.peak:.1f} MiB"


class Server:
    """A child process that listens on 127.0.0.1.

    Args:
        command: with `{port}` where the port belongs.
        ready: the path that answers 200 when it is ready.
        environment: further variables.
    """

    def __init__(self, command: Sequence[str], ready: str, environment: Mapping[str, str] | None = None) -> None:
        self.port = free_port()
        self._ready = ready
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `kill`)
        clean = {name: value for name, value in os.environ.items() if not name.startswith("FOLDSERVE_")}
        self.process = subprocess.Popen(
            [part.replace("{port}", str(self.port)) for part in command],
            cwd=ROOT,
            env=clean | dict(environment or {}),
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )

    def wait_ready(self, seconds: float = 60) -> "Server":
        """Wait for it.

        Raises:
            ServerError: it ended, or the time is over; the message holds its last lines.
        """
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.process.poll() is None:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
            try:
                connection.request("GET", self._ready)
                if connection.getresponse().status == 200:
                    return self
            except (OSError, http.client.HTTPException):
                pass
            finally:
                connection.close()
            time.sleep(0.02)
        log = self.log
        self.kill()
        raise ServerError(f"the server did not get ready: {log[-2000:]}")

    @property
    def log(self) -> str:
        """What it wrote so far."""
        self._log.seek(0)
        return self._log.read().decode(errors="replace")

    def tree(self) -> list[int]:
        """Its process and all their descendants. Linux only."""
        children: dict[int, list[int]] = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                fields = _stat(int(entry.name))
                if fields:
                    children.setdefault(int(fields[1]), []).append(int(entry.name))
        found = [self.process.pid]
        for pid in found:
            found.extend(children.get(pid, ()))
        return found

    def rss(self) -> float:
        """Resident memory of the tree, in MiB; pages that are shared count for everyone."""
        page = os.sysconf("SC_PAGE_SIZE")
        return sum(int(fields[21]) for pid in self.tree() if (fields := _stat(pid))) * page / 2**20

    def memory(self) -> "Memory":
        """What the tree has in memory."""
        processes = [_memory(pid) for pid in self.tree()]
        return Memory(*(sum(values) / 1024 for values in zip(*processes, strict=True)))

    def cpu(self) -> float:
        """Seconds of processor time of the tree, with what has ended in it."""
        taken = (sum(map(int, fields[11:15])) for pid in self.tree() if (fields := _stat(pid)))
        return sum(taken) / TICKS

    def stop(self, seconds: float = 60) -> int:
        """SIGTERM, and its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.wait(seconds)

    def wait(self, seconds: float = 60) -> int:
        """Its exit status; one that does not end is killed and raises `subprocess.TimeoutExpired`."""
        try:
            return self.process.wait(seconds)
        finally:
            self.kill()

    def kill(self) -> None:
        """End it and its children, if they still run."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self._log.close()


def service(models: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> Server:
    """Our server on a model repository, not yet ready."""
    command = [sys.executable, "-m", "service", "--port", "{port}", "--models", str(models.resolve()), *arguments]
    return Server(command, "/v2/health/ready", environment)


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat after the name, so that state is 0, parent 1; None if it has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def _memory(pid: int) -> tuple[int, int, int]:
    """KiB that a process has resident, its share of them, and the most it ever had; zeros if it has ended."""
    found = {"VmRSS": 0, "Pss": 0, "VmHWM": 0}
    for name in ("status", "smaps_rollup"):
        try:
            text = Path(f"/proc/{pid}/{name}").read_text()
        except OSError:
            continue
        for line in text.splitlines():
            field, _, value = line.partition(":")
            if field in found:
                found[field] = int(value.split()[0])
    return found["VmRSS"], found["Pss"], found["VmHWM"]


def machine_cpu() -> float:
    """Seconds of processor time that the whole machine has spent working."""
    user, nice, system, _, _, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split("\n")[0].split()[1:9])
    return (user + nice + system + irq + softirq + steal) / TICKS
