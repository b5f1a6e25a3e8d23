"""Every request to Firebase ML meets every fault; followers die between any two requests, and race each other.

What holds whatever happens: devices get a model that the channel named, there is one model of that name, and one more
act ends with what the channel names now.
"""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.cloud_storage import FakeCloudStorage
from tests.fakes.firebase_ml import BUCKET, FakeFirebaseML
from tests.fakes.firebase_project import EMAIL, PREFIX, QUICK, Project, follower_of, key_pem, private_key, use_fake
from tests.fakes.http_server import Fault
from tests.fakes.releases import CHANNEL, MODEL, model_bytes, push_of
from tests.faults.every_fault import survive_every_fault
from tfx_mobile.records import sha256_of
from tfx_mobile.release_store.cloud_storage_store import CloudStorageStore
from tfx_mobile.release_store.filesystem_store import FilesystemStore
from tfx_mobile.release_store.firebase_ml.client import ENDPOINT_VARIABLE
from tfx_mobile.release_store.firebase_ml.naming import channel_tag, file_tag
from tfx_mobile.release_store.publishing import publish
from tfx_mobile.release_store.reading import resolve
from tfx_mobile.release_store.store import FollowResult

FORK_SERVER = multiprocessing.get_context("forkserver")
FORK_SERVER.set_forkserver_preload([__name__])
#: Stores are brought to disk at every write; hundreds of them are quicker in memory, where there is such a folder.
IN_MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
FOLLOWERS = 8
PATIENT = dataclasses.replace(QUICK, read_seconds=5.0, total_seconds=30.0)

Prepare = Callable[[Project], None]


class Following:
    """A project in some state, to be brought to what its channel names."""

    def __init__(self, project: Project, before: bytes | None) -> None:
        self.server = project.server
        self.project = project
        self.before = before
        self.wanted = resolve(project.store, MODEL, CHANNEL).model
        self.result: FollowResult | None = None

    def act(self) -> object:
        self.result = self.project.follow()
        return self.result

    def check_always(self) -> None:
        assert resolve(self.project.store, MODEL, CHANNEL).model == self.wanted
        assert self.server.violations == []
        assert len(self.server.models) <= 1
        if self.server._keeps_published:  # otherwise the service itself takes the model away while it verifies
            assert self.project.served in (self.before, self.wanted)

    def check_done(self) -> None:
        assert self.project.served == self.wanted
        (hosted,) = self.server.models.values()
        assert set(hosted.tags) == {file_tag(sha256_of(self.wanted)), channel_tag(MODEL, CHANNEL)}
        assert self.result is not None
        assert self.result.details["firebase_model_id"] == hosted.id


def first_push(project: Project) -> None:
    project.push(1)


def update(project: Project) -> None:
    project.push(1)
    project.follow()
    project.push(2)


def unchanged(project: Project) -> None:
    project.push(1)
    project.follow()


def rollback(project: Project) -> None:
    project.push(1)
    project.follow()
    project.push(2)
    project.follow()
    project.roll_back(1)


def scenario(
    monkeypatch: pytest.MonkeyPatch, prepare: Prepare, **options: Any
) -> Callable[[], AbstractContextManager[Following]]:
    @contextlib.contextmanager
    def prepared() -> Iterator[Following]:
        with tempfile.TemporaryDirectory(dir=IN_MEMORY) as folder, FakeFirebaseML(**options) as fake:
            use_fake(monkeypatch, fake)
            project = Project(Path(folder), fake)
            prepare(project)
            yield Following(project, project.served)

    return prepared


@pytest.mark.parametrize(
    ("prepare", "options", "cases"),
    [
        (first_push, {"polls": 1}, 78),
        (first_push, {"unfetchable": "validation", "hash_encoding": "opaque"}, 91),
        (update, {"polls": 1}, 52),
        (update, {"keeps_published": False}, 65),
        (unchanged, {}, 13),
        (unchanged, {"hash_encoding": "opaque"}, 39),
        (rollback, {"hash_encoding": "base64"}, 39),
    ],
    ids=lambda value: value.__name__ if callable(value) else None,
)
def test_every_request_meets_every_fault(
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
    prepare: Prepare,
    options: dict[str, Any],
    cases: int,
) -> None:
    assert survive_every_fault(scenario(monkeypatch, prepare, **options), record_property) == cases


class FollowingABucket:
    """The same through a bucket; it is the bucket that fails."""

    def __init__(self, storage: FakeCloudStorage, firebase: FakeFirebaseML) -> None:
        self.server = storage
        self.firebase = firebase
        firebase.signers[EMAIL] = private_key().public_key()
        firebase.buckets[BUCKET] = lambda name: storage.objects[name].data if name in storage.objects else None
        for seed in (1, 2):
            publish(self.store(), push_of(model_bytes(seed)))

    def store(self) -> CloudStorageStore:
        return CloudStorageStore(BUCKET, PREFIX, patience=QUICK)

    def act(self) -> object:
        return follower_of(self.store(), QUICK).follow(MODEL, CHANNEL)

    def check_always(self) -> None:
        assert self.firebase.served(MODEL) in (None, model_bytes(2))

    def check_done(self) -> None:
        assert self.firebase.served(MODEL) == model_bytes(2)


def test_every_request_to_the_bucket_meets_every_fault(
    monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, object], None]
) -> None:
    @contextlib.contextmanager
    def prepared() -> Iterator[FollowingABucket]:
        with FakeCloudStorage(BUCKET, seconds_between_updates=0) as storage, FakeFirebaseML() as firebase:
            use_fake(monkeypatch, firebase)
            monkeypatch.setenv("STORAGE_EMULATOR_HOST", storage.endpoint)
            yield FollowingABucket(storage, firebase)

    assert survive_every_fault(prepared, record_property) > 100


# --- killed -----------------------------------------------------------------------------------------------------------


def follow_in_child(endpoint: str, folder: str, pem: str) -> None:
    os.environ[ENDPOINT_VARIABLE] = endpoint
    follower_of(FilesystemStore(folder), QUICK, pem).follow(MODEL, CHANNEL)


@pytest.mark.parametrize("carried_out", [False, True], ids=["lost", "carried_out"])
@pytest.mark.parametrize("prepare", [first_push, update, rollback])
def test_killed_at_any_request(monkeypatch: pytest.MonkeyPatch, prepare: Prepare, carried_out: bool) -> None:
    killed = 0
    while True:
        with scenario(monkeypatch, prepare, polls=1)() as following:
            child = FORK_SERVER.Process(
                target=follow_in_child,
                args=(following.server.endpoint, str(following.project.folder), key_pem()),
            )
            number = following.server.num_requests + killed

            def kill(child: Any = child) -> None:
                os.kill(child.pid, signal.SIGKILL)  # it waits for this answer, so it does nothing more

            following.server.before(number, kill)
            if not carried_out:
                following.server.fail(number, Fault("reset"))
            child.start()
            child.join(60)
            if child.exitcode == 0:
                break
            assert child.exitcode == -signal.SIGKILL
            following.check_always()
            following.act()
            following.check_always()
            following.check_done()
            killed += 1
    assert killed >= 4


# --- rivals -----------------------------------------------------------------------------------------------------------


def publish_and_follow(endpoint: str, folder: str, pem: str, seed: int, barrier: Barrier, results: Any) -> None:
    os.environ[ENDPOINT_VARIABLE] = endpoint
    store = FilesystemStore(folder)
    follower = follower_of(
        store, QUICK.__class__(**{**QUICK.__dict__, "read_seconds": 5.0, "total_seconds": 30.0}), pem
    )
    barrier.wait(60)
    publish(store, push_of(model_bytes(seed)))
    result = follower.follow(MODEL, CHANNEL)
    results.put((seed, result.changed, result.details["firebase_model_hash"]))


@pytest.mark.parametrize("polls", [0, 1])
@pytest.mark.parametrize("seeds", [[1] * FOLLOWERS, list(range(FOLLOWERS))], ids=["same", "different"])
def test_eight_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seeds: list[int], polls: int) -> None:
    with FakeFirebaseML(polls=polls) as fake:
        use_fake(monkeypatch, fake)
        project = Project(tmp_path, fake)
        barrier, results = FORK_SERVER.Barrier(FOLLOWERS), FORK_SERVER.Queue()
        rivals = [
            FORK_SERVER.Process(
                target=publish_and_follow, args=(fake.endpoint, str(tmp_path), key_pem(), seed, barrier, results)
            )
            for seed in seeds
        ]
        for rival in rivals:
            rival.start()
        seen = [results.get(timeout=60) for _ in rivals]
        for rival in rivals:
            rival.join(60)
        assert [rival.exitcode for rival in rivals] == [0] * FOLLOWERS
        current = resolve(project.store, MODEL, CHANNEL)
        assert current.channel_version == len(set(seeds))
        assert project.served == current.model
        assert len(fake.models) == 1
        assert fake.violations == []
        assert any(changed for _, changed, _ in seen)
        assert sha256_of(current.model) in {model_hash for _, _, model_hash in seen}
        assert not project.follow().changed
