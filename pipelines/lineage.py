"""Reads what a run left in ML Metadata."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml_metadata import metadata_store
from ml_metadata.proto import metadata_store_pb2 as mlmd
from tfx.orchestration.metadata import sqlite_metadata_connection_config


@dataclass(frozen=True)
class NodeRun:
    """The newest execution of one node.

    Attributes:
        cached: Whether it was served from the cache.
        inputs: MLMD artifacts by input key; a key without artifacts is absent.
        outputs: MLMD artifacts by output key.
    """

    cached: bool
    inputs: dict[str, Any]
    outputs: dict[str, Any]


def latest_run(metadata: Path, pipeline: str, node: str) -> NodeRun:
    """The newest execution of `node` in `pipeline`.

    Args:
        metadata: The SQLite file of the ML Metadata store.
        pipeline: Pipeline name.
        node: Node id.
    """
    store = metadata_store.MetadataStore(sqlite_metadata_connection_config(str(metadata)))
    context = store.get_context_by_type_and_name("node", f"{pipeline}.{node}")
    execution = max(store.get_executions_by_context(context.id), key=lambda e: e.id)
    events = store.get_events_by_execution_ids([execution.id])
    artifacts = {a.id: a for a in store.get_artifacts_by_id([event.artifact_id for event in events])}

    def by_key(kind: int) -> dict[str, Any]:
        return {e.path.steps[0].key: artifacts[e.artifact_id] for e in events if e.type == kind}

    return NodeRun(
        cached=execution.last_known_state == mlmd.Execution.CACHED,
        inputs=by_key(mlmd.Event.INPUT),
        outputs=by_key(mlmd.Event.OUTPUT),
    )
