"""What TFX's own examples save goes through the whole engine: front end, converter, inspection, preflight."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.fakes import conversions, models, tfx_models
from tfx_mobile.tflite.runtime import SignatureRunner
from tfx_mobile.tflite_converter import front_end
from tfx_mobile.tflite_converter.conversion import Conversion, convert


def _saved(tmp_path_factory: pytest.TempPathFactory, name: str, save: Callable[[Path, Path], None]) -> Path:
    path = models.saved_once(tmp_path_factory, name, lambda path: save(path, tmp_path_factory.mktemp(f"{name}_graph")))
    return path / "Format-Serving"


def _convert(
    tmp_path: Path, saved_model: Path, rows: Sequence[tfx_models.Inputs], *recipes: str, **changes: Any
) -> Conversion:
    job = conversions.new_job(tmp_path, saved_model, *recipes, rows=rows, **changes)
    return convert(job, deadline_seconds=120)


def _scores(saved_model: Path, rows: Sequence[tfx_models.Inputs], label: str) -> tuple[dict[str, Any], Any]:
    """What the cut-off half of `serving_default` makes of rows without their label, and what the whole returns."""
    examples = [models.serialize({name: row[name] for name in row if name != label}) for row in rows]
    signature = front_end.load_signature(saved_model, "serving_default")
    parse = front_end.FrozenSignature(signature).parse
    assert parse is not None
    (outputs,) = signature.function(examples=tf.constant(examples)).values()
    return parse(examples), outputs.numpy()


def _run(conversion: Conversion, recipe: str, features: dict[str, Any]) -> Any:
    variant = next(v for v in conversion.variants if v.name == recipe)
    assert variant.failure is None, variant.failure
    (outputs,) = SignatureRunner(conversion.files[recipe].read_bytes()).run(features).values()
    return outputs


@pytest.mark.parametrize(
    ("name", "save", "make_rows", "label"),
    [
        ("mnist", tfx_models.save_mnist, tfx_models.mnist_rows, "image_class"),
        ("penguin", tfx_models.save_penguin, tfx_models.penguin_rows, tfx_models.PENGUIN_LABEL),
    ],
)
def test_dense_features(
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    name: str,
    save: Callable[[Path, Path], None],
    make_rows: Callable[..., Any],
    label: str,
) -> None:
    saved_model = _saved(tmp_path_factory, name, save)
    conversion = _convert(tmp_path, saved_model, make_rows(60), "float32", "full_integer", "integer_only_int8")
    assert (conversion.route, conversion.parses_examples) == ("resigned", True)
    features, expected = _scores(saved_model, make_rows(60), label)
    assert [(t.name, t.default) for t in conversion.signature.inputs] == [(n, None) for n in sorted(features)]
    np.testing.assert_allclose(_run(conversion, "float32", features), expected, atol=1e-5)
    spread = np.ptp(expected)
    for recipe in ("full_integer", "integer_only_int8"):
        np.testing.assert_allclose(_run(conversion, recipe, features), expected, atol=0.05 * spread)


def test_taxi_is_refused_op_by_op_with_the_layers_they_come_from(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    saved_model = _saved(tmp_path_factory, "taxi", tfx_models.save_taxi)
    conversion = _convert(tmp_path, saved_model, tfx_models.taxi_rows(40), "float32", "full_integer")
    assert conversion.files == {}
    for variant in conversion.variants:
        failure = variant.failure
        assert failure is not None
        assert failure.code == "unsupported_ops"
        bincount, hashed, bound = failure.message.split(": ", 1)[1].split("), ")
        layers = bincount.removeprefix("DenseBincount (in ").split(", ")
        assert len(layers) == 3
        assert all("category_encoding" in layer for layer in layers)
        layer = r"\(in transform_features_layer(_\d+)?"
        assert re.match(rf"StringToHashBucketFast {layer}/compute_and_apply_vocabulary/", hashed)
        assert re.match(rf"UpperBound {layer}/bucketize/", bound)
        for words in ("output_mode='one_hot'", "num_oov_buckets=1", "preprocessing_fn", "allow_select_tf_ops=True"):
            assert words in failure.advice


def test_taxi_with_select_tf_ops_scores_as_the_signature_does(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    saved_model = _saved(tmp_path_factory, "taxi", tfx_models.save_taxi)
    recipes = ("float32", "full_integer", "mixed_precision", "int4", "integer_only_int8", "int16x8")
    conversion = _convert(tmp_path, saved_model, tfx_models.taxi_rows(60), *recipes, allow_select_tf_ops=True)
    assert conversion.route == "resigned"
    assert [(t.name, t.dtype, t.shape, t.default) for t in conversion.signature.inputs] == [
        ("fare", "float32", (1, 1), 0.0),
        ("payment_type", "string", (1, 1), ""),
        ("pickup_latitude", "float32", (1, 1), 0.0),
        ("trip_miles", "float32", (1, 1), 0.0),
        ("trip_start_hour", "int64", (1, 1), 0),
    ]
    by_name = {variant.name: variant for variant in conversion.variants}
    for name in ("float32", "full_integer", "mixed_precision", "int4"):
        variant = by_name[name]
        assert variant.file is not None, variant.failure
        assert variant.file.select_tf_ops == ("FlexDenseBincount", "FlexStringToHashBucketFast", "FlexUpperBound")
        assert variant.file.custom_ops == ()
        assert variant.runtime == f"tensorflow {tf.__version__}"
    for name, words in (
        ("integer_only_int8", "Select TensorFlow ops compute in float: FlexDenseBincount, FlexUpperBound"),
        ("int16x8", "16x8 bit fails on what a lookup table returns: .*compute_and_apply_vocabulary"),
    ):
        failure = by_name[name].failure
        assert failure is not None
        assert re.search(words, failure.message)
    # Every feature is missing in some row, and all of them in the first.
    features, expected = _scores(saved_model, tfx_models.taxi_rows(40, seed=3), tfx_models.TAXI_LABEL)
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(_run(conversion, "float32", features), expected, atol=1e-6)
    np.testing.assert_allclose(_run(conversion, "full_integer", features), expected, atol=0.05)


def test_taxi_changed_as_advised_needs_builtin_ops_only(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    save = functools.partial(tfx_models.save_taxi, builtin_ops=True)
    saved_model = _saved(tmp_path_factory, "builtin_taxi", save)
    rows = tfx_models.taxi_rows(60)
    recipes = ("float32", "integer_only_int8")
    # Select TensorFlow ops are allowed and not needed: then none are used.
    allowed = _convert(tmp_path, saved_model, rows, *recipes, allow_select_tf_ops=True)
    features, expected = _scores(saved_model, rows, tfx_models.TAXI_LABEL)
    np.testing.assert_allclose(_run(allowed, "float32", features), expected, atol=1e-6)
    np.testing.assert_allclose(_run(allowed, "integer_only_int8", features), expected, atol=0.08)
    for variant in allowed.variants:
        assert variant.file is not None
        assert variant.file.select_tf_ops == ()
        assert "HASHTABLE_FIND" in [op.name for op in variant.file.ops]
        assert variant.runtime is not None
        assert variant.runtime.startswith("ai-edge-litert ")
    # Strings are no floats, so integer inputs leave them alone.
    integer_only = allowed.variants[1].file
    assert integer_only is not None
    assert [t.dtype for t in integer_only.signature().inputs] == ["int8", "string", "int8", "int8", "int64"]
