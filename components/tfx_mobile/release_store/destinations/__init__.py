"""Where to publish, as data: one module per kind of destination."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel

from tfx_mobile.records import canonical_json
from tfx_mobile.release_store.destinations.base import Destination
from tfx_mobile.release_store.destinations.cloud_storage import CloudStorageDestination
from tfx_mobile.release_store.destinations.filesystem import FilesystemDestination
from tfx_mobile.release_store.destinations.firebase_ml import FirebaseMLDestination
from tfx_mobile.release_store.destinations.object_store import ObjectStoreDestination

__all__ = [
    "CloudStorageDestination",
    "Destination",
    "FilesystemDestination",
    "FirebaseMLDestination",
    "ObjectStoreDestination",
    "destinations_to_json",
    "parse_destination",
    "parse_destinations",
]

_KINDS: tuple[type[Destination], ...] = (
    FilesystemDestination,
    CloudStorageDestination,
    ObjectStoreDestination,
    FirebaseMLDestination,
)
_BY_TYPE: Mapping[str, type[Destination]] = {kind.model_fields["type"].default: kind for kind in _KINDS}


def parse_destination(destination: object) -> Destination:
    """Turns a destination's JSON form into the destination; one that is a destination already is returned.

    Raises:
        ValueError: It is of an unknown type or malformed.
    """
    if isinstance(destination, Destination):
        return destination
    if isinstance(destination, Mapping) and (kind := str(destination.get("type"))) in _BY_TYPE:
        return _BY_TYPE[kind](**destination)
    raise ValueError(
        f"Unknown destination {destination!r}; valid types: {', '.join(_BY_TYPE)}. "
        f"Give {FilesystemDestination.example}."
    )


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
            f"destinations=[{FilesystemDestination.example}]."
        )
    parsed = tuple(parse_destination(destination) for destination in destinations)
    if not parsed:
        raise ValueError(
            "destinations is empty, so nothing would be published; give at least one, for example "
            f"destinations=[{FilesystemDestination.example}]."
        )
    return parsed


def destinations_to_json(destinations: Iterable[Destination]) -> str:
    """The one JSON form of destinations; `parse_destinations` reads it."""
    return canonical_json([destination.model_dump(mode="json") for destination in destinations]).decode()
