"""Proof that what shares a calibration is what TensorFlow's public converter makes, and that it is really shared."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.lite.python import convert as tf_convert
from tensorflow.lite.python import util as tf_util

from tests.fakes import models
from tfx_mobile.recipes import BUILTIN_RECIPES, ConversionRecipe
from tfx_mobile.tflite.runtime import interpreter_class, quantize
from tfx_mobile.tflite_converter import front_end
from tfx_mobile.tflite_converter import quantize as public
from tfx_mobile.tflite_converter.recipe_runner import Made, RecipeRunner

NAMES = ("float32", "full_integer", "integer_only_int8", "integer_only_uint8", "int16x8")
KEY = "serving_default"


class Source:
    """A re-signed SavedModel with calibration samples, and how often these were read."""

    def __init__(self, folder: Path, samples: Any, model: Any = None) -> None:
        if model is not None:
            model.export(str(folder / "saved"), format="tf_saved_model", verbose=False)
        self.saved_model = str(folder / "resigned")
        front_end.FrozenSignature(front_end.load_signature(folder / "saved", KEY)).resign(self.saved_model, 1)
        self.samples = samples
        self.reads = 0
        self.work_dir = folder

    def representative(self) -> Iterator[dict[str, Any]]:
        self.reads += 1
        return ({"image": sample[None]} for sample in self.samples)

    def run(self, recipe: str | ConversionRecipe, may_share: bool = True) -> Made:
        """As the child process does it: a runner per recipe, with nothing in common but the work directory."""
        resolved = BUILTIN_RECIPES[recipe] if isinstance(recipe, str) else recipe

        def ranking(_: ConversionRecipe) -> Any:
            raise AssertionError("only mixed_precision ranks")

        runner = RecipeRunner(
            self.saved_model,
            KEY,
            self.representative,
            ranking,
            self.work_dir,
            lambda: None,
            may_share=may_share,
        )
        return runner.run(resolved)

    def public(self, recipe: str) -> bytes:
        return public.convert(BUILTIN_RECIPES[recipe], self.saved_model, KEY, self.representative)


def _outputs(model: bytes, images: Any) -> Any:
    """The raw output tensors, integers of integer files included, row by row."""
    interpreter = interpreter_class(False)(model_content=model, num_threads=1)
    runner = interpreter.get_signature_runner(KEY)
    ((name, detail),) = runner.get_input_details().items()
    scale, zero_point = detail["quantization"]
    rows = images if not scale else quantize(images, scale, zero_point, detail["dtype"])
    return np.stack([next(iter(runner(**{name: row[None]}).values())) for row in rows])


def _digits_network() -> Any:
    """Convolutions, pooling and Dense layers as in the digits model, with seeded weights."""
    keras.utils.set_random_seed(3)
    image = keras.Input((64,), name="image")
    x = keras.layers.Reshape((8, 8, 1))(image)
    x = keras.layers.Conv2D(8, 3, padding="same")(x)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
    x = keras.layers.MaxPooling2D()(x)
    x = keras.layers.Conv2D(16, 3, padding="same", activation="relu")(x)
    x = keras.layers.Dense(32, activation="relu")(keras.layers.Flatten()(x))
    return keras.Model(image, keras.layers.Dense(10, activation="softmax")(x))


def _mobile_network() -> Any:
    """An inverted residual block as in MobileNetV2: expansion, depthwise, projection, addition, global pooling."""
    keras.utils.set_random_seed(4)
    image = keras.Input((8, 8, 4), name="image")
    x = keras.layers.Conv2D(12, 1, activation="relu6")(image)
    x = keras.layers.DepthwiseConv2D(3, padding="same", activation="relu6")(x)
    x = keras.layers.Add()([image, keras.layers.Conv2D(4, 1)(x)])
    x = keras.layers.Dense(6, activation="sigmoid")(keras.layers.GlobalAveragePooling2D()(x))
    return keras.Model(image, x)


@pytest.mark.parametrize(("network", "shape"), [(_digits_network, (64,)), (_mobile_network, (8, 8, 4))])
def test_outputs_are_those_of_the_public_converter(network: Any, shape: tuple[int, ...], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    source = Source(tmp_path, rng.normal(size=(20, *shape)).astype(np.float32), network())
    made = {name: source.run(name) for name in NAMES}
    assert source.reads == 1
    assert {name: one.calibrated for name, one in made.items()} == dict.fromkeys(NAMES, "shared") | {"float32": None}
    # Wider than the calibration samples, so that saturation is compared too.
    images = rng.normal(scale=1.5, size=(600, *shape)).astype(np.float32)
    for name in NAMES:
        expected = _outputs(source.public(name), images)
        assert np.array_equal(_outputs(made[name].data, images), expected), name
        assert len(np.unique(expected)) > 20, "outputs that are all alike would prove nothing"
    assert made["float32"].data == source.public("float32")
    if tf.__version__.startswith("2.16."):
        # More than was promised; other versions may write the same tables in another order.
        assert all(one.data == source.public(name) for name, one in made.items())


def test_without_the_private_steps_each_recipe_calibrates_for_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Source(tmp_path, models.images(models.rows(12)), models.raw_network())
    shared = source.run("integer_only_int8")

    def other_quantizer(input_data_str: bytes) -> bytes:
        raise AssertionError("not to be called")

    monkeypatch.setattr(tf_convert, "mlir_quantize", other_quantizer)
    source.reads = 0
    own = source.run("full_integer")
    monkeypatch.undo()
    assert (shared.calibrated, own.calibrated, source.reads) == ("shared", "own", 1)
    assert own.data == source.public("full_integer")


def test_a_step_that_fails_is_left_to_the_public_converter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source(tmp_path, models.images(models.rows(12)), models.raw_network())
    monkeypatch.setattr(tf_util, "get_conversion_metadata", lambda _: None)
    made = source.run("full_integer")
    assert (made.calibrated, made.data) == ("own", source.public("full_integer"))


def test_a_model_with_a_loop_calibrates_for_each_recipe(tmp_path: Path) -> None:
    weights = tf.constant(np.random.default_rng(0).normal(size=(16, 16)), tf.float32)
    module = tf.Module()

    @models.traced(tf.TensorSpec([1, 16], tf.float32, name="image"))
    def serve(image: Any) -> dict[str, Any]:
        _, y = tf.while_loop(lambda i, _: i < 3, lambda i, x: (i + 1, tf.nn.relu(x @ weights)), (0, image))
        return {"y": y}

    tf.saved_model.save(module, str(tmp_path / "saved"), signatures={KEY: serve})
    source = Source(tmp_path, models.images(models.rows(6)))
    assert source.run("full_integer").calibrated == "own"
    assert source.run("float32").data == source.public("float32")
