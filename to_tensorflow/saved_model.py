"""An ONNX file as a SavedModel: TensorFlow follows the graph once, and keeps what it did."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tensorflow as tf
from onnx import helper, numpy_helper
from operators import OPERATORS

SIGNATURE = "serving_default"  # what TensorFlow Serving asks


def write(path: Path, folder: Path) -> None:
    """Write the SavedModel of an ONNX file; its inputs and outputs have the names and free sizes that they have there.

    NotImplementedError where it holds what has no counterpart in operators.py.
    """
    model = onnx.load(path)
    kinds = {f"{node.domain}.{node.op_type}".lstrip(".") for node in model.graph.node}
    if unknown := sorted(kinds - set(OPERATORS)):
        raise NotImplementedError(f"no operator {', '.join(unknown)} in to_tensorflow/operators.py")
    module = tf.Module()
    arrays = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    weights = {name: tf.Variable(array) for name, array in arrays.items() if array.ndim and array.dtype.kind == "f"}
    module.weights = list(weights.values())

    def answer(**inputs: Any) -> dict[str, Any]:
        fixed = {name: tf.constant(array) for name, array in arrays.items() if name not in weights}
        return _follow(
            model.graph, fixed | {name: tf.convert_to_tensor(each) for name, each in weights.items()} | inputs
        )

    inputs = {each.name: _spec(each) for each in model.graph.input}
    signature = tf.function(answer, autograph=False).get_concrete_function(**inputs)
    tf.saved_model.save(module, str(folder), signatures={SIGNATURE: signature})


def load(folder: Path) -> Callable[[dict[str, np.ndarray]], np.ndarray]:
    """What answers a batch with logits."""
    signature = tf.saved_model.load(str(folder)).signatures[SIGNATURE]
    return lambda batch: signature(**{name: tf.constant(each) for name, each in batch.items()})["logits"].numpy()


def _follow(graph: onnx.GraphProto, values: dict[str, Any]) -> dict[str, Any]:
    """The graph's outputs, given its inputs and weights by name."""
    for node in graph.node:
        attributes = {each.name: _value(each) for each in node.attribute}
        found = OPERATORS[node.op_type](*(values[name] if name else None for name in node.input), **attributes)
        values |= zip(node.output, found if isinstance(found, list) else [found], strict=False)
    return {each.name: values[each.name] for each in graph.output}


def _value(attribute: onnx.AttributeProto) -> Any:
    value = helper.get_attribute_value(attribute)
    return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value


def _spec(value: onnx.ValueInfoProto) -> tf.TensorSpec:
    kind = value.type.tensor_type
    sizes = [size.dim_value if size.HasField("dim_value") else None for size in kind.shape.dim]
    return tf.TensorSpec(sizes, tf.as_dtype(helper.tensor_dtype_to_np_dtype(kind.elem_type)), value.name)
