"""Rollback, promotion and prune, killed at every line, then run again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fakes.followers import FolderFollower
from tests.fakes.operations import check_whole, grow_old, is_stored, opened, push, sha, statement_of
from tests.fakes.releases import CHANNEL, MODEL, model_bytes
from tests.faults.crashing import kill_at_every_line
from tfx_mobile.errors import ConflictError, TFXMobileError
from tfx_mobile.release_store import channel as channels
from tfx_mobile.release_store import filesystem_store, new_channel
from tfx_mobile.release_store.filesystem_store import FilesystemStore
from tfx_mobile.release_store.operations import acting, moving, promote, prune, pruning, rollback
from tfx_mobile.release_store.reading import resolve

#: Between the lines of the acts, and between the writes of the store.
PROTOCOL = [channels.__file__, new_channel.__file__, acting.__file__, moving.__file__, pruning.__file__]
FILES = [*PROTOCOL, filesystem_store.__file__]
#: Loops that only read are left out.
WRITING = (
    "carry_out",
    "change",
    "decide",
    "settle",
    "restore",
    "_try_to_move",
    "move_channel",
    "prune",
    "announce",
    "_announcement",
    "delete",
    "take_back",
    "compare_and_swap",
    "put_if_absent",
    "_write",
    "follow",
)


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is killed does wait, what checks it afterwards need not."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


def with_service(root: Path) -> FolderFollower:
    return FolderFollower(FilesystemStore(str(root / "store")), root / "service")


def prepare(root: Path) -> None:
    """Four old releases on production, two on canary, and a service that follows production."""
    template = root.parent.parent / "template"
    if not template.exists():
        for seed in (1, 2, 3, 4):
            push(template / "store", seed)
        for seed in (2, 5):
            push(template / "store", seed, "canary")
        with_service(template).follow(MODEL, CHANNEL)
        grow_old(template / "store")
    shutil.copytree(template, root, dirs_exist_ok=True)


def roll_back(root: Path) -> str:
    return rollback(opened(root / "store", follower=with_service(root)), MODEL, CHANNEL).status


def promote_canary(root: Path) -> str:
    return promote(opened(root / "store", follower=with_service(root)), MODEL, "canary", CHANNEL).status


def promote_to_new(root: Path) -> str:
    return promote(opened(root / "store"), MODEL, "canary", "beta").status


def prune_all(root: Path) -> str:
    return prune(opened(root / "store"), MODEL, keep=1).status


@pytest.mark.parametrize(("act", "seed"), [(roll_back, 3), (promote_canary, 5)])
def test_a_channel_that_moves_is_followed_in_the_end(tmp_path: Path, act: Callable[[Path], str], seed: int) -> None:
    killed = kill_at_every_line(FILES, tmp_path / "killed", act, prepare, WRITING)
    assert len(killed) > 50
    first, reruns = set(), set()
    for root in killed:
        store = FilesystemStore(str(root / "store"))
        check_whole(root / "store")
        first.add(resolve(store, MODEL, CHANNEL).model)
        reruns.add(act(root))
        release = resolve(store, MODEL, CHANNEL)
        # One step, once, however often it is run.
        assert (release.model, release.channel_version) == (model_bytes(seed), 5)
        assert with_service(root).served(MODEL) == model_bytes(seed)
        assert statement_of(root / "store").refused == ((sha(4),) if act is roll_back else ())
        assert act(root) == "unchanged"
    assert first == {model_bytes(4), model_bytes(seed)}
    assert reruns == {"done", "unchanged"}


def test_a_promotion_to_a_new_channel(tmp_path: Path) -> None:
    for root in kill_at_every_line(FILES, tmp_path / "killed", promote_to_new, prepare, WRITING):
        check_whole(root / "store")
        promote_to_new(root)
        release = resolve(FilesystemStore(str(root / "store")), MODEL, "beta")
        assert (release.model, release.channel_version) == (model_bytes(5), 1)


def test_a_prune_that_was_killed_is_finished_by_the_next(tmp_path: Path) -> None:
    writing = [name for name in WRITING if name not in ("compare_and_swap", "_write")]
    killed = kill_at_every_line(FILES, tmp_path / "killed", prune_all, prepare, writing)
    assert len(killed) > 100
    states, pushes = set(), set()
    for root in killed:
        store = root / "store"
        check_whole(store)
        states.add(tuple(seed for seed in range(1, 6) if is_stored(store, seed)))
        announced = [set(statement_of(store, channel).pruning) for channel in (CHANNEL, "canary")]
        # Nobody can point at what is half gone; what is not announced yet, or gone for good, can be pushed.
        for channel, pruning_now in zip((CHANNEL, "canary"), announced, strict=True):
            try:
                push(store, 2, channel)
                pushes.add("pushed")
                assert sha(2) not in pruning_now
            except ConflictError:
                pushes.add("refused")
                assert sha(2) in pruning_now
            check_whole(store)
        assert prune_all(root) in ("done", "unchanged")
        check_whole(store)
        assert not statement_of(store).pruning
        assert not statement_of(store, "canary").pruning
        heads = {statement_of(store, channel).sha256 for channel in (CHANNEL, "canary")}
        young = {sha(2)}
        assert {sha(seed) for seed in range(1, 6) if is_stored(store, seed)} - young == heads - young
        manifests = len(list((store / "releases" / MODEL).glob("*.json")))
        assert manifests == sum(is_stored(store, seed) for seed in range(1, 6))
        assert prune_all(root) == "unchanged"
    assert pushes == {"pushed", "refused"}
    assert {(1, 2, 3, 4, 5), (4, 5)} < states


def test_a_rollback_beside_a_prune_that_was_killed(tmp_path: Path) -> None:
    killed = kill_at_every_line(PROTOCOL, tmp_path / "killed", prune_all, prepare, ("announce", "delete", "take_back"))
    ended = set()
    for root in killed:
        for where in (lambda here: rollback(here, MODEL, CHANNEL), lambda here: rollback(here, MODEL, "canary")):
            try:
                ended.add(where(opened(root / "store")).status)
            except TFXMobileError as error:
                ended.add(type(error).__name__)
            check_whole(root / "store")
        prune_all(root)
        check_whole(root / "store")
    assert {"done", "NoSuchReleaseError"} <= ended
