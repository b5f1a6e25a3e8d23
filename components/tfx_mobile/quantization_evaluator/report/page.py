"""`report.html`: the evaluation record as one page that needs nothing but itself and runs nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jinja2

from tfx_mobile.quantization_evaluator.judging.gates import OVERALL, metrics_on
from tfx_mobile.quantization_evaluator.report import (
    compatibility,
    forest,
    formatting,
    judgement,
    overview,
    pareto,
    strips,
)
from tfx_mobile.records import EvaluationRecord, ModelMetrics

_TEMPLATE = "page.html.jinja"
# A page with tens of thousands of cells helps nobody; record.json has all.
_MOST_CELLS = 8000
_FEWEST_SLICES, _MOST_SLICES = 10, 100
_MOST_ERRORS = 6  # metrics whose error is told apart, two columns each


@dataclass(frozen=True)
class _Section:
    """A part of the page: its anchor and the name of its template, its heading, and what its template is given."""

    id: str
    title: str
    values: dict[str, Any] = field(default_factory=dict)


def render_page(record: EvaluationRecord) -> str:
    """The report of an evaluation.

    Args:
        record: The evaluation; nothing is on the page that is not in it.

    Returns:
        An HTML document. Equal records give equal pages.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__, "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: formatting.visible(value) if isinstance(value, str) else value,
    )
    environment.filters.update(
        bytes=formatting.format_bytes,
        number=formatting.format_number,
        change=formatting.format_change,
        interval=formatting.format_interval,
        ratio=formatting.format_ratio,
        share=formatting.format_share,
        milliseconds=formatting.format_milliseconds,
        plural=formatting.plural,
        listed=formatting.listed,
        shortened=formatting.shortened,
        breakable=formatting.breakable,
    )
    environment.globals.update(
        OVERALL=OVERALL, metrics_on=metrics_on, judgement=judgement, layer_name=strips.layer_name
    )
    return environment.get_template(_TEMPLATE).render(
        record=record,
        sections=_sections(record),
        baseline=judgement.baseline(record),
        scored=judgement.scored(record),
        costs=judgement.costs(record),
        latencies=judgement.latencies(record),
        outcomes=judgement.OUTCOMES,
        trained=any(variant.ranges_from == "training" for variant in record.variants),
    )


def _sections(record: EvaluationRecord) -> list[_Section]:
    """What the page consists of below the verdict, in order; nothing is there that has nothing to say."""
    plots = [plot for width in (pareto.WIDE, pareto.NARROW) if (plot := pareto.make_plot(record, width)) is not None]
    all_changes = forest.make_changes(record)
    all_strips = strips.make_strips(record)
    matrix = compatibility.make_matrix(record)
    errors = [name for name in judgement.metric_names(record) if not judgement.is_count(name)]
    methods = judgement.methods(record.changes)
    slices = _slice_tables(record)
    weighed = [v for v in record.variants if v.file is not None and v.file.weights is not None]
    sections = [
        (True, _Section("verdicts", "Verdicts")),
        (True, _Section("variants", "All examples", {"table": overview.make_table(record)})),
        (bool(plots), _Section("pareto", "Size against quality", {"plots": plots})),
        (bool(all_changes), _Section("changes", "Change by slice", {"all_changes": all_changes, "methods": methods})),
        (record.production is not None, _Section("production", "Production")),
        (bool(all_strips), _Section("layers", "Error by layer", {"strips": all_strips, "rounding": strips.ROUNDING})),
        (matrix is not None, _Section("compatibility", "Compatibility", {"matrix": matrix})),
        (bool(record.fidelity), _Section("fidelity", "Fidelity")),
        (
            bool(record.error_splits and errors),
            _Section(
                "errors", "Where the error comes from", {"errors": errors[:_MOST_ERRORS], "num_errors": len(errors)}
            ),
        ),
        (bool(slices), _Section("slices", "Metrics by slice", slices)),
        (record.latency is not None, _Section("latency", "Latency")),
        (bool(weighed), _Section("compression", "Compression", {"weighed": weighed})),
        (True, _Section("gates", "How it was judged", {"limits": judgement.limits(record)})),
        (True, _Section("origin", "Origin")),
    ]
    return [section for is_there, section in sections if is_there]


def _slice_tables(record: EvaluationRecord) -> dict[str, Any]:
    names = _slice_names(judgement.baseline(record))
    if not names:
        return {}
    metrics = judgement.metric_names(record)
    columns = len(metrics) * (1 + len(judgement.scored(record)))
    most = min(_MOST_SLICES, max(_FEWEST_SLICES, _MOST_CELLS // max(columns, 1)))
    return {
        "metrics": metrics,
        "slices": names[:most],
        "num_slices": len(names),
        "missed": {(v.variant, reason.slice, reason.metric) for v in record.verdicts for reason in v.reasons},
    }


def _slice_names(model: ModelMetrics) -> list[str]:
    return [entry.slice for entry in model.slices if entry.slice != OVERALL]
