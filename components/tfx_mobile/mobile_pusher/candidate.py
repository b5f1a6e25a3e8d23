"""What may be published: a file, who vouches for it, and the proof that the two belong together."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tfx.dsl.io import fileio
from tfx.types.artifact import Artifact

from tfx_mobile import artifact_io, artifacts
from tfx_mobile.errors import ModelFileError, NotBlessedError, PushError
from tfx_mobile.records import (
    BlessedModelRecord,
    EvaluationRecord,
    ModelFileRecord,
    Variant,
    VariantManifest,
    Verdict,
    sha256_of,
)

MODEL_KEY = "model"
VARIANTS_KEY = "variants"
BLESSING_KEY = "blessing"
MODEL_BLESSING_KEY = "model_blessing"
INFRA_BLESSING_KEY = "infra_blessing"
EVALUATION_KEY = "evaluation"

_TFLITE_SUFFIX = ".tflite"
_FILE_IDENTIFIER = b"TFL3"
_RERUN_EVALUATOR = "Wire 'blessed_model' and 'blessing' of one QuantizationEvaluator, and run it again."
_RERUN_CONVERTER = "Wire 'variants' of a TFLiteConverter, and run it again."

_Inputs = Mapping[str, list[Artifact]]


@dataclass(frozen=True)
class Refusal:
    """Nothing may be published.

    Attributes:
        reasons: Why, in words; at least one.
    """

    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Candidate:
    """A file that may be published; its bytes were verified against its record.

    Attributes:
        variant: How it was made.
        file: Facts of the file.
        model: Its bytes.
        source_sha256: Digest of the SavedModel it was made of.
        versions: Of what made and judged it.
        judgement: The evaluation that speaks of these very bytes; None without one.
        objections: Why it is not blessed; empty if it is.
    """

    variant: Variant
    file: ModelFileRecord
    model: bytes
    source_sha256: str
    versions: dict[str, str]
    judgement: EvaluationRecord | None
    objections: tuple[str, ...]


def find(inputs: _Inputs, *, allow_unblessed: bool, variant: str) -> Candidate | Refusal:
    """The file to publish, or why there is none.

    Args:
        inputs: The component's inputs, wired as `parameters.check_wiring` demands.
        allow_unblessed: Whether to accept one that nobody blessed.
        variant: Which of `variants`, if these are wired.

    Raises:
        NotBlessedError: The blessing is of other bytes, or of nothing.
        ModelFileError: The file is missing, not the only one, not a `.tflite`, or altered.
    """
    vetoes = _vetoes(inputs)
    judgement = _read_judgement(inputs) if BLESSING_KEY in inputs else None
    if judgement is not None and not judgement.blessed and not allow_unblessed:
        return Refusal((*_objections_of(judgement), *vetoes))
    if vetoes:
        return Refusal(vetoes)
    if VARIANTS_KEY in inputs:
        return _of_variants(artifact_io.single(inputs, VARIANTS_KEY, PushError), variant, judgement)
    return _of_model(artifact_io.single(inputs, MODEL_KEY, PushError), judgement)


def _vetoes(inputs: _Inputs) -> tuple[str, ...]:
    """What the stock components that are wired have against the float model; they are always honoured."""
    return tuple(
        f"{key}: the {judge} did not bless the float model"
        for key, judge in ((MODEL_BLESSING_KEY, "Evaluator"), (INFRA_BLESSING_KEY, "InfraValidator"))
        if key in inputs and artifact_io.single(inputs, key, PushError).get_int_custom_property(artifacts.BLESSED) != 1
    )


def _read_judgement(inputs: _Inputs) -> EvaluationRecord:
    blessing = artifact_io.single(inputs, BLESSING_KEY, PushError)
    hint = "Wire 'blessing' and 'evaluation' of one QuantizationEvaluator, and run it again."
    judgement = EvaluationRecord.from_json(_read_record(blessing, artifacts.BLESSING_FILE, hint))
    if EVALUATION_KEY in inputs:
        evaluation = artifact_io.single(inputs, EVALUATION_KEY, PushError)
        if EvaluationRecord.from_json(_read_record(evaluation, artifacts.RECORD_FILE, hint)) != judgement:
            raise NotBlessedError(
                f"The blessing in {blessing.uri} was not given on the evaluation in {evaluation.uri}. {hint}"
            )
    return judgement


def _objections_of(judgement: EvaluationRecord) -> tuple[str, ...]:
    """Why the evaluation blessed nothing."""
    reasons = tuple(f"{verdict.variant}: {r.message}" for verdict in judgement.verdicts for r in verdict.reasons)
    return reasons or ("no variant was blessed",)


def _of_model(artifact: Artifact, judgement: EvaluationRecord | None) -> Candidate | Refusal:
    """The file of a TFLiteModel."""
    hint = _RERUN_EVALUATOR
    record = BlessedModelRecord.from_json(_read_record(artifact, artifacts.RECORD_FILE, hint))
    variant = record.variant
    if not record.blessed or variant is None or variant.file is None:
        if judgement is not None and judgement.blessed:
            raise NotBlessedError(
                f"The blessing names {judgement.winner!r}, but the model artifact {artifact.uri} holds no blessed "
                f"model. {hint}"
            )
        objections = _objections_of(judgement) if judgement is not None else ("no variant was blessed",)
        return Refusal(
            (
                *objections,
                "allow_unblessed cannot help: where nothing is blessed, 'model' holds no file. Wire "
                "variants=converter.outputs['variants'] and variant='<recipe>' to push one of them all the same.",
            )
        )
    files = sorted(name for name in fileio.listdir(artifact.uri) if name.endswith(_TFLITE_SUFFIX))
    if files != [artifacts.MODEL_FILE]:
        raise ModelFileError(
            f"{artifact.uri} must hold exactly one .tflite file, {artifacts.MODEL_FILE}; it holds "
            f"{', '.join(files) or 'none'}. {hint}"
        )
    model = _read_verified(artifact, artifacts.MODEL_FILE, variant.file, hint)
    if judgement is not None:
        _check_blessing_is_of(judgement, judgement.winner or variant.name, variant, record.source.sha256, hint)
    return Candidate(
        variant=variant,
        file=variant.file,
        model=model,
        source_sha256=record.source.sha256,
        versions=dict(judgement.versions) if judgement else {},
        judgement=judgement,
        objections=_objections_to(variant.name, judgement),
    )


def _of_variants(artifact: Artifact, name: str, judgement: EvaluationRecord | None) -> Candidate:
    """The file of one variant of a TFLiteVariants."""
    hint = _RERUN_CONVERTER
    manifest = VariantManifest.from_json(_read_record(artifact, artifacts.MANIFEST_FILE, hint))
    variant = next((v for v in manifest.variants if v.name == name), None)
    if variant is None or variant.file is None or variant.path is None:
        why = f"could not be converted: {variant.failure.message}" if variant and variant.failure else "is not there"
        raise ModelFileError(
            f"variant={name!r} {why} in {artifact.uri}. Choose one of those that were converted: "
            f"{', '.join(v.name for v in manifest.converted()) or 'none'}."
        )
    model = _read_verified(artifact, variant.path, variant.file, hint)
    if judgement is not None:
        _check_blessing_is_of(judgement, name, variant, manifest.source.sha256, hint)
    return Candidate(
        variant=variant,
        file=variant.file,
        model=model,
        source_sha256=manifest.source.sha256,
        versions=dict(judgement.versions if judgement else manifest.versions),
        judgement=judgement,
        objections=_objections_to(name, judgement),
    )


def _read_record(artifact: Artifact, file_name: str, hint: str) -> bytes:
    """Reads a record that must be there."""
    if not artifact_io.exists(artifact, file_name):
        raise NotBlessedError(f"There is no {file_name} in {artifact.uri}. {hint}")
    return artifact_io.read_bytes(artifact, file_name)


def _read_verified(artifact: Artifact, path: str, file: ModelFileRecord, hint: str) -> bytes:
    """The bytes of a file, if they are those that were recorded."""
    uri = posixpath.join(artifact.uri, path)
    if not fileio.exists(uri):
        raise ModelFileError(f"There is no file {uri}, though its record says so. {hint}")
    model = artifact_io.read_bytes(artifact, path)
    sha256 = sha256_of(model)
    if (sha256, len(model)) != (file.sha256, file.size_bytes):
        raise ModelFileError(
            f"{uri} was altered after it was recorded: it has sha256 {sha256} and {len(model)} bytes, its record says "
            f"{file.sha256} and {file.size_bytes}. {hint}"
        )
    # The evaluator ran these very bytes; this only keeps a file that never was a model from reaching devices.
    if model[4:8] != _FILE_IDENTIFIER:
        raise ModelFileError(
            f"{uri} is not a .tflite file: bytes 4 to 8 are {model[4:8]!r}, not {_FILE_IDENTIFIER!r}. {hint}"
        )
    return model


def _check_blessing_is_of(
    judgement: EvaluationRecord, name: str, variant: Variant, source_sha256: str, hint: str
) -> None:
    """Makes sure that the judgement on the variant `name` is one on these very bytes."""
    assert variant.file is not None  # noqa: S101 (its bytes were just verified)
    verdict = _verdict(judgement, name)
    if verdict is None or (name == judgement.winner and not verdict.passed):
        raise NotBlessedError(
            f"The blessing holds no {'passing ' if name == judgement.winner else ''}verdict on {name!r}. {hint}"
        )
    named = (verdict.variant, verdict.sha256, judgement.source_sha256)
    if named != (variant.name, variant.file.sha256, source_sha256):
        raise NotBlessedError(
            f"The blessing is of other bytes: it names {named[0]!r} with sha256 {named[1]}, made of the SavedModel "
            f"{named[2]}; the artifact holds {variant.name!r} with sha256 {variant.file.sha256}, made of "
            f"{source_sha256}. {hint}"
        )


def _objections_to(name: str, judgement: EvaluationRecord | None) -> tuple[str, ...]:
    """Why a file is not blessed; none if it is the winner."""
    if judgement is None:
        return ("no evaluation was asked",)
    if judgement.winner == name:
        return ()
    verdict = _verdict(judgement, name)
    reasons: Sequence[str] = [f"{name}: {reason.message}" for reason in verdict.reasons] if verdict else []
    return tuple(reasons) or (f"{name}: the evaluation chose {judgement.winner!r}",)


def _verdict(judgement: EvaluationRecord, name: str) -> Verdict | None:
    return next((verdict for verdict in judgement.verdicts if verdict.variant == name), None)
