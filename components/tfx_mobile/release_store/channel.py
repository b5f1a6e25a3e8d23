"""The one way in which a channel changes.

A channel is read, the change is decided on what was read, everything the new statement names is made sure to be there,
and only then the channel is swapped, if it is still the one that was read. So whatever happened in between, also a
deletion, which announces itself in the channel first, makes the swap fail and everything is decided anew.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tenacity

from tfx_mobile.errors import ConflictError
from tfx_mobile.records import ChannelAction, ChannelEntry, ChannelStatement
from tfx_mobile.release_store.names import channel_path
from tfx_mobile.release_store.reading import CHANNEL_TYPE, read_channel
from tfx_mobile.release_store.signing import Keyring
from tfx_mobile.release_store.store import Store

PREVIOUS_KEPT = 50

#: Acts that change what a channel says of its releases, not which of them it names.
HOUSEKEEPING: frozenset[ChannelAction] = frozenset({"pin", "unpin", "prune"})

#: As long as an entry is among so many, its writer recognises it. Housekeeping is forgotten after that, so that a prune
#: every night does not push the releases one can go back to out of the history.
_HOUSEKEEPING_KEPT = 10

_MAX_SWAPS = 30

#: Decides on what the channel says now (None: nothing yet); None leaves it as it is. May be called again.
Change = Callable[[ChannelStatement | None], "Draft | None"]


@dataclass(frozen=True)
class Draft:
    """What a channel is to say next.

    Attributes:
        action: Why.
        release_id: The release to name.
        sha256: Of its bytes.
        changes: Other fields of ChannelStatement that get a new value; all others stay as they are.
    """

    action: ChannelAction
    release_id: str
    sha256: str
    changes: dict[str, Any]


@dataclass(frozen=True)
class Move:
    """What came of it.

    Attributes:
        changed: Whether the channel was written.
        history: What the channel names and named, newest first, beginning with what this act wrote or left.
    """

    changed: bool
    history: tuple[ChannelEntry, ...]


def move_channel(store: Store, model_name: str, channel: str, change: Change, keyring: Keyring) -> Move:
    """Carries out a change, whatever rivals do, and makes sure that it is there.

    Raises:
        ConflictError: The statement is damaged, others moved the channel every time, or the store loses writes.
        UntrustedReleaseError: No trusted key signed the statement.
        SigningError: The new one cannot be signed.
        DestinationUnavailableError: The store cannot be read or written.
    """
    nonce = uuid.uuid4().hex
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(_ChannelMovedError),
        wait=tenacity.wait_random_exponential(multiplier=0.01, max=1.0),
        stop=tenacity.stop_after_attempt(_MAX_SWAPS),
        reraise=True,
    )
    try:
        move: Move = retrying(_try_to_move, store, model_name, channel, change, keyring, nonce)
    except _ChannelMovedError:
        raise ConflictError(
            f"{store.uri(channel_path(model_name, channel))} was moved by others each of the {_MAX_SWAPS} times "
            "this act tried to. Nothing is lost: try again, and let fewer pipelines publish to one channel at a time."
        ) from None
    if move.changed:
        current, _ = read_channel(store, model_name, channel, keyring)
        if current is None or all(entry.nonce != nonce for entry in current.history):
            raise ConflictError(
                f"{store.uri(channel_path(model_name, channel))} does not show what was just written to it: something "
                "else than tfx-mobile writes there, or the store loses writes. Find out which before you push again."
            )
    return move


def _without_old_housekeeping(entries: tuple[ChannelEntry, ...]) -> tuple[ChannelEntry, ...]:
    recent, old = entries[:_HOUSEKEEPING_KEPT], entries[_HOUSEKEEPING_KEPT:]
    return (*recent, *(entry for entry in old if entry.action not in HOUSEKEEPING))


class _ChannelMovedError(Exception):
    """Somebody else moved the channel between reading and writing it."""


def _try_to_move(store: Store, model_name: str, channel: str, change: Change, keyring: Keyring, nonce: str) -> Move:
    current, generation = read_channel(store, model_name, channel, keyring)
    history = current.history if current else ()
    for position, entry in enumerate(history):
        # A write can be committed and yet be answered with an error. The nonce tells that it was ours, also when a
        # rival has published on top of it since; to write again would put the older bytes over the rival's.
        if entry.nonce == nonce:
            return Move(True, history[position:])
    draft = change(current)
    if draft is None:
        return Move(False, history)
    keyring.check_may_write(current.signing_key_id if current else None, store.uri(channel_path(model_name, channel)))
    kept = current.model_dump(include={"order", "refused", "pinned", "pruning"}) if current else {}
    values: dict[str, Any] = {"previous": history, **kept, **draft.changes}
    values["previous"] = _without_old_housekeeping(values["previous"])[:PREVIOUS_KEPT]
    statement = ChannelStatement(
        model=model_name,
        channel=channel,
        version=history[0].version + 1 if history else 1,
        release_id=draft.release_id,
        sha256=draft.sha256,
        nonce=nonce,
        action=draft.action,
        signing_key_id=keyring.signing_key_id,
        **values,
    )
    sealed = keyring.seal(CHANNEL_TYPE, statement.to_json())
    if not store.compare_and_swap(channel_path(model_name, channel), sealed.to_json(), generation):
        raise _ChannelMovedError
    return Move(True, statement.history)
