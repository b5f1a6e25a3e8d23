import zipfile

import numpy as np
import pytest

from tests.fakes import tflite_files
from tests.fakes.tflite_files import MEDIAPIPE_ARCHIVE, MEDIAPIPE_METADATA, archive, metadata_block, with_metadata
from tfx_mobile.records import AssociatedFileRecord, MetadataRecord, TensorMetadataRecord
from tfx_mobile.tflite import metadata_reader
from tfx_mobile.tflite.flatbuffer import read_model
from tfx_mobile.tflite.metadata_reader import archive_start, read_metadata


def image():
    return tflite_files.image_classifier()


def read(data: bytes) -> MetadataRecord:
    return read_metadata(read_model(data), data)


def test_what_mediapipes_writer_wrote():
    labels = AssociatedFileRecord(
        name="labels.txt", type="tensor_axis_labels", size_bytes=12, compressed=False, num_lines=3
    )
    assert read(with_metadata(image())) == MetadataRecord(
        present=True,
        name="ImageClassifier",
        description="Identify the most prominent object in the image from a known set of categories.",
        min_parser_version="1.0.0",
        inputs=(
            TensorMetadataRecord(
                name="image",
                description="Input image to be processed.",
                content="image",
                color_space="rgb",
                mean=(127.5,),
                std=(127.5,),
            ),
        ),
        outputs=(
            TensorMetadataRecord(
                name="score",
                description="Score of the labels respectively.",
                content="feature",
                files=(labels,),
            ),
        ),
        files=(labels,),
    )


def test_a_file_without_metadata():
    assert read(image()) == MetadataRecord()


def test_per_channel_numbers_and_thresholds():
    data = with_metadata(image(), metadata_block([1, 2, 3], [4, 5, 6], threshold=0.5), b"")
    (given,), (scores,) = read(data).inputs, read(data).outputs
    assert (given.mean, given.std, scores.score_threshold) == ((1, 2, 3), (4, 5, 6), 0.5)


def test_files_that_only_one_side_knows():
    data = with_metadata(image(), metadata_block(labels="labels.txt"), archive({"notes.txt": b"one\ntwo\n"}))
    record = read(data)
    assert [(file.name, file.type, file.size_bytes, file.num_lines) for file in record.files] == [
        ("notes.txt", None, 8, None),
        ("labels.txt", "tensor_axis_labels", None, None),
    ]
    assert record.problems == ("The file 'labels.txt' is named, but not appended.",)


def test_where_the_archive_begins():
    assert archive_start(image()) == len(image())
    data = with_metadata(image())
    assert data[archive_start(data) :] == MEDIAPIPE_ARCHIVE


# --- damaged and hostile ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", range(0, len(MEDIAPIPE_METADATA), 23))
def test_truncated_metadata_are_a_problem_and_no_error(end):
    record = read(with_metadata(image(), MEDIAPIPE_METADATA[:end]))
    assert record.present
    assert record.problems or record.name


@pytest.mark.parametrize("seed", range(40))
def test_damaged_metadata_are_read_or_a_problem(seed):
    rng = np.random.default_rng(seed)
    block = bytearray(MEDIAPIPE_METADATA)
    for position in rng.integers(0, len(block), 8):
        block[position] = int(rng.integers(256))
    record = read(with_metadata(image(), bytes(block)))
    record.to_json()


def test_numbers_that_are_not_finite_survive_json():
    record = read(with_metadata(image(), metadata_block([np.nan], [np.inf], threshold=-np.inf), b""))
    assert (record.inputs[0].mean, record.inputs[0].std, record.outputs[0].score_threshold) == ((None,), (None,), None)
    record.to_json()


def test_long_strings_are_cut():
    record = read(with_metadata(image(), metadata_block(name="n" * 100_000), b""))
    assert len(record.name) < 20_000
    assert record.name.endswith("…")


def test_too_many_numbers_are_a_problem():
    record = read(with_metadata(image(), metadata_block([1.0] * 5_000, [1.0]), b""))
    assert "lists 5000 numbers" in record.problems[0]


def test_too_many_tables_are_a_problem(monkeypatch):
    monkeypatch.setattr(metadata_reader, "_MAX_TABLES", 3)
    assert "more than 3 tables" in read(with_metadata(image())).problems[0]


def test_a_zip_bomb_is_not_unfolded(monkeypatch):
    monkeypatch.setattr(metadata_reader, "_MAX_TEXT_BYTES", 1 << 16)
    bomb = archive({"labels.txt": bytes(50 << 20)}, zipfile.ZIP_DEFLATED)
    assert len(bomb) < 1 << 16
    read_sizes = []
    original = zipfile.ZipExtFile.read

    def read_and_note(self, size=-1):
        contents = original(self, size)
        read_sizes.append(len(contents))
        return contents

    monkeypatch.setattr(zipfile.ZipExtFile, "read", read_and_note)
    record = read(with_metadata(image(), metadata_block(labels="labels.txt"), bomb))
    assert sum(read_sizes) <= (1 << 16) + 1
    assert (record.files[0].size_bytes, record.files[0].num_lines) == (50 << 20, None)
    assert "decompresses to more than 65,536 bytes" in record.problems[0]


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compression_that_cannot_be_read_piecemeal_is_a_problem(method):
    data = with_metadata(image(), metadata_block(labels="labels.txt"), archive({"labels.txt": b"a\nb\n"}, method))
    assert "compressed by method" in read(data).problems[0]


def test_damaged_archives_are_a_problem_or_none_at_all():
    labels = archive({"labels.txt": b"cat\ndog\nfish\n" * 9}, zipfile.ZIP_DEFLATED)
    whole = with_metadata(image(), metadata_block(labels="labels.txt"), labels)
    start = archive_start(whole)
    rng = np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(whole)
        for position in rng.integers(start, len(whole), 4):
            damaged[position] = int(rng.integers(256))
        record = read(bytes(damaged))
        assert record.problems or record.files[0].num_lines == 27
        record.to_json()
        assert 0 <= archive_start(bytes(damaged)) <= len(whole)


def test_many_appended_files_are_cut(monkeypatch):
    monkeypatch.setattr(metadata_reader, "_MAX_FILES", 5)
    record = read(with_metadata(image(), archive=archive({f"{i}.txt": b"" for i in range(9)})))
    assert "9 files are appended; only the first 5 are shown." in record.problems
