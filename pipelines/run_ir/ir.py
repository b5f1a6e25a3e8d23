"""A compiled job as tasks. The outer messages of the spec hold the inner ones untyped, so each level is checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf import json_format

RUN_ALWAYS = "ALL_UPSTREAM_TASKS_COMPLETED"
#: The task that holds all others when there is an exit handler.
INNER_DAG = "tfx-dag"


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
        given = self.spec.get("inputs", {}).get("artifacts", {})
        return {
            key: (_task_name(v["taskOutputArtifact"]["producerTask"]), v["taskOutputArtifact"]["outputArtifactKey"])
            for key, v in given.items()
        }


@dataclass(frozen=True)
class Job:
    """A compiled pipeline.

    Attributes:
        name: Pipeline name.
        is_2_1: Whether its schema is 2.1 rather than 2.0.
        tasks: In an order in which they can run.
        exit_handler: The task that runs last whatever happened; None without one.
        parameters: Runtime parameters and their types.
        values: Values compiled into the job.
    """

    name: str
    is_2_1: bool
    tasks: tuple[Task, ...]
    exit_handler: Task | None
    parameters: Mapping[str, str]
    values: Mapping[str, Any] = field(default_factory=dict)


def load(path: Path) -> Job:
    """Reads a compiled job.

    Raises:
        ValueError: It is none, or has fields the spec does not know.
    """
    job = json.loads(path.read_text())
    check(job)
    spec = job["pipelineSpec"]
    is_2_1 = spec["schemaVersion"].startswith("2.1")
    root = spec["root"]
    handlers = [name for name in root["dag"]["tasks"] if name != INNER_DAG] if INNER_DAG in root["dag"]["tasks"] else []
    inner = spec["components"][INNER_DAG]["dag"] if handlers else root["dag"]
    tasks = [_task(name, task, spec) for name, task in inner["tasks"].items()]
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
        parameters={name: p.get("parameterType") or p["type"] for name, p in given.items()},
        values=values,
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
    producers = {
        _task_name(v["taskOutputArtifact"]["producerTask"])
        for v in task.get("inputs", {}).get("artifacts", {}).values()
    }
    return Task(
        name=name,
        spec=task,
        component=component,
        executor=spec["deploymentSpec"]["executors"][component["executorLabel"]],
        # The second task of a resolver for blessed models reads the first without naming it in dependentTasks.
        upstream=frozenset(task.get("dependentTasks", [])) | frozenset(producers),
    )


def _task_name(producer: str) -> str:
    """A value that is taken from another task names it with a suffix that the task does not have."""
    return producer.removesuffix("_task")


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
