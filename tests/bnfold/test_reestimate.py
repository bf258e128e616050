"""Re-estimated statistics are those of float64 numpy, layer after layer."""

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
from onnx import numpy_helper

from bnfold import InputError
from bnfold.reestimate import reestimate

EPSILON = 1e-3
MODEL = """
<ir_version: 10, opset_import: ["": 21]>
net (float[{batch}, 3, 4] x) => (float[{batch}, 2] y)
<float[4, 4] w, float[3] g1, float[3] b1, float[3] m1, float[3] v1, float[12, 2] k,
 float[2] g2, float[2] b2, float[2] m2, float[2] v2, int64[2] shape = {{-1, 12}}>
{{
  a = MatMul(x, w)
  r = Relu(a)
  n1 = BatchNormalization<epsilon = 0.001>(r, g1, b1, {m1}, v1)
  f = Reshape(n1, shape)
  d = MatMul(f, k)
  y = BatchNormalization<epsilon = 0.001>(d, g2, b2, {m2}, {v2})
}}
"""


def network(batch: str = "N", m1: str = "m1", m2: str = "m2", v2: str = "v2") -> onnx.ModelProto:
    model = onnx.parser.parse_model(MODEL.format(batch=batch, m1=m1, m2=m2, v2=v2))
    random = np.random.default_rng(0)
    shapes = {"w": (4, 4), "k": (12, 2), **{f"{p}{i}": (n,) for i, n in ((1, 3), (2, 2)) for p in "gbmv"}}
    del model.graph.initializer[:-1]
    for name, shape in shapes.items():
        values = random.uniform(0.5, 2, shape) if name[0] in "gv" else random.normal(0, 1, shape)
        model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
    for node, name in zip(
        (n for n in model.graph.node if n.op_type == "BatchNormalization"), ("one", "two"), strict=True
    ):
        node.name = name
    return model


def weights(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t).astype(np.float64) for t in model.graph.initializer}


def by_hand(model: onnx.ModelProto, x: np.ndarray, pseudo_count: float) -> dict[str, np.ndarray]:
    """The same in float64 numpy."""
    p, share = weights(model), pseudo_count / (pseudo_count + len(x))
    r = np.maximum(x.astype(np.float64) @ p["w"], 0)
    m1 = share * p["m1"] + (1 - share) * r.mean(axis=(0, 2))
    v1 = share * p["v1"] + (1 - share) * r.var(axis=(0, 2))
    scale = (p["g1"] / np.sqrt(v1 + EPSILON))[:, None]
    d = ((r - m1[:, None]) * scale + p["b1"][:, None]).reshape(len(x), -1) @ p["k"]
    return {
        "m1": m1,
        "v1": v1,
        "m2": share * p["m2"] + (1 - share) * d.mean(0),
        "v2": share * p["v2"] + (1 - share) * d.var(0),
    }


def examples(count: int, away: float = 0.0) -> np.ndarray:
    return (np.random.default_rng(1).normal(3, 5, (count, 3, 4)) + away).astype(np.float32)


@pytest.mark.parametrize(("count", "pseudo_count"), [(300, 0), (300, 16), (7, 64), (1, 1)])
def test_statistics_are_those_of_numpy_in_the_order_of_the_layers(count, pseudo_count):
    model, x = network(), examples(count)
    before = model.SerializeToString(deterministic=True)

    made = reestimate(model, {"x": x}, pseudo_count=pseudo_count)

    assert model.SerializeToString(deterministic=True) == before
    wanted, found = by_hand(model, x, pseudo_count), weights(made.model)
    for name, values in wanted.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-5, atol=1e-5, err_msg=name)
    assert [layer.name for layer in made.layers] == ["one", "two"]
    np.testing.assert_allclose(made.layers[1].mean, wanted["m2"], rtol=1e-5, atol=1e-5)
    for name in ("w", "k", "g1", "b1", "g2", "b2"):
        np.testing.assert_array_equal(found[name], weights(model)[name])


def test_a_renewed_network_normalises_the_new_data():
    model, x = network(), examples(500, away=100.0)

    made = reestimate(model, {"x": x}, pseudo_count=0)

    session = onnxruntime.InferenceSession(made.model.SerializeToString(), providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"x": x})
    p = weights(model)
    variance = made.layers[1].variance
    np.testing.assert_allclose(y.mean(0), p["b2"], atol=1e-3)
    np.testing.assert_allclose(y.std(0), p["g2"] * np.sqrt(variance / (variance + EPSILON)), rtol=1e-3)


def test_the_variance_does_not_drown_in_the_mean():
    model = network()
    x = (np.random.default_rng(2).normal(0, 1e-2, (400, 3, 4)) + 4000).astype(np.float32)

    made = reestimate(model, {"x": x}, pseudo_count=0)

    r = np.maximum(x.astype(np.float64) @ weights(model)["w"], 0).astype(np.float32).astype(np.float64)
    np.testing.assert_allclose(made.layers[0].measured_variance, r.var(axis=(0, 2)), rtol=1e-2)


def test_a_fixed_batch_size_leaves_a_rest_out():
    model, x = network(batch="4"), examples(10)

    made = reestimate(model, {"x": x}, pseudo_count=2)

    for name, values in by_hand(model, x[:8], 2).items():
        np.testing.assert_allclose(weights(made.model)[name], values, rtol=1e-5, atol=1e-5)
    with pytest.raises(InputError, match="3 examples, at least 4 needed"):
        reestimate(model, {"x": x[:3]}, pseudo_count=2)


def test_progress_names_every_layer():
    seen = []
    reestimate(network(), {"x": examples(3)}, pseudo_count=1, progress=lambda *step: seen.append(step))

    assert seen == [("one", 0, 2), ("two", 1, 2)]


def test_what_cannot_be_re_estimated_is_refused():
    model, x = network(), examples(5)

    with pytest.raises(InputError, match="pseudo-count"):
        reestimate(model, {"x": x}, pseudo_count=-1)
    with pytest.raises(InputError, match="exactly x"):
        reestimate(model, {"y": x}, pseudo_count=1)
    with pytest.raises(InputError, match="0 examples"):
        reestimate(model, {"x": x[:0]}, pseudo_count=1)
    with pytest.raises(InputError, match="not run"):
        reestimate(model, {"x": x[:, :2]}, pseudo_count=1)
    with pytest.raises(InputError, match="one: its input is not finite"):
        reestimate(model, {"x": np.where(x > 5, np.inf, x).astype(np.float32)}, pseudo_count=1)
    with pytest.raises(InputError, match="one and two share"):
        reestimate(network(v2="v1"), {"x": x}, pseudo_count=1)
    bare = network()
    for node in bare.graph.node:
        if node.op_type == "BatchNormalization":
            node.input[3] = "x"
    with pytest.raises(InputError, match="no BatchNormalization with constant statistics"):
        reestimate(bare, {"x": x}, pseudo_count=1)
