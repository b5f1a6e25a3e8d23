"""Variants against compatibility profiles."""

from __future__ import annotations

from dataclasses import dataclass

from tfx_mobile.records import EvaluationRecord, RuleResult, RuleStatus


@dataclass(frozen=True)
class Remark:
    """A rule that does not pass, and the variants it says the same about."""

    profile: str
    rule: RuleResult
    variants: tuple[str, ...]


@dataclass(frozen=True)
class Matrix:
    """What each profile says about each variant.

    Attributes:
        profiles: The columns.
        required: Those of them that the budget asks for.
        rows: Variant and its cells; None where the profile was not asked about it.
        remarks: Failed rules first, then those not verified.
    """

    profiles: tuple[str, ...]
    required: tuple[str, ...]
    rows: tuple[tuple[str, tuple[RuleStatus | None, ...]], ...]
    remarks: tuple[Remark, ...]


def make_matrix(record: EvaluationRecord) -> Matrix | None:
    """The matrix; None where no profile was checked."""
    checked = {
        variant.name: {result.profile: result for result in variant.profiles}
        for variant in record.variants
        if variant.profiles
    }
    profiles = tuple(dict.fromkeys(profile for results in checked.values() for profile in results))
    if not profiles:
        return None
    remarks: dict[tuple[str, RuleResult], list[str]] = {}
    for name, results in checked.items():
        for result in results.values():
            for rule in result.rules:
                if rule.result != "pass":
                    remarks.setdefault((result.profile, rule), []).append(name)
    ordered = sorted(remarks.items(), key=lambda item: (item[0][1].result != "fail", profiles.index(item[0][0])))
    return Matrix(
        profiles=profiles,
        required=tuple(profile for profile in profiles if profile in record.budget.profiles),
        rows=tuple(
            (name, tuple(results[p].result if p in results else None for p in profiles))
            for name, results in checked.items()
        ),
        remarks=tuple(Remark(profile, rule, tuple(names)) for (profile, rule), names in ordered),
    )
