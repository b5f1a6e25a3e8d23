"""From TFMA's calibration histogram to its binary confusion matrices, without its loops over ten thousand buckets."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from tensorflow_model_analysis.metrics import binary_confusion_matrices, calibration_histogram

_EPSILON = 1e-7  # as in binary_confusion_matrices


class MatricesOfHistogram:
    """Takes the place of TFMA's derived computation, with the same keys and the same result.

    Args:
        keys: Its keys.
        histogram_key: Key of the histogram.
        thresholds: Ascending.
    """

    def __init__(self, keys: Sequence[Any], histogram_key: Any, thresholds: Sequence[float]) -> None:
        self.keys = list(keys)
        self._histogram_key = histogram_key
        self._thresholds = list(thresholds)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, MatricesOfHistogram) and self.keys == other.keys

    def __hash__(self) -> int:
        return hash(tuple(self.keys))

    def result(self, metrics: Mapping[Any, Any]) -> dict[Any, Any]:
        """The confusion matrices at the thresholds."""
        thresholds = np.array(self._thresholds)
        first, edges = self._edges()
        buckets = metrics[self._histogram_key]
        numbers = np.array([bucket.bucket_id for bucket in buckets], np.float64)
        sums = np.array([(bucket.weighted_labels, bucket.weighted_examples) for bucket in buckets]).reshape(-1, 2)
        places = self.places(numbers)
        positive = np.bincount(places, sums[:, 0], len(edges))
        negative = np.bincount(places, sums[:, 1] - sums[:, 0], len(edges))
        offset = int(len(edges) > 1 and (first or len(thresholds) == 1))
        wanted = slice(offset, offset + len(thresholds))
        tp, fp = (np.cumsum(counts[::-1])[::-1][wanted] for counts in (positive, negative))
        fn, tn = ((np.cumsum(counts) - counts)[wanted] for counts in (positive, negative))
        beyond = thresholds >= 1 + _EPSILON
        fn, tn = np.where(beyond, tp[0], fn), np.where(beyond, fp[0], tn)
        tp, fp = np.where(beyond, 0, tp), np.where(beyond, 0, fp)
        lists = (values.tolist() for values in (tp, tn, fp, fn))
        return dict.fromkeys(self.keys, binary_confusion_matrices.Matrices(self._thresholds, *lists))

    def places(self, buckets: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """Between which thresholds buckets lie: numbers that grow with the prediction, of the shape of `buckets`."""
        _, edges = self._edges()
        count = calibration_histogram.DEFAULT_NUM_BUCKETS
        values = np.where(buckets == 0, -np.inf, np.where(buckets > count, np.inf, (buckets - 1) / count))
        places: npt.NDArray[np.int64] = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 1)
        return places

    def _edges(self) -> tuple[int, npt.NDArray[Any]]:
        """Whether there is an edge below the thresholds; and the edges."""
        thresholds = np.array(self._thresholds)
        edges = np.where(thresholds == 0, 0, thresholds + _EPSILON)
        # Buckets hold what is at least their left edge, a matrix what is above its threshold.
        first = int(thresholds[0] >= 0)
        return first, np.concatenate([[-_EPSILON] * first, edges, [1 + _EPSILON] * int(thresholds[-1] < 1)])


def replace(computation: Any, histogram_key: Any) -> Any:
    """A faster computation with the same result, if `computation` makes matrices of the histogram; else itself."""
    variables = inspect.getclosurevars(computation.result).nonlocals
    if variables.get("input_metric_key") != histogram_key or not variables.get("use_histogram"):
        return computation
    thresholds = variables["thresholds"]
    if len(thresholds) == 1 and thresholds[0] < 0:
        return computation
    return MatricesOfHistogram(computation.keys, histogram_key, thresholds)
