"""The child's side of a latency measurement: files timed against a reference, in turns, in one process.

Pairs take turns inference by inference, A B, B A, so that whatever else the machine does meets both alike. The
reference is also timed against a second copy of itself, which must come out equal. Of each pair and round the fastest
time counts: what others do to the machine only ever adds. The time is CPU time of the process, for the same reason.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Mapping
from typing import Any

from tfx_mobile.child_process import Emit

_WARM_UP_NS = 50_000_000
_WARM_UP_RUNS = 3
# One reading of the clock covers this much, because reading it costs about half a microsecond.
_READING_NS = 200_000
_MOST_PER_READING = 200


def time_files(request: dict[str, Any], emit: Emit) -> None:
    """Times files against a reference; one thread, one row, or the fixed number of rows that the files take.

    Args:
        request: `reference` and `files`: objects with `name`, `path` and `select_tf_ops`; `ranges`: smallest and
            largest value by input name; `rounds`; `runs`: readings per round and model.
        emit: Gets `{"at": name}` before something is done with a file; `{"failed": name, "error": text}` once for a
            file that cannot be timed; and per round and pair `{"name": of the file or None for the control,
            "reference": its seconds per inference, "own": the file's}`.
    """
    ranges = {name: (low, high) for name, (low, high) in request["ranges"].items()}
    emit({"at": request["reference"]["name"]})
    try:
        reference, twin = _Timed(request["reference"], ranges), _Timed(request["reference"], ranges)
    except (RuntimeError, ValueError) as error:
        emit({"failed": request["reference"]["name"], "error": str(error)})
        return
    opponents: dict[str | None, _Timed] = {None: twin}
    for file in request["files"]:
        emit({"at": file["name"]})
        try:
            opponent = _Timed(file, ranges)
        except (RuntimeError, ValueError) as error:
            emit({"failed": file["name"], "error": str(error)})
            continue
        if opponent.shapes != reference.shapes:
            problem = f"its inputs have the shapes {opponent.shapes}, the reference's {reference.shapes}"
            emit({"failed": file["name"], "error": f"{problem}. Convert both with the same batch size."})
            continue
        opponents[file["name"]] = opponent
    gc.disable()
    for turn in range(request["rounds"]):
        for name, opponent in opponents.items():
            emit({"at": request["reference"]["name"] if name is None else name})
            fastest = _alternate(reference, opponent, request["runs"], turn)
            emit({"name": name, "reference": fastest[0], "own": fastest[1]})


def _alternate(reference: _Timed, opponent: _Timed, runs: int, turn: int) -> tuple[float, float]:
    """Fastest seconds of either; who goes first changes with every reading and every round."""
    times: tuple[list[float], list[float]] = ([], [])
    for index in range(runs):
        pair = (reference, times[0]), (opponent, times[1])
        for timed, readings in pair if (index + turn) % 2 == 0 else reversed(pair):
            readings.append(timed.read())
    return min(times[0]), min(times[1])


class _Timed:
    """A loaded file, warmed up; `shapes` are those of its inputs, sorted."""

    def __init__(self, file: Mapping[str, Any], ranges: Mapping[str, tuple[float, float]]) -> None:
        from tfx_mobile.tflite import sample_inputs
        from tfx_mobile.tflite.runtime import interpreter_class

        self._interpreter = interpreter_class(file["select_tf_ops"])(model_path=file["path"], num_threads=1)
        sample_inputs.fill(self._interpreter, ranges)
        self.shapes = sorted(detail["shape"].tolist() for detail in self._interpreter.get_input_details())
        self._per_reading = 1
        start = time.monotonic_ns()
        times: list[float] = []
        while len(times) < _WARM_UP_RUNS or time.monotonic_ns() - start < _WARM_UP_NS:
            times.append(self.read())
        self._per_reading = max(1, min(_MOST_PER_READING, int(_READING_NS / 1e9 / max(min(times), 1e-9))))

    def read(self) -> float:
        """CPU seconds of one inference."""
        invoke = self._interpreter.invoke
        start = time.process_time_ns()
        for _ in range(self._per_reading):
            invoke()
        return (time.process_time_ns() - start) / self._per_reading / 1e9
