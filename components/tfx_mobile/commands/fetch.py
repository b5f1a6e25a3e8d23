"""`tfx-mobile fetch`: does what an app does, on a desk or a device that runs Python."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from tfx_mobile.release_store.names import DEFAULT_CHANNEL


@click.command()
@click.argument("source")
@click.argument("model")
@click.option("--channel", default=DEFAULT_CHANNEL, show_default=True, help="Channel to follow.")
@click.option(
    "--directory",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Where models and what is remembered of the channel are kept.",
)
@click.option(
    "--trusted-key",
    "key_files",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="PEM file with a public key of which one must have signed; may be repeated. None requires no signature.",
)
@click.option("--runtime-version", help="TensorFlow Lite of the device; a model that needs a newer one is refused.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def fetch(
    source: str,
    model: str,
    channel: str,
    directory: Path,
    key_files: tuple[Path, ...],
    runtime_version: str | None,
    as_json: bool,
) -> None:
    """Fetch what a channel of MODEL names from SOURCE, and verify it.

    SOURCE is the web address of a release store, such as https://storage.googleapis.com/BUCKET/PREFIX, or a folder. The
    exit code is 1 if DIRECTORY does not hold what the channel names; what it holds is still shown.
    """
    from tfx_mobile.device_client import DeviceClient
    from tfx_mobile.inspection_view import printable

    try:
        client = DeviceClient(
            source,
            model,
            channel,
            directory=directory,
            trusted_keys=[file.read_bytes() for file in key_files],
            runtime_version=runtime_version,
        )
    except (ValueError, OSError) as error:
        raise click.UsageError(printable(str(error))) from None
    result = client.update()
    if as_json:
        click.echo(result.to_json())
    else:
        click.echo(f"{result.status}: {printable(result.message)}")
        if result.model_path is not None:
            click.echo(f"version  {result.version}\nsha256   {result.sha256}\nmodel    {result.model_path}")
        click.echo(f"took     {result.requests} requests, {result.bytes_downloaded:,} bytes")
    if result.status not in ("updated", "unchanged"):
        sys.exit(1)
