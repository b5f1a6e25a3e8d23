"""How sure a change between two models is that were scored on the same examples."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import optimize, special

from tfx_mobile.quantization_evaluator.scoring.paired import PairedSample

# A quantile of replicates is noise if it rests on fewer of them; further out the interval is stretched.
_TAIL_REPLICATES = 10
_MOST_EXAMPLES = 10**9


@dataclass(frozen=True)
class Interval:
    """A two-sided confidence interval of a change, in the metric's units; it contains the measured change."""

    lower: float
    upper: float
    method: Literal["tango", "paired_bootstrap"]


def interval(sample: PairedSample, level: float) -> Interval | None:
    """The confidence interval of a sample's change.

    Args:
        sample: Counts of changed examples are preferred to replicates.
        level: Two-sided confidence level, in (0, 1).

    Returns:
        None if the sample says nothing about its spread: it has neither counts nor replicates, a value is not finite,
        there are fewer than two examples to draw from, or too many replicates have no value.
    """
    n, change = sample.num_examples, sample.value - sample.reference_value
    if not n or not math.isfinite(change):
        return None
    if sample.gained is not None and sample.lost is not None:
        lower, upper = tango(sample.gained, sample.lost, n, level)
        return Interval(min(lower, change), max(upper, change), "tango")
    reach = _reach(sample, level)
    if reach is None:
        return None
    unseen = _unseen(sample, _units(sample, n), level)
    below, above = (max(distance, unseen) for distance in reach)
    return Interval(change - below, change + above, "paired_bootstrap")


def examples_needed(sample: PairedSample, limit: float, level: float) -> int | None:
    """About how many examples would decide on which side of `limit` the change is, were it to stay as measured.

    Args:
        sample: A sample whose interval at `level` contains `limit`.
        limit: In the metric's units.
        level: Two-sided confidence level, in (0, 1).

    Returns:
        The smallest number whose interval clears the limit: with the same shares of changed examples, or with a
        bootstrap interval that narrows with the square root. None if no number up to a billion does, as where the
        change sits on the limit, or if there is no interval.
    """
    n, change = sample.num_examples, sample.value - sample.reference_value
    if not n or not math.isfinite(change):
        return None
    if sample.gained is not None and sample.lost is not None:
        gained, lost, z = sample.gained / n, sample.lost / n, _deviate(level)
        return _smallest(lambda size: abs(tango_score(gained * size, lost * size, size, limit)) >= z, n)
    if (reaches := _reach(sample, level)) is None:
        return None
    distance = abs(change - limit)
    reach, units = reaches[0] if limit < change else reaches[1], _units(sample, n) / n

    def decides(size: int) -> bool:
        return max(reach * math.sqrt(n / size), _unseen(sample, size * units, level)) <= distance

    return _smallest(decides, n)


def tango(gained: float, lost: float, num_examples: int, level: float) -> tuple[float, float]:
    """Tango's score interval of the difference of two proportions on the same examples: `(gained - lost) / n`.

    Inverts the score test, and so holds where the usual formulas collapse: with no changed example at all it is
    0 +- z^2 / (n + z^2). Tango, "Equivalence test and confidence interval for the difference in proportions for the
    paired-sample design", Statistics in Medicine 17 (1998), 891-908.

    Args:
        gained: Examples scored 0 by the reference and 1 by the candidate.
        lost: Examples scored 1 by the reference and 0 by the candidate.
        num_examples: All examples.
        level: Two-sided confidence level, in (0, 1).

    Returns:
        The lower and the upper end, in [-1, 1].
    """
    z = _deviate(level)
    estimate = (gained - lost) / num_examples

    def end(target: float, bound: float) -> float:
        if estimate == bound:
            return bound
        ends = sorted((bound, estimate))
        return float(optimize.bisect(lambda x: tango_score(gained, lost, num_examples, x) - target, *ends, xtol=1e-10))

    return end(z, -1.0), end(-z, 1.0)


def tango_score(gained: float, lost: float, num_examples: float, change: float) -> float:
    """Tango's statistic for the hypothesis that the true change is `change`; standard normal if it is.

    Args:
        gained: See `tango`.
        lost: See `tango`.
        num_examples: See `tango`.
        change: The hypothesis, in [-1, 1].
    """
    # The most likely share of lost examples under the hypothesis solves a q^2 + b q + c = 0.
    a = 2 * num_examples
    b = (2 * num_examples - gained + lost) * change - gained - lost
    c = -lost * change * (1 - change)
    root = math.sqrt(max(b * b - 4 * a * c, 0.0))
    share_lost = (root - b) / (2 * a) if b <= 0 else -2 * c / (b + root)
    variance = num_examples * (2 * share_lost + change * (1 - change))
    distance = gained - lost - num_examples * change
    if variance <= 0:
        return math.copysign(math.inf, distance) if distance else 0.0
    return distance / math.sqrt(variance)


def _reach(sample: PairedSample, level: float) -> tuple[float, float] | None:
    """How far below and above the measured change the bootstrap's interval reaches.

    Percentiles of the replicates (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13), moved
    outwards for few examples by Student's t (Hesterberg, "What Teachers Should Know About the Bootstrap", The American
    Statistician 69, 2015: the expanded percentile interval).
    """
    n = _units(sample, sample.num_examples or 0)
    if n < 2 or sample.replicates is None or len(sample.replicates) <= 2 * _TAIL_REPLICATES:
        return None
    wanted = -float(special.stdtrit(n - 1, (1 - level) / 2)) * math.sqrt(n / (n - 1))
    used = min(wanted, -float(special.ndtri(_TAIL_REPLICATES / len(sample.replicates))))
    share = float(special.ndtr(-used))
    change = sample.value - sample.reference_value
    below, above = (
        max(change * sign - _quantile(sample.replicates * sign, share), 0.0) * wanted / used for sign in (1, -1)
    )
    return (below, above) if math.isfinite(below) and math.isfinite(above) else None


def _units(sample: PairedSample, num_examples: int) -> int:
    """On how many examples the metric rests."""
    return num_examples if sample.rarest is None else sample.rarest


def _quantile(replicates: npt.NDArray[Any], share: float) -> float:
    """The lower quantile; a replicate without a value could have been anything, and counts as the lowest."""
    values = np.where(np.isfinite(replicates), replicates, -np.inf)
    return float(np.quantile(values, share, method="inverted_cdf"))


def _unseen(sample: PairedSample, num_examples: float, level: float) -> float:
    """The least half width where examples change rarely, as scores that are 0 or 1 do, and so hardly spread.

    A replicate in which nothing changed shows that only a handful of examples did. A bootstrap knows no others, so
    with none it would be sure of everything; n unchanged examples leave room for a share of z^2 / (n + z^2), as in
    `tango`, each by about the metric's own size.
    """
    scale = max(1.0, abs(sample.value), abs(sample.reference_value))
    if sample.replicates is None or not np.any(np.abs(sample.replicates) <= 1e-12 * scale):
        return 0.0
    square = _deviate(level) ** 2
    return scale * square / (num_examples + square)


def _deviate(level: float) -> float:
    return -float(special.ndtri((1 - level) / 2))


def _smallest(decides: Callable[[int], bool], undecided: int) -> int | None:
    """The smallest number above `undecided` that decides, of a condition that stays true once it is."""
    low, high = undecided, 2 * undecided
    while not decides(high):
        low, high = high, 2 * high
        if high > _MOST_EXAMPLES:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if decides(middle) else (middle, high)
    return high
