"""Opens the float SavedModel and the variants and runs them on the same batches of features.

A mismatching input is an error, and so is a missing one, unless the float model's own signature has a default for it
and the manifest says which: then the variants get the same. A `.tflite` file that then fails on an example fails alone:
its outputs for that example are no values, and who runs it is told. What is described here travels to Beam's workers,
so the descriptions hold addresses and hashes, and models are opened where they run.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tfx_mobile.errors import EvaluationError, ModelFileError
from tfx_mobile.records import TensorRecord, sha256_of

Array = npt.NDArray[Any]
Default = int | float | str
#: Takes the name of a model, the row of the batch that it failed on, and why.
OnFailure = Callable[[str, int, str], None]

# Rows at once: enough to amortise the calls, few enough that activations stay in the caches (an interpreter, on one
# thread) or in memory (TensorFlow, which shares a batch out to its threads). Of a 96 x 96 x 3 image 9 and 75 rows,
# measured on MobileNetV2: 64 rows cost an interpreter a fifth more CPU time than 8.
_INTERPRETER_BYTES = 1 << 20
_TENSORFLOW_BYTES = 8 << 20
_FEWEST_ROWS, _MOST_ROWS = 8, 256


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
        own_inputs: Whether its inputs are its own rather than those of all variants, as for a model of another
            training: a feature that does not fit them is then no fault of the examples.
    """

    name: str
    uri: str
    sha256: str
    signature: str
    defaults: Mapping[str, Default] = field(default_factory=dict)
    own_inputs: bool = False


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

        A file that is not the one that passed preflight, or that the interpreter refuses here, fails on every example.
        """
        self._transform = None if transform is None else _OpenTransform(transform)
        self._baseline = _OpenSavedModel(baseline)
        self._variants = {variant.name: _open(variant) for variant in variants}
        self._baseline_name = baseline_name
        self.names = (baseline_name, *self._variants)

    def predict(
        self, features: Mapping[str, Any], serialized: Array, on_failure: OnFailure | None = None
    ) -> dict[str, dict[str, Array]]:
        """Runs every model on one batch.

        Args:
            features: By name, arrays [rows, ...] as TFMA's FeaturesExtractor makes them.
            serialized: The same rows as serialized tf.Examples, [rows].
            on_failure: Called for each row that a variant fails on: it could not be opened, its interpreter fails, a
                value cannot be given to it, or its output has another name or shape than the baseline's. Its outputs
                for that row are NaN, zero or empty. Which rows fail does not depend on the others of the batch. None:
                that is an error.

        Returns:
            By model and output name, arrays [rows, ...] of real values.

        Raises:
            EvaluationError: The baseline fails; an input of all variants has no feature or one that does not fit; or a
                variant fails and `on_failure` is None.
        """
        baseline_features = variant_features = features
        if self._transform is not None:
            baseline_features, variant_features = self._transform.run(features, serialized)
        expected = self._baseline.run(baseline_features, serialized)
        outputs = {self._baseline_name: expected}
        for name, variant in self._variants.items():
            outputs[name] = variant.run(variant_features, expected, on_failure or _fail)
        return outputs


def run_baseline(
    baseline: FloatModel,
    variant_inputs: Sequence[TensorRecord],
    defaults: Mapping[str, Default],
    features: Mapping[str, Any],
    serialized: Array,
    transform: Transform | None = None,
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Runs the baseline alone, and says what the variants are fed with for the same rows.

    Args:
        baseline: The float model.
        variant_inputs: The variants' inputs before quantization.
        defaults: As in VariantFile.
        features: As for `Models.predict`.
        serialized: As for `Models.predict`.
        transform: As for `Models`.

    Returns:
        By name, the variants' inputs in real values and the baseline's outputs; arrays [rows, ...].

    Raises:
        EvaluationError: A model input has no feature or one that does not fit.
    """
    baseline_features = variant_features = features
    if transform is not None:
        baseline_features, variant_features = _OpenTransform(transform).run(features, serialized)
    records = {record.name: record for record in variant_inputs}
    inputs = feed(records, variant_features, defaults, len(serialized), "the variants")
    return inputs, _OpenSavedModel(baseline).run(baseline_features, serialized)


def not_finite_rows(outputs: Mapping[str, Array], expected: Mapping[str, Array], ignored: Collection[int] = ()) -> int:
    """Rows in which a variant's output is NaN or infinite where the baseline's is finite; without the ignored rows."""
    bad = np.zeros(len(next(iter(expected.values()))), bool)
    for name, values in outputs.items():
        if (lost := _lost(values, expected[name])) is not None:
            bad |= lost.reshape(len(bad), -1).any(axis=1)
    bad[list(ignored)] = False
    return int(bad.sum())


def keep_finite(values: Array, expected: Array) -> Array:
    """A variant's output with zeros where it is NaN or infinite and the baseline's is finite.

    Some of TFMA's metrics stop the pass at a NaN, for all models; others count it as 0 anyway.
    """
    lost = _lost(values, expected)
    return values if lost is None else np.where(lost, values.dtype.type(0), values)


def _lost(values: Array, expected: Array) -> npt.NDArray[np.bool_] | None:
    """Where a variant's value is not finite and the baseline's is; None if nowhere."""
    if not np.issubdtype(values.dtype, np.inexact) or (finite := np.isfinite(values)).all():
        return None
    lost: npt.NDArray[np.bool_] = ~finite & np.isfinite(expected)
    return lost if lost.any() else None


def _fail(model: str, row: int, message: str) -> None:
    raise EvaluationError(f"Variant {model!r} fails on example {row} of a batch: {message}")


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
        return _in_steps(self._invoke, tensors, fixed)

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


def _open(variant: VariantFile) -> _OpenVariant | _Refused:
    try:
        return _OpenVariant(variant)
    except ModelFileError as error:
        return _Refused(variant.name, str(error))


@dataclass(frozen=True)
class _Refused:
    """A variant that could not be opened."""

    name: str
    why: str

    def run(self, _: Any, expected: Mapping[str, Array], on_failure: OnFailure) -> dict[str, Array]:
        """No values."""
        for row in range(len(next(iter(expected.values())))):
            on_failure(self.name, row, self.why)
        return _no_values(expected)


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
        self._variant = variant
        self._data = data
        self._runner = SignatureRunner(data, variant.signature)

    def run(
        self, features: Mapping[str, Any], expected: Mapping[str, Array], on_failure: OnFailure
    ) -> dict[str, Array]:
        """The outputs, of the names and shapes of `expected`; where the file fails, no values."""
        rows = len(next(iter(expected.values())))
        try:
            tensors = feed(
                self._runner.inputs, features, self._variant.defaults, rows, f"variant {self._variant.name!r}"
            )
        except EvaluationError as error:
            if not self._variant.own_inputs:
                raise
            for row in range(rows):
                on_failure(self._variant.name, row, str(error))
            return _no_values(expected)
        fixed = self._runner.batch_size
        step = _rows_at_once(tensors, _INTERPRETER_BYTES)
        step = fixed * max(1, step // fixed) if fixed else step
        parts: list[Mapping[str, Array]] = []
        for start in range(0, rows, step):
            self._score(tensors, expected, slice(start, min(start + step, rows)), parts, on_failure)
        return {name: np.concatenate([part[name] for part in parts]) for name in expected}

    def _score(
        self,
        tensors: Mapping[str, Array],
        expected: Mapping[str, Array],
        rows: slice,
        parts: list[Mapping[str, Array]],
        on_failure: OnFailure,
        *,
        alone: bool = False,
    ) -> None:
        """Appends the outputs of some rows; halves them where the file fails, until the failing rows stand alone."""
        wanted = {name: values[rows] for name, values in expected.items()}
        fixed = 1 if alone else self._runner.batch_size
        try:
            outputs = _filled_up(self._runner.run, {n: t[rows] for n, t in tensors.items()}, fixed)
            _check_same_outputs(outputs, wanted)
        except (ValueError, RuntimeError, EvaluationError) as error:
            from tfx_mobile.tflite.runtime import SignatureRunner

            # An interpreter that has failed keeps its message for the next failure, and maybe more.
            self._runner = SignatureRunner(self._data, self._variant.signature)
            if rows.stop - rows.start == 1 and fixed is None:  # it may take one row and no company
                self._score(tensors, expected, rows, parts, on_failure, alone=True)
                return
            if rows.stop - rows.start == 1:
                on_failure(self._variant.name, rows.start, str(error))
                parts.append(_no_values(wanted))
                return
            middle = (rows.start + rows.stop) // 2
            self._score(tensors, expected, slice(rows.start, middle), parts, on_failure)
            self._score(tensors, expected, slice(middle, rows.stop), parts, on_failure)
        else:
            parts.append(outputs)


def _no_values(expected: Mapping[str, Array]) -> dict[str, Array]:
    """NaN for floats; else zero or the empty string, which metrics can at least compute with."""
    return {
        name: np.full(values.shape, np.nan, values.dtype)
        if np.issubdtype(values.dtype, np.inexact)
        else np.full(values.shape, b"", object)
        if values.dtype.kind in "OSU"
        else np.zeros_like(values)
        for name, values in expected.items()
    }


def feed(
    inputs: Mapping[str, TensorRecord],
    features: Mapping[str, Any],
    defaults: Mapping[str, Default],
    rows: int,
    model: str,
) -> dict[str, Array]:
    """What a variant takes of features, in real values.

    Args:
        inputs: Its inputs by name.
        features: By name, arrays [rows, ...] as TFMA's FeaturesExtractor makes them.
        defaults: Values for features that an example lacks, by input name.
        rows: Number of examples.
        model: What it is called in messages.

    Raises:
        EvaluationError: An input has no feature or one that does not fit.
    """
    filled = {
        **features,
        **{
            name: _fill(inputs[name], features.get(name), default, rows)
            for name, default in defaults.items()
            if name in inputs
        },
    }
    return {name: _conform(record, filled, model) for name, record in inputs.items()}


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


def _in_steps(run: Any, tensors: Mapping[str, Array], fixed: int | None) -> dict[str, Array]:
    """Runs `run` on steps of bounded size, of exactly `fixed` rows if it takes no others."""
    rows = len(next(iter(tensors.values())))
    step = fixed or _rows_at_once(tensors, _TENSORFLOW_BYTES)
    parts = [_filled_up(run, {n: t[i : i + step] for n, t in tensors.items()}, fixed) for i in range(0, rows, step)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _rows_at_once(tensors: Mapping[str, Array], num_bytes: int) -> int:
    row = sum(tensor[:1].nbytes for tensor in tensors.values())
    return max(_FEWEST_ROWS, min(_MOST_ROWS, num_bytes // max(1, row)))


def _filled_up(run: Any, tensors: Mapping[str, Array], fixed: int | None) -> dict[str, Array]:
    """Runs `run`; a model of fixed batch size gets its last batch filled up by repetition.

    Which rows share a batch depends on Beam's timing and workers, so results must not depend on it. They do for a row
    that comes alone, as it goes through matrix-vector kernels with other sums: it gets company.
    """
    rows = len(next(iter(tensors.values())))
    padding = -rows % fixed if fixed else int(rows == 1)
    if padding:
        tensors = {name: np.concatenate([t, np.repeat(t[-1:], padding, axis=0)]) for name, t in tensors.items()}
    return {name: values[:rows] for name, values in run(tensors).items()}


def _check_same_outputs(outputs: Mapping[str, Array], expected: Mapping[str, Array]) -> None:
    shapes = {key: list(value.shape) for key, value in sorted(outputs.items())}
    expected_shapes = {key: list(value.shape) for key, value in sorted(expected.items())}
    if shapes != expected_shapes:
        raise EvaluationError(f"it returns {shapes}, the SavedModel {expected_shapes}: they cannot be compared")
