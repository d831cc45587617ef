"""The benchmark harness: right and wrong answers, processes that die, turns, and the report."""

from __future__ import annotations

import ast
import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import simplegrad as sg

pytest.importorskip("benchmarks.contest", reason="the benchmarks are not beside the package here")

from benchmarks import contest, host, host_rows, page, picture, report
from benchmarks.contest import Contestant, References, missing, paired, spread
from benchmarks.libraries.numpy_ import Numpy
from benchmarks.models import MODELS
from benchmarks.worker import LIBRARIES, load_answers, open_library, save_answers
from benchmarks.workload import turns
from benchmarks.workloads import WORKLOADS

SMALL = "einsum 256x256x256"


@pytest.fixture
def numpy_peer(tmp_path: Path) -> Iterator[Contestant]:
    peer = Contestant("numpy", "numpy")
    assert peer.start(tmp_path) == ""
    yield peer
    peer.stop()
    assert peer.process.poll() is not None


def workload(name: str) -> Any:
    return next(w for w in WORKLOADS if w.name == name)


def test_names_are_told_apart() -> None:
    names = [w.name for w in WORKLOADS]
    assert len(set(names)) == len(names)


def test_simplegrad_and_numpy_can_do_everything() -> None:
    for name in ("simplegrad", "numpy"):
        library = open_library(name)
        known = [w for w in WORKLOADS if name == "simplegrad" or w not in MODELS]
        missing_ = [w.name for w in known if not hasattr(library, w.family)]
        assert missing_ == []


@pytest.mark.parametrize("model", MODELS, ids=lambda w: w.family)
def test_models_take_their_parameters_by_name(model: Any) -> None:
    with sg.device("numpy"):
        assert callable(open_library("simplegrad").make(model, model.inputs()))


@pytest.mark.parametrize("library", [n for n in LIBRARIES if n not in ("simplegrad", "numpy")])
def test_peers_have_no_methods_without_a_workload(library: str) -> None:
    """A family that is misspelt would be taken for one that the library lacks."""
    module = LIBRARIES[library][0].rpartition(".")[2]
    tree = ast.parse((Path(contest.__file__).parent / "libraries" / f"{module}.py").read_text())
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    methods = {f.name for c in classes for f in c.body if isinstance(f, ast.FunctionDef)}
    common = {"versions", "place", "wait", "to_numpy", "compiled"}
    unknown = methods - common - {w.family for w in WORKLOADS}
    assert classes and [m for m in unknown if not m.startswith("_")] == []


def test_gradients_of_the_numpy_reference_are_right() -> None:
    """The reference's hand-written backward passes against finite differences, in float64."""
    rng = np.random.default_rng(0)
    library, d, ff = Numpy(), 16, 24
    shapes = [(2, 5, d), (2, 5, d), *[(d, d)] * 4, (d, ff), (ff,), (ff, d), *[(d,)] * 5]
    arrays = [rng.standard_normal(s) for s in shapes]
    _check_gradients(library.encoder_layer, arrays, 1)
    x, w, dy = (rng.standard_normal(s) for s in ((2, 3, 6, 6), (4, 3, 3, 3), (2, 4, 6, 6)))
    assert len(library.conv2d_gradients(x, w, dy)) == 2
    _check_gradients(lambda x, dy, w: _conv(library, x, w, dy), [x, dy, w], 1)


def _conv(library: Numpy, x: Any, w: Any, dy: Any) -> Any:
    return library.conv2d(x, w), *library.conv2d_gradients(x, w, dy)


def _check_gradients(function: Any, arrays: list[Any], upstream: int) -> None:
    """`function` returns its output and the gradients of all arrays but the upstream one."""
    rng = np.random.default_rng(1)
    _, *gradients = function(*arrays)
    others = [i for i in range(len(arrays)) if i != upstream]
    assert len(gradients) == len(others)
    for i, gradient in zip(others, gradients, strict=True):
        assert gradient.shape == arrays[i].shape
        way, h = rng.standard_normal(arrays[i].shape), 1e-6
        ends = []
        for sign in (1, -1):
            moved = list(arrays)
            moved[i] = arrays[i] + sign * h * way
            ends.append(float((function(*moved)[0] * arrays[upstream]).sum()))
        want = (ends[0] - ends[1]) / (2 * h)
        assert float((gradient * way).sum()) == pytest.approx(want, rel=1e-5, abs=1e-5), i


def test_worker_checks_answers(numpy_peer: Contestant, tmp_path: Path) -> None:
    want = References(tmp_path).of(workload(SMALL))
    told = numpy_peer.tell("load", workload=SMALL, want=want, tolerance=1e-5)
    assert 0 < told["error"] < 1e-5 and told["cold_ms"] > 0 and told["warm_ms"] > 0
    told = numpy_peer.tell("run", runs=3, warm=True)
    assert len(told["wall"]) == len(told["host"]) == 3
    assert all(0 < h <= w for h, w in zip(told["host"], told["wall"], strict=True))
    save_answers(want, [[a + 1 for a in load_answers(want)[0]]])
    told = numpy_peer.tell("load", workload=SMALL, want=want, tolerance=1e-5)
    assert "wrong by" in told["error"]
    assert "no workload is loaded" in numpy_peer.tell("run", runs=1, warm=False)["error"]


def test_a_process_that_dies_is_started_anew(numpy_peer: Contestant, tmp_path: Path) -> None:
    numpy_peer.process.kill()
    numpy_peer.process.wait()
    assert "error" in numpy_peer.tell("run", runs=1, warm=False)
    want = References(tmp_path).of(workload(SMALL))
    assert "warm_ms" in numpy_peer.tell("load", workload=SMALL, want=want, tolerance=1e-5)


def test_a_process_that_hangs_is_killed(numpy_peer: Contestant, tmp_path: Path) -> None:
    want = References(tmp_path).of(workload(SMALL))
    assert "warm_ms" in numpy_peer.tell("load", workload=SMALL, want=want, tolerance=1e-5)
    numpy_peer.limit_s = 0.2
    answer = numpy_peer.tell("run", runs=10**7, warm=False)
    assert answer == {"error": "no answer within 0.2 s"}


def test_states_differ_from_run_to_run(tmp_path: Path) -> None:
    path = References(tmp_path).of(workload("spiral epoch"))
    losses = [float(run[0]) for run in load_answers(path)]
    assert len(set(losses)) == 3 and losses == sorted(losses, reverse=True)
    same = load_answers(References(tmp_path).of(workload(SMALL)))
    assert len(same) == 3 and same[0] is same[2]


def test_ratios_are_of_the_same_turn() -> None:
    assert paired([2.0, 20.0, 6.0], [1.0, 10.0, 3.0]) == {"median": 2, "p25": 2, "p75": 2}
    assert paired([2.0, 20.0], [1.0, 10.0, 3.0])["median"] == 2  # the first turns only
    assert spread([0.001, 0.003, 0.002])["median_ms"] == pytest.approx(2)
    turn = turns(3)
    assert [turn() for _ in range(5)] == [0, 1, 2, 0, 1]


def test_a_missing_peer_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert missing("jax") == "jax is not installed; run: pip install jax"
    monkeypatch.undo()
    if not missing("torch"):
        monkeypatch.setattr(contest.shutil, "which", lambda name: None)
        assert "C++ compiler" in missing("torch-compile")


def made_row(name: str, ratio: float) -> dict[str, Any]:
    entry = {**spread([0.002, 0.003]), "cold_ms": 5.0, "gflops": 1.0, "gbytes_per_s": 2.0}
    ours = entry | {"device_ms": 2.0, "host_ms": 0.1, "launches": 1, "of_ceiling": 0.5,
                    "of_same_size": 0.6}  # fmt: skip
    third = {"median": ratio, "p25": ratio, "p75": ratio}
    return {
        "name": name, "traffic": 8, "flops": 0, "ceiling": "copy",
        "entries": {"simplegrad": ours, "unfused": entry, "torch": {"error": "has no such thing"}},
        "ratios": {"unfused": third},
    }  # fmt: skip


def test_report_and_picture(tmp_path: Path) -> None:
    rows = [made_row("chain", 1.5), made_row("other", 0.9)]
    ours, unfused, torch = report.lines(rows[0])
    assert ours.startswith("chain") and "50% of copy, 60% at this size, 1 launch" in ours
    assert "1.50 times (1.50 … 1.50)" in unfused
    assert torch.endswith("has no such thing")
    labels = ["simplegrad", "unfused", "torch"]
    assert report.summary(rows, labels)[-1] == "fused is slower than unfused: other (0.90)"
    assert report.summary(rows[:1], labels)[-1] == "fused is slower than unfused: nowhere"
    result = {"rows": rows, "driver": "P|V|D|1", "cores": 2,
              "contestants": {label: {label: "1"} for label in labels}}  # fmt: skip
    assert picture.write(tmp_path / "a.png", result) == f"picture: {tmp_path / 'a.png'}"
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_pieces_join_to_a_suite(tmp_path: Path) -> None:
    base = {"driver": "D", "machine": "M", "cores": 2, "contestants": {"simplegrad": {}}}
    whole = base | {"rows": [made_row("b", 1), made_row("c", 1)], "special": []}
    report.write_json(tmp_path / "a.json", whole)
    piece = base | {"rows": [made_row("c", 2), made_row("a", 2)], "special": []}
    before = report.read(tmp_path / "a.json", piece)
    rows = report.joined(before, piece, ["a", "b", "c"])["rows"]
    told = [(r["name"], r["ratios"]["unfused"]["median"]) for r in rows]
    assert told == [("a", 2), ("b", 1), ("c", 2)]
    assert report.read(tmp_path / "none.json", piece) == {}
    with pytest.raises(SystemExit, match="another driver: D"):
        report.read(tmp_path / "a.json", piece | {"driver": "E"})


def test_command_line(one_cl_device: Any, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "--device", one_cl_device.name]
    command += ["--peers", "numpy", "--compare", "fusion", "--only", SMALL]
    command += ["--turns", "2", "--repeat", "2"]
    command += ["--append", "--json", str(tmp_path / "a.json"), "--plot", str(tmp_path / "a.png")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.png").exists()
    result = json.loads((tmp_path / "a.json").read_text())
    assert list(result["contestants"]) == ["simplegrad", "unfused", "numpy"]
    assert [row["name"] for row in result["rows"]] == [SMALL]
    for row in result["rows"]:
        assert set(row["ratios"]) == {"unfused", "numpy"}
        for label, entry in row["entries"].items():
            assert entry["p25_ms"] <= entry["median_ms"] <= entry["p75_ms"]
            assert ("device_ms" in entry) == (label != "numpy")
        ours = row["entries"]["simplegrad"]
        assert ours["compiles"] == 0 and ours["launches"] >= 1  # warm
        assert ours["host_ms"] < ours["median_ms"] < ours["cold_ms"]
    assert result["rows"][0]["entries"]["simplegrad"]["operations"] == 2 * 256**3
    assert "fused is slower than unfused:" in done.stdout
    refused = subprocess.run(
        [*command[:3], "--only", "nothing"], capture_output=True, text=True, check=False
    )
    assert refused.returncode == 2 and "no workload is called nothing" in refused.stderr


def test_page_tells_what_the_files_hold() -> None:
    result = {
        "driver": "P|V|D|1", "machine": "M", "cores": 2, "turns": 9,
        "contestants": {"simplegrad": {"simplegrad": "0.1"}, "unfused": {}, "torch": {"torch": "2"}},
        "rows": [made_row("chain", 1.5)],
    }  # fmt: skip
    lines = page.page({"here": result}).splitlines()
    assert lines[0] == "### P, D, 1"
    assert "simplegrad 0.1, torch 2" in lines[2] and "(results/here.json)" in lines[2]
    [row] = [line for line in lines if line.startswith("| chain")]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells == ["chain", "2.5", "2", "0.1", "5", "50% of copy", "**1.50** (2.5)", ""]
    assert lines.count("![P, D, 1](results/here.png)") == 1


def test_host_figures_have_a_line_and_a_place_on_the_page() -> None:
    figure = {"what": "sg.jit, per launch", "value": 1.5, "unit": "us", "note": "x", "aim": 2.0}
    result = {
        "group": "host", "driver": "PoCL|3|cpu|3", "cores": 2, "machine": "x86_64",
        "simplegrad": "0", "python": "3", "figures": [figure],
    }  # fmt: skip
    assert "at most 2" in host.line(figure)
    assert "| sg.jit, per launch | 1.5 us | 2 | x |" in page.page({"some-host": result})


def test_host_rows_run(one_cl_device: Any) -> None:
    row = host_rows.two_operations()
    assert [what for what, *_ in row][1] == "bare launch and wait"
    assert all(value > 0 for _, value, _, _ in row[:2])
