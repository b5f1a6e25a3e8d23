"""Files given on the command line."""

from __future__ import annotations

from pathlib import Path

import click

#: Nothing larger is a model for a device, and everything is read into memory.
_MAX_FILE_BYTES = 4 << 30


def read_file(file: Path) -> bytes:
    """A file's bytes; anything else than a regular file of sensible size is an error of the command."""
    if not file.is_file() or file.stat().st_size > _MAX_FILE_BYTES:
        raise click.ClickException(f"{file} is not a regular file of at most {_MAX_FILE_BYTES:,} bytes.")
    return file.read_bytes()
