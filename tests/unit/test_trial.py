"""The first rows of each split, as files are tried on them in a child process."""

import platform

import numpy as np
import pytest

from tests.fakes import faulty_files, models
from tfx_mobile.errors import EvaluationError
from tfx_mobile.quantization_evaluator.scoring import trial
from tfx_mobile.records import TensorRecord, sha256_of
from tfx_mobile.tflite.preflight import preflight


def first_rows(folder, **splits):
    models.write_examples(folder, splits, num_shards=2)
    return trial.first_rows(
        {split: sorted(map(str, folder.glob(f"Split-{split}/*"))) for split in splits},
    )


def test_some_rows_of_every_split(tmp_path):
    one, other = models.rows(20, seed=1), models.rows(3, seed=2)
    rows = first_rows(tmp_path, eval=one, test=other)
    assert rows.count == trial.NUM_ROWS + 3
    # Two shards: every other row is in the first.
    expected = [*one[: 2 * trial.NUM_ROWS : 2], other[0], other[2], other[1]]
    np.testing.assert_allclose(rows.features["image"], models.images(expected))
    assert rows.features["label"].ravel().tolist() == [row["label"] for row in expected]


def test_missing_features_get_the_default_and_strings_stay_strings(tmp_path):
    rows = first_rows(
        tmp_path / "examples",
        eval=[{"word": "a", "count": [1, 2]}, {"count": [3]}, {"word": "bc", "count": [4, 5]}, {"word": "d"}],
    )
    inputs = (
        TensorRecord(name="word", dtype="string", shape=(-1, 1)),
        TensorRecord(name="count", dtype="int64", shape=(-1, 2)),
    )
    rows.save(tmp_path / "rows.npz", inputs, {"word": "-", "count": 9}, "v")
    with np.load(tmp_path / "rows.npz", allow_pickle=True) as saved:
        # The examples of the first shard come first.
        assert saved["word"].ravel().tolist() == [b"a", b"bc", b"-", b"d"]
        assert saved["count"].tolist() == [[1, 2], [4, 5], [3, 9], [9, 9]]
    with pytest.raises(EvaluationError, match="Feature 'word', an input of v, is missing in some examples"):
        rows.save(tmp_path / "more.npz", inputs, {"count": 9}, "v")


class TestTrying:
    def try_on(self, tmp_path, kind, image):
        data = faulty_files.make(kind)
        (tmp_path / "file").write_bytes(data)
        np.savez(tmp_path / "rows.npz", image=np.asarray(image, np.float32))
        return preflight(tmp_path / "file", sha256=sha256_of(data), examples=tmp_path / "rows.npz")

    @pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="only x86 traps this")
    def test_a_file_that_dies_of_real_data_is_found_out(self, tmp_path):
        assert self.try_on(tmp_path, "dies_by_sigfpe", np.zeros((3, 16))) is None
        failure = self.try_on(tmp_path, "dies_by_sigfpe", [*np.zeros((2, 16)), np.ones(16)])
        assert failure.code == "interpreter_crashed"
        assert "while the file ran on real examples: killed by SIGFPE" in failure.message

    @pytest.mark.parametrize("kind", ["gather_out_of_range", "zero_by_zero", "one_row_at_a_time"])
    def test_what_the_interpreter_answers_with_an_error_is_for_the_pass_to_count(self, tmp_path, kind):
        assert self.try_on(tmp_path, kind, np.full((3, 16), 2.0)) is None
