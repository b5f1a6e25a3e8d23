"""TFLite metadata: labels, normalization, version and provenance inside the file, written by MediaPipe's writers.

MediaPipe cannot be installed beside TFX, so its writers run as a subprocess under another interpreter
(`mediapipe_writer.py`). What comes back is trusted only after a look: the right hash, the files that were asked for,
and a model that is the same table by table.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tfx_mobile.errors import MetadataError, RecipeError
from tfx_mobile.recipes import MetadataSpec
from tfx_mobile.records import SignatureRecord, TensorRecord, WrittenMetadataRecord, canonical_json, sha256_of
from tfx_mobile.tflite import mediapipe_writer
from tfx_mobile.tflite.flatbuffer import first_subgraph

#: Environment variable with the interpreter that has the writers.
PYTHON_VARIABLE = "TFX_MOBILE_METADATA_PYTHON"
#: Name of the custom metadata that says where a file comes from.
PROVENANCE = "TFX_MOBILE"
LABELS_FILE = "labels.txt"

HOW_TO_INSTALL = (
    "Make an environment for MediaPipe's metadata writers (Python 3.9 to 3.12) and name its interpreter:\n"
    "  python3 -m venv /opt/tfx-mobile-metadata\n"
    "  /opt/tfx-mobile-metadata/bin/pip install --no-deps mediapipe==0.10.21 flatbuffers==25.12.19 numpy==1.26.4\n"
    f"  export {PYTHON_VARIABLE}=/opt/tfx-mobile-metadata/bin/python"
)

_PROBE_SECONDS = 120.0
_STDERR_TAIL = 4000
_IMAGE_DTYPES = ("float32", "uint8", "int8")
_METADATA_NAME = b"TFLITE_METADATA"


@dataclass(frozen=True)
class Writer:
    """MediaPipe's metadata writers in some environment.

    Attributes:
        python: The environment's interpreter.
        version: Package and version, such as `mediapipe 0.10.21`.
    """

    python: str
    version: str


@dataclass(frozen=True)
class Metadata:
    """What the variants of one model shall say about themselves.

    Attributes:
        spec: What the pipeline's author asks for. What is asked for and cannot be written is an error.
        writer: Who writes it; None if nothing is written.
        not_written: Why there is no writer.
        labels: Class names known from artifacts, for a spec without labels. Left out if they do not fit the model,
            unless the spec names the feature they belong to.
        labels_from: Where `labels` were taken from, in words.
        provenance: JSON that lets a file be traced to its source; without paths and times.
        twin_provenance: What differs from it in a file made from the quantization-aware twin.
        notes: What is known but was left out, and why.
    """

    spec: MetadataSpec
    writer: Writer | None
    not_written: str | None = None
    labels: tuple[str, ...] = ()
    labels_from: str | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)
    twin_provenance: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def requested(self) -> bool:
        """Whether the author asks for anything."""
        return is_requested(self.spec)

    @property
    def class_names(self) -> tuple[tuple[str, ...], str]:
        """The class names, and where they come from."""
        return (self.spec.labels, "MetadataSpec") if self.spec.labels else (self.labels, self.labels_from or "")

    @property
    def labels_requested(self) -> bool:
        """Whether class names that do not fit the model are an error."""
        return bool(self.spec.labels) or self.spec.label is not None


def is_requested(spec: MetadataSpec) -> bool:
    """Whether a spec asks for anything."""
    return spec != MetadataSpec()


def find_writer() -> tuple[Writer | None, str]:
    """Looks for an interpreter with MediaPipe's writers: `TFX_MOBILE_METADATA_PYTHON`, else the running one.

    Returns:
        The writer, or None and why there is none.

    Raises:
        MetadataError: The environment variable names an interpreter that cannot do it.
    """
    configured = os.environ.get(PYTHON_VARIABLE)
    if not configured and importlib.util.find_spec("mediapipe") is None:
        return None, f"{PYTHON_VARIABLE} is not set, and MediaPipe is not installed beside TFX."
    python = configured or sys.executable
    try:
        answer = _ask(python, {"probe": True}, _PROBE_SECONDS)
    except MetadataError as error:
        if configured:
            raise MetadataError(
                f"{PYTHON_VARIABLE}={configured} cannot write metadata: {error}\n{HOW_TO_INSTALL}"
            ) from error
        return None, f"{PYTHON_VARIABLE} is not set, and MediaPipe's writers do not work beside TFX: {error}"
    return Writer(python=python, version=f"mediapipe {answer['mediapipe']}"), ""


def check(metadata: Metadata, signature: SignatureRecord) -> None:
    """Checks what is asked for against what the model has, before minutes are spent on converting it.

    Args:
        metadata: What is asked for.
        signature: Inputs and outputs of the model.

    Raises:
        RecipeError: Labels that fit no output, or normalization that fits no input.
    """
    spec = metadata.spec
    # Sizes that the signature leaves open are known in the file.
    if metadata.labels_requested and all(tensor.shape and tensor.shape[-1] != -1 for tensor in signature.outputs):
        _labelled_output(signature.outputs, metadata.class_names[0])
    if spec.mean:
        image = _image_input(signature.inputs)
        if image is None:
            raise RecipeError(
                f"MetadataSpec(mean=..., std=...) describes an image input [1, height, width, 1 or 3], alone; the "
                f"model's inputs are {_describe(signature.inputs)}. Leave mean and std out, or give the signature such "
                "an input in run_fn."
            )
        channels = image.shape[3]
        if len(spec.mean) not in (1, channels):
            raise RecipeError(
                f"MetadataSpec(mean={spec.mean}) has {len(spec.mean)} values; input {image.name!r} has {channels} "
                f"channel(s). Give 1 or {channels} value(s)."
            )


def write(
    path: Path, metadata: Metadata, provenance: Mapping[str, Any], deadline_seconds: float
) -> WrittenMetadataRecord:
    """Writes metadata into a file, in place.

    Args:
        path: Local `.tflite` file.
        metadata: What to write.
        provenance: Added to the metadata's own.
        deadline_seconds: Longest time for the writer; wall time.

    Returns:
        What was written. If nothing was asked for, a writer that fails is only recorded and the file stays as it was.

    Raises:
        MetadataError: What was asked for could not be written.
        ModelFileError: The file is corrupt.
    """
    if metadata.writer is None:
        return WrittenMetadataRecord(not_written=metadata.not_written, notes=metadata.notes)
    data = path.read_bytes()
    try:
        request, record = _plan(first_subgraph(data), metadata, provenance)
        described = _written(data, path, request, metadata.writer, deadline_seconds)
    except (MetadataError, RecipeError) as error:
        if metadata.requested:
            raise MetadataError(str(error)) from error
        return WrittenMetadataRecord(not_written=str(error), notes=metadata.notes)
    path.write_bytes(described)
    return record


def _plan(
    interface: SignatureRecord, metadata: Metadata, provenance: Mapping[str, Any]
) -> tuple[dict[str, Any], WrittenMetadataRecord]:
    """The request to the writer, and what it will have written."""
    spec, notes, labelled = metadata.spec, list(metadata.notes), None
    labels, labels_from = metadata.class_names
    if labels:
        try:
            labelled = _labelled_output(interface.outputs, labels)
        except RecipeError as error:
            if metadata.labels_requested:
                raise
            notes.append(f"Labels from {labels_from} are left out. {error}")
            labels = ()
    image = _image_input(interface.inputs) if labels or spec.mean else None
    inputs: list[dict[str, Any]] = [{"name": tensor.name} for tensor in interface.inputs]
    if image is not None:
        inputs[0]["image"] = {
            "mean": list(spec.mean),
            "std": list(spec.std),
            "color_space": "RGB" if image.shape[3] == 3 else "GRAYSCALE",
            "dtype": image.dtype,
        }
    outputs: list[dict[str, Any]] = [{"name": tensor.name} for tensor in interface.outputs]
    text = "\n".join(labels)
    if labelled is not None:
        outputs[labelled]["labels"] = LABELS_FILE
    general = {key: getattr(spec, key) for key in ("name", "version", "description", "author")}
    request = {
        "general": general,
        "inputs": inputs,
        "outputs": outputs,
        "files": {LABELS_FILE: text} if labels else {},
        "custom": {PROVENANCE: canonical_json({**metadata.provenance, **provenance}).decode()},
    }
    record = WrittenMetadataRecord(
        writer=cast(Writer, metadata.writer).version,
        kind="image_classifier" if image is not None else "model",
        **general,
        num_labels=len(labels),
        labels_sha256=sha256_of(text.encode()) if labels else None,
        labels_from=labels_from if labels else None,
        mean=spec.mean,
        std=spec.std,
        raw_pixels=_raw_pixels(image, spec) if image is not None else None,
        notes=tuple(notes),
    )
    return request, record


def _image_input(inputs: Sequence[TensorRecord]) -> TensorRecord | None:
    """The input if it is the only one and an image [1, height, width, 1 or 3], as MediaPipe and ML Kit feed one."""
    if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].dtype not in _IMAGE_DTYPES:
        return None
    return inputs[0] if inputs[0].shape[3] in (1, 3) else None


def _labelled_output(outputs: Sequence[TensorRecord], labels: Sequence[str]) -> int:
    """Position of the only output with one value per label."""
    fitting = [index for index, tensor in enumerate(outputs) if tensor.shape and tensor.shape[-1] == len(labels)]
    if len(fitting) == 1:
        return fitting[0]
    problem = "no output has as many values in its last dimension" if not fitting else "several outputs have"
    raise RecipeError(
        f"There are {len(labels)} labels ({', '.join(labels[:5])}{', ...' if len(labels) > 5 else ''}), and {problem}: "
        f"the outputs are {_describe(outputs)}. Give one label per value of one output."
    )


def _raw_pixels(image: TensorRecord, spec: MetadataSpec) -> bool | None:
    """Whether a uint8 input takes pixels as they are: (pixel - zero_point) * scale is (pixel - mean) / std."""
    if image.dtype != "uint8" or not spec.mean or image.scale is None or image.zero_point is None:
        return None
    scale, zero_point = image.scale, image.zero_point
    # Both are straight lines, so they differ most at an end of the range.
    return all(
        abs((pixel - zero_point) * scale - (pixel - mean) / std) <= scale
        for mean, std in zip(spec.mean, spec.std, strict=True)
        for pixel in (0, 255)
    )


def _describe(tensors: Sequence[TensorRecord]) -> str:
    return ", ".join(f"{t.name} {t.dtype} {list(t.shape)}" for t in tensors) or "none"


def _written(data: bytes, path: Path, request: dict[str, Any], writer: Writer, deadline_seconds: float) -> bytes:
    """The described file's bytes; `path` is not touched."""
    before = schema.ModelT.InitFromPackedBuf(data, 0)
    if any(buffer.offset > 1 for buffer in before.buffers):
        raise MetadataError("The file keeps weights behind its flatbuffer, where MediaPipe's writers lose them.")
    with tempfile.TemporaryDirectory(dir=path.parent) as directory:
        output = Path(directory) / "described.tflite"
        paths = {"model": str(path), "output": str(output), "sha256": sha256_of(data)}
        try:
            answer = _ask(writer.python, {**request, **paths}, deadline_seconds)
        except MetadataError as error:
            raise MetadataError(str(error).replace(directory, "<work>").replace(str(path), "<model>")) from None
        described = output.read_bytes() if output.exists() else b""
    if not described or sha256_of(described) != answer.get("sha256"):
        raise MetadataError(f"The file that {writer.version} left is not the one it answered for.")
    if not _same_model(before, described):
        raise MetadataError(
            f"{writer.version} changed the model itself: it was made for an older schema of .tflite files and drops "
            "what it does not know."
        )
    if _associated_files(described) != request["files"]:
        raise MetadataError(f"{writer.version} did not pack the associated files {', '.join(request['files'])}.")
    return described


def _same_model(before: Any, described: bytes) -> bool:
    """Whether nothing but the metadata entry and its buffer was added."""
    after = schema.ModelT.InitFromPackedBuf(described, 0)
    after.metadata = [entry for entry in after.metadata or [] if entry.name != _METADATA_NAME]
    after.buffers = after.buffers[: len(before.buffers)]
    before.metadata = before.metadata or []
    return _equal(before, after)


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return np.array_equal(a, b)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_equal, a, b))
    if hasattr(a, "__dict__"):
        return type(a) is type(b) and all(_equal(value, vars(b)[key]) for key, value in vars(a).items())
    return bool(a == b)


def _associated_files(data: bytes) -> dict[str, str]:
    if not zipfile.is_zipfile(io.BytesIO(data)):
        return {}
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name).decode() for name in archive.namelist()}


def _ask(python: str, request: dict[str, Any], deadline_seconds: float) -> dict[str, Any]:
    """Runs the writer script under `python`, isolated from this process's environment and import path."""
    # Files and not pipes: a descendant that survives the interpreter would keep a pipe open.
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        try:
            process = subprocess.Popen(
                [python, "-I", mediapipe_writer.__file__],
                stdin=subprocess.PIPE,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            )
        except OSError as error:
            raise MetadataError(f"The interpreter cannot be started: {error.strerror or error}.") from None
        try:
            process.communicate(json.dumps(request).encode(), timeout=deadline_seconds)
        except subprocess.TimeoutExpired:
            raise MetadataError(f"The metadata writer gave no answer within {deadline_seconds:g} seconds.") from None
        finally:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if process.returncode:
            code = process.returncode
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            raise MetadataError(f"The metadata writer {how}: {_last_line(stderr)}")
        stdout.seek(0)
        try:
            answer = json.load(stdout)
        except ValueError:
            answer = None
        if not isinstance(answer, dict) or not isinstance(answer.get("mediapipe"), str):
            raise MetadataError("The metadata writer's answer is none; is this interpreter Python?")
        return answer


def _last_line(stderr: Any) -> str:
    stderr.seek(0, os.SEEK_END)
    stderr.seek(max(0, stderr.tell() - _STDERR_TAIL))
    lines = [line.strip() for line in stderr.read().decode(errors="replace").splitlines() if line.strip()]
    return str(lines[-1]) if lines else "it said nothing."
