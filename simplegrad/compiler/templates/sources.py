"""Where the template kernels are: inside an installed package, or beside it in a checkout."""

from __future__ import annotations

from functools import cache
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[2]


@cache
def source_files() -> tuple[Path, ...]:
    """Return the paths of all templates, sorted by name."""
    for folder in (_PACKAGE / "kernels", _PACKAGE.parent / "kernels"):
        paths = tuple(sorted(folder.glob("*.cl")))
        if paths:
            return paths
    return ()


@cache
def kernel_source(stem: str) -> str:
    """Return the text of ``kernels/<stem>.cl``; raises `FileNotFoundError` where it is missing."""
    for path in source_files():
        if path.stem == stem:
            return path.read_text()
    raise FileNotFoundError(f"kernels/{stem}.cl is missing from this installation of simplegrad")
