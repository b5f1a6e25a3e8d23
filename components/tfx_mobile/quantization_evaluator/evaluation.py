"""The Beam pass: every model on every example once, then TFMA's metrics and slices, its validation and result files."""

from __future__ import annotations

import base64
import json
import math
import posixpath
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import apache_beam as beam
import numpy as np
import tensorflow_model_analysis as tfma
from absl import logging
from tensorflow_model_analysis.extractors.sql_slice_key_extractor import SqlSliceKeyExtractor

from tfx_mobile.errors import EvaluationError, TFXMobileError
from tfx_mobile.quantization_evaluator import eval_config as eval_configs
from tfx_mobile.quantization_evaluator.gates import Rejection, metric_in_words, metrics_on, rejections, slice_in_words
from tfx_mobile.quantization_evaluator.paired import PairedSample
from tfx_mobile.quantization_evaluator.predict import FloatModel, Models, Transform, VariantFile, not_finite_rows
from tfx_mobile.quantization_evaluator.vectorized import bootstrap
from tfx_mobile.quantization_evaluator.vectorized.evaluator import vectorized_evaluator
from tfx_mobile.quantization_evaluator.vectorized.plan import Plan, make_plan
from tfx_mobile.records import ModelMetrics, SliceMetrics, TensorRecord

BASELINE = eval_configs.BASELINE
PRODUCTION = "production"
RAW_RECORD_COLUMN = tfma.ARROW_INPUT_COLUMN
_NAMESPACE = "tfx_mobile"
_EXAMPLES = "examples"
_NOT_FINITE = "not_finite"
_PAIRED = "paired_samples"  # a folder, for the time of the pass
_PEEK = 100


@dataclass(frozen=True)
class Measurement:
    """What the pass found.

    Attributes:
        num_examples: Examples every model was scored on.
        models: Metrics, the baseline's first.
        rejections: Thresholds that were missed, by variant.
        not_finite: By variant, the number of examples with a NaN or infinite output where the baseline's is finite.
        paired: What is known of the change of each metric with a change threshold, by metric, variant, reference and
            slice, in that order.
    """

    num_examples: int
    models: tuple[ModelMetrics, ...]
    rejections: Mapping[str, tuple[Rejection, ...]]
    not_finite: Mapping[str, int]
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
        for key, field in needed.items():
            if key not in features:
                raise EvaluationError(
                    f"{field} {key!r} of eval_config is not among the features of split {split!r}: {present}. Name "
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
    paired_metrics: Collection[str] = (),
    replicates: int = bootstrap.REPLICATES,
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
        paired_metrics: Metrics, in words, to give paired samples of besides those with a change threshold.
        replicates: Of the paired bootstrap.

    Raises:
        EvaluationError: A model cannot be fed or scored.
    """
    names = [variant.name for variant in variants]
    expanded = eval_configs.expand(config, names)
    shared = [
        # Without a loader: it only tells TFMA that a baseline exists.
        tfma.EvalSharedModel(
            model_name=name if names else "", model_path=uri, model_type="tf_generic", include_default_metrics=False
        )
        for name, uri in [(BASELINE, baseline.uri), *((v.name, v.uri) for v in variants)]
    ]
    extractors = [
        tfma.extractors.FeaturesExtractor(expanded),
        tfma.extractors.LabelsExtractor(expanded),
        tfma.extractors.ExampleWeightsExtractor(expanded),
        tfma.extractors.Extractor(
            stage_name="ExtractPredictions", ptransform=beam.ParDo(_Predict(baseline, variants, transform))
        ),
        *([SqlSliceKeyExtractor(expanded)] if any(spec.slice_keys_sql for spec in config.slicing_specs) else []),
    ]
    models = [BASELINE, *names]
    references = [name for name in (BASELINE, PRODUCTION) if name in models]
    plan = make_plan(expanded, models, references, paired_metrics)
    if plan.reasons:
        reasons = ", ".join(f"{metric} ({reason})" for metric, reason in plan.reasons.items())
        logging.info("Computed example by example, by TFMA itself, which takes longer: %s.", reasons)
    paired_uri = posixpath.join(output_path, _PAIRED)
    try:
        with make_pipeline() as pipeline:
            batches = [pipeline | f"Read[{index}]" >> source for index, source in enumerate(sources)]
            _ = (
                batches
                | "Flatten" >> beam.Flatten()
                | "ExtractEvaluateAndWriteResults"
                >> tfma.ExtractEvaluateAndWriteResults(
                    eval_config=expanded,
                    eval_shared_model=shared if names else shared[0],
                    extractors=extractors,
                    evaluators=[vectorized_evaluator(plan, expanded, shared, paired_uri, replicates)],
                    output_path=output_path,
                )
            )
    except Exception as error:
        if (own := _own_error(error)) is not None:
            raise own from None
        raise EvaluationError(
            f"The evaluation failed: {error}. If a metric failed, check that it fits the model's outputs (a model with "
            "several outputs needs output_names in metrics_specs) and the labels."
        ) from error
    counters = _counters(pipeline.result)
    metrics = _read_metrics(output_path, models)
    return Measurement(
        num_examples=counters.get(_EXAMPLES, 0),
        models=metrics,
        rejections=rejections(tfma.load_validation_result(output_path), names) if names else {},
        not_finite={name: counters.get(f"{_NOT_FINITE}/{name}", 0) for name in names},
        paired=_read_paired(paired_uri, plan, metrics) if plan.comparisons else (),
    )


class _Predict(beam.DoFn):
    """Adds the predictions of all models to a batch of extracts; pickled with descriptions, not with models."""

    def __init__(
        self, baseline: FloatModel, variants: Sequence[VariantFile], transform: Transform | None = None
    ) -> None:
        self._baseline = baseline
        self._variants = tuple(variants)
        self._transform = transform

    def setup(self) -> None:
        self._models = Models(BASELINE, self._baseline, self._variants, self._transform)
        self._examples = beam.metrics.Metrics.counter(_NAMESPACE, _EXAMPLES)
        self._not_finite = {
            variant.name: beam.metrics.Metrics.counter(_NAMESPACE, f"{_NOT_FINITE}/{variant.name}")
            for variant in self._variants
        }

    def process(self, extracts: dict[str, Any]) -> Iterable[dict[str, Any]]:
        serialized = extracts[tfma.INPUT_KEY]
        outputs = self._models.predict(extracts[tfma.FEATURES_KEY], serialized)
        self._examples.inc(len(serialized))
        for name, counter in self._not_finite.items():
            counter.inc(not_finite_rows(outputs[name], outputs[BASELINE]))
        # TFMA's convention: a single output is a bare array, a single model has no name.
        predictions = {name: _bare_if_single(model_outputs) for name, model_outputs in outputs.items()}
        yield {**extracts, tfma.PREDICTIONS_KEY: _bare_if_single(predictions)}


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


def _counters(result: Any) -> dict[str, int]:
    query = result.metrics().query(beam.metrics.MetricsFilter().with_namespace(_NAMESPACE))
    return {counter.key.metric.name: int(counter.result) for counter in query["counters"]}


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


def _read_paired(uri: str, plan: Plan, metrics: Sequence[ModelMetrics]) -> tuple[PairedSample, ...]:
    """Reads the paired samples that the pass wrote, and deletes them."""
    from tfx.dsl.io import fileio

    by_slice: dict[str, Any] = {}
    for path in fileio.glob(posixpath.join(uri, "*.jsonl")):
        with fileio.open(path, "rb") as stream:
            records = [json.loads(line) for line in stream.read().splitlines()]
        by_slice |= {record["slice"]: record for record in records}
    by_model = {model.model: model for model in metrics}
    places = [entry.slice for entry in metrics[0].slices if entry.slice in by_slice]

    def value(given: float | None, model: str, metric: str, place: str) -> float:
        found = metrics_on(by_model[model], place).get(metric) if given is None else given
        return math.nan if found is None else found

    samples = []
    for index, one in enumerate(plan.comparisons):
        for place in places:
            found = by_slice[place]["samples"][index]
            replicates = found.get("replicates")
            samples.append(
                PairedSample(
                    variant=one.variant,
                    reference=cast(Literal["saved_model", "production"], one.reference),
                    metric=one.words,
                    slice=place,
                    num_examples=by_slice[place]["num_examples"],
                    value=value(found.get("value"), one.variant, one.words, place),
                    reference_value=value(found.get("reference_value"), one.reference, one.words, place),
                    gained=found.get("gained"),
                    lost=found.get("lost"),
                    replicates=None if replicates is None else np.frombuffer(base64.b64decode(replicates), "<f8"),
                )
            )
    if fileio.exists(uri):
        fileio.rmtree(uri)
    return tuple(samples)
