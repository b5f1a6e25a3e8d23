"""A release by what a person types, and what a store holds by name."""

from __future__ import annotations

import re
from collections.abc import Iterable

from tfx_mobile.errors import NoSuchReleaseError, NothingPublishedError
from tfx_mobile.records import ChannelEntry, ChannelStatement
from tfx_mobile.release_store.names import channel_path, check_model_name
from tfx_mobile.release_store.store import ObjectInfo, Store

MIN_PREFIX = 8

_VERSION = re.compile(rf"[1-9][0-9]{{0,{MIN_PREFIX - 2}}}")
_PREFIX = re.compile(rf"[0-9a-f]{{{MIN_PREFIX},64}}")
_BLOB = re.compile(r"blobs/[^/]+/([0-9a-f]{64})\.tflite")
_MANIFEST = re.compile(r"releases/[^/]+/([0-9a-f]{64})\.json")


def published(statement: ChannelStatement | None, store: Store, model_name: str, channel: str) -> ChannelStatement:
    """The statement.

    Raises:
        NothingPublishedError: There is none.
    """
    if statement is None:
        raise NothingPublishedError(
            f"Nothing was published to {store.uri(channel_path(model_name, channel))}. Check model name, channel and "
            "destination; tfx-mobile releases --at DESTINATION lists what is there."
        )
    return statement


def find_entry(history: Iterable[ChannelEntry], text: str, uri: str) -> ChannelEntry:
    """The newest entry that `text` means: a version, or the first characters of a release id or sha256.

    Raises:
        NoSuchReleaseError: None is meant, or several different releases are.
    """
    entries = tuple(history)
    if is_version(text):
        found = [entry for entry in entries if entry.version == int(text)]
    else:
        check_prefix(text)
        found = [entry for entry in entries if entry.release_id.startswith(text) or entry.sha256.startswith(text)]
    if not found:
        raise NoSuchReleaseError(f"{uri} names no release {text!r}. It knows: {_known(entries)}.")
    if len({entry.sha256 for entry in found}) > 1:
        raise NoSuchReleaseError(f"{text!r} means several releases of {uri}: {_known(found)}. Give more characters.")
    return found[0]


def is_version(text: str) -> bool:
    """Whether `text` can only mean a version."""
    return _VERSION.fullmatch(text) is not None


def check_prefix(text: str) -> None:
    """Makes sure that `text` can mean a release.

    Raises:
        NoSuchReleaseError: It cannot.
    """
    if not _PREFIX.fullmatch(text):
        raise NoSuchReleaseError(
            f"{text!r} is no release: give a version such as 3, or at least {MIN_PREFIX} of the 64 hexadecimal "
            "characters of a release id or a sha256, in lower case."
        )


def blobs_of(store: Store, model_name: str) -> dict[str, ObjectInfo]:
    """A model's files by sha256."""
    return _by_name(store.list(f"blobs/{check_model_name(model_name)}/"), _BLOB)


def manifests_of(store: Store, model_name: str) -> dict[str, ObjectInfo]:
    """A model's manifests by release id."""
    return _by_name(store.list(f"releases/{check_model_name(model_name)}/"), _MANIFEST)


def _by_name(objects: Iterable[ObjectInfo], pattern: re.Pattern[str]) -> dict[str, ObjectInfo]:
    return {match[1]: info for info in objects if (match := pattern.fullmatch(info.path))}


def _known(entries: Iterable[ChannelEntry]) -> str:
    """The releases, newest first, each once and short."""
    newest: dict[str, ChannelEntry] = {}
    for entry in entries:
        newest.setdefault(entry.release_id, entry)
    return ", ".join(f"{entry.release_id[:12]} (version {entry.version})" for entry in newest.values()) or "none"
