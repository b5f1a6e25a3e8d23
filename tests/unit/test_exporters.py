"""SavedModels by everything that writes them: each converts, and float32 equals the signature it was made from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.fakes import models
from tests.fakes.conversions import InProcess
from tfx_mobile.errors import ConversionError, SignatureError
from tfx_mobile.tflite_converter import front_end

IMAGES = models.images(models.rows(12, seed=5))
SPEC = tf.TensorSpec([None, models.PIXELS], tf.float32, name=models.IMAGE)


@pytest.fixture
def in_process(tmp_path_factory: pytest.TempPathFactory) -> InProcess:
    return InProcess(tmp_path_factory.mktemp("conversions"))


def _keras3_export(path: str) -> None:
    models.raw_network().export(path, format="tf_saved_model", verbose=False)


def _keras3_archive(path: str) -> None:
    import keras

    network = models.raw_network()
    features = keras.Model(network.input, network.get_layer("features").output)
    archive = keras.export.ExportArchive()
    archive.track(network)
    archive.track(features)
    archive.add_endpoint("features", lambda image: {"map": features(image)}, input_signature=[SPEC])
    archive.add_endpoint("classes", lambda image: {"zebra": network(image), "ape": image * 0.5}, input_signature=[SPEC])
    archive.write_out(path, verbose=False)


def _keras3_saved(path: str) -> None:
    tf.saved_model.save(models.raw_network(), path)


def _keras3_saved_with_signature(path: str) -> None:
    network = models.raw_network()
    serve = models.traced(SPEC)(lambda image: {"probabilities": network(image)})
    tf.saved_model.save(network, path, signatures={"serving_default": serve})


def _keras2_network() -> Any:
    import tf_keras

    tf_keras.utils.set_random_seed(3)
    image = tf_keras.Input((models.PIXELS,), name=models.IMAGE)
    x = tf_keras.layers.Dense(8, activation="relu")(image)
    return tf_keras.Model(image, tf_keras.layers.Dense(models.CLASSES, activation="softmax", name="probabilities")(x))


def _keras2_saved_with_signature(path: str) -> None:
    network = _keras2_network()
    serve = models.traced(SPEC)(lambda image: {"probabilities": network(image)})
    tf.saved_model.save(network, path, signatures={"serving_default": serve})


def _keras2_archive(path: str) -> None:
    from tf_keras.export import ExportArchive

    network = _keras2_network()
    archive = ExportArchive()
    archive.track(network)
    archive.add_endpoint("serve", network.call, input_signature=[SPEC])
    archive.write_out(path)


def _module(path: str) -> None:
    module = tf.Module()
    module.kernel = tf.Variable(np.random.default_rng(4).normal(size=(models.PIXELS, models.CLASSES)), dtype=tf.float32)
    serve = models.traced(SPEC)(lambda image: {"probabilities": tf.nn.softmax(image @ module.kernel)})
    tf.saved_model.save(module, path, signatures={"serving_default": serve})


@pytest.mark.parametrize(
    ("export", "signature", "outputs"),
    [
        (_keras3_export, "serving_default", ["output_0"]),
        (_keras3_archive, "classes", ["ape", "zebra"]),
        (_keras3_archive, "features", ["map"]),
        (_keras3_saved, "serving_default", ["output_0"]),
        (_keras3_saved_with_signature, "serving_default", ["probabilities"]),
        (_keras2_saved_with_signature, "serving_default", ["probabilities"]),
        (_keras2_archive, "serve", ["output_0"]),
        (_module, "serving_default", ["probabilities"]),
    ],
)
def test_every_exporter(
    in_process: InProcess, tmp_path: Path, export: Callable[[str], None], signature: str, outputs: list[str]
) -> None:
    export(str(tmp_path / "m"))
    loaded = tf.saved_model.load(str(tmp_path / "m"))
    # Without signatures=..., Keras 3 names the input itself.
    (name,) = loaded.signatures[signature].structured_input_signature[1]
    assert name == ("inputs" if export is _keras3_saved else models.IMAGE)
    expected = loaded.signatures[signature](**{name: tf.constant(IMAGES)})
    assert sorted(expected) == outputs
    rows = [{name: row[models.IMAGE]} for row in models.rows(60)]
    made = in_process.convert(
        tmp_path / "m", "float32", "full_integer", "integer_only_int8", signature_name=signature, rows=rows
    )
    assert made.prepared.route == "resigned"
    assert made.failures == {}
    for recipe in ("float32", "full_integer", "integer_only_int8"):
        runner = made.runner(recipe)
        assert list(runner.inputs) == [name]
        assert list(runner.outputs) == outputs
        result = runner.run({name: IMAGES})
        for output in outputs:
            reference = expected[output].numpy()
            tolerance = 1e-6 if recipe == "float32" else 0.03 * np.ptp(reference) + 0.03
            np.testing.assert_allclose(result[output], reference, atol=tolerance)


def test_a_model_over_two_gigabytes_is_refused_by_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _module(str(tmp_path / "m"))
    monkeypatch.setattr(front_end, "MAX_FROZEN_BYTES", 16 * 3 * 4 - 1)
    with pytest.raises(
        ConversionError, match=r"variables of signature 'serving_default' take 192 bytes.* at most 191\."
    ):
        front_end.load_signature(tmp_path / "m", "serving_default")
    monkeypatch.setattr(front_end, "MAX_FROZEN_BYTES", 16 * 3 * 4)
    front_end.load_signature(tmp_path / "m", "serving_default")


def test_a_signature_without_a_batch_dimension(tmp_path: Path) -> None:
    module = tf.Module()
    serve = models.traced(tf.TensorSpec([64], tf.float32, name="x"))(lambda x: {"y": x * 2.0})
    tf.saved_model.save(module, str(tmp_path / "m"), signatures={"serving_default": serve})
    frozen = front_end.FrozenSignature(front_end.load_signature(tmp_path / "m", "serving_default"))
    with pytest.raises(SignatureError, match=r"batch_size=1 .*fixed shape \[64\] for input 'x'.*None as its first"):
        frozen.resign(tmp_path / "out", 1)
