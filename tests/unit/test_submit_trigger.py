"""Each complete span is submitted once, whoever looks, and however often."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

pytest.importorskip("kfp", reason="TFX's Kubeflow compiler needs the extra kubeflow")
pytest.importorskip("pipelines", reason="the reference pipeline is not part of the wheel")

from pipelines import compiled, trigger
from pipelines.compiled import DataVersion
from pipelines.run_ir import ir, runner, steps
from pipelines.trigger import complete_spans, span_of_object, submission_for_span, submit_for_span
from pipelines.vertex import ENDPOINT_VARIABLE, Vertex
from tests.fakes.compiled_jobs import ROOT, for_own_cluster, with_spans
from tests.fakes.kubeflow_api import FakeKubeflow
from tests.fakes.vertex import LOCATION, PROJECT, FakeVertex


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module")
def spans(folder: Path) -> compiled.CompiledPipeline:
    return with_spans(folder / "spans.json")


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeVertex]:
    with FakeVertex() as fake:
        monkeypatch.setenv(ENDPOINT_VARIABLE, fake.endpoint)
        yield fake


@pytest.fixture
def command(spans: compiled.CompiledPipeline, tmp_path: Path) -> Callable[..., Result]:
    def run(*options: str) -> Result:
        where = ["--project", PROJECT, "--location", LOCATION, "--job", str(spans.path), "--pipeline-root", ROOT]
        return CliRunner().invoke(
            trigger.main, [*where, "--parameter", f"examples_dir={tmp_path}", *options], catch_exceptions=False
        )

    return run


def write_span(folder: Path, complete: bool = True) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "data.tfrecord").touch()
    if complete:
        (folder / "_SUCCESS").touch()


def succeed(result: Result) -> str:
    assert result.exit_code == 0, result.output
    return result.output


def job_ids(service: FakeVertex) -> list[str]:
    return sorted(name.rpartition("/")[2] for name in service.jobs)


class TestCompleteSpans:
    def data(self, examples_dir: Path, pattern: str) -> list[DataVersion]:
        return [span.data for span in complete_spans(str(examples_dir), pattern)]

    def test_in_order_and_only_in_whole(self, tmp_path: Path) -> None:
        for number in (2, 10, 9):
            write_span(tmp_path / f"span-{number}")
        write_span(tmp_path / "span-11", complete=False)
        write_span(tmp_path / "span-x")
        write_span(tmp_path / "span-3" / "deeper")
        found = complete_spans(str(tmp_path), "span-{SPAN}/*")
        assert [s.data for s in found] == [DataVersion(2), DataVersion(9), DataVersion(10)]
        assert found[0].folder == str(tmp_path / "span-2")

    def test_the_newest_version_counts_and_is_waited_for(self, tmp_path: Path) -> None:
        pattern = "span-{SPAN}/version-{VERSION}/*"
        write_span(tmp_path / "span-1" / "version-1")
        write_span(tmp_path / "span-1" / "version-2")
        write_span(tmp_path / "span-2" / "version-1")
        write_span(tmp_path / "span-2" / "version-2", complete=False)
        assert self.data(tmp_path, pattern) == [DataVersion(1, 2)]
        write_span(tmp_path / "span-2" / "version-2")
        assert self.data(tmp_path, pattern) == [DataVersion(1, 2), DataVersion(2, 2)]

    def test_leading_zeros_have_to_be_in_the_pattern(self, tmp_path: Path) -> None:
        write_span(tmp_path / "span-0007")
        assert self.data(tmp_path, "span-{SPAN:4}/*") == [DataVersion(7)]
        with pytest.raises(ValueError, match=r"would not find span 7 .*\{SPAN:4\}"):
            complete_spans(str(tmp_path), "span-{SPAN}/*")

    def test_dates_are_days_since_1970(self, tmp_path: Path) -> None:
        write_span(tmp_path / "1970-01-31")
        assert self.data(tmp_path, "{YYYY}-{MM}-{DD}/*") == [DataVersion(30)]

    def test_nothing_there_is_nothing_to_do(self, tmp_path: Path) -> None:
        assert complete_spans(str(tmp_path / "none"), "span-{SPAN}/*") == []

    @pytest.mark.parametrize("pattern", ["data-{SPAN}", "all/*", "span-{SPAN}/data-{VERSION}"])
    def test_a_pattern_without_folders_is_refused(self, tmp_path: Path, pattern: str) -> None:
        with pytest.raises(ValueError, match="no folder of its own"):
            complete_spans(str(tmp_path), pattern)

    def test_an_event_is_a_span_only_if_it_is_the_marker(self, tmp_path: Path) -> None:
        write_span(tmp_path / "span-7")
        where = (str(tmp_path), "span-{SPAN}/*")
        found = span_of_object(f"{tmp_path}/span-7/_SUCCESS", *where)
        assert found is not None
        assert found.data == DataVersion(7)
        assert span_of_object(f"{tmp_path}/span-7/data.tfrecord", *where) is None
        assert span_of_object(f"{tmp_path}/elsewhere/span-7/_SUCCESS", *where) is None

    def test_an_event_of_an_old_version_starts_nothing(self, tmp_path: Path) -> None:
        write_span(tmp_path / "span-7" / "v1")
        write_span(tmp_path / "span-7" / "v2", complete=False)
        assert span_of_object(f"{tmp_path}/span-7/v1/_SUCCESS", str(tmp_path), "span-{SPAN}/v{VERSION}/*") is None


class TestOnVertex:
    def test_new_spans_are_submitted_and_old_ones_are_not_again(
        self, service: FakeVertex, command: Callable[..., Result], tmp_path: Path
    ) -> None:
        write_span(tmp_path / "span-1")
        write_span(tmp_path / "span-2", complete=False)
        assert "digits-span-000001: submitted" in succeed(command())
        assert "digits-span-000001: exists already" in succeed(command())
        assert job_ids(service) == ["digits-span-000001"]
        write_span(tmp_path / "span-2")
        succeed(command())
        assert job_ids(service) == ["digits-span-000001", "digits-span-000002"]
        parameters = [j["runtimeConfig"]["parameterValues"] for j in service.jobs.values()]
        starts = [json.loads(p["range_config"])["static_range"]["start_span_number"] for p in parameters]
        assert starts == [1, 2]
        assert {p["examples_dir"] for p in parameters} == {str(tmp_path)}

    def test_it_looks_back_so_far(self, service: FakeVertex, command: Callable[..., Result], tmp_path: Path) -> None:
        for number in range(5):
            write_span(tmp_path / f"span-{number}")
        succeed(command("--look-back", "2"))
        assert job_ids(service) == ["digits-span-000003", "digits-span-000004"]

    def test_at_the_same_time_twice_is_safe(
        self, service: FakeVertex, spans: compiled.CompiledPipeline, tmp_path: Path
    ) -> None:
        for number in range(3):
            write_span(tmp_path / f"span-{number}")
        found = complete_spans(str(tmp_path), "span-{SPAN}/*")

        def look(_: int) -> list[bool]:
            vertex = Vertex(PROJECT, LOCATION)
            return [submit_for_span(vertex, spans, s.data, pipeline_root=ROOT).existed for s in found]

        with ThreadPoolExecutor(4) as pool:
            existed = list(pool.map(look, range(4)))
        assert len(service.jobs) == 3
        assert [sum(not e for e in of_one_span) for of_one_span in zip(*existed, strict=True)] == [1, 1, 1]

    def test_an_event_that_is_delivered_twice_is_one_job(
        self, service: FakeVertex, command: Callable[..., Result], tmp_path: Path
    ) -> None:
        write_span(tmp_path / "span-6")
        write_span(tmp_path / "span-7")
        for _ in range(2):
            succeed(command("--object", f"{tmp_path}/span-7/_SUCCESS"))
        assert job_ids(service) == ["digits-span-000007"]
        assert succeed(command("--object", f"{tmp_path}/span-6/data.tfrecord")) == ""

    def test_one_span_with_other_parameters_does_not_keep_the_others(
        self, service: FakeVertex, command: Callable[..., Result], tmp_path: Path
    ) -> None:
        write_span(tmp_path / "span-1")
        succeed(command("--parameter", "channel=beta"))
        write_span(tmp_path / "span-2")
        result = command()
        assert result.exit_code == 1
        assert "digits-span-000001 exists already with other values of: channel" in result.output
        assert job_ids(service) == ["digits-span-000001", "digits-span-000002"]

    def test_a_dry_run_sends_nothing(self, service: FakeVertex, command: Callable[..., Result], tmp_path: Path) -> None:
        write_span(tmp_path / "span-1")
        lines = succeed(command("--dry-run", "--json")).splitlines()
        assert [json.loads(line)["job_id"] for line in lines] == ["digits-span-000001"]
        assert not service.requests

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (("--host", "http://127.0.0.1:1"), "Say where to submit"),
            (("--namespace", "vision"), "--namespace vision goes with --host"),
            (("--object", "x", "--every", "1"), "--object is one event"),
            (("--span-pattern", "day-{SPAN}/*"), "the pipeline itself takes 'span-{SPAN}/*'"),
        ],
    )
    def test_a_mistake_is_told(
        self, service: FakeVertex, command: Callable[..., Result], options: tuple[str, ...], message: str
    ) -> None:
        result = command(*options)
        assert result.exit_code == 1
        assert message in result.output
        assert not service.requests


class OnlyDrivers(steps.ForkedSteps):
    """Runs what decides which data a step takes, and leaves out what then reads it, which takes Beam."""

    def run(self, command: Sequence[str], log: Path) -> steps.StepRun:
        return super().run(command, log) if command[2].endswith(".driver") else steps.StepRun(0, 0.0, 0)


@pytest.mark.parametrize("schema", ["2.1", "2.0"])
def test_example_gen_takes_the_span_that_the_run_is_named_after(folder: Path, tmp_path: Path, schema: str) -> None:
    for number in (6, 7, 8):
        write_span(tmp_path / f"span-{number}")
    job = with_spans(folder / f"run-{schema}.json", schema)
    (_, span, _) = complete_spans(str(tmp_path), str(job.span_pattern))
    run = submission_for_span(job, span, pipeline_root=ROOT, parameters={"examples_dir": str(tmp_path)})
    newest = {**job.defaults, "examples_dir": str(tmp_path)}
    whole = ir.load(job.path)
    first = dataclasses.replace(whole, tasks=tuple(t for t in whole.tasks if t.name == "ImportExampleGen"))
    for parameters, taken in ((run.parameters, 7), (newest, 8)):
        done = runner.run_job(first, tmp_path / "root", OnlyDrivers(), parameters, lambda *_: None)
        (examples,) = done.tasks["ImportExampleGen"].outputs["examples"]
        assert examples["metadata"]["custom:span"] == taken


def test_with_every_it_goes_on_after_the_service_was_away(
    service: FakeVertex, command: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_span(tmp_path / "span-1")
    service.allowed = False
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        service.allowed = True
        if len(waits) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("pipelines.trigger.time.sleep", sleep)
    result = command("--every", "60")
    assert "Looking again in 60 s" in result.output
    assert "digits-span-000001: submitted" in result.output
    assert waits == [60, 60]


def test_on_ones_own_cluster_a_run_gets_the_folder_of_its_span(folder: Path, tmp_path: Path) -> None:
    job = for_own_cluster(folder / "own.json")
    write_span(tmp_path / "span-7")
    with FakeKubeflow() as service:
        options = ["--host", service.endpoint, "--job", str(job.path), "--pipeline-root", ROOT]
        for _ in range(2):
            succeed(CliRunner().invoke(trigger.main, [*options, "--parameter", f"examples_dir={tmp_path}"]))
        (run,) = service.runs.values()
    assert run["display_name"] == "digits-span-000007"
    assert run["runtime_config"]["parameters"]["examples_dir"] == str(tmp_path / "span-7")
