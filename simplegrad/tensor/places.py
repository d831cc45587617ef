"""Where a function keeps tensors besides its arguments, to be read and written by replays."""

from __future__ import annotations

from typing import Any, NoReturn

from simplegrad import ops
from simplegrad.errors import JitError
from simplegrad.graph.node import Node, Spec, leaf_of
from simplegrad.optim.optimizers import Optimizer
from simplegrad.tensor.captures import Captures, read, write
from simplegrad.tensor.core import Core, wrap


class Place:
    """A node that outlives a call; two places are the same where their names are."""

    name: tuple[Any, ...]

    def node(self) -> Node | None:
        """Return the node there now; None where there is none."""
        raise NotImplementedError

    def put(self, node: Node | None) -> None:
        """Put a node there, a leaf."""
        raise NotImplementedError


class Slot(Place):
    """A tensor in a container: its value may change, or another tensor may take its place."""

    def __init__(self, container: Any, key: Any, tensor: Core) -> None:
        self.container, self.key, self.tensor = container, key, tensor
        self.name = ("slot", id(container), key)
        self.moved = False
        """Whether the function puts other tensors there, not other values into the tensor."""

    def holder(self) -> Core:
        """Return the tensor there now."""
        tensor: Core = read(self.container, self.key)
        return tensor

    def node(self) -> Node | None:
        """Return the node of the tensor there now."""
        return self.holder()._node

    def put(self, node: Node | None) -> None:
        """Put a value into the tensor, or a tensor into the container, as the function did."""
        assert node is not None
        if self.moved:
            write(self.container, self.key, wrap(node))
        else:
            self.holder()._replace(node)


class Gradient(Place):
    """What `backward` left in ``.grad`` of the tensor in a slot."""

    def __init__(self, slot: Slot) -> None:
        self.slot = slot
        self.name = ("grad", *slot.name)

    def node(self) -> Node | None:
        """Return the gradient's node, if there is one."""
        gradient = self.slot.holder()._grad
        return None if gradient is None else gradient._node

    def put(self, node: Node | None) -> None:
        """Set or forget the gradient."""
        tensor = self.slot.holder()
        tensor._grad = None if node is None else wrap(node)
        tensor._unread, tensor._roots = 0, ()


class State(Place):
    """An array of an optimiser's state."""

    def __init__(self, optimizer: Optimizer, parameter: int, number: int) -> None:
        self.optimizer, self.parameter, self.number = optimizer, parameter, number
        self.name = ("state", id(optimizer), parameter, number)

    def node(self) -> Node | None:
        """Return the array's node."""
        return self.optimizer.state[self.parameter][self.number]

    def put(self, node: Node | None) -> None:
        """Put an array there."""
        assert node is not None
        state = list(self.optimizer.state[self.parameter])
        state[self.number] = node
        self.optimizer.state[self.parameter] = tuple(state)


def places_of(seen: Captures) -> list[Place]:
    """Return the places of what a function sees; a tensor in several slots has one."""
    slots: dict[int, Slot] = {}
    for container, key, tensor in seen.tensors:
        slots.setdefault(id(tensor), Slot(container, key, tensor))
    places: list[Place] = [p for s in slots.values() for p in (s, Gradient(s))]
    for optimizer in seen.optimizers:
        for parameter, arrays in optimizer.state.items():
            places += [State(optimizer, parameter, i) for i in range(len(arrays))]
    return places


class _Nowhere:
    """Where a gradient is that no replay computes: reading it is an error with a remedy."""

    name = "nowhere (a replay of jit computes no gradient that nothing reads; return it)"
    kind = "none"
    runs_kernels = False

    def evaluate(self, order: Any, wanted: Any) -> NoReturn:
        raise JitError(
            "grad: a function under jit updated the tensor and did not return this gradient, so "
            "that its replay did not compute it; return the gradient from the function"
        )


_nowhere = _Nowhere()


def is_available(node: Node) -> bool:
    """Whether a node's value can be computed."""
    return node.device is not _nowhere


def unavailable(spec: Spec) -> Node:
    """Return a node that stands for a value which was not computed."""
    return leaf_of(ops.BUFFER, spec, None, _nowhere)
