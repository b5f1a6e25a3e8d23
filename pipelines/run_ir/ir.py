"""A compiled job as tasks. The outer messages of the spec hold the inner ones untyped, so each level is checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import json_format

RUN_ALWAYS = "ALL_UPSTREAM_TASKS_COMPLETED"
#: The task that holds all others when there is an exit handler.
INNER_DAG = "tfx-dag"
#: The spec's names of parameter types, of both versions.
PARAMETER_TYPES: Mapping[str, type] = {
    "NUMBER_INTEGER": int,
    "NUMBER_DOUBLE": float,
    "STRING": str,
    "INT": int,
    "DOUBLE": float,
}


@dataclass(frozen=True)
class Task:
    """One task of the job.

    Attributes:
        name: Its key among the tasks.
        spec: The task, as in the job.
        component: Its component.
        executor: What runs it: `container`, `importer` or `resolver`, and its fields.
        upstream: Names of the tasks it waits for.
    """

    name: str
    spec: Mapping[str, Any]
    component: Mapping[str, Any]
    executor: Mapping[str, Any]
    upstream: frozenset[str]

    @property
    def kind(self) -> str:
        """`container`, `importer` or `resolver`."""
        return next(iter(self.executor))

    @property
    def condition(self) -> str | None:
        """When it runs; None for always."""
        condition = self.spec.get("triggerPolicy", {}).get("condition")
        return None if condition is None else str(condition)

    @property
    def runs_always(self) -> bool:
        """Whether it runs even if a task before it failed."""
        return bool(self.spec.get("triggerPolicy", {}).get("strategy") == RUN_ALWAYS)

    @property
    def input_artifacts(self) -> Mapping[str, tuple[str, str]]:
        """Producing task and output key, by input key."""
        sources = {k: v["taskOutputArtifact"] for k, v in self.spec.get("inputs", {}).get("artifacts", {}).items()}
        return {key: output_of(source) for key, source in sources.items()}

    @property
    def input_parameters(self) -> Mapping[str, Mapping[str, Any]]:
        """Where each parameter's value comes from, as the job says it."""
        return dict(self.spec.get("inputs", {}).get("parameters", {}))


@dataclass(frozen=True)
class Job:
    """A compiled pipeline.

    Attributes:
        name: Pipeline name.
        is_2_1: Whether its schema is 2.1 rather than 2.0.
        tasks: In an order in which they can run.
        exit_handler: The task that runs last whatever happened; None without one.
        parameters: Runtime parameters and their types: int, float or str.
        values: Values compiled into the job.
        images: The images its containers run in.
        tfx_version: The TFX that compiled it.
    """

    name: str
    is_2_1: bool
    tasks: tuple[Task, ...]
    exit_handler: Task | None
    parameters: Mapping[str, type]
    values: Mapping[str, Any]
    images: frozenset[str]
    tfx_version: str


def load(path: Path) -> Job:
    """Reads a compiled job.

    Raises:
        ValueError: It is none, or has fields the spec does not know.
    """
    try:
        job = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}. Compile one with python -m pipelines.kubeflow_v2.") from None
    check(job)
    spec = job["pipelineSpec"]
    is_2_1 = spec["schemaVersion"].startswith("2.1")
    root = spec["root"]
    handlers = [name for name in root["dag"]["tasks"] if name != INNER_DAG] if INNER_DAG in root["dag"]["tasks"] else []
    inner = spec["components"][INNER_DAG]["dag"] if handlers else root["dag"]
    tasks = [_task(name, task, spec) for name, task in inner["tasks"].items()]
    if handlers:
        _check_inner_parameters(root["dag"]["tasks"][INNER_DAG], spec["components"][INNER_DAG], tasks)
    given = root.get("inputDefinitions", {}).get("parameters", {})
    config = job.get("runtimeConfig", {})
    values = config.get("parameterValues") or {
        name: parse_constant(value) for name, value in config.get("parameters", {}).items()
    }
    return Job(
        name=spec["pipelineInfo"]["name"],
        is_2_1=is_2_1,
        tasks=_in_order(tasks),
        exit_handler=_task(handlers[0], root["dag"]["tasks"][handlers[0]], spec) if handlers else None,
        parameters={name: PARAMETER_TYPES[p.get("parameterType") or p["type"]] for name, p in given.items()},
        values=values,
        images=frozenset(
            e["container"]["image"] for e in spec["deploymentSpec"]["executors"].values() if "container" in e
        ),
        tfx_version=spec["sdkVersion"].removeprefix("tfx-"),
    )


def check(job: Mapping[str, Any]) -> None:
    """Makes sure that each level of a job is what the spec says.

    Raises:
        ValueError: A level has a field that it does not know, or one of a wrong type.
    """
    from kfp.pipeline_spec import pipeline_spec_pb2 as spec_pb2

    levels = (
        ("PipelineJob", job, spec_pb2.PipelineJob()),
        ("PipelineSpec", job.get("pipelineSpec", {}), spec_pb2.PipelineSpec()),
        (
            "PipelineDeploymentConfig",
            job.get("pipelineSpec", {}).get("deploymentSpec", {}),
            spec_pb2.PipelineDeploymentConfig(),
        ),
    )
    for name, level, message in levels:
        if not level:
            raise ValueError(f"There is no {name} in the job; compile one with python -m pipelines.kubeflow_v2.")
        try:
            json_format.ParseDict(level, message)
        except json_format.ParseError as error:
            raise ValueError(f"The job's {name} is not valid: {error}.") from None


def parse_constant(value: Mapping[str, Any]) -> Any:
    """A constant of schema 2.0."""
    kind, raw = next(iter(value.items()))
    return {"intValue": int, "doubleValue": float, "stringValue": str}[kind](raw)


def _task(name: str, task: Mapping[str, Any], spec: Mapping[str, Any]) -> Task:
    component = spec["components"][task["componentRef"]["name"]]
    inputs = task.get("inputs", {})
    sources = [*inputs.get("artifacts", {}).values(), *inputs.get("parameters", {}).values()]
    outputs = [s[kind] for s in sources for kind in ("taskOutputArtifact", "taskOutputParameter") if kind in s]
    return Task(
        name=name,
        spec=task,
        component=component,
        executor=spec["deploymentSpec"]["executors"][component["executorLabel"]],
        # The second task of a resolver for blessed models reads the first without naming it in dependentTasks.
        upstream=frozenset(task.get("dependentTasks", [])) | {output_of(s)[0] for s in outputs},
    )


def output_of(source: Mapping[str, Any]) -> tuple[str, str]:
    """Task and key of an output that another task takes, be it an artifact or a parameter.

    A parameter's producer is named with a suffix that the task does not have.
    """
    if "outputParameterKey" in source:
        return source["producerTask"].removesuffix("_task"), source["outputParameterKey"]
    return source["producerTask"], source["outputArtifactKey"]


def _check_inner_parameters(task: Mapping[str, Any], component: Mapping[str, Any], inner: list[Task]) -> None:
    """Makes sure that the task which holds the others gives them the runtime parameters they read.

    Raises:
        ValueError: It does not. TFX's own compiler leaves this out.
    """
    declared = component.get("inputDefinitions", {}).get("parameters", {})
    given = task.get("inputs", {}).get("parameters", {})
    for each in inner:
        for source in each.input_parameters.values():
            name = source.get("componentInputParameter")
            if name is not None and not (name in declared and given.get(name) == {"componentInputParameter": name}):
                raise ValueError(
                    f"{each.name} reads the parameter {name}, which {INNER_DAG} does not pass on to it. TFX's compiler "
                    "forgets this for pipelines with an exit handler; compile with pipelines.kubeflow_v2."
                )


def _in_order(tasks: list[Task]) -> tuple[Task, ...]:
    ordered: list[Task] = []
    left = {task.name: task for task in tasks}
    while left:
        ready = [task for task in left.values() if not (task.upstream & left.keys())]
        if not ready:
            raise ValueError(f"These tasks wait for each other: {', '.join(left)}.")
        for task in ready:
            ordered.append(left.pop(task.name))
    return tuple(ordered)
