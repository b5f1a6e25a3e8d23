"""After the verdicts, a closer look at a few examples: why variants failed, and what the winner gives on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tfx_mobile.quantization_evaluator.close_look import golden, layer_errors
from tfx_mobile.quantization_evaluator.scoring.rows import Row
from tfx_mobile.records import EvaluationRecord, GoldenVectors, LayerErrors, Variant


@dataclass(frozen=True)
class CloseLook:
    """What was seen.

    Attributes:
        layer_errors: One per quantized variant that lost quality, in the record's order.
        node_data: For each of these with layers, its errors as Model Explorer reads them.
        golden: The winner's golden vectors; None without a winner, or if none were asked for.
    """

    layer_errors: tuple[LayerErrors, ...] = ()
    node_data: Mapping[str, Any] = field(default_factory=dict)
    golden: GoldenVectors | None = None


def look(
    record: EvaluationRecord,
    golden_examples: int,
    signature_of: Callable[[Variant], str],
    read_file: Callable[[Variant], bytes],
    read_rows: Callable[[], tuple[Row, ...]],
) -> CloseLook:
    """Looks at what the record decided.

    Args:
        record: With metrics and verdicts.
        golden_examples: How many golden vectors to make; 0 for none.
        signature_of: Key of the signature that a variant was run by.
        read_file: Reads the bytes of a variant that were judged.
        read_rows: Reads the sample; called only if there is something to look at.

    Raises:
        EvaluationError: The winner cannot be run any more.
    """
    ran = {model.model for model in record.models}
    failed = [
        variant
        for variant in record.variants
        if variant.name in ran and layer_errors.needs_explanation(variant, record.verdict(variant.name))
    ]
    winner = record.variant(record.winner) if record.winner is not None and golden_examples else None
    if not failed and winner is None:
        return CloseLook()
    rows = read_rows()
    floats = next((v for v in record.variants if v.recipe.quantization == "none" and v.name in ran), None)
    float32 = read_file(floats) if failed and floats is not None else None
    found: list[LayerErrors] = []
    node_data: dict[str, Any] = {}
    for variant in failed:
        data = read_file(variant)
        errors = layer_errors.measure(variant.name, data, float32, rows[: layer_errors.NUM_EXAMPLES])
        found.append(errors)
        if errors.layers:
            node_data[variant.name] = layer_errors.node_data(errors, data)
    vectors = None
    if winner is not None:
        vectors = golden.make(read_file(winner), winner.recipe, signature_of(winner), rows[:golden_examples])
    return CloseLook(tuple(found), node_data, vectors)
