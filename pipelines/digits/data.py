"""scikit-learn's handwritten digits as tf.Examples.

1,797 scans of 8x8 pixels with values 0..16, written by 43 people (UCI, "Optical Recognition of Handwritten Digits").
The last rows stay out of the pipeline: they play the digits an app sees after the release.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

IMAGE = "image"
LABEL = "label"
PIXELS = 64
MAX_PIXEL = 16.0
NUM_UNSEEN = 97


def load() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """All digits in the data set's order: images [1797, 64] with values 0..16, labels [1797] with values 0..9."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    return digits.data.astype(np.float32), digits.target.astype(np.int64)


def unseen() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """The digits that never enter the pipeline: images [97, 64] and labels [97]."""
    images, labels = load()
    return images[-NUM_UNSEEN:], labels[-NUM_UNSEEN:]


def write_examples(directory: str | Path) -> None:
    """Writes all digits but the unseen ones as one TFRecord file of tf.Examples, where ImportExampleGen reads them.

    Args:
        directory: Local folder; created. An existing file is written again with the same bytes and keeps its time
            stamps, because ExampleGen's cache key holds them.
    """
    import tensorflow as tf

    target = Path(directory) / "digits.tfrecord"
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    images, labels = load()
    partial = target.with_name(f"{target.name}.partial")
    with tf.io.TFRecordWriter(str(partial)) as writer:
        for image, label in zip(images[:-NUM_UNSEEN], labels[:-NUM_UNSEEN], strict=True):
            writer.write(_example(tf, image, int(label)))
    partial.rename(target)


def _example(tf: Any, image: npt.NDArray[np.float32], label: int) -> bytes:
    features = {
        IMAGE: tf.train.Feature(float_list=tf.train.FloatList(value=image)),
        LABEL: tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
    }
    serialized: bytes = tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()
    return serialized
