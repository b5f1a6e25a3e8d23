"""Features that a signature parses from tf.Examples, as the dense inputs of a `.tflite`.

A dense feature (FixedLenFeature) becomes an input as it leaves the parsing op. A sparse one (VarLenFeature) becomes an
input where the graph makes it dense, as TFX's examples do with `tf.sparse.to_dense`: an example without a value gets
the default there, which is recorded, because a `.tflite` has to be fed something.

Runs in the child process only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tfx_mobile.errors import SignatureError
from tfx_mobile.tflite_converter import graphs

Array = npt.NDArray[Any]
Parse = Callable[[Sequence[bytes]], dict[str, Array]]
Default = int | float | str

PARSERS = ("ParseExample", "ParseExampleV2")

RAW_SIGNATURE_ADVICE = (
    "or let run_fn save a second signature on raw tensors and pass its name as signature_name=... to TFLiteConverter"
)


@dataclass(frozen=True)
class Feature:
    """A parsed feature as a dense input.

    Attributes:
        name: The feature's name.
        dtype: tf.DType of its values.
        shape: tf.TensorShape, [batch, ...].
        tensors: Names of the graph's tensors that hold it; all hold the same values.
        default: Value of every element that an example lacks; None if it must be there, or if there is no one such
            value that JSON knows.
        padding: What fills shorter rows, where the graph makes the feature as wide as the longest row of a batch; the
            input then takes one value per row. None if the width is fixed.
    """

    name: str
    dtype: Any
    shape: Any
    tensors: tuple[str, ...]
    default: Default | None
    padding: Any = None


def find(graph: Any, parser: Any, fetches: Iterable[Any], signature: str) -> dict[str, Feature]:
    """The features that `fetches` are computed from, by name.

    Args:
        graph: A graph without function calls on the way.
        parser: Its parsing op.
        fetches: Tensors behind it.
        signature: The signature's name, for messages.

    Raises:
        SignatureError: A feature cannot become a dense input.
    """
    graph_def = graph.as_graph_def()
    targets = [tensor.op.name for tensor in fetches]
    outputs = _Outputs(parser)
    reached = graphs.ancestors(graph_def, targets, stop={parser.name})
    densified = _densified(graph, reached, outputs, signature)
    stops = {name.partition(":")[0] for feature in densified.values() for name in feature.tensors}
    rest = graphs.ancestors(graph_def, targets, stop={parser.name, *stops}) - stops
    features = {}
    for index in sorted(graphs.used_outputs(graph_def, rest, parser.name)):
        kind, name = outputs.kinds[index]
        if kind != "dense":
            holding = [output for output, of in zip(parser.outputs, outputs.kinds, strict=True) if of == (kind, name)]
            raise SignatureError(_not_dense(kind, name, signature, _readers(graph, rest, holding)))
        features[name] = _dense(parser, outputs, index)
    return features | densified


def parser(graph_def: Any, op: Any, features: dict[str, Feature]) -> Parse:
    """The cut-off half of a graph as a function; missing features take the defaults the signature has.

    Args:
        graph_def: The graph.
        op: Its parsing op.
        features: The features to return.
    """
    serialized = op.inputs[0]
    stop = {serialized.op.name}
    fetches = [feature.tensors[0] for feature in features.values()]
    targets = [op.name, *(fetch.partition(":")[0] for fetch in fetches)]
    half = graphs.subgraph(graph_def, graphs.ancestors(graph_def, targets, stop) - stop)

    def call(examples: Any) -> Any:
        return tf.graph_util.import_graph_def(half, {serialized.name: examples}, return_elements=fetches)

    function = tf.compat.v1.wrap_function(call, [tf.TensorSpec([None], tf.string)])

    def parse(examples: Sequence[bytes]) -> dict[str, Array]:
        values = function(tf.constant(list(examples), tf.string))
        arrays = (value.numpy() for value in values)
        return {
            name: _one_wide(feature, array) for (name, feature), array in zip(features.items(), arrays, strict=True)
        }

    return parse


def _one_wide(feature: Feature, array: Array) -> Array:
    """A batch in which no example has the feature is zero wide where the width follows the batch."""
    if feature.padding is None or array.shape[1]:
        return array
    return np.full((len(array), 1), feature.padding, array.dtype)


class _Outputs:
    """What the outputs of a parsing op hold.

    Attributes:
        op: The parsing op.
        num_sparse: Number of sparse features; the first outputs are their indices, then their values, then their
            shapes.
        first_dense: Index of the first dense output.
        kinds: Per output `sparse`, `dense` or `ragged`, and the feature's name.
    """

    def __init__(self, op: Any) -> None:
        self.op = op
        sparse, dense, ragged = _names(op)
        self.num_sparse, self.first_dense = len(sparse), 3 * len(sparse)
        kinds = [("sparse", sparse)] * 3 + [("dense", dense)] + [("ragged", ragged)] * 2
        self.kinds = [(kind, name) for kind, names in kinds for name in names]

    def sparse_part(self, tensor: Any, part: int) -> int | None:
        """Which sparse feature's indices (part 0), values (1) or shape (2) a tensor holds; None if none's."""
        source = graphs.origin(tensor)
        if source.op is not self.op or source.value_index >= self.first_dense:
            return None
        which, feature = divmod(source.value_index, self.num_sparse)
        return feature if which == part else None


def _names(op: Any) -> tuple[list[str], list[str], list[str]]:
    """Names of the sparse, dense and ragged features of a parsing op."""
    if op.type == "ParseExampleV2":
        sparse, dense, ragged = ([key.decode() for key in tf.get_static_value(keys)] for keys in op.inputs[2:5])
        return sparse, dense, ragged
    num_sparse, num_dense = op.get_attr("Nsparse"), op.get_attr("Ndense")
    names = [tf.get_static_value(tensor).item().decode() for tensor in op.inputs[2 : 2 + num_sparse + num_dense]]
    return names[:num_sparse], names[num_sparse:], []


def _dense(op: Any, outputs: _Outputs, index: int) -> Feature:
    tensor = op.outputs[index]
    num_dense = sum(kind == "dense" for kind, _ in outputs.kinds)
    defaults = op.inputs[-num_dense:]
    values = graphs.static_value(defaults[index - outputs.first_dense])
    default = None
    # Rows of open length are padded with the default, which says nothing of how long a missing row is.
    if values is not None and values.size and tensor.shape[1:].is_fully_defined() and (values == values.flat[0]).all():
        default = _to_json(values.flat[0])
    return Feature(outputs.kinds[index][1], tensor.dtype, tensor.shape, (tensor.name,), default)


def _densified(graph: Any, reached: set[str], outputs: _Outputs, signature: str) -> dict[str, Feature]:
    """The sparse features that the graph makes dense, by name."""
    found: dict[str, Feature] = {}
    for op in graph.get_operations():
        if op.type != "SparseToDense" or op.name not in reached:
            continue
        indices, shape, values, default_value = op.inputs
        index, default = outputs.sparse_part(indices, 0), graphs.static_value(default_value)
        width = _width(shape, outputs)
        if index is None or outputs.sparse_part(values, 1) != index or default is None or width is None:
            continue
        name, tensor = outputs.kinds[index][1], op.outputs[0]
        feature = Feature(
            name=name,
            dtype=tensor.dtype,
            shape=tf.TensorShape([None, max(width, 1)]),
            tensors=(tensor.name,),
            default=_to_json(default.item()),
            padding=None if width else default.item(),
        )
        if (other := found.get(name)) is not None:
            feature = _merge(other, feature, signature)
        found[name] = feature
    return found


def _merge(one: Feature, other: Feature, signature: str) -> Feature:
    """One input for a sparse feature that is made dense twice."""
    if _how(one) != _how(other):
        raise SignatureError(
            f"Signature {signature!r} makes the sparse feature {one.name!r} dense in different ways: {_how(one)} in "
            f"{one.tensors[0]}, {_how(other)} in {other.tensors[0]}; a .tflite has one input for it. Make it dense "
            f"once in preprocessing_fn or run_fn and use the result in both places, {RAW_SIGNATURE_ADVICE}."
        )
    return replace(one, tensors=(*one.tensors, *other.tensors))


def _how(feature: Feature) -> str:
    width = f"{feature.shape[1]} wide" if feature.padding is None else "as wide as the batch's longest row"
    return f"{width} with default {feature.default!r}"


def _width(shape: Any, outputs: _Outputs) -> int | None:
    """Columns of a sparse feature that is made dense with this shape.

    Returns:
        The number; 0 if it is the batch's longest row; None if it cannot be told.
    """
    shape = graphs.origin(shape)
    if outputs.sparse_part(shape, 2) is not None:
        return 0
    # tf.SparseTensor(x.indices, x.values, [x.dense_shape[0], 1]), as TFX's taxi example rebuilds it.
    if shape.op.type != "Pack" or len(shape.op.inputs) != 2:
        return None
    columns = graphs.static_value(shape.op.inputs[1])
    return int(columns) if columns is not None and columns > 0 else None


def _to_json(value: Any) -> Default | None:
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return None
    number: int | float = value.item() if isinstance(value, np.generic) else value
    return number if math.isfinite(number) else None


def _readers(graph: Any, nodes: set[str], tensors: Sequence[Any]) -> list[str]:
    """What reads one of some tensors, passing ops left out: op types and names."""
    return sorted(
        f"{op.type} ({op.name})"
        for op in graph.get_operations()
        if op.name in nodes
        and op.type != "Identity"
        and any(graphs.origin(value) is tensor for value in op.inputs for tensor in tensors)
    )


def _not_dense(kind: str, name: str, signature: str, readers: Sequence[str]) -> str:
    spec = {"sparse": "VarLenFeature", "ragged": "RaggedFeature"}[kind]
    densify = (
        "make it dense first of all, with a constant default and width: tf.sparse.to_dense(x, default_value) or, for "
        "one column, tf.sparse.to_dense(tf.SparseTensor(x.indices, x.values, [x.dense_shape[0], 1]), default_value), "
        "or "
    )
    return (
        f"Signature {signature!r} parses feature {name!r} as {kind} (tf.io.{spec}) and does not make it dense as it "
        f"is: it is read by {', '.join(readers[:5])}. A .tflite takes dense tensors only. In preprocessing_fn or "
        f"run_fn {densify if kind == 'sparse' else ''}parse it with tf.io.FixedLenFeature(shape, dtype, default_value) "
        "- in TFX the schema decides: give the feature a shape, for example with "
        f"SchemaGen(infer_feature_shape=True) - {RAW_SIGNATURE_ADVICE}."
    )
