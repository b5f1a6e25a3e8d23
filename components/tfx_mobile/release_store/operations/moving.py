"""The channel names another release that is there already. Nothing is uploaded."""

from __future__ import annotations

from tfx_mobile.errors import ConflictError, NoSuchReleaseError
from tfx_mobile.records import ChannelEntry, ChannelReceipt, ChannelStatement, sha256_of
from tfx_mobile.release_store.channel import HOUSEKEEPING, Draft
from tfx_mobile.release_store.delivery import OpenDestination
from tfx_mobile.release_store.names import channel_path, check_channel, release_path
from tfx_mobile.release_store.new_channel import check_not_pruned, settle
from tfx_mobile.release_store.operations.acting import Act, Decision, Verified
from tfx_mobile.release_store.operations.finding import find_entry, published
from tfx_mobile.release_store.reading import read_channel, read_manifest
from tfx_mobile.release_store.signing import NO_KEYS, Keyring


def rollback(
    opened: OpenDestination,
    model_name: str,
    channel: str,
    to: str | None = None,
    *,
    live: str | None = None,
    keyring: Keyring = NO_KEYS,
    dry_run: bool = False,
) -> ChannelReceipt:
    """Makes the channel name an earlier release again, and refuses the bytes that were live until they are unpinned.

    The channel's version increases, so that devices accept the change. Safe to repeat: a channel that was rolled back
    already is not rolled back further unless `to` says so, it is only made sure that its follower follows.

    Args:
        opened: Where.
        model_name: The model's name.
        channel: The channel's name.
        to: Version, or the first characters of release id or sha256, of an entry in the channel's history. None: the
            newest earlier release with other bytes that is neither refused nor being pruned.
        live: SHA-256 that must be live; None: what is live when the act begins. If something else is published
            meanwhile, nobody has judged it, and the act stops.
        keyring: Who signs, and whom to trust.
        dry_run: Make every check and write nothing.

    Raises:
        NothingPublishedError: The channel does not exist.
        NoSuchReleaseError: There is no such release, or none to go back to.
        ReleaseRefusedError: It was rolled back itself.
        ConflictError: Its manifest is missing or damaged, it is being pruned, or something else was published
            meanwhile.
        ModelFileError: Its bytes are missing or altered.
        PushError: See `Act.carry_out`.
    """
    act = Act("rollback", opened, model_name, channel, keyring)
    expected = live

    def decide(current: ChannelStatement | None) -> Decision:
        nonlocal expected
        statement = published(current, act.store, model_name, channel)
        target = _target(act, statement, to)
        release = act.verify(target.release_id, target.sha256)
        act.check_follower(len(release.model))
        if target.sha256 == statement.sha256:
            return Decision(None, target.sha256, target.release_id)
        if expected not in (None, statement.sha256):
            raise ConflictError(
                f"{act.uri} names sha256 {statement.sha256} now, and named {expected} when the rollback was decided: "
                "something was published meanwhile. Nothing was changed; look at it, then roll back again if need be."
            )
        expected = statement.sha256
        act.check_may_name(statement, target.sha256)
        refused = (*statement.refused, statement.sha256)
        draft = Draft("rollback", target.release_id, target.sha256, {"refused": refused})
        return Decision(draft, target.sha256, target.release_id)

    return act.carry_out(decide, dry_run=dry_run)


def promote(
    opened: OpenDestination,
    model_name: str,
    from_channel: str,
    to_channel: str,
    *,
    release: str | None = None,
    keyring: Keyring = NO_KEYS,
    dry_run: bool = False,
) -> ChannelReceipt:
    """Makes one channel name the release that another one names, for example canary and production.

    Safe to repeat: bytes that the channel serves already change nothing.

    Args:
        opened: Where.
        model_name: The model's name.
        from_channel: The channel whose release it is.
        to_channel: The channel that shall name it; it need not exist.
        release: SHA-256 that `from_channel` must name; None: whatever it names.
        keyring: Who signs, and whom to trust.
        dry_run: Make every check and write nothing.

    Raises:
        ValueError: Both channels are the same.
        NothingPublishedError: `from_channel` does not exist.
        ReleaseRefusedError: The release was rolled back on `to_channel`.
        ConflictError: Its manifest is missing or damaged, it is being pruned, or `from_channel` names something else.
        ModelFileError: Its bytes are missing or altered.
        PushError: See `Act.carry_out`.
    """
    if check_channel(from_channel) == to_channel:
        raise ValueError(f"Cannot promote from channel {from_channel!r} to itself; give two channels.")
    act = Act("promote", opened, model_name, to_channel, keyring)
    at_hand: list[tuple[str, bytes]] = []

    def decide(current: ChannelStatement | None) -> Decision:
        source = _source(act, from_channel, release)
        promoted = act.verify(source.release_id, source.sha256)
        act.check_follower(len(promoted.model))
        order = promoted.manifest.lineage.order if promoted.manifest.lineage else None
        act.check_may_sign(current or source)
        at_hand.clear()
        if current is None:
            check_not_pruned(act.store, model_name, to_channel, source.sha256)
            path = release_path(model_name, source.release_id)
            at_hand.append((promoted.manifest.blob, promoted.model))
            at_hand.extend((path, stored.data) for stored in (act.store.read(path),) if stored)
        else:
            act.check_may_name(current, source.sha256)
            if current.sha256 == source.sha256:
                if _serves_as_well(act, current, promoted):
                    return Decision(None, source.sha256, source.release_id)
            elif order and current.order and order.is_older_than(current.order):
                return Decision(None, source.sha256, source.release_id, otherwise="superseded")
        known = current.order if current else None
        draft = Draft(
            "promote", source.release_id, source.sha256, {"order": order.newest_with(known) if order else known}
        )
        return Decision(draft, source.sha256, source.release_id)

    def restore() -> None:
        for path, data in at_hand:
            act.store.put_if_absent(path, data)

    def settle_if_new() -> None:
        if at_hand:
            settle(act.store, model_name, to_channel, sha256_of(at_hand[0][1]), restore)

    return act.carry_out(decide, dry_run=dry_run, before_following=settle_if_new)


def _source(act: Act, from_channel: str, release: str | None) -> ChannelStatement:
    """What is to be promoted.

    Raises:
        NothingPublishedError: The channel does not exist.
        ConflictError: It names something else than `release`.
    """
    statement, _ = read_channel(act.store, act.model_name, from_channel, act.keyring)
    statement = published(statement, act.store, act.model_name, from_channel)
    if release not in (None, statement.sha256):
        raise ConflictError(
            f"{act.store.uri(channel_path(act.model_name, from_channel))} names sha256 {statement.sha256}, not "
            f"{release}: it was moved meanwhile. Nothing was changed; look at it, then promote again if need be."
        )
    return statement


def _target(act: Act, statement: ChannelStatement, to: str | None) -> ChannelEntry:
    if to is not None:
        return find_entry(statement.history, to, act.uri)
    if _last_move(statement) == "rollback":
        return statement.history[0]
    for entry in statement.previous:
        if entry.sha256 != statement.sha256 and entry.sha256 not in (*statement.refused, *statement.pruning):
            return entry
    raise NoSuchReleaseError(
        f"{act.uri} has named nothing but sha256 {statement.sha256} that could be gone back to: other releases in its "
        "history were rolled back or pruned. Push a good model, or unpin one that was rolled back."
    )


def _last_move(statement: ChannelStatement) -> str:
    """The act that made the channel name what it names."""
    moves = (entry.action for entry in statement.history if entry.action not in HOUSEKEEPING)
    return next(moves, statement.action)


def _serves_as_well(act: Act, current: ChannelStatement, promoted: Verified) -> bool:
    """Whether the channel, which names the same bytes, names them by a release that is as good."""
    if current.release_id == promoted.release_id:
        return True
    try:
        manifest = read_manifest(act.store, act.model_name, current.release_id, act.keyring)
    except ConflictError:
        return False
    return manifest.signing_key_id == promoted.manifest.signing_key_id
