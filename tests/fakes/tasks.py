"""One tiny model for every kind of task phones run, examples for it, its `.tflite` variants, and a harmed twin.

Nothing is trained: the weights are what Bayes' rule gives for the distribution the data are drawn from. The twin comes
from the same network, with some weights damaged or calibrated on the wrong data: a file that loads and runs.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.fakes import evaluations, models
from tfx_mobile.records import TensorRecord

Array = npt.NDArray[Any]
Weights = Mapping[str, Array]
Network = Callable[[Weights], Callable[..., dict[str, Any]]]

HARMED = "harmed"


@dataclass(frozen=True)
class Task:
    """What QuantizationEvaluator takes, as files.

    Attributes:
        saved_model: The float model, in `Format-Serving` of a Model artifact.
        rows: Examples, as `models.write_examples` takes them.
        files: By name, the good variants and `harmed`.
        good: Names of the variants that must pass.
    """

    saved_model: Path
    rows: list[dict[str, Any]]
    files: dict[str, bytes]

    @property
    def good(self) -> list[str]:
        return [name for name in self.files if name != HARMED]


def save(path: Path, network: Network, weights: Weights, inputs: Sequence[Any]) -> None:
    """Saves `network(weights)` as a SavedModel whose `serving_default` takes `inputs`, named TensorSpecs."""
    import tensorflow as tf

    call = network(weights)
    module = tf.Module()
    module.kept = getattr(call, "kept", None)  # tables must be reachable from what is saved
    tf.saved_model.save(module, str(path), signatures={"serving_default": models.traced(*inputs)(call)})


def make(
    root: Path,
    network: Network,
    weights: Weights,
    rows: list[dict[str, Any]],
    inputs: Sequence[Any],
    *,
    quantized: str = "full_integer",
    damaged: Weights | None = None,
    gain: float | None = None,
) -> Task:
    """Saves the model and converts it.

    Args:
        root: An empty folder.
        network: From weights to a function of the inputs.
        weights: The good ones.
        rows: The examples.
        inputs: TensorSpecs.
        quantized: Name of the second good variant, a built-in recipe.
        damaged: Weights of the harmed twin that differ from the good ones.
        gain: Without damaged weights, the twin is calibrated on inputs this many times their real size.
    """
    saved_model = root / "model" / "Format-Serving"
    save(saved_model, network, weights, inputs)
    calibration = None
    if quantized != "float16":
        calibration = {
            spec.name: np.array([row[spec.name] for row in rows[:64]], spec.dtype.as_numpy_dtype) for spec in inputs
        }
    files = {
        "float32": evaluations.convert(saved_model, "float32"),
        quantized: evaluations.convert(saved_model, quantized, calibration),
    }
    if damaged is not None:
        save(root / HARMED, network, {**weights, **damaged}, inputs)
        files[HARMED] = evaluations.convert(root / HARMED, "float32")
    else:
        assert calibration is not None
        wrong = {name: np.float32(gain) * values for name, values in calibration.items()}
        files[HARMED] = evaluations.convert(saved_model, quantized, wrong)
    return Task(saved_model, rows, files)


def nearest_mean(means: Array, variance: float) -> dict[str, Array]:
    """The linear classifier that Bayes' rule gives for normal classes of one variance: kernel [n, classes], bias."""
    return {"kernel": means.T / variance, "bias": -(means**2).sum(axis=1) / (2 * variance)}


def _spec(name: str, *shape: int, dtype: str = "float32", batch: int | None = None) -> Any:
    import tensorflow as tf

    return tf.TensorSpec([batch, *shape], dtype, name=name)


def _constants(weights: Weights) -> dict[str, Any]:
    import tensorflow as tf

    return {name: tf.constant(values, tf.float32) for name, values in weights.items()}


def _linear(output: str, activation: str) -> Network:
    import tensorflow as tf

    def network(weights: Weights) -> Callable[..., dict[str, Any]]:
        w = _constants(weights)
        apply = {"softmax": tf.nn.softmax, "sigmoid": tf.sigmoid, "none": tf.identity}[activation]
        return lambda measurements: {output: apply(measurements @ w["kernel"] + w["bias"])}

    return network


def binary(root: Path) -> Task:
    """`measurements` float [8] to the probability of `fraud`; the twin is calibrated on a tenth of the range."""
    rng = np.random.default_rng(1)
    means = rng.normal(0, 0.9, (2, 8))
    both = nearest_mean(means, 1.0)
    weights = {"kernel": both["kernel"][:, 1:] - both["kernel"][:, :1], "bias": both["bias"][1:] - both["bias"][:1]}
    labels = rng.integers(0, 2, 400)
    rows = [
        {"measurements": means[label] + rng.normal(0, 1, 8), "fraud": label, "country": ["DE", "JP"][index % 2]}
        for index, label in enumerate(labels)
    ]
    return make(root, _linear("probability", "sigmoid"), weights, rows, [_spec("measurements", 8)], gain=0.1)


def multi_class(root: Path) -> Task:
    """`measurements` float [8] to probabilities of 4 classes; the twin takes the third class for the fourth."""
    rng = np.random.default_rng(2)
    means = rng.normal(0, 1.5, (4, 8))
    weights = nearest_mean(means, 1.0)
    rows = [{"measurements": means[i % 4] + rng.normal(0, 1, 8), "species": i % 4} for i in range(400)]
    bias = weights["bias"] - np.array([0, 0, 100.0, 0])
    network = _linear("probabilities", "softmax")
    return make(root, network, weights, rows, [_spec("measurements", 8)], damaged={"bias": bias})


def multi_label(root: Path) -> Task:
    """`measurements` float [10] to the probabilities of 5 tags; the twin has the sign of tag 3 wrong."""
    rng = np.random.default_rng(3)
    kernel = rng.normal(0, 1, (10, 5))
    values = rng.normal(0, 1, (400, 10))
    tags = values @ kernel + rng.normal(0, 0.3, (400, 5)) > 0
    rows = [{"measurements": v, "tags": t.astype(int)} for v, t in zip(values, tags, strict=True)]
    weights = {"kernel": kernel, "bias": np.zeros(5)}
    damaged = {"kernel": kernel * np.array([1, 1, 1, -1, 1])}
    return make(root, _linear("tags", "sigmoid"), weights, rows, [_spec("measurements", 10)], damaged=damaged)


def regression(root: Path) -> Task:
    """`measurements` float [6] to a price of about -10 to 10; the twin is calibrated on a third of the range."""
    rng = np.random.default_rng(4)
    values = rng.normal(0, 1, (400, 6))
    kernel, bias = rng.normal(0, 1.5, (6, 1)), np.array([0.5])
    prices = (values @ kernel + bias)[:, 0] + rng.normal(0, 0.2, 400)
    rows = [{"measurements": v, "price": p} for v, p in zip(values, prices, strict=True)]
    network = _linear("price", "none")
    return make(root, network, {"kernel": kernel, "bias": bias}, rows, [_spec("measurements", 6)], gain=0.3)


def several_outputs(root: Path) -> Task:
    """`measurements` float [6] to `kind`, 3 probabilities, and `weight`, a number; the twin's `weight` is too small."""
    import tensorflow as tf

    rng = np.random.default_rng(5)
    means = rng.normal(0, 2, (3, 6))
    slope = rng.normal(0, 1, (6, 1))
    rows = []
    for index in range(300):
        values = means[index % 3] + rng.normal(0, 1, 6)
        rows.append({"measurements": values, "kind": index % 3, "weight": float(values @ slope) + rng.normal(0, 0.1)})

    def network(weights: Weights) -> Callable[..., dict[str, Any]]:
        w = _constants(weights)
        return lambda measurements: {
            "kind": tf.nn.softmax(measurements @ w["kernel"] + w["bias"]),
            "weight": measurements @ w["slope"],
        }

    weights = {**nearest_mean(means, 1.0), "slope": slope}
    return make(root, network, weights, rows, [_spec("measurements", 6)], damaged={"slope": slope * 0.8})


SIDE, LEVELS = 8, np.array([0.1, 0.5, 0.9])


def segmentation(root: Path, outputs: Sequence[str] = ("mask",)) -> Task:
    """`image` float [8, 8] to the class of each pixel; the twin never finds class 2.

    Args:
        root: An empty folder.
        outputs: `mask`, the class [8, 8], and `scores`, a probability per class [8, 8, 3].

    The examples have the classes twice: as a flat list in `mask` and as a PNG file in `mask_png`.
    """
    import tensorflow as tf
    from PIL import Image

    rng = np.random.default_rng(6)
    rows = []
    for _ in range(60):
        mask = np.zeros((SIDE, SIDE), np.uint8)
        for level in (1, 2):
            top, left = rng.integers(0, SIDE - 3, 2)
            mask[top : top + 4, left : left + 4] = level
        png = io.BytesIO()
        Image.fromarray(mask).save(png, "PNG")
        image = LEVELS[mask] + rng.normal(0, 0.08, mask.shape)
        rows.append({"image": image, "mask": mask, "mask_png": png.getvalue()})

    def network(weights: Weights) -> Callable[..., dict[str, Any]]:
        w = _constants(weights)

        def call(image: Any) -> dict[str, Any]:
            logits = tf.nn.conv2d(image[..., None], w["kernel"][None, None], 1, "SAME") + w["bias"]
            found = {"mask": tf.argmax(logits, axis=-1, output_type=tf.int32), "scores": tf.nn.softmax(logits)}
            return {name: found[name] for name in outputs}

        return call

    weights = nearest_mean(LEVELS[:, None], 0.08**2)
    damaged = {"bias": weights["bias"] - np.array([0, 0, 1000.0])}
    return make(root, network, weights, rows, [_spec("image", SIDE, SIDE)], damaged=damaged)


CELL, MAX_DETECTIONS = 4, 6
SHAPES = np.array(
    [
        [[1, 0, 0, 1], [0, 1, 1, 0], [0, 1, 1, 0], [1, 0, 0, 1]],
        [[1, 1, 1, 1], [1, 0, 0, 1], [1, 0, 0, 1], [1, 1, 1, 1]],
    ],
    float,
)
BOX = ("ymin", "xmin", "ymax", "xmax")


def detection(root: Path) -> Task:
    """`image` float [16, 16] to post-processed boxes, one image at a time; the twin never finds class 1.

    A matched filter per class on overlapping cells, then the builtin NON_MAX_SUPPRESSION_V4. Outputs as the usual
    detectors have them: `detection_boxes` [1, 6, 4] (ymin, xmin, ymax, xmax, in parts of the image),
    `detection_classes` and `detection_scores` [1, 6], `num_detections` [1]. Some images hold no object; their examples
    have no feature for boxes.
    """
    import tensorflow as tf

    rng = np.random.default_rng(7)
    side = 4 * CELL
    starts = np.arange(0, side - CELL + 1, 2)
    anchors = np.array([[y, x, y + CELL, x + CELL] for y in starts for x in starts]) / side
    rows = []
    for index in range(48):
        image = rng.normal(0, 0.1, (side, side))
        places = rng.permutation(16)[: index % 4]
        classes = rng.integers(0, 2, len(places))
        corners = np.array([[place // 4 * CELL, place % 4 * CELL] for place in places]).reshape(-1, 2)
        for (y, x), found in zip(corners, classes, strict=True):
            image[y : y + CELL, x : x + CELL] += SHAPES[found]
        row: dict[str, Any] = {"image": image}
        if len(places):
            boxes = np.hstack([corners, corners + CELL]) / side
            row |= {f"object/{name}": boxes[:, column] for column, name in enumerate(BOX)} | {"object/class": classes}
        rows.append(row)

    def network(weights: Weights) -> Callable[..., dict[str, Any]]:
        w = _constants(weights)

        def call(image: Any) -> dict[str, Any]:
            logits = tf.nn.conv2d(image[..., None], w["kernel"], 2, "VALID") + w["bias"]
            by_class = tf.reshape(tf.sigmoid(logits), [len(anchors), 2])
            best = tf.reduce_max(by_class, axis=1)
            chosen, count = tf.raw_ops.NonMaxSuppressionV4(
                boxes=tf.constant(anchors, tf.float32),
                scores=best,
                max_output_size=MAX_DETECTIONS,
                iou_threshold=0.2,
                score_threshold=0.5,
                pad_to_max_output_size=True,
            )
            kept = tf.cast(tf.range(MAX_DETECTIONS) < count, tf.float32)
            classes = tf.gather(tf.cast(tf.argmax(by_class, axis=1, output_type=tf.int32), tf.float32), chosen)
            return {
                "detection_boxes": (tf.gather(tf.constant(anchors, tf.float32), chosen) * kept[:, None])[None],
                "detection_classes": (classes * kept)[None],
                "detection_scores": (tf.gather(best, chosen) * kept)[None],
                "num_detections": tf.reshape(tf.cast(count, tf.float32), [1]),
            }

        return call

    filters = SHAPES - SHAPES.mean(axis=(1, 2), keepdims=True)
    energy = (filters**2).sum(axis=(1, 2))
    gain = 12.0
    weights = {
        "kernel": gain * (filters / energy[:, None, None]).transpose(1, 2, 0)[:, :, None],
        "bias": np.full(2, -0.75 * gain),
    }
    damaged = {"bias": weights["bias"] - np.array([0, 100.0])}
    return make(root, network, weights, rows, [_spec("image", side, side, batch=1)], damaged=damaged)


WORDS, LENGTH = 40, 12


def _texts(rng: np.random.Generator) -> tuple[list[dict[str, Any]], Array]:
    """Token ids in two languages, 0 for nothing, and each token's weight of evidence for the label, [WORDS]."""
    evidence = np.concatenate([[0.0], rng.normal(0, 1, WORDS - 1)])
    half = WORDS // 2
    rows = []
    for index in range(300):
        label, language = index % 2, index // 2 % 2
        own = np.arange(1, half) if language == 0 else np.arange(half, WORDS)
        likely = np.exp(evidence[own] * (label - 0.5))
        count = rng.integers(5, LENGTH + 1)
        tokens = np.zeros(LENGTH, np.int64)
        tokens[:count] = rng.choice(own, count, p=likely / likely.sum())
        rows.append({"tokens": tokens, "positive": label, "language": ["sv", "en"][language]})
    return rows, evidence


def token_ids(root: Path) -> Task:
    """`tokens` int32 [12] to the probability of `positive`; the twin has forgotten the words of one language."""
    import tensorflow as tf

    rows, evidence = _texts(np.random.default_rng(8))

    def network(weights: Weights) -> Callable[..., dict[str, Any]]:
        w = _constants(weights)
        return lambda tokens: {"probability": tf.sigmoid(tf.reduce_sum(tf.gather(w["evidence"], tokens), axis=1))}

    damaged = np.where(np.arange(WORDS) < WORDS // 2, 0, evidence)
    inputs = [_spec("tokens", LENGTH, dtype="int32")]
    weights = {"evidence": evidence[:, None]}
    return make(root, network, weights, rows, inputs, damaged={"evidence": damaged[:, None]})


def strings(root: Path) -> Task:
    """`words` string [12], looked up in a table inside the model; else as `token_ids`."""
    import tensorflow as tf

    rows, evidence = _texts(np.random.default_rng(9))
    vocabulary = ["", *(f"word{index}" for index in range(1, WORDS))]
    for row in rows:
        row["words"] = [vocabulary[token] for token in row.pop("tokens")]

    def network(weights: Weights) -> Callable[..., dict[str, Any]]:
        w = _constants(weights)
        initial = tf.lookup.KeyValueTensorInitializer(vocabulary, tf.range(WORDS, dtype=tf.int64))
        table = tf.lookup.StaticHashTable(initial, default_value=0)

        def call(words: Any) -> dict[str, Any]:
            return {"probability": tf.sigmoid(tf.reduce_sum(tf.gather(w["evidence"], table.lookup(words)), axis=1))}

        call.kept = table  # type: ignore[attr-defined]
        return call

    damaged = np.where(np.arange(WORDS) < WORDS // 2, 0, evidence)
    inputs = [_spec("words", LENGTH, dtype="string")]
    weights = {"evidence": evidence[:, None]}
    return make(root, network, weights, rows, inputs, quantized="float16", damaged={"evidence": damaged[:, None]})


FRAME, FRAMES, TONES = 64, 8, (5, 11, 18)


def _sounds(rng: np.random.Generator, count: int) -> tuple[Array, list[int]]:
    """Waveforms [count, FRAME * FRAMES] of a tone in noise, and which tone."""
    labels = [index % len(TONES) for index in range(count)]
    time = np.arange(FRAME * FRAMES)
    phases = rng.uniform(0, 2 * np.pi, count)
    tones = [np.sin(2 * np.pi * TONES[k] * time / FRAME + p) for k, p in zip(labels, phases, strict=True)]
    return 0.4 * np.array(tones) + rng.normal(0, 0.35, (count, len(time))), labels


def _classify_spectrum(spectrum: Any, w: Mapping[str, Any]) -> dict[str, Any]:
    import tensorflow as tf

    return {"probabilities": tf.nn.softmax(tf.reduce_mean(spectrum, axis=1) @ w["bands"])}


def _bands() -> Array:
    bands = np.zeros((FRAME // 2 + 1, len(TONES)))
    bands[list(TONES), range(len(TONES))] = 1.5
    return bands


def waveform(root: Path) -> Task:
    """`waveform` float [512] through a Fourier transform to 3 probabilities; the twin does not hear one tone."""
    import tensorflow as tf

    values, labels = _sounds(np.random.default_rng(10), 240)
    rows = [{"waveform": v, "word": label} for v, label in zip(values, labels, strict=True)]

    def network(weights: Weights) -> Callable[..., dict[str, Any]]:
        w = _constants(weights)

        def call(waveform: Any) -> dict[str, Any]:
            frames = tf.reshape(waveform, [-1, FRAMES, FRAME])
            return _classify_spectrum(tf.abs(tf.signal.rfft(frames, [FRAME])), w)

        return call

    weights = {"bands": _bands()}
    damaged = {"bands": _bands() * np.array([1, 1, 0])}
    inputs = [_spec("waveform", FRAME * FRAMES)]
    return make(root, network, weights, rows, inputs, damaged=damaged)


def spectrogram(root: Path) -> Task:
    """`spectrogram` float [8, 33] to 3 probabilities; the twin is calibrated on quiet recordings."""
    values, labels = _sounds(np.random.default_rng(11), 240)
    spectra = np.abs(np.fft.rfft(values.reshape(-1, FRAMES, FRAME)))
    rows = [{"spectrogram": v, "word": label} for v, label in zip(spectra, labels, strict=True)]

    def network(weights: Weights) -> Callable[..., dict[str, Any]]:
        w = _constants(weights)
        return lambda spectrogram: _classify_spectrum(spectrogram, w)

    inputs = [_spec("spectrogram", FRAMES, FRAME // 2 + 1)]
    return make(root, network, {"bands": _bands()}, rows, inputs, gain=0.05)


def outputs_of(saved_model: Path) -> list[TensorRecord]:
    """What its signature returns, as TFLiteConverter records it."""
    import tensorflow as tf

    outputs = tf.saved_model.load(str(saved_model)).signatures["serving_default"].structured_outputs
    return [
        TensorRecord(
            name=name,
            dtype=spec.dtype.name,
            shape=() if spec.shape.rank is None else tuple(-1 if size is None else size for size in spec.shape),
        )
        for name, spec in sorted(outputs.items())
    ]


def evaluate(task: Task, config: Any, root: Path, **properties: Any) -> Any:
    """Runs QuantizationEvaluator's executor on a task and returns the EvaluationRecord.

    Args:
        task: What to evaluate.
        config: A tfma.EvalConfig.
        root: An empty folder.
        **properties: Other parameters of the component.
    """
    from tfx_mobile.quantization_evaluator.eval_config import to_json
    from tfx_mobile.quantization_evaluator.scoring.predict import describe_saved_model
    from tfx_mobile.records import EvaluationRecord

    described = describe_saved_model(str(task.saved_model), "serving_default", parses_examples=False)
    inputs = {
        "examples": models.write_examples(root / "examples", {"eval": task.rows}),
        "model": models.model_artifact(task.saved_model.parent),
        "variants": evaluations.write_variants(
            root / "variants",
            task.files,
            task.saved_model,
            inputs=tuple(described.inputs.values()),
            outputs=outputs_of(task.saved_model),
        ),
    }
    outputs = evaluations.execute(inputs, {"eval_config": to_json(config), **properties}, root)
    return EvaluationRecord.read(Path(outputs["evaluation"].uri) / "record.json")
