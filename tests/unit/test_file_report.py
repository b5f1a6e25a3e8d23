"""Unusual files: well-formed, but not what today's converter writes."""

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from tests.fakes import tflite_files
from tests.fakes.tflite_files import edited, with_metadata
from tfx_mobile.errors import ModelFileError
from tfx_mobile.records import InspectionRecord
from tfx_mobile.tflite import bounds
from tfx_mobile.tflite.file_report import inspect_file
from tfx_mobile.tflite.flatbuffer import inspect_model


def image(kind="int8"):
    return tflite_files.image_classifier(kind)


def report(data: bytes, edit=None) -> InspectionRecord:
    """The record, which must also be JSON and have parts that add up."""
    data = edited(data, edit) if edit is not None else data
    record = inspect_file(data)
    assert InspectionRecord.from_json(record.to_json()) == record
    assert sum(part.bytes for part in record.sizes) == record.size_bytes == len(data)
    return record


def sizes(record):
    return {part.part: part.bytes for part in record.sizes}


class TestSizes:
    def test_weights_by_type_and_the_rest(self):
        record = report(with_metadata(image()))
        assert sizes(record)["weights int8"] == 3 * 3 * 3 * 4 + 3 * 3 * 4 + 4 * 3
        # The biases of three layers, and the axes of the mean.
        assert sizes(record)["weights int32"] == 4 * (4 + 4 + 3) + 4 * 2
        assert sizes(record)["metadata TFLITE_METADATA"] == len(tflite_files.MEDIAPIPE_METADATA)
        assert sizes(record)["associated files"] == len(tflite_files.MEDIAPIPE_ARCHIVE)
        assert [part.bytes for part in record.sizes] == sorted((p.bytes for p in record.sizes), reverse=True)

    def test_buffers_that_nothing_uses(self):
        def add(model):
            buffer = schema.BufferT()
            buffer.data = np.zeros(1000, np.uint8)
            model.buffers.append(buffer)

        assert sizes(report(image(), add))["unused buffers"] == 1000

    def test_weights_behind_the_flatbuffer(self):
        # Files over 2 GB keep their weights behind the tables, by offset.
        offset = 8192

        def move(model):
            subgraph = model.subgraphs[0]
            weight = subgraph.tensors[subgraph.operators[0].inputs[1]]
            buffer = model.buffers[weight.buffer]
            moved.append(buffer.data.tobytes())
            buffer.data, buffer.offset, buffer.size = None, offset, len(moved[0])

        moved = []
        data = edited(image(), move)
        contents = bytearray(moved[0])
        contents[0] = 0x80
        record = report(data.ljust(offset, b"\0") + bytes(contents))
        assert sizes(record)["weights int8"] == 3 * 3 * 3 * 4 + 3 * 3 * 4 + 4 * 3
        assert [finding.code for finding in record.findings] == ["weight_range"]
        with pytest.raises(ModelFileError, match="Truncated"):
            inspect_file(data.ljust(offset, b"\0") + bytes(contents[:-1]))


class TestTensors:
    def test_all_of_them_with_parameters(self):
        record = report(image())
        by_name = {t.name: t for t in record.tensors}
        assert len(by_name) == len(record.tensors)
        weights = next(t for t in record.tensors if t.shape == (4, 3, 3, 3))
        assert (weights.dtype, weights.constant_bytes) == ("int8", 108)
        assert weights.quantization is not None
        assert (len(weights.quantization.scales), weights.quantization.dimension) == (4, 0)
        assert weights.quantization.zero_points == (0, 0, 0, 0)
        assert [t.index for t in record.tensors] == list(range(len(record.tensors)))

    def test_parameters_that_are_not_finite(self):
        def spoil(model):
            for tensor in model.subgraphs[0].tensors:
                if tensor.quantization is not None and tensor.quantization.scale is not None:
                    tensor.quantization.scale = np.full(len(tensor.quantization.scale), np.nan, np.float32)

        record = report(image(), spoil)
        assert record.file.signature().inputs[0].scale is None
        assert {scale for t in record.tensors if t.quantization for scale in t.quantization.scales} == {None}
        assert "scale" in {finding.code for finding in record.findings}


class TestUnusualStructure:
    def test_operators_and_types_newer_than_the_schema(self):
        def from_the_future(model):
            model.operatorCodes[0].builtinCode = 5000
            model.subgraphs[0].tensors[0].type = 111

        record = report(image(), from_the_future)
        assert "UNKNOWN_5000" in {op.name for op in record.file.ops}
        assert record.file.signature().inputs[0].dtype == "unknown_111"

    def test_operator_codes_of_the_old_schema(self):
        names = {op.name for op in inspect_model(image()).ops}

        def old(model):
            for code in model.operatorCodes:
                code.builtinCode = 0

        assert {op.name for op in report(image(), old).file.ops} == names

    def test_no_signature(self):
        record = report(image(), lambda m: setattr(m, "signatureDefs", None))
        assert record.file.signatures == ()
        assert record.tensors

    def test_no_operator(self):
        def empty(model):
            model.subgraphs[0].operators = []
            model.operatorCodes = []

        assert report(image(), empty).file.ops == ()

    def test_several_signatures_in_order_of_their_keys(self):
        def add(model):
            other = schema.SignatureDefT()
            vars(other).update(vars(model.signatureDefs[0]), signatureKey=b"another")
            model.signatureDefs.append(other)

        assert [s.key for s in report(image(), add).file.signatures] == ["another", "serving_default"]

    def test_names_that_are_no_text(self):
        def rename(model):
            model.signatureDefs[0].signatureKey = b"\xff\xfe"
            model.signatureDefs[0].inputs[0].name = b"\x80"
            model.subgraphs[0].tensors[0].name = None

        record = report(image(), rename)
        assert record.file.signatures[0].key == "\ufffd\ufffd"

    def test_buffers_in_other_files(self):
        record = report(image(), lambda m: setattr(m, "externalBuffers", [schema.ExternalBufferT()] * 2))
        assert record.external_buffers == 2


class TestBounds:
    """A small file may stand for gigabytes; it is refused before anything is unpacked."""

    def shared(self, name_bytes: int, tensors: int, container_bytes: int = 0, operators: int = 0) -> bytes:
        """One tensor, with a name of `name_bytes`, listed `tensors` times; one operator with a string likewise."""
        builder = flatbuffers.Builder(1 << 20)
        name = builder.CreateString("n" * name_bytes)
        schema.TensorStart(builder)
        schema.TensorAddName(builder, name)
        tensor = schema.TensorEnd(builder)
        schema.SubGraphStartTensorsVector(builder, tensors)
        for _ in range(tensors):
            builder.PrependUOffsetTRelative(tensor)
        listed = builder.EndVector()
        container = builder.CreateString("c" * container_bytes)
        schema.VarHandleOptionsStart(builder)
        schema.VarHandleOptionsAddContainer(builder, container)
        options = schema.VarHandleOptionsEnd(builder)
        schema.OperatorStart(builder)
        schema.OperatorAddBuiltinOptionsType(builder, schema.BuiltinOptions.VarHandleOptions)
        schema.OperatorAddBuiltinOptions(builder, options)
        operator = schema.OperatorEnd(builder)
        schema.SubGraphStartOperatorsVector(builder, operators)
        for _ in range(operators):
            builder.PrependUOffsetTRelative(operator)
        listed_operators = builder.EndVector()
        schema.OperatorCodeStart(builder)
        code = schema.OperatorCodeEnd(builder)
        schema.SubGraphStart(builder)
        schema.SubGraphAddTensors(builder, listed)
        schema.SubGraphAddOperators(builder, listed_operators)
        subgraph = schema.SubGraphEnd(builder)
        schema.BufferStart(builder)
        buffer = schema.BufferEnd(builder)
        lists = []
        for start, item in (
            (schema.ModelStartSubgraphsVector, subgraph),
            (schema.ModelStartBuffersVector, buffer),
            (schema.ModelStartOperatorCodesVector, code),
        ):
            start(builder, 1)
            builder.PrependUOffsetTRelative(item)
            lists.append(builder.EndVector())
        schema.ModelStart(builder)
        schema.ModelAddSubgraphs(builder, lists[0])
        schema.ModelAddBuffers(builder, lists[1])
        schema.ModelAddOperatorCodes(builder, lists[2])
        builder.Finish(schema.ModelEnd(builder), b"TFL3")
        return bytes(builder.Output())

    def test_a_name_shared_by_many_tensors(self):
        assert len(report(self.shared(10, 50)).tensors) == 50
        with pytest.raises(ModelFileError, match="add up to more than 4 times"):
            inspect_file(self.shared(100_000, 200))

    def test_too_many_tables(self, monkeypatch):
        monkeypatch.setattr(bounds, "MAX_TABLES", 40)
        with pytest.raises(ModelFileError, match="more than 40 tensors, operators"):
            inspect_file(self.shared(10, 50))

    def test_too_many_numbers(self, monkeypatch):
        assert report(image())
        monkeypatch.setattr(bounds, "MAX_NUMBERS", 100)
        with pytest.raises(ModelFileError, match="more than 100 numbers"):
            inspect_file(image())

    def test_a_count_of_four_billion(self):
        data = bytearray(self.shared(10, 3))
        position = bytes(data).index(b"\x03\0\0\0", 8)
        data[position : position + 4] = b"\xff" * 4
        with pytest.raises(ModelFileError):
            inspect_file(bytes(data))

    def test_too_many_dimensions(self):
        def many(model):
            model.subgraphs[0].tensors[0].shapeSignature = np.ones(300, np.int32)

        with pytest.raises(ModelFileError, match="300 dimensions"):
            inspect_file(edited(image(), many))

    def test_strings_of_an_operators_options_count_too(self):
        assert report(self.shared(10, 3, 10, 50)).file.ops[0].count == 50
        with pytest.raises(ModelFileError, match="add up to more than 4 times"):
            inspect_file(self.shared(10, 3, 100_000, 200))


# --- mutants ----------------------------------------------------------------------------------------------------------


def mutants(data: bytes, seed: int):
    """Truncations, single bits, random bytes and zeroed blocks, most of them in the tables."""
    rng = np.random.default_rng(seed)
    size = len(data)
    for _ in range(15):
        yield data[: int(rng.integers(8, size))]
    for _ in range(90):
        damaged = bytearray(data)
        damaged[int(rng.integers(size))] ^= 1 << int(rng.integers(8))
        yield bytes(damaged)
    for _ in range(30):
        damaged = bytearray(data)
        for position in rng.integers(0, size, 32):
            damaged[position] = int(rng.integers(256))
        yield bytes(damaged)
    for _ in range(10):
        damaged = bytearray(data)
        start = int(rng.integers(8, size))
        damaged[start : start + 64] = bytes(len(damaged[start : start + 64]))
        yield bytes(damaged)
    for _ in range(20):
        # A word that is an offset or a count somewhere becomes an extreme one.
        damaged = bytearray(data)
        start = 4 * int(rng.integers(2, size // 4))
        damaged[start : start + 4] = int(rng.choice([0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, size])).to_bytes(
            4, "little"
        )
        yield bytes(damaged)
    yield from (b"", b"<html>not found</html>", rng.bytes(size), data[:8] + rng.bytes(size - 8))


@pytest.mark.parametrize("kind", ["float32", "int8", "int16x8"])
def test_every_mutant_is_a_record_or_refused(kind):
    data = with_metadata(image(kind))
    records = 0
    for mutant in mutants(data, seed=11):
        try:
            record = inspect_file(mutant)
        except ModelFileError:
            continue
        records += 1
        assert sum(part.bytes for part in record.sizes) == len(mutant)
        assert InspectionRecord.from_json(record.to_json()) == record
    assert records > 20
