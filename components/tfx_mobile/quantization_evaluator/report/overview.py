"""Size, latency, memory and metrics per variant, as one table."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass

from tfx_mobile.quantization_evaluator.judging.gates import OVERALL, metrics_on
from tfx_mobile.quantization_evaluator.report import judgement
from tfx_mobile.quantization_evaluator.report.formatting import (
    format_bytes,
    format_change,
    format_number,
    format_ratio,
)
from tfx_mobile.records import EvaluationRecord, LatencyResult, ModelMetrics, Variant


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
    """The table; a column that nothing is known of is left out, and so are counts of examples, equal for all."""
    costs, latencies = judgement.costs(record), judgement.latencies(record)
    with_memory = any(cost.peak_memory_bytes is not None for cost in costs.values())
    metrics = [name for name in judgement.metric_names(record) if not judgement.is_count(name)]
    baseline, scored = judgement.baseline(record), judgement.scored(record)
    costs_of = _Costs(record, bool(latencies), with_memory)
    empty = (Cell(""),) * len(costs_of.headers)

    rows = [TableRow(baseline.model, "baseline", "float model", (*empty, *_metric_cells(record, baseline, metrics)))]
    for model in record.models:
        if model is not baseline and model.model not in scored:
            cells = (*empty, *_metric_cells(record, model, metrics))
            rows.append(TableRow(model.model, "production", "what phones run today", cells))
    for variant in record.variants:
        passed = record.verdict(variant.name).passed
        kind = "winner" if variant.name == record.winner else "passed" if passed else "failed"
        note = "quantization-aware training" if variant.ranges_from == "training" else ""
        cells = (*costs_of.cells(variant), *_metric_cells(record, scored.get(variant.name), metrics))
        rows.append(TableRow(variant.name, kind, note, cells))
    return Table(headers=(*costs_of.headers, *metrics), rows=tuple(rows))


class _Costs:
    """The columns of sizes, latency and memory."""

    def __init__(self, record: EvaluationRecord, with_latency: bool, with_memory: bool) -> None:
        self._costs, self._latencies = judgement.costs(record), judgement.latencies(record)
        self._with_memory = with_memory
        self._unquantized = judgement.unquantized(record)
        self._record = record
        self.headers = ["Size", "After gzip"]
        self.headers += ["Latency against float32"] * with_latency + ["Peak memory"] * with_memory
        # With one criterion its own column is the score.
        self._with_score = len(record.objective) > 1 and any(cost.score is not None for cost in self._costs.values())
        self.headers += ["Score, less is better"] * self._with_score

    def cells(self, variant: Variant) -> list[Cell]:
        cost = self._costs.get(variant.name)
        if cost is None:
            return [Cell("no file", absent=True), *[Cell("", absent=True)] * (len(self.headers) - 1)]
        # The gate says what is over budget, not a comparison made again: it knows of uncertainty.
        over = {r.value for r in self._record.verdict(variant.name).reasons if r.code == "budget"} - {None}
        share = ""
        if self._unquantized is not None and self._unquantized.name != variant.name:
            share = f"{100 * cost.size_bytes / self._costs[self._unquantized.name].size_bytes:.0f} % of float32"
        cells = [
            Cell(format_bytes(cost.size_bytes), share, cost.size_bytes in over),
            Cell(format_bytes(cost.gzip_bytes), missed=cost.gzip_bytes in over),
        ]
        if self._latencies:
            cells.append(_latency_cell(self._latencies.get(variant.name), over))
        if self._with_memory and (peak := cost.peak_memory_bytes) is not None:
            cells.append(Cell(format_bytes(peak), missed=peak in over))
        elif self._with_memory:
            cells.append(Cell("not measured", absent=True))
        if self._with_score:
            cells.append(Cell("" if cost.score is None else f"{cost.score:.3g}", absent=cost.score is None))
        return cells


def _latency_cell(result: LatencyResult | None, over: Set[float | None]) -> Cell:
    if result is None or result.ratio is None:
        return Cell("not measured", absent=True)
    missed = result.ratio in over or (result.milliseconds is not None and result.milliseconds in over)
    return Cell(format_ratio(result.ratio), judgement.latency_source(result), missed)


def _metric_cells(record: EvaluationRecord, model: ModelMetrics | None, metrics: Sequence[str]) -> list[Cell]:
    if model is None:
        return [Cell("" if index else "not scored", absent=True) for index in range(len(metrics))]
    baseline = judgement.baseline(record)
    verdicts = [verdict for verdict in record.verdicts if verdict.variant == model.model]
    missed = {reason.metric for verdict in verdicts for reason in verdict.reasons if reason.slice == OVERALL}
    cells = []
    for metric in metrics:
        value = metrics_on(model, OVERALL).get(metric)
        reference = metrics_on(baseline, OVERALL).get(metric)
        change = ""
        if model is not baseline and value is not None and reference is not None:
            change = format_change(value - reference)
        cells.append(Cell(format_number(value), change, metric in missed))
    return cells
