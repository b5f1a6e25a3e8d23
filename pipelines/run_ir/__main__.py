"""The command: `python -m pipelines.run_ir JOB.json --root FOLDER`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import click
from rich.console import Console

from pipelines.kubeflow_v2 import parameters_file
from pipelines.run_ir import ir, runner
from pipelines.run_ir.steps import ForkedSteps, InstalledSteps, Steps

_STYLES = {"SUCCEEDED": "green", "SKIPPED": "yellow", "FAILED": "red", "NOT_TRIGGERED": "dim"}


@click.command(help="Run a compiled pipeline, JOB, on this machine as Kubeflow's containers would.")
@click.argument("job", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--root", type=click.Path(path_type=Path, file_okay=False), required=True, help="In place of the pipeline root."
)
@click.option("--parameter", "given", multiple=True, metavar="NAME=VALUE", help="A runtime parameter; may be repeated.")
@click.option(
    "--wheel",
    "python",
    type=click.Path(exists=True, path_type=Path),
    help="Interpreter of an environment with the wheel installed: every step is a process of its own there. Without it "
    "steps are forks of this process.",
)
def main(job: Path, root: Path, given: tuple[str, ...], python: Path | None) -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        compiled = ir.load(job)
        defaults = parameters_file(job)
        parameters = json.loads(defaults.read_text()) if defaults.exists() else {}
        parameters |= dict(_split(text) for text in given)
        result = runner.run_job(compiled, root, steps_of(python), parameters, show_task)
    except ValueError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(1)
    sys.exit(0 if result.succeeded else 1)


def _split(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"--parameter {text!r} has no value; write NAME=VALUE.")
    return name, value


def steps_of(python: Path | None) -> Steps:
    """How to run steps: from the environment of an interpreter, or without one as forks of this process."""
    return InstalledSteps(python.absolute()) if python else ForkedSteps()


def show_task(name: str, run: runner.TaskRun) -> None:
    """Prints what became of a task."""
    console = Console(highlight=False, soft_wrap=True)
    seconds = sum(step.seconds for step in run.steps)
    peak = max((step.peak_bytes for step in run.steps), default=0)
    figures = f"{seconds:6.1f} s  {peak / 1e6:5.0f} MB" if run.steps else " " * 18
    style = _STYLES[run.state]
    console.print(f"[{style}]{run.state:13}[/{style}] {figures}  {name}  [dim]{run.why}[/dim]")
    if run.state == "FAILED" and run.log is not None:
        for line in run.log.read_text(errors="replace").splitlines()[-15:]:
            console.print(f"    {line}", markup=False)
        console.print(f"    The whole log: {run.log}", markup=False)


if __name__ == "__main__":
    main()
