"""MobilePusher as a TFX component."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

from pydantic import BaseModel
from tfx import types
from tfx.dsl.components.base import base_component, executor_spec
from tfx.orchestration.data_types import RuntimeParameter
from tfx.types import standard_artifacts
from tfx.types.component_spec import ChannelParameter, ComponentSpec, ExecutionParameter

from tfx_mobile.artifacts import TFLiteBlessing, TFLiteModel, TFLiteVariants
from tfx_mobile.mobile_pusher import candidate, executor, parameters
from tfx_mobile.records import ReleaseManifest
from tfx_mobile.release_store.destinations import Destination
from tfx_mobile.release_store.names import DEFAULT_CHANNEL, check_channel, check_model_name
from tfx_mobile.release_store.signing_keys import SigningKey, parse_trusted_keys
from tfx_mobile.rollout.spec import RemoteConfigRollout
from tfx_mobile.secrets_check import refuse_secrets


class MobilePusherSpec(ComponentSpec):
    """Ports of MobilePusher."""

    INPUTS: ClassVar[Mapping[str, ChannelParameter]] = {
        candidate.MODEL_KEY: ChannelParameter(type=TFLiteModel, optional=True),
        candidate.BLESSING_KEY: ChannelParameter(type=TFLiteBlessing, optional=True),
        candidate.VARIANTS_KEY: ChannelParameter(type=TFLiteVariants, optional=True),
        candidate.MODEL_BLESSING_KEY: ChannelParameter(type=standard_artifacts.ModelBlessing, optional=True),
        candidate.INFRA_BLESSING_KEY: ChannelParameter(type=standard_artifacts.InfraBlessing, optional=True),
        candidate.EVALUATION_KEY: ChannelParameter(type=standard_artifacts.ModelEvaluation, optional=True),
    }
    OUTPUTS: ClassVar[Mapping[str, ChannelParameter]] = {
        executor.PUSHED_MODEL_KEY: ChannelParameter(type=standard_artifacts.PushedModel)
    }
    PARAMETERS: ClassVar[Mapping[str, ExecutionParameter]] = {
        parameters.MODEL_NAME: ExecutionParameter(type=str),
        parameters.CHANNEL: ExecutionParameter(type=str),
        parameters.DESTINATIONS: ExecutionParameter(type=str),
        parameters.DRY_RUN: ExecutionParameter(type=int),
        parameters.ALLOW_UNBLESSED: ExecutionParameter(type=int),
        parameters.VARIANT: ExecutionParameter(type=str),
        parameters.ON_STALE: ExecutionParameter(type=str),
        parameters.ON_NOT_BLESSED: ExecutionParameter(type=str),
        parameters.LABELS: ExecutionParameter(type=str),
        parameters.SIGNING_KEY: ExecutionParameter(type=str),
        parameters.TRUSTED_KEYS: ExecutionParameter(type=str),
        parameters.ROLLOUT: ExecutionParameter(type=str),
        executor.FINGERPRINT_KEY: ExecutionParameter(type=str),
    }


class MobilePusher(base_component.BaseComponent):
    """Publishes exactly the `.tflite` bytes that were blessed, so that devices can fetch them.

    A push is safe to repeat, to kill at any moment and to run beside others. "Not blessed" is a success that pushes
    nothing. What a destination looks like afterwards: docs/mobile_pusher.md.

    Args:
        model: Channel of TFLiteModel: the file to publish, from `QuantizationEvaluator.outputs['blessed_model']`.
        blessing: Channel of TFLiteBlessing: the verdict on that very file, from
            `QuantizationEvaluator.outputs['blessing']`. A blessing of other bytes is an error. Required, unless
            `allow_unblessed` is set.
        model_name: Name the model is published under: 1 to 32 letters, digits and underscores, starting with a
            letter. Models of different names never touch each other.
        destinations: Where to publish, in this order: destinations such as FilesystemDestination, their JSON form, or
            one JSON string with all of them. All are checked before the first is written.
        channel: Which of the model's channels to move to this release: 1 to 32 lower-case letters, digits, hyphens
            and underscores, starting with a letter. Devices follow a channel.
        model_blessing: Optional channel of ModelBlessing, the stock Evaluator's word on the float model. When wired
            it must bless, too, whatever else is allowed.
        infra_blessing: Optional channel of InfraBlessing, from the stock InfraValidator. When wired it must bless, too,
            whatever else is allowed.
        evaluation: Optional channel of ModelEvaluation, from `QuantizationEvaluator.outputs['evaluation']`. When
            wired, it must be the one the blessing was given on, and it becomes part of the push's lineage.
        dry_run: Make every check, write nothing at any destination, and report `pushed=0`.
        allow_unblessed: Push what nobody blessed, too, labelled as such in the release, the receipts and the
            properties. `blessing` may be left out then; if it is wired and says no, it is overridden where there is a
            file to push.
        variants: Instead of `model`, only with `allow_unblessed`: channel of TFLiteVariants, from
            `TFLiteConverter.outputs['variants']`, for a pipeline without an evaluator.
        variant: Which of `variants` to push: the name of its recipe.
        on_stale: What to do if the channel has the release of a newer run, by span of the examples, their version, or
            the time the float model was recorded: `skip` ends well with the status `superseded`, `fail` raises.
        on_not_blessed: What to do if nothing is blessed: `skip` ends well with the status `not_blessed`, `fail` raises
            NotBlessedError once that is recorded, so that an exit handler or a callback for failures tells somebody.
        labels: What else to say about the release: at most 32 short printable texts by name. They become part of the
            release and are public as it is.
        signing_key: Which key signs the release and the channel: KmsSigningKey, for tests EnvironmentSigningKey, or
            their JSON. A name, never the key. None leaves them unsigned; a channel that was signed is never replaced by
            an unsigned statement.
        trusted_keys: PEM texts of public keys of which one must have signed what is on the channel already; the signing
            key's own among them. None demands nothing of what is there.
        rollout: RemoteConfigRollout or its JSON: how many users follow `channel`. Checked before anything is written,
            applied last of all, once every destination has the release.

    All parameters may be RuntimeParameters, of ptype `int` (0 or 1) for `dry_run` and `allow_unblessed`, of ptype `str`
    for all others, with JSON in `destinations`, `labels`, `trusted_keys` and `rollout`; their values are then checked
    when the component runs. Parameters are stored and shown: what looks like a secret is refused in any of them.

    Component `outputs` contains `pushed_model`, a channel of PushedModel with the custom properties of the stock
    Pusher and more.

    Raises:
        ValueError: A parameter is not valid, or inputs and parameters contradict each other.
        SecretParameterError: A ValueError. A parameter looks like a secret.
    """

    SPEC_CLASS = MobilePusherSpec
    EXECUTOR_SPEC = executor_spec.ExecutorClassSpec(executor.Executor)

    def __init__(
        self,
        model: types.BaseChannel | None = None,
        blessing: types.BaseChannel | None = None,
        *,
        model_name: str | RuntimeParameter,
        destinations: Iterable[Destination | Mapping[str, Any]] | str | RuntimeParameter,
        channel: str | RuntimeParameter = DEFAULT_CHANNEL,
        model_blessing: types.BaseChannel | None = None,
        infra_blessing: types.BaseChannel | None = None,
        evaluation: types.BaseChannel | None = None,
        dry_run: bool | RuntimeParameter = False,
        allow_unblessed: bool | RuntimeParameter = False,
        variants: types.BaseChannel | None = None,
        variant: str | RuntimeParameter | None = None,
        on_stale: parameters.OnStale | RuntimeParameter = "skip",
        on_not_blessed: parameters.OnNotBlessed | RuntimeParameter = "skip",
        labels: Mapping[str, str] | RuntimeParameter | None = None,
        signing_key: SigningKey | Mapping[str, Any] | str | RuntimeParameter | None = None,
        trusted_keys: Iterable[str] | RuntimeParameter | None = None,
        rollout: RemoteConfigRollout | Mapping[str, Any] | RuntimeParameter | None = None,
    ) -> None:
        given: dict[str, Any] = {
            parameters.MODEL_NAME: model_name,
            parameters.CHANNEL: channel,
            parameters.DESTINATIONS: _listed(destinations),
            parameters.DRY_RUN: dry_run,
            parameters.ALLOW_UNBLESSED: allow_unblessed,
            parameters.VARIANT: variant,
            parameters.ON_STALE: on_stale,
            parameters.ON_NOT_BLESSED: on_not_blessed,
            parameters.LABELS: labels,
            parameters.SIGNING_KEY: signing_key,
            parameters.TRUSTED_KEYS: _listed(trusted_keys),
            parameters.ROLLOUT: rollout,
        }
        # First of all, because other messages repeat the value. A RuntimeParameter's default is compiled, too.
        refuse_secrets({n: v.default if isinstance(v, RuntimeParameter) else v for n, v in given.items()})
        known = {name: value for name, value in given.items() if not isinstance(value, RuntimeParameter)}
        properties = given | {name: _PARSERS[name](value) for name, value in known.items()}
        _check_together(known)
        parameters.check_wiring(
            model=model is not None,
            variants=variants is not None,
            blessing=blessing is not None,
            allow_unblessed=bool(properties[parameters.ALLOW_UNBLESSED]),  # one that is not known yet may allow it
            variant=properties[parameters.VARIANT] if parameters.VARIANT in known else None,
        )
        super().__init__(
            spec=MobilePusherSpec(
                model=model,
                blessing=blessing,
                variants=variants,
                model_blessing=model_blessing,
                infra_blessing=infra_blessing,
                evaluation=evaluation,
                fingerprint=_fingerprint(),
                pushed_model=types.Channel(type=standard_artifacts.PushedModel),
                **properties,
            )
        )


#: From what an author writes to what is compiled.
_PARSERS: Mapping[str, Callable[[Any], Any]] = {
    parameters.MODEL_NAME: check_model_name,
    parameters.CHANNEL: check_channel,
    parameters.DESTINATIONS: parameters.destinations_json,
    parameters.DRY_RUN: lambda value: int(parameters.parse_flag(parameters.DRY_RUN, value)),
    parameters.ALLOW_UNBLESSED: lambda value: int(parameters.parse_flag(parameters.ALLOW_UNBLESSED, value)),
    parameters.VARIANT: parameters.parse_variant,
    parameters.ON_STALE: parameters.parse_on_stale,
    parameters.ON_NOT_BLESSED: parameters.parse_on_not_blessed,
    parameters.LABELS: parameters.labels_json,
    parameters.SIGNING_KEY: parameters.signing_key_json,
    parameters.TRUSTED_KEYS: parameters.trusted_keys_json,
    parameters.ROLLOUT: parameters.rollout_json,
}


def _listed(value: Any) -> Any:
    """A list of what may be possible to look through only once; what is no list of things is left as it is."""
    is_list = isinstance(value, Iterable) and not isinstance(value, (str, bytes, Mapping, BaseModel))
    return list(value) if is_list else value


def _check_together(known: Mapping[str, Any]) -> None:
    """Checks parameters against each other, as far as they are known while the pipeline is defined.

    Raises:
        ValueError: Two of them contradict each other.
    """
    if {parameters.MODEL_NAME, parameters.CHANNEL} <= set(known):
        parameters.check_names(
            parameters.parse_distinct(known[parameters.DESTINATIONS]) if parameters.DESTINATIONS in known else (),
            parameters.parse_optional_rollout(known.get(parameters.ROLLOUT)),
            known[parameters.MODEL_NAME],
            known[parameters.CHANNEL],
        )
    if {parameters.SIGNING_KEY, parameters.TRUSTED_KEYS} <= set(known):
        parameters.check_keys(
            parameters.parse_optional_key(known[parameters.SIGNING_KEY]),
            parse_trusted_keys(known[parameters.TRUSTED_KEYS] or ()),
        )


def _fingerprint() -> str:
    """What TFX's cache key does not see: the code. Without it a new version would be served an old one's results."""
    schema = ReleaseManifest.model_fields["schema_version"].default
    return f"tfx-mobile {importlib.metadata.version('tfx-mobile')}, release schema {schema}"
