"""The child's side of a conversion: prepares once, then converts recipe by recipe and hands over each result at once.

What was prepared (re-signed SavedModels, calibration samples) stays in the work directory, so that a fresh child can go
on after a crash without doing it again. Events, in this order: `started`, `progress` any number of times, then `error`
(common to all recipes, the end) or `prepared`, then one `converted` or `failed` per recipe.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from tfx_mobile.child_process import Emit
from tfx_mobile.errors import ConversionError
from tfx_mobile.recipes import BatchSize, CalibrationSpec, ConversionRecipe
from tfx_mobile.records import CalibrationRecord, Record, SignatureRecord
from tfx_mobile.tflite_converter import failures

MODEL_FILE = "model.tflite"

_PREPARED_FILE = "prepared.json"
_SAMPLES_FILE = "samples.npz"

Route = Literal["resigned", "direct"]


class Job(Record):
    """What the child is asked to do.

    Attributes:
        saved_model: Local path of the SavedModel.
        signature_name: Which of its signatures.
        recipes: What to make of it, in this order.
        batch_size: For recipes that do not set their own.
        input_shapes: Sizes per example for inputs that the signature leaves open, by name.
        allow_select_tf_ops: Whether ops without a builtin kernel may stay TensorFlow ops.
        calibration: Which examples calibrate; None if no recipe calibrates.
        example_files: TFRecord files of the calibration split.
        work_dir: Local folder for everything that is made.
        route: `resigned` uses the front end and falls back to `direct` where freezing is impossible; `direct` does not
            try.
    """

    saved_model: str
    signature_name: str
    recipes: tuple[ConversionRecipe, ...]
    batch_size: BatchSize
    input_shapes: dict[str, tuple[int, ...]] = Field(default_factory=dict)
    allow_select_tf_ops: bool = False
    calibration: CalibrationSpec | None
    example_files: tuple[str, ...]
    work_dir: str
    route: Route = "resigned"


class Source(Record):
    """A SavedModel that is ready for the converter.

    Attributes:
        saved_model: Where it lies.
        batch_size: The batch size of its signature.
        signature: Its signature; the only one that is converted.
    """

    saved_model: str
    batch_size: BatchSize
    signature: SignatureRecord


class Prepared(Record):
    """The outcome of the front end and of the calibration draw.

    Attributes:
        route: Which way was taken.
        direct_reason: Why the SavedModel is converted as it was saved; None if it was re-signed.
        parses_examples: Whether the signature takes serialized tf.Examples.
        sources: By the batch size that was asked for, as text.
        calibration: The representative dataset; None if no recipe calibrates.
    """

    route: Route
    direct_reason: str | None
    parses_examples: bool
    sources: dict[str, Source]
    calibration: CalibrationRecord | None

    def source(self, recipe: ConversionRecipe) -> Source:
        """What `recipe`, with its batch size resolved, is made from."""
        return self.sources[str(recipe.batch_size)]


def serve(request: dict[str, Any], emit: Emit) -> None:
    """Entry point of the child process; `request` is a Job."""
    job = Job.model_validate(request)
    import tensorflow  # noqa: F401 - seconds of work that no recipe's deadline should pay for

    emit({"event": "started"})
    prepared_file = Path(job.work_dir) / _PREPARED_FILE
    if not prepared_file.exists():
        try:
            prepared = _prepare(job, lambda: emit({"event": "progress"}))
        except ConversionError as error:
            emit({"event": "error", "type": type(error).__name__, "message": str(error)})
            return
        prepared_file.write_bytes(prepared.to_json())
    prepared = Prepared.read(prepared_file)
    emit({"event": "prepared", "prepared": json.loads(prepared.to_json())})
    # Imported here, because the parent reads this module too and must not import TensorFlow.
    from tfx_mobile.tflite_converter import op_origins, quantize

    for recipe in job.recipes:
        source = prepared.source(recipe)
        try:
            data = quantize.convert(
                recipe,
                source.saved_model,
                source.signature.key,
                _representative(source, job),
                allow_select_tf_ops=job.allow_select_tf_ops,
            )
        except Exception as error:  # noqa: BLE001 - whatever TensorFlow raises costs this recipe only
            failure = failures.from_exception(
                recipe,
                error,
                job.work_dir,
                functools.partial(op_origins.find, source.saved_model),
                allow_select_tf_ops=job.allow_select_tf_ops,
            )
            emit({"event": "failed", "recipe": recipe.name, "failure": failure.model_dump(mode="json")})
            continue
        path = Path(job.work_dir) / recipe.name / MODEL_FILE
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        emit({"event": "converted", "recipe": recipe.name})


def _prepare(job: Job, progress: Callable[[], None]) -> Prepared:
    from tfx_mobile.tflite_converter import calibration, front_end

    signature = front_end.load_signature(job.saved_model, job.signature_name)
    progress()
    frozen: front_end.FrozenSignature | None = None
    direct_reason: str | None = "direct conversion was asked for"
    if job.route == "resigned":
        try:
            frozen, direct_reason = front_end.FrozenSignature(signature), None
        except front_end.CannotFreezeError as error:
            direct_reason = str(error)
    progress()
    sources = {}
    for size in {recipe.batch_size or job.batch_size: None for recipe in job.recipes}:
        if frozen is None:
            sources[str(size)] = _as_saved(job.saved_model, signature.record())
        else:
            directory = str(Path(job.work_dir) / f"resigned-{size}")
            sources[str(size)] = Source(
                saved_model=directory, batch_size=size, signature=frozen.resign(directory, size)
            )
        progress()
    record = None
    if job.calibration is not None:
        inputs = next(iter(sources.values())).signature.inputs
        drawn = calibration.draw(job.example_files, job.calibration, progress)
        parse = frozen.parse if frozen is not None and frozen.parse is not None else calibration.raw_parser(inputs)
        samples = calibration.samples(drawn.records, parse, inputs)
        calibration.save(Path(job.work_dir) / _SAMPLES_FILE, samples)
        record = calibration.describe(job.calibration, drawn, samples)
    return Prepared(
        route="direct" if frozen is None else "resigned",
        direct_reason=direct_reason,
        parses_examples=frozen is not None and frozen.parse is not None,
        sources=sources,
        calibration=record,
    )


def _as_saved(saved_model: str, signature: SignatureRecord) -> Source:
    """The SavedModel itself as a source; its batch size is what it was saved with."""
    first = signature.inputs[0].shape[0] if signature.inputs else -1
    return Source(saved_model=saved_model, batch_size="dynamic" if first == -1 else first, signature=signature)


def _representative(source: Source, job: Job) -> Callable[[], Iterator[dict[str, Any]]]:
    """The representative dataset in batches of the source's size; read when it is first asked for."""

    def batches() -> Iterator[dict[str, Any]]:
        from tfx_mobile.tflite_converter import calibration

        return calibration.batches(calibration.load(Path(job.work_dir) / _SAMPLES_FILE), source.batch_size)

    return batches
