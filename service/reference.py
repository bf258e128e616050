"""The table of all settings: `python -m service.reference > docs/settings.md`."""

import sys
from typing import Any, get_args

from pydantic_core import PydanticUndefined

from service.settings import Settings

HEAD = """# Settings

Every setting is an environment variable and a flag of `python -m service` (or `foldserve`); a flag wins.
This page is made from `service/settings.py` by `python -m service.reference > docs/settings.md`.

| variable | flag | default | what |
|---|---|---|---|
"""


def settings_page() -> str:
    """The page, in Markdown."""
    rows = []
    for name, field in Settings.model_fields.items():
        text = (field.description or "").replace("|", "\\|")
        choices = [str(choice) for choice in get_args(field.annotation) if isinstance(choice, str)]
        if choices:
            text += f" ({', '.join(f'`{choice}`' for choice in choices)})"
        flag = "--" + name.replace("_", "-")
        rows.append(f"| `FOLDSERVE_{name.upper()}` | `{flag}` | {_default(field.default)} | {text} |")
    return HEAD + "\n".join(rows) + "\n"


def _default(value: Any) -> str:
    return "" if value in (None, (), PydanticUndefined) else f"`{value}`"


if __name__ == "__main__":
    sys.stdout.write(settings_page())
