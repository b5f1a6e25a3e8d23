"""The model in production as a second baseline: real release stores, real files, real passes."""

from pathlib import Path

import pytest

from tests.fakes import evaluations, faulty_files, models
from tests.unit.test_second_baseline import release_of
from tfx_mobile import FilesystemDestination, ProductionModel, QuantizationEvaluator
from tfx_mobile.quantization_evaluator.eval_config import to_json
from tfx_mobile.records import EvaluationRecord, sha256_of
from tfx_mobile.release_store.publishing import Push
from tfx_mobile.release_store.publishing import publish as publish_push

ACCURACY = "sparse_categorical_accuracy"
ROWS = models.rows(60, seed=2)


class World:
    """A float model, two variants of it, and examples."""

    def __init__(self, tmp_path_factory):
        root = tmp_path_factory.mktemp("production")
        folder = models.raw_model(tmp_path_factory)
        saved_model = folder / "Format-Serving"
        self.files = {
            "float32": evaluations.convert(saved_model, "float32"),
            "dynamic_range": evaluations.convert(saved_model, "dynamic_range"),
        }
        self.inputs = {
            "examples": models.write_examples(root / "examples", {"eval": ROWS}),
            "model": models.model_artifact(folder),
            "variants": evaluations.write_variants(root / "variants", self.files, saved_model),
        }

    def run(self, root, spec, config):
        properties = {"eval_config": to_json(config), "production": spec.model_dump_json()}
        outputs = evaluations.execute(self.inputs, properties, root)
        return outputs, EvaluationRecord.read(Path(outputs["evaluation"].uri) / "record.json")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory)


def production(folder, **policy) -> ProductionModel:
    destination = FilesystemDestination(base_directory=str(folder))
    return ProductionModel(destination=destination, model_name="digits", **policy)


def publish(spec, data):
    return publish_push(spec.destination.open_store(), Push(release_of(data), data, spec.channel))


def overall(record, model):
    (metrics,) = [m.slices[0].metrics for m in record.models if m.model == model]
    return metrics


def test_it_is_scored_on_the_same_examples_and_never_gated_itself(world, tmp_path):
    import tensorflow_model_analysis as tfma

    spec = production(tmp_path / "store")
    released = faulty_files.make("wrong")
    receipt = publish(spec, released)
    # It misses both thresholds by far, and nobody is rejected for that.
    outputs, record = world.run(tmp_path, spec, evaluations.eval_config(floor=0.9, drop=0.02))
    assert [verdict.passed for verdict in record.verdicts] == [True, True]
    assert record.blessed
    found = record.production
    assert (found.status, found.message) == ("compared", "")
    assert (found.release_id, found.sha256, found.channel_version) == (receipt.release_id, sha256_of(released), 1)
    assert [model.model for model in record.models] == ["saved_model", "float32", "dynamic_range", "production"]
    hits = (-models.images(ROWS)[:, :3]).argmax(axis=1) == [row["label"] for row in ROWS]
    assert overall(record, "production")[ACCURACY] == pytest.approx(hits.mean())
    assert hits.mean() < 0.7
    assert {split.variant for split in record.error_splits} == {"float32", "dynamic_range"}
    result = tfma.load_eval_result(outputs["evaluation"].uri, model_name="production")
    assert result.get_metrics_for_slice(())[ACCURACY]["doubleValue"] == pytest.approx(hits.mean())
    assert not (Path(outputs["evaluation"].uri) / "released_model").exists()


def test_one_that_fails_on_the_examples_is_not_compared(world, tmp_path):
    """By policy that blesses nothing, or is a caution; it is found out in the pass, and harms no variant's metrics."""
    spec = production(tmp_path / "store")
    publish(spec, faulty_files.make("gather_out_of_range"))
    failing = sum(map(faulty_files.fails_on, ROWS))
    assert 0 < failing < len(ROWS)
    for policy in ("block", "skip"):
        (tmp_path / policy).mkdir()
        again = spec.model_copy(update={"if_not_comparable": policy})
        _, record = world.run(tmp_path / policy, again, evaluations.eval_config())
        assert record.production.status == "not_comparable"
        assert f"fails on {failing} of 60 examples, on one of them with: gather" in record.production.message
        assert [model.model for model in record.models] == ["saved_model", "float32", "dynamic_range"]
        assert overall(record, "float32")[ACCURACY] > 0.9
        assert record.blessed == (policy == "skip")
        for verdict in record.verdicts:
            # That 60 examples do not decide about the change is a caution of its own.
            found = verdict.cautions if policy == "skip" else verdict.reasons
            (noted,) = [reason for reason in found if reason.code != "insufficient_data"]
            assert noted.code == "production_not_comparable"
            assert "if_not_comparable" in noted.message


def test_it_is_scored_when_no_variant_can_run(world, tmp_path):
    spec = production(tmp_path / "store")
    publish(spec, world.files["float32"])
    broken = {"float32": b"\x00" * 64}
    saved_model = Path(world.inputs["model"].uri) / "Format-Serving"
    variants = evaluations.write_variants(tmp_path / "variants", broken, saved_model)
    properties = {"eval_config": to_json(evaluations.eval_config()), "production": spec.model_dump_json()}
    outputs = evaluations.execute({**world.inputs, "variants": variants}, properties, tmp_path)
    record = EvaluationRecord.read(Path(outputs["evaluation"].uri) / "record.json")
    assert record.production.status == "compared"
    assert [model.model for model in record.models] == ["saved_model", "production"]
    assert overall(record, "production")[ACCURACY] == pytest.approx(overall(record, "saved_model")[ACCURACY])
    assert [reason.code for reason in record.verdict("float32").reasons] == ["corrupt"]


def test_nothing_is_blessed_beside_a_damaged_release(world, tmp_path):
    spec = production(tmp_path / "store", if_not_comparable="skip")
    publish(spec, world.files["float32"])
    (blob,) = (tmp_path / "store" / "blobs").rglob("*.tflite")
    blob.write_bytes(world.files["dynamic_range"])
    _, record = world.run(tmp_path, spec, evaluations.eval_config())
    assert record.production.status == "damaged"
    assert not record.blessed
    assert [[reason.code for reason in v.reasons] for v in record.verdicts] == [["production_damaged"]] * 2


def test_the_cache_knows_which_release_is_in_production(world, tmp_path):
    """Through TFX's own runner: a run is served from the cache until the channel moves."""
    from tfx.dsl.components.common.importer import Importer
    from tfx.orchestration import metadata
    from tfx.orchestration.local.local_dag_runner import LocalDagRunner
    from tfx.orchestration.pipeline import Pipeline

    from pipelines.lineage import latest_run

    spec = production(tmp_path / "store")
    database = tmp_path / "metadata.sqlite"

    def run() -> tuple[str, str]:
        importers = {}
        for key, artifact in world.inputs.items():
            properties = {"split_names": artifact.split_names} if key == "examples" else {}
            importers[key] = Importer(
                source_uri=artifact.uri, artifact_type=type(artifact), properties=properties
            ).with_id(key)
        evaluator = QuantizationEvaluator(
            **{key: importer.outputs["result"] for key, importer in importers.items()},
            eval_config=evaluations.eval_config(),
            production=spec,
        )
        LocalDagRunner().run(
            Pipeline(
                pipeline_name="cached",
                pipeline_root=str(tmp_path / "root"),
                components=[*importers.values(), evaluator],
                enable_cache=True,
                metadata_connection_config=metadata.sqlite_metadata_connection_config(str(database)),
                beam_pipeline_args=evaluations.IN_MEMORY,
            )
        )
        uri = latest_run(database, "cached", "QuantizationEvaluator").outputs["evaluation"].uri
        return uri, EvaluationRecord.read(Path(uri) / "record.json").production.status

    first = run()
    assert first[1] == "no_release"
    assert run() == first
    publish(spec, world.files["float32"])
    second = run()
    assert second[0] != first[0]
    assert second[1] == "compared"
