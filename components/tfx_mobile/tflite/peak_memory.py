"""How much memory a `.tflite` file takes at most, from loading it to the end of one run, in a process of its own.

What counts is what the file makes the process hold: the largest growth of anonymous memory (tensors, repacked weights,
the interpreter's own structures) and the pages of the file, which is memory-mapped as on a phone. Pages of the
runtime's code, which are loaded on the way, do not count: they are the same for every file and shared between apps.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tfx_mobile import child_process

_DEADLINE_SECONDS = 120.0
_STATUS = "/proc/self/status"
_RESET_PEAK = "5"  # proc(5), /proc/[pid]/clear_refs: sets the peak of the resident set to its present size


def measure_peak_memory(path: str | Path, *, select_tf_ops: bool) -> tuple[int | None, str]:
    """Loads a file that passed `preflight` by its path and runs it once, with one thread.

    On one row, or on the fixed number of rows that the file takes.

    The kernel counts pages of 4 KiB, and on some kernels late by up to a few hundred KiB; a file of a few kilobytes
    is therefore measured only roughly. Another runtime, delegate or number of threads takes other memory.

    Args:
        path: Local path.
        select_tf_ops: Whether the file holds Select TensorFlow (Flex) ops.

    Returns:
        Bytes and "", or None and why it cannot be measured: this system does not tell, the input sizes are open, or the
        process died.
    """
    request = {"path": str(Path(path).resolve()), "select_tf_ops": select_tf_ops}
    try:
        for event in child_process.run(f"{__name__}:load_and_measure", request, deadline_seconds=_DEADLINE_SECONDS):
            return event["bytes"], event["problem"]
    except child_process.ChildDied as died:
        return None, f"The interpreter process ended: {died}."
    return None, "The interpreter process ended without an answer."


def load_and_measure(request: dict[str, Any], emit: child_process.Emit) -> None:
    """The child's side; emits `{"bytes": count or None, "problem": text}`."""
    from tfx_mobile.tflite import sample_inputs
    from tfx_mobile.tflite.runtime import interpreter_class

    interpreter = interpreter_class(request["select_tf_ops"])
    try:
        Path("/proc/self/clear_refs").write_text(_RESET_PEAK)
        before = _resident()
    except OSError as error:
        emit({"bytes": None, "problem": f"This system does not tell the peak memory of a process: {error}."})
        return
    try:
        loaded = interpreter(model_path=request["path"], num_threads=1)
        sample_inputs.fill(loaded, {})
        loaded.invoke()
    except (RuntimeError, ValueError) as error:
        emit({"bytes": None, "problem": str(error)})
        return
    after = _resident()
    code = max(0, after["RssFile"] - before["RssFile"] - _mapped(request["path"]))
    emit({"bytes": max(0, after["VmHWM"] - before["VmRSS"] - code), "problem": ""})


def _resident() -> dict[str, int]:
    """Bytes of this process in memory: `VmHWM` the most so far, `VmRSS` all, `RssFile` pages of files."""
    status = Path(_STATUS).read_text()
    found = {name: int(size) * 1024 for name, size in re.findall(r"^(\w+):\s+(\d+) kB$", status, re.MULTILINE)}
    if missing := {"VmHWM", "VmRSS", "RssFile"} - found.keys():
        raise OSError(f"{_STATUS} has no {', '.join(sorted(missing))}")
    return found


def _mapped(path: str) -> int:
    """Bytes of a file's mappings that are in memory."""
    total, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        name, _, value = line.partition(":")
        if " " in name:  # the head of a mapping: addresses, rights, ..., path
            inside = line.endswith(f" {path}")
        elif inside and name == "Rss":
            total += int(value.split()[0]) * 1024
    return total
