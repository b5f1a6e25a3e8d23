"""A rollout changes one parameter and one condition of a Remote Config template, and nothing else."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes.http_server import Fault
from tests.fakes.json_layouts import Layout, layouts, members, objects, spaces, spelt, strings, values
from tests.fakes.remote_config import MANAGED, PROJECT, RemoteConfigFake
from tfx_mobile import RemoteConfigRollout
from tfx_mobile.commands.rollout import rollout as rollout_command
from tfx_mobile.errors import ConflictError, DestinationUnavailableError, RolloutRefusedError
from tfx_mobile.google_rest import Answer, Patience, RestClient
from tfx_mobile.rollout import template
from tfx_mobile.rollout.remote_config import ENDPOINT_VARIABLE, RolloutResult, apply, current

MODEL, CHANNEL = "digits", "canary"
PARAMETER, CONDITION = "mlmodel_digits", "mobilepusher_digits_canary"
MARK = "tfx-mobile: the release channel of model digits."
PATIENCE = Patience(connect_seconds=1, read_seconds=2, total_seconds=20, first_wait_seconds=0.001)

#: What other teams have there: layout, escapes, numbers and members that only the service knows must all survive.
FOREIGN = r"""{
  "conditions": [
    {"name": "ios", "expression": "device.os == 'ios'", "tagColor": "INDIGO"},
    { "expression" : "percent('x') \u003c= 50", "name" : "half",  "priorityHint": 1.50 }
  ],
  "parameters": {
    "welcome": {"defaultValue": {"value": "Hi \/ \u00fc"}, "conditionalValues": {"ios": {"value": "Hello"}}},
    "speed": { "defaultValue": {"useInAppDefault": true}, "conditionalValues": {
       "half": {"rolloutValue": {"rolloutId": "rollout_4", "value": "1.0", "percent": 12.50}}} }
  },
  "parameterGroups": {"menu": {"parameters": {"spice": {"defaultValue": {"value": "1e3"}, "valueType": "NUMBER"}}}},
  "futureMember": [1E+2, 12345678901234567890123, {"a": -0.0}]
}
"""


def rolled(percent: float, **values: Any) -> RemoteConfigRollout:
    return RemoteConfigRollout(project_id=PROJECT, percent=percent, **values)


def do(percent: float, dry_run: bool = False, model: str = MODEL, **values: Any) -> RolloutResult:
    return apply(rolled(percent, **values), model, CHANNEL, dry_run, patience=PATIENCE)


def percent_now() -> float:
    return current(rolled(0), MODEL, CHANNEL, patience=PATIENCE).percent


@pytest.fixture
def reach(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Starts a fake that the client reaches."""
    opened: list[RemoteConfigFake] = []

    def start(text: str | None = FOREIGN, **options: Any) -> RemoteConfigFake:
        fake = RemoteConfigFake(text, **options)
        fake.__enter__()
        opened.append(fake)
        monkeypatch.setenv(ENDPOINT_VARIABLE, fake.endpoint)
        return fake

    yield start
    for fake in opened:
        fake.__exit__(None, None, None)


def ours(parameter_changes: dict[str, Any] | None = None, expression: str = "percent('digits_canary') <= 10") -> str:
    """A template with a rollout in it, altered as asked for."""
    parameter = {
        "defaultValue": {"value": '{"channel":"production"}'},
        "conditionalValues": {CONDITION: {"value": '{"channel":"canary"}'}},
        "description": MARK,
        "valueType": "JSON",
        **(parameter_changes or {}),
    }
    parameter = {key: value for key, value in parameter.items() if value is not None}
    return json.dumps(
        {"conditions": [{"name": CONDITION, "expression": expression}], "parameters": {PARAMETER: parameter}}
    )


# What is written


def test_the_first_rollout_adds_one_parameter_and_one_condition_to_the_text_that_was_read(reach: Any) -> None:
    fake = reach()
    before = fake.text
    result = do(10)
    assert (result.status, result.percent, result.version_number, result.etag) == ("changed", 10, "2", fake.etag)
    condition = f""",{{"name": "{CONDITION}", "expression": "percent('digits_canary') <= 10"}}"""
    parameter = "," + json.dumps(PARAMETER) + ":" + json.dumps(fake.template["parameters"][PARAMETER])
    put = next(request for request in fake.requests if request.method == "PUT").body.decode()
    assert put.count(condition) == put.count(parameter) == 1
    assert put.replace(condition, "").replace(parameter, "") == before
    # Behind all others: a value that somebody aimed at certain users goes first.
    assert [one["name"] for one in fake.template["conditions"]] == ["ios", "half", CONDITION]
    assert fake.template["parameters"][PARAMETER] == {
        "defaultValue": {"value": '{"channel":"production"}'},
        "conditionalValues": {CONDITION: {"value": '{"channel":"canary"}'}},
        "description": f"{MARK} Change it with 'tfx-mobile rollout'.",
        "valueType": "JSON",
    }
    assert fake.num_requests == 3


def test_a_project_without_a_template_gets_one(reach: Any) -> None:
    fake = reach(None)
    assert do(10).version_number == "1"
    assert percent_now() == 10
    assert fake.num_writes == 1


def test_from_one_percent_to_all_and_back(reach: Any) -> None:
    fake = reach()
    phones = range(2_000)

    def on_the_canary() -> set[int]:
        read = {phone: fake.what_a_phone_reads(PARAMETER, phone) for phone in phones}
        assert set(read.values()) <= {'{"channel":"production"}', '{"channel":"canary"}'}
        return {phone for phone, value in read.items() if value == '{"channel":"canary"}'}

    reached: set[int] = set()
    for percent in (1, 10, 50, 100):
        assert do(percent).status == "changed"
        now = on_the_canary()
        assert reached <= now, "who has the new model keeps it"
        assert abs(len(now) / len(phones) - percent / 100) < 0.04
        reached = now
    assert len(reached) == len(phones)
    assert do(0).status == "changed"
    assert on_the_canary() == set()
    assert CONDITION not in fake.text
    assert [line for line in FOREIGN.strip().splitlines() if line not in fake.text] == []


def test_again_is_unchanged_and_writes_nothing(reach: Any) -> None:
    fake = reach()
    do(10)
    before = fake.num_requests
    result = do(10.0)
    assert (result.status, result.percent, result.version_number, fake.num_requests - before) == (
        "unchanged",
        10,
        "2",
        1,
    )
    assert fake.version == 2


def test_another_stable_channel_and_another_seed_are_changes(reach: Any) -> None:
    fake = reach()
    do(10)
    assert do(10, stable_channel="stable").status == "changed"
    assert fake.template["parameters"][PARAMETER]["defaultValue"] == {"value": '{"channel":"stable"}'}
    assert do(10, stable_channel="stable", seed="again").status == "changed"
    assert fake.template["conditions"][-1]["expression"] == "percent('again') <= 10"
    assert fake.num_writes == 3


def test_two_models_and_two_channels_do_not_touch_each_other(reach: Any) -> None:
    fake = reach()
    do(10)
    do(20, model="faces")
    apply(rolled(30), MODEL, "beta", patience=PATIENCE)
    assert percent_now() == 10
    do(0)
    assert current(rolled(0), MODEL, "beta", patience=PATIENCE).percent == 30
    assert current(rolled(0), "faces", CHANNEL, patience=PATIENCE).percent == 20
    assert set(fake.template["parameters"][PARAMETER]["conditionalValues"]) == {"mobilepusher_digits_beta"}


def test_a_parameter_that_was_moved_to_a_group_is_changed_there(reach: Any) -> None:
    fake = reach()
    do(10)

    def move(published: Any) -> None:
        published["parameterGroups"]["models"] = {"parameters": {PARAMETER: published["parameters"].pop(PARAMETER)}}

    fake.edit(move)
    do(50)
    assert PARAMETER not in fake.template["parameters"]
    assert percent_now() == 50
    do(0)
    assert fake.template["parameterGroups"]["models"]["parameters"][PARAMETER]["conditionalValues"] == {}


def test_what_people_aimed_at_their_testers_on_our_parameter_stays_and_goes_first(reach: Any) -> None:
    fake = reach()
    do(1)
    fake.edit(
        lambda published: published["parameters"][PARAMETER]["conditionalValues"].update(
            ios={"value": '{"channel":"nightly"}'}
        )
    )
    do(50)
    do(0)
    assert fake.template["parameters"][PARAMETER]["conditionalValues"] == {"ios": {"value": '{"channel":"nightly"}'}}


def test_a_condition_that_others_ask_too_outlives_the_rollout(reach: Any) -> None:
    fake = reach()
    do(10)
    fake.edit(
        lambda published: published["parameters"]["welcome"]["conditionalValues"].update({CONDITION: {"value": "new"}})
    )
    assert do(0).status == "changed"
    assert percent_now() == 0
    assert fake.template["conditions"][-1]["name"] == CONDITION
    assert do(0).status == "unchanged"
    assert do(5).status == "changed"
    assert percent_now() == 5


def test_names_and_shares_can_be_chosen(reach: Any) -> None:
    fake = reach()
    chosen = {"parameter": "which_model", "condition": "A Test!", "seed": "s"}
    do(0.000001, **chosen)
    assert fake.template["conditions"][-1] == {"name": "A Test!", "expression": "percent('s') <= 0.000001"}
    assert "which_model" in fake.template["parameters"]
    do(33.3, **chosen)
    assert fake.template["conditions"][-1]["expression"] == "percent('s') <= 33.3"


# Byte for byte, whatever the layout


@st.composite
def strangers(draw: st.DrawFn, prefix: str, inner: st.SearchStrategy[str]) -> list[str]:
    """Members with names of their own."""
    contents = draw(st.lists(inner, max_size=2))
    return [draw(members(f"{prefix}{number}", content)) for number, content in enumerate(contents)]


@st.composite
def some_condition(draw: st.DrawFn) -> str:
    extra = draw(strangers("extra", values))
    items = [*extra, draw(members("name", draw(spelt("stranger")))), draw(members("expression", draw(strings())))]
    return "{" + str(draw(layouts(draw(st.permutations(items))))) + "}"


@st.composite
def templates_without_a_rollout(draw: st.DrawFn) -> tuple[str, Layout, str, Layout, str]:
    """Text before, inside of the conditions, text between, inside of the parameters, text behind."""
    conditions = draw(layouts(draw(st.lists(some_condition(), max_size=3))))
    parameters = draw(layouts(draw(strangers("p", objects(values)))))
    before = "{" + "".join(f"{one}{draw(spaces)}," for one in draw(strangers("x", values)))
    between = "]" + draw(spaces) + "".join(f",{one}{draw(spaces)}" for one in draw(strangers("y", values))) + ","
    after = "}" + "".join(f"{draw(spaces)},{one}" for one in draw(strangers("z", values))) + draw(spaces) + "}"
    return (
        draw(spaces) + before + draw(members("conditions", "[")),
        conditions,
        between + draw(spaces) + draw(members("parameters", "{")),
        parameters,
        after + draw(spaces),
    )


@settings(deadline=None, max_examples=50)
@given(templates_without_a_rollout())
def test_a_new_rollout_leaves_every_byte_of_any_template(pieces: tuple[str, Layout, str, Layout, str]) -> None:
    before, conditions, between, parameters, after = pieces
    text = before + str(conditions) + between + str(parameters) + after
    new = template.changed(text, rolled(10).aim(MODEL, CHANNEL))
    written = json.loads(new)
    expected = (
        before
        + conditions.with_added(json.dumps(written["conditions"][-1]))
        + between
        + parameters.with_added(json.dumps(PARAMETER) + ":" + json.dumps(written["parameters"][PARAMETER]))
        + after
    )
    assert new == expected
    assert template.changed(new, rolled(10).aim(MODEL, CHANNEL)) == new


@st.composite
def templates_with_a_rollout(draw: st.DrawFn) -> tuple[str, str, str, str]:
    """Text before the expression, between it and the default, between that and our value, and behind."""
    hole = "<hole>"
    condition = [
        *draw(strangers("extra", values)),
        draw(members("name", draw(spelt(CONDITION)))),
        draw(members("expression", hole)),
    ]
    ours = "{" + str(draw(layouts(condition))) + "}"
    conditions = [*draw(st.lists(some_condition(), max_size=2)), ours, *draw(st.lists(some_condition(), max_size=1))]
    default = "{" + str(draw(layouts([draw(members("value", hole))]))) + "}"
    value = "{" + str(draw(layouts([draw(members("value", hole))]))) + "}"
    conditional = [*draw(strangers("c", objects(values))), draw(members(CONDITION, value))]
    parameter = [
        *draw(strangers("extra", values)),
        draw(members("description", draw(spelt(f"Ours. {MARK}")))),
        draw(members("defaultValue", default)),
        draw(members("conditionalValues", "{" + str(draw(layouts(conditional))) + "}")),
        *draw(strangers("more", values)),
    ]
    parameters = [
        *draw(strangers("p", objects(values))),
        draw(members(PARAMETER, "{" + str(draw(layouts(parameter))) + "}")),
        *draw(strangers("q", objects(values))),
    ]
    home = draw(members("parameters", "{" + str(draw(layouts(parameters))) + "}"))
    if draw(st.booleans()):
        group = "{" + str(draw(layouts([*draw(strangers("g", values)), home]))) + "}"
        home = draw(members("parameterGroups", "{" + str(draw(layouts([draw(members("models", group))]))) + "}"))
    top = [
        *draw(strangers("x", values)),
        draw(members("conditions", "[" + str(draw(layouts(conditions))) + "]")),
        home,
        *draw(strangers("y", values)),
    ]
    pieces = (draw(spaces) + "{" + str(draw(layouts(top))) + "}" + draw(spaces)).split(hole)
    return (pieces[0], pieces[1], pieces[2], pieces[3])


@settings(deadline=None, max_examples=50)
@given(templates_with_a_rollout(), st.sampled_from(["<=", " <= ", "  <=  "]))
def test_a_changed_rollout_changes_three_values_of_any_template(pieces: tuple[str, ...], operator: str) -> None:
    def text(*inside: str) -> str:
        return "".join(piece + json.dumps(value) for piece, value in zip(pieces, inside, strict=False)) + pieces[-1]

    old = text(f"percent('digits_canary'){operator}10", '{"channel": "production"}', '{ "channel":"canary" }')
    assert template.changed(old, rolled(10).aim(MODEL, CHANNEL)) == old
    aim = rolled(50, stable_channel="stable").aim(MODEL, CHANNEL)
    expected = text("percent('digits_canary') <= 50", '{"channel":"stable"}', '{ "channel":"canary" }')
    assert template.changed(old, aim) == expected
    other = text(f"percent('digits_canary'){operator}10", '{"channel": "production"}', '{"channel":"beta"}')
    expected = text(f"percent('digits_canary'){operator}10", '{"channel": "production"}', '{"channel":"canary"}')
    assert template.changed(other, rolled(10).aim(MODEL, CHANNEL)) == expected


class Members(list[Any]):
    """The members of an object, in order."""


def spelling(text: str) -> Any:
    """A parsed text that still tells the order of members and how numbers were spelt."""
    return json.loads(text, object_pairs_hook=Members, parse_int=str, parse_float=str)


def without_ours(value: Any) -> Any:
    if isinstance(value, Members):
        return Members((key, without_ours(part)) for key, part in value if key != CONDITION)
    if isinstance(value, list):
        return [without_ours(part) for part in value if not (isinstance(part, Members) and ("name", CONDITION) in part)]
    return value


@settings(deadline=None, max_examples=50)
@given(templates_with_a_rollout())
def test_a_rollout_that_ends_takes_away_its_own_value_and_condition_only(pieces: tuple[str, ...]) -> None:
    inside = ("percent('s')<=10", '{"channel":"production"}', '{"channel":"canary"}')
    old = "".join(piece + json.dumps(value) for piece, value in zip(pieces, inside, strict=False)) + pieces[-1]
    new = template.changed(old, rolled(0).aim(MODEL, CHANNEL))
    assert spelling(new) == without_ours(spelling(old)) != spelling(old)
    assert template.changed(new, rolled(0).aim(MODEL, CHANNEL)) == new


# What is refused


def managed_values() -> list[Any]:
    return [pytest.param({kind: {"rolloutId": "1", "variantValue": []}}, id=kind) for kind in MANAGED]


@pytest.mark.parametrize("value", managed_values())
@pytest.mark.parametrize("where", ["default", "ours", "another condition", "in a group", "deep inside"])
def test_a_parameter_that_firebase_manages_is_never_written(reach: Any, value: dict[str, Any], where: str) -> None:
    text = json.loads(ours())
    parameter = text["parameters"][PARAMETER]
    text["conditions"].append({"name": "ios", "expression": "device.os == 'ios'"})
    if where == "default":
        parameter["defaultValue"] = value
    elif where == "ours":
        parameter["conditionalValues"][CONDITION] = value
    elif where == "deep inside":
        parameter["future"] = [{"kind": value}]
    else:
        parameter["conditionalValues"]["ios"] = value
        if where == "in a group":
            text["parameterGroups"] = {"models": {"parameters": text.pop("parameters")}}
    fake = reach(json.dumps(text))
    for percent in (50, 10, 0):
        with pytest.raises(
            RolloutRefusedError, match=f"'mlmodel_digits' carries a {next(iter(value))}.*Nothing was written"
        ):
            do(percent)
    with pytest.raises(RolloutRefusedError, match="End it in the Firebase console"):
        current(rolled(0), MODEL, CHANNEL, patience=PATIENCE)
    assert fake.mutations == []


@pytest.mark.parametrize("value", managed_values())
def test_a_condition_that_a_running_experiment_asks_is_never_written(reach: Any, value: dict[str, Any]) -> None:
    text = json.loads(ours())
    text["parameters"]["welcome"] = {"defaultValue": {"value": ""}, "conditionalValues": {CONDITION: value}}
    fake = reach(json.dumps(text))
    with pytest.raises(RolloutRefusedError, match=r"also asked by .* RemoteConfigRollout\(condition=...\)"):
        do(50)
    assert fake.mutations == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"description": None}, "does not say 'tfx-mobile: the release channel of model digits.'"),
        ({"description": "Which model the app uses"}, "does not say"),
        ({"description": MARK.replace("digits", "digits2")}, "does not say"),
        ({"defaultValue": {"value": "production"}}, "default value that is not of the form"),
        ({"defaultValue": {"value": '{"channel":"production","more":1}'}}, "default value that is not of the form"),
        ({"defaultValue": {"value": '["production"]'}}, "default value that is not of the form"),
        ({"defaultValue": {"value": '{"channel":1}'}}, "default value that is not of the form"),
        ({"defaultValue": {"useInAppDefault": True}}, "default value that is not of the form"),
        ({"defaultValue": {"value": '{"channel":"production"}', "more": 1}}, "default value that is not of the form"),
        ({"defaultValue": None}, "default value that is not of the form"),
        ({"conditionalValues": {CONDITION: {"value": "on"}}}, f"value for '{CONDITION}' that is not of the form"),
    ],
)
def test_a_parameter_that_is_not_ours_is_never_written(reach: Any, changes: dict[str, Any], message: str) -> None:
    fake = reach(ours({"valueType": "STRING", **changes}))
    for percent in (50, 0):
        with pytest.raises(RolloutRefusedError, match=message) as raised:
            do(percent)
    assert "rename it or delete it in the Firebase console, or set RemoteConfigRollout(parameter=...)" in str(
        raised.value
    )
    assert fake.mutations == []


@pytest.mark.parametrize(
    "expression",
    [
        "device.os == 'ios'",
        "percent('digits_canary') <= 10 && device.os == 'ios'",
        "percent <= 10",
        "percent('s') between 1 and 5",
    ],
)
def test_a_condition_that_is_more_than_a_percentage_is_never_written(reach: Any, expression: str) -> None:
    fake = reach(ours(expression=expression))
    for percent in (50, 0):
        with pytest.raises(RolloutRefusedError, match=r"condition 'mobilepusher_digits_canary' is there and is not"):
            do(percent)
    assert fake.mutations == []


@pytest.mark.parametrize("addition", [{"rolloutValue": {}}, None], ids=["managed", "twice"])
def test_a_condition_that_is_managed_or_there_twice_is_refused(addition: dict[str, Any] | None) -> None:
    text = json.loads(ours())
    text["conditions"][0].update(addition or {})
    text["conditions"] += [] if addition else text["conditions"]
    with pytest.raises(RolloutRefusedError, match="condition 'mobilepusher_digits_canary' is there and is not"):
        template.changed(json.dumps(text), rolled(50).aim(MODEL, CHANNEL))


def test_a_parameter_in_two_places_is_refused() -> None:
    text = json.loads(ours())
    text["parameterGroups"] = {"models": {"parameters": text["parameters"]}}
    with pytest.raises(RolloutRefusedError, match="more than once"):
        template.changed(json.dumps(text), rolled(50).aim(MODEL, CHANNEL))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"parameters": []}',
        '{"parameters": {"a": 1}}',
        '{"conditions": {}}',
        '{"conditions": [1]}',
        '{"parameterGroups": {"a": {"parameters": 1}}}',
        '{"parameters": {"a": {"conditionalValues": []}}}',
        '{"conditions": [], "conditions": []}',
        "[" * 100_000,
    ],
)
def test_what_is_no_template_is_left_alone(text: str) -> None:
    with pytest.raises(DestinationUnavailableError, match=r"not a Remote Config template.*Nothing was written"):
        template.changed(text, rolled(50).aim(MODEL, CHANNEL))


@pytest.mark.parametrize(
    ("limit", "what"),
    [
        (
            {"parameters": {f"p{number}": {"defaultValue": {"value": ""}} for number in range(3_000)}},
            "3,001 parameters",
        ),
        (
            {"conditions": [{"name": f"c{number}", "expression": "true"} for number in range(2_000)]},
            "2,001 conditions",
        ),
        ({"parameters": {"p": {"defaultValue": {"value": "x" * 999_990}}}}, "1,000,034 characters of values"),
    ],
)
def test_limits_are_checked_before_anything_is_sent(reach: Any, limit: dict[str, Any], what: str) -> None:
    fake = reach(json.dumps(limit))
    for dry_run in (False, True):
        with pytest.raises(RolloutRefusedError, match=f"would have {what}.*Nothing was written"):
            do(10, dry_run)
    assert fake.mutations == []


def test_what_only_the_service_knows_to_be_invalid_is_refused_with_its_words(reach: Any) -> None:
    fake = reach(max_conditions=2)
    for dry_run in (False, True):
        with pytest.raises(RolloutRefusedError, match=r"does not accept .*VALIDATION_ERROR.*limit of 2"):
            do(10, dry_run)
    assert fake.version == 1


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, "cloudconfig.configs.update"),
        (403, "a role with cloudconfig.configs.get and"),
        (404, "There is no Remote Config of project 'my-project'.*that Firebase was added to"),
        (418, "answered 418"),
    ],
)
@pytest.mark.parametrize("request_number", [0, 1, 2])
def test_no_access(reach: Any, status: int, message: str, request_number: int) -> None:
    fake = reach()
    fake.fail(request_number, Fault("status", status=status))
    with pytest.raises(DestinationUnavailableError, match=message) as raised:
        do(10)
    assert "injected by the test" in str(raised.value)
    assert fake.version == (2 if request_number == 2 else 1)
    assert do(10).status == ("unchanged" if request_number == 2 else "changed")


def test_a_project_that_does_not_exist(reach: Any) -> None:
    reach()
    with pytest.raises(DestinationUnavailableError, match="no Remote Config of project 'another'"):
        apply(RemoteConfigRollout(project_id="another", percent=1), MODEL, CHANNEL, patience=PATIENCE)


def test_without_an_etag_nothing_is_written(reach: Any) -> None:
    fake = reach(gives_etag=False)
    with pytest.raises(DestinationUnavailableError, match="without an ETag"):
        do(10)
    assert fake.mutations == []


def test_only_the_loopback_interface_can_stand_in_for_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENDPOINT_VARIABLE, "http://192.0.2.1:80")
    with pytest.raises(ValueError, match="not on the loopback interface"):
        do(10)


def test_names_are_checked_before_anything_is_read(reach: Any) -> None:
    fake = reach()
    with pytest.raises(ValueError, match="is the stable channel"):
        apply(rolled(10), MODEL, "production")
    assert fake.num_requests == 0


# A dry run


@pytest.mark.parametrize(("before", "percent"), [(None, 10), (10, 50), (10, 0), (10, 100)])
def test_a_dry_run_has_the_service_check_and_changes_nothing(reach: Any, before: float | None, percent: float) -> None:
    fake = reach()
    if before is not None:
        do(before)
    text, written, first = fake.text, fake.num_writes, fake.num_requests
    result = do(percent, dry_run=True)
    assert (result.status, result.would_be, result.percent) == ("dry_run", "changed", percent)
    assert (fake.text, fake.num_writes, fake.num_validations) == (text, written, 1)
    assert fake.num_requests - first == 2
    assert do(percent).status == "changed"


def test_a_dry_run_of_what_is_there_already_reads_only(reach: Any) -> None:
    fake = reach()
    do(10)
    before = fake.num_requests
    assert (do(10, dry_run=True).would_be, fake.num_requests - before) == ("unchanged", 1)


# Others at the same time


@pytest.mark.parametrize("mismatch_status", [409, 412])
def test_what_others_publish_in_between_is_kept(reach: Any, mismatch_status: int) -> None:
    fake = reach(mismatch_status=mismatch_status)

    def rival(number: int) -> Any:
        return lambda: fake.edit(
            lambda published: published["parameters"].update(
                {f"rival_{number}": {"defaultValue": {"value": str(number)}}}
            )
        )

    fake.after_each_get(*(rival(number) for number in range(12)))
    assert do(10).status == "changed"
    assert percent_now() == 10
    assert all(
        fake.template["parameters"][f"rival_{number}"]["defaultValue"]["value"] == str(number) for number in range(12)
    )
    assert (fake.num_writes, fake.version) == (13, 14)


@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize("mismatch_status", [409, 412])
def test_a_storm_that_does_not_end_is_given_up(reach: Any, mismatch_status: int, dry_run: bool) -> None:
    fake = reach(mismatch_status=mismatch_status)
    fake.after_each_get(*[lambda: fake.edit(lambda published: published.update(storm=fake.version))] * 100)
    with pytest.raises(ConflictError, match=r"Others published .* Nothing of theirs is lost"):
        do(10, dry_run)
    assert PARAMETER not in fake.text
    assert len(fake.mutations) == 30


def test_a_rival_of_the_same_mind_makes_it_unchanged(reach: Any) -> None:
    fake = reach()
    fake.before(1, lambda: fake.edit(lambda published: published.update(json.loads(ours()))))
    assert do(10).status == "unchanged"


def publish_percent(fake: RemoteConfigFake, percent: float) -> Callable[[], None]:
    return lambda: fake.edit(
        lambda published: published["conditions"][-1].update(expression=f"percent('digits_canary') <= {percent}")
    )


def test_what_somebody_else_decides_on_the_rollout_meanwhile_is_left_as_it_is(reach: Any) -> None:
    fake = reach()
    do(1)
    fake.before(fake.num_requests + 1, publish_percent(fake, 5))
    with pytest.raises(
        ConflictError, match=r"While 50 % .* now says 5 %, .* 'production', in version 3. That was left"
    ):
        do(50)
    assert percent_now() == 5
    assert do(50).status == "changed"


def test_another_seed_of_somebody_else_is_left_as_it_is(reach: Any) -> None:
    fake = reach()
    do(1)
    fake.before(fake.num_requests + 1, lambda: do(1, seed="theirs"))
    with pytest.raises(ConflictError, match="somebody else published"):
        do(50)
    assert current(rolled(0), MODEL, CHANNEL, patience=PATIENCE).seed == "theirs"


def test_what_is_taken_back_before_the_answer_arrives_stays_taken_back(reach: Any) -> None:
    fake = reach()
    do(1)
    fake.fail(fake.num_requests + 1, Fault("reset", after=True))
    fake.before(fake.num_requests + 2, publish_percent(fake, 1))
    with pytest.raises(ConflictError, match="now says 1 %"):
        do(50)
    assert (fake.version, percent_now()) == (4, 1)


def test_two_channels_that_start_at_once_both_do(reach: Any) -> None:
    fake = reach()
    fake.before(1, lambda: apply(rolled(5), MODEL, "beta", patience=PATIENCE))
    assert do(10).status == "changed"
    assert percent_now() == 10
    assert current(rolled(0), MODEL, "beta", patience=PATIENCE).percent == 5


def test_eight_at_once_write_once(reach: Any) -> None:
    fake = reach()
    barrier = threading.Barrier(8)

    def one(_: int) -> str:
        barrier.wait()
        return do(10).status

    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(one, range(8)))
    assert sorted(statuses) == ["changed", *["unchanged"] * 7]
    assert fake.version == 2


def test_eight_models_at_once_are_all_there(reach: Any) -> None:
    fake = reach()
    barrier = threading.Barrier(8)

    def one(number: int) -> str:
        barrier.wait()
        return do(number + 1, model=f"model{number}").status

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(one, range(8))) == ["changed"] * 8
    assert fake.version == 9
    for number in range(8):
        assert current(rolled(0), f"model{number}", CHANNEL, patience=PATIENCE).percent == number + 1


def test_who_is_overruled_right_away_is_told(reach: Any) -> None:
    fake = reach()
    fake.before(
        2, lambda: fake.edit(lambda published: published["conditions"][-1].update(expression="percent('s') <= 7"))
    )
    with pytest.raises(ConflictError, match=r"accepted that 10 % .* now shows 7 % in version 3: somebody published"):
        do(10)


class ForgetfulFake(RemoteConfigFake):
    """Says yes to everything and keeps nothing."""

    def _publish(self, text: str) -> None:
        super()._publish(self.text if self.version else text)


class MeddlingFake(RemoteConfigFake):
    """Changes something else on the way."""

    def _publish(self, text: str) -> None:
        super()._publish(text.replace("Hello", "") if self.version else text)


def test_a_service_that_keeps_nothing_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    with ForgetfulFake(FOREIGN) as fake:
        monkeypatch.setenv(ENDPOINT_VARIABLE, fake.endpoint)
        with pytest.raises(ConflictError, match=r"accepted that 10 % .* shows 0 % .* the service does not keep it"):
            do(10)


def test_a_service_that_changes_something_else_is_told_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with RemoteConfigFake(FOREIGN) as fake:
        monkeypatch.setenv(ENDPOINT_VARIABLE, fake.endpoint)
        do(10)
        do(0)
    assert "differs from the one before" not in caplog.text
    with MeddlingFake(FOREIGN) as fake:
        monkeypatch.setenv(ENDPOINT_VARIABLE, fake.endpoint)
        assert do(10).status == "changed"
    assert "Remote Config version 2 differs from the one before in more than parameter 'mlmodel_digits'" in caplog.text


# What is asked for


def test_requests_say_what_they_have_to(reach: Any) -> None:
    fake = reach()
    do(10, dry_run=True)
    do(10)
    assert [(request.method, request.query, request.headers.get("if-match")) for request in fake.requests] == [
        ("GET", {}, None),
        ("PUT", {"validateOnly": "true"}, "etag-1234-1"),
        ("GET", {}, None),
        ("PUT", {}, "etag-1234-1"),
        ("GET", {}, None),
    ]
    assert {request.headers["accept-encoding"] for request in fake.requests} == {"gzip"}
    assert {request.path for request in fake.requests} == {f"/v1/projects/{PROJECT}/remoteConfig"}
    assert all("authorization" not in request.headers for request in fake.requests)


def test_the_state_is_told(reach: Any) -> None:
    reach()
    state = current(rolled(0), MODEL, CHANNEL, patience=PATIENCE)
    assert (state.percent, state.stable_channel, state.seed, state.version_number) == (0, None, None, "1")
    do(12.5, seed="s")
    state = current(rolled(0), MODEL, CHANNEL, patience=PATIENCE)
    assert (state.percent, state.stable_channel, state.seed, state.version_number) == (12.5, "production", "s", "2")


# The fake


def send(method: str, path: str, text: str | None = None, **headers: str) -> Answer:
    client = RestClient("http://127.0.0.1:1", ENDPOINT_VARIABLE, (), PATIENCE)
    body = None if text is None else text.encode()
    return client.call(method, f"/v1/projects/{PROJECT}/{path}", body=body, headers=headers)


def put(text: str, etag: str) -> int:
    return send("PUT", "remoteConfig", text, **{"If-Match": etag}).status


def overwrite_a_running_rollout(fake: RemoteConfigFake) -> None:
    emptied = json.loads(FOREIGN)
    emptied["parameters"]["speed"]["conditionalValues"]["half"] = {"value": ""}
    assert put(json.dumps(emptied), fake.etag) == 200


@pytest.mark.parametrize(
    ("crime", "violation"),
    [
        (lambda fake: put(FOREIGN, "*"), r"If-Match: \* was sent"),
        (lambda fake: send("POST", "remoteConfig:rollback", "{}"), ":rollback was called"),
        (overwrite_a_running_rollout, r"speed.*rolloutValue.* was written over"),
    ],
)
def test_the_fake_does_not_let_pass_what_must_not_happen(
    monkeypatch: pytest.MonkeyPatch, crime: Callable[[RemoteConfigFake], object], violation: str
) -> None:
    def commit() -> None:
        with RemoteConfigFake(FOREIGN) as fake:
            monkeypatch.setenv(ENDPOINT_VARIABLE, fake.endpoint)
            crime(fake)

    with pytest.raises(AssertionError, match=violation):
        commit()


def test_the_fake_publishes_by_etag_and_validates(monkeypatch: pytest.MonkeyPatch) -> None:
    with RemoteConfigFake(FOREIGN, mismatch_status=409) as fake:
        monkeypatch.setenv(ENDPOINT_VARIABLE, fake.endpoint)
        assert send("PUT", "remoteConfig", FOREIGN).status == 409
        assert put(FOREIGN, "etag-1234-7") == 409
        for broken in (
            FOREIGN.replace("device.os ==", "device.os ~"),
            FOREIGN.replace('"ios": {"value"', '"android": {"value"'),
            FOREIGN.replace("c= 50", "c= 0"),
            FOREIGN.replace('{"useInAppDefault": true}', '{"useInAppDefault": true, "value": ""}'),
            FOREIGN.replace('"spice"', '"speed"'),
            FOREIGN.replace('{"value": "1e3"}', '{"value": 1000}'),
            FOREIGN.replace('"welcome"', '"wel-come"'),
            FOREIGN.replace('"futureMember"', '"conditions"'),
        ):
            assert broken != FOREIGN
            assert put(broken, fake.etag) == 400
        assert put(FOREIGN, fake.etag) == 200
        assert fake.etag == "etag-1234-2"
        assert "ETag" not in send("GET", "remoteConfig", **{"Accept-Encoding": "identity"}).headers
        assert send("GET", "remoteConfigs").status == send("DELETE", "remoteConfigs").status == 404


# The command


def run(*arguments: str) -> Any:
    return CliRunner().invoke(rollout_command, ["digits", "--project", PROJECT, "--channel", "canary", *arguments])


def test_the_command_rolls_out_and_shows(reach: Any) -> None:
    fake = reach()
    assert run("--show").output == (
        "Nobody set up parameter mlmodel_digits yet: every app follows the channel it was built with.\n"
    )
    dry = run("--percent", "10", "--dry-run").output
    assert dry.startswith(
        "dry_run: checked by the service, nothing was written. It would be: 10 % of the users follow canary"
    )
    assert fake.version == 1
    done = "10 % of the users follow canary, all others production (parameter mlmodel_digits, template version 2)"
    assert run("--percent", "10").output == f"changed: {done}.\n"
    assert run("--percent", "10").output == f"unchanged: {done}.\n"
    assert run("--percent", "10", "--dry-run").output == f"dry_run: nothing to change, {done}.\n"
    assert run("--show").output == f"{done}.\n"
    assert run("--percent", "12.345678").output.startswith("changed: 12.345678 % of the users")
    assert run("--percent", "0").output.startswith("changed: 0 % of the users")


def test_the_command_speaks_json(reach: Any) -> None:
    reach()
    result = json.loads(run("--percent", "25", "--stable-channel", "stable", "--seed", "s", "--json").output)
    assert (result["status"], result["percent"], result["stable_channel"]) == ("changed", 25, "stable")
    state = json.loads(run("--show", "--json").output)
    assert (state["percent"], state["stable_channel"], state["seed"]) == (25, "stable", "s")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Give either --percent N, to change it, or --show"),
        (["--percent", "1", "--show"], "Give either"),
        (["--show", "--dry-run"], "leave out --dry-run"),
        (["--percent", "101"], "give a number from 0 to 100"),
        (["--percent", "1", "--stable-channel", "canary"], "is the stable channel"),
        (["--percent", "1", "--parameter", "a-b"], "use 1 to 256 letters"),
        (["--percent", "1", "--condition", "a|b"], "use 1 to 100 letters"),
    ],
)
def test_the_command_refuses_nonsense_without_a_request(reach: Any, arguments: list[str], message: str) -> None:
    fake = reach()
    result = run(*arguments)
    assert (result.exit_code, message in " ".join(result.output.split())) == (2, True), result.output
    assert fake.num_requests == 0


def test_the_command_fails_with_the_reason(reach: Any) -> None:
    reach(ours({"description": "\x1b[31mmine"}))
    result = run("--percent", "1")
    assert (
        result.exit_code,
        result.output.startswith("Error: Remote Config parameter 'mlmodel_digits' does not say"),
    ) == (
        1,
        True,
    )
    reach(ours(expression="device.os == '\x1b[31mios'"))
    assert "\x1b" not in run("--show").output
