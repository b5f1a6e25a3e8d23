"""Addresses that Firebase ML fetches a file from, signed by identities with and without a key."""

from __future__ import annotations

import base64
import datetime
import json
import urllib.parse
from collections.abc import Iterator
from typing import Any

import google.auth.credentials
import google.auth.exceptions
import pytest
import requests
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from google.auth.transport.requests import Request as GoogleRequest
from google.cloud.storage import _signing
from google.oauth2 import service_account

from tests.fakes.firebase_ml import BUCKET
from tests.fakes.firebase_project import EMAIL, private_key, service_account_info
from tests.fakes.http_server import FakeServer, Request, Response
from tfx_mobile.errors import DestinationUnavailableError
from tfx_mobile.release_store.firebase_ml.signed_urls import SignedUrls

NOW = datetime.datetime(2026, 11, 5, 7, 8, 9, tzinfo=datetime.timezone.utc)
TOKEN = "ya29.a-token-that-nobody-may-see"


class FakeIam(FakeServer):
    """IAM's signBlob, with the key of one service account."""

    def __init__(self) -> None:
        super().__init__()
        self.status = 200

    def handle(self, request: Request) -> Response:
        assert request.headers["authorization"] == f"Bearer {TOKEN}"
        if self.status != 200:
            error = {"code": self.status, "message": f"Permission 'iam.serviceAccounts.signBlob' denied on {EMAIL}"}
            return Response.of_json({"error": error}, self.status)
        assert urllib.parse.unquote(request.path) == f"/v1/projects/-/serviceAccounts/{EMAIL}:signBlob"
        payload = base64.b64decode(request.json()["payload"])
        signature = private_key().sign(payload, padding.PKCS1v15(), hashes.SHA256())
        return Response.of_json({"keyId": "1", "signedBlob": base64.b64encode(signature).decode()})


class ToLoopback(GoogleRequest):  # type: ignore[misc]
    """Makes the requests of Google's library at the fake instead."""

    def __init__(self, iam: FakeIam) -> None:
        session = requests.Session()
        session.trust_env = False
        super().__init__(session)
        self._iam = iam

    def __call__(self, url: str, *args: Any, **kwargs: Any) -> Any:
        parts = urllib.parse.urlsplit(url)
        assert parts.hostname == "iamcredentials.googleapis.com"
        return super().__call__(f"{self._iam.endpoint}{parts.path}", *args, **kwargs)


class TokenOnly(google.auth.credentials.Credentials):  # type: ignore[misc]
    """An identity without a key that, like a machine's, learns its name by refreshing."""

    def __init__(self, email: str | None, before: str | None = "default") -> None:
        super().__init__()
        self.service_account_email = before
        self._email = email

    def refresh(self, request: Any) -> None:
        self.token = TOKEN
        self.service_account_email = self._email


@pytest.fixture
def iam() -> Iterator[FakeIam]:
    with FakeIam() as iam:
        yield iam


def test_the_address_is_the_one_that_googles_library_makes() -> None:
    credentials = service_account.Credentials.from_service_account_info(service_account_info())
    path = "blobs/digits/a b~c+ü.tflite"
    expected = _signing.generate_signed_url_v4(
        credentials,
        resource="/" + urllib.parse.quote(f"{BUCKET}/some/where/{path}", safe="/~"),
        expiration=600,
        api_access_endpoint="https://storage.googleapis.com",
        method="GET",
        _request_timestamp=NOW.strftime("%Y%m%dT%H%M%SZ"),
    )
    made = SignedUrls(BUCKET, "some/where", credentials=credentials)(path, NOW)
    assert _parsed(made) == _parsed(expected)


def _parsed(address: str) -> tuple[str, dict[str, str]]:
    parts = urllib.parse.urlsplit(address)
    return f"{parts.scheme}://{parts.netloc}{parts.path}", dict(urllib.parse.parse_qsl(parts.query))


@pytest.mark.parametrize("named", [None, EMAIL])
def test_iam_signs_for_an_identity_without_a_key(iam: FakeIam, named: str | None) -> None:
    own = service_account.Credentials.from_service_account_info(service_account_info())
    keyless = TokenOnly(None if named else EMAIL)
    made = SignedUrls(BUCKET, "", named, credentials=keyless, request=ToLoopback(iam))("x.tflite", NOW)
    assert made == SignedUrls(BUCKET, "", credentials=own)("x.tflite", NOW)
    assert TOKEN not in made
    assert iam.num_requests == 1


def test_the_named_account_signs_also_for_an_identity_with_a_key(iam: FakeIam) -> None:
    class WithKey(TokenOnly, google.auth.credentials.Signing):  # type: ignore[misc]
        signer_email = "other@demo-project.iam.gserviceaccount.com"
        signer = None

        def sign_bytes(self, message: bytes) -> bytes:
            raise AssertionError("signed by the wrong account")

    made = SignedUrls(BUCKET, "", EMAIL, credentials=WithKey(None), request=ToLoopback(iam))("x.tflite", NOW)
    assert urllib.parse.quote(EMAIL, safe="") in made


@pytest.mark.parametrize("email", [None, "default", ""])
def test_an_identity_that_does_not_say_who_it_is(iam: FakeIam, email: str | None) -> None:
    signed = SignedUrls(BUCKET, "", credentials=TokenOnly(email), request=ToLoopback(iam))
    with pytest.raises(DestinationUnavailableError, match=r"signing_service_account=.*serviceAccountTokenCreator"):
        signed("x.tflite", NOW)
    assert iam.num_requests == 0


def test_without_the_role(iam: FakeIam) -> None:
    iam.status = 403
    signed = SignedUrls(BUCKET, "", credentials=TokenOnly(EMAIL), request=ToLoopback(iam))
    with pytest.raises(
        DestinationUnavailableError, match=r"signBlob.*denied.*roles/iam.serviceAccountTokenCreator"
    ) as e:
        signed("x.tflite", NOW)
    assert TOKEN not in str(e.value)


def test_an_identity_that_cannot_be_refreshed() -> None:
    class Expired(TokenOnly):
        def refresh(self, request: Any) -> None:
            raise google.auth.exceptions.RefreshError(f"bad token {TOKEN}")

    with pytest.raises(DestinationUnavailableError, match=r"No credentials to sign .*RefreshError") as raised:
        SignedUrls(BUCKET, "", credentials=Expired(EMAIL))("x.tflite", NOW)
    assert TOKEN not in str(raised.value)


def test_the_surroundings_give_the_identity(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    key_file = tmp_path / "key.json"
    key_file.write_text(json.dumps(service_account_info()))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(key_file))
    made = SignedUrls(BUCKET, "p")("x.tflite", NOW)
    assert made.startswith(f"https://storage.googleapis.com/{BUCKET}/p/x.tflite?")
    assert urllib.parse.quote(EMAIL, safe="") in made
