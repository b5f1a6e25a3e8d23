"""The child's side of a conversion: prepares once, then converts recipe by recipe and hands over each result at once.

What was prepared (re-signed SavedModels, calibration samples) stays in the work directory, so that a fresh child can go
on after a crash without doing it again. Events, in this order: `started`, then `error` (common to all recipes, the end)
or `prepared`, then one `converted` or `failed` per recipe; `progress` any number of times in between.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from tfx_mobile.child_process import Emit
from tfx_mobile.errors import ConversionError, RecipeError
from tfx_mobile.recipes import ConversionRecipe
from tfx_mobile.records import Failure
from tfx_mobile.tflite_converter import failures, op_origins, preparation, recipe_runner, repair
from tfx_mobile.tflite_converter.job import MODEL_FILE, Job, Prepared, Source

_PREPARED_FILE = "prepared.json"


def serve(request: dict[str, Any], emit: Emit) -> None:
    """Entry point of the child process; `request` is a Job."""
    job = Job.model_validate(request)
    # By now TensorFlow is imported: seconds of work that no recipe's deadline should pay for.
    emit({"event": "started"})
    prepared_file = Path(job.work_dir) / _PREPARED_FILE
    if not prepared_file.exists():
        try:
            prepared = preparation.prepare(job, lambda: emit({"event": "progress"}))
        except (ConversionError, RecipeError) as error:
            emit({"event": "error", "type": type(error).__name__, "message": str(error)})
            return
        prepared_file.write_bytes(prepared.to_json())
    prepared = Prepared.read(prepared_file)
    emit({"event": "prepared", "prepared": json.loads(prepared.to_json())})
    by_name = {recipe.name: recipe for recipe in job.recipes}
    for name in by_name if job.convert is None else job.convert:
        recipe = by_name[name]
        source = prepared.source(recipe)
        if (refusal := _refusal(recipe, source)) is not None:
            emit({"event": "failed", "recipe": recipe.name, "failure": refusal.model_dump(mode="json")})
            continue
        try:
            runner = recipe_runner.RecipeRunner(
                source.saved_model,
                source.signature.key,
                None if source.trained_ranges else preparation.representative(source, job),
                lambda recipe: repair.load_examples(job.work_dir, recipe),
                job.work_dir,
                lambda: emit({"event": "progress"}),
                may_share=prepared.calibration is not None and not job.allow_select_tf_ops,
                allow_select_tf_ops=job.allow_select_tf_ops,
                has_state=bool(source.state),
            )
            made = runner.run(recipe)
        except Exception as error:  # noqa: BLE001 - whatever TensorFlow raises costs this recipe only
            failure = failures.from_exception(
                recipe,
                error,
                job.work_dir,
                functools.partial(op_origins.find, source.saved_model),
                allow_select_tf_ops=job.allow_select_tf_ops,
            )
            failure = failures.of_recurrent_model(failure, recipe, source.loops, source.state)
            emit({"event": "failed", "recipe": recipe.name, "failure": failure.model_dump(mode="json")})
            continue
        path = Path(job.work_dir) / recipe.name / MODEL_FILE
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(made.data)
        record = None if made.repair is None else made.repair.model_dump(mode="json")
        emit({"event": "converted", "recipe": recipe.name, "calibrated": made.calibrated, "repair": record})


def _refusal(recipe: ConversionRecipe, source: Source) -> Failure | None:
    """Why a recipe cannot have the trained ranges it needs; None if it has them or needs none."""
    if recipe.quantization_aware and not source.trained_ranges:
        return failures.not_quantization_aware()
    if source.inputs_without_range:
        return failures.no_trained_range(source.inputs_without_range)
    return None
