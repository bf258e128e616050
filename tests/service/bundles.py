"""Small bundles made by hand: a real folded convolution, as the export script would leave it."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, TensorProto, checker, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from safetensors.numpy import save

from bundle import BatchNormRecord, Bundle, Manifest, TensorSpec, write_bundle

Array = npt.NDArray[Any]
LABELS = tuple("おきすつなはまやれを")
CHANNELS, CLASSES = 4, 10
EPSILON = 1e-3


def network(seed: int = 0, input_name: str = "image") -> ModelProto:
    """uint8 [batch,28,28,1] -> Conv, Relu, global pool, Gemm, Softmax -> float32 [batch,10]."""
    rng = np.random.default_rng(seed)

    def weights(name: str, *shape: int, scale: float) -> TensorProto:
        return numpy_helper.from_array((rng.standard_normal(shape) * scale).astype(np.float32), name)

    nodes = [
        helper.make_node("Cast", [input_name], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["nchw"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["nchw", "w", "b"], ["conv"], kernel_shape=[5, 5], strides=[3, 3]),
        helper.make_node("Relu", ["conv"], ["relu"]),
        helper.make_node("Flatten", ["relu"], ["flat"]),
        helper.make_node("Gemm", ["flat", "v", "c"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=-1),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(input_name, TensorProto.UINT8, ["batch", 28, 28, 1])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", CLASSES])],
        [
            weights("w", CHANNELS, 1, 5, 5, scale=0.01),
            weights("b", CHANNELS, scale=0.1),
            weights("v", CHANNELS * 64, CLASSES, scale=0.1),
            weights("c", CLASSES, scale=0.1),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    checker.check_model(model)
    return model


def pictures(count: int, seed: int = 1) -> Array:
    """Random pictures, uint8 [count,28,28,1], dark at the border as KMNIST's are."""
    array = np.random.default_rng(seed).integers(0, 256, (count, 28, 28, 1), dtype=np.uint8)
    array[:, [0, -1]] = 0
    array[:, :, [0, -1]] = 0
    return array


def truth(model: ModelProto, images: Array) -> Array:
    """What the ONNX reference evaluator says of the pictures: independent of ONNX Runtime and of the server."""
    (answer,) = ReferenceEvaluator(model).run(None, {model.graph.input[0].name: images})
    return np.asarray(answer)


def batchnorm_arrays(seed: int = 0) -> dict[str, Array]:
    """γ, β, moving mean and variance of two layers; the second without γ."""
    rng = np.random.default_rng(seed)
    draw = {
        f"{layer}/{name}": rng.standard_normal(CHANNELS).astype(np.float32)
        for layer in ("bn_1", "bn_2")
        for name in ("gamma", "beta", "moving_mean")
    }
    del draw["bn_2/gamma"]
    for layer in ("bn_1", "bn_2"):
        draw[f"{layer}/moving_variance"] = rng.uniform(1e-6, 3, CHANNELS).astype(np.float32)
    return draw


def records() -> tuple[BatchNormRecord, ...]:
    """What the manifest says of those two layers."""

    def record(name: str, scale: bool, rules: tuple[str, ...]) -> BatchNormRecord:
        return BatchNormRecord(
            name=name,
            axis=3,
            channels=CHANNELS,
            epsilon=EPSILON,
            momentum=0.99,
            center=True,
            scale=scale,
            status="folded",
            rules=rules,
            into=("conv",),
            residual=(),
            conditioning=1.5,
        )

    return record("bn_1", True, ("backward into Conv",)), record("bn_2", False, ("forward into Gemm",))


def write(
    root: Path,
    name: str = "tiny",
    version: int = 1,
    *,
    seed: int | None = None,
    golden: Array | None = None,
) -> Bundle:
    """A whole bundle at `root/name/version`, by default with weights of its own for every version."""
    model = network(version if seed is None else seed)
    images = pictures(3)
    archive = io.BytesIO()
    np.savez(archive, image=images, probabilities=truth(model, images) if golden is None else golden)
    manifest = Manifest(
        name=name,
        version=version,
        inputs=(TensorSpec(name="image", datatype="UINT8", shape=(-1, 28, 28, 1)),),
        outputs=(TensorSpec(name="probabilities", datatype="FP32", shape=(-1, CLASSES)),),
        labels=LABELS,
        batchnorm=records(),
        files={},
    )
    files = {
        "model.onnx": model.SerializeToString(),
        "batchnorm.safetensors": save(batchnorm_arrays()),
        "golden.npz": archive.getvalue(),
    }
    return write_bundle(root / name / str(version), files, manifest)
