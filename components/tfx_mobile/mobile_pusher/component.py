"""MobilePusher as a TFX component."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from tfx import types
from tfx.dsl.components.base import base_component, executor_spec
from tfx.orchestration.data_types import RuntimeParameter
from tfx.types import standard_artifacts
from tfx.types.component_spec import ChannelParameter, ComponentSpec, ExecutionParameter

from tfx_mobile.artifacts import TFLiteBlessing, TFLiteModel
from tfx_mobile.mobile_pusher import executor
from tfx_mobile.records import ReleaseManifest
from tfx_mobile.release_store.destinations import Destination, destinations_to_json, parse_destinations
from tfx_mobile.release_store.names import DEFAULT_CHANNEL, check_channel, check_model_name


class MobilePusherSpec(ComponentSpec):
    """Ports of MobilePusher."""

    INPUTS: ClassVar[Mapping[str, ChannelParameter]] = {
        executor.MODEL_KEY: ChannelParameter(type=TFLiteModel),
        executor.BLESSING_KEY: ChannelParameter(type=TFLiteBlessing),
        executor.MODEL_BLESSING_KEY: ChannelParameter(type=standard_artifacts.ModelBlessing, optional=True),
        executor.INFRA_BLESSING_KEY: ChannelParameter(type=standard_artifacts.InfraBlessing, optional=True),
        executor.EVALUATION_KEY: ChannelParameter(type=standard_artifacts.ModelEvaluation, optional=True),
    }
    OUTPUTS: ClassVar[Mapping[str, ChannelParameter]] = {
        executor.PUSHED_MODEL_KEY: ChannelParameter(type=standard_artifacts.PushedModel)
    }
    PARAMETERS: ClassVar[Mapping[str, ExecutionParameter]] = {
        executor.MODEL_NAME_KEY: ExecutionParameter(type=str),
        executor.CHANNEL_KEY: ExecutionParameter(type=str),
        executor.DESTINATIONS_KEY: ExecutionParameter(type=str),
        executor.DRY_RUN_KEY: ExecutionParameter(type=int),
        executor.FINGERPRINT_KEY: ExecutionParameter(type=str),
    }


class MobilePusher(base_component.BaseComponent):
    """Publishes exactly the `.tflite` bytes that were blessed, so that devices can fetch them.

    A push is safe to repeat, to kill at any moment and to run beside others. "Not blessed" is a success that pushes
    nothing. What a destination looks like afterwards: docs/mobile_pusher.md.

    Args:
        model: Channel of TFLiteModel: the file to publish, from `QuantizationEvaluator.outputs['blessed_model']`.
        blessing: Channel of TFLiteBlessing: the verdict on that very file, from
            `QuantizationEvaluator.outputs['blessing']`. Required; a blessing of other bytes is an error.
        model_name: Name the model is published under: 1 to 32 letters, digits and underscores, starting with a
            letter. Models of different names never touch each other.
        destinations: Where to publish, in this order: FilesystemDestination objects, their JSON form, or one JSON
            string with all of them. All are checked before the first is written.
        channel: Which of the model's channels to move to this release: 1 to 32 lower-case letters, digits, hyphens
            and underscores, starting with a letter. Devices follow a channel.
        model_blessing: Optional channel of ModelBlessing, the stock Evaluator's word on the float model. When wired
            it must bless, too.
        infra_blessing: Optional channel of InfraBlessing, from the stock InfraValidator. When wired it must bless, too.
        evaluation: Optional channel of ModelEvaluation, from `QuantizationEvaluator.outputs['evaluation']`. When
            wired, it must be the one the blessing was given on, and it becomes part of the push's lineage.
        dry_run: Make every check, write nothing at any destination, and report `pushed=0`.

    `model_name`, `destinations`, `channel` (of ptype `str`) and `dry_run` (of ptype `int`, 0 or 1) may be
    RuntimeParameters; their values are then checked when the component runs.

    Component `outputs` contains `pushed_model`, a channel of PushedModel with the custom properties of the stock
    Pusher and more.

    Raises:
        ValueError: A name or a destination is not valid.
    """

    SPEC_CLASS = MobilePusherSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Executor)

    def __init__(
        self,
        model: types.BaseChannel,
        blessing: types.BaseChannel,
        model_name: str | RuntimeParameter,
        destinations: Iterable[Destination | Mapping[str, Any]] | str | RuntimeParameter,
        channel: str | RuntimeParameter = DEFAULT_CHANNEL,
        model_blessing: types.BaseChannel | None = None,
        infra_blessing: types.BaseChannel | None = None,
        evaluation: types.BaseChannel | None = None,
        dry_run: bool | RuntimeParameter = False,
    ) -> None:
        if not isinstance(model_name, RuntimeParameter):
            check_model_name(model_name)
        if not isinstance(channel, RuntimeParameter):
            check_channel(channel)
        if not isinstance(destinations, RuntimeParameter):
            destinations = destinations_to_json(parse_destinations(destinations))
        if not isinstance(dry_run, RuntimeParameter):
            dry_run = int(dry_run)
        super().__init__(
            spec=MobilePusherSpec(
                model=model,
                blessing=blessing,
                model_blessing=model_blessing,
                infra_blessing=infra_blessing,
                evaluation=evaluation,
                model_name=model_name,
                channel=channel,
                destinations=destinations,
                dry_run=dry_run,
                fingerprint=_fingerprint(),
                pushed_model=types.Channel(type=standard_artifacts.PushedModel),
            )
        )


def _fingerprint() -> str:
    """What TFX's cache key does not see: the code. Without it a new version would be served an old one's results."""
    schema = ReleaseManifest.model_fields["schema_version"].default
    return f"tfx-mobile {importlib.metadata.version('tfx-mobile')}, release schema {schema}"
