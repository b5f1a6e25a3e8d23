"""A few examples to look at closely: always the same ones of the same examples, however they are read."""

from __future__ import annotations

import base64
import hashlib
import heapq
from collections.abc import Iterable
from typing import Any

import tensorflow_model_analysis as tfma

from tfx_mobile.quantization_evaluator.scoring.aside import Finding

_Chosen = list[tuple[bytes, bytes]]


class SampleFinding(Finding[_Chosen]):
    """The examples with the smallest SHA-256, for `aside.Aside`: a random choice that no order of reading changes.

    Equal examples count once.
    """

    def __init__(self, count: int, max_bytes: int) -> None:
        """Describes the choice.

        Args:
            count: How many examples.
            max_bytes: Of these, as many as fit into this size when serialized; the first always.
        """
        self._count = count
        self._max_bytes = max_bytes

    def of_batch(self, extracts: dict[str, Any]) -> _Chosen:
        """Chooses among the serialized tf.Examples of a batch."""
        return self._smallest((hashlib.sha256(data).digest(), data) for data in extracts[tfma.INPUT_KEY])

    def merged(self, summaries: Iterable[_Chosen]) -> _Chosen:
        """Chooses among what was chosen."""
        return self._smallest(chosen for summary in summaries for chosen in summary)

    def to_json(self, summary: _Chosen) -> Any:
        """The serialized examples in base64, in the order of their hashes."""
        return [base64.b64encode(data).decode() for _, data in summary]

    def _smallest(self, candidates: Iterable[tuple[bytes, bytes]]) -> _Chosen:
        # What does not fit among some examples does not fit among more of them, so it may be left out early.
        kept: _Chosen = []
        size = 0
        for digest, data in heapq.nsmallest(self._count, dict(candidates).items()):
            size += len(data)
            if kept and size > self._max_bytes:
                break
            kept.append((digest, data))
        return kept


def from_json(value: Any) -> tuple[bytes, ...]:
    """The serialized examples that `SampleFinding.to_json` wrote."""
    return tuple(base64.b64decode(data) for data in value)
