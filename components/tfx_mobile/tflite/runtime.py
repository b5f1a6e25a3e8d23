"""Runs a `.tflite` file by signature, with inputs rounded and saturated as the runtime's own kernel does it.

Open only files that passed `flatbuffer.inspect_model` and `preflight` in this process: a loader may abort it.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from tfx_mobile.errors import ModelFileError
from tfx_mobile.records import TensorRecord
from tfx_mobile.tflite.flatbuffer import select_tf_ops

Array = npt.NDArray[Any]


def runtime_name(select_tf_ops: bool) -> str:
    """Name and version of the interpreter that runs a file here, found without importing it.

    Args:
        select_tf_ops: Whether the file holds Select TensorFlow (Flex) ops.
    """
    package = _package(select_tf_ops)
    return f"{package} {importlib.metadata.version(package)}"


def _package(select_tf_ops: bool) -> str:
    # Only TensorFlow's interpreter has its kernels linked in. It also stands in on platforms without a wheel of the
    # other; both have the same interface.
    if select_tf_ops or importlib.util.find_spec("ai_edge_litert") is None:
        return "tensorflow"
    return "ai-edge-litert"


def interpreter_class(select_tf_ops: bool) -> Any:
    """The interpreter that runs a file here.

    Args:
        select_tf_ops: Whether the file holds Select TensorFlow (Flex) ops.
    """
    if _package(select_tf_ops) == "tensorflow":
        from tensorflow.lite.python.interpreter import Interpreter
    else:
        from ai_edge_litert.interpreter import Interpreter
    return Interpreter


def quantize(values: Array, scale: float, zero_point: int, dtype: npt.DTypeLike) -> Array:
    """Quantizes real values as TensorFlow Lite's QUANTIZE kernel does.

    q = saturate(round_half_to_even(values / scale) + zero_point), divided in float32. Rounding comes before the zero
    point is added and saturation before the cast; the other orders differ at ties and wrap around at the limits.

    Args:
        values: Finite real values, any shape.
        scale: Positive step of one quantum.
        zero_point: The quantum that means 0.0.
        dtype: Integer type of the result.

    Raises:
        ValueError: A value is NaN or infinite.
    """
    values = np.asarray(values, np.float32)
    if not np.isfinite(values).all():
        raise ValueError("cannot quantize NaN or infinite values")
    limits = np.iinfo(dtype)
    # Added and clipped in float64: a quantum of int32 size is not exact in float32.
    quanta = np.rint(values / np.float32(scale)).astype(np.float64) + zero_point
    saturated: Array = np.clip(quanta, limits.min, limits.max).astype(dtype)
    return saturated


def dequantize(quanta: Array, scale: float, zero_point: int) -> Array:
    """Real values, float32, of quanta: (quanta - zero_point) * scale."""
    values: Array = (quanta.astype(np.float32) - np.float32(zero_point)) * np.float32(scale)
    return values


class SignatureRunner:
    """Runs one signature of a `.tflite` file on batches of real values.

    Attributes:
        inputs: By signature name.
        outputs: By signature name.
        runtime: Name and version of the interpreter.
    """

    def __init__(self, model: bytes, signature_key: str | None = None) -> None:
        """Loads the file.

        Args:
            model: The file's bytes; checked before.
            signature_key: Which signature; None if the file has only one.

        Raises:
            ModelFileError: There is no such signature, or the interpreter refuses the file.
        """
        flex = bool(select_tf_ops(model))
        self.runtime = runtime_name(flex)
        try:
            self._interpreter = interpreter_class(flex)(model_content=model, num_threads=1)
            keys = list(self._interpreter.get_signature_list())
            if signature_key is None and len(keys) == 1:
                signature_key = keys[0]
            if signature_key not in keys:
                raise ModelFileError(f"No signature {signature_key!r}; the file has: {', '.join(keys) or 'none'}.")
            self._runner = self._interpreter.get_signature_runner(signature_key)
        except (ValueError, RuntimeError) as error:
            raise ModelFileError(f"The interpreter refuses the file: {error}") from None
        self.inputs = {name: _tensor_record(name, d) for name, d in self._runner.get_input_details().items()}
        self.outputs = {name: _tensor_record(name, d) for name, d in self._runner.get_output_details().items()}
        sizes = {t.shape[0] if t.shape else None for t in self.inputs.values()}
        #: Fixed number of rows the file takes at once; None if it takes any.
        self.batch_size: int | None = None if -1 in sizes else next(iter(sizes - {None}), 1)

    def run(self, features: Mapping[str, Array]) -> dict[str, Array]:
        """Runs the model on rows of real values.

        Args:
            features: By input name; real values of shape [rows, ...]. Names the model does not know are ignored. A
                flat feature of the right number of elements is reshaped, since tf.Examples know no shapes.

        Returns:
            By output name: float32 if the output is quantized, else its own type; shape [rows, ...].

        Raises:
            KeyError: An input has no feature; the message names both.
            ValueError: A feature has the wrong number of elements, or cannot be represented in the input's type.
            RuntimeError: The interpreter failed.
        """
        tensors = self.to_tensors(features)
        rows = len(next(iter(tensors.values())))
        if self.batch_size is None:
            return self._run(tensors)
        step = self.batch_size
        if rows % step:
            raise ValueError(f"{rows} rows do not fill batches of {step}")
        parts = [self._run({n: t[i : i + step] for n, t in tensors.items()}) for i in range(0, rows, step)]
        return {name: np.concatenate([part[name] for part in parts]) for name in self.outputs}

    def to_tensors(self, features: Mapping[str, Array]) -> dict[str, Array]:
        """The input tensors that `run` feeds to the file, in its own dtypes, by input name.

        Args:
            features: As for `run`.

        Raises:
            KeyError: As for `run`.
            ValueError: As for `run`.
        """
        missing = sorted(self.inputs.keys() - features.keys())
        if missing:
            raise KeyError(f"no feature for model input {', '.join(missing)}; there are: {', '.join(sorted(features))}")
        return {name: self._to_tensor(record, features[name]) for name, record in self.inputs.items()}

    def invoke(self, tensors: Mapping[str, Array]) -> dict[str, Array]:
        """Runs the file once on input tensors in its own dtypes; returns its output tensors as they are, by name.

        Raises:
            ValueError: A tensor has another dtype or shape than the file takes.
            RuntimeError: The interpreter failed.
        """
        return {name: np.array(value) for name, value in self._runner(**tensors).items()}

    def _to_tensor(self, record: TensorRecord, values: Array) -> Array:
        values = np.asarray(values)
        shape = (len(values), *record.shape[1:])
        if -1 not in shape[1:] and values.shape != shape:
            if values.size != np.prod(shape):
                raise ValueError(
                    f"model input {record.name!r} takes rows of shape {list(shape[1:])}, "
                    f"the feature has rows of shape {list(values.shape[1:])}"
                )
            values = values.reshape(shape)
        if record.dtype == "string":
            return values.astype(object)
        if record.scale is not None and record.zero_point is not None:
            if not np.issubdtype(values.dtype, np.number):
                raise ValueError(f"model input {record.name!r} is numeric, the feature is {values.dtype}")
            try:
                return quantize(values, record.scale, record.zero_point, record.dtype)
            except ValueError as error:
                raise ValueError(f"model input {record.name!r}: {error}") from None
        if not np.can_cast(values.dtype, record.dtype, "same_kind"):
            raise ValueError(f"model input {record.name!r} is {record.dtype}, the feature is {values.dtype}")
        return values.astype(record.dtype)

    def _run(self, tensors: dict[str, Array]) -> dict[str, Array]:
        outputs = self._runner(**tensors)
        return {name: self._to_real(record, outputs[name]) for name, record in self.outputs.items()}

    def _to_real(self, record: TensorRecord, values: Array) -> Array:
        if record.scale is not None and record.zero_point is not None:
            return dequantize(values, record.scale, record.zero_point)
        return np.array(values)


def _tensor_record(name: str, detail: Mapping[str, Any]) -> TensorRecord:
    scale, zero_point = detail["quantization"]
    dtype = np.dtype(detail["dtype"])
    return TensorRecord(
        name=name,
        dtype="string" if dtype.kind in "SO" else dtype.name,
        shape=tuple(int(size) for size in detail["shape_signature"]),
        scale=float(scale) if scale else None,
        zero_point=int(zero_point) if scale else None,
    )
