"""What QuantizationEvaluator takes and writes."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from tfx_mobile.records.base import SHA256_PATTERN, Record
from tfx_mobile.records.conversion import SourceModelRecord, Variant

Criterion = Literal["size", "latency", "quality"]
Undecided = Literal["warn", "block"]


class Budget(Record):
    """Hard limits a variant must keep to be blessed; None for no limit.

    Attributes:
        max_size_bytes: Largest allowed file, in bytes.
        max_gzip_bytes: Largest allowed file after gzip, which is what a download costs, in bytes.
        max_latency_ratio: Largest allowed latency, as a multiple of the float32 variant's.
        max_latency_ms: Largest allowed latency in milliseconds; judged by given device numbers only, since those of the
            machine that evaluates are not a phone's.
        max_peak_memory_bytes: Largest allowed peak memory of loading the file and running it once, in bytes.
        max_min_runtime: Newest TensorFlow Lite runtime a file may ask for, such as `2.14.0`.
        profiles: Compatibility profiles that must not fail, as TFLiteConverter names them.
    """

    max_size_bytes: int | None = Field(default=None, ge=1)
    max_gzip_bytes: int | None = Field(default=None, ge=1)
    max_latency_ratio: float | None = Field(default=None, gt=0)
    max_latency_ms: float | None = Field(default=None, gt=0)
    max_peak_memory_bytes: int | None = Field(default=None, ge=1)
    max_min_runtime: str | None = Field(default=None, pattern=r"^\d+(\.\d+)*$")
    profiles: tuple[str, ...] = ()


class Confidence(Record):
    """How sure the gate must be about a change before it counts.

    Attributes:
        level: Confidence level of the two-sided intervals.
        min_slice_examples: A slice with fewer examples is reported and does not gate.
        worst_slice: By metric, the largest change for the worse that is tolerated on any slice; positive, in the
            metric's units. Holds for all slices together: intervals are widened for their number. The direction is that
            of the metric's change threshold.
        undecided: What happens where the data do not decide. `warn`: the measured change decides, and a caution is
            recorded. `block`: the variant is not blessed.
    """

    level: float = Field(default=0.95, ge=0.5, lt=1)
    min_slice_examples: int = Field(default=1, ge=1)
    worst_slice: dict[str, float] = Field(default_factory=dict)
    undecided: Undecided = "warn"


class DeviceLatency(Record):
    """A latency that was measured on a device, and takes precedence over what is measured here.

    Attributes:
        variant: Name of the variant.
        milliseconds: Average time of one inference.
        device: What it was measured on, in words.
        sha256: Of the file that was measured; None if that is not known. Of another file than the variant's it is not
            used.
    """

    variant: str
    milliseconds: float = Field(gt=0)
    device: str = Field(min_length=1)
    sha256: str | None = Field(default=None, pattern=SHA256_PATTERN)


class LatencySpec(Record):
    """Whether and how latency is measured.

    Attributes:
        rounds: How often every variant is timed against the float32 variant.
        runs: Inferences per round and variant.
        device: What was measured on devices.
    """

    rounds: int = Field(default=9, ge=5)
    runs: int = Field(default=20, ge=1)
    device: tuple[DeviceLatency, ...] = ()


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
        cautions: What could not be decided and did not count against it.
    """

    variant: str
    sha256: str | None = Field(default=None, pattern=SHA256_PATTERN)
    passed: bool
    reasons: tuple[Reason, ...] = ()
    cautions: tuple[Reason, ...] = ()


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


Outcome = Literal["pass", "fail", "insufficient_data"]


class Change(Record):
    """How one metric of one variant changed on one slice, against one reference on the same examples.

    Attributes:
        variant: The variant's name.
        reference: `saved_model`, or `production` for the model that phones run today.
        metric: The metric in words.
        slice: The slice in words.
        num_examples: Examples in the slice.
        change: The variant's value minus the reference's; None if one of them is not finite.
        lower: Lower end of the confidence interval of the change; None if there is none.
        upper: Upper end of it.
        method: How the interval was computed; None if there is none.
        gate: What limits the change: a change threshold of the EvalConfig, or `worst_slice`; None if nothing does.
        limit: The limit on the change, in the metric's units; None without one.
        higher_is_better: The direction of that limit; None without one.
        outcome: What the interval says about the limit; None without a limit.
        examples_needed: For `insufficient_data`, about how many examples of this slice would decide; None if that
            cannot be told.
    """

    variant: str
    reference: Literal["saved_model", "production"]
    metric: str
    slice: str
    num_examples: int | None
    change: float | None
    lower: float | None = None
    upper: float | None = None
    level: float | None = None
    method: Literal["tango", "paired_bootstrap"] | None = None
    gate: Literal["change_threshold", "worst_slice"] | None = None
    limit: float | None = None
    higher_is_better: bool | None = None
    outcome: Outcome | None = None
    examples_needed: int | None = None


class LatencyResult(Record):
    """The latency of one variant.

    Attributes:
        variant: Its name.
        ratio: Its latency over the float32 variant's; None if it could not be measured.
        lower: Lower end of the interval of the ratio over rounds; None for device numbers.
        upper: Upper end of it.
        milliseconds: Of one inference; None if it could not be measured.
        source: `device`, or `this_machine` for what no phone has to agree with.
        device: What it was measured on.
    """

    variant: str
    ratio: float | None
    lower: float | None = None
    upper: float | None = None
    milliseconds: float | None = None
    source: Literal["device", "this_machine"]
    device: str


class LatencyRecord(Record):
    """What was measured of latency.

    Attributes:
        reference: Name of the float32 variant the ratios are against; None if there is none.
        measurable: Whether the figures of this machine can be trusted: the reference timed against itself in the same
            run gave about 1.
        control: That ratio; None if nothing was timed here.
        message: Why nothing could be measured here, or what the control said.
        rounds: How often every variant was timed.
        results: One per variant that was measured.
    """

    reference: str | None
    measurable: bool
    control: float | None = None
    control_lower: float | None = None
    control_upper: float | None = None
    message: str = ""
    rounds: int = 0
    results: tuple[LatencyResult, ...] = ()


class VariantCost(Record):
    """What a variant costs and how good it is: what the objective weighs.

    Attributes:
        variant: Its name.
        size_bytes: Of the file.
        gzip_bytes: Of the file after gzip.
        latency_ratio: Against the float32 variant; None if not measured.
        peak_memory_bytes: Of loading the file and running it once in a process of its own; None if not measurable.
        quality: The metric that `quality` means, over all examples; None if it has none.
        score: What the objective minimises, among the variants that passed; None for others.
        on_pareto_front: Whether no other variant that ran is better in one criterion and no worse in all others.
    """

    variant: str
    size_bytes: int
    gzip_bytes: int
    latency_ratio: float | None = None
    peak_memory_bytes: int | None = None
    quality: float | None = None
    score: float | None = None
    on_pareto_front: bool = False


class Fidelity(Record):
    """How close one output of a variant is to the float model's, over all examples.

    Attributes:
        variant: Its name.
        output: Name of the output.
        num_examples: Compared examples: those on which both are finite.
        top1_agreement: Share of examples, or of positions, whose largest entry is the same; None where there is no
            largest entry to speak of.
        cosine_similarity: Of all values as one vector; None if one is all zero.
        snr_db: Signal-to-noise ratio in decibels; None if the outputs are equal.
        max_absolute_error: The largest difference of a value.
    """

    variant: str
    output: str
    num_examples: int
    top1_agreement: float | None
    cosine_similarity: float | None
    snr_db: float | None
    max_absolute_error: float | None


class LayerError(Record):
    """The quantization error of one layer.

    Attributes:
        name: The layer's output tensor.
        op: Its operator, such as CONV_2D.
        index: Position of the operator in the file's main subgraph.
        rmse_over_scale: Root mean square error in quantization steps; rounding alone gives about 0.289.
        mean_squared_error: Mean squared error, in the tensor's units squared.
        max_absolute_error: The largest absolute error, in the tensor's units.
    """

    name: str
    op: str
    index: int
    rmse_over_scale: float
    mean_squared_error: float
    max_absolute_error: float
    relative_error: float | None = None


class LayerErrors(Record):
    """The layers of a quantized variant that did not pass, in the order of the file.

    Attributes:
        variant: Its name.
        num_examples: Examples the errors were measured on.
        layers: One per quantized layer; empty with a reason in `message`.
        message: Why there are none.
    """

    variant: str
    num_examples: int = 0
    layers: tuple[LayerError, ...] = ()
    message: str = ""


class ProductionRecord(Record):
    """The model that phones run today, as the second baseline.

    Attributes:
        address: The destination.
        model_name: The published name.
        channel: The release channel.
        status: `compared`; `no_release`: nothing was released there yet; `not_comparable`: it could not be run on these
            examples, or returns something else.
        release_id: Of the release; None without one.
        sha256: Of its bytes; None without one.
        channel_version: Number of the channel statement; None without one.
        message: Why it was not compared.
    """

    address: str
    model_name: str
    channel: str
    status: Literal["compared", "no_release", "not_comparable", "damaged"]
    release_id: str | None = Field(default=None, pattern=SHA256_PATTERN)
    sha256: str | None = Field(default=None, pattern=SHA256_PATTERN)
    channel_version: int | None = None
    message: str = ""


class EvaluationRecord(Record):
    """`record.json` of an evaluation, and `blessing.json` of a blessing: what was measured and decided.

    Attributes:
        source_sha256: Digest of the float SavedModel.
        variants: The variants that were judged, as the converter described them.
        num_examples: How many examples every model was scored on.
        splits: The evaluated splits.
        models: Metrics of the baseline first, then of each variant that ran.
        verdicts: One per variant, in the manifest's order.
        objective: How the winner was chosen among those that passed: the weight of each criterion.
        budget: The limits.
        winner: Name of the blessed variant; None if none passed.
        versions: Versions of what computed this.
        gated_metrics: Names of the metrics that have a threshold, in the order of the EvalConfig.
        error_splits: One per variant that ran; None without a float32 variant to compare with.
        confidence: How sure the gate had to be.
        changes: Changes with their intervals, by variant, reference, metric and slice.
        costs: One per variant with a file.
        latency: None if it was not asked for.
        fidelity: One per variant that ran and output.
        layer_errors: One per quantized variant that missed a gate.
        production: The second baseline; None if none was asked for.
        quality_metric: The metric that `quality` means; None if no threshold names one.
    """

    schema_version: Literal[2] = 2
    source_sha256: str = Field(pattern=SHA256_PATTERN)
    variants: tuple[Variant, ...]
    num_examples: int
    splits: tuple[str, ...]
    models: tuple[ModelMetrics, ...]
    verdicts: tuple[Verdict, ...]
    objective: dict[Criterion, float]
    budget: Budget
    winner: str | None
    versions: dict[str, str]
    gated_metrics: tuple[str, ...] = ()
    error_splits: tuple[ErrorSplit, ...] | None = None
    confidence: Confidence = Confidence()
    changes: tuple[Change, ...] = ()
    costs: tuple[VariantCost, ...] = ()
    latency: LatencyRecord | None = None
    fidelity: tuple[Fidelity, ...] = ()
    layer_errors: tuple[LayerErrors, ...] = ()
    production: ProductionRecord | None = None
    quality_metric: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _read_version_1(cls, values: Any) -> Any:
        """Version 1 knew one objective and none of the fields with a default."""
        if isinstance(values, dict) and values.get("schema_version") == 1 and isinstance(values.get("objective"), str):
            return {**values, "schema_version": 2, "objective": {values["objective"]: 1.0}}
        return values

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
