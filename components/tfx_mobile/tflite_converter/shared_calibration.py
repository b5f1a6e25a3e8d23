"""Converts and calibrates once for all integer recipes of one batch size.

TensorFlow's public converter converts the model to float and calibrates it anew for every recipe, for `int16x8` twice.
The steps behind it can be called one by one: the float32 file is converted once, calibrated once, and each recipe
quantizes that. The result has the same bytes as the public converter's. The steps are no public interface of
TensorFlow, so everything here raises `CannotShareError` where they are missing or look different, and the caller then
uses the public converter. Runs in the child process only.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import tensorflow as tf

from tfx_mobile.recipes import ConversionRecipe
from tfx_mobile.tflite.flatbuffer import op_name
from tfx_mobile.tflite_converter import quantize

# Recurrent layers keep state in variables or in subgraphs, and a model that was trained with quantization in mind holds
# its own ranges. TensorFlow treats both differently if it knows already in the float conversion what comes next.
_OWN_STATE = frozenset({
    "FAKE_QUANT", "QUANTIZE", "DEQUANTIZE", "WHILE", "IF", "CALL_ONCE", "VAR_HANDLE", "READ_VARIABLE",
    "ASSIGN_VARIABLE", "LSTM", "UNIDIRECTIONAL_SEQUENCE_LSTM", "BIDIRECTIONAL_SEQUENCE_LSTM", "RNN",
    "UNIDIRECTIONAL_SEQUENCE_RNN", "BIDIRECTIONAL_SEQUENCE_RNN", "SVDF", "HASHTABLE",
})  # fmt: skip


class CannotShareError(Exception):
    """This TensorFlow or this model needs a calibration per recipe."""


def _steps() -> Any:
    """TensorFlow's own steps, checked.

    Raises:
        CannotShareError: They are missing, or take other parameters than the ones that are used here.
    """
    try:
        from tensorflow.lite.python import conversion_metadata_schema_py_generated as conversion_metadata
        from tensorflow.lite.python import util
        from tensorflow.lite.python.convert import deduplicate_readonly_buffers, mlir_quantize
        from tensorflow.lite.python.optimize.calibrator import Calibrator, add_intermediate_tensors
        from tensorflow.lite.tools import flatbuffer_utils

        steps = SimpleNamespace(
            add_intermediate_tensors=add_intermediate_tensors,
            calibrator=Calibrator,
            mlir_quantize=mlir_quantize,
            deduplicate=deduplicate_readonly_buffers,
            unpack=flatbuffer_utils.convert_bytearray_to_object,
            pack=flatbuffer_utils.convert_object_to_bytearray,
            get_metadata=util.get_conversion_metadata,
            set_metadata=util.populate_conversion_metadata,
            metadata_name=util.CONVERSION_METADATA_FIELD_NAME,
            full_integer_mode=conversion_metadata.ModelOptimizationMode.PTQ_FULL_INTEGER,
            int16_mode=conversion_metadata.ModelOptimizationMode.PTQ_INT16,
        )
        _require(mlir_quantize, "input_data_str", "input_data_type", "output_data_type", "denylisted_nodes")
        _require(Calibrator.calibrate, "dataset_gen")
        _require(
            Calibrator.calibrate_and_quantize,
            "dataset_gen", "input_type", "output_type", "allow_float", "activations_type", "bias_type",
        )  # fmt: skip
    except (ImportError, AttributeError) as error:
        raise CannotShareError(f"TensorFlow {tf.__version__} lacks a step: {error}") from None
    return steps


def _require(function: Callable[..., Any], *parameters: str) -> None:
    # Decorated functions show their wrapper's parameters; inspect.signature looks through functools.wraps.
    missing = set(parameters) - set(inspect.signature(function).parameters)
    if missing:
        raise CannotShareError(
            f"TensorFlow {tf.__version__}'s {function.__name__} has no parameter {', '.join(sorted(missing))}"
        )


class SharedCalibration:
    """One float conversion and one calibration of a SavedModel, and the recipes made from them.

    Both are kept as files, so that a fresh child goes on with them after a crash.
    """

    def __init__(
        self,
        saved_model: str,
        signature_key: str,
        representative: quantize.Representative,
        directory: str | Path,
        progress: Callable[[], None] = lambda: None,
    ) -> None:
        """Names what is shared; nothing is done yet.

        Args:
            saved_model: Local path of the SavedModel.
            signature_key: The signature to convert.
            representative: As for `quantize.convert`.
            directory: Local folder for the two files; one folder per SavedModel.
            progress: Called after each step.

        Raises:
            CannotShareError: This TensorFlow has other steps.
        """
        self._steps = _steps()
        self._saved_model = saved_model
        self._signature_key = signature_key
        self._representative = representative
        self._directory = Path(directory)
        self._progress = progress
        self._metadata: Any = None

    def float32(self) -> bytes:
        """The float32 file, as the public converter makes it."""
        return self._kept("float32.tflite", self._convert_to_float)

    def quantized(self, recipe: ConversionRecipe) -> bytes:
        """The file of a recipe that calibrates.

        Args:
            recipe: `full_integer`, with or without float layers, `integer_only` or `int16x8`. Float layers that the
                model does not have are ignored.

        Raises:
            CannotShareError: This model needs a calibration per recipe.
        """
        calibrated = self._kept("calibrated.tflite", self._calibrate)
        if recipe.quantization == "int16x8":
            # mlir_quantize would take int16 and make a file that does not load. The older quantizer finds the ranges in
            # the calibrated file, so it needs no samples of its own.
            data = self._steps.calibrator(calibrated).calibrate_and_quantize(
                lambda: iter(()),
                tf.float32,
                tf.float32,
                allow_float=True,
                activations_type=tf.int16,
                bias_type=tf.int64,
            )
            return self._finish(data, self._steps.int16_mode)
        io_dtype = tf.as_dtype(recipe.io_dtype)
        data = self._steps.mlir_quantize(
            calibrated,
            input_data_type=io_dtype,
            output_data_type=io_dtype,
            denylisted_nodes=list(recipe.float_layers) or None,
        )
        return self._finish(data, self._steps.full_integer_mode)

    def _kept(self, name: str, make: Callable[[], bytes]) -> bytes:
        path = self._directory / name
        if not path.exists():
            self._directory.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(".partial")
            partial.write_bytes(make())
            os.replace(partial, path)
            self._progress()
        return path.read_bytes()

    def _convert_to_float(self) -> bytes:
        recipe = ConversionRecipe(name="float32", quantization="none")
        return quantize.convert(recipe, self._saved_model, self._signature_key, None)

    def _calibrate(self) -> bytes:
        model = self._steps.unpack(self.float32())
        self._check(model)
        # The quantizer keeps metadata, and what it keeps would come before its own: the file would differ in order.
        metadata = model.metadata or []
        if not metadata or metadata[-1].name != self._steps.metadata_name.encode():
            raise CannotShareError("the float32 file does not end with the converter's metadata")
        if metadata.pop().buffer != len(model.buffers) - 1:
            raise CannotShareError("the converter's metadata is not the float32 file's last buffer")
        model.buffers.pop()
        plain = bytes(self._steps.pack(model))
        calibrator = self._steps.calibrator(self._steps.add_intermediate_tensors(plain))
        return bytes(calibrator.calibrate(quantize.readable(self._representative)))

    def _check(self, model: Any) -> None:
        if len(model.subgraphs) != 1:
            raise CannotShareError("the model has more than one graph")
        kinds = {op_name(model, op) for op in model.subgraphs[0].operators or []}
        if own := sorted(kinds & _OWN_STATE):
            raise CannotShareError(f"the model holds {', '.join(own)}")

    def _finish(self, data: bytes, mode: int) -> bytes:
        """Does what the public converter does at its end: merges equal buffers and writes its metadata."""
        if self._metadata is None:
            self._metadata = self._steps.get_metadata(self.float32())
        self._metadata.options.modelOptimizationModes = [mode]
        model = self._steps.unpack(bytes(self._steps.deduplicate(data)))
        return bytes(self._steps.pack(self._steps.set_metadata(model, self._metadata)))
