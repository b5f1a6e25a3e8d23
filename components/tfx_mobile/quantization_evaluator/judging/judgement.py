"""From what was measured to the record of the evaluation: verdicts, the winner, and the figures behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tfx_mobile.quantization_evaluator import eval_config as eval_configs
from tfx_mobile.quantization_evaluator.judging import (
    changes,
    costs,
    gates,
    latency,
    objective,
    reasons,
    second_baseline,
    thresholds,
)
from tfx_mobile.quantization_evaluator.parameters import Parameters
from tfx_mobile.quantization_evaluator.scoring import evaluation
from tfx_mobile.quantization_evaluator.versions import versions
from tfx_mobile.records import EvaluationRecord, Failure, ModelMetrics, ProductionRecord, VariantManifest


def judge(
    manifest: VariantManifest,
    failures: Mapping[str, Failure],
    measurement: evaluation.Measurement,
    measured: costs.Measured,
    production: ProductionRecord | None,
    parameters: Parameters,
) -> EvaluationRecord:
    """Judges every variant and chooses the winner.

    Args:
        manifest: What the converter made.
        failures: Variants that could not be scored, and why.
        measurement: What the pass found.
        measured: What was found out about the files.
        production: The second baseline as it was before the pass; None if none was asked for.
        parameters: The component's parameters.
    """
    if production is not None and (problem := _production_problem(measurement)):
        production = second_baseline.not_comparable(production, problem)
    compared = production is not None and production.status == "compared"
    models = tuple(model for model in measurement.models if compared or model.model != eval_configs.PRODUCTION)
    # A variant that lost examples is refused for that; what its metrics would be says nothing.
    lost = {name for name, count in measurement.not_finite.items() if count} | set(measurement.failures)
    comparison = changes.compare(
        [
            s
            for s in measurement.paired
            if s.variant not in lost and (compared or s.reference != eval_configs.PRODUCTION)
        ],
        [model for model in models if model.model not in lost],
        thresholds.read(parameters.eval_config),
        measurement.slice_keys,
        measurement.rejections,
        measurement.num_examples,
        parameters.confidence,
    )
    verdicts = gates.judge(
        manifest.variants,
        {**failures, **measurement.failures},
        reasons.find(measurement.rejections, comparison, measurement.models, parameters.confidence),
        measurement.not_finite,
        measurement.num_examples,
        parameters.budget,
        measured,
        parameters.confidence.undecided,
    )
    if production is not None and parameters.production is not None:
        verdicts = second_baseline.judge(verdicts, production, parameters.production.if_not_comparable)
    scored = tuple(model for model in models if model.model != eval_configs.PRODUCTION)
    quality = _quality(parameters, scored)
    passed = [verdict.variant for verdict in verdicts if verdict.passed]
    choice = objective.choose(
        manifest.variants, verdicts, parameters.objective, quality, latency.comparable(measured.latency, passed)
    )
    return EvaluationRecord(
        source_sha256=manifest.source.sha256,
        variants=manifest.variants,
        num_examples=measurement.num_examples,
        splits=parameters.splits,
        models=models,
        verdicts=gates.with_cautions(verdicts, choice.cautions),
        objective=dict(parameters.objective),
        budget=parameters.budget,
        winner=choice.winner,
        versions=versions(),
        gated_metrics=eval_configs.gated_metrics(parameters.eval_config),
        error_splits=gates.split_errors(manifest.variants, scored),
        confidence=parameters.confidence,
        changes=comparison.changes,
        costs=costs.describe(manifest.variants, measured, quality, {model.model for model in scored}, choice.scores),
        latency=measured.latency,
        quality_metric=quality.metric if quality else None,
        fidelity=measurement.fidelity,
        production=production,
    )


def _production_problem(measurement: evaluation.Measurement) -> str | None:
    """What the pass found that keeps the model in production from being compared."""
    if (failure := measurement.failures.get(eval_configs.PRODUCTION)) is not None:
        return failure.message
    if count := measurement.not_finite.get(eval_configs.PRODUCTION, 0):
        return (
            f"{count} of {measurement.num_examples} examples give NaN or infinite outputs where the float model's are "
            "finite."
        )
    return None


def _quality(parameters: Parameters, models: Sequence[ModelMetrics]) -> objective.Quality | None:
    if (found := eval_configs.quality_metric(parameters.eval_config)) is None:
        return None
    metric, higher_is_better = found
    baseline, *candidates = [(model.model, gates.metrics_on(model, gates.OVERALL).get(metric)) for model in models]
    return objective.Quality(metric, higher_is_better, baseline[1], dict(candidates))
