"""The requirement files: pinned, hashed, free of addresses, and what pyproject.toml asks for."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
FILES = ("serve", "serve-gpu", "dev")
PYTHONS = ("3.11", "3.12", "3.13")
PIN = re.compile(r"(?P<pin>[A-Za-z0-9._-]+==\S+(?: ; [^\\]+)?) \\\n(?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+")
NOT_FOR_SERVING = {"keras", "onnx", "onnx-ir", "tensorboard", "tensorflow", "tensorflow-cpu", "tf2onnx"}


def pins(name: str) -> dict[str, Requirement]:
    """The pins of a requirement file by package."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8")
    requirements = [Requirement(match["pin"]) for match in PIN.finditer(text)]
    return {canonicalize_name(requirement.name): requirement for requirement in requirements}


def version(requirement: Requirement) -> str:
    (specifier,) = requirement.specifier
    return specifier.version


def grouped(group: str) -> list[Requirement]:
    """What pyproject.toml asks for in this group."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return [Requirement(line) for line in project["dependency-groups"][group]]


def declared(*extras: str) -> list[Requirement]:
    """What pyproject.toml asks for: the dependencies and these extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    lines = list(project["project"]["dependencies"])
    for extra in extras:
        lines += project["project"]["optional-dependencies"][extra]
    return [Requirement(line) for line in lines]


@pytest.mark.parametrize("name", [*FILES, "sbom"])
def test_a_file_is_nothing_but_pins_with_hashes(name: str) -> None:
    text = (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8")

    assert PIN.sub("", text) == ""


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("serve", declared("cpu")),
        ("serve-gpu", declared("gpu")),
        ("dev", declared("cpu", "compile", "train", "ray", "score") + grouped("dev")),
        ("sbom", grouped("sbom")),
    ],
)
def test_a_file_gives_what_pyproject_asks_for(name: str, wanted: list[Requirement]) -> None:
    found = pins(name)

    for requirement in wanted:
        pin = found.get(canonicalize_name(requirement.name))
        assert pin is not None, f"requirements/{name}.txt lacks {requirement.name}; run `make lock`"
        assert requirement.specifier.contains(version(pin)), f"{pin} is not {requirement}; run `make lock`"


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("name", FILES)
def test_the_pins_of_a_direct_dependency_hold_on_every_python(name: str, python: str) -> None:
    linux = {
        "implementation_name": "cpython",
        "platform_machine": "x86_64",
        "platform_python_implementation": "CPython",
        "python_full_version": f"{python}.9",
        "python_version": python,
        "sys_platform": "linux",
    }
    held = {package for package, pin in pins(name).items() if pin.marker is None or pin.marker.evaluate(linux)}
    runtime = declared("gpu") if name == "serve-gpu" else declared("cpu")

    assert {canonicalize_name(requirement.name) for requirement in runtime} <= held


def test_every_environment_has_the_same_versions() -> None:
    dev = {package: version(pin) for package, pin in pins("dev").items()}

    for name in ("serve", "serve-gpu"):
        for package, pin in pins(name).items():
            assert dev.get(package, version(pin)) == version(pin), f"{name} and dev differ in {package}"


@pytest.mark.parametrize("name", ["serve", "serve-gpu"])
def test_serving_takes_no_training_and_no_compiler(name: str) -> None:
    assert NOT_FOR_SERVING.isdisjoint(pins(name))


def test_no_environment_gets_both_builds_of_the_onnx_runtime() -> None:
    builds = {"onnxruntime", "onnxruntime-gpu"}

    found = {name: builds & set(pins(name)) for name in FILES}

    assert found == {"serve": {"onnxruntime"}, "serve-gpu": {"onnxruntime-gpu"}, "dev": {"onnxruntime"}}
