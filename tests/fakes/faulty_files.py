"""Real `.tflite` files, made by TensorFlow's own converter, that go wrong only on real data; with the demo model's
signature: `image` [-1, 16] to `output_0` [-1, 3]."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.fakes import models

#: `gather_out_of_range` fails on rows whose first pixel is above this.
TOO_BRIGHT = 1.0
#: `zero_by_zero` gives NaN for rows one of whose first pixels is not above this.
TOO_DARK = 0.2


def fails_on(row: models.Row) -> bool:
    """Whether `gather_out_of_range` fails on a row."""
    return bool(np.float32(row[models.IMAGE][0]) > np.float32(TOO_BRIGHT))


def gives_nan_for(row: models.Row) -> bool:
    """Whether `zero_by_zero` gives NaN for a row."""
    return bool((np.asarray(row[models.IMAGE], np.float32)[: models.CLASSES] <= np.float32(TOO_DARK)).any())


def _gather(image: Any) -> Any:
    import tensorflow as tf

    table = tf.constant([[0.2, 0.3, 0.5], [0.5, 0.3, 0.2]])
    return tf.gather(table, 5 * tf.cast(image[:, 0] > TOO_BRIGHT, tf.int32))


def _zero_by_zero(image: Any) -> Any:
    import tensorflow as tf

    above = tf.nn.relu(image[:, : models.CLASSES] - TOO_DARK)
    return above / above


def _one_row_at_a_time(image: Any) -> Any:
    import tensorflow as tf

    return tf.reshape(image, [1, models.PIXELS])[:, : models.CLASSES] + tf.zeros([1, models.CLASSES])


def _lowest_integer(image: Any) -> Any:
    """-2**31 modulo -1 has no answer on x86, which kills the process."""
    import tensorflow as tf

    integer = tf.cast(tf.reduce_max(image) * -1e20, tf.int32)
    return image[:, : models.CLASSES] + 0.0 * tf.cast(tf.math.floormod(integer, tf.constant(-1)), tf.float32)


def _other_classes(image: Any) -> Any:
    return image[:, : models.CLASSES + 1]


def _wrong(image: Any) -> Any:
    """Finite, and for most images the wrong class."""
    return -image[:, : models.CLASSES]


_FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "gather_out_of_range": _gather,
    "zero_by_zero": _zero_by_zero,
    "one_row_at_a_time": _one_row_at_a_time,
    "dies_by_sigfpe": _lowest_integer,
    "other_classes": _other_classes,
    "wrong": _wrong,
}


@functools.cache
def make(kind: str, *, input_name: str = models.IMAGE, output: str = "output_0") -> bytes:
    """One of the files.

    Args:
        kind: Key of `_FUNCTIONS`.
        input_name: What the input is called.
        output: What the output is called.
    """
    import tensorflow as tf

    module = tf.Module()
    spec = tf.TensorSpec([None, models.PIXELS], tf.float32, name=input_name)
    call = models.traced(spec)(lambda image: {output: _FUNCTIONS[kind](image)})
    with tempfile.TemporaryDirectory() as directory:
        tf.saved_model.save(module, directory, signatures={"serving_default": call})
        converter = tf.lite.TFLiteConverter.from_saved_model(directory, signature_keys=["serving_default"])
        return bytes(converter.convert())
