"""Batches of TFMA extracts with made-up predictions, and what TFMA and the vectorised evaluator make of them."""

from __future__ import annotations

import pickle
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

BASELINE, VARIANTS = "saved_model", ("first", "second")
MODELS = (BASELINE, *VARIANTS)


def eval_config(
    metrics: Sequence[Any], slices: Sequence[Mapping[str, Any]] = ({},), *, outputs: Sequence[str] = (), **spec: Any
) -> Any:
    """An EvalConfig of three models.

    Args:
        metrics: Class names, or MetricConfigs in JSON.
        slices: SlicingSpecs in JSON.
        outputs: output_names of the MetricsSpec.
        **spec: Further fields of the ModelSpec.
    """
    import tensorflow_model_analysis as tfma
    from google.protobuf import json_format

    from tfx_mobile.quantization_evaluator import eval_config as eval_configs

    document = {
        "model_specs": [{"label_key": "label", **spec}],
        "slicing_specs": list(slices),
        "metrics_specs": [
            {
                "metrics": [{"class_name": m} if isinstance(m, str) else m for m in metrics],
                "output_names": list(outputs),
                **({"example_weights": {"weighted": True, "unweighted": True}} if "example_weight_key" in spec else {}),
            }
        ],
    }
    return eval_configs.expand(json_format.ParseDict(document, tfma.EvalConfig()), list(VARIANTS))


def batches(
    labels: Any,
    predictions: Mapping[str, Any],
    *,
    weights: Any = None,
    features: Mapping[str, Any] | None = None,
    sizes: Sequence[int] = (),
) -> list[dict[str, Any]]:
    """Extracts as the pass makes them.

    Args:
        labels: An array [rows, ...], or such arrays by output.
        predictions: By model, an array [rows, ...], or such arrays by output.
        weights: An array [rows, 1].
        features: By name, an array [rows, ...] or a list of one array per row.
        sizes: Of the batches; the last takes the rest.
    """
    import tensorflow_model_analysis as tfma
    from tensorflow_model_analysis.api import types

    def cut(values: Any, start: int, stop: int) -> Any:
        if isinstance(values, Mapping):
            return {key: cut(value, start, stop) for key, value in values.items()}
        if isinstance(values, list):
            return types.VarLenTensorValue.from_dense_rows(values[start:stop])
        return values[start:stop]

    first: Any = next(iter(predictions.values()))
    rows = len(next(iter(first.values())) if isinstance(first, Mapping) else first)
    ends = [*np.cumsum(sizes).tolist(), rows]
    found = []
    for start, stop in zip([0, *ends[:-1]], ends, strict=True):
        extracts = {
            tfma.INPUT_KEY: np.array([f"example {row}".encode() for row in range(start, stop)], object),
            tfma.FEATURES_KEY: cut(features or {"any": np.zeros((rows, 1))}, start, stop),
            tfma.LABELS_KEY: cut(labels, start, stop),
            tfma.PREDICTIONS_KEY: cut(predictions, start, stop),
        }
        if weights is not None:
            extracts[tfma.EXAMPLE_WEIGHTS_KEY] = cut(weights, start, stop)
        found.append(extracts)
    return found


def by_tfma(some_batches: Sequence[dict[str, Any]], config: Any, folder: Path) -> dict[Any, dict[Any, Any]]:
    """Values by slice and MetricKey, by TFMA's own evaluator on one example after the other."""
    import tensorflow_model_analysis as tfma

    def evaluate(extracts: Any) -> Any:
        extracts |= "Unbatch" >> tfma.extractors.UnbatchExtractor().ptransform
        extracts |= "Slice" >> tfma.extractors.SliceKeyExtractor(eval_config=config).ptransform
        evaluator = tfma.evaluators.MetricsPlotsAndValidationsEvaluator(
            eval_config=config, eval_shared_model=_shared_models()
        )
        return extracts | "Evaluate" >> evaluator.ptransform

    return _run(some_batches, evaluate, folder)


def vectorized(
    some_batches: Sequence[dict[str, Any]],
    config: Any,
    folder: Path,
    *,
    replicates: int = 40,
    argv: Sequence[str] = (),
) -> tuple[dict[Any, dict[Any, Any]], Any]:
    """The same by the vectorised evaluator; and its plan. Paired samples are in the folder `paired`."""
    from tfx_mobile.quantization_evaluator.scoring.vectorized.evaluator import vectorized_evaluator
    from tfx_mobile.quantization_evaluator.scoring.vectorized.plan import make_plan

    plan = make_plan(config, MODELS, [BASELINE])
    evaluator = vectorized_evaluator(plan, config, _shared_models(), str(folder / "paired"), replicates)
    return _run(some_batches, lambda extracts: extracts | "Evaluate" >> evaluator.ptransform, folder, argv), plan


def _shared_models() -> Any:
    import tensorflow_model_analysis as tfma

    return [
        tfma.EvalSharedModel(model_name=name, model_path="", model_type="tf_generic", include_default_metrics=False)
        for name in MODELS
    ]


def _run(some_batches: Any, evaluate: Any, folder: Path, argv: Sequence[str] = ()) -> dict[Any, dict[Any, Any]]:
    import apache_beam as beam
    import tensorflow_model_analysis as tfma

    folder.mkdir(parents=True, exist_ok=True)
    results = folder / "results"
    results.mkdir()
    # A DirectRunner would download another one.
    argv = ["--runner=FnApiRunner", *(argv or ("--direct_running_mode=in_memory", "--direct_num_workers=1"))]
    with beam.Pipeline(argv=argv) as pipeline:
        extracts = pipeline | beam.Create(list(some_batches), reshuffle=False)
        _ = evaluate(extracts)[tfma.METRICS_KEY] | "Keep" >> beam.Map(_dump, str(results))
    return dict(pickle.loads(path.read_bytes()) for path in results.iterdir())


def _dump(value: Any, folder: str) -> None:
    (Path(folder) / uuid.uuid4().hex).write_bytes(pickle.dumps(value))
