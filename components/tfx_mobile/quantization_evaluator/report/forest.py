"""Changes and their confidence intervals by variant and slice, as forest plots.

Positions are percentages of a row's width, so that a row fits a phone and a sheet of paper alike.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from tfx_mobile.quantization_evaluator.judging.gates import OVERALL
from tfx_mobile.quantization_evaluator.report.formatting import MINUS, format_change, format_interval, plural
from tfx_mobile.quantization_evaluator.report.judgement import OUTCOMES
from tfx_mobile.records import Change, EvaluationRecord, Outcome

_MOST_ROWS = 1200  # on the page; record.json has all
_FEWEST_ROWS = 10  # per plot
_CLIP = 5  # what lies further out than this many limits is an arrow at the edge
_SEVERITY: Final[dict[Outcome | None, int]] = {"fail": 0, "insufficient_data": 1, "pass": 2, None: 3}


@dataclass(frozen=True)
class Row:
    """One change; positions in percent, None for what there is not.

    Attributes:
        change: The entry of the record.
        text: The change in words.
        interval: Its interval in words.
        limit: Its limit in words.
        symbol: Of the outcome.
        outcome: In words.
        needed: How many examples would decide, in words; empty if that is not known or not asked.
        x: Where the change is.
        lower: Lower end of the interval.
        upper: Upper end of it.
        limit_x: Where the limit is.
        bad: Left edge and width of what lies beyond the limit.
        beyond: -1 or 1 if the change itself lies left or right of the row.
    """

    change: Change
    text: str
    interval: str
    limit: str
    symbol: str
    outcome: str
    needed: str
    x: float | None
    lower: float | None
    upper: float | None
    limit_x: float | None
    bad: tuple[float, float] | None
    beyond: int


@dataclass(frozen=True)
class Forest:
    """The changes of one metric of one variant against one reference.

    Attributes:
        reference: What it is compared with, in words.
        metric: The metric.
        gated: Whether a row has a limit.
        rows: All examples first, then what is worst.
        omitted: How many more there are.
        ticks: Position and text.
        zero: Where no change is.
    """

    reference: str
    metric: str
    gated: bool
    rows: tuple[Row, ...]
    omitted: int
    ticks: tuple[tuple[float, str], ...]
    zero: float


@dataclass(frozen=True)
class VariantChanges:
    """The forests of a variant; `counts` are (outcome, how many)."""

    variant: str
    forests: tuple[Forest, ...]
    counts: tuple[tuple[str, int], ...]
    open: bool


def make_changes(record: EvaluationRecord) -> tuple[VariantChanges, ...]:
    """The forests of each variant: the winner's first, then those that fail, then the others."""
    groups: dict[str, dict[tuple[str, str], list[Change]]] = {}
    for change in record.changes:
        groups.setdefault(change.variant, {}).setdefault((change.reference, change.metric), []).append(change)
    num_forests = sum(map(len, groups.values()))
    most = max(_FEWEST_ROWS, _MOST_ROWS // max(num_forests, 1))
    found = []
    for variant, by_metric in groups.items():
        forests = [_forest(reference, metric, changes, most) for (reference, metric), changes in by_metric.items()]
        counts = Counter(c.outcome for changes in by_metric.values() for c in changes if c.outcome is not None)
        found.append(
            VariantChanges(
                variant=variant,
                forests=tuple(sorted(forests, key=lambda forest: not forest.gated)),
                counts=tuple((outcome, counts[outcome]) for outcome in _SEVERITY if outcome and counts[outcome]),
                open=variant == record.winner,
            )
        )
    found.sort(key=lambda each: (not each.open, not any(outcome == "fail" for outcome, _ in each.counts)))
    if found and not any(each.open for each in found):
        found[0] = VariantChanges(found[0].variant, found[0].forests, found[0].counts, open=True)
    return tuple(found)


def bound(change: Change) -> float | None:
    """The limit with the sign of the change it limits; None without one."""
    if change.limit is None or change.gate != "worst_slice":
        return change.limit
    return -abs(change.limit) if change.higher_is_better else abs(change.limit)


def limit_in_words(change: Change) -> str:
    """The limit on a change; empty without one."""
    if (limit := bound(change)) is None:
        return ""
    words = f"{'≥' if change.higher_is_better else '≤'} {format_change(limit)}"
    return f"{words} (worst slice)" if change.gate == "worst_slice" else words


def outcome_in_words(change: Change) -> str:
    """What the interval says about the limit, if there are both."""
    if change.outcome is not None:
        return OUTCOMES[change.outcome][1]
    return "no limit" if change.gate is None else "the change decides"


def needed_in_words(change: Change) -> str:
    """How many examples would decide; empty if that is not known or not asked."""
    if change.examples_needed is None:
        return ""
    return f"needs about {plural(change.examples_needed, 'example')}"


def worst_first(changes: Sequence[Change]) -> list[Change]:
    """All examples first, then by outcome and by how close to the limit."""

    def margin(change: Change) -> float:
        if change.change is None:
            return -math.inf
        worse = change.change if change.higher_is_better is not False else -change.change
        limit = bound(change)
        return worse if limit is None else worse - (limit if change.higher_is_better is not False else -limit)

    return sorted(changes, key=lambda c: (c.slice != OVERALL, _SEVERITY[c.outcome], margin(c)))


def _forest(reference: str, metric: str, changes: Sequence[Change], most: int) -> Forest:
    shown = worst_first(changes)[:most]
    low, high = _domain(shown)

    def x(value: float) -> float:
        return round(100 * (min(max(value, low), high) - low) / (high - low), 2)

    return Forest(
        reference="the model in production" if reference == "production" else "the float model",
        metric=metric,
        gated=any(change.limit is not None for change in changes),
        rows=tuple(_row(change, x, low, high) for change in shown),
        omitted=len(changes) - len(shown),
        ticks=tuple((x(tick), _tick(tick, high - low)) for tick in _ticks(low, high)),
        zero=x(0.0),
    )


def _domain(changes: Sequence[Change]) -> tuple[float, float]:
    """The values a plot spans: all of them, but not more than a few limits to either side."""
    limits = [abs(limit) for change in changes if (limit := bound(change)) is not None]
    furthest = _CLIP * max(limits, default=math.inf) or math.inf
    values = [
        value
        for change in changes
        for value in (change.change, change.lower, change.upper, bound(change))
        if value is not None and math.isfinite(value)
    ]
    low = max(min([0.0, *values]), -furthest)
    high = min(max([0.0, *values]), furthest)
    margin = (high - low) * 0.06
    if margin < 1e-6:  # nothing changed but for rounding
        margin = 1e-3
    return low - margin, high + margin


def _row(change: Change, x: Callable[[float], float], low: float, high: float) -> Row:
    value, limit = change.change, bound(change)
    lower, upper = change.lower, change.upper
    bad = None
    if limit is not None:
        edge = x(limit)
        bad = (0.0, edge) if change.higher_is_better else (edge, round(100 - edge, 2))
    return Row(
        change=change,
        text=format_change(value),
        interval=format_interval(change.lower, change.upper),
        limit=limit_in_words(change),
        symbol=OUTCOMES[change.outcome][0] if change.outcome else "",
        outcome=outcome_in_words(change),
        needed=needed_in_words(change),
        x=None if value is None else x(value),
        lower=x(lower) if lower is not None and upper is not None else None,
        upper=x(upper) if lower is not None and upper is not None else None,
        limit_x=None if limit is None else x(limit),
        bad=bad,
        beyond=0 if value is None else (value > high) - (value < low),
    )


def _ticks(low: float, high: float) -> list[float]:
    raw = (high - low) / 3
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    return [index * step for index in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _tick(value: float, span: float) -> str:
    if span >= 1e6:
        return f"{value:g}".replace("-", MINUS)
    digits = min(6, max(0, 1 - math.floor(math.log10(span / 3))))
    text = f"{value:.{digits}f}".rstrip("0").rstrip(".") if digits else f"{value:.0f}"
    return "0" if text in ("0", "-0") else text.replace("-", MINUS)
