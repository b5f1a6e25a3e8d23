"""From the bytes upstream, through ML Metadata."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from google.protobuf import json_format
from ml_metadata.proto import metadata_store_pb2 as mlmd

from tfx_mobile.records import LineageGraph, TracedArtifact, TracedEvent, TracedExecution, canonical_json
from tfx_mobile.trace.metadata import Metadata, explaining

#: Artifact types that are the bytes themselves. Names as in `tfx_mobile.artifacts`, which needs TFX.
PUSHED_MODEL = "PushedModel"
TFLITE_MODEL = "tfx_mobile.TFLiteModel"

_MADE = frozenset({mlmd.Event.OUTPUT, mlmd.Event.DECLARED_OUTPUT})
_READ = frozenset({mlmd.Event.INPUT, mlmd.Event.DECLARED_INPUT})
#: How many ids go into one request.
_BATCH = 100
_PIPELINE_CONTEXTS = frozenset({"pipeline", "system.Pipeline"})
_RUN_CONTEXTS = frozenset({"pipeline_run", "system.PipelineRun"})
_NODE_CONTEXT = "node"


def trace_metadata(metadata: Metadata, target: str) -> LineageGraph | None:
    """Everything that led to some bytes; None if ML Metadata does not know them.

    Args:
        metadata: Where to look.
        target: SHA-256 of the bytes, or the id of their release.

    Raises:
        TraceError: ML Metadata cannot be read.
    """
    with explaining(metadata.address):
        pushed = _find(metadata.store, PUSHED_MODEL, target)
        events = _upstream(metadata.store, pushed)
        known = {event.artifact for event in events} | set(pushed)
        unpushed = [found for found in _find(metadata.store, TFLITE_MODEL, target) if found not in known]
        events |= _upstream(metadata.store, unpushed)
        starts = sorted(pushed, reverse=True) + sorted(unpushed, reverse=True)
        if not starts:
            return None
        return LineageGraph(
            metadata=metadata.address,
            starts=tuple(starts),
            artifacts=tuple(_artifacts(metadata.store, {event.artifact for event in events} | set(starts))),
            executions=tuple(_executions(metadata.store, {event.execution for event in events})),
            events=tuple(sorted(events, key=lambda e: (e.execution, e.direction, e.keys, e.artifact))),
        )


def _find(store: Any, type_name: str, target: str) -> list[int]:
    """Ids of the artifacts of a type that are the bytes."""
    return [artifact.id for artifact in store.get_artifacts_by_type(type_name) if _is(artifact, target)]


def _is(artifact: Any, target: str) -> bool:
    properties = artifact.custom_properties
    if target in (properties["sha256"].string_value, properties["release_id"].string_value):
        return True
    # One push at several destinations may be several releases: `release_id` is that at the first.
    try:
        receipts = json.loads(properties["destinations"].string_value or "[]")
    except ValueError:
        return False
    return isinstance(receipts, list) and any(isinstance(r, dict) and r.get("release_id") == target for r in receipts)


def _upstream(store: Any, starts: Sequence[int]) -> set[TracedEvent]:
    """Every edge above some artifacts, and the edges to what was made beside them, such as an evaluation."""
    seen, executions, queue = set(starts), set[int](), list(starts)
    events: set[TracedEvent] = set()
    while queue:
        makers = _makers(store, queue) - executions
        executions |= makers
        queue = []
        for ids in _batches(sorted(makers)):
            for event in store.get_events_by_execution_ids(ids):
                if event.type not in _READ | _MADE:
                    continue
                is_input = event.type in _READ
                events.add(
                    TracedEvent(
                        execution=event.execution_id,
                        artifact=event.artifact_id,
                        direction="input" if is_input else "output",
                        # One event has several if the artifact was read under several.
                        keys=tuple(step.key for step in event.path.steps if step.HasField("key")),
                    )
                )
                if is_input and event.artifact_id not in seen:
                    seen.add(event.artifact_id)
                    queue.append(event.artifact_id)
    return events


def _makers(store: Any, artifacts: Sequence[int]) -> set[int]:
    """The executions that made some artifacts.

    An artifact is made once. Executions that name it as their output later took it from the cache or imported it
    again, and a resolver that hands it on records an internal output: following those would lead into other runs.
    """
    first: dict[int, int] = {}
    for ids in _batches(artifacts):
        for event in store.get_events_by_artifact_ids(ids):
            if event.type in _MADE:
                known = first.setdefault(event.artifact_id, event.execution_id)
                first[event.artifact_id] = min(known, event.execution_id)
    return set(first.values())


def _artifacts(store: Any, ids: Iterable[int]) -> Iterator[TracedArtifact]:
    for batch in _batches(sorted(ids)):
        for artifact in sorted(store.get_artifacts_by_id(batch), key=lambda found: int(found.id)):
            yield TracedArtifact(
                id=artifact.id,
                type=artifact.type or f"type {artifact.type_id}",  # old servers send only the number
                name=artifact.name or None,
                uri=artifact.uri or None,
                state=_state(mlmd.Artifact.State, artifact.state),
                created_ms=artifact.create_time_since_epoch or None,
                properties={
                    name: value
                    for properties in (artifact.custom_properties, artifact.properties)
                    for name in sorted(properties)
                    if (value := _plain(properties[name])) is not None
                },
            )


def _executions(store: Any, ids: Iterable[int]) -> Iterator[TracedExecution]:
    for batch in _batches(sorted(ids)):
        for execution in sorted(store.get_executions_by_id(batch), key=lambda found: int(found.id)):
            contexts = store.get_contexts_by_execution(execution.id)
            pipeline = next((c.name for c in contexts if c.type in _PIPELINE_CONTEXTS), None)
            node = next((c.name for c in contexts if c.type == _NODE_CONTEXT), None)
            fingerprint = execution.custom_properties["fingerprint"].string_value
            yield TracedExecution(
                id=execution.id,
                type=execution.type or f"type {execution.type_id}",
                name=execution.name or None,
                state=_state(mlmd.Execution.State, execution.last_known_state),
                created_ms=execution.create_time_since_epoch or None,
                updated_ms=execution.last_update_time_since_epoch or None,
                pipeline=pipeline,
                run=next((c.name for c in contexts if c.type in _RUN_CONTEXTS), None),
                # TFX names it `<pipeline>.<node>`.
                node=node.removeprefix(f"{pipeline}.") if node else None,
                fingerprint=fingerprint or None,
            )


def _batches(ids: Sequence[int]) -> Iterator[Sequence[int]]:
    for start in range(0, len(ids), _BATCH):
        yield list(ids[start : start + _BATCH])


def _state(states: Any, number: int) -> str | None:
    return str(states.Name(number)).lower() if number else None


def _plain(value: Any) -> bool | int | float | str | None:
    """A property's value; None of one that is neither text nor a number nor a structure."""
    kind = value.WhichOneof("value")
    if kind == "struct_value":
        return canonical_json(json_format.MessageToDict(value.struct_value)).decode()
    return getattr(value, kind) if kind in ("string_value", "int_value", "double_value", "bool_value") else None
