"""Variables that a signature assigns: state that lives from one call to the next. Runs in the child process only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any


def assigned_variables(function: Any) -> list[str]:
    """Names of the variables that a concrete function assigns, in itself or in a function it calls; sorted.

    Args:
        function: A signature of a loaded SavedModel.
    """
    graph_def = function.graph.as_graph_def()
    library = {f.signature.name: f for f in graph_def.library.function}
    variables = {id(variable.handle): variable.name.partition(":")[0] for variable in function.variables}
    captured = {
        inner.op.name: variables[id(outer)] for outer, inner in function.graph.captures if id(outer) in variables
    }
    return sorted(set(_assigned(graph_def.node, captured, library)))


def _assigned(nodes: Iterable[Any], known: Mapping[str, str], library: Mapping[str, Any]) -> Iterator[str]:
    """Walks nodes of a graph or function; `known` are the variables by the name of the node or argument."""
    for node in nodes:
        inputs = [known.get(text.partition(":")[0]) for text in node.input if not text.startswith("^")]
        if node.op.startswith("Assign") and inputs and inputs[0] is not None:
            yield inputs[0]
        for function in _called(node):
            arguments = [argument.name for argument in library[function].signature.input_arg]
            # A branch does not get the condition, which is the first input.
            passed: Sequence[str | None] = inputs[len(inputs) - len(arguments) :]
            inner = {name: variable for name, variable in zip(arguments, passed, strict=True) if variable is not None}
            if inner:
                yield from _assigned(library[function].node_def, inner, library)


def _called(node: Any) -> list[str]:
    functions = [value.func.name for value in node.attr.values() if value.func.name]
    return functions + [f.name for value in node.attr.values() for f in value.list.func]
