"""Opens the float SavedModel and the variants and runs them on the same batches of features.

A mismatching input is an error, and so is a missing one, unless the float model's own signature has a default for it
and the manifest says which: then the variants get the same. What is described here travels to Beam's workers, so the
descriptions hold addresses and hashes, and models are opened where they run.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tfx_mobile.errors import EvaluationError, ModelFileError
from tfx_mobile.records import TensorRecord, sha256_of

Array = npt.NDArray[Any]
Default = int | float | str

# Large enough to amortise the calls, small enough that activations of image models fit into memory.
_MAX_ROWS = 64


@dataclass(frozen=True)
class FloatModel:
    """The float baseline.

    Attributes:
        uri: Folder of the SavedModel.
        signature: Key of the signature to run.
        inputs: Its inputs, by name.
        outputs: Names of its outputs, sorted.
        parses_examples: Whether its only input takes serialized tf.Examples.
    """

    uri: str
    signature: str
    inputs: Mapping[str, TensorRecord]
    outputs: tuple[str, ...]
    parses_examples: bool


@dataclass(frozen=True)
class VariantFile:
    """A variant that passed preflight.

    Attributes:
        name: The variant's name.
        uri: Where the file lies.
        sha256: Of the bytes that passed.
        signature: Key of the signature to run.
        defaults: What the float model's signature takes for features that an example lacks, by input name.
    """

    name: str
    uri: str
    sha256: str
    signature: str
    defaults: Mapping[str, Default] = field(default_factory=dict)


@dataclass(frozen=True)
class Transform:
    """A transform graph to apply to the examples, for models whose inputs are not features of the examples.

    Attributes:
        uri: Folder of the TransformGraph artifact.
        schema: Path of the raw examples' schema; None without one.
        raw_features: The raw features it is applied to.
        feeds_baseline: Whether the baseline takes its outputs.
        feeds_variants: Whether the variants do.
    """

    uri: str
    schema: str | None
    raw_features: tuple[str, ...]
    feeds_baseline: bool
    feeds_variants: bool


def describe_saved_model(uri: str, signature: str, parses_examples: bool | None) -> FloatModel:
    """Reads a signature of a SavedModel without loading the model.

    Args:
        uri: Folder of the SavedModel.
        signature: Key of the signature.
        parses_examples: Whether it takes serialized tf.Examples; None if that is to be told from its inputs: one
            single vector of strings.

    Raises:
        EvaluationError: There is no such signature.
    """
    import tensorflow as tf
    from tensorflow.core.protobuf import saved_model_pb2
    from tfx.dsl.io import fileio

    with fileio.open(f"{uri.rstrip('/')}/saved_model.pb", "rb") as stream:
        saved_model = saved_model_pb2.SavedModel.FromString(stream.read())
    signatures = {
        key: value
        for graph in saved_model.meta_graphs
        if "serve" in graph.meta_info_def.tags
        for key, value in graph.signature_def.items()
        if not key.startswith("__")
    }
    if signature not in signatures:
        raise EvaluationError(
            f"The SavedModel {uri} has no signature {signature!r}; it has: {', '.join(sorted(signatures)) or 'none'}. "
            "Set signature_name in the ModelSpec of eval_config to one of them."
        )
    found = signatures[signature]
    inputs = {
        name: TensorRecord(
            name=name,
            dtype=tf.dtypes.as_dtype(info.dtype).name,
            # Of unknown rank: open in every dimension, so that features are fed as they are.
            shape=(-1, -1) if info.tensor_shape.unknown_rank else tuple(int(d.size) for d in info.tensor_shape.dim),
        )
        for name, info in found.inputs.items()
    }
    if parses_examples is None:
        only = next(iter(inputs.values()))
        parses_examples = len(inputs) == 1 and only.dtype == "string" and len(only.shape) <= 1
    return FloatModel(uri, signature, inputs, tuple(sorted(found.outputs)), parses_examples)


def with_sizes(model: FloatModel, inputs: Sequence[TensorRecord]) -> FloatModel:
    """The same model with the sizes per example of `inputs` where its own inputs leave them open."""
    known = {record.name: record.shape for record in inputs}
    sized = {
        name: record.model_copy(update={"shape": (*record.shape[:1], *known[name][1:])})
        if len(known.get(name, ())) == len(record.shape)
        else record
        for name, record in model.inputs.items()
    }
    return replace(model, inputs=sized)


class Models:
    """The baseline and the variants, opened.

    Attributes:
        names: The baseline's name first, then the variants' in the given order.
    """

    def __init__(
        self,
        baseline_name: str,
        baseline: FloatModel,
        variants: Sequence[VariantFile],
        transform: Transform | None = None,
    ) -> None:
        """Opens all models.

        Args:
            baseline_name: What the baseline is called.
            baseline: The float model.
            variants: The files.
            transform: What to feed them with instead of the examples' features; None to feed them those.

        Raises:
            ModelFileError: A file is not the one that passed preflight.
        """
        self._transform = None if transform is None else _OpenTransform(transform)
        self._baseline = _OpenSavedModel(baseline)
        self._variants = {variant.name: _OpenVariant(variant) for variant in variants}
        self._baseline_name = baseline_name
        self.names = (baseline_name, *self._variants)

    def predict(self, features: Mapping[str, Any], serialized: Array) -> dict[str, dict[str, Array]]:
        """Runs every model on one batch.

        Args:
            features: By name, arrays [rows, ...] as TFMA's FeaturesExtractor makes them.
            serialized: The same rows as serialized tf.Examples, [rows].

        Returns:
            By model and output name, arrays [rows, ...] of real values.

        Raises:
            EvaluationError: A model input has no feature or one that does not fit; or an output has another name or
                shape than the baseline's.
        """
        baseline_features = variant_features = features
        if self._transform is not None:
            baseline_features, variant_features = self._transform.run(features, serialized)
        expected = self._baseline.run(baseline_features, serialized)
        outputs = {self._baseline_name: expected}
        for name, variant in self._variants.items():
            outputs[name] = variant.run(variant_features, len(serialized))
            _check_same_outputs(name, outputs[name], expected)
        return outputs


def not_finite_rows(outputs: Mapping[str, Array], expected: Mapping[str, Array]) -> int:
    """Rows in which a variant's output is NaN or infinite where the baseline's is finite."""
    bad = np.zeros(len(next(iter(expected.values()))), bool)
    for name, values in outputs.items():
        if np.issubdtype(values.dtype, np.inexact):
            lost = np.isfinite(expected[name]) & ~np.isfinite(values)
            bad |= lost.reshape(len(bad), -1).any(axis=1)
    return int(bad.sum())


class _OpenSavedModel:
    def __init__(self, description: FloatModel) -> None:
        import tensorflow as tf

        self._tf = tf
        self._description = description
        self._model = tf.saved_model.load(description.uri)  # keeps the signature's variables alive
        self._signature = self._model.signatures[description.signature]

    def run(self, features: Mapping[str, Any], serialized: Array) -> dict[str, Array]:
        inputs = self._description.inputs
        if self._description.parses_examples:
            tensors = {next(iter(inputs)): np.asarray(serialized, object)}
        else:
            tensors = {name: _conform(record, features, "the SavedModel") for name, record in inputs.items()}
        sizes = {record.shape[0] for record in inputs.values() if record.shape} - {-1}
        fixed = min(sizes, default=None)
        return _in_steps(self._invoke, tensors, fixed, fixed)

    def _invoke(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        dtypes = {name: record.dtype for name, record in self._description.inputs.items()}
        outputs = self._signature(**{n: self._tf.constant(t, dtype=dtypes[n]) for n, t in tensors.items()})
        return {name: value.numpy() for name, value in outputs.items()}


class _OpenTransform:
    def __init__(self, description: Transform) -> None:
        from tfx_mobile.transform_graph import TransformGraph

        self._description = description
        self._graph = TransformGraph(description.uri, description.schema)

    def run(self, features: Mapping[str, Any], serialized: Array) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """What to feed the baseline and the variants with."""
        from tfx_mobile.transform_graph import CannotTransformError

        try:
            transformed = self._graph.apply(serialized.tolist(), self._description.raw_features)
        except CannotTransformError as error:
            raise EvaluationError(str(error)) from error
        return (
            transformed if self._description.feeds_baseline else features,
            transformed if self._description.feeds_variants else features,
        )


class _OpenVariant:
    def __init__(self, variant: VariantFile) -> None:
        from tfx.dsl.io import fileio

        from tfx_mobile.tflite.runtime import SignatureRunner

        with fileio.open(variant.uri, "rb") as stream:
            data = bytes(stream.read())
        if (actual := sha256_of(data)) != variant.sha256:
            raise ModelFileError(
                f"{variant.uri} hashes to {actual}, but {variant.sha256} passed preflight: it was changed while it was "
                "evaluated. Run TFLiteConverter again."
            )
        self._name = variant.name
        self._defaults = dict(variant.defaults)
        self._runner = SignatureRunner(data, variant.signature)

    def run(self, features: Mapping[str, Any], rows: int) -> dict[str, Array]:
        filled = {
            **features,
            **{
                name: _fill(self._runner.inputs[name], features.get(name), default, rows)
                for name, default in self._defaults.items()
                if name in self._runner.inputs
            },
        }
        tensors = {n: _conform(record, filled, f"variant {self._name!r}") for n, record in self._runner.inputs.items()}
        try:
            return _in_steps(self._runner.run, tensors, self._runner.batch_size)
        except (ValueError, RuntimeError) as error:
            raise EvaluationError(
                f"Variant {self._name!r} cannot take the features of {rows} examples: {error}"
            ) from None


def _fill(record: TensorRecord, values: Any, default: Default, rows: int) -> Any:
    """The feature of a model input with a default where examples lack it.

    Args:
        record: The input, [batch, ...] with fixed sizes per example.
        values: As TFMA's FeaturesExtractor makes it: an array if all rows are equally long, a VarLenTensorValue or an
            array with None in it if not; None if no example of the batch has the feature.
        default: Value of every missing element.
        rows: Number of examples.

    Returns:
        An array [rows, elements]; `values` as it is if a row holds more than the input takes.
    """
    width = int(np.prod(record.shape[1:]))
    if values is None:
        present: list[Any] = [()] * rows
    elif isinstance(values, np.ndarray):
        if values.dtype != object and values[:1].size == width:
            return values
        present = [() if row is None else [v for v in np.ravel(row) if v is not None] for row in values]
    else:
        starts = np.searchsorted(values.indices[:, 0], np.arange(rows + 1))
        present = [values.values[start:end] for start, end in itertools.pairwise(starts)]
    if max(map(len, present)) > width:
        return values
    # A tf.Example holds these three kinds; the baseline, which runs first, has refused examples of another kind.
    if isinstance(default, str):
        filled = np.full((rows, width), default.encode(), object)
    else:
        filled = np.full((rows, width), default, np.int64 if isinstance(default, int) else np.float32)
    for row, some in zip(filled, present, strict=True):
        row[: len(some)] = some
    return filled


def _conform(record: TensorRecord, features: Mapping[str, Any], model: str) -> Array:
    """The feature of a model input as rows of its shape; dtypes are cast only where nothing but precision is lost."""
    if record.name not in features:
        raise EvaluationError(
            f"No feature for input {record.name!r} of {model}; the examples have: {', '.join(sorted(features))}. "
            "Evaluate on the examples this model is served with, or choose another signature_name."
        )
    values: Array = features[record.name]
    if not isinstance(values, np.ndarray) or (values.dtype == object and any(v is None for v in values)):
        raise EvaluationError(
            f"Feature {record.name!r}, an input of {model}, is missing in some examples or has rows of different "
            "lengths, and the signature has no default for it. Fill it in before the examples are written, or give it "
            "a default_value where run_fn parses it; a default is never made up here."
        )
    row = record.shape[1:]
    shape = (len(values), *row)
    if -1 not in row and values.shape != shape:
        if values.size != np.prod(shape):
            raise EvaluationError(
                f"Input {record.name!r} of {model} takes rows of shape {list(row)}, the feature has rows of shape "
                f"{list(values.shape[1:])}. Evaluate on the examples this model is served with."
            )
        values = values.reshape(shape)
    # Two open dimensions may also stand for an unknown rank; TensorFlow may abort on a wrong one.
    if -1 in row and len(shape) > 2 and not _fits(values.shape[1:], row):
        raise EvaluationError(
            f"Input {record.name!r} of {model} takes rows of the open shape {list(row)}, and the feature has rows of "
            f"shape {list(values.shape[1:])}: tf.Examples do not tell the sizes. Pass "
            f"input_shapes={{{record.name!r}: [...]}} to TFLiteConverter, so that the model is evaluated with these "
            "sizes."
        )
    if record.dtype == "string":
        fits = values.dtype.kind in "OSU"
    else:
        # Quantized inputs take real values; the runner quantizes them.
        target = "float32" if record.scale is not None else record.dtype
        fits = bool(np.can_cast(values.dtype, target, "same_kind"))
        values = values.astype(target) if fits else values
    if not fits:
        raise EvaluationError(
            f"Input {record.name!r} of {model} is {record.dtype}, the feature is {values.dtype}. Evaluate on the "
            "examples this model is served with."
        )
    return values


def _fits(shape: tuple[int, ...], open_shape: tuple[int, ...]) -> bool:
    return len(shape) == len(open_shape) and all(w in (-1, h) for h, w in zip(shape, open_shape, strict=True))


def _in_steps(run: Any, tensors: Mapping[str, Array], fixed: int | None, step: int | None = None) -> dict[str, Array]:
    """Runs `run` on steps of bounded size. A model of fixed batch size gets its last step filled up by repetition.

    Args:
        run: Runs the model; takes any multiple of `fixed` rows unless `step` is given.
        tensors: By input name, [rows, ...].
        fixed: The batch size; None if it is open.
        step: Rows to hand over at once; None for as many as fit.
    """
    rows = len(next(iter(tensors.values())))
    padding = -rows % fixed if fixed else 0
    if padding:
        tensors = {name: np.concatenate([t, np.repeat(t[-1:], padding, axis=0)]) for name, t in tensors.items()}
    step = step or (fixed * max(1, _MAX_ROWS // fixed) if fixed else _MAX_ROWS)
    parts = [run({n: t[i : i + step] for n, t in tensors.items()}) for i in range(0, rows + padding, step)]
    return {name: np.concatenate([part[name] for part in parts])[:rows] for name in parts[0]}


def _check_same_outputs(name: str, outputs: Mapping[str, Array], expected: Mapping[str, Array]) -> None:
    shapes = {key: list(value.shape) for key, value in outputs.items()}
    expected_shapes = {key: list(value.shape) for key, value in expected.items()}
    if shapes != expected_shapes:
        raise EvaluationError(
            f"Variant {name!r} returns {shapes}, the SavedModel {expected_shapes}: they cannot be compared. Choose the "
            "signature the variants were converted from, or convert the model again."
        )
