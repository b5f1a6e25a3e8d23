"""Labels, outputs and weights in the form that metrics take them.

tf.Examples hold flat lists, models return shaped arrays, and TFMA's metrics expect the two to match. What cannot match
is an error in plain words here: the metrics would fail far from the cause, or count a wrong label as a wrong answer.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import tensorflow_model_analysis as tfma

from tfx_mobile.errors import EvaluationError
from tfx_mobile.quantization_evaluator import eval_config as eval_configs

Array = npt.NDArray[Any]

#: Name of the counter of examples whose weight is not 0.
WEIGHTED = "weighted_examples"
_NAMESPACE = "tfx_mobile"


@dataclass(frozen=True)
class Pair:
    """A label and the output that metrics compare it with.

    Attributes:
        output: Name of the output; "" if the model has only one.
        label: The feature.
        is_class: Whether a metric takes the label for the number of a class, as all those called Sparse... do.
        takes_lists: Whether a metric may take labels of any length.
    """

    output: str
    label: str
    is_class: bool
    takes_lists: bool


def pairs(config: Any, outputs: Sequence[str]) -> tuple[Pair, ...]:
    """The labels and outputs that an EvalConfig has compared.

    Metrics that pick their labels and outputs themselves, such as those for object detection, have none.

    Args:
        config: The user's tfma.EvalConfig.
        outputs: Names of the model's outputs.

    Raises:
        EvaluationError: The config names an output that the model does not have, or leaves open which is meant.
    """
    spec = eval_configs.template(config)
    known = ", ".join(outputs)
    if spec.prediction_key and spec.prediction_key not in outputs:
        raise EvaluationError(
            f"prediction_key {spec.prediction_key!r} of eval_config is no output of the model; it returns: {known}."
        )
    found: dict[str, Pair] = {}
    for metrics_spec in config.metrics_specs:
        is_class = any(metric.class_name.startswith("Sparse") for metric in metrics_spec.metrics)
        takes_lists = any(m.module or m.class_name.startswith("SetMatch") for m in metrics_spec.metrics)
        for name in metrics_spec.output_names or [spec.prediction_key]:
            if name and name not in outputs:
                raise EvaluationError(
                    f"output_names in metrics_specs of eval_config has {name!r}; the model returns: {known}."
                )
            label = spec.label_key or spec.label_keys.get(name, "")
            if metrics_spec.output_names and not label:
                raise EvaluationError(
                    f"label_keys of eval_config has no label for output {name!r}, which metrics_specs names in "
                    f"output_names; it has: {', '.join(sorted(spec.label_keys))}. Its keys are names of outputs."
                )
            if not label or (not name and len(outputs) > 1):
                continue
            other = found.get(name, Pair(name, label, False, False))
            found[name] = Pair(name, label, is_class or other.is_class, takes_lists or other.takes_lists)
    return tuple(found.values())


def extractor(config: Any, outputs: Sequence[str]) -> Any:
    """A tfma.extractors.Extractor for batches of extracts with features, labels, weights and predictions.

    It gives labels the shapes of the outputs, and refuses labels and weights that no metric could make sense of.

    Args:
        config: The user's tfma.EvalConfig.
        outputs: Names of the model's outputs.

    Raises:
        EvaluationError: See `pairs`; while it runs, for what is wrong with a label or weight.
    """
    return tfma.extractors.Extractor(stage_name="FitToMetrics", ptransform=beam.ParDo(_FitToMetrics(config, outputs)))


class _FitToMetrics(beam.DoFn):
    def __init__(self, config: Any, outputs: Sequence[str]) -> None:
        spec = eval_configs.template(config)
        self._pairs = pairs(config, outputs)
        self._weights = _weight_keys(spec)
        self._counts = frozenset(_count_outputs(config)) & frozenset(outputs)

    def setup(self) -> None:
        self._weighted = beam.metrics.Metrics.counter(_NAMESPACE, WEIGHTED)

    def process(self, extracts: dict[str, Any]) -> Iterable[dict[str, Any]]:
        rows = len(extracts[tfma.INPUT_KEY])
        weights = self._check_weights(extracts[tfma.FEATURES_KEY], rows)
        predictions = extracts[tfma.PREDICTIONS_KEY]
        by_model = isinstance(predictions, Mapping) and eval_configs.BASELINE in predictions
        result = dict(extracts)
        if self._counts:
            result[tfma.PREDICTIONS_KEY] = (
                {name: self._with_integer_counts(outputs) for name, outputs in predictions.items()}
                if by_model
                else self._with_integer_counts(predictions)
            )
        if by_model:
            # All models have the same labels, and outputs of the same shapes.
            predictions = predictions[eval_configs.BASELINE]
        labels = extracts[tfma.LABELS_KEY]
        fitted = dict(labels) if by_model else {"": labels}
        for name, own in fitted.items():
            for pair in self._pairs:
                output = predictions[pair.output] if isinstance(predictions, Mapping) else predictions
                if isinstance(own, Mapping):
                    own = {**own, pair.output: _fit(pair, own[pair.output], output, rows, weights)}
                else:
                    own = _fit(pair, own, output, rows, weights)
            if isinstance(own, Mapping):
                unpaired = own.keys() - {pair.output for pair in self._pairs}
                own = {**own, **{key: _as_lists(own[key], rows) for key in unpaired}}
            fitted[name] = own
        result[tfma.LABELS_KEY] = fitted if by_model else fitted[""]
        yield result

    def _with_integer_counts(self, outputs: Mapping[str, Array]) -> dict[str, Array]:
        """Detectors return the number of boxes as float32; TFMA cuts arrays with it."""
        return {
            name: np.rint(values).astype(np.int64) if name in self._counts else values
            for name, values in outputs.items()
        }

    def _check_weights(self, features: Mapping[str, Any], rows: int) -> Array | None:
        """Whether each example has a weight that is not 0; None without weights."""
        if not self._weights:
            return None
        positive = np.zeros(rows, bool)
        for key in self._weights:
            if missing := _missing_rows(features.get(key), rows):
                raise EvaluationError(
                    f"example_weight_key {key!r} of eval_config is missing in {missing} of the {rows} examples of a "
                    "batch. Write a weight into every example; 0 leaves one out."
                )
            values = features[key]
            if not isinstance(values, np.ndarray) or values.dtype.kind not in "iuf":
                raise EvaluationError(
                    f"example_weight_key {key!r} of eval_config is no number, or not as many in every example."
                )
            if not (np.isfinite(values) & (values >= 0)).all():
                worst = values[~(np.isfinite(values) & (values >= 0))].ravel()[0]
                raise EvaluationError(
                    f"example_weight_key {key!r} of eval_config is {worst} in some example. Weights are finite and not "
                    "negative."
                )
            positive |= (values.reshape(rows, -1) > 0).any(axis=1)
        self._weighted.inc(int(positive.sum()))
        return positive


def check_total_weight(config: Any, weighted: int) -> None:
    """Refuses an evaluation in which no example counts: every metric would be 0, and no change would show.

    Args:
        config: The user's tfma.EvalConfig.
        weighted: The counter WEIGHTED.

    Raises:
        EvaluationError: The config has weights, and all of them are 0.
    """
    keys = _weight_keys(eval_configs.template(config))
    if keys and not weighted:
        raise EvaluationError(
            f"example_weight_key {', '.join(map(repr, keys))} of eval_config is 0 in every example, so no metric says "
            "anything. Evaluate on examples that count, or leave the key out."
        )


def _weight_keys(spec: Any) -> tuple[str, ...]:
    return tuple(sorted({spec.example_weight_key, *spec.example_weight_keys.values()} - {""}))


def _count_outputs(config: Any) -> Iterator[str]:
    for metrics_spec in config.metrics_specs:
        for metric in metrics_spec.metrics:
            # TFMA's form of a metric's config: the inside of a JSON object.
            key = json.loads("{" + metric.config + "}").get("num_detections_key") if metric.config else None
            if key:
                yield key


def _fit(pair: Pair, values: Any, output: Array, rows: int, weighted: Array | None) -> Any:
    """The labels of a batch in the shape of an output, or of its positions if the last axis is classes.

    Args:
        pair: What they are.
        values: As TFMA's LabelsExtractor makes it: an array [rows, n], a VarLenTensorValue if rows differ in length, or
            None if no example of the batch has the feature.
        output: The baseline's, [rows, ...].
        rows: Number of examples.
        weighted: Which examples count; None for all.
    """
    if not pair.takes_lists:
        if missing := _missing_rows(values, rows):
            raise EvaluationError(
                f"Label {pair.label!r} is missing in {missing} of the {rows} examples of a batch. Leave out examples "
                "without a label where they are written."
            )
        if not isinstance(values, np.ndarray):
            raise EvaluationError(
                f"Label {pair.label!r} has more values in some examples than in others; the output it is compared with "
                f"has rows of shape {list(output.shape[1:])}. Write one value per position of the output, or a 0 or 1 "
                "per class."
            )
    if not isinstance(values, np.ndarray):
        return values
    row = output.shape[1:]
    positions = row[:-1]
    width = math.prod(values.shape[1:])
    if pair.is_class and row and row[-1] > 1:
        _check_classes(pair, values, width, row, weighted)
    for shape in (row, positions):
        if len(row) > 1 and width == math.prod(shape):
            return values.reshape(rows, *shape)
    return values


def _as_lists(values: Any, rows: int) -> Any:
    """Labels that metrics stack, such as boxes: without the feature an empty list, where TFMA has None."""
    if isinstance(values, np.ndarray) and values.dtype != object:
        return values
    if values is None:
        return [np.zeros(0, np.float32)] * rows
    if isinstance(values, np.ndarray):
        return [np.zeros(0, np.float32) if value is None else np.asarray(value) for value in values]
    starts = np.searchsorted(values.indices[:, 0], np.arange(rows + 1))
    return [values.values[start:end] for start, end in itertools.pairwise(starts)]


def _check_classes(pair: Pair, values: Array, width: int, row: tuple[int, ...], weighted: Array | None) -> None:
    positions, classes = row[:-1], row[-1]
    if values.dtype.kind in "OSU":
        raise EvaluationError(
            f"Label {pair.label!r} is text, but Sparse... metrics take the number of the class, 0 to {classes - 1}. "
            "Write the number into the examples."
        )
    if width != math.prod(positions):
        raise EvaluationError(
            f"Label {pair.label!r} has {width} values per example, but Sparse... metrics take the number of one class "
            f"per {f'position of the output, {list(positions)}' if positions else 'example'}. For several classes at "
            "once write a 0 or 1 per class, and use metrics without Sparse, such as BinaryAccuracy."
        )
    # Of pixels some may be void, by a number that ignore_class or ignore_ground_truth_id names.
    if positions or not np.issubdtype(values.dtype, np.integer):
        return
    flat = values.reshape(len(values))
    outside = (flat < 0) | (flat >= classes)
    if weighted is not None:
        outside &= weighted
    if outside.any():
        raise EvaluationError(
            f"Label {pair.label!r} is {flat[outside][0]} in some example, but the model has {classes} classes, 0 to "
            f"{classes - 1}. Correct the label, or leave such examples out or give them the weight 0: counted as wrong "
            "answers they would make every model look alike."
        )


def _missing_rows(values: Any, rows: int) -> int:
    """How many examples of a batch lack a feature."""
    if values is None:
        return rows
    if isinstance(values, np.ndarray):
        return sum(value is None for value in values) if values.dtype == object else 0
    return rows - len(np.unique(values.indices[:, 0]))
