from __future__ import annotations

from pathlib import Path

import numpy as np
import tensorflow as tf

from tests.fakes import models
from tfx_mobile.tflite_converter import float_layers
from tfx_mobile.tflite_converter.float_layers import Layer


def _layer(name: str, *inputs: str, moves: bool = False) -> Layer:
    return Layer(name=name, op="OP", moves_values=moves, weight_bytes=0, inputs=inputs)


# conv -> reshape -> transpose -> dense -> pool -> out, and reshape -> other
GRAPH = (
    _layer("conv"),
    _layer("reshape", "conv", moves=True),
    _layer("transpose", "reshape", moves=True),
    _layer("dense", "transpose"),
    _layer("pool", "dense", moves=True),
    _layer("other", "reshape"),
    _layer("out", "pool"),
)


def test_what_lies_between_float_layers_is_in_float_too() -> None:
    assert float_layers.bridged(GRAPH, ["conv", "dense"]) == ("conv", "dense", "reshape", "transpose")
    assert float_layers.bridged(GRAPH, ["conv", "other"]) == ("conv", "other", "reshape")
    assert float_layers.bridged(GRAPH, ["dense", "out"]) == ("dense", "out", "pool")


def test_what_lies_beside_them_is_not() -> None:
    assert float_layers.bridged(GRAPH, ["conv"]) == ("conv",)
    assert float_layers.bridged(GRAPH, ["dense", "other"]) == ("dense", "other")
    assert float_layers.bridged(GRAPH, ["conv", "out"]) == ("conv", "out")
    assert float_layers.bridged(GRAPH, []) == ()


def test_unknown_names_are_found() -> None:
    assert float_layers.unknown(["dense", "danse", "conv", "cnov"], GRAPH) == ["cnov", "danse"]


def test_the_layers_of_a_real_file(tmp_path: Path) -> None:
    models.save_raw_model(tmp_path)
    data = tf.lite.TFLiteConverter.from_saved_model(str(tmp_path), signature_keys=["serving_default"]).convert()
    layers = float_layers.layers(data)
    computing = [layer for layer in layers if not layer.moves_values]
    assert [layer.op for layer in computing] == ["CONV_2D", "FULLY_CONNECTED", "SOFTMAX"]
    weights = {layer.op: layer.weight_bytes for layer in computing}
    assert weights == {"CONV_2D": 4 * (9 * 4 + 4), "FULLY_CONNECTED": 4 * (64 * 3 + 3), "SOFTMAX": 0}
    reshaped = next(layer for layer in layers if layer.inputs == (computing[0].name,))
    assert (reshaped.op, reshaped.moves_values) == ("RESHAPE", True)
    assert computing[1].inputs == (reshaped.name,)
    assert all(np.all([name in {other.name for other in layers} for name in layer.inputs]) for layer in layers)
