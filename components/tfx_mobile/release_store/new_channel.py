"""What a channel's first statement has to mind.

A prune announces in every channel of the model what it is about to delete, so that nobody points at it. A channel that
does not exist yet cannot be told. So whoever makes one looks at the other channels before and after: a prune that
looked for channels before this one was there has announced by then, and one that looks later sees the new channel.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from tfx_mobile.errors import ConflictError, TFXMobileError
from tfx_mobile.release_store.names import blob_path, channel_path, check_channel, check_model_name
from tfx_mobile.release_store.reading import read_channel
from tfx_mobile.release_store.store import ObjectInfo, Store

_CHANNEL = re.compile(r"channels/([^/]+)/([^/]+)\.json")


def channels_of(store: Store, model_name: str | None = None) -> dict[tuple[str, str], ObjectInfo]:
    """Channels by model and name; of all models if none is given. What has no valid name is none of ours."""
    prefix = "channels/" if model_name is None else f"channels/{check_model_name(model_name)}/"
    found = {}
    for info in store.list(prefix):
        if match := _CHANNEL.fullmatch(info.path):
            try:
                found[check_model_name(match[1]), check_channel(match[2])] = info
            except ValueError:
                continue
    return found


def check_not_pruned(store: Store, model_name: str, channel: str, sha256: str) -> None:
    """Makes sure that no other channel of the model announces the deletion of these bytes.

    Raises:
        ConflictError: One does.
    """
    for _, other in channels_of(store, model_name):
        if other == channel:
            continue
        try:
            statement, _ = read_channel(store, model_name, other)
        except TFXMobileError:
            continue  # a damaged channel concerns those who use it, and no prune gets past it
        if statement is not None and sha256 in statement.pruning:
            raise ConflictError(
                f"{store.uri(blob_path(model_name, sha256))} is being pruned, says "
                f"{store.uri(channel_path(model_name, other))}. Wait until that is over, or run tfx-mobile prune "
                "again if it died, then try again."
            )


def settle(store: Store, model_name: str, channel: str, sha256: str, restore: Callable[[], object]) -> None:
    """Makes sure that a channel that was just made names what is there, and stays there.

    Args:
        store: Where.
        model_name: The model's name.
        channel: The channel's name.
        sha256: What it names.
        restore: Puts back what was deleted; does nothing if it is there.

    Raises:
        ConflictError: These bytes are being pruned; the channel was taken away again.
    """
    try:
        check_not_pruned(store, model_name, channel, sha256)
    except ConflictError:
        statement, generation = read_channel(store, model_name, channel)
        if statement is not None and generation is not None and (statement.version, statement.sha256) == (1, sha256):
            store.delete(channel_path(model_name, channel), generation)
        raise
    restore()
