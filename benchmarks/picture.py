"""The picture of a table."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def write(path: Path, result: dict[str, Any]) -> str:
    """Draw the table; return a line that says where, or what is missing."""
    try:
        import matplotlib
    except ImportError:
        return "no picture: matplotlib is missing; run: pip install 'simplegrad[plot]'"
    matplotlib.use("Agg")
    return "no picture yet"
