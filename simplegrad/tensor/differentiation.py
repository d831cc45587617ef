"""Gradients as a user asks for them: ``.backward()``, ``.grad``, `grad` and `value_and_grad`.

A gradient is a lazy tensor: asking for it records nodes, reading it computes them. Gradients of
``.backward()`` are numbers, not functions: they do not track. With ``create_graph=True``, and in
`grad` and `value_and_grad`, the nodes of the backward pass track like those of the forward pass, so
that a gradient can be differentiated again.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from simplegrad import ops
from simplegrad.arguments import flag, function, integer, several, shown
from simplegrad.autograd import backward as rules
from simplegrad.errors import ArgumentError, AutogradError, ShapeError
from simplegrad.graph import build
from simplegrad.graph.node import Node, make, topological
from simplegrad.runtime import realize as execution
from simplegrad.tensor.composites import Composites
from simplegrad.tensor.core import _MAX_UNREAD, Core, common, detached, host_node, same_device, wrap
from simplegrad.tensor.modes import mode

if TYPE_CHECKING:
    from simplegrad.tensor.tensor import Tensor


class Differentiation(Composites):
    """Gradients of a tensor, and with respect to it."""

    __slots__ = ()

    @property
    def grad(self) -> Tensor | None:
        """The gradient that ``.backward()`` left here, lazy until it is read; None without."""
        return self._grad

    @grad.setter
    def grad(self, value: Any) -> None:
        if value is not None:
            value = value if isinstance(value, Core) else self._gradient(value)
            if value.shape != self.shape:
                raise ShapeError(
                    f"grad: a gradient of shape {value.shape} does not fit {self.shape}; "
                    "it has the tensor's own shape"
                )
            same_device("grad", (self._node, value._node))
        self._grad, self._unread, self._roots = value, 0, ()

    def _gradient(self, value: Any) -> Tensor:
        """Return a host array or a number as a gradient of this tensor."""
        dtype, device = self.dtype, self._node.device
        return wrap(host_node("grad", value, device, dtype if dtype.is_float else None))

    def zero_grad(self) -> None:
        """Forget the gradient."""
        self._grad, self._unread, self._roots = None, 0, ()

    def compute_along(self, *values: Tensor) -> None:
        """Let the next step of an optimiser that trains this tensor compute `values`, in its plan.

        For what a training step changes on the side, such as the running averages of
        `nn.BatchNorm`: else they would be computed later, from data that must be kept until then.
        Values that nobody holds by then are left out; each call replaces the one before.
        """
        for value in values:
            if not isinstance(value, Core):
                raise ArgumentError(f"compute_along: takes tensors, not {shown(value)}")
        self._along = tuple([weakref.ref(value._node) for value in values])

    def _beside(self) -> list[Node]:
        """Return what an optimiser's step computes besides this tensor: losses, and the above."""
        wanted = (*getattr(self, "_roots", ()), *getattr(self, "_along", ()))
        return [node for ref in wanted if (node := ref()) is not None and node.holders]

    def detach(self) -> Tensor:
        """Return the same values without their history: no gradient flows through the result."""
        return wrap(detached(self._node))

    def backward(self, seed: Any = None, create_graph: bool = False) -> None:
        """Add the gradient of this tensor to ``.grad`` of every live leaf that it came from.

        `seed` is the gradient of this tensor itself, of its shape; without it ones, so that for a
        vector the gradient of the sum results. Nothing is computed until a gradient is read. A
        gradient added to over and over without being read is summed now and then, which bounds
        the memory. `RuntimeWarning` where no such leaf lives.

        >>> from simplegrad import Tensor
        >>> x = Tensor([1.0, 2.0])
        >>> x.mul(x).sum().backward()
        >>> x.grad
        Tensor([2., 4.], dtype=float32)
        """
        root = self._node
        if not root.tracks:
            raise AutogradError(
                f"backward: this {self.dtype} tensor of shape {self.shape} tracks no gradients; it "
                "was made from untracked data, in no_grad(), by detach(), or by an operation "
                "without a gradient"
            )
        start = _seed("backward", root, seed)
        known = _ids([root, start]) if flag("backward: create_graph", create_graph) else None
        found = rules.backward(root, start, fold=known is None and not mode.lazy)
        if known is not None:
            track([g for _, g in found], known)
        if not found:
            warnings.warn(
                "simplegrad: backward reached no tensor that takes a gradient: those this one was "
                "made of are gone, or an optimiser's step has replaced their values since; compute "
                "it again after a step",
                RuntimeWarning,
                stacklevel=2,
            )
        for leaf, gradient in found:
            _accumulate(leaf, gradient, weakref.ref(root))


def _accumulate(leaf: Any, gradient: Node, root: weakref.ref[Node]) -> None:
    before = leaf._grad
    if before is None:
        leaf._grad, leaf._unread, leaf._roots = wrap(gradient), 0, (root,)
        return
    leaf._roots = (*leaf._roots[1 - _MAX_UNREAD :], root)
    total = make(ops.ADD, (before._node, gradient))
    total.tracks = before._node.tracks or gradient.tracks
    leaf._unread = 0 if before._node.buffer is not None else leaf._unread + 1
    leaf._grad = wrap(total)
    if leaf._unread >= _MAX_UNREAD:
        execution.realize([total])
        leaf._unread = 0


def _seed(name: str, root: Node, seed: Any) -> Node:
    if seed is None:
        return build.full(1, root.shape, root.dtype, root.device)
    (node,) = common(name, ops.WHERE.kinds, seed)
    if node.shape != root.shape:
        raise ShapeError(
            f"{name}: a seed of shape {node.shape} does not fit the result's shape {root.shape}"
        )
    return build.cast(node, root.dtype)


def _ids(roots: Sequence[Node]) -> dict[int, Node]:
    # The nodes are kept along: an id is theirs only while they live.
    return {id(n): n for n in topological(roots, realized=True)}


def track(gradients: Sequence[Node], known: dict[int, Node]) -> None:
    """Let the nodes that a backward pass made (those not `known`) track as forward nodes do."""
    for node in topological(gradients, realized=True):
        if id(node) not in known and node.srcs and node.op.differentiable and node.dtype.is_float:
            node.tracks = any(s.tracks for s in node.srcs)


def value_and_grad(
    fn: Callable[..., Any], argnums: int | Sequence[int] = 0, has_aux: bool = False
) -> Callable[..., Any]:
    """Return a function that gives (fn's value, its gradient) with respect to some arguments.

    `fn` returns a tensor of one element, or (such a tensor, anything) with `has_aux`. The gradient
    is one tensor for one `argnums`, a tuple for several; an argument may be a tensor, or a list,
    tuple or dictionary of tensors, and its gradient has the same form. Gradients are lazy and can
    be differentiated again.
    """
    function("grad: fn", fn)
    has_aux = flag("value_and_grad: has_aux", has_aux)
    one = hasattr(argnums, "__index__")
    numbers = [
        integer("grad: argnums", n)
        for n in ([argnums] if one else several("grad: argnums", argnums))
    ]

    def _wrapped(*args: Any, **kwargs: Any) -> Any:
        arguments = list(args)
        leaves: list[Any] = []
        for number in numbers:
            if not -len(arguments) <= number < len(arguments):
                raise AutogradError(
                    f"grad: argument {number} of {len(arguments)} positional ones does not exist"
                )
            arguments[number] = _map(arguments[number], lambda t: _traced(t, leaves))
        result = fn(*arguments, **kwargs)
        value = result[0] if has_aux else result
        if not isinstance(value, Core) or value.size != 1:
            what = f"shape {value.shape}" if isinstance(value, Core) else type(value).__name__
            raise AutogradError(
                f"grad: the function must return a tensor of one element, not {what}; "
                "reduce it with .sum() or .mean()"
            )
        found = iter(_gradients(value._node, [leaf._node for leaf in leaves]))
        gradients = tuple([_map(arguments[n], lambda _: wrap(next(found))) for n in numbers])
        return result, gradients[0] if one else gradients

    return _wrapped


def grad(fn: Callable[..., Any], argnums: int | Sequence[int] = 0) -> Callable[..., Any]:
    """Return a function that gives the gradient of `fn`; see `value_and_grad`.

    >>> import simplegrad as sg
    >>> sg.grad(sg.grad(lambda x: x * x * x))(2.0)
    Tensor(12., dtype=float32)
    """
    both = value_and_grad(fn, argnums)

    def _wrapped(*args: Any, **kwargs: Any) -> Any:
        return both(*args, **kwargs)[1]

    return _wrapped


def _map(value: Any, function: Callable[[Any], Any]) -> Any:
    """Apply a function to every tensor in nested lists, tuples and dictionaries, in order."""
    if isinstance(value, dict):
        return {k: _map(v, function) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)([_map(v, function) for v in value])
    return function(value)


def _traced(value: Any, leaves: list[Any]) -> Any:
    """Return a tracking copy of an argument; an outer gradient still flows through it."""
    node = value._node if isinstance(value, Core) else Core.final(value, None, False)._node
    if not node.dtype.is_float:
        raise AutogradError(
            f"grad: an argument of dtype {node.dtype} has no gradient; give floats, or leave it "
            "out of argnums"
        )
    copy = make(ops.RESHAPE, (node,), node.shape)
    copy.tracks = True
    leaves.append(wrap(copy))
    return leaves[-1]


def _gradients(root: Node, inputs: list[Node]) -> list[Node]:
    if not root.tracks:
        return [build.full(0, n.shape, n.dtype, n.device) for n in inputs]
    known = _ids([root])
    found = rules.gradients([root], [_seed("grad", root, None)], inputs)
    result = [
        build.full(0, n.shape, n.dtype, n.device) if g is None else g
        for n, g in zip(inputs, found, strict=True)
    ]
    track(result, known)
    return result
