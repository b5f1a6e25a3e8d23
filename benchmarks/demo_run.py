"""How long `make demo` takes, where the time goes, and how much memory it needs.

Runs the demo twice in a new folder, first from nothing and then on its cache, and samples the memory of the whole
process tree. Wall times hold for the machine at hand; shares and ratios travel further.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "demo_run.json"
STEP = re.compile(r"✓ (\S+)\s+([\d.]+) s")
SAMPLE_SECONDS = 0.2


def run_demo(output: Path) -> dict:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    start = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines.demo", "--output", str(output)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    peak = 0
    while process.poll() is None:
        peak = max(peak, tree_memory(process.pid))
        time.sleep(SAMPLE_SECONDS)
    wall = time.monotonic() - start
    text = process.stdout.read()
    if process.returncode:
        raise SystemExit(f"the demo failed:\n{text}")
    steps = {name: float(seconds) for name, seconds in STEP.findall(text)}
    return {
        "wall_seconds": round(wall, 1),
        "step_seconds": steps,
        "outside_steps_seconds": round(wall - sum(steps.values()), 1),
        "peak_memory_mb": round(peak / 1e6),
    }


def tree_memory(pid: int) -> int:
    """Bytes of memory of a process and all below it, shared pages counted once (PSS)."""
    total, queue = 0, [pid]
    while queue:
        current = queue.pop()
        try:
            rollup = Path(f"/proc/{current}/smaps_rollup").read_text()
            total += 1024 * int(re.search(r"^Pss:\s+(\d+)", rollup, re.MULTILINE).group(1))
            for task in Path(f"/proc/{current}/task").iterdir():
                queue += map(int, (task / "children").read_text().split())
        except (FileNotFoundError, ProcessLookupError, AttributeError):
            continue  # it ended while we looked
    return total


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        results = {"first": run_demo(Path(directory)), "cached": run_demo(Path(directory))}
    for name, result in results.items():
        print(f"{name:<7} {result['wall_seconds']:6.1f} s wall, peak {result['peak_memory_mb']} MB")
        for step, seconds in result["step_seconds"].items():
            print(f"          {step:<34} {seconds:5.1f} s")
        print(f"          {'imports, table, device':<34} {result['outside_steps_seconds']:5.1f} s")
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
