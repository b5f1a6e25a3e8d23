"""Compiles a pipeline for Kubeflow Pipelines and Vertex AI: `python -m pipelines.kubeflow_v2 --output digits.json`.

What comes out is a PipelineJob in JSON and, beside it, `digits.parameters.json` with the runtime parameters: the job
itself keeps their types and drops their defaults. Compiling reads the config and nothing else: no network, no
credentials, and nothing is written below the pipeline root.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click
from tfx.orchestration.data_types import RuntimeParameter
from tfx.orchestration.pipeline import Pipeline

from pipelines import config_file, configs, mobile
from pipelines.compiled import EXAMPLES_DIR, RANGE_CONFIG
from pipelines.compiled import parameters_file as parameters_file
from pipelines.config_file import PipelineConfig
from tfx_mobile import ProductionModel, __version__
from tfx_mobile.quantization_evaluator.executor import PRODUCTION_KEY
from tfx_mobile.release_store.destinations import parse_destinations

DEFAULT_CONFIG = configs.ROOT / "digits" / "kubeflow.yaml"
#: How users of this module get the compiler; TFX itself hides that it is missing.
EXTRA = "tfx-mobile[kubeflow]"

SCHEMA_VERSIONS = ("2.1", "2.0")
#: What ExampleGen does without a RangeConfig; a runtime parameter must have some value.
NEWEST_SPAN = '{"rolling_range": {"num_spans": 1}}'

_EVALUATOR = "tfx_mobile.quantization_evaluator.executor.Executor"


def create(config: PipelineConfig) -> Pipeline:
    """The pipeline a config describes, with its runtime parameters."""
    destinations = parse_destinations(config.destinations)
    production = None
    if config.compare_with_production:
        production = ProductionModel(destination=destinations[0], model_name=config.model_name, channel=config.channel)
    pipeline = mobile.create_pipeline(
        pipeline_name=config.pipeline_name,
        pipeline_root=config.pipeline_root,
        examples_dir=RuntimeParameter(name=EXAMPLES_DIR, ptype=str, default=config.examples_dir),
        preprocessing_fn=config.preprocessing_fn,
        run_fn=config.run_fn,
        train_steps=config.train_steps,
        float_eval_config=configs.eval_config(config.float_eval_config),
        mobile_eval_config=configs.eval_config(config.mobile_eval_config),
        recipes=config.recipes,
        calibration=config.calibration,
        budget=config.budget,
        model_name=config.model_name,
        channel=RuntimeParameter(name="channel", ptype=str, default=config.channel),
        destinations=destinations,
        production=production,
        span_pattern=config.span_pattern,
        range_config=RuntimeParameter(name=RANGE_CONFIG, ptype=str) if config.span_pattern else None,
        compare_with_last_blessed=config.compare_with_last_blessed,
        conditional_push=config.conditional_push,
        on_not_blessed=config.on_not_blessed,
        # The runner by its name: a DirectRunner downloads another one from GitHub while a step runs, and uses that. The
        # image is named so that TFX does not build a package of itself in every step, for workers that there are not.
        beam_pipeline_args=("--runner=FnApiRunner", f"--sdk_container_image={image_of(config)}"),
    )
    _give_resources(pipeline, config)
    return pipeline


def default_parameters(config: PipelineConfig) -> dict[str, Any]:
    """The runtime parameters of the pipeline and their values unless told otherwise."""
    parameters = {EXAMPLES_DIR: config.examples_dir, "channel": config.channel}
    if config.span_pattern:
        parameters[RANGE_CONFIG] = NEWEST_SPAN
    return parameters


def image_of(config: PipelineConfig) -> str:
    """The image of every step, its tag filled in."""
    return config.image.replace("{version}", __version__)


def compile_pipeline(config: PipelineConfig, output: Path, schema_version: str = "2.1") -> dict[str, Any]:
    """Writes `output`, a PipelineJob in JSON, and its runtime parameters beside it; returns the job.

    Raises:
        ValueError: `output` does not end in `.json`, as YAML would lose the pipeline root.
        RuntimeError: The compiler is not installed.
    """
    if output.suffix != ".json":
        raise ValueError(f"--output {output} must end in .json: YAML would lose pipeline root and parameters.")
    try:
        from tfx.orchestration.kubeflow.v2 import kubeflow_v2_dag_runner
    except ImportError as error:
        raise RuntimeError(f"TFX's Kubeflow compiler is not installed ({error}). Install {EXTRA}.") from None

    runner_config = kubeflow_v2_dag_runner.KubeflowV2DagRunnerConfig(
        default_image=image_of(config), use_pipeline_spec_2_1=schema_version == "2.1"
    )
    runner = kubeflow_v2_dag_runner.KubeflowV2DagRunner(config=runner_config, output_filename=str(output))
    if config.alerts_dir is not None:
        # Needs the compiler, too, which a local run does without.
        from tfx.orchestration.kubeflow.decorators import FinalStatusStr

        from pipelines.alerts import Alert

        runner.set_exit_handler(Alert(final_status=FinalStatusStr(), alerts_dir=config.alerts_dir))
    output.parent.mkdir(parents=True, exist_ok=True)
    job: dict[str, Any] = runner.run(create(config), write_out=False)
    hand_parameters_on(job)
    keep_comparisons_out_of_the_cache(job)
    output.write_text(json.dumps(job, indent=2, sort_keys=True) + "\n")
    parameters_file(output).write_text(json.dumps(default_parameters(config), indent=2, sort_keys=True) + "\n")
    return job


def hand_parameters_on(job: dict[str, Any]) -> None:
    """Gives runtime parameters to the tasks below an exit handler, in place.

    With an exit handler, TFX's compiler moves all other tasks into one that holds them, and forgets to pass on what
    they read: a task would ask its parent for a parameter that it was not given. Without an exit handler this changes
    nothing.
    """
    spec = job["pipelineSpec"]
    holder = spec["root"]["dag"]["tasks"].get("tfx-dag")
    parameters = spec["root"].get("inputDefinitions", {}).get("parameters", {})
    if holder is None or not parameters:
        return
    spec["components"]["tfx-dag"]["inputDefinitions"] = {"parameters": parameters}
    holder["inputs"] = {"parameters": {name: {"componentInputParameter": name} for name in parameters}}


def keep_comparisons_out_of_the_cache(job: dict[str, Any]) -> None:
    """Has QuantizationEvaluator run every time if it compares with the model in production, in place.

    What the channel names today is no input that a cache could see. Where TFX runs drivers, ours tells the cache;
    Kubeflow runs none, and would answer with the verdict of an earlier day.
    """
    spec = job["pipelineSpec"]
    holder = spec["components"].get("tfx-dag", spec["root"])
    for name, task in holder["dag"]["tasks"].items():
        executor = spec["deploymentSpec"]["executors"].get(f"{name}_executor", {})
        if _EVALUATOR not in executor.get("container", {}).get("args", ()):
            continue
        value = task["inputs"]["parameters"].get(PRODUCTION_KEY, {}).get("runtimeValue", {})
        if "null" not in (value.get("constant"), value.get("constantValue", {}).get("stringValue")):
            task.pop("cachingOptions", None)


def _give_resources(pipeline: Pipeline, config: PipelineConfig) -> None:
    if not config.resources:
        return
    from kfp.pipeline_spec import pipeline_spec_pb2

    by_id = {component.id: component for component in pipeline.components}
    for component_id, resources in config.resources.items():
        if component_id not in by_id:
            raise ValueError(f"resources.{component_id}: there is no such component; there are: {', '.join(by_id)}.")
        spec = pipeline_spec_pb2.PipelineDeploymentConfig.PipelineContainerSpec.ResourceSpec(
            cpu_limit=resources.cpu, memory_limit=resources.memory_gb
        )
        by_id[component_id].with_platform_config(spec)


@click.command(help=__doc__)
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), required=True, help="The job, *.json.")
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path, dir_okay=False),
    default=DEFAULT_CONFIG,
    show_default="the digits pipeline",
    help="The pipeline's file.",
)
@click.option("--schema", type=click.Choice(SCHEMA_VERSIONS), default="2.1", show_default=True, help="Spec version.")
def main(output: Path, config_path: Path, schema: str) -> None:
    try:
        job = compile_pipeline(config_file.load(config_path), output, schema)
    except (ValueError, RuntimeError) as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(1)
    steps = len(job["pipelineSpec"]["deploymentSpec"]["executors"])
    click.echo(f"{output}: {steps} steps, schema {job['pipelineSpec']['schemaVersion']}.")
    click.echo(f"{parameters_file(output)}: {', '.join(json.loads(parameters_file(output).read_text()))}.")


if __name__ == "__main__":
    main()
