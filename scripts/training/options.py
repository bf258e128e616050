"""Command-line options made from the configuration's fields, so that no argument can be forgotten."""

import argparse
import difflib
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from scripts.training.batchnorm import BatchNormArguments
from scripts.training.config import RECIPES, Augmentation, Distillation, TrainConfig

# Option prefix, the configuration's part that it sets, and the part's fields.
PARTS: tuple[tuple[str, str | None, type[BaseModel]], ...] = (
    ("", None, TrainConfig),
    ("bn-", "batchnorm", BatchNormArguments),
    ("augment-", "augmentation", Augmentation),
    ("distill-", "distillation", Distillation),
)


class ConfigError(Exception):
    """A configuration names something that does not exist, or gives it an impossible value."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add one option per field; a value is a word, a number, or JSON."""
    for prefix, part, model in PARTS:
        group = parser.add_argument_group(f"{part} (each also in the config file)" if part else "the run")
        for name, field in model.model_fields.items():
            if _is_model(field.annotation):
                continue
            group.add_argument(
                f"--{prefix}{name.replace('_', '-')}",
                dest=f"{part or ''}.{name}",
                metavar=_metavar(field.annotation),
                default=argparse.SUPPRESS,
                help=(field.description or _fallback_help(field)).replace("%", "%%"),
            )


def configuration(recipe: str, file: Path | None, options: Mapping[str, Any]) -> TrainConfig:
    """Preset, then config file, then command line: the later wins.

    Args:
        recipe: name of a preset.
        file: JSON or TOML with any of the fields.
        options: parsed options, `<part>.<field>` to text.

    Raises:
        ConfigError: a name or value is wrong; the message lists what can be chosen.
    """
    settings = _merge(RECIPES[recipe], _read(file) if file else {})
    for key, text in options.items():
        part, _, name = key.partition(".")
        target = settings.setdefault(part, {}) if part else settings
        if target is None:
            target = settings[part] = {}
        target[name] = _value(text)
    try:
        return TrainConfig.model_validate(settings)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(problem) for problem in error.errors())) from None


def unknown_options(names: list[str], known: list[str]) -> str:
    """Say which options do not exist and which ones were probably meant."""
    lines = []
    for name in names:
        option = name.split("=")[0]
        prefix = next((p for p, part, _ in PARTS if p and option.startswith(f"--{p}")), "")
        choices = [k for k in known if prefix and k.startswith(f"--{prefix}")] or known
        close = difflib.get_close_matches(option, choices, n=1)
        meant = f"did you mean {close[0]}? " if close else ""
        lines.append(f"{option}: no such option; {meant}Choose one of {', '.join(choices)}")
    return "\n".join(lines)


def _explain(problem: Any) -> str:
    where = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        part = problem["loc"][0] if len(problem["loc"]) > 1 else None
        fields = next(model for _, name, model in PARTS if name == part).model_fields
        return f"{where}: no such setting; choose one of {', '.join(fields)}"
    return f"{where}: {problem['msg'].removeprefix('Value error, ')}" if where else problem["msg"]


def _read(file: Path) -> dict[str, Any]:
    try:
        text = file.read_text(encoding="utf-8")
        settings = tomllib.loads(text) if file.suffix == ".toml" else json.loads(text)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--config {file}: not readable as JSON or TOML: {error}") from None
    if not isinstance(settings, dict):
        raise ConfigError(f"--config {file}: expected a table of settings at the top")
    return settings


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _fallback_help(field: Any) -> str:
    return f"default: {field.get_default()}"


def _is_model(annotation: Any) -> bool:
    return any(isinstance(kind, type) and issubclass(kind, BaseModel) for kind in (annotation, *get_args(annotation)))


def _metavar(annotation: Any) -> str:
    choices = [str(choice) for choice in get_args(annotation) if isinstance(choice, str)]
    if choices:
        return "{" + ",".join(choices) + "}"
    if Path in get_args(annotation):
        return "FILE"
    return annotation.__name__.upper() if isinstance(annotation, type) else "NAME|JSON"
