"""Latency: what timings say and when they say nothing, device numbers, and real files timed in a real child."""

import pytest

from tests.fakes import evaluations, tflite_files
from tfx_mobile.quantization_evaluator.judging import latency
from tfx_mobile.quantization_evaluator.judging.latency import (
    Figure,
    Timings,
    comparable,
    conclude,
    median_interval,
    ratio_of,
)
from tfx_mobile.records import DeviceLatency, LatencyRecord, LatencySpec, Variant

HERE = "CPU, 2 cores"
STEADY = [(1.0, ratio) for ratio in (0.99, 1.0, 1.01, 1.0, 0.98, 1.0, 1.02, 1.0, 1.0)]


def pairs(*ratios):
    return [(1e-3, 1e-3 * ratio) for ratio in ratios]


def record(control=STEADY, problems=(), given=(), messages=(), **variants):
    timings = Timings(control, {name: pairs(*ratios) for name, ratios in variants.items()}, dict(problems))
    return conclude("float32", timings, given, messages, HERE)


class TestInterval:
    @pytest.mark.parametrize(
        ("count", "ends"), [(5, (1, 5)), (6, (1, 6)), (8, (1, 8)), (9, (2, 8)), (12, (3, 10)), (25, (8, 18))]
    )
    def test_it_is_the_exact_binomial_one(self, count, ends):
        """The ranks of the tables for the sign test's interval of a median, 95 %."""
        values = list(range(count, 0, -1))
        assert median_interval(values) == ((count + 1) / 2, *ends)

    @pytest.mark.parametrize("count", [6, 9, 15, 30])
    def test_it_covers_the_true_median_at_least_as_often_as_it_says(self, count):
        import numpy as np

        draws = np.random.default_rng(0).exponential(size=(4000, count))
        ends = np.array([median_interval(row)[1:] for row in draws])
        assert np.mean((ends[:, 0] <= np.log(2)) & (np.log(2) <= ends[:, 1])) > 0.94


class TestConclusion:
    def test_ratios_are_medians_over_rounds_with_an_interval(self):
        found = record(int8=[0.5, 0.4, 0.42, 0.41, 0.4, 0.43, 0.39, 0.2, 0.4])
        assert (found.measurable, found.reference, found.rounds) == (True, "float32", 9)
        reference, int8 = found.results
        assert (reference.variant, reference.ratio, reference.lower, reference.upper) == ("float32", 1.0, 1.0, 1.0)
        assert int8.ratio == pytest.approx(0.4)
        assert (int8.lower, int8.upper) == (pytest.approx(0.39), pytest.approx(0.43))
        assert int8.milliseconds == pytest.approx(0.4)
        assert (int8.source, int8.device) == ("this_machine", HERE)
        assert found.control == 1.0
        assert HERE in found.message

    @pytest.mark.parametrize(
        "ratios",
        [
            [1.2] * 9,
            [0.85] * 9,
            [1.0, 1.0, 1.0, 1.0, 1.0, 1.3, 1.3, 1.3, 1.3],
            [1.0, 1.0, 1.0, 1.0, 1.0, 0.7, 0.7, 0.7, 0.7],
        ],
        ids=["slower", "faster", "scattered up", "scattered down"],
    )
    def test_a_control_that_is_off_gives_no_figures_of_this_machine(self, ratios):
        given = latency.read_devices(VARIANTS, LatencySpec(device=[entry("int8", 4)]), "float32")[0]
        found = record(control=pairs(*ratios), given=given, int8=[0.4] * 9)
        assert not found.measurable
        assert [result.source for result in found.results] == ["device"]
        assert found.message.startswith("Not measurable here: float32 timed against itself took")
        assert "0.9 to 1.1" in found.message
        assert ratio_of(found, "int8") is None

    def test_one_bad_round_does_not_spoil_the_control(self):
        assert record(control=pairs(*[1.0] * 8, 3.0), int8=[0.4] * 9).measurable

    def test_a_variant_that_could_not_be_timed_costs_only_its_own_figure(self):
        found = record(int8=[0.4] * 9, problems={"int16x8": "the process ended: killed by SIGSEGV."})
        assert [result.variant for result in found.results] == ["float32", "int8"]
        assert "int16x8 could not be timed: the process ended: killed by SIGSEGV." in found.message
        assert found.measurable

    def test_without_a_control_nothing_is_measurable(self):
        found = record(control=[], problems={"float32": "the process ended: killed by SIGSEGV."})
        assert (found.measurable, found.control, found.results) == (False, None, ())
        assert "float32 could not be timed" in found.message

    def test_the_interval_is_widened_by_how_far_the_control_is_from_1(self):
        control = pairs(1.05, 1.05, 1.0, 1.0, 1.0, 1.0, 1.0, 0.97, 0.97)
        figure = ratio_of(record(control=control, int8=[0.39, *[0.4] * 7, 0.41]), "int8")
        assert figure == Figure(pytest.approx(0.4), pytest.approx(0.4 / 1.05), pytest.approx(0.4 * 1.05))
        low = ratio_of(record(control=pairs(*[0.95] * 9), int8=[0.4] * 9), "int8")
        assert low == Figure(pytest.approx(0.4), pytest.approx(0.4 * 0.95), pytest.approx(0.4 / 0.95))
        assert ratio_of(record(control=control, int8=[0.4] * 9), "float32") == Figure(1.0, 1.0, 1.0)


VARIANTS = evaluations.manifest_of({"float32": b"f", "int8": b"i", "dynamic_range": b"d"}).variants
SHA256 = VARIANTS[1].file.sha256


def entry(variant, milliseconds, device="Pixel 8", sha256=None):
    return DeviceLatency(variant=variant, milliseconds=milliseconds, device=device, sha256=sha256)


def measured(*entries, files=()):
    """The record where only device numbers are to be had, since no file is at hand."""
    return latency.measure(VARIANTS, dict.fromkeys(files), {}, LatencySpec(device=entries))


class TestDeviceNumbers:
    def test_a_ratio_needs_the_float32_variant_on_the_same_device(self):
        results, messages = latency.read_devices(
            VARIANTS,
            LatencySpec(device=[entry("int8", 4), entry("int8", 9, "Moto"), entry("float32", 10)]),
            "float32",
        )
        assert [(r.variant, r.device, r.ratio) for r in results] == [
            ("float32", "Pixel 8", 1.0),
            ("int8", "Pixel 8", 0.4),
            ("int8", "Moto", None),
        ]
        assert not messages

    def test_a_number_for_other_bytes_or_another_variant_is_not_used_and_that_is_said(self):
        results, (altered, unknown) = latency.read_devices(
            VARIANTS,
            LatencySpec(device=[entry("int8", 4, sha256="0" * 64), entry("int4", 3), entry("int8", 5, sha256=SHA256)]),
            "float32",
        )
        assert [r.milliseconds for r in results] == [5]
        assert f"measured on {'0' * 64}, the variant is {SHA256}" in altered
        assert "'int4' is not used: there is no such variant. There are: float32, int8, dynamic_range." in unknown

    def test_they_take_precedence_and_the_slowest_device_counts(self):
        given = latency.read_devices(
            VARIANTS,
            LatencySpec(
                device=[
                    *(entry("float32", 10, device) for device in ("Pixel 8", "Moto")),
                    entry("int8", 4),
                    entry("int8", 15, "Moto"),
                ]
            ),
            "float32",
        )[0]
        found = record(given=given, int8=[0.1] * 9, dynamic_range=[1.2] * 9)
        assert ratio_of(found, "int8") == Figure(1.5, 1.5, 1.5)
        assert ratio_of(found, "dynamic_range").value == pytest.approx(1.2)
        assert [r.source for r in found.results if r.variant == "float32"] == ["device", "device"]

    def test_with_all_of_them_nothing_is_timed_here(self):
        found = measured(entry("float32", 10), entry("int8", 4), files=("float32", "int8"))
        assert (found.measurable, found.control, found.reference) == (False, None, "float32")
        assert ratio_of(found, "int8").value == 0.4
        assert found.message.startswith("Nothing was timed here")

    def test_without_a_float32_variant_there_is_no_ratio_but_milliseconds_compare(self):
        found = measured(entry("int8", 4), entry("dynamic_range", 6), files=("int8", "dynamic_range"))
        assert found.reference is None
        assert "Add the recipe float32" in found.message
        assert ratio_of(found, "int8") is None
        assert comparable(found, ["int8", "dynamic_range"]) == {
            "int8": Figure(4, 4, 4),
            "dynamic_range": Figure(6, 6, 6),
        }
        assert comparable(found, ["int8", "float32"]) == {}

    def test_only_devices_on_which_all_were_measured_compare(self):
        found = measured(
            entry("int8", 4), entry("int8", 40, "Moto"), entry("dynamic_range", 6), files=("int8", "dynamic_range")
        )
        assert comparable(found, ["int8", "dynamic_range"])["int8"].value == 4
        assert comparable(None, ["int8"]) == comparable(LatencyRecord(reference=None, measurable=False), []) == {}

    def test_the_same_file_on_the_same_device_twice_is_refused(self):
        with pytest.raises(ValueError, match="'int8' is given twice on 'Pixel 8'; remove one"):
            LatencySpec(device=[entry("int8", 4), entry("int8", 5)])


def written(tmp_path, **files):
    """Variants of these files, and their paths."""
    paths, variants = {}, []
    for name, data in files.items():
        paths[name] = tmp_path / f"{name}.tflite"
        paths[name].write_bytes(data)
        recipe = evaluations.recipe("float32" if name == "float32" else "dynamic_range").model_copy(
            update={"name": name}
        )
        variants.append(Variant(recipe=recipe, path=f"{name}/model.tflite", file=evaluations.file_record(data)))
    return variants, paths


SHORT = LatencySpec(rounds=5, runs=5)


class TestTiming:
    def timings(self, tmp_path, monkeypatch, *, ranges=(), **files):
        """What the child measured, and what was concluded of it; whatever the control says."""
        seen = []
        monkeypatch.setattr(
            latency, "conclude", lambda _, timings, *rest: seen.append(timings) or conclude(_, timings, *rest)
        )
        variants, paths = written(tmp_path, **files)
        found = latency.measure(variants, paths, dict(ranges), SHORT)
        return seen[-1], found

    def test_more_work_is_slower_and_the_same_work_is_not(self, tmp_path, monkeypatch):
        timings, found = self.timings(
            tmp_path,
            monkeypatch,
            float32=tflite_files.stack(64),
            slow=tflite_files.stack(64, layers=64),
            same=tflite_files.stack(64),
        )
        ratios = {name: median_interval([own / ref for ref, own in p])[0] for name, p in timings.variants.items()}
        # The slow one has 16 times the layers.
        assert ratios["slow"] > 5
        assert ratios["slow"] > 3 * ratios["same"]
        assert [len(p) for p in (timings.control, *timings.variants.values())] == [5, 5, 5]
        assert timings.problems == {}
        assert found.rounds == 5
        if found.measurable:
            assert {result.source for result in found.results} == {"this_machine"}
            assert latency.this_machine() == found.results[0].device

    def test_a_process_that_dies_costs_only_the_file_it_died_of(self, tmp_path, monkeypatch):
        monkeypatch.setattr(latency, "_CHILD", "tests.fakes.crashing_timer:time_files")
        small = tflite_files.stack(64)
        timings, found = self.timings(tmp_path, monkeypatch, float32=small, crash=small, good=small)
        assert set(timings.variants) == {"good"}
        assert timings.problems == {"crash": "the process ended: killed by SIGSEGV."}
        assert "crash could not be timed" in found.message

    def test_a_reference_that_dies_or_cannot_be_timed_leaves_nothing(self, tmp_path, monkeypatch):
        small, open_size = tflite_files.stack(64), tflite_files.open_size(None)
        timings, found = self.timings(tmp_path, monkeypatch, float32=open_size, good=small)
        assert (timings.control, timings.variants) == ((), {})
        assert not found.measurable
        assert "float32 could not be timed: Input 'x' has open sizes, [1, -1, 3]" in found.message
        monkeypatch.setattr(latency, "_DEADLINE_SECONDS", 0.001)
        _, found = self.timings(tmp_path, monkeypatch, float32=small, good=small)
        assert "float32 could not be timed: the process ended: no answer within" in found.message

    def test_a_variant_with_open_or_other_sizes_is_left_out(self, tmp_path, monkeypatch):
        timings, _ = self.timings(
            tmp_path,
            monkeypatch,
            float32=tflite_files.stack(64),
            open=tflite_files.open_size(None),
            same=tflite_files.stack(64, "int8"),
            other=tflite_files.stack(128),
        )
        assert set(timings.variants) == {"same"}
        assert "input_shapes" in timings.problems["open"]
        assert "shapes [[1, 128]], the reference's [[1, 64]]. Convert both with" in timings.problems["other"]

    def test_ids_stay_in_the_table(self, tmp_path, monkeypatch):
        lookup = tflite_files.lookup()
        for ranges in ({}, {"ids": (0.0, 4.0)}):
            timings, _ = self.timings(tmp_path, monkeypatch, ranges=ranges, float32=lookup, same=lookup)
            assert timings.problems == {}
        timings, _ = self.timings(tmp_path, monkeypatch, ranges={"ids": (5.0, 9.0)}, float32=lookup, same=lookup)
        assert "float32" in timings.problems

    def test_a_control_that_is_off_is_repeated_once(self, tmp_path, monkeypatch):
        monkeypatch.setattr(latency, "CONTROL_RANGE", (2.0, 3.0))
        attempts = []
        monkeypatch.setattr(latency, "conclude", lambda *args: attempts.append(args) or conclude(*args))
        variants, paths = written(tmp_path, float32=tflite_files.stack(64), same=tflite_files.stack(64))
        found = latency.measure(variants, paths, {}, SHORT)
        assert len(attempts) == 2
        assert not found.measurable
        assert found.results == ()
