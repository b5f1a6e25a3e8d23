"""`tfx-mobile import-firebase-ml`: copies what Firebase ML serves into a release store."""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import TYPE_CHECKING

import click

from tfx_mobile.commands.destination_option import FORMS, parse_destinations_text
from tfx_mobile.commands.keyring_option import keyring_options
from tfx_mobile.errors import TFXMobileError
from tfx_mobile.release_store.names import DEFAULT_CHANNEL

if TYPE_CHECKING:
    from tfx_mobile.release_store.firebase_ml.importing import ImportedModel
    from tfx_mobile.release_store.signing import Keyring


@click.command("import-firebase-ml")
@click.option("--project", required=True, metavar="ID", help="The Firebase project, such as my-project.")
@click.option("--to", required=True, metavar="DESTINATION", help=f"Where to: {FORMS}.")
@click.option("--channel", default=DEFAULT_CHANNEL, show_default=True, help="Which channel shall name the models.")
@click.option(
    "--model", "models", multiple=True, metavar="NAME", help="Only this model; may be repeated. Default: all."
)
@keyring_options(signs=True)
@click.option("--dry-run", is_flag=True, help="Fetch and check everything, write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def import_firebase_ml(
    project: str,
    to: str,
    channel: str,
    models: tuple[str, ...],
    keyring: Keyring,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Copy the models that Firebase ML serves into a release store.

    Each becomes a release of the same name, with the bytes that devices get today. May be repeated: what is there stays
    as it is, and a channel that a pipeline publishes to is left alone. The exit code is 1 if a model could not be
    imported.
    """
    # Imported here: what talks to services takes a while, and --help does not need it.
    from tfx_mobile.inspection_view import printable
    from tfx_mobile.release_store.delivery import open_destinations
    from tfx_mobile.release_store.firebase_ml.client import FirebaseMLClient
    from tfx_mobile.release_store.firebase_ml.importing import import_models

    try:
        opened = open_destinations(parse_destinations_text(to), keyring)
        results = import_models(
            FirebaseMLClient(project), opened, channel=channel, names=models, dry_run=dry_run, keyring=keyring
        )
    except (TFXMobileError, ValueError) as error:
        raise click.ClickException(printable(str(error))) from None
    if as_json:
        click.echo(json.dumps({"models": [dataclasses.asdict(result) for result in results]}))
    else:
        for result in results:
            click.echo(_line(result))
        if not results:
            click.echo(f"Firebase ML has no models in the project {project}.")
    if any(result.status == "failed" for result in results):
        sys.exit(1)


def _line(result: ImportedModel) -> str:
    from tfx_mobile.inspection_view import printable

    reason = printable(result.reason)
    size = f" {result.size_bytes:,} bytes, sha256 {result.sha256}" if result.size_bytes is not None else ""
    return f"{printable(result.model)}: {result.status}{size}{f' ({reason})' if reason else ''}"
