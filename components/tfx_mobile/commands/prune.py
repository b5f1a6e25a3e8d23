"""`tfx-mobile prune`: deleting what no channel needs."""

from __future__ import annotations

import datetime
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from tfx_mobile.commands.destination_option import destinations_option, open_all
from tfx_mobile.commands.keyring_option import keyring_options
from tfx_mobile.commands.output import echo_json, json_option, reporting_errors

if TYPE_CHECKING:
    from tfx_mobile.release_store.destinations import Destination
    from tfx_mobile.release_store.signing import Keyring


@click.command()
@click.argument("model", required=False)
@click.option("--all", "all_models", is_flag=True, help="Prune every model of the store.")
@click.option(
    "--keep",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="How many different models each channel can go back to, the live one included.",
)
@click.option(
    "--grace-days",
    type=click.IntRange(min=1),
    default=7,
    show_default=True,
    help="What was written within so many days before the newest object of the model stays.",
)
@destinations_option
@keyring_options(signs=True)
@click.option("--dry-run", is_flag=True, help="Delete and write nothing, and say what would be deleted.")
@json_option
def prune(
    model: str | None,
    all_models: bool,
    keep: int,
    grace_days: int,
    destinations: Sequence[tuple[Destination, ...]],
    keyring: Keyring,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Delete releases that no channel needs.

    Of MODEL, or of every model with --all. What a channel names, what is pinned, the last releases of each channel and
    everything young stays. It needs an identity that may delete, which a push does not. A prune that was interrupted is
    finished by the next one. With --all, a model that cannot be pruned does not keep the others from it; the exit code
    is then 1.
    """
    from tfx_mobile.commands import releases_view
    from tfx_mobile.errors import TFXMobileError
    from tfx_mobile.inspection_view import printable
    from tfx_mobile.release_store import operations

    if (model is None) != all_models:
        raise click.UsageError("Give MODEL, or --all for every model.")
    receipts, errors = [], []
    with reporting_errors():
        for opened in open_all(destinations, keyring):
            for name in [model] if model is not None else operations.models_to_prune(opened):
                try:
                    grace = datetime.timedelta(days=grace_days)
                    receipts.append(
                        operations.prune(opened, name, keep=keep, grace=grace, keyring=keyring, dry_run=dry_run)
                    )
                except TFXMobileError as error:
                    errors.append(f"{name} at {opened.address}: {error}" if all_models else str(error))
    if as_json:
        echo_json(receipts)
    else:
        releases_view.show_prunes(receipts)
    for message in errors:
        click.echo(f"Error: {printable(message)}", err=True)
    sys.exit(1 if errors else 0)
