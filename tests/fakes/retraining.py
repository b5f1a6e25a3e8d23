"""A task that is retrained every day: its drifting data, its user code, and its pipeline with the real components.

Ten points in space stand for five classes and move on a little every day, so that yesterday's model is a little wrong
today. The model is two layers of random features and a third that is fitted to the day's examples, which takes no
time and gives the same bytes for the same data.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

FEATURES, UNITS, CLASSES = 16, 64, 5
INPUT, LABEL = "features", "label"
TRAIN, EVAL = 600, 400
MODEL = "points"
SPANS = "span-{SPAN}/%s*"
VERSIONS = "span-{SPAN}/version-{VERSION}/%s*"
#: In another unit, one sensor's numbers are so much larger.
OTHER_UNIT = 1000.0

Array = npt.NDArray[Any]


# --- the data ---------------------------------------------------------------------------------------------------------


def points(day: int, count: int, seed: int) -> tuple[Array, Array]:
    """Points of one day: float32 [count, 16], and their classes int64 [count]."""
    rng = np.random.default_rng(99)
    centres, direction = rng.normal(0, 1.7, (2, 2 * CLASSES, FEATURES))
    rng = np.random.default_rng([seed, day])
    which = rng.integers(0, 2 * CLASSES, count)
    moved = centres + 0.03 * day * direction
    return (moved[which] + rng.normal(0, 0.6, (count, FEATURES))).astype(np.float32), which % CLASSES


def write_day(folder: Path, day: int, *, wrong_labels: float = 0.0, other_unit: bool = False) -> None:
    """Writes the files of one span: `train.tfrecord.gz` and `eval.tfrecord.gz`.

    Args:
        folder: The span's folder, or that of one of its versions.
        day: How far the data have moved.
        wrong_labels: Share of the training examples that carry the next class's label.
        other_unit: Whether one sensor reports in another unit. A float model that normalizes does not mind.
    """
    from tests.fakes import models

    for split, count, seed in (("train", TRAIN, 1), ("eval", EVAL, 2)):
        features, labels = points(day, count, seed)
        if other_unit:
            features[:, 0] *= OTHER_UNIT
        if split == "train":
            wrong = slice(0, int(wrong_labels * count))
            labels[wrong] = (labels[wrong] + 1) % CLASSES
        rows = [{INPUT: point, LABEL: int(label)} for point, label in zip(features, labels, strict=True)]
        models.write_records(folder / f"{split}.tfrecord.gz", map(models.serialize, rows))


# --- the user code ----------------------------------------------------------------------------------------------------


def run_fn(fn_args: Any) -> None:
    """Trainer's callback."""
    import tensorflow as tf

    spec = {INPUT: tf.io.FixedLenFeature([FEATURES], tf.float32), LABEL: tf.io.FixedLenFeature([], tf.int64)}
    records = list(tf.data.TFRecordDataset(tf.io.gfile.glob(fn_args.train_files), "GZIP").as_numpy_iterator())
    # Whatever order Beam wrote them in, the sum is the same.
    parsed = tf.io.parse_example(sorted(records), spec)
    layers = fit(parsed[INPUT].numpy(), parsed[LABEL].numpy())

    module = tf.Module()
    module.weights = [[tf.Variable(array, dtype=tf.float32) for array in layer] for layer in layers]

    @tf.function(input_signature=[tf.TensorSpec([None, FEATURES], tf.float32, name=INPUT)])  # type: ignore[untyped-decorator]
    def serve(features: Any) -> dict[str, Any]:
        *hidden, (kernel, bias) = module.weights
        for weights, offset in hidden:
            features = tf.nn.relu(features @ weights + offset)
        return {"probabilities": tf.nn.softmax(features @ kernel + bias)}

    tf.saved_model.save(module, fn_args.serving_model_dir, signatures={"serving_default": serve})


def fit(features: Array, labels: Array) -> list[tuple[Array, Array]]:
    """Kernel and bias per layer; the first normalizes, too."""
    rng = np.random.default_rng(7)
    mean, deviation = features.mean(axis=0), features.std(axis=0)
    kernel = rng.normal(0, 1 / np.sqrt(FEATURES), (FEATURES, UNITS)) / deviation[:, None]
    layers = [(kernel, rng.normal(0, 0.5, UNITS) - mean @ kernel)]
    layers.append((rng.normal(0, 1 / np.sqrt(UNITS), (UNITS, UNITS)), rng.normal(0, 0.5, UNITS)))
    values = features.astype(np.float64)
    for weights, offset in layers:
        values = np.maximum(values @ weights + offset, 0)
    with_bias = np.column_stack([values, np.ones(len(values))])
    targets = np.eye(CLASSES)[labels] * 8
    fitted = np.linalg.solve(with_bias.T @ with_bias + 0.1 * np.eye(UNITS + 1), with_bias.T @ targets)
    return [*layers, (fitted[:-1], fitted[-1])]


# --- the pipeline -----------------------------------------------------------------------------------------------------


def create_pipeline(
    workspace: Path,
    *,
    pattern: str = SPANS,
    span: int | None = None,
    channel: str = "production",
    labels: dict[str, str] | None = None,
    on_not_blessed: str = "fail",
    enable_cache: bool = True,
    home: str = "home",
    for_kubeflow: bool = False,
) -> Any:
    """ExampleGen, Trainer, TFLiteConverter, QuantizationEvaluator with the model in production, MobilePusher.

    Args:
        workspace: Holds the examples and the releases.
        pattern: Files of a span, with `%s` for the split.
        span: The span to take; None for the newest.
        channel: Where the pusher publishes; the evaluator always compares with `production`.
        labels: The pusher's.
        on_not_blessed: The pusher's.
        enable_cache: Whether unchanged steps are served from the cache.
        home: Folder below `workspace` for artifacts and ML Metadata: a machine of its own.
        for_kubeflow: Whether Kubeflow's compiler brings metadata and the way to run Beam.
    """
    import tensorflow_model_analysis as tfma
    from google.protobuf import json_format
    from tfx.components import ImportExampleGen, Trainer
    from tfx.orchestration import metadata
    from tfx.orchestration.pipeline import Pipeline
    from tfx.proto import example_gen_pb2, range_config_pb2, trainer_pb2

    from tfx_mobile import (
        CalibrationSpec,
        FilesystemDestination,
        MobilePusher,
        ProductionModel,
        QuantizationEvaluator,
        TFLiteConverter,
    )

    destination = FilesystemDestination(base_directory=workspace / "releases")
    gate = {"direction": "HIGHER_IS_BETTER", "absolute": -0.03}
    accuracy = {"class_name": "SparseCategoricalAccuracy", "threshold": {"change_threshold": gate}}
    eval_config = {
        "model_specs": [{"label_key": LABEL}],
        "slicing_specs": [{}],
        "metrics_specs": [{"metrics": [accuracy]}],
    }
    only = range_config_pb2.StaticRange(start_span_number=span, end_span_number=span) if span is not None else None
    splits = [example_gen_pb2.Input.Split(name=name, pattern=pattern % name) for name in ("train", "eval")]
    example_gen = ImportExampleGen(
        input_base=str(workspace / "examples"),
        input_config=example_gen_pb2.Input(splits=splits),
        range_config=range_config_pb2.RangeConfig(static_range=only) if only else None,
    )
    examples = example_gen.outputs["examples"]
    trainer = Trainer(
        run_fn="tests.fakes.retraining.run_fn",
        examples=examples,
        train_args=trainer_pb2.TrainArgs(),
        eval_args=trainer_pb2.EvalArgs(),
    )
    model = trainer.outputs["model"]
    converter = TFLiteConverter(
        model=model,
        examples=examples,
        recipes=["full_integer"],
        calibration=CalibrationSpec(split="train", num_samples=100, seed=0),
    )
    evaluator = QuantizationEvaluator(
        examples=examples,
        model=model,
        variants=converter.outputs["variants"],
        eval_config=json_format.ParseDict(eval_config, tfma.EvalConfig()),
        example_splits=["eval"],
        production=ProductionModel(destination=destination, model_name=MODEL),
    )
    pusher = MobilePusher(
        model=evaluator.outputs["blessed_model"],
        blessing=evaluator.outputs["blessing"],
        evaluation=evaluator.outputs["evaluation"],
        model_name=MODEL,
        channel=channel,
        destinations=[destination],
        labels=labels,
        on_not_blessed=on_not_blessed,
    )
    database = workspace / home / "metadata.sqlite"
    return Pipeline(
        pipeline_name=MODEL,
        pipeline_root=str(workspace / home / "root"),
        components=[example_gen, trainer, converter, evaluator, pusher],
        enable_cache=enable_cache,
        metadata_connection_config=None if for_kubeflow else metadata.sqlite_metadata_connection_config(str(database)),
        # A DirectRunner would download another one. On LocalDagRunner the program that runs this names it instead, as
        # any flag has TFX build a package of itself for each step.
        beam_pipeline_args=["--runner=FnApiRunner"] if for_kubeflow else [],
    )
