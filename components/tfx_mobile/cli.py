"""The command line: `tfx-mobile inspect FILE`."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from tfx_mobile import __version__
from tfx_mobile.records import Failure, ModelFileRecord, TensorRecord, sha256_of


@click.group(help="Looks at on-device models and their releases.")
@click.version_option(__version__, prog_name="tfx-mobile")
def main() -> None:
    """Entry point of the `tfx-mobile` command."""


@main.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the record as JSON instead of tables.")
def inspect(file: Path, as_json: bool) -> None:
    """Check a .tflite FILE and show what it is.

    The file's structure is checked first, then it is loaded and run once in a process of its own. The exit code is 1 if
    it fails either.
    """
    # Imported here: reading a file needs the flatbuffer schema, which --help does not.
    from tfx_mobile.errors import ModelFileError
    from tfx_mobile.tflite.flatbuffer import inspect_model
    from tfx_mobile.tflite.preflight import preflight

    data = file.read_bytes()
    try:
        record = inspect_model(data)
    except ModelFileError as error:
        raise click.ClickException(str(error)) from None
    failure = preflight(file, sha256=sha256_of(data))
    if as_json:
        click.echo(record.to_json())
    else:
        _show(record, failure)
    if failure:
        click.echo(f"Error: {failure.message} {failure.advice}", err=True)
        sys.exit(1)


def _show(record: ModelFileRecord, failure: Failure | None) -> None:
    console = Console(highlight=False)
    facts = Table.grid(padding=(0, 2))
    facts.add_row("sha256", record.sha256)
    facts.add_row("size", f"{record.size_bytes:,} bytes, {record.gzip_bytes:,} gzipped")
    facts.add_row("runtime", f"TensorFlow Lite {record.min_runtime_version or 'of unknown version'} or newer")
    facts.add_row("flex ops", ", ".join(record.select_tf_ops) or "none")
    facts.add_row("custom ops", ", ".join(record.custom_ops) or "none")
    facts.add_row("loads and runs", "no" if failure else "yes")
    console.print(facts)
    for signature in record.signatures:
        table = Table(title=f"\nsignature {signature.key}", title_justify="left")
        for heading in ("", "name", "dtype", "shape", "quantization"):
            table.add_column(heading)
        for kind, tensors in (("input", signature.inputs), ("output", signature.outputs)):
            for tensor in tensors:
                table.add_row(kind, tensor.name, tensor.dtype, str(list(tensor.shape)), _quantization(tensor))
        console.print(table)
    table = Table(title="\noperators", title_justify="left")
    for heading in ("name", "version", "count", "in float"):
        table.add_column(heading, justify="left" if heading == "name" else "right")
    for op in record.ops:
        table.add_row(op.name, str(op.version), str(op.count), str(op.float_count or ""))
    console.print(table)


def _quantization(tensor: TensorRecord) -> str:
    return "" if tensor.scale is None else f"(q - {tensor.zero_point}) * {tensor.scale:.6g}"
