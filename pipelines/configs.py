"""Loads what lies in `configs/`: data that a team changes without touching code."""

from __future__ import annotations

from pathlib import Path

import tensorflow_model_analysis as tfma
from google.protobuf import text_format

ROOT = Path(__file__).resolve().parent.parent / "configs"


def eval_config(name: str) -> tfma.EvalConfig:
    """The tfma.EvalConfig in `configs/<name>.pbtxt`.

    Raises:
        ValueError: There is no such file, or it is not an EvalConfig; the message names file, line and field.
    """
    path = ROOT / f"{name}.pbtxt"
    if not path.is_file():
        known = ", ".join(sorted(str(p.relative_to(ROOT).with_suffix("")) for p in ROOT.rglob("*.pbtxt")))
        raise ValueError(f"There is no config {name!r}; there are: {known}.")
    try:
        return text_format.Parse(path.read_text(), tfma.EvalConfig())
    except text_format.ParseError as error:
        raise ValueError(f"{path.relative_to(ROOT.parent)} is not a tfma.EvalConfig: line {error}") from None
