"""Functions made in loops and aliases, under the names by which users call them."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any, TypeVar, cast

F = TypeVar("F", bound=Callable[..., Any])


def named(function: F, name: str, doc: str | None = None) -> F:
    """Return a function under another name, which tracebacks and errors then show."""
    plain = cast(types.FunctionType, function)
    code = plain.__code__.replace(co_name=name)
    parts = plain.__globals__, name, plain.__defaults__, plain.__closure__
    result = types.FunctionType(code, *parts)
    result.__kwdefaults__, result.__annotations__ = plain.__kwdefaults__, plain.__annotations__
    result.__qualname__, result.__doc__, result.__module__ = name, doc, plain.__module__
    result.__dict__.update(plain.__dict__)  # what a decorator wraps, hence the signature
    return cast(F, result)
