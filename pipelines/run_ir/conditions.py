"""The expressions that decide whether a task runs, in the part of CEL that TFX's compiler writes."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from typing import Any

_TOKEN = re.compile(
    r"inputs\.artifacts\['(?P<key>[^']+)'\]\.artifacts\[(?P<index>\d+)\](?:\.metadata\['(?P<name>[^']+)'\]|\.uri)"
    r"|(?P<text>'[^']*')|(?P<operator>&&|\|\||!(?!=))"
)
_PYTHON = {"&&": " and ", "||": " or ", "!": " not "}


def holds(expression: str, look_up: Callable[[str, int, str | None], Any]) -> bool:
    """Whether a condition is true.

    Args:
        expression: CEL, such as `(inputs.artifacts['b'].artifacts[0].metadata['blessed'] == 1.0)`.
        look_up: Gives the value of a property of the n-th artifact of an input, or its uri for None. Raises if there is
            none: what Kubeflow makes of a missing property is not known, so no pipeline may depend on it.

    Raises:
        ValueError: The expression holds something that the compiler does not write, or compares a text with a number.
    """

    def in_python(token: re.Match[str]) -> str:
        if token["key"] is not None:
            return repr(look_up(token["key"], int(token["index"]), token["name"]))
        return repr(token["text"][1:-1]) if token["text"] is not None else _PYTHON[token["operator"]]

    try:
        return bool(_value(ast.parse(_TOKEN.sub(in_python, expression).strip(), mode="eval").body))
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
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _value(node.left) + _value(node.right)
    if isinstance(node, ast.BoolOp):
        values = [_value(part) for part in node.values]
        return all(values) if isinstance(node.op, ast.And) else any(values)
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in _COMPARISONS:
        left, right = _value(node.left), _value(node.comparators[0])
        if isinstance(left, str) != isinstance(right, str):
            raise _UnknownError(f"it compares {left!r} with {right!r}")
        return _COMPARISONS[type(node.ops[0])](left, right)
    raise _UnknownError(f"{ast.dump(node)[:80]} is none of the operators it may hold")
