"""`tfx-mobile check-golden MODEL GOLDEN`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from tfx_mobile.commands.files import read_file
from tfx_mobile.errors import TFXMobileError


@click.command("check-golden")
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
        vectors = GoldenVectors.from_json(read_file(golden))
    except TFXMobileError as error:
        raise click.ClickException(inspection_view.printable(str(error))) from None
    outcome = check(read_file(model), vectors)
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
