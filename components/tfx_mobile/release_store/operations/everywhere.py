"""The same act at several destinations: everything is checked before the first channel moves."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tfx_mobile.errors import ConflictError, TFXMobileError
from tfx_mobile.records import ChannelReceipt
from tfx_mobile.release_store.delivery import OpenDestination
from tfx_mobile.release_store.operations.moving import promote, rollback
from tfx_mobile.release_store.signing import NO_KEYS, Keyring


def rollback_everywhere(
    destinations: Sequence[OpenDestination],
    model_name: str,
    channel: str,
    to: str | None = None,
    *,
    keyring: Keyring = NO_KEYS,
    dry_run: bool = False,
) -> tuple[ChannelReceipt, ...]:
    """`rollback` at several destinations, to the same bytes everywhere; one receipt each, in the given order.

    Raises:
        ConflictError: The destinations would go back to different bytes.
        PushError: See `rollback`. If some destinations are done already, the message names them; the same command run
            again leaves them unchanged and does the others.
    """

    def act(opened: OpenDestination, planned: ChannelReceipt | None, dry_run: bool) -> ChannelReceipt:
        decided = {"to": planned.sha256, "live": planned.previous_sha256} if planned else {"to": to, "live": None}
        return rollback(opened, model_name, channel, **decided, keyring=keyring, dry_run=dry_run)

    return _everywhere(destinations, act, dry_run)


def promote_everywhere(
    destinations: Sequence[OpenDestination],
    model_name: str,
    from_channel: str,
    to_channel: str,
    *,
    keyring: Keyring = NO_KEYS,
    dry_run: bool = False,
) -> tuple[ChannelReceipt, ...]:
    """`promote` at several destinations, the same bytes everywhere; one receipt each, in the given order.

    Raises:
        ConflictError: The destinations would promote different bytes.
        PushError: See `promote`. If some destinations are done already, the message names them; the same command run
            again leaves them unchanged and does the others.
    """

    def act(opened: OpenDestination, planned: ChannelReceipt | None, dry_run: bool) -> ChannelReceipt:
        release = planned.sha256 if planned else None
        return promote(opened, model_name, from_channel, to_channel, release=release, keyring=keyring, dry_run=dry_run)

    return _everywhere(destinations, act, dry_run)


#: Acts at one destination; on what was planned there if there are several, and without writing if told so.
_ActAt = Callable[[OpenDestination, "ChannelReceipt | None", bool], ChannelReceipt]


def _everywhere(destinations: Sequence[OpenDestination], act: _ActAt, dry_run: bool) -> tuple[ChannelReceipt, ...]:
    if len(destinations) == 1:
        return (act(destinations[0], None, dry_run),)
    planned = tuple(act(opened, None, True) for opened in destinations)
    if len({receipt.sha256 for receipt in planned}) > 1:
        plans = "; ".join(f"{receipt.destination}: {receipt.sha256}" for receipt in planned)
        raise ConflictError(
            f"The destinations are not at the same place, and would get different models ({plans}). Nothing was "
            "changed. Say which release is meant, or act on one destination at a time."
        )
    if dry_run:
        return planned
    done: dict[int, ChannelReceipt] = {}
    # As in a push: where a service follows the channel first, because only it can refuse the model.
    for position in sorted(range(len(destinations)), key=lambda i: destinations[i].follower is None):
        try:
            done[position] = act(destinations[position], planned[position], False)
        except TFXMobileError as error:
            if not done:
                raise
            names = ", ".join(f"{receipt.destination} ({receipt.status})" for receipt in done.values())
            raise type(error)(
                f"{error} Already done: {names}; the same command run again leaves these unchanged."
            ) from error
    return tuple(done[position] for position in range(len(destinations)))
