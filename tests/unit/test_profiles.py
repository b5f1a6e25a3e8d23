import zipfile

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from tests.fakes import tflite_files
from tests.fakes.tflite_files import archive, edited, metadata_block, with_metadata
from tfx_mobile.errors import RecipeError
from tfx_mobile.tflite.file_report import inspect_file
from tfx_mobile.tflite.profiles import PROFILES, parse_profiles

LABELS = {"labels.txt": b"cat\ndog\nfish\n"}


def image(kind="float32", batch_size=1):
    return tflite_files.image_classifier(kind, batch_size)


def checked(data, name):
    """Result and detail of each rule by its id, and the profile's own result."""
    (profile,) = inspect_file(data, [name]).profiles
    assert profile.profile == name
    assert all(rule.statement and rule.detail and rule.source for rule in profile.rules)
    return {rule.id: rule.result for rule in profile.rules} | {"": profile.result}


def found(data, name, rule_id):
    (profile,) = inspect_file(data, [name]).profiles
    return next(rule for rule in profile.rules if rule.id == rule_id)


def main_tensor(model, kind, place=0):
    subgraph = model.subgraphs[0]
    return subgraph.tensors[(subgraph.inputs if kind == "input" else subgraph.outputs)[place]]


def reshaped(kind, *shape):
    def edit(model):
        tensor = main_tensor(model, kind)
        tensor.shape = np.maximum(np.array(shape, np.int32), 1)
        tensor.shapeSignature = np.array(shape, np.int32)

    return edit


def retyped(kind, type_code):
    return lambda model: setattr(main_tensor(model, kind), "type", type_code)


def custom_op(code):
    def edit(model):
        model.operatorCodes[0].builtinCode = schema.BuiltinOperator.CUSTOM
        model.operatorCodes[0].deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
        model.operatorCodes[0].customCode = code

    return edit


def runtime_versions(*versions):
    """An edit that leaves exactly these min_runtime_version entries."""

    def edit(model):
        model.metadata = [entry for entry in model.metadata if entry.name != b"min_runtime_version"]
        for version in versions:
            buffer, entry = schema.BufferT(), schema.MetadataT()
            buffer.data = np.frombuffer(version, np.uint8)
            entry.name, entry.buffer = b"min_runtime_version", len(model.buffers)
            model.buffers.append(buffer)
            model.metadata.append(entry)

    return edit


def two_inputs(model):
    subgraph = model.subgraphs[0]
    subgraph.inputs = np.array([*subgraph.inputs, *subgraph.inputs], np.int32)


def two_outputs(model):
    subgraph = model.subgraphs[0]
    subgraph.outputs = np.array([*subgraph.outputs, *subgraph.outputs], np.int32)


class TestNames:
    def test_all_of_them_by_default(self):
        expected = ("litert", "mlkit_image", "mediapipe_image_classifier", "litert_js", "no_select_ops")
        assert parse_profiles(None) == PROFILES == expected
        assert [p.profile for p in inspect_file(image()).profiles] == list(expected)

    def test_order_is_kept_and_none_is_none(self):
        assert parse_profiles(["no_select_ops", "litert>=2.14.0", "no_select_ops"]) == (
            "no_select_ops",
            "litert>=2.14.0",
        )
        assert parse_profiles([]) == ()
        assert inspect_file(image(), []).profiles == ()

    @pytest.mark.parametrize(
        "name", ["litertt", "litert>=2", "litert>=2.14", "litert>=2.14.x", "litert>2.14.0", "litert_js>=2.5.3", "", 3]
    )
    def test_an_unknown_name_is_refused_with_the_valid_ones(self, name):
        with pytest.raises(RecipeError, match=r"Unknown compatibility profile .*mlkit_image.*'litert>=2\.14\.0'"):
            parse_profiles([name])

    def test_a_name_alone_is_no_list(self):
        with pytest.raises(RecipeError, match=r"profiles='litert' is not a list"):
            parse_profiles("litert")


class TestLiteRT:
    def test_what_the_converter_makes_passes(self):
        for kind in ("float32", "int8", "int16x8"):
            assert set(checked(image(kind), "litert").values()) == {"pass"}

    @pytest.mark.parametrize(
        ("versions", "wanted", "result"),
        [
            ((b"1.6.0",), "1.14.0", "pass"),  # as text 1.6.0 would be the greater one
            ((b"1.14.0",), "1.6.0", "fail"),
            ((b"1.14.0",), "1.14.0", "pass"),
            ((b"1.14",), "1.14.0", "pass"),
            ((b"2.14.0\0\0\0", b"\0" * 16), "2.13.9", "fail"),  # the last entry is empty in integer files
            ((b"1.5.0", b"2.4.0", b"1.14.0"), "2.3.0", "fail"),
            ((b"1.5.0", b"2.4.0", b"1.14.0"), "2.4.0", "pass"),
            ((b"\0" * 16,), "2.14.0", "not_verified"),
            ((), "2.14.0", "not_verified"),
            ((b"two", b"\xff\xfe", "²".encode()), "2.14.0", "not_verified"),
        ],
    )
    def test_the_oldest_runtime(self, versions, wanted, result):
        data = edited(image("int8"), runtime_versions(*versions))
        assert checked(data, f"litert>={wanted}")["min_runtime_version"] == result

    def test_without_a_version_any_is_good_enough(self):
        data = edited(image(), runtime_versions(b"99.0.0"))
        assert found(data, "litert", "min_runtime_version").detail == "needs 99.0.0"
        assert checked(data, "litert")[""] == "pass"

    @pytest.mark.parametrize(
        ("edit", "rule", "result", "detail"),
        [
            (custom_op(b"FlexSvd"), "no_select_ops", "fail", "FlexSvd"),
            (custom_op(b"Mine"), "no_custom_ops", "fail", "Mine"),
            (custom_op(b"ADD"), "no_custom_ops", "fail", "ADD"),
            (custom_op(b"UNKNOWN_5"), "no_custom_ops", "fail", "UNKNOWN_5"),
            (custom_op(None), "no_custom_ops", "fail", "CUSTOM"),
            (lambda m: setattr(m.operatorCodes[0], "builtinCode", 9999), "known_ops_and_types", "not_verified", "9999"),
            (retyped("input", 99), "known_ops_and_types", "not_verified", "unknown_99"),
            (
                lambda m: setattr(m, "externalBuffers", [schema.ExternalBufferT()]),
                "self_contained",
                "not_verified",
                "1",
            ),
        ],
    )
    def test_each_rule(self, edit, rule, result, detail):
        data = edited(image(), edit)
        outcome = found(data, "litert", rule)
        assert (outcome.result, detail in outcome.detail) == (result, True)
        changed = {"no_select_ops", "no_custom_ops", "known_ops_and_types", "self_contained"} - {rule}
        assert {checked(data, "litert")[other] for other in changed} == {"pass"}

    def test_no_select_ops_alone(self):
        assert checked(image(), "no_select_ops") == {"no_select_ops": "pass", "": "pass"}
        assert checked(edited(image(), custom_op(b"FlexSvd")), "no_select_ops")[""] == "fail"
        assert checked(edited(image(), custom_op(b"Mine")), "no_select_ops")[""] == "pass"


class TestLiteRTJs:
    @pytest.mark.parametrize("kind", ["float32", "dynamic_range", "full_integer", "uint8"])
    def test_fixed_batch_1_with_float_or_uint8_passes(self, kind):
        assert set(checked(image(kind), "litert_js").values()) == {"pass"}

    def test_an_open_batch_fails(self):
        data = image("float32", None)
        assert checked(data, "litert_js")["static_shapes"] == "fail"
        assert "[-1, 8, 8, 3]" in found(data, "litert_js", "static_shapes").detail

    @pytest.mark.parametrize(
        ("data", "rule", "result"),
        [
            (lambda: image("int8"), "io_types", "fail"),
            (lambda: edited(image(), retyped("output", schema.TensorType.INT64)), "io_types", "not_verified"),
            (lambda: image("float32", 4), "static_shapes", "not_verified"),
            (
                lambda: edited(image(), lambda m: setattr(m.subgraphs[0].tensors[3], "isVariable", True)),
                "no_variable_tensors",
                "fail",
            ),
            (lambda: edited(image(), custom_op(b"FlexSvd")), "no_select_ops", "fail"),
            (lambda: edited(image(), custom_op(b"Mine")), "no_custom_ops", "not_verified"),
        ],
    )
    def test_each_rule_alone(self, data, rule, result):
        outcomes = checked(data(), "litert_js")
        assert outcomes.pop("") == result
        assert outcomes.pop(rule) == result
        assert set(outcomes.values()) == {"pass"}

    def test_strings(self):
        data = edited(image(), retyped("input", schema.TensorType.STRING))
        assert checked(data, "litert_js")["no_strings"] == "not_verified"


class TestMediaPipe:
    NAME = "mediapipe_image_classifier"

    @pytest.mark.parametrize("kind", ["float32", "dynamic_range", "full_integer", "uint8", "int16x8"])
    def test_with_mediapipes_own_metadata_all_rules_pass(self, kind):
        assert set(checked(with_metadata(image(kind)), self.NAME).values()) == {"pass"}

    @pytest.mark.parametrize(
        ("data", "rule", "result", "detail"),
        [
            (lambda: edited(image("uint8"), two_inputs), "one_input", "fail", "2 inputs"),
            (lambda: edited(image("uint8"), reshaped("input", 1, 8, 8, 1)), "input_shape", "fail", "[1, 8, 8, 1]"),
            (lambda: edited(image("uint8"), reshaped("input", 2, 8, 8, 3)), "input_shape", "fail", "[2, 8, 8, 3]"),
            (lambda: edited(image("uint8"), reshaped("input", 1, 192)), "input_shape", "fail", "[1, 192]"),
            (lambda: edited(image("uint8"), reshaped("input", 1, -1, 8, 3)), "input_shape", "not_verified", "-1, 8, 3"),
            (lambda: image("uint8", None), "input_shape", "pass", "[-1, 8, 8, 3]"),
            (lambda: image("uint8", None), "output_scores", "pass", "[-1, 3]"),
            (lambda: with_metadata(edited(image(), two_outputs)), "output_metadata", "fail", "for 1 outputs"),
            (lambda: with_metadata(image(), metadata_block([1], [1], output="")), "output_metadata", "fail", "dies"),
            (
                lambda: with_metadata(image(), archive=archive({"x.txt": b"a" * 99}, zipfile.ZIP_DEFLATED)),
                "uncompressed_files",
                "fail",
                "x.txt",
            ),
            (lambda: edited(image("uint8"), reshaped("output", 3)), "output_scores", "fail", "[3]"),
            (lambda: edited(image("uint8"), reshaped("output", 1, 2, 1, 3)), "output_scores", "fail", "[1, 2, 1, 3]"),
            (lambda: edited(image("uint8"), reshaped("output", 1, 1, 1, 3)), "output_scores", "pass", "[1, 1, 1, 3]"),
            (lambda: edited(image("uint8"), two_outputs), "one_head", "not_verified", "2 outputs"),
            (lambda: image("float32"), "normalization", "fail", "no NormalizationOptions"),
            (lambda: image("uint8"), "normalization", "pass", "not float32"),
            (lambda: image("uint8"), "labels", "pass", "no labels"),
            (lambda: image("float32"), "uint8_normalization", "pass", "not uint8"),
            (lambda: edited(image("uint8"), custom_op(b"FlexSvd")), "no_select_ops", "not_verified", "FlexSvd"),
        ],
    )
    def test_each_rule(self, data, rule, result, detail):
        outcome = found(data(), self.NAME, rule)
        assert (outcome.result, detail in outcome.detail) == (result, True), outcome

    def test_int8_inputs_and_outputs_are_refused(self):
        outcomes = checked(with_metadata(image("int8")), self.NAME)
        assert (outcomes["input_type"], outcomes["output_scores"], outcomes[""]) == ("fail", "fail", "fail")

    @pytest.mark.parametrize(
        ("mean", "std", "result"),
        [
            ([127.5], [127.5], "pass"),
            ([127.5] * 3, [127.5] * 3, "pass"),
            ([0.1, 0.2, 0.3], [1, 1, 1], "fail"),
            ([1, 1, 1], [1, 2, 3], "fail"),
            ([127.5], [1, 1, 1], "fail"),
            ([1, 2], [1, 2], "fail"),
            ([127.5], [0], "fail"),
            ([np.nan], [127.5], "fail"),
            ([127.5], [], "fail"),
        ],
    )
    def test_normalization_is_one_number_or_one_per_channel(self, mean, std, result):
        data = with_metadata(image(), metadata_block(mean, std), b"")
        assert checked(data, self.NAME)["normalization"] == result

    @pytest.mark.parametrize(
        ("scale", "zero_point", "mean", "std", "result"),
        [
            (1 / 127.5, 128, [127.5], [127.5], "pass"),
            (1 / 127.5, 127, [127.5] * 3, [127.5], "pass"),
            (1 / 255, 0, [0], [255], "pass"),
            # What a real calibration gave on data that did not span the normalized range: accuracy 0.475, not 0.558.
            (0.00735, 136, [127.5], [127.5], "fail"),
            (0.00735, 128, [127.5], [127.5], "fail"),
            (1 / 127.5, 136, [127.5], [127.5], "fail"),
            # One scale cannot stand for three.
            (1 / 127.5, 128, [127.5, 127.5, 127.5], [127.5, 127.5, 100], "fail"),
            (1 / 127.5, 128, [127.5, 100, 127.5], [127.5], "fail"),
            (1 / 127.5, 128, [127.5, 127.5], [127.5, 127.5, 127.5], "fail"),
            (1 / 127.5, 128, [np.nan], [127.5], "fail"),
            (np.nan, 128, [127.5], [127.5], "fail"),
            (1 / 127.5, 128, [], [], "not_verified"),
        ],
    )
    @pytest.mark.parametrize("name", [NAME, "mlkit_image"])
    def test_uint8_pixels_must_mean_what_the_client_writes(self, name, scale, zero_point, mean, std, result):
        def quantize(model):
            parameters = main_tensor(model, "input").quantization
            parameters.scale = np.array([scale], np.float32)
            parameters.zeroPoint = np.array([zero_point], np.int64)

        data = with_metadata(edited(image("uint8"), quantize), metadata_block(mean, std), b"")
        assert checked(data, name)["uint8_normalization"] == result

    @pytest.mark.parametrize(
        ("files", "result", "detail"),
        [
            ({"labels.txt": b"cat\ndog\nfish"}, "pass", "3 lines for 3 classes"),
            (LABELS, "pass", "3 lines for 3 classes"),
            ({"labels.txt": b"cat\ndog\n"}, "fail", "2 lines for 3 classes"),
            ({"other.txt": b"cat\ndog\nfish"}, "fail", "named in the metadata, but not in the file"),
        ],
    )
    def test_labels_are_counted(self, files, result, detail):
        data = with_metadata(image(), metadata_block([0], [1], "labels.txt"), archive(files))
        outcome = found(data, self.NAME, "labels")
        assert (outcome.result, detail in outcome.detail) == (result, True), outcome

    def test_a_score_threshold_is_told(self):
        data = with_metadata(image(), metadata_block([0], [1], threshold=0.25), b"")
        assert found(data, self.NAME, "score_threshold").result == "pass"
        assert "0.25" in found(data, self.NAME, "score_threshold").detail


class TestMLKit:
    """ML Kit's requirements could not be read again, so its rules from memory never pass and never fail."""

    FROM_MEMORY = ("one_input", "input_shape", "input_type", "output_scores", "one_head", "score_threshold")

    @pytest.mark.parametrize("data", [lambda: with_metadata(image()), lambda: with_metadata(image("int8"))])
    def test_rules_from_memory_are_not_verified_and_say_so(self, data):
        (profile,) = inspect_file(data(), ["mlkit_image"]).profiles
        for rule in profile.rules:
            if rule.id in self.FROM_MEMORY:
                assert rule.result == "not_verified"
                assert rule.source.startswith("memory")
        assert profile.result == "not_verified"

    def test_what_was_found_is_told_nevertheless(self):
        data = with_metadata(image("int8"))
        assert found(data, "mlkit_image", "input_type").detail == (
            "input int8; the rule is violated, but is not confirmed"
        )
        assert "the rule holds" in found(data, "mlkit_image", "one_input").detail

    def test_documented_rules_decide(self):
        assert checked(image(), "mlkit_image")["normalization"] == "fail"
        assert checked(image(), "mlkit_image")["labels"] == "not_verified"
        per_channel = with_metadata(image(), metadata_block([1, 2, 3], [1, 2, 3]), b"")
        assert checked(per_channel, "mlkit_image")["normalization"] == "pass"
        outcomes = checked(with_metadata(image()), "mlkit_image")
        assert (outcomes["normalization"], outcomes["labels"], outcomes["no_select_ops"]) == ("pass", "pass", "pass")


def test_a_file_without_inputs_and_outputs_is_judged_without_an_error():
    def nothing(model):
        model.subgraphs[0].inputs = model.subgraphs[0].outputs = None
        model.subgraphs[0].operators = None
        model.subgraphs[0].tensors = None
        model.signatureDefs = None

    record = inspect_file(edited(image(), nothing))
    assert {profile.profile for profile in record.profiles} == set(PROFILES)
