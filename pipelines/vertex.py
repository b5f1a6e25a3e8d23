"""Vertex AI Pipelines, through the clients of google-cloud-aiplatform for its two services.

Not through the package's class PipelineJob: its `submit()` first looks for the bucket of the pipeline root and makes
one, with rights for the project's default service account, if there is none. A typing error in the root must not.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import google.auth
import requests
import tenacity
from google.api_core import exceptions as api_errors
from google.api_core.client_options import ClientOptions
from google.auth.credentials import AnonymousCredentials
from google.auth.exceptions import GoogleAuthError, TransportError
from google.cloud import aiplatform_v1
from google.protobuf import field_mask_pb2, json_format, struct_pb2

from pipelines.compiled import SCHEDULE_LABEL, ServiceError, Submission, Submitted, check_same
from pipelines.cron import Cron
from pipelines.schedules import Scheduled
from tfx_mobile.google_rest import Patience, loopback_override, without_signatures

#: Names a fake on the loopback interface for tests.
ENDPOINT_VARIABLE = "TFX_MOBILE_VERTEX_ENDPOINT"

_SCOPES = ["https://www.googleapis.com/auth/cloud-platform"]
_PROJECT = re.compile(r"[a-z0-9][a-z0-9.:-]{2,61}[a-z0-9]")
_LOCATION = re.compile(r"[a-z]+(-[a-z]+)+[0-9]+")
_SERVICE_ACCOUNT = re.compile(r"[a-z0-9-]+@[a-z0-9.-]+\.gserviceaccount\.com")
_FAILED_STATES = frozenset({"PIPELINE_STATE_FAILED", "PIPELINE_STATE_CANCELLED", "PIPELINE_STATE_CANCELLING"})

#: No answer, or one that is worth asking for again.
_PASSING = (
    api_errors.TooManyRequests,
    api_errors.InternalServerError,
    api_errors.BadGateway,
    api_errors.ServiceUnavailable,
    api_errors.GatewayTimeout,
    requests.exceptions.ConnectionError,
    requests.exceptions.Timeout,
    requests.exceptions.ChunkedEncodingError,
    TransportError,
    # An answer that stops in the middle is not JSON.
    json_format.ParseError,
    json.JSONDecodeError,
)
#: What is asked of the service takes moments.
PATIENCE = Patience(read_seconds=60)
_T = TypeVar("_T")


class Vertex:
    """Vertex AI Pipelines in one project and location.

    Args:
        project: Project id or number.
        location: Region, such as `europe-west4`.
        patience: How long to wait.

    Raises:
        ValueError: A name is not valid.
        ServiceError: There are no credentials.
    """

    def __init__(self, project: str, location: str, patience: Patience = PATIENCE) -> None:
        if not _PROJECT.fullmatch(project):
            raise ValueError(f"project={project!r} is no project's id or number, such as example-project.")
        if not _LOCATION.fullmatch(location):
            raise ValueError(f"location={location!r} is no region, such as europe-west4.")
        override = loopback_override(ENDPOINT_VARIABLE)
        try:
            self._settings = {
                "transport": "rest",
                "credentials": AnonymousCredentials() if override else google.auth.default(scopes=_SCOPES)[0],
                "client_options": ClientOptions(api_endpoint=override or f"{location}-aiplatform.googleapis.com"),
            }
        except GoogleAuthError as error:
            raise ServiceError(
                f"There are no credentials for Vertex AI: {error} Run `gcloud auth application-default login`, or give "
                "the workload an identity."
            ) from None
        self.parent = f"projects/{project}/locations/{location}"
        self.patience = patience

    @functools.cached_property
    def _pipelines(self) -> Any:
        return aiplatform_v1.PipelineServiceClient(**self._settings)

    @functools.cached_property
    def _schedules(self) -> Any:
        return aiplatform_v1.ScheduleServiceClient(**self._settings)

    def submit(self, submission: Submission) -> Submitted:
        """Creates the run, or finds it. See `compiled.Target`."""
        check_submission(submission)
        name = f"{self.parent}/pipelineJobs/{submission.job_id}"
        found = self._find_job(name)
        if found is None:
            try:
                # Sending it again after a lost answer is safe: the service has at most one of this name.
                job = self._call(
                    f"submit {submission.job_id}",
                    lambda timeout: self._pipelines.create_pipeline_job(
                        parent=self.parent,
                        pipeline_job=job_message(submission),
                        pipeline_job_id=submission.job_id,
                        retry=None,
                        timeout=timeout,
                    ),
                    expected=api_errors.Conflict,
                )
                return _submitted(submission, job, existed=False)
            except api_errors.Conflict:  # a rival was faster, or the request whose answer was lost
                found = self._find_job(name)
        if found is None:
            raise ServiceError(
                f"Vertex AI says that {name} exists, and does not find it. Wait for its deletion to end."
            )
        check_same(submission, _parameters_of(found))
        return _submitted(submission, found, existed=True)

    def _find_job(self, name: str) -> Any:
        try:
            return self._call(
                f"read {name}",
                lambda timeout: self._pipelines.get_pipeline_job(name=name, retry=None, timeout=timeout),
                expected=api_errors.NotFound,
            )
        except api_errors.NotFound:
            return None

    def schedules(self, display_name: str) -> list[Any]:
        """The service's schedules of this name."""

        def read(timeout: float) -> list[Any]:
            pages = self._schedules.list_schedules(
                request={"parent": self.parent, "filter": f'display_name="{display_name}"'}, retry=None, timeout=timeout
            )
            return [schedule for schedule in pages if schedule.display_name == display_name]

        return self._call("list the schedules", read)

    def create_schedule(self, schedule: Any) -> None:
        """Creates a schedule. The answer may get lost; whoever calls looks afterwards what there is."""
        self._call(
            f"create the schedule {schedule.display_name}",
            lambda timeout: self._schedules.create_schedule(
                parent=self.parent, schedule=schedule, retry=None, timeout=timeout
            ),
            repeat=False,
        )

    def update_schedule(self, schedule: Any, fields: list[str]) -> None:
        """Changes fields of a schedule."""
        self._call(
            f"update {schedule.name}",
            lambda timeout: self._schedules.update_schedule(
                schedule=schedule, update_mask=field_mask_pb2.FieldMask(paths=fields), retry=None, timeout=timeout
            ),
        )

    def pause_schedule(self, name: str) -> None:
        """Has a schedule start nothing any more."""
        self._gone_is_fine(
            f"pause {name}", lambda timeout: self._schedules.pause_schedule(name=name, retry=None, timeout=timeout)
        )

    def resume_schedule(self, name: str) -> None:
        """Has a schedule start runs again, but none of those it missed."""
        self._call(
            f"resume {name}",
            lambda timeout: self._schedules.resume_schedule(
                request={"name": name, "catch_up": False}, retry=None, timeout=timeout
            ),
        )

    def delete_schedule(self, name: str) -> None:
        """Deletes a schedule; the service takes a while, in which it starts nothing."""
        self._gone_is_fine(
            f"delete {name}", lambda timeout: self._schedules.delete_schedule(name=name, retry=None, timeout=timeout)
        )

    def _gone_is_fine(self, what: str, call: Callable[[float], Any]) -> None:
        try:
            self._call(what, call, expected=api_errors.NotFound)
        except api_errors.NotFound:
            return

    def _call(
        self,
        what: str,
        call: Callable[[float], _T],
        repeat: bool = True,
        expected: type[Exception] | tuple[()] = (),
    ) -> _T:
        """Calls until there is an answer.

        Args:
            what: For messages, after "cannot".
            call: Takes the seconds to wait for an answer.
            repeat: Whether it may be carried out twice.
            expected: An error of the service that is raised as it is.

        Raises:
            ServiceError: There is none, or it is another error.
        """
        attempts = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_PASSING),
            wait=tenacity.wait_random_exponential(self.patience.first_wait_seconds, max=30),
            stop=tenacity.stop_after_delay(self.patience.total_seconds) if repeat else tenacity.stop_after_attempt(1),
            reraise=True,
        )
        try:
            return attempts(call, self.patience.read_seconds)
        except expected:
            raise
        except _PASSING as error:
            raise ServiceError(
                f"Vertex AI gave no answer to: {what} ({without_signatures(str(error))}). It may have been carried out "
                "all the same. Run the command again; it finds out."
            ) from None
        except api_errors.Forbidden as error:
            raise ServiceError(
                f"Vertex AI does not allow to {what}: {without_signatures(error.message)} Give the identity that runs "
                "this roles/aiplatform.user, and roles/iam.serviceAccountUser on the service account of the run."
            ) from None
        except (api_errors.GoogleAPICallError, GoogleAuthError, tenacity.RetryError) as error:
            raise ServiceError(f"Vertex AI cannot {what}: {without_signatures(str(error))}") from None


class VertexSchedules:
    """The schedules of one name on Vertex AI. See `schedules.Schedules`.

    Args:
        vertex: The service.
        display_name: Name of the schedule.
        submission: What each run is given; its job id is not used, as the service makes them. None only to pause or
            delete.
        cron: When it runs.
        max_concurrent_runs: How many runs may overlap.
    """

    def __init__(
        self,
        vertex: Vertex,
        display_name: str,
        submission: Submission | None = None,
        cron: Cron | None = None,
        max_concurrent_runs: int = 1,
    ) -> None:
        self._vertex = vertex
        self._display_name = display_name
        self._wanted = aiplatform_v1.Schedule(display_name=display_name)
        if submission is not None:
            self._wanted.cron = str(cron)
            self._wanted.max_concurrent_run_count = max_concurrent_runs
            self._wanted.allow_queueing = True
            self._wanted.create_pipeline_job_request = aiplatform_v1.CreatePipelineJobRequest(
                parent=vertex.parent, pipeline_job=job_message(submission)
            )

    def find(self) -> list[Scheduled]:
        """Those that have not run out."""
        found = self._vertex.schedules(self._display_name)
        states = aiplatform_v1.Schedule.State
        return [self._scheduled(s) for s in found if s.state in (states.ACTIVE, states.PAUSED)]

    def create(self) -> None:
        """Creates the one that is wanted; it is active."""
        self._vertex.create_schedule(self._wanted)

    def update(self, scheduled: Scheduled) -> None:
        """Changes what differs from what is wanted."""
        schedule = aiplatform_v1.Schedule(self._wanted)
        schedule.name = scheduled.name
        self._vertex.update_schedule(schedule, list(scheduled.differences))

    def pause(self, scheduled: Scheduled) -> None:
        """Has it start nothing any more."""
        self._vertex.pause_schedule(scheduled.name)

    def resume(self, scheduled: Scheduled) -> None:
        """Has it start runs again."""
        self._vertex.resume_schedule(scheduled.name)

    def delete(self, scheduled: Scheduled) -> None:
        """Deletes it."""
        self._vertex.delete_schedule(scheduled.name)

    def _scheduled(self, schedule: Any) -> Scheduled:
        settings = ("cron", "max_concurrent_run_count", "allow_queueing")
        return Scheduled(
            name=schedule.name,
            created=(schedule.create_time.timestamp(), schedule.name),
            active=schedule.state == aiplatform_v1.Schedule.State.ACTIVE,
            digest=dict(schedule.create_pipeline_job_request.pipeline_job.labels).get(SCHEDULE_LABEL),
            differences=tuple(s for s in settings if getattr(schedule, s) != getattr(self._wanted, s)),
        )


def job_message(submission: Submission) -> Any:
    """A run as the service takes it."""
    config: dict[str, Any] = {"gcs_output_directory": submission.pipeline_root}
    if submission.is_2_1:
        config["parameter_values"] = {n: _value(v) for n, v in submission.parameters.items()}
    else:
        kinds = {int: "int_value", float: "double_value", str: "string_value"}
        config["parameters"] = {n: {kinds[type(v)]: v} for n, v in submission.parameters.items()}
    return aiplatform_v1.PipelineJob(
        display_name=submission.job_id,
        pipeline_spec=_value(submission.spec).struct_value,
        runtime_config=aiplatform_v1.PipelineJob.RuntimeConfig(config),
        labels=dict(submission.labels),
        service_account=submission.service_account or "",
    )


def _value(value: Any) -> Any:
    return json_format.ParseDict(value, struct_pb2.Value())


def _parameters_of(job: Any) -> Mapping[str, Any]:
    """The runtime parameters of a run at the service, in either version of the schema."""
    config = json_format.MessageToDict(aiplatform_v1.PipelineJob.RuntimeConfig.pb(job.runtime_config))
    old = {
        name: int(v["intValue"]) if "intValue" in v else next(iter(v.values()), None)
        for name, v in config.get("parameters", {}).items()
    }
    return {**old, **config.get("parameterValues", {})}


def check_submission(submission: Submission) -> None:
    """What Vertex AI asks of a run beyond what every service does.

    Raises:
        ValueError: The pipeline root or the service account is not what it takes.
    """
    if not submission.pipeline_root.startswith("gs://"):
        raise ValueError(
            f"Vertex AI takes a pipeline root in Cloud Storage, gs://..., not {submission.pipeline_root!r}."
        )
    account = submission.service_account
    if account is not None and not _SERVICE_ACCOUNT.fullmatch(account):
        raise ValueError(
            f"service_account={account!r} is no service account of Google Cloud, such as "
            "runner@example-project.iam.gserviceaccount.com."
        )


def _submitted(submission: Submission, job: Any, existed: bool) -> Submitted:
    state = job.state.name
    return Submitted(submission.job_id, job.name, state, existed, failed=state in _FAILED_STATES)
