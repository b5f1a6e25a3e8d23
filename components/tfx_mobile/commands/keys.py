"""`tfx-mobile keys`: makes a key for tests, and shows the public half of a signing key."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tfx_mobile.errors import TFXMobileError

if TYPE_CHECKING:
    from tfx_mobile.release_store.signing import PublicKey

_JSON_HELP = "Print one JSON document with public_key (PEM) and key_id."


@click.group(help="Makes and shows the keys that releases are signed with.")
def keys() -> None:
    """Group of the commands below."""


@keys.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--ed25519", is_flag=True, help="An Ed25519 key instead of one on P-256.")
@click.option("--json", "as_json", is_flag=True, help=_JSON_HELP)
def generate(file: Path, ed25519: bool, as_json: bool) -> None:
    """Make a private key in FILE, for tests and desks, and print its public half.

    FILE must not exist; only its owner may read it. The public half, in PEM form, is what devices are to trust. In
    production let Cloud KMS keep the key.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from tfx_mobile.release_store.signing_keys import KEY_FILE_VARIABLE

    key = Ed25519PrivateKey.generate() if ed25519 else ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise click.ClickException(f"{file} exists, and a key that was overwritten is lost. Name a new file.") from None
    except OSError as error:
        raise click.ClickException(f"{file} cannot be created: {error.strerror}.") from None
    try:
        with open(descriptor, "wb") as stream:
            stream.write(pem)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        file.unlink(missing_ok=True)
        raise click.ClickException(f"{file} cannot be written: {error.strerror}.") from None
    click.echo(f"Private key in {file}. To sign with it: export {KEY_FILE_VARIABLE}={file.resolve()}", err=True)
    _show(key.public_key(), as_json)


@keys.command()
@click.argument("signing_key", default="environment")
@click.option("--json", "as_json", is_flag=True, help=_JSON_HELP)
def show(signing_key: str, as_json: bool) -> None:
    """Print the public half and the id of SIGNING_KEY.

    SIGNING_KEY is gcp-kms://projects/P/locations/L/keyRings/R/cryptoKeys/K/cryptoKeyVersions/1, or environment (the
    default) for the file that TFX_MOBILE_SIGNING_KEY_FILE names.
    """
    from tfx_mobile.release_store.signing_keys import parse_signing_key

    try:
        key = parse_signing_key(signing_key)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="SIGNING_KEY") from None
    try:
        _show(key.open().public_key, as_json)
    except (TFXMobileError, ValueError) as error:
        raise click.ClickException(str(error)) from None


def _show(key: PublicKey, as_json: bool) -> None:
    """The PEM text alone goes to stdout, so that it can be redirected into a file."""
    from tfx_mobile.release_store.signing import key_id_of, public_pem

    if as_json:
        click.echo(json.dumps({"key_id": key_id_of(key), "public_key": public_pem(key)}))
        return
    click.echo(public_pem(key), nl=False)
    click.echo(f"Key id {key_id_of(key)}", err=True)
