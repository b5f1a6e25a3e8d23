"""The engine's door: converts a SavedModel by several recipes and survives whatever the converter does.

This side never imports TensorFlow. A child process does the work (`worker.py`); a crash or a missed deadline costs the
recipe at hand, and a fresh child goes on with the rest.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from tfx_mobile import child_process, errors
from tfx_mobile.recipes import ConversionRecipe
from tfx_mobile.records import CalibrationRecord, Failure, SignatureRecord, Variant
from tfx_mobile.tflite import metadata as tflite_metadata
from tfx_mobile.tflite.audit import audit
from tfx_mobile.tflite.flatbuffer import describe, read_model
from tfx_mobile.tflite.metadata import Metadata
from tfx_mobile.tflite.metadata_reader import read_metadata
from tfx_mobile.tflite.preflight import preflight
from tfx_mobile.tflite.profiles import check_profiles
from tfx_mobile.tflite.runtime import runtime_name
from tfx_mobile.tflite_converter import failures
from tfx_mobile.tflite_converter.inspection import inspect
from tfx_mobile.tflite_converter.job import MODEL_FILE, Job, Prepared, Route

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
        twin: The signature of the quantization-aware twin; None if there is none.
        twin_parses_examples: Whether that signature takes serialized tf.Examples.
    """

    route: Route
    parses_examples: bool
    signature: SignatureRecord
    calibration: CalibrationRecord | None
    variants: tuple[Variant, ...]
    files: dict[str, Path]
    twin: SignatureRecord | None = None
    twin_parses_examples: bool = False


def convert(
    job: Job, *, deadline_seconds: float, metadata: Metadata | None = None, max_parallel: int = 1
) -> Conversion:
    """Converts a SavedModel by every recipe of a job.

    Args:
        job: What to convert, and how. Its work directory must exist and be empty.
        deadline_seconds: Longest time for one recipe, for one trial of `mixed_precision`, and for one step of the
            preparation before; wall time.
        metadata: What every variant says about itself; None to write nothing.
        max_parallel: How many children may convert at once.

    Returns:
        One variant per recipe; a recipe that failed says why.

    Raises:
        SignatureError: The signature does not exist, cannot become a `.tflite`'s inputs and outputs, or is another in
            `qat_saved_model`.
        CalibrationError: The calibration examples are missing or damaged.
        ConverterCrashedError: The child died before it came to the first recipe.
        RecipeError: A recipe calibrates and there are no examples, or labels or normalization do not fit the model.
        ConversionError: The SavedModel cannot be loaded, or `qat_saved_model` was not trained quantization-aware.
    """
    recipes = tuple(_with_batch_size(recipe, job) for recipe in job.recipes)
    job = job.model_copy(update={"recipes": recipes})
    outcome = _run_children(job, deadline_seconds, metadata, max_parallel)
    # A child that ended without an error has prepared, and so did one whose death cost a recipe.
    prepared = cast(Prepared, outcome.prepared)
    variants, files = [], {}
    for recipe in recipes:
        source = prepared.source(recipe)
        resolved = recipe.model_copy(update={"batch_size": source.batch_size})
        failure = outcome.problems.get(recipe.name)
        if failure is None:
            path = Path(job.work_dir) / recipe.name / MODEL_FILE
            variant = _check(job, resolved, path, source.signature, metadata, deadline_seconds)
            variant = Variant.model_validate({**variant.model_dump(), **outcome.made[recipe.name]})
            if variant.failure is None:
                variant = variant.model_copy(update={"ranges_from": prepared.ranges_from(recipe)})
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
        twin=prepared.twin,
        twin_parses_examples=prepared.twin_parses_examples,
    )


def _with_batch_size(recipe: ConversionRecipe, job: Job) -> ConversionRecipe:
    return recipe if recipe.batch_size is not None else recipe.model_copy(update={"batch_size": job.batch_size})


@dataclass
class _Outcome:
    """What children reported, by recipe name.

    Attributes:
        prepared: What the recipes are made from; None if no child came so far.
        problems: Why there is no file.
        made: What the manifest says of a file beyond its contents.
    """

    prepared: Prepared | None = None
    problems: dict[str, Failure] = field(default_factory=dict)
    made: dict[str, dict[str, Any]] = field(default_factory=dict)


def _run_children(job: Job, deadline_seconds: float, metadata: Metadata | None, max_parallel: int) -> _Outcome:
    """Runs children until every recipe has a file or a failure.

    The first child prepares; only then the others start. If anything goes wrong that concerns all recipes, or the
    caller is interrupted, all children are killed.
    """
    first, *others = _lanes(job.recipes, max_parallel)
    read_fd, write_fd = os.pipe()
    stop = os.fdopen(write_fd, "wb", buffering=0)
    with ThreadPoolExecutor(max(1, len(others))) as pool, os.fdopen(read_fd, "rb", buffering=0) as stopped, stop:

        def run(lane: Sequence[str], prepared: Callable[[Prepared], None] | None = None) -> _Outcome:
            return _run_lane(job, lane, deadline_seconds, stopped.fileno(), prepared)

        running: list[Future[_Outcome]] = []

        def start_others(prepared: Prepared) -> None:
            if metadata is not None:
                tflite_metadata.check(metadata, prepared.source(job.recipes[0]).signature)
            running.extend(pool.submit(run, lane) for lane in others)

        try:
            outcome = run(first, start_others)
            for future in running:
                other = future.result()
                outcome.problems.update(other.problems)
                outcome.made.update(other.made)
        except BaseException:
            stop.close()
            wait(running)
            raise
    return outcome


def _lanes(recipes: Sequence[ConversionRecipe], max_parallel: int) -> list[list[str]]:
    """Distributes recipes over children, by name and in order; what shares a calibration stays in one child."""
    groups: dict[Any, list[str]] = {}
    calibrating = {recipe.batch_size for recipe in recipes if recipe.calibrates}
    for recipe in recipes:
        shares = recipe.calibrates or (recipe.quantization == "none" and recipe.batch_size in calibrating)
        groups.setdefault(recipe.batch_size if shares else (recipe.name,), []).append(recipe.name)
    lanes: list[list[str]] = [[] for _ in range(min(max_parallel, len(groups)))]
    for names in sorted(groups.values(), key=len, reverse=True):
        min(lanes, key=len).extend(names)
    order = {recipe.name: index for index, recipe in enumerate(recipes)}
    return [sorted(lane, key=order.__getitem__) for lane in lanes]


def _run_lane(
    job: Job, lane: Sequence[str], deadline_seconds: float, stop: int, on_prepared: Callable[[Prepared], None] | None
) -> _Outcome:
    """Runs one child after another until each of some recipes has a file or a failure."""
    outcome = _Outcome()
    waiting = list(lane)
    while waiting:
        request = job.model_copy(update={"convert": tuple(waiting)}).model_dump(mode="json")
        events = child_process.run(
            "tfx_mobile.tflite_converter.worker:serve",
            request,
            deadline_seconds=deadline_seconds,
            startup_seconds=STARTUP_SECONDS,
            stop=stop,
        )
        try:
            for event in events:
                match event["event"]:
                    case "error":
                        raise getattr(errors, event["type"])(event["message"])
                    case "prepared":
                        outcome.prepared = Prepared.model_validate(event["prepared"])
                        if on_prepared is not None:
                            on_prepared(outcome.prepared)
                            on_prepared = None
                    case "failed":
                        outcome.problems[waiting.pop(0)] = Failure.model_validate(event["failure"])
                    case "converted":
                        outcome.made[waiting.pop(0)] = {key: event[key] for key in ("calibrated", "repair")}
        except child_process.ChildDied as died:
            if outcome.prepared is None:
                raise errors.ConverterCrashedError(
                    f"The converter process ended while it read the model and its calibration examples: {died}. "
                    "Load the SavedModel with tf.saved_model.load in a process of its own to see whether the model is "
                    "at fault; raise deadline_seconds if it only takes long."
                ) from died
            if waiting:
                name = waiting.pop(0)
                recipe = next(recipe for recipe in job.recipes if recipe.name == name)
                source = outcome.prepared.source(recipe)
                failure = failures.from_death(died, deadline_seconds, outcome.prepared.direct_reason)
                if died.cause == "crashed":
                    failure = failures.of_recurrent_model(failure, recipe, source.loops, source.state)
                outcome.problems[recipe.name] = failure
    return outcome


def _check(
    job: Job,
    recipe: ConversionRecipe,
    path: Path,
    expected: SignatureRecord,
    metadata: Metadata | None,
    deadline_seconds: float,
) -> Variant:
    """Writes a converted file's metadata, inspects it by the recipe's rules, and runs it once in a child process."""
    described = None
    try:
        # Metadata changes the bytes, so it comes before the hash and before everything that is checked.
        if metadata is not None:
            origin = {"recipe": recipe.model_dump(mode="json"), "signature": expected.key}
            if recipe.quantization_aware:
                origin.update(metadata.twin_provenance)
            described = tflite_metadata.write(path, metadata, origin, deadline_seconds)
        data = path.read_bytes()
        model = read_model(data)
    except errors.MetadataError as error:
        return Variant(recipe=recipe, failure=failures.metadata(str(error)))
    except errors.ModelFileError as error:
        return Variant(recipe=recipe, failure=failures.inspection(str(error)))
    file = describe(model, data)
    failure = inspect(recipe, file, expected, allow_select_tf_ops=job.allow_select_tf_ops)
    failure = failure or preflight(path, sha256=file.sha256, deadline_seconds=deadline_seconds)
    if failure is not None:
        return Variant(recipe=recipe, failure=failure)
    return Variant(
        recipe=recipe,
        file=file,
        runtime=runtime_name(bool(file.select_tf_ops)),
        metadata=described,
        profiles=check_profiles(model, file, read_metadata(model, data), job.profiles),
        findings=audit(model, data),
    )
