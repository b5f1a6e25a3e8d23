"""What a place must be able to do to hold releases."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from tfx_mobile.errors import ConflictError


@dataclass(frozen=True)
class StoredObject:
    """An object as it was at one moment.

    Attributes:
        data: Its bytes.
        generation: Opaque; changes whenever the object does.
    """

    data: bytes
    generation: str


@dataclass(frozen=True)
class ObjectInfo:
    """What a store knows of an object without reading it.

    Attributes:
        path: Its path, with `/`, relative to the store.
        size_bytes: Its size.
        generation: Opaque; changes whenever the object does.
        modified: When it was last written, by the store's own clock.
    """

    path: str
    size_bytes: int
    generation: str
    modified: datetime.datetime


class Store(Protocol):
    """Where releases live. Paths are relative, with `/`.

    A store retries what may be retried. Every method raises DestinationUnavailableError when the place cannot be
    reached, read or written in spite of that.
    """

    @property
    def address(self) -> str:
        """The destination's address, for people and receipts."""
        ...

    def uri(self, path: str) -> str:
        """The full address of an object."""
        ...

    def read(self, path: str) -> StoredObject | None:
        """The object, or None if there is none. Bytes and generation are of the same moment."""
        ...

    def holds(self, path: str, data: bytes) -> bool:
        """Whether an immutable object is there, by a checksum of all its bytes; False if it is not there.

        Raises:
            ConflictError: It is there with other bytes.
        """
        ...

    def check_writable(self, path: str) -> None:
        """Raises if the object surely could not be written; changes nothing."""
        ...

    def put_if_absent(self, path: str, data: bytes) -> None:
        """Creates an immutable object as a whole; does nothing at all if it is there with these bytes.

        Raises:
            ConflictError: It is there with other bytes.
        """
        ...

    def compare_and_swap(self, path: str, data: bytes, generation: str | None) -> bool:
        """Replaces the object if it is still at `generation` (None: absent).

        False if it is not, or if that cannot be told: a write may have been committed though its answer was lost.
        Whoever calls this reads again and recognises its own write.
        """
        ...

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Every object below a path that ends in `/`, in no particular order."""
        ...

    def delete(self, path: str, generation: str) -> bool:
        """Deletes the object if it is still at `generation`; False if it is not. True if it is gone already."""
        ...


@dataclass(frozen=True)
class FollowResult:
    """What a follower did.

    Attributes:
        changed: Whether anything was written.
        details: What the service says of the model, for the receipt.
    """

    changed: bool
    details: dict[str, str] = field(default_factory=dict)


class Follower(Protocol):
    """A service that itself hands a model to devices, and has no compare-and-swap.

    The channel in a release store decides what is current, also among rivals; a follower makes the service serve that.
    It can be asked at any time, and again after a crash, and then does only what is left to do.
    """

    @property
    def address(self) -> str:
        """The service's address, for people and receipts."""
        ...

    def check(self, model_name: str, channel: str, size_bytes: int) -> None:
        """Raises a PushError if following would surely fail; changes nothing."""
        ...

    def is_following(self, model_name: str, channel: str) -> bool:
        """Whether the service serves what the channel names; changes nothing."""
        ...

    def follow(self, model_name: str, channel: str) -> FollowResult:
        """Makes the service serve what the channel names, and verifies that it does.

        Raises:
            PushError: It does not, or cannot be reached; the message says what to do.
        """
        ...


def immutable_conflict(uri: str) -> ConflictError:
    """The error for an immutable object whose bytes are not those its name stands for."""
    return ConflictError(
        f"{uri} exists with other bytes than its name stands for: it was damaged, or something else wrote it. "
        "Nothing was overwritten. Move it away and push again."
    )
