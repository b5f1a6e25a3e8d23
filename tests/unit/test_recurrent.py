"""Recurrent layers, state between calls, and open sizes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf

from tests.fakes import models
from tests.fakes.conversions import InProcess, new_job
from tfx_mobile.child_process import ChildDied
from tfx_mobile.recipes import BUILTIN_RECIPES, ConversionRecipe
from tfx_mobile.tflite_converter import conversion, failures

STEPS, FEATURES, UNITS = 6, 3, 4
SEQUENCES: npt.NDArray[np.float32] = np.random.default_rng(0).normal(size=(12, STEPS, FEATURES)).astype(np.float32)
ROWS = [{"sequence": sequence} for sequence in SEQUENCES]


@pytest.fixture
def in_process(tmp_path_factory: pytest.TempPathFactory) -> InProcess:
    return InProcess(tmp_path_factory.mktemp("conversions"))


def _recurrent(kind: str, path: Path, **options: Any) -> Callable[[npt.NDArray[Any]], npt.NDArray[Any]]:
    import keras

    keras.utils.set_random_seed(1)
    sequence = keras.Input((STEPS, FEATURES), name="sequence")
    hidden = getattr(keras.layers, kind)(UNITS, **options)(sequence)
    model = keras.Model(sequence, keras.layers.Dense(2)(hidden))
    model.export(str(path), format="tf_saved_model", verbose=False)
    return lambda values: keras.ops.convert_to_numpy(model(values))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("kind", "options"), [("LSTM", {"return_sequences": True}), ("GRU", {}), ("SimpleRNN", {"go_backwards": True})]
)
def test_loops_of_a_fixed_batch_size(in_process: InProcess, tmp_path: Path, kind: str, options: dict[str, Any]) -> None:
    call = _recurrent(kind, tmp_path / "m", **options)
    by_three = ConversionRecipe(name="by_three", quantization="none", batch_size=3)
    made = in_process.convert(tmp_path / "m", "float32", "float16", "dynamic_range", by_three)
    assert made.failures == {}
    expected = call(SEQUENCES)
    for recipe, batch in (("float32", 1), ("float16", 1), ("dynamic_range", 1), ("by_three", 3)):
        assert "WHILE" in {op.name for op in made.file(recipe).ops}
        # The loop's result is no longer of open size, neither in the record nor in the file.
        output = made.file(recipe).signature().outputs[0]
        assert output.shape == (batch, *expected.shape[1:])
        result = made.runner(recipe).run({"sequence": SEQUENCES})["output_0"]
        np.testing.assert_allclose(result, expected, atol=1e-2 if recipe == "float16" else 1e-6)
    three = next(source for source in made.prepared.sources.values() if source.batch_size == 3)
    assert three.signature.outputs[0].shape == (3, *expected.shape[1:])


def test_a_layer_of_keras_2_starts_every_call_anew(in_process: InProcess, tmp_path: Path) -> None:
    import tf_keras

    tf_keras.utils.set_random_seed(1)
    sequence = tf_keras.Input((STEPS, FEATURES), name="sequence")
    model = tf_keras.Model(sequence, tf_keras.layers.LSTM(UNITS)(sequence))
    serve = models.traced(tf.TensorSpec([1, STEPS, FEATURES], tf.float32, name="sequence"))(
        lambda sequence: {"y": model(sequence)}
    )
    tf.saved_model.save(model, str(tmp_path / "m"), signatures={"serving_default": serve})
    expected = model(SEQUENCES).numpy()
    made = in_process.convert(tmp_path / "m", "float32")
    # Row after row through one interpreter: TensorFlow Lite's fused LSTM would go on from the row before.
    np.testing.assert_allclose(made.runner("float32").run({"sequence": SEQUENCES})["y"], expected, atol=1e-6)
    fused = in_process.convert(tmp_path / "m", "float32", route="direct")
    assert [op.name for op in fused.file("float32").ops if "LSTM" in op.name] == ["UNIDIRECTIONAL_SEQUENCE_LSTM"]
    result = fused.runner("float32").run({"sequence": SEQUENCES})["y"]
    np.testing.assert_allclose(result[0], expected[0], atol=1e-6)
    assert np.abs(result[1:] - expected[1:]).max() > 1e-3


def test_a_loop_of_open_batch_size_is_refused_by_its_name(in_process: InProcess, tmp_path: Path) -> None:
    _recurrent("LSTM", tmp_path / "m")
    made = in_process.convert(tmp_path / "m", "float32", batch_size="dynamic")
    failure = made.failures["float32"]
    assert "TensorListReserve" in failure.message
    assert "lstm" in failure.advice
    assert "batch_size=1" in failure.advice


def test_two_layers_over_a_sequence_of_open_length(in_process: InProcess, tmp_path: Path) -> None:
    import keras

    keras.utils.set_random_seed(1)
    sequence = keras.Input((None, FEATURES), name="sequence")
    x = keras.layers.Bidirectional(keras.layers.LSTM(UNITS, return_sequences=True))(sequence)
    model = keras.Model(sequence, keras.layers.GRU(UNITS)(x))
    model.export(str(tmp_path / "m"), format="tf_saved_model", verbose=False)
    made = in_process.convert(tmp_path / "m", "float32")
    assert made.failures == {}
    fixed = in_process.convert(tmp_path / "m", "float32", input_shapes={"sequence": [STEPS, FEATURES]})
    assert fixed.failures == {}
    assert fixed.file("float32").signature().inputs[0].shape == (1, STEPS, FEATURES)
    expected = keras.ops.convert_to_numpy(model(SEQUENCES))
    for files in (made, fixed):
        result = files.runner("float32").run({"sequence": SEQUENCES})["output_0"]
        np.testing.assert_allclose(result, expected, atol=1e-6)


def test_unrolled_layers_convert_to_integers(in_process: InProcess, tmp_path: Path) -> None:
    call = _recurrent("LSTM", tmp_path / "m", unroll=True)
    made = in_process.convert(tmp_path / "m", "full_integer", "integer_only_int8", "int16x8", rows=ROWS)
    assert made.failures == {}
    for recipe in made.files:
        result = made.runner(recipe).run({"sequence": SEQUENCES})["output_0"]
        np.testing.assert_allclose(result, call(SEQUENCES), atol=0.05)


def test_a_crash_on_a_loop_is_explained() -> None:
    died = ChildDied("crashed", "killed by SIGSEGV", "SIGSEGV", "")
    failure = failures.from_death(died, 60, None)
    explained = failures.of_recurrent_model(failure, BUILTIN_RECIPES["full_integer"], ("model/lstm",), ())
    assert "model/lstm" in explained.advice
    assert "unroll=True" in explained.advice
    assert failures.of_recurrent_model(failure, BUILTIN_RECIPES["full_integer"], (), ()) == failure


# --- state ------------------------------------------------------------------------------------------------------------


def _save_stateful(path: Path) -> None:
    import keras

    keras.utils.set_random_seed(2)
    sequence = keras.Input((STEPS, FEATURES), batch_size=1, name="sequence")
    model = keras.Model(sequence, keras.layers.LSTM(UNITS, stateful=True, name="memory")(sequence))
    serve = models.traced(tf.TensorSpec([1, STEPS, FEATURES], tf.float32, name="sequence"))(
        lambda sequence: model(sequence)
    )
    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint("serving_default", serve)
    archive.write_out(str(path), verbose=False)


def test_state_between_calls_stays_in_the_file(in_process: InProcess, tmp_path: Path) -> None:
    _save_stateful(tmp_path / "m")
    made = in_process.convert(tmp_path / "m", "float32", "dynamic_range")
    assert made.failures == {}
    assert made.prepared.route == "direct"
    assert made.prepared.direct_reason == "signature 'serving_default' assigns the variables memory/rnn_state"
    source = next(iter(made.prepared.sources.values()))
    assert source.state == ("memory/rnn_state",)
    assert {"VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE"} <= {op.name for op in made.file("float32").ops}
    loaded = tf.saved_model.load(str(tmp_path / "m"))
    runner = made.runner("float32")
    previous = None
    for _ in range(3):
        (expected,) = loaded.signatures["serving_default"](sequence=tf.constant(SEQUENCES[:1])).values()
        (result,) = runner.run({"sequence": SEQUENCES[:1]}).values()
        np.testing.assert_allclose(result, expected.numpy(), atol=1e-6)
        # The same input gives another output each time.
        assert previous is None or np.abs(result - previous).max() > 1e-3
        previous = result


def test_state_that_does_not_convert_is_refused_by_its_name(in_process: InProcess, tmp_path: Path) -> None:
    module = tf.Module()
    module.history = tf.Variable(tf.zeros([1, 4, 4]), name="history")

    @models.traced(tf.TensorSpec([1, 4, 4], tf.float32, name="x"))
    def serve(x: Any) -> dict[str, Any]:
        return {"y": tf.linalg.det(module.history.assign_add(x))}

    tf.saved_model.save(module, str(tmp_path / "m"), signatures={"serving_default": serve})
    made = in_process.convert(tmp_path / "m", "float32")
    failure = made.failures["float32"]
    assert "MatrixDeterminant" in failure.message
    assert "variables history:" in failure.advice
    assert "as an input and return it as an output" in failure.advice


def test_state_assigned_in_a_branch_or_loop_is_found(tmp_path: Path) -> None:
    from tfx_mobile.tflite_converter import front_end

    module = tf.Module()
    module.seen, module.kept = tf.Variable(0.0, name="seen"), tf.Variable(1.0, name="kept")
    module.looped = tf.Variable(0.0, name="looped")

    @models.traced(tf.TensorSpec([None, 1], tf.float32, name="x"))
    def serve(x: Any) -> dict[str, Any]:
        tf.cond(tf.reduce_sum(x) > 0, lambda: module.seen.assign_add(1.0), lambda: module.seen + 0.0)
        tf.while_loop(lambda i: i < 2, lambda i: (i + tf.cast(module.looped.assign_add(0.0), tf.int32) + 1,), (0,))
        return {"y": x * module.seen * module.kept}

    tf.saved_model.save(module, str(tmp_path / "m"), signatures={"serving_default": serve})
    signature = front_end.load_signature(tmp_path / "m", "serving_default")
    assert signature.assigned_variables() == ("looped", "seen")


def test_a_streaming_model_with_its_state_as_input_and_output(in_process: InProcess, tmp_path: Path) -> None:
    import keras

    keras.utils.set_random_seed(3)
    x, h, c = keras.Input((FEATURES,), name="x"), keras.Input((UNITS,), name="h"), keras.Input((UNITS,), name="c")
    _, (new_h, new_c) = keras.layers.LSTMCell(UNITS)(x, [h, c])
    model = keras.Model({"x": x, "h": h, "c": c}, {"h": new_h, "c": new_c, "y": keras.layers.Dense(1)(new_h)})
    model.export(str(tmp_path / "m"), format="tf_saved_model", verbose=False)
    rng = np.random.default_rng(0)
    rows = [{"x": row, "h": rng.uniform(-1, 1, UNITS), "c": rng.uniform(-1, 1, UNITS)} for row in SEQUENCES[:, 0]]
    made = in_process.convert(tmp_path / "m", "float32", "full_integer", "integer_only_int8", "int16x8", rows=rows)
    assert made.failures == {}
    for recipe in made.files:
        tolerance = 1e-6 if recipe == "float32" else 0.1
        runner = made.runner(recipe)
        assert (list(runner.inputs), list(runner.outputs)) == (["c", "h", "x"], ["c", "h", "y"])
        state = {name: np.zeros((1, UNITS), np.float32) for name in ("c", "h")}
        expected = {name: tf.constant(value) for name, value in state.items()}
        for step in SEQUENCES[0]:
            outputs = runner.run({**state, "x": step[None]})
            state = {name: outputs[name] for name in state}
            expected_outputs = model({**expected, "x": tf.constant(step[None])})
            expected = {name: expected_outputs[name] for name in expected}
            np.testing.assert_allclose(outputs["y"], expected_outputs["y"].numpy(), atol=tolerance)


# --- open sizes -------------------------------------------------------------------------------------------------------


def _save_image_model(path: Path) -> None:
    import keras

    keras.utils.set_random_seed(4)
    image = keras.Input((None, None, 3), name="image")
    x = keras.layers.Conv2D(4, 3, strides=2, activation="relu")(image)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3, strides=2)(x))
    keras.Model(image, keras.layers.Dense(2)(x)).export(str(path), format="tf_saved_model", verbose=False)


@pytest.fixture(scope="module")
def image_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("image_model") / "m"
    _save_image_model(path)
    return path


IMAGES: npt.NDArray[np.float32] = np.random.default_rng(1).random((10, 16, 12, 3)).astype(np.float32)


def test_open_sizes_stay_open_or_are_fixed(in_process: InProcess, image_model: Path) -> None:
    expected = tf.saved_model.load(str(image_model)).signatures["serving_default"](image=tf.constant(IMAGES))
    opened = in_process.convert(image_model, "float32", "dynamic_range")
    assert opened.failures == {}
    rows = [{"image": image} for image in IMAGES]
    fixed = in_process.convert(
        image_model, "float32", "full_integer", "integer_only_int8", rows=rows, input_shapes={"image": [16, 12, 3]}
    )
    assert fixed.failures == {}
    for made, shape in ((opened, (1, -1, -1, 3)), (fixed, (1, 16, 12, 3))):
        for recipe in made.files:
            assert made.file(recipe).signature().inputs[0].shape == shape
            result = made.runner(recipe).run({"image": IMAGES})["output_0"]
            np.testing.assert_allclose(result, expected["output_0"].numpy(), atol=0.05)


@pytest.mark.parametrize(
    ("input_shapes", "message"),
    [
        ({"picture": [32, 32, 3]}, r"SignatureError: input_shapes names 'picture', but the inputs are 'image'"),
        ({"image": [32, 32]}, r"SignatureError: input_shapes gives \[32, 32\] for input 'image'.*\[None, None, 3\]"),
        ({"image": [32, 32, 1]}, r"SignatureError: input_shapes gives \[32, 32, 1\] .*only None can be chosen"),
        ({"image": [2, 2, 3]}, r"SignatureError: .*cannot take inputs of the shapes image \[1, 2, 2, 3\]"),
    ],
)
def test_sizes_that_do_not_fit(
    in_process: InProcess, image_model: Path, input_shapes: dict[str, list[int]], message: str
) -> None:
    with pytest.raises(RuntimeError, match=message):
        in_process.convert(image_model, "float32", input_shapes=input_shapes)


def test_calibration_needs_sizes(in_process: InProcess, image_model: Path) -> None:
    with pytest.raises(
        RuntimeError, match=r"CalibrationError: Input 'image' .*Pass input_shapes=\{'image': \[\.\.\.\]\}"
    ):
        in_process.convert(image_model, "full_integer", rows=[{"image": IMAGES[0]}])


def test_sizes_cannot_be_fixed_on_the_direct_route(in_process: InProcess, tmp_path: Path) -> None:
    _save_stateful(tmp_path / "m")
    with pytest.raises(
        RuntimeError, match=r"SignatureError: input_shapes=.* because signature .* assigns the variables"
    ):
        in_process.convert(tmp_path / "m", "float32", input_shapes={"sequence": (STEPS, FEATURES)})


def test_a_whole_conversion_of_a_model_with_open_sizes_and_of_one_with_loops(tmp_path: Path, image_model: Path) -> None:
    """With children: preflight runs the open file with sizes that convolutions can take; a crash costs its recipe."""
    for model, recipe, rows, failed in (
        (image_model, "float32", [], None),
        (tmp_path / "lstm", "full_integer", ROWS, "converter_crashed"),
    ):
        if not model.exists():
            _recurrent("LSTM", model)
        job = new_job(tmp_path, model, recipe, rows=rows)
        (variant,) = conversion.convert(job, deadline_seconds=120).variants
        if failed is None:
            assert variant.failure is None
        elif variant.failure is None:
            pytest.skip(f"TensorFlow {tf.__version__} quantizes this loop; 2.16 crashes")
        else:
            assert variant.failure.code == failed
            assert "lstm" in variant.failure.advice
            assert "unroll=True" in variant.failure.advice
