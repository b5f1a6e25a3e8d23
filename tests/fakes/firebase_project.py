"""A Firebase project in a test: a release store that stands in for a bucket, the fake service, and followers of it."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.oauth2 import service_account

from tests.fakes.firebase_ml import BUCKET, PROJECT, FakeFirebaseML
from tests.fakes.releases import CHANNEL, MODEL, manifest_of, model_bytes, push_of
from tfx_mobile.google_rest import Patience
from tfx_mobile.records import sha256_of
from tfx_mobile.release_store.channel import Draft, move_channel
from tfx_mobile.release_store.filesystem_store import FilesystemStore
from tfx_mobile.release_store.firebase_ml.client import ENDPOINT_VARIABLE, FirebaseMLClient
from tfx_mobile.release_store.firebase_ml.follower import FirebaseMLFollower
from tfx_mobile.release_store.firebase_ml.signed_urls import SignedUrls
from tfx_mobile.release_store.names import release_id_of
from tfx_mobile.release_store.publishing import publish
from tfx_mobile.release_store.signing import NO_KEYS
from tfx_mobile.release_store.store import FollowResult, Store


def acts(fake: FakeFirebaseML) -> list[str]:
    """Methods of the requests that may have changed something, in order."""
    return [request.method for request in fake.mutations]


EMAIL = f"pusher@{PROJECT}.iam.gserviceaccount.com"
PREFIX = "firebase_ml"

#: Short enough for tests that wait, long enough for a busy machine to answer.
QUICK = Patience(
    connect_seconds=0.5, read_seconds=0.15, total_seconds=5.0, first_wait_seconds=0.002, poll_seconds=0.002
)
IMPATIENT = Patience(
    connect_seconds=0.5, read_seconds=0.5, total_seconds=0.15, first_wait_seconds=0.002, poll_seconds=0.002
)


@functools.cache
def private_key() -> rsa.RSAPrivateKey:
    """Made anew for each test process."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def key_pem() -> str:
    return (
        private_key()
        .private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        .decode()
    )


def service_account_info(pem: str = "") -> dict[str, Any]:
    """What a key file of a service account holds; `pem` is the key of another process."""
    return {
        "type": "service_account",
        "project_id": PROJECT,
        "private_key_id": "made for this test",
        "private_key": pem or key_pem(),
        "client_email": EMAIL,
        "token_uri": "http://127.0.0.1:9/token",
    }


@functools.cache
def credentials_of(pem: str = "") -> service_account.Credentials:
    """An identity that holds the test's key."""
    return service_account.Credentials.from_service_account_info(service_account_info(pem))


def follower_of(store: Store, patience: Patience, pem: str = "", **options: Any) -> FirebaseMLFollower:
    """A follower whose identity holds the test's key."""
    source_of = SignedUrls(BUCKET, PREFIX, credentials=credentials_of(pem))
    return FirebaseMLFollower(FirebaseMLClient(PROJECT, patience), store, source_of, **options)


class Project:
    """A release store in a folder, its Firebase project, and acts on both; each act is that of a fresh process."""

    def __init__(self, folder: Path, fake: FakeFirebaseML, patience: Patience = QUICK) -> None:
        self.store = FilesystemStore(str(folder))
        self.folder = folder
        self.server = fake
        self.patience = patience
        fake.signers[EMAIL] = private_key().public_key()
        fake.buckets[BUCKET] = self._object

    def _object(self, name: str) -> bytes | None:
        path = self.folder / name.removeprefix(f"{PREFIX}/")
        return path.read_bytes() if name.startswith(f"{PREFIX}/") and path.is_file() else None

    def push(self, seed: int, channel: str = CHANNEL) -> bytes:
        """Makes a model the release that the channel names; Firebase ML does not know of it yet."""
        data = model_bytes(seed)
        publish(self.store, push_of(data, channel))
        return data

    def roll_back(self, seed: int) -> bytes:
        """Makes the channel name an earlier release again."""
        data = model_bytes(seed)
        draft = Draft("rollback", release_id_of(manifest_of(data)), sha256_of(data), {})
        move_channel(self.store, MODEL, CHANNEL, lambda _: draft, NO_KEYS)
        return data

    def follower(self, **options: Any) -> FirebaseMLFollower:
        return follower_of(self.store, self.patience, **options)

    def follow(self, **options: Any) -> FollowResult:
        return self.follower(**options).follow(MODEL, CHANNEL)

    @property
    def served(self) -> bytes | None:
        """What devices get."""
        return self.server.served(MODEL)


def use_fake(monkeypatch: Any, fake: FakeFirebaseML) -> None:
    """Sends what this process asks of Firebase ML to the fake."""
    monkeypatch.setenv(ENDPOINT_VARIABLE, fake.endpoint)
