"""Where the tests find MediaPipe's metadata writers, and an independent reader of what they wrote."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tfx_mobile.tflite import mediapipe_writer

_IN_CHECKOUT = Path(__file__).parents[2] / ".tools" / "metadata" / "bin" / "python"

# MediaPipe's own displayer, run where MediaPipe is.
_READ = """
import json, runpy, sys
runpy.run_path(sys.argv[1])["_import_writers"]()
from mediapipe.tasks.python.metadata import metadata
displayer = metadata.MetadataDisplayer.with_model_file(sys.argv[2])
print(displayer.get_metadata_json())
"""


def writer_python() -> str:
    """The interpreter with the writers; skips the test where there is none."""
    python = os.environ.get("TFX_MOBILE_METADATA_PYTHON") or str(_IN_CHECKOUT)
    if not Path(python).exists():
        pytest.skip(f"no environment with MediaPipe's metadata writers at {python}; `make setup` makes it")
    return python


def read(path: Path) -> dict[str, Any]:
    """The metadata of a file as MediaPipe reads it."""
    command = [writer_python(), "-I", "-c", _READ, mediapipe_writer.__file__, str(path)]
    document: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return document
