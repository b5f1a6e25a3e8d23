"""What the evaluator hands to MobilePusher, written to disk as real artifacts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tfx.types import standard_artifacts
from tfx.types.artifact import Artifact

from tests.fakes.releases import SOURCE_SHA256, file_record, model_bytes
from tfx_mobile import FilesystemDestination, TFLiteBlessing, TFLiteModel, TFLiteVariants, artifacts
from tfx_mobile.mobile_pusher.executor import Executor
from tfx_mobile.recipes import BUILTIN_RECIPES
from tfx_mobile.records import (
    BlessedModelRecord,
    Budget,
    EvaluationRecord,
    Failure,
    ModelMetrics,
    Reason,
    SliceMetrics,
    SourceModelRecord,
    Variant,
    VariantManifest,
    Verdict,
    sha256_of,
)
from tfx_mobile.release_store.destinations import destinations_to_json

Inputs = dict[str, list[Artifact]]

WINNER = "dynamic_range"
SOURCE = SourceModelRecord(
    sha256=SOURCE_SHA256,
    uri="/somewhere/else",
    signature="serving_default",
    parses_examples=True,
    route="resigned",
    inputs=(),
    outputs=(),
)


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
    data = data or model_bytes()
    record = BlessedModelRecord(blessed=blessed, variant=variant_of(data) if blessed else None, source=SOURCE)
    folder.mkdir(parents=True)
    (folder / artifacts.RECORD_FILE).write_bytes(record.to_json())
    if blessed:
        (folder / artifacts.MODEL_FILE).write_bytes(data)
    return _at(TFLiteModel(), folder)


def variants_artifact(folder: Path, files: dict[str, bytes]) -> Artifact:
    """A TFLiteVariants with these files by recipe; empty bytes stand for a recipe that could not be converted."""
    failure = Failure(code="conversion_failed", message="no kernel", advice="Use another op.")
    manifest = VariantManifest(
        source=SOURCE,
        batch_size="dynamic",
        calibration=None,
        versions={"tensorflow": "2.16.2"},
        variants=tuple(
            variant_of(data, name) if data else Variant(recipe=BUILTIN_RECIPES[name], failure=failure)
            for name, data in files.items()
        ),
    )
    for name, data in files.items():
        if data:
            (folder / name).mkdir(parents=True)
            (folder / name / artifacts.MODEL_FILE).write_bytes(data)
    (folder / artifacts.MANIFEST_FILE).write_bytes(manifest.to_json())
    return _at(TFLiteVariants(), folder)


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


class Place:
    """A destination, and pushes to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "releases"
        self.destination = FilesystemDestination(base_directory=self.root)
        self.pushes = 0

    def push(self, inputs: Inputs, **exec_properties: Any) -> Artifact:
        self.pushes += 1
        pushed = pushed_artifact(self.folder / "pushed" / str(self.pushes))
        self.push_into(pushed, inputs, **exec_properties)
        return pushed

    def push_into(self, pushed: Artifact, inputs: Inputs, **exec_properties: Any) -> None:
        properties = {
            "model_name": "digits",
            "channel": "production",
            "destinations": destinations_to_json([self.destination]),
            "dry_run": 0,
            "fingerprint": "any",
        } | exec_properties
        Executor().Do(inputs, {"pushed_model": [pushed]}, properties)

    def assert_untouched(self) -> None:
        assert not self.root.exists()
