"""Peak memory of the process that TFLiteConverter runs in, converting a large model into all recipes or into one.

The component's executor converts ResNet101V2 (random weights, 224 x 224) once into float32 alone and once into every
recipe, each in a fresh process. The figure is that process's peak resident memory; its children, which hold TensorFlow
and the model, are not in it. `--model small` does the same with a network of 60 kB, to see that the benchmark works.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from measuring import peak_bytes, run_child, write_result

ONE = ["float32"]
ALL = [
    "float32",
    "float16",
    "dynamic_range",
    "full_integer",
    "integer_only_int8",
    "integer_only_uint8",
    "int16x8",
    "mixed_precision",
    "int4",
]
SIDE = {"resnet": 224, "small": 32}
SAMPLES = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=sorted(SIDE), default="resnet")
    parser.add_argument("--max-parallel", type=int, default=1, help="converter processes that may run at once")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(child(arguments)))
        return
    with tempfile.TemporaryDirectory() as work:
        run("prepare", work, arguments)
        runs = {name: run(name, work, arguments) for name in ("one", "all")}
    ratio = runs["all"]["peak_bytes"] / runs["one"]["peak_bytes"]
    result = {
        "model": "ResNet101V2(weights=None), 224 x 224" if arguments.model == "resnet" else "small",
        "max_parallel": arguments.max_parallel,
        "recipes": {"one": ONE, "all": ALL},
        **runs,
        "ratio_all_to_one": round(ratio, 3),
    }
    for name, measured in runs.items():
        peak, before = (f"{measured[key] / 1e6:.0f} MB" for key in ("peak_bytes", "before_bytes"))
        print(f"{name}: peak {peak}, {before} before it began, failed: {measured['failed']}")
    print(f"all / one: {ratio:.2f}")
    if arguments.model == "resnet":
        write_result(__file__, result)


def run(step: str, work: str, arguments: argparse.Namespace) -> Any:
    return run_child(__file__, step, work=work, model=arguments.model, max_parallel=arguments.max_parallel)


def child(arguments: argparse.Namespace) -> dict[str, Any]:
    if arguments.child == "prepare":
        prepare(arguments.work, arguments.model)
        return {}
    return convert(arguments.work, ONE if arguments.child == "one" else ALL, arguments.max_parallel)


def prepare(work: Path, model: str) -> None:
    """The SavedModel as Trainer saves it, and a split of calibration examples."""
    import keras
    import numpy as np
    import tensorflow as tf

    keras.utils.set_random_seed(0)
    side = SIDE[model]
    image = keras.Input((side, side, 3), name="image")
    if model == "resnet":
        network = keras.applications.ResNet101V2(input_shape=(side, side, 3), weights=None)(image)
    else:
        x = keras.layers.Conv2D(32, 3, strides=2, activation="relu")(image)
        x = keras.layers.Conv2D(64, 3, strides=2, activation="relu")(x)
        network = keras.layers.Dense(10, activation="softmax")(keras.layers.GlobalAveragePooling2D()(x))
    keras.Model(image, network).export(str(work / "model" / "Format-Serving"), format="tf_saved_model", verbose=False)
    split = work / "examples" / "Split-train"
    split.mkdir(parents=True)
    rng = np.random.default_rng(0)
    with tf.io.TFRecordWriter(str(split / "data_tfrecord-00000-of-00001.gz"), "GZIP") as writer:
        for _ in range(2 * SAMPLES):
            values = tf.train.FloatList(value=rng.uniform(-1, 1, side * side * 3))
            feature = {"image": tf.train.Feature(float_list=values)}
            writer.write(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())


def convert(work: Path, recipes: list[str], max_parallel: int) -> dict[str, Any]:
    # Reading examples imports TFMA, which has nothing to do with the model: loaded in both runs before they begin.
    from tfx.components.util import examples_utils  # noqa: F401
    from tfx.types import artifact_utils, standard_artifacts

    from tfx_mobile.artifacts import TFLiteVariants
    from tfx_mobile.records import VariantManifest
    from tfx_mobile.tflite_converter.executor import Executor

    model, examples, variants = standard_artifacts.Model(), standard_artifacts.Examples(), TFLiteVariants()
    model.uri, examples.uri = str(work / "model"), str(work / "examples")
    examples.split_names = artifact_utils.encode_split_names(["train"])
    variants.uri = tempfile.mkdtemp(dir=work)
    before = peak_bytes()
    parameters = {
        "recipes": json.dumps([recipe if recipe != "mixed_precision" else bounded_search() for recipe in recipes]),
        "calibration": json.dumps({"num_samples": SAMPLES, "evaluation_split": None}),
        "deadline_seconds": 3600.0,
        "max_parallel": max_parallel,
    }
    Executor().Do({"model": [model], "examples": [examples]}, {"variants": [variants]}, parameters)
    manifest = VariantManifest.read(Path(variants.uri) / "manifest.json")
    return {
        "peak_bytes": peak_bytes(),
        "before_bytes": before,
        "size_bytes": {v.name: v.file.size_bytes for v in manifest.variants if v.file is not None},
        "failed": {v.name: v.failure.code for v in manifest.variants if v.failure is not None},
    }


def bounded_search() -> dict[str, Any]:
    """`mixed_precision` with few trials: its search runs in the child, and what it finds is not the question here."""
    repair = {"max_trials": 2, "num_examples": SAMPLES}
    return {"name": "mixed_precision", "quantization": "mixed_precision", "repair": repair}


if __name__ == "__main__":
    main()
