"""The representative dataset: which examples, what is in them, and whether a converter can learn ranges from them.

TensorFlow's converter takes anything: an empty dataset silently gives a float model, one NaN ruins every range. So the
sample is checked here before it is used. Runs in the child process only.
"""

from __future__ import annotations

import collections
import hashlib
import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tfx_mobile import transform_graph
from tfx_mobile.errors import CalibrationError
from tfx_mobile.recipes import BatchSize, CalibrationSpec
from tfx_mobile.records import Balance, TensorRecord, ValueCount

Array = npt.NDArray[Any]
Parse = Callable[[Sequence[bytes]], dict[str, Array]]

# Bounds the memory for examples that are large, such as images as float features.
_READ_BATCH = 256
_MAX_VALUES = 1000
_MAX_LISTED = 100
_MAX_TEXT = 64


@dataclass(frozen=True)
class Draw:
    """Serialized tf.Examples drawn from a split.

    Attributes:
        records: The drawn examples; their order depends on nothing but the examples and the seed.
        num_examples: How many examples the split holds.
        extra: Further examples, none of them in `records`, drawn by the same rule.
        strata: The values of the feature it was stratified by; None without one.
        label_balance: The values of the label; None without one, or if they are too many to be categories.
    """

    records: tuple[bytes, ...]
    num_examples: int
    extra: tuple[bytes, ...] = ()
    strata: Balance | None = None
    label_balance: Balance | None = None


def draw(
    files: Sequence[str], spec: CalibrationSpec, progress: Callable[[], None] = lambda: None, *, extra: int = 0
) -> Draw:
    """Draws a sample from TFRecord files, in one pass and with memory for the sample only.

    The examples with the smallest keyed hashes are taken, in the order of these hashes: of all examples, or with
    `spec.stratify_by` of each of the feature's values, in equal shares. What a value has too few examples for goes to
    the others. So the draw does not depend on how the examples are spread over files, and equal examples count once.

    Args:
        files: GZIP TFRecord files of serialized tf.Examples.
        spec: How many, and the seed.
        progress: Called now and then while reading.
        extra: How many further examples to draw as `Draw.extra`; they change nothing about `Draw.records`.

    Raises:
        CalibrationError: The files hold no example or are damaged; the feature to stratify by, or the label, is in
            none of them; or the feature to stratify by has too many values.
    """
    key = spec.seed.to_bytes(16, "big")
    sample = _StratifiedSample(spec.num_samples + extra)
    strata = _Counts("stratify_by", spec.stratify_by)
    labels = _Counts("label", spec.label)
    counting = bool(spec.stratify_by or spec.label)
    count = 0
    for batch in read(files, spec.split):
        progress()
        for record in batch:
            count += 1
            rank = int.from_bytes(hashlib.blake2b(record, key=key, digest_size=16).digest(), "big")
            features = _example(record) if counting else {}
            stratum = strata.add(features)
            labels.add(features)
            if strata.overflowed:
                raise CalibrationError(
                    f"CalibrationSpec(stratify_by={spec.stratify_by!r}) cannot be met: the feature has more than "
                    f"{_MAX_VALUES} values in split {spec.split!r}. Name a feature with few values, such as the label "
                    "of a classifier, or leave stratify_by out."
                )
            sample.add(stratum, rank, record)
    if not count:
        raise CalibrationError(
            f"Split {spec.split!r} holds no examples to calibrate with ({len(files)} file(s) read). "
            "Choose another split with CalibrationSpec(split=...), or check the step that wrote the examples."
        )
    records = sample.take(spec.num_samples)
    drawn = set(records)
    for counts in (strata, labels):
        counts.require(spec.split, records)
    return Draw(
        records=records,
        num_examples=count,
        extra=tuple(record for record in sample.take(spec.num_samples + extra) if record not in drawn),
        strata=strata.balance(records),
        label_balance=labels.balance(records),
    )


class _StratifiedSample:
    """The records with the smallest ranks, in equal shares per stratum, collected in one pass.

    A stratum's share only shrinks while records come in. What exceeds the present share is never needed again, so at
    most about twice the sample and one record per stratum are kept.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._limit = size
        self._largest_first: dict[str | None, list[tuple[int, bytes]]] = {}
        self._ranks: set[int] = set()

    def add(self, stratum: str | None, rank: int, record: bytes) -> None:
        """Takes a record in, if it may be needed."""
        if rank in self._ranks:
            return
        heap = self._largest_first.setdefault(stratum, [])
        if len(heap) < self._limit:
            heapq.heappush(heap, (-rank, record))
        elif rank < -heap[0][0]:
            self._ranks.remove(-heapq.heapreplace(heap, (-rank, record))[0])
        else:
            return
        self._ranks.add(rank)
        if len(self._ranks) > 2 * self._size + len(self._largest_first):
            self._trim()

    def _trim(self) -> None:
        # One more than the full share: what is left over after equal shares goes to some strata.
        self._limit = _share([len(heap) for heap in self._largest_first.values()], self._size) + 1
        for heap in self._largest_first.values():
            while len(heap) > self._limit:
                self._ranks.remove(-heapq.heappop(heap)[0])

    def take(self, size: int) -> tuple[bytes, ...]:
        """The sample of `size` records, or of a smaller number, by rank; a larger one holds every smaller one."""
        strata = [sorted((-rank, record) for rank, record in heap) for heap in self._largest_first.values()]
        share = _share([len(stratum) for stratum in strata], size)
        taken = [item for stratum in strata for item in stratum[:share]]
        left_over = sorted(stratum[share] for stratum in strata if len(stratum) > share)
        return tuple(record for _, record in sorted(taken + left_over[: size - len(taken)]))


def _share(sizes: Sequence[int], total: int) -> int:
    """The largest number that every stratum can give, as far as it has it, without exceeding `total` in sum."""
    ordered = sorted(sizes)
    for index, size in enumerate(ordered):
        share = total // (len(ordered) - index)
        if size > share:
            return share
        total -= size
    return ordered[-1] if ordered else 0


class _Counts:
    """Counts the values of one feature over a split; of no feature if its name is None."""

    def __init__(self, field: str, feature: str | None) -> None:
        self._field = field
        self._feature = feature
        self._counts: collections.Counter[str | None] = collections.Counter()
        self.overflowed = False

    def add(self, features: Any) -> str | None:
        """Counts an example by its features and returns its value."""
        if self._feature is None or self.overflowed:
            return None
        value = _text(_values(features, self._feature))
        self._counts[value] += 1
        self.overflowed = len(self._counts) > _MAX_VALUES
        return value

    def require(self, split: str, records: Sequence[bytes]) -> None:
        """Refuses a feature that no example has."""
        if self._feature is not None and set(self._counts) == {None}:
            raise CalibrationError(
                f"No example of split {split!r} has the feature that CalibrationSpec({self._field}={self._feature!r}) "
                f"names. The examples hold {_features(records[0])}. Name one of these, or leave {self._field} out."
            )

    def balance(self, records: Sequence[bytes]) -> Balance | None:
        """The counts, beside those in a sample; None without a feature or if it has too many values."""
        if self._feature is None or self.overflowed:
            return None
        sampled = collections.Counter(_text(_values(_example(record), self._feature)) for record in records)
        ordered = sorted(self._counts.items(), key=lambda item: (-item[1], item[0] is not None, item[0] or ""))
        return Balance(
            feature=self._feature,
            values=tuple(
                ValueCount(value=value, num_samples=sampled[value], num_examples=count)
                for value, count in ordered[:_MAX_LISTED]
            ),
            num_omitted=max(0, len(ordered) - _MAX_LISTED),
        )


def feature_values(records: Sequence[bytes], feature: str) -> list[list[Any]]:
    """The values of one feature in each record as they are stored: ints, floats or bytes; none where it is missing.

    Raises:
        CalibrationError: A record is no tf.Example.
    """
    return [list(_values(_example(record), feature)) for record in records]


def _example(record: bytes) -> Any:
    """The features of a serialized tf.Example."""
    try:
        return tf.train.Example.FromString(record).features.feature
    except Exception as error:  # noqa: BLE001 - protobuf's own error type differs between its implementations
        raise CalibrationError(
            f"A calibration example is no tf.Example: {error}. Calibration reads tf.Examples, as ExampleGen and "
            "Transform write them."
        ) from None


def _values(features: Any, name: str) -> Sequence[Any]:
    # Looking up a missing feature with [] would add it.
    kind = features[name].WhichOneof("kind") if name in features else None
    return getattr(features[name], kind).value if kind else ()


def _text(values: Sequence[Any]) -> str | None:
    """A feature's values as the name of a category; None for no values."""
    if not values:
        return None
    text = ", ".join(
        value.decode(errors="backslashreplace")
        if isinstance(value, bytes)
        else f"{value:.9g}"
        if isinstance(value, float)
        else str(value)
        for value in values
    )
    if len(text) <= _MAX_TEXT:
        return text
    return f"{text[:_MAX_TEXT]}... {hashlib.sha256(text.encode()).hexdigest()[:8]}"


def read(files: Sequence[str], split: str) -> Iterator[Sequence[bytes]]:
    """The serialized tf.Examples of GZIP TFRecord files, some at a time.

    Raises:
        CalibrationError: A file cannot be read.
    """
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
    values = parse_inputs(records, parse, inputs)
    for tensor in inputs:
        array = values[tensor.name]
        if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
            bad = int((~np.isfinite(array)).reshape(len(array), -1).any(axis=1).sum())
            raise CalibrationError(
                f"Input {tensor.name!r} has NaN or infinite values in {bad} of {len(array)} calibration examples; one "
                "such value ruins the ranges of the whole model. Remove or impute them before this step, or choose "
                "another split with CalibrationSpec(split=...)."
            )
    return values


def parse_inputs(records: Sequence[bytes], parse: Parse, inputs: Sequence[TensorRecord]) -> dict[str, Array]:
    """Parses examples and checks that names, dtypes and shapes are the inputs'; as `samples`, but for the values.

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
            "transformed features; or raw examples together with transform_graph=transform.outputs['transform_graph']."
        ) from error
    for tensor in inputs:
        if tensor.name not in values:
            raise CalibrationError(
                f"There are no calibration values for input {tensor.name!r} of the model, only for "
                f"{', '.join(sorted(values)) or 'nothing'}. The inputs are {_describe(inputs)}."
            )
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
    return values


def _describe(inputs: Sequence[TensorRecord]) -> str:
    return ", ".join(f"{t.name} {t.dtype} {list(t.shape)}" for t in inputs)


def _features(record: bytes) -> str:
    """The features of one tf.Example in words."""
    try:
        return transform_graph.in_words(transform_graph.stored_features([record]))
    except transform_graph.CannotTransformError:
        return "no tf.Example at all"


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
