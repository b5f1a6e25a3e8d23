"""How all commands report: one document for programs, or text for people; errors on stderr."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.console import Console

    from tfx_mobile.records import Record

_PIPE_WIDTH = 4_000

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


@contextlib.contextmanager
def reporting_errors() -> Iterator[None]:
    """Turns what this package raises on purpose into `Error: ...` on stderr and exit code 1, wrong values into 2."""
    from tfx_mobile.errors import TFXMobileError
    from tfx_mobile.inspection_view import printable

    try:
        yield
    except TFXMobileError as error:
        raise click.ClickException(printable(str(error))) from None
    except ValueError as error:
        raise click.UsageError(printable(str(error)), click.get_current_context()) from None


def echo_json(records: Sequence[Record]) -> None:
    """Prints a list, one member per destination.

    Escaped to ASCII: what a store says must not reach a terminal as control sequences.
    """
    click.echo(json.dumps([json.loads(record.to_json()) for record in records], indent=2, sort_keys=True))


def console() -> Console:
    """Stdout. A pipe gets whole lines, however long, because nobody scrolls them."""
    from rich.console import Console

    is_narrow = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(highlight=False, width=None if is_narrow else _PIPE_WIDTH)
