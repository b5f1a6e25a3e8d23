"""The user's EvalConfig, checked and expanded."""

import json

import pytest
import tensorflow_model_analysis as tfma
from google.protobuf import json_format
from tensorflow_model_analysis.metrics import metric_specs

from tests.fakes import evaluations
from tfx_mobile.errors import EvalConfigError
from tfx_mobile.quantization_evaluator.eval_config import (
    check,
    expand,
    feature_keys,
    from_json,
    gated_metrics,
    quality_metric,
    to_json,
)

FLOOR = {"value_threshold": {"lower_bound": 0.9}}
DROP = {"change_threshold": {"direction": "HIGHER_IS_BETTER", "absolute": -0.01}}


def config(*, specs=({"label_key": "label"},), metric=None, spec=None, slices=({},), **more):
    metrics_spec = {
        "metrics": [{"class_name": "AUC"}, {"class_name": "ExampleCount", **(metric or {})}],
        **(spec or {}),
    }
    document = {"model_specs": list(specs), "slicing_specs": list(slices), "metrics_specs": [metrics_spec], **more}
    return json_format.ParseDict(document, tfma.EvalConfig())


@pytest.mark.parametrize(
    "accepted",
    [
        config(metric={"threshold": FLOOR}),
        config(metric={"per_slice_thresholds": [{"slicing_specs": [{}], "threshold": DROP}]}),
        config(spec={"thresholds": {"auc": FLOOR}}),
        config(spec={"per_slice_thresholds": {"auc": {"thresholds": [{"slicing_specs": [{}], "threshold": DROP}]}}}),
        config(
            metric={
                "per_slice_thresholds": [{"slicing_specs": [{"feature_values": {"label": "3"}}], "threshold": DROP}]
            },
            slices=({}, {"feature_keys": ["label"]}),
        ),
    ],
)
def test_thresholds_may_be_given_everywhere_tfma_takes_them(accepted):
    check(accepted)
    assert from_json(to_json(accepted)) == accepted
    assert from_json(json.loads(to_json(accepted))) == accepted


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        (config(), "no threshold, so no variant could ever fail. Add one"),
        (config(metric={"threshold": {}}), "no threshold"),
        (config(metric={"threshold": {"value_threshold": {}}}), "'example_count' without a bound.*Set lower_bound"),
        (
            config(metric={"threshold": {"change_threshold": {"absolute": -0.1}}}),
            "without a direction. Set direction to HIGHER_IS_BETTER",
        ),
        (config(metric={"threshold": FLOOR}, spec={"thresholds": {"example_count": FLOOR}}), "a threshold twice"),
        (
            config(spec={"thresholds": {"accuracy": FLOOR}}),
            "'accuracy', which is not computed. Computed are: auc, exam",
        ),
        (
            config(metric={"per_slice_thresholds": [{"slicing_specs": [{"feature_keys": ["x"]}], "threshold": DROP}]}),
            "slices by x, but slicing_specs computes only: overall. Add the slice",
        ),
        (config(metric={"per_slice_thresholds": [{"threshold": DROP}]}), "slicing_specs must be set"),
        (config(specs=[{}], metric={"threshold": FLOOR}), "names no label_key. Set label_key"),
        (config(specs=[], metric={"threshold": FLOOR}), "0 model_specs"),
        (config(specs=[{"label_key": "y", "name": n} for n in "ab"], metric={"threshold": FLOOR}), "2 of them no base"),
    ],
)
def test_a_gate_that_cannot_work_is_refused(refused, message):
    with pytest.raises(EvalConfigError, match=message):
        to_json(refused)


def test_json_that_is_no_eval_config_is_refused():
    with pytest.raises(EvalConfigError, match=r"is not a tfma\.EvalConfig in JSON: .*metric_specs"):
        from_json('{"metric_specs": [], "thresholds": 1}')


def test_every_model_gets_the_candidates_spec_and_the_saved_model_is_the_baseline():
    specs = [
        {"name": "old", "is_baseline": True, "label_key": "other"},
        {"name": "new", "label_key": "label", "example_weight_key": "weight", "model_type": "tf_lite"},
    ]
    original = config(specs=specs, metric={"threshold": FLOOR}, spec={"model_names": ["new"]})
    expanded = expand(original, ["a", "b"])
    assert [(spec.name, spec.is_baseline) for spec in expanded.model_specs] == [
        ("saved_model", True),
        ("a", False),
        ("b", False),
    ]
    for spec in expanded.model_specs:
        assert (spec.label_key, spec.example_weight_key, spec.model_type) == ("label", "weight", "tf_generic")
    assert list(expanded.metrics_specs[0].model_names) == ["saved_model", "a", "b"]
    assert [spec.name for spec in original.model_specs] == ["old", "new"]


def test_without_variants_there_is_one_model_and_nothing_to_gate():
    expanded = expand(config(metric={"threshold": DROP}, spec={"thresholds": {"auc": FLOOR}}), [])
    assert [(spec.name, spec.is_baseline) for spec in expanded.model_specs] == [("saved_model", False)]
    assert not tfma.metrics.metric_thresholds_from_metrics_specs(expanded.metrics_specs, eval_config=expanded)


def test_thresholds_of_a_metrics_spec_gate_the_metric_they_name():
    by_slice = {"auc": {"thresholds": [{"slicing_specs": [{}], "threshold": DROP}]}}
    expanded = expand(config(spec={"thresholds": {"example_count": FLOOR}, "per_slice_thresholds": by_slice}), ["a"])
    thresholds = tfma.metrics.metric_thresholds_from_metrics_specs(expanded.metrics_specs, eval_config=expanded)
    computations = metric_specs.to_computations(list(expanded.metrics_specs), eval_config=expanded)
    computed = {key for computation in computations for key in computation.keys}
    gated = [key for key in thresholds if key.model_name == "a"]
    assert {key.name for key in gated} == {"auc", "example_count"}
    assert {key._replace(is_diff=False) for key in gated} <= computed


def test_the_features_that_the_config_reads_are_known():
    one = config(
        specs=[{"label_keys": {"a": "x", "b": "y"}, "example_weight_key": "w"}],
        slices=({}, {"feature_keys": ["country"]}, {"feature_values": {"x": "1"}}),
    )
    assert feature_keys(one) == {
        "x": "label_key",
        "y": "label_key",
        "w": "example_weight_key",
        "country": "slicing_specs",
    }


def test_gated_metrics_come_in_the_order_of_the_config():
    assert gated_metrics(config(metric={"threshold": FLOOR})) == ("example_count",)
    assert gated_metrics(evaluations.eval_config()) == ("sparse_categorical_accuracy",)


ACCURACY, COUNT = "sparse_categorical_accuracy", "example_count"
UPPER = {"value_threshold": {"upper_bound": 10}}
LOWER_CHANGE = {"change_threshold": {"direction": "LOWER_IS_BETTER", "absolute": 0.1}}
BOTH = {"value_threshold": {"lower_bound": 0, "upper_bound": 10}}


@pytest.mark.parametrize(
    ("threshold", "expected"),
    [
        (FLOOR, True),
        (UPPER, False),
        (LOWER_CHANGE, False),
        ({**FLOOR, **LOWER_CHANGE}, False),
        (BOTH, None),
    ],
    ids=["lower bound", "upper bound", "change", "the change counts first", "both bounds"],
)
def test_quality_takes_its_direction_from_the_threshold(threshold, expected):
    found = quality_metric(config(metric={"threshold": threshold}))
    assert found == (None if expected is None else (COUNT, expected))


def test_quality_is_the_first_gated_metric_with_a_direction():
    assert quality_metric(evaluations.eval_config(drop=0.1)) == (ACCURACY, True)
    document = json_format.MessageToDict(evaluations.eval_config(drop=0.1), preserving_proto_field_name=True)
    metrics = document["metrics_specs"][0]["metrics"]
    metrics[0]["threshold"] = BOTH
    assert quality_metric(from_json(document)) == (ACCURACY, True)
    metrics[0]["threshold"] = UPPER
    assert quality_metric(from_json(document)) == (COUNT, False)
    assert gated_metrics(from_json(document)) == (COUNT, ACCURACY)


@pytest.mark.parametrize("variants", [["a", "b"], []])
def test_the_model_in_production_gets_the_metrics_and_no_threshold(variants):
    expanded = expand(config(metric={"threshold": FLOOR}, spec={"thresholds": {"auc": DROP}}), variants, True)
    assert [(spec.name, spec.is_baseline) for spec in expanded.model_specs] == [
        ("saved_model", True),
        *((name, False) for name in variants),
        ("production", False),
    ]
    tfma.utils.verify_eval_config(expanded)
    gated = tfma.metrics.metric_thresholds_from_metrics_specs(expanded.metrics_specs, eval_config=expanded)
    assert {key.model_name for key in gated} - {"saved_model"} == set(variants)
    keys = [
        key for c in metric_specs.to_computations(list(expanded.metrics_specs), eval_config=expanded) for key in c.keys
    ]
    for name in (*variants, "production"):
        assert {"auc", "example_count"} <= {key.name for key in keys if key.model_name == name and not key.is_diff}
