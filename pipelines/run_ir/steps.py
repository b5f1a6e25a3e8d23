"""One container: its command, run where it can be watched."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from packaging.version import InvalidVersion, Version

from pipelines.run_ir.ir import Job

#: TFX's entry points; a forked step runs no other.
ENTRY_POINTS = (
    "tfx.orchestration.kubeflow.v2.container.kubeflow_v2_run_executor",
    "tfx.orchestration.kubeflow.v2.file_based_example_gen.driver",
)


@dataclass(frozen=True)
class StepRun:
    """What became of a command.

    Attributes:
        exit_code: Negative for a signal.
        seconds: How long it took.
        peak_bytes: The largest resident set of its process.
    """

    exit_code: int
    seconds: float
    peak_bytes: int


class Steps(Protocol):
    """A way to run containers."""

    def check(self, job: Job) -> None:
        """Makes sure that this can stand for the images of a job.

        Raises:
            ValueError: It cannot.
        """
        ...

    def run(self, command: Sequence[str], log: Path) -> StepRun:
        """Runs a command, which begins with `python -m`; everything it prints goes to `log`."""
        ...


class ForkedSteps:
    """Every step in a fork of one process that has TFX imported already: fast.

    A step sees the modules that this process sees, so this does not show that a container would find every module.
    """

    def check(self, job: Job) -> None:
        """See Steps. Fast mode claims nothing about an image."""

    def run(self, command: Sequence[str], log: Path) -> StepRun:
        """See Steps."""
        python, dash_m, module, *arguments = command
        if (python, dash_m) != ("python", "-m") or module not in ENTRY_POINTS:
            raise ValueError(
                f"{' '.join(command[:3])} is no entry point of TFX; run it from a wheel instead (--wheel)."
            )
        server = _fork_server()
        assert server.stdin is not None
        assert server.stdout is not None
        print(json.dumps({"module": module, "arguments": arguments, "log": str(log)}), file=server.stdin, flush=True)
        answer = server.stdout.readline()
        if not answer:
            raise RuntimeError(f"The process that steps are forked from ended with exit code {server.wait()}.")
        return StepRun(**json.loads(answer))


@functools.cache
def _fork_server() -> subprocess.Popen[str]:
    """It ends with this process, whose end of the pipe it reads."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
    command = [sys.executable, "-W", "ignore::FutureWarning", "-m", "pipelines.run_ir.fork_server"]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


def fork_step(module: str, arguments: Sequence[str], log: Path) -> StepRun:
    """Runs an entry point, which is imported, in a fork of this process."""

    def child() -> None:
        from absl import flags

        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.chdir("/")
        entry_point = sys.modules[module]
        flags.FLAGS.unparse_flags()
        entry_point.main(entry_point._parse_flags([module, *arguments]))

    started = time.monotonic()
    return _wait(_fork(child, log), started)


class InstalledSteps:
    """Every step a process of its own, started from an environment into which the wheel is installed: true.

    Args:
        python: That environment's interpreter. The process starts in the root folder and with no PYTHONPATH, so it sees
            nothing of this checkout.
    """

    def __init__(self, python: Path) -> None:
        self._python = python

    def check(self, job: Job) -> None:
        """See Steps: it must hold the TFX that compiled the job and the tfx-mobile that its images are tagged with."""
        probe = subprocess.run([self._python, "-I", "-c", _PROBE], capture_output=True, text=True, check=False)
        if probe.returncode != 0:
            what = probe.stderr.strip().splitlines()[-1:] or ["no reason given"]
            raise ValueError(f"{self._python} is no environment of a container: {what[0]}. {_BUILD}")
        found = json.loads(probe.stdout)
        if found["editable"]:
            raise ValueError(f"{self._python} has an editable tfx-mobile, which reads a checkout. {_BUILD}")
        wanted = {("TFX", found["tfx"], job.tfx_version)}
        wanted |= {("tfx-mobile", found["tfx_mobile"], tag) for tag in map(_version_tag, job.images) if tag}
        for name, installed, compiled in sorted(wanted):
            if Version(installed) != Version(compiled):
                raise ValueError(
                    f"The job was compiled for {name} {compiled}, {self._python} has {installed}. Compile it again, or "
                    f"install that version. {_BUILD}"
                )

    def run(self, command: Sequence[str], log: Path) -> StepRun:
        """See Steps."""
        if command[0] != "python":
            raise ValueError(f"{command[0]!r} is not python; a container of TFX starts with it.")
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        environment.pop("VIRTUAL_ENV", None)

        def child() -> None:
            os.chdir("/")
            os.execve(self._python, [str(self._python), *command[1:]], environment)

        started = time.monotonic()
        return _wait(_fork(child, log), started)


_BUILD = "`make run-ir WHEEL=1` builds an environment as an image has it."

_PROBE = """
import importlib.metadata as m, json
url = json.loads(m.distribution("tfx-mobile").read_text("direct_url.json") or "{}")
editable = url.get("dir_info", {}).get("editable", False)
print(json.dumps({"tfx": m.version("tfx"), "tfx_mobile": m.version("tfx-mobile"), "editable": editable}))
"""


def _version_tag(image: str) -> str | None:
    """The tag of an image if it is a version, which is then the one of tfx-mobile; None for any other."""
    tag = image.partition("@")[0].rpartition("/")[2].partition(":")[2]
    try:
        return str(Version(tag))
    except InvalidVersion:
        return None


def _fork(child: Callable[[], None], log: Path) -> int:
    """Forks; the child writes to `log` and leaves without a word to the code above."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        # Whatever stood in their place writes somewhere else.
        sys.stdout, sys.stderr = (os.fdopen(number, "w", 1, closefd=False) for number in (1, 2))
        child()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return 0  # not reached


def _wait(pid: int, started: float) -> StepRun:
    _, status, usage = os.wait4(pid, 0)
    return StepRun(os.waitstatus_to_exitcode(status), time.monotonic() - started, usage.ru_maxrss * 1024)
