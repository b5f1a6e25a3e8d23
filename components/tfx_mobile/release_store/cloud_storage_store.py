"""A release store in a bucket of Cloud Storage, also in one that belongs to a Firebase project.

The service creates, replaces and deletes an object as a whole, and does so only if the object is at the generation that
was asked for. That is all a release store needs.

Both major versions of the client come with TFX, and their defaults differ in what is retried and what is checksummed.
So no call here relies on a default: `if_generation_match`, `checksum`, `retry` and `timeout` are always given.
Repeating is done here, because the client does not heed `Retry-After`, and its older version cannot be told how long to
wait. Only the parts of a large file are repeated by the client, which knows where it was.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import google.auth
import google_crc32c
import requests
import urllib3
from google.api_core.exceptions import Forbidden, GoogleAPICallError, NotFound, PreconditionFailed, RetryError
from google.auth.credentials import AnonymousCredentials
from google.auth.exceptions import GoogleAuthError, TransportError
from google.cloud import storage
from google.cloud.storage.retry import DEFAULT_RETRY

from tfx_mobile.errors import ConflictError, DestinationUnavailableError, PushError
from tfx_mobile.google_rest import RETRIED_STATUSES, Patience, WorthRepeatingError, loopback_override, retrying
from tfx_mobile.records import sha256_of
from tfx_mobile.release_store.store import ObjectInfo, StoredObject, immutable_conflict

EMULATOR_VARIABLE = "STORAGE_EMULATOR_HOST"

_T = TypeVar("_T")

_SCOPES = ("https://www.googleapis.com/auth/devstorage.read_write",)
_IMMUTABLE_SECONDS = 31_536_000
#: The client sends what is larger in parts; a part that is lost on the way is sent again alone.
_PART_BYTES = 8 * 1024 * 1024
_PAGE_SIZE = 1000
_PATIENCE = Patience()
#: An object takes one update a second, so nothing is replaced under a reader or a writer this often.
_ATTEMPTS_AMONG_RIVALS = 10
#: Besides those of every service: request timeout, a part that was not kept (308), an upload that was forgotten (410).
_REPEATED = RETRIED_STATUSES | {308, 408, 410}
_SECRET = re.compile(r"upload_id=[^\s&\"'<>]+")


@dataclass(frozen=True)
class _Facts:
    """What the service itself knows of an object's bytes."""

    generation: int
    size_bytes: int
    crc32c: str
    md5: str | None

    @classmethod
    def of(cls, blob: storage.Blob) -> _Facts:
        if blob.generation is None or blob.size is None or blob.crc32c is None:
            raise WorthRepeatingError("the answer lacks generation, size or crc32c")
        return cls(blob.generation, blob.size, blob.crc32c, blob.md5_hash)

    def are_of(self, data: bytes) -> bool:
        """Whether the object has these bytes."""
        if (self.size_bytes, self.crc32c) != (len(data), _crc32c_of(data)):
            return False
        # Objects put together from others have no MD5.
        return self.md5 is None or self.md5 == _base64(hashlib.md5(data, usedforsecurity=False).digest())


class CloudStorageStore:
    """The `store.Store` in a bucket, which has to exist.

    Args:
        bucket: The bucket's name.
        prefix: Folder in it, without `/` at the end; empty for the top.
        public: Whether caches that serve everybody may keep released bytes.
        channel_max_age_seconds: How long a channel may be served without asking; 0 for never.
        patience: How long to wait for the service.

    Raises:
        ValueError: The environment variable STORAGE_EMULATOR_HOST, which exists for tests, names a host that is not
            this machine.
    """

    def __init__(
        self,
        bucket: str,
        prefix: str = "",
        *,
        public: bool = False,
        channel_max_age_seconds: int = 0,
        patience: Patience = _PATIENCE,
    ) -> None:
        self._name = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._readers = "public" if public else "private"
        self._channel_max_age_seconds = channel_max_age_seconds
        self._patience = patience
        self._timeout = (patience.connect_seconds, patience.read_seconds)
        self._emulator = loopback_override(EMULATOR_VARIABLE)
        self._opened: storage.Bucket | None = None
        self._bucket_was_seen = False

    @property
    def address(self) -> str:
        """Such as `gs://bucket/prefix`."""
        return f"gs://{self._name}/{self._prefix}".rstrip("/")

    def uri(self, path: str) -> str:
        """Such as `gs://bucket/prefix/channels/digits/production.json`."""
        return f"gs://{self._name}/{self._prefix}{path}"

    def read(self, path: str) -> StoredObject | None:
        """The object, or None if there is none."""
        for _ in range(_ATTEMPTS_AMONG_RIVALS):
            # Metadata are never cached. To read the bytes without a generation could bring a cache's older ones.
            facts = self._facts(path)
            if facts is None:
                return None
            try:
                data = self._call("read", path, partial(self._download, path, facts), expected=(404,))
            except NotFound:
                continue  # replaced or deleted since
            return StoredObject(data, str(facts.generation))
        raise ConflictError(
            f"{self.uri(path)} was replaced each of the {_ATTEMPTS_AMONG_RIVALS} times it was read. Let fewer "
            "pipelines publish to one channel at a time, and push again."
        )

    def holds(self, path: str, data: bytes) -> bool:
        """Whether an immutable object is there, by size and checksums of the service; False if it is not there.

        Raises:
            ConflictError: It is there with other bytes.
        """
        facts = self._facts(path)
        if facts is not None and not facts.are_of(data):
            raise immutable_conflict(self.uri(path))
        return facts is not None

    def check_writable(self, path: str) -> None:
        """Raises if the bucket does not exist.

        Whether permissions suffice shows only when something is written: they may come from the bucket, from a managed
        folder or from a condition on names, and the service answers no question that covers all three.
        """
        if not self._bucket_was_seen:
            self._call("list", path, partial(self._page, path, None, max_results=1))

    def put_if_absent(self, path: str, data: bytes) -> None:
        """Creates an immutable object as a whole; does nothing at all if it is there with these bytes.

        Raises:
            ConflictError: It is there with other bytes.
        """
        # Asked first, because who may create but not delete may be told 403 instead of 412, and to save the upload.
        for _ in range(_ATTEMPTS_AMONG_RIVALS):
            if self.holds(path, data):
                return
            try:
                self._call("write", path, partial(self._upload, path, data, 0), expected=(403, 412))
            except PreconditionFailed:
                continue  # there now: a rival's, or our own whose answer was lost
            except Forbidden as error:
                if self.holds(path, data):
                    return
                raise self._explained(error, "write", path) from None
            return
        raise ConflictError(
            f"{self.uri(path)} appeared and vanished {_ATTEMPTS_AMONG_RIVALS} times while it was written. Find out "
            "what deletes it, and push again."
        )

    def compare_and_swap(self, path: str, data: bytes, generation: str | None) -> bool:
        """Replaces the object if it is still at `generation` (None: absent).

        False if it is not. That may be because of this very write, committed by an attempt whose answer was lost.
        """
        expected = 0 if generation is None else int(generation)
        try:
            self._call("write", path, partial(self._upload, path, data, expected), expected=(412,))
        except PreconditionFailed:
            return False
        return True

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Every object below a path that ends in `/`."""
        token: str | None = None
        while True:
            # A page at a time: the client's own iterator ends for good, and silently, when a page fails.
            page, token = self._call("list", prefix, partial(self._page, prefix, token))
            yield from page
            if not token:
                return

    def delete(self, path: str, generation: str) -> bool:
        """Deletes the object if it is still at `generation`; False if it is not. True if it is gone already."""

        def request() -> None:
            self._blob(path).delete(if_generation_match=int(generation), retry=None, timeout=self._timeout)

        try:
            self._call("delete", path, request, expected=(404, 412))
        except PreconditionFailed:
            return False
        except NotFound:
            return True
        return True

    def _facts(self, path: str) -> _Facts | None:
        def request() -> _Facts:
            blob = self._blob(path)
            blob.reload(retry=None, timeout=self._timeout)
            return _Facts.of(blob)

        try:
            facts = self._call("read", path, request, expected=(404,))
        except NotFound:
            return None
        self._bucket_was_seen = True
        return facts

    def _download(self, path: str, facts: _Facts) -> bytes:
        blob = self._blob(path, facts.generation)
        # Checked here and not by the client, which takes a checksum that does not arrive for a match.
        data: bytes = blob.download_as_bytes(checksum=None, retry=None, timeout=self._timeout)
        if not facts.are_of(data):
            raise WorthRepeatingError("the bytes that arrived are not those the service has")
        return data

    def _upload(self, path: str, data: bytes, generation: int) -> None:
        blob = self._blob(path)
        blob.cache_control = self._cache_control(path)
        if path.startswith("blobs/"):
            blob.metadata = {"sha256": sha256_of(data)}
        # The service compares before it commits. With `checksum` the client would, for a large file, compare afterwards
        # and delete what is there, whoever wrote it.
        blob.crc32c = _crc32c_of(data)
        in_parts = len(data) > _PART_BYTES
        if in_parts:
            blob.chunk_size = _PART_BYTES
        try:
            blob.upload_from_string(
                data,
                content_type="application/json" if path.endswith(".json") else "application/octet-stream",
                if_generation_match=generation,
                checksum=None,
                retry=self._retry_of_parts() if in_parts else None,
                timeout=self._timeout,
            )
        except NotFound as error:
            if in_parts and not _lacks_bucket(error):
                raise WorthRepeatingError("the service forgot the upload") from None
            raise

    def _retry_of_parts(self) -> Any:
        first = self._patience.first_wait_seconds
        return DEFAULT_RETRY.with_delay(initial=first, maximum=60.0, multiplier=2.0).with_timeout(
            self._patience.total_seconds
        )

    def _page(self, prefix: str, token: str | None, max_results: int | None = None) -> tuple[Sequence[ObjectInfo], Any]:
        iterator = self._bucket().list_blobs(
            prefix=self._prefix + prefix,
            page_token=token,
            page_size=max_results or _PAGE_SIZE,
            fields="items(name,size,generation,timeCreated),nextPageToken",
            retry=None,
            timeout=self._timeout,
        )
        blobs = next(iterator.pages, ())
        self._bucket_was_seen = True
        # Consoles make objects whose name ends in '/' to show folders.
        page = [
            ObjectInfo(blob.name.removeprefix(self._prefix), blob.size, str(blob.generation), blob.time_created)
            for blob in blobs
            if not blob.name.endswith("/")
        ]
        return page, iterator.next_page_token

    def _cache_control(self, path: str) -> str:
        """Always said: what the service says by itself would keep a public channel stale for an hour."""
        if not path.startswith("channels/"):
            return f"{self._readers}, max-age={_IMMUTABLE_SECONDS}, immutable"
        if self._channel_max_age_seconds:
            return f"{self._readers}, max-age={self._channel_max_age_seconds}"
        return "no-store"

    def _blob(self, path: str, generation: int | None = None) -> storage.Blob:
        return self._bucket().blob(self._prefix + path, generation=generation)

    def _bucket(self) -> storage.Bucket:
        if self._opened is None:
            if self._emulator:
                session = requests.Session()
                session.trust_env = False  # a proxy of the surroundings has no business with a fake
                client = storage.Client(
                    project="emulated",
                    credentials=AnonymousCredentials(),
                    _http=session,
                    client_options={"api_endpoint": self._emulator},
                )
            else:
                credentials, project = self._once(lambda: google.auth.default(scopes=list(_SCOPES)))
                # Objects belong to buckets, not to projects; without any name the client would ask around for one.
                client = storage.Client(project=project or "unnamed", credentials=credentials)
            # From 3.17 on the client asks for the bucket's metadata behind our back, in threads of its own and for the
            # sake of tracing, which takes a permission that a pusher needs for nothing else.
            client._bucket_metadata_cache = None
            self._opened = client.bucket(self._name)
        return self._opened

    def _call(self, verb: str, path: str, request: Callable[[], _T], expected: tuple[int, ...] = ()) -> _T:
        """Makes a request as often as need be; errors become the store's, except those with an expected status.

        An error of the client is never chained to the store's: its text holds addresses, and that of an upload in parts
        is as good as a key.
        """
        try:
            answer: _T = retrying(self._patience)(self._once, request)
            return answer
        except WorthRepeatingError as error:
            raise DestinationUnavailableError(
                f"Cannot {verb} {self.uri(path)}, tried for {self._patience.total_seconds:g} s: {error}. Nothing is "
                "lost: push again later, a push takes up where the last one stopped."
            ) from None
        except GoogleAPICallError as error:
            if error.code in expected and not _lacks_bucket(error):
                raise
            raise self._explained(error, verb, path) from None

    def _once(self, request: Callable[[], _T]) -> _T:
        """Makes one attempt; what may go better next time becomes a WorthRepeatingError."""
        try:
            return request()
        except GoogleAPICallError as error:
            if error.code not in _REPEATED:
                raise
            headers = error.response.headers if error.response is not None else {}
            raise WorthRepeatingError(f"{error.code:d} {_words_of(error)}", headers.get("Retry-After")) from None
        except TransportError as error:
            raise WorthRepeatingError(f"{type(error).__name__} on the way to credentials") from None
        except GoogleAuthError as error:
            raise DestinationUnavailableError(
                f"No credentials for {self.address}: {type(error).__name__}. Give the pipeline an identity: workload "
                "identity on Kubernetes, a service account on Vertex, or 'gcloud auth application-default login' on a "
                "desk."
            ) from None
        except RetryError:
            raise WorthRepeatingError("no answer to a part of the upload") from None
        except (requests.RequestException, urllib3.exceptions.HTTPError, http.client.HTTPException, OSError) as error:
            raise WorthRepeatingError(type(error).__name__) from None
        except (ValueError, AttributeError) as error:
            # What the client makes of an answer that is cut off, if urllib3 1.x passes it on as a whole one, and of a
            # service that kept less of a part than was sent.
            raise WorthRepeatingError(f"an answer that makes no sense ({type(error).__name__})") from None

    def _explained(self, error: GoogleAPICallError, verb: str, path: str) -> PushError:
        what = f"Cannot {verb} {self.uri(path)}: {error.code:d} {_words_of(error)}."
        if error.code == 401:
            return DestinationUnavailableError(
                f"{what} The credentials of the surroundings are refused; sign in anew, or give the pipeline an "
                "identity that exists, then push again."
            )
        if error.code == 403:
            role = {"read": "objectViewer", "list": "objectViewer", "delete": "objectUser"}.get(
                verb, "objectUser" if path.startswith("channels/") else "objectCreator"
            )
            folder = f"gs://{self._name}/{self._prefix}{path.split('/')[0]}/"
            return DestinationUnavailableError(
                f"{what} Grant the pipeline's identity roles/storage.{role} on the managed folder {folder} or on the "
                "bucket, then push again."
            )
        if error.code == 404:
            return DestinationUnavailableError(
                f"{what} Create the bucket, for example with 'gcloud storage buckets create gs://{self._name} "
                "--uniform-bucket-level-access', or correct CloudStorageDestination(bucket=...), then push again."
            )
        return DestinationUnavailableError(f"{what} Correct that, then push again.")


def _lacks_bucket(error: GoogleAPICallError) -> bool:
    """Whether a 404 is about the bucket; it may be about an object of it."""
    return error.code == 404 and "bucket does not exist" in _words_of(error)


def _words_of(error: GoogleAPICallError) -> str:
    """What the service said; not the error's own text, which holds the address of the request."""
    if error.response is None:
        return type(error).__name__
    try:
        words = str(error.response.json()["error"]["message"])
    except (ValueError, TypeError, KeyError):
        is_page = error.response.text.lstrip().startswith("<")
        words = error.response.reason if is_page else error.response.text
    return _SECRET.sub("upload_id=...", " ".join(words.split()))[:300].rstrip(".")


def _crc32c_of(data: bytes) -> str:
    return _base64(google_crc32c.Checksum(data).digest())


def _base64(digest: bytes) -> str:
    return base64.b64encode(digest).decode()
