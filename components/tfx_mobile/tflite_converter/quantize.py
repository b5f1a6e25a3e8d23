"""One recipe's bytes from a SavedModel that is ready for the converter.

Settings are those of TensorFlow's post-training quantization guides. Runs in the child process only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow as tf

from tfx_mobile.recipes import ConversionRecipe

Representative = Callable[[], Iterator[dict[str, Any]]]


def convert(
    recipe: ConversionRecipe,
    saved_model: str,
    signature_key: str,
    representative: Representative | None,
    *,
    has_state: bool = False,
) -> bytes:
    """The `.tflite` bytes of one variant.

    Args:
        recipe: What to make.
        saved_model: Local path of the SavedModel.
        signature_key: The signature to convert.
        representative: Gives the representative dataset anew at each call: one dict of arrays by input name per
            sample, each [batch, ...]. None if nothing is to be calibrated: the recipe needs no ranges, or they are in
            the graph.
        has_state: Whether the signature assigns variables; they become variables of the `.tflite`.
    """
    if recipe.float_layers:
        return FloatLayersConverter(saved_model, signature_key, representative).convert(recipe.float_layers)
    converter = tf.lite.TFLiteConverter.from_saved_model(saved_model, signature_keys=[signature_key])
    converter.experimental_enable_resource_variables = has_state
    if recipe.quantization != "none":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if recipe.quantization == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if representative is not None:
        converter.representative_dataset = representative
    if recipe.quantization == "integer_only":
        if representative is not None:
            # TensorFlow refuses this without a representative dataset. With trained ranges the inspection of the file
            # sees to it that nothing computes in float.
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.as_dtype(recipe.io_dtype)
    if recipe.quantization == "int16x8":
        # With float fallback: without it, one op of a Transform graph that has no 16x8 kernel fails the whole recipe.
        converter.target_spec.supported_ops = [
            tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8,
            tf.lite.OpsSet.TFLITE_BUILTINS,
        ]
    data: bytes = converter.convert()
    return data


class FloatLayersConverter:
    """Converts to `full_integer` with some layers left in float, through TensorFlow's QuantizationDebugger.

    Calibrates once, when it is made.
    """

    def __init__(self, saved_model: str, signature_key: str, representative: Representative | None) -> None:
        """Calibrates.

        Args:
            saved_model: As for `convert`.
            signature_key: As for `convert`.
            representative: As for `convert`.
        """
        converter = tf.lite.TFLiteConverter.from_saved_model(saved_model, signature_keys=[signature_key])
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = representative
        # The debug dataset is for statistics, which nobody asks for.
        self._debugger = tf.lite.experimental.QuantizationDebugger(converter=converter, debug_dataset=lambda: iter(()))

    def convert(self, float_layers: Sequence[str]) -> bytes:
        """The `.tflite` bytes with these layers in float; names that the model does not have are ignored."""
        self._debugger.options = tf.lite.experimental.QuantizationDebugOptions(denylisted_nodes=list(float_layers))
        data: bytes = self._debugger.get_nondebug_quantized_model()
        return data
