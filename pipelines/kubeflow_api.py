"""Kubeflow Pipelines on one's own cluster, through kfp's client, version 2.5.

The client's generated calls are used rather than its convenience methods: those wait for an answer for ever, print, and
cannot be told what to do with caching inside an exit handler's pipeline.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import tenacity

from pipelines.compiled import ServiceError, Submission, Submitted, check_same, span_pattern_of
from pipelines.cron import Cron
from pipelines.schedules import Scheduled
from tfx_mobile.google_rest import Patience, without_signatures

_T = TypeVar("_T")
_ACCOUNT = re.compile(r"[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?")
_PASSING_STATUSES = frozenset({429, 500, 502, 503, 504})
_FAILED_STATES = frozenset({"FAILED", "CANCELED", "CANCELING"})
_TOKEN_VARIABLE, _TOKEN_FILE = "KF_PIPELINES_SA_TOKEN_PATH", "/var/run/secrets/kubeflow/pipelines/token"
_PAGE_SIZE = 50
#: What is asked of the service takes moments.
PATIENCE = Patience(read_seconds=60)


def check_submission(submission: Submission) -> None:
    """What Kubeflow Pipelines cannot run of what TFX compiles, as its source says.

    Args:
        submission: The run.

    Raises:
        ValueError: The pipeline holds something of that, or the service account is none of Kubernetes.
    """
    if not submission.is_2_1:
        raise ValueError("Kubeflow Pipelines runs schema 2.1 only, and this job has 2.0. Compile it with --schema 2.1.")
    executors = submission.spec["deploymentSpec"]["executors"]
    resolvers = sorted(
        name
        for name, c in submission.spec["components"].items()
        if "resolver" in executors.get(c.get("executorLabel"), {})
    )
    if resolvers:
        raise ValueError(
            f"Kubeflow Pipelines does not run Resolvers ({', '.join(resolvers)}): its compiler answers 'resolver "
            "executors not implemented'. Set compare_with_last_blessed: false in the pipeline's config and compile "
            "again; the comparison with production takes no Resolver."
        )
    if span_pattern := span_pattern_of(submission.spec):
        raise ValueError(
            f"Kubeflow Pipelines does not run ExampleGen's driver, so nothing would put a number into "
            f"{span_pattern!r}. Leave span_pattern out of the pipeline's config and give each run the folder of its "
            "span: --parameter examples_dir=...; `python -m pipelines.trigger --host ...` does so."
        )
    account = submission.service_account
    if account is not None and not _ACCOUNT.fullmatch(account):
        raise ValueError(f"service_account={account!r} is no ServiceAccount of Kubernetes, such as pipeline-runner.")


class Kubeflow:
    """Kubeflow Pipelines at one address.

    Where a pod has the token that Kubeflow projects for it, that is used; no token is ever a parameter.

    Args:
        host: Address of the API.
        namespace: The user's namespace; None where there is one user.
        patience: How long to wait.

    Raises:
        ValueError: The address or the namespace is not valid.
        ServiceError: The service cannot be reached.
    """

    def __init__(self, host: str, namespace: str | None = None, patience: Patience = PATIENCE) -> None:
        if not re.fullmatch(r"https?://[^\s@?#]+", host):
            raise ValueError("The host is no address such as http://127.0.0.1:8888, without user, token or query.")
        if namespace is not None and not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", namespace):
            raise ValueError(f"namespace={namespace!r} is no namespace of Kubernetes.")
        import kfp
        import kfp.client

        has_token = os.environ.get(_TOKEN_VARIABLE) or Path(_TOKEN_FILE).exists()
        credentials = kfp.client.ServiceAccountTokenVolumeCredentials() if has_token else None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # that it is of version 2
            # A namespace of the client's keeps it from asking the service, five times with no end to each, which there
            # is; every call says it again.
            self._client = kfp.Client(host=host, namespace=namespace or "-", credentials=credentials)
        self._namespace = namespace
        self.host = host.rstrip("/")
        self.patience = patience

    @property
    def models(self) -> Any:
        """The messages of kfp."""
        return self._client.api_models

    def submit(self, submission: Submission) -> Submitted:
        """Creates the run, or finds it. See `compiled.Target`."""
        check_submission(submission)
        experiment_id = self.experiment(submission.pipeline_name)
        found = self._runs(submission.job_id, experiment_id)
        if found:
            return self._submitted(submission, found[0], existed=True)
        run = self.models.V2beta1Run(
            experiment_id=experiment_id,
            display_name=submission.job_id,
            description=description_of(submission),
            pipeline_spec=dict(submission.spec),
            runtime_config=runtime_config(self.models, submission),
            service_account=submission.service_account,
        )
        own_id: str | None = None
        try:
            own_id = self._call(
                f"submit {submission.job_id}", self._client.runs.create_run, body=run, repeat=False
            ).run_id
        except ServiceError:
            # Lost, or refused? Only what is there tells.
            if not self._runs(submission.job_id, experiment_id):
                raise
        # The service takes any number of runs of one name. Of those created at once all see the same first.
        first, *others = self._runs(submission.job_id, experiment_id)
        if own_id is not None and any(own_id == other.run_id for other in others):
            self._call(f"delete {own_id}", self._client.runs.delete_run, own_id)
        return self._submitted(submission, first, existed=own_id is not None and first.run_id != own_id)

    def _runs(self, name: str, experiment_id: str) -> list[Any]:
        """The runs of a name, oldest first."""
        runs = self._pages("runs", self._client.runs.list_runs, experiment_id=experiment_id, filter=_named(name))
        return sorted((r for r in runs if r.display_name == name), key=lambda r: (r.created_at.timestamp(), r.run_id))

    def _submitted(self, submission: Submission, run: Any, existed: bool) -> Submitted:
        there = (run.runtime_config.parameters if run.runtime_config else None) or {}
        check_same(submission, there)
        state = run.state or "PENDING"
        return Submitted(
            submission.job_id, f"{self.host}/#/runs/details/{run.run_id}", state, existed, state in _FAILED_STATES
        )

    def experiment(self, name: str) -> str:
        """Id of the experiment of a name; created if there is none."""
        found = self._experiments(name)
        if not found:
            body = self.models.V2beta1Experiment(display_name=name, namespace=self._namespace)
            with contextlib.suppress(_Conflict):  # a rival, or the request whose answer was lost
                self._call(f"create the experiment {name}", self._client.experiments.create_experiment, body=body)
            found = self._experiments(name)
        if not found:
            raise ServiceError(f"Kubeflow Pipelines has no experiment {name} after creating it. Run the command again.")
        return str(found[0].experiment_id)

    def _experiments(self, name: str) -> list[Any]:
        where = {"namespace": self._namespace} if self._namespace else {}
        found = self._pages("experiments", self._client.experiments.list_experiments, filter=_named(name), **where)
        return [e for e in found if e.display_name == name]

    def recurring_runs(self, name: str, experiment_id: str) -> list[Any]:
        """The recurring runs of a name."""
        call = self._client.recurring_runs.list_recurring_runs
        found = self._pages("recurring_runs", call, experiment_id=experiment_id, filter=_named(name))
        return [r for r in found if r.display_name == name]

    def create_recurring_run(self, body: Any) -> None:
        """Creates a recurring run. The answer may get lost; whoever calls looks afterwards what there is."""
        name = body.display_name
        call = self._client.recurring_runs.create_recurring_run
        self._call(f"create the recurring run {name}", call, body=body, repeat=False)

    def change_recurring_run(self, verb: str, run_id: str) -> None:
        """Carries out `disable`, `enable` or `delete`; none is fine."""
        try:
            self._call(f"{verb} {run_id}", getattr(self._client.recurring_runs, f"{verb}_recurring_run"), run_id)
        except _NotFound:
            if verb == "enable":
                raise ServiceError(f"The recurring run {run_id} was deleted at the same time. Run again.") from None

    def _pages(self, members: str, call: Callable[..., Any], **arguments: Any) -> list[Any]:
        found: list[Any] = []
        token = ""
        while True:
            page = self._call(f"list {members}", call, page_token=token, page_size=_PAGE_SIZE, **arguments)
            found += getattr(page, members) or []
            token = page.next_page_token or ""
            if not token:
                return found

    def _call(self, what: str, call: Callable[..., _T], *arguments: Any, repeat: bool = True, **named: Any) -> _T:
        """Calls until there is an answer.

        Raises:
            ServiceError: There is none, or it is an error other than those below.
            _NotFound: There is no such thing.
            _Conflict: There is already.
        """
        import kfp_server_api
        import urllib3

        timeout = (self.patience.connect_seconds, self.patience.read_seconds)
        passing = (urllib3.exceptions.HTTPError, _PassingError, json.JSONDecodeError)

        def once() -> _T:
            try:
                return call(*arguments, _request_timeout=timeout, **named)
            except kfp_server_api.ApiException as error:
                message = _message_of(error)
                if error.status in _PASSING_STATUSES or not error.status:
                    raise _PassingError(message) from None
                kind = {404: _NotFound, 409: _Conflict}.get(error.status, ServiceError)
                raise kind(f"Kubeflow Pipelines cannot {what}: {error.status}, {message}") from None
            except ValueError as error:  # an answer that stops in the middle is text, and no message can be made of it
                raise _PassingError(str(error)) from None

        attempts = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(passing),
            wait=tenacity.wait_random_exponential(self.patience.first_wait_seconds, max=30),
            stop=tenacity.stop_after_delay(self.patience.total_seconds) if repeat else tenacity.stop_after_attempt(1),
            reraise=True,
        )
        try:
            return attempts(once)
        except passing as error:
            raise ServiceError(
                f"Kubeflow Pipelines gave no answer to: {what} ({without_signatures(str(error))}). It may have been "
                "carried out all the same. Run the command again; it finds out."
            ) from None


class RecurringRuns:
    """The recurring runs of one name on Kubeflow Pipelines. See `schedules.Schedules`.

    A recurring run cannot be changed, so its digest is of all that it was created with.

    Args:
        kubeflow: The service.
        experiment: Name of the experiment they are in.
        display_name: Name of the recurring run.
        body: kfp's message of the one that is wanted, without its experiment; None only to pause or delete.
    """

    def __init__(self, kubeflow: Kubeflow, experiment: str, display_name: str, body: Any = None) -> None:
        self._kubeflow = kubeflow
        self._display_name = display_name
        self._body = body
        self._experiment_id = kubeflow.experiment(experiment)

    def find(self) -> list[Scheduled]:
        """Those there are."""
        runs = self._kubeflow.recurring_runs(self._display_name, self._experiment_id)
        return [
            Scheduled(
                name=run.recurring_run_id,
                created=(run.created_at.timestamp(), run.recurring_run_id),
                active=run.status == "ENABLED",
                digest=_digest_in(run.description or ""),
            )
            for run in runs
        ]

    def create(self) -> None:
        """Creates the one that is wanted; it is active."""
        self._body.experiment_id = self._experiment_id
        self._kubeflow.create_recurring_run(self._body)

    def update(self, scheduled: Scheduled) -> None:
        """Is never called, as nothing of a recurring run can be changed and so nothing is said to differ."""
        raise AssertionError(scheduled)

    def pause(self, scheduled: Scheduled) -> None:
        """Has it start nothing any more."""
        self._kubeflow.change_recurring_run("disable", scheduled.name)

    def resume(self, scheduled: Scheduled) -> None:
        """Has it start runs again."""
        self._kubeflow.change_recurring_run("enable", scheduled.name)

    def delete(self, scheduled: Scheduled) -> None:
        """Deletes it."""
        self._kubeflow.change_recurring_run("delete", scheduled.name)


def recurring_run(
    models: Any, display_name: str, submission: Submission, cron: Cron, max_concurrent_runs: int, digest: str
) -> Any:
    """A recurring run as the service takes it: with seconds in its cron line, and no time zone."""
    return models.V2beta1RecurringRun(
        display_name=display_name,
        description=f"{description_of(submission)} digest={digest}",
        pipeline_spec=dict(submission.spec),
        runtime_config=runtime_config(models, submission),
        service_account=submission.service_account,
        max_concurrency=str(max_concurrent_runs),
        no_catchup=True,  # what was missed is in the data of the next run
        mode=models.RecurringRunMode.ENABLE,
        trigger=models.V2beta1Trigger(cron_schedule=models.V2beta1CronSchedule(cron=f"0 {cron.fields}")),
    )


def runtime_config(models: Any, submission: Submission) -> Any:
    """Parameters and root as the service takes them."""
    return models.V2beta1RuntimeConfig(parameters=dict(submission.parameters), pipeline_root=submission.pipeline_root)


def description_of(submission: Submission) -> str:
    """The lineage of a run; the service has no labels."""
    return " ".join(f"{key}={value}" for key, value in submission.labels.items())


class _NotFound(ServiceError):
    pass


class _Conflict(ServiceError):
    pass


class _PassingError(Exception):
    """An error that is worth asking again."""


def _named(name: str) -> str:
    """A filter for one display name."""
    return json.dumps({"predicates": [{"operation": "EQUALS", "key": "display_name", "stringValue": name}]})


def _digest_in(description: str) -> str | None:
    match = re.search(r"(?:^|\s)digest=([0-9a-f]{40})(?:\s|$)", description)
    return match[1] if match else None


def _message_of(error: Any) -> str:
    """The service's own words."""
    try:
        body = json.loads(error.body)
        return without_signatures(str(body.get("message") or body["error"]["message"]))
    except (TypeError, ValueError, KeyError, AttributeError):
        return without_signatures(str(error.reason))
