from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.fakes import conversions, models, outlier_mlp
from tfx_mobile import child_process
from tfx_mobile.child_process import ChildDied
from tfx_mobile.errors import CalibrationError, ConverterCrashedError
from tfx_mobile.recipes import BUILTIN_RECIPES, CalibrationSpec, ConversionRecipe
from tfx_mobile.records import Failure, ModelFileRecord, OpRecord, SignatureRecord, TensorRecord
from tfx_mobile.tflite.flatbuffer import inspect_model
from tfx_mobile.tflite_converter import failures, op_origins, quantize
from tfx_mobile.tflite_converter.calibration import batches
from tfx_mobile.tflite_converter.conversion import Conversion, _lanes, convert
from tfx_mobile.tflite_converter.front_end import FrozenSignature, load_signature
from tfx_mobile.tflite_converter.inspection import inspect


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Conversion]:
    """Converts `Format-Serving` of a folder by recipe names; the 30 rows of `models.rows` calibrate."""

    def run(
        model: Path,
        *recipes: str | ConversionRecipe,
        deadline_seconds: float = 120,
        max_parallel: int = 1,
        **changes: Any,
    ) -> Conversion:
        job = conversions.new_job(tmp_path, model / "Format-Serving", *recipes, rows=models.rows(30), **changes)
        return convert(job, deadline_seconds=deadline_seconds, max_parallel=max_parallel)

    return run


def _raw_module(path: Path, function: Callable[[Any], Any], **attributes: Any) -> Path:
    module = tf.Module()
    for name, value in attributes.items():
        setattr(module, name, value)

    @models.traced(tf.TensorSpec([None, 16], tf.float32, name="image"))
    def serve(image: Any) -> dict[str, Any]:
        return {"y": function(image)}

    tf.saved_model.save(module, str(path / "Format-Serving"), signatures={"serving_default": serve})
    return path


def test_an_abort_costs_the_recipe_at_hand_and_the_front_end_avoids_it(
    run: Callable[..., Conversion], tmp_path: Path
) -> None:
    network = models.raw_network()

    @models.traced(tf.TensorSpec([None, 16], tf.float32, name="image"))
    def serve(image: Any) -> dict[str, Any]:
        return {"probabilities": network(image)}

    tf.saved_model.save(network, str(tmp_path / "m" / "Format-Serving"), signatures={"serving_default": serve})
    direct = run(tmp_path / "m", "float32", "full_integer", route="direct")
    if direct.files:
        pytest.skip(f"TensorFlow {tf.__version__} converts this Keras 3 SavedModel; 2.16 aborts")
    assert direct.route == "direct"
    for variant in direct.variants:
        assert variant.failure is not None
        assert variant.failure.code == "converter_crashed"
        assert "killed by SIGABRT" in variant.failure.message
        assert "LLVM ERROR" in variant.failure.message
        assert "model.export" in variant.failure.advice
    resigned = run(tmp_path / "m", "float32", "full_integer")
    assert (resigned.route, sorted(resigned.files)) == ("resigned", ["float32", "full_integer"])


def _spin(image: Any) -> Any:
    # Zeros end at once; a calibration example keeps the interpreter busy for minutes.
    rounds = tf.cast(tf.reduce_sum(tf.abs(image)) * 1e9, tf.float32)
    _, result = tf.while_loop(lambda i, _: i < rounds, lambda i, x: (i + 1.0, x * 0.99), (0.0, image))
    return result


def test_a_hang_costs_the_recipe_at_hand(run: Callable[..., Conversion], tmp_path: Path) -> None:
    hung = run(_raw_module(tmp_path / "m", _spin), "float32", "full_integer", "float16", deadline_seconds=5)
    by_name = {variant.name: variant for variant in hung.variants}
    failure = by_name["full_integer"].failure
    assert failure is not None
    assert (failure.code, "deadline_seconds" in failure.advice) == ("converter_timeout", True)
    assert failure.message == "The conversion gave no result within 5 seconds."
    assert sorted(hung.files) == ["float16", "float32"]


def test_an_exception_costs_the_recipe_and_names_the_ops(run: Callable[..., Conversion], tmp_path: Path) -> None:
    model = _raw_module(tmp_path / "m", lambda image: tf.linalg.det(tf.reshape(image, [-1, 4, 4])))
    conversion = run(model, "float32", ConversionRecipe(name="open", quantization="none", batch_size="dynamic"))
    for variant in conversion.variants:
        assert variant.failure is not None
        assert variant.failure.code == "unsupported_ops"
        assert "MatrixDeterminant" in variant.failure.message
    assert conversion.files == {}


def test_direct_conversion_where_freezing_is_impossible(run: Callable[..., Conversion], tmp_path: Path) -> None:
    calls = tf.Variable(0.0)
    model = _raw_module(tmp_path / "m", lambda image: image + calls.assign_add(1.0), calls=calls)
    conversion = run(model, "float32")
    assert conversion.route == "direct"
    # Nothing can be re-signed, so the batch size is what the model was saved with.
    assert conversion.variants[0].recipe.batch_size == "dynamic"
    assert conversion.signature.inputs[0].shape == (-1, 16)


def test_equal_bytes_from_separate_processes(
    run: Callable[..., Conversion], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outlier_mlp.save(tmp_path / "m" / "Format-Serving")
    models.write_records(tmp_path / "outlier.gz", map(models.serialize, outlier_mlp.rows(300)))
    recipes = (
        "float32",
        "float16",
        "dynamic_range",
        "full_integer",
        "integer_only_int8",
        "integer_only_uint8",
        "int16x8",
        "mixed_precision",
        ConversionRecipe(name="open", quantization="full_integer", batch_size="dynamic"),
    )
    made = []
    for hash_seed, max_parallel in (("1", 1), ("2", 2)):
        monkeypatch.setenv("PYTHONHASHSEED", hash_seed)
        calibration = CalibrationSpec(num_samples=100)
        files = (str(tmp_path / "outlier.gz"),)
        made.append(
            run(tmp_path / "m", *recipes, max_parallel=max_parallel, calibration=calibration, example_files=files)
        )
    first, second = made
    assert [(v.name, v.failure) for v in first.variants] == [
        (recipe if isinstance(recipe, str) else recipe.name, None) for recipe in recipes
    ]
    assert first.variants == second.variants
    assert first.calibration == second.calibration
    assert all(first.files[name].read_bytes() == second.files[name].read_bytes() for name in first.files)
    (repaired,) = (v.repair for v in first.variants if v.repair is not None)
    assert repaired.float_layers


@pytest.mark.parametrize(("max_parallel", "peak"), [(1, 1), (3, 3), (9, 4)])
def test_lanes(max_parallel: int, peak: int) -> None:
    recipes = [
        BUILTIN_RECIPES[name].model_copy(update={"batch_size": 1})
        for name in ("float32", "float16", "full_integer", "dynamic_range", "int16x8")
    ]
    recipes.append(ConversionRecipe(name="open", quantization="full_integer", batch_size="dynamic"))
    lanes = _lanes(recipes, max_parallel)
    assert len(lanes) == peak
    assert sorted(name for lane in lanes for name in lane) == sorted(recipe.name for recipe in recipes)
    order = [recipe.name for recipe in recipes]
    assert all(lane == sorted(lane, key=order.index) for lane in lanes)
    # What shares a calibration stays together.
    (together,) = (lane for lane in lanes if "int16x8" in lane)
    assert {"float32", "full_integer", "int16x8"} <= set(together)
    assert ("open" in together) == (max_parallel == 1)


def test_children_run_at_once_on_request_and_one_that_hangs_costs_its_recipe(
    run: Callable[..., Conversion], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running: list[Any] = []
    started: list[list[str]] = []
    peaks: list[int] = []
    original = child_process.run

    def counted(function: str, request: dict[str, Any], **arguments: Any) -> Iterator[dict[str, Any]]:
        if "convert" not in request:  # a preflight
            yield from original(function, request, **arguments)
            return
        started.append(list(request["convert"]))
        running.append(request)
        peaks.append(len(running))
        try:
            yield from original(function, request, **arguments)
        finally:
            running.remove(request)

    monkeypatch.setattr(child_process, "run", counted)
    names = ["full_integer", "float32", "dynamic_range", "float16"]
    conversion = run(_raw_module(tmp_path / "m", _spin), *names, deadline_seconds=5, max_parallel=2)
    assert [v.name for v in conversion.variants] == names
    codes = [v.failure and v.failure.code for v in conversion.variants]
    assert codes == ["converter_timeout", None, None, None]
    assert sorted(conversion.files) == sorted(names[1:])
    assert max(peaks) == 2
    # The first child prepares, so it comes first; the rest of its recipes go to a fresh one.
    assert started[0] == ["full_integer", "float32"]
    assert sorted(started[1:]) == [["dynamic_range", "float16"], ["float32"]]


def test_an_interruption_kills_all_children(
    run: Callable[..., Conversion], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    processes: list[Any] = []
    original = subprocess.Popen

    def popen(*arguments: Any, **options: Any) -> Any:
        processes.append(original(*arguments, **options))
        return processes[-1]

    def interrupt(_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "Popen", popen)
    # The second child has just started when the first one's recipe fails and the user presses Ctrl-C.
    monkeypatch.setattr(Failure, "model_validate", interrupt)
    model = _raw_module(tmp_path / "m", lambda image: tf.linalg.det(tf.reshape(image, [-1, 4, 4])))
    with pytest.raises(KeyboardInterrupt):
        run(model, "float32", "float16", max_parallel=2)
    assert len(processes) == 2
    assert all(process.poll() is not None for process in processes)


# --- traps: files that a converter makes and an interpreter cannot bear -----------------------------------------------


def test_a_file_that_does_not_load_and_one_that_aborts_a_resolver(
    run: Callable[..., Conversion], tmp_path: Path
) -> None:
    # Activations so small that the 6 of relu6 is more than 2**31 of their int16 quanta, which is an error when loading,
    # and that the reference softmax cannot represent their int8 scale, which aborts the process.
    rng = np.random.default_rng(0)
    kernel = rng.normal(scale=1e-6, size=(3, 3, 1, 1)).astype(np.float32)
    weights = tf.constant(rng.normal(scale=1e-3, size=(16, 3)), tf.float32)

    def tiny(image: Any) -> Any:
        squares = tf.reshape(image, [-1, 4, 4, 1])
        squares = tf.nn.relu6(tf.nn.depthwise_conv2d(squares, kernel, [1, 1, 1, 1], "SAME"))
        return tf.nn.softmax(tf.reshape(squares, [-1, 16]) @ weights)

    conversion = run(_raw_module(tmp_path / "m", tiny), "full_integer", "int16x8")
    full_integer, int16x8 = conversion.variants
    assert int16x8.failure is not None
    assert int16x8.failure.code == "not_loadable"
    assert "overflow" in int16x8.failure.message
    # The runtime's own kernels run the other file, so it is a good one; the resolver costs a child, not this process.
    assert full_integer.failure is None
    assert sorted(conversion.files) == ["full_integer"]
    request = {"path": str(conversion.files["full_integer"])}
    with pytest.raises(ChildDied) as died:
        list(child_process.run("tests.fakes.reference_resolver:load_and_run", request, deadline_seconds=60))
    assert (died.value.cause, died.value.signal_name) == ("crashed", "SIGABRT")


def test_a_child_that_dies_before_the_first_recipe(
    run: Callable[..., Conversion], tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tfx_mobile.tflite_converter.conversion.STARTUP_SECONDS", 0.05)
    with pytest.raises(ConverterCrashedError, match="no answer within"):
        run(models.raw_model(tmp_path_factory), "float32")


# --- the rules, on made-up files --------------------------------------------------------------------------------------

_EXPECTED = SignatureRecord(
    key="serving_default",
    inputs=(
        TensorRecord(name="category", dtype="int64", shape=(1, 1)),
        TensorRecord(name="image", dtype="float32", shape=(1, 16)),
    ),
    outputs=(TensorRecord(name="y", dtype="float32", shape=(1, 3)),),
)
_INTEGER_OPS = (OpRecord(name="FULLY_CONNECTED", version=4, count=1), OpRecord(name="QUANTIZE", version=1, count=1))


def _file(io_dtype: str = "float32", ops: tuple[OpRecord, ...] = _INTEGER_OPS, **changes: Any) -> ModelFileRecord:
    def typed(tensors: tuple[TensorRecord, ...]) -> tuple[TensorRecord, ...]:
        return tuple(t.model_copy(update={"dtype": io_dtype} if t.dtype == "float32" else {}) for t in tensors)

    signature = SignatureRecord(
        key=changes.pop("key", "serving_default"),
        inputs=typed(changes.pop("inputs", _EXPECTED.inputs)),
        outputs=typed(_EXPECTED.outputs),
    )
    return ModelFileRecord(sha256="0" * 64, size_bytes=1, gzip_bytes=1, signatures=(signature,), ops=ops, **changes)


def _problem(recipe: str, file: ModelFileRecord) -> str | None:
    failure = inspect(BUILTIN_RECIPES[recipe], file, _EXPECTED)
    return None if failure is None else f"{failure.code}: {failure.message}"


def test_files_as_asked_pass() -> None:
    floats = (OpRecord(name="FULLY_CONNECTED", version=1, count=1, float_count=1),)
    assert _problem("float32", _file(ops=floats)) is None
    assert _problem("full_integer", _file(ops=(*floats, *_INTEGER_OPS))) is None
    assert _problem("integer_only_int8", _file("int8")) is None
    assert _problem("integer_only_uint8", _file("uint8")) is None


@pytest.mark.parametrize(
    ("recipe", "file", "problem"),
    [
        ("integer_only_int8", _file("float32"), "inspection_failed: Input 'image' is float32 instead of int8."),
        ("full_integer", _file("int8"), "inspection_failed: Input 'image' is int8 instead of float32."),
        (
            "integer_only_int8",
            _file("int8", (OpRecord(name="SIN", version=1, count=2, float_count=1), *_INTEGER_OPS)),
            "inspection_failed: Integer-only was asked for, but these ops compute in float: SIN.",
        ),
        # What an empty representative dataset gives: a float model with a QUANTIZE (facts, 6.2).
        (
            "full_integer",
            _file(ops=(OpRecord(name="CONV_2D", version=1, count=1, float_count=1), _INTEGER_OPS[1])),
            "inspection_failed: Nothing in the file computes in integers; its ops are CONV_2D, QUANTIZE.",
        ),
        (
            "int16x8",
            _file(ops=(OpRecord(name="SHAPE", version=1, count=1),)),
            "inspection_failed: Nothing in the file computes in integers; its ops are SHAPE.",
        ),
        (
            "float32",
            _file(select_tf_ops=("FlexSvd",)),
            "unsupported_ops: TensorFlow Lite has no builtin kernel for: Svd.",
        ),
        (
            "float32",
            _file(custom_ops=("Mine",)),
            "unsupported_ops: The file holds custom ops that no runtime brings along: Mine.",
        ),
        (
            "float32",
            _file(key="serve"),
            "inspection_failed: The file has signatures ['serve']; expected is 'serving_default' alone.",
        ),
        (
            "float32",
            _file(inputs=_EXPECTED.inputs[1:]),
            "inspection_failed: The file's inputs are ['image']; the signature's are ['category', 'image'].",
        ),
        (
            "float32",
            _file(inputs=(_EXPECTED.inputs[0], TensorRecord(name="image", dtype="float32", shape=(-1, 16)))),
            "inspection_failed: Input 'image' has shape [-1, 16] instead of [1, 16].",
        ),
    ],
)
def test_files_not_as_asked(recipe: str, file: ModelFileRecord, problem: str) -> None:
    assert _problem(recipe, file) == problem


def test_select_tf_ops_pass_where_they_are_allowed_and_custom_ops_never() -> None:
    floats = (OpRecord(name="FlexSvd", version=1, count=1, float_count=1),)
    file = _file(ops=(*floats, *_INTEGER_OPS), select_tf_ops=("FlexSvd",))
    assert inspect(BUILTIN_RECIPES["full_integer"], file, _EXPECTED, allow_select_tf_ops=True) is None
    failure = inspect(BUILTIN_RECIPES["integer_only_int8"], file, _EXPECTED, allow_select_tf_ops=True)
    assert failure is not None
    assert failure.message.endswith("these Select TensorFlow ops compute in float: FlexSvd.")
    failure = inspect(BUILTIN_RECIPES["float32"], _file(custom_ops=("Mine",)), _EXPECTED, allow_select_tf_ops=True)
    assert failure is not None
    assert failure.code == "unsupported_ops"


def test_ops_are_named_with_their_place_and_a_remedy() -> None:
    said = "op is neither a custom op nor a flex op"
    error = ValueError(f"'tf.DenseBincount' {said}\n'tf.Svd' {said}")
    places = {"DenseBincount": ("encoding/bincount", "encoding_1/bincount"), "Svd": ()}
    failure = failures.from_exception(BUILTIN_RECIPES["float32"], error, "/tmp/abc", lambda _: places)
    assert failure.message == (
        "TensorFlow Lite has no builtin kernel for: DenseBincount (in encoding/bincount, encoding_1/bincount), Svd."
    )
    assert "DenseBincount: use CategoryEncoding(output_mode='one_hot')" in failure.advice
    assert "Or pass allow_select_tf_ops=True to TFLiteConverter" in failure.advice
    failure = failures.from_exception(
        BUILTIN_RECIPES["float32"], error, "/tmp/abc", lambda _: places, allow_select_tf_ops=True
    )
    assert failure.advice.endswith("Select TensorFlow ops were allowed and do not cover them with this recipe.")


def test_places_of_ops_are_what_the_user_wrote() -> None:
    name = "model/StatefulPartitionedCall_1/net/category_encoding_3/bincount/DenseBincount"
    assert op_origins.scope(name, "DenseBincount") == "net/category_encoding_3/bincount"
    assert op_origins.scope("model/PartitionedCall/tokens", "StringToHashBucketFast") == "tokens"
    assert op_origins.scope("model/PartitionedCall/Svd_2", "Svd") == "model/PartitionedCall/Svd_2"


def test_the_calibrator_gets_strings_at_their_exact_length(tmp_path: Path) -> None:
    """It takes the bytes of an array for one string, so that padding makes a word unknown, and says nothing."""
    words = tf.lookup.KeyValueTensorInitializer(["Cash", "No Charge"], tf.range(2, dtype=tf.int64))
    table = tf.lookup.StaticHashTable(words, 2)
    rows = tf.constant([[0.0, 1.0], [0.0, 100.0], [0.0, 10_000.0]])

    def serve(text: Any, x: Any) -> dict[str, Any]:
        return {"y": (tf.gather(rows, table.lookup(text)[:, 0]) + x) @ tf.constant(np.eye(2, 32), tf.float32)}

    module = tf.Module()
    module.table = table
    specs = tf.TensorSpec([None, 1], tf.string, name="text"), tf.TensorSpec([None, 2], tf.float32, name="x")
    tf.saved_model.save(module, str(tmp_path / "m"), signatures={"serving_default": models.traced(*specs)(serve)})
    FrozenSignature(load_signature(tmp_path / "m", "serving_default")).resign(tmp_path / "out", 1)

    def largest(texts: list[bytes]) -> float:
        samples = {"text": np.array(texts)[:, None], "x": np.zeros((len(texts), 2), np.float32)}
        data = quantize.convert(
            BUILTIN_RECIPES["integer_only_int8"], str(tmp_path / "out"), "serving_default", lambda: batches(samples, 1)
        )
        (output,) = inspect_model(data).signature().outputs
        assert output.scale is not None
        return 255 * output.scale

    # The short word is padded to the length of the long one in the samples' array.
    assert largest([b"Cash", b"No Charge"] * 5) == pytest.approx(100, rel=0.02)
    assert largest([b"Cash", b"Cash"] * 5) == pytest.approx(1, rel=0.02)
    assert largest([b"", b"No Charge"] * 5) == pytest.approx(10_000, rel=0.02)


def test_the_calibrator_reads_one_string_only() -> None:
    with pytest.raises(CalibrationError, match=r"'text' takes 2 strings at once, of shape \[2, 1\].*batch_size=1"):
        quantize._as_the_calibrator_reads({"text": np.array([[b"a"], [b"b"]])})


def test_messages_hold_nothing_that_changes_from_run_to_run() -> None:
    stderr = (
        "W0000 00:00:1754 991 x.cc:3] noise\nF0000 00:00:1754 991 y.cc:7] Check failed: rank == 2 (3 vs. 2)\n@ 0x7f0"
    )
    failure = failures.from_death(ChildDied("crashed", "killed by SIGABRT", "SIGABRT", stderr), 60, None)
    assert failure.message == (
        "The converter process was killed by SIGABRT. It said last: Check failed: rank == 2 (3 vs. 2)"
    )
    error = ValueError("cannot read /tmp/abc/resigned-1/saved_model.pb")
    failure = failures.from_exception(BUILTIN_RECIPES["float32"], error, "/tmp/abc")
    assert failure.message == "ValueError: cannot read <work>/resigned-1/saved_model.pb"


def test_out_of_memory_has_its_own_advice() -> None:
    failure = failures.from_death(ChildDied("crashed", "killed by SIGKILL", "SIGKILL", ""), 60, None)
    assert "memory" in failure.advice
