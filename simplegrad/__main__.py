"""``python -m simplegrad doctor``: what this machine has, and what to do next.

``python -m simplegrad tune`` measures the kernels' tiles on a device, for the programs after it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from simplegrad.errors import SimplegradError
from simplegrad.runtime import devices, doctor, tuned, tuner
from simplegrad.runtime.lookup import target_of


def main() -> None:
    """Run one command."""
    parser = argparse.ArgumentParser(prog="python -m simplegrad")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("doctor", help="drivers that were looked for, devices, cache folder")
    commands.add_parser("devices", help="the selectors of all devices, best first")
    tune = commands.add_parser("tune", help="measure tiles on a device; keep what is faster")
    tune.add_argument("--budget", type=float, default=60.0, help="seconds (default 60)")
    tune.add_argument("--device", default="", help="selector (default: the device in force)")
    tune.add_argument("--export", metavar="PATH", help="only write what was found, as JSON")
    tune.add_argument("--import", metavar="PATH", dest="source", help="only add such a file's")
    given = parser.parse_args()
    run = {"doctor": lambda _: doctor.report(), "devices": lambda _: _devices(), "tune": _tune}
    try:
        print(run[given.command](given))
    except SimplegradError as error:
        raise SystemExit(str(error)) from None


def _devices() -> str:
    lines = (
        f"{info.selector:20} {info.kind:6} {info.name}  {info.driver}" for info in devices.devices()
    )
    return "\n".join(lines)


def _tune(given: argparse.Namespace) -> str:
    """Measure, or move what was measured between files; return what to say."""
    if given.export:
        found = tuned.everything()
        tuned.write(Path(given.export), found)
        return f"{_counted(found)} written to {given.export}"
    if given.source:
        source = Path(given.source)
        if not source.is_file():
            raise SimplegradError(f"tune: there is no file {source}; tune --export PATH writes one")
        found = tuned.read(source)
        if not found:
            raise SimplegradError(f"tune: {source} holds nothing that tune --export has written")
        tuned.merge(found)
        return f"{_counted(found)} read from {given.source}, kept in {tuned.path()}"
    device = devices.by_name(given.device) if given.device else devices.current()
    if not device.runs_kernels:
        raise SimplegradError(f"tune: {device.name} runs no kernels; choose an OpenCL device")
    outcomes = tuner.tune(device, target_of(device), given.budget)
    lines = [f"{device.name}: {len(outcomes)} classes measured, kept in {tuned.path()}"]
    for outcome in outcomes:
        winner = outcome.winner
        how = "the default stays" if winner.recipe == outcome.default else winner.recipe
        lines.append(f"  {winner.shape_class:60} {winner.gain:5.2f} times  {how}")
        lines += [f"    wrong on this device: {recipe}" for recipe in outcome.wrong]
    return "\n".join(lines)


def _counted(found: tuned.Found) -> str:
    classes = sum(map(len, found.values()))
    return f"{classes} classes of shapes of {len(found)} devices"


if __name__ == "__main__":
    main()
