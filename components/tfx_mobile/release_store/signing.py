"""Envelopes: sealed and signed by who writes, opened and verified by who reads.

Signatures follow DSSE (https://github.com/secure-systems-lab/dsse/blob/master/protocol.md): ECDSA on P-256 with
SHA-256, which every phone verifies with its own library, or Ed25519. A key's id is the SHA-256 of its public half.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from tfx_mobile.errors import SigningError, TFXMobileError, UntrustedReleaseError
from tfx_mobile.records import Envelope, PayloadType, Signature

PublicKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey


class Signer(Protocol):
    """Somebody who holds a private key."""

    @property
    def public_key(self) -> PublicKey:
        """The public half."""
        ...

    def sign(self, message: bytes) -> bytes:
        """Signs: for P-256 in DER form, for Ed25519 64 bytes.

        Raises:
            SigningError: It cannot.
        """
        ...


def load_public_key(pem: str | bytes) -> PublicKey:
    """Reads a public key in PEM form.

    Raises:
        ValueError: It is none on P-256 or of Ed25519.
    """
    data = pem.encode() if isinstance(pem, str) else pem
    try:
        key = serialization.load_pem_public_key(data)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ValueError(
            f"not a public key in PEM form ({type(error).__name__}). Give the text that begins with "
            "'-----BEGIN PUBLIC KEY-----'; tfx-mobile keys show prints it."
        ) from None
    if isinstance(key, ed25519.Ed25519PublicKey) or (
        isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1)
    ):
        return key
    curve = f" on {key.curve.name}" if isinstance(key, ec.EllipticCurvePublicKey) else ""
    raise ValueError(f"a {type(key).__name__}{curve}; valid are keys on P-256 (secp256r1) and of Ed25519.")


def public_pem(key: PublicKey) -> str:
    """The one PEM form of a public key (SubjectPublicKeyInfo), with a line break at its end."""
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo).decode()


def is_signature(key: PublicKey, signature: bytes, message: bytes) -> bool:
    """Whether the owner of a key signed a message."""
    try:
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, message)
        else:
            key.verify(signature, message, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


def key_id_of(key: PublicKey) -> str:
    """Lower-case hexadecimal SHA-256 of the key in its DER form (SubjectPublicKeyInfo)."""
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()


@dataclass(frozen=True)
class TrustedKeys:
    """Public keys, any of which may have signed.

    Attributes:
        by_id: The keys by their id.
    """

    by_id: Mapping[str, PublicKey]

    @classmethod
    def of(cls, keys: Iterable[PublicKey]) -> TrustedKeys:
        """Trusts these keys."""
        return cls({key_id_of(key): key for key in keys})

    @classmethod
    def from_pem(cls, *pems: str | bytes) -> TrustedKeys:
        """Trusts the public keys in PEM texts.

        Raises:
            ValueError: One is not a public key on P-256 or of Ed25519.
        """
        return cls.of(load_public_key(pem) for pem in pems)

    def verify(self, envelope: Envelope, payload: bytes, uri: str) -> None:
        """Makes sure that one of the keys signed the payload.

        Raises:
            UntrustedReleaseError: None did.
        """
        message = Envelope.signed_bytes(envelope.payloadType, payload)
        if not any(_is_valid(self.by_id.get(s.keyid), s, message) for s in envelope.signatures):
            signed = ", ".join(s.keyid for s in envelope.signatures) or "nobody"
            raise UntrustedReleaseError(
                f"{uri} holds no valid signature of a trusted key. Signed by: {signed}; trusted: "
                f"{', '.join(self.by_id) or 'no key'}. If a key is missing, add it to the trusted ones; if nothing was "
                "ever signed there, push once without trusted keys; else the object was altered: move it away and push "
                "again."
            )


@dataclass(frozen=True)
class Keyring:
    """The keys of one act.

    Attributes:
        signer: Who signs what is written; None leaves it unsigned.
        trusted: Whose signature is required of what is read; None requires none.

    Raises:
        SigningError: What the signer signs would not be trusted.
    """

    signer: Signer | None = None
    trusted: TrustedKeys | None = None
    signing_key_id: str | None = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "signing_key_id", key_id_of(self.signer.public_key) if self.signer else None)
        if self.trusted is not None and self.signing_key_id and self.signing_key_id not in self.trusted.by_id:
            raise SigningError(
                f"The signing key {self.signing_key_id} is not among the trusted keys "
                f"({', '.join(self.trusted.by_id) or 'none'}): whoever trusts only these would refuse what it signs. "
                "Add its public half to the trusted keys (tfx-mobile keys show prints it), or sign with one of them."
            )

    def check_may_write(self, signed_by: str | None, uri: str) -> None:
        """Makes sure that what is written will be accepted by those who accept what is there.

        Args:
            signed_by: Id of the key that signed what is to be replaced; None if nobody did, or nothing is there.
            uri: Its address.

        Raises:
            SigningError: It would be unsigned, and a signature is required, or was there before.
        """
        if self.signer is not None or (signed_by is None and self.trusted is None):
            return
        why = f"it is signed with the key {signed_by}" if signed_by else "trusted keys were given"
        raise SigningError(
            f"{uri} would be written without a signature, though {why}: whoever trusts that key would refuse it. Give "
            "a signing key, or use another channel for unsigned models."
        )

    def seal(self, payload_type: PayloadType, payload: bytes) -> Envelope:
        """Puts a payload into an envelope, signed if there is a signer.

        Raises:
            SigningError: See `Signer.sign`.
        """
        if self.signer is None or self.signing_key_id is None:
            return Envelope.seal(payload_type, payload)
        signed = self.signer.sign(Envelope.signed_bytes(payload_type, payload))
        signature = Signature(keyid=self.signing_key_id, sig=base64.b64encode(signed).decode())
        return Envelope.seal(payload_type, payload, (signature,))

    def open(self, data: bytes, payload_type: PayloadType, uri: str) -> bytes:
        """The payload of an envelope, verified if a signature is required.

        Raises:
            TFXMobileError: It is no envelope of that type.
            UntrustedReleaseError: No trusted key signed it.
        """
        envelope = Envelope.from_json(data)
        payload = envelope.open(payload_type)
        if self.trusted is not None:
            self.trusted.verify(envelope, payload, uri)
        return payload

    def vouches_for(self, data: bytes, payload_type: PayloadType, payload: bytes) -> bool:
        """Whether an envelope holds this payload, signed by this signer if there is one."""
        try:
            envelope = Envelope.from_json(data)
            same = envelope.open(payload_type) == payload
            if same and self.signer is not None:
                TrustedKeys.of([self.signer.public_key]).verify(envelope, payload, "")
        except TFXMobileError:
            return False
        return same


NO_KEYS = Keyring()


def _is_valid(key: PublicKey | None, signature: Signature, message: bytes) -> bool:
    try:
        return key is not None and is_signature(key, base64.b64decode(signature.sig, validate=True), message)
    except ValueError:  # binascii.Error, or a character that is not ASCII
        return False
