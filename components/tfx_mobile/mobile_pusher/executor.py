"""Executor of MobilePusher: artifacts in, releases out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from absl import logging
from tfx.dsl.components.base import base_executor
from tfx.types.artifact import Artifact

from tfx_mobile import artifact_io, artifacts
from tfx_mobile.errors import NotBlessedError, PushError, TFXMobileError
from tfx_mobile.mobile_pusher import candidate, parameters
from tfx_mobile.mobile_pusher.candidate import Candidate, Refusal
from tfx_mobile.mobile_pusher.parameters import Parameters
from tfx_mobile.records import EvaluationSummary, PushReceipt, PushStatus, ReleaseManifest, canonical_json
from tfx_mobile.release_store.delivery import deliver, open_destinations, plan_delivery
from tfx_mobile.release_store.names import blob_path
from tfx_mobile.release_store.publishing import Push
from tfx_mobile.release_store.signing_keys import open_keyring
from tfx_mobile.rollout import remote_config
from tfx_mobile.rollout.remote_config import RolloutResult

PUSHED_MODEL_KEY = "pushed_model"
FINGERPRINT_KEY = "fingerprint"

_BASELINE = "saved_model"
_OVERALL = "overall"
#: Receipts of Firebase ML say more than there is a property for; what begins like this gets one of its own.
_FIREBASE = "firebase_"


class Executor(base_executor.BaseExecutor):
    """Verifies what it is given and publishes it; `component.MobilePusher` documents the parameters."""

    def Do(
        self,
        input_dict: dict[str, list[Artifact]],
        output_dict: dict[str, list[Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Publishes the model.

        Raises:
            ValueError: A parameter is not valid.
            NotBlessedError: The blessing is of other bytes, or of nothing; or nothing is blessed, and `on_not_blessed`
                asks for an error.
            ModelFileError: The file is missing, not the only one, not a `.tflite`, or altered.
            PushError: See `delivery.deliver`.
        """
        given = parameters.read(exec_properties)
        self._log_startup(input_dict, output_dict, exec_properties)
        parameters.check_wiring(
            model=candidate.MODEL_KEY in input_dict,
            variants=candidate.VARIANTS_KEY in input_dict,
            blessing=candidate.BLESSING_KEY in input_dict,
            allow_unblessed=given.allow_unblessed,
            variant=given.variant,
        )
        pushed_model = artifact_io.single(output_dict, PUSHED_MODEL_KEY, PushError)

        found = candidate.find(input_dict, allow_unblessed=given.allow_unblessed, variant=given.variant)
        if isinstance(found, Refusal):
            logging.warning("Not blessed, nothing is pushed: %s", "; ".join(found.reasons))
            _describe(pushed_model, "not_blessed", given.channel, found.reasons)
            # Kubeflow drops the properties of a step that fails, and keeps its files.
            artifact_io.write_bytes(pushed_model, artifacts.REASONS_FILE, canonical_json(found.reasons))
            if given.on_not_blessed == "fail":
                reasons = "; ".join(reason.rstrip(".") for reason in found.reasons)
                raise NotBlessedError(
                    f"Nothing was pushed to channel {given.channel!r} of {given.model_name!r}, which stays as it is, "
                    f"because nothing is blessed: {reasons}. Look at the evaluator's report and mend the data or the "
                    "model. To let such a run end well, set on_not_blessed='skip'."
                )
            return
        if found.objections:
            logging.warning(
                "%s is pushed although it is not blessed, because allow_unblessed is set: %s",
                found.variant.name,
                "; ".join(found.objections),
            )

        keyring = open_keyring(given.signing_key, given.trusted_keys)
        push = Push(_manifest_of(given, found), found.model, given.channel, keyring)
        opened = open_destinations(given.destinations, keyring)
        # Asked before anything is published: what Remote Config would refuse afterwards, it refuses now.
        rollout = _roll_out(given, dry_run=True)
        act = plan_delivery if given.dry_run else deliver
        receipts = act(opened, push, given.on_stale)
        status = _overall(receipts)
        was_pushed = status in ("pushed", "unchanged")
        if was_pushed:
            rollout = _roll_out(given, dry_run=False)

        _archive(pushed_model, push.manifest, receipts, model=found.model if was_pushed else None)
        _describe(pushed_model, status, given.channel, found.objections)
        _describe_release(pushed_model, push.manifest, receipts)
        if rollout is not None:
            _set_strings(pushed_model, {artifacts.ROLLOUT: rollout.to_json().decode()})


def _roll_out(given: Parameters, *, dry_run: bool) -> RolloutResult | None:
    """Lets a share of the users follow the channel, or asks whether that could be done; None if nobody wants it."""
    if given.rollout is None:
        return None
    try:
        result = remote_config.apply(given.rollout, given.model_name, given.channel, dry_run)
    except TFXMobileError as error:
        state = (
            "Nothing was published anywhere."
            if dry_run
            else "Every destination has the release; only the rollout is missing, and the next run finishes it."
        )
        raise type(error)(f"{error} {state}") from error
    logging.info("Rollout: %s", result.to_json().decode())
    return result


def _manifest_of(given: Parameters, found: Candidate) -> ReleaseManifest:
    judgement = found.judgement
    summary = None
    if judgement is not None:
        overall = {m.model: s.metrics for m in judgement.models for s in m.slices if s.slice == _OVERALL}
        summary = EvaluationSummary(
            num_examples=judgement.num_examples,
            splits=judgement.splits,
            baseline=overall.get(_BASELINE, {}),
            variant=overall.get(found.variant.name, {}),
        )
    return ReleaseManifest(
        model=given.model_name,
        variant=found.variant.name,
        recipe=found.variant.recipe,
        blob=blob_path(given.model_name, found.file.sha256),
        file=found.file,
        blessed=not found.objections,
        evaluation=summary,
        source_sha256=found.source_sha256,
        versions=found.versions,
        labels=given.labels,
        lineage=judgement.lineage if judgement is not None else None,
    )


def _overall(receipts: Sequence[PushReceipt]) -> PushStatus:
    """One word for all destinations: the first of these that one of them says."""
    statuses = {receipt.status for receipt in receipts}
    ranking: tuple[PushStatus, ...] = ("dry_run", "pushed", "unchanged", "superseded")
    return next(status for status in ranking if status in statuses)


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


def _describe(pushed_model: Artifact, status: PushStatus, channel: str, objections: Sequence[str]) -> None:
    pushed_model.set_int_custom_property(artifacts.PUSHED, int(status in ("pushed", "unchanged")))
    pushed_model.set_int_custom_property(artifacts.BLESSED, int(not objections))
    _set_strings(pushed_model, {artifacts.PUSH_STATUS: status, artifacts.CHANNEL: channel})
    if objections:
        _set_strings(pushed_model, {artifacts.REASONS: canonical_json(objections).decode()})


def _describe_release(pushed_model: Artifact, manifest: ReleaseManifest, receipts: Sequence[PushReceipt]) -> None:
    """Describes the release, and its place at the first destination."""
    first = receipts[0]
    pushed_model.set_int_custom_property(artifacts.SIZE_BYTES, manifest.file.size_bytes)
    # Of a model at several projects of Firebase, the first one's, as with everything else.
    firebase = {
        name: value
        for receipt in reversed(receipts)
        for name, value in receipt.details.items()
        if name.startswith(_FIREBASE)
    }
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
        artifacts.LABELS: canonical_json(manifest.labels).decode(),
        artifacts.SIGNING_KEY_ID: manifest.signing_key_id or "",
    }
    _set_strings(pushed_model, firebase | properties)


def _set_strings(pushed_model: Artifact, properties: Mapping[str, str]) -> None:
    for name, value in properties.items():
        pushed_model.set_string_custom_property(name, value)
