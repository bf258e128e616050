"""Sessions answer as the reference evaluator does, and keep a plan of the memory only where there are few shapes."""

from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, checker, helper, save
from onnx.reference import ReferenceEvaluator

from service.engine.session import CPU, open_session
from service.settings import Settings


def network(shape: list[str | int], outcome: list[str | int]) -> ModelProto:
    """FLOAT `shape` -> its positive part, summed over everything behind the first dimension, or over all of it."""
    axes = helper.make_tensor("axes", TensorProto.INT64, [len(shape) - len(outcome)], range(len(outcome), len(shape)))
    nodes = [helper.make_node("Relu", ["x"], ["r"]), helper.make_node("ReduceSum", ["r", "axes"], ["y"], keepdims=0)]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    made = helper.make_tensor_value_info("y", TensorProto.FLOAT, outcome)
    graph = helper.make_graph(nodes, "sums", [given], [made], [axes])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    checker.check_model(model)
    return model


@pytest.mark.parametrize(
    ("shape", "outcome", "planned"),
    [
        (["batch", 6, 5], ["batch"], True),
        ([2, 6, 5], [2], True),
        (["batch", "height", "width"], ["batch"], False),
        (["rows", 6, 5], [], False),  # not a batch: it is never cut into slices
    ],
)
def test_memory_is_planned_where_shapes_are_few(
    shape: list[str | int], outcome: list[str | int], planned: bool, tmp_path: Path
) -> None:
    model = network(shape, outcome)
    save(model, tmp_path / "model.onnx")
    session, _ = open_session(tmp_path / "model.onnx", CPU, Settings())

    assert session.get_session_options().enable_mem_pattern is planned
    rng = np.random.default_rng(0)
    for rows in (1, 2, 3, 2) if shape[0] != 2 else (2, 2):
        x = rng.standard_normal((rows, 6, 5)).astype(np.float32)
        (wanted,) = ReferenceEvaluator(model).run(None, {"x": x})
        (found,) = session.run(None, {"x": x})
        np.testing.assert_allclose(np.asarray(found), np.asarray(wanted), rtol=1e-5)
