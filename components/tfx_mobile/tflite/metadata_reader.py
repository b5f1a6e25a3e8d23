"""Reads TFLite metadata in pure Python: the flatbuffer `TFLITE_METADATA` and the files appended as a zip archive.

The schema (https://github.com/google-ai-edge/mediapipe/blob/master/mediapipe/tasks/metadata/metadata_schema.fbs) ships
with MediaPipe only, so its few fields that matter here are read by their slots. A file may be hostile: whatever cannot
be read is a recorded problem, and how much is read is limited.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Iterator
from typing import Any

import flatbuffers
from flatbuffers import number_types
from flatbuffers.table import Table

from tfx_mobile.records import AssociatedFileRecord, MetadataRecord, TensorMetadataRecord
from tfx_mobile.tflite.flatbuffer import text

METADATA_NAME = b"TFLITE_METADATA"
AXIS_LABELS, VALUE_LABELS, VOCABULARY = "tensor_axis_labels", "tensor_value_labels", "vocabulary"

_FILE_TYPES = (
    "unknown",
    "descriptions",
    AXIS_LABELS,
    VALUE_LABELS,
    "tensor_axis_score_calibration",
    VOCABULARY,
    "scann_index_file",
)
_CONTENTS = (None, "feature", "image", "bounding_box", "audio")
_IMAGE = 2
_COLOR_SPACES = (None, "rgb", "grayscale")
_NORMALIZATION, _SCORE_THRESHOLDING = 1, 3

_MAX_TABLES = 5_000
_MAX_FLOATS = 1_024
_MAX_STRING_BYTES = 16_384
_MAX_ARCHIVE_BYTES = 8 << 20
_MAX_TEXT_BYTES = 4 << 20
_MAX_FILES = 1_000


class _UnreadableError(Exception):
    """The metadata flatbuffer is damaged or exceeds a limit."""


def read_metadata(model: Any, data: bytes) -> MetadataRecord:
    """Reads what a file says about itself.

    Args:
        model: What `flatbuffer.read_model` returned for `data`.
        data: The file's bytes.

    Returns:
        What could be read; `problems` names what could not. Never raises because of the file.
    """
    problems: list[str] = []
    record = MetadataRecord()
    for entry in (model.metadata or [])[:_MAX_FILES]:
        if entry.name == METADATA_NAME:
            block = model.buffers[entry.buffer].data
            try:
                record = _model_metadata(_View.root(b"" if block is None else bytes(block)))
            except Exception as error:  # noqa: BLE001 (the flatbuffer reader raises whatever the damage leads to)
                record = MetadataRecord(present=True)
                problems.append(f"The metadata cannot be read: {type(error).__name__}: {error}.")
            break
    appended = _Appended(data, problems)

    def completed(files: tuple[AssociatedFileRecord, ...]) -> tuple[AssociatedFileRecord, ...]:
        return tuple(map(appended.complete, files))

    def with_files(tensors: tuple[TensorMetadataRecord, ...]) -> tuple[TensorMetadataRecord, ...]:
        return tuple(tensor.model_copy(update={"files": completed(tensor.files)}) for tensor in tensors)

    inputs, outputs, files = with_files(record.inputs), with_files(record.outputs), completed(record.files)
    named = {file.name: file for tensor in (*inputs, *outputs) for file in tensor.files}
    named = {file.name: file for file in files} | named
    others = completed(tuple(AssociatedFileRecord(name=name) for name in appended.names))
    everything = {file.name: file for file in others} | named
    problems += [f"The file {n!r} is named, but not appended." for n, f in named.items() if f.size_bytes is None]
    return record.model_copy(
        update={
            "inputs": inputs,
            "outputs": outputs,
            "files": tuple(everything.values()),
            "problems": tuple(problems),
        }
    )


def archive_start(data: bytes) -> int:
    """Where the appended zip archive begins; the length of the file if there is none that can be read."""
    archive, offset = _open_archive(data)
    starts = [offset + info.header_offset for info in archive.infolist()] if archive is not None else []
    return min((start for start in starts if offset <= start < len(data)), default=len(data))


# --- the metadata flatbuffer ------------------------------------------------------------------------------------------


class _View:
    """A table of the metadata flatbuffer; fields are addressed by their place in the schema."""

    def __init__(self, table: Table, budget: list[int]) -> None:
        budget[0] -= 1
        if budget[0] < 0:
            raise _UnreadableError(f"it holds more than {_MAX_TABLES} tables")
        self._table = table
        self._budget = budget

    @classmethod
    def root(cls, data: bytes) -> _View:
        position = flatbuffers.encode.Get(number_types.UOffsetTFlags.packer_type, data, 0)
        return cls(Table(data, position), [_MAX_TABLES])

    def _offset(self, field: int) -> int:
        return int(self._table.Offset(4 + 2 * field))

    def string(self, field: int) -> str:
        offset = self._offset(field)
        if not offset:
            return ""
        length = self._table.VectorLen(offset)
        start = self._table.Vector(offset)
        raw = self._table.Bytes[start : start + min(length, _MAX_STRING_BYTES)]
        return text(raw) + ("…" if length > _MAX_STRING_BYTES else "")

    def small_number(self, field: int) -> int:
        return int(self._table.GetSlot(4 + 2 * field, 0, number_types.Uint8Flags))

    def number(self, field: int) -> float | None:
        return _finite(self._table.GetSlot(4 + 2 * field, 0.0, number_types.Float32Flags))

    def floats(self, field: int) -> tuple[float | None, ...]:
        offset = self._offset(field)
        if not offset:
            return ()
        if (length := self._table.VectorLen(offset)) > _MAX_FLOATS:
            raise _UnreadableError(f"it lists {length} numbers where there is one per channel")
        values = self._table.GetVectorAsNumpy(number_types.Float32Flags, offset)
        return tuple(_finite(float(value)) for value in values)

    def table(self, field: int) -> _View | None:
        offset = self._offset(field)
        if not offset:
            return None
        return _View(Table(self._table.Bytes, self._table.Indirect(self._table.Pos + offset)), self._budget)

    def tables(self, field: int) -> Iterator[_View]:
        offset = self._offset(field)
        if not offset:
            return
        start = self._table.Vector(offset)
        for index in range(self._table.VectorLen(offset)):
            yield _View(Table(self._table.Bytes, self._table.Indirect(start + 4 * index)), self._budget)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _model_metadata(model: _View) -> MetadataRecord:
    main = next(model.tables(3), None)
    files = list(model.tables(6)) + (list(main.tables(4)) if main is not None else [])
    return MetadataRecord(
        present=True,
        name=model.string(0),
        description=model.string(1),
        version=model.string(2),
        author=model.string(4),
        license=model.string(5),
        min_parser_version=model.string(7),
        inputs=() if main is None else tuple(map(_tensor_metadata, main.tables(2))),
        outputs=() if main is None else tuple(map(_tensor_metadata, main.tables(3))),
        files=tuple(map(_associated_file, files)),
    )


def _tensor_metadata(tensor: _View) -> TensorMetadataRecord:
    content = tensor.table(3)
    kind = content.small_number(0) if content is not None else 0
    image = content.table(1) if content is not None and kind == _IMAGE else None
    mean: tuple[float | None, ...] = ()
    std: tuple[float | None, ...] = ()
    threshold = None
    for unit in tensor.tables(4):
        options, options_type = unit.table(1), unit.small_number(0)
        if options is not None and options_type == _NORMALIZATION:
            mean, std = options.floats(0), options.floats(1)
        elif options is not None and options_type == _SCORE_THRESHOLDING:
            threshold = options.number(0)
    return TensorMetadataRecord(
        name=tensor.string(0),
        description=tensor.string(1),
        content=_named(_CONTENTS, kind),
        color_space=_named(_COLOR_SPACES, image.small_number(0)) if image is not None else None,
        mean=mean,
        std=std,
        score_threshold=threshold,
        files=tuple(map(_associated_file, tensor.tables(6))),
    )


def _associated_file(file: _View) -> AssociatedFileRecord:
    return AssociatedFileRecord(
        name=file.string(0), type=_named(_FILE_TYPES, file.small_number(2)), locale=file.string(3) or None
    )


def _named(names: tuple[str | None, ...], code: int) -> str | None:
    return names[code] if code < len(names) else f"unknown_{code}"


# --- the appended archive ---------------------------------------------------------------------------------------------


def _open_archive(data: bytes) -> tuple[zipfile.ZipFile | None, int]:
    """The archive at the end of a file, if there is one, and where the bytes it was opened on begin in the file."""
    # zipfile reads the whole directory before anything can be counted, so it only ever sees the end of the file.
    offset = max(0, len(data) - _MAX_ARCHIVE_BYTES)
    try:
        return zipfile.ZipFile(io.BytesIO(data[offset:])), offset
    except Exception:  # noqa: BLE001 (no archive, or zipfile raises whatever the damage leads to)
        return None, offset


class _Appended:
    """The appended files.

    Attributes:
        names: Their names.
    """

    def __init__(self, data: bytes, problems: list[str]) -> None:
        self._problems = problems
        self._archive, _ = _open_archive(data)
        infos = self._archive.infolist() if self._archive is not None else []
        if len(infos) > _MAX_FILES:
            problems.append(f"{len(infos):,} files are appended; only the first {_MAX_FILES:,} are shown.")
        self._infos = {info.filename: info for info in infos[:_MAX_FILES]}
        self._bytes_left = _MAX_TEXT_BYTES
        self.names = tuple(self._infos)

    def complete(self, file: AssociatedFileRecord) -> AssociatedFileRecord:
        """`file` with its size, and its number of lines if it is a list of labels or words."""
        info = self._infos.get(file.name)
        if info is None:
            return file
        lines = None
        if file.type in (AXIS_LABELS, VALUE_LABELS, VOCABULARY):
            try:
                lines = self._count_lines(info)
            except Exception as error:  # noqa: BLE001 (zipfile and zlib raise whatever the damage leads to)
                self._problems.append(f"The file {file.name!r} cannot be read: {type(error).__name__}: {error}.")
        compressed = info.compress_type != zipfile.ZIP_STORED
        return file.model_copy(update={"size_bytes": info.file_size, "compressed": compressed, "num_lines": lines})

    def _count_lines(self, info: zipfile.ZipInfo) -> int:
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise _UnreadableError(f"it is compressed by method {info.compress_type}")  # cannot be read piecemeal
        assert self._archive is not None  # noqa: S101 (it has the entry)
        with self._archive.open(info) as file:
            contents = file.read(self._bytes_left + 1)
        if len(contents) > self._bytes_left:
            raise _UnreadableError(f"it decompresses to more than {self._bytes_left:,} bytes")
        self._bytes_left -= len(contents)
        return contents.count(b"\n") + (contents[-1:] not in (b"\n", b""))
