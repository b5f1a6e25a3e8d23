"""The search, on made-up models: a table or a rule gives each set of layers its quality and size."""

from __future__ import annotations

from collections.abc import Callable, Collection

from tfx_mobile.tflite_converter.layer_search import Candidate, Found, Trial, search


class Model:
    """Layers `a`, `b`, ... with 10 bytes each unless given; quality by a rule; counts what is measured."""

    def __init__(
        self, names: str | list[str], rule: Callable[[set[str]], float], weights: dict[str, int] | None = None
    ) -> None:
        weights = weights or {}
        self.candidates = [Candidate(name, weights.get(name, 10)) for name in names]
        self.rule = rule
        self.measured: list[tuple[str, ...]] = []

    def size(self, layers: Collection[str]) -> int:
        return 100 + sum(3 * c.weight_bytes for c in self.candidates if c.name in layers)

    def measure(self, layers: tuple[str, ...]) -> tuple[float, int]:
        assert layers == tuple(sorted(layers))
        self.measured.append(layers)
        return self.rule(set(layers)), self.size(layers)

    def search(self, target: float = 0.9, max_trials: int = 40, max_size_bytes: float = 1e9) -> Found:
        baseline = Trial((), self.rule(set()), self.size(()))
        found = search(
            self.candidates,
            self.measure,
            baseline,
            target=target,
            max_trials=max_trials,
            max_size_bytes=max_size_bytes,
        )
        assert len(self.measured) == len(set(self.measured)) == len(found.trials) <= max_trials
        return found


def test_a_model_that_quantization_does_not_harm_costs_no_trial() -> None:
    found = Model("abc", lambda _: 0.95).search()
    assert (found.best.layers, found.reached, found.trials) == ((), True, ())


def test_the_one_layer_that_does_it() -> None:
    found = Model("abcde", lambda layers: 0.95 if "d" in layers else 0.3).search()
    assert (found.best.layers, found.reached, found.exhausted) == (("d",), True, False)


def test_of_several_that_do_it_the_smallest() -> None:
    found = Model("abc", lambda layers: 0.95 if layers else 0.3, {"a": 50, "b": 5, "c": 20}).search()
    assert found.best.layers == ("b",)


def test_an_unnecessary_layer_is_not_kept_for_a_smaller_file() -> None:
    # With all three in float there are two conversions less between float and integer.
    model = Model("abcd", lambda layers: 0.95 if layers >= {"b", "c"} else 0.3 + 0.1 * len(layers & {"a", "b"}))
    sizes = model.size
    model.size = lambda layers: sizes(layers) - 60 * (set(layers) >= {"a", "b", "c"})  # type: ignore[method-assign]
    found = model.search()
    assert ("a", "b", "c") in model.measured
    assert model.size("abc") < model.size("bc")
    assert found.best.layers == ("b", "c")


def test_layers_that_help_step_by_step_and_one_that_turned_out_unnecessary() -> None:
    # `a` looks best alone, but `b` and `c` together do not need it.
    def quality(layers: set[str]) -> float:
        return 0.95 if layers >= {"b", "c"} else 0.3 + 0.3 * ("a" in layers) + 0.2 * ("b" in layers)

    model = Model("abcde", quality)
    found = model.search()
    assert ("a", "b", "c") in model.measured
    assert (found.best.layers, found.reached) == (("b", "c"), True)


def test_ranking_is_repeated_after_a_bad_step() -> None:
    # Once `a` is in float, `b`, second best alone, adds nothing, and `e`, worst alone, does.
    def quality(layers: set[str]) -> float:
        if layers >= {"a", "e"}:
            return 0.95
        return 0.5 if "a" in layers else 0.4 if "b" in layers else 0.25 if "e" in layers else 0.3

    found = Model("abcde", quality).search()
    assert found.best.layers == ("a", "e")


def test_a_pair_of_which_neither_helps_alone() -> None:
    found = Model("abcdef", lambda layers: 0.95 if layers >= {"b", "e"} else 0.3).search()
    assert (found.best.layers, found.reached) == (("b", "e"), True)


def test_success_on_the_last_layer_that_is_left_counts() -> None:
    # Each layer helps a little, and only all but one suffice: there is nothing left to rank when the last is added.
    found = Model("abc", lambda layers: {0: 0.1, 1: 0.4, 2: 0.7, 3: 0.95}[len(layers)]).search(target=0.95)
    assert [trial.layers for trial in found.trials if trial.quality >= 0.95] == [("a", "b", "c")]
    # It is no outcome all the same: with every layer in float nothing is quantized.
    assert (found.best.quality, found.reached) == (0.7, False)


def test_many_layers_are_ranked_in_blocks() -> None:
    names = [f"layer{index:03}" for index in range(90)]
    model = Model(names, lambda layers: 0.95 if layers >= {"layer041", "layer042"} else 0.3)
    found = model.search(max_trials=32)
    assert (found.best.layers, found.reached) == (("layer041", "layer042"), True)


def test_trials_are_bounded_and_the_best_so_far_is_given() -> None:
    names = [f"layer{index:03}" for index in range(90)]
    found = Model(names, lambda layers: len(layers) / 100).search(max_trials=7, max_size_bytes=1500)
    assert (found.reached, found.exhausted, len(found.trials)) == (False, True, 7)
    assert found.best.size_bytes <= 1500
    assert found.best.quality == max(trial.quality for trial in found.trials if trial.size_bytes <= 1500)


def test_size_is_bounded() -> None:
    model = Model("abc", lambda layers: 0.95 if "c" in layers else 0.5 if "a" in layers else 0.3, {"c": 1000})
    found = model.search(max_size_bytes=200)
    assert (found.best.layers, found.reached, found.exhausted) == (("a",), False, False)


def test_a_file_that_cannot_be_run_is_never_the_outcome() -> None:
    found = Model("abc", lambda layers: float("-inf") if "a" in layers else 0.5 if layers else 0.3).search()
    assert (found.best.layers, found.best.quality) == (("b",), 0.5)


def test_ties_go_by_name() -> None:
    assert Model("dbca", lambda layers: 0.95 if layers else 0.3).search().best.layers == ("a",)


def test_a_model_without_layers() -> None:
    found = Model("", lambda _: 0.3).search()
    assert (found.best.layers, found.reached, found.trials) == ((), False, ())
