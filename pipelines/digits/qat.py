"""The digits model's quantization-aware twin: Trainer's callback for a second Trainer.

It starts from the float model that the first Trainer made (its `base_model`) and trains it further with int8 simulated,
as Google's guide for quantization-aware training does it. Needs the extra `qat`. tensorflow-model-optimization knows
Keras 2 only, so this model is a tf_keras one; its SavedModel has the float model's signature.
"""

from __future__ import annotations

import os
from typing import Any

from pipelines.digits import model

LEARNING_RATE = 5e-4  # a quarter of what the float model was trained with: this is fine-tuning


def run_fn(fn_args: Any) -> None:
    """Trainer's callback: makes the float model quantization-aware, trains on, and saves it as the float model is."""
    import tensorflow_transform as tft

    transform_output = tft.TFTransformOutput(fn_args.transform_output)
    model.save(train(fn_args, transform_output), fn_args, transform_output)


def train(fn_args: Any, transform_output: Any) -> Any:
    """A trained tf_keras model: `image` [N, 64] float32 in 0..1 to probabilities [N, 10], fake-quantized inside."""
    import tf_keras

    tf_keras.utils.set_random_seed(0)
    network = model.network(tf_keras)
    network.set_weights(_float_weights(fn_args.base_model, network))
    aware = _quantize_model(network)
    aware.compile(optimizer=tf_keras.optimizers.Adam(LEARNING_RATE), loss="sparse_categorical_crossentropy")
    examples = model.dataset(fn_args.train_files, transform_output)
    aware.fit(examples, steps_per_epoch=fn_args.train_steps, epochs=1, verbose=0)
    return aware


def _quantize_model(network: Any) -> Any:
    """tensorflow-model-optimization's `quantize_model`, without what importing it does to the process.

    The import sets TF_USE_LEGACY_KERAS, and a runner may go on in this process, and its children, with other steps.
    """
    before = os.environ.get("TF_USE_LEGACY_KERAS")
    try:
        import tensorflow_model_optimization as tfmot
    finally:
        if before is None:
            os.environ.pop("TF_USE_LEGACY_KERAS", None)
        else:
            os.environ["TF_USE_LEGACY_KERAS"] = before
    return tfmot.quantization.keras.quantize_model(network)


def _float_weights(saved_model: str, network: Any) -> list[Any]:
    """The weights of the float model in the order of `network.get_weights()`.

    Raises:
        ValueError: There is no float model, or it is another network.
    """
    import tensorflow as tf

    if not saved_model:
        raise ValueError(
            "The quantization-aware twin starts from the float model. Pass base_model=trainer.outputs['model'] to its "
            "Trainer."
        )
    loaded = tf.saved_model.load(saved_model)
    trained = {variable.name: variable.numpy() for variable in loaded.signatures["serving_default"].variables}
    missing = sorted(weight.name for weight in network.weights if weight.name not in trained)
    if missing:
        raise ValueError(
            f"The base_model {saved_model} has no {', '.join(missing)}; it has {', '.join(sorted(trained))}. Both must "
            "be pipelines.digits.model.network."
        )
    return [trained[weight.name] for weight in network.weights]
