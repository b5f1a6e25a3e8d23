"""Runs the digits pipeline on TFX's BeamDagRunner with ML Metadata in SQLite: `python -m pipelines.beam`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from tfx.orchestration.beam.beam_dag_runner import BeamDagRunner
from tfx.orchestration.metadata import sqlite_metadata_connection_config

from pipelines.digits import pipeline
from pipelines.local import metadata_path


def run(workspace: Path, **changes: Any) -> None:
    """Runs the pipeline with Beam scheduling its nodes; everything it writes lies below `workspace`."""
    workspace = workspace.resolve()
    workspace.mkdir(parents=True, exist_ok=True)
    metadata = sqlite_metadata_connection_config(str(metadata_path(workspace)))
    BeamDagRunner().run(pipeline.create(workspace, metadata_connection_config=metadata, **changes))


@click.command(help=__doc__)
@click.option("--output", type=click.Path(path_type=Path), default=Path("demo-output"), show_default=True)
def main(output: Path) -> None:
    run(output)


if __name__ == "__main__":
    main()
