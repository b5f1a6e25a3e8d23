"""Confidence intervals of changes: published values, brute force, and coverage by simulation."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from tfx_mobile.quantization_evaluator.judging.intervals import examples_needed, interval, tango, tango_score
from tfx_mobile.quantization_evaluator.scoring.paired import PairedSample


def sample(value, reference_value, num_examples, **more):
    return PairedSample(
        variant="int8",
        reference="saved_model",
        metric="accuracy",
        slice="overall",
        num_examples=num_examples,
        value=value,
        reference_value=reference_value,
        **more,
    )


def counted(gained, lost, num_examples, reference_value=0.75):
    """A sample of 0/1 scores."""
    value = reference_value + (gained - lost) / num_examples
    return sample(value, reference_value, num_examples, gained=gained, lost=lost)


def bootstrapped(changes, weights=None, *, reference_value=0.5, num_replicates=400, seed=0):
    """A sample of a weighted mean, by a Poisson bootstrap written on its own; an empty replicate has no value."""
    changes = np.asarray(changes, np.float64)
    weights = np.ones(len(changes)) if weights is None else weights
    drawn = np.random.default_rng(seed).poisson(1, (num_replicates, len(changes))) * weights
    with np.errstate(invalid="ignore"):
        replicates = (drawn * changes).sum(axis=1) / drawn.sum(axis=1)
    change = (weights * changes).sum() / weights.sum()
    return sample(reference_value + change, reference_value, len(changes), replicates=replicates)


@pytest.mark.parametrize(
    ("gained", "lost", "num_examples", "level", "lower", "upper"),
    [
        # Tango (1998), section 6: sleeping difficulties, and soft contact lenses (lower end at 90 %).
        (9, 3, 32, 0.95, -0.027, 0.390),
        (0, 1, 44, 0.90, -0.096, None),
        # Fagerland, Lydersen and Laake, "Statistical Analysis of Contingency Tables" (2017), chapter 8.
        (1, 7, 21, 0.95, -0.517, -0.026),
        (6, 16, 161, 0.95, -0.1240, -0.0054),
    ],
)
def test_tangos_interval_equals_published_values(gained, lost, num_examples, level, lower, upper):
    found = tango(gained, lost, num_examples, level)
    digits = 4 if num_examples == 161 else 3
    assert round(found[0], digits) == lower
    assert upper is None or round(found[1], digits) == upper


def test_tangos_statistic_equals_published_values():
    assert tango_score(0, 1, 44, -0.1) == pytest.approx(1.709, abs=5e-4)
    assert tango_score(9, 3, 32, 0) == pytest.approx(6 / math.sqrt(12))  # McNemar's


def constrained_score(gained, lost, n, change):
    """The score statistic from the definition: the likelihood maximised numerically under the hypothesis."""

    def loss(share_lost):
        share_gained = share_lost + change
        same = 1 - share_lost - share_gained
        terms = ((gained, share_gained), (lost, share_lost), (n - gained - lost, same))
        return -sum(count * math.log(max(share, 1e-300)) for count, share in terms if count)

    bounds = (max(0.0, -change), (1 - change) / 2)
    share_lost = optimize.minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-12}).x
    variance = n * (2 * share_lost + change - change**2)
    return (gained - lost - n * change) / math.sqrt(variance)


@pytest.mark.parametrize(("gained", "lost", "n"), [(0, 0, 30), (0, 3, 40), (5, 2, 25), (20, 40, 160), (3, 0, 9)])
def test_tangos_interval_holds_what_the_score_test_does_not_reject(gained, lost, n):
    lower, upper = tango(gained, lost, n, 0.95)
    grid = np.linspace(-0.999, 0.999, 1000)
    kept = [x for x in grid if abs(constrained_score(gained, lost, n, x)) <= stats.norm.ppf(0.975)]
    step = grid[1] - grid[0]
    assert lower == pytest.approx(kept[0], abs=1.01 * step)
    assert upper == pytest.approx(kept[-1], abs=1.01 * step)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 3000), st.data(), st.sampled_from([0.5, 0.9, 0.95, 0.9995]))
def test_tangos_interval_contains_the_estimate_and_mirrors(n, data, level):
    gained = data.draw(st.integers(0, n))
    lost = data.draw(st.integers(0, n - gained))
    lower, upper = tango(gained, lost, n, level)
    assert -1 <= lower <= (gained - lost) / n <= upper <= 1
    assert lower < upper
    assert tango(lost, gained, n, level) == pytest.approx((-upper, -lower), abs=1e-8)
    wider = tango(gained, lost, n, (1 + level) / 2)
    assert wider[0] <= lower
    assert wider[1] >= upper


def test_no_changed_example_is_no_certainty():
    lower, upper = tango(0, 0, 40, 0.95)
    assert upper == -lower == pytest.approx(1.95996**2 / (40 + 1.95996**2), rel=1e-5)
    assert tango(0, 0, 1, 0.95)[0] < -0.7
    # The rule of three, about: without a loss in 188 examples a loss of 2 points is excluded.
    assert tango(0, 0, 188, 0.95)[0] > -0.0201 > tango(0, 0, 187, 0.95)[0]


@pytest.mark.parametrize(("share_lost", "share_gained"), [(0.02, 0.0), (0.07, 0.05)])
@pytest.mark.parametrize("n", [10, 50, 400])
def test_tango_rarely_passes_or_fails_what_sits_on_the_limit(n, share_lost, share_gained):
    """One-sided errors where the true change is the limit, computed exactly over all outcomes."""
    limit = share_gained - share_lost
    gains = np.arange(n + 1)
    passed = failed = 0.0
    for gained, weight in zip(gains, stats.binom.pmf(gains, n, share_gained), strict=True):
        if weight < 1e-9:
            continue
        losses = np.arange(n - gained + 1)
        for lost, share in zip(
            losses, stats.binom.pmf(losses, n - gained, share_lost / (1 - share_gained)), strict=True
        ):
            if share * weight > 1e-9:
                score = tango_score(int(gained), int(lost), n, limit)
                passed += weight * share * (score >= 1.96)
                failed += weight * share * (score <= -1.96)
    assert passed <= 0.026
    assert failed <= 0.055


@pytest.mark.parametrize(
    ("n", "draw", "true_change"),
    [
        (6, lambda rng, n: rng.normal(-0.02, 0.1, n), -0.02),
        (40, lambda rng, n: rng.normal(-0.02, 0.1, n), -0.02),
        (40, lambda rng, n: -(rng.random(n) < 0.02).astype(float), -0.02),
        (300, lambda rng, n: -(rng.random(n) < 0.02).astype(float), -0.02),
        (300, lambda rng, n: rng.lognormal(-3, 0.7, n), math.exp(-3 + 0.245)),
    ],
)
def test_the_bootstrap_covers_the_true_change(n, draw, true_change):
    rng = np.random.default_rng(5)
    missed = 0
    for seed in range(200):
        found = interval(bootstrapped(draw(rng, n), rng.uniform(0.5, 2, n), seed=seed), 0.95)
        missed += found is None or not found.lower <= true_change <= found.upper
    assert missed <= 25


def test_the_bootstrap_is_the_percentile_interval_when_examples_are_many():
    changes = np.random.default_rng(0).normal(0.01, 0.2, 5000)
    one = bootstrapped(changes, num_replicates=2000)
    found = interval(one, 0.95)
    assert found.method == "paired_bootstrap"
    lower, upper = np.quantile(one.replicates, [0.025, 0.975])
    assert (found.lower, found.upper) == pytest.approx((lower, upper), abs=3e-4)
    error = changes.std() / math.sqrt(5000)
    assert (found.lower, found.upper) == pytest.approx(
        (changes.mean() - 1.96 * error, changes.mean() + 1.96 * error), abs=4e-4
    )


@pytest.mark.parametrize("n", [2, 6, 20])
def test_few_examples_widen_the_bootstrap_by_students_t(n):
    replicates = -0.1 + 0.01 * stats.norm.ppf((np.arange(4000) + 0.5) / 4000)
    found = interval(sample(0.8, 0.9, n, replicates=replicates), 0.95)
    half_width = 0.01 * stats.t.ppf(0.975, n - 1) * math.sqrt(n / (n - 1))
    assert found.upper + 0.1 == pytest.approx(half_width, rel=0.02)
    assert -0.1 - found.lower == pytest.approx(half_width, rel=0.02)


def test_levels_beyond_the_replicates_are_stretched():
    one = bootstrapped(np.random.default_rng(0).normal(0.01, 0.2, 5000), num_replicates=200)
    change = one.value - one.reference_value
    wide = interval(one, 0.9999)
    error = 0.2 / math.sqrt(5000)
    assert change - wide.lower == pytest.approx(3.89 * error, rel=0.25)
    assert wide.upper - change == pytest.approx(3.89 * error, rel=0.25)


def test_weighted_scores_of_which_none_changed_are_no_certainty():
    """All replicates are 0 then; the interval is that of as many unchanged 0/1 scores, in the metric's size."""
    found = interval(bootstrapped(np.zeros(40)), 0.95)
    assert (found.lower, found.upper) == pytest.approx(tango(0, 0, 40, 0.95))
    assert interval(bootstrapped(np.zeros(40), reference_value=25.0), 0.95).upper == pytest.approx(25 * found.upper)
    # One lost example of 40: as little known about the others.
    (*unchanged, lost) = np.zeros(39), -1.0
    one = interval(bootstrapped(np.append(*unchanged, lost)), 0.95)
    assert one.lower < -0.1
    assert one.upper > 0


@pytest.mark.parametrize(
    "one",
    [
        sample(0.8, 0.9, 1, replicates=np.full(400, -0.1)),
        sample(0.8, 0.9, 50),
        sample(0.8, 0.9, 50, replicates=np.array([-0.1] * 15)),
        sample(math.nan, 0.9, 50, gained=0, lost=1),
        sample(0.8, 0.9, 50, replicates=np.where(np.arange(400) < 20, np.nan, np.linspace(-0.2, 0, 400))),
        sample(0.8, 0.9, None, replicates=np.linspace(-0.2, 0, 400)),
    ],
    ids=["one example", "nothing collected", "few replicates", "no value", "many undefined", "unknown size"],
)
def test_without_spread_there_is_no_interval(one):
    assert interval(one, 0.95) is None
    assert examples_needed(one, -0.05, 0.95) is None


def test_a_replicate_without_a_value_widens_the_interval():
    replicates = np.linspace(-0.2, 0.0, 1001)[1:-1]
    undefined = replicates.copy()
    undefined[np.random.default_rng(0).choice(999, 10, replace=False)] = np.nan
    whole, partly = (interval(sample(0.8, 0.9, 500, replicates=r), 0.95) for r in (replicates, undefined))
    assert partly.lower < whole.lower
    assert partly.upper > whole.upper
    assert math.isfinite(partly.lower)


def decides(one, limit, level=0.95):
    found = interval(one, level)
    return found.lower >= limit or found.upper < limit


@pytest.mark.parametrize(("gained", "lost", "n", "limit"), [(0, 0, 40, -0.02), (1, 2, 50, -0.05), (2, 6, 60, -0.02)])
def test_examples_needed_is_the_smallest_number_that_decides(gained, lost, n, limit):
    assert not decides(counted(gained, lost, n), limit)
    needed = examples_needed(counted(gained, lost, n), limit, 0.95)
    share_gained, share_lost = gained / n, lost / n

    def at(size):
        lower, upper = tango(share_gained * size, share_lost * size, size, 0.95)
        return lower >= limit or upper < limit

    assert needed > n
    assert at(needed)
    assert not at(needed - 1)
    assert all(at(size) for size in range(needed, 4 * needed, 97))


def test_examples_needed_of_a_bootstrap_scales_with_the_root():
    changes = np.random.default_rng(3).normal(-0.01, 0.2, 300)
    one = bootstrapped(changes)
    change = one.value - one.reference_value
    limit = change - 0.01
    below = change - interval(one, 0.95).lower
    needed = examples_needed(one, limit, 0.95)
    assert needed == pytest.approx(300 * (below / (change - limit)) ** 2, abs=1)
    assert needed > 300
    # Nothing changed: as few as for plain scores.
    assert examples_needed(bootstrapped(np.zeros(40)), -0.02, 0.95) == examples_needed(counted(0, 0, 40), -0.02, 0.95)


def test_no_number_of_examples_decides_a_change_that_sits_on_its_limit():
    assert examples_needed(counted(1, 3, 100), -0.02, 0.95) is None
    assert examples_needed(counted(0, 0, 100), 0.0, 0.95) is None
    assert examples_needed(bootstrapped(np.zeros(100)), 0.0, 0.95) is None
