"""Reads what TFX hands to an executor, and writes what it takes back: artifacts, splits, SavedModels, JSON parameters.

Everything goes through TFX's file system layer, so that pipeline roots may be remote. Errors are of the type that the
calling component raises for its inputs.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tfx.dsl.io import fileio
from tfx.types import artifact_utils
from tfx.types.artifact import Artifact
from tfx.types.standard_artifacts import Examples
from tfx.utils import io_utils, path_utils

from tfx_mobile import keras_file
from tfx_mobile.errors import TFXMobileError
from tfx_mobile.records import ArtifactOrigin

#: In a Schema artifact, as SchemaGen writes it.
SCHEMA_FILE = "schema.pbtxt"

_SAVED_MODEL_FILE = "saved_model.pb"
_READ_BYTES = 1 << 20


def single(artifact_dict: Mapping[str, Sequence[Artifact]], key: str, error: type[Exception]) -> Artifact:
    """The one artifact of a channel."""
    found = artifact_dict.get(key) or []
    if len(found) != 1:
        raise error(
            f"Exactly one {key!r} artifact is needed, {len(found)} were given. Wire {key!r} to a channel that holds "
            "one artifact per run; put a Resolver in between if it holds more."
        )
    return found[0]


def origin_of(artifact: Artifact) -> ArtifactOrigin:
    """What ML Metadata knows of an artifact; None for what the orchestrator did not pass on.

    Kubeflow and Vertex pass neither times nor names, and instead of the id a hash of their own name for the artifact.
    An artifact that comes from an ML Metadata store always has a creation time, so its absence tells them apart.
    """
    recorded = artifact.mlmd_artifact
    created_ms = recorded.create_time_since_epoch or None
    return ArtifactOrigin(
        type=artifact.type_name,
        id=recorded.id or None if created_ms else None,
        name=recorded.name or None,
        created_ms=created_ms,
        span=_number(artifact, "span"),
        version=_number(artifact, "version"),
    )


def _number(artifact: Artifact, name: str) -> int | None:
    """A number of Examples: ExampleGen writes custom properties, an Importer the properties of the type."""
    if not isinstance(artifact, Examples):
        return None
    if artifact.has_custom_property(name):
        text = artifact.get_string_custom_property(name)  # older ExampleGens wrote texts
        if not text:
            return int(artifact.get_int_custom_property(name))
        return int(text) if text.isdecimal() else None
    if name in artifact.mlmd_artifact.properties:
        return int(artifact.mlmd_artifact.properties[name].int_value)
    return None


def from_json(value: Any, parameter: str, example: str, error: type[Exception]) -> Any:
    """A parameter that may come as JSON text, as Kubeflow passes it, or as what that text stands for."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError as problem:
        raise error(f"{parameter}={value!r} is not JSON ({problem}). Give JSON text such as {example}.") from None


def find_saved_model(model: Artifact, error: type[TFXMobileError]) -> str:
    """Uri of the SavedModel, or of the Keras file if there is none.

    It lies where Trainer puts it, or at the artifact's root for one that an Importer brought.
    """
    serving = path_utils.serving_model_path(model.uri, path_utils.is_old_model_artifact(model))
    candidates: list[str] = [serving, model.uri]
    for candidate in candidates:
        if fileio.exists(posixpath.join(candidate, _SAVED_MODEL_FILE)):
            return candidate
    for candidate in candidates:
        names = sorted(fileio.listdir(candidate)) if fileio.isdir(candidate) else []
        keras_files = [name for name in names if keras_file.is_keras_file(name)]
        if len(keras_files) > 1:
            raise error(
                f"{candidate} holds no SavedModel and {len(keras_files)} Keras files: {', '.join(keras_files)}. Leave "
                "the one to convert, or save a SavedModel beside them."
            )
        if keras_files:
            return posixpath.join(candidate, keras_files[0])
    held = sorted(fileio.listdir(model.uri)) if fileio.isdir(model.uri) else "nothing, it is no folder"
    raise error(
        f"The model artifact {model.uri} holds no SavedModel: there is no {_SAVED_MODEL_FILE} in "
        f"{' or '.join(candidates)}, and no .keras or .h5 file either. It holds: {held}. Let run_fn save to "
        "fn_args.serving_model_dir, with tf.saved_model.save or model.export."
    )


def local_copy(uri: str, directory: str) -> str:
    """`uri` itself if it is local, else the path of a copy in `directory`.

    Args:
        uri: What `find_saved_model` found.
        directory: Local folder that does not exist yet.
    """
    if "://" not in uri:
        return uri
    if not keras_file.is_keras_file(uri):
        io_utils.copy_dir(uri, directory)
        return directory
    target = posixpath.join(directory, posixpath.basename(uri))
    io_utils.copy_file(uri, target)
    return target


def saved_model_sha256(uri: str) -> str:
    """SHA-256 over the sorted relative paths, sizes and contents of a SavedModel's files, or over a Keras file."""
    if keras_file.is_keras_file(uri):
        return _contents(uri)[0].hex()
    digest = hashlib.sha256()
    root = uri.rstrip("/")
    for path in sorted(posixpath.join(folder, name) for folder, _, names in fileio.walk(root) for name in names):
        contents, size = _contents(path)
        name = path[len(root) :].strip("/").encode()
        digest.update(b"%d:%s:%d:%s" % (len(name), name, size, contents))
    return digest.hexdigest()


def _contents(path: str) -> tuple[bytes, int]:
    """SHA-256 and size of a file."""
    contents = hashlib.sha256()
    size = 0
    with fileio.open(path, "rb") as stream:
        while chunk := stream.read(_READ_BYTES):
            contents.update(chunk)
            size += len(chunk)
    return contents.digest(), size


def split_files(examples: Iterable[Artifact], split: str, set_with: str, error: type[TFXMobileError]) -> list[str]:
    """Sorted TFRecord files of a split of tf.Examples, over all artifacts of the channel.

    Args:
        examples: The Examples artifacts.
        split: Name of the split.
        set_with: How a pipeline author chooses the split, for messages.
        error: What to raise if there is no such split, it has no files, or they hold something else.
    """
    # Imported here: with it comes the stock Evaluator, and TFMA, which defining a pipeline must not need.
    from tfx.components.util import examples_utils
    from tfx.proto import example_gen_pb2

    examples = list(examples)
    for artifact in examples:
        names = artifact_utils.decode_split_names(artifact.split_names)
        if split not in names:
            raise error(
                f"The examples {artifact.uri} have no split {split!r}. Their splits: {', '.join(names) or 'none'}. "
                f"Choose one with {set_with}."
            )
        payload = examples_utils.get_payload_format(artifact)
        if payload != example_gen_pb2.PayloadFormat.FORMAT_TF_EXAMPLE:
            raise error(
                f"The examples {artifact.uri} are {example_gen_pb2.PayloadFormat.Name(payload)}; only "
                "FORMAT_TF_EXAMPLE can be read. Let ExampleGen write tf.Examples."
            )
    patterns = examples_utils.get_split_file_patterns(examples, split)
    files = sorted(path for pattern in patterns for path in fileio.glob(pattern))
    if not files:
        raise error(
            f"Split {split!r} of the examples has no files: nothing matches {', '.join(patterns)}. Choose another "
            f"split with {set_with}, or check the step that wrote the examples."
        )
    return files


def exists(artifact: Artifact, *path: str) -> bool:
    """Whether there is such a file below an artifact's uri."""
    return bool(fileio.exists(posixpath.join(artifact.uri, *path)))


def read_bytes(artifact: Artifact, *path: str) -> bytes:
    """Content of a file below an artifact's uri."""
    with fileio.open(posixpath.join(artifact.uri, *path), "rb") as stream:
        return bytes(stream.read())


def write_bytes(artifact: Artifact, path: str, data: bytes) -> None:
    """Writes a file below an artifact's uri, with the folders it needs."""
    target = posixpath.join(artifact.uri, path)
    fileio.makedirs(posixpath.dirname(target))
    with fileio.open(target, "wb") as stream:
        stream.write(data)
