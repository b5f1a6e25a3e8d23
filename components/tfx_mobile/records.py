"""What the components write down: manifests, verdicts and receipts, as JSON in and JSON out.

Every record is frozen and strict: an unknown field is an error, because it means that another version of the package
wrote it. `to_json` is canonical (sorted keys, no spaces, UTF-8), so equal records are equal bytes. This module imports
neither TensorFlow nor TFX.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tfx_mobile.errors import TFXMobileError
from tfx_mobile.recipes import BatchSize, CalibrationSpec, ConversionRecipe

_RecordT = TypeVar("_RecordT", bound="Record")

SHA256_PATTERN = r"^[0-9a-f]{64}$"


def canonical_json(value: Any) -> bytes:
    """The one byte form of a JSON value: sorted keys, no spaces, UTF-8, finite numbers only."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def sha256_of(data: bytes) -> str:
    """Lower-case hexadecimal SHA-256 of `data`."""
    return hashlib.sha256(data).hexdigest()


class Record(BaseModel):
    """Base of all records."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def to_json(self) -> bytes:
        """Canonical JSON of this record."""
        return canonical_json(self.model_dump(mode="json"))

    @classmethod
    def from_json(cls: type[_RecordT], data: bytes | str) -> _RecordT:
        """Reads a record.

        Raises:
            TFXMobileError: `data` is not this record; the message names the fields.
        """
        try:
            return cls.model_validate_json(data)
        except ValidationError as error:
            fields = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'document'}: {e['msg']}" for e in error.errors()[:5])
            raise TFXMobileError(
                f"Not a valid {cls.__name__}: {fields}. It was written by another version of tfx-mobile or altered; "
                "run the step that wrote it again."
            ) from None

    @classmethod
    def read(cls: type[_RecordT], path: str | Path) -> _RecordT:
        """Reads a record from a local file."""
        return cls.from_json(Path(path).read_bytes())


# --- the .tflite file ------------------------------------------------------------------------------------------------


class TensorRecord(Record):
    """One input or output of a signature.

    Attributes:
        name: Name in the signature, which is what an app uses.
        dtype: numpy name of the element type, or `string`.
        shape: Shape with -1 where the size is open.
        scale: Quantization scale; None for a tensor that is not quantized.
        zero_point: Quantization zero point; None for a tensor that is not quantized. real = (q - zero_point) * scale.
        default: Value of every element where an example lacks the feature; None if it must be there.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    scale: float | None = None
    zero_point: int | None = None
    default: int | float | str | None = None


class OpRecord(Record):
    """One kind of operator in a file.

    Attributes:
        name: Builtin operator name, or the custom code.
        version: Operator version; decides the oldest runtime that can run it.
        count: How often it occurs.
        float_count: How many of them compute on float32 or float16 tensors; conversions between float and integer
            (QUANTIZE, DEQUANTIZE) do not count.
    """

    name: str
    version: int
    count: int
    float_count: int = 0


class SignatureRecord(Record):
    """A signature of a `.tflite` file; inputs and outputs sorted by name."""

    key: str
    inputs: tuple[TensorRecord, ...]
    outputs: tuple[TensorRecord, ...]


class WeightsRecord(Record):
    """How compressible the weights of a file are: the constant tensors of two dimensions or more, biases left out.

    Attributes:
        num_elements: How many weights there are.
        num_zeros: How many of them are zero, which is what pruning makes.
        max_distinct_values: Largest number of distinct stored values in one tensor, which is what clustering makes
            small; None above 256, where nothing is clustered.
    """

    num_elements: int
    num_zeros: int
    max_distinct_values: int | None

    @property
    def share_of_zeros(self) -> float:
        """Zeros among the weights, 0 to 1."""
        return self.num_zeros / self.num_elements if self.num_elements else 0.0


class ModelFileRecord(Record):
    """What is known of one `.tflite` file without running it.

    Attributes:
        sha256: Of the exact bytes.
        size_bytes: Length of the file.
        gzip_bytes: Length after gzip at level 9 with no time stamp; what a compressed download costs.
        signatures: All signatures of the file.
        ops: Operators, sorted by name and version.
        select_tf_ops: Names of the TensorFlow (Flex) ops; these need a delegate most apps do not ship.
        custom_ops: Names of other ops without a builtin kernel: custom ones, and `UNKNOWN_<code>` for operators that
            are newer than this package.
        min_runtime_version: Oldest TensorFlow Lite that the converter says can run the file; None if unknown.
        weight_bytes: Bytes of all constant tensors, by element type.
        weights: How compressible the weights are; None in records of older versions.
    """

    sha256: str = Field(pattern=SHA256_PATTERN)
    size_bytes: int
    gzip_bytes: int
    signatures: tuple[SignatureRecord, ...]
    ops: tuple[OpRecord, ...]
    select_tf_ops: tuple[str, ...] = ()
    custom_ops: tuple[str, ...] = ()
    min_runtime_version: str | None = None
    weight_bytes: dict[str, int] = Field(default_factory=dict)
    weights: WeightsRecord | None = None

    def signature(self, key: str | None = None) -> SignatureRecord:
        """The signature `key`, or the only one if `key` is None."""
        for signature in self.signatures:
            if key == signature.key or (key is None and len(self.signatures) == 1):
                return signature
        keys = ", ".join(s.key for s in self.signatures) or "none"
        raise TFXMobileError(f"The .tflite file has no signature {key!r}; it has: {keys}.")


RuleStatus = Literal["pass", "fail", "not_verified"]


class RuleResult(Record):
    """What one rule of a compatibility profile says about a file.

    Attributes:
        id: Stable word for programs.
        statement: What the rule asks for.
        result: `not_verified`: nobody could say for sure, because the rule or what it needs to know is not confirmed.
        detail: What was found.
        source: Where the rule comes from: an address, or what it was measured on.
    """

    id: str
    statement: str
    result: RuleStatus
    detail: str
    source: str


class ProfileResult(Record):
    """What a compatibility profile says about a file.

    Attributes:
        profile: As it was asked for, such as `litert>=2.14.0`.
        result: `fail` if a rule fails, else `not_verified` if a rule is, else `pass`.
        rules: All rules of the profile.
    """

    profile: str
    result: RuleStatus
    rules: tuple[RuleResult, ...]


class Finding(Record):
    """A place where a file departs from the quantization specification.

    Attributes:
        code: Stable word for programs, such as `weight_range`.
        subgraph: Index of the subgraph.
        tensor: Name of the tensor.
        op: The operator by index and name, such as `3 CONV_2D`; None if the finding is about the tensor alone.
        value: What was found.
        expected: What the specification asks for.
        source: Where it does so.
    """

    code: str
    subgraph: int
    tensor: str
    op: str | None
    value: str
    expected: str
    source: str


# --- what TFLiteConverter writes -------------------------------------------------------------------------------------


class Failure(Record):
    """Why something did not work, for people.

    Attributes:
        code: Stable word for programs, such as `converter_crashed`, `converter_timeout`, `unsupported_ops`,
            `conversion_failed`, `inspection_failed`, `not_loadable`.
        message: What happened.
        advice: What to do next.
    """

    code: str
    message: str
    advice: str


class RepairTrial(Record):
    """One set of float layers that accuracy repair measured.

    Attributes:
        float_layers: Names of the layers left in float, sorted.
        quality: What was measured; None for a file that could not be made or run.
        size_bytes: Size of the file; None for one that could not be made.
    """

    float_layers: tuple[str, ...]
    quality: float | None
    size_bytes: int | None


class RepairRecord(Record):
    """How accuracy repair came to its file.

    Qualities are shares, 0 to 1, of the examples.

    Attributes:
        measure: `agreement` with the float32 file: equal class for outputs with several elements in their last
            dimension, values closer than 5 % of the float output's range for other float outputs, equal values for the
            rest; of several outputs the worst counts. `accuracy`: the share of examples whose class is the label.
        num_examples: How many examples the layers were measured on.
        num_calibrated: How many of these had calibrated the model too, because the split has no others.
        float_quality: What the float32 file reaches; 1 for agreement.
        quantized_quality: What `full_integer` reaches; None if that file cannot be run.
        quality: What this file reaches.
        repaired: Whether that is within the tolerance of the float model.
        reasons: What is missing; empty if repaired.
        float_layers: The layers left in float, sorted; none if quantization does no harm.
        size_ratio: Size as a share of the float32 file.
        trials: What was measured, in order.
        replay: The plain recipe that makes this file again without a search.
    """

    measure: Literal["agreement", "accuracy"]
    num_examples: int
    num_calibrated: int
    float_quality: float
    quantized_quality: float | None
    quality: float | None
    repaired: bool
    reasons: tuple[str, ...]
    float_layers: tuple[str, ...]
    size_ratio: float
    trials: tuple[RepairTrial, ...]
    replay: ConversionRecipe


Calibrated = Literal["shared", "own"]


class WrittenMetadataRecord(Record):
    """The TFLite metadata written into one file, or why it has none.

    Attributes:
        writer: Package and version that wrote it; None if nothing was written.
        not_written: Why nothing was written; None if something was.
        kind: `image_classifier` with labels or normalization for an image input, else `model`.
        name: The model's name.
        description: What it does.
        version: The model's version.
        author: Who made it.
        num_labels: How many class names the file holds, in `labels.txt`.
        labels_sha256: Of `labels.txt`; None without labels.
        labels_from: What the names were taken from: `MetadataSpec`, a vocabulary or a domain; None without labels.
        mean: Subtracted from pixel values 0 to 255.
        std: What the difference is divided by.
        raw_pixels: For a uint8 image input with normalization: whether a pixel written as it is means to the model
            what the normalized pixel means, within one quantum. If not, MediaPipe and ML Kit feed the model wrongly.
        notes: What is known but was left out, and why.
    """

    writer: str | None = None
    not_written: str | None = None
    kind: Literal["image_classifier", "model"] | None = None
    name: str | None = None
    description: str | None = None
    version: str | None = None
    author: str | None = None
    num_labels: int = 0
    labels_sha256: str | None = Field(default=None, pattern=SHA256_PATTERN)
    labels_from: str | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    raw_pixels: bool | None = None
    notes: tuple[str, ...] = ()


class Variant(Record):
    """One recipe's result: either `path` and `file`, or `failure`.

    Attributes:
        recipe: The recipe, with its batch size resolved.
        path: Path of the file below the artifact's uri, `<recipe name>/model.tflite`.
        file: Facts of the file.
        failure: Why there is no file.
        profiles: What the compatibility profiles say about the file; a failed one does not make the variant fail.
        findings: Where the file departs from the quantization specification.
        calibrated: `shared`: made from the one calibration that the recipes of a batch size have in common. `own`: by
            TensorFlow's public converter, which calibrated for this recipe alone. None if it needs no calibration.
        repair: For `mixed_precision`: the search.
        metadata: What the file says about itself; None if there is no file.
        ranges_from: Where the ranges of integer activations come from: a representative dataset, or
            quantization-aware training. None if activations are not integers, or there is no file.
        runtime: Name and version of the interpreter that loaded and ran the file when it was checked. Files with Select
            TensorFlow ops run on TensorFlow's own.
    """

    recipe: ConversionRecipe
    path: str | None = None
    file: ModelFileRecord | None = None
    failure: Failure | None = None
    profiles: tuple[ProfileResult, ...] = ()
    findings: tuple[Finding, ...] = ()
    calibrated: Calibrated | None = None
    repair: RepairRecord | None = None
    metadata: WrittenMetadataRecord | None = None
    ranges_from: Literal["calibration", "training"] | None = None
    runtime: str | None = None

    @property
    def name(self) -> str:
        """The recipe's name."""
        return self.recipe.name


class InputRange(Record):
    """The values of one input in the calibration sample, and how the evaluation split's values lie to them.

    Attributes:
        name: The input.
        minimum: Smallest calibration value.
        maximum: Largest calibration value.
        evaluation_minimum: Smallest finite value in the evaluation split; None if there is none or it was not compared.
        evaluation_maximum: Largest finite value there.
        values_outside: Share of the evaluation split's values that are below `minimum`, above `maximum` or not finite;
            None if it was not compared.
        rows_outside: Share of its examples with at least one such value.
    """

    name: str
    minimum: float
    maximum: float
    evaluation_minimum: float | None = None
    evaluation_maximum: float | None = None
    values_outside: float | None = None
    rows_outside: float | None = None


class ValueCount(Record):
    """How often one value of a feature occurs; `value` is None where an example lacks the feature."""

    value: str | None
    num_samples: int
    num_examples: int


class Balance(Record):
    """How often each value of a feature occurs in the calibration sample and in its split.

    Attributes:
        feature: The feature.
        values: The most frequent values of the split, at most 100, by frequency and then by value.
        num_omitted: How many more values the split has.
    """

    feature: str
    values: tuple[ValueCount, ...]
    num_omitted: int = 0


class EvaluationSplit(Record):
    """The split that the calibration sample was compared with, and how many examples were compared: all it holds."""

    split: str
    num_examples: int


class CalibrationFinding(Record):
    """Something about the calibration that a person should know.

    Attributes:
        code: Stable word for programs: `leakage`, `outside_range`, `unused_range`, `not_compared`, `label_values` or
            `transform_assumed`.
        message: What was found and what to do about it.
    """

    code: str
    message: str


class CalibrationRecord(Record):
    """The representative dataset that was used, and what was found about it.

    Attributes:
        spec: What was asked for.
        num_samples: How many samples were used.
        num_examples: How many examples the split holds.
        sha256: Of the drawn serialized examples in order; equal draws have equal hashes.
        ranges: Per input, sorted by name; numeric inputs only.
        source: Where the model's inputs come from. `signature`: the signature parses the examples itself. `examples`:
            features of the examples, by name. `transform_graph`: outputs of the transform graph applied to the
            examples. None in documents of schema version 1.
        strata: The values of `spec.stratify_by`; None if the draw was not stratified.
        label_balance: The values of `spec.label`; None if it is not given or not categorical.
        evaluation: The evaluation split, if the sample was compared with it.
        not_compared: Why it was not.
        num_leaked: Samples whose model inputs equal those of an evaluation example; None if not compared.
        findings: What a person should know.
    """

    spec: CalibrationSpec
    num_samples: int
    num_examples: int
    sha256: str = Field(pattern=SHA256_PATTERN)
    ranges: tuple[InputRange, ...]
    source: Literal["signature", "examples", "transform_graph"] | None = None
    strata: Balance | None = None
    label_balance: Balance | None = None
    evaluation: EvaluationSplit | None = None
    not_compared: str | None = None
    num_leaked: int | None = None
    findings: tuple[CalibrationFinding, ...] = ()


class SourceModelRecord(Record):
    """The SavedModel that was converted.

    Attributes:
        sha256: Over the sorted relative paths and contents of the SavedModel's files, or over the Keras file.
        uri: Where it was read.
        signature: The signature key that was converted.
        parses_examples: Whether that signature takes serialized tf.Examples.
        route: `resigned`: frozen, cut behind the parsing op and signed anew. `direct`: converted as it was saved.
        inputs: The inputs a variant has, before quantization.
        outputs: The outputs a variant has, before quantization.
    """

    sha256: str = Field(pattern=SHA256_PATTERN)
    uri: str
    signature: str
    parses_examples: bool
    route: Literal["resigned", "direct"]
    inputs: tuple[TensorRecord, ...]
    outputs: tuple[TensorRecord, ...]


class VariantManifest(Record):
    """`manifest.json` of a `TFLiteVariants` artifact.

    Attributes:
        source: The model that was converted.
        qat_source: Its quantization-aware twin, if the step got one.
        batch_size: For recipes that did not set their own.
        calibration: The representative dataset; None if nothing was calibrated.
        versions: Versions of what decides the bytes of a variant.
        variants: One per recipe, in order.
    """

    schema_version: Literal[1, 2] = 2
    source: SourceModelRecord
    qat_source: SourceModelRecord | None = None
    batch_size: BatchSize
    calibration: CalibrationRecord | None
    versions: dict[str, str]
    variants: tuple[Variant, ...]

    def converted(self) -> tuple[Variant, ...]:
        """The variants that have a file."""
        return tuple(v for v in self.variants if v.file is not None)


# --- what `tfx-mobile inspect` prints ---------------------------------------------------------------------------------


class QuantizationRecord(Record):
    """Quantization parameters of a tensor: real = (q - zero_point) * scale.

    Attributes:
        scales: One, or one per slice of `dimension`; None where the file has a value that is not finite.
        zero_points: One, or one per slice.
        dimension: The quantized dimension; meaningless with a single scale.
    """

    scales: tuple[float | None, ...]
    zero_points: tuple[int, ...]
    dimension: int


class FileTensorRecord(Record):
    """One tensor of a file.

    Attributes:
        subgraph: Index of its subgraph.
        index: Its index there.
        name: Its name in the graph, which is not its name in a signature.
        dtype: Lower-case name of the element type; `unknown_<code>` for one that is newer than this package.
        shape: Shape with -1 where the size is open.
        constant_bytes: Size of its constant data in the file; 0 if it has none.
        variable: Whether it keeps its value from one run to the next.
        sparse: Whether its constant data are stored sparsely.
        quantization: None for a tensor that is not quantized.
    """

    subgraph: int
    index: int
    name: str
    dtype: str
    shape: tuple[int, ...]
    constant_bytes: int
    variable: bool = False
    sparse: bool = False
    quantization: QuantizationRecord | None = None


class SizePart(Record):
    """A part of a file's bytes.

    Attributes:
        part: `weights <dtype>`, `metadata <name>`, `associated files`, `unused buffers`, or `graph` for all the rest.
        bytes: Its size; the parts add up to the size of the file.
    """

    part: str
    bytes: int


class AssociatedFileRecord(Record):
    """A file that TFLite metadata name, or that is appended to the model as a zip archive.

    Attributes:
        name: Its name.
        type: Lower-case name of its AssociatedFileType; None if the metadata do not name it.
        locale: Language of the labels; None if not said.
        size_bytes: Its size after decompression, as the archive says; None if it is not in the archive.
        compressed: Whether the archive holds it compressed; None if it is not in the archive.
        num_lines: How many lines it has; None for what is not a label file or cannot be read.
    """

    name: str
    type: str | None = None
    locale: str | None = None
    size_bytes: int | None = None
    compressed: bool | None = None
    num_lines: int | None = None


class TensorMetadataRecord(Record):
    """What TFLite metadata say about one input or output.

    Attributes:
        name: Its name.
        description: What it is.
        content: `feature`, `image`, `bounding_box`, `audio`, or None.
        color_space: `rgb` or `grayscale` for an image; None if not said.
        mean: NormalizationOptions: subtracted from a value, one number or one per channel; empty without.
        std: NormalizationOptions: what the difference is divided by.
        score_threshold: ScoreThresholdingOptions: scores below are to be dropped; None without.
        files: Its associated files.
    """

    name: str
    description: str
    content: str | None = None
    color_space: str | None = None
    mean: tuple[float | None, ...] = ()
    std: tuple[float | None, ...] = ()
    score_threshold: float | None = None
    files: tuple[AssociatedFileRecord, ...] = ()


class MetadataRecord(Record):
    """What a file says about itself as TFLite metadata.

    Attributes:
        present: Whether there are any; without, all below is empty, but for `files`.
        name: The model's name.
        description: What it does.
        version: Its version.
        author: Who made it.
        license: Its license.
        min_parser_version: Oldest version of the metadata schema that has all its fields.
        inputs: In the order of the main subgraph's inputs.
        outputs: In the order of the main subgraph's outputs.
        files: Files of the appended zip archive, and files that only the metadata name.
        problems: What could not be read, in sentences.
    """

    present: bool = False
    name: str = ""
    description: str = ""
    version: str = ""
    author: str = ""
    license: str = ""
    min_parser_version: str = ""
    inputs: tuple[TensorMetadataRecord, ...] = ()
    outputs: tuple[TensorMetadataRecord, ...] = ()
    files: tuple[AssociatedFileRecord, ...] = ()
    problems: tuple[str, ...] = ()


class InspectionRecord(Record):
    """What `tfx-mobile inspect --json` prints: all that can be known of a file.

    Attributes:
        size_bytes: Length of the file.
        failure: Why the file is refused: not a well-formed file, or it does not load or run; None if it does.
        file: What it is; None if it is not a well-formed file, and then all below is empty.
        tensors: All tensors, subgraph by subgraph.
        sizes: What the bytes are spent on; they add up to `size_bytes`.
        external_buffers: How many buffers are kept in other files.
        metadata: What it says about itself.
        profiles: What the compatibility profiles say.
        findings: Where it departs from the quantization specification.
    """

    schema_version: Literal[1] = 1
    size_bytes: int
    failure: Failure | None = None
    file: ModelFileRecord | None = None
    tensors: tuple[FileTensorRecord, ...] = ()
    sizes: tuple[SizePart, ...] = ()
    external_buffers: int = 0
    metadata: MetadataRecord = MetadataRecord()
    profiles: tuple[ProfileResult, ...] = ()
    findings: tuple[Finding, ...] = ()


# --- what QuantizationEvaluator writes -------------------------------------------------------------------------------

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


# --- what MobilePusher writes ----------------------------------------------------------------------------------------

PushStatus = Literal["pushed", "unchanged", "not_blessed", "dry_run"]


class EvaluationSummary(Record):
    """How the released variant compares with the float model, over all examples.

    Attributes:
        num_examples: How many examples both were scored on.
        splits: The evaluated splits.
        baseline: Metrics of the float SavedModel.
        variant: Metrics of the released variant.
    """

    num_examples: int
    splits: tuple[str, ...]
    baseline: dict[str, float | None]
    variant: dict[str, float | None]


class ReleaseManifest(Record):
    """The payload of `releases/<name>/<release_id>.json`; its canonical bytes are what `release_id` hashes.

    Everything in it comes from what the pusher was given, nothing from the clock or from the execution at hand: the
    same bytes with the same evaluation are the same release.

    Attributes:
        model: Name the model is published under.
        variant: The blessed variant's name.
        recipe: How it was converted.
        blob: Path of the bytes below the destination's address.
        file: Hash, size, signatures, ops and oldest runtime of the file.
        evaluation: What the evaluation measured.
        source_sha256: Digest of the float SavedModel it was converted from.
        versions: Versions of what judged it.
    """

    schema_version: Literal[1] = 1
    model: str
    variant: str
    recipe: ConversionRecipe
    blob: str
    file: ModelFileRecord
    evaluation: EvaluationSummary
    source_sha256: str = Field(pattern=SHA256_PATTERN)
    versions: dict[str, str]


PayloadType = Literal[
    "application/vnd.mobile-model-manifest+json",
    "application/vnd.mobile-model-channel+json",
]


class Envelope(Record):
    """Every JSON object of a release store: exact bytes in a DSSE envelope, not signed yet.

    Field names are those of https://github.com/secure-systems-lab/dsse/blob/master/envelope.md.

    Attributes:
        payloadType: What the payload is.
        payload: Canonical JSON in base64; hash the decoded bytes, never a re-serialisation.
        signatures: Empty.
    """

    payloadType: PayloadType
    payload: str
    signatures: tuple[()] = ()

    @classmethod
    def seal(cls, payload_type: PayloadType, payload: bytes) -> Envelope:
        """Puts bytes into an envelope."""
        return cls(payloadType=payload_type, payload=base64.b64encode(payload).decode())

    def open(self, payload_type: PayloadType) -> bytes:
        """The bytes in it.

        Raises:
            TFXMobileError: The envelope holds something else, or no valid base64.
        """
        if self.payloadType != payload_type:
            raise TFXMobileError(f"The envelope holds {self.payloadType}; expected is {payload_type}.")
        try:
            return base64.b64decode(self.payload, validate=True)
        except binascii.Error as error:
            raise TFXMobileError(f"The envelope's payload is not base64: {error}.") from None


class ChannelEntry(Record):
    """What a channel named at one version."""

    version: int = Field(ge=1)
    release_id: str = Field(pattern=SHA256_PATTERN)
    nonce: str


class ChannelStatement(Record):
    """The payload of `channels/<name>/<channel>.json`: which release devices on this channel are to run.

    Attributes:
        model: The model's name.
        channel: The channel's name.
        version: Grows by one with every change and never shrinks; a device refuses a lower one than it has seen.
        release_id: The release.
        sha256: Of the release's bytes, so that a device that has them need not ask further.
        nonce: Unique to the push that wrote this statement; tells a pusher its own write from a rival's.
        previous: What the channel named before, newest first.
    """

    schema_version: Literal[1] = 1
    model: str
    channel: str
    version: int = Field(ge=1)
    release_id: str = Field(pattern=SHA256_PATTERN)
    sha256: str = Field(pattern=SHA256_PATTERN)
    nonce: str
    previous: tuple[ChannelEntry, ...] = ()

    @property
    def history(self) -> tuple[ChannelEntry, ...]:
        """What the channel names and named, newest first."""
        return (ChannelEntry(version=self.version, release_id=self.release_id, nonce=self.nonce), *self.previous)


class PushReceipt(Record):
    """What one push did at one destination.

    Attributes:
        status: `pushed`: this push moved the channel to the release. `unchanged`: the channel named these bytes
            already, nothing was written. `dry_run`: everything was checked, nothing was written.
        destination: The destination's address.
        release_id: Content-derived id of the release.
        previous_release_id: What the channel named before this release; None if it is the first.
        channel_version: The channel's number after the push; None while nothing was ever pushed to it.
        manifest_uri: Where the release manifest lies, or for a dry run would lie.
        model_uri: Where the bytes lie, or for a dry run would lie.
    """

    status: Literal["pushed", "unchanged", "dry_run"]
    destination: str
    release_id: str
    previous_release_id: str | None = None
    channel_version: int | None = None
    manifest_uri: str
    model_uri: str
