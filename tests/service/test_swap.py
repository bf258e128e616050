"""New versions under load: nobody is lost, nobody gets an answer of two versions."""

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import httpx2
import numpy as np
import pytest
from starlette.testclient import TestClient

from service.app import create_app
from service.settings import Settings
from tests.service import bundles
from tests.service.process import Process
from tests.service.test_infer import HEADER, INFER, binary_body, json_input

ADMIN = {"Authorization": "Bearer k"}
SWAPS = 12


@pytest.mark.parametrize("how", ["load", "poll"])
def test_swaps_under_load(tmp_path: Path, start_server: Callable[..., Process], how: str) -> None:
    bundles.write(tmp_path, version=1)
    polling = {"poll_interval": 0.05} if how == "poll" else {}
    server = start_server(tmp_path, versions="latest", admin_keys="k", runners=2, **polling).wait_ready()
    images = bundles.pictures(3)
    body, headers = binary_body(images, parameters={"binary_data_output": True})
    answers: dict[str, set[bytes]] = {}
    bad: list[str] = []
    stop = threading.Event()

    def load() -> None:
        with httpx2.Client(verify=False, base_url=server.url) as client:
            while not stop.is_set():
                answer = client.post(INFER, content=body, headers=headers)
                if answer.status_code != 200:
                    bad.append(answer.text)
                    continue
                length = int(answer.headers[HEADER])
                answers.setdefault(json.loads(answer.content[:length])["model_version"], set()).add(
                    answer.content[length:]
                )

    threads = [threading.Thread(target=load) for _ in range(6)]
    for thread in threads:
        thread.start()
    with httpx2.Client(verify=False, base_url=server.url, headers=ADMIN, timeout=60) as admin:
        for version in range(2, SWAPS + 2):
            bundles.write(tmp_path, version=version)
            if how == "load":
                assert admin.post("/v2/repository/models/tiny/load").status_code == 200
            while admin.get("/v2/models/tiny").json()["versions"] != [str(version)]:
                pass
            while str(version) not in answers:
                pass
    stop.set()
    for thread in threads:
        thread.join()
    assert bad == []
    assert set(answers) == {str(version) for version in range(1, SWAPS + 2)}
    for name, contents in answers.items():
        (content,) = contents  # one version, one answer, to the last bit
        wanted = bundles.truth(bundles.network(int(name)), images)
        np.testing.assert_allclose(np.frombuffer(content, "<f4").reshape(3, 10), wanted, atol=1e-6)


def test_a_bad_new_version_leaves_the_old_one_serving(tmp_path: Path) -> None:
    bundles.write(tmp_path, version=1)
    settings = Settings(models=tmp_path, versions="latest", admin_keys="k")
    with TestClient(create_app(settings)) as client:
        (bundles.write(tmp_path, version=2).folder / "model.onnx").write_bytes(b"junk")
        answer = client.post("/v2/repository/models/tiny/load", headers=ADMIN)
        assert answer.status_code == 400
        assert "sha256" in answer.json()["error"]
        assert client.get("/v2/models/tiny").json()["versions"] == ["1"]
        assert client.get("/v2/health/ready").status_code == 200
        index = client.post("/v2/repository/index").json()
        assert [(row["version"], row["state"]) for row in index] == [("1", "READY"), ("2", "UNAVAILABLE")]
        assert "sha256" in index[1]["reason"]
        assert len(client.post("/v2/repository/index", json={"ready": True}).json()) == 1
        # A version that serves and whose files are harmed goes on from memory.
        (tmp_path / "tiny/1/model.onnx").write_bytes(b"junk")
        assert client.post("/v2/repository/models/tiny/load", headers=ADMIN).status_code == 400
        body = {"inputs": [json_input(bundles.pictures(1))]}
        assert client.post(INFER, json=body).json()["model_version"] == "1"


def test_what_is_gone_goes_out_of_service(tmp_path: Path) -> None:
    for version in (1, 2, 3):
        bundles.write(tmp_path, version=version)
    bundles.write(tmp_path, "other", 1)
    with TestClient(create_app(Settings(models=tmp_path, admin_keys="k"))) as client:
        shutil.rmtree(tmp_path / "tiny/3")
        assert client.post("/v2/repository/models/tiny/load", headers=ADMIN).status_code == 200
        assert client.get("/v2/models/tiny").json()["versions"] == ["1", "2"]
        assert client.post("/v2/repository/models/other/unload", headers=ADMIN).status_code == 200
        assert client.get("/v2/models/other").status_code == 404
        assert client.post("/v2/repository/models/nobody/unload", headers=ADMIN).status_code == 404


@pytest.mark.parametrize(
    ("policy", "versions"),
    [("all", ["1", "2", "3"]), ("latest", ["3"]), ("latest:2", ["2", "3"]), ("1,3", ["1", "3"]), ("1", ["1"])],
)
def test_version_policies(tmp_path: Path, policy: str, versions: list[str]) -> None:
    for version in (1, 2, 3):
        bundles.write(tmp_path, version=version)
    with TestClient(create_app(Settings(models=tmp_path, versions=policy))) as client:
        assert client.get("/v2/models/tiny").json()["versions"] == versions


def test_latest_takes_the_newest_that_is_sound(tmp_path: Path) -> None:
    for version in (1, 2, 3):
        bundles.write(tmp_path, version=version)
    (tmp_path / "tiny/3/manifest.json").write_text("{}")
    with TestClient(create_app(Settings(models=tmp_path, versions="latest"))) as client:
        assert client.get("/v2/models/tiny").json()["versions"] == ["2"]


def test_an_order_is_not_undone_by_an_earlier_one(repository: Path, start_server: Callable[..., Process]) -> None:
    server = start_server(repository, admin_keys="k").wait_ready()
    with httpx2.Client(verify=False, base_url=server.url) as client:
        for _ in range(40):  # a worker looks at the orders ten times a second
            for action, status in (("unload", 404), ("load", 200)):
                assert client.post(f"/v2/repository/models/tiny/{action}", headers=ADMIN).status_code == 200
                assert {client.get("/v2/models/tiny/ready").status_code for _ in range(3)} == {status}
