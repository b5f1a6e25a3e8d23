"""How many examples are read at once."""

import pytest
import tensorflow as tf

from tfx_mobile.quantization_evaluator.scoring.example_checks import batch_size

MEGABYTE = 1 << 20


def split(path, sizes):
    with tf.io.TFRecordWriter(str(path), "GZIP") as writer:
        for size in sizes:
            writer.write(b"x" * size)
    return [str(path)]


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [([300, 400], None), ([33_000], None), ([34_000], 986), ([MEGABYTE], 32), ([100 * MEGABYTE], 1)],
)
def test_large_examples_are_read_in_small_batches(tmp_path, sizes, expected):
    assert batch_size({"eval": split(tmp_path / "eval", sizes)}) == expected


def test_the_largest_example_of_any_split_counts(tmp_path):
    files = {"eval": split(tmp_path / "eval", [10, 20]), "test": split(tmp_path / "test", [10, MEGABYTE, 10])}
    assert batch_size(files) == 32
