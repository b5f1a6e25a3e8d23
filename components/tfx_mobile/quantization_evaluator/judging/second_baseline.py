"""The model that phones run today: finds it, looks at it as at a variant, and says what it means for a verdict.

What keeps it from being compared is recorded and never an exception; only a store that cannot be read is an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import tenacity

from tfx_mobile.errors import (
    ConflictError,
    DestinationUnavailableError,
    EvaluationError,
    ModelFileError,
    NothingPublishedError,
)
from tfx_mobile.quantization_evaluator.eval_config import PRODUCTION
from tfx_mobile.quantization_evaluator.production import ProductionModel
from tfx_mobile.quantization_evaluator.scoring import signature_check
from tfx_mobile.quantization_evaluator.scoring.predict import Default, VariantFile
from tfx_mobile.quantization_evaluator.scoring.trial import FirstRows
from tfx_mobile.records import (
    ProductionRecord,
    Reason,
    SignatureRecord,
    SourceModelRecord,
    TensorRecord,
    Verdict,
)
from tfx_mobile.release_store import reading
from tfx_mobile.tflite.flatbuffer import read_model, signatures
from tfx_mobile.tflite.preflight import preflight

_ATTEMPTS = 4
_FIRST_WAIT_SECONDS = 0.5

_ADVICE = {
    "not_comparable": "If the model was changed on purpose, set ProductionModel(if_not_comparable='skip') for the run "
    "that replaces it, or name another channel.",
    "damaged": "Devices that check hashes refuse this release. Push a good release to the channel, or roll back, and "
    "run the evaluation again.",
}


def find(spec: ProductionModel) -> tuple[ProductionRecord, reading.Release | None]:
    """Resolves the channel and verifies every step on the way, the bytes included.

    Returns:
        The record, and the release if there is one that can be trusted: status `compared` as long as nothing speaks
        against it, `no_release`, or `damaged`.

    Raises:
        EvaluationError: The store cannot be read, tried several times.
    """
    store = spec.destination.open_store()
    record = ProductionRecord(
        address=store.address, model_name=spec.model_name, channel=spec.channel, status="compared"
    )
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception(
            lambda error: (
                isinstance(error, DestinationUnavailableError) and not isinstance(error, NothingPublishedError)
            )
        ),
        wait=tenacity.wait_exponential(multiplier=_FIRST_WAIT_SECONDS),
        stop=tenacity.stop_after_attempt(_ATTEMPTS),
        reraise=True,
    )
    try:
        release = retrying(reading.resolve, store, spec.model_name, spec.channel)
    except NothingPublishedError as error:
        return record.model_copy(update={"status": "no_release", "message": str(error)}), None
    except (ConflictError, ModelFileError) as error:
        return record.model_copy(update={"status": "damaged", "message": str(error)}), None
    except DestinationUnavailableError as error:
        raise EvaluationError(
            f"The model in production cannot be read, so nothing can be said about a new one: {error} Check production="
            f"ProductionModel(...), or leave it out."
        ) from error
    found = {
        "release_id": release.release_id,
        "sha256": release.manifest.file.sha256,
        "channel_version": release.channel_version,
    }
    return record.model_copy(update=found), release


def not_comparable(record: ProductionRecord, why: str) -> ProductionRecord:
    """The same model, with the reason why it is not compared."""
    return record.model_copy(update={"status": "not_comparable", "message": why})


def inspect(
    release: reading.Release, source: SourceModelRecord, rows: FirstRows, directory: Path
) -> tuple[SignatureRecord | None, str]:
    """Looks at the released file as at a variant, which it need not have been converted together with.

    Args:
        release: What `find` found.
        source: Today's float model.
        rows: The first examples.
        directory: Local folder for files.

    Returns:
        The signature to run, and an empty text; or None, and what keeps the file from being compared.
    """
    try:
        found = signatures(read_model(release.model))
    except ModelFileError as error:
        return None, str(error)
    signature = signature_check.choose(found, source.signature)
    if signature is None:
        keys = ", ".join(s.key for s in found) or "none"
        return None, f"The released file has no signature {source.signature!r}; it has: {keys}."
    if problem := signature_check.mismatch("output", signature.outputs, source.outputs):
        return None, f"The released file cannot be compared: {problem}."
    examples = directory / f"{PRODUCTION}.npz"
    try:
        rows.save(examples, signature.inputs, defaults(release, signature, source), "the model in production")
    except EvaluationError as error:
        return None, str(error)
    local = directory / f"{PRODUCTION}.tflite"
    local.write_bytes(release.model)
    failure = preflight(local, sha256=release.manifest.file.sha256, examples=examples, signature=signature.key)
    return (signature, "") if failure is None else (None, failure.message)


def variant_file(
    release: reading.Release, signature: SignatureRecord, source: SourceModelRecord, uri: str
) -> VariantFile:
    """The released file, lying at `uri`, as one of the models of the pass."""
    return VariantFile(
        name=PRODUCTION,
        uri=uri,
        sha256=release.manifest.file.sha256,
        signature=signature.key,
        defaults=defaults(release, signature, source),
        own_inputs=True,
    )


def defaults(release: reading.Release, signature: SignatureRecord, source: SourceModelRecord) -> Mapping[str, Default]:
    """Values for features that an example lacks, by input name.

    Those that the release's manifest records; without any, those of today's float model if the inputs are the same.
    """
    recorded = [tensor for s in release.manifest.file.signatures if s.key == signature.key for tensor in s.inputs]
    if own := _defaults(recorded):
        return own
    return _defaults(source.inputs) if _types(signature.inputs) == _types(source.inputs) else {}


def judge(verdicts: Iterable[Verdict], record: ProductionRecord | None, if_not_comparable: str) -> tuple[Verdict, ...]:
    """The verdicts with what the model in production means for them if it was not compared.

    A damaged release blocks always: what phones run is then not known, and nobody asked to go on without knowing.

    Args:
        verdicts: One per variant.
        record: What became of the comparison; None if none was asked for.
        if_not_comparable: `block` or `skip`.
    """
    if record is None or record.status in ("compared", "no_release"):
        return tuple(verdicts)
    reason = Reason(
        code=f"production_{record.status}",
        message=f"The model in production was not compared. {record.message} {_ADVICE[record.status]}",
    )
    if record.status == "not_comparable" and if_not_comparable == "skip":
        return tuple(v.model_copy(update={"cautions": (*v.cautions, reason)}) for v in verdicts)
    return tuple(v.model_copy(update={"passed": False, "reasons": (*v.reasons, reason)}) for v in verdicts)


def _defaults(tensors: Iterable[TensorRecord]) -> dict[str, Any]:
    return {tensor.name: tensor.default for tensor in tensors if tensor.default is not None}


def _types(tensors: Iterable[TensorRecord]) -> dict[str, str]:
    return {tensor.name: signature_check.real_dtype(tensor) for tensor in tensors}
