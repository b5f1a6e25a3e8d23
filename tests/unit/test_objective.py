"""Who wins among those that passed, what cannot be weighed, and who is beaten by nobody."""

import pytest

from tests.fakes import evaluations
from tfx_mobile.quantization_evaluator.judging.costs import pareto_front
from tfx_mobile.quantization_evaluator.judging.latency import Figure
from tfx_mobile.quantization_evaluator.judging.objective import Quality, choose
from tfx_mobile.records import VariantCost, Verdict

SIZES = {"float32": 400, "dynamic": 110, "int8": 100, "broken": 10}
VARIANTS = evaluations.manifest_of({name: b"x" * size for name, size in SIZES.items()}).variants
ACCURACY = {"float32": 0.80, "dynamic": 0.80, "int8": 0.76, "broken": 0.10}


def exact(**values):
    return {name: Figure(value, value, value) for name, value in values.items()}


LATENCY = exact(float32=1.0, dynamic=1.5, int8=0.5, broken=0.1)


def quality(values=ACCURACY, float_value=0.80, higher_is_better=True):
    return Quality("accuracy", higher_is_better, float_value, values)


QUALITY = quality()


def pick(weights, *, passed=("float32", "dynamic", "int8"), measure=QUALITY, latency=LATENCY):
    verdicts = [Verdict(variant=name, passed=name in passed) for name in SIZES]
    return choose(VARIANTS, verdicts, weights, measure, latency)


@pytest.mark.parametrize(
    ("weights", "winner", "scores"),
    [
        ({"size": 1.0}, "int8", {"float32": 3.0, "dynamic": 0.1, "int8": 0.0}),
        ({"latency": 1.0}, "int8", {"float32": 1.0, "dynamic": 2.0, "int8": 0.0}),
        ({"quality": 1.0}, "dynamic", {"float32": 0.0, "dynamic": 0.0, "int8": 0.05}),
        # 10 % of size against 5 % of accuracy.
        ({"size": 0.5, "quality": 0.5}, "int8", {"float32": 1.5, "dynamic": 0.05, "int8": 0.025}),
        ({"size": 0.25, "quality": 0.75}, "dynamic", {"float32": 0.75, "dynamic": 0.025, "int8": 0.0375}),
        (
            {"size": 0.2, "latency": 0.4, "quality": 0.4},
            "int8",
            {"float32": 1.0, "dynamic": 0.82, "int8": 0.02},
        ),
    ],
)
def test_the_weighted_cost_is_least(weights, winner, scores):
    found = pick(weights)
    assert found.winner == winner
    assert found.scores == pytest.approx(scores)
    assert found.cautions == {}


@pytest.mark.parametrize("factor", [0.001, 1024])
def test_units_do_not_matter(factor):
    weights = {"size": 0.3, "latency": 0.3, "quality": 0.4}
    scaled = exact(**{name: figure.value * factor for name, figure in LATENCY.items()})
    in_percent = quality({name: value * factor for name, value in ACCURACY.items()}, 0.80 * factor)
    assert pick(weights, latency=scaled, measure=in_percent).scores == pytest.approx(pick(weights).scores)


def test_a_metric_of_which_less_is_better_is_a_loss_when_it_grows():
    entropy = quality({"float32": 0.2, "dynamic": 0.18, "int8": 0.3}, 0.2, higher_is_better=False)
    found = pick({"quality": 1.0}, measure=entropy)
    assert found.winner == "dynamic"
    assert found.scores == pytest.approx({"float32": 0.0, "dynamic": -0.1, "int8": 0.5})
    assert pick({"quality": 1.0}, measure=quality({**ACCURACY, "int8": 0.9})).winner == "int8"
    # Nothing to take a share of.
    errors = quality({"float32": 0.0, "dynamic": 0.25, "int8": 0.5}, 0.0, higher_is_better=False)
    assert pick({"quality": 1.0}, measure=errors).scores == {"float32": 0.0, "dynamic": 0.25, "int8": 0.5}


def test_equal_scores_go_to_the_smaller_and_equal_sizes_to_the_first():
    assert pick({"quality": 1.0}, passed=("float32", "dynamic")).winner == "dynamic"
    same = evaluations.manifest_of({"float32": b"aa", "int8": b"bb"}).variants
    verdicts = [Verdict(variant=v.name, passed=True) for v in same]
    assert choose(same, verdicts, {"size": 1.0}, None, {}).winner == "float32"
    assert choose(same[::-1], verdicts, {"size": 1.0}, None, {}).winner == "int8"


def test_a_latency_that_may_be_the_fastest_counts_as_the_fastest():
    noisy = {
        "float32": Figure(1.0, 1.0, 1.0),
        "dynamic": Figure(0.50, 0.48, 0.53),
        "int8": Figure(0.52, 0.49, 0.55),
    }
    found = pick({"latency": 1.0}, latency=noisy)
    assert found.winner == "int8"
    assert found.scores == {"float32": 1.0, "dynamic": 0.0, "int8": 0.0}


@pytest.mark.parametrize(("passed", "winner"), [((), None), (("float32",), "float32")])
def test_only_what_passed_can_win(passed, winner):
    assert pick({"size": 1.0}, passed=passed).winner == winner


def test_a_criterion_that_nobody_has_a_value_for_is_left_out_and_that_is_said():
    found = pick({"size": 0.5, "latency": 0.5}, latency={})
    assert found.winner == "int8"
    assert found.scores == pick({"size": 1.0}).scores
    for name in ("float32", "dynamic", "int8"):
        (caution,) = found.cautions[name]
        assert caution.code == "objective"
        assert "weighs latency, which was left out: It was not measurable" in caution.message
        assert "Chosen by size instead." in caution.message
    assert "broken" not in found.cautions


@pytest.mark.parametrize("measure", [None, quality(float_value=None)])
def test_alone_it_gives_way_to_size(measure):
    found = pick({"latency": 0.5, "quality": 0.5}, latency={}, measure=measure)
    assert found.winner == "int8"
    assert [caution.message.split(",")[0] for caution in found.cautions["int8"]] == [
        "The objective weighs latency",
        "The objective weighs quality",
    ]


def test_a_variant_without_a_value_that_others_have_is_not_chosen():
    partly = {name: figure for name, figure in LATENCY.items() if name != "int8"}
    found = pick({"size": 0.5, "latency": 0.5}, latency=partly)
    assert found.winner == "dynamic"
    assert set(found.scores) == {"float32", "dynamic"}
    assert set(found.cautions) == {"int8"}
    assert "this variant has no value: it was not chosen" in found.cautions["int8"][0].message


def test_where_no_variant_has_all_values_latency_gives_way_first():
    found = pick(
        {"latency": 0.5, "quality": 0.5},
        latency=exact(int8=0.5),
        measure=quality({"float32": 0.8, "dynamic": 0.8, "int8": None}),
    )
    assert found.winner == "dynamic"
    assert set(found.cautions) == {"float32", "dynamic", "int8"}


def cost(name, size, quality=None, memory=None):
    return VariantCost(variant=name, size_bytes=size, gzip_bytes=size, quality=quality, peak_memory_bytes=memory)


class TestParetoFront:
    COSTS = (cost("a", 100, 0.90), cost("b", 50, 0.89), cost("c", 60, 0.88), cost("d", 100, 0.90))

    def test_who_is_worse_in_one_and_better_in_none_is_not_on_it(self):
        assert pareto_front(self.COSTS, True, {}) == {"a", "b", "d"}
        assert pareto_front(self.COSTS, False, {}) == {"b", "c"}
        assert pareto_front(self.COSTS, None, {}) == {"b"}
        assert pareto_front([], True, {}) == frozenset()

    def test_latency_counts_only_beyond_noise_and_where_it_is_known(self):
        figures = exact(a=1.0, b=1.0, c=0.5, d=1.0)
        assert pareto_front(self.COSTS, True, figures) == {"a", "b", "c", "d"}
        assert pareto_front(self.COSTS, True, {name: figures[name] for name in "acd"}) == {"a", "b", "d"}
        noisy = {name: Figure(1.0, 0.95, 1.05) for name in "abd"} | {"c": Figure(0.97, 0.92, 1.02)}
        assert pareto_front(self.COSTS, True, noisy) == {"a", "b", "d"}

    def test_a_quality_that_is_not_finite_is_the_worst(self):
        broken = (cost("a", 100, 0.9), cost("nan", 100), cost("b", 50, 0.8), cost("c", 60, 0.7))
        assert pareto_front(broken, True, {}) == {"a", "b"}
        assert pareto_front(broken, False, {}) == {"b", "c"}

    def test_memory_counts_if_all_have_it(self):
        memory = (cost("a", 100, 0.9, 10), cost("b", 50, 0.9, 20), cost("c", 100, 0.9, 20))
        assert pareto_front(memory, True, {}) == {"a", "b"}
        assert pareto_front((*memory[:2], cost("c", 50, 0.9)), True, {}) == {"b", "c"}
