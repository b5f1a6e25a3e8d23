import pytest

from pipelines import config_file, configs
from tfx_mobile.quantization_evaluator import eval_config as eval_configs

FILES = sorted(path for path in configs.ROOT.rglob("*") if path.is_file())


def test_there_are_configs():
    assert FILES


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(configs.ROOT)))
def test_every_config_is_loaded_and_can_gate(path):
    if path.suffix == ".yaml":
        assert config_file.load(path).model_name
        return
    assert path.suffix == ".pbtxt", "say here how a new kind of config is loaded"
    eval_configs.check(configs.eval_config(str(path.relative_to(configs.ROOT).with_suffix(""))))


def test_an_unknown_config_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"no config 'digits/nope'; .*: digits/float_gate, digits/mobile_gate"):
        configs.eval_config("digits/nope")


def test_a_typo_is_refused_with_file_line_and_field(tmp_path, monkeypatch):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "gate.pbtxt").write_text("slicing_specs {}\nmetric_specs {}\n")
    monkeypatch.setattr(configs, "ROOT", tmp_path / "configs")
    with pytest.raises(ValueError, match=r"gate is not a tfma.EvalConfig: line 2:.*metric_specs"):
        configs.eval_config("gate")
