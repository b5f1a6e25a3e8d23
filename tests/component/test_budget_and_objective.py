"""Budgets, objectives and what is measured for them, in the whole executor on real files."""

import json
from pathlib import Path

import pytest
from tfx.orchestration.data_types import RuntimeParameter

from tests.fakes import evaluations, models
from tfx_mobile import Budget, DeviceLatency, LatencySpec, QuantizationEvaluator, artifacts
from tfx_mobile.errors import EvalConfigError
from tfx_mobile.quantization_evaluator.eval_config import to_json
from tfx_mobile.records import EvaluationRecord, sha256_of

ACCURACY = "sparse_categorical_accuracy"


class World:
    """A SavedModel, examples, and a float32, a dynamic range and an integer file of it."""

    def __init__(self, root: Path) -> None:
        self.saved_model = root / "model" / "Format-Serving"
        models.save_raw_model(self.saved_model)
        self.inputs = {
            "examples": models.write_examples(root / "examples", {"eval": models.rows(60, seed=2)}),
            "model": models.model_artifact(root / "model"),
        }
        images = models.images(models.rows(60, seed=1))
        self.files = {
            "float32": evaluations.convert(self.saved_model, "float32"),
            "dynamic_range": evaluations.convert(self.saved_model, "dynamic_range"),
            "integer_only_int8": evaluations.convert(self.saved_model, "integer_only_int8", images),
        }

    def run(self, root: Path, files=None, **properties) -> EvaluationRecord:
        variants = evaluations.write_variants(root / "variants", files or self.files, self.saved_model)
        given = {
            key: value if isinstance(value, str) else value.to_json().decode() for key, value in properties.items()
        }
        config = to_json(evaluations.eval_config(drop=0.2))
        outputs = evaluations.execute({**self.inputs, "variants": variants}, {"eval_config": config, **given}, root)
        return EvaluationRecord.read(Path(outputs["evaluation"].uri) / "record.json")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("world"))


def codes(record, name):
    verdict = record.verdict(name)
    return [reason.code for reason in verdict.reasons], [caution.code for caution in verdict.cautions]


def test_by_default_nothing_is_measured_and_costs_are_recorded(world, tmp_path):
    record = world.run(tmp_path)
    assert record.latency is None
    assert record.quality_metric == ACCURACY
    assert [cost.variant for cost in record.costs] == list(world.files)
    sizes = {name: len(data) for name, data in world.files.items()}
    assert {cost.variant: cost.size_bytes for cost in record.costs} == sizes
    for cost in record.costs:
        assert (cost.latency_ratio, cost.peak_memory_bytes) == (None, None)
        metrics = next(model.slices[0].metrics for model in record.models if model.model == cost.variant)
        assert cost.quality == metrics[ACCURACY]
        assert cost.score == pytest.approx(cost.size_bytes / min(sizes.values()) - 1)
    assert record.winner == min(sizes, key=sizes.get)
    assert next(cost for cost in record.costs if cost.variant == record.winner).on_pareto_front


def test_memory_runtime_and_profiles_are_found_out_for_the_budget(world, tmp_path):
    budget = Budget(
        max_peak_memory_bytes=1, max_min_runtime="1.0", profiles=("no_select_ops", "mediapipe_image_classifier")
    )
    broken = {**world.files, "int16x8": b"\x00" * 64}
    record = world.run(tmp_path, broken, budget=budget)
    assert record.winner is None
    for cost in record.costs[:3]:
        reasons, cautions = codes(record, cost.variant)
        assert reasons == ["budget"] * 3
        assert cautions == []
        assert cost.score is None
        memory, runtime, profile = record.verdict(cost.variant).reasons
        assert memory.value == cost.peak_memory_bytes > 1
        assert "needs TensorFlow Lite" in runtime.message
        assert "compatibility profile mediapipe_image_classifier: " in profile.message
    # What cannot run has no more reasons than that.
    assert codes(record, "int16x8") == (["corrupt"], [])
    assert not record.costs[3].on_pareto_front


def test_latency_is_measured_for_the_budget(world, tmp_path):
    record = world.run(tmp_path, budget=Budget(max_latency_ratio=1e-3), latency=LatencySpec(rounds=5, runs=3))
    found = record.latency
    assert (found.reference, found.rounds) == ("float32", 5)
    for name in world.files:
        # Whether this machine is quiet enough is its own affair; never is anything faster than float32 by 1000 times.
        decided = found.measurable or name == "float32"
        assert codes(record, name) == ((["budget"], []) if decided else ([], ["latency_not_measurable"]))
    assert (record.winner is None) == found.measurable
    assert {result.variant for result in found.results} == (set(world.files) if found.measurable else set())
    ratios = {cost.variant: cost.latency_ratio for cost in record.costs}
    assert ratios["float32"] == (1.0 if found.measurable else None)


def device(**milliseconds):
    return tuple(DeviceLatency(variant=n, milliseconds=ms, device="Pixel 8") for n, ms in milliseconds.items())


def test_device_numbers_decide_the_objective_and_the_budget(world, tmp_path):
    numbers = device(float32=10, dynamic_range=4, integer_only_int8=5, gone=1)
    record = world.run(
        tmp_path, objective="latency", budget=Budget(max_latency_ms=9), latency=LatencySpec(device=numbers)
    )
    assert record.objective == {"latency": 1.0}
    assert record.winner == "dynamic_range"
    assert codes(record, "float32") == (["budget"], [])
    assert "One inference takes 10 ms on Pixel 8" in record.verdict("float32").reasons[0].message
    assert {cost.variant: cost.latency_ratio for cost in record.costs} == {
        "float32": 1.0,
        "dynamic_range": 0.4,
        "integer_only_int8": 0.5,
    }
    assert {cost.variant: cost.score for cost in record.costs} == {
        "float32": None,
        "dynamic_range": 0.0,
        "integer_only_int8": 0.25,
    }
    assert {result.source for result in record.latency.results} == {"device"}
    assert "'gone' is not used: there is no such variant" in record.latency.message


def test_what_cannot_be_decided_blocks_if_it_shall(world, tmp_path):
    """Neither is there a float32 variant, nor is the device number of these bytes."""
    files = {name: world.files[name] for name in ("dynamic_range", "integer_only_int8")}
    numbers = (
        DeviceLatency(variant="integer_only_int8", milliseconds=99, device="Pixel 8", sha256="0" * 64),
        DeviceLatency(
            variant="dynamic_range", milliseconds=99, device="Pixel 8", sha256=sha256_of(files["dynamic_range"])
        ),
    )
    record = world.run(
        tmp_path,
        files,
        budget=Budget(max_latency_ms=9, max_latency_ratio=5),
        latency=LatencySpec(device=numbers),
        confidence='{"undecided": "block"}',
    )
    assert record.winner is None
    assert codes(record, "integer_only_int8") == (["latency_not_measurable", "latency_not_measurable"], [])
    assert set(codes(record, "dynamic_range")[0]) == {"budget", "latency_not_measurable"}
    assert "Measure this file" in record.latency.message
    assert any("Add the recipe float32" in reason.message for reason in record.verdict("dynamic_range").reasons)


def test_an_objective_that_cannot_be_weighed_says_so_and_quality_decides_over_size(world, tmp_path):
    files = {name: data for name, data in world.files.items() if name != "float32"}
    record = world.run(tmp_path, files, objective='{"latency": 0.5, "quality": 0.5}')
    best = max(cost.quality for cost in record.costs)
    winner = next(cost for cost in record.costs if cost.variant == record.winner)
    assert winner.quality == best
    (baseline,) = [model.slices[0].metrics[ACCURACY] for model in record.models if model.model == "saved_model"]
    assert winner.score == pytest.approx((baseline - best) / baseline)
    for name in files:
        assert codes(record, name) == ([], ["objective"])
        assert "latency, which was left out" in record.verdict(name).cautions[0].message
        assert "Chosen by quality instead" in record.verdict(name).cautions[0].message


class TestConstruction:
    def component(self, **parameters):
        from tfx.types import Channel, standard_artifacts

        return QuantizationEvaluator(
            examples=Channel(type=standard_artifacts.Examples),
            model=Channel(type=standard_artifacts.Model),
            variants=Channel(type=artifacts.TFLiteVariants),
            eval_config=evaluations.eval_config(),
            **parameters,
        )

    @pytest.mark.parametrize(
        ("parameters", "message"),
        [
            ({"budget": {"max_latency_ms": 5}}, "max_latency_ms=5, but there are no device numbers.*benchmark_model"),
            ({"budget": {"max_latency_ms": 5}, "latency": {"rounds": 9}}, "no device numbers"),
            ({"budget": {"profiles": ["lite_rt"]}}, "budget=.*Unknown compatibility profile 'lite_rt'. Valid.*litert"),
            ({"budget": {"profiles": "litert"}}, "budget=.*profiles"),
            ({"budget": {"max_latency_ratio": 0}}, "budget=.*max_latency_ratio"),
            (
                {"latency": {"device": [{"variant": "a", "milliseconds": 1, "device": "d"}] * 2}},
                "latency=.*'a' is given twice on 'd'",
            ),
        ],
    )
    def test_wrong_parameters_are_refused(self, parameters, message):
        with pytest.raises(EvalConfigError, match=message):
            self.component(**parameters)

    def test_the_executor_refuses_what_a_runtime_parameter_hid(self, world, tmp_path):
        component = self.component(budget={"max_latency_ms": 5}, latency=RuntimeParameter(name="latency", ptype=str))
        budget = component.spec.exec_properties["budget"]
        assert json.loads(budget)["max_latency_ms"] == 5
        with pytest.raises(EvalConfigError, match="no device numbers"):
            world.run(tmp_path, budget=budget)
