"""The record's verdicts in words."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from tfx_mobile.quantization_evaluator.eval_config import BASELINE
from tfx_mobile.quantization_evaluator.judging.gates import OVERALL, metrics_on
from tfx_mobile.quantization_evaluator.report.formatting import (
    format_bytes,
    format_change,
    format_milliseconds,
    format_ratio,
    format_share,
    listed,
    plural,
)
from tfx_mobile.records import Change, EvaluationRecord, LatencyResult, ModelMetrics, Reason, Variant, VariantCost

#: Symbol and word of an outcome: a colour alone tells nobody anything.
OUTCOMES: Final = {
    "pass": ("✓", "pass"),
    "fail": ("✕", "fail"),
    "insufficient_data": ("?", "insufficient data"),
    "not_verified": ("?", "not verified"),
}

_METHODS = {
    "tango": "Tango's score interval for paired shares",
    "paired_bootstrap": "paired bootstrap",
}

_CODES = {
    "worst_slice": "are too much worse on a slice",
    "worse_than_production": "are worse than the model in production",
    "insufficient_data": "were not decided on by the data",
    "production_not_comparable": "were not compared with the model in production",
    "production_damaged": "were not compared with the model in production",
    "missing_slice": "have a threshold for a slice that no example falls into",
    "budget": "exceed the budget",
    "latency_not_measurable": "have a latency that could not be measured",
    "latency_undecided": "have a latency that was not decided on",
    "memory_not_measurable": "have a peak memory that could not be measured",
    "not_verified": "have an unverified limit",
    "objective": "could not be weighed",
    "not_finite": "return NaN or infinity",
    "missing": "have no file",
    "altered": "are not the file that was converted",
    "corrupt": "have a corrupt file",
    "not_loadable": "cannot be loaded",
    "interpreter_crashed": "crash the interpreter",
    "interpreter_timeout": "do not finish in the interpreter",
    "converter_crashed": "could not be converted",
    "converter_timeout": "could not be converted",
    "conversion_failed": "could not be converted",
    "unsupported_ops": "could not be converted",
}
_FEW_SLICES = 3  # are named one by one
_SINGULAR = {
    "have": "has",
    "are": "is",
    "were": "was",
    "do": "does",
    "return": "returns",
    "miss": "misses",
    "exceed": "exceeds",
    "crash": "crashes",
}


def choice(record: EvaluationRecord) -> str:
    """What the winner is among those that passed, such as `the smallest`."""
    metric = quality_metric(record) or "quality"
    words = {"size": "the smallest", "latency": "the fastest", "quality": f"the best by {metric}"}
    if len(record.objective) == 1:
        return words[next(iter(record.objective))]
    heaviest_first = sorted(record.objective.items(), key=lambda item: (-item[1], item[0]))
    weights = [f"{name} ({format_share(weight)})" for name, weight in heaviest_first]
    return f"the best by {listed(weights)}"


def quality_metric(record: EvaluationRecord) -> str | None:
    """The metric that stands for quality in words: what the objective means by it, else the first gated one."""
    return record.quality_metric or next(iter(metric_names(record)), None)


def metric_names(record: EvaluationRecord) -> list[str]:
    """Metrics over all examples: the gated ones first in the config's order, then the others."""
    names = {name for model in record.models for name in metrics_on(model, OVERALL)}
    gated = [name for gate in record.gated_metrics for name in sorted(names) if is_metric(name, gate)]
    return [*dict.fromkeys(gated), *sorted(names - set(gated))]


def is_metric(name: str, metric: str) -> bool:
    """Whether `name`, which may carry an output or a sub key, is of the metric called `metric`."""
    return name.rpartition("/")[2].split("@")[0].split(" (")[0] == metric


def is_count(name: str) -> bool:
    """Whether a metric counts examples: equal for all models, so there is no error in it."""
    return any(is_metric(name, count) for count in ("example_count", "weighted_example_count"))


def baseline(record: EvaluationRecord) -> ModelMetrics:
    """The metrics of the float model."""
    return next((model for model in record.models if model.model == BASELINE), record.models[0])


def condensed(cautions: Iterable[Reason]) -> list[Reason]:
    """Cautions with those that say the same of many slices in one sentence; "Change by slice" has the intervals."""
    groups: dict[tuple[str, str | None, str | None, bool], list[Reason]] = {}
    for caution in cautions:
        key = (caution.code, caution.metric, caution.limit, "production" in caution.message)
        groups.setdefault(key, []).append(caution)
    found = []
    for (code, metric, limit, against_production), group in groups.items():
        slices = [caution.slice for caution in group if caution.slice is not None]
        if code != "insufficient_data" or len(slices) < max(len(group), _FEW_SLICES + 1):
            found += group
            continue
        names = ", ".join(slices[:_FEW_SLICES]) + (", …" if len(slices) > _FEW_SLICES else "")
        message = (
            f"{metric} against the {'model in production' if against_production else 'float model'}: the data do not "
            f"decide on {plural(len(slices), 'slice')} ({names}); required: {limit}."
        )
        found.append(Reason(code=code, message=message, metric=metric, limit=limit))
    return found


def scored(record: EvaluationRecord) -> dict[str, ModelMetrics]:
    """The metrics of the variants that ran, by name, in the manifest's order."""
    models = {model.model: model for model in record.models}
    return {variant.name: models[variant.name] for variant in record.variants if variant.name in models}


def costs(record: EvaluationRecord) -> dict[str, VariantCost]:
    """What each variant with a file costs, by name; sizes alone in records that hold no costs."""
    known = {cost.variant: cost for cost in record.costs}
    return {
        variant.name: known.get(variant.name)
        or VariantCost(variant=variant.name, size_bytes=variant.file.size_bytes, gzip_bytes=variant.file.gzip_bytes)
        for variant in record.variants
        if variant.file is not None
    }


def unquantized(record: EvaluationRecord) -> Variant | None:
    """The float32 variant, the one that sizes and latencies are compared with."""
    return next((v for v in record.variants if v.recipe.quantization == "none" and v.file is not None), None)


def latencies(record: EvaluationRecord) -> dict[str, LatencyResult]:
    """The latency of each variant that has a ratio, by name: on the slowest device, else on this machine."""
    results = [r for r in (record.latency.results if record.latency is not None else ()) if r.ratio is not None]
    return {r.variant: r for r in sorted(results, key=lambda r: (r.source == "device", r.ratio))}


def latency_source(result: LatencyResult) -> str:
    """Where a latency was measured, as it must be labelled wherever it stands."""
    return result.device if result.source == "device" else "this machine, not a phone"


def obstacles(record: EvaluationRecord) -> list[str]:
    """Why nothing is blessed, one sentence per kind of reason, the most frequent first."""
    kinds: dict[str, set[str]] = {}
    for verdict in record.verdicts:
        for reason in verdict.reasons:
            what = _CODES.get(reason.code, f"have the reason {reason.code}")
            if reason.code == "threshold":
                what = f"miss a threshold on {reason.metric}" if reason.metric else "miss a threshold"
            kinds.setdefault(what, set()).add(verdict.variant)
    ordered = sorted(kinds.items(), key=lambda item: -len(item[1]))
    return [
        f"{len(who)} of {len(record.verdicts)} {what if len(who) > 1 else _singular(what)}." for what, who in ordered
    ]


def limits(record: EvaluationRecord) -> list[tuple[str, str]]:
    """The gate beyond the EvalConfig's thresholds: what and how much, in words."""
    budget, confidence = record.budget, record.confidence
    rows = [
        ("File size", budget.max_size_bytes and f"at most {format_bytes(budget.max_size_bytes)}"),
        ("File size after gzip", budget.max_gzip_bytes and f"at most {format_bytes(budget.max_gzip_bytes)}"),
        ("Latency against float32", budget.max_latency_ratio and f"at most {format_ratio(budget.max_latency_ratio)}"),
        (
            "Latency on a device",
            budget.max_latency_ms and f"at most {format_milliseconds(budget.max_latency_ms)}",
        ),
        (
            "Peak memory",
            budget.max_peak_memory_bytes and f"at most {format_bytes(budget.max_peak_memory_bytes)}",
        ),
        ("Runtime", budget.max_min_runtime and f"TensorFlow Lite {budget.max_min_runtime} or older must do"),
        ("Compatibility", budget.profiles and f"must not fail {listed(budget.profiles)}"),
        ("Confidence", f"{format_share(confidence.level)} intervals"),
        (
            "Smallest slice that gates",
            confidence.min_slice_examples > 1 and plural(confidence.min_slice_examples, "example"),
        ),
        *(
            (f"Worst slice, {metric}", f"at most {format_change(limit).lstrip('+')} worse on any slice")
            for metric, limit in sorted(confidence.worst_slice.items())
        ),
        (
            "Where the data do not decide",
            "the measured change decides, with a caution"
            if confidence.undecided == "warn"
            else "the variant is not blessed",
        ),
    ]
    return [(what, str(value)) for what, value in rows if value]


def methods(changes: Iterable[Change]) -> str:
    """How intervals were computed, in words; empty where there are none."""
    return listed([words for method, words in _METHODS.items() if any(c.method == method for c in changes)])


def overall_change(record: EvaluationRecord, variant: str, metric: str, reference: str = BASELINE) -> Change | None:
    """How a metric of a variant changed over all examples; the entry that has a limit, if one has."""
    found = [
        change
        for change in record.changes
        if (change.variant, change.metric, change.reference, change.slice) == (variant, metric, reference, OVERALL)
    ]
    return max(found, key=lambda change: change.limit is not None, default=None)


def _singular(what: str) -> str:
    verb, _, rest = what.partition(" ")
    return f"{_SINGULAR.get(verb, verb)} {rest}"
