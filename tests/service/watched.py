"""A small bundle that can be watched: a convolution and two dense layers, with batch normalisation really folded."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, TensorProto, checker, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from safetensors.numpy import save

import bnfold
from bnfold.probe import probe
from bundle import BatchNormRecord, Bundle, DriftThresholds, Manifest, Tap, TensorSpec, write_bundle
from drift import Layout, Moments

Array = npt.NDArray[Any]
EPSILON = 1e-3
CHANNELS = {"bn_1": 4, "bn_2": 6}
THRESHOLDS = DriftThresholds(held_out=300, images=(32, 256), expected=(0.03, 0.005), limit=(0.2, 0.05), rate=0.01)


def parameters(seed: int) -> dict[str, Array]:
    """γ, β, moving mean and variance of both layers; one channel of the second is dead."""
    random = np.random.default_rng(seed)
    found: dict[str, Array] = {}
    for layer, channels in CHANNELS.items():
        found |= {
            f"{layer}/gamma": random.uniform(0.5, 1.5, channels).astype(np.float32),
            f"{layer}/beta": random.normal(0, 0.3, channels).astype(np.float32),
            f"{layer}/moving_mean": random.normal(0, 1, channels).astype(np.float32),
            f"{layer}/moving_variance": random.uniform(0.2, 2, channels).astype(np.float32),
        }
    found["bn_2/moving_variance"][2] = 0
    found["bn_2/gamma"][3] = 0
    return found


def reference(seed: int) -> ModelProto:
    """uint8 [batch,8,8,1] -> Conv, Relu, BN, Flatten, Gemm, Relu, BN, Gemm, Softmax -> float32 [batch,3]."""
    random = np.random.default_rng(seed)

    def weights(name: str, *shape: int, scale: float) -> TensorProto:
        return numpy_helper.from_array((random.standard_normal(shape) * scale).astype(np.float32), name)

    def norm(layer: str, source: str) -> Any:
        names = [f"{layer}/{name}" for name in ("gamma", "beta", "moving_mean", "moving_variance")]
        return helper.make_node("BatchNormalization", [source, *names], [layer], name=layer, epsilon=EPSILON)

    nodes = [
        helper.make_node("Cast", ["image"], ["float"], name="float", to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["nchw"], name="nchw", perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["nchw", "w", "b"], ["conv"], name="conv"),
        helper.make_node("Relu", ["conv"], ["relu"], name="relu"),
        norm("bn_1", "relu"),
        helper.make_node("Flatten", ["bn_1"], ["flat"], name="flat"),
        helper.make_node("Gemm", ["flat", "v", "c"], ["dense"], name="dense"),
        helper.make_node("Relu", ["dense"], ["hidden"], name="hidden"),
        norm("bn_2", "hidden"),
        helper.make_node("Gemm", ["bn_2", "u", "d"], ["logits"], name="logits"),
        helper.make_node("Softmax", ["logits"], ["probabilities"], name="softmax", axis=-1),
    ]
    graph = helper.make_graph(
        nodes,
        "watched",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", 8, 8, 1])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 3])],
        [
            weights("w", 4, 1, 3, 3, scale=0.003),
            weights("b", 4, scale=0.1),
            weights("v", 4 * 36, 6, scale=0.1),
            weights("c", 6, scale=0.1),
            weights("u", 6, 3, scale=0.3),
            weights("d", 3, scale=0.1),
            *(numpy_helper.from_array(values, name) for name, values in parameters(seed).items()),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    checker.check_model(model)
    return model


def pictures(count: int, seed: int = 1, contrast: float = 1.0) -> Array:
    """Random pictures, uint8 [count,8,8,1], of varying brightness."""
    random = np.random.default_rng(seed)
    light = random.uniform(0.3, 1, (count, 1, 1, 1))
    return (contrast * light * random.integers(0, 256, (count, 8, 8, 1))).astype(np.uint8)


def layer_inputs(seed: int, images: Array) -> dict[str, Array]:
    """What reaches each layer, [values, channels]: of the unfolded graph, by onnx's reference evaluator."""
    model = reference(seed)
    found: Any = ReferenceEvaluator(model, verbose=0).run(["probabilities"], {"image": images}, intermediate=True)
    return {
        "bn_1": np.moveaxis(found["relu"], 1, -1).reshape(-1, CHANNELS["bn_1"]).astype(np.float64),
        "bn_2": found["hidden"].astype(np.float64),
    }


def write(
    root: Path,
    version: int = 1,
    *,
    seed: int = 0,
    name: str = "watched",
    labels: tuple[str, ...] = (),
    calibrated: bool = True,
) -> Bundle:
    """A whole bundle; versions of one seed have the same statistics, their labels tell them apart."""
    graph = reference(seed)
    folded = bnfold.fold(graph)
    entries = {entry.name: entry for entry in folded.report.entries}
    images = pictures(3)
    archive = io.BytesIO()
    (truth,) = ReferenceEvaluator(graph).run(None, {"image": images})
    np.savez(archive, image=images, probabilities=truth)
    files = {
        "model.onnx": folded.model.SerializeToString(),
        "probe.onnx": probe(graph, folded).SerializeToString(),
        "batchnorm.safetensors": save(parameters(seed)),
        "golden.npz": archive.getvalue(),
    }
    records = tuple(_record(entries[layer], channels) for layer, channels in CHANNELS.items())
    if calibrated:
        files["drift.safetensors"] = save({k: np.asarray(v) for k, v in expected(seed).to_arrays().items()})
    manifest = Manifest(
        name=name,
        version=version,
        inputs=(TensorSpec(name="image", datatype="UINT8", shape=(-1, 8, 8, 1)),),
        outputs=(TensorSpec(name="probabilities", datatype="FP32", shape=(-1, 3)),),
        labels=labels,
        batchnorm=records,
        drift=THRESHOLDS if calibrated else None,
        files={},
    )
    return write_bundle(root / name / str(version), files, manifest)


def expected(seed: int) -> Moments:
    """The moments of 300 held-out pictures, by the reference evaluator."""
    return moments(seed, pictures(300, seed=77))


def moments(seed: int, images: Array) -> Moments:
    """The moments of pictures, by the reference evaluator: the truth that the service is held against."""
    arrays: dict[str, Any] = {"images": len(images)}
    values = parameters(seed)
    for layer, inputs in layer_inputs(seed, images).items():
        sigma = np.sqrt(values[f"{layer}/moving_variance"].astype(np.float64) + EPSILON)
        z = (inputs - values[f"{layer}/moving_mean"]) / sigma
        arrays |= {f"{layer}/count": len(z), f"{layer}/sum": z.sum(0), f"{layer}/sum_of_squares": (z**2).sum(0)}
    return Moments.from_arrays(Layout.of(CHANNELS), arrays)


def _record(entry: Any, channels: int) -> BatchNormRecord:
    return BatchNormRecord(
        name=entry.name,
        axis=1,
        channels=channels,
        epsilon=EPSILON,
        momentum=0.99,
        center=True,
        scale=True,
        status=entry.status,
        rules=tuple(entry.rules),
        into=tuple(entry.into),
        residual=tuple(entry.residual),
        conditioning=entry.conditioning,
        tap=Tap(
            tensor=entry.tap.tensor, axis=entry.tap.axis, scale=tuple(entry.tap.scale), shift=tuple(entry.tap.shift)
        ),
        tap_reason="",
    )
