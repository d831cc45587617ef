"""Why the last realize had to make a plan: what sets it apart from the nearest one known."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from simplegrad import ops
from simplegrad.graph.node import Kind, Spec
from simplegrad.runtime import lookup
from simplegrad.runtime.lookup import Known, Miss

_MOST = 4
"""Differences of one sort that are listed."""

_Kinds = Sequence[Kind | Spec]


class _Graph(NamedTuple):
    """The graph of a plan, operands first: so that what was recorded first is compared first."""

    kinds: _Kinds
    edges: tuple[int, ...]
    """The places of all operands, node after node."""
    kept: tuple[int, ...]
    lines: Sequence[str]


def _graph(known: Known, lines: Sequence[str] = ()) -> _Graph:
    _, edges, kept, wanted = known.structure
    left = iter(edges)
    operands = [
        tuple(itertools.islice(left, len(k.ins))) if isinstance(k, Kind) else ()
        for k in known.kinds
    ]  # fmt: skip
    place: dict[int, int] = {}
    stack = list(range(wanted))[::-1]
    while stack:
        node = stack[-1]
        missing = [n for n in operands[node] if n not in place]
        if node in place or not missing:
            place.setdefault(stack.pop(), len(place))
        else:
            stack += missing[::-1]
    order = list(place)
    return _Graph(
        [known.kinds[n] for n in order],
        tuple([place[operand] for n in order for operand in operands[n]]),
        tuple([place[n] for n in kept]),
        [lines[n] for n in order] if lines else (),
    )


def explain_plan() -> str:
    """Return whether this thread's last realize replayed a plan, and why not."""
    known, miss = lookup.last.used, lookup.last.miss
    if known is None:
        return "nothing has been computed by kernels in this thread yet"
    if miss is not None and miss.known is known and known.uses == 1:
        return _explain(miss)
    launches = len(known.plan.program.launches)
    counted = "1 launch" if launches == 1 else f"{launches} launches"
    text = (
        f"hit: a plan of {counted} for {count_operations(known.kinds)} operations on "
        f"{known.key.device.name}, used {known.uses} times"
    )
    return text if miss is None else f"{text}\nthe last miss before: {_explain(miss)}"


def _explain(miss: Miss) -> str:
    made = "scheduled and compiled"
    if miss.stored or miss.served:
        made = "its program was on disk" if miss.stored else "a program for all shapes serves it"
    if not miss.others:
        return f"miss ({made}): the first plan of this process"
    # Of plans that are equally near, the last one is what a loop ran before.
    nearest = min(miss.others, key=lambda other: _distance(miss.known, other))
    return f"miss ({made}): differs " + "; ".join(_differences(miss, nearest))


def count_operations(kinds: _Kinds) -> int:
    """Return how many nodes of a graph are operations on others; to repeat a number is none."""
    return sum(
        isinstance(k, Kind) and k.ins != () and (k.op is not ops.EXPAND or k.ins[0].shape != ())
        for k in kinds
    )


def _name(kind: Kind | Spec) -> str:
    return kind.op.name if isinstance(kind, Kind) else "input"


def _spec(kind: Kind | Spec) -> Spec:
    return kind.spec if isinstance(kind, Kind) else kind


def _distance(known: Known, other: Known) -> tuple[int, int, int]:
    a, b = known.kinds, other.kinds
    start, end = _common(a, b)
    operations = max(len(a), len(b)) - start - end
    places = sum(x != y for x, y in zip(a, b, strict=False))
    settings = sum(x != y for x, y in zip(known.key[:-1], other.key[:-1], strict=True))
    return operations, settings, places


def _common(a: _Kinds, b: _Kinds) -> tuple[int, int]:
    """Return how many operations agree from the start on, and of the rest up to the end."""
    most = min(len(a), len(b))
    start = next((i for i in range(most) if _name(a[i]) != _name(b[i])), most)
    most -= start
    end = next((i for i in range(most) if _name(a[-1 - i]) != _name(b[-1 - i])), most)
    return start, end


def _differences(miss: Miss, other: Known) -> list[str]:
    known = miss.known
    names = (
        "device", "setting fusion", "setting kernels", "setting fast_math", "setting tune",
        "tiles that the tuner found",
    )  # fmt: skip
    found = []
    for name, x, y in zip(names, known.key[:-1], other.key[:-1], strict=True):
        if x != y:
            found.append(f"in the {name}: {getattr(x, 'name', x)!r} against {y!r}")
    mine, theirs = _graph(known, miss.lines), _graph(other)
    a, b = mine.kinds, theirs.kinds
    start, end = _common(a, b)
    if len(a) != len(b) or start < len(a):
        here = [f"{_name(a[i])}{_at(mine.lines[i])}" for i in range(start, len(a) - end)]
        there = [_name(k) for k in b[start : len(b) - end]]
        found.append(f"in the operations: {_listed(here)} against {_listed(there)}")
        return found
    found += _of_inputs(a, b) or _of_kinds(a, b, mine.lines)
    if not found:
        found += _of_structure(mine, theirs)
        wanted, wanted_there = known.structure[-1], other.structure[-1]
        if not found and wanted != wanted_there:
            found.append(f"in how many results were asked for: {wanted} against {wanted_there}")
    return found or ["in the order of the results"]


def _of_inputs(a: _Kinds, b: _Kinds) -> list[str]:
    """Name the inputs of another shape or dtype; all else that differs follows from them."""
    pairs = [(x, y) for x, y in zip(a, b, strict=True) if isinstance(x, Spec)]
    differing = []
    for i, (x, y) in enumerate(pairs):
        differing += [f"in the {text}" for text in _of_specs(f"input {i}", x, _spec(y))]
    return _shortened(differing)


def _of_kinds(a: _Kinds, b: _Kinds, lines: Sequence[str]) -> list[str]:
    """Name the operations of another shape, dtype or argument whose operands are the same."""
    differing = []
    for x, y, line in zip(a, b, lines, strict=True):
        if isinstance(x, Kind) and isinstance(y, Kind) and x is not y and x.ins == y.ins:
            name = f"{x.op}{_at(line)}"
            differing += [f"in the {text}" for text in _of_specs(name, x.spec, y.spec)]
            if x.arg != y.arg and x.spec is y.spec:
                differing.append(f"in the argument of {name}: {x.arg} against {y.arg}")
    return _shortened(differing)


def _of_specs(name: str, x: Spec, y: Spec) -> Iterator[str]:
    if x.shape != y.shape:
        yield f"shape of {name}: {x.shape} against {y.shape}"
    if x.dtype is not y.dtype:
        yield f"dtype of {name}: {x.dtype} against {y.dtype}"


def _of_structure(mine: _Graph, theirs: _Graph) -> list[str]:
    """Name what is kept in one and not in the other; or the sharing."""
    found = []
    for here, places in (
        (True, {*mine.kept} - {*theirs.kept}), (False, {*theirs.kept} - {*mine.kept}),
    ):  # fmt: skip
        for place in sorted(places):
            where = "here, not there" if here else "there, not here"
            name = f"{_name(mine.kinds[place])}{_at(mine.lines[place])}"
            found.append(f"in what is kept: {name} is held by a tensor {where}")
    if mine.edges != theirs.edges:
        found.append("in which operation reads which: the operations are the same, in number too")
    return _shortened(found)


def _shortened(found: list[str]) -> list[str]:
    rest = len(found) - _MOST
    return found if rest <= 0 else [*found[:_MOST], f"and in {rest} more"]


def _listed(names: Sequence[str]) -> str:
    if not names:
        return "nothing"
    more = f", and {len(names) - _MOST} more" if len(names) > _MOST else ""
    return ", ".join(names[:_MOST]) + more


def _at(line: str) -> str:
    return f" ({line})" if line else ""
