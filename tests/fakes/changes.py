"""Paired samples, and what TFMA's own validation says of their values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tests.fakes import evaluations
from tfx_mobile.quantization_evaluator.scoring.paired import PairedSample

ACCURACY = "sparse_categorical_accuracy"


def sample(where: str, gained: int, lost: int, num_examples: int, **more: Any) -> PairedSample:
    """A sample of accuracy whose reference scores 0.75."""
    reference_value = more.pop("reference_value", 0.75)
    fields = {
        "variant": "int8",
        "reference": "saved_model",
        "metric": ACCURACY,
        "slice": where,
        "num_examples": num_examples,
        "value": reference_value + (gained - lost) / num_examples,
        "reference_value": reference_value,
        "gained": gained,
        "lost": lost,
    }
    return PairedSample(**{**fields, **more})


def eval_config(*per_slice: tuple[Mapping[str, Any], Mapping[str, Any]]) -> Any:
    """Accuracy over all examples, by label and by country, with thresholds for (slicing spec, MetricThreshold)."""
    from google.protobuf import json_format

    config = evaluations.eval_config(drop=None)
    metric = next(m for m in config.metrics_specs[0].metrics if m.class_name == "SparseCategoricalAccuracy")
    for where, threshold in per_slice:
        json_format.ParseDict({"slicing_specs": [where], "threshold": threshold}, metric.per_slice_thresholds.add())
    return config


def drop(absolute: float | None = None, relative: float | None = None, direction: str = "HIGHER_IS_BETTER") -> Any:
    """A MetricThreshold on the change."""
    bounds = {"absolute": absolute, "relative": relative}
    return {"change_threshold": {"direction": direction, **{k: v for k, v in bounds.items() if v is not None}}}


def slice_key(words: str) -> tuple[tuple[str, int], ...]:
    """TFMA's key of `overall`, or of a slice such as `label:3`."""
    if words == "overall":
        return ()
    column, value = words.split(":")
    return ((column, int(value)),)


def models_of(samples: Sequence[PairedSample]) -> tuple[Any, ...]:
    """The metrics of all models, as the samples have them."""
    from tfx_mobile.records import ModelMetrics, SliceMetrics

    values: dict[str, dict[str, dict[str, float]]] = {}
    for one in samples:
        for model, value in ((one.reference, one.reference_value), (one.variant, one.value)):
            values.setdefault(model, {}).setdefault(one.slice, {})[one.metric] = value
    return tuple(
        ModelMetrics(model=model, slices=tuple(SliceMetrics(slice=s, metrics=m) for s, m in slices.items()))
        for model, slices in values.items()
    )


def missed_by_tfma(samples: Sequence[PairedSample], config: Any) -> dict[str, tuple[Any, ...]]:
    """What TFMA's validation misses of the samples against the float model, by variant."""
    import tensorflow_model_analysis as tfma
    from tensorflow_model_analysis.evaluators import metrics_validator

    from tfx_mobile.quantization_evaluator.eval_config import BASELINE, expand, find_thresholds
    from tfx_mobile.quantization_evaluator.judging.gates import metric_in_words, rejections

    samples = [one for one in samples if one.reference == BASELINE]
    variants = list(dict.fromkeys(one.variant for one in samples))
    expanded = expand(config, variants)
    keys = {key.make_baseline_key(BASELINE)._replace(is_diff=False) for key in find_thresholds(expanded)}
    result = tfma.proto.validation_result_pb2.ValidationResult()
    for where in dict.fromkeys(one.slice for one in samples):
        metrics = {}
        for one in samples:
            for key in keys:
                if one.slice == where and metric_in_words(key.to_proto()) == one.metric:
                    own = key._replace(model_name=one.variant)
                    metrics |= {key: one.reference_value, own: one.value}
                    metrics[own.make_diff_key()] = one.value - one.reference_value
        validated = metrics_validator.validate_metrics((slice_key(where), metrics), expanded)
        result.metric_validations_per_slice.extend(validated.metric_validations_per_slice)
    return rejections(result, variants)
