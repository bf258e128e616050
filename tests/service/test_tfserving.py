from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from tests.service.bundles import Array

PREDICT = "/v1/models/tiny:predict"


def test_rows(client: TestClient, images: Array, expected: Array) -> None:
    for instances in (images.tolist(), [{"image": image} for image in images.tolist()]):
        answer = client.post(PREDICT, json={"signature_name": "serving_default", "instances": instances})
        assert answer.status_code == 200, answer.text
        assert list(answer.json()) == ["predictions"]
        np.testing.assert_allclose(answer.json()["predictions"], expected, atol=1e-6)


def test_columns(client: TestClient, images: Array, expected: Array) -> None:
    for inputs in (images.tolist(), {"image": images.tolist()}):
        answer = client.post(PREDICT, json={"inputs": inputs})
        assert answer.status_code == 200, answer.text
        np.testing.assert_allclose(answer.json()["outputs"], expected, atol=1e-6)


def test_status_and_metadata(client: TestClient) -> None:
    states = client.get("/v1/models/tiny").json()["model_version_status"]
    assert [(s["version"], s["state"], s["status"]["error_code"]) for s in states] == [
        ("2", "AVAILABLE", "OK"),
        ("1", "AVAILABLE", "OK"),
    ]
    assert len(client.get("/v1/models/tiny/versions/1").json()["model_version_status"]) == 1
    body = client.get("/v1/models/tiny/metadata").json()
    assert body["model_spec"] == {"name": "tiny", "signature_name": "", "version": "2"}
    definition = body["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert definition["inputs"]["image"]["dtype"] == "DT_UINT8"
    assert [d["size"] for d in definition["inputs"]["image"]["tensor_shape"]["dim"]] == ["-1", "28", "28", "1"]
    assert client.post("/v1/models/tiny/versions/1:predict", json={}).status_code == 400


ROW = np.zeros((28, 28, 1), int).tolist()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ([], "must be a JSON object"),
        ({}, "exactly one of 'instances' (rows) and 'inputs' (columns)"),
        ({"instances": [ROW], "inputs": [ROW]}, "exactly one of"),
        ({"instances": []}, "at least one row"),
        ({"instances": {}}, "at least one row"),
        ({"instances": [ROW], "signature_name": "other"}, "'signature_name' must be 'serving_default'"),
        ({"instances": [{"image": ROW}, ROW]}, "rows of the same form"),
        ({"instances": [{"image": ROW, "x": 1}]}, "every one of 'instances' must have 'image' and nothing else"),
        ({"inputs": {"image": [ROW], "x": 1}}, "takes 'image' and nothing else"),
        ({"instances": ROW}, "unexpected shape for input 'image'. Expected [-1,28,28,1]"),
        ({"instances": [ROW, ROW[:3]]}, "nested lists of different lengths"),
        ({"instances": [[[["a"]] * 28] * 28]}, "must be whole numbers"),
        ({"instances": [5]}, "unexpected shape"),
        ({"inputs": 5}, "unexpected shape"),
    ],
)
def test_what_does_not_fit_is_named(client: TestClient, body: Any, message: str) -> None:
    answer = client.post(PREDICT, json=body)
    assert answer.status_code == 400
    assert message in answer.json()["error"]
    assert len(answer.text) < 400


def test_unknown_models(client: TestClient) -> None:
    for method, path in (("GET", "/v1/models/x"), ("POST", "/v1/models/x:predict"), ("GET", "/v1/models/x/metadata")):
        assert client.request(method, path).status_code == 404
