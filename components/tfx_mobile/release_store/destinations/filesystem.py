"""A release store in a folder, as data."""

from __future__ import annotations

import os
import re
from typing import ClassVar, Literal

from pydantic import field_validator

from tfx_mobile.release_store.destinations.base import Destination
from tfx_mobile.release_store.store import Store


class FilesystemDestination(Destination):
    """A release store in a folder.

    Attributes:
        base_directory: The folder, local or on a mounted file system; it is created if need be.
        type: Tells destinations apart in JSON.

    Raises:
        ValueError: `base_directory` is empty or an address with a scheme such as `gs://`.
    """

    example: ClassVar[str] = "FilesystemDestination(base_directory='/path/of/a/folder')"

    base_directory: str
    type: Literal["filesystem"] = "filesystem"

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
                    "path it is mounted at, or use the destination made for it"
                )
        return path

    @property
    def place(self) -> str:
        """The folder, however it is spelled."""
        return os.path.normpath(self.base_directory)

    def open_store(self) -> Store:
        """The release store at this destination; nothing is read or created yet."""
        from tfx_mobile.release_store.filesystem_store import FilesystemStore

        return FilesystemStore(self.base_directory)
