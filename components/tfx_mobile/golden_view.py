"""How `tfx-mobile check-golden` looks in a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tfx_mobile.inspection_view import printable
from tfx_mobile.records import GoldenCheck, GoldenVectors

_MAX_NAME = 60


def show(outcome: GoldenCheck, golden: GoldenVectors, console: Console | None = None) -> None:
    """Prints the outcome of a check, one line per example and output.

    Args:
        outcome: The outcome.
        golden: What was checked against.
        console: Where to; None for stdout.
    """
    console = console or Console(highlight=False)
    facts = Table.grid(padding=(0, 2))
    facts.add_row("model", outcome.model_sha256)
    same = Text("the same file", "green") if outcome.same_file else Text(golden.model_sha256, "bold red")
    facts.add_row("golden", same)
    facts.add_row("variant", Text(printable(golden.variant, _MAX_NAME)))
    facts.add_row("made by", Text(printable(golden.runtime, _MAX_NAME)))
    facts.add_row("run by", Text(outcome.runtime or "nothing"))
    console.print(facts)
    if not outcome.results:
        return
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for name in ("example", "output", "difference", "tolerance", ""):
        table.add_column(name, justify="right" if name in ("example", "difference", "tolerance") else "left")
    for result in outcome.results:
        verdict = Text("pass", "green") if result.passed else Text("FAIL", "bold red")
        if result.message:
            verdict.append(f" {printable(result.message)}", "default")
        table.add_row(
            str(result.example),
            Text(printable(result.output, _MAX_NAME)),
            "" if result.difference is None else f"{result.difference:.4g}",
            f"{result.tolerance:.4g}",
            verdict,
        )
    console.print()
    console.print(table)
