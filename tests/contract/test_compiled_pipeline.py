"""The compiled pipeline keeps the rules that only Kubeflow and Vertex enforce, at the compiler or in the container."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("kfp", reason="TFX's Kubeflow compiler needs the extra kubeflow")
pytest.importorskip("pipelines", reason="the reference pipeline is not part of the wheel")

from pipelines import config_file, kubeflow_v2
from pipelines.run_ir import ir

TYPE_NAME = re.compile(r"^[a-z][a-z0-9-_]{2,20}[.][A-Z][a-zA-Z0-9-_]{2,49}$")


@pytest.fixture(scope="module", params=kubeflow_v2.SCHEMA_VERSIONS)
def output(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("compiled") / "digits.json"
    kubeflow_v2.compile_pipeline(config_file.load(kubeflow_v2.DEFAULT_CONFIG), output, request.param)
    return output


@pytest.fixture(scope="module")
def job(output: Path) -> dict[str, Any]:
    return json.loads(output.read_text())


def containers(job: dict[str, Any]) -> dict[str, Any]:
    executors = job["pipelineSpec"]["deploymentSpec"]["executors"]
    return {name: e["container"] for name, e in executors.items() if "container" in e}


def titles(job: dict[str, Any]) -> set[str]:
    return set(re.findall(r"title: ([\w.]+)", json.dumps(job)))


def test_every_level_is_what_the_spec_says(job: dict[str, Any]) -> None:
    ir.check(job)
    for path in (("root",), ("deploymentSpec",)):
        broken = json.loads(json.dumps(job))
        level = broken["pipelineSpec"]
        for step in path:
            level = level[step]
        level["bogus"] = 1
        with pytest.raises(ValueError, match="bogus"):
            ir.check(broken)


def test_every_class_named_in_it_can_be_imported(job: dict[str, Any]) -> None:
    named = [a for c in containers(job).values() for a in c["args"] if re.fullmatch(r"[\w.]+\.executor\.Executor", a)]
    assert {n for n in named if n.startswith("tfx_mobile")} == {
        "tfx_mobile.tflite_converter.executor.Executor",
        "tfx_mobile.quantization_evaluator.executor.Executor",
        "tfx_mobile.mobile_pusher.executor.Executor",
    }
    for path in named:
        module, _, name = path.rpartition(".")
        assert hasattr(importlib.import_module(module), name)
        assert module != "__main__"


def test_own_artifact_types(job: dict[str, Any]) -> None:
    own = {title for title in titles(job) if title.startswith("tfx_mobile")}
    assert own == {"tfx_mobile.TFLiteVariants", "tfx_mobile.TFLiteModel", "tfx_mobile.TFLiteBlessing"}
    package = importlib.import_module("tfx_mobile")
    for title in own:
        assert TYPE_NAME.fullmatch(title)
        kind = getattr(package, title.split(".")[1])
        assert title == kind.TYPE_NAME
        assert not kind.PROPERTIES


def test_no_component_claims_to_bless_the_float_model(job: dict[str, Any]) -> None:
    components = job["pipelineSpec"]["components"]
    writers = {
        name
        for name, component in components.items()
        for spec in component.get("outputDefinitions", {}).get("artifacts", {}).values()
        if "title: tfx.ModelBlessing" in spec["artifactType"]["instanceSchema"]
    }
    assert writers == {"Evaluator", "latest_blessed_model_resolver-model-blessing-resolver"}


def test_a_condition_reads_an_input_the_task_has(output: Path) -> None:
    compiled = ir.load(output)
    conditional = [task for task in compiled.tasks if task.condition]
    assert [task.name for task in conditional] == ["MobilePusher"]
    for task in conditional:
        assert task.condition is not None
        keys = set(re.findall(r"inputs\.artifacts\['([^']+)'\]", task.condition))
        assert keys
        assert keys <= task.input_artifacts.keys()
        assert keys <= task.component["inputDefinitions"]["artifacts"].keys()


def test_every_step_runs_in_the_image_of_this_version(job: dict[str, Any]) -> None:
    from tfx_mobile import __version__

    images = {container["image"] for container in containers(job).values()}
    assert len(images) == 1
    assert images.pop().endswith(f":{__version__}")


def test_nothing_is_built_at_run_time(job: dict[str, Any]) -> None:
    text = json.dumps(job)
    for sign in ("_wheels", "module_file", "tfx_user_code", "direct_num_workers", "pip install"):
        assert sign not in text
    assert "pipelines.digits.model.run_fn" in text


def test_resources_arrive(job: dict[str, Any]) -> None:
    by_name = containers(job)
    assert by_name["Trainer_executor"]["resources"] == {"cpuLimit": 4.0, "memoryLimit": 16.0}
    assert "resources" not in by_name["MobilePusher_executor"]


def test_runtime_parameters_and_their_defaults(job: dict[str, Any], output: Path) -> None:
    declared = job["pipelineSpec"]["root"]["inputDefinitions"]["parameters"]
    defaults = json.loads(kubeflow_v2.parameters_file(output).read_text())
    assert declared.keys() == defaults.keys() == {"examples_dir", "channel"}
    assert all("default" not in json.dumps(parameter) for parameter in declared.values())


def test_compiling_writes_two_files_and_needs_nothing_else(tmp_path: Path) -> None:
    """No network, no credentials, no write access to the pipeline root."""
    code = f"""
import socket, sys
def refuse(*_): raise AssertionError("the network was asked")
socket.socket.connect = socket.socket.connect_ex = refuse
from pathlib import Path
from pipelines import config_file, kubeflow_v2
kubeflow_v2.compile_pipeline(config_file.load(kubeflow_v2.DEFAULT_CONFIG), Path({str(tmp_path / "p.json")!r}))
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, cwd=Path(kubeflow_v2.__file__).parents[1])
    assert {path.name for path in tmp_path.iterdir()} == {"p.json", "p.parameters.json"}


def test_yaml_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must end in \.json"):
        kubeflow_v2.compile_pipeline(config_file.load(kubeflow_v2.DEFAULT_CONFIG), tmp_path / "p.yaml")


def test_resources_of_no_component(tmp_path: Path) -> None:
    config = config_file.load(kubeflow_v2.DEFAULT_CONFIG)
    config = config.model_copy(update={"resources": {"Trainr": config_file.Resources(cpu=1, memory_gb=1)}})
    with pytest.raises(ValueError, match=r"resources\.Trainr: there is no such component; there are: ImportExampleGen"):
        kubeflow_v2.create(config)


@pytest.mark.parametrize("schema", kubeflow_v2.SCHEMA_VERSIONS)
@pytest.mark.parametrize("compare", [True, False])
def test_a_comparison_with_production_is_never_served_from_the_cache(
    tmp_path: Path, schema: str, compare: bool
) -> None:
    """Kubeflow runs no driver that could tell the cache which release the channel names today."""
    config = config_file.load(kubeflow_v2.DEFAULT_CONFIG).model_copy(update={"compare_with_production": compare})
    tasks = kubeflow_v2.compile_pipeline(config, tmp_path / "p.json", schema)["pipelineSpec"]["root"]["dag"]["tasks"]
    assert ("cachingOptions" in tasks["QuantizationEvaluator"]) is not compare
    assert tasks["TFLiteConverter"]["cachingOptions"] == {"enableCache": True}


def test_beam_arguments_reach_every_container(tmp_path: Path) -> None:
    """Compiled only: no test runs on Dataflow."""
    from tfx.orchestration.kubeflow.v2 import kubeflow_v2_dag_runner as kubeflow
    from tfx.orchestration.pipeline import Pipeline

    from tests.fakes.compiled import compile_pipeline
    from tests.fakes.small_components import Count
    from tfx_mobile import beam_worker_args

    arguments = ["--runner=DataflowRunner", *beam_worker_args(container_image="registry/mobile:1")]
    runner = kubeflow.KubeflowV2DagRunner(
        config=kubeflow.KubeflowV2DagRunnerConfig(default_image="registry/mobile:1"), output_filename="unused.json"
    )
    components = [Count()]
    compiled = runner.run(
        Pipeline("small", "gs://bucket/root", components=components, beam_pipeline_args=arguments), write_out=False
    )
    (container,) = containers(compiled).values()
    assert container["args"][-2:] == arguments
    (plain,) = containers(compile_pipeline(tmp_path / "p.json", [Count()])).values()
    assert not [a for a in plain["args"] if "runner=" in a]


def test_a_folder_for_alerts_is_an_exit_handler(tmp_path: Path) -> None:
    config = config_file.load(kubeflow_v2.DEFAULT_CONFIG)
    told = config.model_copy(
        update={"alerts_dir": "gs://bucket/alerts", "conditional_push": False, "on_not_blessed": "fail"}
    )
    kubeflow_v2.compile_pipeline(told, tmp_path / "job.json")
    compiled = ir.load(tmp_path / "job.json")
    assert compiled.exit_handler is not None
    assert compiled.exit_handler.runs_always
    values = compiled.exit_handler.spec["inputs"]["parameters"]
    assert values["alerts_dir"]["runtimeValue"]["constant"] == "gs://bucket/alerts"
    pusher = next(task for task in compiled.tasks if task.name == "MobilePusher")
    assert pusher.condition is None
    assert pusher.spec["inputs"]["parameters"]["on_not_blessed"]["runtimeValue"]["constant"] == "fail"


def test_a_skipped_pusher_cannot_fail(tmp_path: Path) -> None:
    config = config_file.load(kubeflow_v2.DEFAULT_CONFIG).model_copy(update={"on_not_blessed": "fail"})
    with pytest.raises(ValueError, match=r"on_not_blessed='fail' and conditional_push=True contradict each other"):
        kubeflow_v2.compile_pipeline(config, tmp_path / "job.json")
