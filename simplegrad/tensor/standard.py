"""What the Python array API standard (2025.12) has beyond NumPy's usual functions.

`sort`, `unique_…`, `nextafter` and complex numbers are not here; `tests/test_array_api.py` lists
every name of the standard with the reason of those that are absent.
"""

from __future__ import annotations

import math
from typing import Any

from simplegrad import dtypes, ops
from simplegrad.arguments import flag
from simplegrad.dtypes import DType
from simplegrad.errors import ShapeError
from simplegrad.graph import build, infer
from simplegrad.graph.node import Node
from simplegrad.runtime import devices
from simplegrad.tensor.core import Core, as_tensor, common, lift, wrap
from simplegrad.tensor.elementwise import binary, where
from simplegrad.tensor.shapes import shape_of
from simplegrad.tensor.tensor import Tensor


def broadcast_shapes(*shapes: Any) -> tuple[int, ...]:
    """Return the shape that arrays of these shapes broadcast to.

    >>> import simplegrad as sg
    >>> sg.broadcast_shapes((3, 1), 4, (5, 1, 1))
    (5, 3, 4)
    """
    given = [shape_of("broadcast_shapes", shape) for shape in shapes]
    return infer.broadcast_shapes("broadcast_shapes", *given) if given else ()


def positive(x: Any, /) -> Tensor:
    """Return the elements as they are."""
    return +as_tensor(x)


def log10(x: Any, /) -> Tensor:
    """Return the logarithm to base 10; integers give the default float dtype."""
    return as_tensor(x).log().mul(1 / math.log(10))


def logaddexp(a: Any, b: Any, /) -> Tensor:
    """Return log(exp(a) + exp(b)) without overflow."""
    far = binary(ops.SUB, a, b, "f").abs().neg().exp().log1p()
    top = binary(ops.MAXIMUM, a, b)
    # Equal operands, two infinities among them, have no difference worth taking.
    return where(binary(ops.EQUAL, a, b), top.add(math.log(2)), top.add(far))


def copysign(a: Any, b: Any, /) -> Tensor:
    """Return the magnitude of `a` with the sign of `b`, that of -0.0 included."""
    x, y = common("copysign", "f", a, b)
    zero = build.number(0, y)
    # Only -0.0 has a reciprocal below zero without being below zero itself.
    hidden = build.apply(ops.LESS, build.apply(ops.RECIPROCAL, y), zero)
    negative = build.apply(ops.OR, build.apply(ops.LESS, y, zero), hidden)
    size = build.apply(ops.ABS, x)
    node = build.apply(ops.WHERE, negative, build.apply(ops.NEG, size), size)
    return lift(node, *[v._node for v in (a, b) if isinstance(v, Core)])


def isin(x: Any, elements: Any, /, *, invert: bool = False) -> Tensor:
    """Return whether each element of `x` is among `elements`; one fused pass, O(n · m).

    >>> import simplegrad as sg
    >>> sg.isin([1, 2, 3], [3, 1])
    Tensor([ True, False,  True], dtype=bool)
    """
    invert = flag("isin: invert", invert)
    x = as_tensor(x)
    among = as_tensor(elements, x.device).flatten()
    found = binary(ops.EQUAL, x.expand_dims(-1), among).any(axis=-1)
    return found.logical_not() if invert else found


def searchsorted(x1: Any, x2: Any, /, *, side: str = "left", sorter: Any = None) -> Tensor:
    """Return where `x2` would stand in the sorted vector `x1`, as int64; NaN counts as greatest.

    ``"left"`` is before equal elements, ``"right"`` behind them; `sorter` holds indices that sort
    `x1`. A binary search of all at once: log2(n) + 1 steps in one expression.

    >>> import simplegrad as sg
    >>> sg.searchsorted([1, 3, 5], [0, 3, 9], side="right")
    Tensor([0, 2, 3], dtype=int64)
    """
    if side not in ("left", "right"):
        raise ShapeError(f"searchsorted: side is 'left' or 'right', not {side!r}")
    keys, values = common("searchsorted", ops.WHERE.kinds, x1, x2)
    if len(keys.shape) != 1:
        raise ShapeError(f"searchsorted: takes a sorted vector, not shape {keys.shape}")
    if sorter is not None:
        keys = wrap(keys).take(sorter)._node
    n, shape = keys.shape[0], values.shape
    found = build.full(0, shape, dtypes.int64, values.device)
    if not n:
        return lift(found)
    step = 1 << (n.bit_length() - 1)
    while step:
        after = build.apply(ops.ADD, found, build.number(step, found))
        last = build.apply(ops.MINIMUM, after, build.number(n, after))
        index = build.apply(ops.SUB, last, build.number(1, last))
        passed = _before(build.take(keys, index, 0), values, side == "right")
        inside = build.apply(ops.LESS_EQUAL, after, build.number(n, after))
        found = build.apply(ops.WHERE, build.apply(ops.AND, inside, passed), after, found)
        step //= 2
    return lift(found)


def _before(key: Node, value: Node, equal: bool) -> Node:
    """Return whether a key stands before a value, NaN after all numbers."""
    less = build.apply(ops.LESS_EQUAL if equal else ops.LESS, key, value)
    if not key.dtype.is_float:
        return less
    nan = build.apply(ops.NOT_EQUAL, value, value)
    if equal:
        return build.apply(ops.OR, less, nan)
    number = build.apply(ops.EQUAL, key, key)
    return build.apply(ops.OR, less, build.apply(ops.AND, nan, number))


class NamespaceInfo:
    """What `__array_namespace_info__` returns: the standard's inspection functions."""

    def capabilities(self) -> dict[str, Any]:
        """Return what depends on data: masks and `nonzero` are computed at once."""
        return {"boolean indexing": True, "data-dependent shapes": True, "max dimensions": None}

    def default_device(self) -> Any:
        """Return the device in force."""
        return devices.current()

    def devices(self) -> list[str]:
        """Return the selectors of all devices, best first."""
        return [info.selector for info in devices.devices()]

    def default_dtypes(self, *, device: Any = None) -> dict[str, DType]:
        """Return the dtypes of Python numbers and of indices."""
        return {
            "real floating": dtypes.default_float(),
            "integral": dtypes.default_int,
            "indexing": dtypes.int64,
        }

    def dtypes(self, *, device: Any = None, kind: Any = None) -> dict[str, DType]:
        """Return the standard's dtypes by name, all or those of a kind such as ``"integral"``."""
        kinds = {
            None: "buif", "bool": "b", "signed integer": "i", "unsigned integer": "u",
            "integral": "iu", "real floating": "f", "complex floating": "", "numeric": "iuf",
        }  # fmt: skip
        wanted = "".join(kinds[k] for k in (kind if isinstance(kind, tuple) else (kind,)))
        half = (dtypes.float16, dtypes.bfloat16)
        return {d.name: d for d in dtypes.ALL if d.kind in wanted and d not in half}


def array_namespace_info() -> NamespaceInfo:
    """Return devices, dtypes and capabilities in the standard's form."""
    return NamespaceInfo()
