"""Small files that look like models, and the manifests of releases made of them."""

from __future__ import annotations

import gzip
from pathlib import Path

from tfx_mobile.recipes import BUILTIN_RECIPES
from tfx_mobile.records import (
    ChannelStatement,
    Envelope,
    EvaluationSummary,
    ModelFileRecord,
    OpRecord,
    ReleaseManifest,
    SignatureRecord,
    TensorRecord,
    sha256_of,
)
from tfx_mobile.release_store.names import blob_path
from tfx_mobile.release_store.publishing import Push
from tfx_mobile.release_store.reading import CHANNEL_TYPE
from tfx_mobile.release_store.signing import NO_KEYS, Keyring

MODEL = "digits"
CHANNEL = "production"
SOURCE_SHA256 = sha256_of(b"the SavedModel")


def model_bytes(seed: int = 0) -> bytes:
    """Bytes with the identifier of a `.tflite` file; a different seed gives different bytes."""
    return b"\x1c\x00\x00\x00TFL3" + f"model {seed}".encode() * 100


def file_record(data: bytes) -> ModelFileRecord:
    """A plausible description of `data`."""
    return ModelFileRecord(
        sha256=sha256_of(data),
        size_bytes=len(data),
        gzip_bytes=len(gzip.compress(data, mtime=0)),
        signatures=(
            SignatureRecord(
                key="serving_default",
                inputs=(TensorRecord(name="image", dtype="float32", shape=(1, 16)),),
                outputs=(TensorRecord(name="probabilities", dtype="float32", shape=(1, 3)),),
            ),
        ),
        ops=(OpRecord(name="FULLY_CONNECTED", version=1, count=1, float_count=1),),
        min_runtime_version="1.14.0",
    )


def manifest_of(data: bytes, model_name: str = MODEL) -> ReleaseManifest:
    """The manifest of a release of `data`."""
    return ReleaseManifest(
        model=model_name,
        variant="float32",
        recipe=BUILTIN_RECIPES["float32"],
        blob=blob_path(model_name, sha256_of(data)),
        file=file_record(data),
        blessed=True,
        evaluation=EvaluationSummary(
            num_examples=90, splits=("eval",), baseline={"accuracy": 1.0}, variant={"accuracy": 0.99}
        ),
        source_sha256=SOURCE_SHA256,
        versions={"tfx-mobile": "0.1.0"},
    )


def push_of(data: bytes, channel: str = CHANNEL, model_name: str = MODEL, keyring: Keyring = NO_KEYS) -> Push:
    """A push of `data`."""
    return Push(manifest_of(data, model_name), data, channel, keyring)


def read_statement(channel_file: Path) -> ChannelStatement:
    """What a channel's file states."""
    return ChannelStatement.from_json(Envelope.read(channel_file).open(CHANNEL_TYPE))


def falsify_statement(channel_file: Path, **changes: object) -> None:
    """Writes a well-formed statement that says something else."""
    statement = read_statement(channel_file).model_copy(update=changes)
    channel_file.write_bytes(Envelope.seal(CHANNEL_TYPE, statement.to_json()).to_json())


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below `folder`, lock files aside."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }
