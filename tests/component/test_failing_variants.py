"""A variant that goes wrong is not blessed, for a reason that says how, and every other one is judged as without it."""

import json
import platform
import re
from pathlib import Path

import numpy as np
import pytest

from tests.fakes import evaluations, faulty_files, models
from tfx_mobile.quantization_evaluator.eval_config import to_json
from tfx_mobile.records import EvaluationRecord

ROWS = models.rows(120, seed=2)
#: Cross entropy is a metric of Keras, which adds up float32 in whatever order Beam brings the examples.
TOLERANCE = 1e-6
FAILING = [row for row in ROWS if faulty_files.fails_on(row)]
NOT_FINITE = [row for row in ROWS if faulty_files.gives_nan_for(row)]


def eval_config():
    """With AUC, which TFMA cannot compute of NaN: it would stop the pass for all models."""
    from google.protobuf import json_format

    config = evaluations.eval_config(floor=0.9, drop=0.02)
    auc = {"metrics": [{"class_name": "AUC"}], "binarize": {"class_ids": {"values": [0]}}}
    json_format.ParseDict(auc, config.metrics_specs.add())
    return config


class World:
    def __init__(self, tmp_path_factory):
        self.root = tmp_path_factory.mktemp("failing")
        folder = models.raw_model(tmp_path_factory)
        self.saved_model = folder / "Format-Serving"
        self.model = models.model_artifact(folder)
        float32 = evaluations.convert(self.saved_model, "float32")
        self.good = {
            "float32": float32,
            "integer_only_int8": evaluations.convert(self.saved_model, "integer_only_int8", models.images(ROWS)),
        }
        self.bad = {
            "gather_out_of_range": faulty_files.make("gather_out_of_range"),
            "zero_by_zero": faulty_files.make("zero_by_zero"),
            "renamed": faulty_files.make("wrong", output="scores"),
            "other_classes": faulty_files.make("other_classes"),
            "other_input": faulty_files.make("wrong", input_name="picture"),
            "altered": faulty_files.make("wrong"),
            "dies_by_sigfpe": faulty_files.make("dies_by_sigfpe"),
        }

    def run(self, name, files, rows=ROWS, shards=2):
        root = self.root / name
        variants = evaluations.write_variants(root / "variants", files, self.saved_model)
        if "altered" in files:
            (root / "variants" / "altered" / "model.tflite").write_bytes(files["float32"])
        inputs = {
            "examples": models.write_examples(root / "examples", {"eval": rows}, num_shards=shards),
            "model": self.model,
            "variants": variants,
        }
        outputs = evaluations.execute(inputs, {"eval_config": to_json(eval_config())}, root)
        return outputs, EvaluationRecord.read(Path(outputs["evaluation"].uri) / "record.json")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory)


@pytest.fixture(scope="module")
def mixed(world):
    # Good ones between the bad ones: neither those before nor those after are harmed.
    bad = list(world.bad.items())
    return world.run("mixed", dict([*bad[:3], *world.good.items(), *bad[3:]]))


@pytest.mark.parametrize(
    ("variant", "code", "message"),
    [
        ("gather_out_of_range", "failed_on_examples", f"fails on {len(FAILING)} of 120 examples.*gather index out"),
        ("zero_by_zero", "not_finite", f"^{len(NOT_FINITE)} of 120 examples give NaN"),
        ("renamed", "signature_mismatch", "outputs are scores, the float model's output_0"),
        ("other_classes", "signature_mismatch", r"'output_0' has shape \[-1, 4\], the float model's \[-1, 3\]"),
        ("other_input", "signature_mismatch", "inputs are picture, the float model's image"),
        ("altered", "altered", "hashes to"),
        pytest.param(
            "dies_by_sigfpe",
            "interpreter_crashed",
            "while the file ran on real examples: killed by SIGFPE",
            marks=pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="only x86 traps this"),
        ),
    ],
)
def test_what_goes_wrong_is_the_only_reason(mixed, variant, code, message):
    _, record = mixed
    verdict = record.verdict(variant)
    assert not verdict.passed
    (reason,) = verdict.reasons
    assert reason.code == code
    assert re.search(message, reason.message)


def test_the_messages_of_an_interpreter_do_not_pile_up(mixed):
    (reason,) = mixed[1].verdict("gather_out_of_range").reasons
    assert 0 < len(FAILING) < len(ROWS)
    assert 0 < len(NOT_FINITE) < len(ROWS)
    assert reason.message.count("gather index out of bounds") == 1


def test_a_variant_without_values_on_some_examples_has_no_metrics(mixed):
    _, record = mixed
    metrics = {model.model: model.slices for model in record.models}
    assert list(metrics) == ["saved_model", "gather_out_of_range", "zero_by_zero", "float32", "integer_only_int8"]
    for name, slices in metrics.items():
        values = [value for entry in slices for value in entry.metrics.values()]
        assert all(value is None for value in values) == (name in ("gather_out_of_range", "zero_by_zero"))


def test_every_other_variant_is_judged_as_without_it(world, mixed):
    import tensorflow_model_analysis as tfma

    outputs, record = mixed
    _, alone = world.run("alone", world.good)
    assert record.winner == alone.winner == "integer_only_int8"
    for name in world.good:
        assert record.verdict(name) == alone.verdict(name)
    by_name = {model.model: model for model in record.models}
    for model in alone.models:
        assert_close(by_name[model.model].model_dump(), model.model_dump())
    # TFMA wrote its files for all of them.
    for name in ("float32", "zero_by_zero"):
        assert tfma.load_eval_result(outputs["evaluation"].uri, model_name=name).get_metrics_for_slice(())


def test_the_same_examples_give_the_same_record_in_any_order(world, mixed):
    """Numbers to rounding, everything else exactly: also which of many messages is told."""
    _, record = mixed
    bad = list(world.bad.items())
    order = np.random.default_rng(5).permutation(len(ROWS))
    rows = [ROWS[index] for index in order]
    _, shuffled = world.run("shuffled", dict([*bad[:3], *world.good.items(), *bad[3:]]), rows, shards=5)
    assert_close(json.loads(shuffled.to_json()), json.loads(record.to_json()))


def assert_close(one, other):
    if isinstance(other, dict):
        assert list(one) == list(other)
        for key in other:
            assert_close(one[key], other[key])
    elif isinstance(other, (list, tuple)):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_close(a, b)
    elif isinstance(other, float):
        assert one == pytest.approx(other, rel=TOLERANCE, abs=1e-9)
    else:
        assert one == other


def test_a_file_that_takes_one_row_at_a_time_is_run_so(tmp_path):
    """Its batch size is open and yet it fails on two rows at once: that is no failure on an example."""
    from tfx_mobile.quantization_evaluator.scoring.predict import Models, VariantFile, describe_saved_model
    from tfx_mobile.records import sha256_of

    models.save_raw_model(tmp_path / "model")
    data = faulty_files.make("one_row_at_a_time")
    (tmp_path / "file").write_bytes(data)
    variant = VariantFile("odd", str(tmp_path / "file"), sha256_of(data), "serving_default")
    baseline = describe_saved_model(str(tmp_path / "model"), "serving_default", None)
    failures = []
    outputs = Models("saved_model", baseline, [variant]).predict(
        {"image": models.images(ROWS)}, np.array([b""] * len(ROWS), object), lambda *failure: failures.append(failure)
    )
    assert failures == []
    np.testing.assert_array_equal(outputs["odd"]["output_0"], models.images(ROWS)[:, :3])
