"""Golden vectors: inputs and the outputs a model must give for them, for an app to check itself on its own device."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from tfx_mobile.records.base import SHA256_PATTERN, Record


class GoldenTensor(Record):
    """The exact content of a tensor.

    Attributes:
        name: Its name in the signature.
        dtype: Element type, such as `float32` or `int8`; `string` for text.
        shape: Its sizes, the batch's first.
        data: Base64 of the elements in row-major order, little-endian, without gaps; a boolean is one byte. None for
            `string`.
        strings: For `string`: base64 of each element, in row-major order; they need not be UTF-8.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: str | None = None
    strings: tuple[str, ...] | None = None

    @model_validator(mode="after")
    def _check_content(self) -> GoldenTensor:
        if (self.data is None) == (self.strings is None) or (self.dtype == "string") != (self.strings is not None):
            raise ValueError("a string tensor has strings, any other has data")
        return self


class GoldenInput(Record):
    """An input of the model.

    Attributes:
        name: Its name in the signature.
        index: Its position among the inputs, for interpreters that go by position.
        dtype: Element type of the tensor.
        scale: Step of one quantum; None if it is not quantized.
        zero_point: The quantum that means 0.0; None if it is not quantized.
    """

    name: str
    index: int
    dtype: str
    scale: float | None = None
    zero_point: int | None = None


class GoldenOutput(GoldenInput):
    """An output of the model, and how far another device may be from it.

    Attributes:
        tolerance: Largest allowed difference of an element: in quanta for integers, in the output's units for floats.
            0 means the same value.
        reason: Why so much.
    """

    tolerance: float = Field(ge=0, allow_inf_nan=False)
    reason: str


class GoldenExample(Record):
    """One example.

    Attributes:
        example_sha256: Of the serialized tf.Example.
        inputs: Exactly what the file takes, one per input.
        outputs: Exactly what the file gave, one per output.
        float_outputs: What the float model gave for this example, one per output, its batch of one row.
    """

    example_sha256: str = Field(pattern=SHA256_PATTERN)
    inputs: tuple[GoldenTensor, ...]
    outputs: tuple[GoldenTensor, ...]
    float_outputs: tuple[GoldenTensor, ...]


class GoldenVectors(Record):
    """`golden.json` of a `TFLiteModel` artifact.

    Attributes:
        model_sha256: Of the file that gave the outputs.
        variant: Name of the variant.
        signature: Key of the signature that was run.
        runtime: Name and version of the interpreter that gave the outputs.
        inputs: The model's inputs.
        outputs: The model's outputs.
        examples: In the order of their hashes.
    """

    schema_version: Literal[1] = 1
    model_sha256: str = Field(pattern=SHA256_PATTERN)
    variant: str
    signature: str
    runtime: str
    inputs: tuple[GoldenInput, ...]
    outputs: tuple[GoldenOutput, ...] = Field(min_length=1)
    examples: tuple[GoldenExample, ...] = Field(min_length=1)


class GoldenResult(Record):
    """How far one output of one example was from its golden one.

    Attributes:
        example: Position of the example.
        output: Name of the output.
        difference: Largest difference of an element, in the tolerance's units; None if it cannot be told: of text, of
            another shape or dtype, or where one side alone is not finite.
        tolerance: The largest allowed one.
        passed: Whether it was within tolerance.
        message: What was wrong, where a number does not say it.
    """

    example: int
    output: str
    difference: float | None
    tolerance: float
    passed: bool
    message: str = ""


class GoldenCheck(Record):
    """The outcome of running golden vectors.

    Attributes:
        model_sha256: Of the file that was checked.
        same_file: Whether the golden vectors are of this very file.
        runtime: Name and version of the interpreter that ran here; empty if none did.
        results: One per example and output.
        failure: Why the file could not be run; empty if it could.
    """

    model_sha256: str = Field(pattern=SHA256_PATTERN)
    same_file: bool
    runtime: str = ""
    results: tuple[GoldenResult, ...] = ()
    failure: str = ""

    @property
    def passed(self) -> bool:
        """Whether it is the right file, and every output was within tolerance."""
        return self.same_file and not self.failure and all(result.passed for result in self.results)
