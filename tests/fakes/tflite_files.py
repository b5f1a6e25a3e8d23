"""Tiny real `.tflite` files with fixed weights, made by TensorFlow's own converter."""

from __future__ import annotations

import base64
import functools
import io
import zipfile
import zlib

import numpy as np


@functools.cache
def dense(kind: str = "float32") -> bytes:
    """softmax(x @ w): input `x` [-1, 4] float32, output `p` [-1, 3]; `int8` has int8 inputs and outputs.

    Kinds of all files here: `float32`, `dynamic_range`, `full_integer` (float inputs and outputs), `int8`, `uint8`,
    `int16x8`.

    Calibrated on values in [-1, 1], so the int8 file saturates outside.
    """
    import tensorflow as tf

    module = tf.Module()
    module.w = tf.Variable(np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32))
    spec = tf.TensorSpec([None, 4], tf.float32, name="x")
    call = tf.function(lambda x: {"p": tf.nn.softmax(x @ module.w)}, input_signature=[spec])
    return _convert(module, call, kind, {"x": (1, 4)})


IMAGE_SIDE, IMAGE_CLASSES = 8, 3


@functools.cache
def image_classifier(kind: str = "float32", batch_size: int | None = 1) -> bytes:
    """A little convolutional classifier: `image` [1, 8, 8, 3] in [-1, 1] to `scores` [1, 3].

    Conv, depthwise conv, max pool, mean, dense layer with a bias, softmax.
    """
    import tensorflow as tf

    rng = np.random.default_rng(0)
    module = tf.Module()
    module.conv = tf.Variable(rng.normal(size=(3, 3, 3, 4)).astype(np.float32))
    module.depthwise = tf.Variable(rng.normal(size=(3, 3, 4, 1)).astype(np.float32))
    module.dense = tf.Variable(rng.normal(size=(4, IMAGE_CLASSES)).astype(np.float32))
    module.bias = tf.Variable(np.array([0.5, -0.25, 1.0], np.float32))

    def classify(image):
        x = tf.nn.relu(tf.nn.bias_add(tf.nn.conv2d(image, module.conv, 1, "SAME"), [0.1, 0.2, 0.3, 0.4]))
        x = tf.nn.bias_add(tf.nn.depthwise_conv2d(x, module.depthwise, [1, 1, 1, 1], "SAME"), [0.4, 0.3, 0.2, 0.1])
        x = tf.nn.relu6(x)
        x = tf.reduce_mean(tf.nn.max_pool2d(x, 2, 2, "SAME"), [1, 2])
        return {"scores": tf.nn.softmax(x @ module.dense + module.bias)}

    spec = tf.TensorSpec([batch_size, IMAGE_SIDE, IMAGE_SIDE, 3], tf.float32, name="image")
    call = tf.function(classify, input_signature=[spec])
    return _convert(module, call, kind, {"image": (1, IMAGE_SIDE, IMAGE_SIDE, 3)})


@functools.cache
def activations(kind: str = "int8") -> bytes:
    """Five outputs of one dense layer on `x` [1, 32]: tanh, logistic, l2, log_softmax, and two values joined."""
    import tensorflow as tf

    module = tf.Module()
    module.w = tf.Variable(np.random.default_rng(2).normal(size=(32, 64)).astype(np.float32))

    def call(x):
        y = x @ module.w
        return {
            "tanh": tf.tanh(y),
            "logistic": tf.sigmoid(y),
            "l2": tf.math.l2_normalize(y, axis=1),
            "log_softmax": tf.nn.log_softmax(y),
            "joined": tf.concat([y, tf.nn.relu(y)], axis=1),
        }

    spec = tf.TensorSpec([1, 32], tf.float32, name="x")
    return _convert(module, tf.function(call, input_signature=[spec]), kind, {"x": (1, 32)})


def edited(data: bytes, edit) -> bytes:
    """The same file with something changed in its tables, well-formed as a flatbuffer; what was appended is dropped."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(data, 0)
    edit(model)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


#: What MediaPipe 0.10.21's image classifier writer made of `image_classifier("float32")` with mean and std 127.5 and
#: the labels cat, dog, fish: the metadata block, and the archive it appended.
MEDIAPIPE_METADATA = zlib.decompress(
    base64.b64decode(
        "eNplUUtOwzAQnVSlGIhEVWXRRRdmj6JUsERCghUSiAUnSJNJMaR2FJtPEYsuOAJH4B5suVUYf9oikeh5nHkzz56XCQDcZNk0gQSGENMXA//0KQOU"
        "AxgTkh5ASdih/TTN0oxiFPjY9dnO/kaBRZ4fO2ZEMQm1vm5kNQnvhE/CF+HnjybAvrsPg13auadndc8IJ4TrfIa15pVqeZEbnKtWoObmPje0IF+o"
        "EmtiJG+xUHMp3jB1OrXrS82rATjtuo6FO0Vhah9X5yVxcUj1wb4AR4S7QrXIVeVO8WJ0hG6wMOIZ62UK3iNt64Ke93HrgJ1/GPLHhIbwsfbg351W"
        "3+s7RRv/YjggDbbxCiIWdFnwf9vfXawjIwf2Qo2brTdw/g6CxoSWK9k8GS4W+Ry5UXyGvGlVgVpjaUdzszmW4q2tL1EaUS2D69rY+oWQlOVq9kC2"
        "cCEd6TUrYnnOH6V6kVyjsVZuf2AKh1bTVl7WudaiEtjCL3Wyb08="
    )
)
MEDIAPIPE_ARCHIVE = zlib.decompress(
    base64.b64decode(
        "eNoL8GZmEWEAgc6sylijDQ+38wDZIMwFxDmJSak5xXolFSXJiSVcKfnpXGmZxRkB3oxMIsy4dcFAA2MDH7IZAd6sbCBxRiC0ANJb+EA8AC3dGS0="
    )
)


def with_metadata(data: bytes, block: bytes = MEDIAPIPE_METADATA, archive: bytes = MEDIAPIPE_ARCHIVE) -> bytes:
    """The same model with a metadata block in it and an archive behind it."""
    from ai_edge_litert import schema_py_generated as schema

    def add(model):
        buffer, entry = schema.BufferT(), schema.MetadataT()
        buffer.data = np.frombuffer(block, np.uint8)
        entry.name, entry.buffer = b"TFLITE_METADATA", len(model.buffers)
        model.buffers.append(buffer)
        model.metadata = [*(model.metadata or []), entry]

    return edited(data, add) + archive


def archive(files: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """A zip archive."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as written:
        for name, contents in files.items():
            written.writestr(name, contents)
    return stream.getvalue()


def metadata_block(
    mean=(), std=(), labels: str | None = None, threshold: float | None = None, name="model", output="scores"
) -> bytes:
    """A `TFLITE_METADATA` flatbuffer for one input and one output, written field by field."""
    import flatbuffers

    builder = flatbuffers.Builder(256)

    def table(*fields):
        """Fields in schema order: None, a table or string as ("offset", o), ("byte", n), ("float", x)."""
        builder.StartObject(len(fields))
        for slot, entry in enumerate(fields):
            if entry is None:
                continue
            kind, value = entry
            if kind == "offset":
                builder.PrependUOffsetTRelativeSlot(slot, value, 0)
            elif kind == "byte":
                builder.PrependUint8Slot(slot, value, 0)
            else:
                builder.PrependFloat32Slot(slot, value, 0.0)
        return "offset", builder.EndObject()

    def string(value):
        return "offset", builder.CreateString(value)

    def floats(values):
        return "offset", builder.CreateNumpyVector(np.array(values, np.float32))

    def tables(*offsets):
        builder.StartVector(4, len(offsets), 4)
        for _, offset in reversed(offsets):
            builder.PrependUOffsetTRelative(offset)
        return "offset", builder.EndVector()

    inputs, outputs = [], []
    if mean or std:
        options = table(floats(mean), floats(std))
        inputs.append(table(("byte", 1), options))
    if threshold is not None:
        outputs.append(table(("byte", 3), table(("float", threshold))))
    files = tables(table(string(labels), None, ("byte", 2))) if labels else None
    units = tables(*outputs) if outputs else None
    described = table(string(output) if output else None, None, None, None, units, None, files)
    image = table(string("image"), None, None, None, tables(*inputs) if inputs else None)
    main = table(None, None, tables(image), tables(described))
    _, root = table(string(name), None, None, tables(main))
    builder.Finish(root, b"M001")
    return bytes(builder.Output())


@functools.cache
def stack(width: int, kind: str = "float32", layers: int = 4) -> bytes:
    """Dense layers with relu, `width` times `width` weights each: `x` [1, width] to `y` [1, width]."""
    import tensorflow as tf

    rng = np.random.default_rng(0)
    module = tf.Module()
    module.weights = [tf.Variable(rng.normal(size=(width, width)).astype(np.float32)) for _ in range(layers)]

    def call(x):
        for weights in module.weights:
            x = tf.nn.relu(x @ weights)
        return {"y": x}

    spec = tf.TensorSpec([1, width], tf.float32, name="x")
    return _convert(module, tf.function(call, input_signature=[spec]), kind, {"x": (1, width)})


@functools.cache
def large_arena(side: int) -> bytes:
    """One 3x3 convolution to 16 channels: some kilobytes that fill a tensor of `side` * `side` * 16 floats."""
    import tensorflow as tf

    module = tf.Module()
    module.w = tf.Variable(np.random.default_rng(0).normal(size=(3, 3, 1, 16)).astype(np.float32))
    spec = tf.TensorSpec([1, side, side, 1], tf.float32, name="x")
    call = tf.function(
        lambda x: {"y": tf.reduce_max(tf.nn.conv2d(x, module.w, 1, "SAME"), [1, 2])}, input_signature=[spec]
    )
    return _convert(module, call, "float32", {})


@functools.cache
def lookup() -> bytes:
    """Rows of a table of five: `ids` [1, 2] int32 to `y` [1, 2, 3]; an id beyond the table is an error."""
    import tensorflow as tf

    module = tf.Module()
    module.table = tf.Variable(np.ones((5, 3), np.float32))
    spec = tf.TensorSpec([1, 2], tf.int32, name="ids")
    call = tf.function(lambda ids: {"y": tf.gather(module.table, ids)}, input_signature=[spec])
    return _convert(module, call, "float32", {})


@functools.cache
def open_size(only: int | None) -> bytes:
    """Input `x` [1, -1, 3] float32; runs with any size, or with the size `only` alone."""
    import tensorflow as tf

    spec = tf.TensorSpec([1, None, 3], tf.float32, name="x")
    shape = [1, -1] if only is None else [1, only * 3]
    call = tf.function(lambda x: {"y": tf.reshape(x, shape) * 2.0}, input_signature=[spec])
    return _convert(tf.Module(), call, "float32", {})


def _convert(module, call, kind, shapes) -> bytes:
    import tempfile

    import tensorflow as tf

    with tempfile.TemporaryDirectory() as directory:
        tf.saved_model.save(module, directory, signatures={"serving_default": call})
        converter = tf.lite.TFLiteConverter.from_saved_model(directory, signature_keys=["serving_default"])
        if kind != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if kind not in ("float32", "dynamic_range"):
            rng = np.random.default_rng(1)
            samples = [{n: rng.uniform(-1, 1, s).astype(np.float32) for n, s in shapes.items()} for _ in range(500)]
            edges = [{n: np.full(s, v, np.float32) for n, s in shapes.items()} for v in (-1, 1)]
            converter.representative_dataset = lambda: iter(samples + edges)
        if kind in ("int8", "uint8"):
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type = converter.inference_output_type = tf.as_dtype(kind)
        if kind == "int16x8":
            converter.target_spec.supported_ops = [
                tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8,
                tf.lite.OpsSet.TFLITE_BUILTINS,
            ]
        return bytes(converter.convert())
