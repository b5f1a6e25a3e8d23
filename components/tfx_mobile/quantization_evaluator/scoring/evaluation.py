"""The Beam pass: every model on every example once, then TFMA's metrics and slices, its validation and result files."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import apache_beam as beam
import tensorflow_model_analysis as tfma
from absl import logging
from tensorflow_model_analysis.extractors.sql_slice_key_extractor import SqlSliceKeyExtractor

from tfx_mobile.errors import EvaluationError, TFXMobileError
from tfx_mobile.quantization_evaluator import eval_config as eval_configs
from tfx_mobile.quantization_evaluator.judging.gates import Rejection, rejections
from tfx_mobile.quantization_evaluator.judging.thresholds import SliceKey
from tfx_mobile.quantization_evaluator.scoring import aside, fidelity, metric_inputs, results, sample
from tfx_mobile.quantization_evaluator.scoring.paired import PairedSample
from tfx_mobile.quantization_evaluator.scoring.predict import FloatModel, Transform, VariantFile
from tfx_mobile.quantization_evaluator.scoring.prediction import Predict, read_counts
from tfx_mobile.quantization_evaluator.scoring.vectorized import bootstrap
from tfx_mobile.quantization_evaluator.scoring.vectorized.evaluator import vectorized_evaluator
from tfx_mobile.quantization_evaluator.scoring.vectorized.plan import make_plan
from tfx_mobile.quantization_evaluator.scoring.worker_versions import CheckVersions
from tfx_mobile.records import Failure, Fidelity, ModelMetrics

BASELINE = eval_configs.BASELINE
PRODUCTION = eval_configs.PRODUCTION
RAW_RECORD_COLUMN = tfma.ARROW_INPUT_COLUMN
_PAIRED = "paired_samples"  # a folder, for the time of the pass
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
        paired: What is known of the change of each metric with a change threshold, by metric, variant, reference and
            slice, in that order.
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
        production: The model that phones run today, called PRODUCTION; None without one. Gets metrics, no thresholds.
        sample_size: How many examples to return.
        replicates: Of the paired bootstrap.

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
            stage_name="ExtractPredictions", ptransform=beam.ParDo(Predict(baseline, files, transform, by_output))
        ),
        *(
            tfma.extractors.Extractor(f"Find[{name}]", aside.Aside(finding, posixpath.join(output_path, name)))
            for name, finding in findings.items()
        ),
        metric_inputs.extractor(config, baseline.outputs),
        *([SqlSliceKeyExtractor(expanded)] if any(spec.slice_keys_sql for spec in config.slicing_specs) else []),
    ]
    models = [BASELINE, *(file.name for file in files)]
    references = [name for name in (BASELINE, PRODUCTION) if name in models]
    plan = make_plan(expanded, models, references)
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
                | "CheckVersions" >> beam.ParDo(CheckVersions())
                | "ExtractEvaluateAndWriteResults"
                >> tfma.ExtractEvaluateAndWriteResults(
                    eval_config=expanded,
                    eval_shared_model=shared if files else shared[0],
                    extractors=extractors,
                    evaluators=[vectorized_evaluator(plan, expanded, shared, paired_uri, replicates)],
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
    counts = read_counts(pipeline.result, models[1:])
    metric_inputs.check_total_weight(config, counts.weighted)
    lost = {name for name, count in counts.not_finite.items() if count} | set(counts.failures)
    beside = {name: aside.read(posixpath.join(output_path, name)) for name in findings}
    found = rejections(tfma.load_validation_result(output_path), names) if names else {}
    written = list(tfma.load_metrics(output_path))
    metrics = results.metrics_of(written, models)
    return Measurement(
        num_examples=counts.num_examples,
        models=tuple(_without_values(model) if model.model in lost else model for model in metrics),
        rejections={name: () if name in lost else missed for name, missed in found.items()},
        not_finite=counts.not_finite,
        failures=counts.failures,
        fidelity=fidelity.from_json(beside.get(_FIDELITY_FILE, [])),
        sample=sample.from_json(beside.get(_SAMPLE_FILE, [])),
        slice_keys=results.slice_keys_of(written),
        paired=results.read_paired(paired_uri, plan, metrics) if plan.comparisons else (),
    )


def _findings(variants: Sequence[str], outputs: Sequence[str], sample_size: int) -> dict[str, aside.Finding[Any]]:
    """What is found out beside the metrics, by the file it is written to; nothing without a variant."""
    if not variants:
        return {}
    return {
        _FIDELITY_FILE: fidelity.FidelityFinding(BASELINE, variants, outputs),
        _SAMPLE_FILE: sample.SampleFinding(sample_size, _SAMPLE_BYTES),
    }


def _without_values(model: ModelMetrics) -> ModelMetrics:
    """Metrics over values that are not there would look like any others."""
    slices = [entry.model_copy(update={"metrics": dict.fromkeys(entry.metrics)}) for entry in model.slices]
    return model.model_copy(update={"slices": tuple(slices)})


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


def _first_cause(error: BaseException) -> str:
    """What went wrong in one line; TFMA and Beam wrap it into pages of arrays."""
    while (cause := error.__cause__ or (None if error.__suppress_context__ else error.__context__)) is not None:
        error = cause
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0][:_LONGEST_CAUSE].rstrip(". ")
