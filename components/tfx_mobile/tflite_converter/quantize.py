"""One recipe's bytes from a SavedModel that is ready for the converter.

Settings are those of TensorFlow's post-training quantization guides. Runs in the child process only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import tensorflow as tf

from tfx_mobile.recipes import ConversionRecipe
from tfx_mobile.tflite_converter import int4

Representative = Callable[[], Iterator[dict[str, Any]]]


def convert(
    recipe: ConversionRecipe, saved_model: str, signature_key: str, representative: Representative, float_file: Path
) -> bytes:
    """The `.tflite` bytes of one variant.

    Args:
        recipe: What to make.
        saved_model: Local path of the SavedModel.
        signature_key: The signature to convert.
        representative: Gives the representative dataset anew at each call: one dict of arrays by input name per
            sample, each [batch, ...].
        float_file: Where the float32 file of this source is kept once it is made; recipes of the source share it.
    """
    if recipe.quantization in ("none", "int4"):
        data = _float32(saved_model, signature_key, float_file)
        return int4.quantize(data) if recipe.quantization == "int4" else data
    converter = tf.lite.TFLiteConverter.from_saved_model(saved_model, signature_keys=[signature_key])
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if recipe.quantization == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if recipe.calibrates:
        converter.representative_dataset = representative
    if recipe.quantization == "integer_only":
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.as_dtype(recipe.io_dtype)
    if recipe.quantization == "int16x8":
        # With float fallback: without it, one op of a Transform graph that has no 16x8 kernel fails the whole recipe.
        converter.target_spec.supported_ops = [
            tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8,
            tf.lite.OpsSet.TFLITE_BUILTINS,
        ]
    return bytes(converter.convert())


def _float32(saved_model: str, signature_key: str, file: Path) -> bytes:
    if not file.exists():
        converter = tf.lite.TFLiteConverter.from_saved_model(saved_model, signature_keys=[signature_key])
        unfinished = file.with_suffix(".unfinished")
        unfinished.write_bytes(converter.convert())
        unfinished.rename(file)
    return file.read_bytes()
