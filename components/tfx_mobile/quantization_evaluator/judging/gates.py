"""From TFMA's validation result to a verdict per variant, with reasons a person understands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tfx_mobile.quantization_evaluator.judging import budget as budgets
from tfx_mobile.quantization_evaluator.judging.costs import Measured
from tfx_mobile.records import (
    Budget,
    ErrorSplit,
    Failure,
    MetricError,
    ModelMetrics,
    Reason,
    Undecided,
    Variant,
    Verdict,
)

OVERALL = "overall"
HIGHER_IS_BETTER = 2  # tfma.MetricDirection


@dataclass(frozen=True)
class Rejection:
    """One threshold that one variant missed on one slice.

    Attributes:
        metric: The metric in words.
        slice: The slice in words; None if no example fell into it.
        value: What was compared with the limit: the metric, or for a change its difference to the baseline. None if
            the metric was not computed there.
        limit: The limit in words.
        is_change: Whether the limit is on the change against the baseline.
        higher_is_better: The direction of such a limit; None of another.
    """

    metric: str
    slice: str
    value: float | None
    limit: str
    is_change: bool
    higher_is_better: bool | None = None


@dataclass(frozen=True)
class Findings:
    """What counts against a variant, and what could not be decided and does not."""

    reasons: tuple[Reason, ...] = ()
    cautions: tuple[Reason, ...] = ()


def rejections(validation: Any, variants: Sequence[str]) -> dict[str, tuple[Rejection, ...]]:
    """Missed thresholds by variant, from a tfma.ValidationResult.

    A slice that a threshold names and no example falls into counts against every variant: the gate was never checked.
    """
    found: dict[str, list[tuple[Any, Rejection]]] = {name: [] for name in variants}
    for per_slice in validation.metric_validations_per_slice:
        words, order = slice_in_words(per_slice)
        for failure in per_slice.failures:
            threshold = failure.metric_threshold
            is_change = threshold.HasField("change_threshold")
            limit = _change_limit(threshold.change_threshold) if is_change else _value_limit(threshold.value_threshold)
            value = failure.metric_value.double_value.value if failure.HasField("metric_value") else None
            higher = threshold.change_threshold.direction == HIGHER_IS_BETTER if is_change else None
            rejection = Rejection(metric_in_words(failure.metric_key), words, value, limit, is_change, higher)
            found[failure.metric_key.model_name].append((order, rejection))
    for specs in (validation.missing_slices, validation.missing_cross_slices):
        for spec in specs:
            rejection = Rejection("", " ".join(str(spec).split()), None, "", False)
            for items in found.values():
                items.append(((1,), rejection))
    return {name: tuple(r for _, r in sorted(items, key=lambda item: item[0])) for name, items in found.items()}


def judge(
    variants: Sequence[Variant],
    failures: Mapping[str, Failure],
    findings: Mapping[str, Findings],
    not_finite: Mapping[str, int],
    num_examples: int,
    budget: Budget,
    measured: Measured,
    undecided: Undecided,
) -> tuple[Verdict, ...]:
    """One verdict per variant, in the given order.

    Args:
        variants: What the converter made.
        failures: Variants that could not be scored, and why.
        findings: What the limits on metrics say of the variants that were scored.
        not_finite: See `evaluation.Measurement`.
        num_examples: Examples that were scored.
        budget: Hard limits.
        measured: What was found out about the files for them.
        undecided: Whether a limit that could not be checked blocks, see `Confidence`.
    """
    verdicts = []
    for variant in variants:
        reasons = []
        if (failure := failures.get(variant.name)) is not None:
            reasons.append(Reason(code=failure.code, message=f"{failure.message} {failure.advice}"))
        limits = budgets.check(variant, budget, measured, undecided)
        reasons += limits.reasons
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
        found = findings.get(variant.name, Findings())
        reasons += found.reasons
        verdicts.append(
            Verdict(
                variant=variant.name,
                sha256=variant.file.sha256 if variant.file else None,
                passed=not reasons,
                reasons=tuple(reasons),
                cautions=(*limits.cautions, *found.cautions),
            )
        )
    return tuple(verdicts)


def with_cautions(verdicts: Sequence[Verdict], cautions: Mapping[str, Sequence[Reason]]) -> tuple[Verdict, ...]:
    """The same verdicts with more cautions.

    Args:
        verdicts: One per variant.
        cautions: What to add, by variant.
    """
    return tuple(
        verdict.model_copy(update={"cautions": (*verdict.cautions, *cautions.get(verdict.variant, ()))})
        for verdict in verdicts
    )


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


def slice_in_words(message: Any) -> tuple[str, Any]:
    """A slice in words, such as `label:3`, and a key that sorts slices: overall first, then by column and value.

    Args:
        message: A TFMA message with `slice_key` or `cross_slice_key`.
    """
    if message.HasField("cross_slice_key"):
        one, one_order = _slice_key_in_words(message.cross_slice_key.comparison_slice_key)
        other, other_order = _slice_key_in_words(message.cross_slice_key.baseline_slice_key)
        return f"{one} against {other}", (1, one_order, other_order)
    words, order = _slice_key_in_words(message.slice_key)
    return words, (0, order, ())


def metric_in_words(key: Any) -> str:
    """A metric's name, with output, sub key and aggregation where it has them; a difference has its metric's name."""
    words = f"{key.output_name}/{key.name}" if key.output_name else str(key.name)
    if key.HasField("sub_key"):
        words += "".join(f"@{f.name}:{value.value}" for f, value in key.sub_key.ListFields())
    if key.HasField("aggregation_type"):
        words += "".join(f" ({f.name})" for f, value in key.aggregation_type.ListFields() if value)
    return words


def _slice_key_in_words(key: Any) -> tuple[str, Any]:
    parts, order = [], []
    for single in key.single_slice_keys:
        kind = single.WhichOneof("kind")
        value = getattr(single, kind) if kind else ""
        text = (
            value.decode(errors="replace")
            if isinstance(value, bytes)
            else f"{value:g}"
            if kind == "float_value"
            else value
        )
        parts.append(f"{single.column}:{text}")
        order.append((single.column, (1, str(text)) if isinstance(value, (bytes, str)) else (0, value)))
    return ", ".join(parts) or OVERALL, tuple(order)


def _value_limit(threshold: Any) -> str:
    bounds = []
    if threshold.HasField("lower_bound"):
        bounds.append(f">= {threshold.lower_bound.value:g}")
    if threshold.HasField("upper_bound"):
        bounds.append(f"<= {threshold.upper_bound.value:g}")
    return " and ".join(bounds)


def _change_limit(threshold: Any) -> str:
    sign = ">=" if threshold.direction == HIGHER_IS_BETTER else "<="
    bounds = []
    if threshold.HasField("absolute"):
        bounds.append(f"change {sign} {threshold.absolute.value:+g}")
    if threshold.HasField("relative"):
        bounds.append(f"relative change {sign} {threshold.relative.value:+.4g}")
    return " and ".join(bounds)


def _difference(value: float | None, reference: float | None) -> float | None:
    return None if value is None or reference is None else value - reference
