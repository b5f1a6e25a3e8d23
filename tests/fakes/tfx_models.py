"""Models as the `run_fn` of TFX's own examples saves them: Transform inside a signature that parses tf.Examples.

The structure of TFX's mnist, penguin and taxi examples at a fraction of their size, with seeded weights.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.fakes import models

Inputs = Mapping[str, Any]

PENGUIN_FEATURES = ("body_mass_g", "culmen_length_mm")
PENGUIN_LABEL = "species"
MNIST_PIXELS = 16

TAXI_LABEL = "tips"
TAXI_FLOATS = ("fare", "trip_miles")
TAXI_VOCABULARY = "payment_type"
TAXI_BUCKETS = "pickup_latitude"
TAXI_CATEGORY = "trip_start_hour"
TAXI_HOURS = 24
TAXI_VOCABULARY_SIZE, TAXI_OOV_SIZE = 4, 2
TAXI_NUM_BUCKETS = 3


def write_transform_graph(
    path: Path, spec: Inputs, rows: Sequence[Inputs], preprocessing_fn: Callable[[Any], dict[str, Any]]
) -> None:
    """Runs a real Transform over rows in memory and writes its output.

    Args:
        path: Where to.
        spec: tf.io feature specification of the raw features.
        rows: Values by feature name; a VarLenFeature may be missing.
        preprocessing_fn: As a user writes it.
    """
    import apache_beam as beam
    import tensorflow_transform.beam as tft_beam
    from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions
    from tensorflow_transform.tf_metadata import dataset_metadata, schema_utils

    metadata = dataset_metadata.DatasetMetadata(schema_utils.schema_from_feature_spec(dict(spec)))
    data = [{name: row.get(name) for name in spec} for row in rows]
    options = PipelineOptions(flags=["--runner=FnApiRunner"])  # a DirectRunner would download another
    options.view_as(DirectOptions).direct_running_mode = "in_memory"
    with tempfile.TemporaryDirectory() as temp, beam.Pipeline(options=options) as pipeline, tft_beam.Context(temp):
        create = pipeline | beam.Create(data)
        _, transform_fn = (create, metadata) | tft_beam.AnalyzeAndTransformDataset(preprocessing_fn)
        _ = transform_fn | tft_beam.WriteTransformFn(str(path))
        _ = metadata | tft_beam.WriteMetadata(str(path / "metadata"), pipeline)


# --- mnist and penguin ------------------------------------------------------------------------------------------------


def mnist_rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Images of values from -0.5 to 0.5, and their class."""
    rng = np.random.default_rng(seed)
    images = rng.uniform(-0.5, 0.5, (count, MNIST_PIXELS)).astype(np.float32)
    images[0, :2] = -0.5, 0.5
    return [{"image_floats": image, "image_class": np.array([index % 3])} for index, image in enumerate(images)]


def save_mnist(path: Path, transform_dir: Path) -> None:
    """One signature: `serving_default`, which returns a bare tensor; the image is scaled by its minimum and maximum."""
    import keras
    import tensorflow as tf
    import tensorflow_transform as tft

    spec = {
        "image_floats": tf.io.FixedLenFeature([MNIST_PIXELS], tf.float32),
        "image_class": tf.io.FixedLenFeature([1], tf.int64),
    }

    def preprocessing_fn(inputs: Inputs) -> dict[str, Any]:
        return {
            "image_floats_xf": tft.scale_by_min_max(inputs["image_floats"], -0.5, 0.5),
            "image_class_xf": inputs["image_class"],
        }

    write_transform_graph(transform_dir, spec, mnist_rows(50), preprocessing_fn)
    transform = tft.TFTransformOutput(str(transform_dir))
    model = keras.Sequential(
        [
            keras.layers.InputLayer(shape=(MNIST_PIXELS,), name="image_floats_xf"),
            keras.layers.Dense(8, activation="relu"),
            keras.layers.Dropout(0.2),
            keras.layers.Dense(3),
        ]
    )
    seed_weights(model)
    model.tft_layer = transform.transform_features_layer()

    @tf.function  # type: ignore[untyped-decorator]
    def serve_tf_examples(examples: Any) -> Any:
        parsing = transform.raw_feature_spec()
        parsing.pop("image_class")
        transformed = model.tft_layer(tf.io.parse_example(examples, parsing))
        return model(transformed["image_floats_xf"])

    serving = serve_tf_examples.get_concrete_function(tf.TensorSpec([None], tf.string, name="examples"))
    tf.saved_model.save(model, str(path), signatures={"serving_default": serving})


def penguin_rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Two measures of penguins, and their species."""
    rng = np.random.default_rng(seed)
    return [
        {
            "body_mass_g": np.array([rng.normal(4200, 800)], np.float32),
            "culmen_length_mm": np.array([rng.normal(44, 5)], np.float32),
            PENGUIN_LABEL: np.array([index % 3]),
        }
        for index in range(count)
    ]


def save_penguin(path: Path, transform_dir: Path) -> None:
    """Two signatures; a scalar z-score per feature, a Keras 3 model on as many inputs."""
    import keras
    import tensorflow as tf
    import tensorflow_transform as tft

    spec = {
        **dict.fromkeys(PENGUIN_FEATURES, tf.io.FixedLenFeature([1], tf.float32)),
        PENGUIN_LABEL: tf.io.FixedLenFeature([1], tf.int64),
    }

    def preprocessing_fn(inputs: Inputs) -> dict[str, Any]:
        outputs = {f"{name}_xf": tft.scale_to_z_score(inputs[name]) for name in PENGUIN_FEATURES}
        return {**outputs, f"{PENGUIN_LABEL}_xf": inputs[PENGUIN_LABEL]}

    write_transform_graph(transform_dir, spec, penguin_rows(50), preprocessing_fn)
    inputs = [keras.layers.Input((1,), name=f"{name}_xf") for name in PENGUIN_FEATURES]
    x = keras.layers.Dense(8, activation="relu")(keras.layers.concatenate(inputs))
    model = keras.Model(inputs, keras.layers.Dense(3)(x))
    seed_weights(model)
    save(path, transform_dir, model, PENGUIN_LABEL)


# --- taxi -------------------------------------------------------------------------------------------------------------


def taxi_rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Taxi trips; every feature but the label is missing in some of them, all of them in the first."""
    rng = np.random.default_rng(seed)
    rows = []
    for index in range(count):
        row: dict[str, Any] = {
            "fare": [float(np.float32(rng.uniform(3, 50)))],
            "trip_miles": [float(np.float32(rng.uniform(0.5, 20)))],
            TAXI_VOCABULARY: [rng.choice(["Cash", "Credit Card", "No Charge", "Dispute", "Prcard"])],
            TAXI_BUCKETS: [float(np.float32(rng.uniform(41.6, 42.0)))],
            TAXI_CATEGORY: [int(rng.integers(0, TAXI_HOURS))],
        }
        row = {name: value for name, value in row.items() if index and rng.random() > 0.2}
        rows.append({**row, TAXI_LABEL: [float(np.float32(rng.uniform(0, 5)))]})
    return rows


def taxi_spec() -> dict[str, Any]:
    """SchemaGen's feature specification for features that are missing here and there."""
    import tensorflow as tf

    return {
        **dict.fromkeys((*TAXI_FLOATS, TAXI_BUCKETS, TAXI_LABEL), tf.io.VarLenFeature(tf.float32)),
        TAXI_VOCABULARY: tf.io.VarLenFeature(tf.string),
        TAXI_CATEGORY: tf.io.VarLenFeature(tf.int64),
    }


def fill_in_missing(x: Any) -> Any:
    """As TFX's taxi example densifies: a SparseTensor is rebuilt with one column and filled with 0 or ''."""
    import tensorflow as tf

    if not isinstance(x, tf.sparse.SparseTensor):
        return x
    one_column = tf.SparseTensor(x.indices, x.values, [x.dense_shape[0], 1])
    return tf.sparse.to_dense(one_column, "" if x.dtype == tf.string else 0)


def taxi_preprocessing_fn(inputs: Inputs, builtin_ops: bool) -> dict[str, Any]:
    """Z-scores, a vocabulary, quantile buckets, a category, and a computed label.

    Args:
        inputs: Raw features.
        builtin_ops: One bucket for unknown words, and buckets by comparison, as the converter advises.
    """
    import tensorflow as tf
    import tensorflow_transform as tft

    filled = {name: fill_in_missing(value) for name, value in inputs.items()}
    outputs = {f"{name}_xf": tft.scale_to_z_score(filled[name]) for name in TAXI_FLOATS}
    outputs[f"{TAXI_VOCABULARY}_xf"] = tft.compute_and_apply_vocabulary(
        filled[TAXI_VOCABULARY], top_k=TAXI_VOCABULARY_SIZE, num_oov_buckets=1 if builtin_ops else TAXI_OOV_SIZE
    )
    latitude = filled[TAXI_BUCKETS]
    if builtin_ops:
        boundaries = tft.quantiles(latitude, TAXI_NUM_BUCKETS, epsilon=0.01)
        buckets = tf.reduce_sum(tf.cast(latitude[..., None] >= boundaries, tf.int64), -1)
    else:
        buckets = tft.bucketize(latitude, TAXI_NUM_BUCKETS)
    outputs[f"{TAXI_BUCKETS}_xf"] = buckets
    outputs[f"{TAXI_CATEGORY}_xf"] = filled[TAXI_CATEGORY]
    outputs[f"{TAXI_LABEL}_xf"] = tf.cast(filled[TAXI_LABEL] > filled["fare"] * 0.2, tf.int64)
    return outputs


def taxi_network(output_mode: str) -> Any:
    """A Keras 3 model, wide and deep: Dense on the z-scores, CategoryEncoding of the rest."""
    import keras

    deep = {f"{name}_xf": keras.layers.Input(name=f"{name}_xf", shape=(1,), dtype="float32") for name in TAXI_FLOATS}
    wide_tokens = {
        f"{TAXI_VOCABULARY}_xf": TAXI_VOCABULARY_SIZE + TAXI_OOV_SIZE,
        f"{TAXI_BUCKETS}_xf": TAXI_NUM_BUCKETS,
        f"{TAXI_CATEGORY}_xf": TAXI_HOURS,
    }
    wide = {name: keras.layers.Input(name=name, shape=(1,), dtype="int32") for name in wide_tokens}
    x = keras.layers.concatenate([keras.layers.Normalization()(tensor) for tensor in deep.values()])
    for units in (8, 4):
        x = keras.layers.Dense(units)(x)
    encoded = [
        keras.layers.CategoryEncoding(num_tokens=n, output_mode=output_mode)(wide[name])
        for name, n in wide_tokens.items()
    ]
    output = keras.layers.Dense(1, activation="sigmoid")(
        keras.layers.concatenate([x, keras.layers.concatenate(encoded)])
    )
    return keras.Model({**deep, **wide}, output)


def seed_weights(model: Any) -> None:
    """Seeded weights, so that nothing has to be trained."""
    rng = np.random.default_rng(5)
    for layer in model.layers:
        if "dense" in layer.name:
            layer.set_weights([rng.normal(0, 0.5, weights.shape) for weights in layer.get_weights()])


# --- saving -----------------------------------------------------------------------------------------------------------


def save_taxi(path: Path, transform_dir: Path, builtin_ops: bool = False) -> None:
    """Two signatures; sparse features of all kinds, a vocabulary with hash buckets, CategoryEncoding.

    Args:
        path: Where to.
        transform_dir: Where Transform's output goes.
        builtin_ops: Whether to change what the converter refuses as it advises.
    """
    preprocessing_fn = functools.partial(taxi_preprocessing_fn, builtin_ops=builtin_ops)
    write_transform_graph(transform_dir, taxi_spec(), taxi_rows(60), preprocessing_fn)
    model = taxi_network("one_hot" if builtin_ops else "multi_hot")
    seed_weights(model)
    save(path, transform_dir, model, TAXI_LABEL)


def save(path: Path, transform_dir: Path, model: Any, label: str) -> None:
    """As TFX's examples save: `serving_default` and `transform_features`, both parsing tf.Examples."""
    import tensorflow as tf
    import tensorflow_transform as tft

    transform = tft.TFTransformOutput(str(transform_dir))
    model.tft_layer_inference = transform.transform_features_layer()
    model.tft_layer_eval = transform.transform_features_layer()
    inputs = [tensor.name for tensor in model.inputs]

    @models.traced(tf.TensorSpec([None], tf.string, name="examples"))
    def serve_tf_examples(examples: Any) -> dict[str, Any]:
        spec = transform.raw_feature_spec()
        spec.pop(label)
        transformed = model.tft_layer_inference(tf.io.parse_example(examples, spec))
        return {"outputs": model({name: transformed[name] for name in inputs})}

    @models.traced(tf.TensorSpec([None], tf.string, name="examples"))
    def transform_features(examples: Any) -> Any:
        return model.tft_layer_eval(tf.io.parse_example(examples, transform.raw_feature_spec()))

    signatures = {"serving_default": serve_tf_examples, "transform_features": transform_features}
    tf.saved_model.save(model, str(path), signatures=signatures)
