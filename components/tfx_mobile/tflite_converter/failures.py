"""What went wrong with one recipe, as a Failure: a stable code, what happened, and what to do next.

Messages are part of the manifest, so they hold nothing that changes from run to run: no paths, no times, no addresses.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from tfx_mobile.child_process import ChildDied
from tfx_mobile.recipes import ConversionRecipe
from tfx_mobile.records import Failure

CONVERTER_CRASHED = "converter_crashed"
CONVERTER_TIMEOUT = "converter_timeout"
UNSUPPORTED_OPS = "unsupported_ops"
CONVERSION_FAILED = "conversion_failed"
INSPECTION_FAILED = "inspection_failed"
UNKNOWN_LAYERS = "unknown_layers"
LABEL_UNUSABLE = "label_unusable"

MISSING_EXTRA = "missing_extra"
METADATA_FAILED = "metadata_failed"
NOT_QUANTIZATION_AWARE = "not_quantization_aware"
NO_TRAINED_RANGE = "no_trained_range"

_MESSAGE_LENGTH = 600
# TensorFlow's log lines begin with times and process ids; what follows these words is stable.
_CAUSE = re.compile(r"(?:LLVM ERROR|error|Check failed|Fatal Python error): .*")
_NOT_BUILTIN = re.compile(r"'(?:tf|tfl)\.([\w.]+)' op is neither a custom op nor a flex op")
_NOT_INTEGER = re.compile(r"Quantization(?: to 16x8-bit)? not yet supported for op: '?(\w+)|'tfl\.(\w+)' op.*quantiz")
# The quantizer wants a range of the integers behind a HASHTABLE_FIND.
_LOOKED_UP = re.compile(r"recorded during calibration: Failed for tensor (\S+)/LookupTableFindV2/Reshape")


class RecipeFailed(Exception):
    """A recipe cannot be carried out, for a reason that is known; costs this recipe only.

    Attributes:
        failure: The reason.
    """

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


def from_death(died: ChildDied, deadline_seconds: float, direct_reason: str | None) -> Failure:
    """The converter process was killed by a signal, ran out of time, or exited.

    Args:
        died: How it ended.
        deadline_seconds: The deadline it had.
        direct_reason: Why the model was converted as it was saved; None if it was frozen and re-signed.
    """
    if died.cause == "timeout":
        return Failure(
            code=CONVERTER_TIMEOUT,
            message=f"The conversion gave no result within {deadline_seconds:g} seconds.",
            advice="Raise deadline_seconds, lower CalibrationSpec.num_samples if this recipe calibrates, or leave this "
            "recipe out.",
        )
    causes = _CAUSE.findall(died.stderr)
    what = f"killed by {died.signal_name}" if died.cause == "crashed" else "ended with an error"
    said = f" It said last: {causes[-1].strip()[:_MESSAGE_LENGTH]}" if causes else ""
    advice = "Leave this recipe out, or try another TensorFlow version; other recipes are not affected."
    if died.signal_name == "SIGKILL":
        advice = "The system probably ran out of memory: give this step more, or lower CalibrationSpec.num_samples."
    elif direct_reason is not None:
        advice = (
            "TensorFlow's converter aborts on Keras 3 models that were saved with tf.saved_model.save and are "
            f"converted as they are, as it was done here because {direct_reason}. Save the model with "
            "model.export(dir, format='tf_saved_model') or keras.export.ExportArchive in run_fn, or make its signature "
            "one that can be frozen."
        )
    return Failure(code=CONVERTER_CRASHED, message=f"The converter process was {what}.{said}", advice=advice)


Origins = Callable[[Iterable[str]], Mapping[str, Sequence[str]]]


def ops_without_builtin(text: str) -> list[str]:
    """The ops that TensorFlow's converter says it has no builtin kernel for, sorted."""
    return sorted(set(_NOT_BUILTIN.findall(text)))


def from_exception(
    recipe: ConversionRecipe,
    error: Exception,
    work_dir: str,
    origins: Origins = lambda _: {},
    *,
    allow_select_tf_ops: bool = False,
) -> Failure:
    """TensorFlow's converter refused the model, or the recipe cannot be carried out.

    Args:
        recipe: What was tried.
        error: What it raised.
        work_dir: A path that must not be in the message.
        origins: Gives the scopes that ops of some types come from.
        allow_select_tf_ops: Whether the converter was allowed to leave TensorFlow ops in the file.
    """
    if isinstance(error, RecipeFailed):
        return error.failure
    text = str(error).replace(work_dir, "<work>")
    if ops := ops_without_builtin(text):
        return unsupported_ops(ops, origins(ops), allow_select_tf_ops=allow_select_tf_ops)
    if recipe.computes_in_integers and (
        ops := sorted({first or second for first, second in _NOT_INTEGER.findall(text)})
    ):
        return Failure(
            code=UNSUPPORTED_OPS,
            message=f"No integer kernel for: {', '.join(ops)}.",
            advice="Use the recipe full_integer, which computes such ops in float, or replace them in the model.",
        )
    if tensors := _LOOKED_UP.findall(text):
        return Failure(
            code=UNSUPPORTED_OPS,
            message=f"TensorFlow's quantizer to 16x8 bit fails on what a lookup table returns: {', '.join(tensors)}.",
            advice="Use the recipe full_integer, or take the vocabulary out of preprocessing_fn or run_fn and feed "
            "its index.",
        )
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["no reason given"]
    return Failure(
        code=CONVERSION_FAILED,
        message=f"{type(error).__name__}: {' '.join(lines)[:_MESSAGE_LENGTH]}",
        advice="Change what the message names in the model, or leave this recipe out. If the recipe float32 fails too, "
        "the cause is the model and not quantization.",
    )


def of_recurrent_model(
    failure: Failure, recipe: ConversionRecipe, loops: Sequence[str], state: Sequence[str]
) -> Failure:
    """Names the loops and the state of a recurrent model in the advice, where they are the likely cause.

    Args:
        failure: What TensorFlow said, or did.
        recipe: What was to be made.
        loops: The model's loops.
        state: The variables that a call changes.
    """
    advice = []
    if loops and recipe.batch_size == "dynamic":
        advice.append(
            f"The model has loops ({', '.join(loops)}), and TensorFlow Lite needs to know the size of what they "
            "collect: use a fixed batch size such as batch_size=1."
        )
    elif loops and recipe.calibrates:
        advice.append(
            f"TensorFlow's quantizer cannot handle loops ({', '.join(loops)}) and may crash on them: build the "
            "recurrent layer with unroll=True in run_fn, or use the recipes float32, float16 or dynamic_range."
        )
    if state:
        advice.append(
            f"The signature keeps state in the variables {', '.join(state)}: take the state as an input and return it "
            "as an output in run_fn instead, and let the app carry it from call to call."
        )
    return failure.model_copy(update={"advice": " ".join(advice)}) if advice else failure


_MAX_SCOPES = 32

# What to do about ops that TFX's examples and Keras's preprocessing layers are full of.
_REMEDIES = {
    "AsString": "turn numbers into strings before the model, or use integer keys",
    "Bincount": "use CategoryEncoding(output_mode='one_hot') or tf.one_hot",
    "BoostedTreesBucketize": "compare with the boundaries instead of tft.bucketize",
    "Bucketize": "compare with the boundaries: tf.reduce_sum(tf.cast(x[..., None] >= boundaries, tf.int64), -1)",
    "DecodeJpeg": "decode images in the app and feed pixels",
    "DecodePng": "decode images in the app and feed pixels",
    "DenseBincount": "use CategoryEncoding(output_mode='one_hot') or tf.one_hot",
    "ParseExampleV2": "save a signature that parses with one tf.io.parse_example, or one on raw tensors",
    "StringLower": "normalize text in the app",
    "StringSplitV2": "split text in the app and feed tokens",
    "StringToHashBucketFast": "use at most one bucket for unknown words, such as num_oov_buckets=1",
    "UpperBound": "compare with the boundaries instead of tft.bucketize or tf.searchsorted: "
    "tf.reduce_sum(tf.cast(x[..., None] >= boundaries, tf.int64), -1)",
}


def unsupported_ops(
    ops: Sequence[str], origins: Mapping[str, Sequence[str]], *, allow_select_tf_ops: bool = False
) -> Failure:
    """The graph holds ops that TensorFlow Lite has no builtin kernel for.

    Args:
        ops: Their types.
        origins: The scopes they come from, by type.
        allow_select_tf_ops: Whether TensorFlow's own kernels were allowed; then these ops are not among them either.
    """
    listed = ", ".join(f"{op}{_in_words(origins.get(op, ()))}" for op in ops)
    remedies = "".join(f" {op}: {_REMEDIES[op]}." for op in ops if op in _REMEDIES)
    select = (
        " Select TensorFlow ops were allowed and do not cover them with this recipe."
        if allow_select_tf_ops
        else " Or pass allow_select_tf_ops=True to TFLiteConverter; apps then have to ship the Flex delegate."
    )
    return Failure(
        code=UNSUPPORTED_OPS,
        message=f"TensorFlow Lite has no builtin kernel for: {listed}.",
        advice=f"Replace these ops in the model (run_fn) or in preprocessing_fn.{remedies}{select}",
    )


def custom_ops(ops: Sequence[str]) -> Failure:
    """The file holds ops that only an app with their code can run."""
    return Failure(
        code=UNSUPPORTED_OPS,
        message=f"The file holds custom ops that no runtime brings along: {', '.join(ops)}.",
        advice="Replace these ops in the model (run_fn) or in preprocessing_fn.",
    )


def _in_words(scopes: Sequence[str]) -> str:
    if not scopes:
        return ""
    more = f" and {len(scopes) - _MAX_SCOPES} more" if len(scopes) > _MAX_SCOPES else ""
    return f" (in {', '.join(scopes[:_MAX_SCOPES])}{more})"


def inspection(message: str) -> Failure:
    """The converter gave a file that is not what the recipe asked for."""
    return Failure(
        code=INSPECTION_FAILED,
        message=message,
        advice="Leave this recipe out or choose a recipe with more float in it (full_integer instead of integer_only); "
        "if the recipe should have worked, report this with the model.",
    )


def unknown_layers(unknown: list[str], valid: list[str]) -> Failure:
    """`float_layers` names layers that the model does not have."""
    return Failure(
        code=UNKNOWN_LAYERS,
        message=f"The model has no layers {unknown}. It has: {valid}.",
        advice="Copy float_layers from the manifest that mixed_precision wrote for this model; a model that was built "
        "differently has other names. Or run mixed_precision again.",
    )


def label_unusable(outputs: dict[str, list[int]]) -> Failure:
    """`RepairSpec.label` was given, and the outputs are no classes to compare it with."""
    return Failure(
        code=LABEL_UNUSABLE,
        message=f"RepairSpec.label needs a model with one float output [batch, classes]; this one has {outputs}.",
        advice="Leave RepairSpec.label out, so that agreement with the float model is measured.",
    )


def metadata(message: str) -> Failure:
    """The metadata that was asked for could not be written into the file."""
    return Failure(
        code=METADATA_FAILED,
        message=message,
        advice="Correct what the message names in MetadataSpec or in the environment of the metadata writers, or leave "
        "MetadataSpec out.",
    )


def not_quantization_aware() -> Failure:
    """A recipe with `quantization_aware`, and no model that was trained so."""
    return Failure(
        code=NOT_QUANTIZATION_AWARE,
        message="This recipe takes its ranges from quantization-aware training, but no qat_model was given, and model "
        "holds none: no activation in its graph is fake-quantized to 8 bits.",
        advice="Pass qat_model=qat_trainer.outputs['model'] to TFLiteConverter, the model's twin trained with "
        "tensorflow_model_optimization's quantize_model; or use full_integer or integer_only_int8, which calibrate.",
    )


def no_trained_range(inputs: Mapping[str, str]) -> Failure:
    """Integer inputs were asked for, but preprocessing keeps the trained ranges away from them.

    Args:
        inputs: The op that is in the way, by input name.
    """
    listed = ", ".join(f"{name!r} (behind {op})" for name, op in sorted(inputs.items()))
    return Failure(
        code=NO_TRAINED_RANGE,
        message=f"Training gave no range to these inputs, and none follows from those behind them: {listed}.",
        advice="Use qat_full_integer, which computes what lies before the first trained range in float; or feed the "
        "model what it was trained on, and do this preprocessing in the app.",
    )
