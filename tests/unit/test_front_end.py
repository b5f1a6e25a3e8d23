from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

from tests.fakes import models
from tfx_mobile.errors import ConversionError, SignatureError
from tfx_mobile.recipes import BUILTIN_RECIPES
from tfx_mobile.tflite.flatbuffer import inspect_model
from tfx_mobile.tflite.runtime import SignatureRunner
from tfx_mobile.tflite_converter import calibration, quantize
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


def test_defaults_of_dense_features(tmp_path: Path) -> None:
    spec = {
        "same": tf.io.FixedLenFeature([3], tf.float32, default_value=[0.5, 0.5, 0.5]),
        "different": tf.io.FixedLenFeature([2], tf.int64, default_value=[1, 2]),
        "nan": tf.io.FixedLenFeature([1], tf.float32, default_value=float("nan")),
        "text": tf.io.FixedLenFeature([1], tf.string, default_value="n/a"),
        "needed": tf.io.FixedLenFeature([1], tf.float32),
        "open": tf.io.FixedLenSequenceFeature([], tf.float32, allow_missing=True, default_value=7.0),
    }
    models.save_parsing_module(tmp_path / "m", spec, lambda f: {name: value[:] for name, value in f.items()})
    record = _frozen(tmp_path / "m").resign(tmp_path / "out", 1)
    # What is no single JSON number, or says nothing of how long a missing row is, is not recorded.
    assert {t.name: t.default for t in record.inputs} == {
        **{"same": 0.5, "text": "n/a"},
        **dict.fromkeys(("different", "nan", "needed", "open")),
    }


def _one_column(x: Any, default: Any, width: int = 1) -> Any:
    return tf.sparse.to_dense(tf.SparseTensor(x.indices, x.values, [x.dense_shape[0], width]), default)


def test_sparse_features_that_are_made_dense_become_inputs_with_their_default(tmp_path: Path) -> None:
    spec = {
        "hour": tf.io.VarLenFeature(tf.int64),
        "miles": tf.io.VarLenFeature(tf.float32),
        "pair": tf.io.VarLenFeature(tf.float32),
        "payment": tf.io.VarLenFeature(tf.string),
        "unused": tf.io.VarLenFeature(tf.float32),
        "x": X,
    }

    # Called as a function of its own, as a Keras layer and Transform's graph are.
    @tf.function
    def preprocess(f: Any) -> Any:
        return {
            "hour": _one_column(f["hour"], tf.constant(-1, tf.int64)),
            # Twice, as in TFX's taxi example, where the label is computed from a feature.
            "miles": _one_column(f["miles"], 0.25) + _one_column(f["miles"], 0.25),
            "pair": _one_column(f["pair"], 9.0, width=2),
            "payment": tf.sparse.to_dense(f["payment"], "unknown"),
            "unused": tf.sparse.to_dense(f["unused"]),
            "x": f["x"],
        }

    def model(f: Any) -> dict[str, Any]:
        dense = preprocess(f)
        return {name: dense[name][:] for name in dense if name != "unused"}

    models.save_parsing_module(tmp_path / "m", spec, model)
    frozen = _frozen(tmp_path / "m")
    for size, rows in ((1, 1), (3, 3), ("dynamic", -1)):
        record = frozen.resign(tmp_path / "out", size)  # type: ignore[arg-type]
        assert [(t.name, t.dtype, t.shape, t.default) for t in record.inputs] == [
            ("hour", "int64", (rows, 1), -1),
            ("miles", "float32", (rows, 1), 0.25),
            ("pair", "float32", (rows, 2), 9.0),
            ("payment", "string", (rows, 1), "unknown"),
            ("x", "float32", (rows, 2), None),
        ]
    examples = [
        models.serialize({"hour": 7, "miles": 1.5, "pair": [1.0, 2.0], "payment": "cash", "x": [1.0, 2.0]}),
        models.serialize({"pair": [3.0], "x": [3.0, 4.0]}),
    ]
    assert frozen.parse is not None
    # Also in a batch in which nobody has the feature, where TensorFlow makes a row of no columns.
    for batch in (examples, examples[1:]):
        features = frozen.parse(batch)
        expected = _run(tmp_path / "m", examples=tf.constant(batch))
        result = _run(tmp_path / "out", **{name: tf.constant(value) for name, value in features.items()})
        assert features["payment"].tolist() == [[b"cash"], [b"unknown"]][-len(batch) :]
        for name in expected.keys() - {"payment"}:
            assert result[name].tolist() == expected[name].tolist()


@pytest.mark.parametrize(
    ("feature", "model", "words"),
    [
        (tf.io.VarLenFeature(tf.float32), lambda s: tf.sparse.reduce_sum(s), "as sparse .*read by SparseReduceSum"),
        (
            tf.io.VarLenFeature(tf.float32),
            lambda s: _one_column(tf.SparseTensor(s.indices, tf.math.log(s.values), s.dense_shape), 0.0),
            "as sparse .*Log",
        ),
        (tf.io.RaggedFeature(tf.float32), lambda r: r.to_tensor(), "as ragged .tf.io.RaggedFeature"),
        (
            tf.io.VarLenFeature(tf.float32),
            lambda s: tf.reduce_sum(_one_column(s, 0.0)) + tf.reduce_sum(_one_column(s, 1.0)),
            r"dense in different ways: 1 wide with default 0\.0 in .*, 1 wide with default 1\.0",
        ),
    ],
)
def test_features_that_cannot_be_inputs(tmp_path: Path, feature: Any, model: Callable[[Any], Any], words: str) -> None:
    spec = {"x": X, "bad": feature}
    models.save_parsing_module(
        tmp_path / "used", spec, lambda f: {"y": tf.reduce_sum(f["x"]) + tf.reduce_sum(model(f["bad"]))}
    )
    with pytest.raises(SignatureError, match=rf"(?s)'bad'.*{words}.*run_fn.*signature_name=") as caught:
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


def _table(keys: Sequence[Any], values: Sequence[Any], default: Any) -> Any:
    entries = tf.lookup.KeyValueTensorInitializer(tf.constant(keys), tf.constant(values))
    return tf.lookup.StaticHashTable(entries, default)


def _as_int64(values: Sequence[int]) -> Any:
    return np.array(values, np.int64)


@pytest.mark.parametrize(
    ("make", "keys", "hash_ops"),
    [
        (lambda: _table(["b", "a"], _as_int64([5, 6]), -1), ["a", "b", "z", ""], 1),
        (lambda: _table(_as_int64([3, 1]), ["three", "one"], "?"), _as_int64([1, 2, 3, 4]), 1),
        # What TensorFlow Lite has no hash table for.
        (lambda: _table(["b", "a"], [0.5, 1.5], np.nan), ["a", "b", "z", ""], 1),
        (lambda: _table(_as_int64([3, 1]), _as_int64([30, 10]), -1), _as_int64([1, 2, 3, 4]), 0),
        (lambda: _table(_as_int64([3, 1]), [0.5, 1.5], 9.0), _as_int64([1, 2, 3, 4]), 0),
        (lambda: _vocabulary_table(["b", "a"]), ["a", "b", "z", ""], 1),
    ],
)
def test_lookup_tables_become_what_tflite_has(
    tmp_path: Path, make: Callable[[], Any], keys: Sequence[Any], hash_ops: int
) -> None:
    table = make()
    keys = np.array(keys)[:, None]
    dtype = tf.string if keys.dtype.kind == "U" else tf.int64

    def lookup(x: Any) -> dict[str, Any]:
        return {"size": tf.zeros(tf.shape(x), tf.int64) + table.size(), "y": table.lookup(x)}

    @models.traced(tf.TensorSpec([None, 1], dtype, name="x"))
    def raw(x: Any) -> dict[str, Any]:
        return lookup(x)

    @models.traced(tf.TensorSpec([None], tf.string, name="examples"))
    def parsing(examples: Any) -> dict[str, Any]:
        return lookup(tf.io.parse_example(examples, {"x": tf.io.FixedLenFeature([1], dtype)})["x"])

    expected = table.lookup(tf.constant(keys)).numpy()
    for name, function in (("raw", raw), ("parsing", parsing)):
        _save_raw(tmp_path / name, function, table=table)
        for size in (1, 4, "dynamic"):
            _frozen(tmp_path / name).resign(tmp_path / "out", size)  # type: ignore[arg-type]
            data = quantize.convert(
                BUILTIN_RECIPES["float32"], str(tmp_path / "out"), "serving_default", lambda: iter(())
            )
            ops = [op.name for op in inspect_model(data).ops]
            assert sum(op == "HASHTABLE_FIND" for op in ops) == hash_ops
            assert not any("Flex" in op for op in ops)
            result = SignatureRunner(data).run({"x": keys})
            np.testing.assert_array_equal(result["y"], expected)
            assert result["size"].tolist() == [[table.size().numpy()]] * 4


def _vocabulary_table(words: Sequence[str]) -> Any:
    entries = tf.lookup.KeyValueTensorInitializer(tf.constant(words), tf.range(len(words), dtype=tf.int64))
    return tf.lookup.StaticVocabularyTable(entries, num_oov_buckets=1)


@pytest.mark.parametrize("framework", [keras, tf_keras])
def test_keras_lookup_layers_are_builtin(tmp_path: Path, framework: Any) -> None:
    layers = framework.layers
    text = framework.Input((1,), dtype="string", name="s")
    number = framework.Input((1,), dtype="int64", name="i")
    masked = layers.StringLookup(vocabulary=["a", "b"], mask_token="")(text)
    indices = [
        layers.StringLookup(vocabulary=["a", "b"])(text),
        layers.IntegerLookup(vocabulary=[10, 20])(number),
        masked,
    ]
    embedded = [layers.Flatten()(layers.Embedding(5, 3)(index)) for index in indices]
    model = framework.Model({"s": text, "i": number}, layers.Dense(2)(layers.concatenate(embedded)))

    @models.traced(tf.TensorSpec([None, 1], tf.string, name="s"), tf.TensorSpec([None, 1], tf.int64, name="i"))
    def serve(s: Any, i: Any) -> dict[str, Any]:
        return {"y": model({"s": s, "i": i})}

    tf.saved_model.save(model, str(tmp_path / "m"), signatures={"serving_default": serve})
    features = {"s": np.array([["a"], ["z"], [""], ["b"]]), "i": np.array([[10], [20], [7], [0]])}
    (expected,) = _run(tmp_path / "m", **{name: tf.constant(value) for name, value in features.items()}).values()
    _frozen(tmp_path / "m").resign(tmp_path / "out", 1)
    data = quantize.convert(BUILTIN_RECIPES["float32"], str(tmp_path / "out"), "serving_default", lambda: iter(()))
    (result,) = SignatureRunner(data).run(features).values()
    np.testing.assert_allclose(result, expected, atol=1e-6)


def test_categories_stay_exact_in_integer_files(tmp_path: Path) -> None:
    """TensorFlow's quantizer takes categories through int8, and one-hot encodings to other values than 0 and 1."""
    weights = tf.constant(np.random.default_rng(0).normal(0, 1, (29, 8)), tf.float32)

    @models.traced(tf.TensorSpec([None, 1], tf.int64, name="c"), tf.TensorSpec([None, 4], tf.float32, name="x"))
    def serve(c: Any, x: Any) -> dict[str, Any]:
        encoded = tf.one_hot(tf.cast(tf.reshape(tf.cast(c, tf.float32), [-1]), tf.int32), 25)
        return {"y": tf.concat([encoded, x * 3], 1) @ weights}

    _save_raw(tmp_path / "m", serve)
    features = {"c": np.arange(25)[:, None], "x": np.random.default_rng(1).normal(0, 1, (25, 4)).astype(np.float32)}
    expected = _run(tmp_path / "m", **{name: tf.constant(value) for name, value in features.items()})["y"]
    _frozen(tmp_path / "m").resign(tmp_path / "out", 1)
    for recipe in ("full_integer", "integer_only_int8"):
        data = quantize.convert(
            BUILTIN_RECIPES[recipe], str(tmp_path / "out"), "serving_default", lambda: calibration.batches(features, 1)
        )
        result = SignatureRunner(data).run(features)["y"]
        np.testing.assert_allclose(result, expected, atol=0.02 * np.ptp(expected))


def test_resources_that_are_no_tables_to_look_up_in(tmp_path: Path) -> None:
    table = tf.lookup.experimental.MutableHashTable(tf.string, tf.int64, -1)
    large = _table(_as_int64(range(10_001)), _as_int64(range(10_001)), -1)

    def learn(x: Any) -> Any:
        table.insert(x, tf.ones_like(x, tf.int64))
        return table.lookup(x) + table.export()[1][:1]

    for name, dtype, function, words in (
        ("learns", tf.string, learn, r"uses a resource in LookupTableExportV2 \(.*run_fn and preprocessing_fn"),
        ("large", tf.int64, large.lookup, r"int64 keys in a table of 10001 entries.*10000.*run_fn"),
    ):

        @models.traced(tf.TensorSpec([None, 1], dtype, name="x"))
        def raw(x: Any, function: Any = function) -> dict[str, Any]:
            return {"y": function(x)}

        @models.traced(tf.TensorSpec([None], tf.string, name="examples"))
        def parsing(examples: Any, function: Any = function, dtype: Any = dtype) -> dict[str, Any]:
            return {"y": function(tf.io.parse_example(examples, {"x": tf.io.FixedLenFeature([1], dtype)})["x"])}

        _save_raw(tmp_path / f"raw-{name}", raw, table=table, large=large)
        with pytest.raises(CannotFreezeError, match=words):
            _frozen(tmp_path / f"raw-{name}")
        _save_raw(tmp_path / f"parsing-{name}", parsing, table=table, large=large)
        with pytest.raises(SignatureError, match=words):
            _frozen(tmp_path / f"parsing-{name}")


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
