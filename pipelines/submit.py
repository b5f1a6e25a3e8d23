"""Submits one run of a compiled pipeline to Vertex AI: `python -m pipelines.submit --help`.

The same data gives the same job id, and a job that is there already is success: whatever calls this may do so as often
as it likes.
"""

from __future__ import annotations

from typing import Any

import click

from pipelines import submit_options as common


@click.command(
    help="Submit one run of a compiled pipeline to Vertex AI Pipelines.\n\nEvery runtime parameter is filled from the "
    "file beside the job and from --parameter, and checked before anything is sent. The job id is made of the span, or "
    "without one of everything the run is given, so that submitting twice runs once; --attempt runs again what failed."
)
@common.run_options
@common.cache_option
@common.vertex_options
@common.data_options("The span of the data: becomes part of the job id, and ExampleGen takes it.")
@common.output_options
def main(project: str, location: str, **options: Any) -> None:
    from pipelines.vertex import Vertex, check_submission

    common.submit_run(lambda: Vertex(project, location), check_submission, **options)


if __name__ == "__main__":
    main()
