from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.fakes import models
from tfx_mobile.errors import ConversionError, SignatureError
from tfx_mobile.tflite_converter.front_end import CannotFreezeError, FrozenSignature, load_signature

X = tf.io.FixedLenFeature([2], tf.float32)


def _frozen(path: Path) -> FrozenSignature:
    return FrozenSignature(load_signature(path, "serving_default"))


def _save_raw(path: Path, function: Callable[..., Any], **attributes: Any) -> None:
    module = tf.Module()
    for name, value in attributes.items():
        setattr(module, name, value)
    tf.saved_model.save(module, str(path), signatures={"serving_default": function})


def _run(path: Path, **inputs: Any) -> dict[str, Any]:
    loaded = tf.saved_model.load(str(path))
    return {name: value.numpy() for name, value in loaded.signatures["serving_default"](**inputs).items()}


def test_parsing_is_cut_off_and_names_and_defaults_stay(tmp_path: Path) -> None:
    spec = {
        "petal length/cm": X,
        "count": tf.io.FixedLenFeature([1], tf.int64, default_value=5),
        "label": tf.io.FixedLenFeature([1], tf.int64),
    }
    models.save_parsing_module(
        tmp_path / "m",
        spec,
        lambda f: {"out put": f["petal length/cm"] * tf.cast(f["count"], tf.float32), "again": f["count"] + 1},
    )
    frozen = _frozen(tmp_path / "m")
    for size, rows in ((1, 1), ("dynamic", -1), (3, 3)):
        record = frozen.resign(tmp_path / "out", size)  # type: ignore[arg-type]
        # The label is parsed and not used, so nobody has to feed it.
        assert [(t.name, t.dtype, t.shape) for t in record.inputs] == [
            ("count", "int64", (rows, 1)),
            ("petal length/cm", "float32", (rows, 2)),
        ]
        assert [(t.name, t.dtype, t.shape) for t in record.outputs] == [
            ("again", "int64", (rows, 1)),
            ("out put", "float32", (rows, 2)),
        ]
    assert frozen.parse is not None
    features = frozen.parse([models.serialize({"petal length/cm": [1.5, 2.0], "label": 1})])
    assert features["petal length/cm"].tolist() == [[1.5, 2.0]]
    assert features["count"].tolist() == [[5]]


def test_legacy_parse_op(tmp_path: Path) -> None:
    @models.traced(tf.TensorSpec([None], tf.string, name="examples"))
    def serve(examples: Any) -> dict[str, Any]:
        parsed = tf.raw_ops.ParseExample(
            serialized=examples,
            names=[],
            sparse_keys=["tags"],
            dense_keys=["a", "b"],
            dense_defaults=[tf.constant([], tf.float32), tf.constant([7], tf.int64)],
            sparse_types=[tf.int64],
            dense_shapes=[[2], [1]],
        )
        return {"y": parsed.dense_values[0] + tf.cast(parsed.dense_values[1], tf.float32)}

    _save_raw(tmp_path / "m", serve)
    frozen = _frozen(tmp_path / "m")
    record = frozen.resign(tmp_path / "out", "dynamic")
    assert [t.name for t in record.inputs] == ["a", "b"]
    assert frozen.parse is not None
    assert frozen.parse([models.serialize({"a": [1.0, 2.0]})])["b"].tolist() == [[7]]
    result = _run(tmp_path / "out", a=tf.constant([[1.0, 2.0]]), b=tf.constant([[3]], tf.int64))
    assert result["y"].tolist() == [[4.0, 5.0]]


@pytest.mark.parametrize(
    ("feature", "model", "words"),
    [
        (tf.io.VarLenFeature(tf.float32), tf.sparse.to_dense, "'bad' as sparse .tf.io.VarLenFeature"),
        (tf.io.RaggedFeature(tf.float32), lambda r: r.to_tensor(), "'bad' as ragged .tf.io.RaggedFeature"),
        (
            tf.io.FixedLenFeature([1], tf.string),
            lambda s: tf.cast(tf.strings.length(s), tf.float32),
            "'bad' as a string",
        ),
    ],
)
def test_features_that_cannot_be_inputs(tmp_path: Path, feature: Any, model: Callable[[Any], Any], words: str) -> None:
    spec = {"x": X, "bad": feature}
    models.save_parsing_module(
        tmp_path / "used", spec, lambda f: {"y": tf.reduce_sum(f["x"]) + tf.reduce_sum(model(f["bad"]))}
    )
    with pytest.raises(SignatureError, match=rf"{words}.*run_fn.*signature_name=") as caught:
        _frozen(tmp_path / "used")
    assert "'x'" not in str(caught.value)
    models.save_parsing_module(tmp_path / "unused", spec, lambda f: {"y": f["x"] * 2})
    assert [t.name for t in _frozen(tmp_path / "unused").resign(tmp_path / "out", 1).inputs] == ["x"]


def test_parsing_twice_and_other_uses_of_the_examples(tmp_path: Path) -> None:
    @models.traced(tf.TensorSpec([None], tf.string, name="examples"))
    def twice(examples: Any) -> dict[str, Any]:
        return {"y": tf.io.parse_example(examples, {"a": X})["a"] + tf.io.parse_example(examples, {"b": X})["b"]}

    @models.traced(tf.TensorSpec([None], tf.string, name="examples"))
    def length(examples: Any) -> dict[str, Any]:
        parsed = tf.io.parse_example(examples, {"a": X})["a"]
        return {"y": parsed + tf.cast(tf.strings.length(examples), tf.float32)[:, None]}

    _save_raw(tmp_path / "twice", twice)
    with pytest.raises(SignatureError, match=r"parses tf\.Examples in 2 places"):
        _frozen(tmp_path / "twice")
    _save_raw(tmp_path / "length", length)
    with pytest.raises(SignatureError, match="uses its input 'examples' for something else"):
        _frozen(tmp_path / "length")


def test_unknown_signature_and_no_saved_model(tmp_path: Path) -> None:
    models.save_parsing_module(tmp_path / "m", {"x": X}, lambda f: {"y": f["x"]})
    with pytest.raises(SignatureError, match=r"no signature 'nope'\. It has: serving_default\."):
        load_signature(tmp_path / "m", "nope")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "saved_model.pb").write_bytes(b"no protobuf")
    with pytest.raises(ConversionError, match="cannot load the SavedModel"):
        load_signature(tmp_path / "damaged", "serving_default")


def test_batch_size_fixed_by_the_signature(tmp_path: Path) -> None:
    @models.traced(tf.TensorSpec([4, 2], tf.float32, name="x"))
    def serve(x: Any) -> dict[str, Any]:
        return {"y": x * 2}

    _save_raw(tmp_path / "m", serve)
    frozen = _frozen(tmp_path / "m")
    assert frozen.resign(tmp_path / "out", 4).inputs[0].shape == (4, 2)
    for size in (1, "dynamic"):
        with pytest.raises(SignatureError, match=rf"batch_size={size!r}.*\[4, 2\].*'x'.*Pass batch_size=4"):
            frozen.resign(tmp_path / "out", size)


def test_input_without_batch_dimension(tmp_path: Path) -> None:
    @models.traced(tf.TensorSpec([], tf.float32, name="temperature"))
    def serve(temperature: Any) -> dict[str, Any]:
        return {"y": temperature * 2}

    _save_raw(tmp_path / "m", serve)
    with pytest.raises(SignatureError, match=r"'temperature'.*has shape \(\).*batch dimension first"):
        load_signature(tmp_path / "m", "serving_default")


def _table() -> Any:
    entries = tf.lookup.KeyValueTensorInitializer(tf.constant([1, 2], tf.int64), tf.constant([10.0, 20.0]))
    return tf.lookup.StaticHashTable(entries, 0.0)


def test_lookup_tables(tmp_path: Path) -> None:
    table = _table()

    @models.traced(tf.TensorSpec([None, 1], tf.int64, name="x"))
    def raw(x: Any) -> dict[str, Any]:
        return {"y": table.lookup(x)}

    @models.traced(tf.TensorSpec([None], tf.string, name="examples"))
    def parsing(examples: Any) -> dict[str, Any]:
        return {"y": table.lookup(tf.io.parse_example(examples, {"x": tf.io.FixedLenFeature([1], tf.int64)})["x"])}

    _save_raw(tmp_path / "raw", raw, table=table)
    with pytest.raises(CannotFreezeError, match=r"1 resource\(s\) that are not variables"):
        _frozen(tmp_path / "raw")
    _save_raw(tmp_path / "parsing", parsing, table=table)
    with pytest.raises(SignatureError, match=r"lookup tables.*run_fn"):
        _frozen(tmp_path / "parsing")


def test_what_is_constant_at_a_fixed_batch_size_is_folded(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    frozen = _frozen(models.serving_model(tmp_path_factory) / "Format-Serving")
    frozen.resign(tmp_path / "out", 1)
    graph = tf.saved_model.load(str(tmp_path / "out")).signatures["serving_default"].graph
    assert {"ZerosLike", "ParseExampleV2"}.isdisjoint(op.type for op in graph.get_operations())


def test_raw_keras_export_gives_equal_outputs(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    source = models.raw_model(tmp_path_factory) / "Format-Serving"
    frozen = _frozen(source)
    assert frozen.parse is None
    frozen.resign(tmp_path / "out", "dynamic")
    images = tf.constant(models.images(models.rows(8, seed=5)))
    expected = _run(source, image=images)["output_0"]
    np.testing.assert_allclose(_run(tmp_path / "out", image=images)["output_0"], expected, atol=1e-6)
