"""The reference pipeline, from tf.Examples to a released on-device model: all explicit, and no runner known."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

from tfx.components import (
    Evaluator,
    ExampleValidator,
    ImportExampleGen,
    SchemaGen,
    StatisticsGen,
    Trainer,
    Transform,
)
from tfx.dsl.components.common import resolver
from tfx.dsl.experimental.conditionals.conditional import Cond
from tfx.dsl.input_resolution.strategies.latest_blessed_model_strategy import LatestBlessedModelStrategy
from tfx.orchestration.data_types import RuntimeParameter
from tfx.orchestration.pipeline import Pipeline
from tfx.proto import example_gen_pb2, trainer_pb2
from tfx.types import Channel
from tfx.types.standard_artifacts import Model, ModelBlessing

from tfx_mobile import (
    Budget,
    CalibrationSpec,
    ConversionRecipe,
    MobilePusher,
    ProductionModel,
    QuantizationEvaluator,
    TFLiteConverter,
    blessed,
)

# The runner by its name: a DirectRunner downloads another one from GitHub while the pipeline runs, and uses that.
_IN_THIS_PROCESS = ("--runner=FnApiRunner", "--direct_running_mode=in_memory", "--direct_num_workers=1")


def create_pipeline(
    *,
    pipeline_name: str,
    pipeline_root: str,
    examples_dir: str | RuntimeParameter,
    preprocessing_fn: str,
    run_fn: str,
    train_steps: int,
    float_eval_config: Any,
    mobile_eval_config: Any,
    recipes: Sequence[str | ConversionRecipe],
    calibration: CalibrationSpec,
    model_name: str,
    channel: str | RuntimeParameter,
    destinations: Sequence[Any],
    budget: Budget | None = None,
    production: ProductionModel | None = None,
    qat_run_fn: str | None = None,
    span_pattern: str | None = None,
    range_config: RuntimeParameter | None = None,
    compare_with_last_blessed: bool = True,
    conditional_push: bool = False,
    on_not_blessed: str = "skip",
    metadata_connection_config: Any = None,
    beam_pipeline_args: Sequence[str] = _IN_THIS_PROCESS,
    enable_cache: bool = True,
) -> Pipeline:
    """A TFX pipeline that trains a float model, gates it, and takes it to the phone.

    Args:
        pipeline_name: Name under which runs and lineage are recorded.
        pipeline_root: Where artifacts go.
        examples_dir: Folder with TFRecord files of tf.Examples; split 3 to 1 into train and eval.
        preprocessing_fn: Import path of Transform's callback.
        run_fn: Import path of Trainer's callback.
        train_steps: Training steps of each Trainer.
        float_eval_config: tfma.EvalConfig of the stock Evaluator, which judges the float model.
        mobile_eval_config: tfma.EvalConfig of QuantizationEvaluator, which judges the variants.
        recipes: What to convert the model into.
        calibration: Which examples calibrate the integer recipes.
        model_name: Name of the released model.
        channel: Channel that the release moves.
        destinations: Where to publish.
        budget: Limits a variant must keep.
        production: The model that phones run today, which a new one must not be worse than; None to look at the float
            model only.
        qat_run_fn: Import path of the callback of a second Trainer, `qat_trainer`, which makes the float model's
            quantization-aware twin for recipes with `quantization_aware`; None for no twin.
        span_pattern: Files of one span below `examples_dir`, such as `span-{SPAN}/*`; the newest span is taken. None
            takes all files.
        range_config: Which span to take instead of the newest: a RangeConfig in JSON; only with `span_pattern`.
        compare_with_last_blessed: Whether the float model is also judged against the one blessed last. It takes a
            Resolver, which self-hosted Kubeflow Pipelines does not run.
        conditional_push: Whether MobilePusher is skipped when nothing was blessed, so that the run shows it; otherwise
            it runs and reports `not_blessed`.
        on_not_blessed: What MobilePusher does then: `skip` ends the run well, `fail` fails it, so that somebody
            is told.
        metadata_connection_config: ML Metadata store; None where the runner brings its own.
        beam_pipeline_args: How Beam runs.
        enable_cache: Whether an unchanged step is served from the cache.

    Raises:
        ValueError: `on_not_blessed` is not valid, or cannot hold because of `conditional_push`.
    """
    if conditional_push and on_not_blessed == "fail":
        raise ValueError(
            "on_not_blessed='fail' and conditional_push=True contradict each other: a pusher that is skipped cannot "
            "fail. Set conditional_push=False to be told of a model that is refused, or on_not_blessed='skip'."
        )
    splits = [
        example_gen_pb2.SplitConfig.Split(name="train", hash_buckets=3),
        example_gen_pb2.SplitConfig.Split(name="eval", hash_buckets=1),
    ]
    spans = (
        example_gen_pb2.Input(splits=[example_gen_pb2.Input.Split(name="all", pattern=span_pattern)])
        if span_pattern
        else None
    )
    example_gen = ImportExampleGen(
        input_base=examples_dir,
        input_config=spans,
        range_config=range_config,
        output_config=example_gen_pb2.Output(split_config=example_gen_pb2.SplitConfig(splits=splits)),
    )
    examples = example_gen.outputs["examples"]
    statistics_gen = StatisticsGen(examples=examples)
    schema_gen = SchemaGen(statistics=statistics_gen.outputs["statistics"], infer_feature_shape=True)
    schema = schema_gen.outputs["schema"]
    example_validator = ExampleValidator(statistics=statistics_gen.outputs["statistics"], schema=schema)
    transform = Transform(examples=examples, schema=schema, preprocessing_fn=preprocessing_fn)
    trainer = Trainer(
        run_fn=run_fn,
        examples=transform.outputs["transformed_examples"],
        transform_graph=transform.outputs["transform_graph"],
        schema=schema,
        train_args=trainer_pb2.TrainArgs(num_steps=train_steps),
        eval_args=trainer_pb2.EvalArgs(),
    )
    model = trainer.outputs["model"]

    # The float model is gated first, against the float model that was blessed last.
    model_resolvers = []
    if compare_with_last_blessed:
        model_resolvers.append(
            resolver.Resolver(
                strategy_class=LatestBlessedModelStrategy,
                model=Channel(type=Model),
                model_blessing=Channel(type=ModelBlessing),
            ).with_id("latest_blessed_model_resolver")
        )
    evaluator = Evaluator(
        examples=examples,
        model=model,
        baseline_model=model_resolvers[0].outputs["model"] if model_resolvers else None,
        eval_config=float_eval_config,
    )

    # The twin starts from the float model, and is judged against it. No resolver can take it for the float model: the
    # stock Evaluator never blesses it.
    qat_trainers = []
    if qat_run_fn is not None:
        qat_trainers.append(
            Trainer(
                run_fn=qat_run_fn,
                examples=transform.outputs["transformed_examples"],
                transform_graph=transform.outputs["transform_graph"],
                schema=schema,
                base_model=model,
                train_args=trainer_pb2.TrainArgs(num_steps=train_steps),
                eval_args=trainer_pb2.EvalArgs(),
            ).with_id("qat_trainer")
        )
    converter = TFLiteConverter(
        model=model,
        qat_model=qat_trainers[0].outputs["model"] if qat_trainers else None,
        examples=examples,
        recipes=recipes,
        calibration=calibration,
    )
    variants = converter.outputs["variants"]
    quantization_evaluator = QuantizationEvaluator(
        examples=examples,
        model=model,
        variants=variants,
        eval_config=mobile_eval_config,
        budget=budget,
        production=production,
    )
    blessing = quantization_evaluator.outputs["blessing"]
    with Cond(blessed(blessing)) if conditional_push else contextlib.nullcontext():
        pusher = MobilePusher(
            model=quantization_evaluator.outputs["blessed_model"],
            blessing=blessing,
            model_blessing=evaluator.outputs["blessing"],
            evaluation=quantization_evaluator.outputs["evaluation"],
            model_name=model_name,
            channel=channel,
            destinations=destinations,
            on_not_blessed=on_not_blessed,
        )
    return Pipeline(
        pipeline_name=pipeline_name,
        pipeline_root=pipeline_root,
        components=[
            example_gen,
            statistics_gen,
            schema_gen,
            example_validator,
            transform,
            trainer,
            *qat_trainers,
            *model_resolvers,
            evaluator,
            converter,
            quantization_evaluator,
            pusher,
        ],
        enable_cache=enable_cache,
        metadata_connection_config=metadata_connection_config,
        beam_pipeline_args=list(beam_pipeline_args),
    )
