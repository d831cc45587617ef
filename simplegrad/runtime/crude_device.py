"""A device made of twelve crude operations: a user's own class, assigned to ``Tensor.device``.

The class (or object) provides, over arrays of its own kind that broadcast as NumPy's do::

    exp(x)  log(x)  add(a, b)  mul(a, b)  pow(a, b)  equal(a, b)  greater_equal(a, b)
    sum(x, axis)  max(x, axis)  argmax(x, axis)      axis: an int or a tuple; the axes leave
    einsum(subscripts, *operands)                    explicit output, letters a to z
    as_strided(x, shape, strides)                    strides in elements of x in row-major order

Comparisons give 0 and 1, or bools. Optional: ``array(numpy_array)`` takes host data,
``numpy(x)`` gives it back (both default to `numpy.asarray`), ``synchronize()`` waits for what runs
on. Every operation of the graph is lowered to the twelve; one that cannot be is `UnsupportedOp`.

- Everything is kept as floats: float64 data and constants as float64, all others as float32, so
  integers are exact up to 2^24, do not wrap, and have no bitwise operations.
- A selection is ``a^mask · b^(1 - mask)``: exact, since x^0 is 1 even for NaN. Slices that do not
  start at 0, flips, pads and gathers are products with matrices of 0 and 1, in which inf and NaN
  go as numbers of their own. Scatters and running sums are such products as they are, so that an
  inf or NaN spreads to its neighbours there.
"""

from __future__ import annotations

import math
import string
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from simplegrad import dtypes, ops
from simplegrad.dtypes import DType
from simplegrad.errors import UnsupportedOp
from simplegrad.graph.infer import Shape, size_of
from simplegrad.graph.node import Node, const_value, leaf_over, make, topological
from simplegrad.graph.scan import unrolled
from simplegrad.ops import Op
from simplegrad.runtime.interpret import evaluate

OPERATIONS = (
    "exp", "log", "sum", "max", "argmax", "equal", "greater_equal", "add", "mul", "pow", "einsum",
    "as_strided",
)  # fmt: skip


class CrudeDevice:
    """Runs graphs, operation by operation, on an object with the twelve operations."""

    kind = "crude"
    runs_kernels = False

    def __init__(self, protocol: Any) -> None:
        self.protocol = protocol
        own = protocol if isinstance(protocol, type) else type(protocol)
        self.name = self.identity = f"crude:{own.__name__}"
        self._single = Twelve(self, np.float32)
        self._double = Twelve(self, np.float64)

    def __repr__(self) -> str:
        return f"<device {self.name}>"

    def evaluate(self, order: Sequence[Node], targets: Sequence[Node]) -> None:
        """Compute `targets` and the held nodes of a topological order; set their `buffer`."""
        evaluate(order, targets, self._compute)

    def from_host(self, array: Any, dtype: DType) -> Any:
        """Return the protocol's array of host data; numbers of any dtype become floats."""
        return self._width(dtype).array(array)

    def to_host(self, buffer: Any, dtype: DType, shape: Shape) -> Any:
        """Return a NumPy copy of a buffer in `dtype`."""
        host = getattr(self.protocol, "numpy", np.asarray)(buffer)
        return np.array(host).astype(dtype.numpy).reshape(shape)

    def share(self, buffer: Any, dtype: DType, shape: Shape, writable: bool = False) -> Any:
        """Return None: what the protocol's arrays are made of is its own."""

    def adopt(self, array: Any, dtype: DType) -> Any:
        """Return None, as `share` does."""

    def synchronize(self) -> None:
        """Wait until the protocol's operations are done, if it says how."""
        getattr(self.protocol, "synchronize", lambda: None)()

    def memory_stats(self) -> dict[str, int]:
        """Return zeros: the protocol's memory is its own."""
        return {"in_use_bytes": 0, "held_bytes": 0, "peak_bytes": 0}

    def _width(self, dtype: DType) -> Twelve:
        return self._double if dtype is dtypes.float64 else self._single

    def _compute(self, node: Node, srcs: list[Any]) -> Any:
        if node.op is ops.SCAN:
            return self._unrolled(node, srcs)
        rule = _RULES.get(node.op)
        if rule is None or not _fits(node):
            raise UnsupportedOp(
                f"{node.op}: cannot be made of the twelve operations of {self.name} for "
                f"{(node.srcs or (node,))[0].dtype} ({node.where}); "
                "use the numpy or an OpenCL device"
            )
        wide = dtypes.float64 in (node.dtype, *[s.dtype for s in node.srcs])
        return rule(self._double if wide else self._single, node, srcs)

    def _unrolled(self, node: Node, srcs: list[Any]) -> Any:
        """Return a SCAN's value by the operations that it stands for."""
        pairs = zip(srcs, node.srcs, strict=True)
        leaves = tuple([leaf_over(buffer, s.kind.spec, self) for buffer, s in pairs])
        root = unrolled(make(ops.SCAN, leaves, node.arg, self))
        self.evaluate(topological([root]), [root])
        return root.buffer


class Twelve:
    """The twelve operations and what is made of them; new constants have one host dtype."""

    def __init__(self, device: CrudeDevice, dtype: Any) -> None:
        self.protocol, self.name, self.dtype = device.protocol, device.name, dtype
        self.zero, self.one, self.minus_one = (self.array(v) for v in (0, 1, -1))

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

    def array(self, data: Any) -> Any:
        """Return the protocol's array of host data."""
        return getattr(self.protocol, "array", np.asarray)(np.array(data, self.dtype, order="C"))

    def add(self, a: Any, b: Any) -> Any:
        """Return a + b; a float becomes an array."""
        return self.call("add", a, self.array(b) if isinstance(b, float) else b)

    def mul(self, a: Any, b: Any) -> Any:
        """Return a · b; a float becomes an array."""
        return self.call("mul", a, self.array(b) if isinstance(b, float) else b)

    def pow(self, a: Any, b: Any) -> Any:
        """Return a to the power b; a float becomes an array."""
        return self.call("pow", a, self.array(b) if isinstance(b, float) else b)

    def exp(self, a: Any) -> Any:
        """Return e to the power a."""
        return self.call("exp", a)

    def log(self, a: Any) -> Any:
        """Return the natural logarithm."""
        return self.call("log", a)

    def neg(self, a: Any) -> Any:
        """Return -a."""
        return self.call("mul", a, self.minus_one)

    def equal(self, a: Any, b: Any) -> Any:
        """Return a == b as the floats 0 and 1."""
        return self.call("mul", self.call("equal", a, b), self.one)

    def at_least(self, a: Any, b: Any) -> Any:
        """Return a >= b as the floats 0 and 1."""
        return self.call("mul", self.call("greater_equal", a, b), self.one)

    def above(self, a: Any, b: Any) -> Any:
        """Return a > b as the floats 0 and 1; with NaN 0."""
        return self.mul(self.at_least(a, b), self.flip(self.equal(a, b)))

    def flip(self, mask: Any) -> Any:
        """Return 1 - mask."""
        return self.add(self.neg(mask), self.one)

    def nan(self, a: Any) -> Any:
        """Return 1 where a is NaN, 0 elsewhere."""
        return self.flip(self.equal(a, a))

    def choose(self, mask: Any, a: Any, b: Any) -> Any:
        """Return a where the mask is 1, b where it is 0, whatever stands in the other."""
        return self.mul(self.pow(a, mask), self.pow(b, self.flip(mask)))

    def greatest(self, a: Any, b: Any) -> Any:
        """Return the greater of two; NaN if one is NaN."""
        return self.choose(self.add(self.at_least(a, b), self.nan(a)), a, b)

    def reshape(self, x: Any, shape: Shape) -> Any:
        """Return x with other extents."""
        return self.call("as_strided", x, shape, _row_major(shape))

    def repeat(self, x: Any, source: Shape, shape: Shape) -> Any:
        """Return x of shape `source` broadcast to `shape`."""
        lead = len(shape) - len(source)
        pairs = zip(source, shape[lead:], _row_major(source), strict=True)
        strides = [0 if n == 1 != m else stride for n, m, stride in pairs]
        return self.call("as_strided", x, shape, (0,) * lead + tuple(strides))

    def permute(self, x: Any, shape: Shape, axes: Sequence[int]) -> Any:
        """Return x of a shape with its axes in another order."""
        strides = _row_major(shape)
        permuted = tuple(shape[a] for a in axes)
        return self.call("as_strided", x, permuted, tuple(strides[a] for a in axes))

    def contract(self, x: Any, axis: int, rank: int, matrix: Any, spec: str = "zy") -> Any:
        """Return x with `axis` (y) multiplied by a matrix of the axes `spec`, z for y."""
        return self.call("einsum", _along(axis, rank, spec), matrix, x)

    def gather(self, x: Any, axis: int, rank: int, matrix: Any) -> Any:
        """Return x with `axis` read where the rows of a matrix of 0 and 1 have their one 1."""
        return self.chosen(_along(axis, rank, "zy"), matrix, x)

    def chosen(self, subscripts: str, matrix: Any, x: Any) -> Any:
        """Return the sum of products with a matrix that chooses at most one element of x each.

        An inf or NaN times the 0 of its neighbours would make those NaN: what is not finite goes
        as a number of its own, and is put in afterwards.
        """
        kinds = [math.inf, -math.inf, math.nan]
        masks = [self.equal(x, self.array(v)) for v in kinds[:2]] + [self.nan(x)]
        code = self.add(self.add(masks[0], self.mul(masks[1], 2.0)), self.mul(masks[2], 3.0))
        finite = self.choose(self.equal(code, self.zero), x, self.zero)
        result = self.call("einsum", subscripts, matrix, finite)
        codes = self.call("einsum", subscripts, matrix, code)
        for number, value in enumerate(kinds, 1):
            there = self.equal(codes, self.array(number))
            result = self.add(result, self.choose(there, self.array(value), self.zero))
        return result

    def shifted(self, x: Any, size: int, offset: int) -> Any:
        """Return the flat elements of x from `offset` on.

        The twelve start views at element 0. A window of w elements whose last is kept shifts by
        w - 1; two of them, one with wide steps, shift by any offset at a cost of its root.
        """
        width = math.isqrt(offset) or 1
        for step in (width, 1):
            count = offset // step
            if count:
                offset -= count * step
                size -= count * step
                window = self.call("as_strided", x, (size, count + 1), (1, step))
                last = np.arange(count + 1) == count
                x = self.chosen("b,ab->a", self.array(last), window)
        return x

    def strided(self, x: Any, size: int, shape: Shape, strides: Shape, offset: int) -> Any:
        """Return a view of x's flat elements from an offset; a negative stride is a flip."""
        if not size_of(shape):
            return self.array(np.zeros(shape))
        pairs = list(zip(shape, strides, strict=True))
        offset += sum((n - 1) * s for n, s in pairs if s < 0)
        if offset:
            x = self.shifted(x, size, offset)
        x = self.call("as_strided", x, shape, tuple(abs(s) for s in strides))
        for axis, (n, s) in enumerate(pairs):
            if s < 0 and n > 1:
                x = self.gather(x, axis, len(shape), self.array(np.eye(n)[::-1]))
        return x


def _along(axis: int, rank: int, spec: str) -> str:
    """Return the subscripts of a matrix with axes `spec` times `axis` (y) of an array, giving z."""
    letters = list(string.ascii_lowercase[:rank])
    letters[axis] = "y"
    out = [*letters[:axis], "z", *letters[axis + 1 :]]
    return f"{spec},{''.join(letters)}->{''.join(out)}"


Rule = Callable[[Twelve, Node, "list[Any]"], Any]


def _fits(node: Node) -> bool:
    """Return whether floats do what the operation does with its dtypes."""
    if node.op in (ops.AND, ops.OR, ops.XOR, ops.INVERT):
        return node.dtype.kind == "b"
    if node.op is ops.CAST:
        return node.dtype.is_float or node.dtype.kind == "b" or not node.srcs[0].dtype.is_float
    return True


def _row_major(shape: Shape) -> Shape:
    return tuple(size_of(shape[a + 1 :]) for a in range(len(shape)))


def _leaf(d: Twelve, node: Node, s: list[Any]) -> Any:
    if node.op is ops.IOTA:
        return d.array(np.arange(node.arg))
    number = d.array(node.value if node.op is ops.SCALAR else const_value(node))
    return d.repeat(number, (), node.shape) if node.shape else number


def _cast(d: Twelve, node: Node, s: list[Any]) -> Any:
    if node.dtype.kind != "b":
        return s[0]
    return d.flip(d.equal(s[0], d.zero))


def _sign(d: Twelve, node: Node, s: list[Any]) -> Any:
    sign = d.add(d.at_least(s[0], d.zero), d.neg(d.at_least(d.neg(s[0]), d.zero)))
    return d.choose(d.nan(s[0]), s[0], sign)


def _absolute(d: Twelve, node: Node, s: list[Any]) -> Any:
    return d.mul(s[0], d.add(d.mul(d.at_least(s[0], d.zero), 2.0), -1.0))


def _infinite(d: Twelve, node: Node, s: list[Any]) -> Any:
    return d.equal(_absolute(d, node, s), d.array(math.inf))


def _expand(d: Twelve, node: Node, s: list[Any]) -> Any:
    return d.repeat(s[0], node.srcs[0].shape, node.shape)


def _slice(d: Twelve, node: Node, s: list[Any]) -> Any:
    steps = _row_major(node.srcs[0].shape)
    pairs = list(zip(node.arg, steps, strict=True))
    strides = tuple(step * width for (_, _, step), width in pairs)
    offset = sum(start * width for (start, _, _), width in pairs)
    return d.strided(s[0], node.srcs[0].size, node.shape, strides, offset)


def _as_strided(d: Twelve, node: Node, s: list[Any]) -> Any:
    return d.strided(s[0], node.srcs[0].size, *node.arg)


def _pad(d: Twelve, node: Node, s: list[Any]) -> Any:
    x, source = s[0], node.srcs[0].shape
    widths, text = node.arg
    fill = float(text == "True" if text in ("True", "False") else float(text))
    if not node.srcs[0].size:
        return d.array(np.full(node.shape, fill))
    inside = np.ones(node.shape)
    for axis, (before, after, between) in enumerate(widths):
        if before or after or between:
            matrix = np.zeros((node.shape[axis], source[axis]))
            rows = before + (between + 1) * np.arange(source[axis])
            matrix[rows, np.arange(source[axis])] = 1
            x = d.gather(x, axis, len(source), d.array(matrix))
            inside *= matrix.any(1).reshape([-1 if a == axis else 1 for a in range(len(source))])
    return d.add(x, d.array(np.where(inside, 0, fill))) if fill else x


def _einsum(d: Twelve, node: Node, s: list[Any]) -> Any:
    letters: dict[int, str] = {}
    words = [
        "".join([letters.setdefault(i, string.ascii_letters[len(letters)]) for i in part])
        for part in node.arg
    ]
    return d.call("einsum", f"{','.join(words[:-1])}->{words[-1]}", *s)


def _one_hot(d: Twelve, indices: Any, size: int, extent: int) -> Any:
    """Return (size, extent): 1 where the column is the row's index."""
    return d.equal(d.reshape(indices, (size, 1)), d.array(np.arange(extent)))


def _take(d: Twelve, node: Node, s: list[Any]) -> Any:
    x, indices = node.srcs
    axis, extent = node.arg, x.shape[node.arg]
    bounded = d.greatest(s[1], d.zero)
    bounded = d.neg(d.greatest(d.neg(bounded), d.array(1 - extent)))
    found = d.gather(s[0], axis, len(x.shape), _one_hot(d, bounded, indices.size, extent))
    return d.reshape(found, node.shape)


def _scatter_add(d: Twelve, node: Node, s: list[Any]) -> Any:
    indices, rows = node.srcs
    hot = _one_hot(d, s[0], indices.size, node.arg)
    return d.contract(s[1], 0, len(rows.shape), hot, "yz")


def _cumsum(d: Twelve, node: Node, s: list[Any]) -> Any:
    n = node.shape[node.arg]
    return d.contract(s[0], node.arg, len(node.shape), d.array(np.tri(n)))


def _concat(d: Twelve, node: Node, s: list[Any]) -> Any:
    places = np.eye(node.shape[node.arg])
    total, start = d.zero, 0
    for src, x in zip(node.srcs, s, strict=True):
        end = start + src.shape[node.arg]
        if not src.size:
            continue
        part = d.gather(x, node.arg, len(node.shape), d.array(places[:, start:end]))
        total, start = d.add(total, part), end
    return total


def _argmax(d: Twelve, node: Node, x: Any) -> Any:
    """Return the index among several axes as well, which are made one."""
    source, axes = node.srcs[0].shape, node.arg
    if len(axes) == 1:
        return d.call("argmax", x, axes[0])
    kept = [a for a in range(len(source)) if a not in axes]
    extent = size_of(tuple(source[a] for a in axes))
    rows = d.reshape(d.permute(x, source, [*kept, *axes]), (*node.shape, extent))
    return d.call("argmax", rows, len(kept))


def _exponential(form: Callable[[Twelve, Any, Any], Any]) -> Rule:
    """Return a rule for a function of e^x and e^-x."""
    return lambda d, n, s: form(d, d.exp(s[0]), d.exp(d.neg(s[0])))


def _root_plus(d: Twelve, x: Any, more: float) -> Any:
    """Return log(x + √(x² + more))."""
    return d.log(d.add(x, d.pow(d.add(d.mul(x, x), more), 0.5)))


_RULES: dict[Op, Rule] = {
    ops.SCALAR: _leaf,
    ops.CONST: _leaf,
    ops.IOTA: _leaf,
    ops.CAST: _cast,
    ops.RESHAPE: lambda d, n, s: d.reshape(s[0], n.shape),
    ops.PERMUTE: lambda d, n, s: d.permute(s[0], n.srcs[0].shape, n.arg),
    ops.EXPAND: _expand,
    ops.SLICE: _slice,
    ops.PAD: _pad,
    ops.AS_STRIDED: _as_strided,
    ops.EINSUM: _einsum,
    ops.TAKE: _take,
    ops.SCATTER_ADD: _scatter_add,
    ops.CUMSUM: _cumsum,
    ops.CONCAT: _concat,
    ops.EXP: lambda d, n, s: d.exp(s[0]),
    ops.EXP2: lambda d, n, s: d.exp(d.mul(s[0], math.log(2))),
    ops.EXPM1: lambda d, n, s: d.add(d.exp(s[0]), -1.0),
    ops.LOG: lambda d, n, s: d.log(s[0]),
    ops.LOG2: lambda d, n, s: d.mul(d.log(s[0]), 1 / math.log(2)),
    ops.LOG1P: lambda d, n, s: d.log(d.add(s[0], 1.0)),
    ops.SQRT: lambda d, n, s: d.pow(s[0], 0.5),
    ops.RSQRT: lambda d, n, s: d.pow(s[0], -0.5),
    ops.RECIPROCAL: lambda d, n, s: d.pow(s[0], -1.0),
    ops.SINH: _exponential(lambda d, e, inverse: d.mul(d.add(e, d.neg(inverse)), 0.5)),
    ops.COSH: _exponential(lambda d, e, inverse: d.mul(d.add(e, inverse), 0.5)),
    # tanh x = 1 - 2 / (exp 2x + 1): exact at both ends
    ops.TANH: lambda d, n, s: d.add(
        d.mul(d.pow(d.add(d.exp(d.mul(s[0], 2.0)), 1.0), -1.0), -2.0), 1.0
    ),
    ops.ASINH: lambda d, n, s: d.mul(_root_plus(d, _absolute(d, n, s), 1.0), _sign(d, n, s)),
    ops.ACOSH: lambda d, n, s: _root_plus(d, s[0], -1.0),
    ops.ATANH: lambda d, n, s: d.mul(
        d.add(d.log(d.add(s[0], 1.0)), d.neg(d.log(d.flip(s[0])))), 0.5
    ),
    ops.NEG: lambda d, n, s: d.neg(s[0]),
    ops.ABS: _absolute,
    ops.SIGN: _sign,
    ops.ISNAN: lambda d, n, s: d.nan(s[0]),
    ops.ISINF: _infinite,
    ops.ISFINITE: lambda d, n, s: d.flip(d.add(d.nan(s[0]), _infinite(d, n, s))),
    ops.ADD: lambda d, n, s: d.add(*s),
    ops.MUL: lambda d, n, s: d.mul(*s),
    ops.SUB: lambda d, n, s: d.add(s[0], d.neg(s[1])),
    ops.DIV: lambda d, n, s: d.mul(s[0], d.pow(s[1], -1.0)),
    ops.POW: lambda d, n, s: d.pow(*s),
    ops.HYPOT: lambda d, n, s: d.pow(d.add(d.mul(s[0], s[0]), d.mul(s[1], s[1])), 0.5),
    ops.MAXIMUM: lambda d, n, s: d.greatest(*s),
    ops.MINIMUM: lambda d, n, s: d.neg(d.greatest(d.neg(s[0]), d.neg(s[1]))),
    ops.EQUAL: lambda d, n, s: d.equal(*s),
    ops.NOT_EQUAL: lambda d, n, s: d.flip(d.equal(*s)),
    ops.GREATER_EQUAL: lambda d, n, s: d.at_least(*s),
    ops.LESS_EQUAL: lambda d, n, s: d.at_least(s[1], s[0]),
    ops.GREATER: lambda d, n, s: d.above(*s),
    ops.LESS: lambda d, n, s: d.above(s[1], s[0]),
    ops.AND: lambda d, n, s: d.mul(*s),
    ops.OR: lambda d, n, s: d.at_least(d.add(*s), d.one),
    ops.XOR: lambda d, n, s: d.flip(d.equal(*s)),
    ops.INVERT: lambda d, n, s: d.flip(s[0]),
    ops.WHERE: lambda d, n, s: d.choose(*s),
    ops.SUM: lambda d, n, s: d.call("sum", s[0], n.arg),
    ops.MAX: lambda d, n, s: d.call("max", s[0], n.arg),
    ops.MIN: lambda d, n, s: d.neg(d.call("max", d.neg(s[0]), n.arg)),
    ops.ARGMAX: lambda d, n, s: _argmax(d, n, s[0]),
    ops.ARGMIN: lambda d, n, s: _argmax(d, n, d.neg(s[0])),
}
