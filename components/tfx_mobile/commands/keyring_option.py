"""Whom to trust, and who signs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from tfx_mobile.release_store.signing import Keyring


def keyring_of(trusted_keys: Sequence[Path], signing_key: str | None = None) -> Keyring:
    """The keys of one command.

    Args:
        trusted_keys: Files with a public key each; none: no signature is required.
        signing_key: The name of a key; None: what is written is not signed.

    Raises:
        ValueError: A file holds no public key on P-256 or of Ed25519, or the name is none.
        SigningError: The key cannot be used, or is not among the trusted ones.
    """
    from tfx_mobile.release_store.signing_keys import open_keyring, parse_signing_key, parse_trusted_keys

    named = parse_signing_key(signing_key) if signing_key else None
    return open_keyring(named, parse_trusted_keys([file.read_bytes() for file in trusted_keys]))


def keyring_options(*, signs: bool) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Adds the options about keys, which give the parameter `keyring`.

    Args:
        signs: Whether the command writes, so that it needs a key to sign with.
    """
    trusted_key = click.option(
        "--trusted-key",
        "trusted_keys",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        multiple=True,
        metavar="FILE.pem",
        help="Require a signature of this public key, or of another one given so; may be repeated.",
    )
    signing_key = click.option(
        "--signing-key",
        metavar="NAME",
        help="Sign with this key: gcp-kms://projects/..., or environment. A name, never the key.",
    )

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def with_keyring(
            *args: Any, trusted_keys: tuple[Path, ...], signing_key: str | None = None, **kwargs: Any
        ) -> Any:
            from tfx_mobile.errors import SigningError
            from tfx_mobile.inspection_view import printable

            try:
                keyring = keyring_of(trusted_keys, signing_key)
            except ValueError as error:
                raise click.BadParameter(printable(str(error)), param_hint="--trusted-key or --signing-key") from None
            except SigningError as error:
                raise click.ClickException(printable(str(error))) from None
            return command(*args, keyring=keyring, **kwargs)

        return trusted_key(signing_key(with_keyring) if signs else with_keyring)

    return decorate
