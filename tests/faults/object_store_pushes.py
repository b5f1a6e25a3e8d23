"""What a push to an object store must never break, whatever happens to its requests."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from tests.fakes.object_store import IMPATIENT, PATIENT, PREFIX, ObjectStoreServer, serving
from tests.fakes.releases import CHANNEL, MODEL, model_bytes, push_of
from tests.faults.every_fault import survive_every_fault
from tfx_mobile.google_rest import Patience
from tfx_mobile.records import sha256_of
from tfx_mobile.release_store.delivery import OpenDestination, deliver
from tfx_mobile.release_store.destinations import FilesystemDestination
from tfx_mobile.release_store.names import blob_path, channel_path, release_path
from tfx_mobile.release_store.publishing import publish

#: What was published before the push: nothing, another model, the same model on top of another.
BEFORE = {"first": (), "second": (1,), "unchanged": (1, 0)}


def check_whole(server: ObjectStoreServer, versions: int) -> None:
    """What the channel names and named is all there, and no version is missing."""
    statement = server.statement()
    if statement is None:
        assert versions == 0
        return
    assert [entry.version for entry in reversed(statement.history)] == list(range(1, statement.version + 1))
    assert statement.version >= versions
    for entry in statement.history:
        blob = server.at(blob_path(MODEL, entry.sha256))
        assert blob is not None
        assert sha256_of(blob) == entry.sha256
        assert server.at(release_path(MODEL, entry.release_id)) is not None


class PushScenario:
    """The push of one model after those of others."""

    def __init__(
        self, server: ObjectStoreServer, before: ObjectStoreServer | None, model: bytes, patience: Patience
    ) -> None:
        self.server = server
        self._patience = patience
        self._model = model
        statement = before.statement() if before else None
        self._num_before = statement.version if statement else 0
        self._versions = self._num_before + (statement is None or statement.sha256 != sha256_of(model))
        if before:
            server.take_over(before)
        self._objects_before = dict(server.objects)

    def act(self) -> object:
        # The destination only says how large a model may be; the store is the one that talks to the fake.
        anywhere = FilesystemDestination(base_directory="/nowhere")
        return deliver([OpenDestination(anywhere, self.server.open_store(self._patience), None)], push_of(self._model))

    def check_always(self) -> None:
        check_whole(self.server, self._num_before)
        channel = f"{PREFIX}/{channel_path(MODEL, CHANNEL)}"
        for key, stored in self._objects_before.items():
            assert key == channel or self.server.objects[key] == stored

    def check_done(self) -> None:
        statement = self.server.statement()
        assert statement is not None
        assert (statement.version, statement.sha256) == (self._versions, sha256_of(self._model))
        channel = f"{PREFIX}/{channel_path(MODEL, CHANNEL)}"
        assert self.server.writes.count(channel) == self._versions
        assert len(self.server.objects) == 2 * self._versions + 2  # the channel, and what preconditions are proved on


def survive(kind: type[ObjectStoreServer], before: str, record_property: Callable[[str, object], None]) -> int:
    """Pushes once per request and fault; returns the number of cases."""
    with serving(kind) as earlier:
        for seed in BEFORE[before]:
            publish(earlier.open_store(), push_of(model_bytes(seed)))
    # The first push counts the requests: it must not take a slow machine for a dead service and repeat one.
    patience = iter((PATIENT,))

    @contextlib.contextmanager
    def scenario() -> Iterator[PushScenario]:
        with serving(kind) as server:
            yield PushScenario(server, earlier if BEFORE[before] else None, model_bytes(0), next(patience, IMPATIENT))

    return survive_every_fault(scenario, record_property)
