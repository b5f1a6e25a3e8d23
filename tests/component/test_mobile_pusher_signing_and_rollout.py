"""MobilePusher signs what it writes, demands signatures of what is there, and moves a rollout last of all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from tfx import types
from tfx.orchestration.data_types import RuntimeParameter

from tests.component import pusher_artifacts as given
from tests.component.pusher_artifacts import Inputs, Place
from tests.fakes.cloud_kms import KEY_VERSION, FakeCloudKms
from tests.fakes.http_server import Fault
from tests.fakes.releases import model_bytes, read_statement, tree
from tests.fakes.remote_config import PROJECT, RemoteConfigFake
from tfx_mobile import (
    EnvironmentSigningKey,
    FilesystemDestination,
    KmsSigningKey,
    MobilePusher,
    RemoteConfigRollout,
    TFLiteBlessing,
    TFLiteModel,
)
from tfx_mobile.errors import (
    DestinationUnavailableError,
    RolloutRefusedError,
    SecretParameterError,
    SigningError,
    UntrustedReleaseError,
)
from tfx_mobile.records import ArtifactOrigin, Lineage
from tfx_mobile.release_store import kms_signer
from tfx_mobile.release_store.destinations import destinations_to_json
from tfx_mobile.release_store.reading import resolve
from tfx_mobile.release_store.signing import Keyring, TrustedKeys, key_id_of, public_pem
from tfx_mobile.release_store.signing_keys import KEY_FILE_VARIABLE
from tfx_mobile.rollout import remote_config

ROLLOUT = RemoteConfigRollout(project_id=PROJECT, percent=10)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture
def inputs(tmp_path: Path) -> Inputs:
    return given.inputs_of(tmp_path / "run")


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


@pytest.fixture
def signer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Puts a key where EnvironmentSigningKey looks for it; returns the public half."""
    key = new_key()
    (tmp_path / "signer").write_bytes(private_pem(key))
    (tmp_path / "signer").chmod(0o600)
    monkeypatch.setenv(KEY_FILE_VARIABLE, str(tmp_path / "signer"))
    return public_pem(key.public_key())


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[RemoteConfigFake]:
    with RemoteConfigFake('{"parameters": {"other": {"defaultValue": {"value": "1"}}}}') as fake:
        monkeypatch.setenv(remote_config.ENDPOINT_VARIABLE, fake.endpoint)
        yield fake


def construct(**parameters: Any) -> MobilePusher:
    defaults = {
        "model": types.Channel(TFLiteModel),
        "blessing": types.Channel(TFLiteBlessing),
        "model_name": "digits",
        "destinations": [FilesystemDestination(base_directory="/srv/releases")],
    }
    return MobilePusher(**(defaults | parameters))


# --- construction ----------------------------------------------------------------------------------------------------


def test_keys_and_rollout_are_compiled_as_json() -> None:
    pem = public_pem(new_key().public_key())
    pusher = construct(
        channel="canary", signing_key=f"gcp-kms://{KEY_VERSION}", trusted_keys=iter([pem]), rollout=ROLLOUT
    )
    properties = pusher.exec_properties
    assert json.loads(properties["signing_key"]) == {"type": "gcp_kms", "key_version": KEY_VERSION}
    assert json.loads(properties["trusted_keys"]) == [pem]
    assert json.loads(properties["rollout"])["percent"] == 10
    same = construct(
        channel="canary",
        **{name: json.loads(properties[name]) for name in ("signing_key", "trusted_keys", "rollout")},
    )
    assert same.exec_properties == properties


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"signing_key": "default"}, "signing_key='default' names no key"),
        ({"signing_key": KEY_VERSION}, "lacks its scheme; write 'gcp-kms://projects"),
        ({"signing_key": {"type": "vault"}}, "signing_key has type 'vault'"),
        ({"trusted_keys": ["nonsense"]}, r"trusted_keys\[0\] is not a public key"),
        ({"trusted_keys": [public_pem(new_key().public_key())]}, "trusted_keys is given and signing_key is not"),
        ({"rollout": ROLLOUT}, "channel='production' is the stable channel of the rollout"),
        ({"rollout": {"project_id": PROJECT, "percent": 101}}, "percent=101"),
        ({"rollout": "10"}, "is no rollout"),
    ],
)
def test_wrong_construction(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        construct(**parameters)


@pytest.mark.parametrize("form", [lambda pem: pem, lambda pem: {"key": pem}, lambda pem: [pem]])
@pytest.mark.parametrize("name", ["signing_key", "trusted_keys"])
def test_a_private_key_is_no_parameter(name: str, form: Any) -> None:
    pem = private_pem(new_key()).decode()
    with pytest.raises(SecretParameterError, match=f"{name}.* holds a private key in PEM form") as raised:
        construct(**{name: form(pem)})
    assert not set(pem.splitlines()[1:-1]) & set(str(raised.value).split())


def test_what_is_not_known_yet_is_not_checked_yet() -> None:
    parameter = RuntimeParameter(name="later", ptype=str)
    construct(trusted_keys=[public_pem(new_key().public_key())], signing_key=parameter)
    construct(rollout=ROLLOUT, channel=parameter)
    construct(rollout=parameter, signing_key=parameter, trusted_keys=parameter)


# --- signatures ------------------------------------------------------------------------------------------------------


def test_what_is_pushed_is_signed_and_verifies(place: Place, inputs: Inputs, signer: str) -> None:
    # Nothing was ever signed here; from now on it is demanded.
    pushed = place.push(inputs, signing_key='{"type": "environment"}')
    keyring = Keyring(trusted=TrustedKeys.from_pem(signer))
    release = resolve(place.destination.open_store(), "digits", "production", keyring)
    (key_id,) = keyring.trusted.by_id
    assert release.manifest.signing_key_id == key_id
    assert pushed.get_string_custom_property("signing_key_id") == key_id

    before = tree(place.root)
    again = place.push(inputs, signing_key=EnvironmentSigningKey(), trusted_keys=json.dumps([signer]))
    assert again.get_string_custom_property("push_status") == "unchanged"
    assert tree(place.root) == before


def test_keys_that_do_not_fit_are_refused_before_anything_is_written(place: Place, inputs: Inputs, signer: str) -> None:
    other = public_pem(new_key().public_key())
    with pytest.raises(SigningError, match="is not among the trusted keys"):
        place.push(inputs, signing_key="environment", trusted_keys=[other])
    with pytest.raises(ValueError, match="signing_key is not"):
        place.push(inputs, trusted_keys=[signer])
    place.assert_untouched()

    place.push(inputs)  # unsigned
    before = tree(place.root)
    with pytest.raises(UntrustedReleaseError, match="Signed by: nobody"):
        place.push(inputs, signing_key="environment", trusted_keys=[signer])
    assert tree(place.root) == before
    place.push(inputs, signing_key="environment")
    before = tree(place.root)
    with pytest.raises(SigningError, match="would be written without a signature"):
        place.push(given.inputs_of(place.folder / "next", model_bytes(2)))
    assert tree(place.root) == before


def test_signing_in_cloud_kms(place: Place, inputs: Inputs, monkeypatch: pytest.MonkeyPatch) -> None:
    key = new_key()
    with FakeCloudKms(key) as kms:
        monkeypatch.setenv(kms_signer.ENDPOINT_VARIABLE, kms.endpoint)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        pem = public_pem(key.public_key())
        signing = KmsSigningKey(key_version=KEY_VERSION)
        pushed = place.push(inputs, signing_key=signing.model_dump_json(), trusted_keys=[pem])
        assert pushed.get_string_custom_property("signing_key_id") == key_id_of(key.public_key())
        requests = kms.num_requests
        # Not blessed: nobody needs a key.
        place.push(given.inputs_of(place.folder / "no", blessed=False), signing_key=signing.model_dump_json())
        assert kms.num_requests == requests
    keyring = Keyring(trusted=TrustedKeys.from_pem(pem))
    assert resolve(place.destination.open_store(), "digits", "production", keyring).model == model_bytes()


def test_a_signing_key_that_is_not_there(place: Place, inputs: Inputs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_FILE_VARIABLE, raising=False)
    with pytest.raises(SigningError, match=f"{KEY_FILE_VARIABLE} is not set"):
        place.push(inputs, signing_key="environment")
    place.assert_untouched()


# --- rollout ---------------------------------------------------------------------------------------------------------


def push_rolled_out(place: Place, inputs: Inputs, rollout: Any = ROLLOUT, **properties: Any) -> Any:
    rollout = rollout.to_json() if isinstance(rollout, RemoteConfigRollout) else rollout
    return place.push(inputs, channel="canary", rollout=rollout, **properties)


def rollout_of(pushed: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(pushed.get_string_custom_property("rollout"))
    return found


def test_a_rollout_is_applied_after_the_push(place: Place, inputs: Inputs, service: RemoteConfigFake) -> None:
    channel_file = place.root / "channels" / "digits" / "canary.json"
    published: list[bool] = []
    service.after_each_get(
        lambda: published.append(channel_file.exists()), lambda: published.append(channel_file.exists())
    )
    pushed = push_rolled_out(place, inputs)
    assert published == [False, True]  # checked before, applied after
    assert pushed.get_string_custom_property("push_status") == "pushed"
    result = rollout_of(pushed)
    assert (result["status"], result["percent"], result["condition"]) == ("changed", 10, "mobilepusher_digits_canary")
    assert set(service.template["parameters"]) == {"other", "mlmodel_digits"}
    assert service.num_writes == 1

    again = push_rolled_out(place, inputs)
    assert (again.get_string_custom_property("push_status"), rollout_of(again)["status"]) == ("unchanged", "unchanged")
    more = push_rolled_out(place, inputs, {"project_id": PROJECT, "percent": 50})
    assert (more.get_string_custom_property("push_status"), rollout_of(more)["status"]) == ("unchanged", "changed")
    assert service.num_writes == 2


def test_a_dry_run_asks_remote_config_and_writes_nothing(
    place: Place, inputs: Inputs, service: RemoteConfigFake
) -> None:
    result = rollout_of(push_rolled_out(place, inputs, dry_run=1))
    assert (result["status"], result["would_be"]) == ("dry_run", "changed")
    assert (service.num_writes, service.num_validations) == (0, 1)
    place.assert_untouched()


def test_nothing_is_published_if_remote_config_would_refuse(
    place: Place, inputs: Inputs, service: RemoteConfigFake
) -> None:
    managed = {"defaultValue": {"rolloutValue": {"rolloutId": "rollout_1", "value": "x", "percent": 5}}}
    service.edit(lambda template: template["parameters"].update({"mlmodel_digits": managed}))
    with pytest.raises(RolloutRefusedError, match=r"mlmodel_digits.*Nothing was published anywhere\."):
        push_rolled_out(place, inputs)
    place.assert_untouched()


def test_a_rollout_that_fails_after_the_push_is_finished_by_the_next_run(
    place: Place, inputs: Inputs, service: RemoteConfigFake
) -> None:
    service.fail(2, Fault("status", status=403))  # the check before took two
    with pytest.raises(
        DestinationUnavailableError, match=r"Every destination has the release; only the rollout is mis"
    ):
        push_rolled_out(place, inputs)
    assert read_statement(place.root / "channels" / "digits" / "canary.json").version == 1
    assert service.num_writes == 0
    pushed = push_rolled_out(place, inputs)
    assert (pushed.get_string_custom_property("push_status"), rollout_of(pushed)["status"]) == ("unchanged", "changed")


def test_without_a_push_there_is_no_rollout(place: Place, tmp_path: Path, service: RemoteConfigFake) -> None:
    pushed = push_rolled_out(place, given.inputs_of(tmp_path / "no", blessed=False))
    assert not pushed.has_custom_property("rollout")
    assert service.num_requests == 0

    def of_span(name: str, data: bytes, span: int) -> Inputs:
        origin = ArtifactOrigin(type="Examples", span=span)
        lineage = Lineage(model=ArtifactOrigin(type="Model"), examples=(origin,))
        made = given.inputs_of(tmp_path / name, data)
        judgement = given.judgement_of(data).model_copy(update={"lineage": lineage})
        made["blessing"] = [given.blessing_artifact(tmp_path / name / "of the span", judgement)]
        return made

    place.push(of_span("new", model_bytes(1), 2), channel="canary")
    pushed = push_rolled_out(place, of_span("old", model_bytes(2), 1))
    assert pushed.get_string_custom_property("push_status") == "superseded"
    assert (rollout_of(pushed)["status"], service.num_writes) == ("dry_run", 0)


def test_a_rollout_with_the_stable_channel_is_refused_at_run_time_too(place: Place, inputs: Inputs) -> None:
    with pytest.raises(ValueError, match="is the stable channel of the rollout"):
        place.push(
            inputs,
            channel="production",
            rollout=ROLLOUT.to_json(),
            destinations=destinations_to_json([place.destination]),
        )
    place.assert_untouched()
