"""TFX artifacts in, TFX artifacts out: checks what can be checked first, then measures, judges and writes."""

from __future__ import annotations

import posixpath
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import logging
from tfx.dsl.components.base.base_beam_executor import BaseBeamExecutor
from tfx.dsl.io import fileio
from tfx.types import artifact_utils
from tfx.types.artifact import Artifact
from tfx.utils import io_utils

from tfx_mobile import artifact_io, artifacts, keras_file
from tfx_mobile.errors import ConversionError, EvaluationError
from tfx_mobile.quantization_evaluator import beam_options, gates, parameters, predict, report
from tfx_mobile.quantization_evaluator import eval_config as eval_configs
from tfx_mobile.quantization_evaluator.versions import versions
from tfx_mobile.records import (
    BlessedModelRecord,
    EvaluationRecord,
    Failure,
    Variant,
    VariantManifest,
    canonical_json,
    sha256_of,
)
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
FINGERPRINT_KEY = "fingerprint"
EVALUATION_KEY = "evaluation"
BLESSING_KEY = "blessing"
BLESSED_MODEL_KEY = "blessed_model"

# A folder of the evaluation artifact, for the time of the evaluation.
_EXPORTED = "exported_model"
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
        config = eval_configs.from_json(exec_properties[EVAL_CONFIG_KEY])
        splits = parameters.parse_splits(exec_properties.get(EXAMPLE_SPLITS_KEY))
        budget = parameters.parse_budget(exec_properties.get(BUDGET_KEY))
        objective = parameters.parse_objective(exec_properties.get(OBJECTIVE_KEY) or "size")
        confidence = parameters.parse_confidence(exec_properties.get(CONFIDENCE_KEY))
        parameters.parse_latency(exec_properties.get(LATENCY_KEY))
        parameters.parse_production(exec_properties.get(PRODUCTION_KEY))
        outputs = {key: artifact_utils.get_single_instance(output_dict[key]) for key in _OUTPUTS}

        examples = input_dict.get(EXAMPLES_KEY) or []
        variants = artifact_io.single(input_dict, VARIANTS_KEY, EvaluationError)
        manifest = _read_manifest(variants)
        model_uri = _find_model(artifact_io.single(input_dict, MODEL_KEY, EvaluationError), manifest)
        if not examples:
            raise EvaluationError("There are no examples to evaluate. Wire examples=example_gen.outputs['examples'].")
        choose = "example_splits=[...]"
        files = {split: artifact_io.split_files(examples, split, choose, EvaluationError) for split in splits}

        # These import TFMA, tfx.components through the stock Evaluator; pipelines are defined without.
        from tfx.components.util import examples_utils, tfxio_utils

        from tfx_mobile.quantization_evaluator import evaluation

        make_source = tfxio_utils.get_tfxio_factory_from_artifact(
            examples, _TELEMETRY, raw_record_column_name=evaluation.RAW_RECORD_COLUMN
        )
        exported_uri = posixpath.join(outputs[EVALUATION_KEY].uri, _EXPORTED)
        try:
            saved_model_uri = _export(model_uri, exported_uri) if keras_file.is_keras_file(model_uri) else model_uri
            baseline = _describe_baseline(saved_model_uri, manifest, config)
            transform = None
            if input_dict.get(TRANSFORM_GRAPH_KEY):
                transform = evaluation.find_transform(
                    files,
                    baseline,
                    () if manifest.source.parses_examples else manifest.source.inputs,
                    artifact_io.single(input_dict, TRANSFORM_GRAPH_KEY, EvaluationError).uri,
                    _schema_file(input_dict),
                )
            evaluation.check_examples(files, baseline, eval_configs.feature_keys(config), transform)
            failures = _find_failures(variants, manifest)
            runnable = [v for v in manifest.converted() if v.name not in failures]
            measurement = evaluation.measure(
                self._make_beam_pipeline,
                # By pattern: a source of many files keeps all raw examples in memory where Beam runs in one process.
                [make_source(examples_utils.get_split_file_patterns(examples, split)).BeamSource() for split in splits],
                baseline,
                [_variant_file(variants.uri, variant, manifest) for variant in runnable],
                config,
                outputs[EVALUATION_KEY].uri,
                transform,
            )
            verdicts = gates.judge(
                manifest.variants,
                failures,
                measurement.rejections,
                measurement.not_finite,
                measurement.num_examples,
                measurement.models,
                budget,
            )
            record = EvaluationRecord(
                source_sha256=manifest.source.sha256,
                variants=manifest.variants,
                num_examples=measurement.num_examples,
                splits=splits,
                models=measurement.models,
                verdicts=verdicts,
                objective=objective,
                budget=budget,
                winner=gates.choose_smallest(manifest.variants, verdicts),
                versions=versions(),
                gated_metrics=eval_configs.gated_metrics(config),
                error_splits=gates.split_errors(manifest.variants, measurement.models),
                confidence=confidence,
            )
            if saved_model_uri == exported_uri:
                fileio.rmtree(exported_uri)
            _write(outputs, record, manifest, variants)
        except BaseException:
            _discard(outputs.values())
            raise


_OUTPUTS = (EVALUATION_KEY, BLESSING_KEY, BLESSED_MODEL_KEY)


def _read_manifest(variants: Artifact) -> VariantManifest:
    uri = posixpath.join(variants.uri, artifacts.MANIFEST_FILE)
    if not fileio.exists(uri):
        raise EvaluationError(
            f"There is no {artifacts.MANIFEST_FILE} in {variants.uri}. Wire variants=converter.outputs['variants'] of "
            "a TFLiteConverter, and run it again if its output was deleted."
        )
    manifest = VariantManifest.from_json(artifact_io.read_bytes(variants, artifacts.MANIFEST_FILE))
    if eval_configs.BASELINE in {variant.name for variant in manifest.variants}:
        raise EvaluationError(
            f"A variant is called {eval_configs.BASELINE!r}, the name of the float baseline. Give its recipe "
            "another name and run TFLiteConverter again."
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


def _find_failures(variants: Artifact, manifest: VariantManifest) -> dict[str, Failure]:
    """Variants that cannot be scored: those not converted, and those that do not pass the three doors."""
    failures = {variant.name: variant.failure for variant in manifest.variants if variant.failure is not None}
    with tempfile.TemporaryDirectory(prefix="tfx-mobile-") as temp:
        for variant in manifest.converted():
            failure = _inspect(variants, variant, Path(temp))
            if failure is not None:
                logging.warning("Variant %s is not evaluated: %s %s", variant.name, failure.code, failure.message)
                failures[variant.name] = failure
    return failures


def _inspect(variants: Artifact, variant: Variant, temp: Path) -> Failure | None:
    if variant.file is None or variant.path is None:
        return None
    source = posixpath.join(variants.uri, variant.path)
    if not fileio.exists(source):
        return Failure(code="missing", message=f"There is no file {source}.", advice="Run TFLiteConverter again.")
    # Preflight needs a local file, and looks at the very bytes that are hashed.
    local = temp / f"{variant.name}.tflite"
    local.write_bytes(artifact_io.read_bytes(variants, variant.path))
    return preflight(local, sha256=variant.file.sha256)


def _variant_file(uri: str, variant: Variant, manifest: VariantManifest) -> predict.VariantFile:
    assert variant.file is not None  # noqa: S101 (only converted variants are run)
    assert variant.path is not None  # noqa: S101
    keys = [signature.key for signature in variant.file.signatures]
    return predict.VariantFile(
        name=variant.name,
        uri=posixpath.join(uri, variant.path),
        sha256=variant.file.sha256,
        signature=keys[0] if len(keys) == 1 else manifest.source.signature,
        defaults={tensor.name: tensor.default for tensor in manifest.source.inputs if tensor.default is not None},
    )


def _write(
    outputs: Mapping[str, Artifact], record: EvaluationRecord, manifest: VariantManifest, variants: Artifact
) -> None:
    """Writes the artifacts beside TFMA's files; the blessing last, so that what is blessed is complete."""
    evaluation, blessing, blessed_model = (outputs[key] for key in _OUTPUTS)
    document = record.to_json()
    winner = record.variant(record.winner) if record.winner is not None else None
    artifact_io.write_bytes(evaluation, artifacts.RECORD_FILE, document)
    artifact_io.write_bytes(evaluation, artifacts.REPORT_FILE, report.render(record).encode())

    if winner is not None:
        assert winner.path is not None  # noqa: S101
        assert winner.file is not None  # noqa: S101
        data = artifact_io.read_bytes(variants, winner.path)
        if (actual := sha256_of(data)) != winner.file.sha256:
            raise EvaluationError(
                f"{winner.path} in {variants.uri} was changed while it was evaluated: it hashes to {actual}, "
                f"{winner.file.sha256} was judged. Run TFLiteConverter again."
            )
        artifact_io.write_bytes(blessed_model, artifacts.MODEL_FILE, data)
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
