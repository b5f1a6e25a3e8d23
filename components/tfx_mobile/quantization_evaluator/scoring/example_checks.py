"""Looks at the first examples before the pass: what has to be applied to them, and whether models and metrics fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from absl import logging

from tfx_mobile.errors import EvaluationError
from tfx_mobile.quantization_evaluator.scoring.predict import FloatModel, Transform
from tfx_mobile.records import TensorRecord

_PEEK = 100
# Of serialized examples in a batch. Features, predictions and what metrics make of them take a few times as much.
_BATCH_BYTES = 32 << 20
_MOST_ROWS = 1000  # TFXIO's own cap


def find_transform(
    files: Mapping[str, Sequence[str]],
    baseline: FloatModel,
    variant_inputs: Sequence[TensorRecord],
    uri: str,
    schema: str | None,
) -> Transform | None:
    """Decides by the first examples of each split whether a transform graph has to be applied to them.

    Args:
        files: Compressed TFRecord files by split.
        baseline: The float model.
        variant_inputs: The variants' inputs; empty if they are known to be features of the examples.
        uri: Folder of the TransformGraph artifact.
        schema: Path of the raw examples' schema; None without one.

    Returns:
        What to apply; None if all models take features of the examples as they are.

    Raises:
        EvaluationError: The graph or the examples cannot be read, or an input is found in neither.
    """
    import tensorflow as tf

    from tfx_mobile.transform_graph import CannotTransformError, TransformGraph, conform, stored_features

    all_inputs = (() if baseline.parses_examples else tuple(baseline.inputs.values()), variant_inputs)
    try:
        records = [
            record
            for paths in files.values()
            for record in tf.data.TFRecordDataset(list(paths), "GZIP").take(_PEEK).as_numpy_iterator()
        ]
        graph = TransformGraph(uri, schema)
        stored = stored_features(records)
        choices = [graph.choose(stored, inputs) if inputs and records else None for inputs in all_inputs]
        raw_features = graph.raw_features(stored)
        for choice, inputs in zip(choices, all_inputs, strict=True):
            if choice is not None and choice.source == "transform_graph":
                conform(graph.apply(records, raw_features), inputs)
    except tf.errors.OpError as error:
        raise EvaluationError(
            f"The examples cannot be read as GZIP TFRecords: {error}. Run the step that wrote them again."
        ) from None
    except CannotTransformError as error:
        raise EvaluationError(str(error)) from error
    if any(choice is not None and choice.assumed for choice in choices):
        logging.warning(
            "The model's inputs are features of the raw examples as well as outputs of the transform graph, which is "
            "applied because transform_graph is given. Leave it out if the signature takes raw features."
        )
    feeds_baseline, feeds_variants = (c is not None and c.source == "transform_graph" for c in choices)
    if not feeds_baseline and not feeds_variants:
        return None
    return Transform(uri, schema, raw_features, feeds_baseline, feeds_variants)


def check_examples(
    files: Mapping[str, Sequence[str]],
    baseline: FloatModel,
    needed: Mapping[str, str],
    transform: Transform | None = None,
) -> None:
    """Looks at the first examples of each split, so that a wrong wiring fails before the pass and in plain words.

    Args:
        files: Compressed TFRecord files by split.
        baseline: The model to be fed.
        needed: Features that the EvalConfig reads, each with the field that names it.
        transform: What is applied to the examples first.

    Raises:
        EvaluationError: A split is empty or not readable, or a needed feature or model input is in none of them.
    """
    import tensorflow as tf

    for split, paths in files.items():
        features: set[str] = set()
        count = 0
        try:
            for record in tf.data.TFRecordDataset(list(paths), "GZIP").take(_PEEK).as_numpy_iterator():
                features.update(tf.train.Example.FromString(record).features.feature)
                count += 1
        except (tf.errors.OpError, Exception) as error:  # noqa: BLE001 (protobuf's DecodeError has no stable home)
            raise EvaluationError(
                f"Split {split!r} cannot be read as GZIP TFRecords of tf.Examples: {error}. Run the step that wrote "
                "the examples again."
            ) from None
        if not count:
            raise EvaluationError(
                f"Split {split!r} of the examples is empty: its {len(paths)} files hold no example. Choose another "
                "split with example_splits=[...], or check the step that wrote the examples."
            )
        present = ", ".join(sorted(features))
        for key, names_it in needed.items():
            if key not in features:
                raise EvaluationError(
                    f"{names_it} {key!r} of eval_config is not among the features of split {split!r}: {present}. Name "
                    "one of these, or evaluate on examples that hold it."
                )
        transformed = transform is not None and transform.feeds_baseline
        inputs = () if baseline.parses_examples or transformed else tuple(baseline.inputs)
        missing = sorted(set(inputs) - features)
        if missing:
            raise EvaluationError(
                f"No feature for model input {', '.join(missing)} in split {split!r}; its features: {present}. "
                f"Signature {baseline.signature!r} takes {', '.join(sorted(inputs))}: wire the examples the model is "
                "served with (after a Transform, transformed_examples if the signature takes transformed features, or "
                "raw examples with transform_graph=transform.outputs['transform_graph']), or set signature_name in the "
                "ModelSpec."
            )


def batch_size(files: Mapping[str, Sequence[str]]) -> int | None:
    """How many examples to read at once, so that large ones such as pictures stay within memory.

    Args:
        files: Compressed TFRecord files by split, which `check_examples` could read.

    Returns:
        A number of examples, by the size of the first ones; None if they are small enough for TFXIO to choose.
    """
    import tensorflow as tf

    largest = max(
        len(record)
        for paths in files.values()
        for record in tf.data.TFRecordDataset(list(paths), "GZIP").take(_PEEK).as_numpy_iterator()
    )
    return None if largest * _MOST_ROWS <= _BATCH_BYTES else max(1, _BATCH_BYTES // largest)
