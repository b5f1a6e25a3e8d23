"""A release store on what writes conditionally: Amazon S3, services that speak its protocol, Azure Blob Storage.

The library is obstore, whose `put` sends `If-None-Match: *` for an object that must not exist and `If-Match` for one
that must not have changed. Three things it leaves to its caller, and they are done here:

* It does not repeat a write whose answer got lost. A conditional write may be repeated: if the first was carried out,
  the second is refused.
* What it says of an error repeats the service's whole answer, which may quote tokens. Only status, code and message get
  into ours.
* A service that ignores preconditions looks like one on which they always hold. It is found out on an object of no
  importance before anything is written.
"""

from __future__ import annotations

import contextlib
import datetime
import re
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import obstore
import tenacity
from obstore.exceptions import AlreadyExistsError, BaseError, NotModifiedError, PreconditionError
from obstore.store import AzureStore, S3Store

from tfx_mobile.errors import DestinationUnavailableError
from tfx_mobile.google_rest import Patience
from tfx_mobile.records import sha256_of
from tfx_mobile.release_store.store import ObjectInfo, StoredObject, immutable_conflict

#: Written once per store, to see whether preconditions are honoured. No model's name begins with a dot.
WITNESS = "releases/.preconditions"
_WITNESS_DATA = b"tfx-mobile looks here whether this service honours If-None-Match and If-Match.\n"
#: Well-formed for both kinds of service, and the ETag of nothing.
_NO_ETAG = "0x8D0000000000000"

_IMMUTABLE = {"Cache-Control": "max-age=31536000, immutable"}
_CHANGING = {"Cache-Control": "no-store"}

_ATTEMPTS = 4
_RETRIES = 10  # obstore's, of what the service answers with an error that passes
_DELETE_SECONDS = 30.0
_PATIENCE = Patience(read_seconds=300.0)

_Result = TypeVar("_Result")


def open_s3(
    bucket: str,
    prefix: str,
    *,
    address: str,
    region: str | None,
    endpoint: str | None,
    patience: Patience = _PATIENCE,
) -> ConditionalStore:
    """A store in a bucket; nothing is read or written yet.

    Args:
        bucket: Its name.
        prefix: What all keys begin with, without slashes at its ends; may be empty.
        address: How people write the place.
        region: The bucket's; None for that of the surroundings.
        endpoint: Another service than Amazon's.
        patience: How long to wait; `read_seconds` is for one whole request.

    Raises:
        DestinationUnavailableError: What the surroundings say of credentials makes no sense.
    """
    # Said here, so that variables of the surroundings cannot switch it off. Amazon's bulk deletion is not everywhere.
    config: dict[str, Any] = {"conditional_put": "etag", "unsigned_payload": False, "disable_bulk_delete": True}
    if region is not None:
        config["region"] = region
    if endpoint is not None:
        config |= {"endpoint": endpoint, "aws_endpoint_url_s3": endpoint, "virtual_hosted_style_request": False}
    return ConditionalStore(S3Store, bucket, prefix, address, config, _allows_http(endpoint), patience)


def open_azure(
    container: str,
    prefix: str,
    *,
    address: str,
    account: str,
    endpoint: str | None,
    patience: Patience = _PATIENCE,
) -> ConditionalStore:
    """A store in a container of Azure Blob Storage; nothing is read or written yet.

    Args:
        container: Its name.
        prefix: What all names begin with, without slashes at its ends; may be empty.
        address: How people write the place.
        account: The storage account.
        endpoint: Another address than the account's in Azure's public cloud.
        patience: How long to wait; `read_seconds` is for one whole request.

    Raises:
        DestinationUnavailableError: What the surroundings say of credentials makes no sense.
    """
    config = {
        "account_name": account,
        "endpoint": endpoint or f"https://{account}.blob.core.windows.net",
        "use_emulator": False,
    }
    return ConditionalStore(AzureStore, container, prefix, address, config, _allows_http(endpoint), patience)


class ConditionalStore:
    """The `store.Store` on an object store; an object's generation is its ETag.

    On S3 an ETag may follow from the bytes alone. That is enough here: a channel's statement never returns to earlier
    bytes, because its version grows, and all other objects are named by their content.

    Args:
        kind: `S3Store` or `AzureStore`.
        bucket: Bucket or container.
        prefix: What all keys begin with; may be empty.
        address: How people write the place.
        config: Of obstore.
        allow_http: Whether the endpoint may be called without TLS.
        patience: How long to wait.
    """

    def __init__(
        self,
        kind: Any,
        bucket: str,
        prefix: str,
        address: str,
        config: dict[str, Any],
        allow_http: bool,
        patience: Patience,
    ) -> None:
        self._address = address
        self._first_wait = patience.first_wait_seconds
        self._total = patience.total_seconds
        self._honours_preconditions = False
        self._seen: dict[str, tuple[str, str]] = {}  # sha256 and ETag of objects that were read from end to end

        def client(seconds: float, retries: int) -> Any:
            return kind(
                bucket,
                prefix=prefix or None,
                config=config,
                client_options={
                    "connect_timeout": datetime.timedelta(seconds=patience.connect_seconds),
                    "timeout": datetime.timedelta(seconds=seconds),
                    "allow_http": allow_http,
                },
                retry_config={
                    "max_retries": retries,
                    "retry_timeout": datetime.timedelta(seconds=patience.total_seconds),
                    "backoff": {"init_backoff": datetime.timedelta(seconds=patience.first_wait_seconds)},
                },
            )

        with self._explaining("open", ""):
            self._objects = client(patience.read_seconds, _RETRIES)
        self._open_for_deletion: Callable[[], Any] = lambda: client(min(patience.read_seconds, _DELETE_SECONDS), 0)

    @property
    def address(self) -> str:
        """The address of bucket or container, and prefix."""
        return self._address

    def uri(self, path: str) -> str:
        """The full address of an object."""
        return f"{self._address}/{path}" if path else self._address

    def read(self, path: str) -> StoredObject | None:
        """The object, or None if there is none."""
        return self._get(path, {})

    def holds(self, path: str, data: bytes) -> bool:
        """Whether an immutable object is there, by its bytes; False if it is not there.

        They are read once, because no checksum that both kinds of service give covers all bytes in every way an object
        can be encrypted and put together. After that its ETag tells whether they are still those.

        Raises:
            ConflictError: It is there with other bytes.
        """
        sha256 = sha256_of(data)
        seen_sha256, etag = self._seen.get(path, ("", ""))
        try:
            existing = self._get(path, {"if_none_match": _quoted(etag)} if seen_sha256 == sha256 else {})
        except NotModifiedError:
            return True
        if existing is None:
            return False
        if existing.data != data:
            raise immutable_conflict(self.uri(path))
        self._seen[path] = (sha256, existing.generation)
        return True

    def check_writable(self, path: str) -> None:
        """Does nothing: neither kind of service tells who may write before it is tried."""

    def put_if_absent(self, path: str, data: bytes) -> None:
        """Creates an immutable object as a whole; does nothing at all if it is there with these bytes.

        Raises:
            ConflictError: It is there with other bytes.
        """
        if self.holds(path, data):
            return
        self._prove_preconditions()
        for _ in range(_ATTEMPTS):
            # Refused although it is not there: a rival's write of it came to nothing at this very moment.
            if self._write(path, data, "create", _IMMUTABLE) or self.holds(path, data):
                return
        raise DestinationUnavailableError(
            f"Cannot write {self.uri(path)}: the service says that it exists when it is written, and that it does not "
            "when it is read. Find out whether something else writes or deletes there, then push again."
        )

    def compare_and_swap(self, path: str, data: bytes, generation: str | None) -> bool:
        """Replaces the object if it is still at `generation` (None: absent); False if it is not, or if nobody knows."""
        self._prove_preconditions()
        return self._write(path, data, "create" if generation is None else {"e_tag": _quoted(generation)}, _CHANGING)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Every object below a path that ends in `/`."""
        with self._explaining("list", prefix):
            found = self._persistently(lambda: [o for page in obstore.list(self._objects, prefix=prefix) for o in page])
        for meta in found:
            yield ObjectInfo(meta["path"], meta["size"], self._generation(meta, meta["path"]), meta["last_modified"])

    def delete(self, path: str, generation: str) -> bool:
        """Deletes the object if it is at `generation`; False if it is not. True if it is gone already.

        Look and deletion are two requests: obstore cannot delete conditionally, and on S3 it would not help, since the
        same bytes written again have the same ETag. The second is sent once and soon given up, and each further attempt
        looks again, so a deletion cannot come much later than the look. Prune deletes nothing that it has not announced
        in the channels, where pushes see it.
        """
        with self._explaining("delete", path):
            objects_once = self._open_for_deletion()
            for attempt in range(_ATTEMPTS):
                try:
                    meta = self._persistently(lambda: obstore.head(self._objects, path))
                except FileNotFoundError:
                    return True
                if self._generation(meta, path) != generation:
                    return False
                try:
                    obstore.delete(objects_once, path)
                except FileNotFoundError:
                    return True
                except BaseError as error:
                    if not _may_pass(error) or attempt == _ATTEMPTS - 1:
                        raise
                    time.sleep(self._first_wait)
                else:
                    break
        return True

    def _get(self, path: str, options: dict[str, str]) -> StoredObject | None:
        def get() -> StoredObject:
            result = obstore.get(self._objects, path, options=options)
            return StoredObject(bytes(result.bytes()), self._generation(result.meta, path))

        with self._explaining("read", path):
            try:
                return self._persistently(get)
            except FileNotFoundError as error:
                if _code(error) in ("NoSuchBucket", "ContainerNotFound"):
                    raise
                return None

    def _write(self, path: str, data: bytes, mode: Any, attributes: dict[str, str]) -> bool:
        """Writes conditionally, as often as it takes to get an answer; False if it is refused."""
        content_type = "application/json" if path.endswith(".json") else "application/octet-stream"
        attributes = {"Content-Type": content_type, **attributes}
        with self._explaining("write", path):
            try:
                self._persistently(lambda: obstore.put(self._objects, path, data, mode=mode, attributes=attributes))
            except (AlreadyExistsError, PreconditionError):
                return False
        return True

    def _prove_preconditions(self) -> None:
        """Makes sure, once, that the service refuses what it has to refuse."""
        if self._honours_preconditions:
            return
        created = self._write(WITNESS, _WITNESS_DATA, "create", _IMMUTABLE)
        if created and self._write(WITNESS, _WITNESS_DATA, "create", _IMMUTABLE):
            raise self._ignores("If-None-Match")
        if self._write(WITNESS, _WITNESS_DATA, {"e_tag": _quoted(_NO_ETAG)}, _IMMUTABLE):
            raise self._ignores("If-Match")
        self._honours_preconditions = True

    def _ignores(self, header: str) -> DestinationUnavailableError:
        return DestinationUnavailableError(
            f"{self._address} ignores {header} when it writes, so pushers at the same time would overwrite each "
            "other's releases. Nothing was published. Use a service or version that honours it (Amazon S3 and Azure "
            "Blob Storage do), or another kind of destination."
        )

    def _generation(self, meta: Any, path: str) -> str:
        etag = meta["e_tag"]
        if not etag:
            raise DestinationUnavailableError(
                f"{self.uri(path)} has no ETag, so nobody could tell whether it changed. Use a service that gives one."
            )
        return str(etag).strip('"')  # lists of Azure have no quotes

    def _persistently(self, call: Callable[[], _Result]) -> _Result:
        """Repeats what obstore does not repeat by itself: requests whose answer got lost."""
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(_got_no_answer),
            wait=tenacity.wait_random_exponential(multiplier=self._first_wait, max=10.0),
            stop=tenacity.stop_after_attempt(_ATTEMPTS) | tenacity.stop_after_delay(self._total),
            reraise=True,
        )
        return retrying(call)

    @contextlib.contextmanager
    def _explaining(self, verb: str, path: str) -> Iterator[None]:
        try:
            yield
        except NotModifiedError:
            raise
        except (BaseError, OSError, ValueError, NotImplementedError) as error:
            raise DestinationUnavailableError(
                f"Cannot {verb} {self.uri(path)}: {_words(error)}. {_advice(error)}"
            ) from None


def _allows_http(endpoint: str | None) -> bool:
    return endpoint is not None and endpoint.startswith("http://")


def _quoted(etag: str) -> str:
    return etag if etag.startswith("W/") else f'"{etag}"'


def _text(error: BaseException) -> str:
    return str(error).split("\n\nDebug source:")[0]


def _status(error: BaseException) -> int | None:
    text = _text(error)
    if "redirect without LOCATION" in text:  # all that obstore says of one to another region
        return 301
    found = re.search(r"\bcode: (\d{3})\b", text)
    return int(found[1]) if found else None


def _code(error: BaseException) -> str:
    found = re.search(r"<Code>(\w+)</Code>", _text(error))
    return found[1] if found else ""


def _got_no_answer(error: BaseException) -> bool:
    """Whether nobody knows what became of the request; an answer with an error is what obstore repeats itself."""
    is_answer = isinstance(error, (AlreadyExistsError, PreconditionError, NotModifiedError))
    return isinstance(error, BaseError) and not is_answer and _status(error) is None


def _may_pass(error: BaseException) -> bool:
    """Whether the same request may succeed the next time."""
    status = _status(error)
    return status is None or status >= 500 or status in (408, 429)


def _words(error: BaseException) -> str:
    """What is safe to repeat of an error: no headers, paths, queries or quoted requests."""
    text = _text(error)
    request = re.search(r"performing ([A-Z]+) (https?://[^/\s?]+)", text)
    status = re.search(r"\bcode: (\d{3}[A-Za-z -]*)|(redirect) without LOCATION", text)
    message = re.search(r"<Message>([^<\n]{1,400})", text)
    failure = re.search(r"(?:error|Error|failed):? ([A-Za-z ]{4,})$", text.splitlines()[0] if text else "")
    words = [
        f"{request[1]} {request[2]}" if request else type(error).__name__,
        (status[1] or status[2]).strip() if status else failure[1] if failure else "",
        " ".join(filter(None, (_code(error), message[1] if message else ""))),
    ]
    return ": ".join(filter(None, words))


def _advice(error: BaseException) -> str:
    code, status = _code(error), _status(error)
    if "No CA certificates" in str(error):
        return (
            "Install the system's CA certificates (the package is often called ca-certificates), or set SSL_CERT_FILE."
        )
    if code in ("NoSuchBucket", "ContainerNotFound"):
        return "Create it, or correct the address."
    if code == "RequestTimeTooSkewed":
        return "Set the clock of the machine that pushes: it is part of a request's signature."
    if status in (401, 403):
        return (
            "Give the pipeline's identity the permissions of docs/object_stores.md. If it has none at all, its "
            "surroundings hold no credentials, or old ones."
        )
    if status is not None and (300 <= status < 400 or code in ("AuthorizationHeaderMalformed", "PermanentRedirect")):
        return "Set region to the bucket's."
    return (
        "Check the address, the network and the credentials of the surroundings, then push again: a push takes up "
        "where the last one stopped."
    )
