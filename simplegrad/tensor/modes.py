"""How operations are recorded: flags per thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ContextDecorator, contextmanager
from typing import Any


class _Mode(threading.local):
    grad = True
    """Whether operations record gradients."""
    lazy = False
    """Whether a long chain stays pending, however long it is: its arguments have no values."""


mode = _Mode()


@contextmanager
def lazy() -> Iterator[None]:
    """Compute nothing unasked inside the block: its leaves are placeholders."""
    before, mode.lazy = mode.lazy, True
    try:
        yield
    finally:
        mode.lazy = before


class no_grad(ContextDecorator):
    """Record no gradients inside a ``with`` block, or inside a function decorated with it.

    Results made inside do not track; tensors created inside do not either unless told to. The flag
    belongs to the thread.

    >>> import simplegrad as sg
    >>> x = sg.Tensor([1.0, 2.0])
    >>> with sg.no_grad():
    ...     y = x * 2
    >>> x.requires_grad, y.requires_grad
    (True, False)
    """

    def __init__(self) -> None:
        self._before: list[bool] = []

    def __enter__(self) -> no_grad:
        self._before.append(mode.grad)
        mode.grad = False
        return self

    def __exit__(self, *exc: Any) -> None:
        mode.grad = self._before.pop()

    def _recreate_cm(self) -> no_grad:
        return no_grad()
