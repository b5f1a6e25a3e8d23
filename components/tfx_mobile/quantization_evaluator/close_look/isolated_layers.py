"""The error that each quantized layer makes by itself, measured on the very bytes that were judged.

An error measured against the float model's activations would blame the last layers for what the first ones did. So the
float32 file is rebuilt with every activation cut open: each float layer reads what the quantized file computed up to
there, dequantized, and its output is what that layer should have made of it. TensorFlow's QuantizationDebugger defines
a layer's error in the same way, but needs the representative dataset and measures a file that it converts anew.

Runs native code: call it in a child process only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import flatbuffers
import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema

from tfx_mobile.records import LayerError
from tfx_mobile.tflite.flatbuffer import op_name, read_model, select_tf_ops, text, type_name
from tfx_mobile.tflite.runtime import dequantize, interpreter_class, quantize

Array = npt.NDArray[Any]
_INTEGERS = ("int8", "uint8", "int16")
_CONVERSIONS = ("QUANTIZE", "DEQUANTIZE")
# Share of the mean square below which a channel counts as constant.
_STILL = 1e-9


class CannotCompareError(Exception):
    """The two files cannot be compared layer by layer; the message says why."""


@dataclass(frozen=True)
class _Layer:
    """A float layer, or an input, and its counterpart.

    Attributes:
        name: Name of its first output in the float32 file.
        op: The operator that makes it in the quantized file; `QUANTIZE` for an input.
        output: Index of that output in the rebuilt float32 file.
        quantized_output: Index of the tensor that stands for it in the quantized file.
        index: Position in the quantized file of the operator that makes it; -1 for an input in integers.
        scale: Step of that tensor.
    """

    name: str
    op: str
    output: int
    quantized_output: int
    index: int
    scale: float


def measure(float_model: bytes, quantized_model: bytes, rows: Sequence[Mapping[str, Array]]) -> list[LayerError]:
    """Errors of the layers of a quantized file, in its order.

    Args:
        float_model: Bytes of the float32 file that was made of the same model.
        quantized_model: Bytes of the quantized file.
        rows: Real values by input name, [1, ...] each.

    Raises:
        CannotCompareError: The files have nothing in common that could be compared.
        RuntimeError: The interpreter failed.
        ValueError: The interpreter refused a file or a row.
    """
    floats, quantized = _Graph(float_model), _Graph(quantized_model)
    stand_ins = quantized.stand_ins()
    replaced = floats.cut_open(stand_ins)
    layers = _layers(floats, quantized, stand_ins)
    if not layers:
        raise CannotCompareError("No tensor of the file has integers and the name of a tensor of the float32 variant.")
    sums = [_Sums() for _ in layers]
    judged, twin = _Interpreter(quantized_model), _Interpreter(floats.to_bytes())
    for row in rows:
        judged.run({index: row[name] for name, index in quantized.inputs.items()})
        twin.run(
            {index: row[name] for name, index in floats.inputs.items()}
            | {fresh: judged.real(stand_ins[name]) for name, fresh in replaced.items()}
        )
        for layer, layer_sums in zip(layers, sums, strict=True):
            layer_sums.add(judged.real(layer.quantized_output), twin.real(layer.output))
    return [layer_sums.to_error(layer) for layer, layer_sums in zip(layers, sums, strict=True) if layer_sums.num_values]


class _Graph:
    """The main subgraph of a file, to be read and changed."""

    def __init__(self, data: bytes) -> None:
        self._model = read_model(data)
        self.graph = self._model.subgraphs[0]
        self.tensors = self.graph.tensors or []
        self.operators = self.graph.operators or []
        signatures = [s for s in self._model.signatureDefs or [] if s.subgraphIndex == 0]
        if not signatures:
            raise CannotCompareError("The main subgraph of a file has no signature.")
        #: Tensor index by signature name.
        self.inputs = {text(m.name): int(m.tensorIndex) for m in signatures[0].inputs or []}
        self.made_by = {int(i): k for k, op in enumerate(self.operators) for i in _list(op.outputs)}

    def op(self, position: int) -> str:
        return op_name(self._model, self.operators[position])

    def name(self, index: int) -> str:
        return text(self.tensors[index].name)

    def is_activation(self, index: int) -> bool:
        return index in self.made_by or index in self.inputs.values()

    def scale(self, index: int) -> float | None:
        """Step of a tensor of integers with one scale; None for any other."""
        tensor = self.tensors[index]
        scales = _list(tensor.quantization.scale) if tensor.quantization is not None else []
        return float(scales[0]) if type_name(tensor.type) in _INTEGERS and len(scales) == 1 else None

    def stand_ins(self) -> dict[str, int]:
        """For a quantized file: which tensor holds the values of a float tensor of that name.

        Tensors keep their names when they are quantized, but for those beside a QUANTIZE or DEQUANTIZE: there the
        float tensor keeps the name, and the integers next to it are what layers read and write.
        """
        found = {self.name(i): i for i in range(len(self.tensors)) if self.is_activation(i)}
        for position, op in enumerate(self.operators):
            if self.op(position) not in _CONVERSIONS:
                continue
            source, target = int(op.inputs[0]), int(op.outputs[0])
            if not self.is_activation(source):
                continue
            if self.scale(source) is None:
                if self.scale(target) is not None:
                    found[self.name(source)] = target
            elif self.scale(target) is None or target in self.graph.outputs:
                # Also integers that become the dtype of an output of integers: the layer made them before.
                found[self.name(target)] = source
        return found

    def cut_open(self, stand_ins: Mapping[str, int]) -> dict[str, int]:
        """For a float file: makes layers read new inputs in place of the activations in `stand_ins`.

        Returns:
            Index of the new input by the name of the activation; activations that no layer reads are not among them.
        """
        fresh: dict[int, int] = {}
        for op in self.operators:
            op.inputs = np.array(_list(op.inputs), np.int32)  # what was read is a view into the file
            for place, index in enumerate(op.inputs.tolist()):
                tensor = self.tensors[index] if index >= 0 else None
                if tensor is None or tensor.isVariable or type_name(tensor.type) != "float32":
                    continue
                if not self.is_activation(index) or self.name(index) not in stand_ins:
                    continue
                if index not in fresh:
                    fresh[index] = self._add_input(tensor)
                op.inputs[place] = fresh[index]
        return {self.name(index): new for index, new in fresh.items()}

    def _add_input(self, like: Any) -> int:
        tensor = schema.TensorT()
        tensor.name = b"dequantized/" + (like.name or b"")
        tensor.type, tensor.shape, tensor.shapeSignature = like.type, like.shape, like.shapeSignature
        tensor.hasRank = like.hasRank
        # Buffer 0 is the empty one, by the schema's convention.
        tensor.buffer = 0
        self.tensors.append(tensor)
        self.graph.inputs = np.append(self.graph.inputs, np.int32(len(self.tensors) - 1))
        return len(self.tensors) - 1

    def to_bytes(self) -> bytes:
        # The signature does not know the new inputs, and layers are reached by tensor index.
        self._model.signatureDefs = None
        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(self._model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


def _layers(floats: _Graph, quantized: _Graph, stand_ins: Mapping[str, int]) -> list[_Layer]:
    layers = []
    # What is lost before the first layer: no operator rounds an input that the file takes in integers.
    for index in floats.inputs.values():
        counterpart = stand_ins.get(floats.name(index), -1)
        if counterpart >= 0 and (scale := quantized.scale(counterpart)) is not None:
            position = quantized.made_by.get(counterpart, -1)
            layers.append(_Layer(floats.name(index), "QUANTIZE", index, counterpart, position, scale))
    for op in floats.operators:
        output = int(op.outputs[0]) if len(_list(op.outputs)) else -1
        if output < 0 or type_name(floats.tensors[output].type) != "float32":
            continue
        counterpart = stand_ins.get(floats.name(output), -1)
        if counterpart not in quantized.made_by or (scale := quantized.scale(counterpart)) is None:
            continue
        index = quantized.made_by[counterpart]
        layers.append(_Layer(floats.name(output), quantized.op(index), output, counterpart, index, scale))
    return sorted(layers, key=lambda layer: layer.index)


class _Interpreter:
    def __init__(self, model: bytes) -> None:
        flex = bool(select_tf_ops(model))
        if flex:
            from tensorflow.lite.python.interpreter import OpResolverType
        else:
            from ai_edge_litert.interpreter import OpResolverType
        self._interpreter = interpreter_class(flex)(
            model_content=model,
            num_threads=1,
            # What is between two layers can be read only of the builtin kernels, not of a delegate.
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            experimental_preserve_all_tensors=True,
        )
        self._interpreter.allocate_tensors()
        self._known: dict[int, tuple[float, int]] = {}

    def run(self, values: Mapping[int, Array]) -> None:
        """Runs one row.

        Args:
            values: By tensor index, real values of every input: of one row, repeated if the file wants more.
        """
        details = {detail["index"]: detail for detail in self._interpreter.get_input_details()}
        stored = {index: _as_stored(value, details[index]) for index, value in values.items()}
        resized = [index for index, value in stored.items() if tuple(details[index]["shape"]) != value.shape]
        for index in resized:
            self._interpreter.resize_tensor_input(index, stored[index].shape)
        if resized:
            self._interpreter.allocate_tensors()
        # A row knows nothing of the one before, in a file with state as in any other.
        self._interpreter.reset_all_variables()
        for index, value in stored.items():
            self._interpreter.set_tensor(index, value)
        self._interpreter.invoke()

    def real(self, index: int) -> Array:
        """Real values of a tensor."""
        values = self._interpreter.get_tensor(index)
        scale, zero_point = self._quantization(index)
        return dequantize(values, scale, zero_point) if scale else np.array(values)

    def _quantization(self, index: int) -> tuple[float, int]:
        if index not in self._known:
            self._known = {d["index"]: d["quantization"] for d in self._interpreter.get_tensor_details()}
        scale, zero_point = self._known[index]
        return float(scale), int(zero_point)


def _as_stored(values: Array, detail: Mapping[str, Any]) -> Array:
    sizes = [int(size) for size in detail["shape_signature"]]
    if sizes and sizes[0] > len(values):
        values = np.repeat(values, sizes[0] // len(values), axis=0)
    scale, zero_point = detail["quantization"]
    if scale:
        return quantize(values, float(scale), int(zero_point), detail["dtype"])
    return values if np.dtype(detail["dtype"]).kind in "SO" else values.astype(detail["dtype"])


class _Sums:
    """Running sums over rows of a layer's error and of what it should have made, by channel of the last axis."""

    def __init__(self) -> None:
        self.num_values = 0
        self._max = 0.0
        self._sums: Array | None = None

    def add(self, actual: Array, expected: Array) -> None:
        channels = expected.shape[-1] if expected.ndim > 1 else 1
        wanted = expected.reshape(-1, channels).astype(np.float64)
        error = actual.reshape(-1, channels).astype(np.float64) - wanted
        if not np.isfinite(error).all():
            return
        sums = np.stack([np.full(channels, len(wanted)), wanted.sum(0), (wanted**2).sum(0), (error**2).sum(0)])
        self._sums = sums if self._sums is None else self._sums + sums
        self._max = max(self._max, float(np.abs(error).max(initial=0.0)))
        self.num_values += error.size

    def to_error(self, layer: _Layer) -> LayerError:
        assert self._sums is not None  # noqa: S101 (only layers with values are asked for)
        count, total, squares, errors = self._sums
        mean_squared_error = float(errors.sum() / count.sum())
        variance = squares / count - (total / count) ** 2
        # Channels that hardly move have no signal to compare with; rounding decides about them.
        moving = variance > np.maximum(_STILL * squares / count, np.finfo(np.float64).tiny)
        shares = errors[moving] / count[moving] / variance[moving]
        return LayerError(
            name=layer.name,
            op=layer.op,
            index=layer.index,
            rmse_over_scale=_rounded(math.sqrt(mean_squared_error) / layer.scale),
            mean_squared_error=_rounded(mean_squared_error),
            max_absolute_error=_rounded(self._max),
            relative_error=_rounded(float(np.sqrt(shares).mean())) if moving.any() else None,
        )


def _rounded(value: float) -> float:
    return float(f"{value:.10g}")


def _list(values: Any) -> list[Any]:
    return [] if values is None else list(values)
