"""Plans: what is a hit, what a miss is put down to, plans on disk, and memory inside a plan."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import simplegrad as sg
from simplegrad import Tensor, settings
from simplegrad.graph.signature import signature
from simplegrad.runtime import lookup, plan_store, program_cache, select
from simplegrad.runtime.opencl import OpenCLDevice

ROWS = np.random.default_rng(0).normal(size=(12, 16)).astype(np.float32)


@pytest.fixture
def fresh(one_cl_device: Any, tmp_path: Path) -> Any:
    """One device, with no plans in memory and none on disk."""
    with settings.override(cache_dir=str(tmp_path)):
        lookup.forget()
        yield one_cl_device
    lookup.forget()


def scheduled() -> int:
    return sg.cache_stats()["plans"]["scheduled"]


# Hits ---------------------------------------------------------------------------------------------


def test_numbers_and_data_make_hits(fresh: Any) -> None:
    def work(number: float, data: Any) -> Any:
        return (Tensor(data) * number + 1.0).exp().sum(1).numpy()

    work(2.0, ROWS)
    before = scheduled()
    for number in (3.0, 0.0, -0.0, 1.0, float("nan")):
        np.testing.assert_allclose(
            work(number, ROWS[::-1]), np.exp(ROWS[::-1] * number + 1).sum(1), rtol=1e-4
        )
    assert scheduled() == before
    assert "hit: a plan of 1 launch for 4 operations" in sg.explain_plan()
    assert "used 6 times" in sg.explain_plan()


def test_arguments_follow_their_buffers(fresh: Any) -> None:
    """Old buffers are held, so that every run gets others, in another order."""
    held = []
    for i in range(6):
        x, y = Tensor(ROWS + i), Tensor(ROWS * i)
        z = (x - y).sum(0)
        w = z.reshape(1, 16).exp().sum()
        sg.realize(w, z)
        held += [x, y, z]
        if i % 2:
            del held[:2]
        np.testing.assert_allclose(z.numpy(), (ROWS + i - ROWS * i).sum(0), rtol=1e-4, atol=1e-4)
    assert scheduled() >= 1


# Misses -------------------------------------------------------------------------------------------


def changed(first: Callable[[], Any], second: Callable[[], Any]) -> str:
    keep = [first(), first()]
    sg.realize(keep[0])
    kept = second()
    sg.realize(kept)
    del keep
    return sg.explain_plan()


def rows(n: int = 12, dtype: str = "float32") -> Tensor:
    return sg.asarray(ROWS[:n].astype(dtype))


MISSES: dict[str, tuple[Callable[[], Any], Callable[[], Any], str]] = {
    "shape": (
        lambda: rows() + rows(), lambda: rows(9) + rows(9),
        r"differs in the shape of input 0: \(9, 16\) against \(12, 16\); "
        r"in the shape of input 1: \(9, 16\) against \(12, 16\)$",
    ),
    "dtype": (
        lambda: rows().sum(), lambda: rows(dtype="int32").astype("float32").sum(),
        r"in the operations: .*cast \(.*test_plans.py:\d+\) against",
    ),
    "dtype of an input": (
        lambda: rows().sum(), lambda: rows(dtype="float16").sum(),
        r"differs in the dtype of input 0: float16 against float32$",
    ),
    "branch": (
        lambda: rows().relu().sum(), lambda: rows().tanh().sum(),
        r"in the operations: .*tanh \(.*test_plans.py:\d+\) against const, .*maximum$",
    ),
    "argument": (
        lambda: rows()[:, :8].sum(), lambda: rows()[:, 8:].sum(),
        r"in the argument of slice .*: \(\(0, 12, 1\), \(8, 8, 1\)\) against",
    ),
    "sharing": (
        lambda: (lambda x, y: (x + y) * x)(rows(), rows()),
        lambda: (lambda x, y: (x + y) * y)(rows(), rows()),
        r"differs in which operation reads which",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MISSES)
def test_a_miss_is_explained(fresh: Any, name: str) -> None:
    first, second, expected = MISSES[name]
    text = changed(first, second)
    assert text.startswith("miss (scheduled and compiled): differs ")
    import re

    assert re.search(expected, text), text


def test_what_is_kept_makes_a_plan(fresh: Any) -> None:
    sg.realize(rows().exp().sum())
    middle = rows().exp()
    sg.realize(middle.sum())
    assert "in what is kept: exp" in sg.explain_plan()
    assert "is held by a tensor here, not there" in sg.explain_plan()


def test_settings_make_a_plan(fresh: Any) -> None:
    sg.realize(rows().exp())
    with sg.fusion(False):
        sg.realize(rows().exp())
        assert "differs in the setting fusion: False against True" in sg.explain_plan()
    sg.realize(rows().exp())
    hit, miss = sg.explain_plan().split("\n")
    assert hit.startswith("hit:")
    assert "setting fusion" in miss


def test_the_first_plan_and_none() -> None:
    said = []
    thread = threading.Thread(target=lambda: said.append(sg.explain_plan()))
    thread.start()
    thread.join()
    assert said == ["nothing has been computed by kernels in this thread yet"]


def test_the_first_plan_of_a_process(fresh: Any) -> None:
    sg.realize(rows().exp())
    assert sg.explain_plan() == "miss (scheduled and compiled): the first plan of this process"


# On disk ------------------------------------------------------------------------------------------

SCRIPT = """
import json, sys
import numpy as np
import simplegrad as sg
from simplegrad import Tensor
with sg.device(sys.argv[1]):
    x, w = np.ones((4, 8)), Tensor(np.arange(56.0).reshape(8, 7))
    for _ in range(2):
        loss = (Tensor(x) @ w).square().sum() * float(sys.argv[2])
        loss.backward()
    values = [loss.item(), w.grad.tolist()]
print(json.dumps([values, sg.cache_stats()["plans"], sg.explain_plan()]))
"""


def script(device: Any, folder: Path, number: str = "1") -> Any:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, device.name, number], capture_output=True, text=True,
        env={**os.environ, "SIMPLEGRAD_CACHE_DIR": str(folder), "PYTHONHASHSEED": "random"},
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return json.loads(done.stdout)


def test_a_second_process_schedules_nothing(cl_device: Any, tmp_path: Path) -> None:
    values, first, _ = script(cl_device, tmp_path)
    assert first["scheduled"] > 0
    assert first["disk"] == 0
    again, second, said = script(cl_device, tmp_path)
    assert again == values
    assert second["scheduled"] == 0
    assert second["disk"] == first["scheduled"]
    assert "its program was on disk" in said
    other, third, _ = script(cl_device, tmp_path, "2")
    assert other[0] == 2 * values[0]
    assert third["scheduled"] == 0


def test_settings_and_source_are_part_of_the_key(
    fresh: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work() -> int:
        before = scheduled()
        lookup.forget()
        sg.realize(rows().exp().sum())
        return scheduled() - before

    assert (work(), work()) == (1, 0)
    with settings.override(cache=False):
        assert work() == 1
    with sg.fusion(False):
        assert (work(), work()) == (1, 0)
    monkeypatch.setattr(plan_store, "_digest", lambda: "another compiler")
    assert (work(), work()) == (1, 0)


@pytest.mark.parametrize("damage", [b"", b"{}", b"[]", b'{"slots": [["leaf"]], "launches": 3}'])
def test_a_bad_plan_is_a_miss(fresh: Any, tmp_path: Path, damage: bytes) -> None:
    import zlib

    want = rows().exp().sum(1).numpy()
    lookup.forget()
    before = scheduled()
    rows().exp().sum(1).numpy()
    assert scheduled() == before
    for path in (tmp_path / "plans").iterdir():
        program_cache.put("plans", path.name, zlib.compress(damage) if damage else b"x")
    lookup.forget()
    np.testing.assert_array_equal(rows().exp().sum(1).numpy(), want)
    assert scheduled() == before + 1
    lookup.forget()
    rows().exp().sum(1).numpy()
    assert scheduled() == before + 1  # mended


def test_programs_survive_the_disk(fresh: Any) -> None:
    x = rows()
    wanted = [(x @ x.T).softmax()._node, x.sum(0)._node]
    order, structure, kept = signature(wanted)
    program = lookup.plan_of(order, structure, kept, fresh).program
    name = plan_store.key_of(
        order, structure, lookup.target_of(fresh), fresh.identity, fusion=True
    )  # fmt: skip
    found = plan_store.load(name)
    assert found is not None
    again, trusted = found
    assert again.slots == program.slots
    assert again.results == program.results
    assert [x.source for x in again.launches] == [x.source for x in program.launches]
    assert [x.slots for x in again.launches] == [x.slots for x in program.launches]
    assert [x.release for x in again.launches] == [x.release for x in program.launches]
    assert trusted == {x.source.origin for x in program.launches} - {""}


# Memory -------------------------------------------------------------------------------------------


def test_memory_inside_a_plan_is_used_again(fresh: Any) -> None:
    """A chain of sixteen products needs the memory of two, whatever its length."""
    n = 128
    x = sg.asarray(np.eye(n, dtype=np.float32))
    y = x
    for _ in range(16):
        y = (y @ x).softmax(0)
    order, structure, kept = signature([y._node])
    plan = lookup.plan_of(order, structure, kept, fresh)
    assert len(plan.program.launches) >= 16
    assert sum(plan.cells) <= 4 * n * n * 4
    (buffer,) = plan.run(order)
    want = np.eye(n)
    for _ in range(16):
        e = np.exp(want)
        want = e / e.sum(0)
    np.testing.assert_allclose(fresh.to_host(buffer, y.dtype, (n, n)), want, rtol=1e-3)


# Several devices ----------------------------------------------------------------------------------


def test_two_contexts_of_one_driver(fresh: Any) -> None:
    """Equal in every word, and yet memory and programs of one are nothing to the other."""
    twin = OpenCLDevice(select._pyopencl(), fresh.raw, f"{fresh.name}:twin")
    assert twin.identity == fresh.identity
    for device in (fresh, twin, fresh):
        with sg.device(device):
            x = Tensor(ROWS)
            np.testing.assert_allclose((x * 2).sum(0).numpy(), ROWS.sum(0) * 2, rtol=1e-4)
    with sg.device(twin):
        y = Tensor(ROWS)
    with pytest.raises(sg.DeviceError, match=r"add: one operand is on .* and another on"):
        x + y
    moved = y.to_device(fresh)
    assert moved.device is fresh
    np.testing.assert_allclose((x + moved).numpy(), 2 * ROWS)


def test_realizing_over_two_devices_is_an_error(fresh: Any) -> None:
    with sg.device("numpy"):
        other = Tensor(ROWS) + 1
    with pytest.raises(sg.DeviceError, match=r"realize: .* lives on numpy.*\.to_device"):
        sg.realize(Tensor(ROWS) + 1, other)


def test_plans_of_other_shapes_share_memory_each_in_its_own_way(one_cl_device: Any) -> None:
    """Which sizes are equal, and so which values share a cell, differs from shape to shape."""

    def run(n: int, m: int) -> tuple[int, Any]:
        a = Tensor(np.arange(n * m, dtype=np.float32).reshape(n, m) % 7, requires_grad=False) * 1.0
        b = (a @ a.T).softmax(0)
        c = (b @ a).softmax(1) + a
        got = (c.T @ b).numpy()
        host = np.arange(n * m).reshape(n, m) % 7
        e = np.exp(host @ host.T - (host @ host.T).max(0))
        want = e / e.sum(0)
        f = np.exp(want @ host - (want @ host).max(1, keepdims=True))
        np.testing.assert_allclose(
            got, (f / f.sum(1, keepdims=True) + host).T @ want, rtol=1e-3, atol=1e-4
        )
        assert lookup.last.used is not None
        return id(lookup.last.used.plan.layout), lookup.last.used.plan

    shapes = [(40, 24), (56, 56), (64, 30), (48, 48), (72, 24), (56, 56), (40, 24)]
    made = [run(*shape) for shape in shapes]
    assert len({layout for layout, _ in made[2:5]}) < 3  # (64, 30) and (72, 24) are of one kind
    assert len({id(plan.binding) for _, plan in made[2:5]}) == 1


def test_a_shape_that_a_program_for_all_serves_is_said_so(fresh: Any) -> None:
    said = []
    for n in (12, 20, 28):
        (Tensor(np.ones((n, 3)), requires_grad=False).exp() * 2).realize()
        said.append(sg.explain_plan().split(": differs")[0])
    assert said[1:] == [
        "miss (scheduled and compiled)",
        "miss (a program for all shapes serves it)",
    ]


def test_the_plan_used_longest_ago_goes_first(fresh: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    lookup.forget()
    monkeypatch.setattr(lookup, "MAX_PLANS", 3)
    x = Tensor(np.ones(4), requires_grad=False)
    calls = [x.exp, x.log, x.sin, x.cos]
    for call in (calls[0], calls[1], calls[2], calls[0], calls[3]):
        call().realize()
    assert lookup.count() == 3
    before = sg.cache_stats()["plans"]["hits"]
    for call in (calls[0], calls[2], calls[3]):
        call().realize()
    assert sg.cache_stats()["plans"]["hits"] == before + 3
    calls[1]().realize()
    assert sg.cache_stats()["plans"]["hits"] == before + 3
