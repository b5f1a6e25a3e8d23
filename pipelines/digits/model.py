"""The user code of the digits pipeline, written as TFX's own templates write it: nothing here knows of TFLite."""

from __future__ import annotations

from typing import Any

from pipelines.digits.data import IMAGE, LABEL, MAX_PIXEL, PIXELS

BATCH_SIZE = 32


def preprocessing_fn(inputs: dict[str, Any]) -> dict[str, Any]:
    """Transform's callback: pixels to 0..1, the label as it is."""
    return {IMAGE: inputs[IMAGE] / MAX_PIXEL, LABEL: inputs[LABEL]}


def run_fn(fn_args: Any) -> None:
    """Trainer's callback: trains a small CNN and saves it with a signature that parses tf.Examples."""
    import tensorflow_transform as tft

    transform_output = tft.TFTransformOutput(fn_args.transform_output)
    save(train(fn_args, transform_output), fn_args, transform_output)


def train(fn_args: Any, transform_output: Any) -> Any:
    """A trained Keras 3 model: `image` [N, 64] float32 in 0..1 to probabilities [N, 10]."""
    import keras

    keras.utils.set_random_seed(0)
    examples = dataset(fn_args.train_files, transform_output)
    model = network(keras)
    model.compile(optimizer=keras.optimizers.Adam(2e-3), loss="sparse_categorical_crossentropy")
    model.fit(examples, steps_per_epoch=fn_args.train_steps, epochs=1, verbose=0)
    return model


def save(model: Any, fn_args: Any, transform_output: Any) -> None:
    """Writes the SavedModel."""
    import tensorflow as tf

    signatures = {"serving_default": _serve_examples(model, transform_output)}
    tf.saved_model.save(model, fn_args.serving_model_dir, signatures=signatures)


def network(keras: Any) -> Any:
    """The untrained network, `image` [N, 64] float32 in 0..1 to probabilities [N, 10].

    Args:
        keras: The module `keras` or `tf_keras`; the layers' names are the same in both.
    """
    layers = keras.layers
    image = keras.Input((PIXELS,), name=IMAGE)
    x = layers.Reshape((8, 8, 1))(image)
    x = layers.Conv2D(32, 3, padding="same", use_bias=False, name="conv_1")(x)
    x = layers.BatchNormalization(name="normalization")(x)
    x = layers.ReLU()(x)
    x = layers.MaxPooling2D()(x)
    x = layers.Conv2D(64, 3, padding="same", activation="relu", name="conv_2")(x)
    x = layers.Flatten()(x)
    x = layers.Dense(64, activation="relu", name="hidden")(x)
    return keras.Model(image, layers.Dense(10, activation="softmax", name="probabilities")(x))


def dataset(files: list[str], transform_output: Any) -> Any:
    """Transformed training examples in shuffled batches without end: image [N, 64] and label [N, 1]."""
    import tensorflow as tf

    spec = transform_output.transformed_feature_spec()
    paths = tf.data.Dataset.list_files(files, shuffle=False)
    records = tf.data.TFRecordDataset(paths, compression_type="GZIP")
    examples = records.map(lambda record: tf.io.parse_single_example(record, spec)).map(
        lambda features: (features[IMAGE], features[LABEL])
    )
    return examples.shuffle(2000, seed=0).repeat().batch(BATCH_SIZE)


def _serve_examples(model: Any, transform_output: Any) -> Any:
    import tensorflow as tf

    model.transform_layer = transform_output.transform_features_layer()
    feature_spec = transform_output.raw_feature_spec()
    feature_spec.pop(LABEL)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")])
    def serve_examples(examples: Any) -> dict[str, Any]:
        raw = tf.io.parse_example(examples, feature_spec)
        transformed = model.transform_layer(raw)
        return {"probabilities": model(transformed[IMAGE])}

    return serve_examples
