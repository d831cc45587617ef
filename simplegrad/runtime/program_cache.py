"""Compiled programs on disk: a key names everything that changes the binary.

An entry is a checksum and a payload, written beside its place and moved there in one step. A bad,
truncated or unreadable entry is a miss, and a folder that cannot be written is done without.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from simplegrad import settings

_FORMAT = "1"
_DIGEST = 32
_MAX_BYTES = 256 << 20


@dataclass
class Counters:
    """What must not happen twice, counted since the process began."""

    compiles: int = 0
    """Programs that the driver built from source."""
    disk_hits: int = 0


counters = Counters()


def key_of(*parts: str) -> str:
    """Return a file name for everything that determines an entry."""
    digest = hashlib.sha256(_FORMAT.encode())
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part.encode())
    return digest.hexdigest()


def get(kind: str, key: str) -> bytes | None:
    """Return an entry, or None where there is no good one."""
    if not settings.current().cache:
        return None
    path = _path(kind, key)
    try:
        data = path.read_bytes()
    except OSError:
        return None
    if hashlib.sha256(data[_DIGEST:]).digest() != data[:_DIGEST]:
        drop(kind, key)
        return None
    with suppress(OSError):
        os.utime(path)
    return data[_DIGEST:]


def put(kind: str, key: str, payload: bytes) -> None:
    """Store an entry; nothing happens where the folder cannot be written."""
    if not settings.current().cache:
        return
    path = _path(kind, key)
    with suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(hashlib.sha256(payload).digest() + payload)
            os.replace(temporary, path)
        except OSError:
            with suppress(OSError):
                os.unlink(temporary)
        _shrink(path.parent)


def drop(kind: str, key: str) -> None:
    """Delete an entry that turned out to be bad."""
    with suppress(OSError):
        _path(kind, key).unlink()


def _path(kind: str, key: str) -> Path:
    return settings.cache_folder() / kind / key


def _shrink(folder: Path) -> None:
    """Delete the entries used longest ago once the folder is over its limit."""
    entries = []
    for path in folder.iterdir():
        with suppress(OSError):
            stat = path.stat()
            entries.append((stat.st_mtime, stat.st_size, path))
    total = sum(size for _, size, _ in entries)
    for _, size, path in sorted(entries)[: len(entries) // 2] if total > _MAX_BYTES else []:
        if total <= _MAX_BYTES // 2:
            break
        with suppress(OSError):
            path.unlink()
        total -= size
