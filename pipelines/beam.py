"""Runs the digits pipeline on TFX's BeamDagRunner: `python -m pipelines.beam`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from apache_beam.options.pipeline_options import StandardOptions
from tfx.orchestration.beam.beam_dag_runner import BeamDagRunner

from pipelines.digits import pipeline


def run(workspace: Path, **changes: Any) -> None:
    """Runs the pipeline in this process, scheduled by Beam. Everything it writes lies below `workspace`."""
    # The scheduling pipeline is TFX's own and takes no arguments; see `pipelines.mobile` for why it names a runner.
    StandardOptions.DEFAULT_RUNNER = "FnApiRunner"
    BeamDagRunner().run(pipeline.create(workspace, **changes))


@click.command(help=__doc__)
@click.option("--output", type=click.Path(path_type=Path), default=Path("demo-output"), show_default=True)
def main(output: Path) -> None:
    run(output)


if __name__ == "__main__":
    main()
