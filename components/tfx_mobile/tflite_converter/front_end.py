"""The front end: turns the signature a Trainer saved into one normal form that converts well.

Normal form: a frozen graph without function calls, with one signature, whose inputs are dense tensors under their true
names with the wanted batch size. A signature that parses tf.Examples is cut behind the parsing op, or where it makes
sparse features dense, so that its features become the inputs and whatever follows, Transform's graph too, travels
inside the `.tflite`. Vocabularies become hash tables that a `.tflite` has. Freezing also avoids the process abort that
TensorFlow 2.16 answers Keras 3 models with when they were saved by `tf.saved_model.save`.

Runs in the child process only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from tfx_mobile.errors import ConversionError, SignatureError
from tfx_mobile.recipes import BatchSize
from tfx_mobile.records import SignatureRecord, TensorRecord
from tfx_mobile.tflite_converter import (
    graphs,
    loops,
    parsed_features,
    rewrites,
    state,
    tables,
    trained_ranges,
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
            CannotFreezeError: The graph holds state that cannot be taken out of it.
            SignatureError: The signature parses tf.Examples, and a feature cannot become an input, or the graph holds
                such state.
        """
        self._name = signature.name
        self._outputs = signature.outputs
        if assigned := signature.assigned_variables():
            raise CannotFreezeError(f"signature {self._name!r} assigns the variables {_join(assigned)}")
        frozen, captured = _freeze(signature)
        graph_def = frozen.graph.as_graph_def()
        arguments = dict(zip(signature.inputs, frozen.inputs, strict=False))
        targets = [tensor.op.name for tensor in frozen.outputs]
        reached = graphs.ancestors(graph_def, targets, stop=())
        parsers = [op for op in frozen.graph.get_operations() if op.type in parsed_features.PARSERS]
        parsers = [op for op in parsers if op.name in reached]
        self.parse: parsed_features.Parse | None = None
        if len(parsers) > 1:
            raise SignatureError(
                f"Signature {self._name!r} parses tf.Examples in {len(parsers)} places, so there is no single "
                "place to cut it. Parse all features with one tf.io.parse_example call in run_fn, "
                f"{parsed_features.RAW_SIGNATURE_ADVICE}."
            )
        if parsers:
            features = parsed_features.find(frozen.graph, parsers[0], frozen.outputs, self._name)
        else:
            features = {name: _as_feature(name, tensor) for name, tensor in arguments.items()}
        self._features = dict(sorted(features.items()))
        stops = {name.partition(":")[0] for feature in features.values() for name in feature.tensors}
        nodes = graphs.ancestors(graph_def, targets, stop=stops)
        if parsers:
            self._refuse_other_uses(arguments, nodes)
            self.parse = parsed_features.parser(graph_def, parsers[0], self._features)
        self._fetches = [tensor.name for tensor in frozen.outputs]
        kept = graphs.subgraph(graph_def, nodes - stops)
        ops = {op.name: op for op in frozen.graph.get_operations()}
        rewrites.simplify(kept, ops)
        try:
            found = tables.rebuild(kept, ops, captured, self._name)
        except SignatureError as error:
            if self.parse is None:
                raise CannotFreezeError(str(error)) from error
            raise
        nodes = graphs.ancestors(kept, targets, stop=stops | captured.keys())
        self._graph_def = graphs.subgraph(kept, nodes - stops - captured.keys())
        self._tables = {placeholder: table for placeholder, table in found.items() if placeholder in nodes}
        self.trained_bits = trained_ranges.bits(self._graph_def)

    def _refuse_other_uses(self, arguments: dict[str, Any], nodes: set[str]) -> None:
        for name, tensor in arguments.items():
            if tensor.op.name in nodes:
                raise SignatureError(
                    f"Signature {self._name!r} parses tf.Examples and uses its input {name!r} for something else too, "
                    "which cannot be cut off. Derive everything from the parsed features in run_fn, "
                    f"{parsed_features.RAW_SIGNATURE_ADVICE}."
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
        if unknown := sorted(input_shapes.keys() - self._features.keys()):
            raise SignatureError(
                f"input_shapes names {_join(map(repr, unknown))}, but the inputs are "
                f"{_join(map(repr, self._features))}. Use these names."
            )
        with tf.Graph().as_default() as graph:
            inputs = {
                name: tf.compat.v1.placeholder(
                    feature.dtype,
                    self._fixed_shape(name, feature.shape, batch_size, input_shapes.get(name)),
                    name=f"feature_{index}",
                )
                for index, (name, feature) in enumerate(self._features.items())
            }
            resources = {
                name: tf.compat.v1.placeholder(tf.resource, [], name=f"table_{index}")
                for index, name in enumerate(self._tables)
            }
            graph_def = trained_ranges.remove(self._graph_def) if form == "float" else self._graph_def
            outputs = dict(zip(self._outputs, self._import(graph_def, inputs, resources), strict=True))
        held: dict[str, Any] = {}

        def edit(graph_def: Any) -> None:
            loops.fix_shapes(graph_def)
            held.update(trained_ranges.hold(graph_def))

        graph_def = graphs.fold_constants(graph, inputs, outputs, resources.values(), edit)
        graph_def = trained_ranges.release(graph_def, held)
        if form == "trained_inputs":
            floats = {name: tensor.op.name for name, tensor in inputs.items() if tensor.dtype == tf.float32}
            graph_def = trained_ranges.extend_to_inputs(graph_def, floats)
        make = {placeholder.op.name: self._tables[name].make for name, placeholder in resources.items()}
        inputs, outputs = graphs.save(directory, self._name, graph_def, inputs, outputs, make)
        return self._record(inputs, outputs)

    def record(self) -> SignatureRecord:
        """Inputs and outputs with their shapes as they were saved, the inputs behind the cut."""
        return self._record(self._features, self._outputs)

    def _record(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> SignatureRecord:
        defaults = {name: feature.default for name, feature in self._features.items()}
        return SignatureRecord(
            key=self._name,
            inputs=tuple(_tensor_record(name, t.dtype, t.shape, defaults[name]) for name, t in inputs.items()),
            outputs=tuple(_tensor_record(name, t.dtype, t.shape) for name, t in outputs.items()),
        )

    def _import(self, graph_def: Any, inputs: Mapping[str, Any], resources: Mapping[str, Any]) -> list[Any]:
        """A form of the frozen graph on other inputs, imported into the current graph; returns its outputs."""
        read = {f"{name}:{index}" for node in graph_def.node for name, index in graphs.data_inputs(node)}
        mapped = {tensor: inputs[name] for name, feature in self._features.items() for tensor in feature.tensors}
        mapped |= {f"{name}:0": placeholder for name, placeholder in resources.items()}
        try:
            fetched: list[Any] = tf.graph_util.import_graph_def(
                graph_def,
                input_map={tensor: mapped[tensor] for tensor in mapped if tensor in read},
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


def _as_feature(name: str, tensor: Any) -> parsed_features.Feature:
    return parsed_features.Feature(name, tensor.dtype, tensor.shape, (tensor.name,), default=None)


def _freeze(signature: LoadedSignature) -> tuple[Any, dict[str, Any]]:
    """The signature with constants for variables and its function calls inlined.

    Returns:
        The frozen function, and the resources it still captures, by the name of the placeholder in its graph.
    """
    names = list(signature.inputs)

    # Positional arguments and a list of results fix the order that the frozen graph's inputs and outputs come in.
    def call(*tensors: Any) -> list[Any]:
        results = signature.function(**dict(zip(names, tensors, strict=True)))
        return [results[name] for name in signature.outputs]

    specs = [tf.TensorSpec(spec.shape, spec.dtype) for spec in signature.inputs.values()]
    try:
        function = tf.function(call, autograph=False).get_concrete_function(*specs)
        # Inlining is aggressive, because calls of stateful functions (Transform's, with its vocabularies) stay without.
        # What that could break, the order of side effects, does not reach the outputs of a serving signature.
        frozen = convert_variables_to_constants_v2(function, lower_control_flow=False, aggressive_inlining=True)
    except Exception as error:
        raise CannotFreezeError(f"signature {signature.name!r} cannot be frozen: {error}") from error
    captures = {internal.op.name: external for external, internal in function.graph.captures}
    # Variables have become constants under the names of their placeholders; what is still an input is something else.
    return frozen, {tensor.op.name: captures[tensor.op.name] for tensor in frozen.inputs[len(names) :]}


def _tensor_record(name: str, dtype: Any, shape: Any, default: parsed_features.Default | None = None) -> TensorRecord:
    sizes = () if shape.rank is None else tuple(-1 if size is None else size for size in shape.as_list())
    return TensorRecord(name=name, dtype=dtype.name, shape=sizes, default=default)


def _join(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"
