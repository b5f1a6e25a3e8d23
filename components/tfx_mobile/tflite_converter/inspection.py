"""The rules a converted file must meet: TensorFlow's converter may ignore what it was asked for without a word."""

from __future__ import annotations

from collections.abc import Iterable

from tfx_mobile.recipes import ConversionRecipe
from tfx_mobile.records import Failure, ModelFileRecord, OpRecord, SignatureRecord, TensorRecord
from tfx_mobile.tflite_converter import failures

# Ops that move integers about in any model, also in a float one: they are no sign of integer arithmetic.
_NOT_ARITHMETIC = {
    *("CALL_ONCE", "CAST", "CONCATENATION", "DEQUANTIZE", "EXPAND_DIMS", "FILL", "GATHER", "PACK", "QUANTIZE", "RANGE"),
    *("RESHAPE", "SHAPE", "SLICE", "SPLIT", "SQUEEZE", "STRIDED_SLICE", "TILE", "TRANSPOSE", "UNPACK"),
}


def inspect(
    recipe: ConversionRecipe, file: ModelFileRecord, expected: SignatureRecord, *, allow_select_tf_ops: bool = False
) -> Failure | None:
    """Checks a file against its recipe.

    Args:
        recipe: What was asked for.
        file: What the converter made.
        expected: The signature that was converted: names, float dtypes, shapes.
        allow_select_tf_ops: Whether it may hold TensorFlow (Flex) ops.

    Returns:
        None if the file is as asked, else what is wrong.
    """
    if file.custom_ops:
        return failures.custom_ops(file.custom_ops)
    if file.select_tf_ops and not allow_select_tf_ops:
        return failures.unsupported_ops([op.removeprefix("Flex") for op in file.select_tf_ops], {})
    floats = [op for op in file.ops if op.float_count]
    if recipe.quantization == "integer_only" and (select := [op for op in floats if op.name in file.select_tf_ops]):
        # Before dtypes are compared: such an op leaves the inputs and outputs it is next to in float.
        return failures.inspection(
            f"Integer-only was asked for, but these Select TensorFlow ops compute in float: {_names(select)}."
        )
    keys = [signature.key for signature in file.signatures]
    if keys != [expected.key]:
        return failures.inspection(f"The file has signatures {keys}; expected is {expected.key!r} alone.")
    (signature,) = file.signatures
    for kind, wanted, made in (
        ("input", expected.inputs, signature.inputs),
        ("output", expected.outputs, signature.outputs),
    ):
        if problem := _compare(recipe, kind, wanted, made):
            return failures.inspection(problem)
    if recipe.quantization == "integer_only" and floats:
        return failures.inspection(f"Integer-only was asked for, but these ops compute in float: {_names(floats)}.")
    if recipe.computes_in_integers and not any(_is_integer_arithmetic(op) for op in file.ops):
        return failures.inspection(f"Nothing in the file computes in integers; its ops are {_names(file.ops)}.")
    if recipe.quantization == "int4" and not file.weight_bytes.get("int4"):
        weights = ", ".join(f"{dtype} ({size} bytes)" for dtype, size in file.weight_bytes.items()) or "none"
        return failures.inspection(
            f"No weight in the file is int4; its constants are {weights}, its ops {_names(file.ops)}. Only the weights "
            "of CONV_2D, FULLY_CONNECTED and the like can be int4."
        )
    return None


def _compare(
    recipe: ConversionRecipe, kind: str, wanted: tuple[TensorRecord, ...], made: tuple[TensorRecord, ...]
) -> str | None:
    names, made_names = [t.name for t in wanted], [t.name for t in made]
    if names != made_names:
        return f"The file's {kind}s are {made_names}; the signature's are {names}."
    for want, have in zip(wanted, made, strict=True):
        # Quantization changes float tensors only: categories, counts and masks stay what they are.
        dtype = recipe.io_dtype if want.dtype == "float32" else want.dtype
        if have.dtype != dtype:
            return f"{kind.capitalize()} {want.name!r} is {have.dtype} instead of {dtype}."
        if kind == "input" and have.shape != want.shape:
            return f"Input {want.name!r} has shape {list(have.shape)} instead of {list(want.shape)}."
    return None


def _is_integer_arithmetic(op: OpRecord) -> bool:
    return op.name not in _NOT_ARITHMETIC and op.float_count < op.count


def _names(ops: Iterable[OpRecord]) -> str:
    return ", ".join(sorted({op.name for op in ops}))
