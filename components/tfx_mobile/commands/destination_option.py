"""Where the releases are: the one parser of `--at`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tfx_mobile.release_store.delivery import OpenDestination
    from tfx_mobile.release_store.destinations import Destination
    from tfx_mobile.release_store.signing import Keyring

FORMS = "a folder, gs://BUCKET/PREFIX, a destination as JSON, or @FILE with that JSON"

_MAX_FILE_BYTES = 1 << 20
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_BUCKET = re.compile(r"gs://([^/]+)(?:/(.*))?")


def parse_destinations_text(text: str) -> tuple[Destination, ...]:
    """The destinations that `text` means: one, or for a JSON list, such as MobilePusher is given, all in it.

    Raises:
        ValueError: It means none.
    """
    from tfx_mobile.release_store.destinations import parse_destination, parse_destinations

    stripped = text.strip()
    if stripped.startswith("@"):
        stripped = _read(Path(stripped[1:])).strip()
        if not stripped.startswith(("{", "[")):
            raise ValueError(f"{text} holds no JSON object or list; give {FORMS}.")
    if stripped.startswith("["):
        return parse_destinations(stripped)
    if stripped.startswith("{"):
        try:
            return (parse_destination(json.loads(stripped)),)
        except json.JSONDecodeError as error:
            raise ValueError(f"{text!r} is not JSON ({error}); give {FORMS}.") from None
    if match := _BUCKET.fullmatch(stripped):
        prefix = (match[2] or "").strip("/")
        return (parse_destination({"type": "cloud_storage", "bucket": match[1], "prefix": prefix}),)
    if not stripped or _SCHEME.match(stripped):
        raise ValueError(f"{text!r} is no destination; give {FORMS}.")
    return (parse_destination({"type": "filesystem", "base_directory": stripped}),)


def open_all(parsed: Sequence[tuple[Destination, ...]], keyring: Keyring) -> tuple[OpenDestination, ...]:
    """Opens the destinations of all `--at`, each once; nothing is read yet."""
    from tfx_mobile.release_store.delivery import open_destinations

    return open_destinations(tuple(dict.fromkeys(one for several in parsed for one in several)), keyring)


def destinations_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds `--at`, which gives the parameter `destinations`."""
    return click.option(
        "--at",
        "destinations",
        callback=_parse_all,
        multiple=True,
        metavar="DESTINATION",
        required=True,
        help=f"Where the releases are: {FORMS}; may be repeated.",
    )(command)


def _parse_all(
    ctx: click.Context, param: click.Parameter, texts: tuple[str, ...]
) -> tuple[tuple[Destination, ...], ...]:
    try:
        return tuple(parse_destinations_text(text) for text in texts)
    except ValueError as error:
        from tfx_mobile.inspection_view import printable

        raise click.BadParameter(printable(str(error)), ctx, param) from None


def _read(file: Path) -> str:
    if not file.is_file() or file.stat().st_size > _MAX_FILE_BYTES:
        raise ValueError(f"{file} is not a regular file of at most {_MAX_FILE_BYTES:,} bytes.")
    return file.read_text("utf-8")
