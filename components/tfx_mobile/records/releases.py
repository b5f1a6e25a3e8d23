"""What MobilePusher writes."""

from __future__ import annotations

import base64
from typing import Literal

from pydantic import Field

from tfx_mobile.errors import TFXMobileError
from tfx_mobile.recipes import ConversionRecipe
from tfx_mobile.records.base import SHA256_PATTERN, Record
from tfx_mobile.records.lineage import Lineage, ReleaseOrder
from tfx_mobile.records.model_files import ModelFileRecord

PushStatus = Literal["pushed", "unchanged", "not_blessed", "dry_run", "superseded"]
ChannelAction = Literal["publish", "rollback", "promote", "pin", "unpin", "prune"]


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
        variant: The blessed variant's name; of an imported model, where it came from.
        blob: Path of the bytes below the destination's address.
        file: Hash, size, signatures, ops and oldest runtime of the file.
        recipe: How it was converted; None for an imported model.
        blessed: Whether an evaluation blessed these very bytes; False for what was published in spite of one, or
            without one.
        evaluation: What the evaluation measured; None if nothing was evaluated.
        source_sha256: Digest of the float SavedModel it was converted from; None for an imported model.
        versions: Versions of what made and judged it.
        labels: What the pusher's author wrote about it.
        lineage: The artifacts it was made of; None for an imported model.
        signing_key_id: Which key signs the release; None without one. Part of the release, so that signing what was
            unsigned, or with a new key, is a release of its own.
    """

    schema_version: Literal[2] = 2
    model: str
    variant: str
    blob: str
    file: ModelFileRecord
    recipe: ConversionRecipe | None = None
    blessed: bool = False
    evaluation: EvaluationSummary | None = None
    source_sha256: str | None = Field(default=None, pattern=SHA256_PATTERN)
    versions: dict[str, str] = Field(default_factory=dict)
    labels: dict[str, str] = Field(default_factory=dict)
    lineage: Lineage | None = None
    signing_key_id: str | None = None


PayloadType = Literal[
    "application/vnd.mobile-model-manifest+json",
    "application/vnd.mobile-model-channel+json",
]


class Signature(Record):
    """One signature of an envelope.

    Attributes:
        keyid: Lower-case hexadecimal SHA-256 of the public key in its DER form (SubjectPublicKeyInfo).
        sig: Base64 of the signature over `Envelope.signed_bytes`: for P-256 in DER form, for Ed25519 64 bytes.
    """

    keyid: str = Field(pattern=SHA256_PATTERN)
    sig: str


class Envelope(Record):
    """Every JSON object of a release store: exact bytes and their signatures in a DSSE envelope.

    Field names are those of https://github.com/secure-systems-lab/dsse/blob/master/envelope.md.

    Attributes:
        payloadType: What the payload is.
        payload: Canonical JSON in base64; hash the decoded bytes, never a re-serialisation.
        signatures: Empty if the release store is not signed.
    """

    payloadType: PayloadType
    payload: str
    signatures: tuple[Signature, ...] = ()

    @classmethod
    def seal(cls, payload_type: PayloadType, payload: bytes, signatures: tuple[Signature, ...] = ()) -> Envelope:
        """Puts bytes into an envelope."""
        return cls(payloadType=payload_type, payload=base64.b64encode(payload).decode(), signatures=signatures)

    @staticmethod
    def signed_bytes(payload_type: PayloadType, payload: bytes) -> bytes:
        """What is signed: DSSE's pre-authentication encoding, so that one type never passes for another."""
        return b"DSSEv1 %d %s %d %s" % (len(payload_type), payload_type.encode(), len(payload), payload)

    def open(self, payload_type: PayloadType) -> bytes:
        """The bytes in it.

        Raises:
            TFXMobileError: The envelope holds something else, or no valid base64.
        """
        if self.payloadType != payload_type:
            raise TFXMobileError(f"The envelope holds {self.payloadType}; expected is {payload_type}.")
        try:
            return base64.b64decode(self.payload, validate=True)
        except ValueError as error:  # binascii.Error, or a character that is not ASCII
            raise TFXMobileError(f"The envelope's payload is not base64: {error}.") from None


class ChannelEntry(Record):
    """What a channel named at one version."""

    version: int = Field(ge=1)
    release_id: str = Field(pattern=SHA256_PATTERN)
    sha256: str = Field(pattern=SHA256_PATTERN)
    nonce: str
    action: ChannelAction = "publish"


class ChannelStatement(Record):
    """The payload of `channels/<name>/<channel>.json`: which release devices on this channel are to run.

    Attributes:
        model: The model's name.
        channel: The channel's name.
        version: Grows by one with every change and never shrinks, also when going back to an earlier release; a device
            refuses a lower one than it has seen.
        release_id: The release.
        sha256: Of the release's bytes, so that a device that has them need not ask further.
        nonce: Unique to the act that wrote this statement; tells a writer its own write from a rival's.
        action: What that act was.
        previous: What the channel named before, newest first.
        order: The newest place in time that was ever published here; going back does not lower it.
        refused: Hashes that are not published here until they are unpinned: those that were rolled back.
        pinned: Releases that are never pruned.
        pruning: Hashes about to be deleted; nobody may point at them until that is over.
        signing_key_id: Which key signs the statement; None without one.
    """

    schema_version: Literal[2] = 2
    model: str
    channel: str
    version: int = Field(ge=1)
    release_id: str = Field(pattern=SHA256_PATTERN)
    sha256: str = Field(pattern=SHA256_PATTERN)
    nonce: str
    action: ChannelAction = "publish"
    previous: tuple[ChannelEntry, ...] = ()
    order: ReleaseOrder | None = None
    refused: tuple[str, ...] = ()
    pinned: tuple[str, ...] = ()
    pruning: tuple[str, ...] = ()
    signing_key_id: str | None = None

    @property
    def history(self) -> tuple[ChannelEntry, ...]:
        """What the channel names and named, newest first."""
        newest = ChannelEntry(
            version=self.version,
            release_id=self.release_id,
            sha256=self.sha256,
            nonce=self.nonce,
            action=self.action,
        )
        return (newest, *self.previous)


class PushReceipt(Record):
    """What one push did at one destination.

    Attributes:
        status: `pushed`: this push moved the channel to the release. `unchanged`: the channel named these bytes
            already, nothing was written. `superseded`: the channel has had a newer run's release, nothing was written.
            `dry_run`: everything was checked, nothing was written.
        destination: The destination's address.
        blessed: Whether an evaluation blessed what was to be pushed.
        release_id: Content-derived id of the release.
        previous_release_id: What the channel named before this release; None if it is the first.
        channel_version: The channel's number after the push; None while nothing was ever pushed to it.
        manifest_uri: Where the release manifest lies, or for a dry run would lie.
        model_uri: Where the bytes lie, or for a dry run would lie.
        details: What else the destination says of it, such as the ids of a model in Firebase ML.
    """

    status: Literal["pushed", "unchanged", "superseded", "dry_run"]
    destination: str
    blessed: bool = False
    release_id: str
    previous_release_id: str | None = None
    channel_version: int | None = None
    manifest_uri: str
    model_uri: str
    details: dict[str, str] = Field(default_factory=dict)
