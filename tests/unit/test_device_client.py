"""What a device takes, keeps and refuses, over real HTTP and from a folder."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.fakes.keys import new_signer, pem_of
from tests.fakes.releases import CHANNEL, MODEL, file_record, manifest_of, model_bytes, push_of, read_statement
from tests.fakes.static_server import StaticServer
from tfx_mobile.commands.fetch import fetch
from tfx_mobile.device_client import DeviceClient, UpdateResult
from tfx_mobile.device_client import client as client_module
from tfx_mobile.device_client.sources import HttpSource
from tfx_mobile.device_client.state import BACKUP_FILE, STATE_FILE
from tfx_mobile.google_rest import Patience
from tfx_mobile.records import ChannelStatement, Envelope, sha256_of
from tfx_mobile.release_store.channel import Draft, move_channel
from tfx_mobile.release_store.filesystem_store import FilesystemStore
from tfx_mobile.release_store.names import channel_path
from tfx_mobile.release_store.publishing import Push, publish
from tfx_mobile.release_store.reading import CHANNEL_TYPE
from tfx_mobile.release_store.signing import Keyring
from tfx_mobile.release_store.signing_keys import LocalSigner

QUICK = Patience(connect_seconds=5.0, read_seconds=5.0, total_seconds=20.0, first_wait_seconds=0.001)
FIRST, SECOND, THIRD = (model_bytes(seed) for seed in (1, 2, 3))


@dataclass
class World:
    """A publisher with a key, a server, and a device."""

    server: StaticServer
    signer: LocalSigner
    device: Path

    @property
    def store(self) -> FilesystemStore:
        return FilesystemStore(str(self.server.root))

    @property
    def keyring(self) -> Keyring:
        return Keyring(self.signer)

    def push(self, data: bytes, **changes: Any) -> None:
        manifest = manifest_of(data).model_copy(update=changes)
        publish(self.store, Push(manifest, data, CHANNEL, self.keyring))

    def name_again(self, data: bytes, refused: tuple[str, ...] = ()) -> None:
        """The channel goes back to an earlier release of these bytes, at a higher version."""

        def change(now: ChannelStatement | None) -> Draft:
            entry = next(entry for entry in now.history if entry.sha256 == sha256_of(data))
            return Draft("rollback", entry.release_id, entry.sha256, {"refused": refused})

        move_channel(self.store, MODEL, CHANNEL, change, self.keyring)

    def client(self, source: Any = None, **options: Any) -> DeviceClient:
        given = {"trusted_keys": [pem_of(self.signer)], "patience": QUICK, "directory": self.device, **options}
        return DeviceClient(source or self.server.endpoint, MODEL, CHANNEL, **given)

    @property
    def channel_file(self) -> Path:
        return self.server.root / channel_path(MODEL, CHANNEL)

    @property
    def folder(self) -> Path:
        return self.device / MODEL / CHANNEL

    @property
    def models(self) -> set[str]:
        return {path.name for path in (self.folder / "models").iterdir()}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with StaticServer(tmp_path / "store") as server:
        world = World(server, new_signer(), tmp_path / "device")
        world.push(FIRST)
        yield world


def file_name(data: bytes) -> str:
    return f"{sha256_of(data)}.tflite"


def check_has(result: UpdateResult, data: bytes) -> None:
    assert result.sha256 == sha256_of(data)
    assert Path(result.model_path).read_bytes() == data


class TestFollowing:
    def test_the_first_update_brings_the_model(self, world: World) -> None:
        result = world.client().update()
        check_has(result, FIRST)
        assert (result.status, result.version, result.requests) == ("updated", 1, 3)
        stored = sum(path.stat().st_size for path in world.server.root.rglob("*.*") if path.name != ".lock")
        assert result.bytes_downloaded == stored
        assert result.release_id == read_statement(world.channel_file).release_id

    def test_nothing_new_is_one_request_without_a_body(self, world: World) -> None:
        world.client().update()
        result = world.client().update()  # another process: it remembers the ETag
        check_has(result, FIRST)
        assert (result.status, result.requests, result.bytes_downloaded) == ("unchanged", 1, 0)
        assert "if-none-match" in world.server.requests[-1].headers

    def test_a_new_release_is_taken_and_the_one_before_is_kept(self, world: World) -> None:
        client = world.client()
        client.update()
        for data in (SECOND, THIRD):
            world.push(data)
            result = client.update()
            check_has(result, data)
            assert (result.status, result.requests) == ("updated", 3)
        assert world.models == {file_name(SECOND), file_name(THIRD)}

    def test_a_confirmed_model_is_the_one_to_keep(self, world: World) -> None:
        client = world.client()
        client.report_success(client.update().sha256)
        for data in (SECOND, THIRD):  # nobody said that the second one works
            world.push(data)
            client.update()
        assert world.models == {file_name(FIRST), file_name(THIRD)}

    def test_a_rollback_reaches_the_device_without_a_download(self, world: World) -> None:
        client = world.client()
        client.update()
        world.push(SECOND)
        client.update()
        world.name_again(FIRST, refused=(sha256_of(SECOND),))
        result = client.update()
        check_has(result, FIRST)
        assert (result.status, result.version, result.requests) == ("updated", 3, 1)
        assert world.models == {file_name(FIRST)}  # what was taken back is nothing to fall back to

    def test_a_rollback_to_bytes_that_are_gone_downloads_them(self, world: World) -> None:
        client = world.client()
        client.update()
        world.push(SECOND)
        client.report_success(client.update().sha256)
        world.push(THIRD)
        client.update()
        world.name_again(FIRST)
        result = client.update()
        check_has(result, FIRST)
        assert (result.version, result.requests) == (4, 3)

    def test_a_change_that_leaves_the_bytes_is_one_small_request(self, world: World) -> None:
        client = world.client()
        client.update()
        world.name_again(FIRST)
        result = client.update()
        check_has(result, FIRST)
        assert (result.status, result.version, result.requests) == ("unchanged", 2, 1)
        assert client.update().bytes_downloaded == 0  # and the new ETag is known

    def test_a_folder_is_a_source_too(self, world: World) -> None:
        client = world.client(world.server.root)
        check_has(client.update(), FIRST)
        again = client.update()
        assert (again.status, again.requests, again.bytes_downloaded) == ("unchanged", 1, 0)
        world.push(SECOND)
        check_has(client.update(), SECOND)
        assert world.server.num_requests == 0

    def test_firebases_endpoint(self, world: World) -> None:
        check_has(world.client(world.server.firebase_endpoint).update(), FIRST)
        assert world.server.requests[0].path.endswith(f"/o/channels%2F{MODEL}%2F{CHANNEL}.json")

    def test_prefixes(self, world: World, tmp_path: Path) -> None:
        shutil.copytree(world.server.root, world.server.root / "team a" / "x")
        for number, source in enumerate(
            (f"{world.server.endpoint}/team%20a/x/", f"{world.server.firebase_endpoint}team%20a%2Fx")
        ):
            check_has(world.client(source, directory=tmp_path / str(number)).update(), FIRST)
        assert all(b"team%20a" in request.path.encode() for request in world.server.requests)

    def test_a_server_without_etags(self, world: World) -> None:
        world.server.has_etags = False
        client = world.client()
        client.update()
        result = client.update()
        assert (result.status, result.requests) == ("unchanged", 1)
        assert result.bytes_downloaded == world.channel_file.stat().st_size

    @pytest.mark.parametrize("compresses", ["asked", "always"])
    def test_a_server_that_compresses(self, world: World, compresses: str) -> None:
        world.server.compresses = compresses
        client = world.client()
        check_has(client.update(), FIRST)
        assert client.update().status == "unchanged"
        blob = next(request for request in world.server.requests if "/blobs/" in request.path)
        assert blob.headers["accept-encoding"] == "identity"

    def test_the_etag_of_one_source_is_not_shown_to_another(self, world: World) -> None:
        world.client().update()
        assert world.client(world.server.firebase_endpoint).update().status == "unchanged"
        assert "if-none-match" not in world.server.requests[-1].headers

    def test_headers_of_the_app_go_with_every_request(self, world: World) -> None:
        tokens = iter("abc")
        client = world.client(headers=lambda: {"X-Firebase-AppCheck": next(tokens)})
        client.update()
        assert [request.headers["x-firebase-appcheck"] for request in world.server.requests] == ["a", "b", "c"]
        assert all(value != "a" for value in json.dumps(client.current().model_dump()).split())

    def test_models_and_channels_do_not_mix(self, world: World) -> None:
        publish(world.store, push_of(SECOND, "beta", keyring=world.keyring))
        beta = DeviceClient(
            world.server.endpoint, MODEL, "beta", directory=world.device, trusted_keys=[pem_of(world.signer)]
        )
        check_has(beta.update(), SECOND)
        check_has(world.client().update(), FIRST)
        check_has(beta.current(), SECOND)

    def test_nothing_was_published(self, world: World) -> None:
        client = DeviceClient(world.server.endpoint, "other", CHANNEL, directory=world.device)
        result = client.update()
        assert (result.status, result.model_path, result.version) == ("refused", None, None)
        assert "Nothing was published to" in result.message


class TestFreshness:
    @pytest.mark.parametrize(
        ("cache_control", "age", "fresh_for"),
        [
            ("public, max-age=60", None, 60),
            ("max-age=60, must-revalidate", 45, 15),
            ("max-age=60", 90, 0),
            ("max-age=31536000", None, 3600),  # a default must not hold a rollback up for a year
            ("no-store", None, 0),
            ("no-cache, max-age=60", None, 0),
            ("max-age=soon", None, 0),
            (None, None, 0),
        ],
    )
    def test_a_fresh_answer_is_not_asked_for_again(
        self, world: World, cache_control: str | None, age: int | None, fresh_for: int
    ) -> None:
        world.server.channel_cache_control, world.server.age = cache_control, age
        now = [1000.0]
        client = world.client(clock=lambda: now[0])
        client.update()
        if fresh_for:
            now[0] += fresh_for - 1
            result = client.update()
            check_has(result, FIRST)
            assert (result.status, result.requests) == ("unchanged", 0)
            now[0] += 1
        for _ in range(2 if not fresh_for else 1):
            assert client.update().requests == 1

    def test_an_answer_that_was_refused_is_not_fresh(self, world: World) -> None:
        world.server.channel_cache_control = "max-age=60"
        intact = world.channel_file.read_bytes()
        world.channel_file.write_bytes(b"{}")
        client = world.client()
        assert client.update().status == "refused"
        world.channel_file.write_bytes(intact)
        assert client.update().status == "updated"

    def test_a_lost_model_is_fetched_however_fresh_the_answer(self, world: World) -> None:
        world.server.channel_cache_control = "max-age=60"
        client = world.client()
        Path(client.update().model_path).unlink()
        result = client.update()
        check_has(result, FIRST)
        assert (result.status, result.requests) == ("updated", 3)


class TestRefusing:
    def test_an_old_statement_that_is_put_there_again(self, world: World) -> None:
        old = world.channel_file.read_bytes()
        client = world.client()
        client.update()
        world.push(SECOND)
        client.update()
        world.channel_file.write_bytes(old)
        for device in (client, world.client()):  # also after the app was restarted
            result = device.update()
            check_has(result, SECOND)
            assert result.status == "refused"
            assert "version 1, though version 2 was seen before" in result.message
        world.push(THIRD)  # on top of the old one: version 2 again, and not the one that was seen
        result = client.update()
        check_has(result, SECOND)
        assert (result.status, "another statement" in result.message) == ("refused", True)
        world.name_again(THIRD)
        check_has(client.update(), THIRD)

    def test_a_version_that_was_seen_counts_even_if_its_model_could_not_be_had(self, world: World) -> None:
        old = world.channel_file.read_bytes()
        client = world.client()
        world.push(SECOND)
        blob = world.server.root / manifest_of(SECOND).blob
        blob.rename(blob.with_suffix(".away"))
        assert "is missing" in client.update().message
        world.channel_file.write_bytes(old)
        assert "version 1, though version 2 was seen" in client.update().message

    def test_another_key(self, world: World) -> None:
        client = world.client()
        client.update()
        world.channel_file.unlink()
        publish(world.store, push_of(SECOND, keyring=Keyring(new_signer())))
        result = client.update()
        check_has(result, FIRST)
        assert result.status == "refused"
        assert "no valid signature of a trusted key" in result.message

    def test_no_signature(self, world: World) -> None:
        statement = read_statement(world.channel_file)
        world.channel_file.write_bytes(Envelope.seal(CHANNEL_TYPE, statement.to_json()).to_json())
        assert "Signed by: nobody" in world.client().update().message
        check_has(world.client(trusted_keys=()).update(), FIRST)  # who trusts anybody takes it

    def test_a_manifest_of_another_key(self, world: World) -> None:
        forged = Push(manifest_of(SECOND), SECOND, CHANNEL, Keyring(new_signer()))
        publish(FilesystemStore(str(world.server.root.parent / "forger")), forged)
        shutil.copytree(
            world.server.root.parent / "forger" / "releases", world.server.root / "releases", dirs_exist_ok=True
        )
        shutil.copytree(world.server.root.parent / "forger" / "blobs", world.server.root / "blobs", dirs_exist_ok=True)
        move_channel(
            world.store, MODEL, CHANNEL, lambda _: Draft("publish", forged.release_id, forged.sha256, {}), world.keyring
        )
        result = world.client().update()
        assert (result.status, result.model_path) == ("refused", None)
        assert f"{forged.release_id}.json holds no valid signature" in result.message

    def test_the_statement_of_another_channel(self, world: World) -> None:
        publish(world.store, push_of(SECOND, "beta", keyring=world.keyring))
        shutil.copy(world.server.root / channel_path(MODEL, "beta"), world.channel_file)
        assert "channel 'beta'" in world.client().update().message

    def test_a_manifest_in_place_of_a_statement(self, world: World) -> None:
        (manifest,) = (world.server.root / "releases" / MODEL).glob("*.json")
        shutil.copy(manifest, world.channel_file)
        assert "expected is application/vnd.mobile-model-channel" in world.client().update().message

    def test_a_statement_that_contradicts_its_release(self, world: World) -> None:
        world.push(SECOND)
        first = manifest_of(FIRST).model_copy(update={"signing_key_id": world.keyring.signing_key_id})
        move_channel(
            world.store,
            MODEL,
            CHANNEL,
            lambda now: Draft("publish", now.previous[0].release_id, now.sha256, {}),
            world.keyring,
        )
        result = world.client().update()
        assert result.status == "refused"
        assert f"is about sha256 {first.file.sha256}" in result.message

    @pytest.mark.parametrize("which", ["channel", "manifest"])
    def test_no_flipped_bit_of_the_json_objects_gets_through(self, world: World, which: str) -> None:
        world.client().update()
        world.push(SECOND)
        path = world.channel_file
        if which == "manifest":
            release_id = read_statement(world.channel_file).release_id
            path = world.server.root / "releases" / MODEL / f"{release_id}.json"
        intact = path.read_bytes()
        client = world.client(world.server.root)
        refused = 0
        for position in range(0, len(intact), len(intact) // 60):
            path.write_bytes(flipped(intact, position))
            result = client.update()
            assert result.model_path is not None
            # Base64 has bits that mean nothing.
            check_has(result, SECOND if result.status == "updated" else FIRST)
            if result.status == "updated":
                shutil.rmtree(world.device)
                path.write_bytes(intact)
                continue
            assert result.status == "refused"
            refused += 1
            path.write_bytes(intact)
        assert refused >= 50
        check_has(client.update(), SECOND)

    @pytest.mark.parametrize("position", [0, 4, 500, -1])
    def test_a_flipped_bit_of_the_model(self, world: World, position: int) -> None:
        client = world.client()
        client.update()
        world.push(SECOND)
        blob = world.server.root / manifest_of(SECOND).blob
        blob.write_bytes(flipped(SECOND, position))
        result = client.update()
        check_has(result, FIRST)
        assert result.status == "refused"
        assert "It was altered" in result.message
        assert world.models == {file_name(FIRST)}
        blob.write_bytes(SECOND)
        check_has(client.update(), SECOND)

    @pytest.mark.parametrize("change", ["longer", "empty", "shorter", "missing"])
    def test_a_model_of_another_size(self, world: World, change: str) -> None:
        client = world.client()
        client.update()
        world.push(SECOND)
        blob = world.server.root / manifest_of(SECOND).blob
        if change == "missing":
            blob.unlink()
        else:
            blob.write_bytes({"longer": SECOND + b"!", "empty": b"", "shorter": SECOND[:-1]}[change])
        result = client.update()
        check_has(result, FIRST)
        assert result.status in ("refused", "offline")  # what breaks off may be whole next time
        blob.write_bytes(SECOND)
        check_has(client.update(), SECOND)

    def test_a_download_that_never_ends_is_cut(self, world: World) -> None:
        world.push(SECOND)
        blob = world.server.root / manifest_of(SECOND).blob
        blob.write_bytes(SECOND * 10_000)
        result = world.client().update()
        assert "has more than the" in result.message
        assert result.bytes_downloaded < 1_000_000

    @pytest.mark.parametrize("which", ["channel", "manifest"])
    def test_json_that_never_ends_is_cut(self, world: World, which: str) -> None:
        path = (
            world.channel_file if which == "channel" else next((world.server.root / "releases" / MODEL).glob("*.json"))
        )
        path.write_bytes(b" " * ((2 if which == "channel" else 9) << 20))
        for source in (None, world.server.root):
            result = world.client(source).update()
            assert "which is too many for it" in result.message
            assert result.bytes_downloaded < 10 << 20

    def test_a_model_that_is_too_large_for_the_app(self, world: World) -> None:
        client = world.client(max_model_bytes=len(FIRST) - 1)
        result = client.update()
        assert (result.status, result.requests) == ("refused", 2)
        assert f"at most {len(FIRST) - 1:,}" in result.message

    @pytest.mark.parametrize(
        ("needs", "has", "taken"), [("2.10.0", "2.9.1", False), ("2.9.0", "2.10", True), ("2.4", "2.4.0", True)]
    )
    def test_a_model_for_a_newer_runtime(self, world: World, needs: str, has: str, taken: bool) -> None:
        client = world.client(runtime_version=has)
        client.update()
        record = file_record(SECOND).model_copy(update={"min_runtime_version": needs})
        world.push(SECOND, file=record)
        result = client.update()
        check_has(result, SECOND if taken else FIRST)
        if not taken:
            assert f"needs TensorFlow Lite {needs} or newer, this app has {has}" in result.message
            # The app is updated: the same statement is looked at again.
            check_has(world.client(runtime_version=needs).update(), SECOND)

    @pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 410])
    def test_answers_that_will_not_change(self, world: World, status: int) -> None:
        from tests.fakes.http_server import Fault

        world.client().update()
        world.server.fail(world.server.num_requests, Fault("status", status=status, headers={"Location": "/elsewhere"}))
        before = world.server.num_requests
        result = world.client().update()
        check_has(result, FIRST)
        assert result.status == "refused"
        assert (str(status) in result.message) or (status == 404 and "Nothing was published" in result.message)
        assert world.server.num_requests == before + 1


class TestOffline:
    def test_the_current_model_is_used(self, world: World) -> None:
        world.client().update()
        result = world.client("http://127.0.0.1:9").update()
        check_has(result, FIRST)
        assert (result.status, result.version, result.bytes_downloaded) == ("offline", 1, 0)
        assert "ConnectionError" in result.message
        gone = world.client(world.server.root.parent / "not mounted").update()
        assert (gone.status, gone.sha256) == ("offline", sha256_of(FIRST))

    def test_without_any_model(self, world: World) -> None:
        result = world.client("http://127.0.0.1:9").update()
        assert (result.status, result.model_path, result.version, result.sha256) == ("offline", None, None, None)

    def test_a_damaged_current_model_is_never_given_out(self, world: World) -> None:
        client = world.client()
        client.report_success(client.update().sha256)
        world.push(SECOND)
        damaged = Path(client.update().model_path)
        damaged.write_bytes(flipped(SECOND, 100))
        offline = world.client("http://127.0.0.1:9").update()
        check_has(offline, FIRST)
        check_has(client.current(), FIRST)
        check_has(client.update(), SECOND)  # and online it is mended


class TestFallingBack:
    def test_to_the_last_good_model(self, world: World) -> None:
        client = world.client()
        client.report_success(client.update().sha256)
        world.push(SECOND)
        bad = client.update()
        result = client.report_failure(bad.sha256, "golden vectors differ")
        check_has(result, FIRST)
        assert result.status == "refused"
        assert "golden vectors differ" in result.message
        assert world.models == {file_name(FIRST)}

    def test_the_failed_bytes_are_not_taken_again_until_the_channel_moves(self, world: World) -> None:
        client = world.client()
        client.update()
        world.push(SECOND)
        client.report_failure(client.update().sha256, "does not load")
        for device in (client, world.client()):
            result = device.update()
            check_has(result, FIRST)
            assert (result.status, result.requests, result.bytes_downloaded) == ("refused", 1, 0)
            assert "does not load" in result.message
        world.name_again(SECOND)  # a higher version of the same bytes
        assert client.update().status == "refused"
        world.push(THIRD)
        check_has(client.update(), THIRD)
        world.name_again(SECOND)  # somebody insists
        check_has(client.update(), SECOND)

    def test_while_the_answer_is_fresh(self, world: World) -> None:
        world.server.channel_cache_control = "max-age=60"
        client = world.client()
        client.update()
        client.report_failure(sha256_of(FIRST), "does not load")
        result = client.update()
        assert (result.status, result.requests, result.model_path) == ("refused", 0, None)

    def test_without_a_last_good_model(self, world: World) -> None:
        client = world.client()
        result = client.report_failure(client.update().sha256, "does not load")
        assert (result.model_path, result.version) == (None, None)
        assert world.client().update().model_path is None
        world.push(SECOND)
        check_has(client.update(), SECOND)

    def test_a_rollback_of_the_failed_model_is_followed(self, world: World) -> None:
        client = world.client()
        client.update()
        world.push(SECOND)
        client.report_failure(client.update().sha256, "does not load")
        world.name_again(FIRST)
        result = client.update()
        check_has(result, FIRST)
        assert (result.status, result.requests) == ("unchanged", 1)

    def test_reports_about_another_model_change_nothing(self, world: World) -> None:
        client = world.client()
        client.update()
        world.push(SECOND)
        client.update()
        client.report_success(sha256_of(THIRD))
        check_has(client.report_failure(sha256_of(THIRD), "does not load"), SECOND)
        check_has(client.update(), SECOND)

    def test_a_last_good_model_that_failed_is_none(self, world: World) -> None:
        client = world.client()
        client.update()
        world.push(SECOND)
        client.update()
        client.report_failure(sha256_of(FIRST), "does not load any more")
        assert world.models == {file_name(SECOND)}

    def test_a_model_that_takes_the_process_down(self, world: World) -> None:
        world.client().report_success(world.client().update().sha256)
        world.push(SECOND)
        world.client().update()
        for _ in range(client_module.MAX_LOADS):  # each time the process ends without a report
            check_has(world.client().begin_load(), SECOND)
        result = world.client().begin_load()
        check_has(result, FIRST)
        assert (result.status, "the app ended 2 times" in result.message) == ("refused", True)
        assert world.client().update().status == "refused"
        for _ in range(5):
            check_has(world.client().begin_load(), FIRST)

    def test_a_model_that_was_confirmed_may_be_loaded_for_ever(self, world: World) -> None:
        client = world.client()
        client.update()
        for _ in range(5):
            check_has(client.begin_load(), FIRST)
            client.report_success(sha256_of(FIRST))


class TestDisk:
    @pytest.mark.parametrize("damage", ["", "{", "null", "[]", '{"sha256": "", "state": {}}', "flip"])
    def test_one_damaged_state_file_costs_nothing(self, world: World, damage: str) -> None:
        client = world.client()
        client.update()
        world.push(SECOND)
        client.update()
        state = world.folder / STATE_FILE
        state.write_bytes(flipped(state.read_bytes(), -30) if damage == "flip" else damage.encode())
        result = world.client().update()
        check_has(result, SECOND)
        assert (result.status, result.requests, result.bytes_downloaded) == ("unchanged", 1, 0)

    def test_two_damaged_state_files_start_over(self, world: World) -> None:
        client = world.client()
        client.update()
        for name in (STATE_FILE, BACKUP_FILE):
            (world.folder / name).write_bytes(b"\x00" * 100)
        assert client.current().model_path is None
        result = client.update()
        check_has(result, FIRST)
        assert (result.status, result.requests) == ("updated", 2)  # the bytes are still there

    def test_the_guard_against_replay_survives_a_damaged_state_file(self, world: World) -> None:
        old = world.channel_file.read_bytes()
        client = world.client()
        world.push(SECOND)
        client.update()
        (world.folder / STATE_FILE).unlink()
        world.channel_file.write_bytes(old)
        assert "version 1, though version 2 was seen" in client.update().message

    def test_a_full_disk(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        client = world.client()
        client.update()
        world.push(SECOND)
        full = Path("/dev/full")
        if not full.exists():
            pytest.skip("needs /dev/full, which is a disk without space")
        partial = world.folder / "models" / f"{sha256_of(SECOND)}.part"
        partial.symlink_to(full)
        result = client.update()
        check_has(result, FIRST)
        assert result.status == "refused"
        assert "No space left on device" in result.message
        assert world.models == {file_name(FIRST)}
        check_has(client.update(), SECOND)

    def test_a_folder_that_cannot_be_made(self, world: World) -> None:
        world.device.write_text("a file")
        result = world.client().update()
        assert (result.status, result.model_path) == ("refused", None)
        assert "cannot be written" in result.message

    def test_an_interrupted_download_goes_on(self, world: World) -> None:
        client = world.client()
        client.update()
        big = model_bytes(7) * 1000
        world.push(big)
        partial = world.folder / "models" / f"{sha256_of(big)}.part"
        partial.write_bytes(big[:400_000])
        result = client.update()
        check_has(result, big)
        assert world.server.requests[-1].headers["range"] == "bytes=400000-"
        assert result.bytes_downloaded < len(big) - 400_000 + 10_000

    @pytest.mark.parametrize("left", ["other bytes", "too many", "all, wrong", "nothing"])
    def test_leftovers_of_an_interrupted_download_are_not_trusted(self, world: World, left: str) -> None:
        client = world.client()
        client.update()
        world.push(SECOND)
        partial = world.folder / "models" / f"{sha256_of(SECOND)}.part"
        partial.write_bytes(
            {"other bytes": b"x" * 50, "too many": SECOND * 2, "all, wrong": b"x" * len(SECOND), "nothing": b""}[left]
        )
        check_has(client.update(), SECOND)
        assert world.models == {file_name(FIRST), file_name(SECOND)}

    @pytest.mark.parametrize("compresses", ["never", "always"])
    def test_servers_that_know_no_ranges(self, world: World, compresses: str) -> None:
        world.server.has_ranges = compresses == "always"
        world.server.compresses = compresses
        client = world.client()
        client.update()
        world.push(SECOND)
        (world.folder / "models" / f"{sha256_of(SECOND)}.part").write_bytes(SECOND[:100])
        check_has(client.update(), SECOND)

    def test_leftovers_of_other_downloads_are_deleted(self, world: World) -> None:
        client = world.client()
        client.update()
        (world.folder / "models" / f"{sha256_of(THIRD)}.part").write_bytes(THIRD[:100])
        world.push(SECOND)
        client.update()
        assert world.models == {file_name(FIRST), file_name(SECOND)}

    def test_threads_share_a_directory(self, world: World) -> None:
        results: list[UpdateResult] = []
        threads = [threading.Thread(target=lambda: results.append(world.client().update())) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert sorted(result.status for result in results) == ["unchanged"] * 5 + ["updated"]
        for result in results:
            check_has(result, FIRST)
        assert sum("/blobs/" in request.path for request in world.server.requests) == 1


class TestConstruction:
    @pytest.mark.parametrize(
        ("source", "problem"),
        [
            ("", "source is empty"),
            ("gs://bucket/prefix", "is not a web address"),
            ("https://", "is not a web address"),
            ("https://host/x?token=1", "a query, a fragment or a password"),
            ("https://user:pw@host/x", "a query, a fragment or a password"),
            ("http://models.example.com/x", "is not encrypted"),
        ],
    )
    def test_sources_that_are_none(self, tmp_path: Path, source: str, problem: str) -> None:
        with pytest.raises(ValueError, match=problem) as refused:
            DeviceClient(source, MODEL, directory=tmp_path)
        assert "pw" not in str(refused.value)

    def test_with_trusted_keys_the_way_need_not_be_encrypted(self, world: World) -> None:
        assert world.client("http://models.example.com/x").current().model_path is None

    @pytest.mark.parametrize(
        ("options", "problem"),
        [
            ({"channel": "Production"}, "channel='Production' is not valid"),
            ({"runtime_version": "new"}, "runtime_version='new' is no version"),
            ({"max_model_bytes": 0}, "max_model_bytes=0"),
            ({"trusted_keys": ["key.pem"]}, r"trusted_keys\[0\] is not a public key"),
        ],
    )
    def test_values_that_are_not_valid(self, tmp_path: Path, options: dict[str, Any], problem: str) -> None:
        with pytest.raises(ValueError, match=problem):
            DeviceClient(tmp_path, MODEL, directory=tmp_path, **options)

    @pytest.mark.parametrize(
        ("base", "address"),
        [
            ("https://storage.googleapis.com/b/p/", "https://storage.googleapis.com/b/p/blobs/digits/x"),
            (
                "https://firebasestorage.googleapis.com/v0/b/b.appspot.com/o",
                "https://firebasestorage.googleapis.com/v0/b/b.appspot.com/o/blobs%2Fdigits%2Fx?alt=media",
            ),
            (
                "https://firebasestorage.googleapis.com/v0/b/b.appspot.com/o/team/models/",
                "https://firebasestorage.googleapis.com/v0/b/b.appspot.com/o/team%2Fmodels%2Fblobs%2Fdigits%2Fx?alt=media",
            ),
        ],
    )
    def test_addresses_of_objects(self, base: str, address: str) -> None:
        assert HttpSource(base, None, QUICK).uri("blobs/digits/x") == address


class TestCommand:
    def run(self, world: World, *options: str):
        key = world.server.root.parent / "public.pem"
        key.write_text(pem_of(world.signer))
        arguments = [
            world.server.endpoint,
            MODEL,
            "--directory",
            str(world.device),
            "--trusted-key",
            str(key),
            *options,
        ]
        return CliRunner().invoke(fetch, arguments)

    def test_fetches_and_says_where(self, world: World) -> None:
        done = self.run(world)
        assert done.exit_code == 0, done.output
        assert "updated" in done.output
        assert file_name(FIRST) in done.output.replace("\n", "")
        assert "unchanged" in self.run(world).output

    def test_json(self, world: World) -> None:
        result = UpdateResult.from_json(self.run(world, "--json").stdout)
        check_has(result, FIRST)
        assert result.status == "updated"

    def test_what_was_not_fetched_is_an_error(self, world: World) -> None:
        self.run(world)
        world.channel_file.write_bytes(b"{}")
        done = self.run(world, "--json")
        assert done.exit_code == 1
        assert json.loads(done.stdout)["status"] == "refused"
        assert "cannot be read" in self.run(world).output

    def test_wrong_arguments(self, world: World, tmp_path: Path) -> None:
        assert "channel='Beta' is not valid" in self.run(world, "--channel", "Beta").output
        (tmp_path / "no.pem").write_text("no key")
        assert "is not a public key" in self.run(world, "--trusted-key", str(tmp_path / "no.pem")).output


def flipped(data: bytes, position: int) -> bytes:
    damaged = bytearray(data)
    damaged[position] ^= 1
    return bytes(damaged)
