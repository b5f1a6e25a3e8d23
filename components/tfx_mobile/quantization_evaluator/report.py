"""`report.html`: the evaluation record as one self-contained page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
import markupsafe

from tfx_mobile.quantization_evaluator.gates import OVERALL, metrics_on
from tfx_mobile.records import EvaluationRecord, ModelMetrics, Verdict

_TEMPLATE = "report.html.jinja"
_COUNTS = ("example_count", "weighted_example_count")  # equal for all models, so they have no error to tell apart
_MAX_SLICES = 100  # a page with thousands of rows helps nobody; record.json has all

# The plot in its own units; the page scales it.
_WIDTH, _HEIGHT = 520, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 28, 18, 46
_LINE = 15  # height of a label
_CHARACTER = 7.2  # average width of a label's character


@dataclass(frozen=True)
class Point:
    """A variant in the plot; `x` and `y` in plot units, `label_x` and `label_y` where its name goes."""

    name: str
    passed: bool
    winner: bool
    x: float
    y: float
    label_x: float
    label_y: float
    anchor: str
    title: str


@dataclass(frozen=True)
class Plot:
    """Size against a metric; ticks are (position, text)."""

    metric: str
    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    baseline_y: float | None
    points: tuple[Point, ...]


def render(record: EvaluationRecord) -> str:
    """The report of an evaluation: verdict and reasons, then the table, the plot and the slices."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__, ""),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(bytes=format_bytes, number=format_number, change=format_change, breakable=_breakable)
    baseline, *candidates = record.models
    return environment.get_template(_TEMPLATE).render(
        record=record,
        baseline=baseline,
        scored={model.model: model for model in candidates},
        metrics=_metric_names(record),
        errors=[name for name in _metric_names(record) if not any(_is_metric(name, count) for count in _COUNTS)],
        overall=OVERALL,
        metrics_on=metrics_on,
        slices=_slice_names(baseline)[:_MAX_SLICES],
        num_slices=len(_slice_names(baseline)),
        missed=_missed(record.verdicts),
        sizes=_sizes(record),
        trained=any(variant.ranges_from == "training" for variant in record.variants),
        largest=max(_sizes(record).values(), default=None),
        plot=make_plot(record),
    )


def make_plot(record: EvaluationRecord) -> Plot | None:
    """The plot of size against the first gated metric over all examples; None without a value to plot."""
    metric = next(iter(_metric_names(record)), None)
    baseline, *candidates = record.models
    sizes = _sizes(record)
    values = {
        model.model: value
        for model in candidates
        if model.model in sizes and metric is not None and (value := metrics_on(model, OVERALL).get(metric)) is not None
    }
    if metric is None or not values:
        return None
    float_value = metrics_on(baseline, OVERALL).get(metric)
    x_ticks = _ticks(0.0, max(sizes[name] for name in values) * 1.05)
    shown = [*values.values(), *([] if float_value is None else [float_value])]
    margin = (max(shown) - min(shown)) * 0.12 or abs(max(shown)) * 0.05 or 1.0
    low, high = min(shown) - margin, max(shown) + margin
    if all(0 <= value <= 1 for value in shown):  # a rate, as most quality metrics are: nothing lies beyond 0 and 1
        low, high = max(low, 0.0), min(high, 1.0)
    y_ticks = _ticks(low, high)

    def x(value: float) -> float:
        return _LEFT + (value - x_ticks[0]) / (x_ticks[-1] - x_ticks[0]) * (_WIDTH - _LEFT - _RIGHT)

    def y(value: float) -> float:
        return _HEIGHT - _BOTTOM - (value - y_ticks[0]) / (y_ticks[-1] - y_ticks[0]) * (_HEIGHT - _TOP - _BOTTOM)

    places = {name: (x(sizes[name]), y(value)) for name, value in values.items()}
    labels = _place_labels(places, None if float_value is None else y(float_value))
    unit, factor = _unit(x_ticks[-1])
    digits = max(0, 1 - math.floor(math.log10(y_ticks[1] - y_ticks[0])))
    return Plot(
        metric=metric,
        width=_WIDTH,
        height=_HEIGHT,
        left=_LEFT,
        right=_RIGHT,
        top=_TOP,
        bottom=_BOTTOM,
        x_ticks=tuple((round(x(tick), 1), f"{tick / factor:g} {unit}") for tick in x_ticks),
        y_ticks=tuple((round(y(tick), 1), f"{tick:.{min(digits, 6)}f}") for tick in y_ticks),
        baseline_y=None if float_value is None else round(y(float_value), 1),
        points=tuple(
            Point(
                name=name,
                passed=record.verdict(name).passed,
                winner=name == record.winner,
                x=round(places[name][0], 1),
                y=round(places[name][1], 1),
                label_x=round(labels[name][0], 1),
                label_y=round(labels[name][1], 1),
                anchor=labels[name][2],
                title=f"{name}: {format_bytes(sizes[name])}, {metric} {format_number(value)}",
            )
            for name, value in values.items()
        ),
    )


def format_bytes(size: float) -> str:
    """A size in decimal units, three digits where it has them: `38.0 kB`."""
    unit, factor = _unit(size)
    value = size / factor
    decimals = 0 if factor == 1 or value >= 100 else 1 if value >= 10 else 2
    return f"{value:.{decimals}f} {unit}"


def format_number(value: float | None) -> str:
    """A metric's value; a count without decimals."""
    if value is None:
        return "not finite"
    return f"{value:,.0f}" if value == int(value) and abs(value) >= 10 else f"{value:.4f}"


def format_change(value: float | None) -> str:
    """A difference with its sign."""
    if value is None:
        return "not finite"
    return "±0" if abs(value) < 5e-5 else f"{value:+.4f}".replace("-", "\N{MINUS SIGN}")


def _unit(size: float) -> tuple[str, float]:
    return next((u for u in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)) if size >= u[1]), ("B", 1.0))


def _breakable(name: str) -> markupsafe.Markup:
    """A long name that may be broken after its underscores."""
    return markupsafe.escape(name).replace("_", markupsafe.Markup("_<wbr>"))


def _metric_names(record: EvaluationRecord) -> list[str]:
    """Metrics over all examples: the gated ones first in the config's order, then the others."""
    names = {name for model in record.models for name in metrics_on(model, OVERALL)}
    gated = [name for gate in record.gated_metrics for name in sorted(names) if _is_metric(name, gate)]
    return [*dict.fromkeys(gated), *sorted(names - set(gated))]


def _is_metric(name: str, metric: str) -> bool:
    """Whether `name`, which may carry an output or a sub key, is of the metric called `metric`."""
    return name.rpartition("/")[2].split("@")[0].split(" (")[0] == metric


def _slice_names(model: ModelMetrics) -> list[str]:
    return [entry.slice for entry in model.slices if entry.slice != OVERALL]


def _missed(verdicts: Sequence[Verdict]) -> set[tuple[str, str | None, str | None]]:
    return {(v.variant, reason.slice, reason.metric) for v in verdicts for reason in v.reasons}


def _sizes(record: EvaluationRecord) -> dict[str, int]:
    return {variant.name: variant.file.size_bytes for variant in record.variants if variant.file is not None}


def _ticks(low: float, high: float) -> list[float]:
    """Four to seven round numbers that enclose `low` to `high`."""
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, last + 1)]


def _place_labels(
    places: dict[str, tuple[float, float]], baseline_y: float | None
) -> dict[str, tuple[float, float, str]]:
    """Puts each label beside its point, moved up or down until it covers no point, no label and no line."""
    taken: list[tuple[float, float, float, float]] = [(x - 7, y - 7, x + 7, y + 7) for x, y in places.values()]
    if baseline_y is not None:
        taken.append((_LEFT, baseline_y - 2, _WIDTH, baseline_y + 2))
        taken.append((_WIDTH - _RIGHT - 11 * _CHARACTER, baseline_y - _LINE - 4, _WIDTH, baseline_y))
    labels = {}
    for name, (x, y) in sorted(places.items(), key=lambda item: (item[1][1], item[1][0], item[0])):
        width = len(name) * _CHARACTER
        options = []
        for step in range(40):
            for anchor in ("start", "end"):
                left = x + 10 if anchor == "start" else x - 10 - width
                for sign in (1, -1):
                    middle = y + sign * step * _LINE / 2
                    box = (left, middle - _LINE / 2, left + width, middle + _LINE / 2)
                    inside = left > _LEFT and left + width < _WIDTH and box[1] > _TOP and box[3] < _HEIGHT - _BOTTOM
                    if inside and not any(_overlap(box, other) for other in taken):
                        options.append((step, anchor != "start", middle, left, anchor, box))
            if options:
                break
        _, _, middle, left, anchor, box = min(options, default=(0, 0, y, x + 10, "start", (x, y, x, y)))
        taken.append(box)
        labels[name] = (left if anchor == "start" else left + width, middle, anchor)
    return labels


def _overlap(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> Any:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
