"""Graphs as LaTeX: the walk of `notation`, with other signs."""

from __future__ import annotations

import math
import re

from simplegrad import ops
from simplegrad.expressions.notation import (
    ATOM,
    INFIX,
    MUL,
    POWER,
    UNARY,
    Term,
    Writer,
    common_shape,
)
from simplegrad.graph.infer import Shape
from simplegrad.graph.node import Node
from simplegrad.ops import Op

_GREEK = (
    "alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda",
    "mu", "nu", "xi", "pi", "rho", "sigma", "tau", "phi", "chi", "psi", "omega",
)  # fmt: skip
_KNOWN = (
    "exp", "log", "sin", "cos", "tan", "sinh", "cosh", "tanh", "arcsin", "arccos", "arctan", "max",
    "min",
)  # fmt: skip
_SIGNS = {
    "*": r"\,", "==": "=", "!=": r"\ne", "<=": r"\le", ">=": r"\ge", "&": r"\land", "|": r"\lor",
    "^": r"\oplus", "%": r"\bmod", "<<": r"\ll", ">>": r"\gg", "+": "+", "-": "-", "<": "<",
    ">": ">",
}  # fmt: skip


def latex_name(name: str) -> str:
    r"""Return a Python name as a symbol: one letter as it is, Greek ones by name, words upright.

    >>> latex_name("w0"), latex_name("beta_1"), latex_name("weight")
    ('w_{0}', '\\beta_{1}', '\\mathrm{weight}')
    """
    found = re.fullmatch(r"([A-Za-z]+?)_?(\d+)", name)
    stem, index = found.groups() if found else (name, "")
    if stem in _GREEK:
        stem = f"\\{stem}"
    elif len(stem) > 1:
        stem = rf"\mathrm{{{stem}}}".replace("_", r"\_")
    return f"{stem}_{{{index}}}" if index else stem


class LatexWriter(Writer):
    """Writes LaTeX; repeats and casts are left out, as in the short text."""

    def __init__(self, names: dict[Node, str]) -> None:
        super().__init__(names, numpy=False)

    def _fresh(self, letter: str) -> str:
        taken = {*self.names.values(), *self.constants.values(), *[n for n, _ in self.lines]}
        names = (f"{letter}_{{{i}}}" for i in range(1, 10**9))
        return next(n for n in names if n not in taken)

    def _number(self, value: bool | int | float) -> tuple[str, int]:
        text, level = super()._number(value)
        if isinstance(value, float) and math.isinf(value):
            return text.replace("inf", r"\infty"), level
        mantissa, _, exponent = text.partition("e")
        if exponent and mantissa[-1].isdigit():
            return rf"{mantissa} \cdot 10^{{{int(exponent)}}}", MUL
        return text, level

    def _fraction(self, above: int, below: int) -> tuple[str, int]:
        sign = "-" if above < 0 else ""
        return rf"{sign}\frac{{{abs(above)}}}{{{below}}}", UNARY if sign else ATOM

    def _inside(self, term: Term, level: int) -> str:
        return term.text if term.level >= level else rf"\left({term.text}\right)"

    def _infix(self, op: Op, terms: list[Term]) -> Term:
        shape = common_shape(terms)
        if op is ops.DIV:
            return Term(rf"\frac{{{terms[0].text}}}{{{terms[1].text}}}", MUL, shape)
        if op is ops.FLOOR_DIVIDE:
            fraction = rf"\frac{{{terms[0].text}}}{{{terms[1].text}}}"
            return Term(rf"\left\lfloor {fraction} \right\rfloor", ATOM, shape)
        sign, level = INFIX[op]
        left, right = (self._inside(t, level + i) for i, t in enumerate(terms))
        if op is ops.MUL and right[:1].isdigit():
            return Term(rf"{left} \cdot {right}", level, shape)
        return Term(f"{left} {_SIGNS[sign]} {right}", level, shape)

    def _power(self, base: Term, exponent: str, terms: list[Term] | None = None) -> Term:
        shape = common_shape(terms or [base])
        if terms is not None:
            exponent = terms[1].text
        return Term(f"{self._inside(base, ATOM)}^{{{exponent}}}", POWER, shape)

    def _call(self, name: str, terms: list[Term]) -> Term:
        shape = common_shape(terms)
        texts = [t.text for t in terms]
        if name == "exp":
            return Term(f"e^{{{texts[0]}}}", POWER, shape)
        if name == "sqrt":
            return Term(rf"\sqrt{{{texts[0]}}}", ATOM, shape)
        if name == "abs":
            return Term(rf"\left|{texts[0]}\right|", ATOM, shape)
        if name in ("floor", "ceil"):
            return Term(rf"\left\l{name} {texts[0]} \right\r{name}", ATOM, shape)
        if name == "where":
            cases = rf"{texts[1]} & \text{{if }} {texts[0]} \\ {texts[2]} & \text{{otherwise}}"
            return Term(rf"\begin{{cases}} {cases} \end{{cases}}", ATOM, shape)
        name = {"maximum": "max", "minimum": "min"}.get(name, name)
        return Term(rf"{_function(name)}\left({', '.join(texts)}\right)", ATOM, shape)

    def _cast(self, node: Node, term: Term) -> Term:
        if node.srcs[0].dtype.kind == "b":  # Iverson's bracket: 1 where it is true
            return Term(rf"\left[{term.text}\right]", ATOM, term.shape)
        return term

    def _reduction(self, node: Node, x: Node, keepdims: bool) -> Term:
        plain = super()._reduction(node, x, keepdims)
        term = self._array(x)
        axes = ", ".join(map(str, node.arg))
        below = f"_{{{axes}}}" if len(node.arg) < len(x.shape) else ""
        signs = {ops.SUM: r"\sum", ops.PROD: r"\prod"}
        if node.op in signs:
            return Term(f"{signs[node.op]}{below} {self._inside(term, MUL)}", MUL, plain.shape)
        name = _function({ops.MAX: "max", ops.MIN: "min"}.get(node.op, node.op.name))
        return Term(rf"{name}{below}\left({term.text}\right)", ATOM, plain.shape)

    def _view(self, node: Node) -> Term:
        x = node.srcs[0]
        term = self._terms[x]
        if node.op is ops.EXPAND or (node.op is ops.RESHAPE and _unit(x.shape, node.shape)):
            return Term(term.text, term.level, node.shape)
        if node.op is ops.PERMUTE and len(node.arg) == 2:
            return Term(rf"{self._inside(term, ATOM)}^{{\top}}", POWER, node.shape)
        if node.op is ops.SLICE:
            plain = super()._view(node)
            index = plain.text[plain.text.rindex("[") + 1 : -1]
            return Term(f"{self._inside(term, ATOM)}_{{{index}}}", ATOM, node.shape)
        sizes = r" \times ".join(map(str, node.shape))
        axes = ", ".join(map(str, node.arg)) if node.op is ops.PERMUTE else sizes
        return self._applied(node, axes, term.text)

    def _other(self, node: Node) -> Term:
        if node.op is ops.EINSUM:
            return self._einsum(node)
        super()._other(node)  # refuses what has no formula
        texts = ", ".join(self._terms[s].text for s in node.srcs)
        return self._applied(node, node.arg, texts)

    def _applied(self, node: Node, below: object, inside: str) -> Term:
        name = _function(node.op.name)
        return Term(rf"{name}_{{{below}}}\left({inside}\right)", ATOM, node.shape)

    def _product(self, parts: list[str], shape: Shape) -> Term:
        turned = [rf"{p[:-2]}^{{\top}}" if p.endswith(".T") else p for p in parts]
        return Term(r" \, ".join(turned), MUL, shape)

    def _contraction(self, spec: str, operands: list[str], shape: Shape) -> Term:
        below = spec.replace("->", r" \to ")
        text = rf"\operatorname{{einsum}}_{{{below}}}\left({', '.join(operands)}\right)"
        return Term(text, ATOM, shape)


def _function(name: str) -> str:
    r"""Return a function's sign; NumPy's names that LaTeX lacks stand upright.

    >>> _function("tanh"), _function("as_strided")
    ('\\tanh', '\\operatorname{as\\_strided}')
    """
    escaped = name.replace("_", r"\_")
    return f"\\{name}" if name in _KNOWN else rf"\operatorname{{{escaped}}}"


def _unit(before: Shape, after: Shape) -> bool:
    """Whether two shapes differ in axes of extent 1 alone."""
    return [n for n in before if n != 1] == [n for n in after if n != 1]
