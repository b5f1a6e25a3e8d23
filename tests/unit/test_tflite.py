import gzip
import subprocess
import sys

import numpy as np
import pytest

from tests.fakes import tflite_files
from tests.fakes.tflite_files import edited
from tfx_mobile.errors import ModelFileError, TFXMobileError
from tfx_mobile.records import sha256_of
from tfx_mobile.tflite import runtime
from tfx_mobile.tflite.flatbuffer import inspect_model, select_tf_ops
from tfx_mobile.tflite.preflight import preflight


@pytest.fixture(scope="module")
def int8() -> bytes:
    return tflite_files.dense("int8")


@pytest.fixture(scope="module")
def float32() -> bytes:
    return tflite_files.dense("float32")


class TestInspection:
    def test_an_integer_file_is_described(self, int8):
        record = inspect_model(int8)
        assert record.sha256 == sha256_of(int8)
        assert record.size_bytes == len(int8)
        assert record.gzip_bytes == len(gzip.compress(int8, 9, mtime=0))
        signature = record.signature()
        assert signature.key == "serving_default"
        (x,), (p,) = signature.inputs, signature.outputs
        assert (x.name, x.dtype, x.shape) == ("x", "int8", (-1, 4))
        assert x.scale == pytest.approx(2 / 255)
        assert (p.name, p.dtype, p.scale, p.zero_point) == ("p", "int8", 1 / 256, -128)
        assert [op.name for op in record.ops] == ["FULLY_CONNECTED", "SOFTMAX"]
        assert sum(op.float_count for op in record.ops) == 0
        assert record.select_tf_ops == record.custom_ops == ()

    def test_float_computation_is_counted(self, float32):
        assert sum(op.float_count for op in inspect_model(float32).ops) == 2

    def test_the_greatest_runtime_version_of_several_counts(self, int8):
        # The converter writes two entries into integer files, the second of them only NUL bytes.
        assert inspect_model(int8).min_runtime_version == "1.14.0"

    @pytest.mark.parametrize(
        ("versions", "greatest"),
        [((b"1.6.0", b"1.14.0"), "1.14.0"), ((b"2.9.0", b"1.14.10"), "2.9.0"), ((b"1.9.0\0\0", b"\0"), "1.9.0")],
    )
    def test_runtime_versions_are_compared_as_numbers(self, int8, versions, greatest):
        def write_versions(model):
            entries = [entry for entry in model.metadata if entry.name == b"min_runtime_version"]
            for entry, version in zip(entries, versions, strict=True):
                model.buffers[entry.buffer].data = np.frombuffer(version, np.uint8)

        assert inspect_model(edited(int8, write_versions)).min_runtime_version == greatest

    def test_an_unknown_signature_is_named_with_the_known_ones(self, int8):
        with pytest.raises(TFXMobileError, match="no signature 'nope'; it has: serving_default"):
            inspect_model(int8).signature("nope")


class TestCorruptFiles:
    """None of these may reach native code; most would crash it."""

    @pytest.mark.parametrize("data", [b"", b"TFL3", b"<html>not found</html>", b"\x1c\0\0\0TFL3"])
    def test_what_is_no_model_is_refused(self, data):
        with pytest.raises(ModelFileError):
            inspect_model(data)

    def test_every_truncation_is_refused(self, int8):
        for end in range(0, len(int8) - 4, 7):
            with pytest.raises(ModelFileError):
                inspect_model(int8[:end])

    def test_random_bytes_behind_a_good_header_are_refused(self, int8):
        for seed in range(50):
            with pytest.raises(ModelFileError):
                inspect_model(int8[:8] + np.random.default_rng(seed).bytes(len(int8) - 8))

    @pytest.mark.parametrize(
        ("edit", "message"),
        [
            (
                lambda m: setattr(m.subgraphs[0].operators[0], "inputs", np.array([0, 999, 2], np.int32)),
                "operator input index 999",
            ),
            (
                lambda m: setattr(m.subgraphs[0].operators[0], "outputs", np.array([-5], np.int32)),
                "operator output index -5",
            ),
            (lambda m: setattr(m.subgraphs[0].operators[0], "opcodeIndex", 77), "operator code index 77"),
            (lambda m: setattr(m.subgraphs[0].tensors[0], "buffer", 500), "buffer index 500"),
            (lambda m: setattr(m.subgraphs[0], "outputs", np.array([-1], np.int32)), "subgraph output index -1"),
            (lambda m: setattr(m.signatureDefs[0], "subgraphIndex", 3), "signature subgraph index 3"),
            (lambda m: setattr(m.signatureDefs[0].inputs[0], "tensorIndex", 99), "signature tensor index 99"),
            (lambda m: setattr(m.subgraphs[0].tensors[1], "shape", np.array([30, 40], np.int32)), "needs 1200 bytes"),
            (lambda m: setattr(m, "subgraphs", []), "no subgraph"),
        ],
    )
    def test_indices_that_lead_out_of_the_file_are_refused(self, int8, edit, message):
        with pytest.raises(ModelFileError, match=message):
            inspect_model(edited(int8, edit))


class TestPreflight:
    def write(self, tmp_path, data):
        path = tmp_path / "model.tflite"
        path.write_bytes(data)
        return path

    def test_a_good_file_passes(self, tmp_path, int8):
        assert preflight(self.write(tmp_path, int8), sha256=sha256_of(int8)) is None

    def test_a_changed_file_is_altered(self, tmp_path, int8):
        path = self.write(tmp_path, int8[:-1] + bytes([int8[-1] ^ 1]))
        assert preflight(path, sha256=sha256_of(int8)).code == "altered"

    def test_a_truncated_file_is_corrupt(self, tmp_path, int8):
        data = int8[: len(int8) // 2]
        assert preflight(self.write(tmp_path, data), sha256=sha256_of(data)).code == "corrupt"

    def test_a_well_formed_file_that_the_interpreter_refuses_is_not_loadable(self, tmp_path, int8):
        def come_from_the_future(model):
            for code in model.operatorCodes:
                code.version = 99

        data = edited(int8, come_from_the_future)
        failure = preflight(self.write(tmp_path, data), sha256=sha256_of(data))
        assert failure.code == "not_loadable"
        assert "99" in failure.message

    def test_an_interpreter_that_dies_is_a_failure_of_the_file(self, tmp_path, int8, monkeypatch):
        # No known file crashes this runtime, so the child's own entry point is made to die for real.
        monkeypatch.setattr("tfx_mobile.tflite.preflight.__name__", "tests.fakes.crashing_loader")
        failure = preflight(self.write(tmp_path, int8), sha256=sha256_of(int8))
        assert failure.code == "interpreter_crashed"
        assert "SIGSEGV" in failure.message

    def test_an_interpreter_that_wants_all_memory_is_a_failure_of_the_file(self, tmp_path, int8):
        failure = preflight(self.write(tmp_path, int8), sha256=sha256_of(int8), memory_bytes=1)
        assert failure.code in ("not_loadable", "interpreter_crashed")

    def test_an_interpreter_that_hangs_is_a_failure_of_the_file(self, tmp_path, int8):
        failure = preflight(self.write(tmp_path, int8), sha256=sha256_of(int8), deadline_seconds=0.001)
        assert failure.code == "interpreter_timeout"

    @pytest.mark.parametrize(
        ("size", "verified"),
        [(None, True), (32, True), (224, True), (1, True), (7, False)],
        ids=["any", "32", "224", "1", "7"],
    )
    def test_open_sizes_are_chosen_so_that_the_file_runs(self, tmp_path, size, verified):
        data = tflite_files.open_size(size)
        assert inspect_model(data).signature().inputs[0].shape == (1, -1, 3)
        failure = preflight(self.write(tmp_path, data), sha256=sha256_of(data))
        if verified:
            assert failure is None
        else:
            assert failure.code == "not_verified"
            assert "'x': [1, -1, 3]" in failure.message
            assert "none of 32, 224, 1 " in failure.message
            assert "input_shapes" in failure.advice


class TestSelectTensorFlowOps:
    @pytest.fixture(scope="class")
    def flex(self, tmp_path_factory):
        import tensorflow as tf

        @tf.function(input_signature=[tf.TensorSpec([None, 2, 2], tf.float32, name="x")])
        def determinant(x):
            return {"y": tf.linalg.det(x)}

        path = str(tmp_path_factory.mktemp("flex"))
        tf.saved_model.save(tf.Module(), path, signatures={"serving_default": determinant})
        converter = tf.lite.TFLiteConverter.from_saved_model(path, signature_keys=["serving_default"])
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS, tf.lite.OpsSet.SELECT_TF_OPS]
        return converter.convert()

    def test_they_run_on_tensorflows_own_interpreter(self, flex, int8, tmp_path):
        assert select_tf_ops(flex) == inspect_model(flex).select_tf_ops == ("FlexMatrixDeterminant",)
        assert select_tf_ops(int8) == ()
        path = tmp_path / "model.tflite"
        path.write_bytes(flex)
        assert preflight(path, sha256=sha256_of(flex)) is None
        runner = runtime.SignatureRunner(flex)
        assert runner.runtime.startswith("tensorflow ")
        assert runner.run({"x": np.array([[[2, 0], [0, 3]]], np.float32)})["y"] == pytest.approx([6.0])
        assert runtime.SignatureRunner(int8).runtime.startswith("ai-edge-litert ")

    def test_other_files_do_not_load_tensorflow(self, int8, tmp_path):
        (tmp_path / "model.tflite").write_bytes(int8)
        code = (
            "import sys, pathlib; from tfx_mobile.tflite.runtime import SignatureRunner; "
            "SignatureRunner(pathlib.Path(sys.argv[1]).read_bytes()); assert 'tensorflow' not in sys.modules"
        )
        subprocess.run([sys.executable, "-c", code, str(tmp_path / "model.tflite")], check=True)


class TestQuantize:
    # Scale 2/255 and zero point 0, the worked example of TensorFlow Lite's int8 quantization.
    VALUES = np.array([-1.2, -0.5, 0, 0.3, 0.49, 0.999, 1.05], np.float32)

    def test_rounds_and_saturates(self):
        quanta = runtime.quantize(self.VALUES, 2 / 255, 0, np.int8)
        assert quanta.tolist() == [-128, -64, 0, 38, 62, 127, 127]
        assert quanta.dtype == np.int8

    def test_ties_go_to_even_before_the_zero_point_is_added(self):
        values = np.array([-1.5, -0.5, 0.5, 1.5, 2.5], np.float32)
        assert runtime.quantize(values, 1.0, 3, np.uint8).tolist() == [1, 3, 3, 5, 5]

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_what_is_not_finite_is_refused(self, bad):
        with pytest.raises(ValueError, match="NaN or infinite"):
            runtime.quantize(np.array([0.0, bad]), 1.0, 0, np.int8)

    def test_dequantize_is_its_inverse_within_half_a_step(self):
        values = np.linspace(-1, 1, 999, dtype=np.float32)
        back = runtime.dequantize(runtime.quantize(values, 2 / 255, 0, np.int8), 2 / 255, 0)
        assert np.abs(back - values).max() <= 1.001 / 255


class TestSignatureRunner:
    def test_integer_and_float_files_agree_on_real_values(self, int8, float32):
        features = {"x": np.random.default_rng(5).uniform(-1, 1, (20, 4)).astype(np.float32)}
        integer, real = (runtime.SignatureRunner(data).run(features)["p"] for data in (int8, float32))
        assert integer.shape == real.shape == (20, 3)
        assert integer.dtype == np.float32
        assert np.abs(integer - real).max() < 0.03

    def test_a_missing_feature_is_an_error_never_a_default(self, float32):
        with pytest.raises(KeyError, match="no feature for model input x; there are: y"):
            runtime.SignatureRunner(float32).run({"y": np.zeros((1, 4), np.float32)})

    def test_rows_of_the_wrong_size_are_refused(self, float32):
        with pytest.raises(ValueError, match=r"'x' takes rows of shape \[4\], the feature has rows of shape \[5\]"):
            runtime.SignatureRunner(float32).run({"x": np.zeros((2, 5), np.float32)})

    def test_text_for_a_numeric_input_is_refused(self, int8, float32):
        for data in (int8, float32):
            with pytest.raises(ValueError, match="'x'"):
                runtime.SignatureRunner(data).run({"x": np.full((1, 4), "text", object)})

    def test_an_unknown_signature_is_refused_with_the_known_ones(self, int8):
        with pytest.raises(ModelFileError, match="No signature 'nope'; the file has: serving_default"):
            runtime.SignatureRunner(int8, "nope")
