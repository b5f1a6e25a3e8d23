"""What all acts on a channel have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from tfx_mobile.errors import ConflictError, ReleaseRefusedError, TFXMobileError
from tfx_mobile.records import ChannelAction, ChannelEntry, ChannelReceipt, ChannelStatement, ReleaseManifest
from tfx_mobile.release_store.channel import Draft, move_channel
from tfx_mobile.release_store.delivery import OpenDestination
from tfx_mobile.release_store.names import blob_path, channel_path, check_channel, check_model_name
from tfx_mobile.release_store.reading import read_blob, read_channel, read_manifest
from tfx_mobile.release_store.signing import Keyring
from tfx_mobile.release_store.store import Store

Status = Literal["done", "unchanged", "superseded"]


@dataclass(frozen=True)
class Verified:
    """A release that is there as a whole.

    Attributes:
        release_id: Which.
        manifest: What it is.
        model: Its bytes.
    """

    release_id: str
    manifest: ReleaseManifest
    model: bytes


@dataclass(frozen=True)
class Decision:
    """What an act comes to on top of what the channel says.

    Attributes:
        draft: What the channel is to say; None leaves it as it is.
        sha256: Of the bytes that the act is about; None if that cannot be told any more.
        release_id: The release that the act is about; None if it is about the bytes alone.
        otherwise: The status if the channel is left as it is.
    """

    draft: Draft | None
    sha256: str | None
    release_id: str | None
    otherwise: Status = "unchanged"


@dataclass(frozen=True)
class Act:
    """An act on one channel at one destination.

    Attributes:
        action: The act.
        opened: Where.
        model_name: The model's name.
        channel: The channel's name.
        keyring: Who signs, and whom to trust.

    Raises:
        ValueError: A name is not valid, or the destination cannot use it.
    """

    action: ChannelAction
    opened: OpenDestination
    model_name: str
    channel: str
    keyring: Keyring

    def __post_init__(self) -> None:
        check_model_name(self.model_name)
        check_channel(self.channel)
        self.opened.destination.check_names(self.model_name, self.channel)

    @property
    def store(self) -> Store:
        """The release store."""
        return self.opened.store

    @property
    def uri(self) -> str:
        """The channel's address."""
        return self.store.uri(channel_path(self.model_name, self.channel))

    def read(self) -> ChannelStatement | None:
        """What the channel says now; None if it does not exist."""
        return read_channel(self.store, self.model_name, self.channel, self.keyring)[0]

    def verify(self, release_id: str, sha256: str) -> Verified:
        """Reads a release and checks manifest and bytes by hash, and the signature if one is required.

        Raises:
            ConflictError: The manifest is missing, damaged, or of other bytes.
            ModelFileError: The bytes are missing or altered.
            UntrustedReleaseError: No trusted key signed the manifest.
        """
        manifest = read_manifest(self.store, self.model_name, release_id, self.keyring)
        if manifest.file.sha256 != sha256:
            raise ConflictError(
                f"{self.uri} says that release {release_id} has sha256 {sha256}, its manifest says "
                f"{manifest.file.sha256}. Nothing was changed; choose another release."
            )
        return Verified(release_id, manifest, read_blob(self.store, manifest))

    def check_may_name(self, current: ChannelStatement, sha256: str) -> None:
        """Makes sure that the channel may be pointed at these bytes.

        Raises:
            ReleaseRefusedError: They were rolled back.
            ConflictError: They are about to be deleted.
        """
        if sha256 in current.refused:
            raise ReleaseRefusedError(
                f"sha256 {sha256} was rolled back on {self.uri} and is refused there. If it is good after all: "
                f"tfx-mobile unpin {self.model_name} {sha256[:12]} --channel {self.channel}, then try again."
            )
        if sha256 in current.pruning:
            raise ConflictError(
                f"{self.store.uri(blob_path(self.model_name, sha256))} is being pruned. Choose another release; if no "
                "prune is running, one has died: tfx-mobile prune finishes it."
            )

    def check_may_sign(self, before: ChannelStatement | None) -> None:
        """Makes sure that devices which accept `before` will accept what is written after it.

        Raises:
            SigningError: The channel is signed, or trusted keys are given, and there is no key to sign with.
        """
        self.keyring.check_may_write(before.signing_key_id if before else None, self.uri)

    def check_follower(self, size_bytes: int) -> None:
        """Raises a PushError if the service that follows the channel would surely not."""
        if self.opened.follower is not None:
            self.opened.follower.check(self.model_name, self.channel, size_bytes)

    def carry_out(
        self,
        decide: Callable[[ChannelStatement | None], Decision],
        *,
        dry_run: bool,
        before_following: Callable[[], None] = lambda: None,
    ) -> ChannelReceipt:
        """Decides, moves the channel, and has it followed; for a dry run only decides.

        Args:
            decide: Decides on what the channel says now; may be called again.
            dry_run: Make every check and write nothing.
            before_following: What is to be done once the channel has moved.

        Raises:
            PushError: See `channel.move_channel` and `Follower.follow`; or whatever `decide` raises.
        """
        decisions: list[Decision] = []

        def change(current: ChannelStatement | None) -> Draft | None:
            decisions.append(decide(current))
            if decisions[-1].draft is not None:
                self.check_may_sign(current)
            return decisions[-1].draft

        if dry_run:
            current = self.read()
            change(current)
            return self._rehearsed(current, decisions[-1])
        move = move_channel(self.store, self.model_name, self.channel, change, self.keyring)
        before_following()
        decision = decisions[-1]
        status: Status = "done" if move.changed else decision.otherwise
        details: dict[str, str] = {}
        if status != "superseded":
            try:
                result = self.opened.follow(self.model_name, self.channel)
            except TFXMobileError as error:
                raise type(error)(
                    f"{error} The channel {self.uri} names release {move.history[0].release_id} already; run the same "
                    "command again to have it followed."
                ) from error
            details = result.details
            status = "done" if result.changed else status
        before = move.history[1:] if move.changed else move.history
        version = move.history[0].version if move.history else None
        return self._receipt(decision, status, version, before[0] if before else None, details=details)

    def _rehearsed(self, current: ChannelStatement | None, decision: Decision) -> ChannelReceipt:
        would_be: Status = "done" if decision.draft else decision.otherwise
        if decision.draft is not None:
            self.store.check_writable(channel_path(self.model_name, self.channel))
        follower = self.opened.follower
        if would_be == "unchanged" and follower and not follower.is_following(self.model_name, self.channel):
            would_be = "done"
        version, live = (current.version, current.history[0]) if current else (None, None)
        return self._receipt(decision, "dry_run", version, live, would_be=would_be)

    def _receipt(
        self,
        decision: Decision,
        status: Literal["done", "unchanged", "superseded", "dry_run"],
        version: int | None,
        before: ChannelEntry | None,
        **others: Any,
    ) -> ChannelReceipt:
        return ChannelReceipt(
            action=self.action,
            status=status,
            destination=self.opened.address,
            model=self.model_name,
            channel=self.channel,
            channel_version=version,
            release_id=decision.release_id,
            sha256=decision.sha256,
            previous_release_id=before.release_id if before else None,
            previous_sha256=before.sha256 if before else None,
            **others,
        )
