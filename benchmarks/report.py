"""The table and the JSON file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_HEADING = (
    f"{'':32} {'':14} {'median ms':>10} {'(p25 … p75)':>20} {'device':>8} {'host':>7} {'cold':>8}  "
)

_AS_FAST = 0.97
"""Below this ratio one is slower; above, the difference is not worth a word."""


def heading() -> str:
    """Return the names of the columns."""
    return f"{_HEADING}rate, or how many times as fast simplegrad is"


def lines(row: dict[str, Any]) -> list[str]:
    """Return the lines of one workload, one for each that took part."""
    result = []
    for number, (label, entry) in enumerate(row["entries"].items()):
        name = "" if number else row["name"]
        if "median_ms" not in entry:
            result.append(f"{name:32} {label:14} {entry['error']}")
            continue
        quartiles = f"({entry['p25_ms']:.3f} … {entry['p75_ms']:.3f})"
        told = f"{name:32} {label:14} {entry['median_ms']:10.3f} {quartiles:>20} "
        told += f"{_ms(entry, 'device_ms', 8)} {_ms(entry, 'host_ms', 7)} {entry['cold_ms']:8.1f}  "
        ratio = row["ratios"].get(label)
        result.append(told + (_ratio(ratio) if ratio else _rate(row, entry)))
    return result


def summary(rows: list[dict[str, Any]], labels: list[str]) -> list[str]:
    """Return a table of the ratios: a line a workload, a column for each that took part."""
    first, others = labels[0], labels[1:]
    result = [
        "", f"how many times as fast {first} is (median of the turns' own ratios)",
        f"{'':32} {first + ', ms':>15}" + "".join(f"{label:>15}" for label in others),
    ]  # fmt: skip
    for row in rows:
        told = f"{row['name']:32} {row['entries'][first]['median_ms']:15.3f}"
        for label in others:
            ratio = row["ratios"].get(label)
            told += f"{ratio['median']:15.2f}" if ratio else f"{'–':>15}"
        result.append(told)
    if "unfused" in others:
        slower = [
            f"{row['name']} ({row['ratios']['unfused']['median']:.2f})"
            for row in rows
            if row["ratios"]["unfused"]["median"] < _AS_FAST
        ]
        result.append(f"fused is slower than unfused: {', '.join(slower) or 'nowhere'}")
    return result


def _ms(entry: dict[str, Any], name: str, width: int) -> str:
    return f"{entry[name]:{width}.3f}" if name in entry else " " * width


def _ratio(r: dict[str, float]) -> str:
    return f"{r['median']:.2f} times ({r['p25']:.2f} … {r['p75']:.2f})"


def _rate(row: dict[str, Any], entry: dict[str, Any]) -> str:
    told = []
    if row["flops"]:
        told.append(f"{entry['gflops']:.0f} GFLOP/s")
    elif row["traffic"]:
        told.append(f"{entry['gbytes_per_s']:.1f} GB/s")
    if "of_ceiling" in entry:
        what = row["ceiling"]
        told.append(f"{entry['of_ceiling']:.0%} of {what}")
        told.append(f"{entry['of_same_size']:.0%} at this size")
    if entry.get("launches"):
        told.append(f"{entry['launches']} launch{'es' if entry['launches'] > 1 else ''}")
    return ", ".join(told)


def special_lines(row: dict[str, Any]) -> list[str]:
    """Return the lines of a measurement that ran in its own process."""
    if row["name"] == "memory":
        result = ["memory of the spiral example"]
        for epoch, stats in row["epochs"].items():
            told = ", ".join(f"{k} {v:,}" for k, v in stats.items())
            result.append(f"  epoch {epoch:>6}: {told}")
        told = ", ".join(f"{k} {v:+.2%}" for k, v in row["growth"].items())
        return [*result, f"  10 to 10,000: {told}"]
    if row["name"] == "deep":
        return ["deep graphs, forward and backward (growth 1 is linear)"] + [
            f"  {k:18} {v:8.2f}{'' if 'growth' in k else ' s'}"
            for k, v in row.items()
            if k != "name"
        ]
    driver = "touches a driver" if row["touches_driver"] else "touches no driver"
    return [
        f"import simplegrad: {row['simplegrad_s']:.3f} s ({row['simplegrad_cpu_s']:.3f} s of a "
        f"core), of which NumPy {row['numpy_s']:.3f} s ({row['numpy_cpu_s']:.3f}); {driver}"
    ]


def read(path: Path, result: dict[str, Any]) -> dict[str, Any]:
    """Return the result that a file holds, empty where there is no file.

    Raises `SystemExit` where it is of another device, driver or version of anything than `result`.
    """
    if not path.exists():
        return {}
    before: dict[str, Any] = json.loads(path.read_text())
    for what in ("driver", "machine", "cores", "contestants"):
        if before[what] != result[what]:
            raise SystemExit(f"--append: {path} has another {what}: {before[what]}")
    return before


def joined(before: dict[str, Any], result: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """Return a result with the rows that another has besides, in the order of `names`."""
    rows = {row["name"]: row for row in (*before["rows"], *result["rows"])}
    return {
        **result,
        "rows": [rows[name] for name in names if name in rows],
        "special": before["special"] + result["special"],
    }


def write_json(path: Path, result: dict[str, Any]) -> None:
    """Write everything measured."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
