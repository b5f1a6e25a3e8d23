"""Runs a function in a process of its own, because native code may abort, hang or leak.

The parent starts a fresh interpreter (no fork: TensorFlow's threads do not survive one, and no multiprocessing: it
would re-run the pipeline's `__main__`). The child receives one JSON request and sends JSON events back over a pipe.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import IO, Any, cast

Emit = Callable[[dict[str, Any]], None]

# The child takes the parent's import path, so it finds the same packages whatever its working directory is.
_BOOT = """
import json, sys
boot = json.load(sys.stdin)
sys.path[:] = boot["sys_path"]
from tfx_mobile import child_process
child_process._serve(boot)
"""
_STDERR_TAIL = 4000


class Stopped(Exception):
    """The caller asked for the child to be stopped."""


class ChildDied(Exception):
    """The child ended without finishing its work.

    Attributes:
        cause: `crashed` (killed by a signal), `timeout`, or `failed` (it exited with an error).
        signal_name: Such as `SIGABRT`, for `crashed`.
        stderr: The end of what it printed to stderr.
    """

    def __init__(self, cause: str, message: str, signal_name: str | None, stderr: str) -> None:
        super().__init__(message)
        self.cause = cause
        self.signal_name = signal_name
        self.stderr = stderr


def run(
    function: str,
    request: dict[str, Any],
    *,
    deadline_seconds: float,
    startup_seconds: float | None = None,
    stop: int | None = None,
) -> Iterator[dict[str, Any]]:
    """Calls `function` in a child process and yields the events it emits.

    Args:
        function: `package.module:name` of a function `(request, emit) -> None`.
        request: JSON-serializable argument.
        deadline_seconds: Longest wait for the next event, and for the end after the last one; wall time.
        startup_seconds: Longest wait for the first event, for a child that imports a lot before it sends one; None for
            `deadline_seconds`.
        stop: File descriptor that becomes readable, or is closed at its other end, when the child shall be killed, so
            that another thread can end the wait; None if nobody will.

    Yields:
        The emitted events, each as soon as it arrives.

    Raises:
        ChildDied: The child was killed by a signal, ran out of time, or raised.
        Stopped: `stop` said so.
    """
    read_fd, write_fd = os.pipe()
    with tempfile.TemporaryFile() as stderr, contextlib.closing(os.fdopen(read_fd, "rb", buffering=0)) as events:
        process = subprocess.Popen(
            [sys.executable, "-c", _BOOT],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            pass_fds=[write_fd],
            env=_environment(),
            start_new_session=True,
        )
        os.close(write_fd)
        boot = {
            "function": function,
            "request": request,
            "fd": write_fd,
            "sys_path": [p or os.getcwd() for p in sys.path],
        }
        # A child that dies at once closes the pipe; its exit status tells more than the broken pipe would.
        with contextlib.suppress(BrokenPipeError), cast(IO[bytes], process.stdin) as stdin:
            stdin.write(json.dumps(boot).encode())
        try:
            yield from _read_events(events, deadline_seconds, startup_seconds or deadline_seconds, stop)
            process.wait(timeout=deadline_seconds)
        except (TimeoutError, subprocess.TimeoutExpired):
            raise ChildDied("timeout", f"no answer within {deadline_seconds:g} seconds", None, _tail(stderr)) from None
        finally:
            # Also reached when the caller stops iterating. The whole session goes, the child's own children too.
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if process.returncode < 0:
            name = signal.Signals(-process.returncode).name
            raise ChildDied("crashed", f"killed by {name}", name, _tail(stderr))
        if process.returncode > 0:
            raise ChildDied("failed", _last_line(_tail(stderr)), None, _tail(stderr))


def _environment() -> dict[str, str]:
    env = dict(os.environ)
    env["TF_CPP_MIN_LOG_LEVEL"] = "3"
    # tensorflow_transform sets this in every process that imports it; inherited, it would swap Keras 3 for Keras 2.
    env.pop("TF_USE_LEGACY_KERAS", None)
    return env


def _read_events(
    events: Any, deadline_seconds: float, startup_seconds: float, stop: int | None
) -> Iterator[dict[str, Any]]:
    buffer = b""
    with selectors.DefaultSelector() as selector:
        selector.register(events, selectors.EVENT_READ)
        if stop is not None:
            selector.register(stop, selectors.EVENT_READ)
        end = time.monotonic() + startup_seconds
        while True:
            ready = selector.select(max(0.0, end - time.monotonic()))
            if not ready:
                raise TimeoutError
            if any(key.fileobj == stop for key, _ in ready):
                raise Stopped
            chunk = events.read(65536)
            if not chunk:
                return
            buffer += chunk
            while b"\n" in buffer:
                line, buffer = buffer.split(b"\n", 1)
                yield json.loads(line)
                end = time.monotonic() + deadline_seconds


def _tail(stderr: Any) -> str:
    stderr.seek(0, os.SEEK_END)
    stderr.seek(max(0, stderr.tell() - _STDERR_TAIL))
    text: str = stderr.read().decode(errors="replace")
    return text


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "exited with an error and said nothing"


def _serve(boot: dict[str, Any]) -> None:
    """The child's side of `run`."""
    module, name = boot["function"].split(":")
    with os.fdopen(boot["fd"], "wb", buffering=0) as events:

        def emit(event: dict[str, Any]) -> None:
            line = json.dumps(event).encode() + b"\n"
            while line:
                line = line[events.write(line) :]

        getattr(importlib.import_module(module), name)(boot["request"], emit)
