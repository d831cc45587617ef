"""Graphs as Python text: runnable NumPy source, and the same in short to read.

Nodes are written operands first, each once, into a `Term`; what is read more than once becomes a
line of its own. Nothing here recurses, so that a long chain is a long text and no more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

from simplegrad import ops
from simplegrad.errors import UnsupportedOp
from simplegrad.expressions.simplify import number
from simplegrad.graph.infer import Shape, broadcast_shapes
from simplegrad.graph.node import Node, topological
from simplegrad.ops import Op

COMPARE, OR, XOR, AND, SHIFT, ADD, MUL, UNARY, POWER, ATOM = range(10)
_LONGEST = 90
"""Characters of an expression that is not given a line of its own."""


class Term(NamedTuple):
    """The text of a node, how tightly it binds, and the shape that NumPy gives it."""

    text: str
    level: int
    shape: Shape


INFIX: dict[Op, tuple[str, int]] = {
    ops.ADD: ("+", ADD),
    ops.SUB: ("-", ADD),
    ops.MUL: ("*", MUL),
    ops.DIV: ("/", MUL),
    ops.FLOOR_DIVIDE: ("//", MUL),
    ops.REMAINDER: ("%", MUL),
    ops.EQUAL: ("==", COMPARE),
    ops.NOT_EQUAL: ("!=", COMPARE),
    ops.LESS: ("<", COMPARE),
    ops.LESS_EQUAL: ("<=", COMPARE),
    ops.GREATER: (">", COMPARE),
    ops.GREATER_EQUAL: (">=", COMPARE),
    ops.AND: ("&", AND),
    ops.OR: ("|", OR),
    ops.XOR: ("^", XOR),
    ops.SHIFT_LEFT: ("<<", SHIFT),
    ops.SHIFT_RIGHT: (">>", SHIFT),
}

FUNCTIONS: dict[Op, str] = {
    op: op.name for op in (
        ops.ABS, ops.SIGN, ops.EXP, ops.EXP2, ops.EXPM1, ops.LOG, ops.LOG2, ops.LOG1P, ops.SQRT,
        ops.SIN, ops.COS, ops.TAN, ops.SINH, ops.COSH, ops.TANH, ops.FLOOR, ops.CEIL, ops.TRUNC,
        ops.ISNAN, ops.ISINF, ops.ISFINITE, ops.MAXIMUM, ops.MINIMUM, ops.HYPOT, ops.WHERE,
    )
} | {
    ops.ASIN: "arcsin", ops.ACOS: "arccos", ops.ATAN: "arctan", ops.ASINH: "arcsinh",
    ops.ACOSH: "arccosh", ops.ATANH: "arctanh", ops.ATAN2: "arctan2", ops.ROUND: "rint",
    ops.SUM: "sum", ops.PROD: "prod", ops.MAX: "max", ops.MIN: "min", ops.ARGMAX: "argmax",
    ops.ARGMIN: "argmin",
}  # fmt: skip

HELPERS = {
    "erf": """
def erf(x):
    return np.vectorize(math.erf, otypes=[float])(x).astype(x.dtype)
""",
    "spread": """
def spread(x, widths, fill):
    shape = [b + a + n + s * max(n - 1, 0) for n, (b, a, s) in zip(x.shape, widths)]
    result = np.full(shape, fill, x.dtype)
    steps = [slice(b, b + n + s * (n - 1), s + 1) for n, (b, a, s) in zip(x.shape, widths)]
    result[tuple(steps)] = x
    return result
""",
    "window": """
def window(x, shape, strides, offset):
    flat = np.ascontiguousarray(x).reshape(-1)[offset:]
    return np.lib.stride_tricks.as_strided(flat, shape, [s * flat.itemsize for s in strides])
""",
    "scatter_add": """
def scatter_add(indices, rows, length):
    result = np.zeros((length, *rows.shape[1:]), rows.dtype)
    inside = (0 <= indices) & (indices < length)
    np.add.at(result, indices[inside], rows[inside])
    return result
""",
}
"""Python source of what NumPy has no one function for."""


class Writer:
    """Writes Python; `numpy`: runnable with NumPy, else without its prefixes, casts and repeats."""

    def __init__(self, names: dict[Node, str], numpy: bool) -> None:
        self.names, self.numpy = names, numpy
        self.prefix = "np." if numpy else ""
        self.lines: list[tuple[str, str]] = []
        self.helpers: set[str] = set()
        self.constants: dict[Node, str] = {}
        self._terms: dict[Node, Term] = {}

    def write(self, roots: Sequence[Node]) -> list[str]:
        """Return the texts of `roots`; `lines` are those of the parts that they share."""
        order = topological(roots)
        uses = _uses(order, roots)
        for node in order:
            term = self._term(node)
            shared = uses[node] > 1 or len(term.text) > _LONGEST
            if shared and node.srcs and not _is_view(node):
                self.lines.append((self._fresh("t"), term.text))
                term = Term(self.lines[-1][0], ATOM, term.shape)
            self._terms[node] = term
        return [self._whole(root) for root in roots]

    def _whole(self, node: Node) -> str:
        """Return the text of a result, in its full shape where NumPy runs it."""
        return self._array(node).text if self.numpy else self._terms[node].text

    def _fresh(self, letter: str) -> str:
        taken = {*self.names.values(), *self.constants.values(), *[n for n, _ in self.lines]}
        return next(n for n in (f"{letter}{i}" for i in range(1, 10**9)) if n not in taken)

    # Operands -----------------------------------------------------------------------------------

    def _bare(self, node: Node, shape: Shape) -> list[Term]:
        """Return the operands of an elementwise node, without repeats that NumPy does itself."""
        terms = []
        for source in node.srcs:
            plain = source.op is ops.EXPAND and source.buffer is None and source not in self.names
            terms.append(self._terms[source.srcs[0] if plain else source])
        if self.numpy and common_shape(terms) != shape:
            terms[0] = self._terms[node.srcs[0]]
        return terms

    def _repeated(self, term: Term, shape: Shape) -> Term:
        if not self.numpy:
            return term
        return Term(f"np.broadcast_to({term.text}, {shape})", ATOM, shape)

    def _dtype(self, node: Node) -> str:
        return f"np.{'bool_' if node.dtype.kind == 'b' else node.dtype.numpy.name}"

    def _array(self, node: Node) -> Term:
        """Return the operand of something that is no elementwise operation: of its own shape."""
        term = self._terms[node]
        if number(node) is not None:
            dtype = f", {self._dtype(node)}" if self.numpy else ""
            return Term(f"{self.prefix}full({node.shape}, {term.text}{dtype})", ATOM, node.shape)
        return term if term.shape == node.shape else self._repeated(term, node.shape)

    # Nodes --------------------------------------------------------------------------------------

    def _term(self, node: Node) -> Term:
        if node in self.names:
            return Term(self.names[node], ATOM, node.shape)
        if node.buffer is not None:
            name = self.constants[node] = self._fresh("c")
            return Term(name, ATOM, node.shape)
        value = number(node)
        if value is not None:
            return Term(*self._number(value), ())
        if node.op.kind == ops.ELEMENTWISE:
            return self._elementwise(node)
        if node.op.kind == ops.REDUCE:
            return self._reduction(node, node.srcs[0], False)
        if node.op.kind == ops.VIEW:
            return self._view(node)
        if node.op is ops.IOTA:
            dtype = f", dtype={self._dtype(node)}" if self.numpy else ""
            return Term(f"{self.prefix}arange({node.arg}{dtype})", ATOM, node.shape)
        return self._other(node)

    def _number(self, value: bool | int | float) -> tuple[str, int]:
        if isinstance(value, float) and not math.isfinite(value):
            text = self.prefix + ("nan" if value != value else "inf")
            return (f"-{text}", UNARY) if value < 0 else (text, ATOM)
        if isinstance(value, float):
            value = int(value) if value.is_integer() and abs(value) < 1e6 else value
        if isinstance(value, float) and not self.numpy:
            ratio = Fraction(value).limit_denominator(100)
            if len(repr(value)) > 6 and abs(ratio - value) <= 1e-7 * abs(value):
                return self._fraction(ratio.numerator, ratio.denominator)
            text = f"{value:.6g}"
        else:
            text = repr(value)
        return text, UNARY if text.startswith("-") else ATOM

    def _fraction(self, above: int, below: int) -> tuple[str, int]:
        return f"{above}/{below}", MUL

    def _elementwise(self, node: Node) -> Term:
        op, shape = node.op, node.shape
        terms = self._bare(node, shape)
        if op is ops.CAST:
            return self._cast(node, terms[0])
        if op in (ops.NEG, ops.INVERT):
            sign = "-" if op is ops.NEG else "~"
            return Term(sign + self._inside(terms[0], POWER), UNARY, terms[0].shape)
        if op is ops.MUL and node.srcs[0] is node.srcs[1]:
            return self._power(terms[0], "2")
        if op is ops.POW:
            return self._power(terms[0], self._inside(terms[1], ATOM), terms)
        if op in INFIX:
            return self._infix(op, terms)
        if op is ops.ERF:
            self.helpers.add("erf")
            return self._call("erf", terms)
        if op not in FUNCTIONS:
            raise UnsupportedOp(
                f"symbolic: {op} has no formula ({node.where}); give random numbers as an argument"
            )
        if op is ops.WHERE and self.numpy and not terms[1].shape and not terms[2].shape:
            # Two Python numbers would make float64 of it.
            typed = [Term(f"{self._dtype(node)}({t.text})", ATOM, ()) for t in terms[1:]]
            terms = [terms[0], *typed]
        return self._call(self.prefix + FUNCTIONS[op], terms)

    def _infix(self, op: Op, terms: list[Term]) -> Term:
        sign, level = INFIX[op]
        tight = level + 1 if level > COMPARE else ADD  # comparisons do not chain
        left = self._inside(terms[0], level if level > COMPARE else ADD)
        text = f"{left} {sign} {self._inside(terms[1], tight)}"
        return Term(text, level, common_shape(terms))

    def _power(self, base: Term, exponent: str, terms: list[Term] | None = None) -> Term:
        shape = common_shape(terms or [base])
        return Term(f"{self._inside(base, ATOM)}**{exponent}", POWER, shape)

    def _call(self, name: str, terms: list[Term]) -> Term:
        text = f"{name}({', '.join(t.text for t in terms)})"
        return Term(text, ATOM, common_shape(terms))

    def _inside(self, term: Term, level: int) -> str:
        return term.text if term.level >= level else f"({term.text})"

    def _cast(self, node: Node, term: Term) -> Term:
        if not self.numpy:
            return term
        return Term(f"{self._inside(term, ATOM)}.astype({self._dtype(node)})", ATOM, term.shape)

    def _reduction(self, node: Node, x: Node, keepdims: bool) -> Term:
        rank, axes = len(x.shape), node.arg
        where = ""
        if len(axes) < rank or node.op in (ops.ARGMAX, ops.ARGMIN):
            where = f", axis={axes[0] if len(axes) == 1 else axes}"
        kept = ", keepdims=True" if keepdims else ""
        name = f"{self.prefix}{FUNCTIONS[node.op]}"
        kept_axes = [a for a in range(rank) if keepdims or a not in axes]
        shape = tuple(1 if a in axes else x.shape[a] for a in kept_axes)
        return Term(f"{name}({self._array(x).text}{where}{kept})", ATOM, shape)

    def _view(self, node: Node) -> Term:
        x = node.srcs[0]
        if node.op is ops.EXPAND:
            return self._repeated(self._terms[x], node.shape)
        if node.op is ops.RESHAPE:
            return self._reshape(node, x)
        inside = self._inside(self._array(x), ATOM)
        if node.op is ops.PERMUTE:
            turned = len(node.arg) == 2
            text = f"{inside}.T" if turned else f"{inside}.transpose{node.arg}"
            return Term(text, ATOM, node.shape)
        if node.op is ops.SLICE:
            parts = ", ".join(map(_slice, node.arg, x.shape))
            return Term(f"{inside}[{parts}]", ATOM, node.shape)
        whole = self._array(x).text
        if node.op is ops.PAD:
            return self._pad(node, whole)
        shape, strides, offset = node.arg
        self.helpers.add("window")
        return Term(f"window({whole}, {shape}, {strides}, {offset})", ATOM, node.shape)

    def _reshape(self, node: Node, x: Node) -> Term:
        if x.op.kind == ops.REDUCE and x.buffer is None and x not in self.names:
            source = x.srcs[0]
            kept = tuple(1 if a in x.arg else n for a, n in enumerate(source.shape))
            single = self._terms[x].text.endswith(")")  # else it has a line, and a name
            if kept == node.shape and single:
                return self._reduction(x, source, True)
        inside = self._inside(self._array(x), ATOM)
        index, rest = [], list(x.shape)
        for n in node.shape:  # only new axes of extent 1: an index says it best
            if rest and n == rest[0]:
                index.append(":")
                rest.pop(0)
            elif n == 1:
                index.append("None")
        if not rest and len(index) == len(node.shape) and node.shape:
            return Term(f"{inside}[{', '.join(index)}]", ATOM, node.shape)
        return Term(
            f"{inside}.reshape({', '.join(map(str, node.shape)) or '()'})", ATOM, node.shape
        )

    def _pad(self, node: Node, inside: str) -> Term:
        widths, fill = node.arg
        fill = fill if fill[-1].isdigit() or fill[0] in "TF" else f"{self.prefix}{fill}"
        if any(between for _, _, between in widths):
            self.helpers.add("spread")
            return Term(f"spread({inside}, {widths}, {fill})", ATOM, node.shape)
        pairs = tuple((before, after) for before, after, _ in widths)
        value = "" if fill in ("0", "0.0", "False") else f", constant_values={fill}"
        return Term(f"{self.prefix}pad({inside}, {pairs}{value})", ATOM, node.shape)

    def _other(self, node: Node) -> Term:
        if node.op is ops.EINSUM:
            return self._einsum(node)
        texts = [self._array(s).text for s in node.srcs]
        if node.op is ops.TAKE:
            text = f'{self.prefix}take({texts[0]}, {texts[1]}, axis={node.arg}, mode="clip")'
        elif node.op is ops.CUMSUM:
            text = f"{self.prefix}cumsum({texts[0]}, axis={node.arg})"
        elif node.op is ops.CONCAT:
            text = f"{self.prefix}concatenate(({', '.join(texts)}), axis={node.arg})"
        elif node.op is ops.SCATTER_ADD:
            self.helpers.add("scatter_add")
            text = f"scatter_add({texts[0]}, {texts[1]}, {node.arg})"
        else:
            raise UnsupportedOp(f"symbolic: {node.op} has no formula ({node.where})")
        return Term(text, ATOM, node.shape)

    def _einsum(self, node: Node) -> Term:
        *subscripts, output = node.arg
        product = matrix_product(subscripts, output)
        if product is not None:
            terms = [self._array(node.srcs[i]) for i, _ in product]
            parts = [
                self._inside(t, ATOM) + ".T" * turned
                for t, (_, turned) in zip(terms, product, strict=True)
            ]
            return self._product(parts, node.shape)
        letters = {i: chr(97 + k) for k, i in enumerate(dict.fromkeys(sum(node.arg, ())))}
        words = ["".join(letters[i] for i in s) for s in node.arg]
        spec = f"{','.join(words[:-1])}->{words[-1]}"
        return self._contraction(spec, [self._array(s).text for s in node.srcs], node.shape)

    def _product(self, parts: list[str], shape: Shape) -> Term:
        return Term(" @ ".join(parts), MUL, shape)

    def _contraction(self, spec: str, operands: list[str], shape: Shape) -> Term:
        return Term(f'{self.prefix}einsum("{spec}", {", ".join(operands)})', ATOM, shape)


def matrix_product(
    subscripts: Sequence[tuple[int, ...]], output: tuple[int, ...]
) -> list[tuple[int, bool]] | None:
    """Return the operands (number, transposed) of a plain product of matrices or vectors."""
    if len(subscripts) != 2 or any(len(set(s)) < len(s) or len(s) > 2 for s in subscripts):
        return None
    shared = set(subscripts[0]) & set(subscripts[1])
    if len(shared) != 1 or shared & set(output):
        return None
    order = [0, 1]
    rest = [[i for i in s if i not in shared] for s in subscripts]
    if list(output) != rest[0] + rest[1]:
        order = [1, 0]
        if list(output) != rest[1] + rest[0]:
            return None
    (first, second) = (subscripts[i] for i in order)
    turned = (first[-1] not in shared, second[0] not in shared)
    return [(order[0], turned[0]), (order[1], turned[1])]


def _slice(part: tuple[int, int, int], extent: int) -> str:
    start, count, step = part
    if not count:
        return "0:0"
    stop = start + count * step
    if (start, count, step) == (0, extent, 1):
        return ":"
    last = "" if stop < 0 or (step > 0 and stop >= extent) else str(stop)
    first = "" if (start == 0 and step > 0) or (step < 0 and start == extent - 1) else str(start)
    return f"{first}:{last}" + (f":{step}" if step != 1 else "")


def common_shape(terms: Sequence[Term]) -> Shape:
    """Return the shape in which NumPy broadcasts operands."""
    return broadcast_shapes("symbolic", *[t.shape for t in terms])


def _is_view(node: Node) -> bool:
    return node.op.kind == ops.VIEW and node.op not in (ops.PAD, ops.AS_STRIDED)


def _uses(order: Sequence[Node], roots: Sequence[Node]) -> dict[Node, int]:
    """Return how often each node is written; a view passes its own uses on."""
    uses = dict.fromkeys(order, 0)
    for root in roots:
        uses[root] += 1
    for node in reversed(order):
        for source in node.srcs if node.buffer is None else ():
            uses[source] += uses[node] if _is_view(node) else 1
    return uses
