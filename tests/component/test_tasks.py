"""Every kind of task phones run: good variants pass the gate of its config, the harmed twin is refused and says why."""

import numpy as np
import pytest

from pipelines import configs
from tests.fakes import tasks


def overall(record, model):
    return next(m for m in record.models if m.model == model).slices[0].metrics


def check_detection(task, record):
    """Every object is found; the twin finds none of one of the two classes."""
    assert overall(record, "float32")["mean_average_precision"] == pytest.approx(1)
    assert overall(record, tasks.HARMED)["mean_average_precision"] == pytest.approx(0.5)
    assert any("object/class" not in row for row in task.rows), "images without objects are part of the task"


def check_segmentation(task, record):
    """Pixels counted by hand."""
    images, masks = (np.array([row[key] for row in task.rows]) for key in ("image", "mask"))
    found = np.abs(images[..., None] - tasks.LEVELS).argmin(axis=-1)
    hits, union = (
        np.array([op(found == c, masks == c).sum() for c in range(3)]) for op in (np.logical_and, np.logical_or)
    )
    by_hand = {
        "mean_iou": (hits / union).mean(),
        "mask/mean_iou": (hits / union).mean(),
        "iou_of_class_2": (hits / union)[2],
        "scores/pixel_accuracy": (found == masks).mean(),
        **{f"semantic_segmentation_true_positives@class_id:{c}": hits[c] for c in (1, 2)},
    }
    metrics = overall(record, "float32")
    compared = by_hand.keys() & metrics.keys()
    assert compared
    for metric in compared:
        assert metrics[metric] == pytest.approx(by_hand[metric], abs=1e-6), metric


def blameless(metric):
    """A twin that is harmed in one place is not blamed for another."""

    def check(_, record):
        assert metric in overall(record, tasks.HARMED)
        assert metric not in {reason.metric for reason in record.verdict(tasks.HARMED).reasons}

    return check


# The config, how the task is made, metric and slice that must be among the twin's reasons, and further checks.
TASKS = {
    "binary": ("binary", tasks.binary, {("auc", "overall"), ("binary_accuracy", "country:JP")}),
    "multi-class": ("multi_class", tasks.multi_class, {("sparse_categorical_accuracy", "species:2")}),
    "multi-label": ("multi_label", tasks.multi_label, {("auc@class_id:3", "overall")}, blameless("auc@class_id:2")),
    "regression": ("regression", tasks.regression, {("mean_absolute_error", "overall")}),
    "several outputs": (
        "several_outputs",
        tasks.several_outputs,
        {("weight/mean_absolute_error", "overall")},
        blameless("kind/sparse_categorical_accuracy"),
    ),
    "segmentation": (
        "segmentation",
        tasks.segmentation,
        {("mean_iou", "overall"), ("iou_of_class_2", "overall")},
        check_segmentation,
    ),
    "segmentation, PNG": (
        "segmentation_png",
        tasks.segmentation,
        {("semantic_segmentation_true_positives@class_id:2", "overall")},
        check_segmentation,
        blameless("semantic_segmentation_true_positives@class_id:1"),
    ),
    "segmentation, scores": (
        "segmentation_scores",
        lambda root: tasks.segmentation(root, ("mask", "scores")),
        {("mask/mean_iou", "overall"), ("scores/pixel_accuracy", "overall")},
        check_segmentation,
    ),
    "detection": ("detection", tasks.detection, {("mean_average_precision", "overall")}, check_detection),
    "text, token ids": ("text", tasks.token_ids, {("binary_accuracy", "language:sv")}),
    "text, strings": ("text", tasks.strings, {("binary_accuracy", "language:sv")}),
    "audio, waveform": ("audio", tasks.waveform, {("sparse_categorical_accuracy", "word:2")}),
    "audio, spectrogram": ("audio", tasks.spectrogram, {("sparse_categorical_accuracy", "word:1")}),
}


@pytest.fixture(scope="module", params=TASKS)
def outcome(request, tmp_path_factory):
    """A task's files, the record of its evaluation, what the twin must be refused for, and further checks."""
    config, build, expected, *checks = TASKS[request.param]
    root = tmp_path_factory.mktemp("task")
    task = build(root)
    return task, tasks.evaluate(task, configs.eval_config(f"tasks/{config}"), root), expected, checks


def test_good_variants_pass_and_the_harmed_twin_is_refused(outcome):
    task, record, expected, checks = outcome
    for variant in task.good:
        assert record.verdict(variant).passed, record.verdict(variant).reasons
    assert record.winner in task.good
    harmed = record.verdict(tasks.HARMED)
    assert not harmed.passed
    assert {reason.code for reason in harmed.reasons} == {"threshold"}
    assert {(reason.metric, reason.slice) for reason in harmed.reasons} >= expected
    assert record.num_examples == len(task.rows)
    for check in checks:
        check(task, record)


def test_classes_of_pixels_may_be_a_list_for_tfmas_own_metrics(tmp_path):
    task = tasks.segmentation(tmp_path)
    config = configs.eval_config("tasks/segmentation_png")
    del config.model_specs[0].label_keys["classes"]
    config.model_specs[0].label_keys["mask"] = "mask"
    for metric in config.metrics_specs[0].metrics:
        metric.config = metric.config.replace('"classes"', '"mask"') + ', "decode_ground_truth": false'
    record = tasks.evaluate(task, config, tmp_path)
    check_segmentation(task, record)
    assert record.winner in task.good
