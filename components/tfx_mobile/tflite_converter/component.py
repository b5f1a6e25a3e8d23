"""TFLiteConverter as a pipeline author writes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from tfx.dsl.components.base.base_component import BaseComponent
from tfx.dsl.components.base.executor_spec import ExecutorClassSpec
from tfx.orchestration.data_types import RuntimeParameter
from tfx.types import BaseChannel, Channel
from tfx.types.component_spec import ChannelParameter, ComponentSpec, ExecutionParameter
from tfx.types.standard_artifacts import Examples, Model

from tfx_mobile.artifacts import TFLiteVariants
from tfx_mobile.errors import RecipeError
from tfx_mobile.recipes import CalibrationSpec, ConversionRecipe, resolve_recipes
from tfx_mobile.records import canonical_json
from tfx_mobile.tflite_converter import executor


class TFLiteConverterSpec(ComponentSpec):
    """Ports of TFLiteConverter."""

    PARAMETERS: ClassVar[Mapping[str, ExecutionParameter]] = {
        "recipes": ExecutionParameter(type=str),
        "signature_name": ExecutionParameter(type=str),
        "calibration": ExecutionParameter(type=str),
        "batch_size": ExecutionParameter(type=str),
        "deadline_seconds": ExecutionParameter(type=float),
        "fingerprint": ExecutionParameter(type=str),
    }
    INPUTS: ClassVar[Mapping[str, ChannelParameter]] = {
        "model": ChannelParameter(type=Model),
        "examples": ChannelParameter(type=Examples, optional=True),
    }
    OUTPUTS: ClassVar[Mapping[str, ChannelParameter]] = {"variants": ChannelParameter(type=TFLiteVariants)}


class TFLiteConverter(BaseComponent):
    """Converts one SavedModel into several `.tflite` variants, one per recipe, in one step.

    Takes what Trainers write: a signature on raw tensors, or one that parses tf.Examples with Transform inside. A
    recipe that fails is recorded with its reason; the step fails only if every recipe does.

    Outputs:
        variants: A TFLiteVariants artifact: `manifest.json`, and per converted recipe `<recipe>/model.tflite` with
            `<recipe>/recipe.json`.
    """

    SPEC_CLASS = TFLiteConverterSpec
    EXECUTOR_SPEC = ExecutorClassSpec(executor.Executor)

    def __init__(
        self,
        model: BaseChannel,
        recipes: Sequence[str | ConversionRecipe | Mapping[str, Any]] | RuntimeParameter,
        examples: BaseChannel | None = None,
        signature_name: str | RuntimeParameter = "serving_default",
        calibration: CalibrationSpec | RuntimeParameter | None = None,
        batch_size: int | str | RuntimeParameter = 1,
        deadline_seconds: float | RuntimeParameter = 600.0,
    ) -> None:
        """Defines the step.

        Args:
            model: Model channel with a SavedModel: Trainer's, or one that an Importer brought in.
            recipes: Names of built-in recipes (`float32`, `float16`, `dynamic_range`, `full_integer`,
                `integer_only_int8`, `integer_only_uint8`, `int16x8`) or ConversionRecipes. A RuntimeParameter holds a
                JSON list of the same.
            examples: Examples channel to calibrate from, in the form the signature is served with; needed by
                `full_integer`, `integer_only_*` and `int16x8`.
            signature_name: Which signature of the SavedModel to convert.
            calibration: Split, number and seed of the calibration examples; None for 200 of `train` with seed 0. A
                RuntimeParameter holds its JSON.
            batch_size: Rows a variant takes at once: 1, another number, or `dynamic`. A recipe may set its own.
            deadline_seconds: Longest time for one recipe; wall time.

        Raises:
            RecipeError: A ValueError. A recipe is unknown, calibrates without examples, or a parameter is not valid.
        """
        if not isinstance(recipes, RuntimeParameter):
            resolved = resolve_recipes(recipes)
            executor.check_examples_given(resolved, examples is not None)
            recipes = canonical_json([recipe.model_dump(mode="json") for recipe in resolved]).decode()
        if not isinstance(signature_name, RuntimeParameter) and not (
            isinstance(signature_name, str) and signature_name
        ):
            raise RecipeError(f"signature_name={signature_name!r} is not valid. Use a name such as 'serving_default'.")
        if not isinstance(calibration, RuntimeParameter):
            calibration = canonical_json((calibration or CalibrationSpec()).model_dump(mode="json")).decode()
        if not isinstance(batch_size, RuntimeParameter):
            batch_size = str(executor.parse_batch_size(batch_size))
        if not isinstance(deadline_seconds, RuntimeParameter):
            deadline_seconds = executor.parse_deadline(deadline_seconds)
        spec = TFLiteConverterSpec(
            model=model,
            examples=examples,
            recipes=recipes,
            signature_name=signature_name,
            calibration=calibration,
            batch_size=batch_size,
            deadline_seconds=deadline_seconds,
            # TFX's cache key does not see code: what decides the bytes of a variant must be among the parameters.
            fingerprint=canonical_json(
                {
                    "versions": executor.versions(),
                    "recipe_schema": ConversionRecipe.model_fields["schema_version"].default,
                }
            ).decode(),
            variants=Channel(type=TFLiteVariants),
        )
        super().__init__(spec=spec)
