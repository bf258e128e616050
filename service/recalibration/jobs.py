"""Recalibrations as processes of their own, followed through files that every worker sees.

A job is a folder `<models>/<name>/.recalibrations/<id>/`: what was asked (`job.json`), the images, the process's log
and its progress (`state.json`). The process holds a lock on `lock` that the system gives back however it ends, so
nobody takes a dead job for a running one. The images are deleted when it has ended.
"""

import fcntl
import importlib.util
import json
import logging
import os
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from service.errors import ConflictError, MissingPartsError, NotFoundError
from service.protocol.tensors import Array

log = logging.getLogger(__name__)

FOLDER = ".recalibrations"
IMAGES, STATE, JOB, LOCK, LOG = "images.npz", "state.json", "job.json", "lock", "log.txt"
KEPT = 20  # ended jobs of one model; older ones are forgotten when a new one begins
PARTS = ("bnfold", "onnx", "onnx_ir", "scripts")
ENDED = ("done", "refused", "failed", "cancelled")
PATIENCE = 10.0  # seconds to wait for a cancelled process


class Jobs:
    """The recalibrations of a repository.

    Args:
        models: the repository.
        finished: called with the model's name, in a thread, when one of this process's jobs made a new version.
    """

    def __init__(self, models: Path, finished: Callable[[str], None]) -> None:
        self._models, self._finished = models.absolute(), finished
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, model: str, version: int, images: Array, labels: Array | None, asked: dict[str, Any]) -> str:
        """Begin a recalibration.

        Args:
            model: its name, as the repository has it.
            version: to start from.
            images: [n, …] as the model takes them.
            labels: [n], or None.
            asked: `source`, `force` and perhaps `pseudo_count`.

        Returns:
            The job's id.

        Raises:
            MissingPartsError: this installation cannot compile.
            ConflictError: another one is running, or the repository cannot be written.
        """
        scripts = _scripts()
        folder = self._models / model / FOLDER
        identity = time.strftime("%Y%m%d-%H%M%S-", time.gmtime()) + secrets.token_hex(4)
        try:
            folder.mkdir(exist_ok=True)
            with _exclusive(folder / LOCK):
                running = [job["id"] for job in self.listing(model) if job["state"] not in ENDED]
                if running:
                    raise ConflictError(f"recalibration {running[0]} of '{model}' is running; wait for it or cancel it")
                self._forget_old(folder)
                place = folder / identity
                place.mkdir()
                arrays = {"images": images} | ({} if labels is None else {"labels": labels})
                np.savez(place / IMAGES, allow_pickle=False, **arrays)
                self._spawn(place, model, version, asked, scripts)
                described = {"version": version, "images": len(images), "created": round(time.time(), 3)} | asked
                (place / JOB).write_text(json.dumps(described), encoding="utf-8")  # from here on others see it
        except OSError as error:
            raise ConflictError(f"the model repository cannot be written: {error.strerror}") from error
        return identity

    def listing(self, model: str) -> list[dict[str, Any]]:
        """Every job of a model that is remembered, the oldest first."""
        return [_report(place, model) for place in self._places(model)]

    def get(self, model: str, identity: str) -> dict[str, Any]:
        """One job.

        Raises:
            NotFoundError: there is no such job.
        """
        return _report(self._place(model, identity), model)

    def cancel(self, model: str, identity: str) -> dict[str, Any]:
        """End a running job, or forget one that has ended; what it was.

        Raises:
            NotFoundError: there is no such job.
        """
        place = self._place(model, identity)
        found = _report(place, model)
        if found["state"] in ENDED:
            shutil.rmtree(place, ignore_errors=True)
            return found
        (place / "cancelled").touch()
        try:
            os.kill(int((place / "pid").read_text()), signal.SIGTERM)
        except (OSError, ValueError):  # it has ended by itself, or not yet begun
            log.info("recalibration %s had no process to end", identity)
        deadline = time.monotonic() + PATIENCE
        while _alive(place) and time.monotonic() < deadline:
            time.sleep(0.02)
        return _report(place, model)

    def close(self) -> None:
        """End the jobs that this process began."""
        for process in list(self._running.values()):
            process.terminate()

    def _places(self, model: str) -> list[Path]:
        folder = self._models / model / FOLDER
        return sorted(place for place in folder.glob("*") if (place / JOB).is_file())

    def _place(self, model: str, identity: str) -> Path:
        for place in self._places(model):  # looked up: no path is made of a request
            if place.name == identity:
                return place
        raise NotFoundError(f"model '{model}' has no such recalibration")

    def _spawn(self, place: Path, model: str, version: int, asked: dict[str, Any], scripts: Path) -> None:
        command = [sys.executable, "-m", "scripts.recalibrate", "--models", str(self._models), "--name", model]
        command += ["--version", str(version), "--images", str(place / IMAGES), "--state", str(place / STATE)]
        command += ["--force"] if asked.get("force") else []
        if asked.get("pseudo_count") is not None:
            command += ["--pseudo-count", str(asked["pseudo_count"])]
        env = {key: value for key, value in os.environ.items() if not key.startswith("FOLDSERVE_")}  # it needs no keys
        env["PYTHONPATH"] = os.pathsep.join(filter(None, (str(scripts.parent), env.get("PYTHONPATH"))))
        with (place / LOCK).open("w") as lock, (place / LOG).open("wb") as output:
            fcntl.flock(lock, fcntl.LOCK_EX)
            process = subprocess.Popen(
                command,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=(lock.fileno(),),  # the lock is the process's from here on
                start_new_session=True,
            )
        (place / "pid").write_text(str(process.pid))
        self._running[place.name] = process
        threading.Thread(target=self._follow, args=(place, model, process), name="recalibration", daemon=True).start()

    def _follow(self, place: Path, model: str, process: subprocess.Popen[bytes]) -> None:
        status = process.wait()
        self._running.pop(place.name, None)
        (place / IMAGES).unlink(missing_ok=True)
        report = _report(place, model)
        log.info("recalibration %s of %s: %s", place.name, model, report["state"])
        if status == 0:
            try:
                self._finished(model)
            except Exception:
                log.exception("the new version of %s is not served", model)

    @staticmethod
    def _forget_old(folder: Path) -> None:
        places = sorted(place for place in folder.glob("*") if (place / JOB).is_file())
        for place in places[: max(0, len(places) - KEPT + 1)]:
            shutil.rmtree(place, ignore_errors=True)


def _scripts() -> Path:
    """The folder of the scripts, if everything that a recalibration needs is installed."""
    specs = {part: importlib.util.find_spec(part) for part in PARTS}
    spec = specs["scripts"]
    folder = Path(spec.origin).parent if spec and spec.origin else None
    if folder is None or not all(specs.values()) or not (folder / "recalibrate.py").is_file():
        missing = [part for part, found in specs.items() if found is None] or ["scripts"]
        raise MissingPartsError(
            f"this installation serves only and cannot fold ({', '.join(missing)} missing): install the extra "
            "'compile' in a checkout, or run scripts/recalibrate.py elsewhere and copy the new version here"
        )
    return folder


def _report(place: Path, model: str) -> dict[str, Any]:
    alive = _alive(place)  # before the state is read: what ends in between has written its state
    asked = _read(place / JOB)
    state = _read(place / STATE)
    state.pop("pid", None)
    if not alive and state.get("state") not in ENDED:
        cancelled = (place / "cancelled").exists()
        state |= {"state": "cancelled"} if cancelled else {"state": "failed", "error": "the process ended; see its log"}
    about = {"id": place.name, "model_name": model, "parent_version": str(asked.pop("version", ""))}
    if "version" in state:
        state["version"] = str(state["version"])
    return about | asked | ({"state": "starting", "progress": 0.0} | state)


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _alive(place: Path) -> bool:
    """Whether the job's process lives, whoever started it."""
    try:
        with (place / LOCK).open("r") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


@contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
