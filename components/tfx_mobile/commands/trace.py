"""`tfx-mobile trace`: from the bytes on a device back to the examples they were made of."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tfx_mobile.errors import TFXMobileError

if TYPE_CHECKING:
    from tfx_mobile.release_store.destinations import Destination
    from tfx_mobile.release_store.signing import Keyring


@click.command()
@click.argument("target", metavar="SHA256|FILE|RELEASE")
@click.option("--metadata", metavar="FILE", help="ML Metadata in a SQLite file, as local runs keep it.")
@click.option(
    "--metadata-config",
    metavar="FILE.pbtxt",
    help="ML Metadata elsewhere: a file with a ConnectionConfig or MetadataStoreClientConfig as text proto.",
)
@click.option("--at", "destination", metavar="DESTINATION", help="Release store whose manifests repeat the lineage.")
@click.option("--model", "model_name", metavar="NAME", help="With --at: look at this model's releases only.")
@click.option(
    "--trusted-key",
    "trusted_keys",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="With --at: require a signature of this public key (PEM file); may be repeated.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document with everything.")
def trace(
    target: str,
    metadata: str | None,
    metadata_config: str | None,
    destination: str | None,
    model_name: str | None,
    trusted_keys: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Show which run, model and examples a released model comes from.

    The bytes are named by their SHA-256, by a file that holds them, or by the id of their release. Nothing is changed
    anywhere. The exit code is 1 if nothing is known of them, or if nothing that was named could be read.
    """
    if metadata and metadata_config:
        raise click.UsageError("Give --metadata or --metadata-config, not both.")
    if not (metadata or metadata_config or destination):
        raise click.UsageError(
            "Say where to look: --metadata FILE.sqlite or --metadata-config FILE.pbtxt for ML Metadata, "
            "--at DESTINATION for a release store, or both."
        )
    if (model_name or trusted_keys) and not destination:
        raise click.UsageError("--model and --trusted-key need --at DESTINATION.")

    # Imported here: --help needs none of it.
    from tfx_mobile import trace_view
    from tfx_mobile.inspection_view import printable
    from tfx_mobile.records import LineageGraph, TracedRelease, TraceRecord
    from tfx_mobile.trace.target import resolve_target

    graph: LineageGraph | None = None
    releases: tuple[TracedRelease, ...] = ()
    problems: list[str] = []
    searched: list[str] = []
    try:
        sha256 = resolve_target(target)
    except TFXMobileError as error:
        raise click.ClickException(printable(str(error))) from None
    if metadata or metadata_config:
        from tfx_mobile.trace.metadata import open_config, open_sqlite
        from tfx_mobile.trace.walking import trace_metadata

        try:
            opened = open_config(metadata_config) if metadata_config else open_sqlite(metadata or "")
            graph = trace_metadata(opened, sha256)
            searched.append(f"ML Metadata at {opened.address}")
        except TFXMobileError as error:
            problems.append(str(error))
    if destination:
        from tfx_mobile.trace.releases import trace_releases

        try:
            store = _destination(destination).open_store()
            releases, unreadable = trace_releases(store, sha256, model_name, _keyring(trusted_keys))
            searched.append(f"the releases at {store.address}")
            problems += unreadable
        except (TFXMobileError, ValueError) as error:
            problems.append(str(error))

    record = TraceRecord(target=sha256, graph=graph, releases=releases, problems=tuple(problems))
    if as_json:
        # Escaped to ASCII: what is recorded must not reach a terminal as control sequences.
        click.echo(json.dumps(json.loads(record.to_json())))
    else:
        trace_view.show(record)
    for problem in problems:
        click.echo(f"{'Warning' if graph or releases else 'Error'}: {printable(problem)}", err=True)
    if graph is None and not releases:
        if searched:
            click.echo(
                printable(
                    f"Error: Nothing is known of {sha256} ({target}). Searched: {'; '.join(searched)}. Check that it "
                    "was pushed by a pipeline that records there."
                ),
                err=True,
            )
        sys.exit(1)


def _destination(text: str) -> Destination:
    """A destination as a person writes it: JSON, or a folder."""
    from tfx_mobile.release_store.destinations import FilesystemDestination, parse_destination

    if not text.lstrip().startswith("{"):
        return FilesystemDestination(base_directory=text)
    try:
        return parse_destination(json.loads(text))
    except json.JSONDecodeError as error:
        raise ValueError(f"--at {text!r} is not JSON ({error}). Give a folder, or a destination's JSON.") from None


def _keyring(trusted_keys: tuple[Path, ...]) -> Keyring:
    from tfx_mobile.release_store.signing import NO_KEYS, Keyring, TrustedKeys

    if not trusted_keys:
        return NO_KEYS
    return Keyring(trusted=TrustedKeys.from_pem(*(path.read_bytes() for path in trusted_keys)))
