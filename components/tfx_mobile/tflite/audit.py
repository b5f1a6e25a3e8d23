"""Audits the integer tensors of a `.tflite` file against LiteRT's published quantization specification.

The converter is not obliged to anybody; hardware is. A file that departs from the specification may run on the CPU and
give other numbers, or none, on an accelerator. What is found is recorded, never raised.

Checked: the weights of convolutions and dense layers, their biases, the granularity and zero points of activations,
outputs with fixed parameters, and ops whose output must share its input's parameters. Not covered by the
specification, and so not checked: the old uint8 scheme, int4 weights, recurrent cells.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema

from tfx_mobile.records import Finding
from tfx_mobile.tflite.flatbuffer import buffer_bytes, op_name, text, type_name

SPECIFICATION = "https://ai.google.dev/edge/litert/models/quantization_spec"
#: The specification says nothing of 16-bit activations; asked of them is what the kernels refuse to run without.
INT16_KERNELS = "https://github.com/tensorflow/tensorflow/blob/master/tensorflow/lite/kernels/activations.cc"

#: More than this is not read by anybody; the rest is counted in one last finding.
MAX_FINDINGS = 500

_INT8, _INT16 = schema.TensorType.INT8, schema.TensorType.INT16
_INT32, _INT64 = schema.TensorType.INT32, schema.TensorType.INT64

# Places of data, weights and bias among the inputs, and the dimension weights may be quantized along.
_WEIGHTED_OPS = {
    "CONV_2D": (0, 1, 2, 0),
    "DEPTHWISE_CONV_2D": (0, 1, 2, 3),
    "FULLY_CONNECTED": (0, 1, 2, 0),
    "TRANSPOSE_CONV": (2, 1, 3, 0),
}

_FIXED_OUTPUTS = {
    ("SOFTMAX", _INT8): (1 / 256, -128),
    ("LOGISTIC", _INT8): (1 / 256, -128),
    ("TANH", _INT8): (1 / 128, 0),
    ("L2_NORMALIZATION", _INT8): (1 / 128, 0),
    ("LOG_SOFTMAX", _INT8): (16 / 256, 127),
    ("SOFTMAX", _INT16): (1 / 32768, 0),
    ("LOGISTIC", _INT16): (1 / 32768, 0),
    ("TANH", _INT16): (1 / 32768, 0),
}

# Ops of the specification whose inputs and output "must all have same scale/zero_point".
_SAME_PARAMETERS = frozenset(
    {
        *("AVERAGE_POOL_2D", "BATCH_TO_SPACE_ND", "CONCATENATION", "GATHER", "MAXIMUM", "MAX_POOL_2D", "MINIMUM"),
        *("PAD", "PADV2", "RESHAPE", "RESIZE_BILINEAR", "SLICE", "SPACE_TO_BATCH_ND", "SPACE_TO_DEPTH", "SQUEEZE"),
        "TRANSPOSE",
    }
)
_MULTIPLE_INPUTS = frozenset({"CONCATENATION", "MAXIMUM", "MINIMUM"})

# Scales are float32; a product of two is off by at most a few units in its last place.
_SCALE_TOLERANCE = 1e-5


def audit(model: Any, data: bytes) -> tuple[Finding, ...]:
    """Looks for departures from the quantization specification.

    Args:
        model: What `flatbuffer.read_model` returned for `data`.
        data: The file's bytes.

    Returns:
        The findings, by subgraph and operator, each tensor at most once per code; none for a file without integers.
    """
    found: dict[tuple[str, int, str], Finding] = {}
    more = 0
    for index, subgraph in enumerate(model.subgraphs):
        for finding in _Subgraph(model, subgraph, index, data).findings():
            if len(found) < MAX_FINDINGS:
                found.setdefault((finding.code, index, finding.tensor), finding)
            else:
                more += 1
    findings = list(found.values())
    if more:
        findings.append(
            Finding(
                code="more",
                subgraph=0,
                tensor="",
                op=None,
                value=f"{more:,} more",
                expected="none",
                source=SPECIFICATION,
            )
        )
    return tuple(findings)


class _Parameters:
    """Quantization parameters of a tensor as arrays."""

    def __init__(self, tensor: Any) -> None:
        quantization = tensor.quantization
        scales = quantization.scale if quantization is not None else None
        zero_points = quantization.zeroPoint if quantization is not None else None
        self.scales: npt.NDArray[np.float64] = np.asarray([] if scales is None else scales, np.float64)
        self.zero_points: npt.NDArray[np.int64] = np.asarray([] if zero_points is None else zero_points, np.int64)
        self.dimension = int(quantization.quantizedDimension) if quantization is not None else 0

    @property
    def exist(self) -> bool:
        return self.scales.size > 0

    @property
    def granularity(self) -> int:
        """How many distinct scales, or zero points, there are; that a list is long says nothing."""
        return max(len(np.unique(self.scales)), len(np.unique(self.zero_points)))

    @property
    def first(self) -> tuple[float, int]:
        return float(self.scales[0]), int(self.zero_points[0]) if self.zero_points.size else 0

    def __str__(self) -> str:
        scale, zero_point = self.first
        return _pair(scale, zero_point)


def _pair(scale: float, zero_point: int) -> str:
    return f"scale {scale:.9g}, zero point {zero_point}"


class _Subgraph:
    def __init__(self, model: Any, subgraph: Any, index: int, data: bytes) -> None:
        self._model = model
        self._subgraph = subgraph
        self._tensors = subgraph.tensors or []
        self._index = index
        self._data = data

    def findings(self) -> Iterator[Finding]:
        for number, op in enumerate(self._subgraph.operators or []):
            name = op_name(self._model, op)
            label = f"{number} {name}"
            inputs = [] if op.inputs is None else [int(i) for i in op.inputs]
            outputs = [] if op.outputs is None else [int(i) for i in op.outputs]
            if name in _WEIGHTED_OPS:
                yield from self._weighted(label, name, inputs)
            yield from self._fixed_output(label, name, outputs)
            if name in _SAME_PARAMETERS:
                yield from self._same_parameters(label, name, inputs, outputs)
        for index in range(len(self._tensors)):
            yield from self._tensor(index)

    def _finding(
        self, code: str, index: int, op: str | None, value: str, expected: str, source: str = SPECIFICATION
    ) -> Finding:
        return Finding(
            code=code,
            subgraph=self._index,
            tensor=text(self._tensors[index].name) or f"tensor {index}",
            op=op,
            value=value,
            expected=expected,
            source=source,
        )

    def _contents(self, index: int) -> npt.NDArray[np.uint8]:
        return buffer_bytes(self._model.buffers[self._tensors[index].buffer], self._data)

    def _at(self, inputs: list[int], place: int) -> int:
        # An optional input may be left out at the end, or be -1.
        return inputs[place] if place < len(inputs) else -1

    def _weighted(self, label: str, name: str, inputs: list[int]) -> Iterator[Finding]:
        data_place, weight_place, bias_place, dimension = _WEIGHTED_OPS[name]
        data, weight, bias = (self._at(inputs, place) for place in (data_place, weight_place, bias_place))
        if weight < 0 or self._tensors[weight].type != _INT8 or not len(self._contents(weight)):
            return
        parameters = self._parameters(weight)
        if self._tensors[weight].sparsity is None:
            lowest = int(self._contents(weight).view(np.int8).min())
            if lowest == -128:
                yield self._finding("weight_range", weight, label, "smallest weight -128", "weights in [-127, 127]")
        if parameters.exist:
            yield from self._weight_parameters(label, weight, parameters, dimension)
            if data >= 0 and bias >= 0 and self._tensors[data].type in (_INT8, _INT16):
                yield from self._bias(label, data, parameters, bias)

    def _weight_parameters(self, label: str, weight: int, parameters: _Parameters, dimension: int) -> Iterator[Finding]:
        if (nonzero := parameters.zero_points[parameters.zero_points != 0]).size:
            yield self._finding(
                "weight_zero_point", weight, label, f"zero point {nonzero[0]}", "zero point 0 for all weights"
            )
        if parameters.granularity <= 1:
            return  # per tensor, however many times the one scale is listed
        shape = self._tensors[weight].shape
        size = int(shape[dimension]) if shape is not None and dimension < len(shape) else None
        if (parameters.dimension, parameters.scales.size) != (dimension, size):
            yield self._finding(
                "weight_dimension",
                weight,
                label,
                f"{parameters.scales.size} scales along dimension {parameters.dimension}",
                f"one scale, or {size} along dimension {dimension}",
            )

    def _bias(self, label: str, data: int, weights: _Parameters, bias: int) -> Iterator[Finding]:
        tensor, inputs, parameters = self._tensors[bias], self._parameters(data), self._parameters(bias)
        # int16x8 may be converted with biases of either width.
        types = (_INT32,) if self._tensors[data].type == _INT8 else (_INT32, _INT64)
        if tensor.type not in types:
            expected = " or ".join(map(type_name, types))
            yield self._finding("bias_type", bias, label, type_name(tensor.type), expected)
            return
        if not (inputs.exist and parameters.exist):
            return
        if (nonzero := parameters.zero_points[parameters.zero_points != 0]).size:
            yield self._finding("bias_zero_point", bias, label, f"zero point {nonzero[0]}", "zero point 0")
        contents = self._contents(bias)
        if len(contents) and not contents.any():
            return  # Zeros are zero at any scale; the converter shares one such bias among operators of int16x8.
        expected_scales = inputs.scales[0] * weights.scales
        if weights.granularity <= 1:
            # A dense layer lists its one scale once per unit, and its bias has it once.
            expected_scales = expected_scales[:1]
        scales = parameters.scales
        if scales.size != expected_scales.size and expected_scales.size > 1:
            value, expected = f"{scales.size} scales", f"{expected_scales.size} scales, as the weights"
            yield self._finding("bias_scale", bias, label, value, expected)
            return
        wrong = np.flatnonzero(~np.isclose(scales, expected_scales, rtol=_SCALE_TOLERANCE, atol=0.0))
        if wrong.size:
            at = int(wrong[0])
            wanted = float(expected_scales[min(at, expected_scales.size - 1)])
            expected = f"input scale * weight scale = {wanted:.9g}"
            yield self._finding("bias_scale", bias, label, f"scale {scales[at]:.9g} at {at}", expected)

    def _fixed_output(self, label: str, name: str, outputs: list[int]) -> Iterator[Finding]:
        if not outputs or outputs[0] < 0:
            return
        tensor_type = self._tensors[outputs[0]].type
        wanted, parameters = _FIXED_OUTPUTS.get((name, tensor_type)), self._parameters(outputs[0])
        if wanted is None or not parameters.exist:
            return
        scale, zero_point = parameters.first
        if zero_point != wanted[1] or not math.isclose(scale, wanted[0], rel_tol=_SCALE_TOLERANCE):
            source = SPECIFICATION if tensor_type == _INT8 else INT16_KERNELS
            yield self._finding("fixed_output", outputs[0], label, str(parameters), _pair(*wanted), source)

    def _same_parameters(self, label: str, name: str, inputs: list[int], outputs: list[int]) -> Iterator[Finding]:
        if not outputs or outputs[0] < 0 or self._tensors[outputs[0]].type != _INT8:
            return
        output = self._parameters(outputs[0])
        for index in inputs if name in _MULTIPLE_INPUTS else inputs[:1]:
            if index < 0 or self._tensors[index].type != _INT8:
                continue
            parameters = self._parameters(index)
            if parameters.exist and output.exist and not _equal(parameters.first, output.first):
                yield self._finding(
                    "same_parameters", outputs[0], label, str(output), f"those of its input: {parameters}"
                )
                return

    def _tensor(self, index: int) -> Iterator[Finding]:
        tensor, parameters = self._tensors[index], self._parameters(index)
        if tensor.type not in (_INT8, _INT16, _INT32, _INT64) or not parameters.exist:
            return
        wrong = parameters.scales[~(np.isfinite(parameters.scales) & (parameters.scales > 0))]
        if wrong.size:
            yield self._finding("scale", index, None, f"scale {wrong[0]:.9g}", "finite scales above 0")
        if tensor.type in (_INT8, _INT16) and not self._is_constant(index):
            if parameters.granularity > 1:
                value = f"{parameters.scales.size} scales along dimension {parameters.dimension}"
                yield self._finding("activation_granularity", index, None, value, "one scale and zero point per tensor")
            low, high, source = (-128, 127, SPECIFICATION) if tensor.type == _INT8 else (0, 0, INT16_KERNELS)
            outside = parameters.zero_points[(parameters.zero_points < low) | (parameters.zero_points > high)]
            if outside.size:
                expected = f"zero point in [{low}, {high}]" if low != high else f"zero point {low}"
                yield self._finding("activation_zero_point", index, None, f"zero point {outside[0]}", expected, source)

    def _parameters(self, index: int) -> _Parameters:
        return _Parameters(self._tensors[index])

    def _is_constant(self, index: int) -> bool:
        return bool(len(self._contents(index))) or bool(self._tensors[index].externalBuffer)


def _equal(one: tuple[float, int], other: tuple[float, int]) -> bool:
    return one[1] == other[1] and math.isclose(one[0], other[0], rel_tol=_SCALE_TOLERANCE)
