"""Fidelity, errors by layer and golden vectors in what QuantizationEvaluator writes."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.fakes import evaluations, models
from tests.fakes.outlier_mlp import FACTOR
from tfx_mobile import QuantizationEvaluator
from tfx_mobile.errors import EvalConfigError
from tfx_mobile.quantization_evaluator.close_look import golden
from tfx_mobile.quantization_evaluator.eval_config import to_json
from tfx_mobile.records import EvaluationRecord, GoldenVectors, sha256_of
from tfx_mobile.tflite.runtime import SignatureRunner

ROWS = models.rows(150, seed=2)
PUSHED = {"model": "blessed_model", "blessing": "blessing", "evaluation": "evaluation"}


class World:
    """A network whose first layer has one loud channel, which integers do not stand, and its variants."""

    def __init__(self, root: Path) -> None:
        self.saved_model = root / "model" / "Format-Serving"
        network = models.raw_network()
        first, last = network.get_layer("features"), network.get_layer(models.OUTPUT)
        (kernel, bias), (dense, dense_bias) = first.get_weights(), last.get_weights()
        dense = dense.reshape(models.PIXELS, -1, models.CLASSES)
        loudest = np.abs(kernel).sum(axis=(0, 1, 2)).argmax()
        kernel[..., loudest] *= FACTOR
        bias[loudest] *= FACTOR
        dense[:, loudest] /= FACTOR
        first.set_weights([kernel, bias])
        last.set_weights([dense.reshape(-1, models.CLASSES), dense_bias])
        network.export(str(self.saved_model), format="tf_saved_model", verbose=False)
        self.model = models.model_artifact(root / "model")
        images = models.images(models.rows(100, seed=1))
        self.files = {
            "float32": evaluations.convert(self.saved_model, "float32"),
            "integer_only_int8": evaluations.convert(self.saved_model, "integer_only_int8", images),
        }
        self.root = root

    def run(self, name: str, rows=ROWS, num_shards=2, **properties):
        root = self.root / name
        inputs = {
            "examples": models.write_examples(root / "examples", {"eval": rows}, num_shards),
            "model": self.model,
            "variants": evaluations.write_variants(root / "variants", self.files, self.saved_model),
        }
        properties = {"eval_config": to_json(evaluations.eval_config(drop=0.02)), **properties}
        return evaluations.execute(inputs, properties, root)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def outputs(world):
    return world.run("first", golden_examples="3")


def record_of(outputs):
    return EvaluationRecord.read(Path(outputs["evaluation"].uri) / "record.json")


def files_of(artifact):
    root = Path(artifact.uri)
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def test_fidelity_is_that_of_all_examples(world, outputs):
    record = record_of(outputs)
    assert [(f.variant, f.output, f.num_examples) for f in record.fidelity] == [
        ("float32", "output_0", len(ROWS)),
        ("integer_only_int8", "output_0", len(ROWS)),
    ]
    images = models.images(ROWS)
    expected, actual = (
        SignatureRunner(world.files[name]).run({models.IMAGE: images})["output_0"].astype(np.float64)
        for name in ("float32", "integer_only_int8")
    )
    float32, int8 = record.fidelity
    assert (float32.top1_agreement, float32.cosine_similarity) == (1.0, pytest.approx(1.0))
    assert int8.top1_agreement == pytest.approx((expected.argmax(1) == actual.argmax(1)).mean())
    assert int8.max_absolute_error == pytest.approx(np.abs(expected - actual).max(), abs=1e-5)
    assert int8.snr_db == pytest.approx(10 * np.log10((expected**2).sum() / ((expected - actual) ** 2).sum()), abs=1e-3)
    assert float32.snr_db is None or float32.snr_db > 100 > int8.snr_db


def test_the_layer_that_harms_a_variant_is_named_in_the_record_and_for_model_explorer(outputs):
    record = record_of(outputs)
    assert [verdict.passed for verdict in record.verdicts] == [True, False]
    (errors,) = record.layer_errors
    assert (errors.variant, errors.num_examples, errors.message) == ("integer_only_int8", 32, "")
    worst = max(errors.layers, key=lambda layer: layer.relative_error or 0)
    assert worst.op in ("CONV_2D", "FULLY_CONNECTED")
    assert worst.relative_error > 0.3
    assert worst in [layer for layer in errors.layers if "features" in layer.name or models.OUTPUT in layer.name]
    document = json.loads((Path(outputs["evaluation"].uri) / "layers/integer_only_int8.json").read_text())
    assert document["main"]["results"][str(worst.index)] == {"value": worst.relative_error}
    assert {name for name in files_of(outputs["evaluation"]) if "/" in name} == {"layers/integer_only_int8.json"}
    # What the pass left for the executor is gone.
    assert not {"fidelity.json", "sample.json"} & files_of(outputs["evaluation"])


def test_golden_vectors_lie_beside_the_winner_and_it_reproduces_them(world, outputs):
    assert record_of(outputs).winner == "float32"
    assert files_of(outputs["blessed_model"]) == {"model.tflite", "record.json", "golden.json", "model_card.md"}
    folder = Path(outputs["blessed_model"].uri)
    vectors = GoldenVectors.read(folder / "golden.json")
    assert vectors.model_sha256 == sha256_of(world.files["float32"])
    smallest = sorted(sha256_of(models.serialize(row)) for row in ROWS)[:3]
    assert [example.example_sha256 for example in vectors.examples] == smallest
    by_hash = {sha256_of(models.serialize(row)): row for row in ROWS}
    for example in vectors.examples:
        image = np.array(by_hash[example.example_sha256][models.IMAGE], np.float32)[None]
        np.testing.assert_array_equal(golden.to_array(example.inputs[0]), image)
        given, expected = golden.to_array(example.outputs[0]), golden.to_array(example.float_outputs[0])
        np.testing.assert_allclose(given, expected, atol=1e-5)
    assert golden.check((folder / "model.tflite").read_bytes(), vectors).passed


def test_what_lies_beside_the_model_does_not_keep_it_from_being_pushed(world, outputs, tmp_path):
    from tests.component.pusher_artifacts import pushed_artifact
    from tfx_mobile import FilesystemDestination
    from tfx_mobile.mobile_pusher.executor import Executor
    from tfx_mobile.release_store.destinations import destinations_to_json
    from tfx_mobile.release_store.reading import resolve

    destination = FilesystemDestination(base_directory=tmp_path / "releases")
    inputs = {key: [outputs[name]] for key, name in PUSHED.items()}
    properties = {"model_name": "digits", "destinations": destinations_to_json([destination])}
    Executor().Do(inputs, {"pushed_model": [pushed_artifact(tmp_path / "pushed")]}, properties)
    assert resolve(destination.open_store(), "digits", "production").model == world.files["float32"]


def test_shuffled_examples_in_other_files_give_the_same(world, outputs):
    order = np.random.default_rng(7).permutation(len(ROWS))
    again = world.run("shuffled", [ROWS[index] for index in order], num_shards=5, golden_examples="3")
    for key, name in (("blessed_model", "golden.json"), ("evaluation", "layers/integer_only_int8.json")):
        assert (Path(again[key].uri) / name).read_bytes() == (Path(outputs[key].uri) / name).read_bytes()
    first, second = record_of(outputs), record_of(again)
    assert second.layer_errors == first.layer_errors
    for one, other in zip(first.fidelity, second.fidelity, strict=True):
        assert other.top1_agreement == one.top1_agreement
        assert other.cosine_similarity == pytest.approx(one.cosine_similarity, abs=1e-9)


def test_without_golden_examples_there_is_no_file_and_the_number_is_a_choice(world):
    none = world.run("none", ROWS[:40], golden_examples="0")
    assert files_of(none["blessed_model"]) == {"model.tflite", "record.json", "model_card.md"}


def test_a_number_that_is_none_is_refused_when_the_pipeline_is_defined():
    from tfx.types import channel_utils
    from tfx.types.standard_artifacts import Examples, Model

    from tfx_mobile.artifacts import TFLiteVariants

    channels = [channel_utils.as_channel([artifact()]) for artifact in (Examples, Model, TFLiteVariants)]
    config = evaluations.eval_config()
    assert QuantizationEvaluator(*channels, config).exec_properties["golden_examples"] == "8"
    for value in (-1, 65, 2.5, True, "many"):
        with pytest.raises(EvalConfigError, match="golden_examples="):
            QuantizationEvaluator(*channels, config, golden_examples=value)
