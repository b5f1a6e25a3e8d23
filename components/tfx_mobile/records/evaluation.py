"""What QuantizationEvaluator takes and writes."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from tfx_mobile.records.base import SHA256_PATTERN, Record
from tfx_mobile.records.conversion import SourceModelRecord, Variant
from tfx_mobile.records.lineage import Lineage

Criterion = Literal["size", "latency", "quality"]
Undecided = Literal["warn", "block"]


class Budget(Record):
    """Hard limits a variant must keep to be blessed; None for no limit. A value equal to its limit passes.

    What a limit needs is measured only if the limit is given. Where it cannot be found out, or not surely enough, the
    limit is neither passed nor missed: `Confidence.undecided` says what happens then.

    Attributes:
        max_size_bytes: Largest allowed file, in bytes.
        max_gzip_bytes: Largest allowed file after gzip, which is what a download costs, in bytes.
        max_latency_ratio: Largest allowed latency, as a multiple of the float32 variant's; of the device numbers where
            they give one, of the slowest device; else measured on the machine that evaluates.
        max_latency_ms: Largest allowed latency in milliseconds, on every device that was measured; judged by given
            device numbers only, since those of the machine that evaluates are not a phone's.
        max_peak_memory_bytes: Largest allowed peak memory of loading the file and running it once, in bytes:
            anonymous memory and the pages of the mapped file, with one thread on the machine that evaluates.
        max_min_runtime: Newest TensorFlow Lite runtime a file may ask for, such as `2.14.0`. Many files do not say.
        profiles: Compatibility profiles that must not fail, as TFLiteConverter names them. One that is not verified is
            a caution, whatever `Confidence.undecided` says: nobody could verify it.
    """

    max_size_bytes: int | None = Field(default=None, ge=1)
    max_gzip_bytes: int | None = Field(default=None, ge=1)
    max_latency_ratio: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    max_latency_ms: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    max_peak_memory_bytes: int | None = Field(default=None, ge=1)
    max_min_runtime: str | None = Field(default=None, pattern=r"^\d+(\.\d+)*$")
    profiles: tuple[str, ...] = ()


class Confidence(Record):
    """How sure the gate must be about a change before it counts.

    Attributes:
        level: Confidence level of the two-sided intervals. A limit counts as kept or missed if the whole interval is on
            one side of it; else the data do not decide.
        min_slice_examples: A slice with fewer examples is reported and does not gate. A gate of which no slice has
            enough was never checked, and nothing is blessed.
        worst_slice: By metric, the largest change for the worse that is tolerated on any slice; positive, in the
            metric's units. Holds for all slices together: intervals are widened for their number. The direction is that
            of the metric's change threshold.
        undecided: What happens where the data do not decide. `warn`: the measured change decides, and a caution is
            recorded; of `worst_slice` only the caution, since of many slices one is far off by chance. `block`: the
            variant is not blessed.
    """

    level: float = Field(default=0.95, ge=0.5, lt=1)
    min_slice_examples: int = Field(default=1, ge=1)
    worst_slice: dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(default_factory=dict)
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
    milliseconds: float = Field(gt=0, allow_inf_nan=False)
    device: str = Field(min_length=1)
    sha256: str | None = Field(default=None, pattern=SHA256_PATTERN)


class LatencySpec(Record):
    """Whether and how latency is measured.

    Attributes:
        rounds: How often every variant is timed against the float32 variant.
        runs: Readings per round and variant, the fastest of which counts; of one inference each, or of as many as take
            0.2 ms.
        device: What was measured on devices; see `read_device_latencies`.
    """

    rounds: int = Field(default=9, ge=5)
    runs: int = Field(default=20, ge=1)
    device: tuple[DeviceLatency, ...] = ()

    @model_validator(mode="after")
    def _check_device(self) -> LatencySpec:
        seen = set()
        for entry in self.device:
            if (key := (entry.variant, entry.device, entry.sha256)) in seen:
                raise ValueError(f"{entry.variant!r} is given twice on {entry.device!r}; remove one")
            seen.add(key)
        return self


class Reason(Record):
    """One reason why a variant was not blessed.

    Attributes:
        code: `threshold`, `worst_slice`, `worse_than_production`, `insufficient_data`, `missing_slice`, `budget`,
            `not_finite`, or the failure code of a variant that could not be converted, loaded or run. Of what could
            not be decided: `insufficient_data`, `latency_not_measurable`, `latency_undecided`,
            `memory_not_measurable`, `not_verified`, `objective`.
        message: One sentence with the metric, slice, value and limit in it.
        metric: Metric name, for limits on metrics.
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
    """All scalar metrics of one model on one slice.

    One that is not finite is None, and so are all of a model that has no finite value on some examples.
    """

    slice: str
    metrics: dict[str, float | None]


class ModelMetrics(Record):
    """The metrics of one model.

    Attributes:
        model: `saved_model` for the float baseline, `production` for the model that phones run today, else the
            variant's name.
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
        num_examples: Examples in the slice; None if not known.
        change: The variant's value minus the reference's; None if one of them is not finite.
        lower: Lower end of the confidence interval of the change; None if there is none.
        upper: Upper end of it.
        level: Confidence level of the interval, which for `worst_slice` is widened; None if there is none.
        method: How the interval was computed; None if there is none.
        gate: What limits the change: a change threshold of the EvalConfig, or `worst_slice`; None if nothing does.
        limit: The limit on the change, in the metric's units; None without one, or if it is relative to a reference
            that is not positive.
        higher_is_better: The direction of that limit; None without one.
        outcome: What the interval says about the limit; None without a limit or an interval, so that the measured
            change decides.
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
        ratio: Its latency over the float32 variant's, for this machine the median over rounds; None if the float32
            variant was not measured on the same device.
        lower: Lower end of the interval of the ratio over rounds, at least 95 %; None for device numbers.
        upper: Upper end of it.
        milliseconds: Of one inference; for this machine CPU time.
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
        control: That ratio, the median over rounds; None if nothing was timed here.
        control_lower: Lower end of its interval.
        control_upper: Upper end of it. By as much as the two ends are off 1, the intervals of this machine's results
            are widened before a limit is held against them.
        message: What the control said, why nothing could be measured here, and which device numbers were not used.
        rounds: How often every variant was timed.
        results: Device numbers first, one per variant and device; then those of this machine, one per variant that was
            timed here, if the control held.
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
        peak_memory_bytes: Of loading the file and running it once in a process of its own; None if not measured.
        quality: The metric that `quality` means, over all examples; None if it has none.
        score: What the objective minimises, among the variants that passed; None for others.
        on_pareto_front: Whether no other variant that ran is better in one criterion and no worse in all others; of
            size, quality, latency, and peak memory if all that ran have it.
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
        top1_agreement: Share of examples, or of positions, that mean the same class: the same largest entry of the last
            axis; for a single entry between 0 and 1, the same side of 0.5; for integers, booleans and strings, the same
            value. None for any other single entry, and without examples.
        cosine_similarity: Of all values as one vector; None if one is all zero, and for what is no float.
        snr_db: Signal-to-noise ratio in decibels; None if the outputs are equal or the float model's are all zero, and
            for what is no float.
        max_absolute_error: The largest difference of a value; None for what is no float, and without examples.
    """

    variant: str
    output: str
    num_examples: int
    top1_agreement: float | None
    cosine_similarity: float | None
    snr_db: float | None
    max_absolute_error: float | None


class LayerError(Record):
    """The quantization error that one layer makes by itself.

    It is the difference between the layer's output and what the float layer makes of the same inputs.

    Attributes:
        name: Name of the layer, as in a recipe's `float_layers`: its first output in the float32 file.
        op: Its operator, such as CONV_2D; QUANTIZE for an input of the model and for a layer left in float whose output
            is quantized, where the error is that rounding alone.
        index: Position of the operator in the file's main subgraph; -1 for an input that the file takes in integers.
        rmse_over_scale: Root mean square error in quantization steps; rounding alone gives about 0.289.
        mean_squared_error: Mean squared error, in the tensor's units squared.
        max_absolute_error: The largest absolute error, in the tensor's units.
        relative_error: Root mean square error of a channel over the standard deviation of its float values, averaged
            over the channels; 1 means that nothing is left of the signal. It finds a layer in which one loud channel
            takes the whole range, which `rmse_over_scale` does not. None if no channel varies.
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
        num_examples: Examples the errors were measured on; a layer leaves out those on which it is not finite.
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
            examples, or returns something else; `damaged`: the release store contradicts itself or holds other bytes
            than the release names.
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
        models: Metrics of the baseline first, then of each variant that ran, then of the model in production.
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
        lineage: The artifacts that were evaluated; None in a record of an older version.
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
    lineage: Lineage | None = None

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
