"""Pruning on a real folder: what stays, what goes, and what happens when others act at the same time."""

from __future__ import annotations

import datetime
import os
import shutil
import time
from pathlib import Path

import pytest

from tests.fakes.operations import check_whole, grow_old, is_stored, opened, push, sha, statement_of
from tests.fakes.releases import CHANNEL, MODEL, falsify_statement, manifest_of, model_bytes, push_of, tree
from tests.fakes.watched_store import WatchedStore
from tfx_mobile.errors import (
    ConflictError,
    DestinationUnavailableError,
    NothingPublishedError,
    SigningError,
    TFXMobileError,
)
from tfx_mobile.records import PruneReceipt
from tfx_mobile.release_store.filesystem_store import FilesystemStore
from tfx_mobile.release_store.names import release_id_of
from tfx_mobile.release_store.operations import models_to_prune, pin, promote, prune, rollback, unpin
from tfx_mobile.release_store.publishing import plan, publish, stage
from tfx_mobile.release_store.store import Store


def release_id(seed: int) -> str:
    return release_id_of(manifest_of(model_bytes(seed)))


def channel_file(root: Path, channel: str = CHANNEL) -> Path:
    return root / "channels" / MODEL / f"{channel}.json"


def stored(root: Path) -> list[int]:
    return [seed for seed in range(10) if is_stored(root, seed)]


def prune_at(root: Path, keep: int = 1, store: Store | None = None, dry_run: bool = False) -> PruneReceipt:
    return prune(opened(root, store), MODEL, keep=keep, dry_run=dry_run)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Five old releases on production, and one of them on canary."""
    root = tmp_path / "releases"
    for seed in (1, 2, 3, 4, 5):
        push(root, seed)
    push(root, 2, "canary")
    grow_old(root)
    return root


# --- what stays ------------------------------------------------------------------------------------------------------


def test_the_last_ones_and_every_head_stay(root: Path) -> None:
    receipt = prune_at(root, keep=2)
    assert stored(root) == [2, 4, 5]
    assert (receipt.status, receipt.channels, receipt.num_kept, receipt.num_young) == (
        "done",
        ("canary", "production"),
        3,
        0,
    )
    assert [(one.sha256, one.release_ids, one.deleted) for one in receipt.pruned] == sorted(
        (sha(seed), (release_id(seed),), True) for seed in (1, 3)
    )
    assert all(one.size_bytes > len(model_bytes(1)) for one in receipt.pruned)
    check_whole(root)
    statement = statement_of(root)
    assert (statement.version, statement.action, statement.pruning, statement.sha256) == (7, "prune", (), sha(5))
    assert [entry.sha256 for entry in statement.history if entry.action == "publish"] == [
        sha(seed) for seed in (5, 4, 2)
    ]
    # Going back still works, and never to what is gone.
    assert rollback(opened(root), MODEL, CHANNEL).sha256 == sha(4)
    before = tree(root)
    assert prune_at(root, keep=2).status == "unchanged"
    assert tree(root) == before


def test_what_is_pinned_stays(root: Path) -> None:
    pin(opened(root), MODEL, CHANNEL, "1")
    pin(opened(root), MODEL, "canary", release_id(3))
    prune_at(root)
    assert stored(root) == [1, 2, 3, 5]
    unpin(opened(root), MODEL, CHANNEL, release_id(1))
    prune_at(root)
    assert stored(root) == [2, 3, 5]
    assert (root / "releases" / MODEL / f"{release_id(3)}.json").exists()


def test_what_is_young_by_the_stores_clock_stays(root: Path) -> None:
    # Blob and manifest of a push that has not moved its channel yet.
    stage(FilesystemStore(str(root)), push_of(model_bytes(8)))
    # An old blob that a young manifest is of.
    again = manifest_of(model_bytes(1)).model_copy(update={"labels": {"again": "yes"}})
    stage(FilesystemStore(str(root)), type(push_of(model_bytes(1)))(again, model_bytes(1), CHANNEL))
    receipt = prune_at(root)
    assert stored(root) == [1, 2, 5, 8]
    assert receipt.num_young == 2
    grow_old(root)
    assert prune_at(root).num_young == 0
    assert stored(root) == [2, 5]


def test_now_is_when_the_store_was_written_last(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The whole store lies in the past, or in the future, of this machine's clock: the difference alone counts.
    for years in (-10, 10):
        shift = years * 365 * 86_400
        for file in root.rglob("*"):
            if file.is_file():
                os.utime(file, (file.stat().st_mtime + shift,) * 2)
        grown = tree(root)
        young = root / "blobs" / MODEL / f"{sha(1)}.tflite"
        newest = max(file.stat().st_mtime for file in root.rglob("*.json"))
        os.utime(young, (newest - 6 * 86_400,) * 2)
        assert {one.sha256 for one in prune_at(root, dry_run=True).pruned} == {sha(3), sha(4)}
        os.utime(young, (newest - 8 * 86_400,) * 2)
        assert {one.sha256 for one in prune_at(root, dry_run=True).pruned} == {sha(1), sha(3), sha(4)}
        assert tree(root) == grown


def test_what_nobody_names_goes_when_it_is_old(root: Path) -> None:
    stage(FilesystemStore(str(root)), push_of(model_bytes(9)))
    (root / "blobs" / MODEL / "README").write_text("not ours")
    grow_old(root)
    assert sha(9) in {one.sha256 for one in prune_at(root).pruned}
    assert stored(root) == [2, 5]
    assert (root / "blobs" / MODEL / "README").exists()


def test_manifests_of_kept_bytes_stay(root: Path) -> None:
    # A push may be about to name it again, and only bytes are announced.
    again = manifest_of(model_bytes(5)).model_copy(update={"labels": {"again": "yes"}})
    stage(FilesystemStore(str(root)), type(push_of(model_bytes(5)))(again, model_bytes(5), CHANNEL))
    grow_old(root)
    prune_at(root)
    assert (root / "releases" / MODEL / f"{release_id_of(again)}.json").exists()


def test_the_refusal_outlives_the_bytes(root: Path) -> None:
    rollback(opened(root), MODEL, CHANNEL, "4")
    grow_old(root)
    prune_at(root)
    assert stored(root) == [2, 4]
    with pytest.raises(TFXMobileError, match="was rolled back"):
        push(root, 5)


def test_a_manifest_that_cannot_be_read_stays_and_is_named(root: Path) -> None:
    broken = root / "releases" / MODEL / f"{'ab' * 32}.json"
    broken.write_bytes(b"{}")
    grow_old(root)
    assert prune_at(root).unreadable == ("ab" * 32,)
    assert broken.exists()


def test_other_models_are_not_touched(root: Path) -> None:
    push(root, 1, model_name="faces")
    push(root, 3, model_name="faces")
    grow_old(root)
    prune_at(root)
    assert len(list((root / "blobs" / "faces").glob("*.tflite"))) == 2
    assert models_to_prune(opened(root)) == (MODEL, "faces")


# --- what stops it ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("parameters", "message"), [({"keep": 0}, "keep=0"), ({"grace": "minute"}, "grace=0:01:00")])
def test_parameters_that_would_harm(root: Path, parameters: dict[str, object], message: str) -> None:
    if "grace" in parameters:
        parameters = {"grace": datetime.timedelta(minutes=1)}
    with pytest.raises(ValueError, match=message):
        prune(opened(root), MODEL, **parameters)  # type: ignore[arg-type]


def test_without_a_channel_nothing_is_deleted(root: Path) -> None:
    shutil.rmtree(root / "channels")
    before = tree(root)
    with pytest.raises(NothingPublishedError, match="nothing says what is in use"):
        prune_at(root)
    assert tree(root) == before


def test_a_damaged_channel_or_a_lost_pin_stops_it(root: Path) -> None:
    good = channel_file(root, "canary").read_bytes()
    channel_file(root, "canary").write_bytes(b"{}")
    before = tree(root)
    with pytest.raises(ConflictError, match="canary"):
        prune_at(root)
    assert tree(root) == before
    channel_file(root, "canary").write_bytes(good)
    falsify_statement(channel_file(root), pinned=("ab" * 32,))
    before = tree(root)
    with pytest.raises(ConflictError, match="nobody can tell which bytes it needs"):
        prune_at(root)
    assert tree(root) == before


def test_a_signed_channel_needs_the_key(root: Path) -> None:
    falsify_statement(channel_file(root), signing_key_id="ab" * 32)
    before = tree(root)
    for dry_run in (True, False):
        with pytest.raises(SigningError):
            prune_at(root, dry_run=dry_run)
    assert tree(root) == before


def test_a_dry_run_deletes_nothing(root: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in [root, *root.rglob("*")]}
    receipt = prune_at(root, dry_run=True)
    assert {path: path.stat().st_mtime_ns for path in [root, *root.rglob("*")]} == before
    assert (receipt.status, [one.deleted for one in receipt.pruned]) == ("dry_run", [False] * 3)
    assert {one.sha256 for one in receipt.pruned} == {one.sha256 for one in prune_at(root).pruned}


# --- others at the same time -----------------------------------------------------------------------------------------


class MayNotDelete(FilesystemStore):
    """A store on which this identity may write and not delete."""

    def delete(self, path: str, generation: str) -> bool:
        raise DestinationUnavailableError(f"403 for {path}")


def test_a_prune_that_failed_is_finished_by_the_next(root: Path) -> None:
    with pytest.raises(DestinationUnavailableError):
        prune_at(root, store=MayNotDelete(str(root)))
    assert set(statement_of(root).pruning) == set(statement_of(root, "canary").pruning) == {sha(1), sha(3), sha(4)}
    for act in (lambda: push(root, 3), lambda: push(root, 3, "canary")):
        with pytest.raises(ConflictError, match="is being pruned"):
            act()
    # What was announced goes, also if the next prune would have kept it.
    receipt = prune_at(root, keep=5)
    assert {one.sha256 for one in receipt.pruned if one.deleted} == {sha(1), sha(3), sha(4)}
    assert statement_of(root).pruning == statement_of(root, "canary").pruning == ()
    assert push(root, 3) == "pushed"
    check_whole(root)


def test_an_announcement_that_no_longer_holds_is_taken_back(root: Path) -> None:
    # Announced on one channel only, then the prune died; the other channel still names the bytes.
    for announced in ((sha(2),), (sha(2), sha(9))):
        falsify_statement(channel_file(root), pruning=announced)
        receipt = prune_at(root, keep=9)
        assert (receipt.status, receipt.pruned) == ("done", ())
        assert statement_of(root).pruning == statement_of(root, "canary").pruning == ()
        assert stored(root) == [1, 2, 3, 4, 5]


def test_what_was_announced_on_one_channel_goes_though_another_remembers_it(root: Path) -> None:
    # The prune that announced it may still be alive, and would delete it under whoever points at it meanwhile.
    falsify_statement(channel_file(root, "canary"), pruning=(sha(3),))
    assert [one.sha256 for one in prune_at(root, keep=9).pruned] == [sha(3)]
    assert stored(root) == [1, 2, 4, 5]
    assert sha(3) not in {entry.sha256 for entry in statement_of(root).history}


def test_a_new_channel_is_not_made_of_what_is_announced_elsewhere(root: Path) -> None:
    push(root, 3, "source")
    falsify_statement(channel_file(root), pruning=(sha(3),))
    before = tree(root)
    store = WatchedStore(FilesystemStore(str(root)))
    for act in (
        lambda: publish(store, push_of(model_bytes(3), "beta")),
        lambda: plan(store, push_of(model_bytes(3), "beta")),
        lambda: promote(opened(root, store), MODEL, "source", "beta"),
    ):
        with pytest.raises(ConflictError, match=r"is being pruned, says .*production\.json"):
            act()
    assert store.calls["compare_and_swap"] == 0
    assert tree(root) == before


def test_what_was_written_anew_is_not_deleted(root: Path) -> None:
    class Rewrites(FilesystemStore):
        """Somebody writes the same bytes again between the listing and the deletion."""

        def delete(self, path: str, generation: str) -> bool:
            if path.startswith("blobs/"):
                time.sleep(0.01)
                data = (root / path).read_bytes()
                (root / path).unlink()
                (root / path).write_bytes(data)
            return super().delete(path, generation)

    receipt = prune_at(root, store=Rewrites(str(root)))
    assert [one.deleted for one in receipt.pruned] == [False] * 3
    assert stored(root) == [1, 2, 3, 4, 5]
    assert statement_of(root).pruning == ()
