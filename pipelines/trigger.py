"""New data starts a run: `python -m pipelines.trigger --help`, and `submit_for_span` for whatever else notices it.

A span is complete when there is an empty file `_SUCCESS` in its folder, written last. Each complete span is submitted
under a name made of its numbers, so nothing has to be remembered: a trigger may look again, be told again, or run twice
at the same time.
"""

from __future__ import annotations

import dataclasses
import json
import posixpath
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import click

from pipelines import submit_options as common
from pipelines.compiled import (
    EXAMPLES_DIR,
    RANGE_CONFIG,
    SPAN_SPECS,
    CompiledPipeline,
    DataVersion,
    JobConflictError,
    ServiceError,
    Submission,
    Submitted,
    Target,
)

MARKER = "_SUCCESS"
DEFAULT_SPAN_PATTERN = "span-{SPAN}/*"


@dataclass(frozen=True)
class SpanFolder:
    """A span that is there in whole.

    Attributes:
        data: Its numbers.
        folder: Where its files are.
    """

    data: DataVersion
    folder: str


def submit_for_span(
    target: Target,
    pipeline: CompiledPipeline,
    data: DataVersion,
    *,
    pipeline_root: str,
    folder: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    labels: Mapping[str, str] | None = None,
    service_account: str | None = None,
    enable_caching: bool | None = None,
    attempt: int = 1,
) -> Submitted:
    """Submits the run for a span, or finds that it was: what every trigger calls in the end.

    Args:
        target: `vertex.Vertex` or `kubeflow_api.Kubeflow`.
        pipeline: The compiled pipeline.
        data: Which data.
        pipeline_root: Where artifacts go.
        folder: Where the files of the span are; needed where the pipeline takes no `range_config`, and given to it as
            `examples_dir` there.
        parameters: Runtime parameters that are not to have their defaults.
        labels: More labels.
        service_account: Who runs the steps.
        enable_caching: Of all steps; None leaves what was compiled.
        attempt: 2 or more to run again what failed.

    Raises:
        ValueError: Something of it is not valid.
        SecretParameterError: A value looks like a secret.
        JobConflictError: The span was submitted with other parameters.
        ServiceError: The service cannot be reached or refuses it.
    """
    return target.submit(
        submission_for_span(
            pipeline,
            SpanFolder(data, folder or ""),
            pipeline_root=pipeline_root,
            parameters=parameters,
            labels=labels,
            service_account=service_account,
            enable_caching=enable_caching,
            attempt=attempt,
        )
    )


def submission_for_span(
    pipeline: CompiledPipeline, span: SpanFolder, *, parameters: Mapping[str, Any] | None = None, **run: Any
) -> Submission:
    """The run for a span; see `submit_for_span`."""
    given = dict(parameters or {})
    if RANGE_CONFIG not in pipeline.parameter_types and span.folder:
        given[EXAMPLES_DIR] = span.folder
    return pipeline.submission(data=span.data, parameters=given, **run)


def complete_spans(examples_dir: str, pattern: str, marker: str = MARKER) -> list[SpanFolder]:
    """The spans that are there in whole, oldest first; of each the version that ExampleGen would take.

    Args:
        examples_dir: Folder with the spans.
        pattern: Files of one span below it, as in the pipeline's config.
        marker: File in the folder of a span, or of its version, that says that it is complete.

    Raises:
        ValueError: The pattern has no folder for each span, or a number in the name of a folder is not written as the
            pattern says.
    """
    from tfx.dsl.io import fileio

    folders = _folders(pattern)
    glob = SPAN_SPECS.sub("*", folders)
    marked = {posixpath.dirname(path) for path in fileio.glob(posixpath.join(examples_dir, glob, marker))}
    numbers = {n for folder in marked if (n := _number(examples_dir, folders, folder)) is not None}
    resolved = (_resolve(examples_dir, pattern, number) for number in sorted(numbers))
    # A newer version that is not complete yet is what ExampleGen would take, so the span has to wait for it.
    return [span for span in resolved if span.folder in marked]


def span_of_object(address: str, examples_dir: str, pattern: str, marker: str = MARKER) -> SpanFolder | None:
    """The complete span that a newly written file is the marker of; None if it is any other file.

    Args:
        address: Of the file, such as `gs://bucket/digits/span-7/_SUCCESS`, as an event names it.
        examples_dir: See `complete_spans`.
        pattern: See `complete_spans`.
        marker: See `complete_spans`.

    Raises:
        ValueError: As of `complete_spans`.
    """
    folder, _, name = address.rpartition("/")
    number = _number(examples_dir, _folders(pattern), folder) if name == marker else None
    if number is None:
        return None
    span = _resolve(examples_dir, pattern, number)
    return span if span.folder == folder else None  # of a version that is not the newest any more


def _resolve(examples_dir: str, pattern: str, number: int) -> SpanFolder:
    """What TFX's own driver would take for a span."""
    from tfx.components.example_gen import input_processor
    from tfx.proto import example_gen_pb2, range_config_pb2

    split = example_gen_pb2.Input.Split(name="all", pattern=pattern)
    static = range_config_pb2.StaticRange(start_span_number=number, end_span_number=number)
    processor = input_processor.FileBasedInputProcessor(
        examples_dir, [split], range_config_pb2.RangeConfig(static_range=static)
    )
    try:
        span, version = processor.resolve_span_and_version()
    except ValueError as error:
        raise ValueError(
            f"ExampleGen would not find span {number} in {examples_dir} with {pattern!r}: {error}. If its folder has "
            "leading zeros, say how many digits there are: {SPAN:4}."
        ) from None
    folder = processor.get_pattern_for_span_version(_folders(pattern), span, version)
    return SpanFolder(DataVersion(span, version), posixpath.join(examples_dir, folder))


def _folders(pattern: str) -> str:
    """The part of a pattern that names folders."""
    folders = posixpath.dirname(pattern)
    if not SPAN_SPECS.search(folders) or SPAN_SPECS.search(posixpath.basename(pattern)):
        raise ValueError(
            f"span_pattern={pattern!r} has no folder of its own for each span, so there is no place for a file that "
            f"says that a span is complete. Write spans into folders: {DEFAULT_SPAN_PATTERN!r}."
        )
    return folders


def _number(examples_dir: str, folders: str, folder: str) -> int | None:
    """The number of the span that a folder is of; None if it is of none."""
    from tfx.components.example_gen import utils

    regex, end = re.escape(examples_dir.rstrip("/")) + "/", 0
    for spec in SPAN_SPECS.finditer(folders):
        name = (spec[1] or spec[0].strip("{}")).lower()
        regex += re.escape(folders[end : spec.start()]) + rf"(?P<{name}>\d+)"
        end = spec.end()
    match = re.fullmatch(regex + re.escape(folders[end:]), folder)
    if match is None:
        return None
    if "span" in match.groupdict():
        return int(match["span"])
    return int(utils.date_to_span_number(int(match["yyyy"]), int(match["mm"]), int(match["dd"])))


@click.command(
    help="Submit a run for every new span that is complete, to Vertex AI (--project, --location) or to one's own "
    "Kubeflow Pipelines (--host).\n\nA span is complete when its folder holds the marker, an empty file written last. "
    "A span that was submitted before is not submitted again, whoever did it. Run it from a CronJob, or with --every "
    "as a service; with --object, for one event that a bucket sent."
)
@common.run_options
@common.cache_option
@click.option("--project", help="Vertex AI: project id or number.")
@click.option("--location", help="Vertex AI: region, such as europe-west4.")
@click.option("--host", help="Kubeflow Pipelines: address of the API.")
@click.option("--namespace", help="Kubeflow Pipelines: the user's namespace.")
@click.option(
    "--span-pattern",
    help="Files of one span below examples_dir.",
    show_default=f"that of the pipeline, or {DEFAULT_SPAN_PATTERN}",
)
@click.option("--marker", default=MARKER, show_default=True, help="File that says that a span is complete.")
@click.option(
    "--look-back",
    type=click.IntRange(min=1),
    default=7,
    show_default=True,
    help="How many of the newest complete spans to look at; older ones are never submitted.",
)
@click.option("--object", "address", help="Only look at the span whose marker this is: gs://bucket/span-7/_SUCCESS.")
@click.option(
    "--every", type=click.FloatRange(min=0, min_open=True), help="Look again after so many seconds, for ever."
)
@common.output_options
def main(
    project: str | None,
    location: str | None,
    host: str | None,
    namespace: str | None,
    span_pattern: str | None,
    marker: str,
    look_back: int,
    address: str | None,
    every: float | None,
    dry_run: bool,
    as_json: bool,
    **run_options: Any,
) -> None:
    with common.told():
        options = common.RunOptions(**run_options)
        target = None if dry_run else _target(project, location, host, namespace)
        if address and every:
            raise ValueError("--object is one event, and --every looks for ever; give one.")
        examples_dir = str(options.compiled.fill(options.parameters).get(EXAMPLES_DIR, ""))
        if not examples_dir:
            raise ValueError(f"The pipeline has no parameter {EXAMPLES_DIR}, so there is no folder to look at.")
        own = options.compiled.span_pattern
        if own and span_pattern not in (None, own):
            raise ValueError(
                f"--span-pattern {span_pattern!r}: the pipeline itself takes {own!r}; leave the option out."
            )
        pattern = own or span_pattern or DEFAULT_SPAN_PATTERN

        def look() -> list[SpanFolder]:
            if address:
                span = span_of_object(address, examples_dir, pattern, marker)
                return [span] if span else []
            return complete_spans(examples_dir, pattern, marker)[-look_back:]

        while True:
            try:
                _submit_all(target, options, look(), as_json)
            except ServiceError as error:
                if not every:
                    raise
                click.echo(f"Error: {error} Looking again in {every:g} s.", err=True)
            if not every:
                return
            time.sleep(every)


def _submit_all(target: Target | None, options: common.RunOptions, spans: Iterable[SpanFolder], as_json: bool) -> None:
    """Submits each span; one that was submitted with other parameters does not keep the others from it."""
    conflicts: list[str] = []
    for span in spans:
        submission = submission_for_span(options.compiled, span, **options.run)
        if target is None:
            _show(as_json, submission.summary(), common.preview(submission))
            continue
        try:
            submitted = target.submit(submission)
        except JobConflictError as error:
            conflicts.append(str(error))
            continue
        _show(as_json, dataclasses.asdict(submitted), str(submitted))
    if conflicts:
        raise JobConflictError("\n".join(conflicts))


def _show(as_json: bool, values: dict[str, Any], text: str) -> None:
    """A span, and with JSON a line for each: there may be several, and no end of them."""
    click.echo(json.dumps(values, sort_keys=True) if as_json else text)


def _target(project: str | None, location: str | None, host: str | None, namespace: str | None) -> Target:
    if bool(host) == bool(project or location) or bool(project) != bool(location):
        raise ValueError(
            "Say where to submit: --project and --location for Vertex AI, or --host for Kubeflow Pipelines."
        )
    if namespace and not host:
        raise ValueError(f"--namespace {namespace} goes with --host; Vertex AI has none.")
    if host:
        from pipelines.kubeflow_api import Kubeflow

        return Kubeflow(host, namespace)
    from pipelines.vertex import Vertex

    return Vertex(str(project), str(location))


if __name__ == "__main__":
    main()
