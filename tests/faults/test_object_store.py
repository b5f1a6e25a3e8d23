"""Pushes to S3 and Azure through every fault, eight at once, and killed at every request."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator

import pytest

from tests.fakes.object_store import PREFIX, AzureBlobServer, ObjectStoreServer, S3Server, serving
from tests.fakes.releases import CHANNEL, MODEL, model_bytes, push_of
from tests.faults.every_fault import survive_every_fault
from tfx_mobile.records import PushReceipt, sha256_of
from tfx_mobile.release_store.delivery import OpenDestination, deliver
from tfx_mobile.release_store.destinations import FilesystemDestination
from tfx_mobile.release_store.names import blob_path, channel_path, release_path
from tfx_mobile.release_store.publishing import publish

pytest.importorskip("obstore", reason="needs the extra: pip install 'tfx-mobile[object-store]'")

KINDS = [S3Server, AzureBlobServer]
PUSHERS = 8

FORK_SERVER = multiprocessing.get_context("forkserver")
FORK_SERVER.set_forkserver_preload(["tests.fakes.object_store", "tfx_mobile.release_store.publishing"])


def check_whole(server: ObjectStoreServer, versions: int) -> None:
    """What the channel names and named is all there, and no version is missing."""
    statement = server.statement()
    if statement is None:
        assert versions == 0
        return
    assert [entry.version for entry in reversed(statement.history)] == list(range(1, statement.version + 1))
    assert statement.version >= versions
    for entry in statement.history:
        blob = server.at(blob_path(MODEL, entry.sha256))
        assert blob is not None
        assert sha256_of(blob) == entry.sha256
        assert server.at(release_path(MODEL, entry.release_id)) is not None


class PushScenario:
    """The push of one model after those of others."""

    def __init__(self, server: ObjectStoreServer, before: ObjectStoreServer | None, model: bytes) -> None:
        self.server = server
        self._model = model
        statement = before.statement() if before else None
        self._num_before = statement.version if statement else 0
        self._versions = self._num_before + (statement is None or statement.sha256 != sha256_of(model))
        if before:
            server.take_over(before)
        self._objects_before = dict(server.objects)

    def act(self) -> object:
        # The destination only says how large a model may be; the store is the one that talks to the fake.
        anywhere = FilesystemDestination(base_directory="/nowhere")
        return deliver([OpenDestination(anywhere, self.server.open_store(), None)], push_of(self._model))

    def check_always(self) -> None:
        check_whole(self.server, self._num_before)
        channel = f"{PREFIX}/{channel_path(MODEL, CHANNEL)}"
        for key, stored in self._objects_before.items():
            assert key == channel or self.server.objects[key] == stored

    def check_done(self) -> None:
        statement = self.server.statement()
        assert statement is not None
        assert (statement.version, statement.sha256) == (self._versions, sha256_of(self._model))
        channel = f"{PREFIX}/{channel_path(MODEL, CHANNEL)}"
        assert self.server.writes.count(channel) == self._versions
        assert len(self.server.objects) == 2 * self._versions + 2  # the channel, and what preconditions are proved on


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("before", [[], [1], [1, 0]], ids=["first", "second", "unchanged"])
def test_a_push_survives_every_fault(
    kind: type[ObjectStoreServer], before: list[int], record_property: Callable[[str, object], None]
) -> None:
    with serving(kind) as earlier:
        for seed in before:
            publish(earlier.open_store(), push_of(model_bytes(seed)))

    @contextlib.contextmanager
    def scenario() -> Iterator[PushScenario]:
        with serving(kind) as server:
            yield PushScenario(server, earlier if before else None, model_bytes(0))

    assert survive_every_fault(scenario, record_property) >= 13 * 5


def push_at_once(server: ObjectStoreServer, contents: list[bytes]) -> list[PushReceipt]:
    """Pushes all contents at the same moment; one receipt each, in the given order."""
    barrier = threading.Barrier(len(contents))
    receipts: dict[int, PushReceipt] = {}

    def push(position: int) -> None:
        store = server.open_store()
        barrier.wait(30)
        receipts[position] = publish(store, push_of(contents[position]))

    threads = [threading.Thread(target=push, args=(position,)) for position in range(len(contents))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return [receipts[position] for position in range(len(contents))]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("attempt", range(3))
def test_eight_pushers_of_the_same_content(kind: type[ObjectStoreServer], attempt: int) -> None:
    with serving(kind) as server:
        receipts = push_at_once(server, [model_bytes()] * PUSHERS)
        assert sorted(r.status for r in receipts) == ["pushed"] + ["unchanged"] * (PUSHERS - 1)
        assert {r.channel_version for r in receipts} == {1}
        check_whole(server, 1)
        assert len(server.writes) == len(server.objects) == 4


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("attempt", range(3))
def test_eight_pushers_of_different_content(kind: type[ObjectStoreServer], attempt: int) -> None:
    with serving(kind) as server:
        receipts = push_at_once(server, [model_bytes(seed) for seed in range(PUSHERS)])
        assert {r.status for r in receipts} == {"pushed"}
        ordered = sorted(receipts, key=lambda receipt: receipt.channel_version or 0)
        assert [r.channel_version for r in ordered] == list(range(1, PUSHERS + 1))
        statement = server.statement()
        assert statement is not None
        assert [e.release_id for e in reversed(statement.history)] == [r.release_id for r in ordered]
        check_whole(server, PUSHERS)


def push_in_a_process(kind: type[ObjectStoreServer], endpoint: str, environment: dict[str, str]) -> None:
    """What a pusher does that is to be killed."""
    os.environ.update(environment)
    publish(kind.store_at(endpoint), push_of(model_bytes(0)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_push_killed_at_any_request_is_finished_by_the_next(kind: type[ObjectStoreServer]) -> None:
    for number in range(30):
        with serving(kind) as server:
            publish(server.open_store(), push_of(model_bytes(1)))
            first = server.num_requests
            arguments = (kind, server.endpoint, server.environment())
            pusher = FORK_SERVER.Process(target=push_in_a_process, args=arguments)

            def kill(pusher: multiprocessing.process.BaseProcess = pusher) -> None:
                os.kill(pusher.pid or 0, signal.SIGKILL)
                pusher.join(30)

            server.before(first + number, kill)
            pusher.start()
            pusher.join(60)
            check_whole(server, 1)
            died = pusher.exitcode == -signal.SIGKILL
            assert died or (pusher.exitcode, server.num_requests) == (0, first + number)
            publish(server.open_store(), push_of(model_bytes(0)))
            check_whole(server, 2)
            statement = server.statement()
            assert statement is not None
            assert (statement.version, statement.sha256) == (2, sha256_of(model_bytes(0)))
            if not died:
                assert number > 5
                return
    raise AssertionError("the push never came to its end")
