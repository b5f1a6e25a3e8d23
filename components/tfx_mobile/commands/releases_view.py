"""How releases, and what was done to them, look in a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tfx_mobile.commands.output import console
from tfx_mobile.inspection_view import printable
from tfx_mobile.records import (
    ChannelReceipt,
    ChannelReleases,
    EvaluationSummary,
    PruneReceipt,
    ReleaseEntry,
    StoreOverview,
)
from tfx_mobile.release_store.channel import HOUSEKEEPING

#: As many characters of an id as people can compare; the commands take 8 or more.
_SHORT = 12
_MAX_NAME = 60
_MAX_METRICS = 3
_WIDE = 100

_Item = TypeVar("_Item")

_DONE = {"rollback": "rolled back", "promote": "promoted", "pin": "pinned", "unpin": "unpinned"}
_WOULD = {"rollback": "would roll back", "promote": "would promote", "pin": "would pin", "unpin": "would unpin"}


def show_overviews(overviews: Sequence[StoreOverview]) -> None:
    """Prints the models and channels of stores."""
    out = console()
    for overview in _with_space(out, overviews):
        out.print(Text(printable(overview.destination), "bold"))
        if not overview.models:
            out.print("  no models", style="dim")
            continue
        table = _table(
            "model", "channel", "version", "release", "pinned", "refused", "files", "bytes",
            right=("version", "pinned", "refused", "files", "bytes"), fold=("model", "channel"),
        )  # fmt: skip
        for model in overview.models:
            for position, channel in enumerate(model.channels):
                first = position == 0
                table.add_row(
                    Text(printable(model.model)) if first else "",
                    Text(printable(channel.channel)),
                    "" if channel.version is None else str(channel.version),
                    _short(channel.release_id) if channel.release_id else Text("unreadable", "bold red"),
                    str(channel.num_pinned or ""),
                    str(channel.num_refused or ""),
                    f"{model.num_blobs:,}" if first else "",
                    f"{model.blob_bytes:,}" if first else "",
                )
        out.print(Padding(table, (0, 0, 0, 2)))
        for channel in (channel for model in overview.models for channel in model.channels if channel.problem):
            out.print(Padding(_problem(f"{channel.model}/{channel.channel}: {channel.problem}"), (0, 0, 0, 2)))


def show_histories(histories: Sequence[ChannelReleases]) -> None:
    """Prints channels with their history."""
    out = console()
    for history in _with_space(out, histories):
        facts = Table.grid(padding=(0, 2))
        facts.add_row("channel", Text(f"{history.channel} of {history.model}, version {history.version}", "bold"))
        facts.add_row("at", Text(printable(history.destination)))
        facts.add_row("signed by", _short(history.signing_key_id) if history.signing_key_id else "nobody")
        if history.following is not None:
            serves = Text("yes", "green") if history.following else Text("NO: run the last act again", "bold red")
            facts.add_row("served", serves)
        if history.pruning:
            facts.add_row("pruning", Text(f"{len(history.pruning)} models; if no prune is running, run one", "yellow"))
        out.print(facts)
        out.print()
        out.print(_entries(history, with_metrics=out.width >= _WIDE))
        named = {entry.sha256 for entry in history.entries}, {entry.release_id for entry in history.entries}
        for title, others in (
            ("refused, not in the history:", [one for one in history.refused if one not in named[0]]),
            ("pinned, not in the history:", [one for one in history.pinned if one not in named[1]]),
        ):
            if others:
                out.print(Text(f"{title} {', '.join(str(_short(one)) for one in others)}", "dim"))
        for release_id, problem in {entry.release_id: entry.problem for entry in history.entries}.items():
            if problem:
                out.print(_problem(f"{_short(release_id)}: {problem}"))


def show_receipts(receipts: Sequence[ChannelReceipt]) -> None:
    """Prints what was done to channels."""
    out = console()
    for receipt in _with_space(out, receipts):
        facts = Table.grid(padding=(0, 2))
        status = receipt.would_be or receipt.status
        words = {
            "done": (_WOULD if receipt.would_be else _DONE)[receipt.action],
            "unchanged": "nothing to do",
            "superseded": "not promoted",
        }
        style = {"done": "green", "superseded": "bold red"}.get(status, "default")
        version = "" if receipt.channel_version is None else f", version {receipt.channel_version}"
        facts.add_row(Text(words[status], style), Text(f"{receipt.channel} of {receipt.model}{version}"))
        facts.add_row("at", Text(printable(receipt.destination)))
        facts.add_row("release", _short(receipt.release_id) if receipt.release_id else "not known any more")
        facts.add_row("sha256", _short(receipt.sha256) if receipt.sha256 else "not known any more")
        if receipt.action in ("rollback", "promote") and receipt.previous_release_id and status == "done":
            before = _short(receipt.previous_release_id)
            if receipt.action == "rollback" and receipt.sha256 != receipt.previous_sha256:
                before.append(", refused until it is unpinned")
            facts.add_row("before", before)
        for name, value in receipt.details.items():
            facts.add_row(printable(name, _MAX_NAME), Text(printable(value)))
        if note := _note(receipt):
            facts.add_row("note", note)
        out.print(facts)


def show_prunes(receipts: Sequence[PruneReceipt]) -> None:
    """Prints what was deleted."""
    out = console()
    for receipt in _with_space(out, receipts):
        words = {"done": "pruned", "unchanged": "nothing to do", "dry_run": "would prune"}
        gone = [one for one in receipt.pruned if one.deleted or receipt.status == "dry_run"]
        facts = Table.grid(padding=(0, 2))
        title = "nothing to do" if receipt.status == "dry_run" and not gone else words[receipt.status]
        facts.add_row(Text(title, "green" if receipt.status == "done" else "default"), Text(receipt.model))
        facts.add_row("at", Text(printable(receipt.destination)))
        facts.add_row("channels", Text(printable(", ".join(receipt.channels))))
        young = f", {receipt.num_young} of them only because of the grace period" if receipt.num_young else ""
        facts.add_row("kept", Text(f"{_count(receipt.num_kept, 'model')}{young}"))
        if gone:
            size = sum(one.size_bytes for one in gone)
            facts.add_row(
                "to delete" if receipt.status == "dry_run" else "deleted",
                Text(f"{_count(len(gone), 'model')}, {size:,} bytes"),
            )
        if receipt.unreadable:
            facts.add_row("unreadable", Text(", ".join(str(_short(one)) for one in receipt.unreadable), "yellow"))
        out.print(facts)
        if receipt.pruned:
            table = _table("sha256", "bytes", "releases", "", right=("bytes",), fold=("releases",))
            for one in receipt.pruned:
                kept = "" if one.deleted or receipt.status == "dry_run" else "kept: written anew meanwhile"
                releases = ", ".join(str(_short(release_id)) for release_id in one.release_ids)
                table.add_row(_short(one.sha256), f"{one.size_bytes:,}", Text(releases), kept)
            out.print()
            out.print(table)


def _entries(history: ChannelReleases, *, with_metrics: bool) -> Table:
    columns = ["version", "act", "release", "sha256", "variant", "bytes"]
    columns += ["quality (float model)"] if with_metrics else []
    table = _table(*columns, "state", right=("version", "bytes"), fold=("variant", "quality (float model)", "state"))
    for position, entry in enumerate(history.entries):
        cells = [
            Text(str(entry.version)),
            Text(entry.action),
            _short(entry.release_id),
            _short(entry.sha256),
            Text(printable(entry.variant or "", _MAX_NAME)),
            Text("" if entry.size_bytes is None else f"{entry.size_bytes:,}"),
        ]
        cells += [Text(_metrics(entry.evaluation))] if with_metrics else []
        state = _state(entry, is_newest=position == 0)
        table.add_row(*cells, state, style="dim" if entry.action in HOUSEKEEPING and position else None)
    return table


def _state(entry: ReleaseEntry, *, is_newest: bool) -> Text:
    words: list[tuple[str, str]] = []
    if entry.live:
        words.append(("live", "bold green") if is_newest else ("as live", ""))
    if entry.refused:
        words.append(("refused", "red"))
    if entry.pinned:
        words.append(("pinned", "cyan"))
    if entry.pruning:
        words.append(("being pruned", "yellow"))
    missing = " and ".join(
        name for name, there in (("manifest", entry.has_manifest), ("file", entry.has_blob)) if not there
    )
    if missing:
        words.append((f"{missing} gone", "bold red" if entry.live else "red"))
    if entry.problem:
        words.append(("damaged", "bold red"))
    return Text(", ").join(Text(word, style) for word, style in words)


def _metrics(evaluation: EvaluationSummary | None) -> str:
    if evaluation is None:
        return ""
    shown = [
        f"{name} {_number(value)} ({_number(evaluation.baseline.get(name))})"
        for name, value in sorted(evaluation.variant.items())[:_MAX_METRICS]
    ]
    more = len(evaluation.variant) - len(shown)
    return printable(", ".join([*shown, *([f"{more} more"] if more else [])]))


def _note(receipt: ChannelReceipt) -> str:
    if receipt.status == "dry_run":
        return "a dry run: nothing was written"
    if receipt.action == "rollback" and receipt.status == "unchanged":
        return "the channel names this release already; to go back further, say where with --to"
    if receipt.action == "unpin" and receipt.status == "unchanged":
        return "it is neither pinned nor refused"
    return ""


def _table(*columns: str, right: Iterable[str] = (), fold: Iterable[str] = ()) -> Table:
    """A table without lines; `fold` names the columns that give way when the terminal is narrow."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for name in columns:
        is_right = name in right
        table.add_column(name, justify="right" if is_right else "left", no_wrap=name not in fold, overflow="fold")
    return table


def _with_space(out: Console, items: Sequence[_Item]) -> Iterator[_Item]:
    for position, item in enumerate(items):
        if position:
            out.print()
        yield item


def _problem(message: str) -> Text:
    return Text(printable(message), "red")


def _short(value: str) -> Text:
    return Text(printable(value[:_SHORT]))


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4g}"
