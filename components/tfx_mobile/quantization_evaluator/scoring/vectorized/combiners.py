"""Which statistic stands for which of TFMA's combiners.

A combiner is known by its class name and asked for its options through private attributes. One that is not known, or
has an option that is not, has no statistic, and TFMA's own evaluator takes it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tfx_mobile.quantization_evaluator.scoring.vectorized.rows import Columns
from tfx_mobile.quantization_evaluator.scoring.vectorized.statistics import (
    ERRORS,
    ConfusionMatrices,
    CrossEntropy,
    ExampleCount,
    Histogram,
    KerasMean,
    LabelsAndPredictions,
    RegressionError,
    Statistic,
)


def statistic_of(
    computation: Any, keys: tuple[Any, ...], metric: Any, columns: Columns, make_metric: Callable[[], Any]
) -> Statistic | None:
    """The statistic that gives what a TFMA MetricComputation gives; None if there is none.

    Args:
        computation: The metric_types.MetricComputation of a single metric.
        keys: Those of its keys that are of one model and output.
        metric: The metric it is of, a Keras or TFMA metric.
        columns: Where its input is found.
        make_metric: Makes `metric` again on a worker.
    """
    combiner = computation.combiner
    name = type(combiner).__name__
    facts = vars(combiner)
    if name == "_ExampleCountCombiner":
        return ExampleCount(keys, columns)
    if computation.preprocessors or facts.get("_class_weights") or facts.get("_aggregation_type") is not None:
        return None
    if name == "_CompilableMetricsCombiner":
        return _keras_mean(keys, columns, metric, make_metric)
    if name in ERRORS:
        return RegressionError(keys, columns, name)
    if name in ("_BinaryCrossEntropyCombiner", "_CategoricalCrossEntropyCombiner"):
        return CrossEntropy(
            keys,
            columns,
            binary=name == "_BinaryCrossEntropyCombiner",
            from_logits=facts["_from_logits"],
            label_smoothing=facts["_label_smoothing"],
        )
    if name == "_WeightedLabelsPredictionsExamplesCombiner":
        return LabelsAndPredictions(keys, columns)
    if name == "_BinaryConfusionMatrixCombiner" and not facts["_example_id_key"]:
        thresholds = tuple(vars(facts["_binary_confusion_matrices"])["_thresholds"])
        return ConfusionMatrices(keys, columns, thresholds, fractional_labels=facts["_enable_fractional_labels"])
    if name == "_CalibrationHistogramCombiner":
        return Histogram(
            keys,
            columns,
            buckets=facts["_num_buckets"],
            left=facts["_left"],
            extent=facts["_range"],
            fractional_labels=facts["_fractional_labels"],
            by_prediction=facts["_prediction_based_bucketing"],
        )
    return None


# Their per-example values are 0 or 1 where an example has one label.
_SCORES_CLASSES = (
    "Accuracy",
    "CategoricalAccuracy",
    "SparseCategoricalAccuracy",
    "TopKCategoricalAccuracy",
    "SparseTopKCategoricalAccuracy",
)


def _keras_mean(
    keys: tuple[Any, ...], columns: Columns, metric: Any, make_metric: Callable[[], Any]
) -> KerasMean | None:
    from tensorflow_model_analysis.utils.keras_lib import tf_keras

    if len(keys) != 1 or not isinstance(metric, tf_keras.metrics.Mean):
        return None
    square_root = type(metric) is tf_keras.metrics.RootMeanSquaredError
    # A metric with an update or result of its own may average anything.
    if not square_root and (
        not isinstance(metric, tf_keras.metrics.MeanMetricWrapper)
        or type(metric).update_state is not tf_keras.metrics.MeanMetricWrapper.update_state
        or type(metric).result is not tf_keras.metrics.Mean.result
    ):
        return None
    name = type(metric).__name__
    return KerasMean(
        keys,
        columns,
        make_metric,
        square_root=square_root,
        class_numbers=name == "SparseCategoricalCrossentropy",
        scores_classes=name in _SCORES_CLASSES,
    )
