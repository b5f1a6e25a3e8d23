"""How `tfx-mobile inspect` looks in a terminal."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

from rich.console import Console, Group, JustifyMethod, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tfx_mobile.records import (
    FileTensorRecord,
    Finding,
    InspectionRecord,
    MetadataRecord,
    ModelFileRecord,
    ProfileResult,
    SignatureRecord,
    TensorMetadataRecord,
)

_MAX_NAME = 300
_MAX_ROWS = 40
_MAX_OPERATORS = 400
_MAX_TENSORS = 5_000
_STYLES = {"pass": "green", "fail": "bold red", "not_verified": "yellow"}
_WORDS = {"pass": "pass", "fail": "FAIL", "not_verified": "not verified"}


def printable(value: str, limit: int = 4_000) -> str:
    """`value` for a terminal: control characters become visible, so that no name can move the cursor or set colours.

    Also the marks that reorder text, and line breaks. Longer values are cut.
    """
    shown = "".join(
        character if not unicodedata.category(character).startswith(("C", "Zl", "Zp")) else _escaped(character)
        for character in value[:limit]
    )
    return shown if len(value) <= limit else f"{shown}…"


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def show(record: InspectionRecord, *, all_tensors: bool, console: Console | None = None) -> None:
    """Prints a record; nothing for one without a `file`.

    Args:
        record: What to print.
        all_tensors: Whether to list every tensor.
        console: Where to; None for stdout.
    """
    if record.file is None:
        return
    parts: list[RenderableType] = [_facts(record, record.file)]
    parts += [
        _section("Signature", signature.key, _signature(signature)) for signature in record.file.signatures[:_MAX_ROWS]
    ]
    parts.append(_section("Operators", "", _operators(record.file)))
    parts.append(_section("Size", "", _sizes(record)))
    if all_tensors:
        parts.append(_section("Tensors", "", _tensors(record.tensors)))
    metadata = record.metadata
    if metadata.present or metadata.files or metadata.problems:
        parts.append(_section("Metadata", "", _metadata(metadata)))
    for profile in record.profiles:
        outcome = Text(_WORDS[profile.result], _STYLES[profile.result])
        parts.append(_section("Profile", profile.profile, _profile(profile), outcome))
    parts.append(_section("Quantization audit", "", _findings(record.findings)))
    (console or Console(highlight=False)).print(Group(*parts))


def _section(title: str, name: str, body: RenderableType, outcome: Text | None = None) -> RenderableType:
    heading = Text("\n").append(title, "bold")
    if name:
        heading.append(f" {printable(name, _MAX_NAME)}", "bold cyan")
    if outcome is not None:
        heading.append(": ").append_text(outcome)
    return Group(heading, Padding(body, (0, 0, 0, 2)))


def _grid(*columns: str, right: Iterable[str] = (), fold: Iterable[str] = ()) -> Table:
    """A table without lines; `fold` names the columns that give way when the terminal is narrow."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim", show_header=any(columns))
    for name in columns:
        justify: JustifyMethod = "right" if name in right else "left"
        table.add_column(name, justify=justify, no_wrap=name not in fold, overflow="fold")
    return table


def _facts(record: InspectionRecord, file: ModelFileRecord) -> Table:
    facts = Table.grid(padding=(0, 2))
    runtime = f"{file.min_runtime_version} or newer" if file.min_runtime_version else "of unknown version"
    facts.add_row("sha256", file.sha256)
    facts.add_row("size", f"{file.size_bytes:,} bytes, {file.gzip_bytes:,} gzipped")
    facts.add_row("runtime", f"TensorFlow Lite {runtime}")
    facts.add_row("flex ops", Text(printable(", ".join(file.select_tf_ops)) or "none"))
    facts.add_row("custom ops", Text(printable(", ".join(file.custom_ops)) or "none"))
    if record.external_buffers:
        facts.add_row("other files", f"{record.external_buffers} buffers are kept outside of this file")
    facts.add_row("loads and runs", Text("NO", "bold red") if record.failure else Text("yes", "green"))
    return facts


def _signature(signature: SignatureRecord) -> Table:
    table = _grid("", "name", "type", "shape", "quantization", fold=("name", "shape"))
    for kind, tensors in (("input", signature.inputs), ("output", signature.outputs)):
        for tensor in tensors[:_MAX_ROWS]:
            quantization = "" if tensor.scale is None else f"scale {tensor.scale:.6g}, zero point {tensor.zero_point}"
            table.add_row(kind, _name(tensor.name), tensor.dtype, _shape(tensor.shape), quantization)
        _rest(table, len(tensors))
    return table


def _operators(file: ModelFileRecord) -> RenderableType:
    if not file.ops:
        return Text("none")
    table = _grid("name", "version", "count", "in float", right=("version", "count", "in float"), fold=("name",))
    for op in file.ops[:_MAX_OPERATORS]:
        table.add_row(_name(op.name), str(op.version), str(op.count), str(op.float_count or ""))
    _rest(table, len(file.ops), _MAX_OPERATORS)
    return table


def _sizes(record: InspectionRecord) -> Table:
    table = _grid("part", "bytes", "share", right=("bytes", "share"), fold=("part",))
    for part in record.sizes[:_MAX_ROWS]:
        table.add_row(_name(part.part), f"{part.bytes:,}", f"{part.bytes / record.size_bytes:.1%}")
    _rest(table, len(record.sizes))
    return table


def _tensors(tensors: tuple[FileTensorRecord, ...]) -> Table:
    table = _grid(
        "",
        "name",
        "type",
        "shape",
        "bytes",
        "scale, zero point",
        right=("", "bytes"),
        fold=("name", "scale, zero point"),
    )
    several = any(tensor.subgraph for tensor in tensors)
    for tensor in tensors[:_MAX_TENSORS]:
        number = f"{tensor.subgraph}:{tensor.index}" if several else str(tensor.index)
        dtype = tensor.dtype + (" variable" if tensor.variable else "") + (" sparse" if tensor.sparse else "")
        size = f"{tensor.constant_bytes:,}" if tensor.constant_bytes else ""
        table.add_row(number, _name(tensor.name), dtype, _shape(tensor.shape), size, _quantization(tensor))
    _rest(table, len(tensors), _MAX_TENSORS)
    return table


def _quantization(tensor: FileTensorRecord) -> str:
    parameters = tensor.quantization
    if parameters is None:
        return ""
    scales, points = parameters.scales, sorted(set(parameters.zero_points)) or [0]
    point = f"{points[0]}" if len(points) == 1 else f"{points[0]} to {points[-1]}"
    if len(set(scales)) == 1:
        return f"{_number(scales[0])}, {point}"
    finite = [scale for scale in scales if scale is not None]
    span = f"{min(finite):.3g} to {max(finite):.3g}" if finite else "not finite"
    return f"{len(scales)} along {parameters.dimension}: {span}, {point}"


def _metadata(metadata: MetadataRecord) -> Table:
    table = Table.grid(padding=(0, 2))
    for title, value in (
        ("name", metadata.name),
        ("description", metadata.description),
        ("version", metadata.version),
        ("author", metadata.author),
        ("license", metadata.license),
        ("needs parser", metadata.min_parser_version),
    ):
        if value:
            table.add_row(title, Text(printable(value)))
    for kind, tensors in (("input", metadata.inputs), ("output", metadata.outputs)):
        for tensor in tensors[:_MAX_ROWS]:
            table.add_row(kind, Text(printable("; ".join(_tensor_facts(tensor)))))
    for file in metadata.files[:_MAX_ROWS]:
        facts = [file.name, "not in the file" if file.size_bytes is None else f"{file.size_bytes:,} bytes"]
        facts += [] if file.type is None else [file.type]
        facts += [] if file.num_lines is None else [f"{file.num_lines:,} lines"]
        table.add_row("file", Text(printable(", ".join(facts))))
    for problem in metadata.problems[:_MAX_ROWS]:
        table.add_row(Text("problem", "yellow"), Text(printable(problem)))
    return table


def _tensor_facts(tensor: TensorMetadataRecord) -> Iterable[str]:
    yield tensor.name or "(no name)"
    if tensor.content:
        yield f"{tensor.content} {tensor.color_space or ''}".strip()
    if tensor.mean or tensor.std:
        yield f"mean {', '.join(map(_number, tensor.mean))}, std {', '.join(map(_number, tensor.std))}"
    if tensor.score_threshold is not None:
        yield f"score threshold {tensor.score_threshold:g}"
    if tensor.description:
        yield tensor.description


def _profile(profile: ProfileResult) -> RenderableType:
    passed = ", ".join(rule.id for rule in profile.rules if rule.result == "pass")
    table = _grid("", "", "", fold=("found",))
    table.columns[2].no_wrap = False
    for rule in profile.rules:
        if rule.result == "pass":
            continue
        found = Text(printable(rule.detail))
        if rule.result == "fail":
            found.append(f"\n{rule.statement}\n{rule.source}", style="dim")
        table.add_row(Text(_WORDS[rule.result], _STYLES[rule.result]), rule.id, found)
    return Group(*([table] if table.rows else []), *([Text(f"passed: {passed}", "dim")] if passed else []))


def _findings(findings: tuple[Finding, ...]) -> RenderableType:
    if not findings:
        return Text("no findings", "green")
    table = _grid("finding", "where", "found", "expected", fold=("where", "found", "expected"))
    for finding in findings[:_MAX_ROWS]:
        where = finding.tensor if finding.op is None else f"{finding.tensor} ({finding.op})"
        where = where if not finding.subgraph else f"{finding.subgraph}: {where}"
        table.add_row(Text(finding.code, "bold red"), _name(where), finding.value, finding.expected)
    _rest(table, len(findings))
    return table


def _rest(table: Table, count: int, shown: int = _MAX_ROWS) -> None:
    if count > shown:
        table.add_row(*[""] * (len(table.columns) - 1), f"{count - shown:,} more; see --json")


def _name(value: str) -> Text:
    # Text, not str: rich would take a name such as [red] for markup.
    return Text(printable(value, _MAX_NAME))


def _shape(shape: tuple[int, ...]) -> Text:
    return Text(str(list(shape)))


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.6g}"
