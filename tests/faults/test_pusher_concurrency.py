"""Eight pushers at once: real processes on one folder."""

from __future__ import annotations

import multiprocessing
import os
import signal
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.releases import CHANNEL, MODEL, manifest_of, model_bytes, push_of, read_statement, tree
from tfx_mobile.errors import DestinationUnavailableError
from tfx_mobile.records import PushReceipt
from tfx_mobile.release_store import filesystem_store
from tfx_mobile.release_store.filesystem_store import FilesystemStore
from tfx_mobile.release_store.names import release_id_of
from tfx_mobile.release_store.publishing import publish
from tfx_mobile.release_store.reading import resolve

PUSHERS = 8
ROUNDS = 5

FORK_SERVER = multiprocessing.get_context("forkserver")
FORK_SERVER.set_forkserver_preload([__name__])


def push(root: str, data: bytes, barrier: Barrier, receipts: Any) -> None:
    barrier.wait(60)
    receipts.put(publish(FilesystemStore(root), push_of(data)).to_json())


def die_with_the_lock(root: str, data: bytes, barrier: Barrier, _: Any) -> None:
    """Writes half of a temporary file under the lock and is killed."""

    def half(target: Path, data: bytes) -> None:
        (target.parent / f"{filesystem_store.TEMPORARY_PREFIX}dead").write_bytes(data[: len(data) // 2])
        os.kill(os.getpid(), signal.SIGKILL)

    filesystem_store._write = half
    barrier.wait(60)
    publish(FilesystemStore(root), push_of(data))


def push_at_once(root: Path, contents: list[bytes], dying: int = 0) -> list[PushReceipt]:
    """Pushes all contents at the same moment, while a reader looks; returns one receipt per pusher that lives."""
    barrier, receipts = FORK_SERVER.Barrier(len(contents) + dying), FORK_SERVER.Queue()
    pushers = [FORK_SERVER.Process(target=push, args=(str(root), data, barrier, receipts)) for data in contents]
    pushers += [
        FORK_SERVER.Process(target=die_with_the_lock, args=(str(root), model_bytes(1000 + i), barrier, receipts))
        for i in range(dying)
    ]
    for pusher in pushers:
        pusher.start()
    seen = 0
    while any(pusher.is_alive() for pusher in pushers):
        try:
            version = resolve(FilesystemStore(str(root)), MODEL, CHANNEL).channel_version
        except DestinationUnavailableError:
            version = 0
        assert version >= seen
        seen = version
    results = [PushReceipt.from_json(receipts.get(timeout=60)) for _ in contents]
    assert [pusher.exitcode for pusher in pushers] == [0] * len(contents) + [-signal.SIGKILL] * dying
    return results


@pytest.mark.parametrize("attempt", range(ROUNDS))
def test_the_same_content_gives_one_release(tmp_path: Path, attempt: int) -> None:
    receipts = push_at_once(tmp_path, [model_bytes()] * PUSHERS)
    assert sorted(r.status for r in receipts) == ["pushed"] + ["unchanged"] * (PUSHERS - 1)
    assert {r.channel_version for r in receipts} == {1}
    assert len(tree(tmp_path)) == 3
    release = resolve(FilesystemStore(str(tmp_path)), MODEL, CHANNEL)
    assert (release.model, release.channel_version) == (model_bytes(), 1)


def check_ordered(root: Path, contents: list[bytes], receipts: list[PushReceipt]) -> None:
    """All contents were released, one after the other."""
    statement = read_statement(root / "channels" / MODEL / f"{CHANNEL}.json")
    ordered = sorted(receipts, key=lambda receipt: receipt.channel_version or 0)
    assert [r.channel_version for r in ordered] == list(range(1, len(contents) + 1))
    assert {r.status for r in receipts} == {"pushed"}
    assert [(e.version, e.release_id) for e in reversed(statement.history)] == [
        (r.channel_version, r.release_id) for r in ordered
    ]
    assert [r.previous_release_id for r in ordered] == [None, *(r.release_id for r in ordered[:-1])]
    assert {r.release_id for r in receipts} == {release_id_of(manifest_of(data)) for data in contents}
    assert resolve(FilesystemStore(str(root)), MODEL, CHANNEL).release_id == ordered[-1].release_id
    for data in contents:
        assert Path(FilesystemStore(str(root)).uri(manifest_of(data).blob)).read_bytes() == data


@pytest.mark.parametrize("attempt", range(ROUNDS))
def test_different_content_gives_ordered_releases(tmp_path: Path, attempt: int) -> None:
    contents = [model_bytes(seed) for seed in range(PUSHERS)]
    receipts = push_at_once(tmp_path, contents)
    check_ordered(tmp_path, contents, receipts)
    assert len(tree(tmp_path)) == 2 * PUSHERS + 1


def test_pushers_that_die_holding_the_lock_stop_nobody(tmp_path: Path) -> None:
    contents = [model_bytes(seed) for seed in range(PUSHERS)]
    receipts = push_at_once(tmp_path, contents, dying=4)
    check_ordered(tmp_path, contents, receipts)
