"""Cloud KMS as far as signing goes: the two REST calls, with the checksums and errors of the real service."""

from __future__ import annotations

import base64
import json
from typing import Any

import google_crc32c
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from tests.fakes.http_server import FakeServer, Request, Response
from tfx_mobile.release_store.signing import public_pem
from tfx_mobile.release_store.signing_keys import PrivateKey

KEY_VERSION = "projects/shop/locations/europe-west3/keyRings/models/cryptoKeys/release/cryptoKeyVersions/1"


def crc32c(data: bytes) -> str:
    """As JSON writes an Int64Value."""
    return str(google_crc32c.value(data))


class FakeCloudKms(FakeServer):
    """One key version.

    Attributes:
        private_key: The key.
        algorithm: What the service says its algorithm is.
        state: Of the key version.
        allowed: Whether the caller has the role.
        tampered: Members of an answer that are damaged on their way, with what becomes of them.
    """

    def __init__(self, private_key: PrivateKey | None = None, algorithm: str = "") -> None:
        super().__init__()
        self.private_key = private_key or ec.generate_private_key(ec.SECP256R1())
        is_ed25519 = isinstance(self.private_key, ed25519.Ed25519PrivateKey)
        self.algorithm = algorithm or ("EC_SIGN_ED25519" if is_ed25519 else "EC_SIGN_P256_SHA256")
        self.state = "ENABLED"
        self.allowed = True
        self.tampered: dict[str, Any] = {}

    def handle(self, request: Request) -> Response:
        name, _, verb = request.path.removeprefix("/v1/").partition(":")
        is_public_key = request.method == "GET" and name.endswith("/publicKey") and not verb
        version = name.removesuffix("/publicKey")
        if not is_public_key and not (request.method == "POST" and verb == "asymmetricSign"):
            return _error(404, "NOT_FOUND", "Method not found.")
        if not self.allowed:
            permission = "viewPublicKey" if is_public_key else "useToSign"
            return _error(
                403,
                "PERMISSION_DENIED",
                f"Permission 'cloudkms.cryptoKeyVersions.{permission}' denied on resource '{version}' (or it may not "
                "exist).",
            )
        if version != KEY_VERSION:
            return _error(404, "NOT_FOUND", f"CryptoKeyVersion {version} not found.")
        if self.state != "ENABLED":
            return _error(400, "FAILED_PRECONDITION", f"{version} is not enabled, current state is: {self.state}.")
        return self._public_key() if is_public_key else self._sign(request.json())

    def _public_key(self) -> Response:
        pem = public_pem(self.private_key.public_key())
        return self._answer(
            {
                "pem": pem,
                "algorithm": self.algorithm,
                "pemCrc32c": crc32c(pem.encode()),
                "name": KEY_VERSION,
                "protectionLevel": "HSM",
            }
        )

    def _sign(self, given: dict[str, Any]) -> Response:
        if isinstance(self.private_key, ed25519.Ed25519PrivateKey):
            if "digest" in given:
                return _error(400, "INVALID_ARGUMENT", "Digest is not supported for EC_SIGN_ED25519.")
            signed, field = base64.b64decode(given["data"]), "data"
            signature = self.private_key.sign(signed)
        else:
            signed, field = base64.b64decode(given["digest"]["sha256"]), "digest"
            signature = self.private_key.sign(signed, ec.ECDSA(Prehashed(hashes.SHA256())))
        checksum = given.get(f"{field}Crc32c")
        if checksum is not None and checksum != crc32c(signed):
            return _error(400, "INVALID_ARGUMENT", f"The {field}_crc32c did not match the {field}.")
        return self._answer(
            {
                "signature": base64.b64encode(signature).decode(),
                "signatureCrc32c": crc32c(signature),
                "name": KEY_VERSION,
                f"verified{field.capitalize()}Crc32c": checksum is not None,
                "protectionLevel": "HSM",
            }
        )

    def _answer(self, members: dict[str, Any]) -> Response:
        return Response.of_json({**members, **{k: v for k, v in self.tampered.items() if k in members}})


def _error(code: int, status: str, message: str) -> Response:
    body = {"error": {"code": code, "message": message, "status": status}}
    return Response(code, json.dumps(body).encode(), {"Content-Type": "application/json; charset=UTF-8"})
