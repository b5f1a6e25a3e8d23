"""The digits pipeline, compiled by the real compiler as a test wants it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipelines import compiled, config_file, kubeflow_v2

ROOT = "gs://example-pipelines/root"


def compile_digits(output: Path, schema: str = "2.1", **changes: Any) -> compiled.CompiledPipeline:
    """Compiles the digits pipeline with other values in its config."""
    config = config_file.load(kubeflow_v2.DEFAULT_CONFIG).model_copy(update=changes)
    kubeflow_v2.compile_pipeline(config, output, schema)
    return compiled.load(output)


def with_spans(output: Path, schema: str = "2.1", **changes: Any) -> compiled.CompiledPipeline:
    """The same with spans."""
    return compile_digits(output, schema, span_pattern="span-{SPAN}/*", **changes)


def for_own_cluster(output: Path, **changes: Any) -> compiled.CompiledPipeline:
    """The same as Kubeflow Pipelines can run it."""
    return compile_digits(output, compare_with_last_blessed=False, **changes)
