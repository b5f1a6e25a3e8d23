"""Weights of the Poisson bootstrap, which draws each example of each replicate Poisson(1) times.

An example's weights are a function of its bytes alone. So every model is measured on the same draws, and the numbers
depend neither on the order of the examples nor on how they are spread over bundles and workers. Equal examples are
drawn together, like the one observation that they are.
Source: Chamandy et al., Estimating Uncertainty for Massive Data Streams, Google, 2012.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

REPLICATES = 1000
_GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_DRAWS = 1 << 16


def hashes(examples: Iterable[bytes]) -> npt.NDArray[np.uint64]:
    """A 64-bit hash of each serialized example, uint64 [examples]."""
    digests = b"".join(hashlib.blake2b(example, digest_size=8).digest() for example in examples)
    return np.frombuffer(digests, "<u8").astype(np.uint64)


def poisson_weights(example_hashes: npt.NDArray[np.uint64], replicates: int) -> npt.NDArray[np.uint8]:
    """How often each replicate draws each example, uint8 [examples, replicates].

    Each word of a SplitMix64 stream seeded with the example's hash gives four draws of 16 bits.
    """
    with np.errstate(over="ignore"):
        counters = np.arange(1, -(-replicates // 4) + 1, dtype=np.uint64) * _GOLDEN_GAMMA
        words = example_hashes[:, None] + counters
        words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        words ^= words >> np.uint64(31)
    draws = words.astype("<u8", copy=False).view("<u2")[:, :replicates]
    weights: npt.NDArray[np.uint8] = _POISSON[draws]
    return weights


def _poisson_table() -> npt.NDArray[Any]:
    """The Poisson(1) value of each of the 2^16 equally likely draws."""
    cumulated, total, value = [], 0.0, 0
    while total * _DRAWS < _DRAWS - 0.5:
        total += math.exp(-1) / math.factorial(value)
        cumulated.append(total)
        value += 1
    return np.searchsorted(cumulated, (np.arange(_DRAWS) + 0.5) / _DRAWS).astype(np.uint8)


_POISSON = _poisson_table()
