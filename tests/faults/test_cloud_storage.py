"""Pushes to a bucket that survive what the service, the network, rivals and the machine do to them."""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing.synchronize import Barrier
from typing import Any

import pytest

from tests.fakes.cloud_storage import BUCKET, PERMISSIONS, Clock, FakeCloudStorage, Stored
from tests.fakes.http_server import FAULTS, Fault, Request, Response
from tests.fakes.releases import CHANNEL, MODEL, manifest_of, model_bytes, push_of
from tests.faults.every_fault import survive_every_fault
from tfx_mobile.errors import ConflictError, DestinationUnavailableError, ModelFileError, NothingPublishedError
from tfx_mobile.google_rest import Patience
from tfx_mobile.records import ChannelEntry, ChannelStatement, Envelope, PushReceipt
from tfx_mobile.release_store.cloud_storage_store import EMULATOR_VARIABLE, CloudStorageStore
from tfx_mobile.release_store.delivery import OpenDestination, deliver
from tfx_mobile.release_store.destinations import CloudStorageDestination
from tfx_mobile.release_store.names import channel_path, release_id_of
from tfx_mobile.release_store.reading import CHANNEL_TYPE, Release, resolve
from tfx_mobile.release_store.store import StoredObject

OLD, NEW, RIVAL = model_bytes(1), model_bytes(2), model_bytes(3)
LARGE = b"TFL3" * (2 * 1024 * 1024 + 256)  # a little above 8 MiB: goes in two parts
DESTINATION = CloudStorageDestination(bucket=BUCKET)
LARGE_FILE = "blobs/digits/large.tflite"
CHANNEL_FILE = channel_path(MODEL, CHANNEL)
QUICK = Patience(connect_seconds=2.0, read_seconds=0.1, total_seconds=10.0, first_wait_seconds=0.001)
CALM = Patience(connect_seconds=10.0, read_seconds=10.0, total_seconds=60.0, first_wait_seconds=0.01)
#: Long enough for a rival to publish while a request waits.
PATIENT_WITH_RIVALS = Patience(connect_seconds=10.0, read_seconds=3.0, total_seconds=60.0, first_wait_seconds=0.001)
PUSHERS = 8

#: Requests of a second push, counted from 0.
BLOB_UPLOAD, SWAP, SECOND_PUSH, FIRST_PUSH = 7, 12, 15, 20

FORK_SERVER = multiprocessing.get_context("forkserver")
FORK_SERVER.set_forkserver_preload([__name__])


def push(endpoint: str, data: bytes, patience: Patience = QUICK) -> PushReceipt:
    """As the component pushes in a fresh process: all checks, then everything else."""
    os.environ[EMULATOR_VARIABLE] = endpoint
    store = CloudStorageStore(BUCKET, patience=patience)
    (receipt,) = deliver([OpenDestination(DESTINATION, store, None)], push_of(data))
    return receipt


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(EMULATOR_VARIABLE, "")  # whatever a push puts there is taken away again


class FromOutside:
    """What is in the bucket, without a request."""

    def __init__(self, fake: FakeCloudStorage) -> None:
        self._objects = fake.objects

    def read(self, path: str) -> StoredObject | None:
        return StoredObject(self._objects[path].data, "") if path in self._objects else None

    def uri(self, path: str) -> str:
        return path


def device(fake: FakeCloudStorage) -> Release:
    """What a device gets: verified on every step."""
    return resolve(FromOutside(fake), MODEL, CHANNEL)  # type: ignore[arg-type]


def history(fake: FakeCloudStorage) -> tuple[ChannelEntry, ...]:
    return ChannelStatement.from_json(Envelope.from_json(fake.objects[CHANNEL_FILE].data).open(CHANNEL_TYPE)).history


def check_consistent(fake: FakeCloudStorage, *published: bytes) -> None:
    """What devices get is whole, and nothing published is lost."""
    for data in published:
        assert fake.objects[manifest_of(data).blob].data == data
    try:
        device(fake)
    except NothingPublishedError:
        assert not published


def check_history(fake: FakeCloudStorage, *released: bytes) -> None:
    """The channel named exactly these, newest first, and there is no object more than that takes."""
    check_consistent(fake, *released)
    assert device(fake).model == released[0]
    assert [entry.release_id for entry in history(fake)] == [release_id_of(manifest_of(data)) for data in released]
    assert [entry.version for entry in history(fake)] == list(range(len(released), 0, -1))
    assert len(fake.objects) == 2 * len(set(released)) + 1


# Faults of the service and the network


class PushScenario:
    """A push of `new` where `old`, newest first, was published before."""

    def __init__(self, server: FakeCloudStorage, old: tuple[bytes, ...], new: bytes) -> None:
        self.server = server
        self._old = old
        self._new = new

    def act(self) -> PushReceipt:
        return push(self.server.endpoint, self._new)

    def check_always(self) -> None:
        check_consistent(self.server, *self._old)

    def check_done(self) -> None:
        check_history(self.server, *(self._old if self._old[:1] == (self._new,) else (self._new, *self._old)))


@functools.cache
def _published(old: tuple[bytes, ...]) -> dict[str, Stored]:
    """What is in a bucket after these pushes, newest first."""
    with FakeCloudStorage(clock=Clock(step=1.0)) as fake:
        for data in reversed(old):
            push(fake.endpoint, data, CALM)
        return fake.objects


@contextlib.contextmanager
def bucket_with(*old: bytes) -> Iterator[FakeCloudStorage]:
    """A bucket to which these were pushed, newest first, by somebody whose requests are no longer of interest."""
    with FakeCloudStorage(clock=Clock(step=1.0)) as fake:
        fake.restore(_published(old))
        yield fake


@contextlib.contextmanager
def scenario(old: tuple[bytes, ...], new: bytes) -> Iterator[PushScenario]:
    with bucket_with(*old) as server:
        yield PushScenario(server, old, new)


@pytest.mark.parametrize(
    ("old", "new", "least"),
    [
        pytest.param((), NEW, 180, id="first push"),
        pytest.param((OLD,), NEW, 190, id="second push"),
        pytest.param((NEW,), NEW, 130, id="unchanged push"),
    ],
)
def test_every_request_meets_every_fault(
    old: tuple[bytes, ...], new: bytes, least: int, record_property: Callable[[str, object], None]
) -> None:
    assert survive_every_fault(lambda: scenario(old, new), record_property) >= least


#: One of each kind: a part is 8 MiB.
FAULTS_OF_PARTS = tuple(f for f in FAULTS if not f.headers and f.status != 500 and f.kind != "truncate")


@pytest.mark.parametrize("at_start", [True, False])
def test_every_part_of_a_large_file_meets_faults(
    record_property: Callable[[str, object], None], at_start: bool
) -> None:
    patience = Patience(connect_seconds=2.0, read_seconds=0.5, total_seconds=20.0, first_wait_seconds=0.001)
    cases = 0
    for part in range(3):  # the beginning, and two with bytes
        for fault in FAULTS_OF_PARTS:
            with FakeCloudStorage(clock=Clock(step=1.0), condition_at_start=at_start) as fake:
                os.environ[EMULATOR_VARIABLE] = fake.endpoint
                fake.fail(1 + part, fault)
                CloudStorageStore(BUCKET, patience=patience).put_if_absent(LARGE_FILE, LARGE)
                (stored,) = fake.objects.values()
                assert (stored.name, stored.data) == (LARGE_FILE, LARGE), f"part {part}, {fault}"
                cases += 1
    record_property("fault_cases", cases)


def test_a_service_that_is_down_for_good_is_a_typed_error_and_a_later_push_finishes(
    record_property: Callable[[str, object], None],
) -> None:
    """From the n-th request on; so every state that a push can leave behind is picked up."""
    impatient = Patience(connect_seconds=1.0, read_seconds=0.1, total_seconds=0.02, first_wait_seconds=0.001)
    for number in range(100):
        with bucket_with(OLD) as fake:
            fake.fail(number, *[Fault("status", after=number % 2 == 1)] * 500)
            try:
                push(fake.endpoint, NEW, impatient)
            except DestinationUnavailableError:
                pass
            else:
                assert fake.num_requests <= number  # the push was over
                break
            check_consistent(fake, OLD)
            fake._faults.clear()
            push(fake.endpoint, NEW)
            check_history(fake, NEW, OLD)
    record_property("fault_cases", number)
    assert number == SECOND_PUSH


def test_one_lost_answer_and_a_rival_on_top(record_property: Callable[[str, object], None]) -> None:
    """Our channel write happened, nobody told us, and a rival published since: to write again would undo the rival."""
    lost = [fault for fault in FAULTS if fault.after]
    for fault in lost:
        with bucket_with(OLD) as fake:
            fake.fail(SWAP, fault)
            fake.before(SWAP + 1, lambda fake=fake: push(fake.endpoint, RIVAL, CALM) and None)
            receipt = push(fake.endpoint, NEW, PATIENT_WITH_RIVALS)
            assert b"channels/" in fake.requests[SWAP].body
            assert (receipt.status, receipt.channel_version) == ("pushed", 2)
            check_history(fake, RIVAL, NEW, OLD)
    record_property("fault_cases", len(lost))


# Rivals


@pytest.mark.parametrize("number", range(SECOND_PUSH))
@pytest.mark.parametrize("rival", [NEW, RIVAL], ids=["same", "other"])
def test_a_rival_publishes_before_any_request(number: int, rival: bytes) -> None:
    with bucket_with(OLD) as fake:
        fake.before(number, lambda: push(fake.endpoint, rival, CALM) and None)
        receipt = push(fake.endpoint, NEW, PATIENT_WITH_RIVALS)
        if rival == NEW:
            check_history(fake, NEW, OLD)
            assert receipt.channel_version == 2
        elif receipt.channel_version == 2:
            check_history(fake, RIVAL, NEW, OLD)
        else:
            check_history(fake, NEW, RIVAL, OLD)
        assert receipt.status in (("pushed", "unchanged") if rival == NEW else ("pushed",))


def push_at_once(endpoint: str, data: bytes, barrier: Barrier, receipts: Any) -> None:
    barrier.wait(60)
    receipts.put(push(endpoint, data, CALM).to_json())


@pytest.mark.parametrize("same", [True, False])
def test_eight_pushers_at_once(same: bool) -> None:
    """Real processes, against a service that takes one update of the channel every 50 ms."""
    contents = [model_bytes(0 if same else seed) for seed in range(PUSHERS)]
    barrier, receipts = FORK_SERVER.Barrier(PUSHERS), FORK_SERVER.Queue()
    with FakeCloudStorage(seconds_between_updates=0.05) as fake:
        pushers = [
            FORK_SERVER.Process(target=push_at_once, args=(fake.endpoint, data, barrier, receipts)) for data in contents
        ]
        for pusher in pushers:
            pusher.start()
        seen = 0
        while any(pusher.is_alive() for pusher in pushers):
            with fake.lock, contextlib.suppress(NothingPublishedError):
                version = device(fake).channel_version
                assert version >= seen
                seen = version
            time.sleep(0.002)
        results = [PushReceipt.from_json(receipts.get(timeout=60)) for _ in contents]
        assert [pusher.exitcode for pusher in pushers] == [0] * PUSHERS
        statuses = sorted(receipt.status for receipt in results)
        if same:
            assert statuses == ["pushed"] + ["unchanged"] * (PUSHERS - 1)
            check_history(fake, contents[0])
        else:
            assert statuses == ["pushed"] * PUSHERS
            ordered = sorted(results, key=lambda receipt: receipt.channel_version or 0)
            assert [receipt.channel_version for receipt in ordered] == list(range(1, PUSHERS + 1))
            by_id = {release_id_of(manifest_of(data)): data for data in contents}
            check_history(fake, *(by_id[receipt.release_id] for receipt in reversed(ordered)))


class RestlessBucket(FakeCloudStorage):
    """Somebody writes the channel anew before each of our swaps."""

    def handle(self, request: Request) -> Response:
        if request.method == "POST" and b"channels/" in request.body:
            self.put(CHANNEL_FILE, self.objects[CHANNEL_FILE].data)
        return super().handle(request)


def test_more_rivals_than_anybody_has_patience_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda _: None)
    with RestlessBucket(clock=Clock(step=1.0)) as fake:
        fake.restore(_published((OLD,)))
        with pytest.raises(ConflictError, match="was moved by others each of the 30 times"):
            push(fake.endpoint, NEW)
        check_consistent(fake, OLD)
        assert [entry.sha256 for entry in history(fake)] == [manifest_of(OLD).file.sha256]


# Death


def die_at(endpoint: str, data: bytes) -> None:
    push(endpoint, data, CALM)


@pytest.mark.parametrize("carried_out", [True, False])
@pytest.mark.parametrize(("old", "least"), [((), FIRST_PUSH), ((OLD,), SECOND_PUSH)])
def test_killed_at_every_request(
    old: tuple[bytes, ...], least: int, carried_out: bool, record_property: Callable[[str, object], None]
) -> None:
    """SIGKILL while a request is on its way, which then arrives or does not; so also between any two requests."""
    killed = 0
    for number in range(100):
        with bucket_with(*old) as fake:
            child = FORK_SERVER.Process(target=die_at, args=(fake.endpoint, NEW))

            fake.before(number, lambda child=child: os.kill(child.pid, signal.SIGKILL))
            if not carried_out:
                fake.fail(number, Fault("reset"))
            child.start()
            child.join(60)
            if child.exitcode == 0:
                check_history(fake, NEW, *old)
                break
            assert child.exitcode == -signal.SIGKILL
            killed += 1
            with fake.lock:  # the last request may still be carried out
                check_consistent(fake, *old)
            receipt = push(fake.endpoint, NEW)
            assert receipt.status in ("pushed", "unchanged")
            check_history(fake, NEW, *old)
    record_property("fault_cases", killed)
    assert killed == least


# Bytes that are not what they should be


def test_wrong_bytes_under_our_name_stop_the_push_and_are_left_alone() -> None:
    with bucket_with(OLD) as fake:
        for wrong in (b"short", NEW[:-1] + b"?"):
            fake.put(manifest_of(NEW).blob, wrong)
            written = len(fake.mutations)
            with pytest.raises(ConflictError, match="exists with other bytes than its name stands for"):
                push(fake.endpoint, NEW)
            assert len(fake.mutations) == written
            assert fake.objects[manifest_of(NEW).blob].data == wrong
            assert device(fake).model == OLD


def test_bytes_that_are_swapped_between_upload_and_release_are_noticed() -> None:
    with bucket_with(OLD) as fake:
        fake.before(BLOB_UPLOAD + 1, lambda: fake.put(manifest_of(NEW).blob, NEW[:-1] + b"?") and None)
        with pytest.raises(ConflictError, match="exists with other bytes"):
            push(fake.endpoint, NEW)
        assert b"blobs/" in fake.requests[BLOB_UPLOAD].body
        assert device(fake).model == OLD


def test_a_blob_that_vanished_is_published_again() -> None:
    with bucket_with(NEW) as fake:
        del fake.objects[manifest_of(NEW).blob]
        with pytest.raises(ModelFileError, match="is missing"):
            device(fake)
        push(fake.endpoint, NEW)
        assert device(fake).model == NEW


# Permissions


def test_denied_at_any_request(record_property: Callable[[str, object], None]) -> None:
    """Each request is told 403, as when a role is taken away at that moment."""
    for number in range(100):
        with bucket_with(OLD) as fake:
            fake.before(number, fake.permissions.clear)
            try:
                push(fake.endpoint, NEW)
            except DestinationUnavailableError as error:
                message = str(error)
            else:
                assert fake.permissions
                break
            assert re.search(r"403 .*roles/storage\.object", message)
            assert "session" not in message
            check_consistent(fake, OLD)
            assert (history(fake)[0].sha256 == manifest_of(NEW).file.sha256) == (number > SWAP)
            fake.permissions[""] = PERMISSIONS
            push(fake.endpoint, NEW)
            check_history(fake, NEW, OLD)
    record_property("fault_cases", number)
    assert number == SECOND_PUSH


#: Least privilege, as docs/cloud_storage.md sets it up, by folder.
ROLES = {
    "": set[str](),
    "blobs/": {"storage.objects.create", "storage.objects.get", "storage.objects.list"},
    "releases/": {"storage.objects.create", "storage.objects.get", "storage.objects.list"},
    "channels/": set(PERMISSIONS),
}


def test_the_roles_of_the_documentation_suffice() -> None:
    with FakeCloudStorage(clock=Clock(step=1.0)) as fake:
        fake.permissions = dict(ROLES)
        assert push(fake.endpoint, OLD).status == "pushed"
        assert push(fake.endpoint, NEW).status == "pushed"
        assert push(fake.endpoint, NEW).status == "unchanged"
        assert push(fake.endpoint, OLD).status == "pushed"
        check_history(fake, OLD, NEW, OLD)


@pytest.mark.parametrize(
    ("folder", "permission"),
    [(folder, permission) for folder in ("blobs/", "releases/", "channels/") for permission in sorted(ROLES[folder])],
)
def test_each_of_them_is_needed(folder: str, permission: str) -> None:
    with bucket_with(OLD) as fake:
        fake.permissions = dict(ROLES)
        fake.permissions[folder] = set(ROLES[folder]) - {permission}
        if (folder, permission) in UNUSED:
            push(fake.endpoint, NEW)
            return
        with pytest.raises(DestinationUnavailableError, match=rf"gs://{BUCKET}/{folder}.*403.*roles/storage\.object"):
            push(fake.endpoint, NEW)
        check_consistent(fake, OLD)


#: Part of the roles, and not used by a push to a channel that exists.
UNUSED = {("channels/", "storage.objects.update"), ("channels/", "storage.objects.list")}


# Clocks


@pytest.mark.parametrize("year", [1999, 2099])
def test_a_wrong_clock_changes_nothing(monkeypatch: pytest.MonkeyPatch, year: int) -> None:
    def story() -> list[tuple[str, int | None]]:
        with FakeCloudStorage(clock=Clock(step=1.0)) as fake:
            receipts = [push(fake.endpoint, data) for data in (OLD, NEW, NEW, OLD)]
            check_history(fake, OLD, NEW, OLD)
            released = {name: stored.data for name, stored in fake.objects.items() if name != CHANNEL_FILE}
            return [(r.status, r.channel_version) for r in receipts] + sorted(released.items())

    right = story()
    monkeypatch.setattr(time, "time", lambda: (year - 1970) * 365.25 * 86400.0)
    assert story() == right
