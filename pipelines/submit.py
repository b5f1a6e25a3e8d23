"""Submits one run of a compiled pipeline to Vertex AI: `python -m pipelines.submit --help`.

The same data gives the same job id, and a job that is there already is success: whatever calls this may do so as often
as it likes.
"""

from __future__ import annotations

import dataclasses
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
@click.option("--span", type=int, help="The span of the data: becomes part of the job id, and ExampleGen takes it.")
@click.option("--version", type=int, help="The version of the span.")
@click.option("--job-id", help="A name for the run, in place of one made of its data.")
@click.option("--attempt", type=int, default=1, show_default=True, help="2 or more runs the same data again.")
@common.output_options
def main(
    project: str,
    location: str,
    span: int | None,
    version: int | None,
    job_id: str | None,
    attempt: int,
    dry_run: bool,
    as_json: bool,
    **run_options: Any,
) -> None:
    with common.told():
        options = common.RunOptions(**run_options)
        submission = options.compiled.submission(
            data=common.data_version(span, version), job_id=job_id, attempt=attempt, **options.run
        )
        from pipelines.vertex import Vertex, check_submission

        check_submission(submission)
        if dry_run:
            common.show(as_json, submission.summary(), common.preview(submission))
            return
        submitted = Vertex(project, location).submit(submission)
        common.show(as_json, dataclasses.asdict(submitted), str(submitted))


if __name__ == "__main__":
    main()
