"""What all records have in common: frozen, strict, canonical JSON."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from tfx_mobile.errors import TFXMobileError

_RecordT = TypeVar("_RecordT", bound="Record")

SHA256_PATTERN = r"^[0-9a-f]{64}$"


def canonical_json(value: Any) -> bytes:
    """The one byte form of a JSON value: sorted keys, no spaces, UTF-8, finite numbers only."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def sha256_of(data: bytes) -> str:
    """Lower-case hexadecimal SHA-256 of `data`."""
    return hashlib.sha256(data).hexdigest()


class Record(BaseModel):
    """Base of all records."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def to_json(self) -> bytes:
        """Canonical JSON of this record."""
        return canonical_json(self.model_dump(mode="json"))

    @classmethod
    def from_json(cls: type[_RecordT], data: bytes | str) -> _RecordT:
        """Reads a record.

        Raises:
            TFXMobileError: `data` is not this record; the message names the fields.
        """
        try:
            return cls.model_validate_json(data)
        except ValidationError as error:
            fields = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'document'}: {e['msg']}" for e in error.errors()[:5])
            raise TFXMobileError(
                f"Not a valid {cls.__name__}: {fields}. It was written by another version of tfx-mobile or altered; "
                "run the step that wrote it again."
            ) from None

    @classmethod
    def read(cls: type[_RecordT], path: str | Path) -> _RecordT:
        """Reads a record from a local file."""
        return cls.from_json(Path(path).read_bytes())
