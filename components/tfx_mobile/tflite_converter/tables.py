"""Lookup tables of a frozen graph, rebuilt from what `.tflite` files have.

TensorFlow Lite has hash tables from string to int64 and back. Every other table with string keys becomes a hash table
of positions and a GATHER, one with integer keys a comparison with all keys and a GATHER. A table's size is a
constant.

Runs in the child process only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tfx_mobile.errors import SignatureError
from tfx_mobile.tflite_converter import graphs

Array = npt.NDArray[Any]

# A comparison with all keys costs this many bytes of memory and steps per looked-up value; vocabularies of integers
# beyond it are not for phones.
_MAX_COMPARED = 10_000

_BUILTIN = ((tf.string, tf.int64), (tf.int64, tf.string))
_ADVICE = (
    "Look values up only through tf.lookup.StaticHashTable, tf.lookup.StaticVocabularyTable, Keras's StringLookup or "
    "IntegerLookup or Transform's vocabularies in run_fn and preprocessing_fn"
)


@dataclass(frozen=True)
class Table:
    """A lookup table's content, sorted by key.

    Attributes:
        keys: [size], bytes or integers.
        values: [size].
        hashed: What the `.tflite` file's hash table holds: dtypes of key and value, values [size]; None if it needs
            none.
    """

    keys: Array
    values: Array
    hashed: tuple[Any, Any, Array] | None

    def make(self) -> tuple[Any, Any]:
        """The hash table and the op that fills it, in the default graph."""
        assert self.hashed is not None  # noqa: S101 (only called for tables that some op still reads)
        key_dtype, value_dtype, values = self.hashed
        # The name is the table's identity: tables of equal content may share one.
        content = hashlib.sha256(repr((key_dtype, value_dtype, self.keys.tolist(), values.tolist())).encode())
        handle = tf.raw_ops.HashTableV2(
            key_dtype=key_dtype, value_dtype=value_dtype, shared_name=f"table_{content.hexdigest()[:16]}"
        )
        return handle, tf.raw_ops.LookupTableImportV2(
            table_handle=handle, keys=tf.constant(self.keys, key_dtype), values=tf.constant(values, value_dtype)
        )


def rebuild(graph_def: Any, ops: Mapping[str, Any], handles: Mapping[str, Any], signature: str) -> dict[str, Table]:
    """Replaces lookups by what `.tflite` files have, in place.

    Args:
        graph_def: The nodes that are kept of the frozen graph; changed.
        ops: The frozen graph's ops by name.
        handles: The tables' resource handles by the name of the placeholder that stands for them.
        signature: The signature's name, for messages.

    Returns:
        The tables that are looked up in, by placeholder; a placeholder that nothing reads any more needs no hash table.

    Raises:
        SignatureError: A resource is no lookup table, is used otherwise than for looking up, or has too many keys.
    """
    found: dict[str, Table] = {}
    for node in list(graph_def.node):
        op = ops.get(node.name)
        if op is None or op.type == "Identity":
            continue
        for resource in (graphs.origin(tensor) for tensor in op.inputs if tensor.dtype == tf.resource):
            placeholder = resource.op.name
            if op.type not in ("LookupTableFindV2", "LookupTableSizeV2") or placeholder not in handles:
                raise SignatureError(
                    f"Signature {signature!r} uses a resource in {op.type} ({op.name}) that is neither a variable nor "
                    f"a table that is only looked up in; a .tflite cannot hold it. {_ADVICE}."
                )
            if op.type == "LookupTableSizeV2":
                handle = handles[placeholder]
                size = tf.raw_ops.LookupTableSizeV2(table_handle=handle).numpy()
                graphs.replace(graph_def, node, [], lambda size=size: tf.constant(size, tf.int64))
                continue
            key_dtype, value_dtype = op.get_attr("Tin"), op.get_attr("Tout")
            if placeholder not in found:
                found[placeholder] = _export(handles[placeholder], key_dtype, value_dtype, op.name, signature)
            lookup = _lookup(found[placeholder], key_dtype, value_dtype)
            graphs.replace(graph_def, node, op.inputs, lookup)
    return found


def _export(handle: Any, key_dtype: Any, value_dtype: Any, name: str, signature: str) -> Table:
    exported = tf.raw_ops.LookupTableExportV2(table_handle=handle, Tkeys=key_dtype, Tvalues=value_dtype)
    keys, values = exported.keys.numpy(), exported.values.numpy()
    if values.ndim != 1:
        raise SignatureError(
            f"Signature {signature!r} looks up vectors in a table ({name}); a .tflite's tables hold single values. "
            "Look up an index and gather the vectors by it, as with a Keras Embedding."
        )
    order = np.argsort(keys, kind="stable")
    keys, values = keys[order], values[order]
    if (key_dtype, value_dtype) in _BUILTIN:
        return Table(keys, values, (key_dtype, value_dtype, values))
    if key_dtype == tf.string:
        return Table(keys, values, (tf.string, tf.int64, np.arange(len(keys))))
    if len(keys) > _MAX_COMPARED:
        raise SignatureError(
            f"Signature {signature!r} looks up {key_dtype.name} keys in a table of {len(keys)} entries ({name}). "
            f"TensorFlow Lite's hash tables go from string to int64 and back, and without them the limit is "
            f"{_MAX_COMPARED} entries. Use a smaller vocabulary or string keys in run_fn or preprocessing_fn."
        )
    return Table(keys, values, None)


def _lookup(table: Table, key_dtype: Any, value_dtype: Any) -> Callable[[Any, Any, Any], Any]:
    """Looks keys of any shape up: a function of table handle, keys and default."""

    def find(handle: Any, keys: Any, default: Any) -> Any:
        values = tf.raw_ops.LookupTableFindV2(table_handle=handle, keys=keys, default_value=default)
        # To TensorFlow the shape of a lookup's result is unknown, and the converter makes such tensors scalars: the
        # file does not load with a batch size of 1.
        return tf.reshape(values, tf.shape(keys))

    def gather(position: Any, known: Any, default: Any) -> Any:
        first = tf.constant(0, position.dtype)
        return tf.where(
            known, tf.gather(tf.constant(table.values, value_dtype), tf.where(known, position, first)), default
        )

    def by_position(handle: Any, keys: Any, default: Any) -> Any:
        position = find(handle, keys, tf.constant(-1, tf.int64))
        return gather(position, position >= 0, default)

    def by_comparison(_: Any, keys: Any, default: Any) -> Any:
        equal = tf.cast(tf.equal(tf.expand_dims(keys, -1), tf.constant(table.keys, key_dtype)), tf.int32)
        return gather(tf.argmax(equal, axis=-1, output_type=tf.int32), tf.reduce_max(equal, axis=-1) > 0, default)

    if not len(table.keys):
        return lambda _, keys, default: tf.fill(tf.shape(keys), default)
    if (key_dtype, value_dtype) in _BUILTIN:
        return find
    return by_position if key_dtype == tf.string else by_comparison
