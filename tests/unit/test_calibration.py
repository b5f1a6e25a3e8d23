from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.fakes import models
from tfx_mobile.errors import CalibrationError
from tfx_mobile.recipes import CalibrationSpec
from tfx_mobile.records import TensorRecord
from tfx_mobile.tflite_converter import calibration

RECORDS = [models.serialize(row) for row in models.rows(50)]
IMAGE = TensorRecord(name="image", dtype="float32", shape=(-1, 16))


def _write(folder: Path, *shards: list[bytes]) -> list[str]:
    paths = [str(folder / f"{index}.gz") for index in range(len(shards))]
    for path, records in zip(paths, shards, strict=True):
        models.write_records(path, records)
    return paths


def _samples(rows: list[dict[str, Any]], *inputs: TensorRecord) -> dict[str, Any]:
    return calibration.samples([models.serialize(row) for row in rows], calibration.raw_parser(inputs), inputs)


def test_draw_does_not_depend_on_files_or_their_order(tmp_path: Path) -> None:
    spec = CalibrationSpec(num_samples=10, seed=3)
    one = calibration.draw(_write(tmp_path / "one", RECORDS), spec)
    three = calibration.draw(_write(tmp_path / "three", RECORDS[30:], RECORDS[:7], RECORDS[7:30]), spec)
    assert one == three
    assert (len(one.records), one.num_examples) == (10, 50)
    assert set(one.records) < set(RECORDS)


def test_seed_changes_the_draw_and_a_larger_draw_begins_with_the_smaller(tmp_path: Path) -> None:
    files = _write(tmp_path, RECORDS)
    ten = calibration.draw(files, CalibrationSpec(num_samples=10)).records
    assert calibration.draw(files, CalibrationSpec(num_samples=10, seed=1)).records != ten
    assert calibration.draw(files, CalibrationSpec(num_samples=20)).records[:10] == ten


def test_small_split_gives_all_and_equal_examples_count_once(tmp_path: Path) -> None:
    drawn = calibration.draw(_write(tmp_path, RECORDS[:4], RECORDS[:4]), CalibrationSpec(num_samples=100))
    assert sorted(drawn.records) == sorted(RECORDS[:4])
    assert drawn.num_examples == 8


def test_split_without_examples(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"Split 'nights' holds no examples .*CalibrationSpec\(split="):
        calibration.draw(_write(tmp_path, []), CalibrationSpec(split="nights"))


def test_damaged_file(tmp_path: Path) -> None:
    (path,) = _write(tmp_path, RECORDS)
    data = bytearray(Path(path).read_bytes())
    data[len(data) // 2] ^= 0xFF
    Path(path).write_bytes(data)
    with pytest.raises(CalibrationError, match="Cannot read the examples of split 'train'"):
        calibration.draw([path], CalibrationSpec())


def test_values_have_the_inputs_types_and_shapes() -> None:
    square = TensorRecord(name="image", dtype="float32", shape=(-1, 4, 4))
    label = TensorRecord(name="label", dtype="int32", shape=(-1, 1))
    rows = models.rows(5)
    values = _samples(rows, square, label)
    np.testing.assert_array_equal(values["image"], models.images(rows).reshape(5, 4, 4))
    assert values["label"].dtype == np.int32
    assert values["label"].tolist() == [[0], [1], [2], [0], [1]]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_not_finite(bad: float) -> None:
    rows = models.rows(5)
    rows[3]["image"][7] = bad
    with pytest.raises(
        CalibrationError, match="Input 'image' has NaN or infinite values in 1 of 5 calibration examples"
    ):
        _samples(rows, IMAGE)


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"picture": np.zeros(16)}, "image.* required but could not be found.*examples hold picture float x 16"),
        ({"image": np.zeros(15)}, "image.*15.*examples hold image float x 15"),
        ({"image": np.zeros(16, np.int64)}, "Data types don't match.*examples hold image int64 x 16"),
    ],
)
def test_examples_that_do_not_fit(row: dict[str, Any], problem: str) -> None:
    with pytest.raises(CalibrationError, match=rf"(?s)do not fit the model's inputs: .*{problem}.*Transform's"):
        _samples([row], IMAGE)


def test_parser_that_gives_another_shape_or_type() -> None:
    # The middle one, a sample without its batch dimension, TensorFlow's converter would take without a word.
    for values in (np.zeros((1, 8), np.float32), np.zeros(16, np.float32), np.zeros((1, 16), np.float64)):
        with pytest.raises(CalibrationError, match="Calibration values of input 'image' are float"):
            calibration.samples([b""], lambda _, values=values: {"image": values}, [IMAGE])  # type: ignore[misc]


def test_input_of_open_size() -> None:
    with pytest.raises(CalibrationError, match=r"'text' has shape \[-1, -1\]"):
        calibration.raw_parser([TensorRecord(name="text", dtype="int32", shape=(-1, -1))])


def test_batches_are_filled_up_and_dynamic_means_one_row() -> None:
    values = {"x": np.arange(5)}
    assert [batch["x"].tolist() for batch in calibration.batches(values, 3)] == [[0, 1, 2], [3, 4, 0]]
    assert [batch["x"].tolist() for batch in calibration.batches(values, "dynamic")] == [[0], [1], [2], [3], [4]]


def test_samples_survive_saving(tmp_path: Path) -> None:
    values: dict[str, Any] = {"petal length/cm": np.ones((2, 3), np.float32), "file": np.zeros((2, 1), np.int64)}
    calibration.save(tmp_path / "samples.npz", values)
    loaded = calibration.load(tmp_path / "samples.npz")
    assert sorted(loaded) == sorted(values)
    for name, array in values.items():
        np.testing.assert_array_equal(loaded[name], array)


def test_description() -> None:
    spec = CalibrationSpec()
    values = {"b": np.array([[1.0, -2.0]]), "a": np.array([[True]])}
    record = calibration.describe(spec, calibration.Draw((b"ab",), 7), values)
    assert [(r.name, r.minimum, r.maximum) for r in record.ranges] == [("b", -2.0, 1.0)]
    assert record.sha256 != calibration.describe(spec, calibration.Draw((b"a", b"b"), 7), values).sha256
