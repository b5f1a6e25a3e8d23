"""MobilePusher to Firebase ML, Cloud Storage and a folder at once: one push, three places, what each of them says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.component import pusher_artifacts as given
from tests.component.pusher_artifacts import Place
from tests.fakes.releases import model_bytes
from tests.unit.test_firebase_ml_delivery import BUCKET, PROJECT, Services, services
from tfx_mobile import CloudStorageDestination, FilesystemDestination, FirebaseMLDestination
from tfx_mobile.release_store.destinations import destinations_to_json
from tfx_mobile.release_store.reading import resolve

__all__ = ["services"]

pytestmark = pytest.mark.filterwarnings("ignore:Google shuts Firebase ML:FutureWarning")


def destinations(folder: Path) -> list[object]:
    return [
        FilesystemDestination(base_directory=folder / "folder"),
        CloudStorageDestination(bucket=BUCKET, prefix="public"),
        FirebaseMLDestination(project_id=PROJECT, bucket=BUCKET),
    ]


def test_one_push_to_all_of_them(tmp_path: Path, services: Services) -> None:
    inputs, place = given.inputs_of(tmp_path / "run"), Place(tmp_path)
    pushed = place.push(inputs, destinations=destinations_to_json(destinations(tmp_path)))
    receipts = json.loads(pushed.get_string_custom_property("destinations"))
    assert [(r["destination"], r["status"]) for r in receipts] == [
        (str(tmp_path / "folder"), "pushed"),
        (f"gs://{BUCKET}/public", "pushed"),
        (f"firebase_ml://{PROJECT}", "pushed"),
    ]
    details = receipts[2]["details"]
    assert services.firebase.by_name("digits") is not None
    for name in ("firebase_model_id", "firebase_model_hash", "firebase_etag"):
        assert pushed.get_string_custom_property(name) == details[name] != ""
    assert pushed.get_string_custom_property("pushed_destination") == str(tmp_path / "folder")
    for destination in destinations(tmp_path):
        assert resolve(destination.open_store(), "digits", "production").model == model_bytes()

    before = len(services.storage.mutations), len(services.firebase.mutations)
    again = place.push(inputs, destinations=destinations_to_json(destinations(tmp_path)))
    assert again.get_string_custom_property("push_status") == "unchanged"
    assert again.get_string_custom_property("firebase_model_id") == details["firebase_model_id"]
    dry = place.push(
        given.inputs_of(tmp_path / "next", model_bytes(2)),
        destinations=destinations_to_json(destinations(tmp_path)),
        dry_run=1,
    )
    assert dry.get_string_custom_property("push_status") == "dry_run"
    assert (len(services.storage.mutations), len(services.firebase.mutations)) == before
