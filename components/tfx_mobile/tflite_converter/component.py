"""TFLiteConverter as a pipeline author writes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from tfx.dsl.components.base.base_component import BaseComponent
from tfx.dsl.components.base.executor_spec import ExecutorClassSpec
from tfx.orchestration.data_types import RuntimeParameter
from tfx.types import BaseChannel, Channel
from tfx.types.component_spec import ChannelParameter, ComponentSpec, ExecutionParameter
from tfx.types.standard_artifacts import Examples, Model, Schema, TransformGraph

from tfx_mobile.artifacts import TFLiteVariants
from tfx_mobile.errors import RecipeError
from tfx_mobile.recipes import CalibrationSpec, ConversionRecipe, MetadataSpec, resolve_recipes
from tfx_mobile.records import canonical_json
from tfx_mobile.tflite_converter import executor
from tfx_mobile.tflite_converter.job import check_examples_given


class TFLiteConverterSpec(ComponentSpec):
    """Ports of TFLiteConverter."""

    PARAMETERS: ClassVar[Mapping[str, ExecutionParameter]] = {
        "recipes": ExecutionParameter(type=str),
        "signature_name": ExecutionParameter(type=str),
        "calibration": ExecutionParameter(type=str),
        "batch_size": ExecutionParameter(type=str),
        "input_shapes": ExecutionParameter(type=str),
        "allow_select_tf_ops": ExecutionParameter(type=int),
        "metadata": ExecutionParameter(type=str),
        "profiles": ExecutionParameter(type=str),
        "deadline_seconds": ExecutionParameter(type=float),
        "max_parallel": ExecutionParameter(type=int),
        "fingerprint": ExecutionParameter(type=str),
    }
    INPUTS: ClassVar[Mapping[str, ChannelParameter]] = {
        "model": ChannelParameter(type=Model),
        "examples": ChannelParameter(type=Examples, optional=True),
        "qat_model": ChannelParameter(type=Model, optional=True),
        "transform_graph": ChannelParameter(type=TransformGraph, optional=True),
        "schema": ChannelParameter(type=Schema, optional=True),
    }
    OUTPUTS: ClassVar[Mapping[str, ChannelParameter]] = {"variants": ChannelParameter(type=TFLiteVariants)}


class TFLiteConverter(BaseComponent):
    """Converts one model into several `.tflite` variants, one per recipe, in one step.

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
        calibration: CalibrationSpec | Mapping[str, Any] | RuntimeParameter | None = None,
        batch_size: int | str | RuntimeParameter = 1,
        input_shapes: Mapping[str, Sequence[int]] | RuntimeParameter | None = None,
        allow_select_tf_ops: bool | RuntimeParameter = False,
        metadata: MetadataSpec | Mapping[str, Any] | RuntimeParameter | None = None,
        profiles: Sequence[str] | RuntimeParameter | None = None,
        qat_model: BaseChannel | None = None,
        transform_graph: BaseChannel | None = None,
        schema: BaseChannel | None = None,
        deadline_seconds: float | RuntimeParameter = 600.0,
        max_parallel: int | RuntimeParameter = 1,
    ) -> None:
        """Defines the step.

        Args:
            model: Model channel with a SavedModel or one Keras file (`.keras`, `.h5`): Trainer's, or one that an
                Importer brought in.
            recipes: Names of built-in recipes (`float32`, `float16`, `dynamic_range`, `full_integer`,
                `integer_only_int8`, `integer_only_uint8`, `int16x8`, `mixed_precision`, `int4`, `qat_full_integer`,
                `qat_integer_only_int8`) or ConversionRecipes. A RuntimeParameter holds a JSON list of the same.
            examples: Examples channel to calibrate from, in the form the signature is served with; needed by
                `full_integer`, `integer_only_*`, `int16x8` and `mixed_precision`.
            signature_name: Which signature of the SavedModel to convert.
            calibration: Which examples calibrate and what they are compared with; None for 200 of `train` with seed 0,
                compared with `eval`. A RuntimeParameter holds its JSON.
            batch_size: Rows a variant takes at once: 1, another number, or `dynamic`. A recipe may set its own.
            input_shapes: Sizes per example for inputs that the signature leaves open, by input name, without the batch
                dimension, such as `{"image": [224, 224, 3]}`; None leaves them open. Recipes that calibrate need them.
                A RuntimeParameter holds its JSON.
            allow_select_tf_ops: Let ops without a builtin kernel stay TensorFlow ops; the manifest names them. Apps
                then need the Flex delegate. A RuntimeParameter is 0 or 1.
            metadata: What to write into each file about itself; None for its origin, and for class names that
                Transform's vocabulary tells. A RuntimeParameter holds its JSON.
            profiles: Compatibility profiles to check each file against: `litert` (or `litert>=2.14.0`), `mlkit_image`,
                `mediapipe_image_classifier`, `litert_js`, `no_select_ops`; None for all. What they say is recorded and
                fails nothing. A RuntimeParameter holds a JSON list.
            qat_model: Model channel with the quantization-aware twin of `model`, for recipes with
                `quantization_aware`; None if `model` itself was trained so. It needs the same signature: inputs and
                outputs of the same names, types and shapes.
            transform_graph: TransformGraph channel, for a signature on transformed features with raw `examples`: it is
                applied to them before they calibrate. Its vocabularies also tell class names.
            schema: Schema channel of the raw examples, for class names, and where the transform graph has no metadata
                of its own.
            deadline_seconds: Longest time for one recipe, for `mixed_precision` for one trial; wall time.
            max_parallel: How many converter processes may run at once.

        Raises:
            RecipeError: A ValueError. A recipe is unknown, calibrates without examples, `qat_model` is given and no
                recipe uses it, or a parameter is not valid.
        """
        if not isinstance(recipes, RuntimeParameter):
            resolved = resolve_recipes(recipes)
            check_examples_given(resolved, examples is not None)
            executor.check_qat_model_used(resolved, qat_model is not None)
            recipes = canonical_json([recipe.model_dump(mode="json") for recipe in resolved]).decode()
        if not isinstance(signature_name, RuntimeParameter) and not (
            isinstance(signature_name, str) and signature_name
        ):
            raise RecipeError(f"signature_name={signature_name!r} is not valid. Use a name such as 'serving_default'.")
        if not isinstance(calibration, RuntimeParameter):
            calibration = canonical_json(executor.parse_calibration(calibration).model_dump(mode="json")).decode()
        if not isinstance(batch_size, RuntimeParameter):
            batch_size = str(executor.parse_batch_size(batch_size))
        if not isinstance(input_shapes, RuntimeParameter):
            input_shapes = canonical_json(executor.parse_input_shapes(input_shapes or {})).decode()
        if not isinstance(allow_select_tf_ops, RuntimeParameter):
            allow_select_tf_ops = int(executor.parse_flag("allow_select_tf_ops", allow_select_tf_ops))
        if not isinstance(metadata, RuntimeParameter):
            metadata = executor.parse_metadata(metadata)
            executor.check_names_given(metadata, transform_graph is not None or schema is not None)
            metadata = canonical_json(metadata.model_dump(mode="json")).decode()
        if not isinstance(profiles, RuntimeParameter):
            profiles = canonical_json(executor.parse_profiles(profiles)).decode()
        if not isinstance(deadline_seconds, RuntimeParameter):
            deadline_seconds = executor.parse_deadline(deadline_seconds)
        if not isinstance(max_parallel, RuntimeParameter):
            max_parallel = executor.parse_max_parallel(max_parallel)
        spec = TFLiteConverterSpec(
            model=model,
            examples=examples,
            recipes=recipes,
            signature_name=signature_name,
            calibration=calibration,
            batch_size=batch_size,
            input_shapes=input_shapes,
            allow_select_tf_ops=allow_select_tf_ops,
            metadata=metadata,
            profiles=profiles,
            qat_model=qat_model,
            transform_graph=transform_graph,
            schema=schema,
            deadline_seconds=deadline_seconds,
            max_parallel=max_parallel,
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
