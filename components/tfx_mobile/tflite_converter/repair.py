"""Accuracy repair: makes the `mixed_precision` file, full-integer but for the few layers that must stay in float.

Layers are judged by what leaving them in float does to the model's results on examples, never by quantization error.
The reference is the float32 file. Runs in the child process only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tfx_mobile.errors import CalibrationError, ModelFileError
from tfx_mobile.recipes import ConversionRecipe, RepairSpec
from tfx_mobile.records import RepairRecord, RepairTrial, TensorRecord
from tfx_mobile.tflite.runtime import SignatureRunner
from tfx_mobile.tflite_converter import calibration, failures, float_layers, layer_search

Array = npt.NDArray[Any]

#: Elements of a regression output agree if they are no further apart than this share of the float output's range.
CLOSE = 0.05

_ROWS_AT_ONCE = 32
_VALUES_FILE = "ranking.npz"


@dataclass(frozen=True)
class Examples:
    """What layers are judged on.

    Attributes:
        values: By input name, [rows, ...].
        labels: Classes, [rows]; None to compare with the float model instead.
        num_calibrated: How many of the rows the model was calibrated with.
    """

    values: Mapping[str, Array]
    labels: Array | None
    num_calibrated: int


def num_examples(recipes: Sequence[ConversionRecipe]) -> int:
    """How many examples `prepare_examples` wants beside the calibration sample; 0 if no recipe repairs."""
    return max((spec.num_examples for spec in _specs(recipes).values()), default=0)


def _specs(recipes: Sequence[ConversionRecipe]) -> dict[str, RepairSpec]:
    return {r.name: r.repair or RepairSpec() for r in recipes if r.quantization == "mixed_precision"}


def prepare_examples(
    work_dir: str | Path,
    recipes: Sequence[ConversionRecipe],
    drawn: calibration.Draw,
    parse: calibration.Parse,
    inputs: Sequence[TensorRecord],
) -> None:
    """Saves the examples that `mixed_precision` recipes are judged on, for `load_examples`.

    They come from the calibration split. None of them calibrates, as long as the split has others.

    Args:
        work_dir: Local folder to save them in.
        recipes: All recipes; nothing is done if none of them repairs.
        drawn: The calibration sample, and `num_examples(recipes)` further examples as `extra`.
        parse: From tf.Examples to values [rows, ...] by input name.
        inputs: The inputs of the signature that is converted.

    Raises:
        CalibrationError: The examples do not fit the inputs, or lack the label.
    """
    specs = _specs(recipes)
    if not specs:
        return
    records = [*drawn.extra, *drawn.records][: num_examples(recipes)]
    calibration.save(Path(work_dir) / _VALUES_FILE, calibration.samples(records, parse, inputs))
    for name, spec in specs.items():
        rows = records[: spec.num_examples]
        labels = None if spec.label is None else _labels(rows, spec.label)
        np.savez(
            Path(work_dir) / f"ranking-{name}.npz",
            num_examples=len(rows),
            num_calibrated=max(0, len(rows) - len(drawn.extra)),
            labels=np.array([], np.int64) if labels is None else labels,
        )


def load_examples(work_dir: str | Path, recipe: ConversionRecipe) -> Examples:
    """The examples that were prepared for a recipe."""
    with np.load(Path(work_dir) / f"ranking-{recipe.name}.npz") as archive:
        count, num_calibrated, labels = int(archive["num_examples"]), int(archive["num_calibrated"]), archive["labels"]
    values = calibration.load(Path(work_dir) / _VALUES_FILE)
    return Examples(
        values={name: array[:count] for name, array in values.items()},
        labels=labels if len(labels) else None,
        num_calibrated=num_calibrated,
    )


def _labels(records: Sequence[bytes], label: str) -> Array:
    """The integer classes [rows] of serialized tf.Examples."""
    values = calibration.feature_values(records, label)
    unusable = next((v for v in values if len(v) != 1 or not isinstance(v[0], int)), None)
    if unusable is not None:
        raise CalibrationError(
            f"RepairSpec.label={label!r} is no integer feature with one value in every example: one has {unusable}. "
            "Name the feature that holds the class, or leave label out to measure agreement with the float model."
        )
    return np.array([value for (value,) in values], np.int64)


def repair(
    recipe: ConversionRecipe,
    float_model: bytes,
    quantize: Callable[[ConversionRecipe], bytes],
    examples: Examples,
    progress: Callable[[], None] = lambda: None,
) -> tuple[bytes, RepairRecord]:
    """Searches for the layers to leave in float, and makes the file.

    Args:
        recipe: `mixed_precision`, with its batch size resolved.
        float_model: The float32 file.
        quantize: Makes the file of a `full_integer` recipe with the given float layers; the same bytes each time.
        examples: What to judge on.
        progress: Called after each trial.

    Returns:
        The file and what there is to know about it. If the target is out of reach within the bounds, it is the best
        that was found, and the record says what is missing.

    Raises:
        failures.RecipeFailed: The model's outputs and `RepairSpec.label` do not fit.
    """
    spec = recipe.repair or RepairSpec()
    judge = _Judge(float_model, examples)
    progress()
    layers = float_layers.layers(float_model)
    candidates = [layer_search.Candidate(layer.name, layer.weight_bytes) for layer in layers if not layer.moves_values]

    def replay(chosen: tuple[str, ...]) -> ConversionRecipe:
        return ConversionRecipe(
            name=recipe.name,
            quantization="full_integer",
            batch_size=recipe.batch_size,
            float_layers=float_layers.bridged(layers, chosen),
        )

    def measure(chosen: tuple[str, ...]) -> tuple[float, float]:
        try:
            data = quantize(replay(chosen))
        except Exception:  # noqa: BLE001 - a set of layers that TensorFlow cannot leave in float is no solution
            return -math.inf, math.inf
        quality = judge.quality(data)
        progress()
        return quality, len(data)

    plain_model = quantize(replay(()))
    baseline = layer_search.Trial((), judge.quality(plain_model), len(plain_model))
    progress()
    found = layer_search.search(
        candidates,
        measure,
        baseline,
        target=judge.float_quality - spec.tolerance,
        max_trials=spec.max_trials,
        max_size_bytes=spec.max_size_ratio * len(float_model),
    )
    plain = replay(found.best.layers)
    data = quantize(plain) if found.best.layers else plain_model
    record = RepairRecord(
        measure="agreement" if examples.labels is None else "accuracy",
        num_examples=judge.num_examples,
        num_calibrated=examples.num_calibrated,
        float_quality=judge.float_quality,
        quantized_quality=_finite(baseline.quality),
        quality=_finite(found.best.quality),
        repaired=found.reached,
        reasons=_reasons(spec, found, judge.float_quality, len(float_model)),
        float_layers=plain.float_layers,
        size_ratio=len(data) / len(float_model),
        trials=tuple(
            RepairTrial(
                float_layers=replay(trial.layers).float_layers,
                quality=_finite(trial.quality),
                size_bytes=int(trial.size_bytes) if math.isfinite(trial.size_bytes) else None,
            )
            for trial in found.trials
        ),
        replay=plain,
    )
    return data, record


def _finite(quality: float) -> float | None:
    return quality if math.isfinite(quality) else None


def _reasons(spec: RepairSpec, found: layer_search.Found, float_quality: float, float_size: int) -> tuple[str, ...]:
    """Why the outcome falls short; empty if it does not."""
    if found.reached:
        return ()
    target = float_quality - spec.tolerance
    reasons = [
        f"The best file within the bounds has a quality of {found.best.quality:.4f}; {target:.4f} was asked for, the "
        f"float model's {float_quality:.4f} less tolerance={spec.tolerance:g}."
    ]
    limit = spec.max_size_ratio * float_size
    good = [trial for trial in found.trials if trial.quality >= target]
    if good:
        smallest = min(trial.size_bytes for trial in good)
        reasons.append(
            f"The smallest file with that quality has {smallest} bytes, {smallest / float_size:.3f} of the float32 "
            f"file; max_size_ratio={spec.max_size_ratio:g} allows {limit:.0f}."
        )
    if found.exhausted:
        reasons.append(f"All max_trials={spec.max_trials} trials were used up.")
    return tuple(reasons)


class _Judge:
    """Measures files against the float model, or against labels.

    Attributes:
        float_quality: What the float model reaches.
        num_examples: On how many examples.
    """

    def __init__(self, float_model: bytes, examples: Examples) -> None:
        self._values = examples.values
        self.num_examples = len(next(iter(examples.values.values())))
        self._labels = examples.labels
        outputs = SignatureRunner(float_model).outputs
        classes = {name: record.shape[-1] > 1 for name, record in outputs.items() if record.shape}
        #: Outputs whose largest element along the last axis is the result: classes, of the example or of each position.
        self._classified = {
            name for name, record in outputs.items() if record.dtype == "float32" and classes.get(name, False)
        }
        if self._labels is not None:
            shapes = {name: list(record.shape) for name, record in outputs.items()}
            if len(outputs) != 1 or len(self._classified) != 1 or any(len(shape) != 2 for shape in shapes.values()):
                raise failures.RecipeFailed(failures.label_unusable(shapes))
            (self._output,) = outputs
            self.float_quality = self._accuracy(float_model)
            return
        self._reference = self._results(float_model)
        self._close = {
            name: CLOSE * _span(values)
            for name, values in self._reference.items()
            if name not in self._classified and np.issubdtype(values.dtype, np.floating)
        }
        self.float_quality = 1.0

    def quality(self, model: bytes) -> float:
        """A share of the examples, 0 to 1; minus infinity for a file that cannot be run."""
        try:
            return self._agreement(model) if self._labels is None else self._accuracy(model)
        except (ModelFileError, RuntimeError, ValueError):
            return -math.inf

    def _accuracy(self, model: bytes) -> float:
        return float(np.mean(self._results(model)[self._output] == self._labels))

    def _agreement(self, model: bytes) -> float:
        """The share of results that agree with the float model's; of several outputs, the worst one's."""
        shares = []
        for name, values in self._results(model).items():
            reference = self._reference[name]
            close = self._close.get(name)
            agree = values == reference if close is None else np.abs(values - reference) <= close
            shares.append(float(np.mean(agree)))
        return min(shares)

    def _results(self, model: bytes) -> dict[str, Array]:
        """All results by output name; a class as its index, which is all that is kept of what may be large."""
        runner = SignatureRunner(model)
        parts: dict[str, list[Array]] = {name: [] for name in runner.outputs}
        for batch, rows in self._batches(runner.batch_size or _ROWS_AT_ONCE):
            for name, values in runner.run(batch).items():
                if name in self._classified:
                    values = values.argmax(axis=-1).astype(np.min_scalar_type(values.shape[-1]))
                parts[name].append(values[:rows])
        return {name: np.concatenate(some) for name, some in parts.items()}

    def _batches(self, size: int) -> Iterator[tuple[dict[str, Array], int]]:
        """Batches of `size` rows, and how many of them count; the last one is filled up from the start."""
        for start in range(0, self.num_examples, size):
            take = np.arange(start, start + size) % self.num_examples
            rows = min(size, self.num_examples - start)
            yield {name: values[take] for name, values in self._values.items()}, rows


def _span(values: Array) -> float:
    """The range of values, or their size if they are all the same."""
    return float(np.ptp(values) or np.abs(values).max())
