"""Find OpenCL drivers, those included that nobody registered, before the first OpenCL call.

The loader reads the folder that ``OCL_ICD_VENDORS`` names, else the system's. A private folder
holds the system's entries and one for every driver library found in a wheel or a container; the
variable is pointed there. Sources: the ocl-icd manual for the variable; the wheels' file lists.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from simplegrad import settings

_SYSTEM = Path("/etc/OpenCL/vendors")
_INTEL_NEEDS = ("libintlc.so.5", "libirng.so", "libimf.so", "libsvml.so", "libtbb.so.12")
_CANDIDATES = (
    "libnvidia-opencl.so.1",
    "libamdocl64.so",
    "libigdrcl.so",
    "libRusticlOpenCL.so.1",
    "libpocl.so.2",
)
_FOLDERS = (
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/usr/lib",
    "/usr/local/lib",
    "/usr/local/nvidia/lib64",
    "/usr/local/nvidia/lib",
    "/usr/lib/wsl/lib",
    "/opt/rocm/lib",
    "/opt/amdgpu/lib/x86_64-linux-gnu",
)


@dataclass
class Discovery:
    """What was tried, line by line, and the private folder of entries (None: none was needed)."""

    tried: list[str] = field(default_factory=list)
    folder: Path | None = None


_done: Discovery | None = None


def prepare() -> Discovery:
    """Make every driver on this machine visible to the loader; once per process."""
    global _done
    if _done is None:
        _done = Discovery()
        if sys.platform.startswith("linux"):
            _prepare_linux(_done)
        else:
            _done.tried.append(f"{sys.platform}: the system's own loader finds its drivers")
    return _done


def _prepare_linux(found: Discovery) -> None:
    registered = _registered(found)
    names = {Path(text).name for text in registered.values()}
    extra = dict(_unregistered(found, names))
    if not extra:
        return
    folder = found.folder = _write_entries({**registered, **extra})
    os.environ["OCL_ICD_VENDORS"] = str(folder)
    found.tried.append(f"OCL_ICD_VENDORS set to {folder}")


def _registered(found: Discovery) -> dict[str, str]:
    """Return the entries the loader would see by itself, by file name."""
    setting = os.environ.get("OCL_ICD_VENDORS")
    folder = Path(setting) if setting else _SYSTEM
    entries: dict[str, str] = {}
    if setting and not folder.is_dir():  # the variable may also name one library or entry
        text = folder.read_text().strip() if folder.suffix == ".icd" else setting
        entries["environment.icd"] = text
    elif folder.is_dir():
        for path in sorted(folder.glob("*.icd")):
            with suppress(OSError):
                entries[path.name] = path.read_text().strip()
    found.tried.append(f"{folder}: {', '.join(entries.values()) or 'no driver registered'}")
    return entries


def _unregistered(found: Discovery, names: set[str]) -> list[tuple[str, str]]:
    result = []
    intel = Path(sys.prefix) / "lib" / "libintelocl.so"
    if "libintelocl.so" not in names:
        if intel.exists() and _preload(intel.parent, found):
            result.append(("simplegrad-intel.icd", str(intel)))
        found.tried.append(f"{intel}: {'found' if intel.exists() else 'not installed'}")
    folders = [*_FOLDERS, *os.environ.get("LD_LIBRARY_PATH", "").split(":")]
    for name in _CANDIDATES:
        paths = [Path(f) / name for f in folders if f]
        path = next((p for p in paths if p.exists()), None)
        registered = any(n.startswith(name.split(".so")[0]) for n in names)
        if path is not None and not registered:
            result.append((f"simplegrad-{name.split('.')[0]}.icd", str(path)))
        state = "registered" if registered else path or "not found"
        found.tried.append(f"{name}: {state}")
    return result


def _preload(folder: Path, found: Discovery) -> bool:
    """Load what Intel's runtime needs by full path, since its wheel registers no library path."""
    for name in _INTEL_NEEDS:
        try:
            ctypes.CDLL(str(folder / name), mode=ctypes.RTLD_GLOBAL)
        except OSError as error:
            found.tried.append(f"{name}: {error}; run: pip install intel-cmplr-lib-rt")
            return False
    return True


def _write_entries(entries: dict[str, str]) -> Path:
    """Return a folder with these entries; equal entries share one folder between processes."""
    digest = hashlib.sha256(repr(sorted(entries.items())).encode()).hexdigest()[:16]
    folder = settings.cache_folder() / f"drivers-{digest}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _fill(folder, entries)
    except OSError:
        folder = Path(tempfile.mkdtemp(prefix="simplegrad-drivers-"))
        _fill(folder, entries)
    return folder


def _fill(folder: Path, entries: dict[str, str]) -> None:
    for name, text in entries.items():
        path = folder / name
        if not path.exists() or path.read_text() != text + "\n":
            temporary = folder / f".{name}.{os.getpid()}"
            temporary.write_text(text + "\n")
            os.replace(temporary, path)
