"""Publishing exactly the bytes that were blessed: `component` and `executor`. What they write is in `release_store`."""
