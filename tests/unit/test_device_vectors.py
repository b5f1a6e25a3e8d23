"""The vectors in docs/ are what this package's own client makes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import device_vectors
from tfx_mobile.device_client import DeviceClient
from tfx_mobile.device_client.state import DeviceFolder, DeviceState
from tfx_mobile.errors import TFXMobileError
from tfx_mobile.release_store.names import channel_path
from tfx_mobile.release_store.reading import open_manifest
from tfx_mobile.release_store.signing import Keyring, TrustedKeys, key_id_of, load_public_key

FILE = Path(__file__).parents[2] / "docs" / "device_vectors.json"
VECTORS = json.loads(FILE.read_text())


def is_accepted(vectors: dict[str, Any], case: dict[str, Any], folder: Path) -> bool:
    """What the reference client does: a channel counts as accepted if it is then asked for its release."""
    model, channel = vectors["model"], vectors["channel"]
    if case["kind"] == "manifest":
        keyring = Keyring(trusted=TrustedKeys.from_pem(vectors["public_key"]))
        try:
            open_manifest(case["envelope"].encode(), model, vectors["release_id"], keyring, "")
        except TFXMobileError:
            return False
        return True
    stored = folder / "store" / channel_path(model, channel)
    stored.parent.mkdir(parents=True)
    stored.write_text(case["envelope"])
    device = DeviceFolder(folder / "device" / model / channel)
    with device.locked():
        device.write_state(DeviceState(highest_version=case["highest_version"]))
    client = DeviceClient(
        folder / "store", model, channel, directory=folder / "device", trusted_keys=[vectors["public_key"]]
    )
    result = client.update()
    assert result.status == "refused"
    return "is missing, though the channel names it" in result.message


@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda case: case["name"])
def test_the_vectors_in_the_docs(case: dict[str, Any], tmp_path: Path) -> None:
    assert is_accepted(VECTORS, case, tmp_path) == case["accepted"]


def test_new_vectors_are_of_the_same_form(tmp_path: Path) -> None:
    made = device_vectors.make()
    assert {name: type(value) for name, value in made.items()} == {name: type(v) for name, v in VECTORS.items()}
    assert [case["name"] for case in made["cases"]] == [case["name"] for case in VECTORS["cases"]]
    for number, case in enumerate(made["cases"]):
        assert is_accepted(made, case, tmp_path / str(number)) == case["accepted"]


def test_no_private_key_is_checked_in() -> None:
    assert "PRIVATE" not in FILE.read_text()
    assert key_id_of(load_public_key(VECTORS["public_key"])) == VECTORS["key_id"]
