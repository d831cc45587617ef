"""`Module`: tensors and modules by attribute, with names, a state and a mode."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from simplegrad.arguments import flag, mapping, shown
from simplegrad.errors import ArgumentError, ShapeError, UnsupportedOp
from simplegrad.tensor.tensor import Tensor

M = TypeVar("M", bound="Module")
Array = Tensor | np.ndarray | Sequence[Any]
"""What layers and losses take: tensors, host arrays, nested lists."""


class Module:
    """A function with parameters: assign tensors and modules to attributes, define ``__call__``.

    Tensors that track gradients are parameters, other tensors are buffers; both make up the state.
    Lists, tuples and dictionaries of tensors and modules count, attributes whose name begins with
    an underscore do not. What stands in two places is named once, where it is met first.

    >>> import simplegrad as sg
    >>> from simplegrad import nn
    >>> class Net(nn.Module):
    ...     def __init__(self) -> None:
    ...         self.layers = [nn.Linear(2, 8), nn.Linear(8, 3)]
    ...     def __call__(self, x):
    ...         return self.layers[1](self.layers[0](x).relu())
    >>> net = Net()
    >>> net(sg.zeros((5, 2))).shape
    (5, 3)
    >>> [name for name, _ in net.named_parameters()]
    ['layers.0.weight', 'layers.0.bias', 'layers.1.weight', 'layers.1.bias']
    """

    training: bool = True
    """Whether layers such as `Dropout` and `BatchNorm` behave as in training."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the module; this one calls `forward`, PyTorch's name of it, if there is one."""
        forward = getattr(self, "forward", None)
        if forward is None:
            name = type(self).__name__
            raise UnsupportedOp(f"{name}: this module computes nothing; define {name}.__call__")
        return forward(*args, **kwargs)

    def named_modules(self) -> Iterator[tuple[str, Module]]:
        """Yield this module, named "", and every module below it with its dotted name."""
        return ((name, part) for name, part in _walk(self) if isinstance(part, Module))

    def named_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield parameters and buffers with their dotted names."""
        return ((name, part) for name, part in _walk(self) if isinstance(part, Tensor))

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the tensors that track gradients with their dotted names."""
        return ((name, tensor) for name, tensor in self.named_tensors() if tensor.requires_grad)

    def parameters(self) -> list[Tensor]:
        """Return the tensors that track gradients, for an optimiser."""
        return [tensor for _, tensor in self.named_parameters()]

    def zero_grad(self) -> None:
        """Forget the gradients of all parameters."""
        for parameter in self.parameters():
            parameter.grad = None

    def train(self: M, on: bool = True) -> M:
        """Put this module and all below it into training mode; returns the module."""
        on = flag("train: on", on)
        for _, module in self.named_modules():
            module.training = on
        return self

    def eval(self: M) -> M:
        """Put this module and all below it into evaluation mode; returns the module."""
        return self.train(False)

    def state_dict(self) -> dict[str, Tensor]:
        """Return parameters and buffers by name, as they are now: later steps change nothing."""
        return {name: tensor.detach() for name, tensor in self.named_tensors()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take values by name from tensors or host arrays, in the dtypes and places of this module.

        Either everything fits or nothing changes: `ShapeError` lists what is missing, what is
        extra, and what has another shape or kind of dtype.
        """
        mapping("load_state_dict: the state", state)
        mine = dict(self.named_tensors())
        faults = [f"{name} is missing" for name in mine if name not in state]
        faults += [f"{name} is extra" for name in state if name not in mine]
        for name in mine:
            if name in state:
                faults += _unfit(name, mine[name], state[name])
        if faults:
            raise ShapeError(
                f"load_state_dict: the state does not fit {type(self).__name__}:\n  "
                + "\n  ".join(faults)
            )
        for name, tensor in mine.items():
            new = Tensor(state[name], tensor.dtype, False, tensor.device)
            tensor._replace(new._node)

    def _named(self) -> dict[str, Any]:
        """Return what a module is made of, by the names that its state gives them."""
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}

    def __repr__(self) -> str:
        lines = [f"{type(self).__name__}("]
        for name, part in _children(self):
            shown = repr(part) if isinstance(part, Module) else f"{part.dtype.name}{part.shape}"
            lines.append(f"  {name}: " + shown.replace("\n", "\n  "))
        return "\n".join([*lines, ")"]) if len(lines) > 1 else lines[0] + ")"


class Sequential(Module):
    """Functions one after the other: modules, or anything that takes a tensor and returns one.

    >>> import simplegrad as sg
    >>> from simplegrad import nn
    >>> net = nn.Sequential(nn.Linear(2, 8), sg.relu, nn.Linear(8, 3))
    >>> net(sg.zeros((5, 2))).shape
    (5, 3)
    >>> list(net.state_dict())
    ['0.weight', '0.bias', '2.weight', '2.bias']
    """

    def __init__(self, *layers: Callable[[Any], Any]) -> None:
        for i, layer in enumerate(layers):
            if not callable(layer):
                raise ArgumentError(
                    f"Sequential: layer {i} is {shown(layer)}; pass modules or functions, one "
                    "after the other and not in a list"
                )
        self.layers = list(layers)

    def _named(self) -> dict[str, Any]:
        return {str(i): layer for i, layer in enumerate(self.layers)}

    def __call__(self, x: Any) -> Any:
        """Return the last layer of … of the first layer of `x`."""
        for layer in self.layers:
            x = layer(x)
        return x


def _children(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the modules and tensors of a module's attributes, through lists and dictionaries."""
    if isinstance(value, Module):
        value = value._named()
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    items = [(str(name), item) for name, item in pairs]
    for name, item in items:
        if isinstance(item, (Module, Tensor)):
            yield name, item
        elif isinstance(item, (list, tuple, dict)):
            yield from ((f"{name}.{below}", part) for below, part in _children(item))


def _walk(root: Module) -> Iterator[tuple[str, Any]]:
    """Yield every module and tensor once, in the order of the attributes."""
    seen: set[int] = set()
    stack: list[tuple[str, Any]] = [("", root)]
    while stack:
        name, part = stack.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        yield name, part
        if isinstance(part, Module):
            prefix = f"{name}." if name else ""
            stack += [(prefix + below, child) for below, child in _children(part)][::-1]


def _unfit(name: str, mine: Tensor, given: Any) -> list[str]:
    """Return what is wrong with a value for a tensor, in words."""
    shape = tuple(getattr(given, "shape", None) or np.shape(given))
    faults = []
    if shape != mine.shape:
        faults.append(f"{name} has shape {mine.shape} here and {shape} in the state")
    kind = (given if isinstance(given, Tensor) else np.asarray(given)).dtype.kind
    if (kind == "f") != mine.dtype.is_float:
        faults.append(f"{name} is {mine.dtype.name} here and of kind {kind!r} in the state")
    return faults
