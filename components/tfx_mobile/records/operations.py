"""What the command line says of releases, and what its acts on channels did."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tfx_mobile.records.base import SHA256_PATTERN, Record
from tfx_mobile.records.releases import ChannelAction, EvaluationSummary


class ChannelSummary(Record):
    """One channel of a store.

    Attributes:
        model: The model's name.
        channel: The channel's name.
        version: The channel's number.
        release_id: What it names.
        sha256: Of the bytes.
        action: The act that wrote the channel last.
        num_previous: How many entries it remembers.
        num_pinned: Releases that are never pruned.
        num_refused: Hashes that are not published here.
        problem: Why nothing else is known: the statement is damaged, or not signed by a trusted key.
    """

    model: str
    channel: str
    version: int | None = None
    release_id: str | None = None
    sha256: str | None = None
    action: ChannelAction | None = None
    num_previous: int = 0
    num_pinned: int = 0
    num_refused: int = 0
    problem: str | None = None


class ModelSummary(Record):
    """One model of a store.

    Attributes:
        model: The model's name.
        channels: Its channels, by name.
        num_blobs: Files it has in the store, named or not.
        blob_bytes: Their size together.
    """

    model: str
    channels: tuple[ChannelSummary, ...] = ()
    num_blobs: int = 0
    blob_bytes: int = 0


class StoreOverview(Record):
    """Every model of a store, by name.

    Attributes:
        destination: The store's address.
        models: Its models.
    """

    destination: str
    models: tuple[ModelSummary, ...] = ()


class ReleaseEntry(Record):
    """What a channel named at one version, and what is left of it.

    Attributes:
        version: The channel's number then.
        action: The act that made the channel name it.
        release_id: The release.
        sha256: Of its bytes.
        variant: The blessed variant's name; None if the manifest is not there or not readable.
        size_bytes: Of the file; None likewise.
        evaluation: What the evaluation measured; None likewise, or if nothing was evaluated.
        signing_key_id: Which key signs the release; None without one.
        has_manifest: Whether the manifest is there.
        has_blob: Whether the file is there; its hash is not computed.
        live: Whether the channel names these bytes now.
        pinned: Whether the release is never pruned.
        refused: Whether these bytes are not published here until they are unpinned.
        pruning: Whether the bytes are about to be deleted.
        problem: What is wrong with manifest or file, as far as can be told without reading the file.
    """

    version: int
    action: ChannelAction
    release_id: str
    sha256: str
    variant: str | None = None
    size_bytes: int | None = None
    evaluation: EvaluationSummary | None = None
    signing_key_id: str | None = None
    has_manifest: bool
    has_blob: bool
    live: bool
    pinned: bool
    refused: bool
    pruning: bool
    problem: str | None = None


class ChannelReleases(Record):
    """A channel and its history.

    Attributes:
        destination: The destination's address.
        model: The model's name.
        channel: The channel's name.
        version: The channel's number.
        signing_key_id: Which key signs the statement; None without one.
        following: Whether the service that follows the channel serves what it names; None if there is no such service.
        entries: Newest first.
        pinned: Releases that are never pruned.
        refused: Hashes that are not published here until they are unpinned.
        pruning: Hashes that are about to be deleted; left over if no prune is running.
    """

    destination: str
    model: str
    channel: str
    version: int
    signing_key_id: str | None = None
    following: bool | None = None
    entries: tuple[ReleaseEntry, ...]
    pinned: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    pruning: tuple[str, ...] = ()


class ChannelReceipt(Record):
    """What a rollback, promotion, pin or unpin did to a channel at one destination.

    Attributes:
        action: The act.
        status: `done`: the channel, or the service that follows it, was changed. `unchanged`: there was nothing to do.
            `superseded`: a promotion of an older run's release than the channel has had; nothing was written.
            `dry_run`: everything was checked and nothing was written; `would_be` says what the act would report.
        destination: The destination's address.
        model: The model's name.
        channel: The channel's name.
        channel_version: The channel's number; None if it does not exist yet.
        release_id: The release that the act is about: gone back to, promoted, pinned; None if an unpin is about bytes
            of which no release is known any more.
        sha256: Of its bytes; None if a pinned release was lost.
        previous_release_id: What the channel named before; None if it named nothing.
        previous_sha256: Of those bytes.
        would_be: For a dry run, the status.
        details: What else the destination says of it, such as the ids of a model in Firebase ML.
    """

    action: ChannelAction
    status: Literal["done", "unchanged", "superseded", "dry_run"]
    destination: str
    model: str
    channel: str
    channel_version: int | None = None
    release_id: str | None = Field(default=None, pattern=SHA256_PATTERN)
    sha256: str | None = Field(default=None, pattern=SHA256_PATTERN)
    previous_release_id: str | None = None
    previous_sha256: str | None = None
    would_be: Literal["done", "unchanged", "superseded"] | None = None
    details: dict[str, str] = Field(default_factory=dict)


class PrunedRelease(Record):
    """One hash and what went with it.

    Attributes:
        sha256: Of the bytes.
        release_ids: Releases of these bytes whose manifests were deleted.
        size_bytes: Bytes that were freed, manifests included.
        deleted: Whether it is gone; False if somebody wrote it anew while it was being deleted, and for a dry run.
    """

    sha256: str
    release_ids: tuple[str, ...] = ()
    size_bytes: int
    deleted: bool


class PruneReceipt(Record):
    """What a prune did to one model at one destination.

    Attributes:
        status: `done`: something was deleted, or what a prune that died had begun was finished. `unchanged`: there was
            nothing to do. `dry_run`: nothing was written or deleted; `pruned` says what would be.
        destination: The store's address.
        model: The model's name.
        channels: The channels that were looked at.
        num_kept: Hashes that stay.
        num_young: How many of these stay only because they were written within the grace period.
        pruned: What was, or would be, deleted.
        unreadable: Releases whose manifests cannot be read, so that nobody can use them; they stay, to be looked at.
    """

    status: Literal["done", "unchanged", "dry_run"]
    destination: str
    model: str
    channels: tuple[str, ...]
    num_kept: int
    num_young: int
    pruned: tuple[PrunedRelease, ...] = ()
    unreadable: tuple[str, ...] = ()
