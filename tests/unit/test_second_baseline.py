"""The model in production: found, looked at, and what it means for verdicts."""

import platform
import re

import pytest

from tests.fakes import evaluations, faulty_files, models
from tests.fakes import releases as fake_releases
from tfx_mobile import FilesystemDestination, ProductionModel
from tfx_mobile.errors import EvaluationError
from tfx_mobile.quantization_evaluator.judging import second_baseline
from tfx_mobile.quantization_evaluator.scoring.trial import first_rows
from tfx_mobile.records import (
    EvaluationSummary,
    ProductionRecord,
    ReleaseManifest,
    SourceModelRecord,
    TensorRecord,
    Verdict,
    sha256_of,
)
from tfx_mobile.release_store import names, publishing, reading

ROWS = models.rows(20)


def release_of(data: bytes, **file) -> ReleaseManifest:
    """The manifest of a release of real bytes."""
    return ReleaseManifest(
        model="digits",
        variant="float32",
        recipe=evaluations.recipe("float32"),
        blob=names.blob_path("digits", sha256_of(data)),
        file=evaluations.file_record(data).model_copy(update=file),
        evaluation=EvaluationSummary(num_examples=1, splits=("eval",), baseline={}, variant={}),
        source_sha256=evaluations.SOURCE_SHA256,
        versions={},
    )


def source(*inputs: TensorRecord, classes: int = models.CLASSES) -> SourceModelRecord:
    return SourceModelRecord(
        sha256=evaluations.SOURCE_SHA256,
        uri="somewhere",
        signature="serving_default",
        parses_examples=False,
        route="direct",
        inputs=inputs or (TensorRecord(name="image", dtype="float32", shape=(-1, models.PIXELS)),),
        outputs=(TensorRecord(name="output_0", dtype="float32", shape=(-1, classes)),),
    )


class TestFinding:
    def spec(self, folder) -> ProductionModel:
        return ProductionModel(destination=FilesystemDestination(base_directory=str(folder)), model_name="digits")

    def publish(self, spec, data=b"") -> str:
        data = data or fake_releases.model_bytes()
        manifest = fake_releases.manifest_of(data, "digits")
        receipt = publishing.publish(spec.destination.open_store(), publishing.Push(manifest, data, spec.channel))
        return receipt.release_id

    def test_a_release(self, tmp_path):
        spec = self.spec(tmp_path)
        release_id = self.publish(spec)
        record, release = second_baseline.find(spec)
        assert release.model == fake_releases.model_bytes()
        assert record == ProductionRecord(
            address=str(tmp_path),
            model_name="digits",
            channel="production",
            status="compared",
            release_id=release_id,
            sha256=sha256_of(fake_releases.model_bytes()),
            channel_version=1,
        )

    @pytest.mark.parametrize("published", [False, True], ids=["no store", "another channel"])
    def test_nothing_was_published_yet(self, tmp_path, published):
        spec = self.spec(tmp_path / "store")
        if published:
            self.publish(spec.model_copy(update={"channel": "beta"}))
        record, release = second_baseline.find(spec)
        assert (record.status, release) == ("no_release", None)
        assert "Nothing was published" in record.message

    def test_a_store_that_cannot_be_read_is_an_error(self, tmp_path, monkeypatch):
        monkeypatch.setattr(second_baseline, "_FIRST_WAIT_SECONDS", 0.0)
        (tmp_path / "file").write_text("no folder")
        with pytest.raises(EvaluationError, match=r"production cannot be read.*Cannot read .*/file/channels"):
            second_baseline.find(self.spec(tmp_path / "file"))

    def test_a_store_that_can_be_read_again_is_read_again(self, tmp_path, monkeypatch):
        monkeypatch.setattr(second_baseline, "_FIRST_WAIT_SECONDS", 0.01)
        store, away = tmp_path / "store", tmp_path / "away"
        spec = self.spec(store)
        self.publish(spec)
        store.rename(away)
        store.write_text("not mounted yet")

        def come_back(state):
            store.unlink()
            away.rename(store)
            return 0.0

        monkeypatch.setattr(second_baseline.tenacity, "wait_exponential", lambda **_: come_back)
        assert second_baseline.find(spec)[0].status == "compared"

    @pytest.mark.parametrize("path", ["blobs", "releases", "channels"])
    def test_a_damaged_store_is_recorded(self, tmp_path, path):
        spec = self.spec(tmp_path)
        self.publish(spec)
        (damaged,) = [p for p in (tmp_path / path).rglob("*.*") if p.is_file() and p.name != ".lock"]
        damaged.write_bytes(damaged.read_bytes()[:-9])
        record, release = second_baseline.find(spec)
        assert (record.status, release) == ("damaged", None)
        assert str(damaged) in record.message


class TestLookingAtIt:
    @pytest.fixture(scope="class")
    def rows(self, tmp_path_factory):
        root = tmp_path_factory.mktemp("rows")
        models.write_examples(root, {"eval": ROWS}, num_shards=1)
        return first_rows({"eval": [str(path) for path in root.rglob("*.gz")]})

    def inspect(self, tmp_path, rows, data, today=None):
        release = reading.Release("0" * 64, release_of(data), data, 1)
        return second_baseline.inspect(release, today or source(), rows, tmp_path)

    def test_one_that_can_be_compared(self, tmp_path, rows):
        signature, problem = self.inspect(tmp_path, rows, faulty_files.make("wrong"))
        assert (signature.key, problem) == ("serving_default", "")

    def test_it_may_take_other_features_than_todays_model(self, tmp_path, rows):
        today = source(TensorRecord(name="something_new", dtype="int64", shape=(-1, 1)))
        signature, problem = self.inspect(tmp_path, rows, faulty_files.make("wrong"), today)
        assert ([t.name for t in signature.inputs], problem) == (["image"], "")

    @pytest.mark.parametrize(
        ("kind", "names", "classes", "message"),
        [
            ("wrong", {"input_name": "picture"}, 3, "No feature for input 'picture'.*the examples have: image, label"),
            ("wrong", {"output": "scores"}, 3, "outputs are scores, the float model's output_0"),
            ("wrong", {}, 5, r"shape \[-1, 3\], the float model's \[-1, 5\]"),
            pytest.param(
                "dies_by_sigfpe",
                {},
                3,
                "SIGFPE",
                marks=pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="only x86 traps this"),
            ),
        ],
    )
    def test_one_that_cannot(self, tmp_path, rows, kind, names, classes, message):
        data = faulty_files.make(kind, **names)
        signature, problem = self.inspect(tmp_path, rows, data, source(classes=classes))
        assert signature is None
        assert re.search(message, problem)

    def test_one_that_is_no_model(self, tmp_path, rows):
        signature, problem = self.inspect(tmp_path, rows, b"\x00" * 100)
        assert signature is None
        assert "Not a .tflite file" in problem


class TestDefaults:
    def defaults(self, recorded, today):
        data = faulty_files.make("wrong")
        (signature,) = evaluations.file_record(data).signatures
        inputs = tuple(t.model_copy(update={"default": recorded}) for t in signature.inputs)
        manifest = release_of(data, signatures=(signature.model_copy(update={"inputs": inputs}),))
        return dict(second_baseline.defaults(reading.Release("0" * 64, manifest, data, 1), signature, source(today)))

    def test_its_own_come_first(self):
        image = TensorRecord(name="image", dtype="float32", shape=(-1, 16), default=1.0)
        assert self.defaults(0.5, image) == {"image": 0.5}
        assert self.defaults(None, image) == {"image": 1.0}

    def test_those_of_a_model_with_other_inputs_do_not_hold(self):
        assert self.defaults(None, TensorRecord(name="image", dtype="int64", shape=(-1, 16), default=1)) == {}
        assert self.defaults(None, TensorRecord(name="picture", dtype="float32", shape=(-1, 16), default=1.0)) == {}


@pytest.mark.parametrize(
    ("status", "policy", "passed", "reasons", "cautions"),
    [
        ("compared", "block", True, [], []),
        ("no_release", "block", True, [], []),
        ("not_comparable", "block", False, ["production_not_comparable"], []),
        ("not_comparable", "skip", True, [], ["production_not_comparable"]),
        ("damaged", "block", False, ["production_damaged"], []),
        ("damaged", "skip", False, ["production_damaged"], []),
    ],
)
def test_what_it_means_for_a_verdict(status, policy, passed, reasons, cautions):
    record = ProductionRecord(address="/x", model_name="digits", channel="production", status=status, message="Why.")
    (verdict,) = second_baseline.judge([Verdict(variant="v", passed=True)], record, policy)
    assert verdict.passed == passed
    assert [reason.code for reason in verdict.reasons] == reasons
    assert [reason.code for reason in verdict.cautions] == cautions
    assert all("Why." in reason.message for reason in (*verdict.reasons, *verdict.cautions))
