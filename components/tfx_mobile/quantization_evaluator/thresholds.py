"""The limits that an EvalConfig sets, where they apply, and which of them TFMA found missed.

TFMA is imported by the functions that need it, because `gates` reads this module while a pipeline is defined.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tfx_mobile.errors import EvalConfigError
from tfx_mobile.quantization_evaluator import eval_config as eval_configs

OVERALL = "overall"
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

    @property
    def limit(self) -> str:
        """The limit in words."""
        return _change_limit(self.message) if self.is_change else _value_limit(self.message)

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


@dataclass(frozen=True)
class Rejection:
    """One threshold that one variant missed on one slice.

    Attributes:
        metric: The metric in words.
        slice: The slice in words; None if no example fell into it.
        value: What was compared with the limit: the metric, or for a change its difference to the baseline. None if
            the metric was not computed there.
        limit: The limit in words.
        is_change: Whether the limit is on the change against the baseline.
        higher_is_better: The direction of such a limit.
    """

    metric: str
    slice: str
    value: float | None
    limit: str
    is_change: bool
    higher_is_better: bool | None = None


def rejections(validation: Any, variants: Sequence[str]) -> dict[str, tuple[Rejection, ...]]:
    """Missed thresholds by variant, from a tfma.ValidationResult.

    A slice that a threshold names and no example falls into counts against every variant: the gate was never checked.
    """
    found: dict[str, list[tuple[Any, Rejection]]] = {name: [] for name in variants}
    for per_slice in validation.metric_validations_per_slice:
        words, order = slice_in_words(per_slice)
        for failure in per_slice.failures:
            threshold = failure.metric_threshold
            is_change = threshold.HasField("change_threshold")
            limit = _change_limit(threshold.change_threshold) if is_change else _value_limit(threshold.value_threshold)
            value = failure.metric_value.double_value.value if failure.HasField("metric_value") else None
            higher = threshold.change_threshold.direction == _HIGHER_IS_BETTER if is_change else None
            rejection = Rejection(metric_in_words(failure.metric_key), words, value, limit, is_change, higher)
            found[failure.metric_key.model_name].append((order, rejection))
    for specs in (validation.missing_slices, validation.missing_cross_slices):
        for spec in specs:
            rejection = Rejection("", " ".join(str(spec).split()), None, "", False)
            for items in found.values():
                items.append(((1,), rejection))
    return {name: tuple(r for _, r in sorted(items, key=lambda item: item[0])) for name, items in found.items()}


def slice_in_words(message: Any) -> tuple[str, Any]:
    """A slice in words, such as `label:3`, and a key that sorts slices: overall first, then by column and value.

    Args:
        message: A TFMA message with `slice_key` or `cross_slice_key`.
    """
    if message.HasField("cross_slice_key"):
        one, one_order = _slice_key_in_words(message.cross_slice_key.comparison_slice_key)
        other, other_order = _slice_key_in_words(message.cross_slice_key.baseline_slice_key)
        return f"{one} against {other}", (1, one_order, other_order)
    words, order = _slice_key_in_words(message.slice_key)
    return words, (0, order, ())


def metric_in_words(key: Any) -> str:
    """A metric's name, with output, sub key and aggregation where it has them; a difference has its metric's name."""
    words = f"{key.output_name}/{key.name}" if key.output_name else str(key.name)
    if key.HasField("sub_key"):
        words += "".join(f"@{f.name}:{value.value}" for f, value in key.sub_key.ListFields())
    if key.HasField("aggregation_type"):
        words += "".join(f" ({f.name})" for f, value in key.aggregation_type.ListFields() if value)
    return words


def _slice_key_in_words(key: Any) -> tuple[str, Any]:
    parts, order = [], []
    for single in key.single_slice_keys:
        kind = single.WhichOneof("kind")
        value = getattr(single, kind) if kind else ""
        text = (
            value.decode(errors="replace")
            if isinstance(value, bytes)
            else f"{value:g}"
            if kind == "float_value"
            else value
        )
        parts.append(f"{single.column}:{text}")
        order.append((single.column, (1, str(text)) if isinstance(value, (bytes, str)) else (0, value)))
    return ", ".join(parts) or OVERALL, tuple(order)


def _value_limit(threshold: Any) -> str:
    bounds = []
    if threshold.HasField("lower_bound"):
        bounds.append(f">= {threshold.lower_bound.value:g}")
    if threshold.HasField("upper_bound"):
        bounds.append(f"<= {threshold.upper_bound.value:g}")
    return " and ".join(bounds)


def limit_in_words(limit: Limit) -> str:
    """A limit on a change in words, such as `change >= -0.02`."""
    sign = ">=" if limit.higher_is_better else "<="
    return f"change {sign} {'a share of a positive value' if limit.value is None else f'{limit.value:+.4g}'}"


def _change_limit(threshold: Any) -> str:
    sign = ">=" if threshold.direction == _HIGHER_IS_BETTER else "<="
    bounds = []
    if threshold.HasField("absolute"):
        bounds.append(f"change {sign} {threshold.absolute.value:+g}")
    if threshold.HasField("relative"):
        bounds.append(f"relative change {sign} {threshold.relative.value:+.4g}")
    return " and ".join(bounds)
