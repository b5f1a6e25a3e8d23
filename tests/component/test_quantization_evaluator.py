"""QuantizationEvaluator on real artifacts on disk: real SavedModels, real `.tflite` files, real Beam passes."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.fakes import evaluations, models
from tfx_mobile import Budget, Confidence, QuantizationEvaluator, artifacts
from tfx_mobile.artifact_io import saved_model_sha256
from tfx_mobile.errors import EvalConfigError, EvaluationError, TFXMobileError
from tfx_mobile.quantization_evaluator.eval_config import to_json
from tfx_mobile.records import BlessedModelRecord, EvaluationRecord, Failure, sha256_of
from tfx_mobile.tflite_converter import int4

ACCURACY, ENTROPY = "sparse_categorical_accuracy", "sparse_categorical_crossentropy"
CRASHED = Failure(code="converter_crashed", message="The converter was killed by SIGABRT.", advice="Leave it out.")
ROWS = models.rows(300, seed=2)


class World:
    """A SavedModel, examples and variants made of it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.saved_model = saved_model = root / "model" / "Format-Serving"
        models.save_raw_model(saved_model)
        self.sha256 = saved_model_sha256(str(saved_model))
        self.model = models.model_artifact(root / "model")
        splits = {
            "eval": ROWS,
            "train": ROWS[:30],
            "empty": [],
            "unlabelled": [{"image": r["image"]} for r in ROWS[:9]],
        }
        self.examples = models.write_examples(root / "examples", splits)
        images = models.images(models.rows(100, seed=1))
        self.files = {
            "float32": evaluations.convert(saved_model, "float32"),
            "dynamic_range": evaluations.convert(saved_model, "dynamic_range", batch_size=1),
            "integer_only_int8": evaluations.convert(saved_model, "integer_only_int8", images),
            "half_range": evaluations.convert(saved_model, "integer_only_int8", images * 0.5, batch_size=1),
            "outlier": outlier(root / "outlier", images),
        }

    def run(self, root: Path, files, config=None, *, examples=None, model=None, **properties):
        inputs = {
            "examples": examples or self.examples,
            "model": model or self.model,
            "variants": evaluations.write_variants(root / "variants", files, self.saved_model),
        }
        config = to_json(config or evaluations.eval_config())
        return evaluations.execute(inputs, {"eval_config": config, **properties}, root)


def outlier(root: Path, images) -> bytes:
    """The same network in float, but one channel of 400 times the size takes the whole int8 range."""
    network = models.raw_network()
    features, probabilities = network.get_layer("features"), network.get_layer(models.OUTPUT)
    (kernel, bias), (dense, dense_bias) = features.get_weights(), probabilities.get_weights()
    dense = dense.reshape(models.PIXELS, -1, models.CLASSES)
    loudest = np.abs(kernel).sum(axis=(0, 1, 2)).argmax()
    kernel[..., loudest] *= 400
    bias[loudest] *= 400
    dense[:, loudest] /= 400
    features.set_weights([kernel, bias])
    probabilities.set_weights([dense.reshape(-1, models.CLASSES), dense_bias])
    network.export(str(root), format="tf_saved_model", verbose=False)
    return evaluations.convert(root, "integer_only_int8", images)


def nan_network(root: Path) -> bytes:
    network = models.raw_network()
    weights = network.get_layer(models.OUTPUT).get_weights()
    network.get_layer(models.OUTPUT).set_weights([weights[0] * np.nan, weights[1]])
    network.export(str(root), format="tf_saved_model", verbose=False)
    return evaluations.convert(root, "float32")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def mixed(world, tmp_path_factory):
    """One run over good, harmed, broken and missing variants."""
    rng = np.random.default_rng(0)
    files = {
        **world.files,
        "truncated": world.files["float32"][:700],
        "random": rng.bytes(1000),
        "not_finite": nan_network(world.root / "nan"),
        "int16x8": CRASHED,
    }
    outputs = world.run(
        tmp_path_factory.mktemp("mixed"), files, evaluations.eval_config(floor=0.9, drop=0.02, slice_drop=0.05)
    )
    return files, outputs, EvaluationRecord.read(Path(outputs["evaluation"].uri) / "record.json")


def test_the_smallest_variant_that_passes_is_blessed(world, mixed):
    files, outputs, record = mixed
    passed = [verdict.variant for verdict in record.verdicts if verdict.passed]
    assert passed == ["float32", "dynamic_range", "integer_only_int8"]
    winner = min(passed, key=lambda name: len(files[name]))
    assert record.winner == winner

    folder = Path(outputs["blessed_model"].uri)
    names = {"model.tflite", "record.json", "golden.json", "model_card.md"}
    assert {path.name for path in folder.iterdir()} == names
    assert (folder / "model.tflite").read_bytes() == files[winner]
    card = (folder / "model_card.md").read_text()
    assert card.startswith(f"# Model card: {winner}\n")
    assert sha256_of(files[winner]) in card
    assert card == (Path(outputs["evaluation"].uri) / "model_card.md").read_text()
    blessed = BlessedModelRecord.read(folder / "record.json")
    assert blessed.blessed
    assert blessed.variant.name == winner
    assert blessed.source.sha256 == world.sha256


def test_int4_weights_are_judged_like_any_other(world, tmp_path):
    files = {"float32": world.files["float32"], "int4": int4.quantize(world.files["float32"])}
    outputs = world.run(tmp_path, files, evaluations.eval_config(floor=0.9, drop=0.05))
    record = EvaluationRecord.read(Path(outputs["evaluation"].uri) / "record.json")
    assert [(verdict.variant, verdict.passed) for verdict in record.verdicts] == [("float32", True), ("int4", True)]
    # Judged by its own outputs, which are not the float model's.
    baseline, _, weights = record.models
    assert weights.model == "int4"
    assert weights.slices[0].metrics[ENTROPY] != pytest.approx(baseline.slices[0].metrics[ENTROPY], rel=1e-3)
    assert record.winner == "int4"


def test_blessing_and_model_say_the_same_in_files_and_properties(world, mixed):
    files, outputs, record = mixed
    folder = Path(outputs["blessing"].uri)
    assert {path.name for path in folder.iterdir()} == {"blessing.json", "BLESSED"}
    assert (folder / "blessing.json").read_bytes() == record.to_json()
    sha256 = sha256_of(files[record.winner])
    for key in ("blessing", "blessed_model"):
        assert outputs[key].get_int_custom_property("blessed") == 1
        assert outputs[key].get_string_custom_property("variant") == record.winner
        assert outputs[key].get_string_custom_property("sha256") == sha256
    assert outputs["blessed_model"].get_int_custom_property("size_bytes") == len(files[record.winner])
    assert outputs["blessed_model"].get_string_custom_property("source_sha256") == world.sha256
    reasons = json.loads(outputs["blessing"].get_string_custom_property("reasons"))
    assert set(reasons) == {verdict.variant for verdict in record.verdicts if not verdict.passed}


@pytest.mark.parametrize("variant", ["half_range", "outlier"])
def test_a_harmed_model_is_refused_with_threshold_and_slice(mixed, variant):
    _, outputs, record = mixed
    reasons = record.verdict(variant).reasons
    assert {(r.metric, r.slice, r.limit) for r in reasons} >= {(ACCURACY, "overall", "change >= -0.02")}
    assert any(reason.slice.startswith("label:") and reason.limit == "change >= -0.05" for reason in reasons)
    baseline, own = (overall(record, name)[ACCURACY] for name in ("saved_model", variant))
    (drop,) = [r for r in reasons if r.slice == "overall" and r.limit.startswith("change")]
    assert drop.value == pytest.approx(own - baseline, abs=1e-6)
    assert f"{own:.4f} over all examples" in drop.message
    assert f"{baseline:.4f} for the float model" in drop.message
    report = (Path(outputs["evaluation"].uri) / "report.html").read_text()
    blessing = (Path(outputs["blessing"].uri) / "blessing.json").read_text()
    for reason in reasons:
        assert reason.message.replace(">", "&gt;") in report
        assert reason.message in blessing


@pytest.mark.parametrize(
    ("variant", "code"),
    [("truncated", "corrupt"), ("random", "corrupt"), ("int16x8", "converter_crashed"), ("not_finite", "not_finite")],
)
def test_a_broken_variant_is_not_blessed_and_harms_no_other(mixed, variant, code):
    _, _, record = mixed
    verdict = record.verdict(variant)
    assert not verdict.passed
    assert verdict.reasons[0].code == code


def test_not_finite_outputs_are_counted(mixed):
    _, _, record = mixed
    assert record.verdict("not_finite").reasons[0].message.startswith("300 of 300 examples give NaN")


def test_conversion_error_is_told_apart_from_quantization_error(mixed):
    _, _, record = mixed
    splits = {split.variant: split.metrics for split in record.error_splits}
    for name in ("float32", "integer_only_int8", "half_range"):
        start, middle, end = (overall(record, model)[ENTROPY] for model in ("saved_model", "float32", name))
        assert splits[name][ENTROPY].conversion == pytest.approx(middle - start)
        assert splits[name][ENTROPY].quantization == pytest.approx(end - middle)
    assert splits["float32"][ENTROPY].quantization == 0
    assert splits["half_range"][ACCURACY].quantization < -0.02


def test_tfma_reads_the_evaluation(mixed):
    import tensorflow_model_analysis as tfma

    _, outputs, record = mixed
    for name in ("saved_model", "integer_only_int8"):
        result = tfma.load_eval_result(outputs["evaluation"].uri, model_name=name)
        metrics = result.get_metrics_for_slice(())
        assert metrics[ACCURACY]["doubleValue"] == pytest.approx(overall(record, name)[ACCURACY])
    assert record.num_examples == 300
    assert [s.slice for s in record.models[0].slices] == ["overall", "label:0", "label:1", "label:2"]


def test_the_pass_pairs_every_variant_with_the_float_model(world, tmp_path):
    import apache_beam as beam
    import tensorflow_model_analysis as tfma
    from tfx.components.util import tfxio_utils

    from tfx_mobile.quantization_evaluator.scoring import evaluation, predict

    paths = {}
    for name in ("float32", "half_range"):
        paths[name] = tmp_path / f"{name}.tflite"
        paths[name].write_bytes(world.files[name])
    source = tfxio_utils.get_tfxio_factory_from_artifact(
        [world.examples], ["test"], raw_record_column_name=evaluation.RAW_RECORD_COLUMN
    )(str(Path(world.examples.uri) / "Split-eval" / "*"))
    config = evaluations.eval_config(drop=0.02, slice_drop=0.05)
    gate = config.metrics_specs[0].metrics[2].per_slice_thresholds.add()
    gate.slicing_specs.extend(config.slicing_specs)
    gate.threshold.change_threshold.direction = tfma.MetricDirection.LOWER_IS_BETTER
    gate.threshold.change_threshold.absolute.value = 1.0
    measurement = evaluation.measure(
        lambda: beam.Pipeline(argv=["--runner=FnApiRunner", *evaluations.IN_MEMORY]),
        [source.BeamSource()],
        predict.describe_saved_model(str(world.saved_model), "serving_default", None),
        [predict.VariantFile(n, str(p), sha256_of(world.files[n]), "serving_default") for n, p in paths.items()],
        config,
        str(tmp_path / "evaluation"),
        replicates=20,
    )
    places = ["overall", "label:0", "label:1", "label:2"]
    assert [(s.variant, s.metric, s.slice) for s in measurement.paired] == [
        (variant, metric, place) for metric in (ACCURACY, ENTROPY) for variant in paths for place in places
    ]
    by_place = {(s.variant, s.metric, s.slice): s for s in measurement.paired}
    for place in places:
        harmed = by_place["half_range", ACCURACY, place]
        assert (harmed.gained - harmed.lost) / harmed.num_examples == pytest.approx(
            harmed.value - harmed.reference_value
        )
        assert harmed.replicates is None
        # The same numbers as everywhere else, and a bootstrap that is around them.
        metrics = {m.model: {s.slice: s.metrics for s in m.slices}[place] for m in measurement.models}
        entropy = by_place["half_range", ENTROPY, place]
        assert (entropy.value, entropy.reference_value) == (
            metrics["half_range"][ENTROPY],
            metrics["saved_model"][ENTROPY],
        )
        assert entropy.gained is None
        assert entropy.replicates.shape == (20,)
        assert entropy.replicates.min() < entropy.value - entropy.reference_value < entropy.replicates.max()
    assert not (tmp_path / "evaluation" / "paired_samples").exists()


def test_nothing_is_blessed_when_no_variant_can_run(world, tmp_path):
    import tensorflow_model_analysis as tfma

    outputs = world.run(tmp_path, {"random": b"\x00" * 64, "int16x8": CRASHED})
    record = EvaluationRecord.read(Path(outputs["evaluation"].uri) / "record.json")
    assert record.winner is None
    assert [model.model for model in record.models] == ["saved_model"]
    assert overall(record, "saved_model")[ACCURACY] > 0.9
    assert tfma.load_eval_result(outputs["evaluation"].uri).get_metrics_for_slice(())[ACCURACY]
    assert {path.name for path in Path(outputs["blessing"].uri).iterdir()} == {"blessing.json", "NOT_BLESSED"}
    assert {path.name for path in Path(outputs["blessed_model"].uri).iterdir()} == {"record.json"}
    assert (Path(outputs["evaluation"].uri) / "model_card.md").read_text().startswith("# No model was blessed\n")
    assert not BlessedModelRecord.read(Path(outputs["blessed_model"].uri) / "record.json").blessed
    for key in ("blessing", "blessed_model"):
        assert outputs[key].get_int_custom_property("blessed") == 0
        assert outputs[key].has_custom_property("blessed")


def test_metrics_outside_the_calibrated_range_equal_a_numpy_reference(world, tmp_path):
    """Also with a budget that the variant misses."""
    from ai_edge_litert.interpreter import Interpreter  # TensorFlow's own differs by a quantum here and there

    rows = [{**row, "image": row["image"] * 1.6 - 0.3} for row in ROWS]
    examples = models.write_examples(tmp_path / "examples", {"far": rows})
    file = world.files["integer_only_int8"]
    files = {"integer_only_int8": file, "float32": world.files["float32"]}
    budget = Budget(max_size_bytes=len(file) - 1)
    outputs = world.run(
        tmp_path,
        files,
        examples=examples,
        example_splits='["far"]',
        budget=budget.to_json().decode(),
        surprise="ignored",
    )
    record = EvaluationRecord.read(Path(outputs["evaluation"].uri) / "record.json")

    interpreter = Interpreter(model_content=file)
    interpreter.allocate_tensors()
    (entry,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()
    labels = np.array([row["label"] for row in rows])

    def score(quanta):
        probabilities = []
        for row in quanta:
            interpreter.set_tensor(entry["index"], row[None])
            interpreter.invoke()
            scale, zero_point = result["quantization"]
            probabilities.append((interpreter.get_tensor(result["index"])[0].astype(np.float64) - zero_point) * scale)
        probabilities = np.array(probabilities)
        accuracy = np.mean(probabilities.argmax(axis=1) == labels)
        clipped = np.clip(probabilities, 1e-7, 1 - 1e-7)  # Keras clips, then takes these as unnormalized
        return accuracy, -np.log(clipped[np.arange(len(labels)), labels] / clipped.sum(axis=1)).mean()

    scale, zero_point = entry["quantization"]
    real = models.images(rows) / np.float32(scale)
    right = np.clip(np.rint(real) + zero_point, -128, 127).astype(np.int8)
    assert np.mean((np.rint(real) + zero_point > 127) | (np.rint(real) + zero_point < -128)) > 0.05
    accuracy, entropy = score(right)
    measured = overall(record, "integer_only_int8")
    assert measured[ACCURACY] == pytest.approx(accuracy, abs=1e-6)
    assert measured[ENTROPY] == pytest.approx(entropy, abs=1e-6)

    # What stock TFMA's formula would have reported.
    wrapped = (real + zero_point).astype(np.int64).astype(np.int8)
    wrong_accuracy, wrong_entropy = score(wrapped)
    assert wrong_accuracy < accuracy - 0.05
    assert wrong_entropy > entropy + 0.05

    (reason, *_) = record.verdict("integer_only_int8").reasons
    assert (reason.code, reason.value, reason.limit) == ("budget", len(file), f"<= {len(file) - 1}")
    assert record.winner != "integer_only_int8"


def test_a_signature_that_parses_examples_is_fed_the_serialized_examples(world, tmp_path):
    import tensorflow as tf

    loaded = tf.saved_model.load(str(world.root / "model" / "Format-Serving"))
    module = tf.Module()
    module.loaded = loaded

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="examples")])
    def serve(examples):
        parsed = tf.io.parse_example(examples, {"image": tf.io.FixedLenFeature([models.PIXELS], tf.float32)})
        return {"output_0": loaded.signatures["serving_default"](image=parsed["image"])["output_0"]}

    # An Importer's model lies at the artifact's root.
    tf.saved_model.save(module, str(tmp_path / "model"), signatures={"serving_default": serve})
    inputs = {
        "examples": world.examples,
        "model": models.model_artifact(tmp_path / "model"),
        "variants": evaluations.write_variants(
            tmp_path / "variants", {"float32": world.files["float32"]}, tmp_path / "model", parses_examples=True
        ),
    }
    config = evaluations.eval_config(drop=0.0)
    config.slicing_specs.add(slice_keys_sql="SELECT STRUCT(l AS large) FROM UNNEST(example.label) AS l WHERE l > 1")
    outputs = evaluations.execute(inputs, {"eval_config": to_json(config)}, tmp_path)
    record = EvaluationRecord.read(Path(outputs["evaluation"].uri) / "record.json")
    assert record.winner == "float32"
    assert overall(record, "saved_model") == pytest.approx(overall(record, "float32"), abs=1e-6)
    assert "large:2" in [entry.slice for entry in record.models[1].slices]


def test_raw_examples_and_a_signature_on_transformed_features(tmp_path, tmp_path_factory):
    """The transform graph feeds the baseline and the variants; labels and slices stay features of the examples."""
    import tensorflow as tf
    from tfx.types.standard_artifacts import TransformGraph

    root = models.saved_once(tmp_path_factory, "transformed", models.save_transformed_model)
    saved_model = root / "Format-Serving"
    rows = ROWS[:60]
    graph = TransformGraph()
    graph.uri = str(models.transform_graph(tmp_path_factory))
    scaled = models.scaled(models.images(rows))
    transformed = [{"image_xf": z, "label": row["label"]} for z, row in zip(scaled, rows, strict=True)]
    examples = {
        "raw": models.write_examples(tmp_path / "raw", {"eval": rows}),
        "transformed": models.write_examples(tmp_path / "transformed", {"eval": transformed}),
        "other": models.write_examples(tmp_path / "other", {"eval": [{"picture": [1.0], "label": 1}]}),
    }
    inputs = {
        "model": models.model_artifact(root),
        "variants": evaluations.write_variants(
            tmp_path / "variants",
            {"float32": evaluations.convert(saved_model, "float32")},
            saved_model,
            input_name=models.SCALED,
        ),
    }
    config = to_json(evaluations.eval_config(floor=0.9))

    def run(kind, **more):
        evaluated = {**inputs, "examples": examples[kind], **more}
        outputs = evaluations.execute(evaluated, {"eval_config": config}, tmp_path / f"{kind}-{len(more)}")
        return EvaluationRecord.read(Path(outputs["evaluation"].uri) / "record.json")

    with pytest.raises(
        EvaluationError, match=r"No feature for model input image_xf .*transform_graph=transform\.outputs"
    ):
        run("raw")
    with pytest.raises(EvaluationError, match=r"gives no 'image_xf' for these examples: .*Transform was given"):
        run("other", transform_graph=graph)
    record = run("raw", transform_graph=graph)
    assert (record.winner, record.num_examples) == ("float32", 60)
    loaded = tf.saved_model.load(str(saved_model)).signatures["serving_default"]
    hits = loaded(image_xf=tf.constant(scaled))["output_0"].numpy().argmax(axis=1)
    accuracy = float(np.mean(hits == [row["label"] for row in rows]))
    assert overall(record, "saved_model")[ACCURACY] == pytest.approx(accuracy)
    assert overall(record, "float32") == pytest.approx(overall(record, "saved_model"), abs=1e-6)
    # Transformed examples are fed as they are, though the graph is given.
    assert overall(run("transformed", transform_graph=graph), "float32") == pytest.approx(
        overall(record, "float32"), abs=1e-5
    )


def test_an_altered_file_is_not_blessed(world, tmp_path):
    good = world.files["float32"]
    variants = evaluations.write_variants(tmp_path / "variants", {"float32": good}, world.saved_model)
    (tmp_path / "variants" / "float32" / "model.tflite").write_bytes(world.files["integer_only_int8"])
    inputs = {"examples": world.examples, "model": world.model, "variants": variants}
    outputs = evaluations.execute(inputs, {"eval_config": to_json(evaluations.eval_config())}, tmp_path)
    record = EvaluationRecord.read(Path(outputs["evaluation"].uri) / "record.json")
    assert [reason.code for reason in record.verdict("float32").reasons] == ["altered"]


def config_with(**spec):
    config = evaluations.eval_config()
    for field, value in spec.items():
        setattr(config.model_specs[0], field, value)
    return config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"example_splits": '["test"]'}, r"no split 'test'. Their splits: eval, train, empty, unlabelled"),
        ({"example_splits": '["empty"]'}, r"'empty' of the examples (is empty|has no files).*example_splits"),
        ({"example_splits": '["unlabelled"]'}, r"label_key 'label' .* not among the features .*: image\."),
        ({"config": {"signature_name": "serve_mobile"}}, r"no signature 'serve_mobile'; it has: serve.*signature_name"),
        ({"config": {"label_key": "digit"}}, r"label_key 'digit' .* not among the features .*image, label"),
        ({"example_splits": "eval"}, r"example_splits='eval' is not JSON.*\[\"eval\"\]"),
        ({"budget": '{"max_size": 3}'}, r"budget=.*max_size.*max_size_bytes"),
        ({"objective": "speed"}, r"objective='speed' is unknown. Use one of: size"),
    ],
)
def test_bad_input_is_an_error_that_says_what_to_do(world, tmp_path, change, message):
    change = dict(change)
    config = config_with(**change.pop("config", {}))
    with pytest.raises(EvaluationError, match=message):
        world.run(tmp_path, {"float32": world.files["float32"]}, config, **change)
    assert_nothing_written(tmp_path)


def test_a_model_without_a_saved_model_is_an_error(world, tmp_path):
    (tmp_path / "keras").mkdir()
    with pytest.raises(EvaluationError, match=r"holds no SavedModel: there is no saved_model\.pb"):
        world.run(tmp_path, {"float32": world.files["float32"]}, model=models.model_artifact(tmp_path / "keras"))
    assert_nothing_written(tmp_path)


def test_another_model_than_the_converted_one_is_an_error(world, tmp_path):
    # The same signature and the same outputs: only the bytes tell that it is the wrong baseline.
    network = models.raw_network()
    network.layers[-1].set_weights([weights * 0.5 for weights in network.layers[-1].get_weights()])
    network.export(str(tmp_path / "model" / "Format-Serving"), format="tf_saved_model", verbose=False)
    with pytest.raises(EvaluationError, match=f"not the one the variants were converted from.*{world.sha256}"):
        world.run(tmp_path, {"float32": world.files["float32"]}, model=models.model_artifact(tmp_path / "model"))
    assert_nothing_written(tmp_path)


def test_model_inputs_that_are_no_features_are_an_error(world, tmp_path):
    examples = models.write_examples(tmp_path / "examples", {"eval": [{"picture": [1.0], "label": 1}]})
    with pytest.raises(EvaluationError, match=r"No feature for model input image.*its features: label, picture"):
        world.run(tmp_path, {"float32": world.files["float32"]}, examples=examples)
    assert_nothing_written(tmp_path)


def test_a_feature_that_lacks_in_a_later_example_is_an_error_not_a_default(world, tmp_path):
    rows = [*ROWS, {"label": 1}]
    examples = models.write_examples(tmp_path / "examples", {"eval": rows}, num_shards=1)
    with pytest.raises(EvaluationError, match=r"'image', an input of the SavedModel, is missing in some examples"):
        world.run(tmp_path, {"float32": world.files["float32"]}, examples=examples)
    assert_nothing_written(tmp_path)


@pytest.mark.parametrize(
    ("name", "meaning"), [("saved_model", "the float baseline"), ("production", "the model that phones run today")]
)
def test_a_variant_with_the_name_of_another_model_is_an_error(world, tmp_path, name, meaning):
    with pytest.raises(EvaluationError, match=f"called '{name}', the name of {meaning}"):
        world.run(tmp_path, {name: world.files["float32"]})
    assert_nothing_written(tmp_path)


def test_variants_without_a_manifest_are_an_error(world, tmp_path):
    variants = evaluations.write_variants(tmp_path / "variants", {"float32": world.files["float32"]}, world.saved_model)
    (tmp_path / "variants" / "manifest.json").unlink()
    inputs = {"examples": world.examples, "model": world.model, "variants": variants}
    with pytest.raises(EvaluationError, match=r"no manifest\.json"):
        evaluations.execute(inputs, {"eval_config": to_json(evaluations.eval_config())}, tmp_path)


def overall(record, model):
    (metrics,) = [m.slices[0].metrics for m in record.models if m.model == model]
    return metrics


def assert_nothing_written(root: Path) -> None:
    for key in ("evaluation", "blessing", "blessed_model"):
        assert list((root / key).iterdir()) == []


class TestConstruction:
    def channels(self):
        from tfx.types import Channel, standard_artifacts

        return {
            "examples": Channel(type=standard_artifacts.Examples),
            "model": Channel(type=standard_artifacts.Model),
            "variants": Channel(type=artifacts.TFLiteVariants),
        }

    def test_parameters_are_stored_as_json(self):
        from tfx.types import standard_artifacts

        component = QuantizationEvaluator(
            **self.channels(), eval_config=evaluations.eval_config(), budget=Budget(max_size_bytes=10)
        )
        properties = component.spec.exec_properties
        assert json.loads(properties["eval_config"])["model_specs"] == [{"label_key": "label"}]
        assert json.loads(properties["example_splits"]) == ["eval"]
        assert Budget.model_validate_json(properties["budget"]) == Budget(max_size_bytes=10)
        assert json.loads(properties["objective"]) == {"size": 1.0}
        assert Confidence.model_validate_json(properties["confidence"]) == Confidence()
        assert (properties["latency"], properties["production"]) == ("null", "null")
        assert "tensorflow-model-analysis" in properties["fingerprint"]
        assert {key: channel.type for key, channel in component.outputs.items()} == {
            "evaluation": standard_artifacts.ModelEvaluation,
            "blessing": artifacts.TFLiteBlessing,
            "blessed_model": artifacts.TFLiteModel,
        }
        assert component.with_beam_pipeline_args(["--x=1"]).executor_spec.beam_pipeline_args == ["--x=1"]

    def test_inputs_that_may_be_left_out(self):
        from tfx.types import Channel, standard_artifacts

        more = {
            "transform_graph": Channel(type=standard_artifacts.TransformGraph),
            "schema": Channel(type=standard_artifacts.Schema),
        }
        config = evaluations.eval_config()
        assert set(QuantizationEvaluator(**self.channels(), eval_config=config).inputs) == set(self.channels())
        assert set(QuantizationEvaluator(**self.channels(), **more, eval_config=config).inputs) == {
            *self.channels(),
            *more,
        }

    def test_parameters_may_be_runtime_parameters(self):
        from tfx.orchestration.data_types import RuntimeParameter

        names = (
            "eval_config", "example_splits", "budget", "objective", "confidence", "latency", "production",
            "golden_examples",
        )  # fmt: skip
        parameters = {name: RuntimeParameter(name=name, ptype=str) for name in names}
        component = QuantizationEvaluator(**self.channels(), **parameters)
        assert {name: component.spec.exec_properties[name] for name in names} == parameters

    @pytest.mark.parametrize(
        ("parameters", "message"),
        [
            ({"objective": "speed"}, "objective='speed' is unknown"),
            ({"objective": {"size": 0}}, "weights are positive"),
            ({"objective": {}}, "objective={} is not valid"),
            ({"confidence": {"level": 1}}, "confidence=.*level"),
            ({"latency": {"rounds": 2}}, "latency=.*rounds"),
            ({"production": {"destination": {"base_directory": "/x"}, "model_name": "1"}}, "model_name='1' is not val"),
            ({"production": {"model_name": "digits"}}, "production=.*destination"),
            ({"budget": {"max_min_runtime": "new"}}, "budget=.*max_min_runtime"),
            ({"budget": {"max_size": 1}}, "budget=.*max_size_bytes"),
            ({"budget": {"max_size_bytes": 0}}, "budget=.*max_size_bytes"),
            ({"example_splits": [1]}, "example_splits"),
            ({"eval_config": evaluations.eval_config(drop=None)}, "no threshold.*Add one"),
            ({"eval_config": {"metrics_specs": []}}, "no threshold.*Add one"),
            ({"eval_config": "nonsense"}, "not JSON"),
            ({"eval_config": 3}, "no EvalConfig"),
        ],
    )
    def test_wrong_construction_is_a_value_error(self, parameters, message):
        with pytest.raises(ValueError, match=message) as raised:
            QuantizationEvaluator(**{**self.channels(), "eval_config": evaluations.eval_config(), **parameters})
        assert isinstance(raised.value, EvalConfigError)
        assert isinstance(raised.value, TFXMobileError)
