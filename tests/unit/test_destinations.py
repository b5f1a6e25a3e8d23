"""Destinations are data: validated when written down, JSON in and out, light to import."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tfx_mobile import FilesystemDestination
from tfx_mobile.release_store.destinations import destinations_to_json, parse_destinations

FOLDER = FilesystemDestination(base_directory="/srv/releases")


def test_json_round_trip_is_canonical() -> None:
    written = destinations_to_json([FOLDER, FilesystemDestination(base_directory="/srv/other")])
    assert written == (
        '[{"base_directory":"/srv/releases","type":"filesystem"},{"base_directory":"/srv/other","type":"filesystem"}]'
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
    ("destinations", "message"),
    [
        ([], "destinations is empty"),
        ("[]", "destinations is empty"),
        ("", "is not JSON"),
        ("/srv/releases", "is not JSON"),
        ("3", "is not a list"),
        ('{"type": "filesystem", "base_directory": "/srv"}', "is not a list"),
        (FOLDER, "is not a list"),
        (["/srv/releases"], "Unknown destination '/srv/releases'; valid types: filesystem"),
        ([{"base_directory": "/srv"}], "Unknown destination .*; valid types: filesystem"),
        ([{"type": "ftp", "base_directory": "/srv"}], "Unknown destination .*'ftp'.*; valid types: filesystem"),
        ([{"type": ["filesystem"]}], "Unknown destination"),
        ([{"type": "filesystem"}], "Invalid FilesystemDestination"),
    ],
)
def test_malformed_destinations(destinations: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_destinations(destinations)  # type: ignore[arg-type]


def test_a_store_is_opened_without_touching_the_folder(tmp_path: Path) -> None:
    store = FilesystemDestination(base_directory=tmp_path / "new").open_store()
    assert store.address == str(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_importing_a_destination_imports_neither_tfx_nor_tensorflow() -> None:
    program = (
        "import json, sys; from tfx_mobile import FilesystemDestination; import tfx_mobile.release_store.delivery; "
        "print(json.dumps([name for name in ('tfx', 'tensorflow', 'apache_beam') if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
