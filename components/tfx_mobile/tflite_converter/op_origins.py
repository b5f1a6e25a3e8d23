"""Where in a model ops come from: layers and functions, read from the names of graph nodes.

Runs in the child process only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from tensorflow.core.protobuf import saved_model_pb2

# Parts of a node's name that say how TensorFlow built the graph, not what the user did.
_PLUMBING = re.compile(r"(?:model|Func|input|(?:Stateful|Stateless)?PartitionedCall)(?:_\d+)?")


def find(saved_model: str | Path, ops: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The scopes of all ops of some types, such as `functional/category_encoding/bincount`, sorted.

    Args:
        saved_model: Folder of a SavedModel.
        ops: Op types.
    """
    scopes: dict[str, set[str]] = {op: set() for op in ops}
    document = saved_model_pb2.SavedModel.FromString((Path(saved_model) / "saved_model.pb").read_bytes())
    for meta_graph in document.meta_graphs:
        functions = meta_graph.graph_def.library.function
        for nodes in (meta_graph.graph_def.node, *(function.node_def for function in functions)):
            for node in nodes:
                if node.op in scopes:
                    scopes[node.op].add(scope(node.name, node.op))
    return {op: tuple(sorted(found)) for op, found in scopes.items()}


def scope(name: str, op: str) -> str:
    """What a node's name says of where the user made it; the name itself if it says nothing."""
    parts = [part for part in name.split("/") if not _PLUMBING.fullmatch(part)]
    while parts and re.fullmatch(rf"{op}(?:_\d+)?", parts[-1]):
        parts.pop()
    return "/".join(parts) or name
