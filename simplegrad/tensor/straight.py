"""A replay as straight-line Python: the source of one function per recorded signature.

The function checks that everything is as it was when the call was recorded, runs the plans, and
writes what the call wrote; it gives `MISS` where anything differs, before anything was done. What
is known when it is written costs nothing when it runs: no loop over slots, places or arguments.

    def replay(args, kwargs):
        …signature and surroundings…      one comparison each, by identity where that says enough
        …nodes and buffers of the places…
        with lock:
            …numbers made anew, host effects, plans…
        …writes, results…

A place whose memory the call's own result takes over (see `runtime.donation`), and whose node
nothing else refers to, keeps its node: then there is nothing to write.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Sequence
from sys import getrefcount
from typing import Any

from simplegrad import ops, settings
from simplegrad.graph.node import Node, Spec, leaf_of
from simplegrad.runtime import devices, recording
from simplegrad.runtime.donation import OWN
from simplegrad.runtime.realize import realize
from simplegrad.tensor.captures import Captures, Fixed, Gone, equal, read
from simplegrad.tensor.core import Core, wrap
from simplegrad.tensor.modes import mode
from simplegrad.tensor.places import Gradient, Place, Slot, State, unavailable
from simplegrad.tensor.replay import RESULT, Step, Trace, Write

MISS: Any = object()
"""What a replay gives that would not be a replay."""
PLAIN = (bool, int, float, str)


def straight(
    values: Any, seen: Captures, trace: Trace, form: Any, device: Any
) -> Callable[[Any, Any], Any]:
    """Return the replay of a trace; `values` are (args, kwargs) of the call, arrays as tensors."""
    return _Writer(seen, trace, device).function(values, form)


class _Holder:
    __slots__ = ("held",)

    def __init__(self) -> None:
        self.held = object()


def _alone() -> int:
    """Return the count of an object that one attribute and one local variable refer to."""
    holder = _Holder()
    held = holder.held
    return getrefcount(held)


_ALONE = _alone()


def _fresh(buffer: Any, kind: Any, device: Any) -> Node:
    node = Node(kind, (), device)
    node.buffer, node.unread = buffer, kind.spec.nbytes
    return node


def _realized(node: Node) -> Any:
    realize([node])
    return node.buffer


def _differs(now: Any, before: Any) -> bool:
    return now is not before and not (type(now) is type(before) and equal(now, before))


class _Writer:
    """Writes the source; what it names besides its own variables stands in `names`."""

    def __init__(self, seen: Captures, trace: Trace, device: Any) -> None:
        self.seen, self.trace, self.device = seen, trace, device
        self.steps = trace.needed()
        self.names: dict[str, Any] = {
            "MISS": MISS, "T": Core.final, "DEVICE": device, "differs": _differs, "read": read,
            "fresh": _fresh, "wrap": wrap, "refs": getrefcount, "OWN": OWN,
            "settings_now": settings.current, "device_now": devices.current, "mode": mode,
            "recording_open": recording.active, "realized": _realized,
        }  # fmt: skip
        self.lines: list[str] = []
        self.buffers: dict[int, str] = {}
        """The variable of a buffer by number."""
        self.nodes: dict[int, str] = {}
        """The variable of the node of a place, by the place's number among the buffers."""
        self.tensors: dict[int, str] = {}
        """The variable of the tensor in a slot, by id of the place."""
        self.states: dict[tuple[int, int], str] = {}
        """The variable of the arrays of one parameter in an optimiser's state."""
        self.kept: dict[int, str] = {}
        """By number of a write: the condition under which there is nothing to write."""

    # Words ----------------------------------------------------------------------------------------

    def name(self, value: Any, base: str = "x") -> str:
        """Return a name for an object that is known now."""
        name = f"{base}{len(self.names)}"
        self.names[name] = value
        return name

    def line(self, text: str, depth: int = 1) -> None:
        self.lines.append("    " * depth + text)

    def miss(self, *conditions: str) -> None:
        """Write that the call is no replay where one of some conditions holds."""
        for first in range(0, len(conditions), 8):
            self.line(f"if {' or '.join(conditions[first : first + 8])}: return MISS", 2)

    # The function ---------------------------------------------------------------------------------

    def function(self, values: Any, form: Any) -> Callable[[Any, Any], Any]:
        self.line("try:")
        self.context()
        leaves: list[str] = []
        args, kwargs = values
        self.signature("args", args, leaves)
        self.signature("kwargs", kwargs, leaves)
        self.surroundings()
        self.places()
        self.line("except (LookupError, ValueError, AttributeError, TypeError):")
        self.line("return MISS", 2)
        self.inputs(leaves)
        self.line("with lock:")
        self.names["lock"] = self.device.lock
        for i, act in enumerate(self.trace.actions):
            self.line(f"v{i} = {self.name(act, 'act')}()", 2)
        for step in self.steps:
            self.step(step)
        for number, write in enumerate(self.trace.writes):
            self.write(number, write)
        specs = iter(self.trace.results)
        self.line(f"return {self.result(form, specs)}")
        source = "\n".join(["def replay(args, kwargs):", *self.lines]) + "\n"
        exec(compile(source, "<simplegrad.jit>", "exec"), self.names)
        function: Callable[[Any, Any], Any] = self.names["replay"]
        return function

    def context(self) -> None:
        now = self.name(settings.current())
        self.miss(
            "recording_open()", f"settings_now() is not {now}", "device_now() is not DEVICE",
            f"mode.grad is not {mode.grad}",
        )  # fmt: skip

    def signature(self, text: str, value: Any, leaves: list[str]) -> None:
        """Check an argument's form, as `jit` compares signatures."""
        if isinstance(value, Core):
            node = value._node
            variable = f"a{len(leaves)}"
            leaves.append(variable)
            self.line(f"{variable} = {text}", 2)
            self.miss(f"type({variable}) is not T")
            self.line(f"{variable} = {variable}._node", 2)
            self.miss(
                f"{variable}.kind.spec is not {self.name(node.kind.spec)}",
                f"{variable}.device is not {self.name(node.device)}",
            )
        elif isinstance(value, (list, tuple)):
            self.miss(
                f"type({text}) is not {self.name(type(value))}", f"len({text}) != {len(value)}"
            )
            for i, part in enumerate(value):
                self.signature(f"{text}[{i}]", part, leaves)
        elif isinstance(value, dict):
            keys = self.name(list(value))
            self.miss(f"list({text}) != {keys}" if value else text)
            for key, part in value.items():
                self.signature(f"{text}[{self.name(key)}]", part, leaves)
        else:
            known = self.name(value)
            kind, spelled = self.name(type(value)), repr(repr(value))
            exact = f"type({text}) is not {kind} or repr({text}) != {spelled}"
            self.miss(f"{text} is not {known} and ({exact})")

    def surroundings(self) -> None:
        """Check that what the function sees is what it saw."""
        tests = []
        for container, key, before in self.seen.values:
            if isinstance(container, Fixed):
                continue
            place = self.slot(container, key)
            known = self.name(before)
            if before is Gone:
                tests.append(f"read({self.name(container)}, {self.name(key)}) is not {known}")
            elif isinstance(before, (*PLAIN, bytes, complex)):
                tests.append(f"({place} is not {known} and differs({place}, {known}))")
            else:
                tests.append(f"{place} is not {known}")
        for container, length in self.seen.lengths:
            tests.append(f"len({self.name(container)}) != {length}")
        self.miss(*tests)
        first: dict[int, str] = {}
        for container, key, tensor in self.seen.tensors:
            slot = self.slot(container, key)
            other = first.setdefault(id(tensor), slot)
            if other is not slot:
                self.miss(f"{slot} is not {other}")
        for watched in self.trace.places:
            if isinstance(watched, Slot):
                variable = self.tensors[id(watched)] = f"t{len(self.tensors)}"
                self.line(f"{variable} = {self.slot(watched.container, watched.key)}", 2)
                self.miss(f"type({variable}) is not T")

    def slot(self, container: Any, key: Any) -> str:
        """Return the text that reads a slot."""
        if isinstance(container, types.CellType):
            return f"{self.name(container)}.cell_contents"
        known = repr(key) if type(key) in (int, str) else self.name(key)
        return f"{self.name(container)}[{known}]"

    # Nodes and buffers ----------------------------------------------------------------------------

    def places(self) -> None:
        """Check the nodes of the places: what they were when this was recorded."""
        trace = self.trace
        for i, (place, spec) in enumerate(zip(trace.places, trace.specs, strict=True)):
            number = trace.first_place + i
            if isinstance(place, Gradient) and number not in trace.reads:
                continue
            node = f"n{number}"
            if isinstance(place, Gradient):
                gradient = f"{self.tensor(place.slot)}._grad"
                self.miss(f"{gradient} is {'not ' if spec is None else ''}None")
                if spec is None:
                    continue
                self.line(f"{node} = {gradient}._node", 2)
            elif isinstance(place, Slot):
                self.line(f"{node} = {self.tensor(place)}._node", 2)
            elif isinstance(place, State):
                self.line(f"{node} = {self.arrays(place)}[{place.number}]", 2)
            self.nodes[number] = node
            device = f"({node}.device is not DEVICE and {node}.device is not None)"
            self.miss(f"{node}.kind.spec is not {self.name(spec)}", device)

    def tensor(self, place: Slot) -> str:
        return self.tensors[id(place)]

    def arrays(self, place: State) -> str:
        key = (id(place.optimizer), place.parameter)
        if key not in self.states:
            variable = self.states[key] = f"s{len(self.states)}"
            self.line(f"{variable} = {self.name(place.optimizer)}.state[{place.parameter}]", 2)
        return self.states[key]

    def inputs(self, leaves: Sequence[str]) -> None:
        """Take the buffers that the plans read, or that are results as they stand."""
        trace = self.trace
        wanted = {n for step in self.steps for n in step.inputs}
        wanted |= {n for n, _ in trace.results} | {w.number for w in trace.writes}
        for number in sorted(n for n in wanted if 0 <= n < trace.first_result):
            node = leaves[number] if number < len(leaves) else self.nodes[number]
            variable = self.buffers[number] = f"b{number}"
            self.line(f"{variable} = {node}.buffer")
            self.line(f"if {variable} is None: {variable} = realized({node})")

    # Running --------------------------------------------------------------------------------------

    def step(self, step: Step) -> None:
        """Write the run of a plan."""
        plan = step.plan
        changed = f"c{step.outputs[0] if step.outputs else 0}"
        self.line(f"{changed} = []", 2)
        for i, (_, position, _) in enumerate(plan.scalars):
            node = step.scalars[position]
            for known, action in step.live:
                if known is node:
                    scalar = self.name(node)
                    new = f"{scalar}.value = v{action}; {changed}.append({i})"
                    self.line(f"if v{action} is not {scalar}.value: {new}", 2)
        dying = self.dying(step)
        inputs = ", ".join(self.buffers[n] for n in step.inputs)
        call = f"{self.name(plan.replay)}([{inputs}], {self.name(step.scalars)}, {changed}{dying})"
        made = [f"b{n}" for n in step.outputs]
        for number in step.outputs:
            self.buffers[number] = f"b{number}"
        self.line(f"{', '.join(made)}{',' if len(made) == 1 else ''} = {call}" if made else call, 2)

    def dying(self, step: Step) -> str:
        """Write which inputs die with a plan, since the call writes something else in their place.

        Returns the argument that says so.
        """
        trace, found = self.trace, []
        for number, (leaf, cell) in enumerate(step.plan.heirs):
            source = step.inputs[leaf]
            write = self.replaced(source, step)
            if write is None:
                continue
            node, buffer = self.nodes[source], self.buffers[source]
            tests = [
                f"refs({node}) == {_ALONE}",
                f"refs({buffer}) == {_ALONE}",
                f"type({buffer}) in OWN",
                f"{buffer}.nbytes >= {step.plan.cells[cell]}",
            ]
            place = trace.places[trace.writes[write].place]
            if isinstance(place, State):
                tests.append(f"refs({self.arrays(place)}) == {_ALONE}")
            variable = f"d{source}"
            self.line(f"{variable} = {' and '.join(tests)}", 2)
            if trace.writes[write].number in step.outputs:
                # The result stands where it belongs; a node that is a leaf stays as it is.
                self.kept[write] = f"{variable} and b{trace.writes[write].number} is {buffer}"
            found.append((number, variable))
        if not found:
            return ""
        whole = tuple(n for n, _ in found)
        some = ", ".join(f"*(({n},) if {v} else ())" for n, v in found)
        return f", {whole} if {' and '.join(v for _, v in found)} else ({some},)"

    def replaced(self, source: int, step: Step) -> int | None:
        """Return which write replaces an input that nothing reads after a plan."""
        trace = self.trace
        if not trace.first_place <= source < trace.first_result:
            return None
        after = self.steps[self.steps.index(step) + 1 :]
        read = [n for other in after for n in other.inputs] + [n for n, _ in trace.results]
        if source in read or step.inputs.count(source) > 1:
            return None
        found = None
        for i, write in enumerate(trace.writes):
            if write.number == source:
                return None
            if trace.first_place + write.place == source and write.number >= 0:
                found = i
        place = trace.places[source - trace.first_place]
        may = isinstance(place, State) or (isinstance(place, Slot) and not place.moved)
        return found if may else None

    # Afterwards -----------------------------------------------------------------------------------

    def write(self, number: int, write: Write) -> None:
        """Write what a call leaves at a place."""
        place: Place = self.trace.places[write.place]
        put = self.name(place.put)
        if write.spec is None:
            if isinstance(place, Gradient):
                self.line(f"if {self.tensor(place.slot)}._grad is not None: {put}(None)")
            else:
                self.line(f"{put}(None)")
        elif write.number < 0:
            assert isinstance(place, Gradient)
            last, tensor = self.name([None]), self.tensor(place.slot)
            make = f"{put}({self.name(unavailable)}({self.name(write.spec)}))"
            self.line(f"if {tensor}._grad is not {last}[0]:")
            self.line(f"{make}; {last}[0] = {tensor}._grad", 2)
        else:
            new = self.node(write.number, write.spec)
            if number in self.kept:
                source = self.nodes[self.trace.first_place + write.place]
                self.line(f"if not ({self.kept[number]} and not {source}.srcs): {put}({new})")
            else:
                self.line(f"{put}({new})")

    def node(self, number: int, spec: Spec) -> str:
        kind = leaf_of(ops.BUFFER, spec).kind
        return f"fresh({self.buffers[number]}, {self.name(kind)}, DEVICE)"

    def result(self, form: Any, specs: Any) -> str:
        """Return the expression of what the call gives."""
        if form is RESULT:
            number, spec = next(specs)
            return f"wrap({self.node(number, spec)})"
        if isinstance(form, dict):
            parts = [f"{self.name(k)}: {self.result(v, specs)}" for k, v in form.items()]
            return "{" + ", ".join(parts) + "}"
        if isinstance(form, (list, tuple)):
            parts = [self.result(v, specs) for v in form]
            whole = ", ".join(parts)
            if type(form) is tuple:
                return f"({whole},)" if parts else "()"
            kind = "" if type(form) is list else self.name(type(form))
            return f"{kind}({whole})" if hasattr(form, "_fields") else f"{kind}([{whole}])"
        return self.name(form)
