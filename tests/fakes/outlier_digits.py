"""A digits model that quantization destroys: as good as its twin in float, useless in int8.

A few channels of the first layer are multiplied by 400 and divided by 400 in the next, which float arithmetic does not
notice. Activations are quantized with one scale per tensor, so these channels take the whole int8 range and the others
are rounded away.
"""

from __future__ import annotations

from typing import Any

from pipelines.digits import model

FACTOR = 400.0
CHANNELS = 4  # several, because a channel may be dead after training


def run_fn(fn_args: Any) -> None:
    import tensorflow_transform as tft

    transform_output = tft.TFTransformOutput(fn_args.transform_output)
    network = model.train(fn_args, transform_output)
    _harm(network)
    model.save(network, fn_args, transform_output)


def _harm(network: Any) -> None:
    (normalization,) = (layer for layer in network.layers if "normalization" in layer.name)
    _, second = (layer for layer in network.layers if "conv" in layer.name)
    gamma, beta, mean, variance = normalization.get_weights()
    gamma[:CHANNELS] *= FACTOR
    beta[:CHANNELS] *= FACTOR
    normalization.set_weights([gamma, beta, mean, variance])
    kernel, bias = second.get_weights()
    kernel[:, :, :CHANNELS, :] /= FACTOR
    second.set_weights([kernel, bias])
