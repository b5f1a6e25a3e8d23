"""What models and channels may be called, and where objects lie in a release store.

blobs/<name>/<sha256 hex>.tflite      immutable
releases/<name>/<release_id>.json     immutable; a ReleaseManifest in an Envelope
channels/<name>/<channel>.json        the only mutable object; a ChannelStatement in an Envelope
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tfx_mobile.records import ReleaseManifest

DEFAULT_CHANNEL = "production"

_MODEL_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,31}")
_CHANNEL = re.compile(r"[a-z][a-z0-9_-]{0,31}")


def check_model_name(name: object) -> str:
    """Returns `name` if it can name a model.

    Raises:
        ValueError: It cannot.
    """
    if isinstance(name, str) and _MODEL_NAME.fullmatch(name):
        return name
    raise ValueError(
        f"model_name={name!r} is not valid: use 1 to 32 letters, digits and underscores, starting with a letter. "
        "Set MobilePusher(model_name=...) to such a name, for example 'digits'."
    )


def check_channel(channel: object) -> str:
    """Returns `channel` if it can name a channel.

    Raises:
        ValueError: It cannot.
    """
    if isinstance(channel, str) and _CHANNEL.fullmatch(channel):
        return channel
    raise ValueError(
        f"channel={channel!r} is not valid: use 1 to 32 lower-case letters, digits, hyphens and underscores, starting "
        "with a letter. Set MobilePusher(channel=...) to such a name, for example 'production' or 'beta'."
    )


def blob_path(model_name: str, sha256: str) -> str:
    """Path of a model's bytes."""
    return f"blobs/{model_name}/{sha256}.tflite"


def release_path(model_name: str, release_id: str) -> str:
    """Path of a release manifest."""
    return f"releases/{model_name}/{release_id}.json"


def channel_path(model_name: str, channel: str) -> str:
    """Path of a channel statement."""
    return f"channels/{model_name}/{channel}.json"


def release_id_of(manifest: ReleaseManifest) -> str:
    """The id that follows from a manifest's content."""
    from tfx_mobile.records import sha256_of  # here, so that names alone cost nothing

    return sha256_of(manifest.to_json())
