"""Compiled programs on disk: a key names everything that changes the binary.

An entry is a checksum and a payload, moved to its place in one step. A bad, truncated or unreadable
entry is a miss, and a folder that cannot be written is done without. So is one that somebody else
could have written into: what it holds runs on the device.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from simplegrad import settings
from simplegrad.runtime.files import replace_cached

_FORMAT = "1"
_DIGEST = 32
_MAX_BYTES = 256 << 20


@dataclass
class Counters:
    """What must not happen twice, counted since the process began."""

    compiles: int = 0
    """Programs that the driver built from source."""
    disk_hits: int = 0
    memory_hits: int = 0
    """Programs asked for again in this process."""
    plans: int = 0
    """Graph structures that were scheduled."""
    plan_disk_hits: int = 0
    plan_hits: int = 0
    """Structures seen before in this process."""


counters = Counters()


def cache_folder() -> Path:
    """Return the folder of the disk cache (it may not exist yet)."""
    chosen = settings.current().cache_dir
    return Path(chosen or platformdirs.user_cache_dir("simplegrad"))


def key_of(*parts: str) -> str:
    """Return a file name for everything that determines an entry."""
    digest = hashlib.sha256(_FORMAT.encode())
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part.encode())
    return str(digest.hexdigest())


def get(kind: str, key: str) -> bytes | None:
    """Return an entry, or None where there is no good one."""
    if not settings.current().cache:
        return None
    path = _path(kind, key)
    try:
        check_private(path.parent)
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
        make_private(path.parent)
        replace_cached(path, hashlib.sha256(payload).digest() + payload)
        _shrink(path.parent)


def drop(kind: str, key: str) -> None:
    """Delete an entry that turned out to be bad."""
    with suppress(OSError):
        _path(kind, key).unlink()


def make_private(folder: Path) -> None:
    """Make a folder, and the parents it lacks, for this user alone.

    Raises `OSError` where that is impossible, or where others may write into the folder.
    """
    missing = [p for p in (folder, *folder.parents) if not p.exists()]
    for path in reversed(missing):
        path.mkdir(mode=0o700, exist_ok=True)
    check_private(folder)


def check_private(folder: Path) -> None:
    """Raise `OSError` unless a folder is there, this user's own, and closed to other writers."""
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise NotADirectoryError(f"cache: {folder} is not a folder")
    if os.name != "posix":  # elsewhere neither the mode nor the owner says who may write
        return
    if found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise PermissionError(
            f"cache: {folder} can be written by other users (owner {found.st_uid}, mode "
            f"{stat.S_IMODE(found.st_mode):o}); delete it, or set SIMPLEGRAD_CACHE_DIR"
        )


def state() -> str:
    """Return in words whether the cache works, and why not; writes a file to find out."""
    if not settings.current().cache:
        return "off, by the setting cache"
    folder = cache_folder()
    if not folder.exists():
        return "not made yet"
    try:
        for path in (folder, *sorted(folder.iterdir())):
            if path == folder or path.is_dir():
                check_private(path)
        with tempfile.TemporaryFile(dir=folder):
            pass
        entries = [p.stat().st_size for p in folder.rglob("*") if p.is_file()]
    except OSError as error:
        return f"does not work, kernels are compiled anew in each process: {error}"
    return f"works, {len(entries)} entries, {sum(entries) / 2**20:.1f} MiB"


def _path(kind: str, key: str) -> Path:
    return cache_folder() / kind / key


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
