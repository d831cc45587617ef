"""Random arrays from a counter-based generator on the device.

Element i of draw d with seed s is Philox-2x32-10(i, d, s): nothing is stored, nothing depends on
the device, the number of threads or the order of reading, and a draw costs nothing until it is
read. Float arrays track gradients unless `requires_grad` is False.

>>> from simplegrad import random
>>> random.Generator(0).uniform(3).shape
(3,)
"""

from __future__ import annotations

from typing import Any

from simplegrad import dtypes, ops
from simplegrad.arguments import integer, real
from simplegrad.dtypes import DType
from simplegrad.errors import DTypeError, ShapeError
from simplegrad.graph import build
from simplegrad.graph.node import Node
from simplegrad.tensor.core import as_tensor, become_leaf, find_device, lift, number_node, wrap
from simplegrad.tensor.generator import Bits, default
from simplegrad.tensor.shapes import extents_of
from simplegrad.tensor.tensor import Tensor


def _float(dtype: Any) -> DType:
    return dtypes.default_float() if dtype is None else dtypes.of(dtype)


def _number(op: ops.Op, x: Node, value: Any) -> Node:
    """Return ``op(x, value)``, the user's number being a kernel argument."""
    return build.apply(op, x, number_node("random", value, x.dtype, x.device))


class Generator:
    """A stream of random arrays; the same seed gives the same numbers on every device."""

    def __init__(self, seed: int | None = None) -> None:
        self.bits = Bits(seed)

    def seed(self, seed: int | None = None) -> None:
        """Start again from `seed`; None takes one from the system."""
        self.bits.seed(seed)

    def uniform(
        self,
        shape: Any = (),
        low: float = 0.0,
        high: float = 1.0,
        dtype: Any = None,
        device: Any = None,
        requires_grad: bool | None = None,
    ) -> Tensor:
        """Return floats evenly spread over ``low … high``, `high` left out but for rounding."""
        shape = extents_of("uniform", shape)
        low, high = real("uniform: low", low), real("uniform: high", high)
        dtype = _float(dtype)
        node = self.bits.uniform(shape, dtype, find_device(device))
        return _leaf(build.cast(_scaled(node, high - low, low), dtype), requires_grad)

    def normal(
        self,
        shape: Any = (),
        mean: float = 0.0,
        std: float = 1.0,
        dtype: Any = None,
        device: Any = None,
        requires_grad: bool | None = None,
    ) -> Tensor:
        """Return normally distributed floats (Box and Muller's transform)."""
        mean, std = real("normal: mean", mean), real("normal: std", std, 0)
        shape = extents_of("normal", shape)
        dtype = _float(dtype)
        node = self.bits.normal(shape, dtype, find_device(device))
        return _leaf(build.cast(_scaled(node, std, mean), dtype), requires_grad)

    def integers(
        self,
        low: int,
        high: int | None = None,
        shape: Any = (),
        dtype: Any = None,
        device: Any = None,
    ) -> Tensor:
        """Return integers from `low` (0 if only one is given) to before `high`.

        Ranges of up to 2**32 numbers; each comes up equally often to within 2**-32 of the range.
        """
        low, high = (0, low) if high is None else (low, high)
        low, high = integer("integers: low", low), integer("integers: high", high)
        if not 0 < high - low <= 2**32:
            raise ShapeError(f"integers: {low} … {high} does not hold 1 to 2**32 numbers")
        dtype = dtypes.default_int if dtype is None else dtypes.of(dtype)
        if dtype.kind not in "ui" or low < dtype.low or high - 1 > dtype.high:
            raise DTypeError(f"integers: {low} … {high - 1} does not fit {dtype}")
        shape = extents_of("integers", shape)
        words = build.cast(self.bits.bits(shape, find_device(device)), dtypes.uint64)
        # The high word of a 32 by 32 bit product: Lemire, "Fast random integer generation", 2019.
        product = _number(ops.MUL, words, high - low)
        above = build.apply(ops.SHIFT_RIGHT, product, build.number(32, product))
        node = _number(ops.ADD, build.cast(above, dtypes.int64), low) if low else above
        return _leaf(build.cast(node, dtype), None)

    def bernoulli(self, p: float = 0.5, shape: Any = (), device: Any = None) -> Tensor:
        """Return bools that are true with probability `p`."""
        shape, p = extents_of("bernoulli", shape), real("bernoulli: p", p, 0, 1)
        node = self.bits.uniform(shape, dtypes.float32, find_device(device))
        return _leaf(_number(ops.LESS, node, float(p)), None)

    def permutation(self, x: Any, device: Any = None) -> Tensor:
        """Return the numbers 0 … x-1, or the rows of an array, in random order."""
        if hasattr(x, "__index__") and not getattr(x, "shape", ()):
            x = integer("permutation: x", x, 0)
            return _leaf(self.bits.permutation(x, find_device(device)), None)
        x = as_tensor(x)
        if not x.shape:
            raise ShapeError("permutation: a zero-dimensional float has no rows")
        order = self.bits.permutation(x.shape[0], x.device)
        return lift(build.take(x._node, order, 0), x._node)


def _leaf(node: Node, requires_grad: bool | None) -> Tensor:
    return become_leaf(wrap(node), requires_grad)  # type: ignore[no-any-return]


def _scaled(node: Node, scale: float, shift: float) -> Node:
    if scale != 1:
        node = _number(ops.MUL, node, float(scale))
    return _number(ops.ADD, node, float(shift)) if shift != 0 else node


default_generator = Generator()
default_generator.bits = default
seed = default_generator.seed
uniform = default_generator.uniform
normal = default_generator.normal
integers = default_generator.integers
bernoulli = default_generator.bernoulli
permutation = default_generator.permutation
