"""Recipes, calibration and manifests for any values: JSON and back, unknown fields, versions."""

import json
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfx_mobile.errors import RecipeError, TFXMobileError
from tfx_mobile.recipes import (
    CalibrationSpec,
    ConversionRecipe,
    MetadataSpec,
    Quantization,
    RepairSpec,
    resolve_recipes,
)
from tfx_mobile.records import (
    Balance,
    CalibrationFinding,
    CalibrationRecord,
    EvaluationSplit,
    Failure,
    Finding,
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
)

some = settings(max_examples=40, deadline=None)

numbers = st.floats(allow_nan=False, allow_infinity=False)
words = st.text(min_size=1, max_size=12)
digests = st.text("0123456789abcdef", min_size=64, max_size=64)
statuses = st.sampled_from(["pass", "fail", "not_verified"])


def tuples(items, least=0):
    return st.lists(items, min_size=least, max_size=3).map(tuple)


def maybe(values):
    return st.none() | values


batch_sizes = st.integers(min_value=1, max_value=10**9) | st.just("dynamic")
repairs = st.builds(
    RepairSpec,
    tolerance=st.floats(0, 1, exclude_max=True),
    max_trials=st.integers(1, 10**6),
    max_size_ratio=st.floats(0, 1, exclude_min=True),
    num_examples=st.integers(1, 10**9),
    label=maybe(words),
)


@st.composite
def recipes(draw):
    """Any valid recipe: every field, where its quantization allows it."""
    quantization = draw(st.sampled_from(get_args(Quantization)))
    fields = {
        "name": draw(st.from_regex(r"[a-z][a-z0-9_]{0,62}", fullmatch=True)),
        "quantization": quantization,
        "batch_size": draw(maybe(batch_sizes)),
    }
    if quantization == "integer_only":
        fields["io_dtype"] = draw(st.sampled_from(["float32", "int8", "uint8"]))
    if quantization in ("full_integer", "integer_only"):
        fields["quantization_aware"] = draw(st.booleans())
    if quantization == "full_integer" and not fields["quantization_aware"]:
        fields["float_layers"] = draw(tuples(words))
    if quantization == "mixed_precision":
        fields["repair"] = draw(maybe(repairs))
    return ConversionRecipe(**fields)


@st.composite
def calibration_specs(draw):
    """Any valid CalibrationSpec: leakage can only be refused where there is something to compare with."""
    split, evaluation_split = draw(words), draw(maybe(words))
    compared = evaluation_split not in (None, split)
    return CalibrationSpec(
        split=split,
        num_samples=draw(st.integers(1, 10**12)),
        seed=draw(st.integers(0, 2**63 - 1)),
        stratify_by=draw(maybe(words)),
        label=draw(maybe(words)),
        evaluation_split=evaluation_split,
        leakage=draw(st.sampled_from(["warn", "refuse"])) if compared else "warn",
    )


@st.composite
def metadata_specs(draw):
    """Any valid MetadataSpec: labels or the feature they come from, and as many means as deviations."""
    channels = draw(st.integers(0, 3))
    fields = {
        "name": draw(maybe(words)),
        "description": draw(maybe(st.text(max_size=20))),
        "version": draw(maybe(words)),
        "author": draw(maybe(words)),
        "mean": draw(st.lists(numbers, min_size=channels, max_size=channels)),
        "std": draw(st.lists(st.floats(0, 1e30, exclude_min=True), min_size=channels, max_size=channels)),
    }
    if draw(st.booleans()):
        fields["labels"] = draw(tuples(st.text("abc é", min_size=1, max_size=5).filter(str.strip)))
    else:
        fields["label"] = draw(maybe(words))
    return MetadataSpec(**fields)


tensors = st.builds(
    TensorRecord,
    name=words,
    dtype=st.sampled_from(["float32", "int8", "string"]),
    shape=tuples(st.integers(-1, 2**31)),
    scale=maybe(numbers),
    zero_point=maybe(st.integers(-(2**31), 2**31)),
    default=maybe(st.integers(-(2**63), 2**63) | numbers | words),
)
signatures = st.builds(SignatureRecord, key=words, inputs=tuples(tensors), outputs=tuples(tensors))
sizes = st.integers(0, 2**40)
files = st.builds(
    ModelFileRecord,
    sha256=digests,
    size_bytes=sizes,
    gzip_bytes=sizes,
    signatures=tuples(signatures),
    ops=tuples(st.builds(OpRecord, name=words, version=sizes, count=sizes, float_count=sizes)),
    select_tf_ops=tuples(words),
    custom_ops=tuples(words),
    min_runtime_version=maybe(words),
    weight_bytes=st.dictionaries(words, sizes, max_size=2),
    weights=maybe(st.builds(WeightsRecord, num_elements=sizes, num_zeros=sizes, max_distinct_values=maybe(sizes))),
)
trials = st.builds(RepairTrial, float_layers=tuples(words), quality=maybe(numbers), size_bytes=maybe(sizes))
searches = st.builds(
    RepairRecord,
    measure=st.sampled_from(["agreement", "accuracy"]),
    num_examples=sizes,
    num_calibrated=sizes,
    float_quality=numbers,
    quantized_quality=maybe(numbers),
    quality=maybe(numbers),
    repaired=st.booleans(),
    reasons=tuples(words),
    float_layers=tuples(words),
    size_ratio=numbers,
    trials=tuples(trials),
    replay=recipes(),
)
written = st.builds(
    WrittenMetadataRecord,
    writer=maybe(words),
    not_written=maybe(words),
    kind=maybe(st.sampled_from(["image_classifier", "model"])),
    num_labels=sizes,
    labels_sha256=maybe(digests),
    mean=tuples(numbers),
    raw_pixels=maybe(st.booleans()),
    notes=tuples(words),
)
rules = st.builds(RuleResult, id=words, statement=words, result=statuses, detail=words, source=words)
variants = st.builds(
    Variant,
    recipe=recipes(),
    path=maybe(words),
    file=maybe(files),
    failure=maybe(st.builds(Failure, code=words, message=words, advice=words)),
    ranges_from=maybe(st.sampled_from(["calibration", "training"])),
    calibrated=maybe(st.sampled_from(["shared", "own"])),
    repair=maybe(searches),
    metadata=maybe(written),
    profiles=tuples(st.builds(ProfileResult, profile=words, result=statuses, rules=tuples(rules))),
    findings=tuples(
        st.builds(
            Finding,
            code=words,
            subgraph=sizes,
            tensor=words,
            op=maybe(words),
            value=words,
            expected=words,
            source=words,
        )
    ),
)
sources = st.builds(
    SourceModelRecord,
    sha256=digests,
    uri=words,
    signature=words,
    parses_examples=st.booleans(),
    route=st.sampled_from(["resigned", "direct"]),
    inputs=tuples(tensors),
    outputs=tuples(tensors),
)
balances = st.builds(
    Balance,
    feature=words,
    values=tuples(st.builds(ValueCount, value=maybe(words), num_samples=sizes, num_examples=sizes)),
    num_omitted=sizes,
)
manifests = st.builds(
    VariantManifest,
    source=sources,
    qat_source=maybe(sources),
    batch_size=batch_sizes,
    calibration=maybe(
        st.builds(
            CalibrationRecord,
            spec=calibration_specs(),
            num_samples=sizes,
            num_examples=sizes,
            sha256=digests,
            ranges=tuples(
                st.builds(InputRange, name=words, minimum=numbers, maximum=numbers, rows_outside=maybe(numbers))
            ),
            source=maybe(st.sampled_from(["signature", "examples", "transform_graph"])),
            label_balance=maybe(balances),
            strata=maybe(balances),
            evaluation=maybe(st.builds(EvaluationSplit, split=words, num_examples=sizes)),
            not_compared=maybe(words),
            num_leaked=maybe(sizes),
            findings=tuples(st.builds(CalibrationFinding, code=words, message=words)),
        )
    ),
    versions=st.dictionaries(words, words, max_size=3),
    variants=tuples(variants),
)

# Field names that no record has.
unknown_fields = st.from_regex(r"x_[a-z]{1,8}", fullmatch=True)


# --- JSON and back ----------------------------------------------------------------------------------------------------


@some
@given(recipes())
def test_a_recipe_survives_json(recipe):
    assert ConversionRecipe.model_validate_json(recipe.model_dump_json()) == recipe
    document = json.loads(json.dumps(recipe.model_dump(mode="json")))
    assert resolve_recipes([document]) == (recipe,) == resolve_recipes([recipe])


@some
@given(calibration_specs() | metadata_specs())
def test_calibration_and_metadata_survive_json(spec):
    document = json.loads(json.dumps(spec.model_dump(mode="json")))
    assert type(spec)(**document) == spec


@some
@given(manifests)
def test_a_manifest_survives_json_byte_by_byte(manifest):
    data = manifest.to_json()
    again = VariantManifest.from_json(data)
    assert again == manifest
    assert again.to_json() == data
    assert again.converted() == tuple(v for v in manifest.variants if v.file is not None)


# --- unknown fields ---------------------------------------------------------------------------------------------------


@some
@given(recipes(), unknown_fields)
def test_an_unknown_field_of_a_recipe_is_refused_by_name(recipe, field):
    document = recipe.model_dump(mode="json") | {field: 1}
    with pytest.raises(RecipeError, match=field):
        resolve_recipes([document])


@some
@given(calibration_specs() | metadata_specs() | repairs, unknown_fields)
def test_an_unknown_field_of_a_specification_is_refused_by_name(spec, field):
    with pytest.raises(RecipeError, match=f"Invalid {type(spec).__name__}: .*{field}"):
        type(spec)(**spec.model_dump(mode="json"), **{field: 1})


def objects(document, where=()):
    """Every JSON object that stands for a record, with the keys on the way to it."""
    if isinstance(document, dict) and where[-1:] not in (("versions",), ("weight_bytes",)):
        yield where, document
        for key, value in document.items():
            yield from objects(value, (*where, key))
    elif isinstance(document, list):
        for index, value in enumerate(document):
            yield from objects(value, (*where, index))


@some
@given(manifests, unknown_fields, st.data())
def test_an_unknown_field_anywhere_in_a_manifest_is_refused_by_name(manifest, field, data):
    document = json.loads(manifest.to_json())
    where, chosen = data.draw(st.sampled_from(list(objects(document))))
    chosen[field] = 1
    # Specifications check themselves, so what is wrong inside one is reported where it stands.
    specification = next((n for n, key in enumerate(where, 1) if key in ("recipe", "replay", "spec")), len(where))
    path = r"\.".join(map(str, where[:specification]))
    with pytest.raises(TFXMobileError, match=f"Not a valid VariantManifest: {path}.*{field}.*Extra inputs"):
        VariantManifest.from_json(json.dumps(document))


# --- versions ---------------------------------------------------------------------------------------------------------

SHA = "0" * 64
TENSOR_1 = '{"dtype":"float32","name":"x","scale":null,"shape":[1,4],"zero_point":null}'
RECIPE_1 = '{"batch_size":1,"io_dtype":"float32","name":"float32","quantization":"none","schema_version":1}'
#: A manifest as version 0.1.0 wrote it.
MANIFEST_1 = (
    '{"batch_size":1,'
    '"calibration":{"num_examples":1000,"num_samples":200,"ranges":[{"maximum":1.0,"minimum":0.0,"name":"x"}],'
    f'"sha256":"{SHA}","spec":{{"num_samples":200,"seed":0,"split":"train"}}}},'
    '"schema_version":1,'
    f'"source":{{"inputs":[{TENSOR_1}],"outputs":[{TENSOR_1}],"parses_examples":true,"route":"resigned",'
    f'"sha256":"{SHA}","signature":"serving_default","uri":"models/1"}},'
    '"variants":['
    '{"failure":null,"file":{"custom_ops":[],"gzip_bytes":9,"min_runtime_version":"1.14.0",'
    '"ops":[{"count":2,"float_count":2,"name":"ADD","version":1}],"select_tf_ops":[],'
    f'"sha256":"{SHA}","signatures":[{{"inputs":[{TENSOR_1}],"key":"serving_default","outputs":[{TENSOR_1}]}}],'
    '"size_bytes":10},"path":"float32/model.tflite",'
    f'"recipe":{RECIPE_1}}},'
    '{"failure":{"advice":"export again","code":"converter_crashed","message":"killed by SIGABRT"},"file":null,'
    '"path":null,'
    '"recipe":{"batch_size":1,"io_dtype":"float32","name":"int16x8","quantization":"int16x8","schema_version":1}}],'
    '"versions":{"tfx-mobile":"0.1.0"}}'
)


def test_a_manifest_of_version_1_means_what_it_meant():
    tensor = TensorRecord(name="x", dtype="float32", shape=(1, 4))
    converted = Variant(
        recipe=ConversionRecipe(name="float32", quantization="none", batch_size=1, schema_version=1),
        path="float32/model.tflite",
        file=ModelFileRecord(
            sha256=SHA,
            size_bytes=10,
            gzip_bytes=9,
            signatures=(SignatureRecord(key="serving_default", inputs=(tensor,), outputs=(tensor,)),),
            ops=(OpRecord(name="ADD", version=1, count=2, float_count=2),),
            min_runtime_version="1.14.0",
        ),
    )
    manifest = VariantManifest.from_json(MANIFEST_1)
    assert manifest.schema_version == 1
    assert manifest.variants[0] == converted
    assert (manifest.variants[0].profiles, manifest.variants[0].findings) == ((), ())
    failed = manifest.variants[1]
    assert failed.recipe == ConversionRecipe(name="int16x8", quantization="int16x8", batch_size=1, schema_version=1)
    assert failed.failure == Failure(code="converter_crashed", message="killed by SIGABRT", advice="export again")
    assert manifest.source == SourceModelRecord(
        sha256=SHA,
        uri="models/1",
        signature="serving_default",
        parses_examples=True,
        route="resigned",
        inputs=(tensor,),
        outputs=(tensor,),
    )
    assert manifest.calibration is not None
    spec = manifest.calibration.spec
    assert (spec.split, spec.num_samples, spec.seed, spec.stratify_by) == ("train", 200, 0, None)
    assert (manifest.qat_source, manifest.batch_size, manifest.versions) == (None, 1, {"tfx-mobile": "0.1.0"})
    assert VariantManifest.from_json(manifest.to_json()) == manifest


def test_a_recipe_of_version_1_means_what_it_meant():
    (recipe,) = resolve_recipes([json.loads(RECIPE_1)])
    now = ConversionRecipe(name="float32", quantization="none", batch_size=1)
    assert recipe.model_dump(exclude={"schema_version"}) == now.model_dump(exclude={"schema_version"})


@some
@given(recipes(), st.integers() | st.text(max_size=3) | st.none())
def test_a_recipe_of_another_version_is_refused(recipe, version):
    document = recipe.model_dump(mode="json") | {"schema_version": version}
    if version in (1, 2):
        assert resolve_recipes([document])
        return
    with pytest.raises(RecipeError, match="schema_version"):
        resolve_recipes([document])


@some
@given(manifests, st.integers() | st.text(max_size=3) | st.none())
def test_a_manifest_of_another_version_is_refused(manifest, version):
    document = json.loads(manifest.to_json()) | {"schema_version": version}
    if version in (1, 2):
        assert VariantManifest.from_json(json.dumps(document)).variants == manifest.variants
        return
    with pytest.raises(TFXMobileError, match="Not a valid VariantManifest: schema_version"):
        VariantManifest.from_json(json.dumps(document))
