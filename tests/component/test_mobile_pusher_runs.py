"""MobilePusher under TFX's own runner: the cache, conditions, RuntimeParameters, and what stock tools read of it."""

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from ml_metadata import metadata_store
from tfx import v1 as tfx
from tfx.dsl.compiler.compiler import Compiler
from tfx.dsl.components.common.importer import Importer
from tfx.dsl.components.common.resolver import Resolver
from tfx.dsl.input_resolution.strategies.latest_artifact_strategy import LatestArtifactStrategy
from tfx.orchestration.data_types import RuntimeParameter
from tfx.orchestration.local.local_dag_runner import LocalDagRunner
from tfx.orchestration.metadata import sqlite_metadata_connection_config
from tfx.orchestration.pipeline import Pipeline
from tfx.orchestration.portable import runtime_parameter_utils
from tfx.types import artifact_utils, standard_artifacts
from tfx.types.artifact import Artifact

from pipelines.lineage import NodeRun, latest_run
from tests.component import pusher_artifacts as given
from tests.fakes.releases import model_bytes, tree
from tfx_mobile import FilesystemDestination, MobilePusher
from tfx_mobile.errors import NotBlessedError
from tfx_mobile.release_store.destinations import destinations_to_json
from tfx_mobile.release_store.reading import resolve

NAME = "publishing"
PUSHER = "MobilePusher"
Inputs = dict[str, list[Artifact]]


@tfx.dsl.components.component
def report(
    pushed_model: tfx.dsl.components.InputArtifact[standard_artifacts.PushedModel],
    version: tfx.dsl.components.OutputArtifact[standard_artifacts.String],
) -> None:
    version.value = pushed_model.get_string_custom_property("pushed_version")


class World:
    """A pipeline of importers and a pusher, run after run in one ML Metadata store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "releases"
        self.destination = FilesystemDestination(base_directory=self.root)
        self.connection = sqlite_metadata_connection_config(str(folder / "metadata.sqlite"))

    def inputs(self, data: bytes = b"", blessed: bool = True) -> Inputs:
        inputs = given.inputs_of(self.folder / "inputs" / str(len(list(self.folder.glob("inputs/*")))), data, blessed)
        inputs["blessing"][0].set_int_custom_property("blessed", int(blessed))
        return inputs

    def pipeline(
        self,
        inputs: Inputs,
        *,
        cache: bool = True,
        in_condition: bool = False,
        resolved: bool = False,
        **parameters: Any,
    ) -> Pipeline:
        importers = {}
        for key, (artifact,) in inputs.items():
            properties = {"blessed": artifact.get_int_custom_property("blessed")}
            importers[key] = Importer(
                source_uri=artifact.uri, artifact_type=type(artifact), custom_properties=properties
            ).with_id(key)
        verdict = importers["blessing"].outputs["result"].future()[0].custom_property("blessed")
        with tfx.dsl.Cond(verdict == 1) if in_condition else contextlib.nullcontext():
            pusher = MobilePusher(
                **{key: importer.outputs["result"] for key, importer in importers.items()},
                **({"model_name": "digits", "destinations": [self.destination]} | parameters),
            )
        behind: list[Any] = []
        if resolved:
            channel = tfx.dsl.Channel(type=standard_artifacts.PushedModel)
            latest = Resolver(strategy_class=LatestArtifactStrategy, pushed_model=channel).with_id("latest")
            latest.add_upstream_node(pusher)
            behind = [latest, report(pushed_model=latest.outputs["pushed_model"])]
        return Pipeline(
            pipeline_name=NAME,
            pipeline_root=str(self.folder / "root"),
            components=[*importers.values(), pusher, *behind],
            enable_cache=cache,
            metadata_connection_config=self.connection,
        )

    def start(self, inputs: Inputs, *, values: Any = None, **options: Any) -> None:
        ir = Compiler().compile(self.pipeline(inputs, **options))
        runtime_parameter_utils.substitute_runtime_parameter(ir, values or {})
        LocalDagRunner().run_with_ir(ir)

    def run(self, inputs: Inputs, **options: Any) -> NodeRun:
        self.start(inputs, **options)
        return latest_run(self.folder / "metadata.sqlite", NAME, PUSHER)

    def store(self) -> metadata_store.MetadataStore:
        return metadata_store.MetadataStore(self.connection)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def text(run: NodeRun, name: str) -> str:
    value: str = run.outputs["pushed_model"].custom_properties[name].string_value
    return value


# --- the cache -------------------------------------------------------------------------------------------------------


def test_with_the_cache_a_second_run_does_not_ask_the_destination(world: World) -> None:
    inputs = world.inputs()
    first = world.run(inputs)
    assert (first.cached, text(first, "push_status")) == (False, "pushed")
    world.root.rename(world.folder / "lost")

    second = world.run(inputs)
    assert second.cached
    assert second.outputs["pushed_model"].id == first.outputs["pushed_model"].id
    assert not world.root.exists()


def test_with_the_cache_another_parameter_or_model_pushes_again(world: World) -> None:
    inputs = world.inputs()
    world.run(inputs)
    labelled = world.run(inputs, labels={"team": "vision"})
    assert (labelled.cached, text(labelled, "push_status")) == (False, "unchanged")
    other = world.run(world.inputs(model_bytes(2)))
    assert (other.cached, text(other, "push_status"), text(other, "channel_version")) == (False, "pushed", "2")


def test_without_the_cache_a_second_run_finds_it_unchanged_and_restores_what_was_lost(world: World) -> None:
    inputs = world.inputs()
    first = world.run(inputs, cache=False)
    before = tree(world.root)
    second = world.run(inputs, cache=False)
    assert [text(run, "push_status") for run in (first, second)] == ["pushed", "unchanged"]
    assert second.outputs["pushed_model"].id != first.outputs["pushed_model"].id
    assert tree(world.root) == before

    world.root.rename(world.folder / "lost")
    assert text(world.run(inputs, cache=False), "push_status") == "pushed"
    assert set(tree(world.root)) == set(before)


# --- conditions ------------------------------------------------------------------------------------------------------


def test_in_a_condition_that_holds(world: World) -> None:
    assert text(world.run(world.inputs(), in_condition=True), "push_status") == "pushed"


def test_in_a_condition_that_does_not_hold_it_is_skipped(world: World) -> None:
    world.start(world.inputs(blessed=False), in_condition=True)
    node = world.store().get_context_by_type_and_name("node", f"{NAME}.{PUSHER}")
    assert node is None or world.store().get_executions_by_context(node.id) == []
    assert not world.root.exists()


# --- RuntimeParameters -----------------------------------------------------------------------------------------------


def test_runtime_parameters(world: World) -> None:
    inputs = world.inputs()
    values: dict[str, Any] = {
        "model_name": "digits",
        "channel": "beta",
        "destinations": destinations_to_json([world.destination]),
        "labels": '{"team": "vision"}',
        "on_stale": "fail",
        "on_not_blessed": "fail",
        "variant": "",
        "dry_run": 1,
        "allow_unblessed": 0,
    }
    parameters = {name: RuntimeParameter(name=name, ptype=type(value)) for name, value in values.items()}

    def run(**changes: Any) -> NodeRun:
        return world.run(inputs, values=values | changes, **parameters)

    planned = run()
    assert (text(planned, "push_status"), text(planned, "channel")) == ("dry_run", "beta")
    assert not world.root.exists()
    assert text(run(dry_run=0), "push_status") == "pushed"
    release = resolve(world.destination.open_store(), "digits", "beta")
    assert (release.model, release.manifest.labels) == (model_bytes(), {"team": "vision"})
    # What could not be checked before is checked now, before anything is written.
    before = tree(world.root)
    for wrong in (
        {"model_name": "a b"},
        {"labels": "[]"},
        {"on_stale": "no"},
        {"on_not_blessed": "no"},
        {"destinations": "[]"},
        {"variant": "float32"},
    ):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            run(**wrong)
    assert tree(world.root) == before


def test_a_refusal_fails_the_run_if_a_runtime_parameter_says_so(world: World) -> None:
    inputs = world.inputs(blessed=False)
    on_not_blessed = RuntimeParameter(name="on_not_blessed", ptype=str, default="fail")
    with pytest.raises(NotBlessedError, match="Nothing was pushed to channel 'production'"):
        world.run(inputs, on_not_blessed=on_not_blessed)
    # A failure is not cached: the same run again fails again, and one that need not fail ends well.
    with pytest.raises(NotBlessedError):
        world.run(inputs, on_not_blessed=on_not_blessed)
    ended = world.run(inputs, values={"on_not_blessed": "skip"}, on_not_blessed=on_not_blessed)
    assert text(ended, "push_status") == "not_blessed"
    assert not world.root.exists()


def test_defaults_of_runtime_parameters(world: World) -> None:
    channel = RuntimeParameter(name="channel", ptype=str, default="beta")
    assert text(world.run(world.inputs(), channel=channel), "channel") == "beta"


def test_the_pipeline_compiles_for_kubeflow(world: World) -> None:
    pytest.importorskip("kfp", reason="kfp is not installed: compiling for Kubeflow needs the extra tfx[kfp]")
    from tfx.orchestration.kubeflow.v2 import kubeflow_v2_dag_runner

    runner = kubeflow_v2_dag_runner.KubeflowV2DagRunner(
        config=kubeflow_v2_dag_runner.KubeflowV2DagRunnerConfig(default_image="image"),
        output_dir=str(world.folder),
        output_filename="pipeline.json",
    )
    dry_run = RuntimeParameter(name="dry_run", ptype=int, default=1)
    runner.run(world.pipeline(world.inputs(), in_condition=True, dry_run=dry_run))
    compiled = json.loads((world.folder / "pipeline.json").read_text())
    assert "tfx_mobile.mobile_pusher.executor.Executor" in json.dumps(compiled)


def test_it_runs_as_kubeflow_runs_it(world: World) -> None:
    """Through Kubeflow's own entrypoint: artifacts without ids and times, an input more, texts and whole numbers."""
    pytest.importorskip("kfp", reason="kfp is not installed: Kubeflow's entrypoint needs the extra tfx[kfp]")
    from tfx.orchestration.kubeflow.v2.container import kubeflow_v2_run_executor

    inputs = world.inputs()
    *_, pusher = world.pipeline(inputs).components
    inputs["_QuantizationEvaluator.blessing"] = inputs["blessing"]

    def artifacts(name: str, uri: str, title: str) -> dict[str, Any]:
        schema = {"instanceSchema": f"title: {title}\ntype: object\n"}
        return {"artifacts": [{"name": name, "uri": uri, "type": schema, "metadata": {}}]}

    invocation = {
        "inputs": {
            "artifacts": {key: artifacts(key, found.uri, found.type_name) for key, (found,) in inputs.items()},
            "parameters": {
                name: {"intValue": str(value)} if isinstance(value, int) else {"stringValue": value}
                for name, value in pusher.exec_properties.items()
            },
        },
        "outputs": {
            "artifacts": {"pushed_model": artifacts("pushed", str(world.folder / "pushed"), "tfx.PushedModel")},
            "outputFile": str(world.folder / "output.json"),
        },
    }
    kubeflow_v2_run_executor._run_executor(
        *kubeflow_v2_run_executor._parse_flags(
            [
                "run_executor",
                *("--executor_class_path", "tfx_mobile.mobile_pusher.executor.Executor"),
                *("--json_serialized_invocation_args", json.dumps(invocation)),
            ]
        )
    )
    output = json.loads((world.folder / "output.json").read_text())
    (pushed,) = output["artifacts"]["pushed_model"]["artifacts"]
    release = resolve(world.destination.open_store(), "digits", "production")
    assert (release.model, pushed["metadata"]["pushed_version"]) == (model_bytes(), release.release_id)
    assert (pushed["metadata"]["pushed"], pushed["metadata"]["channel_version"]) == (1.0, "1")


# --- what stock tools read -------------------------------------------------------------------------------------------


def test_tfxs_own_helpers_read_the_pushed_model(world: World) -> None:
    from tfx.components.pusher import executor as stock  # it names the stock Pusher's properties

    run = world.run(world.inputs())
    (artifact_type,) = world.store().get_artifact_types_by_id([run.outputs["pushed_model"].type_id])
    pushed = artifact_utils.deserialize_artifact(artifact_type, run.outputs["pushed_model"])
    assert isinstance(pushed, standard_artifacts.PushedModel)
    assert pushed.get_int_custom_property(stock._PUSHED_KEY) == 1
    assert pushed.get_string_custom_property(stock._PUSHED_DESTINATION_KEY) == str(world.root)
    release = resolve(world.destination.open_store(), "digits", "production")
    assert pushed.get_string_custom_property(stock._PUSHED_VERSION_KEY) == release.release_id
    assert Path(artifact_utils.get_single_uri([pushed]), "model.tflite").read_bytes() == model_bytes()


def test_a_resolver_hands_the_latest_pushed_model_on(world: World) -> None:
    for seed in (1, 2):
        pushed = world.run(world.inputs(model_bytes(seed)), resolved=True)
        found = latest_run(world.folder / "metadata.sqlite", NAME, "report")
        assert found.inputs["pushed_model"].id == pushed.outputs["pushed_model"].id
        release = resolve(world.destination.open_store(), "digits", "production")
        assert (release.model, release.channel_version) == (model_bytes(seed), seed)
        assert Path(found.outputs["version"].uri).read_text() == release.release_id
