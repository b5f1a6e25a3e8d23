"""A staged rollout as data."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from tfx_mobile.records import canonical_json
from tfx_mobile.release_store.names import DEFAULT_CHANNEL, check_channel, check_model_name
from tfx_mobile.validation import problems_in

EXAMPLE = "RemoteConfigRollout(project_id='my-project', percent=10)"

# Project ids, those of a domain (`example.com:app`), and project numbers.
_PROJECT = re.compile(r"[a-z0-9][a-z0-9.:-]{0,98}[a-z0-9]")
# What Firebase takes: parameter keys, condition names and the seed of a percent condition.
_PARAMETER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,255}")
_CONDITION = re.compile(r"(?! )[-_0-9A-Za-z '!%.]{1,100}(?<! )")
_SEED = re.compile(r"[-_.0-9A-Za-z]{1,32}")


class RemoteConfigRollout(BaseModel):
    """How many of the users follow the pushed channel; the others follow the stable one.

    It is carried out by one parameter and one percent condition of Firebase Remote Config. The app reads the parameter
    and follows the channel in it; see docs/rollout.md. It holds no secrets: credentials are those of the surroundings.

    Attributes:
        project_id: The Firebase project, by id or number.
        percent: Share of the users that follow the pushed channel, 0 to 100, with at most six decimals. 0 takes the
            condition away, so that everyone follows the stable channel; 100 is everyone.
        stable_channel: What all others follow.
        parameter: Key of the parameter, at most 256 letters, digits and underscores; None for `mlmodel_<model name>`.
        condition: Name of the condition, at most 100 characters; None for `mobilepusher_<model name>_<channel>`.
        seed: What users are drawn by, at most 32 characters. The same seed draws the same users, so a higher percent
            keeps those of a lower one; another seed draws anew. None for one of the model name and channel.

    Raises:
        ValueError: A value is not valid.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    project_id: str
    percent: float
    stable_channel: str = DEFAULT_CHANNEL
    parameter: str | None = None
    condition: str | None = None
    seed: str | None = None

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ValueError(f"Invalid RemoteConfigRollout: {problems_in(error)}. Write {EXAMPLE}.") from None

    @field_validator("project_id")
    @classmethod
    def _check_project(cls, value: str) -> str:
        if not _PROJECT.fullmatch(value):
            raise ValueError("give the id of a Firebase project, such as 'my-project', or its number")
        return value

    @field_validator("percent", mode="before")
    @classmethod
    def _check_percent(cls, value: object) -> object:
        number = value
        if isinstance(value, str):
            try:
                number = float(value)
            except ValueError:
                number = None
        if isinstance(number, bool) or not isinstance(number, (int, float)) or not 0 <= number <= 100:
            raise ValueError("give a number from 0 to 100")
        if round(number, 6) != number:
            raise ValueError("give at most six decimals; Remote Config counts in millionths of a percent")
        return number

    @field_validator("stable_channel")
    @classmethod
    def _check_stable_channel(cls, value: str) -> str:
        try:
            return check_channel(value)
        except ValueError:
            raise ValueError(
                "use 1 to 32 lower-case letters, digits, hyphens and underscores, starting with a letter, such as "
                "'production'"
            ) from None

    @field_validator("parameter")
    @classmethod
    def _check_parameter(cls, value: str | None) -> str | None:
        if value is not None and not _PARAMETER.fullmatch(value):
            raise ValueError("use 1 to 256 letters, digits and underscores, not starting with a digit")
        return value

    @field_validator("condition")
    @classmethod
    def _check_condition(cls, value: str | None) -> str | None:
        if value is not None and not _CONDITION.fullmatch(value):
            raise ValueError("use 1 to 100 letters, digits, spaces and - _ ' ! % . without a space at either end")
        return value

    @field_validator("seed")
    @classmethod
    def _check_seed(cls, value: str | None) -> str | None:
        if value is not None and not _SEED.fullmatch(value):
            raise ValueError("use 1 to 32 letters, digits, dots, hyphens and underscores")
        return value

    def to_json(self) -> str:
        """The one JSON form; `parse_rollout` reads it."""
        return canonical_json(self.model_dump(mode="json", exclude_none=True)).decode()

    def aim(self, model_name: str, channel: str) -> Aim:
        """What it comes to for one channel of one model.

        Raises:
            ValueError: A name is not valid, or the channel is the stable one.
        """
        check_model_name(model_name)
        check_channel(channel)
        if channel == self.stable_channel:
            raise ValueError(
                f"channel={channel!r} is the stable channel of the rollout, which everyone follows anyway. Push to "
                f"another one, such as channel='canary', and promote it to {channel!r} when it has proved itself; or "
                "set RemoteConfigRollout(stable_channel=...)."
            )
        seed = f"{model_name}_{channel}"
        if len(seed) > 32:
            seed = hashlib.sha256(seed.encode()).hexdigest()[:32]
        return Aim(
            model_name=model_name,
            channel=channel,
            stable_channel=self.stable_channel,
            percent=self.percent,
            parameter=self.parameter or f"mlmodel_{model_name}",
            condition=self.condition or f"mobilepusher_{model_name}_{channel}",
            seed=self.seed or seed,
        )


@dataclass(frozen=True)
class Aim:
    """What Remote Config is to say about one channel of one model, every name decided.

    Attributes: as in RemoteConfigRollout, none of them None.
    """

    model_name: str
    channel: str
    stable_channel: str
    percent: float
    parameter: str
    condition: str
    seed: str


def percent_text(percent: float) -> str:
    """A percentage without digits it does not need, such as `10` or `0.5`."""
    return f"{percent:.6f}".rstrip("0").rstrip(".")


def parse_rollout(rollout: object) -> RemoteConfigRollout:
    """Turns a rollout's JSON form, as a mapping or a string, into the rollout; one that is a rollout is returned.

    Raises:
        ValueError: It is malformed.
    """
    if isinstance(rollout, RemoteConfigRollout):
        return rollout
    given = rollout
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except json.JSONDecodeError as error:
            raise ValueError(f"rollout={rollout!r} is not JSON ({error}). Give {EXAMPLE} or its JSON form.") from None
    if not isinstance(given, Mapping):
        raise ValueError(f"rollout={rollout!r} is no rollout. Give {EXAMPLE} or its JSON form.")
    return RemoteConfigRollout(**{str(name): value for name, value in given.items()})
