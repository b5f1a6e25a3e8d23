"""What the vectorised evaluator collects of two models on the same examples, and what it does with odd input."""

import base64
import json
from pathlib import Path

import numpy as np
import pytest
from apache_beam.internal import pickler

from tests.fakes import batches
from tfx_mobile.errors import EvaluationError
from tfx_mobile.quantization_evaluator.scoring.vectorized import bootstrap, evaluator
from tfx_mobile.quantization_evaluator.scoring.vectorized.plan import make_plan

ROWS, CLASSES, REPLICATES = 90, 3, 40
RNG = np.random.default_rng(11)
ACCURACY, ENTROPY = "sparse_categorical_accuracy", "sparse_categorical_crossentropy"
LABELS = RNG.integers(0, CLASSES, (ROWS, 1))
GROUPS = np.array([[b"red"], [b"green"], [b"blue"]], object)[RNG.integers(0, 3, ROWS)]
CHANGE = {"change_threshold": {"direction": "HIGHER_IS_BETTER", "absolute": -0.5}}
GATED = (
    "ExampleCount",
    {"class_name": "SparseCategoricalAccuracy", "threshold": CHANGE},
    {"class_name": "SparseCategoricalCrossentropy", "threshold": CHANGE},
)
SLICES = ({}, {"feature_keys": ["group"]})


def probabilities(rng=RNG, rows=ROWS):
    values = rng.random((rows, CLASSES)) + 0.01
    return (values / values.sum(axis=1, keepdims=True)).astype(np.float32)


PREDICTIONS = {model: probabilities() for model in batches.MODELS}


def extracts(predictions=PREDICTIONS, labels=LABELS, **options):
    return batches.batches(labels, predictions, features={"group": GROUPS}, **options)


def paired(folder: Path) -> dict:
    """The written samples by slice, variant and metric."""
    records = [line for path in folder.glob("paired/*") for line in path.read_bytes().splitlines()]
    return {
        (record["slice"], sample["variant"], sample["metric"]): {**sample, "num_examples": record["num_examples"]}
        for record in map(json.loads, records)
        for sample in record["samples"]
    }


def replicates(sample):
    return np.frombuffer(base64.b64decode(sample["replicates"]), "<f8")


@pytest.fixture(scope="module")
def config():
    return batches.eval_config(GATED, SLICES)


@pytest.fixture(scope="module")
def pairs(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    batches.vectorized(extracts(sizes=(7, 60)), config, folder, replicates=REPLICATES)
    return paired(folder)


def test_gained_and_lost_examples_are_counted_on_every_slice(pairs):
    right = {model: values.argmax(axis=1) == LABELS[:, 0] for model, values in PREDICTIONS.items()}
    for place in ("overall", "group:red", "group:green", "group:blue"):
        here = np.ones(ROWS, bool) if place == "overall" else GROUPS[:, 0] == place[6:].encode()
        for variant in batches.VARIANTS:
            sample = pairs[place, variant, ACCURACY]
            assert sample["num_examples"] == here.sum()
            assert sample["gained"] == (right[variant] & ~right[batches.BASELINE] & here).sum() > 0
            assert sample["lost"] == (~right[variant] & right[batches.BASELINE] & here).sum() > 0
            assert "replicates" not in sample
            assert sample["value"] - sample["reference_value"] == pytest.approx(
                (sample["gained"] - sample["lost"]) / here.sum()
            )


def test_a_mean_is_bootstrapped_with_the_same_draws_for_both_models(pairs):
    hashes = bootstrap.hashes(f"example {row}".encode() for row in range(ROWS))
    weights = bootstrap.poisson_weights(hashes, REPLICATES).astype(float)
    entropies = {model: -np.log(p[np.arange(ROWS), LABELS[:, 0]]) for model, p in PREDICTIONS.items()}
    for place in ("overall", "group:green"):
        here = np.ones(ROWS, bool) if place == "overall" else GROUPS[:, 0] == b"green"
        drawn = weights[here]
        difference = (entropies["second"] - entropies[batches.BASELINE])[here]
        expected = drawn.T @ difference / drawn.sum(axis=0)
        found = replicates(pairs[place, "second", ENTROPY])
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
        assert "gained" not in pairs[place, "second", ENTROPY]


def test_samples_depend_on_neither_order_nor_batches(pairs, config, tmp_path):
    order = np.random.default_rng(0).permutation(ROWS)
    whole = extracts()[0]
    shuffled = extracts({m: p[order] for m, p in PREDICTIONS.items()}, LABELS[order], sizes=(1, 2, 30))
    # Every example keeps its bytes and its group.
    start = 0
    for part in shuffled:
        count = len(part["input"])
        rows = order[start : start + count]
        part["input"], part["features"] = whole["input"][rows], {"group": GROUPS[rows]}
        start += count
    batches.vectorized(shuffled, config, tmp_path, replicates=REPLICATES)
    again = paired(tmp_path)
    assert set(again) == set(pairs)
    for key, sample in pairs.items():
        assert {k: again[key].get(k) for k in ("gained", "lost", "num_examples")} == {
            k: sample.get(k) for k in ("gained", "lost", "num_examples")
        }
        if "replicates" in sample:
            np.testing.assert_allclose(replicates(again[key]), replicates(sample), rtol=1e-9)


def test_poisson_weights_are_poisson_and_belong_to_the_example():
    weights = bootstrap.poisson_weights(bootstrap.hashes(str(n).encode() for n in range(4000)), 50)
    assert weights.shape == (4000, 50)
    shares = [(weights == value).mean() for value in range(4)]
    np.testing.assert_allclose(shares, np.exp(-1) / np.array([1, 1, 2, 6]), atol=0.005)
    assert abs(np.corrcoef(weights[:, 0], weights[:, 1])[0, 1]) < 0.06
    assert abs(np.corrcoef(weights[:-1, 0], weights[1:, 0])[0, 1]) < 0.06
    twice = bootstrap.poisson_weights(bootstrap.hashes([b"same", b"same", b"other"]), 50)
    assert (twice[0] == twice[1]).all()
    assert (twice[0] != twice[2]).any()


def test_what_tfma_derives_is_bootstrapped_too(tmp_path):
    metrics = (
        {"class_name": "Precision", "threshold": CHANGE},
        {"class_name": "BinaryAccuracy", "threshold": CHANGE},
        {"class_name": "MeanPrediction", "threshold": CHANGE},
    )
    labels = LABELS % 2
    predictions = {model: RNG.random((ROWS, 1)).astype(np.float32) for model in batches.MODELS}
    config = batches.eval_config(metrics)
    batches.vectorized(extracts(predictions, labels), config, tmp_path, replicates=REPLICATES)
    found = paired(tmp_path)
    assert set(found) == {
        ("overall", variant, name)
        for variant in batches.VARIANTS
        for name in ("precision", "binary_accuracy", "mean_prediction")
    }
    weights = bootstrap.poisson_weights(
        bootstrap.hashes(f"example {row}".encode() for row in range(ROWS)), REPLICATES
    ).astype(float)

    def precision(model):
        positive = predictions[model][:, 0] > 0.5
        return weights[positive & (labels[:, 0] == 1)].sum(axis=0) / weights[positive].sum(axis=0)

    np.testing.assert_allclose(
        replicates(found["overall", "first", "precision"]), precision("first") - precision(batches.BASELINE)
    )
    means = {m: weights.T @ p[:, 0] / weights.sum(axis=0) for m, p in predictions.items()}
    np.testing.assert_allclose(
        replicates(found["overall", "first", "mean_prediction"]), means["first"] - means[batches.BASELINE]
    )
    right = {m: (p > 0.5) == labels for m, p in predictions.items()}
    accuracy = found["overall", "second", "binary_accuracy"]
    assert accuracy["gained"] == (right["second"] & ~right[batches.BASELINE]).sum()
    assert accuracy["lost"] == (~right["second"] & right[batches.BASELINE]).sum()


def test_a_label_between_the_classes_is_neither_gained_nor_lost(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluator, "_ROWS", 16)
    labels = (LABELS % 2).astype(np.float32)
    stranger = np.flatnonzero(GROUPS[:, 0] == b"red")[-1]
    labels[stranger] = 0.5
    predictions = {model: RNG.random((ROWS, 1)).astype(np.float32) for model in batches.MODELS}
    config = batches.eval_config([{"class_name": "BinaryAccuracy", "threshold": CHANGE}], SLICES)
    batches.vectorized(extracts(predictions, labels), config, tmp_path, replicates=REPLICATES)
    found = paired(tmp_path)
    for place, counted in {"overall": False, "group:red": False, "group:green": True, "group:blue": True}.items():
        sample = found[place, "first", "binary_accuracy"]
        assert ("gained" in sample) == ("lost" in sample) == counted
        assert "replicates" not in sample


def test_outputs_that_are_no_numbers_harm_only_their_model(config, tmp_path):
    broken = PREDICTIONS["first"].copy()
    broken[GROUPS[:, 0] == b"red"] = np.nan
    found, _ = batches.vectorized(extracts({**PREDICTIONS, "first": broken}), config, tmp_path / "broken")
    whole, _ = batches.vectorized(extracts(), config, tmp_path / "whole")
    for slice_key, values in whole.items():
        for key, value in values.items():
            if key.model_name != "first" or slice_key in ((("group", "green"),), (("group", "blue"),)):
                assert found[slice_key][key] == value
            elif key.name == ENTROPY:
                assert np.isnan(found[slice_key][key])
    samples = paired(tmp_path / "broken")
    assert np.isnan(replicates(samples["overall", "first", ENTROPY])).all()
    assert np.isfinite(replicates(samples["overall", "second", ENTROPY])).all()
    assert np.isfinite(replicates(samples["group:blue", "first", ENTROPY])).all()


def test_auc_of_outputs_that_are_no_numbers_is_no_number(tmp_path):
    predictions = {model: RNG.random((ROWS, 1)).astype(np.float32) for model in batches.MODELS}
    predictions["first"][GROUPS[:, 0] == b"red"] = np.nan
    config = batches.eval_config(["AUC"], SLICES)
    found, _ = batches.vectorized(extracts(predictions, LABELS % 2), config, tmp_path)
    finite = {
        (place, key.model_name): np.isfinite(v)
        for place, vs in found.items()
        for key, v in vs.items()
        if not key.is_diff
    }
    assert {one for one, is_finite in finite.items() if not is_finite} == {
        ((), "first"),
        ((("group", "red"),), "first"),
    }


def test_a_label_that_is_no_class_counts_as_wrong_and_has_no_entropy(config, tmp_path):
    labels = LABELS.copy()
    stranger = np.flatnonzero(GROUPS[:, 0] == b"red")[0]
    labels[stranger] = CLASSES
    found, _ = batches.vectorized(extracts(labels=labels), config, tmp_path)
    values = {
        (s, k.name): v for s, vs in found.items() for k, v in vs.items() if k.model_name == "first" and not k.is_diff
    }
    right = PREDICTIONS["first"].argmax(axis=1) == labels[:, 0]
    assert not right[stranger]
    assert values[(), ACCURACY] == pytest.approx(right.mean())
    assert np.isnan(values[(), ENTROPY])
    assert np.isnan(values[(("group", "red"),), ENTROPY])
    assert np.isfinite(values[(("group", "green"),), ENTROPY])


def test_a_missing_label_is_an_error_unless_nothing_needs_it(config, tmp_path):
    labels = [np.array([], np.int64) if row == 5 else label for row, label in enumerate(LABELS)]
    with pytest.raises(EvaluationError, match="The label is missing in some examples"):
        batches.vectorized(extracts(labels=labels), config, tmp_path / "needed")
    found, _ = batches.vectorized(extracts(labels=labels), batches.eval_config(["ExampleCount"]), tmp_path / "not")
    assert set(found[()].values()) == {ROWS, 0}


def test_metrics_without_a_vectorised_path_are_tfmas_own(tmp_path):
    config = batches.eval_config(
        [
            {"class_name": "SparseCategoricalAccuracy", "threshold": CHANGE},
            {"class_name": "SquaredPearsonCorrelation", "threshold": CHANGE},
            {"class_name": "Precision", "config": '{"class_id": 1}'},
        ],
        SLICES,
    )
    # A correlation wants numbers: of one class.
    binarized = config.metrics_specs.add()
    binarized.CopyFrom(config.metrics_specs[0])
    del binarized.metrics[0], config.metrics_specs[0].metrics[1]
    binarized.binarize.class_ids.values.append(2)
    del binarized.metrics[1]
    found, plan = batches.vectorized(extracts(sizes=(20,)), config, tmp_path / "vectorized")
    assert plan.reasons == {
        "squared_pearson_correlation": "binarize is set",
        "precision": "it has no vectorised path with these options",
    }
    assert [metric.class_name for spec in plan.fallback.metrics_specs for metric in spec.metrics] == [
        "Precision",
        "SquaredPearsonCorrelation",
    ]
    expected = batches.by_tfma(extracts(sizes=(20,)), config, tmp_path / "tfma")
    assert set(found) == set(expected)
    for slice_key, values in expected.items():
        assert set(found[slice_key]) == set(values)
        for key, value in values.items():
            assert found[slice_key][key] == pytest.approx(value, abs=1e-6, nan_ok=True)
    samples = paired(tmp_path / "vectorized")
    assert samples["overall", "first", ACCURACY]["gained"] > 0
    assert set(samples["overall", "first", "squared_pearson_correlation@class_id:2"]) == {
        "variant",
        "reference",
        "metric",
        "num_examples",
    }


def test_without_a_fallback_nothing_is_taken_apart(config, tmp_path, monkeypatch):
    import tensorflow_model_analysis as tfma

    monkeypatch.delattr(tfma.extractors, "UnbatchExtractor")
    found, _ = batches.vectorized(extracts(), config, tmp_path)
    assert len(found) == 4


def test_slices_that_tfmas_sql_extractor_found_are_taken():
    import tensorflow_model_analysis as tfma
    from tensorflow_model_analysis.api import types
    from tensorflow_model_analysis.slicer import slicer_lib

    from tfx_mobile.quantization_evaluator.scoring.vectorized.slices import Slicer

    big, odd = (("size", "big"),), (("parity", "odd"),)
    keys = [[big], [], [big, odd], [odd]]
    rows = [slicer_lib.slice_keys_to_numpy_array(some) for some in keys]
    batch = {**extracts(sizes=(4,))[0], tfma.SLICE_KEY_TYPES_KEY: types.VarLenTensorValue.from_dense_rows(rows)}
    slicer = Slicer(batches.eval_config(["ExampleCount"], [{"slice_keys_sql": "SELECT ..."}]))
    found = {(row, slicer.keys[number]) for row, number in zip(*slicer.slice_rows(batch, 4), strict=True)}
    # As TFMA has it, a SlicingSpec of SQL is also one of everything.
    assert found == {*((row, ()) for row in range(4)), *((row, key) for row, some in enumerate(keys) for key in some)}


def test_small_slices_are_left_out_as_in_tfma(tmp_path):
    config = batches.eval_config(["ExampleCount"], SLICES)
    counts = {name: int((GROUPS[:, 0] == name.encode()).sum()) for name in ("red", "green", "blue")}
    config.options.min_slice_size.value = max(counts.values())
    found, _ = batches.vectorized(extracts(), config, tmp_path)
    kept = {(("group", name),) for name, count in counts.items() if count == max(counts.values())}
    assert set(found) == {(), *kept}


def test_no_examples_give_no_slices(config, tmp_path):
    found, _ = batches.vectorized([], config, tmp_path)
    assert found == {}
    assert paired(tmp_path) == {}


def test_many_rows_are_summed_up_in_steps(config, tmp_path, monkeypatch):
    whole, _ = batches.vectorized(extracts(), config, tmp_path / "whole")
    monkeypatch.setattr(evaluator, "_ROWS", 16)
    found, _ = batches.vectorized(extracts(sizes=(5, 40, 3)), config, tmp_path / "steps")
    for slice_key, values in whole.items():
        for key, value in values.items():
            assert found[slice_key][key] == pytest.approx(value, rel=1e-12, abs=1e-12)


def test_the_step_travels_to_workers(config):
    plan = make_plan(config, batches.MODELS, [batches.BASELINE])
    step = evaluator._SumUpRows(plan, config, REPLICATES)
    step.setup()  # what is made there does not have to travel
    step = evaluator._SumUpRows(plan, config, REPLICATES)
    there = pickler.loads(pickler.dumps(step))
    there.setup()
    there.start_bundle()
    assert list(there.process(extracts()[0])) == []
    states = [value.value for value in there.finish_bundle()]
    assert {key for key, _ in states} == {(), *(((("group"), name),) for name in ("red", "green", "blue"))}
