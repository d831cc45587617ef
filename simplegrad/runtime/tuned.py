"""What tuning found, as JSON: kept beside the disk cache, and shared between equal machines.

    {"format": 1, "devices": {"<platform|version|device|driver>": {"<class of shapes>":
        {"tile": "MR=4 NV=3 KB=256 MB=96 NB=128", "gain": 1.12, "date": "2026-11-24"}}}}

The text of a tile only chooses among the candidates that `compiler.tiles` has for a shape, so that
a foreign file can make a kernel slower, never wrong. A file, or an entry, that makes no sense is
left out with a warning.
"""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from simplegrad import settings
from simplegrad.compiler.target import Winner
from simplegrad.runtime import files, program_cache

_FORMAT = 1
_TILE = re.compile(r"[A-Z_]+=\d+( [A-Z_]+=\d+)*")
_DATE = re.compile(r"\d{4}-\d\d-\d\d")

Found = dict[str, dict[str, Winner]]
"""By device identity and class of shapes."""


def path() -> Path:
    """Return where the winners of this user's devices stand (the file may not exist yet)."""
    return program_cache.cache_folder() / "tuned.json"


def load(identity: str) -> frozenset[Winner]:
    """Return the winners of one device."""
    return frozenset(_kept().get(identity, {}).values())


def save(identity: str, winners: Iterable[Winner]) -> None:
    """Add winners of one device to the file, in the place of older ones of their classes."""
    merge({identity: {w.shape_class: w for w in winners}})


def merge(found: Found) -> None:
    """Add winners of any devices to the file; without a cache nothing happens."""
    if not settings.current().cache:
        return
    everything = _kept()
    for identity, own in found.items():
        everything[identity] = {**everything.get(identity, {}), **own}
    with suppress(OSError):
        program_cache.make_private(path().parent)
        write(path(), everything)


def write(target: Path, found: Found) -> None:
    """Write winners as JSON in one step; raises `FileError`, which is an `OSError`."""
    devices = {
        identity: {
            w.shape_class: {"tile": w.recipe, "gain": w.gain, "date": w.date}
            for w in sorted(own.values(), key=lambda w: w.shape_class)
        }
        for identity, own in sorted(found.items())
    }
    text = json.dumps({"format": _FORMAT, "devices": devices}, indent=1) + "\n"
    files.replace("tune", target, text.encode())


def read(source: Path) -> Found:
    """Return the winners in a file; what makes no sense is left out, with a warning."""
    try:
        data = json.loads(source.read_text(encoding="utf-8"))
        if not isinstance(data, dict) or data.get("format") != _FORMAT:
            raise ValueError(f"it is not a file of tuned tiles of format {_FORMAT}")
        devices = data.get("devices")
        if not isinstance(devices, dict):
            raise ValueError("it names no devices")
    except (OSError, ValueError, RecursionError) as error:
        _warn(source, str(error))
        return {}
    found: Found = {}
    bad = 0
    for identity, entries in devices.items():
        if not isinstance(entries, dict):
            bad += 1
            continue
        winners = {name: _winner(name, entry) for name, entry in entries.items()}
        found[identity] = {name: w for name, w in winners.items() if w is not None}
        bad += len(winners) - len(found[identity])
    if bad:
        _warn(source, f"{bad} of its entries make no sense; the others count")
    return found


def everything() -> Found:
    """Return all winners that are kept."""
    return _kept()


def _kept() -> Found:
    if not settings.current().cache:
        return {}
    try:
        program_cache.check_private(path().parent)
        if not path().exists():
            return {}
    except OSError:
        return {}
    return read(path())


def _winner(name: str, entry: Any) -> Winner | None:
    if not isinstance(entry, dict):
        return None
    tile, gain, date = (entry.get(key) for key in ("tile", "gain", "date"))
    if not isinstance(tile, str) or not _TILE.fullmatch(tile):
        return None
    if not isinstance(gain, (int, float)) or not math.isfinite(gain):
        return None
    if not isinstance(date, str) or not _DATE.fullmatch(date):
        return None
    return Winner(name, tile, float(gain), date)


def _warn(source: Path, reason: str) -> None:
    warnings.warn(
        f"simplegrad: tuned tiles in {source} are ignored: {reason}. Delete the file, or measure "
        "anew: python -m simplegrad tune",
        RuntimeWarning,
        stacklevel=4,
    )
