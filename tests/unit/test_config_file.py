"""A pipeline's file: a mistake names the key, the line and the valid keys."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines import config_file, configs

FILE = configs.ROOT / "digits" / "kubeflow.yaml"


@pytest.mark.parametrize("path", sorted(configs.ROOT.rglob("*.yaml")), ids=lambda p: p.stem)
def test_every_file_is_valid(path: Path) -> None:
    assert config_file.load(path).model_name


def changed(tmp_path: Path, old: str, new: str) -> Path:
    text = FILE.read_text()
    assert old in text
    path = tmp_path / "pipeline.yaml"
    path.write_text(text.replace(old, new))
    return path


def line_of(path: Path, text: str) -> int:
    return next(n for n, line in enumerate(path.read_text().splitlines(), 1) if text in line)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("train_steps: 600", "train_step: 600", r"line {}: train_step is no key here; valid keys: pipeline_name, .*"),
        ("train_steps: 600", "train_steps: none", r"line {}: train_steps='none': .*integer"),
        ("train_steps: 600", "train_steps: 0", r"line {}: train_steps=0: .*greater than 0"),
        (
            "cpu: 4, memory_gb: 16}\n  Q",
            "cpus: 4, memory_gb: 16}\n  Q",
            r"line {}: resources.Trainer.cpus is no key here; valid keys: cpu, memory_gb",
        ),
        (
            "pipeline_name: digits",
            "pipeline_name: My_digits",
            r"line {}: pipeline_name='My_digits': use lower-case",
        ),
        ("type: cloud_storage", "type: floppy", r"line {}: destinations=.*valid types: filesystem"),
        (
            "digits/mobile_gate",
            "digits/mobil_gate",
            r"line {}: mobile_eval_config='digits/mobil_gate': .*digits/mobile_gate",
        ),
        (
            "num_samples: 200",
            "num_sample: 200",
            r"line {}: calibration=.*num_sample=200.*Its fields are split, num_samples",
        ),
        (
            "labels: {team: vision}",
            "on_not_blessed: fail",
            r"line {}: on_not_blessed='fail': .*conditional_push: false.*on_not_blessed: skip",
        ),
        (
            "labels: {team: vision}",
            "on_not_blessed: alert",
            r"line {}: on_not_blessed='alert': .*'skip' or 'fail'",
        ),
        ("int16x8]", "int17x8]", r"line {}: recipes=.*int17x8.*float32"),
    ],
)
def test_a_mistake(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = changed(tmp_path, old, new)
    line = line_of(path, new.splitlines()[0]) if "{}" in message else 0
    if "destinations" in message:
        line -= 1
    with pytest.raises(ValueError, match=message.format(line)):
        config_file.load(path)


def test_a_missing_key(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="line 2: model_name is missing"):
        config_file.load(changed(tmp_path, "model_name: digits\n", ""))


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    path = changed(tmp_path, "train_steps: 600", "train_steps: -1\nfirst: 1\nsecond: 2")
    with pytest.raises(ValueError, match=r"(?s)train_steps.*first.*second"):
        config_file.load(path)


def test_a_key_that_is_there_twice(tmp_path: Path) -> None:
    path = changed(tmp_path, "train_steps: 600", "train_steps: 600\ntrain_steps: 700")
    with pytest.raises(ValueError, match=f"line {line_of(path, '700')}: 'train_steps' is there twice"):
        config_file.load(path)


def test_what_is_no_config(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot be read: No such file"):
        config_file.load(tmp_path / "missing.yaml")
    (tmp_path / "a.yaml").write_text("a: [")
    with pytest.raises(ValueError, match="is not YAML"):
        config_file.load(tmp_path / "a.yaml")
    (tmp_path / "a.yaml").write_text("just text")
    with pytest.raises(ValueError, match="holds no keys"):
        config_file.load(tmp_path / "a.yaml")


def test_a_refused_model_can_fail_the_run(tmp_path: Path) -> None:
    path = changed(tmp_path, "labels: {team: vision}", "conditional_push: false\non_not_blessed: fail")
    assert config_file.load(path).on_not_blessed == "fail"
