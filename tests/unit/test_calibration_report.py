"""What a converter takes without a word is found by comparing the calibration sample with the evaluation split."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.fakes import models
from tfx_mobile.errors import CalibrationError
from tfx_mobile.recipes import CalibrationSpec
from tfx_mobile.records import CalibrationRecord, TensorRecord
from tfx_mobile.tflite_converter import calibration_report

IMAGE = TensorRecord(name="image", dtype="float32", shape=(-1, 16))
EVALUATED = models.rows(120, seed=8)


def _scaled(rows: Sequence[models.Row], factor: float) -> list[dict[str, Any]]:
    return [{**row, "image": row["image"] * factor} for row in rows]


def _files(folder: Path, rows: Sequence[models.Row]) -> list[str]:
    models.write_records(folder / "0.gz", map(models.serialize, rows[::2]))
    models.write_records(folder / "1.gz", map(models.serialize, rows[1::2]))
    return [str(folder / "0.gz"), str(folder / "1.gz")]


def _report(
    tmp_path: Path,
    rows: Sequence[models.Row],
    evaluated: Sequence[models.Row] | None = EVALUATED,
    *inputs: TensorRecord,
    not_compared: str | None = None,
    **spec: Any,
) -> CalibrationRecord:
    files = [] if evaluated is None else _files(tmp_path / "eval", evaluated)
    return calibration_report.calibrate(
        CalibrationSpec(**spec),
        _files(tmp_path / "train", rows),
        inputs or (IMAGE,),
        evaluation_files=files,
        not_compared=not_compared,
    ).record


def _codes(record: CalibrationRecord) -> list[str]:
    return [finding.code for finding in record.findings]


def test_nothing_to_find(tmp_path: Path) -> None:
    rows = models.rows(300)
    record = _report(tmp_path, rows, label="label")
    assert record.findings == ()
    assert (record.source, record.num_samples, record.num_examples, record.num_leaked) == ("examples", 200, 300, 0)
    assert record.evaluation is not None
    assert (record.evaluation.split, record.evaluation.num_examples) == ("eval", 120)
    assert record.not_compared is None
    (spread,) = record.ranges
    images = models.images(EVALUATED)
    assert (spread.evaluation_minimum, spread.evaluation_maximum) == (images.min(), images.max())
    outside = (images < spread.minimum) | (images > spread.maximum)
    assert spread.values_outside == outside.mean()
    assert spread.rows_outside == outside.any(axis=1).mean()
    assert record.label_balance is not None
    assert [value.num_examples for value in record.label_balance.values] == [100, 100, 100]
    assert sum(value.num_samples for value in record.label_balance.values) == 200
    assert record.strata is None


def test_half_range(tmp_path: Path) -> None:
    """The converter says nothing, and the integer variants clip."""
    record = _report(tmp_path, _scaled(models.rows(300), 0.5))
    (spread,) = record.ranges
    assert spread.values_outside is not None
    assert 0.05 < spread.values_outside < 0.5
    assert spread.rows_outside == 1.0
    assert _codes(record) == ["outside_range"]
    assert (
        "100.0% of the examples of evaluation split 'eval' have values outside the calib" in record.findings[0].message
    )


def test_sixteen_fold_range(tmp_path: Path) -> None:
    record = _report(tmp_path, _scaled(models.rows(300), 16.0))
    assert record.ranges[0].rows_outside == 0.0
    assert _codes(record) == ["unused_range"]
    assert "of the calibrated range" in record.findings[0].message


def test_only_float_inputs_have_range_findings(tmp_path: Path) -> None:
    """A category stays an integer: nothing clips it."""
    record = _report(
        tmp_path,
        [{"label": 1}] * 20,
        [{"label": 2}] * 20,
        TensorRecord(name="label", dtype="int64", shape=(-1, 1)),
    )
    assert record.ranges[0].rows_outside == 1.0
    assert record.findings == ()


def test_bad_evaluation_values_are_counted_not_raised(tmp_path: Path) -> None:
    rows = models.rows(40, seed=8)
    rows[3]["image"][2] = np.nan
    rows[4]["image"][:] = np.inf
    (spread,) = _report(tmp_path, models.rows(300), rows).ranges
    assert spread.rows_outside is not None
    assert spread.rows_outside >= 2 / 40
    assert spread.evaluation_maximum is not None
    assert spread.evaluation_maximum < 2.0


def test_leakage_is_told_by_what_the_model_sees(tmp_path: Path) -> None:
    rows = models.rows(60)
    # The same images under another label, with another feature, and one zero with the other sign.
    rows[0]["image"][3] = 0.0
    shared = [{"label": 9, "file": f"copy-{i}", "image": row["image"].copy()} for i, row in enumerate(rows[:7])]
    shared[0]["image"][3] = -0.0
    assert not {models.serialize(row) for row in rows} & {models.serialize(row) for row in shared}
    record = _report(tmp_path, rows, EVALUATED + shared * 2)
    assert record.num_leaked == 7
    assert _codes(record)[0] == "leakage"
    assert record.findings[0].message.startswith("7 of 60 calibration samples from split 'train' have the same model")
    with pytest.raises(CalibrationError, match=r"^7 of 60 calibration samples .*Calibrate from another split.*'warn'"):
        _report(tmp_path, rows, EVALUATED + shared, leakage="refuse")
    assert _report(tmp_path, rows, EVALUATED, leakage="refuse").num_leaked == 0


def test_leakage_of_strings_and_several_inputs(tmp_path: Path) -> None:
    inputs = (
        TensorRecord(name="text", dtype="string", shape=(-1, 2)),
        TensorRecord(name="x", dtype="float32", shape=(-1, 1)),
    )
    rows = [{"text": ["ab", "c"], "x": 1.0}, {"text": ["d", "e"], "x": 2.0}]
    # Other strings that are the same when put together; and another number.
    evaluated = [{"text": ["a", "bc"], "x": 1.0}, {"text": ["ab", "c"], "x": 3.0}, {"text": ["d", "e"], "x": 2.0}]
    assert _report(tmp_path, rows, evaluated, *inputs).num_leaked == 1


def test_calibrating_on_the_evaluation_split_is_leakage(tmp_path: Path) -> None:
    record = _report(tmp_path, models.rows(30), None, split="eval")
    assert (record.evaluation, record.num_leaked) == (None, 30)
    assert record.not_compared == "The sample is drawn from the evaluation split 'eval' itself."
    assert _codes(record) == ["leakage"]
    assert record.ranges[0].rows_outside is None


@pytest.mark.parametrize(
    ("evaluated", "not_compared", "reason"),
    [
        (None, "The examples have no split 'eval'.", "no split 'eval'"),
        ([], None, "'eval' cannot be compared: there are none"),
        ([{"picture": np.zeros(16)}], None, "'eval' cannot be compared: .*do not fit the model's inputs"),
    ],
)
def test_no_comparison(
    tmp_path: Path, evaluated: list[models.Row] | None, not_compared: str | None, reason: str
) -> None:
    record = _report(tmp_path, models.rows(9), evaluated, not_compared=not_compared)
    assert (record.evaluation, record.num_leaked) == (None, None)
    assert _codes(record) == ["not_compared"]
    assert record.not_compared is not None
    with pytest.raises(CalibrationError, match=f"(?s)Leakage is refused, but cannot be checked for: .*{reason}"):
        _report(tmp_path, models.rows(9), evaluated, not_compared=not_compared, leakage="refuse")


def test_no_comparison_was_asked_for(tmp_path: Path) -> None:
    record = _report(tmp_path, models.rows(9), None, evaluation_split=None)
    assert (record.findings, record.num_leaked) == ((), None)
    assert record.not_compared == "No evaluation split was given."


def test_a_label_that_is_no_class(tmp_path: Path) -> None:
    rows = [{"image": np.zeros(16), "label": i / 7} for i in range(1200)]
    record = _report(tmp_path, rows, None, evaluation_split=None, label="label")
    assert record.label_balance is None
    assert _codes(record) == ["label_values"]


def test_sha256_tells_records_apart(tmp_path: Path) -> None:
    assert calibration_report._digest([b"ab"]) != calibration_report._digest([b"a", b"b"])


def test_bytes_of_the_signatures_own_parsing(tmp_path: Path) -> None:
    def parse(records: Sequence[bytes]) -> dict[str, Any]:
        spec = {"image": tf.io.FixedLenFeature([16], tf.float32)}
        return {"image": tf.io.parse_example(list(records), spec)["image"].numpy() * 2}

    record = calibration_report.calibrate(
        CalibrationSpec(),
        _files(tmp_path / "train", models.rows(40)),
        [IMAGE],
        signature_parse=parse,
        evaluation_files=_files(tmp_path / "eval", models.rows(40)),
    ).record
    assert (record.source, record.num_leaked) == ("signature", 40)
    assert record.ranges[0].maximum == 2 * models.images(models.rows(40)).max()


def test_transform_graph_is_applied_to_both_splits(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    rows = models.rows(150)
    arguments: Any = {
        "spec": CalibrationSpec(label="label"),
        "files": _files(tmp_path / "train", rows),
        "inputs": [TensorRecord(name="image_xf", dtype="float32", shape=(-1, 16))],
        "evaluation_files": _files(tmp_path / "eval", [*EVALUATED, *rows[:3]]),
    }
    graph = str(models.transform_graph(tmp_path_factory))
    calibrated = calibration_report.calibrate(**arguments, transform_graph=graph, extra=5)
    record = calibrated.record
    assert (record.source, record.num_leaked, len(record.findings)) == ("transform_graph", 3, 1)
    scaled = models.scaled(models.images(rows))
    assert record.ranges[0].minimum == pytest.approx(scaled.min(), abs=1e-5)
    assert record.ranges[0].evaluation_minimum == pytest.approx(models.scaled(models.images(EVALUATED)).min(), abs=1e-5)
    assert record.label_balance is not None
    assert calibrated.drawn.extra == ()
    assert sorted(calibrated.parse(calibrated.drawn.records)) == ["image_xf"]
    with pytest.raises(
        CalibrationError, match=r"Feature: image_xf.*hold image float x 16, label.*or raw examples toget"
    ):
        calibration_report.calibrate(**arguments)
    arguments["inputs"] = [TensorRecord(name="picture", dtype="float32", shape=(-1, 16))]
    with pytest.raises(CalibrationError, match="neither in the examples"):
        calibration_report.calibrate(**arguments, transform_graph=graph)


def test_transformed_examples_are_used_as_they_are(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    scaled = models.scaled(models.images(models.rows(30)))
    record = calibration_report.calibrate(
        CalibrationSpec(evaluation_split=None),
        _files(tmp_path, [{"image_xf": z, "label": 1} for z in scaled]),
        [TensorRecord(name="image_xf", dtype="float32", shape=(-1, 16))],
        transform_graph=str(models.transform_graph(tmp_path_factory)),
    ).record
    assert record.source == "examples"
    assert record.ranges[0].maximum == scaled.max()


def test_a_name_that_is_raw_and_transformed_is_reported(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    rows = [{**row, "camera": "front"} for row in models.rows(30)]
    calibrate: Any = {
        "spec": CalibrationSpec(evaluation_split=None),
        "inputs": [IMAGE],
        "transform_graph": str(models.transform_graph(tmp_path_factory)),
    }
    record = calibration_report.calibrate(files=_files(tmp_path / "a", rows), **calibrate).record
    assert record.source == "transform_graph"
    assert _codes(record) == ["transform_assumed"]
    with pytest.raises(CalibrationError, match="Raw and transformed examples cannot be told apart"):
        calibration_report.calibrate(files=_files(tmp_path / "b", models.rows(30)), **calibrate)
