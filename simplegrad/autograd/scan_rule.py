"""The gradient of a SCAN: another SCAN, in the other direction of time.

With s the sum of what arrives at a field, from outside (g), through the matrix and through the
step after, one step of the adjoint is the transpose of the step's own derivative:

    s_f = g_f[t] + (P' @ matrixᵀ)_f + C'_f          f: a field; terms that are 0 are left out
    P'_p, C'_c, X'_i = sum over f of s_f · d(field f) / d(p, c, x_i)

It multiplies P' (the gradient of the products) and carries C'; X', the gradients of the inputs,
are emitted unless they are one of the others. The derivative reads values of the step: products
are one contraction over all times, fields are read where they stand (`Step.saving`), the rest is
computed again. What is asked for besides is a contraction over all times: the gradient of the
matrix is the sum of c ⊗ P' over time and batch.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from simplegrad import dtypes, ops
from simplegrad.autograd.backward import gradients, total
from simplegrad.autograd.rules import RULES
from simplegrad.graph import build
from simplegrad.graph.node import Node, leaf
from simplegrad.graph.scan import Step, above, field, fields, parts, recorded, scan, slot

_SHAPE = (1, 1, 1)


@dataclass(frozen=True)
class _Adjoint:
    """The step of the gradient, and where its operands come from and its results go."""

    step: Step
    reads: tuple[int, ...]
    """Numbers of the values of the step that the adjoint reads, after the gradients of fields."""
    carries: tuple[tuple[int, int], ...]
    """(carried field of the step, field of the adjoint that carries its gradient)."""
    inputs: tuple[int, ...]
    """Fields of the adjoint that are the gradients of the inputs; -1 for none."""


@functools.lru_cache(maxsize=256)
def adjoint(step: Step, touched: tuple[int, ...]) -> _Adjoint:
    """Return the adjoint of a step, where gradients arrive from outside at `touched` fields."""
    carries = tuple(range(step.carried))
    while True:
        known, seeds, found = _derivative(step, touched, carries)
        kept = tuple([c for c in carries if found[step.products + c] is not None])
        if kept == carries:
            break
        carries = kept
    zero = build.full(0, _SHAPE, dtypes.float64)
    products = [g if g is not None else zero for g in found[: step.products]]
    carried = [found[step.products + c] for c in carries]
    results = [*products, *[g for g in carried if g is not None]]
    places: list[int] = []
    for g in found[step.first_input :]:
        if g is not None and not any(g is r for r in results):
            results.append(g)
        places.append(next((i for i, r in enumerate(results) if r is g), -1))
    read = {id(n) for n in above(results, {id(n) for n in known.values()})}
    reads = tuple([v for v, node in known.items() if id(node) in read])
    order = [*seeds, *[known[v] for v in reads]]
    made = recorded(
        order, results, step.multiplied, step.products, step.products + len(carries),
        not step.reverse,
    )  # fmt: skip
    pairs = [(c, step.products + i) for i, c in enumerate(carries)]
    return _Adjoint(made, reads, tuple(pairs), tuple(places))


def _derivative(
    step: Step, touched: tuple[int, ...], carries: tuple[int, ...]
) -> tuple[dict[int, Node], list[Node], list[Node | None]]:
    """Return the step's values by number, the adjoint's slots, and the slots' gradients.

    The adjoint's slots are its products, its carried fields and the gradients from outside.
    """
    slots = [_placeholder(True) for _ in range(step.slots)]
    values = step.nodes(slots)
    for node in values[step.slots :]:
        node.tracks = node.op.differentiable and any(s.tracks for s in node.srcs)
    through = [_placeholder() for _ in range(step.multiplied)]
    unused = [_placeholder() for _ in range(step.products)]
    after = {c: _placeholder() for c in carries}
    outside = {f: _placeholder() for f in touched}
    outputs, arriving = [], []
    for f, number in enumerate(step.results):
        terms = [outside[f]] if f in outside else []
        terms += [through[f]] if f < step.multiplied else []
        terms += [after[f]] if f in after else []
        if terms and values[number].tracks:
            outputs.append(values[number])
            arriving.append(total(terms))
    found = gradients(outputs, arriving, slots)
    # What a field holds is read there, all else follows from the slots.
    known = {n: values[n] for n in (*range(step.slots), *step.results)}
    order = [*through, *unused, *after.values(), *outside.values()]
    return known, order, found


def _placeholder(tracks: bool = False) -> Node:
    node = leaf(ops.BUFFER, _SHAPE, dtypes.float64)
    node.tracks = tracks
    return node


def scan_rule(node: Node, g: Node) -> tuple[Node | None, ...]:
    """Return the gradients of the matrix, the first values and the inputs."""
    step: Step = node.arg
    matrix, starts, inputs = parts(node)
    _, slots, batch, hidden = node.shape
    touched = tuple(sorted(_touched(g)))
    made = adjoint(step, touched)
    at_start = slots - 1 if step.reverse else 0
    given = [_field_of(g, f, node) for f in touched]
    given += [_value(node, v) for v in made.reads]
    zero = build.full(0, (batch, hidden), g.dtype, g.device)
    turned = build.permute(matrix, (1, 0))
    back = scan(made.step, turned, [zero] * made.step.carried, given)
    of_matrix = None
    if matrix.tracks:
        states = fields(node, 0, step.multiplied, True)
        of_products = fields(back, 0, step.products, False)
        outer = build.einsum(((0, 1, 2, 3), (4, 1, 2, 5)), (0, 3, 4, 5), states, of_products)
        of_matrix = build.reshape(outer, matrix.shape)
    carries = dict(made.carries)
    of_starts: list[Node | None] = []
    for c, start in enumerate(starts):
        terms = []
        if start.tracks:
            if c in touched:
                terms.append(slot(g, c, 1, at_start))
            if c < step.multiplied:
                terms.append(_through(matrix, back, step, c, at_start))
            if c in carries:
                terms.append(slot(back, carries[c], 1, at_start))
        of_starts.append(total(terms) if terms else None)
    of_inputs = [
        field(back, place, False) if x.tracks and place >= 0 else None
        for x, place in zip(inputs, made.inputs, strict=True)
    ]
    return (of_matrix, *of_starts, *of_inputs)


def _field_of(g: Node, f: int, node: Node) -> Node:
    """Return the gradient of a field after each step."""
    _, slots, *rest = node.shape
    start = 0 if node.arg.reverse else 1
    cut = build.slice_(g, [(f, 1, 1), (start, slots - 1, 1), *[(0, n, 1) for n in rest]])
    return build.reshape(cut, (slots - 1, *rest))


def _value(node: Node, number: int) -> Node:
    """Return a value of a SCAN's step at all times: (time, batch, hidden)."""
    step: Step = node.arg
    matrix, _, inputs = parts(node)
    if number in step.results:
        return field(node, step.results.index(number), False)
    if number >= step.first_input:
        return inputs[number - step.first_input]
    if number >= step.products:
        return field(node, number - step.products, True)
    hidden = node.shape[-1]
    states = fields(node, 0, step.multiplied, True)
    shape = (step.multiplied, hidden, step.products, hidden)
    cut = build.slice_(
        build.reshape(matrix, shape), [(0, shape[0], 1), (0, hidden, 1), (number, 1, 1),
                                       (0, hidden, 1)]
    )  # fmt: skip
    own = build.reshape(cut, (step.multiplied, hidden, hidden))
    return build.einsum(((0, 1, 2, 3), (0, 3, 4)), (1, 2, 4), states, own)


def _through(matrix: Node, back: Node, step: Step, c: int, at: int) -> Node:
    """Return what arrives at a first value through the matrix: (batch, hidden)."""
    _, _, batch, hidden = back.shape
    rows = [(c * hidden, hidden, 1), (0, matrix.shape[1], 1)]
    own = build.reshape(build.slice_(matrix, rows), (hidden, step.products, hidden))
    arrived = build.reshape(slot(back, 0, step.products, at), (step.products, batch, hidden))
    return build.einsum(((0, 1, 2), (3, 0, 2)), (1, 3), arrived, own)


def _touched(g: Node) -> set[int]:
    """Return the fields that a gradient says anything of: slices leave paddings of zeros."""
    if g.op is ops.ADD and g.buffer is None:
        return _touched(g.srcs[0]) | _touched(g.srcs[1])
    if g.op is ops.PAD and g.buffer is None:
        before = g.arg[0][0][0]
        return {before + f for f in _touched(g.srcs[0])}
    return set(range(g.shape[0]))


RULES[ops.SCAN] = scan_rule
