"""What MobilePusher writes."""

from __future__ import annotations

import base64
import binascii
from typing import Literal

from pydantic import Field

from tfx_mobile.errors import TFXMobileError
from tfx_mobile.recipes import ConversionRecipe
from tfx_mobile.records.base import SHA256_PATTERN, Record
from tfx_mobile.records.model_files import ModelFileRecord

PushStatus = Literal["pushed", "unchanged", "not_blessed", "dry_run"]


class EvaluationSummary(Record):
    """How the released variant compares with the float model, over all examples.

    Attributes:
        num_examples: How many examples both were scored on.
        splits: The evaluated splits.
        baseline: Metrics of the float SavedModel.
        variant: Metrics of the released variant.
    """

    num_examples: int
    splits: tuple[str, ...]
    baseline: dict[str, float | None]
    variant: dict[str, float | None]


class ReleaseManifest(Record):
    """The payload of `releases/<name>/<release_id>.json`; its canonical bytes are what `release_id` hashes.

    Everything in it comes from what the pusher was given, nothing from the clock or from the execution at hand: the
    same bytes with the same evaluation are the same release.

    Attributes:
        model: Name the model is published under.
        variant: The blessed variant's name.
        recipe: How it was converted.
        blob: Path of the bytes below the destination's address.
        file: Hash, size, signatures, ops and oldest runtime of the file.
        evaluation: What the evaluation measured.
        source_sha256: Digest of the float SavedModel it was converted from.
        versions: Versions of what judged it.
    """

    schema_version: Literal[1] = 1
    model: str
    variant: str
    recipe: ConversionRecipe
    blob: str
    file: ModelFileRecord
    evaluation: EvaluationSummary
    source_sha256: str = Field(pattern=SHA256_PATTERN)
    versions: dict[str, str]


PayloadType = Literal[
    "application/vnd.mobile-model-manifest+json",
    "application/vnd.mobile-model-channel+json",
]


class Envelope(Record):
    """Every JSON object of a release store: exact bytes in a DSSE envelope, not signed yet.

    Field names are those of https://github.com/secure-systems-lab/dsse/blob/master/envelope.md.

    Attributes:
        payloadType: What the payload is.
        payload: Canonical JSON in base64; hash the decoded bytes, never a re-serialisation.
        signatures: Empty.
    """

    payloadType: PayloadType
    payload: str
    signatures: tuple[()] = ()

    @classmethod
    def seal(cls, payload_type: PayloadType, payload: bytes) -> Envelope:
        """Puts bytes into an envelope."""
        return cls(payloadType=payload_type, payload=base64.b64encode(payload).decode())

    def open(self, payload_type: PayloadType) -> bytes:
        """The bytes in it.

        Raises:
            TFXMobileError: The envelope holds something else, or no valid base64.
        """
        if self.payloadType != payload_type:
            raise TFXMobileError(f"The envelope holds {self.payloadType}; expected is {payload_type}.")
        try:
            return base64.b64decode(self.payload, validate=True)
        except binascii.Error as error:
            raise TFXMobileError(f"The envelope's payload is not base64: {error}.") from None


class ChannelEntry(Record):
    """What a channel named at one version."""

    version: int = Field(ge=1)
    release_id: str = Field(pattern=SHA256_PATTERN)
    nonce: str


class ChannelStatement(Record):
    """The payload of `channels/<name>/<channel>.json`: which release devices on this channel are to run.

    Attributes:
        model: The model's name.
        channel: The channel's name.
        version: Grows by one with every change and never shrinks; a device refuses a lower one than it has seen.
        release_id: The release.
        sha256: Of the release's bytes, so that a device that has them need not ask further.
        nonce: Unique to the push that wrote this statement; tells a pusher its own write from a rival's.
        previous: What the channel named before, newest first.
    """

    schema_version: Literal[1] = 1
    model: str
    channel: str
    version: int = Field(ge=1)
    release_id: str = Field(pattern=SHA256_PATTERN)
    sha256: str = Field(pattern=SHA256_PATTERN)
    nonce: str
    previous: tuple[ChannelEntry, ...] = ()

    @property
    def history(self) -> tuple[ChannelEntry, ...]:
        """What the channel names and named, newest first."""
        return (ChannelEntry(version=self.version, release_id=self.release_id, nonce=self.nonce), *self.previous)


class PushReceipt(Record):
    """What one push did at one destination.

    Attributes:
        status: `pushed`: this push moved the channel to the release. `unchanged`: the channel named these bytes
            already, nothing was written. `dry_run`: everything was checked, nothing was written.
        destination: The destination's address.
        release_id: Content-derived id of the release.
        previous_release_id: What the channel named before this release; None if it is the first.
        channel_version: The channel's number after the push; None while nothing was ever pushed to it.
        manifest_uri: Where the release manifest lies, or for a dry run would lie.
        model_uri: Where the bytes lie, or for a dry run would lie.
    """

    status: Literal["pushed", "unchanged", "dry_run"]
    destination: str
    release_id: str
    previous_release_id: str | None = None
    channel_version: int | None = None
    manifest_uri: str
    model_uri: str
