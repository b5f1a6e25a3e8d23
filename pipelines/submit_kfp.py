"""Submits or schedules a compiled pipeline on one's own Kubeflow Pipelines: `python -m pipelines.submit_kfp --help`."""

from __future__ import annotations

from typing import Any

import click

from pipelines import compiled, cron, schedules
from pipelines import submit_options as common
from pipelines.schedule import max_concurrent_runs, stop, wanted


@click.group(
    help="Run a compiled pipeline on one's own Kubeflow Pipelines, once or by the clock.\n\nParameters are filled "
    "and checked as for Vertex AI. What TFX compiles and Kubeflow Pipelines does not run is refused before anything is "
    "sent."
)
def main() -> None:
    pass


@main.command(
    help="Submit one run. The same data, or without --span the same parameters, give the same name; a run of that name "
    "that is there already is success."
)
@common.run_options
@common.cache_option
@common.kubeflow_options
@common.data_options("The span of the data, whose folder is --parameter examples_dir=...")
@common.output_options
def run(host: str, namespace: str | None, **options: Any) -> None:
    from pipelines.kubeflow_api import Kubeflow, check_submission

    common.submit_run(lambda: Kubeflow(host, namespace), check_submission, **options)


@main.command(
    help="Create or replace the recurring run of a name.\n\nEvery step runs anew: the service's cache looks at "
    "parameters and not at the data, and would answer the second run with the first one's examples."
)
@common.run_options
@common.kubeflow_options
@click.option("--name", help="Name of the recurring run.", show_default="the pipeline's name")
@click.option(
    "--cron", "cron_line", help="When, with a time zone: 'TZ=UTC 0 3 * * *'.", show_default="that of --config"
)
@click.option(
    "--cluster-time-zone",
    default="UTC",
    show_default=True,
    help="CRON_SCHEDULE_TIMEZONE of the cluster. The service has one time zone for everybody; another one is refused.",
)
@click.option("--pause", is_flag=True, help="Only pause the recurring run.")
@click.option("--delete", is_flag=True, help="Only delete the recurring run.")
@common.output_options
def schedule(
    host: str,
    namespace: str | None,
    name: str | None,
    cron_line: str | None,
    cluster_time_zone: str,
    pause: bool,
    delete: bool,
    dry_run: bool,
    as_json: bool,
    **run_options: Any,
) -> None:
    with common.told():
        if pause and delete:
            raise ValueError("--pause and --delete are two things; give one.")
        options = common.RunOptions(**run_options, no_cache=True)
        name = schedules.check_name(name or options.compiled.name)
        from pipelines.kubeflow_api import Kubeflow, RecurringRuns, check_submission, recurring_run

        if pause or delete:
            stop(
                lambda: RecurringRuns(Kubeflow(host, namespace), options.compiled.name, name),
                name,
                delete,
                dry_run,
                as_json,
            )
            return
        submission, when, digest = wanted(options, cron_line)
        check_submission(submission)
        _check_time_zone(when, cluster_time_zone)
        runs = max_concurrent_runs(options)
        digest = compiled.digest_of([digest, when.fields, runs])
        values = {**submission.summary(), "schedule": name, "cron": str(when)}
        del values["job_id"]  # the service names each run
        done = "would be created or replaced"
        if not dry_run:
            kubeflow = Kubeflow(host, namespace)
            body = recurring_run(kubeflow.models, name, submission, when, runs, digest)
            done = schedules.ensure(RecurringRuns(kubeflow, options.compiled.name, name, body), digest)
        common.show(as_json, {**values, "done": done}, f"{name}: {done}.\n{common.lines_of(values)}")


def _check_time_zone(when: cron.Cron, cluster_time_zone: str) -> None:
    if when.time_zone != cluster_time_zone:
        raise ValueError(
            f"The cron line is in {when.time_zone}, and the cluster counts in {cluster_time_zone}: Kubeflow Pipelines "
            f"takes no time zone with a recurring run. Write the line in {cluster_time_zone}, or set "
            "CRON_SCHEDULE_TIMEZONE on the cluster and say so with --cluster-time-zone."
        )


if __name__ == "__main__":
    main()
