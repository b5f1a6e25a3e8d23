"""The runner of compiled pipelines: what runs, what is skipped, what is found, and what is refused."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("kfp", reason="TFX's Kubeflow compiler needs the extra kubeflow")

from tfx.dsl.components.common.importer import Importer
from tfx.dsl.components.common.resolver import Resolver
from tfx.dsl.experimental.conditionals.conditional import Cond
from tfx.dsl.input_resolution.strategies.latest_blessed_model_strategy import LatestBlessedModelStrategy
from tfx.orchestration.data_types import RuntimeParameter
from tfx.orchestration.kubeflow.decorators import FinalStatusStr
from tfx.orchestration.kubeflow.v2 import kubeflow_v2_dag_runner as kubeflow
from tfx.orchestration.pipeline import Pipeline
from tfx.types import Channel
from tfx.types.standard_artifacts import Model, ModelBlessing

from pipelines.alerts import Alert
from pipelines.run_ir import conditions, ir, runner, steps
from pipelines.run_ir.artifacts import ArtifactStore, new_artifact
from pipelines.run_ir.steps import ForkedSteps, InstalledSteps
from tests.fakes.small_components import Make, Use

MODEL = {"instanceSchema": "title: tfx.Model\ntype: object\n"}


@pytest.fixture(params=[True, False], ids=["2.1", "2.0"])
def compiled(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    def compile_(components: list[Any], exit_handler: Any = None) -> ir.Job:
        file = tmp_path / "job.json"
        config = kubeflow.KubeflowV2DagRunnerConfig(default_image="image:1", use_pipeline_spec_2_1=request.param)
        dag_runner = kubeflow.KubeflowV2DagRunner(config=config, output_filename=str(file))
        if exit_handler is not None:
            dag_runner.set_exit_handler(exit_handler)
        dag_runner.run(Pipeline("small", "gs://bucket/root", components=components))
        return ir.load(file)

    return compile_


def run(job: ir.Job, root: Path, **parameters: Any) -> runner.JobRun:
    return runner.run_job(job, root, ForkedSteps(), parameters)


def states(result: runner.JobRun) -> dict[str, str]:
    return {name: task.state for name, task in result.tasks.items()}


def conditional(blessed: Any) -> list[Any]:
    make = Make(blessed=blessed)
    with Cond(make.outputs["blessing"].future()[0].custom_property("blessed") == 1):
        use = Use(model=make.outputs["model"])
    after = Use(model=use.outputs["seen"]).with_id("After")
    return [make, use, after]


@pytest.mark.parametrize(("blessed", "state"), [(1, "SUCCEEDED"), (0, "SKIPPED")])
def test_a_condition_and_what_comes_after_it(compiled: Any, tmp_path: Path, blessed: int, state: str) -> None:
    result = run(compiled(conditional(blessed)), tmp_path / "root")
    assert states(result) == {"Make": "SUCCEEDED", "Use": state, "After": state}
    assert result.succeeded
    if blessed:
        made, seen = result.tasks["Make"].outputs["model"], result.tasks["Use"].outputs["seen"]
        assert seen[0]["metadata"]["uri_seen"] == made[0]["uri"]


def test_a_failure_stops_what_comes_after_it(compiled: Any, tmp_path: Path) -> None:
    make = Make(blessed=1)
    use = Use(model=make.outputs["model"], fail=1)
    after = Use(model=use.outputs["seen"]).with_id("After")
    beside = Use(model=make.outputs["model"]).with_id("Beside")
    result = run(compiled([make, use, after, beside]), tmp_path / "root")
    assert states(result) == {"Make": "SUCCEEDED", "Use": "FAILED", "After": "NOT_TRIGGERED", "Beside": "SUCCEEDED"}
    assert not result.succeeded
    log = result.tasks["Use"].log
    assert log is not None
    assert "told to fail" in log.read_text()


@pytest.mark.parametrize("fail", [0, 1])
def test_the_exit_handler_runs_whatever_happened(compiled: Any, tmp_path: Path, fail: int) -> None:
    make = Make(blessed=1)
    use = Use(model=make.outputs["model"], fail=fail)
    alerts = tmp_path / "alerts"
    alert = Alert(final_status=FinalStatusStr(), alerts_dir=str(alerts))
    result = run(compiled([make, use], exit_handler=alert), tmp_path / "root")
    assert states(result) == {"Make": "SUCCEEDED", "Use": "FAILED" if fail else "SUCCEEDED"}
    assert result.exit_handler is not None
    assert result.exit_handler.state == "SUCCEEDED"
    written = [json.loads(path.read_text()) for path in alerts.glob("*.json")]
    assert len(written) == fail
    if fail:
        assert (written[0]["severity"], written[0]["state"]) == ("ERROR", "FAILED")
        assert "Use: exit code 1" in written[0]["message"]


def test_parameters_have_types(compiled: Any, tmp_path: Path) -> None:
    job = compiled([Make(blessed=RuntimeParameter(name="blessed", ptype=int, default=1))])
    assert job.parameters == {"blessed": int}
    for bad in ("yes", 1.5, True, None):
        with pytest.raises(ValueError, match=r"parameter blessed takes int, not"):
            run(job, tmp_path / "root", blessed=bad)
    for good in ("0", 0, 0.0):
        result = run(job, tmp_path / "root", blessed=good)
        assert result.tasks["Make"].outputs["blessing"][0]["metadata"]["blessed"] == 0


def test_a_failed_exit_handler_is_a_failure() -> None:
    done = {"Make": runner.TaskRun("SUCCEEDED")}
    assert runner.JobRun(done).succeeded
    assert not runner.JobRun(done, runner.TaskRun("FAILED")).succeeded


def blessed_model() -> Any:
    return Resolver(
        strategy_class=LatestBlessedModelStrategy, model=Channel(type=Model), model_blessing=Channel(type=ModelBlessing)
    ).with_id("latest")


def test_an_importer_with_a_parameter(compiled: Any, tmp_path: Path) -> None:
    source = RuntimeParameter(name="source", ptype=str)
    bring = Importer(source_uri=source, artifact_type=Model, custom_properties={"kind": "given"}).with_id("Bring")
    use = Use(model=bring.outputs["result"])
    result = run(compiled([bring, use]), tmp_path / "root", source="/where/it/is")
    assert result.tasks["Use"].outputs["seen"][0]["metadata"]["uri_seen"] == "/where/it/is"
    assert result.tasks["Bring"].outputs["result"][0]["metadata"]["kind"] == "given"


def test_parameters_are_complete_and_known(compiled: Any, tmp_path: Path) -> None:
    job = compiled([Make(blessed=RuntimeParameter(name="blessed", ptype=int, default=1))])
    with pytest.raises(ValueError, match="No value for the parameter blessed"):
        run(job, tmp_path / "root")
    with pytest.raises(ValueError, match="has no parameter blest; it has: blessed"):
        run(job, tmp_path / "root", blessed=1, blest=1)
    result = run(job, tmp_path / "root", blessed=0)
    assert result.tasks["Make"].outputs["blessing"][0]["metadata"]["blessed"] == 0


def test_a_resolver_finds_what_earlier_runs_blessed(compiled: Any, tmp_path: Path) -> None:
    latest = blessed_model()
    job = compiled([latest, Make(blessed=1)])
    first = run(job, tmp_path / "root")
    assert first.tasks["latest-model-resolver"].outputs["model"] == []
    blessing = first.tasks["Make"].outputs["blessing"][0]
    again = run(job, tmp_path / "root")
    assert again.tasks["latest-model-blessing-resolver"].outputs["model_blessing"][0]["uri"] == blessing["uri"]


def test_what_a_query_finds(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "artifacts.json")
    old, new = (new_artifact(MODEL, f"/{n}", {"blessed": 1.0, "n": float(n)}) for n in range(2))
    refused = new_artifact(MODEL, "/2", {"blessed": 0.0})
    store.add([old, new, refused])
    again = ArtifactStore(tmp_path / "artifacts.json")
    assert again.newest('schema_title="tfx.Model" AND state=LIVE', {}) == refused
    assert again.newest('schema_title="tfx.Model" AND metadata.blessed.number_value=1', {}) == new
    assert again.newest('schema_title="tfx.Artifact" AND state=LIVE', {}) is None
    by_name = "name=\"{{$.inputs.artifacts['input'].metadata['id']}}\""
    blessing = new_artifact(MODEL, "/b", {"id": old["name"]})
    assert again.newest(by_name, {"input": [blessing]}) == old
    assert again.newest(by_name, {"input": []}) is None
    with pytest.raises(ValueError, match=r"asks for size"):
        again.newest("size=3", {})


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("(inputs.artifacts['a'].artifacts[0].metadata['n'] == 1.0)", True),
        ("!((inputs.artifacts['a'].artifacts[0].metadata['n'] < 1.0))", True),
        ("(inputs.artifacts['a'].artifacts[0].metadata['s'] == 'x && y') && true_is", None),
        (
            "((inputs.artifacts['a'].artifacts[0].metadata['n'] > 1.0) ||"
            " (inputs.artifacts['a'].artifacts[0].uri == '/u'))",
            True,
        ),
        ("(inputs.artifacts['a'].artifacts[0].metadata['n'] != 1.0)", False),
        ("(inputs.artifacts['a'].artifacts[0].metadata['s'] == 'x && y')", True),
        ("(inputs.artifacts['a'].artifacts[0].uri == ('/' + 'u'))", True),
        ("(inputs.artifacts['a'].artifacts[0].metadata['s'] == 1.0)", None),
        ("__import__('os')", None),
    ],
)
def test_conditions(expression: str, expected: bool | None) -> None:
    values = {"n": 1, "s": "x && y", None: "/u"}

    def look_up(key: str, index: int, name: str | None) -> Any:
        assert (key, index) == ("a", 0)
        return values[name]

    if expected is None:
        with pytest.raises(ValueError, match="cannot be evaluated"):
            conditions.holds(expression, look_up)
    else:
        assert conditions.holds(expression, look_up) is expected


def test_a_condition_on_what_was_not_written(compiled: Any, tmp_path: Path) -> None:
    make = Make(blessed=1)
    with Cond(make.outputs["model"].future()[0].custom_property("nothing") == 1):
        other = Make(blessed=0).with_id("Other")
    with pytest.raises(ValueError, match="reads property 'nothing'"):
        run(compiled([make, other]), tmp_path / "root")


def test_a_step_of_its_own_sees_nothing_of_this_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    program = tmp_path / "program.py"
    program.write_text("import os, sys; print(os.getcwd(), os.environ.get('PYTHONPATH')); sys.exit(int(sys.argv[1]))")
    steps = InstalledSteps(Path(sys.executable))
    for code in (0, 3):
        step = steps.run(["python", str(program), str(code)], tmp_path / "log")
        assert step.exit_code == code
        assert step.peak_bytes > 1e6
    assert (tmp_path / "log").read_text() == "/ None\n/ None\n"
    with pytest.raises(ValueError, match="is not python"):
        steps.run(["sh", "-c", "true"], tmp_path / "log")


@pytest.mark.parametrize(
    ("image", "tfx", "message"),
    [
        ("registry:5000/a/b:9.9.9", None, r"compiled for tfx-mobile 9\.9\.9, .* has 0\."),
        ("registry/a/b:nightly", "1.2.3", r"compiled for TFX 1\.2\.3, .* has 1\."),
    ],
)
def test_versions_of_job_and_environment(
    compiled: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, image: str, tfx: str | None, message: str
) -> None:
    job = compiled([Make(blessed=1)])
    job = dataclasses.replace(job, images=frozenset({image}), tfx_version=tfx or job.tfx_version)
    # This environment's own installation is editable; what it says of itself is all that is changed.
    monkeypatch.setattr(
        steps, "_PROBE", steps._PROBE.replace('url.get("dir_info", {}).get("editable", False)', "False")
    )
    with pytest.raises(ValueError, match=message):
        runner.run_job(job, tmp_path / "root", InstalledSteps(Path(sys.executable)))


def test_an_editable_installation_stands_for_no_image(compiled: Any, tmp_path: Path) -> None:
    url = importlib.metadata.distribution("tfx-mobile").read_text("direct_url.json") or "{}"
    if not json.loads(url).get("dir_info", {}).get("editable"):
        pytest.skip("tfx-mobile is not installed as editable here")
    with pytest.raises(ValueError, match="editable tfx-mobile, which reads a checkout"):
        runner.run_job(compiled([Make(blessed=1)]), tmp_path / "root", InstalledSteps(Path(sys.executable)))


def test_a_fork_runs_nothing_but_entry_points(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no entry point of TFX"):
        ForkedSteps().run(["python", "-m", "pip", "install"], tmp_path / "log")
