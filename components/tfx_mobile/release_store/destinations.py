"""Where to publish, as data.

A destination is frozen, validated and JSON in and out, because it travels through a compiled pipeline. It holds
addresses, never secrets.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from tfx_mobile.records import canonical_json
from tfx_mobile.release_store.filesystem_store import FilesystemStore


class FilesystemDestination(BaseModel):
    """A release store in a folder.

    Attributes:
        base_directory: The folder, local or on a mounted file system; it is created if need be.
        type: Tells destinations apart in JSON.

    Raises:
        ValueError: `base_directory` is empty or an address with a scheme such as `gs://`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    base_directory: str
    type: Literal["filesystem"] = "filesystem"

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            problems = "; ".join(
                f"{'.'.join(map(str, p['loc']))}={p['input']!r}: {p['msg'].removeprefix('Value error, ')}"
                for p in error.errors()
            )
            raise ValueError(
                f"Invalid FilesystemDestination: {problems}. "
                "Write FilesystemDestination(base_directory='/path/of/a/folder')."
            ) from None

    @field_validator("base_directory", mode="before")
    @classmethod
    def _check_base_directory(cls, value: object) -> object:
        path = os.fspath(value) if isinstance(value, os.PathLike) else value
        if isinstance(path, str):
            if not path.strip():
                raise ValueError("name a folder")
            if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", path):
                raise ValueError(
                    "a FilesystemDestination is a folder, not an address with a scheme; mount the place and give the "
                    "path it is mounted at"
                )
        return path

    def open_store(self) -> FilesystemStore:
        """The release store at this destination; nothing is read or created yet."""
        return FilesystemStore(self.base_directory)


Destination = FilesystemDestination

_TYPES: Mapping[str, type[Destination]] = {"filesystem": FilesystemDestination}


def parse_destinations(destinations: str | Iterable[Destination | Mapping[str, Any]]) -> tuple[Destination, ...]:
    """Turns destinations and their JSON form into destinations, in the given order.

    Raises:
        ValueError: There is none, or one is of an unknown type or malformed.
    """
    if isinstance(destinations, str):
        try:
            destinations = json.loads(destinations)
        except json.JSONDecodeError as error:
            raise ValueError(
                f"destinations={destinations!r} is not JSON ({error}). Give a list such as "
                '[{"type": "filesystem", "base_directory": "/path/of/a/folder"}].'
            ) from None
    if not isinstance(destinations, Iterable) or isinstance(destinations, (str, Mapping, BaseModel)):
        raise ValueError(
            f"destinations={destinations!r} is not a list; give one, for example "
            "destinations=[FilesystemDestination(base_directory='/path/of/a/folder')]."
        )
    parsed = tuple(_parse(destination) for destination in destinations)
    if not parsed:
        raise ValueError(
            "destinations is empty, so nothing would be published; give at least one, for example "
            "destinations=[FilesystemDestination(base_directory='/path/of/a/folder')]."
        )
    return parsed


def destinations_to_json(destinations: Iterable[Destination]) -> str:
    """The one JSON form of destinations; `parse_destinations` reads it."""
    return canonical_json([destination.model_dump(mode="json") for destination in destinations]).decode()


def _parse(destination: object) -> Destination:
    if isinstance(destination, Destination):
        return destination
    if isinstance(destination, Mapping) and (kind := str(destination.get("type"))) in _TYPES:
        return _TYPES[kind](**destination)
    raise ValueError(
        f"Unknown destination {destination!r}; valid types: {', '.join(_TYPES)}. "
        "Give FilesystemDestination(base_directory='/path/of/a/folder')."
    )
