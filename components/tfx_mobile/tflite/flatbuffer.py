"""Reads a `.tflite` file in pure Python: nothing native sees bytes that were not checked here first.

Corrupt files crash TensorFlow Lite's loader with SIGSEGV (about one in five damaged files on TensorFlow 2.16), so the
whole structure is walked and every index is checked before an interpreter is allowed to open it.
"""

from __future__ import annotations

import gzip
from collections import defaultdict
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tfx_mobile.errors import ModelFileError
from tfx_mobile.records import ModelFileRecord, OpRecord, SignatureRecord, TensorRecord, sha256_of

_IDENTIFIER = b"TFL3"
_FLEX = "Flex"
_OP_NAMES = {code: name for name, code in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
_TYPE_NAMES = {code: name.lower() for name, code in vars(schema.TensorType).items() if not name.startswith("_")}
_FLOAT_TYPES = {
    schema.TensorType.FLOAT16,
    schema.TensorType.FLOAT32,
    schema.TensorType.FLOAT64,
}
_KNOWN_NAMES = frozenset(_OP_NAMES.values())
_FORMAT_CONVERSIONS = {"QUANTIZE", "DEQUANTIZE"}


def inspect_model(data: bytes) -> ModelFileRecord:
    """Checks the structure of a `.tflite` file and describes it.

    Args:
        data: The file's bytes.

    Raises:
        ModelFileError: The bytes are not a well-formed `.tflite` file.
    """
    model = _unpack(data)
    ops = _operators(model)
    return ModelFileRecord(
        sha256=sha256_of(data),
        size_bytes=len(data),
        gzip_bytes=len(gzip.compress(data, compresslevel=9, mtime=0)),
        signatures=_signatures(model),
        ops=ops,
        select_tf_ops=tuple(op.name for op in ops if op.name.startswith(_FLEX)),
        custom_ops=tuple(op.name for op in ops if op.name not in _KNOWN_NAMES and not op.name.startswith(_FLEX)),
        min_runtime_version=_min_runtime_version(model),
    )


def select_tf_ops(data: bytes) -> tuple[str, ...]:
    """Names of the Select TensorFlow (Flex) ops of a file that `inspect_model` accepted; cheaper than that."""
    model = schema.Model.GetRootAs(data, 0)
    codes = (model.OperatorCodes(index).CustomCode() or b"" for index in range(model.OperatorCodesLength()))
    return tuple(sorted(code.decode() for code in codes if code.startswith(_FLEX.encode())))


def _unpack(data: bytes) -> Any:
    if len(data) < 8 or data[4:8] != _IDENTIFIER:
        raise ModelFileError(
            f"Not a .tflite file: {len(data)} bytes, identifier {data[4:8]!r} instead of {_IDENTIFIER!r}. "
            "The file is empty, truncated or something else; produce or fetch it again."
        )
    try:
        model = schema.ModelT.InitFromPackedBuf(data, 0)
        _check_indices(model, len(data))
    except ModelFileError:
        raise
    except Exception as error:  # noqa: BLE001 (the generated reader raises whatever the damage leads to)
        raise ModelFileError(
            f"Corrupt .tflite file of {len(data)} bytes: {type(error).__name__}: {error}. Produce or fetch it again."
        ) from None
    return model


def _check_indices(model: Any, size: int) -> None:
    def within(what: str, indices: Any, count: int, *, optional: bool = False) -> None:
        for index in [] if indices is None else indices:
            if not (-1 if optional else 0) <= index < count:
                raise ModelFileError(f"Corrupt .tflite file: {what} index {index} is outside 0..{count - 1}.")

    buffers, codes, subgraphs = model.buffers or [], model.operatorCodes or [], model.subgraphs or []
    if not subgraphs:
        raise ModelFileError("Corrupt .tflite file: it holds no subgraph.")
    for buffer in buffers:
        if buffer.offset and buffer.offset > 1 and buffer.offset + buffer.size > size:
            raise ModelFileError(
                f"Truncated .tflite file: a buffer ends at byte {buffer.offset + buffer.size}, the file has {size}."
            )
    for subgraph in subgraphs:
        tensors = subgraph.tensors or []
        within("buffer", [tensor.buffer for tensor in tensors], len(buffers))
        for tensor in tensors:
            _check_tensor(tensor, buffers[tensor.buffer].data)
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
    "float32": 32, "float16": 16, "float64": 64, "int8": 8, "uint8": 8, "int16": 16, "uint16": 16,
    "int32": 32, "uint32": 32, "int64": 64, "uint64": 64, "bool": 8,
}  # fmt: skip


def _check_tensor(tensor: Any, data: Any) -> None:
    type_name = _TYPE_NAMES.get(tensor.type)
    if type_name is None:
        raise ModelFileError(f"Corrupt .tflite file: unknown tensor type {tensor.type}.")
    shape = [] if tensor.shape is None else [int(size) for size in tensor.shape]
    if any(size < 0 for size in shape):
        raise ModelFileError(f"Corrupt .tflite file: a tensor has shape {shape}.")
    if data is not None and len(data) and tensor.sparsity is None and type_name in _ITEM_BITS:
        expected = int(np.prod(shape, dtype=np.float64)) * _ITEM_BITS[type_name] // 8
        if len(data) != expected:
            raise ModelFileError(
                f"Corrupt .tflite file: a {type_name} tensor of shape {shape} "
                f"needs {expected} bytes and has {len(data)}."
            )


def _operators(model: Any) -> tuple[OpRecord, ...]:
    counts: dict[tuple[str, int], list[int]] = defaultdict(lambda: [0, 0])
    for subgraph in model.subgraphs:
        for op in subgraph.operators or []:
            code = model.operatorCodes[op.opcodeIndex]
            builtin = max(code.builtinCode, code.deprecatedBuiltinCode)  # old files fill only the second
            if builtin == schema.BuiltinOperator.CUSTOM:
                name = (code.customCode or b"").decode(errors="replace")
            else:
                name = _OP_NAMES.get(builtin, f"UNKNOWN_{builtin}")
            count = counts[name, int(code.version)]
            count[0] += 1
            tensors = [subgraph.tensors[i] for i in [*_list(op.inputs), *_list(op.outputs)] if i >= 0]
            if name not in _FORMAT_CONVERSIONS and any(tensor.type in _FLOAT_TYPES for tensor in tensors):
                count[1] += 1
    return tuple(
        OpRecord(name=name, version=version, count=count, float_count=floats)
        for (name, version), (count, floats) in sorted(counts.items())
    )


def _signatures(model: Any) -> tuple[SignatureRecord, ...]:
    records = []
    for signature in model.signatureDefs or []:
        tensors = model.subgraphs[signature.subgraphIndex].tensors
        records.append(
            SignatureRecord(
                key=(signature.signatureKey or b"").decode(),
                inputs=_tensor_records(signature.inputs, tensors),
                outputs=_tensor_records(signature.outputs, tensors),
            )
        )
    return tuple(sorted(records, key=lambda record: record.key))


def _tensor_records(maps: Any, tensors: Any) -> tuple[TensorRecord, ...]:
    records = [_tensor_record(m.name.decode(), tensors[m.tensorIndex]) for m in maps or []]
    return tuple(sorted(records, key=lambda record: record.name))


def _tensor_record(name: str, tensor: Any) -> TensorRecord:
    shape = tensor.shapeSignature if tensor.shapeSignature is not None else tensor.shape
    quantization = tensor.quantization
    scales = _list(quantization.scale) if quantization is not None else []
    zero_points = _list(quantization.zeroPoint) if quantization is not None else []
    return TensorRecord(
        name=name,
        dtype=_TYPE_NAMES[tensor.type],
        shape=tuple(int(size) for size in _list(shape)),
        scale=float(scales[0]) if len(scales) == 1 else None,
        zero_point=int(zero_points[0]) if len(zero_points) == 1 else None,
    )


def _min_runtime_version(model: Any) -> str | None:
    # Integer files carry several entries, some of them only padding: the greatest real one counts.
    versions = []
    for entry in model.metadata or []:
        data = model.buffers[entry.buffer].data
        if entry.name == b"min_runtime_version" and data is not None:
            text = bytes(data).rstrip(b"\0").decode(errors="replace")
            if text and all(part.isdigit() for part in text.split(".")):
                versions.append(text)
    return max(versions, key=lambda version: tuple(map(int, version.split("."))), default=None)


def _list(values: Any) -> list[Any]:
    return [] if values is None else list(values)
