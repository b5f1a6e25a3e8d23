"""Errors by layer, of real files: against TensorFlow's debugger, and on a network with known culprits."""

import csv
import io
import math

import numpy as np
import pytest

from tests.fakes import outlier_mlp, tflite_files
from tests.fakes.tflite_files import edited
from tfx_mobile.quantization_evaluator.close_look import isolated_layers, layer_errors
from tfx_mobile.quantization_evaluator.scoring.rows import Row
from tfx_mobile.recipes import BUILTIN_RECIPES
from tfx_mobile.records import LayerErrors, Reason, Variant, Verdict
from tfx_mobile.tflite.flatbuffer import read_model

POINTS = outlier_mlp.data(240, seed=3)[0]
CALIBRATION, SAMPLE = POINTS[:200], POINTS[200:232]
ROWS = [Row(f"{i:064x}", {outlier_mlp.INPUT: point[None]}, {}) for i, point in enumerate(SAMPLE)]


def converter(saved_model, kind):
    import tensorflow as tf

    made = tf.lite.TFLiteConverter.from_saved_model(str(saved_model), signature_keys=["serving_default"])
    if kind == "float32":
        return made
    made.optimizations = [tf.lite.Optimize.DEFAULT]
    made.representative_dataset = lambda: ({outlier_mlp.INPUT: point[None]} for point in CALIBRATION)
    if kind == "int8":
        made.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        made.inference_input_type = made.inference_output_type = tf.int8
    if kind == "int16x8":
        made.target_spec.supported_ops = [
            tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8,
            tf.lite.OpsSet.TFLITE_BUILTINS,
        ]
    return made


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folders = {}
    for name, factor in (("harmed", outlier_mlp.FACTOR), ("healthy", 1.0)):
        folders[name] = tmp_path_factory.mktemp(name)
        outlier_mlp.save(folders[name], factor)
    return folders


@pytest.fixture(scope="module")
def files(saved):
    return {
        (name, kind): bytes(converter(saved[name], kind).convert())
        for name in saved
        for kind in ("float32", "full_integer", "int8", "int16x8")
    }


def by_layer(errors):
    """The layers of the network by their names in it."""
    names = ("first", "second", "third")
    return {next((n for n in names if n in layer.name), layer.op): layer for layer in errors.layers}


@pytest.mark.parametrize("kind", ["full_integer", "int8"])
def test_the_harmed_layers_are_the_worst(files, kind):
    """One loud channel takes the range of the second layer's output and hides from the third layer's weights."""
    errors = layer_errors.measure(kind, files["harmed", kind], files["harmed", "float32"], ROWS)
    assert (errors.variant, errors.num_examples, errors.message) == (kind, len(ROWS), "")
    layers = by_layer(errors)
    assert list(layers) == ["QUANTIZE", "first", "second", "third", "SOFTMAX"]
    harmed = min(layers[name].relative_error for name in ("second", "third"))
    assert harmed > 0.5
    assert all((layers[name].relative_error or 0) < 0.05 for name in ("QUANTIZE", "first", "SOFTMAX"))
    # The usual measure calls the second layer the best of all.
    assert min(layers.values(), key=lambda layer: layer.rmse_over_scale) == layers["second"]
    healthy = by_layer(layer_errors.measure(kind, files["healthy", kind], files["healthy", "float32"], ROWS))
    assert max(layer.relative_error for layer in healthy.values()) < 0.05


def test_positions_are_those_of_the_quantized_file(files):
    for kind, positions in (("full_integer", [0, 1, 2, 3, 4]), ("int8", [-1, 0, 1, 2, 3])):
        errors = layer_errors.measure(kind, files["healthy", kind], files["healthy", "float32"], ROWS)
        assert [layer.index for layer in errors.layers] == positions


def test_a_layer_is_blamed_for_its_own_error_as_the_quantization_debugger_does(saved, files):
    import tensorflow as tf

    for name in ("healthy", "harmed"):
        debugger = tf.lite.experimental.QuantizationDebugger(
            converter=converter(saved[name], "full_integer"), debug_dataset=lambda: ([point[None]] for point in SAMPLE)
        )
        debugger.run()
        stream = io.StringIO()
        debugger.layer_statistics_dump(stream)
        theirs = {
            row["tensor_name"]: math.sqrt(float(row["mean_squared_error"])) / float(row["scale"])
            for row in csv.DictReader(io.StringIO(stream.getvalue()))
        }
        errors = layer_errors.measure("v", files[name, "full_integer"], files[name, "float32"], ROWS)
        ours = {layer.name: layer.rmse_over_scale for layer in errors.layers[1:]}
        assert len(ours) == len(theirs) == 4
        # By position: the converter counts the models of a process in their names. It also feeds the first layer what
        # was not quantized, so that the rounding of the input, a row of its own here, is in that layer's error.
        first, *others = zip(ours.values(), theirs.values(), strict=True)
        assert first[0] < first[1]
        for mine, debuggers in others:
            assert mine == pytest.approx(debuggers, rel=0.03)


def test_int16_activations_are_a_256th_as_wrong(files):
    errors = by_layer(layer_errors.measure("v", files["healthy", "int16x8"], files["healthy", "float32"], ROWS))
    int8 = by_layer(layer_errors.measure("v", files["healthy", "full_integer"], files["healthy", "float32"], ROWS))
    assert errors["QUANTIZE"].relative_error < int8["QUANTIZE"].relative_error / 100


def test_a_layer_left_in_float_has_no_error_but_the_rounding_of_its_output(saved, files):
    import tensorflow as tf

    debugger = tf.lite.experimental.QuantizationDebugger(
        converter=converter(saved["harmed"], "full_integer"),
        debug_dataset=lambda: ([point[None]] for point in SAMPLE),
        debug_options=tf.lite.experimental.QuantizationDebugOptions(
            denylisted_nodes=[
                tensor.name.decode()
                for tensor in read_model(files["harmed", "float32"]).subgraphs[0].tensors
                if b"second" in tensor.name and b"BiasAdd" in tensor.name and b";" in tensor.name
            ]
        ),
    )
    mixed = bytes(debugger.get_nondebug_quantized_model())
    layers = by_layer(layer_errors.measure("v", mixed, files["harmed", "float32"], ROWS))
    assert {name: layer.op for name, layer in layers.items()}.items() >= {
        ("first", "FULLY_CONNECTED"),
        ("second", "QUANTIZE"),  # its output, for the next layer to read
        ("third", "FULLY_CONNECTED"),
    }


def test_every_tensor_of_a_convolutional_file_is_found():
    images = np.random.default_rng(0).uniform(-1, 1, (8, 1, 8, 8, 3)).astype(np.float32)
    rows = [Row("0" * 64, {"image": image}, {}) for image in images]
    for kind in ("full_integer", "int8", "uint8", "int16x8"):
        float32 = tflite_files.image_classifier("float32")
        errors = layer_errors.measure(kind, tflite_files.image_classifier(kind), float32, rows)
        assert [layer.op for layer in errors.layers] == [
            "QUANTIZE", "CONV_2D", "DEPTHWISE_CONV_2D", "MAX_POOL_2D", "MEAN", "FULLY_CONNECTED", "SOFTMAX",
        ]  # fmt: skip
        assert errors.layers[3].max_absolute_error == 0  # max pooling chooses among values and rounds nothing
        assert 0 < errors.layers[1].relative_error < 0.02


def test_several_outputs_and_layers_that_share_an_input():
    x = np.random.default_rng(0).uniform(-1, 1, (16, 1, 32)).astype(np.float32)
    rows = [Row("0" * 64, {"x": value}, {}) for value in x]
    errors = layer_errors.measure(
        "v", tflite_files.activations("full_integer"), tflite_files.activations("float32"), rows
    )
    assert errors.message == ""
    assert {layer.op for layer in errors.layers} == {
        "QUANTIZE", "FULLY_CONNECTED", "LOG_SOFTMAX", "LOGISTIC", "TANH", "CONCATENATION", "L2_NORMALIZATION",
    }  # fmt: skip
    assert all(layer.relative_error < 0.05 for layer in errors.layers)


def test_what_cannot_be_measured_says_why(files):
    quantized, float32 = files["healthy", "full_integer"], files["healthy", "float32"]
    assert "no float32 variant" in layer_errors.measure("v", quantized, None, ROWS).message
    assert (
        "Layers cannot be compared: Not a .tflite file" in layer_errors.measure("v", b"?" * 99, float32, ROWS).message
    )
    other = layer_errors.measure("v", tflite_files.dense("int8"), float32, ROWS)
    assert other.layers == ()
    assert "has integers and the name of a tensor of the float32 variant" in other.message
    unnamed = edited(quantized, lambda model: setattr(model, "signatureDefs", None))
    assert "has no signature" in layer_errors.measure("v", unnamed, float32, ROWS).message


def test_a_process_that_ends_early_costs_the_errors_and_nothing_else(files):
    errors = layer_errors.measure(
        "v", files["healthy", "int8"], files["healthy", "float32"], ROWS, deadline_seconds=0.01
    )
    assert (errors.layers, errors.num_examples) == ((), 0)
    assert errors.message == "The process that measured them ended: no answer within 0.01 seconds."


@pytest.mark.parametrize(
    ("recipe", "code", "metric", "needed"),
    [
        ("full_integer", "threshold", "accuracy", True),
        ("int16x8", "not_finite", None, True),
        ("full_integer", "budget", None, False),
        ("dynamic_range", "threshold", "accuracy", False),
        ("float32", "threshold", "accuracy", False),
    ],
)
def test_only_integer_variants_that_lost_quality_are_explained(recipe, code, metric, needed):
    reason = Reason(code=code, message="why", metric=metric)
    variant = Variant(recipe=BUILTIN_RECIPES[recipe], path="x/model.tflite")
    assert layer_errors.needs_explanation(variant, Verdict(variant=recipe, passed=False, reasons=(reason,))) is needed
    assert not layer_errors.needs_explanation(variant, Verdict(variant=recipe, passed=True))


def test_node_data_is_in_model_explorers_format(files):
    for kind in ("full_integer", "int8"):
        errors = layer_errors.measure(kind, files["healthy", kind], files["healthy", "float32"], ROWS)
        document = layer_errors.node_data(errors, files["healthy", kind])
        # Graph and node ids as Model Explorer's flatbuffer adapter 0.2.1 gives them to this file.
        assert list(document) == ["main"]
        assert set(document["main"]) == {"results", "gradient"}
        assert document["main"]["results"] == {
            str(layer.index): {"value": layer.relative_error} for layer in errors.layers if layer.index >= 0
        }
        assert [stop["stop"] for stop in document["main"]["gradient"]] == [0, 1]
    assert layer_errors.node_data(LayerErrors(variant="v"), files["healthy", "int8"])["main"]["results"] == {}


def test_the_files_are_left_as_they_are(files):
    before = files["healthy", "int8"], files["healthy", "float32"]
    isolated_layers.measure(files["healthy", "float32"], files["healthy", "int8"], [ROWS[0].inputs])
    assert (files["healthy", "int8"], files["healthy", "float32"]) == before
