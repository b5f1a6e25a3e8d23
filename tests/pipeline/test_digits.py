"""The whole product: one workspace, four runs, real digits, real components, two runners."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from pipelines import beam, local
from pipelines.digits import data, pipeline
from pipelines.lineage import NodeRun, latest_run
from tfx_mobile import FilesystemDestination
from tfx_mobile.artifacts import BLESSING_FILE, RECORD_FILE, REPORT_FILE
from tfx_mobile.commands.trace import trace
from tfx_mobile.device_client import DeviceClient
from tfx_mobile.records import EvaluationRecord, TracedExecution, TraceRecord, VariantManifest
from tfx_mobile.release_store import reading
from tfx_mobile.tflite.runtime import SignatureRunner

pytestmark = [
    pytest.mark.slow,
    # TFX, TFMA and Beam warn on every run; what matters here is what our own modules do.
    pytest.mark.filterwarnings("ignore"),
]

NODES = (
    "ImportExampleGen",
    "StatisticsGen",
    "SchemaGen",
    "ExampleValidator",
    "Transform",
    "Trainer",
    "Evaluator",
    "TFLiteConverter",
    "QuantizationEvaluator",
    "MobilePusher",
)


QAT_RECIPES = ("float32", "integer_only_int8", "qat_full_integer", "qat_integer_only_int8")


@dataclass(frozen=True)
class Snapshot:
    """What one run left behind."""

    nodes: dict[str, NodeRun]
    evaluation: EvaluationRecord
    store_files: dict[str, bytes]
    resolved: reading.Release | None

    @property
    def pushed(self):
        return self.nodes["MobilePusher"].outputs["pushed_model"].custom_properties


def snapshot(workspace: Path) -> Snapshot:
    nodes = {node: latest_run(pipeline.metadata_path(workspace), pipeline.NAME, node) for node in NODES}
    blessing = Path(nodes["QuantizationEvaluator"].outputs["blessing"].uri) / BLESSING_FILE
    root = pipeline.release_store(workspace)
    files = {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}
    has_channel = any(name.startswith("channels/") and name.endswith(".json") for name in files)
    store = FilesystemDestination(base_directory=str(root)).open_store()
    return Snapshot(
        nodes=nodes,
        evaluation=EvaluationRecord.read(blessing),
        store_files=files,
        resolved=reading.resolve(store, pipeline.NAME, pipeline.CHANNEL) if has_channel else None,
    )


@dataclass(frozen=True)
class Runs:
    workspace: Path
    first: Snapshot
    again: Snapshot
    harmed: Snapshot
    qat: Snapshot
    retrained: Snapshot


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Runs:
    workspace = tmp_path_factory.mktemp("digits")
    local.run(workspace)
    first = snapshot(workspace)
    local.run(workspace)
    again = snapshot(workspace)
    # The same data and code but for one outlier channel; only integer recipes, so that nothing unharmed is left.
    beam.run(
        workspace,
        run_fn="tests.fakes.outlier_digits.run_fn",
        recipes=("full_integer", "integer_only_int8"),
    )
    harmed = snapshot(workspace)
    # The first run's model, from the cache, with its twin.
    local.run(workspace, **{**pipeline.QAT, "recipes": QAT_RECIPES})
    qat = snapshot(workspace)
    beam.run(workspace, train_steps=620)
    return Runs(workspace, first, again, harmed, qat, snapshot(workspace))


class TestFirstRun:
    def test_every_recipe_becomes_a_variant(self, runs):
        uri = Path(runs.first.nodes["TFLiteConverter"].outputs["variants"].uri)
        manifest = VariantManifest.read(uri / "manifest.json")
        assert [v.name for v in manifest.converted()] == list(pipeline.RECIPES)
        assert manifest.source.parses_examples
        assert manifest.source.route == "resigned"
        assert manifest.calibration.num_samples == 200

    def test_the_undamaged_model_is_blessed_and_pushed(self, runs):
        record = runs.first.evaluation
        assert record.winner is not None
        passed = [v.variant for v in record.verdicts if v.passed]
        smallest = min(passed, key=lambda name: record.variant(name).file.size_bytes)
        assert record.winner == smallest
        assert runs.first.pushed["pushed"].int_value == 1
        assert runs.first.pushed["push_status"].string_value == "pushed"

    def test_the_release_holds_the_very_bytes_that_were_judged(self, runs):
        winner = runs.first.evaluation.verdict(runs.first.evaluation.winner)
        assert runs.first.resolved.manifest.file.sha256 == winner.sha256
        assert runs.first.pushed["sha256"].string_value == winner.sha256
        assert runs.first.pushed["pushed_version"].string_value == runs.first.resolved.release_id
        assert runs.first.resolved.channel_version == 1

    def test_a_device_reads_digits_with_it(self, runs):
        images, labels = data.unseen()
        probabilities = SignatureRunner(runs.first.resolved.model).run({data.IMAGE: images})["probabilities"]
        assert np.mean(np.argmax(probabilities, axis=1) == labels) > 0.85

    def test_the_evaluation_opens_in_tfma_and_has_a_report(self, runs):
        import tensorflow_model_analysis as tfma

        uri = runs.first.nodes["QuantizationEvaluator"].outputs["evaluation"].uri
        result = tfma.load_eval_result(uri, model_name="float32")
        assert len(result.slicing_metrics) == 11  # overall and ten digits
        report = (Path(uri) / REPORT_FILE).read_text()
        assert all(name in report for name in pipeline.RECIPES)
        assert not re.search(r'src=|href="[^#]|url\(', report)  # rules of profiles name their sources, as text


class TestSecondRun:
    def test_all_work_on_the_model_is_served_from_the_cache(self, runs):
        # Both evaluators have something to compare with for the first time, so they and the pusher run.
        cached = {node: run.cached for node, run in runs.again.nodes.items()}
        evaluated = ("Evaluator", "QuantizationEvaluator", "MobilePusher")
        assert cached == {node: node not in evaluated for node in NODES}

    def test_the_variants_are_compared_with_what_the_first_run_released(self, runs):
        assert runs.first.evaluation.production.status == "no_release"
        production = runs.again.evaluation.production
        assert (production.status, production.release_id) == ("compared", runs.first.resolved.release_id)
        metrics = {model.model: model.slices for model in runs.again.evaluation.models}
        # The released file is among the variants, with the same bytes.
        for released, variant in zip(metrics["production"], metrics[runs.first.resolved.manifest.variant], strict=True):
            assert released.slice == variant.slice
            assert released.metrics == pytest.approx(variant.metrics, rel=1e-6)

    def test_the_push_is_unchanged_and_writes_nothing(self, runs):
        assert runs.again.pushed["push_status"].string_value == "unchanged"
        assert runs.again.store_files == runs.first.store_files


class TestHarmedModel:
    def test_its_float_model_is_as_good_and_passes_the_stock_evaluator(self, runs):
        blessing = runs.harmed.nodes["Evaluator"].outputs["blessing"].custom_properties
        assert blessing["blessed"].int_value == 1

    def test_no_variant_is_blessed_and_the_reasons_name_threshold_and_slice(self, runs):
        record = runs.harmed.evaluation
        assert record.winner is None
        for verdict in record.verdicts:
            overall = [r for r in verdict.reasons if r.code == "threshold" and r.slice == "overall"]
            assert any(r.metric == "sparse_categorical_accuracy" and r.limit for r in overall)
            assert any(r.slice.startswith("label:") for r in verdict.reasons)
        uri = Path(runs.harmed.nodes["QuantizationEvaluator"].outputs["evaluation"].uri)
        report = (uri / REPORT_FILE).read_text()
        assert "label:" in report
        assert record.verdicts[0].reasons[0].metric in report

    def test_nothing_is_pushed(self, runs):
        assert runs.harmed.pushed["pushed"].int_value == 0
        assert runs.harmed.pushed["push_status"].string_value == "not_blessed"
        assert runs.harmed.store_files == runs.first.store_files

    def test_the_blessed_model_artifact_says_so_and_holds_no_model(self, runs):
        uri = Path(runs.harmed.nodes["QuantizationEvaluator"].outputs["blessed_model"].uri)
        assert [p.name for p in uri.iterdir()] == [RECORD_FILE]
        assert json.loads((uri / RECORD_FILE).read_text())["blessed"] is False


class TestQuantizationAwareTwin:
    """Float, post-training and quantization-aware training side by side."""

    def test_the_twin_is_converted_without_calibration(self, runs):
        converter = runs.qat.nodes["TFLiteConverter"]
        manifest = VariantManifest.read(Path(converter.outputs["variants"].uri) / "manifest.json")
        assert [v.name for v in manifest.converted()] == list(QAT_RECIPES)
        assert [v.ranges_from for v in manifest.variants] == [None, "calibration", "training", "training"]
        assert manifest.source.uri == runs.first.nodes["Trainer"].outputs["model"].uri
        trainer = latest_run(pipeline.metadata_path(runs.workspace), pipeline.NAME, "qat_trainer")
        assert trainer.inputs["base_model"].uri == manifest.source.uri
        assert manifest.qat_source.uri == trainer.outputs["model"].uri
        assert manifest.qat_source.parses_examples
        integer_only = manifest.variants[-1].file
        assert not any(op.float_count for op in integer_only.ops)

    def test_its_variants_are_judged_against_the_float_model(self, runs):
        record = runs.qat.evaluation
        accuracy = {m.model: m.slices[0].metrics["sparse_categorical_accuracy"] for m in record.models}
        first = runs.first.evaluation.models[0]
        assert accuracy["saved_model"] == first.slices[0].metrics["sparse_categorical_accuracy"]
        for name in QAT_RECIPES[2:]:
            assert accuracy[name] > accuracy["saved_model"] - 0.03
            assert record.verdict(name).sha256 == record.variant(name).file.sha256
        assert record.winner is not None
        report = Path(runs.qat.nodes["QuantizationEvaluator"].outputs["evaluation"].uri) / REPORT_FILE
        assert report.read_text().count("<small>quantization-aware training</small>") == 2

    def test_it_is_no_float_baseline(self, runs):
        # The twin is the newest Model in the store when the next run resolves its baseline.
        twin = latest_run(pipeline.metadata_path(runs.workspace), pipeline.NAME, "qat_trainer").outputs["model"]
        baseline = runs.retrained.nodes["Evaluator"].inputs["baseline_model"]
        assert twin.id > baseline.id
        assert baseline.id == runs.harmed.nodes["Trainer"].outputs["model"].id


class TestRetrainedModel:
    def test_the_stock_evaluator_still_finds_the_right_float_baseline(self, runs):
        # The latest blessed float model is the harmed run's: our own .tflite artifacts must not get in its way.
        baseline = runs.retrained.nodes["Evaluator"].inputs["baseline_model"]
        assert baseline.id == runs.harmed.nodes["Trainer"].outputs["model"].id
        # The second run's model is its own baseline, and ML Metadata keeps only one of the two input events.
        blessing = runs.again.nodes["Evaluator"].outputs["blessing"].custom_properties
        assert blessing["baseline_model_id"].int_value == runs.first.nodes["Trainer"].outputs["model"].id

    def test_it_becomes_the_second_release(self, runs):
        assert runs.retrained.pushed["push_status"].string_value == "pushed"
        assert runs.retrained.resolved.channel_version == 2
        assert runs.retrained.pushed["previous_release_id"].string_value == runs.first.resolved.release_id


class TestTrace:
    """From the file that devices have back to the data."""

    @pytest.fixture(scope="class")
    def traced(self, runs) -> TraceRecord:
        sha256 = runs.first.resolved.manifest.file.sha256
        store = pipeline.release_store(runs.workspace)
        blob = store / "blobs" / pipeline.NAME / f"{sha256}.tflite"
        arguments = [blob, "--metadata", pipeline.metadata_path(runs.workspace), "--at", store, "--json"]
        done = CliRunner().invoke(trace, [str(argument) for argument in arguments])
        assert done.exit_code == 0, done.output
        return TraceRecord.from_json(done.stdout)

    def test_both_runs_that_pushed_it_are_found_and_what_they_read(self, runs, traced):
        pushed = {run.nodes["MobilePusher"].outputs["pushed_model"].id for run in (runs.first, runs.again)}
        assert pushed <= set(traced.graph.starts)
        assert traced.target == runs.first.resolved.manifest.file.sha256
        assert [release.release_id for release in traced.releases] == [runs.first.resolved.release_id]
        made_by = {event.artifact: event.execution for event in traced.graph.events if event.direction == "output"}
        nodes = {execution.id: execution.node for execution in traced.graph.executions}
        for node, key in (
            ("ImportExampleGen", "examples"),
            ("Transform", "transform_graph"),
            ("Trainer", "model"),
            ("TFLiteConverter", "variants"),
            ("QuantizationEvaluator", "evaluation"),
            ("Evaluator", "blessing"),
        ):
            assert nodes[made_by[runs.first.nodes[node].outputs[key].id]] == node

    def test_work_is_attributed_to_the_run_that_did_it_not_to_those_that_had_it_from_the_cache(self, runs, traced):
        made_by = {event.artifact: event.execution for event in traced.graph.events if event.direction == "output"}
        executions = {execution.id: execution for execution in traced.graph.executions}

        def maker(run: Snapshot, node: str, key: str) -> TracedExecution:
            return executions[made_by[run.nodes[node].outputs[key].id]]

        training = maker(runs.again, "Trainer", "model")
        first, again = (maker(run, "MobilePusher", "pushed_model") for run in (runs.first, runs.again))
        assert (training.run, training.state) == (first.run, "complete")
        assert again.run != first.run

    def test_what_came_later_is_left_out(self, runs, traced):
        # The harmed model is not: a later run that pushed the same bytes had it as the stock Evaluator's baseline.
        later = {artifact.id for node in runs.retrained.nodes.values() for artifact in node.outputs.values()}
        later -= {artifact.id for node in runs.qat.nodes.values() for artifact in node.outputs.values()}
        assert runs.retrained.nodes["Trainer"].outputs["model"].id in later
        assert not later & {artifact.id for artifact in traced.graph.artifacts}


class TestDemo:
    """What `make demo` prints, on top of the runs before: the first run's model comes from the cache."""

    @pytest.fixture(scope="class")
    def printed(self, runs) -> str:
        command = [sys.executable, "-m", "pipelines.demo", "--output", str(runs.workspace)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == 0, done.stdout
        assert done.stderr == ""
        return done.stdout

    def test_every_step_is_reported_and_nothing_else_is_between(self, printed):
        steps = [line.split()[1] for line in printed.splitlines() if line.startswith("  ✓ ")]
        assert set(steps) == {*NODES, "latest_blessed_model_resolver"}
        assert "Warning" not in printed

    def test_the_table_has_a_verdict_for_the_float_model_and_each_variant(self, printed):
        rows = {line.split()[0]: line for line in printed.splitlines() if line.startswith(" ") and line.strip()}
        assert "float baseline" in rows["SavedModel"]
        assert [name for name in pipeline.RECIPES if "blessed" in rows[name]] == [
            next(line.split()[1].rstrip(",") for line in printed.splitlines() if line.startswith("Blessed"))
        ]

    def test_report_and_release_can_be_found_and_a_device_uses_it(self, runs, printed):
        report = next(line.split()[1] for line in printed.splitlines() if line.startswith("Report"))
        assert Path(report).is_file()
        assert "Release" in printed
        assert "verified, runs on" in printed
        fetched = next(line.split() for line in printed.splitlines() if line.startswith("Fetch"))
        assert fetched[1:4] == ["updated", "over", "HTTP:"]
        assert (fetched[4], fetched[5]) == ("3", "requests,")
        store = pipeline.release_store(runs.workspace)
        device = DeviceClient(store, pipeline.NAME, pipeline.CHANNEL, directory=runs.workspace / "device").current()
        release = reading.resolve(
            FilesystemDestination(base_directory=store).open_store(), pipeline.NAME, pipeline.CHANNEL
        )
        assert (device.version, device.sha256) == (release.channel_version, release.manifest.file.sha256)
        correct = next(line.split()[0] for line in printed.splitlines() if "never saw are read correctly" in line)
        assert int(correct) > 80
