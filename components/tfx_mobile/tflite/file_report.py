"""Everything that can be known of a `.tflite` file without running it, in one record."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tfx_mobile.child_process import Emit
from tfx_mobile.errors import ModelFileError
from tfx_mobile.records import FileTensorRecord, InspectionRecord, QuantizationRecord, SizePart
from tfx_mobile.tflite.audit import audit
from tfx_mobile.tflite.flatbuffer import buffer_bytes, describe, inspect_model, read_model, text, type_name
from tfx_mobile.tflite.metadata_reader import archive_start, read_metadata
from tfx_mobile.tflite.profiles import check_profiles

_Range = tuple[int, int, str]


def inspect_file(data: bytes, profiles: Iterable[str] | None = None) -> InspectionRecord:
    """Reads a file.

    Args:
        data: The file's bytes.
        profiles: Compatibility profiles to check; None for all.

    Returns:
        The record without `failure`: nothing was loaded.

    Raises:
        ModelFileError: The bytes are not a well-formed `.tflite` file.
        RecipeError: A profile is unknown.
    """
    model = read_model(data)
    file = describe(model, data)
    metadata = read_metadata(model, data)
    return InspectionRecord(
        size_bytes=len(data),
        file=file,
        tensors=tuple(_tensors(model, data)),
        sizes=_sizes(model, data),
        external_buffers=len(model.externalBuffers or []),
        metadata=metadata,
        profiles=check_profiles(model, file, metadata, profiles),
        findings=audit(model, data),
    )


def describe_file(request: dict[str, Any], emit: Emit) -> None:
    """Describes the file at `request["path"]`, for `child_process.run`: a file that nobody has vouched for yet.

    Emits `{"file": JSON of its ModelFileRecord}` or `{"error": why it is none}`.
    """
    try:
        record = inspect_model(Path(request["path"]).read_bytes())
    except ModelFileError as error:
        emit({"error": str(error)})
    else:
        emit({"file": record.to_json().decode()})


def _tensors(model: Any, data: bytes) -> Iterable[FileTensorRecord]:
    for subgraph_index, subgraph in enumerate(model.subgraphs):
        for index, tensor in enumerate(subgraph.tensors or []):
            shape = tensor.shapeSignature if tensor.shapeSignature is not None else tensor.shape
            yield FileTensorRecord(
                subgraph=subgraph_index,
                index=index,
                name=text(tensor.name),
                dtype=type_name(tensor.type),
                shape=() if shape is None else tuple(shape.tolist()),
                constant_bytes=len(buffer_bytes(model.buffers[tensor.buffer], data)),
                variable=bool(tensor.isVariable),
                sparse=tensor.sparsity is not None,
                quantization=_quantization(tensor.quantization),
            )


def _quantization(parameters: Any) -> QuantizationRecord | None:
    if parameters is None or parameters.scale is None or not len(parameters.scale):
        return None
    zero_points = parameters.zeroPoint
    return QuantizationRecord(
        scales=tuple(scale if math.isfinite(scale) else None for scale in parameters.scale.tolist()),
        zero_points=() if zero_points is None else tuple(zero_points.tolist()),
        dimension=parameters.quantizedDimension,
    )


def _sizes(model: Any, data: bytes) -> tuple[SizePart, ...]:
    """Largest part first; every byte counts once, also where a hostile file lets its parts overlap."""
    uses: dict[int, str] = {}
    for subgraph in model.subgraphs:
        for tensor in subgraph.tensors or []:
            uses.setdefault(tensor.buffer, f"weights {type_name(tensor.type)}")
    for entry in model.metadata or []:
        uses.setdefault(entry.buffer, f"metadata {text(entry.name)}")
    ranges = []
    for index, buffer in enumerate(model.buffers or []):
        contents = buffer_bytes(buffer, data)
        if len(contents):
            start = _position(contents, data)
            ranges.append((start, start + len(contents), uses.get(index, "unused buffers")))
    for subgraph in model.subgraphs:
        for op in subgraph.operators or []:
            if op.largeCustomOptionsOffset > 1:
                start = op.largeCustomOptionsOffset
                ranges.append((start, start + op.largeCustomOptionsSize, "custom op options"))
    ranges.append((archive_start(data), len(data), "associated files"))
    totals: dict[str, int] = defaultdict(int)
    end = 0
    for start, stop, part in sorted(ranges):
        start, stop = max(start, end), min(stop, len(data))
        if stop > start:
            totals["graph"] += start - end
            totals[part] += stop - start
            end = stop
    totals["graph"] += len(data) - end
    ordered = sorted(totals.items(), key=lambda item: (-item[1], item[0]))
    return tuple(SizePart(part=part, bytes=size) for part, size in ordered)


def _position(contents: npt.NDArray[np.uint8], data: bytes) -> int:
    """Where a view into `data` begins."""
    base = np.frombuffer(data, np.uint8)
    start: int = contents.__array_interface__["data"][0] - base.__array_interface__["data"][0]
    return start
