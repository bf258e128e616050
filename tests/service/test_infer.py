import json
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from service.errors import BadRequestError
from service.protocol.datatypes import BY_NAME
from service.protocol.request import RequestReader
from service.protocol.signature import Signature, Tensor
from tests.service import bundles
from tests.service.bundles import Array

INFER = "/v2/models/tiny/infer"
HEADER = "Inference-Header-Content-Length"


@pytest.fixture(scope="module")
def client(either_client: Any) -> Any:
    return either_client


def json_input(images: Array, **changes: Any) -> dict[str, Any]:
    return {
        "name": "image",
        "shape": list(images.shape),
        "datatype": "UINT8",
        "data": images.ravel().tolist(),
    } | changes


def binary_body(images: Array, **request: Any) -> tuple[bytes, dict[str, str]]:
    raw = images.tobytes()
    tensor: dict[str, Any] = {"name": "image", "shape": list(images.shape), "datatype": "UINT8"}
    tensor["parameters"] = {"binary_data_size": len(raw)}
    head = json.dumps({"inputs": [tensor]} | request).encode()
    return head + raw, {HEADER: str(len(head))}


def test_json_in_json_out(client: TestClient, images: Array, expected: Array) -> None:
    answer = client.post(INFER, json={"id": "a-7", "inputs": [json_input(images)]})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert (body["model_name"], body["model_version"], body["id"]) == ("tiny", "2", "a-7")
    (output,) = body["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("probabilities", "FP32", [5, 10])
    np.testing.assert_allclose(np.array(output["data"], np.float32).reshape(5, 10), expected, atol=1e-6)


def test_nested_data_is_row_major(client: TestClient, images: Array, expected: Array) -> None:
    answer = client.post(INFER, json={"inputs": [json_input(images, data=images.tolist())]}).json()
    np.testing.assert_allclose(np.array(answer["outputs"][0]["data"]).reshape(5, 10), expected, atol=1e-6)


def test_binary_both_ways(client: TestClient, images: Array, expected: Array) -> None:
    body, headers = binary_body(images, parameters={"binary_data_output": True})
    answer = client.post(INFER, content=body, headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/octet-stream"
    length = int(answer.headers[HEADER])
    document = json.loads(answer.content[:length])
    assert document["outputs"][0]["parameters"] == {"binary_data_size": 200}
    np.testing.assert_allclose(np.frombuffer(answer.content[length:], "<f4").reshape(5, 10), expected, atol=1e-6)


def test_binary_answer_and_json_answer_carry_the_same_floats(client: TestClient, images: Array) -> None:
    body, headers = binary_body(images)
    as_json = client.post(INFER, content=body, headers=headers).json()["outputs"][0]["data"]
    body, headers = binary_body(images, outputs=[{"name": "probabilities", "parameters": {"binary_data": True}}])
    answer = client.post(INFER, content=body, headers=headers)
    raw = answer.content[int(answer.headers[HEADER]) :]
    assert np.array(as_json).astype("<f4").tobytes() == raw


def test_raw_request(client: TestClient, images: Array, expected: Array) -> None:
    answer = client.post(INFER, content=images[:1].tobytes(), headers={HEADER: "0"})
    assert answer.status_code == 200, answer.text
    raw = answer.content[int(answer.headers[HEADER]) :]
    np.testing.assert_allclose(np.frombuffer(raw, "<f4"), expected[0], atol=1e-6)


def test_versions_answer_for_themselves(client: TestClient, images: Array) -> None:
    for version in (1, 2):
        answer = client.post(f"/v2/models/tiny/versions/{version}/infer", json={"inputs": [json_input(images)]}).json()
        assert answer["model_version"] == str(version)
        wanted = bundles.truth(bundles.network(version), images)
        np.testing.assert_allclose(np.array(answer["outputs"][0]["data"]).reshape(5, 10), wanted, atol=1e-6)


def test_more_rows_than_one_run_takes(client: TestClient) -> None:
    many = bundles.pictures(50, seed=3)
    body, headers = binary_body(many)
    answer = client.post(INFER, content=body, headers=headers).json()["outputs"][0]
    assert answer["shape"] == [50, 10]
    wanted = bundles.truth(bundles.network(2), many)
    # Float32 against float64: relative as well, since on a processor without AVX-512 0.56 was 1.08e-6 off.
    np.testing.assert_allclose(np.array(answer["data"]).reshape(50, 10), wanted, rtol=1e-5, atol=1e-6)


def test_classification_names_the_largest(client: TestClient, images: Array, expected: Array) -> None:
    outputs = [{"name": "probabilities", "parameters": {"classification": 3}}]
    answer = client.post(INFER, json={"inputs": [json_input(images)], "outputs": outputs}).json()["outputs"][0]
    assert (answer["datatype"], answer["shape"]) == ("BYTES", [5, 3])
    rows = np.array(answer["data"]).reshape(5, 3)
    for row, scores in zip(rows, expected, strict=True):
        best = [text.split(":") for text in row]
        assert [int(index) for _, index, _ in best] == np.argsort(-scores)[:3].tolist()
        assert [label for _, _, label in best] == [bundles.LABELS[int(index)] for _, index, _ in best]


def test_the_content_type_does_not_matter(client: TestClient, images: Array) -> None:
    content = json.dumps({"inputs": [json_input(images)]})
    for kind in ("application/octet-stream", "text/plain", ""):
        assert client.post(INFER, content=content, headers={"Content-Type": kind}).status_code == 200


def test_unknown_keys_and_empty_ids_are_taken(client: TestClient, images: Array) -> None:
    body = {"model_name": "tiny", "id": "", "inputs": [json_input(images)], "outputs": []}
    answer = client.post(INFER, json=body)
    assert answer.status_code == 200
    assert answer.json()["id"] == ""


ONE = bundles.pictures(1)
BAD_INPUTS: list[tuple[dict[str, Any], str]] = [
    ({"name": "zzz"}, "unexpected inference input 'zzz' for model 'tiny'"),
    ({"datatype": "INT64"}, "inference input 'image' data-type is 'INT64', but model 'tiny' expects 'UINT8'"),
    ({"datatype": None}, "data-type is 'None'"),
    ({"shape": [1, 784]}, "unexpected shape for input 'image' for model 'tiny'. Expected [-1,28,28,1], got [1,784]"),
    ({"shape": []}, "input 'image' has no shape but model requires batch dimension for 'tiny'"),
    ({"shape": [-1, 28, 28, 1]}, "attempt to access JSON non-unsigned-integer"),
    ({"shape": [1.0, 28, 28, 1]}, "attempt to access JSON non-unsigned-integer"),
    ({"shape": [True, 28, 28, 1]}, "attempt to access JSON non-unsigned-integer"),
    ({"shape": "1,28,28,1"}, "must have a 'shape'"),
    ({"shape": [2**40, 2**40, 28, 1]}, "causes total element count to exceed maximum size of 9223372036854775807"),
    ({"shape": [2000, 28, 28, 1], "data": []}, "expected 1568000 elements, got 0"),
    ({"shape": [0, 28, 28, 1], "data": []}, "batch-size must be at least 1"),
    ({"data": [0] * 783}, "Shape does not match true shape of 'data' field"),
    ({"data": [0] * 785}, "Shape does not match true shape of 'data' field"),
    ({"data": "x"}, "'data' of input 'image' must be a list"),
    ({"data": [[0], [0, 1]]}, "nested lists of different lengths"),
    ({"data": [None] * 784}, "must be whole numbers for datatype UINT8"),
    ({"data": ["7"] * 784}, "must be whole numbers for datatype UINT8"),
    ({"data": [0.5] * 784}, "must be whole numbers for datatype UINT8"),
    ({"data": [256] + [0] * 783}, "must be from 0 to 255 for datatype UINT8"),
    ({"data": [-1] + [0] * 783}, "must be from 0 to 255 for datatype UINT8"),
    ({"data": [10**30] + [0] * 783}, "must be whole numbers for datatype UINT8"),
    ({"data": [0] * 783 + [[0]]}, "must be whole numbers for datatype UINT8"),
    ({"parameters": 3}, "'parameters' of input 'image' must be an object"),
    ({"parameters": {"binary_data_size": "9"}}, "'binary_data_size' of input 'image' must be a number of bytes"),
    ({"parameters": {"binary_data_size": 784}}, "expecting 784 additional bytes"),
]


@pytest.mark.parametrize(("changes", "message"), BAD_INPUTS)
def test_bad_inputs_are_named(client: TestClient, changes: dict[str, Any], message: str) -> None:
    answer = client.post(INFER, json={"inputs": [json_input(ONE, **changes)]})
    assert answer.status_code == 400
    assert message in answer.json()["error"]
    assert list(answer.json()) == ["error"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "failed to parse the request JSON buffer"),
        (b"{", "failed to parse the request JSON buffer"),
        (b"[]", "must be a JSON object"),
        (b"{}", "must have 'inputs'"),
        (b'{"inputs":{}}', "must have 'inputs'"),
        (b'{"inputs":[3]}', "must be an object with a 'name'"),
        (b'{"inputs":[]}', "expected 1 inputs but got 0 inputs for model 'tiny'"),
        (b'{"inputs":[],"id":5}', "'id' must be a string"),
        (b'{"inputs":[{"name":"image","shape":[1,28,28,1],"datatype":"UINT8"}]}', "must have 'data'"),
        (b'{"inputs":[{"data":[NaN]}]}', "failed to parse the request JSON buffer"),
        (b"[" * 5000 + b"]" * 5000, "JSON nesting depth exceeds maximum allowed limit"),
        (b"\xff\xfe", "failed to parse the request JSON buffer"),
    ],
)
def test_bad_documents_are_named(client: TestClient, body: bytes, message: str) -> None:
    answer = client.post(INFER, content=body)
    assert answer.status_code == 400
    assert message in answer.json()["error"]


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ([{"name": "zzz"}], "unexpected inference output 'zzz' for model 'tiny'"),
        ([{"name": "probabilities"}] * 2, "requested twice"),
        ([{}], "must be an object with a 'name'"),
        ({}, "'outputs' must be a list"),
        ([{"name": "probabilities", "parameters": {"classification": -1}}], "must be a number of classes"),
    ],
)
def test_bad_outputs_are_named(client: TestClient, outputs: Any, message: str) -> None:
    answer = client.post(INFER, json={"inputs": [json_input(ONE)], "outputs": outputs})
    assert answer.status_code == 400
    assert message in answer.json()["error"]


def test_two_inputs_for_one(client: TestClient) -> None:
    answer = client.post(INFER, json={"inputs": [json_input(ONE)] * 2})
    assert (answer.status_code, "twice" in answer.json()["error"]) == (400, True)


def test_a_batch_that_is_too_large(client: TestClient) -> None:
    body, headers = binary_body(np.zeros((1025, 28, 28, 1), np.uint8))
    answer = client.post(INFER, content=body, headers=headers)
    assert answer.status_code == 400
    assert "batch-size must be <= 1024 for 'tiny'" in answer.json()["error"]


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("abc", "Unable to parse Inference-Header-Content-Length"),
        ("-1", "Unable to parse Inference-Header-Content-Length"),
        ("1e3", "Unable to parse Inference-Header-Content-Length"),
        ("9" * 30, "Unable to parse Inference-Header-Content-Length"),
        ("100000", "inference header size should be in range (0, "),
    ],
)
def test_bad_header_lengths(client: TestClient, header: str, message: str) -> None:
    body, _ = binary_body(ONE)
    answer = client.post(INFER, content=body, headers={HEADER: header})
    assert answer.status_code == 400
    assert message in answer.json()["error"]


def test_binary_sizes_are_checked(client: TestClient) -> None:
    body, headers = binary_body(ONE)
    for changed, message in (
        (body + b"x", "unexpected additional input data for model 'tiny'"),
        (body[:-1], "expecting 1 additional bytes for model 'tiny'"),
        (body.replace(b": 784", b": 700"), "input byte size mismatch for input 'image' for model 'tiny'"),
    ):
        answer = client.post(INFER, content=changed, headers=headers)
        assert answer.status_code == 400
        assert message in answer.json()["error"]
    answer = client.post(INFER, content=b"\0" * 783, headers={HEADER: "0"})
    assert "Expected 784, got 783" in answer.json()["error"]


def test_a_header_that_was_seen_before_is_checked_all_the_same(client: TestClient) -> None:
    many = bundles.pictures(4, seed=11)
    wanted = bundles.truth(bundles.network(2), many)
    for image, want in zip(many, wanted, strict=True):  # the same header each time, other bytes behind it
        body, headers = binary_body(image[None], id="same")
        answer = client.post(INFER, content=body, headers=headers).json()
        assert answer["id"] == "same"
        np.testing.assert_allclose(answer["outputs"][0]["data"], want, atol=1e-6)
        for changed, message in ((body + b"x", "additional input data"), (body[:-1], "expecting 1 additional bytes")):
            answer = client.post(INFER, content=changed, headers=headers)
            assert (answer.status_code, message in answer.json()["error"]) == (400, True)


def test_errors_never_repeat_the_payload(client: TestClient) -> None:
    secret = "s3cret" * 2000
    for body in ({"inputs": [json_input(ONE, data=[secret])]}, {"inputs": [json_input(ONE, name=secret)]}, [secret]):
        answer = client.post(INFER, json=body)
        assert answer.status_code == 400
        assert len(answer.text) < 400


def test_unknown_models_and_versions(client: TestClient) -> None:
    for path, message in (
        ("/v2/models/x/infer", "Request for unknown model: 'x' is not found"),
        ("/v2/models/tiny/versions/7/infer", "Request for unknown model: 'tiny' version 7 is not found"),
        ("/v2/models/tiny/versions/0/infer", "version 0 is not found"),
        ("/v2/models/tiny/versions/new/infer", "Not Found"),
        ("/v2/models/..%2F..%2Fetc/infer", "Not Found"),
    ):
        answer = client.post(path, content=b"{}")
        assert answer.status_code == 404
        assert message in answer.json()["error"]


def test_bodies_are_bounded(repository: Any) -> None:
    from service.app import create_app
    from service.settings import Settings

    with TestClient(create_app(Settings(models=repository, max_body_bytes=2000))) as small:
        for path in (INFER, "/predict"):
            for content in (b"x" * 2001, iter([b"x" * 1500, b"x" * 1500])):
                answer = small.post(path, content=content)
                assert answer.status_code == 413
                assert "maximum allowed value of 2000 bytes" in answer.json()["error"]


ENVELOPE = '{"id":"%s","inputs":[{"name":"x","shape":[1,4],"datatype":"%s","data":%s}]}'


@pytest.mark.parametrize("datatype", ["FP32", "FP64", "UINT8", "INT64"])
@pytest.mark.parametrize(
    "data",
    [
        "[1,2,3,4]", "[ 4 , 3,2, 1 ]", "[1.5,-0.0,1e-3,2]", "[[1,2,3,4]]", "[[1,2],[3,4]]", "[1,2,[3],4]", "[1,2,3]",
        "[1,2,3,4,5]", "[]", "[1,2,3,4],", "[1,2,3,4]]", "[1,2,3,4}", "[1,2,3,null]", '[1,2,3,"4"]', '["]",2,3,4]',
        "[true,2,3,4]", "[NaN,2,3,4]", "[1e39,2,3,4]", "[1e400,2,3,4]", "[256,2,3,4]", "[-1,2,3,4]", "[01,2,3,4]",
        "[9223372036854775808,2,3,4]", "[99999999999999999999,2,3,4]", "[0.1,16777217,3,4]", '{"a":[1,2,3,4]}', "7",
    ],
)  # fmt: skip
def test_a_request_like_the_last_is_read_as_if_it_were_the_first(datatype: str, data: str) -> None:
    """What stands around the numbers is remembered; that changes nothing about what is taken and what is refused."""
    tensor = Tensor("x", BY_NAME[datatype], (-1, 4))
    signature = Signature("m", (tensor,), (tensor,), 8)

    def read(reader: RequestReader) -> Any:
        try:
            request = reader.read((ENVELOPE % ("a", datatype, data)).encode(), None)
        except BadRequestError as error:
            return error.message
        return request.id, request.rows, request.arrays[0].dtype, request.arrays[0].shape, request.arrays[0].tobytes()

    used = RequestReader(signature)
    for _ in range(2):
        used.read((ENVELOPE % ("a", datatype, "[9,8,7,6]")).encode(), None)
    assert used.remembered == 1
    assert read(used) == read(RequestReader(signature))


def test_data_elsewhere_is_not_taken_for_the_inputs() -> None:
    tensor = Tensor("x", BY_NAME["FP32"], (-1, 2))
    signature = Signature("m", (tensor,), (tensor,), 8)
    body = '{"parameters":{"data":[%d,2]},"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[3,4]}]}'
    reader = RequestReader(signature)
    for number in (1, 5):
        request = reader.read((body % number).encode(), None)
        assert request.arrays[0].tolist() == [[3, 4]]
        assert request.parameters == {"data": [number, 2]}
