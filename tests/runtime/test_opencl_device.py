"""The OpenCL device: copies, launches, threads, forks, its limits and what its probes find."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import simplegrad as sg
from simplegrad import Tensor, dtypes, settings
from simplegrad.errors import DeviceError, DTypeNotSupported, OutOfMemory
from simplegrad.runtime import probe, program_cache
from simplegrad.runtime.device import Limits
from simplegrad.runtime.opencl import OpenCLDevice

ADD = """
__kernel void k_add(__global float *x, float y) { x[get_global_id(0)] += y; }
__kernel void k_slow(__global float *x, int n) {
    float s = x[get_global_id(0)];
    for (int i = 0; i < n; i++) s = s * 0.5f + 1.0f;
    x[get_global_id(0)] = s;
}
"""


@pytest.fixture
def staging(cl_device: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A device that copies as GPUs do: without waiting."""
    monkeypatch.setattr(cl_device, "limits", replace(cl_device.limits, host_memory=False))
    yield cl_device
    cl_device.synchronize()


def add(device: Any, buffer: Any, n: int, number: float) -> None:
    kernel = device.compile(ADD).kernel("k_add")
    kernel.set_arg(0, buffer.raw)
    kernel.set_arg(1, np.float32(number))
    device.launch(kernel, (n,), None)


@pytest.mark.parametrize("dtype", dtypes.ALL, ids=str)
def test_copies_of_every_dtype(cl_device: Any, dtype: Any) -> None:
    values = np.array([[0, 1, 2], [3, 100, 7]]).astype(dtype.numpy)
    buffer = cl_device.from_host(values, dtype)
    np.testing.assert_array_equal(cl_device.to_host(buffer, dtype, (2, 3)), values)
    assert cl_device.to_host(buffer, dtype, (2, 3)).dtype == dtype.numpy
    turned = cl_device.from_host(values.T, dtype)  # not contiguous
    np.testing.assert_array_equal(cl_device.to_host(turned, dtype, (3, 2)), values.T)


def test_empty_arrays(cl_device: Any) -> None:
    buffer = cl_device.from_host(np.zeros((0, 3), np.float32), dtypes.float32)
    assert cl_device.to_host(buffer, dtypes.float32, (0, 3)).shape == (0, 3)


def test_a_launch_and_a_fresh_kernel_object(cl_device: Any) -> None:
    buffer = cl_device.from_host(np.arange(64, dtype=np.float32), dtypes.float32)
    add(cl_device, buffer, 64, 0.5)
    add(cl_device, buffer, 32, 1.0)
    expected = np.arange(64) + 0.5 + (np.arange(64) < 32)
    np.testing.assert_array_equal(cl_device.to_host(buffer, dtypes.float32, (64,)), expected)
    program = cl_device.compile(ADD)
    assert program.kernel("k_add") is not program.kernel("k_add")


def test_a_timed_launch_runs_in_order(cl_device: Any) -> None:
    buffer = cl_device.from_host(np.zeros(64, np.float32), dtypes.float32)
    slow, added = (cl_device.compile(ADD).kernel(name) for name in ("k_slow", "k_add"))
    slow.set_arg(0, buffer.raw)
    slow.set_arg(1, np.int32(5_000_000))
    added.set_arg(0, buffer.raw)
    added.set_arg(1, np.float32(1))
    cl_device.launch(slow, (64,), None)  # to 2, whatever was there before
    begin, end = cl_device.launch_timed(added, (64,), None)
    np.testing.assert_allclose(cl_device.to_host(buffer, dtypes.float32, (64,)), 3.0)
    begin_slow, end_slow = cl_device.launch_timed(slow, (64,), None)
    assert 0 <= end - begin < end_slow - begin_slow
    assert end_slow - begin_slow > 1_000_000  # nanoseconds


def test_data_changed_after_an_upload_is_not_seen(staging: Any) -> None:
    slow = staging.compile(ADD).kernel("k_slow")
    busy = staging.from_host(np.zeros(64, np.float32), dtypes.float32)
    slow.set_arg(0, busy.raw)
    slow.set_arg(1, np.int32(20_000_000))
    host = np.full(1000, 3.0, np.float32)
    staging.launch(slow, (64,), None)
    buffer = staging.from_host(host, dtypes.float32)
    assert staging._staged, "the upload waited for the kernel before it"
    host[:] = 4.0
    np.testing.assert_array_equal(staging.to_host(buffer, dtypes.float32, (1000,)), 3.0)


def test_staged_copies_are_let_go(staging: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simplegrad.runtime.opencl._MAX_STAGED_BYTES", 10_000)
    buffers = [staging.from_host(np.full(500, i, np.float32), dtypes.float32) for i in range(50)]
    assert staging._staged_bytes == sum(n for _, n in staging._staged) <= 10_000
    for i, buffer in enumerate(buffers):
        np.testing.assert_array_equal(staging.to_host(buffer, dtypes.float32, (500,)), i)
    staging.synchronize()
    staging.from_host(np.zeros(4, np.float32), dtypes.float32)
    staging.synchronize()
    assert len(staging._staged) <= 1


def test_what_a_kernel_may_read_is_not_written_again(cl_device: Any) -> None:
    """Small host data is written where kernels read it, without a command."""
    host = np.full(700, 3.0, np.float32)
    slow, added = (cl_device.compile(ADD).kernel(name) for name in ("k_slow", "k_add"))
    cl_device.synchronize()
    commands = cl_device._enqueued
    buffer = cl_device.from_host(host, dtypes.float32)
    host[:] = 4.0
    assert cl_device._enqueued == commands
    result = cl_device.from_host(np.zeros(64), dtypes.float32)
    slow.set_arg(0, result.raw)
    slow.set_arg(1, np.int32(20_000_000))
    added.set_arg(0, buffer.raw)
    added.set_arg(1, np.float32(1))
    cl_device.launch(slow, (64,), None)
    cl_device.launch(added, (700,), None)
    first = buffer.raw
    np.testing.assert_array_equal(cl_device.to_host(buffer, dtypes.float32, (700,)), 4.0)
    cl_device.launch(slow, (64,), None)
    del buffer
    others = [cl_device.from_host(host, dtypes.float32) for _ in range(3)]
    assert first not in [b.raw for b in others]
    cl_device.synchronize()
    assert cl_device.from_host(host, dtypes.float32).raw is first


def test_memory_for_host_data_is_bounded(cl_device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    real = cl_device._inbox._create
    monkeypatch.setattr(cl_device._inbox, "_create", lambda m: made.append(m.nbytes) or real(m))
    data = np.ones(20_000, np.float32)
    kernel = cl_device.compile(ADD).kernel("k_add")
    kernel.set_arg(1, np.float32(1))
    for _ in range(2000):
        buffer = cl_device.from_host(data, dtypes.float32)
        kernel.set_arg(0, buffer.raw)
        cl_device.launch(kernel, (64,), None)
    assert sum(made) < 20 << 20
    gc.collect()
    before = cl_device.memory_stats()["in_use_bytes"]
    del buffer
    assert cl_device.memory_stats()["in_use_bytes"] == before - 81_920


def test_the_cap_holds_for_host_data(cl_device: Any) -> None:
    def fill() -> None:
        while len(kept) < 20:
            kept.append(cl_device.from_host(np.ones(1 << 18, np.float32), dtypes.float32))

    kept: list[Any] = []
    gc.collect()
    cap = cl_device.memory_stats()["in_use_bytes"] + (4 << 20)
    with settings.override(memory_cap=cap), pytest.raises(OutOfMemory):
        fill()
    assert len(kept) >= 3


def test_memory_of_dead_host_data_is_given_back(cl_device: Any) -> None:
    gc.collect()
    cl_device.synchronize()
    before = cl_device.memory_stats()["held_bytes"]
    kept = [cl_device.from_host(np.ones(1 << 18, np.float32), dtypes.float32) for _ in range(60)]
    assert cl_device.memory_stats()["held_bytes"] >= before + (40 << 20)
    del kept
    cl_device.synchronize()
    assert cl_device.memory_stats()["held_bytes"] <= before + (16 << 20)
    cl_device.pool.spare()
    assert cl_device.memory_stats()["held_bytes"] <= before


EXIT = """
import numpy as np, simplegrad as sg
from simplegrad import Tensor
x = Tensor(np.ones((500, 500), np.float32), requires_grad=False)
for i in range(20):
    z = Tensor(np.full((500, 500), i, np.float32), requires_grad=False)
    for _ in range(20):
        z = (z.sin() + x).exp().sin()
    z.realize()
"""


def test_a_process_may_end_while_kernels_read_its_memory(cl_device: Any) -> None:
    environment = {**os.environ, "SIMPLEGRAD_DEVICE": cl_device.name}
    subprocess.run([sys.executable, "-c", EXIT], env=environment, check=True, timeout=300)


def test_threads_share_a_device(cl_device: Any) -> None:
    wrong = []

    def work(number: int) -> None:
        for i in range(30):
            n = 100 + 37 * number
            buffer = cl_device.from_host(np.full(n, number, np.float32), dtypes.float32)
            with cl_device.lock:
                add(cl_device, buffer, n, float(i))
            if not (cl_device.to_host(buffer, dtypes.float32, (n,)) == number + i).all():
                wrong.append((number, i))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_memory_comes_back(cl_device: Any) -> None:
    gc.collect()
    before = cl_device.memory_stats()
    kept = [cl_device.allocate(100_000) for _ in range(5)]
    during = cl_device.memory_stats()
    assert during["in_use_bytes"] == before["in_use_bytes"] + sum(b.nbytes for b in kept)
    assert during["peak_bytes"] >= during["in_use_bytes"]
    kept.clear()
    assert cl_device.memory_stats()["in_use_bytes"] == before["in_use_bytes"]


def test_memory_of_a_waiting_kernel_outlives_a_trim(cl_device: Any) -> None:
    kernel = cl_device.compile(ADD).kernel("k_slow")
    kernel.set_arg(1, np.int32(3_000_000))
    for _ in range(5):
        buffer = cl_device.allocate(64 * 4)
        kernel.set_arg(0, buffer.raw)
        cl_device.launch(kernel, (64,), None)
        del buffer
        assert cl_device.pool.trim() > 0
    cl_device.synchronize()


def test_arrays_above_the_largest_buffer(cl_device: Any) -> None:
    largest = cl_device.limits.max_alloc_bytes
    with pytest.raises(OutOfMemory, match=rf"{largest + 1:,} bytes in one array.*split the array"):
        cl_device.allocate(largest + 1)


def test_the_pool_holds_no_more_than_the_device(cl_device: Any) -> None:
    assert cl_device._cap() == cl_device.limits.global_bytes
    with settings.override(memory_cap=12345):
        assert cl_device._cap() == 12345


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Python's own, of forks with threads
def test_a_forked_child_is_told(cl_device: Any) -> None:
    """Even a launch with everything at hand, which would wait for threads that are not there."""
    buffer = cl_device.from_host(np.zeros(8, np.float32), dtypes.float32)
    kernel = cl_device.compile(ADD).kernel("k_add")
    kernel.set_arg(0, buffer.raw)
    kernel.set_arg(1, np.float32(1))
    calls = {
        "launch": lambda: cl_device.launch(kernel, (8,), None),
        "launch_timed": lambda: cl_device.launch_timed(kernel, (8,), None),
        "allocate": lambda: cl_device.allocate(32),
        "from_host": lambda: cl_device.from_host(np.zeros(8), dtypes.float32),
        "to_host": lambda: cl_device.to_host(buffer, dtypes.float32, (8,)),
        "compile": lambda: cl_device.compile(ADD),
        "synchronize": lambda: cl_device.synchronize(),
    }
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        for name, call in calls.items():
            try:
                call()
                os.write(writer, f"{name} did something\n".encode())
            except DeviceError as error:
                if "spawn" not in str(error) or cl_device.name not in str(error):
                    os.write(writer, f"{error}\n".encode())
            except BaseException as error:
                os.write(writer, f"{name}: {error!r}\n".encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as said:
        assert said.read() == ""
    assert os.waitpid(child, 0)[1] == 0
    cl_device.launch(kernel, (8,), None)  # the parent goes on
    assert (cl_device.to_host(buffer, dtypes.float32, (8,)) == 1).all()


def test_a_spawned_child_computes(one_cl_device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker of its own driver; tensors travel by value."""
    x = Tensor([[1.0, -2.0], [3.0, 4.0]])
    assert sg.relu(x).sum().item() == 8
    monkeypatch.setenv("SIMPLEGRAD_DEVICE", one_cl_device.name)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        got = pool.submit(sg.relu, x).result(timeout=60)
        assert pool.submit(os.getpid).result() != os.getpid()
    np.testing.assert_array_equal(got.numpy(), [[1, 0], [3, 4]])
    np.testing.assert_array_equal((x + x).numpy(), [[2, -4], [6, 8]])  # the parent goes on


def test_without_doubles_float64_is_an_error(
    cl_device: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    monkeypatch.setattr(cl_device, "limits", replace(cl_device.limits, fp64=False))
    with pytest.raises(DTypeNotSupported, match="no float64; use float32"):
        cl_device.from_host(np.zeros(3), dtypes.float64)


class Counting:
    """PyOpenCL with its builds counted, and some sources refused."""

    def __init__(self, cl: Any, refused: str = "\0") -> None:
        self._cl, self.refused, self.builds = cl, refused, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cl, name)

    def Program(self, context: Any, source: str) -> Any:
        self.builds += 1
        return self._cl.Program(context, "refused" if self.refused in source else source)


def probed(device: Any, cl: Any, raw: Any = None) -> probe.Capabilities:
    return probe.capabilities(cl, raw or device.raw, device.context, device.queue, device.identity)


def _known(limits: Limits) -> probe.Capabilities:
    return probe.Capabilities(
        limits.fp64, limits.fp16, limits.subgroups, limits.prefetch, limits.host_memory,
        limits.differences,
    )  # fmt: skip


def test_a_cpu_shares_its_memory(cl_device: Any) -> None:
    assert cl_device.limits.host_memory == (cl_device.kind == "cpu")


def test_probes_run_once_and_are_remembered(cl_device: Any, tmp_path: Any) -> None:
    limits = cl_device.limits
    known = _known(limits)
    builds = 2 if cl_device.kind == "cpu" else 1  # addresses are asked for on CPUs
    with settings.override(cache_dir=str(tmp_path)):
        counting = Counting(cl_device._cl)
        assert probed(cl_device, counting) == known
        assert counting.builds == builds
        assert probed(cl_device, counting) == known
        assert counting.builds == builds
        for path in (tmp_path / "probes").iterdir():  # a good checksum over nonsense
            program_cache.put("probes", path.name, b'{"fp64": true}')
        assert probed(cl_device, counting) == known
        assert counting.builds == 2 * builds


def test_what_is_refused_alone_leaves_the_others(cl_device: Any, tmp_path: Any) -> None:
    if not cl_device.limits.fp64:
        pytest.skip("no doubles to be refused")
    limits = cl_device.limits
    with settings.override(cache_dir=str(tmp_path)):
        found = probed(cl_device, Counting(cl_device._cl, refused="double"))
    assert found == _known(replace(limits, fp64=False))


def test_listed_is_not_enough(
    cl_device: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Doubles that are floats in disguise compile, run, and are found out."""
    single = probe._PROBES["fp64"].source("fp64").replace("double", "float")
    monkeypatch.setattr(
        probe._Probe, "source", lambda self, name, old=probe._Probe.source:
        single if name == "fp64" else old(self, name),
    )  # fmt: skip
    with settings.override(cache_dir=str(tmp_path)):
        assert not probed(cl_device, cl_device._cl).fp64


def test_a_driver_that_cannot_compute_is_an_error(cl_device: Any, tmp_path: Any) -> None:
    with (
        settings.override(cache_dir=str(tmp_path)),
        pytest.raises(DeviceError, match=r"wrong results.*SIMPLEGRAD_DEVICE"),
    ):
        probed(cl_device, Counting(cl_device._cl, refused="probe_"))
    assert not list(tmp_path.rglob("probes/*"))


class NVIDIA:
    """A device record as NVIDIA's driver gives it."""

    extensions = "cl_khr_fp64 cl_khr_int64_base_atomics"
    type = 4

    class platform:
        name = "NVIDIA CUDA"


def test_which_probes_are_worth_running() -> None:
    assert probe._worth_running(NVIDIA) == ["basic", "fp64", "fp16", "mma"]
    intel = type(
        "Intel", (), {"extensions": "cl_khr_subgroup_shuffle", "platform": NVIDIA, "type": 2}
    )
    intel.platform = type("P", (), {"name": "Intel(R) OpenCL"})  # type: ignore[attr-defined]
    assert probe._worth_running(intel) == ["basic", "subgroups", "prefetch", "differences"]


def test_a_device_that_nobody_refers_to_goes(one_cl_device: Any) -> None:
    """The watch for forks keeps no device alive."""
    import weakref

    device = OpenCLDevice(one_cl_device._cl, one_cl_device.raw, "opencl:test")
    gone = weakref.ref(device)
    del device
    gc.collect()
    assert gone() is None


def test_threads_make_and_drop_arrays_over_one_buffer(cl_device: Any) -> None:
    """PoCL crashes where two threads map and unmap a buffer at the same time."""
    x = Tensor(np.arange(3000, dtype=np.float32), requires_grad=False)
    wrong: list[Any] = []

    def read() -> None:
        with sg.device(cl_device):
            for _ in range(150):
                a = np.asarray(x.data)
                if not np.array_equal((x * 1).numpy(), a) or not np.array_equal(a.copy(), a):
                    wrong.append(a.copy())

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert not wrong
    first, second = np.asarray(x.data), np.asarray(x.data)
    assert first.ctypes.data == second.ctypes.data
    del first
    np.testing.assert_array_equal(second, np.arange(3000))


def test_the_host_is_at_most_some_launches_ahead(
    cl_device: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Drivers keep memory for every launch that waits."""
    cl, markers = cl_device._cl, list[Any]()
    real = cl.enqueue_marker

    def recorded(queue: Any) -> Any:
        markers.append(real(queue))
        return markers[-1]

    monkeypatch.setattr(cl, "enqueue_marker", recorded)
    buffer = cl_device.allocate(256)
    kernel = cl_device.compile(ADD).kernel("k_slow")
    kernel.set_arg(0, buffer.raw)
    kernel.set_arg(1, np.int32(20_000))
    for _ in range(500):
        cl_device.launch_all([kernel] * 4, [(64,)] * 4, [None] * 4)
    assert len(markers) >= 3
    done = cl.command_execution_status.COMPLETE
    assert [m.command_execution_status for m in markers[:-1]] == [done] * (len(markers) - 1)
    cl_device.synchronize()
