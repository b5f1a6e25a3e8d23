"""What the evaluator hands to MobilePusher, written to disk as real artifacts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tfx.types import standard_artifacts
from tfx.types.artifact import Artifact

from tests.fakes.releases import SOURCE_SHA256, file_record, model_bytes
from tfx_mobile import TFLiteBlessing, TFLiteModel, artifacts
from tfx_mobile.recipes import BUILTIN_RECIPES
from tfx_mobile.records import (
    BlessedModelRecord,
    Budget,
    EvaluationRecord,
    ModelMetrics,
    Reason,
    SliceMetrics,
    SourceModelRecord,
    Variant,
    Verdict,
    sha256_of,
)

WINNER = "dynamic_range"


def variant_of(data: bytes, name: str = WINNER) -> Variant:
    """The converter's description of a variant with these bytes."""
    return Variant(recipe=BUILTIN_RECIPES[name], path=artifacts.variant_path(name), file=file_record(data))


def judgement_of(data: bytes, blessed: bool = True) -> EvaluationRecord:
    """An evaluation of one variant with these bytes."""
    metrics = (("saved_model", 1.0), (WINNER, 0.99))
    reason = Reason(code="threshold", message="accuracy on label:2 is 0.5, needs >= 0.9", metric="accuracy")
    return EvaluationRecord(
        source_sha256=SOURCE_SHA256,
        variants=(variant_of(data),),
        num_examples=90,
        splits=("eval",),
        models=tuple(
            ModelMetrics(
                model=model,
                slices=(
                    SliceMetrics(slice="overall", metrics={"accuracy": accuracy}),
                    SliceMetrics(slice="label:2", metrics={"accuracy": 0.5}),
                ),
            )
            for model, accuracy in metrics
        ),
        verdicts=(
            Verdict(variant=WINNER, sha256=sha256_of(data), passed=blessed, reasons=() if blessed else (reason,)),
        ),
        objective={"size": 1.0},
        budget=Budget(),
        winner=WINNER if blessed else None,
        versions={"tfx-mobile": "0.1.0"},
    )


def model_artifact(folder: Path, data: bytes = b"", blessed: bool = True) -> Artifact:
    """A TFLiteModel."""
    source = SourceModelRecord(
        sha256=SOURCE_SHA256,
        uri="/somewhere/else",
        signature="serving_default",
        parses_examples=True,
        route="resigned",
        inputs=(),
        outputs=(),
    )
    data = data or model_bytes()
    record = BlessedModelRecord(blessed=blessed, variant=variant_of(data) if blessed else None, source=source)
    folder.mkdir(parents=True)
    (folder / artifacts.RECORD_FILE).write_bytes(record.to_json())
    if blessed:
        (folder / artifacts.MODEL_FILE).write_bytes(data)
    return _at(TFLiteModel(), folder)


def blessing_artifact(folder: Path, judgement: EvaluationRecord) -> Artifact:
    """A TFLiteBlessing."""
    folder.mkdir(parents=True)
    (folder / artifacts.BLESSING_FILE).write_bytes(judgement.to_json())
    (folder / (artifacts.BLESSED_FILE if judgement.blessed else artifacts.NOT_BLESSED_FILE)).touch()
    return _at(TFLiteBlessing(), folder)


def evaluation_artifact(folder: Path, judgement: EvaluationRecord) -> Artifact:
    """A ModelEvaluation as QuantizationEvaluator writes it."""
    folder.mkdir(parents=True)
    (folder / artifacts.RECORD_FILE).write_bytes(judgement.to_json())
    return _at(standard_artifacts.ModelEvaluation(), folder)


def stock_blessing(artifact: Artifact, blessed: bool) -> Artifact:
    """A ModelBlessing or InfraBlessing with its verdict, as the stock components leave it."""
    artifact.set_int_custom_property("blessed", int(blessed))
    return artifact


def inputs_of(folder: Path, data: bytes = b"", blessed: bool = True) -> dict[str, list[Artifact]]:
    """The two inputs every push has."""
    data = data or model_bytes()
    return {
        "model": [model_artifact(folder / "model", data, blessed)],
        "blessing": [blessing_artifact(folder / "blessing", judgement_of(data, blessed))],
    }


def pushed_artifact(folder: Path) -> Artifact:
    """An empty PushedModel."""
    return _at(standard_artifacts.PushedModel(), folder)


def _at(artifact: Artifact, folder: Path) -> Any:
    artifact.uri = str(folder)
    return artifact
