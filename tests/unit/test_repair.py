"""Accuracy repair on a real network that int8 destroys, and on ones that it does not harm."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from tests.fakes import conversions, models, outlier_mlp
from tfx_mobile.errors import CalibrationError
from tfx_mobile.recipes import BUILTIN_RECIPES, CalibrationSpec, ConversionRecipe, RepairSpec
from tfx_mobile.records import RepairRecord
from tfx_mobile.tflite.runtime import SignatureRunner
from tfx_mobile.tflite_converter import repair
from tfx_mobile.tflite_converter.conversion import Conversion, convert
from tfx_mobile.tflite_converter.recipe_runner import RecipeRunner

Run = Callable[..., Conversion]


@pytest.fixture(scope="module")
def outlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("outlier")
    outlier_mlp.save(root / "model")
    models.write_records(root / "train.gz", map(models.serialize, outlier_mlp.rows(1200)))
    return root


@pytest.fixture
def run(outlier: Path, tmp_path: Path) -> Run:
    """Converts the outlier network; 200 of its 1200 training examples calibrate."""

    def run(*recipes: str | ConversionRecipe, **changes: Any) -> Conversion:
        fields = {"calibration": CalibrationSpec(), "example_files": (str(outlier / "train.gz"),), **changes}
        return convert(conversions.new_job(tmp_path, outlier / "model", *recipes, **fields), deadline_seconds=120)

    return run


def _repairing(name: str = "repaired", **bounds: Any) -> ConversionRecipe:
    return ConversionRecipe(name=name, quantization="mixed_precision", repair=RepairSpec(**bounds))


def _accuracy(conversion: Conversion, name: str) -> float:
    points, labels = outlier_mlp.data(2000, seed=5)
    data = conversion.files[name].read_bytes()
    outputs = SignatureRunner(data).run({outlier_mlp.INPUT: points})["output_0"]
    return float((outputs.argmax(axis=1) == labels).mean())


def _sizes(conversion: Conversion) -> dict[str, int]:
    return {name: path.stat().st_size for name, path in conversion.files.items()}


def _record(conversion: Conversion, name: str) -> RepairRecord:
    (variant,) = (v for v in conversion.variants if v.name == name)
    assert variant.repair is not None
    return variant.repair


def test_the_outlier_network_comes_back_with_and_without_labels(run: Run) -> None:
    labelled = _repairing("labelled", label=outlier_mlp.LABEL)
    conversion = run("float32", "full_integer", "int16x8", "mixed_precision", labelled)
    float_accuracy = _accuracy(conversion, "float32")
    assert float_accuracy > 0.85
    assert _accuracy(conversion, "full_integer") < 0.4
    assert _accuracy(conversion, "int16x8") < 0.4
    sizes = _sizes(conversion)
    for name, measure in (("mixed_precision", "agreement"), ("labelled", "accuracy")):
        assert _accuracy(conversion, name) >= float_accuracy - 0.005
        assert sizes[name] < 0.9 * sizes["float32"]
        record = _record(conversion, name)
        assert (record.measure, record.repaired, record.reasons) == (measure, True, ())
        # Neither layer helps by itself: only between the two do the values stay in float.
        assert [layer.split("/")[-2] for layer in record.float_layers] == ["second_1", "third_1"]
        alone = [trial.quality for trial in record.trials if len(trial.float_layers) == 1]
        assert alone
        assert max(quality for quality in alone if quality is not None) < 0.4
        assert record.quality is not None
        assert record.quality >= record.float_quality - 0.005
        assert (record.num_examples, record.num_calibrated) == (500, 0)
        assert record.size_ratio == sizes[name] / sizes["float32"]
        assert {v.calibrated for v in conversion.variants if v.name == name} == {"shared"}

    # The record replays as a plain recipe, in another process and without a search.
    plain = _record(conversion, "mixed_precision").replay
    assert plain.quantization == "full_integer"
    replayed = run(plain)
    assert replayed.files[plain.name].read_bytes() == conversion.files["mixed_precision"].read_bytes()
    assert [(v.repair, v.calibrated) for v in replayed.variants] == [(None, "shared")]


def test_a_model_that_quantization_does_not_harm_stays_as_it_is(
    run: Run, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    models.write_records(tmp_path / "raw.gz", map(models.serialize, models.rows(60)))
    model = models.raw_model(tmp_path_factory) / "Format-Serving"
    conversion = run(
        "full_integer", "mixed_precision", saved_model=str(model), example_files=(str(tmp_path / "raw.gz"),)
    )
    record = _record(conversion, "mixed_precision")
    assert (record.repaired, record.float_layers, record.trials) == (True, (), ())
    files = conversion.files
    assert files["mixed_precision"].read_bytes() == files["full_integer"].read_bytes()
    # All 60 examples calibrate, so the layers are judged on the same ones, and the record says so.
    assert (record.num_examples, record.num_calibrated) == (60, 60)


def test_out_of_reach_within_the_bounds(run: Run) -> None:
    small = _repairing("small", max_size_ratio=0.5)
    conversion = run(small, _repairing("hasty", max_trials=2))
    record = _record(conversion, "small")
    assert not record.repaired
    assert record.size_ratio <= 0.5
    assert "quality" in record.reasons[0]
    assert "max_size_ratio=0.5 allows" in record.reasons[1]
    hasty = _record(conversion, "hasty")
    assert (hasty.repaired, len(hasty.trials)) == (False, 2)
    assert hasty.reasons[-1] == "All max_trials=2 trials were used up."
    assert sorted(conversion.files) == ["hasty", "small"]


def test_names_and_labels_that_do_not_exist(run: Run) -> None:
    misspelt = ConversionRecipe(name="misspelt", quantization="full_integer", float_layers=("no/such/layer",))
    conversion = run("full_integer", misspelt)
    failure = conversion.variants[1].failure
    assert failure is not None
    assert (failure.code, sorted(conversion.files)) == ("unknown_layers", ["full_integer"])
    assert "no layers ['no/such/layer']. It has: ['" in failure.message
    assert failure.message.count("/second_1/MatMul") == 1
    with pytest.raises(CalibrationError, match=r"RepairSpec\.label='klass' is no integer feature .*Name the feature"):
        run(_repairing(label="klass"))


def test_outputs_that_are_no_classes(tmp_path: Path) -> None:
    image = keras.Input((4,), name="x")
    keras.utils.set_random_seed(0)
    network = keras.Model(image, {"a": keras.layers.Dense(1)(image), "b": keras.layers.Dense(3)(image)})
    network.export(str(tmp_path), format="tf_saved_model", verbose=False)
    converter = tf.lite.TFLiteConverter.from_saved_model(str(tmp_path), signature_keys=["serving_default"])
    data = converter.convert()
    values = {"x": np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)}

    judge = repair._Judge(data, repair.Examples(values, None, 0))
    assert (judge.float_quality, judge.quality(data), judge.num_examples) == (1.0, 1.0, 40)
    assert judge.quality(b"no model") == -np.inf
    # The last layer's weights are not in the middle of the range: a shifted regression output does not agree.
    network.layers[-2].set_weights([w + 0.7 for w in network.layers[-2].get_weights()])
    network.export(str(tmp_path / "shifted"), format="tf_saved_model", verbose=False)
    converter = tf.lite.TFLiteConverter.from_saved_model(str(tmp_path / "shifted"), signature_keys=["serving_default"])
    assert judge.quality(converter.convert()) < 0.5

    with pytest.raises(repair.failures.RecipeFailed, match=r"one float output \[batch, classes\]; this one has"):
        repair._Judge(data, repair.Examples(values, np.zeros(40, np.int64), 0))


def test_ranking_by_quantization_error_would_pick_the_wrong_layer(outlier: Path) -> None:
    """Why layers are measured: by RMSE over scale, which TensorFlow's guide ranks by, the culprit looks best."""
    points, _ = outlier_mlp.data(100, seed=2)

    def representative() -> Iterator[dict[str, Any]]:
        return ({outlier_mlp.INPUT: point[None]} for point in points)

    converter = tf.lite.TFLiteConverter.from_saved_model(str(outlier / "model"), signature_keys=["serving_default"])
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = representative
    debugger = tf.lite.experimental.QuantizationDebugger(
        converter=converter, debug_dataset=lambda: ([point[None]] for point in points)
    )
    debugger.run()
    text = io.StringIO()
    debugger.layer_statistics_dump(text)
    text.seek(0)
    table = pd.read_csv(text)
    score = np.sqrt(table.mean_squared_error) / table.scale
    layers = table.tensor_name.str.extract(r"(first|second|third)_1")[0].fillna("softmax")
    assert score[layers == "second"].item() < score[layers == "first"].item()
    assert score[layers == "second"].item() < score[layers == "third"].item()


def test_the_public_converter_alone_repairs_too(outlier: Path, tmp_path: Path) -> None:
    """Where a calibration cannot be shared: the same layers, through TensorFlow's QuantizationDebugger."""
    points, _ = outlier_mlp.data(300, seed=2)
    calls = 0

    def representative() -> Iterator[dict[str, Any]]:
        nonlocal calls
        calls += 1
        return ({outlier_mlp.INPUT: point[None]} for point in points[:100])

    runner = RecipeRunner(
        str(outlier / "model"),
        "serving_default",
        representative,
        lambda _: repair.Examples({outlier_mlp.INPUT: points[100:]}, None, 0),
        tmp_path,
        lambda: None,
        may_share=False,
    )
    made = runner.run(BUILTIN_RECIPES["mixed_precision"])
    assert made.calibrated == "own"
    assert calls == 2, "one for full_integer, one for all trials"
    assert made.repair is not None
    assert made.repair.repaired
    assert [layer.split("/")[-2] for layer in made.repair.float_layers] == ["second_1", "third_1"]
    assert runner.run(made.repair.replay).data == made.data
