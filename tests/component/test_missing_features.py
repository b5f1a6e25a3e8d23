"""Examples that lack features, through both executors: every variant gets what the float model's signature takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.fakes import evaluations, models
from tfx_mobile import TFLiteVariants
from tfx_mobile.errors import EvaluationError
from tfx_mobile.quantization_evaluator.eval_config import to_json
from tfx_mobile.records import EvaluationRecord, VariantManifest
from tfx_mobile.tflite_converter.executor import Executor

DEFAULTS = {"age": 0.5, "hour": -1, "payment": "Cash", "point": 2.0}
ENTROPY = "sparse_categorical_crossentropy"


def _save(path: Path) -> None:
    """Classifies by a vocabulary, a category and two numbers; sparse and dense features, all of them with defaults."""
    words = tf.lookup.KeyValueTensorInitializer(["Cash", "Card", "Dispute"], tf.range(3, dtype=tf.int64))
    vocabulary = tf.lookup.StaticVocabularyTable(words, num_oov_buckets=1)
    rng = np.random.default_rng(0)
    by_word, by_hour, by_number = (
        tf.constant(rng.normal(0, 0.4, shape), tf.float32) for shape in ((4, 3), (4, 3), (3, 3))
    )

    def one_column(x: Any, default: Any) -> Any:
        return tf.sparse.to_dense(tf.SparseTensor(x.indices, x.values, [x.dense_shape[0], 1]), default)

    @models.traced(tf.TensorSpec([None], tf.string, name="examples"))
    def serve(examples: Any) -> dict[str, Any]:
        parsed = tf.io.parse_example(
            examples,
            {
                "age": tf.io.VarLenFeature(tf.float32),
                "hour": tf.io.VarLenFeature(tf.int64),
                "payment": tf.io.VarLenFeature(tf.string),
                "point": tf.io.FixedLenFeature([2], tf.float32, default_value=[DEFAULTS["point"]] * 2),
            },
        )
        word = vocabulary.lookup(one_column(parsed["payment"], DEFAULTS["payment"]))
        hour = one_column(parsed["hour"], tf.constant(DEFAULTS["hour"], tf.int64)) + 1
        numbers = tf.concat([one_column(parsed["age"], DEFAULTS["age"]), parsed["point"]], 1) @ by_number
        return {"p": tf.nn.softmax(tf.gather(by_word, word[:, 0]) + tf.gather(by_hour, hour[:, 0]) + numbers)}

    module = tf.Module()
    module.vocabulary = vocabulary
    tf.saved_model.save(module, str(path), signatures={"serving_default": serve})


def _rows(count: int, seed: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    rows = []
    for index in range(count):
        row = {
            "age": rng.normal(0, 1),
            "hour": int(rng.integers(0, 3)),
            "payment": str(rng.choice(["Cash", "Card", "Dispute", "Prcard"])),
            "point": rng.normal(0, 1, 2),
        }
        rows.append({name: value for name, value in row.items() if rng.random() > 0.3} | {"label": index % 3})
    return rows


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The model, its variants, and examples: in `eval` features are missing here and there, in `bare` always."""
    root = tmp_path_factory.mktemp("missing")
    _save(root / "model" / "Format-Serving")
    splits = {"train": _rows(60, 1), "eval": _rows(90, 2), "bare": [{"label": index % 3} for index in range(5)]}
    variants = TFLiteVariants()
    variants.uri = str(root / "variants")
    inputs = {
        "examples": [models.write_examples(root / "examples", splits, num_shards=1)],
        "model": [models.model_artifact(root / "model")],
    }
    Executor().Do(inputs, {"variants": [variants]}, {"recipes": '["float32", "full_integer"]'})
    return {"examples": inputs["examples"][0], "model": inputs["model"][0], "variants": variants}


def _entropies(outputs: dict[str, Any]) -> dict[str, float]:
    record = EvaluationRecord.read(Path(outputs["evaluation"].uri) / "record.json")
    return {model.model: model.slices[0].metrics[ENTROPY] or np.nan for model in record.models}


def test_variants_get_the_defaults_of_the_signature(converted: dict[str, Any], tmp_path: Path) -> None:
    manifest = VariantManifest.read(Path(converted["variants"].uri) / "manifest.json")
    assert {tensor.name: tensor.default for tensor in manifest.source.inputs} == DEFAULTS
    for split in ("eval", "bare"):
        properties = {"eval_config": to_json(evaluations.eval_config(drop=0.2)), "example_splits": f'["{split}"]'}
        (tmp_path / split).mkdir()
        entropies = _entropies(evaluations.execute(converted, properties, tmp_path / split))
        assert entropies["float32"] == pytest.approx(entropies["saved_model"], abs=1e-5)
        assert entropies["full_integer"] == pytest.approx(entropies["saved_model"], abs=0.1)


def test_without_a_recorded_default_a_missing_feature_is_an_error(converted: dict[str, Any], tmp_path: Path) -> None:
    source = Path(converted["variants"].uri)
    variants = TFLiteVariants()
    variants.uri = str(tmp_path / "variants")
    manifest = VariantManifest.read(source / "manifest.json")
    inputs = [t if t.name != "age" else t.model_copy(update={"default": None}) for t in manifest.source.inputs]
    changed = manifest.model_copy(update={"source": manifest.source.model_copy(update={"inputs": tuple(inputs)})})
    for name in ("float32", "full_integer"):
        (tmp_path / "variants" / name).mkdir(parents=True)
        (tmp_path / "variants" / name / "model.tflite").write_bytes((source / name / "model.tflite").read_bytes())
    (tmp_path / "variants" / "manifest.json").write_bytes(changed.to_json())
    for split, message in (
        ("eval", "'age', an input of variant 'float32', is missing"),
        ("bare", "No feature for input 'age'"),
    ):
        properties = {"eval_config": to_json(evaluations.eval_config()), "example_splits": f'["{split}"]'}
        (tmp_path / split).mkdir()
        with pytest.raises(EvaluationError, match=message):
            evaluations.execute({**converted, "variants": variants}, properties, tmp_path / split)
