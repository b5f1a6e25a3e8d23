"""Facts of a `.tflite` file."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tfx_mobile.errors import TFXMobileError
from tfx_mobile.records.base import SHA256_PATTERN, Record


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
