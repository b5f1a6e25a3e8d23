"""The operations of a release store on the requests of S3 and Azure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest

from tests.fakes.http_server import Fault
from tests.fakes.object_store import IMPATIENT, PREFIX, AzureBlobServer, ObjectStoreServer, S3Server, serving
from tests.fakes.releases import CHANNEL, MODEL, model_bytes, push_of
from tfx_mobile.errors import ConflictError, DestinationUnavailableError
from tfx_mobile.release_store.names import blob_path
from tfx_mobile.release_store.publishing import plan, publish

pytest.importorskip("obstore", reason="needs the extra: pip install 'tfx-mobile[object-store]'")

PATH = "blobs/digits/a.tflite"
STATEMENT = "channels/digits/production.json"
WITNESS = "releases/.preconditions"


@pytest.fixture(params=[S3Server, AzureBlobServer])
def server(request: pytest.FixtureRequest) -> Iterator[ObjectStoreServer]:
    with serving(request.param) as running:
        yield running


def test_nothing_is_sent_before_it_is_needed(server: ObjectStoreServer) -> None:
    server.open_store()
    assert server.num_requests == 0


def test_objects_are_created_once(server: ObjectStoreServer) -> None:
    store = server.open_store()
    assert not store.holds(PATH, b"one")
    store.put_if_absent(PATH, b"one")
    assert server.at(PATH) == b"one"
    writes = list(server.writes)
    store.put_if_absent(PATH, b"one")
    server.open_store().put_if_absent(PATH, b"one")
    with pytest.raises(ConflictError, match="exists with other bytes"):
        store.put_if_absent(PATH, b"two")
    with pytest.raises(ConflictError, match="exists with other bytes"):
        server.open_store().holds(PATH, b"two")
    assert (server.writes, server.at(PATH)) == (writes, b"one")


def test_what_is_held_is_judged_by_all_its_bytes(server: ObjectStoreServer) -> None:
    store = server.open_store()
    store.put_if_absent(PATH, b"one")
    assert store.holds(PATH, b"one")
    read = server.requests[-1]
    assert store.holds(PATH, b"one")
    again = server.requests[-1]
    assert "if-none-match" not in read.headers  # the first time all bytes come; then the ETag is enough
    assert again.headers["if-none-match"] == f'"{server.objects[f"{PREFIX}/{PATH}"].etag}"'
    server.write(f"{PREFIX}/{PATH}", b"damaged", {})
    with pytest.raises(ConflictError, match="other bytes"):
        store.holds(PATH, b"one")
    del server.objects[f"{PREFIX}/{PATH}"]
    assert not store.holds(PATH, b"one")


def test_compare_and_swap(server: ObjectStoreServer) -> None:
    store = server.open_store()
    assert store.read(STATEMENT) is None
    assert store.compare_and_swap(STATEMENT, b"1", None)
    assert not store.compare_and_swap(STATEMENT, b"rival's", None)
    first = store.read(STATEMENT)
    assert first is not None
    assert first.data == b"1"
    assert not store.compare_and_swap(STATEMENT, b"rival's", hashlib.md5(b"other").hexdigest())
    assert store.compare_and_swap(STATEMENT, b"2", first.generation)
    assert not store.compare_and_swap(STATEMENT, b"rival's", first.generation)
    assert server.at(STATEMENT) == b"2"
    assert not store.compare_and_swap("channels/digits/gone.json", b"1", first.generation)


def test_channels_are_not_cached_and_all_else_for_ever(server: ObjectStoreServer) -> None:
    publish(server.open_store(), push_of(model_bytes()))
    name = "x-ms-blob-cache-control" if isinstance(server, AzureBlobServer) else "cache-control"
    cached = {key.removeprefix(f"{PREFIX}/"): stored.headers[name] for key, stored in server.objects.items()}
    assert cached.pop(STATEMENT) == "no-store"
    assert set(cached.values()) == {"max-age=31536000, immutable"}


def test_lists_have_pages_and_end_at_the_folder(server: ObjectStoreServer) -> None:
    store = server.open_store()
    for number in range(7):
        store.put_if_absent(f"blobs/digits/{number}.tflite", b"x" * number)
    store.put_if_absent("blobs/digits2/0.tflite", b"")
    found = {info.path: info for info in store.list("blobs/digits/")}
    assert sorted(found) == [f"blobs/digits/{number}.tflite" for number in range(7)]
    one = found["blobs/digits/5.tflite"]
    stored = store.read(one.path)
    assert stored is not None
    assert (one.size_bytes, one.generation) == (5, stored.generation)
    assert one.modified == server.objects[f"{PREFIX}/{one.path}"].modified
    assert list(store.list("blobs/nobody/")) == []


def test_deletion(server: ObjectStoreServer) -> None:
    store = server.open_store()
    store.put_if_absent(PATH, b"one")
    store.put_if_absent("blobs/digits/b.tflite", b"two")
    (info,) = [info for info in store.list("blobs/digits/") if info.path == PATH]
    server.write(f"{PREFIX}/{PATH}", b"changed", {})
    assert not store.delete(PATH, info.generation)
    assert server.at(PATH) == b"changed"
    changed = store.read(PATH)
    assert changed is not None
    assert store.delete(PATH, changed.generation)
    assert server.at(PATH) is None
    assert store.delete(PATH, changed.generation)
    assert server.at("blobs/digits/b.tflite") == b"two"


@pytest.mark.parametrize(
    "fault",
    [
        *(Fault("status"), Fault("status", status=429), Fault("reset"), Fault("hang")),
        *(Fault("status", after=True), Fault("reset", after=True), Fault("hang", after=True)),
    ],
    ids=str,
)
def test_a_deletion_looks_again_before_each_attempt(server: ObjectStoreServer, fault: Fault) -> None:
    store = server.open_store(IMPATIENT)
    store.put_if_absent(PATH, b"one")
    stored = store.read(PATH)
    assert stored is not None
    first = server.num_requests
    server.fail(first + 1, fault)

    def change() -> None:
        server.write(f"{PREFIX}/{PATH}", b"changed", {})

    if not fault.after:
        server.before(first + 2, change)
    assert store.delete(PATH, stored.generation) is fault.after
    assert server.at(PATH) == (None if fault.after else b"changed")


def test_a_rival_creates_the_same_object_at_the_same_time(server: ObjectStoreServer) -> None:
    store = server.open_store()
    store.put_if_absent("blobs/digits/first.tflite", b"so that preconditions are proved")
    server.before(server.num_requests + 1, lambda: server.write(f"{PREFIX}/{PATH}", b"one", {}) and None)
    store.put_if_absent(PATH, b"one")
    assert server.writes.count(f"{PREFIX}/{PATH}") == 1
    other = "blobs/digits/other.tflite"
    server.before(server.num_requests + 1, lambda: server.write(f"{PREFIX}/{other}", b"damaged", {}) and None)
    with pytest.raises(ConflictError, match="other bytes"):
        store.put_if_absent(other, b"one")
    assert server.at(other) == b"damaged"


def test_a_conflict_that_comes_to_nothing_is_not_taken_for_success(server: ObjectStoreServer) -> None:
    store = server.open_store()
    store.put_if_absent("blobs/digits/first.tflite", b"so that preconditions are proved")
    server.conflicts = 2
    store.put_if_absent(PATH, b"one")
    assert server.at(PATH) == b"one"
    server.conflicts = 1000
    with pytest.raises(DestinationUnavailableError, match="says that it exists when it is written"):
        store.put_if_absent("blobs/digits/b.tflite", b"one")


@pytest.mark.parametrize("header", ["if-none-match", "if-match"])
def test_a_service_that_ignores_preconditions_is_refused(server: ObjectStoreServer, header: str) -> None:
    publish(server.open_store(), push_of(model_bytes(1)))
    before = dict(server.objects)
    server.ignores = {header}
    for _ in range(2):  # nor does what the first attempt left behind hide it from the second
        with pytest.raises(DestinationUnavailableError, match=f"(?i)ignores {header} .*Nothing was published"):
            publish(server.open_store(), push_of(model_bytes(2)))
    with pytest.raises(DestinationUnavailableError, match="ignores"):
        server.open_store().compare_and_swap(STATEMENT, b"mine", None)
    assert {key: s.data for key, s in server.objects.items()} == {key: s.data for key, s in before.items()}


@pytest.mark.parametrize("header", ["if-none-match", "if-match"])
def test_also_before_anything_was_ever_written(server: ObjectStoreServer, header: str) -> None:
    server.ignores = {header}
    with pytest.raises(DestinationUnavailableError, match=f"(?i)ignores {header}"):
        publish(server.open_store(), push_of(model_bytes()))
    assert set(server.objects) == {f"{PREFIX}/{WITNESS}"}


def test_preconditions_are_proved_once_per_store(server: ObjectStoreServer) -> None:
    store = server.open_store()
    for seed in range(3):
        publish(store, push_of(model_bytes(seed)))
    puts = [r for r in server.requests if r.method == "PUT" and r.path.endswith(WITNESS)]
    assert len(puts) == 3
    assert server.writes.count(f"{PREFIX}/{WITNESS}") == 1


@pytest.mark.parametrize("role", ["blobs", "releases", "channels"])
def test_writing_is_not_permitted(server: ObjectStoreServer, role: str) -> None:
    publish(server.open_store(), push_of(model_bytes(1)))
    server.denied = {("PUT", f"{PREFIX}/{role}")}
    with pytest.raises(DestinationUnavailableError, match=r"403.*not allowed.*docs/object_stores.md") as raised:
        publish(server.open_store(), push_of(model_bytes(2)))
    assert f"Cannot write {server.endpoint}/mobile-models/{PREFIX}/{role}/" in str(raised.value)
    statement = server.statement()
    assert statement is not None
    assert statement.version == 1


@pytest.mark.parametrize("operation", ["read", "list", "delete"])
def test_other_operations_are_not_permitted(server: ObjectStoreServer, operation: str) -> None:
    store = server.open_store()
    store.put_if_absent(PATH, b"one")
    stored = store.read(PATH)
    assert stored is not None
    server.denied = {("DELETE" if operation == "delete" else "GET", "" if operation == "list" else f"{PREFIX}/blobs")}
    acts = {
        "read": lambda: store.read(PATH),
        "list": lambda: list(store.list("blobs/digits/")),
        "delete": lambda: store.delete(PATH, stored.generation),
    }
    with pytest.raises(DestinationUnavailableError, match=rf"Cannot {operation} .*403"):
        acts[operation]()


def test_a_missing_bucket_is_not_an_empty_one(server: ObjectStoreServer) -> None:
    server.bucket_exists = False
    with pytest.raises(DestinationUnavailableError, match=r"404 Not Found.*Create it, or correct the address"):
        plan(server.open_store(), push_of(model_bytes()))


def test_wrong_credentials_are_named_and_not_repeated(
    server: ObjectStoreServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with type(server)() as other:
        assert isinstance(other, ObjectStoreServer)
        for name, value in other.environment().items():
            monkeypatch.setenv(name, value)
        store = server.open_store()
    if isinstance(server, AzureBlobServer):
        server.account = "another"
    with pytest.raises(DestinationUnavailableError, match=r"403.*[Ss]ignature") as raised:
        store.read(PATH)
    shown = [str(raised.value), repr(raised.value.__cause__)]
    assert raised.value.__suppress_context__
    assert not any(text in " ".join(shown) for text in (*server.secret_texts, *other.secret_texts))


def test_credentials_that_make_no_sense(server: ObjectStoreServer, monkeypatch: pytest.MonkeyPatch) -> None:
    if isinstance(server, S3Server):
        monkeypatch.setenv("AWS_SERVER_SIDE_ENCRYPTION", "sse-c")
    else:
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "not base64")
    with pytest.raises(DestinationUnavailableError, match="Cannot open"):
        server.open_store()


def test_an_image_without_certificates_is_told_from_a_dead_service(
    server: ObjectStoreServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/dev/null")
    monkeypatch.setenv("SSL_CERT_DIR", "/nonexistent")
    with pytest.raises(DestinationUnavailableError, match=r"Cannot open .*ca-certificates"):
        server.open_store()


def test_a_dead_service_is_given_up(server: ObjectStoreServer) -> None:
    server.fail(0, *[Fault("status")] * 500)
    with pytest.raises(DestinationUnavailableError, match=r"Cannot read .*503"):
        server.open_store().read(PATH)
    assert 2 <= server.num_requests <= 20


def test_a_request_that_is_wrong_for_good_is_not_repeated(server: ObjectStoreServer) -> None:
    server.fail(0, Fault("status", status=400))
    with pytest.raises(DestinationUnavailableError, match="400 Bad Request"):
        server.open_store().read(PATH)
    assert server.num_requests == 1


def test_a_wrong_region_is_named(server: ObjectStoreServer) -> None:
    server.fail(0, Fault("status", status=301))
    with pytest.raises(DestinationUnavailableError, match=r"redirect.*Set region"):
        server.open_store().read(PATH)
    assert server.num_requests == 1


def test_a_large_model_goes_up_in_one_conditional_request(server: ObjectStoreServer) -> None:
    data = model_bytes() * 10_000  # some 9 MB, above the size from which the library likes to cut into parts
    publish(server.open_store(), push_of(data))
    path = blob_path(MODEL, hashlib.sha256(data).hexdigest())
    (put,) = [r for r in server.requests if r.method != "GET" and r.path.endswith(path)]
    assert (put.method, put.headers["if-none-match"], len(put.body)) == ("PUT", "*", len(data))


def test_a_dry_run_changes_nothing(server: ObjectStoreServer) -> None:
    assert plan(server.open_store(), push_of(model_bytes())).details == {"would_be": "pushed"}
    assert not server.mutations
    publish(server.open_store(), push_of(model_bytes()))
    mutations = len(server.mutations)
    assert plan(server.open_store(), push_of(model_bytes(2))).details == {"would_be": "pushed"}
    assert publish(server.open_store(), push_of(model_bytes())).status == "unchanged"
    assert len(server.mutations) == mutations
    assert server.statement(CHANNEL) is not None
