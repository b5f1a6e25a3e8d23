"""From what was measured to a verdict per variant, with reasons a person understands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tfx_mobile.quantization_evaluator.reasons import Findings, find
from tfx_mobile.quantization_evaluator.thresholds import OVERALL, Rejection
from tfx_mobile.records import (
    Budget,
    Confidence,
    ErrorSplit,
    Failure,
    MetricError,
    ModelMetrics,
    Reason,
    Variant,
    Verdict,
)

if TYPE_CHECKING:  # it needs SciPy, and this module is read while a pipeline is defined
    from tfx_mobile.quantization_evaluator.changes import Comparison


def judge(
    variants: Sequence[Variant],
    failures: Mapping[str, Failure],
    missed: Mapping[str, Sequence[Rejection]],
    not_finite: Mapping[str, int],
    num_examples: int,
    models: Sequence[ModelMetrics],
    budget: Budget,
    comparison: Comparison,
    confidence: Confidence,
) -> tuple[Verdict, ...]:
    """One verdict per variant, in the given order.

    Args:
        variants: What the converter made.
        failures: Variants that could not be scored, and why.
        missed: Missed thresholds of the variants that were scored.
        not_finite: See `evaluation.Measurement`.
        num_examples: Examples that were scored.
        models: Metrics of all models, the baseline's first.
        budget: Hard limits.
        comparison: The changes of the variants that were scored.
        confidence: How sure the gate must be.
    """
    verdicts = []
    for variant in variants:
        reasons = []
        if (failure := failures.get(variant.name)) is not None:
            reasons.append(Reason(code=failure.code, message=f"{failure.message} {failure.advice}"))
        size = variant.file.size_bytes if variant.file else None
        if size is not None and budget.max_size_bytes is not None and size > budget.max_size_bytes:
            reasons.append(_size_reason(size, budget.max_size_bytes))
        if count := not_finite.get(variant.name, 0):
            reasons.append(
                Reason(
                    code="not_finite",
                    message=f"{count} of {num_examples} examples give NaN or infinite outputs where the float model's "
                    "are finite.",
                    value=count,
                    limit="= 0",
                )
            )
        found = Findings((), ())
        if variant.name in missed:
            found = find(variant.name, missed[variant.name], comparison, models, confidence)
        reasons += found.reasons
        verdicts.append(
            Verdict(
                variant=variant.name,
                sha256=variant.file.sha256 if variant.file else None,
                passed=not reasons,
                reasons=tuple(reasons),
                cautions=found.cautions,
            )
        )
    return tuple(verdicts)


def choose_smallest(variants: Sequence[Variant], verdicts: Sequence[Verdict]) -> str | None:
    """The variant to bless for the objective `size`: the smallest that passed; of equally small ones the first.

    Args:
        variants: What the converter made.
        verdicts: One per variant.
    """
    passed = {verdict.variant for verdict in verdicts if verdict.passed}
    sizes = {v.name: v.file.size_bytes for v in variants if v.file is not None and v.name in passed}
    return min(sizes, key=lambda name: sizes[name], default=None)


def split_errors(variants: Sequence[Variant], models: Sequence[ModelMetrics]) -> tuple[ErrorSplit, ...] | None:
    """Tells conversion error from quantization error; None without a float32 variant among the scored ones.

    Args:
        variants: What the converter made.
        models: Metrics, the baseline's first.
    """
    baseline, *candidates = models
    unquantized = {variant.name for variant in variants if variant.recipe.quantization == "none"}
    float32 = next((model for model in candidates if model.model in unquantized), None)
    if float32 is None:
        return None
    start, middle = metrics_on(baseline, OVERALL), metrics_on(float32, OVERALL)
    splits = []
    for model in candidates:
        end = metrics_on(model, OVERALL)
        errors = {
            name: MetricError(
                conversion=_difference(middle.get(name), start.get(name)),
                quantization=_difference(end[name], middle.get(name)),
            )
            for name in end
        }
        splits.append(ErrorSplit(variant=model.model, metrics=errors))
    return tuple(splits)


def metrics_on(model: ModelMetrics, slice_name: str) -> Mapping[str, float | None]:
    """A model's metrics on one slice; empty if there are none."""
    return next((entry.metrics for entry in model.slices if entry.slice == slice_name), {})


def _size_reason(size: int, limit: int) -> Reason:
    return Reason(
        code="budget",
        message=f"The file has {size:,} bytes; required: <= {limit:,}.",
        value=size,
        limit=f"<= {limit}",
    )


def _difference(value: float | None, reference: float | None) -> float | None:
    return None if value is None or reference is None else value - reference
