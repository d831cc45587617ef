"""Functions made in loops and aliases, under the names by which users call them."""

from __future__ import annotations

import types
from typing import Any


def named(function: Any, name: str, doc: str | None = None) -> Any:
    """Return a function under another name, which tracebacks and errors then show."""
    code = function.__code__.replace(co_name=name)
    parts = function.__globals__, name, function.__defaults__, function.__closure__
    result = types.FunctionType(code, *parts)
    result.__kwdefaults__, result.__annotations__ = (
        function.__kwdefaults__,
        function.__annotations__,
    )
    result.__qualname__, result.__doc__ = name, doc
    return result
