"""A device made of twelve crude operations: a user's own class, assigned to ``Tensor.device``.

The class (or object) provides, over arrays of its own kind that broadcast as NumPy's do::

    exp(x)  log(x)  add(a, b)  mul(a, b)  pow(a, b)  equal(a, b)  greater_equal(a, b)
    sum(x, axis)  max(x, axis)  argmax(x, axis)      axis: an int or a tuple; the axes leave
    einsum(subscripts, *operands)                    explicit output, letters a to z
    as_strided(x, shape, strides)                    strides in elements of x in row-major order

Comparisons give 0 and 1. Optional: ``array(numpy_array)`` takes host data, ``numpy(x)`` gives it
back (both default to `numpy.asarray`). Every operation of the graph is lowered to the twelve; one
that cannot be is `UnsupportedOp`. Selections are products with 0 and 1, so an inf or NaN that is
not selected still gives NaN; integers and bools are kept as floats.
"""

from __future__ import annotations

import math
import string
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from simplegrad import ops
from simplegrad.dtypes import DType
from simplegrad.errors import UnsupportedOp
from simplegrad.graph.infer import size_of
from simplegrad.graph.node import Node, const_value
from simplegrad.ops import Op

OPERATIONS = (
    "exp", "log", "sum", "max", "argmax", "equal", "greater_equal", "add", "mul", "pow", "einsum",
    "as_strided",
)  # fmt: skip


class CrudeDevice:
    """Runs graphs, operation by operation, on an object with the twelve operations."""

    kind = "crude"

    def __init__(self, protocol: Any) -> None:
        self.protocol = protocol
        own = protocol if isinstance(protocol, type) else type(protocol)
        self.name = self.identity = f"crude:{own.__name__}"

    def evaluate(self, order: Sequence[Node], targets: Sequence[Node]) -> None:
        """Compute `targets` and the held nodes of a topological order; set their `buffer`."""
        wanted = set(targets)
        values: dict[Node, Any] = {}
        with np.errstate(all="ignore"):
            for node in order:
                if node.buffer is None:
                    values[node] = self._compute(node, [values[s] for s in node.srcs])
                    if node in wanted or (node.holders and node.srcs):
                        node.buffer = values[node]
                else:
                    values[node] = node.buffer

    def from_host(self, array: Any, dtype: DType) -> Any:
        """Return the protocol's array of host data; numbers of any dtype become floats."""
        host = np.array(array, np.float64 if dtype.name == "float64" else np.float32)
        return getattr(self.protocol, "array", np.asarray)(host)

    def to_host(self, buffer: Any, dtype: DType, shape: tuple[int, ...]) -> Any:
        """Return a NumPy copy of a buffer in `dtype`."""
        host = getattr(self.protocol, "numpy", np.asarray)(buffer)
        return np.array(host).astype(dtype.numpy).reshape(shape)

    def synchronize(self) -> None:
        """Do nothing: the protocol's operations are done when they return."""

    def memory_stats(self) -> dict[str, int]:
        """Return zeros: the protocol's memory is its own."""
        return {"in_use_bytes": 0, "held_bytes": 0, "peak_bytes": 0}

    # The twelve, and what is made of them --------------------------------------------------------

    def call(self, name: str, *args: Any) -> Any:
        """Call one of the twelve operations."""
        function = getattr(self.protocol, name, None)
        if function is None:
            missing = [o for o in OPERATIONS if not hasattr(self.protocol, o)]
            raise UnsupportedOp(
                f"{name}: {self.name} has no such operation; it lacks {', '.join(missing)}: define "
                "them, or compute on another device"
            )
        return function(*args)

    def number(self, value: float) -> Any:
        """Return a zero-dimensional array."""
        return getattr(self.protocol, "array", np.asarray)(np.array(value, np.float32))

    def add(self, a: Any, b: Any) -> Any:
        """Return a + b; a float becomes an array."""
        return self.call("add", a, self.number(b) if isinstance(b, float) else b)

    def mul(self, a: Any, b: Any) -> Any:
        """Return a · b; a float becomes an array."""
        return self.call("mul", a, self.number(b) if isinstance(b, float) else b)

    def pow(self, a: Any, b: Any) -> Any:
        """Return a to the power b; a float becomes an array."""
        return self.call("pow", a, self.number(b) if isinstance(b, float) else b)

    def neg(self, a: Any) -> Any:
        """Return -a."""
        return self.mul(a, -1.0)

    def at_least(self, a: Any, b: Any) -> Any:
        """Return a >= b as 0 or 1; a float becomes an array."""
        return self.call("greater_equal", a, self.number(b) if isinstance(b, float) else b)

    def flip(self, mask: Any) -> Any:
        """Return 1 - mask."""
        return self.add(self.neg(mask), 1.0)

    def choose(self, mask: Any, a: Any, b: Any) -> Any:
        """Return a where the mask is 1, b where it is 0."""
        return self.add(self.mul(mask, a), self.mul(self.flip(mask), b))

    def select(self, x: Any, axis: int, rank: int, matrix: Any) -> Any:
        """Return x with one axis multiplied by a host matrix (rows, columns)."""
        letters = list(string.ascii_lowercase[:rank])
        before = "".join(letters)
        letters[axis] = "z"
        subscripts = f"z{string.ascii_lowercase[axis]},{before}->{''.join(letters)}"
        host = getattr(self.protocol, "array", np.asarray)(np.asarray(matrix, np.float32))
        return self.call("einsum", subscripts, host, x)

    def _compute(self, node: Node, srcs: list[Any]) -> Any:
        rule = _RULES.get(node.op)
        if rule is None:
            raise UnsupportedOp(
                f"{node.op}: cannot be made of the twelve operations of {self.name} "
                f"({node.where}); use the numpy or an OpenCL device"
            )
        return rule(self, node, srcs)


Rule = Callable[[CrudeDevice, Node, "list[Any]"], Any]


def _leaf(d: CrudeDevice, node: Node, s: list[Any]) -> Any:
    if node.op is ops.IOTA:
        return d.from_host(np.arange(node.arg), node.dtype)
    value = node.value if node.op is ops.SCALAR else const_value(node)
    return d.number(float(value))


def _row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(size_of(shape[a + 1 :]) for a in range(len(shape)))


def _reshape(d: CrudeDevice, node: Node, s: list[Any]) -> Any:
    return d.call("as_strided", s[0], node.shape, _row_major(node.shape))


def _permute(d: CrudeDevice, node: Node, s: list[Any]) -> Any:
    strides = _row_major(node.srcs[0].shape)
    return d.call("as_strided", s[0], node.shape, tuple(strides[a] for a in node.arg))


def _expand(d: CrudeDevice, node: Node, s: list[Any]) -> Any:
    source = node.srcs[0].shape
    pairs = zip(source, node.shape, _row_major(source), strict=True)
    strides = tuple(0 if n == 1 != m else stride for n, m, stride in pairs)
    return d.call("as_strided", s[0], node.shape, strides)


def _slice(d: CrudeDevice, node: Node, s: list[Any]) -> Any:
    x, source = s[0], node.srcs[0].shape
    for axis, (start, extent, step) in enumerate(node.arg):
        if (start, extent, step) != (0, source[axis], 1):
            matrix = np.zeros((extent, source[axis]))
            matrix[np.arange(extent), start + step * np.arange(extent)] = 1
            x = d.select(x, axis, len(source), matrix)
    return x


def _pad(d: CrudeDevice, node: Node, s: list[Any]) -> Any:
    x, source = s[0], node.srcs[0].shape
    widths, fill = node.arg
    inside = np.ones(node.shape)
    for axis, (before, after, between) in enumerate(widths):
        if before or after or between:
            matrix = np.zeros((node.shape[axis], source[axis]))
            rows = before + (between + 1) * np.arange(source[axis])
            matrix[rows, np.arange(source[axis])] = 1
            x = d.select(x, axis, len(source), matrix)
            shape = [-1 if a == axis else 1 for a in range(len(source))]
            inside = inside * matrix.any(axis=1).reshape(shape)
    value = float(fill) if fill not in ("True", "False") else float(fill == "True")
    return d.add(x, d.from_host((1 - inside) * value, node.dtype)) if value else x


def _as_strided(d: CrudeDevice, node: Node, s: list[Any]) -> Any:
    shape, strides, offset = node.arg
    x = s[0]
    if offset:
        n = node.srcs[0].size
        flat = d.call("as_strided", x, (n,), (1,))
        x = d.select(flat, 0, 1, np.eye(n, k=offset))
    return d.call("as_strided", x, shape, strides)


def _einsum(d: CrudeDevice, node: Node, s: list[Any]) -> Any:
    letters: dict[int, str] = {}
    words = [
        "".join(letters.setdefault(i, string.ascii_lowercase[len(letters)]) for i in part)
        for part in node.arg
    ]
    return d.call("einsum", f"{','.join(words[:-1])}->{words[-1]}", *s)


def _tanh(d: CrudeDevice, node: Node, s: list[Any]) -> Any:
    """tanh x = 1 - 2 / (exp 2x + 1): exact at both ends."""
    below = d.add(d.call("exp", d.mul(s[0], 2.0)), 1.0)
    return d.add(d.mul(d.pow(below, -1.0), -2.0), 1.0)


_RULES: dict[Op, Rule] = {
    ops.SCALAR: _leaf,
    ops.CONST: _leaf,
    ops.IOTA: _leaf,
    ops.RESHAPE: _reshape,
    ops.PERMUTE: _permute,
    ops.EXPAND: _expand,
    ops.SLICE: _slice,
    ops.PAD: _pad,
    ops.AS_STRIDED: _as_strided,
    ops.EINSUM: _einsum,
    ops.TANH: _tanh,
    ops.EXP: lambda d, n, s: d.call("exp", s[0]),
    ops.EXP2: lambda d, n, s: d.call("exp", d.mul(s[0], math.log(2))),
    ops.EXPM1: lambda d, n, s: d.add(d.call("exp", s[0]), -1.0),
    ops.LOG: lambda d, n, s: d.call("log", s[0]),
    ops.LOG2: lambda d, n, s: d.mul(d.call("log", s[0]), 1 / math.log(2)),
    ops.LOG1P: lambda d, n, s: d.call("log", d.add(s[0], 1.0)),
    ops.SQRT: lambda d, n, s: d.pow(s[0], 0.5),
    ops.RSQRT: lambda d, n, s: d.pow(s[0], -0.5),
    ops.RECIPROCAL: lambda d, n, s: d.pow(s[0], -1.0),
    ops.NEG: lambda d, n, s: d.neg(s[0]),
    ops.ABS: lambda d, n, s: d.mul(s[0], d.add(d.mul(d.at_least(s[0], 0.0), 2.0), -1.0)),
    ops.SIGN: lambda d, n, s: d.add(d.at_least(s[0], 0.0), d.neg(d.at_least(d.neg(s[0]), 0.0))),
    ops.ADD: lambda d, n, s: d.add(*s),
    ops.MUL: lambda d, n, s: d.mul(*s),
    ops.SUB: lambda d, n, s: d.add(s[0], d.neg(s[1])),
    ops.DIV: lambda d, n, s: d.mul(s[0], d.pow(s[1], -1.0)),
    ops.POW: lambda d, n, s: d.pow(*s),
    ops.MAXIMUM: lambda d, n, s: d.choose(d.at_least(*s), s[0], s[1]),
    ops.MINIMUM: lambda d, n, s: d.choose(d.at_least(*s), s[1], s[0]),
    ops.EQUAL: lambda d, n, s: d.call("equal", *s),
    ops.NOT_EQUAL: lambda d, n, s: d.flip(d.call("equal", *s)),
    ops.GREATER_EQUAL: lambda d, n, s: d.at_least(*s),
    ops.LESS_EQUAL: lambda d, n, s: d.at_least(s[1], s[0]),
    ops.LESS: lambda d, n, s: d.flip(d.at_least(*s)),
    ops.GREATER: lambda d, n, s: d.flip(d.at_least(s[1], s[0])),
    ops.AND: lambda d, n, s: d.mul(*s),
    ops.OR: lambda d, n, s: d.at_least(d.add(*s), 1.0),
    ops.XOR: lambda d, n, s: d.flip(d.call("equal", *s)),
    ops.INVERT: lambda d, n, s: d.flip(s[0]),
    ops.WHERE: lambda d, n, s: d.choose(*s),
    ops.CAST: lambda d, n, s: (
        d.flip(d.call("equal", s[0], d.number(0.0))) if n.arg.kind == "b" else s[0]
    ),
    ops.SUM: lambda d, n, s: d.call("sum", s[0], n.arg),
    ops.MAX: lambda d, n, s: d.call("max", s[0], n.arg),
    ops.MIN: lambda d, n, s: d.neg(d.call("max", d.neg(s[0]), n.arg)),
    ops.ARGMAX: lambda d, n, s: d.call("argmax", s[0], *n.arg),
    ops.ARGMIN: lambda d, n, s: d.call("argmax", d.neg(s[0]), *n.arg),
}
