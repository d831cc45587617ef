"""Matrix products and convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from simplegrad import dtypes
from simplegrad.errors import ModelError
from simplegrad.graph import build
from simplegrad.onnx.registry import Call, operator
from simplegrad.tensor.contraction import einsum
from simplegrad.tensor.core import lift
from simplegrad.tensor.elementwise import where
from simplegrad.tensor.tensor import Tensor


@operator("MatMul")
def matmul(call: Call) -> Tensor:
    """MatMul, with NumPy's rules."""
    return call.tensor(0).matmul(call.tensor(1))


@operator("Gemm", since=7)
def gemm(call: Call) -> Tensor:
    """Gemm: alpha A B + beta C, either factor transposed on request."""
    a, b, c = call.tensor(0), call.tensor(1), call.optional(2)
    a = a.transpose() if call.flag("transA") else a
    b = b.transpose() if call.flag("transB") else b
    result = a.matmul(b)
    alpha, beta = call.real("alpha", 1.0), call.real("beta", 1.0)
    if alpha != 1:
        result = result.mul(alpha).cast(a.dtype)
    if c is None:
        return result
    return result.add(c if beta == 1 else c.mul(beta).cast(a.dtype))


@operator("Einsum", since=12)
def einsum_of(call: Call) -> Tensor:
    """Einsum."""
    return einsum(call.string("equation").replace(" ", ""), *call.tensors())


# Convolutions -----------------------------------------------------------------------------------


class Windows:
    """The attributes of sliding windows, which convolutions and pools share."""

    def __init__(self, call: Call, x: Tensor, kernel: Sequence[int]) -> None:
        self.rank = rank = x.ndim - 2
        self.kernel = list(kernel)
        self.strides = call.integers("strides", [1] * rank)
        self.dilations = call.integers("dilations", [1] * rank)
        if not len(self.kernel) == len(self.strides) == len(self.dilations) == rank:
            raise ModelError(
                f"kernel {self.kernel}, strides {self.strides}, dilations {self.dilations} "
                f"do not fit {x.shape}"
            )
        if min(*self.kernel, *self.strides, *self.dilations, 1) < 1:
            raise ModelError("kernel, strides and dilations must be at least 1")
        pads = call.integers("pads", [0] * 2 * rank)
        if len(pads) != 2 * rank:
            raise ModelError(f"pads {pads} are not two numbers for each of {rank} axes")
        self.pads = list(zip(pads[:rank], pads[rank:], strict=True))
        self.auto = call.string("auto_pad", "NOTSET")
        if self.auto not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"):
            raise ModelError(f"auto_pad {self.auto!r} is unknown")
        self.extents = x.shape[2:]
        if self.auto == "VALID":
            self.pads = [(0, 0)] * rank
        elif self.auto != "NOTSET":
            self.pads = [self._same(i) for i in range(rank)]

    def reach(self, i: int) -> int:
        """Return how far a window spans beyond its first element."""
        return self.dilations[i] * (self.kernel[i] - 1)  # type: ignore[no-any-return]

    def _same(self, i: int) -> tuple[int, int]:
        out = -(-self.extents[i] // self.strides[i])
        width = max((out - 1) * self.strides[i] + self.reach(i) + 1 - self.extents[i], 0)
        small, large = width // 2, width - width // 2
        return (small, large) if self.auto == "SAME_UPPER" else (large, small)


def correlate(x: Tensor, w: Tensor, strides: Any, dilations: Any, groups: int) -> Tensor:
    """Return the correlation of (N, C, spatial …) with `w` (out, C / groups, kernel …)."""
    rank = x.ndim - 2
    n, channels = x.shape[:2]
    out, per = w.shape[:2]
    if w.ndim != x.ndim or groups < 1 or channels != per * groups or out % groups:
        raise ModelError(f"input {x.shape} does not fit weights {w.shape} in {groups} groups")
    kernel = w.shape[2:]
    windows = x.window_view(kernel, strides, dilations)
    o, k = "uvwxyz"[:rank], "hijklm"[:rank]
    if groups == 1:
        return windows.einsum(f"nc{o}{k},fc{k}->nf{o}", w)
    places = windows.shape[2 : 2 + rank]
    windows = windows.reshape(n, groups, per, *places, *kernel)
    w = w.reshape(groups, out // groups, per, *kernel)
    return windows.einsum(f"ngc{o}{k},gfc{k}->ngf{o}", w).reshape(n, out, *places)


def padded(x: Tensor, pads: Sequence[tuple[int, int]], value: Any = 0) -> Tensor:
    """Return `x` with its spatial axes padded, or cut where a width is negative."""
    cut = [slice(max(-b, 0), n - max(-a, 0)) for n, (b, a) in zip(x.shape[2:], pads, strict=True)]
    index = slice(None), slice(None), *cut
    x = x[index]
    return x.pad([(0, 0), (0, 0), *[(max(b, 0), max(a, 0)) for b, a in pads]], value)


def convolve(call: Call, x: Tensor, w: Tensor) -> Tensor:
    """Return a convolution with the attributes of Conv, without its bias."""
    kernel = call.integers("kernel_shape", list(w.shape[2:]))
    if kernel != list(w.shape[2:]):
        raise ModelError(f"kernel_shape {kernel} does not fit weights {w.shape}")
    windows = Windows(call, x, kernel)
    x = padded(x, windows.pads)
    return correlate(x, w, windows.strides, windows.dilations, call.integer("group", 1))


def per_channel(x: Tensor, rank: int) -> Tensor:
    """Return a vector of one number per channel so that it broadcasts over (N, C, spatial …)."""
    return x.reshape(-1, *[1] * (rank - 2))


@operator("Conv")
def conv(call: Call) -> Tensor:
    """Conv in any number of spatial axes."""
    result = convolve(call, call.tensor(0), call.tensor(1))
    return result.add(per_channel(call.tensor(2), result.ndim)) if call.has(2) else result


@operator("ConvInteger", since=10)
def conv_integer(call: Call) -> Tensor:
    """ConvInteger: both operands less their zero points, added up in int32."""
    x, w = call.tensor(0).cast(dtypes.int32), call.tensor(1).cast(dtypes.int32)
    x = x.sub(call.tensor(2).cast(dtypes.int32)) if call.has(2) else x
    if call.has(3):
        zero = call.tensor(3).cast(dtypes.int32)
        w = w.sub(zero.reshape(-1, *[1] * (w.ndim - 1)) if zero.ndim else zero)
    return convolve(call, x, w)


@operator("ConvTranspose")
def conv_transpose(call: Call) -> Tensor:
    """ConvTranspose: the correlation of the input, spread by the stride, with flipped weights."""
    x, w = call.tensor(0), call.tensor(1)
    groups = call.integer("group", 1)
    kernel = list(w.shape[2:])
    windows = Windows(call, x, call.integers("kernel_shape", kernel))
    if windows.kernel != kernel or groups < 1 or w.shape[0] != x.shape[1] or w.shape[0] % groups:
        raise ModelError(f"input {x.shape} does not fit weights {w.shape} in {groups} groups")
    extra = call.integers("output_padding", [0] * windows.rank)
    wanted = call.integers("output_shape", None)
    pads = []
    for i, n in enumerate(x.shape[2:]):
        stride, reach = windows.strides[i], windows.reach(i)
        full = stride * (n - 1) + extra[i] + reach + 1
        if wanted is None and windows.auto in ("NOTSET", "VALID"):
            before, after = windows.pads[i]
        else:
            width = full - (wanted[-windows.rank :][i] if wanted is not None else n * stride)
            before = width // 2 if windows.auto == "SAME_UPPER" else width - width // 2
            after = width - before
        pads.append((reach - before, reach - after + extra[i]))
    spread = [(0, 0, 0), (0, 0, 0), *[(0, 0, s - 1) for s in windows.strides]]
    x = lift(build.pad(x._node, spread), x._node)
    per = w.shape[0] // groups
    w = w.flip(tuple(range(2, w.ndim))).reshape(groups, per, *w.shape[1:]).swapaxes(1, 2)
    w = w.reshape(groups * w.shape[1], per, *kernel)
    result = correlate(padded(x, pads), w, [1] * windows.rank, windows.dilations, groups)
    return result.add(per_channel(call.tensor(2), result.ndim)) if call.has(2) else result


@operator("Dropout", since=12)
def dropout(call: Call) -> tuple[Tensor, Tensor]:
    """Dropout: at rest the input itself; in training mode with the default generator."""
    x = call.tensor(0)
    ratio = float(call.number(1)) if call.has(1) else 0.5
    training = bool(call.number(2)) if call.has(2) else False
    kept = x.cast(dtypes.float32).mul(0).equal(0)
    if not training or ratio == 0:
        return x, kept.logical_or(True)
    mask = kept.logical_or(True).cast(dtypes.float32).dropout(ratio).greater(0)
    return where(mask, x.mul(1 / (1 - ratio) if ratio < 1 else 0.0), 0), mask


@operator("Dropout", since=7, until=10)
def dropout_at_rest(call: Call) -> tuple[Tensor, Tensor]:
    """Dropout as it was before opset 12, which knows no training."""
    x = call.tensor(0)
    return x, x.equal(x).logical_or(True)
