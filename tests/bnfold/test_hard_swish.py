"""A batch normalisation whose output a kept scalar Add reads as well, as in every hard-swish."""

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest

import bnfold

HARD_SWISH = """
<ir_version: 10, opset_import: ["": 18]>
net (float[N,2,4,4] x) => (float[N,2,4,4] y)
<float[2,2,1,1] w = {1,2,3,4}, float[2] g = {1,2}, float[2] b = {1,-1}, float[2] m = {0.5,0.25}, float[2] v = {1,2},
 float three = {3}, float six = {6}, float zero = {0}, float sixth = {0.1666666}>
{ c = Conv(x, w)  n = BatchNormalization(c, g, b, m, v)  a = Add(n, three)  k = Clip(a, zero, six)
  s = Mul(k, sixth)  y = Mul(n, s) }
"""


@pytest.mark.parametrize("target", bnfold.TARGETS)
def test_hard_swish_after_batch_normalization_stays_the_same_function(target: str) -> None:
    model = onnx.parser.parse_model(HARD_SWISH)
    folded = bnfold.fold(model, target=target).model
    onnx.checker.check_model(folded, full_check=True)
    x = np.random.default_rng(0).normal(size=(3, 2, 4, 4)).astype(np.float32)
    expected, found = (
        onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x})[
            0
        ]
        for graph in (model, folded)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert [node.op_type for node in folded.graph.node].count("Conv") == 1
