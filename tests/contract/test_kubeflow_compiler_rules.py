"""What TFX's compiler for Kubeflow refuses, shown on small pipelines, and that ours does not run into it.

LocalDagRunner accepts every pipeline that is refused here. docs/kubeflow.md lists the rules under the same numbers.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("kfp", reason="TFX's Kubeflow compiler needs the extra kubeflow")
pytest.importorskip("pipelines", reason="the reference pipeline is not part of the wheel")

from tfx.components import InfraValidator, Trainer
from tfx.dsl.components.common.importer import Importer
from tfx.dsl.components.common.resolver import Resolver
from tfx.dsl.experimental.conditionals.conditional import Cond
from tfx.dsl.input_resolution.strategies.latest_artifact_strategy import LatestArtifactStrategy
from tfx.dsl.input_resolution.strategies.span_range_strategy import SpanRangeStrategy
from tfx.orchestration.data_types import RuntimeParameter
from tfx.orchestration.kubeflow.decorators import FinalStatusStr
from tfx.proto import infra_validator_pb2, trainer_pb2
from tfx.types import Channel
from tfx.types.channel import union
from tfx.types.standard_artifacts import Examples, Model, TransformGraph

import tfx_mobile
from pipelines import config_file, configs, kubeflow_v2
from pipelines.alerts import Alert
from tests.fakes import rule_breakers
from tests.fakes.compiled import compile_pipeline
from tests.fakes.rule_breakers import artifact_type, making
from tests.fakes.small_components import Count, Make, TakeNumber, Use
from tfx_mobile import FilesystemDestination, MobilePusher, TFLiteBlessing, TFLiteConverter, TFLiteModel


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "job.json"


@pytest.mark.parametrize(
    "name", ["TFLiteModel", "package.sub.TFLiteModel", "ab.TFLiteModel", "Package.Model", "p_x.It"]
)
def test_c1_names_of_artifact_types(file: Path, name: str) -> None:
    with pytest.raises(ValueError, match=f"Invalid custom artifact type name: {name}"):
        compile_pipeline(file, [making(artifact_type(name))])


def test_c2_declared_properties(file: Path) -> None:
    with pytest.raises(KeyError, match="span not expected in artifact type schema"):
        compile_pipeline(file, [making(artifact_type("package.Model", rule_breakers.WITH_PROPERTIES))])


@pytest.mark.parametrize("name", ["TFLiteVariants", "TFLiteModel", "TFLiteBlessing"])
def test_c1_c2_our_types_compile(file: Path, name: str) -> None:
    job = compile_pipeline(file, [making(getattr(tfx_mobile, name))])
    made = job["pipelineSpec"]["components"]["Making"]["outputDefinitions"]["artifacts"]["made"]
    assert made["artifactType"]["instanceSchema"] == f"title: tfx_mobile.{name}\ntype: object\n"


def test_c3_union(file: Path) -> None:
    makes = [Make(blessed=1).with_id(name) for name in ("A", "B")]
    both = union([make.outputs["model"] for make in makes])
    with pytest.raises(TypeError, match="Only single Channel is supported"):
        compile_pipeline(file, [*makes, Use(model=both)])


def test_c4_c5_resolvers(file: Path) -> None:
    spans = Resolver(strategy_class=SpanRangeStrategy, config={"range_config": None}, examples=Channel(type=Examples))
    with pytest.raises(TypeError, match="Unexpected resolver policy"):
        compile_pipeline(file, [spans])
    config = {"desired_num_of_artifacts": 2}
    two = Resolver(strategy_class=LatestArtifactStrategy, config=config, model=Channel(type=Model))
    with pytest.raises(ValueError, match="Only desired_num_of_artifacts=1"):
        compile_pipeline(file, [two])


def test_c6_a_module_file_is_built_into_the_pipeline_root(file: Path, tmp_path: Path) -> None:
    module = tmp_path / "user" / "training.py"
    module.parent.mkdir()
    module.write_text("def run_fn(_): pass")
    examples = Importer(source_uri="/examples", artifact_type=Examples).with_id("Bring")
    graph = Importer(source_uri="/graph", artifact_type=TransformGraph).with_id("BringGraph")
    trainer = Trainer(
        module_file=str(module),
        examples=examples.outputs["result"],
        transform_graph=graph.outputs["result"],
        train_args=trainer_pb2.TrainArgs(),
        eval_args=trainer_pb2.EvalArgs(),
    )
    job = compile_pipeline(file, [examples, graph, trainer])
    (wheel,) = (tmp_path / "root" / "_wheels").glob("*.whl")
    assert f"training@{wheel}" in str(job)


def test_c7_pipeline_names(file: Path) -> None:
    with pytest.raises(ValueError, match="illegal, please follow the pattern"):
        compile_pipeline(file, [Make(blessed=1)], name="my_pipeline")


def test_c8_conditions_on_values_and_splits(file: Path) -> None:
    count, make = Count(), Make(blessed=1)
    with Cond(count.outputs["count"].future()[0].value == 3):
        use = Use(model=make.outputs["model"])
    with pytest.raises(ValueError, match="unsupported placeholder operator artifact_value_op"):
        compile_pipeline(file, [count, make, use])
    make = Make(blessed=1)
    with Cond(make.outputs["model"].future()[0].split_uri("eval") == "x"):
        use = Use(model=make.outputs["model"])
    with pytest.raises(NotImplementedError, match="split uri"):
        compile_pipeline(file, [make, use])


def test_c9_parameters_from_other_steps(file: Path) -> None:
    count = Count()
    compile_pipeline(file, [count, TakeNumber(number=count.outputs["count"].future()[0].value)])
    count = Count()
    with pytest.raises(ValueError, match="Float is an unsupported component output type"):
        compile_pipeline(file, [count, TakeNumber(number=count.outputs["share"].future()[0].value)])


def test_c10_infra_validator(file: Path) -> None:
    make = Make(blessed=1)
    serving = infra_validator_pb2.ServingSpec(
        tensorflow_serving=infra_validator_pb2.TensorFlowServing(tags=["latest"]),
        local_docker=infra_validator_pb2.LocalDockerConfig(),
    )
    with pytest.raises(NotImplementedError, match=r"InfraValidator.* is not supported"):
        compile_pipeline(file, [make, InfraValidator(model=make.outputs["model"], serving_spec=serving)])


def test_c11_executor_specs(file: Path) -> None:
    with pytest.raises(NotImplementedError, match="Executor spec"):
        compile_pipeline(file, [making(Model, spec=rule_breakers.OtherSpec())])


def test_c12_resources(file: Path) -> None:
    with pytest.raises(AssertionError, match="must be a ResourceSpec proto"):
        compile_pipeline(file, [Make(blessed=1).with_platform_config({"cpu": 4})])


def test_c13_component_ids(file: Path) -> None:
    with pytest.raises((RuntimeError, ValueError), match=r"(?i)duplicate"):
        compile_pipeline(file, [Make(blessed=1), Make(blessed=0)])
    alert = Alert(final_status=FinalStatusStr(), alerts_dir="/alerts")
    job = compile_pipeline(file, [Make(blessed=1).with_id("tfx-dag")], exit_handler=alert)
    (renamed,) = job["pipelineSpec"]["components"]["tfx-dag"]["dag"]["tasks"]
    assert renamed.startswith("tfx-dag")
    assert renamed != "tfx-dag"


def test_an_exit_handler_takes_no_runtime_parameter(file: Path) -> None:
    alert = Alert(final_status=FinalStatusStr(), alerts_dir=RuntimeParameter(name="alerts", ptype=str))
    with pytest.raises(RuntimeError, match="must run under ParameterContext"):
        compile_pipeline(file, [Make(blessed=1)], exit_handler=alert)


def test_r3_an_executor_of_the_main_module_compiles(tmp_path: Path) -> None:
    """Nothing warns; only a run of the container shows it (tests/unit/test_run_ir.py)."""
    program = tmp_path / "program.py"
    program.write_text(
        f"""
import sys
sys.path.insert(0, {str(Path(kubeflow_v2.__file__).parents[1])!r})
from pathlib import Path
from tfx.dsl.components.base.base_executor import EmptyExecutor
from tfx.types.standard_artifacts import Model
from tests.fakes.compiled import compile_pipeline
from tests.fakes.rule_breakers import making
class Mine(EmptyExecutor): pass
job = compile_pipeline(Path({str(tmp_path / "job.json")!r}), [making(Model, Mine)])
print(job["pipelineSpec"]["deploymentSpec"]["executors"]["Making_executor"]["container"]["args"][1])
"""
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(program)], check=True, capture_output=True, text=True, cwd=tmp_path
    )
    assert done.stdout.split() == ["__main__.Mine"]


# --- ours ------------------------------------------------------------------------------------------------------------


def test_c9_our_components_take_no_values_of_other_steps(file: Path) -> None:
    """They check parameters while the pipeline is defined; what another step will write cannot be checked."""
    value = Count().outputs["count"].future()[0].value
    destination = FilesystemDestination(base_directory="/releases")
    with pytest.raises(ValueError, match="channel"):
        MobilePusher(
            model=Channel(type=TFLiteModel),
            blessing=Channel(type=TFLiteBlessing),
            model_name="digits",
            channel=value,
            destinations=[destination],
        )
    with pytest.raises(RuntimeError, match="Iterating over a placeholder"):
        TFLiteConverter(model=Channel(type=Model), recipes=value)


def test_c6_c7_our_config(tmp_path: Path) -> None:
    for path in configs.ROOT.rglob("*.yaml"):
        config = config_file.load(path)
        job = kubeflow_v2.compile_pipeline(config, tmp_path / f"{path.stem}.json")
        assert job["pipelineSpec"]["pipelineInfo"]["name"] == config.pipeline_name
    text = (configs.ROOT / "digits" / "kubeflow.yaml").read_text()
    changed = tmp_path / "changed.yaml"
    changed.write_text(text.replace("pipeline_name: digits", "pipeline_name: my_digits"))
    with pytest.raises(ValueError, match="line 2: pipeline_name='my_digits'"):
        config_file.load(changed)


def test_runtime_parameters_reach_the_tasks_below_an_exit_handler(file: Path) -> None:
    """TFX's compiler forgets to hand them on; `compile_pipeline` does."""
    from pipelines.run_ir import ir

    def components() -> list[Any]:
        return [Make(blessed=RuntimeParameter(name="blessed", ptype=int))]

    alert = Alert(final_status=FinalStatusStr(), alerts_dir="/alerts")
    job = compile_pipeline(file, components(), exit_handler=alert)
    with pytest.raises(ValueError, match="Make reads the parameter blessed, which tfx-dag does not pass on"):
        ir.load(file)
    kubeflow_v2.hand_parameters_on(job)
    ir.check(job)
    assert job["pipelineSpec"]["root"]["dag"]["tasks"]["tfx-dag"]["inputs"] == {
        "parameters": {"blessed": {"componentInputParameter": "blessed"}}
    }
    assert job["pipelineSpec"]["components"]["tfx-dag"]["inputDefinitions"] == {
        "parameters": {"blessed": {"parameterType": "NUMBER_INTEGER"}}
    }
    without = compile_pipeline(file, components())
    before = str(without)
    kubeflow_v2.hand_parameters_on(without)
    assert str(without) == before
