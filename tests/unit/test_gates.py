"""Verdicts and reasons, from validation results as TFMA writes them."""

import pytest
import tensorflow_model_analysis as tfma
from google.protobuf import json_format

from tests.fakes import evaluations
from tfx_mobile.quantization_evaluator.judging.changes import Comparison
from tfx_mobile.quantization_evaluator.judging.costs import Measured
from tfx_mobile.quantization_evaluator.judging.gates import judge, rejections, split_errors, with_cautions
from tfx_mobile.quantization_evaluator.judging.reasons import find
from tfx_mobile.records import Budget, Confidence, Failure, ModelMetrics, Reason, SliceMetrics

FILES = {"float32": b"f" * 300, "integer_only_int8": b"i" * 100, "integer_only_uint8": b"u" * 100}
VARIANTS = evaluations.manifest_of(FILES).variants


def metrics(name, **slices):
    entries = [SliceMetrics(slice=s.replace("_", ":"), metrics={"accuracy": v}) for s, v in slices.items()]
    return ModelMetrics(model=name, slices=tuple(entries))


MODELS = (
    metrics("saved_model", overall=0.9, label_3=0.8),
    metrics("float32", overall=0.91, label_3=0.8),
    metrics("integer_only_int8", overall=0.7, label_3=0.5),
)


def validation(*failures, **more):
    """Failures are (slice keys, model, value, threshold)."""
    per_slice = []
    for keys, model, value, threshold in failures:
        failure = {"metric_key": {"name": "accuracy", "model_name": model}, "metric_threshold": threshold}
        if value is not None:
            failure["metric_value"] = {"double_value": value}
        per_slice.append({"slice_key": {"single_slice_keys": keys}, "failures": [failure]})
    document = {"metric_validations_per_slice": per_slice, **more}
    return json_format.ParseDict(document, tfma.proto.validation_result_pb2.ValidationResult())


def verdict_of(result, **changes):
    missed = rejections(result, ["float32", "integer_only_int8"])
    arguments = dict(
        variants=VARIANTS,
        failures={},
        findings=find(missed, Comparison(), MODELS, Confidence()),
        not_finite={},
        num_examples=50,
        budget=Budget(),
        measured=Measured(ran=frozenset(FILES)),
        undecided="warn",
    )
    return {verdict.variant: verdict for verdict in judge(**{**arguments, **changes})}


DROP = {"change_threshold": {"direction": "HIGHER_IS_BETTER", "absolute": -0.02, "relative": -0.05}}


def test_a_missed_change_names_metric_slice_both_values_and_limit():
    result = validation(([{"column": "label", "int64_value": 3}], "integer_only_int8", -0.3, DROP))
    verdicts = verdict_of(result)
    assert verdicts["float32"].passed
    assert not verdicts["integer_only_int8"].passed
    (reason,) = verdicts["integer_only_int8"].reasons
    assert reason.code == "threshold"
    assert reason.message == (
        "accuracy is 0.5000 on slice label:3 and 0.8000 for the float model, a change of -0.3000; "
        "required: change >= -0.02 and relative change >= -0.05."
    )
    assert (reason.metric, reason.slice, reason.value) == ("accuracy", "label:3", -0.3)


@pytest.mark.parametrize(
    ("threshold", "limit"),
    [
        ({"value_threshold": {"lower_bound": 0.9}}, ">= 0.9"),
        ({"value_threshold": {"upper_bound": 0.1}}, "<= 0.1"),
        ({"value_threshold": {"lower_bound": 0.2, "upper_bound": 0.3}}, ">= 0.2 and <= 0.3"),
        ({"change_threshold": {"direction": "LOWER_IS_BETTER", "absolute": 0.01}}, "change <= +0.01"),
    ],
)
def test_the_limit_is_in_words(threshold, limit):
    (reason,) = verdict_of(validation(([], "float32", 0.7, threshold)))["float32"].reasons
    assert reason.limit == limit
    assert reason.slice == "overall"
    assert reason.message.endswith(f"required: {limit}.")


def test_a_metric_that_was_not_computed_on_a_slice_is_said_so():
    keys = [{"column": "label", "int64_value": 4}, {"column": "country", "bytes_value": "ZGU="}]
    (reason,) = verdict_of(validation((keys, "float32", None, DROP)))["float32"].reasons
    assert reason.message.startswith("accuracy was not computed on slice label:4, country:de; required: ")
    assert reason.value is None


def test_a_value_that_is_not_finite_can_be_written_as_json():
    (reason,) = verdict_of(validation(([], "float32", "NaN", {"value_threshold": {"lower_bound": 0.9}})))[
        "float32"
    ].reasons
    assert reason.message == "accuracy is not a finite number over all examples; required: >= 0.9."
    assert reason.to_json()


def test_a_gated_slice_without_examples_counts_against_every_variant():
    verdicts = verdict_of(validation(missing_slices=[{"feature_values": {"label": "12"}}]))
    for name in ("float32", "integer_only_int8"):
        (reason,) = verdicts[name].reasons
        assert reason.code == "missing_slice"
        assert 'key: "label" value: "12"' in reason.message


def test_reasons_come_overall_first_then_in_the_order_of_slices():
    keys = [[{"column": "label", "int64_value": value}] for value in (10, 9)]
    result = validation(*((key, "float32", -0.1, DROP) for key in (*keys, [])))
    reasons = verdict_of(result)["float32"].reasons
    assert [reason.slice for reason in reasons] == ["overall", "label:9", "label:10"]


def test_failures_budget_and_lost_values_are_reasons_too():
    failure = Failure(code="corrupt", message="Truncated.", advice="Convert again.")
    verdicts = verdict_of(
        validation(),
        failures={"integer_only_uint8": failure},
        not_finite={"integer_only_int8": 2},
        budget=Budget(max_size_bytes=299),
    )
    assert {name: [reason.code for reason in v.reasons] for name, v in verdicts.items()} == {
        "float32": ["budget"],
        "integer_only_int8": ["not_finite"],
        "integer_only_uint8": ["corrupt"],
    }
    assert verdicts["integer_only_uint8"].reasons[0].message == "Truncated. Convert again."
    assert verdicts["float32"].reasons[0].message == "The file has 300 bytes; required: <= 299."
    assert verdicts["integer_only_int8"].reasons[0].message.startswith("2 of 50 examples")
    assert verdicts["float32"].sha256 == VARIANTS[0].file.sha256


def test_a_file_of_exactly_the_budget_passes():
    assert verdict_of(validation(), budget=Budget(max_size_bytes=300))["float32"].passed


def test_what_cannot_be_checked_is_a_caution_or_blocks():
    budget = Budget(max_min_runtime="2.10")
    verdict = verdict_of(validation(), budget=budget)["float32"]
    assert (verdict.passed, [caution.code for caution in verdict.cautions]) == (True, ["not_verified"])
    verdict = verdict_of(validation(), budget=budget, undecided="block")["float32"]
    assert (verdict.passed, verdict.cautions, [reason.code for reason in verdict.reasons]) == (
        False,
        (),
        ["not_verified"],
    )


def test_cautions_are_added_to_the_verdict_they_are_about():
    verdicts = tuple(verdict_of(validation(), budget=Budget(max_min_runtime="2.10")).values())
    caution = Reason(code="objective", message="No latency.")
    first, second, _ = with_cautions(verdicts, {"float32": [caution]})
    assert [c.code for c in first.cautions] == ["not_verified", "objective"]
    assert [c.code for c in second.cautions] == ["not_verified"]


def test_errors_are_split_at_the_float32_variant():
    splits = split_errors(VARIANTS, MODELS)
    assert [split.variant for split in splits] == ["float32", "integer_only_int8"]
    accuracy = splits[1].metrics["accuracy"]
    assert accuracy.conversion == pytest.approx(0.01)
    assert accuracy.quantization == pytest.approx(-0.21)
    assert split_errors(VARIANTS, (MODELS[0], MODELS[2])) is None
