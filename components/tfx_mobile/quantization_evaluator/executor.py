"""TFX artifacts in, TFX artifacts out: checks what can be checked first, then measures, judges and writes."""

from __future__ import annotations

import contextlib
import posixpath
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import logging
from tfx.dsl.components.base.base_beam_executor import BaseBeamExecutor
from tfx.dsl.io import fileio
from tfx.types import artifact_utils
from tfx.types.artifact import Artifact
from tfx.utils import io_utils

from tfx_mobile import artifact_io, artifacts, keras_file
from tfx_mobile.errors import ConversionError, EvaluationError, ModelFileError
from tfx_mobile.quantization_evaluator import beam_options, parameters, report
from tfx_mobile.quantization_evaluator import eval_config as eval_configs
from tfx_mobile.quantization_evaluator.close_look import layer_errors, look
from tfx_mobile.quantization_evaluator.judging import costs, second_baseline, thresholds
from tfx_mobile.quantization_evaluator.parameters import Parameters
from tfx_mobile.quantization_evaluator.production import ProductionModel
from tfx_mobile.quantization_evaluator.scoring import example_checks, predict, rows, signature_check, trial
from tfx_mobile.records import (
    BlessedModelRecord,
    EvaluationRecord,
    Failure,
    Lineage,
    ProductionRecord,
    SourceModelRecord,
    Variant,
    VariantManifest,
    canonical_json,
    sha256_of,
)
from tfx_mobile.tflite.flatbuffer import read_model, signatures
from tfx_mobile.tflite.preflight import preflight

EXAMPLES_KEY = "examples"
MODEL_KEY = "model"
VARIANTS_KEY = "variants"
TRANSFORM_GRAPH_KEY = "transform_graph"
SCHEMA_KEY = "schema"
EVAL_CONFIG_KEY = "eval_config"
EXAMPLE_SPLITS_KEY = "example_splits"
BUDGET_KEY = "budget"
OBJECTIVE_KEY = "objective"
CONFIDENCE_KEY = "confidence"
LATENCY_KEY = "latency"
PRODUCTION_KEY = "production"
GOLDEN_EXAMPLES_KEY = "golden_examples"
FINGERPRINT_KEY = "fingerprint"
EVALUATION_KEY = "evaluation"
BLESSING_KEY = "blessing"
BLESSED_MODEL_KEY = "blessed_model"

# Folders of the evaluation artifact, for the time of the evaluation: Beam's workers can read them.
_EXPORTED = "exported_model"
_RELEASED = "released_model"
_EXPORT_SECONDS = 600.0

_TELEMETRY = ["QuantizationEvaluator"]


class Executor(BaseBeamExecutor):
    """Executor of QuantizationEvaluator; its class path is public, compiled pipelines name it."""

    def __init__(self, context: BaseBeamExecutor.Context | None = None) -> None:
        super().__init__(context)
        self._beam_pipeline_args.extend(beam_options.local_runner(self._beam_pipeline_args))

    def Do(
        self,
        input_dict: dict[str, list[Artifact]],
        output_dict: dict[str, list[Artifact]],
        exec_properties: dict[str, Any],
    ) -> None:
        """Evaluates the variants; on an error nothing is left in the outputs.

        Args:
            input_dict: `examples`, `model`, `variants`, optionally `transform_graph` and `schema`; other keys are
                ignored.
            output_dict: `evaluation`, `blessing`, `blessed_model`.
            exec_properties: The component's parameters, as JSON or as what it stands for.

        Raises:
            EvalConfigError: A parameter or a Beam argument is not valid.
            EvaluationError: The inputs do not fit each other or the parameters.
        """
        self._log_startup(input_dict, output_dict, exec_properties)
        beam_options.check_arguments(self._beam_pipeline_args)
        beam_options.check_pipeline(self._make_beam_pipeline())
        given = _read_parameters(exec_properties)
        outputs = {key: artifact_utils.get_single_instance(output_dict[key]) for key in _OUTPUTS}

        examples = input_dict.get(EXAMPLES_KEY) or []
        variants = artifact_io.single(input_dict, VARIANTS_KEY, EvaluationError)
        manifest = _read_manifest(variants)
        model_uri = _find_model(artifact_io.single(input_dict, MODEL_KEY, EvaluationError), manifest)
        if not examples:
            raise EvaluationError("There are no examples to evaluate. Wire examples=example_gen.outputs['examples'].")
        choose = "example_splits=[...]"
        files = {split: artifact_io.split_files(examples, split, choose, EvaluationError) for split in given.splits}

        # These import TFMA, tfx.components through the stock Evaluator, SciPy; pipelines are defined without.
        from tfx.components.util import examples_utils, tfxio_utils

        from tfx_mobile.quantization_evaluator.judging import judgement
        from tfx_mobile.quantization_evaluator.scoring import evaluation

        make_source = tfxio_utils.get_tfxio_factory_from_artifact(
            examples, _TELEMETRY, raw_record_column_name=evaluation.RAW_RECORD_COLUMN
        )
        exported_uri = posixpath.join(outputs[EVALUATION_KEY].uri, _EXPORTED)
        try:
            saved_model_uri = _export(model_uri, exported_uri) if keras_file.is_keras_file(model_uri) else model_uri
            baseline = _describe_baseline(saved_model_uri, manifest, given.eval_config)
            transform = None
            if input_dict.get(TRANSFORM_GRAPH_KEY):
                transform = example_checks.find_transform(
                    files,
                    baseline,
                    () if manifest.source.parses_examples else manifest.source.inputs,
                    artifact_io.single(input_dict, TRANSFORM_GRAPH_KEY, EvaluationError).uri,
                    _schema_file(input_dict),
                )
            example_checks.check_examples(files, baseline, eval_configs.feature_keys(given.eval_config), transform)
            batch_size = example_checks.batch_size(files)
            first_rows = trial.first_rows(files, transform)
            failures = _find_failures(variants, manifest, first_rows)
            runnable = [v for v in manifest.converted() if v.name not in failures]
            released_uri = posixpath.join(outputs[EVALUATION_KEY].uri, _RELEASED)
            production, released = _find_production(given.production, manifest, first_rows, released_uri)
            measurement = evaluation.measure(
                self._make_beam_pipeline,
                # By pattern: a source of many files keeps all raw examples in memory where Beam runs in one process.
                [
                    make_source(examples_utils.get_split_file_patterns(examples, split)).BeamSource(batch_size)
                    for split in given.splits
                ],
                baseline,
                [_variant_file(variants.uri, variant, manifest) for variant in runnable],
                given.eval_config,
                outputs[EVALUATION_KEY].uri,
                transform,
                production=released,
                sample_size=max(layer_errors.NUM_EXAMPLES, given.golden_examples),
            )
            measured = _measure_files(variants, runnable, manifest, given)
            record = judgement.judge(manifest, failures, measurement, measured, production, given)
            close = look.look(
                record,
                given.golden_examples,
                lambda variant: _signature_key(variant, manifest),
                lambda variant: _read_judged(variants, variant),
                lambda: rows.read(measurement.sample, baseline, manifest.source.inputs, _defaults(manifest), transform),
            )
            record = record.model_copy(update={"layer_errors": close.layer_errors, "lineage": _lineage_of(input_dict)})
            for temporary in (exported_uri, released_uri):
                if fileio.exists(temporary):
                    fileio.rmtree(temporary)
            _write(outputs, record, close, manifest, variants)
        except BaseException:
            _discard(outputs.values())
            raise


_OUTPUTS = (EVALUATION_KEY, BLESSING_KEY, BLESSED_MODEL_KEY)


def _read_parameters(exec_properties: Mapping[str, Any]) -> Parameters:
    config = eval_configs.from_json(exec_properties[EVAL_CONFIG_KEY])
    budget = parameters.parse_budget(exec_properties.get(BUDGET_KEY))
    weights = parameters.parse_objective(exec_properties.get(OBJECTIVE_KEY) or "size")
    confidence = parameters.parse_confidence(exec_properties.get(CONFIDENCE_KEY))
    thresholds.check_worst_slice(config, confidence.worst_slice)
    latency = parameters.parse_latency(exec_properties.get(LATENCY_KEY))
    return Parameters(
        eval_config=config,
        splits=parameters.parse_splits(exec_properties.get(EXAMPLE_SPLITS_KEY)),
        budget=budget,
        objective=weights,
        confidence=confidence,
        latency=parameters.latency_to_measure(latency, budget, weights),
        production=parameters.parse_production(exec_properties.get(PRODUCTION_KEY)),
        golden_examples=parameters.parse_golden_examples(exec_properties.get(GOLDEN_EXAMPLES_KEY)),
    )


def _lineage_of(input_dict: Mapping[str, Sequence[Artifact]]) -> Lineage:
    return Lineage(
        model=artifact_io.origin_of(artifact_io.single(input_dict, MODEL_KEY, EvaluationError)),
        examples=tuple(artifact_io.origin_of(examples) for examples in input_dict[EXAMPLES_KEY]),
        variants=artifact_io.origin_of(artifact_io.single(input_dict, VARIANTS_KEY, EvaluationError)),
    )


def _read_manifest(variants: Artifact) -> VariantManifest:
    uri = posixpath.join(variants.uri, artifacts.MANIFEST_FILE)
    if not fileio.exists(uri):
        raise EvaluationError(
            f"There is no {artifacts.MANIFEST_FILE} in {variants.uri}. Wire variants=converter.outputs['variants'] of "
            "a TFLiteConverter, and run it again if its output was deleted."
        )
    manifest = VariantManifest.from_json(artifact_io.read_bytes(variants, artifacts.MANIFEST_FILE))
    for variant in manifest.variants:
        if (meaning := eval_configs.RESERVED.get(variant.name)) is not None:
            raise EvaluationError(
                f"A variant is called {variant.name!r}, the name of {meaning}. Give its recipe another name and run "
                "TFLiteConverter again."
            )
    return manifest


def _find_model(model: Artifact, manifest: VariantManifest) -> str:
    """Uri of the SavedModel or Keras file that the variants were converted from."""
    uri = artifact_io.find_saved_model(model, EvaluationError)
    if (sha256 := artifact_io.saved_model_sha256(uri)) != manifest.source.sha256:
        raise EvaluationError(
            f"The model {uri} is not the one the variants were converted from: it hashes to {sha256}, their manifest "
            f"says {manifest.source.sha256}. Wire the same model to TFLiteConverter and QuantizationEvaluator."
        )
    return uri


def _export(uri: str, target: str) -> str:
    """Exports the model of a Keras file to where Beam's workers can read it; returns `target`."""
    with tempfile.TemporaryDirectory(prefix="tfx-mobile-") as temp:
        local = artifact_io.local_copy(uri, posixpath.join(temp, "source"))
        exported = posixpath.join(temp, "exported")
        try:
            keras_file.export(local, exported, deadline_seconds=_EXPORT_SECONDS)
        except ConversionError as error:
            raise EvaluationError(f"The float model cannot be run: {error}") from error
        io_utils.copy_dir(exported, target)
    return target


def _describe_baseline(uri: str, manifest: VariantManifest, config: Any) -> predict.FloatModel:
    source = manifest.source
    signature = eval_configs.template(config).signature_name or source.signature
    parses_examples = source.parses_examples if signature == source.signature else None
    baseline = predict.describe_saved_model(uri, signature, parses_examples)
    expected = tuple(sorted(output.name for output in source.outputs))
    if baseline.outputs != expected:
        raise EvaluationError(
            f"Signature {signature!r} of the SavedModel {uri} returns {', '.join(baseline.outputs)}, the variants "
            f"return {', '.join(expected)}: they cannot be compared. Wire the model the variants were converted from, "
            f"and leave signature_name out of eval_config or set it to {source.signature!r}."
        )
    # What TFLiteConverter's input_shapes fixed, the float model still leaves open; tf.Examples know no shapes.
    return baseline if baseline.parses_examples else predict.with_sizes(baseline, source.inputs)


def _schema_file(input_dict: Mapping[str, list[Artifact]]) -> str | None:
    if not input_dict.get(SCHEMA_KEY):
        return None
    return posixpath.join(artifact_io.single(input_dict, SCHEMA_KEY, EvaluationError).uri, artifact_io.SCHEMA_FILE)


def _find_failures(variants: Artifact, manifest: VariantManifest, rows: trial.FirstRows) -> dict[str, Failure]:
    """Variants that cannot be scored: those not converted, and those that do not pass the doors."""
    failures = {variant.name: variant.failure for variant in manifest.variants if variant.failure is not None}
    with tempfile.TemporaryDirectory(prefix="tfx-mobile-") as temp:
        examples = Path(temp) / "examples.npz"
        with contextlib.suppress(EvaluationError):  # the pass meets it again, and can name the variant
            rows.save(examples, manifest.source.inputs, _defaults(manifest), "the variants")
        for variant in manifest.converted():
            failure = _inspect(variants, variant, manifest.source, examples, Path(temp))
            if failure is not None:
                logging.warning("Variant %s is not evaluated: %s %s", variant.name, failure.code, failure.message)
                failures[variant.name] = failure
    return failures


def _inspect(
    variants: Artifact, variant: Variant, source: SourceModelRecord, examples: Path, temp: Path
) -> Failure | None:
    if variant.file is None or variant.path is None:
        return None
    path = posixpath.join(variants.uri, variant.path)
    if not fileio.exists(path):
        return Failure(code="missing", message=f"There is no file {path}.", advice="Run TFLiteConverter again.")
    # Preflight needs a local file, and looks at the very bytes that are hashed.
    data = artifact_io.read_bytes(variants, variant.path)
    local = temp / f"{variant.name}.tflite"
    local.write_bytes(data)
    signature = None
    if sha256_of(data) == variant.file.sha256:
        with contextlib.suppress(ModelFileError):  # preflight says which of the two it is
            found = signatures(read_model(data))
            if problem := signature_check.problem(found, source):
                return Failure(
                    code="signature_mismatch",
                    message=f"The file does not stand in for the float model: {problem}.",
                    advice="Convert the model again; an app that asks for the recorded names would fail.",
                )
            signature = signature_check.choose(found, source.signature)
    return preflight(
        local,
        sha256=variant.file.sha256,
        examples=examples if examples.exists() else None,
        signature=signature.key if signature else None,
    )


def _find_production(
    spec: ProductionModel | None, manifest: VariantManifest, rows: trial.FirstRows, uri: str
) -> tuple[ProductionRecord | None, predict.VariantFile | None]:
    """The model in production, copied to `uri` for Beam's workers if it can be compared."""
    if spec is None:
        return None, None
    record, release = second_baseline.find(spec)
    if release is not None:
        with tempfile.TemporaryDirectory(prefix="tfx-mobile-") as temp:
            signature, problem = second_baseline.inspect(release, manifest.source, rows, Path(temp))
        if signature is not None:
            fileio.makedirs(uri)
            path = posixpath.join(uri, artifacts.MODEL_FILE)
            with fileio.open(path, "wb") as stream:
                stream.write(release.model)
            return record, second_baseline.variant_file(release, signature, manifest.source, path)
        record = second_baseline.not_comparable(record, problem)
    logging.warning("The model in production is not compared: %s %s", record.status, record.message)
    return record, None


def _defaults(manifest: VariantManifest) -> dict[str, predict.Default]:
    return {tensor.name: tensor.default for tensor in manifest.source.inputs if tensor.default is not None}


def _measure_files(
    variants: Artifact,
    runnable: Sequence[Variant],
    manifest: VariantManifest,
    given: Parameters,
) -> costs.Measured:
    """Finds out about local copies of the very bytes that are judged."""
    if not costs.needs_files(given.budget, given.latency):
        return costs.Measured(ran=frozenset(variant.name for variant in runnable))
    ranges = manifest.calibration.ranges if manifest.calibration else ()
    with tempfile.TemporaryDirectory(prefix="tfx-mobile-") as temp:
        files = {}
        for variant in runnable:
            files[variant.name] = Path(temp) / f"{variant.name}.tflite"
            files[variant.name].write_bytes(_read_judged(variants, variant))
        return costs.measure(
            manifest.variants, files, given.budget, given.latency, {r.name: (r.minimum, r.maximum) for r in ranges}
        )


def _variant_file(uri: str, variant: Variant, manifest: VariantManifest) -> predict.VariantFile:
    assert variant.file is not None  # noqa: S101 (only converted variants are run)
    assert variant.path is not None  # noqa: S101
    return predict.VariantFile(
        name=variant.name,
        uri=posixpath.join(uri, variant.path),
        sha256=variant.file.sha256,
        signature=_signature_key(variant, manifest),
        defaults=_defaults(manifest),
    )


def _signature_key(variant: Variant, manifest: VariantManifest) -> str:
    keys = [signature.key for signature in variant.file.signatures] if variant.file else []
    return keys[0] if len(keys) == 1 else manifest.source.signature


def _read_judged(variants: Artifact, variant: Variant) -> bytes:
    """The bytes that were judged."""
    assert variant.path is not None  # noqa: S101 (only variants with a file are judged)
    assert variant.file is not None  # noqa: S101
    data = artifact_io.read_bytes(variants, variant.path)
    if (actual := sha256_of(data)) != variant.file.sha256:
        raise EvaluationError(
            f"{variant.path} in {variants.uri} was changed while it was evaluated: it hashes to {actual}, "
            f"{variant.file.sha256} was judged. Run TFLiteConverter again."
        )
    return data


def _write(
    outputs: Mapping[str, Artifact],
    record: EvaluationRecord,
    close: look.CloseLook,
    manifest: VariantManifest,
    variants: Artifact,
) -> None:
    """Writes the artifacts beside TFMA's files; the blessing last, so that what is blessed is complete."""
    evaluation, blessing, blessed_model = (outputs[key] for key in _OUTPUTS)
    document = record.to_json()
    winner = record.variant(record.winner) if record.winner is not None else None
    artifact_io.write_bytes(evaluation, artifacts.RECORD_FILE, document)
    artifact_io.write_bytes(evaluation, artifacts.REPORT_FILE, report.render_page(record).encode())
    card = report.render_card(record).encode()
    artifact_io.write_bytes(evaluation, artifacts.MODEL_CARD_FILE, card)
    for name, data in close.node_data.items():
        artifact_io.write_bytes(evaluation, artifacts.layers_path(name), canonical_json(data))

    if winner is not None:
        assert winner.file is not None  # noqa: S101 (it was judged)
        artifact_io.write_bytes(blessed_model, artifacts.MODEL_FILE, _read_judged(variants, winner))
        artifact_io.write_bytes(blessed_model, artifacts.MODEL_CARD_FILE, card)
        if close.golden is not None:
            artifact_io.write_bytes(blessed_model, artifacts.GOLDEN_FILE, close.golden.to_json())
        blessed_model.set_int_custom_property(artifacts.SIZE_BYTES, winner.file.size_bytes)
    blessed = BlessedModelRecord(blessed=record.blessed, variant=winner, source=manifest.source)
    artifact_io.write_bytes(blessed_model, artifacts.RECORD_FILE, blessed.to_json())
    blessed_model.set_string_custom_property(artifacts.SOURCE_SHA256, record.source_sha256)

    artifact_io.write_bytes(blessing, artifacts.BLESSING_FILE, document)
    artifact_io.write_bytes(blessing, artifacts.BLESSED_FILE if record.blessed else artifacts.NOT_BLESSED_FILE, b"")
    reasons = {v.variant: [reason.message for reason in v.reasons] for v in record.verdicts if v.reasons}
    blessing.set_string_custom_property(artifacts.REASONS, canonical_json(reasons).decode())
    for artifact in (blessing, blessed_model):
        artifact.set_int_custom_property(artifacts.BLESSED, int(record.blessed))
        artifact.set_string_custom_property(artifacts.VARIANT, winner.name if winner else "")
        artifact.set_string_custom_property(artifacts.SHA256, winner.file.sha256 if winner and winner.file else "")


def _discard(outputs: Any) -> None:
    """Leaves nothing that could be taken for a result."""
    for artifact in outputs:
        if fileio.exists(artifact.uri):
            for name in fileio.listdir(artifact.uri):
                path = posixpath.join(artifact.uri, name)
                (fileio.rmtree if fileio.isdir(path) else fileio.remove)(path)
