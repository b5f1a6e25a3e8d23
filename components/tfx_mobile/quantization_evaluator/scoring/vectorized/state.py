"""What is known of the examples of one slice; states of parts add up to the state of the whole."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt
from typing_extensions import override

from tfx_mobile.quantization_evaluator.scoring.vectorized.areas import Sample

Array = npt.NDArray[Any]
# Buckets that occur, int64 [buckets], ascending; and their sums, float64 [buckets, 3].
Buckets = tuple[Array, Array]


@dataclass(frozen=True)
class State:
    """Sums over examples.

    Attributes:
        num_examples: How many.
        sums: Sums of the plan's columns, float64 [width].
        buckets: Of each histogram, by its statistic's number.
        replicates: Sums of a statistic's columns in each replicate of the bootstrap, float64 [replicates, width], by
            the statistic's number.
        samples: Some of the examples of a histogram, by the statistic's number.
    """

    num_examples: int
    sums: Array
    buckets: dict[int, Buckets] = field(default_factory=dict)
    replicates: dict[int, Array] = field(default_factory=dict)
    samples: dict[int, Sample] = field(default_factory=dict)

    def __add__(self, other: State) -> State:
        return State(
            self.num_examples + other.num_examples,
            self.sums + other.sums,
            {
                number: add_up(*(np.concatenate(parts) for parts in zip(buckets, other.buckets[number], strict=True)))
                for number, buckets in self.buckets.items()
            },
            # What a part was not drawn for is not known of the whole.
            {n: sums + other.replicates[n] for n, sums in self.replicates.items() if n in other.replicates},
            {n: sample + other.samples[n] for n, sample in self.samples.items() if n in other.samples},
        )


def add_up(buckets: Array, values: Array) -> Buckets:
    """Adds up the entries of a histogram that fall into the same bucket.

    Args:
        buckets: int64 [entries].
        values: float64 [entries, 3].
    """
    found, position = np.unique(buckets, return_inverse=True)
    sums = [np.bincount(position.reshape(-1), column, len(found)) for column in values.T]
    return found, np.stack(sums, axis=1)


class AddStates(beam.CombineFn):
    """Adds up the states of a slice."""

    @override
    def create_accumulator(self) -> State | None:
        return None

    @override
    def add_input(self, accumulator: State | None, state: State) -> State:
        return state if accumulator is None else accumulator + state

    @override
    def merge_accumulators(self, accumulators: Iterable[State | None]) -> State | None:
        total = None
        for state in accumulators:
            if state is not None:
                total = self.add_input(total, state)
        return total

    @override
    def extract_output(self, accumulator: State | None) -> State | None:
        return accumulator
