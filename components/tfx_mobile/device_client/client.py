"""The rules by which a device follows its channel."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal, TypeVar

import tenacity
from packaging.version import InvalidVersion, Version

from tfx_mobile.device_client.sources import HeaderProvider, RefusedError, UnreachableError, open_source
from tfx_mobile.device_client.state import DeviceFolder, DeviceState, FailedModel, InstalledModel, commit, hash_of
from tfx_mobile.errors import TFXMobileError
from tfx_mobile.google_rest import Patience
from tfx_mobile.records import ChannelStatement, ModelFileRecord, Record, ReleaseManifest
from tfx_mobile.release_store.names import DEFAULT_CHANNEL, channel_path, check_channel, check_model_name, release_path
from tfx_mobile.release_store.reading import open_manifest, open_statement
from tfx_mobile.release_store.signing import Keyring, TrustedKeys
from tfx_mobile.release_store.signing_keys import parse_trusted_keys

#: How often the app may begin to load a model without saying how it went, before the model counts as failed. Once is
#: not enough: a process also ends because a person closes it.
MAX_LOADS = 2

_MAX_STATEMENT_BYTES = 1 << 20
_MAX_MANIFEST_BYTES = 8 << 20
_MAX_ATTEMPTS = 3
_PATIENCE = Patience(connect_seconds=5.0, read_seconds=20.0, total_seconds=60.0, first_wait_seconds=0.5)

Status = Literal["updated", "unchanged", "offline", "refused"]

_T = TypeVar("_T")


class UpdateResult(Record):
    """Where the device stands.

    Attributes:
        status: `updated`: a model became the current one that was not before. `unchanged`: the device has what the
            channel names. `offline`: the source could not be reached. `refused`: what the channel names was not taken,
            and the message says why. In all four cases `model_path` is what the app is to use.
        version: Of the channel statement that named the current model last; None without a model. What an app reports.
        sha256: Of the current model; None without one.
        release_id: Of the current model; None without one.
        model_path: The current model, verified; None without one: use what the app was shipped with.
        message: What happened, in words.
        bytes_downloaded: How much came over the wire, in bytes.
        requests: How many objects were asked for.
    """

    status: Status
    version: int | None
    sha256: str | None
    release_id: str | None
    model_path: str | None
    message: str
    bytes_downloaded: int = 0
    requests: int = 0


class DeviceClient:
    """Follows one channel of one model.

    Any number of processes and threads may share the directory. Nothing here looks at the calendar: a wrong clock
    changes nothing.

    Args:
        source: Where the release store can be read: a web address such as
            `https://storage.googleapis.com/<bucket>/<prefix>`, Firebase's endpoint
            `https://firebasestorage.googleapis.com/v0/b/<bucket>/o/<prefix>`, or a local folder.
        model_name: The model's name.
        channel: The channel to follow.
        directory: Where the device keeps its models; one directory may serve several models and channels.
        trusted_keys: PEM texts of the public keys of which one must have signed everything; none requires no signature.
        runtime_version: Version of the TensorFlow Lite or LiteRT in the app, such as `2.16.2`; a model that needs a
            newer one is refused. None does not look at it.
        max_model_bytes: The largest model the app takes, in bytes.
        headers: Called for every request; gives headers that identify the app, as Firebase Authentication and App Check
            ask for.
        patience: How long to wait for the source.
        clock: Seconds by a clock that nobody sets; decides only how long an answer is fresh.

    Raises:
        ValueError: A value is not valid.
    """

    def __init__(
        self,
        source: str | os.PathLike[str],
        model_name: str,
        channel: str = DEFAULT_CHANNEL,
        *,
        directory: str | os.PathLike[str],
        trusted_keys: str | bytes | Iterable[str | bytes] = (),
        runtime_version: str | None = None,
        max_model_bytes: int = 512 << 20,
        headers: HeaderProvider | None = None,
        patience: Patience = _PATIENCE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._model = check_model_name(model_name)
        self._channel = check_channel(channel)
        try:
            self._runtime_version = Version(runtime_version) if runtime_version is not None else None
        except InvalidVersion:
            raise ValueError(f"runtime_version={runtime_version!r} is no version; give one such as '2.16.2'.") from None
        if max_model_bytes < 1:
            raise ValueError(f"max_model_bytes={max_model_bytes} takes no model; give a number of bytes above 0.")
        pems = parse_trusted_keys(trusted_keys)
        self._keyring = Keyring(trusted=TrustedKeys.from_pem(*pems) if pems else None)
        self._source = open_source(source, bool(pems), headers, patience)
        self._folder = DeviceFolder(Path(directory) / model_name / channel)
        self._max_model_bytes = max_model_bytes
        self._patience = patience
        self._clock = clock
        self._fresh_until = 0.0

    def update(self) -> UpdateResult:
        """Makes the device run what the channel names, if that may be done.

        Never raises for what a server, a network or a disk does; the result says what happened. Call it when the app
        starts and from time to time, not in the thread that draws.
        """
        self._source.num_requests = self._source.num_bytes = 0
        status: Status
        try:
            with self._folder.locked():
                status, message = self._update()
        except UnreachableError as error:
            status, message = "offline", str(error)
        except (RefusedError, TFXMobileError) as error:
            status, message = "refused", str(error)
        except OSError as error:
            status, message = "refused", f"{self._folder.path} cannot be written: {error.strerror or error}."
        return self._result(status, message)

    def current(self) -> UpdateResult:
        """What is at hand, verified, without asking the source."""
        return self._result_of_no_request("unchanged", "The source was not asked.")

    def begin_load(self) -> UpdateResult:
        """The model to load now. Follow it by `report_success` or `report_failure`.

        A model that takes the whole process down cannot be reported. So a current model that was begun to be loaded
        twice without any report counts as failed, and the last good one is given instead.

        Raises:
            OSError: The directory cannot be written.
        """
        with self._folder.locked():
            state = self._folder.read_state()
            now = state.current
            if now is None or now.confirmed:
                return self.current()
            if now.loads < MAX_LOADS:
                begun = now.model_copy(update={"loads": now.loads + 1})
                self._folder.write_state(state.model_copy(update={"current": begun}))
                return self.current()
        return self.report_failure(now.sha256, f"the app ended {MAX_LOADS} times while it loaded the model")

    def report_success(self, sha256: str) -> None:
        """Says that a model was loaded and does what it should; from now on it is one to fall back to.

        Args:
            sha256: Of the model that was loaded. Another process may have updated meanwhile.

        Raises:
            OSError: The directory cannot be written.
        """
        with self._folder.locked():
            state = self._folder.read_state()
            if state.current and state.current.sha256 == sha256:
                good = state.current.model_copy(update={"confirmed": True, "loads": 0})
                self._folder.write_state(state.model_copy(update={"current": good}))

    def report_failure(self, sha256: str, reason: str) -> UpdateResult:
        """Says that a model cannot be loaded, or fails its golden vectors, and falls back to the last good one.

        The same bytes are not taken again until the channel has named others.

        Args:
            sha256: Of the model that failed. Another process may have updated meanwhile.
            reason: Why, in words.

        Returns:
            What to use instead.

        Raises:
            OSError: The directory cannot be written.
        """
        with self._folder.locked():
            state = self._folder.read_state()
            if state.current and state.current.sha256 == sha256:
                failed = FailedModel(sha256=sha256, reason=reason)
                state = state.model_copy(update={"current": state.last_good, "last_good": None, "failed": failed})
            elif state.last_good and state.last_good.sha256 == sha256:
                state = state.model_copy(update={"last_good": None})
            self._folder.write_state(state)
            self._folder.keep_only(state.current, state.last_good)
        return self._result_of_no_request("refused", _failed(sha256, reason))

    def _update(self) -> tuple[Status, str]:
        remembered = self._folder.read_state()
        state = self._recovered(remembered)
        # With a model lost, or none yet, the statement is needed as a whole, whether it changed or not.
        has_answer = state.current == remembered.current and bool(state.current or state.failed)
        if has_answer and self._clock() < self._fresh_until:
            return _standing(state, updated=False)
        self._fresh_until = 0.0
        path = channel_path(self._model, self._channel)
        uri = self._source.uri(path)
        etag = state.etag if has_answer and state.source == self._source.address else None
        answer = self._patiently(lambda: self._source.get(path, _MAX_STATEMENT_BYTES, etag))
        if answer is None:
            raise RefusedError(f"Nothing was published to {uri}. Check model name, channel and source.")
        updated = False
        if answer.data is not None:
            statement = open_statement(answer.data, self._model, self._channel, self._keyring, uri)
            state = self._remember(state, statement, uri)
            state, updated = self._follow(state, statement)
            self._folder.write_state(state.model_copy(update={"source": self._source.address, "etag": answer.etag}))
            self._folder.keep_only(state.current, state.last_good)
        self._fresh_until = self._clock() + answer.max_age
        return _standing(state, updated)

    def _recovered(self, state: DeviceState) -> DeviceState:
        """The state without models whose files were lost or damaged."""
        last_good = state.last_good if self._folder.holds(state.last_good) else None
        if self._folder.holds(state.current):
            return state.model_copy(update={"last_good": last_good})
        return state.model_copy(update={"current": last_good, "last_good": None})

    def _remember(self, state: DeviceState, statement: ChannelStatement, uri: str) -> DeviceState:
        """Refuses what is older than what was seen, or contradicts it; remembers what is newer before it is used."""
        seen = state.highest_version
        if statement.version < seen:
            raise RefusedError(
                f"{uri} has version {statement.version}, though version {seen} was seen before: an old statement was "
                "put there again. If the store was restored from a backup, push until its version is higher."
            )
        if statement.version == seen and state.highest_nonce not in (None, statement.nonce):
            raise RefusedError(
                f"{uri} has version {seen} and is another statement than the one that was seen with this version. If "
                "the store was restored from a backup, push again."
            )
        state = state.model_copy(update={"highest_version": statement.version, "highest_nonce": statement.nonce})
        if statement.version > seen:
            self._folder.write_state(state)
        return state

    def _follow(self, state: DeviceState, statement: ChannelStatement) -> tuple[DeviceState, bool]:
        """The state in which the device has what the statement names, and whether it had something else before."""
        if state.failed and state.failed.sha256 == statement.sha256:
            return state, False
        named = {"version": statement.version, "release_id": statement.release_id}
        if state.current and state.current.sha256 == statement.sha256:
            return state.model_copy(update={"current": state.current.model_copy(update=named), "failed": None}), False
        if state.last_good and state.last_good.sha256 == statement.sha256:
            new = state.last_good.model_copy(update=named)
        else:
            new = self._install(statement)
        # What was taken back is nothing to fall back to.
        others = [
            model
            for model in (state.current, state.last_good)
            if model and model.sha256 not in (new.sha256, *statement.refused)
        ]
        last_good = next((model for model in others if model.confirmed), others[0] if others else None)
        return state.model_copy(update={"current": new, "last_good": last_good, "failed": None}), True

    def _install(self, statement: ChannelStatement) -> InstalledModel:
        """Gets the release's bytes to their place on the device."""
        path = release_path(self._model, statement.release_id)
        uri = self._source.uri(path)
        answer = self._patiently(lambda: self._source.get(path, _MAX_MANIFEST_BYTES))
        if answer is None or answer.data is None:
            raise RefusedError(f"{uri} is missing, though the channel names it. Push the release again.")
        manifest = open_manifest(answer.data, self._model, statement.release_id, self._keyring, uri)
        self._check(manifest.file, statement, uri)
        target = self._folder.model_path(manifest.file.sha256)
        if hash_of(target) != manifest.file.sha256:
            self._download(manifest, target)
        return InstalledModel(
            version=statement.version,
            release_id=statement.release_id,
            sha256=statement.sha256,
            size_bytes=manifest.file.size_bytes,
        )

    def _check(self, file: ModelFileRecord, statement: ChannelStatement, uri: str) -> None:
        """Refuses a model that this app cannot use, before it is downloaded."""
        if file.sha256 != statement.sha256:
            raise RefusedError(
                f"{uri} is about sha256 {file.sha256}, the channel names {statement.sha256}. Push the release again."
            )
        if file.size_bytes > self._max_model_bytes:
            raise RefusedError(
                f"The model has {file.size_bytes:,} bytes, this app takes at most {self._max_model_bytes:,}."
            )
        if self._runtime_version is None or file.min_runtime_version is None:
            return
        try:
            too_new = Version(file.min_runtime_version) > self._runtime_version
        except InvalidVersion:
            raise RefusedError(f"{uri} asks for runtime {file.min_runtime_version!r}, which is no version.") from None
        if too_new:
            raise RefusedError(
                f"The model needs TensorFlow Lite {file.min_runtime_version} or newer, this app has "
                f"{self._runtime_version}. Update the app, or publish a model that older ones can run."
            )

    def _download(self, manifest: ReleaseManifest, target: Path) -> None:
        """Gets the bytes, going on where an earlier attempt stopped, and puts them at `target` once they are right."""
        file = manifest.file
        partial = self._folder.partial_for(file.sha256)
        has_rest_only = partial.exists()
        try:
            self._patiently(lambda: self._download_rest(manifest.blob, file.size_bytes, partial))
            if has_rest_only and hash_of(partial) != file.sha256:
                partial.unlink()  # what was left from before may have been wrong
                self._patiently(lambda: self._download_rest(manifest.blob, file.size_bytes, partial))
            if (found := hash_of(partial)) != file.sha256:
                raise RefusedError(
                    f"{self._source.uri(manifest.blob)} has sha256 {found}; its release says {file.sha256}. It was "
                    "altered: move it away and push the release again."
                )
        except (RefusedError, OSError):
            partial.unlink(missing_ok=True)  # of no use, or on a disk that is full
            raise
        commit(partial, target)

    def _download_rest(self, blob: str, size_bytes: int, partial: Path) -> None:
        offset = partial.stat().st_size if partial.exists() else 0
        if offset == size_bytes:
            return
        with (
            self._source.stream(blob, offset if offset < size_bytes else 0) as (start, chunks),
            partial.open("r+b" if start else "wb") as file,
        ):
            file.seek(start)
            for chunk in chunks:
                if file.tell() + len(chunk) > size_bytes:
                    raise RefusedError(
                        f"{self._source.uri(blob)} has more than the {size_bytes:,} bytes that its release says. It "
                        "was altered: move it away and push the release again."
                    )
                file.write(chunk)
            complete = file.tell() == size_bytes
        if not complete:
            raise UnreachableError(f"{self._source.uri(blob)} broke off.")

    def _patiently(self, ask: Callable[[], _T]) -> _T:
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(UnreachableError),
            wait=tenacity.wait_random_exponential(multiplier=self._patience.first_wait_seconds, max=10.0),
            stop=tenacity.stop_after_attempt(_MAX_ATTEMPTS) | tenacity.stop_after_delay(self._patience.total_seconds),
            reraise=True,
        )
        answer: _T = retrying(ask)
        return answer

    def _result_of_no_request(self, status: Status, message: str) -> UpdateResult:
        self._source.num_requests = self._source.num_bytes = 0
        return self._result(status, message)

    def _result(self, status: Status, message: str) -> UpdateResult:
        now = self._recovered(self._folder.read_state()).current
        return UpdateResult(
            status=status,
            version=now.version if now else None,
            sha256=now.sha256 if now else None,
            release_id=now.release_id if now else None,
            model_path=str(self._folder.model_path(now.sha256)) if now else None,
            message=message,
            bytes_downloaded=self._source.num_bytes,
            requests=self._source.num_requests,
        )


def _standing(state: DeviceState, updated: bool) -> tuple[Status, str]:
    """What the device has, after the channel was followed."""
    if state.failed:
        return "refused", _failed(state.failed.sha256, state.failed.reason)
    if updated:
        return "updated", "The device has a new model."
    return "unchanged", "The device has what the channel names."


def _failed(sha256: str, reason: str) -> str:
    return f"The model with sha256 {sha256} failed on this device: {reason}. It is not used."
