"""One push at several destinations, in an order that any later run can finish.

1. Every destination is checked; a problem at any of them stops the push before anything is written.
2. Bytes and manifests are written everywhere. No device sees them.
3. Channels move: first where a service of its own follows the channel and may refuse the model, then the others.

There is no journal. The destinations are the state: a run that dies is finished by the next one.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from tfx_mobile.errors import ModelTooLargeError, SupersededError, TFXMobileError
from tfx_mobile.records import PushReceipt
from tfx_mobile.release_store.destinations import Destination
from tfx_mobile.release_store.publishing import Push, plan, publish, stage
from tfx_mobile.release_store.signing import Keyring
from tfx_mobile.release_store.store import Follower, FollowResult, Store

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class OpenDestination:
    """A destination with its connections.

    Attributes:
        destination: Where.
        store: Its release store.
        follower: The service that follows the store's channels; None if devices read the store itself.
    """

    destination: Destination
    store: Store
    follower: Follower | None

    @property
    def address(self) -> str:
        """For people and receipts."""
        return self.follower.address if self.follower else self.store.address

    def follow(self, model_name: str, channel: str) -> FollowResult:
        """Makes a service that follows the channel serve what it names."""
        return self.follower.follow(model_name, channel) if self.follower else FollowResult(changed=False)


def open_destinations(destinations: Sequence[Destination], keyring: Keyring) -> tuple[OpenDestination, ...]:
    """Opens destinations; nothing is read or written yet."""
    opened = []
    for destination in destinations:
        store = destination.open_store()
        opened.append(OpenDestination(destination, store, destination.open_follower(store, keyring)))
    return tuple(opened)


def plan_delivery(
    destinations: Sequence[OpenDestination], push: Push, on_stale: Literal["skip", "fail"] = "skip"
) -> tuple[PushReceipt, ...]:
    """Makes every check and writes nothing; one receipt per destination.

    Args:
        destinations: Where to.
        push: What.
        on_stale: Whether a newer run's release on a channel is an error.

    Raises:
        ModelTooLargeError: The file exceeds what a destination takes.
        SupersededError: A newer run was faster at one of them.
        PushError: See `publishing.plan` and `Follower.check`.
    """
    for opened in destinations:
        limit = opened.destination.size_limit
        if limit is not None and len(push.model) > limit:
            raise ModelTooLargeError(
                f"The model has {len(push.model):,} bytes, {opened.address} takes at most {limit:,}. Nothing was "
                "written anywhere. Choose a smaller recipe, or raise max_model_bytes of the destination if its service "
                "takes more."
            )
    planned = tuple(_plan(opened, push) for opened in destinations)
    for receipt in planned:
        _log.info("Checked %s: a push would be %s.", receipt.destination, receipt.details["would_be"])
        if on_stale == "fail" and receipt.details["would_be"] == "superseded":
            raise _superseded(receipt, push)
    return planned


def deliver(
    destinations: Sequence[OpenDestination], push: Push, on_stale: Literal["skip", "fail"] = "skip"
) -> tuple[PushReceipt, ...]:
    """Publishes at every destination; one receipt per destination, in the given order.

    Args:
        destinations: Where to.
        push: What.
        on_stale: Whether a newer run's release on a channel is an error.

    Raises:
        SupersededError: A newer run was faster at one of them.
        PushError: See `plan_delivery` and `publishing.publish`. Where there are several destinations, the message says
            which are done and which were not attempted; a later run leaves the former unchanged and does the others.
    """
    planned = plan_delivery(destinations, push, on_stale)
    receipts: dict[int, PushReceipt] = {}
    if len(destinations) > 1:
        for position, receipt in enumerate(planned):
            if receipt.details["would_be"] == "pushed":
                with _reporting(destinations, receipts, position):
                    stage(destinations[position].store, push)
    for position in sorted(range(len(destinations)), key=lambda i: destinations[i].follower is None):
        with _reporting(destinations, receipts, position):
            receipt = _publish(destinations[position], push)
            if on_stale == "fail" and receipt.status == "superseded":
                raise _superseded(receipt, push)
        receipts[position] = receipt
        _log.info("%s: %s: %s", receipt.destination, receipt.status, receipt.to_json().decode())
    return tuple(receipts[position] for position in range(len(destinations)))


@contextlib.contextmanager
def _reporting(
    destinations: Sequence[OpenDestination], receipts: Mapping[int, PushReceipt], position: int
) -> Iterator[None]:
    """Adds to an error at one destination what came of the others."""
    try:
        yield
    except TFXMobileError as error:
        _log.error("%s: failed: %s", destinations[position].address, error)
        if len(destinations) == 1:
            raise
        raise type(error)(f"{error} {_progress(destinations, receipts, position)}") from error


def _progress(destinations: Sequence[OpenDestination], receipts: Mapping[int, PushReceipt], failed: int) -> str:
    """What came of each destination when one failed."""
    done = ", ".join(f"{receipt.destination} ({receipt.status})" for receipt in receipts.values())
    left = ", ".join(d.address for i, d in enumerate(destinations) if i != failed and i not in receipts)
    return (
        f"Failed: {destinations[failed].address}. Already done: {done or 'none'}. Not attempted: {left or 'none'}. Run "
        "the pipeline again when the cause is gone: what is done stays unchanged, the rest follows."
    )


def _superseded(receipt: PushReceipt, push: Push) -> SupersededError:
    return SupersededError(
        f"Channel {push.channel!r} of {push.manifest.model!r} at {receipt.destination} has the release of a newer run "
        f"({receipt.previous_release_id}, version {receipt.channel_version}): examples or model of this one are older. "
        "Nothing was published there. To end well instead, set on_stale='skip'; to go back on purpose: tfx-mobile "
        "rollback."
    )


def _plan(opened: OpenDestination, push: Push) -> PushReceipt:
    receipt = plan(opened.store, push)
    if opened.follower is None:
        return receipt
    name = push.manifest.model
    opened.follower.check(name, push.channel, len(push.model))
    details = dict(receipt.details)
    if details["would_be"] == "unchanged" and not opened.follower.is_following(name, push.channel):
        details["would_be"] = "pushed"
    return receipt.model_copy(update={"destination": opened.address, "details": details})


def _publish(opened: OpenDestination, push: Push) -> PushReceipt:
    receipt = publish(opened.store, push)
    if opened.follower is None:
        return receipt
    result = opened.follow(push.manifest.model, push.channel)
    status = "pushed" if result.changed and receipt.status == "unchanged" else receipt.status
    return receipt.model_copy(update={"status": status, "destination": opened.address, "details": result.details})
