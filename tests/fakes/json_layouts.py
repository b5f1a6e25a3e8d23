"""Random JSON texts in every layout that means the same to a parser: white space, escapes, spelling of numbers."""

from __future__ import annotations

import json
from dataclasses import dataclass

from hypothesis import strategies as st

NUMBERS = ("0", "-0.0", "1.50", "1E+2", "1e-9", "12345678901234567890123", "3.141592653589793238462643", "-7")
_ESCAPES = ("\\u003c", "\\/", "\\u0041", "\\ud83d\\ude00", "\\ud800", "{", "],", "\\\\", '\\"', "")

spaces = st.sampled_from(["", "", " ", "\n  ", "\r\n", "\t"])


@st.composite
def strings(draw: st.DrawFn) -> str:
    """A string as JSON text, with characters escaped that need not be."""
    value = draw(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=6))
    written = json.dumps(value, ensure_ascii=draw(st.booleans()))[1:-1]
    return f'"{written}{draw(st.sampled_from(_ESCAPES))}"'


@st.composite
def spelt(draw: st.DrawFn, value: str) -> str:
    """One given string as JSON text, with any of its characters escaped."""
    escaped = draw(st.sets(st.integers(0, max(len(value) - 1, 0)), max_size=3))
    characters = (
        f"\\u{ord(c):04x}" if at in escaped and ord(c) < 0x10000 else json.dumps(c)[1:-1] for at, c in enumerate(value)
    )
    return f'"{"".join(characters)}"'


@dataclass(frozen=True)
class Layout:
    """The inside of an object or array: its items with the white space around them, and that at the end."""

    items: tuple[str, ...]
    end: str

    def with_added(self, item: str) -> str:
        return ",".join((*self.items, item)) + self.end

    def with_items(self, *items: str) -> str:
        return ",".join(items) + self.end

    def __str__(self) -> str:
        return self.with_items(*self.items)


@st.composite
def layouts(draw: st.DrawFn, items: list[str]) -> Layout:
    """Given items, laid out somehow."""
    laid_out = [draw(spaces) + item + draw(spaces) for item in items[:-1]] + [
        draw(spaces) + item for item in items[-1:]
    ]
    return Layout(tuple(laid_out), draw(spaces))


@st.composite
def members(draw: st.DrawFn, key: str, value: str) -> str:
    """A member of an object."""
    return draw(spelt(key)) + draw(spaces) + ":" + draw(spaces) + value


@st.composite
def objects(draw: st.DrawFn, inner: st.SearchStrategy[str]) -> str:
    """An object as JSON text, without a name that is there twice."""
    named = {json.loads(written): written for written in draw(st.lists(strings(), max_size=3))}
    items = [written + draw(spaces) + ":" + draw(spaces) + draw(inner) for written in named.values()]
    return "{" + str(draw(layouts(items))) + "}"


@st.composite
def arrays(draw: st.DrawFn, inner: st.SearchStrategy[str]) -> str:
    """An array as JSON text."""
    return "[" + str(draw(layouts(draw(st.lists(inner, max_size=3))))) + "]"


values: st.SearchStrategy[str] = st.recursive(
    st.one_of(st.sampled_from((*NUMBERS, "true", "false", "null")), strings()),
    lambda inner: st.one_of(objects(inner), arrays(inner)),
    max_leaves=6,
)
