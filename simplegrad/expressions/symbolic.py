"""`symbolic`: the expressions of a function and of its gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from simplegrad.arguments import function
from simplegrad.expressions.latex import LatexWriter, latex_name
from simplegrad.expressions.notation import HELPERS, Writer
from simplegrad.expressions.record import Recording, record
from simplegrad.expressions.simplify import simplify
from simplegrad.graph.node import Node


class Symbolic:
    """Simplified expressions of a function's value and of its gradients.

    ``str(s)`` is text, ``s.latex`` LaTeX (an ``aligned`` environment), ``s.source`` Python that
    needs NumPy alone: a function of the same name that returns the value and the tuple of
    gradients. Calling ``s(*arrays)`` runs it.
    """

    def __init__(self, recording: Recording) -> None:
        self.name, self.names = recording.name, recording.names
        self._inputs = recording.inputs
        self._value, *self._gradients = simplify([recording.value, *recording.gradients])
        self._function: Callable[..., Any] | None = None

    def _named(self) -> dict[Node, str]:
        return dict(zip(self._inputs, self.names, strict=True))

    def _labels(self) -> list[str]:
        whole = self.name if self._value.size == 1 else f"sum({self.name})"
        return [self.name, *[f"d {whole} / d {name}" for name in self.names]]

    @property
    def text(self) -> str:
        """The value and gradients as text, after the lines that they share.

        Repeats along axes are not written: operands broadcast as NumPy's do.
        """
        writer = Writer(self._named(), numpy=False)
        results = writer.write([self._value, *self._gradients])
        head = f"{self.name}({', '.join(self.names)}):"
        lines = [f"{name} = {text}" for name, text in writer.lines]
        lines += [f"{label} = {text}" for label, text in zip(self._labels(), results, strict=True)]
        return "\n".join([head, *["    " + line for line in lines]])

    @property
    def latex(self) -> str:
        """The same in LaTeX, an ``aligned`` environment."""
        writer = LatexWriter({n: latex_name(t) for n, t in self._named().items()})
        value, *gradients = writer.write([self._value, *self._gradients])
        name = latex_name(self.name)
        total = name if self._value.size == 1 else rf"\sum {name}"
        lines = [f"{left} &= {right}" for left, right in writer.lines]
        lines.append(f"{name} &= {value}")
        for argument, text in zip(self.names, gradients, strict=True):
            lines.append(rf"\frac{{\partial {total}}}{{\partial {latex_name(argument)}}} &= {text}")
        body = " \\\\\n".join(lines)
        return f"\\begin{{aligned}}\n{body}\n\\end{{aligned}}"

    @property
    def source(self) -> str:
        """Python source of a function of the arguments: (value, (gradient, ...)), with NumPy."""
        writer = Writer(self._named(), numpy=True)
        value, *gradients = writer.write([self._value, *self._gradients])
        parts = ["import math\n" if "erf" in writer.helpers else "", "import numpy as np\n"]
        parts += [HELPERS[name] for name in sorted(writer.helpers)]
        for node, name in writer.constants.items():
            host = node.buffer
            dtype = f"np.{host.dtype.name}"
            parts.append(f"\n{name} = np.array({host.tolist()!r}, {dtype}).reshape({host.shape})\n")
        parts.append(f"\n\ndef {self.name}({', '.join(self.names)}):\n")
        for node, name in self._named().items():
            parts.append(f"    {name} = np.asarray({name}, np.{node.dtype.numpy.name})\n")
        parts += [f"    {name} = {text}\n" for name, text in writer.lines]
        slopes = f"({gradients[0]},)" if len(gradients) == 1 else f"({', '.join(gradients)})"
        parts.append(f"    return {value}, {slopes}\n")
        return "".join(parts)

    def __call__(self, *arrays: Any) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        """Return (value, gradients) of NumPy arrays, computed by `source`."""
        if self._function is None:
            scope: dict[str, Any] = {}
            exec(compile(self.source, f"<symbolic {self.name}>", "exec"), scope)
            self._function = scope[self.name]
        result: tuple[np.ndarray, tuple[np.ndarray, ...]] = self._function(*arrays)
        return result

    def __str__(self) -> str:
        return self.text

    __repr__ = __str__

    def _repr_latex_(self) -> str:
        return f"$${self.latex}$$"


def symbolic(fn: Callable[..., Any], *shapes: Any) -> Symbolic:
    """Return the simplified expressions of `fn` and of its gradients.

    `fn` takes one tensor for each of `shapes` (tuples; arguments have the default float dtype) and
    returns a tensor; where that has several elements, the gradients are those of its sum, as
    ``backward()`` has it. The function is run once, on tensors without values: one that reads
    values or draws random numbers is refused. Expressions are shortened by rules that are exact in
    real numbers; they may round otherwise than the engine, and do not hold for inf and NaN.

    >>> import simplegrad as sg
    >>> print(sg.symbolic(lambda x, w: (x @ w).tanh().sum(), (2, 3), (3,)))
    f(x, w):
        t1 = tanh(x @ w)
        t2 = 1 - t1**2
        f = sum(t1)
        d f / d x = t2[:, None] * w[None, :]
        d f / d w = t2 @ x
    """
    function("symbolic: fn", fn)
    return Symbolic(record(fn, shapes))
