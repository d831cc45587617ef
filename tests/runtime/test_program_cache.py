"""The folder of the cache is the user's own, or it is done without; what is counted."""

from __future__ import annotations

import contextvars
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import simplegrad as sg
from simplegrad import settings
from simplegrad.compiler.render.assemble import Source
from simplegrad.runtime import program_cache

SOURCE = "__kernel void k_add(__global float *x) {{ x[get_global_id(0)] += {}.0f; }}"


@pytest.fixture
def folder(tmp_path: Path) -> Any:
    with settings.override(cache_dir=str(tmp_path / "a" / "cache"), cache=True):
        yield tmp_path / "a" / "cache"


def test_new_folders_belong_to_the_user_alone(folder: Path) -> None:
    before = os.umask(0o022)
    try:
        program_cache.put("kind", "key", b"payload")
    finally:
        os.umask(before)
    for path in (folder.parent, folder, folder / "kind"):
        assert path.stat().st_mode & 0o777 == 0o700
    assert (folder / "kind" / "key").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
def test_a_folder_that_others_may_write_is_done_without(folder: Path, mode: int) -> None:
    program_cache.put("kind", "key", b"payload")
    (folder / "kind").chmod(mode)
    assert program_cache.get("kind", "key") is None
    program_cache.put("kind", "other", b"payload")
    assert not (folder / "kind" / "other").exists()
    assert "does not work" in program_cache.state()
    assert "delete it" in program_cache.state()
    (folder / "kind").chmod(0o700)
    assert program_cache.get("kind", "key") == b"payload"


def test_a_link_is_not_followed(folder: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    folder.mkdir(parents=True)
    (folder / "kind").symlink_to(elsewhere)
    program_cache.put("kind", "key", b"payload")
    assert list(elsewhere.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="owners are POSIX's")
def test_a_folder_of_somebody_else_is_done_without(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program_cache.put("kind", "key", b"payload")
    other = os.geteuid() + 1
    monkeypatch.setattr(program_cache.os, "geteuid", lambda: other)
    assert program_cache.get("kind", "key") is None


def test_bad_entries_are_misses_and_go(folder: Path) -> None:
    path = folder / "kind" / "key"
    for damage in (b"", b"short", bytes(32) + b"payload"):
        program_cache.put("kind", "key", b"payload")
        path.write_bytes(damage)
        assert program_cache.get("kind", "key") is None
        assert not path.exists()
    path.mkdir()  # no file at all
    assert program_cache.get("kind", "key") is None
    program_cache.put("kind", "key", b"payload")
    assert program_cache.get("kind", "key") is None
    assert [p.name for p in path.parent.iterdir()] == ["key"]  # nothing half-written is left


def test_readers_never_see_half_an_entry(folder: Path) -> None:
    payloads = [bytes([i]) * 100_000 for i in range(4)]
    program_cache.put("kind", "key", payloads[0])
    wrong, done = [], threading.Event()

    def read() -> None:
        while not done.is_set():
            if program_cache.get("kind", "key") not in payloads:
                wrong.append(1)

    reader = threading.Thread(target=contextvars.copy_context().run, args=(read,))
    reader.start()
    for i in range(200):
        program_cache.put("kind", "key", payloads[i % 4])
    done.set()
    reader.join()
    assert wrong == []


def test_the_state_in_words(folder: Path) -> None:
    assert program_cache.state() == "not made yet"
    program_cache.put("kind", "key", bytes(1 << 20))
    assert program_cache.state() == "works, 1 entries, 1.0 MiB"
    with settings.override(cache=False):
        assert program_cache.state().startswith("off")


def test_counters_and_options(folder: Path, cl_device: Any) -> None:
    counters = program_cache.counters
    source = SOURCE.format(abs(hash(str(folder))) % 1000)
    before = counters.compiles, counters.memory_hits
    first = cl_device.compile(source)
    assert (counters.compiles, counters.memory_hits) == (before[0] + 1, before[1])
    assert cl_device.compile(source) is first
    assert (counters.compiles, counters.memory_hits) == (before[0] + 1, before[1] + 1)
    assert cl_device.compile(source, ("-DOTHER",)) is not first
    assert counters.compiles == before[0] + 2
    with settings.override(fast_math=True):
        assert cl_device.compile(source) is not first
    assert counters.compiles == before[0] + 3


def test_other_drivers_read_other_entries(
    folder: Path, cl_device: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if cl_device.programs.own_cache:
        pytest.skip("this driver keeps its programs itself")
    counters = program_cache.counters
    source = SOURCE.format(77)
    cl_device.compile(source)
    compiles, hits = counters.compiles, counters.disk_hits
    cl_device.programs.clear()
    cl_device.compile(source)
    assert (counters.compiles, counters.disk_hits) == (compiles, hits + 1)
    cl_device.programs.clear()
    monkeypatch.setattr(cl_device.programs, "identity", cl_device.identity + " updated")
    cl_device.compile(source)
    assert (counters.compiles, counters.disk_hits) == (compiles + 1, hits + 1)


def test_kernels_of_a_plan_are_one_program_and_found_one_by_one(
    folder: Path, cl_device: Any
) -> None:
    def plan() -> Any:
        sg.clear_caches()
        with sg.fusion(False):
            return (sg.Tensor(np.arange(6, dtype=np.float32)) + 0.25).exp().neg().tolist()

    counters = program_cache.counters
    before = counters.compiles
    want = plan()
    parts = [path.read_bytes()[32:] for path in (folder / "parts").iterdir()]
    assert sorted(part[:1] for part in parts) == [b"0", b"1", b"2"]
    assert len({part[1:] for part in parts}) == 1
    assert counters.compiles == before + 3
    for path in (folder / "plans").iterdir():  # what follows asks for kernels, not for the plan
        path.unlink()
    hits = counters.disk_hits
    assert plan() == want
    if not cl_device.programs.own_cache:
        assert (counters.compiles, counters.disk_hits) == (before + 3, hits + 1)


def test_one_refused_kernel_of_a_program_is_named(cl_device: Any) -> None:
    good, bad = (
        Source(f"__kernel void k_{name}(__global float *x) {{ x[0] = {value}; }}", f"k_{name}", 1,
               1, ((0, 0),), helpers=())
        for name, value in (("good", "1.0f"), ("bad", "not_declared"))
    )  # fmt: skip
    with pytest.raises(sg.BuildError) as caught:
        cl_device.compile_all([good, bad])
    assert "k_bad" in str(caught.value)
    assert "k_good" not in str(caught.value)
    assert cl_device.compile_all([good, good])[0].kernel("k_good")
