"""Firebase ML, as data."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator

from tfx_mobile.release_store.destinations.base import Destination
from tfx_mobile.release_store.destinations.cloud_storage import check_bucket, check_prefix
from tfx_mobile.release_store.firebase_ml.naming import TAG, display_name_of, is_own_tag
from tfx_mobile.release_store.firebase_ml.shutdown import warn_once
from tfx_mobile.release_store.names import DEFAULT_CHANNEL

if TYPE_CHECKING:
    from tfx_mobile.release_store.signing import Keyring
    from tfx_mobile.release_store.store import Follower, Store

_PROJECT_ID = re.compile(r"[a-z][a-z0-9-]{4,28}[a-z0-9]")
_SERVICE_ACCOUNT = re.compile(r"[a-z0-9-]+@[a-z0-9.-]+\.gserviceaccount\.com")


class FirebaseMLDestination(Destination):
    """Firebase ML, until Google shuts it down on 2027-06-15; docs/firebase_ml.md tells how to leave it.

    Its releases are in a bucket of Cloud Storage, from which Firebase ML copies the file. The channel in the bucket
    decides; Firebase ML is brought to what it names. Apps ask Firebase ML for `<model_name>` to follow the channel
    `production`, and for `<model_name>_<channel>` to follow another one.

    Attributes:
        project_id: The Firebase project.
        bucket: The bucket of the releases, which the pipeline's identity may read and write.
        prefix: What comes before the releases' paths in it. Nothing else may write there.
        display_name: What apps ask for instead of `<model_name>`. Only for one model: two of one name are refused.
        tags: Tags for the model at Firebase ML, besides those it has; 1 to 32 letters, digits, `_` and `-` each. They
            are set together with a new file.
        max_model_bytes: The largest file to hand over. No limit of the service is documented; 40 MB was the one in
            its old guide.
        signing_service_account: E-mail address of the service account that signs the address from which Firebase ML
            fetches the file; None for the pipeline's own. The identity needs
            `roles/iam.serviceAccountTokenCreator` on it, also on itself.
        gcs_uri: Hand over a plain `gs://` address instead of a signed one. Google's description of the service allows
            it, its own SDKs do not use it. Firebase's service account has to be allowed to read the bucket then.
        type: Tells destinations apart in JSON.

    Raises:
        ValueError: A value is not valid.
    """

    example: ClassVar[str] = "FirebaseMLDestination(project_id='my-project', bucket='my-project.appspot.com')"

    project_id: str
    bucket: str
    prefix: str = "firebase_ml"
    display_name: str | None = None
    tags: tuple[str, ...] = ()
    max_model_bytes: int = Field(default=40_000_000, gt=0)
    signing_service_account: str | None = None
    gcs_uri: bool = False
    type: Literal["firebase_ml"] = "firebase_ml"

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)
        warn_once()

    @field_validator("project_id")
    @classmethod
    def _check_project_id(cls, value: str) -> str:
        if not _PROJECT_ID.fullmatch(value):
            raise ValueError(
                "give the project's id, of 6 to 30 lower-case letters, digits and hyphens, as 'my-project'; not its "
                "name or number"
            )
        return value

    @field_validator("bucket")
    @classmethod
    def _check_bucket(cls, value: str) -> str:
        return check_bucket(value, cls.__name__)

    @field_validator("prefix")
    @classmethod
    def _check_prefix(cls, value: str) -> str:
        return check_prefix(value)

    @field_validator("display_name")
    @classmethod
    def _check_display_name(cls, value: str | None) -> str | None:
        return None if value is None else display_name_of(value, DEFAULT_CHANNEL)

    @field_validator("tags", mode="after")
    @classmethod
    def _check_tags(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for tag in value:
            if not TAG.fullmatch(tag):
                raise ValueError(f"the tag {tag!r} is not of 1 to 32 letters, digits, '_' and '-'")
            if is_own_tag(tag):
                raise ValueError(f"the tag {tag!r} looks like one that a push sets itself; choose another")
        return value

    @field_validator("signing_service_account")
    @classmethod
    def _check_signing_service_account(cls, value: str | None) -> str | None:
        if value is not None and not _SERVICE_ACCOUNT.fullmatch(value):
            raise ValueError(
                "give a service account's e-mail address, such as 'pusher@my-project.iam.gserviceaccount.com'"
            )
        return value

    @property
    def size_limit(self) -> int:
        """The largest file it takes, in bytes."""
        return self.max_model_bytes

    @property
    def place(self) -> str:
        """The project, and the name it would serve the model by, whichever bucket the bytes come from."""
        return f"Firebase ML of {self.project_id}: {self.display_name or 'the name of the model'}"

    def check_names(self, model_name: str, channel: str) -> None:
        """Raises a ValueError if Firebase ML allows no such name."""
        display_name_of(self.display_name or model_name, channel)

    def open_store(self) -> Store:
        """The bucket with the releases; nothing is read or created yet."""
        from tfx_mobile.release_store.cloud_storage_store import CloudStorageStore

        return CloudStorageStore(self.bucket, self.prefix)

    def open_follower(self, store: Store, keyring: Keyring) -> Follower:
        """Firebase ML itself; nothing is asked of it yet."""
        from tfx_mobile.release_store.firebase_ml.client import FirebaseMLClient
        from tfx_mobile.release_store.firebase_ml.follower import FirebaseMLFollower, SourceOf
        from tfx_mobile.release_store.firebase_ml.signed_urls import SignedUrls

        warn_once()
        source_of: SourceOf
        if self.gcs_uri:
            source_of = self._gcs_uri
        else:
            source_of = SignedUrls(self.bucket, self.prefix, self.signing_service_account)
        return FirebaseMLFollower(
            FirebaseMLClient(self.project_id),
            store,
            source_of,
            keyring,
            display_name=self.display_name,
            tags=self.tags,
            max_model_bytes=self.max_model_bytes,
        )

    def _gcs_uri(self, path: str, _: object) -> str:
        return f"gs://{self.bucket}/{self.prefix}/{path}"
