"""The Beam step that takes the place of TFMA's own evaluator: batches of extracts in, what TFMA's writers write out.

Sums of a thousand rows travel on, not rows: one state per slice, which Beam adds up. No worker ever holds all examples
or predictions.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import numpy.typing as npt
import tensorflow_model_analysis as tfma
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.windowed_value import WindowedValue
from tensorflow_model_analysis.evaluators import evaluator, metrics_validator
from tensorflow_model_analysis.extractors import extractor
from tensorflow_model_analysis.proto import metrics_for_slice_pb2
from tensorflow_model_analysis.slicer import slicer_lib

from tfx_mobile.quantization_evaluator.judging.gates import slice_in_words
from tfx_mobile.quantization_evaluator.scoring.prediction import keep_all_finite
from tfx_mobile.quantization_evaluator.scoring.vectorized import bootstrap, rows, statistics
from tfx_mobile.quantization_evaluator.scoring.vectorized.areas import Sample
from tfx_mobile.quantization_evaluator.scoring.vectorized.plan import Plan
from tfx_mobile.quantization_evaluator.scoring.vectorized.rows import RowBatch
from tfx_mobile.quantization_evaluator.scoring.vectorized.slices import SliceKey, Slicer
from tfx_mobile.quantization_evaluator.scoring.vectorized.state import AddStates, Buckets, State, add_up
from tfx_mobile.records import sha256_of

Array = npt.NDArray[Any]

# Rows that are summed up at once: enough to make the Python of a step cheap, in bounded memory.
_ROWS = 1024
_BYTES = 32 << 20


def vectorized_evaluator(
    plan: Plan, config: Any, shared_models: Any, paired_path: str, replicates: int = bootstrap.REPLICATES
) -> Any:
    """A tfma.evaluators.Evaluator to run after the last extractor, on batches.

    Args:
        plan: How the metrics are computed.
        config: The tfma.EvalConfig of all models.
        shared_models: The tfma.EvalSharedModels, for what TFMA computes itself.
        paired_path: Folder for files of JSON lines, one line per slice: its words and `Plan.samples`. Written if the
            plan compares anything. A step that Beam runs again may write a slice again, with the same content.
        replicates: Of the bootstrap. A slice's state holds `replicates` times the columns it needs.
    """
    return evaluator.Evaluator(
        stage_name="EvaluateBatches",
        run_after=extractor.LAST_EXTRACTOR_STAGE_NAME,
        ptransform=_Evaluate(plan, config, shared_models, paired_path, replicates),
    )


class _Evaluate(beam.PTransform):
    def __init__(self, plan: Plan, config: Any, shared_models: Any, paired_path: str, replicates: int) -> None:
        super().__init__()
        self._plan = plan
        self._config = config
        self._shared_models = shared_models
        self._paired_path = paired_path
        self._replicates = replicates

    def expand(self, extracts: Any) -> dict[str, Any]:
        plan, config = self._plan, self._config
        states = (
            extracts
            | "SumUpRows" >> beam.ParDo(_SumUpRows(plan, config, self._replicates))
            | "AddStates" >> beam.CombinePerKey(AddStates())
        )
        if (smallest := config.options.min_slice_size.value) > 1:
            states |= "DropSmallSlices" >> beam.Filter(_is_large, smallest)
        computed = states | "ComputeMetrics" >> beam.MapTuple(lambda key, state: (key, state, plan.values(state)))
        metrics = computed | "Metrics" >> beam.MapTuple(lambda key, _, values: (key, values))
        nothing = metrics | "NoPlots" >> beam.MapTuple(lambda key, _: (key, {}))
        results = {tfma.METRICS_KEY: [metrics], tfma.PLOTS_KEY: [nothing], tfma.ATTRIBUTIONS_KEY: [nothing]}
        if plan.fallback is not None:
            by_tfma = self._by_tfma(extracts)
            results = {key: [*own, by_tfma[key]] for key, own in results.items()}
        combined = evaluator.combine_dict_based_evaluations(results)
        combined[tfma.VALIDATIONS_KEY] = combined[tfma.METRICS_KEY] | "ValidateMetrics" >> beam.Map(
            metrics_validator.validate_metrics, config
        )
        if plan.comparisons:
            _ = (
                computed
                | "ComparePairs" >> beam.Map(_paired_record, plan, self._replicates)
                | "WritePairs" >> beam.ParDo(_WriteLines(self._paired_path))
            )
        return dict(combined)

    def _by_tfma(self, extracts: Any) -> Mapping[str, Any]:
        reduced = self._plan.fallback
        # Some of TFMA's metrics end the pass at a NaN, for all models.
        extracts |= "KeepAllFinite" >> beam.Map(keep_all_finite)
        for step in (tfma.extractors.UnbatchExtractor(), tfma.extractors.SliceKeyExtractor(eval_config=reduced)):
            extracts |= step.stage_name >> step.ptransform
        by_tfma = tfma.evaluators.MetricsPlotsAndValidationsEvaluator(
            eval_config=reduced, eval_shared_model=self._shared_models
        )
        results: Mapping[str, Any] = extracts | by_tfma.stage_name >> by_tfma.ptransform
        return results


class _Part:
    """Consecutive rows that wait to be summed up."""

    def __init__(self, values: Mapping[str, Any], pairs: tuple[Array, Array], count: int) -> None:
        self.values = values
        self.pairs = pairs
        self.count = count


class _SumUpRows(beam.DoFn):
    """From batches of extracts to states by slice."""

    def __init__(self, plan: Plan, config: Any, replicates: int) -> None:
        self._plan = plan
        self._config = config
        self._replicates = replicates

    def setup(self) -> None:
        for one in self._plan.statistics:
            one.setup()
        self._slicer = Slicer(self._config)
        self._bootstrapped = self._plan.bootstrapped()
        self._sampled = self._plan.sampled()

    def start_bundle(self) -> None:
        self._waiting: list[_Part] = []

    def process(self, extracts: Mapping[str, Any]) -> Iterator[tuple[SliceKey, State]]:
        examples = extracts[tfma.INPUT_KEY]
        count = len(examples)
        values: dict[str, Any] = {"example weight": extracts.get(tfma.EXAMPLE_WEIGHTS_KEY)}
        if self._plan.needs_labels:
            values |= {"label": extracts.get(tfma.LABELS_KEY), "prediction": extracts[tfma.PREDICTIONS_KEY]}
        if self._bootstrapped or self._sampled:
            values["hash"] = bootstrap.hashes(examples)
        self._waiting.append(_Part(values, self._slicer.slice_rows(extracts, count), count))
        step = min(_ROWS, max(1, _BYTES // max(1, rows.bytes_per_row(values))))
        if sum(part.count for part in self._waiting) >= step:
            yield from self._sum_up(step, to_the_end=False)

    def finish_bundle(self) -> Iterator[WindowedValue]:
        if self._waiting:
            window = GlobalWindow()
            for keyed in self._sum_up(_ROWS, to_the_end=True):
                yield WindowedValue(keyed, window.max_timestamp(), [window])

    def _sum_up(self, step: int, *, to_the_end: bool) -> Iterator[tuple[SliceKey, State]]:
        """Sums up what waits, in steps of so many rows; what does not fill a step goes on waiting, unless it ends."""
        parts, self._waiting = self._waiting, []
        count = sum(part.count for part in parts)
        values = {
            what: None if value is None else rows.concatenate([part.values[what] for part in parts], what)
            for what, value in parts[0].values.items()
        }
        offsets = np.cumsum([0, *(part.count for part in parts)])
        in_slice = np.concatenate([part.pairs[0] + offset for part, offset in zip(parts, offsets[:-1], strict=True)])
        numbers = np.concatenate([part.pairs[1] for part in parts])
        stop = count if to_the_end else count - count % step
        for start in range(0, stop, step):
            end = min(start + step, stop)
            here = (in_slice >= start) & (in_slice < end)
            yield from self._states(
                rows.rows_of(values, start, end), in_slice[here] - start, numbers[here], end - start
            )
        if stop < count:
            here = in_slice >= stop
            rest = rows.rows_of(values, stop, count)
            self._waiting = [_Part(rest, (in_slice[here] - stop, numbers[here]), count - stop)]

    def _states(
        self, values: Mapping[str, Any], in_slice: Array, numbers: Array, count: int
    ) -> Iterator[tuple[SliceKey, State]]:
        plan = self._plan
        batch = RowBatch(values.get("label"), values.get("prediction"), values["example weight"], count)
        table = np.empty((count, plan.width))
        for one, columns in zip(plan.statistics, plan.columns, strict=True):
            table[:, columns] = one.rows(batch)
        drawn = self._compare(table, batch)
        weights = bootstrap.poisson_weights(values["hash"], self._replicates) if drawn else None
        entries = {n: self._entries(n, batch) for n in plan.histograms()}
        sampled = {n: rows_of for n in self._sampled if (rows_of := self._sampled_rows(n, batch)) is not None}

        order = np.lexsort((in_slice, numbers))
        in_slice, numbers = in_slice[order], numbers[order]
        starts = np.concatenate([[0], np.flatnonzero(np.diff(numbers)) + 1]) if len(numbers) else np.array([], int)
        sums = np.add.reduceat(table[in_slice], starts, axis=0) if len(starts) else table[:0]
        for start, stop, total in zip(starts, [*starts[1:], len(numbers)], sums, strict=True):
            members = in_slice[start:stop]
            yield (
                self._slicer.keys[numbers[start]],
                State(
                    len(members),
                    total,
                    {n: _buckets_of(members, *entry) for n, entry in entries.items()},
                    {} if weights is None else _replicates(weights[members], table[members], drawn, plan),
                    {n: Sample.of(values["hash"][members], found[members]) for n, found in sampled.items()},
                ),
            )

    def _entries(self, number: int, batch: RowBatch) -> tuple[Array, Array]:
        histogram = self._plan.statistics[number]
        assert isinstance(histogram, statistics.Histogram)  # noqa: S101
        return histogram.entries(batch)

    def _sampled_rows(self, number: int, batch: RowBatch) -> Array | None:
        histogram = self._plan.statistics[number]
        assert isinstance(histogram, statistics.Histogram)  # noqa: S101
        return histogram.sampled(batch)

    def _compare(self, table: Array, batch: RowBatch) -> list[int]:
        """Fills the columns of gained and lost examples; returns the statistics that need replicates."""
        plan = self._plan
        drawn: set[int] = set()
        for one in plan.comparisons:
            if one.metric is None or one.reference_metric is None:
                continue
            if one.column is None or not self._scores_zero_or_one(one.metric.statistics[0], batch):
                drawn.update(one.metric.statistics, one.reference_metric.statistics)
                if one.column is not None:
                    table[:, one.column : one.column + 2] = np.nan
                continue
            score, reference = (self._scores(m.statistics[0], table) for m in (one.metric, one.reference_metric))
            table[:, one.column] = score > reference
            table[:, one.column + 1] = score < reference
            table[~(np.isin(score, (0, 1)) & np.isin(reference, (0, 1))), one.column] = np.nan
        return sorted(drawn.intersection(self._bootstrapped))

    def _scores_zero_or_one(self, number: int, batch: RowBatch) -> bool:
        one = self._plan.statistics[number]
        assert isinstance(one, (statistics.KerasMean, statistics.ConfusionMatrices))  # noqa: S101
        return one.scores_zero_or_one(batch)

    def _scores(self, number: int, table: Array) -> Array:
        columns = table[:, self._plan.columns[number]]
        # Of a confusion matrix, right is tp or tn.
        matrix = isinstance(self._plan.statistics[number], statistics.ConfusionMatrices)
        return columns[:, 0] + columns[:, 1] if matrix else columns[:, 0]


class _WriteLines(beam.DoFn):
    """Writes a file per bundle, named after its content: Beam's own writers cost a tenth of a small pass."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def start_bundle(self) -> None:
        self._lines: list[bytes] = []

    def process(self, line: bytes) -> None:
        self._lines.append(line)

    def finish_bundle(self) -> None:
        from tfx.dsl.io import fileio

        if self._lines:
            data = b"".join(line + b"\n" for line in self._lines)
            fileio.makedirs(self._folder)
            with fileio.open(posixpath.join(self._folder, f"{sha256_of(data)}.jsonl"), "wb") as stream:
                stream.write(data)


def _buckets_of(members: Array, buckets: Array, values: Array) -> Buckets:
    return add_up(buckets[members].reshape(-1), values[members].reshape(-1, 3))


def _replicates(weights: Array, table: Array, drawn: Sequence[int], plan: Plan) -> dict[int, Array]:
    columns = [np.arange(plan.width)[plan.columns[number]] for number in drawn]
    sums = weights.T.astype(np.float64) @ table[:, np.concatenate(columns)]
    ends = np.cumsum([len(some) for some in columns])
    return dict(zip(drawn, np.split(sums, ends[:-1], axis=1), strict=True))


def _is_large(keyed: tuple[SliceKey, State], smallest: int) -> bool:
    return keyed[1].num_examples >= smallest


def _paired_record(computed: tuple[SliceKey, State, dict[Any, Any]], plan: Plan, replicates: int) -> bytes:
    key, state, values = computed
    message = metrics_for_slice_pb2.MetricsForSlice(slice_key=slicer_lib.serialize_slice_key(key))
    words, _ = slice_in_words(message)
    record = {"slice": words, "num_examples": state.num_examples, "samples": plan.samples(state, values, replicates)}
    return json.dumps(record).encode()
