"""A release store in a folder, local or on a shared file system.

A file is written under a temporary name in the folder it belongs to, brought to disk, and renamed: a reader sees the
whole file or none, without a lock. Writers of one folder take turns under a lock that the kernel takes away from a
process that dies, so a temporary file found under the lock is the leftover of a dead one and is removed.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import tenacity

from tfx_mobile.errors import DestinationUnavailableError
from tfx_mobile.records import sha256_of
from tfx_mobile.release_store.store import ObjectInfo, StoredObject, immutable_conflict

LOCK_FILE = ".lock"
TEMPORARY_PREFIX = ".tmp-"

_LOCK_SECONDS = 120.0


class FilesystemStore:
    """The `store.Store` below one folder, which need not exist yet.

    Several machines may share the folder if its file system honours `flock` across them, as NFSv4 does.

    Args:
        base_directory: The folder.
    """

    def __init__(self, base_directory: str) -> None:
        self._root = Path(base_directory)

    @property
    def address(self) -> str:
        """The folder."""
        return str(self._root)

    def uri(self, path: str) -> str:
        """The path of an object in the file system."""
        return str(self._root / path)

    def read(self, path: str) -> StoredObject | None:
        """The object, or None if there is none."""
        with self._explaining("read", path):
            try:
                with (self._root / path).open("rb") as stream:
                    written = _when_written(os.fstat(stream.fileno()))
                    data = stream.read()
            except FileNotFoundError:
                return None
        return StoredObject(data, generation=f"{written}.{sha256_of(data)}")

    def check_writable(self, path: str) -> None:
        """Raises if the folder the object belongs to, or the one to create it in, cannot be written."""
        with self._explaining("write", path):
            folder = (self._root / path).parent
            while not folder.exists():
                folder = folder.parent
            if not folder.is_dir():
                raise NotADirectoryError(f"{folder} is not a folder")
            if not os.access(folder, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
                raise PermissionError(f"no permission to write in {folder}")

    def holds(self, path: str, data: bytes) -> bool:
        """Whether an immutable object is there, by its bytes; False if it is not there.

        Raises:
            ConflictError: It is there with other bytes.
        """
        existing = self.read(path)
        if existing is not None and existing.data != data:
            raise immutable_conflict(self.uri(path))
        return existing is not None

    def put_if_absent(self, path: str, data: bytes) -> None:
        """Creates an immutable object as a whole; does nothing at all if it is there with these bytes.

        Raises:
            ConflictError: It is there with other bytes.
        """
        if self.holds(path, data):
            return
        with self._locked(path):
            if not self.holds(path, data):
                _write(self._root / path, data)

    def compare_and_swap(self, path: str, data: bytes, generation: str | None) -> bool:
        """Replaces the object if it is still at `generation` (None: absent); False if it is not."""
        with self._locked(path):
            current = self.read(path)
            if (current.generation if current else None) != generation:
                return False
            _write(self._root / path, data)
            return True

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Every object below a path that ends in `/`; the writers' own files are none."""
        with self._explaining("list", prefix):
            for path in sorted((self._root / prefix).rglob("*")):
                if path.name.startswith(".") or not path.is_file():
                    continue
                name = path.relative_to(self._root).as_posix()
                with contextlib.suppress(FileNotFoundError):  # deleted since it was listed
                    status = path.stat()
                    modified = datetime.datetime.fromtimestamp(status.st_mtime, datetime.timezone.utc)
                    yield ObjectInfo(name, status.st_size, _when_written(status), modified)

    def delete(self, path: str, generation: str) -> bool:
        """Deletes the object if it is still at `generation`; False if it is not. True if it is gone already.

        A generation from a listing lacks the hash, which would take reading every file.
        """
        if self.read(path) is None:
            return True
        with self._locked(path):
            current = self.read(path)
            if current is not None and not f"{current.generation}.".startswith(f"{generation}."):
                return False
            (self._root / path).unlink(missing_ok=True)
            _sync_folder((self._root / path).parent)
            return True

    @contextlib.contextmanager
    def _locked(self, path: str) -> Iterator[None]:
        """Excludes other writers of the object's folder, which is created if need be."""
        folder = (self._root / path).parent
        with self._explaining("write", path):
            _make_folder(folder)
            lock = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                _lock(lock)
                for leftover in folder.glob(TEMPORARY_PREFIX + "*"):
                    leftover.unlink()
                yield
            finally:
                os.close(lock)

    @contextlib.contextmanager
    def _explaining(self, verb: str, path: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DestinationUnavailableError(
                f"Cannot {verb} {self.uri(path)}: {error}. Check that {self.address} is a folder on a mounted file "
                "system with space left, which the pipeline's user may write, then push again: a push takes up where "
                "the last one stopped."
            ) from error


def _lock(lock: int) -> None:
    """Waits for the lock; a live process that keeps it is an error, not a pipeline that hangs for ever."""
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(BlockingIOError),
        wait=tenacity.wait_random(0.001, 0.02),
        stop=tenacity.stop_after_delay(_LOCK_SECONDS),
        reraise=True,
    )
    try:
        retrying(fcntl.flock, lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BlockingIOError(f"another pusher has held {LOCK_FILE} in this folder for {_LOCK_SECONDS:g} s") from None


def _when_written(status: os.stat_result) -> str:
    """Tells a file from the one that was there before under its name, even if it has the same bytes."""
    return f"{status.st_mtime_ns}.{status.st_ino}"


def _write(target: Path, data: bytes) -> None:
    """Puts `data` at `target` as a whole and brings it to disk."""
    temporary = target.parent / f"{TEMPORARY_PREFIX}{uuid.uuid4().hex}"
    try:
        # Not tempfile: its files are private, and those who serve the store to devices must be able to read it.
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666), "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, target)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(target.parent)


def _make_folder(folder: Path) -> None:
    """Creates a folder and those above it, each brought to disk before anything is put into it."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
