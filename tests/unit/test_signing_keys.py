"""How keys are named, and what signing with them does: files, and Google's own KMS client against a fake service."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from tests.fakes.cloud_kms import KEY_VERSION, FakeCloudKms
from tests.fakes.http_server import FAULTS, Fault
from tfx_mobile import EnvironmentSigningKey, KmsSigningKey
from tfx_mobile.commands.keys import keys
from tfx_mobile.errors import SigningError
from tfx_mobile.google_rest import Patience
from tfx_mobile.release_store import kms_signer
from tfx_mobile.release_store.signing import TrustedKeys, is_signature, key_id_of, public_pem
from tfx_mobile.release_store.signing_keys import (
    KEY_FILE_VARIABLE,
    SigningKey,
    open_keyring,
    parse_signing_key,
    parse_trusted_keys,
    signing_key_to_json,
    trusted_keys_to_json,
)

P256 = ec.SECP256R1()
QUICK = Patience(connect_seconds=1.0, read_seconds=0.1, total_seconds=5.0, first_wait_seconds=0.001)


def private_pem(key) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


@pytest.fixture
def key_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the environment says the key is; nothing is there yet."""
    monkeypatch.setenv(KEY_FILE_VARIABLE, str(tmp_path / "key.pem"))
    return tmp_path / "key.pem"


def write_key(path: Path, data: bytes, mode: int = 0o600) -> None:
    path.write_bytes(data)
    path.chmod(mode)


class TestNames:
    @pytest.mark.parametrize(
        ("given", "expected"),
        [
            (KmsSigningKey(key_version=KEY_VERSION), KmsSigningKey(key_version=KEY_VERSION)),
            (f"gcp-kms://{KEY_VERSION}", KmsSigningKey(key_version=KEY_VERSION)),
            ({"type": "gcp_kms", "key_version": KEY_VERSION}, KmsSigningKey(key_version=KEY_VERSION)),
            (json.dumps({"type": "gcp_kms", "key_version": KEY_VERSION}), KmsSigningKey(key_version=KEY_VERSION)),
            ("environment", EnvironmentSigningKey()),
            ('{"type": "environment"}', EnvironmentSigningKey()),
        ],
    )
    def test_every_form_is_read_and_has_one_json_form(self, given: object, expected: SigningKey) -> None:
        key = parse_signing_key(given)
        assert key == expected
        assert parse_signing_key(signing_key_to_json(key)) == key

    def test_the_projects_of_a_domain_are_valid(self) -> None:
        name = KEY_VERSION.replace("projects/shop", "projects/example.com:shop")
        assert KmsSigningKey(key_version=name).key_version == name

    @pytest.mark.parametrize(
        "name",
        [
            KEY_VERSION.removesuffix("/cryptoKeyVersions/1"),
            KEY_VERSION + "/",
            KEY_VERSION.replace("/1", "/latest"),
            "/" + KEY_VERSION,
            KEY_VERSION + "\n",
            "",
        ],
    )
    def test_half_a_name_is_refused_with_a_whole_one(self, name: str) -> None:
        with pytest.raises(ValueError, match=r"cryptoKeys/K/cryptoKeyVersions/1"):
            KmsSigningKey(key_version=name)
        with pytest.raises(ValueError, match=r"cryptoKeys/K/cryptoKeyVersions/1"):
            parse_signing_key(f"gcp-kms://{name}x")

    def test_a_name_without_its_scheme_is_told_the_scheme(self) -> None:
        with pytest.raises(ValueError, match="write 'gcp-kms://projects/shop"):
            parse_signing_key(KEY_VERSION)

    @pytest.mark.parametrize("path", ["/secrets/key.pem", "key.pem", "./k", "C:/key.json", "service-account.json"])
    def test_a_path_is_refused_with_the_reason(self, path: str) -> None:
        with pytest.raises(ValueError, match=r"looks like the path of a file\. Parameters are kept in ML Metadata"):
            parse_signing_key(path)

    @pytest.mark.parametrize("secret", ["pem", "dict", "json", "name", "account"])
    def test_key_material_is_refused_and_not_repeated(self, secret: str) -> None:
        pem = private_pem(ec.generate_private_key(P256)).decode()
        given = {
            "pem": pem,
            "dict": {"type": "environment", "key": pem},
            "json": json.dumps({"type": "gcp_kms", "key_version": pem}),
            "name": f"gcp-kms://{pem}",
            "account": '{"type": "service_account", "private_key_id": "0a1b2c"}',
        }[secret]
        with pytest.raises(ValueError, match="holds key material") as refused:
            parse_signing_key(given)
        with pytest.raises(ValueError, match="never a parameter") as also_refused:
            KmsSigningKey(key_version=pem)
        for line in [*pem.splitlines()[1:-1], "0a1b2c"]:
            assert line not in str(refused.value)
            assert line not in str(also_refused.value)

    @pytest.mark.parametrize("given", ["production", 3, None, {}, {"type": "aws_kms"}, "{", [KEY_VERSION]])
    def test_anything_else_is_refused_with_what_is_valid(self, given: object) -> None:
        with pytest.raises(ValueError, match=r"Valid are KmsSigningKey"):
            parse_signing_key(given)

    def test_unknown_fields_are_refused_without_their_values(self) -> None:
        with pytest.raises(ValueError, match="file: Extra inputs are not permitted") as refused:
            parse_signing_key({"type": "environment", "file": "hunter2"})
        assert "hunter2" not in str(refused.value)


class TestTrustedKeys:
    def test_keys_are_brought_into_one_form_and_kept_in_order(self) -> None:
        first, second = (public_pem(key.public_key()) for key in (ec.generate_private_key(P256), _ed25519()))
        messy = f"\n{first.strip()}\r\n".replace("\n", "\r\n").encode()
        for given in ([messy, second, first], first + second, trusted_keys_to_json((first, second))):
            assert parse_trusted_keys(given) == (first, second)
        assert parse_trusted_keys(None) == parse_trusted_keys([]) == parse_trusted_keys("[]") == ()
        assert list(TrustedKeys.from_pem(first, second).by_id) == [
            key_id_of(serialization.load_pem_public_key(pem.encode())) for pem in (first, second)
        ]

    def test_a_private_key_is_refused_and_not_repeated(self) -> None:
        pem = private_pem(ec.generate_private_key(P256)).decode()
        with pytest.raises(ValueError, match=r"trusted_keys\[1\] holds a private key") as refused:
            parse_trusted_keys([public_pem(_ed25519().public_key()), pem])
        assert pem.splitlines()[1] not in str(refused.value)

    @pytest.mark.parametrize(
        ("key", "what"),
        [
            (ec.generate_private_key(ec.SECP384R1()), "secp384r1"),
            (ec.generate_private_key(ec.SECP256K1()), "secp256k1"),
            (rsa.generate_private_key(65537, 2048), "RSAPublicKey"),
        ],
    )
    def test_keys_that_phones_do_not_verify_are_refused(self, key, what: str) -> None:
        with pytest.raises(ValueError, match=f"{what}.*valid are keys on P-256"):
            parse_trusted_keys([public_pem(key.public_key())])

    @pytest.mark.parametrize("given", ["key.pem", "", "[", ["x"], [3], 3, {"a": "b"}])
    def test_anything_else_is_refused(self, given) -> None:
        with pytest.raises(ValueError, match="trusted_keys"):
            parse_trusted_keys(given)


def _ed25519() -> ed25519.Ed25519PrivateKey:
    return ed25519.Ed25519PrivateKey.generate()


class TestKeyInAFile:
    @pytest.mark.parametrize("key", [ec.generate_private_key(P256), _ed25519()])
    def test_signs_what_its_public_half_verifies(self, key_file: Path, key) -> None:
        write_key(key_file, private_pem(key))
        signer = EnvironmentSigningKey().open()
        assert key_id_of(signer.public_key) == key_id_of(key.public_key())
        signature = signer.sign(b"message")
        assert is_signature(signer.public_key, signature, b"message")
        assert not is_signature(signer.public_key, signature, b"massage")

    def test_the_older_form_of_a_key_is_read(self, key_file: Path) -> None:
        key = ec.generate_private_key(P256)
        form = serialization.PrivateFormat.TraditionalOpenSSL
        write_key(key_file, key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
        assert key_id_of(EnvironmentSigningKey().open().public_key) == key_id_of(key.public_key())

    def test_without_the_variable(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv(KEY_FILE_VARIABLE, raising=False)
        with pytest.raises(SigningError, match=f"{KEY_FILE_VARIABLE} is not set.*keys generate"):
            EnvironmentSigningKey().open()

    def test_without_the_file(self, key_file: Path) -> None:
        with pytest.raises(SigningError, match=r"key\.pem.*cannot be read: No such file"):
            EnvironmentSigningKey().open()

    @pytest.mark.parametrize("mode", [0o644, 0o604, 0o602])
    def test_a_file_that_everybody_can_read_is_refused(self, key_file: Path, mode: int) -> None:
        write_key(key_file, private_pem(ec.generate_private_key(P256)), mode)
        with pytest.raises(SigningError, match=f"mode {mode:04o}.*chmod 600"):
            EnvironmentSigningKey().open()

    def test_a_file_of_a_group_is_read(self, key_file: Path) -> None:
        # As Kubernetes mounts a secret for a pod with an fsGroup.
        write_key(key_file, private_pem(ec.generate_private_key(P256)), 0o440)
        EnvironmentSigningKey().open()

    @pytest.mark.parametrize(
        ("key", "what"),
        [
            (ec.generate_private_key(ec.SECP384R1()), "secp384r1"),
            (ec.generate_private_key(ec.SECP256K1()), "secp256k1"),
            (rsa.generate_private_key(65537, 2048), "RSAPrivateKey"),
        ],
    )
    def test_other_kinds_of_keys_are_refused(self, key_file: Path, key, what: str) -> None:
        write_key(key_file, private_pem(key))
        with pytest.raises(SigningError, match=f"{what}.*valid are keys on P-256"):
            EnvironmentSigningKey().open()

    def test_a_public_key_noise_and_an_encrypted_key_are_refused(self, key_file: Path) -> None:
        key = ec.generate_private_key(P256)
        for data in (public_pem(key.public_key()).encode(), b"\x00noise", b"", private_pem(key)[:-40]):
            write_key(key_file, data)
            with pytest.raises(SigningError, match="holds no private key in PEM form"):
                EnvironmentSigningKey().open()
        encryption = serialization.BestAvailableEncryption(b"password")
        write_key(
            key_file, key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
        )
        with pytest.raises(SigningError, match="encrypted key"):
            EnvironmentSigningKey().open()


class TestKeyring:
    def test_a_signing_key_that_nobody_trusts_is_refused_before_anything_is_written(self, key_file: Path) -> None:
        write_key(key_file, private_pem(ec.generate_private_key(P256)))
        other = public_pem(_ed25519().public_key())
        with pytest.raises(SigningError, match="is not among the trusted keys"):
            open_keyring(EnvironmentSigningKey(), [other])
        own = public_pem(EnvironmentSigningKey().open().public_key)
        keyring = open_keyring(EnvironmentSigningKey(), [other, own])
        assert keyring.signing_key_id in keyring.trusted.by_id

    def test_no_trusted_key_requires_nothing(self) -> None:
        keyring = open_keyring(None, ())
        assert (keyring.signer, keyring.trusted, keyring.signing_key_id) == (None, None, None)


@pytest.fixture
def kms(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCloudKms]:
    with FakeCloudKms() as fake:
        connect(fake, monkeypatch)
        yield fake


def connect(fake: FakeCloudKms, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(kms_signer.ENDPOINT_VARIABLE, fake.endpoint)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def open_kms(name: str = KEY_VERSION) -> kms_signer.KmsSigner:
    return kms_signer.KmsSigner(name, QUICK)


class TestCloudKms:
    @pytest.mark.parametrize("key", [ec.generate_private_key(P256), _ed25519()])
    def test_signs_what_its_public_half_verifies(self, monkeypatch: pytest.MonkeyPatch, key) -> None:
        with FakeCloudKms(key) as fake:
            connect(fake, monkeypatch)
            signer = KmsSigningKey(key_version=KEY_VERSION).open()
            assert key_id_of(signer.public_key) == key_id_of(key.public_key())
            assert is_signature(signer.public_key, signer.sign(b"message" * 1000), b"message" * 1000)
            assert fake.num_requests == 2
            assert "authorization" not in fake.requests[1].headers

    def test_the_bytes_to_sign_stay_here_with_p256(self, kms: FakeCloudKms) -> None:
        open_kms().sign(b"message")
        assert set(kms.requests[1].json()) == {"digest", "digestCrc32c"}

    def test_the_client_asks_no_other_host(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(kms_signer.ENDPOINT_VARIABLE, "http://kms.example.com")
        with pytest.raises(ValueError, match="not on the loopback interface"):
            open_kms()

    def test_without_the_role(self, kms: FakeCloudKms) -> None:
        kms.allowed = False
        with pytest.raises(SigningError, match=r"403 Permission 'cloudkms.*roles/cloudkms.signerVerifier"):
            open_kms()
        assert kms.num_requests == 1

    def test_without_the_role_to_sign_only(self, kms: FakeCloudKms) -> None:
        signer = open_kms()
        kms.allowed = False
        with pytest.raises(SigningError, match=r"useToSign.*roles/cloudkms.signerVerifier"):
            signer.sign(b"message")

    def test_a_key_that_is_not_there(self, kms: FakeCloudKms) -> None:
        with pytest.raises(SigningError, match=r"404 CryptoKeyVersion .* not found.*versions list"):
            open_kms(KEY_VERSION[:-1] + "7")

    @pytest.mark.parametrize("state", ["DISABLED", "DESTROYED", "PENDING_GENERATION"])
    def test_a_key_that_is_not_enabled(self, kms: FakeCloudKms, state: str) -> None:
        kms.state = state
        with pytest.raises(SigningError, match=f"current state is: {state}.*versions enable"):
            open_kms()

    def test_a_key_that_is_disabled_meanwhile(self, kms: FakeCloudKms) -> None:
        signer = open_kms()
        kms.state = "DISABLED"
        with pytest.raises(SigningError, match="current state is: DISABLED"):
            signer.sign(b"message")

    @pytest.mark.parametrize(
        "algorithm", ["EC_SIGN_P384_SHA384", "RSA_SIGN_PSS_2048_SHA256", "EC_SIGN_SECP256K1_SHA256"]
    )
    def test_an_algorithm_that_phones_do_not_verify(self, monkeypatch: pytest.MonkeyPatch, algorithm: str) -> None:
        with FakeCloudKms(algorithm=algorithm) as fake:
            connect(fake, monkeypatch)
            with pytest.raises(SigningError, match=f"has the algorithm {algorithm}; valid are EC_SIGN_P256_SHA256"):
                open_kms()

    @pytest.mark.parametrize(
        ("member", "value", "problem"),
        [
            ("pem", public_pem(_ed25519().public_key()), "public key does not match its checksum"),
            ("pemCrc32c", "1", "public key does not match its checksum"),
            ("pemCrc32c", None, "public key does not match its checksum"),
            ("name", KEY_VERSION[:-1] + "2", "another key version"),
            ("signature", "AAAA", "signature does not match its checksum"),
            ("signatureCrc32c", "1", "signature does not match its checksum"),
            ("signatureCrc32c", None, "signature does not match its checksum"),
            ("verifiedDigestCrc32c", False, "did not receive the checksum"),
        ],
    )
    def test_answers_damaged_on_their_way_are_refused(
        self, kms: FakeCloudKms, member: str, value, problem: str
    ) -> None:
        kms.tampered = {member: value}
        with pytest.raises(SigningError, match=problem):
            open_kms().sign(b"message")
        assert kms.num_requests in (kms_signer._MAX_ATTEMPTS, kms_signer._MAX_ATTEMPTS + 1)

    def test_a_key_that_changes_behind_its_name_is_noticed(self, kms: FakeCloudKms) -> None:
        signer = open_kms()
        kms.private_key = ec.generate_private_key(P256)
        with pytest.raises(SigningError, match="the signature is not valid"):
            signer.sign(b"message")

    def test_a_request_damaged_on_its_way_is_sent_again(self, kms: FakeCloudKms) -> None:
        signer = open_kms()
        handle, damaged = kms.handle, []

        def damage_once(request):
            if not damaged and request.mutating:
                damaged.append(request)
                body = {**request.json(), "digestCrc32c": "1"}
                request = type(request)(**{**vars(request), "body": json.dumps(body).encode()})
            return handle(request)

        kms.handle = damage_once
        assert is_signature(signer.public_key, signer.sign(b"message"), b"message")
        assert kms.num_requests == 3

    @pytest.mark.parametrize("fault", FAULTS, ids=str)
    @pytest.mark.parametrize("number", [0, 1])
    def test_survives_a_fault_of_either_request(self, kms: FakeCloudKms, number: int, fault: Fault) -> None:
        kms.fail(number, fault)
        signer = open_kms()
        assert is_signature(signer.public_key, signer.sign(b"message"), b"message")
        assert kms.num_requests == 3

    def test_gives_up_when_the_service_stays_away(self, kms: FakeCloudKms) -> None:
        kms.fail(0, *[Fault("status", status=503)] * 20)
        with pytest.raises(SigningError, match=r"could not be used.*503 injected.*push again later"):
            open_kms()
        assert kms.num_requests == kms_signer._MAX_ATTEMPTS

    def test_no_service_at_all(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(kms_signer.ENDPOINT_VARIABLE, "http://127.0.0.1:9")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        with pytest.raises(SigningError, match="ConnectionError"):
            open_kms()

    def test_without_credentials(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.delenv(kms_signer.ENDPOINT_VARIABLE, raising=False)
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "missing.json"))
        with pytest.raises(SigningError, match=r"no credentials.*roles/cloudkms.signerVerifier"):
            open_kms()


def run(*arguments: str):
    return CliRunner().invoke(keys, arguments)


class TestCommand:
    @pytest.mark.parametrize("option", [(), ("--ed25519",)])
    def test_a_generated_key_signs(self, key_file: Path, option: tuple[str, ...]) -> None:
        made = run("generate", str(key_file), *option)
        assert made.exit_code == 0, made.output
        assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
        signer = EnvironmentSigningKey().open()
        assert parse_trusted_keys(made.stdout) == (public_pem(signer.public_key),)
        assert isinstance(signer.public_key, ed25519.Ed25519PublicKey) == bool(option)
        assert key_id_of(signer.public_key) in made.stderr
        shown = run("show")
        assert shown.stdout == made.stdout
        assert json.loads(run("show", "environment", "--json").stdout) == {
            "key_id": key_id_of(signer.public_key),
            "public_key": made.stdout,
        }

    def test_the_private_key_is_never_shown(self, key_file: Path) -> None:
        output = run("generate", str(key_file), "--json").output + run("show").output
        assert all(line not in output for line in key_file.read_text().splitlines())

    def test_nothing_is_overwritten(self, key_file: Path) -> None:
        key_file.write_text("precious")
        made = run("generate", str(key_file))
        assert made.exit_code == 1
        assert "exists" in made.output
        assert key_file.read_text() == "precious"

    def test_a_folder_that_is_not_there(self, tmp_path: Path) -> None:
        made = run("generate", str(tmp_path / "nowhere" / "key.pem"))
        assert made.exit_code == 1
        assert "No such file" in made.output

    def test_show_of_a_key_in_kms(self, kms: FakeCloudKms) -> None:
        shown = run("show", f"gcp-kms://{KEY_VERSION}")
        assert shown.stdout == public_pem(kms.private_key.public_key())

    def test_show_explains_what_is_wrong(self, key_file: Path, kms: FakeCloudKms) -> None:
        assert "looks like the path of a file" in run("show", str(key_file)).output
        assert "cannot be read" in run("show").output
        kms.allowed = False
        refused = run("show", f"gcp-kms://{KEY_VERSION}")
        assert refused.exit_code == 1
        assert "roles/cloudkms.signerVerifier" in refused.output
