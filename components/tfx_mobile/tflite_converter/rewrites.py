"""Ops that TensorFlow's converter cannot take as they are, although their results need nothing special.

Runs in the child process only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from tfx_mobile.tflite_converter import graphs


def simplify(graph_def: Any, ops: Mapping[str, Any]) -> None:
    """Replaces such ops by equal ones, in place.

    Args:
        graph_def: The nodes that are kept of the frozen graph; changed.
        ops: The frozen graph's ops by name.
    """
    for node in list(graph_def.node):
        op = ops.get(node.name)
        if op is None:
            continue
        if op.type == "StringToHashBucketFast" and op.get_attr("num_buckets") == 1:
            # What a vocabulary with one bucket for unknown words does; every word hashes to 0.
            graphs.replace(graph_def, node, op.inputs, lambda text: tf.zeros(tf.shape(text), tf.int64))
        elif op.type == "DenseBincount":
            graphs.replace(graph_def, node, op.inputs, _count(op))
        elif op.type == "OneHot" and (build := _one_hot(op)) is not None:
            graphs.replace(graph_def, node, op.inputs[:1], build)
        elif op.type == "Cast" and (chain := _integers_through_floats(op)):
            tensors, build = _as_integers(op, chain)
            graphs.replace(graph_def, node, tensors, build)


def _one_hot(op: Any) -> Callable[[Any], Any] | None:
    """A one-hot encoding as a comparison; None if `op` encodes otherwise than with constants along a new last axis.

    TensorFlow's quantizer gives the two values of ONE_HOT other scales than its result, so that the encoding is wrong.
    """
    depth, on, off = (graphs.static_value(tensor) for tensor in op.inputs[1:])
    integers = op.inputs[0].dtype in (tf.int32, tf.int64)
    if depth is None or on is None or off is None or op.get_attr("axis") != -1 or not integers:
        return None
    dtype = op.outputs[0].dtype

    def build(indices: Any) -> Any:
        equal = tf.equal(tf.expand_dims(indices, -1), tf.range(int(depth), dtype=indices.dtype))
        return tf.where(equal, tf.constant(on, dtype), tf.constant(off, dtype))

    return build


_SHAPE_ONLY = ("Identity", "Reshape", "Squeeze", "ExpandDims")


def _integers_through_floats(op: Any) -> list[Any]:
    """The ops from the cast to floats up to `op`, where Keras takes integers through floats; else none.

    Quantized, the floats lose what makes categories different: 5 comes back as 4. Left out, they change nothing for
    categories below 2 ** 24, and above that they lose it themselves.
    """
    through = op.inputs[0].dtype
    if not op.outputs[0].dtype.is_integer or through not in (tf.float32, tf.float64):
        return []
    chain = [op.inputs[0].op]
    while chain[0].type in _SHAPE_ONLY:
        chain.insert(0, chain[0].inputs[0].op)
    return chain if chain[0].type == "Cast" and chain[0].inputs[0].dtype.is_integer else []


def _as_integers(op: Any, chain: Sequence[Any]) -> tuple[list[Any], Callable[..., Any]]:
    """The same without floats: the tensors it reads, and the function of them."""
    cast, *steps = chain

    def build(values: Any, *arguments: Any) -> Any:
        left = iter(arguments)
        for step in steps:
            if step.type == "Reshape":
                values = tf.reshape(values, next(left))
            elif step.type == "ExpandDims":
                values = tf.raw_ops.ExpandDims(input=values, axis=next(left))
            elif step.type == "Squeeze":
                values = tf.raw_ops.Squeeze(input=values, axis=step.get_attr("squeeze_dims"))
        return tf.cast(values, op.outputs[0].dtype)

    return [cast.inputs[0], *(step.inputs[1] for step in steps if len(step.inputs) > 1)], build


def _count(op: Any) -> Callable[[Any, Any, Any], Any]:
    """A DenseBincount of known size and without empty constants."""
    size_known = _clamped_to(op.inputs[1])
    # No weights mean ones. TensorFlow's quantizer dies of a constant without elements.
    unweighted = getattr(graphs.static_value(op.inputs[2]), "size", None) == 0
    binary = op.get_attr("binary_output")

    def build(values: Any, size: Any, weights: Any) -> Any:
        if size_known is not None:
            size = tf.constant(size_known, size.dtype)
        if unweighted:
            weights = tf.ones(tf.shape(values), weights.dtype)
        return tf.raw_ops.DenseBincount(input=values, size=size, weights=weights, binary_output=binary)

    return build


def _clamped_to(tensor: Any) -> Any:
    """The value of minimum(maximum(x, c), c), which Keras's CategoryEncoding computes its number of tokens with.

    Left to run time, the encoding's width is unknown to the converter, and integer files with it do not load.
    """
    bounds = []
    for kind in ("Minimum", "Maximum"):
        tensor = graphs.origin(tensor)
        if tensor.op.type != kind:
            return None
        values = [graphs.static_value(value) for value in tensor.op.inputs]
        if len(known := [index for index, value in enumerate(values) if value is not None]) != 1:
            return None
        bounds.append(values[known[0]])
        tensor = tensor.op.inputs[1 - known[0]]
    return bounds[0] if bounds[0] == bounds[1] else None
