"""One recipe's bytes from a SavedModel that is ready for the converter.

Settings are those of TensorFlow's post-training quantization guides. Runs in the child process only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfx_mobile.errors import CalibrationError
from tfx_mobile.recipes import ConversionRecipe
from tfx_mobile.tflite_converter import failures

Representative = Callable[[], Iterator[dict[str, Any]]]


def convert(
    recipe: ConversionRecipe,
    saved_model: str,
    signature_key: str,
    representative: Representative,
    *,
    allow_select_tf_ops: bool = False,
) -> bytes:
    """The `.tflite` bytes of one variant.

    Args:
        recipe: What to make.
        saved_model: Local path of the SavedModel.
        signature_key: The signature to convert.
        representative: Gives the representative dataset anew at each call: one dict of arrays by input name per
            sample, each [batch, ...].
        allow_select_tf_ops: Whether ops without a builtin kernel may stay TensorFlow ops.
    """
    try:
        return _convert(recipe, saved_model, signature_key, representative, select_tf_ops=False)
    except Exception as error:
        # Without first: a model that needs none gives the same bytes whether they are allowed or not.
        if not allow_select_tf_ops or not failures.ops_without_builtin(str(error)):
            raise
    return _convert(recipe, saved_model, signature_key, representative, select_tf_ops=True)


def _convert(
    recipe: ConversionRecipe,
    saved_model: str,
    signature_key: str,
    representative: Representative,
    *,
    select_tf_ops: bool,
) -> bytes:
    converter = tf.lite.TFLiteConverter.from_saved_model(saved_model, signature_keys=[signature_key])
    if recipe.quantization != "none":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if recipe.quantization == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if recipe.calibrates:
        converter.representative_dataset = lambda: map(_as_the_calibrator_reads, representative())
    if recipe.quantization == "integer_only":
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.as_dtype(recipe.io_dtype)
    if recipe.quantization == "int16x8":
        # With float fallback: without it, one op of a Transform graph that has no 16x8 kernel fails the whole recipe.
        converter.target_spec.supported_ops = [
            tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8,
            tf.lite.OpsSet.TFLITE_BUILTINS,
        ]
    if select_tf_ops:
        converter.target_spec.supported_ops = [*converter.target_spec.supported_ops, tf.lite.OpsSet.SELECT_TF_OPS]
    data: bytes = converter.convert()
    return data


def _as_the_calibrator_reads(sample: Mapping[str, Any]) -> dict[str, Any]:
    """A sample whose strings are what TensorFlow's calibrator takes them for.

    It makes one string of the bytes of a whole array, without a word: of the pointers of an array of objects, and with
    the padding of an array of fixed-width strings. So a string is right only alone and at its exact length, and else
    the ranges are learned from words that are in no vocabulary.

    Raises:
        CalibrationError: An input has more than one string.
    """
    return {name: _exact(name, value) if value.dtype.kind in "OSU" else value for name, value in sample.items()}


def _exact(name: str, value: Any) -> Any:
    if value.size != 1:
        raise CalibrationError(
            f"Input {name!r} takes {value.size} strings at once, of shape {list(value.shape)}; TensorFlow's calibrator "
            "reads one. Calibrate with batch_size=1 or 'dynamic', and one string per example in each input."
        )
    text = value.item()
    data = text.encode() if isinstance(text, str) else bytes(text)
    # Only inside a structure does numpy make an element of no bytes; the empty string needs one.
    return np.array([(data,)], np.dtype([("text", f"S{len(data)}")]))["text"].reshape(value.shape)
