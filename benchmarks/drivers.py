"""Point other OpenCL libraries at the driver under test, which they have no option for."""

from __future__ import annotations

import importlib.util
import os
import tempfile
from pathlib import Path

from simplegrad.runtime import discovery

_LIBRARY_OF = {  # by a word of the platform's name
    "Portable Computing Language": "libpocl",
    "Intel(R) OpenCL": "libintelocl",
    "NVIDIA": "libnvidia-opencl",
    "AMD": "libamdocl",
    "rusticl": "libRusticlOpenCL",
}


def alone(platform: str) -> None:
    """Make a platform's driver the only registered one, the first of libraries opened later.

    Done before the first OpenCL call of a process: the loader reads ``OCL_ICD_VENDORS`` then.
    Raises `LookupError` where the driver's library is not known.
    """
    library = _library(platform)
    folder = Path(tempfile.mkdtemp(prefix="benchmarks-driver-"))
    (folder / "only.icd").write_text(f"{library}\n")
    os.environ["OCL_ICD_VENDORS"] = str(folder)
    loader = next(_wheel().glob("libOpenCL*"), None)
    if loader is not None:
        # tinygrad finds a system's loader by itself; the wheel's crashes without its home.
        os.environ.setdefault("OPENCL_PATH", str(loader))
        os.environ.setdefault("PYOPENCL_HOME", str(loader.parent.parent))


def _library(platform: str) -> str:
    found = discovery.prepare()
    stem = next((s for word, s in _LIBRARY_OF.items() if word in platform), "")
    entries = [*found.entries.values(), *map(str, _wheel().glob("libpocl*"))]
    for entry in entries:
        if stem and Path(entry).name.startswith(stem):
            return entry
    raise LookupError(f"no library of the driver {platform!r} is known")


def _wheel() -> Path:
    """Return the folder of the loader and the driver that PyOpenCL's wheel brings."""
    package = importlib.util.find_spec("pyopencl")
    return Path(package.origin if package and package.origin else "").parent / ".libs"
