"""What models are called at Firebase ML, and the tags by which a push recognises its work."""

from __future__ import annotations

import re
from collections.abc import Iterable

from tfx_mobile.records import sha256_of
from tfx_mobile.release_store.names import DEFAULT_CHANNEL

TAG = re.compile(r"[A-Za-z0-9_-]{1,32}")

_DISPLAY_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,31}")
_FILE_TAG = re.compile(r"sha_[0-9a-f]{24}")
_CHANNEL_TAG = re.compile(r"ch_[0-9a-f]{24}")


def display_name_of(base_name: str, channel: str) -> str:
    """The name that apps ask for: the base name for production, `<base name>_<channel>` for another channel.

    Raises:
        ValueError: Firebase ML allows no such name.
    """
    name = base_name if channel == DEFAULT_CHANNEL else f"{base_name}_{channel}".replace("-", "_")
    if not _DISPLAY_NAME.fullmatch(name):
        raise ValueError(
            f"At Firebase ML the channel {channel!r} of {base_name!r} would be the model {name!r}, of {len(name)} "
            "characters; a name has 1 to 32 letters, digits and underscores and starts with a letter. Choose a "
            "shorter model_name or channel, or set FirebaseMLDestination(display_name=...)."
        )
    return name


def file_tag(sha256: str) -> str:
    """Says of which bytes a model was made; the service's own hash need not be readable."""
    return f"sha_{sha256[:24]}"


def channel_tag(model_name: str, channel: str) -> str:
    """Says which channel a model follows, so that two that come to one name are noticed."""
    return f"ch_{sha256_of(f'{model_name}/{channel}'.encode())[:24]}"


def other_channel_tags(tags: Iterable[str], own: str) -> list[str]:
    """The tags of channels other than one's own."""
    return [tag for tag in tags if _CHANNEL_TAG.fullmatch(tag) and tag != own]


def is_own_tag(tag: str) -> bool:
    """Whether a tag is one that a push sets by itself."""
    return bool(_FILE_TAG.fullmatch(tag) or _CHANNEL_TAG.fullmatch(tag))


def merged_tags(present: Iterable[str], wanted: Iterable[str], own: Iterable[str]) -> tuple[str, ...]:
    """What a model is to be tagged with: all that others gave it, what the destination asks for, and one's own."""
    kept = (tag for tag in present if not is_own_tag(tag))
    return tuple(dict.fromkeys((*kept, *wanted, *own)))
