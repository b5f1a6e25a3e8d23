"""Parameters that look like secrets are refused, ordinary ones are not. Every secret here is made up or made here."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import string
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from pydantic import BaseModel

from tfx_mobile import FilesystemDestination
from tfx_mobile.errors import SecretParameterError
from tfx_mobile.secrets_check import refuse_secrets

RANDOM = random.Random(4)
WORDS = string.ascii_letters + string.digits


def some(count: int, alphabet: str = WORDS) -> str:
    return "".join(RANDOM.choices(alphabet, k=count))


def encoded(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def private_pem(key: Any, form: Any = serialization.PrivateFormat.PKCS8) -> str:
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()


def public_pem(key: Any) -> str:
    public = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(serialization.Encoding.PEM, public).decode()


P256, ED25519 = ec.generate_private_key(ec.SECP256R1()), ed25519.Ed25519PrivateKey.generate()
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
SERVICE_ACCOUNT = json.dumps(
    {"type": "service_account", "project_id": "p", "private_key": private_pem(P256), "client_email": "a@b"}
)
JWT = f"{encoded(json.dumps({'alg': 'RS256'}))}.{encoded(json.dumps({'sub': 'somebody'}))}.{some(40)}"


class Anything(BaseModel):
    text: str


SECRETS = {
    "a P-256 key": (private_pem(P256), "private key in PEM form"),
    "an Ed25519 key": (private_pem(ED25519), "private key in PEM form"),
    "an RSA key of old": (private_pem(RSA, serialization.PrivateFormat.TraditionalOpenSSL), "private key in PEM form"),
    "an OpenSSH key": (private_pem(ED25519, serialization.PrivateFormat.OpenSSH), "private key in PEM form"),
    "a service account": (SERVICE_ACCOUNT, "private key in PEM form"),
    "a service account without its key": (
        '{"type": "service_account", "client_id": "1"}',
        "credentials file of Google",
    ),
    "gcloud's own credentials": ('{"refresh_token":"x","client_id":"y"}', "credentials file of Google"),
    "an access token": (f"ya29.{some(60)}", "OAuth access token"),
    "an access token in a text": (f"use ya29.a0{some(60)} please", "OAuth access token"),
    "a refresh token": (f"1//0{some(40)}", "OAuth refresh token"),
    "an API key": (f"AIza{some(35)}", "API key of Google"),
    "an identity token": (JWT, "JSON Web Token"),
    "a header": (f"Bearer {some(32)}", "authorization header"),
    "AWS's key id": (f"AKIA{some(16, string.ascii_uppercase)}", "access key of AWS"),
    "AWS's key id of a session": (f"ASIA{some(16, string.ascii_uppercase)}", "access key of AWS"),
    "AWS's key": (f"aB3{some(35)}7z", "secret access key of AWS"),
    "Azure's connection string": (
        f"DefaultEndpointsProtocol=https;AccountName=a;AccountKey={some(86)}==;EndpointSuffix=core.windows.net",
        "account key of Azure",
    ),
    "Azure's account key": (base64.b64encode(RANDOM.randbytes(64)).decode(), "account key of Azure"),
    "Azure's client secret": (f"{some(3)}8Q~{some(34)}", "client secret of Azure"),
    "a SAS address": (f"https://a.blob.core.windows.net/c?sv=2021-08-06&sp=r&sig={some(20)}%3D", "signed address"),
    "a SAS": (f"sv=2021-08-06&sp=r&sig={some(20)}%3D", "signed address"),
    "a signed address": (f"https://storage.googleapis.com/b/o?X-Goog-Signature={some(64)}", "signed address"),
    "an older signed address": (f"https://b.s3.amazonaws.com/o?Expires=1&Signature={some(28)}", "signed address"),
    "a download address of Firebase": (
        "https://firebasestorage.googleapis.com/v0/b/b/o/o?alt=media&token=0f-1a",
        "signed address",
    ),
    "an address with a password": ("https://me:secret@example.com/models", "user or password in an address"),
    "an address with a token": (f"https://{some(20)}@example.com", "user or password in an address"),
    "Azure's address with a password": ("abfss://me:secret@a.dfs.core.windows.net", "user or password in an address"),
}


@pytest.mark.parametrize(("secret", "kind"), SECRETS.values(), ids=SECRETS.keys())
@pytest.mark.parametrize(
    ("wrap", "place"),
    [
        (lambda s: s, "thing holds"),
        (lambda s: {"a": [0, {"b": s}]}, r"thing\['a'\]\[1\]\['b'\] holds"),
        (lambda s: json.dumps([{"base": s}]), "thing"),
        (lambda s: {s: "value"}, "A key in thing holds"),
        (lambda s: [Anything(text=s)], r"thing\[0\]\['text'\] holds"),
        (lambda s: s.encode(), "thing holds"),
    ],
    ids=["text", "nested", "JSON", "key", "model", "bytes"],
)
def test_a_secret_is_refused_and_not_repeated(secret: str, kind: str, wrap: Any, place: str) -> None:
    with pytest.raises(SecretParameterError, match=place) as raised:
        refuse_secrets({"fine": "digits", "thing": wrap(secret)})
    message = str(raised.value)
    assert kind in message
    assert "workload identity" in message
    assert "revoke" in message
    assert secret not in message
    for part in secret.replace('"', " ").split():
        assert len(part) < 16 or part not in message
    assert raised.value.__cause__ is None
    assert raised.value.__context__ is None


@pytest.mark.parametrize(
    "value",
    [
        {"password": "x"},
        {"clientSecret": "x"},
        {"client-secret": "x"},
        {"api_key": "x"},
        {"credentials": ["x"]},
        {"aws_secret_access_key": "x"},
        {"session_token": "x"},
        {"storage": {"connection_string": "x"}},
        {"google_application_credentials": "/somewhere"},
    ],
)
def test_what_a_name_calls_a_secret_is_one(value: Any) -> None:
    for form in (value, json.dumps(value)):
        with pytest.raises(SecretParameterError, match="its name says that it is a secret"):
            refuse_secrets({"labels": form})


@pytest.mark.parametrize(
    "value",
    [
        {"signing_key": "/var/run/signer.pem"},
        {"signing_key": {"key": "keys/service-account.json"}},
        {"trusted_keys": ["one.pem"]},
        {"destinations": [{"account": "firebase.json"}]},
        {"destinations": '[{"serviceAccount": "me.P12"}]'},
    ],
)
def test_the_path_of_a_key_file_is_refused_where_a_key_could_be_meant(value: Any) -> None:
    with pytest.raises(SecretParameterError, match=r"path of what looks like a key file.*Cloud KMS"):
        refuse_secrets(value)


def test_a_destination_refuses_them_before_it_says_what_is_wrong_with_a_value() -> None:
    secret = some(30)
    with pytest.raises(SecretParameterError, match=r"FilesystemDestination\['base_directory'\] holds a user") as raised:
        FilesystemDestination(base_directory=f"https://{secret}@example.com/models")
    assert secret not in str(raised.value)
    with pytest.raises(SecretParameterError, match=r"FilesystemDestination\['base_directory'\] holds a signed address"):
        FilesystemDestination(base_directory=Path(f"/mnt/x?sig={secret}"))
    with pytest.raises(SecretParameterError, match=r"FilesystemDestination\['key'\] holds the path of"):
        FilesystemDestination(base_directory="/srv", key="/var/service-account.json")


def test_no_false_alarm() -> None:
    sha256, sha512 = hashlib.sha256(b"x"), hashlib.sha512(b"x")
    refuse_secrets(
        {
            "model_name": "keyboard_prediction_v2",
            "channel": "production",
            "dry_run": 0,
            "nothing": None,
            "variant": "integer_only_int8",
            "fingerprint": "tfx-mobile 0.1.0, release schema 2",
            "destinations": [
                FilesystemDestination(base_directory="/srv/Models2024/Release12/KeyboardPrediction3"),
                {"type": "cloud_storage", "bucket": "my-app.appspot.com", "prefix": "models/v1//0"},
                "gs://my-app.firebasestorage.app/models@v1/token=3",
                "s3://bucket/prefix?region=eu-central-1&endpoint=https://minio:9000",
                "abfss://container@account.dfs.core.windows.net/models",
                "https://storage.googleapis.com/bucket/object?alt=media&generation=17",
            ],
            "labels": {
                "commit": hashlib.sha1(b"x").hexdigest(),
                "sha256": sha256.hexdigest(),
                "integrity": f"sha256-{base64.b64encode(sha256.digest()).decode()}",
                "sha512": sha512.hexdigest(),
                "contact": "vision-team@example.com",
                "token_limit": "128",
                "tokenizer": "wordpiece, at most 3 tokens; signature=serving_default",
                "secret_sauce": "none",
                "password_strength_model": "yes",
                "keyboard_layouts": "layouts.json",
                "model_card": "card.json",
                "note": "Bearer of good news, basic convolutional_network_version",
                "empty_password_field": "",
                "password": " ",
                "id": "0f8fad5b-d9cb-469f-a165-70867728950e",
                "pipeline": "projects/p/locations/europe-west1/pipelineJobs/run-20260101",
            },
            "trusted_keys": [public_pem(P256), public_pem(ED25519), public_pem(RSA)],
            "trusted_keys_json": json.dumps([public_pem(P256), public_pem(RSA)]),
            "one_line": public_pem(RSA).replace("\n", ""),
            "signing_key": {
                "type": "kms",
                "key": "projects/p/locations/global/keyRings/r/cryptoKeys/models/cryptoKeyVersions/1",
            },
            "signing_key_of_tests": {"type": "environment", "variable": "RELEASE_SIGNING_KEY"},
            "impersonate": "pusher@my-app.iam.gserviceaccount.com",
            "not_json": "{not json",
        }
    )
