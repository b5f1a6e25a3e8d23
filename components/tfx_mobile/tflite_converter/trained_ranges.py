"""Ranges that quantization-aware training left in a graph as fake-quantization ops: found, removed, extended.

TensorFlow's converter takes them for quantization ranges whatever it was asked for: a QAT model converted as float16
or dynamic range comes out in int8, and as float32 with a QUANTIZE and a DEQUANTIZE around every activation. So recipes
that use the ranges get the graph with them, and all others get the graph without.

Runs in the child process only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tfx_mobile.tflite_converter import graphs

#: What becomes of trained ranges: removed; kept as they are; kept, and extended to inputs behind preprocessing.
Form = Literal["float", "trained", "trained_inputs"]

Range = tuple[float, float]

_WITH_VARS = ("FakeQuantWithMinMaxVars", "FakeQuantWithMinMaxVarsPerChannel")
FAKE_QUANT_OPS = ("FakeQuantWithMinMaxArgs", *_WITH_VARS)

_BITS = 8
#: What int8 recipes need of `bits`.
INT8 = frozenset({_BITS})
# Ops whose output has the values of their first input, or of all their inputs for the second kind.
_SAME_VALUES = {"Identity", "Reshape", "ExpandDims", "Squeeze", "Snapshot", "StopGradient", "PreventGradient"}
_JOINS = {"ConcatV2", "Pack"}
_READS_NO_VALUES = {"Shape", "Rank", "Size"}
_BINARY = {"Mul", "RealDiv", "Add", "AddV2", "Sub"}
_SELECTS = {"Select", "SelectV2"}


def bits(graph_def: Any) -> frozenset[int]:
    """Numbers of bits that activations were trained for; empty if the graph was not trained quantization-aware.

    Fake quantization of weights alone does not count: the activations' ranges would have to be calibrated all the same.
    """
    nodes = _by_name(graph_def)
    return frozenset(
        node.attr["num_bits"].i or _BITS
        for node in graph_def.node
        if node.op in FAKE_QUANT_OPS and _fixed_range(node, nodes) is not None and not _constant(node.input[0], nodes)
    )


def in_functions(function: Any) -> bool:
    """Whether the graph of a concrete function, or a function it calls, fake-quantizes anything."""
    graph_def = function.graph.as_graph_def()
    bodies = [graph_def.node, *(body.node_def for body in graph_def.library.function)]
    return any(node.op in FAKE_QUANT_OPS for nodes in bodies for node in nodes)


def remove(graph_def: Any) -> Any:
    """The graph as it computes in float, with nothing fake-quantized."""
    if not any(node.op in FAKE_QUANT_OPS for node in graph_def.node):
        return graph_def
    result = tf.compat.v1.GraphDef()
    result.CopyFrom(graph_def)
    for node in result.node:
        if node.op in FAKE_QUANT_OPS:
            del node.input[1:]
            node.op = "Identity"
            node.attr.clear()
            node.attr["T"].type = tf.float32.as_datatype_enum
    return result


def hold(graph_def: Any) -> dict[str, npt.NDArray[Any]]:
    """Hides the ranges of weights from constant folding, in place; `release` brings them back.

    Folded, a fake-quantized weight is a plain constant. The converter would then derive its scale from the largest
    value left, which need not lie at the end of the trained range, and round the weights a second time.

    Returns:
        The hidden values by node name.
    """
    nodes = _by_name(graph_def)
    held = {}
    for node in list(graph_def.node):
        if node.op in _WITH_VARS and _constant(node.input[0], nodes):
            low = _value(_node(node.input[1]), nodes)
            if low is not None:
                hidden = graph_def.node.add(name=f"{node.name}/held_min", op="Placeholder")
                hidden.attr["dtype"].type = tf.float32.as_datatype_enum
                hidden.attr["shape"].shape.CopyFrom(tf.TensorShape(low.shape).as_proto())
                node.input[1] = hidden.name
                held[hidden.name] = low
    return held


def release(graph_def: Any, held: dict[str, npt.NDArray[Any]]) -> Any:
    """The graph with what `hold` hid, after folding."""
    for node in graph_def.node:
        if node.name in held:
            node.op = "Const"
            node.attr.clear()
            node.attr["dtype"].type = tf.float32.as_datatype_enum
            node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(held[node.name], tf.float32))
    return graph_def


def extend_to_inputs(graph_def: Any, inputs: Mapping[str, str]) -> Any:
    """Gives ranges to inputs that preprocessing separates from the first trained range.

    Training starts behind the preprocessing, so an input has no range of its own, and cannot be an integer. Where
    nothing but affine arithmetic with constants lies between (Transform's scaling is that), the input's range follows
    from the trained one: what `x / 16` takes to [0, 1] is [0, 16].

    Args:
        graph_def: A graph with folded constants.
        inputs: Names of placeholders, by input name.

    Returns:
        The graph with fake quantization on these inputs and on what is computed between.

    Raises:
        NoTrainedRangeError: Something else lies between.
    """
    nodes = _by_name(graph_def)
    readers = _live_readers(graph_def, nodes)
    ranges: dict[str, Range] = {}
    blocked: dict[str, str] = {}
    for name, placeholder in inputs.items():
        try:
            _range_of(placeholder, nodes, readers, ranges)
        except _BlockedError as error:
            blocked[name] = str(error)
    if blocked:
        raise NoTrainedRangeError(blocked)
    result = tf.compat.v1.GraphDef(versions=graph_def.versions, library=graph_def.library)
    fakes = {}
    for name, (low, high) in ranges.items():
        # What only passes on to a trained range needs no range of its own.
        if all(reader.op in (*FAKE_QUANT_OPS, "Identity") for reader in readers.get(name, ())):
            continue
        fake = tf.compat.v1.NodeDef(name=f"{name}/trained_range", op="FakeQuantWithMinMaxArgs", input=[name])
        fake.attr["min"].f, fake.attr["max"].f, fake.attr["num_bits"].i = low, high, _BITS
        fakes[name] = fake
    for node in graph_def.node:
        copy = result.node.add()
        copy.CopyFrom(node)
        if node.op not in FAKE_QUANT_OPS and node.op not in _READS_NO_VALUES:
            for index, text in enumerate(copy.input):
                if not text.startswith("^") and _node(text) in fakes:
                    copy.input[index] = fakes[_node(text)].name
    result.node.extend(fakes.values())
    return result


class NoTrainedRangeError(Exception):
    """Inputs have no trained range, and none follows from those behind them.

    Attributes:
        inputs: The op that is in the way, by input name.
    """

    def __init__(self, inputs: dict[str, str]) -> None:
        super().__init__(inputs)
        self.inputs = inputs


class _BlockedError(Exception):
    """An op lies in the way; its name and type are the message."""


def _range_of(name: str, nodes: dict[str, Any], readers: dict[str, list[Any]], found: dict[str, Range]) -> Range:
    """The range of the first output of a node, from what reads it; notes it and all that lie between in `found`."""
    if name in found:
        return found[name]
    bounds: list[float] = [0.0]  # an integer scale must be able to say zero
    for reader in readers.get(name, ()):
        if reader.op in _READS_NO_VALUES:
            continue
        bounds += _before(reader, name, nodes, readers, found)
    if len(bounds) == 1:
        raise _BlockedError(f"{name} (read by nothing that has a range)")
    found[name] = (min(bounds), max(bounds))
    return found[name]


def _before(
    node: Any, source: str, nodes: dict[str, Any], readers: dict[str, list[Any]], found: dict[str, Range]
) -> Range:
    """The range of `source`, an input of `node`, that takes the node's output over its whole range."""
    if node.op in FAKE_QUANT_OPS:
        fixed = _fixed_range(node, nodes)
        if fixed is None or _node(node.input[0]) != source:
            raise _BlockedError(f"{node.name} ({node.op})")
        return float(np.min(fixed[0])), float(np.max(fixed[1]))
    sources = _sources(node)
    if (node.op in _SAME_VALUES and sources[0] == source) or node.op in _JOINS:
        return _range_of(node.name, nodes, readers, found)
    if node.op in _SELECTS and sources[0] != source and _value(sources[0], nodes) is not None:
        return _range_of(node.name, nodes, readers, found)
    if node.op in _BINARY and sources.count(source) == 1:
        first = sources[0] == source
        constant = _value(sources[1 if first else 0], nodes)
        if constant is not None and (first or node.op != "RealDiv"):
            outcome = np.array(_range_of(node.name, nodes, readers, found), np.float64)[:, None]
            ends = _invert(node.op, first, outcome, np.ravel(constant).astype(np.float64))
            if np.isfinite(ends).all():
                return float(ends.min()), float(ends.max())
    raise _BlockedError(f"{node.name} ({node.op})")


def _live_readers(graph_def: Any, nodes: dict[str, Any]) -> dict[str, list[Any]]:
    """The nodes that read each node, without those that only a choice leads to that is made already, and otherwise.

    Transform guards its scalings against constant data with such choices.
    """
    readers: dict[str, list[Any]] = {}
    read = {source for node in graph_def.node for source in _sources(node)}
    waiting, seen = [node for node in graph_def.node if node.name not in read], set()
    while waiting:
        node = waiting.pop()
        if node.name in seen:
            continue
        seen.add(node.name)
        sources = _sources(node)
        if node.op in _SELECTS:
            condition = _value(sources[0], nodes)
            if condition is not None and condition.size and condition.min() == condition.max():
                sources = [sources[1 if condition.min() else 2]]
        for source in dict.fromkeys(sources):
            readers.setdefault(source, []).append(node)
            waiting.append(nodes[source])
    return readers


def _invert(op: str, first: bool, outcome: npt.NDArray[Any], constant: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The operand of a binary op that gives `outcome` with `constant`; `first` if the operand stands first."""
    with np.errstate(divide="ignore", invalid="ignore"):
        inverses = {
            "Mul": lambda: outcome / constant,
            "RealDiv": lambda: outcome * constant,
            "Sub": lambda: outcome + constant if first else constant - outcome,
        }
        operand: npt.NDArray[Any] = inverses.get(op, lambda: outcome - constant)()
    return operand


def _fixed_range(node: Any, nodes: dict[str, Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]] | None:
    if node.op == "FakeQuantWithMinMaxArgs":
        return np.array(node.attr["min"].f), np.array(node.attr["max"].f)
    low, high = (_value(_node(text), nodes) for text in node.input[1:3])
    return None if low is None or high is None else (low, high)


def _value(name: str, nodes: dict[str, Any]) -> npt.NDArray[Any] | None:
    """The value of a constant, also behind identities; None for what is not constant."""
    node = nodes.get(name)
    while node is not None and node.op == "Identity":
        node = nodes.get(_node(node.input[0]))
    if node is None or node.op != "Const":
        return None
    value: npt.NDArray[Any] = tf.make_ndarray(node.attr["value"].tensor)
    return value


def _constant(text: str, nodes: dict[str, Any]) -> bool:
    """Whether a tensor depends on no input of the graph."""
    waiting, seen = [_node(text)], set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        node = nodes.get(name)
        if node is None or node.op.startswith("Placeholder"):
            return False
        waiting += _sources(node)
    return True


def _by_name(graph_def: Any) -> dict[str, Any]:
    return {node.name: node for node in graph_def.node}


def _sources(node: Any) -> list[str]:
    """Names of the nodes that a node reads."""
    return [name for name, _ in graphs.data_inputs(node)]


def _node(text: str) -> str:
    return text.partition(":")[0]
