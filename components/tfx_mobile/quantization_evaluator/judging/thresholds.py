"""The limits that an EvalConfig sets, and where they apply.

TFMA is imported by the functions that need it, because components read this module while a pipeline is defined.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tfx_mobile.errors import EvalConfigError
from tfx_mobile.quantization_evaluator import eval_config as eval_configs
from tfx_mobile.quantization_evaluator.judging.gates import metric_in_words

_HIGHER_IS_BETTER = 2  # tfma.MetricDirection

# The key of a slice as TFMA has it: columns with values; empty for all examples.
SliceKey = tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Limit:
    """A limit on the change of a metric.

    Attributes:
        value: In the metric's units; None if it is relative to a reference that is not positive.
        higher_is_better: Whether the change must not be below it, or not above.
    """

    value: float | None
    higher_is_better: bool

    def is_met(self, change: float) -> bool:
        """Whether a measured change keeps the limit; one that is not finite, or a limit without a value, is not met."""
        if self.value is None:
            return False
        return change >= self.value if self.higher_is_better else change <= self.value


@dataclass(frozen=True)
class Threshold:
    """One threshold of the EvalConfig.

    Attributes:
        name: The metric's name.
        metric: The metric in words.
        spec: The tfma.SlicingSpec or CrossSlicingSpec it is limited to; None for every slice.
        message: The tfma.GenericValueThreshold or GenericChangeThreshold.
    """

    name: str
    metric: str
    spec: Any
    message: Any

    @property
    def is_change(self) -> bool:
        """Whether it limits the change against a reference."""
        return hasattr(self.message, "direction")

    @property
    def higher_is_better(self) -> bool:
        """The direction of a change threshold."""
        return bool(self.message.direction == _HIGHER_IS_BETTER)

    def applies_to(self, key: SliceKey) -> bool:
        """Whether it limits the metric on a slice; one across slices never does."""
        from tensorflow_model_analysis.slicer import slicer_lib

        if self.spec is None:
            return True
        if not hasattr(self.spec, "feature_keys"):
            return False
        return bool(slicer_lib.SingleSliceSpec(spec=self.spec).is_slice_applicable(key))

    def change_limit(self, reference_value: float) -> Limit:
        """The limit of a change threshold where the reference has this value.

        TFMA divides the change by the reference's value. That has no meaning at 0 and turns the direction around
        below, so there a relative bound has no value.
        """
        bounds = [self.message.absolute.value] if self.message.HasField("absolute") else []
        if self.message.HasField("relative"):
            bounds.append(self.message.relative.value * reference_value if reference_value > 0 else math.nan)
        tightest = math.nan if any(map(math.isnan, bounds)) else (max if self.higher_is_better else min)(bounds)
        return Limit(None if math.isnan(tightest) else tightest, self.higher_is_better)


def read(config: Any) -> tuple[Threshold, ...]:
    """The thresholds of the user's tfma.EvalConfig, in its order."""
    thresholds = eval_configs.find_thresholds(eval_configs.expand(config, ["variant"]))
    return tuple(
        Threshold(key.name, metric_in_words(key.to_proto()), spec, message)
        for key, entries in thresholds.items()
        for spec, message in entries
    )


def change_limits(
    thresholds: Sequence[Threshold], metric: str, key: SliceKey, reference_value: float
) -> tuple[Limit, ...]:
    """The tightest limit in each direction on the change of a metric on a slice; empty if nothing limits it."""
    found: dict[bool, list[float | None]] = {}
    for threshold in thresholds:
        if threshold.is_change and threshold.metric == metric and threshold.applies_to(key):
            limit = threshold.change_limit(reference_value)
            found.setdefault(limit.higher_is_better, []).append(limit.value)
    limits = []
    for higher_is_better, values in found.items():
        known = [value for value in values if value is not None]
        tightest = (max if higher_is_better else min)(known) if len(known) == len(values) else None
        limits.append(Limit(tightest, higher_is_better))
    return tuple(limits)


def check_worst_slice(config: Any, worst_slice: Mapping[str, float]) -> None:
    """Checks that `Confidence.worst_slice` names metrics that are compared on slices.

    Args:
        config: A tfma.EvalConfig that `eval_config.check` accepts.
        worst_slice: See `Confidence`.

    Raises:
        EvalConfigError: A metric has no change threshold, or eval_config has no slices.
    """
    if not worst_slice:
        return
    worst_slice_limits(read(config), worst_slice)
    if not any(spec.feature_keys or spec.feature_values or spec.slice_keys_sql for spec in config.slicing_specs):
        raise EvalConfigError(
            f"confidence.worst_slice={dict(worst_slice)!r} limits the change on every slice, but eval_config has none. "
            "Add slicing_specs such as {'feature_keys': ['label']}, or leave out worst_slice."
        )


def worst_slice_limits(thresholds: Sequence[Threshold], worst_slice: Mapping[str, float]) -> dict[str, Limit]:
    """By metric in words, the limit on its change on any slice.

    Args:
        thresholds: The thresholds of the EvalConfig, which give the direction.
        worst_slice: See `Confidence`.

    Raises:
        EvalConfigError: A metric has no change threshold, or two in opposite directions.
    """
    limits: dict[str, Limit] = {}
    for name, amount in worst_slice.items():
        directions = {
            (threshold.metric, threshold.higher_is_better)
            for threshold in thresholds
            if threshold.is_change and name in (threshold.name, threshold.metric)
        }
        metrics = {metric for metric, _ in directions}
        if not directions or len(directions) > len(metrics):
            known = ", ".join(sorted({t.metric for t in thresholds if t.is_change})) or "none"
            problem = "has change thresholds in both directions" if directions else "has no change threshold"
            raise EvalConfigError(
                f"confidence.worst_slice names metric {name!r}, which {problem} in eval_config, so that it is not "
                f"known what is worse. Metrics with a change threshold: {known}. Name one of them, or give the metric "
                "one with its direction."
            )
        for metric, higher_is_better in sorted(directions):
            limits[metric] = Limit(-amount if higher_is_better else amount, higher_is_better)
    return limits


def limit_in_words(limit: Limit) -> str:
    """A limit on a change in words, such as `change >= -0.02`."""
    sign = ">=" if limit.higher_is_better else "<="
    return f"change {sign} {'a share of a positive value' if limit.value is None else f'{limit.value:+.4g}'}"
