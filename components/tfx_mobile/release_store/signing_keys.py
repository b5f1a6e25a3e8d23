"""The keys of a push as data: which key signs, and which ones are trusted.

Parameters of a pipeline are kept in ML Metadata, in the compiled pipeline and in the user interface. So they only ever
name a private key that lies elsewhere: in Cloud KMS, which lets nobody read it, or, at a desk, in a file that an
environment variable names.
"""

from __future__ import annotations

import json
import os
import re
import stat
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from tfx_mobile.errors import SigningError
from tfx_mobile.records import canonical_json
from tfx_mobile.release_store.signing import Keyring, PublicKey, Signer, TrustedKeys, load_public_key, public_pem
from tfx_mobile.validation import problems_in

KEY_FILE_VARIABLE = "TFX_MOBILE_SIGNING_KEY_FILE"
KMS_SCHEME = "gcp-kms://"

PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

_KEY_VERSION = re.compile(
    r"projects/[^/\s]+/locations/[^/\s]+/keyRings/[\w-]+/cryptoKeys/[\w-]+/cryptoKeyVersions/[1-9][0-9]*", re.ASCII
)
_KEY_VERSION_FORM = "projects/P/locations/L/keyRings/R/cryptoKeys/K/cryptoKeyVersions/1"
_NEVER = (
    "Parameters are kept in ML Metadata and in the compiled pipeline, where many can read them, so a private key, or "
    "the path of one, is never a parameter."
)
_VALID = (
    f"Valid are KmsSigningKey(key_version='{_KEY_VERSION_FORM}'), its short form '{KMS_SCHEME}{_KEY_VERSION_FORM}', "
    f"and for tests EnvironmentSigningKey() or 'environment', which reads the file that {KEY_FILE_VARIABLE} names "
    "where the pipeline runs."
)


class SigningKey(BaseModel):
    """Which private key signs, as data: frozen, validated, JSON in and out, without any secret.

    Attributes:
        type: Tells keys apart in JSON.

    Raises:
        ValueError: A value is not valid. The message never repeats what could be a secret.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: str

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            problems = problems_in(error, with_values=False)
            raise ValueError(f"Invalid {type(self).__name__}: {problems}. {_VALID}") from None

    @abstractmethod
    def open(self) -> Signer:
        """Gets ready to sign.

        Raises:
            SigningError: The key is not there, may not be used, or is not of a kind that devices can verify.
        """


class KmsSigningKey(SigningKey):
    """A key in Google Cloud KMS, which signs without ever giving the key away.

    Attributes:
        key_version: Full resource name of the key version, with its number: the number decides which public key devices
            need. Its algorithm is EC_SIGN_P256_SHA256 or EC_SIGN_ED25519.
        type: Tells keys apart in JSON.

    Raises:
        ValueError: `key_version` is not such a name.
    """

    key_version: str
    type: Literal["gcp_kms"] = "gcp_kms"

    @field_validator("key_version")
    @classmethod
    def _check_key_version(cls, value: str) -> str:
        if _KEY_VERSION.fullmatch(value):
            return value
        if _is_secret(value):
            raise ValueError(f"it holds key material. {_NEVER}")
        raise ValueError(f"{value!r} is not the full name of a key version, such as {_KEY_VERSION_FORM}")

    def open(self) -> Signer:
        """Asks for the public half.

        Raises:
            SigningError: The key is not there, may not be used, or is not of a kind that devices can verify.
        """
        # Imported here: the client library is large, and naming a key needs none of it.
        from tfx_mobile.release_store.kms_signer import KmsSigner

        return KmsSigner(self.key_version)


class EnvironmentSigningKey(SigningKey):
    """A key in a PEM file that the environment variable TFX_MOBILE_SIGNING_KEY_FILE names; for tests and desks only.

    Whoever can read the file can sign for ever, so production signs with KmsSigningKey.

    Attributes:
        type: Tells keys apart in JSON.
    """

    type: Literal["environment"] = "environment"

    def open(self) -> Signer:
        """Reads the file.

        Raises:
            SigningError: There is no such file, anybody can read it, or it holds no private key on P-256 or of Ed25519.
        """
        path = os.environ.get(KEY_FILE_VARIABLE, "")
        if not path:
            raise SigningError(
                f"{KEY_FILE_VARIABLE} is not set. Let it name a PEM file with a private key on P-256 or of Ed25519; "
                "'tfx-mobile keys generate FILE' makes one. In production use KmsSigningKey."
            )
        return LocalSigner(_read_private_key(Path(path)))


class LocalSigner:
    """Signs with a private key in this process's memory.

    Args:
        key: The private key.
    """

    def __init__(self, key: PrivateKey) -> None:
        self._key = key

    @property
    def public_key(self) -> PublicKey:
        """The public half."""
        return self._key.public_key()

    def sign(self, message: bytes) -> bytes:
        """Signs: for P-256 in DER form, for Ed25519 64 bytes."""
        if isinstance(self._key, ed25519.Ed25519PrivateKey):
            return self._key.sign(message)
        return self._key.sign(message, ec.ECDSA(hashes.SHA256()))


_KINDS: Mapping[str, type[SigningKey]] = {"gcp_kms": KmsSigningKey, "environment": EnvironmentSigningKey}


def parse_signing_key(signing_key: object) -> SigningKey:
    """Turns the name of a key, in any of its forms, into a SigningKey; one that is one already is returned.

    Args:
        signing_key: A SigningKey, its JSON as text or dictionary, `gcp-kms://projects/...`, or `environment`.

    Raises:
        ValueError: It is none of these. The message never repeats what could be a secret.
    """
    if isinstance(signing_key, SigningKey):
        return signing_key
    if _is_secret(signing_key):
        raise ValueError(f"signing_key holds key material. {_NEVER} {_VALID}")
    if isinstance(signing_key, str):
        text = signing_key.strip()
        if text == "environment":
            return EnvironmentSigningKey()
        if text.startswith(KMS_SCHEME):
            return KmsSigningKey(key_version=text.removeprefix(KMS_SCHEME))
        if text.startswith("{"):
            try:
                signing_key = json.loads(text)
            except json.JSONDecodeError as error:
                raise ValueError(f"signing_key is not valid JSON ({error}). {_VALID}") from None
        elif _KEY_VERSION.fullmatch(text):
            raise ValueError(f"signing_key={text!r} lacks its scheme; write '{KMS_SCHEME}{text}'.")
        elif "/" in text or re.search(r"\.(pem|key|json|p8|p12|der)$", text, re.IGNORECASE):
            raise ValueError(f"signing_key={text!r} looks like the path of a file. {_NEVER} {_VALID}")
    if isinstance(signing_key, Mapping):
        fields = {str(name): value for name, value in signing_key.items()}
        if (kind := fields.get("type")) in _KINDS:
            return _KINDS[str(kind)](**fields)
        raise ValueError(f"signing_key has type {kind!r}; valid types: {', '.join(_KINDS)}. {_VALID}")
    raise ValueError(f"signing_key={signing_key!r} names no key. {_VALID}")


def signing_key_to_json(signing_key: SigningKey) -> str:
    """The one JSON form of a signing key; `parse_signing_key` reads it."""
    return canonical_json(signing_key.model_dump(mode="json")).decode()


def parse_trusted_keys(trusted_keys: str | bytes | Iterable[str | bytes] | None) -> tuple[str, ...]:
    """Checks public keys and brings them into the one PEM form; the same key twice is kept once.

    Args:
        trusted_keys: PEM texts of public keys on P-256 or of Ed25519, one text with several of them, or a JSON list.

    Returns:
        PEM texts in the given order; empty if nothing was given.

    Raises:
        ValueError: One is not such a key. The message never repeats what could be a secret.
    """
    if isinstance(trusted_keys, str) and trusted_keys.lstrip().startswith("["):
        try:
            trusted_keys = json.loads(trusted_keys)
        except json.JSONDecodeError as error:
            raise ValueError(f"trusted_keys is not valid JSON ({error}). Give a list of PEM texts.") from None
    given = [trusted_keys] if isinstance(trusted_keys, (str, bytes)) else (trusted_keys or ())
    if isinstance(given, Mapping) or not isinstance(given, Iterable):
        raise ValueError(f"trusted_keys is a {type(given).__name__}; give a list of PEM texts of public keys.")
    pems: list[str] = []
    for position, text in enumerate(given):
        for pem in _split(text, position):
            try:
                pems.append(public_pem(load_public_key(pem)))
            except ValueError as error:
                raise ValueError(f"trusted_keys[{position}] is {error}") from None
    return tuple(dict.fromkeys(pems))


def trusted_keys_to_json(trusted_keys: Iterable[str]) -> str:
    """The one JSON form of trusted keys; `parse_trusted_keys` reads it."""
    return canonical_json(list(trusted_keys)).decode()


def open_keyring(signing_key: SigningKey | None, trusted_keys: Iterable[str]) -> Keyring:
    """The keys of an act, ready for use.

    Args:
        signing_key: Who signs what is written; None leaves it unsigned.
        trusted_keys: PEM texts of the keys of which one must have signed what is read; none at all requires nothing.

    Raises:
        SigningError: The signing key cannot be used, or is not among the trusted ones.
    """
    pems = tuple(trusted_keys)
    signer = signing_key.open() if signing_key else None
    return Keyring(signer, TrustedKeys.from_pem(*pems) if pems else None)


def _split(text: object, position: int) -> list[str]:
    """The public keys in a text, which may hold several one after the other."""
    if isinstance(text, bytes):
        text = text.decode(errors="replace")
    if not isinstance(text, str):
        raise ValueError(f"trusted_keys[{position}] is a {type(text).__name__}; give the PEM text of a public key.")
    if _is_secret(text):
        raise ValueError(
            f"trusted_keys[{position}] holds a private key. {_NEVER} If it was stored anywhere, replace the key. Give "
            "the public half, which 'tfx-mobile keys show' prints."
        )
    blocks = re.findall(r"-----BEGIN PUBLIC KEY-----.*?-----END PUBLIC KEY-----", text, re.DOTALL)
    return blocks or [text]


def _is_secret(value: object) -> bool:
    """Whether a value looks like a private key, or like the key file of a service account."""
    if isinstance(value, Mapping):
        return any(_is_secret(name) or _is_secret(item) for name, item in value.items())
    text = value.decode(errors="replace") if isinstance(value, bytes) else value
    return isinstance(text, str) and bool(re.search(r"PRIVATE KEY|-----BEGIN(?! PUBLIC KEY)|private_key", text))


def _read_private_key(path: Path) -> PrivateKey:
    where = f"{path}, which {KEY_FILE_VARIABLE} names,"
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(1 << 16)
    except OSError as error:
        raise SigningError(
            f"{where} cannot be read: {error.strerror}. Let the variable name a PEM file that the pipeline's user may "
            "read; 'tfx-mobile keys generate FILE' makes one."
        ) from None
    if mode & (stat.S_IROTH | stat.S_IWOTH):
        raise SigningError(
            f"{where} can be read or written by every user of this machine (mode {stat.S_IMODE(mode):04o}), so anybody "
            f"may have the key. Make a new one with 'tfx-mobile keys generate FILE', or, if nobody has it, run "
            f"'chmod 600 {path}'."
        )
    try:
        key = serialization.load_pem_private_key(data, password=None)
    except TypeError:
        raise SigningError(
            f"{where} holds an encrypted key, and nobody is there to type the password. Give an unencrypted key for "
            "tests, or use KmsSigningKey."
        ) from None
    except (ValueError, UnsupportedAlgorithm) as error:
        raise SigningError(
            f"{where} holds no private key in PEM form ({type(error).__name__}). 'tfx-mobile keys generate "
            "FILE' makes one."
        ) from None
    if isinstance(key, ed25519.Ed25519PrivateKey) or (
        isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1)
    ):
        return key
    curve = f" on {key.curve.name}" if isinstance(key, ec.EllipticCurvePrivateKey) else ""
    raise SigningError(
        f"{where} holds a {type(key).__name__}{curve}; valid are keys on P-256 (secp256r1), which every phone verifies "
        "with its own library, and of Ed25519."
    )
