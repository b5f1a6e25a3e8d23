"""Reads a `.tflite` file in pure Python: nothing native sees bytes that were not checked here first.

Corrupt files crash TensorFlow Lite's loader with SIGSEGV (about one in five damaged files on TensorFlow 2.16), so the
whole structure is walked and every index is checked before an interpreter is allowed to open it.
"""

from __future__ import annotations

import math
import re
import zlib
from collections import defaultdict
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema

from tfx_mobile.errors import ModelFileError
from tfx_mobile.records import ModelFileRecord, OpRecord, SignatureRecord, TensorRecord, sha256_of
from tfx_mobile.tflite import weights
from tfx_mobile.tflite.bounds import check_unfolding

_IDENTIFIER = b"TFL3"
_CHUNK = 1 << 20
_FLEX = "Flex"
_OP_NAMES = {code: name for name, code in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
_TYPE_NAMES = {code: name.lower() for name, code in vars(schema.TensorType).items() if not name.startswith("_")}
_FLOAT_TYPES = {
    schema.TensorType.FLOAT16,
    schema.TensorType.FLOAT32,
    schema.TensorType.FLOAT64,
}
_FORMAT_CONVERSIONS = {"QUANTIZE", "DEQUANTIZE"}
_VERSION = re.compile(r"\d{1,9}(\.\d{1,9})*", re.ASCII)
_MAX_RANK = 254  # TensorFlow's own limit


def inspect_model(data: bytes) -> ModelFileRecord:
    """Checks the structure of a `.tflite` file and describes it.

    Args:
        data: The file's bytes.

    Raises:
        ModelFileError: The bytes are not a well-formed `.tflite` file.
    """
    return describe(read_model(data), data)


def describe(model: Any, data: bytes) -> ModelFileRecord:
    """Describes a file.

    Args:
        model: What `read_model` returned for `data`.
        data: The file's bytes.
    """
    # By kind, not by name: a custom op may call itself ADD.
    kinds: dict[str, set[str]] = defaultdict(set)
    for subgraph in model.subgraphs:
        for op in subgraph.operators or []:
            kinds[op_kind(model, op)].add(op_name(model, op))
    return ModelFileRecord(
        sha256=sha256_of(data),
        size_bytes=len(data),
        gzip_bytes=_gzip_size(data),
        signatures=signatures(model),
        ops=_operators(model),
        select_tf_ops=tuple(sorted(kinds["select_tf"])),
        custom_ops=tuple(sorted(kinds["custom"] | kinds["unknown"])),
        min_runtime_version=_min_runtime_version(model),
        weight_bytes=_weight_bytes(model, data),
        weights=weights.describe(model),
    )


def first_subgraph(data: bytes) -> SignatureRecord:
    """Inputs and outputs of the first subgraph in the file's own order, by their names in the signature.

    TFLite metadata describes this subgraph, by position. A tensor that no signature names keeps its own name.

    Args:
        data: The file's bytes.

    Raises:
        ModelFileError: The bytes are not a well-formed `.tflite` file.
    """
    model = read_model(data)
    subgraph = model.subgraphs[0]
    key, names = "", {index: text(tensor.name) for index, tensor in enumerate(subgraph.tensors or [])}
    for signature in model.signatureDefs or []:
        if signature.subgraphIndex == 0:
            key = text(signature.signatureKey)
            maps = [*(signature.inputs or []), *(signature.outputs or [])]
            names.update((tensor_map.tensorIndex, text(tensor_map.name)) for tensor_map in maps)
    return SignatureRecord(
        key=key,
        inputs=tuple(_tensor_record(names[index], subgraph.tensors[index]) for index in _list(subgraph.inputs)),
        outputs=tuple(_tensor_record(names[index], subgraph.tensors[index]) for index in _list(subgraph.outputs)),
    )


def select_tf_ops(data: bytes) -> tuple[str, ...]:
    """Names of the Select TensorFlow (Flex) ops of a file that `inspect_model` accepted; cheaper than that.

    Raises:
        ModelFileError: `inspect_model` would not accept the file.
    """
    try:
        model = schema.Model.GetRootAs(data, 0)
        codes = [model.OperatorCodes(index).CustomCode() or b"" for index in range(model.OperatorCodesLength())]
    except Exception as error:  # noqa: BLE001 (the generated reader raises whatever the damage leads to)
        raise ModelFileError(f"Corrupt .tflite file of {len(data)} bytes: {type(error).__name__}: {error}.") from None
    return tuple(sorted(text(code) for code in codes if code.startswith(_FLEX.encode())))


def _gzip_size(data: bytes) -> int:
    """What `gzip.compress(data, 9)` would be long, without holding it: models are large."""
    compressor = zlib.compressobj(9, wbits=zlib.MAX_WBITS | 16)
    pieces = (compressor.compress(data[start : start + _CHUNK]) for start in range(0, len(data), _CHUNK))
    return sum(map(len, pieces)) + len(compressor.flush())


def read_model(data: bytes) -> Any:
    """Reads a file into the schema's object form (`ModelT`) and checks its structure.

    What this promises to those who walk the result: every index of a buffer, tensor, operator code or subgraph is in
    range (-1 for an optional operator input or output), constant data have the size that type and shape ask for, and
    reading everything is linear in the size of the file.

    Args:
        data: The file's bytes.

    Raises:
        ModelFileError: The bytes are not a well-formed `.tflite` file.
    """
    if len(data) < 8 or data[4:8] != _IDENTIFIER:
        raise ModelFileError(
            f"Not a .tflite file: {len(data)} bytes, identifier {data[4:8]!r} instead of {_IDENTIFIER!r}. "
            "The file is empty, truncated or something else; produce or fetch it again."
        )
    try:
        check_unfolding(data)
        model = schema.ModelT.InitFromPackedBuf(data, 0)
        _check_indices(model, data)
    except ModelFileError:
        raise
    except Exception as error:  # noqa: BLE001 (the generated reader raises whatever the damage leads to)
        raise ModelFileError(
            f"Corrupt .tflite file of {len(data)} bytes: {type(error).__name__}: {error}. Produce or fetch it again."
        ) from None
    return model


def text(value: bytes | None) -> str:
    """A string of a file; never raises, whatever the bytes are."""
    return (value or b"").decode(errors="replace")


def type_name(code: int) -> str:
    """Lower-case name of an element type; `unknown_<code>` for one that the schema does not have."""
    name: str = _TYPE_NAMES.get(code, f"unknown_{code}")
    return name


def op_name(model: Any, op: Any) -> str:
    """Name of an operator: its builtin name, its custom code, or `UNKNOWN_<code>` if the schema does not have it."""
    builtin = _builtin_code(model, op)
    if builtin == schema.BuiltinOperator.CUSTOM:
        return text(model.operatorCodes[op.opcodeIndex].customCode) or "CUSTOM"
    name: str = _OP_NAMES.get(builtin, f"UNKNOWN_{builtin}")
    return name


def op_kind(model: Any, op: Any) -> Literal["builtin", "select_tf", "custom", "unknown"]:
    """What an operator is: `select_tf` for a TensorFlow (Flex) op, `unknown` if the schema does not have it."""
    builtin = _builtin_code(model, op)
    if builtin == schema.BuiltinOperator.CUSTOM:
        return "select_tf" if op_name(model, op).startswith(_FLEX) else "custom"
    return "builtin" if builtin in _OP_NAMES else "unknown"


def _builtin_code(model: Any, op: Any) -> int:
    code = model.operatorCodes[op.opcodeIndex]
    return int(max(code.builtinCode, code.deprecatedBuiltinCode))  # old files fill only the second


def buffer_bytes(buffer: Any, data: bytes) -> npt.NDArray[np.uint8]:
    """A buffer's contents, from the flatbuffer or, in files over 2 GB, from behind it; empty if it has none."""
    if buffer.offset > 1:
        return np.frombuffer(data, np.uint8, buffer.size, buffer.offset)
    contents: npt.NDArray[np.uint8] = np.zeros(0, np.uint8) if buffer.data is None else np.asarray(buffer.data)
    return contents


def _check_indices(model: Any, data: bytes) -> None:
    size = len(data)

    def within(what: str, indices: Any, count: int, *, optional: bool = False) -> None:
        values = np.asarray([] if indices is None else indices, np.int64)
        wrong = values[(values < (-1 if optional else 0)) | (values >= count)]
        if wrong.size:
            raise ModelFileError(f"Corrupt .tflite file: {what} index {wrong[0]} is outside 0..{count - 1}.")

    buffers, codes, subgraphs = model.buffers or [], model.operatorCodes or [], model.subgraphs or []
    if not subgraphs:
        raise ModelFileError("Corrupt .tflite file: it holds no subgraph.")
    for buffer in buffers:
        if buffer.offset > 1 and buffer.offset + buffer.size > size:
            raise ModelFileError(
                f"Truncated .tflite file: a buffer ends at byte {buffer.offset + buffer.size}, the file has {size}."
            )
    for subgraph in subgraphs:
        tensors = subgraph.tensors or []
        within("buffer", [tensor.buffer for tensor in tensors], len(buffers))
        for tensor in tensors:
            _check_tensor(tensor, buffer_bytes(buffers[tensor.buffer], data))
        within("subgraph input", subgraph.inputs, len(tensors))
        within("subgraph output", subgraph.outputs, len(tensors))
        for op in subgraph.operators or []:
            within("operator code", [op.opcodeIndex], len(codes))
            within("operator input", op.inputs, len(tensors), optional=True)
            within("operator output", op.outputs, len(tensors), optional=True)
    for signature in model.signatureDefs or []:
        within("signature subgraph", [signature.subgraphIndex], len(subgraphs))
        count = len(subgraphs[signature.subgraphIndex].tensors or [])
        maps = (signature.inputs or []) + (signature.outputs or [])
        within("signature tensor", [tensor_map.tensorIndex for tensor_map in maps], count)
    for entry in model.metadata or []:
        within("metadata buffer", [entry.buffer], len(buffers))


_ITEM_BITS = {
    "float32": 32, "float16": 16, "float64": 64, "int4": 4, "int8": 8, "uint8": 8, "int16": 16, "uint16": 16,
    "int32": 32, "uint32": 32, "int64": 64, "uint64": 64, "bool": 8,
}  # fmt: skip


def _check_tensor(tensor: Any, data: npt.NDArray[np.uint8]) -> None:
    for shape in (tensor.shape, tensor.shapeSignature):
        if shape is not None and len(shape) > _MAX_RANK:
            raise ModelFileError(f"Corrupt .tflite file: a tensor has {len(shape)} dimensions.")
    shape = [int(size) for size in _list(tensor.shape)]
    if any(size < 0 for size in shape):
        raise ModelFileError(f"Corrupt .tflite file: a tensor has shape {shape}.")
    name = type_name(tensor.type)
    if len(data) and tensor.sparsity is None and name in _ITEM_BITS:
        # Two int4 elements share a byte, over the whole tensor and not row by row; the last byte may be half used.
        expected = -(-math.prod(shape) * _ITEM_BITS[name] // 8)
        if len(data) != expected:
            raise ModelFileError(
                f"Corrupt .tflite file: a {name} tensor of shape {shape} needs {expected} bytes and has {len(data)}."
            )


def _operators(model: Any) -> tuple[OpRecord, ...]:
    counts: dict[tuple[str, int], list[int]] = defaultdict(lambda: [0, 0])
    for subgraph in model.subgraphs:
        for op in subgraph.operators or []:
            name, version = op_name(model, op), int(model.operatorCodes[op.opcodeIndex].version)
            count = counts[name, version]
            count[0] += 1
            tensors = [subgraph.tensors[i] for i in [*_list(op.inputs), *_list(op.outputs)] if i >= 0]
            if name not in _FORMAT_CONVERSIONS and any(tensor.type in _FLOAT_TYPES for tensor in tensors):
                count[1] += 1
    return tuple(
        OpRecord(name=name, version=version, count=count, float_count=floats)
        for (name, version), (count, floats) in sorted(counts.items())
    )


def _weight_bytes(model: Any, data: bytes) -> dict[str, int]:
    # A buffer that several tensors share is in the file once.
    dtypes = {
        tensor.buffer: type_name(tensor.type) for subgraph in model.subgraphs for tensor in subgraph.tensors or []
    }
    sizes: dict[str, int] = defaultdict(int)
    for index, dtype in dtypes.items():
        sizes[dtype] += len(buffer_bytes(model.buffers[index], data))
    return {dtype: size for dtype, size in sorted(sizes.items()) if size}


def signatures(model: Any) -> tuple[SignatureRecord, ...]:
    """The signatures of a file in the form of `read_model`, sorted by key."""
    records = []
    for signature in model.signatureDefs or []:
        tensors = model.subgraphs[signature.subgraphIndex].tensors
        records.append(
            SignatureRecord(
                key=text(signature.signatureKey),
                inputs=_tensor_records(signature.inputs, tensors),
                outputs=_tensor_records(signature.outputs, tensors),
            )
        )
    return tuple(sorted(records, key=lambda record: record.key))


def _tensor_records(maps: Any, tensors: Any) -> tuple[TensorRecord, ...]:
    records = [_tensor_record(text(m.name), tensors[m.tensorIndex]) for m in maps or []]
    return tuple(sorted(records, key=lambda record: record.name))


def _tensor_record(name: str, tensor: Any) -> TensorRecord:
    shape = tensor.shapeSignature if tensor.shapeSignature is not None else tensor.shape
    quantization = tensor.quantization
    scales = _list(quantization.scale) if quantization is not None else []
    zero_points = _list(quantization.zeroPoint) if quantization is not None else []
    return TensorRecord(
        name=name,
        dtype=type_name(tensor.type),
        shape=tuple(int(size) for size in _list(shape)),
        scale=float(scales[0]) if len(scales) == 1 and math.isfinite(scales[0]) else None,
        zero_point=int(zero_points[0]) if len(zero_points) == 1 else None,
    )


def _min_runtime_version(model: Any) -> str | None:
    # Integer files carry several entries, some of them only padding: the greatest real one counts.
    versions = []
    for entry in model.metadata or []:
        data = model.buffers[entry.buffer].data
        if entry.name == b"min_runtime_version" and data is not None:
            version = text(bytes(data[:256]).rstrip(b"\0"))
            if _VERSION.fullmatch(version):
                versions.append(version)
    return max(versions, key=lambda version: tuple(map(int, version.split("."))), default=None)


def _list(values: Any) -> list[Any]:
    return [] if values is None else list(values)
