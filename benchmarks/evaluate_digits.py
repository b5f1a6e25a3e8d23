"""Three variants of a digits CNN: QuantizationEvaluator's pass against stock TFMA's `tf_lite` path.

Both compute ExampleCount, SparseCategoricalAccuracy and SparseCategoricalCrossentropy over all examples and by label
and write TFMA's result files, which are compared at the end; each run is a process of its own. QuantizationEvaluator
also scores the float SavedModel, the differences to it and a threshold, which the stock path cannot: four models
against three. Runs are interleaved A B B A (A ours, B stock); the figure is user plus system CPU time after imports.
The control compares the two A of a round, which should give 1; if its median leaves 0.9 to 1.1, all is run again.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from measuring import evaluations, interleaved, run_child, write_result

VARIANTS = ("float32", "dynamic_range", "full_integer")
ROWS = 20_000
TARGET = 5.0


def main() -> None:
    arguments = evaluations.parse_arguments(__doc__, CHILDREN, ROWS, "examples; the digits are repeated to fill them")
    if arguments is None:
        return
    with tempfile.TemporaryDirectory() as work:
        run("prepare", work, arguments)
        measured = interleaved(lambda step: run(step, work, arguments), arguments.rounds, attempts=arguments.attempts)
        compared = run("compare", work, arguments)
    ours, stock, *_ = measured["runs"][0]
    result = {
        "rows": arguments.rows,
        "variants": VARIANTS,
        "accuracy": {"ours": ours["accuracy"], "stock": stock["accuracy"]},
        "target_ratio_stock_to_ours": TARGET,
        **measured["figures"],
        "compared": compared,
    }
    write_result(__file__, result, whole=arguments.rows == ROWS)
    print(f"of {compared['values']} values {compared['equal_to_1e-6']:.0%} are equal to 1e-6")


def run(step: str, work: str, arguments: argparse.Namespace) -> Any:
    return run_child(__file__, step, work=work, rows=arguments.rows)


def prepare(work: Path, rows: int) -> None:
    model, images, labels = evaluations.digits()
    evaluations.export(model, work, VARIANTS, images)
    count = len(images)
    evaluations.write_examples(
        work / evaluations.EXAMPLES,
        ({evaluations.IMAGE: images[i % count], evaluations.LABEL: labels[i % count]} for i in range(rows)),
    )


CHILDREN = {
    "prepare": prepare,
    "ours": lambda work, rows: evaluations.evaluate(work, rows, VARIANTS),
    "stock": lambda work, rows: evaluations.evaluate_stock(work, rows, VARIANTS),
    "compare": lambda work, _rows: evaluations.compare(work, VARIANTS),
}

if __name__ == "__main__":
    main()
