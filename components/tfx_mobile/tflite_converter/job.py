"""What parent and child tell each other: the job, what it is prepared into, and which recipe is made from what.

Both sides import this module, so it imports no TensorFlow.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from tfx_mobile.errors import RecipeError
from tfx_mobile.recipes import BatchSize, CalibrationSpec, ConversionRecipe
from tfx_mobile.records import CalibrationRecord, Record, SignatureRecord

if TYPE_CHECKING:
    from tfx_mobile.tflite_converter.trained_ranges import Form

#: Name of a converted file, in a folder of the work directory that is named as its recipe.
MODEL_FILE = "model.tflite"

#: The models that a recipe may be made from.
MODEL, TWIN = "model", "qat_model"

Route = Literal["resigned", "direct"]


class Job(Record):
    """What the child is asked to do.

    Attributes:
        saved_model: Local path of the SavedModel, or of a Keras file.
        signature_name: Which of its signatures.
        recipes: What to make of it, in this order.
        batch_size: For recipes that do not set their own.
        input_shapes: Sizes per example for inputs that the signature leaves open, by name.
        allow_select_tf_ops: Whether ops without a builtin kernel may stay TensorFlow ops.
        calibration: Which examples calibrate; None if no recipe calibrates.
        example_files: TFRecord files of the calibration split.
        evaluation_files: TFRecord files of the evaluation split, which the calibration sample is compared with.
        not_compared: Why there are none.
        transform_graph: Local folder of a TransformGraph artifact; None without one.
        schema_file: Local path of the raw examples' schema as text proto; None without one.
        work_dir: Local folder for everything that is made.
        profiles: Compatibility profiles to check each file against; None for all.
        convert: Names of the recipes that this child converts, in this order; None for all. Whatever is prepared is
            prepared for all.
        route: `resigned` uses the front end and falls back to `direct` where freezing is impossible; `direct` does not
            try.
        qat_saved_model: Local path of the quantization-aware twin, for recipes with `quantization_aware`; None if
            there is none.
    """

    saved_model: str
    signature_name: str
    recipes: tuple[ConversionRecipe, ...]
    batch_size: BatchSize
    input_shapes: dict[str, tuple[int, ...]] = Field(default_factory=dict)
    allow_select_tf_ops: bool = False
    calibration: CalibrationSpec | None
    example_files: tuple[str, ...]
    evaluation_files: tuple[str, ...] = ()
    not_compared: str | None = None
    transform_graph: str | None = None
    schema_file: str | None = None
    work_dir: str
    profiles: tuple[str, ...] | None = None
    convert: tuple[str, ...] | None = None
    route: Route = "resigned"
    qat_saved_model: str | None = None


class Source(Record):
    """A SavedModel that is ready for the converter.

    Attributes:
        saved_model: Where it lies.
        batch_size: The batch size of its signature.
        signature: Its signature; the only one that is converted.
        trained_ranges: Whether the ranges of its activations come from quantization-aware training.
        inputs_without_range: Where inputs should be integers: those that training gave no range, each with the op that
            keeps it away.
        state: Names of the variables that a call changes.
        loops: Names of its loops, which recurrent layers have.
    """

    saved_model: str
    batch_size: BatchSize
    signature: SignatureRecord
    trained_ranges: bool = False
    inputs_without_range: dict[str, str] = Field(default_factory=dict)
    state: tuple[str, ...] = ()
    loops: tuple[str, ...] = ()


class Prepared(Record):
    """The outcome of the front end and of the calibration draw.

    Attributes:
        route: Which way was taken.
        direct_reason: Why the SavedModel is converted as it was saved; None if it was re-signed.
        parses_examples: Whether the signature takes serialized tf.Examples.
        sources: By model, form of its trained ranges, and the batch size that was asked for: see `source`.
        calibration: The representative dataset; None if no recipe calibrates.
        trained: Whether the model itself was trained quantization-aware.
        twin: The signature of the quantization-aware twin; None if there is none.
        twin_parses_examples: Whether the twin's signature takes serialized tf.Examples.
    """

    route: Route
    direct_reason: str | None
    parses_examples: bool
    sources: dict[str, Source]
    calibration: CalibrationRecord | None
    trained: bool = False
    twin: SignatureRecord | None = None
    twin_parses_examples: bool = False

    def source(self, recipe: ConversionRecipe) -> Source:
        """What `recipe`, with its batch size resolved, is made from."""
        return self.sources["-".join(source_key(recipe, self.trained, self.twin is not None))]

    def ranges_from(self, recipe: ConversionRecipe) -> Literal["calibration", "training"] | None:
        """Where `recipe` gets the ranges of integer activations."""
        if self.source(recipe).trained_ranges:
            return "training"
        return "calibration" if recipe.calibrates else None


def source_key(recipe: ConversionRecipe, trained: bool, has_twin: bool) -> tuple[str, Form, str]:
    """Which model, in which form, at which batch size a recipe is made from.

    Args:
        recipe: The recipe, with its batch size resolved.
        trained: Whether the model itself was trained quantization-aware.
        has_twin: Whether there is a quantization-aware twin.
    """
    from_twin = recipe.quantization_aware and has_twin
    form: Form = "float"
    if recipe.takes_trained_ranges and (from_twin or trained):
        form = "trained_inputs" if recipe.quantization == "integer_only" else "trained"
    return TWIN if from_twin else MODEL, form, str(recipe.batch_size)


def check_examples_given(recipes: Sequence[ConversionRecipe], given: bool) -> None:
    """Recipes that calibrate need examples.

    Raises:
        RecipeError: There are none.
    """
    calibrating = [recipe.name for recipe in recipes if recipe.calibrates]
    if calibrating and not given:
        raise RecipeError(
            f"The recipes {', '.join(calibrating)} calibrate, but TFLiteConverter got no examples. Pass "
            "examples=example_gen.outputs['examples'], or use recipes that need none: float32, float16, "
            "dynamic_range; or qat_full_integer and qat_integer_only_int8, for a model that was trained "
            "quantization-aware."
        )
