"""The front end: turns the signature a Trainer saved into one normal form that converts well.

Normal form: a frozen graph with one signature, whose inputs are dense tensors under their true names with the wanted
batch size. A signature that parses tf.Examples is cut behind the parsing op, so that its features become the inputs
and whatever follows, Transform's graph too, travels inside the `.tflite`. Freezing also avoids the process abort that
TensorFlow 2.16 answers Keras 3 models with when they were saved by `tf.saved_model.save`.

Runs in the child process only.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy.typing as npt
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2
from tensorflow.python.grappler import tf_optimizer

from tfx_mobile.errors import ConversionError, SignatureError
from tfx_mobile.recipes import BatchSize
from tfx_mobile.records import SignatureRecord, TensorRecord
from tfx_mobile.tflite_converter import loops, state, trained_ranges

Array = npt.NDArray[Any]
Parse = Callable[[Sequence[bytes]], dict[str, Array]]

_RAW_SIGNATURE_ADVICE = (
    "or let run_fn save a second signature on raw tensors and pass its name as signature_name=... to TFLiteConverter"
)


#: Neither a GraphDef nor a FlatBuffer can be larger.
MAX_FROZEN_BYTES = 2**31 - 1


class CannotFreezeError(Exception):
    """The signature holds state other than variables; only direct conversion may work."""


@dataclass(frozen=True)
class LoadedSignature:
    """A signature of a SavedModel as it was saved.

    Attributes:
        name: Signature key.
        function: The concrete function; called with keyword arguments.
        inputs: tf.TensorSpec by input name, sorted by name.
        outputs: tf.TensorSpec by output name, sorted by name.
        keep_alive: The loaded SavedModel, which owns the variables.
    """

    name: str
    function: Any
    inputs: dict[str, Any]
    outputs: dict[str, Any]
    keep_alive: Any

    def record(self) -> SignatureRecord:
        """The signature's inputs and outputs as they were saved."""
        return SignatureRecord(
            key=self.name,
            inputs=tuple(_tensor_record(name, spec.dtype, spec.shape) for name, spec in self.inputs.items()),
            outputs=tuple(_tensor_record(name, spec.dtype, spec.shape) for name, spec in self.outputs.items()),
        )

    def assigned_variables(self) -> tuple[str, ...]:
        """Names of the variables that a call of the signature changes."""
        return tuple(state.assigned_variables(self.function))

    def loops(self) -> tuple[str, ...]:
        """Names of its loops."""
        return tuple(loops.names(self.function.graph))


def load_signature(saved_model: str | Path, name: str) -> LoadedSignature:
    """Loads a SavedModel and picks one of its signatures.

    Raises:
        SignatureError: There is no such signature, or it has inputs that no `.tflite` can have.
        ConversionError: TensorFlow cannot load the SavedModel.
    """
    try:
        loaded = tf.saved_model.load(str(saved_model))
    except Exception as error:
        raise ConversionError(
            f"TensorFlow {tf.__version__} cannot load the SavedModel: {type(error).__name__}: {error}. Check that it "
            "is complete, and that it needs no op libraries beyond TensorFlow."
        ) from error
    if name not in loaded.signatures:
        raise SignatureError(
            f"The SavedModel has no signature {name!r}. It has: {_join(loaded.signatures)}. "
            "Pass one of these as signature_name, or save the model with signatures={...} in run_fn."
        )
    function = loaded.signatures[name]
    inputs = dict(sorted(function.structured_input_signature[1].items()))
    outputs = dict(sorted(function.structured_outputs.items()))
    for tensor, spec in inputs.items():
        if spec.shape.rank in (None, 0):
            raise SignatureError(
                f"Input {tensor!r} of signature {name!r} has shape {spec.shape}; every input needs a known rank and a "
                "batch dimension first. Give it a tf.TensorSpec such as tf.TensorSpec([None, 64], tf.float32) in "
                "run_fn."
            )
    _refuse_too_large(function, name)
    return LoadedSignature(name, function, inputs, outputs, loaded)


def _refuse_too_large(function: Any, name: str) -> None:
    size = sum(variable.shape.num_elements() * variable.dtype.size for variable in function.variables)
    if size > MAX_FROZEN_BYTES:
        raise ConversionError(
            f"The variables of signature {name!r} take {size:,} bytes; a frozen graph and a .tflite file hold at most "
            f"{MAX_FROZEN_BYTES:,}. Make the model smaller, or split it into several signatures in run_fn and convert "
            "them one by one."
        )


class FrozenSignature:
    """A frozen signature, cut behind the op that parses tf.Examples if it has one.

    Attributes:
        parse: For a signature that parses tf.Examples: the parsing that was cut off, from serialized tf.Examples to
            features [rows, ...] by input name. None for a signature on raw tensors.
        trained_bits: What quantization-aware training trained the activations for; empty for any other model.
    """

    def __init__(self, signature: LoadedSignature) -> None:
        """Freezes and cuts.

        Raises:
            CannotFreezeError: The graph needs resources that are not variables, such as lookup tables.
            SignatureError: The features that the signature parses cannot become inputs.
        """
        self._name = signature.name
        self._outputs = signature.outputs
        if assigned := signature.assigned_variables():
            raise CannotFreezeError(f"signature {self._name!r} assigns the variables {_join(assigned)}")
        frozen = _freeze(signature)
        graph_def = frozen.graph.as_graph_def()
        arguments = dict(zip(signature.inputs, frozen.inputs, strict=False))
        reached = _ancestors(graph_def, [tensor.op.name for tensor in frozen.outputs], stop=())
        parsers = [op for op in frozen.graph.get_operations() if op.type in _PARSERS and op.name in reached]
        self.parse: Parse | None = None
        feeds = arguments
        if parsers:
            if len(parsers) > 1:
                raise SignatureError(
                    f"Signature {self._name!r} parses tf.Examples in {len(parsers)} places, so there is no single "
                    "place to cut it. Parse all features with one tf.io.parse_example call in run_fn, "
                    f"{_RAW_SIGNATURE_ADVICE}."
                )
            feeds = _dense_features(parsers[0], reached, graph_def, self._name)
        stops = {tensor.op.name for tensor in feeds.values()}
        nodes = _ancestors(graph_def, [tensor.op.name for tensor in frozen.outputs], stop=stops)
        if parsers:
            self._refuse_other_uses(arguments, nodes)
            self.parse = _parser(graph_def, parsers[0], feeds)
        self._refuse_resources(frozen.inputs[len(arguments) :], nodes)
        self._feeds = dict(sorted(feeds.items()))
        self._fetches = [tensor.name for tensor in frozen.outputs]
        self._graph_def = _subgraph(graph_def, nodes - stops)
        self.trained_bits = trained_ranges.bits(self._graph_def)

    def _refuse_other_uses(self, arguments: dict[str, Any], nodes: set[str]) -> None:
        for name, tensor in arguments.items():
            if tensor.op.name in nodes:
                raise SignatureError(
                    f"Signature {self._name!r} parses tf.Examples and uses its input {name!r} for something else too, "
                    "which cannot be cut off. Derive everything from the parsed features in run_fn, "
                    f"{_RAW_SIGNATURE_ADVICE}."
                )

    def _refuse_resources(self, captures: Sequence[Any], nodes: set[str]) -> None:
        left = [tensor for tensor in captures if tensor.op.name in nodes]
        if not left:
            return
        problem = (
            f"Signature {self._name!r} needs {len(left)} resource(s) that are not variables, such as lookup tables"
        )
        if self.parse is None:
            raise CannotFreezeError(f"{problem}.")
        raise SignatureError(
            f"{problem}, and parses tf.Examples: it can neither be frozen nor converted as it is. Keep vocabulary "
            f"lookups out of the serving signature in run_fn, {_RAW_SIGNATURE_ADVICE}."
        )

    def resign(
        self,
        directory: str | Path,
        batch_size: BatchSize,
        input_shapes: Mapping[str, Sequence[int]] = MappingProxyType({}),
        form: trained_ranges.Form = "float",
    ) -> SignatureRecord:
        """Saves the frozen graph as a SavedModel whose one signature has the wanted batch size.

        Args:
            directory: Where to save.
            batch_size: Rows at once.
            input_shapes: Sizes per example by input name, for inputs that the signature leaves open.
            form: What becomes of the ranges that quantization-aware training left in the graph.

        Returns:
            The new signature: inputs and outputs with their static shapes.

        Raises:
            SignatureError: The signature was saved with another, fixed batch size, or `input_shapes` does not fit it.
            NoTrainedRangeError: For `trained_inputs`: an input has no range, and none follows from training.
        """
        if unknown := sorted(input_shapes.keys() - self._feeds.keys()):
            raise SignatureError(
                f"input_shapes names {_join(map(repr, unknown))}, but the inputs are {_join(map(repr, self._feeds))}. "
                "Use these names."
            )
        with tf.Graph().as_default() as graph:
            inputs = {
                name: tf.compat.v1.placeholder(
                    feed.dtype,
                    self._fixed_shape(name, feed.shape, batch_size, input_shapes.get(name)),
                    name=f"feature_{index}",
                )
                for index, (name, feed) in enumerate(self._feeds.items())
            }
            graph_def = trained_ranges.remove(self._graph_def) if form == "float" else self._graph_def
            outputs = dict(zip(self._outputs, self._import(graph_def, inputs), strict=True))
        graph_def = _fold_constants(graph, inputs, outputs)
        if form == "trained_inputs":
            floats = {name: tensor.op.name for name, tensor in inputs.items() if tensor.dtype == tf.float32}
            graph_def = trained_ranges.extend_to_inputs(graph_def, floats)
        inputs, outputs = _save(directory, self._name, graph_def, inputs, outputs)
        return SignatureRecord(
            key=self._name,
            inputs=tuple(_tensor_record(name, tensor.dtype, tensor.shape) for name, tensor in inputs.items()),
            outputs=tuple(_tensor_record(name, tensor.dtype, tensor.shape) for name, tensor in outputs.items()),
        )

    def record(self) -> SignatureRecord:
        """Inputs and outputs with their shapes as they were saved, the inputs behind the cut."""
        return SignatureRecord(
            key=self._name,
            inputs=tuple(_tensor_record(name, feed.dtype, feed.shape) for name, feed in self._feeds.items()),
            outputs=tuple(_tensor_record(name, spec.dtype, spec.shape) for name, spec in self._outputs.items()),
        )

    def _import(self, graph_def: Any, inputs: Mapping[str, Any]) -> list[Any]:
        """A form of the frozen graph on other inputs, imported into the current graph; returns its outputs."""
        try:
            fetched: list[Any] = tf.graph_util.import_graph_def(
                graph_def,
                input_map={feed.name: inputs[name] for name, feed in self._feeds.items()},
                return_elements=self._fetches,
                name="model",
            )
        except ValueError as error:
            shapes = ", ".join(f"{name} {tensor.shape.as_list()}" for name, tensor in inputs.items())
            raise SignatureError(
                f"Signature {self._name!r} cannot take inputs of the shapes {shapes}: {error}. Pass a batch_size and "
                "input_shapes that the model can take, such as those it was trained with."
            ) from error
        return fetched

    def _fixed_shape(
        self, name: str, shape: Any, batch_size: BatchSize, sizes: Sequence[int] | None
    ) -> list[int | None]:
        saved, *rest = shape.as_list()
        wanted = None if batch_size == "dynamic" else batch_size
        if saved is not None and saved != wanted:
            raise SignatureError(
                f"batch_size={batch_size!r} was asked for, but signature {self._name!r} was saved with the fixed shape "
                f"{shape.as_list()} for input {name!r}. Pass batch_size={saved}, or save the signature with None as "
                "its first dimension in run_fn."
            )
        if sizes is None:
            return [wanted, *rest]
        fits = len(sizes) == len(rest) and all(have in (None, size) for have, size in zip(rest, sizes, strict=True))
        if not fits:
            raise SignatureError(
                f"input_shapes gives {list(sizes)} for input {name!r}, whose shape per example is {rest} in signature "
                f"{self._name!r}. Give one size per dimension, without the batch dimension; only None can be chosen."
            )
        return [wanted, *sizes]


def _fold_constants(graph: Any, inputs: dict[str, Any], outputs: dict[str, Any]) -> Any:
    """Grappler's constant folding, now that the batch size is known.

    What Transform adds for degenerate data (a standard deviation of zero) is constant then and goes away; left in, it
    has ops without integer kernels, and the integer-only recipes would fail on every z-score. Grappler does not fold
    Transform's ZerosLike by itself, although nothing but its static shape matters.
    """
    config = tf.compat.v1.ConfigProto()
    config.graph_options.rewrite_options.optimizers.append("constfold")
    with graph.as_default():
        meta_graph = tf.compat.v1.train.export_meta_graph()
    nodes = {node.name: node for node in meta_graph.graph_def.node}
    for op in graph.get_operations():
        if op.type == "ZerosLike" and op.outputs[0].shape.is_fully_defined():
            _make_zeros(nodes[op.name], op.outputs[0])
    loops.fix_shapes(meta_graph.graph_def)
    for key, tensors in (("inputs", inputs), ("outputs", outputs)):
        for tensor in tensors.values():
            meta_graph.collection_def[key].node_list.value.append(tensor.name)
    # "train_op" is where Grappler looks for the nodes that must be kept.
    kept = [tensor.op.name for tensor in (*inputs.values(), *outputs.values())]
    meta_graph.collection_def["train_op"].node_list.value.extend(kept)
    held = trained_ranges.hold(meta_graph.graph_def)
    return trained_ranges.release(tf_optimizer.OptimizeGraph(config, meta_graph), held)


def _make_zeros(node: Any, tensor: Any) -> None:
    """Turns a node into a constant of zeros with the dtype and shape of `tensor`."""
    node.op = "Const"
    del node.input[:]
    node.attr.clear()
    node.attr["dtype"].type = tensor.dtype.as_datatype_enum
    node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(0, tensor.dtype, tensor.shape))


def _save(
    directory: str | Path, key: str, graph_def: Any, inputs: dict[str, Any], outputs: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Saves a graph with one signature; `inputs` and `outputs` name its tensors. Returns these tensors as saved.

    A TF1 signature: its names may be any string, while a tf.function's must be Python identifiers.
    """
    v1 = tf.compat.v1
    shutil.rmtree(directory, ignore_errors=True)
    with tf.Graph().as_default() as graph, v1.Session(graph=graph) as session:
        tf.graph_util.import_graph_def(graph_def, name="")
        saved_inputs, saved_outputs = (
            {name: graph.get_tensor_by_name(tensor.name) for name, tensor in tensors.items()}
            for tensors in (inputs, outputs)
        )
        signature = v1.saved_model.build_signature_def(
            {name: v1.saved_model.build_tensor_info(tensor) for name, tensor in saved_inputs.items()},
            {name: v1.saved_model.build_tensor_info(tensor) for name, tensor in saved_outputs.items()},
            "tensorflow/serving/predict",
        )
        builder = v1.saved_model.Builder(str(directory))
        builder.add_meta_graph_and_variables(session, ["serve"], {key: signature})
        builder.save()
    return saved_inputs, saved_outputs


_PARSERS = ("ParseExample", "ParseExampleV2")


def _freeze(signature: LoadedSignature) -> Any:
    names = list(signature.inputs)

    # Positional arguments and a list of results fix the order that the frozen graph's inputs and outputs come in.
    def call(*tensors: Any) -> list[Any]:
        results = signature.function(**dict(zip(names, tensors, strict=True)))
        return [results[name] for name in signature.outputs]

    specs = [tf.TensorSpec(spec.shape, spec.dtype) for spec in signature.inputs.values()]
    try:
        function = tf.function(call, autograph=False).get_concrete_function(*specs)
        return convert_variables_to_constants_v2(function, lower_control_flow=False)
    except Exception as error:
        raise CannotFreezeError(f"signature {signature.name!r} cannot be frozen: {error}") from error


def _dense_features(parser: Any, reached: set[str], graph_def: Any, signature: str) -> dict[str, Any]:
    """The dense outputs of a parsing op that the model uses, by feature name."""
    sparse, dense, ragged = _feature_names(parser)
    used = _used_outputs(graph_def, reached, parser.name)
    kinds = [("sparse", sparse)] * 3 + [("dense", dense)] + [("ragged", ragged)] * 2
    outputs = [(kind, name) for kind, names in kinds for name in names]
    features = {}
    for (kind, name), tensor in zip(outputs, parser.outputs, strict=True):
        if tensor.value_index not in used:
            continue
        if kind != "dense":
            spec = {"sparse": "VarLenFeature", "ragged": "RaggedFeature"}[kind]
            raise SignatureError(
                f"Signature {signature!r} parses feature {name!r} as {kind} (tf.io.{spec}); a .tflite takes dense "
                "tensors only. In run_fn parse it with tf.io.FixedLenFeature(shape, dtype, default_value) - in TFX the "
                "schema decides: give the feature a shape, for example with SchemaGen(infer_feature_shape=True) - "
                f"{_RAW_SIGNATURE_ADVICE}."
            )
        if tensor.dtype == tf.string:
            raise SignatureError(
                f"Signature {signature!r} parses feature {name!r} as a string; a .tflite on a phone takes numbers. "
                "Look it up or decode it before the model and feed its integer or float form as a feature of its own "
                "in run_fn, "
                f"{_RAW_SIGNATURE_ADVICE}."
            )
        features[name] = tensor
    return features


def _feature_names(parser: Any) -> tuple[list[str], list[str], list[str]]:
    """Names of the sparse, dense and ragged features of a parsing op."""
    if parser.type == "ParseExampleV2":
        sparse, dense, ragged = ([key.decode() for key in tf.get_static_value(keys)] for keys in parser.inputs[2:5])
        return sparse, dense, ragged
    num_sparse, num_dense = parser.get_attr("Nsparse"), parser.get_attr("Ndense")
    names = [tf.get_static_value(tensor).item().decode() for tensor in parser.inputs[2 : 2 + num_sparse + num_dense]]
    return names[:num_sparse], names[num_sparse:], []


def _parser(graph_def: Any, parser: Any, features: dict[str, Any]) -> Parse:
    """The cut-off half of the graph as a function; missing features take the defaults the signature has."""
    serialized = parser.inputs[0]
    stop = {serialized.op.name}
    half = _subgraph(graph_def, _ancestors(graph_def, [parser.name], stop) - stop)
    fetches = [tensor.name for tensor in features.values()]

    def call(examples: Any) -> Any:
        return tf.graph_util.import_graph_def(half, {serialized.name: examples}, return_elements=fetches)

    function = tf.compat.v1.wrap_function(call, [tf.TensorSpec([None], tf.string)])

    def parse(examples: Sequence[bytes]) -> dict[str, Array]:
        values = function(tf.constant(list(examples), tf.string))
        return {name: value.numpy() for name, value in zip(features, values, strict=True)}

    return parse


def _ancestors(graph_def: Any, targets: Iterable[str], stop: Iterable[str]) -> set[str]:
    """Names of the nodes that `targets` are computed from, up to and including the nodes in `stop`."""
    inputs = {node.name: _data_inputs(node) for node in graph_def.node}
    found: set[str] = set()
    waiting = list(targets)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            if name not in stop:
                waiting += [source for source, _ in inputs[name]]
    return found


def _used_outputs(graph_def: Any, nodes: set[str], producer: str) -> set[int]:
    """Which outputs of the node `producer` the given nodes read."""
    reading = (node for node in graph_def.node if node.name in nodes)
    return {index for node in reading for source, index in _data_inputs(node) if source == producer}


def _data_inputs(node: Any) -> list[tuple[str, int]]:
    parts = [text.partition(":") for text in node.input if not text.startswith("^")]
    return [(name, int(index or 0)) for name, _, index in parts]


def _subgraph(graph_def: Any, nodes: set[str]) -> Any:
    """The given nodes as a graph of their own; control inputs from other nodes (asserts, no-ops) are dropped."""
    result = tf.compat.v1.GraphDef(versions=graph_def.versions, library=graph_def.library)
    for node in graph_def.node:
        if node.name in nodes:
            copy = result.node.add()
            copy.CopyFrom(node)
            kept = [text for text in node.input if not text.startswith("^") or text[1:] in nodes]
            del copy.input[:]
            copy.input.extend(kept)
    return result


def _tensor_record(name: str, dtype: Any, shape: Any) -> TensorRecord:
    sizes = () if shape.rank is None else tuple(-1 if size is None else size for size in shape.as_list())
    return TensorRecord(name=name, dtype=dtype.name, shape=sizes)


def _join(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"
