"""Calibration as a whole: draws the sample, finds out where the model's inputs come from, and reports on both.

What a converter cannot notice is found by comparing the sample with the evaluation split: a range that is too narrow or
too wide, and examples that calibrate and evaluate at once. Runs in the child process only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tfx_mobile.errors import CalibrationError
from tfx_mobile.recipes import CalibrationSpec
from tfx_mobile.records import (
    CalibrationFinding,
    CalibrationRecord,
    EvaluationSplit,
    InputRange,
    TensorRecord,
)
from tfx_mobile.tflite_converter import calibration
from tfx_mobile.transform_graph import CannotTransformError, TransformGraph, conform, stored_features

Array = npt.NDArray[Any]
Source = Literal["signature", "examples", "transform_graph"]

#: Share of evaluation examples outside an input's calibrated range above which there is a finding. Of examples drawn
#: alike, 2 in (samples + 1) lie outside by chance, whatever the distribution: 1 % at 200 samples.
OUTSIDE_LIMIT = 0.05
#: Share of an input's calibrated range that evaluation examples use, below which there is a finding: two of the eight
#: bits are lost.
USED_LIMIT = 0.25


@dataclass(frozen=True)
class Calibration:
    """The representative dataset and what is known about it.

    Attributes:
        drawn: The drawn examples.
        parse: From serialized tf.Examples of the same step to the model's inputs.
        values: The sample's values [rows, ...] by input name.
        record: The report.
    """

    drawn: calibration.Draw
    parse: calibration.Parse
    values: dict[str, Array]
    record: CalibrationRecord


def calibrate(
    spec: CalibrationSpec,
    files: Sequence[str],
    inputs: Sequence[TensorRecord],
    *,
    signature_parse: calibration.Parse | None = None,
    transform_graph: str | None = None,
    schema: str | None = None,
    evaluation_files: Sequence[str] = (),
    not_compared: str | None = None,
    extra: int = 0,
    progress: Callable[[], None] = lambda: None,
) -> Calibration:
    """Draws, parses, checks and reports.

    Args:
        spec: Which examples.
        files: TFRecord files of `spec.split`.
        inputs: The inputs of the signature that is converted, [batch, ...].
        signature_parse: The parsing that was cut off the signature; None if it takes raw tensors.
        transform_graph: Folder of a TransformGraph artifact; None without one.
        schema: Path of the raw examples' schema; None without one.
        evaluation_files: TFRecord files of `spec.evaluation_split`.
        not_compared: Why there are no evaluation files.
        extra: How many further examples to draw, for other uses than calibration.
        progress: Called now and then.

    Raises:
        CalibrationError: The examples cannot calibrate this model, or leakage was found and is refused.
    """
    drawn = calibration.draw(files, spec, progress, extra=extra)
    source, parse, findings = _find_inputs(drawn, inputs, signature_parse, transform_graph, schema)
    progress()
    values = calibration.samples(drawn.records, parse, inputs)
    if spec.label is not None and drawn.label_balance is None:
        findings.append(
            CalibrationFinding(
                code="label_values",
                message=f"Label {spec.label!r} has too many values to be classes; its balance is not reported.",
            )
        )
    ranges = {
        name: InputRange(name=name, minimum=float(array.min()), maximum=float(array.max()))
        for name, array in sorted(values.items())
        if np.issubdtype(array.dtype, np.number) and array.size
    }
    comparison: _Comparison | None = None
    num_leaked: int | None = None
    if spec.evaluation_split == spec.split:
        num_leaked = len(drawn.records)
        not_compared = f"The sample is drawn from the evaluation split {spec.split!r} itself."
    elif evaluation_files:
        try:
            comparison = _compare(spec, evaluation_files, parse, inputs, values, ranges, progress)
            num_leaked = comparison.num_leaked
        except CalibrationError as error:
            not_compared = f"The examples of split {spec.evaluation_split!r} cannot be compared: {error}"
    elif not_compared is None:
        not_compared = "No evaluation split was given."
    _refuse_leakage(spec, len(drawn.records), num_leaked, not_compared)
    if num_leaked:
        findings.append(CalibrationFinding(code="leakage", message=_leakage(spec, len(drawn.records), num_leaked)))
    if comparison is None:
        if spec.evaluation_split not in (None, spec.split):
            findings.append(CalibrationFinding(code="not_compared", message=f"Not compared: {not_compared}"))
    else:
        ranges = {name: comparison.completed(spread) for name, spread in ranges.items()}
        floating = {tensor.name for tensor in inputs if np.issubdtype(values[tensor.name].dtype, np.floating)}
        findings += [f for name in sorted(floating & set(ranges)) for f in _range_findings(spec, ranges[name])]
    record = CalibrationRecord(
        spec=spec,
        num_samples=len(drawn.records),
        num_examples=drawn.num_examples,
        sha256=_digest(drawn.records),
        ranges=tuple(ranges.values()),
        source=source,
        strata=drawn.strata,
        label_balance=drawn.label_balance,
        evaluation=None if comparison is None else comparison.split,
        not_compared=None if comparison is not None else not_compared,
        num_leaked=num_leaked,
        findings=tuple(findings),
    )
    return Calibration(drawn=drawn, parse=parse, values=values, record=record)


def _find_inputs(
    drawn: calibration.Draw,
    inputs: Sequence[TensorRecord],
    signature_parse: calibration.Parse | None,
    transform_graph: str | None,
    schema: str | None,
) -> tuple[Source, calibration.Parse, list[CalibrationFinding]]:
    """Decides where the inputs come from, and returns the parsing to use."""
    if signature_parse is not None:
        return "signature", signature_parse, []
    if transform_graph is None:
        return "examples", calibration.raw_parser(inputs), []
    try:
        graph = TransformGraph(transform_graph, schema)
        stored = stored_features(drawn.records)
        choice = graph.choose(stored, inputs)
    except CannotTransformError as error:
        raise CalibrationError(str(error)) from error
    if choice.source == "examples":
        return "examples", calibration.raw_parser(inputs), []
    raw_features = graph.raw_features(stored)

    def parse(records: Sequence[bytes]) -> dict[str, Array]:
        try:
            return conform(graph.apply(records, raw_features), inputs)
        except CannotTransformError as error:
            raise CalibrationError(str(error)) from error

    findings = []
    if choice.assumed:
        findings.append(
            CalibrationFinding(
                code="transform_assumed",
                message="The model's inputs are features of the raw examples as well as outputs of the transform "
                "graph, of the same types. The graph was applied because transform_graph is given; leave it out if the "
                "signature takes raw features.",
            )
        )
    return "transform_graph", parse, findings


@dataclass
class _Spread:
    """Counts of one input over the evaluation split."""

    minimum: float | None = None
    maximum: float | None = None
    num_values: int = 0
    values_outside: int = 0
    rows_outside: int = 0

    def add(self, array: Array, calibrated: InputRange) -> None:
        rows = array.reshape(len(array), -1)
        # Also true for NaN.
        outside = ~((rows >= calibrated.minimum) & (rows <= calibrated.maximum))
        self.num_values += rows.size
        self.values_outside += int(outside.sum())
        self.rows_outside += int(outside.any(axis=1).sum())
        finite = rows[np.isfinite(rows)]
        if finite.size:
            low, high = float(finite.min()), float(finite.max())
            self.minimum = low if self.minimum is None else min(self.minimum, low)
            self.maximum = high if self.maximum is None else max(self.maximum, high)


@dataclass
class _Comparison:
    """What the evaluation split told."""

    split: EvaluationSplit
    num_leaked: int
    spreads: Mapping[str, _Spread] = field(default_factory=dict)

    def completed(self, calibrated: InputRange) -> InputRange:
        spread = self.spreads[calibrated.name]
        return calibrated.model_copy(
            update={
                "evaluation_minimum": spread.minimum,
                "evaluation_maximum": spread.maximum,
                "values_outside": spread.values_outside / spread.num_values,
                "rows_outside": spread.rows_outside / self.split.num_examples,
            }
        )


def _compare(
    spec: CalibrationSpec,
    files: Sequence[str],
    parse: calibration.Parse,
    inputs: Sequence[TensorRecord],
    values: Mapping[str, Array],
    ranges: Mapping[str, InputRange],
    progress: Callable[[], None],
) -> _Comparison:
    """Reads the evaluation split once, all of it, with memory for one batch.

    Raises:
        CalibrationError: The split is empty, damaged, or does not fit the inputs.
    """
    assert spec.evaluation_split is not None  # noqa: S101 - there are files of it
    sampled = list(_row_digests(values))
    wanted, found = set(sampled), set()
    spreads = {name: _Spread() for name in ranges}
    count = 0
    for batch in calibration.read(files, spec.evaluation_split):
        progress()
        evaluated = calibration.parse_inputs(batch, parse, inputs)
        found.update(wanted.intersection(_row_digests(evaluated)))
        for name, spread in spreads.items():
            spread.add(evaluated[name], ranges[name])
        count += len(batch)
    if not count:
        raise CalibrationError("there are none.")
    return _Comparison(
        split=EvaluationSplit(split=spec.evaluation_split, num_examples=count),
        num_leaked=sum(digest in found for digest in sampled),
        spreads=spreads,
    )


def _row_digests(values: Mapping[str, Array]) -> Iterator[bytes]:
    """A hash of what the model sees of each row: other features and how an example was serialized do not count."""
    # Adding zero turns -0.0 into 0.0, which is the same number.
    arrays = [
        array if array.dtype.kind in "OSUb" else array + array.dtype.type(0) for _, array in sorted(values.items())
    ]
    for row in range(len(arrays[0])):
        digest = hashlib.blake2b(digest_size=16)
        for array in arrays:
            if array.dtype == object:
                for text in array[row].ravel():
                    digest.update(len(text).to_bytes(8, "big") + text)
            else:
                digest.update(array[row].tobytes())
        yield digest.digest()


def _digest(records: Sequence[bytes]) -> str:
    digest = hashlib.sha256()
    for record in records:
        digest.update(len(record).to_bytes(8, "big") + record)
    return digest.hexdigest()


def _leakage(spec: CalibrationSpec, num_samples: int, num_leaked: int) -> str:
    return (
        f"{num_leaked} of {num_samples} calibration samples from split {spec.split!r} have the same model inputs as an "
        f"example of evaluation split {spec.evaluation_split!r}, so the evaluation judges the variants on data they "
        "were calibrated with. Calibrate from another split with CalibrationSpec(split=...), or remove the shared "
        "examples from one of the splits."
    )


def _refuse_leakage(spec: CalibrationSpec, num_samples: int, num_leaked: int | None, not_compared: str | None) -> None:
    if spec.leakage != "refuse":
        return
    if num_leaked is None:
        raise CalibrationError(
            f"Leakage is refused, but cannot be checked for: {not_compared} Name the split that is evaluated with "
            "CalibrationSpec(evaluation_split=...), or only warn with leakage='warn'."
        )
    if num_leaked:
        raise CalibrationError(f"{_leakage(spec, num_samples, num_leaked)} Or only warn with leakage='warn'.")


def _range_findings(spec: CalibrationSpec, spread: InputRange) -> Iterator[CalibrationFinding]:
    calibrated = f"the calibrated range {spread.minimum:.6g} to {spread.maximum:.6g} of input {spread.name!r}"
    if spread.rows_outside is not None and spread.rows_outside > OUTSIDE_LIMIT:
        yield CalibrationFinding(
            code="outside_range",
            message=f"{spread.rows_outside:.1%} of the examples of evaluation split {spec.evaluation_split!r} have "
            f"values outside {calibrated}; integer variants clip them. Calibrate with more samples, or from a split "
            "whose values are scaled and distributed as in use.",
        )
    if spread.evaluation_minimum is None or spread.evaluation_maximum is None:
        return
    width = spread.maximum - spread.minimum
    used = spread.evaluation_maximum - spread.evaluation_minimum
    if used < USED_LIMIT * width:
        yield CalibrationFinding(
            code="unused_range",
            message=f"The examples of evaluation split {spec.evaluation_split!r} use {used / width:.1%} of "
            f"{calibrated}; integer variants are coarser than they need be. Remove outliers from the calibration "
            "split, or calibrate from a split whose values are scaled and distributed as in use.",
        )
