"""Numbers and names for people."""

from __future__ import annotations

import re
from collections.abc import Sequence

import markupsafe

MINUS = "\N{MINUS SIGN}"
NOT_FINITE = "not finite"

# What a name could hide behind: control characters, and marks that turn the direction of what follows.
_INVISIBLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200b\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")


def format_bytes(size: float) -> str:
    """A size in decimal units, three digits where it has them: `38.0 kB`."""
    unit, factor = size_unit(size)
    value = size / factor
    decimals = 0 if factor == 1 or value >= 100 else 1 if value >= 10 else 2
    return f"{value:.{decimals}f} {unit}"


def size_unit(size: float) -> tuple[str, float]:
    """The unit that `size` is best given in, and its bytes."""
    return next((u for u in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)) if size >= u[1]), ("B", 1.0))


def format_number(value: float | None) -> str:
    """A metric's value: a count without decimals, a very large or small one with an exponent."""
    if value is None:
        return NOT_FINITE
    if value == int(value) and 10 <= abs(value) < 1e12:
        return _signed(f"{value:,.0f}")
    if value and not 1e-3 <= abs(value) < 1e6:
        return _signed(f"{value:.3g}")
    return _signed(f"{value:.4f}")


def format_change(value: float | None) -> str:
    """A difference with its sign."""
    if value is None:
        return NOT_FINITE
    if abs(value) < 5e-5:
        return "±0"
    return _signed(f"{value:+.4f}" if abs(value) < 1e4 else f"{value:+.3g}")


def format_interval(lower: float | None, upper: float | None) -> str:
    """An interval of a difference; empty without one."""
    if lower is None or upper is None:
        return ""
    return f"[{format_change(lower)}, {format_change(upper)}]"


def format_ratio(value: float) -> str:
    """A factor, such as `0.42×`."""
    return f"{value:.2f}×" if value < 10 else f"{value:,.0f}×"


def format_share(value: float) -> str:
    """A share as a percentage; only all is 100 %, and only none is 0 %."""
    percent = round(100 * value, 9)
    text = f"{percent:.2f}" if percent > 99 else f"{percent:.1f}"
    if percent < 100 and float(text) == 100:
        return "> 99.99 %"
    if percent > 0 and float(text) == 0:
        return "< 0.1 %"
    return f"{percent:.0f} %" if percent == int(percent) else f"{text} %"


def format_milliseconds(value: float) -> str:
    """A duration, three digits."""
    amount, unit = (value / 1000, "s") if value >= 1000 else (value, "ms") if value >= 0.1 else (value * 1000, "µs")
    return f"{amount:.3g} {unit}"


def plural(count: int, one: str, many: str | None = None) -> str:
    """`1 slice`, `2,000 slices`."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def listed(words: Sequence[str], last: str = "and") -> str:
    """`a, b and c`."""
    return f" {last} ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def shortened(text: str, most: int) -> str:
    """`text`, or as much of its two ends as `most` characters hold."""
    if len(text) <= most:
        return text
    tail = most // 3
    return f"{text[: most - tail - 1]}…{text[-tail:]}"


def visible(text: str) -> str:
    r"""Text whose invisible characters are written out, such as `\u202e`; the type of marked-up text is kept."""
    return type(text)(_INVISIBLE.sub(lambda match: f"\\u{ord(match[0]):04x}", str(text)))


def breakable(name: str) -> markupsafe.Markup:
    """A long name that may be broken after its underscores."""
    return markupsafe.escape(visible(name)).replace("_", markupsafe.Markup("_<wbr>"))


def _signed(text: str) -> str:
    return text.replace("-", MINUS)
