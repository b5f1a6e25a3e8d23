"""MobilePusher without a blessing: only when allowed, only what its record describes, and labelled as such."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tfx import types
from tfx.orchestration.data_types import RuntimeParameter
from tfx.types import standard_artifacts
from tfx.types.artifact import Artifact

from tests.component import pusher_artifacts as given
from tests.component.pusher_artifacts import Inputs, Place
from tests.fakes.releases import SOURCE_SHA256, model_bytes
from tfx_mobile import FilesystemDestination, MobilePusher, TFLiteBlessing, TFLiteModel, TFLiteVariants
from tfx_mobile.errors import ModelFileError, NotBlessedError, PushError
from tfx_mobile.records import PushReceipt, Reason, ReleaseManifest, Verdict, sha256_of
from tfx_mobile.release_store.reading import resolve

DATA, OTHER = model_bytes(), model_bytes(5)
FILES = {given.WINNER: DATA, "float32": OTHER, "int16x8": b""}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def manifest_of(place: Place) -> ReleaseManifest:
    return resolve(place.destination.open_store(), "digits", "production").manifest


def assert_labelled(place: Place, pushed: Artifact, objections: list[str]) -> None:
    """Everything that speaks of the push says that nobody blessed it, or that somebody did."""
    assert pushed.get_string_custom_property("push_status") == "pushed"
    assert pushed.get_int_custom_property("blessed") == int(not objections)
    assert json.loads(pushed.get_string_custom_property("reasons") or "[]") == objections
    (receipt,) = json.loads(pushed.get_string_custom_property("destinations"))
    assert PushReceipt(**receipt).blessed is not bool(objections)
    assert manifest_of(place).blessed is not bool(objections)
    assert ReleaseManifest.read(Path(pushed.uri) / "release.json").blessed is not bool(objections)


# --- construction ----------------------------------------------------------------------------------------------------


MODEL, BLESSING, VARIANTS = (types.Channel(t) for t in (TFLiteModel, TFLiteBlessing, TFLiteVariants))


def construct(**parameters: Any) -> MobilePusher:
    return MobilePusher(
        model_name="digits", destinations=[FilesystemDestination(base_directory="/srv/releases")], **parameters
    )


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"model": MODEL}, r"'blessing' is not wired.*or set allow_unblessed=True"),
        ({"blessing": BLESSING}, "nothing to push"),
        ({"allow_unblessed": True}, "nothing to push"),
        ({"model": MODEL, "variants": VARIANTS, "allow_unblessed": True}, "Both 'model' and 'variants'"),
        ({"variants": VARIANTS, "variant": "float32"}, "'variants' are what was converted, not what was blessed"),
        ({"variants": VARIANTS, "allow_unblessed": True}, r"'variant' does not say.*integer_only_int8"),
        ({"model": MODEL, "variant": "float32", "allow_unblessed": True}, "variant='float32' chooses among"),
        ({"model": MODEL, "allow_unblessed": "perhaps"}, "allow_unblessed='perhaps' is not a boolean"),
        ({"variants": VARIANTS, "variant": 3, "allow_unblessed": True}, "variant=3 is not the name of a recipe"),
    ],
)
def test_wrong_construction(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        construct(**parameters)


@pytest.mark.parametrize(
    "parameters",
    [
        {"model": MODEL, "allow_unblessed": True},
        {"model": MODEL, "blessing": BLESSING, "allow_unblessed": True},
        {"variants": VARIANTS, "variant": "float32", "allow_unblessed": True},
        {"variants": VARIANTS, "variant": "float32", "blessing": BLESSING, "allow_unblessed": True},
        # Whether it is allowed, and which one is meant, is known when the component runs.
        {"model": MODEL, "allow_unblessed": RuntimeParameter(name="allow", ptype=int)},
        {
            "variants": VARIANTS,
            "variant": RuntimeParameter(name="variant", ptype=str),
            "allow_unblessed": RuntimeParameter(name="allow", ptype=int),
        },
    ],
)
def test_what_is_wired_is_an_input(parameters: dict[str, Any]) -> None:
    pusher = construct(**parameters)
    assert set(pusher.inputs) == set(parameters) & {"model", "variants", "blessing"}


def test_what_could_not_be_checked_before_is_checked_when_it_runs(place: Place, tmp_path: Path) -> None:
    inputs = given.inputs_of(tmp_path / "run")
    variants = [given.variants_artifact(tmp_path / "variants", FILES)]
    for wired, properties, message in (
        ({"model": inputs["model"]}, {"allow_unblessed": 0}, "'blessing' is not wired"),
        ({"variants": variants}, {"allow_unblessed": "0", "variant": "float32"}, "not what was blessed"),
        ({"variants": variants}, {"allow_unblessed": 1, "variant": ""}, "does not say which"),
    ):
        with pytest.raises(ValueError, match=message):
            place.push(wired, **properties)
    place.assert_untouched()


# --- a variant of one's own choice -----------------------------------------------------------------------------------


def test_a_variant_is_pushed_without_an_evaluator(
    place: Place, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    inputs = {"variants": [given.variants_artifact(tmp_path / "variants", FILES)]}
    with caplog.at_level(logging.WARNING, "absl"):
        pushed = place.push(inputs, allow_unblessed=1, variant="float32")
    assert "float32 is pushed although it is not blessed" in caplog.text
    assert_labelled(place, pushed, ["no evaluation was asked"])
    assert pushed.get_string_custom_property("variant") == "float32"
    assert pushed.get_string_custom_property("sha256") == hashlib.sha256(OTHER).hexdigest()
    release = resolve(place.destination.open_store(), "digits", "production")
    assert release.model == OTHER
    assert (release.manifest.evaluation, release.manifest.lineage) == (None, None)
    assert (release.manifest.source_sha256, release.manifest.versions) == (SOURCE_SHA256, {"tensorflow": "2.16.2"})
    assert release.manifest.recipe.name == "float32"


def altered(folder: Path) -> None:
    (folder / "float32" / "model.tflite").write_bytes(OTHER[:-1] + b"!")


def lost(folder: Path) -> None:
    (folder / "float32" / "model.tflite").unlink()


def undescribed(folder: Path) -> None:
    (folder / "manifest.json").unlink()


@pytest.mark.parametrize(
    ("variant", "spoil", "error", "message"),
    [
        ("float32", altered, ModelFileError, "was altered after it was recorded"),
        ("float32", lost, ModelFileError, "There is no file .*model.tflite, though its record says so"),
        ("float32", undescribed, NotBlessedError, r"no manifest\.json in .*TFLiteConverter"),
        ("int16x8", None, ModelFileError, "could not be converted: no kernel.*dynamic_range, float32"),
        ("int8", None, ModelFileError, "variant='int8' is not there.*Choose .*dynamic_range, float32"),
    ],
)
def test_a_variant_that_cannot_be_pushed(
    place: Place, tmp_path: Path, variant: str, spoil: Callable[[Path], None] | None, error: Any, message: str
) -> None:
    inputs = {"variants": [given.variants_artifact(tmp_path / "variants", FILES)]}
    if spoil:
        spoil(tmp_path / "variants")
    with pytest.raises(error, match=message):
        place.push(inputs, allow_unblessed=1, variant=variant)
    place.assert_untouched()


def judged(tmp_path: Path, **changes: Any) -> Inputs:
    """The variants, and an evaluation of two of them."""
    reason = Reason(code="threshold", message="accuracy is 0.5, needs >= 0.9", metric="accuracy")
    judgement = given.judgement_of(DATA)
    (verdict,) = judgement.verdicts
    worse = Verdict(variant="float32", sha256=sha256_of(OTHER), passed=False, reasons=(reason,))
    judgement = judgement.model_copy(update={"verdicts": (verdict, worse)} | changes)
    return {
        "variants": [given.variants_artifact(tmp_path / "variants", FILES)],
        "blessing": [given.blessing_artifact(tmp_path / "blessing", judgement)],
    }


def test_of_several_judged_variants_only_the_winner_is_blessed(place: Place, tmp_path: Path) -> None:
    inputs = judged(tmp_path)
    pushed = place.push(inputs, allow_unblessed=1, variant="float32")
    assert_labelled(place, pushed, ["float32: accuracy is 0.5, needs >= 0.9"])
    assert manifest_of(place).evaluation.baseline == {"accuracy": 1.0}

    pushed = place.push(inputs, allow_unblessed=1, variant=given.WINNER)
    assert_labelled(place, pushed, [])
    assert manifest_of(place).evaluation.variant == {"accuracy": 0.99}


def test_a_variant_that_passed_and_was_not_chosen_is_not_blessed(place: Place, tmp_path: Path) -> None:
    (verdict,) = given.judgement_of(DATA).verdicts
    passed = verdict.model_copy(update={"variant": "float32", "sha256": sha256_of(OTHER)})
    pushed = place.push(judged(tmp_path, verdicts=(verdict, passed)), allow_unblessed=1, variant="float32")
    assert_labelled(place, pushed, ["float32: the evaluation chose 'dynamic_range'"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"verdicts": given.judgement_of(OTHER).verdicts}, "blessing is of other bytes"),
        ({"source_sha256": "0" * 64}, "made of the SavedModel 0000"),
        ({"verdicts": (), "winner": "float32"}, "holds no verdict on 'dynamic_range'"),
    ],
)
def test_a_blessing_of_something_else_is_an_error_even_then(
    place: Place, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(NotBlessedError, match=message):
        place.push(judged(tmp_path, **changes), allow_unblessed=1, variant=given.WINNER)
    place.assert_untouched()


# --- a model nobody blessed ------------------------------------------------------------------------------------------


def test_a_model_without_a_blessing(place: Place, tmp_path: Path) -> None:
    inputs = {"model": given.inputs_of(tmp_path / "run")["model"]}
    assert_labelled(place, place.push(inputs, allow_unblessed=1), ["no evaluation was asked"])


def test_a_no_is_overridden_where_there_is_a_file(place: Place, tmp_path: Path) -> None:
    inputs = given.inputs_of(tmp_path / "run")
    inputs["blessing"] = [given.blessing_artifact(tmp_path / "no", given.judgement_of(DATA, blessed=False))]
    pushed = place.push(inputs)
    assert pushed.get_string_custom_property("push_status") == "not_blessed"
    place.assert_untouched()
    pushed = place.push(inputs, allow_unblessed=1)
    assert_labelled(place, pushed, ["dynamic_range: accuracy on label:2 is 0.5, needs >= 0.9"])


def test_where_the_evaluator_left_no_file_there_is_nothing_to_push(place: Place, tmp_path: Path) -> None:
    pushed = place.push(given.inputs_of(tmp_path / "run", blessed=False), allow_unblessed=1)
    assert pushed.get_string_custom_property("push_status") == "not_blessed"
    assert pushed.get_int_custom_property("pushed") == 0
    objection, advice = json.loads(pushed.get_string_custom_property("reasons"))
    assert objection == "dynamic_range: accuracy on label:2 is 0.5, needs >= 0.9"
    assert "Wire variants=converter.outputs['variants']" in advice
    place.assert_untouched()


def test_a_no_on_other_bytes_is_an_error(place: Place, tmp_path: Path) -> None:
    inputs = given.inputs_of(tmp_path / "run")
    inputs["blessing"] = [given.blessing_artifact(tmp_path / "no", given.judgement_of(OTHER, blessed=False))]
    with pytest.raises(NotBlessedError, match="blessing is of other bytes"):
        place.push(inputs, allow_unblessed=1)
    place.assert_untouched()


@pytest.mark.parametrize(
    ("key", "artifact_type"),
    [("model_blessing", standard_artifacts.ModelBlessing), ("infra_blessing", standard_artifacts.InfraBlessing)],
)
@pytest.mark.parametrize("source", ["model", "variants"])
def test_stock_blessings_are_always_honoured(
    place: Place, tmp_path: Path, key: str, artifact_type: Callable[[], Artifact], source: str
) -> None:
    wired: Inputs = {"model": given.inputs_of(tmp_path / "run")["model"]}
    if source == "variants":
        wired = {"variants": [given.variants_artifact(tmp_path / "variants", FILES)]}
    properties = {"allow_unblessed": 1, "variant": "float32" if source == "variants" else ""}
    wired[key] = [given.stock_blessing(artifact_type(), blessed=False)]
    pushed = place.push(wired, **properties)
    assert pushed.get_string_custom_property("push_status") == "not_blessed"
    assert key in pushed.get_string_custom_property("reasons")
    place.assert_untouched()
    wired[key] = [given.stock_blessing(artifact_type(), blessed=True)]
    assert place.push(wired, **properties).get_string_custom_property("push_status") == "pushed"
    with pytest.raises(PushError, match=f"Exactly one '{key}'"):
        place.push(wired | {key: []}, **properties)


def test_a_blessing_that_comes_later_replaces_the_label(place: Place, tmp_path: Path) -> None:
    inputs = given.inputs_of(tmp_path / "run")
    place.push({"model": inputs["model"]}, allow_unblessed=1)
    assert not manifest_of(place).blessed

    pushed = place.push(inputs)
    assert (pushed.get_string_custom_property("push_status"), manifest_of(place).blessed) == ("pushed", True)
    assert pushed.get_string_custom_property("channel_version") == "2"
    # And is not taken back by a push that has none.
    pushed = place.push({"model": inputs["model"]}, allow_unblessed=1)
    assert (pushed.get_string_custom_property("push_status"), manifest_of(place).blessed) == ("unchanged", True)
