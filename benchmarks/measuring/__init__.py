"""What the benchmarks share: steps in processes of their own, rounds there and back, and the result file."""

from __future__ import annotations

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent.parent / "results"
CONTROL = (0.9, 1.1)


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


def interleaved(
    run: Callable[[str], dict[str, Any]],
    rounds: int,
    steps: Sequence[str] = ("ours", "stock"),
    attempts: int = 3,
    figure: str = "cpu_seconds",
) -> dict[str, Any]:
    """Runs steps in rounds there and back (A B B A, or A B C C B A) and prints what comes.

    The control is the first step against itself, in the same round: 1 on a quiet machine. Where its median over the
    rounds leaves `CONTROL`, all rounds are thrown away and run again.

    Args:
        run: Runs a step; its result has the figure.
        rounds: How many.
        steps: Their names; the control is taken of the first, which therefore should be the one that matters.
        attempts: How often the rounds are run until the control is right.
        figure: What is compared.

    Returns:
        `runs`, the results by round, and under `figures` what a result file says of them: with two steps also the ratio
        of the second to the first.
    """
    order = [*steps, *reversed(steps)]
    controls: list[float] = []
    while True:
        runs = []
        for index in range(rounds):
            runs.append([run(step) for step in order])
            values = ", ".join(f"{s} {one[figure]:.4g}" for s, one in zip(order, runs[-1], strict=True))
            print(f"round {index + 1}: {figure}: {values}; control {control_of(runs[-1:], figure)}", flush=True)
        controls.append(control_of(runs, figure))
        is_quiet = CONTROL[0] <= controls[-1] <= CONTROL[1]
        if is_quiet or len(controls) >= attempts:
            break
        print(f"control {controls[-1]} is not within {CONTROL[0]} to {CONTROL[1]}: once more", flush=True)
    figures = {
        "order": " ".join(order),
        figure: [[round(one[figure], 3) for one in some] for some in runs],
        f"control_{steps[0]}_to_{steps[0]}": controls[-1],
        "control_is_within_limits": is_quiet,
        "controls_of_runs_thrown_away": controls[:-1],
    }
    measured = {"runs": runs, "figures": figures}
    if len(steps) == 2:
        ratio = ratio_of(measured, steps[1], steps[0], figure)
        figures[f"ratio_{steps[1]}_to_{steps[0]}"] = ratio
        print(f"median: {steps[1]} / {steps[0]} {ratio}, control {controls[-1]}", flush=True)
    if not is_quiet:
        print(f"NOT VALID: control {controls[-1]}, the machine is not quiet enough", flush=True)
    return measured


def ratio_of(measured: dict[str, Any], step: str, to: str, figure: str = "cpu_seconds") -> float:
    """The median over the rounds of one step's figure to another's."""
    totals = by_round(measured, figure)
    return round(statistics.median(total[step] / total[to] for total in totals), 3)


def by_round(measured: dict[str, Any], figure: str = "cpu_seconds") -> list[dict[str, float]]:
    """By round and step the mean of its two runs."""
    order = measured["figures"]["order"].split()
    return [
        {s: statistics.mean(one[figure] for name, one in zip(order, some, strict=True) if name == s) for s in order}
        for some in measured["runs"]
    ]


def control_of(runs: list[list[dict[str, Any]]], figure: str) -> float:
    """The median over the rounds of the first run to the last, which is of the same step."""
    return round(statistics.median(some[0][figure] / some[-1][figure] for some in runs), 3)


def cpu_seconds() -> float:
    """User and system time of this process and its ended children."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def peak_bytes() -> int:
    """Peak resident memory of this process alone."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def write_result(script: str, result: dict[str, Any], whole: bool = True) -> None:
    """Writes `results/<script>.json`, with what machine it was measured on; only prints it if it is not the whole."""
    if not whole:
        print(json.dumps(result, indent=2))
        return
    path = RESULTS / f"{Path(script).stem}.json"
    machine = {"cpus": os.cpu_count(), "architecture": platform.machine(), "python": platform.python_version()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**result, "machine": machine}, indent=2) + "\n")
    print(f"written to benchmarks/results/{path.name}")
