"""Keys made for one test, and keyrings of them."""

from __future__ import annotations

import os

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from tfx_mobile.release_store.signing import Keyring, TrustedKeys, public_pem
from tfx_mobile.release_store.signing_keys import LocalSigner


def new_signer(kind: str = "p256") -> LocalSigner:
    """Somebody with a new private key."""
    if kind == "ed25519":
        return LocalSigner(ed25519.Ed25519PrivateKey.generate())
    return LocalSigner(ec.generate_private_key(ec.SECP256R1()))


def shared_signer(variable: str) -> LocalSigner:
    """A new signer that processes started from here find again through an environment variable."""
    if variable not in os.environ:
        key = ec.generate_private_key(ec.SECP256R1())
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        os.environ[variable] = pem.decode()
    loaded = serialization.load_pem_private_key(os.environ[variable].encode(), None)
    assert isinstance(loaded, ec.EllipticCurvePrivateKey)
    return LocalSigner(loaded)


def trusting(*signers: LocalSigner, signer: LocalSigner | None = None) -> Keyring:
    """Signs with `signer`, if there is one, and requires a signature of one of `signers`."""
    return Keyring(signer, TrustedKeys.of(s.public_key for s in signers))


def pem_of(signer: LocalSigner) -> str:
    """The public half, as an app has it built in."""
    return public_pem(signer.public_key)
