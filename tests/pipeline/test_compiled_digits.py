"""The digits pipeline as Kubeflow would run it: compiled, then executed through the containers' entry points."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("kfp", reason="TFX's Kubeflow compiler needs the extra kubeflow")

from pipelines import configs
from pipelines.digits import pipeline
from pipelines.run_ir import digits, runner
from tfx_mobile import FilesystemDestination
from tfx_mobile.errors import NothingPublishedError
from tfx_mobile.release_store import reading

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compiled digits")


def released(workspace: Path) -> reading.Release:
    store = FilesystemDestination(base_directory=workspace / "releases").open_store()
    return reading.resolve(store, pipeline.NAME, pipeline.CHANNEL)


def pushed(run: runner.JobRun) -> dict[str, object]:
    return run.tasks["MobilePusher"].outputs["pushed_model"][0]["metadata"]


@pytest.fixture
def harmed_gate(workspace: Path) -> str:
    """The gate of the digits pipeline with a threshold nothing reaches."""
    path = workspace / "gate.pbtxt"
    text = configs.find("digits/mobile_gate").read_text()
    assert text.count("lower_bound { value: 0.9 }") == 1
    path.write_text(text.replace("lower_bound { value: 0.9 }", "lower_bound { value: 1.5 }"))
    return str(path)


def test_published_when_blessed_and_skipped_when_not(workspace: Path, harmed_gate: str) -> None:
    config = digits.local_config(workspace)
    harmed = digits.run(workspace, config.model_copy(update={"mobile_eval_config": harmed_gate, "train_steps": 60}))
    assert harmed.succeeded
    assert harmed.tasks["MobilePusher"].state == "SKIPPED"
    assert harmed.tasks["QuantizationEvaluator"].outputs["blessing"][0]["metadata"]["blessed"] == 0
    with pytest.raises(NothingPublishedError):
        released(workspace)

    first = digits.run(workspace, config)
    assert {name: task.state for name, task in first.tasks.items()} == dict.fromkeys(first.tasks, "SUCCEEDED")
    assert (pushed(first)["push_status"], pushed(first)["channel"]) == ("pushed", pipeline.CHANNEL)
    assert released(workspace).channel_version == 1

    # The other schema and channel; the stock Evaluator now finds the model that the first run blessed.
    second = digits.run(workspace, config, schema_version="2.0", channel="beta")
    assert second.tasks["latest_blessed_model_resolver-model-blessing-resolver"].outputs["model_blessing"]
    assert (pushed(second)["push_status"], pushed(second)["channel"]) == ("pushed", "beta")
    assert released(workspace).channel_version == 1
