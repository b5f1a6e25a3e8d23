"""Two object stores with the services' own requests and answers: Amazon S3 and Azure Blob Storage.

Both honour preconditions as the real services do, may be told to ignore them, as some that call themselves compatible
did, and refuse requests without a signature. Keys are made up per server.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import email.utils
import hashlib
import os
import re
import secrets
import urllib.parse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar
from xml.sax.saxutils import escape

import pytest

from tests.fakes.http_server import FakeServer, Request, Response
from tests.fakes.releases import CHANNEL, MODEL
from tfx_mobile.google_rest import Patience
from tfx_mobile.records import ChannelStatement, Envelope
from tfx_mobile.release_store.names import channel_path
from tfx_mobile.release_store.reading import CHANNEL_TYPE
from tfx_mobile.release_store.store import Store

BUCKET = "mobile-models"
PREFIX = "team/models"
PAGE_SIZE = 3  # so small that every list of a test has several pages
EARLIEST = datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone.utc)

#: For tests in which no answer comes, and for all others.
IMPATIENT = Patience(connect_seconds=1.0, read_seconds=0.2, total_seconds=5.0, first_wait_seconds=0.002)
PATIENT = Patience(connect_seconds=10.0, read_seconds=30.0, total_seconds=30.0, first_wait_seconds=0.002)


@dataclass(frozen=True)
class Stored:
    """An object."""

    data: bytes
    etag: str  # without quotes
    modified: datetime.datetime
    headers: Mapping[str, str]


class ObjectStoreServer(FakeServer):
    """What the two have in common.

    Attributes:
        objects: By key.
        ignores: Names of the headers that are ignored, in lower case.
        denied: A request whose method and key begin with one of these pairs is refused.
        conflicts: How many of the next writes meet a conflicting one that comes to nothing.
    """

    #: What the service calls these errors.
    codes: ClassVar[Mapping[str, str]]
    status_of_put = 200

    def __init__(self) -> None:
        super().__init__()
        self.objects: dict[str, Stored] = {}
        self.ignores: set[str] = set()
        self.denied: set[tuple[str, str]] = set()
        self.conflicts = 0
        self.bucket_exists = True
        self.writes: list[str] = []
        self._ticks = 0

    def environment(self) -> dict[str, str]:
        """Variables that give a client its credentials."""
        raise NotImplementedError

    @classmethod
    def store_at(cls, endpoint: str, patience: Patience) -> Store:
        """A store on such a server."""
        raise NotImplementedError

    def open_store(self, patience: Patience = PATIENT) -> Store:
        """A store on this server, as a new process would open it."""
        return self.store_at(self.endpoint, patience)

    def take_over(self, other: ObjectStoreServer) -> None:
        """Goes on from where another server ended."""
        self.objects, self.writes, self._ticks = dict(other.objects), list(other.writes), other._ticks

    def at(self, path: str) -> bytes | None:
        """The bytes of an object of the store, looked at from inside."""
        stored = self.objects.get(f"{PREFIX}/{path}")
        return stored.data if stored else None

    def statement(self, channel: str = CHANNEL, model_name: str = MODEL) -> ChannelStatement | None:
        """What a channel says, looked at from inside."""
        data = self.at(channel_path(model_name, channel))
        return ChannelStatement.from_json(Envelope.from_json(data).open(CHANNEL_TYPE)) if data else None

    @property
    def secret_texts(self) -> tuple[str, ...]:
        """What must never be seen in a message, log or receipt."""
        raise NotImplementedError

    def signature_problem(self, request: Request) -> str | None:
        """Why a request is not signed; None if it is."""
        raise NotImplementedError

    def error_details(self, request: Request) -> str:
        """More XML for an answer to a request whose signature is wrong."""
        return ""

    def etag_of(self, data: bytes) -> str:
        """The ETag that an object written now gets."""
        raise NotImplementedError

    def list_page(self, keys: list[str], token: str | None) -> bytes:
        """The page of a list, in the service's XML."""
        raise NotImplementedError

    def handle(self, request: Request) -> Response:
        if problem := self.signature_problem(request):
            return self.error(403, "unsigned", problem, self.error_details(request))
        _, bucket, *rest = urllib.parse.unquote(request.path).split("/", 2)
        key = rest[0] if rest else ""
        if any(request.method == method and key.startswith(prefix) for method, prefix in self.denied):
            return self.error(403, "denied", "not allowed")
        if not self.bucket_exists or bucket != BUCKET:
            return self.error(404, "no bucket", "the bucket does not exist")
        if not key:
            return self.on_bucket(request)
        if request.method == "PUT":
            return self.put(request, key)
        if request.method == "DELETE":
            self.objects.pop(key, None)
            return Response(204)
        return self.get(request, key)

    def on_bucket(self, request: Request) -> Response:
        prefix, token = request.query.get("prefix", ""), self.token_of(request)
        keys = [key for key in sorted(self.objects) if key.startswith(prefix) and key > token]
        page, more = keys[:PAGE_SIZE], len(keys) > PAGE_SIZE
        return Response(200, self.list_page(page, page[-1] if more else None), {"Content-Type": "application/xml"})

    def token_of(self, request: Request) -> str:
        """Where a list goes on."""
        raise NotImplementedError

    def put(self, request: Request, key: str) -> Response:
        if self.conflicts:
            self.conflicts -= 1
            return self.error(409, "conflict", "a conflicting operation")
        existing = self.objects.get(key)
        wanted = self.condition(request, "if-match")
        if self.condition(request, "if-none-match") == "*" and existing is not None:
            return self.exists_already()
        if wanted is not None and (existing is None or wanted != existing.etag):
            return self.if_match_failed(existing)
        return self.write(key, request.body, request.headers)

    def write(self, key: str, data: bytes, headers: Mapping[str, str]) -> Response:
        self._ticks += 1
        modified = EARLIEST + datetime.timedelta(seconds=self._ticks)
        self.objects[key] = Stored(data, self.etag_of(data), modified, headers)
        self.writes.append(key)
        return Response(self.status_of_put, b"", {"ETag": f'"{self.objects[key].etag}"'})

    def condition(self, request: Request, name: str) -> str | None:
        value = request.headers.get(name)
        return None if value is None or name in self.ignores else value.strip('"')

    def exists_already(self) -> Response:
        return self.error(412, "condition", "a precondition did not hold")

    def if_match_failed(self, existing: Stored | None) -> Response:
        return self.error(412, "condition", "a precondition did not hold")

    def get(self, request: Request, key: str) -> Response:
        existing = self.objects.get(key)
        if existing is None:
            return self.error(404, "no object", "the object does not exist")
        headers = {
            "ETag": f'"{existing.etag}"',
            "Last-Modified": email.utils.format_datetime(existing.modified, usegmt=True),
            "Content-Type": existing.headers.get("content-type", "application/octet-stream"),
        }
        if self.condition(request, "if-none-match") == existing.etag:
            return Response(304, b"", headers)
        ranged = re.fullmatch(r"bytes=(\d+)-(\d*)", self.range_of(request))
        if not ranged:
            return Response(200, existing.data, headers)
        first, last = int(ranged[1]), min(int(ranged[2] or len(existing.data)), len(existing.data) - 1)
        headers["Content-Range"] = f"bytes {first}-{last}/{len(existing.data)}"
        return Response(206, existing.data[first : last + 1], headers)

    def range_of(self, request: Request) -> str:
        return request.headers.get("range", "")

    def error(self, status: int, what: str, message: str, details: str = "") -> Response:
        body = (
            f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{self.codes[what]}</Code>'
            f"<Message>{escape(message)}</Message>{details}</Error>"
        )
        return Response(status, body.encode(), {"Content-Type": "application/xml"})


class S3Server(ObjectStoreServer):
    """The REST interface of Amazon S3, addressed by path."""

    codes: ClassVar = {
        "unsigned": "SignatureDoesNotMatch",
        "denied": "AccessDenied",
        "no bucket": "NoSuchBucket",
        "no object": "NoSuchKey",
        "condition": "PreconditionFailed",
        "conflict": "ConditionalRequestConflict",
    }

    def __init__(self) -> None:
        super().__init__()
        self.key_id = "AKIA" + secrets.token_hex(8).upper()
        self.secret = secrets.token_urlsafe(30)
        self.session_token = secrets.token_urlsafe(40)

    def environment(self) -> dict[str, str]:
        return {
            "AWS_ACCESS_KEY_ID": self.key_id,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_SESSION_TOKEN": self.session_token,
        }

    @property
    def secret_texts(self) -> tuple[str, ...]:
        return (self.secret, self.session_token, self.key_id)

    @classmethod
    def store_at(cls, endpoint: str, patience: Patience) -> Store:
        from tfx_mobile.release_store.conditional_store import open_s3

        address = f"{endpoint}/{BUCKET}/{PREFIX}"
        return open_s3(BUCKET, PREFIX, address=address, region="eu-central-1", endpoint=endpoint, patience=patience)

    def signature_problem(self, request: Request) -> str | None:
        signed = re.fullmatch(
            r"AWS4-HMAC-SHA256 Credential=(\w+)/\d{8}/[a-z0-9-]+/s3/aws4_request, "
            r"SignedHeaders=([a-z0-9;-]+), Signature=[0-9a-f]{64}",
            request.headers.get("authorization", ""),
        )
        if not signed or signed[1] != self.key_id:
            return "The request signature we calculated does not match the signature you provided."
        if not {"host", "x-amz-content-sha256", "x-amz-date", "x-amz-security-token"} <= set(signed[2].split(";")):
            return "headers are missing from the signature"
        if request.headers["x-amz-content-sha256"] != hashlib.sha256(request.body).hexdigest():
            return "the body is not the signed one"
        return None

    def error_details(self, request: Request) -> str:
        # The real service repeats what it signed itself, and the session's token is among it.
        token = request.headers.get("x-amz-security-token", "")
        return f"<CanonicalRequest>{request.method} x-amz-security-token:{escape(token)}</CanonicalRequest>"

    def etag_of(self, data: bytes) -> str:
        return hashlib.md5(data).hexdigest()

    def if_match_failed(self, existing: Stored | None) -> Response:
        if existing is None:  # unlike RFC 9110
            return self.error(404, "no object", "the object does not exist")
        return super().if_match_failed(existing)

    def token_of(self, request: Request) -> str:
        assert request.query["list-type"] == "2"
        return request.query.get("continuation-token", "")

    def list_page(self, keys: list[str], token: str | None) -> bytes:
        rows = "".join(
            f"<Contents><Key>{escape(key)}</Key><LastModified>{stored.modified:%Y-%m-%dT%H:%M:%S.000Z}</LastModified>"
            f"<ETag>&quot;{stored.etag}&quot;</ETag><Size>{len(stored.data)}</Size>"
            "<StorageClass>STANDARD</StorageClass></Contents>"
            for key, stored in ((key, self.objects[key]) for key in keys)
        )
        more = f"<NextContinuationToken>{escape(token)}</NextContinuationToken>" if token else ""
        return (
            '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult><Name>' + BUCKET + f"</Name>{more}"
            f"<IsTruncated>{'true' if token else 'false'}</IsTruncated>{rows}</ListBucketResult>"
        ).encode()


class AzureBlobServer(ObjectStoreServer):
    """The REST interface of Azure Blob Storage, for one account."""

    account = "mobilemodels"
    codes: ClassVar = {
        "unsigned": "AuthenticationFailed",
        "denied": "AuthorizationPermissionMismatch",
        "no bucket": "ContainerNotFound",
        "no object": "BlobNotFound",
        "exists": "BlobAlreadyExists",
        "condition": "ConditionNotMet",
        "conflict": "LeaseIdMissing",
    }
    status_of_put = 201

    def __init__(self) -> None:
        super().__init__()
        self.account_key = base64.b64encode(secrets.token_bytes(64)).decode()

    def environment(self) -> dict[str, str]:
        return {"AZURE_STORAGE_ACCOUNT_KEY": self.account_key}

    @property
    def secret_texts(self) -> tuple[str, ...]:
        return (self.account_key,)

    @classmethod
    def store_at(cls, endpoint: str, patience: Patience) -> Store:
        from tfx_mobile.release_store.conditional_store import open_azure

        address = f"{endpoint}/{BUCKET}/{PREFIX}"
        return open_azure(BUCKET, PREFIX, address=address, account=cls.account, endpoint=endpoint, patience=patience)

    def signature_problem(self, request: Request) -> str | None:
        if not re.fullmatch(
            rf"SharedKey {self.account}:[A-Za-z0-9+/]{{43}}=", request.headers.get("authorization", "")
        ):
            return "Make sure the value of Authorization header is formed correctly including the signature."
        if request.method == "PUT" and request.headers.get("x-ms-blob-type") != "BlockBlob":
            return "x-ms-blob-type is missing"
        return None if {"x-ms-version", "date"} <= set(request.headers) else "headers are missing"

    def etag_of(self, data: bytes) -> str:
        return f"0x8D{self._ticks:013X}"  # each write gets another, also of the same bytes

    def exists_already(self) -> Response:
        return self.error(409, "exists", "The specified blob already exists.")

    def range_of(self, request: Request) -> str:
        return request.headers.get("x-ms-range") or request.headers.get("range", "")

    def token_of(self, request: Request) -> str:
        assert (request.query["restype"], request.query["comp"]) == ("container", "list")
        return request.query.get("marker", "")

    def list_page(self, keys: list[str], token: str | None) -> bytes:
        rows = "".join(
            f"<Blob><Name>{escape(key)}</Name><Properties>"
            f"<Last-Modified>{email.utils.format_datetime(stored.modified, usegmt=True)}</Last-Modified>"
            f"<Etag>{stored.etag}</Etag><Content-Length>{len(stored.data)}</Content-Length>"
            "<Content-Type>application/octet-stream</Content-Type><BlobType>BlockBlob</BlobType></Properties></Blob>"
            for key, stored in ((key, self.objects[key]) for key in keys)
        )
        return (
            f'<?xml version="1.0" encoding="utf-8"?><EnumerationResults ContainerName="{BUCKET}"><Blobs>{rows}</Blobs>'
            f"<NextMarker>{escape(token or '')}</NextMarker></EnumerationResults>"
        ).encode()

    def on_bucket(self, request: Request) -> Response:
        return self.batch(request) if request.query.get("comp") == "batch" else super().on_bucket(request)

    def batch(self, request: Request) -> Response:
        """A Blob Batch of deletions; each part is a request of its own."""
        parts = []
        for number, path in enumerate(re.findall(rb"\r\nDELETE /(\S+) HTTP/1.1\r\n", request.body)):
            key = urllib.parse.unquote(path.decode()).removeprefix(f"{BUCKET}/")
            if any(method == "DELETE" and key.startswith(prefix) for method, prefix in self.denied):
                status = "403 This request is not authorized to perform this operation using this permission."
            elif self.objects.pop(key, None) is None:
                status = "404 The specified blob does not exist."
            else:
                status = "202 Accepted"
            parts.append(
                f"--batch\r\nContent-Type: application/http\r\nContent-ID: {number}\r\n\r\n"
                f"HTTP/1.1 {status}\r\nx-ms-version: 2023-11-03\r\n\r\n"
            )
        body = "".join(parts) + "--batch--\r\n"
        return Response(202, body.encode(), {"Content-Type": "multipart/mixed; boundary=batch"})


@contextlib.contextmanager
def serving(kind: type[ObjectStoreServer]) -> Iterator[ObjectStoreServer]:
    """A running service, its credentials in the environment, and nobody else's."""
    with kind() as server, pytest.MonkeyPatch.context() as patch:
        assert isinstance(server, ObjectStoreServer)
        for name in os.environ:
            if name.upper().startswith(("AWS_", "AZURE_")) or name.upper().endswith("_PROXY"):
                patch.delenv(name)
        for name, value in server.environment().items():
            patch.setenv(name, value)
        yield server
