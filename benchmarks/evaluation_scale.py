"""What slices and examples cost QuantizationEvaluator: CPU time of 1 to 101 slices, memory of few to many examples.

1. The digits CNN in three variants, over all examples alone, and also by a feature with 100 values: user plus system
   CPU time after imports.
2. A small network on pictures of 96 x 96 x 3 floats (110 kB an example, so that examples would show if they were kept),
   one variant, over few examples and ten times as many: peak resident memory of the whole process.

Each run is a process of its own; runs are interleaved there and back (A B B A). The control compares the two outer runs
of a round, of the same step, which should give 1; if its median leaves 0.9 to 1.1, all is run again.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import Any

from measuring import by_round, evaluations, interleaved, ratio_of, run_child, write_result
from measuring.evaluations import EXAMPLES, IMAGE, LABEL

VARIANTS = ("float32", "dynamic_range", "full_integer")
ROWS = 20_000
GROUP, GROUPS = "group", 100
SIDE = 96
POOL = 100  # different pictures
FEW, MANY = "few.gz", "many.gz"
TARGETS = {"ratio_101_slices_to_1": 1.3, "ratio_peak_many_to_few": 1.1}


def main() -> None:
    arguments = evaluations.parse_arguments(__doc__, CHILDREN, ROWS, "examples; few are a tenth of them")
    if arguments is None:
        return
    with tempfile.TemporaryDirectory() as work:

        def step(name: str) -> Any:
            return run_child(__file__, name, work=work, rows=arguments.rows)

        step("prepare")
        slices = interleaved(step, arguments.rounds, ("slices_1", "slices_101"), arguments.attempts)
        memory = interleaved(step, arguments.rounds, ("few", "many"), arguments.attempts, figure="peak_bytes")
    assert [one["num_slices"] for one in slices["runs"][0][:2]] == [1, 1 + GROUPS]
    grown = by_round(memory, "growth_bytes")
    figures = {
        "ratio_101_slices_to_1": ratio_of(slices, "slices_101", "slices_1"),
        "ratio_peak_many_to_few": ratio_of(memory, "many", "few", "peak_bytes"),
    }
    result = {
        "rows": {"slices": arguments.rows, "few": arguments.rows // 10, "many": arguments.rows},
        "variants": {"slices": VARIANTS, "memory": VARIANTS[:1]},
        "targets": TARGETS,
        **figures,
        "growth_after_imports_bytes": {
            name: statistics.median(values[name] for values in grown) for name in ("few", "many")
        },
        "slices": slices["figures"],
        "memory": memory["figures"],
    }
    write_result(__file__, result, whole=arguments.rows == ROWS)
    for name, value in figures.items():
        print(f"{name}: {value}, target {TARGETS[name]}")


def prepare(work: Path, rows: int) -> None:
    import keras
    import numpy as np

    (work / "digits").mkdir()
    model, images, labels = evaluations.digits()
    evaluations.export(model, work / "digits", VARIANTS, images)
    count = len(images)
    evaluations.write_examples(
        work / "digits" / EXAMPLES,
        ({IMAGE: images[i % count], LABEL: labels[i % count], GROUP: i % GROUPS} for i in range(rows)),
    )

    (work / "pictures").mkdir()
    keras.utils.set_random_seed(0)
    image = keras.Input((SIDE, SIDE, 3), name=IMAGE)
    x = keras.layers.Conv2D(8, 3, strides=4, activation="relu")(image)
    outputs = keras.layers.Dense(10, activation="softmax")(keras.layers.GlobalAveragePooling2D()(x))
    evaluations.export(keras.Model(image, outputs), work / "pictures", VARIANTS[:1], None)
    # Four bits a pixel, so that a file compresses about as a picture does. Of a file that compresses to nothing, Beam's
    # reader holds all at once, since it decompresses 16 MB at a time.
    drawn = np.random.default_rng(0).integers(0, 16, (POOL, SIDE, SIDE, 3)).astype(np.float32) / 16
    pool = [evaluations.serialize({IMAGE: picture, LABEL: index % 10}) for index, picture in enumerate(drawn)]
    for name, number in ((FEW, rows // 10), (MANY, rows)):
        evaluations.write_records(work / "pictures" / name, (pool[index % POOL] for index in range(number)))


CHILDREN = {
    "prepare": prepare,
    "slices_1": lambda work, rows: evaluations.evaluate(work / "digits", rows, VARIANTS, ()),
    "slices_101": lambda work, rows: evaluations.evaluate(work / "digits", rows, VARIANTS, (GROUP,)),
    "few": lambda work, rows: evaluations.evaluate(work / "pictures", rows // 10, VARIANTS[:1], (), FEW),
    "many": lambda work, rows: evaluations.evaluate(work / "pictures", rows, VARIANTS[:1], (), MANY),
}

if __name__ == "__main__":
    main()
