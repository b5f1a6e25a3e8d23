"""The JSON that crosses steps, releases and versions. A change here needs a new schema version."""

import json

import pytest

from tfx_mobile.errors import TFXMobileError
from tfx_mobile.recipes import CalibrationSpec, ConversionRecipe
from tfx_mobile.records import (
    Balance,
    CalibrationFinding,
    CalibrationRecord,
    EvaluationSplit,
    Failure,
    Finding,
    GoldenExample,
    GoldenInput,
    GoldenOutput,
    GoldenTensor,
    GoldenVectors,
    InputRange,
    ModelFileRecord,
    OpRecord,
    ProfileResult,
    RepairRecord,
    RepairTrial,
    RuleResult,
    SignatureRecord,
    SourceModelRecord,
    TensorRecord,
    ValueCount,
    Variant,
    VariantManifest,
    WeightsRecord,
    WrittenMetadataRecord,
    canonical_json,
)

SHA = "0" * 64

X = TensorRecord(name="x", dtype="float32", shape=(1, 4))
REPAIR = RepairRecord(
    measure="agreement",
    num_examples=500,
    num_calibrated=0,
    float_quality=1.0,
    quantized_quality=0.25,
    quality=0.5,
    repaired=False,
    reasons=("too small a file was asked for",),
    float_layers=("a/MatMul",),
    size_ratio=0.5,
    trials=(RepairTrial(float_layers=("a/MatMul",), quality=0.5, size_bytes=50),),
    replay=ConversionRecipe(name="m", quantization="full_integer", batch_size=1, float_layers=("a/MatMul",)),
)
VARIANT = Variant(
    recipe=ConversionRecipe(name="float32", quantization="none", batch_size=1),
    path="float32/model.tflite",
    file=ModelFileRecord(
        sha256=SHA,
        size_bytes=10,
        gzip_bytes=9,
        signatures=(SignatureRecord(key="serving_default", inputs=(X,), outputs=(X,)),),
        ops=(OpRecord(name="ADD", version=1, count=2, float_count=2),),
        min_runtime_version="1.14.0",
        weight_bytes={"float32": 16},
        weights=WeightsRecord(num_elements=4, num_zeros=1, max_distinct_values=3),
    ),
    ranges_from="calibration",
    calibrated="shared",
    metadata=WrittenMetadataRecord(
        writer="mediapipe 0.10.21", kind="model", num_labels=4, labels_sha256=SHA, labels_from="MetadataSpec"
    ),
    profiles=(
        ProfileResult(
            profile="no_select_ops",
            result="pass",
            rules=(RuleResult(id="r", statement="none", result="pass", detail="none", source="measured"),),
        ),
    ),
    findings=(
        Finding(code="weight_range", subgraph=0, tensor="w", op="3 CONV_2D", value="-128", expected="-127", source="s"),
    ),
    runtime="ai-edge-litert 2.3.0",
)
FAILED = Variant(
    recipe=ConversionRecipe(name="int16x8", quantization="int16x8", batch_size=1),
    failure=Failure(code="converter_crashed", message="killed by SIGABRT", advice="export again"),
)
MANIFEST = VariantManifest(
    source=SourceModelRecord(
        sha256=SHA,
        uri="models/1",
        signature="serving_default",
        parses_examples=True,
        route="resigned",
        inputs=(X,),
        outputs=(X,),
    ),
    batch_size=1,
    calibration=CalibrationRecord(
        spec=CalibrationSpec(),
        num_samples=200,
        num_examples=1000,
        sha256=SHA,
        ranges=(InputRange(name="x", minimum=0.0, maximum=1.0, values_outside=0.25, rows_outside=0.5),),
        source="examples",
        label_balance=Balance(
            feature="label", values=(ValueCount(value=None, num_samples=1, num_examples=2),), num_omitted=3
        ),
        evaluation=EvaluationSplit(split="eval", num_examples=9),
        num_leaked=0,
        findings=(CalibrationFinding(code="outside_range", message="half of it"),),
    ),
    versions={"tfx-mobile": "0.1.0"},
    variants=(VARIANT, FAILED),
)

TENSOR_JSON = '{"default":null,"dtype":"float32","name":"x","scale":null,"shape":[1,4],"zero_point":null}'
GOLDEN = (
    '{"batch_size":1,"calibration":{"evaluation":{"num_examples":9,"split":"eval"},'
    '"findings":[{"code":"outside_range","message":"half of it"}],"label_balance":{"feature":"label",'
    '"num_omitted":3,"values":[{"num_examples":2,"num_samples":1,"value":null}]},"not_compared":null,'
    '"num_examples":1000,"num_leaked":0,"num_samples":200,"ranges":[{"evaluation_maximum":null,'
    '"evaluation_minimum":null,"maximum":1.0,"minimum":0.0,"name":"x","rows_outside":0.5,"values_outside":0.25}],'
    f'"sha256":"{SHA}","source":"examples","spec":{{"evaluation_split":"eval","label":null,"leakage":"warn",'
    '"num_samples":200,"seed":0,"split":"train","stratify_by":null},"strata":null},"qat_source":null,'
    f'"schema_version":2,"source":{{"inputs":[{TENSOR_JSON}],"outputs":[{TENSOR_JSON}],"parses_examples":true,'
    f'"route":"resigned","sha256":"{SHA}","signature":"serving_default","uri":"models/1"}},'
    '"variants":[{"calibrated":"shared","failure":null,"file":{"custom_ops":[],"gzip_bytes":9,'
    '"min_runtime_version":"1.14.0","ops":[{"count":2,"float_count":2,"name":"ADD","version":1}],'
    f'"select_tf_ops":[],"sha256":"{SHA}","signatures":[{{"inputs":[{TENSOR_JSON}],"key":"serving_default",'
    f'"outputs":[{TENSOR_JSON}]}}],"size_bytes":10,"weight_bytes":{{"float32":16}},'
    '"weights":{"max_distinct_values":3,"num_elements":4,"num_zeros":1}},"findings":[{"code":"weight_range",'
    '"expected":"-127","op":"3 CONV_2D","source":"s","subgraph":0,"tensor":"w","value":"-128"}],'
    '"metadata":{"author":null,"description":null,"kind":"model","labels_from":"MetadataSpec",'
    f'"labels_sha256":"{SHA}","mean":[],"name":null,"not_written":null,"notes":[],"num_labels":4,"raw_pixels":null,'
    '"std":[],"version":null,"writer":"mediapipe 0.10.21"},"path":"float32/model.tflite",'
    '"profiles":[{"profile":"no_select_ops","result":"pass","rules":[{"detail":"none","id":"r","result":"pass",'
    '"source":"measured","statement":"none"}]}],"ranges_from":"calibration","recipe":{"batch_size":1,'
    '"float_layers":[],"io_dtype":"float32","name":"float32","quantization":"none","quantization_aware":false,'
    '"repair":null,"schema_version":2},"repair":null,"runtime":"ai-edge-litert 2.3.0"},{"calibrated":null,'
    '"failure":{"advice":"export again","code":"converter_crashed","message":"killed by SIGABRT"},"file":null,'
    '"findings":[],"metadata":null,"path":null,"profiles":[],"ranges_from":null,"recipe":{"batch_size":1,'
    '"float_layers":[],"io_dtype":"float32","name":"int16x8","quantization":"int16x8","quantization_aware":false,'
    '"repair":null,"schema_version":2},"repair":null,"runtime":null}],"versions":{"tfx-mobile":"0.1.0"}}'
)


def test_the_manifest_is_this_json():
    assert MANIFEST.to_json().decode() == GOLDEN
    assert VariantManifest.from_json(GOLDEN) == MANIFEST


def test_a_calibration_of_schema_version_1_is_read():
    document = (
        '{"num_examples":1000,"num_samples":200,"ranges":[{"maximum":1.0,"minimum":0.0,"name":"x"}],'
        f'"sha256":"{SHA}","spec":{{"num_samples":200,"seed":0,"split":"train"}}}}'
    )
    record = CalibrationRecord.from_json(document)
    assert (record.source, record.evaluation, record.num_leaked, record.findings) == (None, None, None, ())
    assert record.ranges[0].rows_outside is None


def test_a_repaired_variant_is_this_json():
    variant = VARIANT.model_copy(update={"calibrated": "shared", "repair": REPAIR})
    document = json.loads(variant.to_json())
    assert document["calibrated"] == "shared"
    assert canonical_json(document["repair"]).decode() == (
        '{"float_layers":["a/MatMul"],"float_quality":1.0,"measure":"agreement","num_calibrated":0,"num_examples":500,'
        '"quality":0.5,"quantized_quality":0.25,"reasons":["too small a file was asked for"],"repaired":false,'
        '"replay":{"batch_size":1,"float_layers":["a/MatMul"],"io_dtype":"float32","name":"m",'
        '"quantization":"full_integer","quantization_aware":false,"repair":null,"schema_version":2},"size_ratio":0.5,'
        '"trials":[{"float_layers":["a/MatMul"],"quality":0.5,"size_bytes":50}]}'
    )
    assert Variant.from_json(variant.to_json()) == variant


def test_golden_vectors_are_this_json():
    number = GoldenTensor(name="x", dtype="int8", shape=(1, 2), data="Af8=")
    text = GoldenTensor(name="t", dtype="string", shape=(1,), strings=("YQ==",))
    vectors = GoldenVectors(
        model_sha256=SHA,
        variant="v",
        signature="serving_default",
        runtime="ai-edge-litert 2.3.0",
        inputs=(GoldenInput(name="x", index=0, dtype="int8", scale=0.5, zero_point=-1),),
        outputs=(GoldenOutput(name="t", index=0, dtype="string", tolerance=0.0, reason="no quantity"),),
        examples=(GoldenExample(example_sha256=SHA, inputs=(number,), outputs=(text,), float_outputs=(text,)),),
    )
    text_json = '{"data":null,"dtype":"string","name":"t","shape":[1],"strings":["YQ=="]}'
    assert vectors.to_json().decode() == (
        f'{{"examples":[{{"example_sha256":"{SHA}","float_outputs":[{text_json}],'
        '"inputs":[{"data":"Af8=","dtype":"int8","name":"x","shape":[1,2],"strings":null}],'
        f'"outputs":[{text_json}]}}],'
        '"inputs":[{"dtype":"int8","index":0,"name":"x","scale":0.5,"zero_point":-1}],'
        f'"model_sha256":"{SHA}",'
        '"outputs":[{"dtype":"string","index":0,"name":"t","reason":"no quantity","scale":null,"tolerance":0.0,'
        '"zero_point":null}],'
        '"runtime":"ai-edge-litert 2.3.0","schema_version":1,"signature":"serving_default","variant":"v"}'
    )
    assert GoldenVectors.from_json(vectors.to_json()) == vectors


def test_only_what_was_converted_counts_as_converted():
    assert MANIFEST.converted() == (VARIANT,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 3}, "schema_version"),
        ({"surprise": 1}, "surprise: Extra inputs"),
        ({"variants": 3}, "variants"),
    ],
)
def test_another_versions_manifest_is_refused_with_the_field(change, message):
    document = json.loads(GOLDEN) | change
    with pytest.raises(TFXMobileError, match=f"Not a valid VariantManifest.*{message}"):
        VariantManifest.from_json(json.dumps(document))


def test_canonical_json_is_one_form_only():
    assert canonical_json({"b": 1, "a": "é"}) == '{"a":"é","b":1}'.encode()
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json(float("nan"))
