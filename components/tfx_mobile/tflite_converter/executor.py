"""TFX artifacts in, TFX artifact out: finds model and examples, lets the engine convert, writes the variants."""

from __future__ import annotations

import importlib.metadata
import posixpath
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tfx.dsl.components.base.base_executor import BaseExecutor
from tfx.types.artifact import Artifact

from tfx_mobile import artifact_io, artifacts
from tfx_mobile.errors import CalibrationError, ConversionError, RecipeError
from tfx_mobile.recipes import BatchSize, CalibrationSpec, ConversionRecipe, MetadataSpec, resolve_recipes
from tfx_mobile.records import SourceModelRecord, VariantManifest, canonical_json
from tfx_mobile.tflite_converter.conversion import Conversion, convert
from tfx_mobile.tflite_converter.worker import Job

_RECIPES_EXAMPLE = '["float32", "full_integer"]'
_INPUT_SHAPES_EXAMPLE = '{"image": [224, 224, 3]}'
_METADATA_EXAMPLE = '{"labels": ["cat", "dog"]}'
_PROFILES_EXAMPLE = '["litert"]'
_CALIBRATION_EXAMPLE = '{"split": "train", "num_samples": 200}'


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


def parse_input_shapes(value: Any) -> dict[str, list[int]]:
    """Sizes per example by input name.

    Raises:
        RecipeError: `value` is not a mapping from names to lists of positive numbers.
    """
    valid = isinstance(value, Mapping) and all(
        isinstance(name, str)
        and isinstance(sizes, Sequence)
        and not isinstance(sizes, str)
        and all(isinstance(size, int) and not isinstance(size, bool) and size >= 1 for size in sizes)
        for name, sizes in value.items()
    )
    if not valid:
        raise RecipeError(
            f"input_shapes={value!r} is not valid. Give sizes per example, without the batch dimension, by input name, "
            f"such as {_INPUT_SHAPES_EXAMPLE}."
        )
    return {name: list(sizes) for name, sizes in value.items()}


def parse_flag(parameter: str, value: Any) -> bool:
    """A yes or no, which TFX may hand over as a number or as text.

    Raises:
        RecipeError: `value` is neither.
    """
    flags = {"0": False, "1": True, "false": False, "true": True}
    try:
        return flags[str(value).lower()]
    except KeyError:
        raise RecipeError(f"{parameter}={value!r} is not valid. Use True or False.") from None


def parse_max_parallel(value: Any) -> int:
    """How many converter processes may run at once.

    Raises:
        RecipeError: `value` is not a positive number.
    """
    if isinstance(value, bool) or not str(value).isdecimal() or int(value) < 1:
        raise RecipeError(f"max_parallel={value!r} is not valid. Use 1 (the default) or another positive number.")
    return int(value)


def parse_profiles(value: Any) -> list[str]:
    """Names of compatibility profiles; all of them for None.

    Raises:
        RecipeError: A name is unknown.
    """
    return list(value or ())


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
            ConversionError: There is no SavedModel and no Keras file, or every recipe failed.
        """
        recipes = resolve_recipes(
            artifact_io.from_json(exec_properties["recipes"], "recipes", _RECIPES_EXAMPLE, RecipeError)
        )
        batch_size = parse_batch_size(exec_properties.get("batch_size") or 1)
        deadline_seconds = parse_deadline(exec_properties.get("deadline_seconds") or 600)
        calibration = exec_properties.get("calibration") or {}
        spec = CalibrationSpec(**artifact_io.from_json(calibration, "calibration", _CALIBRATION_EXAMPLE, RecipeError))
        signature_name = exec_properties.get("signature_name") or "serving_default"
        input_shapes = parse_input_shapes(
            artifact_io.from_json(
                exec_properties.get("input_shapes") or {}, "input_shapes", _INPUT_SHAPES_EXAMPLE, RecipeError
            )
        )
        allow_select_tf_ops = parse_flag("allow_select_tf_ops", exec_properties.get("allow_select_tf_ops") or 0)
        metadata = MetadataSpec(
            **artifact_io.from_json(exec_properties.get("metadata") or {}, "metadata", _METADATA_EXAMPLE, RecipeError)
        )
        profiles = parse_profiles(
            artifact_io.from_json(exec_properties.get("profiles") or [], "profiles", _PROFILES_EXAMPLE, RecipeError)
        )
        max_parallel = parse_max_parallel(exec_properties.get("max_parallel") or 1)
        examples = input_dict.get("examples") or []
        check_examples_given(recipes, bool(examples))
        calibrates = any(recipe.calibrates for recipe in recipes)
        model = artifact_io.single(input_dict, "model", ConversionError)
        variants = artifact_io.single(output_dict, "variants", ConversionError)

        saved_model_uri = artifact_io.find_saved_model(model, ConversionError)
        example_files = []
        if calibrates:
            example_files = artifact_io.split_files(
                examples, spec.split, "CalibrationSpec(split=...)", CalibrationError
            )
        with tempfile.TemporaryDirectory(prefix="tfx-mobile-") as temp:
            saved_model = artifact_io.local_copy(saved_model_uri, str(Path(temp) / "saved_model"))
            work_dir = Path(temp) / "work"
            work_dir.mkdir()
            job = Job(
                saved_model=saved_model,
                signature_name=signature_name,
                recipes=recipes,
                batch_size=batch_size,
                input_shapes=input_shapes,
                allow_select_tf_ops=allow_select_tf_ops,
                calibration=spec if calibrates else None,
                example_files=tuple(example_files),
                work_dir=str(work_dir),
            )
            conversion = convert(job, deadline_seconds=deadline_seconds)
            _require_one(conversion)
            source = SourceModelRecord(
                sha256=artifact_io.saved_model_sha256(saved_model),
                uri=model.uri,
                signature=signature_name,
                parses_examples=conversion.parses_examples,
                route=conversion.route,
                inputs=conversion.signature.inputs,
                outputs=conversion.signature.outputs,
            )
            _write(variants, conversion, source, batch_size)


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
            artifact_io.write_bytes(artifact, path, conversion.files[variant.name].read_bytes())
            recipe = canonical_json(variant.recipe.model_dump(mode="json"))
            artifact_io.write_bytes(artifact, posixpath.join(variant.name, artifacts.RECIPE_FILE), recipe)
            variant = variant.model_copy(update={"path": path})
        variants.append(variant)
    manifest = VariantManifest(
        source=source,
        batch_size=batch_size,
        calibration=conversion.calibration,
        versions=versions(),
        variants=tuple(variants),
    )
    artifact_io.write_bytes(artifact, artifacts.MANIFEST_FILE, manifest.to_json())
    artifact.set_int_custom_property(artifacts.NUM_VARIANTS, len(conversion.files))
    artifact.set_int_custom_property(artifacts.NUM_FAILED, len(variants) - len(conversion.files))
    artifact.set_string_custom_property(artifacts.SOURCE_SHA256, source.sha256)
