"""`model_card.md`: one page of Markdown about the blessed model, or about why there is none."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from tfx_mobile.quantization_evaluator.judging.gates import OVERALL, metrics_on
from tfx_mobile.quantization_evaluator.report import judgement
from tfx_mobile.quantization_evaluator.report.forest import (
    limit_in_words,
    needed_in_words,
    outcome_in_words,
    worst_first,
)
from tfx_mobile.quantization_evaluator.report.formatting import (
    format_bytes,
    format_change,
    format_interval,
    format_milliseconds,
    format_number,
    format_ratio,
    format_share,
    listed,
    plural,
    shortened,
    visible,
)
from tfx_mobile.records import Change, EvaluationRecord, TensorRecord, Variant

_MOST_WORST = 5
_MOST_REASONS = 5
_NAME = 80
_RULE = 240
_SPECIAL = re.compile(r"([\\`*\[\]<>|&~#!$@{}]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|(?<=www)\.|:(?=//))")


def render_card(record: EvaluationRecord) -> str:
    """The model card of an evaluation, in Markdown as GitHub reads it.

    Args:
        record: The evaluation; nothing is on the card that is not in it.

    Returns:
        Markdown. What came from outside, such as names of slices, is escaped. Equal records give equal cards.
    """
    if record.winner is None:
        blocks = [["# No model was blessed"], _refusals(record), _provenance(record, None)]
    else:
        variant = record.variant(record.winner)
        blocks = [
            [f"# Model card: {_text(variant.name)}"],
            _summary(record, variant),
            _signature(variant),
            _quality(record, variant),
            _worst_slices(record, variant),
            _cost(record, variant),
            _compatibility(variant),
            _caveats(record, variant),
            _provenance(record, variant),
        ]
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


def _summary(record: EvaluationRecord, variant: Variant) -> list[str]:
    recipe = variant.recipe
    io = "" if recipe.io_dtype == "float32" else f" with {recipe.io_dtype} inputs and outputs"
    passed = sum(verdict.passed for verdict in record.verdicts)
    return [
        f"A TensorFlow Lite model, quantized as `{recipe.quantization}`{io}. QuantizationEvaluator chose it as "
        f"{_text(judgement.choice(record))} of {plural(passed, 'variant')} that passed every gate, out of "
        f"{len(record.verdicts)}, on {plural(record.num_examples, 'example')} of the "
        f"{'split' if len(record.splits) == 1 else 'splits'} {_text(listed(record.splits))}."
    ]


def _signature(variant: Variant) -> list[str]:
    lines: list[str] = []
    for signature in variant.file.signatures if variant.file is not None else ():
        rows = [
            [kind, _text(tensor.name), tensor.dtype, _shape(tensor), _quantization(tensor)]
            for kind, tensors in (("input", signature.inputs), ("output", signature.outputs))
            for tensor in tensors
        ]
        lines += [
            "",
            f"Signature {_text(signature.key)}:",
            "",
            *_table(["", "Name", "Type", "Shape", "Real value"], rows),
        ]
    return ["## Inputs and outputs", *lines] if lines else []


def _quality(record: EvaluationRecord, variant: Variant) -> list[str]:
    own = judgement.scored(record).get(variant.name)
    if own is None:
        return []
    rows = []
    for metric in judgement.metric_names(record):
        if judgement.is_count(metric):
            continue
        value = metrics_on(own, OVERALL).get(metric)
        reference = metrics_on(judgement.baseline(record), OVERALL).get(metric)
        change = judgement.overall_change(record, variant.name, metric)
        difference = None if value is None or reference is None else value - reference
        rows.append(
            [
                _text(metric),
                format_number(reference),
                format_number(value),
                format_change(difference),
                format_interval(change.lower, change.upper) if change is not None else "",
                _limit(change),
            ]
        )
    headers = ["Metric", "Float model", "This model", "Change", _interval(record), "Limit"]
    return ["## Quality over all examples", "", *_table(headers, rows)] if rows else []


def _worst_slices(record: EvaluationRecord, variant: Variant) -> list[str]:
    own = [c for c in record.changes if c.variant == variant.name and c.slice != OVERALL and c.limit is not None]
    rows = [
        [
            _text(change.slice),
            _count(change.num_examples),
            _text(change.metric) + (" against production" if change.reference == "production" else ""),
            format_change(change.change),
            format_interval(change.lower, change.upper),
            _limit(change),
        ]
        for change in worst_first(own)[:_MOST_WORST]
    ]
    headers = ["Slice", "Examples", "Metric", "Change", _interval(record), "Limit"]
    return ["## Worst slices", "", *_table(headers, rows)] if rows else []


def _cost(record: EvaluationRecord, variant: Variant) -> list[str]:
    cost = judgement.costs(record)[variant.name]
    rows = [["Size", format_bytes(cost.size_bytes)], ["Size after gzip", format_bytes(cost.gzip_bytes)]]
    if (latency := judgement.latencies(record).get(variant.name)) is not None and latency.ratio is not None:
        time = f", {format_milliseconds(latency.milliseconds)}" if latency.milliseconds is not None else ""
        where = _text(judgement.latency_source(latency))
        rows.append(["Latency against float32", f"{format_ratio(latency.ratio)}{time} ({where})"])
    if cost.peak_memory_bytes is not None:
        rows.append(["Peak memory, loading and running it once", format_bytes(cost.peak_memory_bytes)])
    if variant.file is not None and variant.file.min_runtime_version is not None:
        rows.append(["Oldest TensorFlow Lite runtime", _text(variant.file.min_runtime_version)])
    return ["## Cost", "", *_table(["", "Measured"], rows)]


def _compatibility(variant: Variant) -> list[str]:
    rows = []
    for profile in variant.profiles:
        rules = [] if profile.result == "pass" else [rule for rule in profile.rules if rule.result == profile.result]
        why = "; ".join(_text(f"{rule.statement}: {rule.detail}", _RULE) for rule in rules)
        rows.append([_text(profile.profile), judgement.OUTCOMES[profile.result][1], why])
    return ["## Compatibility", "", *_table(["Profile", "Result", "Why"], rows)] if rows else []


def _caveats(record: EvaluationRecord, variant: Variant) -> list[str]:
    cautions = [_text(caution.message, None) for caution in judgement.condensed(record.verdict(variant.name).cautions)]
    items = cautions[:_MOST_REASONS]
    if len(cautions) > _MOST_REASONS:
        items.append(f"{len(cautions) - _MOST_REASONS} more cautions are in `record.json`.")
    latency = judgement.latencies(record).get(variant.name)
    if latency is not None and latency.source == "this_machine":
        items.append("Latency was measured on the machine that evaluated, not on a phone.")
    if record.latency is not None and not record.latency.measurable and latency is None:
        items.append(f"Latency could not be measured: {_text(record.latency.message, None)}")
    unverified = [_text(p.profile) for p in variant.profiles if p.result == "not_verified"]
    if unverified:
        items.append(f"Not verified: {listed(unverified)}.")
    items.append("Scored with TensorFlow Lite on a CPU; a phone's delegates may round differently.")
    items.append("Training data, intended use and licence are not known to the evaluation; they belong on this card.")
    return ["## Caveats", "", *(f"* {item}" for item in items)]


def _refusals(record: EvaluationRecord) -> list[str]:
    lines = [
        f"No variant of {len(record.verdicts)} passed every gate on {plural(record.num_examples, 'example')} of the "
        f"{'split' if len(record.splits) == 1 else 'splits'} {_text(listed(record.splits))}, so there is nothing to "
        "publish.",
        "",
    ]
    for verdict in record.verdicts:
        shown = [_text(reason.message, None) for reason in verdict.reasons[:_MOST_REASONS]]
        more = len(verdict.reasons) - len(shown)
        lines.append(f"* **{_text(verdict.variant)}**: {' '.join(shown)}{f' And {more} more.' if more else ''}")
    return lines


def _provenance(record: EvaluationRecord, variant: Variant | None) -> list[str]:
    rows = [["Float model", f"sha256 `{record.source_sha256}`"]]
    if variant is not None and variant.file is not None:
        rows.insert(0, ["This file", f"sha256 `{variant.file.sha256}`"])
    if variant is not None and variant.ranges_from is not None:
        rows.append(["Ranges of activations from", variant.ranges_from])
    if (production := record.production) is not None:
        release = f", release `{production.release_id}`" if production.release_id else ""
        told = "nothing released yet" if production.status == "no_release" else production.status.replace("_", " ")
        name = _text(f"{production.model_name}, channel {production.channel}")
        rows.append(["Model in production", f"{name}{release}: {told}"])
    rows += [[_text(name), _text(version)] for name, version in sorted(record.versions.items())]
    return [
        "## Provenance",
        "",
        *_table(["", ""], rows),
        "",
        "Everything measured is in `record.json` of the evaluation.",
    ]


def _count(number: int | None) -> str:
    return "" if number is None else f"{number:,}"


def _limit(change: Change | None) -> str:
    if change is None or change.limit is None:
        return ""
    said = ", ".join(filter(None, [outcome_in_words(change), needed_in_words(change)]))
    return ": ".join(filter(None, [limit_in_words(change), said]))


def _interval(record: EvaluationRecord) -> str:
    return f"{format_share(record.confidence.level)} interval"


def _shape(tensor: TensorRecord) -> str:
    return " × ".join("any" if size < 0 else str(size) for size in tensor.shape) or "scalar"


def _quantization(tensor: TensorRecord) -> str:
    if tensor.scale is None:
        return "as stored"
    zero_point = tensor.zero_point or 0
    shifted = f"(q {'+' if zero_point < 0 else '−'} {abs(zero_point)})" if zero_point else "q"
    return f"{shifted} × {tensor.scale:.9g}"


def _table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [headers, ["---"] * len(headers), *rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def _text(value: str, most: int | None = _NAME) -> str:
    """One line of text that means nothing to Markdown."""
    line = " ".join(visible(value).split())
    return _SPECIAL.sub(r"\\\1", line if most is None else shortened(line, most))
