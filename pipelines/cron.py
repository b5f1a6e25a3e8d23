"""Lines of cron with a time zone, in the part that Vertex AI and Kubeflow Pipelines understand alike."""

from __future__ import annotations

import re
import zoneinfo
from dataclasses import dataclass

_MONTHS = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"]
_DAYS = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"]
#: Name, lowest and highest value, names of values from the lowest on.
_FIELDS: tuple[tuple[str, int, int, list[str]], ...] = (
    ("minute", 0, 59, []),
    ("hour", 0, 23, []),
    ("day of the month", 1, 31, []),
    ("month", 1, 12, _MONTHS),
    ("day of the week", 0, 6, _DAYS),
)
_EXAMPLE = "TZ=Europe/Paris 0 3 * * *"


@dataclass(frozen=True)
class Cron:
    """When something runs.

    Attributes:
        time_zone: Such as `Europe/Paris`.
        fields: Minute, hour, day of the month, month, day of the week.
    """

    time_zone: str
    fields: str

    def __str__(self) -> str:
        return f"TZ={self.time_zone} {self.fields}"


def parse(line: str) -> Cron:
    """Reads a line such as `TZ=Europe/Paris 0 3 * * *`.

    Raises:
        ValueError: It has no time zone, not five fields, or something in a field is not valid.
    """
    match = re.fullmatch(r"(?:CRON_)?TZ=(\S+)\s+(.*\S)\s*", line)
    if match is None:
        raise ValueError(
            f"cron={line!r} has no time zone, so the service's would be taken. Begin with TZ=, as in {_EXAMPLE!r}."
        )
    zone, fields = match[1], match[2].upper().split()
    if zone not in zoneinfo.available_timezones():
        raise ValueError(
            f"cron={line!r}: there is no time zone {zone}. Take one of IANA's, such as Europe/Paris or UTC."
        )
    if len(fields) != len(_FIELDS):
        names = ", ".join(name for name, *_ in _FIELDS)
        raise ValueError(f"cron={line!r} has {len(fields)} fields after the time zone; there are five: {names}.")
    for text, (name, low, high, names_of_values) in zip(fields, _FIELDS, strict=True):
        for part in text.split(","):
            if not _is_valid(part, low, high, names_of_values):
                named = f" or {names_of_values[0]} to {names_of_values[-1]}" if names_of_values else ""
                raise ValueError(
                    f"cron={line!r}: {part!r} is no {name}. Valid: *, {low} to {high}{named}, ranges such as "
                    f"{low}-{low + 1}, steps such as */2, and lists of these."
                )
    return Cron(time_zone=zone, fields=" ".join(fields))


def _is_valid(part: str, low: int, high: int, names: list[str]) -> bool:
    span, slash, step = part.partition("/")
    if slash and not (re.fullmatch(r"[1-9]\d*", step) and int(step) <= high):
        return False
    if span == "*":
        return True
    first, dash, last = span.partition("-")
    values = [low + names.index(v) if v in names else int(v) if v.isdecimal() else -1 for v in (first, last or first)]
    if dash and not last:
        return False
    return low <= values[0] <= values[1] <= high
