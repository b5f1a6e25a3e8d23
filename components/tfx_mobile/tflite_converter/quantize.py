"""One recipe's bytes from a SavedModel that is ready for the converter.

Settings are those of TensorFlow's post-training quantization guides. Runs in the child process only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import tensorflow as tf

from tfx_mobile.errors import CalibrationError
from tfx_mobile.recipes import ConversionRecipe
from tfx_mobile.tflite_converter import failures

Representative = Callable[[], Iterator[dict[str, Any]]]
_T = TypeVar("_T")


def convert(
    recipe: ConversionRecipe,
    saved_model: str,
    signature_key: str,
    representative: Representative | None,
    *,
    allow_select_tf_ops: bool = False,
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
        allow_select_tf_ops: Whether ops without a builtin kernel may stay TensorFlow ops.
        has_state: Whether the signature assigns variables; they become variables of the `.tflite`.
    """

    def attempt(select_tf_ops: bool) -> bytes:
        if recipe.float_layers:
            layers = FloatLayersConverter(saved_model, signature_key, representative, select_tf_ops=select_tf_ops)
            return layers.convert(recipe.float_layers)
        return _convert(
            recipe, saved_model, signature_key, representative, select_tf_ops=select_tf_ops, has_state=has_state
        )

    return with_select_tf_ops_if_needed(attempt, allow_select_tf_ops)


def with_select_tf_ops_if_needed(attempt: Callable[[bool], _T], allowed: bool) -> _T:
    """Calls `attempt(select_tf_ops)` without Select TensorFlow ops, and with them if it needs them and may have them.

    Without first: a model that needs none gives the same bytes whether they are allowed or not.
    """
    try:
        return attempt(False)
    except Exception as error:
        if not allowed or not failures.ops_without_builtin(str(error)):
            raise
    return attempt(True)


def _convert(
    recipe: ConversionRecipe,
    saved_model: str,
    signature_key: str,
    representative: Representative | None,
    *,
    select_tf_ops: bool,
    has_state: bool,
) -> bytes:
    converter = tf.lite.TFLiteConverter.from_saved_model(saved_model, signature_keys=[signature_key])
    converter.experimental_enable_resource_variables = has_state
    if recipe.quantization != "none":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if recipe.quantization == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if representative is not None:
        converter.representative_dataset = readable(representative)
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
    if select_tf_ops:
        converter.target_spec.supported_ops = [*converter.target_spec.supported_ops, tf.lite.OpsSet.SELECT_TF_OPS]
    data: bytes = converter.convert()
    return data


class FloatLayersConverter:
    """Converts to `full_integer` with some layers left in float, through TensorFlow's QuantizationDebugger.

    Calibrates once, when it is made.
    """

    def __init__(
        self,
        saved_model: str,
        signature_key: str,
        representative: Representative | None,
        *,
        select_tf_ops: bool = False,
    ) -> None:
        """Calibrates.

        Args:
            saved_model: As for `convert`.
            signature_key: As for `convert`.
            representative: As for `convert`.
            select_tf_ops: Whether ops without a builtin kernel stay TensorFlow ops.
        """
        converter = tf.lite.TFLiteConverter.from_saved_model(saved_model, signature_keys=[signature_key])
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = None if representative is None else readable(representative)
        if select_tf_ops:
            converter.target_spec.supported_ops = [*converter.target_spec.supported_ops, tf.lite.OpsSet.SELECT_TF_OPS]
        # The debug dataset is for statistics, which nobody asks for.
        self._debugger = tf.lite.experimental.QuantizationDebugger(converter=converter, debug_dataset=lambda: iter(()))

    def convert(self, float_layers: Sequence[str]) -> bytes:
        """The `.tflite` bytes with these layers in float; names that the model does not have are ignored."""
        self._debugger.options = tf.lite.experimental.QuantizationDebugOptions(denylisted_nodes=list(float_layers))
        data: bytes = self._debugger.get_nondebug_quantized_model()
        return data


def readable(representative: Representative) -> Representative:
    """The same dataset in the form that TensorFlow's calibrator reads without mistakes."""
    return lambda: map(_as_the_calibrator_reads, representative())


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
