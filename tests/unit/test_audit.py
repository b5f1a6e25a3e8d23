import math

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from tests.fakes import tflite_files
from tests.fakes.tflite_files import edited
from tfx_mobile.records import Finding
from tfx_mobile.tflite import audit as audit_module
from tfx_mobile.tflite.audit import audit
from tfx_mobile.tflite.flatbuffer import read_model

FILES = {"image": tflite_files.image_classifier, "activations": tflite_files.activations, "dense": tflite_files.dense}
KINDS = ("float32", "dynamic_range", "full_integer", "int8", "uint8", "int16x8")


def findings(data: bytes) -> tuple[Finding, ...]:
    return audit(read_model(data), data)


def op(model, name):
    """The first operator of a name."""
    code = getattr(schema.BuiltinOperator, name)
    (subgraph,) = model.subgraphs
    return next(op for op in subgraph.operators if model.operatorCodes[op.opcodeIndex].builtinCode == code)


def tensor(model, name, place):
    """Input number `place` of an operator, or its output for `out`."""
    found = op(model, name)
    return model.subgraphs[0].tensors[found.outputs[0] if place == "out" else found.inputs[place]]


def set_quantization(name, place, **changes):
    """An edit that changes quantization parameters of a tensor."""

    def edit(model):
        for key, value in changes.items():
            dtype = {"scale": np.float32, "zeroPoint": np.int64}.get(key)
            parameters = tensor(model, name, place).quantization
            setattr(parameters, key, value if dtype is None else np.array(value, dtype))

    return edit


def scaled(name, place, factor, index=slice(None)):
    def edit(model):
        parameters = tensor(model, name, place).quantization
        parameters.scale = parameters.scale.copy()
        parameters.scale[index] *= np.float32(factor)

    return edit


def smallest_weight(model):
    contents = model.buffers[tensor(model, "CONV_2D", 1).buffer]
    contents.data = contents.data.copy()
    contents.data.view(np.int8)[5] = -128


def bias_of_64_bits(model):
    bias = tensor(model, "CONV_2D", 2)
    contents = model.buffers[bias.buffer]
    bias.type = schema.TensorType.INT64
    contents.data = contents.data.view(np.int32).astype(np.int64).view(np.uint8)


def dense_weights_per_column(model):
    parameters = tensor(model, "FULLY_CONNECTED", 1).quantization
    parameters.scale = np.linspace(0.01, 0.02, 32, dtype=np.float32)
    parameters.zeroPoint = np.zeros(32, np.int64)
    parameters.quantizedDimension = 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("file", FILES)
def test_what_the_converter_makes_keeps_the_specification(file, kind):
    data = FILES[file](kind)
    assert findings(data) == ()
    integers = {t.type for s in read_model(data).subgraphs for t in s.tensors} & {7, 9}
    small = kind == "dynamic_range" and file != "activations"  # TensorFlow leaves small weights in float
    assert bool(integers) == (kind != "float32" and not small)


BREAKING = [
    # Weights of convolutions and dense layers.
    ("image", "int8", smallest_weight, "weight_range", "smallest weight -128"),
    ("image", "int8", set_quantization("CONV_2D", 1, zeroPoint=[0, 0, 3, 0]), "weight_zero_point", "zero point 3"),
    ("activations", "dynamic_range", set_quantization("FULLY_CONNECTED", 1, zeroPoint=[1]), "weight_zero_point", "1"),
    ("image", "int8", set_quantization("CONV_2D", 1, quantizedDimension=3), "weight_dimension", "along dimension 3"),
    (
        "image",
        "int8",
        set_quantization("DEPTHWISE_CONV_2D", 1, quantizedDimension=0),
        "weight_dimension",
        "dimension 0",
    ),
    ("activations", "int8", dense_weights_per_column, "weight_dimension", "32 scales along dimension 1"),
    # Biases.
    ("image", "int8", scaled("CONV_2D", 2, 1.01, 2), "bias_scale", "at 2"),
    ("image", "int8", scaled("DEPTHWISE_CONV_2D", 2, 2), "bias_scale", "at 0"),
    ("image", "int8", scaled("FULLY_CONNECTED", 2, 0.5), "bias_scale", "at 0"),
    ("image", "int16x8", scaled("FULLY_CONNECTED", 2, 0.5), "bias_scale", "at 0"),
    ("image", "int8", set_quantization("CONV_2D", 2, scale=[0.1]), "bias_scale", "1 scales"),
    ("image", "int8", set_quantization("FULLY_CONNECTED", 2, zeroPoint=[1]), "bias_zero_point", "zero point 1"),
    ("image", "int8", bias_of_64_bits, "bias_type", "int64"),
    # Activations.
    ("image", "int8", set_quantization("MEAN", "out", zeroPoint=[128]), "activation_zero_point", "zero point 128"),
    ("image", "int16x8", set_quantization("MEAN", "out", zeroPoint=[1]), "activation_zero_point", "zero point 1"),
    (
        "image",
        "int8",
        set_quantization("FULLY_CONNECTED", "out", scale=[0.1, 0.2, 0.3], zeroPoint=[0, 0, 0], quantizedDimension=1),
        "activation_granularity",
        "3 scales along dimension 1",
    ),
    ("image", "int8", set_quantization("FULLY_CONNECTED", "out", scale=[math.nan]), "scale", "scale nan"),
    ("image", "int8", set_quantization("FULLY_CONNECTED", "out", scale=[0.0]), "scale", "scale 0"),
    # Outputs with fixed parameters.
    ("image", "int8", set_quantization("SOFTMAX", "out", scale=[1 / 255]), "fixed_output", "0.00392"),
    ("activations", "int8", set_quantization("LOGISTIC", "out", zeroPoint=[0]), "fixed_output", "zero point 0"),
    ("activations", "int8", set_quantization("TANH", "out", scale=[1 / 127]), "fixed_output", "0.00787"),
    ("activations", "int8", set_quantization("L2_NORMALIZATION", "out", zeroPoint=[1]), "fixed_output", "zero point 1"),
    ("activations", "int8", set_quantization("LOG_SOFTMAX", "out", scale=[0.05]), "fixed_output", "0.05"),
    ("image", "int16x8", set_quantization("SOFTMAX", "out", scale=[1 / 32767]), "fixed_output", "3.0518509"),
    ("activations", "int16x8", set_quantization("LOGISTIC", "out", scale=[1 / 256]), "fixed_output", "0.0039"),
    ("activations", "int16x8", set_quantization("TANH", "out", scale=[1 / 128]), "fixed_output", "0.0078"),
    # Ops that hand values through.
    ("image", "int8", scaled("MAX_POOL_2D", "out", 1.5), "same_parameters", "scale"),
    ("activations", "int8", scaled("CONCATENATION", "out", 1.5), "same_parameters", "scale"),
]


@pytest.mark.parametrize(("file", "kind", "edit", "code", "value"), BREAKING)
def test_each_departure_is_exactly_one_finding(file, kind, edit, code, value):
    (finding,) = findings(edited(FILES[file](kind), edit))
    assert (finding.code, finding.subgraph) == (code, 0)
    assert value in finding.value
    assert finding.tensor
    assert finding.source.startswith("https://")


def test_a_finding_names_operator_tensor_and_what_is_expected():
    (finding,) = findings(edited(FILES["image"]("int8"), scaled("FULLY_CONNECTED", 2, 0.5)))
    assert finding.op == "4 FULLY_CONNECTED"
    assert "input scale * weight scale = " in finding.expected


def test_a_missing_bias_is_no_finding_and_no_error():
    def left_out(model):
        found = op(model, "CONV_2D")
        found.inputs = np.array([*found.inputs[:2], -1], np.int32)
        dense = op(model, "FULLY_CONNECTED")
        dense.inputs = dense.inputs[:2]

    assert findings(edited(FILES["image"]("int8"), left_out)) == ()


def test_the_scale_of_a_bias_of_zeros_is_no_finding():
    # TensorFlow's int16x8 files share one bias of zeros among operators of other scales.
    def zero_bias(model):
        scaled("FULLY_CONNECTED", 2, 0.5)(model)
        contents = model.buffers[tensor(model, "FULLY_CONNECTED", 2).buffer]
        contents.data = np.zeros_like(contents.data)

    assert findings(edited(FILES["image"]("int16x8"), zero_bias)) == ()


def test_a_scale_listed_many_times_is_still_one_scale():
    # TensorFlow lists a dense layer's only scale once per unit.
    model = read_model(FILES["activations"]("int8"))
    scales = tensor(model, "FULLY_CONNECTED", 1).quantization.scale
    assert len(scales) in (1, 64)
    many = set_quantization("FULLY_CONNECTED", 1, scale=[float(scales[0])] * 64, zeroPoint=[0] * 64)
    assert findings(edited(FILES["activations"]("int8"), many)) == ()


def test_dense_weights_may_be_quantized_per_unit():
    # Newer converters do so; the specification names the dimension.
    per_unit = set_quantization(
        "FULLY_CONNECTED", 1, scale=np.linspace(0.01, 0.02, 64), zeroPoint=[0] * 64, quantizedDimension=0
    )
    assert findings(edited(FILES["activations"]("int8"), per_unit)) == ()


def test_the_number_of_findings_is_limited_and_the_rest_counted(monkeypatch):
    monkeypatch.setattr(audit_module, "MAX_FINDINGS", 1)

    def break_several(model):
        for name in ("TANH", "LOGISTIC", "L2_NORMALIZATION"):
            set_quantization(name, "out", zeroPoint=[7])(model)

    first, more = findings(edited(FILES["activations"]("int8"), break_several))
    assert (first.code, more.code, more.value) == ("fixed_output", "more", "2 more")
