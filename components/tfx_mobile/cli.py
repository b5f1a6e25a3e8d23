"""The command line, `tfx-mobile`: a table of commands, each imported when it is used.

inspect, check-golden                                  files
releases, rollback, promote, pin, unpin, prune         releases
rollout                                                which share of the users follows a channel
fetch                                                  what a device does
keys                                                   who signs
trace                                                  where a file came from
import-firebase-ml                                     leaving Firebase ML
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping

import click

from tfx_mobile import __version__

#: Where each command lives, below `tfx_mobile.commands`: module and name in it.
COMMANDS: Mapping[str, str] = {
    "inspect": "inspect:inspect",
    "check-golden": "check_golden:check_golden",
    "releases": "releases:releases",
    "rollback": "releases:rollback",
    "promote": "releases:promote",
    "pin": "releases:pin",
    "unpin": "releases:unpin",
    "prune": "prune:prune",
    "rollout": "rollout:rollout",
    "fetch": "fetch:fetch",
    "keys": "keys:keys",
    "trace": "trace:trace",
    "import-firebase-ml": "import_firebase_ml:import_firebase_ml",
}


class _LazyGroup(click.Group):
    """Imports a command when it is used; a name is enough to complete it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(f"tfx_mobile.commands.{module}"), name)
        return command


@click.group(cls=_LazyGroup, help="Looks at on-device models and their releases.")
@click.version_option(__version__, prog_name="tfx-mobile")
def main() -> None:
    """Entry point of the `tfx-mobile` command."""
