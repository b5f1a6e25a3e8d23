"""What a variant costs on a device, and which variants no other one beats."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tfx_mobile.quantization_evaluator.judging import latency as latencies
from tfx_mobile.quantization_evaluator.judging.latency import Figure
from tfx_mobile.quantization_evaluator.judging.objective import Quality
from tfx_mobile.records import Budget, LatencyRecord, LatencySpec, ProfileResult, Variant, VariantCost
from tfx_mobile.tflite.flatbuffer import read_model
from tfx_mobile.tflite.metadata_reader import read_metadata
from tfx_mobile.tflite.peak_memory import measure_peak_memory
from tfx_mobile.tflite.profiles import check_profiles

Interval = tuple[float, float]


@dataclass(frozen=True)
class Measured:
    """What was found out about the files that run, as far as it was asked for.

    Attributes:
        ran: Names of the variants that passed preflight.
        latency: None if it was not asked for.
        peak_memory: Bytes by variant, see `tflite.peak_memory`.
        memory_problems: Why there is no number, by variant.
        profiles: Results of the budget's profiles, by variant.
    """

    ran: frozenset[str] = frozenset()
    latency: LatencyRecord | None = None
    peak_memory: Mapping[str, int] = field(default_factory=dict)
    memory_problems: Mapping[str, str] = field(default_factory=dict)
    profiles: Mapping[str, tuple[ProfileResult, ...]] = field(default_factory=dict)


def needs_files(budget: Budget, latency: LatencySpec | None) -> bool:
    """Whether `measure` would look at the files."""
    return latency is not None or budget.max_peak_memory_bytes is not None or bool(budget.profiles)


def measure(
    variants: Sequence[Variant],
    files: Mapping[str, Path],
    budget: Budget,
    latency: LatencySpec | None,
    ranges: Mapping[str, tuple[float, float]],
) -> Measured:
    """Finds out what the budget and the objective ask for, and nothing else.

    Args:
        variants: What the converter made.
        files: Local files of those that passed preflight, by name.
        budget: The limits.
        latency: How latency is measured; None if nobody asks for it.
        ranges: Smallest and largest value by input name, where they are known.
    """
    by_name = {variant.name: variant for variant in variants}
    peaks: dict[str, int] = {}
    problems: dict[str, str] = {}
    if budget.max_peak_memory_bytes is not None:
        for name, path in files.items():
            file = by_name[name].file
            peak, problem = measure_peak_memory(path, select_tf_ops=bool(file and file.select_tf_ops))
            if peak is None:
                problems[name] = problem
            else:
                peaks[name] = peak
    return Measured(
        ran=frozenset(files),
        latency=latencies.measure(variants, files, ranges, latency) if latency is not None else None,
        peak_memory=peaks,
        memory_problems=problems,
        profiles={name: _profiles(by_name[name], path, budget.profiles) for name, path in files.items()},
    )


def _profiles(variant: Variant, path: Path, names: Sequence[str]) -> tuple[ProfileResult, ...]:
    """Results of profiles: those the converter recorded, the others from the file's bytes."""
    recorded = {result.profile: result for result in variant.profiles}
    missing = [name for name in names if name not in recorded]
    if missing and variant.file is not None:
        data = path.read_bytes()
        model = read_model(data)
        results = check_profiles(model, variant.file, read_metadata(model, data), missing)
        recorded.update((result.profile, result) for result in results)
    return tuple(recorded[name] for name in names)


def describe(
    variants: Sequence[Variant],
    measured: Measured,
    quality: Quality | None,
    scored: Collection[str],
    scores: Mapping[str, float],
) -> tuple[VariantCost, ...]:
    """One entry per variant with a file, in the given order.

    Args:
        variants: What the converter made.
        measured: What was found out about the files that run.
        quality: The metric that `quality` means; None if there is none.
        scored: Models that ran on the examples; the Pareto front is drawn over the variants among them.
        scores: What the objective minimises, by variant.
    """
    costs = [
        VariantCost(
            variant=variant.name,
            size_bytes=variant.file.size_bytes,
            gzip_bytes=variant.file.gzip_bytes,
            latency_ratio=ratio.value if (ratio := latencies.ratio_of(measured.latency, variant.name)) else None,
            peak_memory_bytes=measured.peak_memory.get(variant.name),
            quality=quality.values.get(variant.name) if quality else None,
            score=scores.get(variant.name),
        )
        for variant in variants
        if variant.file is not None
    ]
    candidates = [cost for cost in costs if cost.variant in scored]
    higher_is_better = quality.higher_is_better if quality else None
    comparable = latencies.comparable(measured.latency, [cost.variant for cost in candidates])
    front = pareto_front(candidates, higher_is_better, comparable)
    return tuple(cost.model_copy(update={"on_pareto_front": cost.variant in front}) for cost in costs)


def pareto_front(
    costs: Sequence[VariantCost], higher_is_better: bool | None, latency: Mapping[str, Figure]
) -> frozenset[str]:
    """Names of the variants that no other one beats: is better in one criterion, and in none worse.

    The criteria are size in bytes, quality, latency, and peak memory if all of them have it. A quality that is not
    finite is worse than any other. A latency is better only if the intervals do not overlap, so that noise alone puts
    nobody on the front; a variant without one is neither faster nor slower.
    """
    criteria: list[list[Interval]] = [[(cost.size_bytes, cost.size_bytes) for cost in costs]]
    if higher_is_better is not None:
        sign = -1 if higher_is_better else 1
        losses = [math.inf if cost.quality is None else sign * cost.quality for cost in costs]
        criteria.append([(loss, loss) for loss in losses])
    peaks = [cost.peak_memory_bytes for cost in costs if cost.peak_memory_bytes is not None]
    if len(peaks) == len(costs):
        criteria.append([(peak, peak) for peak in peaks])
    unknown = Figure(math.inf, 0.0, math.inf)
    figures = [latency.get(cost.variant, unknown) for cost in costs]
    criteria.append([(figure.lower, figure.upper) for figure in figures])

    def better(one: int, other: int) -> bool:
        return any(values[one][1] < values[other][0] for values in criteria)

    numbers = range(len(costs))
    return frozenset(
        costs[one].variant for one in numbers if not any(better(o, one) and not better(one, o) for o in numbers)
    )
