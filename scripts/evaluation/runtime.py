"""ONNX Runtime as the figures use it: CPU, one thread."""

import onnx
import onnxruntime as ort

LEVELS = {
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}


def session(model: onnx.ModelProto, level: str = "all", save: str | None = None) -> ort.InferenceSession:
    """A session at one of ONNX Runtime's levels; "all" is its default.

    Args:
        model: to run.
        level: key of `LEVELS`.
        save: where to write the graph that ONNX Runtime made of the model.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.graph_optimization_level = LEVELS[level]
    options.log_severity_level = 3
    if save:
        options.optimized_model_filepath = save
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
