"""Runs the digits pipeline on TFX's LocalDagRunner with ML Metadata in SQLite: `python -m pipelines.local`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from tfx.orchestration.local.local_dag_runner import LocalDagRunner
from tfx.orchestration.metadata import sqlite_metadata_connection_config

from pipelines.digits import pipeline


def run(workspace: Path, **changes: Any) -> None:
    """Runs the pipeline in this process; everything it writes lies below `workspace`."""
    workspace = workspace.resolve()
    workspace.mkdir(parents=True, exist_ok=True)
    metadata = sqlite_metadata_connection_config(str(metadata_path(workspace)))
    LocalDagRunner().run(pipeline.create(workspace, metadata_connection_config=metadata, **changes))


def metadata_path(workspace: Path) -> Path:
    """The SQLite file that holds lineage and cache."""
    return workspace / "metadata.sqlite"


@click.command(help=__doc__)
@click.option("--output", type=click.Path(path_type=Path), default=Path("demo-output"), show_default=True)
def main(output: Path) -> None:
    run(output)


if __name__ == "__main__":
    main()
