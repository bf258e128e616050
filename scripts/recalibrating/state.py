"""The progress of a recalibration in a file that others read."""

import json
import os
from pathlib import Path
from typing import Any


class State:
    """A JSON file that is replaced as a whole.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, state: str, **more: Any) -> None:
        """Replace the file.

        Args:
            state: `running`, `done`, `refused`, `failed` or `cancelled`.
            more: `step`, `progress`, `version`, `error`, `guards` or `recalibration`.
        """
        temporary = self._path.with_name(f".{self._path.name}.part")
        temporary.write_text(json.dumps({"state": state, "pid": os.getpid()} | more), encoding="utf-8")
        temporary.replace(self._path)
