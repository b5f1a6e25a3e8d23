"""Four recipes of MobileNetV2 from one calibration, against four stock conversions.

Both make float32, full_integer, integer_only_int8 and int16x8 with 100 calibration samples from the same re-signed
SavedModel, each in a process of its own: A by RecipeRunner, as the component's child process does it, B by TensorFlow's
public converter, recipe by recipe. Runs are interleaved A B B A; the figure is user plus system CPU time after imports.
The control compares the two A of a round, which should give 1. Afterwards every file of A is run against that of B.

The network is MobileNetV2(input_shape=(96, 96, 3), weights=None, classes=10). With its random weights activations fade
away layer by layer, and the int16x8 file does not load. So its batch normalizations get the statistics of a forward
pass over seeded images, which is what training would have given them; its convolutions stay random.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from measuring import cpu_seconds, interleaved, run_child, write_result

RECIPES = ("float32", "full_integer", "integer_only_int8", "int16x8")
SIDE, CLASSES, SAMPLES = 96, 10, 100
IMAGE, KEY = "image", "serving_default"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="rounds of A B B A")
    parser.add_argument("--examples", type=int, default=500, help="examples on which outputs are compared")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(CHILDREN[arguments.child](arguments.work, arguments.examples)))
        return
    with tempfile.TemporaryDirectory() as work:
        run("prepare", work, arguments)
        measured = interleaved(lambda step: run(step, work, arguments), arguments.rounds)
        comparison = run("compare", work, arguments)
    result = {
        "model": f"MobileNetV2(input_shape=({SIDE}, {SIDE}, 3), weights=None, classes={CLASSES}), seeded statistics",
        "recipes": RECIPES,
        "samples": SAMPLES,
        **measured["figures"],
        "compared_examples": arguments.examples,
        "comparison": comparison,
    }
    write_result(__file__, result)
    for name, found in comparison.items():
        print(f"{name}: outputs equal {found['outputs_equal']}, bytes equal {found['bytes_equal']}")
    if not all(found["outputs_equal"] for found in comparison.values()):
        raise SystemExit("outputs differ")


def run(step: str, work: str, arguments: argparse.Namespace) -> Any:
    return run_child(__file__, step, work=work, examples=arguments.examples)


def images(count: int, seed: int) -> Any:
    """Smooth random pictures with values from -1 to 1, float32 [count, 96, 96, 3]."""
    import numpy as np

    coarse = np.random.default_rng(seed).uniform(-1, 1, (count, 12, 12, 3))
    return coarse.repeat(8, axis=1).repeat(8, axis=2).astype(np.float32)


def prepare(work: Path, _examples: int) -> None:
    import keras

    from tfx_mobile.tflite_converter import front_end

    keras.utils.set_random_seed(0)
    network = keras.applications.MobileNetV2(input_shape=(SIDE, SIDE, 3), weights=None, classes=CLASSES)
    image = keras.Input((SIDE, SIDE, 3), name=IMAGE)
    model = keras.Model(image, network(image))
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0  # the statistics of the next batch, and nothing else
    model(images(64, seed=1), training=True)
    model.export(str(work / "saved_model"), format="tf_saved_model", verbose=False)
    signature = front_end.load_signature(work / "saved_model", KEY)
    front_end.FrozenSignature(signature).resign(work / "resigned", 1)


def representative() -> Any:
    return ({IMAGE: sample[None]} for sample in images(SAMPLES, seed=2))


def ours(work: Path, _examples: int) -> dict[str, Any]:
    from tfx_mobile.recipes import BUILTIN_RECIPES
    from tfx_mobile.tflite_converter.recipe_runner import RecipeRunner

    def no_ranking(recipe: Any) -> Any:
        raise AssertionError(f"{recipe} ranks nothing")

    with tempfile.TemporaryDirectory(dir=work) as shared:
        start = cpu_seconds()
        for name in RECIPES:
            runner = RecipeRunner(
                str(work / "resigned"), KEY, representative, no_ranking, shared, lambda: None, may_share=True
            )
            made = runner.run(BUILTIN_RECIPES[name])
            assert made.calibrated == (None if name == "float32" else "shared")
            (work / f"{name}.ours").write_bytes(made.data)
        return {"cpu_seconds": cpu_seconds() - start}


def stock(work: Path, _examples: int) -> dict[str, Any]:
    import tensorflow as tf

    from tfx_mobile.tflite_converter import recipe_runner  # noqa: F401 (the same imports on both sides)

    start = cpu_seconds()
    for name in RECIPES:
        converter = tf.lite.TFLiteConverter.from_saved_model(str(work / "resigned"), signature_keys=[KEY])
        if name != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.representative_dataset = representative
        if name == "integer_only_int8":
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type = converter.inference_output_type = tf.int8
        if name == "int16x8":
            converter.target_spec.supported_ops = [
                tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8,
                tf.lite.OpsSet.TFLITE_BUILTINS,
            ]
        (work / f"{name}.stock").write_bytes(converter.convert())
    return {"cpu_seconds": cpu_seconds() - start}


def compare(work: Path, examples: int) -> dict[str, Any]:
    """Runs each pair of files on the same images and compares what comes out, element by element."""
    import numpy as np

    from tfx_mobile.tflite.runtime import SignatureRunner

    found = {}
    for name in RECIPES:
        files = [(work / f"{name}.{side}").read_bytes() for side in ("ours", "stock")]
        outputs = []
        for data in files:
            runner = SignatureRunner(data, KEY)
            parts = [next(iter(runner.run({IMAGE: image[None]}).values())) for image in images(examples, seed=3)]
            outputs.append(np.concatenate(parts))
        found[name] = {
            "bytes": [len(data) for data in files],
            "bytes_equal": files[0] == files[1],
            "outputs_equal": bool(np.array_equal(*outputs)),
            "largest_difference": float(np.abs(outputs[0] - outputs[1]).max()),
            "distinct_output_values": len(np.unique(outputs[0])),
        }
    return found


CHILDREN = {"prepare": prepare, "ours": ours, "stock": stock, "compare": compare}

if __name__ == "__main__":
    main()
