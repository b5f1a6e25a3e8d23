"""A place on S3 or Azure as data: what it may say, and that it never holds or repeats credentials."""

from __future__ import annotations

import json
import logging
import secrets
import subprocess
import sys
from typing import Any

import pytest

from tests.fakes.object_store import BUCKET, PREFIX, AzureBlobServer, ObjectStoreServer, S3Server, serving
from tests.fakes.releases import CHANNEL, MODEL, model_bytes, push_of
from tfx_mobile.release_store.delivery import deliver, open_destinations
from tfx_mobile.release_store.destinations import ObjectStoreDestination, destinations_to_json, parse_destinations
from tfx_mobile.release_store.operations import rollback
from tfx_mobile.release_store.reading import resolve
from tfx_mobile.release_store.signing import NO_KEYS

pytest.importorskip("obstore", reason="needs the extra: pip install 'tfx-mobile[object-store]'")

ABFSS = "abfss://models@myaccount.dfs.core.windows.net/team"


@pytest.mark.parametrize(
    ("values", "place"),
    [
        ({"url": "s3://my-bucket"}, "s3://my-bucket"),
        ({"url": "s3://my-bucket/a/b-1.x_y/", "region": "eu-central-1"}, "s3://my-bucket/a/b-1.x_y"),
        ({"url": "s3://b.c", "endpoint": "https://minio.example.com:9000/"}, "https://minio.example.com:9000/b.c"),
        ({"url": "s3://b12/p", "endpoint": "http://127.0.0.1:9000", "region": "auto"}, "http://127.0.0.1:9000/b12/p"),
        ({"url": "s3://b12", "endpoint": "http://[::1]:9000"}, "http://[::1]:9000/b12"),
        ({"url": ABFSS}, "https://myaccount.blob.core.windows.net/models/team"),
        ({"url": "az://models/team", "account": "myaccount"}, "https://myaccount.blob.core.windows.net/models/team"),
        ({"url": ABFSS, "endpoint": "https://x.example"}, "https://x.example/models/team"),
    ],
)
def test_places(values: dict[str, Any], place: str) -> None:
    destination = ObjectStoreDestination(**values)
    assert destination.place == place
    written = destinations_to_json([destination])
    assert parse_destinations(written) == (destination,)
    assert json.loads(written)[0]["type"] == "object_store"


def test_limits_are_those_of_one_request() -> None:
    assert ObjectStoreDestination(url="s3://my-bucket").size_limit == 5 * 2**30
    assert ObjectStoreDestination(url=ABFSS).size_limit == 5000 * 2**20


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "url.*required"),
        ({"url": 3}, "url=3: .*valid string"),
        ({"url": ""}, "url='': not the address .*s3://<bucket>/<prefix>, abfss://"),
        ({"url": "my-bucket"}, "not the address of a bucket"),
        ({"url": "gs://bucket"}, "CloudStorageDestination"),
        ({"url": "https://my-bucket.s3.amazonaws.com/x"}, "not the address of a bucket"),
        ({"url": "s3://Bucket"}, "not the address of a bucket"),
        ({"url": "s3://my-bucket/../x"}, "not the address of a bucket"),
        ({"url": "s3://my-bucket//x"}, "not the address of a bucket"),
        ({"url": "s3://my-bucket/.x"}, "not the address of a bucket"),
        ({"url": "s3://my-bucket", "region": "Frankfurt"}, "region='Frankfurt': not the name of a region"),
        ({"url": "s3://my-bucket", "account": "myaccount"}, "account='myaccount' has no meaning with s3://"),
        ({"url": ABFSS, "region": "westeurope"}, "region='westeurope' has no meaning with abfss://"),
        ({"url": ABFSS, "account": "myaccount"}, "name the storage account .* once"),
        ({"url": "az://models"}, "name the storage account .* once"),
        ({"url": "az://models", "account": "My-Account"}, "account='My-Account': not the name of a storage account"),
        ({"url": "abfss://models@myaccount.example.com"}, "not the address"),
        ({"url": "s3://my-bucket", "endpoint": "minio"}, "endpoint='minio': not an address such as"),
        ({"url": "s3://my-bucket", "endpoint": "http://minio.example.com"}, "in the clear; use https"),
        ({"url": "s3://my-bucket", "endpoint": "ftp://127.0.0.1"}, "not an address such as"),
    ],
)
def test_malformed(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        ObjectStoreDestination(**values)
    assert "Write ObjectStoreDestination(url=" in str(raised.value) or "once" in message or "meaning" in message


SECRET = secrets.token_hex(24)


@pytest.mark.parametrize(
    "values",
    [
        {"url": f"s3://my-bucket/x?X-Amz-Signature={SECRET}"},
        {"url": f"s3://{SECRET}@my-bucket/x"},
        {"url": f"s3://AKIAIOSFODNN7EXAMPLE:{SECRET}@my-bucket/x"},
        {"url": f"{ABFSS}?sig={SECRET}"},
        {"url": f"abfss://models:{SECRET}@myaccount.dfs.core.windows.net"},
        {"url": f"DefaultEndpointsProtocol=https;AccountName=a;AccountKey={SECRET}=="},
        {"url": "s3://my-bucket", "endpoint": f"https://minio.example.com/?token={SECRET}"},
        {"url": "s3://my-bucket", "endpoint": f"https://{SECRET}@minio.example.com"},
        {"url": "s3://my-bucket", "endpoint": f"https://user:{SECRET}@minio.example.com"},
        {"url": "s3://my-bucket", "endpoint": f"https://minio.example.com/#{SECRET}"},
        {"url": "az://models", "account": f"{SECRET}=="},
        {"url": "s3://my-bucket", "region": SECRET},
        {"url": "s3://my-bucket", "secret_access_key": SECRET},
        {"url": "s3://my-bucket", "access_key_id": SECRET},
        {"url": ABFSS, "sas_token": SECRET},
    ],
)
def test_credentials_are_refused_and_not_repeated(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="not repeated here") as raised:
        ObjectStoreDestination(**values)
    assert SECRET not in str(raised.value)
    with pytest.raises(ValueError, match="not repeated here") as raised:
        parse_destinations([{"type": "object_store", **values}])
    assert SECRET not in str(raised.value)


def test_a_missing_extra_is_an_error_when_the_pipeline_is_defined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(ValueError, match=r"pip install 'tfx-mobile\[object-store\]'"):
        ObjectStoreDestination(url="s3://my-bucket")


def test_defining_one_imports_no_client() -> None:
    program = (
        "import json, sys; from tfx_mobile import ObjectStoreDestination; "
        "ObjectStoreDestination(url='s3://my-bucket'); "
        "print(json.dumps([name for name in ('obstore', 'tfx', 'tensorflow') if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


def destination_at(server: ObjectStoreServer) -> ObjectStoreDestination:
    if isinstance(server, S3Server):
        return ObjectStoreDestination(url=f"s3://{BUCKET}/{PREFIX}", endpoint=server.endpoint)
    return ObjectStoreDestination(url=f"az://{BUCKET}/{PREFIX}", account=server.account, endpoint=server.endpoint)


@pytest.mark.parametrize("kind", [S3Server, AzureBlobServer])
def test_a_push_with_the_credentials_of_the_surroundings(
    kind: type[ObjectStoreServer], caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    with serving(kind) as server:
        destination = destination_at(server)
        opened = open_destinations([destination], NO_KEYS)
        assert server.num_requests == 0
        (receipt,) = deliver(opened, push_of(model_bytes()))
        assert receipt.status == "pushed"
        assert receipt.destination == destination.place == f"{server.endpoint}/{BUCKET}/{PREFIX}"
        assert resolve(destination.open_store(), MODEL, CHANNEL).model == model_bytes()
        said = receipt.to_json().decode() + caplog.text + "".join(capfd.readouterr())
        assert not any(text in said for text in server.secret_texts)


@pytest.mark.parametrize("kind", [S3Server, AzureBlobServer])
def test_the_figures_of_the_documentation(kind: type[ObjectStoreServer]) -> None:
    with serving(kind) as server:
        figures = []
        for seed in (1, 2, 2):
            requests, mutations, received = server.num_requests, len(server.mutations), server.bytes_received
            deliver(open_destinations([destination_at(server)], NO_KEYS), push_of(model_bytes(seed)))
            counts = (server.num_requests - requests, len(server.mutations) - mutations)
            figures.append((*counts, server.bytes_received - received))
            sizes = len(model_bytes(seed))
        requests, mutations, received = server.num_requests, len(server.mutations), server.bytes_received
        (opened,) = open_destinations([destination_at(server)], NO_KEYS)
        assert rollback(opened, MODEL, CHANNEL).status == "done"
        counts = (server.num_requests - requests, len(server.mutations) - mutations)
        assert counts == (7, 3)
        assert server.bytes_received - received < 3000
        (first, second, unchanged) = figures
        assert (first[:2], second[:2], unchanged) == ((21, 6), (14, 5), (6, 0, 0))
        assert sizes < first[2] < sizes + 3000


@pytest.mark.parametrize("variable", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT"])
def test_the_surroundings_do_not_lead_a_named_endpoint_astray(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(S3Server) as server, S3Server() as elsewhere:
        for name, value in {
            variable: elsewhere.endpoint,
            "AWS_CONDITIONAL_PUT": "disabled",
            "AWS_UNSIGNED_PAYLOAD": "true",
            "AWS_VIRTUAL_HOSTED_STYLE_REQUEST": "true",
        }.items():
            monkeypatch.setenv(name, value)
        (receipt,) = deliver(open_destinations([destination_at(server)], NO_KEYS), push_of(model_bytes()))
        assert receipt.status == "pushed"
        assert elsewhere.num_requests == 0


def test_the_emulator_of_azure_is_not_taken_for_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(AzureBlobServer) as server, AzureBlobServer() as elsewhere:
        monkeypatch.setenv("AZURE_STORAGE_USE_EMULATOR", "true")
        monkeypatch.setenv("AZURITE_BLOB_STORAGE_URL", elsewhere.endpoint)
        monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", elsewhere.endpoint)
        (receipt,) = deliver(open_destinations([destination_at(server)], NO_KEYS), push_of(model_bytes()))
        assert receipt.status == "pushed"
        assert elsewhere.num_requests == 0
