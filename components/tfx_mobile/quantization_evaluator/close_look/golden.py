"""Golden vectors: a few exact inputs with the outputs that the blessed file gave here, and the check against them.

An app, or this command line, feeds the inputs to the file on another device and compares. Inputs are stored as the file
takes them, so that no preprocessing or quantization of the app's own comes between.
"""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tfx_mobile import child_process
from tfx_mobile.errors import EvaluationError, ModelFileError, TFXMobileError
from tfx_mobile.quantization_evaluator.scoring.rows import Row
from tfx_mobile.recipes import ConversionRecipe
from tfx_mobile.records import (
    GoldenCheck,
    GoldenExample,
    GoldenInput,
    GoldenOutput,
    GoldenResult,
    GoldenTensor,
    GoldenVectors,
    sha256_of,
)
from tfx_mobile.tflite.flatbuffer import op_name, read_model, text, type_name

Array = npt.NDArray[Any]

#: Of all tensors together, before base64.
MAX_BYTES = 4 << 20

_DEADLINE_SECONDS = 300.0
_INTEGERS = ("int8", "uint8", "int16")

# Measured on the same file with two CPUs and several runtimes: 1.2e-7 for float32 and float16 and 7.6e-6 for dynamic
# range, both on probabilities of small models. Deeper ones add up more; a wrong model or input is off by far more.
_FLOAT_SHARE = 1e-4
_DYNAMIC_SHARE = 1e-3
_INTEGER_SHARE = 1 / 127


def make(
    model: bytes, recipe: ConversionRecipe, signature: str, rows: Sequence[Row], max_bytes: int = MAX_BYTES
) -> GoldenVectors:
    """Runs a file on rows, in a process of its own, and writes down what went in and what came out.

    Args:
        model: The file's bytes, which passed preflight.
        recipe: What it was made by; decides the tolerances.
        signature: Key of the signature to run.
        rows: What to run it on.
        max_bytes: Of these, as many as fit into this size; the first always.

    Raises:
        EvaluationError: The file cannot be run.
    """
    examples: list[GoldenExample] = []
    runtime = ""
    size = 0
    requests = [[to_golden(name, value) for name, value in row.inputs.items()] for row in rows]
    try:
        for row, event in zip(rows, _run(model, signature, requests, real=True), strict=False):
            inputs, outputs = _tensors(event["inputs"]), _tensors(event["outputs"])
            floats = tuple(to_golden(name, value) for name, value in sorted(row.outputs.items()))
            size += sum(_size(tensor) for tensor in (*inputs, *outputs, *floats))
            if examples and size > max_bytes:
                break
            runtime = event["runtime"]
            examples.append(
                GoldenExample(example_sha256=row.sha256, inputs=inputs, outputs=outputs, float_outputs=floats)
            )
    except ModelFileError as error:
        raise EvaluationError(
            f"Variant {recipe.name!r} passed every gate and then could not be run for its golden vectors: {error} Run "
            "QuantizationEvaluator again; if it fails again, leave this recipe out."
        ) from error
    described = _Signature(model, signature)
    return GoldenVectors(
        model_sha256=sha256_of(model),
        variant=recipe.name,
        signature=signature,
        runtime=runtime,
        inputs=tuple(GoldenInput(**described.port(tensor.name, "inputs")) for tensor in examples[0].inputs),
        outputs=tuple(described.output(tensor.name, recipe, examples) for tensor in examples[0].outputs),
        examples=tuple(examples),
    )


def check(model: bytes, golden: GoldenVectors) -> GoldenCheck:
    """Runs a file on golden inputs, in a process of its own, and compares what comes out.

    Args:
        model: The bytes of the file; need not be the one that the vectors are of.
        golden: The vectors.

    Returns:
        The outcome; a file that cannot be run is one, too.
    """
    sha256 = sha256_of(model)
    same = sha256 == golden.model_sha256
    results: list[GoldenResult] = []
    runtime = ""
    try:
        read_model(model)
        requests = [list(example.inputs) for example in golden.examples]
        for number, event in enumerate(_run(model, golden.signature, requests, real=False)):
            runtime = event["runtime"]
            actual = {tensor.name: tensor for tensor in _tensors(event["outputs"])}
            expected = {tensor.name: tensor for tensor in golden.examples[number].outputs}
            for output in golden.outputs:
                results.append(_compare(number, output, expected.get(output.name), actual.get(output.name)))
        if len(results) < len(golden.examples) * len(golden.outputs):
            raise ModelFileError("The interpreter process ended before all examples were run.")
    except TFXMobileError as error:
        return GoldenCheck(
            model_sha256=sha256, same_file=same, runtime=runtime, results=tuple(results), failure=str(error)
        )
    return GoldenCheck(model_sha256=sha256, same_file=same, runtime=runtime, results=tuple(results))


def to_golden(name: str, values: Array) -> GoldenTensor:
    """An array as it is written down."""
    values = np.asarray(values)
    if values.dtype.kind in "OSU":
        encoded = [v.encode() if isinstance(v, str) else bytes(v) for v in values.ravel().tolist()]
        strings = tuple(base64.b64encode(value).decode() for value in encoded)
        return GoldenTensor(name=name, dtype="string", shape=values.shape, strings=strings)
    data = values.astype(values.dtype.newbyteorder("<")).tobytes()
    return GoldenTensor(name=name, dtype=values.dtype.name, shape=values.shape, data=base64.b64encode(data).decode())


def to_array(tensor: GoldenTensor) -> Array:
    """The array that was written down.

    Raises:
        ModelFileError: Its content does not fit its dtype and shape.
    """
    try:
        if tensor.strings is not None:
            array = np.array([base64.b64decode(value) for value in tensor.strings], object)
        else:
            dtype = np.dtype(tensor.dtype)
            array = np.frombuffer(base64.b64decode(tensor.data or ""), dtype.newbyteorder("<")).astype(dtype)
        return array.reshape(tensor.shape)
    except (ValueError, TypeError) as error:
        raise ModelFileError(
            f"Golden tensor {tensor.name!r} is damaged: it is no {tensor.dtype} of shape {list(tensor.shape)} "
            f"({error}). Take the golden.json that was written beside the model."
        ) from None


def run_rows(request: dict[str, Any], emit: child_process.Emit) -> None:
    """Runs the file `request["path"]` on each of `request["rows"]`, in the child process.

    A row is GoldenTensors by input: real values of one row each if `request["real"]`, else the file's own tensors.
    Emits per row what went in and what came out; `{"error": text}` if the file cannot be run.
    """
    from tfx_mobile.tflite.runtime import SignatureRunner

    try:
        runner = SignatureRunner(Path(request["path"]).read_bytes(), request["signature"])
        for row in request["rows"]:
            tensors = {tensor.name: to_array(tensor) for tensor in _tensors(row)}
            if missing := sorted(runner.inputs.keys() - tensors.keys()):
                raise ValueError(f"there are no values for its inputs {', '.join(missing)}")
            if request["real"]:
                # A file of fixed batch size takes this many rows; the one at hand is repeated.
                repeats = runner.batch_size or 1
                tensors = runner.to_tensors({n: np.repeat(t, repeats, axis=0) for n, t in tensors.items()})
            outputs = runner.invoke({name: tensors[name] for name in runner.inputs})
            emit(
                {
                    "runtime": runner.runtime,
                    "inputs": [to_golden(name, tensors[name]).model_dump() for name in sorted(runner.inputs)],
                    "outputs": [to_golden(name, outputs[name]).model_dump() for name in sorted(outputs)],
                }
            )
    except (ModelFileError, ValueError, RuntimeError) as error:
        emit({"error": str(error)})


def _run(
    model: bytes, signature: str, rows: Sequence[Sequence[GoldenTensor]], *, real: bool
) -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="tfx-mobile-") as temp:
        path = Path(temp) / "model.tflite"
        path.write_bytes(model)
        request = {
            "path": str(path),
            "signature": signature,
            "rows": [[tensor.model_dump() for tensor in row] for row in rows],
            "real": real,
        }
        try:
            function = f"{__name__}:{run_rows.__name__}"
            for event in child_process.run(function, request, deadline_seconds=_DEADLINE_SECONDS):
                if "error" in event:
                    raise ModelFileError(f"The file cannot be run on golden inputs: {event['error']}.")
                yield event
        except child_process.ChildDied as died:
            raise ModelFileError(f"The interpreter process ended: {died}.") from None


def _tensors(documents: Sequence[Mapping[str, Any]]) -> tuple[GoldenTensor, ...]:
    return tuple(GoldenTensor.model_validate(document) for document in documents)


def _size(tensor: GoldenTensor) -> int:
    return len(tensor.data or "") * 3 // 4 + sum(len(value) * 3 // 4 for value in tensor.strings or ())


def _compare(
    example: int, output: GoldenOutput, expected: GoldenTensor | None, actual: GoldenTensor | None
) -> GoldenResult:
    difference: float | None = None
    message = ""
    if actual is None:
        message = "the file has no such output"
    elif expected is None:
        message = "the golden vectors have no such output"
    elif (actual.dtype, actual.shape) != (expected.dtype, expected.shape):
        message = f"{actual.dtype} {list(actual.shape)} instead of {expected.dtype} {list(expected.shape)}"
    elif expected.strings is not None:
        message = "" if actual.strings == expected.strings else "another text"
    else:
        wanted, made = to_array(expected).astype(np.float64), to_array(actual).astype(np.float64)
        finite = np.isfinite(wanted) & np.isfinite(made)
        if np.array_equal(wanted[~finite], made[~finite], equal_nan=True):
            difference = float(np.abs(made[finite] - wanted[finite]).max(initial=0.0))
        else:
            message = "NaN or infinite where the other is not"
    return GoldenResult(
        example=example,
        output=output.name,
        difference=difference,
        tolerance=output.tolerance,
        passed=not message and (difference is None or difference <= output.tolerance),
        message=message,
    )


class _Signature:
    """One signature of a file, as its tables have it."""

    def __init__(self, data: bytes, key: str) -> None:
        model = read_model(data)
        self._maps = next(s for s in model.signatureDefs if text(s.signatureKey) == key)
        self._graph = model.subgraphs[self._maps.subgraphIndex]
        self._model = model

    def port(self, name: str, kind: str) -> dict[str, Any]:
        index = self._tensor(name, kind)
        scale, zero_point = self._quantization(index) or (None, None)
        return {
            "name": name,
            "index": [int(i) for i in getattr(self._graph, kind)].index(index),
            "dtype": type_name(self._graph.tensors[index].type),
            "scale": scale,
            "zero_point": zero_point,
        }

    def output(self, name: str, recipe: ConversionRecipe, examples: Sequence[GoldenExample]) -> GoldenOutput:
        port = self.port(name, "outputs")
        values = [to_array(t) for example in examples for t in example.outputs if t.name == name]
        tolerance, reason = self._tolerance(self._tensor(name, "outputs"), port["dtype"], recipe, values)
        return GoldenOutput(**port, tolerance=tolerance, reason=reason)

    def _tolerance(
        self, index: int, dtype: str, recipe: ConversionRecipe, values: Sequence[Array]
    ) -> tuple[float, str]:
        if dtype in _INTEGERS and self._quantization(index):
            return 1.0, "one quantum: kernel families (XNNPACK, builtin) round differently"
        if not dtype.startswith("float"):
            return 0.0, "no quantity: the same value on every device"
        if (scale := self._dequantized_scale(index)) is not None:
            # A little more than a step, which float32 does not hold exactly.
            return scale * 1.001, "one step of the integers it is dequantized from: kernel families round differently"
        largest = max((float(np.abs(v[np.isfinite(v)]).max(initial=0.0)) for v in values), default=0.0)
        if recipe.computes_in_integers:
            return _INTEGER_SHARE * largest, "integers inside: one 127th of the largest value in these outputs"
        share, reason = (
            (_DYNAMIC_SHARE, "activations are quantized on the fly, and a rounding that falls otherwise costs a step")
            if recipe.quantization in ("dynamic_range", "int4")
            else (_FLOAT_SHARE, "devices add up floats in another order")
        )
        return share * max(1.0, largest), f"{reason}: {share:g} of the largest value in these outputs, or of 1"

    def _tensor(self, name: str, kind: str) -> int:
        return next(int(m.tensorIndex) for m in getattr(self._maps, kind) if text(m.name) == name)

    def _quantization(self, index: int) -> tuple[float, int] | None:
        parameters = self._graph.tensors[index].quantization
        if parameters is None or parameters.scale is None or len(parameters.scale) != 1:
            return None
        points = parameters.zeroPoint
        return float(parameters.scale[0]), 0 if points is None or not len(points) else int(points[0])

    def _dequantized_scale(self, index: int) -> float | None:
        """The step of the integers that an output is dequantized from; None if it is computed in float."""
        for op in self._graph.operators or []:
            if index in op.outputs and op_name(self._model, op) == "DEQUANTIZE":
                source = int(op.inputs[0])
                if type_name(self._graph.tensors[source].type) in _INTEGERS and (found := self._quantization(source)):
                    return found[0]
        return None
