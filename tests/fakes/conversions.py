"""Jobs for the converter, and the child's work done in the test's own process: no start of TensorFlow per case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.fakes import models
from tfx_mobile.recipes import BUILTIN_RECIPES, CalibrationSpec, ConversionRecipe
from tfx_mobile.records import Failure, ModelFileRecord
from tfx_mobile.tflite.flatbuffer import inspect_model
from tfx_mobile.tflite.runtime import SignatureRunner
from tfx_mobile.tflite_converter import worker
from tfx_mobile.tflite_converter.inspection import inspect
from tfx_mobile.tflite_converter.job import MODEL_FILE, Job, Prepared


def new_job(
    root: Path,
    saved_model: str | Path,
    /,
    *recipes: str | ConversionRecipe,
    rows: Sequence[Mapping[str, Any]] | None = None,
    **changes: Any,
) -> Job:
    """A job with a work directory of its own below `root`.

    Args:
        root: A folder of the test's.
        saved_model: What to convert.
        *recipes: Recipes, or names of built-in ones.
        rows: What calibrates; None for no examples.
        **changes: Fields of Job to set otherwise.
    """
    work_dir = root / f"work-{len(list(root.iterdir()))}"
    work_dir.mkdir()
    examples = root / f"{work_dir.name}-examples.gz"
    if rows is not None:
        models.write_records(examples, map(models.serialize, rows))
    resolved = tuple(BUILTIN_RECIPES[r] if isinstance(r, str) else r for r in recipes)
    fields = {
        "saved_model": str(saved_model),
        "signature_name": "serving_default",
        "recipes": resolved,
        "batch_size": 1,
        "calibration": CalibrationSpec() if any(r.calibrates for r in resolved) else None,
        "example_files": () if rows is None else (str(examples),),
        "work_dir": str(work_dir),
    }
    return Job(**{**fields, **changes})


class Made:
    """What came out of a conversion.

    Attributes:
        prepared: What the front end made.
        failures: By recipe name.
        files: By recipe name, the bytes of each file that keeps its recipe's rules.
    """

    def __init__(self, prepared: Prepared) -> None:
        self.prepared = prepared
        self.failures: dict[str, Failure] = {}
        self.files: dict[str, bytes] = {}

    def runner(self, recipe: str) -> SignatureRunner:
        return SignatureRunner(self.files[recipe])

    def file(self, recipe: str) -> ModelFileRecord:
        return inspect_model(self.files[recipe])


class InProcess:
    """Converts like `conversion.convert`, without children; only for models that do not abort the process."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def convert(
        self,
        model: str | Path,
        *recipes: str | ConversionRecipe,
        rows: Sequence[Mapping[str, Any]] = (),
        **changes: Any,
    ) -> Made:
        """Converts a SavedModel or Keras file by recipe names; `rows` calibrate, `changes` are fields of Job.

        Raises:
            RuntimeError: The preparation failed; the message is `<error type>: <message>`.
        """
        job = new_job(self._root, model, *recipes, rows=rows, **changes)
        sized = [r if r.batch_size else r.model_copy(update={"batch_size": job.batch_size}) for r in job.recipes]
        job = job.model_copy(update={"recipes": tuple(sized)})
        events: list[dict[str, Any]] = []
        worker.serve(job.model_dump(mode="json"), events.append)
        made: Made | None = None
        for event in events:
            if event["event"] == "error":
                raise RuntimeError(f"{event['type']}: {event['message']}")
            if event["event"] == "prepared":
                made = Made(Prepared.model_validate(event["prepared"]))
        assert made is not None
        for event in events:
            if event["event"] == "failed":
                made.failures[event["recipe"]] = Failure.model_validate(event["failure"])
        for recipe in job.recipes:
            if recipe.name not in made.failures:
                data = (Path(job.work_dir) / recipe.name / MODEL_FILE).read_bytes()
                failure = inspect(recipe, inspect_model(data), made.prepared.source(recipe).signature)
                if failure is None:
                    made.files[recipe.name] = data
                else:
                    made.failures[recipe.name] = failure
        return made
