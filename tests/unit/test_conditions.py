"""`blessed`: a condition that reads the same on LocalDagRunner and compiled for Kubeflow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tfx.dsl.experimental.conditionals.conditional import Cond
from tfx.orchestration.local.local_dag_runner import LocalDagRunner
from tfx.orchestration.metadata import sqlite_metadata_connection_config
from tfx.orchestration.pipeline import Pipeline
from tfx.types import Channel
from tfx.types.standard_artifacts import Model

from tests.fakes.small_components import Make, Use, UseBlessing
from tfx_mobile import TFLiteBlessing, blessed


def components(verdict: int, condition: Any = blessed) -> list[Any]:
    make = Make(blessed=verdict)
    with Cond(condition(make.outputs["blessing"])):
        wired = UseBlessing(blessing=make.outputs["blessing"]).with_id("Wired")
        other = Use(model=make.outputs["model"]).with_id("NotWired")
    return [make, wired, other]


@pytest.mark.parametrize("verdict", [1, 0])
def test_on_the_local_runner(tmp_path: Path, verdict: int) -> None:
    metadata = sqlite_metadata_connection_config(str(tmp_path / "metadata.sqlite"))
    root = tmp_path / "root"
    LocalDagRunner().run(
        Pipeline("small", str(root), components=components(verdict), metadata_connection_config=metadata)
    )
    assert {path.name for path in root.iterdir()} == ({"Make", "Wired", "NotWired"} if verdict else {"Make"})


@pytest.mark.parametrize("schema", ["2.1", "2.0"])
@pytest.mark.parametrize(("verdict", "state"), [(1, "SUCCEEDED"), (0, "SKIPPED")])
def test_compiled_for_kubeflow(tmp_path: Path, schema: str, verdict: int, state: str) -> None:
    pytest.importorskip("kfp", reason="TFX's Kubeflow compiler needs the extra kubeflow")
    from pipelines.run_ir import runner
    from pipelines.run_ir.steps import ForkedSteps
    from tests.fakes import compiled

    job = compiled.load(tmp_path / "job.json", components(verdict), schema=schema)
    inputs = {task.name: (task.condition, set(task.input_artifacts)) for task in job.tasks}
    condition = "(inputs.artifacts['{}'].artifacts[0].metadata['blessed'] == 1.0)"
    assert inputs["Wired"] == (condition.format("blessing"), {"blessing"})
    assert inputs["NotWired"] == (condition.format("_Make.blessing"), {"model", "_Make.blessing"})
    result = runner.run_job(job, tmp_path / "root", ForkedSteps())
    assert {name: task.state for name, task in result.tasks.items()} == {
        "Make": "SUCCEEDED",
        "Wired": state,
        "NotWired": state,
    }


def test_what_tfx_makes_of_its_own_spelling(tmp_path: Path) -> None:
    """The reason for `blessed`; if this fails, TFX is repaired."""
    pytest.importorskip("kfp", reason="TFX's Kubeflow compiler needs the extra kubeflow")
    from tests.fakes import compiled

    def future(channel: Any) -> Any:
        return channel.future()[0].custom_property("blessed") == 1

    make = Make(blessed=1)
    with Cond(future(make.outputs["blessing"])):
        wired = UseBlessing(blessing=make.outputs["blessing"])
    (_, task) = compiled.load(tmp_path / "job.json", [make, wired]).tasks
    assert "_Make.blessing" in str(task.condition)
    assert set(task.input_artifacts) == {"blessing"}


@pytest.mark.parametrize("given", [Channel(type=Model), "blessing", None])
def test_what_is_no_blessing(given: Any) -> None:
    with pytest.raises(ValueError, match=r"blessed\(\) was given .*; it takes a channel of tfx_mobile.TFLiteBlessing"):
        blessed(given)
    assert blessed(Channel(type=TFLiteBlessing)) is not None
