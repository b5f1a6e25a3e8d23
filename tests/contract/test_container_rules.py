"""What only the containers of Kubeflow and Vertex do to a component, shown on small pipelines and on our three.

The pipelines are compiled and run through TFX's own container entry points. docs/kubeflow.md lists the rules.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("kfp", reason="TFX's Kubeflow compiler needs the extra kubeflow")
pytest.importorskip("pipelines", reason="the reference pipeline is not part of the wheel")

from tfx.components import ImportExampleGen
from tfx.dsl.components.base.base_executor import BaseExecutor
from tfx.dsl.components.base.executor_spec import BeamExecutorSpec
from tfx.dsl.components.common.importer import Importer
from tfx.dsl.components.common.resolver import Resolver
from tfx.dsl.experimental.conditionals.conditional import Cond
from tfx.dsl.input_resolution.strategies.latest_artifact_strategy import LatestArtifactStrategy
from tfx.orchestration.kubeflow.v2.container import kubeflow_v2_entrypoint_utils as entry_point
from tfx.types import Channel
from tfx.types.standard_artifacts import Examples, Model, ModelBlessing

from pipelines.run_ir import ir, runner
from pipelines.run_ir.steps import ForkedSteps, InstalledSteps
from tests.fakes import compiled, evaluations, models, rule_breakers
from tests.fakes.rule_breakers import making
from tests.fakes.small_components import Count, Make, TakeNumber
from tfx_mobile import (
    Budget,
    FilesystemDestination,
    MobilePusher,
    QuantizationEvaluator,
    TFLiteConverter,
    TFLiteModel,
    artifact_io,
    blessed,
)
from tfx_mobile.errors import NothingPublishedError
from tfx_mobile.mobile_pusher import parameters as pusher_parameters
from tfx_mobile.quantization_evaluator import parameters as evaluator_parameters
from tfx_mobile.records import EvaluationRecord
from tfx_mobile.release_store import reading
from tfx_mobile.tflite_converter import executor as converter

NAME = "small"


def run(folder: Path, components: list[Any], schema: str = "2.1") -> runner.JobRun:
    folder.mkdir(parents=True, exist_ok=True)
    return runner.run_job(compiled.load(folder / "job.json", components, schema=schema), folder / "root", ForkedSteps())


def log_of(task: runner.TaskRun) -> str:
    assert task.log is not None
    return task.log.read_text()


# --- our three components --------------------------------------------------------------------------------------------


class World:
    """A model and examples on disk, and all three components run on them as containers would."""

    def __init__(self, root: Path) -> None:
        self.root = root
        # In another process: one that has run TensorFlow cannot be forked into one that does.
        code = """
import sys
from pathlib import Path
from tests.fakes import models
root = Path(sys.argv[1])
models.save_raw_model(root / "model" / "Format-Serving")
models.write_examples(root / "examples", {"train": models.rows(60, seed=1), "eval": models.rows(90, seed=2)})
"""
        command = [sys.executable, "-W", "ignore", "-c", code, str(root)]
        subprocess.run(command, check=True, cwd=Path(models.__file__).parents[2])

    def components(self, folder: Path, floor: float) -> list[Any]:
        model = Importer(source_uri=str(self.root / "model"), artifact_type=Model).with_id("BringModel")
        examples = Importer(
            source_uri=str(self.root / "examples"),
            artifact_type=Examples,
            properties={"split_names": '["train", "eval"]', "span": 3, "version": 2},
        ).with_id("BringExamples")
        # Nobody below is wired to this: all get an input that their specification does not know.
        make = Make(blessed=1)
        with Cond(make.outputs["blessing"].future()[0].custom_property("blessed") == 1):
            convert = TFLiteConverter(
                model=model.outputs["result"],
                examples=examples.outputs["result"],
                recipes=["dynamic_range", "full_integer"],
                calibration={"split": "train", "num_samples": 20},
            )
            evaluator = QuantizationEvaluator(
                examples=examples.outputs["result"],
                model=model.outputs["result"],
                variants=convert.outputs["variants"],
                eval_config=evaluations.eval_config(floor=floor),
                budget=Budget(max_size_bytes=10**6),
            )
            with Cond(blessed(evaluator.outputs["blessing"])):
                pusher = MobilePusher(
                    model=evaluator.outputs["blessed_model"],
                    blessing=evaluator.outputs["blessing"],
                    evaluation=evaluator.outputs["evaluation"],
                    model_name=NAME,
                    destinations=[FilesystemDestination(base_directory=str(folder / "releases"))],
                    labels={"team": "vision"},
                    dry_run=False,
                )
        return [model, examples, make, convert, evaluator, pusher]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


Ran = tuple[Path, runner.JobRun]


@pytest.fixture(scope="module", params=["2.1", "2.0"])
def pushed(request: pytest.FixtureRequest, world: World, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    folder = tmp_path_factory.mktemp("pushed")
    return folder, run(folder, world.components(folder, floor=0.5), request.param)


@pytest.fixture(scope="module")
def refused(world: World, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    folder = tmp_path_factory.mktemp("refused")
    return folder, run(folder, world.components(folder, floor=1.5))


OURS = ("TFLiteConverter", "QuantizationEvaluator", "MobilePusher")


def job_in(folder: Path) -> ir.Job:
    return ir.load(folder / "job.json")


def test_all_three_run_in_their_containers(pushed: Ran) -> None:
    folder, result = pushed
    assert {name: task.state for name, task in result.tasks.items()} == dict.fromkeys(result.tasks, "SUCCEEDED")
    store = FilesystemDestination(base_directory=str(folder / "releases")).open_store()
    release = reading.resolve(store, NAME, "production")
    assert release.manifest.labels == {"team": "vision"}
    metadata = result.tasks["MobilePusher"].outputs["pushed_model"][0]["metadata"]
    assert (metadata["push_status"], metadata["pushed"]) == ("pushed", 1)


def test_r4_every_output_is_one_artifact(pushed: Ran) -> None:
    _, result = pushed
    for name in OURS:
        assert all(len(found) == 1 for found in result.tasks[name].outputs.values())


def test_r4_two_artifacts_in_a_channel_fail_after_the_work(tmp_path: Path) -> None:
    result = run(tmp_path, [making(Model, rule_breakers.WritesTwo)])
    assert result.tasks["Making"].state == "FAILED"
    assert "expected list length of one but got 2" in log_of(result.tasks["Making"])


def test_s1_what_is_none_is_not_there(pushed: Ran, world: World) -> None:
    folder, _ = pushed
    tasks = {task.name: task for task in job_in(folder).tasks}
    for component in world.components(folder, floor=0.5):
        if component.id in OURS:
            given = {name for name, value in component.exec_properties.items() if value is not None}
            assert set(tasks[component.id].input_parameters) == given
    # Ours say `null` for what they were not given; an optional parameter of others is not there at all.
    generate = ImportExampleGen(input_base="/examples")
    assert generate.exec_properties["range_config"] is None
    job = compiled.load(folder / "other.json", [generate])
    assert "range_config" not in job.tasks[0].input_parameters


def test_s2_parameters_travel_as_texts_and_numbers(pushed: Ran) -> None:
    """What is more than that is JSON of our own, the same on every runner."""
    folder, _ = pushed
    job = job_in(folder)
    for task in job.tasks:
        for name, source in task.input_parameters.items() if task.name in OURS else ():
            value = source["runtimeValue"]
            constant = value["constant"] if job.is_2_1 else ir.parse_constant(value["constantValue"])
            assert isinstance(constant, (str, int, float)), name
            assert not isinstance(constant, bool), name


BOTH_FORMS: list[tuple[Callable[[Any], Any], Any]] = [
    (pusher_parameters.parse_distinct, [{"type": "filesystem", "base_directory": "/srv"}]),
    (pusher_parameters.parse_optional_rollout, {"project_id": "my-app", "percent": 10}),
    (
        evaluator_parameters.parse_production,
        {"destination": {"type": "filesystem", "base_directory": "/srv"}, "model_name": "digits"},
    ),
    (evaluator_parameters.parse_budget, {"max_size_bytes": 10}),
    (converter.parse_calibration, {"split": "train", "num_samples": 20}),
]


@pytest.mark.parametrize(("parse", "value"), BOTH_FORMS, ids=lambda v: getattr(v, "__name__", ""))
def test_s2_both_forms_are_read(parse: Callable[[Any], Any], value: Any) -> None:
    assert parse(value) == parse(json.dumps(value))
    assert parse(value)


@pytest.mark.parametrize("given", [1, True, 0, False])
def test_s2_a_flag_may_be_a_number(given: Any) -> None:
    assert pusher_parameters.parse_flag("dry_run", given) is bool(given)


@pytest.mark.parametrize("schema", ["2.1", "2.0"])
def test_s3_a_number_written_into_the_job_stays_one(tmp_path: Path, schema: str) -> None:
    result = run(tmp_path, [TakeNumber(number=5)], schema)
    assert result.tasks["TakeNumber"].outputs["seen"][0]["metadata"]["seen"] == "5"


@pytest.mark.parametrize("schema", ["2.1", "2.0"])
def test_s3_a_number_that_another_step_wrote_becomes_a_float(tmp_path: Path, schema: str) -> None:
    """The compiler declares it as text, so that the entry point does not cast it back."""
    count = Count()
    result = run(tmp_path, [count, TakeNumber(number=count.outputs["count"].future()[0].value)], schema)
    assert result.tasks["Count"].values == {"count": 3.0}
    assert result.tasks["TakeNumber"].outputs["seen"][0]["metadata"]["seen"] == "3.0"


def test_s5_s6_numbers_and_spans_are_read_through_the_artifact_api(pushed: Ran) -> None:
    _, result = pushed
    assert isinstance(result.tasks["QuantizationEvaluator"].outputs["blessing"][0]["metadata"]["blessed"], float)
    record = json.loads(
        (Path(result.tasks["MobilePusher"].outputs["pushed_model"][0]["uri"]) / "release.json").read_text()
    )
    (examples,) = record["lineage"]["examples"]
    assert (examples["span"], examples["version"]) == (3, 2)


def as_the_entry_point_gives_it(title: str, metadata: dict[str, Any], name: str = "a/b") -> Any:
    from google.protobuf import json_format
    from kfp.pipeline_spec import pipeline_spec_pb2

    message = {"name": name, "uri": "/u", "type": {"instanceSchema": f"title: {title}\n"}, "metadata": metadata}
    artifacts = pipeline_spec_pb2.ArtifactList()
    json_format.ParseDict({"artifacts": [message]}, artifacts)
    (artifact,) = entry_point.parse_raw_artifact_dict({"key": artifacts})["key"]
    return artifact


def test_s5_a_number_of_an_own_type() -> None:
    model = as_the_entry_point_gives_it("tfx_mobile.TFLiteModel", {"size_bytes": 2.0})
    assert isinstance(model, TFLiteModel)
    assert model.get_int_custom_property("size_bytes") == 2
    assert model.mlmd_artifact.custom_properties["size_bytes"].int_value == 0


def test_s6_a_custom_property_by_the_name_of_a_declared_one() -> None:
    examples = as_the_entry_point_gives_it("tfx.Examples", {"custom:span": 4.0})
    assert artifact_io.origin_of(examples).span == 4


def test_s7_ids_are_hashes_and_none_is_kept(pushed: Ran) -> None:
    folder, result = pushed
    names = [artifact["name"] for artifact in json.loads((folder / "root" / "artifacts.json").read_text())]
    hashes = {str(int(hashlib.sha256(name.encode()).hexdigest(), 16) % (1 << 63)) for name in names}
    assert str(as_the_entry_point_gives_it("tfx.Model", {}, names[0]).id) in hashes
    written = [p for p in folder.rglob("*.json") if p.name not in ("artifacts.json", "job.json")]
    assert {p.name for p in written} >= {"manifest.json", "blessing.json", "release.json", "executor_output.json"}
    # In the log of the entry point they are.
    assert any(number in log_of(result.tasks["MobilePusher"]) for number in hashes)
    for path in written:
        assert not [number for number in hashes if number in path.read_text()], path


def test_s8_inputs_nobody_declared(pushed: Ran) -> None:
    folder, _ = pushed
    for task in job_in(folder).tasks:
        if task.name in OURS:
            assert "_Make.blessing" in task.input_artifacts


def test_a_condition_reads_what_is_written_on_both_outcomes(pushed: Ran, refused: Ran) -> None:
    for (_, result), verdict, state in ((pushed, 1, "SUCCEEDED"), (refused, 0, "SKIPPED")):
        assert result.tasks["QuantizationEvaluator"].outputs["blessing"][0]["metadata"]["blessed"] == verdict
        assert result.tasks["MobilePusher"].state == state
        assert result.succeeded
    folder, _ = refused
    store = FilesystemDestination(base_directory=str(folder / "releases")).open_store()
    with pytest.raises(NothingPublishedError):
        reading.resolve(store, NAME, "production")


def test_r8_properties_are_simple(pushed: Ran, refused: Ran) -> None:
    for _, result in (pushed, refused):
        for name in OURS:
            for (artifact,) in result.tasks[name].outputs.values():
                assert artifact["metadata"]
                assert all(isinstance(value, (str, int, float)) for value in artifact["metadata"].values())


def test_s12_no_result_depends_on_a_driver(pushed: Ran) -> None:
    """Kubeflow runs none but ExampleGen's: ours has run nowhere here, and tells nothing but TFX's cache."""
    folder, result = pushed
    assert QuantizationEvaluator.DRIVER_CLASS.__module__ == "tfx_mobile.quantization_evaluator.driver"
    assert all(len(result.tasks[name].steps) == 1 for name in OURS)
    executors = json.loads((folder / "job.json").read_text())["pipelineSpec"]["deploymentSpec"]["executors"]
    assert "tfx_mobile.quantization_evaluator.driver" not in json.dumps(executors)
    record = EvaluationRecord.from_json(
        (Path(result.tasks["QuantizationEvaluator"].outputs["blessing"][0]["uri"]) / "blessing.json").read_bytes()
    )
    assert record.winner is not None


def test_s14_a_parameter_of_an_old_name(tmp_path: Path, pushed: Ran) -> None:
    seen = tmp_path / "seen"
    run(tmp_path, [rule_breakers.TakesAnOldName(str(seen))])
    assert seen.read_text() == "input_base seen"
    folder, _ = pushed
    for task in job_in(folder).tasks:
        assert "input_base_uri" not in task.input_parameters


def test_s15_the_folder_of_an_output_is_made_by_the_component(tmp_path: Path) -> None:
    """Ours make theirs: they run in `pushed`, where nobody else does."""
    result = run(tmp_path, [making(Model, rule_breakers.WritesWhereNothingIs)])
    assert result.tasks["Making"].state == "FAILED"
    assert "FileNotFoundError" in log_of(result.tasks["Making"])


# --- what a container can import -------------------------------------------------------------------------------------


def test_r1_types_are_imported_by_their_names() -> None:
    """In a process that has imported nothing else of this package."""
    code = """
from tfx.utils import import_utils
for name in ("TFLiteVariants", "TFLiteModel", "TFLiteBlessing"):
    print(import_utils.import_class_by_path(f"tfx_mobile.{name}").TYPE_NAME)
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["tfx_mobile.TFLiteVariants", "tfx_mobile.TFLiteModel", "tfx_mobile.TFLiteBlessing"]
    with pytest.raises(ImportError, match=r"Could not import tfx_mobile\.Unexported"):
        as_the_entry_point_gives_it("tfx_mobile.Unexported", {})


def test_r5_an_environment_without_the_wheel(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True)
    steps = InstalledSteps(tmp_path / "bare" / "bin" / "python")
    job = compiled.load(tmp_path / "job.json", [Count()])
    with pytest.raises(ValueError, match=r"no environment of a container: .*No package metadata.*tfx-mobile.*WHEEL=1"):
        runner.run_job(job, tmp_path / "root", steps)
    assert not (tmp_path / "root").exists()


def test_r6_output_parameters_are_plain_values(tmp_path: Path) -> None:
    make = Make(blessed=1)
    take = TakeNumber(number=make.outputs["model"].future()[0].value)
    with pytest.raises(ValueError, match="unsupported component output type"):
        compiled.load(tmp_path / "job.json", [make, take])


def test_r7_beam_needs_its_own_specification(tmp_path: Path) -> None:
    result = run(tmp_path, [making(Model, rule_breakers.OnBeam)])
    assert result.tasks["Making"].state == "SUCCEEDED"  # as long as it runs no pipeline
    assert isinstance(QuantizationEvaluator.EXECUTOR_SPEC, BeamExecutorSpec)


def test_s9_a_resolver_does_not_find_own_types(tmp_path: Path) -> None:
    resolver = Resolver(strategy_class=LatestArtifactStrategy, model=Channel(type=TFLiteModel)).with_id("latest")
    job = compiled.compile_pipeline(tmp_path / "job.json", [resolver])
    (executor,) = job["pipelineSpec"]["deploymentSpec"]["executors"].values()
    (query,) = executor["resolver"]["outputArtifactQueries"].values()
    assert query["filter"] == 'schema_title="tfx.Artifact" AND state=LIVE'


def test_s10_s11_nothing_of_ours_can_become_the_float_baseline() -> None:
    from tfx.components.evaluator.executor import Executor as StockEvaluator

    from tfx_mobile.mobile_pusher.executor import Executor as Push
    from tfx_mobile.quantization_evaluator.executor import Executor as Evaluate

    executors: list[type[BaseExecutor]] = [converter.Executor, Evaluate, Push]
    assert not [e for e in executors if issubclass(e, StockEvaluator)]
    for component in (TFLiteConverter, QuantizationEvaluator, MobilePusher):
        assert not [k for k, p in component.SPEC_CLASS.OUTPUTS.items() if p.type in (Model, ModelBlessing)]
