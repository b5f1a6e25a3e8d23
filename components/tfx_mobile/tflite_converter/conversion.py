"""The engine's door: converts a SavedModel by several recipes and survives whatever the converter does.

This side never imports TensorFlow. A child process does the work (`worker.py`); a crash or a missed deadline costs the
recipe at hand, and a fresh child goes on with the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

from tfx_mobile import child_process, errors
from tfx_mobile.recipes import ConversionRecipe
from tfx_mobile.records import CalibrationRecord, Failure, SignatureRecord, Variant
from tfx_mobile.tflite.flatbuffer import inspect_model
from tfx_mobile.tflite.preflight import preflight
from tfx_mobile.tflite.runtime import runtime_name
from tfx_mobile.tflite_converter import failures
from tfx_mobile.tflite_converter.inspection import inspect
from tfx_mobile.tflite_converter.worker import MODEL_FILE, Job, Prepared, Route

#: A cold import of TensorFlow takes this long only on a machine in trouble; wall time.
STARTUP_SECONDS = 300.0


@dataclass(frozen=True)
class Conversion:
    """What came out of a conversion.

    Attributes:
        route: Which way the SavedModel went.
        parses_examples: Whether its signature takes serialized tf.Examples.
        signature: The signature that was converted, before quantization.
        calibration: The representative dataset; None if no recipe calibrates.
        variants: One per recipe, in order.
        files: Local path of each converted variant, by name.
    """

    route: Route
    parses_examples: bool
    signature: SignatureRecord
    calibration: CalibrationRecord | None
    variants: tuple[Variant, ...]
    files: dict[str, Path]


def convert(job: Job, *, deadline_seconds: float) -> Conversion:
    """Converts a SavedModel by every recipe of a job.

    Args:
        job: What to convert, and how. Its work directory must exist and be empty.
        deadline_seconds: Longest time for one recipe, and for one step of the preparation before; wall time.

    Returns:
        One variant per recipe; a recipe that failed says why.

    Raises:
        SignatureError: The signature does not exist or cannot become a `.tflite`'s inputs and outputs.
        CalibrationError: The calibration examples are missing or damaged.
        ConverterCrashedError: The child died before it came to the first recipe.
        ConversionError: The SavedModel cannot be loaded.
    """
    recipes = tuple(_with_batch_size(recipe, job) for recipe in job.recipes)
    job = job.model_copy(update={"recipes": recipes})
    prepared, problems = _run_children(job, deadline_seconds)
    variants, files = [], {}
    for recipe in recipes:
        source = prepared.source(recipe)
        resolved = recipe.model_copy(update={"batch_size": source.batch_size})
        failure = problems.get(recipe.name)
        if failure is None:
            path = Path(job.work_dir) / recipe.name / MODEL_FILE
            variant = _check(resolved, path, source.signature, job.allow_select_tf_ops, deadline_seconds)
            if variant.failure is None:
                files[recipe.name] = path
        else:
            variant = Variant(recipe=resolved, failure=failure)
        variants.append(variant)
    return Conversion(
        route=prepared.route,
        parses_examples=prepared.parses_examples,
        signature=prepared.source(recipes[0]).signature,
        calibration=prepared.calibration,
        variants=tuple(variants),
        files=files,
    )


def _with_batch_size(recipe: ConversionRecipe, job: Job) -> ConversionRecipe:
    return recipe if recipe.batch_size is not None else recipe.model_copy(update={"batch_size": job.batch_size})


def _run_children(job: Job, deadline_seconds: float) -> tuple[Prepared, dict[str, Failure]]:
    """Runs children until every recipe has a file or a failure; returns the failures by recipe name."""
    prepared: Prepared | None = None
    problems: dict[str, Failure] = {}
    waiting = list(job.recipes)
    while waiting:
        request = job.model_copy(update={"recipes": tuple(waiting)}).model_dump(mode="json")
        events = child_process.run(
            "tfx_mobile.tflite_converter.worker:serve",
            request,
            deadline_seconds=deadline_seconds,
            startup_seconds=STARTUP_SECONDS,
        )
        try:
            for event in events:
                match event["event"]:
                    case "error":
                        raise getattr(errors, event["type"])(event["message"])
                    case "prepared":
                        prepared = Prepared.model_validate(event["prepared"])
                    case "failed":
                        problems[waiting.pop(0).name] = Failure.model_validate(event["failure"])
                    case "converted":
                        waiting.pop(0)
        except child_process.ChildDied as died:
            if prepared is None:
                raise errors.ConverterCrashedError(
                    f"The converter process ended while it read the model and its calibration examples: {died}. "
                    "Load the SavedModel with tf.saved_model.load in a process of its own to see whether the model is "
                    "at fault; raise deadline_seconds if it only takes long."
                ) from died
            if waiting:
                problems[waiting.pop(0).name] = failures.from_death(died, deadline_seconds, prepared.direct_reason)
    # A child that ended without an error has prepared, and so did one whose death cost a recipe.
    return cast(Prepared, prepared), problems


def _check(
    recipe: ConversionRecipe,
    path: Path,
    expected: SignatureRecord,
    allow_select_tf_ops: bool,
    deadline_seconds: float,
) -> Variant:
    """Inspects a converted file by the recipe's rules, then loads and runs it once in a child process."""
    try:
        file = inspect_model(path.read_bytes())
    except errors.ModelFileError as error:
        return Variant(recipe=recipe, failure=failures.inspection(str(error)))
    failure = inspect(recipe, file, expected, allow_select_tf_ops=allow_select_tf_ops)
    failure = failure or preflight(path, sha256=file.sha256, deadline_seconds=deadline_seconds)
    if failure is not None:
        return Variant(recipe=recipe, failure=failure)
    return Variant(recipe=recipe, file=file, runtime=runtime_name(bool(file.select_tf_ops)))
