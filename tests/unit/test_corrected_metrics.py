import numpy as np
import pytest

from tfx_mobile.quantization_evaluator.scoring import corrected_metrics


@pytest.mark.parametrize("name", ["IoU", "MeanIoU"])
def test_a_weight_per_example_counts_for_every_position_of_its_map(name):
    rng = np.random.default_rng(0)
    labels, found = rng.integers(0, 3, (2, 5, 4, 4))
    weights = np.array([0.0, 1.0, 2.0, 0.5, 3.0])
    everywhere = np.broadcast_to(weights[:, None, None], labels.shape)
    hits = np.array([(((found == c) & (labels == c)) * everywhere).sum() for c in range(3)])
    union = np.array([(((found == c) | (labels == c)) * everywhere).sum() for c in range(3)])
    settings = {"num_classes": 3, **({"target_class_ids": [0, 1, 2]} if name == "IoU" else {})}
    for shape in ((5,), (5, 1)):
        metric = getattr(corrected_metrics, corrected_metrics.CORRECTED[name])(**settings)
        metric.update_state(labels, found, weights.reshape(shape))
        assert float(metric.result()) == pytest.approx((hits / union).mean(), abs=1e-6)
    assert (hits / union).mean() != pytest.approx(
        np.mean([((found == c) & (labels == c)).sum() / ((found == c) | (labels == c)).sum() for c in range(3)]),
        abs=1e-3,
    )


def test_corrected_metrics_keep_their_names():
    import tensorflow_model_analysis as tfma
    from google.protobuf import json_format

    from tfx_mobile.quantization_evaluator import eval_config

    limit = {"value_threshold": {"lower_bound": 0.5}}
    boxes = '"class_ids": [0], "labels_to_stack": ["a"], "predictions_to_stack": ["b"]'
    document = {
        "model_specs": [{"label_key": "mask"}],
        "metrics_specs": [
            {
                "metrics": [
                    {"class_name": "MeanIoU", "config": '"num_classes": 3', "threshold": limit},
                    {"class_name": "COCOMeanAveragePrecision", "config": boxes, "threshold": limit},
                    {"class_name": "MeanIoU", "module": "somewhere.else", "config": '"num_classes": 3'},
                ]
            }
        ],
    }
    config = json_format.ParseDict(document, tfma.EvalConfig())
    custom = eval_config.expand(config, ["variant"]).metrics_specs[0].metrics[2]
    assert (custom.class_name, custom.module) == ("MeanIoU", "somewhere.else")
    del config.metrics_specs[0].metrics[2]
    assert eval_config.gated_metrics(config) == ("mean_io_u", "mean_average_precision")
    eval_config.check(config)


def test_segmentation_metrics_do_not_mix_with_weights():
    from pipelines import configs
    from tfx_mobile.errors import EvalConfigError
    from tfx_mobile.quantization_evaluator import eval_config

    config = configs.eval_config("tasks/segmentation_png")
    config.model_specs[0].example_weight_key = "weight"
    with pytest.raises(EvalConfigError, match="example_weight_key and metric 'SemanticSegmentationTruePositive'"):
        eval_config.check(config)


def test_segmentation_metrics_are_gated_per_class():
    from pipelines import configs
    from tfx_mobile.errors import EvalConfigError
    from tfx_mobile.quantization_evaluator import eval_config

    config = configs.eval_config("tasks/segmentation_png")
    eval_config.check(config)
    config.metrics_specs[0].ClearField("binarize")
    with pytest.raises(EvalConfigError, match=r"'semantic_segmentation_true_positives', which is not computed"):
        eval_config.check(config)
