"""The first half of the child's work: models that are ready for the converter, and the calibration sample.

What is prepared stays in the work directory. Runs in the child process only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tfx_mobile import keras_file
from tfx_mobile.errors import ConversionError, SignatureError
from tfx_mobile.records import SignatureRecord
from tfx_mobile.tflite_converter import calibration, calibration_report, front_end, repair, trained_ranges
from tfx_mobile.tflite_converter.job import TWIN, Job, Prepared, Source, check_examples_given, source_key

_SAMPLES_FILE = "samples.npz"


def prepare(job: Job, progress: Callable[[], None]) -> Prepared:
    """Turns a job's model into SavedModels that are ready for the converter, and draws the calibration sample.

    Args:
        job: The job; everything is written into its work directory.
        progress: Called whenever a step is done.

    Raises:
        SignatureError: The signature cannot become a `.tflite`'s inputs and outputs, or is another in the twin.
        CalibrationError: The calibration examples are missing or damaged.
        RecipeError: A recipe calibrates and there are no examples.
        ConversionError: The model cannot be loaded, or the twin was not trained quantization-aware.
    """
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
        key = model, form, _ = source_key(recipe, trained, twin is not None)
        if "-".join(key) in sources:
            continue
        origin = twin if model == TWIN else frozen
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
        twin=next((sources[key].signature for key in sources if key.startswith(TWIN)), None),
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
        extra=repair.num_examples(job.recipes),
        progress=progress,
    )
    calibration.save(Path(job.work_dir) / _SAMPLES_FILE, calibrated.values)
    repair.prepare_examples(job.work_dir, job.recipes, calibrated.drawn, calibrated.parse, inputs)
    return prepared.model_copy(update={"calibration": calibrated.record})


def representative(source: Source, job: Job) -> Callable[[], Iterator[dict[str, Any]]]:
    """The representative dataset in batches of the source's size; read when it is first asked for."""

    def batches() -> Iterator[dict[str, Any]]:
        return calibration.batches(calibration.load(Path(job.work_dir) / _SAMPLES_FILE), source.batch_size)

    return batches


def _exported(model: str, work_dir: str, progress: Callable[[], None]) -> str:
    """Path of a SavedModel: `model` itself, or what a Keras file is exported to."""
    if not keras_file.is_keras_file(model):
        return model
    target = str(Path(work_dir) / f"exported-{hashlib.sha256(model.encode()).hexdigest()[:16]}")
    keras_file.export_here(model, target)
    progress()
    return target


def _freeze_twin(saved_model: str, signature_name: str) -> front_end.FrozenSignature:
    """The frozen signature of the quantization-aware twin.

    Raises:
        SignatureError: It cannot be frozen, or has no such signature.
        ConversionError: It cannot be loaded, or was not trained quantization-aware.
    """
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


def _as_saved(saved_model: str, signature: front_end.LoadedSignature) -> Source:
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
