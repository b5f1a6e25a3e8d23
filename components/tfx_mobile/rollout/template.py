"""What a Remote Config template says about a rollout, and the template that would say what is wanted.

A template belongs to the whole project: other teams' parameters, conditions, and values that Firebase manages itself.
All of it is kept as the very text that was read. Only two things are changed: one parameter, recognised by its key and
by a mark in its description, and one condition, recognised by its name and by being nothing but a percentage.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tfx_mobile.errors import DestinationUnavailableError, RolloutRefusedError
from tfx_mobile.records import canonical_json
from tfx_mobile.rollout import json_text
from tfx_mobile.rollout.spec import Aim, percent_text

MAX_PARAMETERS = 3_000
MAX_CONDITIONS = 2_000
MAX_VALUE_CHARACTERS = 1_000_000

#: Values that Firebase manages. To write over one ends a running rollout, personalization or experiment.
_MANAGED = frozenset({"rolloutValue", "personalizationValue", "experimentValue"})

_PERCENT = re.compile(r"percent\('([-_.0-9A-Za-z]*)'\)\s*<=\s*(\d+(?:\.\d+)?)")


@dataclass(frozen=True)
class Findings:
    """What a template says about a rollout.

    Attributes:
        path: Where its parameter is; None if there is none.
        stable_channel: The parameter's default; None without a parameter.
        targeted_channel: What the parameter says to those whom the condition meets; None if it does not ask it.
        condition_index: Where its condition is; None if there is none.
        seed: Of the condition; None without one.
        percent: Of the condition; None without one.
        condition_is_shared: Whether other parameters ask the condition, too.
    """

    path: tuple[str, ...] | None
    stable_channel: str | None
    targeted_channel: str | None
    condition_index: int | None
    seed: str | None
    percent: float | None
    condition_is_shared: bool

    def percent_of(self, channel: str) -> float:
        """Share of the users that follow `channel` because of this rollout."""
        return self.percent if self.percent is not None and self.targeted_channel == channel else 0.0


def read(text: str, aim: Aim) -> Findings:
    """Looks up a rollout in a template.

    Raises:
        RolloutRefusedError: The parameter or the condition is not ours, or Firebase manages a value of it.
        DestinationUnavailableError: The text is no template.
    """
    template = _parse(text)
    path, parameter = _find_parameter(template, aim)
    others = [other for place, other in _parameters(template) if place != path]
    index, seed, percent = _find_condition(template, aim)
    asking = [values[aim.condition] for other in others if aim.condition in (values := _conditional_values(other))]
    if managed := _managed_in(asking):
        raise RolloutRefusedError(
            f"Condition {aim.condition!r} is also asked by a parameter with {_and(managed)}, which changes with it. "
            "Nothing of this rollout was written. Set RemoteConfigRollout(condition=...) to a name of its own, or end "
            "that in the Firebase console first."
        )
    stable = targeted = None
    if parameter is not None:
        stable = _channel_in(parameter.get("defaultValue"), "default value", aim)
        conditional = _conditional_values(parameter)
        if aim.condition in conditional:
            targeted = _channel_in(conditional[aim.condition], f"value for {aim.condition!r}", aim)
    return Findings(path, stable, targeted, index, seed, percent, bool(asking))


def changed(text: str, aim: Aim) -> str:
    """The template as it is wanted; the same text if it says so already.

    Raises:
        RolloutRefusedError: See `read`; or a limit of the service would be exceeded.
        DestinationUnavailableError: The text is no template.
    """
    found = read(text, aim)
    try:
        new = _with_parameter(_with_condition(text, found, aim), found, aim)
        if aim.percent == 0 and found.condition_index is not None and not found.condition_is_shared:
            # After the value that asks it: a template that names a condition it does not have is not valid.
            new = json_text.drop(new, ("conditions", found.condition_index))
    except ValueError as error:
        raise _no_template(error) from None
    if new != text:
        _check_limits(new)
    return new


def strangers_differ(one: str, other: str, aim: Aim) -> bool:
    """Whether two templates differ in anything but this rollout and the version's own data."""

    def strangers(text: str) -> Any:
        template = _parse(text)
        template.pop("version", None)
        path, _ = _find_parameter(template, aim)
        container: Any = template
        for key in path[:-1] if path else ():
            container = container[key]
        if path:
            del container[path[-1]]
        index, _, _ = _find_condition(template, aim)
        if index is not None:
            del template["conditions"][index]
        # A member that is absent says the same as an empty one.
        return {key: value for key, value in template.items() if value}

    return bool(strangers(one) != strangers(other))


def version_number(text: str) -> str | None:
    """The template's version; None while none was ever published.

    Raises:
        DestinationUnavailableError: The text is no template.
    """
    version = _parse(text).get("version")
    number = version.get("versionNumber") if isinstance(version, dict) else None
    return None if number is None else str(number)


def _with_condition(text: str, found: Findings, aim: Aim) -> str:
    """With the condition for more than 0 %, last of all: whatever else somebody aimed at certain users goes first."""
    if aim.percent == 0 or (found.seed, found.percent) == (aim.seed, aim.percent):
        return text
    expression = f"percent('{aim.seed}') <= {percent_text(aim.percent)}"
    if found.condition_index is not None:
        return json_text.put(text, ("conditions", found.condition_index, "expression"), json.dumps(expression))
    condition = json.dumps({"name": aim.condition, "expression": expression})
    template = _parse(text)
    if "conditions" not in template:
        return json_text.put(text, ("conditions",), f"[{condition}]")
    return json_text.put(text, ("conditions", len(template["conditions"])), condition)


def _with_parameter(text: str, found: Findings, aim: Aim) -> str:
    if found.path is None:
        return _with_new_parameter(text, aim)
    if found.stable_channel != aim.stable_channel:
        text = json_text.put(text, (*found.path, "defaultValue", "value"), json.dumps(_value(aim.stable_channel)))
    targeted = aim.channel if aim.percent > 0 else None
    if found.targeted_channel == targeted:
        return text
    values = (*found.path, "conditionalValues")
    if targeted is None:
        return json_text.drop(text, (*values, aim.condition))
    if found.targeted_channel is not None:
        return json_text.put(text, (*values, aim.condition, "value"), json.dumps(_value(targeted)))
    value = json.dumps({"value": _value(targeted)})
    parameter: Any = _parse(text)
    for key in found.path:
        parameter = parameter[key]
    if "conditionalValues" not in parameter:
        return json_text.put(text, values, f"{{{json.dumps(aim.condition)}:{value}}}")
    return json_text.put(text, (*values, aim.condition), value)


def _with_new_parameter(text: str, aim: Aim) -> str:
    parameter: dict[str, Any] = {"defaultValue": {"value": _value(aim.stable_channel)}}
    if aim.percent > 0:
        parameter["conditionalValues"] = {aim.condition: {"value": _value(aim.channel)}}
    parameter["description"] = f"{_mark(aim)} Change it with 'tfx-mobile rollout'."
    parameter["valueType"] = "JSON"
    if "parameters" not in _parse(text):
        return json_text.put(text, ("parameters",), json.dumps({aim.parameter: parameter}))
    return json_text.put(text, ("parameters", aim.parameter), json.dumps(parameter))


def _mark(aim: Aim) -> str:
    """By which a parameter of this model's rollouts is known; part of its description."""
    return f"tfx-mobile: the release channel of model {aim.model_name}."


def _value(channel: str) -> str:
    return canonical_json({"channel": channel}).decode()


def _find_parameter(template: dict[str, Any], aim: Aim) -> tuple[tuple[str, ...] | None, dict[str, Any] | None]:
    found = [(place, parameter) for place, parameter in _parameters(template) if place[-1] == aim.parameter]
    if not found:
        return None, None
    if len(found) > 1:
        raise _not_ours(aim, "is there more than once, in different groups")
    place, parameter = found[0]
    if managed := _managed_in(parameter):
        raise RolloutRefusedError(
            f"Remote Config parameter {aim.parameter!r} carries {_and(managed)}, which Firebase manages; to write to "
            "it could end what is running there. Nothing was written. End it in the Firebase console first, or set "
            "RemoteConfigRollout(parameter=...) to a key of its own and let the app read that."
        )
    description = parameter.get("description")
    if not isinstance(description, str) or _mark(aim) not in description:
        raise _not_ours(aim, f"does not say {_mark(aim)!r} in its description, so something else set it up")
    return place, parameter


def _find_condition(template: dict[str, Any], aim: Aim) -> tuple[int | None, str | None, float | None]:
    found = [
        (index, condition)
        for index, condition in enumerate(_conditions(template))
        if condition.get("name") == aim.condition
    ]
    if not found:
        return None, None, None
    index, condition = found[0]
    expression = condition.get("expression")
    matched = _PERCENT.fullmatch(expression.strip()) if isinstance(expression, str) else None
    if matched is None or len(found) > 1 or _managed_in(condition):
        raise RolloutRefusedError(
            f"Remote Config condition {aim.condition!r} is there and is not the one percentage that tfx-mobile would "
            f"have made of it: {str(expression)[:200]!r}. Nothing was written. Rename or delete it in the Firebase "
            "console, or set RemoteConfigRollout(condition=...) to a name of its own."
        )
    return index, matched[1], float(matched[2])


def _channel_in(value: object, what: str, aim: Aim) -> str:
    """The channel in one of our parameter's values."""
    if isinstance(value, dict) and set(value) == {"value"} and isinstance(value["value"], str):
        try:
            said = json.loads(value["value"])
        except ValueError:
            said = None
        if isinstance(said, dict) and set(said) == {"channel"} and isinstance(said["channel"], str):
            return str(said["channel"])
    raise _not_ours(aim, f"has a {what} that is not of the form {_value(aim.stable_channel)}")


def _not_ours(aim: Aim, why: str) -> RolloutRefusedError:
    return RolloutRefusedError(
        f"Remote Config parameter {aim.parameter!r} {why}. Nothing was written over it. Set it right, rename it or "
        "delete it in the Firebase console, or set RemoteConfigRollout(parameter=...) to a key of its own and let the "
        "app read that."
    )


def _managed_in(value: object) -> list[str]:
    """Which members that Firebase manages are anywhere in a value."""
    if isinstance(value, dict):
        inner = {name for part in value.values() for name in _managed_in(part)}
        return sorted(inner | (_MANAGED & set(value)))
    if isinstance(value, list):
        return sorted({name for part in value for name in _managed_in(part)})
    return []


def _and(names: list[str]) -> str:
    return " and ".join(f"a {name}" for name in names)


def _check_limits(text: str) -> None:
    template = _parse(text)
    parameters = [parameter for _, parameter in _parameters(template)]
    values = [
        value.get("value")
        for parameter in parameters
        for value in (parameter.get("defaultValue"), *_conditional_values(parameter).values())
        if isinstance(value, dict)
    ]
    for count, limit, what in (
        (len(parameters), MAX_PARAMETERS, "parameters"),
        (len(_conditions(template)), MAX_CONDITIONS, "conditions"),
        (sum(len(value) for value in values if isinstance(value, str)), MAX_VALUE_CHARACTERS, "characters of values"),
    ):
        if count > limit:
            raise RolloutRefusedError(
                f"The Remote Config template would have {count:,} {what}, the service takes at most {limit:,}. Nothing "
                "was written. Delete what is no longer used in the Firebase console."
            )


def _parameters(template: dict[str, Any]) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Every parameter with its place, in groups and without."""
    for key, parameter in _objects(template.get("parameters", {})):
        yield ("parameters", key), parameter
    for group, content in _objects(template.get("parameterGroups", {})):
        for key, parameter in _objects(content.get("parameters", {})):
            yield ("parameterGroups", group, "parameters", key), parameter


def _conditional_values(parameter: dict[str, Any]) -> dict[str, Any]:
    return dict(_objects(parameter.get("conditionalValues", {})))


def _conditions(template: dict[str, Any]) -> list[dict[str, Any]]:
    conditions = template.get("conditions", [])
    if not isinstance(conditions, list) or not all(isinstance(condition, dict) for condition in conditions):
        raise _no_template("conditions are no list of objects")
    return conditions


def _objects(value: object) -> list[tuple[str, dict[str, Any]]]:
    if not isinstance(value, dict) or not all(isinstance(part, dict) for part in value.values()):
        raise _no_template("something that must be an object of objects is none")
    return list(value.items())


def _parse(text: str) -> dict[str, Any]:
    try:
        template = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _no_template(error) from None
    if not isinstance(template, dict):
        raise _no_template("it is no object")
    return template


def _no_template(why: object) -> DestinationUnavailableError:
    return DestinationUnavailableError(
        f"What was read is not a Remote Config template: {why}. Nothing was written. Try again later; if it stays so, "
        "publish the template once from the Firebase console."
    )
