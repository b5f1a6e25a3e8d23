"""A whole job: drivers, importers, resolvers, conditions, skips, failures, exit handler."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from google.protobuf import json_format

from pipelines.run_ir import conditions
from pipelines.run_ir.artifacts import ArtifactStore, RuntimeArtifact, new_artifact
from pipelines.run_ir.ir import Job, Task, output_of, parse_constant
from pipelines.run_ir.steps import StepRun, Steps

State = Literal["SUCCEEDED", "SKIPPED", "FAILED", "NOT_TRIGGERED"]

_PLACEHOLDER = "{{$}}"
_OUTPUT_FILE = "executor_output.json"


@dataclass(frozen=True)
class TaskRun:
    """What became of a task.

    Attributes:
        state: NOT_TRIGGERED: a task before it failed. SKIPPED: its condition was false, or a task before it was
            skipped.
        outputs: Artifacts by output key.
        values: Output parameters, which other tasks take as parameters.
        steps: The driver's and the executor's processes.
        log: What they printed.
        why: The condition, or the failure in a word.
    """

    state: State
    outputs: dict[str, list[RuntimeArtifact]] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    steps: tuple[StepRun, ...] = ()
    log: Path | None = None
    why: str = ""


@dataclass(frozen=True)
class JobRun:
    """What became of a job.

    Attributes:
        tasks: By name, in the order they ran.
        exit_handler: The exit handler's run; None without one.
    """

    tasks: dict[str, TaskRun]
    exit_handler: TaskRun | None = None

    @property
    def succeeded(self) -> bool:
        """Whether no task failed, the exit handler neither."""
        runs = [*self.tasks.values(), *([self.exit_handler] if self.exit_handler else [])]
        return all(run.state != "FAILED" for run in runs)


def run_job(
    job: Job,
    root: Path,
    steps: Steps,
    parameters: Mapping[str, Any] | None = None,
    on_task: Callable[[str, TaskRun], None] | None = None,
) -> JobRun:
    """Runs a job below `root`, which takes the place of the pipeline root and keeps artifacts from run to run.

    Args:
        job: What to run.
        root: A local folder.
        steps: How to run a container.
        parameters: Values of runtime parameters; over those compiled into the job.
        on_task: Called after each task.

    Raises:
        ValueError: A parameter is missing, unknown or of another type, which Google's client does not notice; or
            `steps` cannot stand for the job's image.
    """
    values = _complete(job, parameters or {})
    steps.check(job)
    root = root.resolve()
    root.mkdir(parents=True, exist_ok=True)
    run = _Run(job, root / uuid.uuid4().hex[:12], ArtifactStore(root / "artifacts.json"), steps, values)
    done: dict[str, TaskRun] = {}
    for task in job.tasks:
        done[task.name] = run.task(task, done)
        if on_task is not None:
            on_task(task.name, done[task.name])
    result = JobRun(done)
    if job.exit_handler is None:
        return result
    failed = {name: r for name, r in done.items() if r.state == "FAILED"}
    status = {
        "state": "FAILED" if failed else "SUCCEEDED",
        "pipelineJobResourceName": f"projects/0/locations/local/pipelineJobs/{run.folder.name}",
        "error": {"message": "; ".join(f"{name}: {r.why}" for name, r in failed.items())} if failed else {},
    }
    handled = run.container(job.exit_handler, {}, done, json.dumps(status))
    if on_task is not None:
        on_task(job.exit_handler.name, handled)
    return JobRun(done, handled)


def _complete(job: Job, given: Mapping[str, Any]) -> dict[str, Any]:
    values = {**job.values, **given}
    if unknown := sorted(values.keys() - job.parameters.keys()):
        raise ValueError(
            f"The job has no parameter {', '.join(unknown)}; it has: {', '.join(job.parameters) or 'none'}."
        )
    if missing := sorted(job.parameters.keys() - values.keys()):
        raise ValueError(
            f"No value for the parameter {', '.join(missing)}. The compiled job does not keep defaults: give them all, "
            "as the file *.parameters.json beside it does."
        )
    return {name: _of_type(name, values[name], kind) for name, kind in job.parameters.items()}


def _of_type(name: str, value: Any, kind: type) -> Any:
    """A value of the type the job declares; a number may be written as text, as on a command line."""
    try:
        if kind is str or isinstance(value, bool):
            fits = kind is str and isinstance(value, str)
        else:
            fits = isinstance(value, str) or kind(value) == value
        if fits:
            return kind(value)
    except (TypeError, ValueError):
        pass
    raise ValueError(f"The parameter {name} takes {kind.__name__}, not {value!r}.")


@dataclass
class _Run:
    job: Job
    folder: Path
    store: ArtifactStore
    steps: Steps
    values: Mapping[str, Any]

    def task(self, task: Task, done: Mapping[str, TaskRun]) -> TaskRun:
        """Runs a task, or finds out why not."""
        before = [done[name] for name in task.upstream if name in done]
        if not task.runs_always:
            if any(r.state in ("FAILED", "NOT_TRIGGERED") for r in before):
                return TaskRun("NOT_TRIGGERED", why="a task before it failed")
            if any(r.state == "SKIPPED" for r in before):
                return TaskRun("SKIPPED", why="a task before it was skipped")
        inputs = {
            key: done[producer].outputs.get(output, []) for key, (producer, output) in task.input_artifacts.items()
        }
        if task.condition is not None and not conditions.holds(task.condition, _look_up(task, inputs)):
            return TaskRun("SKIPPED", why=task.condition)
        if task.kind == "importer":
            return self._import(task, done)
        if task.kind == "resolver":
            return self._resolve(task, inputs)
        return self.container(task, inputs, done)

    def _import(self, task: Task, done: Mapping[str, TaskRun]) -> TaskRun:
        importer = task.executor["importer"]
        uri = importer["artifactUri"]
        if "runtimeParameter" in uri:
            address = self._parameters(task, done)[uri["runtimeParameter"]]
        else:
            address = uri.get("constant") or parse_constant(uri["constantValue"])
        (key,) = task.component["outputDefinitions"]["artifacts"]
        artifact = new_artifact(importer["typeSchema"], address, importer.get("metadata"))
        self.store.add([artifact])
        return TaskRun("SUCCEEDED", {key: [artifact]})

    def _resolve(self, task: Task, inputs: Mapping[str, list[RuntimeArtifact]]) -> TaskRun:
        queries = task.executor["resolver"]["outputArtifactQueries"]
        found = {key: self.store.newest(query["filter"], inputs) for key, query in queries.items()}
        return TaskRun("SUCCEEDED", {key: [artifact] if artifact else [] for key, artifact in found.items()})

    def container(
        self,
        task: Task,
        inputs: Mapping[str, list[RuntimeArtifact]],
        done: Mapping[str, TaskRun],
        final_status: str | None = None,
    ) -> TaskRun:
        """Runs a container, after its driver if it has one."""
        # A fresh folder for each attempt: TFX takes an output file that is there for its driver's.
        folder = self.folder / f"{task.name}_{uuid.uuid4().hex[:8]}"
        folder.mkdir(parents=True)
        log, output_file = folder / "log.txt", folder / _OUTPUT_FILE
        definitions = task.component.get("outputDefinitions", {})
        outputs = {
            key: new_artifact(spec["artifactType"], str(folder / key), spec.get("metadata"))
            for key, spec in definitions.get("artifacts", {}).items()
        }
        container = task.executor["container"]
        parameters = self._parameters(task, done, final_status)
        steps = []
        values: dict[str, Any] = {}
        for spec in (container.get("lifecycle", {}).get("preCacheCheck"), container):
            if spec is None:
                continue
            message = self._executor_input(inputs, parameters, outputs, definitions, folder, output_file)
            arguments = [argument.replace(_PLACEHOLDER, message) for argument in spec.get("args", [])]
            step = self.steps.run([*spec["command"], *arguments], log)
            steps.append(step)
            if step.exit_code != 0:
                return TaskRun("FAILED", steps=tuple(steps), log=log, why=f"exit code {step.exit_code}")
            outputs, values = _merged(outputs, output_file)
        if missing := definitions.get("parameters", {}).keys() - values.keys():
            return TaskRun("FAILED", steps=tuple(steps), log=log, why=f"wrote no value of {', '.join(sorted(missing))}")
        self.store.add(list(outputs.values()))
        return TaskRun("SUCCEEDED", {key: [artifact] for key, artifact in outputs.items()}, values, tuple(steps), log)

    def _parameters(self, task: Task, done: Mapping[str, TaskRun], final_status: str | None = None) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for name, source in task.input_parameters.items():
            if "componentInputParameter" in source:
                values[name] = self.values[source["componentInputParameter"]]
            elif "taskFinalStatus" in source:
                values[name] = final_status
            elif "taskOutputParameter" in source:
                producer, key = output_of(source["taskOutputParameter"])
                values[name] = done[producer].values[key]
            else:
                value = source["runtimeValue"]
                values[name] = value["constant"] if "constant" in value else parse_constant(value["constantValue"])
        return values

    def _executor_input(
        self,
        inputs: Mapping[str, list[RuntimeArtifact]],
        parameters: Mapping[str, Any],
        outputs: Mapping[str, RuntimeArtifact],
        definitions: Mapping[str, Any],
        folder: Path,
        output_file: Path,
    ) -> str:
        """The message that replaces the placeholder, checked against the spec."""
        from kfp.pipeline_spec import pipeline_spec_pb2

        typed = {key: _typed(value) for key, value in parameters.items()}
        message = {
            "inputs": {
                "artifacts": {key: {"artifacts": found} for key, found in inputs.items()},
                **({"parameterValues": parameters} if self.job.is_2_1 else {"parameters": typed}),
            },
            "outputs": {
                "artifacts": {key: {"artifacts": [artifact]} for key, artifact in outputs.items()},
                "parameters": {
                    key: {"outputFile": str(folder / f"{key}.value")} for key in definitions.get("parameters", {})
                },
                "outputFile": str(output_file),
            },
        }
        json_format.ParseDict(message, pipeline_spec_pb2.ExecutorInput())
        return json.dumps(message)


def _typed(value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        return {"stringValue": value}
    return {"intValue": str(int(value))} if isinstance(value, int) else {"doubleValue": value}


def _merged(
    outputs: Mapping[str, RuntimeArtifact], output_file: Path
) -> tuple[dict[str, RuntimeArtifact], dict[str, Any]]:
    """Outputs with what a process wrote about them, and the values it wrote."""
    from kfp.pipeline_spec import pipeline_spec_pb2

    if not output_file.exists():
        return dict(outputs), {}
    written = json.loads(output_file.read_text())
    json_format.ParseDict(written, pipeline_spec_pb2.ExecutorOutput())
    merged = dict(outputs)
    for key, found in written.get("artifacts", {}).items():
        (artifact,) = found["artifacts"]
        metadata = {**merged[key]["metadata"], **artifact.get("metadata", {})}
        merged[key] = {**merged[key], "uri": artifact.get("uri", merged[key]["uri"]), "metadata": metadata}
    return merged, written.get("parameterValues", {})


def _look_up(task: Task, inputs: Mapping[str, list[RuntimeArtifact]]) -> Callable[[str, int, str | None], Any]:
    def look_up(key: str, index: int, name: str | None) -> Any:
        if len(inputs.get(key, ())) <= index:
            raise ValueError(f"The condition of {task.name} reads input {key!r}, which has no artifact {index}.")
        artifact = inputs[key][index]
        if name is None:
            return artifact["uri"]
        if name not in artifact["metadata"]:
            raise ValueError(
                f"The condition of {task.name} reads property {name!r} of {key!r}, which was not written; whoever "
                "writes the artifact has to write it whatever the outcome."
            )
        return artifact["metadata"][name]

    return look_up
