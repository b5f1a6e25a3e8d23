"""QuantizationEvaluator on Beam's engines: the same results from one process and from several, and what is refused."""

import itertools
from collections import Counter
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.internal import pickler
from apache_beam.pipeline import PipelineVisitor
from apache_beam.runners.direct.direct_runner import BundleBasedDirectRunner
from apache_beam.runners.portability.fn_api_runner import FnApiRunner, execution

from tests.fakes import evaluations, models
from tfx_mobile import QuantizationEvaluator
from tfx_mobile.artifacts import TFLiteVariants
from tfx_mobile.errors import EvalConfigError, EvaluationError
from tfx_mobile.quantization_evaluator.eval_config import to_json
from tfx_mobile.quantization_evaluator.executor import Executor
from tfx_mobile.quantization_evaluator.scoring import worker_versions
from tfx_mobile.quantization_evaluator.versions import versions
from tfx_mobile.records import EvaluationRecord

TWO_WORKERS = ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]
DASK = "apache_beam.runners.dask.dask_runner.DaskRunner"
ENTROPY = "sparse_categorical_crossentropy"


class World:
    """A model, two variants of which one is harmed, and examples in four files, so that workers share them."""

    def __init__(self, root: Path) -> None:
        self.saved_model = root / "model" / "Format-Serving"
        models.save_raw_model(self.saved_model)
        self.model = models.model_artifact(root / "model")
        splits = {str(count): models.rows(count, seed=2) for count in (300, 1200)}
        self.examples = models.write_examples(root / "examples", splits, num_shards=4)
        images = models.images(models.rows(100, seed=1))
        self.files = {
            "float32": evaluations.convert(self.saved_model, "float32"),
            "half_range": evaluations.convert(self.saved_model, "integer_only_int8", images * 0.5),
        }

    def inputs(self, root: Path) -> dict:
        variants = evaluations.write_variants(root / "variants", self.files, self.saved_model)
        return {"examples": self.examples, "model": self.model, "variants": variants}

    def run(self, root: Path, *, split="300", beam_args=evaluations.IN_MEMORY) -> EvaluationRecord:
        config = evaluations.eval_config(floor=0.9, drop=0.02, slice_drop=0.05)
        properties = {"eval_config": to_json(config), "example_splits": f'["{split}"]'}
        outputs = evaluations.execute(self.inputs(root), properties, root, beam_args)
        return EvaluationRecord.read(Path(outputs["evaluation"].uri) / "record.json")

    def run_on(self, make_pipeline, root: Path) -> dict:
        """Runs the executor on pipelines made by `make_pipeline` and returns its output artifacts."""
        outputs = evaluations.outputs(root)
        inputs = {key: [artifact] for key, artifact in self.inputs(root).items()}
        properties = {"eval_config": to_json(evaluations.eval_config()), "example_splits": '["300"]'}
        Executor(Executor.Context(make_beam_pipeline_fn=make_pipeline)).Do(inputs, outputs, properties)
        return outputs


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def in_memory(world, tmp_path_factory):
    return world.run(tmp_path_factory.mktemp("in_memory"))


@pytest.mark.parametrize(
    "beam_args",
    [
        pytest.param(TWO_WORKERS, id="processes"),
        pytest.param(["--direct_running_mode=multi_threading", "--direct_num_workers=2"], id="threads"),
        pytest.param([*evaluations.IN_MEMORY, "--direct_runner_bundle_repeat=1"], id="bundles repeated"),
    ],
)
def test_several_workers_give_what_one_gives(world, in_memory, tmp_path, beam_args):
    record = world.run(tmp_path, beam_args=beam_args)
    assert record.num_examples == in_memory.num_examples == 300
    assert [verdict.passed for verdict in in_memory.verdicts] == [True, False]
    for one, several in zip(in_memory.verdicts, record.verdicts, strict=True):
        assert (several.variant, several.passed, several.sha256) == (one.variant, one.passed, one.sha256)
        key = [(reason.code, reason.metric, reason.slice, reason.limit) for reason in one.reasons]
        assert [(reason.code, reason.metric, reason.slice, reason.limit) for reason in several.reasons] == key
    assert record.winner == in_memory.winner == "float32"
    assert [model.model for model in record.models] == ["saved_model", "float32", "half_range"]
    for one, several in zip(in_memory.models, record.models, strict=True):
        assert [entry.slice for entry in several.slices] == ["overall", "label:0", "label:1", "label:2"]
        for ours, theirs in zip(one.slices, several.slices, strict=True):
            assert list(theirs.metrics) == list(ours.metrics)
            for name, value in ours.metrics.items():
                # TFMA adds up Keras' metrics in float32, in the order in which batches come.
                assert theirs.metrics[name] == pytest.approx(value, rel=0, abs=1e-7 if name == ENTROPY else 1e-9)


def test_what_workers_get_can_be_pickled_and_holds_no_model(world, tmp_path):
    made = []

    def make_pipeline():
        made.append(beam.Pipeline(runner=FnApiRunner()))
        return made[-1]

    world.run_on(make_pipeline, tmp_path)
    ours = functions_of(made[-1])
    assert ours
    for library in ("cloudpickle", "dill_unsafe"):
        pickler.set_library(library)
        try:
            for function in ours:
                data = pickler.dumps(function)
                # By reference, so that a worker runs the code that it has installed; and nothing that was opened here.
                assert type(pickler.loads(data)) is type(function)
                assert b"TFL3" not in data  # the identifier in every .tflite file
        finally:
            pickler.set_library(pickler.DEFAULT_PICKLE_LIB)


def functions_of(pipeline):
    """The DoFns and CombineFns of this package in a pipeline."""
    found = []

    class Visitor(PipelineVisitor):
        def visit_transform(self, node):
            self.enter_composite_transform(node)

        def enter_composite_transform(self, node):
            found.extend(getattr(node.transform, name, None) for name in ("fn", "dofn", "combine_fn"))

    pipeline.visit(Visitor())
    return [function for function in found if type(function).__module__.startswith("tfx_mobile")]


def test_no_step_collects_examples_or_predictions(world, tmp_path, monkeypatch):
    """What Beam groups or hands out as side inputs has to fit into one worker: it must not grow with the examples."""
    grouped = Counter()

    def count(buffer):
        append = buffer.append

        def counting(self, data):
            grouped[split] += len(data)
            append(self, data)

        monkeypatch.setattr(buffer, "append", counting)

    count(execution.GroupingBuffer)
    count(execution.WindowGroupingBuffer)
    # What waits between steps is in memory too, where Beam runs in one process.
    count(execution.ListBuffer)
    for split in ("300", "1200"):
        record = world.run(tmp_path / split, split=split)
        assert record.num_examples == int(split)
    assert grouped["300"] > 0
    assert grouped["1200"] - grouped["300"] < 900  # one byte per example more; a prediction has twelve


def test_the_dask_runner_is_refused_when_the_pipeline_is_defined():
    from tfx.types import channel_utils, standard_artifacts

    def evaluator():
        types = {"examples": standard_artifacts.Examples, "model": standard_artifacts.Model, "variants": TFLiteVariants}
        channels = {name: channel_utils.as_channel([artifact_type()]) for name, artifact_type in types.items()}
        return QuantizationEvaluator(**channels, eval_config=evaluations.eval_config())

    with pytest.raises(EvalConfigError, match="loses elements without an error"):
        evaluator().with_beam_pipeline_args(["--runner", "DaskRunner"])
    accepted = evaluator()
    assert accepted.with_beam_pipeline_args(iter(TWO_WORKERS)) is accepted
    assert accepted.executor_spec.beam_pipeline_args == TWO_WORKERS


@pytest.mark.parametrize("beam_args", [[f"--runner={DASK}"], ["--no_wait_until_finish"]])
def test_arguments_of_the_whole_pipeline_are_refused_before_anything_is_written(world, tmp_path, beam_args):
    with pytest.raises(EvalConfigError, match="is refused"):
        world.run(tmp_path, beam_args=beam_args)
    assert not [path for key in ("evaluation", "blessing", "blessed_model") for path in (tmp_path / key).iterdir()]


class DaskRunner(BundleBasedDirectRunner):
    """Stands for Beam's own, which needs the package dask to be imported."""


def test_a_pipeline_made_elsewhere_is_refused_on_a_dask_runner(world, tmp_path):
    with pytest.raises(EvalConfigError, match="DaskRunner is refused"):
        world.run_on(lambda: beam.Pipeline(runner=DaskRunner()), tmp_path)


class SilentRunner(FnApiRunner):
    """Reports no counters, as a runner may; what it computes is right."""

    def run_pipeline(self, pipeline, options):
        result = super().run_pipeline(pipeline, options)
        result.metrics = beam.runners.runner.PipelineResult(None).metrics
        return result


def test_a_runner_that_counts_nothing_is_an_error(world, tmp_path):
    with pytest.raises(EvaluationError, match=r"runner ended without saying how many examples.*--runner"):
        world.run_on(lambda: beam.Pipeline(runner=SilentRunner()), tmp_path)
    assert not [path for path in (tmp_path / "evaluation").iterdir()]


def test_workers_of_another_version_are_an_error(world, tmp_path, monkeypatch):
    # What is asked first is asked where the pipeline is made.
    answers = itertools.chain([versions()], itertools.repeat({**versions(), "tensorflow": "1.15"}))
    monkeypatch.setattr(worker_versions, "versions", lambda: next(answers))
    with pytest.raises(EvaluationError, match=r"A Beam worker runs tensorflow 1\.15 instead of 2.*beam_worker_args"):
        world.run(tmp_path)
    assert not list((tmp_path / "evaluation").iterdir())
