"""Makes `docs/device_vectors.json`, by which an app in another language checks its own verification.

    PYTHONPATH=components python -m tests.fakes.device_vectors > docs/device_vectors.json

Each run makes a new key and throws its private half away, so no two files are alike, and nobody can sign with it.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from tests.fakes.keys import new_signer, pem_of
from tests.fakes.releases import CHANNEL, MODEL, model_bytes, push_of
from tfx_mobile.records import ChannelStatement, Envelope
from tfx_mobile.release_store.filesystem_store import FilesystemStore
from tfx_mobile.release_store.names import channel_path, release_path
from tfx_mobile.release_store.publishing import publish
from tfx_mobile.release_store.reading import CHANNEL_TYPE, MANIFEST_TYPE
from tfx_mobile.release_store.signing import Keyring, key_id_of


def make() -> dict[str, Any]:
    """All vectors."""
    signer = new_signer()
    with tempfile.TemporaryDirectory() as folder:
        store = FilesystemStore(folder)
        publish(store, push_of(model_bytes(1), keyring=Keyring(signer)))
        old = (Path(folder) / channel_path(MODEL, CHANNEL)).read_text()
        receipt = publish(store, push_of(model_bytes(2), keyring=Keyring(signer)))
        channel = (Path(folder) / channel_path(MODEL, CHANNEL)).read_text()
        manifest = (Path(folder) / release_path(MODEL, receipt.release_id)).read_text()
    envelope = Envelope.from_json(channel)
    payload = envelope.open(CHANNEL_TYPE)
    strange = Keyring(new_signer()).seal(CHANNEL_TYPE, payload)
    altered = ChannelStatement.from_json(payload).model_copy(update={"version": 9}).to_json()
    released = Envelope.from_json(manifest)
    worse = released.open(MANIFEST_TYPE).replace(b'"variant":"float32"', b'"variant":"float16"')
    elsewhere = ChannelStatement.from_json(payload).model_copy(update={"channel": "beta"}).to_json()
    cases = [
        _case("a signed channel", channel, True),
        _case("the same channel again", channel, True, highest_version=2),
        _case("an old channel, put there again", old, False, highest_version=2),
        _case("the old channel, on a device that is new", old, True),
        _case("a payload that was altered", _json(Envelope.seal(CHANNEL_TYPE, altered, envelope.signatures)), False),
        _case("no signature", _json(Envelope.seal(CHANNEL_TYPE, payload)), False),
        _case("another key", _json(strange), False),
        _case(
            "a signature over another type of payload",
            _json(Envelope.seal(CHANNEL_TYPE, payload, Keyring(signer).seal(MANIFEST_TYPE, payload).signatures)),
            False,
        ),
        _case("another channel's statement", _json(Keyring(signer).seal(CHANNEL_TYPE, elsewhere)), False),
        _case(
            "a second signature, of a key that nobody knows",
            _json(Envelope.seal(CHANNEL_TYPE, payload, (*strange.signatures, *envelope.signatures))),
            True,
        ),
        _case("a signed manifest", manifest, True, kind="manifest"),
        _case(
            "a manifest that was altered",
            _json(Envelope.seal(MANIFEST_TYPE, worse, released.signatures)),
            False,
            kind="manifest",
        ),
        _case(
            "another manifest, signed by the right key",
            _json(Keyring(signer).seal(MANIFEST_TYPE, worse)),
            False,
            kind="manifest",
        ),
    ]
    return {
        "model": MODEL,
        "channel": CHANNEL,
        "public_key": pem_of(signer),
        "key_id": key_id_of(signer.public_key),
        "release_id": receipt.release_id,
        "sha256": ChannelStatement.from_json(payload).sha256,
        "cases": cases,
    }


def _case(name: str, envelope: str, accepted: bool, highest_version: int = 0, kind: str = "channel") -> dict[str, Any]:
    return {
        "name": name,
        "kind": kind,
        "highest_version": highest_version,
        "envelope": envelope,
        "accepted": accepted,
    }


def _json(envelope: Envelope) -> str:
    return envelope.to_json().decode()


if __name__ == "__main__":
    print(json.dumps(make(), indent=1))
