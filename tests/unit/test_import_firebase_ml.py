"""What Firebase ML serves becomes releases."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.fakes import tflite_files
from tests.fakes.firebase_ml import BUCKET, PROJECT, FakeFirebaseML
from tests.fakes.firebase_project import QUICK, use_fake
from tests.fakes.releases import CHANNEL, model_bytes, push_of, tree
from tfx_mobile import FilesystemDestination, FirebaseMLDestination
from tfx_mobile.commands.import_firebase_ml import import_firebase_ml
from tfx_mobile.errors import ConflictError, ModelTooLargeError
from tfx_mobile.records import sha256_of
from tfx_mobile.release_store.delivery import open_destinations
from tfx_mobile.release_store.filesystem_store import FilesystemStore
from tfx_mobile.release_store.firebase_ml import importing
from tfx_mobile.release_store.firebase_ml.client import FirebaseMLClient
from tfx_mobile.release_store.firebase_ml.importing import ImportedModel, import_models
from tfx_mobile.release_store.publishing import publish
from tfx_mobile.release_store.reading import resolve
from tfx_mobile.release_store.signing import NO_KEYS
from tfx_mobile.tflite.flatbuffer import inspect_model

pytestmark = pytest.mark.filterwarnings("ignore:Google shuts Firebase ML:FutureWarning")


@pytest.fixture(scope="module")
def small() -> bytes:
    return tflite_files.dense("int8")


@pytest.fixture(scope="module")
def other() -> bytes:
    return tflite_files.dense("float32")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeFirebaseML]:
    with FakeFirebaseML(page_size=2) as fake:
        use_fake(monkeypatch, fake)
        yield fake
    assert fake.violations == []


def imported(folder: Path, **options: Any) -> dict[str, ImportedModel]:
    destinations = open_destinations([FilesystemDestination(base_directory=folder)], NO_KEYS)
    return {result.model: result for result in import_models(FirebaseMLClient(PROJECT, QUICK), destinations, **options)}


def test_all_that_is_published(fake: FakeFirebaseML, tmp_path: Path, small: bytes, other: bytes) -> None:
    hosted = fake.host("digits", small)
    fake.host("faces", other)
    fake.host("draft", small, published=False)
    fake.host("broken", b"nothing", published=False)
    fake.host("letters", other)
    results = imported(tmp_path)
    assert {name: result.status for name, result in results.items()} == {
        "broken": "not_published",
        "digits": "imported",
        "draft": "not_published",
        "faces": "imported",
        "letters": "imported",
    }
    assert results["broken"].reason == "Invalid flatbuffer format"
    release = resolve(FilesystemStore(str(tmp_path)), "digits", CHANNEL)
    assert (release.model, release.channel_version) == (small, 1)
    manifest = release.manifest
    assert (results["digits"].sha256, results["digits"].release_id) == (sha256_of(small), release.release_id)
    assert manifest.file == inspect_model(small)
    assert manifest.labels == {
        "source": "firebase_ml",
        "firebase_project": PROJECT,
        "firebase_model_id": hosted.id,
    }
    assert (manifest.variant, manifest.recipe, manifest.evaluation, manifest.lineage) == (
        "firebase_ml",
        None,
        None,
        None,
    )
    assert set(manifest.versions) == {"tfx-mobile"}
    assert fake.mutations == []


def test_again_and_after_a_change(fake: FakeFirebaseML, tmp_path: Path, small: bytes, other: bytes) -> None:
    fake.host("digits", small)
    fake.host("faces", other)
    imported(tmp_path)
    before = tree(tmp_path)
    assert {result.status for result in imported(tmp_path).values()} == {"unchanged"}
    assert tree(tmp_path) == before
    hosted = fake.by_name("digits")
    assert hosted is not None
    fake._accept(hosted, other, "gs://elsewhere/y.tflite")
    assert {name: result.status for name, result in imported(tmp_path).items()} == {
        "digits": "imported",
        "faces": "unchanged",
    }
    release = resolve(FilesystemStore(str(tmp_path)), "digits", CHANNEL)
    assert (release.model, release.channel_version) == (other, 2)


def test_dry_run(fake: FakeFirebaseML, tmp_path: Path, small: bytes) -> None:
    fake.host("digits", small)
    (tmp_path / "store").mkdir()
    assert imported(tmp_path / "store", dry_run=True)["digits"].status == "dry_run"
    assert tree(tmp_path) == {}
    imported(tmp_path / "store")
    assert imported(tmp_path / "store", dry_run=True)["digits"].status == "unchanged"


def test_chosen_names_and_channel(fake: FakeFirebaseML, tmp_path: Path, small: bytes, other: bytes) -> None:
    fake.host("digits", small)
    fake.host("faces", other)
    assert list(imported(tmp_path, names=["faces"], channel="legacy")) == ["faces"]
    assert resolve(FilesystemStore(str(tmp_path)), "faces", "legacy").model == other
    with pytest.raises(ConflictError, match=r"no model 'voices' in the project demo-project; it has: digits, faces"):
        imported(tmp_path, names=["voices"])
    with pytest.raises(ValueError, match="channel='Legacy' is not valid"):
        imported(tmp_path, channel="Legacy")


def test_what_a_pipeline_published_is_left_alone(fake: FakeFirebaseML, tmp_path: Path, small: bytes) -> None:
    store = FilesystemStore(str(tmp_path))
    publish(store, push_of(model_bytes(1)))
    fake.host("digits", small)
    before = tree(tmp_path)
    for dry_run in (True, False):
        result = imported(tmp_path, dry_run=dry_run)["digits"]
        assert result.status == "kept"
        assert "names a release that a pipeline published" in result.reason
    assert tree(tmp_path) == before
    assert imported(tmp_path, channel="legacy")["digits"].status == "imported"


def test_one_that_fails_does_not_stop_the_others(fake: FakeFirebaseML, tmp_path: Path, small: bytes) -> None:
    fake.host("broken", b"\x1c\x00\x00\x00TFL3 but not really")
    fake.host("digits", small)
    results = imported(tmp_path)
    assert {name: result.status for name, result in results.items()} == {"broken": "failed", "digits": "imported"}
    assert "The file cannot be read" in results["broken"].reason
    assert {name.split("/")[1] for name in tree(tmp_path)} == {"digits"}


def test_a_process_that_dies_of_a_file(
    fake: FakeFirebaseML, tmp_path: Path, small: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.host("digits", small)
    monkeypatch.setattr(importing, "_DESCRIBE", f"{__name__}:abort")
    assert "ended: killed by SIGABRT" in imported(tmp_path)["digits"].reason


def abort(request: object, emit: object) -> None:
    import os

    os.abort()


def test_an_address_that_expired_is_asked_for_again(fake: FakeFirebaseML, tmp_path: Path, small: bytes) -> None:
    fake.host("digits", small)
    fake.expired_downloads = 2
    assert imported(tmp_path)["digits"].status == "imported"
    fake.expired_downloads = 100
    result = imported(tmp_path, channel="other")["digits"]
    assert (result.status, "cannot be fetched (400 from 127.0.0.1)" in result.reason) == ("failed", True)
    assert "secret" not in result.reason


def test_without_permission_to_download(fake: FakeFirebaseML, tmp_path: Path, small: bytes) -> None:
    fake.host("digits", small)
    fake.forbidden = {"models.download"}
    result = imported(tmp_path)["digits"]
    assert (result.status, "roles/firebaseml.admin" in result.reason) == ("failed", True)


def test_a_file_that_is_too_large(fake: FakeFirebaseML, small: bytes) -> None:
    fake.host("digits", small)
    with pytest.raises(ModelTooLargeError, match="at most 100 are read"):
        FirebaseMLClient(PROJECT, QUICK).served("digits", 100)


def test_firebase_ml_is_no_place_to_import_into(fake: FakeFirebaseML) -> None:
    destinations = open_destinations([FirebaseMLDestination(project_id=PROJECT, bucket=BUCKET)], NO_KEYS)
    with pytest.raises(ValueError, match="Give a CloudStorageDestination or a FilesystemDestination instead"):
        import_models(FirebaseMLClient(PROJECT, QUICK), destinations)


def test_importing_works_as_long_as_the_service_does(fake: FakeFirebaseML, tmp_path: Path, small: bytes) -> None:
    fake.set_date(2027, 6, 20)
    fake.host("digits", small)
    assert imported(tmp_path)["digits"].status == "imported"


# --- the command ------------------------------------------------------------------------------------------------------


def run(*arguments: object) -> Result:
    return CliRunner().invoke(import_firebase_ml, ["--project", PROJECT, *map(str, arguments)])


def test_the_command(fake: FakeFirebaseML, tmp_path: Path, small: bytes) -> None:
    fake.host("digits", small)
    done = run("--to", tmp_path, "--dry-run")
    assert (done.exit_code, f"digits: dry_run {len(small)} bytes" in done.output.replace(",", "")) == (0, True)
    done = run("--to", json.dumps({"type": "filesystem", "base_directory": str(tmp_path)}), "--json")
    (result,) = json.loads(done.output)["models"]
    assert (result["model"], result["status"], result["sha256"]) == ("digits", "imported", sha256_of(small))
    assert "digits: unchanged" in run("--to", tmp_path, "--model", "digits").output


def test_the_command_says_what_failed(fake: FakeFirebaseML, tmp_path: Path) -> None:
    assert "has no models in the project demo-project" in run("--to", tmp_path).output
    fake.host("broken", b"\x1c\x00\x00\x00TFL3 but not really")
    done = run("--to", tmp_path)
    assert (done.exit_code, "broken: failed" in done.output) == (1, True)
    done = run("--to", tmp_path, "--model", "voices")
    assert (done.exit_code, "no model 'voices'" in done.output) == (1, True)
    assert "not JSON" in run("--to", "{").output
    assert "Unknown destination" in run("--to", '{"type": "ftp"}').output
