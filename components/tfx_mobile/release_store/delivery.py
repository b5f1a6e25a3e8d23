"""One push at several destinations, in an order that any later run can finish.

1. Every destination is checked; a problem at any of them stops the push before anything is written.
2. Bytes and manifests are written everywhere. No device sees them.
3. Channels move: first where a service of its own follows the channel and may refuse the model, then the others.

There is no journal. The destinations are the state: a run that dies is finished by the next one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tfx_mobile.errors import ModelTooLargeError, TFXMobileError
from tfx_mobile.records import PushReceipt
from tfx_mobile.release_store.destinations import Destination
from tfx_mobile.release_store.publishing import Push, plan, publish, stage
from tfx_mobile.release_store.signing import Keyring
from tfx_mobile.release_store.store import Follower, FollowResult, Store


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


def plan_delivery(destinations: Sequence[OpenDestination], push: Push) -> tuple[PushReceipt, ...]:
    """Makes every check and writes nothing; one receipt per destination.

    Raises:
        ModelTooLargeError: The file exceeds what a destination takes.
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
    return tuple(_plan(opened, push) for opened in destinations)


def deliver(destinations: Sequence[OpenDestination], push: Push) -> tuple[PushReceipt, ...]:
    """Publishes at every destination; one receipt per destination, in the given order.

    Raises:
        PushError: See `plan_delivery` and `publishing.publish`. If some destinations are done already, the message
            names them; a later run leaves them unchanged and does the others.
    """
    planned = plan_delivery(destinations, push)
    if len(destinations) > 1:
        for opened, receipt in zip(destinations, planned, strict=True):
            if receipt.details["would_be"] == "pushed":
                stage(opened.store, push)
    receipts: dict[int, PushReceipt] = {}
    for position in sorted(range(len(destinations)), key=lambda i: destinations[i].follower is None):
        try:
            receipts[position] = _publish(destinations[position], push)
        except TFXMobileError as error:
            done = ", ".join(f"{receipt.destination} ({receipt.status})" for receipt in receipts.values())
            if not done:
                raise
            raise type(error)(f"{error} Already done: {done}; the next run leaves these unchanged.") from error
    return tuple(receipts[position] for position in range(len(destinations)))


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
