"""The release protocol: how a model becomes a release, and how a release is read back and verified.

    blobs/<name>/<sha256 hex>.tflite      immutable
    releases/<name>/<release_id>.json     immutable; a ReleaseManifest in an Envelope
    channels/<name>/<channel>.json        the only mutable object; a ChannelStatement in an Envelope

`publish` writes blob, manifest and channel in this order, and each step either happens as a whole or not at all. So a
push that dies leaves at most immutable objects that nothing refers to, and the next one picks them up: the store itself
is the journal. This module knows neither TFX nor any particular kind of store.
"""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass
from typing import Literal, Protocol

import tenacity

from tfx_mobile.errors import ConflictError, ModelFileError, NothingPublishedError, TFXMobileError
from tfx_mobile.records import (
    ChannelEntry,
    ChannelStatement,
    Envelope,
    PayloadType,
    PushReceipt,
    ReleaseManifest,
    sha256_of,
)

MANIFEST_TYPE: PayloadType = "application/vnd.mobile-model-manifest+json"
CHANNEL_TYPE: PayloadType = "application/vnd.mobile-model-channel+json"
PREVIOUS_KEPT = 50

_MODEL_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,31}")
_CHANNEL = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_MAX_SWAPS = 30


@dataclass(frozen=True)
class StoredObject:
    """An object as it was at one moment.

    Attributes:
        data: Its bytes.
        generation: Opaque; changes whenever the object does.
    """

    data: bytes
    generation: str


class Store(Protocol):
    """Where releases live. Paths are relative, with `/`.

    Every method raises DestinationUnavailableError when the place cannot be reached, read or written.
    """

    @property
    def address(self) -> str:
        """The destination's address, for people and receipts."""
        ...

    def uri(self, path: str) -> str:
        """The full address of an object."""
        ...

    def read(self, path: str) -> StoredObject | None:
        """The object, or None if there is none."""
        ...

    def check_writable(self, path: str) -> None:
        """Raises if the object could not be written; changes nothing."""
        ...

    def put_if_absent(self, path: str, data: bytes) -> None:
        """Creates an immutable object as a whole; does nothing at all if it is there with these bytes.

        Raises:
            ConflictError: It is there with other bytes.
        """
        ...

    def compare_and_swap(self, path: str, data: bytes, generation: str | None) -> bool:
        """Replaces the object if it is still at `generation` (None: absent); False if it is not."""
        ...


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


def check_model_name(name: object) -> str:
    """Returns `name` if it can name a model.

    Raises:
        ValueError: It cannot.
    """
    if isinstance(name, str) and _MODEL_NAME.fullmatch(name):
        return name
    raise ValueError(
        f"model_name={name!r} is not valid: use 1 to 32 letters, digits and underscores, starting with a letter. "
        "Set MobilePusher(model_name=...) to such a name, for example 'digits'."
    )


def check_channel(channel: object) -> str:
    """Returns `channel` if it can name a channel.

    Raises:
        ValueError: It cannot.
    """
    if isinstance(channel, str) and _CHANNEL.fullmatch(channel):
        return channel
    raise ValueError(
        f"channel={channel!r} is not valid: use 1 to 32 lower-case letters, digits, hyphens and underscores, starting "
        "with a letter. Set MobilePusher(channel=...) to such a name, for example 'production' or 'beta'."
    )


def blob_path(model_name: str, sha256: str) -> str:
    """Path of a model's bytes."""
    return f"blobs/{model_name}/{sha256}.tflite"


def release_path(model_name: str, release_id: str) -> str:
    """Path of a release manifest."""
    return f"releases/{model_name}/{release_id}.json"


def channel_path(model_name: str, channel: str) -> str:
    """Path of a channel statement."""
    return f"channels/{model_name}/{channel}.json"


def release_id_of(manifest: ReleaseManifest) -> str:
    """The id that follows from a manifest's content."""
    return sha256_of(manifest.to_json())


def plan(store: Store, manifest: ReleaseManifest, model: bytes, channel: str) -> PushReceipt:
    """Makes the checks of `publish` and writes nothing.

    Raises:
        ModelFileError: `manifest` is not about `model`.
        ConflictError: The store holds something else under one of the names, or a damaged channel statement.
        DestinationUnavailableError: The store cannot be read or written.
    """
    objects = _immutable_objects(manifest, model)
    current, _ = _read_channel(store, manifest.model, channel)
    if current is None or not _serves(store, current, manifest.file.sha256):
        store.check_writable(channel_path(manifest.model, channel))
        for path, data in objects:
            existing = store.read(path)
            if existing is None:
                store.check_writable(path)
            elif existing.data != data:
                raise immutable_conflict(store.uri(path))
    return _receipt(
        store,
        manifest,
        "dry_run",
        release_id_of(manifest),
        channel_version=current.version if current else None,
        previous_release_id=current.release_id if current else None,
    )


def publish(store: Store, manifest: ReleaseManifest, model: bytes, channel: str) -> PushReceipt:
    """Makes `model` the release that `channel` names.

    Safe to repeat and to run at the same time as others: bytes that the channel serves already change nothing, whatever
    has been measured on them since, and each different release gets a version of its own.

    Args:
        store: Where to.
        manifest: What the release is.
        model: The bytes of the `.tflite` file.
        channel: Name of the channel.

    Raises:
        ModelFileError: `manifest` is not about `model`; nothing was written.
        ConflictError: The store holds something else under one of the names, or others moved the channel every time
            this push tried to.
        DestinationUnavailableError: The store cannot be read or written.
    """
    objects = _immutable_objects(manifest, model)
    current, _ = _read_channel(store, manifest.model, channel)  # a damaged one is an error before anything is written
    if current is not None and _serves(store, current, manifest.file.sha256):
        return _receipt_of(store, manifest, "unchanged", current.history)
    for path, data in objects:
        store.put_if_absent(path, data)
    nonce = uuid.uuid4().hex
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(_ChannelMovedError),
        wait=tenacity.wait_random_exponential(multiplier=0.01, max=1.0),
        stop=tenacity.stop_after_attempt(_MAX_SWAPS),
        reraise=True,
    )
    try:
        status, history = retrying(_move_channel, store, manifest, channel, nonce)
    except _ChannelMovedError:
        raise ConflictError(
            f"{store.uri(channel_path(manifest.model, channel))} was moved by others each of the {_MAX_SWAPS} times "
            "this push tried to. Nothing is lost: push again, and let fewer pipelines publish to one channel at a time."
        ) from None
    if status == "pushed":
        _verify_written(store, manifest, channel, nonce)
    return _receipt_of(store, manifest, status, history)


def current_statement(store: Store, model_name: str, channel: str) -> ChannelStatement | None:
    """What `channel` names, without looking whether it is there; None if nothing was published to it.

    Raises:
        DestinationUnavailableError: The store cannot be read.
        ConflictError: The statement is damaged, or another channel's.
    """
    statement, _ = _read_channel(store, check_model_name(model_name), check_channel(channel))
    return statement


def resolve(store: Store, model_name: str, channel: str) -> Release:
    """Reads what `channel` names and verifies every step on the way, as a device does.

    Raises:
        NothingPublishedError: Nothing was published there.
        DestinationUnavailableError: The store cannot be read.
        ConflictError: Channel or manifest are damaged, or contradict each other.
        ModelFileError: The bytes are missing or not those of the manifest.
    """
    statement = current_statement(store, model_name, channel)
    if statement is None:
        raise NothingPublishedError(
            f"Nothing was published to {store.uri(channel_path(model_name, channel))}. "
            "Check model name and channel, or push a model there first."
        )
    manifest = _read_manifest(store, model_name, statement.release_id)
    if manifest.file.sha256 != statement.sha256:
        raise ConflictError(
            f"{store.uri(channel_path(model_name, channel))} says sha256 {statement.sha256}, its release "
            f"{statement.release_id} says {manifest.file.sha256}. Push the release again."
        )
    return Release(statement.release_id, manifest, _read_blob(store, manifest), statement.version)


def immutable_conflict(uri: str) -> ConflictError:
    """The error for an immutable object whose bytes are not those its name stands for."""
    return ConflictError(
        f"{uri} exists with other bytes than its name stands for: it was damaged, or something else wrote it. "
        "Nothing was overwritten. Move it away and push again."
    )


class _ChannelMovedError(Exception):
    """Somebody else moved the channel between reading and writing it."""


def _immutable_objects(manifest: ReleaseManifest, model: bytes) -> tuple[tuple[str, bytes], ...]:
    """Paths and bytes of the blob, then of the manifest that refers to it."""
    if (sha256_of(model), len(model)) != (manifest.file.sha256, manifest.file.size_bytes):
        raise ModelFileError(
            f"The model has sha256 {sha256_of(model)} and {len(model)} bytes, its manifest says {manifest.file.sha256} "
            f"and {manifest.file.size_bytes}. Nothing was written; make the manifest from the bytes that are pushed."
        )
    envelope = Envelope.seal(MANIFEST_TYPE, manifest.to_json())
    return (
        (blob_path(manifest.model, manifest.file.sha256), model),
        (release_path(manifest.model, release_id_of(manifest)), envelope.to_json()),
    )


def _move_channel(
    store: Store, manifest: ReleaseManifest, channel: str, nonce: str
) -> tuple[Literal["pushed", "unchanged"], tuple[ChannelEntry, ...]]:
    """One attempt; returns the channel's history from the wanted release backwards."""
    current, generation = _read_channel(store, manifest.model, channel)
    history = current.history if current else ()
    for position, entry in enumerate(history):
        # A write can be committed and yet be answered with an error. The nonce tells that it was ours, also when a
        # rival has published on top of it since; to write again would put the older bytes over the rival's.
        if entry.nonce == nonce:
            return "pushed", history[position:]
    release_id = release_id_of(manifest)
    if history and history[0].release_id == release_id:
        return "unchanged", history
    statement = ChannelStatement(
        model=manifest.model,
        channel=channel,
        version=history[0].version + 1 if history else 1,
        release_id=release_id,
        sha256=manifest.file.sha256,
        nonce=nonce,
        previous=history[:PREVIOUS_KEPT],
    )
    sealed = Envelope.seal(CHANNEL_TYPE, statement.to_json())
    if not store.compare_and_swap(channel_path(manifest.model, channel), sealed.to_json(), generation):
        raise _ChannelMovedError
    return "pushed", statement.history


def _verify_written(store: Store, manifest: ReleaseManifest, channel: str, nonce: str) -> None:
    """Makes sure that a reader gets what was written."""
    current, _ = _read_channel(store, manifest.model, channel)
    if current is None or all(entry.nonce != nonce for entry in current.history):
        raise ConflictError(
            f"{store.uri(channel_path(manifest.model, channel))} does not show what was just written to it: something "
            "else than tfx-mobile writes there, or the store loses writes. Find out which before you push again."
        )
    _read_blob(store, _read_manifest(store, manifest.model, release_id_of(manifest)))


def _serves(store: Store, current: ChannelStatement, sha256: str) -> bool:
    """Whether devices on the channel get these bytes; not if what it names was lost since."""
    if current.sha256 != sha256:
        return False
    try:
        _read_blob(store, _read_manifest(store, current.model, current.release_id))
    except (ConflictError, ModelFileError):
        return False
    return True


def _receipt_of(
    store: Store, manifest: ReleaseManifest, status: Literal["pushed", "unchanged"], history: tuple[ChannelEntry, ...]
) -> PushReceipt:
    """The receipt of a push that found or left the channel's newest entry, `history[0]`, behind."""
    return _receipt(
        store,
        manifest,
        status,
        history[0].release_id,
        channel_version=history[0].version,
        previous_release_id=history[1].release_id if len(history) > 1 else None,
    )


def _receipt(
    store: Store,
    manifest: ReleaseManifest,
    status: Literal["pushed", "unchanged", "dry_run"],
    release_id: str,
    channel_version: int | None,
    previous_release_id: str | None,
) -> PushReceipt:
    return PushReceipt(
        status=status,
        destination=store.address,
        release_id=release_id,
        previous_release_id=previous_release_id,
        channel_version=channel_version,
        manifest_uri=store.uri(release_path(manifest.model, release_id)),
        model_uri=store.uri(manifest.blob),
    )


def _read_channel(store: Store, model_name: str, channel: str) -> tuple[ChannelStatement | None, str | None]:
    """The channel's statement and generation; None for both where nothing was published yet."""
    path = channel_path(model_name, channel)
    stored = store.read(path)
    if stored is None:
        return None, None
    try:
        statement = ChannelStatement.from_json(Envelope.from_json(stored.data).open(CHANNEL_TYPE))
    except TFXMobileError as error:
        raise ConflictError(f"{store.uri(path)} cannot be read. {error}") from error
    if (statement.model, statement.channel) != (model_name, channel):
        raise ConflictError(
            f"{store.uri(path)} is the statement of model {statement.model!r}, channel {statement.channel!r}: it was "
            "copied there. Restore the channel's own statement, or move it away and push again."
        )
    return statement, stored.generation


def _read_manifest(store: Store, model_name: str, release_id: str) -> ReleaseManifest:
    uri = store.uri(release_path(model_name, release_id))
    stored = store.read(release_path(model_name, release_id))
    if stored is None:
        raise ConflictError(f"{uri} is missing, though a channel names it. Push the release again.")
    try:
        payload = Envelope.from_json(stored.data).open(MANIFEST_TYPE)
        if sha256_of(payload) != release_id:
            raise immutable_conflict(uri)
        manifest = ReleaseManifest.from_json(payload)
    except ConflictError:
        raise
    except TFXMobileError as error:
        raise ConflictError(f"{uri} cannot be read. {error}") from error
    if manifest.model != model_name or manifest.blob != blob_path(model_name, manifest.file.sha256):
        raise ConflictError(f"{uri} is a release of model {manifest.model!r}, not of {model_name!r}. Push it again.")
    return manifest


def _read_blob(store: Store, manifest: ReleaseManifest) -> bytes:
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
