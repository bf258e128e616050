"""One network, one file: names from the Keras layers, order from the graph, nothing from the clock or the converter."""

from collections import Counter

import keras
import onnx

from scripts.converting.trace import layer_of

_WEIGHTS = {
    ("Conv", 1): "kernel", ("Conv", 2): "bias", ("ConvTranspose", 1): "kernel", ("ConvTranspose", 2): "bias",
    ("Gemm", 1): "kernel", ("Gemm", 2): "bias", ("MatMul", 1): "kernel", ("Add", 1): "bias", ("Reshape", 1): "shape",
}  # fmt: skip


def canonicalise(proto: onnx.ModelProto, model: keras.Model) -> None:
    """Rename nodes and tensors after their Keras layers, call the batch dimension `batch`, drop what varies.

    tf2onnx numbers its names by counters that go on from export to export; topology and weights are stable.
    """
    graph = proto.graph
    kept = {value.name for value in (*graph.input, *graph.output)}
    constants = {tensor.name for tensor in graph.initializer}
    renamed: dict[str, str] = {}
    used: Counter[str] = Counter(kept)
    for node in graph.node:
        layer = layer_of(node.name, model)
        stem = layer or node.op_type.lower()
        if node.op_type != "BatchNormalization":
            stem = f"{layer}/{node.op_type.lower()}" if layer else stem
        node.name = _unique(stem, used)
        for position, name in enumerate(node.input):
            if name in constants and name not in renamed:
                part = _WEIGHTS.get((node.op_type, position), f"constant{position}")
                own = node.op_type == "BatchNormalization"
                renamed[name] = name if own else _unique(f"{layer or node.name}/{part}", used)
        for position, name in enumerate(node.output):
            if name and name not in kept:
                renamed[name] = _unique(f"{node.name}:{position}", used)
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
        node.doc_string = ""
    for tensor in graph.initializer:
        tensor.name = renamed.get(tensor.name, tensor.name)
    read = {name for node in graph.node for name in node.input}
    initializers = sorted((t for t in graph.initializer if t.name in read), key=lambda tensor: tensor.name)
    copies = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in initializers]
    del graph.initializer[:]
    graph.initializer.extend(copies)
    del graph.value_info[:]
    for value in (*graph.input, *graph.output):
        shape = value.type.tensor_type.shape
        if shape.dim and not shape.dim[0].dim_value:
            shape.dim[0].dim_param = "batch"
    graph.name = model.name
    graph.doc_string = proto.doc_string = ""
    proto.producer_name, proto.producer_version = "foldserve", ""
    del proto.metadata_props[:]
    for opset in [opset for opset in proto.opset_import if opset.domain]:
        proto.opset_import.remove(opset)
    proto.ir_version = onnx.helper.find_min_ir_version_for(proto.opset_import)


def _unique(name: str, used: Counter[str]) -> str:
    used[name] += 1
    return name if used[name] == 1 else f"{name}_{used[name]}"
