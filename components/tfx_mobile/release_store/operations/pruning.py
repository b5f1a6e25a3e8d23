"""Deleting what nobody needs.

1. Every channel of the model is read. Bytes stay if a channel names them, pins them, or named them among its newest
   `keep` different ones, and if anything of them is younger than the grace period.
2. What is left over is announced in the field `pruning` of every channel, and taken out of their `previous`, by
   compare-and-swap. From then on nobody may point at it; and whoever was about to has lost the swap and looks again.
3. Manifests, then bytes, are deleted, each only if it is still the object that was listed.
4. The announcement is taken back.

A prune that dies leaves its announcement, and the next one finishes what it says.

Age is told by the store's clock alone: "now" is when the newest object of the model was written. It lies in the past,
so the grace period is never shorter than it says.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field
from typing import Literal

from tfx_mobile.errors import ConflictError, NothingPublishedError
from tfx_mobile.records import ChannelStatement, PrunedRelease, PruneReceipt
from tfx_mobile.release_store.channel import Draft, move_channel
from tfx_mobile.release_store.delivery import OpenDestination
from tfx_mobile.release_store.names import check_model_name
from tfx_mobile.release_store.new_channel import channels_of
from tfx_mobile.release_store.operations.acting import Act
from tfx_mobile.release_store.operations.finding import blobs_of, manifests_of, published
from tfx_mobile.release_store.reading import read_manifest
from tfx_mobile.release_store.signing import NO_KEYS, Keyring
from tfx_mobile.release_store.store import ObjectInfo, Store

#: A push writes bytes first and names them later, and a second prune may be running; both take less than this.
MIN_GRACE = datetime.timedelta(hours=1)

DEFAULT_KEEP = 10
DEFAULT_GRACE = datetime.timedelta(days=7)


def models_to_prune(opened: OpenDestination) -> tuple[str, ...]:
    """The models of a store that have a channel, by name."""
    return tuple(sorted({model_name for model_name, _ in channels_of(opened.store)}))


def prune(
    opened: OpenDestination,
    model_name: str,
    *,
    keep: int = DEFAULT_KEEP,
    grace: datetime.timedelta = DEFAULT_GRACE,
    keyring: Keyring = NO_KEYS,
    dry_run: bool = False,
) -> PruneReceipt:
    """Deletes releases of a model that no channel needs. Safe to repeat, to kill, and to run beside everything else.

    Args:
        opened: Where; the identity must be allowed to delete.
        model_name: The model's name.
        keep: How many different models each channel can go back to, the live one included; at least 1.
        grace: What was written within it stays; at least `MIN_GRACE`.
        keyring: Who signs the announcement, and whom to trust.
        dry_run: Only say what would be deleted.

    Raises:
        ValueError: `keep` or `grace` is too small.
        NothingPublishedError: The model has no channel, so nothing says what is in use.
        ConflictError: A channel or a pinned manifest is damaged, or a channel that appeared meanwhile names what was
            deleted.
        PushError: See `channel.move_channel`.
    """
    check_model_name(model_name)
    if keep < 1:
        raise ValueError(f"keep={keep} would leave a channel without its live release; give 1 or more.")
    if grace < MIN_GRACE:
        raise ValueError(f"grace={grace} is shorter than a push or another prune may take; give {MIN_GRACE} or more.")
    pruning = _Pruning(opened, model_name, keep, keyring)
    pruning.take_stock(grace)
    if dry_run:
        return pruning.receipt("dry_run")
    if not pruning.has_work:
        return pruning.receipt("unchanged")
    pruning.announce()
    pruning.delete()
    pruning.take_back()
    return pruning.receipt("done")


@dataclass
class _Stock:
    """Everything that is stored of the same bytes."""

    blob: ObjectInfo | None = None
    manifests: dict[str, ObjectInfo] = field(default_factory=dict)

    @property
    def objects(self) -> tuple[ObjectInfo, ...]:
        """Manifests first: they refer to the bytes."""
        return (*self.manifests.values(), *([self.blob] if self.blob else []))


class _Pruning:
    """One prune of one model."""

    def __init__(self, opened: OpenDestination, model_name: str, keep: int, keyring: Keyring) -> None:
        self._opened = opened
        self._store: Store = opened.store
        self._model_name = model_name
        self._keep = keep
        self._keyring = keyring
        self._channels: set[str] = set()
        self._stock: dict[str, _Stock] = {}
        self._sha256_of: dict[str, str] = {}  # by release id
        self._unreadable: list[str] = []
        self._leftover: set[str] = set()  # announced by a prune before
        self._to_take_back: set[str] = set()
        self._deleted: set[str] = set()
        self._num_young = 0
        self.doomed: set[str] = set()

    def take_stock(self, grace: datetime.timedelta) -> None:
        """Finds out what there is and what of it nobody needs."""
        channels = channels_of(self._store, self._model_name)
        statements = [
            published(self._act(channel).read(), self._store, self._model_name, channel) for _, channel in channels
        ]
        if not statements:
            raise NothingPublishedError(
                f"{self._store.address} has no channel of model {self._model_name!r}, so nothing says what is in use. "
                "Nothing was deleted. Check model and destination; if the model is given up, delete its folders."
            )
        self._channels = {channel for _, channel in channels}
        for statement in statements:
            self._act(statement.channel).check_may_sign(statement)
            self._leftover |= set(statement.pruning)
            self._sha256_of |= {entry.release_id: entry.sha256 for entry in statement.history}
        for sha256, info in blobs_of(self._store, self._model_name).items():
            self._stock.setdefault(sha256, _Stock()).blob = info
        for release_id, info in manifests_of(self._store, self._model_name).items():
            if of := self._bytes_of(release_id):
                self._stock.setdefault(of, _Stock()).manifests[release_id] = info
            else:
                self._unreadable.append(release_id)
        written = [info.modified for stock in self._stock.values() for info in stock.objects]
        now = max([*written, *(info.modified for info in channels.values())])
        young = {
            sha256
            for sha256, stock in self._stock.items()
            if any(info.modified > now - grace for info in stock.objects)
        }
        needed = set().union(*(self._needed(statement) for statement in statements))
        self._num_young = len(young - needed)
        self.doomed = (self._stock.keys() - needed - young) | (self._leftover - needed)

    @property
    def has_work(self) -> bool:
        """Whether there is anything to delete, or to finish."""
        return bool(self.doomed or self._leftover)

    def announce(self) -> None:
        """Tells every channel, also those that appear meanwhile, until all know."""
        for sha256 in sorted(self.doomed & self._stock.keys())[:1]:
            for info in self._stock[sha256].objects:
                self._store.check_writable(info.path)
        self._to_take_back |= self._leftover
        told: set[str] = set()
        while unaware := self._channels - told:
            for channel in sorted(unaware):
                move_channel(self._store, self._model_name, channel, self._announcement, self._keyring)
            told |= unaware
            self._channels |= {channel for _, channel in channels_of(self._store, self._model_name)}

    def delete(self) -> None:
        """Deletes manifests, then bytes; what was written anew since it was listed stays."""
        for sha256 in sorted(self.doomed):
            stock = self._stock.get(sha256, _Stock())
            if all(self._store.delete(info.path, info.generation) for info in stock.objects):
                self._deleted.add(sha256)

    def take_back(self) -> None:
        """Takes back the announcement."""
        naming: dict[str, str] = {}

        def change(current: ChannelStatement | None) -> Draft | None:
            if current is None:
                return None
            naming[current.channel] = current.sha256
            left = tuple(sha256 for sha256 in current.pruning if sha256 not in self._to_take_back)
            if left == current.pruning:
                return None
            return Draft("prune", current.release_id, current.sha256, {"pruning": left})

        for _, channel in sorted(channels_of(self._store, self._model_name)):
            move_channel(self._store, self._model_name, channel, change, self._keyring)
        gone = (
            self._deleted.intersection(naming.values())
            and self._deleted - blobs_of(self._store, self._model_name).keys()
        )
        if broken := [channel for channel, sha256 in sorted(naming.items()) if sha256 in gone]:
            raise ConflictError(
                f"{', '.join(self._act(channel).uri for channel in broken)} appeared while its release was being "
                "pruned. Whoever made the channel restores the release, or fails and does so when run again."
            )

    def receipt(self, status: Literal["done", "unchanged", "dry_run"]) -> PruneReceipt:
        """What was or would be done."""
        return PruneReceipt(
            status=status,
            destination=self._store.address,
            model=self._model_name,
            channels=tuple(sorted(self._channels)),
            num_kept=len(self._stock.keys() - self.doomed),
            num_young=self._num_young,
            pruned=tuple(self._pruned(sha256) for sha256 in sorted(self.doomed & self._stock.keys())),
            unreadable=tuple(sorted(self._unreadable)),
        )

    def _pruned(self, sha256: str) -> PrunedRelease:
        stock = self._stock[sha256]
        return PrunedRelease(
            sha256=sha256,
            release_ids=tuple(sorted(stock.manifests)),
            size_bytes=sum(info.size_bytes for info in stock.objects),
            deleted=sha256 in self._deleted,
        )

    def _announcement(self, current: ChannelStatement | None) -> Draft | None:
        if current is None:
            return None
        self._sha256_of |= {entry.release_id: entry.sha256 for entry in current.history}
        self.doomed -= self._needed(current)
        pruning = tuple(sorted({*current.pruning, *self.doomed}))
        previous = tuple(entry for entry in current.history if entry.sha256 not in pruning)
        self._to_take_back |= self.doomed
        if set(pruning) == set(current.pruning):
            return None
        return Draft("prune", current.release_id, current.sha256, {"pruning": pruning, "previous": previous})

    def _needed(self, statement: ChannelStatement) -> set[str]:
        """Hashes that must stay because of a channel. What was announced already is only saved by its name or a pin."""
        needed = {statement.sha256} | {self._bytes_of_pinned(statement, one) for one in statement.pinned}
        newest = dict.fromkeys(entry.sha256 for entry in statement.history)
        return needed | (set(list(newest)[: self._keep]) - self._leftover)

    def _bytes_of_pinned(self, statement: ChannelStatement, release_id: str) -> str:
        if of := self._bytes_of(release_id):
            return of
        raise ConflictError(
            f"Release {release_id} is pinned on {self._act(statement.channel).uri}, and its manifest is missing or "
            "damaged, so that nobody can tell which bytes it needs. Nothing was deleted: push it again, or unpin it "
            f"with tfx-mobile unpin {self._model_name} {release_id[:12]} --channel {statement.channel}."
        )

    def _bytes_of(self, release_id: str) -> str | None:
        """The hash a release is of; None if its manifest is not readable.

        No signature is asked for: a manifest can only make its own bytes stay, or go itself.
        """
        if release_id not in self._sha256_of:
            try:
                manifest = read_manifest(self._store, self._model_name, release_id)
            except ConflictError:
                return None
            self._sha256_of[release_id] = manifest.file.sha256
        return self._sha256_of[release_id]

    def _act(self, channel: str) -> Act:
        return Act("prune", self._opened, self._model_name, channel, self._keyring)
