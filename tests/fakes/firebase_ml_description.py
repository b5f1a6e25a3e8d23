"""What Firebase ML's interface, `v1beta2`, looks like: by Google's published description where that is, else by ours.

Ours says the same in fewer words; a test compares them. A type is a format or type of Google's, the name of a schema,
a list of either in brackets, or the values of an enumeration.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

ENVIRONMENT = Path(__file__).resolve().parents[2] / ".tools" / "firebase"
PYTHON = ENVIRONMENT / "bin" / "python"

_DOCUMENT = "lib/python*/site-packages/googleapiclient/discovery_cache/documents/firebaseml.v1beta2.json"
_FORMATS: Mapping[str, dict[str, Any]] = {
    "string": {"type": "string"},
    "boolean": {"type": "boolean"},
    "object": {"type": "object"},
    "int32": {"type": "integer", "minimum": -(2**31), "maximum": 2**31 - 1},
    "int64": {"type": "string", "pattern": r"^-?\d+$"},
    "google-datetime": {"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z$"},
    "google-fieldmask": {"type": "string"},
}


@dataclass(frozen=True)
class Method:
    """One method of the interface."""

    id: str
    verb: str
    path: str
    query: Mapping[str, str]
    request: str | None
    response: str


@dataclass(frozen=True)
class Description:
    """The interface."""

    methods: tuple[Method, ...]
    schemas: Mapping[str, Mapping[str, str]]
    common_query: frozenset[str]

    def route(self, verb: str, path: str) -> tuple[Method, dict[str, str]] | None:
        """The method for a request, and what stands for the placeholders of its path."""
        for method in self.methods:
            pattern = re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/:]+)", re.escape(method.path))
            if method.verb == verb and (found := re.fullmatch("/" + pattern, path)):
                return method, found.groupdict()
        return None

    def problems(self, schema: str, value: object) -> list[str]:
        """Why `value` is not of that schema; empty if it is."""
        return [f"{'.'.join(map(str, e.path))}: {e.message}" for e in self._validator(schema).iter_errors(value)]

    def _validator(self, schema: str) -> Draft202012Validator:
        return _validator(json.dumps(self.schemas, sort_keys=True), schema)


@functools.cache
def _validator(schemas: str, schema: str) -> Draft202012Validator:
    definitions = {
        name: {
            "type": "object",
            "properties": {field: _json_schema(kind) for field, kind in fields.items()},
            "additionalProperties": False,
        }
        for name, fields in json.loads(schemas).items()
    }
    return Draft202012Validator({"$ref": f"#/$defs/{schema}", "$defs": definitions})


def _json_schema(kind: str) -> dict[str, Any]:
    if kind.startswith("["):
        return {"type": "array", "items": _json_schema(kind[1:-1])}
    if "|" in kind:
        return {"enum": kind.split("|")}
    return _FORMATS.get(kind) or {"$ref": f"#/$defs/{kind}"}


OURS = Description(
    methods=tuple(
        Method(f"firebaseml.projects.{name}", verb, f"v1beta2/projects/{{projectsId}}/{path}", query, request, response)
        for name, verb, path, query, request, response in (
            ("models.create", "POST", "models", {}, "Model", "Operation"),
            ("models.delete", "DELETE", "models/{modelsId}", {}, None, "Empty"),
            ("models.download", "GET", "models/{modelsId}:download", {}, None, "DownloadModelResponse"),
            ("models.get", "GET", "models/{modelsId}", {}, None, "Model"),
            (
                "models.list",
                "GET",
                "models",
                {"filter": "string", "pageSize": "int32", "pageToken": "string"},
                None,
                "ListModelsResponse",
            ),
            ("models.patch", "PATCH", "models/{modelsId}", {"updateMask": "google-fieldmask"}, "Model", "Operation"),
            ("operations.get", "GET", "operations/{operationsId}", {}, None, "Operation"),
        )
    ),
    schemas={
        "DownloadModelResponse": {
            "downloadUri": "string",
            "expireTime": "google-datetime",
            "modelFormat": "MODEL_FORMAT_UNSPECIFIED|TFLITE",
            "sizeBytes": "int64",
        },
        "Empty": {},
        "ListModelsResponse": {"models": "[Model]", "nextPageToken": "string"},
        "Model": {
            "activeOperations": "[Operation]",
            "createTime": "google-datetime",
            "displayName": "string",
            "etag": "string",
            "modelHash": "string",
            "name": "string",
            "state": "ModelState",
            "tags": "[string]",
            "tfliteModel": "TfLiteModel",
            "updateTime": "google-datetime",
        },
        "ModelOperationMetadata": {
            "basicOperationStatus": "|".join(
                f"BASIC_OPERATION_STATUS_{status}" for status in ("UNSPECIFIED", "UPLOADING", "VERIFYING")
            ),
            "name": "string",
        },
        "ModelState": {"published": "boolean", "validationError": "Status"},
        "Operation": {
            "done": "boolean",
            "error": "Status",
            "metadata": "object",
            "name": "string",
            "response": "object",
        },
        "Status": {"code": "int32", "details": "[object]", "message": "string"},
        "TfLiteModel": {"automlModel": "string", "gcsTfliteUri": "string", "sizeBytes": "string"},
    },
    common_query=frozenset(
        {
            "$.xgafv",
            "access_token",
            "alt",
            "callback",
            "fields",
            "key",
            "oauth_token",
            "prettyPrint",
            "quotaUser",
            "uploadType",
            "upload_protocol",
        }
    ),
)


def published() -> Description | None:
    """Google's description; None where `make setup` has not brought it."""
    document = next(iter(ENVIRONMENT.glob(_DOCUMENT)), None)
    if document is None:
        return None
    content = json.loads(document.read_bytes())
    methods = [
        Method(
            method["id"],
            method["httpMethod"],
            method["flatPath"],
            {name: _kind(p) for name, p in method.get("parameters", {}).items() if p["location"] == "query"},
            method.get("request", {}).get("$ref"),
            method["response"]["$ref"],
        )
        for resource in content["resources"]["projects"]["resources"].values()
        for method in resource["methods"].values()
    ]
    schemas = {
        name: {field: _kind(kind) for field, kind in schema["properties"].items()}
        for name, schema in content["schemas"].items()
    }
    return Description(tuple(sorted(methods, key=lambda method: method.id)), schemas, frozenset(content["parameters"]))


def _kind(described: Mapping[str, Any]) -> str:
    if "$ref" in described:
        return str(described["$ref"])
    if described["type"] == "array":
        return f"[{_kind(described['items'])}]"
    if "enum" in described:
        return "|".join(described["enum"])
    return str(described.get("format", described["type"]))


@functools.cache
def description() -> Description:
    """The best there is."""
    return published() or OURS
