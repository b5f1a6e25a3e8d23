"""Feeding models: quantization as the runtime's own kernel does it, and errors where stock TFMA fills in a default."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from tests.fakes import evaluations, faulty_files, models
from tfx_mobile.errors import EvaluationError
from tfx_mobile.quantization_evaluator.scoring.predict import (
    FloatModel,
    Models,
    VariantFile,
    describe_saved_model,
    keep_finite,
    not_finite_rows,
    with_sizes,
)
from tfx_mobile.records import TensorRecord, sha256_of
from tfx_mobile.tflite.runtime import SignatureRunner, quantize

ROWS = models.rows(70)
IMAGES = models.images(ROWS)
SERIALIZED = np.array([b""] * len(ROWS), object)


@pytest.fixture(scope="module")
def saved_model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    models.save_raw_model(path)
    return str(path)


@pytest.fixture(scope="module")
def files(saved_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    made = {
        "float32": evaluations.convert(saved_model, "float32"),
        "batch_1": evaluations.convert(saved_model, "float32", batch_size=1),
        "batch_3": evaluations.convert(saved_model, "float32", batch_size=3),
        "integer_only_int8": evaluations.convert(saved_model, "integer_only_int8", IMAGES),
    }
    for name, data in made.items():
        (folder / name).write_bytes(data)
    return {name: VariantFile(name, str(folder / name), sha256_of(d), "serving_default") for name, d in made.items()}


def baseline(saved_model) -> FloatModel:
    return describe_saved_model(saved_model, "serving_default", None)


def quantize_model(dtype: str, scale: float, zero_point: int) -> bytes:
    """A file with nothing but a QUANTIZE op: the kernel itself."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    def tensor(name, tensor_type, quantization=None):
        made = schema.TensorT()
        made.name, made.type, made.shape, made.shapeSignature = name, tensor_type, [1, 1], [-1, 1]
        made.buffer, made.quantization = 0, quantization
        return made

    parameters = schema.QuantizationParametersT()
    parameters.scale, parameters.zeroPoint = [scale], [zero_point]
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.QUANTIZE
    code.version = 1
    op = schema.OperatorT()
    op.opcodeIndex, op.inputs, op.outputs = 0, [0], [1]
    graph = schema.SubGraphT()
    graph.tensors = [
        tensor("x", schema.TensorType.FLOAT32),
        tensor("q", getattr(schema.TensorType, dtype.upper()), parameters),
    ]
    graph.inputs, graph.outputs, graph.operators = [0], [1], [op]
    model = schema.ModelT()
    model.version, model.subgraphs, model.operatorCodes, model.buffers = 3, [graph], [code], [schema.BufferT()]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


@pytest.mark.parametrize(
    ("dtype", "scale", "zero_point"),
    [
        ("int8", 2 / 255, 0),
        ("int8", 0.0078125, -1),
        ("int8", 0.05, -77),
        ("uint8", 1 / 255, 0),
        ("uint8", 0.03125, 113),
    ],
)
def test_inputs_are_quantized_as_the_runtimes_own_kernel_does_it(dtype, scale, zero_point):
    from ai_edge_litert.interpreter import Interpreter

    limits = np.iinfo(dtype)
    rng = np.random.default_rng(0)
    ties = (np.arange(limits.min - 5, limits.max + 5) - zero_point + 0.5).astype(np.float32) * np.float32(scale)
    pixels = np.arange(256, dtype=np.float32) / np.float32(127.5) - 1
    values = np.concatenate([rng.normal(0, 150 * scale, 20_000), ties, pixels, [0.0, -0.0, 1e4, -1e4]])
    values = values.astype(np.float32)[:, None]
    interpreter = Interpreter(model_content=quantize_model(dtype, scale, zero_point), num_threads=1)
    interpreter.resize_tensor_input(0, values.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(0, values)
    interpreter.invoke()
    np.testing.assert_array_equal(quantize(values, scale, zero_point, dtype), interpreter.get_tensor(1))

    # The test would notice what others do.
    real = values / np.float32(scale)
    kernel = interpreter.get_tensor(1)
    assert (np.clip(np.trunc(real + zero_point), limits.min, limits.max) != kernel).any()
    assert (np.rint(real).astype(np.int64) + zero_point).astype(dtype).tolist() != kernel.tolist()


def test_rounding_comes_before_the_zero_point_is_added():
    # 0.5 is a tie: half to even gives 0, and with the odd zero point -1; the other order gives -0.0 -> 0 - 1 + 1.
    assert quantize(np.array([0.5, 1.5, -0.5]), 1.0, -1, "int8").tolist() == [-1, 1, -1]


def test_all_models_score_the_same_rows(saved_model, files):
    opened = Models("saved_model", baseline(saved_model), list(files.values()))
    outputs = opened.predict({"image": IMAGES, "label": np.zeros(len(ROWS))}, SERIALIZED)
    assert tuple(outputs) == opened.names == ("saved_model", *files)
    expected = outputs["saved_model"]["output_0"]
    assert expected.shape == (len(ROWS), models.CLASSES)
    for name in ("float32", "batch_1", "batch_3"):
        np.testing.assert_allclose(outputs[name]["output_0"], expected, atol=1e-5)
    runner = SignatureRunner(Path(files["integer_only_int8"].uri).read_bytes())
    one_by_one = np.concatenate([runner.run({"image": image[None]})["output_0"] for image in IMAGES])
    np.testing.assert_allclose(outputs["integer_only_int8"]["output_0"], one_by_one, atol=1.01 / 256)


def test_what_travels_to_workers_holds_no_model(saved_model, files):
    from apache_beam.internal import pickler

    from tfx_mobile.quantization_evaluator.scoring.prediction import Predict

    fn = pickler.loads(pickler.dumps(Predict(baseline(saved_model), [files["float32"]])))
    assert len(pickle.dumps(files["float32"])) < 1000
    fn.setup()
    (extracts,) = fn.process({"features": {"image": IMAGES}, "input": SERIALIZED, "kept": 1})
    assert set(extracts) == {"features", "input", "kept", "predictions"}
    assert {name: value.shape for name, value in extracts["predictions"].items()} == {
        "saved_model": (len(ROWS), models.CLASSES),
        "float32": (len(ROWS), models.CLASSES),
    }


def test_an_error_from_a_worker_in_another_process_is_told_without_its_traceback():
    from tfx_mobile.quantization_evaluator.scoring.evaluation import _own_error

    remote = RuntimeError("Traceback:\n  File 'x'\ntfx_mobile.errors.EvaluationError: No feature.\n\nDuring handling")
    assert isinstance(_own_error(remote), EvaluationError)
    assert str(_own_error(remote)) == "No feature."
    assert _own_error(RuntimeError("something else")) is None


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (None, "No feature for input 'image' of the SavedModel; the examples have: label"),
        (np.zeros((70, 15)), r"takes rows of shape \[16\], the feature has rows of shape \[15\]"),
        (np.array([[b"x"] * 16] * 70), "is float32, the feature is"),
        (np.array([None] * 70), "is missing in some examples"),
        ("sparse", "rows of different lengths"),
    ],
)
def test_a_missing_or_mismatching_input_is_an_error(saved_model, files, image, message):
    opened = Models("saved_model", baseline(saved_model), [files["float32"]])
    features = {"label": np.zeros(70)} if image is None else {"image": image}
    with pytest.raises(EvaluationError, match=message):
        opened.predict(features, SERIALIZED)


def var_len(rows, dtype):
    """As TFMA's FeaturesExtractor makes a feature of rows of different lengths."""
    import tensorflow_model_analysis as tfma

    indices = [(row, column) for row, values in enumerate(rows) for column in range(len(values))]
    values = np.array([value for row in rows for value in row], dtype)
    shape = np.array([len(rows), max(map(len, rows))])
    return tfma.types.VarLenTensorValue(values, np.array(indices).reshape(-1, 2), shape)


@pytest.mark.parametrize(
    ("values", "dtype", "default", "filled"),
    [
        (None, "float32", 0.5, [[0.5, 0.5]] * 3),
        (None, "string", "é", [["é".encode()] * 2] * 3),
        (var_len([[], [1, 2], [3]], np.int64), "int64", -1, [[-1, -1], [1, 2], [3, -1]]),
        (var_len([[b"a"], [], [b"b", b"c"]], object), "string", "-", [[b"a", b"-"], [b"-", b"-"], [b"b", b"c"]]),
        (np.array([[1.0], [2.0], [3.0]], np.float32), "float32", 9.0, [[1, 9], [2, 9], [3, 9]]),
        (np.array([None, np.array([1.0, 2.0]), None], object), "float32", 0.0, [[0, 0], [1, 2], [0, 0]]),
    ],
)
def test_a_missing_feature_gets_the_recorded_default(values, dtype, default, filled):
    from tfx_mobile.quantization_evaluator.scoring.predict import _conform, _fill

    record = TensorRecord(name="x", dtype=dtype, shape=(-1, 2))
    result = _conform(record, {"x": _fill(record, values, default, 3)}, "the variant")
    assert result.tolist() == filled
    assert result.dtype == (object if dtype == "string" else dtype)


def test_a_default_is_no_excuse_for_a_row_that_is_too_long():
    from tfx_mobile.quantization_evaluator.scoring.predict import _conform, _fill

    record = TensorRecord(name="x", dtype="int64", shape=(-1, 1))
    for values in (var_len([[], [1, 2]], np.int64), np.array([[1, 2], [3, 4]])):
        with pytest.raises(EvaluationError, match=r"'x'.*the variant"):
            _conform(record, {"x": _fill(record, values, 0, 2)}, "the variant")


def test_a_variant_with_another_input_is_an_error_too(saved_model, tmp_path):
    from tests.fakes import tflite_files

    (tmp_path / "other").write_bytes(tflite_files.dense())
    other = VariantFile("other", str(tmp_path / "other"), sha256_of(tflite_files.dense()), "serving_default")
    opened = Models("saved_model", baseline(saved_model), [other])
    with pytest.raises(EvaluationError, match="No feature for input 'x' of variant 'other'"):
        opened.predict({"image": IMAGES}, SERIALIZED)
    with pytest.raises(EvaluationError, match=r"Variant 'other' fails .*'p': .*cannot be compared"):
        opened.predict({"image": IMAGES, "x": np.zeros((70, 4), np.float32)}, SERIALIZED)


def test_values_that_cannot_be_quantized_are_an_error(saved_model, files):
    opened = Models("saved_model", baseline(saved_model), [files["integer_only_int8"]])
    images = IMAGES.copy()
    images[3, 3] = np.nan
    with pytest.raises(EvaluationError, match=r"'integer_only_int8' fails .*'image': cannot quantize NaN"):
        opened.predict({"image": images}, SERIALIZED)


def test_a_file_that_changed_after_preflight_is_not_run(saved_model, files):
    changed = VariantFile("changed", files["batch_1"].uri, files["float32"].sha256, "serving_default")
    opened = Models("saved_model", baseline(saved_model), [changed, files["float32"]])
    with pytest.raises(EvaluationError, match=r"'changed' fails .*changed while it was evaluated"):
        opened.predict({"image": IMAGES}, SERIALIZED)
    failures = []
    outputs = opened.predict({"image": IMAGES}, SERIALIZED, lambda *failure: failures.append(failure))
    assert [(model, row) for model, row, _ in failures] == [("changed", row) for row in range(len(ROWS))]
    assert np.isnan(outputs["changed"]["output_0"]).all()
    assert np.isfinite(outputs["float32"]["output_0"]).all()


def test_only_the_examples_that_a_variant_cannot_take_are_lost(saved_model, files):
    """The float model takes a NaN, an integer input cannot."""
    variant = files["integer_only_int8"]
    opened = Models("saved_model", baseline(saved_model), [variant])
    images = IMAGES.copy()
    images[[3, 66], 5] = np.nan
    failures = []
    outputs = opened.predict({"image": images}, SERIALIZED, lambda *failure: failures.append(failure))
    assert [(model, row) for model, row, _ in failures] == [(variant.name, 3), (variant.name, 66)]
    assert {message for _, _, message in failures} == {"model input 'image': cannot quantize NaN or infinite values"}
    scores = outputs[variant.name]["output_0"]
    assert np.flatnonzero(np.isnan(scores).any(axis=1)).tolist() == [3, 66]
    good = Models("saved_model", baseline(saved_model), [variant]).predict({"image": IMAGES}, SERIALIZED)
    kept = [row for row in range(len(ROWS)) if row not in (3, 66)]
    np.testing.assert_allclose(scores[kept], good[variant.name]["output_0"][kept], atol=1.01 / 256)


@pytest.mark.parametrize("own_inputs", [False, True])
def test_features_that_do_not_fit_are_a_fault_of_a_model_with_inputs_of_its_own(saved_model, tmp_path, own_inputs):
    data = faulty_files.make("wrong", input_name="picture")
    (tmp_path / "file").write_bytes(data)
    file = VariantFile("other", str(tmp_path / "file"), sha256_of(data), "serving_default", own_inputs=own_inputs)
    opened = Models("saved_model", baseline(saved_model), [file])
    failures = []
    if own_inputs:
        outputs = opened.predict({"image": IMAGES}, SERIALIZED, lambda *failure: failures.append(failure))
        assert len(failures) == len(ROWS)
        assert np.isnan(outputs["other"]["output_0"]).all()
    else:
        with pytest.raises(EvaluationError, match="No feature for input 'picture'"):
            opened.predict({"image": IMAGES}, SERIALIZED, lambda *failure: failures.append(failure))


def test_zeros_stand_in_for_values_that_only_the_variant_lacks():
    expected = np.array([[1.0, 2.0], [np.nan, 3.0]])
    values = np.array([[np.nan, 5.0], [np.nan, -np.inf]])
    np.testing.assert_array_equal(keep_finite(values, expected), [[0.0, 5.0], [np.nan, 0.0]])
    assert keep_finite(expected, expected) is expected
    integers = np.array([1, 2])
    assert keep_finite(integers, integers) is integers


def test_several_outputs_and_sizes_that_only_the_variant_fixes(tmp_path):
    """Two outputs by name, and a float model that leaves the size open which the variant has fixed."""
    import tensorflow as tf

    module = tf.Module()
    saved, fixed = (
        models.traced(tf.TensorSpec(shape, tf.float32, name="image"))(
            lambda image: {"total": tf.reduce_sum(image, [1, 2]), "first": image[:, 0] * 2}
        )
        for shape in ([None, None, 4], [1, 4, 4])
    )
    tf.saved_model.save(module, str(tmp_path / "open"), signatures={"serving_default": saved})
    tf.saved_model.save(module, str(tmp_path / "fixed"), signatures={"serving_default": fixed})
    converter = tf.lite.TFLiteConverter.from_saved_model(str(tmp_path / "fixed"), signature_keys=["serving_default"])
    data = converter.convert()
    (tmp_path / "file").write_bytes(data)
    variant = VariantFile("variant", str(tmp_path / "file"), sha256_of(data), "serving_default")
    (record,) = SignatureRunner(data).inputs.values()
    described = baseline(str(tmp_path / "open"))
    assert described.inputs["image"].shape == (-1, -1, 4)
    sized = with_sizes(described, [record])
    assert sized.inputs["image"].shape == (-1, 4, 4)
    # Features are flat: tf.Examples know no shapes.
    outputs = Models("saved_model", sized, [variant]).predict({"image": IMAGES}, SERIALIZED)
    for model in ("saved_model", "variant"):
        assert sorted(outputs[model]) == ["first", "total"]
        np.testing.assert_allclose(outputs[model]["total"], IMAGES.sum(axis=1), rtol=1e-5)
        np.testing.assert_allclose(outputs[model]["first"], IMAGES[:, :4] * 2, rtol=1e-6)
    with pytest.raises(EvaluationError, match=r"open shape \[-1, 4\].*rows of shape \[16\].*input_shapes=\{'image'"):
        Models("saved_model", described, [variant]).predict({"image": IMAGES}, SERIALIZED)


def test_an_unknown_signature_is_an_error_that_names_the_others(saved_model):
    with pytest.raises(EvaluationError, match="no signature 'mobile'; it has: serve, serving_default"):
        describe_saved_model(saved_model, "mobile", None)


def test_only_values_lost_by_the_variant_count_as_not_finite():
    expected = {"a": np.array([[1.0, 2.0], [-np.inf, 3.0], [4.0, 5.0]]), "n": np.array([1, 2, 3])}
    outputs = {"a": np.array([[np.nan, 2.0], [np.nan, 3.0], [4.0, np.inf]]), "n": np.array([1, 2, 3])}
    assert not_finite_rows(outputs, expected) == 2
    assert not_finite_rows(outputs, expected, {0}) == 1
    assert not_finite_rows(expected, expected) == 0


def test_what_a_row_gives_does_not_depend_on_the_batch_it_comes_in(tmp_path):
    import keras

    keras.utils.set_random_seed(0)
    # Wide enough that TensorFlow's matrix-vector kernel adds up in another order than its matrix-matrix kernel.
    image = keras.Input((1024,), name="image")
    hidden = keras.layers.Dense(128, activation="relu")(image)
    keras.Model(image, keras.layers.Dense(10)(hidden)).export(str(tmp_path), format="tf_saved_model", verbose=False)
    opened = Models("saved_model", baseline(str(tmp_path)), [])
    images = np.random.default_rng(0).normal(size=(129, 1024)).astype(np.float32)

    def predict(rows):
        serialized = np.array([b""] * len(rows), object)
        (outputs,) = opened.predict({"image": rows}, serialized)["saved_model"].values()
        return outputs

    together = predict(images)
    for size in (1, 7, 64, 65):
        parts = [predict(images[start : start + size]) for start in range(0, len(images), size)]
        np.testing.assert_array_equal(np.concatenate(parts), together)
