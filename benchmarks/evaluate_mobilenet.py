"""MobileNetV2-96: QuantizationEvaluator's pass against stock TFMA, and against nothing but reading and interpreters.

1. Three variants, against stock TFMA's `tf_lite` path: the same metrics and slices, and the same kinds of result files.
   Ours also scores the float SavedModel and the differences to it.
2. Six variants, against the least that any evaluation must do: `bare` reads the examples with tf.data and runs the same
   six files in bare interpreters, and computes nothing from what they return. Ours also runs the float SavedModel,
   which no interpreter can; so `bare_and_saved_model` runs that too. Ratios to both are given: the first holds the
   SavedModel against us, the second compares equal work.
3. One variant to six: the CPU time that five more variants add to ours, over what they add to `bare`.

Each run is a process of its own; runs are interleaved there and back (A B B A); the figure is user plus system CPU time
after imports. The control compares the two outer runs of a round, of the same step, which should give 1; if its median
leaves 0.9 to 1.1, all is run again.

The network is MobileNetV2(input_shape=(96, 96, 3), weights=None, classes=10). Its convolutions stay random; its batch
normalizations get the statistics of a forward pass over seeded images, as training would have given them, and its
logits are centred and spread, so that it tells ten classes apart. The label of an image is the class that the float
model gives, so accuracy is agreement with the float model. Such a network magnifies rounding errors as no trained one
does: low accuracies of quantized variants, and differences between the kernels of both sides, mean nothing here.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from measuring import by_round, cpu_seconds, evaluations, interleaved, ratio_of, run_child, write_result
from measuring.evaluations import EXAMPLES, IMAGE, KEY, LABEL

SIX = ("full_integer", "float32", "dynamic_range", "float16", "integer_only_int8", "integer_only_uint8")
THREE, ONE = SIX[:3], SIX[:1]
SIDE, CLASSES = 96, 10
ROWS = 2_000
SHAPE = (SIDE, SIDE, 3)
BATCH = 64  # as many as the evaluator runs at once
STOCK = ("ours_3", "stock_3")
BOUND = ("ours_6", "ours_1", "bare_1", "bare_6", "bare_6_and_saved_model")
TARGETS = {
    "ratio_stock_to_ours": 2.0,
    "ratio_ours_to_bare": 1.25,
    "ratio_ours_to_bare_and_saved_model": 1.25,
    "added_by_variants_to_bare": 1.2,
}


def main() -> None:
    arguments = evaluations.parse_arguments(__doc__, CHILDREN, ROWS, "examples")
    if arguments is None:
        return
    with tempfile.TemporaryDirectory() as work:
        prepared = run("prepare", work, arguments)

        def step(name: str) -> Any:
            return run(name, work, arguments)

        stock = interleaved(step, arguments.rounds, STOCK, arguments.attempts)
        compared = run("compare", work, arguments)
        bound = interleaved(step, arguments.rounds, BOUND, arguments.attempts)
    added = statistics.median(
        (cpu["ours_6"] - cpu["ours_1"]) / (cpu["bare_6"] - cpu["bare_1"]) for cpu in by_round(bound)
    )
    figures = {
        "ratio_stock_to_ours": ratio_of(stock, "stock_3", "ours_3"),
        "ratio_ours_to_bare": ratio_of(bound, "ours_6", "bare_6"),
        "ratio_ours_to_bare_and_saved_model": ratio_of(bound, "ours_6", "bare_6_and_saved_model"),
        "added_by_variants_to_bare": round(added, 3),
    }
    result = {
        "model": f"MobileNetV2(input_shape={SHAPE}, weights=None, classes={CLASSES}), seeded statistics, spread logits",
        "rows": arguments.rows,
        "variants": {"ours_1": ONE, "ours_3": THREE, "ours_6": SIX},
        **prepared,
        "accuracy": {"ours": bound["runs"][0][0]["accuracy"], "stock": stock["runs"][0][1]["accuracy"]},
        "targets": TARGETS,
        **figures,
        "stock": {**stock["figures"], "compared": compared},
        "bound": bound["figures"],
    }
    write_result(__file__, result, whole=arguments.rows == ROWS)
    for name, value in figures.items():
        print(f"{name}: {value}, target {TARGETS[name]}")


def run(step: str, work: str, arguments: argparse.Namespace) -> Any:
    return run_child(__file__, step, work=work, rows=arguments.rows)


def images(count: int, seed: int) -> Any:
    """Smooth random pictures with values from -1 to 1, float32 [count, 96, 96, 3]."""
    import numpy as np

    coarse = np.random.default_rng(seed).uniform(-1, 1, (count, 12, 12, 3))
    return coarse.repeat(8, axis=1).repeat(8, axis=2).astype(np.float32)


def prepare(work: Path, rows: int) -> dict[str, Any]:
    import keras
    import numpy as np

    keras.utils.set_random_seed(0)
    network = keras.applications.MobileNetV2(input_shape=SHAPE, weights=None, classes=CLASSES)
    image = keras.Input(SHAPE, name=IMAGE)
    model = keras.Model(image, network(image))
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0  # the statistics of the next batch, and nothing else
    samples = images(128, seed=1)
    model(samples, training=True)
    spread_logits(network, samples)
    evaluations.export(model, work, SIX, samples)
    pictures = images(rows, seed=3)
    labels = model.predict(pictures, batch_size=BATCH, verbose=0).argmax(axis=1)
    evaluations.write_examples(
        work / EXAMPLES, ({IMAGE: picture, LABEL: label} for picture, label in zip(pictures, labels, strict=True))
    )
    return {"examples_of_each_class": np.bincount(labels, minlength=CLASSES).tolist()}


def spread_logits(network: Any, samples: Any) -> None:
    """Scales the classifier so that each logit has mean 0 and standard deviation 2 over the samples."""
    import keras

    classifier = network.layers[-1]
    features = keras.Model(network.inputs, network.layers[-2].output).predict(samples, verbose=0)
    kernel, bias = classifier.get_weights()
    logits = features @ kernel
    scale = 2 / logits.std(axis=0)
    classifier.set_weights([kernel * scale, bias - logits.mean(axis=0) * scale])


def bare(work: Path, rows: int, variants: Sequence[str], saved_model: bool = False) -> dict[str, Any]:
    """Reads the examples and runs the files on them, and the SavedModel if asked for, and does nothing else."""
    import tensorflow as tf

    from tfx_mobile.tflite import runtime

    runtime.interpreter_class(False)
    start = cpu_seconds()
    invoked = [evaluations.open_bare(work / name / "tflite") for name in variants]
    if saved_model:
        loaded = tf.saved_model.load(str(work / "saved_model"))
        (output,) = loaded.signatures[KEY].structured_outputs
        invoked.append(lambda batch: loaded.signatures[KEY](**{IMAGE: tf.constant(batch)})[output].numpy())
    seen = 0
    for batch in evaluations.read_batches(work / EXAMPLES, SHAPE, BATCH):
        seen += len(batch)
        for invoke in invoked:
            invoke(batch)
    used = cpu_seconds() - start
    assert seen == rows
    return {"cpu_seconds": used}


CHILDREN = {
    "prepare": prepare,
    "ours_1": lambda work, rows: evaluations.evaluate(work, rows, ONE),
    "ours_3": lambda work, rows: evaluations.evaluate(work, rows, THREE),
    "ours_6": lambda work, rows: evaluations.evaluate(work, rows, SIX),
    "stock_3": lambda work, rows: evaluations.evaluate_stock(work, rows, THREE),
    "bare_1": lambda work, rows: bare(work, rows, ONE),
    "bare_6": lambda work, rows: bare(work, rows, SIX),
    "bare_6_and_saved_model": lambda work, rows: bare(work, rows, SIX, saved_model=True),
    "compare": lambda work, _rows: evaluations.compare(work, THREE),
}

if __name__ == "__main__":
    main()
