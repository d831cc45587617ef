"""RNN, GRU and LSTM as recurrences: one kernel runs through all times (`tensor.scan`)."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from simplegrad.errors import ModelError
from simplegrad.onnx.registry import Call, operator
from simplegrad.tensor.creation import full
from simplegrad.tensor.elementwise import where
from simplegrad.tensor.scan import scan, step_of
from simplegrad.tensor.tensor import Tensor
from simplegrad.tensor.views import stack

Values = Sequence[Tensor]

_PLAIN = ("tanh", "sigmoid", "relu", "softplus", "softsign")
_ALPHA = {
    "affine": 1.0, "leakyrelu": 0.01, "elu": 1.0, "thresholdedrelu": 1.0, "scaledtanh": 1.0,
    "hardsigmoid": 0.2,
}  # fmt: skip
"""Activations that take a number, with its default."""
_BETA = {"affine": 0.0, "scaledtanh": 1.0, "hardsigmoid": 0.5}
"""Activations that take a second one."""


@dataclass(frozen=True)
class _Activation:
    """A function of the gates by ONNX's name of it, and its numbers."""

    name: str
    alpha: float
    beta: float

    def __call__(self, x: Tensor) -> Tensor:
        a, b = self.alpha, self.beta
        match self.name:
            case "softsign":
                return x.div(x.abs().add(1))
            case "affine":
                return x.mul(a).add(b)
            case "leakyrelu":
                return x.leaky_relu(a)
            case "elu":
                return x.elu(a)
            case "thresholdedrelu":
                return where(x.greater(a), x, 0)
            case "scaledtanh":
                return x.mul(b).tanh().mul(a)
            case "hardsigmoid":
                return x.mul(a).add(b).clip(0, 1)
        found: Tensor = getattr(x, self.name)()
        return found


def _activations(names: Sequence[str], call: Call) -> Iterator[_Activation]:
    """Yield activations; parameters are handed out in order to those that take them."""
    alphas = iter(call.reals("activation_alpha", []))
    betas = iter(call.reals("activation_beta", []))
    for text in names:
        name = text.lower()
        if name not in _PLAIN and name not in _ALPHA:
            raise ModelError(f"activation {text!r} is unknown")
        alpha = next(alphas, _ALPHA[name]) if name in _ALPHA else 0.0
        beta = next(betas, _BETA[name]) if name in _BETA else 0.0
        yield _Activation(name, alpha, beta)


@dataclass(frozen=True)
class _Cell:
    """What a step computes, elementwise; equal cells are recorded once.

    Called with the products of the first state by gate, the states, and the inputs: the products
    with x by gate, then what `_Layer.run` is given besides.
    """

    functions: tuple[_Activation, ...]
    clip: float | None

    def limited(self, x: Tensor) -> Tensor:
        """Return what goes into an activation, limited to -clip … clip where that is set."""
        return x if self.clip is None else x.clip(-self.clip, self.clip)


@dataclass(frozen=True)
class _Held:
    """A cell whose states stay as they are where its last input is 0: beyond a sequence's end."""

    cell: Any

    def __call__(self, products: list[Tensor], states: list[Tensor], given: list[Tensor]) -> Values:
        going = given[-1].greater(0)
        new = self.cell(products, states, given[:-1])
        return [where(going, n, old) for n, old in zip(new, states, strict=True)]


_step = functools.lru_cache(maxsize=256)(step_of)


class _Layer:
    """What the three have in common: directions, initial states, lengths, the layout."""

    def __init__(self, call: Call, gates: int, functions: list[str]) -> None:
        self.call, self.gates = call, gates
        self.batch_first = call.flag("layout")
        x = call.tensor(0)
        self.x = x.swapaxes(0, 1) if self.batch_first else x
        self.w, self.r = call.tensor(1), call.tensor(2)
        self.hidden = self.r.shape[-1]
        direction = call.string("direction", "forward")
        backwards = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}
        if direction not in backwards:
            raise ModelError(f"direction {direction!r} is unknown")
        self.backwards = backwards[direction]
        count, rows = len(self.backwards), gates * self.hidden
        if self.w.shape != (count, rows, self.x.shape[2]) or self.r.shape[:2] != (count, rows):
            raise ModelError(f"weights {self.w.shape}, {self.r.shape} do not fit input {x.shape}")
        self.clip = call.real("clip", None)
        names, per = call.strings("activations", functions * count), len(functions)
        if len(names) != per * count:
            raise ModelError(f"activations {names} are not {per} for each of {count} directions")
        found = tuple(_activations(names, call))
        self.functions = [found[per * i : per * (i + 1)] for i in range(count)]

    def state(self, i: int) -> Tensor:
        """Return the initial states (directions, batch, hidden); without an input, zeros."""
        if self.call.has(i):
            given = self.call.tensor(i)
            return given.swapaxes(0, 1) if self.batch_first else given
        shape = len(self.backwards), self.x.shape[1], self.hidden
        return full(shape, 0.0, self.x.dtype, requires_grad=False)

    def bias(self, d: int) -> list[Tensor]:
        """Return the biases of input and state of one direction, each (gates, hidden)."""
        if not self.call.has(3):
            return [full((self.gates, self.hidden), 0.0, self.x.dtype, requires_grad=False)] * 2
        return list(self.call.tensor(3)[d].reshape(2, self.gates, self.hidden))

    def products(self, d: int, bias: Tensor) -> list[Tensor]:
        """Return x Wᵀ + bias at all times of one direction, (time, batch, hidden) by gate."""
        weight = self.w[d].reshape(self.gates, self.hidden, -1)
        found = self.x.einsum("tbi,gki->tbgk", weight).add(bias)
        return [found[:, :, g] for g in range(self.gates)]

    def run(self, d: int, cell: Any, states: Values, given: Values, every: int = 1) -> list[Tensor]:
        """Return one direction's Y (time, batch, hidden), and the last of each state.

        Of the steps, `every` belong to one time, and the last of these gives its output.
        """
        back, times = self.backwards[d], self.x.shape[0]
        inputs, lengths = list(given), self.call.optional(4)
        if lengths is not None:
            clock = self.call.constant(np.arange(times), lengths.dtype)
            going = clock.expand_dims(1).less(lengths).expand_dims(-1)  # (time, batch, 1)
            cell = _Held(cell)
            whole = going.astype(self.x.dtype).broadcast_to((times, *given[0].shape[1:]))
            inputs.append(repeated(whole, every))
        step = _step(cell, self.gates, len(states), len(inputs), back)
        lines, last = scan(step, self.r[d].transpose(), states, inputs)
        y = lines[0]
        if every > 1:
            y = y.reshape(times, every, *y.shape[1:])[:, 0 if back else every - 1]
        return [y if lengths is None else where(going, y, 0.0), *last]

    def results(self, lines: list[list[Tensor]]) -> tuple[Tensor, ...]:
        """Return the operator's outputs from those of `run` for each direction."""
        y, *last = zip(*lines, strict=True)
        outputs, ends = stack(y, 1), [stack(end) for end in last]
        if self.batch_first:
            return (outputs.permute(2, 0, 1, 3), *[end.swapaxes(0, 1) for end in ends])
        return (outputs, *ends)


def repeated(x: Tensor, count: int) -> Tensor:
    """Return every element of the first axis `count` times in a row."""
    if count == 1:
        return x
    whole = x.expand_dims(1).broadcast_to((x.shape[0], count, *x.shape[1:]))
    return whole.reshape(x.shape[0] * count, *x.shape[1:])


class _RNN(_Cell):
    """h = f(x Wᵀ + h Rᵀ + b)."""

    def __call__(self, products: list[Tensor], states: list[Tensor], given: list[Tensor]) -> Values:
        (f,) = self.functions
        return [f(self.limited(given[0].add(products[0])))]


@operator("RNN", since=7)
def rnn(call: Call) -> tuple[Any, ...]:
    """RNN: h = f(x Wᵀ + h Rᵀ + b)."""
    layer = _Layer(call, 1, ["Tanh"])
    first, lines = layer.state(5), []
    for d, functions in enumerate(layer.functions):
        wb, rb = layer.bias(d)
        cell = _RNN(functions, layer.clip)
        lines.append(layer.run(d, cell, [first[d]], layer.products(d, wb.add(rb))))
    return layer.results(lines)


class _GRU(_Cell):
    """Gates z, r, h; r is applied to what h's product with the state gives, and its bias."""

    def __call__(self, products: list[Tensor], states: list[Tensor], given: list[Tensor]) -> Values:
        f, g = self.functions
        z, reset = (f(self.limited(given[i].add(products[i]))) for i in (0, 1))
        new = g(self.limited(given[2].add(products[2].add(given[3]).mul(reset))))
        return [new.add(z.mul(states[0].sub(new)))]


class _ResetFirst(_Cell):
    """Gates z, r, h; r is applied to the state before its product, so that a time is two steps.

    States: what is multiplied, h, z. The last input is 0 in the first step, which computes the
    gates z and r and leaves r h to be multiplied, and 1 in the second.
    """

    def __call__(self, products: list[Tensor], states: list[Tensor], given: list[Tensor]) -> Values:
        f, g = self.functions
        _, h, kept = states
        z, reset = (f(self.limited(given[i].add(products[i]))) for i in (0, 1))
        new = g(self.limited(given[2].add(products[2])))
        new = new.add(kept.mul(h.sub(new)))
        second = given[3].greater(0)
        return [where(second, new, h.mul(reset)), where(second, new, h), where(second, kept, z)]


@operator("GRU", since=7)
def gru(call: Call) -> tuple[Any, ...]:
    """GRU: gates z, r, h in this order."""
    layer = _Layer(call, 3, ["Sigmoid", "Tanh"])
    after = call.flag("linear_before_reset")
    first, lines = layer.state(5), []
    for d, functions in enumerate(layer.functions):
        wb, rb = layer.bias(d)
        if after:
            outer = call.constant([[1], [1], [0]], rb.dtype)
            given = layer.products(d, wb.add(rb.mul(outer)))
            given.append(rb[2].broadcast_to(given[0].shape))
            lines.append(layer.run(d, _GRU(functions, layer.clip), [first[d]], given))
            continue
        given = [repeated(x, 2) for x in layer.products(d, wb.add(rb))]
        halves = np.tile([1, 0] if layer.backwards[d] else [0, 1], layer.x.shape[0])
        flags = call.constant(halves, rb.dtype).reshape(-1, 1, 1)
        given.append(flags.broadcast_to(given[0].shape))
        states = [first[d], first[d], full(first[d].shape, 0.0, rb.dtype, requires_grad=False)]
        found = layer.run(d, _ResetFirst(functions, layer.clip), states, given, every=2)
        lines.append(found[:2])
    return layer.results(lines)


@dataclass(frozen=True)
class _LSTM(_Cell):
    """Gates i, o, f, c; peepholes from the cell to the first three."""

    coupled: bool
    peepholes: bool

    def __call__(self, products: list[Tensor], states: list[Tensor], given: list[Tensor]) -> Values:
        f, g, h = self.functions
        cell = states[1]
        i, o, forget, c = (x.add(p) for x, p in zip(given[:4], products, strict=True))
        if self.peepholes:
            i, forget = i.add(cell.mul(given[4])), forget.add(cell.mul(given[6]))
        i = f(self.limited(i))
        forget = i.neg().add(1.0) if self.coupled else f(self.limited(forget))
        cell = forget.mul(cell).add(i.mul(g(self.limited(c))))
        if self.peepholes:
            o = o.add(cell.mul(given[5]))
        return [f(self.limited(o)).mul(h(cell)), cell]


@operator("LSTM", since=7)
def lstm(call: Call) -> tuple[Any, ...]:
    """LSTM: gates i, o, f, c in this order; peepholes to the first three."""
    layer = _Layer(call, 4, ["Sigmoid", "Tanh", "Tanh"])
    coupled, peep = call.flag("input_forget"), call.optional(7)
    first, cell_first, lines = layer.state(5), layer.state(6), []
    for d, functions in enumerate(layer.functions):
        wb, rb = layer.bias(d)
        given = layer.products(d, wb.add(rb))
        if peep is not None:
            given += [p.broadcast_to(given[0].shape) for p in peep[d].split(3, -1)]
        cell = _LSTM(functions, layer.clip, coupled, peep is not None)
        lines.append(layer.run(d, cell, [first[d], cell_first[d]], given))
    return layer.results(lines)
