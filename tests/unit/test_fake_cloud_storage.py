"""What the Cloud Storage of the tests does, as the genuine client sees it.

The table is what the service documents; the store's tests are worth as much as it. Every step is one request: the
client repeats nothing here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
from google.api_core.exceptions import GoogleAPICallError
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage
from google.cloud.storage.retry import DEFAULT_RETRY

from tests.fakes.cloud_storage import BUCKET, PERMISSIONS, QUANTUM, Clock, FakeCloudStorage, crc32c
from tests.fakes.http_server import Fault

ONE, TWO = b"one" * 100, b"two" * 200
LARGE = bytes(range(256)) * (36 * 1024)  # 9 MiB: the client sends it in parts
MIB = 1024 * 1024
READER = {"storage.objects.get", "storage.objects.list"}

Step = Callable[[storage.Bucket, FakeCloudStorage], Any]


@pytest.fixture(autouse=True)
def _no_background_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA", "true")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def fake() -> Iterator[FakeCloudStorage]:
    with FakeCloudStorage(clock=Clock(step=1.0)) as server:
        yield server


def bucket_of(server: FakeCloudStorage, name: str = BUCKET) -> storage.Bucket:
    client = storage.Client(
        project="test", credentials=AnonymousCredentials(), client_options={"api_endpoint": server.endpoint}
    )
    return client.bucket(name)


def put(data: bytes, name: str = "a", chunk: int | None = None, **arguments: Any) -> Step:
    def step(bucket: storage.Bucket, _: FakeCloudStorage) -> str:
        blob = bucket.blob(name, chunk_size=chunk)
        blob.upload_from_string(data, **{"checksum": None, "retry": None, **arguments})
        assert int(blob.generation) > 2**32
        return f"{blob.size} {blob.metageneration}"

    return step


def put_claiming(data: bytes, name: str = "a", **claims: str) -> Step:
    def step(bucket: storage.Bucket, _: FakeCloudStorage) -> None:
        blob = bucket.blob(name)
        for key, value in claims.items():
            setattr(blob, key, value)
        blob.upload_from_string(data, checksum=None, retry=None)

    return step


def at(offset: int, step: Callable[..., Step], *arguments: Any, **more: Any) -> Step:
    """With `if_generation_match` of the live object "a", plus `offset`."""

    def later(bucket: storage.Bucket, server: FakeCloudStorage) -> Any:
        generation = server.objects["a"].generation + offset
        return step(*arguments, if_generation_match=generation, **more)(bucket, server)

    return later


def get(name: str = "a", **arguments: Any) -> Step:
    def step(bucket: storage.Bucket, _: FakeCloudStorage) -> bytes:
        data: bytes = bucket.blob(name).download_as_bytes(**{"checksum": "crc32c", "retry": None, **arguments})
        return data

    return step


def get_old(bucket: storage.Bucket, server: FakeCloudStorage) -> bytes:
    """The generation before the live one."""
    blob = bucket.blob("a", generation=server.objects["a"].generation - 1)
    data: bytes = blob.download_as_bytes(checksum=None, retry=None)
    return data


def get_live(bucket: storage.Bucket, server: FakeCloudStorage) -> bytes:
    blob = bucket.blob("a", generation=server.objects["a"].generation)
    data: bytes = blob.download_as_bytes(checksum=None, retry=None)
    return data


def stat(name: str = "a", **arguments: Any) -> Step:
    def step(bucket: storage.Bucket, _: FakeCloudStorage) -> str:
        blob = bucket.blob(name)
        blob.reload(retry=None, **arguments)
        return f"{blob.size} {blob.crc32c} {blob.metageneration}"

    return step


def patch(**arguments: Any) -> Step:
    def step(bucket: storage.Bucket, _: FakeCloudStorage) -> str:
        blob = bucket.blob("a")
        blob.metadata = {"colour": "red"}
        blob.patch(retry=None, **arguments)
        return f"{blob.metadata} {blob.metageneration}"

    return step


def delete(name: str = "a", **arguments: Any) -> Step:
    def step(bucket: storage.Bucket, _: FakeCloudStorage) -> None:
        bucket.blob(name).delete(retry=None, **arguments)

    return step


def names(**arguments: Any) -> Step:
    def step(bucket: storage.Bucket, _: FakeCloudStorage) -> str:
        return " ".join(blob.name for blob in bucket.list_blobs(retry=None, **arguments))

    return step


def may(*verbs: str, at: str = "") -> Step:
    def step(_: storage.Bucket, server: FakeCloudStorage) -> None:
        server.permissions[at] = {f"storage.objects.{verb}" for verb in verbs}

    return step


def stop_the_clock(_: storage.Bucket, server: FakeCloudStorage) -> None:
    assert isinstance(server.clock, Clock)
    server.clock.step = 0.0


def wait_a_second(_: storage.Bucket, server: FakeCloudStorage) -> None:
    assert isinstance(server.clock, Clock)
    server.clock.now += 1.0


#: What happens first, and the last step's result: a value, or the status of its refusal.
TABLE: dict[str, tuple[list[Step], Any]] = {
    "write": ([put(ONE)], "300 1"),
    "write nothing": ([put(b"")], "0 1"),
    "read": ([put(ONE), get()], ONE),
    "read nothing": ([put(b""), get()], b""),
    "read a part": ([put(ONE), get(start=1, end=4, checksum=None)], ONE[1:5]),
    "read past the end": ([put(ONE), get(start=300, checksum=None)], 416),
    "read what is absent": ([get()], 404),
    "stat": ([put(ONE), stat()], f"300 {crc32c(ONE)} 1"),
    "stat what is absent": ([stat()], 404),
    "names with slashes and blanks": ([put(ONE, "x y/ä%"), get("x y/ä%")], ONE),
    "overwrite": ([put(ONE), put(TWO), get()], TWO),
    "a generation that was replaced": ([put(ONE), put(TWO), get_old], 404),
    "the live generation": ([put(ONE), put(TWO), get_live], TWO),
    # Preconditions
    "create": ([put(ONE, if_generation_match=0)], "300 1"),
    "create over something": ([put(ONE), put(TWO, if_generation_match=0)], 412),
    "a refused create changes nothing": ([put(ONE), put(ONE, "b"), get()], ONE),
    "create after a deletion": ([put(ONE), delete(), put(TWO, if_generation_match=0), get()], TWO),
    "swap": ([put(ONE), at(0, put, TWO), get()], TWO),
    "swap at a stale generation": ([put(ONE), at(-1, put, TWO)], 412),
    "swap what is absent": ([put(ONE, if_generation_match=7)], 412),
    "write unless it is that generation": ([put(ONE), put(TWO, if_generation_not_match=0)], "600 1"),
    "write unless absent, though absent": ([put(ONE, if_generation_not_match=0)], 412),
    "write at a metageneration": ([put(ONE), put(TWO, if_metageneration_match=1)], "600 1"),
    "write at a stale metageneration": ([put(ONE), patch(), put(TWO, if_metageneration_match=1)], 412),
    "read at a generation": ([put(ONE), at(0, get)], ONE),
    "read at a stale generation": ([put(ONE), at(-1, get)], 412),
    "read unless it is that metageneration": ([put(ONE), get(if_metageneration_not_match=1)], 304),
    "stat at a stale metageneration": ([put(ONE), stat(if_metageneration_match=2)], 412),
    "stat unless it is that metageneration": ([put(ONE), stat(if_metageneration_not_match=1)], 304),
    "patch": ([put(ONE), patch(if_metageneration_match=1)], "{'colour': 'red'} 2"),
    "patch at a stale metageneration": ([put(ONE), patch(), patch(if_metageneration_match=1)], 412),
    "patch what is absent": ([patch()], 404),
    "delete": ([put(ONE), at(0, delete), get()], 404),
    "delete at a stale generation": ([put(ONE), at(-1, delete)], 412),
    "delete twice": ([put(ONE), delete(), delete()], 404),
    # Checksums
    "crc32c by the client": ([put(ONE, checksum="crc32c")], "300 1"),
    "md5 by the client": ([put(ONE, checksum="md5")], "300 1"),
    "right crc32c": ([put_claiming(ONE, crc32c=crc32c(ONE)), get()], ONE),
    "wrong crc32c": ([put_claiming(ONE, crc32c=crc32c(TWO))], 400),
    "wrong md5": ([put_claiming(ONE, md5_hash="AAAAAAAAAAAAAAAAAAAAAA==")], 400),
    "refused bytes are not stored": ([put(ONE), get("b")], 404),
    # Uploads in parts
    "large": ([put(LARGE), get()], LARGE),
    "large, in many parts": ([put(LARGE, chunk=QUANTUM * 5), get()], LARGE),
    "large, checked by the client": ([put(LARGE, chunk=4 * MIB, checksum="crc32c"), get()], LARGE),
    "large create": ([put(LARGE, if_generation_match=0), get()], LARGE),
    "large create over something": ([put(ONE), put(LARGE, if_generation_match=0)], 412),
    "large swap at a stale generation": ([put(ONE), at(-1, put, LARGE)], 412),
    # Lists
    "list": ([put(ONE, "b/2"), put(ONE, "b/1"), put(ONE), names(prefix="b/")], "b/1 b/2"),
    "list nothing": ([names(prefix="b/")], ""),
    "list in pages": ([*(put(ONE, f"b/{i}") for i in range(7)), names(page_size=3)], "b/0 b/1 b/2 b/3 b/4 b/5 b/6"),
    "list what fits pages exactly": ([*(put(ONE, f"b/{i}") for i in range(4)), names(page_size=2)], "b/0 b/1 b/2 b/3"),
    "list the first": ([*(put(ONE, f"b/{i}") for i in range(4)), names(max_results=2)], "b/0 b/1"),
    # One update a second
    "two updates at once": ([stop_the_clock, put(ONE), put(TWO)], 429),
    "the first of them counts": ([stop_the_clock, put(ONE), put(ONE, "b"), get()], ONE),
    "two updates, a second apart": ([stop_the_clock, put(ONE), wait_a_second, put(TWO)], "600 1"),
    "two objects at once": ([stop_the_clock, put(ONE), put(TWO, "b")], "600 1"),
    "create and delete at once": ([stop_the_clock, put(ONE), delete()], 429),
    "create and patch at once": ([stop_the_clock, put(ONE), patch()], 429),
    # Permissions
    "write without": ([may("get", "list"), put(ONE)], 403),
    "large without": ([may("get", "list"), put(LARGE)], 403),
    "read without": ([put(ONE), may("create"), get()], 403),
    "stat what is absent, with the right to list": ([may("get", "list"), stat()], 404),
    "stat what is absent, without the right to list": ([may("get"), stat()], 403),
    "list without": ([may("get"), names()], 403),
    "overwrite without the right to delete": ([put(ONE), may("get", "create"), put(TWO)], 403),
    "create over something without the right to delete": (
        [put(ONE), may("get", "create"), put(TWO, if_generation_match=0)],
        403,
    ),
    "create without the right to delete": ([may("get", "create"), put(ONE, if_generation_match=0)], "300 1"),
    "delete without": ([put(ONE), may("get", "create"), delete()], 403),
    "patch without": ([put(ONE), may("get", "create"), patch()], 403),
    "a folder with rights of its own": ([may("get"), may("create", at="b/"), put(ONE, "b/1")], "300 1"),
    "a folder with fewer rights": ([may("get", at="b/"), put(ONE, "b/1")], 403),
}


@pytest.mark.parametrize("case", TABLE)
def test_the_table(fake: FakeCloudStorage, case: str) -> None:
    steps, expected = TABLE[case]
    bucket = bucket_of(fake)
    for step in steps[:-1]:
        step(bucket, fake)
    try:
        result = steps[-1](bucket, fake)
    except GoogleAPICallError as error:
        result = error.code
    assert result == expected


def test_another_bucket_does_not_exist(fake: FakeCloudStorage) -> None:
    for step in (put(ONE), get(), stat(), delete(), names()):
        with pytest.raises(GoogleAPICallError, match=r"The specified bucket does not exist") as raised:
            step(bucket_of(fake, "elsewhere"), fake)
        assert raised.value.code == 404


def test_the_precondition_may_be_told_first_and_the_permission_not_at_all() -> None:
    with FakeCloudStorage(clock=Clock(1.0), permission_first=False) as fake:
        bucket = bucket_of(fake)
        put(ONE)(bucket, fake)
        fake.permissions[""] = READER | {"storage.objects.create"}
        with pytest.raises(GoogleAPICallError) as raised:
            put(TWO, if_generation_match=0)(bucket, fake)
        assert raised.value.code == 412
        with pytest.raises(GoogleAPICallError) as raised:
            put(TWO)(bucket, fake)
        assert raised.value.code == 403


@pytest.mark.parametrize("at_start", [True, False])
def test_a_rival_between_the_parts_of_an_upload_wins(at_start: bool) -> None:
    with FakeCloudStorage(clock=Clock(1.0), condition_at_start=at_start) as fake:
        fake.before(2, lambda: fake.put("a", TWO) and None)
        with pytest.raises(GoogleAPICallError) as raised:
            put(LARGE, chunk=5 * MIB, if_generation_match=0)(bucket_of(fake), fake)
        assert raised.value.code == 412
        assert fake.objects["a"].data == TWO


@pytest.mark.parametrize(("at_start", "num_requests"), [(True, 1), (False, 3)])
def test_when_an_upload_in_parts_learns_of_its_precondition(at_start: bool, num_requests: int) -> None:
    with FakeCloudStorage(clock=Clock(1.0), condition_at_start=at_start) as fake:
        fake.put("a", TWO)
        with pytest.raises(GoogleAPICallError) as raised:
            put(LARGE, chunk=5 * MIB, if_generation_match=0)(bucket_of(fake), fake)
        assert raised.value.code == 412
        assert fake.num_requests == num_requests


@pytest.mark.parametrize("after", [False, True])
def test_the_client_takes_up_an_upload_where_it_broke(fake: FakeCloudStorage, after: bool) -> None:
    fake.fail(2, Fault("reset", after))
    put(LARGE, chunk=3 * MIB, retry=DEFAULT_RETRY.with_delay(initial=0.001))(bucket_of(fake), fake)
    assert fake.objects["a"].data == LARGE
    assert [request.method for request in fake.requests] == ["POST", "PUT", "PUT", "PUT", "PUT"]


def test_the_client_does_not_know_what_to_do_if_less_of_a_part_was_kept(fake: FakeCloudStorage) -> None:
    fake.keep_of_next_part = MIB + 17
    with pytest.raises(ValueError, match="Bytes stream is in unexpected state"):
        put(LARGE, chunk=3 * MIB)(bucket_of(fake), fake)
    fake.keep_of_next_part = 0
    with pytest.raises(GoogleAPICallError) as raised:
        put(LARGE, chunk=3 * MIB)(bucket_of(fake), fake)
    assert raised.value.code == 308
    assert fake.objects == {}


def test_how_far_an_upload_has_come() -> None:
    with FakeCloudStorage(clock=Clock(1.0)) as fake:
        address = bucket_of(fake).blob("a").create_resumable_upload_session(checksum=None, retry=None)

        def part(content_range: str, data: bytes = b"") -> requests.Response:
            return requests.put(address, data=data, headers={"Content-Range": content_range}, timeout=5)

        asked = part("bytes */*")
        assert (asked.status_code, "Range" in asked.headers) == (308, False)
        kept = part(f"bytes 0-{QUANTUM - 1}/*", bytes(QUANTUM))
        assert (kept.status_code, kept.headers["Range"]) == (308, f"bytes=0-{QUANTUM - 1}")
        assert part("bytes */*").headers["Range"] == f"bytes=0-{QUANTUM - 1}"
        assert part(f"bytes {QUANTUM}-{QUANTUM + 9}/*", bytes(10)).status_code == 400
        assert part("bytes 0-9/*", bytes(11)).status_code == 400


def test_an_upload_in_parts_may_be_given_up_or_forgotten(fake: FakeCloudStorage) -> None:
    addresses = [bucket_of(fake).blob("a").create_resumable_upload_session(checksum=None, retry=None) for _ in "ab"]
    assert requests.delete(addresses[0], timeout=5).status_code == 499
    fake.forget_uploads()
    for address in addresses:
        assert requests.put(address, headers={"Content-Range": "bytes */*"}, timeout=5).status_code == 404
    assert fake.objects == {}


def test_generations_grow_and_tell_the_time(fake: FakeCloudStorage) -> None:
    seen = []
    for _ in range(3):
        put(ONE)(bucket_of(fake), fake)
        blob = bucket_of(fake).get_blob("a", retry=None)
        assert blob.time_created == blob.updated
        seen.append((int(blob.generation), blob.time_created))
    assert seen == sorted(set(seen))


def test_what_a_device_gets() -> None:
    with FakeCloudStorage(clock=Clock(1.0)) as fake:
        fake.put("a/b", ONE, contentType="application/json", cacheControl="no-store")
        fake.put("plain", ONE)
        firebase = requests.get(f"{fake.endpoint}/v0/b/{BUCKET}/o/a%2Fb?alt=media", timeout=5)
        assert (firebase.content, firebase.headers["Cache-Control"]) == (ONE, "no-store")
        assert requests.get(f"{fake.endpoint}/v0/b/{BUCKET}/o/a%2Fc?alt=media", timeout=5).status_code == 404
        assert requests.get(f"{fake.endpoint}/{BUCKET}/a/b", timeout=5).status_code == 403
        fake.public = True
        public = requests.get(f"{fake.endpoint}/{BUCKET}/a/b", timeout=5)
        assert (public.content, public.headers["Content-Type"]) == (ONE, "application/json")
        assert re.fullmatch(r"crc32c=\S+,md5=\S+", public.headers["X-Goog-Hash"])
        assert public.headers["X-Goog-Generation"] == str(fake.objects["a/b"].generation)
        # What nobody said anything about is kept for an hour.
        assert requests.get(f"{fake.endpoint}/{BUCKET}/plain", timeout=5).headers["Cache-Control"] == (
            "public, max-age=3600"
        )


def test_what_the_fake_does_not_know_it_refuses(fake: FakeCloudStorage) -> None:
    objects = f"{fake.endpoint}/storage/v1/b/{BUCKET}/o"
    assert requests.get(f"{objects}?versions=true", timeout=5).status_code == 400
    assert requests.post(f"{objects}/a/rewriteTo/b/{BUCKET}/o/b", timeout=5).status_code == 501
    assert requests.get(f"{fake.endpoint}/storage/v1/b/{BUCKET}", timeout=5).status_code == 501
    assert {"storage.objects.create", "storage.objects.delete"} < PERMISSIONS
