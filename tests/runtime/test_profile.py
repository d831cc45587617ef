"""What a profile tells: operations from the IR, shares of the ceilings, picture and trace."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import simplegrad as sg
from simplegrad import Tensor
from simplegrad.errors import SimplegradError
from simplegrad.runtime import ceilings
from simplegrad.runtime.ceilings import COPY, FMA, READ, Ceiling, Variant


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ceilings of a made-up device: 10 GB/s copied, 20 GB/s read, 100 Gop/s."""
    v = Variant("strips", 4, 8, 1)
    made = {w: Ceiling(w, r * 1e9, v) for w, r in ((COPY, 10), (READ, 20), (FMA, 100))}
    monkeypatch.setattr(ceilings, "measured", lambda device: made)


def normal(*shape: int) -> Tensor:
    return Tensor(np.random.default_rng(0).standard_normal(shape), requires_grad=False)


def counted(*results: Tensor) -> int:
    with sg.Profile() as p:
        sg.realize(*results)
    assert p.operations == sum(row.operations for row in p.kernels.values())
    return p.operations


def test_contractions_count_multiply_adds(one_cl_device: Any) -> None:
    a, b = normal(40, 50), normal(50, 60)
    assert counted(a @ b) == 2 * 40 * 50 * 60
    # The epilogue runs per result, the prologue per element of its operand.
    assert counted((a * 2.0) @ b + 1.0) == 2 * 40 * 50 * 60 + 40 * 50 + 40 * 60


def test_windows_count_multiply_adds(one_cl_device: Any) -> None:
    x, w = normal(2, 3, 10, 10), normal(5, 3, 3, 3)
    assert counted(x.conv2d(w, padding=1)) == 2 * (2 * 5 * 10 * 10) * (3 * 3 * 3)


def test_elementwise_and_reductions_count_costs(one_cl_device: Any) -> None:
    x, n = normal(1 << 10), 1 << 10
    assert counted(x * x + x) == 2 * n
    assert counted(x.exp()) == sg.ops.EXP.cost * n
    assert counted(x.sum()) == n
    rows = normal(32, 64)
    assert counted(rows.max(axis=1)) == 32 * 64
    # Subtract, exponential, both reductions and the product with a reciprocal per row.
    costs = 1 + sg.ops.EXP.cost + 2 + 1
    assert counted(rows.softmax()) == costs * 32 * 64 + sg.ops.RECIPROCAL.cost * 32


def test_products_inside_an_attention_are_counted(one_cl_device: Any) -> None:
    attention, costs = sg.scaled_dot_product_attention, sg.ops.EXP.cost
    for m in (20, 21, 22, 23):  # from the third on, one compilation serves all
        q, k, v = normal(3, m, 8), normal(3, 30, 8), normal(3, 30, 16)
        scores, score = 3 * m * 30, 1 + 2 * 8  # the scale, and a product over d
        rows = 3 * m * (sg.ops.RECIPROCAL.cost + 16)
        assert counted(attention(q, k, v)) == scores * (score + costs + 3 + 2 * 16) + rows
        with sg.Profile() as p:
            sg.realize(*sg.grad(lambda *x: attention(*x).sum(), (0, 1, 2))(q, k, v))
        done = {name: row.operations for name, row in p.kernels.items()}
        one = score + costs + 2 + 2 * 16 + 2 + 1 + 2 * 8
        assert done["k_attention_dq"] == scores * one
        assert done["k_attention_dk_dv"] == scores * (one + 2 * 16)


def test_keys_hidden_by_position_are_not_counted(one_cl_device: Any) -> None:
    q, k, v = (normal(2, 40, n) for n in (8, 8, 16))
    whole = counted(sg.scaled_dot_product_attention(q, k, v))
    seen = counted(sg.scaled_dot_product_attention(q, k, v, is_causal=True))
    rows = 2 * 40 * (sg.ops.RECIPROCAL.cost + 16)
    # 820 of 1600 scores; the mask itself is a few operations on positions.
    assert 0 < (seen - rows) - (whole - rows) * 820 / 1600 < 2 * 1600 * 5


def test_products_inside_a_recurrence_are_counted(one_cl_device: Any) -> None:
    batch, time, hidden = 4, 10, 16
    layer, x = sg.nn.LSTM(5, hidden), normal(batch, time, 5)
    with sg.Profile() as p:
        sg.realize(layer(x)[0])
    (row,) = (row for name, row in p.kernels.items() if "scan" in name)
    products = 2 * batch * time * hidden * 4 * hidden
    cell = row.operations - products
    # Three sigmoids and two tanh, and the sums and products of the cell.
    assert 50 < cell / (batch * time * hidden) < 100


def test_two_stage_reductions_count_once(cl_device: Any) -> None:
    n = 1 << 20
    with sg.Profile() as p:
        sg.realize(normal(n).sum())
    assert p.launches == 2  # n additions, and those of the parts
    assert n <= p.operations <= n + 4096


def test_a_row_per_kernel_not_per_name(one_cl_device: Any) -> None:
    with sg.Profile() as p:
        for n in (20, 30):
            for _ in range(2):
                sg.realize(normal(n, n) @ normal(n, n))
    assert [r.launches for r in p.kernels.values()] == [2, 2]
    (first, second) = p.kernels.values()
    assert second.name == first.name + "#2" and list(p.kernels) == [first.name, second.name]
    assert (first.domain, second.domain) == ("20x20|20", "30x30|30")
    assert second.operations == 2 * 2 * 30**3


def test_sizes_that_share_a_program_are_counted_apart(cl_device: Any) -> None:
    for n in (33, 34, 35, 36):  # from the third on, one compilation serves all
        assert counted(normal(n, n) @ normal(n, n)) == 2 * n**3
    with sg.Profile() as p:
        for n in (37, 38):
            sg.realize(normal(n, n) @ normal(n, n))
    assert [row.domain for row in p.kernels.values()] == ["37x37|37", "38x38|38"]
    assert p.compiles == 0


def test_table_tells_shares_of_the_ceilings(one_cl_device: Any, known: None) -> None:
    a = normal(64, 64)
    with sg.Profile() as p:
        sg.realize(a @ a)
    (row,) = p.kernels.values()
    row.seconds = 2 * 64**3 / 25e9  # a quarter of the made-up device
    assert row.memory_bound == COPY and row.bytes_per_s > 0
    head, names, line = p.table().splitlines()
    assert "copies 10.0 GB/s, reads 20.0 GB/s, multiply-adds 100 Gop/s" in head
    assert names.split()[0] == "kernel" and line.split()[:3] == [row.name, "64x64|64", "1"]
    assert line.split()[-1] == "25%" and line.split()[-2] == "25.0"
    assert "100%" in line  # of the time


def test_reading_kernels_are_held_against_reads(one_cl_device: Any, known: None) -> None:
    with sg.Profile() as p:
        sg.realize(normal(64, 1024).sum(axis=1))
    (row,) = p.kernels.values()
    assert row.memory_bound == READ and " read " in p.table()


def test_devices_without_kernels_tell_what_they_ran() -> None:
    with sg.device("numpy"), sg.Profile() as p:
        x = Tensor([1.0, 2.0])
        sg.realize((x + x).exp() + x)
        x.numpy()
    assert p.interpreted == {"numpy": {"add": 2, "exp": 1}}
    assert p.launches == 0 and repr(p).endswith(", 3 operations one by one without kernels>")
    assert p.table() == "numpy runs no kernels, which alone are timed; its operations: add 2, exp 1"
    assert sg.Profile().table().startswith("nothing was computed")


def test_plot(one_cl_device: Any, known: None, tmp_path: Path) -> None:
    with sg.Profile() as p:
        sg.realize(normal(64, 64) @ normal(64, 64), normal(64) + 1.0, normal(8, 8).T.reshape(64))
    p.plot(tmp_path / "roofline.png")
    p.plot(str(tmp_path / "roofline.svg"))
    assert (tmp_path / "roofline.png").read_bytes().startswith(b"\x89PNG")
    drawn = (tmp_path / "roofline.svg").read_text()
    assert drawn.count("<svg") == 1 and len(drawn) > 10_000


def test_plot_says_what_is_missing(
    one_cl_device: Any, known: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with sg.Profile() as p:
        pass
    with pytest.raises(SimplegradError, match=r"Profile\.plot: no kernel was run"):
        p.plot(tmp_path / "none.png")
    with sg.Profile() as p:
        sg.realize(normal(64) + 1.0)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SimplegradError, match=r"pip install matplotlib"):
        p.plot(tmp_path / "none.png")


def test_trace(cl_device: Any, tmp_path: Path) -> None:
    a = normal(41, 41)
    with sg.Profile() as p:
        sg.realize(a @ a)
        sg.realize(a @ a + 1.0)
    p.save_trace(tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    processes = {e["args"]["name"]: e["pid"] for e in events if e["ph"] == "M"}
    assert set(processes) == {"host", cl_device.name}
    spans = [e for e in events if e["ph"] == "X"]
    assert all(e["ts"] >= 0 and e["dur"] >= 0 for e in spans)
    host = [e for e in spans if e["pid"] == processes["host"]]
    device = [e for e in spans if e["pid"] == processes[cl_device.name]]
    assert {e["name"] for e in device} == set(p.kernels) and len(device) == 2
    assert sum(e["name"].startswith("compile") for e in host) == 2
    launches = [e for e in host if e["name"].startswith("launch")]
    assert len(launches) == 2
    for launch, kernel in zip(launches, device, strict=True):  # a kernel runs while it is awaited
        assert launch["ts"] <= kernel["ts"] + 0.001
        assert kernel["ts"] + kernel["dur"] <= launch["ts"] + launch["dur"] + 0.001
        assert kernel["args"]["operations"] >= 2 * 41**3
    assert launches[0]["ts"] + launches[0]["dur"] <= launches[1]["ts"]


def test_numpy_counts_nothing() -> None:
    with sg.device("numpy"), sg.Profile() as p:
        sg.realize(normal(4) + 1.0)
    assert (p.launches, p.operations, p.kernels) == (0, 0, {})
    assert len(p.table().splitlines()) == 1


def test_a_profile_and_its_device_say_what_they_are(one_cl_device: Any) -> None:
    with sg.Profile() as p:
        (Tensor([1.0, 2.0]) + 1).realize()
    assert repr(p).startswith("<Profile: 1 launches of 1 kernels in ")
    assert repr(one_cl_device).startswith(f"<device {one_cl_device.name}: ")
    with sg.device("numpy") as host:
        assert repr(host) == "<device numpy>"
