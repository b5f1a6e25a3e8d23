"""Which of the variants that passed is blessed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tfx_mobile.quantization_evaluator.judging.latency import Figure
from tfx_mobile.records import Criterion, Reason, Variant, Verdict

# In which order criteria are given up if no variant has a value for all of them.
_GIVEN_UP: tuple[Criterion, ...] = ("latency", "quality")


@dataclass(frozen=True)
class Quality:
    """The metric that `quality` means, over all examples.

    Attributes:
        metric: In words.
        higher_is_better: Its direction.
        float_value: The float model's; None if it is not finite or was not computed.
        values: By variant.
    """

    metric: str
    higher_is_better: bool
    float_value: float | None
    values: Mapping[str, float | None]


@dataclass(frozen=True)
class Choice:
    """What was chosen.

    Attributes:
        winner: Name of the best variant; None if none passed.
        scores: What was minimised, by variant; 0 is the best of all in every criterion, quality is against the float
            model's. Variants without a value for a criterion have none.
        cautions: By variant that passed, what could not be weighed.
    """

    winner: str | None
    scores: Mapping[str, float]
    cautions: Mapping[str, tuple[Reason, ...]]


def choose(
    variants: Sequence[Variant],
    verdicts: Sequence[Verdict],
    weights: Mapping[Criterion, float],
    quality: Quality | None,
    latency: Mapping[str, Figure],
) -> Choice:
    """The variant with the least weighted cost; of equal ones the smallest, of these the first.

    The cost of a criterion is a share, so units do not matter: how many times larger or slower than the best variant
    that passed, less 1; and how much worse than the float model, over the float model's value (the plain difference
    where that is 0). A variant whose interval of latency reaches down to the fastest one's counts as equally fast. A
    criterion that no variant has a value for is left out; a variant that lacks a value another one has is not chosen.

    Args:
        variants: What the converter made.
        verdicts: One per variant.
        weights: Weight by criterion; positive, they add up to 1.
        quality: None if no threshold names a metric with a direction.
        latency: Comparable latencies by variant.
    """
    passed = {verdict.variant for verdict in verdicts if verdict.passed}
    sizes = {v.name: v.file.size_bytes for v in variants if v.file is not None and v.name in passed}
    if not sizes:
        return Choice(None, {}, {})
    values: dict[Criterion, dict[str, float]] = {"size": _relative({n: float(s) for n, s in sizes.items()})}
    if "quality" in weights:
        values["quality"] = _losses(quality, sizes)
    if "latency" in weights:
        values["latency"] = _relative(_as_fast({name: latency[name] for name in sizes if name in latency}))
    weighed = [criterion for criterion in weights if values[criterion]]
    for given_up in _GIVEN_UP:
        if not _complete(sizes, [values[criterion] for criterion in weighed]):
            weighed = [criterion for criterion in weighed if criterion != given_up]
    # With nothing left to weigh, size decides.
    scale = sum(weights[criterion] for criterion in weighed)
    parts = {criterion: weights[criterion] / scale for criterion in weighed} or {"size": 1.0}
    candidates = _complete(sizes, [values[criterion] for criterion in parts])
    scores = {name: sum(weight * values[c][name] for c, weight in parts.items()) for name in candidates}
    winner = min(candidates, key=lambda name: (scores[name], sizes[name]))
    left_out = [criterion for criterion in weights if criterion not in parts]
    cautions = {
        name: tuple(
            _caution(criterion, left_out=criterion in left_out, chosen=", ".join(parts))
            for criterion in weights
            if criterion in left_out or name not in values[criterion]
        )
        for name in sizes
    }
    return Choice(winner, scores, {name: reasons for name, reasons in cautions.items() if reasons})


def _relative(values: Mapping[str, float]) -> dict[str, float]:
    best = min(values.values(), default=1.0)
    return {name: value / best - 1 for name, value in values.items()}


def _as_fast(latency: Mapping[str, Figure]) -> dict[str, float]:
    fastest = min(latency.values(), key=lambda figure: figure.value, default=None)
    if fastest is None:
        return {}
    return {name: fastest.value if figure.lower <= fastest.upper else figure.value for name, figure in latency.items()}


def _losses(quality: Quality | None, names: Mapping[str, int]) -> dict[str, float]:
    if quality is None or quality.float_value is None:
        return {}
    sign = 1 if quality.higher_is_better else -1
    unit = abs(quality.float_value) or 1.0
    values = {name: quality.values.get(name) for name in names}
    return {name: sign * (quality.float_value - value) / unit for name, value in values.items() if value is not None}


def _complete(names: Mapping[str, int], values: Sequence[Mapping[str, float]]) -> list[str]:
    return [name for name in names if all(name in by_name for by_name in values)]


def _caution(criterion: Criterion, *, left_out: bool, chosen: str) -> Reason:
    why = {
        "size": "",
        "latency": "It was not measurable: see the latency of this evaluation.",
        "quality": "No threshold of the EvalConfig names a metric with a direction that has a value over all examples.",
    }[criterion]
    if left_out:
        message = f"The objective weighs {criterion}, which was left out: {why} Chosen by {chosen} instead."
    else:
        message = f"The objective weighs {criterion}, of which this variant has no value: it was not chosen. {why}"
    return Reason(code="objective", message=message)
