"""The protocol's own clients, as black boxes, against the server as its own process."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as sync
import tritonclient.http.aio as aio
from tritonclient.utils import InferenceServerException

from tests.service.bundles import Array
from tests.service.process import Process

KEY = "k3y"
ADMIN = {"Authorization": f"Bearer {KEY}"}


@pytest.fixture(scope="module")
def url(repository: Path) -> Iterator[str]:
    process = Process(repository, admin_keys=KEY)
    yield process.wait_ready().url.removeprefix("http://")
    process.kill()


@pytest.fixture
def triton(url: str) -> Iterator[Any]:
    with sync.InferenceServerClient(url) as client:
        yield client


def inputs(module: Any, images: Array, binary: bool) -> list[Any]:
    tensor = module.InferInput("image", list(images.shape), "UINT8")
    tensor.set_data_from_numpy(images, binary_data=binary)
    return [tensor]


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
@pytest.mark.parametrize("compression", [None, "gzip", "deflate"])
def test_infer(
    triton: Any, images: Array, expected: Array, binary_in: bool, binary_out: bool, compression: str | None
) -> None:
    result = triton.infer(
        "tiny",
        inputs(sync, images, binary_in),
        outputs=[sync.InferRequestedOutput("probabilities", binary_data=binary_out)],
        request_id="r-1",
        request_compression_algorithm=compression,
        response_compression_algorithm=compression,
    )
    np.testing.assert_allclose(result.as_numpy("probabilities"), expected, atol=1e-6)
    assert result.get_response()["id"] == "r-1"
    assert result.get_response()["model_version"] == "2"


@pytest.mark.parametrize("compression", ["gzip", "deflate"])
def test_large_answers_come_compressed(triton: Any, images: Array, expected: Array, compression: str) -> None:
    many = np.concatenate([images] * 20)
    for binary in (True, False):
        result = triton.infer(
            "tiny",
            inputs(sync, many, binary),
            outputs=[sync.InferRequestedOutput("probabilities", binary_data=binary)],
            response_compression_algorithm=compression,
        )
        np.testing.assert_allclose(result.as_numpy("probabilities"), np.concatenate([expected] * 20), atol=1e-6)


def test_infer_without_outputs_and_with_parameters(triton: Any, images: Array, expected: Array) -> None:
    result = triton.infer(
        "tiny", inputs(sync, images, True), model_version="2", priority=1, timeout=5_000_000, parameters={"mine": 7}
    )
    np.testing.assert_allclose(result.as_numpy("probabilities"), expected, atol=1e-6)
    assert result.get_response()["parameters"] == {"mine": 7}


def test_classification(triton: Any, images: Array, expected: Array) -> None:
    for binary in (True, False):
        outputs = [sync.InferRequestedOutput("probabilities", binary_data=binary, class_count=2)]
        rows = triton.infer("tiny", inputs(sync, images, True), outputs=outputs).as_numpy("probabilities")
        texts = [[v.decode() if isinstance(v, bytes) else str(v) for v in row] for row in rows]
        found = [[int(text.split(":")[1]) for text in row] for row in texts]
        assert found == np.argsort(-expected, axis=1)[:, :2].tolist()


def test_async_infer(triton: Any, images: Array, expected: Array) -> None:
    pending = [triton.async_infer("tiny", inputs(sync, images[i : i + 1], True)) for i in range(5)]
    for i, request in enumerate(pending):
        np.testing.assert_allclose(request.get_result().as_numpy("probabilities"), expected[i : i + 1], atol=1e-6)


def test_health_and_metadata(triton: Any) -> None:
    assert triton.is_server_live()
    assert triton.is_server_ready()
    assert triton.is_model_ready("tiny")
    assert triton.is_model_ready("tiny", "1")
    assert not triton.is_model_ready("tiny", "3")
    assert not triton.is_model_ready("other")
    assert triton.get_server_metadata()["name"] == "foldserve"
    assert triton.get_model_metadata("tiny", "1")["inputs"][0]["shape"] == [-1, 28, 28, 1]
    config = triton.get_model_config("tiny")
    assert config["max_batch_size"] == 1024
    assert config["input"] == [{"name": "image", "data_type": "TYPE_UINT8", "dims": [28, 28, 1]}]
    assert config["output"] == [{"name": "probabilities", "data_type": "TYPE_FP32", "dims": [10]}]


def test_statistics(triton: Any, images: Array) -> None:
    def read() -> dict[str, Any]:
        (stats,) = triton.get_inference_statistics("tiny", "1")["model_stats"]
        return dict(stats)

    before = read()
    triton.infer("tiny", inputs(sync, images, True), model_version="1")
    with pytest.raises(InferenceServerException):
        triton.infer("tiny", [sync.InferInput("zzz", [1], "UINT8")], model_version="1")
    after = read()
    assert after["inference_count"] - before["inference_count"] == 5
    assert after["execution_count"] - before["execution_count"] == 1
    assert after["last_inference"] >= before["last_inference"]
    gained = {k: v["count"] - before["inference_stats"][k]["count"] for k, v in after["inference_stats"].items()}
    assert gained == {
        "success": 1,
        "fail": 1,
        "queue": 1,
        "compute_input": 1,
        "compute_infer": 1,
        "compute_output": 1,
        "cache_hit": 0,
        "cache_miss": 0,
    }
    assert after["inference_stats"]["success"]["ns"] > after["inference_stats"]["compute_infer"]["ns"] > 0
    assert any(row["batch_size"] == 5 for row in after["batch_stats"])
    assert len(triton.get_inference_statistics()["model_stats"]) == 2


def test_errors_reach_the_client_in_words(triton: Any, images: Array) -> None:
    for call, message in (
        (lambda: triton.infer("nobody", inputs(sync, images, True)), "Request for unknown model: 'nobody'"),
        (lambda: triton.infer("tiny", inputs(sync, images[:, :2], True)), "unexpected shape for input 'image'"),
        (lambda: triton.get_model_metadata("nobody"), "unknown model"),
        (triton.get_trace_settings, "Not Found"),
        (lambda: triton.load_model("tiny"), "This API is restricted"),
    ):
        with pytest.raises(InferenceServerException, match=message):
            call()


def test_repository_control(triton: Any) -> None:
    index = triton.get_model_repository_index()
    assert [(row["name"], row["version"], row["state"]) for row in index] == [
        ("tiny", "1", "READY"),
        ("tiny", "2", "READY"),
    ]
    triton.unload_model("tiny", headers=ADMIN)
    assert not triton.is_model_ready("tiny")
    assert triton.is_server_ready()
    assert [row["state"] for row in triton.get_model_repository_index()] == ["UNAVAILABLE"]
    triton.load_model("tiny", headers=ADMIN)
    assert triton.is_model_ready("tiny", "1")
    assert triton.is_model_ready("tiny", "2")
    for name in ("nobody", "..", "%2e%2e"):
        with pytest.raises(InferenceServerException):
            triton.load_model(name, headers=ADMIN)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_aio_client(url: str, images: Array, expected: Array) -> None:
    async def talk() -> None:
        async with aio.InferenceServerClient(url) as client:
            assert await client.is_server_live()
            assert await client.is_server_ready()
            assert (await client.get_model_metadata("tiny"))["name"] == "tiny"
            assert (await client.get_model_config("tiny"))["backend"] == "onnxruntime"
            assert len((await client.get_inference_statistics("tiny"))["model_stats"]) == 2
            assert len(await client.get_model_repository_index()) == 2
            for binary in (True, False):
                for many in (images, np.concatenate([images] * 20)):
                    for compression in (None, "gzip", "deflate"):
                        result = await client.infer(
                            "tiny",
                            inputs(aio, many, binary),
                            outputs=[aio.InferRequestedOutput("probabilities", binary_data=binary)],
                            request_compression_algorithm=compression,
                        )
                        np.testing.assert_allclose(
                            result.as_numpy("probabilities"), np.concatenate([expected] * (len(many) // 5)), atol=1e-6
                        )
            with pytest.raises(InferenceServerException, match="unknown model"):
                await client.infer("nobody", inputs(aio, images, True))

    asyncio.run(talk())
