"""TFX artifacts in, TFX artifact out: finds model and examples, lets the engine convert, writes the variants."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import posixpath
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tfx.components.util import examples_utils
from tfx.dsl.components.base.base_executor import BaseExecutor
from tfx.dsl.io import fileio
from tfx.proto import example_gen_pb2
from tfx.types import artifact_utils
from tfx.types.artifact import Artifact
from tfx.utils import io_utils, path_utils

from tfx_mobile import artifacts
from tfx_mobile.errors import CalibrationError, ConversionError, RecipeError
from tfx_mobile.recipes import BatchSize, CalibrationSpec, ConversionRecipe, resolve_recipes
from tfx_mobile.records import SourceModelRecord, VariantManifest, canonical_json
from tfx_mobile.tflite_converter.conversion import Conversion, convert
from tfx_mobile.tflite_converter.worker import Job

_SAVED_MODEL_FILE = "saved_model.pb"
_READ_BYTES = 1 << 20


def versions() -> dict[str, str]:
    """Versions of what decides the bytes of a variant, read without importing any of it."""
    return {name: importlib.metadata.version(name) for name in ("tfx-mobile", "tensorflow", "ai-edge-litert")}


def check_examples_given(recipes: Sequence[ConversionRecipe], given: bool) -> None:
    """Recipes that calibrate need examples.

    Raises:
        RecipeError: There are none.
    """
    calibrating = [recipe.name for recipe in recipes if recipe.calibrates]
    if calibrating and not given:
        raise RecipeError(
            f"The recipes {', '.join(calibrating)} calibrate, but TFLiteConverter got no examples. Pass "
            "examples=example_gen.outputs['examples'], or use recipes that need none: float32, float16, dynamic_range."
        )


def parse_batch_size(value: Any) -> BatchSize:
    """The component's batch size.

    Raises:
        RecipeError: `value` is neither a positive number nor `dynamic`.
    """
    if value == "dynamic":
        return "dynamic"
    if not isinstance(value, bool) and str(value).isdecimal() and int(value) >= 1:
        return int(value)
    raise RecipeError(
        f"batch_size={value!r} is not valid. Use 1 (the default) or another number for a fixed size, or 'dynamic' to "
        "leave it open."
    )


def parse_deadline(value: Any) -> float:
    """The deadline per recipe in seconds.

    Raises:
        RecipeError: `value` is not a positive number.
    """
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise RecipeError(f"deadline_seconds={value!r} is not valid. Use a positive number of seconds, such as 600.")
    return seconds


class Executor(BaseExecutor):
    """Executor of TFLiteConverter; its class path is public, compiled pipelines name it."""

    def Do(
        self,
        input_dict: dict[str, list[Artifact]],
        output_dict: dict[str, list[Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Converts the model and fills the `variants` artifact; nothing is written there before all is known.

        Args:
            input_dict: `model`, and `examples` if a recipe calibrates; other keys are ignored.
            output_dict: `variants`.
            exec_properties: The component's parameters; `recipes` and `calibration` as JSON or as what it stands for.

        Raises:
            RecipeError: A parameter is not valid.
            SignatureError: The signature cannot be converted at all.
            CalibrationError: The calibration examples are missing or damaged.
            ConversionError: There is no SavedModel, or every recipe failed.
        """
        recipes = resolve_recipes(_from_json(exec_properties["recipes"], "recipes"))
        batch_size = parse_batch_size(exec_properties.get("batch_size") or 1)
        deadline_seconds = parse_deadline(exec_properties.get("deadline_seconds") or 600)
        spec = CalibrationSpec(**(_from_json(exec_properties.get("calibration") or {}, "calibration")))
        signature_name = exec_properties.get("signature_name") or "serving_default"
        examples = input_dict.get("examples") or []
        check_examples_given(recipes, bool(examples))
        calibrates = any(recipe.calibrates for recipe in recipes)
        model = artifact_utils.get_single_instance(input_dict["model"])
        variants = artifact_utils.get_single_instance(output_dict["variants"])

        saved_model_uri = _find_saved_model(model)
        example_files = _split_files(examples, spec.split) if calibrates else []
        with tempfile.TemporaryDirectory(prefix="tfx-mobile-") as temp:
            saved_model = _local_copy(saved_model_uri, Path(temp) / "saved_model")
            work_dir = Path(temp) / "work"
            work_dir.mkdir()
            job = Job(
                saved_model=saved_model,
                signature_name=signature_name,
                recipes=recipes,
                batch_size=batch_size,
                calibration=spec if calibrates else None,
                example_files=tuple(example_files),
                work_dir=str(work_dir),
            )
            conversion = convert(job, deadline_seconds=deadline_seconds)
            _require_one(conversion)
            source = SourceModelRecord(
                sha256=_digest(Path(saved_model)),
                uri=model.uri,
                signature=signature_name,
                parses_examples=conversion.parses_examples,
                route=conversion.route,
                inputs=conversion.signature.inputs,
                outputs=conversion.signature.outputs,
            )
            _write(variants, conversion, source, batch_size)


def _from_json(value: Any, parameter: str) -> Any:
    """A parameter that may come as JSON text or as what that text stands for."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError as error:
        raise RecipeError(
            f"{parameter}={value!r} is not JSON ({error}). A RuntimeParameter must hold JSON text, for example "
            f"{_JSON_EXAMPLES[parameter]}."
        ) from None


_JSON_EXAMPLES = {"recipes": '["float32", "full_integer"]', "calibration": '{"split": "train", "num_samples": 200}'}


def _find_saved_model(model: Artifact) -> str:
    """Where the SavedModel lies: where Trainer puts it, or at the artifact's root for one that an Importer brought."""
    candidates: list[str] = [
        path_utils.serving_model_path(model.uri, path_utils.is_old_model_artifact(model)),
        model.uri,
    ]
    for candidate in candidates:
        if fileio.exists(posixpath.join(candidate, _SAVED_MODEL_FILE)):
            return candidate
    held = sorted(fileio.listdir(model.uri)) if fileio.isdir(model.uri) else "nothing, it is no folder"
    raise ConversionError(
        f"The model artifact {model.uri} holds no SavedModel: there is no {_SAVED_MODEL_FILE} in "
        f"{' or '.join(candidates)}. It holds: {held}. Let run_fn save to fn_args.serving_model_dir, with "
        "tf.saved_model.save or model.export; a .keras or .h5 file is not a SavedModel."
    )


def _split_files(examples: Sequence[Artifact], split: str) -> list[str]:
    """Files of a split, over all artifacts of the channel.

    Raises:
        CalibrationError: There is no such split, it has no files, or they hold something else than tf.Examples.
    """
    for artifact in examples:
        names = artifact_utils.decode_split_names(artifact.split_names)
        if split not in names:
            raise CalibrationError(
                f"The examples {artifact.uri} have no split {split!r} to calibrate with. Their splits: "
                f"{', '.join(names) or 'none'}. Choose one with CalibrationSpec(split=...)."
            )
        payload = examples_utils.get_payload_format(artifact)
        if payload != example_gen_pb2.PayloadFormat.FORMAT_TF_EXAMPLE:
            raise CalibrationError(
                f"The examples {artifact.uri} are {example_gen_pb2.PayloadFormat.Name(payload)}; calibration reads "
                "FORMAT_TF_EXAMPLE only. Let ExampleGen write tf.Examples."
            )
    patterns = examples_utils.get_split_file_patterns(list(examples), split)
    files = sorted(path for pattern in patterns for path in fileio.glob(pattern))
    if not files:
        raise CalibrationError(
            f"Split {split!r} of the examples has no files: nothing matches {', '.join(patterns)}. Choose another "
            "split with CalibrationSpec(split=...), or check the step that wrote the examples."
        )
    return files


def _local_copy(uri: str, directory: Path) -> str:
    """`uri` itself if it is local, else the path of a copy in `directory`."""
    if "://" not in uri:
        return uri
    io_utils.copy_dir(uri, str(directory))
    return str(directory)


def _digest(saved_model: Path) -> str:
    """SHA-256 over the sorted relative paths, sizes and contents of a SavedModel's files."""
    digest = hashlib.sha256()
    for path in sorted(path for path in saved_model.rglob("*") if path.is_file()):
        name = path.relative_to(saved_model).as_posix().encode()
        digest.update(b"%d:%s:%d:" % (len(name), name, path.stat().st_size))
        with path.open("rb") as stream:
            while chunk := stream.read(_READ_BYTES):
                digest.update(chunk)
    return digest.hexdigest()


def _require_one(conversion: Conversion) -> None:
    if conversion.files:
        return
    failed = [(variant.name, variant.failure) for variant in conversion.variants if variant.failure is not None]
    listed = "\n".join(f"  {name}: {f.code}: {f.message} {f.advice}" for name, f in failed)
    raise ConversionError(f"None of the {len(failed)} recipes could be converted:\n{listed}")


def _write(artifact: Artifact, conversion: Conversion, source: SourceModelRecord, batch_size: BatchSize) -> None:
    """Writes the artifact; the manifest last, so that an artifact with a manifest is complete."""
    variants = []
    for variant in conversion.variants:
        if variant.name in conversion.files:
            path = artifacts.variant_path(variant.name)
            folder = posixpath.join(artifact.uri, variant.name)
            fileio.makedirs(folder)
            _write_bytes(posixpath.join(artifact.uri, path), conversion.files[variant.name].read_bytes())
            recipe = canonical_json(variant.recipe.model_dump(mode="json"))
            _write_bytes(posixpath.join(folder, artifacts.RECIPE_FILE), recipe)
            variant = variant.model_copy(update={"path": path})
        variants.append(variant)
    manifest = VariantManifest(
        source=source,
        batch_size=batch_size,
        calibration=conversion.calibration,
        versions=versions(),
        variants=tuple(variants),
    )
    _write_bytes(posixpath.join(artifact.uri, artifacts.MANIFEST_FILE), manifest.to_json())
    artifact.set_int_custom_property(artifacts.NUM_VARIANTS, len(conversion.files))
    artifact.set_int_custom_property(artifacts.NUM_FAILED, len(variants) - len(conversion.files))
    artifact.set_string_custom_property(artifacts.SOURCE_SHA256, source.sha256)


def _write_bytes(uri: str, data: bytes) -> None:
    with fileio.open(uri, "wb") as stream:
        stream.write(data)
