"""The search behind accuracy repair: which few layers must stay in float.

Knows neither models nor TensorFlow: it asks for sets of layers to be measured and decides which to ask for next. Layers
are judged by nothing but measured quality. Quantization error per layer misleads: a layer whose output is dominated by
one outlier channel has a small error for its large scale, and it is the one that ruins the model.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

Measure = Callable[[tuple[str, ...]], tuple[float, float]]


@dataclass(frozen=True)
class Candidate:
    """A layer that may stay in float.

    Attributes:
        name: Its name.
        weight_bytes: About how much the file grows if it does.
    """

    name: str
    weight_bytes: int


@dataclass(frozen=True)
class Trial:
    """One measured set of float layers.

    Attributes:
        layers: Their names, sorted.
        quality: The larger, the better; minus infinity for a file that cannot be run.
        size_bytes: Size of the file; infinity for one that cannot be made.
    """

    layers: tuple[str, ...]
    quality: float
    size_bytes: float


@dataclass(frozen=True)
class Found:
    """The outcome of a search.

    Attributes:
        best: The smallest file that reaches the target within the size limit, with no layer in float that turned out
            unnecessary; if there is none, the best quality within the size limit.
        reached: Whether it reaches the target.
        trials: Everything that was measured beyond the baseline, in order.
        exhausted: Whether the search ended because its trials were used up.
    """

    best: Trial
    reached: bool
    trials: tuple[Trial, ...]
    exhausted: bool


class _TrialsUsedUp(Exception):
    pass


@dataclass
class _Search:
    candidates: Sequence[Candidate]
    measure: Measure
    target: float
    max_trials: int
    baseline: Trial
    known: dict[tuple[str, ...], Trial] = field(default_factory=dict)
    order: list[Trial] = field(default_factory=list)

    def run(self) -> bool:
        """Measures until nothing is left to gain; False if the trials did not suffice."""
        try:
            found = self._grow()
            if found is not None:
                self._shrink(found)
        except _TrialsUsedUp:
            return False
        return True

    def trial(self, layers: Collection[str]) -> Trial:
        key = tuple(sorted(layers))
        if not key:
            return self.baseline
        if key not in self.known:
            if len(self.order) >= self.max_trials:
                raise _TrialsUsedUp
            quality, size_bytes = self.measure(key)
            self.known[key] = Trial(key, quality, size_bytes)
            self.order.append(self.known[key])
        return self.known[key]

    def reaches(self, trial: Trial) -> bool:
        return trial.quality >= self.target

    def _grow(self) -> Trial | None:
        """Adds layers until the target is reached: the one that helps most first, measured, not estimated."""
        left = self._blocks()
        chosen = self.baseline
        ranked = self._ranked(chosen, left)
        fresh = True
        while left:
            block = ranked.pop(0)
            step = self.trial({*chosen.layers, *block})
            # Success comes first: the last block that is left may be the one that does it.
            if self.reaches(step):
                return step
            if step.quality > chosen.quality:
                chosen, fresh = step, False
                left.remove(block)
            elif fresh:
                # No single block helps. Layers may only help together, so take all and see what can go again.
                everything = self.trial({candidate.name for candidate in self.candidates})
                return everything if self.reaches(everything) else None
            else:
                ranked, fresh = self._ranked(chosen, left), True
                continue
            if not ranked:
                ranked, fresh = self._ranked(chosen, left), True
        return None

    def _blocks(self) -> list[tuple[str, ...]]:
        """Neighbouring layers, in as many blocks as a third of the trials can rank; single layers if they suffice."""
        names = [candidate.name for candidate in self.candidates]
        count = min(len(names), max(1, self.max_trials // 3))
        bounds = [round(index * len(names) / count) for index in range(count + 1)] if count else []
        return [tuple(names[start:end]) for start, end in itertools.pairwise(bounds)]

    def _ranked(self, chosen: Trial, blocks: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
        """Blocks by what they add to `chosen`: by quality, then by size, then by name."""
        trials = {block: self.trial({*chosen.layers, *block}) for block in blocks}
        return sorted(
            blocks,
            key=lambda block: (
                not self.reaches(trials[block]),
                trials[block].size_bytes if self.reaches(trials[block]) else 0,
                -trials[block].quality,
                trials[block].size_bytes,
                block,
            ),
        )

    def _shrink(self, found: Trial) -> None:
        """Quantizes again whatever turns out not to be needed, large parts first, down to single layers.

        This is delta debugging's minimization: it ends with a set from which no single layer can go.
        """
        position = {candidate.name: index for index, candidate in enumerate(self.candidates)}
        weight = {candidate.name: candidate.weight_bytes for candidate in self.candidates}
        part = max(1, len(found.layers) // 2)
        while True:
            before = found
            ordered = sorted(found.layers, key=lambda name: position[name])
            parts = [ordered[start : start + part] for start in range(0, len(ordered), part)]
            # What saves most bytes is tried first.
            for some in sorted(parts, key=lambda names: (-sum(weight[name] for name in names), names)):
                rest = set(found.layers) - set(some)
                if rest and self.reaches(smaller := self.trial(rest)):
                    found = smaller
            if part > 1:
                part = (part + 1) // 2 if part > 2 else 1
            elif found is before:
                return


def search(
    candidates: Sequence[Candidate],
    measure: Measure,
    baseline: Trial,
    *,
    target: float,
    max_trials: int,
    max_size_bytes: float,
) -> Found:
    """Searches for the smallest file that reaches a quality with some layers in float.

    Greedy: measures each layer in float (blocks of neighbours if the trials do not suffice for each), adds the one that
    helps most, measures the rest anew after a step that did not help, and at last quantizes again what is not needed.
    If no layer helps by itself, it starts from all of them. The same measurements give the same result.

    Args:
        candidates: The layers, in the model's order.
        measure: Quality and file size in bytes with the given layers, sorted by name, in float.
        baseline: The measurement without any layer in float.
        target: The quality to reach.
        max_trials: Most calls of `measure`.
        max_size_bytes: Largest file that may be the outcome; larger ones may be measured on the way.
    """
    if baseline.quality >= target:
        return Found(baseline, True, (), False)
    state = _Search(candidates, measure, target, max_trials, baseline)
    complete = state.run()
    # With every layer in float nothing would be quantized any more.
    allowed = [
        trial for trial in state.order if trial.size_bytes <= max_size_bytes and len(trial.layers) < len(candidates)
    ]
    reaching = [trial for trial in allowed if state.reaches(trial)]
    # A layer in float may make the file smaller, by a conversion less; it is not left in float for that.
    needed = [trial for trial in reaching if not any(set(other.layers) < set(trial.layers) for other in reaching)]
    if needed:
        best = min(needed, key=lambda trial: (trial.size_bytes, len(trial.layers), trial.layers))
    else:
        best = min(
            [baseline, *allowed],
            key=lambda trial: (-trial.quality, trial.size_bytes, len(trial.layers), trial.layers),
        )
    return Found(best, bool(reaching), tuple(state.order), not complete)
