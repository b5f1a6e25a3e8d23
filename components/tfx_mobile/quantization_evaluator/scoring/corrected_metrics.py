"""Metrics that TFMA cannot compute for several models or with a weight per example, corrected.

An EvalConfig names TFMA's and Keras's own classes; `eval_config.expand` puts these in their place. They compute the
same numbers under the same names:

* TFMA's object detection metrics pair boxes of the right model, then look that model's name up in the pairs, and fail.
* Keras's IoU metrics flatten the maps of a batch, and fail on a weight per example, which TFMA always hands over.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import tensorflow as tf
import tensorflow_model_analysis as tfma
import tf_keras
from tensorflow_model_analysis.metrics import metric_types
from tensorflow_model_analysis.metrics import object_detection_confusion_matrix_metrics as boxes
from tensorflow_model_analysis.metrics import object_detection_metrics as coco
from tensorflow_model_analysis.metrics.preprocessors import BoundingBoxMatchPreprocessor


class _KeyedByModel(metric_types.Preprocessor):
    """A BoundingBoxMatchPreprocessor whose pairs say which model they are of."""

    def __init__(self, pairs_boxes: BoundingBoxMatchPreprocessor, model: str) -> None:
        super().__init__(name=pairs_boxes.name)
        self._pairs_boxes = pairs_boxes
        self._model = model

    def process(self, extracts: tfma.types.Extracts) -> Iterator[metric_types.StandardMetricInputs]:
        for pair in self._pairs_boxes.process(extracts):
            predictions = pair[tfma.PREDICTIONS_KEY]
            if not isinstance(predictions, Mapping):
                pair[tfma.PREDICTIONS_KEY] = {self._model: predictions}
            yield pair


class _ByModel:
    def computations(self, *, model_names: list[str] | None = None, **options: Any) -> list[Any]:
        """The metric's computations for each model."""
        corrected = []
        for model in model_names or [""]:
            for computation in super().computations(model_names=[model], **options):  # type: ignore[misc]
                if model and isinstance(computation, metric_types.MetricComputation):
                    preprocessors = [
                        _KeyedByModel(p, model) if isinstance(p, BoundingBoxMatchPreprocessor) else p
                        for p in computation.preprocessors
                    ]
                    computation = computation._replace(preprocessors=preprocessors)
                corrected.append(computation)
        return corrected


class _WeightPerExample:
    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Adds a batch; a weight per example counts for each position of its map."""
        if sample_weight is not None:
            positions = tf.shape(y_true)
            ones = tf.ones([tf.rank(y_true) - 1], tf.int32)
            weights = tf.reshape(sample_weight, tf.concat([positions[:1], ones], axis=0))
            sample_weight = tf.broadcast_to(weights, positions)
        return super().update_state(y_true, y_pred, sample_weight)  # type: ignore[misc]


_PREFIX = "Corrected"
_DETECTION = (
    coco.COCOAveragePrecision,
    coco.COCOMeanAveragePrecision,
    coco.COCOAverageRecall,
    coco.COCOMeanAverageRecall,
    boxes.ObjectDetectionMaxRecall,
    boxes.ObjectDetectionPrecision,
    boxes.ObjectDetectionPrecisionAtRecall,
    boxes.ObjectDetectionRecall,
    boxes.ObjectDetectionThresholdAtRecall,
)
_INTERSECTION_OVER_UNION = (
    tf_keras.metrics.BinaryIoU,
    tf_keras.metrics.IoU,
    tf_keras.metrics.MeanIoU,
    tf_keras.metrics.OneHotIoU,
    tf_keras.metrics.OneHotMeanIoU,
)

#: Names of the classes here by the name of what they stand in for.
CORRECTED: dict[str, str] = {}
for _mixin, _metrics in ((_ByModel, _DETECTION), (_WeightPerExample, _INTERSECTION_OVER_UNION)):
    for _metric in _metrics:
        _name = CORRECTED[_metric.__name__] = _PREFIX + _metric.__name__
        globals()[_name] = type(_name, (_mixin, _metric), {"__module__": __name__, "__doc__": _metric.__doc__})
