"""Recurrent layers: RNN (Elman), LSTM (Hochreiter and Schmidhuber, 1997), GRU (Cho et al., 2014).

Sequences are (batch, time, features). Parameters have the names and shapes of ``torch.nn``, the
gates' rows one after the other. The products with the inputs of all times are one contraction;
only those with the state go step by step.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from simplegrad import dtypes
from simplegrad.arguments import integer, several
from simplegrad.errors import ShapeError
from simplegrad.nn import init
from simplegrad.nn.layers import Dropout
from simplegrad.nn.module import Array, Module
from simplegrad.tensor.core import as_tensor
from simplegrad.tensor.creation import full, zeros
from simplegrad.tensor.indexing import scatter_add
from simplegrad.tensor.tensor import Tensor
from simplegrad.tensor.views import concat, stack

State = tuple[Tensor, ...]
"""What goes from step to step, each (batch, hidden): the output, and the LSTM's cell."""


class _Recurrent(Module):
    """A stack of recurrent layers, in one or both directions of time."""

    gates: int
    states = 1

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
        self._ends = ("", "_reverse") if bidirectional else ("",)
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

    def _run(self, x: Tensor, tag: str, state: State) -> tuple[Tensor, State]:
        """Return all outputs (batch, time, hidden) and the last state of one direction."""
        from_input, bias = self._weights("ih", tag)
        from_state, state_bias = self._weights("hh", tag)
        inputs = x.einsum("bti,gki->tgbk", from_input).add(self._bias(bias, state_bias))
        backwards = tag.endswith("_reverse")
        outputs = []
        given = _apart(inputs)
        for now in reversed(given) if backwards else given:
            product = state[0].einsum("bi,gki->gbk", from_state)
            state = self._step(now, product, state_bias, state)
            outputs.append(state[0])
        return _joined(outputs[::-1] if backwards else outputs).swapaxes(0, 1), state

    def _weights(self, name: str, tag: str) -> tuple[Tensor, Tensor]:
        """Return a weight as (gates, hidden, …) and its bias as (gates, 1, hidden)."""
        weight, bias = getattr(self, f"weight_{name}{tag}"), getattr(self, f"bias_{name}{tag}")
        return (
            weight.reshape(self.gates, self.hidden, -1),
            bias.reshape(self.gates, 1, self.hidden),
        )

    def _bias(self, bias: Tensor, state_bias: Tensor) -> Tensor:
        """Return what is added to the inputs' products, once for all times."""
        return bias.add(state_bias)

    def _step(self, given: Tensor, product: Tensor, bias: Tensor, state: State) -> State:
        """Return the next state from the products of input and state, each (gates, batch, k)."""
        raise NotImplementedError


def _numbers(count: int, device: Any) -> list[Tensor]:
    """Return 0 … count - 1 as vectors of one number that is an argument of kernels."""
    return [full((1,), i, dtypes.uint32, device) for i in range(count)]


def _apart(x: Tensor) -> list[Tensor]:
    """Return the slices of `x` along its first axis.

    Their places are arguments of kernels, not part of them: every time step runs the same kernels,
    in the backward pass as well. Blocks of about the root of the length keep the sums that put the
    gradients together short.
    """
    length = x.shape[0]
    size = math.isqrt(max(length - 1, 0)) + 1
    count = -(-length // size)
    if count * size > length:
        x = x.pad([(0, count * size - length), *[(0, 0)] * (x.ndim - 1)])
    blocks = x.reshape(count, size, *x.shape[1:])
    places = _numbers(size, x.device)
    parts = []
    for number in places[:count]:
        block = blocks.take(number, 0).reshape(blocks.shape[1:])
        parts += [block.take(place, 0).reshape(x.shape[1:]) for place in places]
    return parts[:length]


def _joined(parts: list[Tensor]) -> Tensor:
    """Return tensors of one shape along a new first axis, the reverse of `_apart`."""
    size = math.isqrt(max(len(parts) - 1, 0)) + 1
    places = _numbers(size, parts[0].device)
    blocks = [_placed(parts[i : i + size], places, size) for i in range(0, len(parts), size)]
    whole = _placed(blocks, places, len(blocks))
    return whole.reshape(len(blocks) * size, *parts[0].shape)[: len(parts)]


def _placed(parts: list[Tensor], places: list[Tensor], length: int) -> Tensor:
    """Return (length, …) with the parts at their places, 0 where there is none."""
    rows = [
        scatter_add(place, part.expand_dims(0), length)
        for place, part in zip(places, parts, strict=False)
    ]
    total = rows[0]
    for row in rows[1:]:
        total = total.add(row)
    return total


class RNN(_Recurrent):
    """h = tanh(W x + b + U h' + c): outputs, and the last h."""

    gates = 1

    def _step(self, given: Tensor, product: Tensor, bias: Tensor, state: State) -> State:
        return (given.add(product)[0].tanh(),)


class LSTM(_Recurrent):
    """Gates i, f, g, o of W x + b + U h' + c; the cell is f c' + i tanh(g), h = o tanh(cell).

    A gate is sigmoid(a) = (1 + tanh(a / 2)) / 2. The halving is done to the weights, exactly and
    once, so that a step takes one hyperbolic tangent of all gates.
    """

    gates = 4
    states = 2

    def _weights(self, name: str, tag: str) -> tuple[Tensor, Tensor]:
        weight, bias = super()._weights(name, tag)
        halves = Tensor(np.asarray([0.5, 0.5, 1, 0.5]), weight.dtype, False, weight.device)
        halves = halves.reshape(4, 1, 1)
        return weight.mul(halves), bias.mul(halves)

    def _step(self, given: Tensor, product: Tensor, bias: Tensor, state: State) -> State:
        bent = given.add(product).tanh()
        write, keep, show = bent[0].add(1), bent[1].add(1), bent[3].add(1)
        cell = keep.mul(state[1]).add(write.mul(bent[2])).mul(0.5)
        return show.mul(cell.tanh()).mul(0.5), cell


class GRU(_Recurrent):
    """Gates r, z; n = tanh(W x + b + r (U h' + c)), h = (1 - z) n + z h'."""

    gates = 3

    def _bias(self, bias: Tensor, state_bias: Tensor) -> Tensor:
        return bias  # the state's bias of n stands inside of the product with r

    def _step(self, given: Tensor, product: Tensor, bias: Tensor, state: State) -> State:
        product = product.add(bias)
        reset = given[0].add(product[0]).sigmoid()
        keep = given[1].add(product[1]).sigmoid()
        new = given[2].add(reset.mul(product[2])).tanh()
        return (new.add(keep.mul(state[0].sub(new))),)
