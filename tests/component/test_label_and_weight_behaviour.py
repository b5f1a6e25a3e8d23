"""What happens with labels and weights that are missing, wrong, or many: a number that is defined, or a plain error."""

import dataclasses
import re

import numpy as np
import pytest
from google.protobuf import json_format

from tests.fakes import tasks
from tfx_mobile.errors import EvaluationError

CLASS, ROWS = {"label_key": "species"}, 60
WEIGHTED = {**CLASS, "example_weight_key": "weight"}
CHANGE = {"change_threshold": {"direction": "HIGHER_IS_BETTER", "absolute": -0.5}}
ACCURACY = {"class_name": "SparseCategoricalAccuracy", "threshold": CHANGE}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Tasks by name, with one variant and few examples."""
    built = {}

    def get(name):
        if name not in built:
            task = getattr(tasks, name)(tmp_path_factory.mktemp("task"))
            built[name] = dataclasses.replace(task, rows=task.rows[:ROWS], files={"float32": task.files["float32"]})
        return built[name]

    return get


@pytest.fixture
def evaluate(made, tmp_path):
    """Evaluates a task after `edit(index, row)` of each of its examples."""

    def run(edit, spec=CLASS, metrics=(ACCURACY,), task="multi_class", slices=({},)):
        import tensorflow_model_analysis as tfma

        document = {
            "model_specs": [dict(spec)],
            "slicing_specs": list(slices),
            "metrics_specs": [{"metrics": list(metrics)}],
        }
        rows = [dict(row) for row in made(task).rows]
        for index, row in enumerate(rows):
            edit(index, row)
        config = json_format.ParseDict(document, tfma.EvalConfig())
        return tasks.evaluate(dataclasses.replace(made(task), rows=rows), config, tmp_path), rows

    return run


def every_tenth(key, value):
    def edit(index, row):
        if index % 10 == 3:
            row[key] = value

    return edit


def without(key, step):
    def edit(index, row):
        if index % step == 0:
            del row[key]

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (without("species", 1), r"^label_key 'species' of eval_config is not among the features of split 'eval': mea"),
        (without("species", 10), r"^Label 'species' is missing in \d+ of the \d+ examples of a batch. Leave out"),
        (every_tenth("species", 7), r"^Label 'species' is 7 in some example, but the model has 4 classes, 0 to 3\."),
        (every_tenth("species", -1), r"^Label 'species' is -1 in some example"),
        # A batch may hold a single example.
        (
            every_tenth("species", [1, 2]),
            r"^Label 'species' has (more values in some examples than in|2 values per ex)",
        ),
        (lambda _, row: row.update(species=[1, 2]), r"^Label 'species' has 2 values per example, but Sparse\.\.\. met"),
        (lambda _, row: row.update(species="cat"), r"^Label 'species' is text, but Sparse... metrics take the number"),
    ],
)
def test_a_label_that_is_no_class_is_an_error(evaluate, edit, message):
    with pytest.raises(EvaluationError, match=message):
        evaluate(edit)


@pytest.mark.parametrize("value", [2, -1])
def test_a_binary_label_must_be_0_or_1(evaluate, value):
    metrics = [{"class_name": "BinaryAccuracy", "threshold": CHANGE}]
    with pytest.raises(EvaluationError, match=rf"is {value} in some example, .* labels between 0 and 1") as caught:
        evaluate(every_tenth("fraud", value), {"label_key": "fraud"}, metrics, "binary")
    assert len(str(caught.value)) < 800, "no pages of arrays"


def test_a_label_of_each_class_must_fit_the_output(evaluate):
    metrics = [{"class_name": "BinaryAccuracy", "threshold": CHANGE}]
    with pytest.raises(
        EvaluationError, match=r"Labels of shape \[2\] do not fit predictions of shape \[5\].*Choose a metric"
    ) as got:
        evaluate(lambda _, row: row.update(tags=[1, 0]), {"label_key": "tags"}, metrics, "multi_label")
    assert len(str(got.value)) < 800


def test_metrics_are_weighted(made, evaluate):
    """Also: a label that is no class does not matter where the weight is 0."""
    import tensorflow as tf

    def edit(index, row):
        row["weight"] = [0.0, 1.0, 2.5][index % 3]
        if index % 3 == 2:
            row["species"] = (row["species"] + 1) % 4
        if index % 6 == 0:
            row["species"] = 99

    record, rows = evaluate(edit, WEIGHTED, [ACCURACY, {"class_name": "ExampleCount"}])
    weights, labels, inputs = (np.array([row[key] for row in rows]) for key in ("weight", "species", "measurements"))
    model = tf.saved_model.load(str(made("multi_class").saved_model)).signatures["serving_default"]
    answers = model(measurements=tf.constant(inputs, tf.float32))["probabilities"].numpy().argmax(axis=1)
    metrics = record.models[0].slices[0].metrics
    assert metrics["example_count"] == pytest.approx(weights.sum())
    assert metrics["sparse_categorical_accuracy"] == pytest.approx(np.average(answers == labels, weights=weights))
    assert abs(metrics["sparse_categorical_accuracy"] - np.mean(answers == labels)) > 0.1
    assert record.num_examples == ROWS


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda _, row: row.update(weight=0.0),
            "^example_weight_key 'weight' of eval_config is 0 in every example",
        ),
        (
            lambda i, row: row.update(weight=[1.0, -2.0][i % 2]),
            "^example_weight_key 'weight' of eval_config is -2.0",
        ),
        (every_tenth("weight", 1.0), r"^example_weight_key 'weight' of eval_config is missing in \d+ of the \d+ examp"),
        (every_tenth("wait", 1.0), "'weight' of eval_config is not among the features of split 'eval'"),
    ],
)
def test_weights_must_say_what_counts(evaluate, edit, message):
    with pytest.raises(EvaluationError, match=message):
        evaluate(edit, WEIGHTED)


def test_a_threshold_on_a_slice_without_examples_is_a_reason(evaluate):
    nowhere = {"feature_values": {"species": "9"}}
    gated = {**ACCURACY, "per_slice_thresholds": [{"slicing_specs": [nowhere], "threshold": CHANGE}]}
    record, _ = evaluate(lambda *_: None, metrics=[gated], slices=({}, nowhere))
    (reason,) = record.verdict("float32").reasons
    assert reason.code == "missing_slice"
    assert 'key: "species" value: "9"' in reason.message
    assert record.winner is None


@pytest.mark.parametrize(
    ("spec", "settings", "message"),
    [
        ({"label_keys": {"kind": "kind", "mass": "weight"}}, {"output_names": ["kind", "weight"]}, "'weight', which"),
        ({"label_keys": {"kind": "kind"}}, {"output_names": ["kinds"]}, "'kinds'; the model returns: kind, weight"),
        ({"label_key": "kind", "prediction_key": "sort"}, {}, "prediction_key 'sort' .* it returns: kind, weight"),
        ({"label_key": "kind"}, {}, "failed: .*output_names in metrics_specs"),
    ],
)
def test_an_output_must_be_named_as_the_model_names_it(made, tmp_path, spec, settings, message):
    import tensorflow_model_analysis as tfma

    document = {
        "model_specs": [spec],
        "metrics_specs": [{"metrics": [{"class_name": "MeanSquaredError", "threshold": CHANGE}], **settings}],
    }
    config = json_format.ParseDict(document, tfma.EvalConfig())
    with pytest.raises(EvaluationError) as caught:
        tasks.evaluate(made("several_outputs"), config, tmp_path)
    assert re.search(message, str(caught.value)), caught.value


def test_one_of_several_outputs_by_prediction_key(made, tmp_path):
    import tensorflow_model_analysis as tfma

    gated = {"class_name": "SparseCategoricalAccuracy", "threshold": {"value_threshold": {"lower_bound": 0.9}}}
    document = {
        "model_specs": [{"label_key": "kind", "prediction_key": "kind"}],
        "metrics_specs": [{"metrics": [gated]}],
    }
    config = json_format.ParseDict(document, tfma.EvalConfig())
    record = tasks.evaluate(made("several_outputs"), config, tmp_path)
    assert record.winner == "float32"
