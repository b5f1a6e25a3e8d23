"""Where a release came from: what ML Metadata knows of the artifacts reaches the manifest, and old runs do not win."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tfx.types import standard_artifacts
from tfx.types.artifact import Artifact

from pipelines.lineage import NodeRun, latest_run
from tests.fakes import evaluations, models
from tfx_mobile import FilesystemDestination, MobilePusher, QuantizationEvaluator, TFLiteVariants, artifact_io
from tfx_mobile.errors import SupersededError
from tfx_mobile.records import ArtifactOrigin, sha256_of
from tfx_mobile.release_store.reading import current_statement, resolve

NAME = "lineage"


# --- one artifact ----------------------------------------------------------------------------------------------------


def recorded(artifact: Artifact, **fields: Any) -> Artifact:
    """As if it came from an ML Metadata store."""
    for name, value in fields.items():
        setattr(artifact.mlmd_artifact, name, value)
    return artifact


def test_an_artifact_of_ml_metadata() -> None:
    model = recorded(standard_artifacts.Model(), id=7, name="p:run:Trainer:model:0", create_time_since_epoch=1700)
    assert artifact_io.origin_of(model) == ArtifactOrigin(
        type="Model", id=7, name="p:run:Trainer:model:0", created_ms=1700
    )
    assert artifact_io.origin_of(TFLiteVariants()) == ArtifactOrigin(type="tfx_mobile.TFLiteVariants")


def test_kubeflow_passes_a_hash_on_and_no_time() -> None:
    from ml_metadata.proto import metadata_store_pb2 as mlmd
    from tfx.types.artifact import _encode_struct_value

    examples = recorded(standard_artifacts.Examples(), id=3141592653589793238)
    # The way its entrypoint decodes what ExampleGen set.
    examples.mlmd_artifact.custom_properties["span"].CopyFrom(mlmd.Value(struct_value=_encode_struct_value(4.0)))
    assert artifact_io.origin_of(examples) == ArtifactOrigin(type="Examples", span=4)


def test_spans_are_found_wherever_they_were_written() -> None:
    imported = standard_artifacts.Examples()
    imported.span, imported.version = 3, 2
    generated = standard_artifacts.Examples()
    generated.set_int_custom_property("span", 0)
    older = standard_artifacts.Examples()
    older.set_string_custom_property("span", "12")
    foreign = standard_artifacts.Examples()
    foreign.set_string_custom_property("version", "v2")
    found = [artifact_io.origin_of(examples) for examples in (imported, generated, older, foreign)]
    assert [(origin.span, origin.version) for origin in found] == [(3, 2), (0, None), (12, None), (None, None)]
    versioned = standard_artifacts.Model()
    versioned.set_int_custom_property("version", 2)
    assert artifact_io.origin_of(versioned).version is None


# --- a pipeline ------------------------------------------------------------------------------------------------------


class World:
    """ExampleGen, QuantizationEvaluator and MobilePusher, run after run on TFX's own runner."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder, self.model = folder, model
        self.database = folder / "metadata.sqlite"
        self.destination = FilesystemDestination(base_directory=folder / "releases")
        saved_model = model / "Format-Serving"
        for span in (1, 2):
            models.write_examples(folder / f"span-{span}", {"eval": models.rows(40, seed=span)}, num_shards=1)
        for name in ("float32", "dynamic_range"):
            files = {name: evaluations.convert(saved_model, name)}
            evaluations.write_variants(folder / name, files, saved_model)

    def run(self, *, variant: str, span: int, reimport: bool = False, **parameters: Any) -> NodeRun:
        from tfx.components import ImportExampleGen
        from tfx.dsl.components.common.importer import Importer
        from tfx.orchestration import metadata
        from tfx.orchestration.local.local_dag_runner import LocalDagRunner
        from tfx.orchestration.pipeline import Pipeline
        from tfx.proto import example_gen_pb2, range_config_pb2

        split = example_gen_pb2.Input.Split(name="eval", pattern="span-{SPAN}/Split-eval/*")
        only = range_config_pb2.StaticRange(start_span_number=span, end_span_number=span)
        example_gen = ImportExampleGen(
            input_base=str(self.folder),
            input_config=example_gen_pb2.Input(splits=[split]),
            range_config=range_config_pb2.RangeConfig(static_range=only),
        )
        model = Importer(source_uri=str(self.model), artifact_type=standard_artifacts.Model, reimport=reimport)
        variants = Importer(source_uri=str(self.folder / variant), artifact_type=TFLiteVariants)
        evaluator = QuantizationEvaluator(
            examples=example_gen.outputs["examples"],
            model=model.with_id("model").outputs["result"],
            variants=variants.with_id("variants").outputs["result"],
            eval_config=evaluations.eval_config(),
        )
        pusher = MobilePusher(
            model=evaluator.outputs["blessed_model"],
            blessing=evaluator.outputs["blessing"],
            model_name="digits",
            destinations=[self.destination],
            **parameters,
        )
        LocalDagRunner().run(
            Pipeline(
                pipeline_name=NAME,
                pipeline_root=str(self.folder / "root"),
                components=[example_gen, model, variants, evaluator, pusher],
                enable_cache=True,
                metadata_connection_config=metadata.sqlite_metadata_connection_config(str(self.database)),
                beam_pipeline_args=["--runner=FnApiRunner", *evaluations.IN_MEMORY],
            )
        )
        return latest_run(self.database, NAME, "MobilePusher")

    def inputs(self) -> dict[str, Any]:
        return latest_run(self.database, NAME, "QuantizationEvaluator").inputs


@pytest.fixture
def world(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path, models.raw_model(tmp_path_factory))


def text(run: NodeRun, name: str) -> str:
    value: str = run.outputs["pushed_model"].custom_properties[name].string_value
    return value


@pytest.mark.filterwarnings("ignore")  # TFX and Beam warn on every run
def test_lineage_reaches_the_manifest_and_a_slow_old_run_does_not_win(world: World) -> None:
    store = world.destination.open_store()
    assert text(world.run(variant="float32", span=2), "push_status") == "pushed"
    release = resolve(store, "digits", "production")
    inputs = world.inputs()
    lineage = release.manifest.lineage
    for key, origin in (("model", lineage.model), ("examples", lineage.examples[0]), ("variants", lineage.variants)):
        artifact = inputs[key]
        assert (origin.id, origin.created_ms) == (artifact.id, artifact.create_time_since_epoch)
        assert origin.created_ms > 0
        assert origin.name == (artifact.name or None)
    assert (lineage.model.type, lineage.examples[0].type) == ("Model", "Examples")
    assert lineage.variants.type == "tfx_mobile.TFLiteVariants"
    assert [origin.span for origin in lineage.examples] == [2]
    assert str(world.folder) not in release.manifest.to_json().decode()  # manifests are public

    # An older span with another model: no matter when it ends, it does not replace the newer one.
    late = world.run(variant="dynamic_range", span=1)
    assert (text(late, "push_status"), late.outputs["pushed_model"].custom_properties["pushed"].int_value) == (
        "superseded",
        0,
    )
    assert not (Path(late.outputs["pushed_model"].uri) / "model.tflite").exists()
    assert current_statement(store, "digits", "production").sha256 == sha256_of(release.model)
    with pytest.raises(SupersededError, match=r"Channel 'production' of 'digits' .*newer run.*on_stale='skip'"):
        world.run(variant="dynamic_range", span=1, on_stale="fail")

    # The same span with a model that was recorded later: newer.
    again = world.run(variant="dynamic_range", span=2, reimport=True)
    assert (text(again, "push_status"), text(again, "channel_version")) == ("pushed", "2")
    order = current_statement(store, "digits", "production").order
    assert (order.span, order.created_ms) == (2, world.inputs()["model"].create_time_since_epoch)
