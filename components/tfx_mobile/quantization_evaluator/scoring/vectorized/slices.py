"""Which slices the rows of a batch belong to; the keys are made by TFMA's own slicer.

A row of plain columns needs no look of its own: rows with the same values belong to the same slices, so TFMA's slicer
sees one of them. Rows of several values, or of none, are looked at one by one.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow_model_analysis as tfma
from tensorflow_model_analysis.slicer import slicer_lib

Array = npt.NDArray[Any]
SliceKey = tuple[tuple[str, Any], ...]


class Slicer:
    """Gives slices numbers as they turn up.

    Args:
        config: A tfma.EvalConfig; without slicing_specs there is one slice, of everything.

    Attributes:
        keys: The slice key of each number.
    """

    def __init__(self, config: Any) -> None:
        specs = list(config.slicing_specs) or [tfma.SlicingSpec()]
        self._specs = [
            (slicer_lib.SingleSliceSpec(spec=spec), sorted({*spec.feature_keys, *spec.feature_values}))
            for spec in specs
        ]
        self._numbers: dict[SliceKey, int] = {}
        self._seen: dict[Any, list[int]] = {}
        self.keys: list[SliceKey] = []

    def slice_rows(self, extracts: Mapping[str, Any], count: int) -> tuple[Array, Array]:
        """The slices of each row.

        Args:
            extracts: A batch, with TFMA's features.
            count: Number of its rows.

        Returns:
            Pairs of row and slice number, as two int64 arrays [pairs]; every pair once.
        """
        rows, numbers = [], []
        features = extracts[tfma.FEATURES_KEY]
        for index, (spec, columns) in enumerate(self._specs):
            if not columns:
                groups: Iterator[tuple[Array, list[int]]] = iter([(np.arange(count), [self._number(())])])
            elif all(_is_plain(features.get(column), count) for column in columns):
                groups = self._by_value(index, spec, {column: features[column].reshape(count) for column in columns})
            else:
                groups = self._by_row(spec, {column: features.get(column) for column in columns}, count)
            for members, found in groups:
                rows.append(np.tile(members, len(found)))
                numbers.append(np.repeat(np.array(found, np.int64), len(members)))
        for row, keys in enumerate(_sql_slice_keys(extracts)):
            rows.append(np.full(len(keys), row))
            numbers.append(np.array([self._number(key) for key in keys], np.int64))
        pairs = np.unique(np.concatenate(numbers) * count + np.concatenate(rows))
        return pairs % count, pairs // count

    def _by_value(self, index: int, spec: Any, columns: Mapping[str, Array]) -> Iterator[tuple[Array, list[int]]]:
        codes = np.zeros(len(next(iter(columns.values()))), np.int64)
        for values in columns.values():
            distinct, code = np.unique(values, return_inverse=True)
            codes = np.unique(codes * len(distinct) + code.reshape(-1), return_inverse=True)[1].reshape(-1)
        order = np.argsort(codes, kind="stable")
        for members in np.split(order, np.flatnonzero(np.diff(codes[order])) + 1):
            row = {column: values[members[:1]] for column, values in columns.items()}
            seen = (index, *(value[0] for value in row.values()))
            if seen not in self._seen:
                self._seen[seen] = self._numbers_of(spec, row)
            yield members, self._seen[seen]

    def _by_row(self, spec: Any, columns: Mapping[str, Any], count: int) -> Iterator[tuple[Array, list[int]]]:
        by_column = {column: _values_by_row(values, count) for column, values in columns.items()}
        for row in range(count):
            present = {column: values[row] for column, values in by_column.items() if values[row] is not None}
            yield np.array([row]), self._numbers_of(spec, present)

    def _numbers_of(self, spec: Any, row: Mapping[str, Any]) -> list[int]:
        return [self._number(key) for key in slicer_lib.get_slices_for_features_dicts([], dict(row), [spec])]

    def _number(self, key: SliceKey) -> int:
        if key not in self._numbers:
            self._numbers[key] = len(self.keys)
            self.keys.append(key)
        return self._numbers[key]


def _is_plain(values: Any, count: int) -> bool:
    if not isinstance(values, np.ndarray) or values.size != count:
        return False
    return values.dtype != object or not any(value is None for value in values.flat)


def _values_by_row(values: Any, count: int) -> list[Any]:
    if values is None:
        return [None] * count
    if isinstance(values, np.ndarray):
        return [None if row is None else np.array([v for v in np.ravel(row) if v is not None]) for row in values]
    # A VarLenTensorValue: values of all rows one after the other.
    starts = np.searchsorted(values.indices[:, 0], np.arange(count + 1))
    return [values.values[start:stop] for start, stop in itertools.pairwise(starts)]


def _sql_slice_keys(extracts: Mapping[str, Any]) -> list[list[SliceKey]]:
    """What TFMA's SqlSliceKeyExtractor found, by row."""
    values = extracts.get(tfma.SLICE_KEY_TYPES_KEY)
    if values is None:
        return []
    count = len(extracts[tfma.INPUT_KEY])
    return [[tuple(map(tuple, key)) for key in row] for row in _values_by_row(values, count)]
