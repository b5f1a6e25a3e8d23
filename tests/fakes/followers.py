"""A service that hands one model per name to devices and knows no compare-and-swap, kept in a folder."""

from __future__ import annotations

from pathlib import Path

from tfx_mobile.errors import DestinationUnavailableError, ModelTooLargeError
from tfx_mobile.release_store.reading import current_statement, resolve
from tfx_mobile.release_store.store import FollowResult, Store


class FolderFollower:
    """Follows the channels of a store by copying their models into a folder.

    Attributes:
        down: Whether the service is out of order.
        max_bytes: What it takes.
    """

    def __init__(self, store: Store, folder: Path) -> None:
        self._store = store
        self._folder = folder
        self.down = False
        self.max_bytes = 1_000_000

    @property
    def address(self) -> str:
        return f"service at {self._folder}"

    def served(self, model_name: str) -> bytes | None:
        file = self._folder / model_name
        return file.read_bytes() if file.exists() else None

    def check(self, model_name: str, channel: str, size_bytes: int) -> None:
        if size_bytes > self.max_bytes:
            raise ModelTooLargeError(f"{self.address} takes at most {self.max_bytes} bytes.")

    def is_following(self, model_name: str, channel: str) -> bool:
        if current_statement(self._store, model_name, channel) is None:
            return self.served(model_name) is None
        return self.served(model_name) == resolve(self._store, model_name, channel).model

    def follow(self, model_name: str, channel: str) -> FollowResult:
        if self.down:
            raise DestinationUnavailableError(f"{self.address} is out of order.")
        changed = not self.is_following(model_name, channel)
        if changed:
            self._folder.mkdir(parents=True, exist_ok=True)
            (self._folder / model_name).write_bytes(resolve(self._store, model_name, channel).model)
        return FollowResult(changed, {"served": "yes"})
