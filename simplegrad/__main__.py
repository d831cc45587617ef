"""``python -m simplegrad doctor``: what this machine has, and what to do next."""

from __future__ import annotations

import argparse

from simplegrad.errors import SimplegradError
from simplegrad.runtime import devices, doctor


def main() -> None:
    """Run one command."""
    parser = argparse.ArgumentParser(prog="python -m simplegrad")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("doctor", help="drivers that were looked for, devices, cache folder")
    commands.add_parser("devices", help="the selectors of all devices, best first")
    command = parser.parse_args().command
    try:
        print(doctor.report() if command == "doctor" else _devices())
    except SimplegradError as error:
        raise SystemExit(str(error)) from None


def _devices() -> str:
    lines = (
        f"{info.selector:20} {info.kind:6} {info.name}  {info.driver}" for info in devices.devices()
    )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
