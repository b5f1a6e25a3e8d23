"""What the benchmarks share: steps in processes of their own, A B B A rounds, and the result file."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable
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


def interleaved(run: Callable[[str], dict[str, Any]], rounds: int) -> dict[str, Any]:
    """Runs the steps `ours` and `stock` in rounds of A B B A and prints what comes.

    Args:
        run: Runs a step; its result has `cpu_seconds`.
        rounds: How many.

    Returns:
        `runs`, the results by round, and under `figures` what a result file says of them.
    """
    runs = []
    for index in range(rounds):
        runs.append([run(step) for step in ("ours", "stock", "stock", "ours")])
        print(f"round {index + 1}: CPU-s {[round(one['cpu_seconds'], 2) for one in runs[-1]]}", end=" ")
        print(f"stock / ours {ratio_of(runs[-1]):.2f}, control {control_of(runs[-1]):.2f}", flush=True)
    figures = {
        "order": "ours stock stock ours",
        "cpu_seconds": [[round(one["cpu_seconds"], 3) for one in some] for some in runs],
        "ratio_stock_to_ours": round(statistics.median(map(ratio_of, runs)), 3),
        "control_ours_to_ours": round(statistics.median(map(control_of, runs)), 3),
    }
    print(f"median: stock / ours {figures['ratio_stock_to_ours']}, control {figures['control_ours_to_ours']}")
    return {"runs": runs, "figures": figures}


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
