"""Intervals of changed areas under a curve: TFMA's value, DeLong's standard error, coverage, any order and split."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from tests.fakes import batches
from tfx_mobile.quantization_evaluator.judging.intervals import examples_needed, interval
from tfx_mobile.quantization_evaluator.scoring.paired import PairedSample
from tfx_mobile.quantization_evaluator.scoring.vectorized import areas
from tfx_mobile.quantization_evaluator.scoring.vectorized.areas import Sample

CHANGE = {"change_threshold": {"direction": "HIGHER_IS_BETTER", "absolute": -0.05}}
GATED = ({"class_name": "AUC", "threshold": CHANGE}, {"class_name": "AUCPrecisionRecall", "threshold": CHANGE})
COARSE = {
    "class_name": "AUC",
    "config": '{"name": "coarse", "summation_method": "majoring"}',
    "threshold": CHANGE,
}


def scores(rng: np.random.Generator, count: int, share: float, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and the scores of a binormal model and of the same with noise, float64 [2, count]."""
    labels = (rng.random(count) < share).astype(np.float64)
    good = rng.normal(size=count) + 1.5 * labels
    return labels, np.stack([good, good + noise * rng.normal(size=count)])


def true_change(noise: float) -> float:
    """Of the areas of the two."""
    return float(stats.norm.cdf(1.5 / np.sqrt(2 * (1 + noise**2))) - stats.norm.cdf(1.5 / np.sqrt(2)))


def samples_of(rng: np.random.Generator, labels: np.ndarray, values: np.ndarray) -> list[Sample]:
    hashes = rng.integers(0, 2**63, len(labels)).astype(np.uint64)
    ones = np.ones(len(labels))
    return [Sample.of(hashes, np.stack([ranks(row), labels, ones], axis=1)) for row in values]


def ranks(values: np.ndarray) -> np.ndarray:
    return np.unique(values, return_inverse=True)[1].reshape(-1).astype(np.float64)


def area(labels: np.ndarray, values: np.ndarray, curve: str = "ROC") -> float:
    rows = np.stack([ranks(values), labels, np.ones(len(labels))], axis=1)
    return float(areas.area(rows, np.ones((1, len(labels))), curve)[0])


def paired(labels: np.ndarray, values: np.ndarray, samples: Sequence[Sample], number: int = 400) -> PairedSample:
    reference, own = (area(labels, row) for row in values)
    replicates, rarest = areas.replicates(samples[0], samples[1], "ROC", own - reference, number)
    return PairedSample(
        variant="int8",
        reference="saved_model",
        metric="auc",
        slice="overall",
        num_examples=len(labels),
        value=own,
        reference_value=reference,
        replicates=replicates,
        rarest=rarest,
    )


def delong(labels: np.ndarray, values: np.ndarray) -> float:
    """The standard error of the difference of two areas.

    DeLong, DeLong and Clarke-Pearson, "Comparing the areas under two or more correlated receiver operating
    characteristic curves", Biometrics 44 (1988), 837-845, by the midranks of Sun and Xu, "Fast implementation of
    DeLong's algorithm", IEEE Signal Processing Letters 21 (2014), 1389-1393.
    """
    positive = labels == 1
    m, n = positive.sum(), (~positive).sum()
    of_positives, of_negatives = [], []
    for row in values:
        together, among = stats.rankdata(row), np.empty(len(row))
        among[positive], among[~positive] = stats.rankdata(row[positive]), stats.rankdata(row[~positive])
        of_positives.append((together - among)[positive] / n)
        of_negatives.append(1 - (together - among)[~positive] / m)
    difference = [np.subtract(*parts) for parts in (of_positives, of_negatives)]
    return float(np.sqrt(np.var(difference[0], ddof=1) / m + np.var(difference[1], ddof=1) / n))


# --- areas -----------------------------------------------------------------------------------------------------------


def test_an_area_by_hand():
    labels = np.array([0, 0, 1, 1.0])
    assert area(labels, np.array([0.1, 0.4, 0.35, 0.8])) == 0.75
    assert area(labels, np.array([0.5, 0.5, 0.5, 0.5])) == 0.5
    assert area(labels, labels) == area(labels, labels, "PR") == 1.0


@pytest.mark.parametrize("curve", ["ROC", "PR"])
@pytest.mark.parametrize("labels", [np.zeros(3), np.ones(3), np.zeros(0)])
def test_without_both_classes_there_is_none(labels, curve):
    rows = np.stack([np.arange(len(labels)), labels, np.ones(len(labels))], axis=1)
    assert np.isnan(areas.area(rows, np.ones((2, len(labels))), curve)).all()


def test_weights_are_as_good_as_copies():
    rng = np.random.default_rng(2)
    rows = np.stack([rng.integers(0, 9, 40), rng.integers(0, 2, 40), np.ones(40)], axis=1).astype(np.float64)
    copies = rng.integers(0, 4, 40)
    for curve in ("ROC", "PR"):
        repeated = np.repeat(rows, copies, axis=0)
        expected = areas.area(repeated, np.ones((1, len(repeated))), curve)
        assert areas.area(rows, copies[None].astype(float), curve) == pytest.approx(expected)
        weighted = np.column_stack([rows[:, :2], copies])
        assert areas.area(weighted, np.ones((1, 40)), curve) == pytest.approx(expected)


# --- samples ---------------------------------------------------------------------------------------------------------


def test_a_sample_depends_neither_on_order_nor_on_split(monkeypatch):
    monkeypatch.setattr(areas, "KEPT", 20)
    rng = np.random.default_rng(3)
    hashes = rng.integers(0, 60, 300).astype(np.uint64)  # with many equal ones
    rows = np.stack([rng.integers(0, 9, 300), rng.random(300), rng.integers(0, 3, 300)], axis=1).astype(np.float64)
    whole = Sample.of(hashes, rows)
    assert whole.counts.sum() == (rows[:, 2] > 0).sum()
    assert (len(whole.hashes), whole.kept.tolist()) == (40, [20, 20])
    for sizes in ([300], [1] * 300, [7, 200, 93]):
        order, total = rng.permutation(300), None
        for part in np.split(order, np.cumsum(sizes)[:-1]):
            one = Sample.of(hashes[part], rows[part])
            total = one if total is None else total + one
        assert all(np.array_equal(getattr(whole, name), getattr(total, name)) for name in ("counts", "hashes", "rows"))


def test_samples_of_other_examples_are_not_compared():
    rng = np.random.default_rng(4)
    labels, values = scores(rng, 50, 0.5, 0.1)
    first, other = samples_of(rng, labels, values)[0], samples_of(rng, labels, values)[1]
    assert areas.replicates(first, other, "ROC", 0.0, 50) is None


# --- intervals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kept", "count", "share"), [(2048, 800, 0.5), (2048, 800, 0.1), (400, 6000, 0.5), (400, 6000, 0.05)]
)
def test_replicates_spread_as_delong_says(monkeypatch, kept, count, share):
    monkeypatch.setattr(areas, "KEPT", kept)
    rng = np.random.default_rng(5)
    ratios = []
    for _ in range(12):
        labels, values = scores(rng, count, share, 0.3)
        sample = paired(labels, values, samples_of(rng, labels, values))
        ratios.append(np.std(sample.replicates) / delong(labels, values))
        assert np.mean(sample.replicates) == pytest.approx(sample.value - sample.reference_value, abs=0.002)
    assert np.mean(ratios) == pytest.approx(1.0, abs=0.07)


@pytest.mark.parametrize(("kept", "count", "share"), [(2048, 120, 0.5), (128, 600, 0.5), (128, 1500, 0.08)])
def test_the_true_change_is_covered(monkeypatch, kept, count, share):
    monkeypatch.setattr(areas, "KEPT", kept)
    rng = np.random.default_rng(6)
    covered = []
    for _ in range(150):
        labels, values = scores(rng, count, share, 0.3)
        found = interval(paired(labels, values, samples_of(rng, labels, values)), 0.95)
        covered.append(found.lower <= true_change(0.3) <= found.upper)
    # 95 % of 150 are 142.5, give or take 5.3 in two of three standard deviations.
    assert sum(covered) >= 136


def test_unchanged_examples_are_no_certainty():
    rng = np.random.default_rng(7)
    labels, values = scores(rng, 500, 0.04, 0.0)
    sample = paired(labels, values, samples_of(rng, labels, values))
    positives = int(labels.sum())
    assert sample.rarest == positives
    found = interval(sample, 0.95)
    # As sure as the few positives are, not as the many examples.
    square = stats.norm.ppf(0.975) ** 2
    assert found.upper == pytest.approx(square / (positives + square))
    assert found.lower == -found.upper
    needed = examples_needed(sample, -0.05, 0.95)
    assert needed == pytest.approx(square * (1 / 0.05 - 1) * 500 / positives, rel=0.02)


def test_two_positives_that_may_not_be_drawn_give_no_interval():
    rng = np.random.default_rng(8)
    labels, values = scores(rng, 200, 0.0, 0.3)
    labels[:2] = 1
    sample = paired(labels, values, samples_of(rng, labels, values))
    assert np.isnan(sample.replicates).any()
    assert interval(sample, 0.95) is None


def test_a_change_that_only_some_sampled_examples_made_is_not_taken_for_certain(monkeypatch):
    """All examples moved the area a little; those that were kept show nothing of it."""
    monkeypatch.setattr(areas, "KEPT", 50)
    rng = np.random.default_rng(9)
    labels, values = scores(rng, 2000, 0.5, 0.0)
    first, second = samples_of(rng, labels, values)
    replicates, rarest = areas.replicates(first, second, "ROC", -0.004, 400)
    sample = PairedSample("v", "saved_model", "auc", "overall", 2000, 0.8, 0.804, replicates=replicates, rarest=rarest)
    found = interval(sample, 0.95)
    assert found.lower < -0.05
    assert found.upper > 0.0


# --- in the pass -----------------------------------------------------------------------------------------------------


def written(folder: Path) -> dict[tuple[str, str, str], dict]:
    records = [line for path in folder.glob("paired/*") for line in path.read_bytes().splitlines()]
    return {(r["slice"], s["variant"], s["metric"]): s for r in map(json.loads, records) for s in r["samples"]}


def replicates(sample: dict) -> np.ndarray:
    return np.frombuffer(base64.b64decode(sample["replicates"]), "<f8")


ROWS = 120
RNG = np.random.default_rng(10)
LABELS = RNG.integers(0, 2, (ROWS, 1)).astype(np.float32)
PREDICTIONS = {
    model: np.clip(LABELS * 0.3 + 0.6 * RNG.random((ROWS, 1)), 0, 1).astype(np.float32) for model in batches.MODELS
}
GROUPS = np.array([[b"red"], [b"green"]], object)[RNG.integers(0, 2, ROWS)]
WEIGHTS = RNG.integers(0, 3, (ROWS, 1)).astype(np.float32)
SLICES = ({}, {"feature_keys": ["group"]})


def run(folder: Path, metrics=GATED, *, weights=None, predictions=PREDICTIONS, labels=LABELS, sizes=(50,), argv=()):
    extra = {} if weights is None else {"example_weight_key": "weight"}
    config = batches.eval_config(metrics, SLICES, **extra)
    extracts = batches.batches(labels, predictions, weights=weights, features={"group": GROUPS}, sizes=sizes)
    batches.vectorized(extracts, config, folder, argv=argv)
    return written(folder)


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["unweighted", "weighted"])
def test_the_area_of_a_sample_is_the_metric(tmp_path, monkeypatch, weights):
    measured: list[float] = []
    genuine = areas.replicates

    def checking(reference, own, curve, change, number):
        ones = np.ones((1, len(own.rows)))
        sampled = areas.area(own.rows, ones, curve)[0] - areas.area(reference.rows, ones, curve)[0]
        measured.append(abs(sampled - change))
        return genuine(reference, own, curve, change, number)

    monkeypatch.setattr(areas, "replicates", checking)
    samples = run(tmp_path, weights=weights)
    # Everything fits into the sample here, so TFMA's own change and the sample's are the same number.
    assert len(measured) == len(samples)
    assert max(measured) < 1e-9
    assert {metric for _, _, metric in samples} >= {"auc", "auc_precision_recall"}
    for sample in samples.values():
        assert len(replicates(sample)) == 40
        assert 0 < sample["rarest"] <= ROWS // 2 + 10


def test_two_workers_and_other_batches_give_the_same(tmp_path):
    one = run(tmp_path / "one")
    two_workers = ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]
    two = run(tmp_path / "two", sizes=(7, 30, 11), argv=two_workers)
    assert one.keys() == two.keys()
    for key, sample in one.items():
        assert sample["rarest"] == two[key]["rarest"]
        assert replicates(two[key]) == pytest.approx(replicates(sample), abs=1e-12)


def test_what_is_no_such_area_has_no_replicates(tmp_path):
    samples = run(tmp_path, (*GATED, COARSE))
    assert {metric: "replicates" in sample for (_, _, metric), sample in samples.items()} == {
        "auc": True,
        "auc_precision_recall": True,
        "coarse": False,
    }
    # An example of several values is several points of the curve, and drawn as a whole it would not be one.
    wide = {model: np.repeat(values, 2, axis=1) for model, values in PREDICTIONS.items()}
    samples = run(tmp_path / "wide", predictions=wide, labels=np.repeat(LABELS, 2, axis=1))
    assert not any("replicates" in sample for sample in samples.values())


def test_an_output_that_is_not_finite_has_no_interval(tmp_path):
    broken = {**PREDICTIONS, "second": np.where(np.arange(ROWS)[:, None] == 5, np.nan, PREDICTIONS["second"])}
    samples = run(tmp_path, predictions=broken)
    sample = samples["overall", "second", "auc"]
    assert np.isnan(sample["value"])
    assert "replicates" not in sample
    assert "replicates" in samples["overall", "first", "auc"]
