"""Plausible EvaluationRecords, for what reads them: seven variants of a digits model, and far too many of anything."""

from __future__ import annotations

from typing import Any

from tests.fakes.evaluations import SOURCE_SHA256, recipe
from tfx_mobile.records import (
    Budget,
    Change,
    Confidence,
    EvaluationRecord,
    Failure,
    Fidelity,
    LatencyRecord,
    LatencyResult,
    LayerError,
    LayerErrors,
    ModelFileRecord,
    ModelMetrics,
    ProductionRecord,
    ProfileResult,
    Reason,
    RuleResult,
    SignatureRecord,
    SliceMetrics,
    TensorRecord,
    Variant,
    VariantCost,
    Verdict,
    WeightsRecord,
    sha256_of,
)

ACCURACY, ENTROPY, COUNT = "sparse_categorical_accuracy", "sparse_categorical_crossentropy", "example_count"
SLICES = ("overall", *(f"label:{label}" for label in range(10)))
_EXAMPLES = {where: 425 if where == "overall" else 38 + index for index, where in enumerate(SLICES)}
#: By variant: bytes, drop of accuracy, and latency against float32.
_VARIANTS = {
    "float32": (292_340, 0.0, 1.0),
    "float16": (148_212, 0.0, 1.02),
    "dynamic_range": (80_464, 0.0004, 0.71),
    "full_integer": (78_960, 0.002, 0.44),
    "integer_only_int8": (78_472, 0.0022, 0.41),
    "integer_only_uint8": (78_904, 0.13, 0.41),
}
_LIMIT = -0.06
_THIS_MACHINE = "a desktop CPU, 1 thread"
_CRASHED = Failure(
    code="converter_crashed", message="The converter was killed by SIGABRT.", advice="Leave this recipe out."
)


def record(winner: str | None = "integer_only_int8", trained: str | None = None) -> EvaluationRecord:
    """Seven variants with every field of the record filled; with `winner=None` none passes.

    Args:
        winner: The blessed variant.
        trained: The variant whose ranges come from quantization-aware training, and whose weights are described.
    """
    from tfx_mobile.quantization_evaluator.judging.gates import split_errors

    variants = [*(_variant(name, name == trained) for name in _VARIANTS)]
    variants.append(Variant(recipe=recipe("int16x8"), failure=_CRASHED))
    models = (
        _metrics("saved_model", 0.0),
        *(_metrics(name, drop) for name, (_, drop, _) in _VARIANTS.items()),
        _metrics("production", 0.011),
    )
    verdicts = tuple(_verdict(variant, winner) for variant in variants)
    failing = [v.variant for v in verdicts if not v.passed and v.variant.startswith("integer")]
    return EvaluationRecord(
        source_sha256=SOURCE_SHA256,
        variants=tuple(variants),
        num_examples=425,
        splits=("eval",),
        models=models,
        verdicts=verdicts,
        objective={"size": 0.6, "quality": 0.4},
        budget=Budget(max_size_bytes=200_000, max_latency_ratio=1.1, profiles=("litert>=2.14.0",)),
        winner=winner,
        versions={"tfx-mobile": "0.1.0", "tensorflow-model-analysis": "0.47.1"},
        gated_metrics=(ACCURACY,),
        error_splits=split_errors(variants, models[:-1]),
        confidence=Confidence(min_slice_examples=20, worst_slice={ACCURACY: 0.1}),
        changes=tuple(change for name in _VARIANTS for change in _changes(name)),
        costs=tuple(_cost(v, winner) for v in variants if v.file is not None),
        latency=LatencyRecord(
            reference="float32",
            measurable=True,
            control=1.02,
            message="The control was within 0.9 to 1.1.",
            rounds=9,
            results=(
                *(_latency(name) for name in _VARIANTS),
                LatencyResult(
                    variant="float16", ratio=0.97, milliseconds=3.1, source="device", device="Pixel 8, CPU, 1 thread"
                ),
            ),
        ),
        fidelity=tuple(_fidelity(name) for name in _VARIANTS),
        layer_errors=tuple(_layer_errors(name) for name in failing),
        production=ProductionRecord(
            address="file:///releases",
            model_name="digits",
            channel="production",
            status="compared",
            release_id="a" * 64,
            sha256="b" * 64,
            channel_version=7,
        ),
        quality_metric=ACCURACY,
    )


def crowded(num_variants: int = 40, num_slices: int = 120, name: str = "v") -> EvaluationRecord:
    """As many variants and slices as nobody should have; none passes but the first.

    Args:
        num_variants: How many.
        num_slices: How many beside all examples.
        name: What a slice's name begins with; may be hostile.
    """
    slices = ("overall", *(f"{name}:{index}" for index in range(num_slices)))
    variants, models, verdicts, changes = [], [_table("saved_model", slices, 0.0)], [], []
    for index in range(num_variants):
        variant = recipe(f"a_rather_long_name_of_a_recipe_number_{index}")
        file = _file(variant.name, 50_000 + 997 * (index * 7 % num_variants))
        variants.append(Variant(recipe=variant, path=f"{variant.name}/model.tflite", file=file))
        models.append(_table(variant.name, slices, 0.001 * index))
        for place, where in enumerate(slices):
            change = -0.001 * index - 0.0007 * (place % 7)
            outcome = "pass" if change > -0.015 else "insufficient_data" if change > -0.025 else "fail"
            changes.append(
                Change(
                    variant=variant.name,
                    reference="saved_model",
                    metric=ACCURACY,
                    slice=where,
                    num_examples=60 + place,
                    change=change,
                    lower=change - 0.005,
                    upper=change + 0.005,
                    method="tango",
                    gate="change_threshold",
                    limit=-0.02,
                    higher_is_better=True,
                    outcome=outcome,
                )
            )
        reasons = tuple(_threshold_reason(where, change) for where in slices[: index * 2])
        verdicts.append(Verdict(variant=variant.name, sha256=file.sha256, passed=not reasons, reasons=reasons))
    return EvaluationRecord(
        source_sha256=SOURCE_SHA256,
        variants=tuple(variants),
        num_examples=20_000,
        splits=("eval",),
        models=tuple(models),
        verdicts=tuple(verdicts),
        objective={"size": 1.0},
        budget=Budget(),
        winner=variants[0].name,
        versions={},
        gated_metrics=(ACCURACY,),
        changes=tuple(changes),
    )


def bare() -> EvaluationRecord:
    """What is written where no variant could be scored: the float model's metrics, and failures."""
    whole = record(winner=None)
    return EvaluationRecord(
        source_sha256=SOURCE_SHA256,
        variants=whole.variants[-1:],
        num_examples=425,
        splits=("eval",),
        models=(ModelMetrics(model="saved_model", slices=(SliceMetrics(slice="overall", metrics={ACCURACY: None}),)),),
        verdicts=whole.verdicts[-1:],
        objective={"size": 1.0},
        budget=Budget(),
        winner=None,
        versions={},
    )


def _variant(name: str, trained: bool) -> Variant:
    size = _VARIANTS[name][0]
    file = _file(name, size)
    quantized = name not in ("float32", "float16", "dynamic_range")
    values: dict[str, Any] = {"ranges_from": "calibration"} if quantized else {}
    if trained:
        weights = WeightsRecord(num_elements=72_000, num_zeros=50_400, max_distinct_values=16)
        file = file.model_copy(update={"gzip_bytes": size // 2, "weights": weights})
        values = {"ranges_from": "training"}
    return Variant(recipe=recipe(name), path=f"{name}/model.tflite", file=file, profiles=_profiles(name), **values)


def _file(name: str, size: int) -> ModelFileRecord:
    scale, zero_point = {"int8": (1 / 255, -128), "uint8": (1 / 255, 0)}.get(name.rpartition("_")[2], (None, None))
    dtype = name.rpartition("_")[2] if scale else "float32"
    tensor = TensorRecord(name="image", dtype=dtype, shape=(-1, 64), scale=scale, zero_point=zero_point)
    scores = TensorRecord(name="output_0", dtype=dtype, shape=(-1, 10), scale=scale and 1 / 256, zero_point=zero_point)
    return ModelFileRecord(
        sha256=sha256_of(name.encode()),
        size_bytes=size,
        gzip_bytes=size * 9 // 10,
        signatures=(SignatureRecord(key="serving_default", inputs=(tensor,), outputs=(scores,)),),
        ops=(),
        min_runtime_version="2.14.0",
    )


def _profiles(name: str) -> tuple[ProfileResult, ...]:
    def profile(called: str, **rule: Any) -> ProfileResult:
        return ProfileResult(profile=called, result=rule["result"], rules=(RuleResult(**rule),))

    image = name == "float32"
    return (
        profile(
            "litert>=2.14.0",
            id="min_runtime",
            statement="needs no newer runtime",
            result="pass",
            detail="asks for 2.14.0",
            source="metadata entry min_runtime_version, written by the converter",
        ),
        profile(
            "litert_js",
            id="static_shapes",
            statement="has fixed shapes",
            result="not_verified",
            detail="the batch size is open; the rule is violated, but is not confirmed",
            source="measured on LiteRT.js 2.5.3, accelerator wasm",
        ),
        profile(
            "mediapipe_image_classifier",
            id="image_shape",
            statement="takes one image [1, height, width, 3]",
            result="fail" if image else "not_verified",
            detail="float32 [-1, 64]",
            source="https://ai.google.dev/edge/api/mediapipe",
        ),
    )


def _metrics(name: str, drop: float) -> ModelMetrics:
    return _table(name, SLICES, drop, worst="label:8")


def _table(name: str, slices: tuple[str, ...], drop: float, worst: str = "") -> ModelMetrics:
    entries = []
    for index, where in enumerate(slices):
        here = drop * (4 if where == worst else 1)
        value = 0.9764 - 0.004 * (index % 4) - here
        count = float(_EXAMPLES.get(where, 60 + index))
        entries.append(SliceMetrics(slice=where, metrics={ACCURACY: value, ENTROPY: 0.0912 + here, COUNT: count}))
    return ModelMetrics(model=name, slices=tuple(entries))


def _verdict(variant: Variant, winner: str | None) -> Verdict:
    name = variant.name
    reasons: dict[str, tuple[Reason, ...]] = {
        "float32": (Reason(code="budget", message="The file has 292,340 bytes; required: <= 200,000.", value=292_340),),
        "integer_only_uint8": tuple(_threshold_reason(where) for where in SLICES),
        "int16x8": (Reason(code=_CRASHED.code, message=f"{_CRASHED.message} {_CRASHED.advice}"),),
    }
    failing = Reason(
        code="threshold", message=f"{ACCURACY} is 0.9 over all examples; required: >= 0.99.", metric=ACCURACY
    )
    cautions = {
        "integer_only_int8": (
            Reason(
                code="threshold",
                message=f"{ACCURACY} changed by -0.0088 on slice label:8, 95 % interval -0.0712 to +0.0101, of 46 "
                "examples: whether it keeps >= -0.06 cannot be told; about 90 examples would decide.",
                metric=ACCURACY,
                slice="label:8",
                value=-0.0088,
                limit="change >= -0.06",
            ),
        )
    }
    own = reasons.get(name, () if winner else (failing,))
    return Verdict(
        variant=name,
        sha256=variant.file.sha256 if variant.file else None,
        passed=not own,
        reasons=own,
        cautions=cautions.get(name, ()),
    )


def _threshold_reason(where: str, change: float = -0.52) -> Reason:
    return Reason(
        code="threshold",
        message=f"{ACCURACY} is 0.4524 on slice {where} and 0.9724 for the float model, a change of {change:.4f}; "
        "required: change >= -0.06.",
        metric=ACCURACY,
        slice=where,
        value=change,
        limit="change >= -0.06",
    )


def _changes(name: str) -> list[Change]:
    drop = _VARIANTS[name][1]
    found = []
    for reference, moved in (("saved_model", 0.0), ("production", 0.011)):
        for index, where in enumerate(SLICES):
            change = moved - drop * (4 if where == "label:8" else 1)
            half = (0.006 if where == "overall" else 0.03 + 0.001 * index) + abs(change) / 6
            lower, upper = change - half, change + half
            if where == "label:8" and name == "integer_only_int8":
                lower = -0.0712
            outcome = "pass" if lower >= _LIMIT else "insufficient_data" if upper >= _LIMIT else "fail"
            found.append(
                Change(
                    variant=name,
                    reference=reference,
                    metric=ACCURACY,
                    slice=where,
                    num_examples=_EXAMPLES[where],
                    change=change,
                    lower=lower,
                    upper=upper,
                    method="tango",
                    gate="change_threshold",
                    limit=_LIMIT,
                    higher_is_better=True,
                    outcome=outcome,
                    examples_needed=90 if outcome == "insufficient_data" else None,
                )
            )
    found.append(
        Change(
            variant=name,
            reference="saved_model",
            metric=ENTROPY,
            slice="overall",
            num_examples=425,
            change=drop,
            lower=drop - 0.004,
            upper=drop + 0.004,
            method="paired_bootstrap",
        )
    )
    return found


def _cost(variant: Variant, winner: str | None) -> VariantCost:
    name, file = variant.name, variant.file
    size, drop, ratio = _VARIANTS[name]
    return VariantCost(
        variant=name,
        size_bytes=file.size_bytes,
        gzip_bytes=file.gzip_bytes,
        latency_ratio=ratio,
        peak_memory_bytes=9_100_000 + 2 * size,
        quality=0.9764 - drop,
        score=0.2 + ratio / 4 if winner and drop < 0.1 and name != "float32" else None,
        on_pareto_front=name in ("float16", "dynamic_range", "full_integer", "integer_only_int8"),
    )


def _latency(name: str) -> LatencyResult:
    ratio = _VARIANTS[name][2]
    return LatencyResult(
        variant=name,
        ratio=ratio,
        lower=ratio - 0.03,
        upper=ratio + 0.04,
        milliseconds=0.018 * ratio,
        source="this_machine",
        device=_THIS_MACHINE,
    )


def _fidelity(name: str) -> Fidelity:
    drop = _VARIANTS[name][1]
    return Fidelity(
        variant=name,
        output="output_0",
        num_examples=425,
        top1_agreement=1 - drop,
        cosine_similarity=1 - drop / 5,
        snr_db=None if name == "float32" else 34.1 - 200 * drop,
        max_absolute_error=0.0 if name == "float32" else 0.0031 + 4 * drop,
    )


def _layer_errors(name: str) -> LayerErrors:
    if name == "integer_only_int8":
        return LayerErrors(variant=name, message="The float model cannot be converted with debugging operators.")
    ops = ("CONV_2D", "DEPTHWISE_CONV_2D", "CONV_2D", "ADD")
    layers = [
        LayerError(
            name=f"model/block_{index // 4}/{ops[index % 4].lower()}_{index}/Relu;model/block_{index // 4}/BiasAdd",
            op=ops[index % 4],
            index=index,
            rmse_over_scale=0.289 + 0.03 * (index % 5) + {7: 1.9, 21: 4.2, 22: 0.9, 30: 0.7}.get(index, 0.0),
            mean_squared_error=1e-4 * (1 + index % 3),
            max_absolute_error=0.01 * (1 + index % 7),
        )
        for index in range(36)
    ]
    return LayerErrors(variant=name, num_examples=64, layers=tuple(layers))
