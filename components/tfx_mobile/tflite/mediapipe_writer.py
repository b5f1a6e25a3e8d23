"""Writes TFLite metadata with MediaPipe's writers; a script, run under the interpreter of another environment.

MediaPipe's requirements contradict TFX's, so this never runs beside TFX and imports nothing of this package: a JSON
request comes in on stdin, the described file is written where it says, and a JSON answer goes to stdout. It needs
mediapipe, flatbuffers and numpy, of Python 3.9 or newer (requirements/metadata.txt).
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import io
import json
import os
import shutil
import sys
import types
import zipfile
from typing import Any

#: The oldest time a zip archive can hold. Its own clock would make every file a different one.
_NO_TIME = (1980, 1, 1, 0, 0, 0)


def main() -> None:
    """Answers one request.

    The request: `probe`, to say only which version there is; or `model` and `output` (paths), `sha256` of the model,
    `general` (name, version, description, author), `inputs` and `outputs` (one dict per tensor, in the file's order),
    `files` (text by name), `custom` (text by name).
    """
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever the libraries print
    request = json.load(sys.stdin)
    version = _import_writers()
    result = {"mediapipe": version}
    if not request.get("probe"):
        result["sha256"] = _write(request)
    with answer:
        json.dump(result, answer)


def _import_writers() -> str:
    """Makes the writers importable, and nothing else of MediaPipe.

    Its packages import every task when they are imported, and with them jax, OpenCV and the native libraries of the
    tasks; the writers need none of that. So the packages above them are made here without running their code.
    """
    spec = importlib.util.find_spec("mediapipe")
    if spec is None or spec.origin is None:
        raise ImportError("mediapipe is not installed")
    root = os.path.dirname(spec.origin)
    for name in ("mediapipe", "mediapipe.tasks", "mediapipe.tasks.python"):
        package = types.ModuleType(name)
        package.__path__ = [os.path.join(root, *name.split(".")[1:])]
        sys.modules[name] = package
    import flatbuffers
    import numpy  # noqa: F401 - without it every weight becomes a Python number

    class AlignedBuilder(flatbuffers.Builder):
        """Aligns vectors to 16 bytes, as the schema of .tflite files demands of weights."""

        def StartVector(self, elemSize: int, numElems: int, alignment: int) -> Any:
            return super().StartVector(elemSize, numElems, max(alignment, 16))

    flatbuffers.Builder = AlignedBuilder
    from mediapipe.tasks.python.metadata import metadata  # noqa: F401
    from mediapipe.tasks.python.metadata.metadata_writers import metadata_info  # noqa: F401

    return importlib.metadata.version("mediapipe")


def _write(request: dict[str, Any]) -> str:
    """Writes `output` and returns its SHA-256."""
    from mediapipe.tasks.python.metadata import metadata

    with open(request["model"], "rb") as stream:
        sha256 = hashlib.sha256(stream.read()).hexdigest()
    if sha256 != request["sha256"]:
        raise ValueError(f"the model hashes to {sha256} instead of {request['sha256']}")
    shutil.copyfile(request["model"], request["output"])
    files = {name: text.encode() for name, text in request["files"].items()}
    populator = metadata.MetadataPopulator.with_model_file(request["output"])
    populator.load_metadata_buffer(_metadata_buffer(request))
    populator.load_associated_file_buffers(files)
    populator.populate()
    with open(request["output"], "rb") as stream:
        data = _without_time(stream.read(), files)
    with open(request["output"], "wb") as stream:
        stream.write(data)
    return hashlib.sha256(data).hexdigest()


def _metadata_buffer(request: dict[str, Any]) -> bytearray:
    import flatbuffers
    from mediapipe.tasks.metadata import metadata_schema_py_generated as schema
    from mediapipe.tasks.python.metadata import metadata
    from mediapipe.tasks.python.metadata.metadata_writers import metadata_info

    subgraph = schema.SubGraphMetadataT()
    subgraph.inputTensorMetadata = [_tensor(tensor).create_metadata() for tensor in request["inputs"]]
    subgraph.outputTensorMetadata = [_tensor(tensor).create_metadata() for tensor in request["outputs"]]
    subgraph.customMetadata = []
    for name, text in sorted(request["custom"].items()):
        custom = schema.CustomMetadataT()
        custom.name, custom.data = name, list(text.encode())
        subgraph.customMetadata.append(custom)
    model = metadata_info.GeneralMd(**request["general"]).create_metadata()
    model.subgraphMetadata = [subgraph]
    builder = flatbuffers.Builder(0)
    builder.Finish(model.Pack(builder), metadata.MetadataPopulator.METADATA_FILE_IDENTIFIER)
    return bytearray(builder.Output())


def _tensor(tensor: dict[str, Any]) -> Any:
    from mediapipe.tasks.metadata import metadata_schema_py_generated as schema
    from mediapipe.tasks.metadata import schema_py_generated as model_schema
    from mediapipe.tasks.python.metadata.metadata_writers import metadata_info

    if "image" in tensor:
        image = tensor["image"]
        return metadata_info.InputImageTensorMd(
            name=tensor["name"],
            norm_mean=image["mean"] or None,
            norm_std=image["std"] or None,
            color_space_type=getattr(schema.ColorSpaceType, image["color_space"]),
            tensor_type=getattr(model_schema.TensorType, image["dtype"].upper()),
        )
    labels = [metadata_info.LabelFileMd(tensor["labels"])] if "labels" in tensor else None
    return metadata_info.TensorMd(name=tensor["name"], associated_files=labels)


def _without_time(data: bytes, files: dict[str, bytes]) -> bytes:
    """The same file with its associated files packed anew, without the time of packing; without any, no archive."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        end = min((entry.header_offset for entry in archive.infolist()), default=archive.start_dir)
    if not files:
        return data[:end]
    packed = io.BytesIO(data[:end])
    with zipfile.ZipFile(packed, "a") as archive:
        for name, content in sorted(files.items()):
            archive.writestr(zipfile.ZipInfo(name, _NO_TIME), content)
    return packed.getvalue()


if __name__ == "__main__":
    main()
