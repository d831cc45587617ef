"""All settings in one explicit object, read from the environment in this one place.

>>> from simplegrad.settings import Settings
>>> Settings.from_environment({"SIMPLEGRAD_FUSION": "0"}).fusion
False
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, fields, replace
from typing import Any

from simplegrad.errors import SimplegradError

_PREFIX = "SIMPLEGRAD_"
_PASSES = ("fuse", "lower", "render")


@dataclass(frozen=True)
class Settings:
    """One immutable set of choices; `override` swaps the current one for a while."""

    device: str = ""
    """Device selector such as ``opencl:gpu``, ``opencl:intel`` or ``numpy``; empty: the best."""
    fusion: bool = True
    """False: one kernel per primitive operation."""
    kernels: str = ""
    """Kernel family, ``cpu`` or ``gpu``; empty: by the kind of the device."""
    fast_math: bool = False
    """True: let the driver's compiler break IEEE rules; part of every cache key."""
    debug: tuple[str, ...] = ()
    """Names of compiler passes whose result is printed, such as ``fuse,lower,render``."""
    verify: bool = False
    """True: run the verifier between compiler passes (always on in tests)."""
    cache: bool = True
    """False: neither read nor write the disk cache."""
    cache_dir: str = ""
    """Folder of the disk cache; empty: the user's cache folder."""
    memory_cap: int = 0
    """Most bytes that one device's pool may hold; 0: as much as the device has."""
    tune: bool = False
    """True: measure the tiles of a class of shapes when a program first meets it."""
    check: bool = False
    """True: checked mode; out-of-range labels and indices are errors, not clamped."""

    def __post_init__(self) -> None:
        if self.kernels not in ("", "cpu", "gpu"):
            raise SimplegradError(f"settings: kernels={self.kernels!r} is neither 'cpu' nor 'gpu'")
        unknown = [name for name in self.debug if name not in _PASSES]
        if unknown:
            raise SimplegradError(
                f"settings: debug={unknown} names no pass; those that print are {list(_PASSES)}"
            )

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Read every ``SIMPLEGRAD_*`` variable; an unknown or malformed one is an error."""
        environ = os.environ if environ is None else environ
        known = {_PREFIX + f.name.upper(): f for f in fields(cls)}
        values: dict[str, Any] = {}
        for key, text in environ.items():
            if not key.startswith(_PREFIX):
                continue
            if key not in known:
                raise SimplegradError(
                    f"settings: {key} is not a setting; the settings are {', '.join(known)}"
                )
            field = known[key]
            values[field.name] = _parse(key, text, getattr(cls, field.name))
        return cls(**values)


def _parse(key: str, text: str, default: Any) -> Any:
    if isinstance(default, bool):
        truth = {"0": False, "1": True, "off": False, "on": True, "false": False, "true": True}
        if text.lower() not in truth:
            raise SimplegradError(
                f"settings: {key}={text!r} is neither 0 nor 1; set {key}=0 to switch it off, "
                f"{key}=1 to switch it on"
            )
        return truth[text.lower()]
    if isinstance(default, tuple):
        return tuple(part for part in text.split(",") if part)
    if isinstance(default, int):
        if not text.isdigit():
            raise SimplegradError(
                f"settings: {key}={text!r} is not a number of bytes, such as 1000000000"
            )
        return int(text)
    return text


_current: Settings | None = None
_overridden: ContextVar[Settings | None] = ContextVar("settings", default=None)
"""Per thread and task, so that one's ``with`` block changes nothing for another."""


def current() -> Settings:
    """Return the settings in force; the environment is read on the first call."""
    global _current
    own = _overridden.get()
    if own is not None:
        return own
    if _current is None:
        _current = Settings.from_environment()
    return _current


@contextmanager
def override(**changes: Any) -> Iterator[Settings]:
    """Put changed settings in force inside a ``with`` block, for this thread or task."""
    changed = replace(current(), **changes)
    token = _overridden.set(changed)
    try:
        yield changed
    finally:
        _overridden.reset(token)
