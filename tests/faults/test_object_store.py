"""Pushes to S3 through every fault, and to S3 and Azure eight at once and killed at every request."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable

import pytest

from tests.fakes.object_store import PATIENT, AzureBlobServer, ObjectStoreServer, S3Server, serving
from tests.fakes.releases import model_bytes, push_of
from tests.faults.object_store_pushes import BEFORE, check_whole, survive
from tfx_mobile.records import PushReceipt, sha256_of
from tfx_mobile.release_store.publishing import publish

pytest.importorskip("obstore", reason="needs the extra: pip install 'tfx-mobile[object-store]'")

KINDS = [S3Server, AzureBlobServer]
PUSHERS = 8

FORK_SERVER = multiprocessing.get_context("forkserver")
FORK_SERVER.set_forkserver_preload(["tests.fakes.object_store", "tfx_mobile.release_store.publishing"])


@pytest.mark.parametrize("before", BEFORE)
def test_a_push_survives_every_fault(before: str, record_property: Callable[[str, object], None]) -> None:
    assert survive(S3Server, before, record_property) >= 13 * 5


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
    publish(kind.store_at(endpoint, PATIENT), push_of(model_bytes(0)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_push_killed_at_any_request_is_finished_by_the_next(kind: type[ObjectStoreServer]) -> None:
    for number in range(30):
        with serving(kind) as server:
            publish(server.open_store(), push_of(model_bytes(1)))
            first = server.num_requests
            arguments = (kind, server.endpoint, server.environment())
            pusher = FORK_SERVER.Process(target=push_in_a_process, args=arguments)

            def kill(pusher: multiprocessing.process.BaseProcess = pusher) -> None:
                os.kill(pusher.pid or 0, signal.SIGKILL)  # it waits for this answer, so it does nothing more

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
