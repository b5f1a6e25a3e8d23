"""`tfx-mobile trace`: from the bytes on a device back to the examples they were made of."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import click

from tfx_mobile.commands.destination_option import FORMS, parse_destinations_text
from tfx_mobile.commands.keyring_option import keyring_options
from tfx_mobile.errors import TFXMobileError

if TYPE_CHECKING:
    from tfx_mobile.release_store.signing import Keyring


@click.command()
@click.argument("target", metavar="SHA256|FILE|RELEASE")
@click.option("--metadata", metavar="FILE", help="ML Metadata in a SQLite file, as local runs keep it.")
@click.option(
    "--metadata-config",
    metavar="FILE.pbtxt",
    help="ML Metadata elsewhere: a file with a ConnectionConfig or MetadataStoreClientConfig as text proto.",
)
@click.option(
    "--at", "destination", metavar="DESTINATION", help=f"Release store whose manifests repeat the lineage: {FORMS}."
)
@click.option("--model", "model_name", metavar="NAME", help="With --at: look at this model's releases only.")
@keyring_options(signs=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document with everything.")
def trace(
    target: str,
    metadata: str | None,
    metadata_config: str | None,
    destination: str | None,
    model_name: str | None,
    keyring: Keyring,
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
    if (model_name or keyring.trusted) and not destination:
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
            for one in parse_destinations_text(destination):
                store = one.open_store()
                found, unreadable = trace_releases(store, sha256, model_name, keyring)
                releases += found
                problems += unreadable
                searched.append(f"the releases at {store.address}")
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
