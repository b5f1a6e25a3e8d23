"""What QuantizationEvaluator takes and writes."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tfx_mobile.records.base import SHA256_PATTERN, Record
from tfx_mobile.records.conversion import SourceModelRecord, Variant

Objective = Literal["size"]


class Budget(Record):
    """Hard limits a variant must keep to be blessed.

    Attributes:
        max_size_bytes: Largest allowed file, in bytes; None for no limit.
    """

    max_size_bytes: int | None = Field(default=None, ge=1)


class Reason(Record):
    """One reason why a variant was not blessed.

    Attributes:
        code: `threshold`, `missing_slice`, `budget`, `not_finite`, or the failure code of a variant that could not be
            converted, loaded or run.
        message: One sentence with the metric, slice, value and limit in it.
        metric: Metric name, for `threshold`.
        slice: Slice in words, such as `label:3`; `overall` for all examples.
        value: The measured value.
        limit: The limit it missed, in words, such as `>= 0.9`.
    """

    code: str
    message: str
    metric: str | None = None
    slice: str | None = None
    value: float | None = None
    limit: str | None = None


class Verdict(Record):
    """The judgement of one variant.

    Attributes:
        variant: Its name.
        sha256: Of the bytes that were judged; None if there is no file.
        passed: Whether every gate was passed.
        reasons: Why not; empty when passed.
    """

    variant: str
    sha256: str | None = Field(default=None, pattern=SHA256_PATTERN)
    passed: bool
    reasons: tuple[Reason, ...] = ()


class SliceMetrics(Record):
    """All scalar metrics of one model on one slice; a metric that is not finite is None."""

    slice: str
    metrics: dict[str, float | None]


class ModelMetrics(Record):
    """The metrics of one model.

    Attributes:
        model: `saved_model` for the float baseline, else the variant's name.
        slices: One entry per slice, `overall` first.
    """

    model: str
    slices: tuple[SliceMetrics, ...]


class MetricError(Record):
    """How one metric moved on the way from the float SavedModel to a variant; None where a value is not finite.

    Attributes:
        conversion: The float32 variant's value minus the SavedModel's: what conversion alone changed.
        quantization: The variant's value minus the float32 variant's: what quantization changed.
    """

    conversion: float | None
    quantization: float | None


class ErrorSplit(Record):
    """Conversion error told apart from quantization error for one variant, over all examples, by metric."""

    variant: str
    metrics: dict[str, MetricError]


class EvaluationRecord(Record):
    """`record.json` of an evaluation, and `blessing.json` of a blessing: what was measured and decided.

    Attributes:
        source_sha256: Digest of the float SavedModel.
        variants: The variants that were judged, as the converter described them.
        num_examples: How many examples every model was scored on.
        splits: The evaluated splits.
        models: Metrics of the baseline first, then of each variant that ran.
        verdicts: One per variant, in the manifest's order.
        objective: How the winner was chosen among those that passed.
        budget: The limits.
        winner: Name of the blessed variant; None if none passed.
        versions: Versions of what computed this.
        gated_metrics: Names of the metrics that have a threshold, in the order of the EvalConfig.
        error_splits: One per variant that ran; None without a float32 variant to compare with.
    """

    schema_version: Literal[1] = 1
    source_sha256: str = Field(pattern=SHA256_PATTERN)
    variants: tuple[Variant, ...]
    num_examples: int
    splits: tuple[str, ...]
    models: tuple[ModelMetrics, ...]
    verdicts: tuple[Verdict, ...]
    objective: Objective
    budget: Budget
    winner: str | None
    versions: dict[str, str]
    gated_metrics: tuple[str, ...] = ()
    error_splits: tuple[ErrorSplit, ...] | None = None

    @property
    def blessed(self) -> bool:
        """Whether a variant was blessed."""
        return self.winner is not None

    def variant(self, name: str) -> Variant:
        """The variant called `name`."""
        return next(v for v in self.variants if v.name == name)

    def verdict(self, name: str) -> Verdict:
        """The verdict of the variant called `name`."""
        return next(v for v in self.verdicts if v.variant == name)


class BlessedModelRecord(Record):
    """`record.json` of a `TFLiteModel` artifact.

    Attributes:
        blessed: Whether there is a model beside this record.
        variant: The winner; None if not blessed.
        source: The SavedModel it came from.
    """

    schema_version: Literal[1] = 1
    blessed: bool
    variant: Variant | None
    source: SourceModelRecord
