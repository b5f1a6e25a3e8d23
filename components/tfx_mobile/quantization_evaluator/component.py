"""QuantizationEvaluator as a pipeline author writes it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from google.protobuf.message import Message
from tfx.dsl.components.base.base_beam_component import BaseBeamComponent
from tfx.dsl.components.base.executor_spec import BeamExecutorSpec
from tfx.orchestration.data_types import RuntimeParameter
from tfx.types import BaseChannel, Channel
from tfx.types.component_spec import ChannelParameter, ComponentSpec, ExecutionParameter
from tfx.types.standard_artifacts import Examples, Model, ModelEvaluation, Schema, TransformGraph

from tfx_mobile.artifacts import TFLiteBlessing, TFLiteModel, TFLiteVariants
from tfx_mobile.quantization_evaluator import beam_options, driver, executor, parameters
from tfx_mobile.quantization_evaluator import eval_config as eval_configs
from tfx_mobile.quantization_evaluator.judging import thresholds
from tfx_mobile.quantization_evaluator.production import ProductionModel
from tfx_mobile.quantization_evaluator.versions import versions
from tfx_mobile.records import Budget, Confidence, LatencySpec, canonical_json


class QuantizationEvaluatorSpec(ComponentSpec):
    """Ports of QuantizationEvaluator."""

    INPUTS: ClassVar[Mapping[str, ChannelParameter]] = {
        executor.EXAMPLES_KEY: ChannelParameter(type=Examples),
        executor.MODEL_KEY: ChannelParameter(type=Model),
        executor.VARIANTS_KEY: ChannelParameter(type=TFLiteVariants),
        executor.TRANSFORM_GRAPH_KEY: ChannelParameter(type=TransformGraph, optional=True),
        executor.SCHEMA_KEY: ChannelParameter(type=Schema, optional=True),
    }
    OUTPUTS: ClassVar[Mapping[str, ChannelParameter]] = {
        executor.EVALUATION_KEY: ChannelParameter(type=ModelEvaluation),
        executor.BLESSING_KEY: ChannelParameter(type=TFLiteBlessing),
        executor.BLESSED_MODEL_KEY: ChannelParameter(type=TFLiteModel),
    }
    PARAMETERS: ClassVar[Mapping[str, ExecutionParameter]] = {
        executor.EVAL_CONFIG_KEY: ExecutionParameter(type=str),
        executor.EXAMPLE_SPLITS_KEY: ExecutionParameter(type=str),
        executor.BUDGET_KEY: ExecutionParameter(type=str),
        executor.OBJECTIVE_KEY: ExecutionParameter(type=str),
        executor.CONFIDENCE_KEY: ExecutionParameter(type=str),
        executor.LATENCY_KEY: ExecutionParameter(type=str),
        executor.PRODUCTION_KEY: ExecutionParameter(type=str),
        executor.GOLDEN_EXAMPLES_KEY: ExecutionParameter(type=str),
        executor.FINGERPRINT_KEY: ExecutionParameter(type=str),
    }


class QuantizationEvaluator(BaseBeamComponent):
    """Scores the float SavedModel and every variant on the same examples, and blesses the best variant that passes.

    One Beam pass feeds the examples to the SavedModel, which is the baseline, and to every variant, through their
    signatures; TFMA computes metrics, slices and thresholds. A variant that cannot be loaded or misses a threshold is
    not blessed and the reason recorded; that is a result, not an error. See docs/quantization_evaluator.md.

    Args:
        examples: Channel of Examples: what the float model is served with, labels included.
        model: Channel of Model: the SavedModel the variants were converted from.
        variants: Channel of TFLiteVariants, from `TFLiteConverter.outputs['variants']`.
        eval_config: A tfma.EvalConfig as a stock Evaluator takes it, with one ModelSpec (or a candidate and a
            baseline), or its JSON form. It needs at least one threshold; a change threshold compares each variant with
            the float model, from the first run on. Beware that TFMA applies a plain `MetricConfig.threshold` to every
            slice; use `per_slice_thresholds` to gate slices differently.
        example_splits: Splits to evaluate; None for `eval`.
        budget: Hard limits a variant must keep, such as `Budget(max_size_bytes=...)`: size, gzip size, latency, peak
            memory, minimum runtime, compatibility profiles. What a limit needs is measured only if it is given.
        objective: How the winner is chosen among the variants that pass: `size` takes the smallest, `latency` the
            fastest, `quality` the one that loses least of the first gated metric; or weights of these, such as
            `{"size": 0.5, "quality": 0.5}`. Costs are shares, see docs/quantization_evaluator.md.
        confidence: How sure the gate must be about a change before it counts; None for `Confidence()`.
        latency: How latency is measured, and device numbers; None to measure it only if `budget` or `objective` asks
            for it.
        production: Where to find the model that phones run today, as a second baseline; None for none.
        golden_examples: How many examples are written beside the blessed model as golden vectors, for an app to check
            itself; 0 for none. They hold the examples' features: write none if these must not leave the pipeline.
        transform_graph: Channel of TransformGraph, for a signature on transformed features with raw `examples`: models
            are fed its outputs, while labels and slices stay features of the examples.
        schema: Channel of the raw examples' Schema; read only if the transform graph has no metadata of its own.

    All parameters may be RuntimeParameters of ptype `str`, with JSON in them; their values are then checked when the
    component runs.

    Component `outputs` contains `evaluation` (ModelEvaluation: TFMA's result files, `record.json`, `report.html` and
    `model_card.md`), `blessing` (TFLiteBlessing) and `blessed_model` (TFLiteModel).

    Raises:
        EvalConfigError: A ValueError. A parameter is not valid, or no variant could ever fail.
    """

    SPEC_CLASS = QuantizationEvaluatorSpec
    EXECUTOR_SPEC = BeamExecutorSpec(executor.Executor)
    DRIVER_CLASS = driver.Driver

    def __init__(
        self,
        examples: BaseChannel,
        model: BaseChannel,
        variants: BaseChannel,
        eval_config: Any,
        example_splits: Sequence[str] | RuntimeParameter | None = None,
        budget: Budget | Mapping[str, Any] | RuntimeParameter | None = None,
        objective: str | Mapping[str, float] | RuntimeParameter = "size",
        confidence: Confidence | Mapping[str, Any] | RuntimeParameter | None = None,
        latency: LatencySpec | Mapping[str, Any] | RuntimeParameter | None = None,
        production: ProductionModel | Mapping[str, Any] | RuntimeParameter | None = None,
        golden_examples: int | RuntimeParameter = parameters.DEFAULT_GOLDEN_EXAMPLES,
        transform_graph: BaseChannel | None = None,
        schema: BaseChannel | None = None,
    ) -> None:
        if not isinstance(budget, RuntimeParameter) and not isinstance(latency, RuntimeParameter):
            parameters.latency_to_measure(parameters.parse_latency(latency), parameters.parse_budget(budget), {})
        if not isinstance(eval_config, RuntimeParameter):
            config, eval_config = eval_config, eval_configs.to_json(eval_config)
            if isinstance(config, Message) and not isinstance(confidence, RuntimeParameter):
                # As `to_json` has it: a custom metric's module may exist only where the pipeline runs.
                with contextlib.suppress(ModuleNotFoundError):
                    thresholds.check_worst_slice(config, parameters.parse_confidence(confidence).worst_slice)
        if not isinstance(example_splits, RuntimeParameter):
            example_splits = canonical_json(parameters.parse_splits(example_splits)).decode()
        if not isinstance(budget, RuntimeParameter):
            budget = parameters.parse_budget(budget).to_json().decode()
        if not isinstance(objective, RuntimeParameter):
            objective = canonical_json(parameters.parse_objective(objective)).decode()
        if not isinstance(confidence, RuntimeParameter):
            confidence = parameters.parse_confidence(confidence).to_json().decode()
        if not isinstance(latency, RuntimeParameter):
            spec = parameters.parse_latency(latency)
            latency = spec.to_json().decode() if spec else "null"
        if not isinstance(production, RuntimeParameter):
            model_in_production = parameters.parse_production(production)
            production = model_in_production.model_dump_json() if model_in_production else "null"
        if not isinstance(golden_examples, RuntimeParameter):
            golden_examples = str(parameters.parse_golden_examples(golden_examples))
        super().__init__(
            spec=QuantizationEvaluatorSpec(
                examples=examples,
                model=model,
                variants=variants,
                transform_graph=transform_graph,
                schema=schema,
                eval_config=eval_config,
                example_splits=example_splits,
                budget=budget,
                objective=objective,
                confidence=confidence,
                latency=latency,
                production=production,
                golden_examples=golden_examples,
                # TFX's cache key does not see code: what decides the verdicts must be among the parameters.
                fingerprint=canonical_json({"versions": versions()}).decode(),
                evaluation=Channel(type=ModelEvaluation),
                blessing=Channel(type=TFLiteBlessing),
                blessed_model=Channel(type=TFLiteModel),
            )
        )

    def with_beam_pipeline_args(self, beam_pipeline_args: Iterable[Any]) -> QuantizationEvaluator:
        """Adds Beam arguments for this component, as on every Beam component. See docs/scale.md.

        Args:
            beam_pipeline_args: Texts or placeholders; those of the pipeline and placeholders are checked when the
                component runs.

        Raises:
            EvalConfigError: A ValueError. The DaskRunner is named, or an argument with which Beam returns no results.
        """
        arguments = list(beam_pipeline_args)
        beam_options.check_arguments(arguments)
        super().with_beam_pipeline_args(arguments)
        return self
