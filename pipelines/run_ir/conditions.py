"""The expressions that decide whether a task runs, in the part of CEL that TFX's compiler writes."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from typing import Any

_REFERENCE = re.compile(
    r"inputs\.artifacts\['(?P<key>[^']+)'\]\.artifacts\[(?P<index>\d+)\](?:\.metadata\['(?P<name>[^']+)'\]|(?P<uri>\.uri))"
)


def holds(expression: str, look_up: Callable[[str, int, str | None], Any]) -> bool:
    """Whether a condition is true.

    Args:
        expression: CEL, such as `(inputs.artifacts['b'].artifacts[0].metadata['blessed'] == 1.0)`.
        look_up: Gives the value of a property of the n-th artifact of an input, or its uri for None. Raises if there is
            none: what Kubeflow makes of a missing property is not known, so no pipeline may depend on it.

    Raises:
        ValueError: The expression holds something that the compiler does not write.
    """
    text = _REFERENCE.sub(lambda m: repr(look_up(m["key"], int(m["index"]), m["name"])), expression)
    text = text.replace("&&", " and ").replace("||", " or ")
    text = re.sub(r"!(?!=)", " not ", text)
    try:
        return bool(_value(ast.parse(text.strip(), mode="eval").body))
    except (SyntaxError, _UnknownError) as error:
        raise ValueError(f"The condition {expression!r} cannot be evaluated: {error}.") from None


class _UnknownError(Exception):
    pass


_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: lambda a, b: a == b,
    ast.NotEq: lambda a, b: a != b,
    ast.Lt: lambda a, b: a < b,
    ast.LtE: lambda a, b: a <= b,
    ast.Gt: lambda a, b: a > b,
    ast.GtE: lambda a, b: a >= b,
}


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return not _value(node.operand)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand)
    if isinstance(node, ast.BoolOp):
        values = [_value(part) for part in node.values]
        return all(values) if isinstance(node.op, ast.And) else any(values)
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in _COMPARISONS:
        return _COMPARISONS[type(node.ops[0])](_value(node.left), _value(node.comparators[0]))
    raise _UnknownError(f"{ast.dump(node)[:80]} is none of the operators it may hold")
