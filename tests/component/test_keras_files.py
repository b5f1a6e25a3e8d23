"""Keras files in a Model artifact: what wrote them decides what reads them, and no code in them is run."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.fakes import evaluations, models
from tests.fakes.conversions import InProcess
from tfx_mobile import TFLiteVariants, artifact_io, keras_file
from tfx_mobile.errors import ConversionError, EvaluationError
from tfx_mobile.records import EvaluationRecord, VariantManifest, sha256_of

IMAGES = models.images(models.rows(12, seed=5))


@pytest.fixture
def in_process(tmp_path_factory: pytest.TempPathFactory) -> InProcess:
    return InProcess(tmp_path_factory.mktemp("conversions"))


def _keras3(path: Path, **options: Any) -> Callable[[Any], Any]:
    import keras

    network = models.raw_network()
    # How a model was compiled does not matter, also if it cannot be found again.
    network.compile(loss=_own_loss)
    network.save(str(path), **options)
    return lambda images: keras.ops.convert_to_numpy(network(images))


def _own_loss(label: Any, prediction: Any) -> Any:
    return label - prediction


def _keras2(path: Path) -> Callable[[Any], Any]:
    import tf_keras

    tf_keras.utils.set_random_seed(3)
    image = tf_keras.Input((models.PIXELS,), name=models.IMAGE)
    x = tf_keras.layers.BatchNormalization()(tf_keras.layers.Dense(8, activation="relu")(image))
    network = tf_keras.Model(image, tf_keras.layers.Dense(models.CLASSES, name="probabilities")(x))
    network.save(str(path))
    return lambda images: network(images).numpy()


def _open_classifier(path: Path) -> Callable[[Any], Any]:
    """Takes `image` [batch, open, 4] and classifies by the nearest class mean, as a convolution over four rows."""
    import keras

    image = keras.Input((None, models.SIDE), name=models.IMAGE)
    x = keras.layers.Conv1D(models.CLASSES, models.SIDE, name="nearest")(image)
    network = keras.Model(image, keras.layers.Softmax()(keras.layers.GlobalMaxPooling1D()(x)))
    rows = models.rows(90)
    labels = np.array([row[models.LABEL] for row in rows])
    means = np.array([models.images(rows)[labels == label].mean(axis=0) for label in range(models.CLASSES)])
    kernel = means.T.reshape(models.SIDE, models.SIDE, models.CLASSES) * 8
    network.get_layer("nearest").set_weights([kernel, -(means**2).sum(axis=1) / 2 * 8])
    network.save(str(path))
    return lambda images: keras.ops.convert_to_numpy(network(images.reshape(-1, models.SIDE, models.SIDE)))


@pytest.mark.parametrize(
    ("save", "name", "output"),
    [
        (_keras3, "model.keras", "output_0"),
        (_keras3, "model.h5", "output_0"),
        (_keras2, "model.keras", "probabilities"),
        (_keras2, "model.h5", "probabilities"),
    ],
)
def test_files_of_both_generations(
    in_process: InProcess, tmp_path: Path, save: Callable[[Path], Callable[[Any], Any]], name: str, output: str
) -> None:
    call = save(tmp_path / name)
    made = in_process.convert(tmp_path / name, "float32", "integer_only_int8", rows=models.rows(60))
    assert made.failures == {}
    assert made.prepared.route == "resigned"
    result = made.runner("float32").run({"image": IMAGES})
    assert list(result) == [output]
    np.testing.assert_allclose(result[output], call(IMAGES), atol=1e-6)


# --- what is refused --------------------------------------------------------------------------------------------------


def _lambda(generation: Any) -> Any:
    image = generation.Input((models.PIXELS,), name=models.IMAGE)
    return generation.Model(image, generation.layers.Lambda(lambda x: x * 2, name="double")(image))


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("package", ["keras", "tf_keras"])
def test_code_in_a_lambda_layer_is_not_run(tmp_path: Path, package: str, suffix: str) -> None:
    import importlib

    path = tmp_path / f"model{suffix}"
    _lambda(importlib.import_module(package)).save(str(path))
    with pytest.raises(
        ConversionError, match=rf"'model{suffix}' holds Python code in the Lambda layer 'double'.*model\.export"
    ):
        keras_file.export_here(str(path), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_class_of_the_user_is_refused_and_not_imported(tmp_path: Path) -> None:
    import keras

    network = models.raw_network()
    network.save(str(tmp_path / "good.keras"))
    with zipfile.ZipFile(tmp_path / "good.keras") as good, zipfile.ZipFile(tmp_path / "model.keras", "w") as bad:
        for name in good.namelist():
            text = good.read(name)
            if name == "config.json":
                config = json.loads(text)
                config["config"]["layers"][1] |= {"module": "antigravity_of_ours", "class_name": "Attention"}
                text = json.dumps(config).encode()
            bad.writestr(name, text)
    with pytest.raises(
        ConversionError,
        match=r"needs the class antigravity_of_ours\.Attention.*register_keras_serializable.*model\.export",
    ):
        keras_file.export_here(str(tmp_path / "model.keras"), str(tmp_path / "out"))

    # In the older format only Keras notices.
    class Doubling(keras.layers.Layer):  # type: ignore[misc]
        def call(self, x: Any) -> Any:
            return x * 2

    image = keras.Input((4,))
    keras.Model(image, Doubling()(image)).save(str(tmp_path / "model.h5"))
    with pytest.raises(ConversionError, match=r"cannot be loaded .* Keras 3: .*Doubling.*Let run_fn save a SavedModel"):
        keras_file.export_here(str(tmp_path / "model.h5"), str(tmp_path / "out"))


def test_files_that_hold_no_model(tmp_path: Path) -> None:
    models.raw_network().save_weights(str(tmp_path / "model.weights.h5"))
    (tmp_path / "cut.keras").write_bytes(b"PK\x03\x04 and no more")
    (tmp_path / "cut.h5").write_bytes(b"")
    for name in ("model.weights.h5", "cut.keras", "cut.h5"):
        with pytest.raises(
            ConversionError, match=rf"'{name}' is no Keras file with a whole model.*not only its weights"
        ):
            keras_file.export_here(str(tmp_path / name), str(tmp_path / "out"))


# --- the artifact -----------------------------------------------------------------------------------------------------


def test_finding_the_file_and_its_digest(tmp_path: Path) -> None:
    serving = tmp_path / "Format-Serving"
    serving.mkdir()
    (tmp_path / "root.keras").write_bytes(b"root")
    artifact = models.model_artifact(tmp_path)
    assert artifact_io.find_saved_model(artifact, ConversionError) == str(tmp_path / "root.keras")
    (serving / "model.h5").write_bytes(b"serving")
    uri = artifact_io.find_saved_model(artifact, ConversionError)
    assert uri == str(serving / "model.h5")
    assert artifact_io.saved_model_sha256(uri) == sha256_of(b"serving")
    (serving / "other.keras").write_bytes(b"")
    with pytest.raises(EvaluationError, match=r"2 Keras files: model\.h5, other\.keras\. Leave the one"):
        artifact_io.find_saved_model(artifact, EvaluationError)
    # A SavedModel beside them is what is served.
    (serving / "saved_model.pb").write_bytes(b"")
    assert artifact_io.find_saved_model(artifact, ConversionError) == str(serving)


def test_from_a_keras_file_to_a_blessing(tmp_path: Path) -> None:
    from tfx_mobile.quantization_evaluator.eval_config import to_json
    from tfx_mobile.tflite_converter.executor import Executor

    (tmp_path / "model" / "Format-Serving").mkdir(parents=True)
    path = tmp_path / "model" / "Format-Serving" / "model.keras"
    call = _open_classifier(path)
    rows = models.rows(60, seed=2)
    examples = models.write_examples(tmp_path / "examples", {"train": models.rows(60), "eval": rows})
    variants = TFLiteVariants()
    variants.uri = str(tmp_path / "variants")
    Path(variants.uri).mkdir()
    inputs = {"model": [models.model_artifact(tmp_path / "model")], "examples": [examples]}
    parameters = {"recipes": '["float32", "integer_only_int8"]', "input_shapes": '{"image": [4, 4]}'}
    Executor().Do(inputs, {"variants": [variants]}, parameters)
    manifest = VariantManifest.read(tmp_path / "variants" / "manifest.json")
    assert manifest.source.sha256 == sha256_of(path.read_bytes())
    assert [variant.failure for variant in manifest.variants] == [None, None]
    assert [(t.name, t.shape) for t in manifest.source.inputs] == [("image", (1, 4, 4))]

    evaluator_inputs = {"examples": examples, "model": inputs["model"][0], "variants": variants}
    properties = {"eval_config": to_json(evaluations.eval_config())}
    outputs = evaluations.execute(evaluator_inputs, properties, tmp_path / "evaluator")
    record = EvaluationRecord.read(Path(outputs["evaluation"].uri) / "record.json")
    assert [(verdict.variant, verdict.reasons) for verdict in record.verdicts] == [
        ("float32", ()),
        ("integer_only_int8", ()),
    ]
    measured = {model.model: model.slices[0].metrics["sparse_categorical_accuracy"] for model in record.models}
    right = call(models.images(rows)).argmax(axis=1) == [row["label"] for row in rows]
    assert measured["saved_model"] == measured["float32"] == pytest.approx(right.mean(), abs=1e-6)
    # The exported copy of the float model is gone.
    assert not list(Path(outputs["evaluation"].uri).rglob("saved_model.pb"))

    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(EvaluationError, match=r"model\.keras is not the one the variants were converted from"):
        evaluations.execute(evaluator_inputs, properties, tmp_path / "another")


def test_a_float_model_that_cannot_be_exported_is_an_error_of_the_evaluation(tmp_path: Path) -> None:
    from tfx_mobile.quantization_evaluator.eval_config import to_json

    path = tmp_path / "model" / "model.keras"
    path.parent.mkdir()
    path.write_bytes(b"PK\x03\x04 and no more")
    inputs = {
        "examples": models.write_examples(tmp_path / "examples", {"eval": models.rows(3)}),
        "model": models.model_artifact(tmp_path / "model"),
        "variants": evaluations.write_variants(tmp_path / "variants", {}, path),
    }
    with pytest.raises(EvaluationError, match=r"float model cannot be run: 'model\.keras' is no Keras file"):
        evaluations.execute(inputs, {"eval_config": to_json(evaluations.eval_config())}, tmp_path)
    assert not any((tmp_path / "evaluation").iterdir())
