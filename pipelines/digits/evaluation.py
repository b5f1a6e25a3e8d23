"""What the digits models must reach, as TFMA configurations."""

from __future__ import annotations

import tensorflow_model_analysis as tfma
from google.protobuf import text_format

from pipelines.digits.data import LABEL


def float_gate() -> tfma.EvalConfig:
    """For the stock Evaluator: the float model against a floor and against the last blessed float model."""
    return text_format.Parse(
        f"""
        model_specs {{ signature_name: "serving_default" label_key: "{LABEL}" }}
        slicing_specs {{}}
        metrics_specs {{
          metrics {{
            class_name: "SparseCategoricalAccuracy"
            threshold {{
              value_threshold {{ lower_bound {{ value: 0.9 }} }}
              change_threshold {{ direction: HIGHER_IS_BETTER absolute {{ value: -0.02 }} }}
            }}
          }}
        }}
        """,
        tfma.EvalConfig(),
    )


def mobile_gate() -> tfma.EvalConfig:
    """For QuantizationEvaluator: every variant against a floor and against the float model it came from.

    Overall a variant may lose one point of accuracy; on any one digit six, since a digit has about 40 examples in the
    eval split, where a single one is worth 2.4 points.
    """
    return text_format.Parse(
        f"""
        model_specs {{ signature_name: "serving_default" label_key: "{LABEL}" }}
        slicing_specs {{}}
        slicing_specs {{ feature_keys: "{LABEL}" }}
        metrics_specs {{
          metrics {{ class_name: "ExampleCount" }}
          metrics {{ class_name: "SparseCategoricalCrossentropy" }}
          metrics {{
            class_name: "SparseCategoricalAccuracy"
            per_slice_thresholds {{
              slicing_specs {{}}
              threshold {{
                value_threshold {{ lower_bound {{ value: 0.9 }} }}
                change_threshold {{ direction: HIGHER_IS_BETTER absolute {{ value: -0.01 }} }}
              }}
            }}
            per_slice_thresholds {{
              slicing_specs {{ feature_keys: "{LABEL}" }}
              threshold {{ change_threshold {{ direction: HIGHER_IS_BETTER absolute {{ value: -0.06 }} }} }}
            }}
          }}
        }}
        """,
        tfma.EvalConfig(),
    )
