"""Tools that optimise ONNX graphs, each as a function that says what it leaves."""

import importlib.util
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import onnx

import bnfold
from scripts.evaluation.operators import AFFINES, CLAMPS, Count, count
from scripts.evaluation.runtime import session


class Tool(NamedTuple):
    """A tool and how it is used."""

    package: str
    """To import, and to install."""
    optimise: Callable[[onnx.ModelProto], onnx.ModelProto] | None
    operators: Callable[[onnx.ModelProto], Count] = count
    """Of what `optimise` makes, or of the given model where there is nothing else to see."""

    @property
    def installed(self) -> bool:
        """Whether it can be imported here."""
        return importlib.util.find_spec(self.package) is not None


def _onnxruntime(level: str) -> Callable[[onnx.ModelProto], onnx.ModelProto]:
    def optimise(model: onnx.ModelProto) -> onnx.ModelProto:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            session(model, level, save=str(path))
            return onnx.load(path)

    return optimise


def _bnfold(target: str) -> Callable[[onnx.ModelProto], onnx.ModelProto]:
    return lambda model: bnfold.fold(model, target=target).model


def _onnxsim(model: onnx.ModelProto) -> onnx.ModelProto:
    simplified: onnx.ModelProto = _module("onnxsim").simplify(model)[0]
    return simplified


def _onnxslim(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    slim: onnx.ModelProto = _module("onnxslim").slim(copy)
    return slim


def _onnxoptimizer(model: onnx.ModelProto) -> onnx.ModelProto:
    optimised: onnx.ModelProto = _module("onnxoptimizer").optimize(model, fixed_point=True)
    return optimised


def _openvino(model: onnx.ModelProto) -> Count:
    """What its common transformations leave; its CPU plugin then attaches affines to the operator before them."""
    graph = _module("openvino").Core().read_model(model.SerializeToString(), b"")
    _module("openvino._offline_transformations").apply_moc_transformations(graph, cf=True)
    names = {"Multiply": "Mul", "Subtract": "Sub", "Divide": "Div", "BatchNormInference": "BatchNormalization"}
    affines = clamps = 0
    for node in graph.get_ordered_ops():
        kind = names.get(node.get_type_name(), node.get_type_name())
        sources = [value.get_source_output().get_node().get_type_name() for value in node.inputs()]
        affines += kind == "BatchNormalization" or (kind in AFFINES and "Constant" in sources)
        clamps += kind in (*CLAMPS, "Clamp", "PRelu", "Maximum", "Minimum")
    return Count(affines, clamps)


def _module(name: str) -> Any:
    return importlib.import_module(name)


TOOLS = {
    "as exported": Tool("onnx", lambda model: model),
    "onnxruntime basic": Tool("onnxruntime", _onnxruntime("basic")),
    "onnxruntime extended": Tool("onnxruntime", _onnxruntime("extended")),
    "onnxruntime all": Tool("onnxruntime", _onnxruntime("all")),
    "onnxsim": Tool("onnxsim", _onnxsim),
    "onnxslim": Tool("onnxslim", _onnxslim),
    "onnxoptimizer": Tool("onnxoptimizer", _onnxoptimizer),
    "openvino": Tool("openvino", None, _openvino),
    "bnfold ort-cpu": Tool("bnfold", _bnfold("ort-cpu")),
    "bnfold fewest-ops": Tool("bnfold", _bnfold("fewest-ops")),
}
