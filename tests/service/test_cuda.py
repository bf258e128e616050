"""The ways of a CUDA card, as far as they can be walked on the CPU."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from service.engine.cuda import BucketSession, bucket, nodes_by_provider, provider_options, strays
from service.settings import Settings
from tests.service import bundles

CPU = ["CPUExecutionProvider"]


def test_options_follow_the_settings() -> None:
    options = provider_options(Settings(device_id=1, gpu_memory_mib=512))
    assert options["device_id"] == 1
    assert options["gpu_mem_limit"] == 512 * 1024 * 1024
    assert options["cudnn_conv_algo_search"] == "HEURISTIC"
    assert "gpu_mem_limit" not in provider_options(Settings())


def test_there_are_few_sizes_of_batches() -> None:
    assert [bucket(rows) for rows in (1, 2, 3, 4, 5, 16, 17, 1000)] == [1, 2, 4, 4, 8, 16, 32, 1024]


@pytest.mark.parametrize("rows", [1, 3, 8, 13])
def test_padding_does_not_show(rows: int) -> None:
    network, images = bundles.network(1), bundles.pictures(rows)
    plain = onnxruntime.InferenceSession(network.SerializeToString(), providers=CPU)
    seen: list[int] = []

    class Spy:
        def __getattr__(self, name: str) -> object:
            return getattr(plain, name)

        def run_with_iobinding(self, binding: onnxruntime.IOBinding) -> None:
            plain.run_with_iobinding(binding)
            seen.append(len(binding.copy_outputs_to_cpu()[0]))

    (got,) = BucketSession(Spy(), batched=True).run(None, {"image": images})
    np.testing.assert_allclose(got, bundles.truth(network, images), atol=1e-6)
    assert seen == [bucket(rows)]


def test_a_profile_says_where_the_nodes_ran(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(bundles.network(1).SerializeToString())
    found = nodes_by_provider(file, CPU, {"image": bundles.pictures(2)})
    assert {provider for providers in found.values() for provider in providers} == set(CPU)
    assert strays(found)
    assert strays({"Conv": {"CUDAExecutionProvider"}, "Gemm": {"CUDAExecutionProvider"}, "Shape": set(CPU)}) == []
