"""Another act between any two steps of an act: no channel ever ends pointing to what is gone."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fakes.operations import check_whole, grow_old, is_stored, opened, push, sha, statement_of
from tests.fakes.releases import CHANNEL, MODEL, manifest_of, model_bytes, push_of
from tests.fakes.watched_store import WatchedStore
from tfx_mobile.errors import ConflictError, DestinationUnavailableError, TFXMobileError
from tfx_mobile.records import PruneReceipt
from tfx_mobile.release_store.filesystem_store import FilesystemStore
from tfx_mobile.release_store.names import release_id_of
from tfx_mobile.release_store.operations import pin, promote, prune, rollback
from tfx_mobile.release_store.publishing import publish
from tfx_mobile.release_store.reading import resolve
from tfx_mobile.release_store.store import Store


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing loses its power here; thousands of files are written."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


def release_id(seed: int) -> str:
    return release_id_of(manifest_of(model_bytes(seed)))


def stored(root: Path) -> list[int]:
    return [seed for seed in range(10) if is_stored(root, seed)]


def prune_at(root: Path, keep: int = 1, store: Store | None = None) -> PruneReceipt:
    return prune(opened(root, store), MODEL, keep=keep)


@pytest.fixture
def busy(tmp_path: Path) -> Path:
    """Five old releases on production; canary has two of them, and can go back to what production would let go."""
    root = tmp_path / "releases"
    for seed in (1, 2, 3, 4, 5):
        push(root, seed)
    for seed in (3, 2):
        push(root, seed, "canary")
    grow_old(root)
    return root


ACTS: dict[str, Callable[[Path], object]] = {
    "push": lambda root: push(root, 3),
    "push on canary": lambda root: push(root, 3, "canary"),
    "push on a new channel": lambda root: push(root, 3, "beta"),
    "rollback": lambda root: rollback(opened(root), MODEL, CHANNEL, sha(3)),
    "rollback on canary": lambda root: rollback(opened(root), MODEL, "canary"),
    "promote": lambda root: promote(opened(root), MODEL, "canary", CHANNEL),
    "promote to a new channel": lambda root: promote(opened(root), MODEL, CHANNEL, "beta"),
    "pin": lambda root: pin(opened(root), MODEL, CHANNEL, release_id(3)),
    "another prune": lambda root: prune_at(root, keep=3),
    "a new release": lambda root: push(root, 7),
    "promote, then a new release": lambda root: (promote(opened(root), MODEL, CHANNEL, "beta"), push(root, 7)),
}


def copy_of(root: Path, folder: Path) -> Path:
    shutil.copytree(root, folder)  # with the times of the files
    return folder


def finish_and_check(root: Path) -> None:
    """No channel points to what is gone; a prune run again leaves nothing half done."""
    check_whole(root)
    prune_at(root)
    check_whole(root)
    for file in (root / "channels" / MODEL).glob("*.json"):
        statement = statement_of(root, file.stem)
        assert statement.pruning == ()
        versions = [entry.version for entry in statement.history]
        assert versions == sorted(set(versions), reverse=True)
        for pinned in statement.pinned:
            assert (root / "releases" / MODEL / f"{pinned}.json").exists()
    for manifest in (root / "releases" / MODEL).glob("*.json"):
        assert any(release_id(seed) == manifest.stem for seed in stored(root)), "a manifest of bytes that are gone"


@pytest.mark.parametrize("act", ACTS)
def test_another_act_between_any_two_steps_of_a_prune(busy: Path, tmp_path: Path, act: str) -> None:
    steps = WatchedStore(FilesystemStore(str(copy_of(busy, tmp_path / "undisturbed"))))
    prune_at(tmp_path / "undisturbed", store=steps)
    ended = set()
    for step in range(steps.calls.total()):
        here = copy_of(busy, tmp_path / str(step))

        def disturb(number: int, here: Path = here, step: int = step) -> None:
            if number == step:
                try:
                    ACTS[act](here)
                    ended.add("done")
                except TFXMobileError as error:
                    ended.add(type(error).__name__)

        with contextlib.suppress(ConflictError):  # "appeared while its release was being pruned"
            prune_at(here, store=WatchedStore(FilesystemStore(str(here)), disturb))
        finish_and_check(here)
    assert "done" in ended
    if act in ("push", "rollback", "pin"):
        assert len(ended) > 1, "it was never refused: the announcement is not seen"


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize("whole", [True, False], ids=["a prune", "a prune that dies"])
def test_a_prune_between_any_two_steps_of_another_act(busy: Path, tmp_path: Path, act: str, whole: bool) -> None:
    """Also one that dies after it has deleted, and before it has taken back what it announced."""
    step = 0
    while True:
        here = copy_of(busy, tmp_path / str(step))
        met = False

        def disturb(number: int, here: Path = here, step: int = step) -> None:
            nonlocal met
            if number == step:
                met = True
                with contextlib.suppress(DestinationUnavailableError):
                    prune_at(here, store=None if whole else DiesAfterDeleting(str(here)))

        with contextlib.suppress(TFXMobileError):
            act_through(WatchedStore(FilesystemStore(str(here)), disturb), act)
        finish_and_check(here)
        step += 1
        if not met:
            break
    assert step > 3


class DiesAfterDeleting(FilesystemStore):
    """Of the model that the acts are about, the manifest is gone and the bytes are still there."""

    def delete(self, path: str, generation: str) -> bool:
        if path == manifest_of(model_bytes(3)).blob:
            raise DestinationUnavailableError("the power is out")
        return super().delete(path, generation)


def act_through(store: WatchedStore, act: str) -> None:
    """The same acts, on a store that is watched."""
    root = Path(store.address)
    where = opened(root, store)
    if act.startswith("push"):
        channel = {"push": CHANNEL, "push on canary": "canary", "push on a new channel": "beta"}[act]
        publish(store, push_of(model_bytes(3), channel))
    elif act == "rollback":
        rollback(where, MODEL, CHANNEL, sha(3))
    elif act == "rollback on canary":
        rollback(where, MODEL, "canary")
    elif act == "promote":
        promote(where, MODEL, "canary", CHANNEL)
    elif act == "promote to a new channel":
        promote(where, MODEL, CHANNEL, "beta")
    elif act == "pin":
        pin(where, MODEL, CHANNEL, release_id(3))
    elif act == "another prune":
        prune(where, MODEL, keep=3)
    elif act == "a new release":
        publish(store, push_of(model_bytes(7)))
    else:
        promote(where, MODEL, CHANNEL, "beta")
        publish(store, push_of(model_bytes(7)))


def test_a_promotion_to_a_new_channel_restores_what_was_deleted_at_that_moment(busy: Path) -> None:
    """The one case that cannot be announced: the channel does not exist, and its source moves on."""

    class Races(FilesystemStore):
        def compare_and_swap(self, path: str, data: bytes, generation: str | None) -> bool:
            push(busy, 7)
            prune_at(busy)
            assert not is_stored(busy, 5)
            return super().compare_and_swap(path, data, generation)

    promote(opened(busy, Races(str(busy))), MODEL, CHANNEL, "beta")
    assert resolve(FilesystemStore(str(busy)), MODEL, "beta").model == model_bytes(5)


def test_a_first_push_to_a_new_channel_restores_what_was_deleted_at_that_moment(busy: Path) -> None:
    class Races(FilesystemStore):
        def compare_and_swap(self, path: str, data: bytes, generation: str | None) -> bool:
            prune_at(busy)
            assert not is_stored(busy, 3)
            return super().compare_and_swap(path, data, generation)

    publish(Races(str(busy)), push_of(model_bytes(3), "beta"))
    assert resolve(FilesystemStore(str(busy)), MODEL, "beta").model == model_bytes(3)
