"""From the EvalConfig a stock Evaluator takes to one with a ModelSpec per scored model.

TFMA is imported by the functions that need it, because components read this module while a pipeline is defined.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import Message

from tfx_mobile.errors import EvalConfigError
from tfx_mobile.quantization_evaluator.judging.gates import HIGHER_IS_BETTER, metric_in_words

BASELINE = "saved_model"
PRODUCTION = "production"
#: Names of models that are no variants.
RESERVED = {BASELINE: "the float baseline", PRODUCTION: "the model that phones run today"}

# Where the standard metrics' classes may be said to be; TFMA takes them without a module, too.
_STANDARD_MODULES = ("", "tensorflow_model_analysis.metrics", "tf_keras.metrics", "tf_keras.src.metrics")

_HOW_TO_GATE = (
    "Add one to a metric, in JSON for example {'class_name': 'SparseCategoricalAccuracy', 'threshold': "
    "{'change_threshold': {'direction': 'HIGHER_IS_BETTER', 'absolute': -0.01}}}"
)


def to_json(eval_config: Message | Mapping[str, Any] | str) -> str:
    """The JSON form of an EvalConfig, checked as far as it can be without importing TFMA on the caller's behalf.

    Args:
        eval_config: A tfma.EvalConfig message, its JSON form as a mapping, or as text.

    Raises:
        EvalConfigError: It is no EvalConfig, or one that `check` refuses.
    """
    if isinstance(eval_config, Message):
        # A custom metric's module may exist only where the pipeline runs; the executor checks again.
        with contextlib.suppress(ModuleNotFoundError):
            check(eval_config)
        document = json_format.MessageToDict(eval_config, preserving_proto_field_name=True)
    else:
        document = _load(eval_config)
        if not _mentions_threshold(document):
            raise EvalConfigError(f"eval_config has no threshold, so no variant could ever fail. {_HOW_TO_GATE}.")
    return json.dumps(document, sort_keys=True)


def from_json(eval_config: Mapping[str, Any] | str) -> Any:
    """The checked tfma.EvalConfig of its JSON form.

    Raises:
        EvalConfigError: See `to_json`.
    """
    import tensorflow_model_analysis as tfma

    try:
        config = json_format.ParseDict(_load(eval_config), tfma.EvalConfig())
    except json_format.ParseError as error:
        raise EvalConfigError(f"eval_config is not a tfma.EvalConfig in JSON: {error}.") from None
    check(config)
    return config


def check(config: Any) -> None:
    """Checks a tfma.EvalConfig for what TFMA would answer late, unclearly or not at all.

    Raises:
        EvalConfigError: It does not describe one model with labels, has no threshold, or has one that can never be
            evaluated: without a bound or direction, on a metric or a slice that is not computed.
    """
    import tensorflow_model_analysis as tfma

    spec = template(config)
    if not spec.label_key and not spec.label_keys:
        raise EvalConfigError(
            "The ModelSpec in eval_config names no label_key. Set label_key to the feature that holds the label, "
            "or label_keys for a model with several outputs."
        )
    _check_weights(config, spec)
    expanded = expand(config, ["variant"])
    try:
        tfma.utils.verify_eval_config(expanded)
    except ValueError as error:
        raise EvalConfigError(f"eval_config is not valid: {error}") from None
    thresholds = find_thresholds(expanded)
    if not thresholds:
        raise EvalConfigError(f"eval_config has no threshold, so no variant could ever fail. {_HOW_TO_GATE}.")
    computed = _computed_metrics(expanded)
    for key, slice_and_thresholds in thresholds.items():
        base = key._replace(is_diff=False)
        if base not in computed:
            names = ", ".join(sorted({k.name for k in computed if not k.name.startswith("_")})) or "none"
            raise EvalConfigError(
                f"eval_config has a threshold on metric {key.name!r}, which is not computed"
                f"{_key_details(key)}. Computed are: {names}. Add the metric to metrics_specs, and put the "
                "threshold into its own MetricConfig."
            )
        for slicing_spec, threshold in slice_and_thresholds:
            _check_threshold(key.name, threshold)
            _check_slice(config, key.name, slicing_spec)


def template(config: Any) -> Any:
    """The ModelSpec that all models are scored by: the only one that is not a baseline.

    Raises:
        EvalConfigError: There is not exactly one.
    """
    candidates = [spec for spec in config.model_specs if not spec.is_baseline]
    if len(candidates) != 1 or len(config.model_specs) > 2:
        raise EvalConfigError(
            f"eval_config has {len(config.model_specs)} model_specs, {len(candidates)} of them no baseline. Give one "
            "ModelSpec with label_key, or a candidate and one with is_baseline: true. The SavedModel and the variants "
            "get theirs from the candidate's."
        )
    return candidates[0]


def expand(config: Any, variants: Sequence[str], production: bool = False) -> Any:
    """An EvalConfig with one ModelSpec per model: `saved_model` as the baseline, and each variant as a candidate.

    Thresholds of a MetricsSpec move to its MetricConfigs: where they stand TFMA looks only among metrics saved with a
    model, and reports a computed one as not found. Without variants there is nothing to gate: then the thresholds are
    left out.

    Args:
        config: The user's tfma.EvalConfig.
        variants: The variants' names.
        production: Whether the model in production is scored too; it gets the metrics and no threshold.
    """
    expanded = type(config)()
    expanded.CopyFrom(config)
    spec = template(config)
    del expanded.model_specs[:]
    others = [*variants, PRODUCTION] if production else [*variants]
    for name in (BASELINE, *others):
        model_spec = expanded.model_specs.add()
        model_spec.CopyFrom(spec)
        model_spec.name = name
        # TFMA only reads predictions; it never learns that these are .tflite files.
        model_spec.model_type = "tf_generic"
        model_spec.is_baseline = bool(others) and name == BASELINE
    for metrics_spec in list(expanded.metrics_specs):
        _move_thresholds_to_metrics(metrics_spec)
        _correct_metrics(metrics_spec)
        metrics_spec.model_names[:] = [BASELINE, *variants] if others else [""]  # TFMA's name for the only model
        if not variants:
            _clear_thresholds(metrics_spec)
        if production:
            ungated = expanded.metrics_specs.add()
            ungated.CopyFrom(metrics_spec)
            ungated.model_names[:] = [PRODUCTION]
            _clear_thresholds(ungated)
    return expanded


def gated_metrics(config: Any) -> tuple[str, ...]:
    """Names of the metrics that have a threshold, in the order of the config."""
    expanded = expand(config, ["variant"])
    gated = {key.name for key in find_thresholds(expanded)}
    computed = [key.name for key in _computed_metrics(expanded)]
    return tuple(dict.fromkeys(name for name in computed if name in gated))


def quality_metric(config: Any) -> tuple[str, bool] | None:
    """The metric that `quality` means, and whether higher is better: the first one whose threshold has a direction.

    A change threshold names its direction; a lower bound alone means that higher is better, an upper bound alone that
    lower is. The first in the order of the config; of one metric a change threshold counts first.

    Returns:
        The metric in words, as `gates.metric_in_words` has it; None if no threshold has a direction.
    """
    expanded = expand(config, ["variant"])
    directions: dict[Any, list[tuple[int, bool]]] = {}
    for key, slice_and_thresholds in find_thresholds(expanded).items():
        for _, threshold in slice_and_thresholds:
            if (direction := _direction(threshold)) is not None:
                directions.setdefault(key._replace(is_diff=False), []).append(direction)
    for key in _computed_metrics(expanded):
        if key in directions:
            return metric_in_words(key.to_proto()), min(directions[key])[1]
    return None


def _direction(threshold: Any) -> tuple[int, bool] | None:
    """A rank, and whether higher is better."""
    if hasattr(threshold, "direction"):
        return 0, threshold.direction == HIGHER_IS_BETTER
    if _has(threshold, "lower_bound") != _has(threshold, "upper_bound"):
        return 1, _has(threshold, "lower_bound")
    return None


def feature_keys(config: Any) -> dict[str, str]:
    """Features the config reads from the examples, each with the field of the EvalConfig that names it."""
    spec = template(config)
    keys: dict[str, str] = {}
    for single, several in (("label_key", "label_keys"), ("example_weight_key", "example_weight_keys")):
        for key in (getattr(spec, single), *getattr(spec, several).values()):
            if key:
                keys[key] = single
    for slicing_spec in config.slicing_specs:
        for key in (*slicing_spec.feature_keys, *slicing_spec.feature_values):
            keys.setdefault(key, "slicing_specs")
    return keys


def _clear_thresholds(metrics_spec: Any) -> None:
    for message in (metrics_spec, *metrics_spec.metrics):
        for field in list(message.DESCRIPTOR.fields):
            if field.name.endswith(("threshold", "thresholds")):
                message.ClearField(field.name)


def _move_thresholds_to_metrics(metrics_spec: Any) -> None:
    from tensorflow_model_analysis.metrics import metric_specs

    if not (metrics_spec.thresholds or metrics_spec.per_slice_thresholds or metrics_spec.cross_slice_thresholds):
        return
    metrics = {metric_specs.metric_instance(metric).name: metric for metric in metrics_spec.metrics}
    for name in set(metrics_spec.thresholds) & set(metrics):
        if metrics[name].HasField("threshold"):
            raise EvalConfigError(
                f"eval_config gives metric {name!r} a threshold twice: in its MetricConfig and in the MetricsSpec. "
                "Remove one."
            )
        metrics[name].threshold.CopyFrom(metrics_spec.thresholds.pop(name))
    for field in ("per_slice_thresholds", "cross_slice_thresholds"):
        by_name = getattr(metrics_spec, field)
        for name in set(by_name) & set(metrics):
            getattr(metrics[name], field).extend(by_name.pop(name).thresholds)


def _correct_metrics(metrics_spec: Any) -> None:
    """Puts corrected classes in the place of those that cannot compute what is asked; see `corrected_metrics`."""
    from tensorflow_model_analysis.metrics import metric_specs

    from tfx_mobile.quantization_evaluator.scoring import corrected_metrics

    for metric in metrics_spec.metrics:
        if metric.class_name in corrected_metrics.CORRECTED and metric.module in _STANDARD_MODULES:
            if "name" not in (settings := json.loads(f"{{{metric.config}}}")):
                settings["name"] = metric_specs.metric_instance(metric).name
                metric.config = json.dumps(settings, sort_keys=True)[1:-1]
            metric.class_name = corrected_metrics.CORRECTED[metric.class_name]
            metric.module = corrected_metrics.__name__


def _load(eval_config: Mapping[str, Any] | str) -> dict[str, Any]:
    document: Any = eval_config
    if isinstance(eval_config, str):
        try:
            document = json.loads(eval_config)
        except json.JSONDecodeError as error:
            raise EvalConfigError(
                f"eval_config is not JSON: {error}. Pass a tfma.EvalConfig or its JSON form."
            ) from None
    if not isinstance(document, Mapping):
        raise EvalConfigError(
            f"eval_config={eval_config!r} is no EvalConfig. Pass a tfma.EvalConfig message or its JSON form."
        )
    return dict(document)


def _mentions_threshold(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any("threshold" in str(key).lower() or _mentions_threshold(item) for key, item in value.items())
    return isinstance(value, (list, tuple)) and any(map(_mentions_threshold, value))


def find_thresholds(expanded: Any) -> dict[Any, Any]:
    """What TFMA makes of an expanded config: by MetricKey, pairs of a slicing spec, or None, and a threshold."""
    import tensorflow_model_analysis as tfma

    thresholds = tfma.metrics.metric_thresholds_from_metrics_specs(expanded.metrics_specs, eval_config=expanded)
    return {key: value for key, value in thresholds.items() if key.model_name != BASELINE}


def _computed_metrics(expanded: Any) -> list[Any]:
    """Keys of the metrics that are computed, in the order of the config."""
    from tensorflow_model_analysis.metrics import metric_specs
    from tensorflow_model_analysis.metrics.metric_types import SubKey

    computations = metric_specs.to_computations(list(expanded.metrics_specs), eval_config=expanded)
    keys = [key for computation in computations for key in computation.keys if key.model_name != BASELINE]
    # TFMA lists Keras' metrics before its own, wherever they stand in the config.
    names = [metric_specs.metric_instance(metric).name for spec in expanded.metrics_specs for metric in spec.metrics]
    keys.sort(key=lambda key: names.index(key.name) if key.name in names else len(names))
    by_class = _class_ids(expanded)
    # Those of semantic segmentation declare one value, and compute one per class.
    return [
        key._replace(sub_key=SubKey(class_id=class_id)) if class_id is not None else key
        for key in dict.fromkeys(keys)
        for class_id in by_class.get(key.name, [None])
    ]


def _class_ids(expanded: Any) -> dict[str, list[Any]]:
    """The classes of each semantic segmentation metric, by its name."""
    from tensorflow_model_analysis.metrics import metric_specs

    return {
        metric_specs.metric_instance(metric).name: json.loads(f"{{{metric.config}}}")["class_ids"]
        for metrics_spec in expanded.metrics_specs
        for metric in metrics_spec.metrics
        if metric.class_name.startswith("SemanticSegmentation")
    }


def _key_details(key: Any) -> str:
    details = [f"{name} {value}" for name, value in (("output", key.output_name), ("sub key", key.sub_key)) if value]
    return f" for {', '.join(details)}" if details else ""


def _check_threshold(metric: str, threshold: Any) -> None:
    bounds = [name for name in ("lower_bound", "upper_bound", "absolute", "relative") if _has(threshold, name)]
    if not bounds:
        raise EvalConfigError(
            f"eval_config has a threshold on metric {metric!r} without a bound, which cannot fail. Set lower_bound or "
            "upper_bound of value_threshold, or absolute or relative of change_threshold."
        )
    if hasattr(threshold, "direction") and not threshold.direction:
        raise EvalConfigError(
            f"eval_config has a change_threshold on metric {metric!r} without a direction. Set direction to "
            "HIGHER_IS_BETTER or LOWER_IS_BETTER."
        )


def _check_weights(config: Any, spec: Any) -> None:
    names = [metric.class_name for metrics_spec in config.metrics_specs for metric in metrics_spec.metrics]
    counting = next((name for name in names if name.startswith("SemanticSegmentation")), None)
    if counting and (spec.example_weight_key or spec.example_weight_keys):
        raise EvalConfigError(
            f"eval_config has an example_weight_key and metric {counting!r}, which TFMA cannot compute with weights. "
            "Leave out the key, or use metrics that are weighted, such as MeanIoU."
        )


def _has(threshold: Any, field: str) -> bool:
    return field in threshold.DESCRIPTOR.fields_by_name and bool(threshold.HasField(field))


def _check_slice(config: Any, metric: str, slicing_spec: Any) -> None:
    """A threshold on a slice nobody computes would fail every variant for a slice that was never looked at."""
    if slicing_spec is None or not hasattr(slicing_spec, "feature_keys"):
        return
    computed = [_columns(spec) for spec in config.slicing_specs] or [frozenset()]
    by_sql = any(spec.slice_keys_sql for spec in config.slicing_specs)
    if not by_sql and _columns(slicing_spec) not in computed:
        raise EvalConfigError(
            f"eval_config has a threshold on metric {metric!r} for slices by {_slices_in_words(slicing_spec)}, but "
            f"slicing_specs computes only: {', '.join(', '.join(sorted(c)) or 'overall' for c in computed)}. Add the "
            "slice to slicing_specs."
        )


def _columns(slicing_spec: Any) -> frozenset[str]:
    return frozenset((*slicing_spec.feature_keys, *slicing_spec.feature_values))


def _slices_in_words(slicing_spec: Any) -> str:
    return ", ".join(sorted(_columns(slicing_spec))) or "overall"
