"""Changes one place of a JSON document and keeps every other byte of it.

A parsed document that is written again has lost what its text said beyond the values: the order of members, how numbers
and escapes were spelt, white space. Here the text itself is changed, and the standard library's parser only says where
a value ends. A place is a path such as `("parameters", "color", "defaultValue")` or `("conditions", 2)`.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

Path = tuple["str | int", ...]

_SPACE = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder()


@dataclass(frozen=True)
class _Item:
    """An element of an array, or a member of an object, which begins where its name begins."""

    key: str | int
    begin: int
    value_begin: int
    end: int


@dataclass(frozen=True)
class _Container:
    """An object or array; `begin` and `end` include the brackets."""

    begin: int
    end: int
    is_object: bool
    items: tuple[_Item, ...]


def put(text: str, path: Path, value: str) -> str:
    """Puts a value at a place: over the one that is there, or behind the last in an object or array that is there.

    Args:
        text: The document.
        path: Where; to put something behind the last element of an array, any index beyond it.
        value: JSON text.

    Returns:
        The new document; all of the old one but a value that was replaced is in it, unaltered and in order.

    Raises:
        ValueError: The text is not JSON, a member is there twice, or there is no object or array to put it into.
    """
    container, item = _find(text, path)
    if item is not None:
        return text[: item.value_begin] + value + text[item.end :]
    added = f"{json.dumps(path[-1])}:{value}" if container.is_object else value
    if not container.items:
        at = container.begin + 1
        return text[:at] + added + text[at:]
    at = container.items[-1].end
    return text[:at] + "," + added + text[at:]


def drop(text: str, path: Path) -> str:
    """Takes away a member or element, and the one comma and the white space that set it apart.

    Raises:
        ValueError: The text is not JSON, a member is there twice, or there is nothing at the place.
    """
    container, item = _find(text, path)
    if item is None:
        raise ValueError(f"There is nothing at {path}.")
    position = container.items.index(item)
    if position > 0:
        return text[: container.items[position - 1].end] + text[item.end :]
    if len(container.items) > 1:
        return text[: item.begin] + text[container.items[1].begin :]
    return text[: item.begin] + text[item.end :]


def _find(text: str, path: Path) -> tuple[_Container, _Item | None]:
    """The object or array that a path ends in, and what is there under the last name."""
    at = _skip_space(text, 0)
    for depth, key in enumerate(path):
        container = _read_container(text, at)
        if container.is_object != isinstance(key, str):
            raise ValueError(f"What is at {path[:depth]} has no {key!r}.")
        item = next((item for item in container.items if item.key == key), None)
        if depth == len(path) - 1:
            return container, item
        if item is None:
            raise ValueError(f"There is nothing at {path[: depth + 1]}.")
        at = item.value_begin
    raise ValueError("The path is empty.")


def _read_container(text: str, begin: int) -> _Container:
    if text[begin : begin + 1] not in ("{", "["):
        raise ValueError(f"There is no object or array at character {begin}.")
    is_object = text[begin] == "{"
    closing = "}" if is_object else "]"
    items: list[_Item] = []
    keys: set[str | int] = set()
    at = _skip_space(text, begin + 1)
    while text[at : at + 1] != closing:
        if items:
            at = _skip_space(text, _expect(text, at, ","))
        item_begin = at
        key: str | int = len(items)
        if is_object:
            name, at = _DECODER.raw_decode(text, at)
            if not isinstance(name, str) or name in keys:
                raise ValueError(f"{name!r} at character {item_begin} is no name of a member, or is there twice.")
            key = name
            at = _skip_space(text, _expect(text, _skip_space(text, at), ":"))
        keys.add(key)
        _, end = _DECODER.raw_decode(text, at)
        items.append(_Item(key, item_begin, at, end))
        at = _skip_space(text, end)
    return _Container(begin, at + 1, is_object, tuple(items))


def _expect(text: str, at: int, character: str) -> int:
    if text[at : at + 1] != character:
        raise ValueError(f"Expected {character!r} at character {at}.")
    return at + 1


def _skip_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at
