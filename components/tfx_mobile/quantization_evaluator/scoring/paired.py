"""What the pass collects of two models on the same examples, enough to say how sure their difference is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy.typing as npt


@dataclass(frozen=True)
class PairedSample:
    """One metric of one variant against one reference on one slice.

    Attributes:
        variant: The variant's name.
        reference: `saved_model`, or `production`.
        metric: The metric in words, as in `gates.metric_in_words`.
        slice: The slice in words, as in `gates.slice_in_words`.
        num_examples: Examples in the slice; None if not known.
        value: The variant's value; not finite where it has none.
        reference_value: The reference's value.
        gained: Examples that the reference scores 0 and the variant 1; None unless the metric is the plain mean of a
            score that is 0 or 1 on each example.
        lost: Examples that the reference scores 1 and the variant 0; None likewise.
        replicates: float64 [B], the change in each replicate of a Poisson bootstrap that draws the same examples for
            both models, NaN where a replicate drew none that the metric is defined on; None if the metric has no
            vectorised path, or if `gained` and `lost` say all there is.
        rarest: For an area under a curve, how many examples of the rarer class the replicates draw from: it is as sure
            as those few. None of other metrics, which rest on all examples.
    """

    variant: str
    reference: Literal["saved_model", "production"]
    metric: str
    slice: str
    num_examples: int | None
    value: float
    reference_value: float
    gained: int | None = None
    lost: int | None = None
    replicates: npt.NDArray[Any] | None = None
    rarest: int | None = None
