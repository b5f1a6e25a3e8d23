"""A compiled pipeline and what one run of it is given: the part of submitting that asks no service.

What the clients of Vertex AI and Kubeflow Pipelines do not check is checked here, before anything is sent: that every
runtime parameter has a value, that there are no others, that each has its type, and that none looks like a secret.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from tfx_mobile import __version__
from tfx_mobile.errors import TFXMobileError
from tfx_mobile.secrets_check import refuse_secrets

#: Runtime parameter of ExampleGen that pins the span, as `pipelines/kubeflow_v2.py` names it.
RANGE_CONFIG = "range_config"
EXAMPLES_DIR = "examples_dir"

#: What TFX replaces in a pattern.
SPAN_SPECS = re.compile(r"\{(SPAN|VERSION)(:\d+)?\}|\{YYYY\}|\{MM\}|\{DD\}")
_LABEL_KEY = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_LABEL_VALUE = re.compile(r"[a-z0-9_-]{0,63}")
_MAX_LABELS = 64
_JOB_ID = re.compile(r"[a-z]([a-z0-9-]{0,126}[a-z0-9])?")
_MAX_STEM = 80
#: Labels this module sets.
VERSION_LABEL, SPAN_LABEL, SPAN_VERSION_LABEL = "tfx-mobile-version", "span", "span-version"
CONFIG_LABEL, SCHEDULE_LABEL = "config-digest", "schedule-digest"
_OWN_LABELS = (VERSION_LABEL, SPAN_LABEL, SPAN_VERSION_LABEL, CONFIG_LABEL, SCHEDULE_LABEL)

#: By the IR's names of the types, in both versions of the schema.
_TYPES = {
    "STRING": str,
    "INT": int,
    "NUMBER_INTEGER": int,
    "DOUBLE": float,
    "NUMBER_DOUBLE": float,
    "BOOLEAN": bool,
    "LIST": list,
    "STRUCT": dict,
}


class SubmissionError(TFXMobileError):
    """A run or a schedule could not be submitted."""


class ServiceError(SubmissionError):
    """The service that runs pipelines cannot be reached, or does not do what it was asked."""


class JobConflictError(SubmissionError):
    """There is something else under the name that was to be used."""


@dataclass(frozen=True)
class DataVersion:
    """Which data a run is for.

    Attributes:
        span: Number of the span, as ExampleGen counts: for dates, the days since 1970.
        version: Number of its version; None where patterns have no `{VERSION}`.
    """

    span: int
    version: int | None = None

    def __str__(self) -> str:
        return f"span {self.span}" + (f", version {self.version}" if self.version is not None else "")


@dataclass(frozen=True)
class Submission:
    """One run, ready to be sent.

    Attributes:
        job_id: Name of the run; the same for the same data.
        pipeline_name: Name of the pipeline.
        spec: The PipelineSpec.
        parameters: Every runtime parameter.
        labels: What the run is of.
        pipeline_root: Where artifacts go.
        service_account: Who runs the steps; None for the service's default.
        is_2_1: Whether the spec's schema is 2.1 rather than 2.0.
    """

    job_id: str
    pipeline_name: str
    spec: Mapping[str, Any]
    parameters: Mapping[str, Any]
    labels: Mapping[str, str]
    pipeline_root: str
    service_account: str | None
    is_2_1: bool

    def summary(self) -> dict[str, Any]:
        """What is sent, without the pipeline itself."""
        return {
            "job_id": self.job_id,
            "pipeline": self.pipeline_name,
            "pipeline_root": self.pipeline_root,
            "parameters": dict(self.parameters),
            "labels": dict(self.labels),
            "service_account": self.service_account,
        }


@dataclass(frozen=True)
class Submitted:
    """A run that the service has.

    Attributes:
        job_id: Its name.
        resource: What the service calls it.
        state: What the service says of it, such as `PIPELINE_STATE_PENDING`.
        existed: Whether it was there before.
        failed: Whether it has ended without success.
    """

    job_id: str
    resource: str
    state: str
    existed: bool
    failed: bool = False

    def __str__(self) -> str:
        if not self.existed:
            return f"{self.job_id}: submitted, {self.state}. {self.resource}"
        advice = " To run this data again: --attempt, one higher than before." if self.failed else ""
        return f"{self.job_id}: exists already, {self.state}; nothing was submitted. {self.resource}{advice}"


class Target(Protocol):
    """A service that runs pipelines."""

    def submit(self, submission: Submission) -> Submitted:
        """Has the service run this, or finds that it does or did.

        Raises:
            JobConflictError: There is a run of this name with other parameters.
            ServiceError: The service cannot be reached or refuses it.
        """
        ...


@dataclass(frozen=True)
class CompiledPipeline:
    """What `python -m pipelines.kubeflow_v2` wrote.

    Attributes:
        path: The job's file.
        spec: The PipelineSpec.
        parameter_types: Runtime parameters and the IR's names of their types.
        defaults: What the file beside the job gives them.
    """

    path: Path
    spec: Mapping[str, Any]
    parameter_types: Mapping[str, str]
    defaults: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Name of the pipeline."""
        return str(self.spec["pipelineInfo"]["name"])

    @property
    def is_2_1(self) -> bool:
        """Whether the schema is 2.1 rather than 2.0."""
        return str(self.spec["schemaVersion"]).startswith("2.1")

    @property
    def span_pattern(self) -> str | None:
        """Pattern of the files of one span below `examples_dir`; None if the pipeline takes all files."""
        return span_pattern_of(self.spec)

    def fill(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Every runtime parameter with its value.

        Args:
            given: Values that go before the defaults; texts are read as the parameter's type.

        Raises:
            ValueError: A parameter is missing, unknown, or of another type.
            SecretParameterError: A value looks like a secret.
        """
        valid = ", ".join(sorted(self.parameter_types)) or "none"
        for name in given:
            if name not in self.parameter_types:
                raise ValueError(f"{name} is no runtime parameter of {self.path}; there are: {valid}.")
        for name in self.defaults:
            if name not in self.parameter_types:
                raise ValueError(
                    f"{parameters_file(self.path)} holds {name}, which is no runtime parameter of {self.path}; there "
                    f"are: {valid}. The two files are of different pipelines: compile again."
                )
        values = {**self.defaults, **given}
        if missing := sorted(self.parameter_types.keys() - values.keys()):
            raise ValueError(
                f"{self.path} takes {', '.join(missing)}, and neither {parameters_file(self.path)} nor the command "
                f"line says what. Give --parameter {missing[0]}=VALUE."
            )
        filled = {name: _cast(name, values[name], type_) for name, type_ in sorted(self.parameter_types.items())}
        refuse_secrets(filled)
        return filled

    def submission(
        self,
        *,
        pipeline_root: str,
        parameters: Mapping[str, Any] | None = None,
        data: DataVersion | None = None,
        job_id: str | None = None,
        attempt: int = 1,
        labels: Mapping[str, str] | None = None,
        service_account: str | None = None,
        enable_caching: bool | None = None,
    ) -> Submission:
        """One run of this pipeline.

        Args:
            pipeline_root: Where artifacts go, such as `gs://bucket/root`.
            parameters: Runtime parameters that are not to have their defaults.
            data: Which data the run is for. The job id is made of it, and ExampleGen pinned to the span where the
                pipeline takes `range_config`.
            job_id: Name of the run; None derives it from the data, or from everything the run is given.
            attempt: 2 or more to run again what failed, under a name of its own.
            labels: More labels.
            service_account: Who runs the steps.
            enable_caching: Of all steps; None leaves what was compiled.

        Raises:
            ValueError: Something of it is not valid.
            SecretParameterError: A value looks like a secret.
        """
        refuse_secrets({"pipeline root": pipeline_root, "labels": dict(labels or {})})
        if not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/\s]+(/\S*)?|/\S*", pipeline_root):
            raise ValueError(
                f"The pipeline root {pipeline_root!r} is no address of a folder, such as gs://bucket/root."
            )
        if attempt < 1:
            raise ValueError(f"attempt={attempt} must be 1 or more.")
        given = dict(parameters or {})
        if data is not None:
            given = self._pin(data, given)
        filled = self.fill(given)
        spec = self._with_caching(enable_caching)
        config_digest = digest_of(spec)
        if job_id is None:
            job_id = _job_id(self.name, data, digest_of([config_digest, pipeline_root, filled]), attempt)
        elif attempt > 1:
            job_id += f"-attempt-{attempt}"
        if not _JOB_ID.fullmatch(job_id):
            raise ValueError(
                f"The job id {job_id!r} is not valid: lower-case letters, digits and hyphens, beginning with a letter, "
                "not ending in a hyphen, at most 128."
            )
        return Submission(
            job_id=job_id,
            pipeline_name=self.name,
            spec=spec,
            parameters=filled,
            labels=_labels(labels or {}, data, config_digest),
            pipeline_root=pipeline_root,
            service_account=service_account,
            is_2_1=self.is_2_1,
        )

    def _pin(self, data: DataVersion, given: dict[str, Any]) -> dict[str, Any]:
        """The parameters with which the run takes the data that its name says."""
        if data.span < 0 or (data.version or 0) < 0:
            raise ValueError(f"{data}: spans and versions are 0 or more.")
        if RANGE_CONFIG in self.parameter_types:
            if RANGE_CONFIG in given:
                raise ValueError(f"--span {data.span} decides {RANGE_CONFIG}; leave {RANGE_CONFIG} out, or the span.")
            return {**given, RANGE_CONFIG: range_config(data.span)}
        if EXAMPLES_DIR in given and self.span_pattern is None:
            return given  # the folder of the span
        raise ValueError(
            f"{self.path} cannot be told which span to take, so a run named after {data} could take other data. "
            "Compile it with span_pattern in its config, or give the folder of the span: --parameter examples_dir=..."
        )

    def _with_caching(self, enabled: bool | None) -> dict[str, Any]:
        """The spec, with caching switched for every task, also those inside an exit handler's inner pipeline."""
        spec: dict[str, Any] = json.loads(json.dumps(self.spec))
        if enabled is not None:
            for task in _tasks(spec):
                if "cachingOptions" in task:
                    task["cachingOptions"] = {"enableCache": enabled}
        return spec


def load(path: Path) -> CompiledPipeline:
    """Reads a compiled pipeline and its runtime parameters beside it.

    Raises:
        ValueError: A file cannot be read or holds something else.
    """
    job = _read_json(path, "Compile it: python -m pipelines.kubeflow_v2 --output FILE.json.")
    spec = job.get("pipelineSpec")
    if not isinstance(spec, dict) or not {"pipelineInfo", "schemaVersion", "root", "components"} <= spec.keys():
        raise ValueError(f"{path} is no PipelineJob: it has no whole pipelineSpec. Compile with --output FILE.json.")
    beside = parameters_file(path)
    defaults = _read_json(beside, "Write it again by compiling.") if beside.exists() else {}
    given = spec["root"].get("inputDefinitions", {}).get("parameters", {})
    types = {name: str(p.get("parameterType") or p.get("type")) for name, p in given.items()}
    if unknown := sorted(set(types.values()) - _TYPES.keys()):
        raise ValueError(f"{path} has runtime parameters of unknown types: {', '.join(unknown)}.")
    return CompiledPipeline(path=path, spec=spec, parameter_types=types, defaults=defaults)


def span_pattern_of(spec: Mapping[str, Any]) -> str | None:
    """Pattern of the files of one span in a PipelineSpec; None if the pipeline takes all files.

    Raises:
        ValueError: There are several.
    """
    texts = [_constant(t.get("inputs", {}).get("parameters", {}).get("input_config", {})) for t in _tasks(spec)]
    splits = [split for text in texts if text for split in json.loads(text).get("splits", [])]
    patterns = {s["pattern"] for s in splits if SPAN_SPECS.search(s["pattern"])}
    if len(patterns) > 1:
        raise ValueError(f"The pipeline has several patterns with spans ({', '.join(sorted(patterns))}); leave one.")
    return next(iter(patterns), None)


def parameters_file(path: Path) -> Path:
    """Where the runtime parameters of a compiled pipeline are."""
    return path.with_suffix(".parameters.json")


def range_config(span: int) -> str:
    """A RangeConfig that takes one span, as a runtime parameter."""
    return json.dumps({"static_range": {"start_span_number": span, "end_span_number": span}})


def parse_pairs(option: str, pairs: tuple[str, ...]) -> dict[str, str]:
    """NAME=VALUE, as often as given.

    Raises:
        ValueError: One has no `=`, or a name is there twice.
    """
    parsed: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        # The value may be a secret that somebody is about to be told not to give: it is not repeated.
        if not equals or not name:
            raise ValueError(f"{option} takes NAME=VALUE; one of them has no name or no '='.")
        if name in parsed:
            raise ValueError(f"{option} {name}=... is there twice; leave one.")
        parsed[name] = value
    return parsed


def digest_of(value: Any) -> str:
    """The same for the same content, 40 hexadecimal digits: what fits into a label."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:40]


def with_labels(submission: Submission, **labels: str) -> Submission:
    """The submission with more labels."""
    return replace(submission, labels={**submission.labels, **labels})


def check_same(submission: Submission, there: Mapping[str, Any]) -> None:
    """Makes sure that a run of the same name has the same parameters.

    Args:
        submission: What was to be submitted.
        there: The parameters of the run at the service.

    Raises:
        JobConflictError: It has others. Their values are not repeated.
    """
    differing = [name for name, value in submission.parameters.items() if there.get(name) != value]
    if differing:
        raise JobConflictError(
            f"{submission.job_id} exists already with other values of: {', '.join(differing)}. Nothing was submitted. "
            "Leave those as they were, or give the run a name of its own: --job-id, or --attempt for the same data."
        )


def label_value(text: str) -> str:
    """A text as a label's value: `0.5.0.dev1` becomes `0-5-0-dev1`."""
    return re.sub(r"[^a-z0-9_-]", "-", text.lower())[:63]


def _labels(given: Mapping[str, str], data: DataVersion | None, config_digest: str) -> dict[str, str]:
    for key, value in given.items():
        if key in _OWN_LABELS:
            raise ValueError(f"The label {key} is set by submitting; take another key than {', '.join(_OWN_LABELS)}.")
        if not _LABEL_KEY.fullmatch(key):
            raise ValueError(
                f"The label's key {key!r} is not valid: lower-case letters, digits, '_' and '-', beginning with a "
                "letter, at most 63."
            )
        if not isinstance(value, str) or not _LABEL_VALUE.fullmatch(value):
            raise ValueError(
                f"The label {key}={value!r} is not valid: lower-case letters, digits, '_' and '-', at most 63."
            )
    labels = {**given, VERSION_LABEL: label_value(__version__), CONFIG_LABEL: config_digest}
    if data is not None:
        labels[SPAN_LABEL] = str(data.span)
        if data.version is not None:
            labels[SPAN_VERSION_LABEL] = str(data.version)
    if len(labels) > _MAX_LABELS:
        raise ValueError(f"{len(given)} labels are too many; {_MAX_LABELS - len(_OWN_LABELS)} are free.")
    return labels


def _job_id(pipeline_name: str, data: DataVersion | None, digest: str, attempt: int) -> str:
    """Made of nothing but what the run is for: the same trigger twice gives the same id."""
    stem = pipeline_name if pipeline_name[0].isalpha() else f"p-{pipeline_name}"
    if len(stem) > _MAX_STEM:
        # Two long names with one beginning must not become one.
        stem = f"{stem[:_MAX_STEM].rstrip('-')}-{digest_of(pipeline_name)[:8]}"
    if data is None:
        job_id = f"{stem.rstrip('-')}-{digest[:12]}"
    else:
        job_id = f"{stem.rstrip('-')}-span-{data.span:06d}"
        if data.version is not None:
            job_id += f"-version-{data.version:04d}"
    return job_id if attempt == 1 else f"{job_id}-attempt-{attempt}"


def _cast(name: str, value: Any, type_: str) -> Any:
    """A value as its parameter's type; from a text as the command line gives it."""
    wanted = _TYPES[type_]
    problem = ValueError(f"The runtime parameter {name} is a {type_}, and its value is none. Give one of that type.")
    if wanted is str:
        if isinstance(value, str):
            return value
        raise problem
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise problem from None
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, wanted) or (wanted is not bool and isinstance(value, bool)):
        raise problem
    if isinstance(value, float) and not math.isfinite(value):
        raise problem
    return value


def _tasks(spec: Mapping[str, Any]) -> list[Any]:
    """The tasks of a PipelineSpec, also those inside an exit handler's inner pipeline."""
    dags = [spec["root"], *spec["components"].values()]
    return [task for dag in dags for task in dag.get("dag", {}).get("tasks", {}).values()]


def _constant(parameter: Mapping[str, Any]) -> str | None:
    """The text of a parameter that is a constant, in both versions of the schema."""
    value = parameter.get("runtimeValue", {})
    text = value.get("constant", value.get("constantValue", {}).get("stringValue"))
    return text if isinstance(text, str) else None


def _read_json(path: Path, advice: str) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}. {advice}") from None
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}. {advice}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds no JSON object. {advice}")
    return value
