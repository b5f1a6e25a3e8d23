"""QuantizationEvaluator's parameters, from what a pipeline author or an orchestrator gives to what they mean.

All but the EvalConfig, which has a module of its own. Read while a pipeline is defined: imports no TFMA.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from tfx_mobile import artifact_io
from tfx_mobile.errors import EvalConfigError, RecipeError
from tfx_mobile.quantization_evaluator.production import ProductionModel
from tfx_mobile.records import Budget, Confidence, Criterion, LatencySpec
from tfx_mobile.tflite.profiles import parse_profiles

DEFAULT_SPLITS = ("eval",)
DEFAULT_GOLDEN_EXAMPLES = 8
MAX_GOLDEN_EXAMPLES = 64

_ModelT = TypeVar("_ModelT", bound=BaseModel)


@dataclass(frozen=True)
class Parameters:
    """All parameters, checked; `component.QuantizationEvaluator` documents them.

    Attributes:
        eval_config: The tfma.EvalConfig.
        splits: Splits to evaluate.
        budget: Hard limits.
        objective: The weight of each criterion.
        confidence: How sure the gate must be.
        latency: How latency is measured; None if nothing needs it.
        production: Where the second baseline is; None without one.
        golden_examples: How many golden vectors to write.
    """

    eval_config: Any
    splits: tuple[str, ...]
    budget: Budget
    objective: Mapping[Criterion, float]
    confidence: Confidence
    latency: LatencySpec | None
    production: ProductionModel | None
    golden_examples: int


def parse_splits(value: Any) -> tuple[str, ...]:
    """The splits to evaluate.

    Raises:
        EvalConfigError: `value` is no list of names.
    """
    splits = artifact_io.from_json(value, "example_splits", '["eval"]', EvalConfigError) or DEFAULT_SPLITS
    if isinstance(splits, str) or not all(isinstance(split, str) and split for split in splits):
        raise EvalConfigError(f"example_splits={value!r} is not valid. Give a list of names, such as ['eval'].")
    return tuple(dict.fromkeys(splits))


def parse_budget(value: Any) -> Budget:
    """The limits.

    Raises:
        EvalConfigError: `value` is no Budget, or names a compatibility profile that does not exist.
    """
    budget = _parse(value, "budget", Budget, '{"max_size_bytes": 1000000}') or Budget()
    try:
        return budget.model_copy(update={"profiles": parse_profiles(budget.profiles)})
    except RecipeError as error:
        raise EvalConfigError(f"budget={value!r} is not valid: {error}") from None


def parse_confidence(value: Any) -> Confidence:
    """How sure the gate must be.

    Raises:
        EvalConfigError: `value` is no Confidence.
    """
    return _parse(value, "confidence", Confidence, '{"level": 0.95}') or Confidence()


def parse_latency(value: Any) -> LatencySpec | None:
    """How latency is measured; None if it is not asked for.

    Raises:
        EvalConfigError: `value` is no LatencySpec.
    """
    return _parse(value, "latency", LatencySpec, '{"rounds": 9}')


def latency_to_measure(
    latency: LatencySpec | None, budget: Budget, objective: Mapping[Criterion, float]
) -> LatencySpec | None:
    """How latency is measured, given what asks for it; None if nothing does.

    Raises:
        EvalConfigError: A limit in milliseconds without device numbers, which could never be checked.
    """
    if budget.max_latency_ms is not None and (latency is None or not latency.device):
        raise EvalConfigError(
            f"budget has max_latency_ms={budget.max_latency_ms:g}, but there are no device numbers to check it by: "
            "what this machine takes says nothing about a phone. Measure the variants with TFLite's benchmark_model "
            "and pass latency=LatencySpec(device=read_device_latencies('file')), or set max_latency_ratio."
        )
    if latency is None and (budget.max_latency_ratio is not None or "latency" in objective):
        return LatencySpec()
    return latency


def parse_production(value: Any) -> ProductionModel | None:
    """Where the model in production is; None without a second baseline.

    Raises:
        EvalConfigError: `value` is no ProductionModel.
    """
    return _parse(value, "production", ProductionModel, '{"destination": {...}, "model_name": "digits"}')


def parse_golden_examples(value: Any) -> int:
    """How many golden vectors to write; 0 for none.

    Raises:
        EvalConfigError: `value` is no such number.
    """
    count = artifact_io.from_json(value, "golden_examples", "8", EvalConfigError)
    if count is None:
        return DEFAULT_GOLDEN_EXAMPLES
    if isinstance(count, bool) or count not in range(MAX_GOLDEN_EXAMPLES + 1):
        raise EvalConfigError(
            f"golden_examples={value!r} is not valid. Give a number from 0, for none, to {MAX_GOLDEN_EXAMPLES}."
        )
    return int(count)


def parse_objective(value: Any) -> dict[Criterion, float]:
    """The weight of each criterion by which the winner is chosen; they add up to 1.

    Args:
        value: A criterion, or weights by criterion.

    Raises:
        EvalConfigError: There is no such criterion, or a weight is not positive.
    """
    known = get_args(Criterion)
    weights = value
    if isinstance(value, str) and value.lstrip()[:1] in ("{", '"'):
        weights = artifact_io.from_json(value, "objective", '{"size": 0.5, "latency": 0.5}', EvalConfigError)
    if isinstance(weights, str):
        weights = {weights: 1.0}
    if not isinstance(weights, Mapping) or not weights:
        raise EvalConfigError(f"objective={value!r} is not valid. {_objectives(known)}")
    for criterion, weight in weights.items():
        if criterion not in known:
            raise EvalConfigError(f"objective={value!r} is unknown. {_objectives(known)}")
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 < weight < math.inf:
            raise EvalConfigError(f"objective={value!r} is not valid: weights are positive numbers. Leave out others.")
    total = sum(weights.values())
    return {criterion: weights[criterion] / total for criterion in known if criterion in weights}


def _objectives(known: tuple[str, ...]) -> str:
    return f"Use one of: {', '.join(known)}; or weights such as {{'size': 0.5, 'quality': 0.5}}."


def _parse(value: Any, name: str, model: type[_ModelT], example: str) -> _ModelT | None:
    if isinstance(value, model):
        return value
    document = artifact_io.from_json(value, name, example, EvalConfigError)
    if not document:
        return None
    if not isinstance(document, Mapping):
        raise EvalConfigError(f"{name}={value!r} is not valid. Use {model.__name__}(...).")
    try:
        return model.model_validate(dict(document))
    except (ValidationError, ValueError) as error:
        problems = (
            "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            if isinstance(error, ValidationError)
            else str(error)
        )
        raise EvalConfigError(
            f"{name}={value!r} is not valid: {problems}. Use {model.__name__}(...); its fields are "
            f"{', '.join(model.model_fields)}."
        ) from None
