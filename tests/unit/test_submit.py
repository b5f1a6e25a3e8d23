"""A run is checked before it is sent, gets a name from its data, and is submitted once to Vertex AI."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

pytest.importorskip("kfp", reason="TFX's Kubeflow compiler needs the extra kubeflow")
pytest.importorskip("pipelines", reason="the reference pipeline is not part of the wheel")

from pipelines import compiled, submit
from pipelines.compiled import DataVersion, JobConflictError, ServiceError
from pipelines.vertex import ENDPOINT_VARIABLE, Vertex
from tests.fakes.compiled_jobs import ROOT, compile_digits, with_spans
from tests.fakes.vertex import LOCATION, PARENT, PROJECT, FakeVertex
from tfx_mobile import __version__
from tfx_mobile.errors import SecretParameterError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module")
def digits(folder: Path) -> compiled.CompiledPipeline:
    return compile_digits(folder / "digits.json")


@pytest.fixture(scope="module", params=["2.1", "2.0"])
def spans(folder: Path, request: pytest.FixtureRequest) -> compiled.CompiledPipeline:
    return with_spans(folder / f"spans-{request.param}.json", request.param)


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeVertex]:
    with FakeVertex() as fake:
        monkeypatch.setenv(ENDPOINT_VARIABLE, fake.endpoint)
        yield fake


def job_with(path: Path, types: dict[str, str], defaults: dict[str, Any] | None = None) -> compiled.CompiledPipeline:
    spec = {
        "pipelineInfo": {"name": "small"},
        "schemaVersion": "2.1.0",
        "root": {"inputDefinitions": {"parameters": {n: {"parameterType": t} for n, t in types.items()}}},
        "components": {},
    }
    # A value compiled into the job, which the client would silently take.
    path.write_text(json.dumps({"pipelineSpec": spec, "runtimeConfig": {"parameterValues": {"n": 99}}}))
    if defaults is not None:
        compiled.parameters_file(path).write_text(json.dumps(defaults))
    return compiled.load(path)


class TestParameters:
    def test_defaults_come_from_beside_the_job_and_others_go_before(self, digits: compiled.CompiledPipeline) -> None:
        assert digits.fill({}) == {"channel": "production", "examples_dir": "gs://example-pipelines/digits"}
        assert digits.fill({"channel": "beta"})["channel"] == "beta"

    def test_a_missing_one_is_named_although_an_old_value_is_compiled_in(self, tmp_path: Path) -> None:
        job = job_with(tmp_path / "job.json", {"n": "NUMBER_INTEGER"})
        with pytest.raises(ValueError, match=r"takes n, and neither .*job\.parameters\.json.*--parameter n=VALUE"):
            job.fill({})

    def test_an_unknown_one_is_named_with_the_known_ones(self, digits: compiled.CompiledPipeline) -> None:
        with pytest.raises(ValueError, match=r"chanel is no runtime parameter .* there are: channel, examples_dir"):
            digits.fill({"chanel": "beta"})

    def test_a_file_of_another_pipeline_beside_the_job_is_refused(self, tmp_path: Path) -> None:
        job = job_with(tmp_path / "job.json", {}, {"old": 1})
        with pytest.raises(ValueError, match=r"holds old.*compile again"):
            job.fill({})

    @pytest.mark.parametrize(
        ("type_", "text", "value"),
        [
            ("STRING", "7", "7"),
            ("NUMBER_INTEGER", "7", 7),
            ("INT", "7", 7),
            ("NUMBER_DOUBLE", "7", 7.0),
            ("DOUBLE", "1e-3", 0.001),
            ("BOOLEAN", "true", True),
            ("LIST", "[1, 2]", [1, 2]),
            ("STRUCT", '{"a": 1}', {"a": 1}),
        ],
    )
    def test_texts_become_what_the_job_says(self, tmp_path: Path, type_: str, text: str, value: object) -> None:
        filled = job_with(tmp_path / "job.json", {"n": type_}).fill({"n": text})["n"]
        assert filled == value
        assert type(filled) is type(value)

    @pytest.mark.parametrize(
        ("type_", "value"),
        [
            ("NUMBER_INTEGER", "7.5"),
            ("NUMBER_INTEGER", "seven"),
            ("NUMBER_INTEGER", True),
            ("NUMBER_DOUBLE", "NaN"),
            ("NUMBER_DOUBLE", "1e999"),
            ("BOOLEAN", "1"),
            ("LIST", '{"a": 1}'),
            ("STRING", 7),
            ("STRING", None),
        ],
    )
    def test_another_type_is_refused(self, tmp_path: Path, type_: str, value: object) -> None:
        with pytest.raises(ValueError, match=f"n is a {type_}"):
            job_with(tmp_path / "job.json", {"n": type_}).fill({"n": value})

    def test_a_secret_is_refused_and_not_repeated(self, digits: compiled.CompiledPipeline) -> None:
        secret = "ya29." + "x" * 30
        with pytest.raises(SecretParameterError) as caught:
            digits.submission(pipeline_root=ROOT, parameters={"channel": secret})
        assert secret not in str(caught.value)
        with pytest.raises(SecretParameterError):
            digits.submission(pipeline_root=f"gs://b/root?token={secret}")

    @pytest.mark.parametrize("content", ["[]", "{", '{"pipelineInfo": {"name": "x"}}'])
    def test_a_file_that_is_no_job_is_named(self, tmp_path: Path, content: str) -> None:
        (tmp_path / "x.json").write_text(content)
        with pytest.raises(ValueError, match=r"x\.json .*[Cc]ompile"):
            compiled.load(tmp_path / "x.json")
        with pytest.raises(ValueError, match="cannot be read"):
            compiled.load(tmp_path / "none.json")


class TestJobId:
    def test_it_is_made_of_the_data_alone(self, spans: compiled.CompiledPipeline) -> None:
        def job_id(**run: Any) -> str:
            return spans.submission(pipeline_root=ROOT, **run).job_id

        assert job_id(data=DataVersion(7)) == "digits-span-000007"
        assert job_id(data=DataVersion(7), parameters={"channel": "beta"}) == "digits-span-000007"
        assert job_id(data=DataVersion(7, 2)) == "digits-span-000007-version-0002"
        assert job_id(data=DataVersion(7), attempt=2) == "digits-span-000007-attempt-2"
        assert job_id(job_id="by-hand") == "by-hand"

    def test_without_spans_it_is_made_of_all_the_run_is_given(self, digits: compiled.CompiledPipeline) -> None:
        ids = {
            digits.submission(pipeline_root=ROOT).job_id,
            digits.submission(pipeline_root=ROOT, parameters={"channel": "beta"}).job_id,
            digits.submission(pipeline_root=f"{ROOT}2").job_id,
            digits.submission(pipeline_root=ROOT, enable_caching=False).job_id,
        }
        assert len(ids) == 4
        assert digits.submission(pipeline_root=ROOT).job_id in ids
        assert all(re.fullmatch(r"digits-[0-9a-f]{12}", i) for i in ids)

    @pytest.mark.parametrize("name", ["7up", "a" * 128, "a" * 79 + "-b", "x-"])
    def test_every_pipeline_name_gives_a_valid_one(self, spans: compiled.CompiledPipeline, name: str) -> None:
        ids = []
        for full in (name, f"{name[:-1]}z"):
            spec = {**spans.spec, "pipelineInfo": {"name": full}}
            job = compiled.CompiledPipeline(spans.path, spec, spans.parameter_types, spans.defaults)
            ids.append(job.submission(pipeline_root=ROOT, data=DataVersion(10**6, 3), attempt=12).job_id)
        assert len(set(ids)) == 2
        assert all(re.fullmatch(r"[a-z][-a-z0-9]{0,127}", i) for i in ids)

    def test_a_run_takes_the_span_that_its_name_says(self, spans: compiled.CompiledPipeline) -> None:
        run = spans.submission(pipeline_root=ROOT, data=DataVersion(7))
        assert json.loads(run.parameters["range_config"]) == {
            "static_range": {"start_span_number": 7, "end_span_number": 7}
        }
        with pytest.raises(ValueError, match="--span 7 decides range_config"):
            spans.submission(pipeline_root=ROOT, data=DataVersion(7), parameters={"range_config": "{}"})

    def test_a_pipeline_that_cannot_take_a_span_is_not_named_after_one(self, digits: compiled.CompiledPipeline) -> None:
        with pytest.raises(ValueError, match=r"cannot be told which span.*span_pattern"):
            digits.submission(pipeline_root=ROOT, data=DataVersion(7))

    @pytest.mark.parametrize("wrong", ["7up", "Digits", "a_b", "a-", "a" * 129])
    def test_a_name_by_hand_is_checked(self, digits: compiled.CompiledPipeline, wrong: str) -> None:
        with pytest.raises(ValueError, match="is not valid: lower-case"):
            digits.submission(pipeline_root=ROOT, job_id=wrong)


class TestLabels:
    def test_they_say_where_a_run_comes_from(self, spans: compiled.CompiledPipeline) -> None:
        run = spans.submission(pipeline_root=ROOT, data=DataVersion(7, 2), labels={"team": "vision"})
        assert run.labels == {
            "team": "vision",
            "tfx-mobile-version": compiled.label_value(__version__),
            "span": "7",
            "span-version": "2",
            "config-digest": compiled.digest_of(spans.spec),
        }
        assert all(re.fullmatch(r"[a-z0-9_-]{0,63}", v) for v in run.labels.values())

    @pytest.mark.parametrize("labels", [{"Team": "x"}, {"team": "Vision"}, {"t": "x" * 64}, {"span": "8"}])
    def test_wrong_ones_are_refused(self, digits: compiled.CompiledPipeline, labels: dict[str, str]) -> None:
        with pytest.raises(ValueError, match="label"):
            digits.submission(pipeline_root=ROOT, labels=labels)

    def test_too_many_are_refused(self, digits: compiled.CompiledPipeline) -> None:
        with pytest.raises(ValueError, match="too many"):
            digits.submission(pipeline_root=ROOT, labels={f"l{n}": "" for n in range(64)})


def test_caching_is_switched_in_every_task_also_below_an_exit_handler(digits: compiled.CompiledPipeline) -> None:
    inner = {"dag": digits.spec["root"]["dag"]}
    spec = {
        **digits.spec,
        "root": {"dag": {"tasks": {}}},
        "components": {**digits.spec["components"], "tfx-dag": inner},
    }
    for spec_of, tasks_of in ((digits.spec, "root"), (spec, "inner")):
        job = compiled.CompiledPipeline(digits.path, spec_of, digits.parameter_types, digits.defaults)
        switched = job.submission(pipeline_root=ROOT, enable_caching=False).spec
        dag = switched["root"] if tasks_of == "root" else switched["components"]["tfx-dag"]
        cached = [t["cachingOptions"] for t in dag["dag"]["tasks"].values() if "cachingOptions" in t]
        assert cached
        assert all(c == {"enableCache": False} for c in cached)


class TestVertex:
    def test_the_service_gets_everything(self, service: FakeVertex, spans: compiled.CompiledPipeline) -> None:
        account = "runner@example-project.iam.gserviceaccount.com"
        run = spans.submission(
            pipeline_root=ROOT, data=DataVersion(7), labels={"team": "vision"}, service_account=account
        )
        submitted = Vertex(PROJECT, LOCATION).submit(run)
        assert not submitted.existed
        assert submitted.state == "PIPELINE_STATE_PENDING"
        (job,) = service.jobs.values()
        assert job["name"] == f"{PARENT}/pipelineJobs/digits-span-000007" == submitted.resource
        assert job["pipelineSpec"] == spans.spec
        assert job["labels"] == run.labels
        assert job["serviceAccount"] == account
        config = job["runtimeConfig"]
        assert config["gcsOutputDirectory"] == ROOT
        given = config.get("parameterValues") or {n: v["stringValue"] for n, v in config["parameters"].items()}
        assert given == run.parameters
        assert ("parameterValues" in config) == spans.is_2_1

    def test_the_same_run_twice_is_one_job(self, service: FakeVertex, spans: compiled.CompiledPipeline) -> None:
        run = spans.submission(pipeline_root=ROOT, data=DataVersion(7))
        Vertex(PROJECT, LOCATION).submit(run)
        again = Vertex(PROJECT, LOCATION).submit(run)
        assert again.existed
        assert "exists already" in str(again)
        assert len(service.jobs) == 1
        assert len(service.mutations) == 1

    def test_a_rival_that_was_faster_is_found(self, service: FakeVertex, spans: compiled.CompiledPipeline) -> None:
        run = spans.submission(pipeline_root=ROOT, data=DataVersion(7))
        service.before(1, lambda: Vertex(PROJECT, LOCATION).submit(run))  # after we looked, before we create
        assert Vertex(PROJECT, LOCATION).submit(run).existed
        assert len(service.jobs) == 1

    def test_the_same_name_with_other_parameters_is_no_success(
        self, service: FakeVertex, spans: compiled.CompiledPipeline
    ) -> None:
        vertex = Vertex(PROJECT, LOCATION)
        vertex.submit(spans.submission(pipeline_root=ROOT, data=DataVersion(7)))
        with pytest.raises(JobConflictError, match=r"other values of: channel\. Nothing was submitted"):
            vertex.submit(spans.submission(pipeline_root=ROOT, data=DataVersion(7), parameters={"channel": "beta"}))

    def test_what_failed_is_run_again_as_another_attempt(
        self, service: FakeVertex, spans: compiled.CompiledPipeline
    ) -> None:
        vertex = Vertex(PROJECT, LOCATION)
        vertex.submit(spans.submission(pipeline_root=ROOT, data=DataVersion(7)))
        service.finish("digits-span-000007", "FAILED")
        again = vertex.submit(spans.submission(pipeline_root=ROOT, data=DataVersion(7)))
        assert again.failed
        assert "--attempt" in str(again)
        assert not vertex.submit(spans.submission(pipeline_root=ROOT, data=DataVersion(7), attempt=2)).existed

    def test_a_missing_right_is_named(self, service: FakeVertex, digits: compiled.CompiledPipeline) -> None:
        service.allowed = False
        with pytest.raises(ServiceError, match=r"does not allow .*roles/aiplatform\.user"):
            Vertex(PROJECT, LOCATION).submit(digits.submission(pipeline_root=ROOT))

    @pytest.mark.parametrize(
        ("project", "location"), [("No Project", LOCATION), (PROJECT, "europe"), (PROJECT, "x/y-1")]
    )
    def test_wrong_places_are_refused(self, project: str, location: str) -> None:
        with pytest.raises(ValueError, match="such as"):
            Vertex(project, location)

    def test_no_other_host_can_be_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(ENDPOINT_VARIABLE, "https://example.com")
        with pytest.raises(ValueError, match="loopback"):
            Vertex(PROJECT, LOCATION)

    @pytest.mark.parametrize("wrong", [{"pipeline_root": "/local"}, {"service_account": "somebody@example.com"}])
    def test_what_only_vertex_asks_is_checked(
        self, service: FakeVertex, digits: compiled.CompiledPipeline, wrong: dict[str, str]
    ) -> None:
        with pytest.raises(ValueError, match=r"Cloud Storage|service account"):
            Vertex(PROJECT, LOCATION).submit(digits.submission(**{"pipeline_root": ROOT, **wrong}))
        assert not service.requests


class TestCommand:
    def run(self, job: compiled.CompiledPipeline, *options: str) -> Result:
        where = ["--project", PROJECT, "--location", LOCATION, "--job", str(job.path)]
        return CliRunner().invoke(submit.main, [*where, *options], catch_exceptions=False)

    def test_it_submits_and_says_what(self, service: FakeVertex, spans: compiled.CompiledPipeline) -> None:
        result = self.run(spans, "--pipeline-root", ROOT, "--span", "7", "--no-cache", "--json")
        assert result.exit_code == 0, result.output
        assert json.loads(result.output)["job_id"] == "digits-span-000007"
        (job,) = service.jobs.values()
        tasks = job["pipelineSpec"]["root"]["dag"]["tasks"].values()
        assert {t["cachingOptions"]["enableCache"] for t in tasks if "cachingOptions" in t} == {False}
        again = self.run(spans, "--pipeline-root", ROOT, "--span", "7")
        assert again.exit_code == 0
        assert "digits-span-000007: exists already" in again.output

    def test_the_config_gives_root_labels_and_account(
        self, service: FakeVertex, digits: compiled.CompiledPipeline, tmp_path: Path
    ) -> None:
        from pipelines import kubeflow_v2

        account = "runner@example-project.iam.gserviceaccount.com"
        config = tmp_path / "digits.yaml"
        config.write_text(f"{kubeflow_v2.DEFAULT_CONFIG.read_text()}service_account: {account}\n")
        result = self.run(digits, "--config", str(config), "--label", "team=audio")
        assert result.exit_code == 0, result.output
        (job,) = service.jobs.values()
        assert job["serviceAccount"] == account
        assert job["labels"]["team"] == "audio"
        assert job["runtimeConfig"]["gcsOutputDirectory"] == ROOT

    def test_a_dry_run_sends_nothing(self, service: FakeVertex, spans: compiled.CompiledPipeline) -> None:
        result = self.run(spans, "--pipeline-root", ROOT, "--span", "7", "--dry-run")
        assert result.exit_code == 0
        assert "digits-span-000007: would be submitted" in result.output
        assert not service.requests

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ([], "There is no pipeline root"),
            (["--pipeline-root", "bucket"], "is no address of a folder"),
            (["--pipeline-root", ROOT, "--parameter", "channel"], "--parameter takes NAME=VALUE"),
            (["--pipeline-root", ROOT, "--parameter", "x=1"], "x is no runtime parameter"),
            (["--pipeline-root", ROOT, "--label", "a=b", "--label", "a=c"], "--label a=... is there twice"),
            (["--pipeline-root", ROOT, "--version", "1"], "give --span, too"),
            (["--pipeline-root", ROOT, "--attempt", "0"], "attempt=0 must be 1 or more"),
        ],
    )
    def test_a_mistake_is_told(
        self, service: FakeVertex, digits: compiled.CompiledPipeline, options: list[str], message: str
    ) -> None:
        result = self.run(digits, *options)
        assert result.exit_code == 1
        assert message in result.output
        assert not service.requests

    def test_a_config_of_another_pipeline_is_refused(self, digits: compiled.CompiledPipeline, tmp_path: Path) -> None:
        from pipelines import kubeflow_v2

        config = tmp_path / "other.yaml"
        config.write_text(
            kubeflow_v2.DEFAULT_CONFIG.read_text().replace("pipeline_name: digits", "pipeline_name: other")
        )
        result = self.run(digits, "--config", str(config))
        assert result.exit_code == 1
        assert "of the pipeline other" in result.output
