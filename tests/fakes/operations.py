"""Stores with a history, for those who roll back, promote and prune."""

from __future__ import annotations

import datetime
import os
import time
from pathlib import Path

from tests.fakes.releases import CHANNEL, MODEL, model_bytes, push_of, read_statement
from tfx_mobile.records import ChannelStatement, sha256_of
from tfx_mobile.release_store.delivery import OpenDestination
from tfx_mobile.release_store.destinations import FilesystemDestination
from tfx_mobile.release_store.filesystem_store import FilesystemStore
from tfx_mobile.release_store.names import check_channel
from tfx_mobile.release_store.new_channel import channels_of
from tfx_mobile.release_store.publishing import publish
from tfx_mobile.release_store.reading import resolve
from tfx_mobile.release_store.store import Follower, Store

HOUR = datetime.timedelta(hours=1)


def sha(seed: int) -> str:
    return sha256_of(model_bytes(seed))


def opened(root: Path, store: Store | None = None, follower: Follower | None = None) -> OpenDestination:
    return OpenDestination(FilesystemDestination(base_directory=root), store or FilesystemStore(str(root)), follower)


def push(root: Path, seed: int, channel: str = CHANNEL, model_name: str = MODEL) -> str:
    return publish(FilesystemStore(str(root)), push_of(model_bytes(seed), channel, model_name)).status


def statement_of(root: Path, channel: str = CHANNEL) -> ChannelStatement:
    return read_statement(root / "channels" / MODEL / f"{check_channel(channel)}.json")


def grow_old(root: Path, days: float = 30) -> None:
    """Blobs and manifests were written long before the channels."""
    then = time.time() - days * 86_400
    for role in ("blobs", "releases"):
        for file in (root / role).rglob("*"):
            if file.is_file():
                os.utime(file, (then, then))


def check_whole(root: Path) -> None:
    """Every channel names what is there as a whole."""
    store = FilesystemStore(str(root))
    for model_name, channel in channels_of(store):
        resolve(store, model_name, channel)


def is_stored(root: Path, seed: int) -> bool:
    return (root / "blobs" / MODEL / f"{sha(seed)}.tflite").exists()
