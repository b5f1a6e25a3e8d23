"""What the commands that submit and schedule have in common: options, and how a mistake is told."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import click

from pipelines import compiled, config_file
from pipelines.config_file import PipelineConfig
from tfx_mobile.errors import TFXMobileError

_F = TypeVar("_F", bound=Callable[..., Any])

#: What `--config` gives the commands.
_CONFIG_HELP = (
    "The pipeline's file: gives the pipeline root, the labels, the service account and the schedule unless options say "
    "otherwise."
)


def run_options(command: _F) -> _F:
    """The options that say what is run, whatever the service."""
    options = (
        click.option(
            "--job",
            "job_path",
            type=click.Path(path_type=Path, dir_okay=False),
            required=True,
            help="The compiled pipeline, *.json; its runtime parameters are beside it.",
        ),
        click.option("--config", "config_path", type=click.Path(path_type=Path, dir_okay=False), help=_CONFIG_HELP),
        click.option("--pipeline-root", help="Where artifacts go, such as gs://bucket/root."),
        click.option(
            "--parameter",
            "parameters",
            multiple=True,
            metavar="NAME=VALUE",
            help="A runtime parameter; may be repeated.",
        ),
        click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="A label; may be repeated."),
        click.option("--service-account", help="Who runs the steps."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def cache_option(command: _F) -> _F:
    """The option that switches the service's cache off."""
    return click.option("--no-cache", is_flag=True, help="Run every step, also if nothing changed.")(command)


def vertex_options(command: _F) -> _F:
    """The options that say where Vertex AI is."""
    command = click.option("--location", required=True, help="Region, such as europe-west4.")(command)
    return click.option("--project", required=True, help="Project id or number.")(command)


def kubeflow_options(command: _F) -> _F:
    """The options that say where Kubeflow Pipelines is."""
    command = click.option(
        "--namespace", help="The user's namespace; only where Kubeflow Pipelines serves several users."
    )(command)
    return click.option("--host", required=True, help="Address of the API, such as http://127.0.0.1:8888.")(command)


def output_options(command: _F) -> _F:
    """The options that every command ends with."""
    command = click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)
    return click.option("--dry-run", is_flag=True, help="Check everything that needs no service, and send nothing.")(
        command
    )


def data_options(span_help: str) -> Callable[[_F], _F]:
    """The options that say which data a run is of, and so what it is called."""

    def decorate(command: _F) -> _F:
        options = (
            click.option("--span", type=int, help=span_help),
            click.option("--version", type=int, help="The version of the span."),
            click.option("--job-id", help="A name for the run, in place of one made of its data."),
            click.option(
                "--attempt", type=int, default=1, show_default=True, help="2 or more runs the same data again."
            ),
        )
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


class RunOptions:
    """What `run_options` and `cache_option` gave.

    Args:
        job_path: Of the compiled pipeline.
        config_path: Of the pipeline's file.
        pipeline_root: Where artifacts go.
        parameters: NAME=VALUE.
        labels: KEY=VALUE.
        service_account: Who runs the steps.
        no_cache: Whether every step is to run.

    Raises:
        ValueError: A file or an option is not valid.
    """

    def __init__(
        self,
        job_path: Path,
        config_path: Path | None,
        pipeline_root: str | None,
        parameters: tuple[str, ...],
        labels: tuple[str, ...],
        service_account: str | None,
        no_cache: bool,
    ) -> None:
        self.compiled = compiled.load(job_path)
        self.config: PipelineConfig | None = config_file.load(config_path) if config_path else None
        if self.config is not None and self.config.pipeline_name != self.compiled.name:
            raise ValueError(
                f"{config_path} is of the pipeline {self.config.pipeline_name}, {job_path} of {self.compiled.name}. "
                "Give the two of one pipeline."
            )
        self.pipeline_root = pipeline_root or (self.config.pipeline_root if self.config else None)
        self.parameters: dict[str, Any] = dict(compiled.parse_pairs("--parameter", parameters))
        self.labels = {**(self.config.labels if self.config else {}), **compiled.parse_pairs("--label", labels)}
        self.service_account = service_account or (self.config.service_account if self.config else None)
        #: None leaves what was compiled.
        self.enable_caching = False if no_cache else None

    @property
    def run(self) -> dict[str, Any]:
        """What every run is given beside its data, as arguments of `CompiledPipeline.submission`.

        Raises:
            ValueError: There is no pipeline root.
        """
        if not self.pipeline_root:
            raise ValueError("There is no pipeline root: give --pipeline-root gs://bucket/root, or --config.")
        return {
            "pipeline_root": self.pipeline_root,
            "parameters": self.parameters,
            "labels": self.labels,
            "service_account": self.service_account,
            "enable_caching": self.enable_caching,
        }


def data_version(span: int | None, version: int | None) -> compiled.DataVersion | None:
    """What `--span` and `--version` gave.

    Raises:
        ValueError: There is a version and no span.
    """
    if span is None and version is not None:
        raise ValueError(f"--version {version} is a version of a span; give --span, too.")
    return None if span is None else compiled.DataVersion(span, version)


@contextlib.contextmanager
def told() -> Iterator[None]:
    """Ends the command with a message for what the user can do something about."""
    try:
        yield
    except (ValueError, TFXMobileError) as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(1)


def show(as_json: bool, values: dict[str, Any], text: str) -> None:
    """Prints what was done."""
    click.echo(json.dumps(values, indent=2, sort_keys=True) if as_json else text)


def submit_run(
    target: Callable[[], compiled.Target],
    check: Callable[[compiled.Submission], None],
    *,
    span: int | None,
    version: int | None,
    job_id: str | None,
    attempt: int,
    dry_run: bool,
    as_json: bool,
    **run_options: Any,
) -> None:
    """Carries out a command that submits one run.

    Args:
        target: Opens the service; not called for a dry run.
        check: Raises a ValueError for what the service would not take.
        span: Of the data.
        version: Of the span.
        job_id: A name for the run, in place of one made of its data.
        attempt: Which one at this data.
        dry_run: Whether to send nothing.
        as_json: Whether to print JSON.
        **run_options: See RunOptions.
    """
    with told():
        options = RunOptions(**run_options)
        submission = options.compiled.submission(
            data=data_version(span, version), job_id=job_id, attempt=attempt, **options.run
        )
        check(submission)
        if dry_run:
            show(as_json, submission.summary(), preview(submission))
            return
        submitted = target().submit(submission)
        show(as_json, dataclasses.asdict(submitted), str(submitted))


def lines_of(values: dict[str, Any]) -> str:
    """A line for each value."""
    return "\n".join(f"  {name}: {value}" for name, value in values.items())


def preview(submission: compiled.Submission) -> str:
    """What would be sent, for people."""
    return f"{submission.job_id}: would be submitted.\n{lines_of(submission.summary())}"
