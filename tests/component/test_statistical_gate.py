"""How sure the gate is: the real executor on a variant that is harmed on one slice, and on few examples."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from tests.fakes import evaluations, models
from tfx_mobile.artifact_io import saved_model_sha256
from tfx_mobile.errors import EvalConfigError
from tfx_mobile.quantization_evaluator.eval_config import to_json
from tfx_mobile.quantization_evaluator.judging.intervals import tango
from tfx_mobile.records import Confidence, EvaluationRecord

ACCURACY, ENTROPY = "sparse_categorical_accuracy", "sparse_categorical_crossentropy"
ROWS = models.rows(300, seed=2)
TINY = ROWS[:12]
HARMED = 2


def harmed_on_one_label(root: Path) -> bytes:
    """The same network, but one class has to be nearly certain to be chosen."""
    network = models.raw_network()
    layer = network.get_layer(models.OUTPUT)
    kernel, bias = layer.get_weights()
    logits = np.log(network.predict(models.images(ROWS), verbose=0) + 1e-30)
    margins = logits[:, HARMED] - np.delete(logits, HARMED, axis=1).max(axis=1)
    bias[HARMED] -= np.median(margins[[row["label"] == HARMED for row in ROWS]])
    layer.set_weights([kernel, bias])
    network.export(str(root), format="tf_saved_model", verbose=False)
    return evaluations.convert(root, "float32")


class World:
    def __init__(self, root: Path) -> None:
        self.saved_model = root / "model" / "Format-Serving"
        models.save_raw_model(self.saved_model)
        assert saved_model_sha256(str(self.saved_model))
        self.model = models.model_artifact(root / "model")
        self.examples = models.write_examples(root / "examples", {"eval": ROWS, "tiny": TINY})
        self.files = {
            "float32": evaluations.convert(self.saved_model, "float32"),
            "harmed": harmed_on_one_label(root / "harmed"),
        }

    def run(self, root: Path, config=None, *, split="eval", names=("float32", "harmed"), **confidence):
        inputs = {
            "examples": self.examples,
            "model": self.model,
            "variants": evaluations.write_variants(
                root / "variants", {name: self.files[name] for name in names}, self.saved_model
            ),
        }
        properties = {
            "eval_config": to_json(config or evaluations.eval_config(drop=0.05, slice_drop=0.06)),
            "example_splits": json.dumps([split]),
            "confidence": json.dumps(confidence),
        }
        outputs = evaluations.execute(inputs, properties, root)
        return EvaluationRecord.read(Path(outputs["evaluation"].uri) / "record.json")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def record(world, tmp_path_factory):
    return world.run(tmp_path_factory.mktemp("record"), worst_slice={ACCURACY: 0.2})


def change_of(record, variant, where, *, metric=ACCURACY, gate="change_threshold"):
    (change,) = [
        change
        for change in record.changes
        if (change.variant, change.slice, change.metric, change.gate) == (variant, where, metric, gate)
    ]
    return change


def test_a_variant_harmed_on_one_slice_fails_with_the_interval_in_the_record(record):
    where = f"label:{HARMED}"
    change = change_of(record, "harmed", where)
    assert (change.outcome, change.method, change.limit) == ("fail", "tango", -0.06)
    assert (change.num_examples, change.level) == (100, 0.95)
    lost = round(-change.change * 100)
    assert lost > 20
    # No example of this label is gained by making the label less likely.
    assert (change.lower, change.upper) == pytest.approx(tango(0, lost, 100, 0.95), abs=1e-6)
    reasons = record.verdict("harmed").reasons
    (reason,) = [r for r in reasons if r.slice == where and r.code == "threshold"]
    assert f"confidence interval of the change is {change.lower:+.4f} to {change.upper:+.4f} on 100" in reason.message
    (worst,) = [r for r in reasons if r.code == "worst_slice"]
    assert worst.slice == where
    assert change_of(record, "harmed", where, gate="worst_slice").level == pytest.approx(1 - 0.05 / 3)


def test_an_unharmed_variant_passes_every_limit(record):
    assert record.winner == "float32"
    verdict = record.verdict("float32")
    assert (verdict.passed, verdict.reasons, verdict.cautions) == (True, (), ())
    own = [change for change in record.changes if change.variant == "float32" and change.gate is not None]
    # Overall and three labels against their thresholds, three labels against the limit on the worst slice.
    assert [change.outcome for change in own] == ["pass"] * 7


def test_a_metric_that_is_no_plain_mean_of_0_and_1_is_bootstrapped(world, tmp_path):
    config = evaluations.eval_config(drop=None)
    entropy = next(metric for metric in config.metrics_specs[0].metrics if "Crossentropy" in metric.class_name)
    entropy.threshold.change_threshold.direction = 1  # LOWER_IS_BETTER
    entropy.threshold.change_threshold.absolute.value = 10
    record = world.run(tmp_path, config, names=["harmed"])
    change = change_of(record, "harmed", "overall", metric=ENTROPY)
    assert (change.method, change.outcome) == ("paired_bootstrap", "pass")
    assert 0 < change.lower < change.change < change.upper
    assert math.isfinite(change.upper)


def test_a_tiny_split_is_insufficient_and_the_measured_change_decides(world, tmp_path):
    record = world.run(tmp_path, split="tiny", names=["float32"])
    assert record.winner == "float32"
    verdict = record.verdict("float32")
    assert {caution.code for caution in verdict.cautions} == {"insufficient_data"}
    assert [caution.slice for caution in verdict.cautions] == ["overall", "label:0", "label:1", "label:2"]
    for change in record.changes:
        if change.gate is not None:
            assert change.outcome == "insufficient_data"
            assert change.examples_needed > 12
            assert change.lower < change.limit < change.upper


def test_a_tiny_split_is_insufficient_and_may_block(world, tmp_path):
    record = world.run(tmp_path, split="tiny", names=["float32"], undecided="block")
    assert record.winner is None
    verdict = record.verdict("float32")
    assert {reason.code for reason in verdict.reasons} == {"insufficient_data"}
    assert "about " in verdict.reasons[0].message
    assert verdict.cautions == ()
    assert record.confidence.undecided == "block"


@pytest.mark.parametrize("undecided", ["warn", "block"])
def test_a_gate_on_slices_that_are_all_too_small_was_never_checked(world, tmp_path, undecided):
    config = evaluations.eval_config(drop=None, slice_drop=0.9)
    record = world.run(tmp_path, config, split="tiny", names=["float32"], undecided=undecided, min_slice_examples=5)
    assert record.winner is None
    (reason,) = record.verdict("float32").reasons
    assert reason.code == "insufficient_data"
    assert "has a limit on label:0; label:1; label:2, but fewer than 5 examples on each" in reason.message


def test_a_worst_slice_of_a_metric_without_a_direction_is_an_error_before_anything_runs(world, tmp_path):
    assert Confidence(worst_slice={ENTROPY: 0.1})
    with pytest.raises(EvalConfigError, match=f"names metric '{ENTROPY}', which has no change threshold"):
        world.run(tmp_path, worst_slice={ENTROPY: 0.1})
    assert not [path for key in ("evaluation", "blessing") for path in (tmp_path / key).iterdir()]


def test_the_same_inputs_give_the_same_changes_and_verdicts(world, record, tmp_path):
    again = world.run(tmp_path, worst_slice={ACCURACY: 0.2})
    assert again.verdicts == record.verdicts
    numbers = ("change", "lower", "upper")
    assert [one.model_dump(exclude=set(numbers)) for one in again.changes] == [
        one.model_dump(exclude=set(numbers)) for one in record.changes
    ]
    for name in numbers:
        assert [getattr(one, name) for one in again.changes] == pytest.approx(
            [getattr(one, name) for one in record.changes], abs=1e-9
        )
