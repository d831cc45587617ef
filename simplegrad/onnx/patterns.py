"""Convolutions and pools, found again among windows, contractions and reductions.

The engine has no operation for either: a convolution is an einsum of weights with all windows of
its input. What reads ONNX files knows them by name, so `conv` and `pool` give a node its operator
where it is one, and None where it is not.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from simplegrad import dtypes, ops
from simplegrad.graph.infer import Shape
from simplegrad.graph.node import Node

if TYPE_CHECKING:
    from simplegrad.onnx.writer import Writer


class Windows:
    """All windows of an (N, C, spatial …) array, as (N, C, places …, kernel …)."""

    def __init__(self, source: Node, places: Shape, kernel: Shape, steps: Any) -> None:
        self.source, self.places, self.kernel = source, places, kernel
        self.strides, self.dilations = steps
        self.pads = [(0, 0)] * len(kernel)

    @classmethod
    def of(cls, node: Node) -> Windows | None:
        """Return what an AS_STRIDED node shows, if it shows windows."""
        if node.op is not ops.AS_STRIDED:
            return None
        source = node.srcs[0]
        shape, strides, offset = node.arg
        rank = len(source.shape) - 2
        if rank < 1 or len(shape) != 2 + 2 * rank or offset or 0 in shape:
            return None
        steps = [math.prod(source.shape[a + 1 :]) for a in range(rank + 2)]
        moves = []
        for extent, stride, step in zip(shape, strides, [*steps, *steps[2:]], strict=True):
            if extent > 1 and (stride < step or stride % step):
                return None
            moves.append(stride // step if extent > 1 else 1)
        places, kernel = shape[2 : 2 + rank], shape[2 + rank :]
        along, within = moves[2 : 2 + rank], moves[2 + rank :]
        last = [
            (p - 1) * s + (k - 1) * d
            for p, s, k, d in zip(places, along, kernel, within, strict=True)
        ]
        fits = all(m < n for m, n in zip(last, source.shape[2:], strict=True))
        if shape[:2] != source.shape[:2] or moves[:2] != [1, 1] or not fits:
            return None
        return cls(source, places, kernel, (along, within))

    def without_padding(self, fill: float) -> None:
        """Take the padding of the source, where it is `fill` around the windows' axes."""
        node = self.source
        if node.op is not ops.PAD or node.buffer is not None:
            return
        widths, text = node.arg
        plain = not any(map(any, widths[:2])) and not any(b for _, _, b in widths)
        sizes = zip(widths[2:], node.srcs[0].shape[2:], self.kernel, self.dilations, strict=True)
        # Each window then holds an element that is no padding.
        narrow = all(max(b, a) <= (k - 1) * d < n for (b, a, _), n, k, d in sizes if b or a)
        if plain and narrow and float(text) == fill:
            self.source = node.srcs[0]
            self.pads = [(before, after) for before, after, _ in widths[2:]]

    def attributes(self) -> dict[str, Any]:
        """Return the attributes that ONNX's operators on windows share.

        Elements beyond the last window stay unread, as those operators have it too.
        """
        return {
            "kernel_shape": list(self.kernel),
            "strides": list(self.strides),
            "dilations": list(self.dilations),
            "pads": [b for b, _ in self.pads] + [a for _, a in self.pads],
        }

    def proper(self) -> bool:
        """Whether the operators find as many places as there are windows."""
        sizes = self.source.shape[2:], self.pads, self.kernel, self.strides, self.dilations
        return self.places == tuple(
            (n + sum(p) - (k - 1) * d - 1) // s + 1 for n, p, k, s, d in zip(*sizes, strict=True)
        )


def conv(w: Writer, node: Node) -> str | None:
    """Return the name of a Conv that computes this EINSUM, or None."""
    if len(node.srcs) != 2 or node.dtype not in (dtypes.float32, dtypes.float16):
        return None
    view, weights = node.srcs
    # Axes of extent 1 are dropped before a contraction, and groups of channels split off.
    while view.op is ops.RESHAPE and view.buffer is None:
        view = view.srcs[0]
    windows = Windows.of(view) if view.buffer is None else None
    if windows is None:
        return None
    channels = windows.source.shape[1]
    for groups in range(1, channels + 1):
        if channels % groups == 0 and _is_conv(node, windows, groups):
            break
    else:
        return None
    windows.without_padding(0.0)
    if not windows.proper():
        return None
    per = channels // groups
    out = weights.size // (per * math.prod(windows.kernel))
    kernel = w.shaped(weights, (out, per, *windows.kernel))
    attributes = windows.attributes()
    name = w.op("Conv", w.full(windows.source), kernel, group=groups, **attributes)
    shape = (view.shape[0], out, *windows.places)
    return name if shape == node.shape else w.reshape(name, node.shape)


def _is_conv(node: Node, windows: Windows, groups: int) -> bool:
    """Whether the subscripts are those of a convolution in so many groups."""
    n, channels = windows.source.shape[:2]
    rank, per = len(windows.kernel), channels // groups
    filters, rest = divmod(node.srcs[1].size, groups * per * math.prod(windows.kernel))
    extents = {"n": n, "g": groups, "c": per, "f": filters}
    extents |= {f"o{i}": m for i, m in enumerate(windows.places)}
    extents |= {f"k{i}": m for i, m in enumerate(windows.kernel)}
    places, kernel = [f"o{i}" for i in range(rank)], [f"k{i}" for i in range(rank)]
    terms = (["n", "g", "c", *places, *kernel], ["g", "f", "c", *kernel], ["n", "g", "f", *places])
    labels: dict[str, int] = {}
    shapes = [node.srcs[0].shape, node.srcs[1].shape, node.shape]
    for names, shape, subscript in zip(terms, shapes, node.arg, strict=True):
        names = [x for x in names if extents[x] != 1]
        if rest or [extents[x] for x in names] != list(shape):
            return False
        for name, label in zip(names, subscript, strict=True):
            if labels.setdefault(name, label) != label:
                return False
    return len(set(labels.values())) == len(labels)


def pool(w: Writer, node: Node) -> str | None:
    """Return the name of a MaxPool or of a scaled AveragePool for this reduction, or None."""
    view = node.srcs[0]
    windows = Windows.of(view) if view.buffer is None else None
    if windows is None or node.op not in (ops.MAX, ops.SUM) or node.dtype is not dtypes.float32:
        return None
    rank = len(windows.kernel)
    if node.arg != tuple(range(2 + rank, 2 + 2 * rank)):
        return None
    windows.without_padding(-math.inf if node.op is ops.MAX else 0.0)
    if not windows.proper() or windows.source.op is ops.PAD:
        return None  # a window of -inf alone is the least finite number to onnxruntime's MaxPool
    attributes = windows.attributes()
    if node.op is ops.MAX:
        return w.op("MaxPool", w.full(windows.source), **attributes)
    if any(d != 1 for d in attributes.pop("dilations")):
        return None  # AveragePool has dilations from opset 19 on
    mean = w.op("AveragePool", w.full(windows.source), count_include_pad=1, **attributes)
    return w.op("Mul", mean, w.constant(math.prod(windows.kernel), node.dtype))
