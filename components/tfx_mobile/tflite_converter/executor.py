"""TFX artifacts in, TFX artifact out: finds model and examples, lets the engine convert, writes the variants."""

from __future__ import annotations

import importlib.metadata
import posixpath
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from absl import logging
from tfx.dsl.components.base.base_executor import BaseExecutor
from tfx.types.artifact import Artifact

from tfx_mobile import artifact_io, artifacts
from tfx_mobile.errors import CalibrationError, ConversionError, MetadataError, RecipeError
from tfx_mobile.recipes import BatchSize, CalibrationSpec, ConversionRecipe, MetadataSpec, resolve_recipes
from tfx_mobile.records import SourceModelRecord, VariantManifest, canonical_json
from tfx_mobile.tflite import metadata as tflite_metadata
from tfx_mobile.tflite import profiles as compatibility
from tfx_mobile.tflite.metadata import Metadata
from tfx_mobile.tflite_converter import int4, label_names
from tfx_mobile.tflite_converter.conversion import Conversion, convert
from tfx_mobile.tflite_converter.job import Job

_SpecT = TypeVar("_SpecT", CalibrationSpec, MetadataSpec)

_RECIPES_EXAMPLE = '["float32", "full_integer"]'
_INPUT_SHAPES_EXAMPLE = '{"image": [224, 224, 3]}'
_METADATA_EXAMPLE = '{"labels": ["cat", "dog"]}'
_PROFILES_EXAMPLE = '["litert"]'
_ASSETS = ("transform_fn", "assets")
_CALIBRATION_EXAMPLE = '{"split": "train", "num_samples": 200}'


def versions() -> dict[str, str]:
    """Versions of what decides the bytes of a variant, read without importing any of it."""
    return {name: importlib.metadata.version(name) for name in ("tfx-mobile", "tensorflow", "ai-edge-litert")}


def check_qat_model_used(recipes: Sequence[ConversionRecipe], given: bool) -> None:
    """A quantization-aware twin is for recipes that ask for it.

    Raises:
        RecipeError: It would be ignored.
    """
    if given and not any(recipe.quantization_aware for recipe in recipes):
        raise RecipeError(
            f"qat_model is given, but none of the recipes {', '.join(recipe.name for recipe in recipes)} is made from "
            "it. Add qat_full_integer, qat_integer_only_int8 or a ConversionRecipe(quantization_aware=True, ...), or "
            "leave qat_model out."
        )


def check_names_given(spec: MetadataSpec, given: bool) -> None:
    """Class names that are to be derived need something to be derived from.

    Raises:
        RecipeError: There is neither a transform_graph nor a schema.
    """
    if spec.label is not None and not given:
        raise RecipeError(
            f"MetadataSpec(label={spec.label!r}) takes class names from transform_graph or schema, and TFLiteConverter "
            "got neither. Pass transform_graph=transform.outputs['transform_graph'] or "
            "schema=schema_gen.outputs['schema'], or give the names in MetadataSpec(labels=...)."
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


def parse_calibration(value: Any) -> CalibrationSpec:
    """Which examples calibrate: a CalibrationSpec, its fields, or these as JSON; the defaults for None.

    Raises:
        RecipeError: `value` is none of these, or a field is not valid.
    """
    return _parse_specification(CalibrationSpec, "calibration", value, _CALIBRATION_EXAMPLE)


def parse_metadata(value: Any) -> MetadataSpec:
    """What to write into each file: a MetadataSpec, its fields, or these as JSON; nothing asked for with None.

    Raises:
        RecipeError: `value` is none of these, or a field is not valid.
    """
    return _parse_specification(MetadataSpec, "metadata", value, _METADATA_EXAMPLE)


def _parse_specification(kind: type[_SpecT], parameter: str, value: Any, example: str) -> _SpecT:
    if isinstance(value, kind):
        return value
    fields = artifact_io.from_json(value or {}, parameter, example, RecipeError)
    if not isinstance(fields, Mapping):
        raise RecipeError(
            f"{parameter}={value!r} is not valid. Use {kind.__name__}(...), or its fields such as {example}."
        )
    return kind(**fields)


def parse_max_parallel(value: Any) -> int:
    """How many converter processes may run at once.

    Raises:
        RecipeError: `value` is not a positive number.
    """
    if isinstance(value, bool) or not str(value).isdecimal() or int(value) < 1:
        raise RecipeError(f"max_parallel={value!r} is not valid. Use 1 (the default) or another positive number.")
    return int(value)


def parse_profiles(value: Any) -> list[str]:
    """Names of compatibility profiles; all of them for None, none for an empty list.

    Raises:
        RecipeError: A name is unknown.
    """
    return list(compatibility.parse_profiles(value))


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
            input_dict: `model`, `examples` if a recipe calibrates, optionally `qat_model`, `transform_graph` and
                `schema`; other keys are ignored.
            output_dict: `variants`.
            exec_properties: The component's parameters; `recipes` and `calibration` as JSON or as what it stands for.

        Raises:
            RecipeError: A parameter is not valid.
            SignatureError: The signature cannot be converted at all, or is another in `qat_model`.
            CalibrationError: The calibration examples are missing or damaged.
            MetadataError: Metadata is asked for, but MediaPipe's writers are not there.
            ConversionError: There is no SavedModel and no Keras file, `qat_model` was not trained quantization-aware,
                or every recipe failed.
        """
        recipes = resolve_recipes(
            artifact_io.from_json(exec_properties["recipes"], "recipes", _RECIPES_EXAMPLE, RecipeError)
        )
        batch_size = parse_batch_size(exec_properties.get("batch_size") or 1)
        deadline_seconds = parse_deadline(exec_properties.get("deadline_seconds") or 600)
        spec = parse_calibration(exec_properties.get("calibration"))
        signature_name = exec_properties.get("signature_name") or "serving_default"
        input_shapes = parse_input_shapes(
            artifact_io.from_json(
                exec_properties.get("input_shapes") or {}, "input_shapes", _INPUT_SHAPES_EXAMPLE, RecipeError
            )
        )
        allow_select_tf_ops = parse_flag("allow_select_tf_ops", exec_properties.get("allow_select_tf_ops") or 0)
        metadata_spec = parse_metadata(exec_properties.get("metadata"))
        profiles = parse_profiles(
            artifact_io.from_json(exec_properties.get("profiles") or None, "profiles", _PROFILES_EXAMPLE, RecipeError)
        )
        max_parallel = parse_max_parallel(exec_properties.get("max_parallel") or 1)
        examples = input_dict.get("examples") or []
        calibrates = any(recipe.calibrates for recipe in recipes)
        check_qat_model_used(recipes, bool(input_dict.get("qat_model")))
        model = artifact_io.single(input_dict, "model", ConversionError)
        twin = artifact_io.single(input_dict, "qat_model", ConversionError) if input_dict.get("qat_model") else None
        variants = artifact_io.single(output_dict, "variants", ConversionError)

        saved_model_uri = artifact_io.find_saved_model(model, ConversionError)
        twin_uri = None if twin is None else artifact_io.find_saved_model(twin, ConversionError)
        example_files: list[str] = []
        evaluation_files: list[str] = []
        not_compared = None
        # Without examples the engine goes on until it knows the model: one with trained ranges needs none.
        if calibrates and examples:
            example_files = artifact_io.split_files(
                examples, spec.split, "CalibrationSpec(split=...)", CalibrationError
            )
            evaluation_files, not_compared = _evaluation_files(examples, spec)
        labels = _label_names(metadata_spec, spec, input_dict)
        writer, not_written = tflite_metadata.find_writer()
        if writer is None and tflite_metadata.is_requested(metadata_spec):
            raise MetadataError(
                f"MetadataSpec asks for TFLite metadata, which cannot be written here. {not_written} "
                f"{tflite_metadata.HOW_TO_INSTALL}"
            )
        with tempfile.TemporaryDirectory(prefix="tfx-mobile-") as temp:
            saved_model = artifact_io.local_copy(saved_model_uri, str(Path(temp) / "saved_model"))
            source_sha256 = artifact_io.saved_model_sha256(saved_model)
            twin_model = None if twin_uri is None else artifact_io.local_copy(twin_uri, str(Path(temp) / "qat_model"))
            twin_sha256 = None if twin_model is None else artifact_io.saved_model_sha256(twin_model)
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
                evaluation_files=tuple(evaluation_files),
                not_compared=not_compared,
                transform_graph=_transform_graph(input_dict, Path(temp)) if calibrates else None,
                schema_file=_schema_file(input_dict, Path(temp)) if calibrates else None,
                work_dir=str(work_dir),
                profiles=tuple(profiles),
                qat_saved_model=twin_model,
            )
            metadata = Metadata(
                spec=metadata_spec,
                writer=writer,
                not_written=not_written or None,
                labels=labels.names,
                labels_from=labels.origin,
                provenance={"source_sha256": source_sha256, "versions": versions()},
                twin_provenance={} if twin_sha256 is None else {"source_sha256": twin_sha256},
                notes=labels.notes,
            )
            conversion = convert(job, deadline_seconds=deadline_seconds, metadata=metadata, max_parallel=max_parallel)
            for finding in conversion.calibration.findings if conversion.calibration else ():
                logging.warning("TFLiteConverter, calibration: %s", finding.message)
            _require_one(conversion)
            source = SourceModelRecord(
                sha256=source_sha256,
                uri=model.uri,
                signature=signature_name,
                parses_examples=conversion.parses_examples,
                route=conversion.route,
                inputs=conversion.signature.inputs,
                outputs=conversion.signature.outputs,
            )
            qat_source = None
            if twin is not None and twin_sha256 is not None and conversion.twin is not None:
                qat_source = SourceModelRecord(
                    sha256=twin_sha256,
                    uri=twin.uri,
                    signature=signature_name,
                    parses_examples=conversion.twin_parses_examples,
                    route="resigned",
                    inputs=conversion.twin.inputs,
                    outputs=conversion.twin.outputs,
                )
            _write(variants, conversion, source, qat_source, batch_size)


class _Labels(NamedTuple):
    names: tuple[str, ...] = ()
    origin: str | None = None
    notes: tuple[str, ...] = ()


def _label_names(
    spec: MetadataSpec, calibration: CalibrationSpec, input_dict: Mapping[str, Sequence[Artifact]]
) -> _Labels:
    """Class names that the artifacts know, if the author did not give them.

    Transform's vocabulary numbers them, so it is used for any feature named as the label. A domain of the schema is a
    list without numbers: only an author can know that the model follows it.
    """
    feature = spec.label or calibration.label
    if spec.labels or feature is None:
        return _Labels()
    for graph in input_dict.get("transform_graph") or []:
        if artifact_io.exists(graph, *_ASSETS, feature):
            names = label_names.from_vocabulary(artifact_io.read_bytes(graph, *_ASSETS, feature))
            return _Labels(MetadataSpec(labels=names).labels, f"Transform's vocabulary {feature!r}")
    for schema in input_dict.get("schema") or []:
        if names := label_names.from_schema(artifact_io.read_bytes(schema, artifact_io.SCHEMA_FILE), feature):
            origin = f"the schema's domain of {feature!r}"
            if spec.label:
                return _Labels(MetadataSpec(labels=names).labels, origin)
            note = (
                f"Class names from {origin} are left out: the model need not number them in this order. If it does, "
                f"set MetadataSpec(label={feature!r})."
            )
            return _Labels(notes=(note,))
    if spec.label:
        raise RecipeError(
            f"MetadataSpec(label={feature!r}) asks for class names, but there is no vocabulary {feature!r} in "
            "transform_graph and no string domain of that feature in schema. Pass one of these inputs to "
            "TFLiteConverter, or give the names in MetadataSpec(labels=...)."
        )
    return _Labels()


def _evaluation_files(examples: Sequence[Artifact], spec: CalibrationSpec) -> tuple[list[str], str | None]:
    """The evaluation split's files, or why there are none."""
    if spec.evaluation_split in (None, spec.split):
        return [], None
    choose = "CalibrationSpec(evaluation_split=...)"
    try:
        return artifact_io.split_files(examples, spec.evaluation_split, choose, CalibrationError), None
    except CalibrationError as error:
        return [], str(error)


def _transform_graph(input_dict: Mapping[str, Sequence[Artifact]], directory: Path) -> str | None:
    """Local folder of the transform graph; None if none is given."""
    if not input_dict.get("transform_graph"):
        return None
    artifact = artifact_io.single(input_dict, "transform_graph", CalibrationError)
    return artifact_io.local_copy(artifact.uri, str(directory / "transform_graph"))


def _schema_file(input_dict: Mapping[str, Sequence[Artifact]], directory: Path) -> str | None:
    """Local path of the schema; None if none is given."""
    if not input_dict.get("schema"):
        return None
    artifact = artifact_io.single(input_dict, "schema", CalibrationError)
    return str(Path(artifact_io.local_copy(artifact.uri, str(directory / "schema"))) / artifact_io.SCHEMA_FILE)


def _require_one(conversion: Conversion) -> None:
    if conversion.files:
        return
    failed = [(variant.name, variant.failure) for variant in conversion.variants if variant.failure is not None]
    listed = "\n".join(f"  {name}: {f.code}: {f.message} {f.advice}" for name, f in failed)
    raise ConversionError(f"None of the {len(failed)} recipes could be converted:\n{listed}")


def _made_int4(conversion: Conversion) -> bool:
    return any(v.recipe.quantization == "int4" and v.file is not None for v in conversion.variants)


def _write(
    artifact: Artifact,
    conversion: Conversion,
    source: SourceModelRecord,
    qat_source: SourceModelRecord | None,
    batch_size: BatchSize,
) -> None:
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
        qat_source=qat_source,
        batch_size=batch_size,
        calibration=conversion.calibration,
        versions=versions() | ({int4.PACKAGE: int4.VERSION} if _made_int4(conversion) else {}),
        variants=tuple(variants),
    )
    artifact_io.write_bytes(artifact, artifacts.MANIFEST_FILE, manifest.to_json())
    artifact.set_int_custom_property(artifacts.NUM_VARIANTS, len(conversion.files))
    artifact.set_int_custom_property(artifacts.NUM_FAILED, len(variants) - len(conversion.files))
    artifact.set_string_custom_property(artifacts.SOURCE_SHA256, source.sha256)
