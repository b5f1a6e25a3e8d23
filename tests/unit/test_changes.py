"""Samples and limits in, outcomes and verdicts out."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes import evaluations
from tests.fakes.changes import ACCURACY, drop, eval_config, missed_by_tfma, models_of, sample, slice_key
from tfx_mobile.quantization_evaluator.judging import thresholds
from tfx_mobile.quantization_evaluator.judging.changes import compare
from tfx_mobile.quantization_evaluator.judging.costs import Measured
from tfx_mobile.quantization_evaluator.judging.gates import judge
from tfx_mobile.quantization_evaluator.judging.reasons import find
from tfx_mobile.records import Budget, Confidence

OVERALL = ({}, drop(-0.05))
BY_LABEL = ({"feature_keys": ["label"]}, drop(-0.05))

# gained, lost, num_examples of a change whose limit is -0.05
PASSES, FAILS = (2, 3, 400), (0, 60, 400)
LOOKS_GOOD, LOOKS_BAD = (0, 0, 30), (0, 3, 30)


def compared(samples, config, confidence=None, models=None, missed=None):
    names = list(dict.fromkeys(one.slice for one in samples)) if models is None else None
    slices = names or [entry.slice for entry in models[0].slices]
    return compare(
        samples,
        models or models_of(samples),
        thresholds.read(config),
        {name: slice_key(name) for name in slices},
        missed_by_tfma(samples, config) if missed is None else missed,
        max((one.num_examples or 0 for one in samples), default=500),
        confidence or Confidence(),
    )


def judged(samples, config=None, models=None, missed=None, **confidence):
    config = config or eval_config(OVERALL)
    confidence = Confidence(**confidence)
    missed = missed_by_tfma(samples, config) if missed is None else missed
    comparison = compared(samples, config, confidence, models, missed)
    (verdict,) = judge(
        variants=evaluations.manifest_of({"int8": b"i" * 100}).variants,
        failures={},
        findings=find(missed, comparison, models or models_of(samples), confidence),
        not_finite={},
        num_examples=500,
        budget=Budget(),
        measured=Measured(ran=frozenset({"int8"})),
        undecided=confidence.undecided,
    )
    assert verdict.passed == (not verdict.reasons)
    return verdict, comparison.changes


def without_interval(one):
    return dataclasses.replace(one, gained=None, lost=None)


def codes(findings):
    return [finding.code for finding in findings]


@pytest.mark.parametrize(
    ("counts", "undecided", "outcome", "reasons", "cautions"),
    [
        (PASSES, "warn", "pass", [], []),
        (PASSES, "block", "pass", [], []),
        (FAILS, "warn", "fail", ["threshold"], []),
        (FAILS, "block", "fail", ["threshold"], []),
        (LOOKS_GOOD, "warn", "insufficient_data", [], ["insufficient_data"]),
        (LOOKS_GOOD, "block", "insufficient_data", ["insufficient_data"], []),
        (LOOKS_BAD, "warn", "insufficient_data", ["threshold"], []),
        (LOOKS_BAD, "block", "insufficient_data", ["insufficient_data"], []),
    ],
)
@pytest.mark.parametrize("reference", ["saved_model", "production"])
def test_the_outcome_and_the_policy_decide(counts, undecided, outcome, reasons, cautions, reference):
    samples = [sample("overall", *counts, reference=reference)]
    if reference == "production":  # while the variant equals the float model on enough examples
        samples.append(without_interval(sample("overall", 0, 0, counts[2])))
        models = (*models_of(samples[1:]), *models_of(samples[:1])[:1])
        missed = {"int8": ()}
    else:
        models = missed = None
    verdict, changes = judged(samples, models=models, missed=missed, undecided=undecided)
    (change,) = [change for change in changes if change.reference == reference]
    assert (change.gate, change.limit, change.outcome) == ("change_threshold", -0.05, outcome)
    assert change.method == "tango"
    assert change.lower <= change.change <= change.upper
    expected = ["worse_than_production" if c == "threshold" and reference == "production" else c for c in reasons]
    assert codes(verdict.reasons) == expected
    assert codes(verdict.cautions) == cautions


def test_a_failed_limit_says_how_sure_it_is():
    verdict, _ = judged([sample("label:3", *FAILS)], eval_config(BY_LABEL))
    assert verdict.reasons[0].message == (
        "sparse_categorical_accuracy is 0.6000 on slice label:3 and 0.7500 for the float model, a change of -0.1500; "
        "required: change >= -0.05. The 95 % confidence interval of the change is -0.1883 to -0.1183 on 400 examples."
    )


def test_an_undecided_limit_says_how_many_examples_would_decide():
    verdict, (change,) = judged([sample("label:3", *LOOKS_GOOD)], eval_config(BY_LABEL))
    (caution,) = verdict.cautions
    assert change.examples_needed == 73  # z^2 (1 - 0.05) / 0.05
    assert caution.message == (
        "sparse_categorical_accuracy changes by +0.0000 against the float model on slice label:3; required: change >= "
        "-0.05. The data do not decide: the 95 % confidence interval of the change is -0.1135 to +0.1135 on 30 "
        "examples; about 73 would decide."
    )
    assert (caution.metric, caution.slice, caution.value, caution.limit) == (ACCURACY, "label:3", 0, "change >= -0.05")
    rejected, _ = judged([sample("label:3", *LOOKS_BAD)], eval_config(BY_LABEL))
    assert rejected.reasons[0].limit == "change >= -0.05"
    assert "required: change >= -0.05. The data do not decide: the 95 % confidence" in rejected.reasons[0].message


def test_worse_than_production_is_said_so():
    samples = [sample("overall", *PASSES), sample("overall", *FAILS, reference="production", value=0.6)]
    verdict, _ = judged(samples)
    (reason,) = verdict.reasons
    assert reason.code == "worse_than_production"
    assert reason.message.startswith(
        "sparse_categorical_accuracy is worse than that of the model in production over all examples: it changes by "
        "-0.1500; required: change >= -0.05. The 95 % confidence interval"
    )


@pytest.mark.parametrize(("counts", "reasons"), [(PASSES, []), (FAILS, ["threshold"])])
@pytest.mark.parametrize("collected", [True, False])
def test_without_an_interval_tfmas_point_verdict_stands(counts, reasons, collected):
    samples = [without_interval(sample("overall", *counts))]
    config = eval_config(OVERALL)
    missed, models = missed_by_tfma(samples, config), models_of(samples)
    verdict, (change,) = judged(samples if collected else [], config, models, missed, undecided="block")
    assert codes(verdict.reasons) == reasons
    assert verdict.cautions == ()
    assert (change.outcome, change.method, change.lower) == (None, None, None)
    assert change.change == pytest.approx((counts[0] - counts[1]) / 400)
    assert (change.num_examples, change.limit) == (400 if collected else 500, -0.05)


@pytest.mark.parametrize(("counts", "reasons"), [(PASSES, []), (FAILS, ["worse_than_production"])])
def test_without_an_interval_production_is_compared_by_values(counts, reasons):
    samples = [sample("overall", *counts, reference="production"), sample("overall", 0, 0, 400)]
    samples = [samples[1], dataclasses.replace(samples[0])]
    by_values = models_of(samples)
    production = next(model for model in by_values if model.model == "production")
    own = next(model for model in models_of(samples[1:]) if model.model == "int8")
    models = (by_values[0], own, production)
    verdict, changes = judged([], None, models, {"int8": ()})
    assert [change.reference for change in changes] == ["saved_model", "production"]
    assert codes(verdict.reasons) == reasons


def test_a_sample_that_cannot_have_an_interval_is_undecided():
    one = dataclasses.replace(without_interval(sample("overall", 0, 0, 1)), replicates=np.zeros(400))
    verdict, (change,) = judged([one])
    assert (change.outcome, change.lower, change.examples_needed) == ("insufficient_data", None, None)
    assert verdict.cautions[0].message.endswith(
        "The data do not decide: the change has no confidence interval on 1 example."
    )
    blocked, _ = judged([one], undecided="block")
    assert codes(blocked.reasons) == ["insufficient_data"]


@pytest.mark.parametrize("floor", [False, True])
def test_slices_with_too_few_examples_do_not_gate(floor):
    threshold = {"value_threshold": {"lower_bound": 0.7}} if floor else drop(-0.05)
    samples = [
        sample("overall", *PASSES),
        sample("label:1", *PASSES),
        *(sample(f"label:{i}", 0, 9, 9) for i in range(2, 9)),
    ]
    config = eval_config(OVERALL, ({"feature_keys": ["label"]}, threshold))
    missed = missed_by_tfma(samples, config)
    assert {rejection.slice for rejection in missed["int8"]} == {f"label:{i}" for i in range(2, 9)}
    verdict, changes = judged(samples, config, undecided="block", min_slice_examples=10)
    assert verdict.passed
    (caution,) = verdict.cautions
    assert caution.code == "insufficient_data"
    assert caution.message == (
        "The limits on sparse_categorical_accuracy were not checked on label:2 (9); label:3 (9); label:4 (9); label:5 "
        "(9); label:6 (9) and 2 more slices: fewer than 10 examples."
    )
    if not floor:
        small = [change for change in changes if change.num_examples == 9]
        assert {change.outcome for change in small} == {"insufficient_data"}
        assert {change.examples_needed for change in small} == {10}
    assert not judged(samples, config, min_slice_examples=9)[0].passed


@pytest.mark.parametrize("undecided", ["warn", "block"])
@pytest.mark.parametrize(
    ("samples", "config", "slices"),
    [
        ([sample("overall", 0, 0, 20)], eval_config(OVERALL), "overall"),
        (
            [sample("overall", *PASSES), sample("label:1", 0, 0, 9), sample("label:2", 0, 0, 8)],
            eval_config(OVERALL, BY_LABEL),
            "label:1; label:2",
        ),
        (
            [sample("overall", *PASSES), sample("label:1", 0, 0, 9)],
            eval_config(OVERALL, ({"feature_keys": ["label"]}, {"value_threshold": {"lower_bound": 0.5}})),
            "label:1",
        ),
    ],
)
def test_a_gate_without_a_slice_of_enough_examples_was_never_checked(undecided, samples, config, slices):
    verdict, _ = judged(samples, config, undecided=undecided, min_slice_examples=30)
    assert codes(verdict.reasons) == ["insufficient_data"]
    assert verdict.reasons[0].message == (
        f"sparse_categorical_accuracy has a limit on {slices}, but fewer than 30 examples on each: the gate was never "
        "checked."
    )
    assert verdict.cautions == ()


def many_slices(rng, num_slices, num_examples, share_lost, harmed=None):
    samples = [sample("overall", *PASSES)]
    for label in range(num_slices):
        lost = rng.binomial(num_examples, 0.5 if label == harmed else share_lost)
        samples.append(sample(f"label:{label}", int(rng.binomial(num_examples, share_lost)), int(lost), num_examples))
    return samples


def test_the_worst_of_many_harmless_slices_does_not_fail_by_chance():
    rng = np.random.default_rng(1)
    for _ in range(5):
        for num_examples in (5, 40):
            samples = many_slices(rng, 100, num_examples, share_lost=0.02)
            assert min(one.value for one in samples) <= 0.75 - 0.05  # one looks far off
            verdict, _ = judged(samples, missed={"int8": ()}, worst_slice={ACCURACY: 0.04})
            assert verdict.passed
            assert codes(verdict.cautions) == ["insufficient_data"]


def test_a_harmed_slice_among_many_is_found_and_named():
    samples = many_slices(np.random.default_rng(2), 100, 60, share_lost=0.01, harmed=42)
    verdict, changes = judged(samples, worst_slice={ACCURACY: 0.05})
    (reason,) = verdict.reasons
    assert (reason.code, reason.slice, reason.metric) == ("worst_slice", "label:42", ACCURACY)
    assert "on slice label:42, the worst of 100: it changes by" in reason.message
    assert "The 99.95 % confidence interval" in reason.message
    worst = [change for change in changes if change.gate == "worst_slice"]
    assert len(worst) == 100
    assert [change.slice for change in worst if change.outcome == "fail"] == ["label:42"]
    assert [change.level for change in worst] == pytest.approx([0.9995] * 100)


def test_the_worst_slice_passes_if_every_slice_does_and_leaves_out_small_ones():
    samples = [sample("overall", *PASSES), sample("label:0", 1, 1, 2000), sample("label:1", 0, 3, 5)]
    verdict, changes = judged(samples, worst_slice={ACCURACY: 0.02}, undecided="block", min_slice_examples=30)
    assert verdict.passed
    assert codes(verdict.cautions) == ["insufficient_data"]
    big = next(change for change in changes if change.slice == "label:0" and change.gate == "worst_slice")
    assert (big.outcome, big.level) == ("pass", 0.95)  # widened for one slice
    blocked, _ = judged(samples, worst_slice={ACCURACY: 0.02}, undecided="block")
    assert codes(blocked.reasons) == ["insufficient_data"]
    assert "label:1, the worst of 2: it changes by -0.6000" in blocked.reasons[0].message
    never, _ = judged([samples[0], samples[2]], worst_slice={ACCURACY: 0.02}, min_slice_examples=30)
    assert "label:1, but fewer than 30 examples on each: the gate was never checked" in never.reasons[0].message


def test_the_worst_slice_without_intervals_is_judged_by_values():
    samples = [sample("overall", *PASSES), without_interval(sample("label:0", 0, 1, 10))]
    verdict, _ = judged(samples, worst_slice={ACCURACY: 0.05})
    assert codes(verdict.reasons) == ["worst_slice"]
    assert judged(samples, worst_slice={ACCURACY: 0.2})[0].passed


def test_a_relative_limit_is_in_the_metrics_units():
    config = eval_config(({}, drop(relative=-0.1)))
    (change,) = compared([sample("overall", *PASSES, reference_value=0.5)], config).changes
    assert (change.limit, change.outcome) == (pytest.approx(-0.05), "pass")
    (tighter,) = compared([sample("overall", *PASSES, reference_value=0.1)], config).changes
    assert (tighter.limit, tighter.outcome) == (pytest.approx(-0.01), "insufficient_data")


def test_a_share_of_a_reference_that_is_not_positive_is_left_to_tfma():
    config = eval_config(({}, drop(relative=-0.1)))
    samples = [sample("overall", 0, 0, 400, reference_value=0.0)]
    verdict, (change,) = judged(samples, config)
    assert (change.limit, change.outcome) == (None, None)
    assert codes(verdict.reasons) == ["threshold"]  # TFMA's ratio has no value, which misses any limit
    against, _ = judged(
        [sample("overall", *PASSES), dataclasses.replace(samples[0], reference="production")], config, undecided="block"
    )
    assert "insufficient_data" in codes(against.reasons)


def test_losses_fail_upwards():
    config = eval_config(({}, drop(0.05, direction="LOWER_IS_BETTER")))
    up, down = (
        compared([sample("overall", gained, lost, 400, reference_value=0.3)], config).changes[0]
        for gained, lost in ((60, 0), (0, 60))
    )
    assert (up.outcome, down.outcome) == ("fail", "pass")
    assert (up.limit, up.higher_is_better) == (0.05, False)


def test_values_that_are_not_finite_are_missed_as_tfma_has_it():
    verdict, (change,) = judged([sample("overall", 0, 0, 50, value=math.nan)])
    assert codes(verdict.reasons) == ["threshold"]
    assert (change.change, change.outcome) == (None, None)


def test_what_nothing_limits_has_an_interval_and_no_outcome():
    (change,) = compared([sample("label:1", *FAILS)], eval_config(OVERALL)).changes
    assert (change.gate, change.limit, change.outcome, change.method) == (None, None, None, "tango")
    assert change.upper < 0


def test_changes_come_by_variant_reference_metric_and_slice():
    samples = [
        sample(where, *PASSES, variant=variant, reference=reference)
        for where in ("overall", "label:2", "label:10")
        for reference in ("saved_model", "production")
        for variant in ("b", "a")
    ]
    config = eval_config(OVERALL, BY_LABEL)
    missed = {"b": (), "a": ()}
    worst = Confidence(worst_slice={ACCURACY: 0.1})
    found = compared(samples, config, worst, missed=missed).changes
    assert found == compared(samples, config, worst, missed=missed).changes
    threshold, both = ("change_threshold",), ("change_threshold", "worst_slice")
    assert [(c.variant, c.reference, c.slice, c.gate) for c in found] == [
        (variant, reference, where, gate)
        for variant in ("b", "a")
        for reference in ("saved_model", "production")
        for where, gates in (("overall", threshold), ("label:2", both), ("label:10", both))
        for gate in gates
    ]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 300),
    st.data(),
    st.sampled_from([-0.1, -0.05, -0.02, 0.0, 0.02]),
    st.sampled_from(["HIGHER_IS_BETTER", "LOWER_IS_BETTER"]),
    st.sampled_from([0.5, 0.8, 0.95, 0.999]),
)
def test_an_outcome_never_contradicts_tfmas_point_verdict(n, data, limit, direction, level):
    gained = data.draw(st.integers(0, n))
    lost = data.draw(st.integers(0, n - gained))
    config = eval_config(({}, drop(limit, direction=direction)))
    samples = [sample("overall", gained, lost, n)]
    missed = missed_by_tfma(samples, config)
    (change,) = compared(samples, config, Confidence(level=level), missed=missed).changes
    if change.outcome == "pass":
        assert not missed["int8"]
    elif change.outcome == "fail":
        assert missed["int8"]
    else:
        assert change.lower <= limit <= change.upper


def test_where_only_rounding_disagrees_nothing_is_decided():
    samples = [sample("overall", *PASSES)]
    config = eval_config(OVERALL)
    (missed,) = missed_by_tfma([sample("overall", *FAILS)], config)["int8"]
    verdict, (change,) = judged(samples, config, missed={"int8": (missed,)})
    assert change.outcome == "insufficient_data"
    assert not verdict.passed
