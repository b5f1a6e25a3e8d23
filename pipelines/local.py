"""Runs the digits pipeline on TFX's LocalDagRunner: `python -m pipelines.local`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from tfx.orchestration.local.local_dag_runner import LocalDagRunner

from pipelines.digits import pipeline


def run(workspace: Path, **changes: Any) -> None:
    """Runs the pipeline node by node in this process. Everything it writes lies below `workspace`."""
    LocalDagRunner().run(pipeline.create(workspace, **changes))


@click.command(help=__doc__)
@click.option("--output", type=click.Path(path_type=Path), default=Path("demo-output"), show_default=True)
def main(output: Path) -> None:
    run(output)


if __name__ == "__main__":
    main()
