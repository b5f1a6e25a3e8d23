"""The layers of a model that quantization knows by name, and which of them may stay in float.

A layer is an op of the float32 file, named after its first output. TensorFlow's quantizer knows ops by that name, and
it comes from the SavedModel's own graph, so that it is the same in every process.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from ai_edge_litert import schema_py_generated as schema

from tfx_mobile.tflite.flatbuffer import op_name

# They move or select values and compute none: their input and output have one scale. Nothing is gained by leaving one
# in float by itself; between two float layers it must be in float, or the values pass through int8 on their way.
_MOVES_VALUES = frozenset({
    "RESHAPE", "SQUEEZE", "EXPAND_DIMS", "TRANSPOSE", "MAX_POOL_2D", "SLICE", "STRIDED_SLICE", "SPLIT", "SPLIT_V",
    "PACK", "UNPACK", "GATHER", "GATHER_ND", "PAD", "PADV2", "MIRROR_PAD", "CONCATENATION", "TILE", "BROADCAST_TO",
    "SPACE_TO_DEPTH", "DEPTH_TO_SPACE", "SPACE_TO_BATCH_ND", "BATCH_TO_SPACE_ND", "REVERSE_V2",
    "RESIZE_NEAREST_NEIGHBOR",
})  # fmt: skip


@dataclass(frozen=True)
class Layer:
    """One op that computes on float32.

    Attributes:
        name: Name of its first output.
        op: Operator name.
        moves_values: Whether it only moves or selects values.
        weight_bytes: Size of its constants in float32.
        inputs: Names of the layers whose outputs it reads.
    """

    name: str
    op: str
    moves_values: bool
    weight_bytes: int
    inputs: tuple[str, ...]


def layers(float_model: bytes) -> tuple[Layer, ...]:
    """The layers of a float32 file's main graph, each after those that it reads.

    Args:
        float_model: Bytes of the float32 file.
    """
    model = schema.ModelT.InitFromPackedBuf(float_model, 0)
    graph = model.subgraphs[0]
    made_by: dict[int, str] = {}
    found: dict[str, Layer] = {}
    for op in graph.operators or []:
        outputs = [int(index) for index in op.outputs]
        if not outputs or graph.tensors[outputs[0]].type != schema.TensorType.FLOAT32:
            continue
        read = [int(index) for index in op.inputs if index >= 0]
        constants = [model.buffers[graph.tensors[i].buffer].data for i in read if i not in made_by]
        kind = op_name(model, op)
        name = graph.tensors[outputs[0]].name.decode(errors="replace")
        found[name] = Layer(
            name=name,
            op=kind,
            moves_values=kind in _MOVES_VALUES,
            weight_bytes=sum(len(data) for data in constants if data is not None),
            inputs=tuple(dict.fromkeys(made_by[i] for i in read if i in made_by)),
        )
        made_by.update(dict.fromkeys(outputs, name))
    return tuple(found.values())


def bridged(all_layers: Iterable[Layer], chosen: Collection[str]) -> tuple[str, ...]:
    """`chosen` and whatever only moves values from one chosen layer to another; sorted.

    Args:
        all_layers: As `layers` gives them.
        chosen: Names of layers.
    """
    ordered = list(all_layers)
    movers = {layer.name for layer in ordered if layer.moves_values}
    behind: set[str] = set()  # movers that a chosen layer's output reaches through movers alone
    for layer in ordered:
        if layer.name in movers and any(name in chosen or name in behind for name in layer.inputs):
            behind.add(layer.name)
    before: set[str] = set()  # movers whose output reaches a chosen layer through movers alone
    for layer in reversed(ordered):
        if layer.name in chosen or layer.name in before:
            before.update(name for name in layer.inputs if name in movers)
    return tuple(sorted({*chosen, *(behind & before)}))


def unknown(float_layers: Iterable[str], all_layers: Iterable[Any]) -> list[str]:
    """Those of `float_layers` that are no layers of the model; sorted."""
    return sorted(set(float_layers) - {layer.name for layer in all_layers})
