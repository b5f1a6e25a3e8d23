"""The release protocol on a real folder."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.releases import (
    CHANNEL,
    MODEL,
    falsify_statement,
    file_record,
    manifest_of,
    model_bytes,
    push_of,
    read_statement,
    tree,
)
from tfx_mobile.errors import ConflictError, DestinationUnavailableError, ModelFileError, ReleaseRefusedError
from tfx_mobile.records import ArtifactOrigin, EvaluationSummary, Lineage, PushReceipt, ReleaseManifest
from tfx_mobile.release_store import channel as channels
from tfx_mobile.release_store import filesystem_store
from tfx_mobile.release_store.filesystem_store import FilesystemStore
from tfx_mobile.release_store.names import release_id_of
from tfx_mobile.release_store.publishing import Push, plan, publish
from tfx_mobile.release_store.reading import resolve
from tfx_mobile.release_store.store import Store

FIRST, SECOND = model_bytes(1), model_bytes(2)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "shared" / "releases"


@pytest.fixture
def store(root: Path) -> FilesystemStore:
    return FilesystemStore(str(root))


def push(store: Store, data: bytes, channel: str = CHANNEL) -> PushReceipt:
    return publish(store, push_of(data, channel))


def channel_file(root: Path) -> Path:
    return root / "channels" / MODEL / f"{CHANNEL}.json"


def blob_file(root: Path, data: bytes) -> Path:
    return root / "blobs" / MODEL / f"{hashlib.sha256(data).hexdigest()}.tflite"


def manifest_file(root: Path, data: bytes) -> Path:
    return root / "releases" / MODEL / f"{release_id_of(manifest_of(data))}.json"


def test_layout_and_receipt(store: FilesystemStore, root: Path) -> None:
    receipt = push(store, FIRST)
    sha256, release_id = hashlib.sha256(FIRST).hexdigest(), release_id_of(manifest_of(FIRST))
    blob, manifest, channel = (
        f"blobs/{MODEL}/{sha256}.tflite",
        f"releases/{MODEL}/{release_id}.json",
        f"channels/{MODEL}/{CHANNEL}.json",
    )
    files = tree(root)
    assert set(files) == {blob, manifest, channel}
    assert files[blob] == FIRST

    # What a device in another language does: plain JSON, base64 and SHA-256.
    sealed = json.loads(files[channel])
    assert (sealed["payloadType"], sealed["signatures"]) == ("application/vnd.mobile-model-channel+json", [])
    statement = json.loads(base64.b64decode(sealed["payload"]))
    assert statement["version"] == 1
    assert (statement["model"], statement["channel"]) == (MODEL, CHANNEL)
    assert (statement["release_id"], statement["sha256"], statement["previous"]) == (release_id, sha256, [])
    envelope = json.loads(files[manifest])
    assert (envelope["payloadType"], envelope["signatures"]) == ("application/vnd.mobile-model-manifest+json", [])
    payload = base64.b64decode(envelope["payload"])
    assert hashlib.sha256(payload).hexdigest() == release_id
    content = json.loads(payload)
    assert (content["blob"], content["file"]["sha256"], content["file"]["size_bytes"]) == (blob, sha256, len(FIRST))
    assert payload == json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()

    assert receipt == PushReceipt(
        status="pushed",
        destination=str(root),
        blessed=True,
        release_id=release_id,
        previous_release_id=None,
        channel_version=1,
        manifest_uri=str(root / manifest),
        model_uri=str(root / blob),
    )


def test_the_manifest_is_repeatable() -> None:
    manifest = manifest_of(FIRST)
    again = ReleaseManifest.from_json(manifest.to_json())
    assert again == manifest
    assert release_id_of(again) == release_id_of(manifest)
    assert release_id_of(manifest_of(SECOND)) != release_id_of(manifest)


def test_pushing_again_writes_nothing(store: FilesystemStore, root: Path) -> None:
    first = push(store, FIRST)
    before = {path: path.stat().st_mtime_ns for path in [root, *root.rglob("*")]}
    again = push(store, FIRST)
    assert {path: path.stat().st_mtime_ns for path in [root, *root.rglob("*")]} == before
    assert again == first.model_copy(update={"status": "unchanged"})


def test_the_same_bytes_with_another_evaluation_are_unchanged(store: FilesystemStore, root: Path) -> None:
    # Devices would not notice a difference, so neither does the channel: identity is the sha256 of the bytes.
    receipt = push(store, FIRST)
    before = tree(root)
    measured = EvaluationSummary(num_examples=7, splits=("eval",), baseline={}, variant={})
    again = publish(store, Push(manifest_of(FIRST).model_copy(update={"evaluation": measured}), FIRST, CHANNEL))
    assert (again.status, again.release_id, again.channel_version) == ("unchanged", receipt.release_id, 1)
    assert tree(root) == before


def test_the_same_bytes_replace_a_release_whose_manifest_was_lost(store: FilesystemStore, root: Path) -> None:
    push(store, FIRST)
    manifest_file(root, FIRST).unlink()
    measured = EvaluationSummary(num_examples=7, splits=("eval",), baseline={}, variant={})
    again = publish(store, Push(manifest_of(FIRST).model_copy(update={"evaluation": measured}), FIRST, CHANNEL))
    assert (again.status, again.channel_version) == ("pushed", 2)
    assert resolve(store, MODEL, CHANNEL).model == FIRST


def test_each_release_gets_the_next_version(store: FilesystemStore, root: Path) -> None:
    receipts = [push(store, data) for data in (FIRST, SECOND, FIRST)]
    assert [r.status for r in receipts] == ["pushed"] * 3
    assert [r.channel_version for r in receipts] == [1, 2, 3]
    ids = [release_id_of(manifest_of(data)) for data in (FIRST, SECOND, FIRST)]
    assert [r.previous_release_id for r in receipts] == [None, *ids[:2]]
    statement = read_statement(channel_file(root))
    assert [(e.version, e.release_id) for e in statement.history] == [(3, ids[2]), (2, ids[1]), (1, ids[0])]
    assert len({e.nonce for e in statement.history}) == 3
    assert resolve(store, MODEL, CHANNEL).model == FIRST


def test_the_history_is_bounded(store: FilesystemStore, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channels, "PREVIOUS_KEPT", 3)
    for seed in range(6):
        push(store, model_bytes(seed))
    assert [e.version for e in read_statement(channel_file(root)).previous] == [5, 4, 3]


def test_channels_and_models_do_not_touch_each_other(store: FilesystemStore) -> None:
    push(store, FIRST)
    push(store, SECOND, channel="beta")
    publish(store, push_of(SECOND, model_name="faces"))
    assert resolve(store, MODEL, CHANNEL).model == FIRST
    assert (resolve(store, MODEL, "beta").model, resolve(store, MODEL, "beta").channel_version) == (SECOND, 1)
    assert resolve(store, "faces", CHANNEL).manifest.model == "faces"


def test_files_are_as_readable_as_the_umask_says(store: FilesystemStore, root: Path) -> None:
    old = os.umask(0o022)
    try:
        push(store, FIRST)
    finally:
        os.umask(old)
    assert {path.stat().st_mode & 0o777 for path in root.rglob("*.tflite")} == {0o644}


# --- reading back ----------------------------------------------------------------------------------------------------


def test_resolve_returns_what_was_pushed(store: FilesystemStore) -> None:
    push(store, FIRST)
    release = resolve(store, MODEL, CHANNEL)
    assert (release.model, release.manifest, release.channel_version) == (FIRST, manifest_of(FIRST), 1)
    assert release.release_id == release_id_of(release.manifest)


def test_resolve_without_a_release(store: FilesystemStore) -> None:
    with pytest.raises(DestinationUnavailableError, match=r"Nothing was published to .*digits/production\.json"):
        resolve(store, MODEL, CHANNEL)


@pytest.mark.parametrize("name", ["../digits", "", "Ä", "a" * 33, "1a", "a/b"])
def test_resolve_refuses_names_that_are_paths(store: FilesystemStore, name: str) -> None:
    with pytest.raises(ValueError, match="is not valid"):
        resolve(store, name, CHANNEL)
    with pytest.raises(ValueError, match="is not valid"):
        resolve(store, MODEL, name)


def altered(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def test_resolve_refuses_an_altered_or_missing_blob(store: FilesystemStore, root: Path) -> None:
    push(store, FIRST)
    blob = blob_file(root, FIRST)
    for damaged in (altered(FIRST), FIRST[:-1], b""):
        blob.write_bytes(damaged)
        with pytest.raises(ModelFileError, match="its release says"):
            resolve(store, MODEL, CHANNEL)
    blob.unlink()
    with pytest.raises(ModelFileError, match=r"\.tflite is missing"):
        resolve(store, MODEL, CHANNEL)


def test_resolve_refuses_an_altered_or_missing_manifest(store: FilesystemStore, root: Path) -> None:
    push(store, FIRST)
    path = manifest_file(root, FIRST)
    envelope = json.loads(path.read_bytes())
    other_payload = base64.b64encode(manifest_of(SECOND).to_json()).decode()
    for payload, message in ((other_payload, "other bytes than its name"), ("no base64", "is not base64")):
        path.write_text(json.dumps({**envelope, "payload": payload}))
        with pytest.raises(ConflictError, match=message):
            resolve(store, MODEL, CHANNEL)
    path.write_text("{")
    with pytest.raises(ConflictError, match="cannot be read"):
        resolve(store, MODEL, CHANNEL)
    path.unlink()
    with pytest.raises(ConflictError, match="is missing"):
        resolve(store, MODEL, CHANNEL)


def test_resolve_refuses_a_damaged_or_foreign_channel(store: FilesystemStore, root: Path) -> None:
    push(store, FIRST)
    push(store, SECOND, channel="beta")
    path = channel_file(root)
    falsify_statement(path, sha256=hashlib.sha256(SECOND).hexdigest())
    with pytest.raises(ConflictError, match="says sha256"):
        resolve(store, MODEL, CHANNEL)
    shutil.copy(path.with_name("beta.json"), path)
    with pytest.raises(ConflictError, match="it was copied there"):
        resolve(store, MODEL, CHANNEL)
    path.write_bytes(b"")
    with pytest.raises(ConflictError, match="cannot be read"):
        resolve(store, MODEL, CHANNEL)


def test_resolve_refuses_a_manifest_of_another_model(store: FilesystemStore, root: Path) -> None:
    foreign = manifest_of(FIRST, "faces")
    publish(store, Push(foreign, FIRST, CHANNEL))
    push(store, FIRST)
    shutil.copytree(root / "releases" / "faces", root / "releases" / MODEL, dirs_exist_ok=True)
    falsify_statement(channel_file(root), release_id=release_id_of(foreign))
    with pytest.raises(ConflictError, match="is a release of model 'faces'"):
        resolve(store, MODEL, CHANNEL)


# --- conflicts and broken destinations: an error, and nothing half-written --------------------------------------------


def test_a_corrupt_blob_is_a_conflict(store: FilesystemStore, root: Path) -> None:
    push(store, FIRST)
    blob_file(root, SECOND).write_bytes(altered(SECOND))
    before = tree(root)
    for act in (publish, plan):
        with pytest.raises(ConflictError, match=f"{blob_file(root, SECOND)} exists with other bytes"):
            act(store, push_of(SECOND))
    assert tree(root) == before


def test_a_foreign_manifest_is_a_conflict(store: FilesystemStore, root: Path) -> None:
    push(store, FIRST)
    manifest_file(root, SECOND).write_bytes(b"{}")
    for act in (publish, plan):
        with pytest.raises(ConflictError, match="exists with other bytes"):
            act(store, push_of(SECOND))
    assert resolve(store, MODEL, CHANNEL).model == FIRST


def test_a_damaged_channel_is_found_before_anything_is_written(store: FilesystemStore, root: Path) -> None:
    push(store, FIRST)
    channel_file(root).write_bytes(b"{}")
    before = tree(root)
    with pytest.raises(ConflictError, match="cannot be read"):
        push(store, SECOND)
    assert tree(root) == before


def test_a_manifest_of_other_bytes_is_refused(store: FilesystemStore, root: Path) -> None:
    for act in (publish, plan):
        with pytest.raises(ModelFileError, match="its manifest says"):
            act(store, Push(manifest_of(FIRST), SECOND, CHANNEL))
    assert not root.exists()


def test_a_lost_blob_is_restored_by_pushing_again(store: FilesystemStore, root: Path) -> None:
    push(store, FIRST)
    blob_file(root, FIRST).unlink()
    push(store, FIRST)
    assert resolve(store, MODEL, CHANNEL).model == FIRST


def test_a_file_in_the_way_is_an_unavailable_destination(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    store = FilesystemStore(str(tmp_path / "file" / "releases"))
    for act in (publish, plan):
        with pytest.raises(DestinationUnavailableError, match="file/releases") as raised:
            act(store, push_of(FIRST))
        assert "push again" in str(raised.value)
    assert tree(tmp_path) == {"file": b"in the way"}


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that every user can reach, unlike pytest's own."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Takes the right to write below `folder` from this process, for root by becoming nobody."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)


def test_a_read_only_destination(public: Path) -> None:
    store = FilesystemStore(str(public / "releases"))
    with read_only(public):
        for act in (publish, plan):
            with pytest.raises(DestinationUnavailableError, match=r"[Pp]ermission"):
                act(store, push_of(FIRST))
    assert list(public.iterdir()) == []


def test_a_read_only_destination_that_has_the_release(public: Path) -> None:
    store = FilesystemStore(str(public))
    push(store, FIRST)
    push(store, SECOND)
    with read_only(public):
        assert push(store, SECOND).status == "unchanged"
        assert plan(store, push_of(SECOND)).status == "dry_run"
        for act in (publish, plan):  # the bytes are there, but the channel cannot be moved back to them
            with pytest.raises(DestinationUnavailableError, match=r"channels/.*[Pp]ermission"):
                act(store, push_of(FIRST))


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failed_write_leaves_no_file(
    store: FilesystemStore, root: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    push(store, FIRST)
    before = tree(root)
    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(DestinationUnavailableError, match="No space left"):
            push(store, SECOND)
    assert tree(root) == before
    assert push(store, SECOND).channel_version == 2


def test_bytes_are_on_disk_before_their_name_and_that_before_the_next_step(
    store: FilesystemStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    fsync, replace = os.fsync, os.replace

    def record_fsync(descriptor: int) -> None:
        name = Path(f"/proc/self/fd/{descriptor}").resolve().relative_to(root)
        steps.append(f"sync {name.parent if name.name.startswith(filesystem_store.TEMPORARY_PREFIX) else name}")
        fsync(descriptor)

    def record_replace(source: Path, target: Path) -> None:
        steps.append(f"name {target.parent.relative_to(root)}")
        replace(source, target)

    push(store, FIRST)
    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "replace", record_replace)
    push(store, SECOND)
    folders = [f"{role}/{MODEL}" for role in ("blobs", "releases", "channels")]
    assert steps == [step for folder in folders for step in (f"sync {folder}", f"name {folder}", f"sync {folder}")]


# --- dry run ---------------------------------------------------------------------------------------------------------


def test_plan_writes_nothing(store: FilesystemStore, root: Path) -> None:
    planned = plan(store, push_of(FIRST))
    assert (planned.status, planned.channel_version, planned.previous_release_id) == ("dry_run", None, None)
    assert not root.parent.exists()
    receipt = push(store, FIRST)
    assert (planned.release_id, planned.manifest_uri, planned.model_uri) == (
        receipt.release_id,
        receipt.manifest_uri,
        receipt.model_uri,
    )
    before = tree(root)
    planned = plan(store, push_of(SECOND))
    assert (planned.channel_version, planned.previous_release_id) == (1, receipt.release_id)
    assert tree(root) == before


# --- what a store may answer -----------------------------------------------------------------------------------------


class LosesAnswers(FilesystemStore):
    """A folder behind a network: the first swap is carried out, but its answer does not arrive."""

    rival: bytes | None = None
    swaps = 0

    def compare_and_swap(self, path: str, data: bytes, generation: str | None) -> bool:
        self.swaps += 1
        done = super().compare_and_swap(path, data, generation)
        if self.swaps == 1:
            if self.rival:
                push(FilesystemStore(self.address), self.rival)
            return False
        return done


def test_a_lost_answer_is_recognised_as_our_own_write(root: Path) -> None:
    store = LosesAnswers(str(root))
    receipt = push(store, FIRST)
    assert (receipt.status, receipt.channel_version, store.swaps) == ("pushed", 1, 1)
    assert read_statement(channel_file(root)).previous == ()


def test_a_lost_answer_is_recognised_below_a_rivals_release(root: Path) -> None:
    store = LosesAnswers(str(root))
    store.rival = SECOND
    receipt = push(store, FIRST)
    assert (receipt.status, receipt.channel_version, receipt.previous_release_id) == ("pushed", 1, None)
    assert store.swaps == 1
    assert resolve(store, MODEL, CHANNEL).model == SECOND


class NeverSwaps(FilesystemStore):
    """Somebody else is always faster."""

    def compare_and_swap(self, path: str, data: bytes, generation: str | None) -> bool:
        return False


def test_losing_every_time_is_an_error(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channels, "_MAX_SWAPS", 3)
    with pytest.raises(ConflictError, match="was moved by others each of the 3 times"):
        push(NeverSwaps(str(root)), FIRST)


class ForgetsSwaps(FilesystemStore):
    """Says yes and does nothing."""

    def compare_and_swap(self, path: str, data: bytes, generation: str | None) -> bool:
        return True


def test_a_write_that_cannot_be_read_back_is_an_error(root: Path) -> None:
    with pytest.raises(ConflictError, match="does not show what was just written"):
        push(ForgetsSwaps(str(root)), FIRST)


class DamagesBlobs(FilesystemStore):
    """Says that it stored the bytes and stored others."""

    def put_if_absent(self, path: str, data: bytes) -> None:
        super().put_if_absent(path, altered(data) if path.startswith("blobs/") else data)


def test_a_blob_that_is_read_back_altered_is_an_error(root: Path) -> None:
    with pytest.raises(ConflictError, match="exists with other bytes"):
        push(DamagesBlobs(str(root)), FIRST)
    assert not channel_file(root).exists()


class LosesBlobs(FilesystemStore):
    """Says that it stored the bytes and did not."""

    def put_if_absent(self, path: str, data: bytes) -> None:
        if not path.startswith("blobs/"):
            super().put_if_absent(path, data)


def test_a_blob_that_is_not_there_afterwards_is_an_error(root: Path) -> None:
    with pytest.raises(ConflictError, match="was written and is not there"):
        push(LosesBlobs(str(root)), FIRST)
    assert not channel_file(root).exists()


# --- the folder ------------------------------------------------------------------------------------------------------


def test_a_stale_generation_does_not_swap(store: FilesystemStore) -> None:
    path = f"channels/{MODEL}/{CHANNEL}.json"
    assert not store.compare_and_swap(path, b"two", "a generation")
    assert store.compare_and_swap(path, b"one", None)
    assert not store.compare_and_swap(path, b"two", None)
    one = store.read(path)
    assert one is not None
    assert one.data == b"one"
    assert store.compare_and_swap(path, b"two", one.generation)
    assert not store.compare_and_swap(path, b"three", one.generation)


def test_leftovers_of_a_dead_pusher_are_ignored_then_removed(store: FilesystemStore, root: Path) -> None:
    push(store, FIRST)
    leftovers = [folder / f"{filesystem_store.TEMPORARY_PREFIX}dead" for folder in root.glob(f"*/{MODEL}")]
    for leftover in leftovers:
        leftover.write_bytes(b"half a fi")
    assert len(leftovers) == 3
    assert resolve(store, MODEL, CHANNEL).model == FIRST
    push(store, SECOND)
    assert not any(leftover.exists() for leftover in leftovers)


def test_a_lock_that_is_never_released_is_an_error(
    store: FilesystemStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(store, FIRST)
    monkeypatch.setattr(filesystem_store, "_LOCK_SECONDS", 0.05)
    with (root / "blobs" / MODEL / filesystem_store.LOCK_FILE).open() as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        with pytest.raises(DestinationUnavailableError, match="another pusher has held"):
            push(store, SECOND)
    assert push(store, SECOND).channel_version == 2


def test_listing_and_deleting(store: FilesystemStore, root: Path) -> None:
    push(store, FIRST)
    push(store, SECOND)
    listed = {info.path: info for info in store.list("blobs/")}
    assert {path: info.size_bytes for path, info in listed.items()} == {
        manifest_of(data).blob: len(data) for data in (FIRST, SECOND)
    }
    first = listed[manifest_of(FIRST).blob]
    assert not store.delete(first.path, "another generation")
    assert blob_file(root, FIRST).exists()
    assert store.delete(first.path, first.generation)
    assert not blob_file(root, FIRST).exists()
    assert store.delete(first.path, first.generation)
    assert list(store.list("nothing/")) == []


def test_what_is_being_pruned_is_not_published(store: FilesystemStore, root: Path) -> None:
    push(store, FIRST)
    falsify_statement(channel_file(root), pruning=(hashlib.sha256(SECOND).hexdigest(),))
    with pytest.raises(ConflictError, match="is being pruned"):
        push(store, SECOND)
    assert not blob_file(root, SECOND).exists()


def test_what_was_rolled_back_is_not_published(store: FilesystemStore, root: Path) -> None:
    push(store, FIRST)
    falsify_statement(channel_file(root), refused=(hashlib.sha256(SECOND).hexdigest(),))
    for act in (publish, plan):
        with pytest.raises(ReleaseRefusedError, match=r"was rolled back .* tfx-mobile unpin digits"):
            act(store, push_of(SECOND))
    assert push(store, model_bytes(3)).channel_version == 2
    with pytest.raises(ReleaseRefusedError):
        push(store, SECOND)


# --- an old run that finishes late -----------------------------------------------------------------------------------


def of_span(data: bytes, span: int | None, created_ms: int | None = None) -> Push:
    origin = ArtifactOrigin(type="Examples", span=span)
    lineage = Lineage(model=ArtifactOrigin(type="Model", created_ms=created_ms), examples=(origin,))
    return Push(manifest_of(data).model_copy(update={"lineage": lineage}), data, CHANNEL)


def test_an_older_run_is_superseded(store: FilesystemStore, root: Path) -> None:
    assert publish(store, of_span(FIRST, 2, 200)).status == "pushed"
    before = tree(root)
    late = publish(store, of_span(SECOND, 1, 300))
    assert (late.status, late.channel_version, late.previous_release_id) == (
        "superseded",
        1,
        read_statement(channel_file(root)).release_id,
    )
    assert publish(store, of_span(SECOND, 2, 199)).status == "superseded"
    assert tree(root) == before
    assert plan(store, of_span(SECOND, 1)).details == {"would_be": "superseded"}
    # Equal, or not comparable: not older.
    assert publish(store, of_span(SECOND, 2, 200)).status == "pushed"
    assert publish(store, of_span(FIRST, None)).status == "pushed"
    assert publish(store, of_span(SECOND, 1)).status == "superseded"


def test_the_same_bytes_of_an_older_run_are_unchanged(store: FilesystemStore) -> None:
    publish(store, of_span(FIRST, 2))
    assert publish(store, of_span(FIRST, 1)).status == "unchanged"


def test_the_description_of_a_file_is_part_of_the_release() -> None:
    manifest = manifest_of(FIRST)
    other = manifest.model_copy(
        update={"file": file_record(FIRST).model_copy(update={"min_runtime_version": "2.17.0"})}
    )
    assert release_id_of(other) != release_id_of(manifest)
