"""The gradient of `as_strided`: a gather for regular windows, a scatter-add for anything else.

A view is *regular* if each axis of the operand is read by one result axis, or by two of which one
steps over positions and the other runs through the window (``window_view``, dilated or not). The
gradient of element i is then the sum over window offsets j of that at ((i - dilation j) / step, j):
a flip, a padding that spreads the steps apart, a diagonal view, and one sum. No atomics, one order.
"""

from __future__ import annotations

from dataclasses import dataclass

from simplegrad import dtypes, ops
from simplegrad.graph import build
from simplegrad.graph.infer import size_of
from simplegrad.graph.node import Node


@dataclass(frozen=True)
class _Axis:
    """One operand axis: the result axes that read it, with their steps in positions."""

    extent: int
    start: int
    position: int | None
    step: int
    window: int | None
    dilation: int = 1


def as_strided(node: Node, g: Node) -> tuple[Node | None, ...]:
    """Return the gradient of the operand."""
    axes = _regular(node)
    if axes is None:
        return (_scattered(node, g),)
    shape = node.arg[0]
    order = [a for axis in axes for a in (axis.position, axis.window) if a is not None]
    extra = [a for a in range(len(shape)) if a not in order]
    g = build.reduce(ops.SUM, g, extra)  # result axes of stride 0 read the same elements
    left = [a for a in range(len(shape)) if a not in extra]
    g = build.permute(g, [left.index(a) for a in order])
    for done, axis in enumerate(axes):
        count, width = (1 if a is None else shape[a] for a in (axis.position, axis.window))
        g = _fold(g, done, axis, count, width)
    return (g,)


def _regular(node: Node) -> list[_Axis] | None:
    shape, strides, offset = node.arg
    source = node.srcs[0].shape
    if not size_of(shape) or not size_of(source):
        return None
    steps = [1] * len(source)
    for a in range(len(source) - 2, -1, -1):
        steps[a] = steps[a + 1] * source[a + 1]
    readers: list[list[tuple[int, int]]] = [[] for _ in source]
    for a, (extent, stride) in enumerate(zip(shape, strides, strict=True)):
        if extent == 1 or stride == 0:
            continue
        if stride < 0:
            return None
        fits = [b for b, (n, s) in enumerate(zip(source, steps, strict=True))
                if n > 1 and stride % s == 0 and stride // s < n]  # fmt: skip
        if not fits:
            return None
        readers[fits[0]].append((a, stride // steps[fits[0]]))
    axes = []
    for b, found in enumerate(readers):
        start = offset // steps[b] % source[b]
        reach = start + sum((shape[a] - 1) * step for a, step in found)
        if len(found) > 2 or reach >= source[b]:
            return None
        # The work is extent · window: the shorter axis is the window, whichever was meant as one.
        found.sort(key=lambda pair: (-shape[pair[0]], -pair[1]))
        if len(found) == 2:
            (position, step), (window, dilation) = found
            axes.append(_Axis(source[b], start, position, step, window, dilation))
        elif found:
            axes.append(_Axis(source[b], start, found[0][0], found[0][1], None))
        else:
            axes.append(_Axis(source[b], start, None, 1, None))
    return axes


def _fold(g: Node, at: int, axis: _Axis, count: int, width: int) -> Node:
    """Turn the axes (position, window) at `at` of the gradient into the operand's one axis.

    They have extents (count, width).
    """
    if axis.position is None:  # one element of the axis is read
        g = build.reshape(g, (*g.shape[:at], 1, *g.shape[at:]))
        return _padded(g, at, (axis.start, axis.extent - 1 - axis.start, 0))
    if axis.window is not None and axis.dilation == 1 and width <= axis.step:
        return _side_by_side(g, at, axis, count, width)
    spread = (count - 1) * axis.step + 1
    if axis.window is None:
        after = axis.extent - axis.start - spread
        return _padded(g, at, (axis.start, after, axis.step - 1))
    # Offset j of the window stands at column j' = width-1-j of the flipped axis, and what belongs
    # to element i at row i + dilation·j' of the padded one: a diagonal, summed over j'.
    g = build.flip(g, [at + 1])
    before = axis.start + (width - 1) * axis.dilation
    after = axis.extent - axis.start - spread
    g = _padded(g, at, (before, after, axis.step - 1))
    inner = size_of(g.shape[at + 2 :])
    strides = [0] * len(g.shape)
    step = 1
    for a in range(len(g.shape) - 1, -1, -1):
        strides[a] = step
        step *= g.shape[a]
    view = (*g.shape[:at], axis.extent, width, *g.shape[at + 2 :])
    walk = (*strides[:at], width * inner, (width * axis.dilation + 1) * inner, *strides[at + 2 :])
    g = build.as_strided(g, view, walk)
    return build.reduce(ops.SUM, g, [at + 1])


def _side_by_side(g: Node, at: int, axis: _Axis, count: int, width: int) -> Node:
    """Put windows of at most a step's width after each other: no element is in two of them."""
    g = _padded(g, at + 1, (0, axis.step - width, 0))
    whole, room = count * axis.step, axis.extent - axis.start
    g = build.reshape(g, (*g.shape[:at], whole, *g.shape[at + 2 :]))
    kept = min(whole, room)
    g = build.slice_(g, [(0, kept if a == at else n, 1) for a, n in enumerate(g.shape)])
    return _padded(g, at, (axis.start, room - kept, 0))


def _padded(g: Node, at: int, width: tuple[int, int, int]) -> Node:
    return build.pad(g, [width if a == at else (0, 0, 0) for a in range(len(g.shape))])


def _scattered(node: Node, g: Node) -> Node:
    """Add every element's gradient at the flat position that it was read from."""
    shape, strides, offset = node.arg
    source = node.srcs[0]
    if not g.size:
        return build.full(0, source.shape, g.dtype, g.device)
    flat = build.full(offset, shape, dtypes.int64, g.device)
    for a, (extent, stride) in enumerate(zip(shape, strides, strict=True)):
        steps = build.iota(extent, dtypes.int64, g.device)
        steps = build.apply(ops.MUL, steps, build.number(stride, steps))
        steps = build.reshape(steps, tuple(extent if b == a else 1 for b in range(len(shape))))
        flat = build.apply(ops.ADD, flat, steps)
    sums = build.scatter_add(
        build.reshape(flat, (g.size,)), build.reshape(g, (g.size,)), source.size
    )
    return build.reshape(sums, source.shape)
