"""Compatibility profiles: will this client take this file, as far as the file alone can tell?

A profile is a list of rules. Each says pass, fail or not verified, with what was found and where the rule comes from. A
rule that nobody could confirm, neither in documentation nor by running the client, never passes and never fails: it
says what was found. Nothing is loaded; the parsed file is all that is looked at.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from ai_edge_litert import schema_py_generated as schema

from tfx_mobile.errors import RecipeError
from tfx_mobile.records import MetadataRecord, ModelFileRecord, ProfileResult, RuleResult, RuleStatus
from tfx_mobile.tflite.flatbuffer import op_kind, op_name, text, type_name
from tfx_mobile.tflite.metadata_reader import AXIS_LABELS

_MEASURED_LITERT = "measured on ai-edge-litert 1.4.0 and 2.3.0"
_MEASURED_LITERT_JS = "measured on LiteRT.js 2.5.3, accelerator wasm"
_MEASURED_MEDIAPIPE = "measured on MediaPipe 0.10.9 and 1.2.2"
_MEASURED_MEDIAPIPE_TOO = "measured on MediaPipe 0.10.21"
_MEDIAPIPE = "https://ai.google.dev/edge/api/mediapipe/python/mp/tasks/vision/ImageClassifier"
_MEDIAPIPE_ONE_INPUT = "https://ai.google.dev/edge/api/mediapipe/objc/vision/Classes/MPPImageClassifier"
_ML_KIT = "https://developers.google.com/ml-kit/custom-models (page summary)"
_ML_KIT_MEMORY = "memory of https://developers.google.com/ml-kit/custom-models, which could not be read again"
_MEMORY = "memory, not confirmed in documentation"
_CUSTOM_OPS = "https://ai.google.dev/edge/litert/models/ops_custom"
_MIN_RUNTIME = "metadata entry min_runtime_version, written by the converter"
_METADATA_SCHEMA = (
    "https://github.com/google-ai-edge/mediapipe/blob/master/mediapipe/tasks/metadata/metadata_schema.fbs"
)
_SCHEMA = "the schema of ai-edge-litert, against which the file was read"

_VERSIONED = re.compile(r"litert>=(\d{1,9}\.\d{1,9}\.\d{1,9})", re.ASCII)


@dataclass(frozen=True)
class _File:
    """What rules look at."""

    model: Any
    record: ModelFileRecord
    metadata: MetadataRecord

    @property
    def main(self) -> Any:
        return self.model.subgraphs[0]

    def inputs(self) -> list[_Tensor]:
        return self._tensors(self.main.inputs)

    def outputs(self) -> list[_Tensor]:
        return self._tensors(self.main.outputs)

    def _tensors(self, indices: Any) -> list[_Tensor]:
        return [_Tensor(self.main.tensors[index]) for index in ([] if indices is None else indices)]

    def ops(self, kind: str) -> list[str]:
        """Names of the operators of a kind, sorted."""
        every = (op for subgraph in self.model.subgraphs for op in subgraph.operators or [])
        return sorted({op_name(self.model, op) for op in every if op_kind(self.model, op) == kind})

    @property
    def normalization(self) -> tuple[tuple[float | None, ...], tuple[float | None, ...]]:
        """Mean and std of the first input; empty without NormalizationOptions."""
        first = self.metadata.inputs[0] if self.metadata.inputs else None
        return (first.mean, first.std) if first is not None else ((), ())


class _Tensor:
    """Type, shape with -1 where open, and quantization of an input or output."""

    def __init__(self, tensor: Any) -> None:
        shape = tensor.shapeSignature if tensor.shapeSignature is not None else tensor.shape
        self.shape = [] if shape is None else [int(size) for size in shape]
        self.dtype = type_name(tensor.type)
        self.name = text(tensor.name)
        quantization = tensor.quantization
        scales = quantization.scale if quantization is not None else None
        zero_points = quantization.zeroPoint if quantization is not None else None
        self.scale = float(scales[0]) if scales is not None and len(scales) else None
        self.zero_point = int(zero_points[0]) if zero_points is not None and len(zero_points) else 0

    def __str__(self) -> str:
        return f"{self.dtype} {self.shape}"


Outcome = tuple[RuleStatus, str]
_Check = Callable[[_File], Outcome]


@dataclass(frozen=True)
class _Rule:
    id: str
    statement: str
    source: str
    check: _Check

    def apply(self, file: _File) -> RuleResult:
        result, detail = self.check(file)
        return RuleResult(id=self.id, statement=self.statement, result=result, detail=detail, source=self.source)


def _unconfirmed(check: _Check) -> _Check:
    """The same check for a rule that nobody confirmed: says what was found, and that this settles nothing."""

    def checked(file: _File) -> Outcome:
        result, detail = check(file)
        holds = {"pass": "holds", "fail": "is violated", "not_verified": "cannot be judged"}[result]
        return "not_verified", f"{detail}; the rule {holds}, but is not confirmed"

    return checked


def _violation_unconfirmed(check: _Check, why: str) -> _Check:
    """The same check where only that keeping the rule suffices is confirmed, not that breaking it does harm."""

    def checked(file: _File) -> Outcome:
        result, detail = check(file)
        return ("not_verified", f"{detail}; {why}") if result == "fail" else (result, detail)

    return checked


# --- operators --------------------------------------------------------------------------------------------------------


def _no_select_ops(file: _File) -> Outcome:
    names = file.record.select_tf_ops
    return ("fail", f"Select TensorFlow ops: {_listed(names)}") if names else ("pass", "none")


def _no_custom_ops(file: _File) -> Outcome:
    names = file.ops("custom")
    return ("fail", f"custom ops: {_listed(names)}") if names else ("pass", "none")


def _known(file: _File) -> Outcome:
    types = sorted(
        {
            type_name(tensor.type)
            for subgraph in file.model.subgraphs
            for tensor in subgraph.tensors or []
            if type_name(tensor.type).startswith("unknown_")
        }
    )
    newer = [*file.ops("unknown"), *types]
    return ("not_verified", f"newer than this schema: {_listed(newer)}") if newer else ("pass", "all known")


def _self_contained(file: _File) -> Outcome:
    count = len(file.model.externalBuffers or [])
    if count:
        return "not_verified", f"{count} buffers are in other files, which were not looked at"
    return "pass", "everything is in the file"


def _min_runtime(wanted: str | None) -> _Check:
    def check(file: _File) -> Outcome:
        found = file.record.min_runtime_version
        if found is None:
            return "not_verified", "the file does not say"
        if wanted is not None and version_numbers(found) > version_numbers(wanted):
            return "fail", f"needs {found}"
        return "pass", f"needs {found}"

    return check


def version_numbers(version: str) -> tuple[int, ...]:
    """A version to compare as numbers: `2.4.0` and `2.4` are equal."""
    numbers = [int(part) for part in version.split(".")]
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)


_SELECT_OPS_RULE = _Rule(
    "no_select_ops",
    "no Select TensorFlow (Flex) op; these need a delegate of their own",
    _MEASURED_LITERT,
    _no_select_ops,
)


def _litert_rules(wanted: str | None) -> tuple[_Rule, ...]:
    runtime = f"runs on TensorFlow Lite {wanted}" if wanted else "says from which TensorFlow Lite version on it runs"
    return (
        _SELECT_OPS_RULE,
        _Rule("no_custom_ops", "no custom op; the app would have to register it", _CUSTOM_OPS, _no_custom_ops),
        _Rule("known_ops_and_types", "every operator and element type is in the schema", _SCHEMA, _known),
        _Rule("self_contained", "all weights are in the file", _SCHEMA, _self_contained),
        _Rule("min_runtime_version", runtime, _MIN_RUNTIME, _min_runtime(wanted)),
    )


# --- LiteRT.js --------------------------------------------------------------------------------------------------------


def _static_shapes(file: _File) -> Outcome:
    tensors = [*file.inputs(), *file.outputs()]
    if open_ones := [t for t in tensors if any(size < 0 for size in t.shape)]:
        return "fail", f"open sizes: {_listed(map(str, open_ones))}"
    if other := [t for t in tensors if t.shape and t.shape[0] != 1]:
        return "not_verified", f"fixed, but only a batch of 1 was measured: {_listed(map(str, other))}"
    return "pass", _listed(map(str, tensors))


def _browser_types(file: _File) -> Outcome:
    types = sorted({tensor.dtype for tensor in [*file.inputs(), *file.outputs()]})
    if "int8" in types:
        return "fail", f"inputs and outputs: {_listed(types)}"
    if other := [name for name in types if name not in ("float32", "uint8")]:
        return "not_verified", f"not measured: {_listed(other)}"
    return "pass", _listed(types)


def _no_variable_tensors(file: _File) -> Outcome:
    count = sum(bool(tensor.isVariable) for subgraph in file.model.subgraphs for tensor in subgraph.tensors or [])
    return ("fail", f"{count} variable tensors") if count else ("pass", "none")


def _no_strings(file: _File) -> Outcome:
    types = [t.type for subgraph in file.model.subgraphs for t in subgraph.tensors or []]
    count = types.count(schema.TensorType.STRING)
    if count:
        return "not_verified", f"{count} string tensors; refused where measured, together with Select TensorFlow ops"
    return "pass", "none"


_custom_ops_in_browser = _violation_unconfirmed(_no_custom_ops, "not measured")

_LITERT_JS = (
    _Rule("static_shapes", "inputs and outputs have fixed sizes, batch 1", _MEASURED_LITERT_JS, _static_shapes),
    _Rule("io_types", "inputs and outputs are float32 or uint8; int8 is refused", _MEASURED_LITERT_JS, _browser_types),
    _Rule("no_variable_tensors", "no variable tensor (recurrent state)", _MEASURED_LITERT_JS, _no_variable_tensors),
    _Rule("no_strings", "no string tensor", _MEASURED_LITERT_JS, _no_strings),
    _Rule("no_select_ops", "no Select TensorFlow (Flex) op", _MEASURED_LITERT_JS, _no_select_ops),
    _Rule("no_custom_ops", "no custom op", _MEASURED_LITERT_JS, _custom_ops_in_browser),
)


# --- image classifiers ------------------------------------------------------------------------------------------------


def _one_input(file: _File) -> Outcome:
    count = len(file.inputs())
    return ("pass" if count == 1 else "fail"), f"{count} input{'s' * (count != 1)}"


def _image_shape(file: _File) -> Outcome:
    inputs = file.inputs()
    if not inputs:
        return "fail", "no input"
    shape = inputs[0].shape
    if len(shape) != 4 or shape[3] not in (3, -1) or shape[0] not in (1, -1):
        return "fail", f"input {shape}"
    if -1 in shape[1:]:
        return "not_verified", f"input {shape}: what the client makes of an open height or width is not known"
    return "pass", f"input {shape}"


def _image_type(file: _File) -> Outcome:
    types = [tensor.dtype for tensor in file.inputs()[:1]]
    return ("pass" if types and types[0] in ("uint8", "float32") else "fail"), f"input {_listed(types)}"


def _has_normalization(file: _File) -> Outcome:
    inputs = file.inputs()
    if not inputs or inputs[0].dtype != "float32":
        return "pass", "the input is not float32"
    mean, std = file.normalization
    if not mean or not std:
        return "fail", "no NormalizationOptions"
    found = f"mean {_listed_numbers(mean)}, std {_listed_numbers(std)}"
    if any(len(values) not in (1, 3) for values in (mean, std)) or not all(std) or None in mean:
        return "fail", f"{found}: neither one finite number nor one per channel, or std is 0"
    return "pass", found


def _has_one_normalization(file: _File) -> Outcome:
    result, detail = _has_normalization(file)
    mean, std = file.normalization
    if result == "pass" and mean and (len(mean) != len(std) or len(set(mean)) > 1 or len(set(std)) > 1):
        return "fail", f"{detail}: the client refuses channels that differ, and lists of different length"
    return result, detail


def _scores(file: _File) -> Outcome:
    outputs = file.outputs()
    good = [_is_scores(tensor) for tensor in outputs]
    found = _listed(map(str, outputs))
    if not any(good):
        return "fail", f"outputs: {found}"
    if not all(good) or any(tensor.shape[-1] == -1 for tensor in outputs):
        return "not_verified", f"outputs: {found}"
    return "pass", f"outputs: {found}"


def _is_scores(tensor: _Tensor) -> bool:
    shape = tensor.shape
    return tensor.dtype in ("uint8", "float32") and len(shape) in (2, 4) and all(size in (1, -1) for size in shape[:-1])


def _one_head(file: _File) -> Outcome:
    count = len(file.outputs())
    return ("pass" if count == 1 else "fail"), f"{count} output{'s' * (count != 1)}"


def _labels(file: _File) -> Outcome:
    outputs = file.outputs()
    metadata = file.metadata.outputs[0] if file.metadata.outputs else None
    labels = [f for f in (metadata.files if metadata is not None else ()) if f.type == AXIS_LABELS]
    if not labels:
        return "pass", "no labels: the app gets class indices"
    classes = outputs[0].shape[-1] if outputs and outputs[0].shape else 0
    for found in labels:
        if found.size_bytes is None:
            return "fail", f"{found.name} is named in the metadata, but not in the file"
        if found.num_lines is None:
            return "not_verified", f"{found.name} cannot be read"
        if found.num_lines != classes:
            return "fail", f"{found.name} has {found.num_lines} lines for {classes} classes"
    return "pass", f"{labels[0].name} has {labels[0].num_lines} lines for {classes} classes"


def _labels_ml_kit(file: _File) -> Outcome:
    result, detail = _labels(file)
    if detail.startswith("no labels"):
        return "not_verified", "no labels; whether ML Kit insists is not confirmed"
    return result, detail


def _score_threshold(file: _File) -> Outcome:
    thresholds = [t.score_threshold for t in file.metadata.outputs if t.score_threshold is not None]
    return "pass", f"the client drops scores below {thresholds[0]:g}" if thresholds else "none, and none is asked for"


def _complete_metadata(file: _File) -> Outcome:
    described, outputs = file.metadata.outputs, file.outputs()
    if not file.metadata.present or not described:
        return "pass", "no metadata for outputs"
    if len(described) != len(outputs):
        return "fail", f"metadata for {len(described)} outputs, the model has {len(outputs)}"
    if any(not tensor.name for tensor in described):
        return "fail", "an output without a name in the metadata: the client's process dies of it"
    return "pass", "every output is described and named"


def _uncompressed_files(file: _File) -> Outcome:
    names = [found.name for found in file.metadata.files if found.compressed]
    return ("fail", f"compressed: {_listed(names)}") if names else ("pass", "none is compressed")


def _raw_pixels(file: _File) -> Outcome:
    inputs = file.inputs()
    if not inputs or inputs[0].dtype != "uint8":
        return "pass", "the input is not uint8"
    mean, std = file.normalization
    tensor = inputs[0]
    if tensor.scale is None:
        return "fail", "the uint8 input has no scale and zero point"
    found = f"scale {tensor.scale:.6g}, zero point {tensor.zero_point}"
    if not mean or not std:
        return "not_verified", f"{found}; without NormalizationOptions there is nothing to compare them with"
    # What a client writes for a pixel and what the model means by it may then differ by one quantum at most.
    channels = max(len(mean), len(std))
    means, stds = (values * channels if len(values) == 1 else values for values in (mean, std))
    fits = len(means) == len(stds) and all(
        m is not None and s is not None and abs(tensor.scale * s - 1) <= 1 / 255 and abs(tensor.zero_point - m) <= 1
        for m, s in zip(means, stds, strict=True)
    )
    scales = _listed_numbers(1 / s if s else None for s in std)
    return ("pass" if fits else "fail"), f"{found}; by mean and std: scale {scales}, zero point {_listed_numbers(mean)}"


_ONE_INPUT = ("one_input", "exactly one input tensor")
_IMAGE_SHAPE = ("input_shape", "input [1, height, width, 3], RGB")
_IMAGE_TYPE = ("input_type", "input is uint8 or float32; int8 is refused")
_NORMALIZATION = ("normalization", "a float32 input has NormalizationOptions: without, the client cannot scale pixels")
_SCORES = ("output_scores", "an output [1, N] or [1, 1, 1, N], uint8 or float32")
_ONE_HEAD = ("one_head", "one classification head")
_LABELS = ("labels", "labels, where given, are a TENSOR_AXIS_LABELS file with one line per class")
_THRESHOLD = ("score_threshold", "ScoreThresholdingOptions are optional")
_COMPLETE = ("output_metadata", "metadata, where given, describe every output, by name")
_UNCOMPRESSED = ("uncompressed_files", "appended files are stored without compression")
_RAW_PIXELS = (
    "uint8_normalization",
    "a uint8 input's scale is 1 / std and its zero point the mean within 1: the client writes raw pixels",
)

_SELECT_OPS_ELSEWHERE = _Rule(
    "no_select_ops",
    "no Select TensorFlow (Flex) op",
    _MEASURED_LITERT + "; this client was not run with such a file",
    _violation_unconfirmed(_no_select_ops, "this client was not run with such a file"),
)

_MEDIAPIPE_IMAGE_CLASSIFIER = (
    _Rule(*_ONE_INPUT, _MEDIAPIPE_ONE_INPUT, _one_input),
    _Rule(*_IMAGE_SHAPE, _MEDIAPIPE, _image_shape),
    _Rule(*_IMAGE_TYPE, _MEASURED_MEDIAPIPE, _image_type),
    _Rule(*_NORMALIZATION, f"{_MEASURED_MEDIAPIPE}, per channel on 0.10.21", _has_one_normalization),
    _Rule(*_SCORES, _MEDIAPIPE, _scores),
    _Rule(*_ONE_HEAD, _MEDIAPIPE, _violation_unconfirmed(_one_head, "allowed by the page, but not measured")),
    _Rule(*_LABELS, f"{_MEDIAPIPE}; {_MEASURED_MEDIAPIPE_TOO}", _labels),
    _Rule(*_THRESHOLD, _MEASURED_MEDIAPIPE_TOO, _score_threshold),
    _Rule(*_RAW_PIXELS, _MEASURED_MEDIAPIPE, _raw_pixels),
    _Rule(*_COMPLETE, _MEASURED_MEDIAPIPE_TOO, _complete_metadata),
    _Rule(*_UNCOMPRESSED, _MEASURED_MEDIAPIPE_TOO, _uncompressed_files),
    _SELECT_OPS_ELSEWHERE,
)

_MLKIT_IMAGE = (
    _Rule(*_ONE_INPUT, _ML_KIT_MEMORY, _unconfirmed(_one_input)),
    _Rule(*_IMAGE_SHAPE, _ML_KIT_MEMORY, _unconfirmed(_image_shape)),
    _Rule(*_IMAGE_TYPE, _ML_KIT_MEMORY, _unconfirmed(_image_type)),
    _Rule(*_NORMALIZATION, _ML_KIT, _has_normalization),
    _Rule(*_SCORES, _ML_KIT_MEMORY, _unconfirmed(_scores)),
    _Rule(*_ONE_HEAD, _ML_KIT_MEMORY, _unconfirmed(_one_head)),
    _Rule(*_LABELS, _ML_KIT, _labels_ml_kit),
    _Rule(*_THRESHOLD, _MEMORY, _unconfirmed(_score_threshold)),
    _Rule(*_RAW_PIXELS, _METADATA_SCHEMA, _raw_pixels),
    _SELECT_OPS_ELSEWHERE,
)

_RULES: dict[str, tuple[_Rule, ...]] = {
    "litert": _litert_rules(None),
    "mlkit_image": _MLKIT_IMAGE,
    "mediapipe_image_classifier": _MEDIAPIPE_IMAGE_CLASSIFIER,
    "litert_js": _LITERT_JS,
    "no_select_ops": (_SELECT_OPS_RULE,),
}

#: Names of all profiles; `litert` may also be written `litert>=2.14.0`.
PROFILES: tuple[str, ...] = tuple(_RULES)


def parse_profiles(names: Iterable[str] | None) -> tuple[str, ...]:
    """Checks names of profiles.

    Args:
        names: Names; None for all profiles.

    Returns:
        The names in the given order, each once.

    Raises:
        RecipeError: A name is unknown, or it is not a list of names.
    """
    if names is None:
        return PROFILES
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise RecipeError(f"profiles={names!r} is not a list; give one, for example profiles=['litert'].")
    listed = tuple(dict.fromkeys(names))
    for name in listed:
        if not isinstance(name, str) or not (name in _RULES or _VERSIONED.fullmatch(name)):
            raise RecipeError(
                f"Unknown compatibility profile {name!r}. Valid profiles: {', '.join(PROFILES)}; 'litert' may name the "
                "oldest TensorFlow Lite version that must run the file, as in 'litert>=2.14.0'."
            )
    return listed


def check_profiles(
    model: Any, record: ModelFileRecord, metadata: MetadataRecord, names: Iterable[str] | None = None
) -> tuple[ProfileResult, ...]:
    """Checks a file against profiles.

    Args:
        model: What `flatbuffer.read_model` returned.
        record: What `flatbuffer.describe` returned.
        metadata: What `metadata_reader.read_metadata` returned.
        names: Profiles; None for all.

    Raises:
        RecipeError: A name is unknown.
    """
    file = _File(model, record, metadata)
    results = []
    for name in parse_profiles(names):
        versioned = _VERSIONED.fullmatch(name)
        rules = _litert_rules(versioned[1]) if versioned else _RULES[name]
        outcomes = tuple(rule.apply(file) for rule in rules)
        results.append(
            ProfileResult(profile=name, result=_worst(outcome.result for outcome in outcomes), rules=outcomes)
        )
    return tuple(results)


def _worst(results: Iterator[RuleStatus]) -> RuleStatus:
    seen = set(results)
    return "fail" if "fail" in seen else "not_verified" if "not_verified" in seen else "pass"


def _listed(items: Iterable[str], most: int = 8) -> str:
    names = list(items)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) or "none") + more


def _listed_numbers(values: Iterable[float | None]) -> str:
    return _listed("not finite" if value is None else f"{value:g}" for value in values)
