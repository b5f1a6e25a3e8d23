"""The process that forked steps come from: it has imported TFX's entry points and run nothing.

A process that has run TensorFlow cannot be forked into one that does, which would wait for threads it does not have;
and defining a pipeline may run it. Reads a JSON line for each step, and answers with one.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path

from pipelines.run_ir import steps


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever importing prints is no answer
    for module in steps.ENTRY_POINTS:
        __import__(module)
    for line in sys.stdin:
        request = json.loads(line)
        done = steps.fork_step(request["module"], request["arguments"], Path(request["log"]))
        print(json.dumps(dataclasses.asdict(done)), file=answers, flush=True)


if __name__ == "__main__":
    main()
