"""What defining a pipeline imports: nothing heavy by our own modules, and what TFX itself imports, by name."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

pipelines = pytest.importorskip("pipelines", reason="the reference pipeline is not part of the wheel")

# Stands between an import statement and a module: remembers which module first asked for a heavy one.
PROGRAM = """
import sys
heavy = ("tensorflow", "tensorflow_model_analysis", "apache_beam", "keras")
asked = {}
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name in heavy and name not in asked:
            frame = sys._getframe(1)
            skipped = ("importlib", "_frozen_importlib", "__main__")
            while frame and frame.f_globals.get("__name__", "").startswith(skipped):
                frame = frame.f_back
            asked[name] = frame.f_globals["__name__"] if frame else "?"
sys.meta_path.insert(0, Watch())
exec(sys.argv[1])
print(asked)
"""


def who_asked(code: str) -> dict[str, str]:
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, code]
    root = Path(pipelines.__file__).parents[1]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=root)
    found: dict[str, str] = ast.literal_eval(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("name", ["TFLiteConverter", "QuantizationEvaluator", "MobilePusher", "blessed"])
def test_our_components(name: str) -> None:
    """TFX's own base classes import TensorFlow and Beam. Nothing imports TFMA."""
    asked = who_asked(f"from tfx_mobile import {name}")
    assert "tensorflow_model_analysis" not in asked
    assert asked["tensorflow"].startswith(("tfx.", "tfx_bsl", "tensorflow_")), asked
    assert not [who for who in asked.values() if who.startswith(("tfx_mobile", "pipelines"))], asked


def test_the_reference_pipeline() -> None:
    """TFX's Evaluator, Trainer and Transform import TFMA; our modules ask for nothing heavy."""
    asked = who_asked("import pipelines.mobile, pipelines.config_file, pipelines.kubeflow_v2")
    assert asked["tensorflow_model_analysis"].startswith("tfx."), asked
    assert not [who for who in asked.values() if who.startswith(("tfx_mobile", "pipelines"))], asked
