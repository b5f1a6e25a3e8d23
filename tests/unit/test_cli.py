import json

import pytest
from click.testing import CliRunner

from tests.fakes import tflite_files
from tfx_mobile import __version__
from tfx_mobile.cli import main
from tfx_mobile.records import ModelFileRecord
from tfx_mobile.tflite.flatbuffer import inspect_model


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(tflite_files.dense("int8"))
    return path


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_inspect_shows_what_an_app_developer_needs(model):
    result = run("inspect", model)
    assert result.exit_code == 0, result.output
    for text in ("int8", "[-1, 4]", "FULLY_CONNECTED", "1.14.0 or newer", inspect_model(model.read_bytes()).sha256):
        assert text in result.output


def test_inspect_as_json_is_the_record(model):
    result = run("inspect", "--json", model)
    assert ModelFileRecord.from_json(result.stdout) == inspect_model(model.read_bytes())
    assert json.loads(result.stdout)["size_bytes"] == model.stat().st_size


def test_a_corrupt_file_is_an_error_with_the_reason(model):
    model.write_bytes(model.read_bytes()[:500])
    result = run("inspect", model)
    assert result.exit_code == 1
    assert "Corrupt .tflite file of 500 bytes" in result.output


def test_the_version_is_shown():
    assert run("--version").output == f"tfx-mobile, version {__version__}\n"
