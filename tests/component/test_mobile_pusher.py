"""MobilePusher: construction rules, and the real executor on real artifacts."""

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
from tests.fakes.releases import model_bytes, tree
from tfx_mobile import FilesystemDestination, MobilePusher, TFLiteBlessing, TFLiteModel
from tfx_mobile.errors import (
    DestinationUnavailableError,
    ModelFileError,
    NotBlessedError,
    PushError,
    SecretParameterError,
    SupersededError,
    TFXMobileError,
)
from tfx_mobile.mobile_pusher.executor import Executor
from tfx_mobile.records import ArtifactOrigin, EvaluationRecord, Lineage, PushReceipt, ReleaseManifest
from tfx_mobile.release_store.destinations import destinations_to_json
from tfx_mobile.release_store.reading import resolve

DATA = model_bytes()
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture
def inputs(tmp_path: Path) -> Inputs:
    return given.inputs_of(tmp_path / "run")


def file_of(artifacts: list[Artifact], name: str) -> Path:
    return Path(artifacts[0].uri) / name


# --- construction ----------------------------------------------------------------------------------------------------


def construct(**parameters: Any) -> MobilePusher:
    defaults = {
        "model": types.Channel(TFLiteModel),
        "blessing": types.Channel(TFLiteBlessing),
        "model_name": "digits",
        "destinations": [FilesystemDestination(base_directory="/srv/releases")],
    }
    return MobilePusher(**(defaults | parameters))


def test_a_minimal_component() -> None:
    pusher = construct()
    assert pusher.exec_properties | {"fingerprint": None} == {
        "model_name": "digits",
        "channel": "production",
        "destinations": '[{"base_directory":"/srv/releases","type":"filesystem"}]',
        "dry_run": 0,
        "allow_unblessed": 0,
        "variant": "",
        "on_stale": "skip",
        "on_not_blessed": "skip",
        "labels": "{}",
        "signing_key": "",
        "trusted_keys": "[]",
        "rollout": "",
        "fingerprint": None,
    }
    assert pusher.outputs["pushed_model"].type is standard_artifacts.PushedModel
    assert set(pusher.inputs) == {"model", "blessing"}
    assert pusher.executor_spec.class_path == "tfx_mobile.mobile_pusher.executor.Executor"


def test_the_fingerprint_names_package_and_schema() -> None:
    import tfx_mobile

    fingerprint = construct().exec_properties["fingerprint"]
    assert fingerprint == f"tfx-mobile {tfx_mobile.__version__}, release schema 2"


def test_all_inputs_can_be_wired() -> None:
    pusher = construct(
        model_blessing=types.Channel(standard_artifacts.ModelBlessing),
        infra_blessing=types.Channel(standard_artifacts.InfraBlessing),
        evaluation=types.Channel(standard_artifacts.ModelEvaluation),
        channel="beta",
        dry_run=True,
    )
    assert set(pusher.inputs) == {"model", "blessing", "model_blessing", "infra_blessing", "evaluation"}
    assert (pusher.exec_properties["channel"], pusher.exec_properties["dry_run"]) == ("beta", 1)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"model_name": "my model"}, r"model_name='my model' is not valid: use 1 to 32 .*for example 'digits'"),
        ({"model_name": "../digits"}, "model_name='../digits'"),
        ({"model_name": "digits\n"}, "model_name="),
        ({"model_name": "a" * 33}, "model_name="),
        ({"model_name": ""}, "model_name=''"),
        ({"model_name": None}, "model_name=None"),
        ({"channel": "Production"}, r"channel='Production' is not valid: use 1 to 32 lower-case .*'beta'"),
        ({"channel": "a/b"}, "channel='a/b'"),
        ({"channel": ""}, "channel=''"),
        ({"destinations": []}, "destinations is empty"),
        ({"destinations": ["gs://bucket"]}, "Unknown destination 'gs://bucket'"),
        ({"destinations": [{"type": "ftp"}]}, "valid types: filesystem"),
        (
            {"destinations": [FilesystemDestination(base_directory=d) for d in ("/srv/a", "/srv/b", "/srv/x/../a/")]},
            r"destinations\[2\] and destinations\[0\] are the same place, .*/srv/x",
        ),
        ({"dry_run": "perhaps"}, "dry_run='perhaps' is not a boolean"),
        ({"on_stale": "wait"}, "on_stale='wait' is not valid; use 'skip' .* or 'fail'"),
        ({"on_not_blessed": "alert"}, "on_not_blessed='alert' is not valid; use 'skip' .* or 'fail'"),
        ({"labels": ["a"]}, r"labels=\['a'\] is not a mapping"),
        ({"labels": "{"}, "labels='{' is not JSON"),
        ({"labels": {"": "x"}}, "labels has the name ''; use 1 to 63"),
        ({"labels": {"a b": "x"}}, "labels has the name 'a b'"),
        ({"labels": {"a": 1}}, r"labels\['a'\]=1 is not valid; give a text"),
        ({"labels": {"a": "x\n"}}, r"labels\['a'\]='x\\n' is not valid; .*printable"),
        ({"labels": {"a": "x" * 257}}, "at most 256 printable"),
        ({"labels": {f"a{i}": "" for i in range(33)}}, "labels has 33 entries; 32 are allowed"),
    ],
)
def test_wrong_construction(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        construct(**parameters)


SECRET = "ABCDEFGHIJKLMNOP0123456789"  # nobody's


@pytest.mark.parametrize(
    ("parameters", "place"),
    [
        ({"model_name": f"ya29.{SECRET}"}, "model_name holds an OAuth access token"),
        ({"channel": RuntimeParameter(name="channel", ptype=str, default=f"ya29.{SECRET}")}, "channel holds an OAuth"),
        ({"labels": {"note": f"see https://me:{SECRET}@example.com"}}, r"labels\['note'\] holds a user or password"),
        ({"labels": {"api_key": SECRET}}, r"labels\['api_key'\] holds something, and its name says"),
        (
            {"destinations": [{"type": "filesystem", "base_directory": f"/mnt/x?token={SECRET}"}]},
            r"destinations\[0\]\['base_directory'\] holds a signed address",
        ),
        ({"destinations": f"not JSON, but Bearer {SECRET}"}, "destinations holds an authorization header"),
        ({"variant": f"AKIA{SECRET[:16]}"}, "variant holds an access key of AWS"),
    ],
)
def test_what_looks_like_a_secret_is_refused(
    parameters: dict[str, Any], place: str, inputs: Inputs, tmp_path: Path
) -> None:
    with pytest.raises(SecretParameterError, match=place) as raised:
        construct(**parameters)
    assert SECRET not in str(raised.value)
    # And again when it comes in at run time.
    values = {
        name: value.default if isinstance(value, RuntimeParameter) else value for name, value in parameters.items()
    }
    with pytest.raises(SecretParameterError, match=place):
        Place(tmp_path).push(inputs, **values)


class Particular(FilesystemDestination):
    """Takes short names only."""

    def check_names(self, model_name: str, channel: str) -> None:
        if len(model_name) + len(channel) > 12:
            raise ValueError(f"{model_name} and {channel} are too long for me")


def test_each_destination_is_asked_about_the_names(place: Place, inputs: Inputs) -> None:
    destinations = [FilesystemDestination(base_directory="/srv/a"), Particular(base_directory="/srv/b")]
    construct(destinations=iter(destinations), channel="beta")
    with pytest.raises(ValueError, match="digits and production are too long for me"):
        construct(destinations=iter(destinations))
    # Not known yet: asked when it runs.
    construct(destinations=destinations, channel=RuntimeParameter(name="channel", ptype=str))
    with pytest.raises(ValueError, match="digits and production are too long for me"):
        place.push(inputs, destinations=[place.destination, Particular(base_directory="/srv/b")])
    place.assert_untouched()


def test_labels_become_part_of_the_release(place: Place, inputs: Inputs) -> None:
    labels = {"team": "vision", "Build.id-1": "grün"}
    assert construct(labels=labels).exec_properties["labels"] == '{"Build.id-1":"grün","team":"vision"}'
    for form in (labels, construct(labels=labels).exec_properties["labels"]):
        pushed = place.push(inputs, labels=form)
        assert json.loads(pushed.get_string_custom_property("labels")) == labels
    assert resolve(place.destination.open_store(), "digits", "production").manifest.labels == labels
    assert pushed.get_string_custom_property("push_status") == "unchanged"


def test_a_standard_model_cannot_be_wired() -> None:
    with pytest.raises(TypeError, match="TFLiteModel"):
        construct(model=types.Channel(standard_artifacts.Model))


def test_runtime_parameters_are_accepted(place: Place, inputs: Inputs) -> None:
    values: dict[str, Any] = {
        "model_name": "digits",
        "channel": "beta",
        "destinations": destinations_to_json([place.destination]),
        "dry_run": 1,
    }
    parameters = {name: RuntimeParameter(name=name, ptype=type(value)) for name, value in values.items()}
    pusher = construct(**parameters)
    assert {name: pusher.exec_properties[name] for name in values} == parameters

    # The runner puts the values in; then they are validated like any other.
    assert place.push(inputs, **values).get_string_custom_property("push_status") == "dry_run"
    for wrong in (
        {"model_name": "a b"},
        {"model_name": None},
        {"channel": "A"},
        {"channel": ""},
        {"destinations": "[]"},
        {"destinations": ""},
        {"destinations": None},
        {"dry_run": "perhaps"},
        {"dry_run": ""},
    ):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            place.push(inputs, **(values | wrong))
    place.assert_untouched()


# --- a push ----------------------------------------------------------------------------------------------------------


def test_a_push_publishes_the_blessed_bytes(place: Place, inputs: Inputs) -> None:
    pushed = place.push(inputs)
    release = resolve(place.destination.open_store(), "digits", "production")
    assert release.model == DATA
    assert (release.manifest.variant, release.manifest.file.sha256) == (given.WINNER, SHA256)
    assert release.manifest.evaluation.baseline == {"accuracy": 1.0}
    assert release.manifest.evaluation.variant == {"accuracy": 0.99}

    # The stock Pusher's properties, then our own.
    assert pushed.get_int_custom_property("pushed") == 1
    assert pushed.get_string_custom_property("pushed_destination") == str(place.root)
    assert pushed.get_string_custom_property("pushed_version") == release.release_id
    expected = {
        "push_status": "pushed",
        "sha256": SHA256,
        "variant": given.WINNER,
        "release_id": release.release_id,
        "previous_release_id": "",
        "manifest_uri": str(place.root / "releases" / "digits" / f"{release.release_id}.json"),
        "channel": "production",
        "channel_version": "1",
    }
    assert {name: pushed.get_string_custom_property(name) for name in expected} == expected
    assert pushed.get_int_custom_property("size_bytes") == len(DATA)
    (receipt,) = json.loads(pushed.get_string_custom_property("destinations"))
    assert PushReceipt(**receipt).status == "pushed"

    # What was pushed is kept in the pipeline, too.
    kept = tree(Path(pushed.uri))
    assert set(kept) == {"model.tflite", "release.json", "receipts.json"}
    assert kept["model.tflite"] == DATA
    assert hashlib.sha256(kept["release.json"]).hexdigest() == release.release_id
    assert ReleaseManifest.from_json(kept["release.json"]) == release.manifest
    assert json.loads(kept["receipts.json"]) == [receipt]


def test_a_second_run_changes_nothing(place: Place, inputs: Inputs, tmp_path: Path) -> None:
    place.push(inputs)
    before = tree(place.root)
    # Another run of the pipeline: other artifacts with the same bytes and the same evaluation.
    pushed = place.push(given.inputs_of(tmp_path / "second run"))
    assert tree(place.root) == before
    assert pushed.get_string_custom_property("push_status") == "unchanged"
    assert pushed.get_int_custom_property("pushed") == 1
    assert pushed.get_string_custom_property("channel_version") == "1"


def test_another_model_becomes_the_next_version(place: Place, inputs: Inputs, tmp_path: Path) -> None:
    first = place.push(inputs)
    second = place.push(given.inputs_of(tmp_path / "second run", model_bytes(2)))
    assert second.get_string_custom_property("previous_release_id") == first.get_string_custom_property("release_id")
    assert second.get_string_custom_property("channel_version") == "2"
    assert resolve(place.destination.open_store(), "digits", "production").model == model_bytes(2)


def test_parameters_as_orchestrators_deliver_them(place: Place, inputs: Inputs) -> None:
    inputs["_QuantizationEvaluator.blessing"] = inputs["blessing"]
    destinations = [{"type": "filesystem", "base_directory": str(place.root)}]
    pushed = given.pushed_artifact(place.folder / "pushed")
    Executor().Do(inputs, {"pushed_model": [pushed]}, {"model_name": "digits", "destinations": destinations})
    assert pushed.get_string_custom_property("channel") == "production"
    for flag, status in ((True, "dry_run"), (1.0, "dry_run"), ("true", "dry_run"), ("0", "unchanged")):
        pushed = place.push(inputs, channel=None, dry_run=flag)
        assert pushed.get_string_custom_property("push_status") == status


def test_several_destinations(place: Place, inputs: Inputs, tmp_path: Path) -> None:
    place.push(inputs)
    other = FilesystemDestination(base_directory=tmp_path / "other")
    pushed = place.push(inputs, destinations=destinations_to_json([place.destination, other]))
    receipts = json.loads(pushed.get_string_custom_property("destinations"))
    assert [(r["destination"], r["status"]) for r in receipts] == [
        (str(place.root), "unchanged"),
        (str(tmp_path / "other"), "pushed"),
    ]
    assert pushed.get_string_custom_property("push_status") == "pushed"
    assert pushed.get_string_custom_property("pushed_destination") == str(place.root)
    assert resolve(other.open_store(), "digits", "production").model == DATA


def test_all_destinations_are_checked_before_the_first_is_written(place: Place, inputs: Inputs, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    broken = FilesystemDestination(base_directory=tmp_path / "file" / "releases")
    with pytest.raises(DestinationUnavailableError, match="file/releases"):
        place.push(inputs, destinations=destinations_to_json([place.destination, broken]))
    place.assert_untouched()


def test_a_destination_that_fails_later_is_reported_with_what_came_of_the_others(
    place: Place, inputs: Inputs, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    in_the_way = tmp_path / "other" / "channels" / "digits" / ".lock"  # no check sees it
    in_the_way.mkdir(parents=True)
    third = tmp_path / "third"
    three = [place.destination, *(FilesystemDestination(base_directory=tmp_path / name) for name in ("other", "third"))]
    report = rf"directory.*Failed: {tmp_path}/other. Already done: {place.root} \(pushed\). Not attempted: {third}\."
    with caplog.at_level(logging.INFO, "tfx_mobile"), pytest.raises(DestinationUnavailableError, match=report):
        place.push(inputs, destinations=destinations_to_json(three))
    assert f"{place.root}: pushed: {{" in caplog.text
    assert f"{tmp_path}/other: failed: Cannot write" in caplog.text
    assert not (third / "channels").exists()

    in_the_way.rmdir()
    pushed = place.push(inputs, destinations=destinations_to_json(three))
    receipts = json.loads(pushed.get_string_custom_property("destinations"))
    assert [r["status"] for r in receipts] == ["unchanged", "pushed", "pushed"]
    for destination in three:
        release = resolve(destination.open_store(), "digits", "production")
        assert (release.model, release.channel_version) == (DATA, 1)


def test_a_failure_while_bytes_are_written_moves_no_channel(place: Place, inputs: Inputs, tmp_path: Path) -> None:
    in_the_way = tmp_path / "other" / "releases" / "digits" / ".lock"
    in_the_way.mkdir(parents=True)
    both = [place.destination, FilesystemDestination(base_directory=tmp_path / "other")]
    with pytest.raises(
        DestinationUnavailableError, match=f"Failed: {tmp_path}/other. Already done: none. Not attempted"
    ):
        place.push(inputs, destinations=destinations_to_json(both))
    assert not (place.root / "channels").exists()


# --- runs that end late ----------------------------------------------------------------------------------------------


def of_span(folder: Path, data: bytes, span: int) -> Inputs:
    """The inputs of a run on examples of that span."""
    origin = ArtifactOrigin(type="Examples", span=span)
    lineage = Lineage(model=ArtifactOrigin(type="Model"), examples=(origin,))
    inputs = given.inputs_of(folder, data)
    judgement = given.judgement_of(data).model_copy(update={"lineage": lineage})
    inputs["blessing"] = [given.blessing_artifact(folder / "blessing of the span", judgement)]
    return inputs


def test_a_late_run_ends_well_or_in_an_error_as_one_likes(place: Place, tmp_path: Path) -> None:
    place.push(of_span(tmp_path / "new", DATA, 2))
    before = tree(place.root)
    late = of_span(tmp_path / "old", model_bytes(2), 1)

    pushed = place.push(late)
    assert pushed.get_string_custom_property("push_status") == "superseded"
    assert pushed.get_int_custom_property("pushed") == 0
    assert set(tree(Path(pushed.uri))) == {"release.json", "receipts.json"}
    # Another destination that has nothing newer gets it, and the pipeline reports that.
    other = FilesystemDestination(base_directory=tmp_path / "other")
    both = destinations_to_json([place.destination, other])
    for dry_run in (1, 0):
        with pytest.raises(
            SupersededError, match=rf"at {place.root} has the release of a newer run.*tfx-mobile rollback"
        ):
            place.push(late, destinations=both, on_stale="fail", dry_run=dry_run)
    assert not (tmp_path / "other").exists()  # all were asked before one was written
    pushed = place.push(late, destinations=both)
    receipts = json.loads(pushed.get_string_custom_property("destinations"))
    assert [r["status"] for r in receipts] == ["superseded", "pushed"]
    assert pushed.get_string_custom_property("push_status") == "pushed"
    assert tree(place.root) == before

    # The same bytes are no news, however old the run is; a dry run says what would be.
    assert place.push(of_span(tmp_path / "same", DATA, 1), on_stale="fail").get_int_custom_property("pushed") == 1
    pushed = place.push(late, dry_run=1)
    (receipt,) = json.loads(pushed.get_string_custom_property("destinations"))
    assert receipt["details"] == {"would_be": "superseded"}


def test_a_dry_run_writes_nothing_at_the_destination(place: Place, inputs: Inputs) -> None:
    pushed = place.push(inputs, dry_run=1)
    place.assert_untouched()
    assert pushed.get_int_custom_property("pushed") == 0
    assert pushed.get_string_custom_property("push_status") == "dry_run"
    assert pushed.get_string_custom_property("sha256") == SHA256
    assert set(tree(Path(pushed.uri))) == {"release.json", "receipts.json"}
    real = place.push(inputs)
    assert real.get_string_custom_property("release_id") == pushed.get_string_custom_property("release_id")


# --- not blessed: a success that pushes nothing -----------------------------------------------------------------------


def assert_not_blessed(place: Place, pushed: Artifact) -> str:
    place.assert_untouched()
    assert pushed.get_int_custom_property("pushed") == 0
    assert pushed.get_string_custom_property("push_status") == "not_blessed"
    assert not pushed.has_custom_property("release_id")
    reasons: str = pushed.get_string_custom_property("reasons")
    assert [path.name for path in Path(pushed.uri).iterdir()] == ["reasons.json"]
    assert file_of([pushed], "reasons.json").read_text() == reasons
    return reasons


def test_not_blessed(place: Place, tmp_path: Path) -> None:
    pushed = place.push(given.inputs_of(tmp_path / "run", blessed=False))
    reasons = assert_not_blessed(place, pushed)
    assert json.loads(reasons) == ["dynamic_range: accuracy on label:2 is 0.5, needs >= 0.9"]


def test_not_blessed_is_an_error_where_asked_for_and_recorded_first(place: Place, tmp_path: Path) -> None:
    inputs = given.inputs_of(tmp_path / "run", blessed=False)
    pushed = given.pushed_artifact(tmp_path / "pushed")
    with pytest.raises(
        NotBlessedError, match=r"channel 'production' of 'digits', which stays.*label:2 is 0.5.*on_not_blessed='skip'"
    ):
        place.push_into(pushed, inputs, on_not_blessed="fail")
    assert "label:2 is 0.5" in assert_not_blessed(place, pushed)


def test_a_blessed_model_does_not_mind_that(place: Place, inputs: Inputs) -> None:
    assert place.push(inputs, on_not_blessed="fail").get_string_custom_property("push_status") == "pushed"


@pytest.mark.parametrize(
    ("key", "artifact_type"),
    [("model_blessing", standard_artifacts.ModelBlessing), ("infra_blessing", standard_artifacts.InfraBlessing)],
)
def test_stock_blessings_must_hold_when_wired(
    place: Place, inputs: Inputs, key: str, artifact_type: Callable[[], Artifact]
) -> None:
    inputs[key] = [given.stock_blessing(artifact_type(), blessed=False)]
    assert key in assert_not_blessed(place, place.push(inputs))
    inputs[key] = [artifact_type()]
    assert key in assert_not_blessed(place, place.push(inputs))
    inputs[key] = []
    with pytest.raises(PushError, match=f"Exactly one '{key}'"):
        place.push(inputs)
    place.assert_untouched()
    inputs[key] = [given.stock_blessing(artifact_type(), blessed=True)]
    assert place.push(inputs).get_int_custom_property("pushed") == 1


# --- bad input: an error, and nothing written -------------------------------------------------------------------------


def test_the_evaluation_must_be_the_blessings_own(place: Place, inputs: Inputs, tmp_path: Path) -> None:
    inputs["evaluation"] = [given.evaluation_artifact(tmp_path / "other", given.judgement_of(model_bytes(7)))]
    with pytest.raises(NotBlessedError, match="was not given on the evaluation in"):
        place.push(inputs)
    inputs["evaluation"] = [standard_artifacts.ModelEvaluation()]
    inputs["evaluation"][0].uri = str(tmp_path / "stock")
    with pytest.raises(NotBlessedError, match=r"no record\.json in .*stock.*Wire 'blessing' and 'evaluation'"):
        place.push(inputs)
    place.assert_untouched()
    inputs["evaluation"] = [given.evaluation_artifact(tmp_path / "own", given.judgement_of(DATA))]
    assert place.push(inputs).get_int_custom_property("pushed") == 1


def rebless(inputs: Inputs, **changes: Any) -> None:
    path = file_of(inputs["blessing"], "blessing.json")
    path.write_bytes(EvaluationRecord.read(path).model_copy(update=changes).to_json())


def blessing_of_other_bytes(inputs: Inputs) -> None:
    rebless(inputs, verdicts=given.judgement_of(model_bytes(9)).verdicts)


def blessing_of_another_variant(inputs: Inputs) -> None:
    (verdict,) = given.judgement_of(DATA).verdicts
    rebless(inputs, winner="float32", verdicts=(verdict.model_copy(update={"variant": "float32"}),))


def blessing_of_another_source(inputs: Inputs) -> None:
    rebless(inputs, source_sha256="0" * 64)


def blessing_without_a_verdict(inputs: Inputs) -> None:
    rebless(inputs, verdicts=())


def blessing_against_its_verdict(inputs: Inputs) -> None:
    rebless(inputs, verdicts=given.judgement_of(DATA, blessed=False).verdicts)


def blessing_is_missing(inputs: Inputs) -> None:
    file_of(inputs["blessing"], "blessing.json").unlink()


def blessing_is_damaged(inputs: Inputs) -> None:
    file_of(inputs["blessing"], "blessing.json").write_text("{}")


def model_is_altered(inputs: Inputs) -> None:
    file_of(inputs["model"], "model.tflite").write_bytes(DATA[:-1] + b"!")


def model_is_truncated(inputs: Inputs) -> None:
    file_of(inputs["model"], "model.tflite").write_bytes(DATA[:-1])


def model_and_record_are_altered(inputs: Inputs) -> None:
    path = file_of(inputs["model"], "record.json")
    path.write_text(path.read_text().replace(SHA256, hashlib.sha256(model_bytes(9)).hexdigest()))
    file_of(inputs["model"], "model.tflite").write_bytes(model_bytes(9))


def a_second_model(inputs: Inputs) -> None:
    file_of(inputs["model"], "other.tflite").write_bytes(DATA)


def the_model_has_another_name(inputs: Inputs) -> None:
    file_of(inputs["model"], "model.tflite").rename(file_of(inputs["model"], "other.tflite"))


def no_model(inputs: Inputs) -> None:
    file_of(inputs["model"], "model.tflite").unlink()


def no_record(inputs: Inputs) -> None:
    file_of(inputs["model"], "record.json").unlink()


def record_says_not_blessed(inputs: Inputs) -> None:
    path = file_of(inputs["model"], "record.json")
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"blessed": False, "variant": None}))


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (blessing_of_other_bytes, NotBlessedError, "blessing is of other bytes"),
        (blessing_of_another_variant, NotBlessedError, "blessing is of other bytes: it names 'float32'"),
        (blessing_of_another_source, NotBlessedError, "made of the SavedModel 0000"),
        (blessing_without_a_verdict, NotBlessedError, "no passing verdict"),
        (blessing_against_its_verdict, NotBlessedError, "no passing verdict"),
        (blessing_is_missing, NotBlessedError, r"no blessing\.json"),
        (blessing_is_damaged, TFXMobileError, "Not a valid EvaluationRecord"),
        (model_is_altered, ModelFileError, "altered after it was recorded"),
        (model_is_truncated, ModelFileError, "altered after it was recorded"),
        (model_and_record_are_altered, NotBlessedError, "blessing is of other bytes"),
        (a_second_model, ModelFileError, r"exactly one .*it holds model\.tflite, other\.tflite"),
        (the_model_has_another_name, ModelFileError, r"exactly one .*it holds other\.tflite"),
        (no_model, ModelFileError, "exactly one .*it holds none"),
        (no_record, NotBlessedError, r"no record\.json"),
        (record_says_not_blessed, NotBlessedError, "holds no blessed model"),
    ],
)
def test_inputs_that_do_not_belong_together(
    place: Place, inputs: Inputs, spoil: Callable[[Inputs], None], error: type[Exception], message: str
) -> None:
    spoil(inputs)
    with pytest.raises(error, match=message) as raised:
        place.push(inputs)
    assert "run" in str(raised.value)
    place.assert_untouched()


def test_a_file_that_is_no_model(place: Place, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"is not a \.tflite file: bytes 4 to 8 are b'is a'"):
        place.push(given.inputs_of(tmp_path / "run", b"thisis a text"[:4] + b"is a text"))
    place.assert_untouched()


@pytest.mark.parametrize("key", ["model", "blessing"])
def test_exactly_one_artifact_per_input(place: Place, inputs: Inputs, key: str) -> None:
    two = inputs[key] * 2
    for found in (two, []):
        with pytest.raises(PushError, match=f"Exactly one '{key}' artifact is needed, {len(found)} were given"):
            place.push(inputs | {key: found})
    with pytest.raises(ValueError, match=rf"Wire {key}=evaluator\.outputs"):
        place.push({other: artifacts for other, artifacts in inputs.items() if other != key})
    place.assert_untouched()
