"""What `tfx-mobile trace` finds."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tfx_mobile.records.base import SHA256_PATTERN, Record
from tfx_mobile.records.releases import ReleaseManifest


class TracedArtifact(Record):
    """An artifact in ML Metadata.

    Attributes:
        id: Its id there.
        type: Name of its type.
        name: Its name; None if it has none.
        uri: Where its files lie, or lay.
        state: `pending`, `live`, `marked_for_deletion`, `deleted`, `abandoned` or `reference`; None where the
            orchestrator does not say.
        created_ms: When it was recorded, in milliseconds since 1970 by the clock of ML Metadata.
        properties: Its properties and custom properties that are text or a number; structures as JSON text.
    """

    id: int
    type: str
    name: str | None = None
    uri: str | None = None
    state: str | None = None
    created_ms: int | None = None
    properties: dict[str, bool | int | float | str] = Field(default_factory=dict)


class TracedExecution(Record):
    """An execution in ML Metadata.

    Attributes:
        id: Its id there.
        type: Name of its type, in TFX the component's class path.
        name: Its name; None if it has none.
        state: `new`, `running`, `complete`, `failed`, `cached` or `canceled`; None where the orchestrator does not
            say.
        created_ms: When it was recorded, in milliseconds since 1970 by the clock of ML Metadata.
        updated_ms: When that record was last changed, which for a finished execution is its end.
        pipeline: Name of the pipeline it belongs to.
        run: Name of the pipeline run.
        node: Id of the pipeline's node.
        fingerprint: What versions ran, as this package's components record it; None of other components.
    """

    id: int
    type: str
    name: str | None = None
    state: str | None = None
    created_ms: int | None = None
    updated_ms: int | None = None
    pipeline: str | None = None
    run: str | None = None
    node: str | None = None
    fingerprint: str | None = None


class TracedEvent(Record):
    """One edge: an execution read or made an artifact.

    Attributes:
        execution: Id of the execution.
        artifact: Id of the artifact.
        direction: `input` or `output`.
        keys: As which of its inputs or outputs; several if it was read as several.
    """

    execution: int
    artifact: int
    direction: Literal["input", "output"]
    keys: tuple[str, ...] = ()


class LineageGraph(Record):
    """Everything in ML Metadata that some bytes were made of.

    Attributes:
        metadata: Which ML Metadata store, without anything secret.
        starts: Ids of the artifacts that are these bytes, newest first: PushedModel, and TFLiteModel if it was not
            pushed.
        artifacts: Those, what they were made of, and what was made beside it, by id.
        executions: Those that made them, by id.
        events: The edges between them.
    """

    metadata: str
    starts: tuple[int, ...]
    artifacts: tuple[TracedArtifact, ...]
    executions: tuple[TracedExecution, ...]
    events: tuple[TracedEvent, ...]


class TracedRelease(Record):
    """A release in a release store.

    Attributes:
        destination: Address of the release store.
        release_id: SHA-256 of the manifest, which was verified.
        manifest_uri: Where the manifest lies.
        manifest: The manifest; its `lineage` names what the release was made of.
        verified: Whether the signature of a trusted key was asked for, and is there.
    """

    destination: str
    release_id: str = Field(pattern=SHA256_PATTERN)
    manifest_uri: str
    manifest: ReleaseManifest
    verified: bool = False


class TraceRecord(Record):
    """Where some bytes come from.

    Attributes:
        target: The SHA-256 of the bytes, or the id of their release.
        graph: What ML Metadata knows; None if it was not asked, cannot be reached, or knows nothing of them.
        releases: What the release store knows.
        problems: What could not be read, in words.
    """

    schema_version: Literal[1] = 1
    target: str = Field(pattern=SHA256_PATTERN)
    graph: LineageGraph | None = None
    releases: tuple[TracedRelease, ...] = ()
    problems: tuple[str, ...] = ()
