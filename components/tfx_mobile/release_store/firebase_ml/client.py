"""The part of Firebase ML's REST interface, `v1beta2`, that a push needs.

The same refusal arrives in two shapes: as an HTTP status, or as HTTP 200 with an operation that ended in an error. Both
become a `Refusal`. Requests that send a file are never repeated blindly: the address in them expires, and a creation
that was carried out and whose answer was lost would come back as "already exists". Whoever calls looks and decides.
"""

from __future__ import annotations

import datetime
import email.utils
import json
import re
import time
import urllib.parse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import requests

from tfx_mobile.errors import (
    ConflictError,
    DestinationUnavailableError,
    ModelRefusedError,
    ModelTooLargeError,
    PushError,
    ShutDownError,
)
from tfx_mobile.google_rest import Answer, AnswerLostError, Patience, RestClient, without_signatures
from tfx_mobile.release_store.firebase_ml.shutdown import LAST_DAY, NOTICE, is_over

ENDPOINT = "https://firebaseml.googleapis.com"
ENDPOINT_VARIABLE = "TFX_MOBILE_FIREBASE_ML_ENDPOINT"
ROLE = "roles/firebaseml.admin"

_SCOPES = ("https://www.googleapis.com/auth/cloud-platform",)
_VERSION = "/v1beta2/"
_PAGE_SIZE = "100"
_MODEL = re.compile(r"projects/[^/]+/models/[^/]+")
_FETCHES = 3
_PATIENCE = Patience()

#: https://github.com/googleapis/googleapis/blob/master/google/rpc/code.proto
_CODES = (
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
)
_CODE_OF_STATUS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ABORTED",
    412: "FAILED_PRECONDITION",
    501: "UNIMPLEMENTED",
}
_NO_PERMISSION = frozenset({"PERMISSION_DENIED", "UNAUTHENTICATED"})
_NOT_ACCEPTED = frozenset({"INVALID_ARGUMENT", "FAILED_PRECONDITION", "OUT_OF_RANGE", "UNIMPLEMENTED", "DATA_LOSS"})
_IN_CONFLICT = frozenset({"ALREADY_EXISTS", "ABORTED"})


class NotPermittedError(DestinationUnavailableError):
    """The identity may not do that at the service."""


@dataclass(frozen=True)
class Refusal:
    """The service's no, in either shape.

    Attributes:
        code: Name of the `google.rpc.Code`, such as `NOT_FOUND`.
        message: The service's words, without what is signed in them.
    """

    code: str
    message: str

    @property
    def is_final(self) -> bool:
        """Whether asking again surely brings the same answer."""
        return self.code in _NO_PERMISSION or self.code == "UNIMPLEMENTED"

    def error(self, what: str, project_id: str) -> PushError:
        """The error to raise; `what` names the act that was refused."""
        said = f"Firebase ML refused {what}: {self.code}: {self.message}"
        if self.code in _NO_PERMISSION:
            return NotPermittedError(
                f"{said} Grant the pipeline's identity {ROLE} on the project {project_id}, see that the Firebase ML "
                "API is enabled there, and push again."
            )
        if self.code in _NOT_ACCEPTED:
            return ModelRefusedError(f"{said} Publish a model that it accepts, or go back with 'tfx-mobile rollback'.")
        if self.code in _IN_CONFLICT:
            return ConflictError(f"{said} Something else works on the model. Push again when it is done.")
        return DestinationUnavailableError(f"{said} Push again later: a push takes up where the last one stopped.")


@dataclass(frozen=True)
class HostedModel:
    """A model as the service describes it.

    Attributes:
        raw: The JSON object, as it came.
    """

    raw: dict[str, Any]

    @property
    def name(self) -> str:
        """Its resource name, `projects/<project>/models/<id>`."""
        return str(self.raw.get("name", ""))

    @property
    def model_id(self) -> str:
        """The service's id for it."""
        return self.name.rpartition("/")[2]

    @property
    def display_name(self) -> str:
        """The name that apps ask for."""
        return str(self.raw.get("displayName", ""))

    @property
    def tags(self) -> tuple[str, ...]:
        """Its tags."""
        return tuple(self.raw.get("tags", ()))

    @property
    def published(self) -> bool:
        """Whether devices get it."""
        return bool(self.raw.get("state", {}).get("published"))

    @property
    def validation_error(self) -> str | None:
        """Why the service does not accept its file; None if it does."""
        error = self.raw.get("state", {}).get("validationError")
        return without_signatures(str(error.get("message", "no reason given"))) if error else None

    @property
    def size_bytes(self) -> int | None:
        """Of its file; None without one that was accepted."""
        size = str(self.raw.get("tfliteModel", {}).get("sizeBytes", ""))
        return int(size) if size.isdecimal() else None

    @property
    def model_hash(self) -> str:
        """Changes with the file; its encoding is the service's own affair. Empty without a file."""
        return str(self.raw.get("modelHash", ""))

    @property
    def etag(self) -> str:
        """Changes with the model."""
        return str(self.raw.get("etag", ""))

    @property
    def is_locked(self) -> bool:
        """Whether an operation on it is still running."""
        return bool(self.raw.get("activeOperations"))


@dataclass(frozen=True)
class Operation:
    """What a request to change something has come to.

    Attributes:
        name: For looking at it again; empty if it was done at once.
        done: Whether it has ended.
        model_name: Resource name of the model it is about; empty if the service does not say.
        refusal: Why it failed; None if it did not.
    """

    name: str
    done: bool
    model_name: str = ""
    refusal: Refusal | None = None


@dataclass(frozen=True)
class Served:
    """What devices get.

    Attributes:
        data: The bytes of the file.
        model_hash: The service's hash of it, as devices see it.
    """

    data: bytes
    model_hash: str


class FirebaseMLClient:
    """Calls Firebase ML for one project.

    Args:
        project_id: The project.
        patience: How long to wait.

    Raises:
        ValueError: The environment variable for tests names a host elsewhere.
    """

    def __init__(self, project_id: str, patience: Patience = _PATIENCE) -> None:
        self.project_id = project_id
        self.patience = patience
        self._rest = RestClient(ENDPOINT, ENDPOINT_VARIABLE, _SCOPES, patience)
        self._parent = f"projects/{project_id}"
        self._date: tuple[datetime.datetime, float] | None = None

    @property
    def service_time(self) -> datetime.datetime | None:
        """The time by the service's clock, from its last answer; None before the first."""
        if self._date is None:
            return None
        date, heard_at = self._date
        return date + datetime.timedelta(seconds=time.monotonic() - heard_at)

    def refuse_after_the_end(self) -> None:
        """Raises if the service's last day has passed, by its own clock.

        Raises:
            ShutDownError: It has.
        """
        if is_over(self.service_time):
            raise ShutDownError(
                f"Firebase ML's model hosting ended on {LAST_DAY}. Nothing was sent to it. Remove the "
                "FirebaseMLDestination from the pipeline and publish with a CloudStorageDestination; "
                "docs/firebase_ml.md tells how apps get models then."
            )

    def list_models(self, list_filter: str | None = None) -> Iterator[HostedModel]:
        """All models, or those that a filter such as `displayName=digits` picks.

        Raises:
            PushError: The service refuses or cannot be reached.
        """
        query = {"pageSize": _PAGE_SIZE, **({"filter": list_filter} if list_filter else {})}
        while True:
            page = self._read(f"{self._parent}/models", "the list of models", query)
            for raw in page.get("models", ()):
                yield HostedModel(raw)
            if not page.get("nextPageToken"):
                return
            query["pageToken"] = str(page["nextPageToken"])

    def find(self, display_name: str) -> HostedModel | None:
        """The model of that name; None if there is none.

        Raises:
            PushError: The service refuses or cannot be reached.
        """
        models = self.list_models(f"displayName={display_name}")
        return next((model for model in models if model.display_name == display_name), None)

    def get(self, name: str) -> HostedModel | None:
        """The model of that resource name; None if there is none.

        Raises:
            PushError: The service refuses or cannot be reached.
        """
        raw = self._read_if_there(name, f"to show {name}")
        return None if raw is None else HostedModel(raw)

    def create(self, display_name: str, tags: Sequence[str], source: str) -> Operation:
        """Creates a model whose file the service fetches from `source`; it is not published.

        Raises:
            AnswerLostError: Nobody knows whether it was created.
            DestinationUnavailableError: The service cannot be reached.
        """
        body = {"displayName": display_name, "tags": list(tags), "tfliteModel": {"gcsTfliteUri": source}}
        return self._change("POST", f"{self._parent}/models", body, repeatable=False)

    def replace_file(self, model: HostedModel, tags: Sequence[str], source: str) -> Operation:
        """Gives a model another file and other tags; everything else stays as it was read.

        The request is the one that Firebase's own SDK makes, without a mask and with all that was read: no other
        form is known to work.

        Raises:
            AnswerLostError: Nobody knows whether it was carried out.
            DestinationUnavailableError: The service cannot be reached.
        """
        file = {**model.raw.get("tfliteModel", {}), "gcsTfliteUri": source}
        body = {**model.raw, "tags": list(tags), "tfliteModel": file}
        return self._change("PATCH", model.name, body, repeatable=False)

    def publish(self, model: HostedModel) -> Operation:
        """Lets devices have a model.

        Raises:
            DestinationUnavailableError: The service cannot be reached.
        """
        body = {"name": model.name, "state": {"published": True}}
        return self._change("PATCH", model.name, body, {"updateMask": "state.published"})

    def look_at(self, operation: Operation) -> Operation:
        """The operation as it is now; one that the service does not know any more is done.

        Raises:
            PushError: The service refuses or cannot be reached.
        """
        raw = self._read_if_there(operation.name, "to show an operation")
        if raw is None:
            return Operation(operation.name, done=True, model_name=operation.model_name)
        return _operation(raw)

    def served(self, display_name: str, max_bytes: int) -> Served | None:
        """What devices get under that name, through the very call that they make; None if nothing is published.

        Raises:
            ModelTooLargeError: It is larger than `max_bytes`.
            DestinationUnavailableError: It cannot be had, or the identity may not ask.
        """
        problem = ""
        for attempt in range(_FETCHES):
            if attempt:
                time.sleep(self.patience.first_wait_seconds * 2 ** (attempt - 1))
            answer = self._call("GET", f"{self._parent}/models/{display_name}:download")
            if answer.status == 404:
                return None
            offer = self._json_of(answer, f"to hand out {display_name!r}")
            size = str(offer.get("sizeBytes", ""))
            if size.isdecimal() and int(size) > max_bytes:
                raise ModelTooLargeError(
                    f"{display_name!r} at Firebase ML has {int(size):,} bytes; at most {max_bytes:,} are read."
                )
            data, problem = self._fetch(str(offer.get("downloadUri", "")), max_bytes)
            if data is not None and (not size.isdecimal() or len(data) == int(size)):
                return Served(data, answer.headers.get("ETag", "").removesuffix("--gzip"))
            problem = problem or f"{len(data or b'')} bytes instead of {size}"
        raise DestinationUnavailableError(
            f"The file that Firebase ML serves as {display_name!r} cannot be fetched ({problem}). Try again later."
        )

    def _fetch(self, address: str, max_bytes: int) -> tuple[bytes | None, str]:
        """The bytes at an address that says for itself who may read it; without them, what is wrong."""
        parts = urllib.parse.urlsplit(address)
        fake = self._rest.endpoint != ENDPOINT
        if parts.scheme != "https" and not (fake and parts.scheme == "http"):
            return None, f"an address that begins with {parts.scheme!r} instead of https"
        try:
            with requests.Session() as session:
                session.trust_env = not fake
                with session.get(
                    address, timeout=(self.patience.connect_seconds, self.patience.read_seconds), stream=True
                ) as response:
                    if response.status_code != 200:
                        return None, f"{response.status_code} from {parts.hostname}"
                    data = bytearray()
                    for chunk in response.iter_content(1 << 20):
                        data += chunk
                        if len(data) > max_bytes:
                            return None, f"more than {max_bytes:,} bytes"
                    return bytes(data), ""
        except requests.exceptions.RequestException as error:
            return None, f"{type(error).__name__} from {parts.hostname}"

    def _read(self, name: str, what: str, query: dict[str, str] | None = None) -> dict[str, Any]:
        return self._json_of(self._call("GET", name, query), what)

    def _read_if_there(self, name: str, what: str) -> dict[str, Any] | None:
        answer = self._call("GET", name)
        return None if answer.status == 404 else self._json_of(answer, what)

    def _change(
        self,
        method: str,
        name: str,
        body: dict[str, Any],
        query: dict[str, str] | None = None,
        repeatable: bool = True,
    ) -> Operation:
        answer = self._call(method, name, query, json.dumps(body).encode(), repeatable)
        if answer.status >= 400:
            return Operation("", done=True, refusal=_refusal_of(answer))
        try:
            return _operation(answer.json())
        except DestinationUnavailableError as error:
            raise AnswerLostError(str(error)) from None

    def _json_of(self, answer: Answer, what: str) -> dict[str, Any]:
        if answer.status >= 400:
            raise _refusal_of(answer).error(what, self.project_id)
        content = answer.json()
        if not isinstance(content, dict):
            raise DestinationUnavailableError(
                f"Firebase ML answered {type(content).__name__} instead of an object when asked for {what}. Try again."
            )
        return content

    def _call(
        self,
        method: str,
        name: str,
        query: dict[str, str] | None = None,
        body: bytes | None = None,
        repeatable: bool = True,
    ) -> Answer:
        path = _VERSION + urllib.parse.quote(name, safe="/:")
        answer = self._rest.call(method, path, query=query, body=body, repeatable=repeatable)
        if (date := _date_of(answer)) is not None:
            self._date = (date, time.monotonic())
        if answer.status >= 400 and is_over(self.service_time):
            raise ShutDownError(f"Firebase ML answers {answer.status} {answer.message} {NOTICE}")
        return answer


def _date_of(answer: Answer) -> datetime.datetime | None:
    """When the service answered, by its own clock."""
    try:
        date = email.utils.parsedate_to_datetime(answer.headers.get("Date", ""))
    except (TypeError, ValueError):
        return None
    return date if date.tzinfo else date.replace(tzinfo=datetime.timezone.utc)


def _refusal_of(answer: Answer) -> Refusal:
    code = _CODE_OF_STATUS.get(answer.status, "UNKNOWN")
    try:
        status = json.loads(answer.body)["error"]["status"]
        code = status if status in _CODES else code
    except (ValueError, TypeError, KeyError):
        pass  # not Google's shape: the HTTP status has to do
    return Refusal(code, answer.message)


def _operation(raw: Any) -> Operation:
    """Reads an operation; one that is done at once has no name.

    Raises:
        DestinationUnavailableError: It is none.
    """
    if not isinstance(raw, dict):
        raise DestinationUnavailableError(f"Firebase ML answered {type(raw).__name__} instead of an operation.")
    name, done = str(raw.get("name", "")), bool(raw.get("done"))
    model_name = str(raw.get("response", {}).get("name") or raw.get("metadata", {}).get("name") or "")
    if not _MODEL.fullmatch(model_name):
        model_name = ""
    if not done and not name:
        raise DestinationUnavailableError("Firebase ML answered with an operation that is neither done nor has a name.")
    if (error := raw.get("error")) is None:
        return Operation(name, done, model_name)
    number = error.get("code")
    code = _CODES[number] if isinstance(number, int) and 0 < number < len(_CODES) else "UNKNOWN"
    return Operation(name, done, model_name, Refusal(code, without_signatures(str(error.get("message", "")))))
