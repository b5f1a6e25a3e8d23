"""Which metrics of an EvalConfig are computed on whole batches, which TFMA computes, and what is compared in pairs."""

from __future__ import annotations

import base64
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow_model_analysis as tfma
from tensorflow_model_analysis.api import types
from tensorflow_model_analysis.metrics import confusion_matrix_metrics, metric_specs, metric_types

from tfx_mobile.quantization_evaluator.judging.gates import metric_in_words
from tfx_mobile.quantization_evaluator.scoring.vectorized import areas, histograms, statistics
from tfx_mobile.quantization_evaluator.scoring.vectorized.combiners import statistic_of
from tfx_mobile.quantization_evaluator.scoring.vectorized.rows import Columns
from tfx_mobile.quantization_evaluator.scoring.vectorized.state import State
from tfx_mobile.quantization_evaluator.scoring.vectorized.statistics import Histogram, Statistic

Array = npt.NDArray[Any]

_NO_PATH = "it has no vectorised path with these options"


@dataclass(frozen=True)
class Metric:
    """One value of one model.

    Attributes:
        key: Its MetricKey.
        statistics: Numbers of the statistics it is made of.
        derived: TFMA's computations that make it of them, in order; empty if a statistic gives the value.
        zero_or_one: Whether the metric may be the mean of a 0 or 1 per example.
        replicable: Whether it can be computed in each replicate of a bootstrap.
        curve: `ROC` or `PR` if it is the area under one, which is replicated from a sample; else None.
    """

    key: Any
    statistics: tuple[int, ...]
    derived: tuple[Any, ...]
    zero_or_one: bool
    replicable: bool
    curve: str | None = None


@dataclass(frozen=True)
class Comparison:
    """A metric of a variant and of a reference on the same examples.

    Attributes:
        variant: The variant's name.
        reference: The reference's name.
        words: The metric in words.
        metric: The variant's; None if TFMA computes it.
        reference_metric: The reference's; None likewise.
        column: Of the number of examples gained; that of those lost follows. None if there are none.
    """

    variant: str
    reference: str
    words: str
    metric: Metric | None = None
    reference_metric: Metric | None = None
    column: int | None = None


@dataclass
class Plan:
    """How the metrics of an EvalConfig are computed; travels to Beam's workers.

    Attributes:
        statistics: What is summed up.
        columns: Of each statistic, the columns in a state's sums.
        metrics: What is made of them, by MetricKey.
        derived: All of TFMA's computations that make them, in order.
        comparisons: What is compared in pairs.
        width: Number of columns in a state's sums.
        fallback: The part of the EvalConfig that TFMA computes; None if there is none.
        reasons: By metric's name, why TFMA computes it.
        baseline: Name of the baseline; None if there is only one model.
    """

    statistics: list[Statistic] = field(default_factory=list)
    columns: list[slice] = field(default_factory=list)
    metrics: dict[Any, Metric] = field(default_factory=dict)
    derived: list[Any] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    width: int = 0
    fallback: Any = None
    reasons: dict[str, str] = field(default_factory=dict)
    baseline: str | None = None

    @property
    def needs_labels(self) -> bool:
        """Whether any statistic reads labels and predictions."""
        return any(one.needs_labels for one in self.statistics)

    def histograms(self) -> list[int]:
        """Numbers of the statistics that are histograms."""
        return [number for number, one in enumerate(self.statistics) if isinstance(one, Histogram)]

    def values(self, state: State) -> dict[Any, Any]:
        """All values of a slice by MetricKey, and the differences to the baseline as TFMA has them."""
        values: dict[Any, Any] = {}
        with np.errstate(all="ignore"):
            for number, one in enumerate(self.statistics):
                if isinstance(one, Histogram):
                    values.update(one.histogram(*state.buckets[number]))
                else:
                    values.update(one.result(state.sums[self.columns[number]]))
            for computation in self.derived:
                values.update(_result(computation, values))
        undefined = {n for n in self.histograms() if np.isnan(state.sums[self.columns[n]]).any()}
        for key, metric in self.metrics.items():
            if undefined.intersection(metric.statistics):
                values[key] = float("nan")
        found = {key: value for key, value in values.items() if not statistics.is_private(key)}
        if self.baseline is None:
            return found
        differences = {}
        for key, value in found.items():
            baseline = found.get(key.make_baseline_key(self.baseline))
            if key.model_name != self.baseline and baseline is not None and _has_difference(value):
                differences[key.make_diff_key()] = value - baseline
        return found | differences

    def samples(self, state: State, values: Mapping[Any, Any], number: int) -> list[dict[str, Any]]:
        """The comparisons of a slice, as JSON: the fields of a PairedSample that are known here.

        Args:
            state: The slice's state.
            values: Its values, as in `values`.
            number: How many replicates there are.
        """
        replicated: dict[Any, Array | None] = {}
        found = []
        for one in self.comparisons:
            sample: dict[str, Any] = {"variant": one.variant, "reference": one.reference, "metric": one.words}
            found.append(sample)
            if one.metric is None or one.reference_metric is None:
                continue
            sample["value"] = _number(values.get(one.metric.key))
            sample["reference_value"] = _number(values.get(one.reference_metric.key))
            gained_and_lost = np.full(2, np.nan) if one.column is None else state.sums[one.column : one.column + 2]
            if not np.isnan(gained_and_lost).any():
                sample["gained"], sample["lost"] = map(int, gained_and_lost)
                continue
            if one.metric.curve is not None:
                sample |= self._area_sample(one.metric, one.reference_metric, state, sample, number)
                continue
            for metric in (one.metric, one.reference_metric):
                if metric.key not in replicated:
                    replicated[metric.key] = self._replicated(metric, state)
            own, reference = replicated[one.metric.key], replicated[one.reference_metric.key]
            if own is not None and reference is not None:
                sample["replicates"] = _encoded(own - reference)
        return found

    def sampled(self) -> list[int]:
        """Numbers of the histograms that comparisons need a sample of."""
        metrics = [metric for one in self.comparisons for metric in (one.metric, one.reference_metric) if metric]
        return sorted({number for metric in metrics if metric.curve is not None for number in metric.statistics})

    def _area_sample(
        self, own: Metric, reference: Metric, state: State, known: Mapping[str, Any], number: int
    ) -> dict[str, Any]:
        """Replicates of the change of an area, and on how many examples of the rarer class they rest."""
        samples = [state.samples.get(metric.statistics[0]) for metric in (reference, own)]
        if own.curve is None or samples[0] is None or samples[1] is None:
            return {}
        placed = [sample.placed(_places(own)) for sample in samples if sample is not None]
        change = known["value"] - known["reference_value"]
        drawn = areas.replicates(placed[0], placed[1], own.curve, change, number)
        return {} if drawn is None else {"replicates": _encoded(drawn[0]), "rarest": drawn[1]}

    def bootstrapped(self) -> list[int]:
        """Numbers of the statistics that comparisons may need replicates of."""
        metrics = [metric for one in self.comparisons for metric in (one.metric, one.reference_metric) if metric]
        return sorted({number for metric in metrics if metric.replicable for number in metric.statistics})

    def _replicated(self, metric: Metric, state: State) -> Array | None:
        """The metric in each replicate, float64 [replicates]; NaN in those that drew no example with a weight."""
        number = metric.statistics[0]
        if not metric.replicable or number not in state.replicates:
            return None
        one, replicates = self.statistics[number], state.replicates[number]
        with np.errstate(all="ignore"):
            if not metric.derived:
                values = np.asarray(one.value(replicates), np.float64)
                return np.where(replicates[:, -1] == 0, np.nan, values)
            values = np.empty(len(replicates))
            for index, sums in enumerate(replicates):
                made = one.result(sums)
                for computation in metric.derived:
                    made.update(_result(computation, made))
                values[index] = _number(made[metric.key])
        return values


def make_plan(
    config: Any,
    models: Sequence[str],
    references: Sequence[str] = (),
) -> Plan:
    """Divides the metrics of an EvalConfig.

    Args:
        config: A tfma.EvalConfig with a ModelSpec per model.
        models: Names of the models, the baseline's first.
        references: Those that the others are compared with in pairs.
    """
    plan = Plan(baseline=models[0] if len(models) > 1 else None)
    fallback = type(config)()
    fallback.CopyFrom(config)
    del fallback.metrics_specs[:]
    computations: dict[Any, int] = {}
    for spec in config.metrics_specs:
        left_over = type(spec)()
        left_over.CopyFrom(_without_thresholds(spec))
        del left_over.metrics[:]
        for metric_config in spec.metrics:
            single = type(spec)()
            single.CopyFrom(spec)
            del single.metrics[:]
            single.metrics.append(metric_config)
            single = _without_thresholds(single)
            reason = _why_not(config, spec) or _add(plan, single, config, computations)
            if reason:
                left_over.metrics.append(single.metrics[0])
                plan.reasons[metric_specs.metric_instance(metric_config).name] = reason
        if left_over.metrics:
            fallback.metrics_specs.append(left_over)
    for one in plan.statistics:
        plan.columns.append(slice(plan.width, plan.width + one.width))
        plan.width += one.width
    if fallback.metrics_specs:
        plan.fallback = fallback
    _add_comparisons(plan, config, models, references)
    return plan


def _add(plan: Plan, single: Any, config: Any, known: dict[Any, int]) -> str:
    """Adds the only metric of a MetricsSpec to the plan; returns why it cannot."""
    metric_config = single.metrics[0]
    metric = metric_specs.metric_instance(metric_config)
    label_key, prediction_key = config.model_specs[0].label_key, config.model_specs[0].prediction_key
    derived: dict[tuple[str, str, bool], list[Any]] = {}
    found: dict[tuple[str, str, bool], dict[Any, Statistic]] = {}
    for computation in metric_specs.to_computations([single], eval_config=config):
        by_group: dict[tuple[str, str, bool], list[Any]] = {}
        for key in computation.keys:
            by_group.setdefault((key.model_name, key.output_name, bool(key.example_weighted)), []).append(key)
        if type(computation) is metric_types.DerivedMetricComputation:
            derived.setdefault(next(iter(by_group)), []).append(computation)
            continue
        if type(computation) is not metric_types.MetricComputation:
            return "it is computed across slices"
        # Keras's metrics of several outputs are one computation.
        for group, keys in by_group.items():
            columns = Columns(*group, label_key, prediction_key)
            make_metric = functools.partial(_make_metric, metric_config.SerializeToString())
            one = statistic_of(computation, tuple(keys), metric, columns, make_metric)
            if one is None or any(map(_is_of_its_own_kind, keys)):
                return _NO_PATH
            found.setdefault(group, {})[computation, group] = one
    if any(_is_of_its_own_kind(key) for group in derived.values() for one in group for key in one.keys):
        return _NO_PATH
    if set(derived) - set(found):
        return _NO_PATH
    for group, parts_of in found.items():
        for identity, one in parts_of.items():
            if identity not in known:
                known[identity] = len(plan.statistics)
                plan.statistics.append(one)
        numbers = tuple(known[identity] for identity in parts_of)
        parts = [plan.statistics[number] for number in numbers]
        made = derived.get(group, [])
        for one in parts:
            if isinstance(one, Histogram):
                made = [histograms.replace(computation, one.keys[0]) for computation in made]
        plan.derived += [computation for computation in made if computation not in plan.derived]
        for keyed in (*parts_of.values(), *made):
            for key in keyed.keys:
                if not statistics.is_private(key):
                    plan.metrics[key] = Metric(
                        key=key,
                        statistics=numbers,
                        derived=tuple(made),
                        zero_or_one=_scores(metric, parts),
                        replicable=len(parts) == 1 and not isinstance(parts[0], Histogram),
                        curve=_curve(metric, parts, made),
                    )
    return ""


def _curve(metric: Any, parts: Sequence[Statistic], made: Sequence[Any]) -> str | None:
    """Under which curve the metric is the area as `areas.area` computes it; None if it is none."""
    kinds = (confusion_matrix_metrics.AUC, confusion_matrix_metrics.AUCPrecisionRecall)
    if type(metric) not in kinds or len(parts) != 1 or not isinstance(parts[0], Histogram):
        return None
    if not any(isinstance(computation, histograms.MatricesOfHistogram) for computation in made):
        return None
    options = metric.get_config()
    if str(options.get("summation_method") or "interpolation").lower() != "interpolation":
        return None
    if options.get("top_k") is not None or options.get("class_id") is not None:
        return None
    return "PR" if type(metric) is kinds[1] else str(options.get("curve") or "ROC").upper()


def _places(metric: Metric) -> Any:
    return next(one for one in metric.derived if isinstance(one, histograms.MatricesOfHistogram)).places


def _encoded(replicates: Array) -> str:
    return base64.b64encode(replicates.astype("<f8").tobytes()).decode()


def _make_metric(serialized: bytes) -> Any:
    return metric_specs.metric_instance(tfma.MetricConfig.FromString(serialized))


def _why_not(config: Any, spec: Any) -> str:
    """Why none of a MetricsSpec's metrics has a vectorised path; empty if that depends on the metric."""
    if config.cross_slicing_specs:
        return "cross_slicing_specs is set"
    if config.options.compute_confidence_intervals.value:
        return "compute_confidence_intervals is set"
    if any(model_spec.HasField("padding_options") for model_spec in config.model_specs):
        return "padding_options is set"
    set_fields = [name for name in ("binarize", "aggregate") if spec.HasField(name)]
    set_fields += [name for name in ("query_key", "output_weights") if getattr(spec, name)]
    return f"{set_fields[0]} is set" if set_fields else ""


def _without_thresholds(spec: Any) -> Any:
    copy = type(spec)()
    copy.CopyFrom(spec)
    for message in (copy, *copy.metrics):
        for one in list(message.DESCRIPTOR.fields):
            if one.name.endswith(("threshold", "thresholds")):
                message.ClearField(one.name)
    return copy


def _scores(metric: Any, parts: Sequence[Statistic]) -> bool:
    """Whether `scores_zero_or_one` of the only part decides about gained and lost examples."""
    (one, *others) = parts
    if others:
        return False
    if isinstance(one, statistics.ConfusionMatrices):
        return type(metric).__name__ == "BinaryAccuracy"
    return isinstance(one, statistics.KerasMean)


def _is_of_its_own_kind(key: Any) -> bool:
    """Whether a key is of a class or of an average of classes, or of a plot."""
    if key.sub_key is not None or key.aggregation_type is not None:
        return True
    return isinstance(key, (metric_types.PlotKey, metric_types.AttributionsKey)) and not statistics.is_private(key)


def _add_comparisons(plan: Plan, config: Any, models: Sequence[str], references: Sequence[str]) -> None:
    if len(models) < 2:
        return
    thresholds = tfma.metrics.metric_thresholds_from_metrics_specs(config.metrics_specs, eval_config=config)
    gated = {metric_in_words(key.to_proto()): key for key in thresholds if key.is_diff}
    by_words: dict[str, Any] = {}
    for computation in metric_specs.to_computations(list(config.metrics_specs), eval_config=config):
        for key in computation.keys:
            if type(key) is metric_types.MetricKey and not statistics.is_private(key):
                words = metric_in_words(key.to_proto())
                if words in gated:
                    by_words.setdefault(words, gated[words])
    for words, key in by_words.items():
        for variant in (name for name in models if name not in references):
            for reference in references:
                own, other = (plan.metrics.get(key.make_baseline_key(name)) for name in (variant, reference))
                column = None
                if own is not None and own.zero_or_one:
                    column = plan.width
                    plan.width += 2
                plan.comparisons.append(Comparison(variant, reference, words, own, other, column))


def _result(computation: Any, values: Any) -> dict[Any, Any]:
    """What TFMA derives; NaN where it divides by zero, which would stop its own run."""
    try:
        result: dict[Any, Any] = computation.result(values)
    except (ArithmeticError, ValueError):
        if any(statistics.is_private(key) for key in computation.keys):
            raise
        return dict.fromkeys(computation.keys, float("nan"))
    return result


def _has_difference(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return bool(np.issubdtype(value.dtype, np.number))
    return isinstance(value, (int, float, np.number, types.StructuredMetricValue))


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float, np.number)) else float("nan")
