"""The first real examples, as a `.tflite` file gets them: what it is tried on in a process that may die of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tfx_mobile.errors import EvaluationError
from tfx_mobile.quantization_evaluator.scoring.predict import Default, Transform, feed
from tfx_mobile.records import TensorRecord

#: Of each split: enough to meet what zeros do not show, and cheap for a large model.
NUM_ROWS = 4


@dataclass(frozen=True)
class FirstRows:
    """The first rows of all splits.

    Attributes:
        features: By name; arrays [rows, ...], of objects where rows differ in length or lack the feature.
        count: How many there are.
    """

    features: Mapping[str, Any]
    count: int

    def save(
        self,
        path: Path,
        inputs: Sequence[TensorRecord],
        defaults: Mapping[str, Default],
        model: str,
    ) -> None:
        """Writes what a model takes of them, by input name, to an `.npz` file.

        Args:
            path: Local path of the file.
            inputs: The model's inputs.
            defaults: See `predict.VariantFile`.
            model: What it is called in messages.

        Raises:
            EvaluationError: They do not fit.
        """
        tensors = feed({tensor.name: tensor for tensor in inputs}, self.features, defaults, self.count, model)
        arrays: dict[str, Any] = dict(tensors)
        np.savez(path, **arrays)


def first_rows(files: Mapping[str, Sequence[str]], transform: Transform | None = None) -> FirstRows:
    """Reads the first examples of each split and makes of them the features that variants are fed.

    Args:
        files: Compressed TFRecord files by split, which `example_checks.check_examples` could read.
        transform: What is applied to the examples.

    Raises:
        EvaluationError: The transform graph cannot be applied to them.
    """
    import tensorflow as tf

    records = [
        record
        for paths in files.values()
        for record in tf.data.TFRecordDataset(list(paths), "GZIP").take(NUM_ROWS).as_numpy_iterator()
    ]
    if transform is not None and transform.feeds_variants:
        from tfx_mobile.transform_graph import CannotTransformError, TransformGraph

        try:
            graph = TransformGraph(transform.uri, transform.schema)
            return FirstRows(graph.apply(records, transform.raw_features), len(records))
        except CannotTransformError as error:
            raise EvaluationError(str(error)) from error
    examples = [tf.train.Example.FromString(record).features.feature for record in records]
    names = sorted({name for example in examples for name in example})
    columns = {name: _column([_values(e[name]) if name in e else None for e in examples]) for name in names}
    return FirstRows(columns, len(records))


def _values(feature: Any) -> Any:
    kind = feature.WhichOneof("kind")
    if kind is None:
        return None
    dtype = {"bytes_list": object, "float_list": np.float32, "int64_list": np.int64}[kind]
    return np.array(getattr(feature, kind).value, dtype)


def _column(rows: Sequence[Any]) -> Any:
    """One feature of all rows, as TFMA's FeaturesExtractor makes it but for rows of different lengths."""
    if all(row is not None and row.shape == rows[0].shape for row in rows):
        return np.stack(rows)
    column = np.empty(len(rows), object)
    for index, row in enumerate(rows):
        column[index] = row
    return column
