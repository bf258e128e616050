"""The container image: built and run as the documentation says, on a real engine."""

import json
import re
import sys
import time
import tomllib
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from scripts import image_report
from tests.docker.engine import HARDENED, docker
from tests.support import ROOT, fetch, golden_picture, served_bundle, wait_until_ready

pytestmark = [pytest.mark.docker, pytest.mark.slow]


@dataclass(frozen=True)
class Container:
    name: str
    url: str

    def inspect(self, what: str) -> str:
        return docker("inspect", "--format", what, self.name)

    def running(self) -> bool:
        return self.inspect("{{.State.Running}}") == "true"


@pytest.fixture(scope="module")
def container(image: str) -> Iterator[Container]:
    served_bundle()
    name = f"foldserve-test-{uuid.uuid4().hex[:12]}"
    docker("run", "--detach", "--name", name, "--publish", "127.0.0.1::8000", *HARDENED, image)
    try:
        found = Container(name, "http://" + docker("port", name, "8000/tcp").splitlines()[0])
        wait_until_ready(found.url, found.running)
        yield found
    finally:
        sys.stderr.write(docker("logs", name))
        docker("rm", "--force", name)


def test_it_names_a_picture(container: Container) -> None:
    picture, probabilities = golden_picture(served_bundle())

    answer = fetch(f"{container.url}/predict", picture, "image/png")

    assert answer["class"] == int(np.argmax(probabilities))
    np.testing.assert_allclose(answer["probabilities"], probabilities, rtol=0, atol=1e-5)


def test_it_runs_as_a_numbered_user_that_can_write_nowhere(container: Container) -> None:
    program = """
import os, pathlib
folders = ["/", "/app", "/app/models", "/tmp", *map(str, pathlib.Path("/app/.venv/lib").glob("*"))]
print(os.getuid(), os.getgid(), [folder for folder in folders if os.access(folder, os.W_OK)])
"""
    assert docker("exec", container.name, "python", "-c", program) == "10001 10001 []"


def test_the_engine_finds_it_healthy(container: Container) -> None:
    end = time.monotonic() + 90
    while (status := container.inspect("{{.State.Health.Status}}")) == "starting" and time.monotonic() < end:
        time.sleep(1)

    assert status == "healthy", container.inspect("{{json .State.Health.Log}}")


def test_it_holds_what_serving_needs_and_no_more(image: str) -> None:
    program = """
import importlib.util, json, pathlib, shutil
modules = ["tensorflow", "keras", "onnx", "onnx_ir", "tf2onnx", "sklearn", "bnfold", "scripts", "tests"]
tools = ["gcc", "cc", "g++", "ld", "make", "git"]
rooms = sorted(path.name for path in pathlib.Path("/app").iterdir())
print(json.dumps({
    "modules": [name for name in modules if importlib.util.find_spec(name)],
    "tools": [name for name in tools if shutil.which(name)],
    "rooms": rooms,
    "pip": importlib.util.find_spec("pip") is not None,
    "pip cache": pathlib.Path("/root/.cache/pip").exists(),
}))
"""
    found = json.loads(docker("run", "--rm", "--user", "0", "--network", "none", image, "python", "-c", program))

    assert found == {
        "modules": [],
        "tools": [],
        "rooms": [".venv", "bundle", "drift", "models", "pictures", "service"],
        "pip": False,
        "pip cache": False,
    }


def test_its_bill_of_materials_lists_exactly_what_is_installed(image: str) -> None:
    program = """
import importlib.metadata, json
print(json.dumps([[found.name, found.version] for found in importlib.metadata.distributions()]))
"""
    installed = json.loads(docker("run", "--rm", "--network", "none", image, "python", "-c", program))
    bill = json.loads(docker("run", "--rm", "--network", "none", image, "cat", "/usr/share/sbom/foldserve.cdx.json"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    product = bill["metadata"]["component"]
    (direct,) = [entry["dependsOn"] for entry in bill["dependencies"] if entry["ref"] == product["bom-ref"]]
    asked = [*project["dependencies"], *project["optional-dependencies"]["cpu"]]

    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    assert (product["name"], product["version"]) == (project["name"], project["version"])
    assert sorted([found["name"], found["version"]] for found in bill["components"]) == sorted(installed)
    assert {found["purl"] for found in bill["components"]} == {
        f"pkg:pypi/{canonicalize_name(name)}@{version}" for name, version in installed
    }
    assert {canonicalize_name(name.partition("==")[0]) for name in direct} == {
        canonicalize_name(Requirement(line).name) for line in asked
    }


def test_it_stays_small(image: str, capsys: pytest.CaptureFixture[str]) -> None:
    size = int(docker("image", "inspect", "--format", "{{.Size}}", image))
    base = int(docker("image", "inspect", "--format", "{{.Size}}", "python:3.11-slim"))

    with capsys.disabled():
        sys.stdout.write(f"\nimage: {size / 1e6:.0f} MB, of which the base image has {base / 1e6:.0f} MB\n")
    assert size - base < 250e6


def test_the_report_gives_its_size_and_how_long_it_takes_to_be_ready(
    image: str, capsys: pytest.CaptureFixture[str]
) -> None:
    size = int(docker("image", "inspect", "--format", "{{.Size}}", image))

    assert image_report.main([image, "--times", "1"]) == 0
    written = capsys.readouterr().out
    rows = dict(line.strip("| ").split(" | ") for line in written.splitlines()[2:])
    layers = [int(value.removesuffix(" MB")) for name, value in rows.items() if name.startswith("… of which `COPY")]
    assert rows["size"] == f"{size / 1e6:.0f} MB"
    assert len(layers) >= 2  # the packages and the networks
    assert re.fullmatch(r"\d+\.\d\d s", rows["`docker run` until ready, one start"])

    assert image_report.main([image, "--times", "1", "--run=--env=FOLDSERVE_MODELS=/nowhere"]) == 2
    assert "/nowhere" in capsys.readouterr().err


def test_a_stop_ends_it_cleanly_in_under_ten_seconds(image: str) -> None:
    served_bundle()
    name = f"foldserve-test-{uuid.uuid4().hex[:12]}"
    docker("run", "--detach", "--name", name, "--publish", "127.0.0.1::8000", *HARDENED, image)
    try:
        container = Container(name, "http://" + docker("port", name, "8000/tcp").splitlines()[0])
        wait_until_ready(container.url, container.running)
        begin = time.monotonic()
        docker("stop", "--time", "60", name)
        seconds = time.monotonic() - begin

        assert container.inspect("{{.State.ExitCode}}") == "0"
        # The one time that a test asserts: an orchestrator kills what takes longer.
        assert seconds < 10
    finally:
        docker("rm", "--force", name)
