"""Fidelity against plain numpy over everything at once, and the sample, however the examples are batched."""

import hashlib
import json

import numpy as np
import pytest

from tfx_mobile.quantization_evaluator.scoring.aside import Aside, read
from tfx_mobile.quantization_evaluator.scoring.fidelity import FidelityFinding, compare, from_json
from tfx_mobile.quantization_evaluator.scoring.sample import SampleFinding
from tfx_mobile.quantization_evaluator.scoring.sample import from_json as sample_from_json

ROWS = 500


def probabilities(rows, classes, seed):
    logits = np.random.default_rng(seed).normal(size=(rows, classes))
    exps = np.exp(logits)
    return (exps / exps.sum(1, keepdims=True)).astype(np.float32)


SCORES = probabilities(ROWS, 5, 0)
BOXES = np.random.default_rng(1).normal(3, 2, (ROWS, 4, 2)).astype(np.float32)
OUTPUTS = {
    "saved_model": {"boxes": BOXES, "scores": SCORES},
    "close": {"boxes": BOXES + np.float32(0.01), "scores": np.round(SCORES * 256) / np.float32(256)},
    "far": {"boxes": -BOXES, "scores": probabilities(ROWS, 5, 9)},
}
FINDING = FidelityFinding("saved_model", ["close", "far"], ["boxes", "scores"])


def batches(sizes, order=None):
    order = np.arange(ROWS) if order is None else order
    start = 0
    for size in sizes:
        rows = order[start : start + size]
        yield {"predictions": {m: {o: v[rows] for o, v in outputs.items()} for m, outputs in OUTPUTS.items()}}
        start += size
    assert start == ROWS


def found(extracts):
    return from_json(FINDING.to_json(FINDING.merged(map(FINDING.of_batch, extracts))))


def test_figures_are_those_of_all_values_at_once():
    records = {(r.variant, r.output): r for r in found(batches([1, 64, 35, 399, 1]))}
    assert list(records) == [(v, o) for v in ("close", "far") for o in ("boxes", "scores")]
    for (variant, output), record in records.items():
        expected = OUTPUTS["saved_model"][output].astype(np.float64)
        actual = OUTPUTS[variant][output].astype(np.float64)
        error = actual - expected
        cosine = (expected * actual).sum() / np.linalg.norm(expected) / np.linalg.norm(actual)
        assert record.num_examples == ROWS
        assert record.top1_agreement == pytest.approx((expected.argmax(-1) == actual.argmax(-1)).mean(), abs=1e-9)
        assert record.cosine_similarity == pytest.approx(cosine, abs=1e-9)
        assert record.snr_db == pytest.approx(10 * np.log10((expected**2).sum() / (error**2).sum()), abs=1e-7)
        assert record.max_absolute_error == pytest.approx(np.abs(error).max(), rel=1e-9)
    assert records["close", "scores"].top1_agreement > 0.95 > records["far", "scores"].top1_agreement


def test_neither_the_order_nor_the_batches_change_what_is_written():
    rng = np.random.default_rng(4)
    first = found(batches([ROWS]))
    for sizes in ([100] * 5, [7] * 71 + [3], [499, 1]):
        assert found(batches(sizes, rng.permutation(ROWS))) == first


def one(expected, actual):
    return compare(np.asarray(expected), np.asarray(actual)).to_record("v", "o")


def test_rows_where_one_side_is_not_finite_are_not_compared():
    expected = np.array([[1.0, 2.0], [np.nan, 5.0], [3.0, 1.0], [0.0, 1.0]], np.float32)
    actual = np.array([[1.5, 2.0], [0.0, 5.0], [3.0, np.inf], [1.0, 0.0]], np.float32)
    record = one(expected, actual)
    assert (record.num_examples, record.top1_agreement, record.max_absolute_error) == (2, 0.5, 1.0)
    nothing = one(expected[1:2], actual[1:2])
    assert nothing.model_dump() == {
        "variant": "v",
        "output": "o",
        "num_examples": 0,
        "top1_agreement": None,
        "cosine_similarity": None,
        "snr_db": None,
        "max_absolute_error": None,
    }


def test_segmentation_counts_positions():
    expected = np.random.default_rng(2).normal(size=(3, 8, 6, 4)).astype(np.float32)
    actual = expected.copy()
    actual[1, :2] = np.roll(actual[1, :2], 1, axis=-1)  # 12 of 144 positions have their largest entry elsewhere
    assert one(expected, actual).top1_agreement == pytest.approx(1 - 12 / 144)


def test_large_outputs_are_compared_in_blocks_with_the_same_result():
    expected = np.random.default_rng(3).normal(size=(5, 400_000)).astype(np.float32)
    actual = expected + np.float32(0.125) * (np.arange(5) % 2)[:, None].astype(np.float32)
    record = one(expected, actual)
    error = actual.astype(np.float64) - expected
    assert record.num_examples == 5
    assert record.top1_agreement == 1.0
    assert record.snr_db == pytest.approx(10 * np.log10((expected.astype(np.float64) ** 2).sum() / (error**2).sum()))


@pytest.mark.parametrize("shape", [(4,), (4, 1)])
def test_a_single_probability_agrees_on_its_side_of_one_half_and_another_number_on_nothing(shape):
    expected, actual = np.reshape([0.9, 0.2, 0.6, 0.5], shape), np.reshape([0.8, 0.4, 0.4, 0.7], shape)
    assert one(expected, actual).top1_agreement == 0.75
    assert one(expected * 3, actual * 3).top1_agreement is None
    assert one(expected * 3, actual * 3).max_absolute_error == pytest.approx(0.6)


def test_equal_outputs_have_no_noise_and_zeros_no_signal():
    equal = one(SCORES, SCORES)
    assert (equal.top1_agreement, equal.cosine_similarity, equal.snr_db, equal.max_absolute_error) == (1, 1, None, 0)
    zeros = one(np.zeros((2, 3)), np.ones((2, 3)))
    assert (zeros.cosine_similarity, zeros.snr_db, zeros.max_absolute_error) == (None, None, 1.0)


@pytest.mark.parametrize(
    ("expected", "actual"),
    [
        (np.array([[1, 2], [3, 4]]), np.array([[1, 2], [3, 5]], np.int32)),
        (np.array([[True, False], [True, True]]), np.array([[True, False], [True, False]])),
        (np.array([[b"a", b"bb"], [b"c", b"d"]], object), np.array([[b"a", b"bb"], [b"c", b"e"]])),
    ],
)
def test_what_is_no_float_agrees_where_it_is_the_same(expected, actual):
    record = one(expected, actual)
    assert (record.num_examples, record.top1_agreement) == (2, 0.75)
    assert (record.cosine_similarity, record.snr_db, record.max_absolute_error) == (None, None, None)


def test_a_bare_array_is_the_only_output_and_a_model_without_predictions_is_left_out():
    finding = FidelityFinding("saved_model", ["close", "absent"], ["output_0"])
    batch = {"predictions": {"saved_model": SCORES, "close": OUTPUTS["close"]["scores"]}}
    (record,) = from_json(finding.to_json(finding.of_batch(batch)))
    assert (record.variant, record.output, record.num_examples) == ("close", "output_0", ROWS)


EXAMPLES = [b"example %d" % index for index in range(200)] + [b"example 7"] * 5


def chosen(finding, sizes, order):
    start, summaries = 0, []
    for size in sizes:
        summaries.append(
            finding.of_batch({"input": np.array([EXAMPLES[i] for i in order[start : start + size]], object)})
        )
        start += size
    return sample_from_json(finding.to_json(finding.merged(summaries)))


def test_the_sample_is_the_same_however_examples_come_and_counts_equal_ones_once():
    smallest = sorted(set(EXAMPLES), key=lambda data: hashlib.sha256(data).digest())[:12]
    rng = np.random.default_rng(0)
    for sizes in ([205], [1] * 205, [50, 5, 150]):
        assert chosen(SampleFinding(12, 1 << 20), sizes, rng.permutation(205)) == tuple(smallest)
    # Bounded in bytes, with the first of them always.
    size = sum(map(len, smallest[:3]))
    for limit, count in ((size, 3), (size - 1, 2), (1, 1)):
        for sizes in ([205], [5] * 41):
            assert chosen(SampleFinding(12, limit), sizes, rng.permutation(205)) == tuple(smallest[:count])


def test_the_result_comes_out_of_a_pipeline_and_batches_pass_through(tmp_path):
    import apache_beam as beam
    from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions

    options = PipelineOptions(flags=["--runner=FnApiRunner"])
    options.view_as(DirectOptions).direct_running_mode = "in_memory"
    path = str(tmp_path / "folder" / "found.json")
    passed = str(tmp_path / "passed")
    with beam.Pipeline(options=options) as pipeline:
        _ = (
            pipeline
            | beam.Create(list(batches([100] * 5)))
            | Aside(FINDING, path)
            | beam.Map(lambda extracts: json.dumps(sorted(extracts["predictions"])))
            | beam.io.WriteToText(passed, shard_name_template="")
        )
    assert from_json(read(path)) == found(batches([ROWS]))
    assert not (tmp_path / "folder" / "found.json").exists()
    assert (tmp_path / "passed").read_text().splitlines() == [json.dumps(sorted(OUTPUTS))] * 5
