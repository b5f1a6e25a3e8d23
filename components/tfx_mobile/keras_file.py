"""Keras files (`.keras`, `.h5`): a SavedModel is exported from them, by the generation of Keras that wrote them.

A Keras file may hold Python code and name classes to import. Neither is ever run: such a file is refused before Keras
sees it, since Keras 2 has no safe mode for `.h5` files. Loading happens in a child process, as native code does.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tfx_mobile import child_process
from tfx_mobile.errors import ConversionError, ConverterCrashedError

_SUFFIXES = (".keras", ".h5", ".hdf5")
# What Keras itself resolves; any other module would be the user's code, which is not there when the file is loaded.
_KERAS_PACKAGES = ("keras", "tf_keras", "builtins")
_SAVED_MODEL_ADVICE = (
    "Let run_fn save a SavedModel instead, with model.export(fn_args.serving_model_dir, format='tf_saved_model')"
)


def is_keras_file(path: str) -> bool:
    """Whether a path names a Keras file."""
    return path.endswith(_SUFFIXES)


def export(path: str, directory: str, *, deadline_seconds: float) -> None:
    """Exports the model of a Keras file in a child process.

    Args:
        path: Local path of the file.
        directory: Local folder for the SavedModel; its signature is `serving_default`.
        deadline_seconds: Longest time for it; wall time.

    Raises:
        ConversionError: The file is damaged, holds code or classes of the user, or Keras cannot load or export it.
        ConverterCrashedError: The child died or ran out of time.
    """
    request = {"path": path, "directory": directory}
    try:
        for event in child_process.run(f"{__name__}:serve", request, deadline_seconds=deadline_seconds):
            if event["error"] is not None:
                raise ConversionError(event["error"])
    except child_process.ChildDied as died:
        raise ConverterCrashedError(
            f"The process that loaded the Keras file {_name(path)} ended: {died}. {_SAVED_MODEL_ADVICE}."
        ) from died


def serve(request: dict[str, Any], emit: child_process.Emit) -> None:
    """Entry point of the child process; emits `{"error": text or None}`."""
    try:
        export_here(request["path"], request["directory"])
    except ConversionError as error:
        emit({"event": "exported", "error": str(error)})
    else:
        emit({"event": "exported", "error": None})


def export_here(path: str, directory: str) -> None:
    """What `export` does, in this process; only for a process that may die of it.

    Raises:
        ConversionError: As for `export`.
    """
    version, config = _read(path)
    _refuse_code(path, config)
    os.environ["KERAS_BACKEND"] = "tensorflow"
    legacy = version.split(".")[0] in ("1", "2")
    try:
        (_export_keras2 if legacy else _export_keras3)(path, directory)
    except Exception as error:
        text = " ".join(str(error).split())[:600]
        raise ConversionError(
            f"The Keras file {_name(path)}, written by Keras {version}, cannot be loaded and exported with "
            f"{'tf_keras' if legacy else 'Keras 3'}: {type(error).__name__}: {text}. {_SAVED_MODEL_ADVICE}."
        ) from error


def _export_keras3(path: str, directory: str) -> None:
    import keras

    model = keras.saving.load_model(path, compile=False, safe_mode=True)
    model.export(directory, format="tf_saved_model", verbose=False)


def _export_keras2(path: str, directory: str) -> None:
    import tensorflow as tf
    import tf_keras

    model = tf_keras.models.load_model(path, compile=False, safe_mode=True)
    tf.saved_model.save(model, directory)


def _read(path: str) -> tuple[str, Any]:
    """The version of Keras that wrote a file, and the model's configuration."""
    try:
        return _read_zip(path) if path.endswith(".keras") and zipfile.is_zipfile(path) else _read_hdf5(path)
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ConversionError(
            f"{_name(path)} is no Keras file with a whole model: {type(error).__name__}: {error}. Save the model "
            f"itself (model.save), not only its weights, and check that the file is complete. {_SAVED_MODEL_ADVICE}."
        ) from error


def _read_zip(path: str) -> tuple[str, Any]:
    with zipfile.ZipFile(path) as archive:
        metadata, config = (json.loads(archive.read(name)) for name in ("metadata.json", "config.json"))
    return str(metadata["keras_version"]), config


def _read_hdf5(path: str) -> tuple[str, Any]:
    import h5py

    with h5py.File(path, "r") as file:
        # Keras wrote no version before 2.0.
        version = file.attrs.get("keras_version", "1")
        return _text(version), json.loads(_text(file.attrs["model_config"]))


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _refuse_code(path: str, config: Any) -> None:
    """Raises for anything that only code outside Keras could give a meaning."""
    for node in _nodes(config):
        kind, module = node.get("class_name"), node.get("module")
        inner = node.get("config")
        name = inner.get("name") if isinstance(inner, dict) else None
        if kind in ("Lambda", "__lambda__"):
            raise ConversionError(
                f"The Keras file {_name(path)} holds Python code"
                f"{f' in the Lambda layer {name!r}' if name else ''}, which is not run for safety. Use a layer or "
                f"keras.ops instead of keras.layers.Lambda. {_SAVED_MODEL_ADVICE}: it needs no code."
            )
        if isinstance(kind, str) and isinstance(module, str) and module.split(".")[0] not in _KERAS_PACKAGES:
            raise ConversionError(
                f"The Keras file {_name(path)} needs the class {module}.{kind}, and a Keras file does not hold its "
                "code (also not with keras.saving.register_keras_serializable, which only helps where the class is "
                f"imported). {_SAVED_MODEL_ADVICE}: it needs no class."
            )


def _nodes(config: Any) -> Iterator[dict[str, Any]]:
    """All dicts of a configuration that describe the model; how it was compiled does not matter here."""
    waiting = [config]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            yield value
            waiting += [inner for key, inner in value.items() if key != "compile_config"]
        elif isinstance(value, list):
            waiting += value


def _name(path: str) -> str:
    # Not the whole path: the message is for people, and the file may be a temporary copy.
    return repr(Path(path).name)
