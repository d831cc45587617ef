"""Write the results page: ``python -m benchmarks.page``.

Puts every file kept in ``results/`` into ``README.md``, below the line that says so.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks import host

_FOLDER = Path(__file__).resolve().parent
_BELOW = "<!-- Written by python -m benchmarks.page from the files of results/ -->"


def page(results: dict[str, dict[str, Any]]) -> str:
    """Return the Markdown of results by the stem of their file."""
    parts = []
    for stem, result in results.items():
        if result.get("group") == "host":
            parts.append("\n".join(host.page(stem, result)))
            continue
        first, *others = result["contestants"]
        versions = {k: v for c in result["contestants"].values() for k, v in c.items()}
        told = ", ".join(
            f"{k} {v}" for k, v in versions.items() if k not in ("device", "driver", "kind")
        )
        heads = ["workload", "ms", "device, ms", "host, ms", "cold, ms", "rate", *others]
        lines = [
            f"### {_device(result['driver'])}", "",
            f"{result['cores']} cores, {result['machine']}; {told}. "
            f"{result['turns']} turns. [`results/{stem}.json`](results/{stem}.json)", "",
            f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}",
            *[_line(row, first, others) for row in result["rows"]], "",
            f"![{_device(result['driver'])}](results/{stem}.png)", "",
        ]  # fmt: skip
        parts.append("\n".join(lines))
    return "\n".join(parts)


def _device(driver: str) -> str:
    """Return the platform, the device and the driver's version, of an identity."""
    platform, *_, device, version = (driver.split("|") + [""] * 3)[:4]
    return f"{platform}, {device}, {version}"


def _line(row: dict[str, Any], first: str, others: list[str]) -> str:
    ours = row["entries"][first]
    cells = [row["name"], _three(ours["median_ms"])]
    cells += [_three(ours[n]) if n in ours else "" for n in ("device_ms", "host_ms")]
    cells += [f"{ours['cold_ms']:.0f}", _rate(row, ours)]
    for label in others:
        ratio = row["ratios"].get(label)
        if ratio is None:
            cells.append("")
        else:
            ms = _three(row["entries"][label]["median_ms"])
            cells.append(f"**{ratio['median']:.2f}** ({ms})")
    return f"| {' | '.join(cells)} |"


def _rate(row: dict[str, Any], ours: dict[str, Any]) -> str:
    if "of_ceiling" in ours:
        return f"{ours['of_ceiling']:.0%} of {row['ceiling']}"
    return f"{ours['gflops']:.0f} GFLOP/s" if row["flops"] else ""


def _three(ms: float) -> str:
    """Return milliseconds with three digits that count.

    >>> _three(0.01234), _three(1.234), _three(123.4), _three(1234.5)
    ('0.0123', '1.23', '123', '1234')
    """
    return f"{ms:.0f}" if ms >= 100 else f"{ms:.3g}"


def main() -> None:
    """Rewrite the page."""
    files = sorted((_FOLDER / "results").glob("*.json"))
    kept = [f for f in files if not f.stem.startswith(("opencl-", "numpy"))]  # Git ignores these
    results = {f.stem: json.loads(f.read_text()) for f in kept}
    readme = _FOLDER / "README.md"
    above = readme.read_text().partition(_BELOW)[0]
    readme.write_text(f"{above}{_BELOW}\n\n{page(results)}")


if __name__ == "__main__":
    main()
