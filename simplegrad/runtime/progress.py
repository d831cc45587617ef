"""A line on a terminal that says what a long first run is waiting for, and goes away again."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

_T = TypeVar("_T")
_PATIENCE = 1.0
"""Seconds before the line appears."""


def shown(items: Iterable[_T], total: int, what: str) -> Iterator[_T]:
    """Yield `items`; a slow run shows ``what: n of total`` on stderr, if that is a terminal."""
    if not (sys.stderr is not None and sys.stderr.isatty()):
        yield from items
        return
    began, width = time.monotonic(), 0
    try:
        for done, item in enumerate(items, 1):
            if time.monotonic() - began > _PATIENCE:
                line = f"simplegrad: {what}: {done} of {total}"
                sys.stderr.write("\r" + line.ljust(width))
                sys.stderr.flush()
                width = max(width, len(line))
            yield item
    finally:
        if width:
            sys.stderr.write("\r" + " " * width + "\r")
            sys.stderr.flush()
