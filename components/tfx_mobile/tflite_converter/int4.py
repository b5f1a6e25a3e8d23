"""int4 weights, which TensorFlow's converter cannot make: a float32 file through ai-edge-quantizer.

An optional extra, pinned exactly: between versions the same recipe makes other bytes, or silently nothing. Runs in the
child process only, and needs no TensorFlow there.
"""

from __future__ import annotations

import importlib.metadata

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tfx_mobile.records import Failure
from tfx_mobile.tflite_converter import failures

PACKAGE, VERSION = "ai-edge-quantizer", "0.10.0"

_INSTALL = f"Install it where this step runs: pip install 'tfx-mobile[int4]' (or {PACKAGE}=={VERSION})"


def quantize(float_model: bytes) -> bytes:
    """The file with the weights of convolutions and matrix products in int4, one scale per output channel.

    Activations stay float32; kernels round them to int8 as they compute. Nothing is calibrated.

    Args:
        float_model: A float32 `.tflite` file.

    Raises:
        RecipeFailed: ai-edge-quantizer is missing, broken, or not the pinned version.
    """
    _require_pinned_version()
    try:
        # ai_edge_quantizer uses numpy.typing without importing it.
        import numpy.typing  # noqa: F401
        from ai_edge_quantizer import quantizer, recipe
    except (ImportError, AttributeError) as error:
        raise failures.RecipeFailed(
            Failure(
                code=failures.MISSING_EXTRA,
                message=f"{PACKAGE} {VERSION} is installed but cannot be imported: {type(error).__name__}: {error}.",
                advice=f"Repair the environment, or leave this recipe out. {_INSTALL}.",
            )
        ) from error
    result = quantizer.Quantizer(float_model, recipe.dynamic_wi4_afp32()).quantize(
        enable_progress_bar=False, enable_progress_report=False
    )
    return _self_contained(bytes(result.quantized_model or b""))


def _require_pinned_version() -> None:
    try:
        installed = importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        message = f"int4 weights need {PACKAGE} {VERSION}, which is not installed."
    else:
        if installed == VERSION:
            return
        message = f"int4 weights need {PACKAGE} {VERSION}; {installed} is installed, and its output was never checked."
    raise failures.RecipeFailed(
        Failure(code=failures.MISSING_EXTRA, message=message, advice=f"{_INSTALL}, or leave the recipes with int4 out.")
    )


def _self_contained(data: bytes) -> bytes:
    """The same model as one flatbuffer.

    ai-edge-quantizer puts large weights behind the flatbuffer, where readers before 2024 do not look and MediaPipe's
    metadata writers lose them. It also keeps what TensorFlow's converter said of the float file about the oldest
    runtime, which is not true of int4 weights.
    """
    model = schema.ModelT.InitFromPackedBuf(data, 0)
    for buffer in model.buffers:
        if buffer.offset > 1:
            buffer.data = np.frombuffer(data, np.uint8, buffer.size, buffer.offset)
            buffer.offset = buffer.size = 0
    model.metadata = [entry for entry in model.metadata or [] if entry.name != b"min_runtime_version"]
    builder = _AlignedBuilder(len(data))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


class _AlignedBuilder(flatbuffers.Builder):
    """Aligns vectors to 16 bytes, as TensorFlow Lite's schema demands of weights; Python's builder does not know it."""

    def StartVector(self, elemSize: int, numElems: int, alignment: int) -> int:
        offset: int = super().StartVector(elemSize, numElems, max(alignment, 16))
        return offset
