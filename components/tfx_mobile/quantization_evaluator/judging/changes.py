"""The changes of every variant, with intervals and with what these say of the limits that the EvalConfig sets."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field

from tfx_mobile.quantization_evaluator import eval_config as eval_configs
from tfx_mobile.quantization_evaluator.judging import intervals, thresholds
from tfx_mobile.quantization_evaluator.judging.gates import OVERALL, Rejection
from tfx_mobile.quantization_evaluator.judging.thresholds import Limit, SliceKey, Threshold
from tfx_mobile.quantization_evaluator.scoring.paired import PairedSample
from tfx_mobile.records import Change, Confidence, ModelMetrics, Outcome


@dataclass(frozen=True)
class Comparison:
    """What is known of the changes of all variants that were scored.

    Attributes:
        changes: By variant, reference, metric and slice.
        too_small: By metric, the slices that a threshold gates but that have too few examples for it, with their
            number of examples.
        never_checked: By metric, in words, the slices of a gate that was not checked at all, as all are too small.
    """

    changes: tuple[Change, ...] = ()
    too_small: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    never_checked: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def compare(
    samples: Sequence[PairedSample],
    models: Sequence[ModelMetrics],
    limits: Sequence[Threshold],
    slices: Mapping[str, SliceKey],
    missed: Mapping[str, Sequence[Rejection]],
    num_examples: int,
    confidence: Confidence,
) -> Comparison:
    """Compares every variant with every reference.

    Args:
        samples: What the pass collected; a limited metric without a sample is compared by its values.
        models: Metrics of all models, the baseline's first; `production` is the second baseline.
        limits: The thresholds of the EvalConfig.
        slices: TFMA's key of every slice that was computed, by the slice in words, in the order to report them.
        missed: By variant that was scored, the thresholds TFMA found missed.
        num_examples: Examples that were scored.
        confidence: How sure the gate must be.

    Raises:
        EvalConfigError: `confidence.worst_slice` names a metric whose direction is not known.
    """
    worst = thresholds.worst_slice_limits(limits, confidence.worst_slice)
    limited = dict.fromkeys(limit.metric for limit in limits if limit.is_change)
    sizes = {OVERALL: num_examples, **{sample.slice: sample.num_examples for sample in samples}}
    small = {name: n for name in slices if (n := sizes.get(name)) is not None and n < confidence.min_slice_examples}
    all_samples = _in_order([*samples, *_without_interval(samples, models, limited, slices, sizes)], missed, slices)
    not_met = {
        (variant, rejection.metric, rejection.slice, rejection.higher_is_better)
        for variant, rejections in missed.items()
        for rejection in rejections
        if rejection.is_change
    }

    num_slices = Counter(_comparison(sample) for sample in all_samples if sample.slice not in {OVERALL, *small})
    changes: list[Change] = []
    for sample in all_samples:
        too_small, key = sample.slice in small, slices.get(sample.slice)
        found = () if key is None else thresholds.change_limits(limits, sample.metric, key, sample.reference_value)
        for limit in found:
            change = _gated(sample, limit, "change_threshold", confidence.level, too_small, confidence)
            changes.append(_agreeing(change, not_met))
        if sample.metric in worst and sample.slice != OVERALL:
            level = 1 - (1 - confidence.level) / max(1, num_slices[_comparison(sample)])
            changes.append(_gated(sample, worst[sample.metric], "worst_slice", level, too_small, confidence))
        elif not found:
            changes.append(_change(sample, confidence.level))
    return Comparison(tuple(changes), *_small_slices(limits, worst, slices, small))


def _without_interval(
    samples: Sequence[PairedSample],
    models: Sequence[ModelMetrics],
    metrics: Iterable[str],
    slices: Iterable[str],
    sizes: Mapping[str, int | None],
) -> list[PairedSample]:
    """Samples that hold no more than the values, of what the pass did not collect any of."""
    known = {(sample.variant, sample.reference, sample.metric, sample.slice) for sample in samples}
    values = {model.model: {entry.slice: entry.metrics for entry in model.slices} for model in models}
    made = []
    for reference in (eval_configs.BASELINE, eval_configs.PRODUCTION):
        for variant in values:
            if reference not in values or variant in (eval_configs.BASELINE, eval_configs.PRODUCTION):
                continue
            for metric in metrics:
                for name in slices:
                    own, other = (values[model].get(name, {}) for model in (variant, reference))
                    if (variant, reference, metric, name) in known or metric not in own or metric not in other:
                        continue
                    one, two = (math.nan if value is None else value for value in (own[metric], other[metric]))
                    made.append(
                        PairedSample(
                            variant=variant,
                            reference="production" if reference == eval_configs.PRODUCTION else "saved_model",
                            metric=metric,
                            slice=name,
                            num_examples=sizes.get(name),
                            value=one,
                            reference_value=two,
                        )
                    )
    return made


def _in_order(
    samples: Sequence[PairedSample], variants: Iterable[str], slices: Iterable[str]
) -> tuple[PairedSample, ...]:
    orders = [
        {name: index for index, name in enumerate(names)}
        for names in (
            variants,
            (eval_configs.BASELINE, eval_configs.PRODUCTION),
            dict.fromkeys(s.metric for s in samples),
            slices,
        )
    ]

    def order(sample: PairedSample) -> tuple[int, ...]:
        words = (sample.variant, sample.reference, sample.metric, sample.slice)
        return tuple(places.get(word, len(places)) for places, word in zip(orders, words, strict=True))

    return tuple(sorted(samples, key=order))


def _comparison(sample: PairedSample) -> tuple[str, str, str]:
    return sample.variant, sample.reference, sample.metric


def _change(sample: PairedSample, level: float) -> Change:
    change = sample.value - sample.reference_value
    interval = intervals.interval(sample, level)
    return Change(
        variant=sample.variant,
        reference=sample.reference,
        metric=sample.metric,
        slice=sample.slice,
        num_examples=sample.num_examples,
        change=change if math.isfinite(change) else None,
        lower=interval.lower if interval else None,
        upper=interval.upper if interval else None,
        level=level if interval else None,
        method=interval.method if interval else None,
    )


def _gated(
    sample: PairedSample, limit: Limit, gate: str, level: float, too_small: bool, confidence: Confidence
) -> Change:
    change = _change(sample, level)
    outcome = _outcome(sample, change, limit)
    needed = None
    if outcome == "insufficient_data" and limit.value is not None:
        needed = intervals.examples_needed(sample, limit.value, level)
    if too_small:
        outcome, needed = "insufficient_data", max(confidence.min_slice_examples, needed or 0)
    return change.model_copy(
        update={
            "gate": gate,
            "limit": limit.value,
            "higher_is_better": limit.higher_is_better,
            "outcome": outcome,
            "examples_needed": needed,
        }
    )


def _outcome(sample: PairedSample, change: Change, limit: Limit) -> Outcome | None:
    """None where nothing is known but the values, so that only these can decide."""
    if limit.value is None:
        return None
    if change.lower is None or change.upper is None:
        has_examples = sample.replicates is not None or sample.gained is not None
        return "insufficient_data" if has_examples and change.change is not None else None
    worst, best = (change.lower, change.upper) if limit.higher_is_better else (change.upper, change.lower)
    if limit.is_met(worst):
        return "pass"
    return "insufficient_data" if limit.is_met(best) else "fail"


def _agreeing(change: Change, not_met: Set[tuple[str, str, str, bool | None]]) -> Change:
    """An outcome never contradicts TFMA's: where only rounding tells a change from its limit, nothing is decided."""
    if change.reference != eval_configs.BASELINE or change.outcome not in ("pass", "fail"):
        return change
    is_met = (change.variant, change.metric, change.slice, change.higher_is_better) not in not_met
    return (
        change if is_met == (change.outcome == "pass") else change.model_copy(update={"outcome": "insufficient_data"})
    )


def _small_slices(
    limits: Sequence[Threshold], worst: Mapping[str, Limit], slices: Mapping[str, SliceKey], small: Mapping[str, int]
) -> tuple[dict[str, dict[str, int]], dict[str, tuple[str, ...]]]:
    too_small: dict[str, dict[str, int]] = {}
    never_checked: dict[str, tuple[str, ...]] = {}
    gates = [(limit.metric, [name for name, key in slices.items() if limit.applies_to(key)]) for limit in limits]
    gates += [(metric, [name for name in slices if name != OVERALL]) for metric in worst]
    for metric, gated in gates:
        found = {name: small[name] for name in gated if name in small}
        if found:
            too_small[metric] = {name: small[name] for name in small if name in {**too_small.get(metric, {}), **found}}
        if gated and len(found) == len(gated):
            never_checked[metric] = tuple(dict.fromkeys((*never_checked.get(metric, ()), *gated)))
    return too_small, never_checked
