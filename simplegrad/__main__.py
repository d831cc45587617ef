"""``python -m simplegrad doctor``: what this machine has, and what to do next."""

from __future__ import annotations

import argparse

from simplegrad.runtime import devices, doctor


def main() -> None:
    """Run one command."""
    parser = argparse.ArgumentParser(prog="python -m simplegrad")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("doctor", help="drivers that were looked for, devices, cache folder")
    commands.add_parser("devices", help="the selectors of all devices, best first")
    if parser.parse_args().command == "doctor":
        print(doctor.report())
    else:
        for info in devices.available():
            print(f"{info.selector:20} {info.kind:6} {info.name}  {info.driver}")


if __name__ == "__main__":
    main()
