"""The end of Firebase ML's model hosting."""

from __future__ import annotations

import datetime
import functools
import logging
import sys
import warnings

#: The last day that Google names; https://firebase.google.com/docs/ml/migrate-to-cloud-storage.
LAST_DAY = datetime.date(2027, 6, 15)

NOTICE = (
    f"Google shuts Firebase ML's model hosting down on {LAST_DAY}. Its successor is Cloud Storage for Firebase: add a "
    "CloudStorageDestination beside the FirebaseMLDestination now, move the apps to it, and drop Firebase ML before "
    "that day; docs/firebase_ml.md tells how."
)


@functools.cache
def warn_once() -> None:
    """Warns, once in a process and in the log, whoever uses the service."""
    warnings.warn(NOTICE, FutureWarning, stacklevel=_frames_of_this_package())
    logging.getLogger(__name__).warning(NOTICE)


def is_over(service_time: datetime.datetime | None) -> bool:
    """Whether the last day has passed by the service's own clock; not while the service has said no time."""
    return service_time is not None and service_time.astimezone(datetime.timezone.utc).date() > LAST_DAY


def _frames_of_this_package() -> int:
    """How many frames up the warning belongs: to the line that calls this package, which its author can change."""
    level, frame = 2, sys._getframe(2)
    inside = ("tfx_mobile", "pydantic")
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).split(".")[0] in inside:
        level, frame = level + 1, frame.f_back
    return level
