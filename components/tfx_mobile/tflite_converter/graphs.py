"""Surgery on TensorFlow graphs: what depends on what, cutting, replacing nodes, folding, saving.

Knows nothing of models or features. Runs in the child process only.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.python.grappler import tf_optimizer

_PASS_THROUGH = ("Identity", "Snapshot", "StopGradient", "PreventGradient")


def origin(tensor: Any) -> Any:
    """The tensor whose value `tensor` passes on; inlined function calls leave chains of Identity ops."""
    while tensor.op.type in _PASS_THROUGH:
        tensor = tensor.op.inputs[0]
    return tensor


def static_value(tensor: Any) -> Any:
    """The value of a tensor that does not depend on any input, as an array; None if it does."""
    source = origin(tensor)
    value = tf.get_static_value(source)
    # tf.io.parse_example reshapes its default values, which TensorFlow's own function does not see through.
    if value is None and source.op.type == "Reshape":
        value, shape = map(static_value, source.op.inputs)
        value = None if value is None or shape is None else value.reshape(shape)
    return value


def ancestors(graph_def: Any, targets: Iterable[str], stop: Iterable[str]) -> set[str]:
    """Names of the nodes that `targets` are computed from, up to and including the nodes in `stop`."""
    inputs = {node.name: data_inputs(node) for node in graph_def.node}
    found: set[str] = set()
    waiting = list(targets)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            if name not in stop:
                waiting += [source for source, _ in inputs[name]]
    return found


def used_outputs(graph_def: Any, nodes: set[str], producer: str) -> set[int]:
    """Which outputs of the node `producer` the given nodes read."""
    reading = (node for node in graph_def.node if node.name in nodes)
    return {index for node in reading for source, index in data_inputs(node) if source == producer}


def data_inputs(node: Any) -> list[tuple[str, int]]:
    """The tensors that a node reads, as pairs of node name and output index."""
    parts = [text.partition(":") for text in node.input if not text.startswith("^")]
    return [(name, int(index or 0)) for name, _, index in parts]


def subgraph(graph_def: Any, nodes: set[str]) -> Any:
    """The given nodes as a graph of their own; control inputs from other nodes (asserts, no-ops) are dropped."""
    result = tf.compat.v1.GraphDef(versions=graph_def.versions, library=graph_def.library)
    for node in graph_def.node:
        if node.name in nodes:
            copy = result.node.add()
            copy.CopyFrom(node)
            kept = [text for text in node.input if not text.startswith("^") or text[1:] in nodes]
            del copy.input[:]
            copy.input.extend(kept)
    return result


def replace(graph_def: Any, node: Any, tensors: Sequence[Any], build: Callable[..., Any]) -> None:
    """Replaces a node with one output by other ops, in place; its name and control inputs stay.

    Args:
        graph_def: The graph.
        node: The node in it.
        tensors: What the replacement is computed from: tensors of the graph that `graph_def` was taken from.
        build: Makes the replacement's result from placeholders for these tensors.
    """
    controls = [text for text in node.input if text.startswith("^")]
    with tf.Graph().as_default() as graph:
        placeholders = [tf.compat.v1.placeholder(tensor.dtype) for tensor in tensors]
        result = build(*placeholders)
    outer = {inner.op.name: tensor.name for inner, tensor in zip(placeholders, tensors, strict=True)}
    for inner in graph.as_graph_def().node:
        if inner.name not in outer:
            copy = graph_def.node.add()
            copy.CopyFrom(inner)
            copy.name = f"{node.name}/{inner.name}"
            del copy.input[:]
            copy.input.extend(outer.get(text) or f"{node.name}/{text}" for text in inner.input)
            copy.input.extend(controls)
    node.op = "Identity"
    node.attr.clear()
    node.attr["T"].type = result.dtype.as_datatype_enum
    del node.input[:]
    node.input.append(outer.get(result.op.name) or f"{node.name}/{result.op.name}")


def fold_constants(
    graph: Any,
    inputs: Mapping[str, Any],
    outputs: Mapping[str, Any],
    kept: Iterable[Any] = (),
    edit: Callable[[Any], None] = lambda _: None,
) -> Any:
    """Grappler's constant folding, for a graph whose batch size is known.

    What Transform adds for degenerate data (a standard deviation of zero) is constant then and goes away; left in, it
    has ops without integer kernels, and the integer-only recipes would fail on every z-score. Grappler does not fold
    Transform's ZerosLike by itself, although nothing but its static shape matters.

    Args:
        graph: The graph.
        inputs: Its inputs by name.
        outputs: Its outputs by name.
        kept: Further tensors that must stay.
        edit: Called with the graph before it is folded; may change it in place.
    """
    config = tf.compat.v1.ConfigProto()
    config.graph_options.rewrite_options.optimizers.append("constfold")
    with graph.as_default():
        meta_graph = tf.compat.v1.train.export_meta_graph()
    nodes = {node.name: node for node in meta_graph.graph_def.node}
    for op in graph.get_operations():
        if op.type == "ZerosLike" and op.outputs[0].shape.is_fully_defined():
            _make_zeros(nodes[op.name], op.outputs[0])
    edit(meta_graph.graph_def)
    for key, tensors in (("inputs", inputs), ("outputs", outputs)):
        for tensor in tensors.values():
            meta_graph.collection_def[key].node_list.value.append(tensor.name)
    # "train_op" is where Grappler looks for the nodes that must be kept.
    names = [tensor.op.name for tensor in (*inputs.values(), *outputs.values(), *kept)]
    meta_graph.collection_def["train_op"].node_list.value.extend(names)
    return tf_optimizer.OptimizeGraph(config, meta_graph)


def _make_zeros(node: Any, tensor: Any) -> None:
    """Turns a node into a constant of zeros with the dtype and shape of `tensor`."""
    node.op = "Const"
    del node.input[:]
    node.attr.clear()
    node.attr["dtype"].type = tensor.dtype.as_datatype_enum
    node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(0, tensor.dtype, tensor.shape))


def save(
    directory: str | Path,
    key: str,
    graph_def: Any,
    inputs: Mapping[str, Any],
    outputs: Mapping[str, Any],
    resources: Mapping[str, Callable[[], tuple[Any, Any]]],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Saves a graph with one signature; `inputs` and `outputs` name its tensors.

    A TF1 signature: its names may be any string, while a tf.function's must be Python identifiers.

    Args:
        directory: Where to; replaced if it exists.
        key: The signature's key.
        graph_def: The graph.
        inputs: Its inputs by name.
        outputs: Its outputs by name.
        resources: By the name of a placeholder: makes the resource it stands for, and the op that initializes it.

    Returns:
        The inputs and outputs as they were saved; a loop's results may have gained sizes.
    """
    v1 = tf.compat.v1
    shutil.rmtree(directory, ignore_errors=True)
    with tf.Graph().as_default() as graph, v1.Session(graph=graph) as session:
        made = {placeholder: make() for placeholder, make in resources.items()}
        tf.graph_util.import_graph_def(
            subgraph(graph_def, {node.name for node in graph_def.node} - made.keys()),
            input_map={f"{placeholder}:0": handle for placeholder, (handle, _) in made.items()},
            name="",
        )
        saved_inputs, saved_outputs = (
            {name: graph.get_tensor_by_name(tensor.name) for name, tensor in tensors.items()}
            for tensors in (inputs, outputs)
        )
        signature = v1.saved_model.build_signature_def(
            {name: v1.saved_model.build_tensor_info(tensor) for name, tensor in saved_inputs.items()},
            {name: v1.saved_model.build_tensor_info(tensor) for name, tensor in saved_outputs.items()},
            "tensorflow/serving/predict",
        )
        initialize = tf.group(*(initializer for _, initializer in made.values())) if made else None
        builder = v1.saved_model.Builder(str(directory))
        builder.add_meta_graph_and_variables(session, ["serve"], {key: signature}, main_op=initialize)
        builder.save()
    return saved_inputs, saved_outputs
