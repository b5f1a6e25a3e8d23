"""What remote Beam workers are given to find this package. Also run against the installed wheel."""

import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import tfx_mobile
from tfx_mobile import beam_worker_args
from tfx_mobile.errors import BeamWorkerError

IMAGE = "europe-docker.pkg.dev/project/images/mobile:1"


def values(arguments):
    return dict(argument.split("=", 1) for argument in arguments)


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    folder = tmp_path_factory.mktemp("given") / "made" / "for it"
    return values(beam_worker_args(folder=folder)), folder


def test_without_an_image_workers_get_the_wheel_and_what_it_needs(given):
    arguments, folder = given
    wheel = folder / f"tfx_mobile-{tfx_mobile.__version__}-py3-none-any.whl"
    assert arguments == {"--requirements_file": str(folder / "requirements.txt"), "--extra_package": str(wheel)}
    assert sorted(path.name for path in folder.iterdir()) == ["requirements.txt", wheel.name]


def test_an_image_holds_everything_but_what_is_asked_for(tmp_path):
    assert beam_worker_args(IMAGE) == [f"--sdk_container_image={IMAGE}"]
    arguments = values(beam_worker_args(container_image=IMAGE, folder=tmp_path))
    assert set(arguments) == {"--sdk_container_image", "--extra_package"}
    assert Path(arguments["--extra_package"]).parent == tmp_path


def test_the_wheel_works_where_only_the_wheel_is(given, tmp_path):
    """In a process that sees the other packages but neither a checkout nor another installation of this one."""
    arguments, _ = given
    target = tmp_path / "target"
    wheel = arguments["--extra_package"]
    pip = [sys.executable, "-m", "pip", "--isolated", "--disable-pip-version-check", "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", "--no-index", "--no-compile", "--target", str(target), wheel], check=True)
    # Without `site` no .pth file is read, so an editable installation is not found.
    others = Path(importlib.util.find_spec("pydantic").origin).parent.parent
    code = """
import importlib, importlib.metadata, importlib.resources, pkgutil, sys
import tfx_mobile
from tfx_mobile.quantization_evaluator.scoring import evaluation
from tfx_mobile.quantization_evaluator import report  # with its templates
names = [m.name for m in pkgutil.walk_packages(tfx_mobile.__path__, "tfx_mobile.")]
assert all(importlib.util.find_spec(name).origin.startswith(sys.argv[1]) for name in names), names
assert importlib.resources.files("tfx_mobile").joinpath("py.typed").is_file()
assert importlib.metadata.version("tfx-mobile") == tfx_mobile.__version__
tfx_mobile.beam_worker_args(folder=sys.argv[2])
print(len(names))
"""
    again = tmp_path / "again"
    env = {**os.environ, "PYTHONPATH": f"{target}{os.pathsep}{others}", "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-S", "-W", "ignore", "-c", code, str(target), str(again)]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 60
    # An installed wheel and the installation that it was made of give the same bytes.
    assert (again / Path(wheel).name).read_bytes() == Path(wheel).read_bytes()


def test_the_wheel_holds_the_package_and_nothing_else(given):
    arguments, _ = given
    package = Path(tfx_mobile.__file__).parent
    with zipfile.ZipFile(arguments["--extra_package"]) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        for name in ("tfx_mobile/__init__.py", "tfx_mobile/quantization_evaluator/report/templates/page.html.jinja"):
            assert archive.read(name) == package.parent.joinpath(name).read_bytes()
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    assert len(names) == len(set(names))
    info = f"tfx_mobile-{tfx_mobile.__version__}.dist-info"
    assert {name.removeprefix(f"{info}/") for name in names if name.startswith(info)} == {
        "METADATA",
        "RECORD",
        "WHEEL",
        "entry_points.txt",
        "licenses/LICENSE",
    }
    assert not [name for name in names if "__pycache__" in name or not name.startswith(("tfx_mobile/", info))]


def test_requirements_are_what_is_installed_and_nothing_that_is_not_needed(given):
    arguments, _ = given
    lines = Path(arguments["--requirements_file"]).read_text().splitlines()
    pins = dict(line.split("==") for line in lines)
    assert list(pins) == sorted(pins)
    # Direct ones, an extra's of one, and one several steps away.
    for name in ("tfx", "ai-edge-litert", "tensorflow", "apache-beam", "google-cloud-bigquery", "pyarrow", "six"):
        assert pins[name] == importlib.metadata.version(name)
    # This package comes as a wheel; extras and tools were not asked for.
    assert not {"tfx-mobile", "ai-edge-quantizer", "pytest", "ruff"} & set(pins)


def test_beam_takes_them_and_tfx_steps_back(given, tmp_path):
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.runners.portability.stager import Stager
    from tfx.utils import dependency_utils

    arguments, _ = given
    flags = [f"{name}={value}" for name, value in arguments.items()]
    assert dependency_utils.make_beam_dependency_flags(flags) == flags
    assert dependency_utils.make_beam_dependency_flags(beam_worker_args(IMAGE)) == beam_worker_args(IMAGE)
    # Skips the download of the requirements, which Beam would stage too.
    options = PipelineOptions([*flags, "--requirements_cache=skip"])
    resources = Stager.create_job_resources(options, str(tmp_path), log_submission_env_dependencies=False)
    staged = {name: Path(path) for path, name, _ in Stager.extract_staging_tuple_iter(resources)}
    wheel = Path(arguments["--extra_package"])
    assert set(staged) == {"requirements.txt", wheel.name, "extra_packages.txt"}
    assert staged["extra_packages.txt"].read_text().split() == [wheel.name]
    assert staged[wheel.name].read_bytes() == wheel.read_bytes()


# The recipes of docs/scale.md. Compiled and parsed, not run.
RECIPES = {
    "DataflowRunner": [
        "--project=my-project",
        "--region=europe-west4",
        "--temp_location=gs://bucket/tmp",
        "--sdk_location=container",
        "--experiments=use_runner_v2",
        "--max_num_workers=8",
    ],
    "FlinkRunner": [
        "--flink_master=flink:8081",
        "--flink_version=1.20",
        "--environment_type=DOCKER",
        "--parallelism=4",
    ],
    "SparkRunner": ["--spark_master_url=spark://spark:7077", "--spark_version=3", "--environment_type=DOCKER"],
}


@pytest.mark.parametrize("runner", RECIPES)
def test_recipes_for_remote_runners_are_what_beam_and_tfx_take(runner):
    from apache_beam.options.pipeline_options import PipelineOptions
    from tfx.utils import dependency_utils

    from tfx_mobile.quantization_evaluator import beam_options

    arguments = [f"--runner={runner}", *RECIPES[runner], *beam_worker_args(container_image=IMAGE)]
    beam_options.check_arguments(arguments)
    # With its own image TFX adds nothing, in particular no package that holds TFX alone.
    assert dependency_utils.make_beam_dependency_flags(arguments) == arguments
    # Beam drops what it does not know without an error, so each has to come out of its parser as it went in.
    parsed = PipelineOptions(arguments).get_all_options()
    for name, value in values(arguments).items():
        found = parsed[name.removeprefix("--")]
        assert value in map(str, found if isinstance(found, list) else [found]), name
    assert "no_such_option" not in PipelineOptions([*arguments, "--no_such_option=1"]).get_all_options()


def test_a_temporary_folder_ends_with_the_process():
    code = "from tfx_mobile import beam_worker_args as a; print(a()[-1]); print(a()[-1])"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, capture_output=True, text=True)
    paths = [Path(line.partition("=")[2]) for line in done.stdout.split()]
    assert len({path.parent for path in paths}) == 2
    assert not [path for path in paths if path.parent.exists()]


@pytest.mark.parametrize("image", ["", "two words", "--runner=x", "gcr.io/a/b:", 3])
def test_an_image_that_is_none_is_refused(image):
    with pytest.raises(BeamWorkerError, match=rf"container_image={re.escape(repr(image))} is no reference .*such as"):
        beam_worker_args(image)


def test_a_folder_that_beam_cannot_read_from_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in ("gs://bucket/folder", ""):
        with pytest.raises(BeamWorkerError, match=rf"folder='{folder}' is no local folder.*local path"):
            beam_worker_args(folder=folder)
    with pytest.raises(BeamWorkerError, match=r"cannot be made: .*Give a folder to write to"):
        beam_worker_args(folder=tmp_path / "file")


def test_metadata_of_another_version_are_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(tfx_mobile, "__version__", "9.9")
    with pytest.raises(BeamWorkerError, match=r"code is tfx-mobile 9\.9, the installed metadata say .*pip install"):
        beam_worker_args(IMAGE, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"direct_url.json": '{"url": "file:///src/t"}'}, r"tenacity 9\.9 was installed from file:///src/t.*image"),
        ({"METADATA": "Requires-Dist: no-such-thing"}, r"no-such-thing is not installed.*Install"),
    ],
)
def test_what_workers_could_not_install_is_refused(monkeypatch, tmp_path, files, message):
    info = tmp_path / "path" / "tenacity-9.9.dist-info"
    info.mkdir(parents=True)
    metadata = f"Metadata-Version: 2.1\nName: tenacity\nVersion: 9.9\n{files.pop('METADATA', '')}\n"
    for name, text in {"METADATA": metadata, **files}.items():
        (info / name).write_text(text)
    monkeypatch.syspath_prepend(str(info.parent))
    with pytest.raises(BeamWorkerError, match=message):
        beam_worker_args(folder=tmp_path / "given")
    assert not list((tmp_path / "given").iterdir())
