"""Which hard limits a variant misses, and which of them nobody could check."""

from __future__ import annotations

from dataclasses import dataclass

from tfx_mobile.quantization_evaluator.judging.costs import Measured
from tfx_mobile.quantization_evaluator.judging.latency import Figure, ratio_of
from tfx_mobile.records import Budget, ModelFileRecord, Reason, Undecided, Variant
from tfx_mobile.tflite.profiles import version_numbers


@dataclass(frozen=True)
class Outcome:
    """What a budget says of one variant.

    Attributes:
        reasons: Missed limits; what could not be decided too, if that blocks.
        cautions: What could not be decided and does not block.
    """

    reasons: tuple[Reason, ...]
    cautions: tuple[Reason, ...]


def check(variant: Variant, budget: Budget, measured: Measured, undecided: Undecided) -> Outcome:
    """Holds a variant against the limits.

    Args:
        variant: What the converter made; without a file nothing is checked.
        budget: The limits.
        measured: What was found out about the files that run. Of others only the size is checked.
        undecided: Whether a limit that cannot be checked blocks.
    """
    missed: list[Reason] = []
    open_questions: list[Reason] = []
    cautions: list[Reason] = []
    if variant.file is not None:
        missed += _check_bytes("The file has", variant.file.size_bytes, budget.max_size_bytes)
        missed += _check_bytes("After gzip the file has", variant.file.gzip_bytes, budget.max_gzip_bytes)
    if variant.file is not None and variant.name in measured.ran:
        for reason in (
            _check_memory(variant, budget, measured),
            _check_min_runtime(variant.file, budget),
            _check_latency_ratio(variant, budget, measured),
            _check_latency_ms(variant, budget, measured),
        ):
            if reason is not None:
                (missed if reason.code == "budget" else open_questions).append(reason)
        for reason in _check_profiles(variant, budget, measured):
            (missed if reason.code == "budget" else cautions).append(reason)
    if undecided == "block":
        return Outcome((*missed, *open_questions), tuple(cautions))
    return Outcome(tuple(missed), (*open_questions, *cautions))


def _check_bytes(what: str, size: int, limit: int | None) -> list[Reason]:
    if limit is None or size <= limit:
        return []
    return [
        Reason(
            code="budget",
            message=f"{what} {size:,} bytes; required: <= {limit:,}.",
            value=size,
            limit=f"<= {limit}",
        )
    ]


def _check_memory(variant: Variant, budget: Budget, measured: Measured) -> Reason | None:
    limit = budget.max_peak_memory_bytes
    if limit is None:
        return None
    peak = measured.peak_memory.get(variant.name)
    if peak is None:
        return Reason(
            code="memory_not_measurable",
            message=f"Its peak memory could not be measured, so the limit of {limit:,} bytes was not checked. "
            f"{measured.memory_problems.get(variant.name, '')}".rstrip(),
            limit=f"<= {limit}",
        )
    return next(iter(_check_bytes("Loading the file and running it once takes up to", peak, limit)), None)


def _check_min_runtime(file: ModelFileRecord, budget: Budget) -> Reason | None:
    limit, version = budget.max_min_runtime, file.min_runtime_version
    if limit is None:
        return None
    if version is None:
        return Reason(
            code="not_verified",
            message="The file does not say which TensorFlow Lite it needs, so the limit of the minimum runtime, "
            f"{limit}, was not checked.",
            limit=f"<= {limit}",
        )
    if version_numbers(version) <= version_numbers(limit):
        return None
    return Reason(
        code="budget",
        message=f"The file needs TensorFlow Lite {version} or newer; required: <= {limit}.",
        limit=f"<= {limit}",
    )


def _check_latency_ratio(variant: Variant, budget: Budget, measured: Measured) -> Reason | None:
    limit = budget.max_latency_ratio
    if limit is None:
        return None
    figure = ratio_of(measured.latency, variant.name)
    if measured.latency is not None and variant.name == measured.latency.reference:
        figure = Figure(1.0, 1.0, 1.0)  # by definition, measurable or not
    if figure is None:
        return Reason(
            code="latency_not_measurable",
            message=f"Its latency could not be measured, so the limit of {limit:g} times the float32 variant's was not "
            f"checked. {measured.latency.message if measured.latency else ''}".rstrip(),
            limit=f"<= {limit:g}",
        )
    exact = figure.lower == figure.upper
    found = f"{figure.value:.3f} times the float32 variant's" + (
        "" if exact else f" ({figure.lower:.3f} to {figure.upper:.3f})"
    )
    if figure.upper <= limit:
        return None
    if figure.lower > limit:
        return Reason(
            code="budget",
            message=f"Its latency is {found}; required: <= {limit:g}.",
            value=figure.value,
            limit=f"<= {limit:g}",
        )
    return Reason(
        code="latency_undecided",
        message=f"Its latency is {found}: whether it is <= {limit:g} cannot be told here. More rounds or device "
        "numbers may tell.",
        value=figure.value,
        limit=f"<= {limit:g}",
    )


def _check_latency_ms(variant: Variant, budget: Budget, measured: Measured) -> Reason | None:
    limit = budget.max_latency_ms
    if limit is None:
        return None
    results = [
        (result.milliseconds, result.device)
        for result in (measured.latency.results if measured.latency else ())
        if result.variant == variant.name and result.source == "device" and result.milliseconds is not None
    ]
    if not results:
        return Reason(
            code="latency_not_measurable",
            message=f"No device number is given for this file, so the limit of {limit:g} ms was not checked. Measure "
            "it with TFLite's benchmark_model and add it to LatencySpec(device=[...]).",
            limit=f"<= {limit:g} ms",
        )
    slowest, device = max(results)
    if slowest <= limit:
        return None
    return Reason(
        code="budget",
        message=f"One inference takes {slowest:g} ms on {device}; required: <= {limit:g} ms.",
        value=slowest,
        limit=f"<= {limit:g} ms",
    )


def _check_profiles(variant: Variant, budget: Budget, measured: Measured) -> list[Reason]:
    results = {result.profile: result for result in measured.profiles.get(variant.name, ())}
    reasons = []
    for name in budget.profiles:
        result = results[name]
        if result.result == "pass":
            continue
        rules = [rule for rule in result.rules if rule.result == result.result]
        listed = "; ".join(f"{rule.id} ({rule.statement}; found: {rule.detail})" for rule in rules)
        failed = result.result == "fail"
        reasons.append(
            Reason(
                code="budget" if failed else "not_verified",
                message=f"The file {'fails' if failed else 'is not verified for'} compatibility profile {name}: "
                f"{listed}.",
                limit=name,
            )
        )
    return reasons
