"""One schedule per name, whatever was there before, whatever gets lost, whoever else does the same.

Neither service lets its caller name a schedule, so creating one cannot be repeated blindly. What is wanted is therefore
written into the schedule as a digest, and what there is, is looked at before and afterwards.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol

from pipelines.compiled import JobConflictError, ServiceError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _.-]{0,126}[A-Za-z0-9]")
#: How often to try to create one when answers get lost.
_MAX_ATTEMPTS = 3


@dataclass(frozen=True)
class Scheduled:
    """A schedule at a service.

    Attributes:
        name: What the service calls it.
        created: When, by the service's clock, and its name: an order in which no two are equal.
        active: Whether it starts runs.
        digest: Of what it was to be when it was created; None if something else created it.
        differences: Settings that can be changed and are not what is wanted.
    """

    name: str
    created: tuple[float, str]
    active: bool
    digest: str | None
    differences: tuple[str, ...] = ()


class Schedules(Protocol):
    """The schedules of one name at a service, and the one that is wanted there."""

    def find(self) -> list[Scheduled]:
        """Those there are."""
        ...

    def create(self) -> None:
        """Creates the one that is wanted; it is active."""
        ...

    def update(self, scheduled: Scheduled) -> None:
        """Changes what differs from what is wanted."""
        ...

    def pause(self, scheduled: Scheduled) -> None:
        """Has it start nothing any more; none is fine."""
        ...

    def resume(self, scheduled: Scheduled) -> None:
        """Has it start runs again."""
        ...

    def delete(self, scheduled: Scheduled) -> None:
        """Deletes it; none is fine."""
        ...


def check_name(name: str) -> str:
    """A schedule's name.

    Raises:
        ValueError: It is not valid.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"The schedule's name {name!r} is not valid: letters, digits, spaces and _ . - within, 2 to 128 characters."
        )
    return name


def ensure(schedules: Schedules, digest: str) -> str:
    """Makes sure that exactly the schedule that is wanted is there, and active; says what was done.

    Others of the name are paused before the wanted one starts, so that never two are active, and deleted when it has:
    if something fails in between, none is active until the next call.

    Args:
        schedules: Those of the name.
        digest: Of what cannot be changed in a schedule; tells whether one is the one that is wanted.

    Raises:
        JobConflictError: Somebody else created another one at the same time, and theirs is newer.
        ServiceError: The service cannot be reached.
    """
    found = schedules.find()
    same = sorted((s for s in found if s.digest == digest), key=lambda s: s.created)
    keep = same[-1] if same else None
    for other in found:
        if other is not keep and other.active:
            schedules.pause(other)
    if keep is None:
        _create(schedules, digest)
        done = "created" if not found else "replaced"
    else:
        done = "unchanged"
        if keep.differences:
            schedules.update(keep)
            done = "updated"
        if not keep.active:
            schedules.resume(keep)
            done = "resumed" if done == "unchanged" else f"{done} and resumed"
    # Everybody who looks now sees the same order, so two who created one each agree on which stays.
    left = schedules.find()
    before = {s.name for s in found if s is not keep}
    newest = max((s for s in left if s.name not in before), key=lambda s: s.created, default=None)
    if newest is None or newest.digest != digest:
        raise JobConflictError(
            "Another schedule of this name was created, or this one deleted, at the same time. Look at which one is "
            "meant to be there, and run that command again."
        )
    for other in left:
        if other.name != newest.name:
            schedules.delete(other)
    return done


def pause_all(schedules: Schedules) -> int:
    """Pauses every schedule of the name; how many were active."""
    active = [s for s in schedules.find() if s.active]
    for scheduled in active:
        schedules.pause(scheduled)
    return len(active)


def delete_all(schedules: Schedules) -> int:
    """Deletes every schedule of the name; how many there were."""
    found = schedules.find()
    for scheduled in found:
        schedules.delete(scheduled)
    return len(found)


def _create(schedules: Schedules, digest: str) -> None:
    for attempt in range(_MAX_ATTEMPTS):
        try:
            schedules.create()
            return
        except ServiceError:
            # Lost, or refused? Only what is there tells.
            if any(s.digest == digest for s in schedules.find()):
                return
            if attempt + 1 == _MAX_ATTEMPTS:
                raise
