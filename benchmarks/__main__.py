"""Measure workloads on a device, beside other libraries, drivers or settings, in turns."""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import simplegrad as sg
from benchmarks import picture, report
from benchmarks.contest import PEERS, Contestant, References, contest, missing
from benchmarks.special import SPECIAL, run_apart
from benchmarks.workload import Workload
from benchmarks.workloads import WORKLOADS

_RESULTS = Path(__file__).resolve().parent / "results"


def main() -> None:
    """Parse the command line and measure."""
    options = _options()
    signal.signal(signal.SIGTERM, _ended)  # so that the workers are ended too
    with tempfile.TemporaryDirectory(prefix="benchmarks-", ignore_cleanup_errors=True) as folder:
        _measure(options, Path(folder))


def _ended(number: int, frame: Any) -> NoReturn:
    raise SystemExit(128 + number)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--device", default="", help="such as opencl:gpu, opencl:pocl or numpy")
    parser.add_argument(
        "--peers", default="", metavar="NAMES", help=f"comma-separated, of {', '.join(PEERS)}"
    )
    parser.add_argument(
        "--compare", choices=("fusion", "drivers", "kernels"),
        help="with fusion off, with every OpenCL device, with the other kernel family",
    )  # fmt: skip
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="NAME",
        help=f"parts of names; {', '.join(SPECIAL)} run only when named here",
    )  # fmt: skip
    parser.add_argument("--turns", type=int, default=9, help="turns of every contestant (9)")
    parser.add_argument("--repeat", type=int, default=40, help="most runs in one turn (40)")
    parser.add_argument(
        "--budget", type=float, default=60, metavar="MS",
        help="milliseconds after which a turn has runs enough (60)",
    )  # fmt: skip
    parser.add_argument(
        "--limit", type=float, default=60, metavar="S",
        help="seconds after which an answer is waited for no longer (60)",
    )  # fmt: skip
    parser.add_argument(
        "--append", action="store_true",
        help="keep the other workloads of the JSON file: a long suite in pieces",
    )  # fmt: skip
    parser.add_argument("--json", type=Path, help="where the figures go (benchmarks/results)")
    parser.add_argument("--plot", type=Path, help="where the picture goes (benchmarks/results)")
    parser.add_argument("--list", action="store_true", help="print the names and stop")
    options = parser.parse_args()
    if options.list:
        parser.exit(message="\n".join([*(w.name for w in WORKLOADS), *SPECIAL]) + "\n")
    options.peers = [p for p in options.peers.split(",") if p]
    if unknown := [p for p in options.peers if p not in PEERS]:
        parser.error(f"no peer is called {', '.join(unknown)}; there are {', '.join(PEERS)}")
    known = [w for w in options.only if w in SPECIAL or any(w in x.name for x in WORKLOADS)]
    if len(known) < len(options.only):
        unknown = [w for w in options.only if w not in known]
        parser.error(f"no workload is called {', '.join(unknown)}; --list prints the names")
    if options.turns < 1 or options.repeat < 1:
        parser.error("--turns and --repeat must be at least 1")
    return options


def _measure(options: argparse.Namespace, folder: Path) -> None:
    only = options.only
    chosen = [w for w in WORKLOADS if not only or any(o in w.name for o in only)]
    with _contestants(options, folder) as contestants:
        result = _described(options, contestants)
        kept = _Kept(options, result)
        print(f"{result['device']}: {result['driver']}, load {result['load']}")
        for c in contestants:
            told = ", ".join(f"{k} {v}" for k, v in c.versions.items() if k != "kind")
            print(f"  {c.label}: {told}")
        references = References(folder)
        if chosen:
            print(report.heading())
        for workload in chosen:
            row = _row(workload, contestants, references, options)
            result["rows"].append(row)
            kept.write()  # what was measured stays, whatever ends the run
            print("\n".join(report.lines(row)), flush=True)
    for name in SPECIAL:
        if name in only:
            row = run_apart(name, options.device)
            result["special"].append(row)
            print("\n".join(report.special_lines(row)), flush=True)
    if len(contestants) > 1 and chosen:
        print("\n".join(report.summary(result["rows"], [c.label for c in contestants])))
    whole = kept.write()
    print(f"JSON: {kept.path}")
    print(picture.write(options.plot or kept.path.with_suffix(".png"), whole))


def _described(options: argparse.Namespace, contestants: list[Contestant]) -> dict[str, Any]:
    """Return a result without rows: what is measured, where."""
    return {
        **contestants[0].versions, "machine": platform.machine(), "system": platform.platform(),
        "python": platform.python_version(), "cores": os.cpu_count(), "load": _load(),
        "turns": options.turns, "repeat": options.repeat,
        "contestants": {c.label: c.versions for c in contestants}, "rows": [], "special": [],
    }  # fmt: skip


class _Kept:
    """The JSON file of a result that grows."""

    def __init__(self, options: argparse.Namespace, result: dict[str, Any]) -> None:
        stem = str(result["device"]).replace(":", "-")
        for part in (options.compare, "peers" if options.peers else ""):
            stem += f"-{part}" if part else ""
        self.path: Path = options.json or _RESULTS / f"{stem}.json"
        self._result = result
        self._before = report.read(self.path, result) if options.append else {}

    def write(self) -> dict[str, Any]:
        """Write everything measured, and return it with what the file had before."""
        names = [w.name for w in WORKLOADS]
        whole = report.joined(self._before, self._result, names) if self._before else self._result
        report.write_json(self.path, whole)
        return whole


def _row(
    workload: Workload, contestants: list[Contestant], references: References,
    options: argparse.Namespace,
) -> dict[str, Any]:  # fmt: skip
    row = contest(
        workload, contestants, references.of(workload), options.turns, options.repeat,
        options.budget * 1e-3,
    )  # fmt: skip
    for c in contestants:
        entry = row["entries"][c.label]
        if c.library == "simplegrad" and "warm_ms" not in entry:
            raise SystemExit(f"{workload.name} ({c.label}): {entry['error']}")
    return row


@contextlib.contextmanager
def _contestants(options: argparse.Namespace, folder: Path) -> Iterator[list[Contestant]]:
    """Start everybody who takes part, simplegrad first; a line says who is missing and why."""
    device = {"SIMPLEGRAD_DEVICE": options.device} if options.device else {}
    started: list[Contestant] = []
    limit = options.limit
    try:
        first = Contestant("simplegrad", "simplegrad", device, limit_s=limit)
        _start(first, folder, started)
        if not started:
            raise SystemExit("nothing to measure")
        wanted = [
            Contestant(label, "simplegrad", device | changed, limit_s=limit)
            for label, changed in _compared(options.compare, first).items()
        ]
        platform_name = first.versions["driver"].split("|")[0]
        for peer in options.peers:
            on_opencl = peer in ("tinygrad", "netcl")
            if on_opencl and first.versions["kind"] == "numpy":
                print(f"left out: {peer} needs an OpenCL device")
            elif reason := missing(peer):
                print(f"left out: {reason}")
            else:
                platform_of = platform_name if on_opencl else ""
                wanted.append(Contestant(peer, peer, {}, platform_of, limit_s=limit))
        for contestant in wanted:
            _start(contestant, folder, started)
        yield started
    finally:
        for contestant in started:
            contestant.stop()


def _start(contestant: Contestant, folder: Path, started: list[Contestant]) -> None:
    error = contestant.start(folder)
    if error:
        contestant.stop()
        print(f"left out: {contestant.label}: {error}")
    else:
        started.append(contestant)


def _compared(compare: str | None, first: Contestant) -> dict[str, dict[str, str]]:
    """Return what stands beside the first contestant: labels, and the settings that differ."""
    if compare == "fusion":
        return {"unfused": {"SIMPLEGRAD_FUSION": "0"}}
    if compare == "kernels":
        own = os.environ.get("SIMPLEGRAD_KERNELS", "") or first.versions["kind"]
        other = "cpu" if own == "gpu" else "gpu"
        return {f"{other} kernels": {"SIMPLEGRAD_KERNELS": other}}
    if compare == "drivers":
        own = first.versions["device"]
        others = [d.selector for d in sg.devices() if d.selector not in (own, "numpy")]
        return {name: {"SIMPLEGRAD_DEVICE": name} for name in others}
    return {}


def _load() -> float:
    """Return how many processes wanted a core lately: figures of a busy machine say so."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else -1.0


if __name__ == "__main__":
    main()
