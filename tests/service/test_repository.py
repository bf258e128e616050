import json
import logging
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from starlette.testclient import TestClient

from service.app import create_app
from service.dataplane import DataPlane
from service.errors import StartupError
from service.settings import Settings
from tests.service import bundles
from tests.service.test_infer import json_input


def test_a_bad_version_is_left_out_and_says_why(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bundles.write(tmp_path, version=1)
    for version, harm in enumerate(("manifest", "digest", "schema", "golden", "name"), start=2):
        folder = bundles.write(tmp_path, version=version).folder
        if harm == "manifest":
            (folder / "manifest.json").unlink()
        elif harm == "digest":
            os.truncate(folder / "model.onnx", 100)
        elif harm == "schema":
            manifest = json.loads((folder / "manifest.json").read_text())
            (folder / "manifest.json").write_text(json.dumps(manifest | {"schema_version": 9}))
        elif harm == "golden":
            shutil.rmtree(folder)
            bundles.write(tmp_path, version=version, golden=np.full((3, 10), 0.1, np.float32))
        elif harm == "name":
            shutil.copytree(tmp_path / "tiny/1", folder.with_name("9"))
            shutil.rmtree(folder)
    with caplog.at_level(logging.ERROR), TestClient(create_app(Settings(models=tmp_path))) as client:
        assert client.get("/v2/models/tiny").json()["versions"] == ["1"]
        assert client.get("/v2/health/ready").status_code == 200
    messages = [record.getMessage() for record in caplog.records]
    for wanted in (
        "version 2: " + str(tmp_path / "tiny/2/manifest.json"),
        "sha256",
        "schema_version",
        "away from its golden answers",
        "its manifest is that of tiny version 1",
    ):
        assert any(wanted in message for message in messages), wanted


def test_a_bare_model_is_served_without_statistics(tmp_path: Path) -> None:
    folder = tmp_path / "bare/3"
    folder.mkdir(parents=True)
    model = bundles.network(5)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    images = bundles.pictures(2)
    with TestClient(create_app(Settings(models=tmp_path))) as client:
        answer = client.post("/v2/models/bare/infer", json={"inputs": [json_input(images)]}).json()
        np.testing.assert_allclose(
            np.array(answer["outputs"][0]["data"]).reshape(2, 10), bundles.truth(model, images), atol=1e-6
        )
        missing = client.get("/v2/models/bare/batchnorm")
        assert missing.status_code == 404
        assert "bare model.onnx without statistics" in missing.json()["error"]


def test_two_models_and_a_default(tmp_path: Path) -> None:
    bundles.write(tmp_path, "b", 1)
    bundles.write(tmp_path, "a", 2)
    from tests.service.conftest import png

    picture = png(bundles.pictures(1))
    with TestClient(create_app(Settings(models=tmp_path))) as client:
        assert client.get("/v2/models").json() == {"models": ["a", "b"]}
        assert client.post("/predict", content=picture).json()["model_name"] == "a"
    with TestClient(create_app(Settings(models=tmp_path, default_model="b"))) as client:
        assert client.post("/predict", content=picture).json()["model_name"] == "b"


@pytest.mark.parametrize("folder", ["missing", "empty"])
def test_nothing_to_serve(tmp_path: Path, folder: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(StartupError, match=folder):
        DataPlane(Settings(models=tmp_path / folder)).start()


def test_stray_files_are_nobodys_business(tmp_path: Path) -> None:
    bundles.write(tmp_path, version=1)
    (tmp_path / "README.md").write_text("hello")
    (tmp_path / ".hidden/1").mkdir(parents=True)
    (tmp_path / "tiny/.scratch").mkdir()
    (tmp_path / "tiny/latest").mkdir()
    with TestClient(create_app(Settings(models=tmp_path))) as client:
        assert client.get("/v2/models").json() == {"models": ["tiny"]}


def test_a_model_that_answers_wrongly_makes_the_server_unready_until_it_answers_rightly(tmp_path: Path) -> None:
    folder = bundles.write(tmp_path, version=1).folder
    other = bundles.network(2).SerializeToString()
    app = create_app(Settings(models=tmp_path, self_test_interval=0.02))
    with TestClient(app) as client:
        model: Any = app.state.plane.repository.get("tiny")
        shutil.rmtree(folder)  # what is loaded does not depend on it any more
        right, wrong = model._session, onnxruntime.InferenceSession(other, providers=["CPUExecutionProvider"])
        for session, status in ((right, 200), (wrong, 503), (right, 200)):
            model._session = session
            deadline = time.monotonic() + 20
            while client.get("/v2/health/ready").status_code != status and time.monotonic() < deadline:
                time.sleep(0.01)
            time.sleep(0.1)
            answer = client.get("/v2/health/ready")
            assert answer.status_code == status
            assert ("fails its self-test" in answer.text) == (status == 503)
            assert 'model="tiny"' in client.get("/metrics").text
