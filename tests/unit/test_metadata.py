from __future__ import annotations

import importlib.util
import json
import stat
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from tests.fakes import metadata as fake_metadata
from tests.fakes import tflite_files
from tfx_mobile.errors import MetadataError, RecipeError
from tfx_mobile.recipes import BUILTIN_RECIPES, MetadataSpec
from tfx_mobile.records import SignatureRecord, TensorRecord, sha256_of
from tfx_mobile.tflite import metadata
from tfx_mobile.tflite.flatbuffer import inspect_model
from tfx_mobile.tflite.metadata import Metadata, Writer
from tfx_mobile.tflite.runtime import SignatureRunner
from tfx_mobile.tflite_converter import conversion, label_names
from tfx_mobile.tflite_converter.job import Job

ASKED = MetadataSpec(name="three", version="7", author="us", description="which of 3", labels=("a", "b", "ü"))


@pytest.fixture(scope="module")
def writer() -> Writer:
    return Writer(python=fake_metadata.writer_python(), version="mediapipe")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "work" / "model.tflite"
    path.parent.mkdir()
    path.write_bytes(tflite_files.dense("int8"))
    return path


def _program(tmp_path: Path, body: str, interpreter: str = "/bin/sh") -> Writer:
    path = tmp_path / "python"
    path.write_text(f"#!{interpreter}\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return Writer(python=str(path), version="mediapipe 0")


# --- what is written --------------------------------------------------------------------------------------------------


def test_general_metadata_and_labels_of_any_model(writer: Writer, model: Path) -> None:
    before = model.read_bytes()
    record = metadata.write(model, Metadata(spec=ASKED, writer=writer, provenance={"b": 1}), {"a": "é"}, 60)
    assert (record.kind, record.name, record.num_labels, record.labels_from) == ("model", "three", 3, "MetadataSpec")
    assert record.not_written is None
    with zipfile.ZipFile(model) as archive:
        (entry,) = archive.infolist()
        assert archive.read(entry) == "a\nb\nü".encode()
    assert record.labels_sha256 == sha256_of("a\nb\nü".encode())
    # A clock in the file would make every conversion another file.
    assert (entry.filename, entry.date_time) == ("labels.txt", (1980, 1, 1, 0, 0, 0))
    document = fake_metadata.read(model)
    assert {key: document[key] for key in ("name", "version", "author", "description")} == {
        "name": "three",
        "version": "7",
        "author": "us",
        "description": "which of 3",
    }
    (subgraph,) = document["subgraph_metadata"]
    assert [tensor["name"] for tensor in subgraph["input_tensor_metadata"]] == ["x"]
    (output,) = subgraph["output_tensor_metadata"]
    assert output["name"] == "p"
    assert [(file["name"], file["type"]) for file in output["associated_files"]] == [
        ("labels.txt", "TENSOR_AXIS_LABELS")
    ]
    (custom,) = subgraph["custom_metadata"]
    assert custom["name"] == "TFX_MOBILE"
    assert json.loads(bytes(custom["data"])) == {"a": "é", "b": 1}

    x = np.random.default_rng(0).uniform(-1, 1, (8, 4)).astype(np.float32)
    np.testing.assert_array_equal(
        SignatureRunner(model.read_bytes()).run({"x": x})["p"], SignatureRunner(before).run({"x": x})["p"]
    )
    root = schema.Model.GetRootAs(model.read_bytes(), 0)
    tables = [root.Buffers(index) for index in range(root.BuffersLength())]
    assert {t._tab.Vector(t._tab.Offset(4)) % 16 for t in tables if t.DataLength()} == {0}


def test_nothing_asked_for_is_provenance_alone(writer: Writer, model: Path) -> None:
    record = metadata.write(model, Metadata(spec=MetadataSpec(), writer=writer), {"recipe": "r"}, 60)
    assert (record.kind, record.num_labels, record.name) == ("model", 0, None)
    assert not zipfile.is_zipfile(model)
    (subgraph,) = fake_metadata.read(model)["subgraph_metadata"]
    assert json.loads(bytes(subgraph["custom_metadata"][0]["data"])) == {"recipe": "r"}
    assert inspect_model(model.read_bytes()).signature().inputs[0].name == "x"


def test_names_known_from_artifacts_are_left_out_where_they_do_not_fit(writer: Writer, model: Path) -> None:
    four = Metadata(spec=MetadataSpec(), writer=writer, labels=("a", "b", "c", "d"), labels_from="somewhere")
    record = metadata.write(model, four, {}, 60)
    assert record.num_labels == 0
    assert "Labels from somewhere are left out. There are 4 labels (a, b, c, d), and no output" in record.notes[0]
    asked = Metadata(spec=MetadataSpec(label="species"), writer=writer, labels=four.labels, labels_from="somewhere")
    with pytest.raises(MetadataError, match=r"There are 4 labels .* the outputs are p int8 \[-1, 3\]"):
        metadata.write(model, asked, {}, 60)


def test_no_writer_is_recorded(model: Path) -> None:
    before = model.read_bytes()
    record = metadata.write(model, Metadata(spec=MetadataSpec(), writer=None, not_written="none"), {}, 60)
    assert (record.writer, record.not_written) == (None, "none")
    assert model.read_bytes() == before


# --- what is refused --------------------------------------------------------------------------------------------------


def _signature(*inputs: TensorRecord, outputs: tuple[TensorRecord, ...] | None = None) -> SignatureRecord:
    return SignatureRecord(key="s", inputs=inputs, outputs=outputs or (_tensor("y", 1, 3),))


def _tensor(name: str, *shape: int, **changes: Any) -> TensorRecord:
    return TensorRecord(name=name, shape=shape, **{"dtype": "float32", **changes})


@pytest.mark.parametrize(
    ("spec", "signature", "message"),
    [
        (
            {"labels": ("a", "b")},
            _signature(_tensor("x", 1, 4)),
            r"There are 2 labels \(a, b\), and no output has as many values .* y float32 \[1, 3\]",
        ),
        (
            {"labels": ("a", "b", "c")},
            _signature(_tensor("x", 1, 4), outputs=(_tensor("y", 1, 3), _tensor("z", 1, 3))),
            "several outputs have",
        ),
        ({"mean": (1,), "std": (1,)}, _signature(_tensor("x", 1, 4)), r"the model's inputs are x float32 \[1, 4\]"),
        (
            {"mean": (1,), "std": (1,)},
            _signature(_tensor("x", 1, 8, 8, 3), _tensor("z", 1, 8, 8, 3)),
            "an image input .* alone",
        ),
        (
            {"mean": (1, 2), "std": (1, 2)},
            _signature(_tensor("x", 1, 8, 8, 3)),
            r"has 2 values; input 'x' has 3 channel\(s\). Give 1 or 3",
        ),
    ],
)
def test_what_does_not_fit_the_model(spec: dict[str, Any], signature: SignatureRecord, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        metadata.check(Metadata(spec=MetadataSpec(**spec), writer=None), signature)


def test_what_fits_passes() -> None:
    image = _signature(_tensor("x", -1, 8, 8, 3))
    for values in ((127.5,), (1.0, 2.0, 3.0)):
        spec = MetadataSpec(labels=("a", "b", "c"), mean=values, std=values)
        metadata.check(Metadata(spec=spec, writer=None), image)
    # An open size is known in the file only.
    metadata.check(Metadata(spec=ASKED, writer=None), _signature(outputs=(_tensor("y", -1, -1),)))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"labels": ("a", "b\nc")}, r"label 'b\\nc' is not one line of text"),
        ({"labels": ("a", " ")}, "label ' ' is not one line"),
        ({"labels": ("a",), "label": "species"}, "either labels or label"),
        ({"mean": (1.0,)}, "mean has 1 values and std 0"),
        ({"mean": (float("nan"),), "std": (1.0,)}, "finite"),
        ({"mean": (1.0,), "std": (0.0,)}, "greater than 0"),
    ],
)
def test_specs_that_make_no_sense(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        MetadataSpec(**spec)


@pytest.mark.parametrize(
    ("scale", "zero_point", "fits"),
    # The second is what calibration on less than the full range gave an otherwise good model (facts, 3.3).
    [(1 / 127.5, 128, True), (0.00735, 136, False)],
)
def test_whether_a_uint8_input_takes_raw_pixels(scale: float, zero_point: int, fits: bool) -> None:
    image = _tensor("x", 1, 8, 8, 3, dtype="uint8", scale=scale, zero_point=zero_point)
    assert metadata._raw_pixels(image, MetadataSpec(mean=(127.5,), std=(127.5,))) is fits


# --- writers that fail ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("echo no such module >&2; exit 3", "ended with exit code 3: no such module"),
        ("kill -SEGV $$", "was killed by SIGSEGV: it said nothing"),
        ("cat > /dev/null; echo hello", "is this interpreter Python"),
        ('cat > /dev/null; echo \'{"mediapipe": "0", "sha256": "0"}\'', "is not the one it answered for"),
    ],
)
def test_a_writer_that_fails(tmp_path: Path, model: Path, body: str, message: str) -> None:
    before, broken = model.read_bytes(), _program(tmp_path, body)
    with pytest.raises(MetadataError, match=message):
        metadata.write(model, Metadata(spec=ASKED, writer=broken), {}, 60)
    # Nobody asked: the file is good without.
    record = metadata.write(model, Metadata(spec=MetadataSpec(), writer=broken), {}, 60)
    assert record.not_written is not None
    assert (record.writer, record.num_labels) == (None, 0)
    assert str(tmp_path) not in record.not_written
    assert model.read_bytes() == before
    assert list(model.parent.iterdir()) == [model]


def test_a_writer_that_fails_costs_the_variant(tmp_path: Path, model: Path) -> None:
    expected = inspect_model(model.read_bytes()).signature()
    broken = Metadata(spec=ASKED, writer=_program(tmp_path, "exit 9"))
    recipe = BUILTIN_RECIPES["integer_only_int8"]
    job = Job(
        saved_model="",
        signature_name=expected.key,
        recipes=(recipe,),
        batch_size=1,
        calibration=None,
        example_files=(),
        work_dir=str(tmp_path),
    )
    variant = conversion._check(job, recipe, model, expected, broken, 60)
    assert (variant.file, variant.metadata) == (None, None)
    assert variant.failure is not None
    assert variant.failure.code == "metadata_failed"
    assert "exit code 9" in variant.failure.message


def test_a_writer_that_hangs_is_ended_with_its_children(tmp_path: Path, model: Path) -> None:
    hanging = _program(tmp_path, f"sleep 600 & echo $! > {tmp_path}/pid; wait")
    with pytest.raises(MetadataError, match="no answer within 1 seconds"):
        metadata.write(model, Metadata(spec=ASKED, writer=hanging), {}, 1)
    state = Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}/stat")
    # A killed process is gone once it gets to run again, or dead and waiting for whoever collects orphans.
    for _ in range(200):
        if not state.exists() or state.read_text().rsplit(")", 1)[1].split()[0] == "Z":
            return
        time.sleep(0.05)
    raise AssertionError("the writer's child lives on")


def test_a_writer_that_changes_the_model_is_not_believed(tmp_path: Path, model: Path) -> None:
    # As a writer does that was made for an older schema: what it does not know is gone.
    body = """
import hashlib, json, sys
request = json.load(sys.stdin)
data = bytearray(open(request["model"], "rb").read())
position = data.rindex(b"FULLY") if b"FULLY" in data else data.index(b"serving_default")
data[position] ^= 1
open(request["output"], "wb").write(data)
print(json.dumps({"mediapipe": "0", "sha256": hashlib.sha256(data).hexdigest()}))
"""
    careless = _program(tmp_path, body, sys.executable)
    with pytest.raises(MetadataError, match="mediapipe 0 changed the model itself"):
        metadata.write(model, Metadata(spec=ASKED, writer=careless), {}, 60)


def test_a_writer_that_forgets_the_labels_is_not_believed(tmp_path: Path, model: Path) -> None:
    body = """
import json, shutil, sys
request = json.load(sys.stdin)
shutil.copyfile(request["model"], request["output"])
print(json.dumps({"mediapipe": "0", "sha256": request["sha256"]}))
"""
    with pytest.raises(MetadataError, match=r"did not pack the associated files labels\.txt"):
        metadata.write(model, Metadata(spec=ASKED, writer=_program(tmp_path, body, sys.executable)), {}, 60)


def test_weights_behind_the_flatbuffer_are_refused(writer: Writer, model: Path) -> None:
    import flatbuffers

    document = schema.ModelT.InitFromPackedBuf(model.read_bytes(), 0)
    biggest = max((b for b in document.buffers if b.data is not None), key=lambda b: len(b.data))
    content, biggest.data = bytes(biggest.data), None
    # The place is packed into the file, so the length does not depend on it.
    for _ in range(2):
        builder = flatbuffers.Builder(1024)
        biggest.offset, biggest.size = max(biggest.offset, 2), len(content)
        builder.Finish(document.Pack(builder), b"TFL3")
        biggest.offset = len(builder.Output())
    model.write_bytes(bytes(builder.Output()) + content)
    inspect_model(model.read_bytes())
    with pytest.raises(MetadataError, match="weights behind its flatbuffer"):
        metadata.write(model, Metadata(spec=ASKED, writer=writer), {}, 60)


# --- finding the writers ----------------------------------------------------------------------------------------------


def test_the_environment_variable_names_the_interpreter(
    writer: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TFX_MOBILE_METADATA_PYTHON", writer.python)
    # What this process imports must not reach the other interpreter.
    (tmp_path / "flatbuffers.py").write_text("raise ImportError('the wrong flatbuffers')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found, reason = metadata.find_writer()
    assert found is not None
    assert (found.python, reason) == (writer.python, "")
    assert found.version == "mediapipe 0.10.21"


@pytest.mark.parametrize("python", ["/nowhere/python", sys.executable])
def test_an_interpreter_that_cannot_do_it_is_an_error(python: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if python == sys.executable and importlib.util.find_spec("mediapipe") is not None:
        pytest.skip("MediaPipe is installed beside TFX here")
    monkeypatch.setenv("TFX_MOBILE_METADATA_PYTHON", python)
    with pytest.raises(
        MetadataError, match=r"(?s)cannot write metadata: .*pip install --no-deps mediapipe=="
    ) as caught:
        metadata.find_writer()
    assert ("mediapipe is not installed" in str(caught.value)) == (python == sys.executable)


def test_without_any_interpreter_there_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TFX_MOBILE_METADATA_PYTHON", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    found, reason = metadata.find_writer()
    assert found is None
    assert "TFX_MOBILE_METADATA_PYTHON is not set" in reason


def test_the_commands_name_what_the_lock_holds() -> None:
    lock = (Path(__file__).parents[2] / "requirements" / "metadata.txt").read_text()
    pins = [line.split()[0] for line in lock.splitlines() if "==" in line]
    assert len(pins) == 3
    assert all(pin in metadata.HOW_TO_INSTALL for pin in pins)


# --- class names from artifacts ---------------------------------------------------------------------------------------


def test_names_from_a_schema() -> None:
    pbtxt = b"""
      feature { name: "inline" type: BYTES string_domain { value: "b" value: "a" } }
      feature { name: "shared" type: BYTES domain: "species" }
      feature { name: "lost" type: BYTES domain: "gone" }
      feature { name: "number" type: INT int_domain { min: 0 max: 2 is_categorical: true } }
      string_domain { name: "species" value: "x" value: "y" }
    """
    assert label_names.from_schema(pbtxt, "inline") == ("b", "a")
    assert label_names.from_schema(pbtxt, "shared") == ("x", "y")
    assert label_names.from_schema(pbtxt, "number") == label_names.from_schema(pbtxt, "nothing") == ()
    with pytest.raises(RecipeError, match="'lost' refers to a missing domain 'gone'"):
        label_names.from_schema(pbtxt, "lost")
    with pytest.raises(RecipeError, match="no text-format Schema"):
        label_names.from_schema(b"feature {", "x")


def test_names_from_a_vocabulary() -> None:
    assert label_names.from_vocabulary("cat\nMötley crew\n".encode()) == ("cat", "Mötley crew")
    with pytest.raises(RecipeError, match="not UTF-8"):
        label_names.from_vocabulary(b"\xff\n")
