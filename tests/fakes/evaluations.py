"""Variants artifacts made of real `.tflite` files, and the executor run on them."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.fakes import models
from tfx_mobile.recipes import BUILTIN_RECIPES, ConversionRecipe
from tfx_mobile.records import (
    Failure,
    ModelFileRecord,
    SourceModelRecord,
    TensorRecord,
    Variant,
    VariantManifest,
    sha256_of,
)

IN_MEMORY = ["--direct_running_mode=in_memory", "--direct_num_workers=1"]
SOURCE_SHA256 = "5" * 64


def recipe(name: str) -> ConversionRecipe:
    """The built-in recipe of that name, or an integer-only one under another name."""
    return BUILTIN_RECIPES.get(name) or ConversionRecipe(name=name, quantization="integer_only", io_dtype="int8")


def convert(
    saved_model: str | Path,
    kind: str,
    calibration: npt.NDArray[np.float32] | Mapping[str, npt.NDArray[Any]] | None = None,
    batch_size: int | None = None,
) -> bytes:
    """Converts a SavedModel as a built-in recipe would.

    Args:
        saved_model: Its folder.
        kind: Name of a built-in recipe.
        calibration: Rows by input; an array for the input `image`.
        batch_size: None to leave it as it is; the input is `image` then.
    """
    import tensorflow as tf

    loaded = tf.saved_model.load(str(saved_model))
    signature = loaded.signatures["serving_default"]
    if batch_size is not None:
        module = tf.Module()
        module.loaded = loaded
        spec = tf.TensorSpec([batch_size, models.PIXELS], tf.float32, name=models.IMAGE)
        call = tf.function(lambda image: signature(image=image), input_signature=[spec])
        with tempfile.TemporaryDirectory() as directory:
            tf.saved_model.save(module, directory, signatures={"serving_default": call})
            return _convert(directory, kind, calibration, batch_size)
    return _convert(str(saved_model), kind, calibration, 1)


def _convert(
    saved_model: str, kind: str, calibration: npt.NDArray[Any] | Mapping[str, npt.NDArray[Any]] | None, rows: int
) -> bytes:
    import tensorflow as tf

    by_input = {models.IMAGE: calibration} if isinstance(calibration, np.ndarray) else calibration
    converter = tf.lite.TFLiteConverter.from_saved_model(saved_model, signature_keys=["serving_default"])
    if kind != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if kind == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if by_input is not None:
        converter.representative_dataset = lambda: (
            {name: np.repeat(row[None], rows, axis=0) for name, row in zip(by_input, some, strict=True)}
            for some in zip(*by_input.values(), strict=True)
        )
    if kind.startswith("integer_only"):
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = (
            tf.uint8 if kind.endswith("uint8") else tf.int8
        )
    return bytes(converter.convert())


def file_record(data: bytes) -> ModelFileRecord:
    """What the converter writes of a good file; of a broken one, what it would have written of a good one."""
    from tfx_mobile.errors import ModelFileError
    from tfx_mobile.tflite.flatbuffer import inspect_model

    try:
        return inspect_model(data)
    except ModelFileError:
        return ModelFileRecord(
            sha256=sha256_of(data), size_bytes=len(data), gzip_bytes=len(data), signatures=(), ops=()
        )


def manifest_of(
    files: Mapping[str, bytes | Failure],
    *,
    source_sha256: str = SOURCE_SHA256,
    parses_examples: bool = False,
    output: str = "output_0",
    input_name: str = models.IMAGE,
    inputs: Sequence[TensorRecord] | None = None,
    outputs: Sequence[TensorRecord] | None = None,
) -> VariantManifest:
    """The manifest of variants by name, each a file's bytes or the reason why there is none.

    The source's tensors are `inputs` and `outputs`; without them one input of PIXELS and one output of CLASSES numbers.
    """
    variants = []
    for name, content in files.items():
        if isinstance(content, Failure):
            variants.append(Variant(recipe=recipe(name), failure=content))
        else:
            variants.append(Variant(recipe=recipe(name), path=f"{name}/model.tflite", file=file_record(content)))
    return VariantManifest(
        source=SourceModelRecord(
            sha256=source_sha256,
            uri="somewhere",
            signature="serving_default",
            parses_examples=parses_examples,
            route="resigned" if parses_examples else "direct",
            inputs=tuple(inputs or [TensorRecord(name=input_name, dtype="float32", shape=(-1, models.PIXELS))]),
            outputs=tuple(outputs or [TensorRecord(name=output, dtype="float32", shape=(-1, models.CLASSES))]),
        ),
        batch_size="dynamic",
        calibration=None,
        versions={},
        variants=tuple(variants),
    )


def write_variants(uri: str | Path, files: Mapping[str, bytes | Failure], saved_model: Path, **source: Any) -> Any:
    """Writes a TFLiteVariants artifact as if TFLiteConverter had made it of `saved_model`, and returns it."""
    from tfx_mobile.artifact_io import saved_model_sha256
    from tfx_mobile.artifacts import TFLiteVariants

    artifact = TFLiteVariants()
    artifact.uri = str(uri)
    Path(uri).mkdir(parents=True)
    for name, content in files.items():
        if isinstance(content, bytes):
            folder = Path(uri) / name
            folder.mkdir()
            (folder / "model.tflite").write_bytes(content)
    (Path(uri) / "manifest.json").write_bytes(
        manifest_of(files, source_sha256=saved_model_sha256(str(saved_model)), **source).to_json()
    )
    return artifact


def outputs(root: str | Path) -> dict[str, list[Any]]:
    """Empty output artifacts of QuantizationEvaluator, their folders made as TFX's launcher makes them."""
    from tfx.types import standard_artifacts

    from tfx_mobile.artifacts import TFLiteBlessing, TFLiteModel

    types = {"evaluation": standard_artifacts.ModelEvaluation, "blessing": TFLiteBlessing, "blessed_model": TFLiteModel}
    result = {}
    for key, artifact_type in types.items():
        artifact = artifact_type()
        artifact.uri = str(Path(root) / key)
        Path(artifact.uri).mkdir(parents=True)
        result[key] = [artifact]
    return result


def execute(
    inputs: Mapping[str, Any], properties: Mapping[str, Any], root: str | Path, beam_args: Sequence[str] = IN_MEMORY
) -> dict[str, Any]:
    """Runs the executor and returns the output artifacts."""
    from tfx_mobile.quantization_evaluator.executor import Executor

    made = outputs(root)
    context = Executor.Context(beam_pipeline_args=list(beam_args), tmp_dir=str(Path(root) / "tmp"), unique_id="1")
    Executor(context).Do({key: [artifact] for key, artifact in inputs.items()}, made, dict(properties))
    return {key: artifact for key, (artifact,) in made.items()}


def eval_config(*, floor: float | None = None, drop: float | None = 0.05, slice_drop: float | None = None) -> Any:
    """Accuracy and cross entropy over all examples and by label, gated by the given limits."""
    import tensorflow_model_analysis as tfma
    from google.protobuf import json_format

    overall: dict[str, Any] = {}
    if floor is not None:
        overall["value_threshold"] = {"lower_bound": floor}
    if drop is not None:
        overall["change_threshold"] = {"direction": "HIGHER_IS_BETTER", "absolute": -drop}
    gates = [{"slicing_specs": [{}], "threshold": overall}] if overall else []
    if slice_drop is not None:
        by_label = {"change_threshold": {"direction": "HIGHER_IS_BETTER", "absolute": -slice_drop}}
        gates.append({"slicing_specs": [{"feature_keys": [models.LABEL]}], "threshold": by_label})
    document = {
        "model_specs": [{"label_key": models.LABEL}],
        "slicing_specs": [{}, {"feature_keys": [models.LABEL]}],
        "metrics_specs": [
            {
                "metrics": [
                    {"class_name": "ExampleCount"},
                    {"class_name": "SparseCategoricalAccuracy", "per_slice_thresholds": gates},
                    {"class_name": "SparseCategoricalCrossentropy"},
                ]
            }
        ],
    }
    return json_format.ParseDict(document, tfma.EvalConfig())
