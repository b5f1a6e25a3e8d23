"""Executor of MobilePusher: artifacts in, releases out."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Mapping, Sequence
from typing import Any

from absl import logging
from tfx.dsl.components.base import base_executor
from tfx.dsl.io import fileio
from tfx.types.artifact import Artifact

from tfx_mobile import artifact_io, artifacts
from tfx_mobile.errors import ModelFileError, NotBlessedError, PushError
from tfx_mobile.records import (
    BlessedModelRecord,
    EvaluationRecord,
    EvaluationSummary,
    ModelFileRecord,
    PushReceipt,
    PushStatus,
    ReleaseManifest,
    Variant,
    canonical_json,
    sha256_of,
)
from tfx_mobile.release_store.delivery import deliver, open_destinations, plan_delivery
from tfx_mobile.release_store.destinations import parse_destinations
from tfx_mobile.release_store.names import DEFAULT_CHANNEL, blob_path, check_channel, check_model_name
from tfx_mobile.release_store.publishing import Push
from tfx_mobile.release_store.signing import NO_KEYS

MODEL_KEY = "model"
BLESSING_KEY = "blessing"
MODEL_BLESSING_KEY = "model_blessing"
INFRA_BLESSING_KEY = "infra_blessing"
EVALUATION_KEY = "evaluation"
PUSHED_MODEL_KEY = "pushed_model"
MODEL_NAME_KEY = "model_name"
CHANNEL_KEY = "channel"
DESTINATIONS_KEY = "destinations"
DRY_RUN_KEY = "dry_run"
FINGERPRINT_KEY = "fingerprint"

_TFLITE_SUFFIX = ".tflite"
_FILE_IDENTIFIER = b"TFL3"
_BASELINE = "saved_model"
_OVERALL = "overall"

_Inputs = Mapping[str, list[Artifact]]


class Executor(base_executor.BaseExecutor):
    """Verifies what it is given and publishes it; `component.MobilePusher` documents the parameters."""

    def Do(
        self,
        input_dict: dict[str, list[Artifact]],
        output_dict: dict[str, list[Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Publishes the blessed model.

        Raises:
            ValueError: A parameter is not valid.
            NotBlessedError: The blessing is of other bytes, or of nothing.
            ModelFileError: The file is missing, not the only one, not a `.tflite`, or altered.
            PushError: See `delivery.deliver`.
        """
        self._log_startup(input_dict, output_dict, exec_properties)
        model_name = check_model_name(exec_properties.get(MODEL_NAME_KEY))
        channel = check_channel(_given(exec_properties, CHANNEL_KEY, DEFAULT_CHANNEL))
        destinations = parse_destinations(_given(exec_properties, DESTINATIONS_KEY, ()))
        dry_run = _parse_flag(_given(exec_properties, DRY_RUN_KEY, 0))
        pushed_model = artifact_io.single(output_dict, PUSHED_MODEL_KEY, PushError)

        judgement = _read_judgement(input_dict)
        reasons = _reasons_against(input_dict, judgement)
        if reasons:
            logging.warning("Not blessed, nothing is pushed: %s", "; ".join(reasons))
            _describe(pushed_model, "not_blessed", channel)
            pushed_model.set_string_custom_property(artifacts.REASONS, canonical_json(reasons).decode())
            return

        variant, file, model = _read_model(artifact_io.single(input_dict, MODEL_KEY, PushError), judgement)
        manifest = _manifest_of(model_name, variant, file, judgement)
        push = Push(manifest, model, channel, NO_KEYS)
        opened = open_destinations(destinations, push.keyring)
        receipts = plan_delivery(opened, push) if dry_run else deliver(opened, push)

        statuses = [receipt.status for receipt in receipts]
        status: PushStatus = "pushed" if "pushed" in statuses else statuses[0]
        _archive(pushed_model, push.manifest, receipts, model=None if dry_run else model)
        _describe(pushed_model, status, channel)
        _describe_release(pushed_model, push.manifest, receipts)
        for receipt in receipts:
            logging.info("%s: %s", receipt.status, receipt.to_json().decode())


def _given(exec_properties: Mapping[str, Any], key: str, default: Any) -> Any:
    """The value of a parameter; some orchestrators drop those that are None, others deliver the None."""
    value = exec_properties.get(key)
    return default if value is None else value


def _parse_flag(value: Any) -> bool:
    """Reads a boolean, which arrives as 0, 0.0 or "0" depending on the orchestrator."""
    try:
        return bool(json.loads(str(value).lower()))
    except json.JSONDecodeError:
        raise ValueError(f"dry_run={value!r} is not a boolean; set it to 0 or 1.") from None


def _read_record(artifact: Artifact, file_name: str, hint: str) -> bytes:
    """Reads a record that must be there."""
    if not fileio.exists(posixpath.join(artifact.uri, file_name)):
        raise NotBlessedError(f"There is no {file_name} in {artifact.uri}. {hint}")
    return artifact_io.read_bytes(artifact, file_name)


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


def _reasons_against(inputs: _Inputs, judgement: EvaluationRecord) -> list[str]:
    """Why nothing may be pushed, in words; empty if all blessings that are wired hold."""
    reasons = []
    if not judgement.blessed:
        reasons = [f"{v.variant}: {reason.message}" for v in judgement.verdicts for reason in v.reasons]
        reasons = reasons or ["no variant was blessed"]
    for key, judge in ((MODEL_BLESSING_KEY, "Evaluator"), (INFRA_BLESSING_KEY, "InfraValidator")):
        if key in inputs and artifact_io.single(inputs, key, PushError).get_int_custom_property(artifacts.BLESSED) != 1:
            reasons.append(f"{key}: the {judge} did not bless the float model")
    return reasons


def _read_model(artifact: Artifact, judgement: EvaluationRecord) -> tuple[Variant, ModelFileRecord, bytes]:
    """The blessed variant, its file's facts and its bytes, after all checks that they belong together."""
    hint = "Wire 'blessed_model' and 'blessing' of one QuantizationEvaluator, and run it again."
    record = BlessedModelRecord.from_json(_read_record(artifact, artifacts.RECORD_FILE, hint))
    winner = judgement.winner
    verdict = next((v for v in judgement.verdicts if v.variant == winner), None)
    if verdict is None or not verdict.passed:
        raise NotBlessedError(f"The blessing names {winner!r} as winner but holds no passing verdict on it. {hint}")
    variant = record.variant
    if not record.blessed or variant is None or variant.file is None:
        raise NotBlessedError(
            f"The blessing names {winner!r}, but the model artifact {artifact.uri} holds no blessed model. {hint}"
        )

    files = sorted(name for name in fileio.listdir(artifact.uri) if name.endswith(_TFLITE_SUFFIX))
    if files != [artifacts.MODEL_FILE]:
        raise ModelFileError(
            f"{artifact.uri} must hold exactly one .tflite file, {artifacts.MODEL_FILE}; it holds "
            f"{', '.join(files) or 'none'}. {hint}"
        )
    model = artifact_io.read_bytes(artifact, artifacts.MODEL_FILE)
    sha256 = sha256_of(model)
    if (sha256, len(model)) != (variant.file.sha256, variant.file.size_bytes):
        raise ModelFileError(
            f"{posixpath.join(artifact.uri, artifacts.MODEL_FILE)} was altered after the evaluation: it has sha256 "
            f"{sha256} and {len(model)} bytes, its record says {variant.file.sha256} and {variant.file.size_bytes}. "
            f"{hint}"
        )
    named = (verdict.variant, verdict.sha256, judgement.source_sha256)
    if named != (variant.name, sha256, record.source.sha256):
        raise NotBlessedError(
            f"The blessing is of other bytes: it names {named[0]!r} with sha256 {named[1]}, made of the SavedModel "
            f"{named[2]}; the model artifact {artifact.uri} holds {variant.name!r} with sha256 {sha256}, made of "
            f"{record.source.sha256}. {hint}"
        )
    # The evaluator ran these very bytes; this only keeps a file that never was a model from reaching devices.
    if model[4:8] != _FILE_IDENTIFIER:
        raise ModelFileError(
            f"{posixpath.join(artifact.uri, artifacts.MODEL_FILE)} is not a .tflite file: bytes 4 to 8 are "
            f"{model[4:8]!r}, not {_FILE_IDENTIFIER!r}. {hint}"
        )
    return variant, variant.file, model


def _manifest_of(
    model_name: str, variant: Variant, file: ModelFileRecord, judgement: EvaluationRecord
) -> ReleaseManifest:
    overall = {m.model: s.metrics for m in judgement.models for s in m.slices if s.slice == _OVERALL}
    return ReleaseManifest(
        model=model_name,
        variant=variant.name,
        recipe=variant.recipe,
        blob=blob_path(model_name, file.sha256),
        file=file,
        evaluation=EvaluationSummary(
            num_examples=judgement.num_examples,
            splits=judgement.splits,
            baseline=overall.get(_BASELINE, {}),
            variant=overall.get(variant.name, {}),
        ),
        source_sha256=judgement.source_sha256,
        versions=judgement.versions,
        lineage=judgement.lineage,
    )


def _archive(
    pushed_model: Artifact, manifest: ReleaseManifest, receipts: Sequence[PushReceipt], model: bytes | None
) -> None:
    """Keeps what was pushed in the pipeline's own artifact, as the stock Pusher does."""
    files = {artifacts.RELEASE_FILE: manifest.to_json(), artifacts.RECEIPTS_FILE: _to_json(receipts)}
    if model is not None:
        files[artifacts.MODEL_FILE] = model
    for name, data in files.items():
        artifact_io.write_bytes(pushed_model, name, data)


def _to_json(receipts: Sequence[PushReceipt]) -> bytes:
    return canonical_json([receipt.model_dump(mode="json") for receipt in receipts])


def _describe(pushed_model: Artifact, status: PushStatus, channel: str) -> None:
    pushed_model.set_int_custom_property(artifacts.PUSHED, int(status in ("pushed", "unchanged")))
    pushed_model.set_string_custom_property(artifacts.PUSH_STATUS, status)
    pushed_model.set_string_custom_property(artifacts.CHANNEL, channel)


def _describe_release(pushed_model: Artifact, manifest: ReleaseManifest, receipts: Sequence[PushReceipt]) -> None:
    """Describes the release, and its place at the first destination."""
    first = receipts[0]
    pushed_model.set_int_custom_property(artifacts.SIZE_BYTES, manifest.file.size_bytes)
    properties = {
        artifacts.PUSHED_DESTINATION: first.destination,
        artifacts.PUSHED_VERSION: first.release_id,
        artifacts.RELEASE_ID: first.release_id,
        artifacts.PREVIOUS_RELEASE_ID: first.previous_release_id or "",
        artifacts.MANIFEST_URI: first.manifest_uri,
        # A string, because Vertex returns a number in a custom property as a float.
        artifacts.CHANNEL_VERSION: "" if first.channel_version is None else str(first.channel_version),
        artifacts.SHA256: manifest.file.sha256,
        artifacts.VARIANT: manifest.variant,
        artifacts.DESTINATIONS: _to_json(receipts).decode(),
    }
    for name, value in properties.items():
        pushed_model.set_string_custom_property(name, value)
