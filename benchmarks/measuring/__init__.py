"""What the benchmarks share: steps in processes of their own, A B B A rounds, and the result file."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent.parent / "results"


def run_child(script: str, step: str, **options: Any) -> Any:
    """Runs `script --child step` with options in a fresh process; returns the JSON in its last line."""
    command = [sys.executable, "-W", "ignore", script, "--child", step]
    for name, value in options.items():
        command += [f"--{name.replace('_', '-')}", str(value)]
    env = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    env.pop("TF_USE_LEGACY_KERAS", None)
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{step} failed:\n{done.stderr[-4000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def ratio_of(runs: list[dict[str, Any]]) -> float:
    """Stock to ours, of a round `ours stock stock ours`."""
    ours_1, stock_1, stock_2, ours_2 = (run["cpu_seconds"] for run in runs)
    return float((stock_1 + stock_2) / (ours_1 + ours_2))


def control_of(runs: list[dict[str, Any]]) -> float:
    """Ours to ours of the same round; 1 on a quiet machine."""
    return float(runs[0]["cpu_seconds"] / runs[3]["cpu_seconds"])


def cpu_seconds() -> float:
    """User and system time of this process and its ended children."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def write_result(script: str, result: dict[str, Any]) -> None:
    """Writes `results/<script>.json`, with what machine it was measured on."""
    path = RESULTS / f"{Path(script).stem}.json"
    machine = {"cpus": os.cpu_count(), "architecture": platform.machine(), "python": platform.python_version()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**result, "machine": machine}, indent=2) + "\n")
    print(f"written to benchmarks/results/{path.name}")
