import math
import re
import struct
import subprocess
import sys

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from tests.service import bundles
from tests.service.bundles import Array
from tests.service.process import ROOT
from tests.service.test_infer import INFER, json_input


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("/v2/health/live", {"live": True}),
        ("/v2/health/ready", {"ready": True, "live": True}),
        ("/healthz", {"live": True}),
        ("/readyz", {"ready": True, "live": True}),
        ("/v2/models", {"models": ["tiny"]}),
        ("/v2/models/tiny/ready", {"name": "tiny", "version": "2", "ready": True}),
        ("/v2/models/tiny/versions/1/ready", {"name": "tiny", "version": "1", "ready": True}),
    ],
)
def test_simple_answers(client: TestClient, path: str, content: object) -> None:
    answer = client.get(path)
    assert (answer.status_code, answer.json()) == (200, content)


def test_server_metadata_with_and_without_a_slash(client: TestClient) -> None:
    for path in ("/v2", "/v2/"):
        answer = client.get(path, follow_redirects=False)
        assert answer.status_code == 200
        body = answer.json()
        assert body["name"] == "foldserve"
        assert {"binary_tensor_data", "batchnorm"} <= set(body["extensions"])


def test_model_metadata(client: TestClient) -> None:
    body = client.get("/v2/models/tiny").json()
    assert (body["name"], body["versions"], body["platform"]) == ("tiny", ["1", "2"], "onnxruntime_onnx")
    assert body["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, 28, 28, 1]}]
    assert body["outputs"] == [{"name": "probabilities", "datatype": "FP32", "shape": [-1, 10]}]
    assert body["properties"]["provider"] == "CPUExecutionProvider"
    assert all(isinstance(value, str) for value in body["properties"].values())


def test_batchnorm_is_bit_for_bit(client: TestClient) -> None:
    arrays = bundles.batchnorm_arrays()
    body = client.get("/v2/models/tiny/versions/1/batchnorm?arrays=true").json()
    assert [layer["name"] for layer in body["layers"]] == ["bn_1", "bn_2"]
    for layer in body["layers"]:
        for name in ("gamma", "beta", "moving_mean", "moving_variance"):
            stored = arrays.get(f"{layer['name']}/{name}", np.ones(4, np.float32))
            assert struct.pack("<4f", *layer[name]) == stored.tobytes()
        for c in range(4):
            scale = layer["gamma"][c] / math.sqrt(layer["moving_variance"][c] + layer["epsilon"])
            assert layer["s"][c] == pytest.approx(scale, rel=1e-6)
            assert layer["t"][c] == pytest.approx(
                layer["beta"][c] - scale * layer["moving_mean"][c], rel=1e-5, abs=1e-5
            )
    first = body["layers"][0]
    assert (first["axis"], first["channels"], first["epsilon"], first["momentum"]) == (3, 4, 1e-3, 0.99)
    assert (first["center"], first["scale"], body["layers"][1]["scale"]) == (True, True, False)
    assert first["fold"]["status"] == "folded"
    assert (first["fold"]["rules"], first["fold"]["into"]) == (["backward into Conv"], ["conv"])


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nowhere", 404),
        ("GET", "/v2/models/x", 404),
        ("GET", "/v2/models/tiny/versions/9", 404),
        ("GET", "/v2/models/tiny/versions/one", 404),
        ("GET", "/v2/models/x/batchnorm", 404),
        ("GET", "/v2/models/x/ready", 404),
        ("POST", "/v2/health/live", 405),
        ("DELETE", "/v2/models/tiny", 405),
        ("GET", INFER, 405),
        ("GET", "/predict", 405),
    ],
)
def test_errors_are_json_with_one_key(client: TestClient, method: str, path: str, status: int) -> None:
    answer = client.request(method, path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/json"
    assert list(answer.json()) == ["error"]
    assert isinstance(answer.json()["error"], str)


def test_metrics_count_what_happened(client: TestClient, images: Array) -> None:
    def scrape() -> dict[str, float]:
        families = text_string_to_metric_families(client.get("/metrics").text)
        return {
            s.name.removesuffix("_total") + (f"/{s.labels['reason']}" if "reason" in s.labels else ""): s.value
            for family in families
            for s in family.samples
            if s.labels.get("model") == "tiny" and s.labels.get("version") == "1" and "le" not in s.labels
        }

    path = "/v2/models/tiny/versions/1/infer"
    before = scrape()
    for _ in range(3):
        assert client.post(path, json={"inputs": [json_input(images)]}).status_code == 200
    assert client.post(path, content=b"{}").status_code == 400
    after = scrape()
    gained = {name: after[name] - before[name] for name in after}
    assert gained["nv_inference_request_success"] == 3
    assert gained["nv_inference_count"] == 15
    assert gained["nv_inference_exec_count"] == 3
    assert gained["nv_inference_request_failure/OTHER"] == 1
    assert gained["inference_request_duration_seconds_count"] == 3
    assert gained["inference_batch_size_sum"] == 15
    assert gained["nv_inference_compute_infer_duration_us"] > 0
    assert after["nv_inference_pending_request_count"] == 0


def test_metrics_know_routes_not_paths(client: TestClient) -> None:
    client.get("/v2/models/tiny")
    client.get("/some/path/of/a/stranger")
    text = client.get("/metrics").text
    assert 'route="/v2/models/{model}",status="200"' in text
    assert 'route="unmatched",status="404"' in text
    assert "stranger" not in text


def test_openapi_and_docs(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/v2", "/v2/models/{model}/infer", "/predict", "/metrics"} <= set(paths)
    page = client.get("/docs")
    assert page.status_code == 200
    assert all(f"<code>{path}</code>" in page.text for path in paths)
    # Nothing comes from elsewhere, and nothing may.
    assert re.findall(r"(?:src|href)=\"?([^\s>\"]+)", page.text) == ["openapi.json"]
    assert "default-src 'none'" in page.headers["content-security-policy"]


def test_the_server_imports_nothing_heavy() -> None:
    code = (
        "import sys, service.app, service.server\n"
        "bad = {'tensorflow', 'keras', 'tf2onnx', 'onnx', 'onnx_ir', 'bnfold', 'scripts', 'scipy', 'matplotlib'}\n"
        "sys.exit(', '.join(bad & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
