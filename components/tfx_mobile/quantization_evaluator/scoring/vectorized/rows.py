"""A batch of examples as metrics see them: labels, predictions and weights as arrays, not one example after another.

What TFMA's `metric_util.to_label_prediction_example_weight` does to one example, `RowBatch` does to all at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tensorflow_model_analysis.metrics import metric_util
from tensorflow_model_analysis.utils import util

from tfx_mobile.errors import EvaluationError

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Columns:
    """Where one model's and one output's values are found.

    Attributes:
        model: The model's name; empty if there is only one.
        output: The output's name; empty if there is only one.
        weighted: Whether example weights count.
        label_key: `label_key` of the ModelSpec.
        prediction_key: `prediction_key` of the ModelSpec.
    """

    model: str
    output: str
    weighted: bool
    label_key: str = ""
    prediction_key: str = ""


class RowBatch:
    """Rows of a batch of TFMA's extracts.

    Args:
        labels: An array [rows, ...], or such arrays by output or model; None if no metric needs them.
        predictions: Likewise.
        weights: Likewise; None without example weights.
        count: The number of rows.
    """

    def __init__(self, labels: Any, predictions: Any, weights: Any, count: int) -> None:
        self.count = count
        self._labels = labels
        self._predictions = predictions
        self._weights = weights
        self._found: dict[Columns, tuple[Array, Array]] = {}

    def weights(self, columns: Columns) -> Array:
        """Example weights, float64 [rows, weights per example]."""
        if not columns.weighted or self._weights is None:
            return np.ones((self.count, 1))
        weights = _look_up(_look_up(self._weights, columns.model), columns.output)
        if isinstance(weights, Mapping):
            raise EvaluationError(
                f"No example weight for output {columns.output!r}; there are weights for {', '.join(weights)}. Set "
                "output_names in metrics_specs and example_weight_keys in the ModelSpec of eval_config."
            )
        return np.asarray(weights, np.float64).reshape(self.count, -1)

    def label_and_prediction(self, columns: Columns) -> tuple[Array, Array]:
        """Labels and predictions, each [rows, ...] with at least two dimensions, and those of size 1 taken out."""
        if columns not in self._found:
            labels, predictions = self._labels, self._predictions
            if columns.label_key:
                labels = _look_up(labels, columns.label_key)
            labels = _look_up(_look_up(labels, columns.model), columns.output)
            for key in filter(None, (columns.model, columns.output)):
                predictions = util.get_by_keys(predictions, [key])
            if labels is None or isinstance(labels, Mapping):
                raise EvaluationError(
                    f"No label for output {columns.output!r}"
                    f"{f'; there are labels for {_names(labels)}' if labels else ''}. Set output_names in "
                    "metrics_specs and label_keys in the ModelSpec of eval_config to the model's outputs."
                )
            labels, predictions = metric_util.prepare_labels_and_predictions(
                labels, predictions, columns.prediction_key
            )
            self._found[columns] = _squeeze(labels), _squeeze(predictions)
        return self._found[columns]

    def pairs(self, columns: Columns) -> tuple[Array, Array, Array]:
        """What TFMA calls flattened: every class or position is an example of its own.

        Returns:
            Labels, predictions and weights, each [rows, pairs per row]. Class numbers become one-hot; an example whose
            label is no class gets NaN labels, except for -1, which TFMA takes for none of the classes.
        """
        label, prediction = self.label_and_prediction(columns)
        if label[0].size != prediction[0].size and label.shape[-1] == 1:
            label = _one_hot(label, prediction.shape[-1])
        flat_label, flat_prediction = label.reshape(self.count, -1), prediction.reshape(self.count, -1)
        if flat_label.shape != flat_prediction.shape:
            raise EvaluationError(
                f"Labels of shape {list(label.shape[1:])} do not fit predictions of shape {list(prediction.shape[1:])} "
                f"(output {columns.output!r}). Choose a metric that fits the labels, or another label_key."
            )
        return flat_label, flat_prediction, spread(self.weights(columns), flat_prediction.shape[1])

    def binary_pairs(self, columns: Columns) -> tuple[Array, Array, Array]:
        """The same, for metrics that take a label for a probability.

        Raises:
            EvaluationError: A label that counts is below 0 or above 1.
        """
        label, prediction, weights = self.pairs(columns)
        outside = ((label < 0) | (label > 1)) & (weights > 0)
        if outside.any():
            name = columns.label_key or columns.output
            raise EvaluationError(
                f"Label {f'{name!r} ' if name else ''}is {label[outside][0]:g} in some example, and a metric of "
                "eval_config takes labels between 0 and 1. Correct it, give the example weight 0, or choose a metric "
                "that fits the labels."
            )
        return label, prediction, weights


def spread(weights: Array, width: int) -> Array:
    """Weights [rows, 1] or [rows, width] as [rows, width].

    Raises:
        EvaluationError: There is another number of weights per example.
    """
    if weights.shape[1] not in (1, width):
        raise EvaluationError(
            f"There are {weights.shape[1]} weights per example for {width} values. Give one weight per example, or one "
            "per value."
        )
    return np.broadcast_to(weights, (len(weights), width))


def concatenate(parts: Sequence[Any], what: str) -> Any:
    """Values of consecutive batches as those of one; arrays, or nested mappings of them.

    Args:
        parts: At least one.
        what: What the values are, for the error's text.

    Raises:
        EvaluationError: An example lacks the value, or has a number of values of its own.
    """
    first = parts[0]
    if isinstance(first, Mapping):
        return {key: concatenate([part[key] for part in parts], what) for key in first}
    arrays = [part for part in parts if isinstance(part, np.ndarray)]
    shapes = {part.shape[1:] for part in arrays}
    if len(arrays) < len(parts) or len(shapes) > 1 or any(a.dtype == object and None in a for a in arrays):
        raise EvaluationError(
            f"The {what} is missing in some examples or has rows of different lengths. Evaluate on examples that all "
            f"hold it with one length, or take metrics that need no {what}."
        )
    return first if len(arrays) == 1 else np.concatenate(arrays)


def rows_of(values: Any, start: int, stop: int) -> Any:
    """Rows `start` to `stop` of an array or of nested mappings of arrays."""
    if isinstance(values, Mapping):
        return {key: rows_of(value, start, stop) for key, value in values.items()}
    return None if values is None else values[start:stop]


def bytes_per_row(values: Any) -> int:
    """Size of one row of an array or of nested mappings of arrays."""
    if isinstance(values, Mapping):
        return sum(map(bytes_per_row, values.values()))
    return values[:1].nbytes if isinstance(values, np.ndarray) else 0


def _look_up(values: Any, key: str) -> Any:
    """The entry of a mapping that has one; labels and weights may, but need not, be kept by model and output."""
    return util.get_by_keys(values, [key], default_value=values) if key and isinstance(values, Mapping) else values


def _names(values: Any) -> str:
    return ", ".join(map(str, values))


def _squeeze(values: Array) -> Array:
    row = values.shape[1:]
    kept = row if len(row) < 2 else tuple(size for size in row if size != 1)
    squeezed: Array = values.reshape(len(values), *(kept or (1,)))
    return squeezed


def _one_hot(labels: Array, classes: int) -> Array:
    numbers = labels.astype(np.float64)
    one_hot: Array = (numbers == np.arange(classes)).astype(np.float64)
    one_hot[((numbers < -1) | (numbers >= classes) | np.isnan(numbers))[..., 0]] = np.nan
    return one_hot
