"""What is never pruned, and what may be published again."""

from __future__ import annotations

from dataclasses import dataclass

from tfx_mobile.errors import ConflictError, NoSuchReleaseError
from tfx_mobile.records import ChannelReceipt, ChannelStatement
from tfx_mobile.release_store.channel import Draft
from tfx_mobile.release_store.delivery import OpenDestination
from tfx_mobile.release_store.operations.acting import Act, Decision
from tfx_mobile.release_store.operations.finding import (
    MIN_PREFIX,
    check_prefix,
    find_entry,
    is_version,
    manifests_of,
    published,
)
from tfx_mobile.release_store.reading import read_manifest
from tfx_mobile.release_store.signing import NO_KEYS, Keyring


def pin(
    opened: OpenDestination,
    model_name: str,
    channel: str,
    release: str | None = None,
    *,
    keyring: Keyring = NO_KEYS,
    dry_run: bool = False,
) -> ChannelReceipt:
    """Keeps a release from being pruned, whatever else the channel names.

    Args:
        opened: Where.
        model_name: The model's name.
        channel: The channel that remembers it.
        release: Version, or the first characters of release id or sha256, of an entry in the channel's history, or of
            the id of any other release of the model; None: the live one.
        keyring: Who signs, and whom to trust.
        dry_run: Make every check and write nothing.

    Raises:
        NothingPublishedError: The channel does not exist.
        NoSuchReleaseError: There is no such release, or several.
        ConflictError: Its manifest is missing or damaged, or it is being pruned.
        ModelFileError: Its bytes are missing or altered.
        PushError: See `Act.carry_out`.
    """
    act = Act("pin", opened, model_name, channel, keyring)

    def decide(current: ChannelStatement | None) -> Decision:
        statement = published(current, act.store, model_name, channel)
        release_id = statement.release_id if release is None else _find_release(act, statement, release)
        manifest = read_manifest(act.store, model_name, release_id, keyring)
        sha256 = manifest.file.sha256
        if release_id in statement.pinned:
            return Decision(None, sha256, release_id)
        if sha256 in statement.pruning:
            raise ConflictError(f"Release {release_id} is being pruned and cannot be pinned any more.")
        act.verify(release_id, sha256)
        pinned = (*statement.pinned, release_id)
        return Decision(Draft("pin", statement.release_id, statement.sha256, {"pinned": pinned}), sha256, release_id)

    return act.carry_out(decide, dry_run=dry_run)


def unpin(
    opened: OpenDestination,
    model_name: str,
    channel: str,
    release: str,
    *,
    keyring: Keyring = NO_KEYS,
    dry_run: bool = False,
) -> ChannelReceipt:
    """Takes back a pin, and the refusal of bytes that were rolled back.

    Args:
        opened: Where.
        model_name: The model's name.
        channel: The channel that remembers it.
        release: Version, or the first characters of release id or sha256, of what is pinned, refused or in the
            channel's history.
        keyring: Who signs, and whom to trust.
        dry_run: Make every check and write nothing.

    Raises:
        NothingPublishedError: The channel does not exist.
        NoSuchReleaseError: Nothing, or more than one thing, is meant.
        PushError: See `Act.carry_out`.
    """
    act = Act("unpin", opened, model_name, channel, keyring)

    def decide(current: ChannelStatement | None) -> Decision:
        statement = published(current, act.store, model_name, channel)
        meant = _find_pinned_or_refused(act, statement, release)
        pinned = tuple(one for one in statement.pinned if one not in meant.release_ids)
        refused = tuple(one for one in statement.refused if one != meant.sha256)
        release_id = meant.release_ids[0] if meant.release_ids else None
        if (pinned, refused) == (statement.pinned, statement.refused):
            return Decision(None, meant.sha256, release_id)
        changes = {"pinned": pinned, "refused": refused}
        return Decision(Draft("unpin", statement.release_id, statement.sha256, changes), meant.sha256, release_id)

    return act.carry_out(decide, dry_run=dry_run)


@dataclass(frozen=True)
class _Meant:
    """What is to be unpinned.

    Attributes:
        sha256: Whose refusal ends; None if the bytes of a pinned release cannot be told.
        release_ids: Whose pins end.
    """

    sha256: str | None
    release_ids: tuple[str, ...] = ()


def _find_pinned_or_refused(act: Act, statement: ChannelStatement, text: str) -> _Meant:
    """What `text` means: one release, or the bytes of any number of releases.

    Raises:
        NoSuchReleaseError: Nothing, or more than one thing, is meant.
    """
    if is_version(text):
        entry = find_entry(statement.history, text, act.uri)
        return _Meant(entry.sha256, (entry.release_id,))
    check_prefix(text)
    known = {entry.release_id: entry.sha256 for entry in statement.history}
    ids = sorted({one for one in (*known, *statement.pinned) if one.startswith(text)})
    hashes = sorted({one for one in (*known.values(), *statement.refused) if one.startswith(text)})
    if not ids and not hashes:
        ids = [one for one in manifests_of(act.store, act.model_name) if one.startswith(text)]
    if len(ids) + len(hashes) > 1:
        raise NoSuchReleaseError(
            f"{text!r} means several things on {act.uri}: {', '.join((*ids, *hashes))}. Give more characters."
        )
    sha256_of_pin = {one: known.get(one) or _sha256_of(act, one) for one in (*ids, *statement.pinned)}
    if ids:
        return _Meant(sha256_of_pin[ids[0]], (ids[0],))
    if hashes:
        return _Meant(hashes[0], tuple(one for one in statement.pinned if sha256_of_pin[one] == hashes[0]))
    if len(text) == len(statement.sha256):
        return _Meant(text)
    raise NoSuchReleaseError(
        f"{text!r} is nothing that {act.uri} knows. Pinned: {', '.join(statement.pinned) or 'nothing'}; refused: "
        f"{', '.join(statement.refused) or 'nothing'}."
    )


def _sha256_of(act: Act, release_id: str) -> str | None:
    """The bytes of a release; None if its manifest was lost."""
    try:
        return read_manifest(act.store, act.model_name, release_id, act.keyring).file.sha256
    except ConflictError:
        return None


def _find_release(act: Act, statement: ChannelStatement, text: str) -> str:
    """A release of the channel's history, or else of the store."""
    try:
        return find_entry(statement.history, text, act.uri).release_id
    except NoSuchReleaseError:
        stored = [release_id for release_id in manifests_of(act.store, act.model_name) if release_id.startswith(text)]
        if len(text) >= MIN_PREFIX and len(stored) == 1:
            return stored[0]
        raise
