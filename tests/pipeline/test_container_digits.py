"""The compiled digits pipeline in true mode: every step a process of its own, from the installed wheel.

`make test-container` builds that environment and runs this; elsewhere it is skipped.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest.importorskip("kfp", reason="TFX's Kubeflow compiler needs the extra kubeflow")

from pipelines import configs
from pipelines.digits import pipeline
from pipelines.run_ir import digits
from tfx_mobile import FilesystemDestination
from tfx_mobile.errors import NothingPublishedError
from tfx_mobile.release_store import reading

PYTHON = os.environ.get("TFX_MOBILE_CONTAINER")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON, reason="true mode needs the environment that `make test-container` builds"),
]


def test_blessed_is_published_and_harmed_is_skipped(tmp_path: Path) -> None:
    assert PYTHON is not None
    python = Path(PYTHON).absolute()
    config = digits.local_config(tmp_path)
    store = FilesystemDestination(base_directory=str(tmp_path / "releases")).open_store()
    gate = tmp_path / "gate.pbtxt"
    text = configs.find("digits/mobile_gate").read_text()
    assert text.count("lower_bound { value: 0.9 }") == 1
    gate.write_text(text.replace("lower_bound { value: 0.9 }", "lower_bound { value: 1.5 }"))

    harmed = digits.run(
        tmp_path, config.model_copy(update={"mobile_eval_config": str(gate), "train_steps": 60}), python
    )
    assert harmed.succeeded
    assert harmed.tasks["MobilePusher"].state == "SKIPPED"
    with pytest.raises(NothingPublishedError):
        reading.resolve(store, pipeline.NAME, pipeline.CHANNEL)

    blessed = digits.run(tmp_path, config, python, schema_version="2.0")
    assert {name: task.state for name, task in blessed.tasks.items()} == dict.fromkeys(blessed.tasks, "SUCCEEDED")
    assert reading.resolve(store, pipeline.NAME, pipeline.CHANNEL).channel_version == 1
