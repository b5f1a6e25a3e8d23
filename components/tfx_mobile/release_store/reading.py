"""From a channel to verified bytes, as a device reads it."""

from __future__ import annotations

from dataclasses import dataclass

from tfx_mobile.errors import (
    ConflictError,
    ModelFileError,
    NothingPublishedError,
    TFXMobileError,
    UntrustedReleaseError,
)
from tfx_mobile.records import ChannelStatement, PayloadType, ReleaseManifest, sha256_of
from tfx_mobile.release_store.names import blob_path, channel_path, check_channel, check_model_name, release_path
from tfx_mobile.release_store.signing import NO_KEYS, Keyring
from tfx_mobile.release_store.store import Store, immutable_conflict

MANIFEST_TYPE: PayloadType = "application/vnd.mobile-model-manifest+json"
CHANNEL_TYPE: PayloadType = "application/vnd.mobile-model-channel+json"


@dataclass(frozen=True)
class Release:
    """A verified release.

    Attributes:
        release_id: SHA-256 of the manifest's canonical bytes.
        manifest: What it is.
        model: The `.tflite` bytes, whose hash and size are those of the manifest.
        channel_version: Number of the channel statement it was found by.
    """

    release_id: str
    manifest: ReleaseManifest
    model: bytes
    channel_version: int


def current_statement(
    store: Store, model_name: str, channel: str, keyring: Keyring = NO_KEYS
) -> ChannelStatement | None:
    """What `channel` names, without looking whether it is there; None if nothing was published to it.

    Raises:
        DestinationUnavailableError: The store cannot be read.
        ConflictError: The statement is damaged, or another channel's.
        UntrustedReleaseError: No trusted key signed it.
    """
    statement, _ = read_channel(store, check_model_name(model_name), check_channel(channel), keyring)
    return statement


def resolve(store: Store, model_name: str, channel: str, keyring: Keyring = NO_KEYS) -> Release:
    """Reads what `channel` names and verifies every step on the way, as a device does.

    Raises:
        NothingPublishedError: Nothing was published there.
        DestinationUnavailableError: The store cannot be read.
        ConflictError: Channel or manifest are damaged, or contradict each other.
        UntrustedReleaseError: No trusted key signed one of them.
        ModelFileError: The bytes are missing or not those of the manifest.
    """
    statement = current_statement(store, model_name, channel, keyring)
    if statement is None:
        raise NothingPublishedError(
            f"Nothing was published to {store.uri(channel_path(model_name, channel))}. "
            "Check model name and channel, or push a model there first."
        )
    manifest = read_manifest(store, model_name, statement.release_id, keyring)
    if manifest.file.sha256 != statement.sha256:
        raise ConflictError(
            f"{store.uri(channel_path(model_name, channel))} says sha256 {statement.sha256}, its release "
            f"{statement.release_id} says {manifest.file.sha256}. Push the release again."
        )
    return Release(statement.release_id, manifest, read_blob(store, manifest), statement.version)


def read_channel(
    store: Store, model_name: str, channel: str, keyring: Keyring = NO_KEYS
) -> tuple[ChannelStatement | None, str | None]:
    """The channel's statement and generation; None for both where nothing was published yet."""
    path = channel_path(model_name, channel)
    stored = store.read(path)
    if stored is None:
        return None, None
    return open_statement(stored.data, model_name, channel, keyring, store.uri(path)), stored.generation


def open_statement(data: bytes, model_name: str, channel: str, keyring: Keyring, uri: str) -> ChannelStatement:
    """The statement in a channel's envelope, verified.

    Raises:
        ConflictError: It is damaged, or another channel's.
        UntrustedReleaseError: No trusted key signed it.
    """
    try:
        statement = ChannelStatement.from_json(keyring.open(data, CHANNEL_TYPE, uri))
    except UntrustedReleaseError:
        raise
    except TFXMobileError as error:
        raise ConflictError(f"{uri} cannot be read. {error}") from error
    if (statement.model, statement.channel) != (model_name, channel):
        raise ConflictError(
            f"{uri} is the statement of model {statement.model!r}, channel {statement.channel!r}: it was copied there. "
            "Restore the channel's own statement, or move it away and push again."
        )
    return statement


def read_manifest(store: Store, model_name: str, release_id: str, keyring: Keyring = NO_KEYS) -> ReleaseManifest:
    """A release's manifest, verified.

    Raises:
        ConflictError: It is missing, damaged, or another model's.
        UntrustedReleaseError: No trusted key signed it.
    """
    uri = store.uri(release_path(model_name, release_id))
    stored = store.read(release_path(model_name, release_id))
    if stored is None:
        raise ConflictError(f"{uri} is missing, though a channel names it. Push the release again.")
    return open_manifest(stored.data, model_name, release_id, keyring, uri)


def open_manifest(data: bytes, model_name: str, release_id: str, keyring: Keyring, uri: str) -> ReleaseManifest:
    """The manifest in a release's envelope, verified.

    Raises:
        ConflictError: It is damaged, or another model's.
        UntrustedReleaseError: No trusted key signed it.
    """
    try:
        payload = keyring.open(data, MANIFEST_TYPE, uri)
        if sha256_of(payload) != release_id:
            raise immutable_conflict(uri)
        manifest = ReleaseManifest.from_json(payload)
    except (ConflictError, UntrustedReleaseError):
        raise
    except TFXMobileError as error:
        raise ConflictError(f"{uri} cannot be read. {error}") from error
    if manifest.model != model_name or manifest.blob != blob_path(model_name, manifest.file.sha256):
        raise ConflictError(f"{uri} is a release of model {manifest.model!r}, not of {model_name!r}. Push it again.")
    return manifest


def read_blob(store: Store, manifest: ReleaseManifest) -> bytes:
    """A release's bytes, verified.

    Raises:
        ModelFileError: They are missing, or others than the manifest says.
    """
    uri = store.uri(manifest.blob)
    stored = store.read(manifest.blob)
    if stored is None:
        raise ModelFileError(f"{uri} is missing, though a release names it. Push the release again.")
    actual = (sha256_of(stored.data), len(stored.data))
    if actual != (manifest.file.sha256, manifest.file.size_bytes):
        raise ModelFileError(
            f"{uri} has sha256 {actual[0]} and {actual[1]} bytes; its release says {manifest.file.sha256} and "
            f"{manifest.file.size_bytes}. Do not run it: move it away and push the release again."
        )
    return stored.data
