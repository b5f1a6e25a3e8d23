"""What a store holds and what its channels name. Nothing is written, and no model is downloaded."""

from __future__ import annotations

from tfx_mobile.errors import ConflictError, UntrustedReleaseError
from tfx_mobile.records import (
    ChannelReleases,
    ChannelSummary,
    ModelSummary,
    ReleaseEntry,
    ReleaseManifest,
    StoreOverview,
)
from tfx_mobile.release_store.delivery import OpenDestination
from tfx_mobile.release_store.names import check_channel, check_model_name
from tfx_mobile.release_store.new_channel import channels_of
from tfx_mobile.release_store.operations.finding import blobs_of, manifests_of, published
from tfx_mobile.release_store.reading import read_channel, read_manifest
from tfx_mobile.release_store.signing import NO_KEYS, Keyring


def list_models(opened: OpenDestination, keyring: Keyring = NO_KEYS) -> StoreOverview:
    """Every model of a store with its channels. A channel that cannot be read is listed with the reason.

    Raises:
        DestinationUnavailableError: The store cannot be read.
    """
    store = opened.store
    channels: dict[str, list[ChannelSummary]] = {}
    for model_name, channel in channels_of(store):
        channels.setdefault(model_name, []).append(_summary(opened, model_name, channel, keyring))
    models = []
    for model_name, summaries in sorted(channels.items()):
        blobs = blobs_of(store, model_name)
        models.append(
            ModelSummary(
                model=model_name,
                channels=tuple(sorted(summaries, key=lambda summary: summary.channel)),
                num_blobs=len(blobs),
                blob_bytes=sum(info.size_bytes for info in blobs.values()),
            )
        )
    return StoreOverview(destination=opened.address, models=tuple(models))


def list_releases(
    opened: OpenDestination, model_name: str, channel: str, keyring: Keyring = NO_KEYS
) -> ChannelReleases:
    """A channel's history, newest first, with what is left of each release.

    Raises:
        NothingPublishedError: The channel does not exist.
        ConflictError: Its statement is damaged.
        UntrustedReleaseError: No trusted key signed it.
        DestinationUnavailableError: The store cannot be read.
    """
    store = opened.store
    statement, _ = read_channel(store, check_model_name(model_name), check_channel(channel), keyring)
    statement = published(statement, store, model_name, channel)
    blobs, stored_manifests = blobs_of(store, model_name), manifests_of(store, model_name)
    manifests: dict[str, ReleaseManifest] = {}
    problems: dict[str, str] = {}
    for release_id in {entry.release_id for entry in statement.history} & stored_manifests.keys():
        try:
            manifests[release_id] = read_manifest(store, model_name, release_id, keyring)
        except (ConflictError, UntrustedReleaseError) as error:
            problems[release_id] = str(error)
    entries = []
    for entry in statement.history:
        manifest, blob = manifests.get(entry.release_id), blobs.get(entry.sha256)
        problem = problems.get(entry.release_id)
        if manifest and manifest.file.sha256 != entry.sha256:
            problem = f"The manifest is of other bytes, with sha256 {manifest.file.sha256}."
        elif manifest and blob and blob.size_bytes != manifest.file.size_bytes:
            problem = f"The file has {blob.size_bytes} bytes; the manifest says {manifest.file.size_bytes}."
        entries.append(
            ReleaseEntry(
                version=entry.version,
                action=entry.action,
                release_id=entry.release_id,
                sha256=entry.sha256,
                variant=manifest.variant if manifest else None,
                size_bytes=manifest.file.size_bytes if manifest else None,
                evaluation=manifest.evaluation if manifest else None,
                signing_key_id=manifest.signing_key_id if manifest else None,
                has_manifest=entry.release_id in stored_manifests,
                has_blob=blob is not None,
                live=entry.sha256 == statement.sha256,
                pinned=entry.release_id in statement.pinned,
                refused=entry.sha256 in statement.refused,
                pruning=entry.sha256 in statement.pruning,
                problem=problem,
            )
        )
    return ChannelReleases(
        destination=opened.address,
        model=model_name,
        channel=channel,
        version=statement.version,
        signing_key_id=statement.signing_key_id,
        following=opened.follower.is_following(model_name, channel) if opened.follower else None,
        entries=tuple(entries),
        pinned=statement.pinned,
        refused=statement.refused,
        pruning=statement.pruning,
    )


def _summary(opened: OpenDestination, model_name: str, channel: str, keyring: Keyring) -> ChannelSummary:
    try:
        statement, _ = read_channel(opened.store, model_name, channel, keyring)
    except (ConflictError, UntrustedReleaseError) as error:
        return ChannelSummary(model=model_name, channel=channel, problem=str(error))
    if statement is None:
        return ChannelSummary(model=model_name, channel=channel, problem="The channel was deleted just now.")
    return ChannelSummary(
        model=model_name,
        channel=channel,
        version=statement.version,
        release_id=statement.release_id,
        sha256=statement.sha256,
        action=statement.action,
        num_previous=len(statement.previous),
        num_pinned=len(statement.pinned),
        num_refused=len(statement.refused),
    )
