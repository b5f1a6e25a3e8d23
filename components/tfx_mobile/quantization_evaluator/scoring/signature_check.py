"""Whether a file takes and returns what the float model does, read from the file without running it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tfx_mobile.records import SignatureRecord, SourceModelRecord, TensorRecord


def choose(signatures: Sequence[SignatureRecord], wanted: str) -> SignatureRecord | None:
    """The signature to run: the file's only one, else the one of that key; None if there is no such one."""
    if len(signatures) == 1:
        return signatures[0]
    return next((signature for signature in signatures if signature.key == wanted), None)


def problem(signatures: Sequence[SignatureRecord], source: SourceModelRecord) -> str | None:
    """What keeps a file from standing in for the float model it was converted from, in words; None if nothing does."""
    signature = choose(signatures, source.signature)
    if signature is None:
        keys = ", ".join(s.key for s in signatures) or "none"
        return f"it has no signature {source.signature!r}; its signatures: {keys}"
    return mismatch("input", signature.inputs, source.inputs) or mismatch("output", signature.outputs, source.outputs)


def mismatch(kind: str, found: Iterable[TensorRecord], expected: Iterable[TensorRecord]) -> str | None:
    """What keeps one side of a signature from standing in for another, in words; None if nothing does.

    Quantized tensors count as the float32 they stand for. The first dimension is the batch's and open sizes fit any.

    Args:
        kind: `input` or `output`, for the message.
        found: The file's tensors.
        expected: The float model's.
    """
    by_name, wanted = {t.name: t for t in found}, {t.name: t for t in expected}
    if by_name.keys() != wanted.keys():
        return f"its {kind}s are {_names(by_name)}, the float model's {_names(wanted)}"
    for name, tensor in sorted(by_name.items()):
        if real_dtype(tensor) != real_dtype(wanted[name]):
            return f"{kind} {name!r} is {real_dtype(tensor)}, the float model's {real_dtype(wanted[name])}"
        if not _fits(tensor.shape, wanted[name].shape):
            return f"{kind} {name!r} has shape {list(tensor.shape)}, the float model's {list(wanted[name].shape)}"
    return None


def real_dtype(tensor: TensorRecord) -> str:
    """The type of the values a tensor stands for."""
    return tensor.dtype if tensor.scale is None else "float32"


def _fits(one: Sequence[int], other: Sequence[int]) -> bool:
    if not one or not other:
        return True  # a tensor of unknown rank is recorded without dimensions
    return len(one) == len(other) and all(a == b or -1 in (a, b) for a, b in zip(one[1:], other[1:], strict=True))


def _names(tensors: Iterable[str]) -> str:
    return ", ".join(sorted(tensors)) or "none"
