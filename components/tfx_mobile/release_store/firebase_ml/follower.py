"""Making Firebase ML serve what a release store's channel names.

Firebase ML has no compare-and-swap, so nothing is decided there. An act reads the channel, looks at the model, does the
one next thing that is missing, and begins again: it ends only when it has read the channel, then looked at the model,
and found nothing to do. Of two that race, whoever changes the model last reads the channel afterwards and puts right
what it finds. An answer that was lost, a rival, a crash and a model that somebody deleted are all the same case: look
again.
"""

from __future__ import annotations

import base64
import datetime
import logging
import time
from collections.abc import Callable, Sequence
from typing import Literal

from tfx_mobile.errors import (
    ConflictError,
    DestinationUnavailableError,
    ModelRefusedError,
    ModelTooLargeError,
    NothingPublishedError,
    PushError,
)
from tfx_mobile.google_rest import AnswerLostError
from tfx_mobile.records import ChannelStatement, ModelFileRecord, ReleaseManifest, sha256_of
from tfx_mobile.release_store.firebase_ml.client import FirebaseMLClient, HostedModel, NotPermittedError, Operation
from tfx_mobile.release_store.firebase_ml.naming import (
    channel_tag,
    display_name_of,
    file_tag,
    merged_tags,
    other_channel_tags,
)
from tfx_mobile.release_store.names import blob_path, channel_path, check_channel, check_model_name
from tfx_mobile.release_store.reading import current_statement, read_blob, read_manifest
from tfx_mobile.release_store.signing import NO_KEYS, Keyring
from tfx_mobile.release_store.store import FollowResult, Store

#: Makes the address from which the service fetches the object at a path; the time is the service's.
SourceOf = Callable[[str, datetime.datetime], str]

_MAX_SENDS = 5
_MAX_REFUSALS = 4

#: What the service says of bytes that are no model: sending them again would not help.
_HOPELESS = "flatbuffer"

_Proof = Literal["hash", "bytes", "size"]


class FirebaseMLFollower:
    """The `store.Follower` at Firebase ML.

    Args:
        client: The service.
        store: Where the channels are.
        source_of: Makes the address of an object in the store for the service to fetch.
        keyring: Whom to trust.
        display_name: What to call models instead of their own name; None for their own.
        tags: Tags for every model, besides those that are there.
        max_model_bytes: The largest file to hand over.
    """

    def __init__(
        self,
        client: FirebaseMLClient,
        store: Store,
        source_of: SourceOf,
        keyring: Keyring = NO_KEYS,
        display_name: str | None = None,
        tags: Sequence[str] = (),
        max_model_bytes: int | None = None,
    ) -> None:
        self.client = client
        self.store = store
        self.source_of = source_of
        self.keyring = keyring
        self.tags = tuple(tags)
        self._display_name = display_name
        self._max_model_bytes = max_model_bytes

    @property
    def address(self) -> str:
        """The project at the service."""
        return f"firebase_ml://{self.client.project_id}"

    def display_name(self, model_name: str, channel: str) -> str:
        """What apps ask for to follow a channel."""
        return display_name_of(self._display_name or model_name, channel)

    def check(self, model_name: str, channel: str, size_bytes: int) -> None:
        """Raises if following would surely fail; changes nothing.

        Raises:
            ValueError: The service allows no such name.
            ModelTooLargeError: The file is larger than allowed.
            ShutDownError: The service has ended.
            ConflictError: The model there follows another channel.
            DestinationUnavailableError: The service refuses or cannot be reached, or no address can be signed.
        """
        self.check_size(size_bytes)
        model = self.find(model_name, channel)
        if model is None or model.size_bytes != size_bytes:
            self.source(blob_path(model_name, "0" * 64))

    def is_following(self, model_name: str, channel: str) -> bool:
        """Whether the service serves what the channel names; changes nothing.

        Raises:
            PushError: The store or the service cannot be read.
        """
        manifest = self.manifest(self.statement(model_name, channel))
        model = self.find(model_name, channel)
        if model is None or model.is_locked or not holds(model, manifest.file) or not model.published:
            return False
        try:
            return self.proof(model, manifest.file) is not None
        except NotServedYetError:
            return False

    def follow(self, model_name: str, channel: str) -> FollowResult:
        """Makes the service serve what the channel names, and verifies that it does.

        Raises:
            NothingPublishedError: The channel names nothing.
            ModelFileError: The release's bytes are missing or altered; nothing was sent.
            ModelTooLargeError: They are more than allowed; nothing was sent.
            ModelRefusedError: The service does not accept them.
            ShutDownError: The service has ended.
            ConflictError: The model there follows another channel, or is changed by others all the time.
            DestinationUnavailableError: The service refuses, cannot be reached or does not come to an end.
        """
        act = _Act(self, model_name, channel)
        while (result := act.step()) is None:
            pass
        return result

    def statement(self, model_name: str, channel: str) -> ChannelStatement:
        """What the channel says.

        Raises:
            NothingPublishedError: Nothing yet.
            PushError: The store cannot be read.
        """
        statement = current_statement(self.store, check_model_name(model_name), check_channel(channel), self.keyring)
        if statement is None:
            raise NothingPublishedError(
                f"{self.store.uri(channel_path(model_name, channel))} names nothing yet, so there is nothing for "
                "Firebase ML to serve. Push a model first."
            )
        return statement

    def manifest(self, statement: ChannelStatement) -> ReleaseManifest:
        """The release that a channel names.

        Raises:
            PushError: It is missing, damaged or cannot be read.
        """
        return read_manifest(self.store, statement.model, statement.release_id, self.keyring)

    def find(self, model_name: str, channel: str, name: str = "") -> HostedModel | None:
        """The model at the service, by its resource name if that is known.

        Raises:
            ShutDownError: The service has ended.
            ConflictError: It follows another channel.
            DestinationUnavailableError: The service refuses or cannot be reached.
        """
        display_name = self.display_name(model_name, channel)
        model = self.client.get(name) if name else None
        if model is None or model.display_name != display_name:
            model = self.client.find(display_name)
        self.client.refuse_after_the_end()
        if model and (others := other_channel_tags(model.tags, channel_tag(model_name, channel))):
            raise ConflictError(
                f"The model {display_name!r} at {self.address} follows another channel than {channel!r} of "
                f"{model_name!r} (its tag {', '.join(others)} says so): both have come to one name. Choose another "
                "model_name, channel or FirebaseMLDestination(display_name=...), or delete the model there if nothing "
                "else publishes it any more."
            )
        return model

    def source(self, path: str) -> str:
        """A fresh address for the service to fetch an object from.

        Raises:
            DestinationUnavailableError: It cannot be signed.
        """
        # Without a service's time the local clock's has to do; it only goes into the address, nothing is decided by it.
        return self.source_of(path, self.client.service_time or datetime.datetime.now(datetime.timezone.utc))

    def check_size(self, size_bytes: int) -> None:
        """Raises if a file is larger than allowed.

        Raises:
            ModelTooLargeError: It is.
        """
        if self._max_model_bytes is not None and size_bytes > self._max_model_bytes:
            raise ModelTooLargeError(
                f"The model has {size_bytes:,} bytes, {self.address} takes at most {self._max_model_bytes:,}. Nothing "
                "was sent there. Choose a smaller recipe, or raise FirebaseMLDestination(max_model_bytes=...)."
            )

    def proof(self, model: HostedModel, file: ModelFileRecord) -> _Proof | None:
        """How it is known that devices get exactly these bytes; None if they do not.

        How the service writes its hash is not documented. If it is a SHA-256, it proves the bytes; if not, they are
        fetched as a device does. Where the identity may not do that, their size has to do.

        Raises:
            NotServedYetError: Devices get nothing under that name.
            DestinationUnavailableError: The service or the file cannot be reached.
        """
        if _is_hash_of(model.model_hash, file.sha256):
            return "hash"
        try:
            served = self.client.served(model.display_name, file.size_bytes)
        except NotPermittedError:
            logging.getLogger(__name__).warning(
                "%s: %r serves %d bytes, as it should; whether they are the right ones cannot be seen, because this "
                "identity may not download them.",
                self.address,
                model.display_name,
                file.size_bytes,
            )
            return "size"
        except ModelTooLargeError:
            return None
        if served is None:
            raise NotServedYetError(
                f"Firebase ML calls {model.display_name!r} published in the project {self.client.project_id}, and yet "
                "hands it out to nobody. Push again later."
            )
        return "bytes" if sha256_of(served.data) == file.sha256 else None


class NotServedYetError(DestinationUnavailableError):
    """The service calls a model published and does not hand it out."""


class _Act:
    """One attempt at following a channel."""

    def __init__(self, follower: FirebaseMLFollower, model_name: str, channel: str) -> None:
        self._follower = follower
        self._client = follower.client
        self._model_name = model_name
        self._channel = channel
        self._display_name = follower.display_name(model_name, channel)
        self._name = ""
        self._changed = False
        self._release_id = ""
        self._manifest: ReleaseManifest | None = None
        self._begin()

    def _begin(self) -> None:
        """Forgets what was tried: there is something else to do now."""
        self._sends = 0
        self._refusals = 0
        self._progress()

    def _progress(self) -> None:
        patience = self._client.patience
        self._deadline = time.monotonic() + patience.total_seconds
        self._next_pause = patience.poll_seconds

    def step(self) -> FollowResult | None:
        """Does the next thing that is missing; the result if nothing is."""
        statement = self._follower.statement(self._model_name, self._channel)
        if self._manifest is None or statement.release_id != self._release_id:
            self._manifest = self._follower.manifest(statement)
            self._release_id = statement.release_id
            self._follower.check_size(self._manifest.file.size_bytes)
            self._begin()
        manifest = self._manifest
        file = manifest.file
        model = self._follower.find(self._model_name, self._channel, self._name)
        self._name = model.name if model else ""
        if model is None:
            self._send(None, manifest)
        elif model.is_locked:
            self._refusals = 0  # if anything was refused, then because of the lock
            self._pause(self._locked())
        elif file_tag(file.sha256) not in model.tags:
            self._send(model, manifest)
        elif not holds(model, file):
            self._send_again(model, manifest, self._not_held(model, file))
        elif not model.published:
            self._finish(self._client.publish(model), f"to publish {self._display_name!r}")
        else:
            return self._verify(model, manifest)
        return None

    def _verify(self, model: HostedModel, manifest: ReleaseManifest) -> FollowResult | None:
        try:
            proof = self._follower.proof(model, manifest.file)
        except NotServedYetError as error:
            self._pause(error)
            return None
        if proof is None:
            self._send_again(model, manifest, self._other_bytes())
            return None
        return FollowResult(
            changed=self._changed,
            details={
                "display_name": self._display_name,
                "firebase_model_id": model.model_id,
                "firebase_model_hash": model.model_hash,
                "firebase_etag": model.etag,
                "verified_by": proof,
            },
        )

    def _send(self, model: HostedModel | None, manifest: ReleaseManifest) -> None:
        """Hands the file over; the service fetches it from an address that is signed now."""
        if self._sends == 0:
            # A file that replaces a published one reaches devices at once, so it is looked at before.
            read_blob(self._follower.store, manifest)
        source = self._follower.source(manifest.blob)
        own = (file_tag(manifest.file.sha256), channel_tag(self._model_name, self._channel))
        tags = merged_tags(model.tags if model else (), self._follower.tags, own)
        try:
            if model is None:
                operation = self._client.create(self._display_name, tags, source)
            else:
                operation = self._client.replace_file(model, tags, source)
        except AnswerLostError as lost:
            self._changed = True  # for all anybody knows
            self._pause(lost)
            return
        self._sends += 1
        self._finish(operation, f"the file of {self._display_name!r}")

    def _send_again(self, model: HostedModel, manifest: ReleaseManifest, problem: PushError) -> None:
        """Hands the file over once more: what is there is of another attempt, or the address had expired.

        Raises:
            PushError: The problem, if that has not helped.
        """
        error = model.validation_error or ""
        if self._sends >= _MAX_SENDS or (self._sends and _HOPELESS in error.lower()):
            raise problem
        if self._sends:
            self._pause(problem)
        self._send(model, manifest)

    def _finish(self, operation: Operation, what: str) -> None:
        """Waits until an operation is done.

        Raises:
            PushError: It was refused, and looking again does not promise anything better.
        """
        while not operation.done:
            self._pause(self._locked())
            operation = self._client.look_at(operation)
        if operation.refusal is None:
            self._changed = True
            self._refusals = 0
            self._name = operation.model_name or self._name
            self._progress()
            return
        problem = operation.refusal.error(what, self._client.project_id)
        self._refusals += 1
        if operation.refusal.is_final or self._refusals >= _MAX_REFUSALS:
            raise problem
        self._pause(problem)

    def _pause(self, problem: PushError) -> None:
        """Gives the service time.

        Raises:
            PushError: The problem, if it has had enough.
        """
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise problem
        time.sleep(min(self._next_pause, left))
        self._next_pause *= 1.5

    def _locked(self) -> PushError:
        return DestinationUnavailableError(
            f"Firebase ML has worked on {self._display_name!r} in the project {self._client.project_id} for "
            f"{self._client.patience.total_seconds:g} s and is not done. Push again later: a push takes up where the "
            "last one stopped."
        )

    def _not_held(self, model: HostedModel, file: ModelFileRecord) -> PushError:
        where = f"{self._display_name!r} in the project {self._client.project_id}"
        if model.validation_error:
            before = " It was published before; see in the console what devices get." if model.published else ""
            return ModelRefusedError(
                f"Firebase ML does not accept the file of {where}: {model.validation_error}{before} Publish a model "
                "that it accepts, or go back with 'tfx-mobile rollback'."
            )
        return ConflictError(
            f"Firebase ML has {model.size_bytes} bytes for {where}, {file.size_bytes} were handed over. Push again; if "
            "it stays so, find out what else writes there."
        )

    def _other_bytes(self) -> PushError:
        return ConflictError(
            f"Firebase ML serves other bytes as {self._display_name!r} in the project {self._client.project_id} than "
            "were handed over. Find out what else publishes under that name, then push again."
        )


def holds(model: HostedModel, file: ModelFileRecord) -> bool:
    """Whether the service says that it has accepted a file, and that it is this one."""
    return (
        file_tag(file.sha256) in model.tags and model.validation_error is None and model.size_bytes == file.size_bytes
    )


def _is_hash_of(model_hash: str, sha256: str) -> bool:
    """Whether the service's hash is this SHA-256, however it is written."""
    digest = bytes.fromhex(sha256)
    written = (base64.b64encode(digest), base64.urlsafe_b64encode(digest))
    return model_hash.lower() == sha256 or model_hash.rstrip("=") in {text.decode().rstrip("=") for text in written}
