"""Beam workers run the versions that the record of an evaluation names, or say so."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import apache_beam as beam

from tfx_mobile.errors import EvaluationError
from tfx_mobile.quantization_evaluator.versions import versions


class CheckVersions(beam.DoFn):
    """Passes everything on, on workers whose versions are those of the process that made it.

    Code is pickled by name, so another version on a worker would run, and give numbers that the record puts down to
    the versions here.

    Raises:
        EvaluationError: When a worker starts: it has other versions.
    """

    def __init__(self) -> None:
        self._versions = versions()

    def setup(self) -> None:
        """Compares, once for each worker."""
        found = versions()
        differing = [
            f"{name} {found[name]} instead of {here}" for name, here in self._versions.items() if found[name] != here
        ]
        if differing:
            raise EvaluationError(
                f"A Beam worker runs {', '.join(differing)}. Give the workers what is installed where the component "
                "runs: build their container image from the same lock, or add beam_worker_args() to the Beam arguments."
            )

    def process(self, element: Any) -> Iterable[Any]:
        """Passes an element on."""
        yield element
