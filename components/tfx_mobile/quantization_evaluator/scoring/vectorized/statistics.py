"""What TFMA's combiners sum up example by example, as columns that are summed up for all examples at once.

A statistic stands for one of TFMA's MetricComputations and gives the same result. What TFMA derives from it (precision
from a confusion matrix, AUC from a histogram) stays TFMA's. Two kinds: columns of numbers, and histograms, which keep
the buckets that occur.

An example that a metric is not defined on (TFMA's own combiner would stop the run) makes the metric NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
from tensorflow_model_analysis.metrics import calibration_histogram
from typing_extensions import override

from tfx_mobile.quantization_evaluator.scoring.vectorized.rows import Columns, RowBatch, spread

Array = npt.NDArray[Any]


class Statistic:
    """Columns that are summed up.

    Attributes:
        keys: The MetricKeys it gives values for.
        columns: Where its input is found.
        width: How many columns it has.
        needs_labels: Whether it reads labels and predictions.
    """

    width = 2
    needs_labels = True

    def __init__(self, keys: tuple[Any, ...], columns: Columns) -> None:
        self.keys = keys
        self.columns = columns

    def setup(self) -> None:
        """Makes what does not travel to Beam's workers."""

    def rows(self, batch: RowBatch) -> Array:
        """The columns, float64 [rows, width]."""
        raise NotImplementedError

    def result(self, sums: Array) -> dict[Any, Any]:
        """Values by MetricKey, as TFMA's combiner gives them.

        Args:
            sums: Sums of the columns over the examples, float64 [width].
        """
        value = self.value(sums)
        return dict.fromkeys(self.keys, float(value) if isinstance(value, np.ndarray) else value)

    def value(self, sums: Array) -> Any:
        """The value of sums [..., width], for as many samples as there are."""
        raise NotImplementedError


class ExampleCount(Statistic):
    """The sum of weights."""

    width = 1
    needs_labels = False

    @override
    def rows(self, batch: RowBatch) -> Array:
        counts: Array = batch.weights(self.columns).sum(axis=1, keepdims=True)
        return counts

    @override
    def value(self, sums: Array) -> Any:
        return sums[..., 0]


class WeightedMean(Statistic):
    """A weighted mean of values per example; the columns are weighted values and weights."""

    @override
    def value(self, sums: Array) -> Any:
        with np.errstate(divide="ignore", invalid="ignore"):
            return sums[..., 0] / sums[..., 1]


class KerasMean(WeightedMean):
    """A Keras metric that is the mean of a function of labels and predictions, or the root of one.

    Args:
        keys: See Statistic.
        columns: See Statistic.
        make_metric: Makes the Keras metric; travels to the workers.
        square_root: Whether the result is the mean's root.
        class_numbers: Whether labels are class numbers that Keras refuses out of range.
        scores_classes: Whether each example is scored 0 or 1.
    """

    def __init__(
        self,
        keys: tuple[Any, ...],
        columns: Columns,
        make_metric: Callable[[], Any],
        *,
        square_root: bool,
        class_numbers: bool,
        scores_classes: bool,
    ) -> None:
        super().__init__(keys, columns)
        self._make_metric = make_metric
        self._square_root = square_root
        self._class_numbers = class_numbers
        self._scores_classes = scores_classes
        self._average: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_average": None}

    @override
    def setup(self) -> None:
        if self._average is None:
            # In single precision a value would depend on its place in the batch, in the last digit.
            self._average = _averaged_values(self._make_metric(), None if self._scores_classes else "float64")

    def values(self, batch: RowBatch) -> Array:
        """What Keras averages: float64 [rows] or [rows, positions]."""
        label, prediction = batch.label_and_prediction(self.columns)
        unknown = None
        if self._class_numbers and label.dtype.kind in "iuf":
            outside = (label < 0) | (label >= prediction.shape[-1])
            if outside.any():
                unknown = outside.reshape(batch.count, -1).any(axis=1)
                label = np.where(outside, 0, label)
        values = np.asarray(self._average(label, prediction), np.float64)
        if unknown is not None:
            values = values.copy()
            values[unknown] = np.nan
        return values

    @override
    def rows(self, batch: RowBatch) -> Array:
        values = self.values(batch).reshape(batch.count, -1)
        weights = spread(batch.weights(self.columns), values.shape[1])
        return np.stack([(values * weights).sum(axis=1), weights.sum(axis=1)], axis=1)

    def scores_zero_or_one(self, batch: RowBatch) -> bool:
        """Whether the metric is the plain mean of one 0 or 1 per example."""
        if not self._scores_classes or self.columns.weighted:
            return False
        label, prediction = batch.label_and_prediction(self.columns)
        return label.ndim == 2 and prediction.ndim == 2

    @override
    def value(self, sums: Array) -> Any:
        # As Keras has it: nothing over nothing is 0.
        mean = np.divide(sums[..., 0], sums[..., 1], out=np.zeros(sums.shape[:-1]), where=sums[..., 1] != 0)
        with np.errstate(invalid="ignore"):
            return np.sqrt(mean) if self._square_root else mean


class RegressionError(WeightedMean):
    """TFMA's mean regression errors. Where the error is NaN (percentage of a label 0) the pair is left out."""

    def __init__(self, keys: tuple[Any, ...], columns: Columns, kind: str) -> None:
        super().__init__(keys, columns)
        self._error = ERRORS[kind]

    @override
    def rows(self, batch: RowBatch) -> Array:
        label, prediction, weights = batch.pairs(self.columns)
        with np.errstate(divide="ignore", invalid="ignore"):
            errors = self._error(label, prediction).astype(np.float64)
        defined = ~np.isnan(errors)
        return np.stack([(np.where(defined, errors, 0) * weights).sum(1), (defined * weights).sum(1)], axis=1)


class CrossEntropy(WeightedMean):
    """TFMA's own binary and categorical cross-entropy, which differ from Keras's: nothing is clipped."""

    def __init__(
        self, keys: tuple[Any, ...], columns: Columns, *, binary: bool, from_logits: bool, label_smoothing: float
    ) -> None:
        super().__init__(keys, columns)
        self._binary = binary
        self._from_logits = from_logits
        self._label_smoothing = label_smoothing

    @override
    def rows(self, batch: RowBatch) -> Array:
        label, prediction = batch.label_and_prediction(self.columns)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            entropies = (self._binary_entropies if self._binary else self._categorical_entropies)(label, prediction)
        weights = batch.weights(self.columns)
        spread(weights, 1)
        return np.stack([entropies * weights[:, 0], weights[:, 0]], axis=1)

    def _binary_entropies(self, label: Array, prediction: Array) -> Array:
        label = label * (1.0 - self._label_smoothing) + 0.5 * self._label_smoothing
        if self._from_logits:
            values = np.maximum(prediction, 0) - prediction * label + np.log(1 + np.exp(-np.abs(prediction)))
        else:
            values = -label * np.log(prediction) - (1 - label) * np.log(1 - prediction)
        means: Array = values.reshape(len(values), -1).mean(axis=1, dtype=np.float64)
        return means

    def _categorical_entropies(self, label: Array, prediction: Array) -> Array:
        label = label * (1.0 - self._label_smoothing) + self._label_smoothing / prediction.shape[1]
        if self._from_logits:
            prediction = np.exp(prediction)
        flat = prediction.reshape(len(prediction), -1)
        shares = (flat / flat.sum(axis=1, keepdims=True)).reshape(prediction.shape)
        # Masked where there is no logarithm, and left out of the sum, as in TFMA.
        products: Array = np.multiply(label, np.ma.log(shares)).filled(0)  # type: ignore[attr-defined]
        sums: Array = products.reshape(len(products), -1).sum(axis=1, dtype=np.float64)
        return -sums


class LabelsAndPredictions(Statistic):
    """Weighted labels, weighted predictions and weights."""

    width = 3

    @override
    def rows(self, batch: RowBatch) -> Array:
        label, prediction, weights = batch.pairs(self.columns)
        return np.stack([(label * weights).sum(1), (prediction * weights).sum(1), weights.sum(1)], axis=1)

    @override
    def value(self, sums: Array) -> Any:
        return SimpleNamespace(
            total_weighted_labels=float(sums[0]),
            total_weighted_predictions=float(sums[1]),
            total_weighted_examples=float(sums[2]),
        )


class ConfusionMatrices(Statistic):
    """Binary confusion matrices at thresholds; the columns are tp, tn, fp and fn of one threshold after the other."""

    def __init__(
        self, keys: tuple[Any, ...], columns: Columns, thresholds: tuple[float, ...], *, fractional_labels: bool
    ) -> None:
        super().__init__(keys, columns)
        self.thresholds = thresholds
        self.width = 4 * len(thresholds)
        self._fractional_labels = fractional_labels

    @override
    def rows(self, batch: RowBatch) -> Array:
        label, prediction, weights = _pairs(batch, self.columns, fractional_labels=self._fractional_labels)
        columns = []
        for threshold in self.thresholds:
            share = label if self._fractional_labels else np.where(np.isnan(label), np.nan, label > threshold)
            positive, negative = weights * share, weights * (1 - share)
            above = prediction > threshold
            columns += [positive * above, negative * ~above, negative * above, positive * ~above]
        return np.stack([column.sum(axis=1) for column in columns], axis=1)

    @override
    def value(self, sums: Array) -> Any:
        entries = {}
        for index, threshold in enumerate(self.thresholds):
            tp, tn, fp, fn = map(float, sums[4 * index : 4 * index + 4])
            entries[threshold] = SimpleNamespace(
                matrix=SimpleNamespace(tp=tp, tn=tn, fp=fp, fn=fn),
                tp_examples=[],
                tn_examples=[],
                fp_examples=[],
                fn_examples=[],
            )
        return entries

    def scores_zero_or_one(self, batch: RowBatch) -> bool:
        """Whether its accuracy is the plain mean of one 0 or 1 per example, if labels are 0 or 1."""
        if self.columns.weighted or len(self.thresholds) != 1:
            return False
        return bool(batch.label_and_prediction(self.columns)[1].shape[1:] == (1,))


class Histogram(Statistic):
    """TFMA's calibration histogram. Its only column is NaN where an example has no bucket, which NaN outputs have not.

    Args:
        keys: See Statistic.
        columns: See Statistic.
        buckets: Number of buckets between `left` and `left + extent`; one more on either side.
        left: Where they begin.
        extent: How wide they are together.
        fractional_labels: Whether labels must be between 0 and 1.
        by_prediction: Whether predictions decide the bucket, not labels.
    """

    width = 1

    def __init__(
        self,
        keys: tuple[Any, ...],
        columns: Columns,
        *,
        buckets: int,
        left: float,
        extent: float,
        fractional_labels: bool,
        by_prediction: bool,
    ) -> None:
        super().__init__(keys, columns)
        self._buckets = buckets
        self._left = left
        self._extent = extent
        self._fractional_labels = fractional_labels
        self._by_prediction = by_prediction

    @override
    def rows(self, batch: RowBatch) -> Array:
        label, prediction, _ = _pairs(batch, self.columns, fractional_labels=self._fractional_labels)
        return np.where(self._bad(label, prediction).any(axis=1), np.nan, 0.0)[:, None]

    def entries(self, batch: RowBatch) -> tuple[Array, Array]:
        """The bucket of every pair, int64 [rows, pairs]; and its weighted label, weighted prediction and weight,
        float64 [rows, pairs, 3], all zero where there is no bucket.
        """
        label, prediction, weights = _pairs(batch, self.columns, fractional_labels=self._fractional_labels)
        bad = self._bad(label, prediction)
        label = np.where(bad, 0, label).astype(np.float64)
        prediction = np.where(bad, 0, prediction).astype(np.float64)
        weights = np.where(bad, 0, weights)
        by = prediction if self._by_prediction else label
        position = (by - self._left) / self._extent * self._buckets + 1
        buckets = np.clip(position, 0, self._buckets + 1).astype(np.int64)
        return buckets, np.stack([label * weights, prediction * weights, weights], axis=2)

    def sampled(self, batch: RowBatch) -> Array | None:
        """Bucket, label and weight of each example, float64 [rows, 3]; None if an example is several pairs."""
        label, prediction, weights = _pairs(batch, self.columns, fractional_labels=self._fractional_labels)
        if prediction.shape[1] != 1:
            return None
        buckets, _ = self.entries(batch)
        weights = np.where(self._bad(label, prediction), 0, weights)
        rows: Array = np.concatenate([buckets, np.where(weights > 0, label, 0), weights], axis=1).astype(np.float64)
        return rows

    def histogram(self, buckets: Array, sums: Array) -> dict[Any, Any]:
        """The value as TFMA has it.

        Args:
            buckets: int64 [buckets that occur], ascending.
            sums: float64 [buckets that occur, 3].
        """
        found = [
            calibration_histogram.Bucket(bucket, *values)
            for bucket, values in zip(buckets.tolist(), sums.tolist(), strict=True)
            if any(values)
        ]
        return dict.fromkeys(self.keys, found)

    def _bad(self, label: Array, prediction: Array) -> Array:
        bad: Array = np.isnan(prediction) | np.isnan(label)
        return bad


def _pairs(batch: RowBatch, columns: Columns, *, fractional_labels: bool) -> tuple[Array, Array, Array]:
    return batch.binary_pairs(columns) if fractional_labels else batch.pairs(columns)


def _absolute_error(label: Array, prediction: Array) -> Any:
    return np.abs(label - prediction)


def _squared_error(label: Array, prediction: Array) -> Any:
    return np.abs(label - prediction).astype(np.float64) ** 2


def _percentage_error(label: Array, prediction: Array) -> Any:
    return np.where(label == 0, np.nan, 100 * np.abs((label - prediction) / label).astype(np.float64))


def _squared_logarithmic_error(label: Array, prediction: Array) -> Any:
    return np.abs(np.log(label + 1) - np.log(prediction + 1)).astype(np.float64) ** 2


# By TFMA's combiner. Where TFMA computes in the type of labels and predictions, so do these.
ERRORS: dict[str, Callable[[Array, Array], Any]] = {
    "_MeanAbsoluteErrorCombiner": _absolute_error,
    "_MeanSquaredErrorCombiner": _squared_error,
    "_MeanAbsolutePercentageErrorCombiner": _percentage_error,
    "_MeanSquaredLogarithmicErrorCombiner": _squared_logarithmic_error,
}


def _averaged_values(metric: Any, dtype: str | None) -> Callable[[Array, Array], Any]:
    """The function of labels and predictions whose values the metric averages.

    Args:
        metric: A Keras metric.
        dtype: What to compute in; None for the metric's own.
    """
    import tensorflow as tf
    from tensorflow_model_analysis.utils.keras_lib import tf_keras

    class Capture(tf_keras.metrics.Mean):
        def update_state(self, values: Any, sample_weight: Any = None) -> None:
            del sample_weight
            self.captured = values

    # The metric's own update_state computes the values and hands them to the next class, which is Capture. It is called
    # without the wrappers that Keras puts around it for graphs, which cost more than the computation.
    kind: Any = type(type(metric).__name__, (type(metric), Capture), {})
    captor = kind.from_config({**metric.get_config(), **({"dtype": dtype} if dtype else {})})
    update = tf.autograph.experimental.do_not_convert(type(metric).update_state)

    def values(label: Array, prediction: Array) -> Any:
        update(captor, label, prediction)
        return captor.captured

    return values


def is_private(key: Any) -> bool:
    """Whether a MetricKey is of an intermediate result, which is not written."""
    return key.name.startswith("_") and not key.name.startswith("__")
