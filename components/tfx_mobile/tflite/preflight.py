"""The third door: load a `.tflite` file and run it, in a process that may die of it."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfx_mobile import child_process
from tfx_mobile.errors import ModelFileError
from tfx_mobile.records import Failure, sha256_of
from tfx_mobile.tflite.flatbuffer import read_model, select_tf_ops, signatures

if TYPE_CHECKING:
    from tfx_mobile.tflite.runtime import SignatureRunner

#: More address space than the runtime and any model that suits a phone need.
MEMORY_BYTES = 8 << 30

# For every open size but the batch's, one after the other until the file runs: one that several strided convolutions
# still fit into, a usual image, and what is left for models that want exactly one.
_OPEN_SIZES = (32, 224, 1)

_OPEN_ADVICE = (
    "Fix the sizes with TFLiteConverter(input_shapes={...}), so that the file can be run before it is trusted."
)
_ADVICE = "Do not ship this file. Convert the model again, or leave this recipe out."


def preflight(
    path: str | Path,
    *,
    sha256: str,
    deadline_seconds: float = 120.0,
    memory_bytes: int = MEMORY_BYTES,
    examples: str | Path | None = None,
    signature: str | None = None,
) -> Failure | None:
    """Passes a local file through all three doors: hash, structure, a run on zeros in a child process.

    Args:
        path: Local path of the file.
        sha256: What its bytes must hash to.
        deadline_seconds: Longest time for loading and one run; wall time.
        memory_bytes: Address space that may take, besides four times the size of the file.
        examples: Local path of an `.npz` file with real values [rows, ...] by input name, to be run after the zeros;
            None for none. What the interpreter answers to them with an error is no failure here: others count on how
            many examples it does.
        signature: The signature to run them through; None if the file has only one.

    Returns:
        None if the file can be trusted, else what is wrong: code `altered`, `corrupt`, `not_loadable`,
        `interpreter_crashed`, `interpreter_timeout`, or `not_verified` for a file that loads and whose inputs have
        open sizes, none of the tried ones of which it could be run with.
    """
    data = Path(path).read_bytes()
    if (actual := sha256_of(data)) != sha256:
        return Failure(
            code="altered",
            message=f"The file hashes to {actual}, but {sha256} was recorded: it was changed after it was made.",
            advice="Run the step that wrote it again.",
        )
    try:
        read_model(data)
    except ModelFileError as error:
        return Failure(code="corrupt", message=str(error), advice=_ADVICE)
    request = {
        "path": str(Path(path).resolve()),
        "memory_bytes": memory_bytes + 4 * len(data),
        "examples": None if examples is None else str(Path(examples).resolve()),
        "signature": signature,
    }
    doing = ""
    try:
        for event in child_process.run(f"{__name__}:load_and_run", request, deadline_seconds=deadline_seconds):
            if event["done"]:
                return None
            if event["error"] is None:
                doing = " while the file ran on real examples"
                continue
            if event["open_sizes"]:
                return Failure(code="not_verified", message=event["error"], advice=_OPEN_ADVICE)
            return Failure(code="not_loadable", message=event["error"], advice=_ADVICE)
        return Failure(code="not_loadable", message="The interpreter process ended without an answer.", advice=_ADVICE)
    except child_process.ChildDied as died:
        code = {"crashed": "interpreter_crashed", "timeout": "interpreter_timeout"}.get(died.cause, "not_loadable")
        return Failure(code=code, message=f"The interpreter process ended{doing}: {died}.", advice=_ADVICE)


def load_and_run(request: dict[str, Any], emit: child_process.Emit) -> None:
    """Loads `request["path"]`, runs each signature once on zeros, and then `request["signature"]` on the examples.

    A file without signatures, as old converters made them, runs its main subgraph. Emits `{"error": text or None,
    "open_sizes": whether the error is that no tried size fits, "done": whether nothing is left to do}`, before the
    examples and, if there are any, after them.
    """
    _limit_memory(request["memory_bytes"])
    from tfx_mobile.tflite.runtime import SignatureRunner, interpreter_class

    data = Path(request["path"]).read_bytes()
    error: str | None = None
    open_sizes = False
    try:
        found = signatures(read_model(data))
        for signature in found:
            runner = SignatureRunner(data, signature.key)
            if open_sizes := any(-1 in record.shape[1:] for record in runner.inputs.values()):
                _run_with_some_size(data, signature.key)
            else:
                _run(runner)
        if not found:
            interpreter = interpreter_class(bool(select_tf_ops(data)))(model_content=data, num_threads=1)
            interpreter.allocate_tensors()
            for tensor in interpreter.get_input_details():
                dtype = "string" if np.dtype(tensor["dtype"]).kind in "SO" else np.dtype(tensor["dtype"]).name
                interpreter.set_tensor(tensor["index"], _zeros(tuple(tensor["shape"]), dtype))
            interpreter.invoke()
    except (ModelFileError, RuntimeError, ValueError) as problem:
        error = str(problem)
    more = error is None and request["examples"] is not None
    emit({"error": error, "open_sizes": open_sizes, "done": error is None and not more})
    if more:
        _run_examples(data, request["signature"], request["examples"])
        emit({"error": None, "open_sizes": open_sizes, "done": True})


def _run_examples(data: bytes, key: str | None, path: str) -> None:
    from tfx_mobile.tflite.runtime import SignatureRunner

    # Strings are objects, and so pickled; the parent wrote this file.
    with np.load(path, allow_pickle=True) as arrays:
        examples = dict(arrays)
    runner = SignatureRunner(data, key)
    rows = np.arange(len(next(iter(examples.values()))))
    # Together, as they are run later; one by one if that is answered with an error, so that each was tried.
    for some in (rows, *rows[:, None]):
        whole = np.resize(some, len(some) + -len(some) % (runner.batch_size or 1))
        try:
            runner.run({name: values[whole] for name, values in examples.items()})
        except (RuntimeError, ValueError):
            continue
        if some is rows:
            return


def _run_with_some_size(data: bytes, key: str) -> None:
    from tfx_mobile.tflite.runtime import SignatureRunner

    problem: Exception | None = None
    for size in _OPEN_SIZES:
        # A new interpreter each time: one that failed to resize may stay in a state of its own.
        runner = SignatureRunner(data, key)
        try:
            _run(runner, size)
            return
        except (RuntimeError, ValueError) as error:
            problem = error
    shapes = {name: list(record.shape) for name, record in runner.inputs.items()}
    raise RuntimeError(
        f"The inputs of signature {key!r} have open sizes, {shapes}, and it runs with none of "
        f"{', '.join(map(str, _OPEN_SIZES))} in their place: {problem}"
    )


def _run(runner: SignatureRunner, open_size: int = 1) -> None:
    """Runs a model on zeros, one row if its batch size is open."""
    zeros = {}
    for name, record in runner.inputs.items():
        batch, rest = record.shape[:1], record.shape[1:]
        zeros[name] = _zeros((*batch, *(open_size if size == -1 else size for size in rest)), record.dtype)
    runner.run(zeros)


def _limit_memory(size: int) -> None:
    """A tensor of a made-up size then costs this process its life, not the machine its memory."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (size if hard == resource.RLIM_INFINITY else min(size, hard), hard))


def _zeros(shape: tuple[int, ...], dtype: str) -> Any:
    sizes = [max(size, 1) for size in shape]
    return np.full(sizes, b"", object) if dtype == "string" else np.zeros(sizes, dtype)
