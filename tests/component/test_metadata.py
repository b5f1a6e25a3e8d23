"""TFLite metadata from the component's parameters and inputs to the files that it writes."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tfx.types import Channel, standard_artifacts

from tests.fakes import metadata as fake_metadata
from tests.fakes import models
from tfx_mobile import TFLiteConverter, TFLiteVariants
from tfx_mobile.errors import MetadataError, RecipeError
from tfx_mobile.recipes import CalibrationSpec, MetadataSpec
from tfx_mobile.records import VariantManifest, sha256_of
from tfx_mobile.tflite.metadata import PYTHON_VARIABLE
from tfx_mobile.tflite.runtime import SignatureRunner
from tfx_mobile.tflite_converter.executor import Executor, _label_names

IMAGE_SHAPE = (8, 8, 3)
SPECIES = ("Adelie", "Gentoo", "Chinstrap")


def _save(path: Path) -> None:
    """`image` float32 [batch, 8, 8, 3] in -1 to 1, `scores` [batch, 3]."""
    rng = np.random.default_rng(0)
    kernel = tf.constant(rng.normal(size=(3, 3, 3, 4)), tf.float32)
    dense = tf.constant(rng.normal(size=(4, 3)), tf.float32)

    @models.traced(tf.TensorSpec([None, *IMAGE_SHAPE], tf.float32, name="image"))
    def serve(image: Any) -> dict[str, Any]:
        features = tf.reduce_mean(tf.nn.relu(tf.nn.conv2d(image, kernel, 2, "SAME")), [1, 2])
        return {"scores": tf.nn.softmax(features @ dense)}

    tf.saved_model.save(tf.Module(), str(path), signatures={"serving_default": serve})


@pytest.fixture
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.saved_once(tmp_path_factory, "image_classifier", _save)


@pytest.fixture
def schema(tmp_path: Path) -> Any:
    artifact = standard_artifacts.Schema()
    artifact.uri = str(tmp_path / "schema")
    Path(artifact.uri).mkdir()
    values = " ".join(f'value: "{name}"' for name in SPECIES)
    Path(artifact.uri, "schema.pbtxt").write_text(
        f'feature {{ name: "species" type: BYTES string_domain {{ {values} }} }}'
    )
    return artifact


@pytest.fixture
def transform_graph(tmp_path: Path) -> Any:
    artifact = standard_artifacts.TransformGraph()
    artifact.uri = str(tmp_path / "transform_graph")
    assets = Path(artifact.uri, "transform_fn", "assets")
    assets.mkdir(parents=True)
    (assets / "species").write_text("Gentoo\nAdelie\nChinstrap\n")
    return artifact


def _run(output: Path, model: Path, recipes: list[str], spec: MetadataSpec, **inputs: Any) -> VariantManifest:
    variants = TFLiteVariants()
    variants.uri = str(output)
    output.mkdir()
    Executor().Do(
        {"model": [models.model_artifact(model)], **{key: [artifact] for key, artifact in inputs.items()}},
        {"variants": [variants]},
        {"recipes": json.dumps(recipes), "metadata": spec.model_dump_json()},
    )
    return VariantManifest.read(output / "manifest.json")


def test_an_image_classifier_with_names_from_the_schema(
    tmp_path: Path, model: Path, schema: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PYTHON_VARIABLE, fake_metadata.writer_python())
    rng = np.random.default_rng(1)
    # With the whole range in the sample, uint8 quanta are pixels.
    images = [np.full(IMAGE_SHAPE, -1.0), np.full(IMAGE_SHAPE, 1.0), *rng.uniform(-1, 1, (18, *IMAGE_SHAPE))]
    examples = models.write_examples(tmp_path / "examples", {"train": [{"image": image} for image in images]})
    spec = MetadataSpec(name="penguins", version="3", label="species", mean=(127.5,), std=(127.5,))
    recipes = ["float32", "integer_only_uint8", "int4"]
    manifest = _run(tmp_path / "out", model, recipes, spec, examples=examples, schema=schema)

    assert [(v.name, v.failure) for v in manifest.variants] == [(name, None) for name in recipes]
    batch = np.array(images, np.float32)
    loaded = tf.saved_model.load(str(model / "Format-Serving")).signatures["serving_default"]
    expected = loaded(image=tf.constant(batch))["scores"].numpy()
    for variant in manifest.variants:
        path = tmp_path / "out" / variant.name / "model.tflite"
        assert variant.file is not None
        assert variant.file.sha256 == sha256_of(path.read_bytes())
        with zipfile.ZipFile(path) as archive:
            assert archive.read("labels.txt").decode().split("\n") == list(SPECIES)
        record = variant.metadata
        assert record is not None
        assert (record.writer, record.kind) == ("mediapipe 0.10.21", "image_classifier")
        assert (record.num_labels, record.labels_from) == (3, "the schema's domain of 'species'")
        assert record.raw_pixels is (True if variant.name == "integer_only_uint8" else None)
        document = fake_metadata.read(path)
        assert (document["name"], document["version"]) == ("penguins", "3")
        (subgraph,) = document["subgraph_metadata"]
        (image,), (scores,) = subgraph["input_tensor_metadata"], subgraph["output_tensor_metadata"]
        assert image["content"]["content_properties"] == {"color_space": "RGB"}
        assert image["process_units"] == [
            {"options_type": "NormalizationOptions", "options": {"mean": [127.5], "std": [127.5]}}
        ]
        assert [file["type"] for file in scores["associated_files"]] == ["TENSOR_AXIS_LABELS"]
        origin = json.loads(bytes(subgraph["custom_metadata"][0]["data"]))
        assert (origin["source_sha256"], origin["recipe"]["name"]) == (manifest.source.sha256, variant.name)
        assert origin["versions"]["tensorflow"] == tf.__version__
        result = SignatureRunner(path.read_bytes()).run({"image": batch})["scores"]
        np.testing.assert_allclose(result, expected, atol=1e-6 if variant.name == "float32" else 0.1)
    assert manifest.versions["ai-edge-quantizer"] == "0.10.0"

    _run(tmp_path / "again", model, ["float32"], spec, schema=schema)
    first, second = (tmp_path / run / "float32" / "model.tflite" for run in ("out", "again"))
    assert first.read_bytes() == second.read_bytes()


def test_nothing_asked_for_and_no_writer_is_recorded(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(PYTHON_VARIABLE, raising=False)
    manifest = _run(tmp_path / "out", model, ["float32"], MetadataSpec())
    (variant,) = manifest.variants
    assert variant.file is not None
    assert variant.metadata is not None
    assert variant.metadata.writer is None
    assert variant.metadata.not_written is not None
    assert "TFX_MOBILE_METADATA_PYTHON is not set" in variant.metadata.not_written
    assert b"TFLITE_METADATA" not in (tmp_path / "out" / "float32" / "model.tflite").read_bytes()


def test_metadata_asked_for_without_a_writer(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PYTHON_VARIABLE, raising=False)
    with pytest.raises(MetadataError, match=r"pip install --no-deps mediapipe==0\.10\.21"):
        _run(tmp_path / "out", model, ["float32"], MetadataSpec(name="penguins"))
    assert not any((tmp_path / "out").iterdir())


def test_labels_that_do_not_fit_end_the_step(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PYTHON_VARIABLE, fake_metadata.writer_python())
    with pytest.raises(RecipeError, match=r"There are 2 labels \(a, b\).* scores float32 \[1, 3\]"):
        _run(tmp_path / "out", model, ["float32"], MetadataSpec(labels=("a", "b")))
    assert not any((tmp_path / "out").iterdir())


def test_names_from_artifacts_that_are_not_wired() -> None:
    model, spec = Channel(type=standard_artifacts.Model), MetadataSpec(label="species")
    with pytest.raises(RecipeError, match=r"label='species'.*got neither"):
        TFLiteConverter(model=model, recipes=["float32"], metadata=spec)
    wired = TFLiteConverter(
        model=model, recipes=["float32"], metadata=spec, schema=Channel(type=standard_artifacts.Schema)
    )
    assert json.loads(wired.exec_properties["metadata"])["label"] == "species"


def test_where_class_names_come_from(schema: Any, transform_graph: Any) -> None:
    named, counted = MetadataSpec(label="species"), CalibrationSpec(label="species")
    both = {"schema": [schema], "transform_graph": [transform_graph]}
    # A vocabulary numbers the classes; it decides before the schema, whoever named the label.
    numbered = (("Gentoo", "Adelie", "Chinstrap"), "Transform's vocabulary 'species'", ())
    assert _label_names(named, CalibrationSpec(), both) == _label_names(MetadataSpec(), counted, both) == numbered
    assert _label_names(named, CalibrationSpec(), {"schema": [schema]})[:2] == (
        SPECIES,
        "the schema's domain of 'species'",
    )
    # A domain is a list without numbers: not used unless the author says that the model follows it.
    unsaid = _label_names(MetadataSpec(), counted, {"schema": [schema]})
    assert unsaid.names == ()
    assert "set MetadataSpec(label='species')" in unsaid.notes[0]
    assert _label_names(MetadataSpec(labels=("a",)), counted, both) == ((), None, ())
    assert _label_names(MetadataSpec(), CalibrationSpec(), both) == ((), None, ())
    with pytest.raises(RecipeError, match=r"label='island'.*no string domain of that feature"):
        _label_names(MetadataSpec(label="island"), CalibrationSpec(), both)
