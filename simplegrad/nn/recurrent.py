"""Recurrent layers: RNN (Elman), LSTM (Hochreiter and Schmidhuber, 1997), GRU (Cho et al., 2014).

Sequences are (batch, time, features). Parameters have the names and shapes of ``torch.nn``, the
gates' rows one after the other. The products with the inputs of all times are one contraction;
only those with the state go step by step, all of them in one kernel (`tensor.scan`).
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from simplegrad.arguments import flag, integer, one_of, several
from simplegrad.errors import ShapeError
from simplegrad.nn import init
from simplegrad.nn.layers import Dropout
from simplegrad.nn.module import Array, Module
from simplegrad.tensor.core import as_tensor
from simplegrad.tensor.creation import zeros
from simplegrad.tensor.scan import Cell, scan, step_of
from simplegrad.tensor.tensor import Tensor
from simplegrad.tensor.views import concat, stack

State = tuple[Tensor, ...]
"""What goes from step to step, each (batch, hidden): the output, and the LSTM's cell."""


class _Recurrent(Module):
    """A stack of recurrent layers, in one or both directions of time."""

    gates: int
    states = 1
    inner = 0
    """Parts of the state's bias that the cell reads itself."""

    def __init__(
        self, inputs: int, hidden: int, layers: int = 1, bidirectional: bool = False,
        dropout: float = 0.0,
    ) -> None:  # fmt: skip
        kind = type(self).__name__
        inputs = integer(f"{kind}: inputs", inputs, 1)
        hidden = integer(f"{kind}: hidden", hidden, 1)
        layers = integer(f"{kind}: layers", layers, 1)
        self.inputs, self.hidden, self.depth = inputs, hidden, layers
        self.dropout = Dropout(dropout)
        both = flag(f"{kind}: bidirectional", bidirectional)
        self._ends = ("", "_reverse") if both else ("",)
        bound = 1 / math.sqrt(hidden)
        for layer in range(layers):
            width = inputs if layer == 0 else hidden * len(self._ends)
            for end in self._ends:
                for name, shape in (
                    ("weight_ih", (self.gates * hidden, width)),
                    ("weight_hh", (self.gates * hidden, hidden)),
                    ("bias_ih", (self.gates * hidden,)),
                    ("bias_hh", (self.gates * hidden,)),
                ):
                    setattr(self, f"{name}_l{layer}{end}", init.uniform(shape, bound))

    def __call__(self, x: Array, state: Any = None) -> tuple[Tensor, Any]:
        """Return (outputs, last state) of a sequence (batch, time, inputs).

        The outputs are (batch, time, hidden), those of both directions side by side. The state is
        (layers x directions, batch, hidden), for the LSTM a pair of such: output and cell; as an
        argument it is where to begin, zeros unless given.
        """
        x = as_tensor(x)
        if x.ndim != 3 or x.shape[-1] != self.inputs or not x.shape[1]:
            raise ShapeError(
                f"{type(self).__name__}: takes (batch, time, {self.inputs}) with a time of 1 or "
                f"more, got {x.shape}"
            )
        starts = self._starts(x, state)
        ends: list[State] = []
        for layer in range(self.depth):
            outputs = []
            for end in self._ends:
                out, last = self._run(x, f"_l{layer}{end}", starts[len(ends)])
                outputs.append(out)
                ends.append(last)
            x = outputs[0] if len(outputs) == 1 else concat(outputs, -1)
            if layer + 1 < self.depth:
                x = self.dropout(x)
        final = tuple(stack(parts) for parts in zip(*ends, strict=True))
        return x, final if self.states > 1 else final[0]

    def _starts(self, x: Tensor, state: Any) -> list[State]:
        """Return the first state of every layer and direction."""
        count = self.depth * len(self._ends)
        shape = (count, x.shape[0], self.hidden)
        if state is None:
            zero = zeros(shape[1:], x.dtype, x.device, False)
            return [(zero,) * self.states] * count
        states = several(f"{type(self).__name__}: the state", state) if self.states > 1 else [state]
        given = [as_tensor(s) for s in states]
        if len(given) != self.states or any(s.shape != shape for s in given):
            raise ShapeError(
                f"{type(self).__name__}: the state is {self.states} of shape {shape}, got "
                f"{[s.shape for s in given]}"
            )
        return [tuple(s[i] for s in given) for i in range(count)]

    def _run(self, x: Tensor, tag: str, start: State) -> tuple[Tensor, State]:
        """Return all outputs (batch, time, hidden) and the last state of one direction."""
        bias, state_bias = (self._bias(name, tag) for name in ("ih", "hh"))
        from_input = self._weight("ih", tag).reshape(self.gates, self.hidden, -1)
        given = x.einsum("bti,gki->tbgk", from_input).add(bias.add(self._outer(state_bias)))
        inputs = [given[:, :, g] for g in range(self.gates)]
        inputs += [b.broadcast_to(inputs[0].shape) for b in self._inner(state_bias)]
        backwards = tag.endswith("_reverse")
        step = _step(self._cell, self.gates, self.states, len(inputs), backwards)
        outputs, last = scan(step, self._weight("hh", tag).T, start, inputs)
        return outputs[0].swapaxes(0, 1), tuple(last)

    def _weight(self, name: str, tag: str) -> Tensor:
        weight: Tensor = getattr(self, f"weight_{name}{tag}")
        return weight

    def _bias(self, name: str, tag: str) -> Tensor:
        bias: Tensor = getattr(self, f"bias_{name}{tag}")
        return bias.reshape(self.gates, self.hidden)

    def _outer(self, bias: Tensor) -> Tensor:
        """Return the part of the state's bias that is added to the inputs, once for all times."""
        return bias

    def _inner(self, bias: Tensor) -> list[Tensor]:
        """Return the parts of the state's bias that the cell reads: further inputs."""
        return []

    @property
    def _cell(self) -> Cell:
        """What is recorded as the step, once for all layers."""
        return self.cell

    @staticmethod
    def cell(products: list[Tensor], state: list[Tensor], given: list[Tensor]) -> State:
        """Return the next state: products of the first state, states, and products of the input.

        Products and inputs come by gate; everything has one shape, and is elementwise.
        """
        raise NotImplementedError


_step = functools.cache(step_of)


def _sigmoid(x: Tensor) -> Tensor:
    """Return 1 / (1 + exp(-x)) by a hyperbolic tangent, whose derivative needs nothing else."""
    return x.mul(0.5).tanh().mul(0.5).add(0.5)


class RNN(_Recurrent):
    """h = f(W x + b + U h' + c): outputs, and the last h; f is "tanh" or "relu"."""

    gates = 1

    def __init__(
        self, inputs: int, hidden: int, layers: int = 1, bidirectional: bool = False,
        dropout: float = 0.0, nonlinearity: str = "tanh",
    ) -> None:  # fmt: skip
        one_of("RNN: nonlinearity", nonlinearity, ("tanh", "relu"))
        super().__init__(inputs, hidden, layers, bidirectional, dropout)
        self.nonlinearity = nonlinearity

    @property
    def _cell(self) -> Cell:
        return self.cell if self.nonlinearity == "tanh" else self.clipped

    @staticmethod
    def cell(products: list[Tensor], state: list[Tensor], given: list[Tensor]) -> State:
        """Return the next h."""
        return (given[0].add(products[0]).tanh(),)

    @staticmethod
    def clipped(products: list[Tensor], state: list[Tensor], given: list[Tensor]) -> State:
        """Return the next h where f is relu."""
        return (given[0].add(products[0]).relu(),)


class LSTM(_Recurrent):
    """Gates i, f, g, o of W x + b + U h' + c; the cell is f c' + i tanh(g), h = o tanh(cell)."""

    gates = 4
    states = 2

    @staticmethod
    def cell(products: list[Tensor], state: list[Tensor], given: list[Tensor]) -> State:
        """Return the next h and cell."""
        write, keep, new, show = [x.add(p) for x, p in zip(given, products, strict=True)]
        cell = _sigmoid(keep).mul(state[1]).add(_sigmoid(write).mul(new.tanh()))
        return _sigmoid(show).mul(cell.tanh()), cell


class GRU(_Recurrent):
    """Gates r, z; n = tanh(W x + b + r (U h' + c)), h = (1 - z) n + z h'."""

    gates = 3
    inner = 1

    def _outer(self, bias: Tensor) -> Tensor:
        mask = Tensor(np.asarray([[1], [1], [0]]), bias.dtype, False, bias.device)
        return bias.mul(mask)

    def _inner(self, bias: Tensor) -> list[Tensor]:
        return [bias[2]]  # inside of the product with r

    @staticmethod
    def cell(products: list[Tensor], state: list[Tensor], given: list[Tensor]) -> State:
        """Return the next h."""
        reset = _sigmoid(given[0].add(products[0]))
        keep = _sigmoid(given[1].add(products[1]))
        new = given[2].add(reset.mul(products[2].add(given[3]))).tanh()
        return (new.add(keep.mul(state[0].sub(new))),)
