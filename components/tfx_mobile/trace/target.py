"""What is asked about."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from tfx_mobile.errors import TraceError

_HASH = re.compile(r"[0-9a-fA-F]{64}")


def resolve_target(text: str) -> str:
    """The SHA-256 that a person means: one they give, that of a release, or that of a file.

    Args:
        text: 64 hexadecimal digits, or the path of a file.

    Raises:
        TraceError: It is neither, or the file cannot be read.
    """
    if _HASH.fullmatch(text):
        return text.lower()
    path = Path(text)
    try:
        if not path.is_file():
            raise TraceError(
                f"{text!r} is neither a file nor 64 hexadecimal digits. Give a .tflite file, the SHA-256 of one, or "
                "the id of a release."
            )
        digest = hashlib.sha256()
        with path.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        raise TraceError(f"{text!r} cannot be read: {error}. Give a file that can, or its SHA-256.") from None
    return digest.hexdigest()
