"""Measure workloads on a device, and fused against unfused in one run."""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import simplegrad as sg
from benchmarks import ceilings, report
from benchmarks.measure import measure
from benchmarks.special import SPECIAL, run_apart
from benchmarks.workloads import WORKLOADS

_RESULTS = Path(__file__).resolve().parent / "results"


def main() -> None:
    """Parse the command line and measure, on caches that are empty at first."""
    options = _options()
    with tempfile.TemporaryDirectory(prefix="benchmarks-", ignore_cleanup_errors=True) as folder:
        for variable in ("SIMPLEGRAD_CACHE_DIR", "POCL_CACHE_DIR"):
            os.environ[variable] = str(Path(folder) / variable.lower())
            Path(os.environ[variable]).mkdir()
        with sg.device(options.device) if options.device else contextlib.nullcontext():
            _measure(options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--device", default="", help="such as opencl:gpu, opencl:pocl or numpy")
    parser.add_argument("--compare", choices=("fusion",), help="fused against unfused")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="NAME",
        help=f"words that names contain; {', '.join(SPECIAL)} run only when named here",
    )  # fmt: skip
    parser.add_argument("--repeat", type=int, default=21, help="timed runs of each (21)")
    parser.add_argument("--json", type=Path, help="where the figures go (benchmarks/results)")
    parser.add_argument("--plot", type=Path, help="where the picture goes (benchmarks/results)")
    parser.add_argument("--list", action="store_true", help="print the names and stop")
    options = parser.parse_args()
    if options.list:
        parser.exit(message="\n".join([*(w.name for w in WORKLOADS), *SPECIAL]) + "\n")
    known = [w for w in options.only if w in SPECIAL or any(w in x.name for x in WORKLOADS)]
    if len(known) < len(options.only):
        unknown = ", ".join(w for w in options.only if w not in known)
        parser.error(f"no workload is called {unknown}; --list prints the names")
    if options.repeat < 1:
        parser.error("--repeat must be at least 1")
    return options


def _measure(options: argparse.Namespace) -> None:
    device: Any = sg.Tensor.device
    chosen = [w for w in WORKLOADS if not options.only or any(o in w.name for o in options.only)]
    modes = {"fused": True, "unfused": False} if options.compare else {"fused": True}
    if not options.compare and not sg.settings.current().fusion:
        modes = {"unfused": False}
    result: dict[str, Any] = {
        "device": device.name, "driver": device.identity, "machine": platform.machine(),
        "system": platform.platform(), "python": platform.python_version(),
        "numpy": np.__version__, "simplegrad": sg.__version__, "repeat": options.repeat,
        "cores": os.cpu_count(), "load": _load(),
        "openblas_coretype": os.environ.get("OPENBLAS_CORETYPE", ""),
        "ceilings": {}, "rows": [], "special": [],
    }  # fmt: skip
    print(f"{device.name}: {device.identity}, NumPy {np.__version__}, load {result['load']}")
    if result["openblas_coretype"]:
        print(f"NumPy's own times are with OPENBLAS_CORETYPE={result['openblas_coretype']}")
    limits = ceilings.measure(device) if any(w.ceiling for w in chosen) else {}
    for name, ceiling in limits.items():
        rate = ceiling.gbytes_per_s
        result["ceilings"][name] = {"gbytes_per_s": rate, "variant": vars(ceiling.variant)}
        print(f"best {name} of 16M float32: {rate:.1f} GB/s ({ceiling.variant})")
    if chosen:
        print(report.heading())
    for workload in chosen:
        row = measure(workload, options.repeat, modes, limits)
        result["rows"].append(row)
        print("\n".join(report.lines(row)), flush=True)
    for name in SPECIAL:
        if name in options.only:
            row = run_apart(name, options.device)
            result["special"].append(row)
            print("\n".join(report.special_lines(row)), flush=True)
    stem = device.name.replace(":", "-") + ("-fusion" if options.compare else "")
    print(report.write_json(options.json or _RESULTS / f"{stem}.json", result))
    print(report.write_picture(options.plot or _RESULTS / f"{stem}.png", result))


def _load() -> float:
    """Return how many processes wanted a core lately: figures of a busy machine say so."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else -1.0


if __name__ == "__main__":
    main()
