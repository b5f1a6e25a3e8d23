"""Tiny Keras 3 classifiers with computed weights, and Examples artifacts that fit them.

The data are noisy copies of three 4x4 patterns, so the models are accurate without any training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

IMAGE, LABEL, OUTPUT = "image", "label", "probabilities"
SIDE, CLASSES = 4, 3
PIXELS = SIDE * SIDE

Row = Mapping[str, Any]


def rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """`count` rows of `image` (16 floats, about -0.5 to 1.5) and `label` (0, 1 or 2, in turn)."""
    rng = np.random.default_rng(seed)
    patterns = np.random.default_rng(1234).random((CLASSES, PIXELS))
    labels = [index % CLASSES for index in range(count)]
    return [{IMAGE: patterns[i] + rng.normal(0, 0.15, PIXELS), LABEL: i} for i in labels]


def images(some_rows: Iterable[Row]) -> npt.NDArray[np.float32]:
    """The images of rows, float32 [rows, 16]."""
    return np.array([row[IMAGE] for row in some_rows], np.float32)


def serialize(row: Row) -> bytes:
    """A serialized tf.Example; strings become bytes features, integers int64, floats float features."""
    import tensorflow as tf

    feature = {}
    for name, value in row.items():
        values = np.ravel(np.asarray(value))
        if values.dtype.kind in "US":
            encoded = [v.encode() if isinstance(v, str) else bytes(v) for v in values.tolist()]
            feature[name] = tf.train.Feature(bytes_list=tf.train.BytesList(value=encoded))
        elif values.dtype.kind in "iub":
            feature[name] = tf.train.Feature(int64_list=tf.train.Int64List(value=values.astype(np.int64)))
        else:
            feature[name] = tf.train.Feature(float_list=tf.train.FloatList(value=values.astype(np.float32)))
    example = tf.train.Example(features=tf.train.Features(feature=feature))
    return example.SerializeToString(deterministic=True)  # type: ignore[no-any-return]


def write_records(path: str | Path, records: Iterable[bytes]) -> None:
    """Writes a GZIP TFRecord file."""
    import tensorflow as tf

    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path), "GZIP") as writer:
        for record in records:
            writer.write(record)


def write_examples(uri: str | Path, splits: Mapping[str, Sequence[Row]], num_shards: int = 2) -> Any:
    """Writes an Examples artifact as ExampleGen does and returns it.

    Args:
        uri: The artifact's folder.
        splits: Rows by split name.
        num_shards: Files per split.
    """
    from tfx.types import artifact_utils, standard_artifacts

    artifact = standard_artifacts.Examples()
    artifact.uri = str(uri)
    artifact.split_names = artifact_utils.encode_split_names(list(splits))
    for split, some_rows in splits.items():
        for shard in range(num_shards):
            path = Path(uri) / f"Split-{split}" / f"data_tfrecord-{shard:05d}-of-{num_shards:05d}.gz"
            write_records(path, map(serialize, some_rows[shard::num_shards]))
    return artifact


def model_artifact(uri: str | Path) -> Any:
    """A Model artifact at `uri`; put the SavedModel into `Path(uri) / "Format-Serving"` as Trainer does."""
    from tfx.types import standard_artifacts

    artifact = standard_artifacts.Model()
    artifact.uri = str(uri)
    return artifact


def network(training_images: npt.NDArray[np.float32], labels: Sequence[int], scale: float = 8.0) -> Any:
    """Reshape, Conv2D with seeded weights, Flatten, Dense: classifies by the nearest class mean of its features."""
    import keras

    image = keras.Input((PIXELS,), name=IMAGE)
    x = keras.layers.Reshape((SIDE, SIDE, 1))(image)
    x = keras.layers.Conv2D(4, 3, padding="same", activation="relu", name="features")(x)
    features = keras.layers.Flatten()(x)
    model = keras.Model(image, keras.layers.Dense(CLASSES, activation="softmax", name=OUTPUT)(features))
    rng = np.random.default_rng(7)
    model.get_layer("features").set_weights([rng.normal(0, 0.5, (3, 3, 1, 4)), np.full(4, 0.1)])
    values = keras.ops.convert_to_numpy(keras.Model(image, features)(training_images))
    means = np.array([values[np.asarray(labels) == label].mean(axis=0) for label in range(CLASSES)])
    model.get_layer(OUTPUT).set_weights([means.T * scale, -(means**2).sum(axis=1) / 2 * scale])
    return model


def raw_network() -> Any:
    """The network for images as they are in `rows`."""
    training = rows(90)
    return network(images(training), [row[LABEL] for row in training])


def save_raw_model(path: str | Path) -> None:
    """A Keras 3 export whose `serving_default` takes `image` float32 [batch, 16] and returns `output_0` [batch, 3]."""
    raw_network().export(str(path), format="tf_saved_model", verbose=False)


CAMERA, SCALED = "camera", "image_xf"


def write_transform_graph(path: str | Path, *, wide: bool = False) -> None:
    """A real Transform output: `image` through `scale_to_z_score`, `label` as it is.

    Args:
        path: Its folder.
        wide: The z-score also under a name of its own, `image_xf`; and a raw feature `camera`, strings, that examples
            may lack and that only the length of ends up in `camera_length`.
    """
    import tempfile

    import apache_beam as beam
    import tensorflow as tf
    import tensorflow_transform as tft
    import tensorflow_transform.beam as tft_beam
    from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions
    from tensorflow_transform.tf_metadata import dataset_metadata, schema_utils

    spec = {IMAGE: tf.io.FixedLenFeature([PIXELS], tf.float32), LABEL: tf.io.FixedLenFeature([1], tf.int64)}
    data = [{IMAGE: row[IMAGE].astype(np.float32), LABEL: np.array([row[LABEL]])} for row in rows(90)]
    if wide:
        spec[CAMERA] = tf.io.VarLenFeature(tf.string)
        data = [{**row, CAMERA: ["front"]} for row in data]
    metadata = dataset_metadata.DatasetMetadata(schema_utils.schema_from_feature_spec(spec))

    def preprocessing_fn(inputs: dict[str, Any]) -> dict[str, Any]:
        outputs = {IMAGE: tft.scale_to_z_score(inputs[IMAGE]), LABEL: inputs[LABEL]}
        if wide:
            outputs[SCALED] = outputs[IMAGE]
            lengths = tf.strings.length(tf.sparse.to_dense(inputs[CAMERA]))
            outputs["camera_length"] = tf.cast(tf.reduce_sum(lengths, axis=1), tf.int64)
        return outputs

    options = PipelineOptions(flags=["--runner=FnApiRunner"])  # a DirectRunner would download another
    options.view_as(DirectOptions).direct_running_mode = "in_memory"
    with tempfile.TemporaryDirectory() as temp, beam.Pipeline(options=options) as pipeline, tft_beam.Context(temp):
        create = pipeline | beam.Create(data)
        _, transform_fn = (create, metadata) | tft_beam.AnalyzeAndTransformDataset(preprocessing_fn)
        _ = transform_fn | tft_beam.WriteTransformFn(str(path))
        _ = metadata | tft_beam.WriteMetadata(str(Path(path) / "metadata"), pipeline)


def transform_graph(tmp_path_factory: Any) -> Path:
    """The folder of the wide TransformGraph artifact; written once per test session."""
    root: Path = tmp_path_factory.getbasetemp() / "wide_transform_graph"
    if not root.exists():
        write_transform_graph(root, wide=True)
    return root


def scaled(some_images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The z-score that the transform graphs compute: of all pixels of the 90 rows they were made with."""
    training = images(rows(90))
    return ((some_images - training.mean()) / training.std()).astype(np.float32)


def save_transformed_model(path: str | Path) -> None:
    """A Keras 3 export on a transformed feature: `image_xf` float32 [batch, 16] to `output_0` [batch, 3]."""
    import keras

    training = rows(90)
    image_xf = keras.Input((PIXELS,), name=SCALED)
    classifier = network(scaled(images(training)), [row[LABEL] for row in training], scale=0.1)
    keras.Model(image_xf, classifier(image_xf)).export(str(path), format="tf_saved_model", verbose=False)


def save_serving_model(path: str | Path, transform_dir: str | Path) -> None:
    """As TFX's templates save: `serving_default` parses tf.Examples, with Transform inside, output `probabilities`."""
    import tensorflow as tf
    import tensorflow_transform as tft

    transform = tft.TFTransformOutput(str(transform_dir))
    layer = transform.transform_features_layer()
    feature_spec = transform.raw_feature_spec()
    feature_spec.pop(LABEL)
    training = rows(90)
    scaled = layer({IMAGE: tf.constant(images(training))})[IMAGE].numpy()
    model = network(scaled, [row[LABEL] for row in training], scale=0.1)
    model.transform_layer = layer

    @traced(tf.TensorSpec([None], tf.string, name="examples"))
    def serve_examples(examples: Any) -> dict[str, Any]:
        transformed = layer(tf.io.parse_example(examples, feature_spec))
        return {OUTPUT: model(transformed[IMAGE])}

    tf.saved_model.save(model, str(path), signatures={"serving_default": serve_examples})


def save_two_input_model(path: str | Path) -> None:
    """A Keras 3 export on `amount` float32 [batch, 2] and `category` int64 [batch, 1], output `score` [batch, 1]."""
    import keras

    amount = keras.Input((2,), name="amount")
    category = keras.Input((1,), name="category", dtype="int64")
    embedded = keras.layers.Flatten()(keras.layers.Embedding(4, 3, name="embedding")(category))
    x = keras.layers.Concatenate()([amount, embedded])
    model = keras.Model({"amount": amount, "category": category}, {"score": keras.layers.Dense(1, name="head")(x)})
    rng = np.random.default_rng(3)
    model.get_layer("embedding").set_weights([rng.normal(size=(4, 3))])
    model.get_layer("head").set_weights([rng.normal(size=(5, 1)), np.array([0.25])])
    model.export(str(path), format="tf_saved_model", verbose=False)


def traced(*specs: Any) -> Callable[[Callable[..., Any]], Any]:
    """The decorator tf.function with a fixed input signature, typed."""
    import tensorflow as tf

    return tf.function(input_signature=list(specs))  # type: ignore[no-any-return]


def save_parsing_module(
    path: str | Path, feature_spec: Mapping[str, Any], model: Callable[[Any], dict[str, Any]]
) -> None:
    """A SavedModel without Keras: `serving_default` parses tf.Examples by `feature_spec` and calls `model` on them."""
    import tensorflow as tf

    module = tf.Module()

    @traced(tf.TensorSpec([None], tf.string, name="examples"))
    def serve_examples(examples: Any) -> dict[str, Any]:
        return model(tf.io.parse_example(examples, dict(feature_spec)))

    tf.saved_model.save(module, str(path), signatures={"serving_default": serve_examples})


def saved_once(tmp_path_factory: Any, name: str, save: Callable[[Path], None]) -> Path:
    """A model artifact's folder with `save`'s SavedModel in `Format-Serving`; saved once per test session."""
    root: Path = tmp_path_factory.getbasetemp() / "models" / name
    if not root.exists():
        save(root / "Format-Serving")
    return root


def raw_model(tmp_path_factory: Any) -> Path:
    """The folder of a Model artifact by `save_raw_model`."""
    return saved_once(tmp_path_factory, "raw", save_raw_model)


def serving_model(tmp_path_factory: Any) -> Path:
    """The folder of a Model artifact by `save_serving_model`, with a real Transform graph."""

    def save(path: Path) -> None:
        transform = tmp_path_factory.mktemp("transform_graph")
        write_transform_graph(transform)
        save_serving_model(path, transform)

    return saved_once(tmp_path_factory, "serving", save)
