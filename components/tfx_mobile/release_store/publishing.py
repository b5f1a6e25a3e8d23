"""Making a model the release that a channel names, at one place.

Blob, manifest and channel are written in this order, and each step either happens as a whole or not at all. So a push
that dies leaves at most immutable objects that nothing refers to, and the next one picks them up: the store itself is
the journal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tfx_mobile.errors import ConflictError, ModelFileError, ReleaseRefusedError
from tfx_mobile.records import ChannelEntry, ChannelStatement, PushReceipt, ReleaseManifest, ReleaseOrder, sha256_of
from tfx_mobile.release_store.channel import Draft, move_channel
from tfx_mobile.release_store.names import blob_path, channel_path, check_channel, release_id_of, release_path
from tfx_mobile.release_store.new_channel import check_not_pruned, settle
from tfx_mobile.release_store.reading import MANIFEST_TYPE, read_channel, read_manifest
from tfx_mobile.release_store.signing import NO_KEYS, Keyring
from tfx_mobile.release_store.store import Store, immutable_conflict

Standing = Literal["pushed", "unchanged", "superseded"]


@dataclass(frozen=True)
class Push:
    """What is to be published.

    Attributes:
        manifest: What the release is; `signing_key_id` is that of the keyring.
        model: The bytes of the `.tflite` file.
        channel: Name of the channel that shall name it.
        keyring: Who signs, and whom to trust.

    Raises:
        ModelFileError: The manifest is not about the bytes.
        ValueError: The channel's name is not valid.
    """

    manifest: ReleaseManifest
    model: bytes
    channel: str
    keyring: Keyring = NO_KEYS

    def __post_init__(self) -> None:
        check_channel(self.channel)
        file = self.manifest.file
        if (sha256_of(self.model), len(self.model)) != (file.sha256, file.size_bytes):
            raise ModelFileError(
                f"The model has sha256 {sha256_of(self.model)} and {len(self.model)} bytes, its manifest says "
                f"{file.sha256} and {file.size_bytes}. Nothing was written; make the manifest from the bytes that are "
                "pushed."
            )
        signed = self.manifest.model_copy(update={"signing_key_id": self.keyring.signing_key_id})
        object.__setattr__(self, "manifest", signed)

    @property
    def release_id(self) -> str:
        """Id of the release."""
        return release_id_of(self.manifest)

    @property
    def sha256(self) -> str:
        """SHA-256 of the bytes."""
        return self.manifest.file.sha256

    @property
    def order(self) -> ReleaseOrder | None:
        """The place in time of what it was made of."""
        return self.manifest.lineage.order if self.manifest.lineage else None


def plan(store: Store, push: Push) -> PushReceipt:
    """Makes the checks of `publish` and writes nothing.

    `details["would_be"]` of the receipt is what a push would report.

    Raises:
        ConflictError: The store holds something else under one of the names, or a damaged channel statement.
        ReleaseRefusedError: These bytes were rolled back.
        UntrustedReleaseError: No trusted key signed what is there.
        SigningError: The push is unsigned, and what is there is not.
        DestinationUnavailableError: The store cannot be read or written.
    """
    name = push.manifest.model
    current, _ = read_channel(store, name, push.channel, push.keyring)
    standing = _standing(store, current, push)
    if current is None:
        check_not_pruned(store, name, push.channel, push.sha256)
    if standing == "pushed":
        store.check_writable(channel_path(name, push.channel))
        if not store.holds(blob_path(name, push.sha256), push.model):
            store.check_writable(blob_path(name, push.sha256))
        if not _holds_manifest(store, push):
            store.check_writable(release_path(name, push.release_id))
    return _receipt(store, push, "dry_run", current.history if current else ()).model_copy(
        update={"release_id": push.release_id, "details": {"would_be": standing}}
    )


def stage(store: Store, push: Push) -> None:
    """Makes sure that bytes and manifest are there, and are what they should be; no device sees them yet.

    Raises:
        ConflictError: The store holds something else under one of the names.
        SigningError: The manifest cannot be signed.
        DestinationUnavailableError: The store cannot be read or written.
    """
    blob = blob_path(push.manifest.model, push.sha256)
    store.put_if_absent(blob, push.model)
    if not store.holds(blob, push.model):
        raise ConflictError(
            f"{store.uri(blob)} was written and is not there: something deletes from this store, or it loses writes. "
            "Find out which before you push again."
        )
    if _holds_manifest(store, push):
        return
    sealed = push.keyring.seal(MANIFEST_TYPE, push.manifest.to_json())
    try:
        store.put_if_absent(release_path(push.manifest.model, push.release_id), sealed.to_json())
    except ConflictError:
        # A rival may have signed the same manifest meanwhile, and no two signatures are alike.
        if not _holds_manifest(store, push):
            raise


def publish(store: Store, push: Push) -> PushReceipt:
    """Makes the model the release that the channel names.

    Safe to repeat and to run at the same time as others: bytes that the channel serves already change nothing, whatever
    has been measured on them since, and each different release gets a version of its own.

    Raises:
        ConflictError: The store holds something else under one of the names, these bytes are being pruned, or others
            moved the channel every time this push tried to.
        ReleaseRefusedError: These bytes were rolled back.
        UntrustedReleaseError: No trusted key signed what is there.
        SigningError: The release cannot be signed.
        DestinationUnavailableError: The store cannot be read or written.
    """
    name = push.manifest.model
    standing: Standing = "pushed"
    is_new = False

    def change(current: ChannelStatement | None) -> Draft | None:
        nonlocal standing, is_new
        is_new = current is None
        standing = _standing(store, current, push)
        if standing != "pushed":
            return None
        if is_new:
            check_not_pruned(store, name, push.channel, push.sha256)
        stage(store, push)
        known = current.order if current else None
        order = push.order.newest_with(known) if push.order else known
        return Draft("publish", push.release_id, push.sha256, {"order": order})

    move = move_channel(store, name, push.channel, change, push.keyring)
    if move.changed:
        standing = "pushed"
        if is_new:
            settle(store, name, push.channel, push.sha256, lambda: stage(store, push))
    return _receipt(store, push, standing, move.history)


def _standing(store: Store, current: ChannelStatement | None, push: Push) -> Standing:
    """What a push comes to on top of what the channel says."""
    standing: Standing = _compare(store, current, push) if current else "pushed"
    if standing == "pushed":
        uri = store.uri(channel_path(push.manifest.model, push.channel))
        push.keyring.check_may_write(current.signing_key_id if current else None, uri)
    return standing


def _compare(store: Store, current: ChannelStatement, push: Push) -> Standing:
    name = push.manifest.model
    if push.sha256 in current.refused:
        raise ReleaseRefusedError(
            f"sha256 {push.sha256} was rolled back on {store.uri(channel_path(name, push.channel))} and is not "
            f"published there again. If it is good after all: tfx-mobile unpin {name} {push.sha256} --channel "
            f"{push.channel}."
        )
    if push.sha256 in current.pruning:
        raise ConflictError(
            f"{store.uri(blob_path(name, push.sha256))} is being pruned. Wait until that is over, or run tfx-mobile "
            "prune again if it died, then push again."
        )
    if current.sha256 == push.sha256:
        return "unchanged" if _serves(store, current, push) else "pushed"
    if push.order and current.order and push.order.is_older_than(current.order):
        return "superseded"
    return "pushed"


def _serves(store: Store, current: ChannelStatement, push: Push) -> bool:
    """Whether devices on the channel get these bytes under this key; not if what it names was lost since.

    Nor if the release says that nobody blessed it, and somebody has since.
    """
    if current.signing_key_id != push.keyring.signing_key_id:
        return False
    try:
        manifest = read_manifest(store, current.model, current.release_id, push.keyring)
        return (
            manifest.signing_key_id == push.keyring.signing_key_id
            and manifest.blessed >= push.manifest.blessed
            and store.holds(manifest.blob, push.model)
        )
    except ConflictError:
        return False


def _holds_manifest(store: Store, push: Push) -> bool:
    """Whether the manifest is there, signed by our key if we have one.

    Raises:
        ConflictError: Something else is there.
    """
    path = release_path(push.manifest.model, push.release_id)
    existing = store.read(path)
    if existing is None:
        return False
    if not push.keyring.vouches_for(existing.data, MANIFEST_TYPE, push.manifest.to_json()):
        raise immutable_conflict(store.uri(path))
    return True


def _receipt(
    store: Store,
    push: Push,
    status: Literal["pushed", "unchanged", "superseded", "dry_run"],
    history: tuple[ChannelEntry, ...],
) -> PushReceipt:
    """The receipt of a push that found or left the channel's newest entry, `history[0]`, behind."""
    is_current = bool(history) and status in ("pushed", "unchanged")
    release_id = history[0].release_id if is_current else push.release_id
    before = history[1:] if is_current else history
    return PushReceipt(
        status=status,
        destination=store.address,
        blessed=push.manifest.blessed,
        release_id=release_id,
        previous_release_id=before[0].release_id if before else None,
        channel_version=history[0].version if history else None,
        manifest_uri=store.uri(release_path(push.manifest.model, release_id)),
        model_uri=store.uri(push.manifest.blob),
    )
