"""Killing code at every line of it.

SIGKILL leaves a process no `finally` and no `atexit`: what is on disk at that line is what a power cut or an evicted
pod would leave, except for what the kernel had not written back yet.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

Action = Callable[[Path], object]


def kill_at_every_line(
    files: Collection[str], folder: Path, action: Action, prepare: Action, functions: Collection[str] = ()
) -> list[Path]:
    """Runs `prepare(folder/n)`, then `action(folder/n)`, killed before its n-th line in `files`; n = 0, 1, ...

    With `functions`, only the lines of functions with these names count. Returns the folders; the last is the one
    whose action ran to its end. `action` and `prepare` are picklable.
    """
    # Forks of a fresh process, which is small if the module of the actions is.
    driver = multiprocessing.get_context("spawn").Process(
        target=_drive, args=(frozenset(files), frozenset(functions), folder, action, prepare), daemon=True
    )
    driver.start()
    driver.join(300)
    assert driver.exitcode == 0
    return sorted(folder.iterdir(), key=lambda path: int(path.name))


def _drive(files: frozenset[str], functions: frozenset[str], folder: Path, action: Action, prepare: Action) -> None:
    for line in itertools.count():
        here = folder / str(line)
        here.mkdir(parents=True)
        prepare(here)
        child = os.fork()
        if child == 0:
            _run_until(line, files, functions, action, here)
        exit_code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if exit_code == 0:
            return
        assert exit_code == -signal.SIGKILL


def _run_until(line: int, files: frozenset[str], functions: frozenset[str], action: Action, here: Path) -> NoReturn:
    lines = itertools.count()

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if frame.f_code.co_filename not in files or (functions and frame.f_code.co_name not in functions):
            return None
        if event == "line" and next(lines) == line:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)
    action(here)
    os._exit(0)
