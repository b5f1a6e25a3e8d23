"""How `tfx-mobile trace` looks in a terminal."""

from __future__ import annotations

import datetime

from rich.console import Console
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from tfx_mobile.inspection_view import printable
from tfx_mobile.records import (
    ArtifactOrigin,
    LineageGraph,
    TracedExecution,
    TracedRelease,
    TraceRecord,
)

_MAX_NAME = 120
_MAX_STARTS = 20
#: Models that start from earlier models make trees without end.
_MAX_DEPTH = 12
#: What to follow first: the way from the file to the examples.
_FIRST_KEYS = ("variants", "model", "blessing", "evaluation", "examples")
#: What is made beside a model and says how good it is.
_JUDGEMENTS = frozenset({"ModelEvaluation", "ModelBlessing", "InfraBlessing", "TFLiteBlessing"})
#: What is worth a place in the tree, in this order; `--json` has everything.
_PROPERTIES = (
    "channel",
    "channel_version",
    "push_status",
    "variant",
    "blessed",
    "size_bytes",
    "span",
    "version",
    "split_names",
)
_LONG_PROPERTIES = ("release_id", "pushed_destination")


def show(record: TraceRecord, console: Console | None = None) -> None:
    """Prints what was found.

    Args:
        record: What to print.
        console: Where to; None for stdout.
    """
    console = console or Console(highlight=False)
    if record.graph is not None:
        _show_graph(record.graph, console)
    for number, release in enumerate(record.releases):
        if number or record.graph is not None:
            console.print()
        _show_release(release, console)


def _show_graph(graph: LineageGraph, console: Console) -> None:
    trees = _Trees(graph)
    if len(graph.starts) > 1:
        console.print(Text(f"{len(graph.starts)} artifacts are these bytes, the newest first."))
        console.print()
    for start in graph.starts[:_MAX_STARTS]:
        tree = Tree("", hide_root=True)
        trees.add(tree, start)
        console.print(tree)
    if len(graph.starts) > _MAX_STARTS:
        console.print(Text(f"… and {len(graph.starts) - _MAX_STARTS} more; --json has them all.", "dim"))


class _Trees:
    """Draws artifacts with what they were made of; what was drawn already is only named."""

    def __init__(self, graph: LineageGraph) -> None:
        self._artifacts = {artifact.id: artifact for artifact in graph.artifacts}
        self._executions = {execution.id: execution for execution in graph.executions}
        self._maker: dict[int, int] = {}
        self._read: dict[int, list[tuple[str, int]]] = {}
        self._made: dict[int, list[int]] = {}
        for event in graph.events:
            if event.direction == "input":
                self._read.setdefault(event.execution, []).append((", ".join(event.keys), event.artifact))
            else:
                self._maker[event.artifact] = event.execution
                self._made.setdefault(event.execution, []).append(event.artifact)
        self._drawn: set[int] = set()
        self._drawn_makers: set[int] = set()

    def add(self, parent: Tree, artifact: int, keys: str = "", depth: int = 0) -> None:
        """Adds an artifact, its maker, and everything above them."""
        label = Text(f"{printable(keys, _MAX_NAME)}: " if keys else "", "dim")
        label.append_text(self._describe(artifact))
        if artifact in self._drawn:
            parent.add(label.append("  above", "dim"))
            return
        self._drawn.add(artifact)
        maker = self._executions.get(self._maker.get(artifact, -1))
        if maker is None:
            parent.add(label.append("\nno step that made it is recorded: it was brought in from outside", "dim"))
            return
        label.append("\nmade by ", "dim").append_text(_execution(maker))
        if maker.id in self._drawn_makers:
            parent.add(label.append("  above", "dim"))
            return
        self._drawn_makers.add(maker.id)
        branch = parent.add(label)
        for sibling in self._made[maker.id]:
            if sibling not in self._drawn and self._type(sibling) in _JUDGEMENTS:
                branch.add(Text("beside it: ", "dim").append_text(self._describe(sibling)))
                self._drawn.add(sibling)
        read = self._read.get(maker.id, [])
        if depth == _MAX_DEPTH and read:
            branch.add(Text("… --json has what that was made of.", "dim"))
            return
        for as_what, found in sorted(read, key=_order):
            self.add(branch, found, as_what, depth + 1)

    def _type(self, artifact: int) -> str:
        return self._artifacts[artifact].type.rpartition(".")[2] if artifact in self._artifacts else "artifact"

    def _describe(self, artifact: int) -> Text:
        label = Text(printable(f"{self._type(artifact)} {artifact}", _MAX_NAME), "bold")
        found = self._artifacts.get(artifact)
        if found is None or artifact in self._drawn:
            return label
        known = [(name, found.properties[name]) for name in _PROPERTIES if found.properties.get(name, "") != ""]
        facts = [f"{name} {value:,}" if name == "size_bytes" else f"{name} {value}" for name, value in known]
        if found.state not in (None, "live"):
            facts.append(f"{found.state}")
        label.append(printable("".join(f"  {fact}" for fact in facts)), "not bold")
        lines = [f"{name} {found.properties[name]}" for name in _LONG_PROPERTIES if found.properties.get(name)]
        for line in (*lines, found.uri or ""):
            if line:
                label.append(f"\n{printable(line)}", "not bold dim")
        return label


def _order(read: tuple[str, int]) -> tuple[int, str, int]:
    keys, artifact = read
    first = next((place for place, key in enumerate(_FIRST_KEYS) if key in keys.split(", ")), len(_FIRST_KEYS))
    return first, keys, artifact


def _execution(execution: TracedExecution) -> Text:
    name = execution.node or execution.type.rpartition(".")[2]
    label = Text(printable(f"{name} {execution.id}", _MAX_NAME), "cyan")
    facts = []
    if execution.run:
        facts.append(f"run {execution.run}" + (f" of {execution.pipeline}" if execution.pipeline else ""))
    facts.append(execution.state or "of unknown state")
    if execution.updated_ms is not None:
        facts.append(_time(execution.updated_ms))
    return label.append(printable("".join(f"  {fact}" for fact in facts)), "default")


def _show_release(release: TracedRelease, console: Console) -> None:
    manifest, lineage = release.manifest, release.manifest.lineage
    facts = Table.grid(padding=(0, 2))
    facts.add_column(no_wrap=True)
    facts.add_column(overflow="fold")
    signed = f"signed by {manifest.signing_key_id}" if manifest.signing_key_id else "unsigned"
    rows = [
        ("release", release.release_id),
        ("at", release.destination),
        ("manifest", f"{release.manifest_uri} ({signed}{', verified' if release.verified else ', not verified'})"),
        ("model", f"{manifest.model}, variant {manifest.variant}"),
        ("sha256", f"{manifest.file.sha256}, {manifest.file.size_bytes:,} bytes"),
    ]
    if manifest.source_sha256:
        rows.append(("made of", f"SavedModel {manifest.source_sha256}"))
    if manifest.evaluation is not None:
        evaluation = manifest.evaluation
        rows.append(("evaluated", f"on {evaluation.num_examples:,} examples of {', '.join(evaluation.splits)}"))
    if lineage is None:
        rows.append(("lineage", "the manifest holds none"))
    else:
        origins = (lineage.variants, lineage.model, *lineage.examples)
        rows += [("lineage", _origin(origin)) for origin in origins if origin]
    for title, value in rows:
        facts.add_row(title, Text(printable(value)))
    console.print(facts)


def _origin(origin: ArtifactOrigin) -> str:
    facts = [origin.type if origin.id is None else f"{origin.type} {origin.id}"]
    facts += [
        f"{name} {value}" for name, value in (("span", origin.span), ("version", origin.version)) if value is not None
    ]
    facts += [] if origin.created_ms is None else [_time(origin.created_ms)]
    facts += [] if origin.name is None else [origin.name]
    return ", ".join(facts)


def _time(milliseconds: int) -> str:
    try:
        moment = datetime.datetime.fromtimestamp(milliseconds / 1000, datetime.timezone.utc)
    except (ValueError, OverflowError, OSError):
        return f"{milliseconds} ms"
    return f"{moment:%Y-%m-%d %H:%M:%S}Z"
