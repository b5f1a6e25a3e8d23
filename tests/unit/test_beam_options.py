"""Which Beam arguments an evaluation refuses, and on which runner a local one ends up."""

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
from apache_beam.runners.direct.direct_runner import BundleBasedDirectRunner
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from tfx_mobile.errors import EvalConfigError
from tfx_mobile.quantization_evaluator import beam_options

PATH = "apache_beam.runners.dask.dask_runner.DaskRunner"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--runner=DaskRunner"],
        ["--runner", "DaskRunner"],
        ["--runner=daskrunner"],
        ["--runner=DASK"],
        ["--runner=dask"],
        [f"--runner={PATH}"],
        ["--direct_num_workers=2", "--runner", PATH, "--dask_npartitions=4"],
        ["--runner=DirectRunner", f"--runner={PATH}"],
        ["--runner=company.runners.OurDaskRunner"],
    ],
)
def test_the_dask_runner_is_refused_in_any_spelling(arguments):
    with pytest.raises(EvalConfigError, match=r"--runner=.*(?i:dask).* is refused: .*loses elements without"):
        beam_options.check_arguments(arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--no_wait_until_finish"], "--no_wait_until_finish is refused: .* before the job has ended"),
        (["--runner=DataflowRunner", "--template_location=gs://b/t"], "--template_location is refused: .* template"),
        (["--dry_run=True"], "--dry_run is refused: .* not run"),
    ],
)
def test_arguments_by_which_beam_returns_without_results_are_refused(arguments, message):
    with pytest.raises(EvalConfigError, match=message):
        beam_options.check_arguments(arguments)
    with pytest.raises(EvalConfigError, match=message):
        beam_options.check_pipeline(beam.Pipeline(runner=FnApiRunner(), options=PipelineOptions(arguments)))


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--runner=DataflowRunner", "--project=dask-tests", "--region", "europe-west4"],
        # Beam takes the last of two.
        [f"--runner={PATH}", "--runner=FlinkRunner"],
        # Beam knows no abbreviations, and ignores what it does not know.
        ["--run=DaskRunner", "--dask_client_address=somewhere"],
        ["--direct_running_mode=multi_processing", "--direct_num_workers=2"],
        ["--dry_run=False"],
        [object(), "--runner", object()],
    ],
)
def test_other_arguments_pass(arguments):
    beam_options.check_arguments(arguments)


class DaskRunner(BundleBasedDirectRunner):
    """Stands for Beam's own, which needs the package dask to be imported."""


class Renamed(DaskRunner):
    """No name of an argument tells what it is."""


@pytest.mark.parametrize("runner", [DaskRunner, Renamed])
def test_a_pipeline_on_a_dask_runner_is_refused(runner):
    with pytest.raises(EvalConfigError, match=f"runner {runner.__name__} is refused: .*loses elements"):
        beam_options.check_pipeline(beam.Pipeline(runner=runner()))
    beam_options.check_pipeline(beam.Pipeline(runner=FnApiRunner()))


@pytest.mark.parametrize(
    ("arguments", "runner"),
    [
        ([], "FnApiRunner"),
        (["--direct_num_workers=2"], "FnApiRunner"),
        (["--runner=DirectRunner"], "FnApiRunner"),
        (["--runner", "direct"], "FnApiRunner"),
        (["--runner=apache_beam.runners.direct.direct_runner.DirectRunner"], "FnApiRunner"),
        (["--runner=PrismRunner"], "PrismRunner"),
        (["--runner=DataflowRunner"], "DataflowRunner"),
    ],
)
def test_a_local_evaluation_runs_on_beams_python_runner(arguments, runner):
    """As Beam reads it: a DirectRunner would download Prism."""
    options = PipelineOptions([*arguments, *beam_options.local_runner(arguments)])
    assert options.view_as(StandardOptions).runner == runner
