"""Evaluates an ONNX model in float64, independently of ONNX Runtime.

The model is rewritten so that every floating-point tensor is a double, and run by onnx's reference evaluator; its
convolutions and pools, which are loops in Python, are replaced by the few lines of numpy below.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from bnfold.errors import InputError

Array = npt.NDArray[Any]
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)


def _pads(
    auto_pad: str, pads: Sequence[int] | None, shape: Sequence[int], window: Sequence[int], strides: Sequence[int]
) -> list[tuple[int, int]]:
    """Begin and end padding of each spatial axis; `window` is the kernel's extent with its dilation."""
    if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        totals = [max((-(-n // s) - 1) * s + k - n, 0) for n, k, s in zip(shape, window, strides, strict=True)]
        halves = [(t // 2, t - t // 2) for t in totals]
        return halves if auto_pad == "SAME_UPPER" else [(b, a) for a, b in halves]
    if auto_pad == "VALID" or not pads:
        return [(0, 0)] * len(shape)
    return list(zip(pads[: len(shape)], pads[len(shape) :], strict=True))


def _windows(x: Array, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]) -> Array:
    """All windows over the spatial axes of an (N, C, …) array, as (N, C, *out, *kernel)."""
    axes = tuple(range(2, x.ndim))
    extent = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    view = np.lib.stride_tricks.sliding_window_view(x, extent, axis=axes)
    places = tuple(slice(None, None, s) for s in strides)
    inner = tuple(slice(None, None, d) for d in dilations)
    return np.asarray(view[(slice(None), slice(None), *places, *inner)])


class BatchNormalization(OpRun):
    """With moving statistics; onnx's own evaluator takes a graph before opset 14 for one in training."""

    def _run(
        self,
        x: Array,
        gamma: Array,
        beta: Array,
        mean: Array,
        variance: Array,
        *,
        epsilon: float = 1e-5,
        momentum: float = 0.9,
        training_mode: int = 0,
    ) -> tuple[Array, ...]:
        wide = (-1, *(1,) * (x.ndim - 2))
        running: tuple[Array, ...] = ()
        if training_mode:
            axes = (0, *range(2, x.ndim))
            now = (x.mean(axis=axes), x.var(axis=axes))
            running = tuple(
                momentum * old + (1 - momentum) * new for old, new in zip((mean, variance), now, strict=True)
            )
            mean, variance = now
        scale = gamma / np.sqrt(variance + epsilon)
        return ((x - mean.reshape(wide)) * scale.reshape(wide) + beta.reshape(wide), *running)


class Conv(OpRun):
    """Convolution of any rank, grouping, stride and dilation."""

    def _run(
        self,
        x: Array,
        w: Array,
        b: Array | None = None,
        *,
        auto_pad: str = "NOTSET",
        dilations: Sequence[int] | None = None,
        group: int = 1,
        kernel_shape: Sequence[int] | None = None,
        pads: Sequence[int] | None = None,
        strides: Sequence[int] | None = None,
    ) -> tuple[Array]:
        rank = x.ndim - 2
        strides, dilations = strides or [1] * rank, dilations or [1] * rank
        kernel = w.shape[2:]
        extent = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
        x = np.pad(x, [(0, 0), (0, 0), *_pads(auto_pad, pads, x.shape[2:], extent, strides)])
        windows = _windows(x, kernel, strides, dilations)
        outputs = []
        for part, weight in zip(np.split(windows, group, axis=1), np.split(w, group), strict=True):
            summed = (1, *range(2 + rank, 2 + 2 * rank))
            outputs.append(np.moveaxis(np.tensordot(part, weight, (summed, tuple(range(1, 2 + rank)))), -1, 1))
        y = np.concatenate(outputs, axis=1)
        return (y if b is None else y + b.reshape(-1, *(1,) * rank),)


class ConvTranspose(OpRun):
    """Transposed convolution: the data are spread out by the stride and convolved with the mirrored kernel."""

    def _run(
        self,
        x: Array,
        w: Array,
        b: Array | None = None,
        *,
        auto_pad: str = "NOTSET",
        dilations: Sequence[int] | None = None,
        group: int = 1,
        kernel_shape: Sequence[int] | None = None,
        output_padding: Sequence[int] | None = None,
        output_shape: Sequence[int] | None = None,
        pads: Sequence[int] | None = None,
        strides: Sequence[int] | None = None,
    ) -> tuple[Array]:
        rank = x.ndim - 2
        strides, dilations = strides or [1] * rank, dilations or [1] * rank
        more = list(output_padding or [0] * rank)
        extent = [(k - 1) * d + 1 for k, d in zip(w.shape[2:], dilations, strict=True)]
        full = [(n - 1) * s + k + m for n, s, k, m in zip(x.shape[2:], strides, extent, more, strict=True)]
        if auto_pad in ("SAME_UPPER", "SAME_LOWER") or output_shape:
            wanted = output_shape or [n * s for n, s in zip(x.shape[2:], strides, strict=True)]
            totals = [max(f - o, 0) for f, o in zip(full, wanted[-rank:], strict=True)]
            around = [(t // 2, t - t // 2) for t in totals]
            around = [(e, a) for a, e in around] if auto_pad == "SAME_LOWER" else around
        else:
            around = _pads(auto_pad, pads, x.shape[2:], extent, strides)
        spread = np.zeros((*x.shape[:2], *((n - 1) * s + 1 for n, s in zip(x.shape[2:], strides, strict=True))))
        spread[(slice(None), slice(None), *(slice(None, None, s) for s in strides))] = x
        spread = np.pad(spread, [(0, 0), (0, 0), *((k - 1, k - 1 + m) for k, m in zip(extent, more, strict=True))])
        windows = _windows(spread, w.shape[2:], [1] * rank, dilations)
        mirrored = np.flip(w, axis=tuple(range(2, w.ndim)))
        outputs = []
        for part, weight in zip(np.split(windows, group, axis=1), np.split(mirrored, group), strict=True):
            summed = (1, *range(2 + rank, 2 + 2 * rank))
            outputs.append(np.moveaxis(np.tensordot(part, weight, (summed, (0, *range(2, 2 + rank)))), -1, 1))
        y = np.concatenate(outputs, axis=1)
        y = y[(slice(None), slice(None), *(slice(a, n - e) for (a, e), n in zip(around, y.shape[2:], strict=True)))]
        return (y if b is None else y + b.reshape(-1, *(1,) * rank),)


class MaxPool(OpRun):
    """Maximum over windows; the indices are not computed."""

    def _run(
        self,
        x: Array,
        *,
        auto_pad: str = "NOTSET",
        ceil_mode: int = 0,
        dilations: Sequence[int] | None = None,
        kernel_shape: Sequence[int] = (),
        pads: Sequence[int] | None = None,
        storage_order: int = 0,
        strides: Sequence[int] | None = None,
    ) -> tuple[Array]:
        rank = x.ndim - 2
        strides, dilations = strides or [1] * rank, dilations or [1] * rank
        extent = [(k - 1) * d + 1 for k, d in zip(kernel_shape, dilations, strict=True)]
        around = _pads(auto_pad, pads, x.shape[2:], extent, strides)
        if ceil_mode:
            around = _widened(around, x.shape[2:], extent, strides)
        x = np.pad(x, [(0, 0), (0, 0), *around], constant_values=-np.inf)
        windows = _windows(x, kernel_shape, strides, dilations)
        return (windows.max(axis=tuple(range(2 + rank, 2 + 2 * rank))),)


def _widened(
    around: list[tuple[int, int]], shape: Sequence[int], extent: Sequence[int], strides: Sequence[int]
) -> list[tuple[int, int]]:
    """End padding for `ceil_mode`: a last window counts if it starts inside the data or its begin padding."""
    wide = []
    for (begin, end), n, k, s in zip(around, shape, extent, strides, strict=True):
        count = -(-(n + begin + end - k) // s) + 1
        if (count - 1) * s >= n + begin:
            count -= 1
        wide.append((begin, max(end, (count - 1) * s + k - n - begin)))
    return wide


def _double_tensor(tensor: TensorProto) -> None:
    if tensor.data_type in _FLOATS:
        array = numpy_helper.to_array(tensor).astype(np.float64)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def _double_type(info: onnx.ValueInfoProto) -> None:
    if info.type.tensor_type.elem_type in _FLOATS:
        info.type.tensor_type.elem_type = TensorProto.DOUBLE


def _double_node(node: onnx.NodeProto) -> None:
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            _double_graph(attribute.g)
        elif attribute.type == onnx.AttributeProto.TENSOR:
            _double_tensor(attribute.t)
        elif node.op_type in ("Cast", "EyeLike") and attribute.name in ("to", "dtype") and attribute.i in _FLOATS:
            attribute.i = TensorProto.DOUBLE
        elif node.op_type == "Constant" and attribute.name in ("value_float", "value_floats"):
            array = np.array(attribute.f if attribute.name == "value_float" else list(attribute.floats), np.float64)
            attribute.CopyFrom(helper.make_attribute("value", numpy_helper.from_array(array)))


def _double_graph(graph: onnx.GraphProto) -> None:
    del graph.value_info[:]
    for tensor in graph.initializer:
        _double_tensor(tensor)
    for info in (*graph.input, *graph.output):
        _double_type(info)
    for node in graph.node:
        _double_node(node)


class Float64Evaluator:
    """A model in double precision: weights, activations and sums; integer tensors stay as they are."""

    def __init__(self, model: onnx.ModelProto, extra_outputs: Sequence[str] = ()) -> None:
        """Prepares the model; it is not changed.

        Args:
            model: the model, with its weights inside.
            extra_outputs: names of inner tensors to return as well.

        Raises:
            InputError: an operator is none that onnx's reference evaluator knows.
        """
        double = onnx.ModelProto()
        double.CopyFrom(model)
        _double_graph(double.graph)
        known = {info.name for info in double.graph.output}
        double.graph.output.extend(
            helper.make_empty_tensor_value_info(name) for name in extra_outputs if name not in known
        )
        self.output_names = [info.name for info in double.graph.output]
        try:
            self._evaluator = ReferenceEvaluator(double, new_ops=[BatchNormalization, Conv, ConvTranspose, MaxPool])
        except Exception as error:
            raise InputError(f"the reference cannot be evaluated in float64: {error}") from error

    def __call__(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Runs one batch; floating-point inputs of any width are widened first.

        Raises:
            InputError: an operator fails, with the evaluator's own words.
        """
        wide = {k: v.astype(np.float64) if v.dtype.kind == "f" else v for k, v in inputs.items()}
        try:
            with np.errstate(all="ignore"):
                results = self._evaluator.run(None, wide)
        except Exception as error:
            raise InputError(f"the reference cannot be evaluated in float64: {error}") from error
        return dict(zip(self.output_names, (np.asarray(result) for result in results), strict=True))
