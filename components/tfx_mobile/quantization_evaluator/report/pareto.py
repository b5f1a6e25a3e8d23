"""Size against quality, as a plot with the limits of the gate in it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tfx_mobile.quantization_evaluator.eval_config import BASELINE
from tfx_mobile.quantization_evaluator.judging.gates import OVERALL, metrics_on
from tfx_mobile.quantization_evaluator.report import judgement
from tfx_mobile.quantization_evaluator.report.forest import bound
from tfx_mobile.quantization_evaluator.report.formatting import format_bytes, format_number, shortened, size_unit
from tfx_mobile.records import EvaluationRecord

# Plots in their own units; the page shows each at about its own width.
WIDE, NARROW = 760, 350
_RIGHT, _TOP, _BOTTOM = 16, 26, 50
_LINE = 15  # height of a label
_CHARACTER = 7.0  # average width of a label's character
_NAMES = {WIDE: 26, NARROW: 18}  # a label's longest name
_MOST_LABELS = 18

_Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Point:
    """A variant in the plot, in plot units; `label` is empty where there is no room for one."""

    name: str
    passed: bool
    winner: bool
    on_front: bool
    x: float
    y: float
    label: str
    label_x: float
    label_y: float
    anchor: str
    title: str


@dataclass(frozen=True)
class Level:
    """A horizontal line and where its text goes: `kind` is `baseline`, `production` or `limit`."""

    kind: str
    y: float
    text: str
    text_x: float = 0.0
    text_y: float = 0.0
    anchor: str = "end"


@dataclass(frozen=True)
class Plot:
    """Size against a metric; ticks are (position, text).

    Attributes:
        metric: The metric.
        higher_is_better: Its direction; None if no limit on its change gives one.
        size_limit: Where the largest allowed size is, and its text; None without one, or far right of the plot.
        levels: The models compared with, and the limits that follow from them.
        bad: Top and height of what lies beyond the float model's limit; None without one.
        points: One per variant that has both.
        front: Corners of the Pareto front's line; empty where the front is not one in these two dimensions.
        description: The plot in words, for who cannot see it.
    """

    metric: str
    higher_is_better: bool | None
    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    size_limit: tuple[float, str] | None
    levels: tuple[Level, ...]
    bad: tuple[float, float] | None
    points: tuple[Point, ...]
    front: tuple[tuple[float, float], ...]
    description: str


def make_plot(record: EvaluationRecord, width: int = WIDE) -> Plot | None:
    """The plot of size against the quality metric over all examples; None without a value to plot.

    Args:
        record: The evaluation.
        width: `WIDE` or `NARROW`, in plot units, which are about CSS pixels.
    """
    metric = judgement.quality_metric(record)
    costs = judgement.costs(record)
    values = {
        name: value
        for name, model in judgement.scored(record).items()
        if name in costs and metric is not None and (value := metrics_on(model, OVERALL).get(metric)) is not None
    }
    if metric is None or not values:
        return None
    sizes = {name: costs[name].size_bytes for name in values}
    references, higher_is_better = _references(record, metric)
    height = 360 if width == WIDE else 320

    size_limit = record.budget.max_size_bytes
    if size_limit is not None and size_limit > 1.5 * max(sizes.values()):
        size_limit = None
    x_ticks = _ticks(0.0, max([1, *sizes.values(), size_limit or 0]) * 1.05, 6 if width == WIDE else 4)
    shown = [*values.values(), *(value for _, value, _ in references)]
    largest = max(map(abs, shown))
    margin = (max(shown) - min(shown)) * 0.12
    if margin <= 1e-6 * largest:  # all are the same but for rounding
        margin = largest * 0.05 or 1.0
    low, high = min(shown) - margin, max(shown) + margin
    if all(0 <= value <= 1 for value in shown):  # a rate, as most quality metrics are: nothing lies beyond 0 and 1
        low, high = max(low, 0.0), min(high, 1.0)
    y_ticks = _ticks(low, high, 5)
    y_texts = _texts(y_ticks)
    left = round(14 + max(map(len, y_texts)) * _CHARACTER)

    def x(value: float) -> float:
        return round(left + (value - x_ticks[0]) / (x_ticks[-1] - x_ticks[0]) * (width - left - _RIGHT), 1)

    def y(value: float) -> float:
        share = (value - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        return round(height - _BOTTOM - share * (height - _TOP - _BOTTOM), 1)

    limit = next((value for kind, value, _ in references if kind == "limit"), None)
    bad = None
    if limit is not None:
        bad = (y(limit), height - _BOTTOM - y(limit)) if higher_is_better else (_TOP, y(limit) - _TOP)
    places = {name: (x(sizes[name]), y(value)) for name, value in values.items()}
    levels = _merged([Level(kind, y(value), text) for kind, value, text in references])
    lines = [(float(left), level.y - 2, float(width - _RIGHT), level.y + 2) for level in levels]
    if size_limit is not None:
        lines.append((x(size_limit) - 2, _TOP, x(size_limit) + 2, height - _BOTTOM))
    levels, texts = _place_levels(levels, places.values(), lines, left, width - _RIGHT)
    winner = record.winner
    important = sorted(values, key=lambda name: (name != winner, not costs[name].on_pareto_front, sizes[name], name))
    labels = _place_labels(
        {name: places[name] for name in important},
        {name: shortened(name, _NAMES[width]) for name in important[:_MOST_LABELS]},
        texts,
        lines,
        (left, _TOP, width - 4, height - _BOTTOM),
    )
    unit, factor = size_unit(x_ticks[-1])
    front = sorted(places[name] for name in values if costs[name].on_pareto_front)
    heights = [place[1] for place in front]
    is_staircase = len(front) > 1 and heights == sorted(heights, reverse=higher_is_better is not False)
    return Plot(
        metric=metric,
        higher_is_better=higher_is_better,
        width=width,
        height=height,
        left=left,
        right=_RIGHT,
        top=_TOP,
        bottom=_BOTTOM,
        x_ticks=tuple((x(tick), f"{tick / factor:g} {unit}") for tick in x_ticks),
        y_ticks=tuple((y(tick), text) for tick, text in zip(y_ticks, y_texts, strict=True)),
        size_limit=None if size_limit is None else (x(size_limit), f"budget {format_bytes(size_limit)}"),
        levels=tuple(levels),
        bad=bad,
        points=tuple(
            Point(
                name=name,
                passed=record.verdict(name).passed,
                winner=name == winner,
                on_front=costs[name].on_pareto_front,
                x=places[name][0],
                y=places[name][1],
                label=labels[name][3],
                label_x=round(labels[name][0], 1),
                label_y=round(labels[name][1], 1),
                anchor=labels[name][2],
                title=f"{name}: {format_bytes(sizes[name])}, {metric} {format_number(value)}",
            )
            for name, value in values.items()
        ),
        front=tuple(front) if is_staircase else (),
        description=_describe(record, metric, values, sizes),
    )


def _references(record: EvaluationRecord, metric: str) -> tuple[list[tuple[str, float, str]], bool | None]:
    """Horizontal lines as (kind, value, text), and whether higher is better."""
    found: list[tuple[str, float, str]] = []
    limited = [
        change
        for change in record.changes
        if change.metric == metric and change.slice == OVERALL and change.higher_is_better is not None
    ]
    higher_is_better = limited[0].higher_is_better if limited else None
    models = {model.model: model for model in record.models}
    for reference, words, against in (
        (BASELINE, "float model", "float model"),
        ("production", "in production", "production"),
    ):
        value = metrics_on(models[reference], OVERALL).get(metric) if reference in models else None
        if value is None:
            continue
        found.append(("baseline" if reference == BASELINE else "production", value, words))
        bounds = [b for change in limited if change.reference == reference and (b := bound(change)) is not None]
        if bounds:
            strictest = max(bounds) if higher_is_better else min(bounds)
            found.append(("limit", value + strictest, f"limit against {against}"))
    return found, higher_is_better


def _merged(levels: list[Level]) -> list[Level]:
    """Leaves out a line that another one covers, saying both on that one."""
    result: list[Level] = []
    for level in levels:
        same = next((i for i, other in enumerate(result) if abs(other.y - level.y) < 2), None)
        if same is None:
            result.append(level)
        else:
            other = result[same]
            result[same] = Level(other.kind, other.y, f"{other.text}, {level.text}")
    return result


def _describe(record: EvaluationRecord, metric: str, values: dict[str, float], sizes: dict[str, int]) -> str:
    most = 12
    parts = [
        f"{name} {format_bytes(sizes[name])} and {format_number(values[name])}"
        for name in sorted(values, key=lambda name: (name != record.winner, sizes[name]))[:most]
    ]
    more = f" and {len(values) - most} more, which the table lists" if len(values) > most else ""
    return f"File size against {metric}: {'; '.join(parts)}{more}."


def _ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers that enclose `low` to `high`, about `most` of them."""
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, last + 1)]


def _texts(ticks: Sequence[float]) -> list[str]:
    digits = 1 - math.floor(math.log10(ticks[1] - ticks[0]))
    return [f"{tick:.{max(digits, 0)}f}" if -4 <= digits <= 6 else f"{tick:.3g}" for tick in ticks]


def _place_levels(
    levels: Sequence[Level],
    points: Iterable[tuple[float, float]],
    lines: Sequence[_Box],
    left: float,
    right: float,
) -> tuple[list[Level], list[_Box]]:
    """Writes at each line what it is, at the end and on the side where it covers the least; and the boxes of it."""
    taken = [_around(point) for point in points]
    placed: list[Level] = []
    texts: list[_Box] = []
    for level in sorted(levels, key=lambda level: level.y):
        width = len(level.text) * _CHARACTER
        options: list[tuple[int, int, float, float, str, _Box]] = []
        for anchor, x in (("end", right - 4), ("start", left + 6)):
            for baseline in (level.y - 5, level.y + 14):
                start = x - width if anchor == "end" else x
                box = (start, baseline - 11, start + width, baseline + 3)
                covered = sum(_overlap(box, other) for other in (*taken, *texts, *lines))
                options.append((covered, len(options), x, baseline, anchor, box))
        _, _, x, baseline, anchor, box = min(options)
        texts.append(box)
        placed.append(Level(level.kind, level.y, level.text, x, baseline, anchor))
    return placed, texts


def _place_labels(
    places: dict[str, tuple[float, float]],
    names: dict[str, str],
    texts: Sequence[_Box],
    lines: Sequence[_Box],
    frame: _Box,
) -> dict[str, tuple[float, float, str, str]]:
    """Puts each label beside its point, moved up or down until it covers no point, no text and, if it can be, no line.

    A label for which there is no room is left out: the table and the point's own title have the name.
    """
    taken = [*texts, *(_around(place) for place in places.values())]
    labels = {name: (*place, "start", "") for name, place in places.items()}
    written = list(texts)
    for name, text in names.items():
        # The first, which matters most, may cover points where there is no other place.
        obstacles = ([*taken, *lines], taken, *([written] if len(written) == len(texts) else []))
        room = (_find_room(places[name], len(text) + 1, each, frame) for each in obstacles)
        if (found := next(filter(None, room), None)) is not None:
            x, y, anchor, box = found
            taken.append(box)
            written.append(box)
            labels[name] = (x, y, anchor, text)
    return labels


def _find_room(
    place: tuple[float, float], length: int, taken: Sequence[_Box], frame: _Box
) -> tuple[float, float, str, _Box] | None:
    x, y = place
    width = length * _CHARACTER
    for step in range(14):
        for anchor, left in (("start", x + 12), ("end", x - 12 - width)):
            for sign in (-1, 1):
                middle = y + sign * step * _LINE / 2
                box = (left, middle - _LINE / 2, left + width, middle + _LINE / 2)
                inside = frame[0] < box[0] and box[2] < frame[2] and frame[1] < box[1] and box[3] < frame[3]
                if inside and not any(_overlap(box, other) for other in taken):
                    return left if anchor == "start" else left + width, middle, anchor, box
    return None


def _around(place: tuple[float, float]) -> _Box:
    return place[0] - 8, place[1] - 8, place[0] + 8, place[1] + 8


def _overlap(one: _Box, other: _Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
