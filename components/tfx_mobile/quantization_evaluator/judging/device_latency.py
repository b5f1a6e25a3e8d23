"""Reads latencies that were measured on devices: TFLite's benchmark_model output, CSV or JSON.

Read while a pipeline is defined: imports neither TensorFlow nor TFX.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import ValidationError

from tfx_mobile.errors import EvalConfigError
from tfx_mobile.records import DeviceLatency

_REQUIRED = ("variant", "milliseconds", "device")
_COLUMNS = (*_REQUIRED, "sha256")

# What benchmark_model logs, in this order; tensorflow/lite/tools/benchmark. The second is that of 2020 and before.
_GRAPH = re.compile(r"Graph: \[(.+)\]")
_TIMINGS = (
    re.compile(r"Inference timings in us: .*Inference \(avg\): (?P<us>[-+.\w]+)"),
    re.compile(r"Average inference timings in us: .*(?:Inference|no stats): (?P<us>[-+.\w]+)"),
)


def read_device_latencies(
    path: str | Path, *, device: str | None = None, variant: str | None = None
) -> tuple[DeviceLatency, ...]:
    """Reads a local file of latencies for `LatencySpec(device=...)`.

    The ending chooses the format. `.csv`: a table whose header names `variant`, `milliseconds`, `device` and optionally
    `sha256`. `.json`: a list of objects with these keys. Anything else: what TFLite's `benchmark_model` prints, or the
    log of its Android app, of one run or several; the average of the inferences counts, without warm-up. Such a run is
    of the variant that its graph is named after: `int8.tflite`, or the folder of a `model.tflite`.

    Args:
        path: The file.
        device: What was measured on, in words, where the file does not say; always for `benchmark_model`.
        variant: Name of the variant, for a `benchmark_model` run of a file that is not named after it.

    Returns:
        The latencies in the file's order, at least one.

    Raises:
        EvalConfigError: A ValueError. The file cannot be read; the message names file and line and what is expected.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise EvalConfigError(f"The device latencies {path} cannot be read: {error}. Give a local text file.") from None
    reader = {".csv": _read_csv, ".json": _read_json}.get(path.suffix.lower())
    if reader is None:
        rows = _read_benchmark(path, text, variant)
    elif variant is not None:
        raise EvalConfigError(f"variant={variant!r} is for benchmark_model's output; {path} names its variants.")
    else:
        rows = reader(path, text)
    found = []
    for place, row in rows:
        values = {**row, "device": row.get("device") or device}
        if values["device"] is None:
            raise EvalConfigError(
                f"{place}: it does not say on which device this was measured. Pass device='Pixel 8, 1 thread' or the "
                "like to read_device_latencies."
            )
        try:
            found.append(DeviceLatency.model_validate(values))
        except ValidationError as error:
            problems = "; ".join(f"{'.'.join(map(str, e['loc']))}={e['input']!r}: {e['msg']}" for e in error.errors())
            raise EvalConfigError(f"{place}: {problems}. Expected are {_listed()}.") from None
    if not found:
        raise EvalConfigError(f"{path} holds no latency. Expected is one row or object at least, with {_listed()}.")
    return tuple(found)


_Rows = Iterator[tuple[str, Mapping[str, Any]]]


def _read_csv(path: Path, text: str) -> _Rows:
    lines = csv.DictReader(text.splitlines(), skipinitialspace=True)
    header = lines.fieldnames or []
    if not {"variant", "milliseconds"} <= set(header) or not set(header) <= set(_COLUMNS):
        raise EvalConfigError(
            f"{path}, line 1: the columns are {', '.join(map(repr, header)) or 'none'}. Expected are {_listed()}."
        )
    for row in lines:
        place = f"{path}, line {lines.line_num}"
        if None in row or None in row.values():
            raise EvalConfigError(f"{place}: the row has not {len(header)} values, one per column.")
        yield place, {name: value.strip() or None for name, value in row.items() if value.strip() or name != "sha256"}


def _read_json(path: Path, text: str) -> _Rows:
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise EvalConfigError(f"{path}, line {error.lineno}: not JSON: {error.msg}.") from None
    if not isinstance(document, list) or not all(isinstance(entry, dict) for entry in document):
        raise EvalConfigError(f"{path} is not a list of objects. Expected are objects with {_listed()}.")
    for index, entry in enumerate(document):
        yield f"{path}, entry {index + 1}", entry


def _read_benchmark(path: Path, text: str, variant: str | None) -> _Rows:
    graph: str | None = None
    runs = 0
    for number, line in enumerate(text.splitlines(), 1):
        if found := _GRAPH.search(line):
            graph = found[1]
        timing = next((match for pattern in _TIMINGS if (match := pattern.search(line))), None)
        if timing is None:
            continue
        place = f"{path}, line {number}"
        runs += 1
        if variant is not None and runs > 1:
            raise EvalConfigError(
                f"{place}: a second run, though variant={variant!r} names one. Leave variant out, so that each run is "
                "that of its graph, or give one file per run."
            )
        name = variant or (_variant_of(graph) if graph else None)
        if name is None:
            raise EvalConfigError(
                f"{place}: there is no line 'Graph: [...]' before it to tell the variant. Pass variant='...' to "
                "read_device_latencies."
            )
        try:
            milliseconds = float(timing["us"]) / 1e3
        except ValueError:
            raise EvalConfigError(
                f"{place}: the average {timing['us']!r} is no number. Expected are microseconds."
            ) from None
        yield place, {"variant": name, "milliseconds": milliseconds}
        graph = None
    if not runs:
        raise EvalConfigError(
            f"{path} is not what benchmark_model prints: there is no line 'Inference timings in us: ..., Inference "
            "(avg): ...'. Give its whole output, or a .csv or .json file."
        )


def _variant_of(graph: str) -> str:
    """TFLiteConverter writes `variant/model.tflite`; a copy on a phone is usually called `variant.tflite`."""
    path = PurePosixPath(graph.replace("\\", "/"))
    return path.parent.name if path.stem == "model" and path.parent.name else path.stem


def _listed() -> str:
    return f"{', '.join(_REQUIRED)} and optionally sha256"
