"""The JSON that crosses steps, releases and versions. A change here needs a new schema version."""

import json

import pytest

from tfx_mobile.errors import TFXMobileError
from tfx_mobile.recipes import CalibrationSpec, ConversionRecipe
from tfx_mobile.records import (
    CalibrationRecord,
    Failure,
    InputRange,
    ModelFileRecord,
    OpRecord,
    SignatureRecord,
    SourceModelRecord,
    TensorRecord,
    Variant,
    VariantManifest,
    canonical_json,
)

SHA = "0" * 64

X = TensorRecord(name="x", dtype="float32", shape=(1, 4))
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
        ranges=(InputRange(name="x", minimum=0.0, maximum=1.0),),
    ),
    versions={"tfx-mobile": "0.1.0"},
    variants=(VARIANT, FAILED),
)

TENSOR_JSON = '{"default":null,"dtype":"float32","name":"x","scale":null,"shape":[1,4],"zero_point":null}'
GOLDEN = (
    '{"batch_size":1,'
    '"calibration":{"num_examples":1000,"num_samples":200,"ranges":[{"maximum":1.0,"minimum":0.0,"name":"x"}],'
    f'"sha256":"{SHA}","spec":{{"evaluation_split":"eval","label":null,"leakage":"warn","num_samples":200,"seed":0,"split":"train",'
    '"stratify_by":null}},'
    '"qat_source":null,"schema_version":2,'
    f'"source":{{"inputs":[{TENSOR_JSON}],"outputs":[{TENSOR_JSON}],"parses_examples":true,"route":"resigned",'
    f'"sha256":"{SHA}","signature":"serving_default","uri":"models/1"}},'
    '"variants":['
    '{"failure":null,"file":{"custom_ops":[],"gzip_bytes":9,"min_runtime_version":"1.14.0",'
    '"ops":[{"count":2,"float_count":2,"name":"ADD","version":1}],"select_tf_ops":[],'
    f'"sha256":"{SHA}","signatures":[{{"inputs":[{TENSOR_JSON}],"key":"serving_default","outputs":[{TENSOR_JSON}]}}],'
    '"size_bytes":10},"path":"float32/model.tflite",'
    '"recipe":{"batch_size":1,"float_layers":[],"io_dtype":"float32","name":"float32","quantization":"none",'
    '"quantization_aware":false,"repair":null,"schema_version":2},"runtime":"ai-edge-litert 2.3.0"},'
    '{"failure":{"advice":"export again","code":"converter_crashed","message":"killed by SIGABRT"},"file":null,'
    '"path":null,'
    '"recipe":{"batch_size":1,"float_layers":[],"io_dtype":"float32","name":"int16x8","quantization":"int16x8",'
    '"quantization_aware":false,"repair":null,"schema_version":2},"runtime":null}],'
    '"versions":{"tfx-mobile":"0.1.0"}}'
)


def test_the_manifest_is_this_json():
    assert MANIFEST.to_json().decode() == GOLDEN
    assert VariantManifest.from_json(GOLDEN) == MANIFEST


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
