"""Where the template kernels are: inside an installed package, or beside it in a checkout."""

from __future__ import annotations

from functools import cache
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent.parent


@cache
def kernel_source(stem: str) -> str:
    """Return the text of ``kernels/<stem>.cl``; raises `FileNotFoundError` where it is missing."""
    for folder in (_PACKAGE / "kernels", _PACKAGE.parent / "kernels"):
        path = folder / f"{stem}.cl"
        if path.is_file():
            return path.read_text()
    raise FileNotFoundError(f"kernels/{stem}.cl is missing from this installation of simplegrad")
