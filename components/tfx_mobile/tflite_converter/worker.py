"""The child's side of a conversion: prepares once, then converts recipe by recipe and hands over each result at once.

What was prepared (re-signed SavedModels, calibration samples) stays in the work directory, so that a fresh child can go
on after a crash without doing it again. Events, in this order: `started`, then `error` (common to all recipes, the end)
or `prepared`, then one `converted` or `failed` per recipe; `progress` any number of times in between.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from tfx_mobile import keras_file
from tfx_mobile.child_process import Emit
from tfx_mobile.errors import ConversionError, RecipeError, SignatureError
from tfx_mobile.recipes import BatchSize, CalibrationSpec, ConversionRecipe
from tfx_mobile.records import CalibrationRecord, Failure, Record, SignatureRecord
from tfx_mobile.tflite_converter import failures

if TYPE_CHECKING:
    from tfx_mobile.tflite_converter.front_end import LoadedSignature
    from tfx_mobile.tflite_converter.trained_ranges import Form

MODEL_FILE = "model.tflite"

_PREPARED_FILE = "prepared.json"
_SAMPLES_FILE = "samples.npz"
_MODEL, _TWIN = "model", "qat_model"

Route = Literal["resigned", "direct"]


class Job(Record):
    """What the child is asked to do.

    Attributes:
        saved_model: Local path of the SavedModel, or of a Keras file.
        signature_name: Which of its signatures.
        recipes: What to make of it, in this order.
        batch_size: For recipes that do not set their own.
        input_shapes: Sizes per example for inputs that the signature leaves open, by name.
        allow_select_tf_ops: Whether ops without a builtin kernel may stay TensorFlow ops.
        calibration: Which examples calibrate; None if no recipe calibrates.
        example_files: TFRecord files of the calibration split.
        evaluation_files: TFRecord files of the evaluation split, which the calibration sample is compared with.
        not_compared: Why there are none.
        transform_graph: Local folder of a TransformGraph artifact; None without one.
        schema_file: Local path of the raw examples' schema as text proto; None without one.
        work_dir: Local folder for everything that is made.
        profiles: Compatibility profiles to check each file against; None for all.
        convert: Names of the recipes that this child converts, in this order; None for all. Whatever is prepared is
            prepared for all.
        route: `resigned` uses the front end and falls back to `direct` where freezing is impossible; `direct` does not
            try.
        qat_saved_model: Local path of the quantization-aware twin, for recipes with `quantization_aware`; None if
            there is none.
    """

    saved_model: str
    signature_name: str
    recipes: tuple[ConversionRecipe, ...]
    batch_size: BatchSize
    input_shapes: dict[str, tuple[int, ...]] = Field(default_factory=dict)
    allow_select_tf_ops: bool = False
    calibration: CalibrationSpec | None
    example_files: tuple[str, ...]
    evaluation_files: tuple[str, ...] = ()
    not_compared: str | None = None
    transform_graph: str | None = None
    schema_file: str | None = None
    work_dir: str
    profiles: tuple[str, ...] | None = None
    convert: tuple[str, ...] | None = None
    route: Route = "resigned"
    qat_saved_model: str | None = None


class Source(Record):
    """A SavedModel that is ready for the converter.

    Attributes:
        saved_model: Where it lies.
        batch_size: The batch size of its signature.
        signature: Its signature; the only one that is converted.
        trained_ranges: Whether the ranges of its activations come from quantization-aware training.
        inputs_without_range: Where inputs should be integers: those that training gave no range, each with the op that
            keeps it away.
        state: Names of the variables that a call changes.
        loops: Names of its loops, which recurrent layers have.
    """

    saved_model: str
    batch_size: BatchSize
    signature: SignatureRecord
    trained_ranges: bool = False
    inputs_without_range: dict[str, str] = Field(default_factory=dict)
    state: tuple[str, ...] = ()
    loops: tuple[str, ...] = ()


class Prepared(Record):
    """The outcome of the front end and of the calibration draw.

    Attributes:
        route: Which way was taken.
        direct_reason: Why the SavedModel is converted as it was saved; None if it was re-signed.
        parses_examples: Whether the signature takes serialized tf.Examples.
        sources: By model, form of its trained ranges, and the batch size that was asked for: see `source`.
        calibration: The representative dataset; None if no recipe calibrates.
        trained: Whether the model itself was trained quantization-aware.
        twin: The signature of the quantization-aware twin; None if there is none.
        twin_parses_examples: Whether the twin's signature takes serialized tf.Examples.
    """

    route: Route
    direct_reason: str | None
    parses_examples: bool
    sources: dict[str, Source]
    calibration: CalibrationRecord | None
    trained: bool = False
    twin: SignatureRecord | None = None
    twin_parses_examples: bool = False

    def source(self, recipe: ConversionRecipe) -> Source:
        """What `recipe`, with its batch size resolved, is made from."""
        return self.sources["-".join(_source_key(recipe, self.trained, self.twin is not None))]

    def ranges_from(self, recipe: ConversionRecipe) -> Literal["calibration", "training"] | None:
        """Where `recipe` gets the ranges of integer activations."""
        if self.source(recipe).trained_ranges:
            return "training"
        return "calibration" if recipe.calibrates else None


def _source_key(recipe: ConversionRecipe, trained: bool, has_twin: bool) -> tuple[str, Form, str]:
    """Which model, in which form, at which batch size a recipe is made from.

    Args:
        recipe: The recipe, with its batch size resolved.
        trained: Whether the model itself was trained quantization-aware.
        has_twin: Whether there is a quantization-aware twin.
    """
    from_twin = recipe.quantization_aware and has_twin
    form: Form = "float"
    if recipe.takes_trained_ranges and (from_twin or trained):
        form = "trained_inputs" if recipe.quantization == "integer_only" else "trained"
    return _TWIN if from_twin else _MODEL, form, str(recipe.batch_size)


def serve(request: dict[str, Any], emit: Emit) -> None:
    """Entry point of the child process; `request` is a Job."""
    job = Job.model_validate(request)
    import tensorflow  # noqa: F401 - seconds of work that no recipe's deadline should pay for

    emit({"event": "started"})
    prepared_file = Path(job.work_dir) / _PREPARED_FILE
    if not prepared_file.exists():
        try:
            prepared = _prepare(job, lambda: emit({"event": "progress"}))
        except (ConversionError, RecipeError) as error:
            emit({"event": "error", "type": type(error).__name__, "message": str(error)})
            return
        prepared_file.write_bytes(prepared.to_json())
    prepared = Prepared.read(prepared_file)
    emit({"event": "prepared", "prepared": json.loads(prepared.to_json())})
    # Imported here, because the parent reads this module too and must not import TensorFlow.
    from tfx_mobile.tflite_converter import op_origins, recipe_runner, repair

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
                None if source.trained_ranges else _representative(source, job),
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


def _prepare(job: Job, progress: Callable[[], None]) -> Prepared:
    from tfx_mobile.tflite_converter import calibration, calibration_report, front_end, repair, trained_ranges

    saved_model = _exported(job.saved_model, job.work_dir, progress)
    signature = front_end.load_signature(saved_model, job.signature_name)
    progress()
    frozen: front_end.FrozenSignature | None = None
    direct_reason: str | None = "direct conversion was asked for"
    if job.route == "resigned":
        try:
            frozen, direct_reason = front_end.FrozenSignature(signature), None
        except front_end.CannotFreezeError as error:
            direct_reason = str(error)
    if frozen is None and trained_ranges.in_functions(signature.function):
        raise SignatureError(
            f"Signature {job.signature_name!r} was trained quantization-aware, but cannot be frozen, because "
            f"{direct_reason}. Converted as it was saved, every recipe would become an integer one. Let run_fn save a "
            "signature without such state."
        )
    if frozen is None and job.input_shapes:
        raise SignatureError(
            f"input_shapes={job.input_shapes!r} cannot be applied, because {direct_reason}: the SavedModel is "
            "converted as it was saved. Leave input_shapes out, and fix the sizes in the signature in run_fn."
        )
    progress()
    twin = None
    if job.qat_saved_model is not None:
        twin = _freeze_twin(_exported(job.qat_saved_model, job.work_dir, progress), job.signature_name)
        _check_twin(signature.record() if frozen is None else frozen.record(), twin.record())
    progress()
    trained = frozen is not None and frozen.trained_bits == trained_ranges.INT8
    sources: dict[str, Source] = {}
    for recipe in job.recipes:
        key = model, form, _ = _source_key(recipe, trained, twin is not None)
        if "-".join(key) in sources:
            continue
        origin = twin if model == _TWIN else frozen
        if origin is None:
            sources["-".join(key)] = _as_saved(saved_model, signature)
            continue
        directory = str(Path(job.work_dir) / f"resigned-{'-'.join(key)}")
        batch_size = recipe.batch_size or job.batch_size
        without_range: dict[str, str] = {}
        try:
            resigned = origin.resign(directory, batch_size, job.input_shapes, form)
        except trained_ranges.NoTrainedRangeError as error:
            resigned, without_range = origin.record(), error.inputs
        sources["-".join(key)] = Source(
            saved_model=directory,
            batch_size=batch_size,
            signature=resigned,
            trained_ranges=form != "float",
            inputs_without_range=without_range,
            loops=signature.loops(),
        )
        progress()
    prepared = Prepared(
        route="direct" if frozen is None else "resigned",
        direct_reason=direct_reason,
        parses_examples=frozen is not None and frozen.parse is not None,
        sources=sources,
        calibration=None,
        trained=trained,
        twin=next((sources[key].signature for key in sources if key.startswith(_TWIN)), None),
        twin_parses_examples=twin is not None and twin.parse is not None,
    )
    calibrating = [recipe for recipe in job.recipes if prepared.ranges_from(recipe) == "calibration"]
    if job.calibration is None or not calibrating:
        return prepared
    check_examples_given(calibrating, bool(job.example_files))
    inputs = prepared.source(calibrating[0]).signature.inputs
    calibrated = calibration_report.calibrate(
        job.calibration,
        job.example_files,
        inputs,
        signature_parse=None if frozen is None else frozen.parse,
        transform_graph=job.transform_graph,
        schema=job.schema_file,
        evaluation_files=job.evaluation_files,
        not_compared=job.not_compared,
        progress=progress,
    )
    calibration.save(Path(job.work_dir) / _SAMPLES_FILE, calibrated.values)
    repair.prepare_examples(
        job.work_dir,
        job.recipes,
        job.example_files,
        job.calibration,
        calibrated.drawn,
        calibrated.parse,
        inputs,
        progress,
    )
    return prepared.model_copy(update={"calibration": calibrated.record})


def check_examples_given(recipes: Sequence[ConversionRecipe], given: bool) -> None:
    """Recipes that calibrate need examples.

    Raises:
        RecipeError: There are none.
    """
    calibrating = [recipe.name for recipe in recipes if recipe.calibrates]
    if calibrating and not given:
        raise RecipeError(
            f"The recipes {', '.join(calibrating)} calibrate, but TFLiteConverter got no examples. Pass "
            "examples=example_gen.outputs['examples'], or use recipes that need none: float32, float16, "
            "dynamic_range; or qat_full_integer and qat_integer_only_int8, for a model that was trained "
            "quantization-aware."
        )


def _exported(model: str, work_dir: str, progress: Callable[[], None]) -> str:
    """Path of a SavedModel: `model` itself, or what a Keras file is exported to."""
    if not keras_file.is_keras_file(model):
        return model
    target = str(Path(work_dir) / f"exported-{hashlib.sha256(model.encode()).hexdigest()[:16]}")
    keras_file.export_here(model, target)
    progress()
    return target


def _freeze_twin(saved_model: str, signature_name: str) -> Any:
    """The frozen signature of the quantization-aware twin.

    Raises:
        SignatureError: It cannot be frozen, or has no such signature.
        ConversionError: It cannot be loaded, or was not trained quantization-aware.
    """
    from tfx_mobile.tflite_converter import front_end, trained_ranges

    try:
        twin = front_end.FrozenSignature(front_end.load_signature(saved_model, signature_name))
    except front_end.CannotFreezeError as error:
        raise SignatureError(f"qat_model: {error} Its trained ranges cannot be read without freezing it.") from error
    except ConversionError as error:
        raise type(error)(f"qat_model: {error}") from error
    if twin.trained_bits != trained_ranges.INT8:
        found = ", ".join(map(str, sorted(twin.trained_bits)))
        raise ConversionError(
            "qat_model was not trained quantization-aware for int8: "
            f"{f'its activations were trained for {found} bits' if found else 'no activation is fake-quantized'}. Wire "
            "it to a Trainer whose run_fn applies tensorflow_model_optimization's quantize_model before it trains, and "
            "saves that model, not the one it was made from."
        )
    return twin


def _check_twin(model: SignatureRecord, twin: SignatureRecord) -> None:
    """The twin must be able to stand in for the model.

    Raises:
        SignatureError: Their inputs or outputs differ.
    """
    for kind, ours, theirs in (("input", model.inputs, twin.inputs), ("output", model.outputs, twin.outputs)):
        wanted, found = {t.name: t for t in ours}, {t.name: t for t in theirs}
        if wanted.keys() != found.keys():
            raise SignatureError(
                f"Signature {model.key!r} of qat_model has the {kind}s {', '.join(sorted(found)) or 'none'}; that of "
                f"model has {', '.join(sorted(wanted)) or 'none'}. Let both run_fn save signatures with the same names."
            )
        for name, tensor in wanted.items():
            other = found[name]
            if tensor.dtype != other.dtype or not _same_shape(tensor.shape, other.shape):
                raise SignatureError(
                    f"{kind.capitalize()} {name!r} of signature {model.key!r} is {other.dtype} {list(other.shape)} in "
                    f"qat_model and {tensor.dtype} {list(tensor.shape)} in model. Train both on the same features, and "
                    "let both run_fn save the same signature."
                )


def _same_shape(one: Sequence[int], other: Sequence[int]) -> bool:
    """Whether two shapes can be the same; -1 stands for any size."""
    return len(one) == len(other) and all(a == b or -1 in (a, b) for a, b in zip(one, other, strict=True))


def _as_saved(saved_model: str, signature: LoadedSignature) -> Source:
    """The SavedModel itself as a source; its batch size is what it was saved with."""
    record = signature.record()
    first = record.inputs[0].shape[0] if record.inputs else -1
    return Source(
        saved_model=saved_model,
        batch_size="dynamic" if first == -1 else first,
        signature=record,
        state=signature.assigned_variables(),
        loops=signature.loops(),
    )


def _representative(source: Source, job: Job) -> Callable[[], Iterator[dict[str, Any]]]:
    """The representative dataset in batches of the source's size; read when it is first asked for."""

    def batches() -> Iterator[dict[str, Any]]:
        from tfx_mobile.tflite_converter import calibration

        return calibration.batches(calibration.load(Path(job.work_dir) / _SAMPLES_FILE), source.batch_size)

    return batches
