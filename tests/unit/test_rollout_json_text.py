"""Changing one place of a JSON text leaves every other byte as it was."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes.json_layouts import Layout, layouts, members, spaces, values
from tfx_mobile.rollout.json_text import drop, put

NEW = '{"ours": [1.50]}'


@dataclass(frozen=True)
class Place:
    """An object or array somewhere in a document."""

    before: str
    inside: Layout
    after: str
    path: tuple[str | int, ...]
    keys: tuple[str | int, ...]
    values: tuple[str, ...]

    @property
    def text(self) -> str:
        return self.before + str(self.inside) + self.after


@st.composite
def places(draw: st.DrawFn, min_items: int = 0) -> Place:
    contents = draw(st.lists(values, min_size=min_items, max_size=4))
    names = draw(st.lists(st.text(max_size=4), min_size=len(contents), max_size=len(contents), unique=True))
    is_object = draw(st.booleans())
    if is_object:
        items = [draw(members(name, value)) for name, value in zip(names, contents, strict=True)]
    before, after = ("{", "}") if is_object else ("[", "]")
    path: tuple[str | int, ...] = ()
    for _ in range(draw(st.integers(0, 3))):
        strangers = draw(st.lists(values, max_size=2))
        if draw(st.booleans()):
            path = (len(strangers), *path)
            before = "[" + "".join(f"{stranger}{draw(spaces)}," for stranger in strangers) + draw(spaces) + before
            after = after + draw(spaces) + draw(st.sampled_from(["", ", null"])) + "]"
        else:
            path = ("ours", *path)
            named = [draw(members(f"other {number}", stranger)) for number, stranger in enumerate(strangers)]
            before = "{" + "".join(f"{member}{draw(spaces)}," for member in named) + draw(members("ours", before))
            after = after + draw(st.sampled_from(["", ', "last": 1E+2'])) + draw(spaces) + "}"
    return Place(
        before=draw(spaces) + before,
        inside=draw(layouts(items if is_object else contents)),
        after=after + draw(spaces),
        path=path,
        keys=tuple(names) if is_object else tuple(range(len(contents))),
        values=tuple(contents),
    )


@settings(deadline=None)
@given(places())
def test_a_value_is_put_behind_the_last_and_taken_away_again(place: Place) -> None:
    is_object = place.before.endswith("{")
    path = (*place.path, "a new name" if is_object else len(place.keys))
    text = put(place.text, path, NEW)
    assert text == place.before + place.inside.with_added(f'"a new name":{NEW}' if is_object else NEW) + place.after
    assert drop(text, path) == place.text


@settings(deadline=None)
@given(places(min_items=1), st.data())
def test_a_value_is_replaced_in_place(place: Place, data: st.DataObject) -> None:
    position = data.draw(st.integers(0, len(place.keys) - 1))
    item = place.inside.items[position]
    value = place.values[position]
    begin = item.rindex(value)
    items = list(place.inside.items)
    items[position] = item[:begin] + NEW + item[begin + len(value) :]
    expected = place.before + place.inside.with_items(*items) + place.after
    assert put(place.text, (*place.path, place.keys[position]), NEW) == expected


@settings(deadline=None)
@given(places(min_items=1), st.data())
def test_what_stays_when_something_is_taken_away_is_unaltered_and_in_order(place: Place, data: st.DataObject) -> None:
    position = data.draw(st.integers(0, len(place.keys) - 1))
    text = drop(place.text, (*place.path, place.keys[position]))
    json.loads(text)
    assert text.startswith(place.before)
    assert text.endswith(place.after)
    content = text[len(place.before) : len(text) - len(place.after)]
    for at, item in enumerate(place.inside.items):
        if at != position:
            between, _, content = content.partition(item.strip(" \t\r\n"))
            assert between.strip(" \t\r\n") in ("", ",")
    assert content.strip(" \t\r\n") == ""


@pytest.mark.parametrize(
    ("text", "path", "message"),
    [
        ('{"a":1,"a":2}', ("a",), "there twice"),
        ('{"a":1,"\\u0061":2}', ("b",), "there twice"),
        ("[1]", ("a",), "has no 'a'"),
        ('{"a":1}', (0,), "has no 0"),
        ('{"a":1}', ("a", "b"), "no object or array"),
        ('{"a":1}', ("b", "c"), "nothing at"),
        ("1", ("a",), "no object or array"),
        ("", ("a",), "no object or array"),
        ('{"a" 1}', ("b",), "Expected ':'"),
        ('{"a":1 "b":2}', ("b",), "Expected ','"),
        ('{"a":1', ("b",), "Expected ','"),
        ("{1:2}", ("b",), "no name of a member"),
        ('{"a":}', ("b",), "Expecting value"),
        ("{}", (), "path is empty"),
    ],
)
def test_what_cannot_be_changed(text: str, path: tuple[str | int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        put(text, path, "1")


def test_nothing_to_take_away() -> None:
    with pytest.raises(ValueError, match="There is nothing"):
        drop('{"a":1}', ("b",))
