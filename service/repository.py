"""The model repository: `<name>/<version>/` folders, and the versions of them that serve."""

import logging
import os
import re
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bundle import BundleError, open_bundle
from bundle.default import forget, is_proposal, preference, promote, roll_back
from service.engine.scheduler import Scheduler
from service.engine.session import resolve_provider
from service.errors import BadRequestError, ConflictError, LoadError, NotFoundError, StartupError
from service.metrics.ledger import Ledger
from service.model import Model, load_model
from service.settings import Settings
from service.watch.watcher import Watcher

log = logging.getLogger(__name__)

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
VERSION = re.compile(r"[1-9][0-9]{0,17}")


@dataclass(frozen=True)
class Served:
    """What serves under one name.

    Attributes:
        versions: the loaded versions, oldest first.
        default: the one that answers when none is named.
    """

    versions: dict[int, Model]
    default: int


class Repository:
    """The loaded versions, by name and number; what is asked for without a version is the default.

    That is the one that was promoted last, or the newest that is no proposal (see `bundle.default`).

    A name or version from a request is only ever looked up, it never becomes a path. Reading needs no lock: what serves
    under a name is replaced as a whole, and a request keeps the version that it began with.

    Args:
        settings: the server's.
        scheduler: runs the models.
        ledger: counts them.
        watcher: samples their traffic.
    """

    def __init__(self, settings: Settings, scheduler: Scheduler, ledger: Ledger, watcher: Watcher) -> None:
        self._settings, self._scheduler, self._ledger, self._watcher = settings, scheduler, ledger, watcher
        self._provider = resolve_provider(settings)
        self._serving: dict[str, Served] = {}
        self._left_out: dict[tuple[str, int], str] = {}
        self._unloaded: set[str] = set()
        self._changing = threading.Lock()

    def start(self) -> None:
        """Load what the policy asks for; a version that is bad is logged and left out.

        Raises:
            StartupError: there is nothing to serve.
        """
        root = self._settings.models
        if not root.is_dir():
            raise StartupError(
                f"{root.absolute()}: no such folder; FOLDSERVE_MODELS or --models names the model repository"
            )
        self.refresh()
        if not self._serving and not self._unloaded:
            reasons = "; ".join(self._left_out.values()) or "it holds no <name>/<version>/ folder"
            raise StartupError(f"{root.absolute()}: nothing to serve: {reasons}")

    def refresh(self) -> None:
        """Load what is new or changed, let go what is gone; models that were unloaded stay so."""
        with self._changing:
            found = scan(self._settings.models)
            for name in sorted(set(found) | set(self._serving)):
                if name not in self._unloaded:
                    self._update(name, found.get(name, []))

    def load(self, name: str) -> None:
        """Load a model as the policy asks, or load it again where its files have changed.

        Raises:
            NotFoundError: the repository has no such folder.
            BadRequestError: none of its versions can be served; what was serving goes on.
        """
        with self._changing:
            versions = scan(self._settings.models).get(name)
            if not versions:
                raise NotFoundError(f"failed to load '{_clip(name)}', no such model in the repository")
            self._unloaded.discard(name)
            self._update(name, versions)
            failures = [reason for (n, _), reason in self._left_out.items() if n == name]
            if failures:
                raise BadRequestError(f"failed to load '{name}': {failures[-1]}")

    def unload(self, name: str) -> None:
        """Take a model out of service; requests that have begun are answered.

        Raises:
            NotFoundError: there is no such model.
        """
        with self._changing:
            if name not in self._serving and name not in self._unloaded:
                raise NotFoundError(f"failed to unload '{_clip(name)}', it is not served")
            self._unloaded.add(name)
            if self._serving.pop(name, None):
                log.info("%s is out of service", name)

    def leave_out(self, names: set[str]) -> None:
        """Before the start: models that were taken out of service by request, and are not to be loaded."""
        self._unloaded |= names

    def get(self, name: str, version: str | None = None) -> Model:
        """The version that is asked for, or the default.

        Raises:
            NotFoundError: it is not served.
        """
        served = self._serving.get(name)
        if served is None:
            raise NotFoundError(f"Request for unknown model: '{_clip(name)}' is not found")
        if version is None:
            return served.versions[served.default]
        model = served.versions.get(int(version)) if VERSION.fullmatch(version) else None
        if model is None:
            raise NotFoundError(f"Request for unknown model: '{_clip(name)}' version {_clip(version)} is not found")
        return model

    def versions(self, name: str) -> list[int]:
        """The versions of a model that serve, oldest first."""
        served = self._serving.get(name)
        return list(served.versions) if served else []

    def names(self) -> list[str]:
        """The models that serve, by name."""
        return sorted(self._serving)

    def default(self) -> Model:
        """The model that is meant when none is named.

        Raises:
            NotFoundError: it is not served.
        """
        return self.get(self._settings.default_model or next(iter(self.names()), ""))

    def everything(self) -> list[Model]:
        """All versions that serve."""
        return [model for _, served in sorted(self._serving.items()) for model in served.versions.values()]

    def index(self, only_ready: bool = False) -> list[dict[str, Any]]:
        """Every version that is known, as the protocol's repository index lists it."""
        rows = [(m.name, str(m.version), "READY", "") for m in self.everything()]
        if not only_ready:
            rows += [(name, str(v), "UNAVAILABLE", reason) for (name, v), reason in self._left_out.items()]
            rows += [(name, "", "UNAVAILABLE", "unloaded") for name in self._unloaded]
        return [dict(zip(("name", "version", "state", "reason"), row, strict=True)) for row in sorted(rows)]

    def promote(self, name: str, version: str) -> None:
        """Make a version the default, loading it if it is not.

        Raises:
            NotFoundError: the repository has no such version.
            BadRequestError: it cannot serve; nothing is changed.
            ConflictError: the repository cannot be written.
        """
        folder, number = self._version(name, version)
        if number not in select(self._settings.versions, [number])[0]:
            raise BadRequestError(f"the setting 'versions' ({self._settings.versions}) keeps version {number} out")
        try:
            open_bundle(folder)
        except BundleError as error:
            raise BadRequestError(f"version {number} of '{name}' cannot be promoted: {error}") from error
        self._change(name, lambda: promote(folder.parent, number))

    def roll_back(self, name: str) -> None:
        """Undo the last promotion.

        Raises:
            NotFoundError: the repository has no such model.
            ConflictError: no version was promoted, or the repository cannot be written.
        """
        if not NAME.fullmatch(name) or name not in scan(self._settings.models):
            raise NotFoundError(f"Request for unknown model: '{_clip(name)}' is not found")
        self._change(name, lambda: roll_back(self._settings.models / name))

    def delete(self, name: str, version: str) -> None:
        """Remove a recalibrated version from the repository.

        Raises:
            NotFoundError: the repository has no such version.
            ConflictError: it is the default, or was trained and not recalibrated, or the repository cannot be written.
        """
        folder, number = self._version(name, version)
        hidden = folder.with_name(f".deleted-{number}-{time.time_ns()}")

        def remove() -> None:
            served = self._serving.get(name)
            if not is_proposal(folder):
                raise ConflictError(f"version {number} of '{name}' is no recalibrated one; only those can be deleted")
            if served and served.default == number:
                raise ConflictError(f"version {number} of '{name}' is the default; promote another or roll back first")
            forget(folder.parent, number)
            os.rename(folder, hidden)  # at once out of everybody's sight, however long the rest takes

        self._change(name, remove)
        shutil.rmtree(hidden, ignore_errors=True)

    def _version(self, name: str, version: str) -> tuple[Path, int]:
        """The folder and the number of a version; both were looked up, so that no path is made of a request."""
        number = int(version) if VERSION.fullmatch(version) else 0
        if number not in scan(self._settings.models).get(name, ()):
            raise NotFoundError(f"Request for unknown model: '{_clip(name)}' version {_clip(version)} is not found")
        return self._settings.models / name / str(number), number

    def _change(self, name: str, change: Callable[[], Any]) -> None:
        """Change the repository's folder and follow it."""
        with self._changing:
            try:
                change()
            except BundleError as error:
                raise ConflictError(str(error)) from error
            except OSError as error:
                raise ConflictError(f"the model repository cannot be written: {error.strerror}") from error
            self._unloaded.discard(name)
            self._update(name, scan(self._settings.models).get(name, []))

    def _update(self, name: str, versions: list[int]) -> None:
        """Bring what serves under a name to what the policy asks for, in one swap."""
        served = self._serving.get(name)
        old = served.versions if served else {}
        wanted, most = select(self._settings.versions, versions)
        order = self._order(name, wanted)
        known = self._left_out
        self._left_out = {key: why for key, why in self._left_out.items() if key[0] != name}
        new: dict[int, Model] = {}
        for version in order:  # the best first, since `latest` stops at the first that loads
            if len(new) == most:
                break
            try:
                new[version] = self._current(old.get(version)) or self._load(name, version)
            except LoadError as error:
                self._left_out[name, version] = str(error)
                if known.get((name, version)) != str(error):  # said once, however often the folder is looked at
                    log.error("not serving %s version %s: %s", name, version, error)
                if version in old and version in versions:
                    new[version] = old[version]
        if new:
            default = next(version for version in order if version in new)
            self._serving[name] = Served(dict(sorted(new.items())), default)
            if served and served.default != default:
                log.info("%s version %s is the default now, after version %s", name, default, served.default)
        elif name in self._serving:
            del self._serving[name]
        for version in sorted(set(old) - set(new)):
            log.info("%s version %s is out of service", name, version)

    def _order(self, name: str, versions: list[int]) -> list[int]:
        """The versions as they are wanted as the default, the best first."""
        try:
            return preference(self._settings.models / name, versions)
        except BundleError as error:
            log.error("%s; the newest version is taken for the default", error)
            return sorted(versions, reverse=True)

    def _load(self, name: str, version: int) -> Model:
        start = time.perf_counter()
        model = load_model(
            self._settings.models / name / str(version),
            name=name,
            version=version,
            provider=self._provider,
            settings=self._settings,
            scheduler=self._scheduler,
            ledger=self._ledger,
            watcher=self._watcher,
        )
        took = (time.perf_counter() - start) * 1e3
        log.info("serving %s version %s on %s, ready after %.0f ms", name, version, model.provider, took)
        return model

    def _current(self, model: Model | None) -> Model | None:
        """The loaded model if its files are still those that it was loaded from."""
        if model is None:
            return None
        if model.bundle is None:  # a bare model has no digest to compare
            return model
        try:
            return model if open_bundle(model.bundle.folder).digest == model.bundle.digest else None
        except BundleError as error:
            raise LoadError(str(error)) from error


def scan(root: Path) -> dict[str, list[int]]:
    """The versions by name, oldest first; folders of other names are nobody's business."""
    found: dict[str, list[int]] = {}
    for folder in sorted(root.iterdir()):
        if folder.is_dir() and NAME.fullmatch(folder.name):
            versions = sorted(int(f.name) for f in folder.iterdir() if f.is_dir() and VERSION.fullmatch(f.name))
            if versions:
                found[folder.name] = versions
    return found


def select(policy: str, versions: list[int]) -> tuple[list[int], int]:
    """The versions that may serve under a policy (see the setting `versions`), and how many of them at most."""
    if policy == "all":
        return versions, len(versions)
    if policy.startswith("latest"):
        return versions, int(policy.partition(":")[2] or 1)
    chosen = {int(version) for version in policy.split(",")}
    return [version for version in versions if version in chosen], len(chosen)


def _clip(text: str) -> str:
    return text if len(text) <= 64 else text[:64] + "…"
