"""Conversion recipes and calibration: what to make of a model, as plain data.

Names are TensorFlow's own terms (https://ai.google.dev/edge/litert/models/post_training_quantization). A recipe is
frozen, validated and saved as `recipe.json` beside the file it made. This module imports neither TensorFlow nor TFX.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from tfx_mobile.errors import RecipeError
from tfx_mobile.validation import problems_in

Quantization = Literal[
    "none", "float16", "dynamic_range", "full_integer", "integer_only", "int16x8", "mixed_precision", "int4"
]
IODType = Literal["float32", "int8", "uint8"]
BatchSize = Annotated[int, Field(ge=1)] | Literal["dynamic"]

_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise RecipeError(_explain(type(self), error)) from None


def _explain(model: type[BaseModel], error: ValidationError) -> str:
    return f"Invalid {model.__name__}: {problems_in(error)}. Its fields are {', '.join(model.model_fields)}."


class RepairSpec(_Frozen):
    """How far accuracy repair may go: the search behind `mixed_precision`.

    Attributes:
        tolerance: Largest loss against the float model that counts as repaired, as a share of the examples: of
            agreement with the float model, or of accuracy if `label` is given.
        max_trials: Most conversions the search may try.
        max_size_ratio: Largest allowed file, as a share of the float32 file.
        num_examples: How many examples of the calibration split layers are ranked on; none of them calibrates, if the
            split has enough.
        label: Feature with the class of an example, an integer; None to measure agreement with the float model.
    """

    tolerance: float = Field(default=0.005, ge=0.0, lt=1.0)
    max_trials: int = Field(default=32, ge=1)
    max_size_ratio: float = Field(default=0.9, gt=0.0, le=1.0)
    num_examples: int = Field(default=500, ge=1)
    label: str | None = Field(default=None, min_length=1)


class ConversionRecipe(_Frozen):
    """How to convert a SavedModel into one `.tflite` variant.

    Attributes:
        name: The variant's name, and the name of its folder: lower-case letters, digits, underscores.
        quantization: What is quantized. `none` keeps float32; `float16` stores weights as float16; `dynamic_range`
            stores weights as int8 and computes activations in float; `full_integer` computes in int8 where kernels
            exist and in float elsewhere; `integer_only` refuses any op without an int8 kernel; `int16x8` uses int16
            activations with int8 weights; `mixed_precision` is `full_integer` with the few layers left in float that
            accuracy needs, found by measuring; `int4` stores weights as int4 and computes activations in float.
        io_dtype: dtype of the file's inputs and outputs. Only `integer_only` can have `int8` or `uint8`.
        batch_size: 1 (or another fixed number) for delegates and the web runtime, `dynamic` to leave it open. None
            takes the component's setting.
        float_layers: For `full_integer`: layers that stay in float, by the names that `mixed_precision` writes into
            the manifest. With them its result is repeated without the search.
        quantization_aware: The ranges come from quantization-aware training, so nothing is calibrated. The model is
            `qat_model`, or `model` if it was trained so itself; if neither was, the recipe fails. Without this flag
            `full_integer` and `integer_only` are made of `model`, and take its trained ranges if it has any.
        repair: For `mixed_precision`: the search's bounds; None for the defaults.
        schema_version: Version of this schema.
    """

    name: str
    quantization: Quantization
    io_dtype: IODType = "float32"
    batch_size: BatchSize | None = None
    float_layers: tuple[str, ...] = ()
    quantization_aware: bool = False
    repair: RepairSpec | None = None
    schema_version: Literal[1, 2] = 2

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError("use up to 63 lower-case letters, digits and underscores, starting with a letter")
        return name

    @model_validator(mode="after")
    def _check_io(self) -> ConversionRecipe:
        if self.io_dtype != "float32" and self.quantization != "integer_only":
            raise ValueError(
                f"io_dtype={self.io_dtype!r} needs quantization='integer_only', not {self.quantization!r}; "
                "other quantizations keep float32 inputs and outputs"
            )
        if self.float_layers and self.quantization != "full_integer":
            raise ValueError(f"float_layers needs quantization='full_integer', not {self.quantization!r}")
        if self.quantization_aware and self.quantization not in ("full_integer", "integer_only"):
            raise ValueError(
                f"quantization_aware needs quantization='full_integer' or 'integer_only', not {self.quantization!r}"
            )
        if self.quantization_aware and self.float_layers:
            raise ValueError(
                "float_layers are kept in float by a calibrated conversion, and quantization_aware calibrates nothing; "
                "use one of them, and leave layers unannotated in training to keep them in float"
            )
        if self.repair is not None and self.quantization != "mixed_precision":
            raise ValueError(f"repair needs quantization='mixed_precision', not {self.quantization!r}")
        return self

    @property
    def computes_in_integers(self) -> bool:
        """Whether activations are integers, so that their ranges must be known."""
        return self.quantization in ("full_integer", "integer_only", "int16x8", "mixed_precision")

    @property
    def takes_trained_ranges(self) -> bool:
        """Whether ranges from quantization-aware training replace calibration where the model has them."""
        return self.quantization in ("full_integer", "integer_only") and not self.float_layers

    @property
    def calibrates(self) -> bool:
        """Whether this recipe needs a representative dataset, unless the model brings trained ranges for it."""
        return self.computes_in_integers and not self.quantization_aware


class CalibrationSpec(_Frozen):
    """Which examples form the representative dataset.

    Attributes:
        split: Split of the Examples artifact to draw from.
        num_samples: How many examples; fewer in the split is an error only when there are none. TensorFlow's
            documentation advises 100 to 500.
        seed: Seed of the draw. The same examples and seed give the same sample, in the same order.
        stratify_by: Feature, such as the label or a slice feature, whose values get equal shares of the sample as far
            as the split has them; None to draw from all examples alike. An example without the feature belongs to a
            stratum of its own.
        label: Feature with the label, for the report's label balance; None to leave that out.
        evaluation_split: Split that the sample is compared with: shared examples and values outside the calibrated
            range; None to leave that out.
        leakage: What to do if calibration and evaluation examples are shared: `warn` or `refuse`.
    """

    split: str = Field(default="train", min_length=1)
    num_samples: int = Field(default=200, ge=1)
    seed: int = Field(default=0, ge=0, lt=2**63)
    stratify_by: str | None = Field(default=None, min_length=1)
    label: str | None = Field(default=None, min_length=1)
    evaluation_split: str | None = Field(default="eval", min_length=1)
    leakage: Literal["warn", "refuse"] = "warn"

    @model_validator(mode="after")
    def _check_leakage(self) -> CalibrationSpec:
        if self.leakage == "refuse" and self.evaluation_split in (None, self.split):
            raise ValueError(
                f"leakage='refuse' needs an evaluation_split other than split={self.split!r}, not "
                f"{self.evaluation_split!r}; name the split that QuantizationEvaluator scores"
            )
        return self


class MetadataSpec(_Frozen):
    """What a variant says about itself, written into the file as TFLite metadata.

    Attributes:
        name: The model's name.
        description: What it does.
        version: The model's version.
        author: Who made it.
        labels: Names of the classes, in the order of the output.
        label: Instead of `labels`: the feature with the class. Its names are taken from Transform's vocabulary of that
            name, else from its string domain in the schema; name it only if the model's output has their order.
        mean: For an image input: what is subtracted from pixel values 0 to 255, one number or one per channel.
        std: For an image input: what the difference is divided by, one number or one per channel.
    """

    name: str | None = Field(default=None, min_length=1)
    description: str | None = None
    version: str | None = None
    author: str | None = None
    labels: tuple[str, ...] = ()
    label: str | None = Field(default=None, min_length=1)
    mean: tuple[Annotated[float, Field(allow_inf_nan=False)], ...] = ()
    std: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...] = ()

    @field_validator("labels")
    @classmethod
    def _check_labels(cls, labels: tuple[str, ...]) -> tuple[str, ...]:
        # labels.txt holds one per line.
        for label in labels:
            if not label.strip() or len(label.splitlines()) > 1:
                raise ValueError(f"label {label!r} is not one line of text")
        return labels

    @model_validator(mode="after")
    def _check_together(self) -> MetadataSpec:
        if self.labels and self.label is not None:
            raise ValueError("give either labels or label, the feature that they are derived from")
        if len(self.mean) != len(self.std):
            raise ValueError(
                f"mean has {len(self.mean)} values and std {len(self.std)}; give both, one number each or one per "
                "channel"
            )
        return self


BUILTIN_RECIPES: Mapping[str, ConversionRecipe] = {
    recipe.name: recipe
    for recipe in (
        ConversionRecipe(name="float32", quantization="none"),
        ConversionRecipe(name="float16", quantization="float16"),
        ConversionRecipe(name="dynamic_range", quantization="dynamic_range"),
        ConversionRecipe(name="full_integer", quantization="full_integer"),
        ConversionRecipe(name="integer_only_int8", quantization="integer_only", io_dtype="int8"),
        ConversionRecipe(name="integer_only_uint8", quantization="integer_only", io_dtype="uint8"),
        ConversionRecipe(name="int16x8", quantization="int16x8"),
        ConversionRecipe(name="mixed_precision", quantization="mixed_precision"),
        ConversionRecipe(name="int4", quantization="int4"),
        ConversionRecipe(name="qat_full_integer", quantization="full_integer", quantization_aware=True),
        ConversionRecipe(
            name="qat_integer_only_int8", quantization="integer_only", io_dtype="int8", quantization_aware=True
        ),
    )
}


def resolve_recipes(recipes: Iterable[str | ConversionRecipe | Mapping[str, Any]]) -> tuple[ConversionRecipe, ...]:
    """Turns names, recipes and their JSON form into recipes, in the given order.

    Raises:
        RecipeError: A name is unknown, two recipes share a name, or there is none.
    """
    if isinstance(recipes, (str, ConversionRecipe, Mapping)):
        raise RecipeError(
            f"recipes={recipes!r} is one recipe; give a list, for example recipes=['float32', 'full_integer']."
        )
    resolved: list[ConversionRecipe] = []
    for recipe in recipes:
        if isinstance(recipe, ConversionRecipe):
            resolved.append(recipe)
        elif isinstance(recipe, Mapping):
            resolved.append(ConversionRecipe(**recipe))
        elif isinstance(recipe, str) and recipe in BUILTIN_RECIPES:
            resolved.append(BUILTIN_RECIPES[recipe])
        else:
            raise RecipeError(
                f"Unknown recipe {recipe!r}. Valid names: {', '.join(BUILTIN_RECIPES)}. "
                "For anything else pass a ConversionRecipe(name=..., quantization=...)."
            )
    if not resolved:
        raise RecipeError(f"recipes is empty; name at least one of {', '.join(BUILTIN_RECIPES)}.")
    names = [recipe.name for recipe in resolved]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise RecipeError(
            f"Recipe names must be unique; given more than once: {', '.join(twice)}. Give each its own name=."
        )
    return tuple(resolved)
