"""Find OpenCL drivers, those included that nobody registered, before the first OpenCL call.

The loader reads the folder that ``OCL_ICD_VENDORS`` names, else the system's. A private folder
holds the system's entries and one for every driver library found in a wheel or a container; the
variable is pointed there. Libraries are looked for by path and left to the loader to load, so
that a broken driver cannot hurt. Sources: the ocl-icd manual for the variable; the wheels' file
lists; glibc's ld.so.cache, in which the paths stand as plain text.
"""

from __future__ import annotations

import ctypes
import glob
import hashlib
import importlib.util
import os
import re
import shutil
import site
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from simplegrad import settings
from simplegrad.runtime.files import replace_cached
from simplegrad.runtime.program_cache import cache_folder, make_private

POCL, INTEL = "pocl-binary-distribution", "intel-opencl-rt intel-cmplr-lib-rt"
"""Packages that bring drivers for CPUs; errors name them, since ours may not come from an index."""
_SYSTEM = Path("/etc/OpenCL/vendors")
_LOADER_CACHE = Path("/etc/ld.so.cache")
_INTEL = "libintelocl.so"
_INTEL_NEEDS = ("libintlc.so.5", "libirng.so", "libimf.so", "libsvml.so", "libtbb.so.12")
_INTEL_FOLDERS = (
    "/opt/intel/oneapi/compiler/latest/lib",
    "/opt/intel/oneapi/compiler/latest/linux/lib/x64",
)
_CANDIDATES = (
    "libnvidia-opencl.so.1",
    "libamdocl64.so",
    "libigdrcl.so",
    "libRusticlOpenCL.so.1",
    "libpocl.so.2",
)
_LINKED = {
    "libgcc": ("/usr/lib*/gcc/*/*/libgcc.a",),
    "libc": ("/usr/lib*/libc.so", "/usr/lib/*-linux-*/libc.so"),
}
"""What the PoCL of PyOpenCL's wheel links every kernel with by the program `ld`, and where."""
_FOLDERS = (
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu/intel-opencl",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/usr/lib",
    "/usr/local/lib",
    "/usr/local/nvidia/lib64",
    "/usr/local/nvidia/lib",
    "/usr/lib/wsl/lib",
    "/opt/rocm/lib",
    "/opt/rocm/opencl/lib",
    "/opt/amdgpu/lib/x86_64-linux-gnu",
    "/opt/amdgpu-pro/lib/x86_64-linux-gnu",
)


@dataclass
class Discovery:
    """What was tried, line by line, and what came of it."""

    tried: list[str] = field(default_factory=list)
    entries: dict[str, str] = field(default_factory=dict)
    """Libraries that the loader is told of, by the name of their entry."""
    folder: Path | None = None
    """The private folder of entries; None: the system's own entries are all there is."""
    pocl_links: bool = True
    """Whether PoCL has a linker; without, it ends the process at the first kernel."""


_done: Discovery | None = None


def prepare() -> Discovery:
    """Make every driver on this machine visible to the loader; once per process."""
    global _done
    if _done is None:
        found = Discovery()
        if sys.platform.startswith("linux"):
            _prepare_linux(found)
            _pin_threads(found)
        else:
            found.tried.append(f"{sys.platform}: the system's own loader finds its drivers")
        _done = found
    return _done


def _prepare_linux(found: Discovery) -> None:
    registered = _registered(found)
    usable = {name: _usable(text, found) for name, text in registered.items()}
    entries = {name: text for name, text in usable.items() if text}
    entries.update(_unregistered(found, {Path(text).name for text in entries.values()}))
    found.entries = entries
    if set(entries.values()) - set(registered.values()):
        found.folder = _write_entries(entries)
        os.environ["OCL_ICD_VENDORS"] = str(found.folder)
        found.tried.append(f"OCL_ICD_VENDORS set to {found.folder}")


def _pin_threads(found: Discovery) -> None:
    """Ask PoCL to keep each of its threads on a core of its own, unless the user has decided.

    Threads that sleep between short kernels may be woken on one and the same core, and stay there.
    PoCL counts cores from 0, and ends the process where it may not use one.
    """
    if os.sched_getaffinity(0) == set(range(os.cpu_count() or 0)):
        os.environ.setdefault("POCL_AFFINITY", "1")
        found.tried.append(f"POCL_AFFINITY is {os.environ['POCL_AFFINITY']}")


def _registered(found: Discovery) -> dict[str, str]:
    """Return the entries the loader would see by itself, by file name."""
    setting = os.environ.get("OCL_ICD_VENDORS", "")
    named = Path(setting)
    if named.is_absolute() and not named.exists():
        found.tried.append(f"OCL_ICD_VENDORS={setting}: not there; taking {_SYSTEM} instead")
        setting = ""
    folder = Path(setting) if setting else _SYSTEM
    entries: dict[str, str] = {}
    if setting and not folder.is_dir():  # the variable may also name one library or entry
        entries["environment.icd"] = setting
        if folder.suffix == ".icd":
            with suppress(OSError):
                entries["environment.icd"] = folder.read_text().strip()
    elif folder.is_dir():
        for path in sorted(folder.glob("*.icd")):
            with suppress(OSError, UnicodeDecodeError):
                entries[path.name] = path.read_text().strip()
    found.tried.append(f"{folder}: {', '.join(entries.values()) or 'no driver registered'}")
    return entries


def _usable(text: str, found: Discovery) -> str:
    """Return the library of an entry, by its path where the loader would not find the name.

    Empty where it is not there: Intel's wheel itself ships an entry with conda's placeholder. A
    bare name that is found nowhere stays: the loader may know folders that we do not.
    """
    if not os.path.isabs(text):
        return text if _by_loader(text) else str(_locate(text) or text)
    if not os.path.exists(text):
        found.tried.append(f"{text}: registered, but not there")
        return ""
    if Path(text).name.startswith(_INTEL):
        _preload(Path(text).parent, found)
    return text


def _unregistered(found: Discovery, names: set[str]) -> list[tuple[str, str]]:
    """Return (entry name, library) of the drivers that no entry names."""
    result = []
    for name in (_INTEL, *_CANDIDATES):
        if any(n.startswith(name.split(".so")[0] + ".") for n in names):
            found.tried.append(f"{name}: registered")
            continue
        if name == "libpocl.so.2" and _pocl_in_wheel():
            found.tried.append("PoCL: in PyOpenCL's wheel, where its loader finds it")
            _check_linker(found)
            continue
        path = _intel() if name == _INTEL else _locate(name)
        found.tried.append(f"{name}: {path or 'not found'}")
        if path is not None and (name != _INTEL or _preload(path.parent, found)):
            result.append((f"simplegrad-{name.split('.')[0]}.icd", str(path)))
    return result


def _intel() -> Path | None:
    """Return Intel's CPU runtime: of a wheel, beside this Python or of the user, or of oneAPI."""
    user = [Path(site.USER_BASE) / "lib"] if site.ENABLE_USER_SITE and site.USER_BASE else []
    folders = [Path(sys.prefix) / "lib", *user, *map(Path, _INTEL_FOLDERS)]
    return next((f / _INTEL for f in folders if (f / _INTEL).exists()), None)


def _pocl_in_wheel() -> bool:
    with suppress(ImportError, ValueError):
        package = importlib.util.find_spec("pyopencl")
        if package is not None and package.origin:
            return (Path(package.origin).parent / ".libs" / "pocl.icd").exists()
    return False


def _check_linker(found: Discovery) -> None:
    lacking = [
        name
        for name, patterns in _LINKED.items()
        if not any(glob.glob(pattern) for pattern in patterns)
    ]
    if not shutil.which("ld"):
        lacking.insert(0, "ld")
    if lacking:
        found.pocl_links = False
        found.tried.append(
            f"PoCL: left out, since it links kernels with {' and '.join(lacking)}, not found here; "
            f"run: apt-get install gcc libc6-dev, or pip install {INTEL}, which needs none of it"
        )


def _locate(name: str) -> Path | None:
    """Return where a library is: where the dynamic loader looks, or where drivers are put."""
    places = (Path(folder) / name for folder in _FOLDERS)
    return _by_loader(name) or next((p for p in places if p.exists()), None)


def _by_loader(name: str) -> Path | None:
    """Return where the dynamic loader finds a bare name, without loading it."""
    folders = [f for f in os.environ.get("LD_LIBRARY_PATH", "").split(":") if f]
    pattern = rb"/[^\0]*/" + re.escape(name.encode()) + rb"(?=\0)"
    cached = [Path(os.fsdecode(p)) for p in re.findall(pattern, _loader_cache())]
    return next((p for p in [*(Path(f) / name for f in folders), *cached] if p.exists()), None)


@lru_cache(maxsize=1)
def _loader_cache() -> bytes:
    try:
        return _LOADER_CACHE.read_bytes()
    except OSError:
        return b""


def _preload(folder: Path, found: Discovery) -> bool:
    """Load what Intel's runtime needs by full path, since its wheel registers no library path."""
    for name in _INTEL_NEEDS:
        path = folder / name
        try:
            ctypes.CDLL(str(path) if path.exists() else name, mode=ctypes.RTLD_GLOBAL)
        except OSError as error:
            found.tried.append(f"{name}: {error}; run: pip install intel-cmplr-lib-rt")
            return False
    return True


def _write_entries(entries: dict[str, str]) -> Path:
    """Return a folder with these entries; equal entries share one folder between processes.

    It outlives the process, since child processes inherit the variable that names it.
    """
    digest = hashlib.sha256(repr(sorted(entries.items())).encode()).hexdigest()[:16]
    places = [Path(tempfile.gettempdir()) / f"simplegrad-{os.getuid()}-drivers-{digest}"]
    if settings.current().cache:
        places.insert(0, cache_folder() / f"drivers-{digest}")
    for folder in places:
        with suppress(OSError):
            _fill(folder, entries)
            return folder
    folder = Path(tempfile.mkdtemp(prefix="simplegrad-drivers-"))  # somebody holds our name
    _fill(folder, entries)
    return folder


def _fill(folder: Path, entries: dict[str, str]) -> None:
    make_private(folder)
    for name, text in entries.items():
        path = folder / name
        if not path.exists() or path.read_text() != text + "\n":
            replace_cached(path, f"{text}\n".encode())
