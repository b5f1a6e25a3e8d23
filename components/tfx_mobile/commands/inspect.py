"""`tfx-mobile inspect FILE`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from tfx_mobile.commands.files import read_file
from tfx_mobile.errors import ModelFileError, RecipeError


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document with everything.")
@click.option("--tensors", "all_tensors", is_flag=True, help="List all tensors, not only inputs and outputs.")
@click.option(
    "--profile",
    "profiles",
    multiple=True,
    metavar="NAME",
    help="Compatibility profile to check, such as litert>=2.14.0; may be repeated. Default: all.",
)
def inspect(file: Path, as_json: bool, all_tensors: bool, profiles: tuple[str, ...]) -> None:
    """Check a .tflite FILE and show what it is.

    The file's structure is checked first, then it is loaded and run once in a process of its own. The exit code is 1 if
    it fails either; what is known of it is still shown.
    """
    # Imported here: reading a file needs the flatbuffer schema, which --help does not.
    from tfx_mobile import inspection_view
    from tfx_mobile.records import Failure, InspectionRecord, sha256_of
    from tfx_mobile.tflite.file_report import inspect_file
    from tfx_mobile.tflite.preflight import preflight
    from tfx_mobile.tflite.profiles import parse_profiles

    try:
        names = parse_profiles(profiles or None)
    except RecipeError as error:
        raise click.BadParameter(str(error), param_hint="--profile") from None
    data = read_file(file)
    try:
        record = inspect_file(data, names)
    except ModelFileError as error:
        advice = "Do not ship this file."
        record = InspectionRecord(
            size_bytes=len(data), failure=Failure(code="corrupt", message=str(error), advice=advice)
        )
    else:
        failure = preflight(file, sha256=sha256_of(data))
        record = record.model_copy(update={"failure": failure})
    if as_json:
        # Escaped to ASCII: what a file calls its tensors must not reach a terminal as control sequences.
        click.echo(json.dumps(json.loads(record.to_json())))
    elif record.file is not None:
        inspection_view.show(record, all_tensors=all_tensors)
    if record.failure is not None:
        click.echo(f"Error: {inspection_view.printable(record.failure.message)} {record.failure.advice}", err=True)
        sys.exit(1)
