"""How close a variant's outputs are to the float model's, whatever the task: no label is needed.

Sums are float64 and of a batch at a time; what is written has ten significant digits, so that the order of batches,
which only changes the last ones, does not show.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow_model_analysis as tfma

from tfx_mobile.quantization_evaluator.scoring.aside import Finding
from tfx_mobile.records import Fidelity

Array = npt.NDArray[Any]
_Key = tuple[str, str]

# Values of an output that are looked at together: float64 copies of large outputs stay in the processor's cache.
_BLOCK = 1 << 16


@dataclass
class Comparison:
    """Sums over compared examples of one output; adding two gives that of all examples.

    Attributes:
        num_examples: Examples on which both outputs are finite.
        positions: Entries of all axes but the last, over all examples; of all axes where values are compared for
            equality.
        same_class: Positions with the same largest entry, or the same value.
        same_side: Single entries on the same side of 0.5; meaningful if `expected_min` and `expected_max` say so.
        expected_squares: Sum of the float model's squared values.
        actual_squares: Sum of the variant's squared values.
        products: Sum of the products of both.
        squared_errors: Sum of the squared differences.
        max_error: The largest difference.
        expected_min: The float model's smallest value.
        expected_max: The float model's largest value.
        is_float: Whether values are real numbers, not ids, counts, flags or text.
        single: Whether the last axis has one entry, or there is none beside that of the examples.
    """

    num_examples: int = 0
    positions: int = 0
    same_class: int = 0
    same_side: int = 0
    expected_squares: float = 0.0
    actual_squares: float = 0.0
    products: float = 0.0
    squared_errors: float = 0.0
    max_error: float = 0.0
    expected_min: float = math.inf
    expected_max: float = -math.inf
    is_float: bool = False
    single: bool = False

    def __add__(self, other: Comparison) -> Comparison:
        by_name = {"max_error": max, "expected_min": min, "expected_max": max, "is_float": max, "single": max}
        combined = {}
        for field in fields(self):
            mine, others = getattr(self, field.name), getattr(other, field.name)
            combine = by_name.get(field.name)
            combined[field.name] = combine(mine, others) if combine else mine + others
        return Comparison(**combined)

    def to_record(self, variant: str, output: str) -> Fidelity:
        """The figures of these sums."""
        none = self.num_examples == 0
        same = self.same_class
        if self.single and self.is_float:
            # Of one entry nothing is the largest; a probability says yes or no.
            same = self.same_side
            none = none or not (self.expected_min >= 0.0 and self.expected_max <= 1.0)
        lengths = math.sqrt(self.expected_squares) * math.sqrt(self.actual_squares)
        measurable = self.is_float and self.squared_errors > 0 and self.expected_squares > 0
        return Fidelity(
            variant=variant,
            output=output,
            num_examples=self.num_examples,
            top1_agreement=None if none or not self.positions else _rounded(same / self.positions),
            cosine_similarity=_rounded(max(-1.0, min(1.0, self.products / lengths))) if lengths > 0 else None,
            snr_db=_rounded(10 * math.log10(self.expected_squares / self.squared_errors)) if measurable else None,
            max_absolute_error=_rounded(self.max_error) if self.is_float and self.num_examples else None,
        )


def compare(expected: Array, actual: Array) -> Comparison:
    """Compares one output of a variant with the float model's.

    Args:
        expected: The float model's values, [rows, ...]; floats, integers, booleans or strings.
        actual: The variant's, of the same shape.
    """
    rows = len(expected)
    if not np.issubdtype(expected.dtype, np.floating):
        # As objects: text comes as bytes of fixed length from one runtime and of any length from another.
        same = expected.astype(object) == actual.astype(object) if expected.dtype.kind in "OSU" else expected == actual
        return Comparison(num_examples=rows, positions=expected.size, same_class=int(np.sum(same)))
    step = max(1, _BLOCK // max(1, expected[:1].size))
    total = Comparison(is_float=True, single=expected.ndim < 2 or expected.shape[-1] == 1)
    for start in range(0, rows, step):
        total += _compare_floats(expected[start : start + step], actual[start : start + step])
    return total


def _compare_floats(expected: Array, actual: Array) -> Comparison:
    finite = np.isfinite(expected) & np.isfinite(actual)
    if not finite.all():
        kept = finite.reshape(len(finite), -1).all(axis=1)
        expected, actual = expected[kept], actual[kept]
    if not expected.size:
        return Comparison(num_examples=len(expected), is_float=True)
    single = expected.ndim < 2 or expected.shape[-1] == 1
    wanted, made = expected.ravel().astype(np.float64), actual.ravel().astype(np.float64)
    error = made - wanted
    return Comparison(
        num_examples=len(expected),
        positions=expected.size if single else expected.size // expected.shape[-1],
        same_class=0 if single else int(np.sum(expected.argmax(-1) == actual.argmax(-1))),
        same_side=int(np.sum((expected >= 0.5) == (actual >= 0.5))) if single else 0,
        expected_squares=float(wanted @ wanted),
        actual_squares=float(made @ made),
        products=float(wanted @ made),
        squared_errors=float(error @ error),
        max_error=float(max(error.max(), -error.min())),
        expected_min=float(wanted.min()),
        expected_max=float(wanted.max()),
        is_float=True,
        single=single,
    )


class FidelityFinding(Finding[dict[_Key, Comparison]]):
    """Compares every variant with the baseline on every output, for `aside.Aside`."""

    def __init__(self, baseline: str, variants: Sequence[str], outputs: Sequence[str]) -> None:
        """Describes what is compared.

        Args:
            baseline: Name of the float model among the predictions.
            variants: Names of the variants.
            outputs: Names of the outputs; by TFMA's convention the predictions do not name a single one.
        """
        self._baseline = baseline
        self._variants = tuple(variants)
        self._outputs = tuple(outputs)

    def of_batch(self, extracts: dict[str, Any]) -> dict[_Key, Comparison]:
        """Compares one batch; models that gave no predictions are left out."""
        predictions = extracts[tfma.PREDICTIONS_KEY]
        expected = self._by_output(predictions[self._baseline])
        return {
            (variant, output): compare(expected[output], values)
            for variant in self._variants
            if variant in predictions
            for output, values in self._by_output(predictions[variant]).items()
        }

    def merged(self, summaries: Iterable[dict[_Key, Comparison]]) -> dict[_Key, Comparison]:
        """Adds up comparisons of the same variant and output."""
        total: dict[_Key, Comparison] = {}
        for summary in summaries:
            for key, comparison in summary.items():
                total[key] = total[key] + comparison if key in total else comparison
        return total

    def to_json(self, summary: dict[_Key, Comparison]) -> Any:
        """Fidelity records, by variant and output in the given order."""
        order = [(variant, output) for variant in self._variants for output in self._outputs]
        return [summary[key].to_record(*key).model_dump(mode="json") for key in order if key in summary]

    def _by_output(self, values: Any) -> Mapping[str, Array]:
        return values if isinstance(values, Mapping) else {self._outputs[0]: np.asarray(values)}


def from_json(value: Any) -> tuple[Fidelity, ...]:
    """The records that `FidelityFinding.to_json` wrote."""
    return tuple(Fidelity.model_validate(record) for record in value)


def _rounded(value: float) -> float:
    return float(f"{value:.10g}")
