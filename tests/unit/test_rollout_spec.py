"""A rollout is data: validated when written down, JSON in and out."""

from __future__ import annotations

import json

import pytest

from tfx_mobile import RemoteConfigRollout
from tfx_mobile.rollout.spec import parse_rollout

ROLLOUT = RemoteConfigRollout(project_id="my-project", percent=10)


def test_the_names_follow_from_model_and_channel() -> None:
    aim = ROLLOUT.aim("digits", "canary")
    assert (aim.parameter, aim.condition) == ("mlmodel_digits", "mobilepusher_digits_canary")
    assert (aim.channel, aim.stable_channel, aim.percent) == ("canary", "production", 10)
    chosen = RemoteConfigRollout(project_id="1234", percent=1, parameter="p", condition="A Test!", seed="s").aim(
        "d", "c"
    )
    assert (chosen.parameter, chosen.condition, chosen.seed) == ("p", "A Test!", "s")


def test_seeds_are_each_models_own_and_fit() -> None:
    names = [("digits", "canary"), ("faces", "canary"), ("digits", "beta"), ("d" * 32, "c" * 32), ("d" * 32, "b" * 32)]
    seeds = {ROLLOUT.aim(*name).seed for name in names}
    assert len(seeds) == len(names)
    assert max(map(len, seeds)) <= 32
    longest = ROLLOUT.aim("d" * 32, "c" * 32)
    assert (len(longest.condition) <= 100, len(longest.parameter) <= 256) == (True, True)


def test_json_round_trip_is_canonical() -> None:
    written = ROLLOUT.to_json()
    assert written == '{"percent":10.0,"project_id":"my-project","stable_channel":"production"}'
    every = RemoteConfigRollout(
        project_id="example.com:app",
        percent="0.000001",
        stable_channel="stable",
        parameter="p",
        condition="c",
        seed="s",
    )
    for rollout in (ROLLOUT, every):
        for form in (rollout, rollout.to_json(), json.loads(rollout.to_json())):
            assert parse_rollout(form) == rollout


def test_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        ROLLOUT.percent = 20  # type: ignore[misc]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"percent": 101}, r"percent=101: give a number from 0 to 100"),
        ({"percent": -0.1}, "0 to 100"),
        ({"percent": float("nan")}, "0 to 100"),
        ({"percent": True}, "percent=True: give a number"),
        ({"percent": "half"}, "percent='half': give a number"),
        ({"percent": 0.0000001}, "at most six decimals"),
        ({"percent": None}, "give a number"),
        ({"project_id": "My Project"}, r"project_id='My Project': give the id"),
        ({"project_id": "a/b"}, "give the id"),
        ({"project_id": ""}, "give the id"),
        ({"stable_channel": "Production"}, r"stable_channel='Production': use 1 to 32 lower-case"),
        ({"parameter": "1st"}, r"parameter='1st': use 1 to 256"),
        ({"parameter": "a-b"}, "1 to 256 letters"),
        ({"parameter": "p" * 257}, "1 to 256"),
        ({"condition": "c" * 101}, "1 to 100"),
        ({"condition": " c"}, "without a space at either end"),
        ({"condition": "a|b"}, "1 to 100 letters"),
        ({"seed": "s" * 33}, "1 to 32"),
        ({"seed": "it's"}, "1 to 32 letters"),
        ({"force": True}, "force=True: .*not permitted"),
    ],
)
def test_malformed(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        RemoteConfigRollout(**{"project_id": "my-project", "percent": 10, **values})
    assert "Write RemoteConfigRollout(project_id='my-project', percent=10)." in str(raised.value)


@pytest.mark.parametrize(
    ("rollout", "message"),
    [
        ("10 %", "is not JSON"),
        ("[]", "is no rollout"),
        (10, "rollout=10 is no rollout"),
        ("{}", "project_id=.*required"),
    ],
)
def test_what_is_no_rollout(rollout: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_rollout(rollout)


@pytest.mark.parametrize(
    ("model_name", "channel", "message"),
    [
        ("digits", "production", "is the stable channel .* channel='canary', and promote"),
        ("my model", "canary", "model_name='my model' is not valid"),
        ("digits", "Canary", "channel='Canary' is not valid"),
    ],
)
def test_names_that_cannot_be_rolled_out(model_name: str, channel: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ROLLOUT.aim(model_name, channel)
