"""Signing with a key in Google Cloud KMS, through Google's client library.

The client talks REST, not gRPC: one transport to test, one that follows the proxies of its surroundings, and one that
survives the forks of the processes it runs in. What goes in and out is held against the checksums that Google's
documentation asks clients to verify, and every signature is verified before it is used.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, TypeVar

import google_crc32c
import requests
import tenacity
from google.api_core import exceptions as google_errors
from google.auth.credentials import AnonymousCredentials
from google.auth.exceptions import GoogleAuthError
from google.cloud import kms_v1
from google.protobuf.json_format import ParseError

from tfx_mobile.errors import SigningError
from tfx_mobile.google_rest import Answer, Patience, loopback_override
from tfx_mobile.release_store.signing import PublicKey, is_signature, load_public_key

#: For tests: a server on the loopback interface that stands in for the service.
ENDPOINT_VARIABLE = "TFX_MOBILE_KMS_ENDPOINT"

_MAX_ATTEMPTS = 6
_PATIENCE = Patience(read_seconds=30.0, total_seconds=120.0, first_wait_seconds=0.5)
_ROLE = "roles/cloudkms.signerVerifier"
_VALID_ALGORITHMS = ("EC_SIGN_P256_SHA256", "EC_SIGN_ED25519")
_TRANSIENT = (
    google_errors.TooManyRequests,
    google_errors.InternalServerError,
    google_errors.BadGateway,
    google_errors.ServiceUnavailable,
    google_errors.GatewayTimeout,
    requests.exceptions.RequestException,
    ParseError,  # the answer broke off, which older versions of urllib3 do not notice
)

_T = TypeVar("_T")


class KmsSigner:
    """The `signing.Signer` of one key version.

    Args:
        key_version: Its resource name.
        patience: How long to wait for the service.

    Raises:
        SigningError: The key is not there, may not be used, or is not of a kind that devices can verify.
    """

    def __init__(self, key_version: str, patience: Patience = _PATIENCE) -> None:
        self._name = key_version
        self._patience = patience
        self._client = self._open_client()
        self._algorithm, self._public_key = self._call(self._fetch_public_key)

    @property
    def public_key(self) -> PublicKey:
        """The public half."""
        return self._public_key

    def sign(self, message: bytes) -> bytes:
        """Signs: for P-256 in DER form, for Ed25519 64 bytes.

        Raises:
            SigningError: The service refuses, cannot be reached, or keeps giving what does not verify.
        """
        return self._call(lambda: self._sign_once(message))

    def _open_client(self) -> Any:
        endpoint = loopback_override(ENDPOINT_VARIABLE)
        options: dict[str, Any] = {"transport": "rest"}
        if endpoint:
            options |= {"credentials": AnonymousCredentials(), "client_options": {"api_endpoint": endpoint}}
        try:
            return kms_v1.KeyManagementServiceClient(**options)
        except GoogleAuthError as error:
            raise self._no_credentials(error) from None

    def _fetch_public_key(self) -> tuple[str, PublicKey]:
        answer = self._client.get_public_key(request={"name": self._name}, **self._call_options)
        self._check(answer.name == self._name, "the answer is about another key version")
        self._check(answer.pem_crc32c == _crc32c(answer.pem.encode()), "the public key does not match its checksum")
        algorithm = getattr(answer.algorithm, "name", str(answer.algorithm))
        if algorithm not in _VALID_ALGORITHMS:
            raise SigningError(
                f"{self._name} has the algorithm {algorithm}; valid are {' and '.join(_VALID_ALGORITHMS)}. Make a key "
                "with 'gcloud kms keys create KEY --keyring=RING --location=LOCATION --purpose=asymmetric-signing "
                "--default-algorithm=ec-sign-p256-sha256'."
            )
        try:
            return algorithm, load_public_key(answer.pem)
        except ValueError as error:
            raise SigningError(f"The public half of {self._name} is {error}") from None

    def _sign_once(self, message: bytes) -> bytes:
        if self._algorithm == "EC_SIGN_P256_SHA256":
            digest = hashlib.sha256(message).digest()
            given = {"digest": {"sha256": digest}, "digest_crc32c": _crc32c(digest)}
        else:
            given = {"data": message, "data_crc32c": _crc32c(message)}
        answer = self._client.asymmetric_sign(request={"name": self._name, **given}, **self._call_options)
        received = answer.verified_digest_crc32c if "digest" in given else answer.verified_data_crc32c
        self._check(received, "the service did not receive the checksum of what it was to sign")
        self._check(answer.name == self._name, "another key version signed")
        self._check(answer.signature_crc32c == _crc32c(answer.signature), "the signature does not match its checksum")
        self._check(is_signature(self._public_key, answer.signature, message), "the signature is not valid")
        return bytes(answer.signature)

    @property
    def _call_options(self) -> dict[str, Any]:
        # Repetitions are made here: the library's own leave out broken connections, and know nothing of checksums.
        return {"retry": None, "timeout": self._patience.read_seconds}

    def _check(self, holds: bool, problem: str) -> None:
        if not holds:
            raise _WorthRepeatingError(problem)

    def _call(self, request: Callable[[], _T]) -> _T:
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_WorthRepeatingError),
            wait=tenacity.wait_random_exponential(multiplier=self._patience.first_wait_seconds, max=30.0),
            stop=tenacity.stop_after_attempt(_MAX_ATTEMPTS) | tenacity.stop_after_delay(self._patience.total_seconds),
            reraise=True,
        )
        try:
            done: _T = retrying(self._explained, request)
        except _WorthRepeatingError as error:
            raise SigningError(
                f"Cloud KMS could not be used with {self._name}: {error}. Nothing is lost: push again later, a push "
                "takes up where the last one stopped."
            ) from None
        return done

    def _explained(self, request: Callable[[], _T]) -> _T:
        try:
            return request()
        except _TRANSIENT as error:
            raise _WorthRepeatingError(_words_of(error)) from None
        except GoogleAuthError as error:
            raise self._no_credentials(error) from None
        except google_errors.GoogleAPICallError as error:
            if "crc32c" in str(error).lower():  # what was sent was damaged on its way
                raise _WorthRepeatingError(_words_of(error)) from None
            raise SigningError(
                f"Cloud KMS refuses to use {self._name}: {_words_of(error)}. {_advice_for(error)}"
            ) from None

    def _no_credentials(self, error: GoogleAuthError) -> SigningError:
        return SigningError(
            f"There are no credentials to use {self._name} with ({type(error).__name__}). Give the pipeline an "
            "identity: workload identity on Kubernetes, a service account on Vertex, or 'gcloud auth "
            f"application-default login' at a desk; and grant it the role {_ROLE} on the key."
        )


class _WorthRepeatingError(Exception):
    """The service may do better next time."""


def _crc32c(data: bytes) -> int:
    return int(google_crc32c.value(data))


def _words_of(error: Exception) -> str:
    """What the service said; of a broken connection only its kind, since the rest is about addresses."""
    if not isinstance(error, google_errors.GoogleAPICallError):
        return type(error).__name__
    said = error.response
    words = Answer(said.status_code, said.headers, said.content).message if said is not None else error.message
    return f"{error.code} {words}".rstrip(".")


def _advice_for(error: google_errors.GoogleAPICallError) -> str:
    if error.code in (401, 403):
        return (
            f"Grant the role {_ROLE} on the key to the identity that the pipeline runs as ('gcloud kms keys "
            "add-iam-policy-binding'), and see that the Cloud KMS API is enabled in the project."
        )
    if error.code == 404:
        return "'gcloud kms keys versions list' shows the versions of a key, with their full names."
    if "is not enabled" in _words_of(error):
        return (
            "Enable the version ('gcloud kms keys versions enable'), or name one that is enabled; devices need its "
            "public key before it signs."
        )
    return f"The key must have the purpose ASYMMETRIC_SIGN and an algorithm of {', '.join(_VALID_ALGORITHMS)}."
