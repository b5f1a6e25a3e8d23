"""Has Vertex AI run a compiled pipeline by the clock: `python -m pipelines.schedule --help`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from pipelines import compiled, cron, schedules
from pipelines import submit_options as common


@click.command(
    help="Create or update the schedule of a compiled pipeline on Vertex AI Pipelines.\n\nThere is one schedule per "
    "name; the same command twice changes nothing. Another pipeline, parameter or root needs a schedule of its own at "
    "the service: the old one is paused, the new one created, the old one deleted. A run that is due while one is "
    "still going is queued."
)
@common.run_options
@common.cache_option
@common.vertex_options
@click.option("--name", help="Name of the schedule.", show_default="the pipeline's name")
@click.option(
    "--cron", "cron_line", help="When, with a time zone: 'TZ=Europe/Paris 0 3 * * *'.", show_default="that of --config"
)
@click.option("--pause", is_flag=True, help="Only pause the schedule; the command without it starts it again.")
@click.option("--delete", is_flag=True, help="Only delete the schedule.")
@common.output_options
def main(
    project: str,
    location: str,
    name: str | None,
    cron_line: str | None,
    pause: bool,
    delete: bool,
    dry_run: bool,
    as_json: bool,
    **run_options: Any,
) -> None:
    with common.told():
        if pause and delete:
            raise ValueError("--pause and --delete are two things; give one.")
        options = common.RunOptions(**run_options)
        name = schedules.check_name(name or options.compiled.name)
        from pipelines.vertex import Vertex, VertexSchedules, check_submission

        if pause or delete:
            stop(lambda: VertexSchedules(Vertex(project, location), name), name, delete, dry_run, as_json)
            return
        submission, when, digest = wanted(options, cron_line)
        check_submission(submission)
        values = {**submission.summary(), "schedule": name, "cron": str(when)}
        del values["job_id"]  # the service makes one for each run
        done = "would be created or updated"
        if not dry_run:
            runs = max_concurrent_runs(options)
            done = schedules.ensure(VertexSchedules(Vertex(project, location), name, submission, when, runs), digest)
        common.show(as_json, {**values, "done": done}, f"{name}: {done}.\n{common.lines_of(values)}")


def wanted(options: common.RunOptions, cron_line: str | None = None) -> tuple[compiled.Submission, cron.Cron, str]:
    """What each run is given, when, and the digest of all that cannot be changed in a schedule.

    Raises:
        ValueError: Something of it is not valid.
    """
    schedule = options.config.schedule if options.config else None
    line = cron_line or (schedule.cron if schedule else None)
    if not line:
        raise ValueError("There is no cron line: give --cron 'TZ=Europe/Paris 0 3 * * *', or --config with a schedule.")
    when = cron.parse(line)
    submission = options.compiled.submission(**options.run)
    digest = compiled.digest_of(
        [
            submission.spec,
            submission.parameters,
            submission.labels,
            submission.pipeline_root,
            submission.service_account,
        ]
    )
    return compiled.with_labels(submission, **{compiled.SCHEDULE_LABEL: digest}), when, digest


def max_concurrent_runs(options: common.RunOptions) -> int:
    """How many runs may overlap; 1 unless the config says otherwise."""
    return options.config.schedule.max_concurrent_runs if options.config and options.config.schedule else 1


def stop(open_: Callable[[], schedules.Schedules], name: str, delete: bool, dry_run: bool, as_json: bool) -> None:
    """Pauses or deletes what there is of a name, and says what was done; a dry run asks no service."""
    if dry_run:
        done = f"would be {'deleted' if delete else 'paused'}"
    elif delete:
        done = "deleted" if schedules.delete_all(open_()) else "nothing to delete"
    else:
        done = "paused" if schedules.pause_all(open_()) else "nothing to pause"
    common.show(as_json, {"schedule": name, "done": done}, f"{name}: {done}.")


if __name__ == "__main__":
    main()
