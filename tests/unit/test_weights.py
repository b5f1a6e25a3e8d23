"""Pruned and clustered models, made with tensorflow-model-optimization, and what their files say of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from tests.fakes import models, qat_models, tflite_files
from tfx_mobile.recipes import BUILTIN_RECIPES
from tfx_mobile.records import ModelFileRecord, WeightsRecord
from tfx_mobile.tflite import weights
from tfx_mobile.tflite.flatbuffer import inspect_model
from tfx_mobile.tflite_converter import front_end, quantize

SPARSITY, CLUSTERS = 0.7, 8


def _dense() -> Any:
    """A tf_keras network with 5,184 seeded weights in two matrices."""
    import tf_keras

    layers = tf_keras.layers
    model = tf_keras.Sequential(
        [
            layers.Input((models.PIXELS,), name=models.IMAGE),
            layers.Dense(64, activation="relu"),
            layers.Dense(64, activation="relu"),
            layers.Dense(models.CLASSES, activation="softmax"),
        ]
    )
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(0, 0.3, w.shape).astype(np.float32) for w in model.get_weights()])
    return model


def _fit(model: Any, callbacks: tuple[Any, ...] = ()) -> None:
    import tf_keras

    rows = models.rows(30)
    labels = np.array([row[models.LABEL] for row in rows])
    # A learning rate of zero: what is left is what the toolkit itself does to the weights.
    model.compile(tf_keras.optimizers.SGD(0.0), loss="sparse_categorical_crossentropy")
    model.fit(models.images(rows), labels, epochs=1, verbose=0, callbacks=list(callbacks))


def _pruned() -> Any:
    import tf_keras

    with qat_models.optimization_toolkit() as tfmot:
        sparsity = tfmot.sparsity.keras
        # Pruning shares its weights with the model it is given; the dense twin must not be pruned with it.
        base = tf_keras.models.clone_model(dense := _dense())
        base.set_weights(dense.get_weights())
        model = sparsity.prune_low_magnitude(base, sparsity.ConstantSparsity(SPARSITY, begin_step=0, frequency=1))
        _fit(model, (sparsity.UpdatePruningStep(),))
        return sparsity.strip_pruning(model)


def _clustered() -> Any:
    with qat_models.optimization_toolkit() as tfmot:
        clustering = tfmot.clustering.keras
        initialization = clustering.CentroidInitialization.LINEAR
        model = clustering.cluster_weights(_dense(), CLUSTERS, initialization)
        _fit(model)
        return clustering.strip_clustering(model)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], ModelFileRecord]:
    """File records by kind of model and recipe, converted as the converter's child does it."""
    made = {}
    for kind, model in (("dense", _dense()), ("pruned", _pruned()), ("clustered", _clustered())):
        root: Path = tmp_path_factory.mktemp(kind)
        qat_models.save(root / "saved", model)
        frozen = front_end.FrozenSignature(front_end.load_signature(root / "saved", "serving_default"))
        frozen.resign(root / "resigned", 1)
        for recipe in ("float32", "dynamic_range"):
            data = quantize.convert(BUILTIN_RECIPES[recipe], str(root / "resigned"), "serving_default", None)
            made[kind, recipe] = inspect_model(data)
    return made


@pytest.mark.parametrize("recipe", ["float32", "dynamic_range"])
def test_pruning_and_clustering_pay_in_the_compressed_size_only(
    files: dict[tuple[str, str], ModelFileRecord], recipe: str
) -> None:
    dense = files["dense", recipe]
    for kind in ("pruned", "clustered"):
        made = files[kind, recipe]
        assert made.size_bytes == pytest.approx(dense.size_bytes, rel=0.01)
        assert made.gzip_bytes < 0.75 * dense.gzip_bytes


@pytest.mark.parametrize("recipe", ["float32", "dynamic_range"])
def test_zeros_and_distinct_values_tell_which_was_done(
    files: dict[tuple[str, str], ModelFileRecord], recipe: str
) -> None:
    found = {kind: files[kind, recipe].weights for kind in ("dense", "pruned", "clustered")}
    for record in found.values():
        assert record is not None
        assert record.num_elements == 16 * 64 + 64 * 64 + 64 * 3
    assert found["dense"].share_of_zeros < 0.05  # type: ignore[union-attr]
    assert found["pruned"].share_of_zeros == pytest.approx(SPARSITY, abs=0.05)  # type: ignore[union-attr]
    assert found["clustered"].max_distinct_values == CLUSTERS  # type: ignore[union-attr]
    unlike = found["dense"].max_distinct_values  # type: ignore[union-attr]
    assert unlike is None if recipe == "float32" else unlike is not None and unlike > 100


def test_zero_is_the_zero_point() -> None:
    model = _one_tensor(schema.TensorType.UINT8, np.array([[7, 7, 0], [1, 7, 9]], np.uint8), zero_point=7)
    assert weights.describe(model) == WeightsRecord(num_elements=6, num_zeros=3, max_distinct_values=4)


def test_two_int4_weights_share_a_byte() -> None:
    # Low half first: 1, -1, 0, 7, -8 and one half of padding.
    model = _one_tensor(schema.TensorType.INT4, np.array([0xF1, 0x70, 0x08], np.uint8), shape=[1, 5])
    assert weights.describe(model) == WeightsRecord(num_elements=5, num_zeros=1, max_distinct_values=5)


@pytest.mark.parametrize(("distinct", "counted"), [(256, 256), (257, None)])
def test_many_distinct_values_are_not_counted(distinct: int, counted: int | None) -> None:
    values = np.arange(10_000, dtype=np.float32).reshape(100, 100) // 1 % distinct
    record = weights.describe(_one_tensor(schema.TensorType.FLOAT32, values))
    assert record.max_distinct_values == counted
    # Also where the first of many values are all alike.
    late = np.concatenate([np.zeros(8_000), np.arange(distinct - 1) + 1.0]).astype(np.float32)
    record = weights.describe(_one_tensor(schema.TensorType.FLOAT32, late[None]))
    assert record.max_distinct_values == counted


def test_a_file_without_matrices_has_no_weights() -> None:
    record = weights.describe(_one_tensor(schema.TensorType.FLOAT32, np.zeros(5, np.float32)))
    assert record == WeightsRecord(num_elements=0, num_zeros=0, max_distinct_values=0)
    assert record.share_of_zeros == 0.0


def _one_tensor(dtype: int, values: Any, shape: list[int] | None = None, zero_point: int = 0) -> Any:
    """A real file's tables with one constant tensor in them."""
    model = schema.ModelT.InitFromPackedBuf(tflite_files.dense("float32"), 0)
    (subgraph,) = model.subgraphs
    tensor = subgraph.tensors[0]
    subgraph.tensors = [tensor]
    tensor.type, tensor.shape = dtype, np.array(values.shape if shape is None else shape, np.int32)
    tensor.quantization = schema.QuantizationParametersT()
    tensor.quantization.zeroPoint = np.array([zero_point])
    model.buffers[tensor.buffer].data = np.ravel(values).view(np.uint8)
    return model
