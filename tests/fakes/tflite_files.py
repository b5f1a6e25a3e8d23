"""Tiny real `.tflite` files with fixed weights, made by TensorFlow's own converter."""

from __future__ import annotations

import functools

import numpy as np


@functools.cache
def dense(kind: str = "float32") -> bytes:
    """softmax(x @ w): input `x` [-1, 4] float32, output `p` [-1, 3]; `int8` has int8 inputs and outputs.

    Calibrated on values in [-1, 1], so the int8 file saturates outside.
    """
    import tensorflow as tf

    module = tf.Module()
    module.w = tf.Variable(np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32))
    spec = tf.TensorSpec([None, 4], tf.float32, name="x")
    call = tf.function(lambda x: {"p": tf.nn.softmax(x @ module.w)}, input_signature=[spec])
    return _convert(module, call, kind, {"x": (1, 4)})


@functools.cache
def open_size(only: int | None) -> bytes:
    """Input `x` [1, -1, 3] float32; runs with any size, or with the size `only` alone."""
    import tensorflow as tf

    spec = tf.TensorSpec([1, None, 3], tf.float32, name="x")
    shape = [1, -1] if only is None else [1, only * 3]
    call = tf.function(lambda x: {"y": tf.reshape(x, shape) * 2.0}, input_signature=[spec])
    return _convert(tf.Module(), call, "float32", {})


def _convert(module, call, kind, shapes) -> bytes:
    import tempfile

    import tensorflow as tf

    with tempfile.TemporaryDirectory() as directory:
        tf.saved_model.save(module, directory, signatures={"serving_default": call})
        converter = tf.lite.TFLiteConverter.from_saved_model(directory, signature_keys=["serving_default"])
        if kind == "int8":
            rng = np.random.default_rng(1)
            samples = [{n: rng.uniform(-1, 1, s).astype(np.float32) for n, s in shapes.items()} for _ in range(500)]
            edges = [{n: np.full(s, v, np.float32) for n, s in shapes.items()} for v in (-1, 1)]
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.representative_dataset = lambda: iter(samples + edges)
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type = converter.inference_output_type = tf.int8
        return bytes(converter.convert())
