"""How sure the change of an area under a curve is: a paired Poisson bootstrap of a bounded sample of examples.

An area is no sum over examples, and its histogram has ten thousand buckets, so a histogram for each replicate would not
fit. Instead a slice keeps, of each class of label, the examples with the smallest hashes: as good as drawn at random,
the same ones for every model, in whatever order and on whatever worker they come, and of a fixed size. They are drawn
again in each replicate. As drawing k of n examples spreads as much as k examples do, the weights are pulled towards 1
until they spread as n do (Rao and Wu, "Resampling inference with complex survey data", JASA 83, 1988, 231-241), each
class by its own k and n; a slice that fits is drawn as any other metric is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from tfx_mobile.quantization_evaluator.scoring.vectorized import bootstrap

Array = npt.NDArray[np.float64]

#: How many examples of each class a slice keeps.
KEPT = 2048
_CLASSES = 2
#: Replicates at once, so that what is made of them stays small.
_STEP = 125


@dataclass(frozen=True)
class Sample:
    """The examples of a slice with the smallest hashes, of each class as many as are kept.

    Attributes:
        counts: How many examples there are of labels below 0.5, and of the others, int64 [2].
        hashes: Ascending within a class, the classes one after the other, uint64 [kept].
        rows: Bucket of the prediction, label and weight, float64 [kept, 3].
    """

    counts: npt.NDArray[np.int64]
    hashes: npt.NDArray[np.uint64]
    rows: Array

    @classmethod
    def of(cls, hashes: npt.NDArray[np.uint64], rows: Array) -> Sample:
        """The sample of some examples; those without weight are none.

        Args:
            hashes: uint64 [examples].
            rows: Bucket, label, weight, float64 [examples, 3].
        """
        counted = rows[:, 2] > 0
        hashes, rows = hashes[counted], rows[counted]
        classes = _classes(rows)
        return cls(np.bincount(classes, minlength=_CLASSES), *_smallest(hashes, rows, classes))

    def __add__(self, other: Sample) -> Sample:
        hashes, rows = np.concatenate([self.hashes, other.hashes]), np.concatenate([self.rows, other.rows])
        return Sample(self.counts + other.counts, *_smallest(hashes, rows, _classes(rows)))

    def placed(self, places: Callable[[Array], npt.NDArray[np.int64]]) -> Sample:
        """The same with places between thresholds instead of buckets."""
        return replace(self, rows=np.column_stack([places(self.rows[:, 0]), self.rows[:, 1:]]).astype(np.float64))

    @property
    def kept(self) -> npt.NDArray[np.int64]:
        """How many examples of each class are in the sample, int64 [2]."""
        return np.minimum(self.counts, KEPT)


def _classes(rows: Array) -> npt.NDArray[np.int64]:
    return (rows[:, 1] >= 0.5).astype(np.int64)


def _smallest(
    hashes: npt.NDArray[np.uint64], rows: Array, classes: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.uint64], Array]:
    # Examples with one hash are equal, unless a model does not give the same twice. The other keys see to it that the
    # order they come in decides nothing even then.
    order = np.lexsort((*rows.T, hashes, classes))
    ends = np.cumsum(np.bincount(classes, minlength=_CLASSES))
    kept = np.concatenate([order[: ends[0]][:KEPT], order[ends[0] :][:KEPT]])
    return hashes[kept], rows[kept]


def replicates(
    reference: Sample, own: Sample, curve: str, change: float, number: int
) -> tuple[npt.NDArray[np.float64], int] | None:
    """The change of an area in each replicate of a bootstrap that draws the same examples for both models.

    Args:
        reference: The reference's sample, with places between thresholds instead of buckets.
        own: The model's.
        curve: `ROC` or `PR`.
        change: As measured on all examples.
        number: How many replicates.

    Returns:
        float64 [number], NaN where a replicate has no area; and how many examples of the rarer class the sample holds.
        None if the samples are not of the same examples.
    """
    if not (np.array_equal(reference.hashes, own.hashes) and np.array_equal(reference.rows[:, 1:], own.rows[:, 1:])):
        return None
    kept, counts = own.kept.astype(np.float64), own.counts.astype(np.float64)
    classes = _classes(own.rows)
    pull = np.sqrt(kept / np.maximum(counts, 1))[classes]
    stands_for = (counts / np.maximum(kept, 1))[classes]
    drawn = bootstrap.poisson_weights(own.hashes, number)

    def changes(weights: Array) -> Array:
        return area(own.rows, weights, curve) - area(reference.rows, weights, curve)

    found = np.concatenate(
        [changes((1 + pull * (drawn[:, i : i + _STEP].T - 1.0)) * stands_for) for i in range(0, number, _STEP)]
    )
    if (kept < counts).any():
        # The sample's own change is not that of all examples. But a replicate without any change stays one: it shows
        # that only a handful of examples made the change.
        found = np.where(found == 0, 0.0, found + change - changes(stands_for[None]))
    return found, int(kept.min())


def area(rows: Array, weights: Array, curve: str) -> Array:
    """The area under a curve as TFMA has it, for several weightings of the same examples.

    Args:
        rows: A number that grows with the prediction, label and weight of each example, float64 [examples, 3].
        weights: Factors of the examples' own weights, float64 [weightings, examples].
        curve: `ROC` or `PR`.

    Returns:
        float64 [weightings]; NaN where one of the classes has no weight.
    """
    order = np.argsort(rows[:, 0], kind="stable")
    starts = np.flatnonzero(np.diff(rows[order, 0], prepend=-np.inf))
    if not len(starts):
        return np.full(len(weights), np.nan)
    label, weight = rows[order, 1], rows[order, 2]
    weighted = weights[:, order] * weight
    positive = np.add.reduceat(weighted * label, starts, axis=1)
    both = np.add.reduceat(weighted, starts, axis=1)
    with np.errstate(all="ignore"):
        if curve == "ROC":
            negative = both - positive
            below = np.cumsum(negative, axis=1) - negative / 2
            found = (positive * below).sum(axis=1) / (positive.sum(axis=1) * negative.sum(axis=1))
        else:
            # Of Davis and Goadrich: true and false positives are interpolated, precision is made of them.
            true, all_ = (np.cumsum(values[:, ::-1], axis=1)[:, ::-1] for values in (positive, both))
            true_next, all_next = true - positive, all_ - both
            slope = np.where(both > 0, positive / both, 0.0)
            ratio = np.where(_some(all_next, all_), all_ / all_next, 1.0)
            pieces = slope * (positive + (true_next - slope * all_next) * np.log(ratio))
            found = pieces.sum(axis=1) / true[:, 0]
            found[all_[:, 0] - true[:, 0] <= 0] = np.nan
    return np.where(np.isfinite(found), found, np.nan)


def _some(rest: Array, total: Array) -> npt.NDArray[np.bool_]:
    """Where something is left, rounding aside."""
    left: npt.NDArray[np.bool_] = rest > 1e-12 * total[:, :1]
    return left
