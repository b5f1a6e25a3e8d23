"""Loops of recurrent layers: their shapes, once the batch size is fixed.

A recurrent layer was traced with an open batch size, so its loop's results, and the lists from which it takes and in
which it puts one element per step, stay open for good: freezing does not trace anew. TensorFlow Lite makes tensors of
such lists and needs their size. Runs in the child process only.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from tensorflow.python.framework.function_def_to_graph import function_def_to_graph

_LOOPS = ("While", "StatelessWhile")


def names(graph: Any) -> list[str]:
    """Names of the loops in a graph and in the functions it calls; a layer's loop is named as the layer."""
    graph_def = graph.as_graph_def()
    nodes = [*graph_def.node, *(node for function in graph_def.library.function for node in function.node_def)]
    return sorted({node.name.removesuffix("/while") for node in nodes if node.op in _LOOPS})


def fix_shapes(graph_def: Any) -> None:
    """Writes into a graph what follows for its loops from the shapes of their inputs.

    What stays open (another open size than the batch, results whose shape changes from round to round) is left as it
    is.
    """
    done: set[str] = set()
    while any(node.op in _LOOPS and node.name not in done for node in graph_def.node):
        # Imported anew for each loop, since what a loop gets may be what the one before it gives.
        with tf.Graph().as_default() as graph:
            tf.graph_util.import_graph_def(graph_def, name="")
        # Operations are in the order of computation.
        loop = next(op for op in graph.get_operations() if op.type in _LOOPS and op.name not in done)
        done.add(loop.name)
        _fix_loop(loop, graph_def)


def _fix_loop(loop: Any, graph_def: Any) -> None:
    name = loop.get_attr("body").name
    if sum(_calls(node, name) for node in graph_def.node) > 1:
        return
    (function,) = (function for function in graph_def.library.function if function.signature.name == name)
    nodes = {node.name: node for node in graph_def.node}
    elements = _elements_taken(loop)
    _fix_function(function, elements)
    body = _body(loop, function)
    elements |= _elements_put(loop, body)
    _fix_neighbours(graph_def, nodes, loop, elements)
    shapes = nodes[loop.name].attr["output_shapes"].list.shape
    for shape, before, after in zip(shapes, loop.inputs, body.outputs, strict=False):
        if before.shape.is_fully_defined() and before.shape == after.shape:
            shape.CopyFrom(before.shape.as_proto())


def _calls(node: Any, function: str) -> bool:
    return any(value.func.name == function for value in node.attr.values())


def _elements_taken(loop: Any) -> dict[int, list[int]]:
    """Shape of an element by loop variable, for lists that were made of a tensor before the loop."""
    sources = {index: _source(tensor).op for index, tensor in enumerate(loop.inputs)}
    tensors = {index: op.inputs[0] for index, op in sources.items() if op.type == "TensorListFromTensor"}
    return {i: t.shape.as_list()[1:] for i, t in tensors.items() if t.shape.rank and t.shape[1:].is_fully_defined()}


def _elements_put(loop: Any, body: Any) -> dict[int, list[int]]:
    """Shape of an element by loop variable, for lists that are filled by the loop."""
    variables = {tensor.name: index for index, tensor in enumerate(body.inputs)}
    puts = [op for op in body.get_operations() if op.type == "TensorListSetItem"]
    found = {variables.get(_source(op.inputs[0]).name): op.inputs[2].shape for op in puts}
    return {
        index: shape.as_list()
        for index, shape in found.items()
        if index is not None and shape.is_fully_defined() and _source(loop.inputs[index]).op.type == "TensorListReserve"
    }


def _source(tensor: Any) -> Any:
    while tensor.op.type == "Identity":
        tensor = tensor.op.inputs[0]
    return tensor


def _fix_function(function: Any, elements: dict[int, list[int]]) -> None:
    """Tells the body of a loop what it takes from lists, and lets it forget the shapes it was traced with."""
    function.arg_attr.clear()
    variables = {argument.name: index for index, argument in enumerate(function.signature.input_arg)}
    identities = {f"{n.name}:output:0": n.input[0] for n in function.node_def if n.op == "Identity"}
    for node in list(function.node_def):
        node.attr.pop("_output_shapes", None)
        if node.op == "TensorListGetItem":
            name = node.input[0]
            while name in identities:
                name = identities[name]
            if (element := elements.get(variables.get(name, -1))) is not None:
                node.input[2] = _constant(function.node_def, f"{node.name}/element_shape_fixed", element) + ":output:0"


def _body(loop: Any, function: Any) -> Any:
    """The loop's body as a graph whose inputs have the shapes of the loop's inputs."""
    shapes = [None if tensor.dtype in (tf.variant, tf.resource) else tensor.shape for tensor in loop.inputs]
    with loop.graph.as_default():
        return function_def_to_graph(function, input_shapes=shapes)


def _fix_neighbours(graph_def: Any, nodes: dict[str, Any], loop: Any, elements: dict[int, list[int]]) -> None:
    """Tells the ops that make lists for a loop and read them after it the size of the elements."""
    outputs = {tensor.name: index for index, tensor in enumerate(loop.outputs)}
    made = [(_source(tensor).op, index) for index, tensor in enumerate(loop.inputs)]
    stacks = [op for op in loop.graph.get_operations() if op.type == "TensorListStack"]
    read = [(op, outputs.get(_source(op.inputs[0]).name, -1)) for op in stacks]
    for op_type, position, ops in (("TensorListReserve", 0, made), ("TensorListStack", 1, read)):
        for op, index in ops:
            if op.type == op_type and index in elements:
                name = f"{op.name}/element_shape_fixed"
                nodes[op.name].input[position] = _constant(graph_def.node, name, elements[index])


def _constant(nodes: Any, name: str, shape: list[int]) -> str:
    """Adds a constant to nodes of a graph or function and returns its name."""
    node = nodes.add(name=name, op="Const")
    node.attr["dtype"].type = tf.int32.as_datatype_enum
    node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(shape, tf.int32))
    return name
