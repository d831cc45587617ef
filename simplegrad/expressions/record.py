"""A function run once on tensors without values: the graphs of its result and gradients."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from simplegrad import dtypes, ops
from simplegrad.autograd.backward import gradients
from simplegrad.dtypes import DType
from simplegrad.errors import DeviceError, ShapeError, SimplegradError
from simplegrad.expressions.notation import HELPERS
from simplegrad.graph import build
from simplegrad.graph.node import Node, leaf, topological
from simplegrad.graph.rewrite import rewrite
from simplegrad.graph.scan import unrolled
from simplegrad.runtime import devices
from simplegrad.tensor.core import become_leaf, wrap
from simplegrad.tensor.shapes import extents_of
from simplegrad.tensor.tensor import Tensor

RESERVED = ("np", "math", *HELPERS)
"""Names that the source gives a meaning."""


class SymbolicDevice:
    """Where tensors without values live: it keeps host data, and computes nothing."""

    name = identity = "symbolic"
    kind = "symbolic"
    runs_kernels = False

    def from_host(self, array: Any, dtype: DType) -> Any:
        """Return host data as it is: a constant of the expression."""
        return np.array(array, dtype.numpy)

    def evaluate(self, order: Sequence[Node], targets: Sequence[Node]) -> NoReturn:
        """Refuse: there are no values."""
        raise SimplegradError(
            "symbolic: the function may not read values, which an expression has not (float(), "
            "numpy(), print(), a branch on a value), nor be a chain of more than 1000 operations"
        )


@dataclass(frozen=True)
class Recording:
    """The leaf of every argument, the result, and the gradient of its sum by each argument."""

    name: str
    names: tuple[str, ...]
    inputs: tuple[Node, ...]
    value: Node
    gradients: tuple[Node, ...]


def record(fn: Callable[..., Any], shapes: Sequence[Any]) -> Recording:
    """Run `fn` on tensors of some shapes, of the default float dtype."""
    device: Any = SymbolicDevice()
    tensors = []
    for shape in shapes:
        node = leaf(ops.BUFFER, extents_of("symbolic", shape), dtypes.default_float(), None, device)
        tensors.append(become_leaf(wrap(node), True))
    names = _names(fn, len(tensors))
    try:
        with devices.use(device):
            result = fn(*tensors)
    except DeviceError as error:
        raise SimplegradError(
            f"symbolic: {error}; tensors that the function takes from outside must be arguments"
        ) from error
    if not isinstance(result, Tensor):
        raise SimplegradError(
            f"symbolic: the function must return one tensor, not {type(result).__name__}"
        )
    root, inputs = result._node, tuple(t._node for t in tensors)
    found: list[Node | None] = [None] * len(inputs)
    if root.tracks:
        found = gradients([root], [build.full(1, root.shape, root.dtype)], inputs)
    slopes = [
        build.full(0, n.shape, n.dtype) if g is None else g
        for n, g in zip(inputs, found, strict=True)
    ]
    root, *slopes = _written_out([root, *slopes])
    name = getattr(fn, "__name__", "f")
    return Recording(name if name.isidentifier() else "f", names, inputs, root, tuple(slopes))


def _written_out(roots: list[Node]) -> list[Node]:
    """Return the roots with recurrences as the steps that they are."""
    new = rewrite(topological(roots), lambda n: unrolled(n) if n.op is ops.SCAN else n)
    return [new[id(root)] for root in roots]


def _names(fn: Callable[..., Any], count: int) -> tuple[str, ...]:
    """Return the names of the first `count` arguments, by the function's signature."""
    try:
        parameters = list(inspect.signature(fn).parameters.values())
    except (TypeError, ValueError):  # a built-in without one
        return tuple(f"x{i}" for i in range(count))
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [p.name for p in parameters if p.kind in kinds]
    needed = sum(p.default is p.empty for p in parameters if p.kind in kinds)
    rest = [p.name for p in parameters if p.kind is p.VAR_POSITIONAL]
    if count < needed or (count > len(names) and not rest):
        raise ShapeError(
            f"symbolic: {count} shapes for a function of the arguments {', '.join(names + rest)}; "
            "give one for each"
        )
    extra = [f"{rest[0]}{i}" for i in range(count - len(names))] if rest else []
    return tuple([f"{n}_" if n in RESERVED else n for n in [*names, *extra]][:count])
