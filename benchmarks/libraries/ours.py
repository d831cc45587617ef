"""simplegrad itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import simplegrad as sg
from benchmarks.libraries.library import maker
from benchmarks.libraries.ours_models import OursModels
from benchmarks.workload import Workload, turns
from simplegrad import Adam, Tensor
from simplegrad.runtime import tuned
from simplegrad.runtime.ceilings import Meter, Variant, measured


class Ours(OursModels):
    """The device is that of ``SIMPLEGRAD_DEVICE``, and so are the other settings."""

    def __init__(self) -> None:
        self._meters: dict[str, tuple[Meter, Variant]] = {}

    def versions(self) -> dict[str, str]:
        device: Any = Tensor.device
        return {
            "simplegrad": sg.__version__, "device": device.name, "kind": device.kind,
            "driver": device.identity or f"NumPy {np.__version__}",
            "tuned classes": str(len(tuned.load(device.identity))),
        }  # fmt: skip

    def profile(self, run: Callable[[], Any], workload: Workload) -> dict[str, Any]:
        """Return counts, bytes and device time of one run, and its share of the ceiling.

        The large copy goes first: what a run before it left in the caches is gone.
        """
        meter = self._meter(workload.ceiling)
        whole = _rate(*meter, meter[0].size) if meter else 0.0
        with sg.Profile() as p:
            self.wait(run())
        seconds = sum(k.seconds for k in p.kernels.values())
        told: dict[str, Any] = {
            "device_ms": seconds * 1e3, "launches": p.launches, "compiles": p.compiles,
            "bytes_read": p.bytes_read, "bytes_written": p.bytes_written,
            "operations": p.operations, "peak_bytes": p.peak_bytes,
        }  # fmt: skip
        if meter and seconds:
            rate = workload.traffic / seconds
            told["of_ceiling"] = rate / whole
            told["of_same_size"] = rate / _rate(*meter, meter[0].elements(workload.traffic))
        return told

    def _meter(self, what: str) -> tuple[Meter, Variant] | None:
        """Return the device's best kernel of a kind, found on first use; None where it has none."""
        device: Any = Tensor.device
        if not what or not hasattr(device, "compile"):
            return None
        if what not in self._meters:
            self._meters[what] = (Meter(device, what), measured(device)[what].variant)
        return self._meters[what]

    def place(self, array: Any) -> Any:
        return Tensor(array, requires_grad=False)

    def wait(self, result: Any) -> None:
        sg.realize(*(result if isinstance(result, tuple) else (result,)))
        sg.synchronize()

    def to_numpy(self, array: Any) -> Any:
        return np.asarray(array)

    def chain(self, x: Any) -> Any:
        return (-(x * x + 1).relu()).exp() * 0.5 - x

    def tanh_outer(self, a: Any, b: Any) -> Any:
        return a.einsum("i,j->ij", b).tanh()

    def sum(self, x: Any) -> Any:
        return x.sum()

    def sum_axis0(self, x: Any) -> Any:
        return x.sum(axis=0)

    def sum_axis1(self, x: Any) -> Any:
        return x.sum(axis=1)

    def square_sum_axis1(self, x: Any) -> Any:
        return (x * x).sum(axis=1)

    def softmax(self, x: Any) -> Any:
        return x.softmax()

    def logsoftmax(self, x: Any) -> Any:
        return x.logsoftmax()

    def layer_norm(self, x: Any, w: Any, b: Any) -> Any:
        return x.layer_norm((-1,), w, b)

    def einsum(self, spec: str, *operands: Any) -> Any:
        return sg.einsum(spec, *operands)

    def bias_gelu(self, a: Any, b: Any, bias: Any) -> Any:
        return a.einsum("ij,jk->ik", b).add(bias).gelu()

    def scores(self, q: Any, k: Any) -> Any:
        return q.einsum("ijkl,ijml->ijkm", k)

    def attention(self, q: Any, k: Any, v: Any) -> Any:
        scores = q.einsum("ijkl,ijml->ijkm", k) * (q.shape[-1] ** -0.5)
        return scores.softmax().einsum("ijkm,ijml->ijkl", v)

    def conv2d(self, x: Any, w: Any) -> Any:
        return x.conv2d(w, padding=1)

    @maker
    def conv2d_gradients(self, x: Any, w: Any, dy: Any) -> Callable[[], Any]:
        image, filters, upstream = Tensor(x), Tensor(w), Tensor(dy, requires_grad=False)

        def run() -> Any:
            image.grad = filters.grad = None
            image.conv2d(filters, padding=1).backward(upstream)
            return image.grad, filters.grad

        return run

    @maker
    def spiral(self, points: Any, y: Any, *params: Any) -> Callable[[], Any]:
        w0, b0, w1, b1 = tensors = [Tensor(p) for p in params]
        optimizer = Adam(tensors)

        def epoch() -> Any:
            out = Tensor(points).einsum("ij,jk->ik", w0).add(b0).relu()
            out = out.einsum("ij,jk->ik", w1).add(b1)
            return _stepped(out, Tensor(y), optimizer)

        return epoch

    @maker
    def classifier(self, images: Any, y: Any, *params: Any) -> Callable[[], Any]:
        w0, b0, w1, b1 = tensors = [Tensor(p) for p in params]
        optimizer = Adam(tensors, learning_rate=0.001)
        batches = turns(len(images))

        def step() -> Any:
            i = batches()
            hidden = Tensor(images[i]).matmul(w0).add(b0).relu()
            return _stepped(hidden.matmul(w1).add(b1), Tensor(y[i]), optimizer)

        return step

    @maker
    def encoder_layer(self, x: Any, dy: Any, *params: Any) -> Callable[[], Any]:
        source, upstream = Tensor(x), Tensor(dy, requires_grad=False)
        tensors = [Tensor(p) for p in params]

        def run() -> Any:
            wanted = [source, *tensors]
            for t in wanted:
                t.grad = None
            out = _encoder_layer(source, *tensors)
            out.backward(upstream)
            return out, *[t.grad for t in wanted]

        return run


def _rate(meter: Meter, variant: Variant, elements: int) -> float:
    """Return the bytes per second of one run of a ceiling's kernel."""
    return meter.work(variant, elements) / meter.runner(variant, elements)()


def _stepped(out: Any, y: Any, optimizer: Adam) -> Any:
    loss = y.mul(out.logsoftmax()).mul(-1.0).sum(axis=1).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss


def _encoder_layer(
    x: Any, wq: Any, wk: Any, wv: Any, wo: Any, w1: Any, b1: Any, w2: Any, b2: Any,
    g1: Any, h1: Any, g2: Any, h2: Any,
) -> Any:  # fmt: skip
    """Return x plus attention, plus a network of two layers, each after a layer_norm."""
    batch, tokens, width = x.shape
    heads = 8
    each = width // heads
    n = x.layer_norm((-1,), g1, h1)
    q, k, v = (n.matmul(w).reshape(batch, tokens, heads, each) for w in (wq, wk, wv))
    scores = q.einsum("bihd,bjhd->bhij", k).mul(each**-0.5).softmax()
    mixed = scores.einsum("bhij,bjhd->bihd", v).reshape(batch, tokens, width)
    x = x + mixed.matmul(wo)
    n = x.layer_norm((-1,), g2, h2)
    return x + n.matmul(w1).add(b1).relu().matmul(w2).add(b2)
