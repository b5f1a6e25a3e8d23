import json
import os

import pytest
from ai_edge_litert import schema_py_generated as schema
from click.testing import CliRunner

from tests.fakes import tflite_files
from tests.fakes.tflite_files import edited, metadata_block, with_metadata
from tfx_mobile import __version__
from tfx_mobile.cli import main
from tfx_mobile.inspection_view import printable
from tfx_mobile.records import InspectionRecord
from tfx_mobile.tflite.file_report import inspect_file
from tfx_mobile.tflite.flatbuffer import inspect_model


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(tflite_files.dense("int8"))
    return path


def run(*arguments, width=120):
    return CliRunner(env={"COLUMNS": str(width)}).invoke(main, [str(argument) for argument in arguments])


def come_from_the_future(model):
    for code in model.operatorCodes:
        code.version = 99


def test_inspect_shows_what_an_app_developer_needs(model):
    result = run("inspect", model)
    assert result.exit_code == 0, result.output
    for text in ("int8", "[-1, 4]", "FULLY_CONNECTED", "1.14.0 or newer", inspect_model(model.read_bytes()).sha256):
        assert text in result.output
    for text in ("weights int8", "Profile litert: pass", "Profile litert_js: FAIL", "open sizes", "no findings"):
        assert text in result.output


def test_all_tensors_on_request(model):
    assert "tfl.pseudo_qconst" not in run("inspect", model).output
    assert "tfl.pseudo_qconst" in run("inspect", model, "--tensors").output


def test_metadata_and_findings_are_shown(model):
    def break_softmax(made):
        made.subgraphs[0].tensors[-1].quantization.zeroPoint = [3]

    model.write_bytes(with_metadata(edited(tflite_files.image_classifier("int8"), break_softmax)))
    output = run("inspect", model).output
    for text in ("ImageClassifier", "mean 127.5, std 127.5", "labels.txt, 12 bytes, tensor_axis_labels, 3 lines"):
        assert text in output
    assert "fixed_output" in output
    assert "scale 0.00390625, zero point -128" in output


def test_inspect_as_json_is_one_document_with_everything(model):
    result = run("inspect", "--json", model)
    assert result.exit_code == 0
    record = InspectionRecord.from_json(result.stdout)
    assert record == inspect_file(model.read_bytes())
    assert record.file == inspect_model(model.read_bytes())
    document = json.loads(result.stdout)
    assert (document["size_bytes"], document["failure"]) == (model.stat().st_size, None)
    assert sum(part["bytes"] for part in document["sizes"]) == model.stat().st_size


def test_profiles_are_chosen_by_name(model):
    result = run("inspect", "--json", model, "--profile", "litert>=1.13.0", "--profile", "no_select_ops")
    profiles = InspectionRecord.from_json(result.stdout).profiles
    assert [(profile.profile, profile.result) for profile in profiles] == [
        ("litert>=1.13.0", "fail"),
        ("no_select_ops", "pass"),
    ]
    # A profile that fails is a result, not a refusal.
    assert result.exit_code == 0


def test_an_unknown_profile_is_a_usage_error(model):
    result = run("inspect", model, "--profile", "mlkit")
    assert result.exit_code == 2
    assert "mlkit_image" in result.output


def test_a_corrupt_file_is_an_error_with_the_reason(model):
    model.write_bytes(model.read_bytes()[:500])
    result = run("inspect", model)
    assert result.exit_code == 1
    assert "Corrupt .tflite file of 500 bytes" in result.output
    result = run("inspect", model, "--json")
    record = InspectionRecord.from_json(result.stdout)
    assert (result.exit_code, record.file, record.failure.code) == (1, None, "corrupt")


@pytest.mark.parametrize("signatures", [True, False])
def test_what_does_not_load_is_refused_and_still_shown(model, signatures):
    def edit(made):
        come_from_the_future(made)
        if not signatures:
            made.signatureDefs = None

    model.write_bytes(edited(model.read_bytes(), edit))
    result = run("inspect", model)
    assert result.exit_code == 1
    for text in ("FULLY_CONNECTED", "loads and runs  NO", "Error: ", "99"):
        assert text in result.output
    record = InspectionRecord.from_json(run("inspect", model, "--json").stdout)
    assert record.file is not None
    assert record.failure.code == "not_loadable"


def test_a_file_without_signatures_is_loaded_and_run(model):
    model.write_bytes(edited(model.read_bytes(), lambda made: setattr(made, "signatureDefs", None)))
    result = run("inspect", model)
    assert (result.exit_code, "loads and runs  yes" in result.output) == (0, True), result.output


@pytest.mark.parametrize("option", ["--json", "--tensors"])
def test_what_a_file_calls_its_tensors_cannot_control_the_terminal(model, option):
    evil = "\x1b]0;owned\x07\x1b[31m\x9b1m\u202e[red]name[/red]"

    def rename(made):
        made.signatureDefs[0].signatureKey = evil.encode()
        made.signatureDefs[0].inputs[0].name = evil.encode()
        made.subgraphs[0].tensors[1].name = evil.encode()
        made.operatorCodes[0].builtinCode = made.operatorCodes[0].deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
        made.operatorCodes[0].customCode = evil.encode()

    model.write_bytes(with_metadata(edited(model.read_bytes(), rename), metadata_block(name=evil, labels=evil), b""))
    result = run("inspect", model, option, width=500)
    assert result.exit_code == 1
    assert not set(result.output) & set("\x1b\x07\x9b\u202e")
    assert "[red]name[/red]" in result.output
    if option == "--json":
        assert InspectionRecord.from_json(result.stdout).file.signatures[0].key == evil


def test_printable():
    assert printable("a\x1b[0m\nb\u2028\u202e\x9bé") == r"a\x1b[0m\nb\u2028\u202e\x9bé"
    assert printable("n" * 9, 4) == "nnnn…"


def test_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    result = run("inspect", tmp_path / "pipe")
    assert (result.exit_code, "is not a regular file" in result.output) == (1, True)


@pytest.mark.parametrize("width", [80, 120])
def test_lines_fit_the_terminal(model, width):
    model.write_bytes(with_metadata(tflite_files.image_classifier("int16x8")))
    output = run("inspect", model, "--tensors", width=width).output
    assert max(map(len, output.splitlines())) <= width


def test_the_version_is_shown():
    assert run("--version").output == f"tfx-mobile, version {__version__}\n"
