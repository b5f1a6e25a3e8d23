"""Reads back what the pass wrote: metrics, slices, paired samples."""

from __future__ import annotations

import base64
import json
import math
import posixpath
from collections.abc import Iterable, Sequence
from typing import Any, Literal, cast

import numpy as np
from tensorflow_model_analysis.slicer import slicer_lib

from tfx_mobile.quantization_evaluator.eval_config import BASELINE
from tfx_mobile.quantization_evaluator.judging.gates import metric_in_words, metrics_on, slice_in_words
from tfx_mobile.quantization_evaluator.judging.thresholds import SliceKey
from tfx_mobile.quantization_evaluator.scoring.paired import PairedSample
from tfx_mobile.quantization_evaluator.scoring.vectorized.plan import Plan
from tfx_mobile.records import ModelMetrics, SliceMetrics


def metrics_of(written: Iterable[Any], models: Sequence[str]) -> tuple[ModelMetrics, ...]:
    """The scalar metrics that TFMA's writers wrote.

    Args:
        written: What tfma.load_metrics reads.
        models: Names of the models, in the order to return.
    """
    slices: dict[str, list[tuple[Any, SliceMetrics]]] = {name: [] for name in models}
    for per_slice in written:
        values: dict[str, dict[str, float | None]] = {name: {} for name in models}
        for entry in per_slice.metric_keys_and_values:
            kind = entry.value.WhichOneof("type")
            if kind not in ("double_value", "bounded_value") or entry.key.is_diff or entry.key.name.startswith("_"):
                continue
            value = entry.value.double_value.value if kind == "double_value" else entry.value.bounded_value.value.value
            model = entry.key.model_name or BASELINE
            values[model][metric_in_words(entry.key)] = value if math.isfinite(value) else None
        words, order = slice_in_words(per_slice)
        for name in models:
            if values[name]:
                slices[name].append((order, SliceMetrics(slice=words, metrics=values[name])))
    return tuple(
        ModelMetrics(model=name, slices=tuple(metrics for _, metrics in sorted(slices[name], key=lambda item: item[0])))
        for name in models
    )


def slice_keys_of(written: Iterable[Any]) -> dict[str, SliceKey]:
    """TFMA's key of every slice with metrics, by the slice in words; overall first.

    Args:
        written: What tfma.load_metrics reads.
    """
    found = []
    for per_slice in written:
        if not per_slice.HasField("cross_slice_key"):
            words, order = slice_in_words(per_slice)
            found.append((order, words, slicer_lib.deserialize_slice_key(per_slice.slice_key)))
    return {words: key for _, words, key in sorted(found, key=lambda item: item[0])}


def read_paired(uri: str, plan: Plan, metrics: Sequence[ModelMetrics]) -> tuple[PairedSample, ...]:
    """Reads the paired samples that the pass wrote, and deletes them."""
    from tfx.dsl.io import fileio

    by_slice: dict[str, Any] = {}
    for path in fileio.glob(posixpath.join(uri, "*.jsonl")):
        with fileio.open(path, "rb") as stream:
            records = [json.loads(line) for line in stream.read().splitlines()]
        by_slice |= {record["slice"]: record for record in records}
    by_model = {model.model: model for model in metrics}
    places = [entry.slice for entry in metrics[0].slices if entry.slice in by_slice]

    def value(given: float | None, model: str, metric: str, place: str) -> float:
        found = metrics_on(by_model[model], place).get(metric) if given is None else given
        return math.nan if found is None else found

    samples = []
    for index, one in enumerate(plan.comparisons):
        for place in places:
            found = by_slice[place]["samples"][index]
            replicates = found.get("replicates")
            samples.append(
                PairedSample(
                    variant=one.variant,
                    reference=cast(Literal["saved_model", "production"], one.reference),
                    metric=one.words,
                    slice=place,
                    num_examples=by_slice[place]["num_examples"],
                    value=value(found.get("value"), one.variant, one.words, place),
                    reference_value=value(found.get("reference_value"), one.reference, one.words, place),
                    gained=found.get("gained"),
                    lost=found.get("lost"),
                    rarest=found.get("rarest"),
                    replicates=None if replicates is None else np.frombuffer(base64.b64decode(replicates), "<f8"),
                )
            )
    if fileio.exists(uri):
        fileio.rmtree(uri)
    return tuple(samples)
