"""Eight acts at once: real processes on one folder."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.operations import check_whole, grow_old, opened, push, sha, statement_of
from tests.fakes.releases import CHANNEL, MODEL
from tfx_mobile.errors import TFXMobileError
from tfx_mobile.release_store.filesystem_store import FilesystemStore
from tfx_mobile.release_store.operations import pin, promote, prune, rollback
from tfx_mobile.release_store.reading import resolve

ROUNDS = 5

FORK_SERVER = multiprocessing.get_context("forkserver")
FORK_SERVER.set_forkserver_preload([__name__])

Acts = list[tuple[str, int]]


def act(root: Path, name: str, number: int) -> str:
    where = opened(root)
    if name == "push":
        return push(root, number)
    if name == "rollback":
        return rollback(where, MODEL, CHANNEL).status
    if name == "promote":
        return promote(where, MODEL, "canary", CHANNEL).status
    if name == "pin":
        return pin(where, MODEL, CHANNEL, sha(number)).status
    return prune(where, MODEL, keep=number).status


def run(root: Path, name: str, number: int, barrier: Barrier, results: Any) -> None:
    barrier.wait(60)
    try:
        results.put((name, act(root, name, number)))
    except TFXMobileError as error:
        results.put((name, type(error).__name__))


def at_once(root: Path, acts: Acts) -> list[tuple[str, str]]:
    """Everything at the same moment, while a device looks."""
    barrier, results = FORK_SERVER.Barrier(len(acts)), FORK_SERVER.Queue()
    processes = [FORK_SERVER.Process(target=run, args=(root, *one, barrier, results)) for one in acts]
    for process in processes:
        process.start()
    seen = 0
    while any(process.is_alive() for process in processes):
        version = watch(lambda: resolve(FilesystemStore(str(root)), MODEL, CHANNEL).channel_version, seen)
        assert version >= seen, "the version shrank"
        seen = version
    ended = [results.get(timeout=60) for _ in acts]
    assert [process.exitcode for process in processes] == [0] * len(acts)
    return ended


def watch(look: Callable[[], int], otherwise: int) -> int:
    """What a device sees; it may have read a channel whose release was pruned before it asked for it."""
    try:
        return look()
    except TFXMobileError:
        return otherwise


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "releases"
    for seed in (1, 2, 3, 4):
        push(root, seed)
    push(root, 5, "canary")
    grow_old(root)
    return root


def check(root: Path) -> list[int]:
    check_whole(root)
    versions = [entry.version for entry in statement_of(root).history]
    assert versions == sorted(set(versions), reverse=True)
    return versions


@pytest.mark.parametrize("attempt", range(ROUNDS))
def test_eight_rollbacks_are_one(root: Path, attempt: int) -> None:
    ended = at_once(root, [("rollback", 0)] * 8)
    assert sorted(status for _, status in ended) == ["done"] + ["unchanged"] * 7
    statement = statement_of(root)
    assert (statement.version, statement.sha256, statement.refused) == (5, sha(3), (sha(4),))


@pytest.mark.parametrize("attempt", range(ROUNDS))
def test_rollbacks_and_pushes(root: Path, attempt: int) -> None:
    ended = at_once(root, [("rollback", 0)] * 4 + [("push", seed) for seed in (6, 7, 8, 9)])
    assert [status for name, status in ended if name == "push"] == ["pushed"] * 4
    rolled_back = [status for name, status in ended if name == "rollback"]
    assert set(rolled_back) <= {"done", "unchanged", "ConflictError"}
    # Each change has a version of its own, and only what a rollback saw live is refused.
    assert check(root) == list(range(4 + 4 + rolled_back.count("done"), 0, -1))
    assert len(statement_of(root).refused) == rolled_back.count("done")
    assert statement_of(root).sha256 not in statement_of(root).refused


@pytest.mark.parametrize("attempt", range(ROUNDS))
def test_everything_at_once(root: Path, attempt: int) -> None:
    acts = [
        ("prune", 1),
        ("prune", 2),
        ("push", 2),
        ("push", 6),
        ("rollback", 0),
        ("promote", 0),
        ("pin", 1),
        ("pin", 3),
    ]
    ended = at_once(root, acts)
    # ModelFileError: a pin of what was deleted after it had read the channel.
    allowed = {
        "ModelFileError",
        "done",
        "unchanged",
        "pushed",
        "ConflictError",
        "NoSuchReleaseError",
        "ReleaseRefusedError",
    }
    assert {status for _, status in ended} <= allowed, ended
    check(root)
    prune(opened(root), MODEL, keep=1)
    check(root)
    statement = statement_of(root)
    assert statement.pruning == ()
    for release_id in statement.pinned:
        assert (root / "releases" / MODEL / f"{release_id}.json").exists()
