"""Whom to trust, and who signs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from tfx_mobile.release_store.signing import Keyring


def keyring_of(trusted_keys: Sequence[Path]) -> Keyring:
    """The keys of one command.

    Args:
        trusted_keys: Files with a public key each; none: no signature is required.

    Raises:
        ValueError: One holds no public key on P-256 or of Ed25519.
    """
    from tfx_mobile.release_store.signing import NO_KEYS, Keyring, TrustedKeys

    if not trusted_keys:
        return NO_KEYS
    return Keyring(trusted=TrustedKeys.from_pem(*(file.read_bytes() for file in trusted_keys)))


def keyring_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options about keys, which give the parameter `keyring`."""

    @click.option(
        "--trusted-key",
        "trusted_keys",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        multiple=True,
        metavar="FILE.pem",
        help="Require a signature of this public key, or of another one given so; may be repeated.",
    )
    @functools.wraps(command)
    def with_keyring(*args: Any, trusted_keys: tuple[Path, ...], **kwargs: Any) -> Any:
        try:
            keyring = keyring_of(trusted_keys)
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--trusted-key") from None
        return command(*args, keyring=keyring, **kwargs)

    return with_keyring
