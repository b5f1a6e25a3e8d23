"""One's own Kubeflow Pipelines gets each run once, and is not given what it cannot run."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

pytest.importorskip("kfp", reason="TFX's Kubeflow compiler needs the extra kubeflow")
pytest.importorskip("pipelines", reason="the reference pipeline is not part of the wheel")

from pipelines import compiled, submit_kfp
from pipelines.compiled import DataVersion, JobConflictError, ServiceError
from pipelines.kubeflow_api import Kubeflow
from tests.fakes.compiled_jobs import ROOT, compile_digits, for_own_cluster
from tests.fakes.kubeflow_api import FakeKubeflow

CRON = "TZ=UTC 0 3 * * *"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module")
def digits(folder: Path) -> compiled.CompiledPipeline:
    return for_own_cluster(folder / "digits.json")


@pytest.fixture
def service() -> FakeKubeflow:
    with FakeKubeflow() as fake:
        yield fake


@pytest.fixture
def command(service: FakeKubeflow, digits: compiled.CompiledPipeline) -> Callable[..., Result]:
    def run(name: str, *options: str) -> Result:
        where = [name, "--host", service.endpoint, "--job", str(digits.path)]
        return CliRunner().invoke(submit_kfp.main, [*where, *options], catch_exceptions=False)

    return run


def succeed(result: Result) -> str:
    assert result.exit_code == 0, result.output
    return result.output


class TestRun:
    def test_the_service_gets_everything(self, service: FakeKubeflow, digits: compiled.CompiledPipeline) -> None:
        run = digits.submission(
            pipeline_root=ROOT,
            data=DataVersion(7),
            parameters={"examples_dir": "gs://example-pipelines/digits/span-7"},
            service_account="pipeline-runner",
        )
        submitted = Kubeflow(service.endpoint).submit(run)
        assert not submitted.existed
        (sent,) = service.runs.values()
        assert sent["display_name"] == "digits-span-000007"
        assert sent["pipeline_spec"] == digits.spec
        assert sent["runtime_config"] == {"parameters": run.parameters, "pipeline_root": ROOT}
        assert sent["service_account"] == "pipeline-runner"
        assert f"config-digest={compiled.digest_of(digits.spec)}" in sent["description"]
        assert "span=7" in sent["description"]
        assert submitted.resource.endswith(sent["run_id"])
        (experiment,) = service.experiments.values()
        assert experiment["display_name"] == "digits"
        assert sent["experiment_id"] == experiment["experiment_id"]

    def test_the_same_run_twice_is_one(self, service: FakeKubeflow, digits: compiled.CompiledPipeline) -> None:
        run = digits.submission(pipeline_root=ROOT)
        assert not Kubeflow(service.endpoint).submit(run).existed
        assert Kubeflow(service.endpoint).submit(run).existed
        assert len(service.runs) == 1

    @pytest.mark.parametrize("request_number", range(7))
    def test_two_at_once_leave_one(
        self, service: FakeKubeflow, digits: compiled.CompiledPipeline, request_number: int
    ) -> None:
        run = digits.submission(pipeline_root=ROOT)
        submitted = []
        service.before(request_number, lambda: submitted.append(Kubeflow(service.endpoint).submit(run)))
        submitted.append(Kubeflow(service.endpoint).submit(run))
        (left,) = service.runs
        assert all(s.resource.endswith(left) for s in submitted)
        if len(submitted) == 2:
            assert sorted(s.existed for s in submitted) == [False, True]

    def test_other_parameters_under_the_name_are_no_success(
        self, service: FakeKubeflow, digits: compiled.CompiledPipeline
    ) -> None:
        kubeflow = Kubeflow(service.endpoint)
        kubeflow.submit(digits.submission(pipeline_root=ROOT, job_id="once"))
        with pytest.raises(JobConflictError, match="other values of: channel"):
            kubeflow.submit(digits.submission(pipeline_root=ROOT, job_id="once", parameters={"channel": "beta"}))

    def test_what_ended_badly_says_how_to_go_on(self, service: FakeKubeflow, digits: compiled.CompiledPipeline) -> None:
        kubeflow = Kubeflow(service.endpoint)
        kubeflow.submit(digits.submission(pipeline_root=ROOT))
        next(iter(service.runs.values()))["state"] = "FAILED"
        assert "--attempt" in str(kubeflow.submit(digits.submission(pipeline_root=ROOT)))
        assert not kubeflow.submit(digits.submission(pipeline_root=ROOT, attempt=2)).existed

    def test_a_namespace_goes_with_the_experiment(
        self, service: FakeKubeflow, digits: compiled.CompiledPipeline
    ) -> None:
        Kubeflow(service.endpoint, namespace="vision").submit(digits.submission(pipeline_root=ROOT))
        (experiment,) = service.experiments.values()
        assert experiment["namespace"] == "vision"

    def test_the_services_own_words_are_told(self, service: FakeKubeflow, digits: compiled.CompiledPipeline) -> None:
        run = digits.submission(pipeline_root=ROOT)
        wrong = compiled.Submission(**{**vars(run), "parameters": {"channel": "x"}})
        with pytest.raises(ServiceError, match="400, parameter examples_dir is not optional"):
            Kubeflow(service.endpoint).submit(wrong)

    def test_the_token_of_a_pod_is_used(
        self,
        service: FakeKubeflow,
        digits: compiled.CompiledPipeline,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        token = secrets.token_hex()
        (tmp_path / "token").write_text(token)
        Kubeflow(service.endpoint).submit(digits.submission(pipeline_root=ROOT))
        assert not any("authorization" in request.headers for request in service.requests)
        monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(tmp_path / "token"))
        before = service.num_requests
        Kubeflow(service.endpoint).submit(digits.submission(pipeline_root=ROOT))
        assert {r.headers.get("authorization") for r in service.requests[before:]} == {f"Bearer {token}"}

    @pytest.mark.parametrize("host", ["127.0.0.1:1", "http://user:x@127.0.0.1:1", "http://127.0.0.1:1/?token=x"])
    def test_a_host_is_an_address_without_secrets(self, host: str) -> None:
        with pytest.raises(ValueError, match="host") as caught:
            Kubeflow(host)
        assert host not in str(caught.value)


class TestWhatItCannotRun:
    """Each is refused here, and by the fake as by the server's source, if it is sent all the same."""

    @pytest.mark.parametrize(
        ("schema", "changes", "message", "answer"),
        [
            ("2.1", {}, "does not run Resolvers", "non-importer executor not implemented"),
            ("2.0", {"compare_with_last_blessed": False}, "schema 2.1 only", "only supports schema version 2.1.0"),
            ("2.1", {"compare_with_last_blessed": False, "span_pattern": "span-{SPAN}/*"}, "ExampleGen's driver", None),
        ],
    )
    def test_it_is_refused_before_anything_is_sent(
        self,
        service: FakeKubeflow,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        schema: str,
        changes: dict[str, object],
        message: str,
        answer: str | None,
    ) -> None:
        run = compile_digits(tmp_path / "job.json", schema, **changes).submission(pipeline_root=ROOT)
        with pytest.raises(ValueError, match=message):
            Kubeflow(service.endpoint).submit(run)
        assert not service.requests
        if answer:
            monkeypatch.setattr("pipelines.kubeflow_api.check_submission", lambda run: None)
            with pytest.raises(ServiceError, match=answer):
                Kubeflow(service.endpoint).submit(run)

    def test_a_service_account_is_one_of_kubernetes(
        self, service: FakeKubeflow, digits: compiled.CompiledPipeline
    ) -> None:
        run = digits.submission(pipeline_root=ROOT, service_account="runner@p.iam.gserviceaccount.com")
        with pytest.raises(ValueError, match="ServiceAccount of Kubernetes"):
            Kubeflow(service.endpoint).submit(run)


class TestCommands:
    def test_run(self, service: FakeKubeflow, command: Callable[..., Result]) -> None:
        output = succeed(command("run", "--pipeline-root", ROOT, "--json"))
        assert json.loads(output)["existed"] is False
        assert "exists already" in succeed(command("run", "--pipeline-root", ROOT))
        assert len(service.runs) == 1

    def test_a_span_needs_its_folder(self, service: FakeKubeflow, command: Callable[..., Result]) -> None:
        result = command("run", "--pipeline-root", ROOT, "--span", "7")
        assert result.exit_code == 1
        assert "--parameter examples_dir=" in result.output
        succeed(command("run", "--pipeline-root", ROOT, "--span", "7", "--parameter", "examples_dir=gs://b/span-7"))
        (run,) = service.runs.values()
        assert run["display_name"] == "digits-span-000007"

    def test_schedule(self, service: FakeKubeflow, command: Callable[..., Result]) -> None:
        assert "created" in succeed(command("schedule", "--pipeline-root", ROOT, "--cron", CRON))
        (made,) = service.recurring_runs.values()
        assert made["trigger"] == {"cron_schedule": {"cron": "0 0 3 * * *"}}
        assert made["max_concurrency"] == "1"
        assert made["no_catchup"] is True
        tasks = made["pipeline_spec"]["root"]["dag"]["tasks"].values()
        assert {t["cachingOptions"]["enableCache"] for t in tasks if "cachingOptions" in t} == {False}
        assert made["runtime_config"]["parameters"]["channel"] == "production"
        num_mutations = len(service.mutations)
        assert "unchanged" in succeed(command("schedule", "--pipeline-root", ROOT, "--cron", CRON))
        assert len(service.mutations) == num_mutations

    @pytest.mark.parametrize("change", [("--cron", "TZ=UTC 0 4 * * *"), ("--cron", CRON, "--parameter", "channel=b")])
    def test_a_change_replaces_the_recurring_run(
        self, service: FakeKubeflow, command: Callable[..., Result], change: tuple[str, ...]
    ) -> None:
        succeed(command("schedule", "--pipeline-root", ROOT, "--cron", CRON))
        (old,) = service.recurring_runs
        assert "replaced" in succeed(command("schedule", "--pipeline-root", ROOT, *change))
        (new,) = service.recurring_runs
        assert new != old
        assert service.most_active == 1
        assert len(service.active) == 1

    def test_pause_start_and_delete(self, service: FakeKubeflow, command: Callable[..., Result]) -> None:
        succeed(command("schedule", "--pipeline-root", ROOT, "--cron", CRON))
        assert "paused" in succeed(command("schedule", "--pause"))
        assert not service.active
        assert "resumed" in succeed(command("schedule", "--pipeline-root", ROOT, "--cron", CRON))
        assert len(service.active) == 1
        assert "deleted" in succeed(command("schedule", "--delete"))
        assert not service.recurring_runs

    def test_the_clusters_time_zone_has_to_be_that_of_the_line(
        self, service: FakeKubeflow, command: Callable[..., Result]
    ) -> None:
        paris = ("--pipeline-root", ROOT, "--cron", "TZ=Europe/Paris 0 3 * * *")
        result = command("schedule", *paris)
        assert result.exit_code == 1
        assert "CRON_SCHEDULE_TIMEZONE" in result.output
        assert not service.requests
        succeed(command("schedule", *paris, "--cluster-time-zone", "Europe/Paris"))

    @pytest.mark.parametrize("options", [("run",), ("schedule", "--cron", CRON), ("schedule", "--pause")])
    def test_a_dry_run_sends_nothing(
        self, service: FakeKubeflow, command: Callable[..., Result], options: tuple[str, ...]
    ) -> None:
        assert "would be" in succeed(command(*options, "--pipeline-root", ROOT, "--dry-run"))
        assert not service.requests
