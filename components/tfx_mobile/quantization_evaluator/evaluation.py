"""The Beam pass: every model on every example once, then TFMA's own metrics, slices, validation and result files."""

from __future__ import annotations

import math
import posixpath
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import apache_beam as beam
import tensorflow_model_analysis as tfma
from absl import logging
from tensorflow_model_analysis.extractors.sql_slice_key_extractor import SqlSliceKeyExtractor
from tensorflow_model_analysis.slicer import slicer_lib

from tfx_mobile.errors import EvaluationError, TFXMobileError
from tfx_mobile.quantization_evaluator import aside, fidelity, metric_inputs, sample
from tfx_mobile.quantization_evaluator import eval_config as eval_configs
from tfx_mobile.quantization_evaluator.gates import Rejection, metric_in_words, rejections, slice_in_words
from tfx_mobile.quantization_evaluator.paired import PairedSample
from tfx_mobile.quantization_evaluator.predict import (
    FloatModel,
    Models,
    Transform,
    VariantFile,
    keep_finite,
    not_finite_rows,
)
from tfx_mobile.quantization_evaluator.thresholds import SliceKey
from tfx_mobile.quantization_evaluator.worker_versions import CheckVersions
from tfx_mobile.records import Failure, Fidelity, ModelMetrics, SliceMetrics, TensorRecord

BASELINE = eval_configs.BASELINE
PRODUCTION = eval_configs.PRODUCTION
RAW_RECORD_COLUMN = tfma.ARROW_INPUT_COLUMN
_NAMESPACE = "tfx_mobile"
_EXAMPLES = "examples"
_NOT_FINITE = "not_finite"
_FAILED = "failed"
_FAILED_WITH = "failed_with"
_MESSAGE_CHARS = 500
_PEEK = 100
# Beside TFMA's files, until they are read.
_FIDELITY_FILE = "fidelity.json"
_SAMPLE_FILE = "sample.json"
_SAMPLE_BYTES = 64 << 20
_LONGEST_CAUSE = 400


@dataclass(frozen=True)
class Measurement:
    """What the pass found.

    Attributes:
        num_examples: Examples every model was scored on.
        models: Metrics, the baseline's first. All are None for a model that has no value, or no finite one, on some
            examples where the baseline has.
        rejections: Thresholds that were missed, by variant; none for a variant without metrics.
        not_finite: By model, the number of examples with a NaN or infinite output where the baseline's is finite.
        failures: Models that failed on examples, with the number of these and one of the reasons: the first in
            alphabetical order, so that it does not depend on how examples were spread over workers.
        fidelity: How close the outputs are to the baseline's, by variant and output.
        sample: A few serialized tf.Examples, the same ones whenever the same examples are read.
        slice_keys: TFMA's key of every slice with metrics, by the slice in words; overall first.
        paired: What was collected of each variant and reference on the same examples.
    """

    num_examples: int
    models: tuple[ModelMetrics, ...]
    rejections: Mapping[str, tuple[Rejection, ...]]
    not_finite: Mapping[str, int]
    failures: Mapping[str, Failure]
    fidelity: tuple[Fidelity, ...] = ()
    sample: tuple[bytes, ...] = ()
    slice_keys: Mapping[str, SliceKey] = field(default_factory=dict)
    paired: tuple[PairedSample, ...] = ()


def find_transform(
    files: Mapping[str, Sequence[str]],
    baseline: FloatModel,
    variant_inputs: Sequence[TensorRecord],
    uri: str,
    schema: str | None,
) -> Transform | None:
    """Decides by the first examples of each split whether a transform graph has to be applied to them.

    Args:
        files: Compressed TFRecord files by split.
        baseline: The float model.
        variant_inputs: The variants' inputs; empty if they are known to be features of the examples.
        uri: Folder of the TransformGraph artifact.
        schema: Path of the raw examples' schema; None without one.

    Returns:
        What to apply; None if all models take features of the examples as they are.

    Raises:
        EvaluationError: The graph or the examples cannot be read, or an input is found in neither.
    """
    import tensorflow as tf

    from tfx_mobile.transform_graph import CannotTransformError, TransformGraph, conform, stored_features

    all_inputs = (() if baseline.parses_examples else tuple(baseline.inputs.values()), variant_inputs)
    try:
        records = [
            record
            for paths in files.values()
            for record in tf.data.TFRecordDataset(list(paths), "GZIP").take(_PEEK).as_numpy_iterator()
        ]
        graph = TransformGraph(uri, schema)
        stored = stored_features(records)
        choices = [graph.choose(stored, inputs) if inputs and records else None for inputs in all_inputs]
        raw_features = graph.raw_features(stored)
        for choice, inputs in zip(choices, all_inputs, strict=True):
            if choice is not None and choice.source == "transform_graph":
                conform(graph.apply(records, raw_features), inputs)
    except tf.errors.OpError as error:
        raise EvaluationError(
            f"The examples cannot be read as GZIP TFRecords: {error}. Run the step that wrote them again."
        ) from None
    except CannotTransformError as error:
        raise EvaluationError(str(error)) from error
    if any(choice is not None and choice.assumed for choice in choices):
        logging.warning(
            "The model's inputs are features of the raw examples as well as outputs of the transform graph, which is "
            "applied because transform_graph is given. Leave it out if the signature takes raw features."
        )
    feeds_baseline, feeds_variants = (c is not None and c.source == "transform_graph" for c in choices)
    if not feeds_baseline and not feeds_variants:
        return None
    return Transform(uri, schema, raw_features, feeds_baseline, feeds_variants)


def check_examples(
    files: Mapping[str, Sequence[str]],
    baseline: FloatModel,
    needed: Mapping[str, str],
    transform: Transform | None = None,
) -> None:
    """Looks at the first examples of each split, so that a wrong wiring fails before the pass and in plain words.

    Args:
        files: Compressed TFRecord files by split.
        baseline: The model to be fed.
        needed: Features that the EvalConfig reads, each with the field that names it.
        transform: What is applied to the examples first.

    Raises:
        EvaluationError: A split is empty or not readable, or a needed feature or model input is in none of them.
    """
    import tensorflow as tf

    for split, paths in files.items():
        features: set[str] = set()
        count = 0
        try:
            for record in tf.data.TFRecordDataset(list(paths), "GZIP").take(_PEEK).as_numpy_iterator():
                features.update(tf.train.Example.FromString(record).features.feature)
                count += 1
        except (tf.errors.OpError, Exception) as error:  # noqa: BLE001 (protobuf's DecodeError has no stable home)
            raise EvaluationError(
                f"Split {split!r} cannot be read as GZIP TFRecords of tf.Examples: {error}. Run the step that wrote "
                "the examples again."
            ) from None
        if not count:
            raise EvaluationError(
                f"Split {split!r} of the examples is empty: its {len(paths)} files hold no example. Choose another "
                "split with example_splits=[...], or check the step that wrote the examples."
            )
        present = ", ".join(sorted(features))
        for key, names_it in needed.items():
            if key not in features:
                raise EvaluationError(
                    f"{names_it} {key!r} of eval_config is not among the features of split {split!r}: {present}. Name "
                    "one of these, or evaluate on examples that hold it."
                )
        transformed = transform is not None and transform.feeds_baseline
        inputs = () if baseline.parses_examples or transformed else tuple(baseline.inputs)
        missing = sorted(set(inputs) - features)
        if missing:
            raise EvaluationError(
                f"No feature for model input {', '.join(missing)} in split {split!r}; its features: {present}. "
                f"Signature {baseline.signature!r} takes {', '.join(sorted(inputs))}: wire the examples the model is "
                "served with (after a Transform, transformed_examples if the signature takes transformed features, or "
                "raw examples with transform_graph=transform.outputs['transform_graph']), or set signature_name in the "
                "ModelSpec."
            )


def measure(
    make_pipeline: Callable[[], Any],
    sources: Sequence[Any],
    baseline: FloatModel,
    variants: Sequence[VariantFile],
    config: Any,
    output_path: str,
    transform: Transform | None = None,
    *,
    production: VariantFile | None = None,
    sample_size: int = 0,
) -> Measurement:
    """Scores all models in one pass and writes TFMA's result files.

    Args:
        make_pipeline: Makes the Beam pipeline to run.
        sources: Beam sources of Arrow record batches with the raw records in column RAW_RECORD_COLUMN.
        baseline: The float model.
        variants: The files to compare with it; may be empty.
        config: The user's tfma.EvalConfig.
        output_path: Where TFMA writes.
        transform: What is applied to the examples before the models get them.
        production: The model that phones run today, called PRODUCTION; None without one. Gets metrics, no thresholds.
        sample_size: How many examples to return.

    Raises:
        EvaluationError: The baseline cannot be fed or scored, or the variants cannot be fed.
    """
    names = [variant.name for variant in variants]
    files = [*variants, production] if production is not None else [*variants]
    expanded = eval_configs.expand(config, names, production is not None)
    by_output = bool(eval_configs.template(config).prediction_key)
    shared = [
        # Without a loader: it only tells TFMA that a baseline exists.
        tfma.EvalSharedModel(
            model_name=name if files else "", model_path=uri, model_type="tf_generic", include_default_metrics=False
        )
        for name, uri in [(BASELINE, baseline.uri), *((file.name, file.uri) for file in files)]
    ]
    findings = _findings(names, baseline.outputs, sample_size)
    extractors = [
        tfma.extractors.FeaturesExtractor(expanded),
        tfma.extractors.LabelsExtractor(expanded),
        tfma.extractors.ExampleWeightsExtractor(expanded),
        tfma.extractors.Extractor(
            stage_name="ExtractPredictions", ptransform=beam.ParDo(_Predict(baseline, files, transform, by_output))
        ),
        *(
            tfma.extractors.Extractor(f"Find[{name}]", aside.Aside(finding, posixpath.join(output_path, name)))
            for name, finding in findings.items()
        ),
        metric_inputs.extractor(config, baseline.outputs),
        tfma.extractors.Extractor(stage_name="KeepFinite", ptransform=beam.Map(_keep_finite)),
        *([SqlSliceKeyExtractor(expanded)] if any(spec.slice_keys_sql for spec in config.slicing_specs) else []),
        tfma.extractors.UnbatchExtractor(),
        tfma.extractors.SliceKeyExtractor(eval_config=expanded),
    ]
    try:
        with make_pipeline() as pipeline:
            batches = [pipeline | f"Read[{index}]" >> source for index, source in enumerate(sources)]
            _ = (
                batches
                | "Flatten" >> beam.Flatten()
                | "CheckVersions" >> beam.ParDo(CheckVersions())
                | "ExtractEvaluateAndWriteResults"
                >> tfma.ExtractEvaluateAndWriteResults(
                    eval_config=expanded,
                    eval_shared_model=shared if files else shared[0],
                    extractors=extractors,
                    output_path=output_path,
                )
            )
    except Exception as error:
        if (own := _own_error(error)) is not None:
            raise own from None
        raise EvaluationError(
            f"The evaluation failed: {_first_cause(error)}. If a metric failed, check that it fits the model's outputs "
            "(a model with several outputs needs output_names in metrics_specs) and the labels."
        ) from error
    counters, messages = _reported(pipeline.result)
    metric_inputs.check_total_weight(config, counters.get(metric_inputs.WEIGHTED, 0))
    num_examples = counters.get(_EXAMPLES, 0)
    not_finite = {file.name: counters.get(f"{_NOT_FINITE}/{file.name}", 0) for file in files}
    failures = {
        file.name: _failure(count, num_examples, messages.get(f"{_FAILED_WITH}/{file.name}", ()))
        for file in files
        if (count := counters.get(f"{_FAILED}/{file.name}", 0))
    }
    lost = {name for name in not_finite if not_finite[name] or name in failures}
    beside = {name: aside.read(posixpath.join(output_path, name)) for name in findings}
    found = rejections(tfma.load_validation_result(output_path), names) if names else {}
    return Measurement(
        num_examples=num_examples,
        models=tuple(
            _without_values(model) if model.model in lost else model
            for model in _read_metrics(output_path, [BASELINE, *(file.name for file in files)])
        ),
        rejections={name: () if name in lost else missed for name, missed in found.items()},
        not_finite=not_finite,
        failures=failures,
        fidelity=fidelity.from_json(beside.get(_FIDELITY_FILE, [])),
        sample=sample.from_json(beside.get(_SAMPLE_FILE, [])),
        slice_keys=_slice_keys(output_path),
    )


def _findings(variants: Sequence[str], outputs: Sequence[str], sample_size: int) -> dict[str, aside.Finding[Any]]:
    """What is found out beside the metrics, by the file it is written to; nothing without a variant."""
    if not variants:
        return {}
    return {
        _FIDELITY_FILE: fidelity.FidelityFinding(BASELINE, variants, outputs),
        _SAMPLE_FILE: sample.SampleFinding(sample_size, _SAMPLE_BYTES),
    }


def _slice_keys(output_path: str) -> dict[str, SliceKey]:
    found = []
    for per_slice in tfma.load_metrics(output_path):
        if not per_slice.HasField("cross_slice_key"):
            words, order = slice_in_words(per_slice)
            found.append((order, words, slicer_lib.deserialize_slice_key(per_slice.slice_key)))
    return {words: key for _, words, key in sorted(found, key=lambda item: item[0])}


def _failure(count: int, num_examples: int, messages: Collection[str]) -> Failure:
    example = f", on one of them with: {min(messages).rstrip('.')}" if messages else ""
    return Failure(
        code="failed_on_examples",
        message=f"The file fails on {count} of {num_examples} examples{example}.",
        advice="Do not ship it: the float model takes these examples. Convert the model again, or leave this recipe "
        "out.",
    )


def _without_values(model: ModelMetrics) -> ModelMetrics:
    """Metrics over values that are not there would look like any others."""
    slices = [entry.model_copy(update={"metrics": dict.fromkeys(entry.metrics)}) for entry in model.slices]
    return model.model_copy(update={"slices": tuple(slices)})


class _Predict(beam.DoFn):
    """Adds the predictions of all models to a batch of extracts; pickled with descriptions, not with models."""

    def __init__(
        self,
        baseline: FloatModel,
        variants: Sequence[VariantFile],
        transform: Transform | None = None,
        by_output: bool = False,
    ) -> None:
        self._by_output = by_output
        self._baseline = baseline
        self._variants = tuple(variants)
        self._transform = transform

    def setup(self) -> None:
        self._models = Models(BASELINE, self._baseline, self._variants, self._transform)
        self._examples = beam.metrics.Metrics.counter(_NAMESPACE, _EXAMPLES)
        self._counters = {variant.name: _Counters(variant.name) for variant in self._variants}

    def process(self, extracts: dict[str, Any]) -> Iterable[dict[str, Any]]:
        serialized = extracts[tfma.INPUT_KEY]
        failed: dict[str, dict[int, str]] = {variant.name: {} for variant in self._variants}
        outputs = self._models.predict(
            extracts[tfma.FEATURES_KEY], serialized, lambda model, row, why: failed[model].update({row: why})
        )
        self._examples.inc(len(serialized))
        for name, counters in self._counters.items():
            counters.count(failed[name], not_finite_rows(outputs[name], outputs[BASELINE], failed[name]))
        # TFMA's convention: a single output is a bare array, a single model has no name. Metrics that look outputs up
        # by name need the name; prediction_key tells the others which one is meant.
        predictions: dict[str, Any] = outputs
        if not self._by_output:
            predictions = {name: _bare_if_single(model_outputs) for name, model_outputs in outputs.items()}
        yield {**extracts, tfma.PREDICTIONS_KEY: _bare_if_single(predictions)}


class _Counters:
    """What one worker reports of one model."""

    def __init__(self, model: str) -> None:
        self._not_finite = beam.metrics.Metrics.counter(_NAMESPACE, f"{_NOT_FINITE}/{model}")
        self._failed = beam.metrics.Metrics.counter(_NAMESPACE, f"{_FAILED}/{model}")
        self._failed_with = beam.metrics.Metrics.string_set(_NAMESPACE, f"{_FAILED_WITH}/{model}")
        self._first: str | None = None

    def count(self, failed: Mapping[int, str], not_finite: int) -> None:
        """Counts examples, and keeps the first of all messages."""
        self._not_finite.inc(not_finite)
        if failed:
            self._failed.inc(len(failed))
            first = min(" ".join(message.split())[:_MESSAGE_CHARS] for message in failed.values())
            if self._first is None or first < self._first:
                self._first = first
                self._failed_with.add(first)


def _keep_finite(extracts: dict[str, Any]) -> dict[str, Any]:
    """The extracts with predictions that all metrics can be computed with."""
    predictions = extracts[tfma.PREDICTIONS_KEY]
    if not isinstance(predictions, dict) or BASELINE not in predictions:
        return extracts
    expected = predictions[BASELINE]
    kept = {
        model: {name: keep_finite(value, expected[name]) for name, value in outputs.items()}
        if isinstance(outputs, dict)
        else keep_finite(outputs, expected)
        for model, outputs in predictions.items()
    }
    return {**extracts, tfma.PREDICTIONS_KEY: kept}


def _bare_if_single(values: dict[str, Any]) -> Any:
    return values if len(values) > 1 else next(iter(values.values()))


def _own_error(error: BaseException) -> TFXMobileError | None:
    """What a DoFn of ours raised: Beam wraps it, or raises another of its type with the step's name appended."""
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, TFXMobileError):
            return found
        found = found.__cause__ or found.__context__
    # From a worker in another process only the traceback's text arrives.
    remote = re.search(rf"^{re.escape(TFXMobileError.__module__)}\.\w+: (.+)$", str(error), re.MULTILINE)
    return EvaluationError(remote[1]) if remote else None


def _reported(result: Any) -> tuple[dict[str, int], dict[str, Collection[str]]]:
    """Counters and sets of messages, by name."""
    try:
        query = result.metrics().query(beam.metrics.MetricsFilter().with_namespace(_NAMESPACE))
    except NotImplementedError:  # what Beam's base class says for runners that count nothing
        query = {"counters": [], "string_sets": []}
    counters = {counter.key.metric.name: int(counter.result) for counter in query["counters"]}
    if not counters.get(_EXAMPLES):
        # Without counters nobody would see NaN outputs, and a model scored on nothing would look like any other.
        raise EvaluationError(
            "The Beam runner ended without saying how many examples it evaluated, so nothing can be judged. Use one "
            "that reports Beam's counters: leave --runner out, or use DataflowRunner."
        )
    return counters, {messages.key.metric.name: messages.result for messages in query["string_sets"]}


def _first_cause(error: BaseException) -> str:
    """What went wrong in one line; TFMA and Beam wrap it into pages of arrays."""
    while (cause := error.__cause__ or (None if error.__suppress_context__ else error.__context__)) is not None:
        error = cause
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0][:_LONGEST_CAUSE].rstrip(". ")


def _read_metrics(output_path: str, models: Sequence[str]) -> tuple[ModelMetrics, ...]:
    slices: dict[str, list[tuple[Any, SliceMetrics]]] = {name: [] for name in models}
    for per_slice in tfma.load_metrics(output_path):
        values: dict[str, dict[str, float | None]] = {name: {} for name in models}
        for entry in per_slice.metric_keys_and_values:
            kind = entry.value.WhichOneof("type")
            if kind not in ("double_value", "bounded_value") or entry.key.is_diff or entry.key.name.startswith("_"):
                continue
            value = entry.value.double_value.value if kind == "double_value" else entry.value.bounded_value.value.value
            model = entry.key.model_name or BASELINE
            values[model][metric_in_words(entry.key)] = value if math.isfinite(value) else None
        words, order = slice_in_words(per_slice)
        for name in models:
            if values[name]:
                slices[name].append((order, SliceMetrics(slice=words, metrics=values[name])))
    return tuple(
        ModelMetrics(model=name, slices=tuple(metrics for _, metrics in sorted(slices[name], key=lambda item: item[0])))
        for name in models
    )
