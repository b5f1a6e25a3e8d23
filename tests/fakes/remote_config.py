"""Firebase Remote Config, as its REST reference and the console's own checks describe it.

    GET  /v1/projects/{project}/remoteConfig                       the template, ETag etag-<project number>-<version>
    PUT  /v1/projects/{project}/remoteConfig[?validateOnly=true]   with If-Match

The template is kept as the bytes that were put, apart from `version`, which the service writes itself. What no client
of ours may ever do is recorded as a violation, and leaving the server's context then fails the test: forcing
(`If-Match: *`), `:rollback`, or writing over a value that Firebase manages, which ends what is running there.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections.abc import Callable
from typing import Any

from tests.fakes.http_server import FakeServer, Request, Response

PROJECT = "my-project"
PROJECT_NUMBER = 1234

MANAGED = ("rolloutValue", "personalizationValue", "experimentValue")
_VALUE_KINDS = ("value", "useInAppDefault", *MANAGED)
_CLAUSES = tuple(
    re.compile(clause)
    for clause in (
        r"true|false",
        r"device\.os\s*(==|!=)\s*'[^']+'",
        r"device\.(country|language) in \[[^\]]+\]",
        r"app\.id\s*==\s*'[^']+'",
        r"app\.(version|build)\.(exactlyMatches|contains|<|<=|>|>=)\(\[[^\]]*\]\)",
        r"app\.userProperty\['[^']+'\]\.exactlyMatches\(\[[^\]]+\]\)",
    )
)
_PERCENT = re.compile(
    r"percent(?:\('(?P<seed>[^']*)'\))?\s*"
    r"(?:<=\s*(?P<upper>[-+]?\d+(?:\.\d+)?)|between\s+(?P<low>[-+]?\d+(?:\.\d+)?)\s+and\s+(?P<high>[-+]?\d+(?:\.\d+)?))"
)
_VERSION = re.compile(r'"version"\s*:\s*\{[^{}]*\}')


class InvalidTemplateError(Exception):
    """What the service would answer 400 to."""


class RemoteConfigFake(FakeServer):
    """One project's Remote Config; use as a context manager.

    Args:
        template: What was published so far, as JSON text; None if nothing ever was.
        mismatch_status: How an If-Match that does not match is answered; both are in use at Google.
        max_parameters: Limit of the service.
        max_conditions: Limit of the service.
        max_value_characters: Limit of the service.
        gives_etag: Whether answers carry an ETag, as those do that a proxy left alone.
    """

    def __init__(
        self,
        template: str | None = None,
        *,
        mismatch_status: int = 412,
        max_parameters: int = 3_000,
        max_conditions: int = 2_000,
        max_value_characters: int = 1_000_000,
        gives_etag: bool = True,
    ) -> None:
        super().__init__()
        self.mismatch_status = mismatch_status
        self.limits = (max_parameters, max_conditions, max_value_characters)
        self.gives_etag = gives_etag
        self.version = 0
        self.history: list[str] = ["{}"]
        self.violations: list[str] = []
        self.num_validations = 0
        self._hooks_after_get: list[Callable[[], None]] = []
        if template is not None:
            self._publish(template)

    def __exit__(self, *reason: object) -> None:
        super().__exit__(*reason)
        if not any(reason):
            assert not self.violations, self.violations

    @property
    def text(self) -> str:
        """The template that is published now."""
        return self.history[-1]

    @property
    def template(self) -> Any:
        return json.loads(self.text)

    @property
    def etag(self) -> str:
        return f"etag-{PROJECT_NUMBER}-{self.version}"

    @property
    def num_writes(self) -> int:
        """How often something was published over HTTP."""
        return sum(1 for request in self.requests if request.method == "PUT" and "validateOnly" not in request.query)

    def edit(self, change: Callable[[Any], None]) -> None:
        """Somebody publishes a change from the console."""
        with self.lock:
            template = self.template
            change(template)
            self._publish(json.dumps(template, indent=2))

    def after_each_get(self, *hooks: Callable[[], None]) -> None:
        """Each of the next GETs is followed by one of these, before its answer arrives."""
        self._hooks_after_get.extend(hooks)

    def what_a_phone_reads(self, parameter: str, phone: int) -> str | None:
        """The value that an app instance gets: of the first condition in order that it meets, else the default."""
        template = self.template
        found = dict(_parameters(template)).get(parameter)
        if found is None:
            return None
        for condition in template.get("conditions", []):
            value = found.get("conditionalValues", {}).get(condition["name"])
            if value is not None and _is_met(condition["expression"], phone):
                return value.get("value")
        return found["defaultValue"].get("value")

    def handle(self, request: Request) -> Response:
        prefix = "/v1/projects/"
        if request.path.endswith(":rollback"):
            self.violations.append(":rollback was called")
            return _error(400, "[VALIDATION_ERROR]: this fake does not roll back")
        project, _, resource = request.path.removeprefix(prefix).partition("/")
        if not request.path.startswith(prefix) or resource != "remoteConfig":
            return _error(404, "no such method")
        if project not in (PROJECT, str(PROJECT_NUMBER)):
            return _error(404, f"Project {project} was not found")
        if request.method == "GET":
            return self._get(request)
        if request.method == "PUT":
            return self._put(request)
        return _error(405, "method not allowed")

    def _get(self, request: Request) -> Response:
        response = self._answer_with(request, self.text, self.etag)
        if self._hooks_after_get:
            self._hooks_after_get.pop(0)()
        return response

    def _put(self, request: Request) -> Response:
        if set(request.query) - {"validateOnly"} or request.query.get("validateOnly", "true") not in ("true", "false"):
            return _error(400, f'Invalid JSON payload received. Unknown name in "{request.query}"')
        given = request.headers.get("if-match")
        if given is None:
            return _error(self.mismatch_status, "[VERSION_MISMATCH]: No If-Match header found")
        if given == "*":
            self.violations.append("If-Match: * was sent")
            return _error(400, "this fake cannot be forced")
        if given != self.etag:
            return _error(self.mismatch_status, f"[VERSION_MISMATCH]: expected {self.etag}")
        text = request.body.decode()
        try:
            self.check(text)
        except InvalidTemplateError as error:
            return _error(400, f"[VALIDATION_ERROR]: {error}")
        self.violations.extend(
            f"{what} was written over" for what in _managed(self.template) if what not in _managed(json.loads(text))
        )
        if request.query.get("validateOnly") == "true":
            self.num_validations += 1
            return self._answer_with(request, text, f"etag-{PROJECT_NUMBER}-0")
        self._publish(text)
        return self._answer_with(request, self.text, self.etag)

    def _answer_with(self, request: Request, text: str, etag: str) -> Response:
        headers = {"Content-Type": "application/json; charset=UTF-8"}
        body = text.encode()
        # Without a compression in the request the service is known to leave the ETag out.
        if "gzip" in request.headers.get("accept-encoding", ""):
            body = gzip.compress(body, mtime=0)
            headers["Content-Encoding"] = "gzip"
            if self.gives_etag:
                headers["ETag"] = etag
        return Response(200, body, headers)

    def _publish(self, text: str) -> None:
        self.version += 1
        version = f'"version": {{"versionNumber": "{self.version}", "updateOrigin": "REST_API"}}'
        if _VERSION.search(text):
            text = _VERSION.sub(version, text, count=1)
        else:
            inside = text.rstrip().removesuffix("}")
            text = f"{inside}{'' if inside.strip() == '{' else ', '}{version}}}"
        self.history.append(text)

    def check(self, text: str) -> None:
        """Raises InvalidTemplateError for what the service does not take."""
        try:
            template = json.loads(text, object_pairs_hook=_unique)
        except ValueError as error:
            raise InvalidTemplateError(f"Invalid JSON payload received. {error}") from None
        conditions = template.get("conditions", [])
        names = [condition["name"] for condition in conditions]
        if len(set(names)) != len(names):
            raise InvalidTemplateError("a condition is there twice")
        for condition in conditions:
            if not re.fullmatch(r"(?! )[-_0-9A-Za-z '!%.]{1,100}(?<! )", condition["name"]):
                raise InvalidTemplateError(f"invalid condition name {condition['name']!r}")
            _check_expression(condition["expression"])
        parameters = _parameters(template)
        keys = [key for key, _ in parameters] + list(template.get("parameterGroups", {}))
        if len(set(keys)) != len(keys):
            raise InvalidTemplateError("DUPLICATE_KEY: a parameter is there twice, or a group has its name")
        num_characters = 0
        for key, parameter in parameters:
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,255}", key):
                raise InvalidTemplateError(f"invalid parameter key {key!r}")
            if len(parameter.get("description", "")) > 256:
                raise InvalidTemplateError(f"the description of {key} is too long")
            kind = parameter.get("valueType", "STRING")
            values = parameter.get("conditionalValues", {})
            if unknown := set(values) - set(names):
                raise InvalidTemplateError(f"UNKNOWN_CONDITION_REFERENCE: {unknown}")
            if not values and "defaultValue" not in parameter:
                raise InvalidTemplateError(f"{key} has no value")
            for value in values.values():
                num_characters += _check_value(value, kind)
            if "defaultValue" in parameter:
                num_characters += _check_value(parameter["defaultValue"], kind)
                if set(MANAGED) & set(parameter["defaultValue"]):
                    raise InvalidTemplateError(f"INVALID_DEFAULT_PARAM_VALUE: {key}")
        for count, limit in zip((len(parameters), len(conditions), num_characters), self.limits, strict=True):
            if count > limit:
                raise InvalidTemplateError(f"{count} is over the limit of {limit}")


def _check_expression(expression: str) -> None:
    for clause in expression.split(" && "):
        percent = _PERCENT.fullmatch(clause.strip())
        if percent is None:
            if not any(known.fullmatch(clause.strip()) for known in _CLAUSES):
                raise InvalidTemplateError(f"invalid expression {clause!r}")
            continue
        if not re.fullmatch(r"[-_.0-9A-Za-z]{0,32}", percent["seed"] or ""):
            raise InvalidTemplateError(f"invalid seed in {clause!r}")
        low, high = float(percent["low"] or 0), float(percent["high"] or percent["upper"])
        if not 0 <= low < high <= 100:
            raise InvalidTemplateError(f"invalid percentage in {clause!r}")


def _check_value(value: dict[str, Any], kind: str) -> int:
    """Returns how many characters it counts for."""
    if len(set(_VALUE_KINDS) & set(value)) != 1:
        raise InvalidTemplateError(f"a value is one of {_VALUE_KINDS}, not {list(value)}")
    if "value" not in value:
        return 0
    if not isinstance(value["value"], str):
        raise InvalidTemplateError("PARAM_VALUE_TYPE_MISMATCH: a value is a string")
    if kind == "JSON":
        try:
            json.loads(value["value"])
        except ValueError:
            raise InvalidTemplateError("PARAM_VALUE_TYPE_MISMATCH: not JSON") from None
    return len(value["value"])


def _parameters(template: Any) -> list[tuple[str, Any]]:
    groups = template.get("parameterGroups", {}).values()
    return [*template.get("parameters", {}).items(), *(p for group in groups for p in group["parameters"].items())]


def _managed(template: Any) -> list[tuple[str, str, str]]:
    """Every value that Firebase manages: parameter, condition, content."""
    return [
        (key, condition, json.dumps(value, sort_keys=True))
        for key, parameter in _parameters(template)
        for condition, value in parameter.get("conditionalValues", {}).items()
        if set(MANAGED) & set(value)
    ]


def _is_met(expression: str, phone: int) -> bool:
    percent = _PERCENT.fullmatch(expression)
    if percent is None or percent["upper"] is None:
        return False
    digest = hashlib.sha256(f"{percent['seed']}.{phone}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64 * 100 < float(percent["upper"])


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) != len(pairs):
        raise ValueError("a member is there twice")
    return dict(pairs)


def _error(status: int, message: str) -> Response:
    return Response.of_json({"error": {"code": status, "message": message}}, status)
