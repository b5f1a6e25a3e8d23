"""How compressible the weights of a `.tflite` file are.

Pruning and clustering leave the raw size as it is: the gain is in the compressed download. These figures say whether a
model was pruned or clustered, and whether that survived the conversion.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema

from tfx_mobile.records import WeightsRecord

_DTYPES: dict[int, np.dtype[Any]] = {
    schema.TensorType.FLOAT32: np.dtype("<f4"),
    schema.TensorType.FLOAT16: np.dtype("<f2"),
    schema.TensorType.INT8: np.dtype("i1"),
    schema.TensorType.UINT8: np.dtype("u1"),
    schema.TensorType.INT4: np.dtype("i1"),
}
_CLUSTERED = 256
_PEEK = 4096


def describe(model: Any) -> WeightsRecord:
    """Counts over all weights of a file.

    Left out are tensors in TensorFlow Lite's sparse encoding, and those of files over 2 GB, which lie outside the
    flatbuffer.

    Args:
        model: The unpacked and checked flatbuffer, a ModelT.
    """
    elements = zeros = distinct = 0
    clustered = True
    for values, zero_point in _weights(model):
        elements += values.size
        zeros += values.size - int(np.count_nonzero(values if zero_point == 0 else values != zero_point))
        # Sorting millions of floats only to find that all differ would cost seconds.
        clustered = clustered and np.unique(values[:_PEEK]).size <= _CLUSTERED
        if clustered:
            distinct = max(distinct, np.unique(values).size)
            clustered = distinct <= _CLUSTERED
    return WeightsRecord(num_elements=elements, num_zeros=zeros, max_distinct_values=distinct if clustered else None)


def _weights(model: Any) -> Iterator[tuple[npt.NDArray[Any], int]]:
    """Stored values, flat, and zero point of each constant tensor of two dimensions or more; shared buffers once."""
    seen = set()
    for subgraph in model.subgraphs:
        for tensor in subgraph.tensors or []:
            content = model.buffers[tensor.buffer].data
            if tensor.buffer in seen or tensor.type not in _DTYPES or tensor.sparsity is not None:
                continue
            if tensor.shape is None or len(tensor.shape) < 2:
                continue
            if content is None or not len(content):
                continue
            seen.add(tensor.buffer)
            values = np.asarray(content, np.uint8).view(_DTYPES[tensor.type])
            if tensor.type == schema.TensorType.INT4:
                # Two to a byte, the low half first, sign-extended.
                values = np.stack([values << 4 >> 4, values >> 4], axis=1).ravel()[: int(np.prod(tensor.shape))]
            zero_points = None if tensor.quantization is None else tensor.quantization.zeroPoint
            yield values, int(zero_points[0]) if zero_points is not None and len(zero_points) else 0
