"""`tfx-mobile releases | rollback | promote | pin | unpin`: looking at channels, and what they name."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from tfx_mobile.commands.destination_option import destinations_option, open_all
from tfx_mobile.commands.keyring_option import keyring_options
from tfx_mobile.commands.output import echo_json, json_option, reporting_errors
from tfx_mobile.release_store.names import DEFAULT_CHANNEL

if TYPE_CHECKING:
    from tfx_mobile.records import ChannelReceipt
    from tfx_mobile.release_store.destinations import Destination
    from tfx_mobile.release_store.signing import Keyring

_At = Sequence["tuple[Destination, ...]"]

_model = click.argument("model")
_channel = click.option("--channel", default=DEFAULT_CHANNEL, show_default=True, help="The channel.")
_dry_run = click.option("--dry-run", is_flag=True, help="Make every check, write nothing, and say what would be done.")


@click.command()
@click.argument("model", required=False)
@click.option("--channel", default=DEFAULT_CHANNEL, show_default=True, help="The channel, if MODEL is given.")
@destinations_option
@keyring_options(signs=False)
@json_option
def releases(model: str | None, channel: str, destinations: _At, keyring: Keyring, as_json: bool) -> None:
    """Show models, channels and their history.

    With MODEL, what its channel names and has named, newest first; without, every model and channel of the store.
    Nothing is written, and no model is downloaded.
    """
    from tfx_mobile.commands import releases_view
    from tfx_mobile.release_store import operations

    with reporting_errors():
        opened = open_all(destinations, keyring)
        if model is None:
            overviews = [operations.list_models(one, keyring) for one in opened]
            echo_json(overviews) if as_json else releases_view.show_overviews(overviews)
        else:
            histories = [operations.list_releases(one, model, channel, keyring) for one in opened]
            echo_json(histories) if as_json else releases_view.show_histories(histories)


@click.command()
@_model
@click.option(
    "--to",
    metavar="RELEASE",
    help="Where to go: a version, or 8 or more characters of release id or sha256. "
    "Default: the newest earlier release with other bytes that was not rolled back itself.",
)
@_channel
@destinations_option
@keyring_options(signs=True)
@_dry_run
@json_option
def rollback(
    model: str, to: str | None, channel: str, destinations: _At, keyring: Keyring, dry_run: bool, as_json: bool
) -> None:
    """Go back to an earlier release of MODEL.

    The channel is made to name it again. Nothing is uploaded. The release is verified first, and the channel's version
    still increases, so devices accept the change. The bytes that were live are refused from then on, until they are
    unpinned. Run again, it changes nothing: to go back further, say where with --to.
    """
    from tfx_mobile.release_store import operations

    with reporting_errors():
        opened = open_all(destinations, keyring)
        receipts = operations.rollback_everywhere(opened, model, channel, to, keyring=keyring, dry_run=dry_run)
    _report(receipts, as_json)


@click.command()
@_model
@click.option("--from", "from_channel", default="canary", show_default=True, help="The channel whose release it is.")
@click.option("--to", "to_channel", default=DEFAULT_CHANNEL, show_default=True, help="The channel that shall name it.")
@destinations_option
@keyring_options(signs=True)
@_dry_run
@json_option
def promote(
    model: str,
    from_channel: str,
    to_channel: str,
    destinations: _At,
    keyring: Keyring,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Give one channel the release of another.

    Of MODEL, the channel --to is made to name what the channel --from names. Nothing is uploaded. The release is
    verified first. What was rolled back on the channel --to is refused, and so is a release of an older run than that
    channel has had.
    """
    from tfx_mobile.release_store import operations

    with reporting_errors():
        opened = open_all(destinations, keyring)
        receipts = operations.promote_everywhere(
            opened, model, from_channel, to_channel, keyring=keyring, dry_run=dry_run
        )
    _report(receipts, as_json)


@click.command()
@_model
@click.argument("release", required=False)
@_channel
@destinations_option
@keyring_options(signs=True)
@_dry_run
@json_option
def pin(
    model: str, release: str | None, channel: str, destinations: _At, keyring: Keyring, dry_run: bool, as_json: bool
) -> None:
    """Keep RELEASE of MODEL from being pruned.

    RELEASE is a version, or 8 or more characters of release id or sha256; without it the live release is meant.
    """
    from tfx_mobile.release_store import operations

    with reporting_errors():
        receipts = [
            operations.pin(one, model, channel, release, keyring=keyring, dry_run=dry_run)
            for one in open_all(destinations, keyring)
        ]
    _report(receipts, as_json)


@click.command()
@_model
@click.argument("release")
@_channel
@destinations_option
@keyring_options(signs=True)
@_dry_run
@json_option
def unpin(
    model: str, release: str, channel: str, destinations: _At, keyring: Keyring, dry_run: bool, as_json: bool
) -> None:
    """Take back a pin, or the refusal of a rollback.

    RELEASE of MODEL is a version, or 8 or more characters of release id or sha256. Bytes that are no longer refused may
    be pushed and promoted again; nothing is published by this command.
    """
    from tfx_mobile.release_store import operations

    with reporting_errors():
        receipts = [
            operations.unpin(one, model, channel, release, keyring=keyring, dry_run=dry_run)
            for one in open_all(destinations, keyring)
        ]
    _report(receipts, as_json)


def _report(receipts: Sequence[ChannelReceipt], as_json: bool) -> None:
    from tfx_mobile.commands import releases_view
    from tfx_mobile.inspection_view import printable

    echo_json(receipts) if as_json else releases_view.show_receipts(receipts)
    superseded = [one for one in receipts if "superseded" in (one.status, one.would_be)]
    if superseded:
        places = ", ".join(f"{one.channel} of {one.model} at {one.destination}" for one in superseded)
        click.echo(
            f"Error: {printable(places)} has had the release of a newer run. Nothing was changed there. "
            "Promote a newer release, or go back with tfx-mobile rollback.",
            err=True,
        )
        sys.exit(1)
