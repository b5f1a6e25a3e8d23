"""A device survives every fault of every request, being killed at every line, and company in its directory."""

from __future__ import annotations

import contextlib
import functools
import itertools
import multiprocessing
import shutil
import tempfile
from collections.abc import Callable, Iterator
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.http_server import FAULTS
from tests.fakes.keys import pem_of, shared_signer
from tests.fakes.releases import CHANNEL, MODEL, model_bytes, push_of
from tests.fakes.static_server import StaticServer
from tests.faults.crashing import kill_at_every_line
from tests.faults.every_fault import survive_every_fault
from tfx_mobile.device_client import DeviceClient, UpdateResult, client, state
from tfx_mobile.device_client.client import _MAX_ATTEMPTS
from tfx_mobile.errors import DestinationUnavailableError
from tfx_mobile.google_rest import Patience
from tfx_mobile.records import sha256_of
from tfx_mobile.release_store.filesystem_store import FilesystemStore
from tfx_mobile.release_store.publishing import publish
from tfx_mobile.release_store.signing import Keyring

OLD, NEW = model_bytes(1), model_bytes(2)
QUICK = Patience(connect_seconds=1.0, read_seconds=0.15, total_seconds=10.0, first_wait_seconds=0.001)
# A fresh process that a test spawns imports this module again, and has to have the same key.
SIGNER = shared_signer("TFX_MOBILE_TEST_DEVICE_KEY")


def push(root: Path, data: bytes) -> None:
    publish(FilesystemStore(str(root)), push_of(data, keyring=Keyring(SIGNER)))


def device(source: Any, directory: Path) -> DeviceClient:
    return DeviceClient(source, MODEL, CHANNEL, directory=directory, trusted_keys=[pem_of(SIGNER)], patience=QUICK)


class Updating:
    """A device with the old model, while the channel names the new one; or one without any."""

    def __init__(self, server: StaticServer, directory: Path, before: tuple[bytes, ...]) -> None:
        self.server, self.directory, self.before = server, directory, before

    def act(self) -> UpdateResult:
        result = device(self.server.endpoint, self.directory).update()
        if result.status in ("offline", "refused"):
            raise DestinationUnavailableError(result.message)
        return result

    def check_always(self) -> None:
        result = device(self.server.endpoint, self.directory).current()
        found = Path(result.model_path).read_bytes() if result.model_path else None
        assert found in (*self.before, NEW) or (found is None and not self.before)
        for path in self.directory.rglob("*.tflite"):  # a name stands for all its bytes
            assert sha256_of(path.read_bytes()) == path.stem

    def check_done(self) -> None:
        result = device(self.server.endpoint, self.directory).current()
        assert result.sha256 == sha256_of(NEW)
        assert result.version == len(self.before) + 1
        assert not list(self.directory.rglob("*.part"))


def scenario(
    tmp_path: Path, before: tuple[bytes, ...] = (OLD,), compresses: str = "never"
) -> Callable[[], contextlib.AbstractContextManager[Updating]]:
    @contextlib.contextmanager
    def prepare() -> Iterator[Updating]:
        with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
            shutil.copytree(prepared(tmp_path, "old" if before else "nothing"), folder, dirs_exist_ok=True)
            with StaticServer(Path(folder, "store")) as server:
                server.compresses = compresses
                yield Updating(server, Path(folder, "device"), before)

    return prepare


@pytest.mark.parametrize("compresses", ["never", "always"])
@pytest.mark.parametrize("before", [(), (OLD,)], ids=["first model", "next model"])
def test_every_fault_of_every_request(
    tmp_path: Path, compresses: str, before: tuple[bytes, ...], record_property: Any
) -> None:
    cases = survive_every_fault(scenario(tmp_path, before, compresses), record_property)
    assert cases == 3 * len(FAULTS)


@pytest.mark.parametrize("number", [0, 1, 2], ids=["channel", "manifest", "blob"])
def test_faults_that_outlast_the_patience_leave_the_old_model(
    tmp_path: Path, number: int, record_property: Any
) -> None:
    for fault in FAULTS:
        with scenario(tmp_path)() as updating:
            first = updating.server.num_requests + number
            updating.server.fail(first, *[fault] * _MAX_ATTEMPTS)
            result = device(updating.server.endpoint, updating.directory).update()
            assert (result.status, result.sha256) == ("offline", sha256_of(OLD)), str(fault)
            updating.check_always()
            updating.act()
            updating.check_done()
    record_property("fault_cases", len(FAULTS))


def test_a_download_that_breaks_off_again_and_again_gets_there(tmp_path: Path) -> None:
    with scenario(tmp_path)() as updating:
        large = NEW * 1000
        push(updating.server.root, large)
        truncate = next(fault for fault in FAULTS if fault.kind == "truncate")
        blob = updating.server.num_requests + 2
        updating.server.fail(blob, truncate, truncate)
        result = updating.act()
        first, second, third = (request.headers.get("range") for request in updating.server.requests[blob:])
        assert first is None
        begins = [int(asked.removeprefix("bytes=").removesuffix("-")) for asked in (second, third)]
        assert 0.4 * len(large) < begins[0] <= len(large) / 2 < begins[1] <= 0.75 * len(large)
        assert (result.status, result.sha256) == ("updated", sha256_of(large))
        assert result.bytes_downloaded < 1.1 * len(large)


# Killing: from a folder, since what happens on a device's disk is the same.


def update(folder: Path) -> str:
    return device(folder / "store", folder / "device").update().status


@functools.cache
def prepared(parent: Path, state: str) -> Path:
    """A store and a device, made once and copied for every line."""
    folder = parent / "prepared"
    if state != "nothing":
        push(folder / "store", OLD)
        assert update(folder) == "updated"
        device(folder / "store", folder / "device").report_success(sha256_of(OLD))
    push(folder / "store", NEW)
    if state == "new":
        assert update(folder) == "updated"
    return folder


def have_nothing(folder: Path) -> None:
    shutil.copytree(prepared(folder.parent.parent, "nothing"), folder, dirs_exist_ok=True)


def have_old(folder: Path) -> None:
    shutil.copytree(prepared(folder.parent.parent, "old"), folder, dirs_exist_ok=True)


def have_new(folder: Path) -> None:
    shutil.copytree(prepared(folder.parent.parent, "new"), folder, dirs_exist_ok=True)


def report_failure(folder: Path) -> None:
    device(folder / "store", folder / "device").report_failure(sha256_of(NEW), "does not load")


FILES = (client.__file__, state.__file__)
#: All that writes, and all that calls it; the rest only reads.
WRITING = (
    *("update", "_update", "_remember", "_follow", "_install", "_download", "_download_rest", "report_failure"),
    *("locked", "write_state", "partial_for", "keep_only", "commit"),
)


def models_at(folder: Path) -> set[str]:
    return {path.name for path in (folder / "device").rglob("models/*")}


@pytest.mark.parametrize("prepare", [have_nothing, have_old])
def test_killed_at_every_line_of_an_update(tmp_path: Path, prepare: Any) -> None:
    killed = kill_at_every_line(FILES, tmp_path / "killed", update, prepare, WRITING)
    assert len(killed) > 120
    before = (sha256_of(OLD),) if prepare is have_old else (None,)
    seen = set()
    for folder in killed:
        now = device(folder / "store", folder / "device").current()
        seen.add(now.sha256)
        assert now.sha256 in (*before, sha256_of(NEW))
        assert update(folder) in ("updated", "unchanged")
        now = device(folder / "store", folder / "device").current()
        assert now.sha256 == sha256_of(NEW)
        assert Path(now.model_path).read_bytes() == NEW
        assert models_at(folder) == models_at(killed[-1])
    assert seen == {*before, sha256_of(NEW)}


def test_killed_at_every_line_of_a_fall_back(tmp_path: Path) -> None:
    killed = kill_at_every_line(FILES, tmp_path / "killed", report_failure, have_new, WRITING)
    assert len(killed) > 40
    for folder in killed:
        now = device(folder / "store", folder / "device").current()
        assert now.sha256 in (sha256_of(OLD), sha256_of(NEW))
        report_failure(folder)  # the app finds the same again
        now = device(folder / "store", folder / "device").update()
        assert (now.status, now.sha256) == ("refused", sha256_of(OLD))
        assert models_at(folder) == {f"{sha256_of(OLD)}.tflite"}


FORK_SERVER = multiprocessing.get_context("forkserver")
FORK_SERVER.set_forkserver_preload([__name__])


def update_at_once(endpoint: str, directory: str, pem: str, barrier: Barrier, results: Any) -> None:
    patience = Patience(read_seconds=30.0, first_wait_seconds=0.01)
    shared = DeviceClient(endpoint, MODEL, CHANNEL, directory=directory, trusted_keys=[pem], patience=patience)
    barrier.wait(60)
    results.put(shared.update().to_json())


def test_processes_share_a_directory(tmp_path: Path) -> None:
    push(tmp_path / "store", OLD)
    with StaticServer(tmp_path / "store") as server:
        for round_number, data in zip(itertools.count(), (OLD, NEW), strict=False):
            push(tmp_path / "store", data)
            server.requests.clear()
            barrier, results = FORK_SERVER.Barrier(4), FORK_SERVER.Queue()
            arguments = (server.endpoint, str(tmp_path / "device"), pem_of(SIGNER), barrier, results)
            processes = [FORK_SERVER.Process(target=update_at_once, args=arguments) for _ in range(4)]
            for process in processes:
                process.start()
            found = [UpdateResult.from_json(results.get(timeout=60)) for _ in processes]
            for process in processes:
                process.join(60)
            assert sorted(result.status for result in found) == ["unchanged"] * 3 + ["updated"]
            assert {result.sha256 for result in found} == {sha256_of(data)}
            assert sum("/blobs/" in request.path for request in server.requests) == 1
            assert {result.version for result in found} == {round_number + 1}
