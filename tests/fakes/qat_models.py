"""Keras 2 twins of the classifiers in `models`, treated with tensorflow-model-optimization and not trained.

Trained ranges are set from the data, so that they are right without a training loop; those of the weights are set wider
than the weights, as they come out when the last step of a training makes the largest weight smaller.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.fakes import models

#: Trained range of a weight, as a multiple of the largest one.
WEIGHT_RANGE = 1.3


@contextlib.contextmanager
def optimization_toolkit() -> Iterator[Any]:
    """The toolkit; importing it sets TF_USE_LEGACY_KERAS, which would decide for the tests that follow."""
    before = os.environ.get("TF_USE_LEGACY_KERAS")
    import tensorflow_model_optimization as tfmot

    try:
        yield tfmot
    finally:
        if before is None:
            os.environ.pop("TF_USE_LEGACY_KERAS", None)
        else:
            os.environ["TF_USE_LEGACY_KERAS"] = before


def twin(network: Any) -> Any:
    """The tf_keras twin of `models.network`, with its weights."""
    import tf_keras

    layers = tf_keras.layers
    image = tf_keras.Input((models.PIXELS,), name=models.IMAGE)
    x = layers.Reshape((models.SIDE, models.SIDE, 1))(image)
    x = layers.Conv2D(4, 3, padding="same", activation="relu", name="features")(x)
    x = layers.Flatten()(x)
    model = tf_keras.Model(image, layers.Dense(models.CLASSES, activation="softmax", name=models.OUTPUT)(x))
    model.set_weights(network.get_weights())
    return model


def quantization_aware(model: Any, images: npt.NDArray[np.float32]) -> Any:
    """`quantize_model` of a `twin`, with ranges from `images` [rows, 16]."""
    import tf_keras

    # Keras numbers names that were used before in this process.
    tf_keras.backend.clear_session()
    with optimization_toolkit() as tfmot:
        aware = tfmot.quantization.keras.quantize_model(model)
    probabilities = model.get_layer(models.OUTPUT)
    features = model.get_layer("features").output
    features = tf_keras.Model(model.input, features).predict(images, verbose=0)
    kernel, bias = probabilities.get_weights()
    logits = features.reshape(len(images), -1) @ kernel + bias
    ranges = {
        "quantize_layer": (images.min(), images.max()),
        "post_activation": (0.0, features.max()),
        "pre_activation": (logits.min(), logits.max()),
    }
    for weight in aware.weights:
        name = weight.name.split("/")[-1].removesuffix(":0")
        for kind, (low, high) in ranges.items():
            if name in (f"{kind}_min", f"{kind}_max"):
                weight.assign(low if name.endswith("_min") else high)
        if name in ("kernel_min", "kernel_max"):
            layer = model.get_layer(weight.name.split("/")[0].removeprefix("quant_"))
            largest = np.abs(layer.get_weights()[0])
            bound = WEIGHT_RANGE * (largest.max(axis=(0, 1, 2)) if weight.shape.rank else largest.max())
            weight.assign(-bound if name == "kernel_min" else bound)
    return aware


def save(path: str | Path, model: Any, output: str = "output_0") -> None:
    """Saves a model with `serving_default` on `image` float32 [batch, 16], as `models.save_raw_model` does."""
    import tensorflow as tf

    @models.traced(tf.TensorSpec([None, models.PIXELS], tf.float32, name=models.IMAGE))
    def serve(image: Any) -> dict[str, Any]:
        return {output: model(image)}

    tf.saved_model.save(model, str(path), signatures={"serving_default": serve})


def save_raw_qat_model(path: str | Path) -> None:
    """The quantization-aware twin of `models.save_raw_model`, with the same signature."""
    save(path, quantization_aware(twin(models.raw_network()), models.images(models.rows(90))))


def raw_qat_model(tmp_path_factory: Any) -> Path:
    """The folder of a Model artifact by `save_raw_qat_model`."""
    return models.saved_once(tmp_path_factory, "raw_qat", save_raw_qat_model)


def save_serving_qat_model(path: str | Path, transform_dir: str | Path) -> None:
    """The quantization-aware twin of `models.save_serving_model`: parses tf.Examples, with Transform inside."""
    import tensorflow as tf
    import tensorflow_transform as tft

    transform = tft.TFTransformOutput(str(transform_dir))
    layer = transform.transform_features_layer()
    feature_spec = transform.raw_feature_spec()
    feature_spec.pop(models.LABEL)
    training = models.rows(90)
    scaled = layer({models.IMAGE: tf.constant(models.images(training))})[models.IMAGE].numpy()
    network = models.network(scaled, [row[models.LABEL] for row in training], scale=0.1)
    model = quantization_aware(twin(network), scaled)
    model.transform_layer = layer

    @models.traced(tf.TensorSpec([None], tf.string, name="examples"))
    def serve_examples(examples: Any) -> dict[str, Any]:
        return {models.OUTPUT: model(layer(tf.io.parse_example(examples, feature_spec))[models.IMAGE])}

    tf.saved_model.save(model, str(path), signatures={"serving_default": serve_examples})


def serving_qat_model(tmp_path_factory: Any) -> Path:
    """The folder of a Model artifact by `save_serving_qat_model`, with a real Transform graph."""

    def save(path: Path) -> None:
        transform = tmp_path_factory.mktemp("transform_graph")
        models.write_transform_graph(transform)
        save_serving_qat_model(path, transform)

    return models.saved_once(tmp_path_factory, "serving_qat", save)
