"""The digits pipeline, compiled and run here: `make run-ir`, or `python -m pipelines.run_ir.digits`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from pipelines import config_file, kubeflow_v2
from pipelines.config_file import PipelineConfig
from pipelines.run_ir import ir, runner
from pipelines.run_ir.__main__ import show_task, steps_of


def local_config(workspace: Path) -> PipelineConfig:
    """The digits pipeline's file with the addresses of one local folder in place of those of a bucket."""
    from pipelines.digits import data

    workspace = workspace.resolve()
    data.write_examples(workspace / "examples")
    destination = {"type": "filesystem", "base_directory": str(workspace / "releases")}
    local = {
        "pipeline_root": str(workspace / "root"),
        "examples_dir": str(workspace / "examples"),
        "destinations": (destination,),
    }
    return config_file.load(kubeflow_v2.DEFAULT_CONFIG).model_copy(update=local)


def run(
    workspace: Path, config: PipelineConfig, python: Path | None = None, schema_version: str = "2.1", **parameters: str
) -> runner.JobRun:
    """Compiles a pipeline and runs what came out.

    Args:
        workspace: Local folder for everything.
        config: The pipeline.
        python: Interpreter of an environment with the wheel; None forks this process.
        schema_version: Of the compiled job.
        **parameters: Runtime parameters to set otherwise.
    """
    output = workspace / "job.json"
    kubeflow_v2.compile_pipeline(config, output, schema_version)
    values = {**kubeflow_v2.default_parameters(config), **parameters}
    return runner.run_job(ir.load(output), workspace / "root", steps_of(python), values, show_task)


@click.command(help=__doc__)
@click.option(
    "--root", type=click.Path(path_type=Path, file_okay=False), default=Path("run-ir-output"), show_default=True
)
@click.option(
    "--wheel", "python", type=click.Path(exists=True, path_type=Path), help="As for python -m pipelines.run_ir."
)
@click.option("--schema", type=click.Choice(kubeflow_v2.SCHEMA_VERSIONS), default="2.1", show_default=True)
def main(root: Path, python: Path | None, schema: str) -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    result = run(root, local_config(root), python, schema)
    sys.exit(0 if result.succeeded else 1)


if __name__ == "__main__":
    main()
