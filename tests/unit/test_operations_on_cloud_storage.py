"""Rollback, promotion and prune on a bucket: what they ask for, and what they never upload."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from click.testing import CliRunner

from tests.fakes.operations import sha
from tests.fakes.releases import CHANNEL, MODEL, model_bytes, push_of
from tfx_mobile.cli import main
from tfx_mobile.errors import TFXMobileError
from tfx_mobile.google_rest import Patience
from tfx_mobile.release_store.delivery import OpenDestination
from tfx_mobile.release_store.operations import list_releases, promote, prune, rollback
from tfx_mobile.release_store.operations.finding import blobs_of
from tfx_mobile.release_store.publishing import publish
from tfx_mobile.release_store.reading import resolve

cloud_storage = pytest.importorskip("tests.fakes.cloud_storage", reason="there is no store in a bucket yet")
stores = pytest.importorskip("tfx_mobile.release_store.cloud_storage_store", reason="there is no store in a bucket yet")

PATIENT = Patience(connect_seconds=1.0, read_seconds=5.0, total_seconds=30.0, first_wait_seconds=0.001)
DAY = 86_400


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    with cloud_storage.FakeCloudStorage(clock=cloud_storage.Clock(step=1.0)) as server:
        monkeypatch.setenv(stores.EMULATOR_VARIABLE, server.endpoint)
        yield server


@pytest.fixture
def bucket(fake: Any) -> OpenDestination:
    """Four releases on production, the last of them a month after the others."""
    from tfx_mobile.release_store.destinations import CloudStorageDestination

    destination = CloudStorageDestination(bucket=cloud_storage.BUCKET, prefix="releases")
    store = stores.CloudStorageStore(cloud_storage.BUCKET, "releases", patience=PATIENT)
    for seed in (1, 2, 3):
        publish(store, push_of(model_bytes(seed)))
    fake.clock.now += 30 * DAY
    publish(store, push_of(model_bytes(4)))
    return OpenDestination(destination, store, None)


def requests_of(fake: Any, act: Callable[[], object]) -> Counter[str]:
    before = len(fake.requests)
    act()
    return Counter(request.method for request in fake.requests[before:])


def test_a_rollback_uploads_the_channel_alone(fake: Any, bucket: OpenDestination, record_property: Any) -> None:
    objects = {name: stored.generation for name, stored in fake.objects.items()}
    asked = requests_of(fake, lambda: rollback(bucket, MODEL, CHANNEL))
    changed = {name for name, stored in fake.objects.items() if objects.get(name) != stored.generation}
    assert changed == {f"releases/channels/{MODEL}/{CHANNEL}.json"}
    assert asked["POST"] == 1
    record_property("rollback", json.dumps(asked))
    assert resolve(bucket.store, MODEL, CHANNEL).model == model_bytes(3)
    again = requests_of(fake, lambda: rollback(bucket, MODEL, CHANNEL))
    assert set(again) == {"GET"}
    assert set(requests_of(fake, lambda: rollback(bucket, MODEL, CHANNEL, "1", dry_run=True))) <= {"GET"}


def test_promotion_and_prune(fake: Any, bucket: OpenDestination) -> None:
    publish(bucket.store, push_of(model_bytes(5), "canary"))
    assert promote(bucket, MODEL, "canary", CHANNEL).channel_version == 5
    dry = requests_of(fake, lambda: prune(bucket, MODEL, keep=2, dry_run=True))
    assert set(dry) == {"GET"}
    receipt = prune(bucket, MODEL, keep=2)
    assert {one.sha256 for one in receipt.pruned if one.deleted} == {sha(1), sha(2), sha(3)}
    assert set(blobs_of(bucket.store, MODEL)) == {sha(4), sha(5)}
    assert set(requests_of(fake, lambda: prune(bucket, MODEL, keep=2))) == {"GET"}
    assert list_releases(bucket, MODEL, CHANNEL).pruning == ()


def test_a_push_between_any_two_requests_of_a_prune(fake: Any, bucket: OpenDestination) -> None:
    from tests.fakes.watched_store import WatchedStore

    watched = WatchedStore(bucket.store)
    prune(OpenDestination(bucket.destination, watched, None), MODEL, keep=1, dry_run=True)
    steps = watched.calls.total() + 12
    for step in range(steps):
        for seed in (1, 2):  # they are old again
            with contextlib.suppress(TFXMobileError):
                publish(bucket.store, push_of(model_bytes(seed)))
        fake.clock.now += 30 * DAY
        publish(bucket.store, push_of(model_bytes(4)))

        def disturb(number: int, step: int = step) -> None:
            if number == step:
                with contextlib.suppress(TFXMobileError):
                    publish(bucket.store, push_of(model_bytes(1)))

        disturbed = OpenDestination(bucket.destination, WatchedStore(bucket.store, disturb), None)
        prune(disturbed, MODEL, keep=1)
        resolve(bucket.store, MODEL, CHANNEL)


def test_the_command_line_takes_an_address(bucket: OpenDestination) -> None:
    result = CliRunner().invoke(main, ["rollback", MODEL, "--at", f"gs://{cloud_storage.BUCKET}/releases/", "--json"])
    assert result.exit_code == 0, result.output
    (receipt,) = json.loads(result.stdout)
    assert (receipt["destination"], receipt["sha256"]) == (f"gs://{cloud_storage.BUCKET}/releases", sha(3))
