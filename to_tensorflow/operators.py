"""ONNX's operators (opset 18) in TensorFlow, for any shapes: those that encoders of transformers are exported with.

Each takes its inputs in ONNX's order and its attributes by name; an input that is left out is None.
What an operator says of its inputs is in ONNX's own reference; here stands what TensorFlow does otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import tensorflow as tf
from onnx.helper import tensor_dtype_to_np_dtype

Operator = Callable[..., Any]


def cast(x: Any, to: int, **_: Any) -> Any:
    """To the type that ONNX gives the number `to`."""
    return tf.cast(x, tf.as_dtype(tensor_dtype_to_np_dtype(to)))


def constant(**attributes: Any) -> Any:
    """Its only attribute; numbers of Python have the types that ONNX says."""
    ((name, value),) = attributes.items()
    return tf.constant(value, {"value_int": tf.int64, "value_float": tf.float32}.get(name.removesuffix("s")))


def constant_of_shape(shape: Any, value: Any = None) -> Any:
    """Filled with one number; zero where none is given."""
    return tf.fill(shape, tf.constant([0.0] if value is None else value)[0])


def conv(
    x: Any, kernel: Any, bias: Any = None, *, strides: Any = (1, 1), pads: Any = (0, 0, 0, 0), dilations: Any = (1, 1),
    group: int = 1, auto_pad: bytes = b"NOTSET", **_: Any,
) -> Any:  # fmt: skip
    """Of images. TensorFlow's kernel for CPUs takes channels last."""
    if x.shape.rank != 4 or group != 1 or auto_pad != b"NOTSET":
        raise NotImplementedError("Conv of anything but images, in groups or with automatic padding")
    top, left, bottom, right = pads
    padded = tf.pad(tf.transpose(x, [0, 2, 3, 1]), [[0, 0], [top, bottom], [left, right], [0, 0]])
    found = tf.nn.conv2d(padded, tf.transpose(kernel, [2, 3, 1, 0]), list(strides), "VALID", dilations=list(dilations))
    return tf.transpose(found if bias is None else found + bias, [0, 3, 1, 2])


def divide(x: Any, y: Any) -> Any:
    """Integers towards zero."""
    return tf.truncatediv(x, y) if x.dtype.is_integer else tf.divide(x, y)


def expand(x: Any, shape: Any) -> Any:
    """Each may be wider than the other."""
    return tf.broadcast_to(x, tf.broadcast_dynamic_shape(shape_of(x), shape))


def gather(x: Any, places: Any, *, axis: int = 0) -> Any:
    """Places below zero count from the end."""
    fixed = tf.get_static_value(places)
    if fixed is None or (fixed < 0).any():
        places = tf.where(places < 0, places + tf.cast(tf.shape(x)[axis], places.dtype), places)
    return tf.gather(x, places, axis=axis)


def gather_elements(x: Any, places: Any, *, axis: int = 0) -> Any:
    """Along one axis."""
    return tf.experimental.numpy.take_along_axis(x, places, axis)


def gemm(
    x: Any, y: Any, bias: Any = None, *, alpha: float = 1.0, beta: float = 1.0, transA: int = 0, transB: int = 0  # noqa: N803 - ONNX's names
) -> Any:  # fmt: skip
    """The product times alpha, and beta times the bias."""
    found = tf.matmul(x, y, transpose_a=bool(transA), transpose_b=bool(transB))
    found = found if alpha == 1 else alpha * found
    return found if bias is None else found + (bias if beta == 1 else beta * bias)


def layer_norm(x: Any, scale: Any, bias: Any = None, *, axis: int = -1, epsilon: float = 1e-5, **_: Any) -> Any:
    """Over all axes from `axis` on."""
    axes = list(range(axis % x.shape.rank, x.shape.rank))
    mean, variance = tf.nn.moments(x, axes, keepdims=True)
    found = (x - mean) * tf.math.rsqrt(variance + epsilon) * scale
    return found if bias is None else found + bias


def arg_max(x: Any, *, axis: int = 0, keepdims: int = 1, select_last_index: int = 0) -> Any:
    """The first of the largest."""
    if select_last_index:
        raise NotImplementedError("ArgMax with select_last_index")
    found = tf.argmax(x, axis, tf.int64)
    return tf.expand_dims(found, axis) if keepdims else found


def reducing(function: Operator) -> Operator:
    """Without axes: all, or none where `noop_with_empty_axes` says so."""

    def reduced(x: Any, axes: Any = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Any:
        if axes is None and noop_with_empty_axes:
            return x
        return function(x, axis=None if axes is None else known(axes), keepdims=bool(keepdims))

    return reduced


def reshape(x: Any, shape: Any, *, allowzero: int = 0) -> Any:
    """A zero stands for the size that was there, unless it may mean zero."""
    sizes = tf.get_static_value(shape, partial=True)
    if not allowzero and sizes is not None and any(size == 0 for size in sizes):
        shape = tf.stack([shape_of(x)[n] if size == 0 else shape[n] for n, size in enumerate(sizes)])
    return tf.reshape(x, shape)


def shape_of(x: Any, *, start: int = 0, end: int | None = None) -> Any:
    """int64, as everywhere in ONNX."""
    return tf.shape(x, tf.int64)[start:end]


def slices(x: Any, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> Any:
    """The axes have to be known, where to begin and end need not be; the least number there is means: at the start."""
    rank = x.shape.rank
    places = [axis % rank for axis in (range(starts.shape[0]) if axes is None else known(axes))]
    begin, end, stride = [tf.constant(0, tf.int64)] * rank, [tf.constant(0, tf.int64)] * rank, [1] * rank
    for n, axis in enumerate(places):
        begin[axis], end[axis] = tf.cast(starts[n], tf.int64), tf.cast(ends[n], tf.int64)
        stride[axis] = 1 if steps is None else known(steps)[n]
    fixed = tf.get_static_value(starts)
    first = [axis for n, axis in enumerate(places) if fixed is not None and fixed[n] == tf.int64.min]
    whole = sum(1 << axis for axis in range(rank) if axis not in places)
    return tf.strided_slice(
        x, tf.stack(begin), tf.stack(end), tf.constant(stride, tf.int64),
        begin_mask=whole + sum(1 << axis for axis in first), end_mask=whole,
    )  # fmt: skip


def split(x: Any, sizes: Any = None, *, axis: int = 0, num_outputs: int | None = None) -> list[Any]:
    """Into parts of given sizes, or of equal ones."""
    return list(tf.split(x, num_outputs if sizes is None else known(sizes), axis))


def trilu(x: Any, k: Any = 0, *, upper: int = 1) -> Any:
    """What is above (or below) the k-th diagonal, zero elsewhere."""
    size = tf.shape(x, tf.int64)
    distance = tf.range(size[-1])[None, :] - tf.range(size[-2])[:, None]
    return tf.where(distance >= k if upper else distance <= k, x, tf.zeros_like(x))


def unsqueeze(x: Any, axes: Any) -> Any:
    """The axes are those of what comes out."""
    places = known(axes)
    for axis in sorted(axis % (x.shape.rank + len(places)) for axis in places):
        x = tf.expand_dims(x, axis)
    return x


def known(x: Any) -> list[int]:
    """The numbers of a tensor that is the same for all rows."""
    value = tf.get_static_value(x)
    if value is None:
        raise NotImplementedError("axes, sizes or steps that depend on the rows")
    return [int(each) for each in value.reshape(-1)]


OPERATORS: dict[str, Operator] = {
    "Abs": tf.abs,
    "Add": tf.add,
    "And": tf.logical_and,
    "ArgMax": arg_max,
    "Cast": cast,
    "Clip": lambda x, low=None, high=None: tf.clip_by_value(
        x, x.dtype.min if low is None else low, x.dtype.max if high is None else high
    ),
    "Concat": lambda *each, axis: tf.concat(each, axis),
    "Constant": constant,
    "ConstantOfShape": constant_of_shape,
    "Conv": conv,
    "Cos": tf.cos,
    "CumSum": lambda x, axis, exclusive=0, reverse=0: tf.cumsum(x, known(axis)[0], bool(exclusive), bool(reverse)),
    "Div": divide,
    "Einsum": lambda *each, equation: tf.einsum(equation.decode(), *each),
    "Equal": tf.equal,
    "Erf": tf.math.erf,
    "Exp": tf.exp,
    "Expand": expand,
    "Flatten": lambda x, axis=1: tf.reshape(x, [tf.reduce_prod(tf.shape(x)[:axis]), -1]),
    "Gather": gather,
    "GatherElements": gather_elements,
    "GatherND": lambda x, places, batch_dims=0: tf.gather_nd(x, places, batch_dims),
    "Gemm": gemm,
    "Greater": tf.greater,
    "GreaterOrEqual": tf.greater_equal,
    "Identity": tf.identity,
    "IsNaN": tf.math.is_nan,
    "LayerNormalization": layer_norm,
    "Less": tf.less,
    "LessOrEqual": tf.less_equal,
    "Log": tf.math.log,
    "MatMul": tf.matmul,
    "Max": lambda *each: reduce(tf.maximum, each),
    "Min": lambda *each: reduce(tf.minimum, each),
    "Mod": lambda x, y, fmod=0: tf.truncatemod(x, y) if fmod else tf.math.floormod(x, y),
    "Mul": tf.multiply,
    "Neg": tf.negative,
    "Not": tf.logical_not,
    "Or": tf.logical_or,
    "Pow": lambda x, y: tf.pow(x, tf.cast(y, x.dtype)),
    "Range": tf.range,
    "Reciprocal": tf.math.reciprocal,
    "ReduceMax": reducing(tf.reduce_max),
    "ReduceMean": reducing(tf.reduce_mean),
    "ReduceMin": reducing(tf.reduce_min),
    "ReduceProd": reducing(tf.reduce_prod),
    "ReduceSum": reducing(tf.reduce_sum),
    "Relu": tf.nn.relu,
    "Reshape": reshape,
    "Shape": shape_of,
    "Sigmoid": tf.sigmoid,
    "Sign": tf.sign,
    "Sin": tf.sin,
    "Slice": slices,
    "Softmax": lambda x, axis=-1: tf.nn.softmax(x, axis),
    "Split": split,
    "Sqrt": tf.sqrt,
    "Squeeze": lambda x, axes=None: tf.squeeze(x, None if axes is None else known(axes)),
    "Sub": tf.subtract,
    "Tanh": tf.tanh,
    "Tile": tf.tile,
    "Transpose": lambda x, perm=None: tf.transpose(x, perm),
    "Trilu": trilu,
    "Unsqueeze": unsqueeze,
    "Where": tf.where,
}
