"""Vertex AI Pipelines as far as submitting goes: jobs and schedules, by the REST calls of the real service.

Requests are held against the messages of google-cloud-aiplatform, so a field that the service does not know is an error
here, too.
"""

from __future__ import annotations

import copy
import re
from typing import Any

from google.cloud import aiplatform_v1
from google.protobuf import json_format

from tests.fakes.http_server import FakeServer, Request, Response

PROJECT, LOCATION = "example-project", "europe-west4"
PARENT = f"projects/{PROJECT}/locations/{LOCATION}"
UPDATABLE = {"cron", "displayName", "startTime", "endTime", "allowQueueing", "maxRunCount", "maxConcurrentRunCount"}


class FakeVertex(FakeServer):
    """One project in one location.

    Attributes:
        jobs: By resource name, as JSON.
        schedules: By resource name, as JSON.
        most_active: The most schedules of one display name that were ever active at once.
        allowed: Whether the caller has the role.
    """

    def __init__(self) -> None:
        super().__init__()
        self.jobs: dict[str, dict[str, Any]] = {}
        self.schedules: dict[str, dict[str, Any]] = {}
        self.most_active = 0
        self.allowed = True
        self._number = 0

    def handle(self, request: Request) -> Response:
        path, _, verb = request.path.removeprefix("/v1/").partition(":")
        if not path.startswith(f"{PARENT}/"):
            return _error(404, "NOT_FOUND", f"{path} was not found.")
        if not self.allowed:
            return _error(403, "PERMISSION_DENIED", f"Permission 'aiplatform.pipelineJobs.create' denied on {PARENT}.")
        kind, _, name = path.removeprefix(f"{PARENT}/").partition("/")
        call = f"{request.method} {kind}{'/' if name else ''}{f':{verb}' if verb else ''}"
        calls = {
            "POST pipelineJobs": self._create_job,
            "GET pipelineJobs/": self._get_job,
            "GET schedules": self._list_schedules,
            "POST schedules": self._create_schedule,
            "PATCH schedules/": self._update_schedule,
            "DELETE schedules/": self._delete_schedule,
            "POST schedules/:pause": self._set_state,
            "POST schedules/:resume": self._set_state,
        }
        if call not in calls:
            return _error(404, "NOT_FOUND", "Method not found.")
        answer = calls[call](request, path)
        for display_name in {s["displayName"] for s in self.schedules.values()}:
            self.most_active = max(self.most_active, len(self.active(display_name)))
        return answer

    def take_over(self, earlier: FakeVertex) -> None:
        """Begins with what another one has."""
        self.jobs, self.schedules = copy.deepcopy(earlier.jobs), copy.deepcopy(earlier.schedules)
        self._number = earlier._number

    def active(self, display_name: str) -> list[dict[str, Any]]:
        """The schedules of a name that start runs."""
        return [s for s in self.schedules.values() if s["displayName"] == display_name and s["state"] == "ACTIVE"]

    def finish(self, job_id: str, state: str) -> None:
        """Ends a job."""
        self.jobs[f"{PARENT}/pipelineJobs/{job_id}"]["state"] = f"PIPELINE_STATE_{state}"

    def _create_job(self, request: Request, path: str) -> Response:
        job_id = request.query["pipelineJobId"]
        name = f"{path}/{job_id}"
        if not re.fullmatch(r"[a-z][-a-z0-9]{0,127}", job_id):
            return _error(400, "INVALID_ARGUMENT", f"Invalid id {job_id}.")
        if problem := _problem(aiplatform_v1.PipelineJob, request):
            return _error(400, "INVALID_ARGUMENT", problem)
        if name in self.jobs:
            return _error(409, "ALREADY_EXISTS", f"The PipelineJob {name} already exists.")
        self.jobs[name] = {
            **request.json(),
            "name": name,
            "state": "PIPELINE_STATE_PENDING",
            "createTime": self._time(),
        }
        return Response.of_json(self.jobs[name])

    def _get_job(self, request: Request, path: str) -> Response:
        if path not in self.jobs:
            return _error(404, "NOT_FOUND", f"The PipelineJob {path} was not found.")
        return Response.of_json(self.jobs[path])

    def _list_schedules(self, request: Request, path: str) -> Response:
        match = re.fullmatch(r'display_name="([^"]*)"', request.query.get("filter", ""))
        if match is None:
            return _error(400, "INVALID_ARGUMENT", "Invalid filter.")
        # A page holds one, so that whoever does not turn it sees no second.
        last = request.query.get("pageToken", "")
        found = sorted(n for n, s in self.schedules.items() if s["displayName"] == match[1] and n > last)
        more = {"nextPageToken": found[0]} if len(found) > 1 else {}
        return Response.of_json({"schedules": [self.schedules[n] for n in found[:1]], **more})

    def _create_schedule(self, request: Request, path: str) -> Response:
        if problem := _problem(aiplatform_v1.Schedule, request):
            return _error(400, "INVALID_ARGUMENT", problem)
        self._number += 1
        name = f"{path}/{self._number}"
        self.schedules[name] = {**request.json(), "name": name, "state": "ACTIVE", "createTime": self._time()}
        return Response.of_json(self.schedules[name])

    def _update_schedule(self, request: Request, path: str) -> Response:
        if path not in self.schedules:
            return _error(404, "NOT_FOUND", f"The Schedule {path} was not found.")
        mask = request.query["updateMask"].split(",")
        if wrong := set(mask) - UPDATABLE:
            return _error(400, "INVALID_ARGUMENT", f"The fields {sorted(wrong)} cannot be updated.")
        if problem := _problem(aiplatform_v1.Schedule, request):
            return _error(400, "INVALID_ARGUMENT", problem)
        self.schedules[path].update({key: request.json().get(key) for key in mask})
        return Response.of_json(self.schedules[path])

    def _set_state(self, request: Request, path: str) -> Response:
        if path not in self.schedules:
            return _error(404, "NOT_FOUND", f"The Schedule {path} was not found.")
        self.schedules[path]["state"] = "PAUSED" if request.path.endswith(":pause") else "ACTIVE"
        if request.path.endswith(":resume"):
            self.schedules[path]["catchUp"] = request.json().get("catchUp", False)
        return Response.of_json({})

    def _delete_schedule(self, request: Request, path: str) -> Response:
        if path not in self.schedules:
            return _error(404, "NOT_FOUND", f"The Schedule {path} was not found.")
        del self.schedules[path]
        return Response.of_json({"name": f"{PARENT}/operations/1", "done": False})

    def _time(self) -> str:
        """By the service's clock: everything within a test happens in one second, so names have to decide."""
        return "2026-01-01T03:00:00Z"


def _problem(message: Any, request: Request) -> str | None:
    try:
        json_format.ParseDict(request.json(), message.pb(message()))
    except json_format.ParseError as error:
        return str(error)
    return None


def _error(code: int, status: str, message: str) -> Response:
    return Response.of_json({"error": {"code": code, "status": status, "message": message}}, code)
