"""Which Beam runners and arguments an evaluation may be given. Read while a pipeline is defined: imports no Beam.

Refused is what would give wrong numbers without an error, or no numbers at all.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

from tfx_mobile.errors import EvalConfigError

# Since Beam 2.68 the DirectRunner means Prism, a program that it downloads while the pipeline runs, and that names
# counters otherwise; Beam advises to name the runner that it was before (https://github.com/apache/beam/pull/34612).
_LOCAL_RUNNER = "--runner=FnApiRunner"
_DIRECT_RUNNERS = ("", "direct", "directrunner", "switchingdirectrunner")

_DASK_RUNNER = "daskrunner"
_DASK_REASON = (
    "Beam's DaskRunner loses elements without an error: what is emitted at the end of a bundle, and all but one of a "
    "step's outputs. Metrics would be computed on a part of the examples, and a bad variant could be blessed. Leave "
    "--runner out to run on this machine, or use DataflowRunner, FlinkRunner or SparkRunner"
)
_NEVER_RUN = {
    "no_wait_until_finish": "the verdicts are read from the results, which do not exist before the job has ended",
    "template_location": "the job is saved as a template instead of being run, so there are no results to judge by",
    "dry_run": "the job is built but not run, so there are no results to judge by",
}


class _Parser(argparse.ArgumentParser):
    """Reads arguments as Beam's own parser does: no abbreviations, and the last one counts."""

    def __init__(self) -> None:
        super().__init__(add_help=False, allow_abbrev=False)
        self.add_argument("--runner", nargs="?")
        self.add_argument("--template_location", nargs="?")
        self.add_argument("--no_wait_until_finish", action="store_true")
        self.add_argument("--dry_run", nargs="?", const="True")

    def error(self, message: str) -> NoReturn:
        raise EvalConfigError(f"The Beam arguments cannot be read: {message}. Write them as --name=value.")


def check_arguments(arguments: Iterable[Any]) -> None:
    """Refuses Beam arguments with which no evaluation can be trusted.

    Args:
        arguments: Beam pipeline arguments; placeholders among them are known when the component runs, and left to it.

    Raises:
        EvalConfigError: The DaskRunner is named, or an argument by which Beam returns without results.
    """
    _check(vars(_parse(arguments)))


def check_pipeline(pipeline: Any) -> None:
    """Refuses a Beam pipeline, not yet run, as `check_arguments` refuses the arguments of one.

    It also knows a runner that is derived from the DaskRunner, or that was given as an object.

    Raises:
        EvalConfigError: As there.
    """
    for base in type(pipeline.runner).__mro__:
        if base.__name__.lower() == _DASK_RUNNER:
            raise EvalConfigError(f"Beam's runner {type(pipeline.runner).__name__} is refused: {_DASK_REASON}.")
    _check(pipeline.options.get_all_options(drop_default=True))


def local_runner(arguments: Iterable[Any]) -> list[str]:
    """What to add to the arguments so that a local evaluation runs on Beam's Python runner; often nothing."""
    runner = _parse(arguments).runner or ""
    return [_LOCAL_RUNNER] if _class_name(runner) in _DIRECT_RUNNERS else []


def _parse(arguments: Iterable[Any]) -> argparse.Namespace:
    return _Parser().parse_known_args([text if isinstance(text, str) else "" for text in arguments])[0]


def _check(options: Mapping[str, Any]) -> None:
    runner = options.get("runner") or ""
    name = _class_name(runner)
    if name == "dask" or _DASK_RUNNER in name:
        raise EvalConfigError(f"Beam argument --runner={runner} is refused: {_DASK_REASON}.")
    for option, reason in _NEVER_RUN.items():
        if options.get(option) not in (None, False, "", "False", "false"):
            raise EvalConfigError(f"Beam argument --{option} is refused: {reason}. Leave it out.")


def _class_name(runner: str) -> str:
    return runner.rpartition(".")[2].lower()
