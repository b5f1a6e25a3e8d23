"""How often the interval of the change of an area holds the true change, by simulation.

Scores are binormal: standard normal, 1.5 higher for positives. The variant is the same model with noise of its own, so
that the areas are correlated as those of a float model and its quantized file are. The true change of ROC AUC is known;
that of PR AUC is measured on four million examples. Nominal is 95 %; what is missed is counted on either side.
"""

from __future__ import annotations

import argparse

import numpy as np
from scipy import stats

from measuring import write_result
from tfx_mobile.quantization_evaluator.judging.intervals import interval
from tfx_mobile.quantization_evaluator.scoring.paired import PairedSample
from tfx_mobile.quantization_evaluator.scoring.vectorized import areas
from tfx_mobile.quantization_evaluator.scoring.vectorized.areas import Sample

DISTANCE = 1.5
# Examples, share of positives, noise, how many examples of each class a slice keeps.
CASES = (
    (100, 0.5, 0.3, 2048),
    (100, 0.1, 0.3, 2048),
    (400, 0.5, 0.3, 2048),
    (400, 0.5, 0.05, 2048),
    (1000, 0.5, 0.3, 2048),
    (1000, 0.5, 0.3, 256),
    (3000, 0.03, 0.2, 256),
    (6000, 0.1, 0.3, 256),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=400, help="simulated evaluations per case")
    rounds = parser.parse_args().rounds
    rows = []
    for curve in ("ROC", "PR"):
        for count, share, noise, kept in CASES:
            areas.KEPT = kept
            found = simulate(np.random.default_rng(0), curve, count, share, noise, rounds)
            rows.append({"curve": curve, "examples": count, "positives": share, "noise": noise, "kept": kept, **found})
            print(rows[-1], flush=True)
    write_result(__file__, {"level": 0.95, "rounds": rounds, "cases": rows}, whole=rounds == 400)


def simulate(
    rng: np.random.Generator, curve: str, count: int, share: float, noise: float, rounds: int
) -> dict[str, float]:
    truth = true_change(curve, share, noise)
    below = above = without = 0
    widths = []
    for _ in range(rounds):
        labels, values = scores(rng, count, share, noise)
        found = interval(paired(rng, curve, labels, values), 0.95)
        if found is None:
            without += 1
            continue
        below += truth < found.lower
        above += truth > found.upper
        widths.append(found.upper - found.lower)
    return {
        "covered": round(1 - (below + above) / len(widths), 3),
        "truth_below": int(below),
        "truth_above": int(above),
        "no_interval": without,
        "median_width": round(float(np.median(widths)), 4),
    }


def scores(rng: np.random.Generator, count: int, share: float, noise: float) -> tuple[np.ndarray, np.ndarray]:
    labels = (rng.random(count) < share).astype(np.float64)
    good = rng.normal(size=count) + DISTANCE * labels
    return labels, np.stack([good, good + noise * rng.normal(size=count)])


def true_change(curve: str, share: float, noise: float) -> float:
    if curve == "ROC":
        spread = np.sqrt(2 * (1 + noise**2))
        return float(stats.norm.cdf(DISTANCE / spread) - stats.norm.cdf(DISTANCE / np.sqrt(2)))
    labels, values = scores(np.random.default_rng(1), 4_000_000, share, noise)
    return area(curve, labels, values[1]) - area(curve, labels, values[0])


def paired(rng: np.random.Generator, curve: str, labels: np.ndarray, values: np.ndarray) -> PairedSample:
    hashes = rng.integers(0, 2**63, len(labels)).astype(np.uint64)
    reference, own = (Sample.of(hashes, rows_of(labels, row)) for row in values)
    before, after = (area(curve, labels, row) for row in values)
    drawn = areas.replicates(reference, own, curve, after - before, 1000)
    assert drawn is not None
    return PairedSample(
        "v", "saved_model", "auc", "overall", len(labels), after, before, replicates=drawn[0], rarest=drawn[1]
    )


def area(curve: str, labels: np.ndarray, values: np.ndarray) -> float:
    return float(areas.area(rows_of(labels, values), np.ones((1, len(labels))), curve)[0])


def rows_of(labels: np.ndarray, values: np.ndarray) -> np.ndarray:
    """In ten thousand buckets, as TFMA has it."""
    buckets = np.floor(stats.norm.cdf((values - DISTANCE / 2) / 1.5) * 10_000)
    return np.stack([buckets, labels, np.ones(len(labels))], axis=1)


if __name__ == "__main__":
    main()
