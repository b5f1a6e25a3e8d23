"""Versions of what decides the verdicts, read without importing any of it."""

from __future__ import annotations

import importlib.metadata

_VERSIONED = ("tfx-mobile", "tensorflow-model-analysis", "tensorflow", "ai-edge-litert")


def versions() -> dict[str, str]:
    """By distribution.

    Raises:
        PackageNotFoundError: One is not installed.
    """
    return {name: importlib.metadata.version(name) for name in _VERSIONED}
