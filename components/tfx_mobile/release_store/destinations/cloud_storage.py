"""A release store in Cloud Storage, as data."""

from __future__ import annotations

import re
from typing import ClassVar, Literal

from pydantic import Field, field_validator

from tfx_mobile.release_store.destinations.base import Destination
from tfx_mobile.release_store.store import Store

MAX_CHANNEL_AGE_SECONDS = 60
_MAX_PREFIX_LENGTH = 256

_BUCKET_PART = re.compile(r"[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?")
_IP_ADDRESS = re.compile(r"\d+\.\d+\.\d+\.\d+")
_PREFIX_PART = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")


def check_bucket(bucket: str, destination: str) -> str:
    """Returns a bucket's name if Cloud Storage allows it; `destination` is the class to write it for.

    Raises:
        ValueError: It does not.
    """
    if "/" in bucket:
        name, _, folder = re.sub(r"^[A-Za-z0-9+.-]*://", "", bucket).partition("/")
        folder = folder.strip("/")
        written = f"bucket={name!r}" + (f", prefix={folder!r}" if folder else "")
        raise ValueError(f"a bucket is a name, not an address; write {destination}({written})")
    longest = 222 if "." in bucket else 63
    if not 3 <= len(bucket) <= longest or not all(_BUCKET_PART.fullmatch(part) for part in bucket.split(".")):
        raise ValueError(
            "a bucket's name has 3 to 63 lower-case letters, digits, hyphens and underscores, begins and ends with a "
            "letter or digit, and may consist of several such parts with dots between them"
        )
    if _IP_ADDRESS.fullmatch(bucket):
        raise ValueError("a bucket's name cannot look like an IP address")
    if bucket.startswith("goog") or "google" in bucket:
        raise ValueError("Cloud Storage has no buckets that begin with 'goog' or contain 'google'")
    return bucket


def check_prefix(prefix: str) -> str:
    """Returns a folder in a bucket if it can be one.

    Raises:
        ValueError: It cannot.
    """
    if not all(_PREFIX_PART.fullmatch(part) for part in prefix.split("/")):
        raise ValueError(
            "a prefix is one folder or several with '/' between them, without '/' at the beginning or end, each of "
            "letters, digits, dots, hyphens and underscores and not beginning with a dot"
        )
    if len(prefix) > _MAX_PREFIX_LENGTH:
        raise ValueError(f"a prefix has at most {_MAX_PREFIX_LENGTH} characters, this one has {len(prefix)}")
    return prefix


class CloudStorageDestination(Destination):
    """A release store in a bucket of Cloud Storage; the buckets of Cloud Storage for Firebase are such buckets.

    Credentials are those of the surroundings (Application Default Credentials); none is ever given here.

    Attributes:
        bucket: Name of the bucket, which has to exist, such as `my-models` or `my-project.firebasestorage.app`.
        prefix: Folder in the bucket, such as `mobile/releases`; empty for the top of the bucket.
        public: Whether everybody may read the bucket, so that caches on the way to devices may keep released bytes.
        channel_max_age_seconds: How long a device or cache may take a channel for current without asking, at most 60;
            0 (`no-store`): it always asks.
        type: Tells destinations apart in JSON.

    Raises:
        ValueError: A name is not one that Cloud Storage takes, or an address such as `gs://bucket/folder`.
    """

    example: ClassVar[str] = "CloudStorageDestination(bucket='my-models', prefix='releases')"

    bucket: str
    prefix: str = ""
    public: bool = False
    channel_max_age_seconds: int = Field(default=0, strict=True)
    type: Literal["cloud_storage"] = "cloud_storage"

    @field_validator("bucket")
    @classmethod
    def _check_bucket(cls, bucket: str) -> str:
        return check_bucket(bucket, cls.__name__)

    @field_validator("prefix")
    @classmethod
    def _check_prefix(cls, prefix: str) -> str:
        return check_prefix(prefix) if prefix else prefix

    @field_validator("channel_max_age_seconds")
    @classmethod
    def _check_channel_max_age(cls, seconds: int) -> int:
        if not 0 <= seconds <= MAX_CHANNEL_AGE_SECONDS:
            raise ValueError(
                f"use 0 to {MAX_CHANNEL_AGE_SECONDS}: a cached channel keeps devices from a rollback for that long"
            )
        return seconds

    @property
    def place(self) -> str:
        """Bucket and folder, however they are served."""
        return f"gs://{self.bucket}/{self.prefix}"

    def open_store(self) -> Store:
        """The release store at this destination; nothing is read or created yet."""
        from tfx_mobile.release_store.cloud_storage_store import CloudStorageStore

        return CloudStorageStore(
            self.bucket,
            self.prefix,
            public=self.public,
            channel_max_age_seconds=self.channel_max_age_seconds,
        )
