"""Each limit of a budget: just kept, just missed, and what nobody could check."""

import pytest

from tests.fakes import evaluations, tflite_files
from tfx_mobile.quantization_evaluator.judging import costs
from tfx_mobile.quantization_evaluator.judging.budget import check
from tfx_mobile.quantization_evaluator.judging.costs import Measured
from tfx_mobile.records import (
    Budget,
    DeviceLatency,
    Failure,
    LatencyRecord,
    LatencyResult,
    LatencySpec,
    ProfileResult,
    RuleResult,
)

MANIFEST = evaluations.manifest_of({"float32": b"f" * 300, "int8": b"i" * 100})
FLOAT32, INT8 = MANIFEST.variants
RAN = frozenset({"float32", "int8"})


def result(variant="int8", ratio=None, lower=None, upper=None, milliseconds=None, device=None):
    return LatencyResult(
        variant=variant,
        ratio=ratio,
        lower=lower,
        upper=upper,
        milliseconds=milliseconds,
        source="device" if device else "this_machine",
        device=device or "CPU",
    )


def latency(*results, control=(1.0, 1.0), message="Measured."):
    return LatencyRecord(
        reference="float32",
        measurable=True,
        control=1.0,
        control_lower=control[0],
        control_upper=control[1],
        message=message,
        results=results,
    )


def outcome(variant=INT8, undecided="warn", ran=RAN, *, latency=None, peak=None, problem=None, **limits):
    measured = Measured(
        ran=ran,
        latency=latency,
        peak_memory={} if peak is None else {variant.name: peak},
        memory_problems={} if problem is None else {variant.name: problem},
    )
    return check(variant, Budget(**limits), measured, undecided)


def file_with(**changes):
    return INT8.model_copy(update={"file": INT8.file.model_copy(update=changes)})


KEPT_AND_MISSED = [
    pytest.param({"max_size_bytes": 100}, {"max_size_bytes": 99}, {}, "The file has 100 bytes; required: <= 99."),
    pytest.param(
        {"max_gzip_bytes": 60},
        {"max_gzip_bytes": 59},
        {"variant": file_with(gzip_bytes=60)},
        "After gzip the file has 60 bytes; required: <= 59.",
    ),
    pytest.param(
        {"max_peak_memory_bytes": 2048},
        {"max_peak_memory_bytes": 2047},
        {"peak": 2048},
        "Loading the file and running it once takes up to 2,048 bytes; required: <= 2,047.",
    ),
    pytest.param(
        {"max_latency_ms": 12.5},
        {"max_latency_ms": 12.4},
        {"latency": latency(result(milliseconds=7.0, device="Moto"), result(milliseconds=12.5, device="Pixel 8"))},
        "One inference takes 12.5 ms on Pixel 8; required: <= 12.4 ms.",
    ),
    pytest.param(
        {"max_latency_ratio": 0.5},
        {"max_latency_ratio": 0.4},
        {"latency": latency(result(ratio=0.45, lower=0.41, upper=0.5))},
        "Its latency is 0.450 times the float32 variant's (0.410 to 0.500); required: <= 0.4.",
    ),
    pytest.param(
        {"max_latency_ratio": 0.5},
        {"max_latency_ratio": 0.49},
        {"latency": latency(result(ratio=0.5, milliseconds=1, device="Pixel 8"), result(ratio=0.1, lower=0.1))},
        "Its latency is 0.500 times the float32 variant's; required: <= 0.49.",
    ),
    pytest.param(
        {"max_latency_ratio": 1},
        {"max_latency_ratio": 0.99},
        {"variant": FLOAT32, "latency": latency(result("float32", 1.0, 1.0, 1.0), control=(0.95, 1.05))},
        "Its latency is 1.000 times the float32 variant's; required: <= 0.99.",
    ),
]


@pytest.mark.parametrize(("kept", "missed", "facts", "message"), KEPT_AND_MISSED)
def test_a_value_equal_to_its_limit_passes_and_the_next_one_does_not(kept, missed, facts, message):
    for undecided in ("warn", "block"):
        found = outcome(undecided=undecided, **facts, **kept)
        assert (found.reasons, found.cautions) == ((), ())
        found = outcome(undecided=undecided, **facts, **missed)
        (reason,) = found.reasons
        assert (reason.code, reason.message, found.cautions) == ("budget", message, ())
        assert reason.value is not None
        assert f"{next(iter(missed.values())):g}" in reason.limit


@pytest.mark.parametrize(
    ("version", "limit", "kept"),
    [
        ("2.9.0", "2.14.0", True),
        ("2.14.0", "2.14", True),
        ("2.14", "2.14.0", True),
        ("2.14.1", "2.14", False),
        ("2.15.0", "2.9.0", False),
    ],
)
def test_versions_are_compared_as_numbers(version, limit, kept):
    found = outcome(file_with(min_runtime_version=version), max_min_runtime=limit)
    assert (not found.reasons) is kept
    if not kept:
        (reason,) = found.reasons
        assert reason.message == f"The file needs TensorFlow Lite {version} or newer; required: <= {limit}."
        assert (reason.code, reason.limit) == ("budget", f"<= {limit}")


@pytest.mark.parametrize(("limit", "codes"), [(1.0, []), (0.9, ["budget"])])
def test_the_float32_variant_is_1_of_itself_measurable_or_not(limit, codes):
    unmeasured = LatencyRecord(reference="float32", measurable=False)
    assert [r.code for r in outcome(FLOAT32, latency=unmeasured, max_latency_ratio=limit).reasons] == codes


STRADDLES = latency(result(ratio=0.5, lower=0.45, upper=0.55), control=(0.99, 1.01))


@pytest.mark.parametrize(
    ("code", "facts", "message"),
    [
        ("not_verified", {"max_min_runtime": "2.14"}, "The file does not say which TensorFlow Lite it needs"),
        (
            "memory_not_measurable",
            {"max_peak_memory_bytes": 10, "problem": "This system does not tell."},
            "limit of 10 bytes was not checked. This system does not tell.",
        ),
        (
            "latency_not_measurable",
            {"max_latency_ratio": 2, "latency": latency(message="Not measurable here: noise.")},
            "limit of 2 times the float32 variant's was not checked. Not measurable here: noise.",
        ),
        (
            "latency_not_measurable",
            {"max_latency_ms": 2, "latency": latency(result(ratio=0.1, milliseconds=0.1))},
            "No device number is given for this file, so the limit of 2 ms was not checked.",
        ),
        ("latency_undecided", {"max_latency_ratio": 0.5, "latency": STRADDLES}, "0.500 times .*whether it is <= 0.5"),
        # Both limits lie outside the interval over rounds, but not outside what the control adds to it.
        ("latency_undecided", {"max_latency_ratio": 0.447, "latency": STRADDLES}, "cannot be told here"),
        ("latency_undecided", {"max_latency_ratio": 0.553, "latency": STRADDLES}, "cannot be told here"),
    ],
)
def test_what_cannot_be_checked_is_a_caution_or_blocks(code, facts, message):
    found = outcome(**facts)
    (caution,) = found.cautions
    assert (caution.code, found.reasons) == (code, ())
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(caution.message)
    found = outcome(undecided="block", **facts)
    assert (found.reasons, found.cautions) == ((caution,), ())


@pytest.mark.parametrize(("limit", "reasons"), [(0.44, 1), (0.56, 0)])
def test_a_limit_beyond_the_widened_interval_is_decided(limit, reasons):
    found = outcome(max_latency_ratio=limit, latency=STRADDLES)
    assert (len(found.reasons), found.cautions) == (reasons, ())


def profile(name, status):
    rules = tuple(
        RuleResult(id=f"{s}_rule", statement=f"must {s}", result=s, detail=f"found {s}", source="s")
        for s in dict.fromkeys(("pass", "not_verified", status))
    )
    return ProfileResult(profile=name, result=status, rules=rules)


def test_a_profile_that_fails_is_a_reason_and_one_that_is_not_verified_a_caution():
    results = [profile("litert", "fail"), profile("mlkit_image", "not_verified"), profile("litert_js", "pass")]
    names = ["litert", "mlkit_image", "litert_js"]
    for undecided in ("warn", "block"):
        found = check(INT8, Budget(profiles=names), Measured(ran=RAN, profiles={"int8": tuple(results)}), undecided)
        (reason,), (caution,) = found.reasons, found.cautions
        assert (reason.code, reason.limit) == ("budget", "litert")
        assert reason.message == (
            "The file fails compatibility profile litert: fail_rule (must fail; found: found fail)."
        )
        assert (caution.code, caution.limit) == ("not_verified", "mlkit_image")
        assert "not_verified_rule (must not_verified; found: found not_verified)" in caution.message


def test_a_variant_without_a_file_or_that_does_not_run_has_no_more_than_its_size():
    failed = INT8.model_copy(update={"file": None, "failure": Failure(code="c", message="m", advice="a")})
    everything = dict(
        max_size_bytes=10,
        max_peak_memory_bytes=1,
        max_latency_ratio=1,
        max_latency_ms=1,
        max_min_runtime="2.0",
        undecided="block",
    )
    assert outcome(failed, **everything).reasons == ()
    (reason,) = outcome(ran=frozenset(), **everything).reasons
    assert reason.message == "The file has 100 bytes; required: <= 10."


class TestMeasure:
    """What is found out about real files, and that nothing is unless it is asked for."""

    @pytest.fixture
    def files(self, tmp_path):
        data = {"float32": tflite_files.dense(), "int8": tflite_files.dense("int8")}
        paths = {name: tmp_path / name for name in data}
        for name, content in data.items():
            paths[name].write_bytes(content)
        return evaluations.manifest_of(data).variants, paths

    def test_nothing_is_measured_unless_it_is_asked_for(self, files):
        budget = Budget(max_size_bytes=1, max_gzip_bytes=1, max_min_runtime="2.0")
        assert not costs.needs_files(budget, None)
        found = costs.measure(*files, budget, None, {})
        assert (found.latency, dict(found.peak_memory), found.ran) == (None, {}, frozenset({"float32", "int8"}))
        assert found.profiles == {"float32": (), "int8": ()}

    @pytest.mark.parametrize(
        ("budget", "latency"),
        [
            (Budget(max_peak_memory_bytes=1), None),
            (Budget(profiles=("litert",)), None),
            (Budget(), LatencySpec(device=[DeviceLatency(variant="int8", milliseconds=1, device="d")])),
        ],
    )
    def test_files_are_needed_for_what_is_in_them(self, budget, latency):
        assert costs.needs_files(budget, latency)

    def test_peak_memory_and_profiles_of_real_files(self, files):
        variants, paths = files
        recorded = profile("litert", "fail")
        variants = (variants[0].model_copy(update={"profiles": (recorded,)}), variants[1])
        budget = Budget(max_peak_memory_bytes=1, profiles=("litert", "no_select_ops", "mediapipe_image_classifier"))
        found = costs.measure(variants, paths, budget, None, {})
        assert all(0 < found.peak_memory[name] < 1 << 20 for name in paths)
        # What the converter recorded stands, the others are found from the bytes.
        assert [(r.profile, r.result) for r in found.profiles["float32"]] == [
            ("litert", "fail"),
            ("no_select_ops", "pass"),
            ("mediapipe_image_classifier", "fail"),
        ]
        assert found.profiles["float32"][0] == recorded
        assert found.profiles["int8"][0].result == "pass"
        reasons = check(variants[1], budget, found, "warn").reasons
        assert [reason.limit for reason in reasons] == ["<= 1", "mediapipe_image_classifier"]
        assert "input_shape" in reasons[1].message

    def test_a_file_that_cannot_be_measured_harms_no_other(self, files, tmp_path):
        variants, paths = files
        paths["int8"].write_bytes(tflite_files.open_size(None))
        found = costs.measure(variants, paths, Budget(max_peak_memory_bytes=1), None, {})
        assert set(found.peak_memory) == {"float32"}
        assert "open sizes" in found.memory_problems["int8"]
