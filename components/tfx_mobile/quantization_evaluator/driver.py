"""Tells TFX's cache which release is in production: the channel is no artifact, so nothing else would.

Runs in TFX's launcher just before the cache is asked, as ExampleGen's driver does for the files it reads.
"""

from __future__ import annotations

from typing import Any

from tfx.dsl.components.base.base_driver import BaseDriver
from tfx.orchestration.data_types import ComponentInfo, PipelineInfo
from tfx.orchestration.portable.data_types import ExecutionInfo
from tfx.proto.orchestration import driver_output_pb2

from tfx_mobile.errors import EvalConfigError, PushError
from tfx_mobile.quantization_evaluator import parameters
from tfx_mobile.quantization_evaluator.executor import PRODUCTION_KEY
from tfx_mobile.release_store import reading

#: An execution property; part of the cache's key, and not read by the executor, which resolves the channel itself.
PRODUCTION_RELEASE_KEY = "production_release"


class Driver(BaseDriver):
    """Driver of QuantizationEvaluator; its class path is public, compiled pipelines name it."""

    def run(self, execution_info: ExecutionInfo) -> driver_output_pb2.DriverOutput:
        """Adds the release in production to the execution properties."""
        output = driver_output_pb2.DriverOutput()
        if (release := release_in_production(execution_info.exec_properties)) is not None:
            output.exec_properties[PRODUCTION_RELEASE_KEY].string_value = release
        return output

    def resolve_exec_properties(
        self, exec_properties: dict[str, Any], pipeline_info: PipelineInfo, component_info: ComponentInfo
    ) -> dict[str, Any]:
        """The same for InteractiveContext, which knows drivers in their older form."""
        del pipeline_info, component_info
        release = release_in_production(exec_properties)
        return exec_properties if release is None else {**exec_properties, PRODUCTION_RELEASE_KEY: release}


def release_in_production(exec_properties: dict[str, Any]) -> str | None:
    """What the channel names, in one word; None without a second baseline.

    Never raises: what is wrong is for the executor to say, whose failure is recorded and never served from the cache.
    """
    try:
        spec = parameters.parse_production(exec_properties.get(PRODUCTION_KEY))
        if spec is None:
            return None
        statement = reading.current_statement(spec.destination.open_store(), spec.model_name, spec.channel)
    except (EvalConfigError, PushError) as error:
        return type(error).__name__
    return f"{statement.version}-{statement.release_id}" if statement is not None else "none"
