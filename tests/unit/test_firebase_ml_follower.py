"""Firebase ML is brought to what the channel names, whatever state it is in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.firebase_ml import PROJECT, FakeFirebaseML
from tests.fakes.firebase_project import Project, acts, use_fake
from tests.fakes.http_server import Fault
from tests.fakes.releases import CHANNEL, MODEL, model_bytes
from tfx_mobile.errors import (
    ConflictError,
    ShutDownError,
)
from tfx_mobile.records import sha256_of
from tfx_mobile.release_store.firebase_ml.naming import channel_tag, display_name_of, file_tag


@pytest.fixture
def fake() -> Iterator[FakeFirebaseML]:
    with FakeFirebaseML() as fake:
        yield fake
    assert fake.violations == []


@pytest.fixture
def project(tmp_path: Path, fake: FakeFirebaseML, monkeypatch: pytest.MonkeyPatch) -> Project:
    use_fake(monkeypatch, fake)
    return Project(tmp_path, fake)


# --- the ordinary course ----------------------------------------------------------------------------------------------


def test_a_first_push_is_created_verified_and_published(project: Project, fake: FakeFirebaseML) -> None:
    data = project.push(1)
    result = project.follow()
    assert (result.changed, project.served) == (True, data)
    assert acts(fake) == ["POST", "PATCH"]
    hosted = fake.by_name(MODEL)
    assert hosted is not None
    assert hosted.tags == [file_tag(sha256_of(data)), channel_tag(MODEL, CHANNEL)]
    shown = fake._shown(hosted)
    assert result.details == {
        "display_name": MODEL,
        "firebase_model_id": hosted.id,
        "firebase_model_hash": sha256_of(data),
        "firebase_etag": shown["etag"],
        "verified_by": "hash",
    }


def test_a_second_time_nothing_is_changed(project: Project, fake: FakeFirebaseML) -> None:
    project.push(1)
    first = project.follow()
    requests, mutations = fake.num_requests, len(fake.mutations)
    second = project.follow()
    assert (second.changed, second.details) == (False, first.details)
    assert fake.num_requests - requests == 1
    assert len(fake.mutations) == mutations


def test_an_update_replaces_the_file_and_keeps_what_others_wrote(project: Project, fake: FakeFirebaseML) -> None:
    project.push(1)
    project.follow()
    hosted = fake.by_name(MODEL)
    assert hosted is not None
    hosted.tags.insert(0, "theirs")
    data = project.push(2)
    assert project.follow(tags=("ours",)).changed
    assert project.served == data
    assert hosted.tags == ["theirs", "ours", file_tag(sha256_of(data)), channel_tag(MODEL, CHANNEL)]
    sent = fake.mutations[-1].json()
    assert set(sent) >= {"name", "displayName", "etag", "createTime", "state", "tfliteModel"}
    assert fake.mutations[-1].query == {}


@pytest.mark.parametrize("keeps_published", [True, False])
def test_an_update_ends_published_whatever_the_service_does_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keeps_published: bool
) -> None:
    with FakeFirebaseML(keeps_published=keeps_published, polls=2) as fake:
        use_fake(monkeypatch, fake)
        project = Project(tmp_path, fake)
        project.push(1)
        project.follow()
        data = project.push(2)
        before = len(fake.mutations)
        project.follow()
        assert project.served == data
        assert acts(fake)[before:] == ["PATCH"] * (1 if keeps_published else 2)


def test_going_back_hands_the_old_file_over_again(project: Project, fake: FakeFirebaseML) -> None:
    project.push(1)
    project.follow()
    project.push(2)
    project.follow()
    old = project.roll_back(1)
    assert project.follow().changed
    assert project.served == old


@pytest.mark.parametrize("polls", [1, 2, 5])
def test_operations_are_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, polls: int) -> None:
    with FakeFirebaseML(polls=polls) as fake:
        use_fake(monkeypatch, fake)
        project = Project(tmp_path, fake)
        data = project.push(1)
        project.follow()
        assert project.served == data
        looks = [request for request in fake.requests if "/operations/" in request.path]
        assert len(looks) == polls


def test_other_channels_have_names_of_their_own(project: Project, fake: FakeFirebaseML) -> None:
    stable, beta = project.push(1), project.push(2, "beta-1")
    project.follow()
    project.follower().follow(MODEL, "beta-1")
    assert (fake.served("digits"), fake.served("digits_beta_1")) == (stable, beta)


def test_a_display_name_of_ones_own(project: Project, fake: FakeFirebaseML) -> None:
    data = project.push(1)
    project.follow(display_name="reader")
    assert fake.served("reader") == data
    assert fake.by_name(MODEL) is None


def test_two_channels_of_one_name_do_not_overwrite_each_other(project: Project, fake: FakeFirebaseML) -> None:
    data = project.push(1)
    project.push(2, "beta")
    project.follow(display_name="digits_beta")
    with pytest.raises(ConflictError, match=r"'digits_beta' .* follows another channel than 'beta' of 'digits'"):
        project.follower().follow(MODEL, "beta")
    with pytest.raises(ConflictError, match="follows another channel"):
        project.follower().check(MODEL, "beta", 100)
    assert fake.served("digits_beta") == data


# --- the state that it finds ------------------------------------------------------------------------------------------


def test_a_model_of_that_name_is_taken_over(project: Project, fake: FakeFirebaseML) -> None:
    hosted = fake.host(MODEL, model_bytes(9), tags=("by-hand",))
    data = project.push(1)
    assert project.follow().changed
    assert (project.served, fake.by_name(MODEL), hosted.tags[0]) == (data, hosted, "by-hand")


def test_found_on_the_last_page_after_an_empty_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeFirebaseML(page_size=1) as fake:
        use_fake(monkeypatch, fake)
        fake.empty_first_page = True
        project = Project(tmp_path, fake)
        for number in range(3):
            fake.host(f"other{number}", model_bytes(number))
        hosted = fake.host(MODEL, model_bytes(9))
        client = project.follower().client
        assert [model.display_name for model in client.list_models()] == ["other0", "other1", "other2", MODEL]
        found = client.find(MODEL)
        assert found is not None
        assert found.model_id == hosted.id


def test_a_rival_creates_the_name_between_looking_and_creating(project: Project, fake: FakeFirebaseML) -> None:
    data = project.push(1)
    fake.before(1, lambda: fake.host(MODEL, model_bytes(9)))
    project.follow()
    assert project.served == data
    assert acts(fake) == ["POST", "PATCH"]


def test_a_rival_creates_the_very_same(project: Project, fake: FakeFirebaseML) -> None:
    data = project.push(1)
    own = (file_tag(sha256_of(data)), channel_tag(MODEL, CHANNEL))
    fake.before(1, lambda: fake.host(MODEL, data, tags=own))
    assert not project.follow().changed
    assert acts(fake) == ["POST"]


def test_a_creation_whose_answer_is_lost_is_not_sent_again(project: Project, fake: FakeFirebaseML) -> None:
    data = project.push(1)
    fake.fail(1, Fault("status", after=True, status=503))
    assert project.follow().changed
    assert project.served == data
    assert acts(fake) == ["POST", "PATCH"]


def test_deleted_between_looking_and_changing(project: Project, fake: FakeFirebaseML) -> None:
    project.push(1)
    project.follow()
    data = project.push(2)
    fake.before(fake.num_requests + 1, fake.models.clear)
    project.follow()
    assert project.served == data


def test_deleted_between_handing_over_and_publishing(project: Project, fake: FakeFirebaseML) -> None:
    data = project.push(1)
    fake.before(3, fake.models.clear)
    project.follow()
    assert project.served == data


def test_the_channel_moves_while_it_is_followed(project: Project, fake: FakeFirebaseML) -> None:
    project.push(1)
    fake.before(2, lambda: project.push(2))
    project.follow()
    assert project.served == model_bytes(2)


def test_a_locked_model_is_waited_for(project: Project, fake: FakeFirebaseML) -> None:
    project.push(1)
    project.follow()
    data = project.push(2)
    fake.busy(MODEL, polls=4)
    project.follow()
    assert project.served == data
    assert acts(fake) == ["POST", "PATCH", "PATCH"]


def test_a_lock_that_falls_just_before_the_change(project: Project, fake: FakeFirebaseML) -> None:
    project.push(1)
    project.follow()
    data = project.push(2)
    fake.before(fake.num_requests + 1, lambda: fake.busy(MODEL, polls=3))
    project.follow()
    assert project.served == data


def test_what_another_attempt_left_invalid_is_handed_over_again(project: Project, fake: FakeFirebaseML) -> None:
    data = project.push(1)
    hosted = fake.host(MODEL, b"no model", published=False, tags=(file_tag(sha256_of(data)),))
    assert hosted.error == "Invalid flatbuffer format"
    project.follow()
    assert project.served == data


def test_a_file_replaced_behind_our_back_is_put_right(project: Project, fake: FakeFirebaseML) -> None:
    data = project.push(1)
    project.follow()
    hosted = fake.by_name(MODEL)
    assert hosted is not None
    fake._accept(hosted, model_bytes(2), "gs://elsewhere/x.tflite")  # Firebase's SDK keeps tags when it does this
    assert not project.follower().is_following(MODEL, CHANNEL)
    assert project.follow().changed
    assert project.served == data


def test_unpublished_behind_our_back(project: Project, fake: FakeFirebaseML) -> None:
    data = project.push(1)
    project.follow()
    fake.by_name(MODEL).published = False  # type: ignore[union-attr]
    assert not project.follower().is_following(MODEL, CHANNEL)
    assert project.follow().changed
    assert project.served == data


def test_looking_changes_nothing(project: Project, fake: FakeFirebaseML) -> None:
    data = project.push(1)
    follower = project.follower()
    follower.check(MODEL, CHANNEL, len(data))
    assert not follower.is_following(MODEL, CHANNEL)
    assert fake.mutations == []
    project.follow()
    before = len(fake.mutations)
    follower.check(MODEL, CHANNEL, len(data))
    assert follower.is_following(MODEL, CHANNEL)
    project.push(2)
    assert not follower.is_following(MODEL, CHANNEL)
    fake.busy(MODEL, polls=None)
    assert not follower.is_following(MODEL, CHANNEL)
    assert len(fake.mutations) == before


# --- the end ----------------------------------------------------------------------------------------------------------


def test_on_the_last_day_it_still_works(project: Project, fake: FakeFirebaseML) -> None:
    fake.set_date(2027, 6, 15)
    data = project.push(1)
    project.follow()
    assert project.served == data


def test_after_the_last_day_nothing_is_sent(project: Project, fake: FakeFirebaseML) -> None:
    fake.set_date(2027, 6, 16)
    project.push(1)
    for act in (project.follow, lambda: project.follower().check(MODEL, CHANNEL, 100)):
        with pytest.raises(ShutDownError, match=r"ended on 2027-06-15.*CloudStorageDestination"):
            act()
    assert fake.mutations == []


def test_an_error_after_the_last_day_is_explained(project: Project, fake: FakeFirebaseML) -> None:
    fake.set_date(2027, 7, 1)
    fake.forbidden = {"models.list"}
    project.push(1)
    with pytest.raises(ShutDownError, match="403 The caller does not have permission Google shuts"):
        project.follow()


# --- names ------------------------------------------------------------------------------------------------------------


def test_display_names() -> None:
    assert display_name_of("digits", "production") == "digits"
    assert display_name_of("digits", "beta-2_x") == "digits_beta_2_x"
    assert display_name_of("d" * 32, "production") == "d" * 32
    for base, channel in (("d" * 30, "beta"), ("d" * 33, "production"), ("1digits", "production")):
        with pytest.raises(ValueError, match=r"1 to 32 letters, digits and underscores"):
            display_name_of(base, channel)


def test_the_address_names_the_project(project: Project) -> None:
    assert project.follower().address == f"firebase_ml://{PROJECT}"
