"""The make targets, without installing anything from outside."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def make(*arguments: str, folder: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    # An outer make hands its flags down; these runs are to be a newcomer's.
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(
        ["make", *arguments], cwd=folder, env=clean | environment, capture_output=True, text=True, check=False
    )


@pytest.fixture
def newcomer(tmp_path: Path) -> Path:
    """A checkout as far as the installation needs it, with nothing installed yet."""
    folder = tmp_path / "a checkout"
    folder.mkdir()
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "requirements", folder / "requirements")
    return folder


def test_make_alone_lists_every_target() -> None:
    listed = set(re.findall(r"^  make (\w+) ", make().stdout, flags=re.MULTILINE))
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    (phony,) = re.findall(r"^\.PHONY: (.*)$", text, flags=re.MULTILINE)

    assert listed == set(phony.split())
    assert len(listed) <= 12 + 1  # with `help` itself


def test_serving_installs_only_what_serving_needs(newcomer: Path) -> None:
    plan = make("-n", "serve", folder=newcomer).stdout

    assert "requirements/serve.txt" in plan
    assert "--require-hashes" in plan
    assert "dev.txt" not in plan
    assert "gpu" not in plan
    assert "--editable" not in plan


def test_testing_installs_the_rest_and_checks_everything(newcomer: Path) -> None:
    plan = make("-n", "test", folder=newcomer).stdout

    assert "requirements/dev.txt" in plan
    for check in ("ruff check", "ruff format --check", "mypy", "lint-imports", "hadolint Dockerfile", "-m pytest"):
        assert check in plan


def test_the_port_is_set_from_the_environment(newcomer: Path) -> None:
    assert "-m service --port 8000" in make("-n", "serve", folder=newcomer).stdout
    assert "-m service --port 9000" in make("-n", "serve", folder=newcomer, PORT="9000").stdout


def test_after_make_gpu_nothing_brings_the_cpu_build_back(newcomer: Path) -> None:
    (newcomer / ".venv").mkdir()
    (newcomer / ".venv" / ".gpu").touch()

    serve, install = (make("-n", target, folder=newcomer).stdout for target in ("serve", "install"))

    assert "requirements/serve.txt" not in serve
    assert "requirements/serve-gpu.txt" in serve
    assert install.index("dev.txt") < install.index("uninstall") < install.rindex("requirements/serve-gpu.txt")


def test_no_suitable_python_is_said_in_one_clear_message(newcomer: Path) -> None:
    done = make("serve", "PYTHON=no-such-python", folder=newcomer)

    assert done.returncode != 0
    assert "Python 3.11, 3.12 or 3.13 with its venv module is needed" in done.stderr
    assert "no-such-python" in done.stderr
    assert not (newcomer / ".venv").exists()


def test_there_is_an_image_for_processors_and_one_for_cards(newcomer: Path) -> None:
    cpu, gpu = (make("-n", "image", f"TARGET={target}", folder=newcomer).stdout for target in ("cpu", "gpu"))
    other = make("-n", "image", "TARGET=tpu", folder=newcomer)

    assert cpu == make("-n", "image", folder=newcomer).stdout
    assert "--tag foldserve " in cpu
    assert "REQUIREMENTS=requirements/serve.txt" in cpu
    assert "--tag foldserve-gpu " in gpu
    assert "REQUIREMENTS=requirements/serve-gpu.txt" in gpu
    assert other.returncode != 0
    assert "TARGET is cpu or gpu" in other.stderr


@pytest.mark.slow
def test_an_install_that_broke_off_does_not_count(newcomer: Path) -> None:
    # Nobody listens on port 9 of the own machine.
    offline = {"PIP_INDEX_URL": "http://127.0.0.1:9/", "PIP_RETRIES": "0", "PIP_CONFIG_FILE": os.devnull}

    first = make("serve", folder=newcomer, PIP_NO_CACHE_DIR="1", PIP_FIND_LINKS="", **offline)
    plan = make("-n", "serve", folder=newcomer).stdout

    assert first.returncode != 0
    assert "No matching distribution" in first.stderr
    assert "install" in plan
