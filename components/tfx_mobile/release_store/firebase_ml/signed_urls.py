"""Addresses in Cloud Storage that Firebase ML may fetch a file from for a while, signed without a key file.

Signing is https://cloud.google.com/storage/docs/access-control/signing-urls-manually, version 4. It is written out here
because the time in the address has to be that of the service that checks it: the library takes the local clock's, and a
pod whose clock is ten minutes wrong could not publish.
"""

from __future__ import annotations

import datetime
import hashlib
import threading
import urllib.parse
from typing import Any

from google.auth.exceptions import GoogleAuthError

from tfx_mobile.errors import DestinationUnavailableError
from tfx_mobile.google_rest import without_signatures

#: Long enough for a service to begin to fetch a file, short enough to be of no use to whoever finds the address.
LIFETIME = datetime.timedelta(minutes=10)

_SCOPES = ("https://www.googleapis.com/auth/cloud-platform",)
_HOST = "storage.googleapis.com"
_ALGORITHM = "GOOG4-RSA-SHA256"
_ROLE = "roles/iam.serviceAccountTokenCreator"


class SignedUrls:
    """Signs addresses with the identity of the surroundings.

    An identity that holds a private key, or borrows one by impersonation, signs by itself. All others, such as workload
    identity and the identity of a machine, have IAM sign (`signBlob`), for which they need
    `roles/iam.serviceAccountTokenCreator` on the service account that signs, be it their own.

    Args:
        bucket: The bucket.
        prefix: What comes before an object's path in it; empty for nothing.
        service_account: E-mail address of the service account that signs; None for the identity's own.
        credentials: The identity; None for that of the surroundings.
        request: How Google's library makes HTTP requests; None for its own way.
    """

    def __init__(
        self, bucket: str, prefix: str, service_account: str | None = None, credentials: Any = None, request: Any = None
    ) -> None:
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._service_account = service_account
        self._credentials = credentials
        self._request = request
        self._lock = threading.Lock()

    def __call__(self, path: str, now: datetime.datetime) -> str:
        """A fresh address of the object at `path`, valid for 10 minutes from `now`.

        Raises:
            DestinationUnavailableError: Nobody here can sign.
        """
        with self._lock:
            signer, email = self._signer()
            time = now.astimezone(datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ")
            scope = f"{time[:8]}/auto/storage/goog4_request"
            resource = "/" + urllib.parse.quote(f"{self._bucket}/{self._prefix}{path}", safe="/~")
            query = {
                "X-Goog-Algorithm": _ALGORITHM,
                "X-Goog-Credential": f"{email}/{scope}",
                "X-Goog-Date": time,
                "X-Goog-Expires": str(int(LIFETIME.total_seconds())),
                "X-Goog-SignedHeaders": "host",
            }
            ordered = urllib.parse.urlencode(sorted(query.items()), quote_via=urllib.parse.quote, safe="~")
            canonical = "\n".join(("GET", resource, ordered, f"host:{_HOST}", "", "host", "UNSIGNED-PAYLOAD"))
            digest = hashlib.sha256(canonical.encode()).hexdigest()
            to_sign = "\n".join((_ALGORITHM, time, scope, digest))
            try:
                signature = signer(to_sign.encode()).hex()
            except GoogleAuthError as error:
                raise DestinationUnavailableError(
                    f"{email} cannot sign an address for Firebase ML to fetch the file from: "
                    f"{without_signatures(str(error))[:300]}. Grant the pipeline's identity {_ROLE} on the service "
                    f"account {email}, also if that is its own, and enable the IAM Service Account Credentials API; "
                    "then push again."
                ) from None
            return f"https://{_HOST}{resource}?{ordered}&X-Goog-Signature={signature}"

    def _signer(self) -> tuple[Any, str]:
        """What signs bytes, and for whom."""
        import google.auth
        import google.auth.credentials
        import google.auth.iam
        import google.auth.transport.requests

        try:
            if self._credentials is None:
                self._credentials, _ = google.auth.default(scopes=list(_SCOPES))
            if self._request is None:
                self._request = google.auth.transport.requests.Request()
            credentials = self._credentials
            own = self._service_account is None
            if own and isinstance(credentials, google.auth.credentials.Signing) and credentials.signer_email:
                return credentials.sign_bytes, credentials.signer_email
            # Only a refresh tells which account a machine's identity is; before, it calls itself "default".
            credentials.refresh(self._request)
        except GoogleAuthError as error:
            raise DestinationUnavailableError(
                f"No credentials to sign an address for Firebase ML with: {type(error).__name__}. Give the pipeline an "
                "identity: workload identity on Kubernetes, a service account on Vertex."
            ) from None
        email = self._service_account or getattr(credentials, "service_account_email", None)
        if not email or email == "default":
            raise DestinationUnavailableError(
                f"The pipeline's identity ({type(credentials).__name__}) does not say which service account it is, so "
                "no address can be signed for Firebase ML to fetch the file from. Name one: FirebaseMLDestination("
                "signing_service_account='pusher@my-project.iam.gserviceaccount.com'), and grant the identity "
                f"{_ROLE} on it."
            )
        return google.auth.iam.Signer(self._request, credentials, email).sign, str(email)
