from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tfx.orchestration.data_types import RuntimeParameter
from tfx.types import Channel
from tfx.types.standard_artifacts import Examples, Model, Schema, TransformGraph

from tests.fakes import models, outlier_mlp
from tfx_mobile import CalibrationSpec, ConversionRecipe, TFLiteConverter, TFLiteVariants
from tfx_mobile.errors import CalibrationError, ConversionError, RecipeError, SignatureError
from tfx_mobile.recipes import BUILTIN_RECIPES
from tfx_mobile.records import VariantManifest, sha256_of
from tfx_mobile.tflite.profiles import PROFILES
from tfx_mobile.tflite.runtime import SignatureRunner
from tfx_mobile.tflite_converter.executor import Executor

EVAL_ROWS = models.rows(12, seed=5)


class Step:
    """Runs the executor as TFX does and looks at what it wrote."""

    def __init__(self, output: Path) -> None:
        self.variants = TFLiteVariants()
        self.variants.uri = str(output)
        self.output = output
        # TFX's launcher makes the folder before it calls the executor.
        output.mkdir()

    def run(self, model: Path, recipes: Any, examples: Any = None, **parameters: Any) -> VariantManifest:
        inputs = {"model": [models.model_artifact(model)], "unknown": []}
        if examples is not None:
            inputs["examples"] = [examples]
        for key in ("transform_graph", "schema"):
            if key in parameters:
                inputs[key] = [parameters.pop(key)]
        Executor().Do(inputs, {"variants": [self.variants]}, {"recipes": recipes, **parameters})
        return VariantManifest.read(self.output / "manifest.json")

    def predict(self, variant: str, **features: Any) -> dict[str, Any]:
        data = (self.output / variant / "model.tflite").read_bytes()
        return SignatureRunner(data, "serving_default").run(features)


@pytest.fixture
def step(tmp_path: Path) -> Step:
    return Step(tmp_path / "variants")


@pytest.fixture
def examples(tmp_path: Path) -> Any:
    return models.write_examples(tmp_path / "examples", {"train": models.rows(60), "eval": EVAL_ROWS})


def _serving_output(model: Path, **inputs: Any) -> dict[str, Any]:
    loaded = tf.saved_model.load(str(model / "Format-Serving"))
    return {name: value.numpy() for name, value in loaded.signatures["serving_default"](**inputs).items()}


# --- what it makes ----------------------------------------------------------------------------------------------------


def test_every_recipe_from_a_signature_that_parses_examples(
    step: Step, examples: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    model = models.serving_model(tmp_path_factory)
    calibration = '{"split": "train", "num_samples": 40, "seed": 1}'
    names = [name for name, recipe in BUILTIN_RECIPES.items() if not recipe.quantization_aware]
    manifest = step.run(model, json.dumps(names), examples, calibration=calibration)

    assert [(v.name, v.failure) for v in manifest.variants] == [(name, None) for name in names]
    assert (manifest.source.route, manifest.source.parses_examples) == ("resigned", True)
    assert [(t.name, t.shape) for t in manifest.source.inputs] == [("image", (1, 16))]
    assert manifest.calibration is not None
    assert (manifest.calibration.num_samples, manifest.calibration.num_examples) == (40, 60)
    assert (manifest.calibration.source, manifest.calibration.num_leaked) == ("signature", 0)
    assert set(manifest.versions) == {"tfx-mobile", "tensorflow", "ai-edge-litert", "ai-edge-quantizer"}
    serialized = tf.constant([models.serialize({"image": row["image"]}) for row in EVAL_ROWS])
    expected = _serving_output(model, examples=serialized)["probabilities"]
    for variant in manifest.variants:
        assert variant.file is not None
        assert variant.path == f"{variant.name}/model.tflite"
        folder = step.output / variant.name
        assert sha256_of((folder / "model.tflite").read_bytes()) == variant.file.sha256
        assert ConversionRecipe(**json.loads((folder / "recipe.json").read_bytes())) == variant.recipe
        assert variant.recipe.batch_size == 1
        result = step.predict(variant.name, image=models.images(EVAL_ROWS))["probabilities"]
        tolerance = 1e-6 if variant.name == "float32" else 2e-3 if variant.name == "float16" else 0.06
        np.testing.assert_allclose(result, expected, atol=tolerance)
        (image,), (output,) = variant.file.signature().inputs, variant.file.signature().outputs
        assert {image.dtype, output.dtype} == {variant.recipe.io_dtype}
    integer_only = [v.file for v in manifest.variants if v.recipe.quantization == "integer_only"]
    assert [op for file in integer_only if file for op in file.ops if op.float_count] == []
    written = {path.name: path.stat().st_mtime_ns for path in step.output.rglob("*.*")}
    assert written["manifest.json"] == max(written.values())
    assert step.variants.get_int_custom_property("num_variants") == len(names)
    assert step.variants.get_int_custom_property("num_failed") == 0
    assert step.variants.get_string_custom_property("source_sha256") == manifest.source.sha256


def test_raw_signature_with_open_batch_size_and_own_recipe(
    step: Step, examples: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    model = models.raw_model(tmp_path_factory)
    recipes = ["float32", "full_integer", {"name": "by_four", "quantization": "full_integer", "batch_size": 4}]
    manifest = step.run(model, recipes, examples, batch_size="dynamic", deadline_seconds=120.0)
    assert [v.recipe.batch_size for v in manifest.variants] == ["dynamic", "dynamic", 4]
    assert [v.file and v.file.signature().inputs[0].shape[0] for v in manifest.variants] == [-1, -1, 4]
    images = models.images(EVAL_ROWS)
    expected = _serving_output(model, image=tf.constant(images))["output_0"]
    np.testing.assert_allclose(step.predict("float32", image=images)["output_0"], expected, atol=1e-6)
    np.testing.assert_allclose(step.predict("by_four", image=images)["output_0"], expected, atol=0.06)


def test_two_inputs_of_a_model_from_an_importer(
    step: Step, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    # An Importer's Model: the SavedModel lies at the artifact's root.
    root = models.saved_once(tmp_path_factory, "two_inputs", models.save_two_input_model) / "Format-Serving"
    rng = np.random.default_rng(0)
    rows = [{"amount": rng.random(2), "category": index % 4} for index in range(20)]
    examples = models.write_examples(tmp_path / "examples", {"train": rows})
    manifest = step.run(root, ["float32", "integer_only_int8"], examples)
    float32, integer_only = manifest.variants
    assert float32.file is not None
    assert [(t.name, t.dtype) for t in float32.file.signature().inputs] == [
        ("amount", "float32"),
        ("category", "int64"),
    ]
    features = {
        "amount": np.array([row["amount"] for row in rows], np.float32),
        "category": np.array([[row["category"]] for row in rows]),
    }
    loaded = tf.saved_model.load(str(root)).signatures["serving_default"]
    expected = loaded(**{name: tf.constant(value) for name, value in features.items()})["score"].numpy()
    np.testing.assert_allclose(step.predict("float32", **features)["score"], expected, atol=1e-6)
    # The integer category stays what it is.
    assert integer_only.file is not None, integer_only.failure
    assert [(t.name, t.dtype) for t in integer_only.file.signature().inputs] == [
        ("amount", "int8"),
        ("category", "int64"),
    ]
    np.testing.assert_allclose(step.predict("integer_only_int8", **features)["score"], expected, atol=0.1)


def test_compatibility_profiles_and_the_audit_are_recorded_and_fail_nothing(
    step: Step, examples: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    model = models.raw_model(tmp_path_factory)
    profiles = '["litert>=1.13.0", "litert_js"]'
    manifest = step.run(model, ["float32", "integer_only_int8"], examples, profiles=profiles)
    results = {v.name: {p.profile: p.result for p in v.profiles} for v in manifest.variants}
    assert results == {
        "float32": {"litert>=1.13.0": "pass", "litert_js": "pass"},
        "integer_only_int8": {"litert>=1.13.0": "fail", "litert_js": "fail"},
    }
    assert [(v.failure, v.findings) for v in manifest.variants] == [(None, ()), (None, ())]


def test_a_recipe_that_fails_is_recorded_and_all_failing_is_an_error(step: Step, tmp_path: Path) -> None:
    module = tf.Module()

    @models.traced(tf.TensorSpec([None, 16], tf.float32, name="image"))
    def serve(image: Any) -> dict[str, Any]:
        return {"y": tf.math.sin(image @ tf.ones([16, 4]))}

    tf.saved_model.save(module, str(tmp_path / "m" / "Format-Serving"), signatures={"serving_default": serve})
    examples = models.write_examples(tmp_path / "examples", {"train": models.rows(9)})
    with pytest.raises(ConversionError, match=r"None of the 2 recipes could be converted:") as caught:
        step.run(tmp_path / "m", ["integer_only_int8", "integer_only_uint8"], examples)
    assert str(caught.value).count("SIN") == 2
    assert not any(step.output.iterdir())

    manifest = step.run(tmp_path / "m", ["integer_only_int8", "full_integer"], examples)
    failed, full_integer = manifest.variants
    assert (failed.path, failed.file) == (None, None)
    assert failed.failure is not None
    assert failed.failure.code in ("unsupported_ops", "inspection_failed")
    assert "full_integer" in failed.failure.advice
    assert full_integer.file is not None
    assert [op.name for op in full_integer.file.ops if op.float_count] == ["SIN"]
    assert sorted(path.name for path in step.output.iterdir()) == ["full_integer", "manifest.json"]
    assert step.variants.get_int_custom_property("num_variants") == 1
    assert step.variants.get_int_custom_property("num_failed") == 1


def test_accuracy_repair_reaches_the_manifest(step: Step, tmp_path: Path) -> None:
    outlier_mlp.save(tmp_path / "m" / "Format-Serving")
    examples = models.write_examples(tmp_path / "outlier", {"train": outlier_mlp.rows(800), "eval": []})
    recipes = ["full_integer", "mixed_precision", "dynamic_range"]
    manifest = step.run(tmp_path / "m", recipes, examples, max_parallel="2")
    assert [variant.name for variant in manifest.converted()] == recipes
    integer, repaired, dynamic = manifest.variants
    assert (integer.calibrated, repaired.calibrated, dynamic.calibrated) == ("shared", "shared", None)
    assert repaired.repair is not None
    assert repaired.repair.repaired
    assert repaired.repair.replay.float_layers == repaired.repair.float_layers != ()
    assert repaired.file is not None
    assert any(op.float_count for op in repaired.file.ops)
    points, labels = outlier_mlp.data(500, seed=5)
    accuracies = {
        name: (step.predict(name, features=points)["output_0"].argmax(axis=1) == labels).mean()
        for name in ("full_integer", "mixed_precision")
    }
    assert accuracies["full_integer"] < 0.4 < 0.8 < accuracies["mixed_precision"]


# --- calibration ------------------------------------------------------------------------------------------------------


def _transform_graph(uri: Any) -> Any:
    artifact = TransformGraph()
    artifact.uri = str(uri)
    return artifact


def _remote_copy(folder: Path, uri: str) -> str:
    """Copies a folder to a place that only this process can read, so that a child has to be given a local copy."""
    for path in folder.rglob("*"):
        if path.is_file():
            target = f"{uri}/{path.relative_to(folder)}"
            tf.io.gfile.makedirs(target.rpartition("/")[0])
            with tf.io.gfile.GFile(target, "wb") as stream:
                stream.write(path.read_bytes())
    return uri


def test_raw_examples_and_a_signature_on_transformed_features(
    step: Step, examples: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    model = models.saved_once(tmp_path_factory, "transformed", models.save_transformed_model)
    whole = models.transform_graph(tmp_path_factory)
    without_metadata = tmp_path_factory.mktemp("graph") / "graph"
    shutil.copytree(whole, without_metadata, ignore=shutil.ignore_patterns("metadata"))
    schema = Schema()
    schema.uri = str(whole / "metadata")
    manifest = step.run(
        model,
        ["integer_only_int8"],
        examples,
        transform_graph=_transform_graph(_remote_copy(without_metadata, "ram://graph")),
        schema=schema,
        calibration={"num_samples": 50, "stratify_by": "label", "label": "label"},
    )
    record = manifest.calibration
    assert record is not None
    assert (record.source, record.num_leaked) == ("transform_graph", 0)
    assert record.evaluation is not None
    assert (record.evaluation.split, record.evaluation.num_examples) == ("eval", 12)
    assert record.strata is not None
    assert sorted(value.num_samples for value in record.strata.values) == [16, 17, 17]
    assert record.strata == record.label_balance
    scaled = models.scaled(models.images(EVAL_ROWS))
    expected = _serving_output(model, image_xf=tf.constant(scaled))["output_0"]
    np.testing.assert_allclose(step.predict("integer_only_int8", image_xf=scaled)["output_0"], expected, atol=0.06)


def test_what_the_converter_takes_without_a_word_is_reported(
    step: Step, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, caplog: pytest.LogCaptureFixture
) -> None:
    """Calibrated at half the range, on examples that evaluate too."""
    model = models.raw_model(tmp_path_factory)
    half = [{**row, "image": row["image"] / 2} for row in models.rows(60)]
    examples = models.write_examples(
        tmp_path / "examples", {"train": half, "eval": [*models.rows(60, seed=9), *half[:4]]}
    )
    manifest = step.run(model, ["full_integer"], examples)
    assert manifest.calibration is not None
    assert manifest.calibration.source == "examples"
    assert manifest.calibration.num_leaked == 4
    assert [finding.code for finding in manifest.calibration.findings] == ["leakage", "outside_range"]
    for finding in manifest.calibration.findings:
        assert finding.message in caplog.text


def test_leakage_is_refused_on_request(
    step: Step,
    examples: Any,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = models.raw_model(tmp_path_factory)
    rows = models.rows(30)
    leaking = models.write_examples(tmp_path / "leaking", {"train": rows, "eval": rows[:9]})
    with pytest.raises(CalibrationError, match=r"^9 of 30 calibration samples"):
        step.run(model, ["full_integer"], leaking, calibration={"leakage": "refuse"})
    assert not any(step.output.iterdir())
    manifest = step.run(model, ["full_integer"], examples, calibration={"evaluation_split": "test"})
    assert manifest.calibration is not None
    assert [finding.code for finding in manifest.calibration.findings] == ["not_compared"]
    assert "no split 'test'. Their splits: train, eval." in caplog.text


# --- bad input: a clear error, and nothing written --------------------------------------------------------------------


def test_without_a_saved_model(step: Step, tmp_path: Path) -> None:
    (tmp_path / "m" / "Format-Serving").mkdir(parents=True)
    (tmp_path / "m" / "Format-Serving" / "model.pth").write_bytes(b"")
    with pytest.raises(
        ConversionError, match=r"holds no SavedModel: there is no saved_model\.pb.*Format-Serving.*\.keras.*run_fn"
    ):
        step.run(tmp_path / "m", ["float32"])
    (tmp_path / "m" / "Format-Serving" / "model.keras").write_bytes(b"")
    with pytest.raises(ConversionError, match=r"'model\.keras' is no Keras file with a whole model"):
        step.run(tmp_path / "m", ["float32"])
    assert not any(step.output.iterdir())


def test_splits(step: Step, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    model = models.raw_model(tmp_path_factory)
    examples = models.write_examples(tmp_path / "examples", {"train": [], "eval": EVAL_ROWS})
    with pytest.raises(CalibrationError, match=r"no split 'test'\. Their splits: train, eval\..*CalibrationSpec"):
        step.run(model, ["full_integer"], examples, calibration={"split": "test"})
    with pytest.raises(CalibrationError, match=r"Split 'train' holds no examples .*another split"):
        step.run(model, ["float32", "full_integer"], examples)
    for path in (tmp_path / "examples" / "Split-train").iterdir():
        path.unlink()
    with pytest.raises(CalibrationError, match=r"Split 'train' of the examples has no files"):
        step.run(model, ["full_integer"], examples)
    assert not any(step.output.iterdir())


def test_nan_in_calibration_data(step: Step, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    rows = models.rows(20)
    rows[13]["image"][0] = np.nan
    examples = models.write_examples(tmp_path / "examples", {"train": rows})
    with pytest.raises(CalibrationError, match="'image' has NaN or infinite values in 1 of 20"):
        step.run(models.serving_model(tmp_path_factory), ["float32", "full_integer"], examples)
    assert not any(step.output.iterdir())


def test_unknown_signature(step: Step, tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.raises(SignatureError, match=r"no signature 'mobile'\. It has: serve, serving_default"):
        step.run(models.raw_model(tmp_path_factory), ["float32"], signature_name="mobile")
    assert not any(step.output.iterdir())


@pytest.mark.parametrize(
    ("feature", "densify", "words"),
    [
        (tf.io.VarLenFeature(tf.float32), tf.sparse.reduce_sum, "'words' as sparse"),
        (tf.io.RaggedFeature(tf.float32), lambda ragged: ragged.to_tensor(), "'words' as ragged"),
    ],
)
def test_features_that_a_phone_cannot_be_fed(
    step: Step, tmp_path: Path, feature: Any, densify: Callable[[Any], Any], words: str
) -> None:
    models.save_parsing_module(
        tmp_path / "m" / "Format-Serving", {"words": feature}, lambda f: {"y": tf.reduce_sum(densify(f["words"]))}
    )
    with pytest.raises(SignatureError, match=rf"{words}.*run_fn"):
        step.run(tmp_path / "m", ["float32"])
    assert not any(step.output.iterdir())


def test_select_tf_ops_on_request(step: Step, tmp_path: Path) -> None:
    """The manifest names the ops and the runtime; without the request it names them with their place."""
    models.save_parsing_module(
        tmp_path / "m" / "Format-Serving",
        {"text": tf.io.FixedLenFeature([1], tf.string, default_value="nothing")},
        lambda f: {"y": tf.cast(tf.strings.to_hash_bucket_fast(f["text"], 7, name="tokens"), tf.float32)},
    )
    with pytest.raises(ConversionError, match=r"StringToHashBucketFast \(in tokens\).*allow_select_tf_ops=True"):
        step.run(tmp_path / "m", ["float32"])
    assert not any(step.output.iterdir())
    manifest = step.run(tmp_path / "m", ["float32"], allow_select_tf_ops=1)
    (variant,) = manifest.variants
    assert variant.file is not None
    assert variant.file.select_tf_ops == ("FlexStringToHashBucketFast",)
    assert variant.runtime == f"tensorflow {tf.__version__}"
    assert [(t.name, t.dtype, t.default) for t in manifest.source.inputs] == [("text", "string", "nothing")]
    words = np.array([["cash"], ["card"], ["nothing"]])
    expected = tf.strings.to_hash_bucket_fast(words, 7).numpy()
    assert step.predict("float32", text=words)["y"].tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"recipes": '["float23"]'}, "Unknown recipe 'float23'. Valid names: float32, "),
        ({"recipes": "float32"}, "recipes='float32' is not JSON"),
        ({"recipes": '["float32"]', "batch_size": "0"}, "batch_size='0' is not valid"),
        ({"recipes": '["float32"]', "deadline_seconds": "soon"}, "deadline_seconds='soon' is not valid"),
        ({"recipes": '["float32"]', "calibration": '{"splits": "train"}'}, "splits='train'"),
        ({"recipes": '["float32"]', "calibration": "3"}, "calibration='3' is not valid. Use CalibrationSpec"),
        ({"recipes": '["float32"]', "profiles": '["mlkit"]'}, "Unknown compatibility profile 'mlkit'"),
    ],
)
def test_runtime_parameters_are_validated_by_the_executor(
    step: Step, tmp_path: Path, parameters: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError, match=message.replace(".", r"\.")):
        step.run(tmp_path / "m", **parameters)
    assert not any(step.output.iterdir())


# --- defining the step ------------------------------------------------------------------------------------------------

MODEL = Channel(type=Model)
EXAMPLES = Channel(type=Examples)


def test_definition_with_defaults() -> None:
    converter = TFLiteConverter(model=MODEL, examples=EXAMPLES, recipes=["float32", "integer_only_int8"])
    parameters = converter.exec_properties
    assert [recipe["name"] for recipe in json.loads(parameters["recipes"])] == ["float32", "integer_only_int8"]
    assert json.loads(parameters["calibration"]) == CalibrationSpec().model_dump()
    assert (parameters["batch_size"], parameters["signature_name"]) == ("1", "serving_default")
    assert json.loads(parameters["profiles"]) == list(PROFILES)
    fingerprint = json.loads(parameters["fingerprint"])
    assert fingerprint["versions"]["tensorflow"] == tf.__version__
    assert fingerprint["recipe_schema"] == 2
    assert converter.outputs["variants"].type is TFLiteVariants
    assert converter.executor_spec.class_path == "tfx_mobile.tflite_converter.executor.Executor"


def test_definition_with_runtime_parameters() -> None:
    def parameter(name: str, ptype: type) -> RuntimeParameter:
        return RuntimeParameter(name=name, ptype=ptype)

    converter = TFLiteConverter(
        model=MODEL,
        recipes=parameter("recipes", str),
        signature_name=parameter("signature", str),
        calibration=parameter("calibration", str),
        batch_size=parameter("batch", str),
        deadline_seconds=parameter("deadline", float),
        profiles=parameter("profiles", str),
    )
    assert isinstance(converter.exec_properties["recipes"], RuntimeParameter)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"recipes": ["float23"]}, "Unknown recipe 'float23'"),
        ({"recipes": []}, "recipes is empty"),
        ({"recipes": ["float32", "int16x8"]}, "The recipes int16x8 calibrate, .*examples=example_gen"),
        ({"recipes": ["float32"], "batch_size": "many"}, "batch_size='many'"),
        ({"recipes": ["float32"], "batch_size": 0}, "batch_size=0"),
        ({"recipes": ["float32"], "deadline_seconds": -1}, "deadline_seconds=-1"),
        ({"recipes": ["float32"], "signature_name": ""}, "signature_name=''"),
        ({"recipes": ["float32"], "calibration": {"samples": 3}}, "Invalid CalibrationSpec: samples=3"),
        ({"recipes": ["float32"], "calibration": "train"}, "calibration='train' is not JSON"),
        ({"recipes": ["float32"], "metadata": {"label": "kind"}}, "label='kind'.*takes class names from"),
        ({"recipes": ["float32"], "metadata": {"title": "x"}}, "Invalid MetadataSpec: title='x'"),
        ({"recipes": ["float32"], "metadata": 3}, r"metadata=3 is not valid. Use MetadataSpec\("),
        ({"recipes": ["float32"], "profiles": ["litert>=2"]}, "Unknown compatibility profile 'litert>=2'.*litert_js"),
    ],
)
def test_wrong_definitions(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TFLiteConverter(model=MODEL, **parameters)
