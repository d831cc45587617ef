"""The step of a SCAN: what a recurrence computes from one time to the next.

A SCAN carries fields (batch, hidden) from step to step. The first few of them, side by side, are
multiplied with a matrix; the step is elementwise in what comes of it:

    p = [c_0 … c_{multiplied-1}] @ matrix                (batch, products x hidden)
    c_0 … c_{carried-1}, emitted … = program(p_0 …, c_0 …, x_0[t] …)

Operands of the node: the matrix (multiplied x hidden, products x hidden), the first value of every
carried field (batch, hidden), and the inputs (time, batch, hidden). Its result stacks the fields,
carried ones first: (fields, time + 1, batch, hidden). Slot t + 1 of time is what step t gave, slot
0 the first values, and 0 in emitted fields; with `reverse` steps run from the last time to the
first, step t fills slot t, and the first values stand in slot `time`.

The gradient of a SCAN is a SCAN, backwards in time (`autograd.scan_rule`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from simplegrad import ops
from simplegrad.errors import UnsupportedOp
from simplegrad.graph import build
from simplegrad.graph.node import Node, const, const_value, make

Instruction = tuple[Any, ...]
"""(name of an elementwise operation, numbers of its operands …), or ("const", text)."""

_DEAR = 4
"""Cost from which a value is kept for the backward pass rather than computed again."""


@dataclass(frozen=True)
class Step:
    """A program over numbered values: products, carried fields, inputs, then its instructions."""

    products: int
    multiplied: int
    carried: int
    inputs: int
    program: tuple[Instruction, ...]
    results: tuple[int, ...]
    """Numbers of the values that become the fields: the carried ones, then the emitted ones."""
    reverse: bool = False

    @property
    def slots(self) -> int:
        """Values that stand before the instructions."""
        return self.products + self.carried + self.inputs

    @property
    def first_input(self) -> int:
        """The number of the first input."""
        return self.products + self.carried

    def values(
        self, slots: Sequence[Any], apply: Callable[..., Any], number: Callable[[str], Any]
    ) -> list[Any]:
        """Return all values: `apply` computes an operation, `number` gives a constant."""
        found = list(slots)
        for name, *operands in self.program:
            if name == "const":
                found.append(number(operands[0]))
            else:
                found.append(apply(ops.OPS[name], *[found[i] for i in operands]))
        return found

    def nodes(self, slots: Sequence[Node]) -> list[Node]:
        """Return all values as nodes over others of one shape and dtype."""
        spec, device = slots[0].kind.spec, slots[0].device
        return self.values(slots, build.apply, lambda text: const(float(text), spec, device))

    def saving(self) -> Step:
        """Return the step that also emits what the backward pass would rather read."""
        dear = [
            self.slots + i
            for i, (name, *_) in enumerate(self.program)
            if name != "const" and ops.OPS[name].cost >= _DEAR
        ]
        kept = tuple([i for i in dear if i not in self.results])
        return self.with_results((*self.results, *kept))

    def with_results(self, results: tuple[int, ...]) -> Step:
        """Return the step with other fields."""
        return Step(
            self.products, self.multiplied, self.carried, self.inputs, self.program, results,
            self.reverse,
        )  # fmt: skip

    def text(self) -> list[str]:
        """Return the program for people, a line for each instruction."""
        names = [f"p{i}" for i in range(self.products)]
        names += [f"c{i}" for i in range(self.carried)] + [f"x{i}" for i in range(self.inputs)]
        lines = []
        for name, *operands in self.program:
            names.append(f"v{len(names) - self.slots}")
            told = operands[0] if name == "const" else ", ".join(names[i] for i in operands)
            lines.append(f"{names[-1]} = {name}({told})")
        fields = ", ".join(names[i] for i in self.results)
        return [*lines, f"fields {fields}"]


def recorded(
    slots: Sequence[Node], results: Sequence[Node], products: int, multiplied: int, carried: int,
    reverse: bool = False,
) -> Step:  # fmt: skip
    """Return the step that computes `results` from `slots`, which stand for its values.

    `results` are elementwise in the slots, numbers included. Raises `UnsupportedOp` else.
    """
    numbers = {id(node): i for i, node in enumerate(slots)}
    shape = slots[0].shape
    program: list[Instruction] = []
    for node in above(results, set(numbers)):
        if id(node) in numbers:
            continue
        if node.op in (ops.CONST, ops.SCALAR):
            value = node.value if node.op is ops.SCALAR else const_value(node)
            program.append(("const", repr(float(value))))
        elif node.op.kind == ops.ELEMENTWISE and node.op is not ops.CAST and node.shape == shape:
            program.append((node.op.name, *[numbers[id(s)] for s in node.srcs]))
        else:
            raise UnsupportedOp(
                f"scan: a step is elementwise in its values and numbers; {node.op} of shape "
                f"{node.shape} is not ({node.where})"
            )
        numbers[id(node)] = len(slots) + len(program) - 1
    inputs = len(slots) - products - carried
    return Step(
        products, multiplied, carried, inputs, tuple(program),
        tuple([numbers[id(r)] for r in results]), reverse,
    )  # fmt: skip


def above(roots: Sequence[Node], ends: set[int]) -> list[Node]:
    """Return the nodes that `roots` need, operands first; none below those whose id is in `ends`.

    A step has few operations, and a chain of them is short: recursion will do.
    """
    found: dict[int, Node] = {}

    def visit(node: Node) -> None:
        if id(node) not in found:
            for source in node.srcs if id(node) not in ends else ():
                visit(source)
            found[id(node)] = node

    for root in roots:
        visit(root)
    return list(found.values())


def scan(step: Step, matrix: Node, starts: Sequence[Node], inputs: Sequence[Node]) -> Node:
    """Return the SCAN of a step; see the head of this file for the shapes."""
    return make(ops.SCAN, (matrix, *starts, *inputs), step)


def parts(node: Node) -> tuple[Node, tuple[Node, ...], tuple[Node, ...]]:
    """Return the operands of a SCAN: the matrix, the first values, the inputs."""
    matrix, *rest = node.srcs
    carried = node.arg.carried
    return matrix, tuple(rest[:carried]), tuple(rest[carried:])


def field(node: Node, number: int, before: bool) -> Node:
    """Return a field of a SCAN (time, batch, hidden): after each step, or as the step found it."""
    return build.reshape(fields(node, number, 1, before), (node.shape[1] - 1, *node.shape[2:]))


def fields(node: Node, first: int, count: int, before: bool) -> Node:
    """Return some fields of a SCAN, as `field` does, with an axis of them in front."""
    _, slots, *rest = node.shape
    start = 0 if before is not node.arg.reverse else 1
    cut = [(first, count, 1), (start, slots - 1, 1), *[(0, n, 1) for n in rest]]
    return build.slice_(node, cut)


def end(node: Node, number: int) -> Node:
    """Return a field of a SCAN after its last step: (batch, hidden)."""
    return slot(node, number, 1, 0 if node.arg.reverse else node.shape[1] - 1)


def slot(node: Node, first: int, count: int, at: int) -> Node:
    """Return some fields at one slot of time: (count x batch, hidden)."""
    _, _, batch, hidden = node.shape
    cut = build.slice_(node, [(first, count, 1), (at, 1, 1), (0, batch, 1), (0, hidden, 1)])
    return build.reshape(cut, (count * batch, hidden))


def unrolled(node: Node) -> Node:
    """Return what a SCAN computes in the other operations, step after step."""
    step: Step = node.arg
    matrix, states, inputs = parts(node)
    fields_, slots, batch, hidden = node.shape
    own = (batch, hidden)
    zero = build.full(0, own, node.dtype, node.device)
    layers = [[*states, *[zero] * (fields_ - step.carried)]]
    times = range(slots - 1)
    for t in reversed(times) if step.reverse else times:
        past = _concat(states[: step.multiplied], 1)
        product = build.einsum(((0, 1), (1, 2)), (0, 2), past, matrix)
        columns = [(p * hidden, hidden, 1) for p in range(step.products)]
        found = [build.slice_(product, [(0, batch, 1), c]) for c in columns]
        given = [build.reshape(_cut(x, t), own) for x in inputs]
        values = step.nodes([*found, *states, *given])
        layers.append([values[i] for i in step.results])
        states = tuple(layers[-1][: step.carried])
    if step.reverse:
        layers.reverse()
    stacked = [_concat([build.reshape(x, (1, 1, *own)) for x in layer], 0) for layer in layers]
    return _concat(stacked, 1)


def _concat(parts_: Sequence[Node], axis: int) -> Node:
    return make(ops.CONCAT, tuple(parts_), axis) if len(parts_) > 1 else parts_[0]


def _cut(x: Node, at: int) -> Node:
    """Return one element of the first axis, which stays."""
    return build.slice_(x, [(at, 1, 1), *[(0, n, 1) for n in x.shape[1:]]])
