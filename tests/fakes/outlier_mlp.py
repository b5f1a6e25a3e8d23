"""A small classifier that full-integer quantization destroys, with computed weights.

Three Dense layers. One channel of the second is multiplied by 400 and divided by 400 in the third, which float
arithmetic does not notice. Activations are quantized with one scale per tensor, so that channel takes the whole int8
range of the second layer's output and the other 63 are rounded away.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

FEATURES, UNITS, CLASSES = 20, 64, 5
INPUT, LABEL = "features", "label"
FACTOR = 400.0

Array = npt.NDArray[Any]


def data(count: int, seed: int = 0) -> tuple[Array, Array]:
    """Points around two centres per class: float32 [count, 20], and their classes int64 [count]."""
    centres = np.random.default_rng(99).normal(0, 1.25, (2 * CLASSES, FEATURES))
    rng = np.random.default_rng(seed)
    which = rng.integers(0, len(centres), count)
    return (centres[which] + rng.normal(0, 1.2, (count, FEATURES))).astype(np.float32), which % CLASSES


def rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """`data` as rows of `features` and `label`."""
    points, labels = data(count, seed)
    return [{INPUT: point, LABEL: int(label)} for point, label in zip(points, labels, strict=True)]


def weights(factor: float = FACTOR) -> list[tuple[Array, Array]]:
    """Kernel and bias per layer: two layers of random features, the third fitted to the classes by least squares."""
    points, labels = data(4000, seed=1)
    rng = np.random.default_rng(7)
    layers, values = [], points
    for inputs in (FEATURES, UNITS):
        kernel, bias = rng.normal(0, 1.0 / np.sqrt(inputs), (inputs, UNITS)), rng.normal(0, 0.5, UNITS)
        layers.append((kernel, bias))
        values = np.maximum(values @ kernel + bias, 0)
    targets = np.eye(CLASSES)[labels] * 8
    with_bias = np.column_stack([values, np.ones(len(values))])
    # Ridge regression by its normal equations: solved directly, so the weights are the same everywhere up to rounding.
    fitted = np.linalg.solve(with_bias.T @ with_bias + 10 * np.eye(UNITS + 1), with_bias.T @ targets)
    layers.append((fitted[:-1], fitted[-1]))
    channel = int(values.std(axis=0).argmax())
    layers[1][0][:, channel] *= factor
    layers[1][1][channel] *= factor
    layers[2][0][channel] /= factor
    return layers


def save(path: str | Path, factor: float = FACTOR) -> None:
    """A Keras 3 export: `features` float32 [batch, 20] to `output_0`, class probabilities [batch, 5]."""
    import keras

    features = keras.Input((FEATURES,), name=INPUT)
    x = keras.layers.Dense(UNITS, activation="relu", name="first")(features)
    x = keras.layers.Dense(UNITS, activation="relu", name="second")(x)
    model = keras.Model(features, keras.layers.Dense(CLASSES, activation="softmax", name="third")(x))
    for name, (kernel, bias) in zip(("first", "second", "third"), weights(factor), strict=True):
        model.get_layer(name).set_weights([kernel, bias])
    model.export(str(path), format="tf_saved_model", verbose=False)
