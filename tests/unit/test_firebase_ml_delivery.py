"""Publishing to Firebase ML through a bucket, alone and beside Cloud Storage: what the migration path does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.cloud_storage import FakeCloudStorage
from tests.fakes.firebase_ml import BUCKET, PROJECT, FakeFirebaseML
from tests.fakes.firebase_project import EMAIL, private_key, service_account_info, use_fake
from tests.fakes.releases import CHANNEL, MODEL, manifest_of, model_bytes, push_of
from tfx_mobile import CloudStorageDestination, FirebaseMLDestination
from tfx_mobile.errors import DestinationUnavailableError, ModelRefusedError, ModelTooLargeError
from tfx_mobile.records import sha256_of
from tfx_mobile.release_store.channel import Draft, move_channel
from tfx_mobile.release_store.delivery import OpenDestination, deliver, open_destinations, plan_delivery
from tfx_mobile.release_store.names import release_id_of
from tfx_mobile.release_store.reading import resolve
from tfx_mobile.release_store.signing import NO_KEYS

pytestmark = pytest.mark.filterwarnings("ignore:Google shuts Firebase ML:FutureWarning")

CLOUD = CloudStorageDestination(bucket=BUCKET, prefix="releases")


@dataclass
class Services:
    """Both services of one project."""

    storage: FakeCloudStorage
    firebase: FakeFirebaseML
    _seen: list[int] = field(default_factory=lambda: [0, 0, 0, 0])

    def read(self, name: str) -> bytes | None:
        stored = self.storage.objects.get(name)
        return stored.data if stored else None

    def figures(self) -> dict[str, int]:
        """Requests and bytes since this was last asked."""
        now = [
            self.storage.num_requests,
            self.storage.bytes_received,
            self.firebase.num_requests,
            self.firebase.bytes_received,
        ]
        names = ("storage_requests", "storage_bytes", "firebase_requests", "firebase_bytes")
        changed = dict(zip(names, (a - b for a, b in zip(now, self._seen, strict=True)), strict=True))
        self._seen = now
        return changed

    @property
    def num_mutations(self) -> int:
        return len(self.storage.mutations) + len(self.firebase.mutations)


@pytest.fixture
def services(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Services]:
    key_file = tmp_path / "key.json"
    key_file.write_text(json.dumps(service_account_info()))
    with FakeCloudStorage(BUCKET, seconds_between_updates=0) as storage, FakeFirebaseML() as firebase:
        services = Services(storage, firebase)
        firebase.buckets[BUCKET] = services.read
        firebase.signers[EMAIL] = private_key().public_key()
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", storage.endpoint)
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(key_file))
        use_fake(monkeypatch, firebase)
        yield services
    assert firebase.violations == []


def firebase(**options: Any) -> FirebaseMLDestination:
    return FirebaseMLDestination(project_id=PROJECT, bucket=BUCKET, **options)


def opened(*destinations: FirebaseMLDestination | CloudStorageDestination) -> tuple[OpenDestination, ...]:
    return open_destinations(destinations, NO_KEYS)


def test_through_the_bucket_and_back(services: Services) -> None:
    (receipt,) = deliver(opened(firebase()), push_of(model_bytes(1)))
    assert (receipt.status, receipt.destination) == ("pushed", f"firebase_ml://{PROJECT}")
    assert receipt.details["display_name"] == MODEL
    assert receipt.details["verified_by"] == "hash"
    assert receipt.manifest_uri.startswith(f"gs://{BUCKET}/firebase_ml/releases/{MODEL}/")
    assert services.firebase.served(MODEL) == model_bytes(1)

    before = services.num_mutations
    (receipt,) = deliver(opened(firebase()), push_of(model_bytes(1)))
    assert (receipt.status, services.num_mutations) == ("unchanged", before)
    assert receipt.details["firebase_model_hash"] == sha256_of(model_bytes(1))


def test_what_it_costs(services: Services) -> None:
    """The table in docs/firebase_ml.md."""
    model = len(model_bytes(1))
    rows = {}
    services.figures()
    deliver(opened(firebase()), push_of(model_bytes(1)))
    rows["first push"] = services.figures()
    deliver(opened(firebase()), push_of(model_bytes(1)))
    rows["unchanged"] = services.figures()
    deliver(opened(firebase()), push_of(model_bytes(2)))
    rows["update"] = services.figures()
    (destination,) = opened(firebase())
    draft = Draft("rollback", release_id_of(manifest_of(model_bytes(1))), sha256_of(model_bytes(1)), {})
    move_channel(destination.store, MODEL, CHANNEL, lambda _: draft, NO_KEYS)
    destination.follow(MODEL, CHANNEL)
    rows["rollback"] = services.figures()
    print(json.dumps(rows))  # shown by pytest -rP
    assert {act: row["firebase_requests"] for act, row in rows.items()} == {
        "first push": 6,
        "unchanged": 3,
        "update": 4,
        "rollback": 3,
    }
    assert rows["unchanged"]["storage_bytes"] == rows["unchanged"]["firebase_bytes"] == 0
    assert model < rows["first push"]["storage_bytes"] < model + 6000
    assert rows["rollback"]["storage_bytes"] < 3000  # the channel alone, no model


def test_dual_publishing(services: Services) -> None:
    both = opened(CLOUD, firebase())
    receipts = deliver(both, push_of(model_bytes(1)))
    assert [receipt.status for receipt in receipts] == ["pushed", "pushed"]
    assert services.firebase.served(MODEL) == model_bytes(1)
    assert resolve(both[0].store, MODEL, CHANNEL).model == model_bytes(1)
    assert [receipt.status for receipt in deliver(both, push_of(model_bytes(1)))] == ["unchanged", "unchanged"]


def test_what_firebase_ml_refuses_goes_live_nowhere(services: Services) -> None:
    deliver(opened(CLOUD, firebase()), push_of(model_bytes(1)))
    with pytest.raises(ModelRefusedError, match="Invalid flatbuffer format"):
        deliver(opened(CLOUD, firebase()), push_of(b"no flatbuffer at all"))
    assert resolve(opened(CLOUD)[0].store, MODEL, CHANNEL).model == model_bytes(1)


def test_a_later_run_finishes_what_firebase_ml_did_not(services: Services) -> None:
    services.firebase.forbidden = {"models.create"}
    with pytest.raises(DestinationUnavailableError, match=r"roles/firebaseml\.admin"):
        deliver(opened(CLOUD, firebase()), push_of(model_bytes(1)))
    services.firebase.forbidden = set()
    receipts = deliver(opened(CLOUD, firebase()), push_of(model_bytes(1)))
    # The bucket's channel was moved by the first run; that Firebase ML serves it is new.
    assert [receipt.status for receipt in receipts] == ["pushed", "pushed"]
    assert services.firebase.served(MODEL) == model_bytes(1)


def test_a_dry_run_changes_nothing(services: Services) -> None:
    receipts = plan_delivery(opened(CLOUD, firebase()), push_of(model_bytes(1)))
    assert [receipt.details["would_be"] for receipt in receipts] == ["pushed", "pushed"]
    assert services.num_mutations == 0
    deliver(opened(CLOUD, firebase()), push_of(model_bytes(1)))
    before = services.num_mutations
    receipts = plan_delivery(opened(firebase()), push_of(model_bytes(1)))
    assert receipts[0].details["would_be"] == "unchanged"
    hosted = services.firebase.by_name(MODEL)
    assert hosted is not None
    hosted.published = False
    receipts = plan_delivery(opened(firebase()), push_of(model_bytes(1)))
    assert receipts[0].details["would_be"] == "pushed"
    assert services.num_mutations == before


def test_the_size_limit_stops_the_push_everywhere(services: Services) -> None:
    small = firebase(max_model_bytes=100)
    with pytest.raises(ModelTooLargeError, match=r"takes at most 100.*max_model_bytes"):
        deliver(opened(CLOUD, small), push_of(model_bytes(1)))
    assert services.storage.num_requests == services.firebase.num_requests == 0


def test_a_plain_address_needs_no_signature(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS")
    deliver(opened(firebase(gcs_uri=True)), push_of(model_bytes(1)))
    assert services.firebase.served(MODEL) == model_bytes(1)
