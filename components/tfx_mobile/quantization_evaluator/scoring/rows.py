"""Single examples as models see them: what a variant is fed with, and what the float model makes of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tfx_mobile.quantization_evaluator.scoring.predict import Default, FloatModel, Transform, run_baseline
from tfx_mobile.records import TensorRecord, sha256_of

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Row:
    """One example.

    Attributes:
        sha256: Of the serialized tf.Example.
        inputs: A variant's inputs in real values, by name; [1, ...] each.
        outputs: The float model's outputs, by name; [1, ...] each.
    """

    sha256: str
    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]


def read(
    serialized: Sequence[bytes],
    baseline: FloatModel,
    variant_inputs: Sequence[TensorRecord],
    defaults: Mapping[str, Default],
    transform: Transform | None,
) -> tuple[Row, ...]:
    """Rows of serialized tf.Examples, with features extracted as in the pass.

    Args:
        serialized: The examples.
        baseline: The float model, which is run on them.
        variant_inputs: The variants' inputs before quantization.
        defaults: As in `predict.VariantFile`.
        transform: What is applied to the examples first.

    Raises:
        EvaluationError: A model input has no feature or one that does not fit.
    """
    from tensorflow_model_analysis.utils.util import record_batch_to_tensor_values
    from tfx_bsl.coders.example_coder import ExamplesToRecordBatchDecoder

    if not serialized:
        return ()
    features = record_batch_to_tensor_values(ExamplesToRecordBatchDecoder().DecodeBatch(list(serialized)))
    inputs, outputs = run_baseline(
        baseline, variant_inputs, defaults, features, np.array(serialized, object), transform
    )

    def row(values: Mapping[str, Array], index: int) -> dict[str, Array]:
        return {name: value[index : index + 1] for name, value in values.items()}

    return tuple(Row(sha256_of(data), row(inputs, i), row(outputs, i)) for i, data in enumerate(serialized))
