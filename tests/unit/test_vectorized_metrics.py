"""Metrics of whole batches against TFMA's own of one example after the other: every supported metric, every slice."""

import numpy as np
import pytest

from tests.fakes import batches
from tfx_mobile.quantization_evaluator.judging.gates import metric_in_words

ROWS, CLASSES = 60, 4
RNG = np.random.default_rng(5)
CONFUSION = (
    "TruePositives",
    "TN",
    "FP",
    "FalseNegatives",
    "BinaryAccuracy",
    "Precision",
    "PPV",
    "Recall",
    "TPR",
    "Specificity",
    "TNR",
    "FallOut",
    "FPR",
    "MissRate",
    "FNR",
    "NPV",
    "FalseDiscoveryRate",
    "FalseOmissionRate",
    "Prevalence",
    "ThreatScore",
    "BalancedAccuracy",
    "F1Score",
    "MatthewsCorrelationCoefficient",
    "FowlkesMallowsIndex",
    "Informedness",
    "Markedness",
    "PositiveLikelihoodRatio",
    "NegativeLikelihoodRatio",
    "DiagnosticOddsRatio",
    "PredictedPositiveRate",
)
HISTOGRAMS = (
    "AUC",
    "AUCPrecisionRecall",
    {"class_name": "SpecificityAtSensitivity", "config": '{"sensitivity": 0.6}'},
    {"class_name": "AUC", "config": '{"name": "coarse_auc", "num_thresholds": 50, "summation_method": "majoring"}'},
)
MEANS = ("ExampleCount", "WeightedExampleCount", "MeanLabel", "MeanPrediction", "Calibration")
ERRORS = (
    "MeanSquaredError",
    "MeanAbsoluteError",
    "MeanAbsolutePercentageError",
    "MeanSquaredLogarithmicError",
    "RootMeanSquaredError",
    "CosineSimilarity",
    "LogCoshError",
)
SLICES = (
    {},
    {"feature_keys": ["group"]},
    {"feature_keys": ["group", "size"]},
    {"feature_values": {"size": "2"}},
    {"feature_keys": ["tags"]},
    {"feature_keys": ["alone"]},
)


def smoothed(class_name, **config):
    return {"class_name": class_name, "config": str(config).replace("'", '"').replace("True", "true")}


def probabilities(width):
    values = RNG.random((ROWS, width)) ** 2
    return (values / values.sum(axis=1, keepdims=True)).astype(np.float32)


def of_all_models(make):
    return {model: make() for model in batches.MODELS}


FEATURES = {
    "group": RNG.choice(np.array([b"red", b"green", b"blue"], object), (ROWS, 1)),
    "size": RNG.integers(1, 4, (ROWS, 1)),
    # Several, one, or none.
    "tags": [RNG.choice(np.array([b"a", b"b", b"c"], object), row % 3, replace=False) for row in range(ROWS)],
    "alone": np.array([[b"only"], *[[b"rest"]] * (ROWS - 1)], object),
}
WEIGHTS = RNG.choice([0.0, 0.5, 1.0, 3.0], (ROWS, 1)).astype(np.float32)
NUMBERS = RNG.integers(0, CLASSES, (ROWS, 1))
ONE_HOT = np.eye(CLASSES, dtype=np.float32)[NUMBERS[:, 0]]

CASES = {
    "classes": {
        "metrics": (
            "ExampleCount",
            "SparseCategoricalAccuracy",
            "SparseCategoricalCrossentropy",
            smoothed("SparseTopKCategoricalAccuracy", k=2, name="top_2"),
            "Precision",
            "Recall",
            "F1Score",
        ),
        "labels": NUMBERS,
        "predictions": of_all_models(lambda: probabilities(CLASSES)),
    },
    "logits": {
        "metrics": (smoothed("SparseCategoricalCrossentropy", from_logits=True),),
        "labels": NUMBERS[:, 0],
        "predictions": of_all_models(lambda: RNG.normal(0, 3, (ROWS, CLASSES)).astype(np.float32)),
    },
    "one_hot": {
        "metrics": (
            "CategoricalAccuracy",
            "CategoricalCrossentropy",
            smoothed("CategoricalCrossentropy", label_smoothing=0.1, name="smoothed"),
            smoothed("CategoricalCrossEntropy", name="by_tfma"),
            smoothed("CategoricalCrossEntropy", label_smoothing=0.1, name="smoothed_by_tfma"),
            smoothed("TopKCategoricalAccuracy", k=2, name="top_2"),
            "BinaryCrossentropy",
            smoothed("BinaryCrossEntropy", name="binary_by_tfma"),
            "KLDivergence",
            "Precision",
            "CosineSimilarity",
            "MeanSquaredError",
        ),
        "labels": ONE_HOT,
        "predictions": of_all_models(lambda: probabilities(CLASSES)),
    },
    "binary": {
        "metrics": (
            *MEANS,
            *CONFUSION,
            *ERRORS,
            "BinaryCrossentropy",
            smoothed("BinaryCrossentropy", label_smoothing=0.2, name="smoothed"),
            smoothed("BinaryCrossEntropy", name="by_tfma"),
            {"class_name": "BinaryAccuracy", "module": "tf_keras.metrics", "config": '{"name": "ours"}'},
            {"class_name": "Precision", "config": '{"thresholds": [0.2, 0.7], "name": "two"}'},
            {"class_name": "ConfusionMatrixAtThresholds", "config": '{"thresholds": [0.3]}'},
            "Hinge",
        ),
        "labels": (NUMBERS % 2).astype(np.float32),
        "predictions": of_all_models(lambda: RNG.random((ROWS, 1)).astype(np.float32)),
    },
    "binary_logits": {
        "metrics": (
            smoothed("BinaryCrossentropy", from_logits=True),
            smoothed("BinaryCrossEntropy", from_logits=True, name="by_tfma"),
        ),
        "labels": (NUMBERS[:, 0] % 2).astype(np.int64),
        "predictions": of_all_models(lambda: RNG.normal(size=ROWS).astype(np.float32)),
    },
    "two_columns": {
        "metrics": ("SparseCategoricalAccuracy", "SparseCategoricalCrossentropy", "BinaryAccuracy"),
        "labels": NUMBERS % 2,
        "predictions": of_all_models(lambda: probabilities(2)),
    },
    "regression": {
        "metrics": (*MEANS, *ERRORS, "Poisson"),
        "labels": np.abs(RNG.normal(5, 4, (ROWS, 1))).round().astype(np.float32),
        "predictions": of_all_models(lambda: np.abs(RNG.normal(5, 4, (ROWS, 1))).astype(np.float32)),
    },
    "vectors": {
        "metrics": ERRORS,
        "labels": np.abs(RNG.normal(5, 4, (ROWS, 3))).astype(np.float32),
        "predictions": of_all_models(lambda: np.abs(RNG.normal(5, 4, (ROWS, 3))).astype(np.float32)),
    },
    "outputs": {
        "metrics": ("ExampleCount", "BinaryAccuracy", "MeanSquaredError", "RootMeanSquaredError"),
        "labels": {"left": NUMBERS % 2, "right": (NUMBERS > 1).astype(np.int64)},
        "predictions": of_all_models(
            lambda: {name: RNG.random((ROWS, 1)).astype(np.float32) for name in ("left", "right")}
        ),
        "outputs": ("left", "right"),
        "spec": {"label_key": "", "label_keys": {"left": "left", "right": "right"}},
    },
    # TFMA takes a tenth of a second for each of them on each slice.
    "histograms": {
        "metrics": HISTOGRAMS,
        "labels": (NUMBERS % 2).astype(np.float32),
        "predictions": of_all_models(lambda: RNG.random((ROWS, 1)).astype(np.float32)),
        "slices": ({}, {"feature_keys": ["group"]}),
    },
    "histograms_of_classes": {
        "metrics": ("AUC",),
        "labels": NUMBERS,
        "predictions": of_all_models(lambda: probabilities(CLASSES)),
        "slices": ({}, {"feature_keys": ["alone"]}),
    },
    "positions": {
        "metrics": ("SparseCategoricalAccuracy", "SparseCategoricalCrossentropy"),
        "labels": RNG.integers(0, CLASSES, (ROWS, 3, 2)),
        "predictions": of_all_models(
            lambda: np.stack([probabilities(CLASSES) for _ in range(6)], 1).reshape(ROWS, 3, 2, CLASSES)
        ),
    },
}


# With weights, TFMA computes every metric with and without them.
@pytest.fixture(scope="module", params=[*((name, True) for name in CASES), ("binary_logits", False)], ids=str)
def both(request, tmp_path_factory):
    name, weighted = request.param
    case = CASES[name]
    spec = {**case.get("spec", {}), **({"example_weight_key": "weight"} if weighted else {})}
    slices = case.get("slices", SLICES)
    config = batches.eval_config(case["metrics"], slices, outputs=case.get("outputs", ()), **spec)
    some = batches.batches(
        case["labels"],
        case["predictions"],
        weights=WEIGHTS if weighted else None,
        features=FEATURES,
        sizes=(1, 30, 3),
    )
    folder = tmp_path_factory.mktemp(name)
    found, plan = batches.vectorized(some, config, folder / "vectorized")
    return case, plan, found, batches.by_tfma(some, config, folder / "tfma")


def test_every_metric_equals_tfmas_on_every_slice(both):
    case, plan, found, expected = both
    assert plan.fallback is None
    assert plan.reasons == {}
    assert set(found) == set(expected)
    some = {(), (("group", "red"),), (("tags", "a"),), (("alone", "only"),), (("size", 2),)}
    assert "slices" in case or some < set(expected)
    for slice_key, values in expected.items():
        assert set(found[slice_key]) == set(values)
        for key, value in values.items():
            ours = found[slice_key][key]
            assert type(ours) is type(value) or (np.isscalar(ours) and np.isscalar(value))
            if hasattr(value, "tp"):
                ours, value = ((m.tp, m.tn, m.fp, m.fn) for m in (ours, value))
            np.testing.assert_allclose(ours, value, rtol=1e-6, atol=1e-6, err_msg=f"{slice_key} {key}")
    names = {key.name for key in expected[()]}
    assert len(names) == len(case["metrics"])
    # Values and differences to the baseline.
    assert {metric_in_words(key.to_proto()) for key in expected[()] if key.is_diff}
