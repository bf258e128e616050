"""A model folds without three copies of it, a large one and a small one."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

WIDTH, DEPTH = 3600, 4
STATUS = Path("/proc/self/status")
PEAK = """
import sys
from pathlib import Path
from bnfold.__main__ import main
status = main(sys.argv[1:]) if len(sys.argv) > 1 else 0
print(next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line))
sys.exit(status)
"""


def write_dense_network(path: Path) -> int:
    """A network of 207 MB with its weights in a second file; returns how many bytes these are."""
    rng = np.random.default_rng(0)
    nodes, tensors, data = [], [], "x"
    for layer in range(DEPTH):
        shapes = {"w": (WIDTH, WIDTH), "z": (WIDTH,), "g": (WIDTH,), "b": (WIDTH,), "m": (WIDTH,), "v": (WIDTH,)}
        for name, shape in shapes.items():
            array = rng.random(shape, np.float32)
            tensors.append(numpy_helper.from_array(array, f"{name}{layer}"))
        constants = [f"{name}{layer}" for name in shapes]
        nodes.append(helper.make_node("Gemm", [data, *constants[:2]], [f"d{layer}"]))
        nodes.append(helper.make_node("Relu", [f"d{layer}"], [f"r{layer}"]))
        nodes.append(helper.make_node("BatchNormalization", [f"r{layer}", *constants[2:]], [f"n{layer}"]))
        data = f"n{layer}"
    x, y = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", WIDTH]) for name in ("x", data))
    graph = helper.make_graph(nodes, "dense", [x], [y], tensors)
    network = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.save(network, path, save_as_external_data=True, location="weights.bin")
    return path.with_name("weights.bin").stat().st_size


def peak(*arguments: str) -> int:
    """Largest resident memory of the command in a process of its own, in bytes."""
    command = [sys.executable, "-c", PEAK, *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    return int(done.stdout.splitlines()[-1]) * 1024


@pytest.mark.slow
@pytest.mark.skipif(not STATUS.exists(), reason="the kernel keeps no account of the peak here")
def test_a_large_model_folds_without_three_copies(tmp_path: Path) -> None:
    source, result = tmp_path / "large.onnx", tmp_path / "folded.onnx"
    size = write_dense_network(source)
    imports = peak()

    grown = peak("fold", str(source), str(result)) - imports

    folded = onnx.load(result)
    assert size > 200e6
    assert grown < 3 * size
    assert [node.op_type for node in folded.graph.node[:3]] == ["Gemm", "Relu", "Gemm"]
    assert sum(node.op_type == "BatchNormalization" for node in folded.graph.node) == 1


@pytest.mark.slow
@pytest.mark.skipif(not STATUS.exists(), reason="the kernel keeps no account of the peak here")
def test_a_small_model_that_is_almost_one_matrix_folds_without_three_copies() -> None:
    """The reference network: 95 % of its 1.7 MB are one matrix, and the objects of its graph count as well."""
    from scripts.evaluation.cost import cost

    found = cost(onnx.load(Path(__file__).parents[2] / "models" / "kmnist" / "1" / "reference.onnx"), "ort-cpu")

    assert found.memory is not None
    assert found.memory < 3
