from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema

from tests.fakes import conversions, models
from tfx_mobile.errors import ModelFileError
from tfx_mobile.recipes import BUILTIN_RECIPES
from tfx_mobile.tflite.flatbuffer import inspect_model
from tfx_mobile.tflite.runtime import SignatureRunner
from tfx_mobile.tflite_converter import failures, int4, quantize
from tfx_mobile.tflite_converter.conversion import Conversion, convert

IMAGES = models.images(models.rows(60, seed=5))


def _convert(tmp_path: Path, model: Path, *recipes: str) -> Conversion:
    return convert(conversions.new_job(tmp_path, model / "Format-Serving", *recipes), deadline_seconds=120)


def _float_file(tmp_path: Path, function: Callable[[Any], Any], width: int) -> bytes:
    module = tf.Module()

    @models.traced(tf.TensorSpec([1, width], tf.float32, name="x"))
    def serve(x: Any) -> dict[str, Any]:
        return {"y": function(x)}

    tf.saved_model.save(module, str(tmp_path / "saved"), signatures={"serving_default": serve})
    return quantize.convert(BUILTIN_RECIPES["float32"], str(tmp_path / "saved"), "serving_default", None)


def _weights(rows: int, columns: int) -> Any:
    return tf.constant(np.random.default_rng(0).normal(size=(rows, columns)), tf.float32)


def test_weights_are_int4_and_the_model_still_classifies(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    model = models.raw_model(tmp_path_factory)
    first, second = (_convert(tmp_path, model, "float32", "int4") for _ in range(2))
    assert [variant.failure for variant in first.variants] == [None, None]
    float32, variant = first.variants
    assert float32.file is not None
    assert variant.file is not None
    assert set(float32.file.weight_bytes) == {"float32", "int32"}
    # Convolution 3x3x1x4 and matrix 64x3; biases stay float.
    assert variant.file.weight_bytes["int4"] == (36 + 192) // 2
    assert variant.file.size_bytes < float32.file.size_bytes
    assert variant.file.signature().inputs == float32.file.signature().inputs
    # What TensorFlow's converter said of the float file is not true of this one.
    assert float32.file.min_runtime_version is not None
    assert variant.file.min_runtime_version is None
    outputs = {
        name: SignatureRunner(path.read_bytes()).run({"image": IMAGES})["output_0"]
        for name, path in first.files.items()
    }
    assert np.isfinite(outputs["int4"]).all()
    assert not np.array_equal(outputs["int4"], outputs["float32"])
    assert (outputs["int4"].argmax(axis=1) == outputs["float32"].argmax(axis=1)).mean() > 0.9
    # Two child processes, equal bytes.
    assert first.files["int4"].read_bytes() == second.files["int4"].read_bytes()


def test_a_file_where_nothing_became_int4_is_a_failure(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    def save(path: Path) -> None:
        module, table = tf.Module(), _weights(8, 4)

        @models.traced(tf.TensorSpec([None, 1], tf.int32, name="category"))
        def serve(category: Any) -> dict[str, Any]:
            return {"y": tf.sin(tf.gather(table, category))}

        tf.saved_model.save(module, str(path), signatures={"serving_default": serve})

    conversion = _convert(tmp_path, models.saved_once(tmp_path_factory, "embedding_only", save), "int4")
    (variant,) = conversion.variants
    assert variant.failure is not None
    assert variant.failure.code == "inspection_failed"
    assert "No weight in the file is int4; its constants are float32 (128 bytes)" in variant.failure.message
    assert "GATHER, SIN" in variant.failure.message


def test_large_weights_stay_inside_the_flatbuffer(tmp_path: Path) -> None:
    # From 256 KiB on, ai-edge-quantizer puts them behind it.
    weights = _weights(768, 769)
    data = int4.quantize(_float_file(tmp_path, lambda x: tf.matmul(x, weights), 768))
    assert inspect_model(data).weight_bytes == {"int4": 768 * 769 // 2}
    model = schema.ModelT.InitFromPackedBuf(data, 0)
    assert {buffer.offset for buffer in model.buffers} == {0}
    root = schema.Model.GetRootAs(data, 0)
    for index in range(root.BuffersLength()):
        table = root.Buffers(index)
        if table.DataLength():
            assert table._tab.Vector(table._tab.Offset(4)) % 16 == 0
    x = np.random.default_rng(1).normal(size=(1, 768)).astype(np.float32)
    (result,) = SignatureRunner(data).run({"x": x}).values()
    expected = x @ weights.numpy()
    assert np.corrcoef(result[0], expected[0])[0, 1] > 0.98


def test_an_odd_number_of_elements_fills_half_a_byte(tmp_path: Path) -> None:
    weights = _weights(15, 33)
    data = int4.quantize(_float_file(tmp_path, lambda x: tf.matmul(x, weights), 15))
    assert inspect_model(data).weight_bytes == {"int4": (15 * 33 + 1) // 2}
    model = schema.ModelT.InitFromPackedBuf(data, 0)
    (buffer,) = (b for b in model.buffers if b.data is not None and len(b.data) == 248)
    buffer.data = buffer.data[:-1]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    with pytest.raises(ModelFileError, match=r"int4 tensor of shape \[33, 15\] needs 248 bytes and has 247"):
        inspect_model(bytes(builder.Output()))


@pytest.mark.parametrize(
    ("installed", "message"),
    [
        (None, "int4 weights need ai-edge-quantizer 0.10.0, which is not installed"),
        ("0.11.0", "need ai-edge-quantizer 0.10.0; 0.11.0 is installed, and its output was never checked"),
    ],
)
def test_only_the_pinned_version_is_used(monkeypatch: pytest.MonkeyPatch, installed: str | None, message: str) -> None:
    def version(name: str) -> str:
        assert name == "ai-edge-quantizer"
        if installed is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return installed

    monkeypatch.setattr(importlib.metadata, "version", version)
    with pytest.raises(failures.RecipeFailed) as caught:
        int4.quantize(b"")
    failure = failures.from_exception(BUILTIN_RECIPES["int4"], caught.value, "/work")
    assert failure.code == "missing_extra"
    assert message in failure.message
    assert "pip install 'tfx-mobile[int4]'" in failure.advice


def test_the_pin_is_the_extras() -> None:
    pyproject = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert f'int4 = ["{int4.PACKAGE}=={int4.VERSION}"]' in pyproject
