"""Size, latency, memory and metrics per variant, as one table."""

from __future__ import annotations

from dataclasses import dataclass

from tfx_mobile.quantization_evaluator.gates import OVERALL, metrics_on
from tfx_mobile.quantization_evaluator.report import judgement
from tfx_mobile.quantization_evaluator.report.formatting import (
    format_bytes,
    format_change,
    format_number,
    format_ratio,
)
from tfx_mobile.records import EvaluationRecord, ModelMetrics, Variant


@dataclass(frozen=True)
class Cell:
    """A cell: what it says, a small line below, and whether it misses a limit or says that there is nothing."""

    text: str
    note: str = ""
    missed: bool = False
    absent: bool = False


@dataclass(frozen=True)
class TableRow:
    """A model: `kind` is `baseline`, `production`, `winner`, `passed` or `failed`."""

    name: str
    kind: str
    note: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    """Headers without the model's and the verdict's, and a row per model."""

    headers: tuple[str, ...]
    rows: tuple[TableRow, ...]


def make_table(record: EvaluationRecord) -> Table:
    """The table; a column that nothing is known of is left out."""
    costs, latencies = judgement.costs(record), judgement.latencies(record)
    unquantized = judgement.unquantized(record)
    full_size = costs[unquantized.name].size_bytes if unquantized is not None else None
    with_memory = any(cost.peak_memory_bytes is not None for cost in costs.values())
    metrics = judgement.metric_names(record)
    baseline, scored = judgement.baseline(record), judgement.scored(record)
    missed_metrics = {(v.variant, r.slice, r.metric) for v in record.verdicts for r in v.reasons}
    budget = record.budget

    def over(value: float | None, limit: float | None) -> bool:
        return value is not None and limit is not None and value > limit

    def fixed_cells(variant: Variant) -> list[Cell]:
        cost = costs.get(variant.name)
        if cost is None:
            return [Cell("no file", absent=True)] + [Cell("", absent=True)] * (1 + bool(latencies) + with_memory)
        share = "" if not full_size else f"{100 * cost.size_bytes / full_size:.0f} % of float32"
        cells = [
            Cell(
                format_bytes(cost.size_bytes),
                "" if unquantized is variant else share,
                over(cost.size_bytes, budget.max_size_bytes),
            ),
            Cell(format_bytes(cost.gzip_bytes), missed=over(cost.gzip_bytes, budget.max_gzip_bytes)),
        ]
        if latencies:
            result = latencies.get(variant.name)
            if result is None or result.ratio is None:
                cells.append(Cell("not measured", absent=True))
            else:
                by_ratio = over(result.ratio, budget.max_latency_ratio)
                by_time = result.source == "device" and over(result.milliseconds, budget.max_latency_ms)
                source = judgement.latency_source(result)
                cells.append(Cell(format_ratio(result.ratio), source, by_ratio or by_time))
        if with_memory:
            peak = cost.peak_memory_bytes
            cells.append(
                Cell("not measured", absent=True)
                if peak is None
                else Cell(format_bytes(peak), missed=over(peak, budget.max_peak_memory_bytes))
            )
        return cells

    def metric_cells(model: ModelMetrics | None) -> list[Cell]:
        if model is None:
            return [Cell("not scored", absent=True) if not index else Cell("", absent=True) for index in range(len(metrics))]
        cells = []
        for metric in metrics:
            value = metrics_on(model, OVERALL).get(metric)
            reference = metrics_on(baseline, OVERALL).get(metric)
            compared = model is not baseline and not judgement.is_count(metric)
            change = format_change(value - reference) if compared and value is not None and reference is not None else ""
            cells.append(Cell(format_number(value), change, (model.model, OVERALL, metric) in missed_metrics))
        return cells

    num_fixed = 2 + bool(latencies) + with_memory
    others = [model for model in record.models if model is not baseline and model.model not in scored]
    rows = [
        TableRow(baseline.model, "baseline", "float model", (*([Cell("")] * num_fixed), *metric_cells(baseline))),
        *(
            TableRow(model.model, "production", "in production", (*([Cell("")] * num_fixed), *metric_cells(model)))
            for model in others
        ),
    ]
    for variant in record.variants:
        passed = record.verdict(variant.name).passed
        kind = "winner" if variant.name == record.winner else "passed" if passed else "failed"
        note = "quantization-aware training" if variant.ranges_from == "training" else ""
        cells = (*fixed_cells(variant), *metric_cells(scored.get(variant.name)))
        rows.append(TableRow(variant.name, kind, note, cells))
    headers = ["Size", "After gzip"]
    headers += ["Latency against float32"] * bool(latencies) + ["Peak memory"] * with_memory
    return Table(headers=(*headers, *metrics), rows=tuple(rows))
