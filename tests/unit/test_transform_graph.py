"""Raw or transformed: where the inputs of a model come from, on a real Transform output."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.fakes import models
from tfx_mobile.records import TensorRecord
from tfx_mobile.transform_graph import CannotTransformError, Choice, TransformGraph, conform, in_words, stored_features

ROWS = models.rows(6, seed=3)
RAW = [models.serialize(row) for row in ROWS]
TRANSFORMED = [
    models.serialize({"image": z, "image_xf": z, "label": row["label"], "camera_length": 5})
    for row, z in zip(ROWS, models.scaled(models.images(ROWS)), strict=True)
]
IMAGE = TensorRecord(name="image", dtype="float32", shape=(-1, 16))
IMAGE_XF = TensorRecord(name="image_xf", dtype="float32", shape=(-1, 4, 4))


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> TransformGraph:
    return TransformGraph(str(models.transform_graph(tmp_path_factory)))


def _with_camera(records: list[bytes]) -> list[bytes]:
    # Protocol buffers merge when they are concatenated.
    return [record + models.serialize({"camera": "front"}) for record in records]


@pytest.mark.parametrize(
    ("records", "tensor", "choice"),
    [
        # An output of the graph that raw examples do not have.
        (RAW, IMAGE_XF, Choice("transform_graph")),
        # Transformed examples are used as they are, though the graph is given.
        (TRANSFORMED, IMAGE_XF, Choice("examples")),
        (TRANSFORMED, IMAGE, Choice("examples")),
        # Raw features that Transform passed through beside its own.
        (_with_camera(TRANSFORMED), IMAGE_XF, Choice("examples")),
        # A signature on a feature that only raw examples have.
        (_with_camera(RAW), TensorRecord(name="camera", dtype="string", shape=(-1, 1)), Choice("examples")),
        # Under one name in both: the examples are raw, as they have a feature that the graph does not give.
        (_with_camera(RAW), IMAGE, Choice("transform_graph", assumed=True)),
    ],
)
def test_choice(graph: TransformGraph, records: list[bytes], tensor: TensorRecord, choice: Choice) -> None:
    assert graph.choose(stored_features(records), [tensor]) == choice


def test_no_choice(graph: TransformGraph) -> None:
    with pytest.raises(
        CannotTransformError, match=r"cannot be told apart: both hold image float x 16.*Leave transform_"
    ):
        graph.choose(stored_features(RAW), [IMAGE])
    other = TensorRecord(name="picture", dtype="float32", shape=(-1, 16))
    wide = TensorRecord(name="image_xf", dtype="float32", shape=(-1, 17))
    integer = TensorRecord(name="image_xf", dtype="int32", shape=(-1, 16))
    for tensor, stored, given in [
        (other, "there is no 'picture'", "there is no 'picture'"),
        (wide, "there is no 'image_xf'", r"'image_xf' is float32 \[16\]"),
        (integer, "there is no 'image_xf'", r"'image_xf' is float32 \[16\]"),
    ]:
        with pytest.raises(
            CannotTransformError, match=rf"as they are \({stored}\) nor .*output \({given}\).*gives camera_"
        ):
            graph.choose(stored_features(RAW), [IMAGE, tensor])
    with pytest.raises(CannotTransformError, match=r"'image' is float x 16"):
        graph.choose(stored_features(RAW), [IMAGE.model_copy(update={"dtype": "int64"})])


@pytest.mark.parametrize(
    "records", [RAW, _with_camera(RAW), [models.serialize({"image": row["image"]}) for row in ROWS]]
)
def test_apply(graph: TransformGraph, records: list[bytes]) -> None:
    """Also without the label, which no input needs."""
    values = graph.apply(records, graph.raw_features(stored_features(records)))
    (name, array), *rest = conform(values, [IMAGE_XF]).items()
    assert (name, rest, array.dtype) == ("image_xf", [], np.float32)
    np.testing.assert_allclose(array, models.scaled(models.images(ROWS)).reshape(6, 4, 4), atol=1e-5)
    assert ("label" in values) == ("label" in stored_features(records))


def test_apply_to_examples_it_does_not_fit(graph: TransformGraph) -> None:
    without = [models.serialize({"label": 1})]
    values = graph.apply(without, graph.raw_features(stored_features(without)))
    with pytest.raises(
        CannotTransformError, match=r"gives no 'image_xf' for these examples: raw features .*gives camera"
    ):
        conform(values, [IMAGE_XF])
    small = [models.serialize({"image": np.zeros(3), "label": 1})]
    with pytest.raises(CannotTransformError, match=r"cannot be applied to the examples: .*image.*raw examples"):
        graph.apply(small, graph.raw_features(stored_features(small)))


def test_schema_stands_in_for_missing_metadata(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    whole = models.transform_graph(tmp_path_factory)
    shutil.copytree(whole, tmp_path / "graph")
    shutil.rmtree(tmp_path / "graph" / "metadata")
    with pytest.raises(CannotTransformError, match=r"no readable metadata of the raw examples.*schema=schema_gen"):
        TransformGraph(str(tmp_path / "graph"))
    graph = TransformGraph(str(tmp_path / "graph"), str(whole / "metadata" / "schema.pbtxt"))
    assert set(graph.raw) == {"image", "label", "camera"}
    values = graph.apply(RAW, graph.raw_features(stored_features(RAW)))
    np.testing.assert_allclose(values["image_xf"], models.scaled(models.images(ROWS)), atol=1e-5)
    with pytest.raises(CannotTransformError, match=r"no readable transformed_metadata.*transform\.outputs"):
        TransformGraph(str(tmp_path))


def test_features_in_words() -> None:
    records: list[bytes] = [models.serialize({"b": [1, 2]}), models.serialize({"b": [1.0], "a": "x", "c": []})]
    assert in_words(stored_features(records)) == "a bytes x 1, b float x 1, b int64 x 2"
    assert in_words(stored_features([b""])) == "no features"
    with pytest.raises(CannotTransformError, match=r"no tf\.Example"):
        stored_features([b"\xff\xff"])


def test_every_kind_of_feature_spec_is_understood() -> None:
    import tensorflow as tf

    from tfx_mobile.transform_graph import _as_stored

    spec: dict[str, Any] = {
        "dense": tf.io.FixedLenFeature([2, 3], tf.string),
        "open": tf.io.VarLenFeature(tf.int64),
        "sparse": tf.io.SparseFeature(["row", "column"], "value", tf.float32, [4, 4]),
        "ragged": tf.io.RaggedFeature(tf.int64, "flat", [tf.io.RaggedFeature.RowLengths("lengths")]),  # type: ignore[attr-defined]
    }
    assert _as_stored(spec) == {
        "dense": ("bytes", 6),
        "open": ("int64", None),
        "row": ("int64", None),
        "column": ("int64", None),
        "value": ("float", None),
        "flat": ("int64", None),
        "lengths": ("int64", None),
    }
