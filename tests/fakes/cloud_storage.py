"""Cloud Storage, as far as a release store and the devices that read it use it.

The JSON API of one bucket: uploads in one request and in parts, reading, listing, changing metadata and deleting, with
preconditions on generation and metageneration, checksums, permissions and the limit of one update a second per object.
What devices use is there too: the addresses of public objects and Firebase's own endpoint. What the fake does not know
it refuses, so that a client cannot rely on it.

Shapes and wording follow the service's documentation and its own test bench. `test_fake_cloud_storage.py` has a table
of what it does.
"""

from __future__ import annotations

import base64
import copy
import datetime
import hashlib
import json
import re
import time
import urllib.parse
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import google_crc32c

from tests.fakes.http_server import FakeServer, Request, Response

BUCKET = "models"

#: What a session of an upload in parts keeps is a multiple of this, until the last part.
QUANTUM = 256 * 1024

PERMISSIONS = frozenset(f"storage.objects.{verb}" for verb in ("create", "delete", "get", "list", "update"))
_WRITABLE = frozenset(
    {
        "cacheControl",
        "contentDisposition",
        "contentEncoding",
        "contentLanguage",
        "contentType",
        "customTime",
        "metadata",
    }
)
_PRECONDITIONS = frozenset(
    {"ifGenerationMatch", "ifGenerationNotMatch", "ifMetagenerationMatch", "ifMetagenerationNotMatch"}
)
_COMMON = frozenset({"prettyPrint", "projection", "fields", "alt"})


class Clock:
    """Seconds since 1970, by the service; moves by `step` each time it is looked at."""

    def __init__(self, step: float = 0.0) -> None:
        self.now = 1_750_000_000.0
        self.step = step

    def __call__(self) -> float:
        self.now += self.step
        return self.now


@dataclass
class Stored:
    """A live object."""

    name: str
    data: bytes
    generation: int
    created: datetime.datetime
    updated: datetime.datetime
    metageneration: int = 1
    properties: dict[str, Any] = field(default_factory=dict)


@dataclass
class _Session:
    """An upload in parts."""

    name: str
    properties: dict[str, Any]
    conditions: dict[str, str]
    data: bytearray = field(default_factory=bytearray)
    total: int | None = None
    done: Stored | None = None


class _Refusal(Exception):
    def __init__(self, status: int, message: str, reason: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason


class FakeCloudStorage(FakeServer):
    """One bucket.

    Args:
        bucket: Its name; requests for any other are told that there is none.
        clock: Seconds since 1970, by the service.
        seconds_between_updates: How often one object may be written or deleted.
        permission_first: Whether a write over an existing object without the permission to delete is told that, and not
            that the precondition fails. Nobody has said which of the two the service checks first.
        condition_at_start: Whether the precondition of an upload in parts is checked at its first request, and not
            only when the last part has arrived. It is documented for the first; the test bench does the second.
    """

    def __init__(
        self,
        bucket: str = BUCKET,
        *,
        clock: Callable[[], float] = time.time,
        seconds_between_updates: float = 1.0,
        permission_first: bool = True,
        condition_at_start: bool = True,
    ) -> None:
        super().__init__()
        self.bucket = bucket
        self.objects: dict[str, Stored] = {}
        self.public = False
        #: What the caller may do, by the beginning of an object's name; the longest that fits counts.
        self.permissions: dict[str, Collection[str]] = {"": PERMISSIONS}
        #: How many bytes of the next part are kept, rounded down to the quantum; None: all of them.
        self.keep_of_next_part: int | None = None
        self.clock = clock
        self._seconds_between_updates = seconds_between_updates
        self._permission_first = permission_first
        self._condition_at_start = condition_at_start
        self._sessions: dict[str, _Session] = {}
        self._last_update: dict[str, float] = {}
        self._last_generation = 0

    def put(self, name: str, data: bytes, **properties: Any) -> Stored:
        """Stores an object past all checks, as somebody else would."""
        moment = self.clock()
        now = datetime.datetime.fromtimestamp(moment, datetime.timezone.utc)
        self._last_generation = max(self._last_generation + 1, int(moment * 1_000_000))
        stored = Stored(name, data, self._last_generation, now, now, properties=dict(properties))
        self.objects[name] = stored
        return stored

    def restore(self, objects: Mapping[str, Stored]) -> None:
        """Goes on from what was in another fake; generations that were given are not given again."""
        self.objects = copy.deepcopy(dict(objects))
        self._last_generation = max((stored.generation for stored in objects.values()), default=0)

    def forget_uploads(self) -> None:
        """Uploads in parts that are not done are lost, as after a week."""
        self._sessions = {key: session for key, session in self._sessions.items() if session.done}

    def handle(self, request: Request) -> Response:
        try:
            return self._route(request)
        except _Refusal as refusal:
            if request.query.get("alt") == "media":
                return Response(refusal.status, str(refusal).encode(), {"Content-Type": "text/html; charset=UTF-8"})
            details = {"message": str(refusal), "domain": "global", "reason": refusal.reason}
            error = {"code": refusal.status, "message": str(refusal), "errors": [details]}
            return Response.of_json({"error": error}, refusal.status)

    def _route(self, request: Request) -> Response:
        path = request.path
        if match := re.fullmatch(r"/upload/storage/v1/b/([^/]+)/o", path):
            self._check_bucket(match[1])
            return self._upload(request)
        if match := re.fullmatch(r"/storage/v1/b/([^/]+)/o", path):
            self._check_bucket(match[1])
            if request.method == "GET":
                return self._list(request)
        elif match := re.fullmatch(r"(/download)?/storage/v1/b/([^/]+)/o/([^/]+)", path):
            self._check_bucket(match[2])
            name = urllib.parse.unquote(match[3])
            if request.method == "GET":
                return self._get(request, name)
            if request.method == "PATCH" and not match[1]:
                return self._patch(request, name)
            if request.method == "DELETE" and not match[1]:
                return self._delete(request, name)
        elif match := re.fullmatch(r"/v0/b/([^/]+)/o/([^/]+)", path):
            # Firebase's endpoint, whose rules let everybody get and nobody list.
            self._check_bucket(match[1])
            if request.method == "GET":
                stored = self._live(urllib.parse.unquote(match[2]))
                if request.query == {"alt": "media"}:
                    return self._media(request, stored)
                return Response.of_json({"name": stored.name, "bucket": self.bucket, "size": str(len(stored.data))})
        elif match := re.fullmatch(r"/(?!storage/|upload/|download/|v0/)([^/]+)/(.+)", path):
            self._check_bucket(match[1])
            if request.method in ("GET", "HEAD"):
                if not self.public:
                    raise _Refusal(403, "Anonymous caller does not have storage.objects.get access.", "forbidden")
                return self._media(request, self._live(urllib.parse.unquote(match[2])))
        raise _Refusal(501, f"The fake knows no {request.method} {path}", "notImplemented")

    # Reading

    def _get(self, request: Request, name: str) -> Response:
        query = _known(request, _COMMON | _PRECONDITIONS | {"generation"})
        self._check_permission("get", name)
        if name not in self.objects:
            self._check_permission("list", name)  # who may not list is not told what is absent
        stored = self._live(name, query.get("generation"))
        self._check_conditions(query, stored, reading=True)
        if query.get("alt") == "media":
            return self._media(request, stored)
        return Response.of_json(self._resource(stored))

    def _media(self, request: Request, stored: Stored) -> Response:
        headers = {
            "Content-Type": stored.properties.get("contentType", "application/octet-stream"),
            "Cache-Control": stored.properties.get(
                "cacheControl", "public, max-age=3600" if self.public else "private, max-age=0"
            ),
            "ETag": f'"{_md5(stored.data)}"',
            "X-Goog-Generation": str(stored.generation),
            "X-Goog-Metageneration": str(stored.metageneration),
            "X-Goog-Hash": f"crc32c={crc32c(stored.data)},md5={_md5(stored.data)}",
            "X-Goog-Stored-Content-Length": str(len(stored.data)),
            "X-Goog-Stored-Content-Encoding": stored.properties.get("contentEncoding", "identity"),
        }
        if encoding := stored.properties.get("contentEncoding"):
            headers["Content-Encoding"] = encoding
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", "")):
            first, last = int(match[1]), int(match[2] or len(stored.data) - 1)
            if first >= len(stored.data):
                raise _Refusal(416, "The requested range cannot be satisfied.", "requestedRangeNotSatisfiable")
            part = stored.data[first : last + 1]
            headers["Content-Range"] = f"bytes {first}-{first + len(part) - 1}/{len(stored.data)}"
            return Response(206, part, headers)
        return Response(200, stored.data, headers)

    def _list(self, request: Request) -> Response:
        query = _known(request, _COMMON | {"prefix", "pageToken", "maxResults"})
        prefix = query.get("prefix", "")
        self._check_permission("list", prefix)
        after = base64.b64decode(query["pageToken"]).decode() if "pageToken" in query else ""
        names = sorted(name for name in self.objects if name.startswith(prefix) and name > after)
        page = names[: int(query.get("maxResults", 1000))]
        answer: dict[str, Any] = {"kind": "storage#objects"}
        if page:  # the service leaves empty lists out
            answer["items"] = [self._resource(self.objects[name]) for name in page]
        if len(page) < len(names):
            answer["nextPageToken"] = base64.b64encode(page[-1].encode()).decode()
        return Response.of_json(answer)

    # Writing

    def _upload(self, request: Request) -> Response:
        query = _known(request, _COMMON | _PRECONDITIONS | {"uploadType", "upload_id", "name"})
        if "upload_id" in query:
            return self._continue(request, query["upload_id"])
        if request.method == "POST" and query.get("uploadType") == "multipart":
            properties, content_type, data = _parts_of(request)
            properties.setdefault("contentType", content_type)
            stored = self._commit(properties.pop("name"), data, properties, query)
            return Response.of_json(self._resource(stored))
        if request.method == "POST" and query.get("uploadType") == "resumable":
            properties = dict(request.json())
            name = properties.pop("name")
            if content_type := request.headers.get("x-upload-content-type"):
                properties.setdefault("contentType", content_type)
            self._check_writing(name, query if self._condition_at_start else {})
            key = f"session-{len(self._sessions)}"
            self._sessions[key] = _Session(name, properties, query)
            address = f"{self.endpoint}{request.path}?uploadType=resumable&upload_id={key}"
            return Response(200, b"", {"Location": address})
        raise _Refusal(400, f"The fake knows no upload of type {query.get('uploadType')!r}", "invalid")

    def _continue(self, request: Request, key: str) -> Response:
        """A part of an upload, or the question how far it has come."""
        session = self._sessions.get(key)
        if session is None:
            raise _Refusal(404, "Not Found", "notFound")
        if request.method == "DELETE":
            del self._sessions[key]
            return Response(499)
        if request.method != "PUT":
            raise _Refusal(405, f"{request.method} is not allowed", "methodNotAllowed")
        if session.done is not None:
            return Response.of_json(self._resource(session.done))
        asked = re.fullmatch(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)", request.headers.get("content-range", ""))
        if asked is None:
            raise _Refusal(400, "Invalid Content-Range", "invalid")
        if asked[3] != "*":
            session.total = int(asked[3])
        if asked[1] is not None:
            first = int(asked[1])
            if int(asked[2]) - first + 1 != len(request.body):
                raise _Refusal(400, "Content-Range does not fit the content", "invalid")
            if first > len(session.data):
                raise _Refusal(400, "The part does not follow on what was kept", "invalid")
            arrived = request.body[len(session.data) - first :]  # what is there already is not written again
            if self.keep_of_next_part is not None:
                arrived = arrived[: self.keep_of_next_part // QUANTUM * QUANTUM]
                self.keep_of_next_part = None
            session.data += arrived
        if session.total is not None and len(session.data) >= session.total:
            session.done = self._commit(session.name, bytes(session.data), session.properties, session.conditions)
            return Response.of_json(self._resource(session.done))
        if len(session.data) % QUANTUM:
            raise _Refusal(400, f"All parts but the last are multiples of {QUANTUM} bytes", "invalid")
        return Response(308, b"", {"Range": f"bytes=0-{len(session.data) - 1}"} if session.data else {})

    def _check_writing(self, name: str, conditions: Mapping[str, str]) -> None:
        self._check_permission("create", name)
        stored = self.objects.get(name)
        if stored is not None and self._permission_first:
            self._check_permission("delete", name)
        self._check_conditions(conditions, stored, reading=False)
        if stored is not None:
            self._check_permission("delete", name)

    def _commit(self, name: str, data: bytes, properties: Mapping[str, Any], conditions: Mapping[str, str]) -> Stored:
        self._check_writing(name, conditions)
        for key, actual in (("crc32c", crc32c(data)), ("md5Hash", _md5(data))):
            said = properties.get(key, actual)
            if said != actual:
                what = "CRC32C" if key == "crc32c" else "MD5 hash"
                raise _Refusal(400, f'Provided {what} "{said}" doesn\'t match calculated {what} "{actual}".', "invalid")
        unknown = set(properties) - _WRITABLE - {"crc32c", "md5Hash"}
        if unknown:
            raise _Refusal(400, f"Unknown fields {sorted(unknown)}", "invalid")
        self._check_rate(name)
        return self.put(name, data, **{key: value for key, value in properties.items() if key in _WRITABLE})

    def _patch(self, request: Request, name: str) -> Response:
        query = _known(request, _COMMON | _PRECONDITIONS | {"generation"})
        self._check_permission("update", name)
        stored = self._live(name, query.get("generation"))
        self._check_conditions(query, stored, reading=False)
        changes = request.json()
        if unknown := set(changes) - _WRITABLE:
            raise _Refusal(400, f"Unknown fields {sorted(unknown)}", "invalid")
        self._check_rate(name)
        stored.properties.update(changes)
        stored.metageneration += 1
        stored.updated = datetime.datetime.fromtimestamp(self.clock(), datetime.timezone.utc)
        return Response.of_json(self._resource(stored))

    def _delete(self, request: Request, name: str) -> Response:
        query = _known(request, _COMMON | _PRECONDITIONS | {"generation"})
        self._check_permission("delete", name)
        stored = self._live(name, query.get("generation"))
        self._check_conditions(query, stored, reading=False)
        self._check_rate(name)
        del self.objects[name]
        return Response(204)

    # Rules

    def _check_bucket(self, bucket: str) -> None:
        if bucket != self.bucket:
            raise _Refusal(404, "The specified bucket does not exist.", "notFound")

    def _live(self, name: str, generation: str | None = None) -> Stored:
        stored = self.objects.get(name)
        if stored is None or (generation is not None and stored.generation != int(generation)):
            raise _Refusal(404, f"No such object: {self.bucket}/{name}", "notFound")
        return stored

    def _check_permission(self, verb: str, name: str) -> None:
        permission = f"storage.objects.{verb}"
        prefix = max((prefix for prefix in self.permissions if name.startswith(prefix)), key=len, default=None)
        if prefix is None or permission not in self.permissions[prefix]:
            raise _Refusal(
                403,
                f"pusher@project.iam.gserviceaccount.com does not have {permission} access to the Google Cloud Storage "
                f"object. Permission '{permission}' denied on resource (or it may not exist).",
                "forbidden",
            )

    def _check_conditions(self, query: Mapping[str, str], stored: Stored | None, reading: bool) -> None:
        generation = stored.generation if stored else 0
        metageneration = stored.metageneration if stored else 0
        same = (("ifGenerationMatch", generation), ("ifMetagenerationMatch", metageneration))
        other = (("ifGenerationNotMatch", generation), ("ifMetagenerationNotMatch", metageneration))
        if any(key in query and int(query[key]) != value for key, value in same):
            raise _Refusal(412, "At least one of the pre-conditions you specified did not hold.", "conditionNotMet")
        if any(key in query and int(query[key]) == value for key, value in other):
            raise _Refusal(
                304 if reading else 412,
                "At least one of the pre-conditions you specified did not hold.",
                "conditionNotMet",
            )

    def _check_rate(self, name: str) -> None:
        now = self.clock()
        if now - self._last_update.get(name, float("-inf")) < self._seconds_between_updates:
            raise _Refusal(
                429,
                f"The object {self.bucket}/{name} exceeded the rate limit for object mutation operations (create, "
                "update, and delete). Please reduce your request rate. See "
                "https://cloud.google.com/storage/docs/gcs429.",
                "rateLimitExceeded",
            )
        self._last_update[name] = now

    def _resource(self, stored: Stored) -> dict[str, Any]:
        quoted = urllib.parse.quote(stored.name, safe="")
        return {
            "kind": "storage#object",
            "id": f"{self.bucket}/{stored.name}/{stored.generation}",
            "selfLink": f"{self.endpoint}/storage/v1/b/{self.bucket}/o/{quoted}",
            "mediaLink": f"{self.endpoint}/download/storage/v1/b/{self.bucket}/o/{quoted}"
            f"?generation={stored.generation}&alt=media",
            "name": stored.name,
            "bucket": self.bucket,
            "generation": str(stored.generation),
            "metageneration": str(stored.metageneration),
            "storageClass": "STANDARD",
            "size": str(len(stored.data)),
            "md5Hash": _md5(stored.data),
            "crc32c": crc32c(stored.data),
            "etag": base64.b64encode(f"{stored.generation}/{stored.metageneration}".encode()).decode(),
            "timeCreated": _rfc3339(stored.created),
            "updated": _rfc3339(stored.updated),
            **stored.properties,
        }


def crc32c(data: bytes) -> str:
    """As the service writes it."""
    return base64.b64encode(google_crc32c.Checksum(data).digest()).decode()


def _md5(data: bytes) -> str:
    return base64.b64encode(hashlib.md5(data).digest()).decode()


def _rfc3339(moment: datetime.datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def _known(request: Request, names: Collection[str]) -> dict[str, str]:
    if unknown := set(request.query) - set(names):
        raise _Refusal(400, f"The fake knows no parameters {sorted(unknown)} of {request.method}", "invalid")
    return request.query


def _parts_of(request: Request) -> tuple[dict[str, Any], str, bytes]:
    """Metadata, content type and content of a multipart/related body."""
    boundary = re.search(r'boundary="?([^";]+)"?', request.headers.get("content-type", ""))
    if boundary is None:
        raise _Refusal(400, "No boundary", "invalid")
    parts = (b"\r\n" + request.body).split(b"\r\n--" + boundary[1].encode())
    if len(parts) != 4 or not parts[3].startswith(b"--"):
        raise _Refusal(400, "Malformed multipart body", "invalid")
    _, metadata, content, _ = parts
    header, _, data = content.partition(b"\r\n\r\n")
    content_type = re.search(rb"content-type: *([^\r\n]+)", header, re.IGNORECASE)
    properties: dict[str, Any] = json.loads(metadata.partition(b"\r\n\r\n")[2])
    return properties, content_type[1].decode() if content_type else "application/octet-stream", data
