"""Loads what lies in `configs/`: data that a team changes without touching code."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from google.protobuf import text_format

if TYPE_CHECKING:
    import tensorflow_model_analysis as tfma

ROOT = Path(__file__).resolve().parent.parent / "configs"


def names() -> list[str]:
    """The EvalConfigs there are."""
    return sorted(str(path.relative_to(ROOT).with_suffix("")) for path in ROOT.rglob("*.pbtxt"))


def find(name: str) -> Path:
    """The file of an EvalConfig: `configs/<name>.pbtxt`, or `name` itself if it ends in `.pbtxt`.

    Raises:
        ValueError: There is no such file.
    """
    path = Path(name) if name.endswith(".pbtxt") else ROOT / f"{name}.pbtxt"
    if not path.is_file():
        raise ValueError(
            f"There is no config {name!r}; give the path of a .pbtxt file, or one of: {', '.join(names())}."
        )
    return path


def eval_config(name: str) -> tfma.EvalConfig:
    """The tfma.EvalConfig that `find` finds.

    Raises:
        ValueError: There is no such file, or it is not an EvalConfig; the message names file, line and field.
    """
    import tensorflow_model_analysis as tfma  # seconds; names alone do not need it

    path = find(name)
    try:
        return text_format.Parse(path.read_text(), tfma.EvalConfig())
    except text_format.ParseError as error:
        raise ValueError(f"{name} is not a tfma.EvalConfig: line {error}") from None
