"""How much a `.tflite` file may unfold to when it is read.

Offsets in a flatbuffer may point at one table, vector or string any number of times. A hostile file of a megabyte can
thereby stand for gigabytes of objects: 100 thousand tensors that share one name of half a megabyte. The honest writers
share nothing of the kind, so what all references cost together is counted before anything is unpacked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import flatbuffers
from ai_edge_litert import schema_py_generated as schema
from flatbuffers import number_types
from flatbuffers.table import Table

from tfx_mobile.errors import ModelFileError

#: Most tables (tensors, operators, buffers and the like) of one file. Language models with many signatures have about
#: a hundred thousand.
MAX_TABLES = 300_000

#: Most numbers in shapes, index lists, scales and zero points of one file, taken together.
MAX_NUMBERS = 5_000_000

#: Vectors and strings may add up to this many times the file's size.
MAX_UNFOLDING = 4
_SMALL_FILE_BYTES = 1 << 20


@dataclass(frozen=True)
class _Layout:
    """Where a table of the schema holds what has a length.

    Attributes:
        vectors: Item size in bytes of each vector of numbers and each string, by vtable slot.
        tables: Layout of each single table.
        lists: Layout of the items of each vector of tables.
        options: Slots of strings in a union's table, by its slot, its type's slot and its type.
    """

    vectors: Mapping[int, int] = field(default_factory=dict)
    tables: Mapping[int, _Layout] = field(default_factory=dict)
    lists: Mapping[int, _Layout] = field(default_factory=dict)
    options: Mapping[tuple[int, int, int], tuple[int, ...]] = field(default_factory=dict)


# Slots are 4 + 2 * the field's place in the schema (tensorflow/compiler/mlir/lite/schema/schema.fbs).
_DIMENSION = _Layout()
_QUANTIZATION = _Layout(vectors={4: 4, 6: 4, 8: 4, 10: 8})
_SPARSITY = _Layout(vectors={4: 4, 6: 4}, lists={8: _DIMENSION})
_VARIANT_TYPE = _Layout(vectors={4: 4})
_TENSOR = _Layout(vectors={4: 4, 10: 1, 18: 4}, tables={12: _QUANTIZATION, 16: _SPARSITY}, lists={22: _VARIANT_TYPE})
_BUILTIN_OPTIONS, _BUILTIN_OPTIONS_2 = (12, 10), (28, 26)
_OPERATOR = _Layout(
    vectors={6: 4, 8: 4, 14: 1, 18: 1, 20: 4},
    options={
        (*slots, getattr(union, name)): strings
        for slots, union, name, strings in (
            (_BUILTIN_OPTIONS, schema.BuiltinOptions, "VarHandleOptions", (4, 6)),
            (_BUILTIN_OPTIONS_2, schema.BuiltinOptions2, "StablehloCustomCallOptions", (4, 8)),
            (_BUILTIN_OPTIONS_2, schema.BuiltinOptions2, "StableHLOCompositeOptions", (4,)),
        )
        if hasattr(union, name)
    },
)
_SUBGRAPH = _Layout(vectors={6: 4, 8: 4, 12: 1}, lists={4: _TENSOR, 10: _OPERATOR})
_NAMED = _Layout(vectors={4: 1})
_SIGNATURE = _Layout(vectors={8: 1}, lists={4: _NAMED, 6: _NAMED})
_MODEL = _Layout(
    vectors={10: 1, 14: 4},
    lists={
        6: _Layout(vectors={6: 1}),  # operator codes
        8: _SUBGRAPH,
        12: _Layout(vectors={4: 1}),  # buffers
        16: _NAMED,  # metadata
        18: _SIGNATURE,
        20: _NAMED,  # groups of external buffers
        22: _Layout(vectors={12: 1}),  # external buffers
    },
)


def check_unfolding(data: bytes) -> None:
    """Refuses a file whose references add up to more than an honest file can hold.

    Args:
        data: The file's bytes, with the identifier checked.

    Raises:
        ModelFileError: They do.
        Exception: Whatever the flatbuffer reader raises on damaged offsets.
    """
    root = flatbuffers.encode.Get(number_types.UOffsetTFlags.packer_type, data, 0)
    _Walk(data).table(Table(data, root), _MODEL)


class _Walk:
    def __init__(self, data: bytes) -> None:
        self._size = len(data)
        self._tables = 0
        self._numbers = 0
        self._bytes = 0

    def table(self, table: Table, layout: _Layout) -> None:
        self._tables += 1
        for slot, item_bytes in layout.vectors.items():
            self._vector(table, slot, item_bytes)
        for slot, single in layout.tables.items():
            if offset := table.Offset(slot):
                self.table(Table(table.Bytes, table.Indirect(table.Pos + offset)), single)
        for slot, items in layout.lists.items():
            count = self._vector(table, slot, 4)
            if self._tables + count > MAX_TABLES:
                raise _too_many(f"{MAX_TABLES:,} tensors, operators and other tables")
            if count:
                start = table.Vector(table.Offset(slot))
                for index in range(count):
                    self.table(Table(table.Bytes, table.Indirect(start + 4 * index)), items)
        for (slot, type_slot, union_type), strings in layout.options.items():
            if table.GetSlot(type_slot, 0, number_types.Uint8Flags) == union_type and (offset := table.Offset(slot)):
                options = Table(table.Bytes, table.Indirect(table.Pos + offset))
                for string in strings:
                    self._vector(options, string, 1)

    def _vector(self, table: Table, slot: int, item_bytes: int) -> int:
        offset = table.Offset(slot)
        if not offset:
            return 0
        count = int(table.VectorLen(offset))
        self._bytes += count * item_bytes
        if item_bytes > 1:
            self._numbers += count
            if self._numbers > MAX_NUMBERS:
                raise _too_many(f"{MAX_NUMBERS:,} numbers in shapes, indices and quantization parameters")
        if self._bytes > MAX_UNFOLDING * self._size + _SMALL_FILE_BYTES:
            raise ModelFileError(
                f"Corrupt .tflite file: its vectors and strings add up to more than {MAX_UNFOLDING} times its "
                f"{self._size:,} bytes, so they overlap. Produce or fetch it again."
            )
        return count


def _too_many(what: str) -> ModelFileError:
    return ModelFileError(
        f"Not read: the .tflite file holds more than {what}. It is damaged or made to exhaust its reader; produce or "
        "fetch it again."
    )
