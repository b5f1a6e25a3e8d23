"""Transform's graph applied to raw tf.Examples, for models whose signature takes transformed features.

Also decides whether it has to be applied: from what the examples hold and what the graph takes and gives. Imports
TensorFlow; modules that define pipelines do not import this one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tfx_mobile.errors import TFXMobileError
from tfx_mobile.records import TensorRecord

Array = npt.NDArray[Any]

#: What tf.Examples hold: by feature name the kinds (`float`, `int64`, `bytes`) and numbers of values that occur.
Stored = Mapping[str, frozenset[tuple[str, int]]]

_KINDS = {"float_list": "float", "int64_list": "int64", "bytes_list": "bytes"}


class CannotTransformError(TFXMobileError):
    """The transform graph or the raw examples do not give what a model takes; the caller knows the component."""


def stored_features(records: Iterable[bytes]) -> Stored:
    """What serialized tf.Examples hold; a feature without values counts as absent.

    Raises:
        CannotTransformError: A record is no tf.Example.
    """
    found: dict[str, set[tuple[str, int]]] = {}
    for record in records:
        try:
            features = tf.train.Example.FromString(record).features.feature
        except Exception as error:  # noqa: BLE001 - protobuf's own error type differs between its implementations
            raise CannotTransformError(f"A record is no tf.Example: {error}") from None
        for name, feature in features.items():
            kind = feature.WhichOneof("kind")
            count = len(getattr(feature, kind).value) if kind else 0
            if count:
                found.setdefault(name, set()).add((_KINDS[kind], count))
    return {name: frozenset(forms) for name, forms in sorted(found.items())}


def in_words(stored: Stored) -> str:
    """The features, such as `image float x 64, label int64 x 1`."""
    return (
        ", ".join(f"{name} {kind} x {count}" for name, forms in stored.items() for kind, count in sorted(forms))
        or "no features"
    )


@dataclass(frozen=True)
class Choice:
    """Where a model's inputs come from.

    Attributes:
        source: `examples`: features of the examples, by name. `transform_graph`: outputs of the transform graph.
        assumed: Whether the inputs are features of the raw examples too, under the same names and types, so that the
            transform graph is applied only because it was given.
    """

    source: Literal["examples", "transform_graph"]
    assumed: bool = False


class TransformGraph:
    """The output of a Transform step.

    Attributes:
        raw: Feature spec of the examples it takes.
        transformed: Feature spec of what it gives.
    """

    def __init__(self, uri: str, schema: str | None = None) -> None:
        """Reads the metadata; the graph itself is loaded when it is first applied.

        Args:
            uri: Folder of the TransformGraph artifact.
            schema: Path of the raw examples' schema as text proto; read only if the artifact has none of its own.

        Raises:
            CannotTransformError: The artifact is not complete.
        """
        # Imported here: it brings Beam and Keras 2 along, and few models need it.
        import tensorflow_transform as tft
        from tensorflow_transform.tf_metadata import schema_utils

        self._output = tft.TFTransformOutput(uri)
        try:
            self.transformed: Mapping[str, Any] = self._output.transformed_feature_spec()
        except (OSError, tf.errors.OpError, ValueError) as error:
            raise CannotTransformError(
                f"The transform graph {uri} has no readable transformed_metadata: {error}. Wire "
                "transform_graph=transform.outputs['transform_graph'] of a Transform that has run."
            ) from None
        try:
            self.raw: Mapping[str, Any] = self._output.raw_feature_spec()
        except (OSError, tf.errors.OpError, ValueError) as error:
            if schema is None:
                raise CannotTransformError(
                    f"The transform graph {uri} has no readable metadata of the raw examples: {error}. Pass "
                    "schema=schema_gen.outputs['schema'] too."
                ) from None
            self.raw = schema_utils.schema_as_feature_spec(_read_schema(schema)).feature_spec

    def choose(self, stored: Stored, inputs: Sequence[TensorRecord]) -> Choice:
        """Whether the graph has to be applied to examples so that a model on raw tensors can be fed.

        Inputs that are features of the examples but not outputs of the graph come from the examples, and the other
        way round. Where they are both, features that only raw or only transformed examples can have decide.

        Args:
            stored: What the examples hold.
            inputs: The model's inputs.

        Raises:
            CannotTransformError: The inputs are neither, or both and nothing tells raw from transformed examples.
        """
        not_stored = missing_inputs(stored, inputs)
        not_given = self._not_given(inputs)
        if not_given:
            if not_stored:
                raise CannotTransformError(
                    f"The model's inputs are neither in the examples as they are ({'; '.join(not_stored)}) nor in the "
                    f"transform graph's output ({'; '.join(not_given)}). The examples hold {in_words(stored)}; the "
                    f"transform graph gives {', '.join(sorted(self.transformed)) or 'nothing'}. Wire the "
                    "transform_graph and the examples that the model was trained with."
                )
            return Choice("examples")
        if not_stored:
            return Choice("transform_graph")
        raw, transformed = _as_stored(self.raw), _as_stored(self.transformed)
        explained_raw = {name for name, forms in stored.items() if _fits(forms, raw.get(name))}
        explained_transformed = {name for name, forms in stored.items() if _fits(forms, transformed.get(name))}
        if explained_transformed - explained_raw:
            return Choice("examples")
        if explained_raw - explained_transformed:
            return Choice("transform_graph", assumed=True)
        raise CannotTransformError(
            f"Raw and transformed examples cannot be told apart: both hold {in_words(stored)}. Leave transform_graph "
            "out if the examples are transformed or the signature takes raw features; else wire Transform's "
            "transformed_examples and leave it out, or give the transformed features names of their own in "
            "preprocessing_fn."
        )

    def _not_given(self, inputs: Sequence[TensorRecord]) -> list[str]:
        problems = []
        for tensor in inputs:
            feature = self.transformed.get(tensor.name)
            if feature is None:
                problems.append(f"there is no {tensor.name!r}")
            elif not isinstance(feature, tf.io.FixedLenFeature):
                problems.append(f"{tensor.name!r} is not dense")
            elif not _takes(tensor, _kind(feature.dtype.name), math.prod(feature.shape)):
                problems.append(f"{tensor.name!r} is {feature.dtype.name} {list(feature.shape)}")
        return problems

    def raw_features(self, stored: Stored) -> tuple[str, ...]:
        """The raw features to apply the graph to: all it takes, but for dense ones that no example has."""
        return tuple(
            name
            for name, feature in sorted(self.raw.items())
            if name in stored or not isinstance(feature, tf.io.FixedLenFeature) or feature.default_value is not None
        )

    def apply(self, records: Sequence[bytes], raw_features: Sequence[str]) -> dict[str, Array]:
        """The transformed features of raw examples.

        Args:
            records: Serialized tf.Examples.
            raw_features: Which raw features to take, from `raw_features`. Outputs that need others are left out.

        Returns:
            Arrays [rows, ...] by name; dense outputs only.

        Raises:
            CannotTransformError: The examples are not what the graph takes.
        """
        spec = {name: self.raw[name] for name in raw_features}
        try:
            parsed = tf.io.parse_example(tf.constant(list(records), tf.string), spec)
            transformed = self._output.transform_features_layer()(parsed)
        except (tf.errors.OpError, ValueError, TypeError) as error:
            raise CannotTransformError(
                f"The transform graph cannot be applied to the examples: {error}. Give the raw examples that Transform "
                "was given."
            ) from error
        return {name: value.numpy() for name, value in transformed.items() if isinstance(value, tf.Tensor)}


def missing_inputs(stored: Stored, inputs: Sequence[TensorRecord]) -> list[str]:
    """Which inputs are not features of the examples by name, kind and size, each with the reason in words."""
    problems = []
    for tensor in inputs:
        forms = stored.get(tensor.name)
        if forms is None:
            problems.append(f"there is no {tensor.name!r}")
        elif not any(_takes(tensor, kind, count) for kind, count in forms):
            problems.append(f"{tensor.name!r} is " + " or ".join(f"{kind} x {count}" for kind, count in sorted(forms)))
    return problems


def conform(values: Mapping[str, Array], inputs: Sequence[TensorRecord]) -> dict[str, Array]:
    """The transformed features that a model takes, in its shapes and types.

    Raises:
        CannotTransformError: The graph could not compute one of them.
    """
    result = {}
    for tensor in inputs:
        if tensor.name not in values:
            raise CannotTransformError(
                f"The transform graph gives no {tensor.name!r} for these examples: raw features it is computed from "
                f"are missing in all of them. It gives {', '.join(sorted(values)) or 'nothing'}. Give the raw examples "
                "that Transform was given."
            )
        array = values[tensor.name]
        if -1 not in tensor.shape[1:]:
            array = array.reshape(len(array), *tensor.shape[1:])
        result[tensor.name] = array.astype(object if tensor.dtype == "string" else tensor.dtype)
    return result


def _kind(dtype: str) -> str:
    """How a tf.Example holds values of a dtype."""
    if dtype == "string":
        return "bytes"
    return "float" if np.issubdtype(np.dtype(dtype), np.floating) else "int64"


def _takes(tensor: TensorRecord, kind: str, count: int) -> bool:
    sizes = tensor.shape[1:]
    return kind == _kind(tensor.dtype) and (-1 in sizes or math.prod(sizes) == count)


def _as_stored(spec: Mapping[str, Any]) -> dict[str, tuple[str, int | None]]:
    """The features of tf.Examples that a feature spec reads: kind, and number of values where it is fixed."""
    stored: dict[str, tuple[str, int | None]] = {}
    for name, feature in spec.items():
        kind = _kind(feature.dtype.name)
        if isinstance(feature, tf.io.FixedLenFeature):
            stored[name] = kind, math.prod(feature.shape)
        elif isinstance(feature, tf.io.SparseFeature):
            keys = [feature.index_key] if isinstance(feature.index_key, str) else feature.index_key
            stored.update({key: ("int64", None) for key in keys})
            stored[feature.value_key] = kind, None
        elif isinstance(feature, tf.io.RaggedFeature):
            stored.update({part.key: ("int64", None) for part in feature.partitions if hasattr(part, "key")})
            stored[feature.value_key or name] = kind, None
        else:
            stored[name] = kind, None
    return stored


def _fits(forms: frozenset[tuple[str, int]], read: tuple[str, int | None] | None) -> bool:
    return read is not None and all(kind == read[0] and read[1] in (None, count) for kind, count in forms)


def _read_schema(path: str) -> Any:
    from google.protobuf import text_format
    from tensorflow_metadata.proto.v0 import schema_pb2

    with tf.io.gfile.GFile(path) as stream:
        return text_format.Parse(stream.read(), schema_pb2.Schema())
