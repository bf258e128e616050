"""Weights are read and written a few rows at a time, whatever the size of the block."""

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from bnfold import weights as module
from bnfold.weights import Rounded, blocks, by_rows, combined, permuted, rows_of, scaled
from tests.bnfold.graphs import bias, folded, model, operators, statistics, weights

MATRIX = np.random.default_rng(3).normal(size=(5, 4))
SHAPES = [(), (1,), (5,), (5, 4), (2, 3, 4), (0, 3)]


@pytest.fixture(params=[1, 9, 1 << 18], ids=["one row at once", "two rows at once", "all at once"])
def block(request: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", request.param)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.usefixtures("block")
def test_blocks_cover_every_row_once_and_in_order(shape: tuple[int, ...]) -> None:
    rows = np.arange(shape[0] if shape else 1)
    assert np.concatenate([rows[place] for place in blocks(shape)]).tolist() == rows.tolist()


@pytest.mark.parametrize("kind", [ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE, ir.DataType.BFLOAT16])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.usefixtures("block")
def test_rounding_is_that_of_the_whole_array(shape: tuple[int, ...], kind: ir.DataType) -> None:
    array = np.random.default_rng(1).normal(size=shape)
    tensor = Rounded(lambda: rows_of(array), shape, kind, "w")
    assert tensor.tobytes() == array.astype(kind.numpy()).tobytes()
    np.testing.assert_array_equal(tensor.numpy(), array.astype(kind.numpy()))
    assert numpy_helper.to_array(ir.to_proto(tensor)).shape == shape


@pytest.mark.usefixtures("block")
def test_edits_are_those_of_the_whole_array() -> None:
    order, column, row = np.array([3, 0, 4, 2, 1]), np.arange(1.0, 6.0)[:, None], np.arange(1.0, 5.0)
    everything = slice(None)
    np.testing.assert_array_equal(scaled(lambda: rows_of(MATRIX), column, 2)()(everything), MATRIX * column)
    np.testing.assert_array_equal(scaled(lambda: rows_of(MATRIX), row, 2)()(everything), MATRIX * row)
    chained = permuted(scaled(lambda: rows_of(MATRIX), column, 2), order, axis=0)
    assert Rounded(chained, (5, 4), ir.DataType.DOUBLE, "w").tobytes() == (MATRIX * column)[order].tobytes()
    turned = permuted(lambda: rows_of(MATRIX), order[order < 4], axis=1)
    np.testing.assert_array_equal(turned()(slice(1, 3)), MATRIX[1:3][:, order[order < 4]])
    np.testing.assert_allclose(
        by_rows(lambda: rows_of(MATRIX), (5, 4), lambda part, _: part @ row), MATRIX @ row, 1e-14
    )
    np.testing.assert_allclose(combined(lambda: rows_of(MATRIX), (5, 4), column[:, 0]), column[:, 0] @ MATRIX, 1e-14)


@pytest.mark.usefixtures("block")
def test_a_network_folds_into_grouped_transposed_and_permuted_weights() -> None:
    graph = model(
        """(float[N,4,6,6] x) => (float[N,5] y) {
            n = BatchNormalization(x, g, b, m, v)  c = Conv<group=2>(n, w, z)  r = Relu(c)
            n2 = BatchNormalization(r, g, b, m, v)  t = Transpose<perm=[0,2,3,1]>(n2)  f = Flatten(t)
            d = Gemm<transB=1, alpha=2.0>(f, k, l)  s = Sigmoid(d)  n3 = BatchNormalization(s, G, B, M, V)
            y = MatMul(n3, q) }""",
        w=weights(4, 2, 3, 3),
        z=bias(4),
        k=weights(6, 64) / 8,
        l=bias(6),
        q=weights(6, 5),
        **statistics(4, "mixed"),
        **{key.upper(): array for key, array in statistics(6).items()},
    )
    assert operators(folded(graph).model) == ["Conv", "Relu", "Flatten", "Gemm", "Sigmoid", "Gemm"]
