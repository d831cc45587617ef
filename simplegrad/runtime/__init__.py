"""Devices, their memory and programs, and the plans that run on them.

Rooms that need the compiler or a driver are loaded when they are first named, so that importing
simplegrad waits for neither, nor does computing with NumPy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simplegrad.runtime import compiled, explain, select

__all__ = ["compiled", "explain", "select"]


if not TYPE_CHECKING:  # which knows the names from the imports above, and no others

    def __getattr__(name: str) -> Any:
        if name in __all__:
            return importlib.import_module(f"{__name__}.{name}")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
