"""The step of the pass that runs the models, what it counts, and reading those counts back."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
import tensorflow_model_analysis as tfma

from tfx_mobile.errors import EvaluationError
from tfx_mobile.quantization_evaluator.eval_config import BASELINE
from tfx_mobile.quantization_evaluator.scoring.metric_inputs import WEIGHTED
from tfx_mobile.quantization_evaluator.scoring.predict import (
    FloatModel,
    Models,
    Transform,
    VariantFile,
    keep_finite,
    not_finite_rows,
)
from tfx_mobile.records import Failure

_NAMESPACE = "tfx_mobile"
_EXAMPLES = "examples"
_NOT_FINITE = "not_finite"
_FAILED = "failed"
_FAILED_WITH = "failed_with"
_MESSAGE_CHARS = 500


@dataclass(frozen=True)
class Counts:
    """What the step counted on all workers.

    Attributes:
        num_examples: Examples every model was given.
        weighted: Of these, examples with a weight above 0.
        not_finite: By model but the baseline, examples with a NaN or infinite output where the baseline's is finite.
        failures: Models that failed on examples.
    """

    num_examples: int
    weighted: int
    not_finite: Mapping[str, int]
    failures: Mapping[str, Failure]


class Predict(beam.DoFn):
    """Adds the predictions of all models to a batch of extracts; pickled with descriptions, not with models."""

    def __init__(
        self,
        baseline: FloatModel,
        variants: Sequence[VariantFile],
        transform: Transform | None = None,
        by_output: bool = False,
    ) -> None:
        self._by_output = by_output
        self._baseline = baseline
        self._variants = tuple(variants)
        self._transform = transform

    def setup(self) -> None:
        """Opens the models."""
        self._models = Models(BASELINE, self._baseline, self._variants, self._transform)
        self._examples = beam.metrics.Metrics.counter(_NAMESPACE, _EXAMPLES)
        self._counters = {variant.name: _Counters(variant.name) for variant in self._variants}

    def process(self, extracts: dict[str, Any]) -> Iterable[dict[str, Any]]:
        """Runs the models on a batch."""
        serialized = extracts[tfma.INPUT_KEY]
        failed: dict[str, dict[int, str]] = {variant.name: {} for variant in self._variants}
        outputs = self._models.predict(
            extracts[tfma.FEATURES_KEY], serialized, lambda model, row, why: failed[model].update({row: why})
        )
        self._examples.inc(len(serialized))
        for name, counters in self._counters.items():
            counters.count(failed[name], not_finite_rows(outputs[name], outputs[BASELINE], failed[name]))
        # TFMA's convention: a single output is a bare array, a single model has no name. Metrics that look outputs up
        # by name need the name; prediction_key tells the others which one is meant.
        predictions: dict[str, Any] = outputs
        if not self._by_output:
            predictions = {name: _bare_if_single(model_outputs) for name, model_outputs in outputs.items()}
        yield {**extracts, tfma.PREDICTIONS_KEY: _bare_if_single(predictions)}


class _Counters:
    """What one worker reports of one model."""

    def __init__(self, model: str) -> None:
        self._not_finite = beam.metrics.Metrics.counter(_NAMESPACE, f"{_NOT_FINITE}/{model}")
        self._failed = beam.metrics.Metrics.counter(_NAMESPACE, f"{_FAILED}/{model}")
        self._failed_with = beam.metrics.Metrics.string_set(_NAMESPACE, f"{_FAILED_WITH}/{model}")
        self._first: str | None = None

    def count(self, failed: Mapping[int, str], not_finite: int) -> None:
        """Counts examples, and keeps the first of all messages."""
        self._not_finite.inc(not_finite)
        if failed:
            self._failed.inc(len(failed))
            first = min(" ".join(message.split())[:_MESSAGE_CHARS] for message in failed.values())
            if self._first is None or first < self._first:
                self._first = first
                self._failed_with.add(first)


def keep_all_finite(extracts: dict[str, Any]) -> dict[str, Any]:
    """The extracts with predictions that all metrics can be computed with."""
    predictions = extracts[tfma.PREDICTIONS_KEY]
    if not isinstance(predictions, dict) or BASELINE not in predictions:
        return extracts
    expected = predictions[BASELINE]
    kept = {
        model: {name: keep_finite(value, expected[name]) for name, value in outputs.items()}
        if isinstance(outputs, dict)
        else keep_finite(outputs, expected)
        for model, outputs in predictions.items()
    }
    return {**extracts, tfma.PREDICTIONS_KEY: kept}


def _bare_if_single(values: dict[str, Any]) -> Any:
    return values if len(values) > 1 else next(iter(values.values()))


def read_counts(result: Any, models: Sequence[str]) -> Counts:
    """What was counted in a pass that ended.

    Args:
        result: Beam's result.
        models: Names of all models but the baseline.

    Raises:
        EvaluationError: The runner does not say.
    """
    try:
        query = result.metrics().query(beam.metrics.MetricsFilter().with_namespace(_NAMESPACE))
    except NotImplementedError:  # what Beam's base class says for runners that count nothing
        query = {"counters": [], "string_sets": []}
    counters = {counter.key.metric.name: int(counter.result) for counter in query["counters"]}
    if not (num_examples := counters.get(_EXAMPLES, 0)):
        # Without counters nobody would see NaN outputs, and a model scored on nothing would look like any other.
        raise EvaluationError(
            "The Beam runner ended without saying how many examples it evaluated, so nothing can be judged. Use one "
            "that reports Beam's counters: leave --runner out, or use DataflowRunner."
        )
    messages = {found.key.metric.name: found.result for found in query["string_sets"]}
    return Counts(
        num_examples=num_examples,
        weighted=counters.get(WEIGHTED, 0),
        not_finite={name: counters.get(f"{_NOT_FINITE}/{name}", 0) for name in models},
        failures={
            name: _failure(count, num_examples, messages.get(f"{_FAILED_WITH}/{name}", ()))
            for name in models
            if (count := counters.get(f"{_FAILED}/{name}", 0))
        },
    )


def _failure(count: int, num_examples: int, messages: Collection[str]) -> Failure:
    example = f", on one of them with: {min(messages).rstrip('.')}" if messages else ""
    return Failure(
        code="failed_on_examples",
        message=f"The file fails on {count} of {num_examples} examples{example}.",
        advice="Do not ship it: the float model takes these examples. Convert the model again, or leave this recipe "
        "out.",
    )
