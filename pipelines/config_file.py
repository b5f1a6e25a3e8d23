"""A pipeline as a file: what a team changes to take its own model to the phone without touching code.

    python -m pipelines.kubeflow_v2 --config configs/digits/kubeflow.yaml --output digits.json

A mistake in the file is an error that names file, line, key and the valid keys.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from pipelines import configs
from tfx_mobile import Budget, CalibrationSpec, ConversionRecipe
from tfx_mobile.recipes import resolve_recipes
from tfx_mobile.release_store.destinations import parse_destinations

_PIPELINE_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,127}")


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Resources(_Part):
    """What a step of the pipeline may use.

    Attributes:
        cpu: Cores.
        memory_gb: Memory, in GB.
    """

    cpu: float = Field(gt=0)
    memory_gb: float = Field(gt=0)


class Schedule(_Part):
    """When the pipeline runs by itself.

    Attributes:
        cron: A cron line, with a time zone: `TZ=Europe/Paris 0 3 * * *`.
        max_concurrent_runs: How many runs may overlap; 1 keeps a slow run from racing its successor.
    """

    cron: str
    max_concurrent_runs: int = Field(default=1, ge=1)


class PipelineConfig(_Part):
    """Everything that tells one team's pipeline from another's.

    Attributes:
        pipeline_name: Lower-case letters, digits and hyphens.
        pipeline_root: Where artifacts go, such as `gs://bucket/pipelines`.
        image: The container image of every step; `{version}` stands for the version of tfx-mobile.
        examples_dir: Folder with TFRecord files of tf.Examples; a runtime parameter.
        span_pattern: Files of one span below `examples_dir`, such as `span-{SPAN}/*`; None if there are no spans.
        preprocessing_fn: Import path of Transform's callback.
        run_fn: Import path of Trainer's callback.
        train_steps: Training steps.
        float_eval_config: The stock Evaluator's EvalConfig: a name below `configs/`, or the path of a .pbtxt file.
        mobile_eval_config: The same of QuantizationEvaluator.
        recipes: What to convert the model into: names, or recipes in full.
        calibration: Which examples calibrate the integer recipes.
        budget: Limits a variant must keep.
        model_name: Name of the released model.
        channel: Channel that the release moves; a runtime parameter.
        destinations: Where to publish, each with its `type`.
        compare_with_last_blessed: Whether the float model must not be worse than the one blessed last; false for
            self-hosted Kubeflow Pipelines, which does not run the Resolver that takes.
        compare_with_production: Whether a new model must not be worse than what the first destination's channel names.
        conditional_push: Whether the pusher is skipped, rather than run and report, when nothing was blessed.
        on_not_blessed: What the pusher does when nothing was blessed: `skip` ends the run well, `fail` fails it, which
            needs `conditional_push: false`.
        alerts_dir: Folder for a file per failed run, written by the exit handler; None for no exit handler.
        resources: By component id.
        service_account: Who runs the steps.
        labels: Of every run.
        schedule: When it runs by itself; None if something else triggers it.
    """

    pipeline_name: str
    pipeline_root: str
    image: str
    examples_dir: str
    span_pattern: str | None = None
    preprocessing_fn: str
    run_fn: str
    train_steps: int = Field(gt=0)
    float_eval_config: str
    mobile_eval_config: str
    recipes: tuple[str | ConversionRecipe, ...] = Field(min_length=1)
    calibration: CalibrationSpec = CalibrationSpec()
    budget: Budget | None = None
    model_name: str
    channel: str = "production"
    destinations: tuple[dict[str, Any], ...] = Field(min_length=1)
    compare_with_last_blessed: bool = True
    compare_with_production: bool = True
    conditional_push: bool = True
    on_not_blessed: Literal["skip", "fail"] = "skip"
    alerts_dir: str | None = None
    resources: dict[str, Resources] = Field(default_factory=dict)
    service_account: str | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    schedule: Schedule | None = None

    @field_validator("pipeline_name")
    @classmethod
    def _check_pipeline_name(cls, value: str) -> str:
        if not _PIPELINE_NAME.fullmatch(value):
            raise ValueError(
                "use lower-case letters, digits and hyphens, at most 128, beginning with a letter or digit"
            )
        return value

    @field_validator("recipes")
    @classmethod
    def _check_recipes(cls, value: tuple[str | ConversionRecipe, ...]) -> tuple[str | ConversionRecipe, ...]:
        resolve_recipes(value)
        return value

    @field_validator("destinations")
    @classmethod
    def _check_destinations(cls, value: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
        parse_destinations(value)
        return value

    @field_validator("on_not_blessed")
    @classmethod
    def _check_pusher_can_fail(cls, value: str, info: ValidationInfo) -> str:
        # Of a field above; absent if that one is wrong itself.
        if value == "fail" and info.data.get("conditional_push"):
            raise ValueError(
                "a pusher that is skipped cannot fail, and conditional_push skips it when nothing is blessed; set "
                "conditional_push: false to be told, or on_not_blessed: skip"
            )
        return value

    @field_validator("float_eval_config", "mobile_eval_config")
    @classmethod
    def _check_eval_config(cls, value: str) -> str:
        configs.find(value)
        return value


def load(path: str | Path) -> PipelineConfig:
    """Reads a pipeline's file.

    Raises:
        ValueError: It cannot be read, is not YAML, or says something that is not valid; the message names the line.
    """
    path = Path(path)
    try:
        text = path.read_text()
    except OSError as error:
        raise ValueError(
            f"{path} cannot be read: {error.strerror}. Name a file such as configs/digits/kubeflow.yaml."
        ) from None
    try:
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds no keys; begin with pipeline_name: ...")
    if twice := _repeated(tree):
        raise ValueError(f"{path}, line {twice[1]}: {twice[0]!r} is there twice; leave one.")
    try:
        return PipelineConfig(**values)
    except ValidationError as error:
        problems = "\n".join(f"{path}, line {_line(tree, p['loc'])}: {_in_words(p)}" for p in error.errors())
        raise ValueError(problems) from None


def _in_words(problem: Any) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"{key} is no key here; valid keys: {', '.join(_valid_keys(problem['loc'][:-1]))}."
    if problem["type"] == "missing":
        return f"{key} is missing."
    return f"{key}={problem['input']!r}: {problem['msg'].removeprefix('Value error, ')}."


def _valid_keys(location: tuple[int | str, ...]) -> list[str]:
    """The keys of the part of the config at a location."""
    part: Any = PipelineConfig
    for step in location:
        field = getattr(part, "model_fields", {}).get(step)
        if field is None:
            continue
        nested = [t for t in _types_in(field.annotation) if hasattr(t, "model_fields")]
        part = nested[0] if nested else part
    return list(part.model_fields)


def _types_in(annotation: Any) -> list[Any]:
    arguments = getattr(annotation, "__args__", ())
    return [annotation, *(t for argument in arguments for t in _types_in(argument))]


def _line(node: Any, location: tuple[int | str, ...]) -> int:
    """Line of the key at a location, or of the nearest thing above it that is in the file."""
    line = node.start_mark.line + 1
    for step in location:
        if isinstance(node, yaml.MappingNode):
            found = next(((k, v) for k, v in node.value if k.value == str(step)), None)
            if found is None:
                break
            line, node = found[0].start_mark.line + 1, found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            node = node.value[step]
            line = node.start_mark.line + 1
    return int(line)


def _repeated(node: Any) -> tuple[str, int] | None:
    """A key that one mapping holds twice, and the line of the second; YAML would silently take the last."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                return str(key.value), int(key.start_mark.line) + 1
            seen.add(key.value)
            if found := _repeated(value):
                return found
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            if found := _repeated(value):
                return found
    return None
