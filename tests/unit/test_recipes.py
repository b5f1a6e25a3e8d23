import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfx_mobile.errors import RecipeError, TFXMobileError
from tfx_mobile.recipes import BUILTIN_RECIPES, CalibrationSpec, ConversionRecipe, resolve_recipes


@pytest.mark.parametrize("recipe", BUILTIN_RECIPES.values(), ids=lambda recipe: recipe.name)
def test_every_builtin_recipe_survives_json(recipe):
    assert ConversionRecipe.model_validate_json(recipe.model_dump_json()) == recipe
    assert resolve_recipes([json.loads(recipe.model_dump_json())]) == (recipe,)
    assert resolve_recipes([recipe.name]) == (recipe,)


def test_the_builtin_recipes_are_tensorflows_terms():
    assert list(BUILTIN_RECIPES) == [
        "float32",
        "float16",
        "dynamic_range",
        "full_integer",
        "integer_only_int8",
        "integer_only_uint8",
        "int16x8",
        "mixed_precision",
        "int4",
        "qat_full_integer",
        "qat_integer_only_int8",
    ]
    calibrating = {name for name, recipe in BUILTIN_RECIPES.items() if recipe.calibrates}
    assert calibrating == {"full_integer", "integer_only_int8", "integer_only_uint8", "int16x8", "mixed_precision"}


def test_an_unknown_name_is_refused_with_the_valid_ones():
    with pytest.raises(RecipeError, match=r"Unknown recipe 'int7'.*float32.*int16x8"):
        resolve_recipes(["float32", "int7"])


def test_a_recipe_error_is_a_value_error_and_ours():
    assert issubclass(RecipeError, ValueError)
    assert issubclass(RecipeError, TFXMobileError)


@pytest.mark.parametrize(
    ("recipes", "message"),
    [
        ([], "recipes is empty"),
        ("float32", "give a list"),
        (["float32", "float32"], "given more than once: float32"),
        ([3], "Unknown recipe 3"),
    ],
)
def test_lists_that_make_no_sense_are_refused(recipes, message):
    with pytest.raises(RecipeError, match=message):
        resolve_recipes(recipes)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "Big", "quantization": "none"}, "lower-case letters"),
        ({"name": "../up", "quantization": "none"}, "lower-case letters"),
        ({"name": "a", "quantization": "int2"}, "quantization='int2'"),
        ({"name": "a", "quantization": "full_integer", "io_dtype": "int8"}, "needs quantization='integer_only'"),
        ({"name": "a", "quantization": "none", "batch_size": 0}, "batch_size"),
        ({"name": "a", "quantization": "none", "bits": 4}, "bits=4: Extra inputs are not permitted"),
        ({"name": "a", "quantization": "none", "schema_version": 3}, "schema_version"),
    ],
)
def test_recipes_that_make_no_sense_are_refused_with_field_and_value(fields, message):
    with pytest.raises(RecipeError, match=message):
        ConversionRecipe(**fields)


def test_recipes_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        BUILTIN_RECIPES["float32"].name = "other"


@given(
    name=st.from_regex(r"[a-z][a-z0-9_]{0,62}", fullmatch=True),
    quantization=st.sampled_from(["none", "float16", "dynamic_range", "full_integer", "integer_only", "int16x8"]),
    batch_size=st.none() | st.integers(1, 512) | st.just("dynamic"),
)
def test_any_valid_recipe_survives_json(name, quantization, batch_size):
    recipe = ConversionRecipe(name=name, quantization=quantization, batch_size=batch_size)
    assert ConversionRecipe.model_validate_json(recipe.model_dump_json()) == recipe


def test_a_calibration_of_nothing_is_refused():
    with pytest.raises(RecipeError, match="num_samples=0"):
        CalibrationSpec(num_samples=0)
    with pytest.raises(RecipeError, match="split=''"):
        CalibrationSpec(split="")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"leakage": "ignore"}, "leakage='ignore'"),
        ({"leakage": "refuse", "evaluation_split": None}, "an evaluation_split other than split='train', not None"),
        ({"leakage": "refuse", "split": "eval"}, "an evaluation_split other than split='eval', not 'eval'"),
        ({"stratify_by": ""}, "stratify_by=''"),
        ({"label": ""}, "label=''"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": 2**70}, "seed="),
        ({"stratified": "label"}, "stratified='label'.*Its fields are split, num_samples, seed, stratify_by"),
    ],
)
def test_a_calibration_that_makes_no_sense_is_refused(fields, message):
    with pytest.raises(RecipeError, match=message):
        CalibrationSpec(**fields)
