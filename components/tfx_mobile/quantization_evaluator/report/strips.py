"""Quantization error by layer, as a strip of bars in the order of the file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tfx_mobile.quantization_evaluator.report.formatting import shortened
from tfx_mobile.records import EvaluationRecord, LayerError, LayerErrors

#: Root mean square error of rounding to the nearest step, in steps: 1 / sqrt(12).
ROUNDING = 1 / math.sqrt(12)
_LEVELS = (1.25, 2.0, 4.0, 8.0)  # multiples of it at which a bar is drawn one level hotter
_MOST_NAMED = 5
_MOST_RELATIVE = 2  # named beside them
_NAME = 60


@dataclass(frozen=True)
class Bar:
    """A layer: left edge and width in percent of the strip, height 0 to 1, heat 0 to 4, rank among the worst or 0."""

    left: float
    width: float
    height: float
    heat: int
    rank: int
    title: str


@dataclass(frozen=True)
class Strip:
    """The layers of one variant.

    Attributes:
        errors: What the record holds of it.
        bars: One per layer.
        worst: The layers that are named, the worst first.
        relative: Whether relative errors are known.
        rounding: Height of what rounding alone gives, 0 to 1.
        description: The strip in one sentence, for who cannot see it.
    """

    errors: LayerErrors
    bars: tuple[Bar, ...]
    worst: tuple[LayerError, ...]
    relative: bool
    rounding: float
    description: str


def make_strips(record: EvaluationRecord) -> tuple[Strip, ...]:
    """One strip per variant with layer errors, or with the reason why it has none."""
    return tuple(_strip(errors) for errors in record.layer_errors)


def layer_name(layer: LayerError) -> str:
    """A layer's name without what the converter fused into it."""
    return shortened(layer.name.split(";")[0] or layer.op, _NAME)


def _strip(errors: LayerErrors) -> Strip:
    layers = errors.layers
    worst = _worst(layers)
    ranks = {index: rank for rank, index in enumerate(worst, start=1)}
    largest = max((layer.rmse_over_scale for layer in layers), default=0.0)
    top = math.log1p(max(largest, 2 * ROUNDING) / ROUNDING)

    def height(value: float) -> float:
        return round(math.log1p(max(value, 0.0) / ROUNDING) / top, 4)

    width = 100 / max(len(layers), 1)
    named = ", ".join(f"{layer_name(layers[index])} {layers[index].rmse_over_scale:.3g}" for index in worst)
    return Strip(
        errors=errors,
        bars=tuple(
            Bar(
                left=round(index * width, 3),
                width=round(width, 3),
                height=height(layer.rmse_over_scale),
                heat=sum(layer.rmse_over_scale >= level * ROUNDING for level in _LEVELS),
                rank=ranks.get(index, 0),
                title=f"{layer.index} {layer.op} {layer_name(layer)}: {layer.rmse_over_scale:.3g} steps",
            )
            for index, layer in enumerate(layers)
        ),
        worst=tuple(layers[index] for index in worst),
        relative=any(layer.relative_error is not None for layer in layers),
        rounding=height(ROUNDING),
        description=f"Quantization error of {len(layers)} layers of {errors.variant} in the order of the file. "
        f"Largest, in quantization steps: {named}.",
    )


def _worst(layers: Sequence[LayerError]) -> list[int]:
    """Indices of the layers to name: the worst in steps, and those worst in relation to their signal."""
    by_steps = sorted(range(len(layers)), key=lambda i: (-layers[i].rmse_over_scale, i))
    related = [(error, i) for i, layer in enumerate(layers) if (error := layer.relative_error) is not None]
    by_signal = [i for _, i in sorted(related, key=lambda item: (-item[0], item[1]))]
    named = {*by_steps[:_MOST_NAMED], *by_signal[:_MOST_RELATIVE]}
    return [i for i in by_steps if i in named]
