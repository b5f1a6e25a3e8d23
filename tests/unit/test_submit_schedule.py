"""There is one schedule per name, it is what was asked for last, and never are two of them active."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

pytest.importorskip("kfp", reason="TFX's Kubeflow compiler needs the extra kubeflow")
pytest.importorskip("pipelines", reason="the reference pipeline is not part of the wheel")

from pipelines import compiled, cron, schedule, schedules
from pipelines.compiled import JobConflictError
from pipelines.vertex import ENDPOINT_VARIABLE, Vertex, VertexSchedules
from tests.fakes.compiled_jobs import ROOT, compile_digits
from tests.fakes.http_server import Fault
from tests.fakes.vertex import LOCATION, PROJECT, FakeVertex

CRON = "TZ=Europe/Paris 0 3 * * *"


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> compiled.CompiledPipeline:
    return compile_digits(tmp_path_factory.mktemp("compiled") / "digits.json")


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeVertex]:
    with FakeVertex() as fake:
        monkeypatch.setenv(ENDPOINT_VARIABLE, fake.endpoint)
        yield fake


@pytest.fixture
def run(digits: compiled.CompiledPipeline) -> Callable[..., Result]:
    def run(*options: str) -> Result:
        where = ["--project", PROJECT, "--location", LOCATION, "--job", str(digits.path)]
        return CliRunner().invoke(schedule.main, [*where, *options], catch_exceptions=False)

    return run


def succeed(result: Result) -> str:
    assert result.exit_code == 0, result.output
    return result.output


class TestCron:
    @pytest.mark.parametrize(
        "line", [CRON, "CRON_TZ=UTC */5 0-6 1,15 JAN-MAR MON-FRI", "TZ=America/New_York 0 0 1 1 0"]
    )
    def test_valid_lines(self, line: str) -> None:
        assert cron.parse(line).time_zone in line
        assert cron.parse(str(cron.parse(line))) == cron.parse(line)

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ("0 3 * * *", "has no time zone"),
            ("TZ=Europe/Pariss 0 3 * * *", "there is no time zone Europe/Pariss"),
            ("TZ=UTC 0 3 * *", "has 4 fields"),
            ("TZ=UTC 0 0 3 * * *", "has 6 fields"),
            ("TZ=UTC 60 3 * * *", "'60' is no minute"),
            ("TZ=UTC 0 24 * * *", "'24' is no hour"),
            ("TZ=UTC 0 3 0 * *", "'0' is no day of the month"),
            ("TZ=UTC 0 3 * 13 *", "'13' is no month"),
            ("TZ=UTC 0 3 * * 7", "'7' is no day of the week"),
            ("TZ=UTC 0 5-3 * * *", "'5-3' is no hour"),
            ("TZ=UTC */0 3 * * *", r"'\*/0' is no minute"),
            ("TZ=UTC 0 3- * * *", "'3-' is no hour"),
            ("TZ=UTC 0 3,, * * *", "'' is no hour"),
            ("TZ=UTC x 3 * * *", "'X' is no minute"),
        ],
    )
    def test_what_is_wrong_is_named(self, line: str, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            cron.parse(line)


class TestCommand:
    def test_it_creates_one(self, service: FakeVertex, run: Callable[..., Result]) -> None:
        assert "digits: created" in succeed(run("--pipeline-root", ROOT, "--cron", CRON))
        (made,) = service.schedules.values()
        assert made["displayName"] == "digits"
        assert made["cron"] == CRON
        assert int(made["maxConcurrentRunCount"]) == 1
        assert made["allowQueueing"] is True
        job = made["createPipelineJobRequest"]["pipelineJob"]
        assert job["runtimeConfig"]["parameterValues"]["channel"] == "production"
        assert job["runtimeConfig"]["gcsOutputDirectory"] == ROOT
        assert {"tfx-mobile-version", "config-digest", "schedule-digest"} <= job["labels"].keys()

    def test_twice_changes_nothing(self, service: FakeVertex, run: Callable[..., Result]) -> None:
        succeed(run("--pipeline-root", ROOT, "--cron", CRON))
        num_mutations = len(service.mutations)
        assert "unchanged" in succeed(run("--pipeline-root", ROOT, "--cron", CRON))
        assert len(service.mutations) == num_mutations

    def test_another_cron_line_updates_it(self, service: FakeVertex, run: Callable[..., Result]) -> None:
        succeed(run("--pipeline-root", ROOT, "--cron", CRON))
        (name,) = service.schedules
        assert "updated" in succeed(run("--pipeline-root", ROOT, "--cron", "TZ=UTC 0 4 * * *"))
        assert service.schedules[name]["cron"] == "TZ=UTC 0 4 * * *"
        assert service.mutations[-1].query["updateMask"] == "cron"

    def test_another_run_replaces_it_and_never_two_are_active(
        self, service: FakeVertex, run: Callable[..., Result]
    ) -> None:
        succeed(run("--pipeline-root", ROOT, "--cron", CRON))
        (old,) = service.schedules
        changed = ("--pipeline-root", ROOT, "--cron", CRON, "--parameter", "channel=beta")
        assert "replaced" in succeed(run(*changed))
        (new,) = service.schedules
        assert new != old
        request = service.schedules[new]["createPipelineJobRequest"]
        assert request["pipelineJob"]["runtimeConfig"]["parameterValues"]["channel"] == "beta"
        assert service.most_active == 1
        assert len(service.active("digits")) == 1

    def test_what_others_made_under_the_name_goes(self, service: FakeVertex, run: Callable[..., Result]) -> None:
        for _ in range(3):
            service.schedules[f"x/{len(service.schedules)}"] = {
                "name": f"projects/{PROJECT}/locations/{LOCATION}/schedules/9{len(service.schedules)}",
                "displayName": "digits",
                "state": "ACTIVE",
                "createTime": "2025-01-01T00:00:00Z",
            }
        service.schedules = {s["name"]: s for s in service.schedules.values()}
        service.schedules["other"] = {"name": "other", "displayName": "another", "state": "ACTIVE"}
        succeed(run("--pipeline-root", ROOT, "--cron", CRON))
        assert [s["displayName"] for s in service.schedules.values()] == ["another", "digits"]
        assert service.active("another")

    def test_pause_and_start_again(self, service: FakeVertex, run: Callable[..., Result]) -> None:
        succeed(run("--pipeline-root", ROOT, "--cron", CRON))
        assert "digits: paused" in succeed(run("--pause"))
        assert not service.active("digits")
        assert "nothing to pause" in succeed(run("--pause"))
        assert "resumed" in succeed(run("--pipeline-root", ROOT, "--cron", CRON))
        (made,) = service.active("digits")
        assert made["catchUp"] is False

    def test_delete(self, service: FakeVertex, run: Callable[..., Result]) -> None:
        succeed(run("--pipeline-root", ROOT, "--cron", CRON))
        assert "digits: deleted" in succeed(run("--delete"))
        assert not service.schedules
        assert "nothing to delete" in succeed(run("--delete"))

    @pytest.mark.parametrize("options", [("--pipeline-root", ROOT, "--cron", CRON), ("--pause",), ("--delete",)])
    def test_a_dry_run_sends_nothing(
        self, service: FakeVertex, run: Callable[..., Result], options: tuple[str, ...]
    ) -> None:
        assert "would be" in json.loads(succeed(run(*options, "--dry-run", "--json")))["done"]
        assert not service.requests

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (("--pipeline-root", ROOT), "There is no cron line"),
            (("--cron", CRON), "There is no pipeline root"),
            (("--pause", "--delete"), "give one"),
            (("--pipeline-root", ROOT, "--cron", CRON, "--name", 'a"b'), "name 'a\"b' is not valid"),
        ],
    )
    def test_a_mistake_is_told(
        self, service: FakeVertex, run: Callable[..., Result], options: tuple[str, ...], message: str
    ) -> None:
        result = run(*options)
        assert result.exit_code == 1
        assert message in result.output
        assert not service.requests

    def test_the_config_says_when(self, service: FakeVertex, run: Callable[..., Result], tmp_path: Path) -> None:
        from pipelines import kubeflow_v2

        config = tmp_path / "digits.yaml"
        text = kubeflow_v2.DEFAULT_CONFIG.read_text()
        config.write_text(text.replace('0 3 * * *"}', '30 4 * * *", max_concurrent_runs: 2}'))
        succeed(run("--config", str(config), "--name", "nightly"))
        (made,) = service.active("nightly")
        assert made["cron"] == "TZ=Europe/Paris 30 4 * * *"
        assert int(made["maxConcurrentRunCount"]) == 2


@pytest.mark.parametrize("answer", [404, 409])
def test_a_schedule_that_cannot_be_changed_is_told(
    service: FakeVertex, run: Callable[..., Result], answer: int
) -> None:
    succeed(run("--pipeline-root", ROOT, "--cron", CRON))
    service.fail(service.num_requests + 1, Fault("status", status=answer))
    result = run("--pipeline-root", ROOT, "--cron", "TZ=UTC 0 4 * * *")
    assert result.exit_code == 1
    assert "Error: Vertex AI cannot update" in result.output


class TestRivals:
    def ensure(self, digits: compiled.CompiledPipeline, channel: str) -> str:
        run = digits.submission(pipeline_root=ROOT, parameters={"channel": channel})
        digest = compiled.digest_of(channel)
        run = compiled.with_labels(run, **{compiled.SCHEDULE_LABEL: digest})
        there = VertexSchedules(Vertex(PROJECT, LOCATION), "digits", run, cron.parse(CRON))
        return schedules.ensure(there, digest)

    @pytest.mark.parametrize("request_number", range(8))
    @pytest.mark.parametrize("start", ["nothing", "another"])
    def test_two_who_want_the_same_leave_one(
        self, service: FakeVertex, digits: compiled.CompiledPipeline, request_number: int, start: str
    ) -> None:
        if start == "another":
            self.ensure(digits, "old")
        service.before(service.num_requests + request_number, lambda: self.ensure(digits, "production"))
        self.ensure(digits, "production")
        assert len(service.active("digits")) == len(service.schedules) == 1

    @pytest.mark.parametrize("request_number", range(8))
    def test_of_two_who_want_different_ones_exactly_one_has_its_way(
        self, service: FakeVertex, digits: compiled.CompiledPipeline, request_number: int
    ) -> None:
        told = []

        def rival() -> None:
            try:
                self.ensure(digits, "beta")
            except JobConflictError:
                told.append("beta")

        service.before(service.num_requests + request_number, rival)
        try:
            self.ensure(digits, "production")
        except JobConflictError:
            told.append("production")
        (left,) = service.active("digits")
        channel = left["createPipelineJobRequest"]["pipelineJob"]["runtimeConfig"]["parameterValues"]["channel"]
        assert len(service.schedules) == 1
        # The one that ended last has its way, or is told that it has not.
        assert ("production" in told) == (channel == "beta")
