"""Runs retrains, each in a process of its own that may die: `Retrainer` here, and the program it starts.

The program imports TFX once and forks for each run, as nothing of TensorFlow is running in it yet. One line of JSON on
its standard input is one run, one line on its standard output is what became of it.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COMPONENTS = {
    "ImportExampleGen": "tfx.components.example_gen.import_example_gen.executor",
    "Trainer": "tfx.components.trainer.executor",
    "TFLiteConverter": "tfx_mobile.tflite_converter.executor",
    "QuantizationEvaluator": "tfx_mobile.quantization_evaluator.executor",
    "MobilePusher": "tfx_mobile.mobile_pusher.executor",
}
_EXECUTORS = {"Trainer": "GenericExecutor"}
EXECUTED = "executed.txt"


@dataclass(frozen=True)
class Run:
    """What became of a run.

    Attributes:
        exit_code: 0, 1, or negative for a signal.
        error: Type of the exception that ended it, and what it said; empty without one.
        result: What it returned: of a compiled job, state and output metadata by task.
    """

    exit_code: int
    error: str
    result: Any

    @property
    def succeeded(self) -> bool:
        return self.exit_code == 0


class Retrainer:
    """Starts retrains of `tests.fakes.retraining`.

    Args:
        workspace: Where everything is; logs go to `logs/`.
    """

    def __init__(self, workspace: Path) -> None:
        self._workspace = workspace
        self._count = 0
        (workspace / "logs").mkdir()
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "tests.fakes.retrainer"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=(workspace / "logs" / "program.txt").open("w"),
            text=True,
            cwd=Path(__file__).parents[2],
        )

    def run(self, **options: Any) -> Run:
        """Runs one retrain to its end; see `start`."""
        return self.wait(self.start(**options))

    def start(
        self,
        *,
        die: tuple[str, str] | None = None,
        wait_for: tuple[str, Path] | None = None,
        kubeflow: dict[str, Any] | None = None,
        **settings: Any,
    ) -> int:
        """Starts one retrain.

        Args:
            die: Component in which it is killed, and whether `before` or `after` the work: after, all is written that
                the executor writes, and ML Metadata knows nothing of it.
            wait_for: Component before which it waits until a file is there.
            kubeflow: If given, the pipeline is compiled for Kubeflow and what comes out is run; `alerts_dir` sets an
                exit handler.
            **settings: Of `retraining.create_pipeline`.

        Returns:
            Its number, for `wait`.
        """
        self._count += 1
        order = {
            "number": self._count,
            "workspace": str(self._workspace),
            "die": die,
            "wait_for": wait_for and [wait_for[0], str(wait_for[1])],
            "kubeflow": kubeflow,
            "settings": settings,
        }
        self._ask({"start": order})
        return self._count

    def wait(self, number: int) -> Run:
        """What became of a run, once it has ended."""
        answer = self._ask({"wait": number})
        file = self._workspace / "logs" / f"{number}.json"
        told = json.loads(file.read_text()) if file.exists() else {"error": "", "result": None}
        return Run(answer["exit_code"], told["error"], told["result"])

    def executed(self) -> list[str]:
        """Components whose executor ran, in order, over all runs."""
        file = self._workspace / EXECUTED
        return file.read_text().split() if file.exists() else []

    def wait_until_executing(self, component: str, times: int) -> None:
        """Returns once a component's executor has been started so often."""
        deadline = time.monotonic() + 300
        while self.executed().count(component) < times:
            assert time.monotonic() < deadline, f"{component} was not started {times} times: {self.executed()}"
            time.sleep(0.02)

    def close(self) -> None:
        """Ends the program."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _ask(self, message: dict[str, Any]) -> Any:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps(message) + "\n")
        stdin.flush()
        line = stdout.readline()
        if not line:
            log = (self._workspace / "logs" / "program.txt").read_text()
            raise AssertionError(f"The program ended: {log[-4000:]}")
        return json.loads(line)


@contextlib.contextmanager
def retrainer(workspace: Path) -> Iterator[Retrainer]:
    """A Retrainer that is closed."""
    opened = Retrainer(workspace)
    try:
        yield opened
    finally:
        opened.close()


# --- the program ------------------------------------------------------------------------------------------------------


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the imports print is no answer
    for module in (
        "tfx.v1",
        "tensorflow_model_analysis",
        "tfx.orchestration.local.local_dag_runner",
        "tfx_mobile.quantization_evaluator.scoring.evaluation",
        "tfx_mobile.release_store.filesystem_store",
        "tests.fakes.retraining",
        *COMPONENTS.values(),
    ):
        importlib.import_module(module)
    from apache_beam.options.pipeline_options import StandardOptions

    StandardOptions.DEFAULT_RUNNER = "FnApiRunner"  # a DirectRunner would download another one
    with contextlib.suppress(
        ImportError
    ):  # without the compiler there are no compiled jobs, and nothing else is missed
        from pipelines.run_ir.steps import ForkedSteps

        ForkedSteps()
    gc.freeze()  # what the imports made lives as long as the processes do
    processes: dict[int, int] = {}
    for line in sys.stdin:
        message = json.loads(line)
        if "start" in message:
            number = message["start"]["number"]
            processes[number] = _fork(message["start"])
            answer = {"started": number}
        else:
            _, status = os.waitpid(processes.pop(message["wait"]), 0)
            answer = {"exit_code": os.waitstatus_to_exitcode(status)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    for pid in processes.values():  # whose test failed while they ran
        os.kill(pid, signal.SIGKILL)


def _fork(order: dict[str, Any]) -> int:
    pid = os.fork()
    if pid:
        return pid
    workspace = Path(order["workspace"])
    logs = workspace / "logs"
    told: dict[str, Any] = {"error": "", "result": None}
    code = 1
    try:
        descriptor = os.open(logs / f"{order['number']}.txt", os.O_WRONLY | os.O_CREAT, 0o644)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        told["result"] = _run(order, workspace)
        code = 0
    except BaseException as error:  # noqa: BLE001
        traceback.print_exc()
        told["error"] = f"{type(error).__name__}: {error}"
    finally:
        (logs / f"{order['number']}.json").write_text(json.dumps(told))
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return 0  # not reached


def _run(order: dict[str, Any], workspace: Path) -> Any:
    from tests.fakes import retraining

    for component, module in COMPONENTS.items():
        executor = getattr(importlib.import_module(module), _EXECUTORS.get(component, "Executor"))
        executor.Do = _watched(executor.Do, component, order, workspace)
    settings = order["settings"]
    if order["kubeflow"] is not None:
        return _run_compiled(order, workspace)
    from tfx.orchestration.local.local_dag_runner import LocalDagRunner

    LocalDagRunner().run(retraining.create_pipeline(workspace, **settings))
    return None


def _watched(do: Any, component: str, order: dict[str, Any], workspace: Path) -> Any:
    def watched(self: Any, *arguments: Any) -> Any:
        with (workspace / EXECUTED).open("a") as file:
            file.write(f"{component}\n")
        if order["wait_for"] and order["wait_for"][0] == component:
            while not Path(order["wait_for"][1]).exists():
                time.sleep(0.01)
        if order["die"] == [component, "before"]:
            os.kill(os.getpid(), signal.SIGKILL)
        result = do(self, *arguments)
        if order["die"] == [component, "after"]:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return watched


def _compile(order: dict[str, Any], workspace: Path, file: Path) -> None:
    from tfx.orchestration.kubeflow.decorators import FinalStatusStr
    from tfx.orchestration.kubeflow.v2 import kubeflow_v2_dag_runner

    from pipelines.alerts import Alert
    from tests.fakes import retraining

    config = kubeflow_v2_dag_runner.KubeflowV2DagRunnerConfig(default_image="image:1", use_pipeline_spec_2_1=True)
    compiler = kubeflow_v2_dag_runner.KubeflowV2DagRunner(config=config, output_filename=str(file))
    if alerts_dir := order["kubeflow"].get("alerts_dir"):
        compiler.set_exit_handler(Alert(final_status=FinalStatusStr(), alerts_dir=alerts_dir))
    compiler.run(retraining.create_pipeline(workspace, for_kubeflow=True, **order["settings"]))


def _run_compiled(order: dict[str, Any], workspace: Path) -> Any:
    from pipelines.run_ir import ir, runner
    from pipelines.run_ir.steps import ForkedSteps

    # In a process of its own: compiling starts threads of TensorFlow, and no step could be forked here any more.
    file = workspace / "logs" / f"{order['number']}.job.json"
    pid = os.fork()
    if not pid:
        try:
            _compile(order, workspace, file)
        except BaseException:  # noqa: BLE001
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    if status:
        raise RuntimeError("The pipeline was not compiled; the log says why.")
    job = runner.run_job(ir.load(file), workspace / "kubeflow", ForkedSteps())
    return {
        "exit_handler": job.exit_handler and job.exit_handler.state,
        "tasks": {
            name: {
                "state": task.state,
                "log": task.log and str(task.log),
                "outputs": {key: found[0] for key, found in task.outputs.items() if found},
            }
            for name, task in job.tasks.items()
        },
    }


if __name__ == "__main__":
    main()
