"""Three variants of a digits CNN: QuantizationEvaluator's pass against stock TFMA's `tf_lite` path.

Both compute ExampleCount, SparseCategoricalAccuracy and SparseCategoricalCrossentropy over all examples and by label
and write TFMA's result files, each run in a process of its own. QuantizationEvaluator also scores the float SavedModel,
the differences to it and a threshold, which the stock path cannot: four models against three. Runs are interleaved
A B B A (A ours, B stock); the figure is user plus system CPU time after imports. The control compares the two A of a
round, which should give 1.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from measuring import cpu_seconds, interleaved, run_child, write_result

VARIANTS = ("float32", "dynamic_range", "full_integer")
IMAGE, LABEL = "image", "label"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000, help="examples; the digits are repeated to fill them")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of A B B A")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(CHILDREN[arguments.child](arguments.work, arguments.rows)))
        return
    with tempfile.TemporaryDirectory() as work:
        run("prepare", work, arguments)
        measured = interleaved(lambda step: run(step, work, arguments), arguments.rounds)
    ours, stock, *_ = measured["runs"][0]
    result = {
        "rows": arguments.rows,
        "variants": VARIANTS,
        "accuracy": {"ours": ours["accuracy"], "stock": stock["accuracy"]},
        **measured["figures"],
    }
    write_result(__file__, result)


def run(step: str, work: str, arguments: argparse.Namespace) -> Any:
    return run_child(__file__, step, work=work, rows=arguments.rows)


def prepare(work: Path, rows: int) -> None:
    import keras
    import numpy as np
    import tensorflow as tf
    from sklearn.datasets import load_digits

    digits = load_digits()
    images, labels = (digits.data / 16).astype(np.float32), digits.target
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
    model.export(str(work / "saved_model"), format="tf_saved_model", verbose=False)
    for name in VARIANTS:
        converter = tf.lite.TFLiteConverter.from_saved_model(str(work / "saved_model"), ["serving_default"])
        if name != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if name == "full_integer":
            converter.representative_dataset = lambda: ({IMAGE: row[None]} for row in images[:200])
        folder = work / name
        folder.mkdir()
        (folder / "tflite").write_bytes(converter.convert())  # the only name that stock TFMA reads
    with tf.io.TFRecordWriter(str(work / "eval.gz"), "GZIP") as writer:
        for index in range(rows):
            feature = {
                IMAGE: tf.train.Feature(float_list=tf.train.FloatList(value=images[index % len(images)])),
                LABEL: tf.train.Feature(int64_list=tf.train.Int64List(value=[labels[index % len(labels)]])),
            }
            writer.write(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())


def eval_config(model_specs: list[dict[str, Any]], threshold: dict[str, Any]) -> Any:
    import tensorflow_model_analysis as tfma
    from google.protobuf import json_format

    metrics = [
        {"class_name": "ExampleCount"},
        {"class_name": "SparseCategoricalAccuracy", **threshold},
        {"class_name": "SparseCategoricalCrossentropy"},
    ]
    slices = [{}, {"feature_keys": [LABEL]}]
    document = {"model_specs": model_specs, "slicing_specs": slices, "metrics_specs": [{"metrics": metrics}]}
    return json_format.ParseDict(document, tfma.EvalConfig())


def make_pipeline() -> Any:
    import apache_beam as beam

    return beam.Pipeline(argv=["--direct_running_mode=in_memory", "--direct_num_workers=1"])


def source(work: Path) -> Any:
    import tensorflow_model_analysis as tfma
    from tfx_bsl.public import tfxio

    record = tfxio.TFExampleRecord(
        file_pattern=str(work / "eval.gz"),
        raw_record_column_name=tfma.ARROW_INPUT_COLUMN,
        telemetry_descriptors=["benchmark"],
    )
    return record.BeamSource()


def ours(work: Path, rows: int) -> dict[str, Any]:
    import tensorflow as tf  # noqa: F401 (imports are not measured)

    from tfx_mobile.quantization_evaluator import evaluation, predict
    from tfx_mobile.records import sha256_of
    from tfx_mobile.tflite import runtime  # noqa: F401

    threshold = {"threshold": {"change_threshold": {"direction": "HIGHER_IS_BETTER", "absolute": -0.1}}}
    config = eval_config([{"label_key": LABEL}], threshold)
    start = cpu_seconds()
    files = {name: work / name / "tflite" for name in VARIANTS}
    measurement = evaluation.measure(
        make_pipeline,
        [source(work)],
        predict.describe_saved_model(str(work / "saved_model"), "serving_default", None),
        [
            predict.VariantFile(name, str(path), sha256_of(path.read_bytes()), "serving_default")
            for name, path in files.items()
        ],
        config,
        tempfile.mkdtemp(dir=work),
    )
    used = cpu_seconds() - start
    assert measurement.num_examples == rows
    accuracy = {m.model: m.slices[0].metrics["sparse_categorical_accuracy"] for m in measurement.models}
    return {"cpu_seconds": used, "accuracy": accuracy}


def stock(work: Path, rows: int) -> dict[str, Any]:
    import tensorflow as tf  # noqa: F401 (imports are not measured)
    import tensorflow_model_analysis as tfma

    specs = [
        {"name": name, "label_key": LABEL, "model_type": "tf_lite", "signature_name": "serving_default"}
        for name in VARIANTS
    ]
    config = eval_config(specs, {})
    output = tempfile.mkdtemp(dir=work)
    start = cpu_seconds()
    shared = [
        tfma.default_eval_shared_model(str(work / name), model_name=name, eval_config=config) for name in VARIANTS
    ]
    with make_pipeline() as pipeline:
        _ = (
            pipeline
            | source(work)
            | tfma.ExtractEvaluateAndWriteResults(eval_shared_model=shared, eval_config=config, output_path=output)
        )
    results = {name: tfma.load_eval_result(output, model_name=name).get_metrics_for_slice(()) for name in VARIANTS}
    used = cpu_seconds() - start
    assert all(metrics["example_count"]["doubleValue"] == rows for metrics in results.values())
    accuracy = {name: metrics["sparse_categorical_accuracy"]["doubleValue"] for name, metrics in results.items()}
    return {"cpu_seconds": used, "accuracy": accuracy}


CHILDREN = {"prepare": prepare, "ours": ours, "stock": stock}

if __name__ == "__main__":
    main()
