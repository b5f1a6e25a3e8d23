"""Signed releases on a real folder: what is signed, what is refused, and how keys change."""

from __future__ import annotations

import base64
import json
import multiprocessing
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from tests.fakes.keys import new_signer, pem_of, trusting
from tests.fakes.releases import CHANNEL, MODEL, manifest_of, model_bytes, push_of, tree
from tfx_mobile.errors import ConflictError, ModelFileError, SigningError, TFXMobileError, UntrustedReleaseError
from tfx_mobile.records import ChannelStatement, Envelope, Signature
from tfx_mobile.release_store.channel import Draft, move_channel
from tfx_mobile.release_store.filesystem_store import FilesystemStore
from tfx_mobile.release_store.names import blob_path, channel_path, release_path
from tfx_mobile.release_store.publishing import plan, publish, stage
from tfx_mobile.release_store.reading import CHANNEL_TYPE, MANIFEST_TYPE, read_channel, resolve
from tfx_mobile.release_store.signing import NO_KEYS, Keyring, TrustedKeys, key_id_of
from tfx_mobile.release_store.signing_keys import LocalSigner

FIRST, SECOND = model_bytes(1), model_bytes(2)
CHANNEL_PATH = channel_path(MODEL, CHANNEL)


@pytest.fixture
def store(tmp_path: Path) -> FilesystemStore:
    return FilesystemStore(str(tmp_path / "store"))


@pytest.fixture
def signer() -> LocalSigner:
    return new_signer()


def file_of(store: FilesystemStore, path: str) -> Path:
    return Path(store.uri(path))


def pinned(now: ChannelStatement) -> Draft:
    """Names the same release again."""
    return Draft("pin", now.release_id, now.sha256, {})


def push(store: FilesystemStore, data: bytes, keyring: Keyring):
    return publish(store, push_of(data, keyring=keyring))


@pytest.mark.parametrize("kind", ["p256", "ed25519"])
def test_a_signed_push_is_read_by_who_trusts_the_key(store: FilesystemStore, kind: str) -> None:
    signer = new_signer(kind)
    receipt = push(store, FIRST, trusting(signer, signer=signer))
    release = resolve(store, MODEL, CHANNEL, trusting(signer))
    assert (release.model, release.release_id) == (FIRST, receipt.release_id)
    assert release.manifest.signing_key_id == key_id_of(signer.public_key)
    assert resolve(store, MODEL, CHANNEL).model == FIRST  # who trusts nobody in particular reads it too
    assert push(store, FIRST, trusting(signer, signer=signer)).status == "unchanged"


def test_both_objects_are_signed_as_dsse_says(store: FilesystemStore) -> None:
    # What a device in another language does: plain JSON, base64, and one ECDSA verification.
    key = ec.generate_private_key(ec.SECP256R1())
    receipt = push(store, FIRST, Keyring(LocalSigner(key)))
    for path, payload_type in (
        (CHANNEL_PATH, b"application/vnd.mobile-model-channel+json"),
        (release_path(MODEL, receipt.release_id), b"application/vnd.mobile-model-manifest+json"),
    ):
        sealed = json.loads(file_of(store, path).read_bytes())
        payload = base64.b64decode(sealed["payload"])
        (signature,) = sealed["signatures"]
        message = b"DSSEv1 %d %s %d %s" % (len(payload_type), payload_type, len(payload), payload)
        key.public_key().verify(base64.b64decode(signature["sig"]), message, ec.ECDSA(hashes.SHA256()))
        assert sealed["payloadType"].encode() == payload_type
        assert signature["keyid"] == json.loads(payload)["signing_key_id"] == key_id_of(key.public_key())


class TestRefusals:
    """Everything a reader with trusted keys must refuse; without trusted keys some of it passes."""

    def test_another_key(self, store: FilesystemStore, signer: LocalSigner) -> None:
        push(store, FIRST, Keyring(signer))
        stranger = new_signer()
        with pytest.raises(UntrustedReleaseError, match=f"{id_of(signer)}; trusted: .*{id_of(stranger)}"):
            resolve(store, MODEL, CHANNEL, trusting(stranger))
        with pytest.raises(UntrustedReleaseError):
            push(store, SECOND, trusting(stranger, signer=stranger))

    def test_no_key_at_all(self, store: FilesystemStore, signer: LocalSigner) -> None:
        push(store, FIRST, NO_KEYS)
        with pytest.raises(UntrustedReleaseError, match="Signed by: nobody"):
            resolve(store, MODEL, CHANNEL, trusting(signer))

    def test_trust_in_no_key_trusts_nobody(self, store: FilesystemStore, signer: LocalSigner) -> None:
        push(store, FIRST, Keyring(signer))
        with pytest.raises(UntrustedReleaseError, match="trusted: no key"):
            resolve(store, MODEL, CHANNEL, Keyring(trusted=TrustedKeys({})))

    def test_a_signature_that_claims_another_key(self, store: FilesystemStore, signer: LocalSigner) -> None:
        stranger = new_signer()
        push(store, FIRST, Keyring(stranger))
        for path in (CHANNEL_PATH, *release_paths(store)):
            envelope = Envelope.read(file_of(store, path))
            claimed = envelope.signatures[0].model_copy(update={"keyid": key_id_of(signer.public_key)})
            rewrite(store, path, envelope.model_copy(update={"signatures": (claimed,)}))
        with pytest.raises(UntrustedReleaseError):
            resolve(store, MODEL, CHANNEL, trusting(signer))

    @pytest.mark.parametrize(
        "changes", [{"version": 9}, {"sha256": "0" * 64}, {"release_id": "0" * 64}, {"refused": ("1",)}]
    )
    def test_an_altered_channel(self, store: FilesystemStore, signer: LocalSigner, changes: dict[str, Any]) -> None:
        push(store, FIRST, Keyring(signer))
        envelope = Envelope.read(file_of(store, CHANNEL_PATH))
        statement = ChannelStatement.from_json(envelope.open(CHANNEL_TYPE)).model_copy(update=changes)
        rewrite(store, CHANNEL_PATH, Envelope.seal(CHANNEL_TYPE, statement.to_json(), envelope.signatures))
        with pytest.raises(UntrustedReleaseError):
            resolve(store, MODEL, CHANNEL, trusting(signer))
        with pytest.raises(UntrustedReleaseError):
            push(store, SECOND, trusting(signer, signer=signer))

    def test_an_altered_manifest(self, store: FilesystemStore, signer: LocalSigner) -> None:
        push(store, FIRST, Keyring(signer))
        (path,) = release_paths(store)
        envelope = Envelope.read(file_of(store, path))
        payload = envelope.open(MANIFEST_TYPE).replace(b'"float32"', b'"float16"')
        rewrite(store, path, Envelope.seal(MANIFEST_TYPE, payload, envelope.signatures))
        with pytest.raises(UntrustedReleaseError):
            resolve(store, MODEL, CHANNEL, trusting(signer))

    def test_altered_bytes(self, store: FilesystemStore, signer: LocalSigner) -> None:
        push(store, FIRST, Keyring(signer))
        blob = file_of(store, manifest_of(FIRST).blob)
        blob.write_bytes(FIRST[:-1] + b"!")
        with pytest.raises(ModelFileError, match="Do not run it"):
            resolve(store, MODEL, CHANNEL, trusting(signer))
        with pytest.raises(ConflictError, match="other bytes"):
            push(store, FIRST, trusting(signer, signer=signer))

    @pytest.mark.parametrize("which", ["channel", "manifest"])
    def test_no_flipped_bit_is_trusted(self, store: FilesystemStore, signer: LocalSigner, which: str) -> None:
        push(store, FIRST, Keyring(signer))
        path = CHANNEL_PATH if which == "channel" else release_paths(store)[0]
        intact = file_of(store, path).read_bytes()
        payload = Envelope.read(file_of(store, path)).payload
        for position in range(0, len(intact), 3):
            damaged = bytearray(intact)
            damaged[position] ^= 1 << (position % 8)
            file_of(store, path).write_bytes(damaged)
            try:
                release = resolve(store, MODEL, CHANNEL, trusting(signer))
            except TFXMobileError:
                continue
            # Base64 has bits that mean nothing; what was signed is still what is read.
            assert release.model == FIRST
            assert base64.b64decode(json.loads(damaged)["payload"]) == base64.b64decode(payload)

    def test_a_signature_over_another_type_of_payload(self, store: FilesystemStore, signer: LocalSigner) -> None:
        # Somebody gets a statement signed as a manifest, and puts it where a channel is read.
        push(store, FIRST, Keyring(signer))
        envelope = Envelope.read(file_of(store, CHANNEL_PATH))
        payload = envelope.open(CHANNEL_TYPE)
        as_manifest = Keyring(signer).seal(MANIFEST_TYPE, payload)
        rewrite(store, CHANNEL_PATH, as_manifest)
        with pytest.raises(ConflictError, match=r"holds application/vnd\.mobile-model-manifest"):
            resolve(store, MODEL, CHANNEL, trusting(signer))
        rewrite(store, CHANNEL_PATH, Envelope.seal(CHANNEL_TYPE, payload, as_manifest.signatures))
        with pytest.raises(UntrustedReleaseError):
            resolve(store, MODEL, CHANNEL, trusting(signer))

    def test_the_statement_of_another_channel(self, store: FilesystemStore, signer: LocalSigner) -> None:
        publish(store, push_of(FIRST, "beta", keyring=Keyring(signer)))
        push(store, SECOND, Keyring(signer))
        file_of(store, CHANNEL_PATH).write_bytes(file_of(store, channel_path(MODEL, "beta")).read_bytes())
        with pytest.raises(ConflictError, match="channel 'beta'"):
            resolve(store, MODEL, CHANNEL, trusting(signer))

    @pytest.mark.parametrize("sig", ["", "é", "AAAA", "not base64", "AA==", "A" * 5000])
    def test_signatures_that_are_none(self, store: FilesystemStore, signer: LocalSigner, sig: str) -> None:
        push(store, FIRST, Keyring(signer))
        envelope = Envelope.read(file_of(store, CHANNEL_PATH))
        signature = Signature(keyid=key_id_of(signer.public_key), sig=sig)
        rewrite(store, CHANNEL_PATH, envelope.model_copy(update={"signatures": (signature,)}))
        with pytest.raises(UntrustedReleaseError):
            resolve(store, MODEL, CHANNEL, trusting(signer))

    @pytest.mark.parametrize("payload", ["é", "!", "AAA"])
    def test_payloads_that_are_none(self, store: FilesystemStore, signer: LocalSigner, payload: str) -> None:
        push(store, FIRST, Keyring(signer))
        envelope = Envelope.read(file_of(store, CHANNEL_PATH))
        rewrite(store, CHANNEL_PATH, envelope.model_copy(update={"payload": payload}))
        with pytest.raises(ConflictError, match="not base64"):
            resolve(store, MODEL, CHANNEL, trusting(signer))

    def test_one_good_signature_among_bad_ones_is_enough(self, store: FilesystemStore, signer: LocalSigner) -> None:
        push(store, FIRST, Keyring(signer))
        for path in (CHANNEL_PATH, *release_paths(store)):
            envelope = Envelope.read(file_of(store, path))
            (good,) = envelope.signatures
            bad = Signature(keyid=key_id_of(new_signer().public_key), sig="AAAA")
            rewrite(store, path, envelope.model_copy(update={"signatures": (bad, good)}))
        assert resolve(store, MODEL, CHANNEL, trusting(signer)).model == FIRST


class TestTurningItOn:
    def test_over_an_unsigned_store(self, store: FilesystemStore, signer: LocalSigner) -> None:
        unsigned = push(store, FIRST, NO_KEYS)
        blob = file_of(store, manifest_of(FIRST).blob)
        written = blob.stat().st_mtime_ns
        # Who requires a signature cannot take over what has none; the error says how to.
        with pytest.raises(UntrustedReleaseError, match="push once without trusted keys"):
            push(store, FIRST, trusting(signer, signer=signer))
        signed = push(store, FIRST, Keyring(signer))
        assert (signed.status, signed.channel_version) == ("pushed", 2)
        assert signed.previous_release_id == unsigned.release_id != signed.release_id
        assert blob.stat().st_mtime_ns == written
        assert len(tree(Path(store.address))) == 4  # the bytes once, two manifests, one channel
        assert resolve(store, MODEL, CHANNEL, trusting(signer)).model == FIRST
        assert push(store, FIRST, trusting(signer, signer=signer)).status == "unchanged"

    def test_it_is_not_turned_off_by_leaving_out_the_key(self, store: FilesystemStore, signer: LocalSigner) -> None:
        push(store, FIRST, Keyring(signer))
        before = tree(Path(store.address))
        for data in (FIRST, SECOND):
            for act in (plan, publish):
                with pytest.raises(SigningError, match=f"is signed with the key {key_id_of(signer.public_key)}"):
                    act(store, push_of(data))
        with pytest.raises(SigningError, match="would be written without a signature"):
            move_channel(store, MODEL, CHANNEL, pinned, NO_KEYS)
        assert tree(Path(store.address)) == before

    def test_trusted_keys_without_a_signing_key_write_nothing(
        self, store: FilesystemStore, signer: LocalSigner
    ) -> None:
        for act in (plan, publish):
            with pytest.raises(SigningError, match="trusted keys were given"):
                act(store, push_of(FIRST, keyring=trusting(signer)))
        assert tree(Path(store.address)) == {}

    def test_other_channels_stay_as_they_are(self, store: FilesystemStore, signer: LocalSigner) -> None:
        publish(store, push_of(FIRST, "beta"))
        push(store, FIRST, Keyring(signer))
        assert resolve(store, MODEL, "beta").model == FIRST
        assert publish(store, push_of(FIRST, "beta")).status == "unchanged"


class TestRotation:
    def test_two_keys_are_valid_at_once_and_then_one(self, store: FilesystemStore) -> None:
        old, new = new_signer(), new_signer("ed25519")
        push(store, FIRST, trusting(old, signer=old))
        # Apps that trust both are out; now the pipeline changes its key.
        receipt = push(store, SECOND, trusting(old, new, signer=new))
        assert receipt.channel_version == 2
        for app in (trusting(old, new), trusting(new)):
            assert resolve(store, MODEL, CHANNEL, app).model == SECOND
        with pytest.raises(UntrustedReleaseError):
            resolve(store, MODEL, CHANNEL, trusting(old))

    def test_the_same_bytes_under_a_new_key_are_a_new_release_without_an_upload(self, store: FilesystemStore) -> None:
        old, new = new_signer(), new_signer()
        first = push(store, FIRST, Keyring(old))
        blob = file_of(store, manifest_of(FIRST).blob)
        before = blob.stat().st_mtime_ns
        second = push(store, FIRST, trusting(old, new, signer=new))
        assert (second.status, second.channel_version) == ("pushed", 2)
        assert second.release_id != first.release_id
        assert blob.stat().st_mtime_ns == before
        assert resolve(store, MODEL, CHANNEL, trusting(new)).model == FIRST
        assert push(store, FIRST, trusting(old, new, signer=new)).status == "unchanged"

    def test_a_channel_moved_with_the_old_key_is_signed_again(self, store: FilesystemStore) -> None:
        # The release is the new key's, but somebody pinned it with the old one: devices that dropped it would refuse.
        old, new = new_signer(), new_signer()
        push(store, FIRST, Keyring(new))
        move_channel(
            store,
            MODEL,
            CHANNEL,
            pinned,
            trusting(old, new, signer=old),
        )
        with pytest.raises(UntrustedReleaseError):
            resolve(store, MODEL, CHANNEL, trusting(new))
        assert push(store, FIRST, trusting(old, new, signer=new)).channel_version == 3
        assert resolve(store, MODEL, CHANNEL, trusting(new)).model == FIRST

    def test_an_old_signed_channel_is_signed_all_the_same(self, store: FilesystemStore, signer: LocalSigner) -> None:
        # A signature does not tell old from new: that is what a device remembers the highest version for.
        push(store, FIRST, Keyring(signer))
        old = file_of(store, CHANNEL_PATH).read_bytes()
        push(store, SECOND, Keyring(signer))
        file_of(store, CHANNEL_PATH).write_bytes(old)
        statement, _ = read_channel(store, MODEL, CHANNEL, trusting(signer))
        assert (statement.version, resolve(store, MODEL, CHANNEL, trusting(signer)).model) == (1, FIRST)


def publish_at_once(root: str, pem: bytes, barrier: Barrier, results: Any) -> None:
    from cryptography.hazmat.primitives import serialization

    signer = LocalSigner(serialization.load_pem_private_key(pem, None))
    barrier.wait(60)
    results.put(publish(FilesystemStore(root), push_of(FIRST, keyring=trusting(signer, signer=signer))).status)


class TestConcurrency:
    def test_no_two_signatures_of_p256_are_alike(self, store: FilesystemStore, signer: LocalSigner) -> None:
        keyring = Keyring(signer)
        sealed = [keyring.seal(MANIFEST_TYPE, b"{}") for _ in range(2)]
        assert sealed[0].to_json() != sealed[1].to_json()
        assert all(trusting(signer).open(e.to_json(), MANIFEST_TYPE, "") == b"{}" for e in sealed)

    def test_who_finds_the_manifest_signed_meanwhile_goes_on(
        self, store: FilesystemStore, signer: LocalSigner, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        rival = FilesystemStore(store.address)
        put = FilesystemStore.put_if_absent

        def put_after_the_rival(self: FilesystemStore, path: str, data: bytes) -> None:
            if self is store and path.startswith("releases/"):
                stage(rival, push_of(FIRST, keyring=Keyring(signer)))
            put(self, path, data)

        monkeypatch.setattr(FilesystemStore, "put_if_absent", put_after_the_rival)
        assert push(store, FIRST, trusting(signer, signer=signer)).status == "pushed"
        assert resolve(store, MODEL, CHANNEL, trusting(signer)).model == FIRST

    def test_a_manifest_with_a_strangers_signature_in_its_place_is_refused(
        self, store: FilesystemStore, signer: LocalSigner
    ) -> None:
        wanted = push_of(FIRST, keyring=Keyring(signer))
        forged = Keyring(new_signer()).seal(MANIFEST_TYPE, wanted.manifest.to_json())
        store.put_if_absent(release_path(MODEL, wanted.release_id), forged.to_json())
        with pytest.raises(ConflictError, match="exists with other bytes"):
            publish(store, wanted)
        assert store.read(CHANNEL_PATH) is None

    def test_four_signers_of_one_manifest_make_one_release(self, tmp_path: Path) -> None:
        from cryptography.hazmat.primitives import serialization

        key = ec.generate_private_key(ec.SECP256R1())
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        barrier, results = context.Barrier(4), context.Queue()
        pushers = [
            context.Process(target=publish_at_once, args=(str(tmp_path), pem, barrier, results)) for _ in range(4)
        ]
        for pusher in pushers:
            pusher.start()
        assert sorted(results.get(timeout=60) for _ in pushers) == ["pushed", *["unchanged"] * 3]
        for pusher in pushers:
            pusher.join(60)
        assert len(tree(tmp_path)) == 3
        release = resolve(FilesystemStore(str(tmp_path)), MODEL, CHANNEL, trusting(LocalSigner(key)))
        assert (release.model, release.channel_version) == (FIRST, 1)


def test_a_signer_that_fails_leaves_nothing_that_devices_see(store: FilesystemStore, signer: LocalSigner) -> None:
    class OutOfService:
        """The key is known, but the service does not sign."""

        public_key = signer.public_key

        def sign(self, message: bytes) -> bytes:
            raise SigningError("the service is away")

    push(store, FIRST, Keyring(signer))
    with pytest.raises(SigningError, match="the service is away"):
        push(store, SECOND, Keyring(OutOfService()))
    assert resolve(store, MODEL, CHANNEL, trusting(signer)).model == FIRST
    assert file_of(store, blob_path(MODEL, manifest_of(SECOND).file.sha256)).is_file()
    assert push(store, SECOND, Keyring(signer)).status == "pushed"


def test_pem_texts_are_what_devices_are_given(signer: LocalSigner) -> None:
    assert TrustedKeys.from_pem(pem_of(signer)) == trusting(signer).trusted


def id_of(signer: LocalSigner) -> str:
    return key_id_of(signer.public_key)


def release_paths(store: FilesystemStore) -> list[str]:
    return [info.path for info in store.list(f"releases/{MODEL}/")]


def rewrite(store: FilesystemStore, path: str, envelope: Envelope) -> None:
    file_of(store, path).write_bytes(envelope.to_json())
