"""Rollback, promotion, pins and listing on a real folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from tests.fakes.followers import FolderFollower
from tests.fakes.operations import check_whole, opened, push, sha, statement_of
from tests.fakes.releases import CHANNEL, MODEL, falsify_statement, manifest_of, model_bytes, push_of, tree
from tests.fakes.watched_store import WatchedStore
from tfx_mobile.errors import (
    ConflictError,
    DestinationUnavailableError,
    ModelFileError,
    ModelTooLargeError,
    NoSuchReleaseError,
    NothingPublishedError,
    ReleaseRefusedError,
    SigningError,
    UntrustedReleaseError,
)
from tfx_mobile.records import ArtifactOrigin, ChannelReceipt, Lineage
from tfx_mobile.release_store import channel as channels
from tfx_mobile.release_store.filesystem_store import FilesystemStore
from tfx_mobile.release_store.names import release_id_of
from tfx_mobile.release_store.operations import (
    list_models,
    list_releases,
    pin,
    promote,
    promote_everywhere,
    rollback,
    rollback_everywhere,
    unpin,
)
from tfx_mobile.release_store.publishing import Push, publish
from tfx_mobile.release_store.reading import resolve
from tfx_mobile.release_store.signing import Keyring, PublicKey, TrustedKeys


class KeyInMemory:
    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())

    @property
    def public_key(self) -> PublicKey:
        return self._key.public_key()

    def sign(self, message: bytes) -> bytes:
        return self._key.sign(message, ec.ECDSA(hashes.SHA256()))


def release_id(seed: int) -> str:
    return release_id_of(manifest_of(model_bytes(seed)))


def live(root: Path, channel: str = CHANNEL) -> bytes:
    return resolve(FilesystemStore(str(root)), MODEL, channel).model


def blob(root: Path, seed: int) -> Path:
    return root / manifest_of(model_bytes(seed)).blob


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three releases on production."""
    root = tmp_path / "releases"
    for seed in (1, 2, 3):
        push(root, seed)
    return root


def of_span(seed: int, span: int, channel: str = CHANNEL) -> Push:
    data = model_bytes(seed)
    origin = Lineage(model=ArtifactOrigin(type="Model"), examples=(ArtifactOrigin(type="Examples", span=span),))
    return Push(manifest_of(data).model_copy(update={"lineage": origin}), data, channel)


# --- rollback --------------------------------------------------------------------------------------------------------


def test_rollback_goes_to_the_release_before(root: Path) -> None:
    before = tree(root)
    receipt = rollback(opened(root), MODEL, CHANNEL)
    assert receipt == ChannelReceipt(
        action="rollback",
        status="done",
        destination=str(root),
        model=MODEL,
        channel=CHANNEL,
        channel_version=4,
        release_id=release_id(2),
        sha256=sha(2),
        previous_release_id=release_id(3),
        previous_sha256=sha(3),
    )
    statement = statement_of(root)
    assert (statement.version, statement.action, statement.refused) == (4, "rollback", (sha(3),))
    assert [entry.sha256 for entry in statement.history] == [sha(seed) for seed in (2, 3, 2, 1)]
    assert live(root) == model_bytes(2)
    # Only the channel was written.
    assert {name for name, data in tree(root).items() if before.get(name) != data} == {
        f"channels/{MODEL}/{CHANNEL}.json"
    }


def test_what_was_rolled_back_is_not_pushed_until_it_is_unpinned(root: Path) -> None:
    rollback(opened(root), MODEL, CHANNEL)
    with pytest.raises(ReleaseRefusedError, match="was rolled back"):
        push(root, 3)
    assert push(root, 4) == "pushed"
    with pytest.raises(ReleaseRefusedError, match="was rolled back"):
        rollback(opened(root), MODEL, CHANNEL, "3")
    receipt = unpin(opened(root), MODEL, CHANNEL, sha(3)[:8])
    assert (receipt.status, receipt.sha256, receipt.channel_version) == ("done", sha(3), 6)
    assert push(root, 3) == "pushed"
    assert statement_of(root).refused == ()


def test_a_rollback_run_again_goes_no_further(root: Path) -> None:
    rollback(opened(root), MODEL, CHANNEL)
    pin(opened(root), MODEL, CHANNEL)  # housekeeping does not make it forget
    before = tree(root)
    receipt = rollback(opened(root), MODEL, CHANNEL)
    assert (receipt.status, receipt.sha256, receipt.previous_sha256) == ("unchanged", sha(2), sha(2))
    assert tree(root) == before
    assert rollback(opened(root), MODEL, CHANNEL, "1").status == "done"
    assert statement_of(root).refused == (sha(3), sha(2))
    assert live(root) == model_bytes(1)


def test_the_release_before_has_other_bytes_and_was_not_rolled_back(root: Path) -> None:
    rollback(opened(root), MODEL, CHANNEL)  # 2 is live, 3 refused
    push(root, 4)
    # Not 2, 3 (refused), but what is before 4 and good: 2.
    assert rollback(opened(root), MODEL, CHANNEL).sha256 == sha(2)
    push(root, 5)
    pin(opened(root), MODEL, CHANNEL)
    assert rollback(opened(root), MODEL, CHANNEL, dry_run=True).sha256 == sha(2)
    falsify_statement(root / "channels" / MODEL / f"{CHANNEL}.json", pruning=(sha(2),))
    assert rollback(opened(root), MODEL, CHANNEL, dry_run=True).sha256 == sha(1)
    with pytest.raises(ConflictError, match="is being pruned"):
        rollback(opened(root), MODEL, CHANNEL, sha(2))


@pytest.mark.parametrize("to", ["1", sha(1)[:8], sha(1), release_id(1)[:8], release_id(1)])
def test_rollback_to_a_named_release(root: Path, to: str) -> None:
    assert rollback(opened(root), MODEL, CHANNEL, to).sha256 == sha(1)
    assert live(root) == model_bytes(1)


@pytest.mark.parametrize(
    ("to", "message"),
    [
        ("9", r"names no release '9'. It knows: [0-9a-f]{12} \(version 3\)"),
        ("ffffffff", "names no release"),
        (sha(1)[:7], "at least 8 of the 64"),
        ("../..", "is no release"),
        (sha(1).upper(), "in lower case"),
        ("", "is no release"),
    ],
)
def test_a_release_that_is_not_there(root: Path, to: str, message: str) -> None:
    before = tree(root)
    with pytest.raises(NoSuchReleaseError, match=message):
        rollback(opened(root), MODEL, CHANNEL, to)
    assert tree(root) == before


def test_a_prefix_that_means_two_releases(root: Path) -> None:
    path = root / "channels" / MODEL / f"{CHANNEL}.json"
    other = sha(1)[:8] + "0" * 56
    entries = statement_of(root).previous
    falsify_statement(path, previous=(entries[0].model_copy(update={"release_id": other}), *entries[1:]))
    with pytest.raises(NoSuchReleaseError, match="means several releases"):
        rollback(opened(root), MODEL, CHANNEL, sha(1)[:8])
    assert rollback(opened(root), MODEL, CHANNEL, sha(1)[:12]).sha256 == sha(1)


def test_nothing_to_go_back_to(tmp_path: Path) -> None:
    with pytest.raises(NothingPublishedError):
        rollback(opened(tmp_path), MODEL, CHANNEL)
    push(tmp_path, 1)
    with pytest.raises(NoSuchReleaseError, match="could be gone back to"):
        rollback(opened(tmp_path), MODEL, CHANNEL)


@pytest.mark.parametrize("name", ["../x", "", "1"])
def test_names_are_checked(root: Path, name: str) -> None:
    for act in (lambda: rollback(opened(root), name, CHANNEL), lambda: rollback(opened(root), MODEL, name)):
        with pytest.raises(ValueError, match="is not valid"):
            act()


def test_rollback_to_what_is_missing_or_altered_is_refused(root: Path) -> None:
    good = blob(root, 2).read_bytes()
    manifest = root / "releases" / MODEL / f"{release_id(2)}.json"
    sealed = manifest.read_bytes()
    for damage, error in (
        (lambda: blob(root, 2).unlink(), ModelFileError),
        (lambda: blob(root, 2).write_bytes(good[:-1] + b"x"), ModelFileError),
        (lambda: manifest.unlink(), ConflictError),
        (lambda: manifest.write_bytes(sealed[:-9]), ConflictError),
    ):
        damage()
        before = tree(root)
        for dry_run in (False, True):
            with pytest.raises(error, match="digits"):
                rollback(opened(root), MODEL, CHANNEL, dry_run=dry_run)
        assert tree(root) == before
        blob(root, 2).write_bytes(good)
        manifest.write_bytes(sealed)
    assert rollback(opened(root), MODEL, CHANNEL).status == "done"


def test_a_history_that_lies_about_the_bytes_is_refused(root: Path) -> None:
    entries = statement_of(root).previous
    lie = entries[0].model_copy(update={"sha256": sha(9)})
    falsify_statement(root / "channels" / MODEL / f"{CHANNEL}.json", previous=(lie, *entries[1:]))
    with pytest.raises(ConflictError, match="its manifest says"):
        rollback(opened(root), MODEL, CHANNEL)


def test_what_is_published_meanwhile_is_not_taken_back(root: Path) -> None:
    def before(number: int) -> None:
        if number == 3:  # the channel, the manifest and the bytes have been read
            push(root, 4)

    store = WatchedStore(FilesystemStore(str(root)), before)
    for to in (None, "1"):
        with pytest.raises(ConflictError, match="something was published meanwhile"):
            rollback(opened(root, store), MODEL, CHANNEL, to)
        assert (live(root), statement_of(root).refused) == (model_bytes(4), ())
        store.calls.clear()
        push(root, 3)


def test_a_dry_run_writes_nothing(root: Path) -> None:
    push(root, 5, "canary")
    before = {path: path.stat().st_mtime_ns for path in [root, *root.rglob("*")]}
    where = opened(root)
    for act in (
        lambda dry_run: rollback(where, MODEL, CHANNEL, dry_run=dry_run),
        lambda dry_run: promote(where, MODEL, "canary", CHANNEL, dry_run=dry_run),
        lambda dry_run: promote(where, MODEL, "canary", "new", dry_run=dry_run),
        lambda dry_run: pin(where, MODEL, CHANNEL, "1", dry_run=dry_run),
    ):
        receipt = act(True)
        assert (receipt.status, receipt.would_be) == ("dry_run", "done")
        assert {path: path.stat().st_mtime_ns for path in [root, *root.rglob("*")]} == before
    receipt = unpin(where, MODEL, CHANNEL, "1", dry_run=True)
    assert (receipt.status, receipt.would_be) == ("dry_run", "unchanged")


def test_a_rollback_reads_little_and_uploads_nothing(root: Path, record_property: Any) -> None:
    store = WatchedStore(FilesystemStore(str(root)))
    rollback(opened(root, store), MODEL, CHANNEL)
    # The channel, manifest and bytes; the channel again, to see the own write.
    assert store.calls == {"read": 4, "compare_and_swap": 1}
    assert store.bytes_written == (root / "channels" / MODEL / f"{CHANNEL}.json").stat().st_size
    record_property("rollback", f"{store.calls}, {store.bytes_read} bytes read, {store.bytes_written} written")
    again = WatchedStore(FilesystemStore(str(root)))
    rollback(opened(root, again), MODEL, CHANNEL)
    assert again.calls == {"read": 3}


# --- signatures ------------------------------------------------------------------------------------------------------


def test_a_signed_channel_stays_signed(tmp_path: Path) -> None:
    signer = KeyInMemory()
    keyring = Keyring(signer, TrustedKeys.of([signer.public_key]))
    for seed in (1, 2):
        publish(FilesystemStore(str(tmp_path)), push_of(model_bytes(seed), keyring=keyring))
    before = tree(tmp_path)
    acts = (
        lambda **kw: rollback(opened(tmp_path), MODEL, CHANNEL, **kw),
        lambda **kw: promote(opened(tmp_path), MODEL, CHANNEL, "beta", **kw),
        lambda **kw: pin(opened(tmp_path), MODEL, CHANNEL, **kw),
    )
    stranger = KeyInMemory()
    for act in acts:
        for dry_run in (True, False):
            with pytest.raises(SigningError, match="would be written without a signature"):
                act(dry_run=dry_run)
        with pytest.raises(SigningError, match="would be written without a signature"):
            act(keyring=Keyring(trusted=keyring.trusted))
        with pytest.raises(UntrustedReleaseError):
            act(keyring=Keyring(stranger, TrustedKeys.of([stranger.public_key])))
    assert tree(tmp_path) == before
    for act in acts:
        assert act(keyring=keyring).status == "done"
    store = FilesystemStore(str(tmp_path))
    assert resolve(store, MODEL, CHANNEL, keyring).model == model_bytes(1)
    assert resolve(store, MODEL, "beta", keyring).model == model_bytes(1)
    assert statement_of(tmp_path).signing_key_id == keyring.signing_key_id
    assert list_releases(opened(tmp_path), MODEL, CHANNEL, keyring).signing_key_id == keyring.signing_key_id


def test_a_manifest_that_nobody_trusted_signed_is_not_gone_back_to(root: Path) -> None:
    signer = KeyInMemory()
    keyring = Keyring(signer, TrustedKeys.of([signer.public_key]))
    publish(FilesystemStore(str(root)), push_of(model_bytes(4), "signed", keyring=keyring))
    path = root / "channels" / MODEL / "signed.json"
    statement = statement_of(root, "signed")
    unsigned = statement_of(root).history
    sealed = keyring.seal(channels.CHANNEL_TYPE, statement.model_copy(update={"previous": unsigned}).to_json())
    path.write_bytes(sealed.to_json())
    with pytest.raises(UntrustedReleaseError, match="releases/digits"):
        rollback(opened(root), MODEL, "signed", keyring=keyring)


# --- services that follow --------------------------------------------------------------------------------------------


def test_a_follower_follows_also_after_it_was_down(root: Path, tmp_path: Path) -> None:
    follower = FolderFollower(FilesystemStore(str(root)), tmp_path / "service")
    where = opened(root, follower=follower)
    follower.follow(MODEL, CHANNEL)
    follower.down = True
    with pytest.raises(DestinationUnavailableError, match=r"out of order.*names release .* already; run the same"):
        rollback(where, MODEL, CHANNEL)
    assert (live(root), follower.served(MODEL)) == (model_bytes(2), model_bytes(3))
    assert list_releases(where, MODEL, CHANNEL).following is False
    assert rollback(where, MODEL, CHANNEL, dry_run=True).would_be == "done"
    follower.down = False
    receipt = rollback(where, MODEL, CHANNEL)
    assert (receipt.status, receipt.details, receipt.channel_version) == ("done", {"served": "yes"}, 4)
    assert receipt.destination == follower.address
    assert follower.served(MODEL) == model_bytes(2)
    assert list_releases(where, MODEL, CHANNEL).following is True
    assert rollback(where, MODEL, CHANNEL).status == "unchanged"


def test_what_a_follower_would_refuse_is_refused_before_the_channel_moves(root: Path, tmp_path: Path) -> None:
    follower = FolderFollower(FilesystemStore(str(root)), tmp_path / "service")
    follower.max_bytes = 10
    before = tree(root)
    push(root, 5, "canary")
    for act in (
        lambda where: rollback(where, MODEL, CHANNEL),
        lambda where: promote(where, MODEL, "canary", CHANNEL),
    ):
        with pytest.raises(ModelTooLargeError):
            act(opened(root, follower=follower))
    assert {**tree(root), **before} == tree(root)


# --- promotion -------------------------------------------------------------------------------------------------------


def test_promotion_names_the_same_release(root: Path) -> None:
    push(root, 4, "canary")
    store = WatchedStore(FilesystemStore(str(root)))
    receipt = promote(opened(root, store), MODEL, "canary", CHANNEL)
    assert (receipt.status, receipt.action, receipt.channel_version) == ("done", "promote", 4)
    assert (receipt.sha256, receipt.previous_sha256) == (sha(4), sha(3))
    assert live(root) == model_bytes(4)
    assert statement_of(root).release_id == statement_of(root, "canary").release_id
    assert store.calls == {"read": 5, "compare_and_swap": 1}
    before = tree(root)
    assert promote(opened(root), MODEL, "canary", CHANNEL).status == "unchanged"
    assert tree(root) == before
    # Going back works as after a push.
    assert rollback(opened(root), MODEL, CHANNEL).sha256 == sha(3)
    with pytest.raises(ReleaseRefusedError):
        promote(opened(root), MODEL, "canary", CHANNEL)


def test_promotion_to_a_channel_that_does_not_exist(root: Path) -> None:
    receipt = promote(opened(root), MODEL, CHANNEL, "beta")
    assert (receipt.status, receipt.channel_version, receipt.previous_release_id) == ("done", 1, None)
    assert live(root, "beta") == model_bytes(3)


def test_the_same_bytes_of_a_lost_release_are_promoted(root: Path) -> None:
    # The channel names the same bytes by a release whose manifest was lost.
    other = manifest_of(model_bytes(3)).model_copy(update={"labels": {"again": "yes"}})
    publish(FilesystemStore(str(root)), Push(other, model_bytes(3), "canary"))
    assert promote(opened(root), MODEL, "canary", CHANNEL).status == "unchanged"
    (root / "releases" / MODEL / f"{release_id(3)}.json").unlink()
    assert promote(opened(root), MODEL, "canary", CHANNEL).status == "done"
    check_whole(root)


def test_an_older_runs_release_is_not_promoted(tmp_path: Path) -> None:
    store = FilesystemStore(str(tmp_path))
    publish(store, of_span(1, 1, "canary"))
    publish(store, of_span(2, 2))
    before = tree(tmp_path)
    receipt = promote(opened(tmp_path), MODEL, "canary", CHANNEL)
    assert (receipt.status, receipt.channel_version, receipt.previous_sha256) == ("superseded", 1, sha(2))
    assert promote(opened(tmp_path), MODEL, "canary", CHANNEL, dry_run=True).would_be == "superseded"
    assert tree(tmp_path) == before
    publish(store, of_span(3, 3, "canary"))
    assert promote(opened(tmp_path), MODEL, "canary", CHANNEL).status == "done"
    order = statement_of(tmp_path).order
    assert order is not None
    assert order.span == 3
    # A push of the run between them is older than what was promoted.
    assert publish(store, of_span(4, 2)).status == "superseded"


def test_what_cannot_be_promoted(root: Path) -> None:
    with pytest.raises(ValueError, match="to itself"):
        promote(opened(root), MODEL, CHANNEL, CHANNEL)
    with pytest.raises(NothingPublishedError, match=r"canary\.json"):
        promote(opened(root), MODEL, "canary", CHANNEL)
    push(root, 4, "canary")
    with pytest.raises(ConflictError, match="was moved meanwhile"):
        promote(opened(root), MODEL, "canary", CHANNEL, release=sha(5))
    falsify_statement(root / "channels" / MODEL / f"{CHANNEL}.json", pruning=(sha(4),))
    with pytest.raises(ConflictError, match="is being pruned"):
        promote(opened(root), MODEL, "canary", CHANNEL)
    blob(root, 4).unlink()
    with pytest.raises(ModelFileError):
        promote(opened(root), MODEL, "canary", CHANNEL)


# --- pins ------------------------------------------------------------------------------------------------------------


def test_pinning_and_unpinning(root: Path) -> None:
    receipt = pin(opened(root), MODEL, CHANNEL, "1")
    assert (receipt.status, receipt.release_id, receipt.sha256) == ("done", release_id(1), sha(1))
    statement = statement_of(root)
    assert (statement.version, statement.release_id, statement.pinned) == (4, release_id(3), (release_id(1),))
    assert pin(opened(root), MODEL, CHANNEL, sha(1)).status == "unchanged"
    assert pin(opened(root), MODEL, CHANNEL).release_id == release_id(3)
    assert unpin(opened(root), MODEL, CHANNEL, release_id(1)[:9]).status == "done"
    assert statement_of(root).pinned == (release_id(3),)
    assert unpin(opened(root), MODEL, CHANNEL, sha(3)).status == "done"
    assert statement_of(root).pinned == ()
    assert unpin(opened(root), MODEL, CHANNEL, sha(3)).status == "unchanged"
    assert live(root) == model_bytes(3)


def test_a_release_of_another_channel_can_be_pinned(root: Path) -> None:
    push(root, 7, "canary")
    assert pin(opened(root), MODEL, CHANNEL, release_id(7)[:10]).sha256 == sha(7)
    assert unpin(opened(root), MODEL, CHANNEL, release_id(7)[:10]).status == "done"


def test_a_pin_of_what_was_lost_can_be_taken_back(root: Path) -> None:
    pin(opened(root), MODEL, CHANNEL, "1")
    lost = "ab" * 32
    falsify_statement(root / "channels" / MODEL / f"{CHANNEL}.json", pinned=(lost,))
    receipt = unpin(opened(root), MODEL, CHANNEL, lost[:8])
    assert (receipt.status, receipt.release_id, receipt.sha256) == ("done", lost, None)
    assert statement_of(root).pinned == ()


def test_what_cannot_be_pinned_or_unpinned(root: Path) -> None:
    for text, message in (("ffffffff", "names no release"), ("12", "names no release"), ("x", "is no release")):
        with pytest.raises(NoSuchReleaseError, match=message):
            pin(opened(root), MODEL, CHANNEL, text)
    with pytest.raises(NoSuchReleaseError, match=r"Pinned: nothing; refused: nothing"):
        unpin(opened(root), MODEL, CHANNEL, "ffffffff")
    assert unpin(opened(root), MODEL, CHANNEL, "f" * 64).status == "unchanged"
    falsify_statement(root / "channels" / MODEL / f"{CHANNEL}.json", pruning=(sha(1),))
    with pytest.raises(ConflictError, match="is being pruned"):
        pin(opened(root), MODEL, CHANNEL, "1")
    blob(root, 2).unlink()
    with pytest.raises(ModelFileError):
        pin(opened(root), MODEL, CHANNEL, "2")
    ambiguous = (sha(1)[:8] + "0" * 56, sha(1)[:8] + "1" * 56)
    falsify_statement(root / "channels" / MODEL / f"{CHANNEL}.json", refused=ambiguous)
    with pytest.raises(NoSuchReleaseError, match="means several things"):
        unpin(opened(root), MODEL, CHANNEL, sha(1)[:8])


def test_housekeeping_does_not_push_releases_out_of_the_history(root: Path) -> None:
    for _ in range(40):
        pin(opened(root), MODEL, CHANNEL, "1")
        unpin(opened(root), MODEL, CHANNEL, "1")
    statement = statement_of(root)
    assert statement.version == 83
    assert [entry.version for entry in statement.previous if entry.action == "publish"] == [3, 2, 1]
    assert len(statement.previous) < 15
    assert rollback(opened(root), MODEL, CHANNEL, "1").channel_version == 84


# --- several destinations --------------------------------------------------------------------------------------------


def test_several_destinations_go_to_the_same_bytes(tmp_path: Path) -> None:
    roots = [tmp_path / name for name in ("one", "two")]
    for root in roots:
        for seed in (1, 2, 3):
            push(root, seed)
    where = [opened(root) for root in roots]
    planned = rollback_everywhere(where, MODEL, CHANNEL, dry_run=True)
    assert [receipt.would_be for receipt in planned] == ["done", "done"]
    rollback(where[0], MODEL, CHANNEL)  # as if the run had died after the first
    receipts = rollback_everywhere(where, MODEL, CHANNEL)
    assert [(r.status, r.sha256, r.channel_version) for r in receipts] == [
        ("unchanged", sha(2), 4),
        ("done", sha(2), 4),
    ]
    assert [receipt.status for receipt in promote_everywhere(where, MODEL, CHANNEL, "beta")] == ["done", "done"]


def test_destinations_that_differ_are_not_moved(tmp_path: Path) -> None:
    roots = [tmp_path / name for name in ("one", "two")]
    for root, seeds in zip(roots, ((1, 2, 3), (1, 3)), strict=True):
        for seed in seeds:
            push(root, seed)
    before = tree(tmp_path)
    with pytest.raises(ConflictError, match="would get different models"):
        rollback_everywhere([opened(root) for root in roots], MODEL, CHANNEL)
    assert tree(tmp_path) == before
    receipts = rollback_everywhere([opened(root) for root in roots], MODEL, CHANNEL, sha(1))
    assert {receipt.sha256 for receipt in receipts} == {sha(1)}


def test_a_destination_that_fails_is_named_with_those_that_are_done(tmp_path: Path) -> None:
    roots = [tmp_path / name for name in ("one", "two")]
    for root in roots:
        for seed in (1, 2):
            push(root, seed)
    follower = FolderFollower(FilesystemStore(str(roots[1])), tmp_path / "service")
    second = FolderFollower(FilesystemStore(str(roots[0])), tmp_path / "other")
    where = [opened(roots[0], follower=second), opened(roots[1], follower=follower)]
    follower.down = True
    with pytest.raises(DestinationUnavailableError, match=r"Already done: service at .*other \(done\)"):
        rollback_everywhere(where, MODEL, CHANNEL)
    follower.down = False
    assert [receipt.status for receipt in rollback_everywhere(where, MODEL, CHANNEL)] == ["unchanged", "done"]
    assert follower.served(MODEL) == second.served(MODEL) == model_bytes(1)


# --- looking ---------------------------------------------------------------------------------------------------------


def test_the_history_says_what_is_left(root: Path) -> None:
    pin(opened(root), MODEL, CHANNEL, "1")
    rollback(opened(root), MODEL, CHANNEL)
    blob(root, 1).unlink()
    (root / "releases" / MODEL / f"{release_id(3)}.json").unlink()
    history = list_releases(opened(root), MODEL, CHANNEL)
    assert (history.version, history.following, history.refused) == (5, None, (sha(3),))
    shown = {entry.version: entry for entry in history.entries}
    assert [entry.version for entry in history.entries] == [5, 4, 3, 2, 1]
    assert [entry.action for entry in history.entries] == ["rollback", "pin", "publish", "publish", "publish"]
    assert {version for version, entry in shown.items() if entry.live} == {5, 2}
    assert {version for version, entry in shown.items() if entry.refused} == {4, 3}
    assert {version for version, entry in shown.items() if entry.pinned} == {1}
    assert {version for version, entry in shown.items() if not entry.has_manifest} == {4, 3}
    assert {version for version, entry in shown.items() if not entry.has_blob} == {1}
    assert (shown[2].variant, shown[2].size_bytes) == ("float32", len(model_bytes(2)))
    assert shown[2].evaluation == manifest_of(model_bytes(2)).evaluation
    assert (shown[3].variant, shown[3].problem) == (None, None)


def test_damage_is_listed_not_raised(root: Path) -> None:
    blob(root, 1).write_bytes(b"short")
    manifest = root / "releases" / MODEL / f"{release_id(2)}.json"
    manifest.write_bytes(b"{}")
    problems = {entry.version: entry.problem for entry in list_releases(opened(root), MODEL, CHANNEL).entries}
    assert problems[3] is None
    assert "cannot be read" in (problems[2] or "")
    assert "has 5 bytes" in (problems[1] or "")


def test_the_overview(root: Path) -> None:
    push(root, 4, "canary")
    push(root, 1, model_name="faces")
    (root / "channels" / MODEL / "broken.json").write_bytes(b"{}")
    (root / "channels" / MODEL / "No channel.json").write_bytes(b"{}")
    (root / "channels" / "stray.json").write_bytes(b"{}")
    overview = list_models(opened(root))
    assert [model.model for model in overview.models] == [MODEL, "faces"]
    digits = overview.models[0]
    assert [(c.channel, c.version, c.sha256) for c in digits.channels] == [
        ("broken", None, None),
        ("canary", 1, sha(4)),
        ("production", 3, sha(3)),
    ]
    assert "cannot be read" in (digits.channels[0].problem or "")
    assert (digits.num_blobs, digits.blob_bytes) == (4, sum(len(model_bytes(seed)) for seed in (1, 2, 3, 4)))
    assert list_models(opened(root / "nothing")).models == ()
