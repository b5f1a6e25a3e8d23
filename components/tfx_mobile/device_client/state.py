"""What a device remembers between two looks at its channel.

Every file is written as a whole: under a temporary name, brought to disk, renamed. The state is kept twice, each with a
checksum, so that a damaged file costs neither the model at hand nor the memory of the highest version.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import Field

from tfx_mobile.errors import TFXMobileError
from tfx_mobile.records import Record, canonical_json, sha256_of
from tfx_mobile.records.base import SHA256_PATTERN

STATE_FILE = "state.json"
BACKUP_FILE = "state.backup.json"
LOCK_FILE = ".lock"
MODELS = "models"
PARTIAL_SUFFIX = ".part"

_CHUNK_BYTES = 1 << 20


class InstalledModel(Record):
    """A model on the device, in `models/<sha256>.tflite`.

    Attributes:
        version: Of the channel statement that named it last.
        release_id: Of its release.
        sha256: Of its bytes.
        size_bytes: Its size.
        confirmed: Whether the app said that it works.
        loads: How often the app began to load it since it was installed or confirmed.
    """

    version: int = Field(ge=1)
    release_id: str = Field(pattern=SHA256_PATTERN)
    sha256: str = Field(pattern=SHA256_PATTERN)
    size_bytes: int
    confirmed: bool = False
    loads: int = 0


class FailedModel(Record):
    """Bytes that do not work on this device."""

    sha256: str = Field(pattern=SHA256_PATTERN)
    reason: str


class DeviceState(Record):
    """All of it.

    Attributes:
        highest_version: The highest version of the channel ever seen with a valid signature; a lower one is a replay.
        highest_nonce: Of the statement with that version; another statement with the same version is forged.
        source: Where `etag` comes from.
        etag: Of the statement that was dealt with last.
        current: What the app is to load; None before the first model.
        last_good: What it falls back to.
        failed: What is not taken again while the channel names it.
    """

    schema_version: Literal[1] = 1
    highest_version: int = 0
    highest_nonce: str | None = None
    source: str | None = None
    etag: str | None = None
    current: InstalledModel | None = None
    last_good: InstalledModel | None = None
    failed: FailedModel | None = None


class DeviceFolder:
    """The files of one model and channel on a device.

    Args:
        path: The folder, created when it is first locked.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._models = path / MODELS

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Excludes other processes and threads; the kernel frees the lock of one that dies."""
        self._models.mkdir(parents=True, exist_ok=True)
        lock = os.open(self.path / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def read_state(self) -> DeviceState:
        """What was remembered; a new state if both files are missing or damaged. Needs no lock."""
        for name in (STATE_FILE, BACKUP_FILE):
            with contextlib.suppress(OSError, ValueError, LookupError, TypeError, TFXMobileError):
                sealed = json.loads((self.path / name).read_bytes())
                body = canonical_json(sealed["state"])
                if sha256_of(body) == sealed["sha256"]:
                    return DeviceState.from_json(body)
        return DeviceState()

    def write_state(self, state: DeviceState) -> None:
        """Remembers, both times as a whole."""
        body = state.to_json()
        data = canonical_json({"sha256": sha256_of(body), "state": json.loads(body)})
        for name in (STATE_FILE, BACKUP_FILE):
            temporary = self.path / f"{name}.tmp"
            temporary.write_bytes(data)
            commit(temporary, self.path / name)

    def model_path(self, sha256: str) -> Path:
        """Where a model lies if it is there."""
        return self._models / f"{sha256}.tflite"

    def partial_for(self, sha256: str) -> Path:
        """Where what has been downloaded of a model lies; what is left of others is deleted."""
        partial = self._models / f"{sha256}{PARTIAL_SUFFIX}"
        for other in self._models.glob(f"*{PARTIAL_SUFFIX}"):
            if other != partial:
                other.unlink()
        return partial

    def holds(self, model: InstalledModel | None) -> bool:
        """Whether a model is there with its very bytes."""
        return model is not None and hash_of(self.model_path(model.sha256)) == model.sha256

    def keep_only(self, *models: InstalledModel | None) -> None:
        """Deletes all other models and everything that was half downloaded."""
        kept = {self.model_path(model.sha256) for model in models if model is not None}
        for path in self._models.iterdir():
            if path not in kept:
                path.unlink()


def commit(temporary: Path, target: Path) -> None:
    """Brings a file to disk and gives it its name; before, `target` is the old file, and after, the new one."""
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())
    os.replace(temporary, target)
    folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def hash_of(path: Path) -> str | None:
    """Lower-case hexadecimal SHA-256 of a file; None if there is none, or none that can be read."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
    except OSError:
        return None
    return digest.hexdigest()
