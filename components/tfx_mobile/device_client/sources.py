"""Where a device reads releases from: anything that serves a release store's objects over HTTP, or a folder."""

from __future__ import annotations

import contextlib
import os
import re
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

import requests

from tfx_mobile.google_rest import Patience, is_loopback
from tfx_mobile.records import sha256_of

_CHUNK_BYTES = 1 << 16
#: Firebase's own endpoint takes the object's whole name as one segment of the path.
_FIREBASE = re.compile(r"(?P<objects>/v0/b/[^/]+/o)(?:/(?P<prefix>.*))?")
#: Nobody means a channel to be looked at less often; a server's default must not delay a rollback by a day.
_LONGEST_MAX_AGE = 3600
_TEMPORARY = frozenset({408, 425, 429, 500, 502, 503, 504})

HeaderProvider = Callable[[], Mapping[str, str]]


class UnreachableError(Exception):
    """No usable answer came; the same question may get one later."""


class RefusedError(Exception):
    """What came must not be used, or the source refuses to give it; the same question gets the same answer."""


@dataclass(frozen=True)
class Fetched:
    """A small object as a source gave it.

    Attributes:
        data: Its bytes; None if it is still the one with the etag that was asked about.
        etag: Opaque; changes when the object does. None if the source does not say.
        max_age: For how many seconds there is no need to ask again.
    """

    data: bytes | None
    etag: str | None
    max_age: float


class Source(Protocol):
    """Where objects of a release store can be read. Every method raises UnreachableError and RefusedError.

    Attributes:
        address: For messages and for telling one source from another.
        num_requests: How many objects were asked for.
        num_bytes: How many bytes of them came.
    """

    address: str
    num_requests: int
    num_bytes: int

    def uri(self, path: str) -> str:
        """The full address of an object."""
        ...

    def get(self, path: str, max_bytes: int, etag: str | None = None) -> Fetched | None:
        """A small object as a whole, unless it still has this etag; None if there is none."""
        ...

    def stream(self, path: str, offset: int) -> AbstractContextManager[tuple[int, Iterator[bytes]]]:
        """A large object from `offset` on, or from an earlier place: first where it starts, then its bytes."""
        ...


def open_source(
    source: str | os.PathLike[str], verified: bool, headers: HeaderProvider | None, patience: Patience
) -> Source:
    """The source at an address.

    Args:
        source: Base address of a release store, `http(s)://...`, or a local folder.
        verified: Whether signatures are required of what comes.
        headers: Called for every request; gives headers such as those of Firebase Authentication and App Check.
        patience: How long to wait for an answer.

    Raises:
        ValueError: It is no such address, or one over which anybody could slip in another model.
    """
    if isinstance(source, os.PathLike) or not re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", source):
        if not str(source).strip():
            raise ValueError(
                "source is empty. Give a web address such as https://storage.googleapis.com/bucket, or a folder."
            )
        return FolderSource(Path(source))
    parts = urllib.parse.urlsplit(source)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(
            f"source={source!r} is not a web address. Devices read Cloud Storage at "
            "https://storage.googleapis.com/<bucket>/<prefix>, or through Firebase at "
            "https://firebasestorage.googleapis.com/v0/b/<bucket>/o/<prefix>."
        )
    if parts.query or parts.fragment or "@" in parts.netloc:
        raise ValueError(
            "source holds a query, a fragment or a password; give the bare address of the release store, and what "
            "identifies the app as headers."
        )
    if parts.scheme == "http" and not verified and not is_loopback(source):
        raise ValueError(
            f"source={source!r} is not encrypted and no trusted key was given, so anybody on the way could slip in "
            "another model. Use https, or give trusted_keys."
        )
    return HttpSource(source, headers, patience)


class HttpSource:
    """A release store behind a web address, in the plain form or that of Firebase's endpoint.

    Args:
        base: The address, without query.
        headers: See `open_source`.
        patience: How long to wait for an answer.
    """

    def __init__(self, base: str, headers: HeaderProvider | None, patience: Patience) -> None:
        self.address = base.rstrip("/")
        self.num_requests = 0
        self.num_bytes = 0
        self._headers = headers
        self._timeout = (patience.connect_seconds, patience.read_seconds)
        self._session = requests.Session()
        self._session.trust_env = not is_loopback(base)  # a proxy of the surroundings has no business on this machine

    def uri(self, path: str) -> str:
        """The full address of an object."""
        parts = urllib.parse.urlsplit(self.address)
        firebase = _FIREBASE.fullmatch(parts.path)
        if firebase is None:
            return f"{self.address}/{path}"
        prefix = urllib.parse.unquote(firebase["prefix"] or "").strip("/")
        name = urllib.parse.quote(f"{prefix}/{path}" if prefix else path, safe="")
        return urllib.parse.urlunsplit((parts.scheme, parts.netloc, f"{firebase['objects']}/{name}", "alt=media", ""))

    def get(self, path: str, max_bytes: int, etag: str | None = None) -> Fetched | None:
        """A small object as a whole, unless it still has this etag; None if there is none."""
        with self._asking(path, {"If-None-Match": etag} if etag else {}) as answer:
            if answer.status_code == 404:
                return None
            if answer.status_code == 304 and etag:
                return Fetched(None, etag, _max_age(answer.headers))
            if answer.status_code != 200:
                raise _unusable(answer, self.uri(path))
            data = bytearray()
            for chunk in self._chunks(answer):
                data += chunk
                if len(data) > max_bytes:
                    raise RefusedError(f"{self.uri(path)} has more than {max_bytes:,} bytes, which is too many for it.")
            return Fetched(bytes(data), answer.headers.get("ETag"), _max_age(answer.headers))

    @contextlib.contextmanager
    def stream(self, path: str, offset: int) -> Iterator[tuple[int, Iterator[bytes]]]:
        """A large object from `offset` on, or from an earlier place: first where it starts, then its bytes."""
        # Compressed, a part could not be told to belong to the rest, and a size would mean nothing.
        headers = {"Accept-Encoding": "identity"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
        with self._asking(path, headers) as answer:
            if answer.status_code == 404:
                raise _missing(self.uri(path))
            if answer.status_code == 206 and offset and _starts_at(answer, offset):
                yield offset, self._chunks(answer)
            elif answer.status_code == 200:
                yield 0, self._chunks(answer)
            elif offset and answer.status_code in (206, 416):
                yield 0, iter(())  # the part at hand is of no use: begin again
            else:
                raise _unusable(answer, self.uri(path))

    @contextlib.contextmanager
    def _asking(self, path: str, headers: Mapping[str, str]) -> Iterator[requests.Response]:
        self.num_requests += 1
        own = self._headers() if self._headers else {}
        try:
            with self._session.get(
                self.uri(path), headers={**own, **headers}, timeout=self._timeout, stream=True, allow_redirects=False
            ) as answer:
                yield answer
        except requests.exceptions.RequestException as error:
            raise UnreachableError(f"{self.uri(path)} gave no answer ({type(error).__name__}).") from None

    def _chunks(self, answer: requests.Response) -> Iterator[bytes]:
        for chunk in answer.iter_content(_CHUNK_BYTES):
            self.num_bytes += len(chunk)
            yield chunk
        # Older versions of urllib3 take an answer that breaks off for a whole one.
        announced = answer.headers.get("Content-Length", "")
        if announced.isdecimal() and answer.raw.tell() != int(announced):
            raise UnreachableError(f"{answer.url} broke off.")


class FolderSource:
    """A release store in a folder.

    Args:
        root: The folder.
    """

    def __init__(self, root: Path) -> None:
        self.address = str(root)
        self.num_requests = 0
        self.num_bytes = 0
        self._root = root

    def uri(self, path: str) -> str:
        """The path of an object in the file system."""
        return str(self._root / path)

    def get(self, path: str, max_bytes: int, etag: str | None = None) -> Fetched | None:
        """A small object as a whole, unless it still has this etag; None if there is none."""
        self.num_requests += 1
        try:
            with (self._root / path).open("rb") as file:
                data = file.read(max_bytes + 1)
        except FileNotFoundError:
            if not self._root.is_dir():
                raise UnreachableError(f"{self._root} is not there.") from None
            return None
        except OSError as error:
            raise UnreachableError(f"{self.uri(path)} cannot be read: {error.strerror}.") from None
        if len(data) > max_bytes:
            raise RefusedError(f"{self.uri(path)} has more than {max_bytes:,} bytes, which is too many for it.")
        if (found := sha256_of(data)) == etag:
            return Fetched(None, etag, 0.0)
        self.num_bytes += len(data)
        return Fetched(data, found, 0.0)

    @contextlib.contextmanager
    def stream(self, path: str, offset: int) -> Iterator[tuple[int, Iterator[bytes]]]:
        """A large object from `offset` on."""
        self.num_requests += 1
        try:
            file = (self._root / path).open("rb")
        except FileNotFoundError:
            raise _missing(self.uri(path)) from None
        except OSError as error:
            raise UnreachableError(f"{self.uri(path)} cannot be read: {error.strerror}.") from None
        with file:
            file.seek(offset)
            yield offset, self._chunks(file, path)

    def _chunks(self, file: BinaryIO, path: str) -> Iterator[bytes]:
        while True:
            try:
                chunk = file.read(_CHUNK_BYTES)
            except OSError as error:
                raise UnreachableError(f"{self.uri(path)} cannot be read: {error.strerror}.") from None
            if not chunk:
                return
            self.num_bytes += len(chunk)
            yield chunk


def _missing(uri: str) -> RefusedError:
    return RefusedError(f"{uri} is missing, though a release names it. Push the release again.")


def _unusable(answer: requests.Response, uri: str) -> Exception:
    status = answer.status_code
    if status in _TEMPORARY:
        return UnreachableError(f"{uri} answered {status}.")
    if 300 <= status < 400:
        return RefusedError(f"{uri} answered {status}: redirects are not followed. Give the address it leads to.")
    if status in (401, 403):
        return RefusedError(
            f"{uri} answered {status}: this app may not read it. Check the storage rules, and what the app gives to "
            "identify itself."
        )
    return RefusedError(f"{uri} answered {status}. Check the address of the release store.")


def _starts_at(answer: requests.Response, offset: int) -> bool:
    encoding = answer.headers.get("Content-Encoding", "identity")
    return encoding == "identity" and answer.headers.get("Content-Range", "").startswith(f"bytes {offset}-")


def _max_age(headers: Mapping[str, str]) -> float:
    """Seconds for which an answer is fresh: what Cache-Control says, less the time it spent in caches on the way."""
    directives = [part.strip().lower() for part in headers.get("Cache-Control", "").split(",")]
    if "no-store" in directives or "no-cache" in directives:
        return 0.0
    ages = [d.removeprefix("max-age=") for d in directives if d.startswith("max-age=")]
    if not ages or not ages[0].isdecimal():
        return 0.0
    spent = headers.get("Age", "0").strip()
    return max(min(int(ages[0]), _LONGEST_MAX_AGE) - (int(spent) if spent.isdecimal() else 0), 0)
