"""Where a quantized variant that missed a gate loses its accuracy, layer by layer."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import logging

from tfx_mobile import child_process
from tfx_mobile.errors import ModelFileError
from tfx_mobile.quantization_evaluator.close_look.golden import to_array, to_golden
from tfx_mobile.quantization_evaluator.scoring.rows import Row
from tfx_mobile.records import GoldenTensor, LayerError, LayerErrors, Variant, Verdict
from tfx_mobile.tflite.flatbuffer import read_model, text

#: Enough for errors that do not depend on the example, few enough not to be noticed beside the pass.
NUM_EXAMPLES = 32

_DEADLINE_SECONDS = 600.0
_LOSSES = ("threshold", "not_finite")


def needs_explanation(variant: Variant, verdict: Verdict) -> bool:
    """Whether a variant computes in integers and lost quality by it, not only size or latency."""
    lost = any(reason.code in _LOSSES or reason.metric is not None for reason in verdict.reasons)
    return variant.recipe.computes_in_integers and lost


def measure(
    variant: str,
    quantized: bytes,
    float32: bytes | None,
    rows: Sequence[Row],
    *,
    deadline_seconds: float = _DEADLINE_SECONDS,
) -> LayerErrors:
    """The error of each layer of a variant, measured in a process of its own.

    Args:
        variant: Its name.
        quantized: The bytes that were judged.
        float32: The bytes of the float32 variant; None if there is none.
        rows: What to run them on.
        deadline_seconds: Longest time for it; wall time.

    Returns:
        The errors, or a reason why there are none: this never fails.
    """
    if float32 is None:
        return LayerErrors(
            variant=variant,
            message="There is no float32 variant to compare layers with. Add 'float32' to TFLiteConverter's recipes.",
        )
    with tempfile.TemporaryDirectory(prefix="tfx-mobile-") as temp:
        paths = {"float32": Path(temp) / "float32.tflite", "quantized": Path(temp) / "quantized.tflite"}
        paths["float32"].write_bytes(float32)
        paths["quantized"].write_bytes(quantized)
        request = {
            **{name: str(path) for name, path in paths.items()},
            "rows": [[to_golden(name, value).model_dump() for name, value in row.inputs.items()] for row in rows],
        }
        try:
            for event in child_process.run(
                f"{__name__}:{measure_layers.__name__}", request, deadline_seconds=deadline_seconds
            ):
                layers = tuple(LayerError.model_validate(layer) for layer in event["layers"])
                return LayerErrors(variant=variant, num_examples=len(rows), layers=layers, message=event["message"])
            message = "The process that measured them ended without an answer."
        except child_process.ChildDied as died:
            message = f"The process that measured them ended: {died}."
    logging.warning("Variant %s has no errors by layer: %s", variant, message)
    return LayerErrors(variant=variant, message=message)


def measure_layers(request: dict[str, Any], emit: child_process.Emit) -> None:
    """Compares `request["quantized"]` with `request["float32"]`, in the child process."""
    from tfx_mobile.quantization_evaluator.close_look import isolated_layers

    rows = [
        {tensor.name: to_array(tensor) for tensor in map(GoldenTensor.model_validate, row)} for row in request["rows"]
    ]
    layers: list[LayerError] = []
    message = ""
    try:
        layers = isolated_layers.measure(
            Path(request["float32"]).read_bytes(), Path(request["quantized"]).read_bytes(), rows
        )
    except (isolated_layers.CannotCompareError, ModelFileError, ValueError, RuntimeError) as error:
        message = f"Layers cannot be compared: {error}"
    emit({"layers": [layer.model_dump() for layer in layers], "message": message})


def node_data(errors: LayerErrors, model: bytes) -> dict[str, Any]:
    """The relative errors as Model Explorer's custom node data for the variant's file.

    The format is that of `model_explorer.node_data_builder`; its adapter for `.tflite` files names a graph as the file
    does, `main` without a name, and a node by the operator's position.

    Args:
        errors: What was measured.
        model: The bytes of the variant's file.
    """
    graph = text(read_model(model).subgraphs[0].name) or "main"
    results = {
        str(layer.index): {"value": layer.relative_error}
        for layer in errors.layers
        if layer.index >= 0 and layer.relative_error is not None
    }
    return {graph: {"results": results, "gradient": _GRADIENT}}


# From the smallest to the largest error of the file.
_GRADIENT = [{"stop": 0, "bgColor": "#ffffff"}, {"stop": 1, "bgColor": "#d7301f"}]
