"""The input `qat_model`: defined, converted by a real child process, recorded, and judged against the float model."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tfx.types import Channel
from tfx.types.standard_artifacts import Examples, Model

from tests.fakes import evaluations, metadata, models, qat_models
from tfx_mobile import ConversionRecipe, TFLiteConverter, TFLiteVariants
from tfx_mobile.artifact_io import saved_model_sha256
from tfx_mobile.errors import RecipeError
from tfx_mobile.quantization_evaluator.eval_config import to_json
from tfx_mobile.records import EvaluationRecord, VariantManifest
from tfx_mobile.tflite_converter.executor import Executor

RECIPES = ["float32", "full_integer", "qat_full_integer", "qat_integer_only_int8"]


def convert(output: Path, recipes: list[str], **inputs: Any) -> tuple[Any, VariantManifest]:
    artifact = TFLiteVariants()
    artifact.uri = str(output)
    output.mkdir()
    given = {key: [value] for key, value in inputs.items()}
    Executor().Do(given, {"variants": [artifact]}, {"recipes": recipes})
    return artifact, VariantManifest.read(output / "manifest.json")


def test_variants_of_the_twin_are_recorded_and_judged_against_the_float_model(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    model = models.model_artifact(models.raw_model(tmp_path_factory))
    # A twin that names every class wrongly: against itself it would be flawless.
    network = models.raw_network()
    kernel, bias = network.get_layer(models.OUTPUT).get_weights()
    network.get_layer(models.OUTPUT).set_weights([np.roll(kernel, 1, axis=1), np.roll(bias, 1)])
    aware = qat_models.quantization_aware(qat_models.twin(network), models.images(models.rows(90)))
    qat_models.save(tmp_path / "twin" / "Format-Serving", aware)
    twin = models.model_artifact(tmp_path / "twin")
    examples = models.write_examples(tmp_path / "examples", {"train": models.rows(60), "eval": models.rows(90, seed=2)})
    artifact, manifest = convert(tmp_path / "variants", RECIPES, model=model, qat_model=twin, examples=examples)

    assert [(v.name, v.failure, v.ranges_from) for v in manifest.variants] == [
        ("float32", None, None),
        ("full_integer", None, "calibration"),
        ("qat_full_integer", None, "training"),
        ("qat_integer_only_int8", None, "training"),
    ]
    assert manifest.source.sha256 == saved_model_sha256(f"{model.uri}/Format-Serving")
    assert manifest.qat_source is not None
    assert manifest.qat_source.uri == twin.uri
    assert manifest.qat_source.sha256 == saved_model_sha256(f"{twin.uri}/Format-Serving")
    assert (manifest.qat_source.inputs, manifest.qat_source.outputs) == (
        manifest.source.inputs,
        manifest.source.outputs,
    )

    outputs = evaluations.execute(
        {"examples": examples, "model": model, "variants": artifact},
        {"eval_config": to_json(evaluations.eval_config(drop=0.05))},
        tmp_path,
    )
    record = EvaluationRecord.read(Path(outputs["blessing"].uri) / "blessing.json")
    accuracy = {m.model: m.slices[0].metrics["sparse_categorical_accuracy"] for m in record.models}
    assert accuracy["saved_model"] is not None
    assert accuracy["saved_model"] > 0.9
    assert accuracy["qat_full_integer"] is not None
    assert accuracy["qat_full_integer"] < 0.1
    assert [v.passed for v in record.verdicts] == [True, True, False, False]
    assert "for the float model" in record.verdict("qat_full_integer").reasons[0].message
    assert "quantization-aware training" in (Path(outputs["evaluation"].uri) / "report.html").read_text()


def test_each_file_names_the_model_it_was_made_from(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TFX_MOBILE_METADATA_PYTHON", metadata.writer_python())
    model = models.model_artifact(models.raw_model(tmp_path_factory))
    aware = qat_models.quantization_aware(qat_models.twin(models.raw_network()), models.images(models.rows(90)))
    qat_models.save(tmp_path / "twin" / "Format-Serving", aware)
    twin = models.model_artifact(tmp_path / "twin")
    _, manifest = convert(tmp_path / "variants", ["float32", "qat_full_integer"], model=model, qat_model=twin)
    assert manifest.qat_source is not None
    origins = {"float32": manifest.source.sha256, "qat_full_integer": manifest.qat_source.sha256}
    for name, sha256 in origins.items():
        data = (tmp_path / "variants" / name / "model.tflite").read_bytes()
        (custom,) = re.findall(rb'"source_sha256":"(\w+)"', data)
        assert custom.decode() == sha256


def test_a_model_that_was_trained_so_itself_needs_no_examples_at_run_time(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    model = models.model_artifact(qat_models.raw_qat_model(tmp_path_factory))
    _, manifest = convert(tmp_path / "variants", ["full_integer", "integer_only_int8"], model=model)
    assert [(v.failure, v.ranges_from) for v in manifest.variants] == [(None, "training")] * 2
    assert manifest.calibration is None
    assert manifest.qat_source is None
    with pytest.raises(RecipeError, match="full_integer calibrate, but TFLiteConverter got no examples"):
        convert(
            tmp_path / "other",
            ["full_integer"],
            model=models.model_artifact(models.raw_model(tmp_path_factory)),
        )
    assert not any((tmp_path / "other").iterdir())


def test_definition() -> None:
    converter = TFLiteConverter(
        model=Channel(type=Model), qat_model=Channel(type=Model), recipes=["float32", "qat_full_integer"]
    )
    assert converter.inputs["qat_model"].type is Model
    # Whether `model` was trained quantization-aware is known when it runs.
    TFLiteConverter(model=Channel(type=Model), recipes=["qat_integer_only_int8"])


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            {"recipes": ["float32", "int16x8"], "examples": Channel(type=Examples)},
            "none of the recipes float32, int16x8 ",
        ),
        ({"recipes": ["qat_full_integer", "full_integer"]}, "full_integer calibrate, .*qat_full_integer"),
    ],
)
def test_wrong_definitions(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        TFLiteConverter(model=Channel(type=Model), qat_model=Channel(type=Model), **parameters)


def test_layers_kept_in_float_need_calibration() -> None:
    with pytest.raises(RecipeError, match=r"float_layers .* quantization_aware calibrates nothing"):
        ConversionRecipe(name="a", quantization="full_integer", quantization_aware=True, float_layers=("dense",))
