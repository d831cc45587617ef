"""What a function can see besides its arguments: tensors it reads and writes, values it depends on.

A function sees its closure, the globals that its code names, its defaults and the object it is
bound to, and through them functions, containers and attributes. Each of these is a *slot*, a
container and a key. `simplegrad.jit` reads and writes the tensors in slots, and watches that the
other values stay what they were.
"""

from __future__ import annotations

import functools
import os
import sys
import types
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from simplegrad.errors import JitError
from simplegrad.optim.optimizers import Optimizer
from simplegrad.tensor.core import Core

MOST = 5000
"""Slots that are looked at; a function that sees more is refused."""
_PLAIN = (bool, int, float, complex, str, bytes, type(None))
_LEFT_ALONE = (types.BuiltinFunctionType, types.MethodWrapperType)
_OWN = __name__.split(".", 1)[0]
_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_STDLIB = os.path.dirname(os.__file__)
_WITH_STATE = ("nn", "optim", "random")
"""Parts of this package whose objects hold a user's values."""
_LIVE = frozenset(("steps", "state", "learning_rate"))
"""Attributes of optimisers that replays keep up themselves."""


@dataclass(eq=False)
class Captures:
    """The slots that a function sees, as they were at one time."""

    tensors: list[tuple[Any, Any, Core]] = field(default_factory=list)
    """(container, key, the tensor there)."""
    optimizers: list[Optimizer] = field(default_factory=list)
    values: list[tuple[Any, Any, Any]] = field(default_factory=list)
    """(container, key, what was there): numbers by type and value, all else by identity."""
    lengths: list[tuple[Any, int]] = field(default_factory=list)
    """(container, how many it held)."""

    def changed(self) -> str:
        """Return what has changed since, in words, or nothing; a tensor in a slot may change."""
        for container, key, before in self.values:
            now = read(container, key)
            if now is not before and not (type(now) is type(before) and equal(now, before)):
                return f"{_named(container, key)} was {before!r:.60} and is {now!r:.60}"
        for container, length in self.lengths:
            if len(container) != length:
                return f"a {type(container).__name__} of {length} elements has {len(container)}"
        first: dict[int, Any] = {}
        for container, key, before in self.tensors:
            now = read(container, key)
            if not isinstance(now, Core):
                return f"{_named(container, key)} is no tensor any more"
            if first.setdefault(id(before), now) is not now:
                return f"{_named(container, key)} is no longer the same tensor as elsewhere"
        return ""


def equal(now: Any, before: Any) -> bool:
    """Whether two plain values are the same, NaN and zeros of either sign included."""
    return isinstance(now, _PLAIN) and (now == before) is True and repr(now) == repr(before)


def _named(container: Any, key: Any) -> str:
    if isinstance(container, types.CellType):
        return f"the captured variable {key}"
    if isinstance(key, str):
        return f"{key!r}"
    return f"element {key} of a {type(container).__name__}"


def read(container: Any, key: Any) -> Any:
    """Return what is in a slot, or the class `Gone`."""
    try:
        return container.cell_contents if isinstance(container, types.CellType) else container[key]
    except (ValueError, KeyError, IndexError):
        return Gone


def write(container: Any, key: Any, value: Any) -> None:
    """Put something into a slot."""
    if isinstance(container, types.CellType):
        container.cell_contents = value
    else:
        container[key] = value


class Gone:
    """What a slot holds that is there no more."""


class Fixed(list[Any]):
    """A container that stands for a relation which cannot change, such as a method's object."""


def captures(function: Any) -> Captures:
    """Return what `function` sees now; raises `JitError` where that is too much to watch."""
    result = Captures()
    seen: set[int] = set()
    stack: list[tuple[Any, Any]] = [(Fixed([function]), 0)]
    holders: list[Any] = []  # ids are good while their objects live
    count = 0
    while stack:
        container, key = stack.pop()
        value = read(container, key)
        count += 1
        if count > MOST:
            raise JitError(
                f"jit: the function sees more than {MOST} values through its closure and globals, "
                "too many to watch; pass data as arguments"
            )
        if isinstance(value, Core):
            result.tensors.append((container, key, value))
            continue
        result.values.append((container, key, value))
        if isinstance(value, _PLAIN) or id(value) in seen:
            continue
        seen.add(id(value))
        holders.append(value)
        if isinstance(value, Optimizer):
            result.optimizers.append(value)
        inside = vars(value) if _has_attributes(value) else value
        if isinstance(inside, (dict, list, set, deque)):
            result.lengths.append((inside, len(inside)))
        stack += _slots(value)
    result.values.reverse()
    return result


def _slots(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield the slots inside an object."""
    kind = type(value).__module__.split(".")
    if isinstance(value, types.MethodType):
        yield Fixed([value.__func__]), 0
        yield Fixed([value.__self__]), 0
    elif isinstance(value, types.FunctionType):
        if not _is_library(value.__code__.co_filename):
            yield from _seen_by(value)
    elif isinstance(value, dict):
        yield from ((value, key) for key in value)
    elif isinstance(value, (list, tuple, deque)):
        yield from ((value, i) for i in range(len(value)))
    elif isinstance(value, functools.partial):
        yield from ((Fixed([part]), 0) for part in (value.func, value.args, value.keywords))
    elif isinstance(value, types.ModuleType):
        if not _is_library(getattr(value, "__file__", None) or ""):
            yield from _of_module(value, set(vars(value)))
    elif isinstance(value, Iterator):
        raise JitError(
            f"jit: the function sees a {type(value).__name__}, which gives something else every "
            "time; draw from it outside and pass what it gave as an argument"
        )
    elif isinstance(value, type):
        file = getattr(sys.modules.get(value.__module__), "__file__", None)
        if file and not _is_library(file):
            yield from ((vars(value), n) for n in vars(value) if not n.startswith("__"))
    elif isinstance(value, _LEFT_ALONE) or kind[0] == "numpy" or _is_stateless(kind):
        return
    elif _has_attributes(value):
        skipped = _LIVE if isinstance(value, Optimizer) else frozenset()
        yield from ((vars(value), name) for name in vars(value) if name not in skipped)
    for name in _slot_names(type(value)):
        yield _Attributes(value), name


class _Attributes:
    """The attributes of an object that has ``__slots__``, by name."""

    def __init__(self, owner: Any) -> None:
        self.owner = owner

    def __getitem__(self, name: str) -> Any:
        return getattr(self.owner, name, Gone)

    def __setitem__(self, name: str, value: Any) -> None:
        setattr(self.owner, name, value)


def _slot_names(kind: type) -> Iterator[str]:
    """Yield the names in ``__slots__`` of a user's class and its bases."""
    for base in kind.__mro__:
        names = base.__dict__.get("__slots__", ())
        for name in (names,) if isinstance(names, str) else names:
            if not name.startswith("__"):
                yield name


def _is_stateless(module: list[str]) -> bool:
    return module[0] == _OWN and (len(module) < 2 or module[1] not in _WITH_STATE)


def _has_attributes(value: Any) -> bool:
    return isinstance(getattr(value, "__dict__", None), dict)


def _is_library(file: str) -> bool:
    return file.startswith((_PACKAGE, _STDLIB)) or "site-packages" in file


def _seen_by(function: types.FunctionType) -> Iterator[tuple[Any, Any]]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        yield cell, name
    names: set[str] = set()
    codes = [function.__code__]
    while codes:
        code = codes.pop()
        names.update(code.co_names)
        codes += [c for c in code.co_consts if isinstance(c, types.CodeType)]
    variables = function.__globals__
    for name in sorted(names):
        if name in variables:
            module = variables[name]
            if isinstance(module, types.ModuleType):
                yield from _of_module(module, names)
            else:
                yield variables, name
    yield Fixed([function.__defaults__]), 0
    yield Fixed([function.__kwdefaults__]), 0


def _of_module(module: types.ModuleType, names: set[str]) -> Iterator[tuple[Any, Any]]:
    """Yield a module's values that the function may name: ``config.rate``, ``os.environ``."""
    for name in sorted(names & vars(module).keys()):
        value = vars(module)[name]
        unchanging = isinstance(value, types.ModuleType) or callable(value)
        if not name.startswith("__") and (isinstance(value, Core) or not unchanging):
            yield vars(module), name
