"""MobilePusher's parameters, from what a pipeline author or an orchestrator gives to what they mean.

Read while a pipeline is defined, and again when it runs, because RuntimeParameters have no value before.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tfx_mobile import artifact_io, secrets_check
from tfx_mobile.records import canonical_json
from tfx_mobile.release_store.destinations import Destination, destinations_to_json, parse_destinations
from tfx_mobile.release_store.names import DEFAULT_CHANNEL, check_channel, check_model_name
from tfx_mobile.release_store.signing_keys import (
    SigningKey,
    parse_signing_key,
    parse_trusted_keys,
    signing_key_to_json,
    trusted_keys_to_json,
)
from tfx_mobile.rollout.spec import RemoteConfigRollout, parse_rollout

OnStale = Literal["skip", "fail"]
OnNotBlessed = Literal["skip", "fail"]

MODEL_NAME = "model_name"
CHANNEL = "channel"
DESTINATIONS = "destinations"
DRY_RUN = "dry_run"
ALLOW_UNBLESSED = "allow_unblessed"
VARIANT = "variant"
ON_STALE = "on_stale"
ON_NOT_BLESSED = "on_not_blessed"
LABELS = "labels"
SIGNING_KEY = "signing_key"
TRUSTED_KEYS = "trusted_keys"
ROLLOUT = "rollout"

MAX_LABELS = 32
MAX_LABEL_CHARACTERS = 256

_LABEL_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,62}")
_FLAGS = {"0": False, "0.0": False, "false": False, "1": True, "1.0": True, "true": True}


@dataclass(frozen=True)
class Parameters:
    """All parameters, checked; `component.MobilePusher` documents them.

    Attributes:
        model_name: Name the model is published under.
        channel: The channel to move.
        destinations: Where to publish.
        dry_run: Whether to write nothing.
        allow_unblessed: Whether what nobody blessed may be pushed.
        variant: Which variant of a TFLiteVariants to push; empty if the evaluator chose.
        on_stale: What to do where a newer run's release is on the channel.
        on_not_blessed: What to do where nothing may be pushed, because somebody did not bless.
        labels: What the author says about the release.
        signing_key: Which key signs; None leaves releases unsigned.
        trusted_keys: PEM texts of the public keys of which one must have signed what is there; empty requires nothing.
        rollout: How many users follow the channel, by Remote Config; None leaves that alone.
    """

    model_name: str
    channel: str
    destinations: tuple[Destination, ...]
    dry_run: bool
    allow_unblessed: bool
    variant: str
    on_stale: OnStale
    on_not_blessed: OnNotBlessed
    labels: dict[str, str]
    signing_key: SigningKey | None
    trusted_keys: tuple[str, ...]
    rollout: RemoteConfigRollout | None


def read(values: Mapping[str, Any]) -> Parameters:
    """Reads and checks all parameters; what is missing or None has its default.

    Args:
        values: By name; other names are passed over. Each is what an author writes, or its JSON.

    Raises:
        SecretParameterError: A ValueError. One looks like a secret.
        ValueError: One is not valid, or two contradict each other.
    """
    secrets_check.refuse_secrets(values)
    read = Parameters(
        model_name=check_model_name(values.get(MODEL_NAME)),
        channel=check_channel(_given(values, CHANNEL, DEFAULT_CHANNEL)),
        destinations=parse_distinct(_given(values, DESTINATIONS, ())),
        dry_run=parse_flag(DRY_RUN, values.get(DRY_RUN)),
        allow_unblessed=parse_flag(ALLOW_UNBLESSED, values.get(ALLOW_UNBLESSED)),
        variant=parse_variant(values.get(VARIANT)),
        on_stale=parse_on_stale(values.get(ON_STALE)),
        on_not_blessed=parse_on_not_blessed(values.get(ON_NOT_BLESSED)),
        labels=parse_labels(values.get(LABELS)),
        signing_key=parse_optional_key(values.get(SIGNING_KEY)),
        trusted_keys=parse_trusted_keys(values.get(TRUSTED_KEYS) or ()),
        rollout=parse_optional_rollout(values.get(ROLLOUT)),
    )
    check_names(read.destinations, read.rollout, read.model_name, read.channel)
    check_keys(read.signing_key, read.trusted_keys)
    return read


def _given(values: Mapping[str, Any], name: str, default: Any) -> Any:
    """The value of a parameter; some orchestrators drop those that are None, others deliver the None."""
    value = values.get(name)
    return default if value is None else value


def parse_distinct(value: Any) -> tuple[Destination, ...]:
    """The destinations.

    Raises:
        ValueError: `value` is no list of them, or names one place twice.
    """
    destinations = parse_destinations(value)
    places: dict[str, int] = {}
    for index, destination in enumerate(destinations):
        first = places.setdefault(destination.place, index)
        if first != index:
            raise ValueError(
                f"destinations[{index}] and destinations[{first}] are the same place, {destination!r}. Give it once: a "
                "second push to one place has nothing to do."
            )
    return destinations


def check_names(
    destinations: Iterable[Destination], rollout: RemoteConfigRollout | None, model_name: str, channel: str
) -> None:
    """Makes sure that every destination, and the rollout if there is one, can use the names.

    Raises:
        ValueError: One cannot.
    """
    for destination in destinations:
        destination.check_names(model_name, channel)
    if rollout is not None:
        rollout.aim(model_name, channel)


def check_keys(signing_key: SigningKey | None, trusted_keys: tuple[str, ...]) -> None:
    """Makes sure that what is pushed can be trusted by those who demand a signature.

    Raises:
        ValueError: It would not be signed.
    """
    if trusted_keys and signing_key is None:
        raise ValueError(
            "trusted_keys is given and signing_key is not: the release would carry no signature, and whoever trusts "
            "only these keys would refuse it. Set signing_key=KmsSigningKey(key_version='...'), or leave trusted_keys "
            "out."
        )


def parse_optional_key(value: Any) -> SigningKey | None:
    """The key that signs; None, or an empty text, for none.

    Raises:
        ValueError: `value` names no key.
    """
    return None if value in (None, "") else parse_signing_key(value)


def parse_optional_rollout(value: Any) -> RemoteConfigRollout | None:
    """The rollout; None, or an empty text, for none.

    Raises:
        ValueError: `value` is no rollout.
    """
    return None if value in (None, "") else parse_rollout(value)


def parse_flag(name: str, value: Any) -> bool:
    """A boolean, which arrives as 0, 0.0 or "0" depending on the orchestrator; None is False.

    Raises:
        ValueError: `value` is something else.
    """
    if value is None:
        return False
    try:
        return _FLAGS[str(value).lower()]
    except KeyError:
        raise ValueError(f"{name}={value!r} is not a boolean; set it to 0 or 1.") from None


def parse_variant(value: Any) -> str:
    """The name of a variant; empty for none.

    Raises:
        ValueError: `value` is no name.
    """
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError(f"variant={value!r} is not the name of a recipe; give one, for example 'integer_only_int8'.")
    return value


def parse_on_stale(value: Any) -> OnStale:
    """What to do where a newer run's release is on the channel.

    Raises:
        ValueError: `value` is not one of the choices.
    """
    return _skip_or_fail(
        value,
        f"on_stale={value!r} is not valid; use 'skip' to end well without a push when a newer run was faster, or "
        "'fail' to end in an error.",
    )


def parse_on_not_blessed(value: Any) -> OnNotBlessed:
    """What to do where nothing may be pushed, because somebody did not bless.

    Raises:
        ValueError: `value` is not one of the choices.
    """
    return _skip_or_fail(
        value,
        f"on_not_blessed={value!r} is not valid; use 'skip' to end well without a push when nothing is blessed, or "
        "'fail' to end in an error, so that whoever watches for failed runs is told.",
    )


def _skip_or_fail(value: Any, problem: str) -> Literal["skip", "fail"]:
    """One of two words, the first if there is none."""
    if value is None or value == "skip":
        return "skip"
    if value == "fail":
        return "fail"
    raise ValueError(problem)


def parse_labels(value: Any) -> dict[str, str]:
    """The labels.

    Raises:
        ValueError: `value` is no mapping of short printable texts.
    """
    labels = artifact_io.from_json(value, LABELS, '{"team": "vision"}', ValueError)
    if labels is None:
        return {}
    if not isinstance(labels, Mapping):
        raise ValueError(f"labels={value!r} is not a mapping; give texts by name, for example {{'team': 'vision'}}.")
    if len(labels) > MAX_LABELS:
        raise ValueError(f"labels has {len(labels)} entries; {MAX_LABELS} are allowed. Keep what apps or people read.")
    for name, text in labels.items():
        if not isinstance(name, str) or not _LABEL_NAME.fullmatch(name):
            raise ValueError(
                f"labels has the name {name!r}; use 1 to 63 letters, digits, dots, hyphens and underscores, starting "
                "with a letter."
            )
        if not isinstance(text, str) or not text.isprintable() or len(text) > MAX_LABEL_CHARACTERS:
            raise ValueError(
                f"labels[{name!r}]={text!r} is not valid; give a text of at most {MAX_LABEL_CHARACTERS} printable "
                "characters, without line breaks."
            )
    return dict(labels)


def check_wiring(*, model: bool, variants: bool, blessing: bool, allow_unblessed: bool, variant: str | None) -> None:
    """Makes sure that there is something to push, and somebody who vouches for it unless that was waived.

    Args:
        model: Whether `model` is wired.
        variants: Whether `variants` is wired.
        blessing: Whether `blessing` is wired.
        allow_unblessed: The parameter.
        variant: The parameter; None if it is not known yet.

    Raises:
        ValueError: Not so.
    """
    if model and variants:
        raise ValueError(
            "Both 'model' and 'variants' are wired, and only one of them can be pushed. Wire "
            "model=evaluator.outputs['blessed_model'] to push what was blessed, or variants=converter.outputs"
            "['variants'] with variant='<recipe>' to choose yourself."
        )
    if not model and not variants:
        raise ValueError("There is nothing to push. Wire model=evaluator.outputs['blessed_model'].")
    if variants and not allow_unblessed:
        raise ValueError(
            "'variants' are what was converted, not what was blessed. Wire model=evaluator.outputs['blessed_model'], "
            "or set allow_unblessed=True to push a variant of your own choice, labelled as such."
        )
    if not blessing and not allow_unblessed:
        raise ValueError(
            "'blessing' is not wired. Wire blessing=evaluator.outputs['blessing'] of the QuantizationEvaluator that "
            "'model' comes from, or set allow_unblessed=True to push without one, labelled as such."
        )
    if variants and variant == "":
        raise ValueError(
            "'variants' is wired, and 'variant' does not say which of them to push. Set variant='<recipe>', for "
            "example variant='integer_only_int8'."
        )
    if model and variant:
        raise ValueError(
            f"variant={variant!r} chooses among 'variants', which are not wired. Leave it out: 'model' holds one file."
        )


def destinations_json(value: Any) -> str:
    """The one JSON form of the destinations."""
    return destinations_to_json(parse_distinct(value))


def labels_json(value: Any) -> str:
    """The one JSON form of the labels."""
    return canonical_json(parse_labels(value)).decode()


def signing_key_json(value: Any) -> str:
    """The one JSON form of the signing key; empty for none."""
    key = parse_optional_key(value)
    return signing_key_to_json(key) if key else ""


def trusted_keys_json(value: Any) -> str:
    """The one JSON form of the trusted keys."""
    return trusted_keys_to_json(parse_trusted_keys(value or ()))


def rollout_json(value: Any) -> str:
    """The one JSON form of the rollout; empty for none."""
    rollout = parse_optional_rollout(value)
    return rollout.to_json() if rollout else ""
