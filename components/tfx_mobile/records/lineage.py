"""Where a release came from, and which of two runs is the newer one."""

from __future__ import annotations

from tfx_mobile.records.base import Record


class ReleaseOrder(Record):
    """The place of a run's input in time, so that a slow old run can be told from a newer one.

    Attributes:
        span: Highest span of the examples, as ExampleGen numbers them; None without spans.
        version: Highest version of that span; None without versions.
        created_ms: When the float model was recorded, in milliseconds since 1970 by the clock of ML Metadata; None
            where the orchestrator does not say.
    """

    span: int | None = None
    version: int | None = None
    created_ms: int | None = None

    def is_older_than(self, other: ReleaseOrder) -> bool:
        """Whether this is surely older; what cannot be compared is not older."""
        for mine, theirs in (
            (self.span, other.span),
            (self.version, other.version),
            (self.created_ms, other.created_ms),
        ):
            if mine is not None and theirs is not None and mine != theirs:
                return mine < theirs
        return False

    def newest_with(self, other: ReleaseOrder | None) -> ReleaseOrder:
        """The newest of both; what only one of them says is kept."""
        if other is None:
            return self
        if self.is_older_than(other):
            return other
        spans = self if self.span is not None else other
        created_ms = self.created_ms if self.created_ms is not None else other.created_ms
        return ReleaseOrder(span=spans.span, version=spans.version, created_ms=created_ms)


class ArtifactOrigin(Record):
    """An artifact of ML Metadata that a release was made of. Uris are left out: manifests are public.

    Attributes:
        type: Name of the artifact's type.
        id: Its id in ML Metadata; None where the orchestrator does not say.
        name: Its name there, which in TFX holds pipeline, run and component; on Vertex its resource name.
        created_ms: When it was recorded, in milliseconds since 1970.
        span: Of Examples.
        version: Of Examples.
    """

    type: str
    id: int | None = None
    name: str | None = None
    created_ms: int | None = None
    span: int | None = None
    version: int | None = None


class Lineage(Record):
    """What the evaluator was given.

    Attributes:
        model: The float model.
        examples: The examples it was scored on.
        variants: What the converter made.
    """

    model: ArtifactOrigin
    examples: tuple[ArtifactOrigin, ...] = ()
    variants: ArtifactOrigin | None = None

    @property
    def order(self) -> ReleaseOrder:
        """The place in time that follows."""
        newest = max(self.examples, key=lambda e: (e.span or 0, e.version or 0), default=None)
        return ReleaseOrder(
            span=newest.span if newest else None,
            version=newest.version if newest else None,
            created_ms=self.model.created_ms,
        )
