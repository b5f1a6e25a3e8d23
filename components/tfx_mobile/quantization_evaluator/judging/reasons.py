"""Missed limits on metrics, and undecided ones, in words: the reasons and cautions of every variant."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from tfx_mobile.quantization_evaluator.judging.changes import Comparison
from tfx_mobile.quantization_evaluator.judging.gates import OVERALL, Findings, Rejection
from tfx_mobile.quantization_evaluator.judging.thresholds import Limit, limit_in_words
from tfx_mobile.records import Change, Confidence, ModelMetrics, Reason

_UNDECIDED = "insufficient_data"
_LISTED = 5


def find(
    missed: Mapping[str, Sequence[Rejection]],
    comparison: Comparison,
    models: Sequence[ModelMetrics],
    confidence: Confidence,
) -> dict[str, Findings]:
    """What the limits on metrics say of each variant that was scored.

    Args:
        missed: By variant, the thresholds TFMA found missed.
        comparison: The changes of all variants.
        models: Metrics of all models, the baseline's first.
        confidence: How sure the gate must be.
    """
    return {variant: _find(variant, own, comparison, models, confidence) for variant, own in missed.items()}


def _find(
    variant: str,
    missed: Sequence[Rejection],
    comparison: Comparison,
    models: Sequence[ModelMetrics],
    confidence: Confidence,
) -> Findings:
    # What gates with enough examples; the record has the others, too.
    changes = [
        change
        for change in comparison.changes
        if change.variant == variant
        and change.gate is not None
        and change.slice not in comparison.too_small.get(change.metric, {})
    ]
    by_threshold = [change for change in changes if change.gate == "change_threshold"]
    reasons = [_never_checked(metric, slices, confidence) for metric, slices in comparison.never_checked.items()]
    cautions = _too_small(comparison, confidence)
    for found in (
        _against_float(variant, missed, by_threshold, comparison, models, confidence),
        _against_production([change for change in by_threshold if change.reference == "production"], confidence),
        _on_the_worst_slice([change for change in changes if change.gate == "worst_slice"], confidence),
    ):
        reasons += found.reasons
        cautions += found.cautions
    return Findings(tuple(reasons), tuple(cautions))


def _against_float(
    variant: str,
    missed: Sequence[Rejection],
    changes: Sequence[Change],
    comparison: Comparison,
    models: Sequence[ModelMetrics],
    confidence: Confidence,
) -> Findings:
    """TFMA's point verdict decides, unless undecided changes are to block."""
    changes = [change for change in changes if change.reference == "saved_model"]
    by_key = {(change.metric, change.slice, change.higher_is_better): change for change in changes}
    values = {model.model: {entry.slice: entry.metrics for entry in model.slices} for model in models}
    own, baseline = values.get(variant, {}), values[models[0].model]
    reasons, seen = [], set()
    for rejection in missed:
        if rejection.slice in comparison.too_small.get(rejection.metric, {}):
            continue
        key = (rejection.metric, rejection.slice, rejection.higher_is_better)
        change = by_key.get(key) if rejection.is_change else None
        seen.add(key)
        if change is None or change.outcome != _UNDECIDED or confidence.undecided == "warn":
            reasons.append(_missed(rejection, own, baseline, change))
    undecided = [change for change in changes if change.outcome == _UNDECIDED]
    if confidence.undecided == "block":
        return Findings((*reasons, *map(_undecided, undecided)))
    unseen = [c for c in undecided if (c.metric, c.slice, c.higher_is_better) not in seen]
    return Findings(tuple(reasons), tuple(map(_undecided, unseen)))


def _against_production(changes: Sequence[Change], confidence: Confidence) -> Findings:
    reasons: list[Reason] = []
    cautions: list[Reason] = []
    for change in changes:
        unknown = change.change is None or change.limit is None
        undecided = change.outcome == _UNDECIDED or (change.outcome is None and unknown)
        if undecided and confidence.undecided == "block":
            reasons.append(_undecided(change))
        elif change.outcome == "fail" or _is_missed(change):
            reasons.append(_failed(change, "worse_than_production"))
        elif undecided:
            cautions.append(_undecided(change))
    return Findings(tuple(reasons), tuple(cautions))


def _on_the_worst_slice(changes: Sequence[Change], confidence: Confidence) -> Findings:
    """One reason or caution per reference and metric.

    Undecided changes are not judged as measured: of many slices one is far off by chance.
    """
    groups: dict[tuple[str, str], list[Change]] = {}
    for change in changes:
        groups.setdefault((change.reference, change.metric), []).append(change)
    reasons: list[Reason] = []
    cautions: list[Reason] = []
    for (reference, _), group in groups.items():
        code = "worst_slice" if reference == "saved_model" else "worse_than_production"
        failed = [c for c in group if c.outcome == "fail" or (c.outcome is None and _is_missed(c))]
        undecided = [c for c in group if c.outcome == _UNDECIDED or (c.outcome is None and c.change is None)]
        if failed:
            reasons.append(_failed(_worst(failed), code, len(group)))
        elif undecided:
            found = reasons if confidence.undecided == "block" else cautions
            found.append(_undecided(_worst(undecided), len(group)))
    return Findings(tuple(reasons), tuple(cautions))


def _missed(
    missed: Rejection,
    own: Mapping[str, Mapping[str, float | None]],
    baseline: Mapping[str, Mapping[str, float | None]],
    change: Change | None,
) -> Reason:
    if not missed.metric:
        return Reason(
            code="missing_slice",
            message=f"A threshold is set for slices {missed.slice}, but no example falls into one: the gate was never "
            "checked.",
            slice=missed.slice,
        )
    where = _where(missed.slice)
    if missed.value is None:
        message = f"{missed.metric} was not computed {where}; required: {missed.limit}."
    elif missed.is_change:
        value, float_value = (values.get(missed.slice, {}).get(missed.metric) for values in (own, baseline))
        message = (
            f"{missed.metric} is {_number(value)} {where} and {_number(float_value)} for the float model, "
            f"a change of {missed.value:+.4f}; required: {missed.limit}.{_evidence(change) if change else ''}"
        )
    else:
        message = f"{missed.metric} is {_number(missed.value)} {where}; required: {missed.limit}."
    return Reason(
        code="threshold",
        message=message,
        metric=missed.metric,
        slice=missed.slice,
        value=_finite(missed.value),
        limit=missed.limit,
    )


def _failed(change: Change, code: str, num_slices: int | None = None) -> Reason:
    return _reason(change, code, f"{_measured(change, num_slices)}{_evidence(change)}")


def _undecided(change: Change, num_slices: int | None = None) -> Reason:
    evidence = _evidence(change) or " The data do not decide: there is no value to compare with the limit."
    return _reason(change, _UNDECIDED, f"{_measured(change, num_slices)}{evidence}")


def _reason(change: Change, code: str, message: str) -> Reason:
    return Reason(
        code=code,
        message=message,
        metric=change.metric,
        slice=change.slice,
        value=change.change,
        limit=limit_in_words(_limit(change)),
    )


def _measured(change: Change, num_slices: int | None) -> str:
    amount = "by a value that is not finite" if change.change is None else f"by {change.change:+.4f}"
    than = "the model in production" if change.reference == "production" else "the float model"
    where = _where(change.slice) + (f", the worst of {num_slices}" if num_slices is not None else "")
    if _is_missed(change):
        start = f"{change.metric} is worse than that of {than} {where}: it changes {amount}"
    else:
        start = f"{change.metric} changes {amount} against {than} {where}"
    return f"{start}; required: {limit_in_words(_limit(change))}."


def _evidence(change: Change) -> str:
    """What the examples say, as sentences to append."""
    n = change.num_examples
    examples = "" if n is None else f" on {n:,} example{'' if n == 1 else 's'}"
    if change.level is None or change.lower is None or change.upper is None:
        if change.outcome != _UNDECIDED:
            return ""
        return f" The data do not decide: the change has no confidence interval{examples}."
    interval = (
        f"the {100 * change.level:.7g} % confidence interval of the change is {change.lower:+.4f} to "
        f"{change.upper:+.4f}{examples}"
    )
    if change.outcome != _UNDECIDED:
        return f" {interval[0].upper()}{interval[1:]}."
    needed = "" if change.examples_needed is None else f"; about {change.examples_needed:,} would decide"
    return f" The data do not decide: {interval}{needed}."


def _never_checked(metric: str, slices: Sequence[str], confidence: Confidence) -> Reason:
    return Reason(
        code=_UNDECIDED,
        message=f"{metric} has a limit on {_listed(slices)}, but fewer than {confidence.min_slice_examples:,} examples "
        "on each: the gate was never checked.",
        metric=metric,
        limit=f">= {confidence.min_slice_examples} examples",
    )


def _too_small(comparison: Comparison, confidence: Confidence) -> list[Reason]:
    cautions = []
    for metric, sizes in comparison.too_small.items():
        slices = [
            f"{name} ({n:,})" for name, n in sizes.items() if name not in comparison.never_checked.get(metric, ())
        ]
        if slices:
            cautions.append(
                Reason(
                    code=_UNDECIDED,
                    message=f"The limits on {metric} were not checked on {_listed(slices)}: fewer than "
                    f"{confidence.min_slice_examples:,} examples.",
                    metric=metric,
                    limit=f">= {confidence.min_slice_examples} examples",
                )
            )
    return cautions


def _listed(items: Sequence[str]) -> str:
    rest = len(items) - _LISTED
    return "; ".join(items[:_LISTED]) + (f" and {rest} more slices" if rest > 0 else "")


def _worst(changes: Sequence[Change]) -> Change:
    def badness(change: Change) -> float:
        if change.change is None:
            return math.inf
        return -change.change if change.higher_is_better else change.change

    return max(changes, key=badness)


def _limit(change: Change) -> Limit:
    return Limit(change.limit, bool(change.higher_is_better))


def _is_missed(change: Change) -> bool:
    return change.change is not None and change.limit is not None and not _limit(change).is_met(change.change)


def _where(name: str) -> str:
    return "over all examples" if name == OVERALL else f"on slice {name}"


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _number(value: float | None) -> str:
    return "not a finite number" if _finite(value) is None else f"{value:.4f}"
