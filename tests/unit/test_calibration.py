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


# --- equal shares -----------------------------------------------------------------------------------------------------


def _labelled(counts: dict[Any, int]) -> list[bytes]:
    """Examples with the label or, for None, without; all different."""
    rows = [
        ({} if label is None else {"label": label}) | {"x": [float(i)]} for label, n in counts.items() for i in range(n)
    ]
    return [models.serialize(row) for row in rows]


def _shares(drawn: calibration.Draw) -> dict[str | None, int]:
    assert drawn.strata is not None
    return {value.value: value.num_samples for value in drawn.strata.values}


@pytest.mark.parametrize(
    ("counts", "size", "shares"),
    [
        ({0: 500, 1: 40, 2: 40}, 30, {"0": 10, "1": 10, "2": 10}),
        ({0: 500, 1: 3, 2: 40}, 30, {"0": 14, "1": 3, "2": 13}),
        ({0: 500, 1: 3, 2: 5}, 30, {"0": 22, "1": 3, "2": 5}),
        ({"night": 60, "day": 700, None: 2}, 12, {"night": 5, "day": 5, None: 2}),
        ({0.5: 4, 1.5: 4}, 100, {"0.5": 4, "1.5": 4}),
        ({i: 5 for i in range(9)}, 4, None),
    ],
)
def test_strata_get_equal_shares_as_far_as_they_go(
    tmp_path: Path, counts: dict[Any, int], size: int, shares: dict[str | None, int] | None
) -> None:
    records = _labelled(counts)
    spec = CalibrationSpec(num_samples=size, stratify_by="label")
    drawn = calibration.draw(_write(tmp_path / "a", records), spec)
    assert len(set(drawn.records)) == len(drawn.records) == min(size, len(records))
    found = _shares(drawn)
    if shares is None:
        assert sorted(found.values(), reverse=True)[:4] == [1, 1, 1, 1]
    else:
        # Which of the larger strata gets what is left over depends on the examples.
        assert sorted(found.values()) == sorted(shares.values())
        assert set(found) == set(shares)
        assert [found[value] for value in shares if shares[value] < size // len(shares)] == [
            shares[value] for value in shares if shares[value] < size // len(shares)
        ]
    assert drawn.strata is not None
    assert {v.value: v.num_examples for v in drawn.strata.values} == {
        None if label is None else str(label): n for label, n in counts.items()
    }
    rng = np.random.default_rng(0)
    shuffled = [records[i] for i in rng.permutation(len(records))]
    assert (
        calibration.draw(_write(tmp_path / "b", shuffled[:7], shuffled[7:] + shuffled[:5]), spec).records
        == drawn.records
    )


def test_stratified_sample_is_the_smallest_hashes_of_each_stratum(tmp_path: Path) -> None:
    """Against drawing from each stratum alone, which keeps everything."""
    counts = {0: 3000, 1: 200, 2: 30}
    spec = CalibrationSpec(num_samples=60, seed=4)
    expected = set()
    for label, count in counts.items():
        alone = _labelled({label: count})
        expected.update(calibration.draw(_write(tmp_path / str(label), alone), spec).records[:20])
    files = _write(tmp_path / "all", _labelled(counts))
    drawn = calibration.draw(files, spec.model_copy(update={"stratify_by": "label"}))
    assert set(drawn.records) == expected


def test_memory_is_for_the_sample_only() -> None:
    sample = calibration._StratifiedSample(10)
    for rank in np.random.default_rng(0).permutation(5000).tolist():
        sample.add(str(rank % 20), rank, b"%d" % rank)
        assert sum(map(len, sample._largest_first.values())) <= 2 * 10 + 20
    assert len(sample.take(10)) == 10


@pytest.mark.parametrize("stratify_by", [None, "label"])
def test_extra_examples_change_nothing_about_the_sample(tmp_path: Path, stratify_by: str | None) -> None:
    files = _write(tmp_path, _labelled({0: 300, 1: 25, 2: 7}))
    spec = CalibrationSpec(num_samples=30, stratify_by=stratify_by)
    small, large = calibration.draw(files, spec), calibration.draw(files, spec, extra=50)
    assert (small.records, small.strata) == (large.records, large.strata)
    assert small.extra == ()
    assert len(large.extra) == 50
    assert not set(large.extra) & set(large.records)
    eighty = calibration.draw(files, spec.model_copy(update={"num_samples": 80})).records
    assert set(eighty) == {*large.records, *large.extra}
    labels = calibration.feature_values(large.extra, "label")
    assert {type(value) for (value,) in labels} == {int}
    assert calibration.feature_values(large.extra, "nothing") == [[]] * 50


def test_features_that_cannot_stratify(tmp_path: Path) -> None:
    files = _write(tmp_path, _labelled({i: 1 for i in range(1200)}))
    with pytest.raises(
        CalibrationError, match=r"stratify_by='x'\) cannot be met: the feature has more than 1000 values"
    ):
        calibration.draw(_write(tmp_path / "x", _labelled({0: 1200})), CalibrationSpec(stratify_by="x"))
    for field in ("stratify_by", "label"):
        with pytest.raises(
            CalibrationError, match=rf"CalibrationSpec\({field}='kind'\).*hold label int64 x 1, x float x 1"
        ):
            calibration.draw(files, CalibrationSpec(**{field: "kind"}))
    # A regression target is no error: the report leaves it out.
    assert calibration.draw(files, CalibrationSpec(label="label")).label_balance is None
    with pytest.raises(CalibrationError, match=r"no tf\.Example"):
        calibration.draw(_write(tmp_path / "y", [b"\xff\xff"]), CalibrationSpec(label="label"))


def test_label_balance_lists_the_most_frequent_values(tmp_path: Path) -> None:
    files = _write(tmp_path, _labelled({7: 30, **{100 + i: 1 for i in range(150)}}))
    balance = calibration.draw(files, CalibrationSpec(num_samples=1000, label="label")).label_balance
    assert balance is not None
    assert (balance.feature, len(balance.values), balance.num_omitted) == ("label", 100, 51)
    assert balance.values[0].model_dump() == {"value": "7", "num_samples": 30, "num_examples": 30}


# --- what TensorFlow's converter would take without a word ------------------------------------------------------------


def test_a_row_without_the_batch_dimension() -> None:
    """[16] for [1, 16] is silently accepted by the converter."""
    with pytest.raises(CalibrationError, match=r"float32 \[16\]; the model takes float32 \[1, 16\]"):
        calibration.samples([b""], lambda _: {"image": np.zeros(16, np.float32)}, [IMAGE])


def test_values_for_another_input() -> None:
    """A wrong name in the dict is a bare KeyError in the converter."""
    with pytest.raises(CalibrationError, match=r"no calibration values for input 'image' .*only for picture"):
        calibration.samples([b""], lambda _: {"picture": np.zeros((1, 16), np.float32)}, [IMAGE])
