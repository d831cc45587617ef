"""RNN, GRU and LSTM, unrolled over time: sequences have a fixed length here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from simplegrad.errors import ModelError
from simplegrad.onnx.registry import Call, operator
from simplegrad.tensor.creation import full
from simplegrad.tensor.elementwise import where
from simplegrad.tensor.tensor import Tensor
from simplegrad.tensor.views import stack

_Step = Callable[[Tensor, "list[Tensor]"], "list[Tensor]"]


def _activation(name: str, alpha: Any, beta: Any) -> Callable[[Tensor], Tensor]:
    plain = {"tanh": "tanh", "sigmoid": "sigmoid", "relu": "relu", "softplus": "softplus"}
    name = name.lower()
    if name in plain:
        return lambda x: getattr(x, plain[name])()
    if name == "affine":
        return lambda x: x.mul(1.0 if alpha is None else alpha).add(beta or 0.0)
    if name == "leakyrelu":
        return lambda x: x.leaky_relu(0.01 if alpha is None else alpha)
    if name == "elu":
        return lambda x: x.elu(1.0 if alpha is None else alpha)
    if name == "thresholdedrelu":
        return lambda x: where(x.greater(1.0 if alpha is None else alpha), x, 0)
    if name == "scaledtanh":
        return lambda x: x.mul(1.0 if beta is None else beta).tanh().mul(alpha or 1.0)
    if name == "hardsigmoid":
        a, b = 0.2 if alpha is None else alpha, 0.5 if beta is None else beta
        return lambda x: x.mul(a).add(b).clip(0, 1)
    if name == "softsign":
        return lambda x: x.div(x.abs().add(1))
    raise ModelError(f"activation {name!r} is unknown")


class _Layer:
    """What the three have in common: directions, initial states, lengths, the layout."""

    def __init__(self, call: Call, gates: int, functions: list[str]) -> None:
        self.call = call
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
        count = len(self.backwards)
        rows = gates * self.hidden
        if self.w.shape != (count, rows, self.x.shape[2]) or self.r.shape[:2] != (count, rows):
            raise ModelError(f"weights {self.w.shape}, {self.r.shape} do not fit input {x.shape}")
        self.clip = call.real("clip", None)
        names = call.strings("activations", functions * count)
        # Parameters are handed out in order to the activations that take them.
        alphas, betas = (
            iter(call.reals("activation_alpha", [])),
            iter(call.reals("activation_beta", [])),
        )
        takes = ("affine", "leakyrelu", "elu", "thresholdedrelu", "scaledtanh", "hardsigmoid")
        pairs = ("affine", "scaledtanh", "hardsigmoid")
        found = [
            _activation(
                n,
                next(alphas, None) if n.lower() in takes else None,
                next(betas, None) if n.lower() in pairs else None,
            )
            for n in names
        ]
        per = len(functions)
        if len(found) != per * count:
            raise ModelError(f"activations {names} are not {per} for each of {count} directions")
        self.functions = [found[per * i : per * (i + 1)] for i in range(count)]

    def limited(self, x: Tensor) -> Tensor:
        """Return what goes into an activation, limited to -clip … clip where that is set."""
        return x if self.clip is None else x.clip(-self.clip, self.clip)

    def state(self, i: int) -> Tensor:
        """Return the initial states (directions, batch, hidden); without an input, zeros."""
        if self.call.has(i):
            given = self.call.tensor(i)
            return given.swapaxes(0, 1) if self.batch_first else given
        shape = len(self.backwards), self.x.shape[1], self.hidden
        return full(shape, 0.0, self.x.dtype, requires_grad=False)

    def bias(self, d: int, gates: int) -> tuple[Any, Any]:
        """Return the biases of input and state of one direction; numbers 0 where there are none."""
        if not self.call.has(3):
            return 0.0, 0.0
        both = self.call.tensor(3)[d]
        half = gates * self.hidden
        return both[:half], both[half:]

    def run(self, step: Callable[[int], _Step], states: list[Tensor]) -> tuple[Any, ...]:
        """Return all outputs: Y, and the last of each state; `step(d)` is one direction's step."""
        ends: list[list[Tensor]] = []
        lines = []
        steps = self.x.shape[0]
        lengths = self.call.optional(4)
        for d, back in enumerate(self.backwards):
            now = [s[d] for s in states]
            at, outputs = step(d), []
            for t in range(steps)[::-1] if back else range(steps):
                new = at(self.x[t], now)
                out = new[0]
                if lengths is not None:
                    going = lengths.greater(t).reshape(-1, 1)
                    new = [where(going, n, old) for n, old in zip(new, now, strict=True)]
                    out = where(going, out, 0.0)
                now = new
                outputs.append(out)
            lines.append(stack(outputs[::-1] if back else outputs))
            ends.append(now)
        y = stack(lines, 1)
        last = [stack([end[i] for end in ends]) for i in range(len(states))]
        if self.batch_first:
            return (y.permute(2, 0, 1, 3), *[s.swapaxes(0, 1) for s in last])
        return (y, *last)


def _parts(x: Tensor, count: int) -> list[Tensor]:
    return x.split(count, -1)


@operator("RNN", since=7)
def rnn(call: Call) -> tuple[Any, ...]:
    """RNN: h = f(x Wᵀ + h Rᵀ + b)."""
    layer = _Layer(call, 1, ["Tanh"])

    def step(d: int) -> _Step:
        w, r = layer.w[d].transpose(), layer.r[d].transpose()
        wb, rb = layer.bias(d, 1)
        (f,) = layer.functions[d]

        def at(x: Tensor, state: list[Tensor]) -> list[Tensor]:
            return [f(layer.limited(x.matmul(w).add(state[0].matmul(r)).add(wb).add(rb)))]

        return at

    return layer.run(step, [layer.state(5)])


@operator("GRU", since=7)
def gru(call: Call) -> tuple[Any, ...]:
    """GRU: gates z, r, h in this order."""
    layer = _Layer(call, 3, ["Sigmoid", "Tanh"])
    after = call.flag("linear_before_reset")

    def step(d: int) -> _Step:
        w, r = layer.w[d].transpose(), layer.r[d].transpose()
        wb, rb = layer.bias(d, 3)
        f, g = layer.functions[d]
        n = layer.hidden

        def at(x: Tensor, state: list[Tensor]) -> list[Tensor]:
            h = state[0]
            xz, xr, xh = _parts(x.matmul(w).add(wb), 3)
            both = h.matmul(r[:, : 2 * n])
            hz, hr = _parts(both if isinstance(rb, float) else both.add(rb[: 2 * n]), 2)
            z, reset = f(layer.limited(xz.add(hz))), f(layer.limited(xr.add(hr)))
            late = 0.0 if isinstance(rb, float) else rb[2 * n :]
            if after:
                inner = h.matmul(r[:, 2 * n :]).add(late).mul(reset)
            else:
                inner = h.mul(reset).matmul(r[:, 2 * n :]).add(late)
            new = g(layer.limited(xh.add(inner)))
            return [new.add(z.mul(h.sub(new)))]

        return at

    return layer.run(step, [layer.state(5)])


@operator("LSTM", since=7)
def lstm(call: Call) -> tuple[Any, ...]:
    """LSTM: gates i, o, f, c in this order; peepholes to the first three."""
    layer = _Layer(call, 4, ["Sigmoid", "Tanh", "Tanh"])
    coupled = call.flag("input_forget")
    peep = call.optional(7)

    def step(d: int) -> _Step:
        w, r = layer.w[d].transpose(), layer.r[d].transpose()
        wb, rb = layer.bias(d, 4)
        f, g, h = layer.functions[d]
        holes: list[Any] = [0.0] * 3 if peep is None else _parts(peep[d], 3)

        def at(x: Tensor, state: list[Tensor]) -> list[Tensor]:
            hidden, cell = state
            sums = x.matmul(w).add(hidden.matmul(r)).add(wb).add(rb)
            i, o, forget, c = _parts(sums, 4)
            if peep is not None:
                i, forget = i.add(cell.mul(holes[0])), forget.add(cell.mul(holes[2]))
            i = f(layer.limited(i))
            forget = i.neg().add(1.0) if coupled else f(layer.limited(forget))
            cell = forget.mul(cell).add(i.mul(g(layer.limited(c))))
            if peep is not None:
                o = o.add(cell.mul(holes[1]))
            return [f(layer.limited(o)).mul(h(cell)), cell]

        return at

    return layer.run(step, [layer.state(5), layer.state(6)])
