"""`tfx-mobile rollout`: which share of the users follows a channel."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from tfx_mobile.release_store.names import DEFAULT_CHANNEL

if TYPE_CHECKING:
    from tfx_mobile.rollout import remote_config


@click.command()
@click.argument("model")
@click.option("--project", required=True, metavar="ID", help="Firebase project, by id or number.")
@click.option("--channel", required=True, metavar="NAME", help="The channel a share of the users follows.")
@click.option("--percent", type=float, metavar="N", help="The share, 0 to 100; 0 takes everyone back.")
@click.option("--show", is_flag=True, help="Show what Remote Config says now, and change nothing.")
@click.option(
    "--stable-channel", default=DEFAULT_CHANNEL, show_default=True, metavar="NAME", help="What all others follow."
)
@click.option("--parameter", metavar="KEY", help="Remote Config parameter.  [default: mlmodel_<MODEL>]")
@click.option("--condition", metavar="NAME", help="Its condition.  [default: mobilepusher_<MODEL>_<channel>]")
@click.option("--seed", metavar="TEXT", help="What users are drawn by; another seed draws others.")
@click.option("--dry-run", is_flag=True, help="Have the service check the change, and write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def rollout(
    model: str,
    project: str,
    channel: str,
    percent: float | None,
    show: bool,
    stable_channel: str,
    parameter: str | None,
    condition: str | None,
    seed: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Let a share of the users follow another channel of MODEL.

    For example: tfx-mobile rollout digits --project my-project --channel canary --percent 10

    It is one parameter and one percent condition of Firebase Remote Config; nothing else of the project's template is
    touched. The app has to read the parameter, see docs/rollout.md.
    """
    # Imported here: --help needs no HTTP client.
    from tfx_mobile.errors import TFXMobileError
    from tfx_mobile.inspection_view import printable
    from tfx_mobile.rollout.remote_config import apply, current
    from tfx_mobile.rollout.spec import RemoteConfigRollout

    if show == (percent is not None):
        raise click.UsageError("Give either --percent N, to change it, or --show.")
    if show and dry_run:
        raise click.UsageError("--show changes nothing; leave out --dry-run.")
    try:
        spec = RemoteConfigRollout(
            project_id=project,
            percent=percent or 0.0,
            stable_channel=stable_channel,
            parameter=parameter,
            condition=condition,
            seed=seed,
        )
        spec.aim(model, channel)
    except ValueError as error:
        raise click.UsageError(printable(str(error))) from None
    try:
        if show:
            state = current(spec, model, channel)
            said, record = _told(state), state.to_json()
        else:
            result = apply(spec, model, channel, dry_run)
            said, record = _done(result), result.to_json()
    except (TFXMobileError, ValueError) as error:
        raise click.ClickException(printable(str(error))) from None
    # Escaped to ASCII, like what is printable: nothing a server said reaches a terminal as control sequences.
    click.echo(json.dumps(json.loads(record)) if as_json else printable(said))


def _told(state: remote_config.RolloutState) -> str:
    from tfx_mobile.rollout.spec import percent_text

    if state.stable_channel is None:
        return f"Nobody set up parameter {state.parameter} yet: every app follows the channel it was built with."
    return (
        f"{percent_text(state.percent)} % of the users follow {state.channel}, all others {state.stable_channel} "
        f"(parameter {state.parameter}, template version {state.version_number})."
    )


def _done(result: remote_config.RolloutResult) -> str:
    from tfx_mobile.rollout.spec import percent_text

    said = (
        f"{percent_text(result.percent)} % of the users follow {result.channel}, all others {result.stable_channel} "
        f"(parameter {result.parameter}, template version {result.version_number})"
    )
    if result.status != "dry_run":
        return f"{result.status}: {said}."
    if result.would_be == "unchanged":
        return f"dry_run: nothing to change, {said}."
    return f"dry_run: checked by the service, nothing was written. It would be: {said}."
