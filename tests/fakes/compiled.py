"""Pipelines compiled for Kubeflow in a test."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipelines.run_ir import ir


def compile_pipeline(
    file: Path, components: Sequence[Any], *, schema: str = "2.1", exit_handler: Any = None, name: str = "small"
) -> dict[str, Any]:
    """Compiles components as TFX does by itself, and returns what is in the file."""
    from tfx.orchestration.kubeflow.v2 import kubeflow_v2_dag_runner as kubeflow
    from tfx.orchestration.pipeline import Pipeline

    config = kubeflow.KubeflowV2DagRunnerConfig(default_image="image", use_pipeline_spec_2_1=schema == "2.1")
    runner = kubeflow.KubeflowV2DagRunner(config=config, output_filename=str(file))
    if exit_handler is not None:
        runner.set_exit_handler(exit_handler)
    runner.run(Pipeline(name, str(file.parent / "root"), components=list(components)))
    job: dict[str, Any] = json.loads(file.read_text())
    return job


def load(file: Path, components: Sequence[Any], **options: Any) -> ir.Job:
    """The same, as something to run."""
    compile_pipeline(file, components, **options)
    return ir.load(file)
