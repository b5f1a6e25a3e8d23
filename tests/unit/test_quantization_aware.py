"""Models from quantization-aware training, through the engine: which ranges a variant gets, and from where."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema

from tests.fakes import conversions, models, qat_models
from tfx_mobile.errors import ConversionError, RecipeError, SignatureError
from tfx_mobile.recipes import BUILTIN_RECIPES, ConversionRecipe
from tfx_mobile.records import ModelFileRecord, OpRecord, SignatureRecord, TensorRecord, Variant
from tfx_mobile.tflite.runtime import SignatureRunner
from tfx_mobile.tflite_converter import trained_ranges
from tfx_mobile.tflite_converter.conversion import Conversion, convert
from tfx_mobile.tflite_converter.inspection import inspect

IMAGES = models.images(models.rows(60, seed=5))
QAT = ("qat_full_integer", "qat_integer_only_int8")


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The child's work is done here: nothing in these models aborts, and a child each costs a TensorFlow import."""

    def run_here(function: str, request: dict[str, Any], **_: Any) -> Iterator[dict[str, Any]]:
        module, name = function.split(":")
        events: list[dict[str, Any]] = []
        getattr(importlib.import_module(module), name)(request, events.append)
        yield from events

    monkeypatch.setattr("tfx_mobile.child_process.run", run_here)


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Conversion]:
    """Converts `Format-Serving` of a folder by recipe names, without examples unless `calibrate` is set."""

    def run(model: Path, *recipes: str | ConversionRecipe, calibrate: bool = False, **changes: Any) -> Conversion:
        rows = models.rows(30) if calibrate else None
        job = conversions.new_job(tmp_path, model / "Format-Serving", *recipes, rows=rows, **changes)
        return convert(job, deadline_seconds=120)

    return run


@pytest.fixture
def raw_qat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return qat_models.raw_qat_model(tmp_path_factory)


def serving(model: Path, **inputs: Any) -> Any:
    loaded = tf.saved_model.load(str(model / "Format-Serving"))
    (output,) = loaded.signatures["serving_default"](**inputs).values()
    return output.numpy()


def predict(conversion: Conversion, name: str) -> Any:
    (output,) = SignatureRunner(conversion.files[name].read_bytes()).run({"image": IMAGES}).values()
    return output


def by_name(conversion: Conversion) -> dict[str, Variant]:
    return {variant.name: variant for variant in conversion.variants}


def int8_weights(data: bytes) -> list[tuple[Any, Any]]:
    """Stored values and scales of each int8 weight tensor."""
    model = schema.ModelT.InitFromPackedBuf(data, 0)
    return [
        (np.asarray(model.buffers[t.buffer].data, np.uint8).view(np.int8).reshape(t.shape), t.quantization.scale)
        for t in model.subgraphs[0].tensors
        if t.type == schema.TensorType.INT8 and len(t.shape) > 1 and model.buffers[t.buffer].data is not None
    ]


def test_integer_recipes_take_trained_ranges_and_no_others_do(run: Callable[..., Conversion], raw_qat: Path) -> None:
    names = [*QAT, "full_integer", "integer_only_int8", "integer_only_uint8", "float32", "float16", "dynamic_range"]
    conversion = run(raw_qat, *names)
    assert [(v.name, v.failure) for v in conversion.variants] == [(name, None) for name in names]
    assert [v.ranges_from for v in conversion.variants] == ["training"] * 5 + [None] * 3
    assert conversion.calibration is None
    expected = serving(raw_qat, image=tf.constant(IMAGES))
    for name in names[:5]:
        np.testing.assert_allclose(predict(conversion, name), expected, atol=0.06)
    assert conversion.files["qat_full_integer"].read_bytes() == conversion.files["full_integer"].read_bytes()
    # The float file computes in float, with nothing quantized in it, and so do its small relatives.
    files = {name: variant.file for name, variant in by_name(conversion).items() if variant.file}
    assert not [op for op in files["float32"].ops if op.name in ("QUANTIZE", "DEQUANTIZE", "FAKE_QUANT")]
    floats = {op.name for op in files["float32"].ops if op.float_count}
    for name in ("float16", "dynamic_range"):
        assert {op.name for op in files[name].ops if op.float_count} == floats
    # It is the network that training produced: the float network of the same weights.
    network = models.raw_network()
    np.testing.assert_allclose(predict(conversion, "float32"), network(IMAGES).numpy(), atol=1e-5)
    np.testing.assert_allclose(predict(conversion, "float16"), network(IMAGES).numpy(), atol=0.02)


def test_other_integer_recipes_calibrate_the_float_graph(run: Callable[..., Conversion], raw_qat: Path) -> None:
    conversion = run(raw_qat, "int16x8", "mixed_precision", "int4", "full_integer", calibrate=True)
    assert [v.failure for v in conversion.variants] == [None] * 4
    assert [v.ranges_from for v in conversion.variants] == ["calibration", "calibration", None, "training"]
    assert [v.calibrated for v in conversion.variants] == ["shared", "shared", None, None]
    repair = by_name(conversion)["mixed_precision"].repair
    assert repair is not None
    assert repair.repaired
    assert conversion.calibration is not None
    np.testing.assert_allclose(predict(conversion, "int16x8"), models.raw_network()(IMAGES).numpy(), atol=0.02)
    with pytest.raises(RecipeError, match=r"The recipes int16x8 calibrate, but .*qat_full_integer"):
        run(raw_qat, "int16x8", "full_integer")


def test_weights_keep_the_scale_they_were_trained_with(run: Callable[..., Conversion], raw_qat: Path) -> None:
    conversion = run(raw_qat, "full_integer")
    kernel, _, dense, _ = models.raw_network().get_weights()
    stored = int8_weights(conversion.files["full_integer"].read_bytes())
    assert len(stored) == 2
    for values, scales in stored:
        weights = np.moveaxis(kernel, 3, 0) if values.ndim == 4 else dense.T
        axes = (1, 2, 3) if values.ndim == 4 else (0, 1)
        trained = qat_models.WEIGHT_RANGE * np.abs(weights).max(axis=axes) / 127
        np.testing.assert_allclose(np.ravel(scales), np.broadcast_to(trained, np.shape(scales)), rtol=1e-5)
        assert np.abs(values.astype(int)).max() == round(127 / qat_models.WEIGHT_RANGE)


def test_a_recipe_that_needs_training_fails_alone(
    run: Callable[..., Conversion], tmp_path_factory: pytest.TempPathFactory
) -> None:
    conversion = run(models.raw_model(tmp_path_factory), *QAT, "full_integer", calibrate=True)
    for name in QAT:
        failure = by_name(conversion)[name].failure
        assert failure is not None
        assert failure.code == "not_quantization_aware"
        assert "qat_model=" in failure.advice
    assert [(v.name, v.ranges_from) for v in conversion.variants if v.file] == [("full_integer", "calibration")]


def test_without_examples_a_float_model_cannot_be_calibrated(
    run: Callable[..., Conversion], tmp_path_factory: pytest.TempPathFactory
) -> None:
    with pytest.raises(RecipeError, match="The recipes full_integer calibrate, but TFLiteConverter got no examples"):
        run(models.raw_model(tmp_path_factory), "float32", "full_integer")


def test_preprocessing_before_the_first_trained_range(
    run: Callable[..., Conversion], tmp_path_factory: pytest.TempPathFactory
) -> None:
    model = qat_models.serving_qat_model(tmp_path_factory)
    conversion = run(model, *QAT)
    assert [(v.failure, v.ranges_from) for v in conversion.variants] == [(None, "training")] * 2
    serialized = tf.constant([models.serialize({"image": image}) for image in IMAGES])
    expected = serving(model, examples=serialized)
    full_integer, integer_only = (v.file for v in conversion.variants)
    assert full_integer is not None
    assert integer_only is not None
    # Training knows no range of the raw image: full_integer scales it in float ...
    assert any(op.float_count for op in full_integer.ops)
    # ... and integers alone need one, which follows from the range behind Transform's z-score.
    assert not any(op.float_count for op in integer_only.ops)
    (image,) = integer_only.signature().inputs
    pixels = models.images(models.rows(90))
    assert image.scale == pytest.approx((pixels.max() - pixels.min()) / 255, rel=0.01)
    np.testing.assert_allclose(predict(conversion, "qat_full_integer"), expected, atol=0.06)
    np.testing.assert_allclose(predict(conversion, "qat_integer_only_int8"), expected, atol=0.06)


# --- graphs made by hand ----------------------------------------------------------------------------------------------


def save_module(path: Path, before: Callable[[Any], Any] = lambda x: x, bits: int = 8, output: str = "y") -> Path:
    """`image` [batch, 16] through `before`, fake quantization to [-1, 3], a matrix, and fake quantization again."""
    module = tf.Module()
    module.weights = tf.Variable(np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32))

    @models.traced(tf.TensorSpec([None, 16], tf.float32, name="image"))
    def serve(image: Any) -> dict[str, Any]:
        x = tf.quantization.fake_quant_with_min_max_vars(before(image), -1.0, 3.0, num_bits=bits)
        weights = tf.quantization.fake_quant_with_min_max_vars(module.weights, -4.0, 4.0, narrow_range=True)
        return {output: tf.quantization.fake_quant_with_min_max_vars(x @ weights, -20.0, 20.0, num_bits=bits)}

    tf.saved_model.save(module, str(path / "Format-Serving"), signatures={"serving_default": serve})
    return path


@pytest.mark.parametrize(
    ("before", "low", "high"),
    [
        (lambda x: x, -1.0, 3.0),
        (lambda x: (x - 2.0) / 4.0, -2.0, 14.0),
        (lambda x: tf.reshape(1.0 - 2.0 * x, [-1, 16]), -1.0, 1.0),
        # Zero must have a value of its own, so the range reaches down to it.
        (lambda x: x - 5.0, 0.0, 8.0),
        (lambda x: x * np.linspace(1, 2, 16, dtype=np.float32), -1.0, 3.0),
        # As Transform's scalings guard against constant data; what is not chosen does not matter.
        (lambda x: tf.where(tf.zeros_like(x) < 1.0, (x - 2.0) / 4.0, tf.sigmoid(x)), -2.0, 14.0),
        (lambda x: tf.where(np.arange(16) < 8, x, x / 2.0), -2.0, 6.0),
    ],
    ids=["none", "z_score", "reversed", "far_from_zero", "per_feature", "guarded", "chosen_per_feature"],
)
def test_the_range_of_an_input_follows_from_the_trained_one(
    run: Callable[..., Conversion], tmp_path: Path, before: Callable[[Any], Any], low: float, high: float
) -> None:
    conversion = run(save_module(tmp_path / "m", before), "qat_integer_only_int8")
    (variant,) = conversion.variants
    assert variant.file is not None, variant.failure
    (image,) = variant.file.signature().inputs
    assert image.scale == pytest.approx((high - low) / 255, rel=1e-4)
    assert image.zero_point is not None
    assert (-128 - image.zero_point) * image.scale == pytest.approx(low, abs=image.scale)


def test_preprocessing_that_hides_the_range_is_named(run: Callable[..., Conversion], tmp_path: Path) -> None:
    conversion = run(save_module(tmp_path / "m", tf.exp), *QAT)
    full_integer, integer_only = conversion.variants
    assert full_integer.file is not None
    failure = integer_only.failure
    assert failure is not None
    assert failure.code == "no_trained_range"
    assert "'image'" in failure.message
    assert "Exp" in failure.message
    assert "qat_full_integer" in failure.advice


def test_training_for_other_bits_is_not_taken_for_int8(run: Callable[..., Conversion], tmp_path: Path) -> None:
    model = save_module(tmp_path / "m", bits=4)
    conversion = run(model, "qat_full_integer", "full_integer", calibrate=True)
    assert [v.ranges_from for v in conversion.variants] == [None, "calibration"]
    assert conversion.variants[0].failure is not None
    assert conversion.variants[0].failure.code == "not_quantization_aware"
    with pytest.raises(ConversionError, match=r"qat_model was not trained .* for int8: .* for 4 bits"):
        run(model, "qat_full_integer", qat_saved_model=str(model / "Format-Serving"))


def test_fake_quantized_weights_alone_do_not_make_a_model_quantization_aware() -> None:
    def bits(function: Callable[[Any], Any]) -> frozenset[int]:
        concrete = models.traced(tf.TensorSpec([None, 2], tf.float32))(function).get_concrete_function()
        return trained_ranges.bits(concrete.graph.as_graph_def())

    def fake(x: Any) -> Any:
        return tf.quantization.fake_quant_with_min_max_args(x, -1.0, 1.0)

    assert bits(lambda x: x @ tf.ones([2, 2])) == frozenset()
    assert bits(lambda x: x @ fake(tf.ones([2, 2]))) == frozenset()
    assert bits(lambda x: fake(x) @ tf.ones([2, 2])) == {8}


def test_a_trained_model_that_cannot_be_frozen_is_refused(run: Callable[..., Conversion], tmp_path: Path) -> None:
    with pytest.raises(SignatureError, match=r"trained quantization-aware, but cannot be frozen.*run_fn"):
        run(save_module(tmp_path / "m"), "float32", route="direct")


@pytest.mark.parametrize("recipe", QAT)
def test_a_file_in_which_nothing_computes_in_integers_is_refused(recipe: str) -> None:
    tensor = TensorRecord(name="y", dtype=BUILTIN_RECIPES[recipe].io_dtype, shape=(1, 3))
    signature = SignatureRecord(key="s", inputs=(tensor,), outputs=(tensor,))
    ops = (OpRecord(name="QUANTIZE", version=1, count=1),)
    file = ModelFileRecord(sha256="0" * 64, size_bytes=1, gzip_bytes=1, signatures=(signature,), ops=ops)
    floats = signature.model_copy(
        update=dict.fromkeys(("inputs", "outputs"), (tensor.model_copy(update={"dtype": "float32"}),))
    )
    failure = inspect(BUILTIN_RECIPES[recipe], file, floats)
    assert failure is not None
    assert failure.message == "Nothing in the file computes in integers; its ops are QUANTIZE."


# --- the twin ---------------------------------------------------------------------------------------------------------


def test_recipes_for_the_twin_are_made_from_it_and_the_others_from_the_model(
    run: Callable[..., Conversion], raw_qat: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    model = models.raw_model(tmp_path_factory)
    conversion = run(
        model, "float32", "full_integer", *QAT, calibrate=True, qat_saved_model=str(raw_qat / "Format-Serving")
    )
    assert [v.ranges_from for v in conversion.variants] == [None, "calibration", "training", "training"]
    assert conversion.twin is not None
    assert [(t.name, t.shape) for t in conversion.twin.inputs] == [("image", (1, 16))]
    alone = run(raw_qat, "qat_full_integer")
    assert conversion.files["qat_full_integer"].read_bytes() == alone.files["qat_full_integer"].read_bytes()
    expected = serving(model, image=tf.constant(IMAGES))
    np.testing.assert_allclose(predict(conversion, "float32"), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("twin", "message"),
    [
        ({"output": "z"}, r"of qat_model has the outputs z; that of model has y"),
        ({"side": 8}, r"Input 'image' of signature 'serving_default' is float32 \[-1, 8\] in qat_model and float32 \["),
        ({"dtype": tf.float64}, r"Input 'image' .* is float64 .* in qat_model"),
        ({"name": "picture"}, r"of qat_model has the inputs picture; that of model has image"),
        ({"key": "serve"}, r"qat_model: The SavedModel has no signature 'serving_default'"),
    ],
    ids=["output_name", "shape", "dtype", "input_name", "signature"],
)
def test_a_twin_with_another_signature_is_refused(
    run: Callable[..., Conversion], tmp_path: Path, twin: dict[str, Any], message: str
) -> None:
    model = save_module(tmp_path / "m")
    module = tf.Module()
    side, dtype, name = twin.get("side", 16), twin.get("dtype", tf.float32), twin.get("name", "image")

    @models.traced(tf.TensorSpec([None, side], dtype, name=name))
    def serve(image: Any) -> dict[str, Any]:
        x = tf.quantization.fake_quant_with_min_max_args(tf.cast(image, tf.float32), -1.0, 1.0)
        return {twin.get("output", "y"): x @ tf.ones([side, 3])}

    tf.saved_model.save(module, str(tmp_path / "twin"), signatures={twin.get("key", "serving_default"): serve})
    with pytest.raises(SignatureError, match=message):
        run(model, "qat_full_integer", qat_saved_model=str(tmp_path / "twin"))


def test_a_twin_that_was_not_trained_so_is_refused(
    run: Callable[..., Conversion], tmp_path_factory: pytest.TempPathFactory
) -> None:
    model = models.raw_model(tmp_path_factory)
    with pytest.raises(ConversionError, match=r"qat_model was not trained .*no activation is fake-quantized.*run_fn"):
        run(model, "qat_full_integer", qat_saved_model=str(model / "Format-Serving"))
