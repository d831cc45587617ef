"""Indexing: ``x[...]`` with integers, slices, None, Ellipsis, arrays and masks; take and gather."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from simplegrad import dtypes, ops, settings
from simplegrad.arguments import integer
from simplegrad.errors import DTypeError, IndexOutOfRange, ShapeError, SimplegradError
from simplegrad.graph import build
from simplegrad.graph.infer import Shape, broadcast_shapes
from simplegrad.graph.node import Node
from simplegrad.tensor.core import Core, as_tensor, common, host_node, lift, same_device
from simplegrad.tensor.reductions import Reductions
from simplegrad.tensor.shapes import normalize_axis

if TYPE_CHECKING:
    from simplegrad.tensor.tensor import Tensor


def index_node(name: str, index: Any, extent: int, axis: int, device: Any) -> Node:
    """Return integer indices as non-negative ones.

    Host indices are checked against the extent; those of a tensor are clamped where they are read
    (with ``SIMPLEGRAD_CHECK=1`` they are read first, and checked).
    """
    if isinstance(index, Core):
        node = index._node
        if node.dtype.kind not in "ui":
            raise DTypeError(f"{name}: indices must be integers, not {node.dtype}")
        if settings.current().check:
            _check(name, index.numpy(), extent, axis)
        if node.dtype.kind == "i":
            below = build.apply(ops.LESS, node, build.number(0, node))
            wide = build.cast(node, dtypes.int64) if extent > node.dtype.high else node
            wrapped = build.apply(ops.ADD, wide, build.number(extent, wide))
            return build.apply(ops.WHERE, below, wrapped, wide)
        return node
    array = _array(name, index)
    if array.size == 0 and array.dtype.kind == "f" and not isinstance(index, np.ndarray):
        array = array.astype(np.int64)
    if array.dtype.kind not in "ui":
        raise DTypeError(f"{name}: indices must be integers, not {array.dtype}")
    _check(name, array, extent, axis)
    array = np.where(array < 0, array + extent, array).astype(np.int64)
    return host_node(name, array, device, dtypes.int64)


def _array(name: str, index: Any) -> np.ndarray:
    try:
        return np.asarray(index)
    except (TypeError, ValueError) as error:
        raise ShapeError(
            f"{name}: this {type(index).__name__} is no array of integers: {error}"
        ) from None


def _check(name: str, array: np.ndarray, extent: int, axis: int) -> None:
    wrong = array[(array < -extent) | (array >= extent)]
    if wrong.size:
        raise IndexOutOfRange(
            f"{name}: index {wrong.flat[0]} is out of range for axis {axis} of extent {extent}"
        )


def _by_mask(mask: Any) -> tuple[list[Any], Shape]:
    """Return the places where a mask is true, an array per axis, and the mask's shape."""
    mask = np.asarray(mask)
    if mask.ndim == 0:
        raise DTypeError("getitem: a single bool is no index; use simplegrad.where")
    return list(np.nonzero(mask)), mask.shape


def _is_mask(item: Any) -> bool:
    if isinstance(item, (bool, np.bool_)):
        return True
    return isinstance(item, (Core, np.ndarray)) and item.dtype in (dtypes.bool_, np.dtype(bool))


class _Plan:
    """An index taken apart: slices per axis, new axes, and arrays with their place."""

    def __init__(self, shape: Shape, items: Sequence[Any]) -> None:
        self.shape = shape
        self.steps: list[tuple[int, int, int]] = []
        self.layout: list[int | None] = []
        """Axes of the sliced array and new axes (None), in order, without those at an integer."""
        self.arrays: list[tuple[int, Any]] = []
        self.spots: list[int] = []
        """Where in the index the arrays and integers stood: together or apart."""
        self.first = 0
        for spot, item in enumerate(items):
            self._add(spot, item)

    def _add(self, spot: int, item: Any) -> None:
        if item is None:
            self.layout.append(None)
            return
        axis = len(self.steps)
        extent = self.shape[axis]
        if isinstance(item, slice):
            start, stop, step = _bounds(item, extent)
            count = len(range(start, stop, step))
            self.steps.append((start, count, step) if count else (0, 0, 1))
        elif hasattr(item, "__index__") and not hasattr(item, "shape"):
            index = operator.index(item)
            if not -extent <= index < extent:
                raise IndexOutOfRange(
                    f"getitem: index {index} is out of range for axis {axis} of shape {self.shape}"
                )
            self.steps.append((index % extent, 1, 1))
            self.spots.append(spot)
            return
        else:
            if not self.arrays:
                self.first = len(self.layout)
            self.arrays.append((axis, item))
            self.spots.append(spot)
            self.steps.append((0, extent, 1))
        self.layout.append(axis)

    @property
    def apart(self) -> bool:
        """Whether something stands between the arrays, which puts their axes first."""
        return self.spots != list(range(self.spots[0], self.spots[0] + len(self.spots)))


def _bounds(item: slice, extent: int) -> tuple[int, int, int]:
    try:
        return item.indices(extent)
    except (TypeError, ValueError) as error:
        raise IndexOutOfRange(f"getitem: {item} is not a slice of integers: {error}") from None


class Indexing(Reductions):
    """Parts of an array, chosen by position."""

    __slots__ = ()

    def __getitem__(self, index: Any) -> Tensor:
        """Return a part of the array, with NumPy's rules.

        Integers, slices, None and Ellipsis are views. Integer arrays copy: host arrays are checked
        against the extent, those of a tensor are clamped to it. A boolean mask needs the number of
        its true elements, so a mask that is a tensor is computed now and read back; `where` keeps
        everything on the device instead.

        >>> import simplegrad as sg
        >>> sg.arange(5)[::-2]
        Tensor([4, 2, 0], dtype=int64)
        >>> sg.arange(5)[[0, -1]]
        Tensor([0, 4], dtype=int64)
        """
        plan = _Plan(self.shape, self._items(index if isinstance(index, tuple) else (index,)))
        node = build.slice_(self._node, plan.steps)
        inputs = [self._node]
        if plan.arrays:
            node = self._advanced(node, plan, inputs)
        else:
            shape = tuple([1 if a is None else node.shape[a] for a in plan.layout])
            node = build.reshape(node, shape)
        return lift(node, *inputs)

    def __setitem__(self, index: Any, value: Any) -> None:
        raise SimplegradError(
            "setitem: tensors are never changed in place; build a new one with "
            "simplegrad.where(mask, value, x) or simplegrad.concat"
        )

    def _items(self, index: tuple[Any, ...]) -> list[Any]:
        """Return the index with Ellipsis, masks and missing slices written out."""
        items: list[Any] = []
        masks: list[tuple[int, Shape]] = []
        """Where the indices of a mask begin, and its shape."""
        for item in index:
            if isinstance(item, list):
                item = _array("getitem", item) if item else np.zeros(0, np.int64)
            if _is_mask(item):
                found, shape = _by_mask(item)
                masks.append((len(items), shape))
                items += found
            else:
                items.append(item)
        used = len([i for i in items if i is not None and i is not Ellipsis])
        missing = self.ndim - used
        if missing < 0:
            raise IndexOutOfRange(f"getitem: {used} indices for an array of shape {self.shape}")
        dots = [i for i, item in enumerate(items) if item is Ellipsis]
        if len(dots) > 1:
            raise IndexOutOfRange("getitem: an index may hold one Ellipsis (...)")
        place = dots[0] if dots else len(items)
        items[place : place + len(dots)] = [slice(None)] * missing
        for begin, shape in masks:
            begin += missing - 1 if dots and begin > place else 0
            axis = len([i for i in items[:begin] if i is not None])
            if shape != self.shape[axis : axis + len(shape)]:
                raise IndexOutOfRange(
                    f"getitem: a mask of shape {shape} does not fit shape {self.shape} "
                    f"at axis {axis}"
                )
        return items

    def _advanced(self, node: Node, plan: _Plan, inputs: list[Node]) -> Node:
        """Return `node` read at integer arrays: their axes come first, or where they stood."""
        arrays = plan.arrays
        inputs += [i._node for _, i in arrays if isinstance(i, Core)]
        same_device("getitem", inputs)
        indices = [index_node("getitem", i, node.shape[a], a, self._node.device) for a, i in arrays]
        taken = [a for a, _ in arrays]
        shape = tuple([1 if a is None else node.shape[a] for a in plan.layout if a not in taken])
        place = 0 if plan.apart else plan.first
        if len(arrays) == 1 and not plan.apart:  # one axis is read where it stands
            result = build.take(node, indices[0], taken[0])
            return build.reshape(result, shape[:place] + indices[0].shape + shape[place:])
        spread = broadcast_shapes("getitem", *[i.shape for i in indices])
        lead = [node.shape[a] for a in taken]
        kept = [a for a in range(len(plan.steps)) if a not in taken]
        moved = build.permute(node, [*taken, *kept])
        flat = build.reshape(moved, (math.prod(lead), *moved.shape[len(taken) :]))
        result = build.take(flat, _linear(indices, lead, spread), 0)
        result = build.reshape(result, (*spread, *shape))
        n = len(spread)
        front = range(n, n + place)
        return build.permute(result, [*front, *range(n), *range(n + place, len(result.shape))])

    def take(self, indices: Any, axis: int | None = None) -> Tensor:
        """Return slices along `axis` (None: of the flat array) at integers of any shape.

        Negative indices count from the end. Host indices are checked; those of a tensor are
        clamped to the axis.
        """
        if axis is None:
            return self.flatten().take(indices, 0)
        axis = normalize_axis("take", axis, self.ndim)
        same_device("take", [self._node] + [i._node for i in [indices] if isinstance(i, Core)])
        index = index_node("take", indices, self.shape[axis], axis, self._node.device)
        return lift(build.take(self._node, index, axis), self._node)

    def take_along_axis(self, indices: Any, axis: int = -1) -> Tensor:
        """Return ``self[i, …, indices[i, …, k], …]``: `indices` run along `axis`.

        The other axes of `indices` broadcast against those of the array.
        """
        axis = normalize_axis("take_along_axis", axis, self.ndim)
        extent = self.shape[axis]
        if isinstance(indices, Core):
            same_device("take_along_axis", [self._node, indices._node])
        index = index_node("take_along_axis", indices, extent, axis, self._node.device)
        if len(index.shape) != self.ndim:
            raise ShapeError(
                f"take_along_axis: indices of shape {index.shape} need the {self.ndim} axes "
                f"of {self.shape}"
            )
        whole = [n if a != axis else 1 for a, n in enumerate(self.shape)]
        spread = broadcast_shapes("take_along_axis", tuple(whole), index.shape)
        if any(
            n != m for a, (n, m) in enumerate(zip(self.shape, spread, strict=True)) if a != axis
        ):
            raise ShapeError(
                f"take_along_axis: indices of shape {index.shape} do not fit {self.shape}"
            )
        if not all(self.shape):
            return lift(build.take(self._node, build.reshape(index, (-1,)), axis), self._node)
        places = []
        for a, n in enumerate(spread):
            if a == axis:
                places.append(index)
            else:
                shape = [n if b == a else 1 for b in range(self.ndim)]
                iota = build.iota(n, dtypes.int64, self._node.device)
                places.append(build.reshape(iota, tuple(shape)))
        linear = _linear(places, list(self.shape), spread)
        flat = build.reshape(self._node, (self.size,))
        return lift(build.take(flat, linear, 0), self._node)

    def gather(self, indices: Any, axis: int = -1) -> Tensor:
        """Return the elements at `indices` along `axis`; another name of `take_along_axis`."""
        return self.take_along_axis(indices, axis)

    def one_hot(self, num_classes: int, dtype: Any = None) -> Tensor:
        """Return integers as vectors of `num_classes` zeros with a one at each integer.

        An integer outside of the classes gives zeros.
        """
        x = self._node
        if x.dtype.kind not in "ui":
            raise DTypeError(f"one_hot: takes integers, not {x.dtype}")
        num_classes = integer("one_hot: num_classes", num_classes, 0)
        x = build.cast(x, dtypes.int64)
        classes = build.iota(num_classes, dtypes.int64, x.device)
        hit = build.apply(ops.EQUAL, build.reshape(x, (*x.shape, 1)), classes)
        dtype = dtypes.default_float() if dtype is None else dtypes.of(dtype)
        return lift(build.cast(hit, dtype))

    def bincount(
        self, weights: Any = None, minlength: int = 0, length: int | None = None
    ) -> Tensor:
        """Return how often (or with which total weight) each integer stands in a vector.

        Without `length` the greatest integer is computed now and read back, since the result's
        shape needs it; with `length` everything stays lazy. A negative integer is then an error
        (`IndexOutOfRange`), as it is in NumPy; with `length` it counts from the end.
        """
        x = self._node
        if x.dtype.kind not in "ui" or len(x.shape) != 1:
            raise DTypeError(f"bincount: takes a vector of integers, not {x.dtype} {x.shape}")
        minlength = integer("bincount: minlength", minlength, 0)
        if length is None:
            least, most = (int(self.min()), int(self.max())) if self.size else (0, -1)
            if least < 0:
                raise IndexOutOfRange(
                    f"bincount: {least} is negative; shift the labels to start at 0"
                )
            length = max(minlength, most + 1)
        length = integer("bincount: length", length, 0)
        if weights is None:
            rows = build.full(1, x.shape, dtypes.int64, x.device)
            return lift(
                build.scatter_add(index_node("bincount", self, length, 0, None), rows, length)
            )
        return scatter_add(self, weights, length)

    def nonzero(self) -> tuple[Tensor, ...]:
        """Return the indices of elements that are not 0, per axis; computed now and read back."""
        if not self.ndim:
            raise ShapeError("nonzero: a zero-dimensional array has no places; reshape it to (1,)")
        return tuple([as_tensor(i, self._node.device) for i in np.nonzero(self.numpy())])


def _linear(indices: Sequence[Node], extents: Sequence[int], spread: Shape) -> Node:
    """Return positions in the flat array of `extents`; each index is clamped to its extent."""
    total: Node | None = None
    step = math.prod(extents)
    for index, extent in zip(indices, extents, strict=True):
        step //= max(extent, 1)
        index = build.cast(index, dtypes.int64)
        if index.op is not ops.IOTA and not (index.srcs and index.srcs[0].op is ops.IOTA):
            index = build.apply(ops.MAXIMUM, index, build.number(0, index))
            index = build.apply(ops.MINIMUM, index, build.number(max(extent - 1, 0), index))
        part = build.apply(ops.MUL, index, build.number(step, index)) if step != 1 else index
        total = part if total is None else build.apply(ops.ADD, total, part)
    assert total is not None
    return build.broadcast_to(total, spread)


def scatter_add(indices: Any, rows: Any, length: int) -> Tensor:
    """Return (length, …) zeros with ``rows[i]`` added at ``indices[i]``, in the order of i.

    `indices` has shape (n,), `rows` (n, …); gradients flow to `rows`.
    """
    length = integer("scatter_add: length", length, 0)
    (row,) = common("scatter_add", ops.SCATTER_ADD.kinds, rows)
    index = index_node("scatter_add", indices, length, 0, row.device)
    if len(index.shape) != 1 or row.shape[:1] != index.shape:
        raise ShapeError(
            f"scatter_add: indices of shape {index.shape} do not fit rows of shape {row.shape}; "
            "they need (n,) and (n, ...)"
        )
    inputs = [v._node for v in (indices, rows) if isinstance(v, Core)]
    same_device("scatter_add", [*inputs, index])
    return lift(build.scatter_add(index, row, length), *inputs)
