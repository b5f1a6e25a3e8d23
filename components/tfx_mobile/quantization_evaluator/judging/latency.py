"""How much slower or faster a variant is than the float32 variant, and whether that can be said here at all.

See docs/latency.md for the protocol and why each part of it is there.
"""

from __future__ import annotations

import math
import os
import platform
import re
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from absl import logging

from tfx_mobile import child_process
from tfx_mobile.records import LatencyRecord, LatencyResult, LatencySpec, Variant

Pair = tuple[float, float]

_CHILD = "tfx_mobile.tflite.timing:time_files"
_ATTEMPTS = 2
#: The reference against itself must come out in here, and its interval in the wider range.
CONTROL_RANGE = (0.9, 1.1)
CONTROL_INTERVAL_RANGE = (0.8, 1.25)
_LEVEL = 0.95
# For loading a file, and for one round of one pair.
_DEADLINE_SECONDS = 300.0
_NO_REFERENCE = (
    "There is no float32 variant that runs to compare with. Add the recipe float32 to TFLiteConverter, or give device "
    "numbers that include it."
)


@dataclass(frozen=True)
class Figure:
    """A latency that can be compared with others of its kind; `lower` and `upper` equal `value` where it is exact."""

    value: float
    lower: float
    upper: float


@dataclass(frozen=True)
class Timings:
    """What the child measured, in seconds of CPU time per inference.

    Attributes:
        control: Per round, the reference and a second copy of it.
        variants: By variant, per round: the reference and the variant.
        problems: Why a file could not be timed, by name.
    """

    control: Sequence[Pair] = ()
    variants: Mapping[str, Sequence[Pair]] = field(default_factory=dict)
    problems: Mapping[str, str] = field(default_factory=dict)


def measure(
    variants: Sequence[Variant],
    files: Mapping[str, Path],
    ranges: Mapping[str, tuple[float, float]],
    spec: LatencySpec,
) -> LatencyRecord:
    """Times the variants that no device numbers are given for against the float32 variant.

    Args:
        variants: What the converter made.
        files: Local files of those that passed preflight, by name.
        ranges: Smallest and largest value by input name, where they are known.
        spec: Rounds, runs and device numbers.
    """
    reference = find_reference(variants, files)
    given, messages = read_devices(variants, spec, reference)
    with_ratio = {result.variant for result in given if result.ratio is not None}
    to_time = [name for name in files if name not in with_ratio and name != reference]
    if reference is None:
        return LatencyRecord(
            reference=None, measurable=False, message=" ".join([_NO_REFERENCE, *messages]), results=given
        )
    if not to_time:
        messages.append("Nothing was timed here: no variant is left to compare with the float32 variant.")
        return LatencyRecord(reference=reference, measurable=False, message=" ".join(messages), results=given)
    flex = {v.name: bool(v.file.select_tf_ops) for v in variants if v.file is not None}
    requests = {
        name: {"name": name, "path": str(files[name].resolve()), "select_tf_ops": flex[name]}
        for name in (reference, *to_time)
    }
    record = LatencyRecord(reference=reference, measurable=False)
    for _ in range(_ATTEMPTS):
        timings = _time(requests[reference], [requests[name] for name in to_time], ranges, spec)
        record = conclude(reference, timings, given, messages, this_machine())
        if record.measurable or not timings.control:
            break
        logging.warning("Latency: %s", record.message)
    return record


def find_reference(variants: Sequence[Variant], runnable: Mapping[str, Any]) -> str | None:
    """Name of the float32 variant that latencies are compared with: the first unquantized one that runs."""
    return next((v.name for v in variants if v.recipe.quantization == "none" and v.name in runnable), None)


def read_devices(
    variants: Sequence[Variant], spec: LatencySpec, reference: str | None
) -> tuple[tuple[LatencyResult, ...], list[str]]:
    """The device numbers that hold for these files, and what is wrong with the others."""
    files = {v.name: v.file for v in variants if v.file is not None}
    valid, messages = [], []
    for entry in spec.device:
        file = files.get(entry.variant)
        if file is None:
            messages.append(
                f"The device number for {entry.variant!r} is not used: there is no such variant. There are: "
                f"{', '.join(files) or 'none'}."
            )
        elif entry.sha256 is not None and entry.sha256 != file.sha256:
            messages.append(
                f"The device number for {entry.variant!r} on {entry.device} is not used: it was measured on "
                f"{entry.sha256}, the variant is {file.sha256}. Measure this file."
            )
        else:
            valid.append(entry)
    references = {entry.device: entry.milliseconds for entry in valid if entry.variant == reference}
    results = [
        LatencyResult(
            variant=entry.variant,
            ratio=entry.milliseconds / references[entry.device] if entry.device in references else None,
            milliseconds=entry.milliseconds,
            source="device",
            device=entry.device,
        )
        for name in files
        for entry in valid
        if entry.variant == name
    ]
    return tuple(results), messages


def conclude(
    reference: str, timings: Timings, given: Sequence[LatencyResult], messages: Sequence[str], device: str
) -> LatencyRecord:
    """What timings say.

    Args:
        reference: Name of the float32 variant.
        timings: What the child measured.
        given: Device numbers.
        messages: What is wrong with other device numbers.
        device: What was timed on, in words.
    """
    problems = [f"{name} could not be timed: {problem}" for name, problem in timings.problems.items()]
    if not timings.control:
        message = " ".join(["Not measurable here.", *problems, *messages])
        return LatencyRecord(reference=reference, measurable=False, message=message, results=tuple(given))
    control, lower, upper = _ratio(timings.control)
    steady = _within((control, control), CONTROL_RANGE) and _within((lower, upper), CONTROL_INTERVAL_RANGE)
    results = list(given)
    said = (
        f"{reference} timed against itself took {control:.3f} times as long ({lower:.3f} to {upper:.3f}) in "
        f"{len(timings.control)} rounds on {device}."
    )
    if steady:
        milliseconds = statistics.median(own for _, own in timings.control) * 1e3
        if not any(result.variant == reference and result.ratio is not None for result in given):
            results.append(_result(reference, (1.0, 1.0, 1.0), milliseconds, device))
        for name, pairs in timings.variants.items():
            results.append(_result(name, _ratio(pairs), statistics.median(own for _, own in pairs) * 1e3, device))
    else:
        said = (
            f"Not measurable here: {said} The median must lie within {_listed(CONTROL_RANGE)} and its interval within "
            f"{_listed(CONTROL_INTERVAL_RANGE)}. Run the step on a quieter machine, or give device numbers."
        )
    return LatencyRecord(
        reference=reference,
        measurable=steady,
        control=control,
        control_lower=lower,
        control_upper=upper,
        message=" ".join([said, *problems, *messages]),
        rounds=len(timings.control),
        results=tuple(results),
    )


def ratio_of(record: LatencyRecord | None, variant: str) -> Figure | None:
    """A variant's latency over the float32 variant's: the slowest given device's, else this machine's, else None.

    The interval of this machine's is widened by how far the reference was from itself; the reference's own is 1.
    """
    if record is None:
        return None
    own = [(r, r.ratio) for r in record.results if r.variant == variant and r.ratio is not None]
    given = [ratio for result, ratio in own if result.source == "device"]
    if given:
        return Figure(max(given), max(given), max(given))
    for result, ratio in own:
        lower, upper = result.lower or ratio, result.upper or ratio
        if variant == record.reference:
            return Figure(1.0, 1.0, 1.0)
        spread = max(record.control_upper or 1.0, 1 / (record.control_lower or 1.0), 1.0)
        return Figure(ratio, lower / spread, upper * spread)
    return None


def comparable(record: LatencyRecord | None, variants: Sequence[str]) -> dict[str, Figure]:
    """Latencies that can be compared with each other; variants without one are left out.

    Milliseconds on the slowest device if all variants were measured on the same devices, else ratios.
    """
    if record is None:
        return {}
    by_device: dict[str, dict[str, float]] = {name: {} for name in variants}
    for result in record.results:
        if result.source == "device" and result.variant in by_device and result.milliseconds is not None:
            by_device[result.variant][result.device] = result.milliseconds
    common = set.intersection(*(set(devices) for devices in by_device.values())) if by_device else set()
    if common:
        slowest = {name: max(devices[device] for device in common) for name, devices in by_device.items()}
        return {name: Figure(value, value, value) for name, value in slowest.items()}
    ratios = {name: ratio_of(record, name) for name in variants}
    return {name: ratio for name, ratio in ratios.items() if ratio is not None}


def median_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Median, and the interval between two order statistics that covers the true median with at least 95 %.

    The number of values below the true median is binomial, whatever their distribution. Of five values the whole range
    covers 93.75 %, and is taken.
    """
    ordered = sorted(values)
    count = len(ordered)
    rank, below = 0, 0.0
    while rank < count // 2 and (below := below + math.comb(count, rank) / 2**count) <= (1 - _LEVEL) / 2:
        rank += 1
    rank = max(rank, 1)
    return statistics.median(ordered), ordered[rank - 1], ordered[count - rank]


def this_machine() -> str:
    """The CPU and the number of its cores."""
    name = platform.processor() or platform.machine()
    if (cpuinfo := Path("/proc/cpuinfo")).exists() and (
        found := re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE)
    ):
        name = found[1].strip()
    return f"{name}, {os.cpu_count()} cores"


def _time(
    reference: dict[str, Any],
    files: Sequence[dict[str, Any]],
    ranges: Mapping[str, tuple[float, float]],
    spec: LatencySpec,
) -> Timings:
    """Times in a child; a file that ends it is left out of the next."""
    problems: dict[str, str] = {}
    while True:
        remaining = [file for file in files if file["name"] not in problems]
        request = {
            "reference": reference,
            "files": remaining,
            "ranges": {name: list(limits) for name, limits in ranges.items()},
            "rounds": spec.rounds,
            "runs": spec.runs,
        }
        control: list[Pair] = []
        timed: dict[str, list[Pair]] = defaultdict(list)
        at = reference["name"]
        try:
            for event in child_process.run(_CHILD, request, deadline_seconds=_DEADLINE_SECONDS):
                if "at" in event:
                    at = event["at"]
                elif "failed" in event:
                    problems[event["failed"]] = event["error"]
                elif event["name"] is None:
                    control.append((event["reference"], event["own"]))
                else:
                    timed[event["name"]].append((event["reference"], event["own"]))
        except child_process.ChildDied as died:
            problems[at] = f"the process ended: {died}."
            if at != reference["name"] and len(remaining) > 1:
                continue
            return Timings(problems=problems)
        return Timings(tuple(control), timed, problems)


def _ratio(pairs: Sequence[Pair]) -> tuple[float, float, float]:
    return median_interval([own / reference for reference, own in pairs])


def _result(name: str, ratio: tuple[float, float, float], milliseconds: float, device: str) -> LatencyResult:
    median, lower, upper = ratio
    return LatencyResult(
        variant=name,
        ratio=median,
        lower=lower,
        upper=upper,
        milliseconds=milliseconds,
        source="this_machine",
        device=device,
    )


def _within(values: tuple[float, float], limits: tuple[float, float]) -> bool:
    return limits[0] <= values[0] and values[1] <= limits[1]


def _listed(limits: tuple[float, float]) -> str:
    return f"{limits[0]:g} to {limits[1]:g}"
