"""Refuses parameters that look like secrets.

Parameters of a TFX component end up in the compiled pipeline, in ML Metadata, in logs and on Kubeflow's pages. A check
of texts cannot find every secret; it finds those that people paste: keys, tokens, signed addresses, and the paths of
key files.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from tfx_mobile.errors import SecretParameterError

_ADVICE = (
    "Parameters are stored in the compiled pipeline and in ML Metadata, and shown to everybody who may see a run. Take "
    "the value out and give the identity that runs the step what it needs: Application Default Credentials through "
    "workload identity or impersonation for destinations, a key in Cloud KMS for signing. If the value was real and "
    "the pipeline was ever compiled or run with it, revoke it."
)

#: What a text must not hold, and what that is called. Nothing else than the name gets into a message.
_PATTERNS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("a private key in PEM form", re.compile(r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY")),
    (
        "a credentials file of Google (JSON)",
        re.compile(r'"(private_key|client_secret|refresh_token|credential_source)"\s*:|"type"\s*:\s*"service_account"'),
    ),
    ("an OAuth access token of Google", re.compile(r"\bya29\.[\w-]{8,}")),
    ("an OAuth refresh token of Google", re.compile(r"(?<![\w/])1//0[\w-]{20,}")),
    ("an API key of Google", re.compile(r"(?<![\w-])AIza[\w-]{35}(?![\w-])")),
    ("a JSON Web Token", re.compile(r"(?<![\w-])eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]*")),
    ("an authorization header", re.compile(r"(?i)\bbearer\s+[\w.~+/-]{20,}")),
    ("an access key of AWS", re.compile(r"(?<![A-Z0-9])(AKIA|ASIA)[A-Z0-9]{16}(?![A-Z0-9])")),
    ("an account key of Azure", re.compile(r"(?i)\b(AccountKey|SharedAccessKey|SharedAccessSignature)\s*=")),
    ("an account key of Azure", re.compile(r"(?<![\w+/-])[A-Za-z0-9+/]{86}==")),
    ("a client secret of Azure", re.compile(r"(?<![\w~.-])[\w~.-]{3}\dQ~[\w~.-]{31,34}(?![\w~.-])")),
    (
        "a signed address or its signature",
        re.compile(
            r"(?i)[?&](sig|signature|token|access_token|awsaccesskeyid|googleaccessid)=[^&\s]|"
            r"\bx-(goog-(signature|credential)|amz-(signature|credential|security-token))=[^&\s]"
        ),
    ),
    # Azure's own addresses have the form abfss://<container>@<account>, and no secret in it.
    (
        "a user or password in an address",
        re.compile(r"(?i)\b(?!(?:abfss?|wasbs?)://[^\s/:@]+@)[a-z][a-z0-9+.-]*://[^\s/?#@]+@"),
    ),
)
#: Random text of 40 characters, in three kinds of them: what AWS calls a secret access key.
_AWS_SECRET = re.compile(r"(?!/)(?=[^A-Z]*[A-Z])(?=[^a-z]*[a-z])(?=(?:[^0-9]*[0-9]){2})[A-Za-z0-9+/]{40}")
_AWS_MIN_DISTINCT = 20
_PUBLIC_PEM = re.compile(r"-----BEGIN (PUBLIC KEY|CERTIFICATE)-----.*?-----END \1-----", re.DOTALL)
_KEY_FILE = re.compile(r"(?i)[^\s]+\.(json|pem|p12|pfx|jks|key)")
_MAY_BE_A_KEY = re.compile(r"(?i)(?<![a-z])(keys?|secrets?|credentials?|tokens?|auth|password|account|certs?)(?![a-z])")
_SECRET_NAME = re.compile(
    r"(?i)(.*_)?(password|passwd|passphrase|secret|client_secret|private_key|api_?key|secret_(access_)?key|"
    r"access_key(_id)?|account_key|(access|refresh|id|auth|bearer|sas|session|security)_token|connection_string|"
    r"credentials?(_(file|path|json))?|key_?file)"
)


def refuse_secrets(parameters: Mapping[str, Any]) -> None:
    """Makes sure that no parameter looks like a secret, however deep it lies, also within JSON texts.

    Args:
        parameters: By name: texts, paths, numbers, lists, mappings, pydantic models; anything else is passed over.

    Raises:
        SecretParameterError: One does. The message names the parameter, the place in it, and what it looks like; it
            does not repeat it.
    """
    for name, value in parameters.items():
        for place, problem in _secrets(value, name):
            raise SecretParameterError(f"{place} holds {problem}. {_ADVICE}")


def _secrets(value: Any, place: str, *, is_named_secret: bool = False) -> Iterator[tuple[str, str]]:
    """What looks like a secret: where, and what it is."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    if isinstance(value, str):
        yield from _secrets_in_text(value, place, is_named_secret)
    elif isinstance(value, Mapping):
        for key, content in value.items():
            key = str(key)
            if problem := _problem_of(key):  # a key's text is a place to put a secret, too, and is not repeated then
                yield f"A key in {place}", problem
            yield from _secrets(content, f"{place}[{key!r}]", is_named_secret=bool(_SECRET_NAME.fullmatch(_plain(key))))
    elif isinstance(value, (list, tuple, set, frozenset)):
        for index, content in enumerate(value):
            yield from _secrets(content, f"{place}[{index}]", is_named_secret=is_named_secret)


def _secrets_in_text(text: str, place: str, is_named_secret: bool) -> Iterator[tuple[str, str]]:
    if problem := _problem_of(text):
        yield place, problem
    elif is_named_secret and text.strip():
        yield place, "something, and its name says that it is a secret"
    elif _MAY_BE_A_KEY.search(_plain(place)) and _KEY_FILE.fullmatch(text.strip()):
        yield place, "the path of what looks like a key file"
    elif text.lstrip()[:1] in ("{", "["):
        try:
            document = json.loads(text)
        except json.JSONDecodeError:
            return
        yield from _secrets(document, place, is_named_secret=is_named_secret)


def _problem_of(text: str) -> str | None:
    """What a text holds that must not be in a parameter; None if nothing."""
    text = _PUBLIC_PEM.sub("", text)
    for problem, pattern in _PATTERNS:
        if pattern.search(text):
            return problem
    if _AWS_SECRET.fullmatch(text.strip()) and len(set(text)) >= _AWS_MIN_DISTINCT:
        return "what looks like a secret access key of AWS"
    return None


def _plain(name: str) -> str:
    """A name in one spelling: `clientSecret`, `client-secret` and `client_secret` are the same."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|[\s.-]+", "_", name)
