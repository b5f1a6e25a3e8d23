"""Destinations are data: validated when written down, JSON in and out, light to import."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tfx_mobile import CloudStorageDestination, FilesystemDestination, FirebaseMLDestination
from tfx_mobile.release_store.destinations import destinations_to_json, parse_destinations

FOLDER = FilesystemDestination(base_directory="/srv/releases")
BUCKET = CloudStorageDestination(bucket="my-models")


def test_json_round_trip_is_canonical() -> None:
    written = destinations_to_json([FOLDER, FilesystemDestination(base_directory="/srv/other")])
    assert written == (
        '[{"base_directory":"/srv/releases","type":"filesystem"},{"base_directory":"/srv/other","type":"filesystem"}]'
    )
    assert destinations_to_json(parse_destinations(written)) == written


def test_json_of_a_bucket_says_everything() -> None:
    written = destinations_to_json(
        [BUCKET, CloudStorageDestination(bucket="b.c", prefix="m/r", public=True, channel_max_age_seconds=30)]
    )
    assert written == (
        '[{"bucket":"my-models","channel_max_age_seconds":0,"prefix":"","public":false,"type":"cloud_storage"},'
        '{"bucket":"b.c","channel_max_age_seconds":30,"prefix":"m/r","public":true,"type":"cloud_storage"}]'
    )
    assert destinations_to_json(parse_destinations(written)) == written


def test_objects_mappings_and_paths_are_accepted(tmp_path: Path) -> None:
    mapping = {"type": "filesystem", "base_directory": "/srv/releases"}
    assert parse_destinations([FOLDER, mapping]) == (FOLDER, FOLDER)
    assert FilesystemDestination(base_directory=tmp_path).base_directory == str(tmp_path)


def test_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        FOLDER.base_directory = "/elsewhere"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"base_directory": "gs://bucket/releases"}, r"base_directory='gs://bucket/releases': .* mount the place"),
        ({"base_directory": "file:///srv"}, "not an address with a scheme"),
        ({"base_directory": " "}, "name a folder"),
        ({"base_directory": 3}, r"base_directory=3: .*valid string"),
        ({}, r"base_directory.*required"),
        ({"base_directory": "/srv", "more": "x"}, r"more='x': .*not permitted"),
    ],
)
def test_malformed_destination(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        FilesystemDestination(**values)
    assert "Write FilesystemDestination(base_directory='/path/of/a/folder')" in str(raised.value)


@pytest.mark.parametrize(
    "bucket",
    ["abc", "my-models", "my_models", "1models", "project.appspot.com", "project.firebasestorage.app", "a" * 63],
)
def test_buckets(bucket: str) -> None:
    assert CloudStorageDestination(bucket=bucket).bucket == bucket


def test_a_bucket_is_the_same_place_however_it_is_served() -> None:
    again = CloudStorageDestination(bucket="my-models", public=True, channel_max_age_seconds=60)
    assert again.place == BUCKET.place == "gs://my-models/"
    assert CloudStorageDestination(bucket="my-models", prefix="a").place != BUCKET.place


@pytest.mark.parametrize("prefix", ["", "releases", "mobile/releases", "v1.2/a_b-c", "_x", "a" * 256])
def test_prefixes(prefix: str) -> None:
    assert CloudStorageDestination(bucket="my-models", prefix=prefix).prefix == prefix


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, r"bucket.*required"),
        ({"bucket": ""}, "3 to 63 lower-case letters"),
        ({"bucket": "ab"}, "3 to 63 lower-case letters"),
        ({"bucket": "a" * 64}, "3 to 63 lower-case letters"),
        ({"bucket": "My-models"}, "bucket='My-models': a bucket's name has 3 to 63 lower-case letters"),
        ({"bucket": "my models"}, "3 to 63 lower-case letters"),
        ({"bucket": "-models"}, "3 to 63 lower-case letters"),
        ({"bucket": "models-"}, "3 to 63 lower-case letters"),
        ({"bucket": "a..b"}, "3 to 63 lower-case letters"),
        ({"bucket": "models\n"}, "3 to 63 lower-case letters"),
        ({"bucket": "192.168.5.4"}, "cannot look like an IP address"),
        ({"bucket": "goog-models"}, "begin with 'goog'"),
        ({"bucket": "my-google-models"}, "contain 'google'"),
        ({"bucket": "gs://my-models"}, r"write CloudStorageDestination\(bucket='my-models'\)"),
        (
            {"bucket": "gs://my-models/mobile/releases/"},
            r"write CloudStorageDestination\(bucket='my-models', prefix='mobile/releases'\)",
        ),
        ({"bucket": "my-models/releases"}, r"write CloudStorageDestination\(bucket='my-models', prefix='releases'\)"),
        ({"bucket": "my-models", "prefix": "/releases"}, "without '/' at the beginning or end"),
        ({"bucket": "my-models", "prefix": "releases/"}, "without '/' at the beginning or end"),
        ({"bucket": "my-models", "prefix": "a//b"}, "prefix='a//b': a prefix is one folder or several"),
        ({"bucket": "my-models", "prefix": "a/../b"}, "not beginning with a dot"),
        ({"bucket": "my-models", "prefix": "."}, "not beginning with a dot"),
        ({"bucket": "my-models", "prefix": "a b"}, "letters, digits, dots"),
        ({"bucket": "my-models", "prefix": "ä"}, "letters, digits, dots"),
        ({"bucket": "my-models", "prefix": "a\n"}, "letters, digits, dots"),
        ({"bucket": "my-models", "prefix": "a" * 257}, "at most 256 characters, this one has 257"),
        ({"bucket": "my-models", "channel_max_age_seconds": -1}, "use 0 to 60"),
        ({"bucket": "my-models", "channel_max_age_seconds": 61}, "use 0 to 60: a cached channel keeps devices from"),
        ({"bucket": "my-models", "channel_max_age_seconds": True}, "valid integer"),
        ({"bucket": "my-models", "channel_max_age_seconds": "30"}, "valid integer"),
        ({"bucket": "my-models", "region": "europe"}, "region='europe': .*not permitted"),
    ],
)
def test_malformed_bucket(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        CloudStorageDestination(**values)
    assert "Write CloudStorageDestination(bucket='my-models', prefix='releases')" in str(raised.value)


@pytest.mark.parametrize(
    ("destinations", "message"),
    [
        ([], "destinations is empty"),
        ("[]", "destinations is empty"),
        ("", "is not JSON"),
        ("/srv/releases", "is not JSON"),
        ("3", "is not a list"),
        ('{"type": "filesystem", "base_directory": "/srv"}', "is not a list"),
        (FOLDER, "is not a list"),
        (["/srv/releases"], "Unknown destination '/srv/releases'; valid types: filesystem, cloud_storage"),
        ([{"base_directory": "/srv"}], "Unknown destination .*; valid types: filesystem"),
        ([{"type": "ftp", "base_directory": "/srv"}], "Unknown destination .*'ftp'.*; valid types: filesystem"),
        ([{"type": ["filesystem"]}], "Unknown destination"),
        ([{"type": "filesystem"}], "Invalid FilesystemDestination"),
        ([{"type": "cloud_storage"}], "Invalid CloudStorageDestination"),
    ],
)
def test_malformed_destinations(destinations: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_destinations(destinations)  # type: ignore[arg-type]


def test_a_store_is_opened_without_touching_the_folder(tmp_path: Path) -> None:
    store = FilesystemDestination(base_directory=tmp_path / "new").open_store()
    assert store.address == str(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_bucket_is_opened_without_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")  # where nobody listens
    store = CloudStorageDestination(bucket="my-models", prefix="releases").open_store()
    assert store.address == "gs://my-models/releases"


def test_defining_a_bucket_imports_no_client() -> None:
    program = (
        "import json, sys; from tfx_mobile import CloudStorageDestination; CloudStorageDestination(bucket='models'); "
        "print(json.dumps([name for name in ('tfx', 'tensorflow', 'google.cloud.storage', 'google.auth', 'requests')"
        " if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


def test_importing_a_destination_imports_neither_tfx_nor_tensorflow() -> None:
    program = (
        "import json, sys; from tfx_mobile import FilesystemDestination; import tfx_mobile.release_store.delivery; "
        "print(json.dumps([name for name in ('tfx', 'tensorflow', 'apache_beam') if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


@pytest.mark.parametrize(
    ("one", "same", "other"),
    [
        (
            FilesystemDestination(base_directory="/srv/x"),
            FilesystemDestination(base_directory="/srv/y/../x/"),
            FilesystemDestination(base_directory="/srv/y"),
        ),
        (
            CloudStorageDestination(bucket="my-models"),
            CloudStorageDestination(bucket="my-models", public=True, channel_max_age_seconds=30),
            CloudStorageDestination(bucket="my-models", prefix="beta"),
        ),
        (
            FirebaseMLDestination(project_id="my-project", bucket="my-models"),
            FirebaseMLDestination(project_id="my-project", bucket="your-models", tags=("vision",)),
            FirebaseMLDestination(project_id="my-project", bucket="my-models", display_name="faces"),
        ),
    ],
    ids=lambda destination: destination.type,
)
def test_two_destinations_are_one_place_if_they_would_write_the_same(one: Any, same: Any, other: Any) -> None:
    assert one.place == same.place != other.place
