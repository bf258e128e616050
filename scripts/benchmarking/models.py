"""A model repository of its own for what is measured or hurt, made from one bundle or one ONNX file."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scripts.benchmarking.requests import Array, pictures


@dataclass(frozen=True)
class Model:
    """What is served.

    Attributes:
        repository: the folder of the model's folder.
        name: of the model.
        input: its name.
        shape: of one row.
        dtype: of the input, `uint8` or `float32`.
        file: the ONNX file.
    """

    repository: Path
    name: str
    input: str
    shape: tuple[int, ...]
    dtype: str
    file: Path

    @property
    def infer(self) -> str:
        """The path of its inference."""
        return f"/v2/models/{self.name}/infer"

    def images(self, count: int, seed: int = 0) -> Array:
        """Pictures that it takes."""
        return pictures(count, self.shape, self.dtype, seed)


def prepare(source: Path, folder: Path) -> Model:
    """Copy a bundle, or put a bare ONNX file into a version folder.

    Args:
        source: a bundle's folder (`models/kmnist/1`) or an ONNX file of one input [batch, height, width, channels].
        folder: an empty one, which becomes the repository.
    """
    if source.is_dir():
        name = json.loads((source / "manifest.json").read_text())["name"]
        shutil.copytree(source, folder / name / source.name)
        file = folder / name / source.name / "model.onnx"
    else:
        name, file = "bare", folder / "bare" / "1" / "model.onnx"
        file.parent.mkdir(parents=True)
        shutil.copy2(source, file)
    given = session(file).get_inputs()[0]
    dtype = {"tensor(uint8)": "uint8", "tensor(float)": "float32"}[given.type]
    return Model(folder, name, given.name, tuple(given.shape[1:]), dtype, file)


def session(file: Path, threads: int = 1) -> Any:
    """ONNX Runtime's session of a file, on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def other_weights(file: Path, target: Path) -> None:
    """The same network with its largest weights scaled: another version, whose answers differ in every row."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(file)
    largest = max(
        (i for i in model.graph.initializer if i.data_type == onnx.TensorProto.FLOAT), key=lambda i: np.prod(i.dims)
    )
    largest.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(largest) * np.float32(0.5), largest.name))
    target.parent.mkdir(parents=True)
    onnx.save(model, target)
