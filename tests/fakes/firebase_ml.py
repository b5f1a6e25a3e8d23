"""Firebase ML on the loopback interface, by Google's published description of it.

Every request and every answer is held against that description. What the service does follows the live tests of
Firebase's Admin SDK (firebase-admin-python at b40e738) and its Android client (firebase-android-sdk at a089298); what
neither shows is a switch here, so that both ways are tested: how a file that cannot be fetched is reported, whether a
published model stays published when its file changes, and how the service writes its hash.

The file is fetched from where the request says: from a bucket (`gs://`), from a signed address of one, whose signature
and time are checked, or from an address on the loopback interface.
"""

from __future__ import annotations

import base64
import copy
import datetime
import hashlib
import re
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from tests.fakes.firebase_ml_description import Method, description
from tests.fakes.http_server import FakeServer, Request, Response

PROJECT = "demo-project"
BUCKET = "demo-models"

_DISPLAY_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,31}")
_TAG = re.compile(r"[A-Za-z0-9_-]{1,32}")
_FILTER = re.compile(r"(\w+)\s*[=:]\s*'?\"?([^'\"\s]+)'?\"?")
_TYPE = "type.googleapis.com/google.firebase.ml.v1beta2."
_STATUS = {3: 400, 5: 404, 7: 403, 16: 401}
_NAMES = {3: "INVALID_ARGUMENT", 5: "NOT_FOUND", 7: "PERMISSION_DENIED", 16: "UNAUTHENTICATED"}

ALREADY_EXISTS, NOT_FOUND, FAILED_PRECONDITION, INVALID_ARGUMENT, PERMISSION_DENIED = 6, 5, 9, 3, 7


class _RefusedError(Exception):
    """An error with an HTTP status."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class _FailedError(Exception):
    """An error of an operation."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class _UnfetchableError(Exception):
    """The file is not where the request says."""


@dataclass
class Hosted:
    """A model, as the service keeps it."""

    id: str
    display_name: str
    created: str
    tags: list[str] = field(default_factory=list)
    data: bytes | None = None
    uri: str = ""
    error: str = "No model file has been uploaded."
    published: bool = False
    changes: int = 0
    updated: str = ""
    operation: _Operation | None = None


@dataclass
class _Operation:
    name: str
    model_id: str
    polls: int | None
    finish: Callable[[], None]
    error: tuple[int, str] | None = None
    done: bool = False


class FakeFirebaseML(FakeServer):
    """One project.

    Args:
        polls: How often an operation on a file is looked at before it is done; None: it never is.
        hash_encoding: How hashes are written; `opaque`: so that nobody can read them.
        keeps_published: Whether a published model stays so while its file is replaced.
        unfetchable: Whether a file that cannot be fetched fails the operation, or ends as a validation error.
        page_size: The most models on a page of a list.
    """

    def __init__(
        self,
        *,
        polls: int | None = 0,
        hash_encoding: Literal["hex", "base64", "opaque"] = "hex",
        keeps_published: bool = True,
        unfetchable: Literal["operation", "validation"] = "operation",
        page_size: int = 100,
    ) -> None:
        super().__init__()
        self.polls = polls
        self.models: dict[str, Hosted] = {}
        #: Reads objects of buckets by name; None for those that are not there.
        self.buckets: dict[str, Callable[[str], bytes | None]] = {}
        #: Public keys of the service accounts that may read the buckets.
        self.signers: dict[str, rsa.RSAPublicKey] = {}
        #: Seconds by which the service's clock is ahead of this machine's.
        self.ahead_seconds = 0.0
        #: How many of the next fetches come an hour late, when a signed address has expired.
        self.late_fetches = 0
        #: How many of the next fetches bring other bytes of the same size.
        self.wrong_fetches = 0
        #: How many of the next downloads come when their address has expired.
        self.expired_downloads = 0
        #: Methods that are not permitted, such as `models.create`.
        self.forbidden: set[str] = set()
        #: Operations of the next requests end in these errors: code and message.
        self.operation_errors: list[tuple[int, str]] = []
        #: The first page of each list is empty, though others follow.
        self.empty_first_page = False
        #: What was wrong with answers; stays empty.
        self.violations: list[str] = []
        self._hash_encoding = hash_encoding
        self._keeps_published = keeps_published
        self._unfetchable = unfetchable
        self._page_size = page_size
        self._operations: dict[str, _Operation] = {}
        self._files: dict[str, bytes] = {}
        self._count = 0

    # --- for tests ----------------------------------------------------------------------------------------------------

    def now(self) -> float:
        return time.time() + self.ahead_seconds

    def set_date(self, year: int, month: int, day: int) -> None:
        """Sets the service's clock."""
        moment = datetime.datetime(year, month, day, 12, tzinfo=datetime.timezone.utc)
        self.ahead_seconds = moment.timestamp() - time.time()

    def by_name(self, display_name: str) -> Hosted | None:
        return next((model for model in self.models.values() if model.display_name == display_name), None)

    def served(self, display_name: str) -> bytes | None:
        """What devices get."""
        model = self.by_name(display_name)
        return model.data if model and model.published and not model.error else None

    def host(self, display_name: str, data: bytes, *, published: bool = True, tags: tuple[str, ...] = ()) -> Hosted:
        """Has a model there, as somebody else would have made it."""
        model = self._new(display_name)
        model.tags = list(tags)
        self._accept(model, data, "gs://elsewhere/model.tflite")
        model.published = published
        return model

    def busy(self, display_name: str, polls: int | None) -> None:
        """Somebody else's operation on a model, done when it has been looked at that often."""
        model = self.by_name(display_name)
        assert model is not None
        self._start(model, polls, lambda: None)

    # --- requests -----------------------------------------------------------------------------------------------------

    def handle(self, request: Request) -> Response:
        if request.path.startswith("/files/"):
            return self._file(request.path.removeprefix("/files/"))
        try:
            routed = description().route(request.method, urllib.parse.unquote(request.path))
            if routed is None:
                raise _RefusedError(NOT_FOUND, "Method not found.")
            method, where = routed
            return self._answer(method, where, request)
        except _RefusedError as error:
            status = {"code": _STATUS[error.code], "message": str(error), "status": _NAMES[error.code]}
            return Response.of_json({"error": status}, _STATUS[error.code])

    def _answer(self, method: Method, where: dict[str, str], request: Request) -> Response:
        query = self._query(method, request.query)
        body = self._body(method, request)
        name = method.id.removeprefix("firebaseml.projects.")
        if name in self.forbidden:
            raise _RefusedError(PERMISSION_DENIED, "The caller does not have permission")
        if where["projectsId"] != PROJECT:
            raise _RefusedError(PERMISSION_DENIED, f"Permission denied on resource project {where['projectsId']}.")
        headers: dict[str, str] = {}
        answer: dict[str, Any]
        if name == "models.list":
            answer = self._list(query)
        elif name == "models.get":
            answer = self._shown(self._there(where["modelsId"]))
        elif name == "models.delete":
            del self.models[self._there(where["modelsId"]).id]
            answer = {}
        elif name == "models.create":
            answer = self._operate(lambda: self._create(body))
        elif name == "models.patch":
            answer = self._operate(lambda: self._patch(where["modelsId"], query.get("updateMask"), body))
        elif name == "models.download":
            answer, headers = self._download(where["modelsId"])
            if request.headers.get("if-none-match") == headers["ETag"]:
                return Response(304, headers=headers)
        else:
            answer = self._operation(where["operationsId"])
        self._check(method.response, answer)
        return Response.of_json(answer, headers=headers)

    def _query(self, method: Method, query: dict[str, str]) -> dict[str, str]:
        """The parameters by their name in the description; snake_case is understood as well."""
        by_name = {re.sub("([A-Z])", lambda m: "_" + m[1].lower(), name): name for name in method.query}
        named = {by_name.get(name, name): value for name, value in query.items()}
        for name, value in named.items():
            if name not in method.query and name not in description().common_query:
                raise _RefusedError(INVALID_ARGUMENT, f'Invalid JSON payload received. Unknown name "{name}".')
            if method.query.get(name) == "int32" and not value.isdecimal():
                raise _RefusedError(INVALID_ARGUMENT, f'Invalid value at "{name}".')
        return named

    def _body(self, method: Method, request: Request) -> dict[str, Any]:
        if method.request is None:
            if request.body:
                raise _RefusedError(INVALID_ARGUMENT, "Invalid JSON payload received. Unexpected body.")
            return {}
        try:
            body = request.json()
        except ValueError:
            raise _RefusedError(INVALID_ARGUMENT, "Invalid JSON payload received.") from None
        if problems := description().problems(method.request, body):
            raise _RefusedError(INVALID_ARGUMENT, f"Invalid JSON payload received. {problems[0]}")
        assert isinstance(body, dict)
        return body

    def _check(self, schema: str, answer: dict[str, Any]) -> None:
        problems = description().problems(schema, answer)
        if schema == "Operation":
            for member, inner in (("response", "Model"), ("metadata", "ModelOperationMetadata")):
                if member in answer:
                    assert answer[member]["@type"] == _TYPE + inner
                    content = {name: value for name, value in answer[member].items() if name != "@type"}
                    problems += description().problems(inner, content)
        self.violations += problems

    def _there(self, model_id: str) -> Hosted:
        if model_id not in self.models:
            raise _RefusedError(NOT_FOUND, "Requested entity was not found.")
        return self.models[model_id]

    def _list(self, query: dict[str, str]) -> dict[str, Any]:
        chosen = [model for model in self.models.values() if _matches(model, query.get("filter", ""))]
        start = int(query.get("pageToken", "page-0").removeprefix("page-"))
        if self.empty_first_page and "pageToken" not in query:
            return {"nextPageToken": "page-0"}
        end = start + min(int(query.get("pageSize", 20)), self._page_size)
        answer: dict[str, Any] = {"models": [self._shown(model) for model in chosen[start:end]]}
        if end < len(chosen):
            answer["nextPageToken"] = f"page-{end}"
        return answer if answer["models"] else {}

    def _operate(self, act: Callable[[], _Operation | Hosted]) -> dict[str, Any]:
        try:
            if self.operation_errors:
                raise _FailedError(*self.operation_errors.pop(0))
            outcome = act()
        except _FailedError as error:
            return {"done": True, "error": {"code": error.code, "message": str(error)}}
        if isinstance(outcome, Hosted):
            return {"done": True, "response": {"@type": f"{_TYPE}Model", **self._shown(outcome)}}
        return self._described(outcome)

    def _create(self, body: dict[str, Any]) -> _Operation | Hosted:
        name = body.get("displayName", "")
        self._check_names(name, body.get("tags", []))
        if self.by_name(name):
            raise _FailedError(ALREADY_EXISTS, f"Model '{name}' already exists")
        model = self._new(name)
        model.tags = body.get("tags", [])
        source = body.get("tfliteModel", {}).get("gcsTfliteUri")
        return self._take(model, source, created=True) if source else model

    def _patch(self, model_id: str, mask: str | None, body: dict[str, Any]) -> _Operation | Hosted:
        model = self.models.get(model_id)
        if model is None:
            raise _FailedError(NOT_FOUND, f"Model 'projects/{PROJECT}/models/{model_id}' was not found")
        if model.operation is not None:
            raise _FailedError(FAILED_PRECONDITION, "The model is locked by another operation.")
        if mask is not None:
            # No other mask is known to work at the service.
            if mask != "state.published":
                raise _RefusedError(INVALID_ARGUMENT, "Request contains an invalid argument.")
            published = bool(body.get("state", {}).get("published"))
            if published and model.error:
                raise _FailedError(FAILED_PRECONDITION, "Cannot publish a model that is not verified.")
            model.published = published
            self._touch(model)
            return model
        name = body.get("displayName", "")
        self._check_names(name, body.get("tags", []))
        if (other := self.by_name(name)) and other is not model:
            raise _FailedError(ALREADY_EXISTS, f"Model '{name}' already exists")
        before = copy.copy(model)
        model.display_name, model.tags = name, body.get("tags", [])
        self._touch(model)
        source = body.get("tfliteModel", {}).get("gcsTfliteUri")
        return self._take(model, source, before=before) if source else model

    def _check_names(self, name: str, tags: list[str]) -> None:
        if not _DISPLAY_NAME.fullmatch(name) or not all(_TAG.fullmatch(tag) for tag in tags):
            raise _RefusedError(INVALID_ARGUMENT, "Request contains an invalid argument.")

    def _download(self, display_name: str) -> tuple[dict[str, Any], dict[str, str]]:
        model = self.by_name(display_name)
        if model is None or not model.published or model.data is None:
            raise _RefusedError(NOT_FOUND, "Requested entity was not found.")
        self._count += 1
        token = f"{self._count}?signature=secret-{self._count}"
        self._files[str(self._count)] = model.data
        expires = datetime.datetime.fromtimestamp(self.now() + 3600, datetime.timezone.utc)
        answer = {
            "downloadUri": f"{self.endpoint}/files/{token}",
            "expireTime": expires.strftime("%Y-%m-%dT%H:%M:%S.000Z"),
            "sizeBytes": str(len(model.data)),
            "modelFormat": "TFLITE",
        }
        return answer, {"ETag": self._hash(model.data)}

    def _file(self, token: str) -> Response:
        if self.expired_downloads:
            self.expired_downloads -= 1
            return Response(400, b"<Error><Code>ExpiredToken</Code></Error>")
        return Response(200, self._files[token]) if token in self._files else Response(404)

    # --- operations ---------------------------------------------------------------------------------------------------

    def _take(
        self, model: Hosted, source: str, *, created: bool = False, before: Hosted | None = None
    ) -> _Operation | Hosted:
        """Has the service fetch and verify a file."""
        operation = self._start(model, self.polls, lambda: None)

        def finish() -> None:
            try:
                data = self._fetch(source)
            except _UnfetchableError as error:
                message = f"Could not fetch {source}: {error}"
                if self._unfetchable == "validation":
                    model.error, model.uri = message, _gs_uri(source)
                    return
                operation.error = (INVALID_ARGUMENT, message)
                if created:
                    self.models.pop(model.id, None)
                elif before is not None:
                    model.display_name, model.tags = before.display_name, before.tags
                return
            self._accept(model, data, _gs_uri(source))
            if before is not None and not self._keeps_published:
                model.published = False

        operation.finish = finish
        if self.polls == 0:
            self._complete(operation)
            if operation.error:
                raise _FailedError(*operation.error)
            return model
        return operation

    def _start(self, model: Hosted, polls: int | None, finish: Callable[[], None]) -> _Operation:
        self._count += 1
        operation = _Operation(f"projects/{PROJECT}/operations/op-{self._count}", model.id, polls, finish)
        model.operation = operation
        self._operations[operation.name] = operation
        return operation

    def _tick(self, operation: _Operation) -> None:
        """An operation that was looked at comes nearer to its end."""
        if operation.done or operation.polls is None:
            return
        operation.polls -= 1
        if operation.polls <= 0:
            self._complete(operation)

    def _complete(self, operation: _Operation) -> None:
        operation.done = True
        operation.finish()
        if (model := self.models.get(operation.model_id)) is not None:
            model.operation = None
            self._touch(model)

    def _operation(self, operation_id: str) -> dict[str, Any]:
        operation = self._operations.get(f"projects/{PROJECT}/operations/{operation_id}")
        if operation is None:
            raise _RefusedError(NOT_FOUND, "Requested entity was not found.")
        self._tick(operation)
        return self._described(operation)

    def _described(self, operation: _Operation) -> dict[str, Any]:
        answer: dict[str, Any] = {
            "name": operation.name,
            "metadata": {
                "@type": f"{_TYPE}ModelOperationMetadata",
                "name": f"projects/{PROJECT}/models/{operation.model_id}",
                "basicOperationStatus": "BASIC_OPERATION_STATUS_UPLOADING",
            },
        }
        if operation.done:
            answer["done"] = True
            model = self.models.get(operation.model_id)
            if operation.error or model is None:
                code, message = operation.error or (NOT_FOUND, "The model was deleted.")
                answer["error"] = {"code": code, "message": message}
            else:
                answer["response"] = {"@type": f"{_TYPE}Model", **self._shown(model)}
        return answer

    # --- models -------------------------------------------------------------------------------------------------------

    def _new(self, display_name: str) -> Hosted:
        self._count += 1
        model = Hosted(f"{10_000 + self._count}", display_name, self._timestamp())
        self.models[model.id] = model
        self._touch(model)
        return model

    def _touch(self, model: Hosted) -> None:
        model.changes += 1
        model.updated = self._timestamp()

    def _timestamp(self) -> str:
        moment = datetime.datetime.fromtimestamp(self.now(), datetime.timezone.utc)
        return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")

    def _accept(self, model: Hosted, data: bytes, uri: str) -> None:
        model.uri = uri
        model.data, model.error = (data, "") if data[4:8] == b"TFL3" else (None, "Invalid flatbuffer format")
        self._touch(model)

    def _shown(self, model: Hosted) -> dict[str, Any]:
        shown: dict[str, Any] = {
            "name": f"projects/{PROJECT}/models/{model.id}",
            "displayName": model.display_name,
            "createTime": model.created,
            "updateTime": model.updated,
            "etag": hashlib.sha256(f"{model.id} {model.changes}".encode()).hexdigest(),
            "state": {},
        }
        if model.tags:
            shown["tags"] = list(model.tags)
        if model.published:
            shown["state"]["published"] = True
        if model.error:
            shown["state"]["validationError"] = {"code": INVALID_ARGUMENT, "message": model.error}
        if model.uri:
            shown["tfliteModel"] = {"gcsTfliteUri": model.uri}
        if model.data is not None:  # also that of a file before the one that was not accepted
            shown["tfliteModel"]["sizeBytes"] = str(len(model.data))
            shown["modelHash"] = self._hash(model.data)
        if model.operation is not None:
            operation = model.operation
            shown["activeOperations"] = [self._described(operation)]
            self._tick(operation)
        return shown

    def _hash(self, data: bytes) -> str:
        digest = hashlib.sha256(data).digest()
        if self._hash_encoding == "opaque":
            digest = hashlib.sha256(digest).digest()
        return base64.b64encode(digest).decode() if self._hash_encoding == "base64" else digest.hex()

    # --- fetching -----------------------------------------------------------------------------------------------------

    def _fetch(self, source: str) -> bytes:
        if self.late_fetches:
            self.late_fetches -= 1
            self.ahead_seconds += 3600
        parts = urllib.parse.urlsplit(source)
        if parts.scheme == "gs":
            data = self._object(parts.netloc, parts.path.lstrip("/"))
        elif parts.hostname == "storage.googleapis.com":
            self._check_signature(parts)
            bucket, _, name = urllib.parse.unquote(parts.path).lstrip("/").partition("/")
            data = self._object(bucket, name)
        elif parts.hostname == "127.0.0.1":
            try:
                with urllib.request.urlopen(source, timeout=5) as response:
                    data = response.read()
            except OSError as error:
                raise _UnfetchableError(str(error)) from None
        else:
            raise _UnfetchableError("no such host")
        if self.wrong_fetches:
            self.wrong_fetches -= 1
            data = data[:-1] + bytes([data[-1] ^ 1])
        return data

    def _object(self, bucket: str, name: str) -> bytes:
        read = self.buckets.get(bucket)
        data = read(name) if read else None
        if data is None:
            raise _UnfetchableError("404 no such object")
        return data

    def _check_signature(self, parts: urllib.parse.SplitResult) -> None:
        """Holds a signed address against https://cloud.google.com/storage/docs/authentication/signatures."""
        pairs = [pair for pair in parts.query.split("&") if not pair.startswith("X-Goog-Signature=")]
        query = dict(urllib.parse.parse_qsl(parts.query))
        try:
            email, _, scope = query["X-Goog-Credential"].partition("/")
            signed_at = datetime.datetime.strptime(query["X-Goog-Date"], "%Y%m%dT%H%M%SZ")
            lifetime, signature = int(query["X-Goog-Expires"]), bytes.fromhex(query["X-Goog-Signature"])
        except (KeyError, ValueError):
            raise _UnfetchableError("403 the address is not signed") from None
        if not -300 <= self.now() - signed_at.replace(tzinfo=datetime.timezone.utc).timestamp() <= lifetime:
            raise _UnfetchableError("400 ExpiredToken")
        canonical = "\n".join(
            ("GET", parts.path, "&".join(sorted(pairs)), f"host:{parts.hostname}", "", "host", "UNSIGNED-PAYLOAD")
        )
        to_sign = "\n".join(
            ("GOOG4-RSA-SHA256", query["X-Goog-Date"], scope, hashlib.sha256(canonical.encode()).hexdigest())
        )
        key = self.signers.get(email)
        try:
            if key is None:
                raise InvalidSignature
            key.verify(signature, to_sign.encode(), padding.PKCS1v15(), hashes.SHA256())
        except InvalidSignature:
            raise _UnfetchableError("403 SignatureDoesNotMatch") from None


def _gs_uri(source: str) -> str:
    """How the service shows where a file came from."""
    parts = urllib.parse.urlsplit(source)
    if parts.scheme == "gs":
        return source
    if parts.hostname == "storage.googleapis.com":
        return "gs:/" + urllib.parse.unquote(parts.path)
    return "gs://copied" + parts.path


def _matches(model: Hosted, list_filter: str) -> bool:
    if not list_filter:
        return True
    outcomes = []
    for part in re.split(r"\s+OR\s+", list_filter):
        term = _FILTER.fullmatch(part.strip())
        if term is None or term[1] not in ("displayName", "tags"):
            raise _RefusedError(INVALID_ARGUMENT, "Request contains an invalid argument.")
        outcomes.append(term[2] == model.display_name if term[1] == "displayName" else term[2] in model.tags)
    return any(outcomes)
