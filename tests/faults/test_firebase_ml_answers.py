"""What Firebase ML may answer, however wrong: a typed error that says so, or the right model published."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.firebase_ml import ALREADY_EXISTS, FAILED_PRECONDITION, NOT_FOUND, FakeFirebaseML
from tests.fakes.firebase_project import IMPATIENT, Project, acts, use_fake
from tests.fakes.releases import CHANNEL, MODEL, model_bytes
from tfx_mobile.errors import (
    ConflictError,
    DestinationUnavailableError,
    ModelFileError,
    ModelRefusedError,
    ModelTooLargeError,
    NothingPublishedError,
    PushError,
)
from tfx_mobile.records import sha256_of


@pytest.fixture
def fake() -> Iterator[FakeFirebaseML]:
    with FakeFirebaseML() as fake:
        yield fake
    assert fake.violations == []


@pytest.fixture
def project(tmp_path: Path, fake: FakeFirebaseML, monkeypatch: pytest.MonkeyPatch) -> Project:
    use_fake(monkeypatch, fake)
    return Project(tmp_path, fake)


def test_a_storm_of_locks(project: Project, fake: FakeFirebaseML) -> None:
    project.push(1)
    project.follow()
    data = project.push(2)
    # Before every one of the next 12 requests somebody else begins something, unless it is running already.
    for number in range(fake.num_requests + 1, fake.num_requests + 13, 2):
        fake.before(number, lambda: fake.busy(MODEL, polls=1))
    project.follow()
    assert project.served == data


@pytest.mark.parametrize("hours", [-48, 48])
def test_the_local_clock_decides_nothing(project: Project, fake: FakeFirebaseML, hours: int) -> None:
    # To the service this machine's clock is wrong by two days, far more than a signed address lives.
    fake.ahead_seconds = hours * 3600.0
    data = project.push(1)
    project.follow()
    assert project.served == data


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_nothing_published_yet(project: Project) -> None:
    with pytest.raises(NothingPublishedError, match="names nothing yet"):
        project.follow()


def test_a_file_that_is_no_model_is_not_published(project: Project, fake: FakeFirebaseML, tmp_path: Path) -> None:
    from tests.fakes.releases import push_of
    from tfx_mobile.release_store.publishing import publish

    publish(project.store, push_of(b"this is not a flatbuffer at all"))
    with pytest.raises(ModelRefusedError, match=r"'digits' in the project demo-project: Invalid flatbuffer format"):
        project.follow()
    assert acts(fake) == ["POST"]
    with pytest.raises(ModelRefusedError):  # and not the next time either
        project.follow()
    assert fake.by_name(MODEL).published is False  # type: ignore[union-attr]


def test_an_operation_that_is_never_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeFirebaseML(polls=None) as fake:
        use_fake(monkeypatch, fake)
        project = Project(tmp_path, fake, IMPATIENT)
        data = project.push(1)
        for _ in range(2):  # the second finds the model locked
            with pytest.raises(DestinationUnavailableError, match=r"worked on 'digits' .* not done. Push again later"):
                project.follow()
        (operation,) = fake._operations.values()
        fake._complete(operation)
        project.follow()
        assert (project.served, acts(fake)) == (data, ["POST", "PATCH"])


CODES = {
    1: "CANCELLED",
    2: "UNKNOWN",
    3: "INVALID_ARGUMENT",
    4: "DEADLINE_EXCEEDED",
    5: "NOT_FOUND",
    6: "ALREADY_EXISTS",
    7: "PERMISSION_DENIED",
    8: "RESOURCE_EXHAUSTED",
    9: "FAILED_PRECONDITION",
    10: "ABORTED",
    11: "OUT_OF_RANGE",
    12: "UNIMPLEMENTED",
    13: "INTERNAL",
    14: "UNAVAILABLE",
    15: "DATA_LOSS",
    16: "UNAUTHENTICATED",
    99: "UNKNOWN",
}


@pytest.mark.parametrize("code", CODES)
def test_an_operation_error_that_stays_is_a_typed_error_with_the_services_words(
    project: Project, fake: FakeFirebaseML, code: int
) -> None:
    project.push(1)
    fake.operation_errors = [(code, f"reason number {code}")] * 20
    with pytest.raises(PushError, match=f"{CODES[code]}: reason number {code}") as raised:
        project.follow()
    assert type(raised.value) is not PushError
    assert project.served is None
    if code in (7, 12, 16):
        assert len(fake.mutations) == 1
    if code in (7, 16):
        assert "roles/firebaseml.admin" in str(raised.value)


@pytest.mark.parametrize("code", [code for code in CODES if code not in (7, 12, 16)])
def test_an_operation_error_that_passes_is_tried_again(project: Project, fake: FakeFirebaseML, code: int) -> None:
    data = project.push(1)
    fake.operation_errors = [(code, "not now")] * 2
    project.follow()
    assert project.served == data


@pytest.mark.parametrize("code", [NOT_FOUND, ALREADY_EXISTS, FAILED_PRECONDITION])
def test_publishing_that_is_refused_once(project: Project, fake: FakeFirebaseML, code: int) -> None:
    data = project.push(1)
    fake.before(3, lambda: fake.operation_errors.append((code, "not now")))
    project.follow()
    assert project.served == data


@pytest.mark.parametrize("method", ["models.list", "models.create", "models.get", "models.patch", "operations.get"])
def test_permission_denied_at_each_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    with FakeFirebaseML(polls=2) as fake:
        use_fake(monkeypatch, fake)
        project = Project(tmp_path, fake)
        data = project.push(1)
        fake.forbidden = {method}
        with pytest.raises(DestinationUnavailableError, match=r"PERMISSION_DENIED.*roles/firebaseml.admin on"):
            project.follow()
        assert project.served is None
        fake.forbidden = set()
        project.follow()
        assert project.served == data


def test_a_project_that_is_not_ours(project: Project) -> None:
    project.push(1)
    follower = project.follower()
    follower.client._parent = "projects/somebody-elses"
    with pytest.raises(DestinationUnavailableError, match="PERMISSION_DENIED"):
        follower.check(MODEL, CHANNEL, 100)


def test_the_size_limit_is_checked_before_anything_is_sent(project: Project, fake: FakeFirebaseML) -> None:
    data = project.push(1)
    follower = project.follower(max_model_bytes=len(data) - 1)
    with pytest.raises(ModelTooLargeError, match=f"takes at most {len(data) - 1}"):
        follower.check(MODEL, CHANNEL, len(data))
    with pytest.raises(ModelTooLargeError):
        follower.follow(MODEL, CHANNEL)
    assert fake.num_requests == 0


def test_bytes_that_were_altered_in_the_bucket_are_not_handed_over(project: Project, fake: FakeFirebaseML) -> None:
    project.push(1)
    project.follow()
    data = project.push(2)
    blob = project.folder / "blobs" / MODEL / f"{sha256_of(data)}.tflite"
    blob.write_bytes(data[:-1] + b"?")
    before = len(fake.mutations)
    with pytest.raises(ModelFileError, match="Do not run it"):
        project.follow()
    blob.unlink()
    with pytest.raises(ModelFileError, match="is missing"):
        project.follow()
    assert (project.served, len(fake.mutations)) == (model_bytes(1), before)


# --- what the service has got -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("unfetchable", ["operation", "validation"])
def test_an_address_that_expired_is_signed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unfetchable: Any
) -> None:
    with FakeFirebaseML(unfetchable=unfetchable, polls=1) as fake:
        use_fake(monkeypatch, fake)
        project = Project(tmp_path, fake)
        project.push(1)
        project.follow()
        data = project.push(2)
        fake.late_fetches = 2
        before = len(fake.mutations)
        project.follow()
        assert project.served == data
        sources = [request.json()["tfliteModel"]["gcsTfliteUri"] for request in fake.mutations[before : before + 3]]
        assert all("X-Goog-Signature" in source for source in sources)


@pytest.mark.parametrize("unfetchable", ["operation", "validation"])
@pytest.mark.parametrize("polls", [0, 2])
def test_an_address_that_never_works_is_an_error_without_the_signature(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unfetchable: Any, polls: int
) -> None:
    with FakeFirebaseML(unfetchable=unfetchable, polls=polls) as fake:
        use_fake(monkeypatch, fake)
        project = Project(tmp_path, fake)
        project.push(1)
        fake.late_fetches = 100
        with pytest.raises(ModelRefusedError, match="Could not fetch") as raised:
            project.follow()
        assert "storage.googleapis.com/demo-models/firebase_ml/blobs/digits/" in str(raised.value)
        assert "Signature" not in str(raised.value)
        assert project.served is None


def test_a_published_model_whose_new_file_is_not_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeFirebaseML(unfetchable="validation") as fake:
        use_fake(monkeypatch, fake)
        project = Project(tmp_path, fake)
        old = project.push(1)
        project.follow()
        assert len(project.push(2)) == len(old)  # so that sizes do not tell
        fake.late_fetches = 100
        before = len(fake.mutations)
        with pytest.raises(ModelRefusedError, match=r"Could not fetch .* It was published before; see in the console"):
            project.follow()
        assert acts(fake)[before:] == ["PATCH"] * 5
        assert all(request.query == {} for request in fake.mutations[before:])
        fake.late_fetches = 0
        project.follow()
        assert project.served == model_bytes(2)


@pytest.mark.parametrize(("encoding", "proof"), [("hex", "hash"), ("base64", "hash"), ("opaque", "bytes")])
def test_what_is_served_is_proved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: Any, proof: str) -> None:
    with FakeFirebaseML(hash_encoding=encoding) as fake:
        use_fake(monkeypatch, fake)
        project = Project(tmp_path, fake)
        data = project.push(1)
        assert project.follow().details["verified_by"] == proof
        assert project.follower().is_following(MODEL, CHANNEL)
        fake.wrong_fetches = 1
        data = project.push(2)
        before = len(fake.mutations)
        assert project.follow().details["verified_by"] == proof
        assert project.served == data
        assert acts(fake)[before:] == ["PATCH", "PATCH"]


@pytest.mark.parametrize("encoding", ["hex", "opaque"])
def test_other_bytes_that_stay_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: Any) -> None:
    with FakeFirebaseML(hash_encoding=encoding) as fake:
        use_fake(monkeypatch, fake)
        project = Project(tmp_path, fake)
        project.push(1)
        fake.wrong_fetches = 100
        with pytest.raises(ConflictError, match=r"serves other bytes as 'digits'"):
            project.follow()
        fake.wrong_fetches = 0
        project.follow()
        assert project.served == model_bytes(1)


def test_without_permission_to_download_the_size_has_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with FakeFirebaseML(hash_encoding="opaque") as fake:
        use_fake(monkeypatch, fake)
        fake.forbidden = {"models.download"}
        project = Project(tmp_path, fake)
        project.push(1)
        assert project.follow().details["verified_by"] == "size"
        assert "may not download" in caplog.text
