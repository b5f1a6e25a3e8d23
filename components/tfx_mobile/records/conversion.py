"""What TFLiteConverter writes."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tfx_mobile.recipes import BatchSize, CalibrationSpec, ConversionRecipe
from tfx_mobile.records.base import SHA256_PATTERN, Record
from tfx_mobile.records.model_files import Finding, ModelFileRecord, ProfileResult, TensorRecord


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
