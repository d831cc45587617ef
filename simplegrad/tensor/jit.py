"""`jit`: a function that is run twice and replayed from then on, without building its graph.

A replay runs the plans of the recorded calls over the arguments' buffers. What a function reads
and writes besides its arguments is found by `captures`; what a replay could not repeat is refused
when it is recorded, and what has changed since makes a new recording: a call is never answered
with what was true for another.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from simplegrad import arguments, settings
from simplegrad.errors import JitError
from simplegrad.graph.node import Node
from simplegrad.graph.prune import live_leaf
from simplegrad.runtime import devices, recording
from simplegrad.runtime.realize import from_numpy, realize, to_numpy
from simplegrad.tensor.captures import captures
from simplegrad.tensor.core import Core, detached, wrap
from simplegrad.tensor.modes import mode
from simplegrad.tensor.places import Gradient, Place, Slot, is_available, places_of
from simplegrad.tensor.replay import RESULT, Trace, Write
from simplegrad.tensor.straight import MISS, straight

_MOST_SIGNATURES = 64
_MOST_TRIES = 4
"""Recordings that may differ from the one before, as first steps do, until that is an error."""


def jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that replays the kernels of `function` without running its Python.

    The first calls of a signature (shapes, dtypes and devices of tensors, the structure of lists,
    tuples and dictionaries, all other values) run `function` and record it, until two in a row
    agree; later ones replay. On devices without plans (NumPy) every call runs it. Tensors and NumPy
    arrays among the arguments arrive as untracked tensors; take gradients with respect to them
    inside, by `grad`. Results are fresh tensors without history. Tensors that the function reads
    from its surroundings are read anew by every call, and what it writes there (an optimiser's
    parameters and state, a tensor put into an attribute) is written by every call; random draws go
    on as without `jit`.

    A number, flag or list in the function's surroundings that changes between calls leads to a new
    recording. `JitError` is raised for what a replay could not repeat: a value read on the host
    (``item()``, ``print``, ``if x > 0``), host data turned into a tensor, a host value changed, a
    number that differs between two recordings for no visible reason, a result that tracks
    gradients. Of gradients left in ``.grad``, those that no call reads are not computed; reading
    one after a replay is an error.

    >>> import simplegrad as sg
    >>> double = sg.jit(lambda x: x * 2)
    >>> [double(sg.asarray([float(i)])).item() for i in range(4)]
    [0.0, 2.0, 4.0, 6.0]
    """
    arguments.function("jit: its argument", function)
    known: dict[Any, _Entry] = {}
    last: list[_Entry] = []
    """The entry of the last call, if that was a replay's."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        for before in last:
            if before.replay is not None:
                result = before.replay(args, kwargs)
                if result is not MISS:
                    return result
        if recording.active():
            return function(*args, **kwargs)
        device, leaves = devices.current(), list[Any]()
        structure = _signature((args, kwargs), leaves)
        if not device.runs_kernels:  # nothing to replay, but arguments are the same
            args, kwargs = _with_tensors((args, kwargs), map(detached, map(_node, leaves)))
            return function(*args, **kwargs)
        key = (structure, mode.grad, settings.current(), device)
        entry = known.get(key)
        if entry is None:
            if len(known) >= _MOST_SIGNATURES:
                known.pop(next(iter(known)))
            entry = known[key] = _Entry(function)
        last[:] = [entry]
        return entry.call((args, kwargs), leaves, device)

    return wrapped


def _signature(value: Any, leaves: list[Any]) -> Any:
    """Return what must stay the same of an argument; tensors and arrays are put into `leaves`."""
    if isinstance(value, Core):
        leaves.append(value)
        return Core, value._node.kind.spec, value._node.device
    if isinstance(value, (list, tuple)):
        return type(value), *[_signature(v, leaves) for v in value]
    if isinstance(value, dict):
        return dict, *[(k, _signature(v, leaves)) for k, v in value.items()]
    if value is None or isinstance(value, (bool, int, float, str)):
        return type(value), repr(value)
    if hasattr(value, "__array__") and hasattr(value, "shape"):
        leaves.append(value)
        return "array", tuple(value.shape), str(value.dtype)
    raise JitError(
        f"jit: an argument of type {type(value).__name__} is neither tensor, array, number nor "
        "string, nor a list, tuple or dictionary of such; let the function capture it instead"
    )


def _rebuilt(value: Any, leaf: Callable[[Any], Any]) -> Any:
    """Return equal lists, tuples and dictionaries with their leaves replaced."""
    if isinstance(value, dict):
        return {k: _rebuilt(v, leaf) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        parts = [_rebuilt(v, leaf) for v in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return leaf(value)


def _node(value: Any) -> Node:
    """Return the node of an argument; an array becomes one."""
    node: Node = (value if isinstance(value, Core) else Core.final(value, None, False))._node
    return node


class _Entry:
    """One signature: its last recording, and whether that may be replayed."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.trace: Trace | None = None
        self.form: Any = None
        """The last result with `RESULT` for every tensor."""
        self.replay: Callable[[Any, Any], Any] | None = None
        """Set once two recordings in a row agree."""
        self.tries = 0

    def call(self, values: Any, leaves: Sequence[Any], device: Any) -> Any:
        """Replay, where what was recorded still holds; else record."""
        if self.replay is not None:
            result = self.replay(*_with_tensors(values, iter([_node(x) for x in leaves])))
            if result is not MISS:
                return result
            self.replay, self.trace, self.tries = None, None, 0
        return self._record(values, leaves, device)

    def _result(self, nodes: Sequence[Node]) -> Any:
        tensors = iter([wrap(n) for n in nodes])
        return _rebuilt(self.form, lambda leaf: next(tensors) if leaf is RESULT else leaf)

    def _record(self, values: Any, leaves: Sequence[Any], device: Any) -> Any:
        seen = captures(self.function)
        places = places_of(seen)
        nodes = [_node(x) for x in leaves]
        before = [p.node() for p in places]
        realize([n for n in (*nodes, *before) if n is not None and is_available(n)])
        # Copies: no argument shares its memory with another one, or with what is captured.
        copies = [from_numpy(to_numpy(n), n.dtype, n.device or device) for n in nodes]
        args, kwargs = _with_tensors(values, iter(copies))
        outputs: list[Node] = []
        with recording.record() as made:
            form = _rebuilt(self.function(*args, **kwargs), lambda leaf: _taken(leaf, outputs))
            changed = _changed(places, before)
            read = {id(n) for run in made.runs for n in run.order}
            written = [p for p in changed if _is_written(p, places, before, read)]
            ends = [n for p in written if (n := p.node()) is not None]
            realize([*outputs, *ends])
        if text := seen.changed():
            raise JitError(
                f"jit: the function changes a value of the host ({text}), which a replay would "
                "not do; keep such values outside, or in tensors"
            )
        _check_history(outputs, "returns")
        _check_history([p.node() for p in written if isinstance(p, Slot) and p.moved], "keeps")
        trace = Trace(made, copies, places, before)
        for place in changed:
            node = place.node()
            number = -1 if node is None or place not in written else trace.number(node)
            trace.writes.append(
                Write(places.index(place), number, None if node is None else node.kind.spec)
            )
        trace.results = [(trace.number(n), n.kind.spec) for n in outputs]
        self._settle(trace, form, _with_tensors(values, iter(nodes)), device)
        return self._result([detached(n) for n in outputs])

    def _settle(self, trace: Trace, form: Any, values: Any, device: Any) -> None:
        """Take a recording for good if it went as the one before."""
        text = "it is the first call"
        if self.trace is not None:
            text = self.trace.difference(trace)
            if not text and self.form != form:
                text = "it returns other values than before"
        self.trace, self.form = trace, form
        if not text:
            self.replay = straight(values, captures(self.function), trace, form, device)
            return
        self.tries += 1
        if self.tries >= _MOST_TRIES:
            self.tries = 0
            raise JitError(
                f"jit: {self.function.__name__} goes another way in each of {_MOST_TRIES} calls of "
                f"one signature: {text}; pass what varies as an argument, or leave jit out"
            )


def _with_tensors(values: Any, copies: Iterator[Node]) -> Any:
    def leaf(value: Any) -> Any:
        is_static = value is None or isinstance(value, (bool, int, float, str))
        return value if is_static and not isinstance(value, Core) else wrap(next(copies))

    return _rebuilt(values, leaf)


def _taken(value: Any, outputs: list[Node]) -> Any:
    """Put a result's node into `outputs`; refuse what is neither tensor nor plain value."""
    if isinstance(value, Core):
        outputs.append(value._node)
        return RESULT
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise JitError(
        f"jit: a result of type {type(value).__name__} is neither tensor nor plain value; return "
        "tensors, in lists, tuples or dictionaries if need be"
    )


def _changed(places: Sequence[Place], before: Sequence[Node | None]) -> list[Place]:
    """Return the places whose node is another one now."""
    found = []
    for place, node in zip(places, before, strict=True):
        if isinstance(place, Slot):
            place.moved = place.holder() is not place.tensor
        if place.node() is not node:
            found.append(place)
    return found


def _is_written(
    place: Place, places: Sequence[Place], before: Sequence[Node | None], read: set[int]
) -> bool:
    """Whether replays compute what is left at a changed place: not gradients that are used up."""
    if not isinstance(place, Gradient):
        return True
    if id(before[places.index(place)]) in read:
        return True
    return place.slot.node() is before[places.index(place.slot)]


def _check_history(nodes: Sequence[Node | None], does: str) -> None:
    for node in nodes:
        if node is not None and node.tracks and live_leaf(node, set()) is not None:
            raise JitError(
                f"jit: the function {does} {node}, which tracks gradients of a tensor outside; "
                "call backward() inside, or take .detach() of it"
            )
