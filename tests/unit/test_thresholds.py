"""The limits an EvalConfig sets, and where."""

import math

import pytest
import tensorflow_model_analysis as tfma
from google.protobuf import json_format

from tfx_mobile import QuantizationEvaluator
from tfx_mobile.errors import EvalConfigError
from tfx_mobile.quantization_evaluator.judging.thresholds import (
    Limit,
    change_limits,
    check_worst_slice,
    read,
    worst_slice_limits,
)
from tfx_mobile.records import Confidence

SLICES = [{}, {"feature_keys": ["label"]}, {"feature_keys": ["label", "country"]}]


def drop(absolute=None, relative=None, direction="HIGHER_IS_BETTER"):
    bounds = {"absolute": absolute, "relative": relative}
    return {"change_threshold": {"direction": direction, **{k: v for k, v in bounds.items() if v is not None}}}


def config(*per_slice, plain=None, slices=SLICES, metric="SparseCategoricalAccuracy", **spec):
    entry = {
        "class_name": metric,
        "per_slice_thresholds": [{"slicing_specs": [where], "threshold": threshold} for where, threshold in per_slice],
    }
    if plain:
        entry["threshold"] = plain
    document = {
        "model_specs": [{"label_key": "label"}],
        "slicing_specs": list(slices),
        "metrics_specs": [{"metrics": [entry, {"class_name": "MeanLabel"}], **spec}],
    }
    return json_format.ParseDict(document, tfma.EvalConfig())


METRIC = "sparse_categorical_accuracy"


def limits_on(eval_config, *key, reference=0.9, metric=METRIC):
    return change_limits(read(eval_config), metric, key, reference)


def test_a_plain_threshold_limits_every_slice():
    plain = config(plain=drop(-0.02))
    assert limits_on(plain) == limits_on(plain, ("label", 3)) == (Limit(-0.02, True),)
    assert limits_on(plain, metric="mean_label") == ()


def test_a_threshold_for_slices_limits_those():
    sliced = config(
        ({}, drop(-0.02)), ({"feature_keys": ["label"]}, drop(-0.06)), ({"feature_values": {"label": "3"}}, drop(-0.04))
    )
    assert limits_on(sliced) == (Limit(-0.02, True),)
    assert limits_on(sliced, ("label", 2)) == (Limit(-0.06, True),)
    assert limits_on(sliced, ("label", 3)) == (Limit(-0.04, True),)  # the tightest of two
    assert limits_on(sliced, ("label", "3")) == (Limit(-0.04, True),)
    assert limits_on(sliced, ("country", "de"), ("label", 3)) == ()


def test_the_tightest_limit_counts_also_of_an_absolute_and_a_relative_one():
    assert limits_on(config(({}, drop(-0.02, -0.01)))) == (Limit(pytest.approx(-0.009), True),)
    assert limits_on(config(({}, drop(-0.005, -0.01)))) == (Limit(-0.005, True),)
    rising = drop(0.05, 0.5, "LOWER_IS_BETTER")
    assert limits_on(config(({}, rising)), reference=0.02) == (Limit(pytest.approx(0.01), False),)


@pytest.mark.parametrize("reference", [0.0, -3.0, math.nan])
def test_a_share_of_nothing_is_no_limit(reference):
    assert limits_on(config(({}, drop(relative=-0.05))), reference=reference) == (Limit(None, True),)
    assert limits_on(config(({}, drop(-0.1))), reference=reference) == (Limit(-0.1, True),)


def test_both_directions_may_be_limited():
    both = config(({}, drop(-0.02)), ({}, drop(0.03, direction="LOWER_IS_BETTER")))
    assert set(limits_on(both)) == {Limit(-0.02, True), Limit(0.03, False)}


def test_value_and_cross_slice_thresholds_limit_no_change():
    cross = {"cross_slicing_specs": [{"baseline_spec": {}, "slicing_specs": [{"feature_keys": ["label"]}]}]}
    document = config(({}, {"value_threshold": {"lower_bound": 0.9}}))
    json_format.ParseDict(
        {"cross_slice_thresholds": [{**cross, "threshold": drop(-0.1)}]}, document.metrics_specs[0].metrics[0]
    )
    json_format.ParseDict({"cross_slicing_specs": cross["cross_slicing_specs"]}, document)
    assert limits_on(document) == limits_on(document, ("label", 1)) == ()
    value, across = read(document)
    assert (value.is_change, value.applies_to(()), value.applies_to((("label", 1),))) == (False, True, False)
    assert not across.applies_to(())


@pytest.mark.parametrize(
    ("higher", "value", "met", "missed"), [(True, -0.02, (-0.02, 0.1), (-0.021,)), (False, 0.02, (0.02, -1), (0.03,))]
)
def test_a_limit_is_met_on_its_good_side(higher, value, met, missed):
    limit = Limit(value, higher)
    assert all(map(limit.is_met, met))
    assert not any(map(limit.is_met, (*missed, math.nan)))


def test_the_worst_slice_has_the_direction_of_the_change_threshold():
    losses = config(({}, drop(0.01, direction="LOWER_IS_BETTER")))
    assert worst_slice_limits(read(losses), {METRIC: 0.1}) == {METRIC: Limit(0.1, False)}
    assert worst_slice_limits(read(config(({}, drop(-0.01)))), {METRIC: 0.1}) == {METRIC: Limit(-0.1, True)}


def test_the_worst_slice_may_be_named_with_or_without_its_output():
    limits = read(config(({}, drop(-0.01)), output_names=["a", "b"]))
    assert set(worst_slice_limits(limits, {METRIC: 0.1})) == {f"a/{METRIC}", f"b/{METRIC}"}
    assert set(worst_slice_limits(limits, {f"b/{METRIC}": 0.1})) == {f"b/{METRIC}"}


@pytest.mark.parametrize(
    ("refused", "worst_slice", "message"),
    [
        (config(({}, drop(-0.01))), {"auc": 0.1}, f"'auc', which has no change threshold.*threshold: {METRIC}. Name"),
        (config(({}, drop(-0.01))), {"mean_label": 0.1}, "'mean_label', which has no change threshold"),
        (
            config(({}, drop(-0.02)), ({}, drop(0.03, direction="LOWER_IS_BETTER"))),
            {METRIC: 0.1},
            "has change thresholds in both directions",
        ),
        (config(({}, drop(-0.01)), slices=[{}]), {METRIC: 0.1}, "but eval_config has none. Add slicing_specs such as"),
    ],
)
def test_a_worst_slice_that_cannot_be_judged_is_refused_while_the_pipeline_is_defined(refused, worst_slice, message):
    with pytest.raises(EvalConfigError, match=message):
        check_worst_slice(refused, worst_slice)
    confidence = Confidence(worst_slice=worst_slice)
    ports = dict.fromkeys(("examples", "model", "variants"))
    with pytest.raises(EvalConfigError, match=message):
        QuantizationEvaluator(**ports, eval_config=refused, confidence=confidence)


@pytest.mark.parametrize("amount", [0, -0.1, math.inf, math.nan])
def test_an_amount_that_is_no_tolerance_is_refused(amount):
    with pytest.raises(ValueError, match="worst_slice"):
        Confidence(worst_slice={METRIC: amount})
