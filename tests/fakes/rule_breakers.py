"""Components that break rules which only Kubeflow and Vertex enforce."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from tfx.dsl.components.base.base_beam_executor import BaseBeamExecutor
from tfx.dsl.components.base.base_component import BaseComponent
from tfx.dsl.components.base.base_executor import BaseExecutor, EmptyExecutor
from tfx.dsl.components.base.executor_spec import ExecutorClassSpec, ExecutorSpec
from tfx.types.artifact import Artifact, Property, PropertyType
from tfx.types.channel import Channel
from tfx.types.component_spec import ChannelParameter, ComponentSpec, ExecutionParameter
from tfx.types.standard_artifacts import Model


def making(kind: type[Artifact], executor: type[BaseExecutor] = EmptyExecutor, spec: ExecutorSpec | None = None) -> Any:
    """A component with one output of a type."""
    ports = {"PARAMETERS": {}, "INPUTS": {}, "OUTPUTS": {"made": ChannelParameter(type=kind)}}
    spec_class = type("MakingSpec", (ComponentSpec,), ports)
    attributes = {"SPEC_CLASS": spec_class, "EXECUTOR_SPEC": spec or ExecutorClassSpec(executor)}
    return type("Making", (BaseComponent,), attributes)(spec_class(made=Channel(type=kind)))


def artifact_type(type_name: str, properties: dict[str, Property] | None = None) -> type[Artifact]:
    """An artifact type of that name."""
    return type("Made", (Artifact,), {"TYPE_NAME": type_name, "PROPERTIES": properties})


WITH_PROPERTIES = {"span": Property(type=PropertyType.INT)}


class WritesTwo(BaseExecutor):
    """Leaves two artifacts in one channel."""

    def Do(self, input_dict: Any, output_dict: Any, exec_properties: Any) -> None:
        output_dict["made"].append(Model())


class WritesWhereNothingIs(BaseExecutor):
    """Relies on a folder that LocalDagRunner makes, and Kubeflow does not."""

    def Do(self, input_dict: Any, output_dict: Any, exec_properties: Any) -> None:
        Path(output_dict["made"][0].uri, "file").write_text("")


class OnBeam(BaseBeamExecutor):
    """Is specified without Beam."""

    def Do(self, input_dict: Any, output_dict: Any, exec_properties: Any) -> None:
        with self._make_beam_pipeline() as pipeline:
            pipeline.run()


class OtherSpec(ExecutorSpec):
    """Says nothing that a container could start."""


class TakesOneSpec(ComponentSpec):
    """A parameter of a name that the entry point changes."""

    PARAMETERS: ClassVar[dict[str, Any]] = {
        "input_base_uri": ExecutionParameter(type=str),
        "seen": ExecutionParameter(type=str),
    }
    INPUTS: ClassVar[dict[str, Any]] = {}
    OUTPUTS: ClassVar[dict[str, Any]] = {"made": ChannelParameter(type=Model)}


class WritesParameters(BaseExecutor):
    """Writes down the names of its parameters."""

    def Do(self, input_dict: Any, output_dict: Any, exec_properties: Any) -> None:
        Path(exec_properties["seen"]).write_text(" ".join(sorted(exec_properties)))


class TakesAnOldName(BaseComponent):
    """Has a parameter `input_base_uri`."""

    SPEC_CLASS = TakesOneSpec
    EXECUTOR_SPEC = ExecutorClassSpec(WritesParameters)

    def __init__(self, seen: str) -> None:
        super().__init__(TakesOneSpec(input_base_uri="somewhere", seen=seen, made=Channel(type=Model)))
