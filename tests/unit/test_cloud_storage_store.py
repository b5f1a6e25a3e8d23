"""The release store in a bucket: what it asks for, what it writes, and what its errors say."""

from __future__ import annotations

import contextlib
import datetime
import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.fakes.cloud_storage import BUCKET, Clock, FakeCloudStorage
from tests.fakes.http_server import Fault, Request, Response
from tests.fakes.releases import CHANNEL, MODEL, manifest_of, model_bytes, push_of
from tfx_mobile.errors import ConflictError, DestinationUnavailableError, PushError
from tfx_mobile.google_rest import Patience
from tfx_mobile.records import PushReceipt, sha256_of
from tfx_mobile.release_store.cloud_storage_store import EMULATOR_VARIABLE, CloudStorageStore
from tfx_mobile.release_store.delivery import OpenDestination, deliver
from tfx_mobile.release_store.destinations import CloudStorageDestination
from tfx_mobile.release_store.names import channel_path
from tfx_mobile.release_store.operations import rollback
from tfx_mobile.release_store.publishing import plan, publish
from tfx_mobile.release_store.reading import resolve

DATA = b"some bytes"
BLOB = "blobs/digits/some.tflite"
MANIFEST = "releases/digits/some.json"
CHANNEL_FILE = "channels/digits/production.json"
LARGE = bytes(range(256)) * (33 * 1024)  # above 8 MiB: goes in two parts
QUICK = Patience(connect_seconds=1.0, read_seconds=0.5, total_seconds=0.3, first_wait_seconds=0.001)
PATIENT = Patience(connect_seconds=1.0, read_seconds=5.0, total_seconds=30.0, first_wait_seconds=0.001)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCloudStorage]:
    with FakeCloudStorage(clock=Clock(step=1.0)) as server:
        monkeypatch.setenv(EMULATOR_VARIABLE, server.endpoint)
        yield server


@pytest.fixture
def store(fake: FakeCloudStorage) -> CloudStorageStore:
    return CloudStorageStore(BUCKET, "mobile/releases", patience=PATIENT)


def impatient() -> CloudStorageStore:
    return CloudStorageStore(BUCKET, "mobile/releases", patience=QUICK)


def methods(requests: list[Request]) -> str:
    return " ".join(request.method for request in requests)


# What is written, and how it is served


def test_addresses(store: CloudStorageStore) -> None:
    assert store.address == "gs://models/mobile/releases"
    assert store.uri(BLOB) == f"gs://models/mobile/releases/{BLOB}"
    assert CloudStorageStore(BUCKET).address == "gs://models"
    assert CloudStorageStore(BUCKET).uri(BLOB) == f"gs://models/{BLOB}"


@pytest.mark.parametrize(
    ("path", "public", "max_age", "cache_control", "content_type"),
    [
        (BLOB, False, 0, "private, max-age=31536000, immutable", "application/octet-stream"),
        (BLOB, True, 60, "public, max-age=31536000, immutable", "application/octet-stream"),
        (MANIFEST, False, 0, "private, max-age=31536000, immutable", "application/json"),
        (MANIFEST, True, 0, "public, max-age=31536000, immutable", "application/json"),
        (CHANNEL_FILE, False, 0, "no-store", "application/json"),
        (CHANNEL_FILE, True, 0, "no-store", "application/json"),
        (CHANNEL_FILE, False, 15, "private, max-age=15", "application/json"),
        (CHANNEL_FILE, True, 60, "public, max-age=60", "application/json"),
    ],
)
def test_what_a_device_is_told_about_caching(
    fake: FakeCloudStorage, path: str, public: bool, max_age: int, cache_control: str, content_type: str
) -> None:
    destination = CloudStorageDestination(bucket=BUCKET, public=public, channel_max_age_seconds=max_age)
    opened = destination.open_store()
    if path == CHANNEL_FILE:
        assert opened.compare_and_swap(path, DATA, None)
    else:
        opened.put_if_absent(path, DATA)
    fake.public = True
    answer = requests.get(f"{fake.endpoint}/{BUCKET}/{path}", timeout=5)
    assert answer.content == DATA
    assert answer.headers["Cache-Control"] == cache_control
    assert answer.headers["Content-Type"] == content_type
    assert "Content-Encoding" not in answer.headers
    assert fake.objects[path].properties.get("metadata") == ({"sha256": sha256_of(DATA)} if path == BLOB else None)


def test_a_large_file_goes_in_parts_and_is_served_the_same(fake: FakeCloudStorage, store: CloudStorageStore) -> None:
    store.put_if_absent(BLOB, LARGE)
    assert methods(fake.requests) == "GET POST PUT PUT"
    stored = fake.objects[f"mobile/releases/{BLOB}"]
    assert stored.data == LARGE
    assert stored.properties["cacheControl"] == "private, max-age=31536000, immutable"
    assert stored.properties["metadata"] == {"sha256": sha256_of(LARGE)}
    read = store.read(BLOB)
    assert read is not None
    assert read.data == LARGE


def test_every_write_carries_a_precondition_and_a_checksum(fake: FakeCloudStorage, store: CloudStorageStore) -> None:
    publish(store, push_of(model_bytes(1)))
    publish(store, push_of(model_bytes(2)))
    publish(store, push_of(LARGE))
    started = [request for request in fake.mutations if request.method == "POST"]
    assert len(started) == 9
    assert all("ifGenerationMatch" in request.query for request in started)
    assert all(b'"crc32c": ' in request.body for request in started)
    assert not any("authorization" in request.headers for request in fake.requests)


# The operations of a store


def test_read_and_swap(store: CloudStorageStore) -> None:
    assert store.read(CHANNEL_FILE) is None
    assert store.compare_and_swap(CHANNEL_FILE, b"one", None)
    assert not store.compare_and_swap(CHANNEL_FILE, b"two", None)
    first = store.read(CHANNEL_FILE)
    assert first is not None
    assert store.compare_and_swap(CHANNEL_FILE, b"two", first.generation)
    assert not store.compare_and_swap(CHANNEL_FILE, b"three", first.generation)
    second = store.read(CHANNEL_FILE)
    assert second is not None
    assert (first.data, second.data) == (b"one", b"two")
    assert first.generation != second.generation
    assert not CloudStorageStore(BUCKET, "elsewhere").read(CHANNEL_FILE)


def test_bytes_and_generation_are_of_one_moment(fake: FakeCloudStorage, store: CloudStorageStore) -> None:
    name = f"mobile/releases/{CHANNEL_FILE}"
    fake.put(name, b"one")
    fake.before(1, lambda: fake.put(name, b"two") and None)
    read = store.read(CHANNEL_FILE)
    assert read is not None
    assert (read.data, read.generation) == (b"two", str(fake.objects[name].generation))


def test_what_is_deleted_while_it_is_read_is_absent(fake: FakeCloudStorage, store: CloudStorageStore) -> None:
    name = f"mobile/releases/{CHANNEL_FILE}"
    fake.put(name, b"one")
    fake.before(1, lambda: fake.objects.clear())
    assert store.read(CHANNEL_FILE) is None


def test_what_is_replaced_all_the_time_cannot_be_read(fake: FakeCloudStorage, store: CloudStorageStore) -> None:
    name = f"mobile/releases/{CHANNEL_FILE}"
    fake.put(name, b"one")
    for number in range(1, 100, 2):
        fake.before(number, lambda: fake.put(name, b"two") and None)
    with pytest.raises(ConflictError, match="was replaced each of the 10 times"):
        store.read(CHANNEL_FILE)


def test_put_if_absent_asks_before_it_uploads(fake: FakeCloudStorage, store: CloudStorageStore) -> None:
    store.put_if_absent(BLOB, DATA)
    store.put_if_absent(BLOB, DATA)
    assert methods(fake.requests) == "GET POST GET"
    assert store.holds(BLOB, DATA)
    assert methods(fake.requests[3:]) == "GET"
    assert not store.holds(MANIFEST, DATA)


@pytest.mark.parametrize("there", [b"same SIZE!", b"shorter", b""])
def test_other_bytes_under_the_name_are_a_conflict(
    fake: FakeCloudStorage, store: CloudStorageStore, there: bytes
) -> None:
    fake.put(f"mobile/releases/{BLOB}", there)
    for act in (store.holds, store.put_if_absent):
        with pytest.raises(ConflictError, match=f"gs://models/mobile/releases/{BLOB} exists with other bytes"):
            act(BLOB, DATA)
    assert fake.mutations == []


def test_bytes_with_the_same_crc32c_are_told_apart(fake: FakeCloudStorage, store: CloudStorageStore) -> None:
    # crc32c is linear: to flip these bits leaves it as it is.
    polynomial = (1 << 32) | 0x1EDC6F41
    flips = int(f"{polynomial:033b}"[::-1], 2).to_bytes(5, "little")
    other = bytes(a ^ b for a, b in zip(DATA, flips.ljust(len(DATA), b"\0"), strict=True))
    twin = fake.put(f"mobile/releases/{BLOB}", other)
    assert fake._resource(twin)["crc32c"] == fake._resource(fake.put("x", DATA))["crc32c"]
    with pytest.raises(ConflictError):
        store.holds(BLOB, DATA)


def test_a_rival_that_creates_first_is_recognised(fake: FakeCloudStorage, store: CloudStorageStore) -> None:
    fake.before(1, lambda: fake.put(f"mobile/releases/{BLOB}", DATA) and None)
    store.put_if_absent(BLOB, DATA)
    assert methods(fake.requests) == "GET POST GET"


def test_a_rival_that_creates_something_else_is_a_conflict(fake: FakeCloudStorage, store: CloudStorageStore) -> None:
    fake.before(1, lambda: fake.put(f"mobile/releases/{BLOB}", b"something else") and None)
    with pytest.raises(ConflictError):
        store.put_if_absent(BLOB, DATA)
    assert fake.objects[f"mobile/releases/{BLOB}"].data == b"something else"


def test_what_is_deleted_again_is_written_again(fake: FakeCloudStorage, store: CloudStorageStore) -> None:
    fake.before(1, lambda: fake.put(f"mobile/releases/{BLOB}", DATA) and None)
    fake.before(2, lambda: fake.objects.clear())
    store.put_if_absent(BLOB, DATA)
    assert fake.objects[f"mobile/releases/{BLOB}"].data == DATA


@pytest.mark.parametrize("permission_first", [True, False])
def test_an_identity_that_may_not_delete(monkeypatch: pytest.MonkeyPatch, permission_first: bool) -> None:
    with FakeCloudStorage(clock=Clock(1.0), permission_first=permission_first) as fake:
        monkeypatch.setenv(EMULATOR_VARIABLE, fake.endpoint)
        fake.permissions[""] = {f"storage.objects.{verb}" for verb in ("get", "list", "create")}
        store = CloudStorageStore(BUCKET, patience=QUICK)
        fake.before(1, lambda: fake.put(BLOB, DATA) and None)
        store.put_if_absent(BLOB, DATA)  # 403 or 412, and there all the same
        fake.before(fake.num_requests + 1, lambda: fake.put(MANIFEST, b"else") and None)
        with pytest.raises(ConflictError):
            store.put_if_absent(MANIFEST, DATA)


def test_list(fake: FakeCloudStorage, store: CloudStorageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tfx_mobile.release_store.cloud_storage_store._PAGE_SIZE", 2)
    for number in range(5):
        store.put_if_absent(f"blobs/digits/{number}.tflite", b"x" * number)
    store.put_if_absent("blobs/letters/0.tflite", b"")
    fake.put("mobile/releases/blobs/digits/", b"")  # what a console makes to show an empty folder
    first = fake.num_requests
    fake.fail(first + 1, Fault("reset"), Fault("truncate", after=True), Fault("status", after=True, status=503))
    found = sorted(store.list("blobs/digits/"), key=lambda info: info.path)
    assert [(info.path, info.size_bytes) for info in found] == [(f"blobs/digits/{i}.tflite", i) for i in range(5)]
    assert fake.num_requests == first + 3 + 3
    assert found[0].modified.tzinfo == datetime.timezone.utc
    assert [info.modified for info in found] == sorted({info.modified for info in found})
    assert list(store.list("blobs/none/")) == []
    read = store.read("blobs/digits/3.tflite")
    assert read is not None
    assert read.generation == found[3].generation


def test_delete(fake: FakeCloudStorage, store: CloudStorageStore) -> None:
    store.put_if_absent(BLOB, DATA)
    (info,) = store.list("blobs/digits/")
    assert not store.delete(BLOB, str(int(info.generation) - 1))
    fake.fail(fake.num_requests, Fault("reset", after=True))
    assert store.delete(BLOB, info.generation)
    assert store.delete(BLOB, info.generation)
    assert fake.objects == {}
    assert all("ifGenerationMatch" in request.query for request in fake.mutations)


def test_a_large_upload_goes_on_where_it_broke(fake: FakeCloudStorage, store: CloudStorageStore) -> None:
    fake.fail(2, Fault("reset", after=True))
    store.put_if_absent(BLOB, LARGE)
    assert methods(fake.requests) == "GET POST PUT PUT PUT"
    assert fake.objects[f"mobile/releases/{BLOB}"].data == LARGE


def test_a_large_upload_that_was_forgotten_starts_again(fake: FakeCloudStorage, store: CloudStorageStore) -> None:
    fake.before(3, fake.forget_uploads)
    store.put_if_absent(BLOB, LARGE)
    assert methods(fake.requests) == "GET POST PUT PUT POST PUT PUT"
    assert fake.objects[f"mobile/releases/{BLOB}"].data == LARGE


@pytest.mark.parametrize("kept", [0, 1024 * 1024])
def test_an_upload_of_which_less_was_kept_than_sent_starts_again(
    fake: FakeCloudStorage, store: CloudStorageStore, kept: int
) -> None:
    fake.keep_of_next_part = kept
    store.put_if_absent(BLOB, LARGE)
    assert methods(fake.requests) == "GET POST PUT POST PUT PUT"
    assert fake.objects[f"mobile/releases/{BLOB}"].data == LARGE


def test_a_damaged_upload_is_refused_by_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    class Damaging(FakeCloudStorage):
        def handle(self, request: Request) -> Response:
            body = request.body.replace(DATA, DATA[::-1])
            return super().handle(Request(request.method, request.path, request.query, request.headers, body))

    with Damaging(clock=Clock(1.0)) as damaging:
        monkeypatch.setenv(EMULATOR_VARIABLE, damaging.endpoint)
        with pytest.raises(DestinationUnavailableError, match="400 Provided CRC32C"):
            impatient().put_if_absent(BLOB, DATA)
        assert damaging.objects == {}


# Waiting


def test_one_update_a_second_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeCloudStorage(clock=Clock(step=0.1)) as fake:  # a tenth of a second passes with every write and attempt
        monkeypatch.setenv(EMULATOR_VARIABLE, fake.endpoint)
        first = publish(CloudStorageStore(BUCKET, patience=PATIENT), push_of(model_bytes(1)))
        second = publish(CloudStorageStore(BUCKET, patience=PATIENT), push_of(model_bytes(2)))
        assert (first.channel_version, second.channel_version) == (1, 2)
        swaps = [request for request in fake.mutations if b"channels/" in request.body]
        assert len(swaps) > 2  # some were told 429


def test_retry_after_is_heeded(fake: FakeCloudStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr("tenacity.nap.time.sleep", waited.append)
    fake.fail(0, Fault("status", status=429, headers={"Retry-After": "17"}))
    assert CloudStorageStore(BUCKET, patience=PATIENT).read(BLOB) is None
    assert waited == [17.0]


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Fault("status", status=503), "503 injected by the test"),
        (Fault("status", status=429), "429 injected by the test"),
        (Fault("status", status=408), "408 injected by the test"),
        (Fault("reset"), "ConnectionError"),
        (Fault("truncate", after=True), r"(ChunkedEncoding|Connection|JSONDecode)Error"),
    ],
)
def test_a_service_that_stays_down(fake: FakeCloudStorage, fault: Fault, words: str) -> None:
    fake.put(f"mobile/releases/{CHANNEL_FILE}", DATA)
    fake.fail(0, *[fault] * 2000)
    with pytest.raises(DestinationUnavailableError, match=f"tried for 0.3 s: {words}.*push again later"):
        impatient().read(CHANNEL_FILE)
    assert 2 < fake.num_requests < 2000


def test_a_service_that_does_not_answer(fake: FakeCloudStorage) -> None:
    fake.fail(0, *[Fault("hang")] * 100)
    patience = Patience(connect_seconds=1.0, read_seconds=0.05, total_seconds=0.2, first_wait_seconds=0.001)
    with pytest.raises(DestinationUnavailableError, match=r"Cannot read gs://models/channels.*(ReadTimeout)"):
        CloudStorageStore(BUCKET, patience=patience).read(CHANNEL_FILE)


def test_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv(EMULATOR_VARIABLE, f"http://127.0.0.1:{unused.getsockname()[1]}")
        with pytest.raises(DestinationUnavailableError, match="ConnectionError"):
            impatient().read(CHANNEL_FILE)


def test_an_answer_without_a_body_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of which urllib3 1.x says nothing."""

    def answer(listening: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listening.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(
                        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n"
                    )

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=answer, args=(listening,), daemon=True).start()
        monkeypatch.setenv(EMULATOR_VARIABLE, f"http://127.0.0.1:{listening.getsockname()[1]}")
        store = impatient()
        for act in (
            lambda: store.read(BLOB),
            lambda: store.put_if_absent(BLOB, DATA),
            lambda: store.compare_and_swap(CHANNEL_FILE, DATA, None),
            lambda: list(store.list("blobs/")),
        ):
            with pytest.raises(DestinationUnavailableError, match=r"tried for 0.3 s"):
                act()


def test_a_download_that_does_not_fit_its_checksum_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if the service says nothing of a checksum with the bytes."""

    class Garbling(FakeCloudStorage):
        garbled = 0

        def handle(self, request: Request) -> Response:
            response = super().handle(request)
            if request.query.get("alt") == "media" and self.garbled < 2:
                self.garbled += 1
                headers = {k: v for k, v in response.headers.items() if k != "X-Goog-Hash"}
                return Response(response.status, response.body[:-1] + b"?", headers)
            return response

    with Garbling(clock=Clock(1.0)) as garbling:
        monkeypatch.setenv(EMULATOR_VARIABLE, garbling.endpoint)
        garbling.put(CHANNEL_FILE, DATA)
        read = CloudStorageStore(BUCKET, patience=PATIENT).read(CHANNEL_FILE)
        assert read is not None
        assert read.data == DATA
        assert garbling.num_requests == 4


# Errors


def test_no_bucket(fake: FakeCloudStorage) -> None:
    store = CloudStorageStore("elsewhere", patience=QUICK)
    for act in (
        lambda: store.read(CHANNEL_FILE),
        lambda: store.holds(BLOB, DATA),
        lambda: store.put_if_absent(BLOB, DATA),
        lambda: store.put_if_absent(BLOB, LARGE),
        lambda: store.compare_and_swap(CHANNEL_FILE, DATA, None),
        lambda: list(store.list("blobs/")),
        lambda: store.delete(BLOB, "1"),
        lambda: store.check_writable(BLOB),
    ):
        with pytest.raises(DestinationUnavailableError, match=r"404 .*bucket does not exist.*gcloud storage buckets"):
            act()


def test_a_missing_bucket_is_found_by_a_dry_run_however_it_is_worded(
    fake: FakeCloudStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terse(FakeCloudStorage):
        def handle(self, request: Request) -> Response:
            return Response.of_json({"error": {"code": 404, "message": "Not Found"}}, 404)

    with Terse() as terse:
        monkeypatch.setenv(EMULATOR_VARIABLE, terse.endpoint)
        with pytest.raises(DestinationUnavailableError, match=r"404 Not Found\. Create the bucket"):
            plan(impatient(), push_of(model_bytes()))


def test_check_writable_asks_only_while_nothing_was_seen(fake: FakeCloudStorage, store: CloudStorageStore) -> None:
    store.check_writable(BLOB)
    assert methods(fake.requests) == "GET"
    fake.put(f"mobile/releases/{BLOB}", DATA)
    store.holds(BLOB, DATA)
    store.check_writable(BLOB)
    assert methods(fake.requests) == "GET GET"


@pytest.mark.parametrize(
    ("missing", "act", "words"),
    [
        (
            "get",
            lambda s: s.read(BLOB),
            r"Cannot read gs://.*storage\.objects\.get.*roles/storage\.objectViewer.*/blobs/",
        ),
        (
            "list",
            lambda s: list(s.list("blobs/")),
            r"Cannot list .*storage\.objects\.list.*roles/storage\.objectViewer",
        ),
        ("list", lambda s: s.read(CHANNEL_FILE), r"Cannot read .*storage\.objects\.list.*roles/storage\.objectViewer"),
        ("list", lambda s: s.check_writable(BLOB), r"Cannot list .*roles/storage\.objectViewer"),
        ("create", lambda s: s.put_if_absent(BLOB, DATA), r"Cannot write .*roles/storage\.objectCreator.*/blobs/"),
        ("create", lambda s: s.put_if_absent(BLOB, LARGE), r"Cannot write .*roles/storage\.objectCreator.*/blobs/"),
        (
            "create",
            lambda s: s.compare_and_swap(CHANNEL_FILE, DATA, None),
            r"Cannot write .*storage\.objects\.create.*roles/storage\.objectUser .*gs://models/mobile/releases/channels/",
        ),
        ("delete", lambda s: s.delete("there", "1"), r"Cannot delete .*roles/storage\.objectUser"),
    ],
)
def test_a_missing_permission_is_named_with_its_role(fake: FakeCloudStorage, missing: str, act, words: str) -> None:
    fake.put("mobile/releases/there", DATA)
    fake.permissions[""] = set(fake.permissions[""]) - {f"storage.objects.{missing}"}
    with pytest.raises(DestinationUnavailableError, match=words):
        act(impatient())
    assert set(fake.objects) == {"mobile/releases/there"}


@pytest.mark.parametrize(
    ("status", "words"), [(401, "credentials of the surroundings are refused"), (400, "Correct that")]
)
def test_other_refusals(fake: FakeCloudStorage, status: int, words: str) -> None:
    fake.fail(0, Fault("status", status=status))
    with pytest.raises(DestinationUnavailableError, match=f"{status} injected by the test.*{words}"):
        impatient().read(BLOB)
    assert fake.num_requests == 1


@pytest.mark.parametrize("status", [400, 403])
@pytest.mark.parametrize(
    "page", ["<html>/upload?upload_id=%s was not found</html>", "/upload?upload_id=%s was not found"]
)
def test_the_address_of_an_upload_is_a_secret(monkeypatch: pytest.MonkeyPatch, status: int, page: str) -> None:
    """Whoever knows it may write there; the client puts it into its errors, and front ends into their pages."""

    class Page(FakeCloudStorage):
        def handle(self, request: Request) -> Response:
            if request.method == "PUT":
                return Response(status, (page % request.query["upload_id"]).encode(), {"Content-Type": "text/html"})
            return super().handle(request)

    with Page(clock=Clock(1.0)) as paging:
        monkeypatch.setenv(EMULATOR_VARIABLE, paging.endpoint)
        with pytest.raises(DestinationUnavailableError, match=str(status)) as raised:
            impatient().put_if_absent(BLOB, LARGE)
    message = str(raised.value)
    assert "session" not in message
    assert "html" not in message
    assert ("was not found" in message) == (not page.startswith("<"))
    # Nor in a traceback: the client's own error is not shown with it.
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__


def test_without_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(EMULATOR_VARIABLE, raising=False)
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    with pytest.raises(DestinationUnavailableError, match=r"No credentials for gs://models/.*workload identity"):
        impatient().read(BLOB)
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS")
    with pytest.raises(DestinationUnavailableError, match="No credentials"):
        impatient().read(BLOB)


@pytest.mark.parametrize(
    "elsewhere",
    ["https://storage.googleapis.com", "http://10.0.0.1:8080", "127.0.0.1:8080", "http://127.0.0.1.evil.org"],
)
def test_a_fake_elsewhere_is_refused(monkeypatch: pytest.MonkeyPatch, elsewhere: str) -> None:
    monkeypatch.setenv(EMULATOR_VARIABLE, elsewhere)
    with pytest.raises(ValueError, match=r"STORAGE_EMULATOR_HOST='.*' is not on the loopback interface"):
        CloudStorageDestination(bucket=BUCKET).open_store()


def test_a_proxy_of_the_surroundings_is_not_used_for_a_fake(
    fake: FakeCloudStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert impatient().read(BLOB) is None


# Pushes: requests and bytes, the figures of docs/cloud_storage.md


def traffic(fake: FakeCloudStorage, data: bytes) -> tuple[PushReceipt, dict[str, int], int]:
    """A push as the component makes it: its receipt, its requests by kind, and the bytes of their bodies."""
    return counted(fake, lambda opened: deliver([opened], push_of(data))[0])


def counted(fake: FakeCloudStorage, act: Callable[[OpenDestination], Any]) -> tuple[Any, dict[str, int], int]:
    """An act as a process of its own makes it: what it returns, its requests by kind, and the bytes of their bodies."""
    first, before = fake.num_requests, fake.bytes_received
    destination = CloudStorageDestination(bucket=BUCKET, prefix="mobile")
    receipt = act(OpenDestination(destination, destination.open_store(), None))
    kinds = {"list": 0, "metadata": 0, "download": 0, "upload": 0}
    for request in fake.requests[first:]:
        if request.path.startswith("/upload/"):
            kinds["upload"] += 1
        elif request.path.startswith("/download/"):
            kinds["download"] += 1
        else:
            kinds["metadata" if request.path.count("/") > 5 else "list"] += 1
    return receipt, kinds, fake.bytes_received - before


def test_figures(fake: FakeCloudStorage, record_property) -> None:
    model = bytes(1024 * 1024)
    receipt, kinds, sent = traffic(fake, model)
    record_property("first_push", json.dumps({"requests": kinds, "body_bytes": sent}))
    assert receipt.status == "pushed"
    assert kinds == {"list": 3, "metadata": 12, "download": 2, "upload": 3}
    assert len(model) < sent < len(model) + 8192

    receipt, kinds, sent = traffic(fake, model)
    record_property("unchanged_push", json.dumps({"requests": kinds, "body_bytes": sent}))
    assert receipt.status == "unchanged"
    assert kinds == {"list": 0, "metadata": 6, "download": 4, "upload": 0}
    assert sent == 0
    assert len(fake.mutations) == 3

    receipt, kinds, sent = traffic(fake, model[1:])
    record_property("second_push", json.dumps({"requests": kinds, "body_bytes": sent}))
    assert receipt.status == "pushed"
    assert kinds == {"list": 0, "metadata": 9, "download": 3, "upload": 3}

    receipt, kinds, sent = counted(fake, lambda opened: rollback(opened, MODEL, CHANNEL))
    record_property("rollback", json.dumps({"requests": kinds, "body_bytes": sent}))
    assert (receipt.status, receipt.sha256) == ("done", sha256_of(model))
    assert kinds == {"list": 0, "metadata": 4, "download": 4, "upload": 1}
    assert sent < 4096

    _, kinds, _ = traffic(fake, LARGE)
    assert kinds["upload"] == 5


def test_a_dry_run_changes_nothing(fake: FakeCloudStorage) -> None:
    store = impatient()
    assert plan(store, push_of(model_bytes(1))).details == {"would_be": "pushed"}
    assert fake.mutations == []
    publish(store, push_of(model_bytes(1)))
    written = len(fake.mutations)
    assert plan(store, push_of(model_bytes(1))).details == {"would_be": "unchanged"}
    assert plan(store, push_of(model_bytes(2))).details == {"would_be": "pushed"}
    assert len(fake.mutations) == written


def test_receipt(fake: FakeCloudStorage, store: CloudStorageStore) -> None:
    data = model_bytes()
    receipt = publish(store, push_of(data))
    assert receipt.destination == "gs://models/mobile/releases"
    assert receipt.model_uri == f"gs://models/mobile/releases/{manifest_of(data).blob}"
    release = resolve(store, MODEL, CHANNEL)
    assert (release.model, release.channel_version) == (data, 1)


def test_a_damaged_channel_is_said_so(fake: FakeCloudStorage, store: CloudStorageStore) -> None:
    fake.put(f"mobile/releases/{channel_path(MODEL, CHANNEL)}", b"{")
    with pytest.raises(PushError, match=r"gs://models/mobile/releases/channels/digits/production.json cannot be read"):
        publish(store, push_of(model_bytes()))
