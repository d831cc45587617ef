"""Counter-based random numbers as graph nodes: Philox-2x32-10, one counter per element.

The element's index is the counter; the draw's number and the seed are kernel arguments, so that
every draw of one shape is the same kernel. The bits are the same on every device.
"""

from __future__ import annotations

import itertools
import os
from typing import Any

import numpy as np

from simplegrad import dtypes, ops
from simplegrad.arguments import integer
from simplegrad.dtypes import DType
from simplegrad.errors import DTypeError, ShapeError
from simplegrad.graph import build
from simplegrad.graph.infer import Shape, size_of
from simplegrad.graph.node import Node, Spec, make, scalar
from simplegrad.runtime import recording

_WORD = Spec.of((), dtypes.uint32)
_BITS = {"float16": 11, "bfloat16": 8, "float32": 24}
"""Random bits of a float in [0, 1): as many as its significand holds, so that none rounds to 1."""


class Bits:
    """A stream of random numbers as nodes; the same seed gives the same numbers everywhere."""

    def __init__(self, seed: int | None = None) -> None:
        self.seed(seed)

    def seed(self, seed: int | None = None) -> None:
        """Start again from `seed`; None takes one from the system."""
        if seed is not None:
            seed = integer("seed: the seed", seed)
        else:
            seed = int.from_bytes(os.urandom(8), "little")
        low, high = seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF
        # The high word only moves the key, so that small seeds are themselves.
        self._key = int(self._philox(high, 0, low)) if high else low
        self._draws = itertools.count()

    @staticmethod
    def _philox(counter: int, stream: int, key: int) -> int:
        assert ops.RANDOM_BITS.numpy is not None
        words = (np.asarray([w], np.uint32) for w in (counter, stream, key))
        return int(ops.RANDOM_BITS.numpy(*words)[0])

    def key(self) -> int:
        """Return a fresh 32-bit key on the host."""
        return self._philox(self._draw(), 0xFFFFFFFF, self._key)

    def _draw(self) -> int:
        return next(self._draws) & 0xFFFFFFFF

    def bits(self, shape: Shape, device: Any) -> Node:
        """Return uniform uint32 words."""
        size = size_of(shape)
        if size > 2**32:
            raise ShapeError(f"random: {shape} has more than 2**32 elements; draw it in parts")
        counter = build.iota(size, dtypes.uint32, device)
        stream = scalar(recording.number(self._draw), _WORD, device)
        key = scalar(recording.number(lambda: self._key), _WORD, device)
        return build.reshape(build.apply(ops.RANDOM_BITS, counter, stream, key), shape)

    def uniform(self, shape: Shape, dtype: DType, device: Any, open_below: bool = False) -> Node:
        """Return floats in [0, 1), or in (0, 1] if `open_below`.

        They have as many random bits as `dtype` holds; half floats come as float32.
        """
        if not dtype.is_float:
            raise DTypeError(f"random: {dtype} is not a floating dtype")
        if dtype is dtypes.float64:
            words = build.cast(self.bits(shape, device), dtypes.uint64)
            low = build.cast(self.bits(shape, device), dtypes.uint64)
            words = _op(ops.OR, _op(ops.SHIFT_LEFT, words, 32), low)
            count, width = 53, 64
        else:
            words = self.bits(shape, device)
            count, width = _BITS[dtype.name], 32
        words = _op(ops.SHIFT_RIGHT, words, width - count)
        if open_below:
            words = _op(ops.ADD, words, 1)
        wide = dtypes.float64 if dtype is dtypes.float64 else dtypes.float32
        return _op(ops.MUL, build.cast(words, wide), 2.0**-count)

    def normal(self, shape: Shape, dtype: DType, device: Any) -> Node:
        """Return normal floats by Box and Muller's transform; half floats come as float32."""
        if dtype.is_float and dtype.itemsize == 2:
            dtype = dtypes.float32
        first = self.uniform(shape, dtype, device, open_below=True)
        return make(ops.BOX_MULLER, (first, self.uniform(shape, dtype, device)))

    def permutation(self, size: int, device: Any) -> Node:
        """Return the numbers 0 … size-1 in random order, as int64."""
        if not 0 <= size < 2**32:
            raise ShapeError(f"permutation: {size} is not in 0 … 2**32 - 1")
        key = recording.number(self.key)
        words = (scalar(w, _WORD, device) for w in (size, key))
        index = build.iota(size, dtypes.uint32, device)
        return build.cast(build.apply(ops.PERMUTE_INDEX, index, *words), dtypes.int64)


def _op(op: ops.Op, x: Node, other: Any) -> Node:
    return build.apply(op, x, other if isinstance(other, Node) else build.number(other, x))


default = Bits()
"""The generator in use where none is given."""


def of(generator: Any) -> Bits:
    """Return the given generator, or the default one."""
    bits = default if generator is None else getattr(generator, "bits", None)
    if not isinstance(bits, Bits):
        raise DTypeError(f"random: {generator!r} is not a simplegrad.random.Generator")
    return bits
