"""Copying what Firebase ML serves into release stores, so that a team can leave it without losing a model."""

from __future__ import annotations

import importlib.metadata
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tfx_mobile import child_process
from tfx_mobile.errors import ConflictError, ModelFileError, TFXMobileError
from tfx_mobile.records import ModelFileRecord, ReleaseManifest, sha256_of
from tfx_mobile.release_store.delivery import OpenDestination, deliver, plan_delivery
from tfx_mobile.release_store.firebase_ml.client import FirebaseMLClient, HostedModel
from tfx_mobile.release_store.names import DEFAULT_CHANNEL, blob_path, check_channel, check_model_name
from tfx_mobile.release_store.publishing import Push
from tfx_mobile.release_store.reading import current_statement, read_manifest
from tfx_mobile.release_store.signing import NO_KEYS, Keyring

#: What an imported release calls its variant, and the value of its label `source`.
SOURCE = "firebase_ml"
SOURCE_LABEL = "source"

_MAX_BYTES = 1 << 30
_DESCRIBE = "tfx_mobile.tflite.file_report:describe_file"
_DEADLINE_SECONDS = 120.0

ImportStatus = Literal["imported", "unchanged", "dry_run", "kept", "not_published", "failed"]


@dataclass(frozen=True)
class ImportedModel:
    """What became of one model.

    Attributes:
        model: Its name.
        status: `imported`: it is a release now. `unchanged`: it was already, everywhere. `dry_run`: it would be
            imported. `kept`: a destination's channel names a release that was not imported, and was left alone.
            `not_published`: devices do not get it from Firebase ML either. `failed`: see `reason`.
        sha256: Of its bytes; None where they were not fetched.
        size_bytes: Of its file; None where it was not fetched.
        release_id: Of the release; None where there is none.
        reason: Why it was not imported; empty if it was.
    """

    model: str
    status: ImportStatus
    sha256: str | None = None
    size_bytes: int | None = None
    release_id: str | None = None
    reason: str = ""


def import_models(
    client: FirebaseMLClient,
    destinations: Sequence[OpenDestination],
    *,
    channel: str = DEFAULT_CHANNEL,
    names: Sequence[str] = (),
    dry_run: bool = False,
    keyring: Keyring = NO_KEYS,
) -> tuple[ImportedModel, ...]:
    """Makes what Firebase ML serves a release of the same name at every destination.

    May be repeated: what is there already stays as it is, and what has changed at Firebase ML since is imported again.
    A channel whose release a pipeline published is never touched. A model that cannot be imported does not keep the
    others from it.

    Args:
        client: Firebase ML.
        destinations: Where to.
        channel: Which of each model's channels shall name the release.
        names: The models by the name that apps ask for; empty for all that are published.
        dry_run: Fetch and check everything, write nothing.
        keyring: Who signs the releases.

    Returns:
        One result per model, by name.

    Raises:
        ValueError: A destination is Firebase ML itself, or the channel's name is not valid.
        ConflictError: Firebase ML has no model of one of the names.
        PushError: Firebase ML refuses, or cannot be reached.
    """
    check_channel(channel)
    if any(opened.follower is not None for opened in destinations):
        raise ValueError(
            "Models are imported into release stores that devices read themselves. Give a CloudStorageDestination or a "
            "FilesystemDestination instead of a FirebaseMLDestination."
        )
    hosted = sorted(client.list_models(), key=lambda model: model.display_name)
    known = {model.display_name for model in hosted}
    if unknown := [name for name in names if name not in known]:
        raise ConflictError(
            f"Firebase ML has no model {', '.join(map(repr, unknown))} in the project {client.project_id}; it has: "
            f"{', '.join(sorted(known)) or 'none'}."
        )
    chosen = [model for model in hosted if not names or model.display_name in names]
    return tuple(_import(client, destinations, model, channel, dry_run, keyring) for model in chosen)


def _import(
    client: FirebaseMLClient,
    destinations: Sequence[OpenDestination],
    hosted: HostedModel,
    channel: str,
    dry_run: bool,
    keyring: Keyring,
) -> ImportedModel:
    name = hosted.display_name
    if not hosted.published:
        why = hosted.validation_error or "it is not published at Firebase ML, so devices do not get it from there"
        return ImportedModel(name, "not_published", reason=why)
    try:
        check_model_name(name)
        served = client.served(name, _MAX_BYTES)
        if served is None:
            return ImportedModel(name, "not_published", reason="Firebase ML hands it out to nobody")
        push = Push(_manifest_of(client, hosted, served.data), served.data, channel, keyring)
        result = ImportedModel(name, "imported", push.sha256, len(push.model), push.release_id)
        if kept := [o.address for o in destinations if not _may_move(o, push)]:
            return _with(
                result,
                "kept",
                f"the channel {channel!r} at {', '.join(kept)} names a release that a pipeline published; give another "
                "--channel to import beside it",
            )
        if dry_run:
            would_be = {receipt.details["would_be"] for receipt in plan_delivery(destinations, push)}
            return _with(result, "unchanged" if would_be == {"unchanged"} else "dry_run")
        statuses = {receipt.status for receipt in deliver(destinations, push)}
        return _with(result, "unchanged" if statuses == {"unchanged"} else "imported")
    except (TFXMobileError, ValueError) as error:
        return ImportedModel(name, "failed", reason=str(error))


def _with(result: ImportedModel, status: ImportStatus, reason: str = "") -> ImportedModel:
    return ImportedModel(result.model, status, result.sha256, result.size_bytes, result.release_id, reason)


def _may_move(opened: OpenDestination, push: Push) -> bool:
    """Whether a channel names nothing yet, these bytes, or what was imported before."""
    name = push.manifest.model
    current = current_statement(opened.store, name, push.channel, push.keyring)
    if current is None or current.sha256 == push.sha256:
        return True
    return read_manifest(opened.store, name, current.release_id, push.keyring).labels.get(SOURCE_LABEL) == SOURCE


def _manifest_of(client: FirebaseMLClient, hosted: HostedModel, data: bytes) -> ReleaseManifest:
    return ReleaseManifest(
        model=hosted.display_name,
        variant=SOURCE,
        blob=blob_path(hosted.display_name, sha256_of(data)),
        file=_describe(data),
        versions={"tfx-mobile": importlib.metadata.version("tfx-mobile")},
        labels={SOURCE_LABEL: SOURCE, "firebase_project": client.project_id, "firebase_model_id": hosted.model_id},
    )


def _describe(data: bytes) -> ModelFileRecord:
    """Reads a file in a process of its own: nobody has looked at it before.

    Raises:
        ModelFileError: It is not a well-formed `.tflite` file.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.tflite"
        path.write_bytes(data)
        try:
            answers = list(child_process.run(_DESCRIBE, {"path": str(path)}, deadline_seconds=_DEADLINE_SECONDS))
        except child_process.ChildDied as died:
            raise ModelFileError(f"The file cannot be read: the process that read it ended: {died}.") from None
    answer = answers[-1] if answers else {"error": "the process that read it said nothing"}
    if "error" in answer:
        raise ModelFileError(f"The file cannot be read: {answer['error']}")
    record = ModelFileRecord.from_json(answer["file"])
    if (record.sha256, record.size_bytes) != (sha256_of(data), len(data)):
        raise ModelFileError("The file changed while it was read. Import it again.")
    return record
