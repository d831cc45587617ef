"""Views: other shapes and orders of the same elements; they cost nothing until they are read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from simplegrad import ops
from simplegrad.arguments import integer, several
from simplegrad.errors import DTypeError, ShapeError
from simplegrad.graph import build
from simplegrad.graph.infer import size_of
from simplegrad.graph.node import Node, make
from simplegrad.tensor.core import Core, Number, common, lift, number_node, operand
from simplegrad.tensor.elementwise import Elementwise
from simplegrad.tensor.naming import named
from simplegrad.tensor.shapes import flat, normalize_axes, normalize_axis, pair, shape_of

if TYPE_CHECKING:
    from simplegrad.tensor.tensor import Tensor


def concat_nodes(nodes: Sequence[Node], axis: int) -> Node:
    """Return nodes of one dtype joined along an axis."""
    return nodes[0] if len(nodes) == 1 else make(ops.CONCAT, tuple(nodes), axis)


def concat(tensors: Sequence[Any], axis: int | None = 0) -> Tensor:
    """Return arrays joined along `axis`; None joins them flattened. Dtypes promote.

    >>> import simplegrad as sg
    >>> sg.concat([sg.arange(2), sg.arange(3)])
    Tensor([0, 1, 0, 1, 2], dtype=int64)
    """
    tensors = several("concat: the arrays", tensors)
    if not tensors:
        raise ShapeError("concat: needs at least one array")
    nodes = list(common("concat", ops.WHERE.kinds, *tensors))
    if axis is None:
        nodes = [build.reshape(n, (n.size,)) for n in nodes]
        axis = 0
    first = nodes[0].shape
    axis = normalize_axis("concat", axis, len(first))
    for node in nodes:
        rest = node.shape[:axis] + node.shape[axis + 1 :]
        if len(node.shape) != len(first) or rest != first[:axis] + first[axis + 1 :]:
            raise ShapeError(
                f"concat: shapes {first} and {node.shape} differ outside of axis {axis}; "
                "reshape or pad one"
            )
    inputs = [t._node for t in tensors if isinstance(t, Core)]
    return lift(concat_nodes(nodes, axis), *inputs)


def stack(tensors: Sequence[Any], axis: int = 0) -> Tensor:
    """Return arrays of one shape joined along a new axis."""
    tensors = several("stack: the arrays", tensors)
    if not tensors:
        raise ShapeError("stack: needs at least one array")
    nodes = common("stack", ops.WHERE.kinds, *tensors)
    shape = nodes[0].shape
    axis = normalize_axis("stack", axis, len(shape) + 1)
    for node in nodes:
        if node.shape != shape:
            raise ShapeError(f"stack: shapes {shape} and {node.shape} differ; reshape or pad one")
    inputs = [t._node for t in tensors if isinstance(t, Core)]
    wide = (*shape[:axis], 1, *shape[axis:])
    return lift(concat_nodes([build.reshape(n, wide) for n in nodes], axis), *inputs)


class Views(Elementwise):
    """Other shapes and orders of the elements."""

    __slots__ = ()

    def _view(self, node: Node) -> Tensor:
        return lift(node, self._node)

    def reshape(self, *shape: Any, copy: bool | None = None) -> Tensor:
        """Return the elements in row-major order with other extents; one may be -1.

        >>> import simplegrad as sg
        >>> sg.arange(6).reshape(2, -1).shape
        (2, 3)
        """
        new = flat("reshape", shape)
        if new.count(-1) == 1:
            known = -size_of(new)
            if known == 0 or self.size % known:
                raise ShapeError(
                    f"reshape: {self.shape} of {self.size} elements does not fit {new}; "
                    "the -1 would have to be a fraction"
                )
            new = tuple(self.size // known if n == -1 else n for n in new)
        elif any(n < 0 for n in new):
            raise ShapeError(f"reshape: {new} may hold one -1 and no other negative extent")
        return self._view(build.reshape(self._node, new))

    def flatten(self) -> Tensor:
        """Return the elements as one axis."""
        return self.reshape(-1 if self.size else 0)

    ravel = named(flatten, "ravel", flatten.__doc__)

    def permute(self, *axes: Any) -> Tensor:
        """Return the axes in another order: ``result.shape[i] == self.shape[axes[i]]``."""
        order = normalize_axes("permute", flat("permute", axes), self.ndim)
        if len(order) != self.ndim:
            raise ShapeError(f"permute: axes {axes} do not name all axes of shape {self.shape}")
        return self._view(build.permute(self._node, order))

    permute_dims = named(permute, "permute_dims", permute.__doc__)

    def transpose(self, *axes: Any) -> Tensor:
        """Return the axes in the order given, or reversed, as NumPy does."""
        if not axes or (len(axes) == 1 and axes[0] is None):
            return self._view(build.permute(self._node, range(self.ndim)[::-1]))
        return self.permute(*axes)

    def swapaxes(self, a: int, b: int) -> Tensor:
        """Return two axes exchanged."""
        order = list(range(self.ndim))
        a, b = (normalize_axis("swapaxes", i, self.ndim) for i in (a, b))
        order[a], order[b] = b, a
        return self.permute(order) if order else self._view(self._node)

    def moveaxis(self, source: Any, destination: Any) -> Tensor:
        """Return some axes moved to new places, the others keeping their order."""
        src = normalize_axes("moveaxis", source, self.ndim)
        dst = normalize_axes("moveaxis", destination, self.ndim)
        if len(src) != len(dst):
            raise ShapeError(f"moveaxis: {source} and {destination} differ in length")
        order = [a for a in range(self.ndim) if a not in src]
        for place, axis in sorted(zip(dst, src, strict=True)):
            order.insert(place, axis)
        return self._view(build.permute(self._node, order))

    @property
    def T(self) -> Tensor:
        """The axes reversed."""
        return self.transpose()

    @property
    def mT(self) -> Tensor:
        """The last two axes exchanged."""
        if self.ndim < 2:
            raise ShapeError(f"mT: shape {self.shape} has fewer than two axes")
        return self.swapaxes(-1, -2)

    def matrix_transpose(self) -> Tensor:
        """Return the last two axes exchanged."""
        return self.mT

    def broadcast_to(self, *shape: Any) -> Tensor:
        """Return the elements repeated along new leading axes and axes of extent 1."""
        new = flat("broadcast_to", shape)
        lead = len(new) - self.ndim
        if lead < 0 or any(n not in (1, m) for n, m in zip(self.shape, new[lead:], strict=True)):
            raise ShapeError(f"broadcast_to: shape {self.shape} does not broadcast to {new}")
        return self._view(build.broadcast_to(self._node, new))

    def expand_dims(self, axis: Any = 0) -> Tensor:
        """Return new axes of extent 1 at the places `axis` of the result."""
        places = (axis,) if hasattr(axis, "__index__") else several("expand_dims: axis", axis)
        axes = normalize_axes("expand_dims", places, self.ndim + len(places))
        rest = iter(self.shape)
        new = [1 if a in axes else next(rest) for a in range(self.ndim + len(places))]
        return self._view(build.reshape(self._node, tuple(new)))

    def squeeze(self, axis: Any = None) -> Tensor:
        """Return the array without axes of extent 1: all of them, or those given."""
        if axis is None:
            axes = tuple(a for a, n in enumerate(self.shape) if n == 1)
        else:
            axes = normalize_axes("squeeze", axis, self.ndim)
        if any(self.shape[a] != 1 for a in axes):
            raise ShapeError(f"squeeze: axis {axis} of shape {self.shape} is not of extent 1")
        new = tuple(n for a, n in enumerate(self.shape) if a not in axes)
        return self._view(build.reshape(self._node, new))

    def flip(self, axis: Any = None) -> Tensor:
        """Return the elements reversed along all axes, or those given."""
        return self._view(build.flip(self._node, normalize_axes("flip", axis, self.ndim)))

    def pad(self, widths: Any, value: bool | int | float = 0) -> Tensor:
        """Return the array with `value` around it.

        `widths` is a number, one (before, after) for all axes, or a pair for each axis. `value`
        is part of the compiled program.
        """
        if hasattr(widths, "__index__"):
            widths = (widths, widths)
        widths = several("pad: widths", widths)
        if widths and hasattr(widths[0], "__index__"):
            widths = [widths] * self.ndim
        pairs = [shape_of("pad: widths", w) for w in widths]
        if len(pairs) != self.ndim or any(len(w) != 2 for w in pairs):
            raise ShapeError(
                f"pad: widths {widths} are not a pair (before, after) for each axis of {self.shape}"
            )
        triples = [(b, a, 0) for b, a in pairs]
        return self._view(build.pad(self._node, triples, self._fill("pad", value)))

    def _fill(self, name: str, value: Any) -> bool | int | float:
        value = operand(name, value, self._node.device)
        if not isinstance(value, Number):
            raise DTypeError(f"{name}: the value must be a number, not {type(value).__name__}")
        dtype = self.dtype
        if not dtype.is_float and isinstance(value, float):
            raise DTypeError(f"{name}: {value} is no {dtype}; cast the array or the value first")
        return number_node(name, value, dtype, None).value  # type: ignore[no-any-return]

    def as_strided(self, shape: Any, strides: Any, offset: int = 0) -> Tensor:
        """Return a window onto the row-major elements; `strides` and `offset` in elements.

        Elements may repeat; their gradients add up. `IndexOutOfRange` where the window would leave
        the array.

        >>> import simplegrad as sg
        >>> sg.arange(4).as_strided((3, 2), (1, 1))
        Tensor([[0, 1],
                [1, 2],
                [2, 3]], dtype=int64)
        """
        shape, strides = shape_of("as_strided", shape), shape_of("as_strided", strides)
        offset = integer("as_strided: offset", offset)
        return self._view(build.as_strided(self._node, shape, strides, offset))

    def window_view(self, kernel_size: Any = (2, 2), stride: Any = 1, dilation: Any = 1) -> Tensor:
        """Return all windows of an (N, C, spatial …) array as (N, C, out …, kernel …).

        ``out = (extent - dilation * (kernel - 1) - 1) // stride + 1``; nothing is copied.
        """
        kernel = shape_of("window_view", kernel_size)
        rank = len(kernel)
        if not rank:
            raise ShapeError("window_view: kernel () has no extents; give one per spatial axis")
        stride = pair("window_view: stride", stride, rank)
        dilation = pair("window_view: dilation", dilation, rank)
        if self.ndim != rank + 2:
            raise ShapeError(
                f"window_view: a kernel of shape {kernel} needs an array of N, C and {rank} "
                f"spatial axes, not {self.shape}"
            )
        if min(*kernel, *stride, *dilation, 1) < 1:
            raise ShapeError(
                f"window_view: kernel {kernel}, stride {stride}, dilation {dilation} must be >= 1"
            )
        spatial = self.shape[2:]
        setup = list(zip(spatial, kernel, stride, dilation, strict=True))
        out = tuple([(n - d * (k - 1) - 1) // s + 1 for n, k, s, d in setup])
        if min(out) < 1:
            raise ShapeError(
                f"window_view: kernel {kernel} with dilation {dilation} is larger than {spatial}; "
                "pad the array first"
            )
        steps = [math.prod(self.shape[a + 1 :]) for a in range(self.ndim)]
        strides = (
            *steps[:2],
            *[p * s for p, s in zip(steps[2:], stride, strict=True)],
            *[p * d for p, d in zip(steps[2:], dilation, strict=True)],
        )
        return self._view(
            build.as_strided(self._node, (*self.shape[:2], *out, *kernel), strides, 0)
        )

    def split(self, sections: Any, axis: int = 0) -> list[Tensor]:
        """Return parts along `axis`: a number of equal parts, or the places where to cut."""
        axis = normalize_axis("split", axis, self.ndim)
        extent = self.shape[axis]
        if hasattr(sections, "__index__"):
            sections = integer("split: sections", sections)
            if sections < 1 or sections > max(extent, 1) or extent % sections:
                raise ShapeError(f"split: axis {axis} of {extent} does not divide into {sections}")
            size = extent // sections
            cuts = [size * i for i in range(1, sections)]
        else:
            places = shape_of("split: sections", sections)
            cuts = [min(max(c + extent if c < 0 else c, 0), extent) for c in places]
        bounds = zip([0, *cuts], [*cuts, extent], strict=True)
        parts = []
        for start, end in bounds:
            steps = [(0, n, 1) for n in self.shape]
            steps[axis] = (start, max(end - start, 0), 1) if end > start else (0, 0, 1)
            parts.append(self._view(build.slice_(self._node, steps)))
        return parts

    def tile(self, *repetitions: Any) -> Tensor:
        """Return the whole array repeated along each axis; missing leading axes are added."""
        reps = flat("tile", repetitions)
        if min(reps, default=0) < 0:
            raise ShapeError(f"tile: repetitions {reps} must be 0 or more")
        rank = max(len(reps), self.ndim)
        reps = (1,) * (rank - len(reps)) + reps
        shape = (1,) * (rank - self.ndim) + self.shape
        wide = tuple(n for m in shape for n in (1, m))
        full = tuple(n for r, m in zip(reps, shape, strict=True) for n in (r, m))
        node = build.broadcast_to(build.reshape(self._node, wide), full)
        new = tuple(r * m for r, m in zip(reps, shape, strict=True))
        return self._view(build.reshape(node, new))

    def repeat(self, repeats: Any, axis: int | None = None) -> Tensor:
        """Return each element `repeats` times in a row; without `axis`, of the flat array.

        `repeats` is an integer, or one for each element along `axis`; those of a tensor are
        computed now and read back, since the result's shape needs them.
        """
        repeats = repeats.tolist() if isinstance(repeats, Core) else repeats
        if axis is None:
            return self.flatten().repeat(repeats, 0)
        axis = normalize_axis("repeat", axis, self.ndim)
        if not hasattr(repeats, "__index__"):
            counts = shape_of("repeat: repeats", repeats)
            if min(counts, default=0) < 0:
                raise ShapeError(f"repeat: repeats {counts} must be 0 or more")
            if len(counts) != self.shape[axis]:
                raise ShapeError(f"repeat: {len(counts)} counts for axis {axis} of {self.shape}")
            return self.take([i for i, r in enumerate(counts) for _ in range(r)], axis)  # type: ignore
        repeats = integer("repeat: repeats", repeats, 0)
        axis += 1
        shape = self.shape
        node = build.reshape(self._node, (*shape[:axis], 1, *shape[axis:]))
        node = build.broadcast_to(node, (*shape[:axis], repeats, *shape[axis:]))
        new = (*shape[: axis - 1], shape[axis - 1] * repeats, *shape[axis:])
        return self._view(build.reshape(node, new))

    def roll(self, shift: Any, axis: Any = None) -> Tensor:
        """Return the elements moved along axes, those falling out coming in at the other end."""
        if axis is None:
            return self.flatten().roll(shift, 0).reshape(self.shape)
        axes = normalize_axes("roll", axis, self.ndim)
        node = self._node
        for a, s in zip(axes, pair("roll", shift, len(axes)), strict=True):
            n = node.shape[a]
            s = s % n if n else 0
            if s:
                whole = [(0, m, 1) for m in node.shape]
                tail, head = list(whole), list(whole)
                tail[a], head[a] = (n - s, s, 1), (0, n - s, 1)
                node = concat_nodes([build.slice_(node, tail), build.slice_(node, head)], a)
        return self._view(node)

    def diagonal(self, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Tensor:
        """Return a diagonal of two axes as the last axis; a positive `offset` is to its right.

        >>> import simplegrad as sg
        >>> sg.arange(6).reshape(2, 3).diagonal(1)
        Tensor([1, 5], dtype=int64)
        """
        if self.ndim < 2:
            raise ShapeError(f"diagonal: shape {self.shape} has fewer than two axes; reshape it")
        offset = integer("diagonal: offset", offset)
        pair = [normalize_axis("diagonal", a, self.ndim) for a in (axis1, axis2)]
        if pair[0] == pair[1]:
            raise ShapeError(f"diagonal: axis1 and axis2 are both {axis1}; give two axes")
        rows, columns = (self.shape[a] for a in pair)
        length = max(min(rows + min(offset, 0), columns - max(offset, 0)), 0)
        steps = [math.prod(self.shape[a + 1 :]) for a in range(self.ndim)]
        start = max(offset, 0) * steps[pair[1]] - min(offset, 0) * steps[pair[0]]
        lead = [a for a in range(self.ndim) if a not in pair]
        shape = (*[self.shape[a] for a in lead], length)
        strides = (*[steps[a] for a in lead], steps[pair[0]] + steps[pair[1]])
        return self._view(build.as_strided(self._node, shape, strides, start if length else 0))
