"""What the benchmarks of QuantizationEvaluator share: its pass as the component runs it, stock TFMA's, and inputs.

All is laid out in one folder: `saved_model`, `<variant>/tflite` (the only file name that stock TFMA reads) and a
GZIP TFRecord file of tf.Examples with the features `image` (floats) and `label`.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from measuring import cpu_seconds, peak_bytes

IMAGE, LABEL, KEY = "image", "label", "serving_default"
EXAMPLES = "eval.gz"
CALIBRATION_SAMPLES = 50


def parse_arguments(
    description: str | None, children: Mapping[str, Callable[[Path, int], Any]], rows: int, rows_help: str
) -> argparse.Namespace | None:
    """A script's arguments; None in a child of it, whose step has then run and printed its result."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=rows, help=rows_help)
    parser.add_argument("--rounds", type=int, default=5, help="rounds there and back")
    parser.add_argument(
        "--attempts", type=int, default=3, help="how often all rounds are run until the control is right"
    )
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not arguments.child:
        return arguments
    print(json.dumps(children[arguments.child](arguments.work, arguments.rows)))
    return None


def digits() -> tuple[Any, Any, Any]:
    """The digits CNN, trained, with all of scikit-learn's images [1797, 64] and labels."""
    import keras
    import numpy as np
    from sklearn.datasets import load_digits

    data = load_digits()
    images, labels = (data.data / 16).astype(np.float32), data.target
    keras.utils.set_random_seed(0)
    image = keras.Input((64,), name=IMAGE)
    x = keras.layers.Reshape((8, 8, 1))(image)
    x = keras.layers.Conv2D(32, 3, padding="same", activation="relu")(x)
    x = keras.layers.MaxPooling2D()(x)
    x = keras.layers.Conv2D(64, 3, padding="same", activation="relu")(x)
    x = keras.layers.Dense(64, activation="relu")(keras.layers.Flatten()(x))
    model = keras.Model(image, keras.layers.Dense(10, activation="softmax")(x))
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(images[:1300], labels[:1300], epochs=5, verbose=0)
    return model, images, labels


def export(model: Any, work: Path, variants: Sequence[str], samples: Any) -> None:
    """Exports the model and converts it into each variant.

    Args:
        model: A Keras model with the input `image`.
        work: The folder.
        variants: Names of built-in recipes.
        samples: Images to calibrate with.
    """
    import tensorflow as tf

    model.export(str(work / "saved_model"), format="tf_saved_model", verbose=False)
    for name in variants:
        converter = tf.lite.TFLiteConverter.from_saved_model(str(work / "saved_model"), [KEY])
        if name != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if name == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if name in ("full_integer", "integer_only_int8", "integer_only_uint8"):
            converter.representative_dataset = lambda: ({IMAGE: row[None]} for row in samples[:CALIBRATION_SAMPLES])
        if name.startswith("integer_only"):
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            dtype = tf.uint8 if name.endswith("uint8") else tf.int8
            converter.inference_input_type = converter.inference_output_type = dtype
        (work / name).mkdir()
        (work / name / "tflite").write_bytes(converter.convert())


def write_examples(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes rows as tf.Examples; floats become float features, whole numbers int64 features."""
    write_records(path, map(serialize, rows))


def write_records(path: Path, records: Iterable[bytes]) -> None:
    """Writes serialized tf.Examples."""
    import tensorflow as tf

    with tf.io.TFRecordWriter(str(path), "GZIP") as writer:
        for record in records:
            writer.write(record)


def serialize(row: Mapping[str, Any]) -> bytes:
    """A row as a serialized tf.Example."""
    import numpy as np
    import tensorflow as tf

    example = tf.train.Example()
    for name, value in row.items():
        values = np.ravel(value)
        feature = example.features.feature[name]
        kind = feature.float_list if values.dtype.kind == "f" else feature.int64_list
        kind.value.extend(values.tolist())
    serialized: bytes = example.SerializeToString()
    return serialized


def eval_config(model_specs: list[dict[str, Any]], slices: Sequence[str], threshold: Mapping[str, Any]) -> Any:
    """ExampleCount, accuracy and cross entropy, over all examples and by each feature of `slices`."""
    import tensorflow_model_analysis as tfma
    from google.protobuf import json_format

    metrics = [
        {"class_name": "ExampleCount"},
        {"class_name": "SparseCategoricalAccuracy", **threshold},
        {"class_name": "SparseCategoricalCrossentropy"},
    ]
    document = {
        "model_specs": model_specs,
        "slicing_specs": [{}, *({"feature_keys": [key]} for key in slices)],
        "metrics_specs": [{"metrics": metrics}],
    }
    return json_format.ParseDict(document, tfma.EvalConfig())


def make_pipeline() -> Any:
    import apache_beam as beam

    # Named as the component names it: a DirectRunner would look for another program to run on first.
    return beam.Pipeline(argv=["--runner=FnApiRunner", "--direct_running_mode=in_memory", "--direct_num_workers=1"])


def source(path: Path, batch_size: int | None = None) -> Any:
    import tensorflow_model_analysis as tfma
    from tfx_bsl.public import tfxio

    record = tfxio.TFExampleRecord(
        file_pattern=str(path), raw_record_column_name=tfma.ARROW_INPUT_COLUMN, telemetry_descriptors=["benchmark"]
    )
    return record.BeamSource(batch_size)


def evaluate(
    work: Path, rows: int, variants: Sequence[str], slices: Sequence[str] = (LABEL,), examples: str = EXAMPLES
) -> dict[str, Any]:
    """QuantizationEvaluator's pass over the SavedModel and the variants, with a threshold that all of them keep.

    Returns:
        The CPU time, the peak memory and what it grew by, the overall accuracy by model, and the number of slices.
    """
    import tensorflow as tf  # noqa: F401 (imports are not measured)

    from tfx_mobile.quantization_evaluator.scoring import evaluation, example_checks, predict
    from tfx_mobile.records import sha256_of
    from tfx_mobile.tflite import runtime

    runtime.interpreter_class(False)
    threshold = {"threshold": {"change_threshold": {"direction": "HIGHER_IS_BETTER", "absolute": -1.0}}}
    config = eval_config([{"label_key": LABEL}], slices, threshold)
    output = _empty(work / "ours")
    before, start = peak_bytes(), cpu_seconds()
    files = {name: work / name / "tflite" for name in variants}
    measurement = evaluation.measure(
        make_pipeline,
        [source(work / examples, example_checks.batch_size({"eval": [str(work / examples)]}))],
        predict.describe_saved_model(str(work / "saved_model"), KEY, None),
        [predict.VariantFile(name, str(path), sha256_of(path.read_bytes()), KEY) for name, path in files.items()],
        config,
        str(output),
    )
    used = cpu_seconds() - start
    assert measurement.num_examples == rows
    return {
        "cpu_seconds": used,
        "peak_bytes": peak_bytes(),
        "growth_bytes": peak_bytes() - before,
        "accuracy": {m.model: m.slices[0].metrics["sparse_categorical_accuracy"] for m in measurement.models},
        "num_slices": len(measurement.models[0].slices),
    }


def evaluate_stock(work: Path, rows: int, variants: Sequence[str]) -> dict[str, Any]:
    """Stock TFMA's `tf_lite` path over the variants: the same metrics and slices, written to the same files."""
    import tensorflow as tf  # noqa: F401 (imports are not measured)
    import tensorflow_model_analysis as tfma

    specs = [{"name": name, "label_key": LABEL, "model_type": "tf_lite", "signature_name": KEY} for name in variants]
    config = eval_config(specs, [LABEL], {})
    output = _empty(work / "stock")
    start = cpu_seconds()
    shared = [
        tfma.default_eval_shared_model(str(work / name), model_name=name, eval_config=config) for name in variants
    ]
    with make_pipeline() as pipeline:
        _ = (
            pipeline
            | source(work / EXAMPLES)
            | tfma.ExtractEvaluateAndWriteResults(eval_shared_model=shared, eval_config=config, output_path=str(output))
        )
    metrics = {name: tfma.load_eval_result(str(output), model_name=name).get_metrics_for_slice(()) for name in variants}
    used = cpu_seconds() - start
    assert all(some["example_count"]["doubleValue"] == rows for some in metrics.values())
    return {
        "cpu_seconds": used,
        "accuracy": {name: some["sparse_categorical_accuracy"]["doubleValue"] for name, some in metrics.items()},
    }


def compare(work: Path, variants: Sequence[str]) -> dict[str, Any]:
    """Compares what the last run of each wrote: the files, and every metric of every slice of every variant.

    The two run different kernels, so metrics of quantized variants may differ; those of float32 hardly.

    Returns:
        The files that both wrote, the number of values compared, their largest difference, and the share that is equal.
    """
    import tensorflow_model_analysis as tfma

    ours_files, stock_files = ({path.name for path in (work / side).iterdir()} for side in ("ours", "stock"))
    assert ours_files >= stock_files, f"stock TFMA also writes {stock_files - ours_files}"
    differences = []
    for name in variants:
        results = [tfma.load_eval_result(str(work / side), model_name=name) for side in ("ours", "stock")]
        ours, stock = ({tuple(key): values for key, values in result.slicing_metrics} for result in results)
        assert set(ours) == set(stock), f"slices of {name} differ"
        for key, outputs in stock.items():
            for metric, value in outputs[""][""].items():
                differences.append(abs(ours[key][""][""][metric]["doubleValue"] - value["doubleValue"]))
                assert name != "float32" or differences[-1] < 1e-3, f"{metric} of {name} differs on {key}"
    return {
        "files": sorted(stock_files),
        "values": len(differences),
        "largest_difference": max(differences),
        "equal_to_1e-6": sum(difference <= 1e-6 for difference in differences) / len(differences),
    }


def read_batches(path: Path, shape: Sequence[int], batch: int) -> Iterable[Any]:
    """Images of a file of examples, float32 [rows, *shape], read and parsed by tf.data: the least reading costs."""
    import tensorflow as tf

    features = {IMAGE: tf.io.FixedLenFeature(list(shape), tf.float32)}
    records = tf.data.TFRecordDataset(str(path), "GZIP").batch(batch)
    return records.map(lambda some: tf.io.parse_example(some, features)[IMAGE]).as_numpy_iterator()


def open_bare(path: Path) -> Callable[[Any], Any]:
    """A file in a bare interpreter, as fast as it goes: one thread, the tensors allocated once per size of a batch."""
    import numpy as np

    from tfx_mobile.tflite import runtime

    interpreter = runtime.interpreter_class(False)(model_path=str(path), num_threads=1)
    (entry,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()
    scale, zero_point = entry["quantization"]
    rows = 0

    def invoke(images: Any) -> Any:
        nonlocal rows
        if len(images) != rows:
            rows = len(images)
            interpreter.resize_tensor_input(entry["index"], images.shape)
            interpreter.allocate_tensors()
        if scale:
            limits = np.iinfo(entry["dtype"])
            images = np.clip(np.rint(images / np.float32(scale)) + zero_point, limits.min, limits.max)
        interpreter.set_tensor(entry["index"], images.astype(entry["dtype"], copy=False))
        interpreter.invoke()
        return interpreter.get_tensor(result["index"])

    return invoke


def _empty(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder
