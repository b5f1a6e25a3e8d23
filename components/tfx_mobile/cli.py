"""The command line: `tfx-mobile inspect FILE`, `tfx-mobile check-golden MODEL GOLDEN`,
`tfx-mobile trace FILE`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from tfx_mobile import __version__
from tfx_mobile.commands.trace import trace
from tfx_mobile.errors import ModelFileError, RecipeError, TFXMobileError
from tfx_mobile.records import Failure, InspectionRecord, sha256_of

#: Nothing larger is a model for a device, and everything is read into memory.
_MAX_FILE_BYTES = 4 << 30


@click.group(help="Looks at on-device models and their releases.")
@click.version_option(__version__, prog_name="tfx-mobile")
def main() -> None:
    """Entry point of the `tfx-mobile` command."""


main.add_command(trace)


@main.command()
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
    from tfx_mobile.tflite.file_report import inspect_file
    from tfx_mobile.tflite.preflight import preflight
    from tfx_mobile.tflite.profiles import parse_profiles

    try:
        names = parse_profiles(profiles or None)
    except RecipeError as error:
        raise click.BadParameter(str(error), param_hint="--profile") from None
    data = _read(file)
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


@main.command("check-golden")
@click.argument("model", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("golden", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document with every difference.")
def check_golden(model: Path, golden: Path, as_json: bool) -> None:
    """Run the .tflite MODEL on the inputs in GOLDEN and compare what comes out.

    GOLDEN is the golden.json beside a blessed model. The model runs in a process of its own. The exit code is 1 if an
    output is out of tolerance, the model cannot be run, or it is not the file that the golden vectors are of.
    """
    # Imported here, like everything that needs the flatbuffer schema.
    from tfx_mobile import golden_view, inspection_view
    from tfx_mobile.quantization_evaluator.close_look.golden import check
    from tfx_mobile.records import GoldenVectors

    try:
        vectors = GoldenVectors.from_json(_read(golden))
    except TFXMobileError as error:
        raise click.ClickException(inspection_view.printable(str(error))) from None
    outcome = check(_read(model), vectors)
    if as_json:
        click.echo(json.dumps({**json.loads(outcome.to_json()), "passed": outcome.passed}))
    else:
        golden_view.show(outcome, vectors)
    if outcome.passed:
        return
    problems = [outcome.failure] if outcome.failure else []
    if not outcome.same_file:
        problems.append(f"The golden vectors are of another file, with sha256 {vectors.model_sha256}.")
    if failed := sum(not result.passed for result in outcome.results):
        problems.append(f"{failed} of {len(outcome.results)} outputs are out of tolerance.")
    click.echo(f"Error: {inspection_view.printable(' '.join(problems))} Do not ship this file.", err=True)
    sys.exit(1)


def _read(file: Path) -> bytes:
    if not file.is_file() or file.stat().st_size > _MAX_FILE_BYTES:
        raise click.ClickException(f"{file} is not a regular file of at most {_MAX_FILE_BYTES:,} bytes.")
    return file.read_bytes()
