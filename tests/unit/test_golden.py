"""Golden vectors of real files, and the check of good, changed and broken files against them."""

import base64
import json

import numpy as np
import pytest
from click.testing import CliRunner

from tests.fakes import tflite_files
from tests.fakes.tflite_files import edited
from tfx_mobile.cli import main
from tfx_mobile.errors import EvaluationError, TFXMobileError
from tfx_mobile.quantization_evaluator.close_look import golden
from tfx_mobile.quantization_evaluator.scoring.rows import Row
from tfx_mobile.recipes import BUILTIN_RECIPES
from tfx_mobile.records import GoldenVectors, sha256_of
from tfx_mobile.tflite.runtime import SignatureRunner, quantize

RECIPES = {"int8": "integer_only_int8", "uint8": "integer_only_uint8"}
SIDE, CLASSES = tflite_files.IMAGE_SIDE, tflite_files.IMAGE_CLASSES
IMAGES = np.random.default_rng(5).uniform(-1, 1, (3, SIDE, SIDE, 3)).astype(np.float32)
ROWS = [
    Row(f"{index:064x}", {"image": image[None]}, {"scores": np.full((1, CLASSES), index / 4, np.float32)})
    for index, image in enumerate(IMAGES)
]


def vectors_of(kind, rows=ROWS, **kwargs):
    recipe = BUILTIN_RECIPES[RECIPES.get(kind, "float32" if kind == "float32" else kind)]
    return golden.make(tflite_files.image_classifier(kind), recipe, "serving_default", rows, **kwargs)


@pytest.fixture(scope="module")
def int8():
    return vectors_of("int8")


def decoded(tensor):
    """As an app does it: by dtype, shape and base64 alone."""
    return np.frombuffer(base64.b64decode(tensor.data), np.dtype(tensor.dtype).newbyteorder("<")).reshape(tensor.shape)


@pytest.mark.parametrize("kind", ["float32", "int8", "uint8", "full_integer"])
def test_vectors_hold_exactly_what_goes_in_and_comes_out(kind):
    model = tflite_files.image_classifier(kind)
    vectors = vectors_of(kind)
    assert vectors.model_sha256 == sha256_of(model)
    assert len(vectors.examples) == len(ROWS)
    runner = SignatureRunner(model)
    assert vectors.runtime == runner.runtime
    assert GoldenVectors.from_json(vectors.to_json()) == vectors
    (image,), (scores,) = runner.inputs.values(), runner.outputs.values()
    assert (vectors.inputs[0].dtype, vectors.inputs[0].scale) == (image.dtype, image.scale)
    assert (vectors.outputs[0].dtype, vectors.outputs[0].zero_point) == (scores.dtype, scores.zero_point)
    for row, example in zip(ROWS, vectors.examples, strict=True):
        (fed,), (given,), (expected,) = example.inputs, example.outputs, example.float_outputs
        exact = row.inputs["image"]
        if image.scale is not None:
            exact = quantize(exact, image.scale, image.zero_point, image.dtype)
        np.testing.assert_array_equal(decoded(fed), exact)
        assert decoded(fed).dtype == image.dtype
        np.testing.assert_array_equal(decoded(given), runner.invoke({"image": exact})["scores"])
        np.testing.assert_array_equal(decoded(expected), row.outputs["scores"])
        assert example.example_sha256 == row.sha256
    assert golden.check(model, vectors).passed


@pytest.mark.parametrize(
    ("kind", "tolerance", "reason"),
    [
        ("int8", 1.0, "one quantum"),
        ("full_integer", 1.001 / 256, "dequantized from"),
        ("float32", 1e-4, "another order"),
        ("dynamic_range", 1e-3, "on the fly"),
    ],
)
def test_tolerances_have_reasons(kind, tolerance, reason):
    (output,) = vectors_of(kind, ROWS[:1]).outputs
    assert output.tolerance == pytest.approx(tolerance)
    assert reason in output.reason


def test_integers_inside_with_a_float_output_of_unknown_step_get_a_share_of_their_range():
    model = tflite_files.image_classifier("float32")
    (output,) = golden.make(model, BUILTIN_RECIPES["full_integer"], "serving_default", ROWS[:1]).outputs
    largest = SignatureRunner(model).run({"image": IMAGES[:1]})["scores"].max()
    assert output.tolerance == pytest.approx(largest / 127)


def test_a_file_of_fixed_batch_size_takes_the_example_in_every_row():
    model = tflite_files.image_classifier("int8", 3)
    vectors = golden.make(model, BUILTIN_RECIPES["integer_only_int8"], "serving_default", ROWS[:1])
    (fed,), (given,) = vectors.examples[0].inputs, vectors.examples[0].outputs
    assert (fed.shape, given.shape) == ((3, SIDE, SIDE, 3), (3, CLASSES))
    assert (decoded(fed) == decoded(fed)[:1]).all()
    assert golden.check(model, vectors).passed


def test_as_many_examples_as_fit_and_at_least_one(int8):
    size = SIDE * SIDE * 3 + CLASSES + 4 * CLASSES
    for limit, count in ((3 * size, 3), (3 * size - 1, 2), (1, 1)):
        assert vectors_of("int8", max_bytes=limit).examples == int8.examples[:count]


def test_strings_and_flags(tmp_path):
    import tensorflow as tf

    specs = [tf.TensorSpec([1, 2], tf.string, name="words"), tf.TensorSpec([1, 2], tf.float32, name="weights")]
    call = tf.function(
        lambda words, weights: {
            "words": tf.reshape(words, [2, 1]),
            "yes": tf.equal(words, "yes"),
            "total": tf.reduce_sum(weights, 1),
        },
        input_signature=specs,
    )
    model = tflite_files._convert(tf.Module(), call, "float32", {})
    words = np.array([["yes", b"\xff\0 not UTF-8"]], object)
    inputs = {"words": words, "weights": np.array([[1.5, 2.0]], np.float32)}
    row = Row("0" * 64, inputs, {"total": np.ones(1, np.float32)})
    vectors = golden.make(model, BUILTIN_RECIPES["float32"], "serving_default", [row])
    tensors = {tensor.name: tensor for tensor in vectors.examples[0].inputs}
    assert [base64.b64decode(value) for value in tensors["words"].strings] == [b"yes", b"\xff\0 not UTF-8"]
    tensors = {tensor.name: tensor for tensor in vectors.examples[0].outputs}
    assert tensors["words"].strings == (base64.b64encode(b"yes").decode(), tensors["words"].strings[1])
    assert golden.to_array(tensors["yes"]).tolist() == [[True, False]]
    # By position for interpreters that know no signatures: the positions are the file's own.
    assert sorted(port.index for port in vectors.outputs) == [0, 1, 2]
    assert {port.name: port.tolerance for port in vectors.outputs if port.name != "total"} == {"words": 0, "yes": 0}
    assert golden.check(model, vectors).passed

    def other(name, **update):
        tensors = [t.model_copy(update=update) if t.name == name else t for t in vectors.examples[0].outputs]
        example = vectors.examples[0].model_copy(update={"outputs": tuple(tensors)})
        return golden.check(model, vectors.model_copy(update={"examples": (example,)}))

    text = other("words", strings=("bm8=", tensors["words"].strings[1]))
    assert [(r.output, r.message) for r in text.results if not r.passed] == [("words", "another text")]
    flag = other("yes", data="AAA=")
    assert [(r.output, r.difference) for r in flag.results if not r.passed] == [("yes", 1.0)]


def with_other_weights(model):
    def edit(made):
        for tensor in made.subgraphs[0].tensors:
            buffer = made.buffers[tensor.buffer]
            if tensor.type == 9 and buffer.data is not None and len(tensor.shape) == 2:  # the dense layer's int8 kernel
                buffer.data = np.ascontiguousarray(np.roll(buffer.data, 1))

    return edited(model, edit)


def test_a_tampered_file_is_told_by_its_outputs_and_by_its_hash(int8):
    model = tflite_files.image_classifier("int8")
    outcome = golden.check(with_other_weights(model), int8)
    assert not outcome.same_file
    assert not outcome.passed
    failed = [result for result in outcome.results if not result.passed]
    assert failed
    assert all(result.difference > 1 for result in failed)
    # A change that no output shows is still another file.
    same_outputs = golden.check(model + b"\0", int8)
    assert all(result.passed for result in same_outputs.results)
    assert not same_outputs.passed


def test_one_quantum_is_tolerated_and_two_are_not(int8):
    model = tflite_files.image_classifier("int8")

    def shifted(by):
        (tensor,) = int8.examples[0].outputs
        values = decoded(tensor).astype(np.int64)
        moved = golden.to_golden("scores", (values + np.where(values > 0, -by, by)).astype(np.int8))
        examples = (int8.examples[0].model_copy(update={"outputs": (moved,)}), *int8.examples[1:])
        return golden.check(model, int8.model_copy(update={"examples": examples}))

    assert shifted(1).passed
    outcome = shifted(2)
    assert [(r.example, r.difference, r.passed) for r in outcome.results] == [(0, 2, False), (1, 0, True), (2, 0, True)]


def test_a_nan_is_only_equal_to_a_nan():
    vectors = vectors_of("float32")
    nan = golden.to_golden("scores", np.full((1, CLASSES), np.nan, np.float32))
    examples = tuple(example.model_copy(update={"outputs": (nan,)}) for example in vectors.examples)
    outcome = golden.check(tflite_files.image_classifier("float32"), vectors.model_copy(update={"examples": examples}))
    assert {(r.passed, r.difference, r.message) for r in outcome.results} == {
        (False, None, "NaN or infinite where the other is not")
    }
    same = golden._compare(0, vectors.outputs[0], nan, nan)
    assert (same.passed, same.difference) == (True, 0.0)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (b"not a model", "Not a .tflite file"),
        (tflite_files.image_classifier("float32"), "cannot be run on golden inputs"),
        (tflite_files.dense("int8"), "there are no values for its inputs x"),
    ],
)
def test_a_file_that_does_not_take_the_inputs_fails_with_the_reason(int8, model, message):
    outcome = golden.check(model, int8)
    assert not outcome.passed
    assert message in outcome.failure


def test_a_winner_that_cannot_be_run_again_is_an_error():
    with pytest.raises(EvaluationError, match=r"'integer_only_int8' passed every gate.*No signature 'other'"):
        golden.make(tflite_files.dense("int8"), BUILTIN_RECIPES["integer_only_int8"], "other", ROWS)


def test_damaged_vectors_are_refused(int8):
    document = json.loads(int8.to_json())
    with pytest.raises(TFXMobileError, match="examples"):
        GoldenVectors.from_json(json.dumps({**document, "examples": []}))
    document["examples"][0]["inputs"][0]["shape"] = [1, 2]
    outcome = golden.check(tflite_files.image_classifier("int8"), GoldenVectors.from_json(json.dumps(document)))
    assert "Golden tensor 'image' is damaged" in outcome.failure
    document["examples"][0]["inputs"][0]["data"] = None
    with pytest.raises(TFXMobileError, match="a string tensor has strings"):
        GoldenVectors.from_json(json.dumps(document))


def run(*arguments):
    return CliRunner(env={"COLUMNS": "120"}).invoke(main, ["check-golden", *map(str, arguments)])


def test_the_command_prints_a_table_and_its_exit_code_is_the_verdict(int8, tmp_path):
    model, vectors = tmp_path / "model.tflite", tmp_path / "golden.json"
    model.write_bytes(tflite_files.image_classifier("int8"))
    vectors.write_bytes(int8.to_json())
    result = run(model, vectors)
    assert result.exit_code == 0, result.output
    for text in ("the same file", "integer_only_int8", "scores", "pass", int8.runtime):
        assert text in result.output
    assert "FAIL" not in result.output

    model.write_bytes(with_other_weights(tflite_files.image_classifier("int8")))
    result = run(model, vectors)
    assert result.exit_code == 1
    failed = sum(not r.passed for r in golden.check(model.read_bytes(), int8).results)
    assert result.stdout.count("FAIL") == failed
    assert f"{failed} of 3 outputs are out of tolerance" in result.stderr
    assert "The golden vectors are of another file" in result.stderr
    result = run(model, vectors, "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["passed"] is False

    vectors.write_text("{}")
    result = run(model, vectors)
    assert result.exit_code == 1
    assert "Not a valid GoldenVectors" in result.stderr
