"""Google's REST services that have no client library fit for a push: Firebase ML and Remote Config.

Credentials are those of the surroundings (Application Default Credentials: workload identity, a metadata server,
impersonation); none is ever given as a parameter. Messages of errors hold neither addresses with signatures nor tokens.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import time
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import requests
import tenacity
from google.auth.exceptions import GoogleAuthError

from tfx_mobile.errors import DestinationUnavailableError

RETRIED_STATUSES = frozenset({429, 500, 502, 503, 504})


@dataclass(frozen=True)
class Patience:
    """How long to wait for a service.

    Attributes:
        connect_seconds: To connect.
        read_seconds: For an answer.
        total_seconds: For one call with all its repetitions.
        first_wait_seconds: Between the first two attempts; each further wait is about twice as long.
        poll_seconds: Between the first two looks at an operation that takes long.
    """

    connect_seconds: float = 10.0
    read_seconds: float = 120.0
    total_seconds: float = 300.0
    first_wait_seconds: float = 1.0
    poll_seconds: float = 3.0


@dataclass(frozen=True)
class Answer:
    """What a service said.

    Attributes:
        status: HTTP status.
        headers: With names in any case.
        body: The bytes.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON.

        Raises:
            DestinationUnavailableError: It is none.
        """
        try:
            return json.loads(self.body)
        except ValueError as error:
            raise DestinationUnavailableError(
                f"The service answered {self.status} with something that is not JSON ({error}). Try again later."
            ) from None

    @property
    def message(self) -> str:
        """The service's own words for an error, or the beginning of what it sent."""
        with contextlib.suppress(ValueError, TypeError, KeyError):
            return str(json.loads(self.body)["error"]["message"])
        return self.body[:200].decode(errors="replace")


class AnswerLostError(DestinationUnavailableError):
    """The request may have been carried out, but no answer came; repeating it may not be right."""


class RestClient:
    """Calls one service.

    Args:
        endpoint: Where the service is, such as `https://firebaseml.googleapis.com`. For tests the environment variable
            `endpoint_variable` may name a server on the loopback interface instead, which is then called without
            credentials; any other host in it is refused, so that no token can be led astray.
        endpoint_variable: Name of that variable.
        scopes: OAuth scopes.
        patience: How long to wait.

    Raises:
        ValueError: The variable names a host elsewhere.
    """

    def __init__(
        self, endpoint: str, endpoint_variable: str, scopes: tuple[str, ...], patience: Patience = Patience()
    ) -> None:
        override = loopback_override(endpoint_variable)
        self.endpoint = (override or endpoint).rstrip("/")
        self.patience = patience
        self._scopes = scopes
        self._anonymous = bool(override)
        self._session: requests.Session | None = None

    def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        repeatable: bool = True,
    ) -> Answer:
        """Sends a request and returns the answer, also an error that is not worth repeating (4xx other than 429).

        Args:
            method: HTTP method.
            path: Beginning with `/`.
            query: Parameters.
            body: JSON text.
            headers: More headers.
            repeatable: Whether the request may be carried out twice. If not, it is sent again only where it surely did
                not arrive; whoever calls finds out what became of it.

        Raises:
            AnswerLostError: It is not repeatable and nobody knows whether it was carried out.
            DestinationUnavailableError: The service could not be reached in time, or there are no credentials.
        """
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_WorthRepeatingError),
            wait=_wait(self.patience.first_wait_seconds),
            stop=tenacity.stop_after_delay(self.patience.total_seconds),
            reraise=True,
        )
        try:
            return retrying(self._once, method, path, query or {}, body, headers or {}, repeatable)
        except _WorthRepeatingError as error:
            raise DestinationUnavailableError(
                f"{method} {self.endpoint}{path} failed for {self.patience.total_seconds:g} s: {error}. Nothing is "
                "lost: push again later, a push takes up where the last one stopped."
            ) from None

    def _once(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: bytes | None,
        headers: Mapping[str, str],
        repeatable: bool,
    ) -> Answer:
        address = f"{self.endpoint}{path}"
        if query:
            address += "?" + urllib.parse.urlencode(query)
        if body is not None:
            headers = {"Content-Type": "application/json; charset=UTF-8", **headers}
        try:
            response = self._opened().request(
                method,
                address,
                data=body,
                headers=dict(headers),
                timeout=(self.patience.connect_seconds, self.patience.read_seconds),
                allow_redirects=False,
            )
            answer = Answer(response.status_code, response.headers, response.content)
        except GoogleAuthError as error:
            raise DestinationUnavailableError(
                f"No credentials for {method} {self.endpoint}{path}: {type(error).__name__}. Give the pipeline an "
                "identity: workload identity on Kubernetes, a service account on Vertex, or 'gcloud auth "
                "application-default login' on a desk."
            ) from None
        except requests.exceptions.ConnectTimeout as error:
            raise _WorthRepeatingError(type(error).__name__) from None
        except requests.exceptions.RequestException as error:
            if not repeatable:
                raise AnswerLostError(
                    f"{method} {self.endpoint}{path}: no answer came ({type(error).__name__}), and it may have been "
                    "carried out. Push again: a push finds what is there."
                ) from None
            raise _WorthRepeatingError(type(error).__name__) from None
        if answer.status in RETRIED_STATUSES:
            if repeatable:
                raise _WorthRepeatingError(f"{answer.status} {answer.message}", answer.headers.get("Retry-After"))
            time.sleep(_asked_for(answer.headers.get("Retry-After")) or self.patience.first_wait_seconds)
            raise AnswerLostError(
                f"{method} {self.endpoint}{path}: {answer.status} {answer.message}. It may have been carried out. Push "
                "again: a push finds what is there."
            )
        return answer

    def _opened(self) -> requests.Session:
        if self._session is None:
            if self._anonymous:
                self._session = requests.Session()
                self._session.trust_env = False  # a proxy of the surroundings has no business with a fake
            else:
                import google.auth
                from google.auth.transport.requests import AuthorizedSession

                credentials, _ = google.auth.default(scopes=list(self._scopes))
                # Repetitions are this client's: the library's own would repeat what must not be.
                self._session = AuthorizedSession(credentials, max_refresh_attempts=1)
        return self._session


def wait_until(check: Any, patience: Patience) -> Any:
    """Calls `check` until it returns something, with growing pauses; None if `total_seconds` pass without.

    The time is measured by a clock that nobody sets, so a wrong clock decides nothing.
    """
    deadline, pause = time.monotonic() + patience.total_seconds, patience.poll_seconds
    while True:
        if (found := check()) is not None:
            return found
        left = deadline - time.monotonic()
        if left <= 0:
            return None
        time.sleep(min(pause, left))
        pause *= 1.5


class _WorthRepeatingError(Exception):
    """The service may answer next time."""

    def __init__(self, message: str, retry_after: str | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


def _wait(first_seconds: float) -> Any:
    """What the service asked for in Retry-After, else a random and growing pause."""
    growing = tenacity.wait_random_exponential(multiplier=first_seconds, max=60.0)

    def wait(state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        asked = _asked_for(error.retry_after) if isinstance(error, _WorthRepeatingError) else None
        return growing(state) if asked is None else asked

    return wait


def _asked_for(retry_after: str | None) -> float | None:
    """Seconds in a Retry-After; None without one, or if it is a date, which a wrong clock would misread."""
    return min(float(retry_after), 300.0) if retry_after and retry_after.isdecimal() else None


def loopback_override(endpoint_variable: str) -> str:
    """The fake on the loopback interface that an environment variable names; empty if it names none.

    Raises:
        ValueError: It names a host elsewhere.
    """
    override = os.environ.get(endpoint_variable, "")
    if override and not is_loopback(override):
        raise ValueError(
            f"{endpoint_variable}={override!r} is not on the loopback interface. It exists for tests against a "
            "fake such as http://127.0.0.1:8080; unset it to reach the real service."
        )
    return override


def is_loopback(endpoint: str) -> bool:
    """Whether an address is on this machine."""
    host = urllib.parse.urlsplit(endpoint).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
