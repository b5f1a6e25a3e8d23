"""How long compiling for Kubeflow takes, and running what comes out: forked and as containers would, step by step.

    python benchmarks/kubeflow_ir.py            # without an environment, the true mode is left out, and says so
    python benchmarks/kubeflow_ir.py PYTHON     # of an environment as `make run-ir WHEEL=1` builds it

Wall times hold for the machine at hand, and for how busy it was; the load is recorded beside them. Processes and memory
travel further: how many processes a step and its children were, sampled, and the largest of them.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
RESULTS = ROOT / "benchmarks" / "results" / "kubeflow_ir.json"
CONTAINER = ROOT / ".tools" / "container" / "bin" / "python"
SAMPLE_SECONDS = 0.05
COMPILATIONS = 5

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def children(pid: int) -> set[int]:
    """Every process below one."""
    found: set[int] = set()
    queue = [pid]
    while queue:
        try:
            for task in Path(f"/proc/{queue.pop()}/task").iterdir():
                new = set(map(int, (task / "children").read_text().split())) - found
                found |= new
                queue += new
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended while we looked
    return found


class Watched:
    """A way to run containers, and how many processes each container was."""

    def __init__(self, steps) -> None:
        self._steps = steps
        self.processes: list[int] = []

    def check(self, job) -> None:
        self._steps.check(job)

    def run(self, command: Sequence[str], log: Path):
        seen: set[int] = set()
        before = children(os.getpid())
        done = threading.Event()

        def look() -> None:
            while not done.wait(SAMPLE_SECONDS):
                seen.update(children(os.getpid()))

        watcher = threading.Thread(target=look)
        watcher.start()
        try:
            return self._steps.run(command, log)
        finally:
            done.set()
            watcher.join()
            self.processes.append(len(seen - before))


def measure(steps, compile_, config, root: Path) -> dict:
    from pipelines import kubeflow_v2
    from pipelines.run_ir import ir, runner

    job = root / "job.json"
    compile_(config, job)
    watched = Watched(steps)
    started = time.monotonic()
    result = runner.run_job(ir.load(job), root / "root", watched, kubeflow_v2.default_parameters(config))
    wall = time.monotonic() - started
    if not result.succeeded:
        raise SystemExit(f"a step failed: { {name: run.why for name, run in result.tasks.items()} }")
    processes = iter(watched.processes)
    tasks = {}
    for name, run in result.tasks.items():
        if run.steps:
            tasks[name] = {
                "containers": len(run.steps),
                "processes": sum(next(processes) for _ in run.steps),
                "seconds": round(sum(step.seconds for step in run.steps), 1),
                "peak_mb": round(max(step.peak_bytes for step in run.steps) / 1e6),
            }
    return {"wall_seconds": round(wall, 1), "containers": len(watched.processes), "tasks": tasks}


def main() -> None:
    python = Path(sys.argv[1] if len(sys.argv) > 1 else CONTAINER).absolute()
    from pipelines import kubeflow_v2
    from pipelines.run_ir.digits import local_config
    from pipelines.run_ir.steps import ForkedSteps, InstalledSteps

    results: dict = {"load_at_start": os.getloadavg()[0], "cpus": os.cpu_count()}
    with tempfile.TemporaryDirectory() as directory:
        fast = Path(directory, "fast")
        config = local_config(fast)
        seconds = []
        for _ in range(COMPILATIONS + 1):
            started = time.monotonic()
            kubeflow_v2.compile_pipeline(config, fast / "job.json")
            seconds.append(time.monotonic() - started)
        # The first also imports what is imported late.
        results["compile_seconds"] = {"first": round(seconds[0], 2), "next": round(sorted(seconds[1:])[2], 3)}
        results["fast"] = measure(ForkedSteps(), kubeflow_v2.compile_pipeline, config, fast)
        if python.exists():
            true = Path(directory, "true")
            results["true"] = measure(InstalledSteps(python), kubeflow_v2.compile_pipeline, local_config(true), true)
        else:
            print(f"true mode left out: there is no {python}; `make run-ir WHEEL=1` makes one")
    results["load_at_end"] = os.getloadavg()[0]
    print(f"compile: {results['compile_seconds']['next']} s, the first {results['compile_seconds']['first']} s")
    for mode in ("fast", "true"):
        if mode in results:
            print(f"{mode}: {results[mode]['wall_seconds']} s, {results[mode]['containers']} containers")
            for name, task in results[mode]["tasks"].items():
                print(f"  {name:22} {task['seconds']:6.1f} s {task['processes']:4} processes {task['peak_mb']:6} MB")
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
