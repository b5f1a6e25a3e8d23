"""A release store whose calls are counted, and before any of which something else can happen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

from tfx_mobile.release_store.store import ObjectInfo, Store, StoredObject


class WatchedStore:
    """Passes every call on to a real store.

    Args:
        store: The real one.
        before: Called before each call with its number, from 0.
    """

    def __init__(self, store: Store, before: Callable[[int], object] = lambda _: None) -> None:
        self._store = store
        self._before = before
        self.calls: Counter[str] = Counter()
        self.bytes_read = 0
        self.bytes_written = 0

    def _note(self, name: str) -> None:
        self._before(self.calls.total())
        self.calls[name] += 1

    @property
    def address(self) -> str:
        return self._store.address

    def uri(self, path: str) -> str:
        return self._store.uri(path)

    def read(self, path: str) -> StoredObject | None:
        self._note("read")
        stored = self._store.read(path)
        self.bytes_read += len(stored.data) if stored else 0
        return stored

    def holds(self, path: str, data: bytes) -> bool:
        self._note("holds")
        return self._store.holds(path, data)

    def check_writable(self, path: str) -> None:
        self._note("check_writable")
        self._store.check_writable(path)

    def put_if_absent(self, path: str, data: bytes) -> None:
        self._note("put_if_absent")
        if not self._store.holds(path, data):
            self.bytes_written += len(data)
        self._store.put_if_absent(path, data)

    def compare_and_swap(self, path: str, data: bytes, generation: str | None) -> bool:
        self._note("compare_and_swap")
        self.bytes_written += len(data)
        return self._store.compare_and_swap(path, data, generation)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        self._note("list")
        return self._store.list(prefix)

    def delete(self, path: str, generation: str) -> bool:
        self._note("delete")
        return self._store.delete(path, generation)
