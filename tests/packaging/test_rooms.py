"""What a process that only serves has in memory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = {"tensorflow", "keras", "tf2onnx", "onnx", "onnx_ir", "sklearn", "scipy", "matplotlib", "bnfold", "scripts"}


def top_level_modules_after(statement: str) -> set[str]:
    program = (
        f"import json, sys; {statement}; json.dump(sorted({{m.partition('.')[0] for m in sys.modules}}), sys.stdout)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True)
    return set(json.loads(done.stdout))


def test_the_server_imports_no_training_and_no_compiler() -> None:
    modules = top_level_modules_after("import service.app")

    assert "onnxruntime" in modules
    assert modules & HEAVY == set()


def test_the_compiler_imports_no_server_and_no_training() -> None:
    modules = top_level_modules_after("import bnfold")

    assert modules & {"tensorflow", "keras", "tf2onnx", "fastapi", "uvicorn", "service", "scripts", "bundle"} == set()


def test_the_bundle_schema_is_light() -> None:
    modules = top_level_modules_after("import bundle")

    assert modules & (HEAVY | {"onnxruntime", "fastapi", "uvicorn"}) == set()


@pytest.mark.parametrize("room", ["drift", "pictures"])
def test_what_all_rooms_share_is_light(room: str) -> None:
    modules = top_level_modules_after(f"import {room}")

    assert modules & (HEAVY | {"onnxruntime", "fastapi", "uvicorn", "pydantic", "bundle", "service"}) == set()


@pytest.mark.parametrize("room", ["service.app", "bnfold", "scripts"])
def test_the_onnx_runtime_is_told_to_send_no_usage_data(room: str) -> None:
    program = f"import os, {room}; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}

    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, check=True, capture_output=True, text=True
    )

    assert done.stdout == "1\n"
