"""Whatever happens to a request, a run is submitted once and a schedule is there once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("kfp", reason="TFX's Kubeflow compiler needs the extra kubeflow")
pytest.importorskip("pipelines", reason="the reference pipeline is not part of the wheel")

from pipelines import compiled, cron, schedules
from pipelines.compiled import DataVersion, Submission, with_labels
from pipelines.kubeflow_api import Kubeflow, RecurringRuns, recurring_run
from pipelines.vertex import ENDPOINT_VARIABLE, Vertex, VertexSchedules
from tests.fakes.compiled_jobs import ROOT, for_own_cluster, with_spans
from tests.fakes.http_server import FAULTS
from tests.fakes.kubeflow_api import FakeKubeflow
from tests.fakes.vertex import LOCATION, PROJECT, FakeVertex
from tests.faults.every_fault import survive_every_fault
from tfx_mobile.google_rest import Patience

#: Answers of the fakes take milliseconds; a request that hangs is given up soon.
QUICK = Patience(connect_seconds=0.5, read_seconds=0.08, total_seconds=3.0, first_wait_seconds=0.002)
#: So little that nothing is asked twice: what a process leaves behind that dies of an error, another one finishes.
IMPATIENT = Patience(connect_seconds=0.5, read_seconds=0.08, total_seconds=0.0, first_wait_seconds=0.002)
#: Of the statuses one; to these clients all that are worth asking again are the same.
DISTINCT = tuple(fault for fault in FAULTS if fault.kind != "status" or fault.status == 503)
CRON = cron.parse("TZ=UTC 0 3 * * *")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module")
def vertex_run(folder: Path) -> Submission:
    return with_spans(folder / "spans.json").submission(pipeline_root=ROOT, data=DataVersion(7))


@pytest.fixture(scope="module")
def kubeflow_run(folder: Path) -> Submission:
    return for_own_cluster(folder / "own.json").submission(pipeline_root=ROOT)


def scheduled(run: Submission, channel: str) -> tuple[Submission, str]:
    """A run for a schedule, and the digest that tells it from another."""
    digest = compiled.digest_of(channel)
    return with_labels(run, **{compiled.SCHEDULE_LABEL: digest}), digest


@dataclass
class OnVertex:
    server: FakeVertex
    run: Submission
    patience: Patience

    def act(self) -> object:
        return Vertex(PROJECT, LOCATION, self.patience).submit(self.run)

    def check_always(self) -> None:
        assert len(self.server.jobs) <= 1

    def check_done(self) -> None:
        assert [name.rpartition("/")[2] for name in self.server.jobs] == [self.run.job_id]


@dataclass
class ScheduleOnVertex(OnVertex):
    channel: str = "production"

    def act(self) -> object:
        run, digest = scheduled(self.run, self.channel)
        there = VertexSchedules(Vertex(PROJECT, LOCATION, self.patience), "digits", run, CRON)
        return schedules.ensure(there, digest)

    def check_always(self) -> None:
        assert self.server.most_active <= 1

    def check_done(self) -> None:
        (left,) = self.server.schedules.values()
        labels = left["createPipelineJobRequest"]["pipelineJob"]["labels"]
        assert labels[compiled.SCHEDULE_LABEL] == compiled.digest_of(self.channel)
        assert left["state"] == "ACTIVE"


@dataclass
class OnKubeflow:
    server: FakeKubeflow
    run: Submission
    patience: Patience

    def act(self) -> object:
        return Kubeflow(self.server.endpoint, patience=self.patience).submit(self.run)

    def check_always(self) -> None:
        assert len(self.server.runs) <= 1
        assert len(self.server.experiments) <= 1

    def check_done(self) -> None:
        assert [r["display_name"] for r in self.server.runs.values()] == [self.run.job_id]


@dataclass
class ScheduleOnKubeflow(OnKubeflow):
    channel: str = "production"

    def act(self) -> object:
        run, digest = scheduled(self.run, self.channel)
        kubeflow = Kubeflow(self.server.endpoint, patience=self.patience)
        body = recurring_run(kubeflow.models, "digits", run, CRON, 1, digest)
        return schedules.ensure(RecurringRuns(kubeflow, "digits", "digits", body), digest)

    def check_always(self) -> None:
        assert self.server.most_active <= 1

    def check_done(self) -> None:
        (left,) = self.server.recurring_runs.values()
        assert left["description"].endswith(f" digest={compiled.digest_of(self.channel)}")
        assert left["status"] == "ENABLED"


EITHER = pytest.mark.parametrize("patience", [QUICK, IMPATIENT], ids=["quick", "impatient"])


@EITHER
def test_a_run_on_vertex_is_submitted_once(
    vertex_run: Submission,
    patience: Patience,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
) -> None:
    @contextlib.contextmanager
    def scenario() -> Iterator[OnVertex]:
        with FakeVertex() as server:
            monkeypatch.setenv(ENDPOINT_VARIABLE, server.endpoint)
            yield OnVertex(server, vertex_run, patience)

    assert survive_every_fault(scenario, record_property) > 20


@pytest.mark.parametrize(("patience", "replaced"), [(QUICK, False), (IMPATIENT, True)], ids=["first", "replaced"])
def test_a_schedule_on_vertex_is_there_once(
    vertex_run: Submission,
    patience: Patience,
    replaced: bool,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
) -> None:
    with FakeVertex() as earlier:
        monkeypatch.setenv(ENDPOINT_VARIABLE, earlier.endpoint)
        if replaced:
            ScheduleOnVertex(earlier, vertex_run, QUICK, "old").act()

    @contextlib.contextmanager
    def scenario() -> Iterator[ScheduleOnVertex]:
        with FakeVertex() as server:
            monkeypatch.setenv(ENDPOINT_VARIABLE, server.endpoint)
            server.take_over(earlier)
            yield ScheduleOnVertex(server, vertex_run, patience)

    assert survive_every_fault(scenario, record_property, DISTINCT) > 20


def test_a_run_on_kubeflow_is_submitted_once(
    kubeflow_run: Submission, record_property: Callable[[str, object], None]
) -> None:
    @contextlib.contextmanager
    def scenario() -> Iterator[OnKubeflow]:
        with FakeKubeflow() as server:
            yield OnKubeflow(server, kubeflow_run, QUICK)

    assert survive_every_fault(scenario, record_property) > 60


def test_a_recurring_run_on_kubeflow_is_there_once(
    kubeflow_run: Submission, record_property: Callable[[str, object], None]
) -> None:
    with FakeKubeflow() as earlier:
        ScheduleOnKubeflow(earlier, kubeflow_run, QUICK, "old").act()

    @contextlib.contextmanager
    def scenario() -> Iterator[ScheduleOnKubeflow]:
        with FakeKubeflow() as server:
            server.take_over(earlier)
            yield ScheduleOnKubeflow(server, kubeflow_run, IMPATIENT)

    assert survive_every_fault(scenario, record_property, DISTINCT) > 40
