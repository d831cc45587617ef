"""Functions made of others: activations, normalisation, convolutions, pooling, losses."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from simplegrad import dtypes, ops, settings
from simplegrad.arguments import flag, integer, one_of, real
from simplegrad.errors import DTypeError, IndexOutOfRange, ShapeError
from simplegrad.graph import build
from simplegrad.graph.node import Node, make
from simplegrad.tensor import generator as generators
from simplegrad.tensor.contraction import Contraction
from simplegrad.tensor.core import Core, as_tensor, lift, same_device, wrap
from simplegrad.tensor.modes import no_grad
from simplegrad.tensor.naming import named
from simplegrad.tensor.shapes import is_same, normalize_axes, normalize_axis, pair
from simplegrad.tensor.stamped import stamped

if TYPE_CHECKING:
    from simplegrad.tensor.tensor import Tensor


def _number(op: ops.Op, x: Node, value: float) -> Node:
    """Return ``op(x, value)`` with a number that is part of the program."""
    return make(op, (x, build.number(value, x)))


def _halves(x: Node) -> tuple[Node, Node]:
    """Return (x >= 0, exp(-|x|)), written so that the gradient at 0 is right."""
    positive = _number(ops.GREATER_EQUAL, x, 0)
    minus = build.apply(ops.WHERE, positive, make(ops.NEG, (x,)), x)
    return positive, make(ops.EXP, (minus,))


def reduced(loss: Any, reduction: str) -> Tensor:
    """Return the mean, the sum, or all of a loss."""
    one_of("loss: reduction", reduction, ("mean", "sum", "none"))
    return loss if reduction == "none" else getattr(loss, reduction)()  # type: ignore[no-any-return]


def _fits(shape: tuple[int, ...], target: tuple[int, ...]) -> bool:
    """Whether an array of one shape broadcasts to another."""
    pairs = zip(reversed(shape), reversed(target), strict=False)
    return len(shape) <= len(target) and all(n in (1, m) for n, m in pairs)


class Composites(Contraction):
    """Neural network functions; all are differentiable."""

    __slots__ = ()

    def _floating(self) -> Node:
        x = self._node
        return x if x.dtype.is_float else build.cast(x, dtypes.default_float())

    # Activations --------------------------------------------------------------------------------

    @stamped
    def relu(self) -> Tensor:
        """Return max(x, 0); NaN stays.

        >>> from simplegrad import Tensor
        >>> Tensor([-1.0, 2.0]).relu()
        Tensor([0., 2.], dtype=float32)
        """
        return lift(_number(ops.MAXIMUM, self._node, 0), self._node)

    @stamped
    def sigmoid(self) -> Tensor:
        """Return 1 / (1 + exp(-x)), without overflow on either side."""
        x = self._floating()
        positive, e = _halves(x)
        above = build.apply(ops.WHERE, positive, build.number(1, x), e)
        return lift(build.apply(ops.DIV, above, _number(ops.ADD, e, 1)), self._node)

    @stamped
    def softplus(self) -> Tensor:
        """Return log(1 + exp(x)) without overflow."""
        x = self._floating()
        positive, e = _halves(x)
        line = build.apply(ops.WHERE, positive, x, build.number(0, x))
        return lift(build.apply(ops.ADD, line, make(ops.LOG1P, (e,))), self._node)

    @stamped
    def silu(self) -> Tensor:
        """Return x * sigmoid(x)."""
        return self.mul(self.sigmoid())

    @stamped
    def gelu(self, approximate: str = "none") -> Tensor:
        """Return x times the normal distribution's mass below x; ``"tanh"`` approximates it."""
        one_of("gelu: approximate", approximate, ("none", "tanh"))
        x = self._floating()
        if approximate == "tanh":
            cube = make(ops.MUL, (make(ops.MUL, (x, x)), x))
            inner = build.apply(ops.ADD, x, _number(ops.MUL, cube, 0.044715))
            bent = make(ops.TANH, (_number(ops.MUL, inner, math.sqrt(2 / math.pi)),))
        else:
            bent = make(ops.ERF, (_number(ops.MUL, x, math.sqrt(0.5)),))
        half = _number(ops.MUL, x, 0.5)
        return lift(make(ops.MUL, (half, _number(ops.ADD, bent, 1))), self._node)

    @stamped
    def leaky_relu(self, slope: float = 0.01) -> Tensor:
        """Return x where it is positive, else x times `slope`."""
        return self.greater(0).where(self, self.mul(slope))

    @stamped
    def elu(self, alpha: float = 1.0) -> Tensor:
        """Return x where it is positive, else alpha * (exp(x) - 1)."""
        return self.greater(0).where(self, self.minimum(0).expm1().mul(alpha))

    def _shifted(self, axis: Any) -> Tensor:
        """Return x minus its maximum along `axis`, which gets no gradient: it cancels out."""
        x = wrap(self._floating()) if not self.dtype.is_float else self
        if not x.size:
            return wrap(x._node)
        with no_grad():
            top = x.max(axis, True)
        return x.sub(top)

    @stamped
    def softmax(self, axis: Any = -1) -> Tensor:
        """Return exp(x) / sum(exp(x)) along `axis`.

        >>> from simplegrad import Tensor
        >>> Tensor([0.0, 0.0]).softmax()
        Tensor([0.5, 0.5], dtype=float32)
        """
        axis = normalize_axes("softmax", axis, self.ndim)
        e = self._shifted(axis).exp()
        return e.mul(e.sum(axis, True).reciprocal())

    @stamped
    def logsoftmax(self, axis: Any = -1) -> Tensor:
        """Return log(softmax(x)) along `axis`, exact where softmax is tiny."""
        axis = normalize_axes("logsoftmax", axis, self.ndim)
        x = self._shifted(axis)
        return x.sub(x.exp().sum(axis, True).log())

    log_softmax = named(logsoftmax, "log_softmax", logsoftmax.__doc__)

    # Normalisation and dropout --------------------------------------------------------------------

    @stamped
    def layer_norm(
        self, axes: Any = -1, weight: Any = None, bias: Any = None, eps: float = 1e-5
    ) -> Tensor:
        """Return x with mean 0 and variance 1 over `axes`, times `weight`, plus `bias`."""
        axes = normalize_axes("layer_norm", axes, self.ndim)
        for name, value in (("weight", weight), ("bias", bias)):
            if value is None:
                continue
            shape = as_tensor(value, self._node.device).shape
            if not _fits(shape, self.shape):
                raise ShapeError(
                    f"layer_norm: {name} of shape {shape} does not broadcast to {self.shape}; "
                    f"it needs the extents of axes {axes}"
                )
        far = self.sub(self.mean(axes, True))
        result = far.mul(far.square().mean(axes, True).add(eps).rsqrt())
        result = result if weight is None else result.mul(weight)
        return result if bias is None else result.add(bias)

    @stamped
    def batch_norm(
        self,
        weight: Any = None,
        bias: Any = None,
        mean: Any = None,
        var: Any = None,
        axis: int = 1,
        eps: float = 1e-5,
    ) -> Tensor:
        """Return x normalised per channel `axis`, times `weight`, plus `bias`, each (channels,).

        With `mean` and `var` (for instance running averages) those are used; without, the batch's.
        """
        axis = normalize_axis("batch_norm", axis, self.ndim)
        others = tuple([a for a in range(self.ndim) if a != axis])
        if (mean is None) != (var is None):
            raise ShapeError("batch_norm: give both mean and var, or neither")
        if mean is None:
            far = self.sub(self.mean(others, True))
            spread = far.square().mean(others, True)
        else:
            far = self.sub(self._channels(mean, axis))
            spread = self._channels(var, axis)
        result = far.mul(spread.add(eps).rsqrt())
        result = result if weight is None else result.mul(self._channels(weight, axis))
        return result if bias is None else result.add(self._channels(bias, axis))

    def _channels(self, value: Any, axis: int) -> Tensor:
        tensor = as_tensor(value, self._node.device)
        return tensor.reshape([-1 if a == axis else 1 for a in range(self.ndim)])

    def dropout(self, p: float = 0.5, training: bool = True, generator: Any = None) -> Tensor:
        """Return x with each element zeroed with probability `p`, the others times 1 / (1 - p).

        `generator` is a `simplegrad.random.Generator`; None: the default one.
        """
        real("dropout: p", p, 0, 1)
        if not flag("dropout: training", training) or p == 0:
            return wrap(self._node)
        source = generators.of(generator)
        uniform = lift(source.uniform(self.shape, dtypes.float32, self._node.device))
        scale = 1 / (1 - p) if p < 1 else 0.0
        return uniform.greater_equal(float(p)).where(self.mul(scale), 0)

    # Convolution and pooling ----------------------------------------------------------------------

    @stamped
    def _conv(
        self, name: str, w: Any, rank: int, bias: Any, settings_: tuple[Any, Any, Any, int]
    ) -> Tensor:
        w = as_tensor(w, self._node.device)
        padding, stride, dilation, groups = settings_
        if self.ndim != rank + 2 or w.ndim != rank + 2:
            raise ShapeError(
                f"{name}: needs (N, C, spatial ...) and weights (out, C / groups, kernel ...), "
                f"got {self.shape} and {w.shape}"
            )
        n, channels = self.shape[:2]
        out, per = w.shape[:2]
        groups = integer(f"{name}: groups", groups, 1)
        if channels != per * groups or out % groups:
            raise ShapeError(
                f"{name}: input {self.shape} of {channels} channels does not fit weights "
                f"{w.shape} with {groups} groups"
            )
        kernel = w.shape[2:]
        x = self._padded(name, padding, kernel, dilation, 0)
        windows = x.window_view(kernel, stride, dilation)
        places = windows.shape[2 : 2 + rank]
        o, k = "xyz"[:rank], "ijk"[:rank]
        if groups == 1:
            result = windows.einsum(f"nc{o}{k},fc{k}->nf{o}", w)
        else:
            windows = windows.reshape(n, groups, per, *places, *kernel)
            w = w.reshape(groups, out // groups, per, *kernel)
            result = windows.einsum(f"ngc{o}{k},gfc{k}->ngf{o}", w).reshape(n, out, *places)
        return result if bias is None else result.add(result._channels(bias, 1))

    def _padded(self, name: str, padding: Any, kernel: Any, dilation: Any, value: Any) -> Tensor:
        rank = len(kernel)
        if is_same(padding):
            reach = [d * (k - 1) for k, d in zip(kernel, pair(name, dilation, rank), strict=True)]
            sides = [(r // 2, r - r // 2) for r in reach]
        else:
            one = pair(f"{name}: padding", padding, rank)
            if min(one) < 0:
                raise ShapeError(
                    f"{name}: padding {padding} must not be negative; slice to make it smaller"
                )
            sides = [(p, p) for p in one]
        return self.pad([(0, 0), (0, 0), *sides], value)

    def conv1d(
        self,
        w: Any,
        padding: Any = 0,
        stride: Any = 1,
        dilation: Any = 1,
        groups: int = 1,
        bias: Any = None,
    ) -> Tensor:
        """Return the correlation of (N, C, L) with `w` (out, C / groups, kernel)."""
        return self._conv("conv1d", w, 1, bias, (padding, stride, dilation, groups))

    def conv2d(
        self,
        w: Any,
        padding: Any = 0,
        stride: Any = 1,
        dilation: Any = 1,
        groups: int = 1,
        bias: Any = None,
    ) -> Tensor:
        """Return the correlation of (N, C, H, W) with `w` (out, C / groups, kh, kw).

        `padding`, `stride` and `dilation` are a number or a pair; padding may be ``"same"``.
        """
        return self._conv("conv2d", w, 2, bias, (padding, stride, dilation, groups))

    def _pool(self, name: str, kernel: Any, rank: int, value: Any, setup: Any) -> Any:
        padding, stride, dilation = setup
        kernel = pair(f"{name}: kernel_size", kernel, rank)
        if self.ndim != rank + 2:
            raise ShapeError(
                f"{name}: takes (N, C, {'L' if rank == 1 else 'H, W'}), got shape {self.shape}; "
                "insert the missing axes with expand_dims"
            )
        x = self._padded(name, padding, kernel, dilation, value)
        return x.window_view(kernel, stride, dilation)

    @stamped
    def maxpool1d(
        self, kernel_size: Any = 3, padding: Any = 0, stride: Any = 1, dilation: Any = 1
    ) -> Tensor:
        """Return the maximum of each window of an (N, C, L) array."""
        setup = padding, stride, dilation
        return self._pool("maxpool1d", kernel_size, 1, self.dtype.low, setup).max(-1)  # type: ignore

    @stamped
    def maxpool2d(
        self, kernel_size: Any = (3, 3), padding: Any = 0, stride: Any = 1, dilation: Any = 1
    ) -> Tensor:
        """Return the maximum of each window of an (N, C, H, W) array."""
        setup = padding, stride, dilation
        windows = self._pool("maxpool2d", kernel_size, 2, self.dtype.low, setup)
        return windows.max((-1, -2))  # type: ignore[no-any-return]

    @stamped
    def avgpool1d(self, kernel_size: Any = 3, padding: Any = 0, stride: Any = 1) -> Tensor:
        """Return the mean of each window of an (N, C, L) array, padding counted as zeros."""
        return self._pool("avgpool1d", kernel_size, 1, 0, (padding, stride, 1)).mean(-1)  # type: ignore

    @stamped
    def avgpool2d(self, kernel_size: Any = (3, 3), padding: Any = 0, stride: Any = 1) -> Tensor:
        """Return the mean of each window of an (N, C, H, W) array, padding counted as zeros."""
        windows = self._pool("avgpool2d", kernel_size, 2, 0, (padding, stride, 1))
        return windows.mean((-1, -2))  # type: ignore[no-any-return]

    # Losses ---------------------------------------------------------------------------------------

    def cross_entropy(self, target: Any, axis: int = -1, reduction: str = "mean") -> Tensor:
        """Return minus the log-softmax of logits at the target.

        `target` is labels, integers of the logits' shape without `axis`, or probabilities, floats
        of their whole shape; other dtypes are a `DTypeError`, other shapes a `ShapeError`. Labels
        outside of the classes are an error where they come from the host, on the NumPy device, and
        with ``SIMPLEGRAD_CHECK=1``; otherwise they add 0.
        """
        axis = normalize_axis("cross_entropy", axis, self.ndim)
        given = target
        target = as_tensor(target, self._node.device)
        same_device("cross_entropy", (self._node, target._node))
        rest = self.shape[:axis] + self.shape[axis + 1 :]
        needed = self.shape if target.dtype.is_float else rest
        if target.dtype.kind == "b" or target.shape != needed:
            unfit = DTypeError if target.shape in (rest, self.shape) else ShapeError
            raise unfit(
                f"cross_entropy: targets {target.dtype} of shape {target.shape} for logits "
                f"{self.shape}: labels must be integers of shape {rest} (.astype('int64')), "
                f"probabilities floats of shape {self.shape} (.astype('float32'))"
            )
        classes = self.shape[axis]
        on_host = not isinstance(given, Core) or target.device.name == "numpy"
        if not target.dtype.is_float and (on_host or settings.current().check):
            values = np.asarray(given)
            if values.size and not (values.min() >= 0 and values.max() < classes):
                raise IndexOutOfRange(
                    f"cross_entropy: labels {values.min()} … {values.max()} are not all in "
                    f"0 … {classes - 1}"
                )
        return self._cross_entropy(target, axis, reduction)

    @stamped
    def _cross_entropy(self, target: Tensor, axis: int, reduction: str) -> Tensor:
        logs = self.logsoftmax(axis)
        if target.dtype.is_float:
            return reduced(target.mul(logs).sum(axis).neg(), reduction)
        classes = self.shape[axis]
        shape = tuple([classes if a == axis else 1 for a in range(self.ndim)])
        index = build.cast(target._node, dtypes.int64)
        wide = build.reshape(index, (*self.shape[:axis], 1, *self.shape[axis + 1 :]))
        iota = build.reshape(build.iota(classes, dtypes.int64, index.device), shape)
        hit = lift(build.apply(ops.EQUAL, wide, iota))
        return reduced(hit.where(logs, 0).sum(axis).neg(), reduction)

    @stamped
    def mse_loss(self, target: Any, reduction: str = "mean") -> Tensor:
        """Return the squared differences from `target`, averaged unless told otherwise."""
        return reduced(self.sub(target).square(), reduction)

    mse = named(mse_loss, "mse", mse_loss.__doc__)

    def fork(self) -> Tensor:
        """Return a second tensor of the same value; the gradients of both add up.

        The original engine changed its operands in place and needed this before using a value
        twice. Here any tensor may be used any number of times.
        """
        return wrap(self._node)
