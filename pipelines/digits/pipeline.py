"""The digits pipeline: the reference pipeline with this task's data, user code and gates filled in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tfx.orchestration.metadata import sqlite_metadata_connection_config
from tfx.orchestration.pipeline import Pipeline

from pipelines import configs, mobile
from pipelines.digits import data
from tfx_mobile import CalibrationSpec, FilesystemDestination, ProductionModel

NAME = "digits"
CHANNEL = "production"
RECIPES = (
    "float32",
    "float16",
    "dynamic_range",
    "full_integer",
    "integer_only_int8",
    "integer_only_uint8",
    "int16x8",
)
#: Changes for `create` that add the quantization-aware twin; they need the extra `qat`.
QAT = {
    "qat_run_fn": "pipelines.digits.qat.run_fn",
    "recipes": (*RECIPES, "qat_full_integer", "qat_integer_only_int8"),
}


def create(workspace: Path, **changes: Any) -> Pipeline:
    """The digits pipeline with everything it writes below one folder.

    Args:
        workspace: Local folder for examples, artifacts, ML Metadata and the release store; created.
        **changes: Arguments of `mobile.create_pipeline` to set otherwise.
    """
    workspace = workspace.resolve()
    examples_dir = workspace / "examples"
    data.write_examples(examples_dir)
    destination = FilesystemDestination(base_directory=str(release_store(workspace)))
    settings: dict[str, Any] = {
        "pipeline_name": NAME,
        "pipeline_root": str(workspace / "artifacts"),
        "examples_dir": str(examples_dir),
        "preprocessing_fn": "pipelines.digits.model.preprocessing_fn",
        "run_fn": "pipelines.digits.model.run_fn",
        "train_steps": 600,
        "float_eval_config": configs.eval_config("digits/float_gate"),
        "mobile_eval_config": configs.eval_config("digits/mobile_gate"),
        "recipes": RECIPES,
        "calibration": CalibrationSpec(split="train", num_samples=200, seed=0),
        "model_name": NAME,
        "channel": CHANNEL,
        "metadata_connection_config": sqlite_metadata_connection_config(str(metadata_path(workspace))),
        "destinations": [destination],
        # The first run finds no release; every other is compared with what the one before released.
        "production": ProductionModel(destination=destination, model_name=NAME, channel=CHANNEL),
    }
    return mobile.create_pipeline(**{**settings, **changes})


def metadata_path(workspace: Path) -> Path:
    """The SQLite file that holds lineage and cache."""
    return workspace / "metadata.sqlite"


def release_store(workspace: Path) -> Path:
    """Where the pipeline publishes to."""
    return workspace / "releases"
