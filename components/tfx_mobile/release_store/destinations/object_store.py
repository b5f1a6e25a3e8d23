"""A release store on Amazon S3, on what speaks S3's protocol, or on Azure Blob Storage, as data."""

from __future__ import annotations

import importlib.util
import re
import urllib.parse
from typing import Any, ClassVar, Literal

from pydantic import field_validator

from tfx_mobile.release_store.destinations.base import Destination
from tfx_mobile.release_store.store import Store

_INSTALL = "pip install 'tfx-mobile[object-store]'"
_FORMS = (
    "s3://<bucket>/<prefix>, abfss://<container>@<account>.dfs.core.windows.net/<prefix>, or az://<container>/<prefix> "
    "with account='<account>'"
)
_PREFIX = r"(?P<prefix>(?:/[A-Za-z0-9][A-Za-z0-9._-]*)*)/?"
_URLS = (
    re.compile(r"(?P<scheme>s3)://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])" + _PREFIX),
    re.compile(
        r"(?P<scheme>abfss)://(?P<bucket>[a-z0-9][a-z0-9-]{1,61}[a-z0-9])@"
        r"(?P<account>[a-z0-9]{3,24})\.dfs\.core\.windows\.net" + _PREFIX
    ),
    re.compile(r"(?P<scheme>az)://(?P<bucket>[a-z0-9][a-z0-9-]{1,61}[a-z0-9])" + _PREFIX),
)
#: What no address holds, but keys, tokens and signed addresses do; also anything before an @ other than a container.
_LOOKS_SECRET = re.compile(r"[?#=;&%+\s]|A[KS]IA[A-Z0-9]{12}|[A-Za-z0-9]{40}|(?<!^abfss)://[^/]*@|://[^/]*:[^/]*@")

#: The largest object that one request creates; parts put together later cannot be created conditionally everywhere.
_MAX_BYTES = {"s3": 5 * 1024**3, "az": 5000 * 1024**2}


class ObjectStoreDestination(Destination):
    """A release store in a bucket of Amazon S3 or a compatible service, or in a container of Azure Blob Storage.

    The service must honour `If-Match` and `If-None-Match` when it writes; one that does not is refused before anything
    is published. Credentials are found by whoever runs the push: a role or workload identity of its surroundings, or
    the environment variables of AWS and Azure. Needs the extra `object-store`.

    Attributes:
        url: The place, as `s3://<bucket>/<prefix>`, `abfss://<container>@<account>.dfs.core.windows.net/<prefix>` or
            `az://<container>/<prefix>`. The prefix may be left out; its parts are letters, digits, `.`, `_` and `-`.
        region: The bucket's region on S3; by default what `AWS_REGION` or `AWS_DEFAULT_REGION` say, else `us-east-1`.
        account: The storage account of an `az://` address.
        endpoint: Where the service is if not at Amazon's or Azure's own address, such as
            `https://minio.example.com:9000`; `https`, except on the loopback interface. Buckets are addressed by path.
        type: Tells destinations apart in JSON.

    Raises:
        ValueError: A value is not valid, looks like credentials, or the extra is not installed.
    """

    example: ClassVar[str] = "ObjectStoreDestination(url='s3://my-bucket/models', region='eu-central-1')"

    url: str
    region: str | None = None
    account: str | None = None
    endpoint: str | None = None
    type: Literal["object_store"] = "object_store"

    def __init__(self, **values: Any) -> None:
        for name, value in values.items():
            # Before pydantic sees it: the messages it leads to repeat values.
            if name not in type(self).model_fields:
                raise ValueError(
                    f"Invalid ObjectStoreDestination: {name} is no parameter of it (its value is not repeated here); "
                    f"valid ones: {', '.join(type(self).model_fields)}. Credentials are none: the pipeline's identity "
                    f"brings them. Write {self.example}."
                )
            if isinstance(value, str) and _LOOKS_SECRET.search(value):
                raise ValueError(
                    f"Invalid ObjectStoreDestination: {name} holds what no plain address or name does, such as a key, "
                    "a signature, a user or a query (it is not repeated here). Parameters end up in the compiled "
                    "pipeline and in ML Metadata: take it out, and give the pipeline's identity access instead. Valid "
                    f"forms of url: {_FORMS}. Write {self.example}."
                )
        super().__init__(**values)
        if importlib.util.find_spec("obstore") is None:
            raise ValueError(
                f"ObjectStoreDestination(url={self.url!r}) needs the package obstore, which is not installed. Run "
                f"{_INSTALL}, here and in the image that runs the pipeline."
            )

    @field_validator("url", mode="after")
    @classmethod
    def _check_url(cls, value: str) -> str:
        if value.startswith("gs://"):
            raise ValueError("for Google Cloud Storage use CloudStorageDestination, which knows its generations")
        if not any(pattern.fullmatch(value) for pattern in _URLS):
            raise ValueError(f"not the address of a bucket or container; valid forms: {_FORMS}")
        return value.rstrip("/")

    @field_validator("region", mode="after")
    @classmethod
    def _check_region(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,31}", value):
            raise ValueError("not the name of a region, such as 'eu-central-1', or 'auto' where the service says so")
        return value

    @field_validator("account", mode="after")
    @classmethod
    def _check_account(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[a-z0-9]{3,24}", value):
            raise ValueError("not the name of a storage account: 3 to 24 lower-case letters and digits")
        return value

    @field_validator("endpoint", mode="after")
    @classmethod
    def _check_endpoint(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urllib.parse.urlsplit(value)
        if parts.scheme not in ("https", "http") or not parts.hostname:
            raise ValueError("not an address such as 'https://minio.example.com:9000'")
        if parts.scheme == "http":
            from tfx_mobile.google_rest import is_loopback  # here: with it comes an HTTP client, which data do not need

            if not is_loopback(value):
                raise ValueError("http would send models and signatures in the clear; use https")
        return value.rstrip("/")

    def model_post_init(self, _: object) -> None:
        """Checks what depends on the kind of the service."""
        if self.service == "s3" and self.account is not None:
            raise ValueError(
                f"Invalid ObjectStoreDestination: account={self.account!r} has no meaning with {self.url}."
            )
        if self.service == "az" and self.region is not None:
            raise ValueError(
                f"Invalid ObjectStoreDestination: region={self.region!r} has no meaning with {self.url}: the storage "
                "account has its region."
            )
        if self.service == "az" and (self._part("account") is None) == (self.account is None):
            raise ValueError(
                f"Invalid ObjectStoreDestination: name the storage account of {self.url} once, in the address or in "
                f"account. Valid forms: {_FORMS}."
            )

    @property
    def service(self) -> Literal["s3", "az"]:
        """Which protocol the place speaks."""
        return "s3" if self.url.startswith("s3://") else "az"

    @property
    def place(self) -> str:
        """The full address, the same for every way to write it."""
        base = self.endpoint
        if base is None:
            base = "s3:/" if self.service == "s3" else f"https://{self._account}.blob.core.windows.net"
        return f"{base}/{self._part('bucket')}{self._part('prefix')}"

    @property
    def size_limit(self) -> int | None:
        """The largest object that the service creates in one request."""
        return _MAX_BYTES[self.service]

    def open_store(self) -> Store:
        """The release store at this destination; nothing is read or created yet."""
        from tfx_mobile.release_store.conditional_store import open_azure, open_s3

        bucket, prefix = self._part("bucket") or "", (self._part("prefix") or "").strip("/")
        if self.service == "s3":
            return open_s3(bucket, prefix, address=self.place, region=self.region, endpoint=self.endpoint)
        return open_azure(bucket, prefix, address=self.place, account=self._account, endpoint=self.endpoint)

    @property
    def _account(self) -> str:
        return self._part("account") or self.account or ""

    def _part(self, name: str) -> str | None:
        """A part of the address; None if it has no such part."""
        match = next(filter(None, (pattern.fullmatch(self.url) for pattern in _URLS)))
        return match.groupdict().get(name)
