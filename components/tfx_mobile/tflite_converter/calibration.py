"""The representative dataset: which examples, what is in them, and whether a converter can learn ranges from them.

TensorFlow's converter takes anything: an empty dataset silently gives a float model, one NaN ruins every range. So the
sample is checked here before it is used. Runs in the child process only.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tfx_mobile.errors import CalibrationError
from tfx_mobile.recipes import BatchSize, CalibrationSpec
from tfx_mobile.records import CalibrationRecord, InputRange, TensorRecord

Array = npt.NDArray[Any]
Parse = Callable[[Sequence[bytes]], dict[str, Array]]

_READ_BATCH = 1024


@dataclass(frozen=True)
class Draw:
    """Serialized tf.Examples drawn from a split.

    Attributes:
        records: The drawn examples; their order depends on nothing but the examples and the seed.
        num_examples: How many examples the split holds.
    """

    records: tuple[bytes, ...]
    num_examples: int


def draw(files: Sequence[str], spec: CalibrationSpec, progress: Callable[[], None] = lambda: None) -> Draw:
    """Draws a sample from TFRecord files, in one pass and with memory for the sample only.

    The examples with the smallest keyed hashes are taken, in the order of these hashes. So the draw does not depend on
    how the examples are spread over files, and equal examples count once.

    Args:
        files: GZIP TFRecord files of serialized tf.Examples.
        spec: How many, and the seed.
        progress: Called now and then while reading.

    Raises:
        CalibrationError: The files hold no example or are damaged.
    """
    key = spec.seed.to_bytes(16, "big")
    largest_first: list[tuple[int, bytes]] = []
    drawn: set[int] = set()
    count = 0
    for batch in _read(files, spec.split):
        progress()
        for record in batch:
            count += 1
            rank = int.from_bytes(hashlib.blake2b(record, key=key, digest_size=16).digest(), "big")
            if rank in drawn:
                continue
            if len(drawn) < spec.num_samples:
                heapq.heappush(largest_first, (-rank, record))
                drawn.add(rank)
            elif rank < -largest_first[0][0]:
                dropped, _ = heapq.heapreplace(largest_first, (-rank, record))
                drawn.remove(-dropped)
                drawn.add(rank)
    if not count:
        raise CalibrationError(
            f"Split {spec.split!r} holds no examples to calibrate with ({len(files)} file(s) read). "
            "Choose another split with CalibrationSpec(split=...), or check the step that wrote the examples."
        )
    return Draw(records=tuple(record for _, record in sorted(largest_first, reverse=True)), num_examples=count)


def _read(files: Sequence[str], split: str) -> Iterator[Sequence[bytes]]:
    dataset = tf.data.TFRecordDataset(list(files), compression_type="GZIP").batch(_READ_BATCH)
    try:
        for batch in dataset.as_numpy_iterator():
            yield batch.tolist()
    except tf.errors.OpError as error:
        raise CalibrationError(
            f"Cannot read the examples of split {split!r}: {error.message}. Calibration reads GZIP TFRecord files, as "
            "ExampleGen and Transform write them; run the step that wrote them again."
        ) from error


def raw_parser(inputs: Sequence[TensorRecord]) -> Parse:
    """The parsing for a signature on raw tensors: every input takes the feature of its own name.

    Args:
        inputs: The signature's inputs, [batch, ...].

    Raises:
        CalibrationError: An input has no fixed size per example.
    """
    spec = {}
    for tensor in inputs:
        if -1 in tensor.shape[1:]:
            raise CalibrationError(
                f"Input {tensor.name!r} has shape {list(tensor.shape)}: without a fixed size per example it cannot be "
                f"calibrated from tf.Examples. Pass input_shapes={{{tensor.name!r}: [...]}} with its sizes per example "
                "to TFLiteConverter, fix them in the signature in run_fn, or leave out the recipes that calibrate."
            )
        spec[tensor.name] = tf.io.FixedLenFeature(tensor.shape[1:], _example_dtype(tensor.dtype))

    def parse(records: Sequence[bytes]) -> dict[str, Array]:
        parsed = tf.io.parse_example(tf.constant(list(records), tf.string), spec)
        return {t.name: parsed[t.name].numpy().astype(object if t.dtype == "string" else t.dtype) for t in inputs}

    return parse


def _example_dtype(dtype: str) -> Any:
    # A tf.Example holds these three types only.
    if dtype == "string":
        return tf.string
    return tf.float32 if np.issubdtype(np.dtype(dtype), np.floating) else tf.int64


def samples(
    records: Sequence[bytes],
    parse: Parse,
    inputs: Sequence[TensorRecord],
) -> dict[str, Array]:
    """Parses and checks the drawn examples.

    Args:
        records: Serialized tf.Examples, at least one.
        parse: From tf.Examples to values [rows, ...] by input name.
        inputs: The inputs of the signature that is converted.

    Returns:
        Values [rows, ...] by input name, in the inputs' dtypes and shapes, all finite.

    Raises:
        CalibrationError: The examples do not fit the inputs; the message names input and reason.
    """
    try:
        values = parse(records)
    except (tf.errors.InvalidArgumentError, ValueError) as error:
        raise CalibrationError(
            f"The calibration examples do not fit the model's inputs: {error}. The inputs are {_describe(inputs)}; the "
            f"examples hold {_features(records[0])}. Give TFLiteConverter the Examples that the signature is served "
            "with: ExampleGen's for a signature that parses raw examples, Transform's transformed_examples for one on "
            "transformed features."
        ) from error
    for tensor in inputs:
        array = values[tensor.name]
        expected = (len(records), *tensor.shape[1:])
        fits = array.ndim == len(expected) and all(
            want in (-1, have) for want, have in zip(expected, array.shape, strict=True)
        )
        if not fits or (tensor.dtype != "string" and array.dtype != np.dtype(tensor.dtype)):
            raise CalibrationError(
                f"Calibration values of input {tensor.name!r} are {array.dtype} {list(array.shape)}; the model takes "
                f"{tensor.dtype} {list(expected)}. Check the feature's type and shape in the schema."
            )
        if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
            bad = int((~np.isfinite(array)).reshape(len(array), -1).any(axis=1).sum())
            raise CalibrationError(
                f"Input {tensor.name!r} has NaN or infinite values in {bad} of {len(array)} calibration examples; one "
                "such value ruins the ranges of the whole model. Remove or impute them before this step, or choose "
                "another split with CalibrationSpec(split=...)."
            )
    return values


def _describe(inputs: Sequence[TensorRecord]) -> str:
    return ", ".join(f"{t.name} {t.dtype} {list(t.shape)}" for t in inputs)


def _features(record: bytes) -> str:
    """The features of one tf.Example in words."""
    try:
        features = tf.train.Example.FromString(record).features.feature
    except Exception:  # noqa: BLE001 - protobuf's own error type differs between its implementations
        return "no tf.Example at all"
    kinds = {"float_list": "float", "int64_list": "int64", "bytes_list": "bytes"}
    described = []
    for name in sorted(features):
        kind = features[name].WhichOneof("kind")
        count = len(getattr(features[name], kind).value) if kind else 0
        described.append(f"{name} {kinds.get(kind, 'empty')} x {count}")
    return ", ".join(described) or "no features"


def describe(spec: CalibrationSpec, drawn: Draw, values: Mapping[str, Array]) -> CalibrationRecord:
    """What the manifest says about the representative dataset."""
    digest = hashlib.sha256()
    for record in drawn.records:
        digest.update(len(record).to_bytes(8, "big") + record)
    ranges = (
        InputRange(name=name, minimum=float(array.min()), maximum=float(array.max()))
        for name, array in sorted(values.items())
        if np.issubdtype(array.dtype, np.number) and array.size
    )
    return CalibrationRecord(
        spec=spec,
        num_samples=len(drawn.records),
        num_examples=drawn.num_examples,
        sha256=digest.hexdigest(),
        ranges=tuple(ranges),
    )


def save(path: str | Path, values: Mapping[str, Array]) -> None:
    """Saves samples; `load` gets them back. String inputs become fixed-width bytes."""
    arrays = [array.astype(bytes) if array.dtype == object else array for _, array in sorted(values.items())]
    np.savez(path, np.array(sorted(values)), *arrays)


def load(path: str | Path) -> dict[str, Array]:
    """Loads what `save` saved."""
    with np.load(path) as archive:
        names = archive["arr_0"].tolist()
        return {name: archive[f"arr_{index}"] for index, name in enumerate(names, start=1)}


def batches(values: Mapping[str, Array], batch_size: BatchSize) -> Iterator[dict[str, Array]]:
    """The representative dataset: samples by input name, `batch_size` rows at a time, one row if it is dynamic.

    The last batch is filled up with samples from the start, since a fixed batch size must be met.
    """
    step = 1 if batch_size == "dynamic" else batch_size
    rows = len(next(iter(values.values())))
    for start in range(0, rows, step):
        take = np.arange(start, start + step) % rows
        yield {name: array[take] for name, array in values.items()}
