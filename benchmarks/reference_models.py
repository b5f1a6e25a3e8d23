"""The reference models of Google's quantization table, converted by every recipe: size, latency and agreement.

The architectures are those of `keras.applications` with random weights, so sizes can be compared with the published
ones and accuracies cannot. Sizes are taken of the untouched model. An untrained network answers the same to every
image, so for agreement and latency its batch normalization statistics are set from one batch and its classifier is
scaled until the logits spread; that gives every convolution a bias, and the files grow by it. Such a network still
magnifies rounding errors as no trained one does: agreement ranks recipes, it does not predict accuracy. It is the share
of images to which a variant gives the class that the float SavedModel gives; similarity is the mean cosine between
their probabilities. Latency is CPU time of one inference on one thread, as a ratio to the float32 file in the same
process:
variants take turns, the least of all rounds counts, and the float32 file takes part twice as the control.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from measuring import run_child, write_result
from tfx_mobile.recipes import CalibrationSpec, resolve_recipes
from tfx_mobile.tflite_converter.conversion import convert
from tfx_mobile.tflite_converter.job import Job

RECIPES = (
    "float32",
    "float16",
    "dynamic_range",
    "full_integer",
    "integer_only_int8",
    "integer_only_uint8",
    "int16x8",
    "int4",
)
# keras.applications name: side of its images, published size in MB as float and as quantized.
MODELS = {
    "MobileNet": (224, 16.9, 4.3),
    "MobileNetV2": (224, 14.0, 3.6),
    "InceptionV3": (299, 95.7, 23.9),
    "ResNet101V2": (224, 178.3, 44.9),
}
UNTOUCHED_RECIPES = ("float32", "dynamic_range")
COLUMNS = ("recipe", "MB", "of float32", "latency", "agreement", "similarity")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--images", type=int, default=100, help="images for agreement")
    parser.add_argument("--samples", type=int, default=20, help="calibration samples")
    parser.add_argument("--rounds", type=int, default=10, help="rounds of the latency measurement")
    parser.add_argument("--child", choices=("prepare", "measure"), help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        step = {"prepare": prepare, "measure": measure}[arguments.child]
        print(json.dumps(step(arguments.work, arguments.models[0], arguments)))
        return
    results = {name: run(name, arguments) for name in arguments.models}
    settings = {key: getattr(arguments, key) for key in ("images", "samples", "rounds")}
    write_result(__file__, {**settings, "models": results})


def run(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as temp:
        work = Path(temp)
        child("prepare", name, work, arguments)
        untouched = converted(work, "untouched", UNTOUCHED_RECIPES, None, ())
        sizes = {variant.name: round(variant.file.size_bytes / 1e6, 3) for variant in untouched.variants}
        spec = CalibrationSpec(num_samples=arguments.samples, evaluation_split=None)
        conversion = converted(work, "saved_model", RECIPES, spec, (str(work / "train.gz"),))
        files = {variant: str(path) for variant, path in conversion.files.items()}
        (work / "files.json").write_text(json.dumps(files))
        measured = child("measure", name, work, arguments)
        recipes: dict[str, Any] = {}
        for variant in conversion.variants:
            if variant.file is None or variant.failure is not None:
                assert variant.failure is not None
                recipes[variant.name] = {"failure": f"{variant.failure.code}: {variant.failure.message}"}
            else:
                megabytes = variant.file.size_bytes / 1e6
                recipes[variant.name] = {"megabytes": round(megabytes, 2), **measured["recipes"][variant.name]}
    return show(name, sizes, recipes, measured)


def converted(work: Path, model: str, recipes: tuple[Any, ...], spec: Any, files: tuple[str, ...]) -> Any:
    """Converts the SavedModel `work / model`."""
    folder = work / f"{model}-converted"
    folder.mkdir()
    job = Job(
        saved_model=str(work / model),
        signature_name="serving_default",
        recipes=resolve_recipes(recipes),
        batch_size=1,
        calibration=spec,
        example_files=files,
        work_dir=str(folder),
    )
    return convert(job, deadline_seconds=1800)


def show(name: str, sizes: dict[str, float], recipes: dict[str, Any], measured: dict[str, Any]) -> dict[str, Any]:
    side, published_float, published_quantized = MODELS[name]
    control, float32 = measured["control"], recipes["float32"]["megabytes"]
    deviations = {
        "float32": round(sizes["float32"] / published_float - 1, 4),
        "dynamic_range": round(sizes["dynamic_range"] / published_quantized - 1, 4),
    }
    print(f"\n{name} {side}x{side}: published {published_float} to {published_quantized} MB; untouched ", end="")
    print(f"{sizes['float32']} ({deviations['float32']:+.1%}) to {sizes['dynamic_range']} ", end="")
    print(f"({deviations['dynamic_range']:+.1%}) MB; latency control {control:.2f}, ", end="")
    print(f"{measured['distinct_classes']} classes among the images")
    print("| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS))
    for recipe, facts in recipes.items():
        if "failure" in facts:
            print(f"| {recipe} | {facts['failure']} |", flush=True)
            continue
        share = facts["megabytes"] / float32
        print(f"| {recipe} | {facts['megabytes']:.2f} | {share:.2f} ", end="")
        print(f"| {facts['latency_ratio']:.2f} | {facts['agreement']:.2f} | {facts['similarity']:.3f} |", flush=True)
    return {
        "untouched_megabytes": sizes,
        "untouched_size_against_published": deviations,
        "latency_control": control,
        "distinct_classes": measured["distinct_classes"],
        "recipes": recipes,
    }


def child(step: str, name: str, work: Path, arguments: argparse.Namespace) -> Any:
    options = {key: getattr(arguments, key) for key in ("images", "samples", "rounds")}
    return run_child(__file__, step, models=name, work=work, **options)


def images(count: int, side: int, seed: int) -> Any:
    """Random images in -1 to 1 with coarse structure and a colour cast each, float32 [count, side, side, 3]."""
    import numpy as np

    rng = np.random.default_rng(seed)
    coarse = rng.uniform(-1, 1, (count, 8, 8, 3)) * rng.uniform(0.2, 1, (count, 1, 1, 1))
    coarse += rng.uniform(-0.5, 0.5, (count, 1, 1, 3))
    index = np.arange(side) * 8 // side
    return np.clip(coarse[:, index][:, :, index], -1, 1).astype(np.float32)


def prepare(work: Path, name: str, arguments: argparse.Namespace) -> None:
    import keras
    import numpy as np
    import tensorflow as tf

    side = MODELS[name][0]
    keras.utils.set_random_seed(0)
    image = keras.Input((side, side, 3), name="image")
    model = getattr(keras.applications, name)(weights=None, input_tensor=image)
    normalizations = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    model.export(str(work / "untouched"), format="tf_saved_model", verbose=False)
    momenta = [layer.momentum for layer in normalizations]
    for layer in normalizations:
        layer.momentum = 0.0
    model(images(16, side, seed=1), training=True)
    for layer, momentum in zip(normalizations, momenta, strict=True):
        layer.momentum = momentum
    spread(model, images(16, side, seed=1))
    model.export(str(work / "saved_model"), format="tf_saved_model", verbose=False)
    with tf.io.TFRecordWriter(str(work / "train.gz"), "GZIP") as writer:
        for values in images(arguments.samples, side, seed=2):
            feature = {"image": tf.train.Feature(float_list=tf.train.FloatList(value=values.ravel()))}
            writer.write(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())
    unseen = images(arguments.images, side, seed=3)
    np.save(work / "images.npy", unseen)
    serve = tf.saved_model.load(str(work / "saved_model")).signatures["serving_default"]
    outputs = [serve(image=tf.constant(values[None]))["output_0"].numpy()[0] for values in unseen]
    np.save(work / "expected.npy", outputs)


def spread(model: Any, batch: Any) -> None:
    """Centres and scales the classifier, so that logits have a standard deviation of 4 over images and classes.

    Without it every class is about equally likely, and the int8 output of a softmax (steps of 1/256) shows none.
    """
    import keras
    import numpy as np

    classifier = next(layer for layer in reversed(model.layers) if layer.get_weights())
    logits = keras.Model(model.input, classifier.output)
    activation, classifier.activation = classifier.activation, None
    values = np.asarray(logits(batch)).reshape(len(batch), -1)
    classifier.activation = activation
    kernel, bias = classifier.get_weights()
    factor = 4 / (values - values.mean(axis=0)).std()
    classifier.set_weights([kernel * factor, bias - values.mean(axis=0) * factor])


def measure(work: Path, _: str, arguments: argparse.Namespace) -> dict[str, Any]:
    import numpy as np

    from tfx_mobile.tflite.runtime import SignatureRunner

    unseen, expected = np.load(work / "images.npy"), np.load(work / "expected.npy")
    files = json.loads((work / "files.json").read_text())
    runners = {name: SignatureRunner(Path(path).read_bytes()) for name, path in files.items()}
    closeness = {}
    for name, runner in runners.items():
        outputs = runner.run({"image": unseen})["output_0"]
        norms = np.linalg.norm(outputs, axis=1) * np.linalg.norm(expected, axis=1)
        cosines = (outputs * expected).sum(axis=1) / np.maximum(norms, 1e-12)
        closeness[name] = {
            "agreement": round(float(np.mean(outputs.argmax(axis=1) == expected.argmax(axis=1))), 4),
            "similarity": round(float(cosines.mean()), 4),
        }
    runners["control"] = SignatureRunner(Path(files["float32"]).read_bytes())
    least = dict.fromkeys(runners, float("inf"))
    for _ in range(arguments.rounds):
        for name, runner in runners.items():
            for _ in range(2):  # the second one finds its caches warm
                started = time.process_time()
                runner.run({"image": unseen[:1]})
                least[name] = min(least[name], time.process_time() - started)
    latency = {name: round(seconds / least["float32"], 3) for name, seconds in least.items()}
    recipes = {
        name: {**closeness[name], "latency_ratio": latency[name], "cpu_ms": round(1e3 * least[name], 2)}
        for name in files
    }
    return {
        "control": latency["control"],
        "recipes": recipes,
        "distinct_classes": len(set(expected.argmax(axis=1).tolist())),
    }


if __name__ == "__main__":
    main()
