"""Whole files written in one step: beside their place first, then moved there.

Whoever is killed meanwhile leaves the old file whole, and who reads sees the old one or the new.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path

from simplegrad.errors import FileError


def replace(what: str, path: str | os.PathLike[str], data: bytes) -> None:
    """Make `data` what a user's file holds; `what` is the function that writes it.

    A link stays a link, and an existing file keeps its permissions. The data are on the disk when
    this returns. Raises `FileError` where the path cannot be written; the old file is then whole.
    """
    place = Path(path)
    try:
        place = place.resolve()
        if not place.parent.is_dir():
            raise FileNotFoundError(f"there is no folder {place.parent}; make it first")
        if place.is_dir():
            raise IsADirectoryError("it is a folder; name a file in it")
        mode = place.stat().st_mode & 0o777 if place.exists() else _default_mode()
        _write(place, data, mode)
    except OSError as error:
        reason = error.strerror or str(error)  # without the name of the file beside
        raise FileError(f"{what}: cannot write {os.fspath(path)}: {reason}") from error


def replace_cached(path: Path, data: bytes) -> None:
    """Make `data` what a file of this user's caches holds; raises `OSError`.

    Nobody else may read it. It is not waited for: a cache finds out what a crash cut short.
    """
    _write(path, data, None)


def _write(path: Path, data: bytes, mode: int | None) -> None:
    """Write a file beside `path` and move it there; a `mode` of None: private, and unflushed."""
    handle, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            if mode is not None:
                file.flush()
                os.fsync(file.fileno())
        if mode is not None:
            os.chmod(beside, mode)
        os.replace(beside, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(beside)
        raise


def _default_mode() -> int:
    """Return the permissions that a new file would get."""
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask
