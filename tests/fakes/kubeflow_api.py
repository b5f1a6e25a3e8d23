"""Kubeflow Pipelines as far as submitting goes: the v2beta1 API, with the refusals found in the source of its server.

https://github.com/kubeflow/pipelines: backend/src/apiserver/template/v2_template.go (schema, parameters),
backend/src/v2/compiler/visitor.go (executors), backend/src/apiserver/server/api_converter.go (cron, concurrency).
"""

from __future__ import annotations

import copy
import json
from typing import Any

from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

from tests.fakes.http_server import FakeServer, Request, Response

_KINDS = {"STRING": str, "NUMBER_INTEGER": (int, float), "NUMBER_DOUBLE": (int, float), "BOOLEAN": bool}


class FakeKubeflow(FakeServer):
    """A server.

    Attributes:
        experiments: By id, as JSON.
        runs: By id, as JSON.
        recurring_runs: By id, as JSON.
        most_active: The most recurring runs that were ever active at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.experiments: dict[str, dict[str, Any]] = {}
        self.runs: dict[str, dict[str, Any]] = {}
        self.recurring_runs: dict[str, dict[str, Any]] = {}
        self.most_active = 0
        self._number = 0

    def handle(self, request: Request) -> Response:
        path, _, verb = request.path.removeprefix("/apis/v2beta1/").partition(":")
        kind, _, name = path.partition("/")
        tables = {"experiments": self.experiments, "runs": self.runs, "recurringruns": self.recurring_runs}
        if kind not in tables:
            return _error(404, 5, "Not Found")
        table = tables[kind]
        if name and name not in table:
            return _error(404, 5, f"ResourceNotFoundError: {kind} {name} not found.")
        if request.method == "GET" and not name:
            return self._list(request, kind, table)
        if request.method == "POST" and not name:
            answer = {"experiments": self._experiment, "runs": self._run, "recurringruns": self._recurring_run}[kind](
                request.json()
            )
        elif request.method == "DELETE" and name and kind != "experiments":
            del table[name]
            answer = Response.of_json({})
        elif request.method == "POST" and kind == "recurringruns" and verb in ("enable", "disable"):
            table[name]["status"] = f"{verb.upper()}D"
            answer = Response.of_json({})
        else:
            return _error(501, 12, "Method Not Allowed")
        self.most_active = max(self.most_active, len(self.active))
        return answer

    def take_over(self, earlier: FakeKubeflow) -> None:
        """Begins with what another one has."""
        self.experiments, self.runs, self.recurring_runs = copy.deepcopy(
            (earlier.experiments, earlier.runs, earlier.recurring_runs)
        )
        self._number = earlier._number

    @property
    def active(self) -> list[dict[str, Any]]:
        """The recurring runs that start runs."""
        return [r for r in self.recurring_runs.values() if r["status"] == "ENABLED"]

    def _list(self, request: Request, kind: str, table: dict[str, dict[str, Any]]) -> Response:
        predicates = json.loads(request.query["filter"])["predicates"]
        assert [p["operation"] for p in predicates] == ["EQUALS"]
        key, wanted = predicates[0]["key"], predicates[0]["stringValue"]
        last = request.query.get("page_token", "")
        found = sorted(name for name, row in table.items() if row[key] == wanted and name > last)
        if kind != "experiments":
            found = [name for name in found if table[name]["experiment_id"] == request.query["experiment_id"]]
        # A page holds one, so that whoever does not turn it sees no second.
        more = {"next_page_token": found[0]} if len(found) > 1 else {}
        members = {"recurringruns": "recurringRuns"}.get(kind, kind)
        return Response.of_json({members: [table[n] for n in found[:1]], "total_size": len(found), **more})

    def _experiment(self, body: dict[str, Any]) -> Response:
        if any(e["display_name"] == body["display_name"] for e in self.experiments.values()):
            return _error(409, 6, f"Already exist error: an experiment named {body['display_name']}")
        return self._keep(self.experiments, "experiment_id", body)

    def _run(self, body: dict[str, Any]) -> Response:
        if problem := _problem(body):
            return _error(400, 3, problem)
        return self._keep(self.runs, "run_id", {**body, "state": "PENDING"})

    def _recurring_run(self, body: dict[str, Any]) -> Response:
        if problem := _problem(body):
            return _error(400, 3, problem)
        if len(body["trigger"]["cron_schedule"]["cron"].split()) != 6:
            return _error(400, 3, "Schedule cron is not a supported format(https://godoc.org/github.com/robfig/cron).")
        if not 1 <= int(body["max_concurrency"]) <= 10:
            return _error(400, 3, "Max concurrency of a recurring run must be at least 1 and at most 10.")
        return self._keep(self.recurring_runs, "recurring_run_id", {**body, "status": f"{body['mode']}D"})

    def _keep(self, table: dict[str, dict[str, Any]], key: str, body: dict[str, Any]) -> Response:
        self._number += 1
        name = f"00000000-0000-4000-8000-{self._number:012d}"
        # Everything within a test happens in one second, so ids have to decide.
        table[name] = {**body, key: name, "created_at": "2026-01-01T03:00:00Z"}
        return Response.of_json(table[name])


def _problem(body: dict[str, Any]) -> str | None:
    """Why the server would not take the pipeline or its parameters."""
    try:
        spec = json_format.ParseDict(body["pipeline_spec"], pipeline_spec_pb2.PipelineSpec())
    except json_format.ParseError as error:
        return f"invalid v2 pipeline spec: {error}"
    if spec.schema_version != "2.1.0":
        return f"KFP only supports schema version 2.1.0, but the pipeline spec has version {spec.schema_version}"
    for label, executor in body["pipeline_spec"]["deploymentSpec"]["executors"].items():
        if not executor.keys() & {"container", "importer"}:
            return f"executor(label={label!r}): non-container and non-importer executor not implemented"
    given = body["runtime_config"].get("parameters", {})
    wanted = body["pipeline_spec"]["root"].get("inputDefinitions", {}).get("parameters", {})
    for name, parameter in wanted.items():
        if name not in given:
            return f"parameter {name} is not optional, yet has neither default value nor user provided value"
        if not isinstance(given[name], _KINDS[parameter["parameterType"]]):
            return f"input parameter {name} requires type {parameter['parameterType']}"
    if extra := given.keys() - wanted.keys():
        return f"parameter(s) provided are not required by pipeline: {', '.join(sorted(extra))}"
    return None


def _error(status: int, code: int, message: str) -> Response:
    return Response.of_json({"error": message, "code": code, "message": message, "details": []}, status)
