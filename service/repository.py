"""The model repository: `<name>/<version>/` folders, and the versions of them that serve."""

import logging
import re
import time
from pathlib import Path

from service.engine.scheduler import Scheduler
from service.engine.session import resolve_provider
from service.errors import LoadError, NotFoundError, StartupError
from service.metrics.ledger import Ledger
from service.model import Model, load_model
from service.settings import Settings

log = logging.getLogger(__name__)

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
VERSION = re.compile(r"[1-9][0-9]{0,17}")


class Repository:
    """The loaded versions, by name and number; what is asked for without a version is the newest.

    A name or version from a request is only ever looked up here, it never becomes a path.

    Args:
        settings: the server's.
        scheduler: runs the models.
        ledger: counts them.
    """

    def __init__(self, settings: Settings, scheduler: Scheduler, ledger: Ledger) -> None:
        self._settings, self._scheduler, self._ledger = settings, scheduler, ledger
        self._provider = resolve_provider(settings)
        self._serving: dict[str, dict[int, Model]] = {}
        self.failed: dict[tuple[str, int], str] = {}

    def load_all(self) -> None:
        """Load every version that is there; one that is bad is logged and left out.

        Raises:
            StartupError: there is nothing to serve.
        """
        root = self._settings.models
        if not root.is_dir():
            raise StartupError(
                f"{root.absolute()}: no such folder; FOLDSERVE_MODELS or --models names the model repository"
            )
        for name, versions in scan(root).items():
            for version in versions:
                self.load(name, version)
        if not self._serving:
            reasons = "; ".join(self.failed.values()) or "it holds no <name>/<version>/ folder"
            raise StartupError(f"{root.absolute()}: nothing to serve: {reasons}")

    def load(self, name: str, version: int) -> bool:
        """Load one version and put it in service; whether that went well."""
        start = time.perf_counter()
        folder = self._settings.models / name / str(version)
        try:
            model = load_model(
                folder,
                name=name,
                version=version,
                provider=self._provider,
                settings=self._settings,
                scheduler=self._scheduler,
                ledger=self._ledger,
            )
        except LoadError as error:
            self.failed[name, version] = str(error)
            log.error("not serving %s version %s: %s", name, version, error)
            return False
        self.failed.pop((name, version), None)
        self._serving[name] = dict(sorted((self._serving.get(name, {}) | {version: model}).items()))
        log.info(
            "serving %s version %s on %s, ready after %.0f ms",
            name,
            version,
            model.provider,
            (time.perf_counter() - start) * 1e3,
        )
        return True

    def get(self, name: str, version: str | None = None) -> Model:
        """The version that is asked for, or the newest.

        Raises:
            NotFoundError: it is not served.
        """
        versions = self._serving.get(name)
        if not versions:
            raise NotFoundError(f"Request for unknown model: '{_clip(name)}' is not found")
        if version is None:
            return versions[next(reversed(versions))]
        model = versions.get(int(version)) if VERSION.fullmatch(version) else None
        if model is None:
            raise NotFoundError(f"Request for unknown model: '{_clip(name)}' version {_clip(version)} is not found")
        return model

    def versions(self, name: str) -> list[int]:
        """The versions of a model that serve, oldest first."""
        return list(self._serving.get(name, ()))

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
        return [model for name in self.names() for model in self._serving[name].values()]


def scan(root: Path) -> dict[str, list[int]]:
    """The versions by name, oldest first; folders of other names are nobody's business."""
    found: dict[str, list[int]] = {}
    for folder in sorted(root.iterdir()):
        if folder.is_dir() and NAME.fullmatch(folder.name):
            versions = sorted(int(f.name) for f in folder.iterdir() if f.is_dir() and VERSION.fullmatch(f.name))
            if versions:
                found[folder.name] = versions
    return found


def _clip(text: str) -> str:
    return text if len(text) <= 64 else text[:64] + "…"
