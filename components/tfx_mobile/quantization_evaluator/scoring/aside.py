"""What the pass finds out beside TFMA's metrics: one small result over all batches, out of the pipeline into a file."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

import apache_beam as beam
from tfx.dsl.io import fileio

_SummaryT = TypeVar("_SummaryT")


class Finding(Generic[_SummaryT]):
    """What is to be found out; pickled with the pipeline.

    A summary must stay small however many examples it is of, and must not depend on how they were batched.
    """

    def of_batch(self, extracts: dict[str, Any]) -> _SummaryT:
        """The summary of a batch of extracts with predictions."""
        raise NotImplementedError

    def merged(self, summaries: Iterable[_SummaryT]) -> _SummaryT:
        """The summary of all batches together; of none, that of no example."""
        raise NotImplementedError

    def to_json(self, summary: _SummaryT) -> Any:
        """What is written of it: a JSON value."""
        raise NotImplementedError


class Aside(beam.PTransform):
    """Passes batches of extracts on as they are and writes a Finding about them to a file.

    Batches are summarized where they are, so that only summaries travel between workers.
    """

    def __init__(self, finding: Finding[Any], path: str) -> None:
        """Describes the transform.

        Args:
            finding: What to find out.
            path: The file to write, as JSON.
        """
        super().__init__()
        self._finding = finding
        self._path = path

    def expand(self, batches: Any) -> Any:
        """Returns `batches`."""
        _ = (
            batches
            | "Summarize" >> beam.Map(self._finding.of_batch)
            | "Merge" >> beam.CombineGlobally(_Merge(self._finding.merged))
            | "ToJson" >> beam.Map(self._finding.to_json)
            | "Write" >> beam.Map(write, self._path)
        )
        return batches


def write(value: Any, path: str) -> None:
    """Writes a JSON value to a file, with the folders it needs; as often as a runner tries."""
    fileio.makedirs(posixpath.dirname(path))
    with fileio.open(path, "w") as stream:
        stream.write(json.dumps(value))


def read(path: str) -> Any:
    """Reads what `write` wrote and removes the file."""
    with fileio.open(path, "r") as stream:
        value = json.loads(stream.read())
    fileio.remove(path)
    return value


class _Merge(beam.CombineFn):
    def __init__(self, merged: Callable[[Iterable[Any]], Any]) -> None:
        self._merged = merged

    def create_accumulator(self) -> Any:
        return self._merged([])

    def add_input(self, accumulator: Any, summary: Any) -> Any:
        return self._merged([accumulator, summary])

    def merge_accumulators(self, accumulators: Iterable[Any]) -> Any:
        return self._merged(accumulators)

    def extract_output(self, accumulator: Any) -> Any:
        return accumulator
