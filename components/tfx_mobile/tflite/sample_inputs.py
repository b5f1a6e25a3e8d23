"""Inputs to measure a `.tflite` file on, for what does not depend on real data: its time and its memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

_SEED = 0


class OpenSizesError(ValueError):
    """An input has an open size besides the batch's, so what is measured would depend on a made-up size."""


def fill(interpreter: Any, ranges: Mapping[str, tuple[float, float]]) -> None:
    """Allocates the main subgraph of a loaded file and fills its inputs with values of a fixed seed.

    An open batch gets one row.

    Float inputs are uniform over their range, [0, 1) where it is not known: zeros would let some kernels take a short
    cut. Quantized inputs are uniform over all quanta. Other integers are uniform over their range, 0 where it is not
    known, since they may be ids that look something up. Strings are empty, booleans random.

    Args:
        interpreter: A TensorFlow Lite interpreter.
        ranges: Smallest and largest value by input name; of the model before quantization.

    Raises:
        OpenSizesError: An input has an open size besides the batch's.
        RuntimeError: The interpreter refuses the file.
    """
    details = interpreter.get_input_details()
    names = _names(interpreter, {detail["index"] for detail in details})
    for detail in details:
        name = names.get(detail["index"], detail["name"])
        if any(size == -1 for size in detail["shape_signature"][1:]):
            raise OpenSizesError(
                f"Input {name!r} has open sizes, {[int(size) for size in detail['shape_signature']]}: what is measured "
                "depends on them. Fix them with TFLiteConverter(input_shapes={...})."
            )
    interpreter.allocate_tensors()
    rng = np.random.default_rng(_SEED)
    for detail in details:
        name = names.get(detail["index"], detail["name"])
        interpreter.set_tensor(detail["index"], _values(rng, detail, ranges.get(name)))


def _names(interpreter: Any, indices: set[int]) -> dict[int, str]:
    """Names of the main subgraph's inputs in its signature, by tensor index; empty if it has none."""
    for key in interpreter.get_signature_list():
        inputs = interpreter.get_signature_runner(key).get_input_details()
        names = {detail["index"]: name for name, detail in inputs.items()}
        if names.keys() == indices:
            return names
    return {}


def _values(
    rng: np.random.Generator, detail: Mapping[str, Any], limits: tuple[float, float] | None
) -> npt.NDArray[Any]:
    shape = [max(int(size), 1) for size in detail["shape"]]
    dtype = np.dtype(detail["dtype"])
    if dtype.kind in "SO":
        return np.full(shape, b"", object)
    if dtype.kind == "b":
        return rng.integers(0, 2, shape).astype(dtype)
    if dtype.kind in "iu":
        if detail["quantization"][0]:
            info = np.iinfo(dtype)
            return rng.integers(info.min, info.max, shape, dtype, endpoint=True)
        least, most = limits or (0, 0)
        return rng.integers(int(least), int(most), shape, endpoint=True).astype(dtype)
    low, high = limits or (0.0, 1.0)
    return (low + (high - low) * rng.random(shape)).astype(dtype)
